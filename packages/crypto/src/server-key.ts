/**
 * Server keys (protocols.md §3): W_j = s_jQ, checked by e(C_j, Q) = e(P1, W_j); S = Σ λ_jW_j, checked by
 * e(IVK, Q) = e(P1, S), and again at every start.
 */
import { G1, G2, PreparedG2, pairingProductIsOne } from './points.js'
import type { Scalar } from './scalar.js'
import { combineG1, combineG2, type PointShare } from './secret-sharing.js'

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

/** The public keys of one purpose of a group. */
export interface PublicKeys {
  readonly t: number
  readonly ivk: G1
  /** C_j by position j − 1. */
  readonly commitments: readonly G1[]
  /** sQ, where the purpose has one. */
  readonly pub: G2 | undefined
}

/** Which of a purpose's public keys is wrong: do the C_j make IVK, is sQ of the same secret? Null: none. */
export function publicKeysFault({ t, ivk, commitments, pub }: PublicKeys): 'ivk' | 'pub' | null {
  if (!onePolynomial(commitments, t, ivk)) return 'ivk'
  // e(IVK, Q) = e(P1, pub)
  return pub !== undefined && !sameLogarithm(ivk, pub) ? 'pub' : null
}

/**
 * Every t of the commitments combine to IVK. Checked for {1 … t} and for {1 … t−1, j} with each j > t: two polynomials
 * of degree t − 1 that agree at 1 … t−1 and at 0 are one.
 */
function onePolynomial(commitments: readonly G1[], t: number, ivk: G1): boolean {
  const shares = commitments.map((point, i) => ({ index: i + 1, point }))
  return shares.slice(t - 1).every(last => combineG1([...shares.slice(0, t - 1), last]).equals(ivk))
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
