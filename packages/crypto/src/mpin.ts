/**
 * M-Pin: proves a device key, and with it a PIN key, in zero knowledge (Scott 2002, "Authenticated ID-based key
 * exchange and remote log-in with simple token and PIN number"; protocols.md §4).
 *
 *   client                                                     RPS
 *   D_dev = s·A_dev, D_pin = τ + α·A_pin                       S_dev = sQ, S_pin = s'Q
 *                                            <-- nonce, slot, epochs
 *   x  = Hq(NONCE; 1, …)      U_dev = x·A_dev
 *   x' = Hq(NONCE; 2, …)      U_pin = x'·A_pin
 *   k  = Hq(NONCE; 3, …)      T = k·A_pin
 *   c  = Hq(CHAL; every term, U_dev, U_pin, T)
 *   V_dev = −(x + c)·D_dev
 *   V_pin = −(x' + c)·D_pin   z = k + c·x'
 *   -- LoginMessage -->                                        c again
 *                                                              e(V_dev, Q)·e(U_dev + c·A_dev, S_dev) = 1
 *                                                              e(V_pin + ρ(z·A_pin − T − c·U_pin), Q)
 *                                                                ·e(U_pin + c·A_pin, S_pin) = 1
 *
 * It holds because U + cA = (x + c)A. c hashes U, so U can't be chosen after c. The Schnorr part (T, z), weighted by
 * a random ρ drawn now, proves U_pin ∈ ⟨A_pin⟩: without it PIN accounts are oracles for each other. A failed run
 * tells the client one bit per factor, which is why the RPS counts PIN failures. Single use: x, x', k, the nonce or
 * (idCore, U_dev). Modes: `nonce` in two moves, `time` in one pass, `sign` over a payload.
 *
 * {@includeCode ../examples/login.mjs}
 */
import { type Equation, verifyEquation, verifyEquations } from './batch.js'
import {
  be32,
  be64,
  copyOf,
  equalBytes,
  fromBase64Url,
  fromUtf8,
  nfcUtf8,
  readInteger,
  toBase64Url,
  u8,
  utf8,
} from './bytes.js'
import { DecodeError } from './errors.js'
import { hashToScalar } from './hash-to-curve.js'
import {
  decodeUserCore,
  deviceIdentityPoint,
  type Factors,
  IdCore,
  NO_USER,
  pinIdentityPoint,
} from './identity.js'
import type { IdentityPoints } from './identity-points.js'
import { hedgedNonce, NONCE_ROLE } from './nonce.js'
import { G1, PreparedG2, pairingProductIsOne } from './points.js'
import type { Random } from './ports.js'
import { Scalar } from './scalar.js'
import type { ServerKey } from './server-key.js'
import { SUITE } from './suite.js'
import { Permit, PermitClaim } from './time-permit.js'
import { decodeTlv, encodeTlv, need } from './tlv.js'

export const MODE = { nonce: 0, time: 1, sign: 2 } as const
export type Mode = (typeof MODE)[keyof typeof MODE]

/** `factorsUsed`: which proofs a message carries. */
const DEVICE = 1
const DEVICE_AND_PIN = 3

/** What a device proof is bound to. Exactly one of nonce and clientTime, as the mode says. */
export interface LoginTerms {
  readonly mode: Mode
  /** The service's origin or configured name, compared byte for byte. */
  readonly audience: string
  /** Key epoch of purpose `device`. */
  readonly deviceEpoch: number
  readonly slot: number
  readonly idCore: IdCore
  /** 32 bytes. */
  readonly nonce?: Uint8Array
  /** Unix seconds. */
  readonly clientTime?: number
  /** SHA-256 of the payload; exactly in mode `sign`. */
  readonly payloadHash?: Uint8Array
}

/** What a PIN proof is bound to beside. */
export interface PinTerms {
  /** NO_USER on a personal device. */
  readonly userCore: Uint8Array
  readonly pinGen: number
  /** Key epoch of purpose `pin`. */
  readonly pinEpoch: number
}

