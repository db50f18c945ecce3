/**
 * The kernels against BigInt and noble, over both field layers: every operation of Fp and Fp2 on random values and at the
 * extremes, the groups with all their edges, pairings. `npm run test:long` takes ten times as many cases.
 */
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { bigintG1 } from '@milagro-ts/crypto/bigint-g1'
import { toHex } from '@milagro-ts/crypto/bytes'
import { ORDER } from '@milagro-ts/crypto/curve'
import type { FmaKernels } from '@milagro-ts/crypto/fma-kernels'
import { type KernelG1, loadKernelG1 } from '@milagro-ts/crypto/kernel'
import { type KernelGT, type KernelLines, loadKernelPairing, PLACES } from '@milagro-ts/crypto/kernel-pairing'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { normalizeZ, pippenger } from '@noble/curves/abstract/curve.js'
import { bls12_381 } from '@noble/curves/bls12-381.js'
import { describe, expect, test } from 'vitest'
import { buildModule } from '../kernel/build.mjs'
import { FIELDS } from '../kernel/generate-field.mjs'
import { P, R } from '../kernel/prime.mjs'
import { fp2, g2Add, g2AtX, g2Bytes, g2InSubgroup, g2Multiply, g2Negate, type TwinG2 } from './bigint-twin.js'
import { boundsOf, interval, type Memory } from './kernel-intervals.js'
import {
  agreed,
  type Each,
  engineG1,
  engineG2,
  FMA,
  kernels,
  loaded,
  MODULES,
  NAMES,
  type Point,
} from './kernels.js'
import { HAS_FMA } from './processor.js'
import { seeded } from './world.js'

/** Ten times as many in the campaigns; a tenth under another Node than the one that has counted them all. */
const MANY = process.env.MILAGRO_LONG === '1' ? 10 : process.env.MILAGRO_BRIEF === '1' ? 0.1 : 1

/** xorshift64*: the same cases in each run. */
let state = 0x9e37_79b9_7f4a_7c15n
function random(bits: number): bigint {
  let value = 0n
  for (let got = 0; got < bits; got += 32) {
    state ^= state >> 12n
    state = BigInt.asUintN(64, state ^ (state << 25n))
    state ^= state >> 27n
    value = (value << 32n) | (BigInt.asUintN(64, state * 0x2545_f491_4f6c_dd1dn) >> 32n)
  }
  return BigInt.asUintN(bits, value)
}
const mod = (a: bigint, m = P): bigint => ((a % m) + m) % m
const randomScalar = (): bigint => mod(random(384), ORDER)
/** A scalar as the kernel takes it. */
const inBytes = (k: bigint): Uint8Array => Scalar.fromBigInt(k).encode()

type Operation = (r: number, a: number, b: number) => void
type Name =
  | 'add'
  | 'sub'
  | 'carry'
  | 'settle'
  | 'multiply'
  | 'multiply2'
  | 'square'
  | 'square2'
  | 'invert'
  | 'invert2'
  | 'canonical'
/** A kernel's operations on pairs, with four places for them. */
function rawOf(name: keyof typeof FIELDS, bytes: Uint8Array) {
  const { BITS, LIMBS, PAIR } = FIELDS[name]
  const module = new WebAssembly.Module(Uint8Array.from(bytes))
  const raw = new WebAssembly.Instance(module).exports as unknown as {
    memory: WebAssembly.Memory
    heap(): number
    pair(): number
  } & Record<Name, Operation>
  const [A, B, C, D] = [0, 1, 2, 3].map(i => raw.heap() + 128 * i) as [number, number, number, number]
  /** Bytes of a limb of one lane. */
  const LIMB = PAIR / LIMBS / 2
  const limbs = LIMB === 4 ? new Int32Array(raw.memory.buffer) : new Float64Array(raw.memory.buffer)
  const setLimb = (address: number, limb: bigint): void => {
    limbs[address / LIMB] = Number(limb)
  }
  /** So many of them, side by side or a lane's. */
  const limbsAt = (address: number, count: number, step = 1): bigint[] =>
    Array.from({ length: count }, (_, i) => BigInt(limbs[address / LIMB + step * i] as number))
  const valueIn = (of: readonly bigint[]): bigint =>
    of.reduceRight((value, limb) => (value << BigInt(BITS)) + limb, 0n)
  return {
    raw,
    A,
    B,
    C,
    D,
    BITS,
    LIMBS,
    PAIR,
    setLimbs: (address: number, of: readonly bigint[]): void =>
      of.forEach((limb, i) => {
        setLimb(address + LIMB * i, limb)
      }),
    limbsOf: (address: number) => limbsAt(address, 2 * LIMBS),
    /** Limbs of BITS bits each, whatever the value: [0, 2³⁹²). */
    put(address: number, pair: Pair): void {
      for (let i = 0; i < LIMBS; i++) {
        for (const lane of [0, 1] as const)
          setLimb(address + LIMB * (2 * i + lane), BigInt.asUintN(BITS, pair[lane] >> BigInt(BITS * i)))
      }
    },
    get: (address: number): Pair => [
      valueIn(limbsAt(address, LIMBS, 2)),
      valueIn(limbsAt(address + LIMB, LIMBS, 2)),
    ],
    /** A canonical value, which lies by itself. */
    getValue: (address: number): bigint => valueIn(limbsAt(address, LIMBS)),
  }
}
type Pair = readonly [bigint, bigint]
const KERNELS = {
  G1: NAMES.map(name => rawOf(name, (MODULES[name] as FmaKernels).g1())),
  pairing: NAMES.map(name => rawOf(name, (MODULES[name] as FmaKernels).pairing())),
}
const inverseOfR = ((): bigint => {
  let [result, base] = [1n, R % P]
  for (let e = P - 2n; e > 0n; e >>= 1n, base = (base * base) % P) if (e & 1n) result = (result * base) % P
  return result
})()

const reducedPair = (pair: Pair): Pair => pair.map(x => mod(x)) as unknown as Pair

const ALL_ONES = 2n ** 384n - 1n
const EXTREMES = [
  0n,
  1n,
  2n,
  P - 1n,
  P,
  P + 1n,
  2n * P - 1n,
  2n ** 381n - 1n,
  ALL_ONES,
  2n ** 28n - 1n,
  2n ** 364n,
  2n ** 49n - 1n,
  2n ** 343n,
]
/** Every pair of extremes in both places, then random ones, some of them in [p, 2p). */
function* cases(count: number): Generator<readonly [Pair, Pair]> {
  for (const x of EXTREMES)
    for (const y of EXTREMES)
      yield [
        [x, y],
        [y, x],
      ] as const
  for (const x of EXTREMES)
    yield [
      [x, x],
      [x, x],
    ] as const
  for (let i = 0; i < count; i++) {
    const value = (): bigint => mod(random(416)) + (i % 3 === 0 ? P : 0n)
    yield [
      [value(), value()],
      [value(), value()],
    ] as const
  }
}
const onLanes =
  (f: (x: bigint, y: bigint) => bigint) =>
  (a: Pair, b: Pair): Pair => [mod(f(a[0], b[0])), mod(f(a[1], b[1]))]
const product2 = (a: Pair, b: Pair): Pair => [
  mod((a[0] * b[0] - a[1] * b[1]) * inverseOfR),
  mod((a[0] * b[1] + a[1] * b[0]) * inverseOfR),
]

