/**
 * RETIRED. M-Pin as Milagro's servers and apps spoke it, in two passes and in one, with blended time permits. For what
 * is out there; mpin.ts of the library is the protocol to use. BN254CX has at most 100 bits of security.
 *
 *   client: TOKEN = CS − PIN·A, TP = s·A_T                    server: SS = sQ
 *   U = xA    UT = x(A + A_T)
 *   -- ID, U, UT -->                                          H = A + A_T
 *                                                        <-- y
 *   SEC = TOKEN + PIN·A + TP
 *   V = −(x + y)·SEC
 *   -- V -->                                                  e(V, Q)·e(UT + y·H, SS) = 1 ?
 *
 * Without permits UT is U, H is A and there is no TP. In one pass the client computes y = GET_Y(time, UT | MESSAGE)
 * itself. It holds because −(x + y)·s·H and (x + y)·H, paired with Q and sQ, cancel. A failed run tells the server the
 * difference of the PINs (pin-error.ts). x is for one y, y for one U.
 *
 * Why it was replaced: y binds neither server nor identity nor session; permit and key have one secret and travel in one
 * point, so either of them missing looks like a wrong PIN; ten thousand PINs, unstretched.
 *
 * Notation and formulas: Scott 2012, "M-Pin: A Multi-Factor Zero Knowledge Authentication Protocol"; AMCL version 3.
 *
 * {@includeCode ../../examples/legacy-login.mjs}
 */
import { DecodeError } from '../errors.js'
import type { Random } from '../ports.js'
import type { LegacyCurve } from './curve.js'
import { hashToScalar, identityPoint, permitPoint } from './hash-to-curve.js'
import { GT } from './pairing.js'
import { type G1, G2 } from './points.js'
import { Scalar } from './scalar.js'

/** What the retired server answered: 0, or this for a wrong PIN, key, permit or identity. */
export const BAD_PIN = -19
const PINS = 10_000

/** Who logs in, and by the permit of which day: what both sides know. */
export interface Login {
  readonly curve: LegacyCurve
  /** HASH_ID. */
  readonly hashedId: Uint8Array
  /** Days since 1970 (floor(unix/86400)), from 1 on; absent without permits. */
  readonly day?: number
}

/** U = xA always; UT = x(A + A_T) with permits alone. */
export interface Commitment {
  readonly U: G1
  readonly UT?: G1
}

export interface ClientSecrets {
  readonly token: G1
  /** 0…9999. */
  readonly pin: number
  /** TP of the login's day, when it has one. */
  readonly permit?: G1
}

// What authorities issue; shares add up (G1.sum, G2.sum).

/** SS = sQ. */
export const authorityIssueServerSecret = (s: Scalar): G2 => G2.generator(s.curve).multiply(s)
/** CS = sA. @param hashedId HASH_ID. */
export const authorityIssueClientSecret = (s: Scalar, hashedId: Uint8Array): G1 =>
  identityPoint(s.curve, hashedId).multiply(s)
/** TP = s·A_T. @param hashedId HASH_ID. @param day Days since 1970, from 1 on. */
export const authorityIssuePermit = (s: Scalar, hashedId: Uint8Array, day: number): G1 =>
  permitPoint(s.curve, hashedId, day).multiply(s)

// The PIN

/** TOKEN = CS − PIN·A. */
export const splitPin = (clientSecret: G1, pin: number, A: G1): G1 =>
  clientSecret.subtract(A.multiply(pinScalar(A.curve, pin)))
/** CS = TOKEN + PIN·A. */
export const joinPin = (token: G1, pin: number, A: G1): G1 => token.add(A.multiply(pinScalar(A.curve, pin)))

/**
 * Divergence: 0…9999, or a RangeError. The retired code took a longer PIN mod 10000 where it was split off and whole
 * where it was added, so that nobody could log in with one.
 */
export function pinScalar(curve: LegacyCurve, pin: number): Scalar {
  if (!Number.isInteger(pin) || pin < 0 || pin >= PINS) throw new RangeError('a PIN is 0…9999')
  return Scalar.fromNumber(curve, pin)
}

// Two passes

/** The first move, and the wait for y. */
export function clientBegin(login: Login, random: Random): [Commitment, ClientAwaitingY] {
  const x = Scalar.random(login.curve, random)
  return [commit(login, x), ClientAwaitingY.begin(login, x)]
}

export class ClientAwaitingY {
  readonly #login: Login
  #x: Scalar | undefined

  private constructor(login: Login, x: Scalar) {
    this.#login = login
    this.#x = x
  }
  /** For clientBegin. */
  static begin(login: Login, x: Scalar): ClientAwaitingY {
    return new ClientAwaitingY(login, x)
  }

