/**
 * The field layer, unrolled: AssemblyScript for build.mjs, and the same operations as an abstract program for the
 * interval checker (test/kernel-bounds.test.ts). Both come out of one list of operations, so what is checked is what runs.
 *
 * A *pair* is two elements of Fp, or one of Fp2 (re, im): 14 limbs of 28 bits per element, interleaved as u32 pairs,
 * limb i of both lanes at byte 8i; 112 bytes. Limbs are signed and may exceed 28 bits between operations: an addition
 * carries nothing. An element stands for (Σ limbᵢ·2²⁸ⁱ)·R⁻¹ mod p, R = 2³⁹² (Montgomery).
 *
 * A *wide* value is a product that is not reduced yet: 27 columns per lane, signed 64 bits, column k at byte 16k, lane 0
 * first; 432 bytes.
 *
 * Why 14 × 28 and not 13 × 30: 28 products of 28-bit limbs stay below 2⁶¹, so no carry is needed inside a product, sums
 * and differences of products are plain additions of columns (lazy reduction), and two limbs fill a vector.
 */

export const P =
  0x1a0111ea397fe69a4b1ba7b6434bacd764774b84f38512bf6730d2a0f6b0f6241eabfffeb153ffffb9feffffffffaaabn
export const LIMBS = 14
export const BITS = 28
export const R = 1n << BigInt(LIMBS * BITS)
const HALF = LIMBS / 2
const COLUMNS = 2 * LIMBS - 1
const BASE = 1n << BigInt(BITS)
export const MASK = BASE - 1n

/** @param {bigint} value @param {number} [count] */
export const limbsOf = (value, count = LIMBS) =>
  Array.from({ length: count }, (_, i) => (value >> BigInt(BITS * i)) & MASK)

/** Limbs in [−2²⁷, 2²⁷), the top one what is left. @param {bigint} value */
export function balancedLimbsOf(value) {
  const limbs = []
  let rest = value
  for (let i = 0; i < LIMBS - 1; i++) {
    const limb = BigInt.asIntN(BITS, rest)
    limbs.push(limb)
    rest = (rest - limb) >> BigInt(BITS)
  }
  return [...limbs, rest]
}

/** x ↦ x⁻¹ mod 2²⁸ by Newton's iteration. @param {bigint} x */
function inverseOfOdd(x) {
  let y = 1n
  for (let i = 0; i < 5; i++) y = (y * (2n - x * y)) & MASK
  return y & MASK
}

/** μ = −p⁻¹ mod 2²⁸. */
export const MU = (BASE - inverseOfOdd(P & MASK)) & MASK
/**
 * μp ≡ −1 mod 2²⁸. A reduction row that adds m·μp with m = the lowest column clears it without a multiplication:
 * the column's upper part is carried, and m·(μp + 1)/2²⁸ is added from the next column on.
 */
export const NEXT = (MU * P + 1n) >> BigInt(BITS)
const NEXT_LIMBS = limbsOf(NEXT)
const P_LIMBS = limbsOf(P)
const P_BALANCED = balancedLimbsOf(P)
if (NEXT >> BigInt(LIMBS * BITS) !== 0n) throw new Error('μp has too many limbs')

/**
 * Columns are made positive before they are shifted: 2⁶³ is added, and what that adds to the carry, 2³⁵, is taken off
 * the next column.
 */
const BIAS = 1n << 63n
const BIASED_CARRY = 1n << 35n
/** 2²⁸·2³⁶⁴/p, rounded. */
const QUOTIENT = ((1n << BigInt(BITS * LIMBS + 1)) + P) / (2n * P)

/**
 * @typedef {{ op: string, id?: number, args: readonly (number | string | bigint | readonly number[])[] }} Operation
 */

/**
 * How many strides an address goes on at each step of a loop, by its base: one where nothing is said.
 *
 * @typedef {Readonly<Record<string, number>>} Paces
 */
/** @typedef {{ from: number, length: number, count: number, stride: number, paces: Paces }} Loop `count` × `length` operations */

