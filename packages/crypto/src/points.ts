/**
 * Points of G1 and G2 and values of GT. `decode` is the only door from bytes: length, flags, x < p, curve, subgroup,
 * not the identity. A point that exists has passed it.
 */
import {
  bytesOfGT,
  divideGT,
  type EngineG1,
  type EngineG2,
  type EngineGT,
  type EngineLines,
  engineG1,
  engineG2,
  equalGT,
  isOneGT,
  prepareG2,
  pairingProduct as productOfPairings,
} from './engine.js'
import { DecodeError } from './errors.js'
import type { Scalar } from './scalar.js'

/** Compressed, not infinite: what the top two flag bits must say before anything else is looked at. */
const FLAGS = 0b1100_0000
const COMPRESSED_FINITE = 0b1000_0000

function refuseShape(bytes: Uint8Array, size: number, field: string): void {
  if (bytes.length !== size) throw new DecodeError(field, `${size} bytes expected`)
  if (((bytes[0] as number) & FLAGS) !== COMPRESSED_FINITE) throw new DecodeError(field, 'wrong flags')
}

export class G1 {
  readonly #point: EngineG1

  private constructor(point: EngineG1) {
    this.#point = point
  }

  /** P1. */
  static get generator(): G1 {
    G1.#generator ??= new G1(engineG1.generator)
    return G1.#generator
  }
  static get identity(): G1 {
    G1.#identity ??= new G1(engineG1.identity)
    return G1.#identity
  }
  // Made when they are first asked for, so that loading the library starts no engine.
  static #generator: G1 | undefined
  static #identity: G1 | undefined

  /** 48 bytes. DecodeError for anything but a point of the group other than the identity. */
  static decode(bytes: Uint8Array, field = 'point'): G1 {
    refuseShape(bytes, engineG1.size, field)
    const point = engineG1.decode(bytes)
    if (point === null || engineG1.isIdentity(point)) throw new DecodeError(field, 'not a point of G1')
    return new G1(point)
  }

  /** For hash-to-curve.ts and pairings only. */
  static fromEngine(point: EngineG1): G1 {
    return new G1(point)
  }
  toEngine(): EngineG1 {
    return this.#point
  }

