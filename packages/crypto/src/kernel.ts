/**
 * The WebAssembly kernel (../kernel, AssemblyScript): loading it, its memory, and copying in and out. Points live here
 * as the kernel's own bytes and are copied in for each call, which costs less than a hundredth of it; so do prepared
 * points (15 232 bytes, 2 µs), which therefore need no release: they go when nobody refers to them.
 *
 * Kernel memory is used by one call at a time, all of it synchronous. What held a secret is overwritten before the call
 * returns: scalars and their multiples by the kernel, bytes and points that went through here by `wipe`.
 */
import { fromBase64Url } from './bytes.js'
import { coordinateBytes } from './hash-to-field.js'
import { KERNEL_BASE64URL } from './kernel-wasm.js'

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

/** Addresses are numbers; a verdict is 0 for no. */
interface Exports {
  readonly memory: Memory
  heap(): number
  g1Decode(r: number, from: number): number
  g1Encode(to: number, p: number): void
  g1Add(r: number, p: number, q: number): void
  g1Negate(r: number, p: number): void
  g1Equals(p: number, q: number): number
  g1IsIdentity(p: number): number
  g1MultiplySecret(r: number, p: number, k: number): void
  g1Sum(r: number, points: number, scalars: number, n: number, work: number): void
  g1Hash(r: number, from: number, both: number): void
  g2Decode(r: number, from: number): number
  g2Encode(to: number, p: number): void
  g2Add(r: number, p: number, q: number): void
  g2Negate(r: number, p: number): void
  g2Equals(p: number, q: number): number
  g2IsIdentity(p: number): number
  g2MultiplySecret(r: number, p: number, k: number): void
  g2Hash(r: number, from: number, both: number): void
  prepare(lines: number, p: number): void
  miller(f: number, points: number, prepared: number, n: number, work: number): void
  finalExponentiation(r: number, f: number): void
  isOne12(a: number): number
  divide12(r: number, a: number, b: number): void
  gtBytes(to: number, a: number): void
}

/** A point, in the kernel's coordinates, which are not unique; `bytes` is its encoding once that is known. */
export interface KernelPoint {
  readonly coordinates: Uint8Array
  bytes: Uint8Array | undefined
}
/** A value of GT. */
export interface KernelGT {
  readonly coordinates: Uint8Array
}
/** Null for the identity: e is one. */
export interface KernelLines {
  readonly lines: Uint8Array | null
}

/** Bytes in the kernel: main.ts there. */
const G1 = 224
const G2 = 336
const GT = 672
const LINES = 68 * 224
const SUM_WORK = 16 * G1 + 2 * 144
const PAIR_WORK = 224
const PAGE = 65_536
/** The caller's fixed places, from the heap on: three points or values, bytes in and out. */
const SLOT = 704
const BYTES = 3 * SLOT
const FIXED = BYTES + 640

/** P1 and Q (draft-irtf-cfrg-pairing-friendly-curves-11 §4.2.1), compressed, in base64url. */
const GENERATOR_G1 = 'l_HTpzGX15QmlWOMT6msD8NojE-XdLkFoU46PxcbrFhsVeg_-Xoa7_s68ArbIsa7'
const GENERATOR_G2 =
  'k-ArYFJxn2B9rNOgiCdPZVlr0NCZILYatdphu9x_UEkzTPESE5RdV-WsfQVdBCt-' +
  'AkqisvCPCpEmCAUnLcUQUcbketT6QDsCtFELZHrj0XcLrAMmqAW779SAVsjBIb24'

export type Kernel = ReturnType<typeof makeKernel>

/** The kernel, or why there is none. */
export function loadKernel(): Kernel | { readonly why: string } {
  if (typeof WebAssembly === 'undefined') return { why: 'this runtime has no WebAssembly' }
  const bytes = fromBase64Url(KERNEL_BASE64URL, 'kernel')
  if (!WebAssembly.validate(bytes)) return { why: 'this runtime’s WebAssembly has no SIMD' }
  let module: object
  try {
    module = new WebAssembly.Module(bytes)
  } catch {
    // Valid, and still refused: a content security policy without wasm-unsafe-eval.
    return { why: 'WebAssembly may not be compiled here' }
  }
  return makeKernel(new WebAssembly.Instance(module).exports as Exports)
}

