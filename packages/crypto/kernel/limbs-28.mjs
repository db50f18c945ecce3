/**
 * Elements of Fp as 14 signed limbs of 28 bits, for the 128-bit vectors that every WebAssembly with SIMD has.
 *
 * A pair interleaves both elements' limbs as u32, limb i of both lanes at byte 8i; 112 bytes. A wide value has 27 columns per
 * lane.
 *
 * Why 14 × 28 and not 13 × 30: 28 products of 28-bit limbs stay below 2⁶¹, so no carry is needed inside a product, sums
 * and differences of products are plain additions of columns (lazy reduction), and two limbs fill a vector.
 */
import { balancedLimbsOf, limbsOf, minusInverseOfP, P } from './prime.mjs'

/** @import { Line, Spelling } from './line.mjs' */

const LIMBS = 14
const BITS = 28
const VECTORS = LIMBS / 2
const COLUMNS = 2 * LIMBS - 1
const BASE = 1n << BigInt(BITS)
const MASK = BASE - 1n

/** μ = −p⁻¹ mod 2²⁸. */
const MU = minusInverseOfP(BITS)
/**
 * μp ≡ −1 mod 2²⁸. A reduction row that adds m·μp with m = the lowest column clears it without a multiplication:
 * the column's upper part is carried, and m·(μp + 1)/2²⁸ is added from the next column on.
 */
const NEXT = (MU * P + 1n) >> BigInt(BITS)
const P_BALANCED = balancedLimbsOf(P, BITS, LIMBS)
if (NEXT >> BigInt(LIMBS * BITS) !== 0n) throw new Error('μp has too many limbs')

/**
 * Columns are made positive before they are shifted: 2⁶³ is added, and what that adds to the carry, 2³⁵, is taken off
 * the next column.
 */
const BIAS = 1n << 63n
const BIASED_CARRY = 1n << 35n
/** 2²⁸·2³⁶⁴/p, rounded. */
const QUOTIENT = ((1n << BigInt(BITS * LIMBS + 1)) + P) / (2n * P)

/** What is done to each of the 7 vectors of a pair. @param {Line} l @param {(at: number) => void} body */
const eachVector = (l, body) => l.each(VECTORS, 16, body)
/**
 * The lanes of two vectors side by side.
 *
 * @param {Line} l @param {number} a @param {number} b @param {string} places of two lanes: '0'/'1' of a, '2'/'3' of b
 */
function lanes(l, a, b, places) {
  const [x = 0, y = 0] = [...places].map(Number).map(place => (place < 2 ? place : place + 2))
  return l.shuffle(a, b, [x, y, x + 2, y + 2])
}

/**
 * One parallel, balanced carry of seven vectors: limbs 0…12 come out in ±(2²⁷ + 2⁴), the top limb keeps what is above.
 *
 * @param {Line} l @param {readonly number[]} vectors
 */
function carried(l, vectors) {
  let before = l.zero()
  return vectors.map((a, v) => {
    const half = l.addHalf(a)
    const up = l.high(half)
    const low = l.subHalf(l.low(half))
    // The top limb is not cut.
    const kept = v === VECTORS - 1 ? l.shuffle(low, a, [0, 1, 6, 7]) : low
    const sum = l.add(kept, l.shuffle(before, up, [2, 3, 4, 5]))
    before = up
    return sum
  })
}

/**
 * q·p is taken off, q = ⌊a₁₃·2520/2²⁸ + ½⌋ the multiple of p that is nearest by the top limb (2²⁸/2520 ≈ p/2³⁶⁴).
 *
 * @param {Line} l @param {readonly number[]} a
 */
function settled(l, a) {
  const last = /** @type {number} */ (a[VECTORS - 1])
  const top = l.shuffle(last, last, [2, 3, 2, 3])
  const q = l.high(l.addHalf(l.multiplySmall(top, QUOTIENT)))
  return carried(
    l,
    a.map((vector, v) => l.sub(vector, l.multiplyLimbs(q, l.load('BALANCED', 16 * v)))),
  )
}

/** @typedef {(l: Line, at: number) => number} Limb limb `at`/8 of a factor, as an operand of both lanes */
/** @type {(base: string) => Limb} */
const limb = base => (l, at) => l.loadLimb(base, at)
/** @type {(base: string, lane: number) => Limb} */
const splat = (base, lane) => (l, at) => l.loadSplat(base, at + 4 * lane)

/**
 * A sum of products of 14 limbs each, a's two limbs at a time: columns are written down in between, so that the line is
 * short, which matters more than the loads it costs: code that is run a few times a microsecond must fit into the
 * processor's buffers of decoded instructions.
 *
 * @param {Line} l @param {readonly (readonly [a: Limb, b: Limb])[]} terms @param {string} [walks] what a's limbs are read from
 */
