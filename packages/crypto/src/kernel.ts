/**
 * The WebAssembly kernels (../kernel, AssemblyScript): loading them, their memory, copying in and out, and G1. There are
 * two, of the same sources: this one, of G1, is all that a device needs; kernel-pairing.ts has the other, of G2 and
 * pairings. Each is compiled at its first use. Both are there a second time, over another field layer, for Node on a
 * processor that multiplies and adds in one (fma-kernels.ts): the same results in little more than half the time.
 *
 * Points live here as the kernel's own bytes and are copied in for each call, which costs less than a hundredth of it, so
 * nothing needs a release. Kernel memory is used by one call at a time, all of it synchronous. Before a call returns that
 * may have had to do with a secret, `wipe` puts the whole memory back to what it was when the kernel was loaded, but for
 * the lines of prepared points (kernel-pairing.ts).
 */

import { type FmaKernels, fmaKernels, isFmaWanted } from '#fma-kernels'
import { copyOf, fromBase64Url } from './bytes.js'
import { coordinateBytes } from './hash-to-field.js'
import { KERNEL_G1 } from './kernel-g1-wasm.js'
import { moduleBytes } from './module-text.js'

/** What the library uses of WebAssembly: its types belong to platforms, and there is none here. */
interface Memory {
  readonly buffer: ArrayBuffer
  grow(pages: number): number
}
declare const WebAssembly:
  | {
      readonly Module: new (bytes: Uint8Array) => object
      readonly Instance: new (module: object) => { readonly exports: object }
      validate(bytes: Uint8Array): boolean
    }
  | undefined

/** Of every kernel. Addresses are numbers; a verdict is 0 for no. */
export interface Exports {
  readonly memory: Memory
  /** Where the caller's memory begins. */
  heap(): number
  /** Bytes of a pair: two elements of Fp, or one of Fp2. */
  pair(): number
  /** Of those for FMA: 1 where the processor has it. */
  isFused?(): number
}
interface ExportsG1 extends Exports {
  g1Decode(r: number, from: number): number
  g1Encode(to: number, p: number): void
  g1Identity(r: number): void
  g1Add(r: number, p: number, q: number): void
  g1Negate(r: number, p: number): void
  g1Equals(p: number, q: number): number
  g1IsIdentity(p: number): number
  g1MultiplySecret(r: number, p: number, k: number): void
  g1Sum(r: number, points: number, scalars: number, n: number, work: number): void
  g1Hash(r: number, from: number, both: number): void
  g1HashUncleared(r: number, from: number): void
  scalarAdd(r: number, a: number, b: number): void
  scalarSubtract(r: number, a: number, b: number): void
  scalarMultiply(r: number, a: number, b: number): void
  scalarReduce(r: number, from: number): void
}

/** A point, in the kernel's coordinates, which are not unique; `bytes` is its encoding once that is known. */
export interface KernelPoint {
  readonly coordinates: Uint8Array
  bytes: Uint8Array | undefined
}

const PAGE = 65_536
/** The caller's fixed places: three points or values, of six pairs at most, bytes in and out. */
const SLOT = 768
const BYTES = 3 * SLOT
const FIXED = BYTES + 640

/** P1 (draft-irtf-cfrg-pairing-friendly-curves-11 §4.2.1), compressed, in base64url. */
const GENERATOR = 'l_HTpzGX15QmlWOMT6msD8NojE-XdLkFoU46PxcbrFhsVeg_-Xoa7_s68ArbIsa7'

/** What a kernel exports, or why there is none. */
export function instantiate(source: () => Uint8Array): object | { readonly why: string } {
  if (typeof WebAssembly === 'undefined') return { why: 'this runtime has no WebAssembly' }
  const bytes = source()
  if (!WebAssembly.validate(bytes)) return { why: 'this runtime’s WebAssembly has no SIMD' }
  let module: object
  try {
    module = new WebAssembly.Module(bytes)
  } catch {
    // Valid, and still refused: a content security policy without wasm-unsafe-eval.
    return { why: 'WebAssembly may not be compiled here' }
  }
  return new WebAssembly.Instance(module).exports
}

