/**
 * Where permits come from: one for each identity (identity-permits.ts) or one for each node of the cover
 * (tree-permits.ts), as the group's policy says. Which of the two it is, nobody else has to know.
 */
import type { Group } from '@milagro-ts/api/group'
import { Refused } from '@milagro-ts/api/problem'
import type { IdCore } from '@milagro-ts/crypto/identity'
import type { G2 } from '@milagro-ts/crypto/points'
import type { CheckedPermit } from '@milagro-ts/crypto/pooled-login'
import type { PermitTarget, PermitTerms } from '@milagro-ts/crypto/time-permit'

/** Milliseconds for all authorities together. */
export const DEADLINE = 5_000

/** Whose permit, and for which slot. */
export interface Wanted {
  readonly idCore: IdCore
  /** Of the user who logs in, so that one question to the RPA does for both. */
  readonly userCore: Uint8Array
  readonly slot: number
}

export interface PermitSource {
  /** What a permit must be for to speak for this identity. Refused BANNED, RETRY_LATER. */
  target(group: Group, wanted: Wanted): Promise<PermitTarget>
  /** The same by what is known here, asking nobody; null where that says no, or nothing. */
  heldTarget(group: Group, idCore: IdCore): PermitTarget | null
  /**
   * A new permit for the target and the slot. Refused BANNED, REVOKED, WRONG_PROOF (the RPA doesn't know the identity),
   * WRONG_SHARE naming the liar, FROZEN, RETRY_LATER.
   */
  permit(group: Group, target: PermitTarget, wanted: Wanted): Promise<CheckedPermit>
}

export function termsAt(group: Group, slot: number): PermitTerms {
  const permitEpoch = group.epochAt('permit', slot)
  if (permitEpoch === null) throw new Refused('EXPIRED', { detail: 'the group begins later' })
  return { groupId: group.groupId, permitEpoch, rule: group.slotRule }
}

/** Terms and public key that a permit of this slot is checked by. */
export function keyAt(group: Group, slot: number) {
  const terms = termsAt(group, slot)
  // A group that has begun has keys, and `permit` a public one.
  const { pub } = group.keysAt('permit', slot) as { pub: G2 }
  return { terms, publicKey: pub.encode() }
}

/** What an authority refuses the RPS for (its key, its clock, its statement) is not the device's doing. */
export function refuseForAuthorities(error: unknown): never {
  if (error instanceof Refused && !['WRONG_SHARE', 'FROZEN', 'RETRY_LATER'].includes(error.code))
    throw new Refused('RETRY_LATER', { log: `the authorities refuse a permit share: ${error.message}` })
  throw error
}