function product(l, terms, walks = 'a') {
  /** a's limbs at `at` and `at` + 8, times b, onto the columns that are there: all of their own but the last two. */
  const twoRows = (/** @type {number} */ at, /** @type {boolean} */ isFirst) => {
    const rows = terms.map(([a]) => /** @type {const} */ ([a(l, at), a(l, at + 8)]))
    /** b's limbs that the second row is multiplied with: those of the first in the column before. @type {number[]} */
    let before = []
    for (let j = 0; j <= LIMBS; j++) {
      const now = j < LIMBS ? terms.map(([, b]) => b(l, 8 * j)) : []
      const column = 2 * at + 16 * j
      let acc = isFirst || j >= LIMBS - 1 ? undefined : l.loadWide('w', column)
      for (const [t, [first, second]] of rows.entries()) {
        for (const [a, b] of /** @type {const} */ ([
          [first, now[t]],
          [second, before[t]],
        ])) {
          if (b === undefined) continue
          const term = l.multiply(a, b)
          acc = acc === undefined ? term : l.addWide(acc, term)
        }
      }
      l.storeWide('w', column, /** @type {number} */ (acc))
      before = now
    }
  }
  twoRows(0, true)
  l.each(VECTORS - 1, 16, at => twoRows(16 + at, false), { b: 0, T0: 0, T1: 0, [walks]: 1, w: 2 })
}

/** Twice the limbs of a, in T0. @param {Line} l */
const doubleInto0 = l =>
  eachVector(l, at => {
    const a = l.load('a', at)
    l.store('T0', at, l.add(a, a))
  })
/** Column k of a², from a and T0: Σ_{i<j} a_i·(2a_j) and the squares. @param {Line} l @param {number} k */
function squareColumnOf(l, k) {
  let acc
  for (let i = Math.max(0, k - LIMBS + 1); 2 * i <= k; i++) {
    const a = l.loadLimb('a', 8 * i)
    const term = l.multiply(a, 2 * i === k ? a : l.loadLimb('T0', 8 * (k - i)))
    acc = acc === undefined ? term : l.addWide(acc, term)
  }
  return /** @type {number} */ (acc)
}

/** @param {Line} l */
function multiplyWide2(l) {
  eachVector(l, at => {
    const b = l.load('b', at)
    l.store('T0', at, lanes(l, l.sub(l.zero(), b), b, '12'))
  })
  product(l, [
    [splat('a', 0), limb('b')],
    [splat('a', 1), limb('T0')],
  ])
}
/** @param {Line} l */
function squareWide2(l) {
  eachVector(l, at => {
    const a = l.load('a', at)
    const swapped = lanes(l, a, a, '10')
    l.store('T0', at, l.add(lanes(l, a, a, '00'), swapped))
    l.store('T1', at, l.sub(a, lanes(l, swapped, l.zero(), '03')))
  })
  product(l, [[limb('T0'), limb('T1')]], 'T0')
}

/**
 * r = w·R⁻¹ in [w/R − p, w/R + p). 13 rows with μp, which need no multiplication by μ, then one with p itself, so that
 * what was added is below 2³⁶⁴·μp + 2³⁹²·p < 2·2³⁹²·p; then −p, among the constants of the columns. Limbs 0…12 come out balanced, in [−2²⁷, 2²⁷), the top limb signed.
 */
function reduction(/** @type {Line} */ l, /** @type {(k: number) => number} */ column) {
  /** @type {number[]} */
  const rows = []
  /** @type {number[]} */
  const limbs = []
  let carry
  for (let k = 0; k < COLUMNS; k++) {
    let acc = column(k)
    acc = l.addConstant(
      acc,
      (k === 0 ? BIAS : BIAS - BIASED_CARRY) +
        (k < LIMBS ? 0n : BASE / 2n - /** @type {bigint} */ (P_BALANCED[k - LIMBS])),
    )
    for (let i = 0; i < Math.min(k, LIMBS - 1); i++) {
      const j = k - 1 - i
      if (j < LIMBS && i < k - 1)
        acc = l.addWide(acc, l.multiply(/** @type {number} */ (rows[i]), l.loadLimb('NEXT', 8 * j)))
    }
    if (k >= LIMBS)
      acc = l.addWide(
        acc,
        l.multiply(/** @type {number} */ (rows[LIMBS - 1]), l.loadLimb('PRIME', 8 * (k - LIMBS + 1))),
      )
    // The youngest row last: everything else does not wait for it.
    if (k >= 1 && k - 1 < LIMBS - 1)
      acc = l.addWide(acc, l.multiply(/** @type {number} */ (rows[k - 1]), l.loadLimb('NEXT', 0)))
    if (carry !== undefined) acc = l.addWide(acc, carry)
    if (k < LIMBS - 1) {
      const m = l.lowWide(acc)
      rows.push(l.narrow(m, m))
    } else if (k === LIMBS - 1) {
      const m = l.lowWide(acc)
      const last = l.lowWide(l.multiply(l.narrow(m, m), l.loadLimb('MU', 0)))
      rows.push(l.narrow(last, last))
      acc = l.addWide(acc, l.multiply(/** @type {number} */ (rows[k]), l.loadLimb('PRIME', 0)))
    } else {
      limbs.push(l.lowWide(acc))
    }
    carry = l.highWide(acc)
  }
  limbs.push(
    l.addConstant(
      /** @type {number} */ (carry),
      BASE / 2n - BIASED_CARRY - /** @type {bigint} */ (P_BALANCED[LIMBS - 1]),
    ),
  )
  for (let i = 0; i < LIMBS; i += 2)
    l.store(
      'r',
      8 * i,
      l.subHalf(l.narrow(/** @type {number} */ (limbs[i]), /** @type {number} */ (limbs[i + 1]))),
    )
}

