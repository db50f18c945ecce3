/**
 * The field layer, unrolled: AssemblyScript for build.mjs, and the same operations as an abstract program for the
 * interval checker (test/kernel-bounds.test.ts). Both come out of one list of operations, so what is checked is what runs.
 *
 * A *pair* is two elements of Fp, or one of Fp2 (re, im), lane 0 and 1, as limbs; of which kind, the representation says:
 * limbs-28.mjs for every processor with 128-bit vectors, limbs-49.mjs for those that multiply and add doubles in one. Limbs
 * are signed and may have more bits between operations: an addition carries nothing. An element stands for
 * (Σ limbᵢ·2^(bits·i))·R⁻¹ mod p, R = 2³⁹² (Montgomery).
 *
 * A *wide* value is a product that is not reduced yet: columns of signed 64 bits, column k at byte 16k, lane 0 first.
 */
import { LIMBS_28 } from './limbs-28.mjs'
import { LIMBS_49 } from './limbs-49.mjs'
import { Line, statementsOf } from './line.mjs'

/** @typedef {typeof LIMBS_28 | typeof LIMBS_49} Representation */
/**
 * @typedef {{ name: string, parameters: readonly string[], line: Line, why: string, sum?: Line }} FieldFunction `sum` is what
 *   is settled, where a line does both
 */

/** The lanes of two columns side by side. @param {Line} l @param {number} a @param {number} b @param {string} places of two lanes: '0'/'1' of a, '2'/'3' of b */
function wideLanes(l, a, b, places) {
  const [x = 0, y = 0] = [...places].map(Number)
  return l.shuffle(a, b, [2 * x, 2 * x + 1, 2 * y, 2 * y + 1])
}

