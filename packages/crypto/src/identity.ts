/**
 * Identities (protocols.md §1, encoding.md).
 *
 *   idCore   = be32(leaf) ‖ be16(generation) ‖ u8(factors) ‖ SHA-256(TLV{groupId, attributes, instance, issue date,
 *              hash of the enrolment key, salt})                                                        39 bytes
 *   userCore = SHA-256(TLV{groupId, user attributes, salt})                                              32 bytes
 *   A_dev    = H1(DEVICE; TLV{groupId, idCore})
 *   A_pin    = H1(PIN; TLV{groupId, idCore, userCore, be32 pinGen})
 *
 * The RA builds idCore at approval and returns the fields; the device recomputes it, so that nobody can slip another
 * key, person or vehicle under it.
 */
import {
  be16,
  be32,
  be32At,
  concat,
  copyOf,
  equalBytes,
  fromBase64Url,
  nfcUtf8,
  toBase64Url,
  u8,
  utf8,
} from './bytes.js'
import { DecodeError } from './errors.js'
import { hashToG1, hashToG2 } from './hash-to-curve.js'
import type { G1, G2 } from './points.js'
import { sha256 } from './sha256.js'
import type { Purpose } from './suite.js'
import { encodeTlv } from './tlv.js'

/** Names and values of a vehicle (brand, model, variant …) or of a person (driverName). */
export type Attributes = Readonly<Record<string, string>>

const ID_CORE_LENGTH = 39
/** userCore of a personal device: absent from every TLV. */
export const NO_USER: Uint8Array = new Uint8Array()

export function decodeGroupId(bytes: Uint8Array, field = 'groupId'): Uint8Array {
  if (bytes.length !== 32) throw new DecodeError(field, '32 bytes expected')
  return bytes
}

/** userCore on the wire: 32 bytes; absent is NO_USER. */
export function decodeUserCore(bytes: Uint8Array | undefined, field = 'userCore'): Uint8Array {
  if (bytes === undefined) return NO_USER
  if (bytes.length !== 32) throw new DecodeError(field, '32 bytes expected')
  return bytes
}

function compareBytes(a: Uint8Array, b: Uint8Array): number {
  const shorter = Math.min(a.length, b.length)
  for (let i = 0; i < shorter; i++) if (a[i] !== b[i]) return (a[i] as number) - (b[i] as number)
  return a.length - b.length
}

/** Sorted by the name's UTF-8 bytes after NFC; attribute i is tag i, value TLV{1 name, 2 value}. DecodeError: > 255, or one name twice. */
export function encodeAttributes(attributes: Attributes, field = 'attributes'): Uint8Array {
  const named = Object.entries(attributes).map(([name, value]) => ({
    name: nfcUtf8(name, field),
    value: nfcUtf8(value, field),
  }))
  if (named.length > 255) throw new DecodeError(field, 'more than 255')
  if (named.some(({ name }) => name.length === 0)) throw new DecodeError(field, 'a name is empty')
  named.sort((a, b) => compareBytes(a.name, b.name))
  for (let i = 1; i < named.length; i++) {
    const [before, here] = [named[i - 1], named[i]]
    if (before && here && equalBytes(before.name, here.name))
      throw new DecodeError(field, 'a name stands twice')
  }
  return encodeTlv(named.map(({ name, value }) => encodeTlv([name, value])))
}

export interface IdCoreFields {
  readonly groupId: Uint8Array
  readonly attributes: Attributes
  /** Instance or VIN. */
  readonly instance: string
  /** YYYY-MM-DD */
  readonly issueDate: string
  /** SHA-256 of the raw X25519 enrolment key. */
  readonly enrolmentKeyHash: Uint8Array
  /** 16 random bytes. */
  readonly salt: Uint8Array
  readonly leaf: number
  readonly generation: number
  readonly factors: number
}

/** What a login must carry: 0 device alone; 1 device and PIN; 2 device alone allowed, and PIN where the service asks. */
export type Factors = 0 | 1 | 2

export class IdCore {
  readonly #bytes: Uint8Array
  #mpinId: string | undefined
  readonly leaf: number
  readonly generation: number
  readonly factors: Factors

  private constructor(bytes: Uint8Array) {
    this.#bytes = bytes
    this.leaf = be32At(bytes, 0)
    this.generation = ((bytes[4] as number) << 8) | (bytes[5] as number)
    this.factors = bytes[6] as Factors
  }

  /** 39 bytes with factors 0…2. */
  static decode(bytes: Uint8Array, field = 'idCore'): IdCore {
    if (bytes.length !== ID_CORE_LENGTH) throw new DecodeError(field, `${ID_CORE_LENGTH} bytes expected`)
    if ((bytes[6] as number) > 2) throw new DecodeError(field, 'unknown factors')
    return new IdCore(copyOf(bytes))
  }

  static fromBase64Url(text: string, field = 'idCore'): IdCore {
    return IdCore.decode(fromBase64Url(text, field, ID_CORE_LENGTH), field)
  }

  /** The identity that stands in for unknown ones, so that refusing them costs the same. */
  static readonly zero = new IdCore(new Uint8Array(ID_CORE_LENGTH))

