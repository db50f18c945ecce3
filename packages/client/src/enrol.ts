/**
 * Enrolment as types: each wait is one, and only a passed check makes the next (protocols.md §3).
 *
 *   device                                     RPS            RA                       authorities
 *   hpkeKey: new, for this enrolment only
 *   mac = HMAC(code; groupId, attributes, instance, hpkeKey, nonce)
 *   DeviceAwaitingApproval
 *   -- attributes, instance, hpkeKey, nonce [, codeId, mac] -->   mac, or a person compares six words
 *                          <-- idCore and its fields, ticket --   the ticket names hpkeKey
 *   DeviceAwaitingShares.verify: idCore recomputed from *my* attributes and key; the ticket is for it
 *   -- ticket, purpose (key-collection.ts) -->                                         d_j, sealed to hpkeKey
 *   DeviceKeys.combine: D_dev [, s·Hk1(C)] [, D_pin] [, D_sign]
 *   one write: D_dev [, s·Hk1(C)] [, τ] [, D_sign] in, the private half of hpkeKey out
 *
 * A user on the device, and a new PIN, go the same way with PinAwaitingApproval, PinAwaitingShares and PinKey; the
 * device vouches with a `sign` message (payloads.ts), for a new PIN together with the old one.
 *
 * Neither RPS nor relay can swap the key, the vehicle, the person or the group: code or words cover them on the way
 * there, and what comes back is recomputed here. What a stolen store gives away in the middle of it: the enrolment
 * key, hence, with the ticket, the keys. Single use: hpkeKey, and a PIN key, which is split once.
 */
