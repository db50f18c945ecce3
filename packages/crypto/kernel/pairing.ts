/**
 * The optimal ate pairing e: G1 × G2 → GT, as a product over pairs, with the lines of the G2 points computed before.
 * All of it is public or, where GT is a key, of one shape.
 *
 * The Miller loop runs over the bits of |t|. At a point T of E' with slope λ the line at P = (x, y) is, up to factors that
 * the final exponentiation removes,
 *   c + a·x·v + y·vw,  a = −λ, c = λ·x_T − y_T:
 * a prepared point is its 68 pairs (c, a). Divided by y, which no point of E(Fp) has as zero, and with P homogeneous, it is
 * c·Z/Y + a·X/Y·v + vw.
 */

import { isZero2, writeBytes } from './codec'
import { ONE_ONE, ONE2 } from './constants'
import {
  add,
  carry,
  copy,
  double,
  lanes00,
  lanes11,
  multiply,
  multiplyWide2,
  negate,
  PAIR,
  reduce,
  sub,
  subWide2,
  timesXi,
  triple,
  WIDE,
} from './field'
import { g2Normalise } from './g2'
import { invert } from './inverse'
import { bitOfT } from './scalar'
import {
  compressedDivisor,
  compressedSquare,
  conjugate12,
  cyclotomicSquare,
  decompress,
  F2,
  F6,
  F12,
  frobenius12,
  invert2,
  invert12,
  multiply2,
  multiply12,
  multiply12By01245,
  multiply12ByLine,
  setOne12,
  square2,
  square12,
} from './tower'

/** 63 doublings and 5 additions. */
const LINES: usize = 68
/** Bytes of a line: c and a. */
const LINE_BYTES: usize = 2 * PAIR
/** Bytes of a point of G1. */
const POINT: usize = 2 * PAIR
/** Bytes of a prepared point. */
export const PREPARED: usize = 68 * LINE_BYTES

const Q: usize = memory.data(3 * PAIR, 16)
const R: usize = memory.data(3 * PAIR, 16)
const S: usize = memory.data(11 * PAIR, 16)
const DIVISORS: usize = memory.data(68 * PAIR, 16)
const PREFIXES: usize = memory.data(69 * PAIR, 16)

/** R = 2R (scaled by 4), its line times b (Costello, Lange, Naehrig 2010, in the form of Aranha et al. 2011). */
function doublingStep(line: usize, divisor: usize): void {
  const a = S
  const b = S + F2
  const c = S + 2 * F2
  const e = S + 3 * F2
  const f = S + 4 * F2
  const h = S + 5 * F2
  const s = S + 6 * F2
  const t = S + 7 * F2
  const z = R + 2 * F2
  const y = R + F2
  multiply2(a, R, y)
  square2(b, y)
  square2(c, z)
  // e = 12ξZ², f = 3e.
  timesXi(e, c)
  carry(e, e)
  triple(e, e)
  double(e, e)
  double(e, e)
  carry(e, e)
  triple(f, e)
  multiply2(h, y, z)
  double(h, h)
  // −i/h = (b − e)/h and −3X²/h.
  sub(line, b, e)
  square2(s, R)
  triple(line + F2, s)
  negate(line + F2, line + F2)
  copy(divisor, h)
  // X = 2a(b − f), Y = (b + f)² − 12e², Z = 4bh.
  sub(s, b, f)
  carry(s, s)
  double(s, s)
  multiply2(R, a, s)
  add(s, b, f)
  carry(s, s)
  square2(s, s)
  square2(t, e)
  triple(t, t)
  double(t, t)
  double(t, t)
  carry(t, t)
  sub(y, s, t)
  carry(y, y)
  double(h, h)
  carry(h, h)
  double(h, h)
  multiply2(z, b, h)
}
/** R = R + Q, Q with Z = 1. */
function additionStep(line: usize, divisor: usize): void {
  const theta = S
  const lambda = S + F2
  const c = S + 2 * F2
  const d = S + 3 * F2
  const e = S + 4 * F2
  const g = S + 5 * F2
  const s = S + 6 * F2
  const t = S + 7 * F2
  const z = R + 2 * F2
  const y = R + F2
  multiply2(s, Q + F2, z)
  sub(theta, y, s)
  carry(theta, theta)
  multiply2(s, Q, z)
  sub(lambda, R, s)
  carry(lambda, lambda)
  square2(c, theta)
  square2(d, lambda)
  multiply2(e, lambda, d)
  multiply2(s, z, c)
  multiply2(g, R, d)
  // h = e + zθ² − 2g, in s.
  add(s, s, e)
  sub(s, s, g)
  sub(s, s, g)
  carry(s, s)
  multiply2(R, lambda, s)
  sub(g, g, s)
  carry(g, g)
  multiply2(g, theta, g)
  multiply2(t, e, y)
  sub(y, g, t)
  carry(y, y)
  multiply2(z, z, e)
  multiply2(s, theta, Q)
  multiply2(t, lambda, Q + F2)
  sub(line, s, t)
  negate(line + F2, theta)
  copy(divisor, lambda)
}
/** The lines of a point of G2 other than the identity: PREPARED bytes at `lines`. */
export function prepare(lines: usize, p: usize): void {
  g2Normalise(Q, p)
  memory.copy(R, Q, 3 * F2)
  let k: usize = 0
  for (let i = 62; i >= 0; i--) {
    doublingStep(lines + LINE_BYTES * k, DIVISORS + F2 * k)
    k++
    if (bitOfT(i)) {
      additionStep(lines + LINE_BYTES * k, DIVISORS + F2 * k)
      k++
    }
  }
  // One inversion for all divisors (Montgomery's trick).
  copy(PREFIXES, ONE2)
  for (k = 0; k < LINES; k++) multiply2(PREFIXES + F2 * (k + 1), PREFIXES + F2 * k, DIVISORS + F2 * k)
  const inverse = S
  const own = S + F2
  invert2(inverse, PREFIXES + F2 * LINES)
  for (k = LINES; k > 0; k--) {
    const line = lines + LINE_BYTES * (k - 1)
    multiply2(own, inverse, PREFIXES + F2 * (k - 1))
    multiply2(inverse, inverse, DIVISORS + F2 * (k - 1))
    multiply2(line, line, own)
    multiply2(line + F2, line + F2, own)
  }
}

