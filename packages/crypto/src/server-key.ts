/**
 * Server keys (protocols.md §3): W_j = s_jQ, checked by e(C_j, Q) = e(P1, W_j); S = Σ λ_jW_j, checked by
 * e(IVK, Q) = e(P1, S), and again at every start.
 */
import { G1, G2, PreparedG2, pairingProductIsOne } from './points.js'
import type { Scalar } from './scalar.js'
import { combineG2, type PointShare } from './secret-sharing.js'

/** W_j, for a recipient that the group document names for this purpose. */
export function authorityServerKeyShare(secretShare: Scalar): G2 {
  return G2.generator.mulSecret(secretShare)
}

/** e(C, Q) = e(P1, W): do both have one logarithm? Also the check of a public key against its IVK. */
export function sameLogarithm(commitment: G1, W: G2): boolean {
  return pairingProductIsOne([
    [commitment, PreparedG2.generator],
    [G1.generator.negate(), W],
  ])
}

/** S = sQ that has passed the check against its IVK. */
export class ServerKey {
  readonly #S: G2
  #lines: PreparedG2 | undefined

  private constructor(S: G2) {
    this.#S = S
  }

  /** Null when S does not belong to `ivk`, or is the identity: under s = 0 everybody's key is the same. */
  static verify(ivk: G1, S: G2): ServerKey | null {
    return !S.isIdentity() && sameLogarithm(ivk, S) ? new ServerKey(S) : null
  }

  /** Combines shares of which each has passed sameLogarithm with its C_j. */
  static combine(ivk: G1, shares: readonly PointShare<G2>[]): ServerKey | null {
    return ServerKey.verify(ivk, combineG2(shares))
  }

  /** S itself. Secret. */
  get point(): G2 {
    return this.#S
  }
  /** Its lines, for pairings; made when they are first asked for. As secret as S. */
  get lines(): PreparedG2 {
    this.#lines ??= PreparedG2.of(this.#S)
    return this.#lines
  }
  /** 96 secret bytes, for sealing at rest. */
  encode(): Uint8Array {
    return this.#S.encode()
  }
}
