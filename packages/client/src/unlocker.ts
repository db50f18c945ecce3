/**
 * The hardware factor (protocols.md §4): τ_dev = D_dev − α_hw·A_dev is stored, and α_hw comes out of a TPM, a secure
 * element, a keystore or a SIM. A copy of the token store alone is then worth nothing. Full entropy only: never a PIN. The
 * keys of `agree` and `sign` lie under it in the same way, with Hk1(C) and Hs(C) in the place of A_dev and scalars of their own.
 */
import { concat, equalBytes, utf8 } from '@milagro-ts/crypto/bytes'
import {
  agreePointG1,
  deviceIdentityPoint,
  encodeName,
  type IdCore,
  signIdentityPoint,
} from '@milagro-ts/crypto/identity'
import type { G1 } from '@milagro-ts/crypto/points'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { hkdfSha256, sha256 } from '@milagro-ts/crypto/sha256'
import { ClientError } from './errors.js'

export interface Unlocker {
  /** Names the kind in the store and in messages: `file`, `tpm2` … */
  readonly kind: string
  /** Called before a key is stored under it: makes the secret where there is none. */
  prepare(): Promise<void>
  /** 32 secret bytes of full entropy, the same at every call for the same identity. */
  secret(idCore: IdCore): Promise<Uint8Array>
}

/** Secret bytes from the caller: for keystores with an interface of their own. */
export const callbackUnlocker = (secret: (idCore: IdCore) => Promise<Uint8Array>): Unlocker => ({
  kind: 'callback',
  prepare: () => Promise.resolve(),
  secret,
})

/** How a key lies in the store; what is said of D_dev holds for each. */
export interface LockedKey {
  /** D_dev, or τ_dev where `unlocker` names a kind. Secret. */
  readonly key: G1
  readonly unlocker: string | null
  /** SHA-256 of D_dev, so that a wrong unlocker is told from a refused login; D_dev has full entropy. */
  readonly keyHash: Uint8Array
}

/** Whose key, and which of its keys. */
export interface KeyOwner {
  readonly groupId: Uint8Array
  readonly idCore: IdCore
  readonly purpose: 'device' | 'agree' | 'sign'
}

/** τ_dev = D_dev − α_hw·A_dev, or D_dev itself without an unlocker. */
export async function lockKey(
  unlocker: Unlocker | undefined,
  owner: KeyOwner,
  D_dev: G1,
): Promise<LockedKey> {
  const keyHash = sha256(D_dev.encode())
  if (unlocker === undefined) return { key: D_dev, unlocker: null, keyHash }
  await unlocker.prepare()
  const mask = identityPoint(owner).mulSecret(await hardwareScalar(unlocker, owner))
  return { key: D_dev.subtract(mask), unlocker: unlocker.kind, keyHash }
}

/** D_dev = τ_dev + α_hw·A_dev. WRONG_UNLOCKER: none, or not the one that it was stored under. */
export async function unlockKey(
  unlocker: Unlocker | undefined,
  owner: KeyOwner,
  { key, unlocker: kind, keyHash }: LockedKey,
): Promise<G1> {
  if (kind === null) return key
  if (unlocker?.kind !== kind)
    throw new ClientError('WRONG_UNLOCKER', `the device key wants a ${kind} unlocker`)
  const mask = identityPoint(owner).mulSecret(await hardwareScalar(unlocker, owner))
  const D_dev = key.add(mask)
  if (D_dev.isIdentity() || !equalBytes(sha256(D_dev.encode()), keyHash))
    throw new ClientError('WRONG_UNLOCKER', `the ${kind} unlocker is not the one of this device key`)
  return D_dev
}

/** A_dev, Hk1(C) or A of `sign`. */
function identityPoint({ groupId, idCore, purpose }: KeyOwner): G1 {
  if (purpose === 'device') return deviceIdentityPoint(groupId, idCore)
  if (purpose === 'sign') return signIdentityPoint(groupId, idCore)
  return agreePointG1(encodeName(groupId, { kind: 1, idCore }))
}

/** α_hw, uniform: HKDF of the secret for this identity. Never leaves the device, so its label is no part of the suite. */
async function hardwareScalar(unlocker: Unlocker, { groupId, idCore, purpose }: KeyOwner): Promise<Scalar> {
  const secret = await unlocker.secret(idCore)
  if (secret.length !== 32) throw new ClientError('WRONG_UNLOCKER', 'an unlocker gives 32 bytes')
  // A scalar of its own for each key: with one, D_dev and τ_dev would tell something about the other.
  const info = concat(groupId, idCore.bytes, purpose === 'device' ? new Uint8Array() : utf8(purpose))
  return Scalar.random(length => hkdfSha256(utf8('MILAGRO-TS-UNLOCKER'), secret, info, length))
}
