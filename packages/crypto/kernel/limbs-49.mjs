/**
 * Elements of Fp as 8 signed limbs of 49 bits, for WebAssembly with relaxed SIMD on a processor that multiplies and adds
 * doubles in one rounding (FMA).
 *
 * A pair is 8 vectors of doubles, limb i of both lanes at byte 16i; 128 bytes. Each is a whole number, so that sums are exact
 * below 2⁵³. A wide value has 16 columns per lane.
 *
 * A product ab of two limbs, which has up to 101 bits, is taken as two doubles that are exact (Emmart, Zheng, Weems 2018,
 * here with rounding to nearest and signed parts):
 *   upper = ab + 1.5·2¹⁰², of which the sum keeps h = ab/2⁵⁰, rounded, since its last place counts 2⁵⁰;
 *   lower = ab + (1.5·2¹⁰² − upper + 1.5·2⁵²) = ab − h·2⁵⁰ + 1.5·2⁵², |ab − h·2⁵⁰| ≤ 2⁴⁹, whose last place counts 1.
 * Their bits, taken for 64-bit integers, are h and ab − h·2⁵⁰ and a constant. So they are added as integers, as they are;
 * `addOffset` takes the constants off, all of a column's at once. That h counts 2⁵⁰, twice the next column, and not 2⁴⁹ leaves
 * a bit for sums: |ab| may be 2¹⁰¹, 32 times a product of limbs of 2⁴⁸. No formula comes near (0.56 times 2¹⁰¹, in a Jacobian
 * doubling), which matters where limbs were carried and may be a few units above 2⁴⁸.
 *
 * Two products ab and cd can share both parts:
 *   upper' = cd + upper, lower' = lower + (cd + (upper − upper')),
 * with h counting 2⁵¹: then |ab + cd| may be 2¹⁰², so each of them 2¹⁰¹ as before, and what is left of each is ≤ 2⁵⁰, of both ≤ 2⁵¹.
 */
import { balancedLimbsOf, minusInverseOfP, P } from './prime.mjs'

/** @import { Line, Operation, Spelling } from './line.mjs' */

const LIMBS = 8
const BITS = 49
const COLUMNS = 2 * LIMBS
const HALF = 1n << BigInt(BITS - 1)
const MASK = 2n * HALF - 1n
/** Above the next column's. */
const SPLIT = BITS + 1

/** The bits of a double. @param {bigint | number} value */
function bitsOf(value) {
  const view = new DataView(new ArrayBuffer(8))
  view.setFloat64(0, Number(value))
  return view.getBigUint64(0)
}
const LOWER = 3n << 51n
/** @param {number} bits */
const upperOf = bits => 3n << BigInt(51 + bits)

/**
 * k·p ≡ −1 mod 2^(49·rows), |k| < 2^(49·rows − 1): to add q·kp, q the lowest `rows` columns, clears them without a
 * multiplication: their upper part is carried, and q·(kp + 1)/2^(49·rows) is added from the next column on. What is added is
 * q·kp < 2^(98·rows)·p in all: where the first of these columns is number c, it stays below R·p for c + 2·rows ≤ 8.
 *
 * So the eight columns are cleared in four steps, of 4, 2, 1 and 1, within which no column waits for another's products. The
 * last one is cleared by p itself, with q = column·μ.
 */
const STEPS = [4, 2, 1].map(rows => {
  const bits = BITS * rows
  const k = BigInt.asIntN(bits, minusInverseOfP(bits))
  return { rows, name: `NEXT${rows}`, limbs: balancedLimbsOf((k * P + 1n) >> BigInt(bits), BITS, LIMBS) }
})
const LAST = LIMBS - 1
const MU = BigInt.asIntN(BITS, minusInverseOfP(BITS))
const P_BALANCED = balancedLimbsOf(P, BITS, LIMBS)

/** What makes a column positive before it is shifted, and what that adds to the carry. */
const BIAS = 1n << 62n
const BIASED_CARRY = BIAS >> BigInt(BITS)

/**
 * The lanes of two vectors side by side.
 *
 * @param {Line} l @param {number} a @param {number} b @param {string} places of two lanes: '0'/'1' of a, '2'/'3' of b
 */
function lanes(l, a, b, places) {
  const [x = 0, y = 0] = [...places].map(Number)
  return l.shuffle(a, b, [2 * x, 2 * x + 1, 2 * y, 2 * y + 1])
}

