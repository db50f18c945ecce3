/**
 * Integers mod q, the prime order of the groups.
 *
 * Secret: shares, nonces, α, and whatever is computed from them before it is published. BigInt arithmetic takes time
 * that depends on the size of its operands, so there is no branch of ours on a secret here, but no promise either;
 * `invert`, `equals` and `isZero` are for public values (indices, challenges, published z).
 */
import { invertScalar, ORDER } from './engine.js'
import { DecodeError } from './errors.js'
import { freshBytes, type Random } from './ports.js'

function toBigInt(bytes: Uint8Array): bigint {
  let value = 0n
  for (const byte of bytes) value = (value << 8n) | BigInt(byte)
  return value
}

/** A source that works gives zero once in 2¹²⁸ draws: zero means that it is broken, and drawing again could hang. */
function nonZero(scalar: Scalar): Scalar {
  if (scalar.isZero()) throw new RangeError('the random source gives zeros')
  return scalar
}

export class Scalar {
  readonly #value: bigint

  private constructor(value: bigint) {
    this.#value = value
  }

  /** 32 bytes big-endian, < q. */
  static decode(bytes: Uint8Array, field = 'scalar'): Scalar {
    if (bytes.length !== 32) throw new DecodeError(field, '32 bytes expected')
    const value = toBigInt(bytes)
    if (value >= ORDER) throw new DecodeError(field, 'not below the group order')
    return new Scalar(value)
  }

  /** A whole number ≥ 0, reduced. */
  static fromNumber(value: number): Scalar {
    if (!Number.isSafeInteger(value) || value < 0)
      throw new RangeError('a scalar is a whole number from 0 on')
    return new Scalar(BigInt(value))
  }

  /** For the engine's own users: any integer, reduced. */
  static fromBigInt(value: bigint): Scalar {
    const rest = value % ORDER
    return new Scalar(rest < 0n ? rest + ORDER : rest)
  }

  /** Uniform in 1…q−1: 48 bytes are reduced, which leaves a bias below 2⁻¹²⁸. */
  static random(random: Random): Scalar {
    return nonZero(Scalar.fromBigInt(toBigInt(freshBytes(random, 48))))
  }

  /** Uniform in [1, 2¹²⁸): weights of a small-exponents test (protocols.md §4, §6). */
  static randomWeight(random: Random): Scalar {
    return nonZero(Scalar.fromBigInt(toBigInt(freshBytes(random, 16))))
  }

  encode(): Uint8Array {
    const bytes = new Uint8Array(32)
    let rest = this.#value
    for (let i = 31; i >= 0; i--) {
      bytes[i] = Number(rest & 255n)
      rest >>= 8n
    }
    return bytes
  }

  toBigInt(): bigint {
    return this.#value
  }
  add(other: Scalar): Scalar {
    return Scalar.fromBigInt(this.#value + other.#value)
  }
  subtract(other: Scalar): Scalar {
    return Scalar.fromBigInt(this.#value - other.#value)
  }
  multiply(other: Scalar): Scalar {
    return Scalar.fromBigInt(this.#value * other.#value)
  }
  negate(): Scalar {
    return Scalar.fromBigInt(-this.#value)
  }
  /** RangeError for zero. */
  invert(): Scalar {
    if (this.isZero()) throw new RangeError('zero has no inverse')
    return new Scalar(invertScalar(this.#value))
  }
  isZero(): boolean {
    return this.#value === 0n
  }
  equals(other: Scalar): boolean {
    return this.#value === other.#value
  }
}
