/**
 * Permit shares (protocols.md §5). An authority issues none on the RPS' word alone: it wants the RA's signed statement,
 * at most 60 seconds old, for one slot: that the identity isn't banned, or which leaves are banned by now.
 *
 *   RPS                                              authority j
 *   -- statement; signed by its requestKey -->       RA signature, group, permit epoch, iat…exp
 *                                                    current ≤ slot ≤ current + lead
 *                                                    jti new, or the very same statement again
 *                                                    HT over what it computed itself; d_j = s_jHT, (κ, z)
 *   <-- index, shareEpoch, share --                  in clear: a permit is for all to see
 *
 *   -- statement, nodes -->                          the same checks; number and hash are of the leaves that it has itself
 *                                                    each node is in the cover that it works out of them
 *   <-- index, shareEpoch, shares --                 many nodes, one proof (crypto/node-shares.ts)
 *
 * It goes by the newest leaves that it was ever shown: a statement about older ones gets nothing, however fresh it is.
 */
import type { Group } from '@milagro-ts/api/group'
import { Refused } from '@milagro-ts/api/problem'
import type { ServerCaller } from '@milagro-ts/api/serve'
import { verifyPermitStatement, verifyTree } from '@milagro-ts/api/statements'
import { equalBytes, fromBase64Url, toBase64Url, utf8 } from '@milagro-ts/crypto/bytes'
import { decodeNodes } from '@milagro-ts/crypto/node-shares'
import type { G1 } from '@milagro-ts/crypto/points'
import { sha256 } from '@milagro-ts/crypto/sha256'
import { shareContext } from '@milagro-ts/crypto/share-proof'
import { type PermitTerms, permitInput, slotAt } from '@milagro-ts/crypto/time-permit'
import type { Authority } from './authority.js'
import { refuseFrozen } from './freeze.js'
import type { ServedGroup } from './groups.js'
import { olderState } from './leaves.js'
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
  refuseStranger(group, caller)
  const statement = await verifyPermitStatement({ statement: request.statement, group, now })
  const { slot, idCore, jti } = statement
  const { terms, commitments } = issuable(authority, group, slot, now)
  const input = permitInput(terms, slot, { type: 'id', idCore })
  const ctx = shareContext({
    groupId,
    purpose: 'permit',
    index,
    shareEpoch: shares.shareEpoch,
    identity: input,
    jti,
  })
  const commitment = commitments[index - 1] as G1
  await recordStatement(authority, group, caller, { ...statement, text: request.statement })
  const share = await shares.issue(authority.pool, 'permit', terms.permitEpoch, { input, ctx, commitment })
  authority.metrics.count('permit_shares_issued')
  return { index, shareEpoch: shares.shareEpoch, share: toBase64Url(share) }
}

/**
 * Shares for nodes of the cover. Refused CONFLICT while the leaves that the statement speaks of are not here (post them
 * first), EXPIRED for leaves older than those here, NOT_APPROVED for a node that the leaves don't cover; else as above.
 */
export async function issueNodeShares(
  authority: Authority,
  { group, index, shares }: ServedGroup,
  caller: ServerCaller,
  request: { statement: string; nodes: string },
): Promise<{ index: number; shareEpoch: number; shares: string }> {
  const now = authority.clock()
  refuseStranger(group, caller)
  const nodes = decodeNodes(fromBase64Url(request.nodes, 'nodes'))
  const statement = await verifyTree({ statement: request.statement, group, now })
  const { slot, jti } = statement
  const { terms, commitments } = issuable(authority, group, slot, now)
  const held = await authority.leaves.held(group)
  if (held !== undefined && statement.number < held.number) throw olderState()
  if (held === undefined || !statement.isAbout(held))
    throw new Refused('CONFLICT', { detail: 'the leaves that the statement speaks of are not here' })
  if (!nodes.every(node => held.leaves.covers(node)))
    throw new Refused('NOT_APPROVED', { detail: 'a node is not in the cover of these leaves' })
  await recordStatement(authority, group, caller, { ...statement, text: request.statement })
  const { shareEpoch } = shares
  const commitment = (commitments[index - 1] as G1).encode()
  const batch = { terms, slot, nodes }
  const made = await shares.issueNodes(authority.pool, batch, { index, shareEpoch, commitment, jti })
  authority.metrics.count('node_batches_issued')
  return { index, shareEpoch, shares: toBase64Url(made) }
}

/** Permits go with device logins: whoever verifies those composes them. */
function refuseStranger(group: Group, { name }: ServerCaller): void {
  if (!group.recipient(name)?.purposes.includes('device'))
    throw new Refused('FORBIDDEN', { detail: `${name} composes no permits` })
}

/** What HT's input starts with in this slot, and C_j of its key epoch. The statement's own check has seen that it isn't too far ahead. */
function issuable({ issueLimit }: Authority, group: Group, slot: number, now: number) {
  const { groupId, slotRule } = group
  // The API takes the former slot within `grace`, as verifiers must; new permits for it are of no use to anybody.
  if (slot < slotAt(slotRule, Math.floor(now / 1000)))
    throw new Refused('EXPIRED', { detail: 'the slot has ended' })
  issueLimit.take(`${toBase64Url(groupId)} permits`)
  const keys = group.keysAt('permit', slot)
  if (keys === null) throw new Refused('EXPIRED', { detail: 'the group begins later' })
  const terms: PermitTerms = { groupId, permitEpoch: keys.epoch, rule: slotRule }
  return { terms, commitments: keys.commitments }
}

/** Keeps the statement's hash for as long as it holds. Refused FROZEN; REPLAYED for a jti of another statement. */
async function recordStatement(
  { store, clock, policy }: Authority,
  { groupId }: Group,
  caller: ServerCaller,
  { jti, expiresAt, text }: { jti: Uint8Array; expiresAt: number; text: string },
): Promise<void> {
  const statementHash = sha256(utf8(text))
  const now = clock()
  const isNew = await store.atomic(connection => {
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
      [...key, statementHash, expiresAt * 1000],
    )
    takeFromQuota(connection, 'permits', { groupId, policy: policy.of(groupId), now })
    return true
  })
  if (!isNew) throw new Refused('REPLAYED', { detail: 'the jti belongs to another statement' })
}