/**
 * One parallel, balanced carry of eight vectors: limbs 0…6 come out in ±(2⁴⁸ + 2⁴), the top limb keeps what is above.
 *
 * @param {Line} l @param {readonly number[]} vectors
 */
function carried(l, vectors) {
  /** @type {number | undefined} */
  let before
  return vectors.map((a, i) => {
    const above = i === LAST ? undefined : l.above(a)
    // The top limb is not cut.
    const kept = above === undefined ? a : l.sub(a, above)
    const sum = before === undefined ? kept : l.addAbove(kept, before)
    before = above
    return sum
  })
}

/**
 * q·p is taken off, q the multiple of p that is nearest by the top limb: its 2³⁴³/p-th part, rounded.
 *
 * @param {Line} l @param {readonly number[]} a
 */
function settled(l, a) {
  const q = l.nearest(/** @type {number} */ (a[LAST]), 'QUOTIENT', 0)
  return carried(
    l,
    a.map((vector, i) => l.addProduct(vector, q, l.load('MINUS_P', 16 * i))),
  )
}

/** What is made of a factor's limbs. */
const [A, B] = /** @type {const} */ (['T0', 'T1'])

/** @typedef {(l: Line, i: number) => number} Factor limb i of a factor, of both lanes, as a double */
/** @type {(base: string) => Factor} */
const both = base => (l, i) => l.load(base, 16 * i)
/** @type {(base: string, lane: number) => Factor} */
const one = (base, lane) => (l, i) => l.loadSplat(base, 16 * i + 8 * lane)
/** @param {number} k the pairs (i, j) with i + j = k */
const placesOf = k =>
  Array.from({ length: LIMBS }, (_, i) => /** @type {const} */ ([i, k - i])).filter(
    ([, j]) => j >= 0 && j < LIMBS,
  )

/** Products in a sum that has one upper and one lower part: of more, the lower parts could be too large. */
const CHAIN = 2
/** Above what counts 1, where the upper parts of such sums count. */
const CHAIN_SPLIT = SPLIT + 1

/**
 * Columns of sums of products: `terms` says which limbs are multiplied for column k.
 *
 * @param {Line} l @param {(k: number) => readonly (readonly [a: (l: Line) => number, b: (l: Line) => number])[]} terms
 * @param {number} chain products in a sum, 1 or CHAIN
 */
function columns(l, terms, chain) {
  const split = chain === 1 ? SPLIT : CHAIN_SPLIT
  /** @type {number | undefined} */
  let uppers
  let count = 0
  for (let k = 0; k < COLUMNS; k++) {
    /** @type {number | undefined} */
    let acc
    /** @type {number | undefined} */
    let next
    let chains = 0
    const products = terms(k)
    for (let n = 0; n < products.length; n += chain) {
      /** @type {number | undefined} */
      let upper
      /** @type {number | undefined} */
      let lower
      for (const [first, second] of products.slice(n, n + chain)) {
        const [a, b] = [first(l), second(l)]
        const before = upper
        upper = before === undefined ? l.upper(a, b, split) : l.upperOn(a, b, before, split)
        lower =
          before === undefined || lower === undefined
            ? l.lower(a, b, upper, split)
            : l.addLower(lower, l.lowerOn(a, b, before, upper, split))
      }
      if (upper === undefined || lower === undefined) throw new Error('no product')
      acc = acc === undefined ? lower : l.addWide(acc, lower)
      next = next === undefined ? upper : l.addWide(next, upper)
      chains++
    }
    for (let bits = BITS; uppers !== undefined && bits < split; bits++) uppers = l.addWide(uppers, uppers)
    if (uppers !== undefined) acc = acc === undefined ? uppers : l.addWide(acc, uppers)
    const times = 2 ** (split - BITS)
    l.storeWide('w', 16 * k, l.addOffset(/** @type {number} */ (acc), chains, times * count, split, 0n))
    uppers = next
    count = chains
  }
}
/** @param {Line} l @param {readonly (readonly [a: Factor, b: Factor])[]} factors @param {number} chain */
const product = (l, factors, chain) =>
  columns(
    l,
    k =>
      placesOf(k).flatMap(([i, j]) =>
        factors.map(
          ([a, b]) =>
            /** @type {const} */ ([
              (/** @type {Line} */ line) => a(line, i),
              (/** @type {Line} */ line) => b(line, j),
            ]),
        ),
      ),
    chain,
  )