const OPERATIONS: readonly (readonly [keyof typeof KERNELS, Name, (a: Pair, b: Pair) => Pair])[] = [
  ['G1', 'add', onLanes((x, y) => x + y)],
  ['G1', 'sub', onLanes((x, y) => x - y)],
  ['G1', 'multiply', onLanes((x, y) => x * y * inverseOfR)],
  ['G1', 'square', onLanes(x => x * x * inverseOfR)],
  ['G1', 'carry', onLanes(x => x)],
  // Of the same lines as those, or of others that are put together from the ones below.
  ['pairing', 'multiply', onLanes((x, y) => x * y * inverseOfR)],
  ['pairing', 'multiply2', product2],
  ['pairing', 'square2', a => product2(a, a)],
  ['pairing', 'settle', onLanes(x => x)],
]
/** What `settle` is given is below 7½p. */
const below7p = (pair: Pair): Pair => pair.map(x => x % (7n * P)) as unknown as Pair
const takesTwo = (name: Name): boolean => name === 'add' || name === 'sub' || name.startsWith('multiply')
function run(raw: Readonly<Record<Name, Operation>>, name: Name, r: number, a: number, b: number): void {
  if (takesTwo(name)) raw[name](r, a, b)
  else (raw[name] as (r: number, a: number) => void)(r, a)
}
describe('the field', () => {
  test.each(OPERATIONS)('in the kernel of %s: %s', (which, name, expected) => {
    let wrong = 0
    for (const [x0, y0] of cases(100_000 * MANY)) {
      const [a, b] = name === 'settle' ? [below7p(x0), y0] : [x0, y0]
      const [ex, ey] = expected(a, b)
      for (const { raw, put, get, A, B, C } of KERNELS[which]) {
        put(A, a)
        put(B, b)
        run(raw, name, C, A, B)
        const [x, y] = reducedPair(get(C))
        if (x !== ex || y !== ey) wrong++
      }
    }
    expect(wrong).toBe(0)
  })

  test.each([
    ['G1', 'multiply'],
    ['G1', 'square'],
    ['pairing', 'multiply'],
    ['pairing', 'multiply2'],
  ] as const)('in the kernel of %s, results of %s are below 1½p in size and tight', (which, name) => {
    let [large, loose] = [0, 0]
    for (const [a, b] of cases(20_000 * MANY)) {
      for (const { raw, put, get, limbsOf, BITS, A, B, C } of KERNELS[which]) {
        put(A, a)
        put(B, b)
        raw[name](C, A, B)
        for (const x of get(C)) if (2n * (x < 0n ? -x : x) >= 3n * P) large++
        const most = 1n << BigInt(BITS - 1)
        if (limbsOf(C).some(limb => limb > most || limb < -most)) loose++
      }
    }
    expect([large, loose]).toEqual([0, 0])
  })

  test.each(['G1', 'pairing'] as const)(
    'in the kernel of %s, canonical values of everything between −2⁹p and 2⁹p that has limbs',
    which => {
      let wrong = 0
      // Two values of each.
      for (const [[x, y]] of cases(50_000 * MANY)) {
        const expected = [mod((x - y) * inverseOfR), mod((y - x) * inverseOfR)]
        for (const { raw, put, getValue, A, B, C, D } of KERNELS[which]) {
          put(A, [x, y])
          put(B, [y, x])
          raw.sub(C, A, B)
          for (const lane of [0, 1]) {
            raw.canonical(D, C, lane)
            if (getValue(D) !== expected[lane]) wrong++
          }
        }
      }
      expect(wrong).toBe(0)
    },
  )

  test.each(['G1', 'pairing'] as const)('inverses in Fp, in the kernel of %s', which => {
    const one = R % P
    let wrong = 0
    for (const [a] of cases(100_000 * MANY)) {
      const expected = mod(a[0]) === 0n ? 0n : one
      for (const { raw, put, get, A, B, C } of KERNELS[which]) {
        put(A, a)
        raw.invert(B, A, 0)
        put(C, [a[0], a[0]])
        raw.multiply(C, C, B)
        const [x, y] = reducedPair(get(C))
        if (x !== expected || y !== expected) wrong++
      }
    }
    expect(wrong).toBe(0)
  })

  test('inverses in Fp2', () => {
    const one = R % P
    let wrong = 0
    for (const [a] of cases(100_000 * MANY)) {
      const expected = mod(a[0]) === 0n && mod(a[1]) === 0n ? 0n : one
      for (const { raw, put, get, A, B, C } of KERNELS.pairing) {
        put(A, a)
        ;(raw.invert2 as (r: number, a: number) => void)(B, A)
        raw.multiply2(C, A, B)
        const [x, y] = reducedPair(get(C))
        if (x !== expected || y !== 0n) wrong++
      }
    }
    expect(wrong).toBe(0)
  })

  // What factors the formulas have, in units of half a limb's base, up to where columns, or products of 49 bits, end.
  const FACTORS: readonly (readonly [
    keyof typeof KERNELS,
    Name,
    keyof typeof FIELDS | 'both',
    bigint,
    bigint,
  ])[] = [
    ...(['G1', 'pairing'] as const).flatMap(which => [
      [which, 'multiply', 'both', 8n, 4n] as const,
      [which, 'multiply', 'both', 4n, 8n] as const,
    ]),
    ['G1', 'multiply', 'simd', 2n, 16n - 1n],
    ['G1', 'square', 'both', 4n, 0n],
    ['pairing', 'multiply2', 'both', 8n, 2n],
    ['pairing', 'multiply2', 'both', 2n, 8n],
    ['pairing', 'multiply2', 'both', 4n, 4n],
    // There a product of two numbers is what ends, not the column of both.
    ['pairing', 'multiply2', 'fma', 8n, 4n],
    ['pairing', 'multiply2', 'fma', 4n, 8n],
    ['pairing', 'square2', 'both', 2n, 0n],
    ['G1', 'carry', 'both', 14n, 0n],
    ['pairing', 'carry', 'both', 14n, 0n],
    ['pairing', 'settle', 'both', 5n, 0n],
  ]
  test.each(FACTORS)(
    'in the kernel of %s, %s of the largest limbs, %s: %i and %i units',
    (which, name, only, u, v) => {
      const expected =
        OPERATIONS.find(([of, operation]) => of === which && operation === name)?.[2] ?? onLanes(x => x)
      for (const [i, kernel] of KERNELS[which].entries()) {
        if (only !== 'both' && NAMES[i] !== only) continue
        const { raw, get, setLimbs, A, B, C, BITS, LIMBS } = kernel
        const half = 1n << BigInt(BITS - 1)
        /** Of 7p in size at the most. */
        const top = (7n * P) >> BigInt(BITS * (LIMBS - 1))
        let wrong = 0
        for (let n = 0; n < 4_000 * MANY; n++) {
          // All of one sign, then any, then a few that are smaller.
          const limbs = (units: bigint, negative: bigint) =>
            Array.from({ length: 2 * LIMBS }, (_, k) => {
              const isTop = k >= 2 * LIMBS - 2
              const size = isTop ? top : units * half
              if (n < 4) return negative ? -size : size
              const inner = !isTop && n % 3 === 0 && random(2) === 0n ? size - random(BITS - 1) : size
              return random(1) ? inner : -inner
            })
          setLimbs(A, limbs(u, BigInt(n & 1)))
          setLimbs(B, limbs(v, BigInt(n & 2)))
          const result = expected(get(A), get(B))
          run(raw, name, C, A, B)
          const [x, y] = reducedPair(get(C))
          if (x !== result[0] || y !== result[1]) wrong++
        }
        expect(wrong).toBe(0)
      }
    },
  )

  test.each(OPERATIONS)(
    'in the kernel of %s, %s gives limb by limb what the lines give that are proven on bounds',
    (which, name) => {
      KERNELS[which].forEach(({ raw, put, setLimbs, limbsOf, A, B, C, LIMBS, PAIR }, i) => {
        const bounds = boundsOf(FIELDS[NAMES[i] as keyof typeof FIELDS])
        const product = {
          multiply: 'multiplyWide',
          square: 'squareWide',
          multiply2: 'multiplyWide2',
          square2: 'squareWide2',
        }[name as string]
        for (const [a, b] of [...cases(50)].slice(-60)) {
          put(A, below7p(a))
          put(B, b)
          // Of either sign.
          for (const at of [A, B])
            setLimbs(
              at,
              limbsOf(at).map((limb, k) => (k % 3 ? limb : -limb)),
            )
          const memory: Memory = new Map()
          for (const [base, at] of [
            ['a', A],
            ['b', B],
          ] as const)
            limbsOf(at).forEach((limb, k) => {
              memory.set(`${base}+${bounds.LIMB * k}`, bounds.limbOf(interval(limb)))
            })
          for (const line of product === undefined ? [name] : [product, 'reduce'])
            bounds.run(bounds.line(line), memory)
          run(raw, name, C, A, B)
          const expected = Array.from(
            { length: 2 * LIMBS },
            (_, k) => memory.get(`r+${bounds.LIMB * k}`)?.low,
          )
          expect(PAIR).toBe(2 * LIMBS * bounds.LIMB)
          expect(limbsOf(C)).toEqual(expected)
        }
      })
    },
  )

  // The kernels' own roots are inside decoding and hashing: these are the same sources, offered by themselves.
  test.each(NAMES)('%s: roots in Fp and Fp2', async field => {
    const source = `
      export { rootBegin, rootEnd, ROOT } from './root'
      export { root2 } from './g2'
      export function heap(): usize { return (__heap_base + 63) & ~63 }`
    const built = rawOf(
      field,
      await buildModule({ main: 'main-roots.ts', field, areVectorsRolled: false, source }),
    )
    const { put, get, A, B } = built
    const raw = built.raw as unknown as {
      rootBegin(a: number): void
      rootEnd(at: number): void
      ROOT: { value: number }
      root2(r: number, a: number): number
    }
    const [half, inR] = [(a: bigint) => mod(a * inverseOfR), (a: bigint) => mod(a * R)]
    let wrong = 0
    for (const [a] of cases(25_000 * MANY)) {
      // A square, and the opposite of one, which is none: p ≡ 3 mod 4. Two values of each.
      const [x, y] = [mod(a[0] * a[0]), mod(-a[1] * a[1])]
      put(A, [inR(x), inR(y)])
      raw.rootBegin(A)
      raw.rootEnd(1)
      const [w, v] = get(raw.ROOT.value).map(half) as unknown as Pair
      if (mod(x * w * w) !== (x === 0n ? 0n : 1n)) wrong++
      if (mod(y * v * v) !== (y === 0n ? 0n : P - 1n)) wrong++
    }
    for (const [a] of cases(25_000 * MANY)) {
      // Times 1 + i, which has the norm 2: no square mod p, which is 3 mod 8.
      const square: Pair = [mod(a[0] * a[0] - a[1] * a[1]), mod(2n * a[0] * a[1])]
      put(A, square.map(inR) as unknown as Pair)
      if (raw.root2(B, A) === 0) wrong++
      const [x, y] = get(B).map(half) as unknown as Pair
      if (mod(x * x - y * y) !== square[0] || mod(2n * x * y) !== square[1]) wrong++
      put(A, [inR(square[0] - square[1]), inR(square[0] + square[1])])
      const isZero = square[0] === 0n && square[1] === 0n
      if ((raw.root2(B, A) !== 0) !== isZero) wrong++
    }
    expect(wrong).toBe(0)
  })
})

