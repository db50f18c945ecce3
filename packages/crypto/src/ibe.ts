/**
 * Identity-based encryption (Boneh–Franklin 2001, FullIdent, as a key encapsulation; protocols.md §8, purpose
 * `encrypt`).
 *
 *   sender: a name, Ppub = sQ                                 recipient: D = s·He(name)
 *   σ, M random
 *   r = Hq(IBE-R; σ, M)
 *   U = r·Q
 *   V = σ ⊕ KDF₁(e(He(name), Ppub)^r ‖ name ‖ Ppub)
 *   W = M ⊕ KDF₂(σ)
 *   -- U ‖ V ‖ W, 160 bytes -->                                σ = V ⊕ KDF₁(e(D, U) ‖ name ‖ Ppub)
 *                                                              M = W ⊕ KDF₂(σ)
 *                                                              U = Hq(IBE-R; σ, M)·Q ?
 *
 * It holds because e(He, sQ)^r = e(sHe, rQ). The last line (Fujisaki–Okamoto) refuses every ciphertext that wasn't made
 * like this, so that a recipient is no oracle. M is a one-time key for AES-256-GCM, whose additional data are these 160
 * bytes. To a name at a slot: the name's TLV holds the slot, and a later key doesn't open it. To many: one message key,
 * encapsulated to each.
 *
 * {@includeCode ../examples/encryption.mjs}
 */
import { concat, equalBytes, utf8 } from './bytes.js'
import { DecodeError } from './errors.js'
import { hashToScalar } from './hash-to-curve.js'
import { encryptPoint } from './identity.js'
import { deriveKey } from './kdf.js'
import { type G1, G2, type GT, pairing, pairingProductIsOne } from './points.js'
import { freshBytes, type Random } from './ports.js'
import type { Scalar } from './scalar.js'
import { SUITE } from './suite.js'
import { encodeTlv } from './tlv.js'

const POINT = 96
const KEY = 32
/** Bytes of U ‖ V ‖ W. */
export const ENCAPSULATION_LENGTH = POINT + 2 * KEY

export interface EncryptionTerms {
  /** The recipient's name TLV (identity.ts, encodeName, kind 4). */
  readonly name: Uint8Array
  /** sQ of purpose `encrypt`, from the group document. */
  readonly Ppub: G2
}

export interface Encapsulated {
  /** U ‖ V ‖ W: 160 public bytes. */
  readonly encapsulation: Uint8Array
  /** M: 32 secret bytes, for one message. */
  readonly key: Uint8Array
}

/** A fresh one-time key and its encapsulation to the name. */
export function encapsulate(terms: EncryptionTerms, random: Random): Encapsulated {
  const sigma = freshBytes(random, KEY)
  const key = freshBytes(random, KEY)
  const r = encapsulationScalar(sigma, key)
  const U = G2.generator.mulSecret(r)
  // e(He, Ppub)^r = e(r·He, Ppub)
  const shared = pairing(encryptPoint(terms.name).mulSecret(r), terms.Ppub)
  const V = xor(sigma, maskOfSigma(terms, U, shared))
  const W = xor(key, maskOfKey(terms, U, sigma))
  return { encapsulation: concat(U.encode(), V, W), key }
}

/**
 * M, or null for bytes that were not made for this key, or were changed.
 *
 * @param decryptionKey D = s·He(name). Secret.
 * @throws DecodeError for another length, or a U that is no point of G2.
 */
export function decapsulate(
  terms: EncryptionTerms,
  decryptionKey: G1,
  encapsulation: Uint8Array,
  field = 'encapsulation',
): Uint8Array | null {
  if (encapsulation.length !== ENCAPSULATION_LENGTH)
    throw new DecodeError(field, `${ENCAPSULATION_LENGTH} bytes expected`)
  const U = G2.decode(encapsulation.subarray(0, POINT), `${field}.U`)
  const V = encapsulation.subarray(POINT, POINT + KEY)
  const W = encapsulation.subarray(POINT + KEY)
  const sigma = xor(V, maskOfSigma(terms, U, pairing(decryptionKey, U)))
  const key = xor(W, maskOfKey(terms, U, sigma))
  const isMade = equalBytes(G2.generator.mulSecret(encapsulationScalar(sigma, key)).encode(), U.encode())
  return isMade ? key : null
}

/** Is D the recipient's key, e(D, Q) = e(He(name), Ppub)? Whoever combines it of shares asks before it is kept or used. */
export function isDecryptionKey({ name, Ppub }: EncryptionTerms, decryptionKey: G1): boolean {
  return pairingProductIsOne([
    [decryptionKey.negate(), G2.generator],
    [encryptPoint(name), Ppub],
  ])
}

/** r. */
const encapsulationScalar = (sigma: Uint8Array, key: Uint8Array): Scalar =>
  hashToScalar('IBE-R', encodeTlv([sigma, key]))

const info = ({ name, Ppub }: EncryptionTerms, U: G2): Uint8Array =>
  encodeTlv([utf8(SUITE), name, Ppub.encode(), U.encode()])

const maskOfSigma = (terms: EncryptionTerms, U: G2, shared: GT): Uint8Array =>
  deriveKey('IBE-V', concat(shared.toBytes(), terms.name, terms.Ppub.encode()), info(terms, U))
const maskOfKey = (terms: EncryptionTerms, U: G2, sigma: Uint8Array): Uint8Array =>
  deriveKey('IBE-W', sigma, info(terms, U))

const xor = (a: Uint8Array, b: Uint8Array): Uint8Array => a.map((byte, i) => byte ^ (b[i] as number))
