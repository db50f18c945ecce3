/** SHA-256 (FIPS 180-4), HMAC (RFC 2104), HKDF (RFC 5869): synchronous, since WebCrypto's are not. */
import { concat } from './bytes.js'

/** First 32 bits of the fractional parts of the cube roots of the first 64 primes (FIPS 180-4 §4.2.2). */
const K = roundConstants(64, 3)
/** The same of the square roots of the first eight primes (§5.3.3). */
const START = roundConstants(8, 2)

function roundConstants(count: number, root: 2 | 3): Uint32Array {
  const words = new Uint32Array(count)
  for (let prime = 2, found = 0; found < count; prime++) {
    let isPrime = true
    for (let d = 2; d * d <= prime; d++) if (prime % d === 0) isPrime = false
    if (isPrime) words[found++] = Number(integerRoot(BigInt(prime) << BigInt(32 * root), root) & 0xffffffffn)
  }
  return words
}

/** Largest x with x^root ≤ value. */
function integerRoot(value: bigint, root: 2 | 3): bigint {
  let low = 0n
  let high = 1n << 40n
  while (high - low > 1n) {
    const middle = (low + high) >> 1n
    const power = root === 2 ? middle * middle : middle * middle * middle
    if (power <= value) low = middle
    else high = middle
  }
  return low
}

const rotate = (word: number, by: number): number => (word >>> by) | (word << (32 - by))

/** One 64-byte block at `offset` into the state. No branch depends on the data. */
function compress(state: Uint32Array, block: Uint8Array, offset: number, w: Uint32Array): void {
  for (let i = 0; i < 16; i++) {
    const at = offset + 4 * i
    w[i] =
      ((block[at] as number) << 24) |
      ((block[at + 1] as number) << 16) |
      ((block[at + 2] as number) << 8) |
      (block[at + 3] as number)
  }
  for (let i = 16; i < 64; i++) {
    const w15 = w[i - 15] as number
    const w2 = w[i - 2] as number
    const s0 = rotate(w15, 7) ^ rotate(w15, 18) ^ (w15 >>> 3)
    const s1 = rotate(w2, 17) ^ rotate(w2, 19) ^ (w2 >>> 10)
    w[i] = ((w[i - 16] as number) + s0 + (w[i - 7] as number) + s1) | 0
  }
  let [a, b, c, d, e, f, g, h] = state as unknown as [
    number,
    number,
    number,
    number,
    number,
    number,
    number,
    number,
  ]
  for (let i = 0; i < 64; i++) {
    const S1 = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)
    const choice = (e & f) ^ (~e & g)
    const t1 = (h + S1 + choice + (K[i] as number) + (w[i] as number)) | 0
    const S0 = rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)
    const majority = (a & b) ^ (a & c) ^ (b & c)
    const t2 = (S0 + majority) | 0
    h = g
    g = f
    f = e
    e = (d + t1) | 0
    d = c
    c = b
    b = a
    a = (t1 + t2) | 0
  }
  const round = [a, b, c, d, e, f, g, h]
  for (let i = 0; i < 8; i++) state[i] = (state[i] as number) + (round[i] as number)
}

/** SHA-256 of the parts, one after the other: 32 bytes. */
export function sha256(...parts: readonly Uint8Array[]): Uint8Array {
  const message = concat(...parts)
  const padded = new Uint8Array(((message.length + 8) >> 6) * 64 + 64)
  padded.set(message)
  padded[message.length] = 0x80
  const view = new DataView(padded.buffer)
  view.setUint32(padded.length - 8, Math.floor(message.length / 2 ** 29))
  view.setUint32(padded.length - 4, (message.length * 8) >>> 0)
  const state = START.slice()
  const schedule = new Uint32Array(64)
  for (let offset = 0; offset < padded.length; offset += 64) compress(state, padded, offset, schedule)
  const digest = new DataView(new ArrayBuffer(32))
  for (let i = 0; i < 8; i++) digest.setUint32(4 * i, state[i] as number)
  return new Uint8Array(digest.buffer)
}

/** HMAC-SHA-256 over the parts, one after the other: 32 bytes. */
export function hmacSha256(key: Uint8Array, ...parts: readonly Uint8Array[]): Uint8Array {
  const block = new Uint8Array(64)
  block.set(key.length > 64 ? sha256(key) : key)
  const inner = block.map(byte => byte ^ 0x36)
  const outer = block.map(byte => byte ^ 0x5c)
  return sha256(outer, sha256(inner, ...parts))
}

/** HKDF-SHA-256, extract then expand: `length` ≤ 8160 bytes. */
export function hkdfSha256(salt: Uint8Array, ikm: Uint8Array, info: Uint8Array, length: number): Uint8Array {
  if (length > 255 * 32) throw new RangeError('HKDF gives at most 8160 bytes')
  const prk = hmacSha256(salt, ikm)
  const blocks: Uint8Array[] = []
  let previous: Uint8Array = new Uint8Array()
  for (let i = 1; 32 * blocks.length < length; i++) {
    previous = hmacSha256(prk, previous, info, Uint8Array.of(i))
    blocks.push(previous)
  }
  return concat(...blocks).slice(0, length)
}
