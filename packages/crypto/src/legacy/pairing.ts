/**
 * The pairing of a retired curve, and its target group: optimal ate (Vercauteren 2010) by affine points, then the final
 * exponentiation. On BLS381 the value is the third power of what the definition says, as in other libraries; keys, E
 * and F depend on it, verdicts don't.
 */
import { concat } from '../bytes.js'
import type { LegacyCurve } from './curve.js'
import type { Affine } from './group-law.js'
import { i2os } from './octets.js'
import type { G1, G2 } from './points.js'
import type { Scalar } from './scalar.js'
import { type Fp2, type Fp12, power, type Tower } from './tower.js'

export class GT {
  readonly curve: LegacyCurve
  readonly #value: Fp12

  private constructor(curve: LegacyCurve, value: Fp12) {
    this.curve = curve
    this.#value = curve.tower.canonical(value)
  }

  /** Π e(P, R) over pairs of one curve; a pair with an identity counts 1. */
  static pairing(curve: LegacyCurve, pairs: readonly (readonly [G1, G2])[]): GT {
    if (pairs.some(([P, R]) => P.curve !== curve || R.curve !== curve))
      throw new TypeError('points of another curve')
    return new GT(curve, finalExponentiation(curve, millerLoop(curve, pairs)))
  }
  static one(curve: LegacyCurve): GT {
    return new GT(curve, curve.tower.one)
  }