const { Fp, Fp2 } = bls12_381.fields
/** Each with four decodings: y and −y of a point of the group, a point outside, any x. */
const ROOTS = 2_500 * MANY
/** The y of a point of E(Fp) at x, whatever its order. */
function yAt(x: bigint): bigint | undefined {
  try {
    return Fp.sqrt(mod(x ** 3n + 4n))
  } catch {
    return undefined
  }
}
function isOnTwist(x: bigint): boolean {
  const square = { c0: mod(x ** 3n + 4n), c1: 4n }
  try {
    return Fp2.eql(Fp2.sqr(Fp2.sqrt(square)), square)
  } catch {
    return false
  }
}

const T = 0xd201_0000_0001_0000n
/** Where the halves and digits of a scalar have their edges. */
const SCALARS = [
  0n,
  1n,
  2n,
  15n,
  16n,
  ORDER - 1n,
  ORDER - 2n,
  T,
  T - 1n,
  T + 1n,
  T ** 2n,
  T ** 2n - 1n,
  T ** 2n + 1n,
  T ** 3n,
  T ** 3n - 1n,
  (T ** 2n - 1n) * T ** 2n,
  2n ** 128n - 1n,
  2n ** 128n,
  ...Array.from({ length: 255 }, (_, i) => 2n ** BigInt(i)).filter(k => k < ORDER),
]

/** The same in BigInt, on what bytes say. */
interface Slow {
  /** P, P + Q, 2P, −P, kP, of which P has been found to be in the group. */
  readonly results: (p: Uint8Array, q: Uint8Array, k: bigint) => Uint8Array[]
}
const SLOW_G1: Slow = {
  results(p, q, k) {
    const [P1, Q1] = [bigintG1.decode(p), bigintG1.decode(q)]
    if (P1 === null || Q1 === null) throw new Error('not in the group')
    const doubled = bigintG1.add(P1, P1)
    const of = [P1, bigintG1.add(P1, Q1), doubled, bigintG1.negate(P1), bigintG1.multiply(P1, inBytes(k))]
    return of.map(bigintG1.encode)
  },
}
const SLOW_G2: Slow = {
  results(p, q, k) {
    const [P2, Q2] = [twinOf(p), twinOf(q)]
    if (!g2InSubgroup(P2)) throw new Error('not in the group')
    return [P2, g2Add(P2, Q2), g2Add(P2, P2), g2Negate(P2), g2Multiply(P2, k)].map(g2Bytes)
  },
}
function twinOf(bytes: Uint8Array): TwinG2 {
  const integer = BigInt(`0x${toHex(bytes)}`)
  const x = fp2(integer % 2n ** 384n, (integer >> 384n) % 2n ** 381n)
  return g2AtX(x, ((bytes[0] as number) & 0x20) !== 0)
}

/** noble writes points of the group only. */
function g1Bytes({ x, y }: { x: bigint; y: bigint }): Uint8Array {
  const bytes = Uint8Array.from(Buffer.from(x.toString(16).padStart(96, '0'), 'hex'))
  bytes[0] = (bytes[0] as number) | (2n * y > P ? 0xa0 : 0x80)
  return bytes
}
/** What both groups of noble have. */
interface NoblePoint {
  toBytes(): Uint8Array
  toAffine(): { x: never; y: never }
  multiplyUnsafe(k: bigint): NoblePoint
  add(other: NoblePoint): NoblePoint
  double(): NoblePoint
  negate(): NoblePoint
  assertValidity(): void
  is0(): boolean
}
interface NobleGroup {
  readonly BASE: NoblePoint
  readonly ZERO: NoblePoint
  fromBytes(bytes: Uint8Array): NoblePoint
}
interface NobleHasher {
  hashToCurve(message: Uint8Array, options: { DST: Uint8Array }): unknown
  encodeToCurve(message: Uint8Array, options: { DST: Uint8Array }): unknown
}

