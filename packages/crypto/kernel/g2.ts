/**
 * G2: E'(Fp2): y² = x³ + 4ξ. A point is homogeneous, (X, Y, Z) in Fp2, the identity (0 : 1 : 0); the same complete formulas
 * as in g1.ts with b₃ = 12ξ: E'(Fp2) has no point of order 2 either. Where no exception can come up, by an argument that
 * stands there, points are Jacobian, which takes half the time.
 */

import {
  isLarger,
  isReduced,
  isZero,
  isZero2,
  parity,
  readInteger,
  readWide,
  select,
  toMontgomery,
  writeBytes,
} from './codec'
import {
  FOUR_XI,
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
  Z2,
} from './constants'
import {
  add,
  addLanesWide,
  addWide,
  carry,
  conjugate,
  copy,
  double,
  laneMask,
  lanes00,
  lanes01,
  multiply,
  multiplyWide,
  multiplyWide2,
  negate,
  PAIR,
  reduce,
  squareWide2,
  sub,
  subEightWide,
  subWide,
  subWide2,
  timesI,
  timesXi,
  triple,
  WIDE,
} from './field'
import { ROOT, rootBegin, rootEnd } from './root'
import { alignedDigits, bitOfT, digitsOf } from './scalar'
import { lookUp } from './table'
import { F2, invert2, multiply2, square2 } from './tower'

export const G2: usize = 3 * PAIR

const A: usize = memory.data(8 * PAIR, 16)
const W: usize = memory.data(WIDE, 16)
const V: usize = memory.data(WIDE, 16)
const T0: usize = memory.data(WIDE, 16)
const T1: usize = memory.data(WIDE, 16)
const T2: usize = memory.data(WIDE, 16)

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

