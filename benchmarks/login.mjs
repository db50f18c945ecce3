/**
 * The device factor of M-Pin (docs/protocols) over any reference: the same bytes in, the same checks, the same verdict
 * as our mpin.ts, and our SHA-256 for challenges and nonces, so that only the curve's arithmetic differs.
 */
import { be32, nfcUtf8, u8, utf8 } from '@milagro-ts/crypto/bytes'
import { hashToScalar } from '@milagro-ts/crypto/hash-to-curve'
import { IdCore } from '@milagro-ts/crypto/identity'
import { challengeTlv, MODE } from '@milagro-ts/crypto/mpin'
import { hedgedNonce, NONCE_ROLE } from '@milagro-ts/crypto/nonce'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { SUITE } from '@milagro-ts/crypto/suite'
import { decodeTlv, encodeTlv } from '@milagro-ts/crypto/tlv'

/** @typedef {import('@milagro-ts/crypto/mpin').LoginTerms} LoginTerms */
/** @typedef {import('@milagro-ts/crypto/mpin').Binding} Binding */
/** @typedef {import('@milagro-ts/crypto/ports').Random} Random */
/** @typedef {import('@milagro-ts/crypto/points').G1} G1 */

/** Tags of a login message. */
const TAGS = 19

/** A commitment by its bytes, as the challenge wants it. @param {Uint8Array} bytes */
const committed = bytes => ({ U_dev: /** @type {G1} */ (/** @type {unknown} */ ({ encode: () => bytes })) })

/**
 * @template P, P2, N, L
 * @param {import('./references.mjs').Reference<P, P2, N, L>} reference
 * @param {Binding} binding
 */
export function loginBy(reference, binding) {
  const identityInput = (/** @type {IdCore} */ idCore) => encodeTlv([binding.groupId, idCore.bytes])

  /** @param {Uint8Array} bytes */
  function read(bytes) {
    const entries = decodeTlv(bytes, { tags: TAGS, field: 'message' })
    const [mode, audience, deviceEpoch, slot, nonce, , idCoreBytes, , , U, V] = entries
    if (!mode || !audience || !deviceEpoch || !slot || !nonce || !idCoreBytes || !U || !V) {
      throw new Error('a field is missing')
    }
    const integer = (/** @type {Uint8Array} */ field) => field.reduce((sum, byte) => sum * 256 + byte, 0)
    const idCore = IdCore.decode(idCoreBytes)
    /** @type {LoginTerms} */
    const terms = {
      mode: MODE.nonce,
      audience: String.fromCharCode(...audience),
      deviceEpoch: integer(deviceEpoch),
      slot: integer(slot),
      idCore,
      nonce,
    }
    const tlv = challengeTlv(terms, undefined, binding, committed(U))
    return {
      idCore,
      U: reference.decode(U),
      V: reference.decode(V),
      c: reference.scalar(hashToScalar('CHAL', tlv).encode()),
    }
  }

  return {
    identityInput,
    /** A of an identity. @param {IdCore} idCore */
    identityPoint: idCore => reference.hash(identityInput(idCore)),

    /**
     * Device key and terms to the bytes of a message.
     *
     * @param {LoginTerms} terms
     * @param {Uint8Array} key
     * @param {Random} random
     */
    prove(terms, key, random) {
      const D = reference.decode(key)
      const fixed = challengeTlv(terms, undefined, binding, {})
      const x = hedgedNonce(NONCE_ROLE.x, random, key, fixed)
      const A = reference.hash(identityInput(terms.idCore))
      const U = reference.encode(reference.multiply(A, reference.scalar(x.encode())))
      const c = hashToScalar('CHAL', challengeTlv(terms, undefined, binding, committed(U)))
      const V = reference.encode(reference.negate(reference.multiply(D, reference.scalar(x.add(c).encode()))))
      return encodeTlv([
        u8(terms.mode),
        nfcUtf8(terms.audience, 'audience'),
        be32(terms.deviceEpoch),
        be32(terms.slot),
        terms.nonce,
        undefined,
        terms.idCore.bytes,
        undefined,
        undefined,
        U,
        V,
        ...Array.from({ length: 7 }, () => undefined),
        utf8(SUITE),
      ])
    },

    /**
     * One message's bytes to a verdict.
     *
     * @param {Uint8Array} bytes
     * @param {{Q: L, S: L}} lines
     * @param {ReadonlyMap<string, P>} [points]  identity points that are known
     */
    verify(bytes, { Q, S }, points) {
      const { idCore, U, V, c } = read(bytes)
      const A = points?.get(idCore.mpinId) ?? reference.hash(identityInput(idCore))
      return reference.productIsOne(V, Q, reference.add(U, reference.multiply(A, c)), S)
    },

    /**
     * Many messages by one product: e(Σ rV, Q)·e(Σ rU + Σ rcA, S) = 1.
     *
     * @param {readonly Uint8Array[]} messages
     * @param {{Q: L, S: L}} lines
     * @param {Random} random
     * @param {ReadonlyMap<string, P>} [points]
     */
    verifyBatch(messages, { Q, S }, random, points) {
      const all = messages.map(read)
      const weights = all.map(() => reference.scalar(Scalar.randomWeight(random).encode()))
      const of = (/** @type {number} */ i) => /** @type {N} */ (weights[i])
      const V = reference.sumOfProducts(
        all.map(({ V }) => V),
        weights,
      )
      const X = reference.sumOfProducts(
        [
          ...all.map(({ U }) => U),
          ...all.map(({ idCore }) => points?.get(idCore.mpinId) ?? reference.hash(identityInput(idCore))),
        ],
        [...weights, ...all.map(({ c }, i) => reference.multiplyScalars(c, of(i)))],
      )
      return reference.productIsOne(V, Q, X, S)
    },
  }
}
