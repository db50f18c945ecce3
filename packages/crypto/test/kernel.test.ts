/**
 * The kernel against BigInt and noble: every operation of Fp and Fp2 on random values and at the extremes, the groups with
 * all their edges, pairings. `npm run test:long` takes ten times as many cases.
 */
import { toHex } from '@milagro-ts/crypto/bytes'
import { ORDER } from '@milagro-ts/crypto/curve'
import { type KernelG1, type KernelPoint, loadKernelG1 } from '@milagro-ts/crypto/kernel'
import { KERNEL_G1 } from '@milagro-ts/crypto/kernel-g1-wasm'
import { loadKernelPairing } from '@milagro-ts/crypto/kernel-pairing'
import { KERNEL_PAIRING } from '@milagro-ts/crypto/kernel-pairing-wasm'
import { moduleBytes } from '@milagro-ts/crypto/module-text'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { bls12_381 } from '@noble/curves/bls12-381.js'
import { describe, expect, test } from 'vitest'
import { LIMBS, P, R } from '../kernel/generate-field.mjs'
import { fp2, g2AtX, g2Bytes } from './bigint-twin.js'

/** Ten times as many in the campaigns; a tenth under another Node than the one that has counted them all. */
const MANY = process.env.MILAGRO_LONG === '1' ? 10 : process.env.MILAGRO_BRIEF === '1' ? 0.1 : 1
const g1 = loadKernelG1() as KernelG1
const kernel = loadKernelPairing(g1)
const { engineG1 } = g1
const { engineG2 } = kernel

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
function rawOf(text: string) {
  const module = new WebAssembly.Module(Uint8Array.from(moduleBytes(text)))
  const raw = new WebAssembly.Instance(module).exports as unknown as {
    memory: WebAssembly.Memory
    heap(): number
  } & Record<Name, Operation>
  const [A, B, C, D] = [0, 1, 2, 3].map(i => raw.heap() + 128 * i) as [number, number, number, number]
  const limbs = new Int32Array(raw.memory.buffer)
  return {
    raw,
    limbs,
    A,
    B,
    C,
    D,
    /** Limbs of 28 bits each, whatever the value: [0, 2³⁹²). */
    put(at: number, [x, y]: Pair): void {
      for (let i = 0; i < LIMBS; i++) {
        limbs[at / 4 + 2 * i] = Number(BigInt.asUintN(28, x >> BigInt(28 * i)))
        limbs[at / 4 + 2 * i + 1] = Number(BigInt.asUintN(28, y >> BigInt(28 * i)))
      }
    },
    get(at: number): Pair {
      const values: [bigint, bigint] = [0n, 0n]
      for (let i = LIMBS - 1; i >= 0; i--) {
        for (const lane of [0, 1] as const)
          values[lane] = values[lane] * 2n ** 28n + BigInt(limbs[at / 4 + 2 * i + lane] as number)
      }
      return values
    },
  }
}
type Pair = readonly [bigint, bigint]
const KERNELS = { G1: rawOf(KERNEL_G1), pairing: rawOf(KERNEL_PAIRING) }
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
const takesTwo = (name: Name): boolean => name === 'add' || name === 'sub' || name.startsWith('multiply')
describe('the field', () => {
  test.each(OPERATIONS)('in the kernel of %s: %s', (which, name, expected) => {
    const { raw, put, get, A, B, C } = KERNELS[which]
    let wrong = 0
    for (const [a, b] of cases(100_000 * MANY)) {
      put(A, a)
      put(B, b)
      if (takesTwo(name)) raw[name](C, A, B)
      else (raw[name] as (r: number, a: number) => void)(C, A)
      const [x, y] = reducedPair(get(C))
      const [ex, ey] = expected(a, b)
      if (x !== ex || y !== ey) wrong++
    }
    expect(wrong).toBe(0)
  })

  test.each([
    ['G1', 'multiply'],
    ['G1', 'square'],
    ['pairing', 'multiply'],
    ['pairing', 'multiply2'],
  ] as const)('in the kernel of %s, results of %s are below 1½p in size and tight', (which, name) => {
    const { raw, limbs, put, get, A, B, C } = KERNELS[which]
    for (const [a, b] of cases(2_000)) {
      put(A, a)
      put(B, b)
      raw[name](C, A, B)
      for (const x of get(C)) expect(2n * (x < 0n ? -x : x) < 3n * P).toBe(true)
      for (let i = 0; i < 2 * LIMBS; i++)
        expect(Math.abs(limbs[C / 4 + i] as number)).toBeLessThanOrEqual(2 ** 27)
    }
  })

  test.each(['G1', 'pairing'] as const)(
    'in the kernel of %s, canonical values of everything between −2⁹p and 2⁹p that has limbs',
    which => {
      const { raw, limbs, put, A, B, C, D } = KERNELS[which]
      for (const [[x, y]] of cases(2_000)) {
        put(A, [x, y])
        put(B, [y, x])
        raw.sub(C, A, B)
        for (const lane of [0, 1]) {
          raw.canonical(D, C, lane)
          let value = 0n
          for (let i = LIMBS - 1; i >= 0; i--) value = value * 2n ** 28n + BigInt(limbs[D / 4 + i] as number)
          expect(value).toBe(mod((lane === 0 ? x - y : y - x) * inverseOfR))
        }
      }
    },
  )

  test.each([
    ['G1', 100_000],
    ['pairing', 10_000],
  ] as const)('inverses in Fp, in the kernel of %s, %i', (which, count) => {
    const { raw, put, get, A, B, C } = KERNELS[which]
    const one = R % P
    let wrong = 0
    for (const [a] of cases(count * MANY)) {
      put(A, a)
      raw.invert(B, A, 0)
      put(C, [a[0], a[0]])
      raw.multiply(C, C, B)
      const expected = mod(a[0]) === 0n ? 0n : one
      const [x, y] = reducedPair(get(C))
      if (x !== expected || y !== expected) wrong++
    }
    expect(wrong).toBe(0)
  })

  test('inverses in Fp2', () => {
    const { raw, put, get, A, B, C } = KERNELS.pairing
    const one = R % P
    let wrong = 0
    for (const [a] of cases(100_000 * MANY)) {
      put(A, a)
      ;(raw.invert2 as (r: number, a: number) => void)(B, A)
      raw.multiply2(C, A, B)
      const [x, y] = reducedPair(get(C))
      if (x !== (mod(a[0]) === 0n && mod(a[1]) === 0n ? 0n : one) || y !== 0n) wrong++
    }
    expect(wrong).toBe(0)
  })
})

