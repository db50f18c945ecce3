/**
 * From one key epoch to another (protocols.md §3 "Rotate"): a device adds Δ·A to the key that it has, Δ = s' − s, and
 * keeps identity, PIN and PIN generation. docs/protocols/rotation.md.
 *
 *   device                            RPS                                    authority j
 *   rotation = fresh HPKE key, steps
 *   -- `sign` message over it, -->    proof under the *former* key epoch,
 *      with the former key(s)         `pin` only with the PIN's proof too
 *                                     -- rotation, RA's statement -->        δ_j = s'_j − s_j
 *      <-- sealed shares of all --    <-- HPKE(rotation's key; ctx; δ_jA, κ, z) --
 *   κ, z over C'_j − C_j;  Δ·A = Σ λ_j·δ_jA;  D' = D + Δ·A,  τ' = τ + Δ·A_pin
 *
 * The proofs' ctx has a jti out of the payload, and so out of the HPKE key. Whoever asks the authorities for the same
 * steps with another key gets shares whose proofs the device refuses. Δ·A alone is no key: it takes the former one.
 */
import { be32, utf8 } from '@milagro-ts/crypto/bytes'
import { type IdCore, keyIdentityInput, keyIdentityPoint } from '@milagro-ts/crypto/identity'
import type { G1 } from '@milagro-ts/crypto/points'
import { sha256 } from '@milagro-ts/crypto/sha256'
import { shareContext } from '@milagro-ts/crypto/share-proof'
import { encodeTlv } from '@milagro-ts/crypto/tlv'
import type { Group } from './group.js'
import { HpkeKeyField, Strict, Uint32 } from './schemas.js'
import Type, { type Static } from './typebox.js'

/** Key epochs of the key that is there, and of the one that is to be. */
export const EpochStepField = Strict({ from: Uint32, to: Uint32 })
export type EpochStep = Static<typeof EpochStepField>

/** What a device asks for; one of the two steps at least. */
export const KeyRotationFields = {
  /** Fresh for this request: shares are sealed to it. */
  hpkeKey: HpkeKeyField,
  device: Type.Optional(EpochStepField),
  pin: Type.Optional(EpochStepField),
}

/** Purposes whose keys devices hold and servers verify. */
export const ROTATED_PURPOSES = ['device', 'pin'] as const
export type RotatedPurpose = (typeof ROTATED_PURPOSES)[number]

export interface KeyRotation {
  /** Raw X25519, 32 bytes. */
  readonly hpkeKey: Uint8Array
  readonly device?: EpochStep | undefined
  readonly pin?: EpochStep | undefined
}

/** TLV{1 `key-rotation`, 2 hpkeKey, 3 be32 from, 4 be32 to (`device`), 5 be32 from, 6 be32 to (`pin`)}: what is signed. */
export function keyRotationPayload({ hpkeKey, device, pin }: KeyRotation): Uint8Array {
  return encodeTlv([
    utf8('key-rotation'),
    hpkeKey,
    device && be32(device.from),
    device && be32(device.to),
    pin && be32(pin.from),
    pin && be32(pin.to),
  ])
}

/** Whose key. */
export interface RotatingIdentity {
  readonly idCore: IdCore
  /** For `pin`; NO_USER on a personal device. */
  readonly account?: { readonly userCore: Uint8Array; readonly pinGen: number } | undefined
}

/** What δ_j·A is over and sealed with. */
export interface DeltaTerms {
  readonly input: Uint8Array
  /** Hashed when it is asked for. */
  readonly A: G1
  readonly ctx: Uint8Array
  /** C'_j − C_j. */
  readonly commitment: G1
}

/**
 * Of authority `index`, in the group's own share epoch. Null for a step that this rotation doesn't take, that goes back,
 * or whose epochs aren't both kept. RangeError: `pin` without an account, or an index that the group hasn't.
 */
export function deltaTerms(
  group: Group,
  rotation: KeyRotation,
  { idCore, account }: RotatingIdentity,
  purpose: RotatedPurpose,
  index: number,
): DeltaTerms | null {
  const step = rotation[purpose]
  if (step === undefined || step.to <= step.from) return null
  const [before, after] = [group.keysOf(purpose, step.from), group.keysOf(purpose, step.to)]
  if (before === null || after === null) return null
  const [C, next] = [before.commitments[index - 1], after.commitments[index - 1]]
  if (C === undefined || next === undefined) throw new RangeError(`the group has no authority ${index}`)
  if (purpose === 'pin' && account === undefined) throw new RangeError('a PIN key is somebody’s')
  const { groupId, shareEpoch } = group
  const identity =
    purpose === 'pin' && account !== undefined
      ? ({ purpose, idCore, ...account } as const)
      : ({ purpose: 'device', idCore } as const)
  const ctx = shareContext({
    groupId,
    purpose,
    index,
    shareEpoch,
    identity: idCore.bytes,
    ...(purpose === 'pin' ? account : {}),
    jti: sha256(keyRotationPayload(rotation)).subarray(0, 16),
    rotation: { oldEpoch: step.from, newEpoch: step.to },
  })
  return {
    input: keyIdentityInput(groupId, identity),
    get A() {
      return keyIdentityPoint(groupId, identity)
    },
    ctx,
    commitment: next.subtract(C),
  }
}