const IN_MEMORY = ['load', 'loadLimb', 'loadSplat', 'loadWide', 'store', 'storeLimb', 'storeWide']
/** @param {Paces} paces @param {Operation['args']} args */
const paceOf = (paces, [base]) => paces[/** @type {string} */ (base)] ?? 1
/**
 * An operation of a loop's later step as the first one would have it.
 *
 * @param {Operation} operation @param {number} values @param {number} offset @param {Paces} paces @returns {Operation}
 */
function earlier({ op, id, args }, values, offset, paces) {
  const shifted = args.map((arg, i) => {
    if (typeof arg !== 'number') return arg
    return IN_MEMORY.includes(op) && i === 1 ? arg - offset * paceOf(paces, args) : arg - values
  })
  return { op, args: shifted, ...(id === undefined ? {} : { id: id - values }) }
}
/** @param {readonly Operation[]} operations */
const spelled = operations =>
  operations
    .map(({ op, id, args }) => `${id} ${op} ${args.map(arg => `${typeof arg} ${arg}`).join(' ')}`)
    .join('\n')

/** A straight line of operations on vectors; each method appends one and returns its value's number. */
export class Line {
  /** @type {Operation[]} */
  operations = []
  /** @type {Loop[]} */
  loops = []
  #next = 0

  /**
   * The same operations at 0, stride, 2·stride, …: a line for the checker, a loop in the kernel.
   *
   * @param {number} count @param {number} stride @param {(at: number) => void} body @param {Paces} [paces]
   */
  each(count, stride, body, paces = {}) {
    const from = this.operations.length
    const firstValue = this.#next
    body(0)
    const length = this.operations.length - from
    const values = this.#next - firstValue
    const once = this.operations.slice(from)
    for (let i = 1; i < count; i++) {
      body(i * stride)
      const again = this.operations
        .slice(from + i * length)
        .map(one => earlier(one, i * values, i * stride, paces))
      if (spelled(again) !== spelled(once)) throw new Error('a step of a loop differs')
    }
    this.loops.push({ from, length, count, stride, paces })
  }

  /** @param {string} op @param {...(number | string | bigint | readonly number[])} args */
  #value(op, ...args) {
    const id = this.#next++
    this.operations.push({ op, id, args })
    return id
  }
  /** Two limbs of both lanes. @param {string} base @param {number} at */
  load = (base, at) => this.#value('load', base, at)
  /** One limb of both lanes; the upper half is zero. @param {string} base @param {number} at */
  loadLimb = (base, at) => this.#value('loadLimb', base, at)
  /** One limb of one lane, in all places. @param {string} base @param {number} at */
  loadSplat = (base, at) => this.#value('loadSplat', base, at)
  /** One column of both lanes. @param {string} base @param {number} at */
  loadWide = (base, at) => this.#value('loadWide', base, at)
  /** @param {number} a @param {number} b */
  add = (a, b) => this.#value('add', a, b)
  /** @param {number} a @param {number} b */
  sub = (a, b) => this.#value('sub', a, b)
  /** @param {number} a */
  low = a => this.#value('low', a)
  /** a + 2²⁷. @param {number} a */
  addHalf = a => this.#value('addHalf', a)
  /** a − 2²⁷. @param {number} a */
  subHalf = a => this.#value('subHalf', a)
  /** Arithmetic, by 28. @param {number} a */
  high = a => this.#value('high', a)
  /** 32-bit places of a (0…3) and b (4…7). @param {number} a @param {number} b @param {readonly number[]} places */
  shuffle = (a, b, places) => this.#value('shuffle', a, b, places)
  /** By a constant. @param {number} a @param {bigint} constant */
  multiplySmall = (a, constant) => this.#value('multiplySmall', a, constant)
  /** Place by place. @param {number} a @param {number} b */
  multiplyLimbs = (a, b) => this.#value('multiplyLimbs', a, b)
  zero = () => this.#value('zero')
  /** Products of the lower two places. @param {number} a @param {number} b */
  multiply = (a, b) => this.#value('multiply', a, b)
  /** @param {number} a @param {number} b */
  addWide = (a, b) => this.#value('addWide', a, b)
  /** @param {number} a @param {number} b */
  subWide = (a, b) => this.#value('subWide', a, b)
  /** @param {number} a @param {bigint} constant */
  addConstant = (a, constant) => this.#value('addConstant', a, constant)
  /** @param {number} a */
  lowWide = a => this.#value('lowWide', a)
  /** Logical, by 28. @param {number} a */
  highWide = a => this.#value('highWide', a)
  /** Lower halves of the columns a and b as two limbs. @param {number} a @param {number} b */
  narrow = (a, b) => this.#value('narrow', a, b)
  /** @param {string} base @param {number} at @param {number} value */
  store(base, at, value) {
    this.operations.push({ op: 'store', args: [base, at, value] })
  }
  /** @param {string} base @param {number} at @param {number} value */
  storeLimb(base, at, value) {
    this.operations.push({ op: 'storeLimb', args: [base, at, value] })
  }
  /** @param {string} base @param {number} at @param {number} value */
  storeWide(base, at, value) {
    this.operations.push({ op: 'storeWide', args: [base, at, value] })
  }
}

