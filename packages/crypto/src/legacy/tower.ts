/**
 * The fields under the retired curves, in plain BigInt, p and nothing else given:
 *
 *   Fp2 = Fp[i]/(i² + 1)    Fp4 = Fp2[v]/(v² − ξ), ξ = 1 + i    Fp12 = Fp4[w]/(w³ − v), so w⁶ = ξ
 *
 * An element of Fp12 is held by its six coefficients of w⁰…w⁵; its three of Fp4 are (w⁰, w³), (w¹, w⁴), (w², w⁵). BigInt
 * takes time that depends on its operands: nothing here is constant time.
 *
 * An integer stands for its class mod p, negative ones too: products are reduced to below p in size, sums are not, and
 * `canonical` gives 0…p−1, which is what is compared and written.
 */

export interface Fp2 {
  readonly re: bigint
  readonly im: bigint
}
/** Coefficients of w⁰…w⁵. */
export type Fp12 = readonly [Fp2, Fp2, Fp2, Fp2, Fp2, Fp2]

/** What the group law needs of a field. */
export interface Field<T> {
  readonly zero: T
  readonly one: T
  add(a: T, b: T): T
  subtract(a: T, b: T): T
  negate(a: T): T
  multiply(a: T, b: T): T
  square(a: T): T
  /** a·b + c·d, reduced once. */
  sumOfTwo(a: T, b: T, c: T, d: T): T
  /** By a constant of a few bits, not reduced. */
  timesSmall(a: T, small: T): T
  /** RangeError for zero. */
  invert(a: T): T
  isZero(a: T): boolean
  canonical(a: T): T
}

export class PrimeField implements Field<bigint> {
  readonly zero = 0n
  readonly one = 1n
  /** p ≡ 3 mod 4. */
  readonly p: bigint

  constructor(p: bigint) {
    this.p = p
  }
  add(a: bigint, b: bigint): bigint {
    return a + b
  }
  subtract(a: bigint, b: bigint): bigint {
    return a - b
  }
  negate(a: bigint): bigint {
    return -a
  }
  multiply(a: bigint, b: bigint): bigint {
    return (a * b) % this.p
  }
  square(a: bigint): bigint {
    return (a * a) % this.p
  }
  sumOfTwo(a: bigint, b: bigint, c: bigint, d: bigint): bigint {
    return (a * b + c * d) % this.p
  }
  timesSmall(a: bigint, small: bigint): bigint {
    return a * small
  }
  invert(a: bigint): bigint {
    return invertModulo(a, this.p)
  }
  isZero(a: bigint): boolean {
    return a % this.p === 0n
  }
  canonical(a: bigint): bigint {
    const rest = a % this.p
    return rest < 0n ? rest + this.p : rest
  }
  half(a: bigint): bigint {
    return this.multiply(a, (this.p + 1n) / 2n)
  }
  /** a^((p + 1)/4), the root that the retired code took; null when `a` is no square. */
  root(a: bigint): bigint | null {
    const root = this.canonical(power(this, a, (this.p + 1n) / 4n))
    return this.isZero(root * root - a) ? root : null
  }
}

export class QuadraticField implements Field<Fp2> {
  readonly zero: Fp2 = { re: 0n, im: 0n }
  readonly one: Fp2 = { re: 1n, im: 0n }
  /** ξ = 1 + i, neither a square nor a cube. */
  readonly xi: Fp2 = { re: 1n, im: 1n }
  readonly fp: PrimeField