/** Σ_{i<j} a_i·(2a_j) and the squares. @param {Line} l */
function squareWide(l) {
  for (let i = 0; i < LIMBS; i++) {
    const a = l.load('a', 16 * i)
    l.store(B, 16 * i, l.add(a, a))
  }
  columns(
    l,
    k =>
      placesOf(k)
        .filter(([i, j]) => i <= j)
        .map(
          ([i, j]) =>
            /** @type {const} */ ([
              (/** @type {Line} */ line) => line.load('a', 16 * i),
              (/** @type {Line} */ line) => line.load(i === j ? 'a' : B, 16 * j),
            ]),
        ),
    CHAIN,
  )
}
/** @param {Line} l */
function multiplyWide2(l) {
  for (let i = 0; i < LIMBS; i++) {
    const b = l.load('b', 16 * i)
    l.store(B, 16 * i, lanes(l, l.sub(l.zero(), b), b, '12'))
  }
  product(
    l,
    [
      [one('a', 0), both('b')],
      [one('a', 1), both(B)],
    ],
    1,
  )
}
/** @param {Line} l */
function squareWide2(l) {
  for (let i = 0; i < LIMBS; i++) {
    const a = l.load('a', 16 * i)
    const swapped = lanes(l, a, a, '10')
    l.store(A, 16 * i, l.add(lanes(l, a, a, '00'), swapped))
    l.store(B, 16 * i, l.sub(a, lanes(l, swapped, l.zero(), '03')))
  }
  product(l, [[both(A), both(B)]], CHAIN)
}

/**
 * r = w·R⁻¹ in (w/R − p, w/R + p): STEPS add less than (0.123 + 0.144 + 0.001)·R·p in size, and the last column, by a factor
 * below 2⁴⁸, half of R·p. Limbs 0…6 come out balanced, in [−2⁴⁸, 2⁴⁸), the top limb signed.
 *
 * @param {Line} l
 */
function reduction(l) {
  /** What is multiplied for a column, by its number: a digit, and the limbs it is multiplied with. */
  const rows = STEPS.flatMap(({ rows: count, name }, n) => {
    const from = STEPS.slice(0, n).reduce((sum, step) => sum + step.rows, 0)
    return Array.from({ length: count }, (_, i) => ({ digit: from + i, name, at: from + i + count }))
  })
  rows.push({ digit: LAST, name: 'PRIME', at: LAST })
  /** @type {number[]} */
  const digits = []
  /** @type {number | undefined} */
  let uppers
  let count = 0
  /** @type {number | undefined} */
  let carry
  for (let k = 0; k < COLUMNS; k++) {
    const terms = rows.filter(({ at }) => k >= at && k < at + LIMBS)
    let acc = l.addOffset(
      l.loadWide('w', 16 * k),
      terms.length,
      2 * count,
      SPLIT,
      HALF + (k === 0 ? BIAS : BIAS - BIASED_CARRY),
    )
    if (uppers !== undefined) acc = l.addWide(acc, l.addWide(uppers, uppers))
    /** @type {number | undefined} */
    let next
    const add = (/** @type {typeof rows[number]} */ { digit, name, at }) => {
      const [a, b] = [/** @type {number} */ (digits[digit]), l.load(name, 16 * (k - at))]
      const upper = l.upper(a, b, SPLIT)
      acc = l.addWide(acc, l.lower(a, b, upper, SPLIT))
      next = next === undefined ? upper : l.addWide(next, upper)
    }
    // The youngest digit last: everything else does not wait for it.
    for (const term of terms) if (k !== LAST || term.digit !== LAST) add(term)
    if (carry !== undefined) acc = l.addWide(acc, carry)
    if (k < LAST) {
      digits.push(l.lowDouble(acc))
    } else if (k === LAST) {
      // Without the product that is still to be added, whose offset is off already.
      const digit = l.lowDouble(l.addOffset(acc, -1, 0, SPLIT, 0n))
      const mu = l.load('MU', 0)
      digits.push(l.lowerDouble(l.lower(digit, mu, l.upper(digit, mu, BITS), BITS)))
      add(/** @type {typeof rows[number]} */ (rows[LAST]))
    } else if (k < COLUMNS - 1) {
      l.store('r', 16 * (k - LIMBS), l.lowDouble(acc))
    } else {
      l.store('r', 16 * (k - LIMBS), l.toDouble(l.addConstant(acc, -HALF - BIAS)))
    }
    carry = l.highWide(acc)
    uppers = next
    count = terms.length
  }
}

