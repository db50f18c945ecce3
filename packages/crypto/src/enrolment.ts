/**
 * How a device and an RA know that they speak with each other, through an RPS that neither has to trust
 * (protocols.md §3 "Device set-up is authenticated").
 *
 *   device                                                       RA
 *   code = secret (128 bits) ‖ groupId ‖ checksum                knows the secret by codeId
 *   mac  = HMAC(secret; groupId, attributes, instance, hpkeKey, nonce)
 *   -- attributes, instance, hpkeKey, nonce, codeId, mac -->     recomputes mac
 * or, by hand, both show six words of SHA-256(groupId, hpkeKey, attributes, nonce) and a person compares.
 *
 * The code also pins the whole groupId, so that a fake group document is refused on the device.
 *
 * {@includeCode ../examples/enrolment.mjs}
 */
import { concat, equalBytes, nfcUtf8, utf8 } from './bytes.js'
import { DecodeError } from './errors.js'
import { type Attributes, decodeGroupId, encodeAttributes } from './identity.js'
import { hmacSha256, sha256 } from './sha256.js'
import { encodeTlv } from './tlv.js'

const SECRET_LENGTH = 16
const GROUP_ID_LENGTH = 32
const CHECKSUM_LENGTH = 2
const BASE32 = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567'

export interface EnrolmentCode {
  /** 16 random bytes. */
  readonly secret: Uint8Array
  readonly groupId: Uint8Array
}

/** RFC 4648 base32 in groups of four joined by `-`. */
export function encodeEnrolmentCode({ secret, groupId }: EnrolmentCode): string {
  if (secret.length !== SECRET_LENGTH) throw new RangeError('the secret of a code has 16 bytes')
  const body = concat(secret, decodeGroupId(groupId))
  const bytes = concat(body, sha256(body).subarray(0, CHECKSUM_LENGTH))
  let bits = 0
  let held = 0
  let text = ''
  for (const byte of bytes) {
    bits = ((bits << 8) | byte) & 0xffff
    held += 8
    while (held >= 5) {
      held -= 5
      text += BASE32[(bits >> held) & 31]
    }
  }
  // 50 bytes are exactly 80 characters: nothing is left over.
  return text.replaceAll(/(.{4})(?=.)/g, '$1-')
}

/** Case and separators are ignored; a typing error is told from a wrong code by the checksum. */
export function decodeEnrolmentCode(text: string): EnrolmentCode {
  const characters = text.replaceAll(/[\s-]/g, '').toUpperCase()
  const length = SECRET_LENGTH + GROUP_ID_LENGTH + CHECKSUM_LENGTH
  if (characters.length !== (length * 8) / 5) throw new DecodeError('code', '80 characters expected')
  const bytes = new Uint8Array(length)
  let bits = 0
  let held = 0
  let offset = 0
  for (const character of characters) {
    const value = BASE32.indexOf(character)
    if (value < 0) throw new DecodeError('code', 'letters A–Z and digits 2–7 expected')
    bits = ((bits << 5) | value) & 0xffff
    held += 5
    if (held >= 8) {
      held -= 8
      bytes[offset++] = (bits >> held) & 255
    }
  }
  const body = bytes.subarray(0, SECRET_LENGTH + GROUP_ID_LENGTH)
  if (!equalBytes(sha256(body).subarray(0, CHECKSUM_LENGTH), bytes.subarray(body.length))) {
    throw new DecodeError('code', 'mistyped: the check characters do not fit')
  }
  return { secret: body.slice(0, SECRET_LENGTH), groupId: body.slice(SECRET_LENGTH) }
}

/** By what an RA finds a code without being told its secret: 16 bytes, one way. */
export function codeId(secret: Uint8Array): Uint8Array {
  return sha256(utf8('MILAGRO-TS-V1-CODE-ID'), secret).slice(0, 16)
}

/** @param hpkeKey Raw 32-byte X25519 public key. */
export function enrolmentKeyHash(hpkeKey: Uint8Array): Uint8Array {
  if (hpkeKey.length !== 32) throw new DecodeError('hpkeKey', '32 bytes expected')
  return sha256(hpkeKey)
}

export interface EnrolmentFields {
  readonly groupId: Uint8Array
  /** The device's; for a user's enrolment the user's. */
  readonly attributes: Attributes
  /** Absent for a user. */
  readonly instance?: string | undefined
  readonly hpkeKey: Uint8Array
  /** 32 random bytes of the device. */
  readonly nonce: Uint8Array
}

function checkFields(fields: EnrolmentFields): void {
  if (fields.hpkeKey.length !== 32) throw new DecodeError('hpkeKey', '32 bytes expected')
  if (fields.nonce.length !== 32) throw new DecodeError('nonce', '32 bytes expected')
}

/** 32 bytes. Compare with equalBytes. */
export function enrolmentMac(secret: Uint8Array, fields: EnrolmentFields): Uint8Array {
  checkFields(fields)
  return hmacSha256(
    secret,
    encodeTlv([
      decodeGroupId(fields.groupId),
      encodeAttributes(fields.attributes),
      fields.instance === undefined ? undefined : nfcUtf8(fields.instance, 'instance'),
      fields.hpkeKey,
      fields.nonce,
    ]),
  )
}

/** Six indices below 2048: the first 66 bits, most significant first, of the fields' hash. */
export function sixWordIndices(fields: Omit<EnrolmentFields, 'instance'>): number[] {
  checkFields(fields)
  const hash = sha256(
    encodeTlv([
      decodeGroupId(fields.groupId),
      fields.hpkeKey,
      encodeAttributes(fields.attributes),
      fields.nonce,
    ]),
  )
  return Array.from({ length: 6 }, (_, word) => {
    let index = 0
    for (let bit = 11 * word; bit < 11 * word + 11; bit++) {
      index = (index << 1) | (((hash[bit >> 3] as number) >> (7 - (bit & 7))) & 1)
    }
    return index
  })
}
