/**
 * BLS signatures (Boneh, Lynn, Shacham 2001; draft-irtf-cfrg-bls-signature-05), both layouts, three schemes, and by t of n
 * (Boldyreva 2003).
 *
 *   layout     public key PK         signature V            ciphersuite
 *   minPk      x·P1 ∈ G1, 48 bytes   x·H2(m) ∈ G2, 96 bytes   BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_…
 *   minSig     x·Q  ∈ G2, 96 bytes   x·H1(m) ∈ G1, 48 bytes   BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_…
 *
 *   signer: x                       anyone: PK
 *   V = x·H(m)
 *   -- V -->                        e(PK, H(m)) = e(P1, V), and so on for minSig
 *
 * Signatures add up: V = Σ V_i is checked against all keys and messages in one product. A key that was chosen as
 * PK = y·P1 − PK' would cancel another's, and three schemes say what keeps it out:
 *
 *   basic          NUL_   messages of one aggregate are distinct
 *   augmentation   AUG_   what is hashed begins with the signer's key
 *   possession     POP_   a key counts once it has been proven: only then may one message be signed by all (`ProvenKey`)
 *
 * Nothing is drawn: one key and message have one signature. Points that are not in their group, and the identity, do not
 * decode. Divergence: an aggregate that is the identity is refused with them, where the draft lets it reach the equation.
 *
 * {@includeCode ../examples/bls.mjs}
 */
import { be16, concat, toHex, utf8 } from './bytes.js'
import { DecodeError } from './errors.js'
import { hashToG1Under, hashToG2Under } from './hash-to-curve.js'
import { G1, G2, pairingProductIsOne } from './points.js'
import { Scalar } from './scalar.js'
import { combineG1, combineG2, type PointShare } from './secret-sharing.js'
import { hkdfSha256, sha256 } from './sha256.js'

export type BlsScheme = 'basic' | 'augmentation' | 'possession'
const SCHEME_TAG = { basic: 'NUL', augmentation: 'AUG', possession: 'POP' } as const satisfies Record<
  BlsScheme,
  string
>

const FIRST_SALT = 'BLS-SIG-KEYGEN-SALT-'
/** ⌈(3·⌈log2 q⌉)/16⌉ bytes of key material. */
const L = 48

/** x, 1…q−1. Secret. */
export class BlsSecretKey {
  readonly #x: Scalar

  private constructor(x: Scalar) {
    this.#x = x
  }

  /**
   * KeyGen (draft §2.3): the same `ikm`, `info` and `salt` give the same key.
   *
   * @param ikm At least 32 bytes that nobody can guess.
   * @param salt Public; SHA-256 of the draft's own text unless said.
   * @throws RangeError for less than 32 bytes.
   */
  static derive(
    ikm: Uint8Array,
    {
      info = new Uint8Array(),
      salt = sha256(utf8(FIRST_SALT)),
    }: { info?: Uint8Array; salt?: Uint8Array } = {},
  ): BlsSecretKey {
    if (ikm.length < 32) throw new RangeError('at least 32 bytes of key material expected')
    const padded = concat(ikm, new Uint8Array(1))
    for (let tried = salt; ; tried = sha256(tried)) {
      const x = Scalar.reduce(hkdfSha256(tried, padded, concat(info, be16(L)), L))
      if (!x.isZero()) return new BlsSecretKey(x)
    }
  }

  /** 32 bytes big-endian. DecodeError unless 1…q−1. */
  static decode(bytes: Uint8Array, field = 'secretKey'): BlsSecretKey {
    const x = Scalar.decode(bytes, field)
    if (x.isZero()) throw new DecodeError(field, 'zero is no key')
    return new BlsSecretKey(x)
  }
  /** A share of a key: f(j) of secret-sharing.ts. RangeError for zero, which no share of an honest dealing is. */
  static ofScalar(x: Scalar): BlsSecretKey {
    if (x.isZero()) throw new RangeError('zero is no key')
    return new BlsSecretKey(x)
  }

  encode(): Uint8Array {
    return this.#x.encode()
  }
  toScalar(): Scalar {
    return this.#x
  }
}

/** A public key whose owner has shown that it has the secret one. */
export class ProvenKey<K> {
  readonly #key: K

  private constructor(key: K) {
    this.#key = key
  }
  /** For a layout's `possessionVerify`, and for keys that were proven when they were registered. */
  static known<K>(key: K): ProvenKey<K> {
    return new ProvenKey(key)
  }
  get key(): K {
    return this.#key
  }
}

export interface SignedMessage<K> {
  readonly key: K
  readonly message: Uint8Array
}

/** A signature by one of t, and the place of its share. */
export interface SignatureShare<S> {
  readonly index: number
  readonly signature: S
}

interface Group<P> {
  readonly generator: P
  decode(bytes: Uint8Array, field: string): P
  sum(points: readonly P[]): P
  hash(dst: string, message: Uint8Array): P
  combine(shares: readonly PointShare<P>[]): P
}
/** What both groups' points do; a layout doesn't know which are which. */
interface Point<P> {
  mulSecret(scalar: Scalar): P
  negate(): P
  encode(): Uint8Array
  isIdentity(): boolean
}

/** Π e = 1 over pairs of a key's and a signature's group. */
type IsOne<K, S> = (pairs: readonly (readonly [K, S])[]) => boolean

