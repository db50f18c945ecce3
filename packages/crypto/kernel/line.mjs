/**
 * Straight lines of operations on vectors: what a function of the field layer is, before it is AssemblyScript for the
 * kernel or a program for the interval checker. Both come out of one list of operations, so what is checked is what runs.
 */

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
  value(op, ...args) {
    const id = this.#next++
    this.operations.push({ op, id, args })
    return id
  }
  /** Two limbs of both lanes. @param {string} base @param {number} at */
  load = (base, at) => this.value('load', base, at)
  /** One limb of both lanes; the upper half is zero. @param {string} base @param {number} at */
  loadLimb = (base, at) => this.value('loadLimb', base, at)
  /** One limb of one lane, in all places. @param {string} base @param {number} at */
  loadSplat = (base, at) => this.value('loadSplat', base, at)
  /** One column of both lanes. @param {string} base @param {number} at */
  loadWide = (base, at) => this.value('loadWide', base, at)
  /** @param {number} a @param {number} b */
  add = (a, b) => this.value('add', a, b)
  /** @param {number} a @param {number} b */
  sub = (a, b) => this.value('sub', a, b)
  /** @param {number} a */
  low = a => this.value('low', a)
  /** a + 2²⁷. @param {number} a */
  addHalf = a => this.value('addHalf', a)
  /** a − 2²⁷. @param {number} a */
  subHalf = a => this.value('subHalf', a)
  /** Arithmetic, by 28. @param {number} a */
  high = a => this.value('high', a)
  /** 32-bit places of a (0…3) and b (4…7). @param {number} a @param {number} b @param {readonly number[]} places */
  shuffle = (a, b, places) => this.value('shuffle', a, b, places)
  /** By a constant. @param {number} a @param {bigint} constant */
  multiplySmall = (a, constant) => this.value('multiplySmall', a, constant)
  /** Place by place. @param {number} a @param {number} b */
  multiplyLimbs = (a, b) => this.value('multiplyLimbs', a, b)
  zero = () => this.value('zero')
  /** Products of the lower two places. @param {number} a @param {number} b */
  multiply = (a, b) => this.value('multiply', a, b)
  /** @param {number} a @param {number} b */
  addWide = (a, b) => this.value('addWide', a, b)
  /** @param {number} a @param {number} b */
  subWide = (a, b) => this.value('subWide', a, b)
  /** @param {number} a @param {bigint} constant */
  addConstant = (a, constant) => this.value('addConstant', a, constant)
  /** @param {number} a */
  lowWide = a => this.value('lowWide', a)
  /** Logical, by 28. @param {number} a */
  highWide = a => this.value('highWide', a)
  /** Lower halves of the columns a and b as two limbs. @param {number} a @param {number} b */
  narrow = (a, b) => this.value('narrow', a, b)
  /** An integer of at most 2⁵¹ in size as a double. @param {number} a */
  toDouble = a => this.value('toDouble', a)
  /** What a has above its lowest limb, rounded, in place. @param {number} a */
  above = a => this.value('above', a)
  /** The limb a and what the one before has `above`. @param {number} a @param {number} above */
  addAbove = (a, above) => this.value('addAbove', a, above)
  /** a + bc, small enough to be exact. @param {number} a @param {number} b @param {number} c */
  addProduct = (a, b, c) => this.value('addProduct', a, b, c)
  /** What the product ab of two doubles has above its lowest `bits`, rounded; it counts as an upper part in `addOffset`. @param {number} a @param {number} b @param {number} bits */
  upper = (a, b, bits) => this.value('upper', a, b, bits)
  /** What is left of ab beside its upper part; it counts as a lower part. @param {number} a @param {number} b @param {number} upper @param {number} bits */
  lower = (a, b, upper, bits) => this.value('lower', a, b, upper, bits)
  /**
   * The upper part of a sum of products, `before` being that of those so far, for one more product ab; it counts as one part.
   * @param {number} a @param {number} b @param {number} before @param {number} bits
   */
  upperOn = (a, b, before, bits) => this.value('upperOn', a, b, before, bits)
  /** What is left of ab beside what `upper` is above `before`, as a double. @param {number} a @param {number} b @param {number} before @param {number} upper @param {number} bits */
  lowerOn = (a, b, before, upper, bits) => this.value('lowerOn', a, b, before, upper, bits)
  /** A lower part and a double, which is one lower part. @param {number} lower @param {number} more */
  addLower = (lower, more) => this.value('addLower', lower, more)
  /** A lower part as a double. @param {number} a */
  lowerDouble = a => this.value('lowerDouble', a)
  /** The lowest limb of a column to which 2⁴⁸ was added, without it, as a double. @param {number} a */
  lowDouble = a => this.value('lowDouble', a)
  /** The integer next to a double times a constant, as a double. @param {number} a @param {string} base @param {number} at */
  nearest = (a, base, at) => this.value('nearest', a, base, at)
  /**
   * a + constant, less what so many lower parts, and upper parts by their bits, are above the integers that they stand for.
   *
   * @param {number} a @param {number} lowers @param {number} uppers @param {number} bits @param {bigint} constant
   */
  addOffset = (a, lowers, uppers, bits, constant) =>
    this.value('addOffset', a, lowers, uppers, bits, constant)
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
  /** `count` vectors, one after the other. @param {string} base @param {number} count */
  loadAll = (base, count) => Array.from({ length: count }, (_, v) => this.load(base, 16 * v))
  /** @param {string} base @param {readonly number[]} vectors */
  storeAll(base, vectors) {
    for (const [v, vector] of vectors.entries()) this.store(base, 16 * v, vector)
  }
}

/** @param {string} base @param {number} pace */
const walked = (base, pace) => (pace === 0 ? base : pace === 1 ? `${base} + at` : `${base} + ${pace} * at`)
/**
 * @typedef {Readonly<Record<string, (args: readonly any[], value: (id: number) => string) => string>>} Spelling each operation
 *   as AssemblyScript
 */
/** @param {readonly Operation[]} operations @param {readonly Loop[]} loops @param {Spelling} spelling */
export function statementsOf(operations, loops, spelling) {
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
        spelling[op]
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