export interface PinProof extends PinTerms {
  readonly U_pin: G1
  readonly T: G1
  readonly V_pin: G1
  readonly z: Scalar
}

/** What both ends know beside the message. */
export interface Binding {
  readonly groupId: Uint8Array
  /** 32 bytes of the TLS exporter where the audience's policy wants it, else absent. */
  readonly tlsExporter?: Uint8Array | undefined
}

export interface Commitments {
  readonly U_dev?: G1
  readonly U_pin?: G1
  readonly T?: G1
}

/**
 * c's TLV; before all commitments are made it is what a hedged nonce hashes as fixed. RangeError for an exporter that
 * is not 32 bytes: an empty one would be an absent one, and the binding to the connection gone.
 */
export function challengeTlv(
  terms: LoginTerms,
  pin: PinTerms | undefined,
  binding: Binding,
  made: Commitments,
): Uint8Array {
  if (binding.tlsExporter !== undefined && binding.tlsExporter.length !== 32) {
    throw new RangeError('a TLS exporter has 32 bytes here')
  }
  return encodeTlv([
    utf8(SUITE),
    binding.groupId,
    u8(terms.mode),
    nfcUtf8(terms.audience, 'audience'),
    be32(terms.deviceEpoch),
    terms.idCore.bytes,
    pin?.userCore,
    u8(pin === undefined ? DEVICE : DEVICE_AND_PIN),
    be32(terms.slot),
    made.U_dev?.encode(),
    made.U_pin?.encode(),
    made.T?.encode(),
    terms.nonce,
    terms.clientTime === undefined ? undefined : be64(terms.clientTime),
    binding.tlsExporter,
    terms.payloadHash,
    pin && be32(pin.pinGen),
    pin && be32(pin.pinEpoch),
  ])
}

/** Throws DecodeError where a field is missing, forbidden or of a wrong length for the mode. */
function checkTerms(terms: LoginTerms): void {
  const { length } = utf8(terms.audience, 'audience')
  if (length === 0 || length > 256) throw new DecodeError('audience', '1–256 bytes expected')
  if (terms.audience !== terms.audience.normalize('NFC')) throw new DecodeError('audience', 'not in NFC')
  if (terms.nonce !== undefined && terms.nonce.length !== 32)
    throw new DecodeError('nonce', '32 bytes expected')
  if (terms.payloadHash !== undefined && terms.payloadHash.length !== 32) {
    throw new DecodeError('payloadHash', '32 bytes expected')
  }
  const wantsNonce = terms.mode === MODE.nonce || (terms.mode === MODE.sign && terms.clientTime === undefined)
  if (wantsNonce !== (terms.nonce !== undefined)) throw new DecodeError('nonce', 'does not fit the mode')
  if (wantsNonce === (terms.clientTime !== undefined))
    throw new DecodeError('clientTime', 'does not fit the mode')
  if ((terms.mode === MODE.sign) !== (terms.payloadHash !== undefined)) {
    throw new DecodeError('payloadHash', 'does not fit the mode')
  }
}

/** The login message as JSON, fields by name; bytes are base64url. */
export interface LoginJson {
  readonly suite: string
  readonly mode: number
  readonly audience: string
  readonly deviceEpoch: number
  readonly slot: number
  readonly nonce?: string
  readonly clientTime?: number
  readonly idCore: string
  readonly userCore?: string
  readonly permit?: string
  readonly uDev: string
  readonly vDev: string
  readonly uPin?: string
  readonly t?: string
  readonly vPin?: string
  readonly z?: string
  readonly payloadHash?: string
  readonly pinGen?: number
  readonly pinEpoch?: number
}

/** Tags of the login message, in order, by their JSON names. */
const FIELDS = [
  'mode',
  'audience',
  'deviceEpoch',
  'slot',
  'nonce',
  'clientTime',
  'idCore',
  'userCore',
  'permit',
  'uDev',
  'vDev',
  'uPin',
  't',
  'vPin',
  'z',
  'payloadHash',
  'pinGen',
  'pinEpoch',
  'suite',
] as const
type Field = (typeof FIELDS)[number]
/** Widths of the integers among them. */
const INTEGERS: Partial<Record<Field, number>> = {
  mode: 1,
  deviceEpoch: 4,
  slot: 4,
  clientTime: 8,
  pinGen: 4,
  pinEpoch: 4,
}
const TEXTS: readonly Field[] = ['audience', 'suite']

