/**
 * Many proofs in one product (small exponents: Bellare, Garay, Rabin 1998; protocols.md §6). Device proofs, permits and
 * signatures under one key S are equations of one form:
 *
 *   e(V_i, Q)·e(X_i, S) = 1,   X_i = U_i + c_i·A_i
 *   r_i random in [1, 2¹²⁸), drawn when every input is fixed
 *   e(Σ r_i·V_i, Q)·e(Σ r_i·X_i, S) = 1
 *
 * Whoever fixes his proofs before the r_i are drawn gets a false one through with probability 2⁻¹²⁸ at most. With
 * weights that he knows, two false proofs that cancel out pass, and one of them logs in as somebody else.
 *
 * A product that isn't one is halved. The r_i of the whole serve its halves, so right = whole / left and only the left
 * half is computed: about log₂ n products for each false proof, n at most. An equation by itself is decided exactly.
 *
 * All points have passed `decode`. Everything here is public but S.
 *
 * {@includeCode ../examples/batch.mjs}
 */
import { G1, type GT, PreparedG2, pairingProduct, pairingProductIsOne } from './points.js'
import type { Random } from './ports.js'
import { Scalar } from './scalar.js'

export interface Equation {
  readonly V: G1
  readonly U: G1
  /** Absent where X = U. */
  readonly cA?: { readonly c: Scalar; readonly A: G1 }
}

/** Σ r_iV_i and Σ r_iX_i. RangeError unless there is one weight for each equation. */
export function weightedSums(
  equations: readonly Equation[],
  weights: readonly Scalar[],
): { readonly V: G1; readonly X: G1 } {
  // Who has many proofs here, all with the one A object, is one product: Σ r_ic_i·A.
  const sums = new Map<G1, Scalar>()
  equations.forEach(({ cA }, i) => {
    if (cA === undefined) return
    const term = cA.c.multiply(weights[i] as Scalar)
    sums.set(cA.A, sums.get(cA.A)?.add(term) ?? term)
  })
  const points = [...equations.map(({ U }) => U), ...sums.keys()]
  const scalars = [...weights, ...sums.values()]
  return {
    V: G1.sumOfProducts(
      equations.map(({ V }) => V),
      weights,
    ),
    X: G1.sumOfProducts(points, scalars),
  }
}

/** One by itself: it has nothing to cancel out with, and needs no weight. */
export function verifyEquation({ V, U, cA }: Equation, S: PreparedG2): boolean {
  return pairingProductIsOne([
    [V, PreparedG2.generator],
    [cA === undefined ? U : U.add(cA.A.mulPublic(cA.c)), S],
  ])
}

export interface Verdicts {
  /** By place: does the equation hold? */
  readonly holds: readonly boolean[]
  /** Products of two pairings that it took. */
  readonly products: number
}

/** Decides every equation. */
export function verifyEquations(equations: readonly Equation[], S: PreparedG2, random: Random): Verdicts {
  const [first] = equations
  if (first === undefined) return { holds: [], products: 0 }
  if (equations.length === 1) return { holds: [verifyEquation(first, S)], products: 1 }
  const holds = equations.map(() => true)
  const weights = equations.map(() => Scalar.randomWeight(random))
  let products = 0
  const productOf = (from: number, to: number): GT => {
    products++
    const { V, X } = weightedSums(equations.slice(from, to), weights.slice(from, to))
    return pairingProduct([
      [V, PreparedG2.generator],
      [X, S],
    ])
  }
  /** `product` is that of the equations from `from` up to `to`. */
  const decide = (from: number, to: number, product: GT): void => {
    if (product.isOne()) return
    if (to - from === 1) {
      holds[from] = false
      return
    }
    const middle = (from + to) >>> 1
    const left = productOf(from, middle)
    decide(from, middle, left)
    decide(middle, to, product.divide(left))
  }
  decide(0, equations.length, productOf(0, equations.length))
  return { holds, products }
}