function layoutOf<K extends Point<K>, S extends Point<S>>(
  name: 'BLS12381G1' | 'BLS12381G2',
  keys: Group<K>,
  signatures: Group<S>,
  isOne: IsOne<K, S>,
) {
  const suite = (kind: 'SIG' | 'POP', tag: string): string =>
    `BLS_${kind}_${name}_XMD:SHA-256_SSWU_RO_${tag}_`
  const minusGenerator = (): K => keys.generator.negate()
  const publicKey = (secret: BlsSecretKey): K => keys.generator.mulSecret(secret.toScalar())

  /** H(m) of a scheme; with augmentation, the key stands before the message. */
  function hashed(scheme: BlsScheme, key: K, message: Uint8Array): S {
    const input = scheme === 'augmentation' ? concat(key.encode(), message) : message
    return signatures.hash(suite('SIG', SCHEME_TAG[scheme]), input)
  }
  function sign(scheme: BlsScheme, secret: BlsSecretKey, message: Uint8Array): S {
    // Only augmentation hashes the key.
    const key = scheme === 'augmentation' ? publicKey(secret) : keys.generator
    return hashed(scheme, key, message).mulSecret(secret.toScalar())
  }
  const verify = (scheme: BlsScheme, key: K, message: Uint8Array, signature: S): boolean =>
    isOne([
      [key, hashed(scheme, key, message)],
      [minusGenerator(), signature],
    ])

  return {
    publicKey,
    /** DecodeError for anything but a point of the group other than the identity (KeyValidate, draft §2.5). */
    decodeKey: (bytes: Uint8Array, field = 'publicKey'): K => keys.decode(bytes, field),
    decodeSignature: (bytes: Uint8Array, field = 'signature'): S => signatures.decode(bytes, field),
    sign,
    verify,

    /** RangeError for none. */
    aggregate(list: readonly S[]): S {
      if (list.length === 0) throw new RangeError('no signatures')
      return signatures.sum(list)
    },
    /** One signature for each message, added up. No for an empty list, and, in `basic`, for a message that stands twice. */
    aggregateVerify(scheme: BlsScheme, list: readonly SignedMessage<K>[], signature: S): boolean {
      if (list.length === 0) return false
      if (scheme === 'basic' && new Set(list.map(({ message }) => toHex(message))).size !== list.length)
        return false
      return isOne([
        ...list.map(({ key, message }) => [key, hashed(scheme, key, message)] as const),
        [minusGenerator(), signature],
      ])
    },
    /** One message that all of them have signed, in `possession`. No for none, and where the keys cancel. */
    fastAggregateVerify(proven: readonly ProvenKey<K>[], message: Uint8Array, signature: S): boolean {
      if (proven.length === 0) return false
      const key = keys.sum(proven.map(one => one.key))
      return !key.isIdentity() && verify('possession', key, message, signature)
    },

    possessionProve: (secret: BlsSecretKey): S =>
      signatures.hash(suite('POP', 'POP'), publicKey(secret).encode()).mulSecret(secret.toScalar()),
    /** Null unless the proof holds. */
    possessionVerify(key: K, proof: S): ProvenKey<K> | null {
      const holds = isOne([
        [key, signatures.hash(suite('POP', 'POP'), key.encode())],
        [minusGenerator(), proof],
      ])
      return holds ? ProvenKey.known(key) : null
    },

    /**
     * V of the group's key out of t shares: V = Σ λ_j V_j. Each is checked under the public key of its share; `bad` are the
     * indices of those that don't hold. Null for the signature where fewer than t hold.
     *
     * Not for `augmentation`, where each share would hash another key.
     *
     * @param keyOf PK_j = x_j·P1 (or x_j·Q), from the dealing's commitments; undefined for no member.
     * @throws RangeError for an index that stands twice, and for `augmentation`.
     */
    combine(
      scheme: BlsScheme,
      { t, keyOf }: { readonly t: number; keyOf(index: number): K | undefined },
      message: Uint8Array,
      shares: readonly SignatureShare<S>[],
    ): { readonly signature: S | null; readonly bad: readonly number[] } {
      if (scheme === 'augmentation') throw new RangeError('shares of a key have no key of their own to hash')
      if (new Set(shares.map(({ index }) => index)).size !== shares.length)
        throw new RangeError('a share index stands twice')
      const holds = ({ index, signature }: SignatureShare<S>): boolean => {
        const key = keyOf(index)
        return key !== undefined && verify(scheme, key, message, signature)
      }
      const good: SignatureShare<S>[] = []
      const bad: number[] = []
      for (const share of shares) {
        if (good.length === t) break
        if (holds(share)) good.push(share)
        else bad.push(share.index)
      }
      if (good.length < t || t < 1) return { signature: null, bad }
      return {
        signature: signatures.combine(good.map(({ index, signature }) => ({ index, point: signature }))),
        bad,
      }
    },
  }
}

const groupOne: Group<G1> = {
  get generator() {
    return G1.generator
  },
  decode: (bytes, field) => G1.decode(bytes, field),
  sum: points => G1.sum(points),
  hash: hashToG1Under,
  combine: combineG1,
}
const groupTwo: Group<G2> = {
  get generator() {
    return G2.generator
  },
  decode: (bytes, field) => G2.decode(bytes, field),
  sum: points => G2.sum(points),
  hash: hashToG2Under,
  combine: combineG2,
}

/** Short public keys: 48 bytes, signatures 96. */
export const blsMinPk = layoutOf('BLS12381G2', groupOne, groupTwo, pairingProductIsOne)
/** Short signatures: 48 bytes, public keys 96. */
export const blsMinSig = layoutOf('BLS12381G1', groupTwo, groupOne, pairs =>
  pairingProductIsOne(pairs.map(([key, signature]) => [signature, key] as const)),
)
