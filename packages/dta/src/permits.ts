/**
 * Permit shares (protocols.md §5). An authority issues none on the RPS' word alone: per identity it wants the RA's
 * signed statement that the identity isn't banned, at most 60 seconds old, for one slot.
 *
 *   RPS                                              authority j
 *   -- statement; signed by its requestKey -->       RA signature, group, permit epoch, iat…exp
 *                                                    current ≤ slot ≤ current + lead
 *                                                    jti new, or the very same statement again
 *                                                    HT over what it computed itself; d_j = s_jHT, (κ, z)
 *   <-- index, shareEpoch, share --                  in clear: a permit is for all to see
 */
import { Refused } from '@milagro-ts/api/problem'
import type { ServerCaller } from '@milagro-ts/api/serve'
import { verifyPermitStatement } from '@milagro-ts/api/statements'
import { equalBytes, toBase64Url, utf8 } from '@milagro-ts/crypto/bytes'
import type { G1 } from '@milagro-ts/crypto/points'
import { sha256 } from '@milagro-ts/crypto/sha256'
import { shareContext } from '@milagro-ts/crypto/share-proof'
import { permitInput, slotAt } from '@milagro-ts/crypto/time-permit'
import type { Authority } from './authority.js'
import { refuseFrozen } from './freeze.js'
import type { ServedGroup } from './groups.js'
import { takeFromQuota } from './policy.js'

export interface PermitShareAnswer {
  readonly index: number
  readonly shareEpoch: number
  /** base64url of the key share's TLV */
  readonly share: string
}

/** Refused FORBIDDEN, NOT_APPROVED, EXPIRED, REPLAYED or FROZEN; DecodeError for a wrong shape. */
export async function issuePermitShare(
  authority: Authority,
  served: ServedGroup,
  caller: ServerCaller,
  request: { statement: string },
): Promise<PermitShareAnswer> {
  const { group, index, shares } = served
  const { groupId } = group
  const now = authority.clock()
  // Permits go with device logins: whoever verifies those composes them.
  if (!group.recipient(caller.name)?.purposes.includes('device'))
    throw new Refused('FORBIDDEN', { detail: `${caller.name} composes no permits` })
  const statement = await verifyPermitStatement({ statement: request.statement, group, now })
  const { slot, idCore, jti } = statement
  // The API takes the former slot within `grace`, as verifiers must; new permits for it are of no use to anybody.
  if (slot < slotAt(group.slotRule, Math.floor(now / 1000)))
    throw new Refused('EXPIRED', { detail: 'the slot has ended' })
  authority.issueLimit.take(`${toBase64Url(groupId)} permits`)

  const keys = group.keysAt('permit', slot)
  if (keys === null) throw new Refused('EXPIRED', { detail: 'the group begins later' })
  const { epoch: permitEpoch, commitments } = keys
  const input = permitInput({ groupId, permitEpoch, rule: group.slotRule }, slot, { type: 'id', idCore })
  const ctx = shareContext({
    groupId,
    purpose: 'permit',
    index,
    shareEpoch: shares.shareEpoch,
    identity: input,
    jti,
  })
  const commitment = commitments[index - 1] as G1
  const statementHash = sha256(utf8(request.statement))
  const isNew = await authority.store.atomic(connection => {
    refuseFrozen(connection, groupId, caller.name)
    connection.run('DELETE FROM permit_statement WHERE expires_at < ?', [now])
    const key = [groupId, caller.name, jti]
    const [before] = connection.all(
      'SELECT statement_hash FROM permit_statement WHERE group_id = ? AND caller = ? AND jti = ?',
      key,
    )
    if (before !== undefined) return equalBytes(before.statement_hash as Uint8Array, statementHash)
    connection.run(
      'INSERT INTO permit_statement (group_id, caller, jti, statement_hash, expires_at) VALUES (?, ?, ?, ?, ?)',
      [...key, statementHash, statement.expiresAt * 1000],
    )
    takeFromQuota(connection, 'permits', { groupId, policy: authority.policy.of(groupId), now })
    return true
  })
  if (!isNew) throw new Refused('REPLAYED', { detail: 'the jti belongs to another statement' })
  const share = await shares.issue(authority.pool, 'permit', permitEpoch, { input, ctx, commitment })
  authority.metrics.count('permit_shares_issued')
  return { index, shareEpoch: shares.shareEpoch, share: toBase64Url(share) }
}