/** A point of the curve outside of the group. */
const OUTSIDE_G1 = ((): NoblePoint => {
  const y = yAt(4n) as bigint
  return bls12_381.G1.Point.fromAffine({ x: 4n, y }) as unknown as NoblePoint
})()
const OUTSIDE_G2 = ((): NoblePoint => {
  for (let i = 1n; ; i++) {
    const found = g2AtX(fp2(i, 1n), true)
    if (found !== null)
      return new bls12_381.G2.Point(
        Fp2.create(found.x),
        Fp2.create(found.y),
        Fp2.ONE,
      ) as unknown as NoblePoint
  }
})()

for (const { name, group, theirs, hasher, hash, encodeTo, onCurve, slow, written, outside, atX } of [
  {
    name: 'G1',
    group: engineG1,
    theirs: bls12_381.G1.Point as unknown as NobleGroup,
    hasher: bls12_381.G1 as NobleHasher,
    hash: kernels.hashToG1,
    encodeTo: kernels.encodeToG1,
    onCurve: (x: bigint) => yAt(x) !== undefined,
    slow: SLOW_G1,
    written: g1Bytes as (affine: { x: never; y: never }) => Uint8Array,
    outside: OUTSIDE_G1,
    atX: () => {
      const x = mod(random(416))
      return { bytes: g1Bytes({ x, y: random(1) * (P - 1n) }), hasPoints: () => yAt(x) !== undefined }
    },
  },
  {
    name: 'G2',
    group: engineG2,
    theirs: bls12_381.G2.Point as unknown as NobleGroup,
    hasher: bls12_381.G2 as NobleHasher,
    hash: kernels.hashToG2,
    encodeTo: kernels.encodeToG2,
    onCurve: isOnTwist,
    slow: SLOW_G2,
    written: g2Bytes as (affine: { x: never; y: never }) => Uint8Array,
    outside: OUTSIDE_G2,
    atX: () => {
      const x = fp2(random(416), random(416))
      return {
        bytes: g2Bytes({ x, y: fp2(0n, random(1) * (P - 1n)) }),
        hasPoints: () => g2AtX(x, true) !== null,
      }
    },
  },
]) {
  describe(name, () => {
    const noble = theirs
    const Q = noble.BASE
    /** With Z = 1, by one inversion for all. */
    const affine = (points: NoblePoint[]): NoblePoint[] =>
      normalizeZ(noble as never, points as never) as unknown as NoblePoint[]
    const bytesOf = (k: bigint): string =>
      toHex(k === 0n ? noble.ZERO.toBytes() : Q.multiplyUnsafe(k).toBytes())
    const hex = (p: Point): string => toHex(group.encode(p))
    const times = (k: bigint): Point => group.multiply(group.generator, inBytes(k))
    const one = group.generator

    test('multiples by the edges of scalars, secret and public', () => {
      for (const k of SCALARS) {
        const expected = bytesOf(k)
        expect(hex(times(k))).toBe(expected)
        expect(hex(group.multiplyPublic(one, inBytes(k)))).toBe(expected)
      }
    })

    test('multiples by scalars with digits at their ends, and by the first few numbers', () => {
      // k = Σ dᵢ|t|ⁱ: each digit odd, even, none and the largest.
      const ends = [0n, 1n, T - 2n, T - 1n]
      const parts = [0, 1, 2, 3].map(i =>
        ends.map(d => {
          const part = d * T ** BigInt(i)
          const bytes = Uint8Array.from(Buffer.from(bytesOf(part % ORDER), 'hex'))
          return { part, point: part % ORDER === 0n ? group.identity : (group.decode(bytes) as Point) }
        }),
      )
      let sums: { part: bigint; point: Point }[] = [{ part: 0n, point: group.identity }]
      for (const digit of parts)
        sums = sums.flatMap(a =>
          digit.map(b => ({ part: a.part + b.part, point: group.add(a.point, b.point) })),
        )
      const scalars = sums.filter(({ part }) => part < ORDER)
      expect(scalars.length).toBeGreaterThan(200)
      for (const { part, point } of scalars) expect(group.equals(times(part), point)).toBe(true)
      let sum: Point = group.identity
      for (let k = 0n; k < 70n; k++, sum = group.add(sum, one)) expect(group.equals(times(k), sum)).toBe(true)
    })

    /** In the kernel's coordinates alone, which then have to be written. */
    const unwritten = (p: Point): Point => p.map(point => ({ ...point, bytes: undefined }))
    /** A quarter of the random cases, so that no test is a long one. */
    const RANDOM = 250 * MANY

    test.each([1, 2, 3, 4])(
      'sums, doubles, negatives, multiples, bytes of random points, against noble, %i of 4',
      () => {
        // Of noble's base point, for which it has a table: b·(aP) is (ab)·P. In each case b is the last one's a.
        let [b, B] = [1n, Q]
        const rows = Array.from({ length: RANDOM }, () => {
          const a = randomScalar()
          const A = Q.multiplyUnsafe(a)
          const points = [A, B, A.add(B), A.double(), A.negate(), Q.multiplyUnsafe((a * b) % ORDER)]
          const row = { a, b, points }
          ;[b, B] = [a, A]
          return row
        })
        // Not by noble's own writing, which checks each point's order first: decoding, below, is compared with that.
        const bytes = affine(rows.flatMap(({ points }) => points)).map(point => written(point.toAffine()))
        rows.forEach(({ a, b }, i) => {
          const [p, q] = [times(a), group.multiplyPublic(one, inBytes(b))]
          const product = group.multiply(q, inBytes(a))
          const own = [p, q, group.add(p, q), group.add(p, p), group.negate(p), product]
          const expected = bytes.slice(6 * i, 6 * i + 6)
          expect(own.map(hex)).toEqual(expected.map(toHex))
          expect(hex(group.multiplyPublic(p, inBytes(b)))).toBe(toHex(expected[5] as Uint8Array))
          const [s, decoded] = [own[2] as Point, group.decode(expected[2] as Uint8Array)]
          expect(group.equals(decoded as Point, s)).toBe(true)
          expect(hex(unwritten(decoded as Point))).toBe(hex(s))
          expect(group.equals(s, p)).toBe(false)
          expect(group.isIdentity(s)).toBe(false)
          expect(group.isIdentity(group.add(s, group.negate(s)))).toBe(true)
        })
      },
    )

    test.each([1, 2, 3, 4])(
      'sums, doubles, negatives, multiples, bytes of random points, against BigInt, %i of 4',
      () => {
        let last: Point = times(randomScalar())
        for (let i = 0; i < RANDOM; i++) {
          const k = randomScalar()
          const p = group.add(group.add(last, last), times(k))
          const product = group.multiply(p, inBytes(k))
          const own = [p, group.add(p, last), group.add(p, p), group.negate(p), product]
          const bytes = own.map(point => group.encode(point))
          const expected = slow.results(bytes[0] as Uint8Array, group.encode(last), k)
          expect(bytes.map(toHex)).toEqual(expected.map(toHex))
          last = p
        }
      },
    )

    // A root is what decoding finds for y: here y is known from a sum. S doubled and added gives points all over the group.
    test('roots and subgroup checks, by decoding: points of the group, others of the curve, any x', () => {
      const s = randomScalar()
      let [member, own] = [Q, one]
      const [S, ownS] = [Q.multiplyUnsafe(s), times(s)]
      // iW, and q·iW, which is not the identity: then iW and what is added to it lie outside.
      let [beside, apart] = [noble.ZERO, noble.ZERO]
      const qW = multiple(outside, noble.ZERO, ORDER)
      let [wrong, inGroup] = [0, 0]
      for (let left = ROOTS; left > 0; left -= 100) {
        const rows = Array.from({ length: 100 }, () => {
          member = member.double().add(S)
          own = group.add(group.add(own, own), ownS)
          beside = beside.add(outside)
          apart = apart.add(qW)
          if (apart.is0()) inGroup++
          return { own, points: [member, beside.add(member)] }
        })
        const bytes = affine(rows.flatMap(({ points }) => points)).map(p => written(p.toAffine()))
        rows.forEach((row, i) => {
          const [inside, off] = bytes.slice(2 * i, 2 * i + 2) as [Uint8Array, Uint8Array]
          const decoded = group.decode(inside)
          const opposite = group.decode(inside.slice().fill((inside[0] as number) ^ 0x20, 0, 1))
          if (decoded === null || !group.equals(decoded, row.own)) wrong++
          if (opposite === null || !group.equals(group.negate(opposite), row.own)) wrong++
          if (group.decode(off) !== null) wrong++
          if (group.decode(atX().bytes) !== null) wrong++
        })
      }
      expect([wrong, inGroup]).toEqual([0, 0])
      // Of such x about half have a root.
      const some = Array.from({ length: 200 }, atX)
      const rooted = some.filter(one => one.hasPoints()).length
      expect(rooted).toBeGreaterThan(50)
      expect(rooted).toBeLessThan(150)
      for (const { bytes } of some) expect(group.decode(bytes)).toBe(null)
    })

    test('decoding takes what noble takes, and nothing else', () => {
      let taken = 0
      const agree = (bytes: Uint8Array): void => {
        let expected: string | null
        try {
          const point = noble.fromBytes(bytes)
          point.assertValidity()
          expected = toHex(point.is0() ? noble.ZERO.toBytes() : point.toBytes())
        } catch {
          expected = null
        }
        const point = group.decode(bytes)
        expect(point && hex(unwritten(point))).toBe(expected)
        if (point !== null) taken++
      }
      for (let i = 0; i < 200 * MANY; i++) {
        const good = group.encode(times(randomScalar()))
        agree(good)
        const at = Number(random(16)) % (8 * group.size)
        const flipped = good.slice()
        flipped[at >> 3] = (flipped[at >> 3] as number) ^ (0x80 >> (at & 7))
        agree(flipped)
        // Each of the flags, on a point, on zero and on p.
        const flags = (i % 8) << 5
        const modulus = new Uint8Array(group.size)
        modulus.set(g1Bytes({ x: P, y: 0n }))
        for (const bytes of [good, new Uint8Array(group.size), modulus])
          agree(bytes.slice().fill(((bytes[0] as number) & 0x1f) | flags, 0, 1))
      }
      // The points, and a quarter of those with other flags; the identity for one of eight.
      expect(taken).toBeGreaterThanOrEqual(200 * MANY * 1.3)
    })

    test('hashes of messages of many lengths under many tags, against noble', () => {
      const bytes = seeded(`hashes to ${name}`)
      const tags = [1, 16, 43, 64, 255, 256, 300].map(bytes)
      // Around the ends of SHA-256's blocks, too.
      const lengths = [0, 1, 31, 32, 55, 56, 63, 64, 65, 119, 120, 127, 128, 129, 1000]
      for (let i = 0; i < 1_000 * MANY; i++) {
        const tag = tags[i % tags.length] as Uint8Array
        const message = bytes(i % 2 ? (lengths[i % lengths.length] as number) : i)
        const expected = hasher.hashToCurve(message, { DST: tag }) as NoblePoint
        expect(hex(hash(message, tag))).toBe(toHex(expected.toBytes()))
        const other = hasher.encodeToCurve(message, { DST: tag }) as NoblePoint
        expect(hex(encodeTo(message, tag))).toBe(toHex(other.toBytes()))
      }
    })

    test('the identity, equal and opposite points in every place', () => {
      const p = times(randomScalar())
      const O = group.identity
      const sames: readonly (readonly [Point, Point])[] = [
        [group.add(p, O), p],
        [group.add(O, p), p],
        [group.add(O, O), O],
        [group.add(p, p), group.multiply(p, inBytes(2n))],
        [group.add(p, group.negate(p)), O],
        [group.negate(O), O],
        [group.multiply(O, inBytes(5n)), O],
        [group.multiply(p, inBytes(0n)), O],
        [group.add(group.add(p, p), group.negate(p)), p],
      ]
      for (const [x, y] of sames) expect(group.equals(x, y)).toBe(true)
      expect(group.equals(p, O)).toBe(false)
      expect(group.equals(O, p)).toBe(false)
      expect(group.equals(p, group.negate(p))).toBe(false)
      expect(hex(O)).toBe(`c0${'00'.repeat(group.size - 1)}`)
    })

    test('sums of products: none, zeros, ones, equal and opposite points', () => {
      const p = times(7n)
      expect(group.isIdentity(group.sumOfProducts([], []))).toBe(true)
      expect(group.isIdentity(group.sumOfProducts([p], [inBytes(0n)]))).toBe(true)
      expect(group.isIdentity(group.sumOfProducts([p, group.negate(p)], [inBytes(9n), inBytes(9n)]))).toBe(
        true,
      )
      expect(hex(group.sumOfProducts([p, p, group.identity], [1n, ORDER - 2n, 3n].map(inBytes)))).toBe(
        bytesOf(ORDER - 7n),
      )
      const scalars = [
        0n,
        1n,
        ORDER - 1n,
        ...Array.from({ length: 29 }, (_, i) => (i % 2 ? randomScalar() : random(128))),
      ]
      const points = scalars.map((_, i) => times(BigInt(i + 1)))
      const expected = scalars.reduce((total, k, i) => mod(total + k * BigInt(i + 1), ORDER), 0n)
      expect(hex(group.sumOfProducts(points, scalars.map(inBytes)))).toBe(bytesOf(expected))
      expect(() => group.sumOfProducts([p], [])).toThrow(RangeError)
    })

    test('a thousand sums of one to eight products, against noble', () => {
      const multiples = Array.from({ length: 16 }, randomScalar)
      const points = multiples.map(m => group.decode(Q.multiplyUnsafe(m).toBytes()) as Point)
      for (let i = 0; i < 1_000 * MANY; i++) {
        const at = Array.from({ length: 1 + (i % 8) }, () => Number(random(4)))
        const scalars = at.map(randomScalar)
        const total = at.reduce((sum, a, j) => sum + (multiples[a] as bigint) * (scalars[j] as bigint), 0n)
        const own = group.sumOfProducts(
          at.map(a => points[a] as Point),
          scalars.map(inBytes),
        )
        expect(hex(own)).toBe(bytesOf(mod(total, ORDER)))
      }
    })

    test.each([0, 1, 2, 3, 17, 32, 64, 100, 130])(
      'a sum of %i products: random, repeated, opposite, zeros, identities, against noble',
      size => {
        const terms: { k: bigint; point: NoblePoint }[] = []
        for (let i = 0; i < size; i++) {
          const before = terms[Number(random(16)) % Math.max(i, 1)]
          const fresh = {
            k: i % 5 === 4 ? random(64) : randomScalar(),
            point: Q.multiplyUnsafe(randomScalar()),
          }
          terms.push(
            [
              fresh,
              { k: 0n, point: fresh.point },
              { k: fresh.k, point: noble.ZERO },
              before ?? fresh,
              { ...fresh, point: before?.point ?? fresh.point },
              { k: before?.k ?? 1n, point: (before?.point ?? fresh.point).negate() },
              { ...fresh, k: ORDER - 1n },
              { ...fresh, k: 1n },
            ][i < 2 ? 0 : Number(random(4)) % 8] as (typeof terms)[number],
          )
        }
        const points = terms.map(({ point }) => (point.is0() ? noble.ZERO : point))
        const sum = (
          size === 0
            ? noble.ZERO
            : pippenger(
                noble as never,
                points as never,
                terms.map(({ k }) => k),
              )
        ) as NoblePoint
        const own = group.sumOfProducts(
          points.map(point => group.decode(point.toBytes()) as Point),
          terms.map(({ k }) => inBytes(k)),
        )
        expect(hex(own)).toBe(toHex((sum.is0() ? noble.ZERO : sum).toBytes()))
      },
    )

    test('bytes that are no point of the group', () => {
      const good = group.encode(times(11n))
      const withFirst = (bytes: Uint8Array, first: number): Uint8Array => bytes.slice().fill(first, 0, 1)
      const pBytes = Uint8Array.from({ length: 48 }, (_, i) => Number((P >> BigInt(8 * (47 - i))) & 255n))
      const x = new Uint8Array(group.size)
      x.set(pBytes)
      const refused = [
        good.slice(1),
        withFirst(good, (good[0] as number) & 0x7f),
        withFirst(good, (good[0] as number) | 0x40),
        withFirst(x, (x[0] as number) | 0x80),
        withFirst(new Uint8Array(group.size).fill(0xff), 0x9f),
        withFirst(new Uint8Array(group.size), 0xe0),
        new Uint8Array(group.size),
      ]
      for (const bytes of refused) expect(group.decode(bytes)).toBe(null)
      // x = 0, 1, 2, …: off the curve, or on it and outside of the group.
      let points = 0
      for (let i = 0; i < 40; i++) {
        const bytes = new Uint8Array(group.size).fill(0x80, 0, 1).fill(i, group.size - 1)
        expect(group.decode(bytes)).toBe(null)
        if (onCurve(BigInt(i))) points++
      }
      expect(points).toBeGreaterThan(5)
    })
  })
}

