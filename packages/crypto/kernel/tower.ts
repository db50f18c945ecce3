/**
 * Fp2 = Fp[i]/(i² + 1), Fp6 = Fp2[v]/(v³ − ξ) with ξ = 1 + i, Fp12 = Fp6[w]/(w² − v), over the generated field layer.
 * Arguments are addresses; a result may be written over an operand. Everything here has one shape for all values.
 *
 * Bounds. A limb is *tight* when |limb| ≤ ½·2^bits + 2⁴: what `reduce` and `carry` leave. u(a) is the largest limb of a in
 * units of ½·2^bits. A product of pairs needs u(a)·u(b) ≤ 32, one in Fp2 ≤ 16, and sums of wide values add up to the same:
 * then no column reaches 2⁶³ in `reduce`. test/kernel-bounds.test.ts runs all these files on bounds. A product of values below 2⁷p is, divided by
 * R = 2¹¹·³p, below 7p, and of sums of few reduced values below 1½p; nothing is compared with p. Where a value is carried
 * from step to step without a multiplication (cyclotomic squares, products by a line), `settle` keeps it below p.
 */

import { FROBENIUS, ONE2 } from './constants'
import {
  add,
  addLanesWide,
  addWide,
  addXiWide,
  carry,
  combine,
  combineSumXi,
  combineXi,
  conjugate,
  copy,
  double,
  multiply,
  multiplyWide,
  multiplyWide2,
  negate,
  PAIR,
  reduce,
  settle,
  settleMinus,
  settlePlus,
  settleRest,
  settleSum,
  squareWide2,
  sub,
  subWide,
  subWide2,
  timesXi,
  WIDE,
} from './field'
import { invert } from './inverse'

/** Bytes of a pair (an element of Fp2, or two of Fp), of Fp6 and Fp12. */
export const F2: usize = PAIR
export const F6: usize = 3 * PAIR
export const F12: usize = 6 * PAIR

const W: usize = memory.data(WIDE, 16)
const V0: usize = memory.data(WIDE, 16)
const V1: usize = memory.data(WIDE, 16)
const V2: usize = memory.data(WIDE, 16)
const X0: usize = memory.data(WIDE, 16)
const X1: usize = memory.data(WIDE, 16)
const X2: usize = memory.data(WIDE, 16)
const S: usize = memory.data(PAIR, 16)
const T: usize = memory.data(PAIR, 16)
const A6: usize = memory.data(3 * PAIR, 16)
const B6: usize = memory.data(3 * PAIR, 16)
const C6: usize = memory.data(3 * PAIR, 16)
const D6: usize = memory.data(3 * PAIR, 16)
const E6: usize = memory.data(3 * PAIR, 16)

// Fp2

export function multiply2(r: usize, a: usize, b: usize): void {
  multiplyWide2(W, a, b)
  reduce(r, W)
}
export function square2(r: usize, a: usize): void {
  squareWide2(W, a)
  reduce(r, W)
}

// Fp6

export function copy6(r: usize, a: usize): void {
  memory.copy(r, a, F6)
}
export function add6(r: usize, a: usize, b: usize): void {
  add(r, a, b)
  add(r + F2, a + F2, b + F2)
  add(r + 2 * F2, a + 2 * F2, b + 2 * F2)
}
export function sub6(r: usize, a: usize, b: usize): void {
  sub(r, a, b)
  sub(r + F2, a + F2, b + F2)
  sub(r + 2 * F2, a + 2 * F2, b + 2 * F2)
}
export function carry6(r: usize, a: usize): void {
  carry(r, a)
  carry(r + F2, a + F2)
  carry(r + 2 * F2, a + 2 * F2)
}
function settle6(r: usize, a: usize): void {
  settle(r, a)
  settle(r + F2, a + F2)
  settle(r + 2 * F2, a + 2 * F2)
}
function settleSum6(r: usize, a: usize, b: usize): void {
  settleSum(r, a, b)
  settleSum(r + F2, a + F2, b + F2)
  settleSum(r + 2 * F2, a + 2 * F2, b + 2 * F2)
}
/** r = a − b − c. */
function settleRest6(r: usize, a: usize, b: usize, c: usize): void {
  settleRest(r, a, b, c)
  settleRest(r + F2, a + F2, b + F2, c + F2)
  settleRest(r + 2 * F2, a + 2 * F2, b + 2 * F2, c + 2 * F2)
}
/** r = a·v = (ξa₂, a₀, a₁). r ≠ a. */
function timesV(r: usize, a: usize): void {
  timesXi(r, a + 2 * F2)
  copy(r + F2, a)
  copy(r + 2 * F2, a + F2)
}