/**
 * What a message says, of the right shape, its points not decoded: for a server that leaves points to its workers. It
 * proves nothing.
 */
export class LoginClaim implements LoginTerms {
  readonly mode: Mode
  readonly audience: string
  readonly deviceEpoch: number
  readonly slot: number
  readonly idCore: IdCore
  declare readonly nonce?: Uint8Array
  declare readonly clientTime?: number
  declare readonly payloadHash?: Uint8Array
  readonly pin: PinTerms | undefined
  readonly permit: PermitClaim | undefined
  /** The message's TLV. */
  readonly bytes: Uint8Array
  readonly #entries: readonly (Uint8Array | undefined)[]

  private constructor(
    terms: LoginTerms,
    pin: PinTerms | undefined,
    permit: PermitClaim | undefined,
    bytes: Uint8Array,
    entries: readonly (Uint8Array | undefined)[],
  ) {
    this.mode = terms.mode
    this.audience = terms.audience
    this.deviceEpoch = terms.deviceEpoch
    this.slot = terms.slot
    this.idCore = terms.idCore
    if (terms.nonce !== undefined) this.nonce = terms.nonce
    if (terms.clientTime !== undefined) this.clientTime = terms.clientTime
    if (terms.payloadHash !== undefined) this.payloadHash = terms.payloadHash
    this.pin = pin
    this.permit = permit
    this.bytes = bytes
    this.#entries = entries
  }

  static decode(bytes: Uint8Array, field = 'message'): LoginClaim {
    const entries = decodeTlv(bytes, { tags: FIELDS.length, field })
    const entry = (name: Field) => entries[FIELDS.indexOf(name)]
    const needed = (name: Field) => need(entry(name), name)
    const integer = (name: Field) => readInteger(needed(name), INTEGERS[name] as number, name)
    if (fromUtf8(needed('suite'), 'suite') !== SUITE) throw new DecodeError('suite', 'unknown suite')
    const mode = integer('mode')
    if (mode > MODE.sign) throw new DecodeError('mode', 'unknown mode')
    const [nonce, payloadHash, permit, userCore] = [
      entry('nonce'),
      entry('payloadHash'),
      entry('permit'),
      entry('userCore'),
    ]
    const terms: LoginTerms = {
      mode: mode as Mode,
      audience: fromUtf8(needed('audience'), 'audience'),
      deviceEpoch: integer('deviceEpoch'),
      slot: integer('slot'),
      idCore: IdCore.decode(needed('idCore')),
      ...(nonce === undefined ? {} : { nonce }),
      ...(entry('clientTime') === undefined ? {} : { clientTime: integer('clientTime') }),
      ...(payloadHash === undefined ? {} : { payloadHash }),
    }
    checkTerms(terms)
    const pinFields: readonly Field[] = ['uPin', 't', 'vPin', 'z', 'pinGen', 'pinEpoch']
    const hasPin = pinFields.some(name => entry(name) !== undefined)
    if (!hasPin && userCore !== undefined) throw new DecodeError('userCore', 'only with a PIN proof')
    const pin: PinTerms | undefined = hasPin
      ? { userCore: decodeUserCore(userCore), pinGen: integer('pinGen'), pinEpoch: integer('pinEpoch') }
      : undefined
    for (const name of ['uDev', 'vDev', ...(hasPin ? POINTS_OF_PIN : [])] as const) needed(name)
    const carried = permit === undefined ? undefined : PermitClaim.decode(permit)
    return new LoginClaim(terms, pin, carried, copyOf(bytes), entries)
  }

  /** DecodeError names the field. Unknown fields are refused. */
  static fromJson(value: unknown): LoginClaim {
    return LoginClaim.decode(bytesOfJson(value))
  }