const { Fp, Fp2 } = bls12_381.fields
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

for (const [name, group, noble, count, onCurve] of [
  ['G1', engineG1, bls12_381.G1.Point, 1000, (x: bigint) => yAt(x) !== undefined],
  ['G2', engineG2, bls12_381.G2.Point, 1000, isOnTwist],
] as const) {
  describe(name, () => {
    type NoblePoint = { toBytes(): Uint8Array; multiplyUnsafe(k: bigint): NoblePoint }
    const Q = noble.BASE as unknown as NoblePoint
    const bytesOf = (k: bigint): string =>
      toHex(k === 0n ? noble.ZERO.toBytes() : Q.multiplyUnsafe(k).toBytes())
    const hex = (p: KernelPoint): string => toHex(group.encode(p))
    const times = (k: bigint): KernelPoint => group.multiply(group.generator, inBytes(k))
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
          return { part, point: part % ORDER === 0n ? group.identity : (group.decode(bytes) as KernelPoint) }
        }),
      )
      let sums = [{ part: 0n, point: group.identity }]
      for (const digit of parts)
        sums = sums.flatMap(a =>
          digit.map(b => ({ part: a.part + b.part, point: group.add(a.point, b.point) })),
        )
      const scalars = sums.filter(({ part }) => part < ORDER)
      expect(scalars.length).toBeGreaterThan(200)
      for (const { part, point } of scalars) expect(group.equals(times(part), point)).toBe(true)
      let sum = group.identity
      for (let k = 0n; k < 70n; k++, sum = group.add(sum, one)) expect(group.equals(times(k), sum)).toBe(true)
    })

    test('sums, multiples, signs, bytes of random points', () => {
      for (let i = 0; i < count * MANY; i++) {
        const [a, b] = [randomScalar(), randomScalar()]
        const [p, q] = [times(a), times(b)]
        const s = group.add(p, q)
        expect(group.equals(s, times((a + b) % ORDER))).toBe(true)
        expect(group.equals(s, p)).toBe(false)
        expect(group.equals(group.multiplyPublic(p, inBytes(b)), group.multiply(q, inBytes(a)))).toBe(true)
        expect(group.isIdentity(group.add(s, group.negate(s)))).toBe(true)
        if (i % 10 === 0) {
          expect(hex(s)).toBe(bytesOf((a + b) % ORDER))
          expect(group.equals(group.decode(group.encode(s)) as KernelPoint, s)).toBe(true)
        }
      }
    })

    test('the identity, equal and opposite points in every place', () => {
      const p = times(randomScalar())
      const O = group.identity
      const sames: readonly (readonly [KernelPoint, KernelPoint])[] = [
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

type Sum<Point> = { add(other: Point): Point; double(): Point }
/** By bits: noble's own multiplications are for the group. */
function multiple<Point extends Sum<Point>>(point: Point, zero: Point, k: bigint): Point {
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
        expect(engineG1.decode(compressed(point.toAffine()))).toBe(null)
      }
    }
    expect(found).toBe(3)
  }
  /** noble writes points of the group only. */
  function compressed({ x, y }: { x: bigint; y: bigint }): Uint8Array {
    const bytes = Uint8Array.from({ length: 48 }, (_, i) => Number((x >> BigInt(8 * (47 - i))) & 255n))
    bytes[0] = (bytes[0] as number) | (2n * y > P ? 0xa0 : 0x80)
    return bytes
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
  const hex = (value: ReturnType<typeof kernel.pairingProduct>): string => toHex(kernel.bytesOfGT(value))

  test('noble’s values', () => {
    for (let i = 0; i < 100 * MANY; i++) {
      const [a, b] = [randomScalar(), randomScalar()]
      const value = bls12_381.pairing(
        bls12_381.G1.Point.BASE.multiplyUnsafe(a),
        bls12_381.G2.Point.BASE.multiplyUnsafe(b),
      )
      const own = kernel.pairingProduct([
        [engineG1.multiply(P1, inBytes(a)), engineG2.multiply(Q, inBytes(b))],
      ])
      expect(hex(own)).toBe(toHex(bls12_381.fields.Fp12.toBytes(value)))
    }
  })

  test('bilinear, one where it must be and nowhere else, prepared or not', () => {
    for (let i = 0; i < 100 * MANY; i++) {
      const [a, b] = [randomScalar(), randomScalar()]
      const aP = engineG1.multiply(P1, inBytes(a))
      const bQ = kernel.prepareG2(engineG2.multiply(Q, inBytes(b)))
      const minus = engineG1.negate(engineG1.multiply(P1, inBytes(mod(a * b, ORDER))))
      expect(
        kernel.isOneGT(
          kernel.pairingProduct([
            [aP, bQ],
            [minus, Q],
          ]),
        ),
      ).toBe(true)
      expect(
        kernel.isOneGT(
          kernel.pairingProduct([
            [aP, bQ],
            [engineG1.add(minus, P1), Q],
          ]),
        ),
      ).toBe(false)
    }
  })

  test('of none, of identities, of three and four pairs', () => {
    const O = engineG1.identity
    expect(kernel.isOneGT(kernel.pairingProduct([]))).toBe(true)
    expect(
      kernel.isOneGT(
        kernel.pairingProduct([
          [O, Q],
          [P1, engineG2.identity],
        ]),
      ),
    ).toBe(true)
    const multiples = [2n, 3n, 5n, ORDER - 10n].map(k => engineG1.multiply(P1, inBytes(k)))
    const pairs = multiples.map(p => [p, Q] as const)
    expect(kernel.isOneGT(kernel.pairingProduct(pairs))).toBe(true)
    expect(hex(kernel.pairingProduct(pairs.slice(0, 3)))).toBe(
      hex(kernel.pairingProduct([[engineG1.multiply(P1, inBytes(10n)), Q]])),
    )
    const [x, y] = [kernel.pairingProduct([pairs[0]!]), kernel.pairingProduct([pairs[1]!])]
    expect(hex(kernel.divideGT(y, x))).toBe(hex(kernel.pairingProduct([[P1, Q]])))
  })
})

