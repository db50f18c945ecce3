/**
 * No column and no limb of the kernels overflows, over either field layer. First the field layer: the generated lines are
 * run on intervals, with the weights that the kernel's sources state, limbs in units of half their base. Then all formulas
 * above it, each from what it may be given to what it must leave, as the files that the kernels are compiled of. Last, that
 * the checker refuses what it should.
 */
import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { FIELDS } from '../kernel/generate-field.mjs'
import { Line, type Operation } from '../kernel/line.mjs'
import { P, R } from '../kernel/prime.mjs'
import {
  around,
  type Bounds,
  boundsOf,
  type Change,
  type Interval,
  interval,
  larger,
  type Machine,
  type Memory,
  SETTLED,
  sizeOf,
} from './kernel-intervals.js'

type Name = keyof typeof FIELDS
const NAMES = Object.keys(FIELDS) as Name[]
const BOUNDS: Readonly<Record<Name, Bounds>> = { simd: boundsOf(FIELDS.simd), fma: boundsOf(FIELDS.fma) }

/**
 * Where each ends, in units. Limbs of 28 bits: a sum of limbs at 2³¹, a column of products at 2⁶³. Of 49: a sum of limbs at
 * 2⁶³, a factor at 2⁵¹, a product at 2¹⁰¹, a column, of which a product takes 52 bits, at 2⁶².
 */
const LIMITS = {
  simd: {
    sum: [8n, 8n],
    tooMany: { multiplyWide: 40n, multiplyWide2: 20n },
    /** Factors as the formulas have them. */
    factors: [
      [8n, 4n],
      [2n, 16n],
    ],
    tooLarge: [[8n, 5n]],
  },
  fma: {
    sum: [1n << 14n, 1n << 14n],
    tooMany: { multiplyWide: 1n << 10n, multiplyWide2: 1n << 9n },
    factors: [
      [8n, 4n],
      [2n, 16n],
    ],
    tooLarge: [
      [8n, 5n],
      [33n, 1n],
      [1n, 33n],
    ],
  },
} as const

