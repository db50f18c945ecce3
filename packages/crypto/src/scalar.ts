/**
 * Integers mod q, the prime order of the groups.
 *
 * Secret: shares, nonces, α, and whatever is computed from them before it is published. `decode`, `encode`, sums,
 * products and draws have one shape for all values, as far as the engine has (engine.ts); `invert`, `toBigInt` and
 * `fromBigInt` are for public values (indices, challenges, published z).
 */
import { be64, concat, copyOf, equalBytes } from './bytes.js'
import { addScalars, invertScalar, multiplyScalars, ORDER, reduceScalar, subtractScalars } from './engine.js'
import { DecodeError } from './errors.js'
import { freshBytes, type Random } from './ports.js'

const SIZE = 32
const WIDE = 48

function bytesOf(value: bigint): Uint8Array {
  const bytes = new Uint8Array(SIZE)
  for (let i = SIZE - 1, rest = value; i >= 0; i--, rest >>= 8n) bytes[i] = Number(rest & 255n)
  return bytes
}
const ORDER_BYTES = bytesOf(ORDER)

/** Whether 32 bytes are a number below q. */
function isBelowOrder(bytes: Uint8Array): boolean {
  let borrow = 0
  for (let i = SIZE - 1; i >= 0; i--)
    borrow = (((bytes[i] as number) - (ORDER_BYTES[i] as number) - borrow) >> 8) & 1
  return borrow === 1
}

/** A source that works gives zero once in 2¹²⁸ draws: zero means that it is broken, and drawing again could hang. */
function nonZero(scalar: Scalar): Scalar {
  if (scalar.isZero()) throw new RangeError('the random source gives zeros')
  return scalar
}

export class Scalar {
  /** Big-endian, below q. */
  readonly #bytes: Uint8Array

  private constructor(bytes: Uint8Array) {
    this.#bytes = bytes
  }

  /** 32 bytes big-endian, < q. */
  static decode(bytes: Uint8Array, field = 'scalar'): Scalar {
    if (bytes.length !== SIZE) throw new DecodeError(field, '32 bytes expected')
    if (!isBelowOrder(bytes)) throw new DecodeError(field, 'not below the group order')
    return new Scalar(copyOf(bytes))
  }

  /** A whole number ≥ 0 that a double holds exactly. */
  static fromNumber(value: number): Scalar {
    if (!Number.isSafeInteger(value) || value < 0)
      throw new RangeError('a scalar is a whole number from 0 on')
    return new Scalar(concat(new Uint8Array(SIZE - 8), be64(value)))
  }

  /** Any integer, reduced. */
  static fromBigInt(value: bigint): Scalar {
    const rest = value % ORDER
    return new Scalar(bytesOf(rest < 0n ? rest + ORDER : rest))
  }

  /** 48 bytes big-endian, reduced: of uniform bytes a scalar with a bias below 2⁻¹²⁸. RangeError for another length. */
  static reduce(bytes: Uint8Array): Scalar {
    if (bytes.length !== WIDE) throw new RangeError('48 bytes expected')
    return new Scalar(reduceScalar(bytes))
  }

  /** Uniform in 1…q−1, but for the bias of `reduce`. */
  static random(random: Random): Scalar {
    return nonZero(Scalar.reduce(freshBytes(random, WIDE)))
  }

  /** Uniform in [1, 2¹²⁸): weights of a small-exponents test (protocols.md §4, §6). */
  static randomWeight(random: Random): Scalar {
    return nonZero(new Scalar(concat(new Uint8Array(SIZE - 16), freshBytes(random, 16))))
  }

  encode(): Uint8Array {
    return this.#bytes.slice()
  }

  toBigInt(): bigint {
    let value = 0n
    for (const byte of this.#bytes) value = (value << 8n) | BigInt(byte)
    return value
  }
  add(other: Scalar): Scalar {
    return new Scalar(addScalars(this.#bytes, other.#bytes))
  }
  subtract(other: Scalar): Scalar {
    return new Scalar(subtractScalars(this.#bytes, other.#bytes))
  }
  multiply(other: Scalar): Scalar {
    return new Scalar(multiplyScalars(this.#bytes, other.#bytes))
  }
  negate(): Scalar {
    return new Scalar(subtractScalars(new Uint8Array(SIZE), this.#bytes))
  }
  /** RangeError for zero. */
  invert(): Scalar {
    if (this.isZero()) throw new RangeError('zero has no inverse')
    return new Scalar(bytesOf(invertScalar(this.toBigInt())))
  }
  isZero(): boolean {
    return this.equals(ZERO)
  }
  equals(other: Scalar): boolean {
    return equalBytes(this.#bytes, other.#bytes)
  }
}
const ZERO = Scalar.fromNumber(0)