  /** U_dev as it was sent: 48 bytes that may be anything. */
  get U_dev(): Uint8Array {
    return this.part('uDev')
  }

  /** Bytes that may be anything, of a field that a message of this kind has. */
  part(name: (typeof POINTS_OF_PIN)[number] | 'uDev' | 'vDev'): Uint8Array {
    return need(this.#entries[FIELDS.indexOf(name)], name)
  }
}
const POINTS_OF_PIN = ['uPin', 't', 'vPin', 'z'] as const

/** A message of the right shape, its points decoded. It proves nothing before the RPS has verified it. */
export class LoginMessage implements LoginTerms {
  readonly mode: Mode
  readonly audience: string
  readonly deviceEpoch: number
  readonly slot: number
  readonly idCore: IdCore
  declare readonly nonce?: Uint8Array
  declare readonly clientTime?: number
  declare readonly payloadHash?: Uint8Array
  readonly U_dev: G1
  readonly V_dev: G1
  readonly #pin: PinProof | undefined
  readonly #permit: Permit | undefined

  private constructor(
    terms: LoginTerms,
    proof: { readonly U_dev: G1; readonly V_dev: G1 },
    pin: PinProof | undefined,
    permit: Permit | undefined,
  ) {
    checkTerms(terms)
    if (pin !== undefined && pin.userCore.length !== 0) decodeUserCore(pin.userCore)
    this.mode = terms.mode
    this.audience = terms.audience
    this.deviceEpoch = terms.deviceEpoch
    this.slot = terms.slot
    this.idCore = terms.idCore
    if (terms.nonce !== undefined) this.nonce = terms.nonce
    if (terms.clientTime !== undefined) this.clientTime = terms.clientTime
    if (terms.payloadHash !== undefined) this.payloadHash = terms.payloadHash
    this.U_dev = proof.U_dev
    this.V_dev = proof.V_dev
    this.#pin = pin
    this.#permit = permit
  }

  static of(
    terms: LoginTerms,
    proof: { readonly U_dev: G1; readonly V_dev: G1 },
    pin?: PinProof,
    permit?: Permit,
  ): LoginMessage {
    return new LoginMessage(terms, proof, pin, permit)
  }

  get pin(): PinProof | undefined {
    return this.#pin
  }
  /** As it was carried: the RPS verifies it by itself. */
  get permit(): Permit | undefined {
    return this.#permit
  }

  /** The same message with a permit to carry: a permit is public and stands outside of c. */
  withPermit(permit: Permit): LoginMessage {
    return new LoginMessage(this, this, this.pin, permit)
  }

  encode(): Uint8Array {
    const { pin } = this
    return encodeTlv([
      u8(this.mode),
      nfcUtf8(this.audience, 'audience'),
      be32(this.deviceEpoch),
      be32(this.slot),
      this.nonce,
      this.clientTime === undefined ? undefined : be64(this.clientTime),
      this.idCore.bytes,
      pin?.userCore,
      this.permit?.encode(),
      this.U_dev.encode(),
      this.V_dev.encode(),
      pin?.U_pin.encode(),
      pin?.T.encode(),
      pin?.V_pin.encode(),
      pin?.z.encode(),
      this.payloadHash,
      pin && be32(pin.pinGen),
      pin && be32(pin.pinEpoch),
      utf8(SUITE),
    ])
  }

  static decode(bytes: Uint8Array, field = 'message'): LoginMessage {
    const claim = LoginClaim.decode(bytes, field)
    const point = (name: 'uDev' | 'vDev' | 'uPin' | 't' | 'vPin') => G1.decode(claim.part(name), name)
    const pin: PinProof | undefined = claim.pin && {
      ...claim.pin,
      U_pin: point('uPin'),
      T: point('t'),
      V_pin: point('vPin'),
      z: Scalar.decode(claim.part('z'), 'z'),
    }
    const permit = claim.permit && Permit.decode(claim.permit.bytes)
    return new LoginMessage(claim, { U_dev: point('uDev'), V_dev: point('vDev') }, pin, permit)
  }