/** X̄·ψx, Ȳ·ψy. */
function psiAffine(r: usize, p: usize): void {
  conjugate(r, p)
  multiply2(r, r, PSI_X)
  conjugate(r + F2, p + F2)
  multiply2(r + F2, r + F2, PSI_Y)
}
/** ψ, the Frobenius of the twist: (X̄·ψx, Ȳ·ψy, Z̄); ψ(p) = t·p on the group. */
function psi(r: usize, p: usize): void {
  psiAffine(r, p)
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
const E: usize = memory.data(3 * PAIR, 16)
const F: usize = memory.data(3 * PAIR, 16)
const D: usize = memory.data(3 * PAIR, 16)

/**
 * A point in Jacobian coordinates, x = X/Z², y = Y/Z³, all three tight. The formulas are not complete: an addition of the
 * identity, of equal or of opposite points leaves Z = 0, and Z stays 0 from there on.
 */
const J: usize = memory.data(3 * PAIR, 16)
/** A = X², B = Y², C = B², D = 4XB, E = 3A: X₃ = E² − 2D, Y₃ = E(D − X₃) − 8C, Z₃ = 2YZ (dbl-2009-l of the EFD). */
function jacobianDouble(): void {
  const y = J + F2
  const z = J + 2 * F2
  const b = A
  const d = A + F2
  const e = A + 2 * F2
  const s = A + 3 * F2
  squareWide2(W, J)
  reduce(e, W)
  square2(b, y)
  squareWide2(V, b)
  // D = 2((X + B)² − A − C), u = 2.
  add(s, J, b)
  squareWide2(T0, s)
  subWide2(T0, W, V)
  reduce(d, T0)
  double(d, d)
  triple(e, e)
  carry(e, e)
  multiply2(z, y, z)
  double(z, z)
  carry(z, z)
  square2(s, e)
  sub(s, s, d)
  sub(s, s, d)
  carry(J, s)
  // u(E) = 1, u(D − X₃) = 3; 8C weighs 8: 11 ≤ 16.
  sub(d, d, J)
  multiplyWide2(W, e, d)
  subEightWide(W, V)
  reduce(y, W)
}
/**
 * J + (x, y), x and y at q. H = xZ² − X, R = 2(yZ³ − Y), I = 4H²: X₃ = R² − HI − 2XI, Y₃ = R(XI − X₃) − 2Y·HI,
 * Z₃ = (Z + H)² − Z² − H² (madd-2007-bl of the EFD).
 */
function jacobianAdd(q: usize): void {
  const y = J + F2
  const z = J + 2 * F2
  const h = A
  const i = A + F2
  const r = A + 2 * F2
  const s = A + 3 * F2
  const v = A + 4 * F2
  squareWide2(T0, z)
  reduce(s, T0)
  multiply2(h, q, s)
  sub(h, h, J)
  carry(h, h)
  multiply2(r, z, s)
  multiply2(r, r, q + F2)
  sub(r, r, y)
  double(r, r)
  carry(r, r)
  squareWide2(W, h)
  reduce(i, W)
  add(s, z, h)
  squareWide2(V, s)
  subWide2(V, T0, W)
  reduce(z, V)
  double(i, i)
  double(i, i)
  multiply2(v, J, i)
  multiply2(i, h, i)
  square2(s, r)
  sub(s, s, i)
  sub(s, s, v)
  sub(s, s, v)
  carry(J, s)
  // u(R) = 1, u(XI − X₃) = 2, u(2Y) = 2.
  sub(v, v, J)
  multiplyWide2(W, r, v)
  double(y, y)
  multiplyWide2(V, y, i)
  subWide(W, W, V)
  reduce(y, W)
}
/** J = the point with x and y at q. */
function jacobianSet(q: usize): void {
  memory.copy(J, q, 2 * F2)
  copy(J + 2 * F2, ONE2)
}
/** r = J, homogeneous: (XZ, Y, Z³). */
function fromJacobian(r: usize): void {
  const z = J + 2 * F2
  multiply2(r, J, z)
  copy(r + F2, J + F2)
  square2(r + 2 * F2, z)
  multiply2(r + 2 * F2, r + 2 * F2, z)
}

/**
 * Is ψ(p) = t·p, Z = 1? In E'(Fp2) exactly for the points of order dividing q (Scott 2021, §4). In the group, of prime
 * order q, nothing on the way to |t|p is the identity or ±p: Z = 0 means that the point is outside.
 */
function isInSubgroup(p: usize): i32 {
  jacobianSet(p)
  for (let i = 62; i >= 0; i--) {
    jacobianDouble()
    if (bitOfT(i)) jacobianAdd(p)
  }
  // X = ψx·Z² and Y = −ψy·Z³.
  const z = J + 2 * F2
  psiAffine(F, p)
  square2(E, z)
  multiply2(E + F2, E, z)
  multiply2(F, F, E)
  multiply2(F + F2, F + F2, E + F2)
  sub(F, F, J)
  add(F + F2, F + F2, J + F2)
  return isZero2(F) & isZero2(F + F2) & ~isZero2(z)
}

const ROOTS: usize = memory.data(3 * PAIR, 16)
/**
 * r = √a: −1, or 0 when a is no square. r ≠ a. Not of one shape: what is rooted here is public.
 *
 * With s² = a₀² + a₁² = n and D = 2(a₀ + s), (a + s)² = aD: so D^((p − 3)/4)·(a + s) is a root of a, or of −a where D is
 * no square of Fp. D = 0 only for a real a with s = −a₀; then s = a₀ does.
 */
export function root2(r: usize, a: usize): i32 {
  const n = ROOTS
  const sum = ROOTS + F2
  const s = ROOTS + 2 * F2
  multiplyWide(W, a, a)
  addLanesWide(V, W)
  reduce(n, V)
  rootBegin(n)
  rootEnd(1)
  multiply(sum, ROOT, n)
  lanes00(s, a, a)
  add(sum, sum, s)
  if (isZero(sum, 0)) double(sum, s)
  double(s, sum)
  carry(s, s)
  rootBegin(s)
  rootEnd(1)
  // (a₀ + s, a₁).
  lanes01(s, sum, a)
  multiply(r, ROOT, s)
  square2(s, r)
  sub(sum, s, a)
  if (isZero2(sum)) return -1
  add(s, s, a)
  timesI(sum, r)
  copy(r, sum)
  return isZero2(s)
}
/** 1 when y is the larger of ±y: by the imaginary part, then by the real one. */
function isLarger2(y: usize): i32 {
  return isZero(y, 1) ? isLarger(y, 0) : isLarger(y, 1)
}

const X: usize = memory.data(PAIR, 16)
const S: usize = memory.data(PAIR, 16)
const Y: usize = memory.data(PAIR, 16)
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
  return isInSubgroup(r) & 1
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

/** Affine, two pairs each: entry j is p + Σ bᵢ|t|ⁱp, b₁, b₂, b₃ the bits of j. */
const TABLE: usize = memory.data(16 * PAIR, 16)
const ENTRY: usize = 2 * PAIR
/** |t|ⁱp = (−1)ⁱψⁱ(p), i = 1, 2, 3, affine. */
const IMAGES: usize = memory.data(6 * PAIR, 16)
/** What the entry is, the entry it is made of, and the image that is added: three at a time, and one. */
const SUMS: usize = memory.data<u8>([1, 0, 0, 2, 0, 1, 4, 0, 2, 3, 1, 1, 5, 1, 2, 6, 2, 2, 7, 3, 2])
const DIFFERENCES: usize = memory.data(3 * PAIR, 16)
const PRODUCTS: usize = memory.data(4 * PAIR, 16)
/** Entries of the table by `count` affine additions, with one inversion: λ = Δy/Δx. */
function addEntries(sums: usize, count: usize): void {
  const s = A
  const x = A + F2
  const y = A + 2 * F2
  const inverse = A + 3 * F2
  const lambda = A + 4 * F2
  copy(PRODUCTS, ONE2)
  for (let i: usize = 0; i < count; i++) {
    const p = TABLE + ENTRY * <usize>load<u8>(sums + 3 * i + 1)
    const q = IMAGES + ENTRY * <usize>load<u8>(sums + 3 * i + 2)
    const difference = DIFFERENCES + F2 * i
    sub(difference, q, p)
    carry(difference, difference)
    multiply2(PRODUCTS + F2 * (i + 1), PRODUCTS + F2 * i, difference)
  }
  invert2(inverse, PRODUCTS + F2 * count)
  for (let i: usize = count; i > 0; i--) {
    const at = sums + 3 * (i - 1)
    const r = TABLE + ENTRY * <usize>load<u8>(at)
    const p = TABLE + ENTRY * <usize>load<u8>(at + 1)
    const q = IMAGES + ENTRY * <usize>load<u8>(at + 2)
    multiply2(lambda, inverse, PRODUCTS + F2 * (i - 1))
    multiply2(inverse, inverse, DIFFERENCES + F2 * (i - 1))
    sub(s, q + F2, p + F2)
    multiply2(lambda, lambda, s)
    square2(s, lambda)
    sub(s, s, p)
    sub(s, s, q)
    carry(x, s)
    sub(s, p, x)
    multiply2(y, lambda, s)
    sub(y, y, p + F2)
    copy(r, x)
    carry(r + F2, y)
  }
}
const DIGITS: usize = memory.data(32, 16)
const PLACES: usize = memory.data(80, 16)
/** F = ± the table's entry for a place, Z = 1. */
function entryAt(place: usize): void {
  const column: u32 = load<u8>(PLACES + place)
  lookUp(F, TABLE, 8, ENTRY, column & 7)
  negate(D, F + F2)
  const sign = -(<i32>(column >> 3))
  select(F + F2, D, F + F2, laneMask(sign, sign))
}
/**
 * r = k·p for a point of the group and a secret k of 32 bytes: k = Σ dᵢ|t|ⁱ, d₀ made odd, and at each of 65 places the
 * digits' signs aligned to that of d₀, so that one entry of eight is added or subtracted.
 *
 * Nothing excepted comes up in the additions that are not complete. What they add or subtract, and what they add it to,
 * are Σ aᵢ|t|ⁱp with vectors a: one is odd in its first place and the other even, so neither they, nor their sum nor
 * their difference, is zero as a vector; in the table, they differ in a place. If such a sum were the identity for a ≠ 0,
 * then q would divide the norm of Σ aᵢζⁱ ≠ 0, ζ of order 12 (q = t⁴ − t² + 1 is its polynomial at t), so q ≤ (Σ|aᵢ|)⁴. At
 * place i each |aⱼ| ≤ |t|/2ⁱ + 3; from place 3 on that is Σ|aⱼ| ≤ |t|/2 + 12. The last three places, and −p where d₀ was
 * even, are added by complete formulas.
 * For the identity, which has no affine coordinates, all this runs on what does not matter.
 */
export function g2MultiplySecret(r: usize, p: usize, k: usize): void {
  digitsOf(DIGITS, k)
  const even: u64 = (load<u64>(DIGITS) & 1) ^ 1
  store<u64>(DIGITS, load<u64>(DIGITS) + even)
  alignedDigits(PLACES, DIGITS)
  const infinite = g2IsIdentity(p)
  g2Normalise(D, p)
  memory.copy(TABLE, D, ENTRY)
  psiAffine(IMAGES, D)
  psiAffine(IMAGES + ENTRY, IMAGES)
  psiAffine(IMAGES + 2 * ENTRY, IMAGES + ENTRY)
  negate(IMAGES + F2, IMAGES + F2)
  negate(IMAGES + 2 * ENTRY + F2, IMAGES + 2 * ENTRY + F2)
  addEntries(SUMS, 3)
  addEntries(SUMS + 9, 3)
  addEntries(SUMS + 18, 1)
  copy(F + 2 * F2, ONE2)
  entryAt(64)
  jacobianSet(F)
  for (let place: usize = 63; place >= 3; place--) {
    jacobianDouble()
    entryAt(place)
    jacobianAdd(F)
  }
  fromJacobian(E)
  for (let place: i32 = 2; place >= 0; place--) {
    g2Double(E, E)
    entryAt(<usize>place)
    g2Add(E, E, F)
  }
  // − p, or + 0.
  g2Identity(D)
  g2Negate(F, TABLE)
  copy(F + 2 * F2, ONE2)
  selectPoint(F, F, D, -(<i32>even))
  g2Add(E, E, F)
  selectPoint(r, D, E, infinite)
}
/** r = p where the mask is set, else q. */
function selectPoint(r: usize, p: usize, q: usize, mask: i32): void {
  const both = laneMask(mask, mask)
  for (let at: usize = 0; at < G2; at += F2) select(r + at, p + at, q + at, both)
}

// Hash to G2 (RFC 9380 §8.8.2). What is hashed is public.

const H: usize = memory.data(8 * PAIR, 16)
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
const U: usize = memory.data(PAIR, 16)
const P: usize = memory.data(3 * PAIR, 16)
const Q: usize = memory.data(3 * PAIR, 16)
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
