/**
 * The arithmetic of BLS12-381, behind functions over opaque handles. This is the one file that knows which library
 * does it; points.ts, scalar.ts and hash-to-curve.ts are its only users.
 *
 * Secret scalars go through `multiply` (fixed shape); `multiplyPublic` may take time that depends on the scalar.
 */
import { pippenger } from '@noble/curves/abstract/curve.js'
import { bls12_381 } from '@noble/curves/bls12-381.js'

export { ORDER } from './curve.js'
export { expandMessageXmd, hashToField } from './hash-to-field.js'

const G1Point = bls12_381.G1.Point
const G2Point = bls12_381.G2.Point
const { Fr, Fp12 } = bls12_381.fields

export type EngineG1 = InstanceType<typeof G1Point>
export type EngineG2 = InstanceType<typeof G2Point>
export type EngineGT = ReturnType<typeof bls12_381.pairing>

export const invertScalar = (scalar: bigint): bigint => Fr.inv(scalar)

interface EngineGroup<P> {
  readonly generator: P
  readonly identity: P
  readonly size: number
  /** Null for bytes that are no compressed point of the curve in the right subgroup. */
  decode(bytes: Uint8Array): P | null
  encode(point: P): Uint8Array
  add(a: P, b: P): P
  negate(a: P): P
  equals(a: P, b: P): boolean
  isIdentity(a: P): boolean
  multiply(a: P, secret: bigint): P
  multiplyPublic(a: P, scalar: bigint): P
  /** Σ scalar·point, in a time that depends on all of them. */
  sumOfProducts(points: readonly P[], scalars: readonly bigint[]): P
}

function group<P extends EngineG1 | EngineG2>(
  Point: { BASE: P; ZERO: P; fromBytes(bytes: Uint8Array): P },
  size: number,
): EngineGroup<P> {
  return {
    generator: Point.BASE,
    identity: Point.ZERO,
    size,
    decode(bytes) {
      try {
        const point = Point.fromBytes(bytes)
        point.assertValidity()
        return point
      } catch {
        return null
      }
    },
    encode: point => point.toBytes(true),
    add: (a, b) => a.add(b as never) as P,
    negate: a => a.negate() as P,
    equals: (a, b) => a.equals(b as never),
    isIdentity: a => a.is0(),
    // The library's fixed-shape ladder takes 1…q−1 only; zero is no secret that a protocol draws.
    multiply: (a, secret) => (secret === 0n || a.is0() ? Point.ZERO : (a.multiply(secret) as P)),
    multiplyPublic: (a, scalar) => (scalar === 0n || a.is0() ? Point.ZERO : (a.multiplyUnsafe(scalar) as P)),
    sumOfProducts(points, scalars) {
      if (points.length !== scalars.length) throw new RangeError('one scalar for each point')
      // Pippenger's buckets pay from a handful of points on.
      if (points.length > 8)
        return pippenger(Point as never, [...points] as never, [...scalars]) as unknown as P
      return points.reduce<P>(
        (sum, point, i) => this.add(sum, this.multiplyPublic(point, scalars[i] as bigint)),
        Point.ZERO,
      )
    },
  }
}

export const engineG1: EngineGroup<EngineG1> = group<EngineG1>(G1Point, 48)
export const engineG2: EngineGroup<EngineG2> = group<EngineG2>(G2Point, 96)

/** The lines of a fixed point of G2: what a Miller loop needs of it, worked out once. */
export interface EngineLines {
  /** Null for the identity: e is one. */
  readonly lines: ReturnType<typeof bls12_381.utils.calcPairingPrecomputes> | null
}
export const prepareG2 = (R: EngineG2): EngineLines => ({
  lines: R.is0() ? null : bls12_381.utils.calcPairingPrecomputes(R),
})

/** Π e(P, R), identities included; the value of e is the usual library one, final exponent 3(p¹²−1)/q. */
export function pairingProduct(pairs: readonly (readonly [EngineG1, EngineG2 | EngineLines])[]): EngineGT {
  const loops = pairs.flatMap(([P, R]) => {
    const { lines } = 'lines' in R ? R : prepareG2(R)
    if (P.is0() || lines === null) return []
    const { x, y } = P.toAffine()
    return [[lines, x, y] as [typeof lines, bigint, bigint]]
  })
  return Fp12.finalExponentiate(bls12_381.millerLoopBatch(loops))
}
/** a/b. Values of e only: their inverse is their conjugate. */
export const divideGT = (a: EngineGT, b: EngineGT): EngineGT => Fp12.mul(a, Fp12.conjugate(b))
export const equalGT = (a: EngineGT, b: EngineGT): boolean => Fp12.eql(a, b)
export const isOneGT = (a: EngineGT): boolean => Fp12.eql(a, Fp12.ONE)
/** 576 bytes: Fp2 → Fp6 → Fp12, c0 first, 48-byte big-endian each. */
export const bytesOfGT = (a: EngineGT): Uint8Array => Fp12.toBytes(a)

/** RFC 9380 `…_RO_` (hash_to_curve) and `…_NU_` (encode_to_curve) suites; the DST says which domain. */
export const hashToG1 = (message: Uint8Array, dst: Uint8Array): EngineG1 =>
  bls12_381.G1.hashToCurve(message, { DST: dst }) as EngineG1
export const encodeToG1 = (message: Uint8Array, dst: Uint8Array): EngineG1 =>
  bls12_381.G1.encodeToCurve(message, { DST: dst }) as EngineG1
export const hashToG2 = (message: Uint8Array, dst: Uint8Array): EngineG2 =>
  bls12_381.G2.hashToCurve(message, { DST: dst }) as EngineG2
export const encodeToG2 = (message: Uint8Array, dst: Uint8Array): EngineG2 =>
  bls12_381.G2.encodeToCurve(message, { DST: dst }) as EngineG2
