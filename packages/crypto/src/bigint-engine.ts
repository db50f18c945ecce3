/**
 * What engine.ts exports, where a runtime has no WebAssembly with SIMD: G1 in BigInt, which is all that a device
 * computes in, and for G2 and pairings one clear error at their first use.
 */
import { type BigIntG1, bigintG1 } from './bigint-g1.js'
import { withoutPairings } from './no-pairings.js'

export {
  addScalars,
  encodeToG1,
  hashToG1,
  invertScalar,
  multiplyScalars,
  reduceScalar,
  subtractScalars,
} from './bigint-g1.js'
export { ORDER } from './curve.js'
export type { EngineG2 } from './no-pairings.js'

export type EngineG1 = BigIntG1
export type EngineGT = never
export type EngineLines = never

/** See engine.ts: here there is no other. */
export const engine = (): { readonly name: 'bigint'; readonly why: string } => ({
  name: 'bigint',
  why: 'it is the only one in this bundle',
})

export const engineG1 = bigintG1
export const {
  bytesOfGT,
  divideGT,
  encodeToG2,
  engineG2,
  equalGT,
  hashToG2,
  isOneGT,
  pairingProduct,
  pairingWithHash,
  prepareG2,
} = withoutPairings('G2 and pairings need WebAssembly with SIMD, which this runtime lacks')
