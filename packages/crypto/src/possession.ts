/**
 * Proof of possession of a, bound to a session and a member (Schnorr; protocols.md §3, encoding.md). Without it the
 * member that speaks last chooses the group's key, in n-of-n too.
 */
import { be32, utf8 } from './bytes.js'
import { hashToScalar } from './hash-to-curve.js'
import { hedgedNonce, NONCE_ROLE } from './nonce.js'
import { G1 } from './points.js'
import type { Random } from './ports.js'
import type { Scalar } from './scalar.js'
import type { Purpose } from './suite.js'
import { encodeTlv } from './tlv.js'

export interface PossessionContext {
  /** 32 bytes that hash all joins. */
  readonly session: Uint8Array
  readonly purpose: Purpose
  /** The member's index i. */
  readonly index: number
}

export interface PossessionProof {
  readonly kappa: Scalar
  readonly z: Scalar
}

const contextEntries = ({ session, purpose, index }: PossessionContext) => [
  session,
  utf8(purpose),
  be32(index),
]

function challenge(context: PossessionContext, commitment: G1, T: G1): Scalar {
  return hashToScalar('POP', encodeTlv([...contextEntries(context), commitment.encode(), T.encode()]))
}

/** κ = Hq(POP; session, purpose, i, aP1, kP1), z = k − κa. */
export function possessionProve(context: PossessionContext, secret: Scalar, random: Random): PossessionProof {
  const k = hedgedNonce(NONCE_ROLE.possession, random, secret.encode(), encodeTlv(contextEntries(context)))
  const kappa = challenge(context, G1.generator.mulSecret(secret), G1.generator.mulSecret(k))
  return { kappa, z: k.subtract(kappa.multiply(secret)) }
}

/** @param commitment aP1. */
export function possessionVerify(
  context: PossessionContext,
  commitment: G1,
  proof: PossessionProof,
): boolean {
  const T = G1.sumOfProducts([G1.generator, commitment], [proof.z, proof.kappa])
  return challenge(context, commitment, T).equals(proof.kappa)
}
