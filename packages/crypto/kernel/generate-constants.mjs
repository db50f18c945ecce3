/**
 * The constants of the tower and the curves, computed from the curve's parameter and written for the kernel: elements in
 * Montgomery's form, pairs of balanced limbs.
 */
import { balancedLimbsOf, limbsOf, P, R } from './prime.mjs'

/** @import { Field } from './generate-field.mjs' */

/** @typedef {readonly [bigint, bigint]} Fp2 */

/** q = t⁴ − t² + 1. */
const ORDER = 0xd201_0000_0001_0000n ** 4n - 0xd201_0000_0001_0000n ** 2n + 1n

/** @param {bigint} a */
const mod = a => ((a % P) + P) % P
/** @param {bigint} base @param {bigint} exponent */
function power(base, exponent) {
  let result = 1n
  for (let b = mod(base), e = exponent; e > 0n; e >>= 1n, b = mod(b * b)) if (e & 1n) result = mod(result * b)
  return result
}
/** @param {bigint} a */
const invert = a => power(a, P - 2n)

/** @param {Fp2} a @param {Fp2} b @returns {Fp2} */
const times = ([a0, a1], [b0, b1]) => [mod(a0 * b0 - a1 * b1), mod(a0 * b1 + a1 * b0)]
/** @param {Fp2} a @param {Fp2} b @returns {Fp2} */
const plus = ([a0, a1], [b0, b1]) => [mod(a0 + b0), mod(a1 + b1)]
/** @param {Fp2} a @returns {Fp2} */
const invert2 = ([a0, a1]) => {
  const norm = invert(mod(a0 * a0 + a1 * a1))
  return [mod(a0 * norm), mod(-a1 * norm)]
}
/** @param {Fp2} base @param {bigint} exponent @returns {Fp2} */
function power2(base, exponent) {
  /** @type {Fp2} */
  let result = [1n, 0n]
  for (let b = base, e = exponent; e > 0n; e >>= 1n, b = times(b, b)) if (e & 1n) result = times(result, b)
  return result
}
/** @type {Fp2} */
const XI = [1n, 1n]

/**
 * The isogeny of degree ℓ with the kernel polynomial h = Π(x − x(Q)) over the pairs ±Q of its kernel, from
 * y² = f = x³ + A'x + B', by Kohel's formula (Kohel 1996, §2.4):
 *   N = (ℓx + 2h')·h² − 2f'·h'h − 4f·(h''h − h'²), where the first h' is the coefficient under the leading one,
 *   (x, y) ↦ (N/(ℓ²h²), y·(N'h − 2Nh')/(ℓ³h³)).
 *
 * @param {bigint} degree @param {bigint} sign of y in the RFC @param {readonly Fp2[]} h @param {Fp2} A @param {Fp2} B
 */
function isogeny(degree, sign, h, A, B) {
  /** @param {readonly Fp2[]} a @param {readonly Fp2[]} b */
  const product = (a, b) => {
    /** @type {Fp2[]} */
    const result = Array.from({ length: a.length + b.length - 1 }, () => [0n, 0n])
    for (const [i, x] of a.entries()) {
      for (const [j, y] of b.entries()) result[i + j] = plus(/** @type {Fp2} */ (result[i + j]), times(x, y))
    }
    return result
  }
  /** @param {readonly Fp2[]} a @param {bigint} by */
  const scaled = (a, by) => a.map(x => times(x, [mod(by), 0n]))
  /** @param {...(readonly Fp2[])} terms */
  const sum = (...terms) =>
    Array.from({ length: Math.max(...terms.map(term => term.length)) }, (_, i) =>
      terms.reduce((total, term) => plus(total, term[i] ?? [0n, 0n]), /** @type {Fp2} */ ([0n, 0n])),
    )
  /** @param {readonly Fp2[]} a */
  const derivative = a => scaled(a.map((x, i) => times(x, [BigInt(i), 0n])).slice(1), 1n)
  const h1 = derivative(h)
  const h2 = derivative(h1)
  /** @type {readonly Fp2[]} */
  const f = [B, A, [0n, 0n], [1n, 0n]]
  const under = /** @type {Fp2} */ (h[h.length - 2])
  const N = sum(
    product([times(under, [2n, 0n]), [degree, 0n]], product(h, h)),
    scaled(product(derivative(f), product(h1, h)), -2n),
    scaled(product(f, sum(h2.length === 0 ? [] : product(h2, h), scaled(product(h1, h1), -1n))), -4n),
  )
  const M = sum(product(derivative(N), h), scaled(product(N, h1), -2n))
  // What stands above has cancelled.
  const d = Number(degree)
  return {
    h,
    x: scaled(N.slice(0, d + 1), invert(degree ** 2n)),
    y: scaled(M.slice(0, (3 * (d - 1)) / 2 + 1), invert(sign * degree ** 3n)),
  }
}

