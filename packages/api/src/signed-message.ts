/**
 * A message that a device has signed by itself, and what anyone needs to check it without a network: signature, time
 * permit, and the pinned group document.
 *
 *   device                                                          verifier, offline
 *   U, V over {groupId, idCore, slot, context, message, epoch}
 *   -- message; {groupId, idCore, slot, context, signature, permit} -->
 *                                     the slot is the current one, or the former one within `grace`
 *                                     e(permit, Q) = e(HT, sQ_permit), for this slot, and it covers idCore's leaf
 *                                     e(V, Q) = e(U + cA, sQ_sign)
 *
 * It says: an identity of this group has signed this for this context, and it wasn't banned when permits of the slot were
 * issued. Which device that is, the RA's register knows. Who was banned since is told by the newest banned leaves alone.
 */
import { equalBytes, fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { Signature, type SignatureTerms, signatureVerify } from '@milagro-ts/crypto/ibs'
import { IdCore } from '@milagro-ts/crypto/identity'
import type { G2 } from '@milagro-ts/crypto/points'
import { SUITE } from '@milagro-ts/crypto/suite'
import { Permit, slotAt, slotStart, VerifiedPermit } from '@milagro-ts/crypto/time-permit'
import Type, { type Static } from 'typebox'
import { Compile } from 'typebox/compile'
import type { Group } from './group.js'
import { Refused } from './problem.js'
import { Bytes, GroupIdField, IdCoreField, PermitField, Strict, Text, Uint32 } from './schemas.js'

/** What goes with the message. */
export const SignedFields = Strict({
  suite: Type.Literal(SUITE),
  v: Type.Literal(1),
  groupId: GroupIdField,
  idCore: IdCoreField,
  slot: Uint32,
  /** What the message is for; a signature for one context is none for another. */
  context: Text(256),
  /** U ‖ V */
  signature: Bytes(96, 'bytes'),
  permit: PermitField,
})
export type SignedFields = Static<typeof SignedFields>
const fields = Compile(SignedFields)

export function signedFields(
  { groupId, idCore, slot, context }: SignatureTerms,
  signature: Signature,
  permit: Permit,
): SignedFields {
  return {
    suite: SUITE,
    v: 1,
    groupId: toBase64Url(groupId),
    idCore: idCore.mpinId,
    slot,
    context,
    signature: toBase64Url(signature.encode()),
    permit: toBase64Url(permit.encode()),
  }
}

/** Who has signed what for what; only `verify` makes one. */
export class VerifiedMessage {
  readonly idCore: IdCore
  readonly slot: number
  readonly context: string

  private constructor(idCore: IdCore, slot: number, context: string) {
    this.idCore = idCore
    this.slot = slot
    this.context = context
  }

  /**
   * DecodeError for a wrong shape. Refused NOT_APPROVED (another group), EXPIRED (signed for a slot that is over or hasn't
   * begun by this clock, or before the group), WRONG_PERMIT (it doesn't verify, or is for another leaf or slot), WRONG_PROOF
   * (the signature doesn't hold: another message, identity or context).
   * @param now Unix milliseconds.
   */
  static verify({
    message,
    signed,
    group,
    context,
    now,
  }: {
    message: Uint8Array
    signed: unknown
    group: Group
    context: string
    now: number
  }): VerifiedMessage {
    if (!fields.Check(signed)) {
      const [first] = fields.Errors(signed)
      throw new DecodeError(
        `signed${(first?.instancePath ?? '').replaceAll('/', '.')}`,
        first?.message ?? 'wrong shape',
      )
    }
    if (!equalBytes(fromBase64Url(signed.groupId, 'groupId', 32), group.groupId))
      throw new Refused('NOT_APPROVED', { detail: 'signed in another group' })
    if (signed.context !== context) throw new Refused('WRONG_PROOF', { detail: 'signed for another context' })
    const { slot } = signed
    checkSlot(group, slot, now)
    const idCore = IdCore.fromBase64Url(signed.idCore)
    const [permitKeys, signKeys] = [group.keysAt('permit', slot), group.keysAt('sign', slot)]
    if (permitKeys === null || signKeys === null)
      throw new Refused('EXPIRED', { detail: 'the group begins later' })

    const permit = Permit.decode(fromBase64Url(signed.permit, 'permit'))
    const terms = { groupId: group.groupId, permitEpoch: permitKeys.epoch, rule: group.slotRule }
    const verified = permit.slot === slot ? VerifiedPermit.verify(terms, permitKeys.pub as G2, permit) : null
    if (verified?.covers(idCore) !== true)
      throw new Refused('WRONG_PERMIT', { detail: 'no permit of this identity for this slot' })

    const signature = Signature.decode(fromBase64Url(signed.signature, 'signature', 96))
    const signedTerms = { groupId: group.groupId, idCore, slot, context, signEpoch: signKeys.epoch }
    if (!signatureVerify(signedTerms, signKeys.pub as G2, message, signature))
      throw new Refused('WRONG_PROOF', { detail: 'the signature does not hold for this message' })
    return new VerifiedMessage(idCore, slot, context)
  }
}

function checkSlot({ slotRule, policy }: Group, slot: number, now: number): void {
  const seconds = Math.floor(now / 1000)
  const current = seconds < slotRule.origin ? -1 : slotAt(slotRule, seconds)
  if (slot > current) throw new Refused('EXPIRED', { detail: 'its slot has not begun by this clock' })
  const isFormer = slot === current - 1 && seconds - slotStart(slotRule, current) < policy.grace
  if (slot < current && !isFormer)
    throw new Refused('EXPIRED', { detail: `its slot ended ${current - slot} slots ago` })
}
