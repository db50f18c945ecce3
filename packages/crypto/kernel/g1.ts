/**
 * G1: E(Fp): y² = x³ + 4. A point is homogeneous, x = X/Z, y = Y/Z, the identity (0 : 1 : 0); its two pairs are (X, Y) and
 * (Z, Z). Complete formulas of Renes, Costello and Batina 2015 (algorithms 7 and 9 for a = 0, b₃ = 12), arranged so that
 * two independent products share the lanes: they hold for all points of E(Fp), which has no point of order 2, equal and
 * opposite ones and the identity included, so nothing here branches on a point.
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
  BETA,
  FOUR,
  ISO1_A,
  ISO1_A_Z,
  ISO1_B,
  ISO1_H,
  ISO1_X,
  ISO1_Y,
  ONE_ONE,
  ROOT_OF_MINUS_Z1,
  ROOT_TAPE,
  Z1,
} from './constants'
import {
  add,
  addLanesWide,
  addWide,
  carry,
  copy,
  g1AddBefore,
  g1AddBetween,
  g1AddDifference,
  g1AddTwelve,
  g1DoubleAfter,
  g1DoubleBefore,
  g1DoubleBetween,
  jacobianBefore,
  jacobianBetween,
  laneMask,
  lanes00,
  lanes01,
  lanes11,
  multiply,
  multiplyWide,
  negate,
  PAIR,
  reduce,
  square,
  sub,
  times12,
  WIDE,
} from './field'
import { invert } from './inverse'
import { ROOT, ROOT_POWERS, rootBegin, rootEnd } from './root'
import { bitOfT, halvesOf, nafOf } from './scalar'
import { lookUp } from './table'

/** Bytes of a pair. */
const F2: usize = PAIR
export const G1: usize = 2 * PAIR

const A: usize = memory.data(6 * PAIR, 16)
const B: usize = memory.data(6 * PAIR, 16)
const C: usize = memory.data(3 * PAIR, 16)
const W: usize = memory.data(WIDE, 16)
const V: usize = memory.data(WIDE, 16)

// t = Y² − 36Z²: X₃ = 2XY·t, Y₃ = t(Y² + 12Z²) + 12Z²·8Y², Z₃ = YZ·8Y².
export function g1Double(r: usize, p: usize): void {
  g1DoubleBefore(A, p)
  multiply(C, A, A + F2)
  multiply(C + F2, A + 2 * F2, A + 3 * F2)
  times12(A, C + F2)
  carry(A, A)
  g1DoubleBetween(A, C, C + F2)
  multiply(C, A, A + F2)
  multiply(C + F2, A + 2 * F2, A + 3 * F2)
  g1DoubleAfter(r, C, C + F2)
}

// t0 = X₁X₂, t1 = Y₁Y₂, t2 = Z₁Z₂, t3 = X₁Y₂ + X₂Y₁, t4 = Y₁Z₂ + Y₂Z₁, y = 12(X₁Z₂ + X₂Z₁):
// X₃ = t3(t1 − 12t2) − t4·y, Y₃ = (t1 − 12t2)(t1 + 12t2) + 3t0·y, Z₃ = (t1 + 12t2)t4 + 3t0·t3.
export function g1Add(r: usize, p: usize, q: usize): void {
  g1AddBefore(A, p)
  g1AddBefore(B, q)
  multiply(C, A, B)
  multiply(C + F2, A + F2, B + F2)
  multiply(C + 2 * F2, A + 2 * F2, B + 2 * F2)
  const d = A + 4 * F2
  const t = A + 5 * F2
  g1AddDifference(d, C, C + F2, C + 2 * F2)
  carry(d, d)
  g1AddTwelve(t, C + F2, d)
  carry(t, t)
  g1AddBetween(A, C, C + F2, d, t)
  multiplyWide(W, A, A + F2)
  multiplyWide(V, A + 2 * F2, A + 3 * F2)
  addWide(W, W, V)
  reduce(r, W)
  multiplyWide(V, A + 4 * F2, A + 5 * F2)
  addLanesWide(W, V)
  reduce(r + F2, W)
}

