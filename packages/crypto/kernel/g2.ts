/**
 * G2: E'(Fp2): y² = x³ + 4ξ. A point is homogeneous, (X, Y, Z) in Fp2, the identity (0 : 1 : 0); the same complete formulas
 * as in g1.ts with b₃ = 12ξ: E'(Fp2) has no point of order 2 either.
 */

import {
  isLarger,
  isReduced,
  isZero,
  isZero2,
  parity,
  readInteger,
  readWide,
  toMontgomery,
  writeBytes,
} from './codec'
import {
  FOUR_XI,
  HALF_STEPS,
  HALF_TAPE,
  ISO2_A,
  ISO2_B,
  ISO2_H,
  ISO2_MINUS_B_OVER_A,
  ISO2_X,
  ISO2_X_EXCEPTION,
  ISO2_Y,
  ONE2,
  PSI_X,
  PSI_Y,
  ROOT_STEPS,
  ROOT_TAPE,
  Z2,
} from './constants'
import {
  add,
  addWide,
  carry,
  conjugate,
  copy,
  double,
  multiplyWide2,
  negate,
  reduce,
  sub,
  subWide2,
  timesI,
  timesXi,
  triple,
} from './field'
import { bitOfT, digitsOf } from './scalar'
import { lookUp } from './table'
import { F2, invert2, multiply2, power2, square2 } from './tower'

export const G2: usize = 336

const A: usize = memory.data(896, 16)
const W: usize = memory.data(432, 16)
const V: usize = memory.data(432, 16)
const T0: usize = memory.data(432, 16)
const T1: usize = memory.data(432, 16)
const T2: usize = memory.data(432, 16)

/** r = 12ξa, tight. */
function timesB3(r: usize, a: usize): void {
  timesXi(r, a)
  carry(r, r)
  triple(r, r)
  double(r, r)
  double(r, r)
  carry(r, r)
}

/** See g1Double. */
export function g2Double(r: usize, p: usize): void {
  const t0 = A
  const t1 = A + F2
  const t2 = A + 2 * F2
  const xy = A + 3 * F2
  const t = A + 4 * F2
  const s = A + 5 * F2
  square2(t0, p + F2)
  multiply2(t1, p + F2, p + 2 * F2)
  square2(t2, p + 2 * F2)
  timesB3(t2, t2)
  multiply2(xy, p, p + F2)
  add(s, t0, t2)
  triple(t, t2)
  sub(t, t0, t)
  carry(t, t)
  double(t0, t0)
  double(t0, t0)
  double(t0, t0)
  // u(t) = 1, u(s) = 2, u(t2) = 1, u(8t0) = 8: the sum weighs 10 ≤ 16.
  multiplyWide2(W, t, s)
  multiplyWide2(V, t2, t0)
  addWide(W, W, V)
  reduce(r + F2, W)
  multiply2(r + 2 * F2, t0, t1)
  double(t, t)
  multiply2(r, t, xy)
}

/** See g1Add. */
export function g2Add(r: usize, p: usize, q: usize): void {
  const t0 = A
  const t1 = A + F2
  const t2 = A + 2 * F2
  const t3 = A + 3 * F2
  const t4 = A + 4 * F2
  const y = A + 5 * F2
  const s = A + 6 * F2
  const t = A + 7 * F2
  multiplyWide2(T0, p, q)
  multiplyWide2(T1, p + F2, q + F2)
  multiplyWide2(T2, p + 2 * F2, q + 2 * F2)
  add(s, p, p + F2)
  add(t, q, q + F2)
  multiplyWide2(W, s, t)
  subWide2(W, T0, T1)
  reduce(t3, W)
  add(s, p + F2, p + 2 * F2)
  add(t, q + F2, q + 2 * F2)
  multiplyWide2(W, s, t)
  subWide2(W, T1, T2)
  reduce(t4, W)
  add(s, p, p + 2 * F2)
  add(t, q, q + 2 * F2)
  multiplyWide2(W, s, t)
  subWide2(W, T0, T2)
  reduce(y, W)
  timesB3(y, y)
  reduce(t0, T0)
  triple(t0, t0)
  reduce(t1, T1)
  reduce(t2, T2)
  timesB3(t2, t2)
  add(s, t1, t2)
  sub(t, t1, t2)
  // u(t3) = u(t4) = u(y) = 1, u(s) = u(t) = 2, u(t0) = 3.
  multiplyWide2(W, t3, t)
  negate(t1, t4)
  multiplyWide2(V, t1, y)
  addWide(W, W, V)
  reduce(r, W)
  multiplyWide2(W, t, s)
  multiplyWide2(V, t0, y)
  addWide(W, W, V)
  reduce(r + F2, W)
  multiplyWide2(W, s, t4)
  multiplyWide2(V, t0, t3)
  addWide(W, W, V)
  reduce(r + 2 * F2, W)
}