describe.each(NAMES)('%s', name => {
  const bounds = BOUNDS[name]
  const { run, line, limbOf, pairOf, kernelOnBounds, LIMB, HALF, UNIT, BELOW_TOP } = bounds
  const { BITS, LIMBS, PAIR, COLUMNS, functions } = bounds.field
  const { sum, tooMany, factors, tooLarge } = LIMITS[name]
  /** Of values below 2⁹p. */
  const TOP = (P >> BigInt(BELOW_TOP)) << 9n
  function pair(memory: Memory, base: string, units: bigint, from = 0, unit = UNIT): void {
    for (let i = 0; i < 2 * LIMBS; i++) {
      const top = i >= 2 * LIMBS - 2
      memory.set(`${base}+${from + LIMB * i}`, limbOf(around(top ? TOP : units * unit)))
    }
  }
  const limbsAt = (memory: Memory, base: string, pairs = 1): Interval[] =>
    Array.from({ length: pairs }, (_, k) =>
      Array.from(
        { length: 2 * LIMBS - 2 },
        (_, i) => memory.get(`${base}+${PAIR * k + LIMB * i}`) as Interval,
      ),
    ).flat()
  const units = (limbs: readonly Interval[]): bigint =>
    limbs.map(limb => (sizeOf(limb) + UNIT - 1n) / UNIT).reduce(larger, 0n)
  /** Runs a function whose operands have the given units; what it leaves at `r`, in units. */
  function unitsAfter(name: string, operands: Readonly<Record<string, bigint>>, pairsAfter = 1): bigint {
    const memory: Memory = new Map()
    for (const [base, size] of Object.entries(operands)) {
      for (let k = 0; k < 3; k++) pair(memory, base, size, PAIR * k)
    }
    run(line(name), memory)
    return units(limbsAt(memory, 'r', pairsAfter))
  }

  /** The product of operands, then its reduction, with as many of the products summed as `weight` says. */
  function reducedUnits(product: string, weight: bigint, squared = false): bigint {
    const memory: Memory = new Map()
    pair(memory, 'a', 1n)
    pair(memory, 'b', 1n)
    run(line(product), memory)
    const summed: Memory = new Map()
    for (const [key, column] of memory) {
      if (!key.startsWith('w+')) continue
      summed.set(key, around(sizeOf(column) * weight))
    }
    expect(summed.size).toBe(2 * COLUMNS)
    expect(squared || memory.has('b+0')).toBe(true)
    run(line('reduce'), summed)
    return units(limbsAt(summed, 'r'))
  }

  test.each([
    ['multiplyWide', 32n],
    ['squareWide', 32n],
    ['multiplyWide2', 16n],
    ['squareWide2', 8n],
  ])('%s of tight operands, weight %i: no column overflows, the result is tight', (product, weight) => {
    expect(reducedUnits(product, weight)).toBe(1n)
  })

  test('the checker can refuse: one step above the stated weights a column overflows', () => {
    for (const [product, weight] of Object.entries(tooMany))
      expect(() => reducedUnits(product, weight)).toThrow(RangeError)
    expect(() => unitsAfter('add', { a: sum[0], b: sum[1] })).toThrow(RangeError)
  })

  /** Puts numbers: limbs of all sizes up to a unit, the top ones of values below 2³p. */
  function putNumbers(memory: Memory, base: string, seed: bigint): void {
    for (let i = 0; i < 2 * LIMBS; i++) {
      const bits = i < 2 * LIMBS - 2 ? BITS : 384 - BELOW_TOP
      const limb = seed === 0n ? -HALF : BigInt.asIntN(bits, ((seed ** 7n + 3n) ** BigInt(i + 11)) >> 5n)
      memory.set(
        `${base}+${LIMB * i}`,
        limbOf(interval(i < 2 * LIMBS - 2 ? limb : BigInt.asIntN(bits, limb))),
      )
    }
  }
  const together = (limbs: readonly bigint[]): bigint =>
    limbs.reduceRight((value, limb) => (value << BigInt(BITS)) + limb, 0n)
  const numberAt = (memory: Memory, place: string): bigint => {
    const { low, high } = memory.get(place) as Interval
    expect(low).toBe(high)
    return low
  }
  /** Of both lanes, what limbs or columns count together. */
  const numbersAt = (memory: Memory, base: string, count: number, stride: number): [bigint, bigint] => {
    const of = (lane: number) =>
      together(
        Array.from({ length: count }, (_, i) => numberAt(memory, `${base}+${stride * (2 * i + lane)}`)),
      )
    return [of(0), of(1)]
  }

  test('on numbers, each product is what its function says, and so is its reduction', () => {
    for (let seed = 0n; seed < 40n; seed++) {
      for (const [product, expected] of [
        ['multiplyWide', (a, b) => [a[0] * b[0], a[1] * b[1]]],
        ['squareWide', a => [a[0] * a[0], a[1] * a[1]]],
        ['multiplyWide2', (a, b) => [a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]]],
        ['squareWide2', a => [a[0] * a[0] - a[1] * a[1], 2n * a[0] * a[1]]],
      ] as readonly [string, (a: [bigint, bigint], b: [bigint, bigint]) => [bigint, bigint]][]) {
        const memory: Memory = new Map()
        putNumbers(memory, 'a', seed)
        putNumbers(memory, 'b', seed && seed + 100n)
        const [a, b] = ['a', 'b'].map(base => numbersAt(memory, base, LIMBS, LIMB)) as [
          [bigint, bigint],
          [bigint, bigint],
        ]
        run(line(product), memory)
        const wide = numbersAt(memory, 'w', COLUMNS, 8)
        expect(wide).toEqual(expected(a, b))
        run(line('reduce'), memory)
        const reduced = numbersAt(memory, 'r', LIMBS, LIMB)
        for (const lane of [0, 1] as const) {
          const added = reduced[lane] * R - wide[lane]
          expect(added % P).toBe(0n)
          expect(added >= -R * P && added < R * P).toBe(true)
        }
        for (const limb of limbsAt(memory, 'r')) expect(sizeOf(limb) <= HALF).toBe(true)
      }
    }
  })

  test('on numbers, a carried value and a settled one are as large as they were, but for multiples of p', () => {
    for (let seed = 0n; seed < 40n; seed++) {
      const memory: Memory = new Map()
      putNumbers(memory, 'a', seed)
      const before = numbersAt(memory, 'a', LIMBS, LIMB)
      run(line('carry'), memory)
      expect(numbersAt(memory, 'r', LIMBS, LIMB)).toEqual(before)
      for (const at of [PAIR - 2 * LIMB, PAIR - LIMB])
        memory.set(`a+${at}`, limbOf(interval(numberAt(memory, `a+${at}`) >> 1n)))
      const half = numbersAt(memory, 'a', LIMBS, LIMB)
      run(line('settle'), memory)
      const settled = numbersAt(memory, 'r', LIMBS, LIMB)
      for (const lane of [0, 1] as const) expect((settled[lane] - half[lane]) % P).toBe(0n)
    }
  })

  test.each([
    ['settleSum', ['a', 'b'], (a: bigint, b: bigint) => a + b],
    ['settleRest', ['a', 'b', 'c'], (a: bigint, b: bigint, c = 0n) => a - b - c],
    ['settleMinus', ['t', 'a'], (t: bigint, a: bigint) => 3n * t - 2n * a],
    ['settlePlus', ['t', 'a'], (t: bigint, a: bigint) => 3n * t + 2n * a],
  ] as const)('on numbers, %s of %o leaves it below p, but for multiples of p', (name, bases, expected) => {
    for (let seed = 0n; seed < 40n; seed++) {
      const memory: Memory = new Map()
      const numbers = bases.map((base, i) => {
        putNumbers(memory, base, seed + 1000n * BigInt(i))
        for (const at of [PAIR - 2 * LIMB, PAIR - LIMB])
          memory.set(`${base}+${at}`, limbOf(interval(numberAt(memory, `${base}+${at}`) >> 4n)))
        return numbersAt(memory, base, LIMBS, LIMB)
      })
      run(line(name), memory)
      const left = numbersAt(memory, 'r', LIMBS, LIMB)
      for (const lane of [0, 1] as const) {
        const [x, y, z] = numbers.map(number => number[lane]) as [bigint, bigint, bigint?]
        expect((left[lane] - expected(x, y, z)) % P).toBe(0n)
        expect(larger(left[lane], -left[lane]) < P / 2n + P / 256n).toBe(true)
      }
    }
  })

  // Of 49 bits they are cut into other parts.
  if (name === 'simd')
    test('a square in Fp2 is, column by column, the product of a with itself', () => {
      for (let seed = 0n; seed < 20n; seed++) {
        const columns = ['squareWide2', 'multiplyWide2'].map(product => {
          const memory: Memory = new Map()
          for (const base of ['a', 'b']) putNumbers(memory, base, seed)
          run(line(product), memory)
          return [...memory].filter(([place]) => place.startsWith('w+')).sort()
        })
        expect(columns[0]?.length).toBe(2 * COLUMNS)
        expect(columns[0]).toEqual(columns[1])
      }
    })

  test('operands of more than one unit, as the formulas have them', () => {
    for (const [product, a, b] of [
      ['multiplyWide', 8n, 4n],
      ['multiplyWide2', 8n, 2n],
      ['multiplyWide2', 2n, 8n],
      ['multiplyWide2', 4n, 4n],
    ] as const) {
      const memory: Memory = new Map()
      // What is carried may be 2⁴ larger, of which eight times are no factor of 49 bits any more.
      pair(memory, 'a', a, 0, HALF)
      pair(memory, 'b', b, 0, HALF)
      run(line(product), memory)
      for (const key of [...memory.keys()].filter(key => !key.startsWith('w+'))) memory.delete(key)
      run(line('reduce'), memory)
      expect(units(limbsAt(memory, 'r'))).toBe(1n)
    }
  })

  test.each([
    ['add', { a: 4n, b: 4n }, 8n],
    ['sub', { a: 4n, b: 4n }, 8n],
    ['double', { a: 6n }, 12n],
    ['triple', { a: 4n }, 12n],
    ['negate', { a: 15n }, 15n],
    ['conjugate', { a: 15n }, 15n],
    ['swap', { a: 15n }, 15n],
    ['timesXi', { a: 4n }, 8n],
    ['timesI', { a: 4n }, 4n],
    ['carry', { a: 14n }, 1n],
    ['lanes00', { a: 3n, b: 5n }, 5n],
  ] as const)('%s of %o has %i units', (name, operands, expected) => {
    expect(unitsAfter(name, operands)).toBe(expected)
  })

  test('settle brings a cyclotomic square’s 3t ± 2a back to one unit and below p', () => {
    // |t| < 1½p, |a| < 1½p: |3t ± 2a| < 7½p, 5 units.
    const memory: Memory = new Map()
    pair(memory, 'a', 5n)
    const tops = [PAIR - 2 * LIMB, PAIR - LIMB].map(at => `a+${at}`)
    for (const at of tops) memory.set(at, limbOf(around(((P >> BigInt(BELOW_TOP)) * 15n) / 2n)))
    run(line('settle'), memory)
    expect(units(limbsAt(memory, 'r'))).toBe(1n)
    // With the quotient rounded by the top limb, what is left is ½p and less than 2⁻⁸p of rounding: furthest off where it
    // is about to change.
    for (let halves = -15n; halves <= 15n; halves += 2n) {
      const edge = ((halves * P) / 2n) >> BigInt(BELOW_TOP)
      for (let off = -40n; off <= 40n; off++) {
        for (const limb of [-5n * UNIT, 0n, 5n * UNIT]) {
          for (let i = 0; i < 2 * LIMBS - 2; i++) memory.set(`a+${LIMB * i}`, limbOf(interval(limb)))
          for (const at of tops) memory.set(at, limbOf(interval(edge + off)))
          run(line('settle'), memory)
          for (const left of numbersAt(memory, 'r', LIMBS, LIMB))
            expect(larger(left, -left) < P / 2n + P / 256n).toBe(true)
        }
      }
    }
  })

  test('the formulas on G1: what is multiplied stays within 32, limbs within 16', () => {
    // A point has u ≤ 2.
    expect(unitsAfter('g1DoubleBefore', { p: 2n }, 4)).toBe(2n)
    // Carried before g1DoubleBetween.
    expect(unitsAfter('times12', { a: 1n })).toBe(12n)
    expect(unitsAfter('carry', { a: 12n })).toBe(1n)
    expect(unitsAfter('g1DoubleBetween', { r: 1n, a: 1n, b: 1n }, 4)).toBe(8n)
    expect(unitsAfter('g1DoubleAfter', { c: 1n, d: 1n }, 2)).toBe(2n)
    expect(unitsAfter('g1AddBefore', { p: 2n }, 3)).toBe(4n)
    // 4·4 in (Y + Z)(Y' + Z') ≤ 32.
    expect(unitsAfter('g1AddDifference', { a: 1n, b: 1n, c: 1n })).toBe(3n)
    expect(unitsAfter('g1AddTwelve', { b: 1n, d: 1n })).toBe(12n)
    expect(unitsAfter('g1AddBetween', { a: 1n, b: 1n, d: 1n, t: 1n }, 6)).toBe(3n)
    // (t3, …)(t1 − 12t2, …) + (−t4, y)(y, 3t0) ≤ 3·2 + 1·3, and both lanes of (t1 + 12t2)t4, 3t0·t3 ≤ 2 + 9.
  })

  /** A product of sums of reduced values, and its reduction. */
  function multipliedUnits(a: bigint, b: bigint): bigint {
    const memory: Memory = new Map()
    pair(memory, 'a', a, 0, HALF)
    pair(memory, 'b', b, 0, HALF)
    run(line('multiplyWide'), memory)
    run(line('reduce'), memory)
    return units(limbsAt(memory, 'r'))
  }

  test('a product of operands within 32: no column overflows, the result is tight', () => {
    expect(multipliedUnits(1n, 1n)).toBe(1n)
    for (const [a, b] of factors) expect(multipliedUnits(a, b)).toBe(1n)
    for (const [a, b] of tooLarge) expect(() => multipliedUnits(a, b)).toThrow(RangeError)
  })

  test('the Jacobian formulas of the subgroup check: between products within 32, and what goes round as it came', () => {
    // X, Y tight, Z = 2YZ of two units; A and B are products.
    expect(unitsAfter('jacobianBefore', { p: 2n, a: 1n, b: 1n }, 3)).toBe(3n)
    // (3A, B)², (X, Y)·(B, Z): 3·3 and 2·2.
    expect(unitsAfter('jacobianBetween', { c: 1n, d: 1n }, 4)).toBe(13n)
    // Of it the first and the last are carried, and 12XB − F is multiplied with 3A.
    expect(unitsAfter('carry', { a: 13n })).toBe(1n)
    expect(multipliedUnits(3n, 1n)).toBe(1n)
    // Y: a product less 8C, carried.
    expect(unitsAfter('sub', { a: 1n, b: 8n })).toBe(9n)
    expect(unitsAfter('carry', { a: 9n })).toBe(1n)
    // An addition multiplies carried differences, products, and Z of two units; Z comes out tight.
    expect(multipliedUnits(2n, 2n)).toBe(1n)
  })

  test('a value divided by R stays small', () => {
    // Products of values below 2⁵p, and below 2⁷p, divided by R, and what the reduction adds.
    expect((2n ** 10n * P * P) / R + P < (3n * P) / 2n).toBe(true)
    expect((2n ** 14n * P * P) / R + P < 8n * P).toBe(true)
  })

  // The formulas: the kernel's own files on bounds. What goes round a loop is given as it may come, and must come out so.

  const F2 = PAIR
  const [F6, F12, G1, G2] = [3 * F2, 6 * F2, 2 * F2, 3 * F2] as const
  const LINES = 68 * 2 * F2

  /** Pairs of at most so many units and times p: what a function is given, or what it must leave. */
  interface Argument {
    readonly what: 'given' | 'result' | 'kept'
    readonly size: number
    readonly units: bigint
    readonly timesP: number
  }
  const given = (size: number, units = 1n, timesP = 3): Argument => ({ what: 'given', size, units, timesP })
  const result = (size: number, units = 1n, timesP = 3): Argument => ({ what: 'result', size, units, timesP })
  /** A result that a refusal leaves as it was. */
  const kept = (size: number): Argument => ({ what: 'kept', size, units: 1n, timesP: 3 })
  /** As the kernel's functions leave them to each other; points of G1 have Z = 2YZ of two units. */
  const [aG1, aG2] = [given(G1, 2n), given(G2)]

  function put(machine: Machine, at: number, { size, units, timesP }: Argument): void {
    for (let offset = 0; offset < size; offset += F2) machine.set(at + offset, pairOf(units, timesP))
  }
  function look(machine: Machine, at: number, { size, units, timesP }: Argument): void {
    const most = pairOf(units, timesP)
    for (let offset = 0; offset < size; offset += F2) {
      const { limb, top } = machine.get(at + offset)
      if (limb > most.limb || top > most.top)
        throw new RangeError(`it leaves ${limb}, ${top} at ${offset}, and not ${most.limb}, ${most.top}`)
    }
  }

  type Formula = (machine: Machine) => void
  /** What is asked for by its name: see the test of what the kernels offer. */
  const asked = new Set<string>()
  /** One call. Numbers among the arguments are passed as they are. */
  const call = (file: string, name: string, ...args: readonly (Argument | number)[]): Formula => {
    asked.add(name)
    return machine => {
      const places = args.map(arg => (typeof arg === 'number' ? arg : machine.place(arg.size / F2)))
      const each = (what: 'given' | 'result', f: typeof put) =>
        args.forEach((arg, i) => {
          if (typeof arg !== 'number' && [what, 'kept'].includes(arg.what))
            f(machine, places[i] as number, arg)
        })
      each('given', put)
      machine.call(file, name, ...places)
      each('result', look)
    }
  }
  /** A step on J, the Jacobian point that a file keeps to itself; q is what is added. */
  const jacobian =
    (file: string, name: string, zUnits: bigint): Formula =>
    machine => {
      const J = machine.address(file, 'J')
      const q = machine.place(2)
      put(machine, q, given(2 * F2))
      if (file === 'g1') {
        // The base stands in a place of its own, and the free lane takes the root of something.
        put(machine, machine.address(file, 'BASE'), given(2 * F2))
        machine.call('root', 'rootBegin', q)
      }
      const [xy, z] = [given(2 * F2, 1n, 12), given(F2, zUnits, 12)]
      put(machine, J, xy)
      put(machine, J + 2 * F2, z)
      machine.call(file, name, q)
      look(machine, J, xy)
      look(machine, J + 2 * F2, z)
    }
  const miller = (count: number): Formula => {
    asked.add('miller')
    return machine => {
      const [points, list, f, work] = [2 * count, 1, 6, 3 * count].map(machine.place) as [
        number,
        number,
        number,
        number,
      ]
      put(machine, points, given(G1 * count, 2n))
      for (let i = 0; i < count; i++) {
        const lines = machine.place(LINES / F2)
        put(machine, lines, given(LINES))
        machine.word(list + 4 * i, lines)
      }
      machine.call('pairing', 'miller', f, points, list, count, work)
      look(machine, f, result(F12, 1n, SETTLED))
    }
  }
  /** A sum of public multiples; the scalars' NAFs have every digit there is. */
  const sumOf = (count: number): Formula => {
    asked.add('g1Sum')
    return machine => {
      const [r, points, work] = [2, 2 * count, 36 * count].map(machine.place) as [number, number, number]
      put(machine, points, given(G1 * count, 2n))
      machine.call('g1', 'g1Sum', r, points, 0, count, work)
      look(machine, r, result(G1, 2n))
    }
  }

  const settled = [result(F12, 1n, SETTLED), given(F12, 1n, SETTLED)] as const
  const FORMULAS: Readonly<Record<string, Formula>> = {
    'Fp2: a product': call('tower', 'multiply2', result(F2), given(F2), given(F2)),
    'Fp2: a square': call('tower', 'square2', result(F2), given(F2)),
    'Fp2: an inverse': call('tower', 'invert2', result(F2), given(F2)),
    'Fp6: a product': call('tower', 'multiply6', result(F6), given(F6), given(F6)),
    'Fp6: a product by two coefficients': call('tower', 'multiply6By01', result(F6), given(F6), given(F6)),
    'Fp6: a product by the other two': call('tower', 'multiply6By12', result(F6), given(F6), given(F6)),
    'Fp12: a product': call('tower', 'multiply12', settled[0], given(F12, 1n, 7), given(F12, 1n, 7)),
    'Fp12: a product by a line': call('tower', 'multiply12ByLine', ...settled, given(2 * F2)),
    'Fp12: a product by two lines': call(
      'tower',
      'multiply12By01245',
      settled[0],
      given(F12, 1n, 7),
      given(F12),
    ),
    'Fp12: a square': call('tower', 'square12', ...settled),
    'Fp12: a square in the cyclotomic subgroup': call('tower', 'cyclotomicSquare', ...settled),
    'Fp12: an inverse': call('tower', 'invert12', result(F12), given(F12, 1n, 7)),
    'Fp12: Frobenius': call('tower', 'frobenius12', result(F12), given(F12), 1),
    'G1: a sum': call('g1', 'g1Add', result(G1, 2n), aG1, aG1),
    'G1: a double': call('g1', 'g1Double', result(G1, 2n), aG1),
    'G1: a Jacobian double': jacobian('g1', 'jacobianDouble', 2n),
    'G1: a Jacobian sum': jacobian('g1', 'jacobianAdd', 2n),
    'G1: root and subgroup': call('g1', 'rootAndSubgroup', given(F2), given(F2)),
    'G1: decoding': call('g1', 'g1Decode', result(G1, 2n), 0),
    'G1: encoding': call('g1', 'g1Encode', 0, aG1),
    'G1: equality': call('g1', 'g1Equals', aG1, aG1),
    'G1: a secret multiple': call('g1', 'g1MultiplySecret', result(G1, 2n), aG1, 0),
    'G1: a hash': call('g1', 'g1Hash', result(G1, 2n), 0, 1),
    'G1: a hash with its cofactor': call('g1', 'g1HashUncleared', result(G1, 2n), 0),
    'G1: a hash of one element': call('g1', 'g1Hash', result(G1, 2n), 0, 0),
    'G1: an opposite point': call('g1', 'g1Negate', result(G1, 2n), aG1),
    'G1: the identity': call('g1', 'g1Identity', result(G1, 2n)),
    'G1: whether it is the identity': call('g1', 'g1IsIdentity', aG1),
    'G1: a sum of public multiples': sumOf(2),
    'G2: a sum': call('g2', 'g2Add', result(G2), aG2, aG2),
    'G2: a double': call('g2', 'g2Double', result(G2), aG2),
    'G2: a Jacobian double': jacobian('g2', 'jacobianDouble', 1n),
    'G2: a Jacobian sum': jacobian('g2', 'jacobianAdd', 1n),
    'G2: the subgroup': call('g2', 'isInSubgroup', aG2),
    'G2: a root': call('g2', 'root2', result(F2), given(F2)),
    'G2: decoding': call('g2', 'g2Decode', kept(G2), 0),
    'G2: encoding': call('g2', 'g2Encode', 0, aG2),
    'G2: equality': call('g2', 'g2Equals', aG2, aG2),
    'G2: a secret multiple': call('g2', 'g2MultiplySecret', result(G2), aG2, 0),
    'G2: a hash': call('g2', 'g2Hash', result(G2), 0, 1),
    'G2: a hash of one element': call('g2', 'g2Hash', result(G2), 0, 0),
    'G2: an opposite point': call('g2', 'g2Negate', result(G2), aG2),
    'G2: the identity': call('g2', 'g2Identity', result(G2)),
    'G2: whether it is the identity': call('g2', 'g2IsIdentity', aG2),
    'the lines of a point': call('pairing', 'prepare', result(LINES), aG2),
    'the Miller loop of one pair': miller(1),
    'the Miller loop of two': miller(2),
    'the Miller loop of three': miller(3),
    'the final exponentiation': call('pairing', 'finalExponentiation', settled[0], given(F12, 1n, SETTLED)),
    'a quotient in GT': call('pairing', 'divide12', settled[0], settled[1], settled[1]),
    'bytes of GT': call('pairing', 'gtBytes', 0, settled[1]),
    'whether a value of GT is one': call('pairing', 'isOne12', settled[1]),
  }
  /** Whatever isZero and its like say. */
  const VERDICTS = [() => -1, () => 0] as const

  test.each(Object.entries(FORMULAS))(
    '%s: nothing overflows, and it leaves what others may be given',
    (_, f) => {
      for (const verdict of VERDICTS) f(kernelOnBounds(verdict))
    },
  )

  test.each(['G2: decoding', 'G2: a hash'])(
    '%s, which goes by several decisions: whichever come together',
    name => {
      for (let decisions = 0; decisions < 16; decisions++) {
        let left = decisions
        const verdict = () => {
          const bit = left & 1
          left = (left >> 1) | (bit << 3)
          return -bit
        }
        FORMULAS[name]?.(kernelOnBounds(verdict))
      }
    },
  )

  test('whatever the kernels offer is among them', () => {
    const offered = ['main-g1', 'main-pairing'].flatMap(file => {
      const source = readFileSync(new URL(`../kernel/${file}.ts`, import.meta.url), 'utf8')
      return [...source.matchAll(/export \{([^}]*)\} from '\.\/(\w+)'/g)].flatMap(
        ([, names = '', from = '']) =>
          // The field layer is above; what codec.ts, inverse.ts and order.ts do to whole limbs and words is said there.
          ['field', 'codec', 'inverse', 'order'].includes(from)
            ? []
            : names.split(',').map(name => name.trim()),
      )
    })
    expect(offered.length).toBeGreaterThan(25)
    expect(offered.filter(name => name !== '' && !asked.has(name))).toEqual([])
  })

  /** What 28 bits alone need: sums of 49 may be multiplied. */
  const BROKEN_28: readonly (readonly [formula: keyof typeof FORMULAS, change: Change])[] = [
    ['Fp12: a product', { file: 'tower', from: '(B6, b, b + F6)\n  carry6(B6, B6)', to: '(B6, b, b + F6)' }],
    ['Fp12: a square', { file: 'tower', from: 'add6(B6, B6, a)\n  carry6(B6, B6)', to: 'add6(B6, B6, a)' }],
    ['G2: a double', { file: 'g2', from: 'carry(r, r)\n  triple(r, r)', to: 'triple(r, r)' }],
  ]
  /** What each file does against overflows, left out in one place. */
  const BROKEN: readonly (readonly [formula: keyof typeof FORMULAS, change: Change])[] = [
    ...(name === 'simd' ? BROKEN_28 : []),
    [
      'Fp6: a product',
      {
        file: 'tower',
        from: 'add(S, a, a + F2)\n  add(T, b, b + F2)\n  multiplyWide2(X1, S, T)\n  add(S, a, a + 2 * F2)',
        to: 'add(S, a, a + F2)\n  for (let i = 0; i < 5; i++) add(S, S, S)\n  add(T, b, b + F2)\n  multiplyWide2(X1, S, T)\n  add(S, a, a + 2 * F2)',
      },
    ],
    [
      'Fp12: a product',
      { file: 'tower', from: 'settleRest6(r + F6, C6, A6, B6)', to: 'sub6(r + F6, C6, A6)' },
    ],
    ['Fp12: a product by two lines', { file: 'tower', from: 'settleSum6(r, A6, D6)', to: 'add6(r, A6, D6)' }],
    ['Fp12: a square', { file: 'tower', from: 'settleRest6(r, C6, A6, D6)', to: 'sub6(r, C6, A6)' }],
    ['Fp12: a product by a line', { file: 'tower', from: 'settle6(r, A6)', to: 'carry6(r, A6)' }],
    ['Fp12: a product by a line', { file: 'tower', from: 'settle6(r + F6, B6)', to: 'carry6(r + F6, B6)' }],
    [
      'the Miller loop of two',
      {
        file: 'pairing',
        from: '  carry(LINE + F6 + F2, LINE + F6 + F2)\n',
        to: '  for (let i = 0; i < 3; i++) add(LINE + F6 + F2, LINE + F6 + F2, LINE + F6 + F2)\n',
      },
    ],
    [
      'Fp12: a square in the cyclotomic subgroup',
      {
        file: 'tower',
        from: 'settleMinus(r + F2, G0 + 2 * F2, a + F2)',
        to: 'sub(S, G0 + 2 * F2, a + F2)\n  carry(r + F2, S)',
      },
    ],
    ['the final exponentiation', { file: 'tower', from: 'settlePlus(r1, G1, a1)', to: 'add(r1, G1, a1)' }],
    ['G1: a double', { file: 'g1', from: 'times12(A, C + F2)\n  carry(A, A)', to: 'times12(A, C + F2)' }],
    [
      'G1: a Jacobian double',
      {
        file: 'g1',
        from: 'jacobianBetween(J, M + 2 * F2, M + 3 * F2)\n  carry(J, J)',
        to: 'jacobianBetween(J, M + 2 * F2, M + 3 * F2)',
      },
    ],
    ['G1: a sum', { file: 'g1', from: '  carry(t, t)\n', to: '' }],
    ['G2: a sum', { file: 'g2', from: 'double(r, r)\n  carry(r, r)\n}', to: 'double(r, r)\n}' }],
    ['G2: a Jacobian double', { file: 'g2', from: 'sub(s, s, d)\n  carry(J, s)', to: 'sub(J, s, d)' }],
    [
      'G2: a Jacobian sum',
      { file: 'g2', from: 'double(r, r)\n  carry(r, r)\n  squareWide2', to: 'double(r, r)\n  squareWide2' },
    ],
    [
      'the lines of a point',
      { file: 'pairing', from: '  carry(e, e)\n  triple(f, e)', to: '  triple(f, e)' },
    ],
  ]
  test.each(BROKEN)('the checker refuses %s with %o', (formula, change) => {
    expect(() => {
      for (const verdict of VERDICTS) FORMULAS[formula]?.(kernelOnBounds(verdict, change))
    }).toThrow(RangeError)
  })

  const changed = (of: string, change: (operation: Operation, n: number) => Operation): Line =>
    Object.assign(new Line(), { operations: line(of).operations.map(change) })
  /** Of a product of the largest factors. */
  const columns = (): Memory => {
    const memory: Memory = new Map()
    pair(memory, 'a', 8n, 0, HALF)
    pair(memory, 'b', 4n, 0, HALF)
    run(line('multiplyWide'), memory)
    return memory
  }
  test('the checker refuses a reduction that leaves a column negative, and one by larger limbs', () => {
    expect(() =>
      run(
        changed('reduce', operation => operation),
        columns(),
      ),
    ).not.toThrow()
    let isFirst = true
    const withoutBias = changed('reduce', ({ op, id, args }) => {
      if (!isFirst || (op !== 'addConstant' && op !== 'addOffset'))
        return { op, args, ...(id !== undefined && { id }) }
      isFirst = false
      return { op, args: args.with(-1, 0n), ...(id !== undefined && { id }) }
    })
    expect(() => run(withoutBias, columns())).toThrow(RangeError)
    const byLargerLimbs = changed('reduce', operation =>
      operation.op.startsWith('load') && String(operation.args[0]).startsWith('NEXT')
        ? { ...operation, args: ['LARGER', ...operation.args.slice(1)] }
        : operation,
    )
    const more = columns()
    for (let i = 0; i < 2 * LIMBS; i++)
      more.set(
        `LARGER+${LIMB * i}`,
        name === 'simd' ? around(1n << 31n) : { ...around(1n << 54n), isDouble: true },
      )
    expect(() => run(byLargerLimbs, more)).toThrow(RangeError)
  })

  if (name === 'fma')
    test('the checker refuses every wrong number of parts whose offset is taken off', () => {
      let count = 0
      for (const { name: of, line: whole } of functions) {
        for (const [at, { op }] of whole.operations.entries()) {
          if (op !== 'addOffset') continue
          for (const arg of [1, 2]) {
            const memory = columns()
            for (const base of ['a', 'b']) pair(memory, base, 1n)
            for (const lane of [0, 8])
              memory.set(`a+${PAIR - 16 + lane}`, limbOf(around(P >> BigInt(BELOW_TOP))))
            count++
            const wrong = changed(of, (operation, n) =>
              n === at
                ? { ...operation, args: operation.args.with(arg, (operation.args[arg] as number) + 1) }
                : operation,
            )
            expect(() => run(wrong, memory)).toThrow(/\{"(lower|upper5[01])":-?1\}/)
          }
        }
      }
      expect(count).toBeGreaterThan(100)
    })
})