type Sum<Own> = { add(other: Own): Own; double(): Own }
/** By bits: noble's own multiplications are for the group. */
function multiple<Own extends Sum<Own>>(point: Own, zero: Own, k: bigint): Own {
  let sum = zero
  for (const bit of k.toString(2)) {
    sum = sum.double()
    if (bit === '1') sum = sum.add(point)
  }
  return sum
}
/** `order` without what divides it of `prime`. */
function without(prime: bigint, order: bigint): bigint {
  expect(order % prime).toBe(0n)
  let rest = order
  while (rest % prime === 0n) rest /= prime
  return rest
}

test('points of each small order in E(Fp) are refused', () => {
  const { Point } = bls12_381.G1
  // #E(Fp) = q·(t − 1)²/3 with t − 1 = −3·11·10177·859267·52437899: what is left of a point of the curve by the rest.
  const order = (ORDER * (T + 1n) ** 2n) / 3n
  for (const prime of [3n, 11n, 10177n, 859267n, 52437899n]) {
    const rest = without(prime, order)
    let found = 0
    for (let i = 1; i < 60 && found < 3; i++) {
      const y = yAt(BigInt(i))
      if (y === undefined) continue
      const small = multiple(Point.fromAffine({ x: BigInt(i), y }), Point.ZERO, rest)
      if (small.is0()) continue
      found++
      for (const point of [small, small.negate(), small.add(Point.BASE), Point.BASE.subtract(small)]) {
        expect(engineG1.decode(g1Bytes(point.toAffine()))).toBe(null)
      }
    }
    expect(found).toBe(3)
  }
})