export function g2Copy(r: usize, p: usize): void {
  memory.copy(r, p, G2)
}
export function g2Identity(r: usize): void {
  memory.fill(r, 0, G2)
  copy(r + F2, ONE2)
}
export function g2Negate(r: usize, p: usize): void {
  if (r !== p) g2Copy(r, p)
  negate(r + F2, p + F2)
}
/** −1 or 0. */
export function g2IsIdentity(p: usize): i32 {
  return isZero2(p + 2 * F2)
}
export function g2Equals(p: usize, q: usize): i32 {
  multiplyWide2(W, p, q + 2 * F2)
  multiplyWide2(V, q, p + 2 * F2)
  reduce(A, W)
  reduce(A + F2, V)
  sub(A, A, A + F2)
  const x = isZero2(A)
  multiplyWide2(W, p + F2, q + 2 * F2)
  multiplyWide2(V, q + F2, p + 2 * F2)
  reduce(A, W)
  reduce(A + F2, V)
  sub(A, A, A + F2)
  return x & isZero2(A)
}

/** ψ, the Frobenius of the twist: (X̄·ψx, Ȳ·ψy, Z̄); ψ(p) = t·p on the group. */
function psi(r: usize, p: usize): void {
  conjugate(r, p)
  multiply2(r, r, PSI_X)
  conjugate(r + F2, p + F2)
  multiply2(r + F2, r + F2, PSI_Y)
  conjugate(r + 2 * F2, p + 2 * F2)
}
/** |t|·p by the bits of the public |t|. r ≠ p. */
function timesT(r: usize, p: usize): void {
  g2Copy(r, p)
  for (let i = 62; i >= 0; i--) {
    g2Double(r, r)
    if (bitOfT(i)) g2Add(r, r, p)
  }
}
const E: usize = memory.data(336, 16)
const F: usize = memory.data(336, 16)
const D: usize = memory.data(336, 16)
/** Is ψ(p) = t·p? In E'(Fp2) exactly for the points of order dividing q (Scott 2021, §4). */
export function g2InSubgroup(p: usize): i32 {
  timesT(E, p)
  g2Negate(E, E)
  psi(F, p)
  return g2Equals(E, F)
}

const ROOTS: usize = memory.data(448, 16)
/**
 * r = √a: −1, or 0 when a is no square. r ≠ a. (Adj, Rodríguez-Henríquez 2012, algorithm 9, p ≡ 3 mod 4.) Not of one
 * shape: what is rooted here is public.
 */
function root2(r: usize, a: usize): i32 {
  const power1 = ROOTS
  const x0 = ROOTS + F2
  const alpha = ROOTS + 2 * F2
  const s = ROOTS + 3 * F2
  power2(power1, a, ROOT_TAPE, ROOT_STEPS)
  multiply2(x0, power1, a)
  multiply2(alpha, power1, x0)
  add(alpha, alpha, ONE2)
  carry(alpha, alpha)
  if (isZero2(alpha)) {
    timesI(r, x0)
  } else {
    power2(s, alpha, HALF_TAPE, HALF_STEPS)
    multiply2(r, s, x0)
  }
  square2(s, r)
  sub(s, s, a)
  return isZero2(s)
}
/** 1 when y is the larger of ±y: by the imaginary part, then by the real one. */
function isLarger2(y: usize): i32 {
  return isZero(y, 1) ? isLarger(y, 0) : isLarger(y, 1)
}

const X: usize = memory.data(112, 16)
const S: usize = memory.data(112, 16)
const Y: usize = memory.data(112, 16)
/** Like g1Decode, of 96 bytes: x₁, then x₀. */
export function g2Decode(r: usize, from: usize): i32 {
  const larger: i32 = (load<u8>(from) >> 5) & 1
  store<u8>(from, load<u8>(from) & 0x1f)
  readInteger(X, 1, from, 48)
  readInteger(X, 0, from + 48, 48)
  if (!(isReduced(X, 0) & isReduced(X, 1))) return 0
  toMontgomery(X, X)
  square2(S, X)
  multiply2(S, S, X)
  add(S, S, FOUR_XI)
  carry(S, S)
  if (!root2(Y, S)) return 0
  if (isLarger2(Y) !== larger) negate(Y, Y)
  copy(r, X)
  copy(r + F2, Y)
  copy(r + 2 * F2, ONE2)
  return g2InSubgroup(r) & 1
}
/** r = the same point with Z = 1; of the identity, zeros. */
export function g2Normalise(r: usize, p: usize): void {
  invert2(S, p + 2 * F2)
  multiply2(r, p, S)
  multiply2(r + F2, p + F2, S)
  copy(r + 2 * F2, ONE2)
}
export function g2Encode(to: usize, p: usize): void {
  g2Normalise(D, p)
  writeBytes(to, D, 1)
  writeBytes(to + 48, D, 0)
  const infinite = g2IsIdentity(p)
  const inOne = isZero(D + F2, 1)
  const flags = 0x80 | (((isLarger(D + F2, 1) & ~inOne) | (isLarger(D + F2, 0) & inOne)) << 5)
  store<u8>(to, load<u8>(to) | <u8>((flags & ~infinite) | (0xc0 & infinite)))
}

