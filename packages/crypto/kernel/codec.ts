/**
 * Between field elements and bytes, and the decisions that need a canonical value. One shape for all values: what is
 * encoded may be secret (a device key is hashed with the nonces it protects).
 */

import { HALF_P, P_LIMBS, RR, RR384 } from './constants'
import {
  add,
  carry,
  LIMB,
  LIMB_BITS,
  LIMBS,
  loadLimb,
  multiply,
  PAIR,
  reduce,
  storeLimb,
  WIDE,
} from './field'

/** Bytes of a value by itself; in a pair, limb i of both lanes lies at 2i·LIMB. */
const VALUE: usize = LIMB * LIMBS
const MASK: i64 = ((<i64>1) << LIMB_BITS) - 1

const W: usize = memory.data(WIDE, 16)
const S: usize = memory.data(PAIR, 16)
const D: usize = memory.data(VALUE, 16)
const L: usize = memory.data(VALUE, 16)

/** d = a − b, carried; −1 when it is negative, else 0. Limbs of a and b are not negative. */
function subtractLimbs(d: usize, a: usize, b: usize): i64 {
  let borrow: i64 = 0
  for (let i: usize = 0; i < VALUE; i += LIMB) {
    const t: i64 = loadLimb(a + i) - loadLimb(b + i) + borrow
    storeLimb(d + i, t & MASK)
    borrow = t >> LIMB_BITS
  }
  return borrow
}

/** The canonical limbs, in [0, p), of what a stands for in one lane, at r. */
export function canonical(r: usize, a: usize, lane: usize): void {
  memory.fill(W, 0, WIDE)
  for (let i: usize = 0; i < LIMBS; i++) {
    const at = W + 16 * i
    store<i64>(at, loadLimb(a + 2 * LIMB * i))
    store<i64>(at + 8, loadLimb(a + 2 * LIMB * i + LIMB))
  }
  reduce(S, W)
  // |a| < 2⁹p < R/4: the result is in ±1¼p; 2p are added, and p is taken off as often as it fits.
  let up: i64 = 0
  for (let i: usize = 0; i < LIMBS; i++) {
    const t: i64 = loadLimb(S + 2 * LIMB * i + LIMB * lane) + 2 * loadLimb(P_LIMBS + LIMB * i) + up
    storeLimb(r + LIMB * i, i === LIMBS - 1 ? t : t & MASK)
    up = t >> LIMB_BITS
  }
  for (let k = 0; k < 3; k++) {
    const negative = subtractLimbs(D, r, P_LIMBS)
    for (let i: usize = 0; i < VALUE; i += LIMB) {
      storeLimb(r + i, (loadLimb(r + i) & negative) | (loadLimb(D + i) & ~negative))
    }
  }
}

/** −1 when the lane of a is 0 mod p, else 0. */
export function isZero(a: usize, lane: usize): i32 {
  canonical(L, a, lane)
  let bits: i64 = 0
  for (let i: usize = 0; i < VALUE; i += LIMB) bits |= loadLimb(L + i)
  return <i32>((bits | -bits) >> 63) ^ -1
}
export function isZero2(a: usize): i32 {
  return isZero(a, 0) & isZero(a, 1)
}
/** The lowest bit of the canonical value: sgn0 of RFC 9380 §4.1 for m = 1. */
export function parity(a: usize, lane: usize): i32 {
  canonical(L, a, lane)
  return <i32>loadLimb(L) & 1
}
/** 1 when the lane of a is above (p − 1)/2. */
export function isLarger(a: usize, lane: usize): i32 {
  canonical(L, a, lane)
  return <i32>subtractLimbs(D, HALF_P, L) & 1
}

/** 1 when the limbs of a lane, as they were read from bytes, are below p. */
export function isReduced(a: usize, lane: usize): i32 {
  for (let i: usize = 0; i < LIMBS; i++) storeLimb(L + LIMB * i, loadLimb(a + 2 * LIMB * i + LIMB * lane))
  return <i32>subtractLimbs(D, L, P_LIMBS) & 1
}

/** A lane of r = the big-endian integer at `from`, not in Montgomery's form yet. At most 48 bytes. */
export function readInteger(r: usize, lane: usize, from: usize, bytes: i32): void {
  let held: u64 = 0
  let bits: i32 = 0
  let limb: usize = 0
  for (let i = bytes - 1; i >= 0; i--) {
    held |= (<u64>load<u8>(from + i)) << bits
    bits += 8
    if (bits >= LIMB_BITS) {
      storeLimb(r + 2 * LIMB * limb + LIMB * lane, <i64>held & MASK)
      held >>= LIMB_BITS
      bits -= LIMB_BITS
      limb++
    }
  }
  for (; limb < LIMBS; limb++) {
    storeLimb(r + 2 * LIMB * limb + LIMB * lane, <i64>held & MASK)
    held >>= LIMB_BITS
  }
}
export function toMontgomery(r: usize, a: usize): void {
  multiply(r, a, RR)
}
/** Two integers of 64 bytes, one after the other, mod p: one in each lane. u(high) = u(low) = 2. */
export function readWide(r: usize, from: usize): void {
  readInteger(r, 0, from, 16)
  readInteger(r, 1, from + 64, 16)
  multiply(r, r, RR384)
  readInteger(S, 0, from + 16, 48)
  readInteger(S, 1, from + 80, 48)
  multiply(S, S, RR)
  add(r, r, S)
  carry(r, r)
}

/** 48 bytes big-endian of a lane. */
export function writeBytes(to: usize, a: usize, lane: usize): void {
  canonical(L, a, lane)
  let held: u64 = 0
  let bits: i32 = 0
  let limb: usize = 0
  for (let i = 47; i >= 0; i--) {
    if (bits < 8 && limb < LIMBS) {
      held |= (<u64>loadLimb(L + LIMB * limb)) << bits
      bits += LIMB_BITS
      limb++
    }
    store<u8>(to + i, <u8>held)
    held >>= 8
    bits -= 8
  }
}

/** r = a where the mask (`laneMask`) is set, else b. */
export function select(r: usize, a: usize, b: usize, mask: v128): void {
  for (let at: usize = 0; at < PAIR; at += 16) {
    v128.store(r + at, v128.bitselect(v128.load(a + at), v128.load(b + at), mask))
  }
}