/** Constants and scratch that the lines name; each is an address. `limbs` are stored in both lanes. */
export const CONSTANTS = { NEXT: NEXT_LIMBS, PRIME: P_LIMBS, BALANCED: P_BALANCED, MU: [MU] }
export const SCRATCH = ['T0', 'T1']

/** @typedef {{ name: string, parameters: readonly string[], line: Line, why: string }} FieldFunction */
/** @type {FieldFunction[]} */
export const FUNCTIONS = []

/** @param {string} name @param {string} parameters @param {string} why @param {(line: Line) => void} body */
function define(name, parameters, why, body) {
  const line = new Line()
  body(line)
  FUNCTIONS.push({ name, parameters: parameters.split(' '), line, why })
}

/** What is done to each of the 7 vectors of a pair. @param {Line} l @param {(at: number) => void} body */
const eachVector = (l, body) => l.each(HALF, 16, body)
const SWAP = [1, 0, 3, 2]

define('add', 'r a b', 'r = a + b', l =>
  eachVector(l, at => l.store('r', at, l.add(l.load('a', at), l.load('b', at)))),
)
define('sub', 'r a b', 'r = a − b', l =>
  eachVector(l, at => l.store('r', at, l.sub(l.load('a', at), l.load('b', at)))),
)
define('double', 'r a', 'r = 2a', l =>
  eachVector(l, at => {
    const a = l.load('a', at)
    l.store('r', at, l.add(a, a))
  }),
)
define('triple', 'r a', 'r = 3a', l =>
  eachVector(l, at => {
    const a = l.load('a', at)
    l.store('r', at, l.add(l.add(a, a), a))
  }),
)
define('negate', 'r a', 'r = −a', l =>
  eachVector(l, at => l.store('r', at, l.sub(l.zero(), l.load('a', at)))),
)
define('copy', 'r a', 'r = a', l => eachVector(l, at => l.store('r', at, l.load('a', at))))
define('swap', 'r a', 'r = (a₁, a₀)', l =>
  eachVector(l, at => {
    const a = l.load('a', at)
    l.store('r', at, l.shuffle(a, a, SWAP))
  }),
)
/** (a₀ ± …): the lanes of two vectors side by side. */
for (const [name, places] of Object.entries({
  lanes00: [0, 4, 2, 6],
  lanes01: [0, 5, 2, 7],
  lanes10: [1, 4, 3, 6],
  lanes11: [1, 5, 3, 7],
})) {
  define(name, 'r a b', `r = (a${name[5]}, b${name[6]})`, l =>
    eachVector(l, at => l.store('r', at, l.shuffle(l.load('a', at), l.load('b', at), places))),
  )
}
define('conjugate', 'r a', 'r = (a₀, −a₁)', l =>
  eachVector(l, at => {
    const a = l.load('a', at)
    l.store('r', at, l.shuffle(a, l.sub(l.zero(), a), [0, 5, 2, 7]))
  }),
)
define('timesI', 'r a', 'r = a·i = (−a₁, a₀)', l =>
  eachVector(l, at => {
    const a = l.load('a', at)
    l.store('r', at, l.shuffle(l.sub(l.zero(), a), a, [1, 4, 3, 6]))
  }),
)
define('timesXi', 'r a', 'r = a·(1 + i) = (a₀ − a₁, a₀ + a₁)', l =>
  eachVector(l, at => {
    const a = l.load('a', at)
    const turned = l.shuffle(l.sub(l.zero(), a), a, [1, 4, 3, 6])
    l.store('r', at, l.add(a, turned))
  }),
)
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
    const kept = v === HALF - 1 ? l.shuffle(low, a, [0, 1, 6, 7]) : low
    const sum = l.add(kept, l.shuffle(before, up, [2, 3, 4, 5]))
    before = up
    return sum
  })
}
/** @param {Line} l @param {string} base @param {number} [at] */
const vectorsOf = (l, base, at = 0) => Array.from({ length: HALF }, (_, v) => l.load(base, at + 16 * v))
/** @param {Line} l @param {string} base @param {readonly number[]} vectors @param {number} [at] */
const storeVectors = (l, base, vectors, at = 0) => {
  for (const [v, vector] of vectors.entries()) l.store(base, at + 16 * v, vector)
}

