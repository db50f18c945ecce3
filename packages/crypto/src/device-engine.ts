/**
 * What engine.ts exports, for a device: the kernel of G1, which is all that a device computes in. A bundle has it by putting
 * this file in the place of engine.ts. Where a runtime has no WebAssembly with SIMD it refuses, unless `allowBigInt` was
 * called: secrets are multiplied in the kernel's one shape, or somebody has said that they needn't be. A runtime that
 * never has WebAssembly needs bigint-engine.ts alone.
 */
import {
  addScalars as addBigInts,
  bigintG1,
  encodeToG1 as encodeBigInts,
  hashToG1 as hashBigInts,
  multiplyScalars as multiplyBigInts,
  reduceScalar as reduceBigInt,
  subtractScalars as subtractBigInts,
} from './bigint-g1.js'
import { choiceOf, type KernelG1, type KernelPoint, loadKernelG1 } from './kernel.js'
import { withoutPairings } from './no-pairings.js'

export { invertScalar } from './bigint-g1.js'
export { ORDER } from './curve.js'
export type { EngineG2 } from './no-pairings.js'

export type EngineG1 = KernelPoint
export type EngineGT = never
export type EngineLines = never

let isBigIntAllowed = false
/**
 * From here on BigInt will do where there is no WebAssembly with SIMD. It is not constant time: who can measure how long
 * this device computes may learn of its keys. Before the first use of a point or scalar.
 */
export function allowBigInt(): void {
  isBigIntAllowed = true
}

interface Chosen {
  readonly arithmetic: KernelG1
  readonly choice: { readonly name: 'wasm-fma-g1' | 'wasm-simd-g1' | 'bigint'; readonly why: string }
}
let chosen: Chosen | undefined
// The handles of each engine are its own; from here on nobody can tell them apart, or has to.
function choose(): Chosen {
  const arithmetic = loadKernelG1()
  if (!('why' in arithmetic)) {
    const { name, why } = choiceOf(arithmetic)
    return { arithmetic, choice: { name: `${name}-g1`, why } }
  }
  if (!isBigIntAllowed) throw new Error(`no BigInt was allowed, and ${arithmetic.why}`)
  return { arithmetic: IN_BIGINT, choice: { name: 'bigint', why: arithmetic.why } }
}
const IN_BIGINT = {
  engineG1: bigintG1,
  addScalars: addBigInts,
  subtractScalars: subtractBigInts,
  multiplyScalars: multiplyBigInts,
  reduceScalar: reduceBigInt,
  hashToG1: hashBigInts,
  encodeToG1: encodeBigInts,
} as unknown as KernelG1

function running(): KernelG1 {
  chosen ??= choose()
  return chosen.arithmetic
}

/** Which engine runs, and why. Throws where none may. */
export function engine(): Chosen['choice'] {
  chosen ??= choose()
  return chosen.choice
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
  pairingWithHash,
  prepareG2,
} = withoutPairings('G2 and pairings are not in this bundle')