/**
 * Karatsuba with 6 products and 3 reductions (Devegili et al. 2006, Aranha et al. 2011):
 *   c₀ = a₀b₀ + ξ(a₁b₂ + a₂b₁), c₁ = a₀b₁ + a₁b₀ + ξa₂b₂, c₂ = a₀b₂ + a₂b₀ + a₁b₁.
 * Operands tight: sums have u = 2, and c₀ weighs 1 + 2·2 = 5 products ≤ 16.
 */
export function multiply6(r: usize, a: usize, b: usize): void {
  multiplyWide2(V0, a, b)
  multiplyWide2(V1, a + F2, b + F2)
  multiplyWide2(V2, a + 2 * F2, b + 2 * F2)
  add(S, a + F2, a + 2 * F2)
  add(T, b + F2, b + 2 * F2)
  multiplyWide2(X0, S, T)
  add(S, a, a + F2)
  add(T, b, b + F2)
  multiplyWide2(X1, S, T)
  add(S, a, a + 2 * F2)
  add(T, b, b + 2 * F2)
  multiplyWide2(X2, S, T)
  combineXi(W, V0, X0, V1, V2)
  reduce(r, W)
  combineSumXi(W, V2, X1, V0, V1)
  reduce(r + F2, W)
  combine(W, V1, X2, V0, V2)
  reduce(r + 2 * F2, W)
}

/** b = b₀ + b₁v, at b and b + F2: 5 products. */
export function multiply6By01(r: usize, a: usize, b: usize): void {
  multiplyWide2(V0, a, b)
  multiplyWide2(V1, a + F2, b + F2)
  add(S, a, a + F2)
  add(T, b, b + F2)
  multiplyWide2(X1, S, T)
  multiplyWide2(X0, a + 2 * F2, b + F2)
  multiplyWide2(X2, a + 2 * F2, b)
  addWide(X2, X2, V1)
  // a₀b₁ + a₁b₀.
  subWide2(X1, V0, V1)
  addXiWide(V0, X0)
  reduce(r, V0)
  reduce(r + F2, X1)
  reduce(r + 2 * F2, X2)
}

/** b = b₁v + b₂v², at b + F2 and b + 2·F2: 5 products. */
export function multiply6By12(r: usize, a: usize, b: usize): void {
  multiplyWide2(V1, a + F2, b + F2)
  multiplyWide2(V2, a + 2 * F2, b + 2 * F2)
  add(S, a + F2, a + 2 * F2)
  add(T, b + F2, b + 2 * F2)
  multiplyWide2(X0, S, T)
  multiplyWide2(X1, a, b + F2)
  multiplyWide2(X2, a, b + 2 * F2)
  subWide2(X0, V1, V2)
  // c₀ = ξ(a₁b₂ + a₂b₁), c₁ = a₀b₁ + ξa₂b₂, c₂ = a₀b₂ + a₁b₁.
  addXiWide(X1, V2)
  addWide(X2, X2, V1)
  reduce(S, X0)
  timesXi(T, S)
  carry(r, T)
  reduce(r + F2, X1)
  reduce(r + 2 * F2, X2)
}

/** r = 1/a. */
function invert6(r: usize, a: usize): void {
  const c0 = E6
  const c1 = E6 + F2
  const c2 = E6 + 2 * F2
  // c₀ = a₀² − ξa₁a₂, c₁ = ξa₂² − a₀a₁, c₂ = a₁² − a₀a₂; the norm is a₀c₀ + ξ(a₂c₁ + a₁c₂).
  multiply2(S, a + F2, a + 2 * F2)
  timesXi(S, S)
  square2(c0, a)
  sub(c0, c0, S)
  carry(c0, c0)
  square2(S, a + 2 * F2)
  timesXi(c1, S)
  multiply2(S, a, a + F2)
  sub(c1, c1, S)
  carry(c1, c1)
  square2(c2, a + F2)
  multiply2(S, a, a + 2 * F2)
  sub(c2, c2, S)
  carry(c2, c2)
  multiply2(S, a + 2 * F2, c1)
  multiply2(T, a + F2, c2)
  add(S, S, T)
  timesXi(T, S)
  multiply2(S, a, c0)
  add(S, S, T)
  carry(S, S)
  invert2(T, S)
  multiply2(r, c0, T)
  multiply2(r + F2, c1, T)
  multiply2(r + 2 * F2, c2, T)
}

