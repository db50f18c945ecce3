/**
 * The group of y² = x³ + b over a field: G1 over Fp, G2 over Fp2. Complete formulas of Renes, Costello and Batina 2015
 * (a = 0, b₃ = 3b): none of the four groups has a point of order 2, so they hold for all points, the identity and equal
 * points included.
 */
import type { Field } from './tower.js'

/** (X : Y : Z), x = X/Z and y = Y/Z; the identity is (0 : 1 : 0). */
export interface Projective<T> {
  readonly x: T
  readonly y: T
  readonly z: T
}
export interface Affine<T> {
  readonly x: T
  readonly y: T
}

export class GroupLaw<T> {
  readonly field: Field<T>
  readonly identity: Projective<T>
  readonly #b: T
  readonly #b3: T

  constructor(field: Field<T>, b: T) {
    this.field = field
    this.identity = { x: field.zero, y: field.one, z: field.zero }
    this.#b = b
    this.#b3 = field.add(field.add(b, b), b)
  }

  /** Their algorithm 7. */
  add(a: Projective<T>, b: Projective<T>): Projective<T> {
    const f = this.field
    const xx = f.multiply(a.x, b.x)
    const yy = f.multiply(a.y, b.y)
    const zz = f.timesSmall(f.multiply(a.z, b.z), this.#b3)
    const xy = f.subtract(f.multiply(f.add(a.x, a.y), f.add(b.x, b.y)), f.add(xx, yy))
    const yz = f.sumOfTwo(a.y, b.z, a.z, b.y)
    const xz = f.timesSmall(f.sumOfTwo(a.x, b.z, a.z, b.x), this.#b3)
    const xx3 = f.add(f.add(xx, xx), xx)
    const sum = f.add(yy, zz)
    const difference = f.subtract(yy, zz)
    return {
      x: f.sumOfTwo(xy, difference, f.negate(yz), xz),
      y: f.sumOfTwo(xx3, xz, difference, sum),
      z: f.sumOfTwo(sum, yz, xx3, xy),
    }
  }

  /** Their algorithm 9. */
  double({ x, y, z }: Projective<T>): Projective<T> {
    const f = this.field
    const yy = f.square(y)
    const zz = f.timesSmall(f.square(z), this.#b3)
    const yy2 = f.add(yy, yy)
    const yy8 = f.add(f.add(yy2, yy2), f.add(yy2, yy2))
    const difference = f.subtract(yy, f.add(f.add(zz, zz), zz))
    const xy = f.multiply(x, y)
    return {
      x: f.multiply(difference, f.add(xy, xy)),
      y: f.sumOfTwo(difference, f.add(yy, zz), yy8, zz),
      z: f.multiply(yy8, f.multiply(y, z)),
    }
  }

  negate({ x, y, z }: Projective<T>): Projective<T> {
    return { x, y: this.field.negate(y), z }
  }

  /** k·a for any integer, four bits of it at a time. */
  multiply(a: Projective<T>, k: bigint): Projective<T> {
    if (k < 0n) return this.multiply(this.negate(a), -k)
    const multiples = [this.identity, a]
    let sum = this.identity
    for (const digit of k.toString(16)) {
      for (let i = 0; i < 4; i++) sum = this.double(sum)
      const at = Number.parseInt(digit, 16)
      while (multiples.length <= at) multiples.push(this.add(multiples.at(-1) as Projective<T>, a))
      sum = this.add(sum, multiples[at] as Projective<T>)
    }
    return sum
  }

  isIdentity({ z }: Projective<T>): boolean {
    return this.field.isZero(z)
  }

  equals(a: Projective<T>, b: Projective<T>): boolean {
    const f = this.field
    return (
      f.isZero(f.subtract(f.multiply(a.x, b.z), f.multiply(b.x, a.z))) &&
      f.isZero(f.subtract(f.multiply(a.y, b.z), f.multiply(b.y, a.z)))
    )
  }

  /** x³ + b. */
  rightSide(x: T): T {
    const f = this.field
    return f.add(f.multiply(f.square(x), x), this.#b)
  }
  isOnCurve({ x, y }: Affine<T>): boolean {
    return this.field.isZero(this.field.subtract(this.field.square(y), this.rightSide(x)))
  }

  fromAffine({ x, y }: Affine<T>): Projective<T> {
    return { x, y, z: this.field.one }
  }
  /** RangeError for the identity, which has no x and y. */
  toAffine({ x, y, z }: Projective<T>): Affine<T> {
    const f = this.field
    const overZ = f.invert(z)
    return { x: f.canonical(f.multiply(x, overZ)), y: f.canonical(f.multiply(y, overZ)) }
  }
}