/** RFC 9380 §8.8.1: E' of G1, and the root of x_den of Appendix E.2. */
const A1 = 0x144698a3b8e9433d693a02c96d4982b0ea985383ee66a8d8e8981aefd881ac98936f8da0e0f97f5cf428082d584c1dn
const B1 = 0x12e2908d11688030018b12e8753eee3b2016c1f0f24f4070a0b9c14fcef35ef55a23215a316ceaa5d1cc48e98e172be0n
const H1 = [
  0x133341fb0962a34cb0504a9c4fada0a5090d38679b4c040d5d1c3afb023a3409fcc0815fea66d8b02bbef9c8b5a66e07n,
  0x264908af037bcede00d054cf5d4775e83eb6cf63c76b969f8ed174fb59fcff78d201f46f6cfc4ed6552e59ce75177b0n,
  0x1335c502c1f54c49aceea65e87fd7203ba0f626f305fc0cfd606a5dae9f3c8e81a4b3b69600129fabd307c69bf319d39n,
  0x94440f65f408a6e930e16e3e92dd17bf60d6e9679a8d3d58593de55ac23703042d609537eb3549aac234d896ca82944n,
  0x4afe09d5cf4956a23b6b71f59d2b3407b415a774b7be81bbb6fa99cbc798e0ac98ba725a5bc328016b1c268b4766e85n,
  1n,
]
const Z1 = 11n
/** §8.8.2: E'' of G2, and the root of x_den of Appendix E.3. @type {Fp2} */
const A2 = [0n, 240n]
/** @type {Fp2} */
const B2 = [1012n, 1012n]
/** @type {Fp2} */
const Z2 = [mod(-2n), mod(-1n)]
/** @type {readonly Fp2[]} */
const H2 = [
  [6n, mod(-6n)],
  [1n, 0n],
]
/** The cube root of 1 with φ(x, y) = (βx, −y) = t²(x, y) on G1. */
const BETA = 0x5f19672fdf76ce51ba69c6076a0f77eaddb3a93be6f89688de17d813620a00022e01fffffffefffen

/** @param {bigint} a @returns {Fp2} */
const both = a => [mod(a), mod(a)]
const iso1 = isogeny(
  11n,
  1n,
  H1.map(c => /** @type {Fp2} */ ([c, 0n])),
  [A1, 0n],
  [B1, 0n],
)
/** @param {readonly Fp2[]} coefficients */
const inBoth = coefficients => coefficients.map(([c]) => both(c))
const iso2 = isogeny(3n, -1n, H2, A2, B2)

/** Pairs by name. @type {Readonly<Record<string, readonly Fp2[]>>} */
const PAIRS = {
  ONE2: [[1n, 0n]],
  ONE_ONE: [both(1n)],
  FOUR: [both(4n)],
  FOUR_XI: [[4n, 4n]],
  BETA: [[BETA, mod(-1n)]],
  PSI_X: [invert2(power2(XI, (P - 1n) / 3n))],
  PSI_Y: [invert2(power2(XI, (P - 1n) / 2n))],
  FROBENIUS: [1n, 2n, 3n].flatMap(k => [1n, 2n, 3n, 4n, 5n].map(j => power2(XI, (j * (P ** k - 1n)) / 6n))),
  ISO1_A: [both(A1)],
  ISO1_B: [both(B1)],
  ISO1_A_Z: [both(A1 * Z1)],
  Z1: [both(Z1)],
  ROOT_OF_MINUS_Z1: [both(power(-Z1, (P + 1n) / 4n))],
  ISO1_H: inBoth(iso1.h),
  ISO1_X: inBoth(iso1.x),
  ISO1_Y: inBoth(iso1.y),
  ISO2_A: [A2],
  ISO2_B: [B2],
  ISO2_MINUS_B_OVER_A: [times(times(B2, invert2(A2)), [mod(-1n), 0n])],
  ISO2_X_EXCEPTION: [times(B2, invert2(times(Z2, A2)))],
  Z2: [Z2],
  ISO2_H: iso2.h,
  ISO2_X: iso2.x,
  ISO2_Y: iso2.y,
}
/** Exponents, as what `power` and its like do one after the other. */
const EXPONENTS = { ROOT: (P - 3n) / 4n }