/** All functions of the field layer. @param {Representation} representation @returns {readonly FieldFunction[]} */
function functionsOf({ LIMBS, VECTORS, COLUMNS, lanes, settled, lines }) {
  /** Bytes of a pair. */
  const PAIR = 16 * VECTORS
  /** @type {FieldFunction[]} */
  const functions = []
  /** @param {string} name @param {string} parameters @param {string} why @param {((line: Line) => void) | undefined} body */
  function define(name, parameters, why, body) {
    const line = new Line()
    if (body === undefined) throw new Error(`limbs of ${LIMBS} have no ${name}`)
    body(line)
    functions.push({ name, parameters: parameters.split(' '), line, why })
  }
  /** What is done to each vector of a pair. @param {Line} l @param {(at: number) => void} body */
  const eachVector = (l, body) => l.each(VECTORS, 16, body)

  /** @param {Line} l @param {number} a @param {number} times */
  const repeated = (l, a, times) => {
    let sum = a
    for (const bit of times.toString(2).slice(1)) {
      sum = l.add(sum, sum)
      if (bit === '1') sum = l.add(sum, a)
    }
    return sum
  }

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
      l.store('r', at, lanes(l, a, a, '10'))
    }),
  )
  /** (a₀ ± …): the lanes of two vectors side by side. */
  for (const [first, second, places] of /** @type {const} */ ([
    [0, 0, '02'],
    [0, 1, '03'],
    [1, 0, '12'],
    [1, 1, '13'],
  ])) {
    define(`lanes${first}${second}`, 'r a b', `r = (a${first}, b${second})`, l =>
      eachVector(l, at => l.store('r', at, lanes(l, l.load('a', at), l.load('b', at), places))),
    )
  }
  define('conjugate', 'r a', 'r = (a₀, −a₁)', l =>
    eachVector(l, at => {
      const a = l.load('a', at)
      l.store('r', at, lanes(l, a, l.sub(l.zero(), a), '03'))
    }),
  )
  define('timesI', 'r a', 'r = a·i = (−a₁, a₀)', l =>
    eachVector(l, at => {
      const a = l.load('a', at)
      l.store('r', at, lanes(l, l.sub(l.zero(), a), a, '12'))
    }),
  )
  define('timesXi', 'r a', 'r = a·(1 + i) = (a₀ − a₁, a₀ + a₁)', l =>
    eachVector(l, at => {
      const a = l.load('a', at)
      const turned = lanes(l, l.sub(l.zero(), a), a, '12')
      l.store('r', at, l.add(a, turned))
    }),
  )
  /** @param {string} name @param {string} parameters @param {string} of @param {(l: Line, at: number) => number} vector */
  function defineSettled(name, parameters, of, vector) {
    define(name, parameters, `r = ${of} − qp, carried: in ±(½ + 2⁻⁸)p`, l =>
      l.storeAll(
        'r',
        settled(
          l,
          Array.from({ length: VECTORS }, (_, v) => vector(l, 16 * v)),
        ),
      ),
    )
    if (name === 'settle') return
    const sum = new Line()
    eachVector(sum, at => sum.store('r', at, vector(sum, at)))
    Object.assign(/** @type {FieldFunction} */ (functions.at(-1)), { sum })
  }
  // Sums of values that no multiplication divides by R would grow.
  defineSettled('settle', 'r a', 'a', (l, at) => l.load('a', at))
  defineSettled('settleSum', 'r a b', '(a + b)', (l, at) => l.add(l.load('a', at), l.load('b', at)))
  defineSettled('settleRest', 'r a b c', '(a − b − c)', (l, at) =>
    l.sub(l.sub(l.load('a', at), l.load('b', at)), l.load('c', at)),
  )
  defineSettled('settleMinus', 'r t a', '(3t − 2a)', (l, at) =>
    l.sub(repeated(l, l.load('t', at), 3), repeated(l, l.load('a', at), 2)),
  )
  defineSettled('settlePlus', 'r t a', '(3t + 2a)', (l, at) =>
    l.add(repeated(l, l.load('t', at), 3), repeated(l, l.load('a', at), 2)),
  )
  define('carry', 'r a', 'r = a, its limbs carried once', lines.carry)

  define('multiplyWide', 'w a b', 'w = (a₀b₀, a₁b₁)', lines.multiplyWide)
  define('squareWide', 'w a', 'w = (a₀², a₁²)', lines.squareWide)
  define('multiplyWide2', 'w a b', 'w = (a₀b₀ − a₁b₁, a₀b₁ + a₁b₀): a product in Fp2', lines.multiplyWide2)
  define('squareWide2', 'w a', 'w = ((a₀ + a₁)(a₀ − a₁), 2a₀·a₁): a square in Fp2', lines.squareWide2)
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
      l.storeWide(
        'r',
        at,
        l.subWide(l.subWide(l.loadWide('r', at), l.loadWide('v', at)), l.loadWide('w', at)),
      ),
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
      const turned = wideLanes(l, l.subWide(l.zero(), w), w, '12')
      l.storeWide('r', at, l.addWide(l.loadWide('r', at), l.addWide(w, turned)))
    }),
  )
  define('addLanesWide', 'r w', 'r = (w₀ + w₁, w₁ + w₀)', l =>
    eachColumn(l, at => {
      const w = l.loadWide('w', at)
      l.storeWide('r', at, l.addWide(w, wideLanes(l, w, w, '10')))
    }),
  )

  define('reduce', 'r w', 'r = w/R mod p', lines.reduce)
  // Wide sums of the tower: see fp6Multiply.
  define('combineXi', 'r v x y z', 'r = v + (1 + i)(x − y − z)', l =>
    eachColumn(l, at => {
      const w = l.subWide(l.subWide(l.loadWide('x', at), l.loadWide('y', at)), l.loadWide('z', at))
      const turned = wideLanes(l, l.subWide(l.zero(), w), w, '12')
      l.storeWide('r', at, l.addWide(l.loadWide('v', at), l.addWide(w, turned)))
    }),
  )
  define('combineSumXi', 'r v x y z', 'r = x − y − z + (1 + i)v', l =>
    eachColumn(l, at => {
      const w = l.loadWide('v', at)
      const turned = wideLanes(l, l.subWide(l.zero(), w), w, '12')
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
  return functions
}

/** A representation with all that is made of it. @param {Representation} representation */
const fieldOf = representation => ({
  ...representation,
  PAIR: 16 * representation.VECTORS,
  WIDE: 16 * representation.COLUMNS,
  functions: functionsOf(representation),
})
/** @typedef {ReturnType<typeof fieldOf>} Field */
/** By what a kernel needs of WebAssembly. */
export const FIELDS = { simd: fieldOf(LIMBS_28), fma: fieldOf(LIMBS_49) }

/**
 * The field layer as AssemblyScript. What is not used goes when it is compiled.
 *
 * @param {Field} field
 * @param {{ areVectorsRolled: boolean }} options loops over the vectors of a pair: a few hundredths slower, 3 kB less in
 *   the module of pairings, 9 in that of G1
 */
export function fieldSource(field, { areVectorsRolled }) {
  const { PAIR, WIDE, VECTORS } = field
  const lines = ['// Generated by generate-field.mjs.']
  /** A function of two others. @param {string} name @param {string} [b] */
  const composed = (name, b) => `
const ${name.toUpperCase()}: usize = memory.data(${WIDE}, 16)
export function ${name}(r: usize, a: usize${b ? `, ${b}: usize` : ''}): void {
  ${name}Wide(${name.toUpperCase()}, a${b ? `, ${b}` : ''})
  reduce(r, ${name.toUpperCase()})
}`
  lines.push(
    '/** Bytes of a pair and of a wide value. */',
    `export const PAIR: usize = ${PAIR}`,
    `export const WIDE: usize = ${WIDE}`,
    '/** Bytes of a limb of one lane. */',
    `export const LIMB: usize = ${PAIR / field.LIMBS / 2}`,
    `export function loadLimb(at: usize): i64 { return <i64>load<${field.limbType}>(at) }`,
    `export function storeLimb(at: usize, limb: i64): void { store<${field.limbType}>(at, <${field.limbType}>limb) }`,
    `export const LIMBS: usize = ${field.LIMBS}`,
    `export const LIMB_BITS: i32 = ${field.BITS}`,
  )
  for (const [name, { type, values }] of Object.entries(field.constants))
    lines.push(`const ${name}: usize = memory.data<${type}>([${values.join(', ')}], 16)`)
  for (const name of field.scratch) lines.push(`const ${name}: usize = memory.data(${PAIR}, 16)`)
  lines.push(field.preface)
  /** @param {string} name @param {readonly string[]} parameters @param {readonly string[]} body */
  const written = (name, parameters, body) => {
    lines.push(
      `export function ${name}(${parameters.map(parameter => `${parameter}: usize`).join(', ')}): void {`,
    )
    lines.push(...body, '}')
  }
  /** @param {Line} line */
  const bodyOf = ({ operations, loops }) => [
    ...field.prelude(operations),
    ...statementsOf(
      operations,
      loops.filter(({ count }) => areVectorsRolled || count !== VECTORS),
      field.spelling,
    ),
  ]
  if (!field.areSumsSettledInline) lines.push(`const SETTLED: usize = memory.data(${PAIR}, 16)`)
  for (const { name, parameters, line, why, sum } of field.functions) {
    lines.push('', `/** ${why} */`)
    if (sum === undefined || field.areSumsSettledInline) {
      written(name, parameters, bodyOf(line))
    } else {
      const [r, ...operands] = parameters
      written(`${name}Sum`, parameters, bodyOf(sum))
      written(name, parameters, [`  ${name}Sum(SETTLED, ${operands.join(', ')})`, `  settle(${r}, SETTLED)`])
    }
  }
  lines.push(...field.pooled())
  lines.push(composed('square'))
  lines.push(composed('multiply', 'b'))
  return `${lines.join('\n')}\n`
}
