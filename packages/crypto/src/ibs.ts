/**
 * Identity-based signatures (Cha–Cheon 2003, "An Identity-Based Signature from Gap Diffie-Hellman Groups";
 * protocols.md §8, purpose `sign`).
 *
 *   signer: D = s·A, A = Hs(TLV{groupId, idCore})             anyone: Ppub = sQ
 *   x = Hq(NONCE; 7, …)        U = x·A
 *   c = Hq(SIGN; terms, U, context, message, epoch)
 *   V = (x + c)·D
 *   -- U ‖ V, 96 bytes -->                                     c again
 *                                                              e(V, Q) = e(U + c·A, Ppub)
 *
 * It holds because V = (x + c)sA. No certificate: who signed is the identity itself, which travels with the message.
 * With a carried permit it says that the device wasn't banned in that slot, and is checked without a network. Many are
 * checked in one product of two pairings.
 *
 * {@includeCode ../examples/signatures.mjs}
 */
import { type Equation, verifyEquations } from './batch.js'
import { be32, concat, nfcUtf8, toBase64Url, utf8 } from './bytes.js'
import { DecodeError } from './errors.js'
import { hashToScalar } from './hash-to-curve.js'
import { decodeGroupId, type IdCore, signIdentityPoint } from './identity.js'
import { hedgedNonce, NONCE_ROLE } from './nonce.js'
import { G1, G2, PreparedG2, pairingProductIsOne } from './points.js'
import type { Random } from './ports.js'
import type { Scalar } from './scalar.js'
import { SUITE } from './suite.js'
import { encodeTlv } from './tlv.js'

/** What a signature is bound to beside the message. */
export interface SignatureTerms {
  readonly groupId: Uint8Array
  readonly idCore: IdCore
  readonly slot: number
  /** What the message is for, so that no signature serves elsewhere; 1–256 bytes of text. */
  readonly context: string
  /** Key epoch of purpose `sign`. */
  readonly signEpoch: number
}

const POINT = 48

/** U ‖ V as it is carried; it proves nothing before it is verified. */
export class Signature {
  readonly #U: G1
  readonly #V: G1

  private constructor(U: G1, V: G1) {
    this.#U = U
    this.#V = V
  }

  static of(U: G1, V: G1): Signature {
    return new Signature(U, V)
  }

  /** 96 bytes. DecodeError for anything but two points of G1. */
  static decode(bytes: Uint8Array, field = 'signature'): Signature {
    if (bytes.length !== 2 * POINT) throw new DecodeError(field, `${2 * POINT} bytes expected`)
    return new Signature(
      G1.decode(bytes.subarray(0, POINT), `${field}.U`),
      G1.decode(bytes.subarray(POINT), `${field}.V`),
    )
  }

  get U(): G1 {
    return this.#U
  }
  get V(): G1 {
    return this.#V
  }
  encode(): Uint8Array {
    return concat(this.U.encode(), this.V.encode())
  }
}

/** c's TLV; without U it is what the nonce hashes as fixed. */
function challengeTlv(terms: SignatureTerms, message: Uint8Array, U?: G1): Uint8Array {
  const context = nfcUtf8(terms.context, 'context')
  // An empty context would be an absent one.
  if (context.length === 0 || context.length > 256) throw new DecodeError('context', '1–256 bytes expected')
  return encodeTlv([
    utf8(SUITE),
    decodeGroupId(terms.groupId),
    terms.idCore.bytes,
    be32(terms.slot),
    U?.encode(),
    context,
    message,
    be32(terms.signEpoch),
  ])
}

/**
 * Signs `message`, any bytes.
 *
 * @param signKey D = s·Hs(idCore). Secret.
 * @throws DecodeError for a context that is empty or longer than 256 bytes.
 */
export function sign(terms: SignatureTerms, signKey: G1, message: Uint8Array, random: Random): Signature {
  const A = signIdentityPoint(terms.groupId, terms.idCore)
  const x = hedgedNonce(NONCE_ROLE.xSign, random, signKey.encode(), challengeTlv(terms, message))
  const U = A.mulSecret(x)
  const c = hashToScalar('SIGN', challengeTlv(terms, message, U))
  return Signature.of(U, signKey.mulSecret(x.add(c)))
}

/** c and X = U + cA of the equation e(V, Q) = e(X, Ppub). All of it is public. */
export function signatureEquation(
  terms: SignatureTerms,
  message: Uint8Array,
  { U }: Signature,
): { readonly c: Scalar; readonly X: G1 } {
  const c = hashToScalar('SIGN', challengeTlv(terms, message, U))
  return { c, X: U.add(signIdentityPoint(terms.groupId, terms.idCore).mulPublic(c)) }
}

/** @param Ppub sQ of purpose `sign`, from the group document. */
export function signatureVerify(
  terms: SignatureTerms,
  Ppub: G2 | PreparedG2,
  message: Uint8Array,
  signature: Signature,
): boolean {
  const { X } = signatureEquation(terms, message, signature)
  return pairingProductIsOne([
    [signature.V.negate(), G2.generator],
    [X, Ppub],
  ])
}

/** A signature, and what it is said to be of. */
export interface SignatureClaim {
  readonly terms: SignatureTerms
  readonly message: Uint8Array
  readonly signature: Signature
}

/** Signatures in one product: more need no less time each, and a false one among them costs more. */
const BATCH = 1_024

/**
 * Many signatures under one Ppub, with random weights in products of two pairings (batch.ts); by place, does it hold?
 * Every one is decided as `signatureVerify` would.
 *
 * @param Ppub sQ of purpose `sign`, of the one key epoch that all `terms` name.
 * @throws DecodeError for a context that is empty or longer than 256 bytes.
 */
export function signaturesVerify(
  claims: readonly SignatureClaim[],
  Ppub: G2 | PreparedG2,
  random: Random,
): boolean[] {
  const lines = Ppub instanceof PreparedG2 ? Ppub : PreparedG2.of(Ppub)
  const signers = new Map<string, G1>()
  const pointOf = ({ groupId, idCore }: SignatureTerms): G1 => {
    const name = `${toBase64Url(groupId)} ${idCore.mpinId}`
    const A = signers.get(name) ?? signIdentityPoint(groupId, idCore)
    signers.set(name, A)
    return A
  }
  // e(−V, Q)·e(U + cA, Ppub) = 1
  const equations = claims.map(({ terms, message, signature: { U, V } }): Equation => {
    const c = hashToScalar('SIGN', challengeTlv(terms, message, U))
    return { V: V.negate(), U, cA: { c, A: pointOf(terms) } }
  })
  const holds: boolean[] = []
  for (let from = 0; from < equations.length; from += BATCH)
    holds.push(...verifyEquations(equations.slice(from, from + BATCH), lines, random).holds)
  return holds
}