/**
 * Sums of values that no multiplication divides by R would grow: q·p is taken off, q = ⌊a₁₃·2520/2²⁸ + ½⌋ the multiple of
 * p that is nearest by the top limb (2²⁸/2520 ≈ p/2³⁶⁴).
 */
define('settle', 'r a', 'r = a − qp, carried: in ±(½ + 2⁻⁸)p', l => {
  const a = vectorsOf(l, 'a')
  const last = /** @type {number} */ (a[HALF - 1])
  const top = l.shuffle(last, last, [2, 3, 2, 3])
  const q = l.high(l.addHalf(l.multiplySmall(top, QUOTIENT)))
  storeVectors(
    l,
    'r',
    carried(
      l,
      a.map((vector, v) => l.sub(vector, l.multiplyLimbs(q, l.load('BALANCED', 16 * v)))),
    ),
  )
})
define('carry', 'r a', 'r = a, its limbs carried once', l =>
  storeVectors(l, 'r', carried(l, vectorsOf(l, 'a'))),
)

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
  l.each(HALF - 1, 16, at => twoRows(16 + at, false), { b: 0, T0: 0, T1: 0, [walks]: 1, w: 2 })
}

define('multiplyWide', 'w a b', 'w = (a₀b₀, a₁b₁)', l => product(l, [[limb('a'), limb('b')]]))
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
define('squareWide', 'w a', 'w = (a₀², a₁²)', l => {
  doubleInto0(l)
  for (let k = 0; k < COLUMNS; k++) l.storeWide('w', 16 * k, squareColumnOf(l, k))
})
define('multiplyWide2', 'w a b', 'w = (a₀b₀ − a₁b₁, a₀b₁ + a₁b₀): a product in Fp2', l => {
  eachVector(l, at => {
    const b = l.load('b', at)
    l.store('T0', at, l.shuffle(l.sub(l.zero(), b), b, [1, 4, 3, 6]))
  })
  product(l, [
    [splat('a', 0), limb('b')],
    [splat('a', 1), limb('T0')],
  ])
})
define('squareWide2', 'w a', 'w = ((a₀ + a₁)(a₀ − a₁), 2a₀·a₁): a square in Fp2', l => {
  eachVector(l, at => {
    const a = l.load('a', at)
    const swapped = l.shuffle(a, a, SWAP)
    l.store('T0', at, l.add(l.shuffle(a, a, [0, 0, 2, 2]), swapped))
    l.store('T1', at, l.sub(a, l.shuffle(swapped, l.zero(), [0, 5, 2, 7])))
  })
  product(l, [[limb('T0'), limb('T1')]], 'T0')
})
/** @param {Line} l @param {(at: number) => void} body */
const eachColumn = (l, body) => l.each(COLUMNS, 16, body)
define('addWide', 'r v w', 'r = v + w', l =>
  eachColumn(l, at => l.storeWide('r', at, l.addWide(l.loadWide('v', at), l.loadWide('w', at)))),
)
define('subWide', 'r v w', 'r = v − w', l =>
  eachColumn(l, at => l.storeWide('r', at, l.subWide(l.loadWide('v', at), l.loadWide('w', at)))),
)
define('subWide2', 'r v w', 'r = r − v − w', l =>
  eachColumn(l, at =>
    l.storeWide('r', at, l.subWide(l.subWide(l.loadWide('r', at), l.loadWide('v', at)), l.loadWide('w', at))),
  ),
)
define('subEightWide', 'r w', 'r = r − 8w', l =>
  eachColumn(l, at => {
    let w = l.loadWide('w', at)
    for (let i = 0; i < 3; i++) w = l.addWide(w, w)
    l.storeWide('r', at, l.subWide(l.loadWide('r', at), w))
  }),
)
/** r += (w₀ − w₁, w₀ + w₁). */
define('addXiWide', 'r w', 'r = r + (1 + i)·w', l =>
  eachColumn(l, at => {
    const w = l.loadWide('w', at)
    const turned = l.shuffle(l.subWide(l.zero(), w), w, [2, 3, 4, 5])
    l.storeWide('r', at, l.addWide(l.loadWide('r', at), l.addWide(w, turned)))
  }),
)
define('addLanesWide', 'r w', 'r = (w₀ + w₁, w₁ + w₀)', l =>
  eachColumn(l, at => {
    const w = l.loadWide('w', at)
    l.storeWide('r', at, l.addWide(w, l.shuffle(w, w, [2, 3, 0, 1])))
  }),
)

