/** H1, H2 and Hq (protocols.md §0): RFC 9380 suites under our domain separation tags. */
import { utf8 } from './bytes.js'
import * as engine from './engine.js'
import { scalarBytes } from './hash-to-field.js'
import { G1, G2, GT, type PreparedG2 } from './points.js'
import { Scalar } from './scalar.js'
import { DST_G2, dstG1, type Purpose, type ScalarLabel } from './suite.js'

/** hash_to_curve of BLS12381G1_XMD:SHA-256_SSWU_RO_ (RFC 9380 §8.8.1) under a domain separation tag. */
export const hashToG1Under = (dst: string, message: Uint8Array): G1 =>
  G1.fromEngine(engine.hashToG1(message, utf8(dst)))
/** hash_to_curve of BLS12381G2_XMD:SHA-256_SSWU_RO_ (RFC 9380 §8.8.2) under a domain separation tag. */
export const hashToG2Under = (dst: string, message: Uint8Array): G2 =>
  G2.fromEngine(engine.hashToG2(message, utf8(dst)))

/** H1(purpose; input) ∈ G1. */
export function hashToG1(purpose: Purpose, input: Uint8Array): G1 {
  return hashToG1Under(dstG1(purpose), input)
}

/**
 * e(P + scalar·H1(purpose; input), R) for a public scalar: the same as by `hashToG1`, `mulPublic` and `add`, without the
 * point of G1 on the way, whose cofactor costs a third of the hash.
 */
export function pairingWithHash(
  P: G1,
  scalar: Scalar,
  { purpose, input }: { readonly purpose: Purpose; readonly input: Uint8Array },
  R: G2 | PreparedG2,
): GT {
  const hashed = { message: input, dst: utf8(dstG1(purpose)) }
  return GT.fromEngine(engine.pairingWithHash(P.toEngine(), scalar.encode(), hashed, R.toEngine()))
}

/** H2(AGREE; input) ∈ G2. */
export function hashToG2(purpose: 'agree', input: Uint8Array): G2 {
  if (purpose !== 'agree') throw new TypeError('only agree hashes to G2')
  return hashToG2Under(DST_G2, input)
}

/** Hq(label; input): hash_to_field mod q, L = 48. */
export function hashToScalar(label: ScalarLabel, input: Uint8Array): Scalar {
  return Scalar.reduce(scalarBytes(input, utf8(`MILAGRO-TS-V1-${label}`)))
}
