/**
 * No column and no limb of the kernel's field layer overflows: the generated operations are run on intervals. What runs in
 * the kernel and what is checked here come out of one list (kernel/generate-field.mjs). The weights are those that the
 * kernel's sources state: limbs in units of 2²⁷.
 */
import { expect, test } from 'vitest'
import { BITS, CONSTANTS, FUNCTIONS, LIMBS, type Line, P, R } from '../kernel/generate-field.mjs'

interface Interval {
  readonly low: bigint
  readonly high: bigint
}
const interval = (low: bigint, high = low): Interval => ({ low, high })
const around = (size: bigint): Interval => interval(-size, size)
const sum = (a: Interval, b: Interval) => interval(a.low + b.low, a.high + b.high)
const minus = (a: Interval, b: Interval) => interval(a.low - b.high, a.high - b.low)
function times(a: Interval, b: Interval): Interval {
  const corners = [a.low * b.low, a.low * b.high, a.high * b.low, a.high * b.high]
  return interval(
    -corners.map(x => -x).reduce((x, y) => larger(x, y)),
    corners.reduce((x, y) => larger(x, y)),
  )
}
const larger = (a: bigint, b: bigint): bigint => {
  if (a > b) return a
  return b
}
const sizeOf = ({ low, high }: Interval): bigint => larger(-low, high)
const MASK = (1n << BigInt(BITS)) - 1n
const HALF = 1n << BigInt(BITS - 1)

/** Four places of 32 bits, or two of 64. */
type Value = readonly Interval[]
/** What lies at an address: limbs by 4 bytes, columns by 8. */
type Memory = Map<string, Interval>

function within(value: Interval, low: bigint, high: bigint, where: string): Interval {
  if (value.low < low || value.high > high) throw new RangeError(`${where}: ${value.low}…${value.high}`)
  return value
}
const signed32 = (value: Interval, where: string) => within(value, -(2n ** 31n), 2n ** 31n - 1n, where)
const signed64 = (value: Interval, where: string) => within(value, -(2n ** 63n), 2n ** 63n - 1n, where)

/** Runs a line on intervals. RangeError where a value leaves its 32 or 64 bits. */
function run({ operations }: Line, memory: Memory): void {
  const values: Value[] = []
  const of = (id: unknown): Value => values[id as number] as Value
  const read = (base: unknown, at: unknown): Interval => {
    const constant = CONSTANTS[base as keyof typeof CONSTANTS] as readonly bigint[] | undefined
    if (constant !== undefined) return interval(constant[Math.floor((at as number) / 8)] as bigint)
    const found = memory.get(`${base}+${at}`)
    if (found === undefined) throw new Error(`nothing was put at ${base}+${at}`)
    return found
  }
  /** Biased by 2⁶³, columns are unsigned until they are shifted. */
  const biased = new Set<number>()
  operations.forEach(({ op, id, args }, n) => {
    const where = `operation ${n}, ${op}`
    const [first, second, third] = args
    const at = second as number
    const places = (f: (a: Interval, b: Interval) => Interval): Value =>
      of(first).map((a, i) => f(a, of(second)[i] as Interval))
    const result = ((): Value | undefined => {
      switch (op) {
        case 'load':
          return [0, 4, 8, 12].map(offset => read(first, at + offset))
        case 'loadLimb':
          return [read(first, at), read(first, at + 4), interval(0n), interval(0n)]
        case 'loadSplat':
          return [0, 0, 0, 0].map(() => read(first, at))
        case 'loadWide':
          return [read(first, at), read(first, at + 8)]
        case 'zero':
          return [0, 0, 0, 0].map(() => interval(0n))
        case 'add':
          return places((a, b) => signed32(sum(a, b), where))
        case 'sub':
          return places((a, b) => signed32(minus(a, b), where))
        case 'addHalf':
          return of(first).map(a => signed32(sum(a, interval(HALF)), where))
        case 'subHalf':
          return of(first).map(a => signed32(minus(a, interval(HALF)), where))
        case 'low':
          return of(first).map(() => interval(0n, MASK))
        case 'high':
          return of(first).map(a => interval(a.low >> BigInt(BITS), a.high >> BigInt(BITS)))
        case 'multiplySmall':
          return of(first).map(a => signed32(times(a, interval(second as bigint)), where))
        case 'multiplyLimbs':
          return places((a, b) => signed32(times(a, b), where))
        case 'shuffle': {
          const [a, b] = [of(first), of(second)]
          // Columns move as pairs of places.
          if (a.length === 2 || b.length === 2) {
            const wide = (value: Value) => (value.length === 2 ? value : [value[0], value[2]]) as Value
            const columns = [...wide(a), ...wide(b)]
            const [p, , q] = third as readonly number[]
            return [columns[(p as number) / 2] as Interval, columns[(q as number) / 2] as Interval]
          }
          return (third as readonly number[]).map(place => [...a, ...b][place] as Interval)
        }
        case 'multiply':
          return [0, 1].map(i => signed64(times(of(first)[i] as Interval, of(second)[i] as Interval), where))
        case 'addWide':
        case 'subWide': {
          const [a, b] = [of(first).slice(0, 2), of(second).slice(0, 2)]
          const isBiased = biased.has(first as number) || biased.has(second as number)
          if (isBiased) biased.add(id as number)
          return a.map((x, i) => {
            const value = op === 'addWide' ? sum(x, b[i] as Interval) : minus(x, b[i] as Interval)
            return isBiased ? within(value, 0n, 2n ** 64n - 1n, where) : signed64(value, where)
          })
        }
        case 'addConstant': {
          const constant = second as bigint
          if (constant > 2n ** 60n) biased.add(id as number)
          return of(first).map(a =>
            constant > 2n ** 60n
              ? within(sum(a, interval(constant)), 0n, 2n ** 64n - 1n, where)
              : signed64(sum(a, interval(constant)), where),
          )
        }
        case 'lowWide':
          return of(first).map(() => interval(0n, MASK))
        case 'highWide':
          return of(first).map(a => interval(a.low >> BigInt(BITS), a.high >> BigInt(BITS)))
        case 'narrow':
          return [of(first)[0], of(first)[1], of(second)[0], of(second)[1]].map(a =>
            signed32(a as Interval, where),
          )
        case 'store':
          of(third).forEach((value, i) => {
            memory.set(`${first}+${at + 4 * i}`, value)
          })
          return undefined
        case 'storeLimb':
          for (const i of [0, 1]) memory.set(`${first}+${at + 4 * i}`, of(third)[i] as Interval)
          return undefined
        case 'storeWide':
          for (const i of [0, 1]) memory.set(`${first}+${at + 8 * i}`, of(third)[i] as Interval)
          return undefined
        default:
          throw new Error(`no meaning for ${op}`)
      }
    })()
    if (id !== undefined) values[id] = result as Value
  })
}

