/**
 * How a device asks the authorities for a key of its own name at one slot: of `agree` in G2, what it answers other devices by;
 * of `encrypt` in G1, what opens files for that slot.
 *
 *   device                                                    authority j
 *   hpkeKey: new, jti: random; the same for all authorities
 *   signature over {groupId, idCore, slot, CONTEXT, TLV{1 hpkeKey, 2 jti, 3 `encrypt`}}, by its key of `sign`; 3 absent for `agree`
 *   -- signed {idCore, slot, permit of that slot …}, hpkeKey, jti, purpose -->
 *                                                             current ≤ slot ≤ current + lead
 *                                                             the permit verifies, is of that slot, covers idCore's leaf
 *                                                             the signature holds
 *                                                             B = TLV{groupId, kind 1, idCore, generation, slot}
 *   <-- HPKE(hpkeKey; ctx; d_j, κ, z) --                      d_j = s_jHk2(B) or s_jHe(B), with its proof
 *
 * Two words make it: the device's own, so no relay, RPS or RA can have a device's slot key sealed to a key of theirs; and
 * the permit's, which t authorities issued on the RA's word, so a banned device gets none for a slot that it has no permit
 * for. Nobody else has to be online. Replayed, a request gets the same share, sealed to the same key.
 *
 * Divergence: protocols.md §7 has a ticket here. Tickets are for enrolment keys, which are destroyed, and what an RA or an
 * RPS says of a new HPKE key isn't the device's word.
 */
import { equalBytes, fromBase64Url, toBase64Url, utf8 } from '@milagro-ts/crypto/bytes'
import { type SignatureTerms, sign } from '@milagro-ts/crypto/ibs'
import { IdCore } from '@milagro-ts/crypto/identity'
import type { CryptoPool } from '@milagro-ts/crypto/node-pool'
import type { G1, G2 } from '@milagro-ts/crypto/points'
import type { Random } from '@milagro-ts/crypto/ports'
import { sha256 } from '@milagro-ts/crypto/sha256'
import { slotName } from '@milagro-ts/crypto/static-agreement'
import { type Permit, PermitClaim, permitCovers, slotAt } from '@milagro-ts/crypto/time-permit'
import { encodeTlv } from '@milagro-ts/crypto/tlv'
import type { Group } from './group.js'
import { decodeHpkeKey } from './keys.js'
import { Refused } from './problem.js'
import { Bytes, HpkeKeyField, Strict } from './schemas.js'
import { SignedFields, signedFields } from './signed-message.js'
import Type, { type Static } from './typebox.js'

/** What the signature is for; devices sign nothing else for it. */
export const SLOT_KEY_CONTEXT = 'milagro slot key'

/** What devices have keys of for one slot. */
export type SlotKeyPurpose = 'agree' | 'encrypt'

export const SlotKeyRequest = Strict({
  signed: SignedFields,
  hpkeKey: HpkeKeyField,
  jti: Bytes(16),
  /** Absent for `agree`. */
  purpose: Type.Optional(Type.Enum(['encrypt'])),
})
export type SlotKeyRequest = Static<typeof SlotKeyRequest>

/** What a device asks for beside its name and slot. */
export interface SlotKeyTerms {
  /** `agree` unless said. */
  readonly purpose?: SlotKeyPurpose
  /** Raw X25519, 32 bytes: what the answer is sealed to. */
  readonly hpkeKey: Uint8Array
  readonly jti: Uint8Array
}

/** TLV{1 hpkeKey, 2 jti, 3 purpose, absent for `agree`}: what the device signs. */
export function slotKeyMessage({ purpose, hpkeKey, jti }: SlotKeyTerms): Uint8Array {
  return encodeTlv([hpkeKey, jti, purposeEntry(purpose)])
}
const purposeEntry = (purpose: SlotKeyPurpose = 'agree') => (purpose === 'agree' ? undefined : utf8(purpose))

/**
 * The device's move.
 * @param signKey Of `sign`, of the key epoch in `terms`. Secret.
 * @param permit Its own, for the slot in `terms`.
 */
export function signSlotKeyRequest(
  terms: Omit<SignatureTerms, 'context'>,
  request: SlotKeyTerms,
  { signKey, permit, random }: { readonly signKey: G1; readonly permit: Permit; readonly random: Random },
): SlotKeyRequest {
  const signatureTerms = { ...terms, context: SLOT_KEY_CONTEXT }
  const signature = sign(signatureTerms, signKey, slotKeyMessage(request), random)
  return {
    signed: signedFields(signatureTerms, signature, permit),
    hpkeKey: toBase64Url(request.hpkeKey),
    jti: toBase64Url(request.jti),
    ...(request.purpose === 'encrypt' ? { purpose: request.purpose } : {}),
  }
}

