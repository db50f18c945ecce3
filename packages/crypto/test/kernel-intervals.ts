/**
 * The kernel's sources run on bounds instead of numbers: how large can each limb and each column get? The field layer's
 * lines are those that generate-field.mjs writes out for the kernels (`run`); the formulas above it (tower, groups, Miller
 * loop, final exponentiation) are the files that the kernels are compiled of, with the types taken off, and memory in which
 * a pair is a bound of its limbs and a wide value a bound of each of its columns (`kernelOnBounds`). Where a sum leaves its
 * 32 or 64 bits, or a double's sum the range in which its last place counts what it should, there is a RangeError. On
 * bounds that are single numbers a line computes.
 */
import { readFileSync } from 'node:fs'
import { transformSync } from 'esbuild'
import { constantsSource } from '../kernel/generate-constants.mjs'
import type { Field } from '../kernel/generate-field.mjs'
import type { Line } from '../kernel/line.mjs'
import { P } from '../kernel/prime.mjs'

export interface Interval {
  readonly low: bigint
  readonly high: bigint
  /** Its bits are a double's; those of zero are both. */
  readonly isDouble?: true
}
export const interval = (low: bigint, high = low): Interval => ({ low, high })
export const around = (size: bigint): Interval => interval(-size, size)
const sum = (a: Interval, b: Interval) => interval(a.low + b.low, a.high + b.high)
const minus = (a: Interval, b: Interval) => interval(a.low - b.high, a.high - b.low)
export const larger = (a: bigint, b: bigint): bigint => {
  if (a > b) return a
  return b
}
const smaller = (a: bigint, b: bigint): bigint => {
  if (a < b) return a
  return b
}
function times(a: Interval, b: Interval): Interval {
  const [w, x, y, z] = [a.low * b.low, a.low * b.high, a.high * b.low, a.high * b.high]
  return interval(smaller(smaller(w, x), smaller(y, z)), larger(larger(w, x), larger(y, z)))
}
export const sizeOf = ({ low, high }: Interval): bigint => larger(-low, high)
const isNumber = ({ low, high }: Interval): boolean => low === high
const shifted = ({ low, high }: Interval, bits: number) => interval(low >> BigInt(bits), high >> BigInt(bits))
/** value/2^bits, rounded to nearest, a half to even. */
function rounded({ low, high }: Interval, bits: number): Interval {
  const round = (value: bigint): bigint => {
    const half = 1n << BigInt(bits - 1)
    const up = (value + half) >> BigInt(bits)
    return (up << BigInt(bits)) - value === half && up & 1n ? up - 1n : up
  }
  return interval(round(low), round(high))
}

/** Of a sum, how many lower and upper parts, by their bits, are in it whose offset is not off yet. */
type Parts = Readonly<Record<string, number>>
function partsOf(a: Parts, b: Parts, sign: 1 | -1): Parts {
  const entries = [...new Set([...Object.keys(a), ...Object.keys(b)])].map(
    key => [key, (a[key] ?? 0) + sign * (b[key] ?? 0)] as const,
  )
  return Object.fromEntries(entries.filter(([, count]) => count !== 0))
}
/** Four places of 32 bits, or two of 64. */
interface Value {
  readonly places: readonly Interval[]
  readonly parts: Parts
}
/** What lies at an address, by the bytes of a limb, or the 8 of a column. */
export type Memory = Map<string, Interval>

function within(value: Interval, low: bigint, high: bigint, where: string): Interval {
  if (value.low < low || value.high > high) throw new RangeError(`${where}: ${value.low}…${value.high}`)
  return value
}
const signed32 = (value: Interval, where: string) => within(value, -(2n ** 31n), 2n ** 31n - 1n, where)
const signed64 = (value: Interval, where: string) => within(value, -(2n ** 63n), 2n ** 63n - 1n, where)
const unsigned64 = (value: Interval, where: string) => within(value, 0n, 2n ** 64n - 1n, where)
const small = (value: Interval, bits: number, where: string) =>
  within(value, -(1n << BigInt(bits)), 1n << BigInt(bits), where)

/** A double by its bits, as mantissa·2^−shift. */
function doubleOf(bits: bigint): readonly [mantissa: bigint, shift: number] {
  const exponent = Number(bits >> 52n)
  return [(bits & (2n ** 52n - 1n)) | (2n ** 52n), 1075 - exponent]
}