/**
 * r = w·R⁻¹ in (w/R − p, w/R + p). 13 rows with μp, which need no multiplication by μ, then one with p itself, so that
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
define('reduce', 'r w', 'r = w/R mod p', l => reduction(l, k => l.loadWide('w', 16 * k)))
// Wide sums of the tower: see fp6Multiply.
define('combineXi', 'r v x y z', 'r = v + (1 + i)(x − y − z)', l =>
  eachColumn(l, at => {
    const w = l.subWide(l.subWide(l.loadWide('x', at), l.loadWide('y', at)), l.loadWide('z', at))
    const turned = l.shuffle(l.subWide(l.zero(), w), w, [2, 3, 4, 5])
    l.storeWide('r', at, l.addWide(l.loadWide('v', at), l.addWide(w, turned)))
  }),
)
define('combineSumXi', 'r v x y z', 'r = x − y − z + (1 + i)v', l =>
  eachColumn(l, at => {
    const w = l.loadWide('v', at)
    const turned = l.shuffle(l.subWide(l.zero(), w), w, [2, 3, 4, 5])
    const rest = l.subWide(l.subWide(l.loadWide('x', at), l.loadWide('y', at)), l.loadWide('z', at))
    l.storeWide('r', at, l.addWide(rest, l.addWide(w, turned)))
  }),
)
define('combine', 'r v x y z', 'r = x − y − z + v', l =>
  eachColumn(l, at => {
    const rest = l.subWide(l.subWide(l.loadWide('x', at), l.loadWide('y', at)), l.loadWide('z', at))
    l.storeWide('r', at, l.addWide(rest, l.loadWide('v', at)))
  }),
)

// What stands between the multiplications of the complete formulas on G1 (g1.ts has them in full). A point is two
// pairs, (X, Y) and (Z, Z): 224 bytes.
const PAIR = 8 * LIMBS
/** @param {Line} l @param {number} a @param {number} b @param {string} places of two lanes: '0'/'1' of a, '2'/'3' of b */
const lanes = (l, a, b, places) => {
  const [x = 0, y = 0] = [...places].map(Number).map(place => (place < 2 ? place : place + 2))
  return l.shuffle(a, b, [x, y, x + 2, y + 2])
}
/** @param {Line} l @param {number} a @param {number} times */
const repeated = (l, a, times) => {
  let sum = a
  for (const bit of times.toString(2).slice(1)) {
    sum = l.add(sum, sum)
    if (bit === '1') sum = l.add(sum, a)
  }
  return sum
}
define('g1DoubleBefore', 'r p', 'r = (Y, Y), (Y, Z), (Z, X), (Z, Y)', l =>
  eachVector(l, at => {
    const [xy, z] = [l.load('p', at), l.load('p', PAIR + at)]
    l.store('r', at, lanes(l, xy, xy, '11'))
    l.store('r', PAIR + at, lanes(l, xy, z, '12'))
    l.store('r', 2 * PAIR + at, lanes(l, z, xy, '02'))
    l.store('r', 3 * PAIR + at, lanes(l, z, xy, '03'))
  }),
)
define('times12', 'r a', 'r = 12a', l =>
  eachVector(l, at => l.store('r', at, repeated(l, l.load('a', at), 12))),
)
define(
  'g1DoubleBetween',
  'r a b',
  'r = (12Z², …), b = (…, YZ); r = (12Z², YZ), (8Y², 8Y²), (t, t) with t = Y² − 36Z², (Y² + 12Z², 2XY)',
  l =>
    eachVector(l, at => {
      const [z, ya, xb] = [l.load('r', at), l.load('a', at), l.load('b', at)]
      l.store('r', at, lanes(l, z, ya, '03'))
      l.store('r', PAIR + at, repeated(l, lanes(l, ya, ya, '00'), 8))
      const t = l.sub(ya, repeated(l, z, 3))
      l.store('r', 2 * PAIR + at, lanes(l, t, t, '00'))
      l.store('r', 3 * PAIR + at, lanes(l, l.add(ya, z), l.add(xb, xb), '03'))
    }),
)
define('g1DoubleAfter', 'r c d', 'r = (d₁, d₀ + c₀), (c₁, c₁)', l =>
  eachVector(l, at => {
    const [c, d] = [l.load('c', at), l.load('d', at)]
    l.store('r', at, lanes(l, d, l.add(c, d), '12'))
    l.store('r', PAIR + at, lanes(l, c, c, '11'))
  }),
)
define('g1AddBefore', 'r p', 'r = (X, Y), (Z, X + Y), (Y + Z, X + Z)', l =>
  eachVector(l, at => {
    const [xy, z] = [l.load('p', at), l.load('p', PAIR + at)]
    const yx = lanes(l, xy, xy, '10')
    l.store('r', at, xy)
    l.store('r', PAIR + at, lanes(l, z, l.add(xy, yx), '02'))
    l.store('r', 2 * PAIR + at, l.add(yx, z))
  }),
)
define('g1AddDifference', 'r a b c', 'r = (t4, s5 − t0 − t2) = (s4, s5) − (t1, t0) − (t2, t2)', l =>
  eachVector(l, at => {
    const [a, b] = [l.load('a', at), l.load('b', at)]
    l.store('r', at, l.sub(l.sub(l.load('c', at), lanes(l, a, a, '10')), lanes(l, b, b, '00')))
  }),
)
define('g1AddTwelve', 'r b d', 'r = 12(t2, d₁)', l =>
  eachVector(l, at => l.store('r', at, repeated(l, lanes(l, l.load('b', at), l.load('d', at), '03'), 12))),
)
define(
  'g1AddBetween',
  'r a b d t',
  'a = (t0, t1), b = (t2, s3), d = (t4, …), t = (12t2, y); r = (t3, t1 − 12t2), (t1 − 12t2, t1 + 12t2), (−t4, y), (y, 3t0), (t1 + 12t2, 3t0), (t4, t3), where t3 = s3 − t0 − t1',
  l =>
    eachVector(l, at => {
      const [av, bv, dv, t] = [l.load('a', at), l.load('b', at), l.load('d', at), l.load('t', at)]
      const t1 = lanes(l, av, av, '11')
      const z12 = lanes(l, t, t, '00')
      const [minus, plus] = [l.sub(t1, z12), l.add(t1, z12)]
      const t3 = l.sub(l.sub(bv, av), lanes(l, av, av, '10'))
      const t0 = repeated(l, av, 3)
      const y = lanes(l, t, t, '11')
      l.store('r', at, lanes(l, t3, minus, '12'))
      l.store('r', PAIR + at, lanes(l, minus, plus, '02'))
      l.store('r', 2 * PAIR + at, lanes(l, l.sub(l.zero(), dv), y, '02'))
      l.store('r', 3 * PAIR + at, lanes(l, y, t0, '02'))
      l.store('r', 4 * PAIR + at, lanes(l, plus, t0, '02'))
      l.store('r', 5 * PAIR + at, lanes(l, dv, t3, '03'))
    }),
)