export function g1Copy(r: usize, p: usize): void {
  memory.copy(r, p, G1)
}
export function g1Identity(r: usize): void {
  memory.fill(r, 0, G1)
  lanes01(r, r, ONE_ONE)
}
export function g1Negate(r: usize, p: usize): void {
  negate(A, p)
  lanes01(r, p, A)
  copy(r + F2, p + F2)
}
/** −1 or 0. */
export function g1IsIdentity(p: usize): i32 {
  return isZero(p + F2, 0)
}
export function g1Equals(p: usize, q: usize): i32 {
  multiply(A, p, q + F2)
  multiply(B, q, p + F2)
  sub(A, A, B)
  return isZero2(A)
}

const U: usize = memory.data(2 * PAIR, 16)
/** |t|·p by the bits of the public |t|. r ≠ p. */
function timesT(r: usize, p: usize): void {
  g1Copy(r, p)
  for (let i = 62; i >= 0; i--) {
    g1Double(r, r)
    if (bitOfT(i)) g1Add(r, r, p)
  }
}
/** r = φ(p) = t²·p on the group: (βX, −Y). */
function phi(r: usize, p: usize): void {
  multiply(r, p, BETA)
  copy(r + F2, p + F2)
}
const E: usize = memory.data(2 * PAIR, 16)
const F: usize = memory.data(2 * PAIR, 16)

/**
 * A point in Jacobian coordinates, x = X/Z², y = Y/Z³: three pairs, of which lane 0 counts, and one for work. The formulas
 * are those of every curve y² = x³ + b. They are not complete: an addition of the identity, of equal or of opposite points
 * leaves Z = 0, and Z stays 0 from there on.
 */
const J: usize = memory.data(4 * PAIR, 16)
/** The affine point that is added: two pairs. */
const BASE: usize = memory.data(2 * PAIR, 16)
const K: usize = memory.data(3 * PAIR, 16)
const M: usize = memory.data(4 * PAIR, 16)
let step: i32 = 0
/** Lane 0: r = a₀·b₀; lane 1: the next step of the root. r is neither of a, b. */
function multiplyAndRoot(r: usize, a: usize, b: usize): void {
  const digit = <usize>load<u8>(ROOT_TAPE + step++)
  lanes01(M, a, ROOT)
  if (digit === 0 && a === b) {
    square(r, M)
  } else {
    lanes01(M + F2, b, digit === 0 ? ROOT : ROOT_POWERS + (digit >> 1) * F2)
    multiply(r, M, M + F2)
  }
  copy(ROOT, r)
}
function subCarried(r: usize, a: usize, b: usize): void {
  sub(r, a, b)
  carry(r, r)
}
/** A = X², B = Y², C = B², E = 3A, F = E²: X₃ = F − 8XB, Y₃ = E(12XB − F) − 8C, Z₃ = 2YZ (dbl-2009-l of the EFD). */
function jacobianDouble(): void {
  multiplyAndRoot(K, J, J)
  multiplyAndRoot(K + F2, J + F2, J + F2)
  jacobianBefore(K, J, K, K + F2)
  square(M + 2 * F2, K)
  multiply(M + 3 * F2, K + F2, K + 2 * F2)
  jacobianBetween(J, M + 2 * F2, M + 3 * F2)
  carry(J, J)
  carry(J + 3 * F2, J + 3 * F2)
  multiplyAndRoot(M + 2 * F2, K, J + 3 * F2)
  subCarried(J + F2, M + 2 * F2, J + F2)
}
/**
 * H = xZ² − X, R = yZ³ − Y: X₃ = R² − H³ − 2XH², Y₃ = R(XH² − X₃) − YH³, Z₃ = ZH, where (x, y) is the affine point (Cohen,
 * Miyaji, Ono 1998).
 */