  /** The same fields by name, for JSON routes. */
  toJson(): LoginJson {
    const entries = decodeTlv(this.encode(), { tags: FIELDS.length, field: 'message' })
    const json: Record<string, string | number> = {}
    FIELDS.forEach((name, i) => {
      const value = entries[i]
      if (value === undefined) return
      const width = INTEGERS[name]
      if (width !== undefined) json[name] = readInteger(value, width, name)
      else json[name] = TEXTS.includes(name) ? fromUtf8(value, name) : toBase64Url(value)
    })
    return json as unknown as LoginJson
  }

  /** DecodeError names the field. Unknown fields are refused. */
  static fromJson(value: unknown): LoginMessage {
    return LoginMessage.decode(bytesOfJson(value))
  }
}

/** The TLV of a message that came as JSON. */
function bytesOfJson(value: unknown): Uint8Array {
  if (typeof value !== 'object' || value === null) throw new DecodeError('login', 'an object expected')
  const json = value as Readonly<Record<string, unknown>>
  for (const name of Object.keys(json)) {
    if (!(FIELDS as readonly string[]).includes(name)) throw new DecodeError('login', 'unknown field')
  }
  const entries = FIELDS.map(name => {
    const field = json[name]
    if (field === undefined) return undefined
    const width = INTEGERS[name]
    if (width !== undefined) {
      const limit = Math.min(2 ** (8 * width), 2 ** 53)
      if (typeof field !== 'number' || !Number.isInteger(field) || field < 0 || field >= limit) {
        throw new DecodeError(name, 'a whole number expected')
      }
      return width === 1 ? u8(field) : width === 4 ? be32(field) : be64(field)
    }
    if (typeof field !== 'string' || field === '') throw new DecodeError(name, 'text expected')
    return TEXTS.includes(name) ? utf8(field, name) : fromBase64Url(field, name)
  })
  return encodeTlv(entries)
}

/** `Authorization: MPIN <base64url of the message>`. */
export const authorizationHeader = (message: LoginMessage): string => `MPIN ${toBase64Url(message.encode())}`

export function parseAuthorization(header: string): LoginMessage {
  return LoginMessage.decode(authorizationBytes(header), 'authorization')
}

/** The message's bytes. DecodeError for another scheme or spelling. */
export function authorizationBytes(header: string): Uint8Array {
  const match = /^MPIN ([A-Za-z0-9_-]{1,2048})$/.exec(header)
  if (match === null) throw new DecodeError('authorization', '`MPIN <base64url>` expected')
  return fromBase64Url(match[1] as string, 'authorization')
}

export interface ClientProof {
  readonly terms: LoginTerms
  readonly binding: Binding
  /** D_dev. Secret. */
  readonly deviceKey: G1
  /** With a PIN: its terms and D_pin = τ + αA_pin. Secret. */
  readonly pin?: { readonly terms: PinTerms; readonly pinKey: G1 } | undefined
  readonly permit?: Permit | undefined
  readonly random: Random
}

/** The client's move. All three nonces are hedged with the key they protect and everything fixed before. */
export function clientProve(proof: ClientProof): LoginMessage {
  const { terms, binding, deviceKey, pin, permit, random } = proof
  if (pin === undefined) return proveDevice(proof).message
  checkTerms(terms)
  const fixed = (made: Commitments) => challengeTlv(terms, pin.terms, binding, made)
  const A_dev = deviceIdentityPoint(binding.groupId, terms.idCore)
  const x = hedgedNonce(NONCE_ROLE.x, random, deviceKey.encode(), fixed({}))
  const U_dev = A_dev.mulSecret(x)
  const { userCore, pinGen } = pin.terms
  const A_pin = pinIdentityPoint(binding.groupId, terms.idCore, userCore, pinGen)
  const xPin = hedgedNonce(NONCE_ROLE.xPin, random, pin.pinKey.encode(), fixed({ U_dev }))
  const U_pin = A_pin.mulSecret(xPin)
  const k = hedgedNonce(NONCE_ROLE.k, random, pin.pinKey.encode(), fixed({ U_dev, U_pin }))
  const T = A_pin.mulSecret(k)
  const c = hashToScalar('CHAL', fixed({ U_dev, U_pin, T }))
  const V_dev = deviceKey.mulSecret(x.add(c)).negate()
  const V_pin = pin.pinKey.mulSecret(xPin.add(c)).negate()
  const z = k.add(c.multiply(xPin))
  return LoginMessage.of(terms, { U_dev, V_dev }, { ...pin.terms, U_pin, T, V_pin, z }, permit)
}

/** The device proof alone, with its x: a secret that only M-Pin Full has another use for. */
export function proveDevice({ terms, binding, deviceKey, permit, random }: Omit<ClientProof, 'pin'>): {
  readonly message: LoginMessage
  readonly x: Scalar
} {
  checkTerms(terms)
  const fixed = (made: Commitments) => challengeTlv(terms, undefined, binding, made)
  const x = hedgedNonce(NONCE_ROLE.x, random, deviceKey.encode(), fixed({}))
  const U_dev = deviceIdentityPoint(binding.groupId, terms.idCore).mulSecret(x)
  const c = hashToScalar('CHAL', fixed({ U_dev }))
  const V_dev = deviceKey.mulSecret(x.add(c)).negate()
  return { message: LoginMessage.of(terms, { U_dev, V_dev }, undefined, permit), x }
}

/** May a message with (or without) a PIN proof log this identity in? Asked before any pairing. */
export function factorsSatisfied(factors: Factors, hasPin: boolean, serviceWantsPin = false): boolean {
  if (factors === 0) return !hasPin && !serviceWantsPin
  if (factors === 1) return hasPin
  return hasPin || !serviceWantsPin
}

function messageChallenge(message: LoginMessage, binding: Binding): Scalar {
  const { U_dev, pin } = message
  const made = pin === undefined ? { U_dev } : { U_dev, U_pin: pin.U_pin, T: pin.T }
  return hashToScalar('CHAL', challengeTlv(message, pin, binding, made))
}

/** e(V, Q)·e(U + cA, S) = 1. c and A are public. */
function deviceEquation(message: LoginMessage, c: Scalar, A_dev: G1): Equation {
  return { V: message.V_dev, U: message.U_dev, cA: { c, A: A_dev } }
}

/** A message with what its device proof is bound to. */
export interface BoundMessage {
  readonly message: LoginMessage
  readonly binding: Binding
}

/** A message whose device proof holds; only verify and verifyBatch make one. */
export class DeviceProven {
  readonly #message: LoginMessage
  readonly #challenge: Scalar
  readonly #binding: Binding
  readonly #A_dev: G1