  /** A copy of the 39 bytes. */
  get bytes(): Uint8Array {
    return this.#bytes.slice()
  }
  /** The M-Pin ID: base64url of idCore. */
  get mpinId(): string {
    this.#mpinId ??= toBase64Url(this.#bytes)
    return this.#mpinId
  }
  equals(other: IdCore): boolean {
    return equalBytes(this.#bytes, other.#bytes)
  }
}

/** The RA's act at approval. DecodeError names the field that has the wrong shape. */
export function issueIdCore(fields: IdCoreFields): IdCore {
  if (!/^\d{4}-\d{2}-\d{2}$/.test(fields.issueDate)) throw new DecodeError('issueDate', 'YYYY-MM-DD expected')
  if (fields.salt.length !== 16) throw new DecodeError('salt', '16 bytes expected')
  if (fields.enrolmentKeyHash.length !== 32) throw new DecodeError('enrolmentKeyHash', '32 bytes expected')
  const hash = sha256(
    encodeTlv([
      decodeGroupId(fields.groupId),
      encodeAttributes(fields.attributes),
      nfcUtf8(fields.instance, 'instance'),
      utf8(fields.issueDate),
      fields.enrolmentKeyHash,
      fields.salt,
    ]),
  )
  return IdCore.decode(concat(be32(fields.leaf), be16(fields.generation), u8(fields.factors), hash))
}

/** The device's check of what the RA returned. */
export function checkIdCore(idCore: IdCore, fields: IdCoreFields): boolean {
  return issueIdCore(fields).equals(idCore)
}

export function userCoreOf(fields: {
  readonly groupId: Uint8Array
  readonly attributes: Attributes
  /** 16 random bytes. */
  readonly salt: Uint8Array
}): Uint8Array {
  if (fields.salt.length !== 16) throw new DecodeError('salt', '16 bytes expected')
  return sha256(encodeTlv([decodeGroupId(fields.groupId), encodeAttributes(fields.attributes), fields.salt]))
}

/** What H1 hashes for `device` and `sign`. */
const deviceInput = (groupId: Uint8Array, idCore: IdCore): Uint8Array =>
  encodeTlv([decodeGroupId(groupId), idCore.bytes])
/** What H1 hashes for `pin`. */
const pinInput = (groupId: Uint8Array, idCore: IdCore, userCore: Uint8Array, pinGen: number): Uint8Array =>
  encodeTlv([decodeGroupId(groupId), idCore.bytes, userCore, be32(pinGen)])

/** A_dev. */
export function deviceIdentityPoint(groupId: Uint8Array, idCore: IdCore): G1 {
  return hashToG1('device', deviceInput(groupId, idCore))
}

/** A_pin. */
export function pinIdentityPoint(
  groupId: Uint8Array,
  idCore: IdCore,
  userCore: Uint8Array,
  pinGen: number,
): G1 {
  return hashToG1('pin', pinInput(groupId, idCore, userCore, pinGen))
}

/** Hs(idCore). */
export function signIdentityPoint(groupId: Uint8Array, idCore: IdCore): G1 {
  return hashToG1('sign', deviceInput(groupId, idCore))
}

/** A name of `agree` or `encrypt`. Kinds: 1 device, 2 server, 3 static server, 4 public name. */
export type Name =
  | { readonly kind: 1; readonly idCore: IdCore; readonly slot?: number }
  | { readonly kind: 2; readonly name: string; readonly generation: number; readonly slot?: number }
  | { readonly kind: 3; readonly name: string; readonly generation: number }
  | { readonly kind: 4; readonly name: string; readonly generation: number; readonly slot?: number }

/** Labels of 1–63 [a-z0-9-], no leading or trailing hyphen, ≤ 253 in all: an A-label in lower case, no port. */
export function isServerName(name: string): boolean {
  return (
    name.length <= 253 && name.split('.').every(label => /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(label))
  )
}

/** The name TLV: {groupId, kind, name, generation [, slot]}. Where the slot stands is the caller's affair (encoding.md "names"). */
export function encodeName(groupId: Uint8Array, name: Name): Uint8Array {
  if ((name.kind === 2 || name.kind === 3) && !isServerName(name.name)) {
    throw new DecodeError('name', 'not a server name')
  }
  const value = name.kind === 1 ? name.idCore.bytes : nfcUtf8(name.name, 'name')
  if (value.length === 0) throw new DecodeError('name', 'empty')
  const generation = name.kind === 1 ? name.idCore.generation : name.generation
  const slot = name.kind === 3 || name.slot === undefined ? undefined : be32(name.slot)
  return encodeTlv([decodeGroupId(groupId), u8(name.kind), value, be32(generation), slot])
}

/** Hk1, Hk2 and He over a name TLV. */
export const agreePointG1 = (nameTlv: Uint8Array): G1 => hashToG1('agree', nameTlv)
export const agreePointG2 = (nameTlv: Uint8Array): G2 => hashToG2('agree', nameTlv)
export const encryptPoint = (nameTlv: Uint8Array): G1 => hashToG1('encrypt', nameTlv)

/** Whom a key share is for; `agree` and `encrypt` keys are for a name TLV. */
export type KeyIdentity =
  | { readonly purpose: 'device' | 'sign'; readonly idCore: IdCore }
  | {
      readonly purpose: 'pin'
      readonly idCore: IdCore
      readonly userCore: Uint8Array
      readonly pinGen: number
    }
  | { readonly purpose: 'agree' | 'encrypt'; readonly name: Uint8Array }

/** What H1 hashes to A of a key share. */
export function keyIdentityInput(groupId: Uint8Array, identity: KeyIdentity): Uint8Array {
  switch (identity.purpose) {
    case 'device':
    case 'sign':
      return deviceInput(groupId, identity.idCore)
    case 'pin':
      return pinInput(groupId, identity.idCore, identity.userCore, identity.pinGen)
    case 'agree':
    case 'encrypt':
      return identity.name
  }
}

/** A of a key share: an authority hashes the identity itself and never multiplies a point it was handed (§3). */
export function keyIdentityPoint(groupId: Uint8Array, identity: KeyIdentity): G1 {
  return hashToG1(identity.purpose satisfies Purpose, keyIdentityInput(groupId, identity))
}