function jacobianAdd(): void {
  const z = J + 2 * F2
  const w = J + 3 * F2
  const s = M + 2 * F2
  const t = M + 3 * F2
  multiplyAndRoot(s, z, z)
  // (xZ², Z³).
  lanes00(M, BASE, z)
  lanes00(t, s, s)
  multiply(s, M, t)
  subCarried(K, s, J)
  // (H², yZ³).
  lanes00(M, K, BASE + F2)
  lanes01(t, K, s)
  multiply(s, M, t)
  // R, in lane 0.
  lanes11(K + F2, s, s)
  subCarried(K + F2, K + F2, J + F2)
  // (H³, XH²).
  lanes00(M, K, J)
  lanes00(t, s, s)
  multiply(K + 2 * F2, M, t)
  lanes11(w, K + 2 * F2, K + 2 * F2)
  // (R², ZH).
  lanes00(M, K + F2, z)
  lanes00(t, K + F2, K)
  multiply(s, M, t)
  lanes11(z, s, s)
  subCarried(s, s, K + 2 * F2)
  sub(s, s, w)
  subCarried(J, s, w)
  // (R(XH² − X₃), YH³).
  subCarried(w, w, J)
  lanes00(M, K + F2, J + F2)
  lanes00(t, w, K + 2 * F2)
  multiply(s, M, t)
  lanes11(t, s, s)
  subCarried(J + F2, s, t)
}
/** J = |t|·BASE. */
function jacobianTimesT(): void {
  copy(J, BASE)
  copy(J + F2, BASE + F2)
  copy(J + 2 * F2, ONE_ONE)
  for (let i = 62; i >= 0; i--) {
    jacobianDouble()
    if (bitOfT(i)) jacobianAdd()
  }
}
const MODEL: usize = memory.data(PAIR, 16)
const SCALE: usize = memory.data(PAIR, 16)
/**
 * ROOT's lane 1 = g^((p − 3)/4), and: is the point of E(Fp) with this x and y² = g in the group? g = x³ + 4 stands in lane
 * 1 as well. If g is no square, there is no such point, and the verdict is about another curve.
 *
 * In E(Fp) the points of the group are exactly those with t²p = φ(p) (Scott 2021, §6). Neither side needs y: (x, y) ↦
 * (gx, y·y³) = (gx, g²) is an isomorphism to y² = x³ + 4g³, where the formulas are the same, and φ too. So the root's chain
 * runs in the lane that those leave free. The second multiplication by |t| takes (X, Y) of the first result for affine,
 * which is another such step, by Z. In the group, of prime order q, nothing on the way is the identity or ±(what is
 * added): Z = 0 means that the point is outside.
 */
function rootAndSubgroup(x: usize, g: usize): i32 {
  lanes00(M, x, g)
  multiply(MODEL, M, g)
  lanes00(BASE, MODEL, MODEL)
  lanes11(BASE + F2, MODEL, MODEL)
  rootBegin(g)
  step = 1
  jacobianTimesT()
  copy(SCALE, J + 2 * F2)
  copy(BASE, J)
  copy(BASE + F2, J + F2)
  jacobianTimesT()
  rootEnd(step)
  // X = βgx·Z² and Y = −g²·Z³.
  multiply(SCALE, SCALE, J + 2 * F2)
  square(K, SCALE)
  multiply(K + F2, K, SCALE)
  lanes00(K, K, K + F2)
  multiply(MODEL, MODEL, BETA)
  multiply(K, K, MODEL)
  lanes00(J, J, J + F2)
  sub(K, K, J)
  return isZero2(K) & ~isZero(SCALE, 0)
}

const X: usize = memory.data(PAIR, 16)
const Y: usize = memory.data(PAIR, 16)
const S: usize = memory.data(PAIR, 16)
/**
 * The point of the 48 bytes at `from`: 1, or 0 when they are none (x ≥ p, off the curve, outside of the subgroup). Flags
 * have been looked at before: compressed, finite.
 */
export function g1Decode(r: usize, from: usize): i32 {
  const larger = (load<u8>(from) >> 5) & 1
  store<u8>(from, load<u8>(from) & 0x1f)
  memory.fill(X, 0, F2)
  readInteger(X, 0, from, 48)
  if (!isReduced(X, 0)) return 0
  toMontgomery(X, X)
  square(S, X)
  multiply(S, S, X)
  add(S, S, FOUR)
  carry(S, S)
  lanes00(S, S, S)
  const inSubgroup = rootAndSubgroup(X, S)
  multiply(Y, ROOT, S)
  lanes11(Y, Y, Y)
  square(A, Y)
  sub(A, A, S)
  const isOnCurve = isZero(A, 0)
  negate(S, Y)
  const m = -(isLarger(Y, 0) ^ <i32>larger)
  select(Y, S, Y, laneMask(m, m))
  lanes00(r, X, Y)
  copy(r + F2, ONE_ONE)
  return inSubgroup & isOnCurve & 1
}
/** 48 bytes, compressed. Secret points have the same shape as public ones. */
export function g1Encode(to: usize, p: usize): void {
  invert(S, p + F2)
  multiply(X, p, S)
  writeBytes(to, X, 0)
  // The identity: 0xc0, then zeros; X·0⁻¹ is zero here.
  const infinite = g1IsIdentity(p)
  const flags = 0x80 | (isLarger(X, 1) << 5)
  store<u8>(to, load<u8>(to) | <u8>((flags & ~infinite) | (0xc0 & infinite)))
}