const LINE: usize = memory.data(6 * PAIR, 16)
const L1: usize = memory.data(2 * PAIR, 16)
const L2: usize = memory.data(2 * PAIR, 16)
const W0: usize = memory.data(WIDE, 16)
const W1: usize = memory.data(WIDE, 16)
const W2: usize = memory.data(WIDE, 16)
/** Per pair at `work`: (X/Y, X/Y), (Z/Y, Z/Y), and a product of Y's while they are inverted. */
const PAIR_WORK: usize = 3 * PAIR

/** Y of all points is inverted at once (Montgomery's trick). */
function divideByY(points: usize, n: usize, work: usize): void {
  copy(S, ONE_ONE)
  for (let i: usize = 0; i < n; i++) {
    const w = work + PAIR_WORK * i
    lanes11(w, points + POINT * i, points + POINT * i)
    copy(w + 2 * F2, S)
    multiply(S, S, w)
  }
  const inverse = S + F2
  const own = S + 2 * F2
  invert(inverse, S)
  for (let i = n; i > 0; i--) {
    const p = points + POINT * (i - 1)
    const w = work + PAIR_WORK * (i - 1)
    multiply(own, inverse, w + 2 * F2)
    multiply(inverse, inverse, w)
    lanes00(w, p, p)
    multiply(w, w, own)
    multiply(w + F2, p + F2, own)
  }
}
/** l = (c·Z/Y, a·X/Y) at a point whose work stands at `work`. */
function lineAt(l: usize, line: usize, work: usize): void {
  multiply(l, line, work + F2)
  multiply(l + F2, line + F2, work)
}
/**
 * f·= both lines of two pairs, merged: (c + av + vw)(c' + a'v + vw) =
 *   cc' + ξ + (ca' + ac')v + aa'v² + ((c + c')v + (a + a')v²)w.
 */
function twoLines(f: usize, line1: usize, line2: usize, work1: usize, work2: usize): void {
  lineAt(L1, line1, work1)
  lineAt(L2, line2, work2)
  multiplyWide2(W0, L1, L2)
  multiplyWide2(W1, L1 + F2, L2 + F2)
  add(S, L1, L1 + F2)
  add(S + F2, L2, L2 + F2)
  multiplyWide2(W2, S, S + F2)
  subWide2(W2, W0, W1)
  reduce(LINE, W0)
  // ξ = 1 + i.
  add(LINE, LINE, ONE_ONE)
  carry(LINE, LINE)
  reduce(LINE + F2, W2)
  reduce(LINE + 2 * F2, W1)
  add(LINE + F6 + F2, L1, L2)
  carry(LINE + F6 + F2, LINE + F6 + F2)
  add(LINE + F6 + 2 * F2, L1 + F2, L2 + F2)
  carry(LINE + F6 + 2 * F2, LINE + F6 + 2 * F2)
  multiply12By01245(f, f, LINE)
}
function oneLine(f: usize, line: usize, work: usize): void {
  lineAt(L1, line, work)
  multiply12ByLine(f, f, L1)
}
/**
 * f = Π of the Miller functions of n pairs: G1 points other than the identity at `points`, the addresses of prepared points at
 * `prepared`, PAIR_WORK bytes of work for each pair at `work`. One chain of squarings for all.
 */
export function miller(f: usize, points: usize, prepared: usize, n: i32, work: usize): void {
  const count = <usize>n
  divideByY(points, count, work)
  setOne12(f)
  let line: usize = 0
  for (let i = 62; i >= 0; i--) {
    if (i < 62) square12(f, f)
    const steps = bitOfT(i) ? 2 : 1
    for (let step = 0; step < steps; step++) {
      for (let j: usize = 0; j + 1 < count; j += 2) {
        const w = work + PAIR_WORK * j
        const first = <usize>load<u32>(prepared + 4 * j) + line
        const second = <usize>load<u32>(prepared + 4 * j + 4) + line
        twoLines(f, first, second, w, w + PAIR_WORK)
      }
      if (count & 1) {
        const j = count - 1
        oneLine(f, <usize>load<u32>(prepared + 4 * j) + line, work + PAIR_WORK * j)
      }
      line += LINE_BYTES
    }
  }
  // t < 0.
  conjugate12(f, f)
}