test('points of each small order in E’(Fp2) are refused', () => {
  const { Point } = bls12_381.G2
  // #E'(Fp2) = q·h with h = (t⁸ − 4t⁷ + 5t⁶ − 4t⁴ + 6t³ − 4t² − 4t + 13)/9 = 13²·23²·2713·11953·262069·(a prime).
  const t = -T
  const h =
    (t ** 8n - 4n * t ** 7n + 5n * t ** 6n - 4n * t ** 4n + 6n * t ** 3n - 4n * t ** 2n - 4n * t + 13n) / 9n
  for (const prime of [13n, 23n, 2713n, 11953n, 262069n]) {
    const rest = without(prime, ORDER * h)
    let found = 0
    for (let i = 1n; i < 60n && found < 2; i++) {
      const start = g2AtX(fp2(i, 1n), true)
      if (start === null) continue
      const point = new Point(Fp2.create(start.x), Fp2.create(start.y), Fp2.ONE)
      const small = multiple(point, Point.ZERO, rest)
      if (small.is0()) continue
      found++
      for (const wrong of [small, small.negate(), small.add(Point.BASE), Point.BASE.subtract(small)]) {
        expect(engineG2.decode(g2Bytes(wrong.toAffine()))).toBe(null)
      }
    }
    expect(found).toBe(2)
  }
})

describe('pairings', () => {
  const [P1, Q] = [engineG1.generator, engineG2.generator]
  const hex = (value: Each<KernelGT>): string => toHex(kernels.bytesOfGT(value))

  test('noble’s values', () => {
    for (let i = 0; i < 100 * MANY; i++) {
      const [a, b] = [randomScalar(), randomScalar()]
      const value = bls12_381.pairing(
        bls12_381.G1.Point.BASE.multiplyUnsafe(a),
        bls12_381.G2.Point.BASE.multiplyUnsafe(b),
      )
      const own = kernels.pairingProduct([
        [engineG1.multiply(P1, inBytes(a)), engineG2.multiply(Q, inBytes(b))],
      ])
      expect(hex(own)).toBe(toHex(bls12_381.fields.Fp12.toBytes(value)))
    }
  })

  test('bilinear, one where it must be and nowhere else, prepared or not', () => {
    for (let i = 0; i < 100 * MANY; i++) {
      const [a, b] = [randomScalar(), randomScalar()]
      const aP = engineG1.multiply(P1, inBytes(a))
      const bQ = kernels.prepareG2(engineG2.multiply(Q, inBytes(b)))
      const minus = engineG1.negate(engineG1.multiply(P1, inBytes(mod(a * b, ORDER))))
      expect(
        kernels.isOneGT(
          kernels.pairingProduct([
            [aP, bQ],
            [minus, Q],
          ]),
        ),
      ).toBe(true)
      expect(
        kernels.isOneGT(
          kernels.pairingProduct([
            [aP, bQ],
            [engineG1.add(minus, P1), Q],
          ]),
        ),
      ).toBe(false)
    }
  })

  test('of none, of identities, of three and four pairs', () => {
    const O = engineG1.identity
    expect(kernels.isOneGT(kernels.pairingProduct([]))).toBe(true)
    expect(
      kernels.isOneGT(
        kernels.pairingProduct([
          [O, Q],
          [P1, engineG2.identity],
        ]),
      ),
    ).toBe(true)
    const multiples = [2n, 3n, 5n, ORDER - 10n].map(k => engineG1.multiply(P1, inBytes(k)))
    const pairs = multiples.map(p => [p, Q] as const)
    expect(kernels.isOneGT(kernels.pairingProduct(pairs))).toBe(true)
    expect(hex(kernels.pairingProduct(pairs.slice(0, 3)))).toBe(
      hex(kernels.pairingProduct([[engineG1.multiply(P1, inBytes(10n)), Q]])),
    )
    const [x, y] = [kernels.pairingProduct([pairs[0]!]), kernels.pairingProduct([pairs[1]!])]
    expect(hex(kernels.divideGT(y, x))).toBe(hex(kernels.pairingProduct([[P1, Q]])))
  })

  test('with the multiple of a hash whose cofactor was left in', () => {
    const dst = new TextEncoder().encode('a domain')
    const lines = kernels.prepareG2(Q)
    const scalars = [...SCALARS, ...Array.from({ length: 100 * MANY }, () => randomScalar())]
    for (const [i, k] of scalars.entries()) {
      const message = Uint8Array.of(i, i >> 8)
      const product = engineG1.multiplyPublic(kernels.hashToG1(message, dst), inBytes(k))
      const P = i % 5 === 0 ? engineG1.identity : engineG1.multiply(P1, inBytes(randomScalar()))
      const [expected, found] = [
        kernels.pairingProduct([[engineG1.add(P, product), Q]]),
        kernels.pairingWithHash(P, inBytes(k), { message, dst }, i % 2 === 0 ? lines : Q),
      ]
      expect(hex(found)).toBe(hex(expected))
      // What is left is of the cofactor's order, or the identity.
      const none = kernels.pairingWithHash(engineG1.negate(product), inBytes(k), { message, dst }, lines)
      expect(kernels.isOneGT(none)).toBe(true)
    }
    const message = dst
    const toIdentity = kernels.pairingWithHash(P1, inBytes(5n), { message, dst }, engineG2.identity)
    expect(kernels.isOneGT(toIdentity)).toBe(true)
  })
})