const TABLE: usize = memory.data(21504, 16)
const DIGITS: usize = memory.data(32, 16)
/**
 * r = k·p for a point of the group and a secret k of 32 bytes: k = Σ dᵢ|t|ⁱ and |t|ⁱ·p = (−1)ⁱψⁱ(p), four bits of each
 * digit at a time. Overwrites what held k and its multiples.
 */
export function g2MultiplySecret(r: usize, p: usize, k: usize): void {
  digitsOf(DIGITS, k)
  g2Identity(TABLE)
  g2Copy(TABLE + G2, p)
  for (let i: usize = 2; i < 16; i++) {
    if (i & 1) g2Add(TABLE + i * G2, TABLE + (i - 1) * G2, p)
    else g2Double(TABLE + i * G2, TABLE + (i >> 1) * G2)
  }
  for (let i: usize = 16; i < 64; i++) {
    psi(D, TABLE + (i - 16) * G2)
    g2Negate(TABLE + i * G2, D)
  }
  g2Identity(E)
  for (let i: i32 = 15; i >= 0; i--) {
    if (i < 15) for (let j = 0; j < 4; j++) g2Double(E, E)
    for (let d: usize = 0; d < 4; d++) {
      const digit = (load<u8>(DIGITS + 8 * d + (i >> 1)) >> <u8>(4 * (i & 1))) & 15
      lookUp(F, TABLE + 16 * d * G2, G2, digit)
      g2Add(E, E, F)
    }
  }
  g2Copy(r, E)
  memory.fill(DIGITS, 0, 32)
  memory.fill(TABLE, 0, 64 * G2)
  memory.fill(A, 0, 896)
  memory.fill(D, 0, G2)
  memory.fill(E, 0, G2)
  memory.fill(F, 0, G2)
}

// Hash to G2 (RFC 9380 §8.8.2). What is hashed is public.

const H: usize = memory.data(896, 16)
function sgn0(a: usize): i32 {
  return parity(a, 0) | (isZero(a, 0) & parity(a, 1))
}
/** r = x³ + A'x + B'. */
function isoRight(r: usize, x: usize): void {
  square2(S, x)
  add(S, S, ISO2_A)
  multiply2(S, S, x)
  add(S, S, ISO2_B)
  carry(r, S)
}
function polynomial(r: usize, coefficients: usize, degree: i32, x: usize): void {
  copy(r, coefficients + <usize>degree * F2)
  for (let i = degree - 1; i >= 0; i--) {
    multiply2(r, r, x)
    add(r, r, coefficients + <usize>i * F2)
  }
  carry(r, r)
}
/** Simplified SWU onto E'' (§6.6.2) and the 3-isogeny to E'. */
function mapToCurve(r: usize, u: usize): void {
  const zu2 = H
  const tv = H + F2
  const x = H + 2 * F2
  const g = H + 3 * F2
  const y = H + 4 * F2
  const h = H + 5 * F2
  const s = H + 6 * F2
  square2(s, u)
  multiply2(zu2, s, Z2)
  square2(tv, zu2)
  add(tv, tv, zu2)
  if (isZero2(tv)) {
    copy(x, ISO2_X_EXCEPTION)
  } else {
    carry(tv, tv)
    invert2(s, tv)
    add(s, s, ONE2)
    multiply2(x, s, ISO2_MINUS_B_OVER_A)
  }
  isoRight(g, x)
  if (!root2(y, g)) {
    multiply2(x, x, zu2)
    isoRight(g, x)
    root2(y, g)
  }
  if (sgn0(u) !== sgn0(y)) negate(y, y)
  polynomial(h, ISO2_H, 1, x)
  polynomial(s, ISO2_X, 3, x)
  polynomial(g, ISO2_Y, 3, x)
  multiply2(r, s, h)
  multiply2(r + F2, g, y)
  square2(s, h)
  multiply2(r + 2 * F2, s, h)
}
const U: usize = memory.data(112, 16)
const P: usize = memory.data(336, 16)
const Q: usize = memory.data(336, 16)
/** 2 or 4 × 64 bytes of hash_to_field at `from`; `both`: hash_to_curve, else encode_to_curve. */
export function g2Hash(r: usize, from: usize, both: i32): void {
  readWide(U, from)
  mapToCurve(P, U)
  if (both) {
    readWide(U, from + 128)
    mapToCurve(Q, U)
    g2Add(P, P, Q)
  }
  clearCofactor(r)
}
/** By h_eff, P to r: (t² − t − 1)P + (t − 1)ψ(P) + ψ²(2P) (Budroni, Pintore 2017; RFC 9380 Appendix G.3). */
function clearCofactor(r: usize): void {
  // D = t·P, Q = ψ(P), r = ψ²(2P) − Q.
  timesT(D, P)
  g2Negate(D, D)
  psi(Q, P)
  g2Double(r, P)
  psi(E, r)
  psi(F, E)
  g2Negate(E, Q)
  g2Add(r, F, E)
  // + t(D + Q) − D − P.
  g2Add(Q, Q, D)
  timesT(E, Q)
  g2Negate(E, E)
  g2Add(r, r, E)
  g2Negate(D, D)
  g2Add(r, r, D)
  g2Negate(P, P)
  g2Add(r, r, P)
}