// Between the products of the subgroup check's doubling, which is Jacobian (g1.ts): lane 0 is the point's, what is in
// lane 1 where nothing is said is left over and bounded.
define('jacobianBefore', 'r p a b', 'p = X, Y, Z; r = (3a₀, b₀), (X, Y), (b₀, Z)', l =>
  eachVector(l, at => {
    const [x, y, z] = [l.load('p', at), l.load('p', PAIR + at), l.load('p', 2 * PAIR + at)]
    const [a, b] = [l.load('a', at), l.load('b', at)]
    l.store('r', at, lanes(l, repeated(l, a, 3), b, '02'))
    l.store('r', PAIR + at, lanes(l, x, y, '02'))
    l.store('r', 2 * PAIR + at, lanes(l, b, z, '02'))
  }),
)
define('jacobianBetween', 'r c d', 'r = (c₀ − 8d₀, …), (8c₁, …), (2d₁, …), (12d₀ − c₀, …)', l =>
  eachVector(l, at => {
    const [c, d] = [l.load('c', at), l.load('d', at)]
    l.store('r', at, l.sub(c, repeated(l, d, 8)))
    l.store('r', PAIR + at, repeated(l, lanes(l, c, c, '11'), 8))
    l.store('r', 2 * PAIR + at, repeated(l, lanes(l, d, d, '11'), 2))
    l.store('r', 3 * PAIR + at, l.sub(repeated(l, d, 12), c))
  }),
)