/**
 * A sliding window of 4 bits: the odd digit to begin with, then 0 for a square, an odd digit d for a product with the
 * d-th power.
 *
 * @param {bigint} exponent
 */
function tapeOf(exponent) {
  const bits = exponent.toString(2)
  /** @type {number[]} */
  const tape = []
  for (let at = 0; at < bits.length; ) {
    if (bits[at] === '0') {
      tape.push(0)
      at++
      continue
    }
    const digits = bits.slice(at, at + 4).replace(/0+$/, '')
    if (at > 0) for (let i = 0; i < digits.length; i++) tape.push(0)
    tape.push(Number.parseInt(digits, 2))
    at += digits.length
  }
  return tape
}

/** Eight words of 32 bits, as signed numbers. @param {bigint} value */
const wordsOf = value => Array.from({ length: 8 }, (_, i) => BigInt.asIntN(32, value >> BigInt(32 * i)))

/** @param {Field} field */
export function constantsSource({ BITS, LIMBS, limbType }) {
  const lines = ['// Generated by generate-constants.mjs.']
  /** @param {Fp2} pair */
  function pairLimbs([a, b]) {
    const [low, high] = [balancedLimbsOf(a, BITS, LIMBS), balancedLimbsOf(b, BITS, LIMBS)]
    return low.flatMap((limb, i) => [limb, /** @type {bigint} */ (high[i])])
  }
  /** @param {string} name @param {string} type @param {readonly (bigint | number)[]} values */
  const data = (name, type, values) =>
    lines.push(`export const ${name}: usize = memory.data<${type}>([${values.join(', ')}], 16)`)
  for (const [name, pairs] of Object.entries(PAIRS))
    data(
      name,
      limbType,
      pairs.flatMap(([a, b]) => pairLimbs([mod(a * R), mod(b * R)])),
    )
  // RR turns an integer into Montgomery's form, RR384 one that counts 2³⁸⁴.
  data('RR', limbType, pairLimbs(both(R * R)))
  data('RR384', limbType, pairLimbs(both(R * R * 2n ** 384n)))
  data('P_LIMBS', limbType, limbsOf(P, BITS, LIMBS))
  // For inverse.ts: 13 limbs of 30 bits, and p⁻¹ mod 2³⁰ as a signed number of 32 bits.
  data(
    'P30',
    'i32',
    Array.from({ length: 13 }, (_, i) => BigInt.asUintN(30, P >> BigInt(30 * i))),
  )
  let inverse = P
  for (let i = 0; i < 5; i++) inverse = BigInt.asUintN(30, inverse * (2n - P * inverse))
  lines.push(`export const P30_INVERSE: i32 = ${inverse}`)
  data('HALF_P', limbType, limbsOf((P - 1n) / 2n, BITS, LIMBS))
  // For order.ts: q and 2⁵¹² mod q, in words of 32 bits.
  data('Q_WORDS', 'i32', wordsOf(ORDER))
  data('RQ2', 'i32', wordsOf(2n ** 512n % ORDER))
  for (const [name, exponent] of Object.entries(EXPONENTS)) {
    const tape = tapeOf(exponent)
    data(`${name}_TAPE`, 'u8', tape)
    lines.push(`export const ${name}_STEPS: i32 = ${tape.length}`)
  }
  return `${lines.join('\n')}\n`
}
