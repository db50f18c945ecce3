/** SHA-256 (FIPS 180-4), HMAC (RFC 2104), HKDF (RFC 5869): synchronous, since WebCrypto's are not. */

/** First 32 bits of the fractional parts of the cube roots of the first 64 primes (FIPS 180-4 §4.2.2). */
const K = roundConstants(64, 3)
/** The same of the square roots of the first eight primes (§5.3.3). */
const START = roundConstants(8, 2)

function roundConstants(count: number, root: 2 | 3): Int32Array {
  const words = new Int32Array(count)
  const primes: number[] = []
  for (let n = 2; primes.length < count; n++) {
    if (primes.some(prime => n % prime === 0)) continue
    words[primes.length] = Number(scaledRoot(n, root) & 0xffffffffn)
    primes.push(n)
  }
  return words
}

/** ⌊2³²·prime^(1/root)⌋: an estimate that is put right, since this is run at every start. */
function scaledRoot(prime: number, root: 2 | 3): bigint {
  const power = BigInt(root)
  const value = BigInt(prime) << (32n * power)
  let x = BigInt(Math.floor(prime ** (1 / root) * 2 ** 32))
  while (x ** power > value) x--
  while ((x + 1n) ** power <= value) x++
  return x
}

const rotate = (word: number, by: number): number => (word >>> by) | (word << (32 - by))

/** The message schedule of the block at work; zeroed when a message is done, since messages may be secret. */
const w = new Int32Array(64)

/** One 64-byte block at `offset` into the state. No branch depends on the data. */
function compress(state: Int32Array, block: Uint8Array, offset: number): void {
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
  let a = state[0] as number
  let b = state[1] as number
  let c = state[2] as number
  let d = state[3] as number
  let e = state[4] as number
  let f = state[5] as number
  let g = state[6] as number
  let h = state[7] as number
  for (let i = 0; i < 64; i++) {
    const S1 = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)
    const choice = g ^ (e & (f ^ g))
    const t1 = (h + S1 + choice + (K[i] as number) + (w[i] as number)) | 0
    const S0 = rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)
    // The two have no bit in common.
    const majority = (a & b) + (c & (a ^ b))
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
  state[0] = (state[0] as number) + a
  state[1] = (state[1] as number) + b
  state[2] = (state[2] as number) + c
  state[3] = (state[3] as number) + d
  state[4] = (state[4] as number) + e
  state[5] = (state[5] as number) + f
  state[6] = (state[6] as number) + g
  state[7] = (state[7] as number) + h
}

/** What has gone in already: whole blocks. */
export interface Sha256Prefix {
  readonly state: Int32Array
  /** Bytes, a multiple of 64. */
  readonly length: number
}
const NOTHING: Sha256Prefix = { state: START, length: 0 }

/** Where messages are laid out for `digestAfter`, one at a time; zero in between. */
const desk = new Uint8Array(1024)

/** The parts as one message, padded to whole blocks for a digest after `prefix` (§5.1.1): in `place` if they fit. */
export function padded(parts: readonly Uint8Array[], prefix = NOTHING, place?: Uint8Array): Uint8Array {
  let length = 0
  for (const part of parts) length += part.length
  const size = ((length + 8) >> 6) * 64 + 64
  const blocks = place !== undefined && size <= place.length ? place.subarray(0, size) : new Uint8Array(size)
  let offset = 0
  for (const part of parts) {
    blocks.set(part, offset)
    offset += part.length
  }
  // Nothing of a message that broke off stays below the padding.
  blocks.fill(0, length)
  blocks[length] = 0x80
  // What is stored is taken mod 2⁸.
  for (let i = blocks.length - 1, rest = (prefix.length + length) * 8; rest > 0; i--) {
    blocks[i] = rest
    rest = Math.floor(rest / 256)
  }
  return blocks
}

/** The state after `blocks`, a multiple of 64 bytes. */
export function afterBlocks(blocks: Uint8Array, prefix = NOTHING): Sha256Prefix {
  if (blocks.length % 64 !== 0) throw new RangeError('whole blocks of 64 bytes expected')
  const state = prefix.state.slice()
  for (let offset = 0; offset < blocks.length; offset += 64) compress(state, blocks, offset)
  w.fill(0)
  return { state, length: prefix.length + blocks.length }
}

/** The digest of a message that was padded: 32 bytes. */
export function digestOf({ state }: Sha256Prefix): Uint8Array {
  const digest = new Uint8Array(32)
  for (let i = 0; i < 8; i++) {
    const word = state[i] as number
    digest[4 * i] = word >>> 24
    digest[4 * i + 1] = word >>> 16
    digest[4 * i + 2] = word >>> 8
    digest[4 * i + 3] = word
  }
  return digest
}

/** The digest of the parts, one after the other, after `prefix`: 32 bytes. */
export function digestAfter(prefix: Sha256Prefix, parts: readonly Uint8Array[]): Uint8Array {
  let blocks: Uint8Array = desk
  try {
    blocks = padded(parts, prefix, desk)
    return digestOf(afterBlocks(blocks, prefix))
  } finally {
    // All of it where a message broke off.
    blocks.fill(0)
  }
}

/** SHA-256 of the parts, one after the other: 32 bytes. */
export const sha256 = (...parts: readonly Uint8Array[]): Uint8Array => digestAfter(NOTHING, parts)

/** HMAC-SHA-256 over the parts, one after the other: 32 bytes. */
export function hmacSha256(key: Uint8Array, ...parts: readonly Uint8Array[]): Uint8Array {
  const inner = new Uint8Array(64)
  const outer = new Uint8Array(64)
  inner.set(key.length > 64 ? sha256(key) : key)
  for (let i = 0; i < 64; i++) {
    outer[i] = (inner[i] as number) ^ 0x5c
    inner[i] = (inner[i] as number) ^ 0x36
  }
  return sha256(outer, sha256(inner, ...parts))
}

/** HKDF-SHA-256, extract then expand: `length` ≤ 8160 bytes. */
export function hkdfSha256(salt: Uint8Array, ikm: Uint8Array, info: Uint8Array, length: number): Uint8Array {
  if (length > 255 * 32) throw new RangeError('HKDF gives at most 8160 bytes')
  const prk = hmacSha256(salt, ikm)
  const output = new Uint8Array(Math.ceil(length / 32) * 32)
  let previous: Uint8Array = new Uint8Array()
  for (let i = 0; 32 * i < length; i++) {
    previous = hmacSha256(prk, previous, info, Uint8Array.of(i + 1))
    output.set(previous, 32 * i)
  }
  return output.slice(0, length)
}
