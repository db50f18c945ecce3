/**
 * RETIRED. M-Pin Full of the retired wire: two-pass M-Pin that also agrees on a key of 16 bytes.
 *
 *   client                                                     server
 *   U* as in mpin.ts, Z = rA
 *   -- ID, U, UT, Z -->                                        T = w·H
 *                                                         <-- y, T
 *   V as in mpin.ts
 *   -- V -->
 *   HM = mhashit(0, HASH_ID | U* | V | y | Z | T)                                                        both
 *   k = Tr((e(TOKEN, Q)·e(A, Q)^PIN)^(r + HM))                 k = Tr(e(Z + HM·A, SS))
 *   K = SHA-256(k | xT), 16 bytes                              K = SHA-256(k | w·U*), 16 bytes
 *
 * It holds because e(CS, Q)^(r + HM) = e((r + HM)·A, sQ), and xT = w·U* = xw·H. After a wrong PIN both ends have a key,
 * and not the same one: nothing says so, and the server had to look at the proof as well. x, r and w are for one run.
 *
 * Why it was replaced: no confirmation of the key, no directions, and K depends on how a library scales its pairing.
 */
import { concat } from '../bytes.js'
import type { Random } from '../ports.js'
import { sha256 } from '../sha256.js'
import { identityPoint, mhashit } from './hash-to-curve.js'
import {
  Accepted,
  type ClientSecrets,
  type Commitment,
  clientSum,
  commit,
  type Login,
  loginPoint,
  moving,
  pinScalar,
  prove,
} from './mpin.js'
import { GT } from './pairing.js'
import { type G1, G2 } from './points.js'
import { Scalar } from './scalar.js'

const KEY = 16

export interface FullCommitment extends Commitment {
  readonly Z: G1
}
export interface FullAnswer {
  readonly y: Scalar
  readonly T: G1
}

/** The first move, and the wait for y and T. */
export function clientBegin(login: Login, random: Random): [FullCommitment, ClientAwaitingT] {
  const x = Scalar.random(login.curve, random)
  const r = Scalar.random(login.curve, random)
  const commitment = { ...commit(login, x), Z: identityPoint(login.curve, login.hashedId).multiply(r) }
  return [commitment, ClientAwaitingT.begin(login, commitment, x, r)]
}

export class ClientAwaitingT {
  readonly #login: Login
  readonly #commitment: FullCommitment
  #secrets: { readonly x: Scalar; readonly r: Scalar } | undefined

  private constructor(login: Login, commitment: FullCommitment, x: Scalar, r: Scalar) {
    this.#login = login
    this.#commitment = commitment
    this.#secrets = { x, r }
  }
  /** For clientBegin. */
  static begin(login: Login, commitment: FullCommitment, x: Scalar, r: Scalar): ClientAwaitingT {
    return new ClientAwaitingT(login, commitment, x, r)
  }

  /** V and K. TypeError at a second answer: two give SEC away. */
  prove(answer: FullAnswer, secrets: ClientSecrets): [G1, Uint8Array] {
    const nonces = this.#secrets
    if (nonces === undefined) throw new TypeError('this run has its answer already')
    this.#secrets = undefined
    const login = this.#login
    const V = prove(nonces.x, answer.y, clientSum(login, secrets))
    const HM = transcriptHash(login, this.#commitment, answer, V)
    const exponent = nonces.r.add(Scalar.reduce(login.curve, HM))
    const { tokenValue, identityValue } = clientPrecompute(login, secrets.token)
    const base = tokenValue.multiply(identityValue.power(pinScalar(login.curve, secrets.pin)))
    return [V, sessionKey(base.power(exponent), answer.T.multiply(nonces.x))]
  }
}

/** The server's move, and the wait for V. */
export function serverAnswer(
  login: Login,
  commitment: FullCommitment,
  random: Random,
): [FullAnswer, ServerAwaitingV] {
  const y = Scalar.random(login.curve, random)
  const w = Scalar.random(login.curve, random)
  const answer = { y, T: loginPoint(login).multiply(w) }
  return [answer, ServerAwaitingV.begin(login, commitment, answer, w)]
}

export class ServerAwaitingV {
  readonly #login: Login
  readonly #commitment: FullCommitment
  readonly #answer: FullAnswer
  #w: Scalar | undefined

  private constructor(login: Login, commitment: FullCommitment, answer: FullAnswer, w: Scalar) {
    this.#login = login
    this.#commitment = commitment
    this.#answer = answer
    this.#w = w
  }
  /** For serverAnswer. */
  static begin(login: Login, commitment: FullCommitment, answer: FullAnswer, w: Scalar): ServerAwaitingV {
    return new ServerAwaitingV(login, commitment, answer, w)
  }

  /**
   * K, or null as of `Accepted.verify`. Divergence: the retired server had a key after a refused run as well.
   * TypeError at a second V.
   */
  accept(V: G1, SS: G2): [Accepted, Uint8Array] | null {
    const w = this.#w
    if (w === undefined) throw new TypeError('this run has its V already')
    this.#w = undefined
    const [login, commitment, answer] = [this.#login, this.#commitment, this.#answer]
    const accepted = Accepted.verify(login, SS, commitment, answer.y, V)
    return accepted && [accepted, serverKey(login, commitment, answer, V, w, SS)]
  }
}

/** The server's K, whatever the verdict. w is secret. */
export function serverKey(
  login: Login,
  commitment: FullCommitment,
  answer: FullAnswer,
  V: G1,
  w: Scalar,
  SS: G2,
): Uint8Array {
  const h = Scalar.reduce(login.curve, transcriptHash(login, commitment, answer, V))
  const A = identityPoint(login.curve, login.hashedId)
  const shared = GT.pairing(login.curve, [[commitment.Z.add(A.multiply(h)), SS]])
  return sessionKey(shared, moving(login, commitment).multiply(w))
}

/** e(TOKEN, Q) and e(A, Q): what the retired client computed before the PIN was typed. Secret. */
export const clientPrecompute = (
  { curve, hashedId }: Login,
  token: G1,
): { readonly tokenValue: GT; readonly identityValue: GT } => ({
  tokenValue: GT.pairing(curve, [[token, G2.generator(curve)]]),
  identityValue: GT.pairing(curve, [[identityPoint(curve, hashedId), G2.generator(curve)]]),
})

/** HM: NB octets. Public. */
export const transcriptHash = (
  login: Login,
  commitment: FullCommitment,
  { y, T }: FullAnswer,
  V: G1,
): Uint8Array =>
  mhashit(
    login.curve,
    0,
    login.hashedId,
    moving(login, commitment).encode(),
    V.encode(),
    y.encode(),
    commitment.Z.encode(),
    T.encode(),
  )

const sessionKey = (shared: GT, ephemeral: G1): Uint8Array =>
  sha256(concat(shared.encodeTrace(), ephemeral.encodeCoordinates())).slice(0, KEY)