  constructor(fp: PrimeField) {
    this.fp = fp
  }
  add(a: Fp2, b: Fp2): Fp2 {
    return { re: a.re + b.re, im: a.im + b.im }
  }
  subtract(a: Fp2, b: Fp2): Fp2 {
    return { re: a.re - b.re, im: a.im - b.im }
  }
  negate(a: Fp2): Fp2 {
    return { re: -a.re, im: -a.im }
  }
  multiply(a: Fp2, b: Fp2): Fp2 {
    const { p } = this.fp
    return { re: (a.re * b.re - a.im * b.im) % p, im: (a.re * b.im + a.im * b.re) % p }
  }
  square({ re, im }: Fp2): Fp2 {
    const { p } = this.fp
    return { re: ((re + im) * (re - im)) % p, im: (2n * re * im) % p }
  }
  sumOfTwo(a: Fp2, b: Fp2, c: Fp2, d: Fp2): Fp2 {
    const { p } = this.fp
    return {
      re: (a.re * b.re - a.im * b.im + c.re * d.re - c.im * d.im) % p,
      im: (a.re * b.im + a.im * b.re + c.re * d.im + c.im * d.re) % p,
    }
  }
  timesSmall(a: Fp2, small: Fp2): Fp2 {
    return { re: a.re * small.re - a.im * small.im, im: a.re * small.im + a.im * small.re }
  }
  scale(a: Fp2, by: bigint): Fp2 {
    return { re: this.fp.multiply(a.re, by), im: this.fp.multiply(a.im, by) }
  }
  /** Of a + bi it is a − bi, and the p-th power. */
  conjugate(a: Fp2): Fp2 {
    return { re: a.re, im: -a.im }
  }
  /** (a + bi)(a − bi) = a² + b². */
  invert(a: Fp2): Fp2 {
    return this.scale(this.conjugate(a), this.fp.invert(a.re * a.re + a.im * a.im))
  }
  isZero(a: Fp2): boolean {
    return this.fp.isZero(a.re) && this.fp.isZero(a.im)
  }
  canonical(a: Fp2): Fp2 {
    return { re: this.fp.canonical(a.re), im: this.fp.canonical(a.im) }
  }
  /**
   * The root c + i·b/(2c) of a + bi with c = √t, t = (a + n)/2 or, where that is no square, (a − n)/2, n = √(a² + b²):
   * the one that the retired code took. Null when there is none.
   */
  root({ re, im }: Fp2): Fp2 | null {
    const { fp } = this
    const n = fp.root(re * re + im * im)
    if (n === null) return null
    const c = fp.root(fp.half(re + n)) ?? fp.root(fp.half(re - n))
    if (c === null || c === 0n) return null
    return { re: c, im: fp.multiply(im, fp.invert(2n * c)) }
  }
}

export class Tower {
  readonly fp: PrimeField
  readonly fp2: QuadraticField
  readonly one: Fp12
  /** ξ^(k(p−1)/6): w^p = w·ξ^((p−1)/6). */
  readonly frobeniusConstants: readonly Fp2[]

  constructor(p: bigint) {
    this.fp = new PrimeField(p)
    this.fp2 = new QuadraticField(this.fp)
    const { zero, one, xi } = this.fp2
    this.one = [one, zero, zero, zero, zero, zero]
    const first = power(this.fp2, xi, (p - 1n) / 6n)
    this.frobeniusConstants = [0n, 1n, 2n, 3n, 4n, 5n].map(k => power(this.fp2, first, k))
  }

