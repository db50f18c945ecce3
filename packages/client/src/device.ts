/**
 * A device with an identity: what an application uses.
 *
 *   Device.enrol → enrolUser, login, session, onePass, sign, permit, nextPermit, keepAhead, changePin, decapsulate
 *
 * Keys are read from the store for each proof and leave no function; a session with a PIN keeps D_pin until it is
 * closed. What is repeated by itself and what isn't: errors.ts.
 */
import { UnexpectedAnswer, Unreachable } from '@milagro-ts/api/call'
import type { Group } from '@milagro-ts/api/group'
import type { EpochStep } from '@milagro-ts/api/key-rotation'
import { pinChangePayload, userEnrolmentPayload } from '@milagro-ts/api/payloads'
import { type Code, Refused } from '@milagro-ts/api/problem'
import type { AuthenticatedFields, LoginFields } from '@milagro-ts/api/schemas'

import { type SignedFields, type SignedForm, signedAs } from '@milagro-ts/api/signed-message'
import { SLOT_KEY_CONTEXT } from '@milagro-ts/api/slot-key-request'

import { verifyReceipt } from '@milagro-ts/api/statements'
import { systemTimers, type Timers } from '@milagro-ts/api/system'
import { equalBytes, fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { decapsulate } from '@milagro-ts/crypto/ibe'
import { sign } from '@milagro-ts/crypto/ibs'
import { type Attributes, encodeName, type IdCore, pinIdentityPoint } from '@milagro-ts/crypto/identity'
import {
  authorizationHeader,
  clientProve,
  type LoginMessage,
  type LoginTerms,
  MODE,
  type PinTerms,
} from '@milagro-ts/crypto/mpin'
import { joinPin, type TokenFile } from '@milagro-ts/crypto/pin'
import type { G1, G2 } from '@milagro-ts/crypto/points'
import type { Scalar } from '@milagro-ts/crypto/scalar'
import { sha256 } from '@milagro-ts/crypto/sha256'
import {
  AgreeClientKey,
  ClientAgreement,
  clientAgreeStatic,
  type ExternalPsk,
  type PskIdentity,
  type SlotParty,
  type SlotPskKind,
} from '@milagro-ts/crypto/static-agreement'
import { SUITE } from '@milagro-ts/crypto/suite'
import { Permit, slotAt, slotStart, VerifiedPermit } from '@milagro-ts/crypto/time-permit'
import { Ahead } from './ahead.js'
import {
  changePin,
  type DeviceEnrolment,
  deviceOf,
  type Enrolled,
  enrolDevice,
  enrolUser,
  type Patience,
  tokensOf,
  type UserEnrolment,
} from './enrolling.js'
import { ClientError } from './errors.js'
import { checkFileSlot, type EncryptedTo } from './file-recipient.js'
import { followGroup, storedGroup } from './group-store.js'
import { LOOKS } from './key-collection.js'
import { type DeltaRequest, type Deltas, fetchDeltas } from './key-rotation.js'
import { stretchPin } from './pin-stretch.js'
import { type BoundConnection, type DeviceOptions, type Ports, portsOf } from './ports.js'
import {
  type DeviceIdentity,
  type DeviceRecord,
  decodeRecords,
  type FurtherKey,
  OWN_PIN,
  Records,
  type User,
} from './record.js'
import { repeatSafely } from './repeat.js'
import { Session } from './session.js'
import { type KeyringPlace, PeerKeys, SlotKeyring, signingKeyEnded } from './slot-keyring.js'
import type { TokenStore } from './token-store.js'
import { Turns } from './turns.js'
import { lockKey, unlockKey } from './unlocker.js'

/** Who proves what to whom. */
export interface ProofOptions {
  /** The service's origin (`https://host[:port]`) or configured name, byte for byte. */
  readonly audience: string
  /** A user of this device, by name; absent for the device alone, or with its own PIN. */
  readonly user?: string
  readonly pin?: string
}

/** What is proven to the RPS itself. */
export interface RpsProofOptions extends ProofOptions {
  /**
   * Where the audience's policy wants the proof bound to its TLS connection, and only there: opens a connection to the RPS
   * (bound-fetch.ts). Each attempt has one of its own, and closes it.
   */
  readonly over?: () => Promise<BoundConnection>
}

/** What is proven to a service. */
export interface OnePassOptions extends ProofOptions {
  /** 32 bytes of the connection that it will be sent on, where the audience's policy wants it bound, and only there. */
  readonly tlsExporter?: Uint8Array
}

export interface Login {
  readonly accessToken: string
  /** Seconds. */
  readonly expiresIn: number
  readonly authenticated: AuthenticatedFields
  /** For the service's server to redeem, where it was asked for. */
  readonly authOtt: string | undefined
}

/** An external PSK, the slot that it is for, and when that ends (unix milliseconds). */
export interface SlotPsk extends ExternalPsk {
  readonly slot: number
  readonly endsAt: number
}

export interface UserOnDevice {
  readonly name: string
  readonly attributes: Attributes
  /** base64url; empty for the device's own PIN. */
  readonly userCore: string
  readonly pinGen: number
}

/** What may be told of an identity in a store. */
export interface IdentityInStore {
  /** base64url */
  readonly groupId: string
  readonly instance: string
  /** Absent while the first enrolment is under way. */
  readonly mpinId: string | undefined
  /** Kind of the unlocker that the device key lies under. */
  readonly unlocker: string | undefined
  readonly users: readonly UserOnDevice[]
  /** Enrolments and changes of a PIN that wait for their end. */
  readonly underWay: number
}

/** A PIN key, for as long as a call or a session takes. It follows the stored token from one key epoch to the next. */
class PinInHand implements Omit<PinTerms, 'pinEpoch'> {
  readonly userCore: Uint8Array
  readonly pinGen: number
  #keyEpoch: number
  #token: G1
  #pinKey: G1

  /** D_pin = τ + α·A_pin. */
  constructor({ groupId, idCore, userCore, pinGen, keyEpoch, token }: TokenFile, alpha: Scalar) {
    this.userCore = userCore
    this.pinGen = pinGen
    this.#keyEpoch = keyEpoch
    this.#token = token
    this.#pinKey = joinPin(token, alpha, pinIdentityPoint(groupId, idCore, userCore, pinGen))
  }

  get keyEpoch(): number {
    return this.#keyEpoch
  }
  /** D_pin. Secret. */
  get pinKey(): G1 {
    return this.#pinKey
  }

  isOf({ userCore, pinGen }: TokenFile): boolean {
    return pinGen === this.pinGen && equalBytes(userCore, this.userCore)
  }

  /** D'_pin = D_pin + τ' − τ: both have the same α. */
  follow({ keyEpoch, token }: TokenFile): void {
    if (keyEpoch === this.#keyEpoch) return
    this.#pinKey = this.#pinKey.add(token.subtract(this.#token))
    this.#token = token
    this.#keyEpoch = keyEpoch
  }
}

/** What a proof is bound to beside identity and audience, with the epochs of both purposes. */
interface Terms {
  readonly terms: Omit<LoginTerms, 'audience' | 'idCore'>
  readonly pinEpoch: number
}

/** From one key epoch to another, of each purpose that goes over. */
interface Steps {
  readonly device: EpochStep | undefined
  readonly pin: EpochStep | undefined
}

const slotAhead = (slot: number) =>
  new ClientError('SLOT_AHEAD', `there is no permit of slot ${slot} yet, so no key of it`)

/** Seconds by which the device's clock and the RPS' may differ before the RPS' slot is not believed. */
const CLOCK_TOLERANCE = 300

/** Refusals that come before the PIN is looked at, and that another proof may not meet again. */
const BEFORE_THE_PIN: ReadonlySet<Code> = new Set<Code>([
  'EXPIRED',
  'REPLAYED',
  'CLOCK',
  'WRONG_PERMIT',
  'PERMIT_EXPIRED',
])

export class Device {
  readonly idCore: IdCore
  readonly groupId: Uint8Array
  readonly attributes: Attributes
  readonly instance: string
  readonly #ports: Ports
  readonly #records: Records
  readonly #turns = new Turns()
  #group: Group
  #permit: VerifiedPermit | null = null
  /** Of the slot after it, so that a device that goes offline can still show one. */
  #nextPermit: VerifiedPermit | null = null
  #fetching: Promise<VerifiedPermit> | undefined
  readonly #slotKeys: SlotKeyring<G2>
  readonly #peerKeys: PeerKeys
  readonly #fileKeys: SlotKeyring<G1>
  /** Of the current slot, by generation and name of the server, or by M-Pin ID of the peer. */
  readonly #agreements = new Map<string, ClientAgreement>()

  private constructor(
    ports: Ports,
    records: Records,
    group: Group,
    device: DeviceIdentity,
    instance: string,
  ) {
    this.#ports = ports
    this.#records = records
    this.#group = group
    this.idCore = device.idCore
    this.groupId = group.groupId
    this.attributes = device.attributes
    this.instance = instance
    const place: KeyringPlace = {
      idCore: this.idCore,
      group: () => this.#group,
      device: async () => (await this.#record()).device,
      update: change => this.#update(before => ({ ...before, device: change(deviceOf(before)) })),
    }
    this.#slotKeys = SlotKeyring.ofPeers(ports, place)
    this.#peerKeys = new PeerKeys(this.#slotKeys, place)
    this.#fileKeys = SlotKeyring.ofFiles(ports, place)
  }

  /**
   * Enrols by code, or by words that a person compares; then opens. Called again with the same arguments, after a
   * crash or later, it goes on where it stopped, or opens what was enrolled. Throws ClientError as errors.ts says,
   * Refused with the code of a server's refusal, Unreachable, DecodeError for a mistyped code.
   */
  static async enrol(options: DeviceOptions & DeviceEnrolment): Promise<Device> {
    const ports = portsOf(options)
    return Device.#opened(ports, await enrolDevice(ports, options.store, options))
  }

  /**
   * The device that was enrolled in this store; `identity` says which, where there are several. NOT_ENROLLED,
   * WHICH_IDENTITY, STORE_DAMAGED, WRONG_GROUP.
   */
  static async open(options: DeviceOptions): Promise<Device> {
    return Device.#opened(portsOf(options), await Records.select(options.store, options.identity))
  }

  /** Who is in a token store, without a secret of theirs; asks nobody. Throws STORE_DAMAGED and what the store throws. */
  static async list(store: TokenStore): Promise<readonly IdentityInStore[]> {
    const text = await store.read()
    return (text === null ? [] : decodeRecords(text)).map(
      ({ groupId, instance, device, users, pending }) => ({
        groupId: toBase64Url(groupId),
        instance,
        mpinId: device?.idCore.mpinId,
        unlocker: device?.unlocker ?? undefined,
        users: users.map(userOnDevice),
        underWay: pending.length,
      }),
    )
  }

  static async #opened(ports: Ports, records: Records): Promise<Device> {
    const record = await records.read()
    const identity = deviceOf(record)
    const { revisions, groupId, instance, permit, nextPermit } = record as DeviceRecord
    const device = new Device(ports, records, await storedGroup(revisions, groupId), identity, instance)
    if (permit !== null) device.#permit = device.#verified(permit)
    if (nextPermit !== null) device.#nextPermit = device.#verified(nextPermit)
    return device
  }

  /** The M-Pin ID: base64url of idCore. */
  get mpinId(): string {
    return this.idCore.mpinId
  }

  async users(): Promise<readonly UserOnDevice[]> {
    const { users } = await this.#record()
    return users.map(userOnDevice)
  }

  /**
   * Enrols a person on this device, with a PIN that is chosen now; answers with the user's name. A new code for a user
   * who is known is for a forgotten PIN. Called again with the same arguments it goes on where it stopped.
   */
  enrolUser(enrolment: UserEnrolment): Promise<string> {
    return this.#turns.take('', async () => {
      await this.#follow()
      return enrolUser(await this.#enrolled(), enrolment, hpkeKey =>
        this.#vouch(userEnrolmentPayload(enrolment.attributes, hpkeKey)),
      )
    })
  }

  /** Device proof, and with a user or a PIN also a PIN proof, to an access token. */
  login(options: RpsProofOptions & { readonly authOtt?: boolean }): Promise<Login> {
    return this.#asWhom(options, pin => this.#login(options, pin))
  }

  /** A login that is renewed silently. The first one is made here, so a wrong PIN shows at once. */
  async session({ pin: typed, ...options }: RpsProofOptions): Promise<Session> {
    let held: PinInHand | undefined
    let first: Login | undefined = await this.#asWhom(
      { ...options, ...(typed === undefined ? {} : { pin: typed }) },
      pin => {
        held = pin
        return this.#login(options, pin)
      },
    )
    const again = () => this.#login(options, held)
    const session = new Session(async () => {
      const login = first
      first = undefined
      if (login !== undefined) return login
      return held === undefined
        ? repeatSafely(this.#ports.wait, () => this.#freshly(again))
        : this.#turns.take(turnOf(options.user), () => this.#freshly(again))
    }, this.#ports.ticks)
    await session.accessToken()
    return session
  }

  /**
   * `Authorization: MPIN …`: a proof for one request, made without asking anybody. With a PIN that was just changed it
   * goes by the new one.
   */
  async onePass(options: OnePassOptions): Promise<string> {
    const [token] = await this.#tokens(options)
    const pin = token === undefined ? undefined : await this.#join(token, options.pin as string)
    const { audience, tlsExporter } = options
    const to = { audience, exporter: async () => tlsExporter }
    return authorizationHeader(await this.#prove(to, await this.#termsOfNow(MODE.time), pin))
  }

  /** Signs a payload (≤ 32 KiB) for the audience; the RPS' receipt, a JWS that any service can check. */
  sign(options: RpsProofOptions & { readonly payload: Uint8Array }): Promise<string> {
    return this.#asWhom(options, pin => this.#sign(options, options.payload, pin))
  }

  /** The identity's permit for the current slot: the one in hand, or a new one out of the cache, else from the RPS. */
  async permit(): Promise<VerifiedPermit> {
    const slot = await this.#slotNow()
    return this.#permitOf(slot) ?? (await this.#cachedPermit(slot)) ?? this.#askForPermit()
  }

  /**
   * The permit of the slot after the current one, which counts from the begin of that slot: the one in hand, one out of
   * the cache, else from the RPS. Null while nobody has made it. Whoever goes offline has it with them.
   */
  async nextPermit(): Promise<VerifiedPermit | null> {
    const slot = (await this.#slotNow()) + 1
    const known = this.#permitOf(slot) ?? (await this.#cachedPermit(slot))
    if (known !== null) return known
    await this.#askForPermit()
    return this.#permitOf(slot)
  }

  /**
   * From now on, until what is returned is closed: gets ahead of each slot, at a moment drawn for it (ahead.ts), newer
   * revisions, the step to a key epoch that begins later, and the next slot's permit. Slot keys that are over go. `onError` hears of an attempt that
   * failed; it is made again.
   */
  keepAhead({
    timers = systemTimers,
    onError,
  }: {
    readonly timers?: Timers
    readonly onError: (error: unknown) => void
  }): Ahead {
    const { random, time } = this.#ports
    return Ahead.begin({
      rule: () => this.#group.slotRule,
      now: () => time.now(),
      look: () => this.#lookAhead(),
      random,
      timers,
      onError,
    })
  }

  /**
   * What this device speaks TLS by, to a server of its group in the current slot (packages/tls; any other stack that
   * takes external PSKs, too). The same until the slot ends. NO_AGREE_KEY, UNKNOWN_SERVER, WRONG_UNLOCKER.
   * @param server The name in the group document: from configuration, never from the network.
   */
  async externalPsk(server: string, kind: SlotPskKind = 'm1'): Promise<SlotPsk> {
    // A server may have joined the group since.
    if (agreeParty(this.#group, server) === undefined) await this.#follow()
    const party = agreeParty(this.#group, server)
    if (party === undefined) throw new ClientError('UNKNOWN_SERVER')
    return this.#pskFor(party, `${party.generation} ${party.name}`, kind)
  }

  /**
   * The same to another device of the group, in the current slot; asks nobody. NO_AGREE_KEY, WRONG_UNLOCKER; RangeError for
   * this device itself.
   * @param peer From configuration, or from whoever said whom to expect: never from the peer.
   */
  async peerPsk(peer: IdCore): Promise<SlotPsk> {
    if (peer.equals(this.idCore)) throw new RangeError('a device is no peer of its own')
    return this.#pskFor({ kind: 1, idCore: peer }, `peer ${peer.mpinId}`, 'm1')
  }

  /**
   * What it takes to open and to answer channels between devices without anybody (packages/tls, peer.ts): fetches what isn't
   * here yet of permits and slot keys, for the current slot and, as soon as the RPS has its permit and `lead` allows, the
   * next. Returns the slots that are ready. To be called again in each slot while there is a network. NO_AGREE_KEY and
   * NO_SIGN_KEY where the RA gave this device no such keys, EPOCH_ENDED, WRONG_SHARE; Refused BANNED, WRONG_PERMIT and what
   * permit() is refused with.
   */
  async preparePeers(): Promise<readonly number[]> {
    if ((await this.#record()).device.agree === null) throw new ClientError('NO_AGREE_KEY')
    return this.#prepareSlots(this.#slotKeys)
  }

  /**
   * What it takes to open files for a slot without anybody, once they come: fetches the keys of the current slot and, as soon
   * as there is its permit and `lead` allows, of the next; keys of slots that are over are destroyed. Returns the slots that
   * are ready. To be called again in each slot: a key that wasn't fetched in time is nobody's. NO_SIGN_KEY and what
   * preparePeers() is refused with.
   */
  prepareFiles(): Promise<readonly number[]> {
    return this.#prepareSlots(this.#fileKeys)
  }

  async #prepareSlots(ring: SlotKeyring<G1> | SlotKeyring<G2>): Promise<readonly number[]> {
    await this.#signingKey()
    await this.#follow()
    const current = await this.#slotNow()
    await this.#dropEnded(current)
    await this.permit()
    if (this.#group.policy.lead > 0 && this.#permitOf(current + 1) === null) await this.#askForPermit()
    const slots = [current, current + 1].filter(slot => this.#permitOf(slot) !== null)
    for (const slot of slots) await this.#fetchSlotKey(ring, { slot, current })
    return slots
  }

  /** Into the ring, if it isn't there; with the permit in hand. */
  async #fetchSlotKey(
    ring: SlotKeyring<G1> | SlotKeyring<G2>,
    { slot, current }: { readonly slot: number; readonly current: number },
  ): Promise<void> {
    if (await ring.holds(slot)) return
    const { groupId, idCore } = this
    const locked = await this.#signingKey()
    const signKey = await unlockKey(this.#ports.unlocker, { groupId, idCore, purpose: 'sign' }, locked)
    const { permit } = this.#permitOf(slot) as VerifiedPermit
    await ring.fetch({ slot, current }, { signKey, signEpoch: locked.epoch, permit })
  }

  async #signingKey(): Promise<FurtherKey> {
    const { sign: locked } = (await this.#record()).device
    if (locked === null) throw new ClientError('NO_SIGN_KEY')
    return locked
  }

  /** The PSK of an identity that another device offers, 32 secret bytes; null without a key of its slot. Asks nobody. */
  answerPeer(identity: PskIdentity): Promise<Uint8Array | null> {
    return this.#peerKeys.answer(identity)
  }

  /** The permit of a slot that is in hand, to be shown; null without one. Asks nobody. */
  permitInHand(slot: number): Permit | null {
    return this.#permitOf(slot)?.permit ?? null
  }

  /** The newest revision that this device has seen. */
  get group(): Group {
    return this.#group
  }

  async #pskFor(party: SlotParty, name: string, kind: SlotPskKind): Promise<SlotPsk> {
    const { slotRule } = this.#group
    const slot = await this.#slotNow()
    for (const [other, { slot: former }] of this.#agreements)
      if (former !== slot) this.#agreements.delete(other)
    let agreement = this.#agreements.get(name)
    if (agreement === undefined) {
      const key = await this.#agreeKey(slot)
      // One r for the party and the slot, however many ask at the same time.
      agreement =
        this.#agreements.get(name) ?? ClientAgreement.begin(key, { party, slot }, this.#ports.random)
      this.#agreements.set(name, agreement)
    }
    return { ...agreement.psk(kind), slot, endsAt: slotStart(slotRule, slot + 1) * 1000 }
  }

  /**
   * The PSK for a server that reads a PSK file: the same until the key epoch ends, and weaker (who steals this device's key
   * can pose as the server to it). NO_AGREE_KEY, UNKNOWN_SERVER, WRONG_UNLOCKER.
   * @param server A static server's name in the group document.
   */
  async staticPsk(server: string): Promise<ExternalPsk> {
    const slot = slotAt(this.#group.slotRule, Math.floor((await this.#ports.time.now()) / 1000))
    if (staticParty(this.#group, server) === undefined) await this.#follow()
    const party = staticParty(this.#group, server)
    if (party === undefined) throw new ClientError('UNKNOWN_SERVER')
    return clientAgreeStatic(await this.#agreeKey(slot), party)
  }

  async #agreeKey(slot: number): Promise<AgreeClientKey> {
    const { agree } = (await this.#record()).device
    const epoch = this.#group.epochAt('agree', slot)
    if (agree === null || agree.epoch !== epoch) throw new ClientError('NO_AGREE_KEY')
    const { groupId, idCore } = this
    const owner = { groupId, idCore, purpose: 'agree' } as const
    return AgreeClientKey.of({ groupId, idCore, epoch }, await unlockKey(this.#ports.unlocker, owner, agree))
  }

  /**
   * Signs a message of any length for `context` so that anyone can check it without a network (api/signed-message.ts): with
   * the current slot's permit, which is fetched only if none is in hand; as fields beside it, or as a compact JWS. NO_SIGN_KEY
   * where the RA gave this device none.
   */
  signOffline(message: Uint8Array, context: string, form?: 'json'): Promise<SignedFields>
  signOffline(message: Uint8Array, context: string, form: SignedForm): Promise<SignedFields | string>
  async signOffline(
    message: Uint8Array,
    context: string,
    form: SignedForm = 'json',
  ): Promise<SignedFields | string> {
    if (context === SLOT_KEY_CONTEXT) throw new RangeError(`'${context}' is for slot keys alone`)
    const { groupId, idCore } = this
    const { unlocker, random } = this.#ports
    const permit = await this.permit()
    const { slot } = permit
    const { device } = await this.#record()
    if (device.sign === null) throw new ClientError('NO_SIGN_KEY')
    const signEpoch = this.#group.epochAt('sign', slot)
    if (signEpoch === null)
      throw new ClientError('WRONG_GROUP', 'the group has not begun yet by the device’s clock')
    // A rotation gives devices their `device` and `pin` keys anew; this one comes with the next generation.
    if (device.sign.epoch !== signEpoch) throw signingKeyEnded()
    const signKey = await unlockKey(unlocker, { groupId, idCore, purpose: 'sign' }, device.sign)
    const terms = { groupId, idCore, slot, context, signEpoch }
    return signedAs(form, message, terms, {
      permit: permit.permit,
      sign: (signed, bytes) => sign(signed, signKey, bytes, random),
    })
  }

  /** The name TLV that files for this device are encrypted to, at a slot or without one. */
  encryptionName(slot: number | undefined): Uint8Array {
    const ofSlot = slot === undefined ? {} : { slot }
    return encodeName(this.groupId, { kind: 1, idCore: this.idCore, ...ofSlot })
  }

  /**
   * M of an encapsulation to this device (crypto/ibe.ts); null for one that was made for another key, or changed. `epoch`
   * is the key epoch of purpose `encrypt` that it was made with. NO_ENCRYPT_KEY, EPOCH_ENDED, WRONG_UNLOCKER; DecodeError
   * for another shape. To the device at a slot: by that slot's key, which is fetched if it isn't here; SLOT_ENDED, SLOT_AHEAD,
   * and what prepareFiles() throws.
   */
  async decapsulate(encapsulation: Uint8Array, { epoch, slot }: EncryptedTo): Promise<Uint8Array | null> {
    if (slot !== undefined) return this.#decapsulateAt(slot, epoch, encapsulation)
    const { groupId, idCore } = this
    const { device } = await this.#record()
    if (device.encrypt === null) throw new ClientError('NO_ENCRYPT_KEY')
    const Ppub = this.#group.keysEver('encrypt', epoch)?.pub
    if (device.encrypt.epoch !== epoch || Ppub === undefined)
      throw new ClientError(
        'EPOCH_ENDED',
        `it is for key epoch ${epoch}, this device’s key is of ${device.encrypt.epoch}`,
      )
    const owner = { groupId, idCore, purpose: 'encrypt' } as const
    const key = await unlockKey(this.#ports.unlocker, owner, device.encrypt)
    return decapsulate({ name: this.encryptionName(undefined), Ppub }, key, encapsulation)
  }

  async #decapsulateAt(slot: number, epoch: number, encapsulation: Uint8Array): Promise<Uint8Array | null> {
    const current = await this.#slotNow()
    await this.#dropEnded(current)
    checkFileSlot(slot, { current, lead: this.#group.policy.lead })
    if (!(await this.#fileKeys.holds(slot))) await this.#fetchFileKey(slot, current)
    if (this.#group.epochAt('encrypt', slot) !== epoch)
      throw new ClientError('EPOCH_ENDED', `it is for key epoch ${epoch}, which is not the slot’s`)
    const found = await this.#fileKeys.keyOf(slot)
    const Ppub = found?.keys.pub
    if (found === null || Ppub === undefined) throw slotAhead(slot)
    return decapsulate({ name: this.encryptionName(slot), Ppub }, found.key, encapsulation)
  }

  async #fetchFileKey(slot: number, current: number): Promise<void> {
    const { epoch } = await this.#signingKey()
    // No newer revision brings an ended key epoch back, so nobody is asked.
    if (epoch < (this.#group.epochAt('sign', slot) ?? 0)) throw signingKeyEnded()
    await this.#follow()
    await (slot === current ? this.permit() : this.nextPermit())
    if (this.#permitOf(slot) === null) throw slotAhead(slot)
    await this.#fetchSlotKey(this.#fileKeys, { slot, current })
  }

  /**
   * A new PIN: a new key from the authorities, against a proof of the old PIN. The old PIN works until the first login
   * with the new one, and is gone then. Called again after a crash it goes on where it stopped, but wants the old PIN
   * again. A PIN that was changed and never used is changed again by its new one.
   */
  changePin({
    user,
    oldPin,
    newPin,
    ...waits
  }: { readonly user?: string; readonly oldPin: string; readonly newPin: string } & Omit<
    Patience,
    'onWords'
  >): Promise<void> {
    return this.#turns.take(turnOf(user), async () => {
      await this.#follow()
      const enrolled = await this.#enrolled()
      const known = userOf(enrolled.record, user ?? OWN_PIN)
      const [base] = tokensOf(known) as [TokenFile]
      const pin = await this.#join(base, oldPin)
      let message: LoginMessage | undefined
      await changePin(enrolled, { user: known, base, newPin, waits }, hpkeKey =>
        this.#freshly(async () => {
          const asked = message ?? (await this.#signedForRps(pinChangePayload(hpkeKey), pin))
          message = undefined
          // The nonce is used up by the first that arrives, so the same bytes again are no second attempt.
          const body = { message: fieldsOf(asked), hpkeKey: toBase64Url(hpkeKey) }
          const { rps, wait } = this.#ports
          const answer = await this.#decided(pin, () => repeatSafely(wait, () => rps.changePin({ body })))
          message = asked
          return answer
        }),
      )
    })
  }

  /** Looks for newer revisions of the group document; WRONG_GROUP when the RPS offers an older or another one. */
  async #follow(): Promise<void> {
    const group = await followGroup(this.#ports, this.#group)
    if (group.revision === this.#group.revision) return
    this.#group = group
    // Another process may have stored a newer one still.
    await this.#update(record => ({
      ...record,
      revisions: group.revision > record.revisions.length ? group.documents : record.revisions,
    }))
  }

  async #record(): Promise<DeviceRecord & { readonly device: DeviceIdentity }> {
    const record = await this.#records.read()
    const device = deviceOf(record)
    if (!device.idCore.equals(this.idCore)) throw new ClientError('STORE_CHANGED')
    return { ...(record as DeviceRecord), device }
  }

  #update(change: (record: DeviceRecord) => DeviceRecord): Promise<DeviceRecord> {
    return this.#records.update(record => {
      if (!deviceOf(record).idCore.equals(this.idCore)) throw new ClientError('STORE_CHANGED')
      return change(record as DeviceRecord)
    })
  }

  async #enrolled(): Promise<Enrolled> {
    return {
      ports: this.#ports,
      records: this.#records,
      record: await this.#record(),
      group: this.#group,
    }
  }

  /**
   * Runs `work` as the device alone, which may be repeated, or as a user in turn, which may not. Of a changed PIN the
   * new token is tried first; if the RPS says WRONG_PIN (or LOCKED) to it, the old one with the same PIN. The first
   * success of a new token drops the old one.
   */
  async #asWhom<T>(
    options: Pick<ProofOptions, 'user' | 'pin'>,
    work: (pin: PinInHand | undefined) => Promise<T>,
  ): Promise<T> {
    if (isAlone(options)) {
      await this.#tokens(options)
      return repeatSafely(this.#ports.wait, () => this.#freshly(() => work(undefined)))
    }
    return this.#turns.take(turnOf(options.user), async () => {
      const tokens = await this.#tokens(options)
      let refusal: Refused | undefined
      for (const token of tokens) {
        const pin = await this.#join(token, options.pin as string)
        try {
          const result = await this.#freshly(() => work(pin))
          if (tokens.length > 1 && token === tokens[0]) await this.#accepted(options.user, token)
          return result
        } catch (error) {
          if (!(error instanceof Refused) || (error.code !== 'WRONG_PIN' && error.code !== 'LOCKED'))
            throw error
          refusal ??= error
        }
      }
      throw refusal
    })
  }

  /** The tokens to try, newest first; none for the device alone. PIN_NEEDED, UNKNOWN_USER. */
  async #tokens(options: Pick<ProofOptions, 'user' | 'pin'>): Promise<readonly TokenFile[]> {
    if (isAlone(options)) {
      if (this.idCore.factors === 1) throw new ClientError('PIN_NEEDED')
      return []
    }
    if (options.pin === undefined) throw new ClientError('PIN_NEEDED')
    return tokensOf(userOf(await this.#record(), options.user ?? OWN_PIN))
  }

  /** The new PIN has logged in: from here on the RPS takes no other. */
  async #accepted(name: string | undefined, { pinGen }: TokenFile): Promise<void> {
    await this.#update(record => ({
      ...record,
      users: record.users.map(user =>
        user.name === (name ?? OWN_PIN) && user.next?.pinGen === pinGen
          ? { ...user, token: user.next, next: null }
          : user,
      ),
    }))
  }

  /** D_pin = τ + α·A_pin. */
  async #join(token: TokenFile, typed: string): Promise<PinInHand> {
    const { idCore, userCore, pinGen, iterations } = token
    return new PinInHand(token, await stretchPin(typed, { idCore, userCore, pinGen }, iterations))
  }

  /** Makes the attempt once more, with everything fresh, if it was refused before the PIN was looked at. */
  async #freshly<T>(attempt: () => Promise<T>): Promise<T> {
    try {
      return await attempt()
    } catch (error) {
      if (!(error instanceof Refused) || !BEFORE_THE_PIN.has(error.code)) throw error
      if (error.code === 'WRONG_PERMIT' || error.code === 'PERMIT_EXPIRED') {
        this.#permit = null
        this.#nextPermit = null
      }
      if (error.code === 'CLOCK') this.#ports.time.doubt()
      // A slot or a key epoch may have ended in between.
      if (error.code === 'EXPIRED') await this.#follow()
      return attempt()
    }
  }

  /** With a PIN in it a request without a usable answer is OUTCOME_UNKNOWN. */
  async #decided<T>(pin: PinInHand | undefined, send: () => Promise<T>): Promise<T> {
    try {
      return await send()
    } catch (error) {
      const unknown =
        error instanceof Unreachable ||
        error instanceof UnexpectedAnswer ||
        (error instanceof Refused && error.code === 'INTERNAL')
      if (pin === undefined || !unknown) throw error
      throw new ClientError('OUTCOME_UNKNOWN', undefined, { cause: error })
    }
  }

  async #login(
    options: Omit<RpsProofOptions, 'pin'> & { readonly authOtt?: boolean },
    pin: PinInHand | undefined,
  ): Promise<Login> {
    const terms = await this.#termsByNonce(MODE.nonce)
    const answer = await this.#proven(options, terms, pin, (rps, message) => {
      const body = { login: fieldsOf(message), ...(options.authOtt === true ? { authOtt: true } : {}) }
      return rps.login({ body })
    })
    const { authenticated } = answer
    const userCore = pin === undefined || pin.userCore.length === 0 ? undefined : toBase64Url(pin.userCore)
    if (
      authenticated.idCore !== this.mpinId ||
      authenticated.userCore !== userCore ||
      authenticated.audience !== options.audience ||
      authenticated.amr.includes('pin') !== (pin !== undefined)
    )
      throw new ClientError('WRONG_ANSWER', 'somebody else was logged in')
    await this.#keep(answer, terms.terms.slot)
    const { accessToken, expiresIn, authOtt } = answer
    return { accessToken, expiresIn, authenticated, authOtt }
  }

  /** Proves to the RPS, over a connection that the proof is bound to where there is one to be opened. */
  async #proven<T>(
    { audience, over }: Pick<RpsProofOptions, 'audience' | 'over'>,
    terms: Terms,
    pin: PinInHand | undefined,
    send: (rps: Ports['rps'], message: LoginMessage) => Promise<T>,
  ): Promise<T> {
    let connection = undefined as BoundConnection | undefined
    const exporter = async () => {
      connection = await over?.()
      return connection?.tlsExporter
    }
    try {
      const message = await this.#prove({ audience, exporter }, terms, pin)
      const rps = connection === undefined ? this.#ports.rps : this.#ports.rpsOver(connection)
      return await this.#decided(pin, () => send(rps, message))
    } finally {
      connection?.close()
    }
  }

  /** One request by the device's time; by a nonce where that time or its slot is refused. */
  async #sign(
    options: Omit<RpsProofOptions, 'pin'>,
    payload: Uint8Array,
    pin: PinInHand | undefined,
  ): Promise<string> {
    const send = async (terms: Terms) => {
      const { receipt } = await this.#proven(options, terms, pin, (rps, message) =>
        rps.sign({ body: { message: fieldsOf(message), payload: toBase64Url(payload) } }),
      )
      return this.#checkedReceipt(receipt, options.audience, payload)
    }
    try {
      return await send(await this.#termsOfNow(MODE.sign, payload))
    } catch (error) {
      if (!(error instanceof Refused) || (error.code !== 'CLOCK' && error.code !== 'EXPIRED')) throw error
      return send(await this.#termsByNonce(MODE.sign, payload))
    }
  }

  async #checkedReceipt(receipt: string, audience: string, payload: Uint8Array): Promise<string> {
    const { rpsAudience: issuer, rpsKeys } = this.#ports
    const { sub, aud, payloadHash } = await rpsKeys.verified(keys => verifyReceipt({ receipt, keys, issuer }))
    if (sub !== this.mpinId || aud !== audience || payloadHash !== toBase64Url(sha256(payload)))
      throw new ClientError('WRONG_ANSWER', 'the receipt is for something else')
    return receipt
  }

  async #vouch(payload: Uint8Array): Promise<LoginFields> {
    return fieldsOf(await this.#signedForRps(payload, undefined))
  }

  async #signedForRps(payload: Uint8Array, pin: PinInHand | undefined): Promise<LoginMessage> {
    return this.#prove(
      { audience: this.#ports.rpsAudience },
      await this.#termsByNonce(MODE.sign, payload),
      pin,
    )
  }

  #askForPermit(): Promise<VerifiedPermit> {
    const { wait } = this.#ports
    this.#fetching ??= repeatSafely(wait, () => this.#freshly(() => this.#fetchPermit())).finally(() => {
      this.#fetching = undefined
    })
    return this.#fetching
  }

  /** Out of the cache, verified and stored; null where there is none, and where what it has is refused. */
  async #cachedPermit(slot: number): Promise<VerifiedPermit | null> {
    const { permitCache, onCacheFault } = this.#ports
    if (permitCache === undefined) return null
    const { leavesNumber } = await this.#record()
    try {
      const wanted = { group: this.#group, slot, idCore: this.idCore, least: leavesNumber }
      const { permit, number } = await permitCache.permitOf(wanted)
      await this.#hold(permit, number)
      return permit
    } catch (error) {
      const isTheirs = [ClientError, Refused, Unreachable, UnexpectedAnswer].some(
        kind => error instanceof kind,
      )
      const isOurs = error instanceof ClientError && error.code !== 'WRONG_BUNDLE'
      if (!isTheirs || isOurs) throw error
      // Banned by the newest bundle, too: the RPS may know of an un-ban since.
      onCacheFault(error as Error)
      return null
    }
  }

  /** One attempt of `keepAhead`; true once the next slot's permit is here. */
  async #lookAhead(): Promise<boolean> {
    await this.#dropEnded(await this.#slotNow())
    await this.#follow()
    await this.#stepAhead()
    return (await this.nextPermit()) !== null
  }

  /** Slot keys that are over, of either kind, out of the store and out of memory. */
  async #dropEnded(current: number): Promise<void> {
    await this.#slotKeys.dropEnded(current)
    await this.#fileKeys.dropEnded(current)
    this.#peerKeys.forgetBefore(current)
  }

  async #slotNow(): Promise<number> {
    return slotAt(this.#group.slotRule, Math.floor((await this.#ports.time.now()) / 1000))
  }

  async #fetchPermit(): Promise<VerifiedPermit> {
    const { rps, rpsAudience: audience } = this.#ports
    const message = await this.#prove({ audience }, await this.#termsByNonce(MODE.nonce), undefined)
    return this.#keep(await rps.permit({ body: { login: fieldsOf(message) } }), message.slot)
  }

  /** A nonce and what the RPS says of slot and epochs, believed where the group document and the clock agree. */
  async #termsByNonce(mode: LoginTerms['mode'], payload?: Uint8Array): Promise<Terms> {
    const { rps, wait, time } = this.#ports
    const { nonce, slot, deviceEpoch, pinEpoch } = await repeatSafely(wait, () => rps.nonce({ body: {} }))
    const seconds = Math.floor((await time.now()) / 1000)
    const { slotRule } = this.#group
    // In the group's first minutes the tolerance reaches back before its first slot.
    const earliest = slotAt(slotRule, Math.max(slotRule.origin, seconds - CLOCK_TOLERANCE))
    if (slot < earliest || slot > (await this.#latestSlot()))
      throw new ClientError('WRONG_ANSWER', 'the RPS’ slot is not the one of the device’s clock')
    // After a slot or more of silence there may be revisions, whether or not the epochs show it.
    const wasSilent = this.#permit !== null && this.#permit.slot < slot - 1
    if (wasSilent || !this.#epochsAre(slot, deviceEpoch, pinEpoch)) await this.#follow()
    if (!this.#epochsAre(slot, deviceEpoch, pinEpoch))
      throw new ClientError('WRONG_ANSWER', 'the RPS’ key epochs are not those of the group document')
    const fresh = { nonce: fromBase64Url(nonce, 'nonce', 32) }
    return { terms: { mode, deviceEpoch, slot, ...fresh, ...hashOf(payload) }, pinEpoch }
  }

  /** The first slot of the latest key epoch that keys here are of. */
  #begunSlot({
    device,
    users,
  }: {
    readonly device: DeviceIdentity
    readonly users: readonly User[]
  }): number {
    const firstSlots = [
      this.#group.keysOf('device', device.keyEpoch)?.firstSlot,
      ...users.flatMap(tokensOf).map(token => this.#group.keysOf('pin', token.keyEpoch)?.firstSlot),
    ]
    return Math.max(0, ...firstSlots.filter(slot => slot !== undefined))
  }

  #epochsAre(slot: number, deviceEpoch: number, pinEpoch: number): boolean {
    const group = this.#group
    return group.epochAt('device', slot) === deviceEpoch && group.epochAt('pin', slot) === pinEpoch
  }

  async #termsOfNow(mode: LoginTerms['mode'], payload?: Uint8Array): Promise<Terms> {
    const clientTime = Math.floor((await this.#ports.time.now()) / 1000)
    // A key of a later epoch is stored once the RPS has said that its slots have begun, whatever the own clock says.
    const slot = Math.max(slotAt(this.#group.slotRule, clientTime), this.#begunSlot(await this.#record()))
    const deviceEpoch = this.#group.epochAt('device', slot)
    const pinEpoch = this.#group.epochAt('pin', slot)
    if (deviceEpoch === null || pinEpoch === null)
      throw new ClientError('WRONG_GROUP', 'the group has not begun yet by the device’s clock')
    return { terms: { mode, deviceEpoch, slot, clientTime, ...hashOf(payload) }, pinEpoch }
  }

  async #prove(
    {
      audience,
      exporter,
    }: { readonly audience: string; readonly exporter?: () => Promise<Uint8Array | undefined> },
    { terms, pinEpoch }: Terms,
    pin: PinInHand | undefined,
  ): Promise<LoginMessage> {
    const { idCore, groupId } = this
    const { unlocker, random } = this.#ports
    const { device } = await this.#recordOf({ deviceEpoch: terms.deviceEpoch, pinEpoch }, pin)
    const deviceKey = await unlockKey(unlocker, { groupId, idCore, purpose: 'device' }, device)
    const permit = this.#permitOf(terms.slot)?.permit
    // Last of all: a server soon closes a connection that nothing comes on, and keys may have to be fetched.
    const tlsExporter = await exporter?.()
    return clientProve({
      terms: { ...terms, audience, idCore },
      binding: { groupId, ...(tlsExporter === undefined ? {} : { tlsExporter }) },
      deviceKey,
      pin: pin && { terms: { userCore: pin.userCore, pinGen: pin.pinGen, pinEpoch }, pinKey: pin.pinKey },
      permit,
      random,
    })
  }

  /** The record, with the keys of these epochs in it: fetched now, if they are of earlier ones. */
  async #recordOf(
    epochs: { readonly deviceEpoch: number; readonly pinEpoch: number },
    pin: PinInHand | undefined,
  ): Promise<DeviceRecord & { readonly device: DeviceIdentity }> {
    const record = await this.#steppedRecord(epochs.deviceEpoch)
    if (pin !== undefined) followToken(record, pin)
    const isBehind =
      record.device.keyEpoch < epochs.deviceEpoch || (pin !== undefined && pin.keyEpoch < epochs.pinEpoch)
    const isAhead =
      record.device.keyEpoch > epochs.deviceEpoch || (pin !== undefined && pin.keyEpoch > epochs.pinEpoch)
    if (isAhead) throw new Refused('EXPIRED', { detail: 'the slot is of an earlier key epoch than the key' })
    if (!isBehind) return record
    await this.#rotate(record, epochs, pin)
    return this.#record()
  }

  /** The record; a step that was fetched ahead and ends in this key epoch is taken now, asking nobody. */
  async #steppedRecord(deviceEpoch: number): Promise<DeviceRecord & { readonly device: DeviceIdentity }> {
    const record = await this.#record()
    const { ahead, keyEpoch } = record.device
    if (ahead === null || ahead.from !== keyEpoch || ahead.to !== deviceEpoch) return record
    const owner = { groupId: this.groupId, idCore: this.idCore, purpose: 'device' } as const
    const former = await unlockKey(this.#ports.unlocker, owner, record.device)
    const deltas = { device: ahead.delta, pin: undefined }
    await this.#stepTo(former, { device: ahead, pin: undefined }, deltas, undefined)
    return this.#record()
  }

  /** Fetches the step to a key epoch of `device` that has been announced, and keeps it until its first slot. */
  async #stepAhead(): Promise<void> {
    const slot = await this.#slotNow()
    const { epoch: to, firstSlot } = this.#group.keys('device')
    const [deviceEpoch, pinEpoch] = [this.#group.epochAt('device', slot), this.#group.epochAt('pin', slot)]
    if (firstSlot <= slot || deviceEpoch === null || pinEpoch === null) return
    const { device } = await this.#recordOf({ deviceEpoch, pinEpoch }, undefined)
    const from = device.keyEpoch
    if (from >= to || (device.ahead?.from === from && device.ahead.to === to)) return
    const { groupId, idCore } = this
    const former = await unlockKey(this.#ports.unlocker, { groupId, idCore, purpose: 'device' }, device)
    const steps = { device: { from, to }, pin: undefined }
    const { device: delta } = await repeatSafely(this.#ports.wait, () =>
      this.#fetchDeltas(former, device, steps, undefined),
    )
    if (delta === undefined) return
    await this.#update(record => ({
      ...record,
      device: { ...deviceOf(record), ahead: { from, to, delta } },
    }))
  }

  /**
   * From the keys that are there to those of `epochs`, against proofs with the former. EPOCH_ENDED when they are of an
   * epoch that the group keeps no more. What is fetched is stored in one write, or not at all.
   */
  async #rotate(
    { device }: { readonly device: DeviceIdentity },
    { deviceEpoch, pinEpoch }: { readonly deviceEpoch: number; readonly pinEpoch: number },
    pin: PinInHand | undefined,
  ): Promise<void> {
    const { groupId, idCore } = this
    const step = (purpose: 'device' | 'pin', from: number, to: number): EpochStep | undefined => {
      if (from >= to) return undefined
      if (this.#group.keysOf(purpose, from) === null) throw new ClientError('EPOCH_ENDED')
      return { from, to }
    }
    const steps = {
      device: step('device', device.keyEpoch, deviceEpoch),
      pin: pin && step('pin', pin.keyEpoch, pinEpoch),
    }
    const former = await unlockKey(this.#ports.unlocker, { groupId, idCore, purpose: 'device' }, device)
    await this.#stepTo(former, steps, await this.#fetchDeltas(former, device, steps, pin), pin)
  }

  /** What the authorities add, against proofs with the former keys. */
  async #fetchDeltas(
    former: G1,
    device: DeviceIdentity,
    steps: Steps,
    pin: PinInHand | undefined,
  ): Promise<Deltas> {
    const { groupId, idCore } = this
    const { random, rps, rpsAudience: audience, wait } = this.#ports
    for (const pause of LOOKS) {
      if (pause > 0) await wait(pause)
      const send: DeltaRequest['send'] = async (payload, fields) => {
        const { terms } = await this.#termsByNonce(MODE.sign, payload)
        const message = clientProve({
          terms: { ...terms, deviceEpoch: device.keyEpoch, audience, idCore },
          binding: { groupId },
          deviceKey: former,
          pin: pin && {
            terms: { userCore: pin.userCore, pinGen: pin.pinGen, pinEpoch: pin.keyEpoch },
            pinKey: pin.pinKey,
          },
          random,
        })
        const body = { message: fieldsOf(message), ...fields }
        return this.#decided(pin, () => rps.rotateKey({ body }))
      }
      const identity = { idCore, account: pin }
      const deltas = await fetchDeltas({ group: this.#group, identity, steps, random, send })
      // Not even the former keys have gone: the RPS has the revision soon, and the same is asked again.
      if (deltas !== 'behind') return deltas
      await this.#follow()
    }
    throw new Refused('RETRY_LATER', {
      detail: 'the authorities are in a later share epoch than the RPS knows of',
    })
  }

  /** D' = D + Δ·A, τ' = τ + Δ·A_pin, in one write; what another process has brought further is left as it is. */
  async #stepTo(former: G1, steps: Steps, deltas: Deltas, pin: PinInHand | undefined): Promise<void> {
    const { groupId, idCore } = this
    const locked =
      deltas.device === undefined
        ? undefined
        : await lockKey(
            this.#ports.unlocker,
            { groupId, idCore, purpose: 'device' },
            former.add(deltas.device),
          )
    const stepped = (token: TokenFile): TokenFile =>
      deltas.pin !== undefined && pin?.isOf(token) === true && token.keyEpoch === steps.pin?.from
        ? { ...token, keyEpoch: steps.pin.to, token: token.token.add(deltas.pin) }
        : token
    const record = await this.#update(before => {
      const device = deviceOf(before)
      const isFormer = locked !== undefined && device.keyEpoch === steps.device?.from
      return {
        ...before,
        device: isFormer
          ? { ...device, ...locked, keyEpoch: steps.device?.to as number, ahead: null }
          : device,
        users: before.users.map(user => ({
          ...user,
          token: stepped(user.token),
          next: user.next && stepped(user.next),
        })),
      }
    })
    if (pin !== undefined) followToken(record, pin)
  }

  #permitOf(slot: number): VerifiedPermit | null {
    if (this.#permit?.slot === slot) return this.#permit
    return this.#nextPermit?.slot === slot ? this.#nextPermit : null
  }

  /**
   * Checks and stores a permit that came for `slot`, or for the next one where that has begun while the RPS was busy, and
   * the one of the slot after it, where it came along; WRONG_ANSWER for one that isn't this device's.
   */
  async #keep(
    answer: { readonly permit: string; readonly next?: string },
    slot: number,
  ): Promise<VerifiedPermit> {
    const known = (text: string) =>
      [this.#permit, this.#nextPermit].find(held => held !== null && textOf(held) === text) ?? null
    const check = async (text: string, isOfSlot: (permit: Permit) => Promise<boolean>) => {
      const permit = decodePermit(text)
      const verified = (await isOfSlot(permit)) ? (known(text) ?? this.#verified(permit)) : null
      if (verified === null) throw new ClientError('WRONG_ANSWER', 'the permit does not verify')
      return verified
    }
    const held = known(answer.permit)
    const isLatest = held?.slot === slot && held === this.#permit
    const permit = isLatest
      ? held
      : await check(
          answer.permit,
          async of => of.slot === slot || (of.slot === slot + 1 && of.slot <= (await this.#latestSlot())),
        )
    const next =
      answer.next === undefined ? null : await check(answer.next, async of => of.slot === permit.slot + 1)
    if (isLatest && (next === null || next === this.#nextPermit)) return permit
    this.#permit = permit
    if (next !== null) this.#nextPermit = next
    const nextPermit = this.#nextPermit?.permit ?? null
    await this.#update(record => ({ ...record, permit: permit.permit, nextPermit }))
    return permit
  }

  /** Keeps a permit for the current slot or the next, with the number of the state that it was made under. */
  async #hold(permit: VerifiedPermit, number: number): Promise<void> {
    const current = await this.#slotNow()
    const others = [this.#permit, this.#nextPermit].filter(held => held !== null && held.slot !== permit.slot)
    const [first, second] = [permit, ...others]
      .flatMap(held => (held === null || held.slot < current ? [] : [held]))
      .sort((one, other) => one.slot - other.slot)
    this.#permit = first ?? null
    this.#nextPermit = second ?? null
    await this.#update(record => ({
      ...record,
      permit: first?.permit ?? null,
      nextPermit: second?.permit ?? null,
      leavesNumber: Math.max(record.leavesNumber, number),
    }))
  }

  /** The slot that it may be by now, the RPS' clock being as far ahead as it may. */
  async #latestSlot(): Promise<number> {
    const seconds = Math.floor((await this.#ports.time.now()) / 1000)
    return slotAt(this.#group.slotRule, seconds + CLOCK_TOLERANCE)
  }

  #verified(permit: Permit): VerifiedPermit | null {
    const keys = this.#group.keysAt('permit', permit.slot)
    if (keys?.pub === undefined) return null
    const terms = { groupId: this.groupId, permitEpoch: keys.epoch, rule: this.#group.slotRule }
    const verified = VerifiedPermit.verify(terms, keys.pub, permit)
    return verified?.covers(this.idCore) === true ? verified : null
  }
}

const isAlone = ({ user, pin }: Pick<ProofOptions, 'user' | 'pin'>): boolean =>
  user === undefined && pin === undefined

/** Logins of one user take turns; enrolments have the empty turn, which no user can. */
const turnOf = (user: string | undefined): string => `user ${user ?? OWN_PIN}`

function userOnDevice(user: User): UserOnDevice {
  const [{ userCore, pinGen }] = tokensOf(user) as [TokenFile]
  return { name: user.name, attributes: user.attributes, userCore: toBase64Url(userCore), pinGen }
}

/** The stored token of the PIN in hand may be of a later key epoch by now. */
function followToken({ users }: DeviceRecord, pin: PinInHand): void {
  const stored = users.flatMap(tokensOf).find(token => pin.isOf(token))
  if (stored !== undefined) pin.follow(stored)
}

/** The name's place in `agree`, of a server that has slot keys. */
function agreeParty(group: Group, server: string) {
  const recipient = group.recipient(server)
  if (recipient?.kind !== 2 || !recipient.purposes.includes('agree')) return undefined
  const { name, generation } = recipient
  return { kind: 2, name, generation } as const
}

function staticParty(group: Group, server: string) {
  const recipient = group.recipient(server)
  if (recipient?.kind !== 3 || !recipient.purposes.includes('agree')) return undefined
  const { name, generation } = recipient
  return { kind: 3, name, generation } as const
}

function userOf({ users }: DeviceRecord, name: string): User {
  const user = users.find(known => known.name === name)
  if (user === undefined) throw new ClientError('UNKNOWN_USER')
  return user
}

function hashOf(payload: Uint8Array | undefined): { payloadHash?: Uint8Array } {
  return payload === undefined ? {} : { payloadHash: sha256(payload) }
}

function fieldsOf(message: LoginMessage): LoginFields {
  return { ...message.toJson(), suite: SUITE }
}

const textOf = ({ permit }: VerifiedPermit): string => toBase64Url(permit.encode())

function decodePermit(text: string): Permit {
  try {
    return Permit.decode(fromBase64Url(text, 'permit'))
  } catch (error) {
    if (!(error instanceof DecodeError)) throw error
    throw new ClientError('WRONG_ANSWER', 'the permit does not decode', { cause: error })
  }
}
