/**
 * A device's own key for one slot, of `agree` in G2, by which it answers other devices (protocols.md §7), or of `encrypt`, by
 * which it opens files for that slot (§8): against its signature and its permit for that slot (api/slot-key-request.ts), so on
 * nobody's word but the device's, and for no slot in which it is banned.
 *
 *   device (or a relay)                        authority j
 *   -- signed, hpkeKey, jti, purpose -->       current ≤ slot ≤ current + lead, permit, signature; among the banned leaves?
 *                                              B = name TLV of kind 1 with the slot; d_j = s_jHk2(B) or
 *                                              s_jHe(B), (κ, z) over ctx
 *                                              sealed = HPKE(hpkeKey; ctx; d_j ‖ κ ‖ z)
 *                                              one transaction: frozen? log
 *   <-- index, shareEpoch, sealed --
 *
 * The ledger of enrolment keys isn't asked: a slot key ends with its slot, and a device that lost one may have it again. So
 * many times as SLOT_KEYS says, each a line in the log. The same request again makes no line and has an allowance of its own,
 * as large, so that whoever has seen one uses up nothing of its device's.
 */

import { Refused } from '@milagro-ts/api/problem'
import type { Rate } from '@milagro-ts/api/rate-limit'
import { seal } from '@milagro-ts/api/seal'
import { type SlotKeyRequest, VerifiedSlotKeyRequest } from '@milagro-ts/api/slot-key-request'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import type { G1 } from '@milagro-ts/crypto/points'
import { sha256 } from '@milagro-ts/crypto/sha256'
import { shareContext } from '@milagro-ts/crypto/share-proof'
import type { Authority } from './authority.js'
import { refuseFrozen } from './freeze.js'
import type { ServedGroup } from './groups.js'
import { appendIssuance, issuedBefore } from './issuance-log.js'
import { issueForName } from './master-shares.js'
import type { SealedAnswer } from './shares.js'

/** Of one device for one slot and purpose; of one request's repetitions. */
export const SLOT_KEYS: Rate = { perSecond: 1 / 600, burst: 8 }

/** Refused as VerifiedSlotKeyRequest.verify says, BANNED, FROZEN, RETRY_LATER; DecodeError. */
export async function issueSlotKey(
  authority: Authority,
  { group, index, shares }: ServedGroup,
  request: SlotKeyRequest,
  source: string,
): Promise<SealedAnswer> {
  const { store, pool, random, clock } = authority
  const { groupId } = group
  await store.atomic(connection => refuseFrozen(connection, groupId))
  const verified = await VerifiedSlotKeyRequest.verify({ request, group, pool, now: clock(), source })
  const { idCore, slot, purpose, name: identity, jti } = verified
  const held = await authority.leaves.held(group)
  if (held?.leaves.has(idCore.leaf) === true)
    throw new Refused('BANNED', { detail: 'the leaf is banned since the permit was issued' })
  const keys = group.keysAt(purpose, slot)
  if (keys === null) throw new Refused('EXPIRED', { detail: 'the group begins later' })
  const issued = { groupId, purpose, ticketHash: verified.hash }
  const isLogged = await store.read(reader => issuedBefore(reader, issued) !== undefined)
  const [inGroup, hash] = [toBase64Url(groupId), toBase64Url(verified.hash)]
  // A copy that comes before the line is there is a repetition as well.
  const isAgain = isLogged || authority.slotKeysUnderWay.has(hash)
  const allowance = `${inGroup} ${isAgain ? hash : `${purpose} ${idCore.mpinId} ${slot}`}`
  // Counted once the signature is seen: strangers use up nobody's allowance.
  authority.issueLimit.check(`${inGroup} slot keys`)
  authority.slotKeyLimit.take(allowance)
  authority.issueLimit.charge(`${inGroup} slot keys`)

  const { shareEpoch } = shares
  const ctx = shareContext({ groupId, purpose, index, shareEpoch, identity, jti })
  const commitment = keys.commitments[index - 1] as G1
  if (!isAgain) authority.slotKeysUnderWay.add(hash)
  try {
    const share = await issueForName(shares, pool, purpose, keys.epoch, { name: identity, ctx, commitment })
    const sealed = await seal(verified.hpkeKey, ctx, share, random)
    const entry = await store.atomic(connection => {
      refuseFrozen(connection, groupId)
      return appendIssuance(connection, {
        ...issued,
        at: Math.floor(clock() / 1000),
        idCoreHash: sha256(idCore.bytes),
        kind: 'slot',
      }).number
    })
    await authority.ledgerMark.reach(inGroup, entry)
    authority.metrics.count('slot_keys_issued')
    return { index, shareEpoch, sealed: toBase64Url(sealed) }
  } catch (error) {
    authority.slotKeyLimit.refund(allowance)
    throw error
  } finally {
    if (!isAgain) authority.slotKeysUnderWay.delete(hash)
  }
}