  /** Schoolbook: whole columns are summed before anything is reduced, and zero coefficients (of lines) cost nothing. */
  multiply(a: Fp12, b: Fp12): Fp12 {
    const re = new Array<bigint>(11).fill(0n)
    const im = new Array<bigint>(11).fill(0n)
    for (let i = 0; i < 6; i++) {
      const x = a[i] as Fp2
      for (let j = 0; j < 6; j++) {
        const y = b[j] as Fp2
        if (y.re === 0n && y.im === 0n) continue
        re[i + j] = (re[i + j] as bigint) + x.re * y.re - x.im * y.im
        im[i + j] = (im[i + j] as bigint) + x.re * y.im + x.im * y.re
      }
    }
    return this.#reduced(re, im)
  }
  /** The same with each pair of coefficients once. */
  square(a: Fp12): Fp12 {
    const re = new Array<bigint>(11).fill(0n)
    const im = new Array<bigint>(11).fill(0n)
    for (let i = 0; i < 6; i++) {
      const x = a[i] as Fp2
      const x2 = { re: 2n * x.re, im: 2n * x.im }
      re[2 * i] = (re[2 * i] as bigint) + (x.re + x.im) * (x.re - x.im)
      im[2 * i] = (im[2 * i] as bigint) + x2.re * x.im
      for (let j = i + 1; j < 6; j++) {
        const y = a[j] as Fp2
        re[i + j] = (re[i + j] as bigint) + x2.re * y.re - x2.im * y.im
        im[i + j] = (im[i + j] as bigint) + x2.re * y.im + x2.im * y.re
      }
    }
    return this.#reduced(re, im)
  }
  /** (w ↦ −w) is the p⁶-th power; after the easy part of the final exponentiation it is the inverse. */
  conjugate(a: Fp12): Fp12 {
    return fromColumns(k => (k % 2 === 0 ? (a[k] as Fp2) : this.fp2.negate(a[k] as Fp2)))
  }
  /** a^p. */
  frobenius(a: Fp12): Fp12 {
    const { fp2, frobeniusConstants } = this
    return fromColumns(k => fp2.multiply(fp2.conjugate(a[k] as Fp2), frobeniusConstants[k] as Fp2))
  }
  /** ā/N with N = a·ā, which has even powers of w alone: t = w², t³ = ξ, inverted by its adjugate. RangeError for zero. */
  invert(a: Fp12): Fp12 {
    const { fp2 } = this
    const conjugate = this.conjugate(a)
    const [n0, , n1, , n2] = this.multiply(a, conjugate)
    const timesXi = (x: Fp2): Fp2 => fp2.multiply(x, fp2.xi)
    const x = fp2.subtract(fp2.multiply(n0, n0), timesXi(fp2.multiply(n1, n2)))
    const y = fp2.subtract(timesXi(fp2.multiply(n2, n2)), fp2.multiply(n0, n1))
    const z = fp2.subtract(fp2.multiply(n1, n1), fp2.multiply(n0, n2))
    const cross = fp2.add(fp2.multiply(n2, y), fp2.multiply(n1, z))
    const over = fp2.invert(fp2.add(fp2.multiply(n0, x), timesXi(cross)))
    const inverse: Fp12 = [
      fp2.multiply(x, over),
      fp2.zero,
      fp2.multiply(y, over),
      fp2.zero,
      fp2.multiply(z, over),
      fp2.zero,
    ]
    return this.multiply(conjugate, inverse)
  }
  canonical(a: Fp12): Fp12 {
    return fromColumns(k => this.fp2.canonical(a[k] as Fp2))
  }

  /** From eleven columns: w⁶ = ξ, and (re + i·im)·ξ = (re − im) + i(re + im). */
  #reduced(re: readonly bigint[], im: readonly bigint[]): Fp12 {
    const { p } = this.fp
    return fromColumns(k => {
      const [re6, im6] = [re[k + 6] ?? 0n, im[k + 6] ?? 0n]
      return { re: ((re[k] as bigint) + re6 - im6) % p, im: ((im[k] as bigint) + re6 + im6) % p }
    })
  }
}

const fromColumns = (column: (k: number) => Fp2): Fp12 => [
  column(0),
  column(1),
  column(2),
  column(3),
  column(4),
  column(5),
]

/** Square and multiply, from the top. */
export function power<T>(field: Pick<Field<T>, 'one' | 'multiply' | 'square'>, base: T, exponent: bigint): T {
  let result = field.one
  for (const bit of exponent.toString(2)) {
    result = field.square(result)
    if (bit === '1') result = field.multiply(result, base)
  }
  return result
}

/** a⁻¹ modulo a prime, by Euclid's algorithm, in −m < a⁻¹ < m. RangeError for zero. */
export function invertModulo(a: bigint, modulus: bigint): bigint {
  let [high, low] = [modulus, a % modulus]
  let [before, factor] = [0n, 1n]
  while (low !== 0n) {
    const quotient = high / low
    ;[high, low] = [low, high - quotient * low]
    ;[before, factor] = [factor, before - quotient * factor]
  }
  // The last remainder is ±1, unless a was 0.
  if (high !== 1n && high !== -1n) throw new RangeError('zero has no inverse')
  return high * before
}
