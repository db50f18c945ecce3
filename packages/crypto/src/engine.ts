/**
 * The arithmetic of BLS12-381, behind functions over opaque handles; points.ts, scalar.ts and hash-to-curve.ts are its
 * only users. The engines give the same bytes: our WebAssembly kernels (kernel.ts, kernel-pairing.ts), which there are two kinds
 * of, and plain BigInt for G1 where a runtime has no WebAssembly with SIMD. Which one runs is decided at the first use and never changes.
 *
 * Secret scalars go through `multiply` (fixed shape); `multiplyPublic` may take time that depends on the scalar.
 */
import * as bigintEngine from './bigint-engine.js'
import { choiceOf, loadKernelG1 } from './kernel.js'
import { type KernelPairing, loadKernelPairing } from './kernel-pairing.js'

export { invertScalar } from './bigint-g1.js'
export { ORDER } from './curve.js'

declare const g1: unique symbol
declare const g2: unique symbol
declare const gt: unique symbol
declare const lines: unique symbol
/** Handles: whatever the engine that runs makes of a point, a value, the lines of a fixed point of G2. */
export interface EngineG1 {
  readonly [g1]: true
}
export interface EngineG2 {
  readonly [g2]: true
}
export interface EngineGT {
  readonly [gt]: true
}
export interface EngineLines {
  readonly [lines]: true
}

export interface EngineGroup<P> {
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
  /** Scalars are 32 bytes big-endian, below q. */
  multiply(a: P, secret: Uint8Array): P
  multiplyPublic(a: P, scalar: Uint8Array): P
  /** Σ scalar·point, in a time that depends on all of them. RangeError unless there is one scalar for each point. */
  sumOfProducts(points: readonly P[], scalars: readonly Uint8Array[]): P
}
export type HashTo<P> = (message: Uint8Array, dst: Uint8Array) => P
export type PairingWithHash = (
  P: EngineG1,
  scalar: Uint8Array,
  hashed: { readonly message: Uint8Array; readonly dst: Uint8Array },
  R: EngineG2 | EngineLines,
) => EngineGT

interface Pairings {
  readonly engineG2: EngineGroup<EngineG2>
  prepareG2(R: EngineG2): EngineLines
  pairingProduct(pairs: readonly (readonly [EngineG1, EngineG2 | EngineLines])[]): EngineGT
  readonly pairingWithHash: PairingWithHash
  divideGT(a: EngineGT, b: EngineGT): EngineGT
  isOneGT(a: EngineGT): boolean
  bytesOfGT(a: EngineGT): Uint8Array
  readonly hashToG2: HashTo<EngineG2>
  readonly encodeToG2: HashTo<EngineG2>
}
/** On integers mod q, of 32 bytes; they may be secret. */
export type OnScalars = (a: Uint8Array, b: Uint8Array) => Uint8Array
interface Arithmetic {
  readonly addScalars: OnScalars
  readonly subtractScalars: OnScalars
  readonly multiplyScalars: OnScalars
  reduceScalar(bytes: Uint8Array): Uint8Array
  readonly engineG1: EngineGroup<EngineG1>
  readonly hashToG1: HashTo<EngineG1>
  readonly encodeToG1: HashTo<EngineG1>
  /** Loaded when it is first asked for: much of what uses G1 never does. */
  readonly pairings: Pairings
}

/** Which engine runs, and why it and not another. */
export interface EngineChoice {
  readonly name: 'wasm-fma' | 'wasm-simd' | 'bigint'
  readonly why: string
}

interface Chosen {
  readonly choice: EngineChoice
  readonly arithmetic: Arithmetic
}
let chosen: Chosen | undefined
// The handles of each engine are its own; from here on nobody can tell them apart, or has to.
function choose(): Chosen {
  const kernel = loadKernelG1()
  if ('why' in kernel) {
    return {
      choice: { name: 'bigint', why: kernel.why },
      arithmetic: { ...bigintEngine, pairings: bigintEngine } as unknown as Arithmetic,
    }
  }
  const choice: EngineChoice = choiceOf(kernel)
  let pairings: KernelPairing | undefined
  const arithmetic = {
    ...kernel,
    get pairings(): KernelPairing {
      pairings ??= loadKernelPairing(kernel)
      return pairings
    },
  }
  return { choice, arithmetic: arithmetic as unknown as Arithmetic }
}
function running(): Arithmetic {
  chosen ??= choose()
  return chosen.arithmetic
}
export function engine(): EngineChoice {
  chosen ??= choose()
  return chosen.choice
}

function groupOf<P>(size: number, group: () => EngineGroup<P>): EngineGroup<P> {
  return {
    get generator() {
      return group().generator
    },
    get identity() {
      return group().identity
    },
    size,
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
}
export const engineG1: EngineGroup<EngineG1> = groupOf(48, () => running().engineG1)
export const engineG2: EngineGroup<EngineG2> = groupOf(96, () => running().pairings.engineG2)

export const addScalars: OnScalars = (a, b) => running().addScalars(a, b)
export const subtractScalars: OnScalars = (a, b) => running().subtractScalars(a, b)
export const multiplyScalars: OnScalars = (a, b) => running().multiplyScalars(a, b)
/** 48 bytes big-endian, mod q. */
export const reduceScalar = (bytes: Uint8Array): Uint8Array => running().reduceScalar(bytes)

/** The lines of a fixed point of G2: what a Miller loop needs of it, worked out once. */
export const prepareG2 = (R: EngineG2): EngineLines => running().pairings.prepareG2(R)
/** Π e(P, R), identities included; the value of e is the usual library one, final exponent 3(p¹²−1)/q. */
export const pairingProduct = (pairs: readonly (readonly [EngineG1, EngineG2 | EngineLines])[]): EngineGT =>
  running().pairings.pairingProduct(pairs)
/** e(P + scalar·H, R), H the hash of a message to G1, in a time that depends on scalar and message, which are public. */
export const pairingWithHash: PairingWithHash = (P, scalar, hashed, R) =>
  running().pairings.pairingWithHash(P, scalar, hashed, R)
/** a/b. Values of e only: their inverse is their conjugate. */
export const divideGT = (a: EngineGT, b: EngineGT): EngineGT => running().pairings.divideGT(a, b)
export const equalGT = (a: EngineGT, b: EngineGT): boolean =>
  running().pairings.isOneGT(running().pairings.divideGT(a, b))
export const isOneGT = (a: EngineGT): boolean => running().pairings.isOneGT(a)
/** 576 bytes: Fp2 → Fp6 → Fp12, c0 first, 48-byte big-endian each. */
export const bytesOfGT = (a: EngineGT): Uint8Array => running().pairings.bytesOfGT(a)

/** RFC 9380 `…_RO_` (hash_to_curve) and `…_NU_` (encode_to_curve) suites; the DST says which domain. */
export const hashToG1: HashTo<EngineG1> = (message, dst) => running().hashToG1(message, dst)
export const encodeToG1: HashTo<EngineG1> = (message, dst) => running().encodeToG1(message, dst)
export const hashToG2: HashTo<EngineG2> = (message, dst) => running().pairings.hashToG2(message, dst)
export const encodeToG2: HashTo<EngineG2> = (message, dst) => running().pairings.encodeToG2(message, dst)
