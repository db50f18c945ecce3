/** Bytes and their spellings: big-endian integers, hex, base64url, UTF-8. Every reader is strict. */
import { DecodeError } from './errors.js'

export function concat(...parts: readonly Uint8Array[]): Uint8Array {
  let length = 0
  for (const part of parts) length += part.length
  const joined = new Uint8Array(length)
  let offset = 0
  for (const part of parts) {
    joined.set(part, offset)
    offset += part.length
  }
  return joined
}

/** The bytes alone: Node's Buffer is a Uint8Array, too, and its own slices are views of what others may overwrite. */
export const copyOf = (bytes: Uint8Array): Uint8Array => new Uint8Array(bytes)

/** Equality without a data-dependent branch; the lengths are public. */
export function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false
  let difference = 0
  for (let i = 0; i < a.length; i++) difference |= (a[i] as number) ^ (b[i] as number)
  return difference === 0
}

/** RangeError unless 0 ≤ value < 2^(8·size), a whole number. */
function beInteger(value: number, size: number): Uint8Array {
  if (!Number.isSafeInteger(value) || value < 0 || value >= 2 ** (8 * size)) {
    throw new RangeError(`not an unsigned ${8 * size}-bit integer`)
  }
  const bytes = new Uint8Array(size)
  // What is stored is taken mod 2⁸.
  for (let i = size - 1, rest = value; i >= 0; i--, rest = Math.floor(rest / 256)) bytes[i] = rest
  return bytes
}
export const u8 = (value: number): Uint8Array => beInteger(value, 1)
export const be16 = (value: number): Uint8Array => beInteger(value, 2)
export const be32 = (value: number): Uint8Array => beInteger(value, 4)
/** Takes what a double holds exactly: 0…2⁵³−1. */
export const be64 = (value: number): Uint8Array => beInteger(value, 8)

/** The four bytes from `at` on as one big-endian integer: without a view, which moves small arrays out of V8's heap. */
export const be32At = (bytes: Uint8Array, at: number): number =>
  (bytes[at] as number) * 0x100_0000 +
  (((bytes[at + 1] as number) << 16) | ((bytes[at + 2] as number) << 8) | (bytes[at + 3] as number))

/** Reads all of `bytes` as one big-endian integer of exactly `size` bytes. */
export function readInteger(bytes: Uint8Array, size: number, field: string): number {
  if (bytes.length !== size) throw new DecodeError(field, `${size} bytes expected`)
  let value = 0
  for (const byte of bytes) value = value * 256 + byte
  if (!Number.isSafeInteger(value)) throw new DecodeError(field, 'too large')
  return value
}

const HEX = '0123456789abcdef'

export function toHex(bytes: Uint8Array): string {
  let text = ''
  for (const byte of bytes) text += `${HEX[byte >> 4]}${HEX[byte & 15]}`
  return text
}

/** Lower case only. */
export function fromHex(text: string, field = 'hex'): Uint8Array {
  if (text.length % 2 !== 0 || !/^[0-9a-f]*$/.test(text)) throw new DecodeError(field, 'not lower-case hex')
  const bytes = new Uint8Array(text.length / 2)
  for (let i = 0; i < bytes.length; i++) bytes[i] = Number.parseInt(text.slice(2 * i, 2 * i + 2), 16)
  return bytes
}

const BASE64URL = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'
/** By the character's code, its six bits; −1 for those of no digit. */
const BASE64URL_BITS = new Int8Array(128).fill(-1)
for (let i = 0; i < 64; i++) BASE64URL_BITS[BASE64URL.charCodeAt(i)] = i

/** RFC 4648 §5, without padding. */
export function toBase64Url(bytes: Uint8Array): string {
  let text = ''
  for (let i = 0; i < bytes.length; i += 3) {
    const left = bytes.length - i
    const group = ((bytes[i] as number) << 16) | ((bytes[i + 1] ?? 0) << 8) | (bytes[i + 2] ?? 0)
    const characters = left === 1 ? 2 : left === 2 ? 3 : 4
    for (let j = 0; j < characters; j++) text += BASE64URL[(group >> (18 - 6 * j)) & 63]
  }
  return text
}

