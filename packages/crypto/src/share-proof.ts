/**
 * A key share with its proof (Chaum–Pedersen 1992 in G1, no pairing; protocols.md §3).
 *
 *   authority j                                             device
 *   d_j = s_j·A
 *   T1 = k·P1,  T2 = k·A
 *   κ = Hq(DLEQ; ctx, P1, C_j, A, d_j, T1, T2)
 *   z = k − κ·s_j
 *   -- d_j, κ, z, sealed (HPKE info = ctx) -->              κ = Hq(DLEQ; …, zP1 + κC_j, zA + κd_j) ?
 *
 * It holds because log_P1 C_j = log_A d_j. A server's key of `agree` is a point of G2: A = Hk2(name), T2 = k·A and d_j are
 * then in G2, T1 stays in G1, and everything else is the same. `k` is hedged with s_j and everything that the proof fixes. For `device`
 * and `pin` the triple must not leave the seal: in clear, a proof and t−1 authorities test PINs.
 *
 * {@includeCode ../examples/key-shares.mjs}
 */
import { be32, u8, utf8 } from './bytes.js'
import { DecodeError } from './errors.js'
import { hashToScalar } from './hash-to-curve.js'
import { decodeGroupId } from './identity.js'
import { G1, G2 } from './points.js'
import { freshBytes, type Random } from './ports.js'
import { Scalar } from './scalar.js'
import type { Purpose } from './suite.js'
import { decodeTlv, encodeTlv, need } from './tlv.js'

export interface ShareContext {
  readonly groupId: Uint8Array
  readonly purpose: Purpose
  /** The authority's index j. */
  readonly index: number
  readonly shareEpoch: number
  /** idCore (`device`, `pin`, `sign`), the name TLV (`agree`, `encrypt`, server keys), or the HT input (`permit`). */
  readonly identity: Uint8Array
  /** `pin` only. */
  readonly userCore?: Uint8Array
  readonly pinGen?: number
  /** 16 bytes: the ticket's, or the request's nonce. */
  readonly jti: Uint8Array
  /** In a rotation only. */
  readonly rotation?: { readonly oldEpoch: number; readonly newEpoch: number }
}

/**
 * ctx of the proof, and HPKE's info: one TLV. RangeError for an index outside 1…255, no identity, or a userCore or
 * pinGen in another purpose than `pin`: an empty entry would be an absent one, and two contexts one.
 */
export function shareContext(context: ShareContext): Uint8Array {
  if (context.jti.length !== 16) throw new DecodeError('jti', '16 bytes expected')
  if (context.index < 1) throw new RangeError('a share index is 1…255')
  if (context.identity.length === 0) throw new RangeError('a share is for somebody')
  const hasUser = context.userCore !== undefined && context.userCore.length > 0
  if ((hasUser || context.pinGen !== undefined) && context.purpose !== 'pin') {
    throw new RangeError('only `pin` has a userCore and a pinGen')
  }
  return encodeTlv([
    decodeGroupId(context.groupId),
    utf8(context.purpose),
    u8(context.index),
    be32(context.shareEpoch),
    context.identity,
    context.userCore,
    context.pinGen === undefined ? undefined : be32(context.pinGen),
    context.jti,
    context.rotation && be32(context.rotation.oldEpoch),
    context.rotation && be32(context.rotation.newEpoch),
  ])
}

/** What G1 and G2 have in common here. */
export interface PointOf<P> {
  encode(): Uint8Array
  mulSecret(scalar: Scalar): P
}

/** d_j with its proof; a point of G2 for servers' keys of `agree`. */
export class KeyShare<P extends PointOf<P> = G1> {
  readonly #d: P
  readonly #kappa: Scalar
  readonly #z: Scalar

  private constructor(d: P, kappa: Scalar, z: Scalar) {
    this.#d = d
    this.#kappa = kappa
    this.#z = z
  }

  static of<P extends PointOf<P>>(d: P, kappa: Scalar, z: Scalar): KeyShare<P> {
    return new KeyShare(d, kappa, z)
  }

  static decode(bytes: Uint8Array, field = 'share'): KeyShare {
    return KeyShare.#decode(bytes, field, G1.decode)
  }
  static decodeG2(bytes: Uint8Array, field = 'share'): KeyShare<G2> {
    return KeyShare.#decode(bytes, field, G2.decode)
  }
  static #decode<P extends PointOf<P>>(
    bytes: Uint8Array,
    field: string,
    decodePoint: (bytes: Uint8Array, field: string) => P,
  ): KeyShare<P> {
    const [d, kappa, z] = decodeTlv(bytes, { tags: 3, field })
    return new KeyShare(
      decodePoint(need(d, `${field}.d`), `${field}.d`),
      Scalar.decode(need(kappa, `${field}.kappa`), `${field}.kappa`),
      Scalar.decode(need(z, `${field}.z`), `${field}.z`),
    )
  }

  /** d_j = s_jA. Secret for every purpose but `permit`, and so are κ and z beside it. */
  get d(): P {
    return this.#d
  }
  get kappa(): Scalar {
    return this.#kappa
  }
  get z(): Scalar {
    return this.#z
  }

  /** TLV{1 d_j, 2 κ, 3 z}: the plaintext of a sealed share. */
  encode(): Uint8Array {
    return encodeTlv([this.d.encode(), this.kappa.encode(), this.z.encode()])
  }
}

export interface Statement<P> {
  readonly ctx: Uint8Array
  /** C_j = s_jP1. */
  readonly commitment: G1
  /** The identity's point, which the authority hashed itself. */
  readonly A: P
}

function challenge<P extends PointOf<P>>({ ctx, commitment, A }: Statement<P>, d: P, T1: G1, T2: P): Scalar {
  return hashToScalar(
    'DLEQ',
    encodeTlv([
      ctx,
      G1.generator.encode(),
      commitment.encode(),
      A.encode(),
      d.encode(),
      T1.encode(),
      T2.encode(),
    ]),
  )
}

/** @param secretShare s_j. */
export function authorityIssue<P extends PointOf<P>>(
  statement: Statement<P>,
  secretShare: Scalar,
  random: Random,
): KeyShare<P> {
  const { ctx, commitment, A } = statement
  const d = A.mulSecret(secretShare)
  const k = hashToScalar(
    'DLEQ-NONCE',
    encodeTlv([
      secretShare.encode(),
      freshBytes(random, 32),
      ctx,
      commitment.encode(),
      A.encode(),
      d.encode(),
    ]),
  )
  const kappa = challenge(statement, d, G1.generator.mulSecret(k), A.mulSecret(k))
  return KeyShare.of(d, kappa, k.subtract(kappa.multiply(secretShare)))
}

/**
 * Does d_j have the same logarithm as C_j? One by one: κ hashes T1 and T2, so both must be had exactly, and a random
 * sum over many proofs would save nothing. (A batch would take proofs that carry T1 and T2.)
 */
export function shareVerify(statement: Statement<G1>, share: KeyShare): boolean {
  return proofHolds(statement, share, G1.sumOfProducts([statement.A, share.d], [share.z, share.kappa]))
}

/** The same for a share of a key in G2. */
export function shareVerifyG2(statement: Statement<G2>, share: KeyShare<G2>): boolean {
  return proofHolds(statement, share, G2.sumOfProducts([statement.A, share.d], [share.z, share.kappa]))
}

function proofHolds<P extends PointOf<P>>(statement: Statement<P>, share: KeyShare<P>, T2: P): boolean {
  const T1 = G1.sumOfProducts([G1.generator, statement.commitment], [share.z, share.kappa])
  return challenge(statement, share.d, T1, T2).equals(share.kappa)
}
