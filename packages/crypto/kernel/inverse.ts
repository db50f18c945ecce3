/**
 * Inverses in Fp by division steps (Bernstein, Yang 2019, with δ = ½ at the start, and the bound of Pornin and Wuille for
 * it: ⌊(45907·381 + 26313)/19929⌋ = 878 steps for 381 bits). 30 batches of 30 steps, each on the lowest 30 bits, then
 * applied as a matrix. One shape for all values: what is inverted may be a secret point's Z.
 *
 * Integers here have 13 limbs of 30 bits, the top one signed. |f|, |g| ≤ 2³⁸¹, and d, e stay in (−2p, p); the matrix's rows
 * sum to at most 2³⁰ in size, so that u·fᵢ + v·gᵢ + pᵢ·m and its carry are below 2⁶².
 */
import { readInteger, toMontgomery, writeBytes } from './codec'
import { P30, P30_INVERSE } from './constants'
import { lanes00, PAIR } from './field'

const MASK: i32 = 0x3fff_ffff

const F: usize = memory.data(52, 16)
const G: usize = memory.data(52, 16)
const D: usize = memory.data(52, 16)
const E: usize = memory.data(52, 16)
/** A canonical integer, big-endian. */
const BYTES: usize = memory.data(48, 16)
/** u, v, q, r. */
const MATRIX: usize = memory.data(16, 16)

/** 30 steps on the lowest bits of f and g. ζ = −(δ + ½). */
function divisionSteps(start: i32): i32 {
  let zeta = start
  let u: i32 = 1
  let v: i32 = 0
  let q: i32 = 0
  let r: i32 = 1
  let f = load<i32>(F)
  let g = load<i32>(G)
  for (let i = 0; i < 30; i++) {
    let negative = zeta >> 31
    const odd = -(g & 1)
    g += ((f ^ negative) - negative) & odd
    q += ((u ^ negative) - negative) & odd
    r += ((v ^ negative) - negative) & odd
    negative &= odd
    zeta = (zeta ^ negative) - 1
    f += g & negative
    u += q & negative
    v += r & negative
    g = <i32>(<u32>g >> 1)
    u <<= 1
    v <<= 1
  }
  store<i32>(MATRIX, u)
  store<i32>(MATRIX, v, 4)
  store<i32>(MATRIX, q, 8)
  store<i32>(MATRIX, r, 12)
  return zeta
}

/** (f, g) = MATRIX·(f, g)/2³⁰, which is whole. */
function applyToValues(): void {
  const u = <i64>load<i32>(MATRIX)
  const v = <i64>load<i32>(MATRIX, 4)
  const q = <i64>load<i32>(MATRIX, 8)
  const r = <i64>load<i32>(MATRIX, 12)
  let f: i64 = 0
  let g: i64 = 0
  for (let at: usize = 0; at < 52; at += 4) {
    const x = <i64>load<i32>(F + at)
    const y = <i64>load<i32>(G + at)
    f += u * x + v * y
    g += q * x + r * y
    if (at > 0) {
      store<i32>(F + at - 4, <i32>f & MASK)
      store<i32>(G + at - 4, <i32>g & MASK)
    }
    f >>= 30
    g >>= 30
  }
  store<i32>(F, <i32>f, 48)
  store<i32>(G, <i32>g, 48)
}

/** (d, e) = MATRIX·(d, e)/2³⁰ mod p. */
function applyToFactors(): void {
  const u = load<i32>(MATRIX)
  const v = load<i32>(MATRIX, 4)
  const q = load<i32>(MATRIX, 8)
  const r = load<i32>(MATRIX, 12)
  const dNegative = load<i32>(D, 48) >> 31
  const eNegative = load<i32>(E, 48) >> 31
  let md = (u & dNegative) + (v & eNegative)
  let me = (q & dNegative) + (r & eNegative)
  let d: i64 = 0
  let e: i64 = 0
  for (let at: usize = 0; at < 52; at += 4) {
    const x = <i64>load<i32>(D + at)
    const y = <i64>load<i32>(E + at)
    d += <i64>u * x + <i64>v * y
    e += <i64>q * x + <i64>r * y
    if (at === 0) {
      // Multiples of p that clear the lowest 30 bits.
      md -= (P30_INVERSE * <i32>d + md) & MASK
      me -= (P30_INVERSE * <i32>e + me) & MASK
    }
    const p = <i64>load<i32>(P30 + at)
    d += p * <i64>md
    e += p * <i64>me
    if (at > 0) {
      store<i32>(D + at - 4, <i32>d & MASK)
      store<i32>(E + at - 4, <i32>e & MASK)
    }
    d >>= 30
    e >>= 30
  }
  store<i32>(D, <i32>d, 48)
  store<i32>(E, <i32>e, 48)
}

/** D = (sign < 0 ? −D : D) + p where `add` is set, carried. */
function correct(sign: i32, add: i32): void {
  let carry: i32 = 0
  for (let at: usize = 0; at < 52; at += 4) {
    const value = (load<i32>(D + at) ^ sign) - sign + (load<i32>(P30 + at) & add) + carry
    store<i32>(D + at, at === 48 ? value : value & MASK)
    carry = value >> 30
  }
}

/** r = 1/a₀ in both lanes; 0 for 0. */
export function invert(r: usize, a: usize): void {
  writeBytes(BYTES, a, 0)
  let held: u64 = 0
  let bits: i32 = 0
  let at: usize = 0
  for (let i: i32 = 47; i >= 0; i--) {
    held |= (<u64>load<u8>(BYTES + i)) << bits
    bits += 8
    if (bits >= 30) {
      store<i32>(G + at, <i32>held & MASK)
      held >>= 30
      bits -= 30
      at += 4
    }
  }
  store<i32>(G, <i32>held, 48)
  memory.copy(F, P30, 52)
  memory.fill(D, 0, 52)
  memory.fill(E, 0, 52)
  store<i32>(E, 1)
  let zeta: i32 = -1
  for (let i = 0; i < 30; i++) {
    zeta = divisionSteps(zeta)
    applyToFactors()
    applyToValues()
  }
  // g = 0 and f = ±1: d = ±1/a in (−2p, p).
  correct(0, load<i32>(D, 48) >> 31)
  correct(load<i32>(F, 48) >> 31, 0)
  correct(0, load<i32>(D, 48) >> 31)
  held = 0
  bits = 0
  at = 0
  for (let i: i32 = 47; i >= 0; i--) {
    if (bits < 8) {
      held |= (<u64>load<u32>(D + at)) << bits
      bits += 30
      at += 4
    }
    store<u8>(BYTES + i, <u8>held)
    held >>= 8
    bits -= 8
  }
  memory.fill(r, 0, PAIR)
  readInteger(r, 0, BYTES, 48)
  toMontgomery(r, r)
  lanes00(r, r, r)
}