/** The highest place up to which squares are compressed: the four bits of |t| from there on are close together. */
const LAST_COMPRESSED = 57
/** Bits of |t| up to there: the powers by them, what they are divided by, and products of that. */
const BITS: usize = 3
const POWERS: usize = memory.data(18 * PAIR, 16)
const POWER_DIVISORS: usize = memory.data(3 * PAIR, 16)
const POWER_PRODUCTS: usize = memory.data(4 * PAIR, 16)
const M: usize = memory.data(6 * PAIR, 16)
const X: usize = memory.data(6 * PAIR, 16)
const Y: usize = memory.data(6 * PAIR, 16)
const Z: usize = memory.data(6 * PAIR, 16)
/**
 * r = a^t in the cyclotomic subgroup. r ≠ a. The squares are compressed, those at the bits of |t| decompressed and multiplied,
 * with one inversion for all; the last ones are taken in full, which costs less than to decompress them. Where a divisor is
 * zero, as for a = 1 and next to no other, all are.
 */
function powerT(r: usize, a: usize): void {
  memory.copy(r, a, F12)
  let n: usize = 0
  copy(POWER_PRODUCTS, ONE2)
  for (let i = 1; i <= LAST_COMPRESSED; i++) {
    compressedSquare(r, r)
    if (bitOfT(i)) {
      const divisor = POWER_DIVISORS + F2 * n
      memory.copy(POWERS + F12 * n, r, F12)
      compressedDivisor(divisor, r)
      multiply2(POWER_PRODUCTS + F2 * (n + 1), POWER_PRODUCTS + F2 * n, divisor)
      n++
    }
  }
  if (isZero2(POWER_PRODUCTS + F2 * BITS)) {
    powerTInFull(r, a)
    return
  }
  const inverse = S
  const own = S + F2
  invert2(inverse, POWER_PRODUCTS + F2 * BITS)
  for (let k = BITS; k > 0; k--) {
    const power = POWERS + F12 * (k - 1)
    multiply2(own, inverse, POWER_PRODUCTS + F2 * (k - 1))
    multiply2(inverse, inverse, POWER_DIVISORS + F2 * (k - 1))
    decompress(power, own)
    if (k === BITS) memory.copy(r, power, F12)
    else multiply12(r, r, power)
  }
  const last = POWERS + F12 * (BITS - 1)
  for (let i = LAST_COMPRESSED + 1; i < 64; i++) {
    cyclotomicSquare(last, last)
    if (bitOfT(i)) multiply12(r, r, last)
  }
  conjugate12(r, r)
}
function powerTInFull(r: usize, a: usize): void {
  memory.copy(r, a, F12)
  for (let i = 62; i >= 0; i--) {
    cyclotomicSquare(r, r)
    if (bitOfT(i)) multiply12(r, r, a)
  }
  conjugate12(r, r)
}
/** f^(3(p¹² − 1)/q): 3(p⁴ − p² + 1)/q = (t − 1)²(t + p)(t² + p² − 1) + 3 (Hayashida, Hayasaka, Teruya 2020). */
export function finalExponentiation(r: usize, f: usize): void {
  // M = f^((p⁶ − 1)(p² + 1)).
  invert12(X, f)
  conjugate12(Y, f)
  multiply12(X, X, Y)
  frobenius12(M, X, 2)
  multiply12(M, M, X)
  // Y = M^((t − 1)²).
  powerT(X, M)
  conjugate12(Y, M)
  multiply12(Y, X, Y)
  powerT(X, Y)
  conjugate12(Y, Y)
  multiply12(Y, X, Y)
  // Y = Y^(t + p).
  powerT(X, Y)
  frobenius12(Y, Y, 1)
  multiply12(Y, X, Y)
  // X = Y^(t² + p² − 1).
  powerT(Z, Y)
  powerT(X, Z)
  frobenius12(Z, Y, 2)
  multiply12(X, X, Z)
  conjugate12(Y, Y)
  multiply12(X, X, Y)
  cyclotomicSquare(Y, M)
  multiply12(Y, Y, M)
  multiply12(r, X, Y)
}

/** r = a/b for values of e, whose inverse is their conjugate. */
export function divide12(r: usize, a: usize, b: usize): void {
  conjugate12(X, b)
  multiply12(r, a, X)
}
/** −1 or 0. */
export function isOne12(a: usize): i32 {
  sub(S, a, ONE2)
  let one = isZero2(S)
  for (let i: usize = 1; i < 6; i++) one &= isZero2(a + i * F2)
  return one
}
/** 576 bytes: c₀ first at every level. */
export function gtBytes(to: usize, a: usize): void {
  for (let i: usize = 0; i < 6; i++) {
    writeBytes(to + 96 * i, a + i * F2, 0)
    writeBytes(to + 96 * i + 48, a + i * F2, 1)
  }
}
