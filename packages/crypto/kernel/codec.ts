/**
 * Between field elements and bytes, and the decisions that need a canonical value. One shape for all values: what is
 * encoded may be secret (a device key is hashed with the nonces it protects).
 */

import { HALF_P, P_LIMBS, RR, RR384 } from './constants'
import { add, carry, multiply, reduce } from './field'

const MASK: i32 = 0x0fff_ffff

const W: usize = memory.data(432, 16)
const S: usize = memory.data(112, 16)
const D: usize = memory.data(64, 16)
const L: usize = memory.data(64, 16)

/** d = a − b on 14 limbs of 28 bits, carried; −1 when it is negative, else 0. Limbs of a and b are not negative. */
function subtractLimbs(d: usize, a: usize, b: usize): i32 {
  let borrow: i32 = 0
  for (let i: usize = 0; i < 56; i += 4) {
    const t = load<i32>(a + i) - load<i32>(b + i) + borrow
    store<i32>(d + i, t & MASK)
    borrow = t >> 28
  }
  return borrow
}

/** The canonical limbs, in [0, p), of what a stands for in one lane: 14 u32 at r. */
export function canonical(r: usize, a: usize, lane: usize): void {
  for (let i: usize = 0; i < 27; i++) {
    const at = W + 16 * i
    if (i < 14) {
      store<i64>(at, <i64>load<i32>(a + 8 * i))
      store<i64>(at + 8, <i64>load<i32>(a + 8 * i + 4))
    } else {
      store<i64>(at, 0)
      store<i64>(at + 8, 0)
    }
  }
  reduce(S, W)
  // |a| < 2⁹p < R/4: the result is in ±1¼p; 2p are added, and p is taken off as often as it fits.
  let up: i32 = 0
  for (let i: usize = 0; i < 14; i++) {
    const t = load<i32>(S + 8 * i + 4 * lane) + 2 * load<i32>(P_LIMBS + 4 * i) + up
    store<i32>(r + 4 * i, i === 13 ? t : t & MASK)
    up = t >> 28
  }
  for (let k = 0; k < 3; k++) {
    const negative = subtractLimbs(D, r, P_LIMBS)
    for (let i: usize = 0; i < 56; i += 4) {
      store<i32>(r + i, (load<i32>(r + i) & negative) | (load<i32>(D + i) & ~negative))
    }
  }
}

/** −1 when the lane of a is 0 mod p, else 0. */
export function isZero(a: usize, lane: usize): i32 {
  canonical(L, a, lane)
  let bits: i32 = 0
  for (let i: usize = 0; i < 56; i += 4) bits |= load<i32>(L + i)
  return ((bits | -bits) >> 31) ^ -1
}
export function isZero2(a: usize): i32 {
  return isZero(a, 0) & isZero(a, 1)
}
/** The lowest bit of the canonical value: sgn0 of RFC 9380 §4.1 for m = 1. */
export function parity(a: usize, lane: usize): i32 {
  canonical(L, a, lane)
  return load<i32>(L) & 1
}
/** 1 when the lane of a is above (p − 1)/2. */
export function isLarger(a: usize, lane: usize): i32 {
  canonical(L, a, lane)
  return subtractLimbs(D, HALF_P, L) & 1
}

/** 1 when the 14 limbs of a lane, as they were read from bytes, are below p. */
export function isReduced(a: usize, lane: usize): i32 {
  for (let i: usize = 0; i < 14; i++) store<i32>(L + 4 * i, load<i32>(a + 8 * i + 4 * lane))
  return subtractLimbs(D, L, P_LIMBS) & 1
}

/** A lane of r = the big-endian integer at `from`, not in Montgomery's form yet. At most 48 bytes. */
export function readInteger(r: usize, lane: usize, from: usize, bytes: i32): void {
  let held: u64 = 0
  let bits: i32 = 0
  let limb: usize = 0
  for (let i = bytes - 1; i >= 0; i--) {
    held |= (<u64>load<u8>(from + i)) << bits
    bits += 8
    if (bits >= 28) {
      store<u32>(r + 8 * limb + 4 * lane, <u32>held & MASK)
      held >>= 28
      bits -= 28
      limb++
    }
  }
  for (; limb < 14; limb++) {
    store<u32>(r + 8 * limb + 4 * lane, <u32>held & MASK)
    held >>= 28
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
    if (bits < 8 && limb < 14) {
      held |= (<u64>load<u32>(L + 4 * limb)) << bits
      bits += 28
      limb++
    }
    store<u8>(to + i, <u8>held)
    held >>= 8
    bits -= 8
  }
}

/** r = a where the mask is set, else b. The mask has a lane's 32 bits at 0 and 1 (and again at 2 and 3). */
export function select(r: usize, a: usize, b: usize, mask: v128): void {
  for (let at: usize = 0; at < 112; at += 16) {
    v128.store(r + at, v128.bitselect(v128.load(a + at), v128.load(b + at), mask))
  }
}
export function laneMask(m0: i32, m1: i32): v128 {
  return i64x2.splat(((<i64>m1) << 32) | (<i64>m0 & 0xffff_ffff))
}