const N: usize = memory.data(PAIR, 16)
const M: usize = memory.data(PAIR, 16)
/** r = 1/a in Fp2, by the norm. */
export function invert2(r: usize, a: usize): void {
  multiplyWide(W, a, a)
  addLanesWide(V0, W)
  reduce(N, V0)
  invert(M, N)
  conjugate(N, a)
  multiply(r, N, M)
}

// Fp12

export function multiply12(r: usize, a: usize, b: usize): void {
  add6(A6, a, a + F6)
  carry6(A6, A6)
  add6(B6, b, b + F6)
  carry6(B6, B6)
  multiply6(C6, A6, B6)
  multiply6(A6, a, b)
  multiply6(B6, a + F6, b + F6)
  karatsuba12(r)
}
/** From a₀b₀ in A6, a₁b₁ in B6 and (a₀ + a₁)(b₀ + b₁) in C6. */
function karatsuba12(r: usize): void {
  settleRest6(r + F6, C6, A6, B6)
  timesV(D6, B6)
  settleSum6(r, A6, D6)
}
/** b = (b₀ + b₁v) + vw, b₀ and b₁ at b, one after the other: (a₀b + v²a₁) + (a₁b + va₀)w. a is settled. */
export function multiply12ByLine(r: usize, a: usize, b: usize): void {
  const a1 = a + F6
  multiply6By01(A6, a, b)
  multiply6By01(B6, a1, b)
  timesXi(S, a1 + F2)
  add(A6, A6, S)
  timesXi(S, a1 + 2 * F2)
  add(A6 + F2, A6 + F2, S)
  add(A6 + 2 * F2, A6 + 2 * F2, a1)
  timesXi(S, a + 2 * F2)
  add(B6, B6, S)
  add(B6 + F2, B6 + F2, a)
  add(B6 + 2 * F2, B6 + 2 * F2, a + F2)
  settle6(r, A6)
  settle6(r + F6, B6)
}
/** b's coefficient of w is zero. */
export function multiply12By01245(r: usize, a: usize, b: usize): void {
  add6(A6, a, a + F6)
  carry6(A6, A6)
  copy(B6, b)
  add(B6 + F2, b + F2, b + F6 + F2)
  add(B6 + 2 * F2, b + 2 * F2, b + F6 + 2 * F2)
  carry6(B6, B6)
  multiply6(C6, A6, B6)
  multiply6(A6, a, b)
  multiply6By12(B6, a + F6, b + F6)
  karatsuba12(r)
}
/** (a₀ + a₁w)² = (a₀ + a₁)(a₀ + va₁) − (1 + v)a₀a₁ + 2a₀a₁w. */
export function square12(r: usize, a: usize): void {
  add6(A6, a, a + F6)
  carry6(A6, A6)
  timesV(B6, a + F6)
  add6(B6, B6, a)
  carry6(B6, B6)
  multiply6(C6, A6, B6)
  multiply6(A6, a, a + F6)
  timesV(D6, A6)
  settleRest6(r, C6, A6, D6)
  settleSum6(r + F6, A6, A6)
}
/** a^(p⁶): the inverse, where a has norm 1. */
export function conjugate12(r: usize, a: usize): void {
  if (r !== a) copy6(r, a)
  negate(r + F6, a + F6)
  negate(r + F6 + F2, a + F6 + F2)
  negate(r + F6 + 2 * F2, a + F6 + 2 * F2)
}
export function invert12(r: usize, a: usize): void {
  // (a₀ − a₁w)/(a₀² − va₁²).
  multiply6(A6, a, a)
  multiply6(B6, a + F6, a + F6)
  timesV(C6, B6)
  sub6(A6, A6, C6)
  carry6(A6, A6)
  invert6(B6, A6)
  multiply6(r, a, B6)
  multiply6(A6, a + F6, B6)
  negate(r + F6, A6)
  negate(r + F6 + F2, A6 + F2)
  negate(r + F6 + 2 * F2, A6 + 2 * F2)
}

