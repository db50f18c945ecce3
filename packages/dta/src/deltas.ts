/**
 * Delta shares for a device that goes over to another key epoch (api/key-rotation.ts has the whole exchange).
 *
 *   RPS                                               authority j
 *   -- rotation, account, RA's statement; signed -->  recipient of the purpose? not banned? both epochs kept? frozen?
 *                                                     A from the identity in the statement; δ_j = s'_j − s_j
 *                                                     δ_jA, (κ, z) over ctx and C'_j − C_j
 *                                                     sealed = HPKE(rotation's key; ctx; …); a line in the log
 *   <-- index, shareEpoch, sealed, for each step --
 *
 * That the device (and for `pin` its user) has proven the former key is the RPS' word: without S an authority can't see
 * it. A false word gives away Δ·A, which is no key without the former one, and the log has a line of it. So the ledger
 * of keys isn't asked here, and stays as it is: an identity has one enrolment key, ever.
 */
import {
  deltaTerms,
  type KeyRotation,
  keyRotationPayload,
  ROTATED_PURPOSES,
} from '@milagro-ts/api/key-rotation'
import { decodeHpkeKey } from '@milagro-ts/api/keys'
import { Refused } from '@milagro-ts/api/problem'
import { seal } from '@milagro-ts/api/seal'
import type { ServerCaller } from '@milagro-ts/api/serve'
import { verifyPermitStatement } from '@milagro-ts/api/statements'
import { be32, fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import { NO_USER } from '@milagro-ts/crypto/identity'
import { sha256 } from '@milagro-ts/crypto/sha256'
import { slotAt } from '@milagro-ts/crypto/time-permit'
import { encodeTlv } from '@milagro-ts/crypto/tlv'
import type { Authority } from './authority.js'
import { refuseFrozen } from './freeze.js'
import type { ServedGroup } from './groups.js'
import { appendIssuance } from './issuance-log.js'
import type { SealedAnswer } from './shares.js'

export interface DeltaRequest {
  readonly statement: string
  readonly hpkeKey: string
  readonly device?: { readonly from: number; readonly to: number }
  readonly pin?: { readonly from: number; readonly to: number }
  readonly userCore?: string
  readonly pinGen?: number
}

/** Refused FORBIDDEN, NOT_APPROVED, EXPIRED, FROZEN; MALFORMED or DecodeError for a wrong shape. */
export async function issueDeltas(
  authority: Authority,
  served: ServedGroup,
  caller: ServerCaller,
  request: DeltaRequest,
): Promise<{ device?: SealedAnswer; pin?: SealedAnswer }> {
  const { store, random, pool } = authority
  const { group, index, shares } = served
  const { groupId } = group
  const rotation: KeyRotation = {
    hpkeKey: decodeHpkeKey(request.hpkeKey),
    device: request.device,
    pin: request.pin,
  }
  const purposes = ROTATED_PURPOSES.filter(purpose => rotation[purpose] !== undefined)
  if (purposes.length === 0) throw new Refused('MALFORMED', { field: 'device', detail: 'a step is wanted' })
  if ((rotation.pin === undefined) !== (request.pinGen === undefined))
    throw new Refused('MALFORMED', { field: 'pinGen', detail: 'stands exactly with a step of pin' })
  if (request.userCore !== undefined && rotation.pin === undefined)
    throw new Refused('MALFORMED', { field: 'userCore', detail: 'a user has a key for pin only' })
  const recipient = group.recipient(caller.name)
  for (const purpose of purposes)
    if (!recipient?.purposes.includes(purpose))
      throw new Refused('FORBIDDEN', { detail: `${caller.name} is no recipient of ${purpose} keys` })
  const now = authority.clock()
  const { idCore, slot } = await verifyPermitStatement({ statement: request.statement, group, now })
  if (slot < slotAt(group.slotRule, Math.floor(now / 1000)))
    throw new Refused('EXPIRED', { detail: 'the slot of the statement has ended' })
  await store.atomic(connection => refuseFrozen(connection, groupId, caller.name))
  authority.issueLimit.take(`${toBase64Url(groupId)} deltas`)

  const userCore = request.userCore === undefined ? NO_USER : fromBase64Url(request.userCore, 'userCore', 32)
  const account = request.pinGen === undefined ? undefined : { userCore, pinGen: request.pinGen }
  const answers = new Map<string, SealedAnswer>()
  for (const purpose of purposes) {
    const step = rotation[purpose] as NonNullable<KeyRotation['device']>
    const terms = deltaTerms(group, rotation, { idCore, account }, purpose, index)
    if (terms === null)
      throw new Refused('EXPIRED', { field: purpose, detail: 'not two key epochs that are kept, in order' })
    const share = await shares.issueDelta(pool, purpose, step, terms)
    const sealed = await seal(rotation.hpkeKey, terms.ctx, share, random)
    answers.set(purpose, { index, shareEpoch: shares.shareEpoch, sealed: toBase64Url(sealed) })
  }
  // With the identity in it: the same rotation for somebody else is another line.
  const requestHash = sha256(
    encodeTlv([
      keyRotationPayload(rotation),
      idCore.bytes,
      userCore,
      account === undefined ? undefined : be32(account.pinGen),
    ]),
  )
  const entry = await store.atomic(connection => {
    refuseFrozen(connection, groupId, caller.name)
    return purposes
      .map(
        purpose =>
          appendIssuance(connection, {
            groupId,
            at: Math.floor(now / 1000),
            purpose,
            ticketHash: requestHash,
            idCoreHash: sha256(idCore.bytes),
            kind: 'delta',
          }).number,
      )
      .reduce((one, other) => Math.max(one, other))
  })
  await authority.ledgerMark.reach(toBase64Url(groupId), entry)
  for (const purpose of purposes) authority.metrics.count('deltas_issued', { purpose })
  const [device, pin] = [answers.get('device'), answers.get('pin')]
  return { ...(device && { device }), ...(pin && { pin }) }
}
