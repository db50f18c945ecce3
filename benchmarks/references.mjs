/**
 * The other libraries behind one interface, each by its fastest public functions, so that one text of a protocol runs
 * on all of them. Points go in and out as compressed bytes and are always checked to be in their subgroup.
 */
import { toHex, utf8 } from '@milagro-ts/crypto/bytes'
import { pippenger } from '@noble/curves/abstract/curve.js'
import { bls12_381 } from '@noble/curves/bls12-381.js'
import mcl from 'mcl-wasm'

/**
 * @template Point, Point2, Factor, Lines
 * @typedef {object} Reference
 * @property {(bytes: Uint8Array) => Point} decode  throws for a point outside the group
 * @property {(point: Point) => Uint8Array} encode
 * @property {(bytes: Uint8Array) => Point2} decode2
 * @property {(point: Point2) => Uint8Array} encode2
 * @property {(bytes: Uint8Array) => Factor} scalar  32 bytes big-endian
 * @property {(a: Factor, b: Factor) => Factor} multiplyScalars
 * @property {(message: Uint8Array) => Point} hash  RFC 9380, hash_to_curve; the DST is `dst`
 * @property {Uint8Array} dst
 * @property {(a: Point, b: Point) => Point} add
 * @property {(a: Point) => Point} negate
 * @property {(a: Point, k: Factor) => Point} multiply
 * @property {(a: Point2, k: Factor) => Point2} multiply2
 * @property {(points: Point[], scalars: Factor[]) => Point} sumOfProducts
 * @property {(P: Point, R: Point2) => unknown} pairing
 * @property {(a: unknown, b: unknown) => boolean} equalGT
 * @property {(R: Point2) => Lines} prepare
 * @property {(V: Point, Q: Lines, X: Point, S: Lines) => boolean} productIsOne  e(V, Q)·e(X, S) = 1 ?
 */

const DEVICE_DST = utf8('MILAGRO-TS-V1-DEVICE-with-BLS12381G1_XMD:SHA-256_SSWU_RO_')
/** mcl-wasm has this one built in, and offers no way to set another that costs nothing. */
const MCL_DST = utf8('BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_POP_')

/** @param {Uint8Array} dst */
export const nobleHash = dst => (/** @type {Uint8Array} */ message) =>
  /** @type {NobleG1} */ (bls12_381.G1.hashToCurve(message, { DST: dst }))

/** @typedef {InstanceType<typeof bls12_381.G1.Point>} NobleG1 */
/** @typedef {InstanceType<typeof bls12_381.G2.Point>} NobleG2 */
/** @typedef {ReturnType<typeof bls12_381.utils.calcPairingPrecomputes>} NobleLines */

const G1 = bls12_381.G1.Point
const G2 = bls12_381.G2.Point
const { Fp12, Fr } = bls12_381.fields

/** @type {Reference<NobleG1, NobleG2, bigint, NobleLines>} */
export const noble = {
  decode(bytes) {
    const point = G1.fromBytes(bytes)
    point.assertValidity()
    return point
  },
  encode: point => point.toBytes(true),
  decode2(bytes) {
    const point = G2.fromBytes(bytes)
    point.assertValidity()
    return point
  },
  encode2: point => point.toBytes(true),
  scalar: bytes => Fr.create(BigInt(`0x${toHex(bytes)}`)),
  multiplyScalars: (a, b) => Fr.mul(a, b),
  hash: nobleHash(DEVICE_DST),
  dst: DEVICE_DST,
  add: (a, b) => a.add(b),
  negate: a => a.negate(),
  multiply: (a, k) => a.multiply(k),
  multiply2: (a, k) => a.multiply(k),
  sumOfProducts: (points, scalars) => pippenger(G1, points, scalars),
  pairing: (P, R) => bls12_381.pairing(P, R),
  equalGT: (a, b) => Fp12.eql(/** @type {typeof Fp12.ONE} */ (a), /** @type {typeof Fp12.ONE} */ (b)),
  prepare: R => bls12_381.utils.calcPairingPrecomputes(R),
  productIsOne(V, Q, X, S) {
    const [v, x] = [V.toAffine(), X.toAffine()]
    const loop = bls12_381.millerLoopBatch([
      [Q, v.x, v.y],
      [S, x.x, x.y],
    ])
    return Fp12.eql(Fp12.finalExponentiate(loop), Fp12.ONE)
  },
}

/** Before anything else of `mclWasm`. */
export async function initialiseMcl() {
  await mcl.init(mcl.BLS12_381)
  // The serialization of the curve's usual specification, RFC 9380's map, subgroup checks at every decoding.
  mcl.setETHserialization(true)
  mcl.setMapToMode(mcl.IRTF)
  mcl.verifyOrderG1(true)
  mcl.verifyOrderG2(true)
}

/** @type {Reference<import('mcl-wasm').G1, import('mcl-wasm').G2, import('mcl-wasm').Fr, import('mcl-wasm').PrecomputedG2>} */
export const mclWasm = {
  decode(bytes) {
    const point = new mcl.G1()
    point.deserialize(bytes)
    return point
  },
  encode: point => point.serialize(),
  decode2(bytes) {
    const point = new mcl.G2()
    point.deserialize(bytes)
    return point
  },
  encode2: point => point.serialize(),
  scalar(bytes) {
    const scalar = new mcl.Fr()
    scalar.deserialize(bytes)
    return scalar
  },
  multiplyScalars: (a, b) => mcl.mul(a, b),
  hash: message => mcl.hashAndMapToG1(message),
  dst: MCL_DST,
  add: (a, b) => mcl.add(a, b),
  negate: a => mcl.neg(a),
  multiply: (a, k) => mcl.mul(a, k),
  multiply2: (a, k) => mcl.mul(a, k),
  sumOfProducts: (points, scalars) => mcl.mulVec(points, scalars),
  pairing: (P, R) => mcl.pairing(P, R),
  equalGT: (a, b) =>
    /** @type {import('mcl-wasm').GT} */ (a).isEqual(/** @type {import('mcl-wasm').GT} */ (b)),
  prepare: R => new mcl.PrecomputedG2(R),
  productIsOne: (V, Q, X, S) => mcl.finalExp(mcl.precomputedMillerLoop2(V, Q, X, S)).isOne(),
}