// Secret scalars

const TABLE: usize = memory.data(64 * PAIR, 16)
const HALVES: usize = memory.data(32, 16)
/**
 * r = k·p for a point of the group and a secret k of 32 bytes: k = k₀ + k₁t², four bits of both at a time; a zero digit
 * adds the identity.
 */
export function g1MultiplySecret(r: usize, p: usize, k: usize): void {
  halvesOf(HALVES, k)
  const PHI = TABLE + 16 * G1
  g1Identity(TABLE)
  g1Copy(TABLE + G1, p)
  for (let i: usize = 2; i < 16; i++) {
    if (i & 1) g1Add(TABLE + i * G1, TABLE + (i - 1) * G1, p)
    else g1Double(TABLE + i * G1, TABLE + (i >> 1) * G1)
  }
  for (let i: usize = 0; i < 16; i++) phi(PHI + i * G1, TABLE + i * G1)
  for (let i: i32 = 31; i >= 0; i--) {
    if (i === 31) {
      lookUp(E, TABLE, 16, G1, load<u8>(HALVES + 15) >> 4)
    } else {
      for (let j = 0; j < 4; j++) g1Double(E, E)
      lookUp(F, TABLE, 16, G1, (load<u8>(HALVES + (i >> 1)) >> <u8>(4 * (i & 1))) & 15)
      g1Add(E, E, F)
    }
    lookUp(F, PHI, 16, G1, (load<u8>(HALVES + 16 + (i >> 1)) >> <u8>(4 * (i & 1))) & 15)
    g1Add(E, E, F)
  }
  g1Copy(r, E)
}

// Public scalars

/** Bytes that g1Sum needs for each point at `work`: tables of 8 odd multiples of p and φ(p), and two NAFs. */
export const SUM_WORK: usize = 16 * G1 + 2 * 144
/**
 * r = Σ kᵢ·pᵢ over n points of the group and n public scalars (32 bytes each), interleaved (Straus) over the halves'
 * NAFs. Time depends on the scalars. Where pᵢ has a part outside of the group, of the cofactor's order, so has r, of no use.
 */
export function g1Sum(r: usize, points: usize, scalars: usize, n: i32, work: usize): void {
  let length = 0
  for (let i: usize = 0; i < <usize>n; i++) {
    const table = work + i * SUM_WORK
    const nafs = table + 16 * G1
    halvesOf(HALVES, scalars + 32 * i)
    const first = nafOf(nafs, HALVES, 2)
    const second = nafOf(nafs + 144, HALVES + 16, 2)
    if (first > length) length = first
    if (second > length) length = second
    g1Copy(table, points + i * G1)
    g1Double(U, table)
    for (let j: usize = 1; j < 8; j++) g1Add(table + j * G1, table + (j - 1) * G1, U)
    if (second > 0) for (let j: usize = 0; j < 8; j++) phi(table + (8 + j) * G1, table + j * G1)
  }
  g1Identity(E)
  for (let at = length - 1; at >= 0; at--) {
    if (at !== length - 1) g1Double(E, E)
    for (let i: usize = 0; i < <usize>n; i++) {
      const table = work + i * SUM_WORK
      const nafs = table + 16 * G1
      for (let half: usize = 0; half < 2; half++) {
        const digit = <i32>load<i8>(nafs + half * 144 + at)
        if (digit === 0) continue
        const entry = table + (half * 8 + (<usize>abs(digit) >> 1)) * G1
        if (digit > 0) {
          g1Add(E, E, entry)
        } else {
          g1Negate(F, entry)
          g1Add(E, E, F)
        }
      }
    }
  }
  g1Copy(r, E)
}

// Hash to G1 (RFC 9380 §8.8.1): both elements at once, one in each lane. What is hashed is public.

const H: usize = memory.data(24 * PAIR, 16)
const XD_POWERS: usize = memory.data(16 * PAIR, 16)
/** r = Σ kᵢ·xnⁱ·xd^(degree − i). */
function homogeneous(r: usize, coefficients: usize, degree: i32, xn: usize): void {
  copy(r, coefficients + <usize>degree * F2)
  for (let i = 1; i <= degree; i++) {
    multiplyWide(W, r, xn)
    multiplyWide(V, coefficients + <usize>(degree - i) * F2, XD_POWERS + <usize>i * F2)
    addWide(W, W, V)
    reduce(r, W)
  }
}
/**
 * Simplified SWU onto E' (§6.6.3, F.2) and the 11-isogeny to E, of the elements u in both lanes: X, Y, Z in pairs at r,
 * lane by lane.
 */
