/**
 * What engine.ts exports, where a runtime has no WebAssembly with SIMD: G1 in BigInt, which is all that a device
 * computes in, and for G2 and pairings one clear error at their first use.
 */
import { type BigIntG1, bigintG1 } from './bigint-g1.js'

export { encodeToG1, hashToG1, invertScalar } from './bigint-g1.js'
export { ORDER } from './curve.js'
export { expandMessageXmd, hashToField } from './hash-to-field.js'

export type EngineG1 = BigIntG1
/** Two names without arithmetic: G2's generator and identity exist as soon as points.ts is loaded. */
export type EngineG2 = 'generator of G2' | 'identity of G2'
export type EngineGT = never
export type EngineLines = never

function needsWebAssembly(): never {
  throw new Error('G2 and pairings need WebAssembly with SIMD, which this runtime lacks')
}

/** See engine.ts: here there is no other. */
export const engine = (): { readonly name: 'bigint'; readonly why: string } => ({
  name: 'bigint',
  why: 'it is the only one in this bundle',
})

export const engineG1 = bigintG1
export const engineG2 = {
  generator: 'generator of G2' as EngineG2,
  identity: 'identity of G2' as EngineG2,
  size: 96,
  decode: needsWebAssembly,
  encode: needsWebAssembly,
  add: needsWebAssembly,
  negate: needsWebAssembly,
  equals: needsWebAssembly,
  isIdentity: needsWebAssembly,
  multiply: needsWebAssembly,
  multiplyPublic: needsWebAssembly,
  sumOfProducts: needsWebAssembly,
}
export const prepareG2 = needsWebAssembly
export const pairingProduct = needsWebAssembly
export const divideGT = needsWebAssembly
export const equalGT = needsWebAssembly
export const isOneGT = needsWebAssembly
export const bytesOfGT = needsWebAssembly
export const hashToG2 = needsWebAssembly
export const encodeToG2 = needsWebAssembly
