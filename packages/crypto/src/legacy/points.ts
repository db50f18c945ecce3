/**
 * Points of a retired curve and their octets. `decode` is the only door.
 *
 *   G1  04 | x | y                          1 + 2·NB octets
 *   G2  x.re | x.im | y.re | y.im           4·NB octets, no prefix
 *
 * Divergence: the retired code asked only whether a point is on the curve. Here a coordinate not below p, a point outside
 * the subgroup and a spelling of the identity are refused too.
 */
import { concat } from '../bytes.js'
import { DecodeError } from '../errors.js'
import type { LegacyCurve } from './curve.js'
import type { GroupLaw, Projective } from './group-law.js'
import { i2os, os2i } from './octets.js'
import type { Scalar } from './scalar.js'
import type { Fp2 } from './tower.js'

abstract class GroupPoint<T> {
  readonly curve: LegacyCurve
  readonly #law: GroupLaw<T>
  readonly #point: Projective<T>

  protected constructor(curve: LegacyCurve, law: GroupLaw<T>, point: Projective<T>) {
    this.curve = curve
    this.#law = law
    this.#point = point
  }
  protected abstract like(point: Projective<T>): this

  /** For the pairing. */
  toProjective(): Projective<T> {
    return this.#point
  }
  isIdentity(): boolean {
    return this.#law.isIdentity(this.#point)
  }
  equals(other: this): boolean {
    return this.#law.equals(this.#point, this.#beside(other))
  }
  add(other: this): this {
    return this.like(this.#law.add(this.#point, this.#beside(other)))
  }
  subtract(other: this): this {
    return this.like(this.#law.add(this.#point, this.#law.negate(this.#beside(other))))
  }
  negate(): this {
    return this.like(this.#law.negate(this.#point))
  }
  multiply(scalar: Scalar): this {
    if (scalar.curve !== this.curve) throw new TypeError('a scalar of another curve')
    return this.like(this.#law.multiply(this.#point, scalar.toInteger()))
  }

  #beside(other: this): Projective<T> {
    if (other.curve !== this.curve) throw new TypeError('points of two curves')
    return other.#point
  }
}

export class G1 extends GroupPoint<bigint> {
  private constructor(curve: LegacyCurve, point: Projective<bigint>) {
    super(curve, curve.g1, point)
  }
  protected override like(point: Projective<bigint>): this {
    return new G1(this.curve, point) as this
  }

  /** For hash-to-curve.ts, which gives points of the group. */
  static fromProjective(curve: LegacyCurve, point: Projective<bigint>): G1 {
    return new G1(curve, point)
  }
  static generator(curve: LegacyCurve): G1 {
    return new G1(curve, curve.generator1)
  }
  /** The sum of shares: at least one point. */
  static sum(points: readonly G1[]): G1 {
    return points.reduce((sum, point) => sum.add(point))
  }

  static decode(curve: LegacyCurve, octets: Uint8Array, field = 'point'): G1 {
    if (octets.length !== 1 + 2 * curve.size)
      throw new DecodeError(field, `${1 + 2 * curve.size} bytes expected`)
    if (octets[0] !== 4) throw new DecodeError(field, 'not an uncompressed point')
    const [x, y] = coordinates(curve, octets.subarray(1), field) as [bigint, bigint]
    const point = onCurve(curve.g1, { x, y }, field)
    if (curve.cofactor1 !== 1n) inSubgroup(curve, curve.g1, point, field)
    return new G1(curve, point)
  }
  /** RangeError for the identity, which has no octets. */
  encode(): Uint8Array {
    return concat(Uint8Array.of(4), this.encodeCoordinates())
  }
  /** x | y. */
  encodeCoordinates(): Uint8Array {
    const { x, y } = this.curve.g1.toAffine(this.toProjective())
    return concat(i2os(x, this.curve.size), i2os(y, this.curve.size))
  }
}

export class G2 extends GroupPoint<Fp2> {
  private constructor(curve: LegacyCurve, point: Projective<Fp2>) {
    super(curve, curve.g2, point)
  }
  protected override like(point: Projective<Fp2>): this {
    return new G2(this.curve, point) as this
  }

  /** For hash-to-curve.ts, which gives points of the group. */
  static fromProjective(curve: LegacyCurve, point: Projective<Fp2>): G2 {
    return new G2(curve, point)
  }
  /** Q. */
  static generator(curve: LegacyCurve): G2 {
    return new G2(curve, curve.generator2)
  }
  /** The sum of shares: at least one point. */
  static sum(points: readonly G2[]): G2 {
    return points.reduce((sum, point) => sum.add(point))
  }

  static decode(curve: LegacyCurve, octets: Uint8Array, field = 'point'): G2 {
    if (octets.length !== 4 * curve.size) throw new DecodeError(field, `${4 * curve.size} bytes expected`)
    const [xRe, xIm, yRe, yIm] = coordinates(curve, octets, field) as [bigint, bigint, bigint, bigint]
    const point = onCurve(curve.g2, { x: { re: xRe, im: xIm }, y: { re: yRe, im: yIm } }, field)
    inSubgroup(curve, curve.g2, point, field)
    return new G2(curve, point)
  }
  /** RangeError for the identity, which has no octets. */
  encode(): Uint8Array {
    const { x, y } = this.curve.g2.toAffine(this.toProjective())
    return concat(...[x.re, x.im, y.re, y.im].map(value => i2os(value, this.curve.size)))
  }
}

/** Field elements of NB octets each, all below p. */
function coordinates({ size, tower }: LegacyCurve, octets: Uint8Array, field: string): bigint[] {
  const values: bigint[] = []
  for (let at = 0; at < octets.length; at += size) values.push(os2i(octets.subarray(at, at + size)))
  if (values.some(value => value >= tower.fp.p)) throw new DecodeError(field, 'a coordinate not below p')
  return values
}

function onCurve<T>(
  law: GroupLaw<T>,
  affine: { readonly x: T; readonly y: T },
  field: string,
): Projective<T> {
  // A run of zeros, which spells no point of these curves, ends here as well.
  if (!law.isOnCurve(affine)) throw new DecodeError(field, 'not on the curve')
  return law.fromAffine(affine)
}

/** By its definition: r times the point is the identity. */
function inSubgroup<T>(curve: LegacyCurve, law: GroupLaw<T>, point: Projective<T>, field: string): void {
  if (!law.isIdentity(law.multiply(point, curve.r)))
    throw new DecodeError(field, 'not in the group of order r')
}
