/** H1, H2 and Hq (protocols.md §0): RFC 9380 suites under our domain separation tags. */
import { utf8 } from './bytes.js'
import * as engine from './engine.js'
import { scalarBytes } from './hash-to-field.js'
import { G1, G2 } from './points.js'
import { Scalar } from './scalar.js'
import { DST_G2, dstG1, type Purpose, type ScalarLabel } from './suite.js'

/** H1(purpose; input) ∈ G1. */
export function hashToG1(purpose: Purpose, input: Uint8Array): G1 {
  return G1.fromEngine(engine.hashToG1(input, utf8(dstG1(purpose))))
}

/** H2(AGREE; input) ∈ G2. */
export function hashToG2(purpose: 'agree', input: Uint8Array): G2 {
  if (purpose !== 'agree') throw new TypeError('only agree hashes to G2')
  return G2.fromEngine(engine.hashToG2(input, utf8(DST_G2)))
}

/** Hq(label; input): hash_to_field mod q, L = 48. */
export function hashToScalar(label: ScalarLabel, input: Uint8Array): Scalar {
  return Scalar.reduce(scalarBytes(input, utf8(`MILAGRO-TS-V1-${label}`)))
}