/** What a line reads before it writes there, and what it writes: pairs by base and number, wide values by base. */
interface Effects {
  readonly line: Line
  readonly parameters: readonly string[]
  readonly pairsIn: readonly (readonly [base: string, index: number])[]
  readonly widesIn: readonly string[]
  readonly pairsOut: readonly (readonly [base: string, index: number])[]
  readonly widesOut: readonly string[]
}

/** Both lanes of a pair: the largest size of the limbs below the top one, and of that, which tells how large the value is. */
export interface Pair {
  readonly limb: bigint
  readonly top: bigint
}
/** The largest size of each column. */
type Wide = readonly bigint[]
interface Outcome {
  readonly pairs: readonly Pair[]
  readonly wides: readonly Wide[]
}
/** How often what a line settles has each of its operands in it. */
const SETTLING: Readonly<Record<string, Readonly<Record<string, bigint>>>> = {
  settle: { a: 1n },
  settleSum: { a: 1n, b: 1n },
  settleRest: { a: 1n, b: 1n, c: 1n },
  settleMinus: { t: 3n, a: 2n },
  settlePlus: { t: 3n, a: 2n },
}
/** What `settle` leaves, in p. */
export const SETTLED = 17 / 32
const up = (value: bigint, bits: bigint): bigint => ((value + (1n << bits) - 1n) >> bits) << bits
const joined = (a: Pair, b: Pair): Pair => ({ limb: larger(a.limb, b.limb), top: larger(a.top, b.top) })
const WIDE_OPERATIONS = ['loadWide', 'storeWide']

export interface Machine {
  /** A function of a file of the kernel, its own ones too. */
  call(file: string, name: string, ...args: readonly number[]): void
  /** What a file has named. */
  address(file: string, name: string): number
  set(at: number, pair: Pair): void
  get(at: number): Pair
  /** A fresh place of that many pairs. */
  place(pairs: number): number
  /** An address as `load<u32>` finds it. */
  word(at: number, value: number): void
}
/** Words of a source in place of others: what a test breaks. */
export interface Change {
  readonly file: string
  readonly from: string
  readonly to: string
}

/** |t|. */
const T = 0xd201_0000_0001_0000n
/** Every digit that a NAF of width 5 has. */
const NAF = Array.from({ length: 17 }, (_, i) => (i === 8 ? 0 : 2 * i - (i < 8 ? 15 : 17)))