  /** V. TypeError at a second y: two give SEC away. */
  prove(y: Scalar, secrets: ClientSecrets): G1 {
    const x = this.#x
    if (x === undefined) throw new TypeError('this run has its y already')
    this.#x = undefined
    return prove(x, y, clientSum(this.#login, secrets))
  }
}

/** The server's move, y, and the wait for V. */
export function serverAnswer(
  login: Login,
  commitment: Commitment,
  random: Random,
): [Scalar, ServerAwaitingV] {
  const y = Scalar.random(login.curve, random)
  return [y, ServerAwaitingV.begin(login, commitment, y)]
}

export class ServerAwaitingV {
  readonly #login: Login
  readonly #commitment: Commitment
  #y: Scalar | undefined

  private constructor(login: Login, commitment: Commitment, y: Scalar) {
    this.#login = login
    this.#commitment = commitment
    this.#y = y
  }
  /** For serverAnswer. */
  static begin(login: Login, commitment: Commitment, y: Scalar): ServerAwaitingV {
    return new ServerAwaitingV(login, commitment, y)
  }

  /** Null as of `Accepted.verify`. TypeError at a second V: one guess for each y. */
  accept(V: G1, SS: G2): Accepted | null {
    const y = this.#y
    if (y === undefined) throw new TypeError('this run has its V already')
    this.#y = undefined
    return Accepted.verify(this.#login, SS, this.#commitment, y, V)
  }
}

/** A run that held: only `verify` makes one. */
export class Accepted {
  readonly #login: Login

  private constructor(login: Login) {
    this.#login = login
  }
  get login(): Login {
    return this.#login
  }

  /** Null: a wrong PIN, key, permit or identity, which the retired server called BAD_PIN. */
  static verify(login: Login, SS: G2, commitment: Commitment, y: Scalar, V: G1): Accepted | null {
    return runProduct(login, SS, commitment, y, V).isOne() ? new Accepted(login) : null
  }
}

// One pass

export interface OnePass extends Commitment {
  /** Unix time in seconds, 1…2³²−1. */
  readonly time: number
  readonly V: G1
}

/** @param message Signed along; empty in a login. */
export function clientProveOnePass(
  login: Login,
  secrets: ClientSecrets,
  { time, message }: { readonly time: number; readonly message: Uint8Array },
  random: Random,
): OnePass {
  const x = Scalar.random(login.curve, random)
  const commitment = commit(login, x)
  const y = onePassChallenge(login, commitment, time, message)
  return { ...commitment, time, V: prove(x, y, clientSum(login, secrets)) }
}

/** The caller holds `time` against its clock, and keeps what it has seen: the proof may be sent twice. */
export function serverVerifyOnePass(
  login: Login,
  SS: G2,
  { time, V, ...commitment }: OnePass,
  message: Uint8Array,
): Accepted | null {
  return Accepted.verify(login, SS, commitment, onePassChallenge(login, commitment, time, message), V)
}

/** GET_Y(time, U* | MESSAGE). Public. DecodeError for a time that isn't 1…2³²−1. */
export function onePassChallenge(
  login: Login,
  commitment: Commitment,
  time: number,
  message: Uint8Array,
): Scalar {
  // At 0 the retired hash left the time out.
  if (!Number.isInteger(time) || time < 1 || time > 0xffff_ffff)
    throw new DecodeError('time', 'seconds since 1970 expected')
  return hashToScalar(login.curve, time, moving(login, commitment).encode(), message)
}

// What both forms have in common

/** H: A, or A + A_T. */
export function loginPoint({ curve, hashedId, day }: Login): G1 {
  const A = identityPoint(curve, hashedId)
  return day === undefined ? A : A.add(permitPoint(curve, hashedId, day))
}

/** U, and UT with permits. x is secret. */
export function commit(login: Login, x: Scalar): Commitment {
  const U = identityPoint(login.curve, login.hashedId).multiply(x)
  return login.day === undefined ? { U } : { U, UT: loginPoint(login).multiply(x) }
}

/** U*: UT with permits, U without. DecodeError for a message that has it otherwise. */
export function moving({ day }: Login, { U, UT }: Commitment): G1 {
  if ((day === undefined) !== (UT === undefined)) throw new DecodeError('UT', 'with permits, and only then')
  return UT ?? U
}

/** SEC. Secret. */
export function clientSum({ curve, hashedId, day }: Login, { token, pin, permit }: ClientSecrets): G1 {
  if ((day === undefined) !== (permit === undefined))
    throw new TypeError('a permit is for a login of its day')
  const key = joinPin(token, pin, identityPoint(curve, hashedId))
  return permit === undefined ? key : key.add(permit)
}

/** V = −(x + y)·SEC. */
export const prove = (x: Scalar, y: Scalar, sum: G1): G1 => sum.multiply(x.add(y).negate())

/** e(V, Q)·e(U* + y·H, SS), which is 1 when the run holds. Public. */
export function runProduct(login: Login, SS: G2, commitment: Commitment, y: Scalar, V: G1): GT {
  const { curve } = login
  return GT.pairing(curve, [
    [V, G2.generator(curve)],
    [moving(login, commitment).add(loginPoint(login).multiply(y)), SS],
  ])
}
