/**
 * Fp2, Fp6, Fp12, G2 and the pairing as a textbook has them: affine points (Jacobian ones for multiples, bit by bit),
 * schoolbook products, one plain final exponentiation. Slow, and meant to be read: what the kernel does in a clever way is
 * compared with this.
 *
 *   Fp2 = Fp[i]/(i² + 1)    Fp6 = Fp2[v]/(v³ − (1 + i))    Fp12 = Fp6[w]/(w² − v), so w⁶ = 1 + i
 *   E: y² = x³ + 4 over Fp    E': y² = x³ + 4(1 + i) over Fp2, untwisted into E(Fp12) by (x, y) ↦ (x/w², y/w³)
 */
import { ORDER, P, PARAMETER } from '@milagro-ts/crypto/curve'

export const mod = (a: bigint): bigint => {
  const rest = a % P
  return rest < 0n ? rest + P : rest
}
const power = <T>(base: T, exponent: bigint, one: T, multiply: (a: T, b: T) => T): T => {
  let result = one
  for (const bit of exponent.toString(2)) {
    result = multiply(result, result)
    if (bit === '1') result = multiply(result, base)
  }
  return result
}
export const fpMultiply = (a: bigint, b: bigint): bigint => mod(a * b)
export const fpPower = (a: bigint, exponent: bigint): bigint => power(a, exponent, 1n, fpMultiply)
export const fpInvert = (a: bigint): bigint => fpPower(a, P - 2n)

// Fp2

export interface Fp2 {
  readonly c0: bigint
  readonly c1: bigint
}
export const fp2 = (c0: bigint, c1: bigint): Fp2 => ({ c0: mod(c0), c1: mod(c1) })
export const fp2Zero = fp2(0n, 0n)
export const fp2One = fp2(1n, 0n)
/** ξ = 1 + i. */
export const XI = fp2(1n, 1n)
export const fp2Add = (a: Fp2, b: Fp2): Fp2 => fp2(a.c0 + b.c0, a.c1 + b.c1)
export const fp2Subtract = (a: Fp2, b: Fp2): Fp2 => fp2(a.c0 - b.c0, a.c1 - b.c1)
export const fp2Scale = (a: Fp2, k: bigint): Fp2 => fp2(a.c0 * k, a.c1 * k)
export const fp2Multiply = (a: Fp2, b: Fp2): Fp2 => fp2(a.c0 * b.c0 - a.c1 * b.c1, a.c0 * b.c1 + a.c1 * b.c0)
/** (a + bi)(a − bi) = a² + b². */
export const fp2Invert = (a: Fp2): Fp2 => fp2Scale(fp2(a.c0, -a.c1), fpInvert(mod(a.c0 ** 2n + a.c1 ** 2n)))
export const fp2Equals = (a: Fp2, b: Fp2): boolean => a.c0 === b.c0 && a.c1 === b.c1

/** A root of `a` in Fp, or null. */
function fpRoot(a: bigint): bigint | null {
  const root = fpPower(a, (P + 1n) / 4n)
  return mod(root * root) === a ? root : null
}

/** Either root in Fp2, or null: (x + yi)² = a + bi with x² = (a ± √(a² + b²))/2 and y = b/2x. */
export function fp2Root({ c0, c1 }: Fp2): Fp2 | null {
  if (c1 === 0n) {
    const root = fpRoot(c0)
    if (root !== null) return fp2(root, 0n)
    // −1 is no square, so −c0 is one.
    return fp2(0n, fpRoot(mod(-c0)) as bigint)
  }
  const norm = fpRoot(mod(c0 ** 2n + c1 ** 2n))
  if (norm === null) return null
  const half = fpInvert(2n)
  const x = fpRoot(mod((c0 + norm) * half)) ?? fpRoot(mod((c0 - norm) * half))
  if (x === null) return null
  return fp2(x, c1 * half * fpInvert(x))
}

// Fp6 and Fp12: polynomials in v and in w with coefficients in Fp2

/** c0 + c1·v + c2·v². */
export type Fp6 = readonly [Fp2, Fp2, Fp2]
/** Coefficients of w⁰…w⁵. */
export type Fp12 = readonly [Fp2, Fp2, Fp2, Fp2, Fp2, Fp2]