  multiply(other: GT): GT {
    if (other.curve !== this.curve) throw new TypeError('values of two curves')
    return new GT(this.curve, this.curve.tower.multiply(this.#value, other.#value))
  }
  invert(): GT {
    return new GT(this.curve, this.curve.tower.conjugate(this.#value))
  }
  power(scalar: Scalar): GT {
    if (scalar.curve !== this.curve) throw new TypeError('a scalar of another curve')
    return new GT(this.curve, power(this.curve.tower, this.#value, scalar.toInteger()))
  }
  isOne(): boolean {
    return this.equals(GT.one(this.curve))
  }
  equals(other: GT): boolean {
    return this.#value.every(({ re, im }, k) => re === other.#value[k]?.re && im === other.#value[k]?.im)
  }

  /** Three coefficients of Fp4, lowest first, each a.re | a.im | b.re | b.im: 12·NB octets. */
  encode(): Uint8Array {
    const [w0, w1, w2, w3, w4, w5] = this.#value
    return this.#octets([w0, w3, w1, w4, w2, w5])
  }
  /** The trace to Fp4, three times the coefficient of w⁰: 4·NB octets a.re | a.im | b.re | b.im. */
  encodeTrace(): Uint8Array {
    const { fp2 } = this.curve.tower
    return this.#octets([this.#value[0], this.#value[3]].map(part => fp2.canonical(fp2.scale(part, 3n))))
  }

  #octets(parts: readonly Fp2[]): Uint8Array {
    return concat(...parts.flatMap(({ re, im }) => [i2os(re, this.curve.size), i2os(im, this.curve.size)]))
  }
}

interface Pair {
  readonly P: Affine<bigint>
  readonly R: Affine<Fp2>
  /** The multiple of R that the loop has reached. */
  T: Affine<Fp2>
}

/** Π f_{loop,R}(P), up to factors that the final exponentiation makes 1. */
function millerLoop(curve: LegacyCurve, points: readonly (readonly [G1, G2])[]): Fp12 {
  const { tower, loop } = curve
  const pairs = points
    .filter(([P, R]) => !P.isIdentity() && !R.isIdentity())
    .map(([P, R]): Pair => {
      const affine = curve.g2.toAffine(R.toProjective())
      return { P: curve.g1.toAffine(P.toProjective()), R: affine, T: affine }
    })
  let f = tower.one
  /** T becomes T + S, f takes the line through both. */
  const step = (pair: Pair, S: Affine<Fp2>): void => {
    const { line, sum } = lineThrough(curve, pair.T, S, pair.P)
    f = tower.multiply(f, line)
    pair.T = sum
  }
  for (const bit of (loop < 0n ? -loop : loop).toString(2).slice(1)) {
    f = tower.square(f)
    for (const pair of pairs) step(pair, pair.T)
    if (bit === '1') for (const pair of pairs) step(pair, pair.R)
  }
  if (loop < 0n) {
    f = tower.conjugate(f)
    for (const pair of pairs) pair.T = negated(curve, pair.T)
  }
  if (curve.family === 'BN') {
    for (const pair of pairs) {
      const first = curve.psi(curve.g2.fromAffine(pair.R))
      step(pair, curve.g2.toAffine(first))
      step(pair, negated(curve, curve.g2.toAffine(curve.psi(first))))
    }
  }
  return f
}

const negated = ({ tower }: LegacyCurve, { x, y }: Affine<Fp2>): Affine<Fp2> => ({
  x,
  y: tower.fp2.negate(y),
})

/**
 * The line through T and S of the twist (the tangent where they are equal), untwisted, at P, and T + S. With its slope
 * λ on the twist:
 *
 *   D  y_P − λ·x_P·w + (λx − y)·w³          M, times w³  (λx − y) − λ·x_P·w² + y_P·w³
 *
 * T = −S doesn't come up: both are multiples of R by less than r.
 */
function lineThrough(
  { tower, twist }: LegacyCurve,
  T: Affine<Fp2>,
  S: Affine<Fp2>,
  P: Affine<bigint>,
): { readonly line: Fp12; readonly sum: Affine<Fp2> } {
  const { fp2 } = tower
  const { zero } = fp2
  const isTangent = fp2.isZero(fp2.subtract(T.x, S.x))
  const rise = isTangent ? fp2.scale(fp2.square(T.x), 3n) : fp2.subtract(S.y, T.y)
  const run = isTangent ? fp2.add(T.y, T.y) : fp2.subtract(S.x, T.x)
  const slope = fp2.multiply(rise, fp2.invert(run))
  const x = fp2.subtract(fp2.square(slope), fp2.add(T.x, S.x))
  const y = fp2.subtract(fp2.multiply(slope, fp2.subtract(T.x, x)), T.y)
  const constant = fp2.subtract(fp2.multiply(slope, T.x), T.y)
  const ofX = fp2.negate(fp2.scale(slope, P.x))
  const ofY: Fp2 = { re: P.y, im: 0n }
  return {
    line: twist === 'D' ? [ofY, ofX, zero, constant, zero, zero] : [constant, zero, ofX, ofY, zero, zero],
    sum: { x, y: fp2.canonical(y) },
  }
}

/** f^((p⁶ − 1)(p² + 1)·hard part). */
function finalExponentiation(curve: LegacyCurve, f: Fp12): Fp12 {
  const { tower } = curve
  const unitary = tower.multiply(tower.conjugate(f), tower.invert(f))
  const easy = tower.multiply(tower.frobenius(tower.frobenius(unitary)), unitary)
  return HARD_PART[curve.family](curve, easy)
}

/**
 * Of an `a` whose inverse is its conjugate:
 *
 *   BN     a^((p⁴ − p² + 1)/r) = a^(p³ + (6u² + 1)p² − (36u³ + 18u² + 12u − 1)p − (36u³ + 30u² + 18u + 2))
 *          (Devegili, Scott and Dahab 2007, "Implementing cryptographic pairings over Barreto–Naehrig curves")
 *   BLS12  a^(3(p⁴ − p² + 1)/r) = a^((u − 1)²(u + p)(u² + p² − 1) + 3)
 *          (Hayashida, Hayasaka and Teruya 2020, "Efficient final exponentiation via cyclotomic structure")
 */
const HARD_PART: Readonly<Record<LegacyCurve['family'], (curve: LegacyCurve, a: Fp12) => Fp12>> = {
  BN: ({ tower, u }, a) => {
    const { product, frobenius, timesU, times } = exponents(tower, u)
    const a_u = timesU(a)
    const a_uu = timesU(a_u)
    const a_6uu = times(a_uu, 6n)
    const a_12u = times(a_u, 12n)
    const common = product(times(timesU(a_6uu), 6n), times(a_6uu, 3n), a_12u)
    const first = product(common, times(a_6uu, 2n), times(a_u, 6n), a, a)
    const second = product(common, tower.conjugate(a))
    const third = product(a_6uu, a)
    return product(
      frobenius(a, 3),
      frobenius(third, 2),
      tower.conjugate(product(frobenius(second, 1), first)),
    )
  },
  BLS12: ({ tower, u }, a) => {
    const { product, frobenius, timesU } = exponents(tower, u)
    const conjugate = (x: Fp12): Fp12 => tower.conjugate(x)
    const once = product(timesU(a), conjugate(a))
    const twice = product(timesU(once), conjugate(once))
    const withP = product(timesU(twice), frobenius(twice, 1))
    return product(timesU(timesU(withP)), frobenius(withP, 2), conjugate(withP), a, a, a)
  },
}

/** Sums, p-th powers and multiples in the exponent. */
function exponents(tower: Tower, u: bigint) {
  const times = (a: Fp12, k: bigint): Fp12 => power(tower, k < 0n ? tower.conjugate(a) : a, k < 0n ? -k : k)
  return {
    times,
    timesU: (a: Fp12): Fp12 => times(a, u),
    product: (...factors: Fp12[]): Fp12 => factors.reduce((a, b) => tower.multiply(a, b)),
    frobenius: (a: Fp12, n: number): Fp12 => {
      let result = a
      for (let i = 0; i < n; i++) result = tower.frobenius(result)
      return result
    },
  }
}