/** A field layer, and the kernel over it, on bounds. */
export type Bounds = ReturnType<typeof boundsOf>
export function boundsOf(field: Field) {
  const { BITS, LIMBS, PAIR, COLUMNS } = field
  /** Bytes of a limb of one lane. */
  const LIMB = PAIR / LIMBS / 2
  const MASK = (1n << BigInt(BITS)) - 1n
  const HALF = 1n << BigInt(BITS - 1)
  /** ½·2^BITS and what `carry` may leave above it. */
  const UNIT = HALF + 16n
  /** Bits below the top limb. */
  const BELOW_TOP = BITS * (LIMBS - 1)
  /** The top limb of a value that is p in size. */
  const TOP_OF_P = (P >> BigInt(BELOW_TOP)) + 1n
  /** Of values that `canonical` may be given. */
  const CANONICAL_TOP = TOP_OF_P << 9n
  const constants = field.constants as Readonly<
    Record<string, { type: string; limbs: readonly bigint[]; values: readonly bigint[] }>
  >

  /** Runs a line on intervals. RangeError where a value leaves its range. */
  function run({ operations }: Line, memory: Memory): void {
    const values: Value[] = []
    const held = (id: unknown): Value => values[id as number] as Value
    /** Without a double's offset in it. */
    const of = (id: unknown): readonly Interval[] => {
      const { places, parts } = held(id)
      if (Object.keys(parts).length > 0) throw new RangeError(`${JSON.stringify(parts)} in value ${id}`)
      return places
    }
    const isZero = ({ low, high }: Interval): boolean => low === 0n && high === 0n
    const integers = (places: readonly Interval[]): readonly Interval[] => {
      if (places.some(place => place.isDouble && !isZero(place)))
        throw new TypeError('a double among integers')
      return places
    }
    const doublesOf = (id: unknown): readonly Interval[] => {
      const places = of(id)
      if (!places.every(place => place.isDouble || isZero(place)))
        throw new TypeError('an integer among doubles')
      return places
    }
    const double = ({ low, high }: Interval): Interval => ({ low, high, isDouble: true })
    const read = (base: unknown, at: unknown): Interval => {
      const constant = constants[base as string]
      if (constant !== undefined) {
        const limb = interval(constant.limbs[Math.floor((at as number) / LIMB / 2)] as bigint)
        return constant.type === 'u64' ? double(limb) : limb
      }
      const found = memory.get(`${base}+${at}`)
      if (found === undefined) throw new Error(`nothing was put at ${base}+${at}`)
      return found
    }
    /** Biased by 2⁶³, columns are unsigned until they are shifted. */
    const biased = new Set<number>()
    operations.forEach(({ op, id, args }, n) => {
      const where = `operation ${n}, ${op}`
      const [first, second, third, fourth, fifth] = args
      const at = second as number
      const places = (f: (a: Interval, b: Interval) => Interval): readonly Interval[] =>
        integers(of(first)).map((a, i) => f(a, integers(of(second))[i] as Interval))
      /** Of two vectors of doubles. */
      const products = (limit: number): readonly Interval[] =>
        doublesOf(first).map((a, i) => {
          const b = doublesOf(second)[i] as Interval
          for (const factor of [a, b]) small(factor, 53, where)
          return small(times(a, b), limit, where)
        })
      const lowOf = (of: readonly Interval[]): readonly Interval[] =>
        of.map(a => (isNumber(a) ? interval(a.low & MASK) : interval(0n, MASK)))
      const shared = (): readonly Interval[] | undefined => {
        switch (op) {
          case 'load':
            return Array.from({ length: 16 / LIMB }, (_, i) => read(first, at + LIMB * i))
          case 'loadSplat':
            return Array.from({ length: 16 / LIMB }, () => read(first, at))
          case 'loadWide':
            return [read(first, at), read(first, at + 8)]
          case 'zero':
            return Array.from({ length: 16 / LIMB }, () => interval(0n))
          case 'lowWide':
            return lowOf(integers(of(first)))
          case 'highWide':
            // Logical: nothing negative is shifted.
            return integers(of(first)).map(a => shifted(unsigned64(a, where), BITS))
          case 'store':
            of(third).forEach((value, i) => {
              if (LIMB === 8 && !value.isDouble && !isZero(value)) throw new TypeError(`${where}: an integer`)
              memory.set(`${first}+${at + LIMB * i}`, value)
            })
            return []
          case 'storeWide':
            for (const i of [0, 1])
              memory.set(`${first}+${at + 8 * i}`, signed64(integers(of(third))[i] as Interval, where))
            return []
        }
        return undefined
      }
      /** Limbs of 28 bits in four places. */
      const narrow = (): readonly Interval[] => {
        switch (op) {
          case 'loadLimb':
            return [read(first, at), read(first, at + 4), interval(0n), interval(0n)]
          case 'add':
            return places((a, b) => signed32(sum(a, b), where))
          case 'sub':
            return places((a, b) => signed32(minus(a, b), where))
          case 'addHalf':
            return of(first).map(a => signed32(sum(a, interval(HALF)), where))
          case 'subHalf':
            return of(first).map(a => signed32(minus(a, interval(HALF)), where))
          case 'low':
            return lowOf(of(first))
          case 'high':
            return of(first).map(a => shifted(a, BITS))
          case 'multiplySmall':
            return of(first).map(a => signed32(times(a, interval(second as bigint)), where))
          case 'multiplyLimbs':
            return places((a, b) => signed32(times(a, b), where))
          case 'shuffle': {
            const [a, b] = [of(first), of(second)]
            // Columns move as pairs of places.
            if (a.length === 2 || b.length === 2) {
              const wide = (value: readonly Interval[]) =>
                (value.length === 2 ? value : [value[0], value[2]]) as readonly Interval[]
              const columns = [...wide(a), ...wide(b)]
              const [p, , q] = third as readonly number[]
              return [columns[(p as number) / 2] as Interval, columns[(q as number) / 2] as Interval]
            }
            return (third as readonly number[]).map(place => [...a, ...b][place] as Interval)
          }
          case 'multiply':
            return [0, 1].map(i =>
              signed64(times(of(first)[i] as Interval, of(second)[i] as Interval), where),
            )
          case 'addWide':
          case 'subWide': {
            const [a, b] = [of(first).slice(0, 2), of(second).slice(0, 2)]
            const isBiased = biased.has(first as number) || biased.has(second as number)
            if (isBiased) biased.add(id as number)
            return a.map((x, i) => {
              const value = op === 'addWide' ? sum(x, b[i] as Interval) : minus(x, b[i] as Interval)
              return isBiased ? unsigned64(value, where) : signed64(value, where)
            })
          }
          case 'addConstant': {
            const constant = second as bigint
            const isBias = constant > 2n ** 60n
            if (isBias) biased.add(id as number)
            return of(first).map(a => (isBias ? unsigned64 : signed64)(sum(a, interval(constant)), where))
          }
          case 'narrow':
            return [of(first)[0], of(first)[1], of(second)[0], of(second)[1]].map(a =>
              signed32(a as Interval, where),
            )
          case 'storeLimb':
            for (const i of [0, 1]) memory.set(`${first}+${at + 4 * i}`, of(third)[i] as Interval)
            return []
          default:
            throw new Error(`no meaning for ${op}`)
        }
      }
      /** Limbs of 49 bits in two places, sums mod 2⁶⁴: a range is asked for where they are used. */
      const withDoubles = (): Value => {
        const plain = (result: readonly Interval[]): Value => ({ places: result, parts: {} })
        switch (op) {
          case 'add':
          case 'sub': {
            const [a, b] = [doublesOf(first), doublesOf(second)]
            const above = operations.find(one => one.id === second)
            // What is left of a limb: as its `above` is rounded.
            if (op === 'sub' && above?.op === 'above' && above.args[0] === first)
              return plain(
                a.map((x, i) =>
                  double(isNumber(x) ? minus(x, b[i] as Interval) : around(smaller(HALF, sizeOf(x)))),
                ),
              )
            return plain(
              a.map((x, i) => double(small((op === 'add' ? sum : minus)(x, b[i] as Interval), 53, where))),
            )
          }
          case 'above':
            return plain(
              doublesOf(first).map(a => {
                const { low, high } = rounded(small(a, 53, where), BITS)
                return double(interval(low << BigInt(BITS), high << BigInt(BITS)))
              }),
            )
          case 'addAbove':
            return plain(
              doublesOf(first).map((a, i) =>
                double(small(sum(a, shifted(doublesOf(second)[i] as Interval, BITS)), 53, where)),
              ),
            )
          case 'addProduct':
            return plain(
              doublesOf(first).map((a, i) => {
                const product = times(doublesOf(second)[i] as Interval, doublesOf(third)[i] as Interval)
                return double(small(sum(a, small(product, 53, where)), 53, where))
              }),
            )
          case 'addWide':
          case 'subWide': {
            const [a, b] = [held(first), held(second)]
            const isSum = op === 'addWide'
            return {
              places: integers(a.places).map((x, i) =>
                (isSum ? sum : minus)(x, integers(b.places)[i] as Interval),
              ),
              parts: partsOf(a.parts, b.parts, isSum ? 1 : -1),
            }
          }
          case 'addConstant':
            return plain(integers(of(first)).map(a => sum(a, interval(second as bigint))))
          case 'addOffset': {
            const { places: before, parts } = held(first)
            return {
              places: integers(before).map(a => sum(a, interval(fifth as bigint))),
              parts: partsOf(parts, { lower: at, [`upper${fourth}`]: third as number }, -1),
            }
          }
          case 'shuffle': {
            const both = [...of(first), ...of(second)]
            const [p, , q] = third as readonly number[]
            return plain([both[(p as number) / 2] as Interval, both[(q as number) / 2] as Interval])
          }
          case 'toDouble':
            return plain(integers(of(first)).map(a => double(small(a, 51, where))))
          case 'upper': {
            const bits = third as number
            return {
              places: products(51 + bits).map(ab => rounded(ab, bits)),
              parts: { [`upper${bits}`]: 1 },
            }
          }
          case 'lower': {
            const bits = fourth as number
            const upper = operations.find(one => one.id === third)
            if (upper?.op !== 'upper' || [first, second, bits].some((arg, i) => upper.args[i] !== arg))
              throw new Error(`${where}: not of the same product`)
            return {
              places: products(51 + bits).map(ab => {
                if (isNumber(ab)) return interval(ab.low - (rounded(ab, bits).low << BigInt(bits)))
                return around(smaller(1n << BigInt(bits - 1), sizeOf(ab)))
              }),
              parts: { lower: 1 },
            }
          }
          case 'upperOn': {
            const bits = fourth as number
            const { places: before, parts } = held(third)
            if (JSON.stringify(parts) !== `{"upper${bits}":1}`)
              throw new RangeError(`${where}: ${JSON.stringify(parts)}`)
            // Each of the products so far, and this one, moved the sum by what was rounded.
            return {
              places: products(51 + bits).map((ab, i) => {
                const { low, high } = before[i] as Interval
                const total = sum(ab, interval(low << BigInt(bits), high << BigInt(bits)))
                return rounded(small(total, 51 + bits, where), bits)
              }),
              parts,
            }
          }
          case 'lowerOn': {
            const bits = fifth as number
            const upper = operations.find(one => one.id === fourth)
            if (
              upper?.op !== 'upperOn' ||
              [first, second, third, bits].some((arg, i) => upper.args[i] !== arg)
            )
              throw new Error(`${where}: not of the same product`)
            const [before, after] = [held(third).places, held(fourth).places]
            return plain(
              products(51 + bits).map((ab, i) => {
                const [x, y] = [before[i] as Interval, after[i] as Interval]
                if (isNumber(ab) && isNumber(x))
                  return double(interval(ab.low - ((y.low - x.low) << BigInt(bits))))
                return double(around(smaller(1n << BigInt(bits - 1), sizeOf(ab))))
              }),
            )
          }
          case 'addLower': {
            const { places: lower, parts } = held(first)
            const more = operations.find(one => one.id === second)
            const before = operations.find(one => one.id === first)
            const last =
              before?.op === 'addLower' ? operations.find(one => one.id === before.args[1]) : before
            if (more?.op !== 'lowerOn' || last?.args[last.op === 'lower' ? 2 : 3] !== more.args[2])
              throw new Error(`${where}: not of the same sum`)
            if (JSON.stringify(parts) !== '{"lower":1}')
              throw new RangeError(`${where}: ${JSON.stringify(parts)}`)
            const added = doublesOf(second)
            return { places: lower.map((a, i) => small(sum(a, added[i] as Interval), 51, where)), parts }
          }
          case 'lowerDouble': {
            const { places: before, parts } = held(first)
            if (Object.keys(partsOf(parts, { lower: 1 }, -1)).length > 0)
              throw new RangeError(`${where}: ${JSON.stringify(parts)}`)
            return plain(before.map(a => double(small(a, 51, where))))
          }
          case 'lowDouble':
            return plain(
              integers(of(first)).map(a =>
                double(isNumber(a) ? interval((a.low & MASK) - HALF) : interval(-HALF, HALF - 1n)),
              ),
            )
          case 'nearest': {
            const [mantissa, shift] = doubleOf(constants[second as string]?.values[0] as bigint)
            return plain(
              doublesOf(first).map(a =>
                double(small(rounded(times(a, interval(mantissa)), shift), 51, where)),
              ),
            )
          }
          default:
            throw new Error(`no meaning for ${op}`)
        }
      }
      const result = shared()
      const value: Value =
        result === undefined && LIMB === 8 ? withDoubles() : { places: result ?? narrow(), parts: {} }
      if (id !== undefined) values[id] = value
    })
  }

  const line = (name: string): Line => {
    const found = field.functions.find(one => one.name === name)
    if (found === undefined) throw new Error(`no ${name}`)
    return found.line
  }

  /** Rounded up, so that few different bounds come up, and each is run once. */
  const coarse = ({ limb, top }: Pair): Pair => ({ limb: up(limb, 5n), top: up(top, BigInt(BITS - 19)) })
  const pairOf = (units: bigint, timesP: number): Pair =>
    coarse({ limb: units * UNIT, top: (BigInt(Math.round(32 * timesP)) * TOP_OF_P) / 32n })

  function effectsOf({ line: of, parameters }: Field['functions'][number]): Effects {
    const written = new Set<string>()
    const pairs = { in: new Set<string>(), out: new Set<string>() }
    const wides = { in: new Set<string>(), out: new Set<string>() }
    for (const { op, args } of of.operations) {
      const [base, at] = args as [string, number]
      if (!parameters.includes(base)) continue
      const isStore = op.startsWith('store')
      const isWide = WIDE_OPERATIONS.includes(op)
      const place = `${base}+${at}`
      if (isStore) written.add(place)
      else if (written.has(place)) continue
      const { in: reads, out: writes } = isWide ? wides : pairs
      ;(isStore ? writes : reads).add(isWide ? base : `${base} ${Math.floor(at / PAIR)}`)
    }
    const listed = (set: Set<string>) =>
      [...set].map(entry => {
        const [base, index] = entry.split(' ')
        return [base as string, Number(index)] as const
      })
    return {
      line: of,
      parameters,
      pairsIn: listed(pairs.in),
      widesIn: [...wides.in],
      pairsOut: listed(pairs.out),
      widesOut: [...wides.out],
    }
  }

  /** A limb as it lies in memory. */
  const limbOf = (bound: Interval): Interval => (LIMB === 8 ? { ...bound, isDouble: true } : bound)
  /** A line's outcome for the bounds of what it reads. */
  function outcomeOf(
    name: string,
    effects: Effects,
    pairs: readonly Pair[],
    wides: readonly Wide[],
  ): Outcome {
    const memory: Memory = new Map()
    effects.pairsIn.forEach(([base, index], n) => {
      const { limb, top } = pairs[n] as Pair
      for (let i = 0; i < 2 * LIMBS; i++)
        memory.set(`${base}+${PAIR * index + LIMB * i}`, limbOf(around(i < 2 * LIMBS - 2 ? limb : top)))
    })
    effects.widesIn.forEach((base, n) => {
      for (let k = 0; k < 2 * COLUMNS; k++)
        memory.set(`${base}+${8 * k}`, around((wides[n] as Wide)[k >> 1] as bigint))
    })
    run(effects.line, memory)
    const size = (place: string) => sizeOf(memory.get(place) as Interval)
    return {
      pairs: effects.pairsOut.map(([base, index]) => {
        const limbs = Array.from({ length: 2 * LIMBS }, (_, i) => size(`${base}+${PAIR * index + LIMB * i}`))
        const top = limbs.splice(-2).reduce(larger)
        // What `settle` takes off is the nearest multiple of p: see the test of its own.
        const weights = SETTLING[name]
        if (weights !== undefined) {
          const before = effects.pairsIn.reduce(
            (total, [base], n) => total + (weights[base] as bigint) * (pairs[n] as Pair).top,
            0n,
          )
          if (before > 8n * TOP_OF_P) throw new RangeError(`${name}: ${before}`)
          return coarse({ limb: limbs.reduce(larger), top: smaller(top, pairOf(1n, SETTLED).top) })
        }
        return coarse({ limb: limbs.reduce(larger), top })
      }),
      wides: effects.widesOut.map(base =>
        Array.from({ length: COLUMNS }, (_, k) =>
          up(larger(size(`${base}+${16 * k}`), size(`${base}+${16 * k + 8}`)), LIMB === 4 ? 30n : 24n),
        ),
      ),
    }
  }
  const EFFECTS = new Map(field.functions.map(one => [one.name, effectsOf(one)]))
  const outcomes = new Map<string, Outcome>()
  function remembered(name: string, pairs: readonly Pair[], wides: readonly Wide[]): Outcome {
    const key = `${name} ${pairs.map(({ limb, top }) => `${limb},${top}`).join(' ')} ${wides.join(' ')}`
    const found = outcomes.get(key)
    if (found !== undefined) return found
    let outcome = outcomeOf(name, EFFECTS.get(name) as Effects, pairs, wides)
    if (name === 'squareWide2' && LIMB === 4) {
      // Column by column it is the product of a with itself, whose bound is the closer one; a test compares them.
      const [a] = pairs as readonly [Pair]
      const [other] = remembered('multiplyWide2', [a, a], []).wides as readonly [Wide]
      const [own] = outcome.wides as readonly [Wide]
      outcome = { pairs: [], wides: [own.map((column, k) => smaller(column, other[k] as bigint))] }
    }
    outcomes.set(key, outcome)
    return outcome
  }

  /** @param verdict What isZero and its like say: decisions are not the business of bounds. */
  function kernelOnBounds(verdict: () => number, change?: Change): Machine {
    const pairs = new Map<number, Pair>()
    const wides = new Map<number, Wide>()
    /** What `load` finds: bytes of constants, and words that a test puts. */
    const bytes = new Map<number, number>()
    let free = 1 << 20
    const zero: Pair = { limb: 0n, top: 0n }
    const take = (size: number): number => {
      const at = free
      free += Math.ceil(size / 16) * 16
      return at
    }
    const get = (at: number): Pair => {
      const found = pairs.get(at)
      if (found === undefined) throw new Error(`nothing was put at ${at}`)
      return found
    }
    const set = (at: number, pair: Pair): void => {
      pairs.set(at, pair)
    }
    const memory = {
      data: (size: number) => take(size),
      bytes(values: readonly number[]) {
        const at = take(values.length)
        for (const [i, value] of values.entries()) bytes.set(at + i, value)
        return at
      },
      limbs(values: readonly number[]) {
        const at = take(LIMB * values.length)
        for (let k = 0; k + 2 * LIMBS <= values.length; k += 2 * LIMBS) {
          const sizes = values.slice(k, k + 2 * LIMBS).map(value => larger(BigInt(value), -BigInt(value)))
          const top = sizes.splice(-2).reduce(larger)
          set(at + LIMB * k, coarse({ limb: sizes.reduce(larger), top }))
        }
        return at
      },
      words: (values: readonly number[]) => take(4 * values.length),
      copy(to: number, from: number, size: number) {
        if (size % PAIR !== 0) throw new Error(`${size} bytes are not pairs`)
        const all = Array.from({ length: size / PAIR }, (_, i) => pairs.get(from + PAIR * i))
        for (const [i, pair] of all.entries()) if (pair !== undefined) set(to + PAIR * i, pair)
      },
      fill(to: number, _value: number, size: number) {
        for (let at = 0; at + PAIR <= size; at += PAIR) set(to + at, zero)
      },
    }

    const layer = Object.fromEntries(
      [...EFFECTS].map(([name, effects]) => [
        name,
        (...addresses: number[]) => {
          const of = (base: string) => addresses[effects.parameters.indexOf(base)] as number
          const wide = (base: string): Wide => {
            const found = wides.get(of(base))
            if (found === undefined) throw new Error(`${name}: no columns at ${base}`)
            return found
          }
          const outcome = remembered(
            name,
            effects.pairsIn.map(([base, index]) => get(of(base) + PAIR * index)),
            effects.widesIn.map(wide),
          )
          effects.pairsOut.forEach(([base, index], n) => {
            set(of(base) + PAIR * index, outcome.pairs[n] as Pair)
          })
          effects.widesOut.forEach((base, n) => {
            wides.set(of(base), outcome.wides[n] as Wide)
          })
        },
      ]),
    ) as Record<string, (...addresses: number[]) => void>
    const call = (name: string) => layer[name] as (...addresses: number[]) => void
    const composed = take(16 * COLUMNS)
    const wideInput = take(PAIR)
    layer.multiply = (r, a, b) => {
      call('multiplyWide')(composed, a as number, b as number)
      call('reduce')(r as number, composed)
    }
    layer.square = (r, a) => {
      call('squareWide')(composed, a as number)
      call('reduce')(r as number, composed)
    }

    /** What a canonical value is asked for: it is reduced as columns of its own limbs, and p is taken off three times. */
    const canonical = (at: number): void => {
      const { limb, top } = get(at)
      if (top > CANONICAL_TOP) throw new RangeError(`a canonical value of a top limb of ${top}`)
      const columns = Array.from({ length: COLUMNS }, (_, k) =>
        k < LIMBS - 1 ? limb : k === LIMBS - 1 ? top : 0n,
      )
      remembered('reduce', [], [columns])
    }
    const asked = (at: number): number => {
      canonical(at)
      return verdict()
    }
    const join = (r: number, ...from: readonly number[]) => set(r, from.map(get).reduce(joined))
    /** Limbs of 48 bytes. */
    const read: Pair = { limb: 2n * HALF, top: 1n << BigInt(384 - BELOW_TOP) }
    const modules: Record<string, Record<string, unknown>> = {
      './field': { ...layer, PAIR, WIDE: field.WIDE, LIMB, LIMBS, LIMB_BITS: BITS, laneMask: () => 0 },
      './scalar': {
        bitOfT: (i: number) => ((T >> BigInt(i)) & 1n) === 1n,
        digitsOf() {},
        halvesOf() {},
        alignedDigits() {},
        nafOf(to: number) {
          for (const [i, digit] of NAF.entries()) bytes.set(to + i, digit)
          return NAF.length
        },
      },
      './table': {
        lookUp(r: number, table: number, entries: number, size: number) {
          for (let at = 0; at < size; at += PAIR)
            join(r + at, ...Array.from({ length: entries }, (_, i) => table + size * i + at))
        },
      },
      './codec': {
        canonical: (_to: number, at: number) => canonical(at),
        isZero: asked,
        isZero2: asked,
        isLarger: asked,
        parity: asked,
        isReduced: () => 1,
        readInteger: (r: number) => set(r, read),
        readWide(r: number) {
          set(r, read)
          layer.multiply?.(r, r, constant('RR384'))
          set(wideInput, read)
          layer.multiply?.(wideInput, wideInput, constant('RR'))
          call('add')(r, r, wideInput)
          call('carry')(r, r)
        },
        toMontgomery: (r: number, a: number) => layer.multiply?.(r, a, constant('RR')),
        writeBytes: (_to: number, a: number) => canonical(a),
        select: (r: number, a: number, b: number) => join(r, a, b),
      },
      './inverse': {
        invert(r: number, a: number) {
          canonical(a)
          set(r, read)
          layer.multiply?.(r, r, constant('RR'))
        },
      },
    }
    const constant = (name: string): number => address('constants', name)

    function file(name: string): Readonly<Record<string, unknown>> {
      const path = `./${name}`
      const known = modules[path]
      if (known !== undefined) return known
      const source =
        name === 'constants'
          ? constantsSource(field)
          : readFileSync(new URL(`../kernel/${name}.ts`, import.meta.url), 'utf8')
      const isChanged = change?.file === name
      if (isChanged && source.split(change.from).length !== 2)
        throw new Error(`${change.from} stands elsewhere than once in ${name}`)
      const typed = (isChanged ? source.replace(change.from, change.to) : source)
        .replaceAll(/^(?:function|const) /gm, 'export $&')
        .replaceAll('memory.data<u8>(', 'memory.bytes(')
        .replaceAll(`memory.data<${field.limbType}>(`, 'memory.limbs(')
        .replaceAll('memory.data<i32>(', 'memory.words(')
      const { code } = transformSync(typed, { loader: 'ts', format: 'cjs' })
      const module = { exports: {} as Record<string, unknown> }
      const surroundings = {
        module,
        exports: module.exports,
        require: (wanted: string) => modules[wanted] ?? file(wanted.slice(2)),
        memory,
        load: (at: number) => bytes.get(at) ?? 0,
        store() {},
        abs: Math.abs,
      }
      new Function(...Object.keys(surroundings), code)(...Object.values(surroundings))
      modules[path] = module.exports
      return module.exports
    }
    function address(from: string, name: string): number {
      const found = file(from)[name]
      if (typeof found !== 'number') throw new Error(`${from} has no place ${name}`)
      return found
    }
    return {
      call(from, name, ...args) {
        const found = file(from)[name]
        if (typeof found !== 'function') throw new Error(`${from} has no function ${name}`)
        found(...args)
      },
      address,
      set,
      get,
      place: count => take(PAIR * count),
      word(at, value) {
        bytes.set(at, value)
      },
    }
  }

  return { field, run, line, limbOf, pairOf, kernelOnBounds, LIMB, HALF, UNIT, BELOW_TOP, TOP_OF_P }
}
