/**
 * What engine.ts exports, for a device with WebAssembly: the kernel of G1, which is all that a device computes in, and no
 * other engine. A bundle has it by putting this file in the place of engine.ts. There is no falling back: secrets are
 * multiplied in the kernel's one shape or not at all. Where a runtime has no WebAssembly with SIMD, bigint-engine.ts is
 * the file for that place.
 */
import { type KernelG1, type KernelPoint, loadKernelG1 } from './kernel.js'
import { withoutPairings } from './no-pairings.js'

export { invertScalar } from './bigint-g1.js'
export { ORDER } from './curve.js'
export type { EngineG2 } from './no-pairings.js'

export type EngineG1 = KernelPoint
export type EngineGT = never
export type EngineLines = never

let kernel: KernelG1 | undefined
function running(): KernelG1 {
  if (kernel === undefined) {
    const loaded = loadKernelG1()
    if ('why' in loaded) throw new Error(`this bundle computes in WebAssembly only: ${loaded.why}`)
    kernel = loaded
  }
  return kernel
}

/** See engine.ts: here there is no other. */
export function engine(): { readonly name: 'wasm-simd-g1'; readonly why: string } {
  running()
  return { name: 'wasm-simd-g1', why: 'it is the only one in this bundle' }
}

type G1 = KernelG1['engineG1']
const group = (): G1 => running().engineG1
export const engineG1: G1 = {
  get generator() {
    return group().generator
  },
  get identity() {
    return group().identity
  },
  size: 48,
  decode: bytes => group().decode(bytes),
  encode: point => group().encode(point),
  add: (a, b) => group().add(a, b),
  negate: a => group().negate(a),
  equals: (a, b) => group().equals(a, b),
  isIdentity: a => group().isIdentity(a),
  multiply: (a, secret) => group().multiply(a, secret),
  multiplyPublic: (a, scalar) => group().multiplyPublic(a, scalar),
  sumOfProducts: (points, scalars) => group().sumOfProducts(points, scalars),
}
export const addScalars: KernelG1['addScalars'] = (a, b) => running().addScalars(a, b)
export const subtractScalars: KernelG1['subtractScalars'] = (a, b) => running().subtractScalars(a, b)
export const multiplyScalars: KernelG1['multiplyScalars'] = (a, b) => running().multiplyScalars(a, b)
export const reduceScalar: KernelG1['reduceScalar'] = bytes => running().reduceScalar(bytes)
export const hashToG1: KernelG1['hashToG1'] = (message, dst) => running().hashToG1(message, dst)
export const encodeToG1: KernelG1['encodeToG1'] = (message, dst) => running().encodeToG1(message, dst)
export const {
  bytesOfGT,
  divideGT,
  encodeToG2,
  engineG2,
  equalGT,
  hashToG2,
  isOneGT,
  pairingProduct,
  prepareG2,
} = withoutPairings('G2 and pairings are not in this bundle')