/**
 * Constants of both lanes, by their bits: in memory, since V8 makes a constant of a vector anew with three instructions
 * wherever it stands.
 *
 * @type {Map<bigint, string>}
 */
const pool = new Map()
/** @param {bigint} constant */
function splat(constant) {
  const bits = BigInt.asUintN(64, constant)
  const name = pool.get(bits) ?? `CONSTANT${pool.size}`
  pool.set(bits, name)
  return `v128.load(${name})`
}
/** @param {number} lowers @param {number} uppers @param {number} bits */
const offsetOf = (lowers, uppers, bits) =>
  BigInt(lowers) * bitsOf(LOWER) + BigInt(uppers) * bitsOf(upperOf(bits))
/** @type {Spelling} */
const SPELLING = {
  load: ([base, at]) => `v128.load(${base}, ${at})`,
  loadWide: ([base, at]) => `v128.load(${base}, ${at})`,
  loadSplat: ([base, at]) => `v128.load64_splat(${base}, ${at})`,
  add: ([a, b], v) => `f64x2.add(${v(a)}, ${v(b)})`,
  sub: ([a, b], v) => `f64x2.sub(${v(a)}, ${v(b)})`,
  // a + 1.5·2¹⁰¹, whose last place counts 2⁴⁹.
  above: ([a], v) => `f64x2.sub(f64x2.add(${v(a)}, upper49), upper49)`,
  addAbove: ([a, above], v) => `f64x2.relaxed_madd(${v(above)}, ${splat(bitsOf(2 ** -49))}, ${v(a)})`,
  addProduct: ([a, b, c], v) => `f64x2.relaxed_madd(${v(b)}, ${v(c)}, ${v(a)})`,
  addWide: ([a, b], v) => `i64x2.add(${v(a)}, ${v(b)})`,
  subWide: ([a, b], v) => `i64x2.sub(${v(a)}, ${v(b)})`,
  shuffle: ([a, b, places], v) => `v128.shuffle<u32>(${v(a)}, ${v(b)}, ${places.join(', ')})`,
  zero: () => 'i64x2.splat(0)',
  addConstant: ([a, constant], v) => `i64x2.add(${v(a)}, ${splat(constant)})`,
  addOffset: ([a, lowers, uppers, bits, constant], v) =>
    `i64x2.add(${v(a)}, ${splat(constant - offsetOf(lowers, uppers, bits))})`,
  highWide: ([a], v) => `i64x2.shr_u(${v(a)}, ${BITS})`,
  // a + 1.5·2⁵² as bits, and as a double.
  toDouble: ([a], v) => `f64x2.sub(i64x2.add(${v(a)}, lower0), lower0)`,
  upper: ([a, b, bits], v) => `f64x2.relaxed_madd(${v(a)}, ${v(b)}, upper${bits})`,
  lower: ([a, b, upper, bits], v) =>
    `f64x2.relaxed_madd(${v(a)}, ${v(b)}, f64x2.sub(both${bits}, ${v(upper)}))`,
  upperOn: ([a, b, before], v) => `f64x2.relaxed_madd(${v(a)}, ${v(b)}, ${v(before)})`,
  lowerOn: ([a, b, before, upper], v) =>
    `f64x2.relaxed_madd(${v(a)}, ${v(b)}, f64x2.sub(${v(before)}, ${v(upper)}))`,
  addLower: ([lower, more], v) => `f64x2.add(${v(lower)}, ${v(more)})`,
  lowerDouble: ([a], v) => `f64x2.sub(${v(a)}, lower0)`,
  // 2⁵² + the limb, as bits.
  lowDouble: ([a], v) =>
    `f64x2.sub(v128.or(v128.and(${v(a)}, ${splat(MASK)}), ${splat(bitsOf(1n << 52n))}), ${splat(bitsOf((1n << 52n) + HALF))})`,
  nearest: ([a, base, at], v) =>
    `f64x2.sub(f64x2.relaxed_madd(${v(a)}, v128.load(${base}, ${at}), lower0), lower0)`,
  store: ([base, at, value], v) => `v128.store(${base}, ${v(value)}, ${at})`,
  storeWide: ([base, at, value], v) => `v128.store(${base}, ${v(value)}, ${at})`,
}
/** The constants of the sums, in a register each. @param {readonly Operation[]} operations @returns {string[]} */
function prelude(operations) {
  const splits = new Set(
    operations.flatMap(({ op, args }) =>
      op === 'upper' ? [args[2]] : op === 'lower' ? [args[3]] : op === 'above' ? [BITS] : [],
    ),
  )
  const isLower = operations.some(({ op }) => ['toDouble', 'lowerDouble', 'nearest'].includes(op))
  return [
    ...(isLower ? ['lower0'] : []),
    ...[...splits].flatMap(bits => [`upper${bits}`, `both${bits}`]),
  ].map(name => `  const ${name}: v128 = v128.load(${name.toUpperCase()})`)
}