describe('what a reduction adds', () => {
  /** A constant of a reduction, as a number. */
  const constantOf = (of: Bounds, constant: string): bigint => {
    const { limbs } = (of.field.constants as Readonly<Record<string, { limbs: readonly bigint[] }>>)[
      constant
    ] as { limbs: readonly bigint[] }
    return limbs.reduceRight((value, limb) => (value << BigInt(of.field.BITS)) + limb, 0n)
  }
  /** k, of which (kp + 1)/2^bits is the constant. */
  function multipleOf(of: Bounds, constant: string, bits: bigint): bigint {
    const numerator = (constantOf(of, constant) << bits) - 1n
    expect(numerator % P).toBe(0n)
    const k = numerator / P
    expect(BigInt.asUintN(Number(bits), k * P + 1n)).toBe(0n)
    return k
  }

  test('simd: 13 rows of μp and one of p, none negative, less than 2Rp; then −p', () => {
    const mu = multipleOf(BOUNDS.simd, 'NEXT', 28n)
    expect(mu > 0n && mu < 1n << 28n).toBe(true)
    const digits = (1n << 364n) - 1n
    expect(digits * mu * P + ((1n << 28n) - 1n) * (1n << 364n) * P < 2n * R * P).toBe(true)
  })

  test('fma: in four steps less than (0.123 + 0.144 + 0.001 + ½)·Rp in size', () => {
    let column = 0n
    const thousandths = [4n, 2n, 1n].map(rows => {
      const bits = 49n * rows
      const k = multipleOf(BOUNDS.fma, `NEXT${rows}`, bits)
      const size = larger(k, -k)
      expect(size < 1n << (bits - 1n)).toBe(true)
      // Every digit −2⁴⁸.
      const digits = ((1n << 48n) * ((1n << bits) - 1n)) / ((1n << 49n) - 1n)
      const added = (digits * size) << (49n * column)
      column += rows
      return (1000n * added) / R + 1n
    })
    expect(thousandths).toEqual([123n, 144n, 1n])
    // The last one by p itself, its digit column·μ.
    expect(column).toBe(7n)
    expect(constantOf(BOUNDS.fma, 'PRIME')).toBe(P)
    expect(BigInt.asUintN(49, constantOf(BOUNDS.fma, 'MU') * P + 1n)).toBe(0n)
    expect((1n << 48n) << (49n * 7n)).toBe(R / 2n)
  })
})