/** Modulo (variable)^degree = ξ. */
function polynomialProduct(a: readonly Fp2[], b: readonly Fp2[], degree: number): Fp2[] {
  const product = new Array<Fp2>(degree).fill(fp2Zero)
  a.forEach((x, i) => {
    b.forEach((y, j) => {
      const term = fp2Multiply(x, y)
      const at = (i + j) % degree
      product[at] = fp2Add(product[at] as Fp2, i + j < degree ? term : fp2Multiply(term, XI))
    })
  })
  return product
}
export const fp6Multiply = (a: Fp6, b: Fp6): Fp6 => polynomialProduct(a, b, 3) as unknown as Fp6
export const fp12Multiply = (a: Fp12, b: Fp12): Fp12 => polynomialProduct(a, b, 6) as unknown as Fp12
export const fp12One: Fp12 = [fp2One, fp2Zero, fp2Zero, fp2Zero, fp2Zero, fp2Zero]
export const fp12Power = (a: Fp12, exponent: bigint): Fp12 => power(a, exponent, fp12One, fp12Multiply)
/** p⁶-th power: w ↦ −w. The inverse where the norm to Fp6 is 1, as for values of the pairing. */
export const fp12Conjugate = (a: Fp12): Fp12 =>
  a.map((c, i) => (i % 2 === 0 ? c : fp2Scale(c, -1n))) as unknown as Fp12
/** c₀ + c₁w over Fp6, v = w². */
export const fp12OfHalves = (c0: Fp6, c1: Fp6): Fp12 => [c0[0], c1[0], c0[1], c1[1], c0[2], c1[2]]

const bigEndian = (value: bigint): number[] =>
  (value.toString(16).padStart(96, '0').match(/../g) as string[]).map(pair => Number.parseInt(pair, 16))

/** 576 bytes: Fp2 → Fp6 → Fp12, c0 first, 48-byte big-endian each. */
export const fp12Bytes = (a: Fp12): Uint8Array =>
  Uint8Array.from(
    [0, 2, 4, 1, 3, 5].flatMap(i => [...bigEndian((a[i] as Fp2).c0), ...bigEndian((a[i] as Fp2).c1)]),
  )

// Points, affine; null is the identity

interface Affine<F> {
  readonly x: F
  readonly y: F
}
export type TwinG1 = Affine<bigint> | null
export type TwinG2 = Affine<Fp2> | null

const B2 = fp2Scale(XI, 4n)
export const g2OnCurve = (a: TwinG2): boolean =>
  a === null || fp2Equals(fp2Multiply(a.y, a.y), fp2Add(fp2Multiply(a.x, fp2Multiply(a.x, a.x)), B2))

/** Q (draft-irtf-cfrg-pairing-friendly-curves-11 §4.2.1). */
export const twinQ: TwinG2 = {
  x: fp2(
    0x024aa2b2f08f0a91260805272dc51051c6e47ad4fa403b02b4510b647ae3d1770bac0326a805bbefd48056c8c121bdb8n,
    0x13e02b6052719f607dacd3a088274f65596bd0d09920b61ab5da61bbdc7f5049334cf11213945d57e5ac7d055d042b7en,
  ),
  y: fp2(
    0x0ce5d527727d6e118cc9cdc6da2e351aadfd9baa8cbdd3a76d429a695160d12c923ac9cc3baca289e193548608b82801n,
    0x0606c4a02ea734cc32acd2b02bc28b99cb3e287e85a763af267492ab572e99ab3f370d275cec1da1aaa9075ff05f79ben,
  ),
}

/** The slope of the tangent, or of the line through two points with different x. */
function slope(a: Affine<Fp2>, b: Affine<Fp2>): Fp2 {
  if (fp2Equals(a.x, b.x))
    return fp2Multiply(fp2Scale(fp2Multiply(a.x, a.x), 3n), fp2Invert(fp2Scale(a.y, 2n)))
  return fp2Multiply(fp2Subtract(b.y, a.y), fp2Invert(fp2Subtract(b.x, a.x)))
}
const opposite = (a: Affine<Fp2>, b: Affine<Fp2>): boolean =>
  fp2Equals(a.x, b.x) && fp2Equals(a.y, fp2Scale(b.y, -1n))

export function g2Add(a: TwinG2, b: TwinG2): TwinG2 {
  if (a === null) return b
  if (b === null) return a
  if (opposite(a, b)) return null
  const lambda = slope(a, b)
  const x = fp2Subtract(fp2Subtract(fp2Multiply(lambda, lambda), a.x), b.x)
  return { x, y: fp2Subtract(fp2Multiply(lambda, fp2Subtract(a.x, x)), a.y) }
}
export const g2Negate = (a: TwinG2): TwinG2 => a && { x: a.x, y: fp2Scale(a.y, -1n) }
export const g2Multiply = (a: TwinG2, k: bigint): TwinG2 =>
  affineOf(power<Jacobian>(a && { ...a, z: fp2One }, k, null, jacobianAdd))