describe('integers mod q', () => {
  const { addScalars, subtractScalars, multiplyScalars, reduceScalar } = kernels
  const integerOf = (bytes: Uint8Array): bigint => BigInt(`0x${toHex(bytes)}`)
  const edges = [0n, 1n, 2n, 2n ** 32n - 1n, 2n ** 32n, 2n ** 128n, ORDER >> 1n, ORDER - 2n, ORDER - 1n]

  function check(a: bigint, b: bigint): void {
    const [x, y] = [inBytes(a), inBytes(b)]
    expect(integerOf(addScalars(x, y))).toBe((a + b) % ORDER)
    expect(integerOf(subtractScalars(x, y))).toBe(mod(a - b, ORDER))
    expect(integerOf(multiplyScalars(x, y))).toBe((a * b) % ORDER)
  }
  test('sums, differences, products at the edges, and anywhere', () => {
    for (const a of edges) for (const b of edges) check(a, b)
    for (let i = 0; i < 10_000 * MANY; i++) check(randomScalar(), i % 3 ? randomScalar() : random(64))
  })

  test('48 bytes, reduced', () => {
    const wide = (value: bigint): Uint8Array =>
      Uint8Array.from({ length: 48 }, (_, i) => Number((value >> BigInt(8 * (47 - i))) & 255n))
    const multiples = [1n, 2n, 2n ** 128n, 2n ** 384n / ORDER].flatMap(k => [
      k * ORDER - 1n,
      k * ORDER,
      k * ORDER + 1n,
    ])
    for (const value of [...edges, ...multiples, 2n ** 256n - 1n, 2n ** 256n, 2n ** 384n - 1n])
      expect(integerOf(reduceScalar(wide(value)))).toBe(value % ORDER)
    for (let i = 0; i < 10_000 * MANY; i++) {
      const value = random(384)
      expect(integerOf(reduceScalar(wide(value)))).toBe(value % ORDER)
    }
  })
})