function makeKernel(wasm: Exports) {
  const heap = wasm.heap()
  const slots = [heap, heap + SLOT, heap + 2 * SLOT] as const
  const bytesAt = heap + BYTES
  const free = heap + FIXED
  let memory = new Uint8Array(wasm.memory.buffer)

  /** At least `size` bytes from `free` on. */
  function reserve(size: number): void {
    const missing = free + size - memory.length
    if (missing > 0) wasm.memory.grow(Math.ceil(missing / PAGE))
    if (memory.buffer !== wasm.memory.buffer) memory = new Uint8Array(wasm.memory.buffer)
  }
  const wipe = (): void => {
    memory.fill(0, heap, free)
  }
  const put = (bytes: Uint8Array, at: number): void => memory.set(bytes, at)
  const take = (at: number, size: number): Uint8Array => memory.slice(at, at + size)
  /** 32 bytes big-endian. */
  function putScalar(scalar: bigint, at: number): void {
    const view = new DataView(memory.buffer, at, 32)
    for (let word = 3, rest = scalar; word >= 0; word--, rest >>= 64n) view.setBigUint64(8 * word, rest)
  }
  reserve(0)

  interface GroupExports {
    readonly coordinates: number
    readonly size: number
    readonly generator: string
    decode(r: number, from: number): number
    encode(to: number, p: number): void
    add(r: number, p: number, q: number): void
    negate(r: number, p: number): void
    equals(p: number, q: number): number
    isIdentity(p: number): number
    multiply(r: number, p: number, k: number): void
  }
  function group(code: GroupExports) {
    const [a, b, r] = slots
    const point = (bytes?: Uint8Array): KernelPoint => ({ coordinates: take(r, code.coordinates), bytes })
    const one = (p: KernelPoint): void => put(p.coordinates, a)
    const two = (p: KernelPoint, q: KernelPoint): void => {
      put(p.coordinates, a)
      put(q.coordinates, b)
    }
    const identity: KernelPoint = {
      coordinates: new Uint8Array(code.coordinates),
      bytes: new Uint8Array(code.size).fill(0xc0, 0, 1),
    }
    function decode(bytes: Uint8Array): KernelPoint | null {
      const first = bytes[0] as number
      if (bytes.length !== code.size || (first & 0x80) === 0) return null
      if (first & 0x40) return bytes.every((byte, i) => byte === (i === 0 ? 0xc0 : 0)) ? identity : null
      put(bytes, bytesAt)
      const result = code.decode(r, bytesAt) === 0 ? null : point(bytes.slice())
      wipe()
      return result
    }
    const generator = decode(fromBase64Url(code.generator, 'generator')) as KernelPoint
    // The identity is P − P: its coordinates are the kernel's matter.
    one(generator)
    code.negate(b, a)
    code.add(r, a, b)
    identity.coordinates.set(take(r, code.coordinates))
    return {
      generator,
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
      /** One shape for all scalars and points. */
      multiply(p: KernelPoint, secret: bigint): KernelPoint {
        one(p)
        putScalar(secret, bytesAt)
        code.multiply(r, a, bytesAt)
        const product = point()
        wipe()
        return product
      },
    }
  }

  const g1 = group({
    coordinates: G1,
    size: 48,
    generator: GENERATOR_G1,
    decode: wasm.g1Decode,
    encode: wasm.g1Encode,
    add: wasm.g1Add,
    negate: wasm.g1Negate,
    equals: wasm.g1Equals,
    isIdentity: wasm.g1IsIdentity,
    multiply: wasm.g1MultiplySecret,
  })
  const g2 = group({
    coordinates: G2,
    size: 96,
    generator: GENERATOR_G2,
    decode: wasm.g2Decode,
    encode: wasm.g2Encode,
    add: wasm.g2Add,
    negate: wasm.g2Negate,
    equals: wasm.g2Equals,
    isIdentity: wasm.g2IsIdentity,
    multiply: wasm.g2MultiplySecret,
  })

  /** Σ scalar·point on public scalars and points. */
  function sumOfProducts(points: readonly KernelPoint[], scalars: readonly bigint[]): KernelPoint {
    if (points.length !== scalars.length) throw new RangeError('one scalar for each point')
    const count = points.length
    const scalarsAt = free + count * G1
    const work = scalarsAt + count * 32
    reserve(count * (G1 + 32 + SUM_WORK))
    for (const [i, point] of points.entries()) put(point.coordinates, free + i * G1)
    for (const [i, scalar] of scalars.entries()) putScalar(scalar, scalarsAt + i * 32)
    wasm.g1Sum(slots[0], free, scalarsAt, count, work)
    return { coordinates: take(slots[0], G1), bytes: undefined }
  }

  function prepareG2(R: KernelPoint): KernelLines {
    if (g2.isIdentity(R)) return { lines: null }
    reserve(LINES)
    put(R.coordinates, slots[0])
    wasm.prepare(free, slots[0])
    const lines = take(free, LINES)
    // A server key and its lines are secret.
    memory.fill(0, heap, free + LINES)
    return { lines }
  }

  /** Π e(P, R), identities included; the value of e is the usual library one, final exponent 3(p¹² − 1)/q. */
  function pairingProduct(pairs: readonly (readonly [KernelPoint, KernelPoint | KernelLines])[]): KernelGT {
    const counted = pairs.flatMap(([P, R]) => {
      const { lines } = 'lines' in R ? R : prepareG2(R)
      return lines === null || g1.isIdentity(P) ? [] : [{ P, lines }]
    })
    const count = counted.length
    const points = free + count * LINES
    const work = points + count * G1
    const list = work + count * PAIR_WORK
    reserve(count * (LINES + G1 + PAIR_WORK + 4))
    const addresses = new DataView(memory.buffer, list)
    counted.forEach(({ P, lines }, i) => {
      put(lines, free + i * LINES)
      put(P.coordinates, points + i * G1)
      addresses.setUint32(4 * i, free + i * LINES, true)
    })
    const [f, r] = slots
    wasm.miller(f, points, list, count, work)
    wasm.finalExponentiation(r, f)
    const coordinates = take(r, GT)
    memory.fill(0, heap, list)
    return { coordinates }
  }
  /** a/b, for values of e. */
  function divideGT(a: KernelGT, b: KernelGT): KernelGT {
    const [x, y, r] = slots
    put(a.coordinates, x)
    put(b.coordinates, y)
    wasm.divide12(r, x, y)
    const coordinates = take(r, GT)
    wipe()
    return { coordinates }
  }
  function isOneGT(a: KernelGT): boolean {
    put(a.coordinates, slots[0])
    const verdict = wasm.isOne12(slots[0]) !== 0
    wipe()
    return verdict
  }
  /** 576 bytes. */
  function bytesOfGT(a: KernelGT): Uint8Array {
    put(a.coordinates, slots[0])
    wasm.gtBytes(bytesAt, slots[0])
    const bytes = take(bytesAt, 576)
    wipe()
    return bytes
  }

  type Hash = (r: number, from: number, both: number) => void
  const hash = (code: Hash, size: number, perPoint: number, both: boolean) => {
    return (message: Uint8Array, dst: Uint8Array): KernelPoint => {
      put(coordinateBytes(message, dst, both ? 2 * perPoint : perPoint), bytesAt)
      code(slots[0], bytesAt, both ? 1 : 0)
      const coordinates = take(slots[0], size)
      wipe()
      return { coordinates, bytes: undefined }
    }
  }

  return {
    engineG1: {
      ...g1,
      sumOfProducts,
      multiplyPublic: (point: KernelPoint, scalar: bigint) => sumOfProducts([point], [scalar]),
    },
    engineG2: {
      ...g2,
      // Nothing multiplies in G2 often enough for a second way.
      multiplyPublic: g2.multiply,
      sumOfProducts(points: readonly KernelPoint[], scalars: readonly bigint[]): KernelPoint {
        if (points.length !== scalars.length) throw new RangeError('one scalar for each point')
        return points.reduce(
          (sum, point, i) => g2.add(sum, g2.multiply(point, scalars[i] as bigint)),
          g2.identity,
        )
      },
    },
    prepareG2,
    pairingProduct,
    divideGT,
    isOneGT,
    bytesOfGT,
    hashToG1: hash(wasm.g1Hash, G1, 1, true),
    encodeToG1: hash(wasm.g1Hash, G1, 1, false),
    hashToG2: hash(wasm.g2Hash, G2, 2, true),
    encodeToG2: hash(wasm.g2Hash, G2, 2, false),
  }
}