import type { Group } from '@milagro-ts/api/group'
import { HpkeKeyPair } from '@milagro-ts/api/keys'
import { Refused } from '@milagro-ts/api/problem'
import type { Approved } from '@milagro-ts/api/rpa-routes'
import { sixWords } from '@milagro-ts/api/six-words'
import { type TicketPurpose, type VerifiedTicket, verifyTicket } from '@milagro-ts/api/statements'
import { equalBytes, fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import {
  codeId,
  type EnrolmentCode,
  type EnrolmentFields,
  enrolmentKeyHash,
  enrolmentMac,
  sixWordIndices,
} from '@milagro-ts/crypto/enrolment'
import { DecodeError } from '@milagro-ts/crypto/errors'
import {
  type Attributes,
  checkIdCore,
  IdCore,
  NO_USER,
  pinIdentityPoint,
  userCoreOf,
} from '@milagro-ts/crypto/identity'
import { splitPin, type TokenFile } from '@milagro-ts/crypto/pin'
import type { G1 } from '@milagro-ts/crypto/points'
import type { Random } from '@milagro-ts/crypto/ports'
import { ClientError } from './errors.js'
import type { Collection } from './key-collection.js'
import { checkNewPin, type PinCost, stretchPin } from './pin-stretch.js'
import type { DeviceRegistration, Pending, UserRegistration } from './record.js'

/** Gets one key; collectKey with its ports filled in. */
export type Collect = (purpose: TicketPurpose, collection: Collection) => Promise<G1>

type PendingDevice = Extract<Pending, { kind: 'device' }>
type PendingUser = Extract<Pending, { kind: 'user' }>
type PendingPin = Extract<Pending, { kind: 'pin' }>

/** `code` absent: a person will approve by the six words. */
interface Claim {
  readonly groupId: Uint8Array
  readonly attributes: Attributes
  readonly code?: EnrolmentCode | undefined
  readonly random: Random
}

/** Asked for an identity, not answered. */
export class DeviceAwaitingApproval {
  readonly pending: PendingDevice
  readonly keyPair: HpkeKeyPair

  private constructor(pending: PendingDevice, keyPair: HpkeKeyPair) {
    this.pending = pending
    this.keyPair = keyPair
  }

  /** Move 1; `request` is to be posted, after the state is stored. DecodeError for attributes that have no encoding. */
  static async request({
    groupId,
    attributes,
    instance,
    code,
    random,
  }: Claim & { readonly instance: string }): Promise<DeviceAwaitingApproval> {
    const secret = random(32)
    const keyPair = await HpkeKeyPair.fromSecret(secret)
    const fields = { groupId, attributes, instance, hpkeKey: keyPair.publicKey, nonce: random(32) }
    const request: DeviceRegistration = { kind: 'device', instance, ...claimed(fields, code) }
    return new DeviceAwaitingApproval({ kind: 'device', secret, request }, keyPair)
  }

  static async resume(pending: PendingDevice): Promise<DeviceAwaitingApproval> {
    return new DeviceAwaitingApproval(pending, await HpkeKeyPair.fromSecret(pending.secret))
  }

  /** What the device shows to the person who compares. */
  words(groupId: Uint8Array): string {
    return wordsOf(groupId, this.pending.request)
  }
}

/** Approved, and the approval is for this device. */
export class DeviceAwaitingShares {
  readonly idCore: IdCore
  readonly collection: Collection
  /** Of the device's own PIN; absent where it has none. */
  readonly pinGen: number | undefined

  private constructor(idCore: IdCore, collection: Collection, pinGen: number | undefined) {
    this.idCore = idCore
    this.collection = collection
    this.pinGen = pinGen
  }

  /**
   * Move 2. WRONG_IDENTITY unless idCore is the one of this device's own attributes, instance and enrolment key, and
   * the ticket is for it. Refused EXPIRED for a ticket out of its time: ask again. `now` is unix milliseconds.
   */
  static async verify(
    { pending: { request }, keyPair }: DeviceAwaitingApproval,
    answer: Approved,
    { group, now, factors }: { group: Group; now: number; factors?: number | undefined },
  ): Promise<DeviceAwaitingShares> {
    const { user } = answer
    const idCore = within(() => {
      const made = IdCore.fromBase64Url(answer.idCore)
      const fits = checkIdCore(made, {
        groupId: group.groupId,
        attributes: request.attributes,
        instance: request.instance,
        issueDate: answer.issueDate,
        enrolmentKeyHash: enrolmentKeyHash(keyPair.publicKey),
        salt: fromBase64Url(answer.salt, 'salt', 16),
        leaf: answer.leaf,
        generation: answer.generation,
        factors: answer.factors,
      })
      if (!fits) throw wrongIdentity('idCore is not made of this device’s own attributes and key')
      return made
    })
    if (factors !== undefined && idCore.factors !== factors)
      throw wrongIdentity('other factors than expected')
    if (idCore.factors === 1 && user === undefined)
      throw wrongIdentity('factors want a PIN, the approval has none')
    if (user !== undefined && (idCore.factors === 0 || user.userCore !== undefined))
      throw wrongIdentity('a device’s own PIN has no user')
    const wanted: TicketPurpose[] = user === undefined ? ['device'] : ['device', 'pin']
    const ticket = await ownTicket(answer, { group, now, keyPair, idCore, userCore: NO_USER })
    if (wanted.some(purpose => !ticket.purposes.includes(purpose)) || ticket.pinGen !== user?.pinGen)
      throw wrongIdentity('the ticket is for other purposes')
    return new DeviceAwaitingShares(
      idCore,
      { group, ticket, signatures: answer.ticket, keyPair },
      user?.pinGen,
    )
  }
}

/** A key beside D_dev, with the key epoch of its purpose. Secret. */
export interface CollectedKey {
  readonly key: G1
  readonly epoch: number
}

/** The device's keys, combined from verified shares. */
export class DeviceKeys {
  /** D_dev. Secret. */
  readonly deviceKey: G1
  /** Of purpose `device`. */
  readonly keyEpoch: number
  /** s·Hk1(C), where the ticket is for one. Secret. */
  readonly agreeKey: CollectedKey | null
  readonly pinKey: PinKey | null
  /** D_sign, where the ticket is for it. Secret. */
  readonly signKey: CollectedKey | null
  /** s·He(C), where the ticket is for it. Secret. */
  readonly encryptKey: CollectedKey | null

  private constructor(
    deviceKey: G1,
    keyEpoch: number,
    agreeKey: CollectedKey | null,
    pinKey: PinKey | null,
    signKey: CollectedKey | null,
    encryptKey: CollectedKey | null,
  ) {
    this.deviceKey = deviceKey
    this.keyEpoch = keyEpoch
    this.agreeKey = agreeKey
    this.pinKey = pinKey
    this.signKey = signKey
    this.encryptKey = encryptKey
  }

  /** Move 3. Throws what `collect` throws. */
  static async combine(waiting: DeviceAwaitingShares, collect: Collect): Promise<DeviceKeys> {
    const { collection, pinGen } = waiting
    const pinKey = pinGen === undefined ? null : await PinKey.collect(collection, collect)
    const { device: keyEpoch, agree, sign, encrypt } = collection.ticket.keyEpochs
    const further = async (purpose: 'agree' | 'sign' | 'encrypt', epoch: number | undefined) =>
      epoch === undefined ? null : { key: await collect(purpose, collection), epoch }
    const agreeKey = await further('agree', agree)
    const signKey = await further('sign', sign)
    const encryptKey = await further('encrypt', encrypt)
    const deviceKey = await collect('device', collection)
    return new DeviceKeys(deviceKey, keyEpoch as number, agreeKey, pinKey, signKey, encryptKey)
  }
}

/** Asked for a user's key, or for the next generation of one, not answered. */
export class PinAwaitingApproval<P extends PendingUser | PendingPin = PendingUser | PendingPin> {
  readonly pending: P
  readonly keyPair: HpkeKeyPair

  private constructor(pending: P, keyPair: HpkeKeyPair) {
    this.pending = pending
    this.keyPair = keyPair
  }

  /** Move 1 for a person on this device. */
  static async user({
    name,
    groupId,
    attributes,
    code,
    random,
  }: Claim & { readonly name: string }): Promise<PinAwaitingApproval<PendingUser>> {
    const secret = random(32)
    const keyPair = await HpkeKeyPair.fromSecret(secret)
    const fields = { groupId, attributes, hpkeKey: keyPair.publicKey, nonce: random(32) }
    const request: UserRegistration = { kind: 'user', ...claimed(fields, code) }
    return new PinAwaitingApproval({ kind: 'user', secret, name, request }, keyPair)
  }

  /** Move 1 for a new PIN of a user who has one. */
  static async newPin({
    name,
    pinGen,
    random,
  }: {
    name: string
    pinGen: number
    random: Random
  }): Promise<PinAwaitingApproval<PendingPin>> {
    const secret = random(32)
    const keyPair = await HpkeKeyPair.fromSecret(secret)
    return new PinAwaitingApproval({ kind: 'pin', secret, name, pinGen }, keyPair)
  }

  static async resume<P extends PendingUser | PendingPin>(pending: P): Promise<PinAwaitingApproval<P>> {
    return new PinAwaitingApproval(pending, await HpkeKeyPair.fromSecret(pending.secret))
  }
}

/** What the person who compares is shown for a user's enrolment. */
export function userWords(groupId: Uint8Array, { pending }: PinAwaitingApproval<PendingUser>): string {
  return wordsOf(groupId, pending.request)
}

/** Approved, and the approval is for this device and this user. */
export class PinAwaitingShares {
  readonly collection: Collection
  readonly userCore: Uint8Array

  private constructor(collection: Collection, userCore: Uint8Array) {
    this.collection = collection
    this.userCore = userCore
  }

  /**
   * Move 2. `former` are the tokens that the user has here. WRONG_IDENTITY unless the approval is for this device, for
   * this user (recomputed; for a new PIN the same as before) and for a generation above every former one: a key that
   * was split before must not be split again.
   */
  static async verify(
    { pending, keyPair }: PinAwaitingApproval,
    answer: Approved,
    {
      group,
      now,
      idCore,
      former,
    }: { group: Group; now: number; idCore: IdCore; former: readonly TokenFile[] },
  ): Promise<PinAwaitingShares> {
    const { user } = answer
    if (answer.idCore !== idCore.mpinId) throw wrongIdentity('the approval is for another device')
    if (user === undefined) throw wrongIdentity('the approval names no user')
    const userCore = user.userCore === undefined ? NO_USER : fromBase64Url(user.userCore, 'userCore', 32)
    const expected =
      pending.kind === 'pin'
        ? (former[0]?.userCore ?? NO_USER)
        : within(() =>
            userCoreOf({
              groupId: group.groupId,
              attributes: pending.request.attributes,
              salt: fromBase64Url(user.salt ?? '', 'salt', 16),
            }),
          )
    if (!equalBytes(userCore, expected)) throw wrongIdentity('userCore is not the one of this user')
    if (former.some(token => equalBytes(token.userCore, userCore) && token.pinGen >= user.pinGen))
      throw wrongIdentity('the PIN generation is not a new one')
    const ticket = await ownTicket(answer, { group, now, keyPair, idCore, userCore })
    if (ticket.purposes.length !== 1 || ticket.pinGen !== user.pinGen)
      throw wrongIdentity('the ticket is for other purposes')
    return new PinAwaitingShares({ group, ticket, signatures: answer.ticket, keyPair }, userCore)
  }
}

/** D_pin, until it is split. */
export class PinKey {
  readonly #ticket: VerifiedTicket
  #D_pin: G1 | null

  private constructor(ticket: VerifiedTicket, D_pin: G1) {
    this.#ticket = ticket
    this.#D_pin = D_pin
  }

  /** Move 3. Throws what `collect` throws. */
  static combine({ collection }: PinAwaitingShares, collect: Collect): Promise<PinKey> {
    return PinKey.collect(collection, collect)
  }

  static async collect(collection: Collection, collect: Collect): Promise<PinKey> {
    return new PinKey(collection.ticket, await collect('pin', collection))
  }

  /** τ = D_pin − α·A_pin, once: a second call is a TypeError. RangeError for a PIN or cost that can't be chosen. */
  async split(pin: string, cost: PinCost): Promise<TokenFile> {
    checkNewPin(pin, cost)
    const D_pin = this.#D_pin
    if (D_pin === null) throw new TypeError('a PIN key is split once')
    this.#D_pin = null
    const { groupId, idCore, userCore, pinGen } = this.#ticket
    const account = { idCore, userCore, pinGen: pinGen as number }
    const alpha = await stretchPin(pin, account, cost.iterations)
    const A_pin = pinIdentityPoint(groupId, idCore, userCore, account.pinGen)
    const keyEpoch = this.#ticket.keyEpochs.pin as number
    const token = splitPin(D_pin, alpha, A_pin)
    return { groupId, ...account, iterations: cost.iterations, keyEpoch, token }
  }
}

/** The fields that device and user registrations share, with the code's proof where there is a code. */
function claimed(fields: EnrolmentFields, code: EnrolmentCode | undefined) {
  const { attributes, hpkeKey, nonce } = fields
  const proof =
    code === undefined
      ? {}
      : { codeId: toBase64Url(codeId(code.secret)), mac: toBase64Url(enrolmentMac(code.secret, fields)) }
  return { attributes: { ...attributes }, hpkeKey: toBase64Url(hpkeKey), nonce: toBase64Url(nonce), ...proof }
}

function wordsOf(groupId: Uint8Array, request: DeviceRegistration | UserRegistration): string {
  const { attributes } = request
  const hpkeKey = fromBase64Url(request.hpkeKey, 'hpkeKey', 32)
  const nonce = fromBase64Url(request.nonce, 'nonce', 32)
  return sixWords(sixWordIndices({ groupId, attributes, hpkeKey, nonce }))
}

async function ownTicket(
  { ticket: signatures }: Approved,
  {
    group,
    now,
    keyPair,
    idCore,
    userCore,
  }: { group: Group; now: number; keyPair: HpkeKeyPair; idCore: IdCore; userCore: Uint8Array },
): Promise<VerifiedTicket> {
  let ticket: VerifiedTicket
  try {
    ticket = await verifyTicket({ ticket: signatures, group, now })
  } catch (error) {
    const wrong = error instanceof DecodeError || (error instanceof Refused && error.code !== 'EXPIRED')
    if (!wrong) throw error
    throw wrongIdentity(`the ticket does not hold (${error.message})`, error)
  }
  if (!equalBytes(ticket.hpkeKey, keyPair.publicKey))
    throw wrongIdentity('the ticket is for another enrolment key')
  if (!ticket.idCore.equals(idCore) || !equalBytes(ticket.userCore, userCore))
    throw wrongIdentity('the ticket is for another identity')
  return ticket
}

/** Turns a DecodeError in what the RA returned into WRONG_IDENTITY. */
function within<T>(read: () => T): T {
  try {
    return read()
  } catch (error) {
    if (!(error instanceof DecodeError)) throw error
    throw wrongIdentity(`${error.field}: ${error.why}`, error)
  }
}

function wrongIdentity(detail: string, cause?: unknown): ClientError {
  return new ClientError('WRONG_IDENTITY', detail, { cause })
}
