/**
 * The PIN (protocols.md §4): τ = D_pin − αA_pin is what a device stores, and τ + αA_pin is the key again. Every α
 * gives some point, so τ alone says nothing about the PIN: only the RPS can tell, and it counts.
 *
 * A D_pin is split once. Two tokens of one key give both PINs and the key without a strike; a change of PIN or of
 * iterations is a new pinGen, a new key from the authorities.
 *
 * {@includeCode ../examples/pin.mjs}
 */
import { be32, concat, fromBase64Url, toBase64Url, utf8 } from './bytes.js'
import { DecodeError } from './errors.js'
import { hashToScalar } from './hash-to-curve.js'
import { decodeGroupId, decodeUserCore, IdCore, NO_USER } from './identity.js'
import { G1 } from './points.js'
import type { Scalar } from './scalar.js'
import { SUITE } from './suite.js'
import { encodeTlv } from './tlv.js'

/** What PBKDF2 stretches: NFKC, UTF-8, any length. Secret. */
export const pinBytes = (pin: string): Uint8Array => utf8(pin.normalize('NFKC'), 'pin')

/** Salt of PBKDF2: idCore ‖ userCore ‖ be32 pinGen. */
export function pinSalt(idCore: IdCore, userCore: Uint8Array, pinGen: number): Uint8Array {
  return concat(idCore.bytes, userCore, be32(pinGen))
}

/** α = Hq(PIN; TLV{stretched}). @param stretched 32 bytes of PBKDF2-HMAC-SHA-256. */
export function pinScalar(stretched: Uint8Array): Scalar {
  if (stretched.length !== 32) throw new RangeError('PBKDF2 gives 32 bytes here')
  return hashToScalar('PIN', encodeTlv([stretched]))
}

/** τ = D_pin − α·A_pin. */
export const splitPin = (D_pin: G1, alpha: Scalar, A_pin: G1): G1 => D_pin.subtract(A_pin.mulSecret(alpha))

/** D_pin = τ + α·A_pin. */
export const joinPin = (token: G1, alpha: Scalar, A_pin: G1): G1 => token.add(A_pin.mulSecret(alpha))

/** The token file: what a device keeps of one user's PIN key. */
export interface TokenFile {
  readonly groupId: Uint8Array
  readonly idCore: IdCore
  /** NO_USER on a personal device. */
  readonly userCore: Uint8Array
  readonly pinGen: number
  readonly iterations: number
  /** Key epoch of purpose `pin` that τ is of. */
  readonly keyEpoch: number
  readonly token: G1
}

/** Where a token file says nothing of its key epoch. */
const FIRST_EPOCH = 1

export interface TokenFileJson {
  readonly suite: string
  readonly v: number
  readonly groupId: string
  readonly idCore: string
  readonly userCore: string
  readonly pinGen: number
  readonly iterations: number
  /** Absent for the first. */
  readonly keyEpoch?: number
  readonly token: string
}

export function encodeTokenFile(file: TokenFile): TokenFileJson {
  return {
    suite: SUITE,
    v: 1,
    groupId: toBase64Url(file.groupId),
    idCore: file.idCore.mpinId,
    userCore: toBase64Url(file.userCore),
    pinGen: file.pinGen,
    iterations: file.iterations,
    ...(file.keyEpoch === FIRST_EPOCH ? {} : { keyEpoch: file.keyEpoch }),
    token: toBase64Url(file.token.encode()),
  }
}

/** DecodeError for a missing, extra or wrong field. */
export function decodeTokenFile(value: unknown): TokenFile {
  if (typeof value !== 'object' || value === null) throw new DecodeError('tokenFile', 'an object expected')
  const json = value as Readonly<Record<string, unknown>>
  const known = ['suite', 'v', 'groupId', 'idCore', 'userCore', 'pinGen', 'iterations', 'keyEpoch', 'token']
  if (Object.keys(json).some(name => !known.includes(name)))
    throw new DecodeError('tokenFile', 'unknown field')
  if (json.suite !== SUITE || json.v !== 1)
    throw new DecodeError('tokenFile.suite', 'unknown suite or version')
  const text = (name: string): string => {
    const field = json[name]
    if (typeof field !== 'string') throw new DecodeError(`tokenFile.${name}`, 'text expected')
    return field
  }
  const count = (name: string, least: number): number => {
    const field = json[name]
    if (typeof field !== 'number' || !Number.isInteger(field) || field < least || field > 0xffff_ffff) {
      throw new DecodeError(`tokenFile.${name}`, 'a whole number expected')
    }
    return field
  }
  const userCore = text('userCore')
  return {
    groupId: decodeGroupId(fromBase64Url(text('groupId'), 'tokenFile.groupId')),
    idCore: IdCore.fromBase64Url(text('idCore'), 'tokenFile.idCore'),
    userCore: userCore === '' ? NO_USER : decodeUserCore(fromBase64Url(userCore, 'tokenFile.userCore')),
    pinGen: count('pinGen', 0),
    iterations: count('iterations', 1),
    // One spelling: the first epoch is left out.
    keyEpoch: json.keyEpoch === undefined ? FIRST_EPOCH : count('keyEpoch', FIRST_EPOCH + 1),
    token: G1.decode(fromBase64Url(text('token'), 'tokenFile.token'), 'tokenFile.token'),
  }
}