/** (X/Z², Y/Z³): without an inversion for each sum. */
type Jacobian = (Affine<Fp2> & { readonly z: Fp2 }) | null
function jacobianAdd(a: Jacobian, b: Jacobian): Jacobian {
  if (a === null) return b
  if (b === null) return a
  const [aa, bb] = [fp2Multiply(a.z, a.z), fp2Multiply(b.z, b.z)]
  const [ax, bx] = [fp2Multiply(a.x, bb), fp2Multiply(b.x, aa)]
  const [ay, by] = [fp2Multiply(a.y, fp2Multiply(bb, b.z)), fp2Multiply(b.y, fp2Multiply(aa, a.z))]
  if (fp2Equals(ax, bx)) return fp2Equals(ay, by) ? jacobianDouble(a) : null
  const [h, r] = [fp2Subtract(bx, ax), fp2Subtract(by, ay)]
  const hh = fp2Multiply(h, h)
  const [hhh, v] = [fp2Multiply(hh, h), fp2Multiply(ax, hh)]
  const x = fp2Subtract(fp2Subtract(fp2Multiply(r, r), hhh), fp2Scale(v, 2n))
  const y = fp2Subtract(fp2Multiply(r, fp2Subtract(v, x)), fp2Multiply(ay, hhh))
  return { x, y, z: fp2Multiply(h, fp2Multiply(a.z, b.z)) }
}
/** No point of E' has y = 0. */
function jacobianDouble({ x, y, z }: NonNullable<Jacobian>): Jacobian {
  const [xx, yy] = [fp2Multiply(x, x), fp2Multiply(y, y)]
  const [s, m] = [fp2Scale(fp2Multiply(x, yy), 4n), fp2Scale(xx, 3n)]
  const twice = fp2Subtract(fp2Multiply(m, m), fp2Scale(s, 2n))
  const lift = fp2Scale(fp2Multiply(yy, yy), 8n)
  return {
    x: twice,
    y: fp2Subtract(fp2Multiply(m, fp2Subtract(s, twice)), lift),
    z: fp2Scale(fp2Multiply(y, z), 2n),
  }
}
function affineOf(a: Jacobian): TwinG2 {
  if (a === null) return null
  const inverse = fp2Invert(a.z)
  const square = fp2Multiply(inverse, inverse)
  return { x: fp2Multiply(a.x, square), y: fp2Multiply(a.y, fp2Multiply(square, inverse)) }
}
export const g2InSubgroup = (a: TwinG2): boolean => g2Multiply(a, ORDER) === null

const isLarger = ({ c0, c1 }: Fp2): boolean => (c1 === 0n ? 2n * c0 > P : 2n * c1 > P)
/** A point with this x, or null; outside the subgroup nearly always. */
export function g2AtX(x: Fp2, larger: boolean): TwinG2 {
  const y = fp2Root(fp2Add(fp2Multiply(x, fp2Multiply(x, x)), B2))
  return y && { x, y: isLarger(y) === larger ? y : fp2Scale(y, -1n) }
}
/** 96 bytes: c1 ‖ c0 of x with the flags compressed, identity, y is the larger. */
export function g2Bytes(a: TwinG2): Uint8Array {
  if (a === null) return new Uint8Array(96).fill(0xc0, 0, 1)
  const bytes = Uint8Array.from([...bigEndian(a.x.c1), ...bigEndian(a.x.c0)])
  bytes[0] = (bytes[0] as number) | 0x80 | (isLarger(a.y) ? 0x20 : 0)
  return bytes
}

// The pairing

/**
 * The line through a and b of E'(Fp2), untwisted, at the point of E(Fp), times w³:
 *
 *   w³·(y_P − y/w³ − (λ/w)(x_P − x/w²)) = (λx − y) − λx_P·w² + y_P·w³
 *
 * w³ lies in Fp4 and vertical lines lie in Fp6: the final exponentiation makes 1 of both.
 */
function line(a: Affine<Fp2>, b: Affine<Fp2>, at: Affine<bigint>): Fp12 {
  if (opposite(a, b)) return fp12One
  const lambda = slope(a, b)
  return [
    fp2Subtract(fp2Multiply(lambda, a.x), a.y),
    fp2Zero,
    fp2Scale(lambda, -at.x),
    fp2(at.y, 0n),
    fp2Zero,
    fp2Zero,
  ]
}

/** f_{|t|,R}(P). */
function miller(at: Affine<bigint>, R: Affine<Fp2>): Fp12 {
  let f = fp12One
  let T: TwinG2 = R
  for (const bit of PARAMETER.toString(2).slice(1)) {
    f = fp12Multiply(fp12Multiply(f, f), line(T as Affine<Fp2>, T as Affine<Fp2>, at))
    T = g2Add(T, T)
    if (bit === '1') {
      f = fp12Multiply(f, line(T as Affine<Fp2>, R, at))
      T = g2Add(T, R)
    }
  }
  return f
}

/** The usual library value: three times (p¹² − 1)/q, and t is negative. */
const FINAL_EXPONENT = (3n * (P ** 12n - 1n)) / ORDER

/** Π e(P, R). */
export function twinPairing(pairs: readonly (readonly [TwinG1, TwinG2])[]): Fp12 {
  let f = fp12One
  for (const [at, R] of pairs) if (at !== null && R !== null) f = fp12Multiply(f, miller(at, R))
  return fp12Conjugate(fp12Power(f, FINAL_EXPONENT))
}