/**
 * The one spelling that toBase64Url makes: no padding, no stray bits, no other alphabet.
 * @param length Bytes expected, if fixed.
 */
export function fromBase64Url(text: string, field: string, length?: number): Uint8Array {
  if (typeof text !== 'string') throw new DecodeError(field, 'text expected')
  if (text.length % 4 === 1) throw new DecodeError(field, 'not base64url')
  const bytes = new Uint8Array(Math.floor((text.length * 3) / 4))
  let bits = 0
  let held = 0
  let offset = 0
  for (let i = 0; i < text.length; i++) {
    const value = BASE64URL_BITS[text.charCodeAt(i)] ?? -1
    if (value < 0) throw new DecodeError(field, 'not base64url')
    bits = ((bits << 6) | value) & 0xffff
    held += 6
    if (held >= 8) {
      held -= 8
      bytes[offset++] = (bits >> held) & 255
    }
  }
  if ((bits & ((1 << held) - 1)) !== 0) throw new DecodeError(field, 'not canonical base64url')
  if (length !== undefined && bytes.length !== length)
    throw new DecodeError(field, `${length} bytes expected`)
  return bytes
}

/** UTF-8 of well-formed text; a lone surrogate is a DecodeError, since two of them would share one spelling. */
export function utf8(text: string, field = 'text'): Uint8Array {
  if (typeof text !== 'string') throw new TypeError(`${field}: text expected`)
  const ascii = new Uint8Array(text.length)
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i)
    if (unit >= 0x80) return anyUtf8(text, field)
    ascii[i] = unit
  }
  return ascii
}

function anyUtf8(text: string, field: string): Uint8Array {
  // Three for a unit of UTF-16 is the most; two units that make one point take four.
  const bytes = new Uint8Array(3 * text.length)
  let length = 0
  for (let i = 0; i < text.length; i++) {
    const point = text.codePointAt(i) as number
    if (point >= 0xd800 && point <= 0xdfff) throw new DecodeError(field, 'not well-formed Unicode')
    if (point < 0x80) bytes[length++] = point
    else {
      if (point < 0x800) bytes[length++] = 0xc0 | (point >> 6)
      else {
        if (point < 0x10000) bytes[length++] = 0xe0 | (point >> 12)
        else {
          bytes[length++] = 0xf0 | (point >> 18)
          bytes[length++] = 0x80 | ((point >> 12) & 63)
          i++
        }
        bytes[length++] = 0x80 | ((point >> 6) & 63)
      }
      bytes[length++] = 0x80 | (point & 63)
    }
  }
  return bytes.slice(0, length)
}

/** Text in the form in which it enters a TLV: NFC, UTF-8. */
export const nfcUtf8 = (text: string, field = 'text'): Uint8Array => utf8(text.normalize('NFC'), field)

/** Shortest-form UTF-8 only, no surrogates (RFC 3629 §3). */
export function fromUtf8(bytes: Uint8Array, field: string): string {
  let text = ''
  let i = 0
  while (i < bytes.length) {
    const first = bytes[i++] as number
    if (first < 0x80) {
      text += String.fromCodePoint(first)
      continue
    }
    const extra =
      first >= 0xf0 && first < 0xf8
        ? 3
        : first >= 0xe0 && first < 0xf0
          ? 2
          : first >= 0xc0 && first < 0xe0
            ? 1
            : 0
    if (extra === 0) throw new DecodeError(field, 'not UTF-8')
    let point = first & (0x3f >> extra)
    for (let j = 0; j < extra; j++) {
      const next = bytes[i++]
      if (next === undefined || (next & 0xc0) !== 0x80) throw new DecodeError(field, 'not UTF-8')
      point = (point << 6) | (next & 63)
    }
    const least = [0, 0x80, 0x800, 0x10000][extra] as number
    if (point < least || point > 0x10ffff || (point >= 0xd800 && point <= 0xdfff)) {
      throw new DecodeError(field, 'not UTF-8')
    }
    text += String.fromCodePoint(point)
  }
  return text
}