function mapToCurve(r: usize, u: usize): void {
  const zu2 = H
  const tv = H + F2
  const xn = H + 2 * F2
  const xd = H + 3 * F2
  const gd = H + 4 * F2
  const gn = H + 5 * F2
  const y = H + 6 * F2
  const product = H + 7 * F2
  const s = H + 8 * F2
  const t = H + 9 * F2
  const h = H + 10 * F2
  square(s, u)
  multiply(zu2, s, Z1)
  square(tv, zu2)
  add(tv, tv, zu2)
  // xn = B(tv + 1), xd = −A·tv, or A·Z where tv = 0.
  add(s, tv, ONE_ONE)
  multiply(xn, s, ISO1_B)
  negate(s, tv)
  multiply(xd, s, ISO1_A)
  select(xd, ISO1_A_Z, xd, laneMask(isZero(tv, 0), isZero(tv, 1)))
  // g = gn/gd = (xn³ + A·xn·xd² + B·xd³)/xd³.
  square(s, xd)
  multiply(gd, s, xd)
  multiply(t, s, ISO1_A)
  square(s, xn)
  add(s, s, t)
  multiply(s, s, xn)
  multiply(t, gd, ISO1_B)
  add(gn, s, t)
  carry(gn, gn)
  // y = √(gn/gd) or √(Z·gn/gd) (F.2.1.2): (gn·gd³)^((p − 3)/4)·gn·gd.
  multiply(product, gn, gd)
  square(s, gd)
  multiply(s, s, product)
  rootBegin(s)
  rootEnd(1)
  multiply(y, ROOT, product)
  square(s, y)
  multiply(s, s, gd)
  sub(s, s, gn)
  const isSquare = laneMask(isZero(s, 0), isZero(s, 1))
  // The other x of E' is Zu²·x, its y is Zu³·√(−Z)·(what was found).
  multiply(s, zu2, xn)
  select(xn, xn, s, isSquare)
  multiply(s, zu2, u)
  multiply(t, y, ROOT_OF_MINUS_Z1)
  multiply(s, s, t)
  select(y, y, s, isSquare)
  negate(s, y)
  select(y, s, y, laneMask(-(parity(u, 0) ^ parity(y, 0)), -(parity(u, 1) ^ parity(y, 1))))
  // x = N/h², y = y·M/h³ in x' = xn/xd, made homogeneous.
  copy(XD_POWERS, ONE_ONE)
  copy(XD_POWERS + F2, xd)
  for (let i: usize = 2; i < 16; i++) multiply(XD_POWERS + i * F2, XD_POWERS + (i - 1) * F2, xd)
  homogeneous(h, ISO1_H, 5, xn)
  homogeneous(s, ISO1_X, 11, xn)
  homogeneous(t, ISO1_Y, 15, xn)
  multiply(r, s, h)
  multiply(t, t, y)
  multiply(r + F2, t, xd)
  multiply(s, xd, h)
  square(h, h)
  multiply(r + 2 * F2, s, h)
}
const MAPPED: usize = memory.data(3 * PAIR, 16)
/** Of 2 × 64 bytes of hash_to_field at `from`, the sum of what both are mapped to, or else the first of them. */
function mapSum(r: usize, from: usize, both: i32): void {
  readWide(U, from)
  mapToCurve(MAPPED, U)
  lanes00(r, MAPPED, MAPPED + F2)
  lanes00(r + F2, MAPPED + 2 * F2, MAPPED + 2 * F2)
  if (both) {
    lanes11(F, MAPPED, MAPPED + F2)
    lanes11(F + F2, MAPPED + 2 * F2, MAPPED + 2 * F2)
    g1Add(r, r, F)
  }
}
/** hash_to_curve before its last step: a point of E(Fp), of which the hash is 1 − t times this. */
export function g1HashUncleared(r: usize, from: usize): void {
  mapSum(r, from, 1)
}
/** `both`: hash_to_curve, else encode_to_curve. */
export function g1Hash(r: usize, from: usize, both: i32): void {
  mapSum(r, from, both)
  // h_eff = 1 − t.
  timesT(E, r)
  g1Add(r, r, E)
}
