/**
 * M-Pin Full: M-Pin that also agrees on a key (Scott 2012, "M-Pin: A Multi-Factor Zero Knowledge Authentication
 * Protocol"; protocols.md §7). Keys of purpose `device` only; a PIN is proven by M-Pin inside TLS instead.
 *
 *   client: D = s·A                                           RPS: S = sQ
 *   (message, x) = proveDevice(…)
 *   -- message: U = x·A, V -->                                 DeviceProven.verify
 *                                                              w = Hq(NONCE; 5, …)   W = w·A
 *                                                       <-- W
 *   r = Hq(NONCE; 6, …)   R = r·A
 *   h = Hq(FULL; transcript)                                   h = Hq(FULL; transcript)
 *   K = HKDF(e((r + h)·D, Q) ‖ x·W)                            K = HKDF(e(R + h·A, S) ‖ w·U)
 *   -- R, HMAC(K_client; confirm) -->                          equal?
 *   equal?                                              <-- HMAC(K_server; confirm)
 *
 * It holds because e(D, Q)^(r+h) = e((r + h)A, sQ) and xW = wU. x·W = w·U gives forward secrecy: D and S together don't
 * open what was recorded. r is independent of x: with r = x a phisher, who gets V and R, has the key material. The
 * client confirms first, so that the server gives nothing derived from K to somebody who only replays. Every state is
 * good for one answer. In mode `time` the first move needs no nonce: one pass less.
 *
 * {@includeCode ../examples/mpin-full.mjs}
 */
import { concat, equalBytes, nfcUtf8, utf8 } from './bytes.js'
import { DecodeError } from './errors.js'
import { hashToScalar } from './hash-to-curve.js'
import { deviceIdentityPoint } from './identity.js'
import { deriveKey } from './kdf.js'
import {
  type Binding,
  type ClientProof,
  challengeTlv,
  type DeviceProven,
  type LoginMessage,
  proveDevice,
} from './mpin.js'
import { hedgedNonce, NONCE_ROLE } from './nonce.js'
import { type G1, G2, type GT, pairing } from './points.js'
import type { Random } from './ports.js'
import type { Scalar } from './scalar.js'
import type { ServerKey } from './server-key.js'
import { hmacSha256, sha256 } from './sha256.js'
import { SUITE } from './suite.js'
import { encodeTlv } from './tlv.js'

/** What both ends hold after a full run: 32 bytes for what the client sends, 32 for what the server sends. */
export interface SessionKeys {
  readonly client: Uint8Array
  readonly server: Uint8Array
}

/** The client's second move: R (48 bytes) and its confirmation (32 bytes). */
export interface ClientConfirmation {
  readonly R: G1
  readonly confirmation: Uint8Array
}

/** The first move, and the wait for W. The device proof alone: a PIN has no place here. */
export function clientBegin(proof: Omit<ClientProof, 'pin'>): [LoginMessage, ClientAwaitingW] {
  const { message, x } = proveDevice(proof)
  return [message, ClientAwaitingW.begin(message, proof, x)]
}

export class ClientAwaitingW {
  readonly #message: LoginMessage
  readonly #binding: Binding
  readonly #deviceKey: G1
  readonly #random: Random
  #x: Scalar | undefined

  private constructor(message: LoginMessage, proof: Omit<ClientProof, 'pin'>, x: Scalar) {
    this.#message = message
    this.#binding = proof.binding
    this.#deviceKey = proof.deviceKey
    this.#random = proof.random
    this.#x = x
  }

  /** For clientBegin. */
  static begin(message: LoginMessage, proof: Omit<ClientProof, 'pin'>, x: Scalar): ClientAwaitingW {
    return new ClientAwaitingW(message, proof, x)
  }

  /** R and the confirmation that the server wants first. TypeError at a second answer: x and r are for one W. */
  confirm(W: G1): [ClientConfirmation, ClientAwaitingConfirmation] {
    const x = this.#x
    if (x === undefined) throw new TypeError('this run has its W already')
    this.#x = undefined
    const [message, binding, D] = [this.#message, this.#binding, this.#deviceKey]
    const r = hedgedNonce(
      NONCE_ROLE.rFull,
      this.#random,
      D.encode(),
      transcriptTlv(message, binding, undefined, W),
    )
    const R = deviceIdentityPoint(binding.groupId, message.idCore).mulSecret(r)
    const transcript = transcriptTlv(message, binding, R, W)
    // e(D, Q)^(r+h) = e((r + h)·D, Q)
    const shared = pairing(D.mulSecret(r.add(transcriptScalar(transcript))), G2.generator)
    const keys = sessionKeys(message, transcript, shared, W.mulSecret(x))
    return [
      { R, confirmation: confirm(keys.client, transcript) },
      ClientAwaitingConfirmation.begin(keys, confirm(keys.server, transcript)),
    ]
  }
}

export class ClientAwaitingConfirmation {
  readonly #keys: SessionKeys
  readonly #expected: Uint8Array

