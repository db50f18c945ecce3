/**
 * The kernels over both field layers as one: what they are asked is asked of each, and where their answers differ there is
 * an error. So whatever is compared with an oracle is compared for each of them.
 */
import { setFlagsFromString } from 'node:v8'
import { toHex } from '@milagro-ts/crypto/bytes'
import { type FmaKernels, fmaKernels, relaxedSimdFlags } from '@milagro-ts/crypto/fma-kernels'
import { type KernelG1, type KernelPoint, loadKernelG1 } from '@milagro-ts/crypto/kernel'
import { KERNEL_G1 } from '@milagro-ts/crypto/kernel-g1-wasm'
import { type KernelGT, type KernelLines, loadKernelPairing } from '@milagro-ts/crypto/kernel-pairing'
import { KERNEL_PAIRING } from '@milagro-ts/crypto/kernel-pairing-wasm'
import { moduleBytes } from '@milagro-ts/crypto/module-text'
import type { FIELDS } from '../kernel/generate-field.mjs'
import { HAS_FMA } from './processor.js'

for (const flag of relaxedSimdFlags()) setFlagsFromString(flag)
export const FMA = fmaKernels as FmaKernels
/** The kernels' bytes, over each field layer that this processor can run. */
export const MODULES = {
  simd: { g1: () => moduleBytes(KERNEL_G1), pairing: () => moduleBytes(KERNEL_PAIRING) },
  ...(HAS_FMA && { fma: FMA }),
} satisfies Partial<Record<keyof typeof FIELDS, FmaKernels>>
export const NAMES = Object.keys(MODULES) as (keyof typeof FIELDS)[]
export const loaded = (name: keyof typeof FIELDS) => {
  const g1 = loadKernelG1(name === 'fma' ? FMA : null) as KernelG1
  return { g1, pairings: loadKernelPairing(g1) }
}
export const LOADED = NAMES.map(loaded)

/** What each of the kernels makes of something. */
export type Each<T> = readonly T[]
/** What they all say, which must be the same. */
export function agreed<T extends Uint8Array | boolean | string>(answers: Each<T>): T {
  const spelled = answers.map(answer => (answer instanceof Uint8Array ? toHex(answer) : answer))
  if (new Set(spelled).size > 1) throw new Error(`${NAMES}: ${spelled}`)
  return answers[0] as T
}
export type Point = Each<KernelPoint>
const at = <T>(each: Each<T>, i: number): T => each[i] as T
/** A group of all the kernels: a point is a point of each. */
function together(groups: Each<KernelG1['engineG1']>) {
  const unlessNull = (points: Each<KernelPoint | null>): Point | null => {
    agreed(points.map(point => point === null))
    return points[0] === null ? null : (points as Point)
  }
  return {
    generator: groups.map(group => group.generator) as Point,
    identity: groups.map(group => group.identity) as Point,
    size: (groups[0] as KernelG1['engineG1']).size,
    decode: (bytes: Uint8Array) => unlessNull(groups.map(group => group.decode(bytes))),
    encode: (p: Point) => agreed(groups.map((group, i) => group.encode(at(p, i)))),
    add: (p: Point, q: Point): Point => groups.map((group, i) => group.add(at(p, i), at(q, i))),
    negate: (p: Point): Point => groups.map((group, i) => group.negate(at(p, i))),
    equals: (p: Point, q: Point) => agreed(groups.map((group, i) => group.equals(at(p, i), at(q, i)))),
    isIdentity: (p: Point) => agreed(groups.map((group, i) => group.isIdentity(at(p, i)))),
    multiply: (p: Point, k: Uint8Array): Point => groups.map((group, i) => group.multiply(at(p, i), k)),
    multiplyPublic: (p: Point, k: Uint8Array): Point =>
      groups.map((group, i) => group.multiplyPublic(at(p, i), k)),
    sumOfProducts: (points: readonly Point[], scalars: readonly Uint8Array[]): Point =>
      groups.map((group, i) =>
        group.sumOfProducts(
          points.map(point => at(point, i)),
          scalars,
        ),
      ),
  }
}
export const engineG1 = together(LOADED.map(({ g1 }) => g1.engineG1))
export const engineG2 = together(LOADED.map(({ pairings }) => pairings.engineG2))
type Hash = (message: Uint8Array, dst: Uint8Array) => Point
const hashes = (of: (kernels: (typeof LOADED)[number]) => KernelG1['hashToG1']): Hash => {
  const each = LOADED.map(of)
  return (message, dst) => each.map(hash => hash(message, dst))
}
const onScalars =
  (name: 'addScalars' | 'subtractScalars' | 'multiplyScalars') => (a: Uint8Array, b: Uint8Array) =>
    agreed(LOADED.map(({ g1 }) => g1[name](a, b)))
/** And the rest of them. */
export const kernels = {
  pairingProduct: (pairs: readonly (readonly [Point, Point | Each<KernelLines>])[]): Each<KernelGT> =>
    LOADED.map(({ pairings }, i) =>
      pairings.pairingProduct(
        pairs.map(([P, R]) => [at(P, i), at<KernelPoint | KernelLines>(R, i)] as const),
      ),
    ),
  pairingWithHash: (
    P: Point,
    scalar: Uint8Array,
    hashed: { readonly message: Uint8Array; readonly dst: Uint8Array },
    R: Point | Each<KernelLines>,
  ): Each<KernelGT> =>
    LOADED.map(({ pairings }, i) =>
      pairings.pairingWithHash(at(P, i), scalar, hashed, at<KernelPoint | KernelLines>(R, i)),
    ),
  prepareG2: (R: Point): Each<KernelLines> => LOADED.map(({ pairings }, i) => pairings.prepareG2(at(R, i))),
  isOneGT: (a: Each<KernelGT>) => agreed(LOADED.map(({ pairings }, i) => pairings.isOneGT(at(a, i)))),
  divideGT: (a: Each<KernelGT>, b: Each<KernelGT>): Each<KernelGT> =>
    LOADED.map(({ pairings }, i) => pairings.divideGT(at(a, i), at(b, i))),
  bytesOfGT: (a: Each<KernelGT>) => agreed(LOADED.map(({ pairings }, i) => pairings.bytesOfGT(at(a, i)))),
  hashToG1: hashes(({ g1 }) => g1.hashToG1),
  encodeToG1: hashes(({ g1 }) => g1.encodeToG1),
  hashToG2: hashes(({ pairings }) => pairings.hashToG2),
  encodeToG2: hashes(({ pairings }) => pairings.encodeToG2),
  addScalars: onScalars('addScalars'),
  subtractScalars: onScalars('subtractScalars'),
  multiplyScalars: onScalars('multiplyScalars'),
  reduceScalar: (bytes: Uint8Array) => agreed(LOADED.map(({ g1 }) => g1.reduceScalar(bytes))),
}