/** @type {Spelling} */
const SPELLING = {
  load: ([base, at]) => `v128.load(${base}, ${at})`,
  loadWide: ([base, at]) => `v128.load(${base}, ${at})`,
  loadLimb: ([base, at]) => `v128.load64_zero(${base}, ${at})`,
  loadSplat: ([base, at]) => `v128.load32_splat(${base}, ${at})`,
  add: ([a, b], v) => `i32x4.add(${v(a)}, ${v(b)})`,
  sub: ([a, b], v) => `i32x4.sub(${v(a)}, ${v(b)})`,
  low: ([a], v) => `v128.and(${v(a)}, i32x4.splat(${MASK}))`,
  addHalf: ([a], v) => `i32x4.add(${v(a)}, i32x4.splat(${BASE / 2n}))`,
  subHalf: ([a], v) => `i32x4.sub(${v(a)}, i32x4.splat(${BASE / 2n}))`,
  multiplySmall: ([a, constant], v) => `i32x4.mul(${v(a)}, i32x4.splat(${constant}))`,
  multiplyLimbs: ([a, b], v) => `i32x4.mul(${v(a)}, ${v(b)})`,
  high: ([a], v) => `i32x4.shr_s(${v(a)}, ${BITS})`,
  shuffle: ([a, b, places], v) => `v128.shuffle<u32>(${v(a)}, ${v(b)}, ${places.join(', ')})`,
  zero: () => 'i64x2.splat(0)',
  multiply: ([a, b], v) => `i64x2.extmul_low_i32x4_s(${v(a)}, ${v(b)})`,
  addWide: ([a, b], v) => `i64x2.add(${v(a)}, ${v(b)})`,
  subWide: ([a, b], v) => `i64x2.sub(${v(a)}, ${v(b)})`,
  addConstant: ([a, constant], v) => `i64x2.add(${v(a)}, i64x2.splat(${BigInt.asIntN(64, constant)}))`,
  lowWide: ([a], v) => `v128.and(${v(a)}, i64x2.splat(${MASK}))`,
  highWide: ([a], v) => `i64x2.shr_u(${v(a)}, ${BITS})`,
  narrow: ([a, b], v) => `v128.shuffle<u32>(${v(a)}, ${v(b)}, 0, 2, 4, 6)`,
  store: ([base, at, value], v) => `v128.store(${base}, ${v(value)}, ${at})`,
  storeWide: ([base, at, value], v) => `v128.store(${base}, ${v(value)}, ${at})`,
  storeLimb: ([base, at, value], v) => `v128.store64_lane(${base}, ${v(value)}, 0, ${at})`,
}

/** @param {string} type @param {readonly bigint[]} limbs of both lanes */
const constant = (type, limbs) => ({ type, limbs, values: limbs.flatMap(limb => [limb, limb]) })

export const LIMBS_28 = {
  LIMBS,
  BITS,
  VECTORS,
  COLUMNS,
  limbType: 'i32',
  /** Constants that the lines name; each is an address. */
  constants: {
    NEXT: constant('i32', limbsOf(NEXT, BITS, LIMBS)),
    PRIME: constant('i32', limbsOf(P, BITS, LIMBS)),
    BALANCED: constant('i32', P_BALANCED),
    MU: constant('i32', [MU]),
  },
  scratch: ['T0', 'T1'],
  /** A sum is added up first, and then settled: in one it would take half a kilobyte each time. */
  areSumsSettledInline: false,
  lanes,
  settled,
  /** @type {Readonly<Record<string, (l: Line) => void>>} */
  lines: {
    carry: l => l.storeAll('r', carried(l, l.loadAll('a', VECTORS))),
    multiplyWide: l => product(l, [[limb('a'), limb('b')]]),
    squareWide(l) {
      doubleInto0(l)
      for (let k = 0; k < COLUMNS; k++) l.storeWide('w', 16 * k, squareColumnOf(l, k))
    },
    multiplyWide2,
    squareWide2,
    reduce: l => reduction(l, k => l.loadWide('w', 16 * k)),
  },
  spelling: SPELLING,
  /** What stands before the functions. */
  preface: `
/** For \`select\`: the lane 0 where m0 is −1, the lane 1 where m1 is. */
export function laneMask(m0: i32, m1: i32): v128 {
  return i64x2.splat(((<i64>m1) << 32) | (<i64>m0 & 0xffff_ffff))
}`,
  prelude: () => /** @type {string[]} */ ([]),
  pooled: () => /** @type {string[]} */ ([]),
}