  private constructor(keys: SessionKeys, expected: Uint8Array) {
    this.#keys = keys
    this.#expected = expected
  }

  /** For ClientAwaitingW. */
  static begin(keys: SessionKeys, expected: Uint8Array): ClientAwaitingConfirmation {
    return new ClientAwaitingConfirmation(keys, expected)
  }

  /** The keys, or null: whoever answered doesn't hold S, or saw another transcript. DecodeError for another length. */
  accept(confirmation: Uint8Array): SessionKeys | null {
    return equalBytes(decodeConfirmation(confirmation), this.#expected) ? this.#keys : null
  }
}

/** The server's first move, only for a device proof that holds: W, and the wait for R. */
export function serverAnswer(
  proven: DeviceProven,
  S_dev: ServerKey,
  random: Random,
): [{ readonly W: G1 }, ServerAwaitingR] {
  const { message, binding } = proven
  const w = hedgedNonce(NONCE_ROLE.wFull, random, S_dev.encode(), transcriptTlv(message, binding))
  const W = deviceIdentityPoint(binding.groupId, message.idCore).mulSecret(w)
  return [{ W }, ServerAwaitingR.begin(proven, S_dev, w, W)]
}

export class ServerAwaitingR {
  readonly #proven: DeviceProven
  readonly #S_dev: ServerKey
  readonly #W: G1
  #w: Scalar | undefined

  private constructor(proven: DeviceProven, S_dev: ServerKey, w: Scalar, W: G1) {
    this.#proven = proven
    this.#S_dev = S_dev
    this.#w = w
    this.#W = W
  }

  /** For serverAnswer. */
  static begin(proven: DeviceProven, S_dev: ServerKey, w: Scalar, W: G1): ServerAwaitingR {
    return new ServerAwaitingR(proven, S_dev, w, W)
  }

  /**
   * The server's confirmation and the keys; null for a wrong confirmation, after which this run is over: nothing
   * derived from K has been said. TypeError at a second answer, DecodeError for a confirmation of another length.
   */
  accept({ R, confirmation }: ClientConfirmation): [Uint8Array, SessionKeys] | null {
    const w = this.#w
    if (w === undefined) throw new TypeError('this run has its R already')
    this.#w = undefined
    const { message, binding } = this.#proven
    const transcript = transcriptTlv(message, binding, R, this.#W)
    const A = deviceIdentityPoint(binding.groupId, message.idCore)
    const shared = pairing(R.add(A.mulPublic(transcriptScalar(transcript))), this.#S_dev.point)
    const keys = sessionKeys(message, transcript, shared, message.U_dev.mulSecret(w))
    if (!equalBytes(decodeConfirmation(confirmation), confirm(keys.client, transcript))) return null
    return [confirm(keys.server, transcript), keys]
  }
}

/** TLV{1 c's TLV, 2 V_dev, 3 R, 4 W}; before they are made, what the nonces hash as fixed. */
function transcriptTlv(message: LoginMessage, binding: Binding, R?: G1, W?: G1): Uint8Array {
  const challenge = challengeTlv(message, undefined, binding, { U_dev: message.U_dev })
  return encodeTlv([challenge, message.V_dev.encode(), R?.encode(), W?.encode()])
}

/** h. Public. */
const transcriptScalar = (transcript: Uint8Array): Scalar => hashToScalar('FULL', encodeTlv([transcript]))

/** K of each direction, from the GT value and xW = wU. */
function sessionKeys(message: LoginMessage, transcript: Uint8Array, shared: GT, ephemeral: G1): SessionKeys {
  const ikm = concat(shared.toBytes(), ephemeral.encode())
  const info = encodeTlv([
    utf8(SUITE),
    utf8('client'),
    message.idCore.bytes,
    utf8('server'),
    nfcUtf8(message.audience, 'audience'),
    transcript,
  ])
  return { client: deriveKey('FULL-CLIENT', ikm, info), server: deriveKey('FULL-SERVER', ikm, info) }
}

const confirm = (key: Uint8Array, transcript: Uint8Array): Uint8Array =>
  hmacSha256(key, utf8('confirm'), sha256(transcript))

function decodeConfirmation(bytes: Uint8Array): Uint8Array {
  if (bytes.length !== 32) throw new DecodeError('confirmation', '32 bytes expected')
  return bytes
}