describe.each(NAMES)('%s: nothing of a call is left in a kernel’s memory', name => {
  const { g1, pairings: kernel } = loaded(name)
  const modules = MODULES[name] as FmaKernels
  const { PAIR } = FIELDS[name]
  /** Bytes of a prepared point. */
  const LINES = 68 * 2 * PAIR
  type Loaded = { readonly memory: WebAssembly.Memory; heap(): number; pair(): number }
  /** What `load` gives, with the memories of the kernels that it has loaded. */
  function watched<T>(load: () => T): { readonly loaded: T; readonly memories: Loaded[] } {
    const memories: Loaded[] = []
    const { Instance } = WebAssembly
    WebAssembly.Instance = class extends Instance {
      constructor(module: WebAssembly.Module) {
        super(module)
        memories.push(this.exports as unknown as Loaded)
      }
    }
    try {
      return { loaded: load(), memories }
    } finally {
      WebAssembly.Instance = Instance
    }
  }
  const first = watched(() => loadKernelG1(name === 'fma' ? FMA : null) as KernelG1)
  const second = watched(() => loadKernelPairing(first.loaded))
  const [own, pairs] = [first.loaded, second.loaded]
  test('it is that kernel', () => {
    expect([first, second].map(({ memories }) => memories.map(kernel => kernel.pair()))).toEqual([
      [PAIR],
      [PAIR],
    ])
  })
  const k = inBytes(randomScalar())
  const P1 = g1.engineG1.multiply(g1.engineG1.generator, k)
  const Q = kernel.engineG2.multiply(kernel.engineG2.generator, k)
  const lines = kernel.prepareG2(Q)
  const value = kernel.pairingProduct([[P1, lines]])
  const message = new TextEncoder().encode('a name')

  /** The memory of a kernel that nothing has been asked of. */
  function untouched(bytes: Uint8Array): Uint8Array {
    const module = new WebAssembly.Module(Uint8Array.from(bytes))
    return new Uint8Array((new WebAssembly.Instance(module).exports as unknown as Loaded).memory.buffer)
  }
  const clean = { g1: untouched(modules.g1()), pairing: untouched(modules.pairing()) }
  const memoryOf = (which: keyof typeof clean): Loaded =>
    (which === 'g1' ? first.memories : second.memories)[0] as Loaded
  /** Where bytes differ from those of an untouched kernel, but for lines that stay; what has been grown must be zero. */
  function traces(which: keyof typeof clean): number {
    const { memory, heap } = memoryOf(which)
    const bytes = new Uint8Array(memory.buffer).slice()
    if (which === 'pairing') bytes.fill(0, heap(), heap() + PLACES * LINES)
    return bytes.reduce((count, byte, at) => count + (byte === (clean[which][at] ?? 0) ? 0 : 1), 0)
  }
  const unencoded = { ...P1, bytes: undefined }

  test.each([
    ['g1', 'multiply', () => own.engineG1.multiply(P1, k)],
    ['g1', 'add', () => own.engineG1.add(P1, P1)],
    ['g1', 'negate', () => own.engineG1.negate(P1)],
    ['g1', 'equals', () => own.engineG1.equals(P1, P1)],
    ['g1', 'isIdentity', () => own.engineG1.isIdentity(P1)],
    ['g1', 'encode', () => own.engineG1.encode({ ...unencoded })],
    ['g1', 'decode', () => own.engineG1.decode(g1.engineG1.encode(P1))],
    ['g1', 'decode, of no point', () => own.engineG1.decode(new Uint8Array(48).fill(0x9a))],
    ['g1', 'hash', () => own.hashToG1(message, message)],
    // A device key is a sum of shares, which are as secret.
    ['g1', 'sum of products', () => own.engineG1.sumOfProducts([P1, P1, P1], [k, k, k])],
    ['g1', 'public multiple', () => own.engineG1.multiplyPublic(P1, k)],
    ['g1', 'addScalars', () => own.addScalars(k, k)],
    ['g1', 'subtractScalars', () => own.subtractScalars(k, k)],
    ['g1', 'multiplyScalars', () => own.multiplyScalars(k, k)],
    ['g1', 'reduceScalar', () => own.reduceScalar(new Uint8Array(48).fill(7))],
    ['pairing', 'multiply', () => pairs.engineG2.multiply(Q, k)],
    ['pairing', 'add', () => pairs.engineG2.add(Q, Q)],
    ['pairing', 'negate', () => pairs.engineG2.negate(Q)],
    ['pairing', 'equals', () => pairs.engineG2.equals(Q, Q)],
    ['pairing', 'isIdentity', () => pairs.engineG2.isIdentity(Q)],
    ['pairing', 'encode', () => pairs.engineG2.encode({ ...Q, bytes: undefined })],
    ['pairing', 'decode', () => pairs.engineG2.decode(kernel.engineG2.encode(Q))],
    ['pairing', 'prepare', () => pairs.prepareG2(Q)],
    ['pairing', 'pairing', () => pairs.pairingProduct([[P1, Q]])],
    ['pairing', 'pairing, prepared', () => pairs.pairingProduct([[P1, lines]])],
    ['pairing', 'pairing with a hash', () => pairs.pairingWithHash(P1, k, { message, dst: message }, lines)],
    ['g1', 'pairing with a hash', () => pairs.pairingWithHash(P1, k, { message, dst: message }, lines)],
    ['pairing', 'divide', () => pairs.divideGT(value, value)],
    ['pairing', 'isOne', () => pairs.isOneGT(value)],
    ['pairing', 'bytes', () => pairs.bytesOfGT(value)],
    ['pairing', 'hash', () => pairs.hashToG2(message, message)],
  ] as const)('%s: %s', (which, _, run) => {
    run()
    expect(traces(which)).toBe(0)
  })

  describe('but lines of prepared points, which stay', () => {
    /** Whose lines are in the kernel, in order; ? is somebody's. */
    const staying = (known: readonly KernelLines[]): string => {
      const { memory, heap } = memoryOf('pairing')
      const places = Array.from({ length: PLACES }, (_, i) =>
        new Uint8Array(memory.buffer).slice(heap() + i * LINES, heap() + (i + 1) * LINES),
      )
      const names = places.map(place => {
        const which = known.findIndex(({ lines }) => lines !== null && Buffer.compare(lines, place) === 0)
        return which >= 0 ? String(which) : place.every(byte => byte === 0) ? '' : '?'
      })
      return names
        .filter(name => name !== '')
        .sort((a, b) => Number(a) - Number(b))
        .join(' ')
    }
    const range = (from: number, to: number): string =>
      Array.from({ length: to - from }, (_, i) => from + i).join(' ')
    const prepared = (count: number): KernelLines[] =>
      Array.from({ length: count }, (_, i) =>
        pairs.prepareG2(kernel.engineG2.multiply(Q, inBytes(BigInt(i + 2)))),
      )
    /** Π e(P1, (i + 2)Q) is e((Σ i + 2)P1, Q). */
    const holds = (keys: readonly KernelLines[], from = 0): boolean => {
      const sum = keys.reduce((total, _, i) => total + BigInt(from + i + 2), 0n)
      const value = pairs.pairingProduct(keys.map(key => [P1, key] as const))
      const expected = kernel.pairingProduct([[g1.engineG1.multiply(P1, inBytes(sum)), Q]])
      return toHex(pairs.bytesOfGT(value)) === toHex(kernel.bytesOfGT(expected))
    }

    test('from their first product on, until others are used and theirs is the oldest use', () => {
      const keys = prepared(PLACES + 4)
      const before = staying(keys)
      expect(before).not.toMatch(/\d/)
      expect(holds(keys.slice(0, PLACES))).toBe(true)
      expect(staying(keys)).toBe(range(0, PLACES))
      expect(holds(keys.slice(0, 2))).toBe(true)
      expect(holds(keys.slice(PLACES, PLACES + 1), PLACES)).toBe(true)
      // The third went.
      expect(staying(keys)).toBe(`0 1 ${range(3, PLACES + 1)}`)
      // More than there are places for: some come in for this one product.
      expect(holds(keys)).toBe(true)
      expect(staying(keys).split(' ')).toHaveLength(PLACES)
      for (const [i, key] of keys.entries()) expect(holds([key], i)).toBe(true)
      expect(staying(keys)).toBe(range(4, PLACES + 4))
      expect(traces('pairing')).toBe(0)
    })

    test('a product of a point that isn’t prepared leaves none, nor does the identity', () => {
      const keys = prepared(1)
      expect(holds(keys)).toBe(true)
      const before = staying(keys)
      pairs.pairingProduct([
        [P1, kernel.engineG2.multiply(Q, k)],
        [P1, pairs.prepareG2(kernel.engineG2.identity)],
      ])
      expect(staying(keys)).toBe(before)
    })

    test('what nobody has any more is overwritten', async () => {
      setFlagsFromString('--expose-gc')
      const collect = runInNewContext('gc') as () => void
      let bytes: Uint8Array[] = []
      // In a function of its own, so that nothing here holds them.
      const use = () => {
        const keys = prepared(PLACES)
        expect(holds(keys)).toBe(true)
        bytes = keys.map(({ lines }) => (lines as Uint8Array).slice())
      }
      use()
      const copies = bytes.map(lines => ({ lines }))
      expect(staying(copies)).toBe(range(0, PLACES))
      await expect
        .poll(() => {
          collect()
          return staying(copies)
        })
        .toBe('')
      const [key] = prepared(1)
      expect(holds([key as KernelLines])).toBe(true)
      expect(staying([key as KernelLines])).toBe('0')
    })
  })

  test('and there would be', () => {
    const { raw, setLimbs, LIMBS, A, B, C } = rawOf(name, modules.g1())
    for (const address of [A, B])
      setLimbs(
        address,
        Array.from({ length: 2 * LIMBS }, () => 5n),
      )
    const before = new Uint8Array(raw.memory.buffer).slice(0, raw.heap())
    raw.multiply(C, A, B)
    raw.invert(C, A, B)
    const after = new Uint8Array(raw.memory.buffer)
    expect(before.some((byte, at) => byte !== after[at])).toBe(true)
  })
})

test('kernels that differ are found', () => {
  const [P1, Q] = [engineG1.generator, engineG1.add(engineG1.generator, engineG1.generator)]
  const mixed = [P1[0], Q[1]] as Point
  expect(agreed([true, true])).toBe(true)
  expect(() => agreed([new Uint8Array(1), new Uint8Array(2)])).toThrow('simd')
  if (HAS_FMA)
    for (const differ of [
      () => engineG1.encode(mixed),
      () => engineG1.equals(mixed, P1),
      () => kernels.bytesOfGT(kernels.pairingProduct([[mixed, engineG2.generator]])),
    ])
      expect(differ).toThrow('simd,fma: ')
})

describe('the kernel with FMA is taken where it is right, and nowhere else', () => {
  const isFma = (kernels: FmaKernels | null): boolean => {
    const kernel = loadKernelG1(kernels)
    if ('why' in kernel) throw new Error(kernel.why)
    const ten = Scalar.fromNumber(10).encode()
    const { generator, multiply, multiplyPublic, encode } = kernel.engineG1
    expect(encode(multiply(generator, ten))).toEqual(encode(multiplyPublic(generator, ten)))
    return kernel.fma !== null
  }
  /** A kernel that says this of the processor. */
  const saying = async (answer: string): Promise<FmaKernels> => {
    const bytes = await buildModule({
      main: 'main-saying.ts',
      field: 'simd',
      areVectorsRolled: true,
      source: `export * from './main-g1'\n${answer}`,
    })
    return { ...FMA, g1: () => bytes }
  }

  test('by a processor that has it, under Node 20 with its flag', () => {
    expect(isFma(FMA)).toBe(HAS_FMA)
    expect(isFma(null)).toBe(false)
    expect(NAMES).toEqual(HAS_FMA ? ['simd', 'fma'] : ['simd'])
  })

  test('not where a product is rounded before it is added, nor where nothing says so', async () => {
    expect(isFma(await saying('export function isFused(): i32 { return 1 }'))).toBe(true)
    expect(isFma(await saying('export function isFused(): i32 { return 0 }'))).toBe(false)
    expect(isFma(await saying(''))).toBe(false)
  })

  test('not where its module is none', () => {
    for (const bytes of [new Uint8Array(), FMA.g1().slice(0, 1000), new Uint8Array(100)])
      expect(isFma({ ...FMA, g1: () => bytes })).toBe(false)
  })
})