/** @type {Readonly<Record<string, (args: readonly any[], value: (id: number) => string) => string>>} */
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

/** @param {string} base @param {number} pace */
const walked = (base, pace) => (pace === 0 ? base : pace === 1 ? `${base} + at` : `${base} + ${pace} * at`)
/** @param {readonly Operation[]} operations @param {readonly Loop[]} loops */
function statementsOf(operations, loops) {
  /** @type {string[]} */
  const statements = []
  for (let n = 0; n < operations.length; n++) {
    const loop = loops.find(({ from }) => from === n)
    const count = loop === undefined ? 1 : loop.length
    if (loop !== undefined)
      statements.push(`  for (let at: usize = 0; at < ${loop.count * loop.stride}; at += ${loop.stride}) {`)
    for (const { op, id, args } of operations.slice(n, n + count)) {
      const placed =
        loop !== undefined && IN_MEMORY.includes(op)
          ? [walked(String(args[0]), paceOf(loop.paces, args)), ...args.slice(1)]
          : args
      const text = /** @type {(args: readonly any[], value: (id: number) => string) => string} */ (
        SPELLING[op]
      )(placed, id => `x${id}`)
      statements.push(id === undefined ? `  ${text}` : `  const x${id}: v128 = ${text}`)
    }
    if (loop !== undefined) {
      statements.push('  }')
      n += loop.count * loop.length - 1
    }
  }
  return statements
}

/** A function of two others. @param {string} name @param {string} [b] */
const composed = (name, b) => `
const ${name.toUpperCase()}: usize = memory.data(${16 * COLUMNS}, 16)
export function ${name}(r: usize, a: usize${b ? `, ${b}: usize` : ''}): void {
  ${name}Wide(${name.toUpperCase()}, a${b ? `, ${b}` : ''})
  reduce(r, ${name.toUpperCase()})
}`

/**
 * The field layer as AssemblyScript. What is not used goes when it is compiled.
 *
 * @param {{ areVectorsRolled: boolean }} options loops over the 7 vectors of a pair: a few hundredths slower, 3 kB less in
 *   the module of pairings, 9 in that of G1
 */
export function fieldSource({ areVectorsRolled }) {
  const lines = ['// Generated by generate-field.mjs.']
  for (const [name, limbs] of Object.entries(CONSTANTS)) {
    const both = limbs.flatMap(limb => [limb, limb])
    lines.push(`const ${name}: usize = memory.data<i32>([${both.join(', ')}], 16)`)
  }
  for (const name of SCRATCH) lines.push(`const ${name}: usize = memory.data(112, 16)`)
  for (const { name, parameters, line, why } of FUNCTIONS) {
    lines.push('', `/** ${why} */`)
    lines.push(
      `export function ${name}(${parameters.map(parameter => `${parameter}: usize`).join(', ')}): void {`,
    )
    lines.push(
      ...statementsOf(
        line.operations,
        line.loops.filter(({ count }) => areVectorsRolled || count !== HALF),
      ),
    )
    lines.push('}')
  }
  lines.push(composed('square'))
  lines.push(composed('multiply', 'b'))
  return `${lines.join('\n')}\n`
}
