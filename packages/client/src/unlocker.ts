/**
 * The hardware factor (protocols.md §4): τ_dev = D_dev − α_hw·A_dev is stored, and α_hw comes out of a TPM, a secure
 * element, a keystore or a SIM. A copy of the token store alone is then worth nothing. Full entropy only: never a PIN. The
 * keys of `agree`, `sign`, `encrypt` and slot keys lie under it in the same way, with Hk1(C), Hs(C), He(C), Hk2(B) and He(B) in
 * the place of A_dev and scalars of their own.
 */
import { be32, concat, equalBytes, utf8 } from '@milagro-ts/crypto/bytes'
import {
  agreePointG1,
  agreePointG2,
  deviceIdentityPoint,
  encodeName,
  encryptPoint,
  type IdCore,
  signIdentityPoint,
} from '@milagro-ts/crypto/identity'
import type { G1, G2 } from '@milagro-ts/crypto/points'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { hkdfSha256, sha256 } from '@milagro-ts/crypto/sha256'
import { slotName } from '@milagro-ts/crypto/static-agreement'
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
export interface LockedKey<P = G1> {
  /** D_dev, or τ_dev where `unlocker` names a kind. Secret. */
  readonly key: P
  readonly unlocker: string | null
  /** SHA-256 of D_dev, so that a wrong unlocker is told from a refused login; D_dev has full entropy. */
  readonly keyHash: Uint8Array
}

/** Whose key, and which of its keys. */
export interface KeyOwner {
  readonly groupId: Uint8Array
  readonly idCore: IdCore
  readonly purpose: 'device' | 'agree' | 'sign' | 'encrypt'
}
/** Whose slot key, and of which slot. */
export interface SlotKeyOwner {
  readonly groupId: Uint8Array
  readonly idCore: IdCore
  readonly slot: number
}

/** τ_dev = D_dev − α_hw·A_dev, or D_dev itself without an unlocker. */
export function lockKey(unlocker: Unlocker | undefined, owner: KeyOwner, D_dev: G1): Promise<LockedKey> {
  return lock(unlocker, baseOf(owner), D_dev)
}

/** D_dev = τ_dev + α_hw·A_dev. WRONG_UNLOCKER: none, or not the one that it was stored under. */
export function unlockKey(unlocker: Unlocker | undefined, owner: KeyOwner, locked: LockedKey): Promise<G1> {
  return unlock(unlocker, baseOf(owner), locked)
}

/** The same for a slot key, with Hk2(B) or He(B) in the place of A_dev. */
export interface SlotKeyLock<P> {
  lock(unlocker: Unlocker | undefined, owner: SlotKeyOwner, key: P): Promise<LockedKey<P>>
  /** As unlockKey. */
  unlock(unlocker: Unlocker | undefined, owner: SlotKeyOwner, locked: LockedKey<P>): Promise<P>
}
export const agreeSlotLock: SlotKeyLock<G2> = slotLock(agreePointG2, 'slot')
export const encryptSlotLock: SlotKeyLock<G1> = slotLock(encryptPoint, 'slot of encrypt')

function slotLock<P extends KeyPoint<P>>(pointOf: (name: Uint8Array) => P, label: string): SlotKeyLock<P> {
  const baseOf = ({ groupId, idCore, slot }: SlotKeyOwner): Base<P> => ({
    idCore,
    point: () => pointOf(slotName(groupId, { kind: 1, idCore }, slot)),
    info: concat(groupId, idCore.bytes, utf8(label), be32(slot)),
  })
  return {
    lock: (unlocker, owner, key) => lock(unlocker, baseOf(owner), key),
    unlock: (unlocker, owner, locked) => unlock(unlocker, baseOf(owner), locked),
  }
}

/** What G1 and G2 have in common here. */
export interface KeyPoint<P> {
  encode(): Uint8Array
  add(other: P): P
  subtract(other: P): P
  mulSecret(scalar: Scalar): P
  isIdentity(): boolean
}
/** What masks a key: a multiple of `point`, by a scalar that `info` tells from those of other keys. */
interface Base<P> {
  readonly idCore: IdCore
  readonly point: () => P
  readonly info: Uint8Array
}

async function lock<P extends KeyPoint<P>>(
  unlocker: Unlocker | undefined,
  base: Base<P>,
  key: P,
): Promise<LockedKey<P>> {
  const keyHash = sha256(key.encode())
  if (unlocker === undefined) return { key, unlocker: null, keyHash }
  await unlocker.prepare()
  const mask = base.point().mulSecret(await hardwareScalar(unlocker, base))
  return { key: key.subtract(mask), unlocker: unlocker.kind, keyHash }
}

async function unlock<P extends KeyPoint<P>>(
  unlocker: Unlocker | undefined,
  base: Base<P>,
  { key: stored, unlocker: kind, keyHash }: LockedKey<P>,
): Promise<P> {
  if (kind === null) return stored
  if (unlocker?.kind !== kind)
    throw new ClientError('WRONG_UNLOCKER', `the device key wants a ${kind} unlocker`)
  const mask = base.point().mulSecret(await hardwareScalar(unlocker, base))
  const key = stored.add(mask)
  if (key.isIdentity() || !equalBytes(sha256(key.encode()), keyHash))
    throw new ClientError('WRONG_UNLOCKER', `the ${kind} unlocker is not the one of this device key`)
  return key
}

/** A_dev, Hk1(C), He(C) or A of `sign`. */
function baseOf({ groupId, idCore, purpose }: KeyOwner): Base<G1> {
  const point = () => {
    if (purpose === 'device') return deviceIdentityPoint(groupId, idCore)
    if (purpose === 'sign') return signIdentityPoint(groupId, idCore)
    const name = encodeName(groupId, { kind: 1, idCore })
    return purpose === 'encrypt' ? encryptPoint(name) : agreePointG1(name)
  }
  // A scalar of its own for each key: with one, D_dev and τ_dev would tell something about the other.
  const info = concat(groupId, idCore.bytes, purpose === 'device' ? new Uint8Array() : utf8(purpose))
  return { idCore, point, info }
}

/** α_hw, uniform: HKDF of the secret for this identity. Never leaves the device, so its label is no part of the suite. */
async function hardwareScalar(unlocker: Unlocker, { idCore, info }: Base<unknown>): Promise<Scalar> {
  const secret = await unlocker.secret(idCore)
  if (secret.length !== 32) throw new ClientError('WRONG_UNLOCKER', 'an unlocker gives 32 bytes')
  return Scalar.random(length => hkdfSha256(utf8('MILAGRO-TS-UNLOCKER'), secret, info, length))
}
