/** Integers mod r, the order of a retired curve's groups, in NB octets. BigInt: not constant time. */
import { DecodeError } from '../errors.js'
import { freshBytes, type Random } from '../ports.js'
import type { LegacyCurve } from './curve.js'
import { i2os, os2i } from './octets.js'
import { invertModulo } from './tower.js'

/** Octets of a draw: 128 bits and more above r. */
const WIDE = 48

export class Scalar {
  readonly curve: LegacyCurve
  readonly #value: bigint

  private constructor(curve: LegacyCurve, value: bigint) {
    const rest = value % curve.r
    this.curve = curve
    this.#value = rest < 0n ? rest + curve.r : rest
  }

  /** NB octets big-endian. Divergence: not below r is a DecodeError; the retired code reduced. */
  static decode(curve: LegacyCurve, octets: Uint8Array, field = 'scalar'): Scalar {
    if (octets.length !== curve.size) throw new DecodeError(field, `${curve.size} bytes expected`)
    const value = os2i(octets)
    if (value >= curve.r) throw new DecodeError(field, 'not below the group order')
    return new Scalar(curve, value)
  }

  /** A whole number ≥ 0 that a double holds exactly. */
  static fromNumber(curve: LegacyCurve, value: number): Scalar {
    if (!Number.isSafeInteger(value) || value < 0)
      throw new RangeError('a scalar is a whole number from 0 on')
    return new Scalar(curve, BigInt(value))
  }

  /** OS2I mod r, of any length: hashes. */
  static reduce(curve: LegacyCurve, octets: Uint8Array): Scalar {
    return new Scalar(curve, os2i(octets))
  }

  /** Uniform in 1…r−1, but for a bias below 2⁻¹²⁸. RangeError for a source of zeros. */
  static random(curve: LegacyCurve, random: Random): Scalar {
    const scalar = Scalar.reduce(curve, freshBytes(random, WIDE))
    if (scalar.#value === 0n) throw new RangeError('the random source gives zeros')
    return scalar
  }

  encode(): Uint8Array {
    return i2os(this.#value, this.curve.size)
  }
  /** For the group law. */
  toInteger(): bigint {
    return this.#value
  }
  add(other: Scalar): Scalar {
    return new Scalar(this.curve, this.#value + this.#beside(other))
  }
  negate(): Scalar {
    return new Scalar(this.curve, -this.#value)
  }
  /** RangeError for zero. */
  invert(): Scalar {
    return new Scalar(this.curve, invertModulo(this.#value, this.curve.r))
  }

  #beside(other: Scalar): bigint {
    if (other.curve !== this.curve) throw new TypeError('scalars of two curves')
    return other.#value
  }
}