describe('integers mod q', () => {
  const { addScalars, subtractScalars, multiplyScalars, reduceScalar } = g1
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

describe('nothing of a call is left in a kernel’s memory', () => {
  type Loaded = { readonly memory: WebAssembly.Memory; heap(): number }
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
  const first = watched(() => loadKernelG1() as KernelG1)
  const second = watched(() => loadKernelPairing(first.loaded))
  const [own, pairs] = [first.loaded, second.loaded]
  const k = inBytes(randomScalar())
  const P1 = g1.engineG1.multiply(g1.engineG1.generator, k)
  const Q = kernel.engineG2.multiply(kernel.engineG2.generator, k)
  const lines = kernel.prepareG2(Q)
  const value = kernel.pairingProduct([[P1, lines]])
  const message = new TextEncoder().encode('a name')

  /** The memory of a kernel that nothing has been asked of. */
  function untouched(text: string): Uint8Array {
    const module = new WebAssembly.Module(Uint8Array.from(moduleBytes(text)))
    return new Uint8Array((new WebAssembly.Instance(module).exports as unknown as Loaded).memory.buffer)
  }
  const clean = { g1: untouched(KERNEL_G1), pairing: untouched(KERNEL_PAIRING) }
  /** Where bytes differ from those of an untouched kernel; what has been grown must be zero. */
  function traces(which: keyof typeof clean): number {
    const [loaded] = which === 'g1' ? first.memories : second.memories
    const bytes = new Uint8Array((loaded as Loaded).memory.buffer)
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
    ['pairing', 'divide', () => pairs.divideGT(value, value)],
    ['pairing', 'isOne', () => pairs.isOneGT(value)],
    ['pairing', 'bytes', () => pairs.bytesOfGT(value)],
    ['pairing', 'hash', () => pairs.hashToG2(message, message)],
  ] as const)('%s: %s', (which, _, run) => {
    run()
    expect(traces(which)).toBe(0)
  })

  test('and there would be', () => {
    const { raw, limbs, A, B, C } = rawOf(KERNEL_G1)
    limbs.fill(5, A / 4, B / 4 + 28)
    const before = new Uint8Array(raw.memory.buffer).slice(0, raw.heap())
    raw.multiply(C, A, B)
    raw.invert(C, A, B)
    const after = new Uint8Array(raw.memory.buffer)
    expect(before.some((byte, at) => byte !== after[at])).toBe(true)
  })
})