/** A request that the device itself has made while it wasn't banned; only `verify` makes one. */
export class VerifiedSlotKeyRequest {
  readonly purpose: SlotKeyPurpose
  readonly idCore: IdCore
  readonly slot: number
  /** Raw X25519, 32 bytes: what the answer is sealed to. */
  readonly hpkeKey: Uint8Array
  readonly jti: Uint8Array
  /** B: kind 1, with the slot. */
  readonly name: Uint8Array
  /** SHA-256(TLV{1 B, 2 hpkeKey, 3 jti, 4 purpose, absent for `agree`}): the request's name in logs, whichever signature it carries. */
  readonly hash: Uint8Array

  private constructor(
    group: Group,
    { idCore, slot }: { readonly idCore: IdCore; readonly slot: number },
    { purpose, hpkeKey, jti }: Required<SlotKeyTerms>,
  ) {
    this.purpose = purpose
    this.idCore = idCore
    this.slot = slot
    this.hpkeKey = hpkeKey
    this.jti = jti
    this.name = slotName(group.groupId, { kind: 1, idCore }, slot)
    this.hash = sha256(encodeTlv([this.name, hpkeKey, jti, purposeEntry(purpose)]))
  }

  /**
   * Pairings are the pool's. Refused NOT_APPROVED (another group), EXPIRED (no slot from the current one to `lead` ahead),
   * WRONG_PERMIT (of another slot or leaf, or it doesn't verify), WRONG_PROOF (signed for something else, or by another
   * key); DecodeError for a wrong shape; PoolUnavailable.
   * @param now Unix milliseconds.
   * @param source Where it came from: whose turn it takes, and whose false permits and signatures are remembered. A relay is one source.
   */
  static async verify({
    request,
    group,
    pool,
    now,
    source,
  }: {
    request: SlotKeyRequest
    group: Group
    pool: CryptoPool
    now: number
    source: string
  }): Promise<VerifiedSlotKeyRequest> {
    const { signed, purpose = 'agree' } = request
    const { groupId, slotRule, policy } = group
    if (!equalBytes(fromBase64Url(signed.groupId, 'groupId', 32), groupId))
      throw new Refused('NOT_APPROVED', { detail: 'signed in another group' })
    if (signed.context !== SLOT_KEY_CONTEXT)
      throw new Refused('WRONG_PROOF', { detail: 'signed for another context' })
    const { slot, context } = signed
    const current = slotAt(slotRule, Math.floor(now / 1000))
    if (slot < current || slot > current + policy.lead)
      throw new Refused('EXPIRED', {
        field: 'slot',
        detail: 'keys are issued for the current slot and lead ahead',
      })
    const [permitKeys, signKeys] = [group.keysAt('permit', slot), group.keysAt('sign', slot)]
    if (permitKeys === null || signKeys === null)
      throw new Refused('EXPIRED', { detail: 'the group begins later' })
    const idCore = IdCore.fromBase64Url(signed.idCore)
    const hpkeKey = decodeHpkeKey(request.hpkeKey)
    const jti = fromBase64Url(request.jti, 'jti', 16)

    const from = { source, identity: idCore.mpinId }
    const permit = PermitClaim.decode(fromBase64Url(signed.permit, 'permit'))
    const isItsOwn = permit.slot === slot && permitCovers(permit.target, idCore)
    const permitItem = {
      terms: { groupId, permitEpoch: permitKeys.epoch, rule: slotRule },
      publicKey: (permitKeys.pub as G2).encode(),
      permit: permit.bytes,
    }
    if (!isItsOwn || !(await pool.permit(permitItem, from)))
      throw new Refused('WRONG_PERMIT', { detail: 'no permit of this identity for this slot' })
    const claim = {
      terms: { groupId, slot, context, signEpoch: signKeys.epoch },
      idCore: idCore.bytes,
      publicKey: (signKeys.pub as G2).encode(),
      message: slotKeyMessage({ purpose, hpkeKey, jti }),
      signature: fromBase64Url(signed.signature, 'signature', 96),
    }
    const holds = await pool.signature(claim, from)
    if (!holds) throw new Refused('WRONG_PROOF', { detail: 'the signature does not hold for this request' })
    return new VerifiedSlotKeyRequest(group, { idCore, slot }, { purpose, hpkeKey, jti })
  }
}
