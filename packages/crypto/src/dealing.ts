/**
 * Dealing a secret so that everybody can check it: verifiable secret sharing over G1 (Feldman 1987), of which a
 * distributed key generation (Pedersen 1991; Gennaro, Jarecki, Krawczyk, Rabin 2007), a refresh (Herzberg et al. 1995)
 * and a reshare (Desmedt, Jajodia 1997) are sums (protocols.md §3).
 *
 *   dealer i                                                    member j
 *   f_i(x) = a_{i,0} + a_{i,1}x + … + a_{i,t−1}x^{t−1}
 *   A_{i,k} = a_{i,k}P1                     -- A_{i,k} -->
 *                                           -- f_i(j), sealed -->   f_i(j)P1 = Σ_k j^k·A_{i,k}
 *
 *   founding   a_{i,0} random                 s_j  = Σ_i f_i(j)           C_j  = Σ_i Σ_k j^k·A_{i,k}   IVK = Σ_i A_{i,0}
 *   refresh    a_{i,0} = 0, no A_{i,0}        s'_j = s_j + Σ_i f_i(j)     C'_j = C_j + Σ_i Σ_{k≥1} j^k·A_{i,k}
 *   reshare    a_{i,0} = s_i, A_{i,0} = C_i   s'_j = Σ_i λ_i·f_i(j)       C'_j = Σ_i λ_i·Σ_k j^k·A_{i,k}
 *
 * Why it holds. t−1 evaluations of f_i say nothing about f_i(0); the commitments fix f_i before anybody gets a share of
 * it, and f_i(j) either fits them or its dealer has lied. Commitments are in G1 only: a multiple in G2 of a device or
 * pin secret would test PINs. The f_i and f_i(j) are secret, the A_{i,k} and every index public.
 *
 * {@includeCode ../examples/dealing.mjs}
 */
import { DecodeError } from './errors.js'
import { G1 } from './points.js'
import type { Random } from './ports.js'
import { Scalar } from './scalar.js'

/** f_i, a dealer's secret. */
export class Polynomial {
  /** a_0 … a_{t−1}. */
  readonly #coefficients: readonly Scalar[]

  private constructor(coefficients: readonly Scalar[]) {
    this.#coefficients = coefficients
  }

  /** Of degree t−1 with f(0) = `constant`, else random. RangeError unless 1 ≤ t ≤ 255. */
  static random(t: number, random: Random, constant = Scalar.random(random)): Polynomial {
    if (!Number.isInteger(t) || t < 1 || t > 255) throw new RangeError('1 ≤ t ≤ 255 expected')
    return new Polynomial([constant, ...Array.from({ length: t - 1 }, () => Scalar.random(random))])
  }

  /** f(j). RangeError for an index outside 1…255: f(0) is the secret itself. */
  at(index: number): Scalar {
    const x = Scalar.fromNumber(checkedIndex(index))
    return this.#coefficients.reduceRight((sum, coefficient) => sum.multiply(x).add(coefficient))
  }

  /** a_0, for the dealer's proof of possession. */
  get constant(): Scalar {
    return this.#coefficients[0] as Scalar
  }

  /** A_k = a_kP1 for k from `firstPower` on: 1 in a refresh, where a_0 = 0 has no point that decodes. */
  commitments(firstPower: FirstPower = 0): G1[] {
    return this.#coefficients.slice(firstPower).map(coefficient => G1.generator.mulSecret(coefficient))
  }

  /** 32 bytes for each coefficient. */
  encode(): Uint8Array {
    const bytes = new Uint8Array(32 * this.#coefficients.length)
    this.#coefficients.forEach((coefficient, k) => {
      bytes.set(coefficient.encode(), 32 * k)
    })
    return bytes
  }

  /** DecodeError: not 1 to 255 scalars. */
  static decode(bytes: Uint8Array, field = 'polynomial'): Polynomial {
    const t = bytes.length / 32
    if (!Number.isInteger(t) || t < 1 || t > 255) throw new DecodeError(field, '1 to 255 scalars expected')
    return new Polynomial(
      Array.from({ length: t }, (_, k) => Scalar.decode(bytes.subarray(32 * k, 32 * k + 32), field)),
    )
  }
}

/** The power that the first commitment stands for. */
export type FirstPower = 0 | 1

/** What one dealer has committed to for one purpose. */
export interface Dealing {
  readonly firstPower: FirstPower
  /** A_k for k = firstPower … t−1. */
  readonly commitments: readonly G1[]
}

/** f_i(j)P1 = Σ_k j^k·A_k? `share` is secret until it is published in a complaint. */
export function shareFits(dealing: Dealing, index: number, share: Scalar): boolean {
  return G1.generator.mulSecret(share).equals(sumOfDealings([dealing], index))
}

/** Σ_i w_i·Σ_k j^k·A_{i,k}, where w_i = 1 unless `weights` says otherwise. All of it public. */
export function sumOfDealings(dealings: readonly Dealing[], index: number, weights?: readonly Scalar[]): G1 {
  const x = Scalar.fromNumber(checkedIndex(index))
  const points: G1[] = []
  const scalars: Scalar[] = []
  dealings.forEach(({ firstPower, commitments }, i) => {
    let power = weights?.[i] ?? Scalar.fromNumber(1)
    if (firstPower === 1) power = power.multiply(x)
    for (const commitment of commitments) {
      points.push(commitment)
      scalars.push(power)
      power = power.multiply(x)
    }
  })
  return G1.sumOfProducts(points, scalars)
}

function checkedIndex(index: number): number {
  if (!Number.isInteger(index) || index < 1 || index > 255) throw new RangeError('a share index is 1…255')
  return index
}