/** The caller's part of a kernel's memory; the first `kept` bytes of it are what stays from call to call. */
export type Room = ReturnType<typeof roomOf>
export function roomOf(wasm: Exports, kept = 0) {
  const heap = wasm.heap()
  const fixed = heap + kept
  const free = fixed + FIXED
  let memory = new Uint8Array(wasm.memory.buffer)
  /** The kernel's constants, and its scratch memory with nothing in it. */
  const untouched = memory.slice(0, heap)
  const room = {
    kept: heap,
    slots: [fixed, fixed + SLOT, fixed + 2 * SLOT] as const,
    bytesAt: fixed + BYTES,
    free,
    /** At least `size` bytes from `free` on. */
    reserve(size: number): void {
      const missing = free + size - memory.length
      if (missing > 0) wasm.memory.grow(Math.ceil(missing / PAGE))
      if (memory.buffer !== wasm.memory.buffer) memory = new Uint8Array(wasm.memory.buffer)
    },
    /** The kernel's own memory, the fixed places, and what follows them up to `to`. */
    wipe(to = free): void {
      memory.set(untouched)
      memory.fill(0, fixed, to)
    },
    erase: (at: number, size: number): void => void memory.fill(0, at, at + size),
    put: (bytes: Uint8Array, at: number): void => memory.set(bytes, at),
    take: (at: number, size: number): Uint8Array => memory.slice(at, at + size),
    putAddress: (address: number, at: number): void =>
      new DataView(memory.buffer, at, 4).setUint32(0, address, true),
  }
  room.reserve(0)
  return room
}

export interface GroupExports {
  readonly coordinates: number
  readonly size: number
  readonly generator: string
  decode(r: number, from: number): number
  encode(to: number, p: number): void
  setIdentity(r: number): void
  add(r: number, p: number, q: number): void
  negate(r: number, p: number): void
  equals(p: number, q: number): number
  isIdentity(p: number): number
  multiply(r: number, p: number, k: number): void
}
/** What takes a time that depends on all of it. */
interface Public {
  multiplyPublic(point: KernelPoint, scalar: Uint8Array): KernelPoint
  sumOfProducts(points: readonly KernelPoint[], scalars: readonly Uint8Array[]): KernelPoint
}

export function groupOf(room: Room, code: GroupExports, { multiplyPublic, sumOfProducts }: Public) {
  const { bytesAt, put, take, wipe } = room
  const [a, b, r] = room.slots
  const point = (bytes?: Uint8Array): KernelPoint => ({ coordinates: take(r, code.coordinates), bytes })
  const one = (p: KernelPoint): void => put(p.coordinates, a)
  const two = (p: KernelPoint, q: KernelPoint): void => {
    put(p.coordinates, a)
    put(q.coordinates, b)
  }
  code.setIdentity(r)
  const identity = point(new Uint8Array(code.size).fill(0xc0, 0, 1))
  let generator: KernelPoint | undefined
  function decode(bytes: Uint8Array): KernelPoint | null {
    const first = bytes[0] as number
    if (bytes.length !== code.size || (first & 0x80) === 0) return null
    if (first & 0x40) return bytes.every((byte, i) => byte === (i === 0 ? 0xc0 : 0)) ? identity : null
    put(bytes, bytesAt)
    const result = code.decode(r, bytesAt) === 0 ? null : point(copyOf(bytes))
    wipe()
    return result
  }
  return {
    get generator(): KernelPoint {
      generator ??= decode(fromBase64Url(code.generator, 'generator')) as KernelPoint
      return generator
    },
    identity,
    size: code.size,
    decode,
    encode(p: KernelPoint): Uint8Array {
      if (p.bytes === undefined) {
        one(p)
        code.encode(bytesAt, a)
        p.bytes = take(bytesAt, code.size)
        wipe()
      }
      return p.bytes.slice()
    },
    add(p: KernelPoint, q: KernelPoint): KernelPoint {
      two(p, q)
      code.add(r, a, b)
      const sum = point()
      wipe()
      return sum
    },
    negate(p: KernelPoint): KernelPoint {
      one(p)
      code.negate(r, a)
      const negative = point()
      wipe()
      return negative
    },
    equals(p: KernelPoint, q: KernelPoint): boolean {
      two(p, q)
      const verdict = code.equals(a, b) !== 0
      wipe()
      return verdict
    },
    isIdentity(p: KernelPoint): boolean {
      one(p)
      const verdict = code.isIdentity(a) !== 0
      wipe()
      return verdict
    },
    /** One shape for all scalars, of 32 bytes, and points. */
    multiply(p: KernelPoint, secret: Uint8Array): KernelPoint {
      one(p)
      put(secret, bytesAt)
      code.multiply(r, a, bytesAt)
      const product = point()
      wipe()
      return product
    },
    multiplyPublic,
    sumOfProducts,
  }
}

export type Hash = (r: number, from: number, both: number) => void
/** RFC 9380, to a curve over a field of `perPoint` coordinates; `both`: hash_to_curve, else encode_to_curve. */
export function hashOf(room: Room, code: Hash, size: number, perPoint: number, both: boolean) {
  const [r] = room.slots
  return (message: Uint8Array, dst: Uint8Array): KernelPoint => {
    room.put(coordinateBytes(message, dst, both ? 2 * perPoint : perPoint), room.bytesAt)
    code(r, room.bytesAt, both ? 1 : 0)
    const coordinates = room.take(r, size)
    room.wipe()
    return { coordinates, bytes: undefined }
  }
}

