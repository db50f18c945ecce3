/**
 * RFC 9380 §5 with SHA-256: bytes that look uniform, and field elements made of them. What it hashes may be secret
 * (a hedged nonce hashes the key it protects): nothing here branches on it.
 */
import { concat, utf8 } from './bytes.js'
import { afterBlocks, digestAfter, digestOf, padded, sha256 } from './sha256.js'

const BLOCK = 64
const DIGEST = 32
/** Z_pad is the same for every message, so its block is compressed once. */
const afterZeroPad = afterBlocks(new Uint8Array(BLOCK))
/** §5.3.3. */
const OVERSIZE = utf8('H2C-OVERSIZE-DST-')

/** expand_message_xmd (§5.3.1). RangeError for no DST (§3.1) and for more than 255 blocks. */
export function expandMessageXmd(message: Uint8Array, dst: Uint8Array, length: number): Uint8Array {
  const blocks = Math.ceil(length / DIGEST)
  if (blocks > 255) throw new RangeError('expand_message_xmd gives at most 8160 bytes')
  if (dst.length === 0) throw new RangeError('a domain separation tag is not empty')
  const tag = dst.length > 255 ? sha256(OVERSIZE, dst) : dst
  const dstPrime = concat(tag, Uint8Array.of(tag.length))
  const lengthAndZero = Uint8Array.of(length >> 8, length & 255, 0)
  const b0 = digestAfter(afterZeroPad, [message, lengthAndZero, dstPrime])
  const uniform = new Uint8Array(blocks * DIGEST)
  // b_i = H((b_0 xor b_(i-1)) ‖ i ‖ DST_prime): laid out once, its first 33 bytes rewritten.
  const input = padded([b0, Uint8Array.of(1), dstPrime])
  for (let i = 1; i <= blocks; i++) {
    input[DIGEST] = i
    const b = digestOf(afterBlocks(input))
    uniform.set(b, (i - 1) * DIGEST)
    for (let j = 0; j < DIGEST; j++) input[j] = (b0[j] as number) ^ (b[j] as number)
  }
  return length === uniform.length ? uniform : uniform.slice(0, length)
}

/** L for BLS12-381's coordinates: ⌈(381 + 128)/8⌉ (§8.8). */
export const COORDINATE_BYTES = 64
/** L for scalars: ⌈(255 + 128)/8⌉. */
const SCALAR_BYTES = 48

/**
 * hash_to_field for coordinates, before the reduction mod p: `count` big-endian integers of 64 bytes, one after the
 * other. An element of Fp takes one, an element of Fp2 two, c0 first.
 */
export function coordinateBytes(message: Uint8Array, dst: Uint8Array, count: number): Uint8Array {
  return expandMessageXmd(message, dst, count * COORDINATE_BYTES)
}

/** hash_to_field for one scalar, before the reduction mod q: 48 bytes big-endian. */
export function scalarBytes(message: Uint8Array, dst: Uint8Array): Uint8Array {
  return expandMessageXmd(message, dst, SCALAR_BYTES)
}
