/**
 * Shamir's secret sharing over the scalars (Shamir 1979), and combining in the exponent.
 *
 * n-of-n needs no dealing: any n secrets s_j lie on one polynomial of degree n−1, so s = Σ λ_j s_j with λ_j over 1…n
 * and combining is the code of t-of-n (protocols.md §3).
 */
import { G1, G2 } from './points.js'
import type { Random } from './ports.js'
import { Scalar } from './scalar.js'

/** λ_j at 0 for each index. RangeError for none, for an index outside 1…255, and for one that stands twice. */
export function lagrangeAtZero(indices: readonly number[]): Scalar[] {
  if (indices.length === 0) throw new RangeError('no shares')
  for (const index of indices) {
    if (!Number.isInteger(index) || index < 1 || index > 255) throw new RangeError('a share index is 1…255')
  }
  if (new Set(indices).size !== indices.length) throw new RangeError('a share index stands twice')
  const scalars = indices.map(index => Scalar.fromNumber(index))
  return scalars.map((here, i) => {
    // λ_j = Π_{m≠j} m / (m − j)
    let numerator = Scalar.fromNumber(1)
    let denominator = Scalar.fromNumber(1)
    scalars.forEach((other, m) => {
      if (m === i) return
      numerator = numerator.multiply(other)
      denominator = denominator.multiply(other.subtract(here))
    })
    return numerator.multiply(denominator.invert())
  })
}

export interface PointShare<P> {
  readonly index: number
  readonly point: P
}

/** D = Σ λ_j d_j. The λ_j are public. */
export function combineG1(shares: readonly PointShare<G1>[]): G1 {
  const lambda = lagrangeAtZero(shares.map(share => share.index))
  return G1.sumOfProducts(
    shares.map(share => share.point),
    lambda,
  )
}

/** S = Σ λ_j W_j. */
export function combineG2(shares: readonly PointShare<G2>[]): G2 {
  const lambda = lagrangeAtZero(shares.map(share => share.index))
  return G2.sum(shares.map((share, i) => share.point.mulPublic(lambda[i] as Scalar)))
}

export interface ScalarShare {
  readonly index: number
  readonly scalar: Scalar
}

/** f(1)…f(n) of a random f of degree t−1 with f(0) = secret. Any t of them recombine; t−1 say nothing. */
export function splitSecret(
  secret: Scalar,
  { t, n }: { readonly t: number; readonly n: number },
  random: Random,
): ScalarShare[] {
  if (!Number.isInteger(t) || !Number.isInteger(n) || t < 1 || t > n || n > 255) {
    throw new RangeError('1 ≤ t ≤ n ≤ 255 expected')
  }
  const coefficients = [secret, ...Array.from({ length: t - 1 }, () => Scalar.random(random))]
  return Array.from({ length: n }, (_, i) => {
    const x = Scalar.fromNumber(i + 1)
    const scalar = coefficients.reduceRight((sum, coefficient) => sum.multiply(x).add(coefficient))
    return { index: i + 1, scalar }
  })
}

/** f(0). */
export function recombineSecret(shares: readonly ScalarShare[]): Scalar {
  const lambda = lagrangeAtZero(shares.map(share => share.index))
  return shares.reduce(
    (sum, share, i) => sum.add(share.scalar.multiply(lambda[i] as Scalar)),
    Scalar.fromNumber(0),
  )
}
