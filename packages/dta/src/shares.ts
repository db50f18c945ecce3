/**
 * A key share against an RA ticket (protocols.md §3).
 *
 *   device (or a relay)                        authority j
 *   -- ticket, purpose -->                     m RA signatures, group, key epoch, time
 *                                              A = hash of the identity in the ticket, never a point it was handed
 *                                              d_j = s_jA, (κ, z) over ctx
 *                                              sealed = HPKE(enrolment key; ctx; d_j ‖ κ ‖ z)
 *                                              one transaction: frozen? ledger, log
 *   <-- index, shareEpoch, sealed --
 *
 * No silent clone: keys are functions of the identity, so whoever gets a second set of shares has a copy of the thing.
 * The ledger holds one enrolment key per identity and purpose, for ever and across all epochs. It is looked at and
 * written in the transaction that lets the share leave; a crash at any moment leaves either nothing, or a line that
 * the same enrolment key passes again. So the same ticket gets its share again until it expires, and so does a new
 * ticket for the same enrolment key; another key is refused, and counted as an alarm.
 */
import type { GroupPolicy } from '@milagro-ts/api/dta-routes'
import { Refused } from '@milagro-ts/api/problem'
import { seal } from '@milagro-ts/api/seal'
import { type VerifiedTicket, verifyTicket } from '@milagro-ts/api/statements'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { enrolmentKeyHash } from '@milagro-ts/crypto/enrolment'
import type { G1 } from '@milagro-ts/crypto/points'
import { sha256 } from '@milagro-ts/crypto/sha256'
import type { Purpose } from '@milagro-ts/crypto/suite'
import type { Connection } from '@milagro-ts/store/database'
import type { Authority } from './authority.js'
import { refuseFrozen } from './freeze.js'
import type { ServedGroup } from './groups.js'
import { appendIssuance } from './issuance-log.js'
import { addToLedger, identityHash, inLedger, refuseWhileHandedOver } from './ledger.js'
import { refuseHours, refuseSigners, takeFromQuota } from './policy.js'

/** `permit` is nobody's key. */
const BY_TICKET: readonly Purpose[] = ['device', 'pin', 'agree', 'sign', 'encrypt']

export interface SealedAnswer {
  readonly index: number
  readonly shareEpoch: number
  /** base64url of `enc ‖ ct` */
  readonly sealed: string
}

/** Refused NOT_APPROVED, EXPIRED, ALREADY_ISSUED, FROZEN, or RETRY_LATER by policy; DecodeError for a ticket of a wrong shape. */
export async function issueShare(
  authority: Authority,
  served: ServedGroup,
  request: { ticket: readonly string[]; purpose: Purpose },
): Promise<SealedAnswer> {
  const { store, random } = authority
  const { group, index, shares } = served
  const { purpose } = request
  await store.atomic(connection => refuseFrozen(connection, group.groupId))
  const ticket = await verifyTicket({ ticket: request.ticket, group, now: authority.clock() })
  if (!(ticket.purposes as readonly Purpose[]).includes(purpose))
    throw new Refused('NOT_APPROVED', { detail: `the ticket is not for ${purpose}` })
  if (!BY_TICKET.includes(purpose))
    throw new Refused('NOT_APPROVED', { detail: `this authority issues no ${purpose} keys` })
  const policy = authority.policy.of(group.groupId)
  refuseSigners(policy, ticket.signers)
  refuseHours(policy, authority.clock())
  // Counted once the RA's signature is seen: strangers can't use up a group's allowance.
  authority.issueLimit.take(`${toBase64Url(group.groupId)} shares`)

  const { input, ctx } = ticket.shareTerms(purpose, index, shares.shareEpoch)
  // A ticket is for the key epoch in force: the next one, though its shares are here, has not begun.
  const { epoch, commitments } = ticket.keysFor(purpose, group)
  const commitment = commitments[index - 1] as G1
  const share = await shares.issue(authority.pool, purpose, epoch, { input, ctx, commitment })
  const sealed = await seal(ticket.hpkeKey, ctx, share, random)
  // The clock is asked again: a ticket that ran out while the share was made doesn't reach the ledger.
  const now = authority.clock()
  if (now >= ticket.expiresAt * 1000) throw new Refused('EXPIRED', { detail: 'the ticket ran out' })

  const entry = await store.atomic(connection => {
    refuseFrozen(connection, group.groupId)
    return record(connection, ticket, { purpose, policy, now })
  })
  if (entry === null) {
    authority.metrics.count('issuance_alarms', { purpose })
    authority.log.warn(
      { groupId: toBase64Url(group.groupId), purpose, ticketHash: toBase64Url(ticket.hash) },
      'alarm: a ticket asks for the keys of an identity on behalf of another enrolment key',
    )
    throw new Refused('ALREADY_ISSUED')
  }
  await authority.ledgerMark.reach(toBase64Url(group.groupId), entry)
  authority.metrics.count('shares_issued', { purpose })
  return { index, shareEpoch: shares.shareEpoch, sealed: toBase64Url(sealed) }
}

/** The log entry's number; null, with an alarm on record, when the identity's key went to another enrolment key. */
function record(
  connection: Connection,
  ticket: VerifiedTicket,
  { purpose, policy, now }: { purpose: Purpose; policy: GroupPolicy; now: number },
): number | null {
  const { groupId } = ticket
  const line = {
    groupId,
    identity: identityHash(ticket.ledgerKey(purpose)),
    keyHash: enrolmentKeyHash(ticket.hpkeKey),
  }
  const idCoreHash = sha256(ticket.idCore.bytes)
  const at = Math.floor(now / 1000)
  const known = inLedger(connection, line)
  if (known === 'new') {
    refuseWhileHandedOver(connection, groupId, now)
    addToLedger(connection, line)
  } else if (known === 'other') {
    connection.run(
      'INSERT INTO alarm (group_id, ticket_hash, purpose, id_core_hash, at) VALUES (?, ?, ?, ?, ?) ' +
        'ON CONFLICT DO NOTHING',
      [groupId, ticket.hash, purpose, idCoreHash, at],
    )
    return null
  }
  const issued = { groupId, at, purpose, ticketHash: ticket.hash, idCoreHash }
  const { number, isNew } = appendIssuance(connection, issued)
  if (isNew) takeFromQuota(connection, 'keys', { groupId, policy, now })
  return number
}