  static sum(points: readonly G1[]): G1 {
    return points.reduce((total, point) => total.add(point), G1.identity)
  }
  /**
   * Σ scalars_i·points_i, for public scalars: the time depends on them. RangeError unless there is one for each point.
   */
  static sumOfProducts(points: readonly G1[], scalars: readonly Scalar[]): G1 {
    return new G1(
      engineG1.sumOfProducts(
        points.map(point => point.#point),
        scalars.map(scalar => scalar.encode()),
      ),
    )
  }

  /** 48 bytes; the identity has a spelling too, which `decode` refuses. */
  encode(): Uint8Array {
    return engineG1.encode(this.#point)
  }
  add(other: G1): G1 {
    return new G1(engineG1.add(this.#point, other.#point))
  }
  subtract(other: G1): G1 {
    return this.add(other.negate())
  }
  negate(): G1 {
    return new G1(engineG1.negate(this.#point))
  }
  equals(other: G1): boolean {
    return engineG1.equals(this.#point, other.#point)
  }
  isIdentity(): boolean {
    return engineG1.isIdentity(this.#point)
  }
  /** For secret scalars: fixed shape. */
  mulSecret(scalar: Scalar): G1 {
    return new G1(engineG1.multiply(this.#point, scalar.encode()))
  }
  /** For public scalars: may take time that depends on the scalar. */
  mulPublic(scalar: Scalar): G1 {
    return new G1(engineG1.multiplyPublic(this.#point, scalar.encode()))
  }
}

export class G2 {
  readonly #point: EngineG2

  private constructor(point: EngineG2) {
    this.#point = point
  }

  /** Q. */
  static get generator(): G2 {
    G2.#generator ??= new G2(engineG2.generator)
    return G2.#generator
  }
  static get identity(): G2 {
    G2.#identity ??= new G2(engineG2.identity)
    return G2.#identity
  }
  // Made when they are first asked for, so that loading the library starts no engine.
  static #generator: G2 | undefined
  static #identity: G2 | undefined

  /** 96 bytes. DecodeError for anything but a point of the group other than the identity. */
  static decode(bytes: Uint8Array, field = 'point'): G2 {
    refuseShape(bytes, engineG2.size, field)
    const point = engineG2.decode(bytes)
    if (point === null || engineG2.isIdentity(point)) throw new DecodeError(field, 'not a point of G2')
    return new G2(point)
  }

  /** For hash-to-curve.ts and pairings only. */
  static fromEngine(point: EngineG2): G2 {
    return new G2(point)
  }
  toEngine(): EngineG2 {
    return this.#point
  }

  static sum(points: readonly G2[]): G2 {
    return points.reduce((total, point) => total.add(point), G2.identity)
  }
  /** As G1.sumOfProducts. */
  static sumOfProducts(points: readonly G2[], scalars: readonly Scalar[]): G2 {
    return new G2(
      engineG2.sumOfProducts(
        points.map(point => point.#point),
        scalars.map(scalar => scalar.encode()),
      ),
    )
  }

  /** 96 bytes; the identity has a spelling too, which `decode` refuses. */
  encode(): Uint8Array {
    return engineG2.encode(this.#point)
  }
  add(other: G2): G2 {
    return new G2(engineG2.add(this.#point, other.#point))
  }
  subtract(other: G2): G2 {
    return this.add(other.negate())
  }
  negate(): G2 {
    return new G2(engineG2.negate(this.#point))
  }
  equals(other: G2): boolean {
    return engineG2.equals(this.#point, other.#point)
  }
  isIdentity(): boolean {
    return engineG2.isIdentity(this.#point)
  }
  /** For secret scalars: fixed shape. */
  mulSecret(scalar: Scalar): G2 {
    return new G2(engineG2.multiply(this.#point, scalar.encode()))
  }
  /** For public scalars: may take time that depends on the scalar. */
  mulPublic(scalar: Scalar): G2 {
    return new G2(engineG2.multiplyPublic(this.#point, scalar.encode()))
  }
}

/**
 * A point of G2 with the lines that a Miller loop needs of it, worked out once for a point that is fixed. The lines of
 * a server key equal it: they are as secret as the key.
 */
export class PreparedG2 {
  readonly #lines: EngineLines

  private constructor(lines: EngineLines) {
    this.#lines = lines
  }

  static of(point: G2): PreparedG2 {
    return new PreparedG2(prepareG2(point.toEngine()))
  }
  /** Of Q, made when it is first asked for. */
  static get generator(): PreparedG2 {
    PreparedG2.#generator ??= PreparedG2.of(G2.generator)
    return PreparedG2.#generator
  }
  static #generator: PreparedG2 | undefined

  /** For pairings only. */
  toEngine(): EngineLines {
    return this.#lines
  }
}

export class GT {
  readonly #value: EngineGT

  private constructor(value: EngineGT) {
    this.#value = value
  }

  static fromEngine(value: EngineGT): GT {
    return new GT(value)
  }
  equals(other: GT): boolean {
    return equalGT(this.#value, other.#value)
  }
  isOne(): boolean {
    return isOneGT(this.#value)
  }
  divide(other: GT): GT {
    return new GT(divideGT(this.#value, other.#value))
  }
  /** 576 bytes for a key derivation. They never leave the process. */
  toBytes(): Uint8Array {
    return bytesOfGT(this.#value)
  }
}

/** e(P, R). */
export function pairing(P: G1, R: G2 | PreparedG2): GT {
  return pairingProduct([[P, R]])
}

/** Π e(P, R). The empty product is one. */
export function pairingProduct(pairs: readonly (readonly [G1, G2 | PreparedG2])[]): GT {
  return GT.fromEngine(productOfPairings(pairs.map(([P, R]) => [P.toEngine(), R.toEngine()] as const)))
}

/** Π e(P, R) = 1? The empty product is one. */
export function pairingProductIsOne(pairs: readonly (readonly [G1, G2 | PreparedG2])[]): boolean {
  return pairingProduct(pairs).isOne()
}