  private constructor({ message, binding }: BoundMessage, challenge: Scalar, A_dev: G1) {
    this.#message = message
    this.#challenge = challenge
    this.#binding = binding
    this.#A_dev = A_dev
  }

  get message(): LoginMessage {
    return this.#message
  }
  /** c. */
  get challenge(): Scalar {
    return this.#challenge
  }
  get binding(): Binding {
    return this.#binding
  }
  get A_dev(): G1 {
    return this.#A_dev
  }

  /** The device proof alone. Null: it does not hold. */
  static verify(message: LoginMessage, binding: Binding, S_dev: ServerKey): DeviceProven | null {
    const c = messageChallenge(message, binding)
    const A_dev = deviceIdentityPoint(binding.groupId, message.idCore)
    const holds = verifyEquation(deviceEquation(message, c, A_dev), S_dev.lines)
    return holds ? new DeviceProven({ message, binding }, c, A_dev) : null
  }

  /**
   * The device proofs of many messages in one product (batch.ts), by place. PIN proofs among them are not looked at:
   * they share a product with nothing.
   *
   * A point from `points` saves the hash of an identity that was proven before. A message that is refused is hashed
   * anew, so that refusing costs the same whether the identity is known or not.
   */
  static verifyBatch(
    items: readonly BoundMessage[],
    S_dev: ServerKey,
    random: Random,
    points?: IdentityPoints,
  ): (DeviceProven | null)[] {
    const read = items.map(({ message, binding }) => {
      const known = points?.find(binding.groupId, message.idCore)
      return {
        isKnown: known !== undefined,
        c: messageChallenge(message, binding),
        A_dev: known ?? deviceIdentityPoint(binding.groupId, message.idCore),
      }
    })
    const equations = items.map(({ message }, i) => {
      const { c, A_dev } = read[i] as (typeof read)[number]
      return deviceEquation(message, c, A_dev)
    })
    const { holds } = verifyEquations(equations, S_dev.lines, random)
    return items.map((item, i) => {
      const { isKnown, c, A_dev } = read[i] as (typeof read)[number]
      if (!holds[i]) {
        if (isKnown) deviceIdentityPoint(item.binding.groupId, item.message.idCore)
        return null
      }
      const proven = new DeviceProven(item, c, A_dev)
      points?.admit(proven)
      return proven
    })
  }
}

/** Who was proven, by what; only deviceAuthenticated and serverVerifyPin make one. */
export class Authenticated {
  readonly #message: LoginMessage
  readonly #withPin: boolean