/** @param {readonly bigint[]} limbs of both lanes, as the bits of doubles */
const doubles = limbs => ({ type: 'u64', limbs, values: limbs.flatMap(limb => [bitsOf(limb), bitsOf(limb)]) })
/** 2³⁴³/p, as a double: the quotient of two numbers that are rounded. */
const QUOTIENT = 2 ** 343 / Number(P)

export const LIMBS_49 = {
  LIMBS,
  BITS,
  VECTORS: LIMBS,
  COLUMNS,
  limbType: 'f64',
  /** Constants that the lines name; each is an address. */
  constants: {
    ...Object.fromEntries(STEPS.map(({ name, limbs }) => [name, doubles(limbs)])),
    PRIME: doubles(P_BALANCED),
    MINUS_P: doubles(P_BALANCED.map(limb => -limb)),
    MU: doubles([MU]),
    QUOTIENT: { type: 'u64', limbs: [], values: [bitsOf(QUOTIENT), bitsOf(QUOTIENT)] },
    LOWER0: doubles([LOWER]),
    ...Object.fromEntries(
      [BITS, SPLIT, CHAIN_SPLIT].flatMap(bits => [
        [`UPPER${bits}`, doubles([upperOf(bits)])],
        [`BOTH${bits}`, doubles([upperOf(bits) + LOWER])],
      ]),
    ),
  },
  scratch: [A, B],
  /** A sum is added up and settled in one. */
  areSumsSettledInline: true,
  lanes,
  settled,
  /** @type {Readonly<Record<string, (l: Line) => void>>} */
  lines: {
    carry: l => l.storeAll('r', carried(l, l.loadAll('a', LIMBS))),
    multiplyWide: l => product(l, [[both('a'), both('b')]], CHAIN),
    squareWide,
    multiplyWide2,
    squareWide2,
    reduce: reduction,
  },
  spelling: SPELLING,
  /** What stands before the functions. */
  preface: `
/** For \`select\`: the lane 0 where m0 is −1, the lane 1 where m1 is. */
export function laneMask(m0: i32, m1: i32): v128 {
  return i64x2.replace_lane(i64x2.splat(<i64>m0), 1, <i64>m1)
}
const FUSED_FACTOR: usize = memory.data<f64>([1.000000000931322574615478515625, 1.000000000931322574615478515625], 16)
const FUSED_TERM: usize = memory.data<f64>([-1.00000000186264514923095703125, -1.00000000186264514923095703125], 16)
const FUSED: usize = memory.data<f64>([${2 ** -60}, ${2 ** -60}], 16)
/** 1 where a sum of a product is rounded once: (1 + 2⁻³⁰)² − (1 + 2⁻²⁹) is 2⁻⁶⁰ then, and 0 where the product is rounded before. */
export function isFused(): i32 {
  const factor = v128.load(FUSED_FACTOR)
  const sum = f64x2.relaxed_madd(factor, factor, v128.load(FUSED_TERM))
  return <i32>i64x2.all_true(i64x2.eq(sum, v128.load(FUSED)))
}`,
  prelude,
  /** Of the functions that are spelled already, what they name. */
  pooled: () =>
    [...pool].map(([bits, name]) => `const ${name}: usize = memory.data<u64>([${bits}, ${bits}], 16)`),
}