/** r = a^(p^k), k = 1, 2, 3: FROBENIUS holds ξ^(j(p^k − 1)/6) for j = 1…5 at 5(k − 1). */
export function frobenius12(r: usize, a: usize, k: i32): void {
  const gamma = FROBENIUS + <usize>(k - 1) * 5 * F2
  // The coefficient of w^j stands at Fp6 number j mod 2, coefficient ⌊j/2⌋.
  for (let j: usize = 0; j < 6; j++) {
    const at = (j & 1) * F6 + (j >> 1) * F2
    if (k & 1) conjugate(r + at, a + at)
    else copy(r + at, a + at)
    if (j > 0) multiply2(r + at, r + at, gamma + (j - 1) * F2)
  }
}

const G0: usize = memory.data(6 * PAIR, 16)
const G1: usize = memory.data(PAIR, 16)
/** (first, second) of (a + bs)² in Fp4 = Fp2[s]/(s² − ξ): a² + ξb² and 2ab. */
function square4(first: usize, second: usize, a: usize, b: usize): void {
  squareWide2(V0, a)
  squareWide2(V1, b)
  add(S, a, b)
  squareWide2(X0, S)
  subWide2(X0, V0, V1)
  addXiWide(V0, V1)
  reduce(first, V0)
  reduce(second, X0)
}
/**
 * Four of the six coefficients of a square in the cyclotomic subgroup, those of v and v² and of w and v²w, which need but the
 * same four of a (Karabina 2013, theorem 3.2). 3t ± 2a must be below 7½p for `settle`: t, which was reduced, is below 1 + 2⁻⁷
 * times p, ξt below twice that, and a below ⁹⁄₁₆p, as products, their conjugates and these squares leave it.
 */
export function compressedSquare(r: usize, a: usize): void {
  const a1 = a + F6
  square4(G0 + 2 * F2, G0 + 3 * F2, a1, a + 2 * F2)
  square4(G0 + 4 * F2, G0 + 5 * F2, a + F2, a1 + 2 * F2)
  timesXi(G1, G0 + 5 * F2)
  carry(G1, G1)
  settleMinus(r + F2, G0 + 2 * F2, a + F2)
  settleMinus(r + 2 * F2, G0 + 4 * F2, a + 2 * F2)
  const r1 = r + F6
  settlePlus(r1, G1, a1)
  settlePlus(r1 + 2 * F2, G0 + 3 * F2, a1 + 2 * F2)
}
/** The square of an element of the cyclotomic subgroup (Granger, Scott 2010, §3.2). */
export function cyclotomicSquare(r: usize, a: usize): void {
  const a1 = a + F6
  square4(G0, G0 + F2, a, a1 + F2)
  compressedSquare(r, a)
  settleMinus(r, G0, a)
  settlePlus(r + F6 + F2, G0 + F2, a1 + F2)
}
/** r = 4g₂, by which `decompress` divides. */
export function compressedDivisor(r: usize, a: usize): void {
  double(r, a + F6)
  double(r, r)
  carry(r, r)
}
/**
 * The other two coefficients of a, by the inverse of its divisor (Karabina 2013, theorem 3.1). With g₂ … g₅ the coefficients of
 * w, v², v, v²w: g₁, of vw, is (ξg₅² + 3g₄² − 2g₃)/4g₂, and g₀ = ξ(2g₁² + g₂g₅ − 3g₃g₄) + 1.
 */
export function decompress(a: usize, inverse: usize): void {
  const g1 = a + F6 + F2
  const g2 = a + F6
  const g3 = a + 2 * F2
  const g4 = a + F2
  const g5 = a + F6 + 2 * F2
  squareWide2(V0, g4)
  addWide(V1, V0, V0)
  addWide(V1, V1, V0)
  squareWide2(V0, g5)
  addXiWide(V1, V0)
  reduce(S, V1)
  double(T, g3)
  sub(S, S, T)
  carry(S, S)
  multiply2(g1, S, inverse)
  squareWide2(V0, g1)
  addWide(V0, V0, V0)
  multiplyWide2(V1, g2, g5)
  addWide(V0, V0, V1)
  multiplyWide2(V1, g3, g4)
  subWide2(V0, V1, V1)
  subWide(V0, V0, V1)
  reduce(S, V0)
  timesXi(T, S)
  settleSum(a, T, ONE2)
}

export function setOne12(r: usize): void {
  memory.fill(r, 0, F12)
  copy(r, ONE2)
}