  private constructor(message: LoginMessage, withPin: boolean) {
    this.#message = message
    this.#withPin = withPin
  }

  get idCore(): IdCore {
    return this.#message.idCore
  }
  /** Of the person whose PIN was proven, else NO_USER. */
  get userCore(): Uint8Array {
    return (this.#withPin && this.#message.pin?.userCore) || NO_USER
  }
  get amr(): readonly ('device' | 'pin')[] {
    return this.#withPin ? ['device', 'pin'] : ['device']
  }
  get mode(): Mode {
    return this.#message.mode
  }
  get audience(): string {
    return this.#message.audience
  }
  get slot(): number {
    return this.#message.slot
  }
  get payloadHash(): Uint8Array | undefined {
    return this.#message.payloadHash
  }

  /** By the device alone. RangeError when the message carries, or its identity demands, a PIN proof: verify that. */
  static byDevice({ message }: DeviceProven): Authenticated {
    if (message.pin !== undefined || message.idCore.factors === 1)
      throw new RangeError('the PIN proof is to be verified')
    return new Authenticated(message, false)
  }

  /**
   * The PIN proof of a message whose device proof holds, with its random weight ρ drawn now. Null: a wrong PIN.
   * The caller has reserved a strike before.
   */
  static byPin(proven: DeviceProven, S_pin: ServerKey, random: Random): Authenticated | null {
    const { message, challenge: c, binding } = proven
    const { pin } = message
    if (pin === undefined) throw new RangeError('the message carries no PIN proof')
    if (message.idCore.factors === 0) throw new RangeError('this identity has no PIN')
    const A_pin = pinIdentityPoint(binding.groupId, message.idCore, pin.userCore, pin.pinGen)
    const rho = Scalar.randomWeight(random)
    // z·A_pin − T − c·U_pin is the identity exactly when U_pin ∈ ⟨A_pin⟩ was shown.
    const weighted = [Scalar.fromNumber(1), rho.multiply(pin.z), rho.negate(), rho.multiply(c).negate()]
    const holds = pairingProductIsOne([
      [G1.sumOfProducts([pin.V_pin, A_pin, pin.T, pin.U_pin], weighted), PreparedG2.generator],
      [pin.U_pin.add(A_pin.mulPublic(c)), S_pin.lines],
    ])
    return holds ? new Authenticated(message, true) : null
  }
}

/**
 * The device equation for an identity that is unknown: against the all-zero idCore, so that refusing costs what
 * verifying costs. Always to be refused, whatever it gives.
 */
export function verifyUnknown(message: LoginMessage, binding: Binding, S_dev: ServerKey): void {
  const c = messageChallenge(message, binding)
  verifyEquation(deviceEquation(message, c, deviceIdentityPoint(binding.groupId, IdCore.zero)), S_dev.lines)
}

/** Is this the payload that was signed? */
export const signsPayload = (payloadHash: Uint8Array | undefined, hash: Uint8Array): boolean =>
  payloadHash !== undefined && equalBytes(payloadHash, hash)