const line = (name: string): Line => {
  const found = FUNCTIONS.find(one => one.name === name)
  if (found === undefined) throw new Error(`no ${name}`)
  return found.line
}
/** 2²⁷ and what `carry` may leave above it. */
const UNIT = HALF + 16n
/** The top limb holds value/2³⁶⁴: values below 2⁹p. */
const TOP = (P >> 364n) << 9n
function pair(memory: Memory, base: string, units: bigint, from = 0): void {
  for (let i = 0; i < 2 * LIMBS; i++) {
    const top = i >= 2 * LIMBS - 2
    memory.set(`${base}+${from + 4 * i}`, around(top ? TOP : units * UNIT))
  }
}
const limbsAt = (memory: Memory, base: string, pairs = 1): Interval[] =>
  Array.from({ length: pairs }, (_, k) =>
    Array.from({ length: 2 * LIMBS - 2 }, (_, i) => memory.get(`${base}+${112 * k + 4 * i}`) as Interval),
  ).flat()
const units = (limbs: readonly Interval[]): bigint =>
  limbs.map(limb => (sizeOf(limb) + UNIT - 1n) / UNIT).reduce(larger, 0n)
/** Runs a function whose operands have the given units; what it leaves at `r`, in units. */
function unitsAfter(name: string, operands: Readonly<Record<string, bigint>>, pairsAfter = 1): bigint {
  const memory: Memory = new Map()
  for (const [base, size] of Object.entries(operands)) {
    for (let k = 0; k < 3; k++) pair(memory, base, size, 112 * k)
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
  expect(summed.size).toBe(2 * (2 * LIMBS - 1))
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
  expect(() => reducedUnits('multiplyWide', 40n)).toThrow(RangeError)
  expect(() => reducedUnits('multiplyWide2', 20n)).toThrow(RangeError)
  expect(() => unitsAfter('add', { a: 8n, b: 8n })).toThrow(RangeError)
})

test('operands of more than one unit, as the formulas have them', () => {
  for (const [name, a, b] of [
    ['multiplyWide', 8n, 4n],
    ['multiplyWide2', 8n, 2n],
    ['multiplyWide2', 2n, 8n],
    ['multiplyWide2', 4n, 4n],
  ] as const) {
    const memory: Memory = new Map()
    pair(memory, 'a', a)
    pair(memory, 'b', b)
    run(line(name), memory)
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
  for (const at of [104, 108]) memory.set(`a+${at}`, around(((P >> 364n) * 15n) / 2n))
  run(line('settle'), memory)
  expect(units(limbsAt(memory, 'r'))).toBe(1n)
  // With the quotient rounded by the top limb, what is left is ½p and less than 2⁻⁸p of rounding.
  const quotient = ((1n << BigInt(BITS * LIMBS + 1)) + P) / (2n * P)
  for (let top = -(P >> 364n) * 6n; top <= (P >> 364n) * 6n; top += 97n) {
    const q = (top * quotient + HALF) >> BigInt(BITS)
    const left = (top << 364n) - q * P
    expect(larger(left, -left) < P / 2n + P / 256n).toBe(true)
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

/** A product and its reduction. */
function multipliedUnits(a: bigint, b: bigint): bigint {
  const memory: Memory = new Map()
  pair(memory, 'a', a)
  pair(memory, 'b', b)
  run(line('multiplyWide'), memory)
  run(line('reduce'), memory)
  return units(limbsAt(memory, 'r'))
}

test('a product of operands within 32: no column overflows, the result is tight', () => {
  for (const [a, b] of [
    [1n, 1n],
    [8n, 4n],
    [2n, 16n],
  ] as const)
    expect(multipliedUnits(a, b)).toBe(1n)
  expect(() => multipliedUnits(8n, 5n)).toThrow(RangeError)
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
