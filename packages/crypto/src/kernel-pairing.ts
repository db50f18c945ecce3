/**
 * The second kernel, of G2 and pairings: see kernel.ts. A prepared point is 15 to 18 kB of lines. They stay in the kernel
 * from their first product on, for as long as their owner lives and isn't the one of all that was used longest ago.
 */
import {
  type Exports,
  groupOf,
  hashOf,
  instantiate,
  type KernelG1,
  type KernelPoint,
  type Room,
  roomOf,
} from './kernel.js'
import { KERNEL_PAIRING } from './kernel-pairing-wasm.js'
import { moduleBytes } from './module-text.js'

interface ExportsPairing extends Exports {
  g2Decode(r: number, from: number): number
  g2Encode(to: number, p: number): void
  g2Identity(r: number): void
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

/** A value of GT. */
export interface KernelGT {
  readonly coordinates: Uint8Array
}
/** Null for the identity: e is one. */
export interface KernelLines {
  readonly lines: Uint8Array | null
}

/** h_eff of G1 (RFC 9380 §8.8.1), as a scalar. */
const ONE_MINUS_T = new Uint8Array(32)
ONE_MINUS_T.set([0xd2, 0x01, 0, 0, 0, 0x01, 0, 0x01], 24)

/** Places for lines that stay. */
export const PLACES = 16

/** Q (draft-irtf-cfrg-pairing-friendly-curves-11 §4.2.1), compressed, in base64url. */
const GENERATOR =
  'k-ArYFJxn2B9rNOgiCdPZVlr0NCZILYatdphu9x_UEkzTPESE5RdV-WsfQVdBCt-' +
  'AkqisvCPCpEmCAUnLcUQUcbketT6QDsCtFELZHrj0XcLrAMmqAW779SAVsjBIb24'

export type KernelPairing = ReturnType<typeof makeKernelPairing>

/** Where there is a kernel of G1, this one is there too. */
export function loadKernelPairing(kernelG1: KernelG1): KernelPairing {
  const { fma } = kernelG1
  const wasm = instantiate(fma === null ? () => moduleBytes(KERNEL_PAIRING) : fma.pairing)
  if ('why' in wasm) throw new Error(`no pairings: ${wasm.why}`)
  // A runtime says the same of all modules; where one doesn't, nothing is computed.
  if (fma !== null && (wasm as ExportsPairing).isFused?.() !== 1)
    throw new Error('no pairings: sums of products are rounded once in one module, and twice in another')
  return makeKernelPairing(wasm as ExportsPairing, kernelG1)
}

function makeKernelPairing(wasm: ExportsPairing, { engineG1: g1, hashUncleared, multiplyScalars }: KernelG1) {
  /** Bytes in the kernel: ../kernel/pairing.ts. */
  const [G1_BYTES, G2_BYTES, GT_BYTES] = [2, 3, 6].map(pairs => pairs * wasm.pair()) as [
    number,
    number,
    number,
  ]
  const LINES = 68 * G1_BYTES
  const PAIR_WORK = G2_BYTES
  const room = roomOf(wasm, PLACES * LINES)
  const { bytesAt, free, put, slots, take, wipe } = room
  const stayed = linesThatStay(room, LINES)

  const g2 = groupOf(
    room,
    {
      coordinates: G2_BYTES,
      size: 96,
      generator: GENERATOR,
      decode: wasm.g2Decode,
      encode: wasm.g2Encode,
      setIdentity: wasm.g2Identity,
      add: wasm.g2Add,
      negate: wasm.g2Negate,
      equals: wasm.g2Equals,
      isIdentity: wasm.g2IsIdentity,
      multiply: wasm.g2MultiplySecret,
    },
    {
      // Nothing multiplies in G2 often enough for a second way.
      multiplyPublic: (point, scalar) => g2.multiply(point, scalar),
      sumOfProducts(points, scalars): KernelPoint {
        if (points.length !== scalars.length) throw new RangeError('one scalar for each point')
        return points.reduce(
          (sum, point, i) => g2.add(sum, g2.multiply(point, scalars[i] as Uint8Array)),
          g2.identity,
        )
      },
    },
  )

  function prepareG2(R: KernelPoint): KernelLines {
    if (g2.isIdentity(R)) return { lines: null }
    room.reserve(LINES)
    put(R.coordinates, slots[0])
    wasm.prepare(free, slots[0])
    const lines = take(free, LINES)
    // A server key and its lines are secret.
    wipe(free + LINES)
    return { lines }
  }

  /** Π e(P, R), identities included; the value of e is the usual library one, final exponent 3(p¹² − 1)/q. */
  function pairingProduct(pairs: readonly (readonly [KernelPoint, KernelPoint | KernelLines])[]): KernelGT {
    const counted = pairs.filter(
      ([P, R]) => !('lines' in R ? R.lines === null : g2.isIdentity(R)) && !g1.isIdentity(P),
    )
    const count = counted.length
    const points = free + count * LINES
    const work = points + count * G1_BYTES
    const list = work + count * PAIR_WORK
    room.reserve(count * (LINES + G1_BYTES + PAIR_WORK + 4))
    const placeOf = stayed()
    counted.forEach(([P, R], i) => {
      let at: number | undefined
      if ('lines' in R) at = placeOf(R.lines as Uint8Array)
      if (at === undefined) {
        at = free + i * LINES
        if ('lines' in R) put(R.lines as Uint8Array, at)
        else {
          put(R.coordinates, slots[0])
          wasm.prepare(at, slots[0])
        }
      }
      put(P.coordinates, points + i * G1_BYTES)
      room.putAddress(at, list + 4 * i)
    })
    const [f, r] = slots
    wasm.miller(f, points, list, count, work)
    wasm.finalExponentiation(r, f)
    const coordinates = take(r, GT_BYTES)
    wipe(list + 4 * count)
    return { coordinates }
  }
  /**
   * e(P + scalar·H, R) for a message's hash H to G1, whose cofactor is left in: the pairing of a point whose order divides it
   * with one of G2 is one. So the multiple by 1 − t becomes part of that by the scalar, which is public.
   */
  function pairingWithHash(
    P: KernelPoint,
    scalar: Uint8Array,
    { message, dst }: { readonly message: Uint8Array; readonly dst: Uint8Array },
    R: KernelPoint | KernelLines,
  ): KernelGT {
    const product = g1.multiplyPublic(hashUncleared(message, dst), multiplyScalars(scalar, ONE_MINUS_T))
    return pairingProduct([[g1.add(P, product), R]])
  }
  /** a/b, for values of e. */
  function divideGT(a: KernelGT, b: KernelGT): KernelGT {
    const [x, y, r] = slots
    put(a.coordinates, x)
    put(b.coordinates, y)
    wasm.divide12(r, x, y)
    const coordinates = take(r, GT_BYTES)
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

  return {
    engineG2: g2,
    prepareG2,
    pairingProduct,
    pairingWithHash,
    divideGT,
    isOneGT,
    bytesOfGT,
    hashToG2: hashOf(room, wasm.g2Hash, G2_BYTES, 2, true),
    encodeToG2: hashOf(room, wasm.g2Hash, G2_BYTES, 2, false),
  }
}

/**
 * Lines in the kernel, called once for each product: where the lines of one of its points are, or undefined where all
 * places are taken by others of the same product. Who was used longest ago makes room, and what nobody has any more is
 * overwritten.
 */
function linesThatStay(room: Room, size: number): () => (lines: Uint8Array) => number | undefined {
  /** By lines, their place. */
  const placeBy = new WeakMap<Uint8Array, number>()
  const owners: (WeakRef<Uint8Array> | undefined)[] = Array.from({ length: PLACES }, () => undefined)
  /** Of each place, the number of its last use. */
  const usedAt = new Float64Array(PLACES)
  const addressOf = (place: number): number => room.kept + place * size
  const gone = new FinalizationRegistry((owner: WeakRef<Uint8Array>) => {
    const place = owners.indexOf(owner)
    // Another has taken it since.
    if (place === -1) return
    room.erase(addressOf(place), size)
    owners[place] = undefined
    usedAt[place] = 0
  })
  let uses = 0
  return () => {
    const before = uses
    return lines => {
      let place = placeBy.get(lines)
      if (place === undefined) {
        place = usedAt.indexOf(Math.min(...usedAt))
        if ((usedAt[place] as number) > before) return undefined
        const former = owners[place]?.deref()
        if (former !== undefined) placeBy.delete(former)
        const owner = new WeakRef(lines)
        owners[place] = owner
        placeBy.set(lines, place)
        gone.register(lines, owner)
        room.put(lines, addressOf(place))
      }
      usedAt[place] = ++uses
      return addressOf(place)
    }
  }
}
