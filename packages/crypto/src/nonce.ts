/**
 * Hedged nonces (protocols.md §4): a broken random source must not give a key away, so every nonce also hashes the
 * key it protects and everything that is fixed already. Each role has a number of its own: with one formula for x'
 * and k, a constant source reveals D_pin.
 */
import { u8 } from './bytes.js'
import { hashToScalar } from './hash-to-curve.js'
import { freshBytes, type Random } from './ports.js'
import type { Scalar } from './scalar.js'
import { encodeTlv } from './tlv.js'

export const NONCE_ROLE = {
  x: 1,
  xPin: 2,
  k: 3,
  rTls: 4,
  wFull: 5,
  rFull: 6,
  xSign: 7,
  xChowChoo: 8,
  yChowChoo: 9,
  wChowChoo: 10,
  possession: 11,
} as const

/**
 * @param key Bytes of the key of that purpose; D_pin = τ + αA_pin, never τ.
 * @param fixed What is fixed so far, as one TLV.
 */
export function hedgedNonce(role: number, random: Random, key: Uint8Array, fixed: Uint8Array): Scalar {
  return hashToScalar('NONCE', encodeTlv([u8(role), freshBytes(random, 32), key, fixed]))
}