export type KernelG1 = ReturnType<typeof makeKernelG1>

/** The kernel of G1, or why there is none: that with FMA where there is one and it runs, else that for SIMD alone. */
export function loadKernelG1(fma = isFmaWanted() ? fmaKernels : null): KernelG1 | { readonly why: string } {
  if (fma !== null) {
    const wasm = instantiate(fma.g1) as ExportsG1 | { readonly why: string }
    // Without FMA in the processor a product would be rounded twice, and be wrong.
    if (!('why' in wasm) && wasm.isFused?.() === 1) return makeKernelG1(wasm, fma)
  }
  const wasm = instantiate(() => moduleBytes(KERNEL_G1))
  return 'why' in wasm ? wasm : makeKernelG1(wasm as ExportsG1, null)
}

/** Which kernels these are, and why. */
export const choiceOf = ({ fma }: KernelG1) =>
  fma === null
    ? ({ name: 'wasm-simd', why: 'this runtime has WebAssembly with SIMD' } as const)
    : ({
        name: 'wasm-fma',
        why: 'this runtime has WebAssembly with relaxed SIMD, and the processor multiplies and adds in one',
      } as const)

function makeKernelG1(wasm: ExportsG1, fma: FmaKernels | null) {
  const room = roomOf(wasm)
  /** Bytes in the kernel: ../kernel/g1.ts. */
  const G1_BYTES = 2 * wasm.pair()
  const SUM_WORK = 16 * G1_BYTES + 2 * 144
  const { bytesAt, free, put, slots, take, wipe } = room

  /** Σ scalar·point on public scalars and points. */
  function sumOfProducts(points: readonly KernelPoint[], scalars: readonly Uint8Array[]): KernelPoint {
    if (points.length !== scalars.length) throw new RangeError('one scalar for each point')
    const count = points.length
    const scalarsAt = free + count * G1_BYTES
    const work = scalarsAt + count * 32
    room.reserve(count * (G1_BYTES + 32 + SUM_WORK))
    for (const [i, point] of points.entries()) put(point.coordinates, free + i * G1_BYTES)
    for (const [i, scalar] of scalars.entries()) put(scalar, scalarsAt + i * 32)
    wasm.g1Sum(slots[0], free, scalarsAt, count, work)
    const coordinates = take(slots[0], G1_BYTES)
    // The points may be shares of a key.
    wipe(work + count * SUM_WORK)
    return { coordinates, bytes: undefined }
  }

  const engineG1 = groupOf(
    room,
    {
      coordinates: G1_BYTES,
      size: 48,
      generator: GENERATOR,
      decode: wasm.g1Decode,
      encode: wasm.g1Encode,
      setIdentity: wasm.g1Identity,
      add: wasm.g1Add,
      negate: wasm.g1Negate,
      equals: wasm.g1Equals,
      isIdentity: wasm.g1IsIdentity,
      multiply: wasm.g1MultiplySecret,
    },
    { sumOfProducts, multiplyPublic: (point, scalar) => sumOfProducts([point], [scalar]) },
  )

  /** On integers mod q, of 32 bytes, in one shape for all of them. */
  function onScalars(code: (r: number, a: number, b: number) => void) {
    return (a: Uint8Array, b: Uint8Array): Uint8Array => {
      put(a, slots[0])
      put(b, slots[1])
      code(bytesAt, slots[0], slots[1])
      const result = take(bytesAt, 32)
      wipe()
      return result
    }
  }
  /** 48 bytes, mod q. */
  function reduceScalar(bytes: Uint8Array): Uint8Array {
    put(bytes, slots[0])
    wasm.scalarReduce(bytesAt, slots[0])
    const result = take(bytesAt, 32)
    wipe()
    return result
  }
  return {
    /** The kernels that this one is of; null for those of SIMD alone. Points mean nothing to others. */
    fma,
    engineG1,
    addScalars: onScalars(wasm.scalarAdd),
    subtractScalars: onScalars(wasm.scalarSubtract),
    multiplyScalars: onScalars(wasm.scalarMultiply),
    reduceScalar,
    hashToG1: hashOf(room, wasm.g1Hash, G1_BYTES, 1, true),
    encodeToG1: hashOf(room, wasm.g1Hash, G1_BYTES, 1, false),
    /** Of E(Fp): 1 − t times it is hashToG1. */
    hashUncleared: hashOf(room, wasm.g1HashUncleared, G1_BYTES, 1, true),
  }
}
