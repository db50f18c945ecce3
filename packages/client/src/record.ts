/**
 * What stands in a token store. Tokens have the form of encoding.md's token file, everything else is next to them:
 *
 *   {suite, v, identities: [{
 *     groupId, instance                          of which there is one each: this pair is what an identity goes by
 *     revisions                                  the group document from the first revision to the newest seen
 *     device   {idCore, attributes, key, unlocker?, keyHash, codeId?, keyEpoch?, agree?, sign?, encrypt?, ahead?,
 *                                                slotKeys?, fileKeys?}    once enrolled; agree, sign, encrypt: further keys {key, unlocker?, keyHash, epoch};
 *                                                ahead: Δ·A of a key epoch that begins later {from, to, delta};
 *                                                slotKeys, fileKeys: keys of agree and of encrypt for a slot {key,
 *                                                unlocker?, keyHash, slot, epoch}
 *     users    [{name, attributes, token, next?, codeId?}]       next: a new PIN's token, until its first login
 *     pending  [{kind, secret, …}]               enrolments under way; secret: the private half of the enrolment key
 *     permit?, nextPermit?                       the newest time permits
 *     leavesNumber?                              the highest state of the banned leaves that a bundle was of
 *   }]}
 *
 * Several devices, of one group or of several, may share a store; a next generation takes its former one's place, and
 * an identity of which neither a key nor an enrolment is left goes. All of them stand in one text, so a writer of one
 * never loses what another wrote of the others. An enrolment key's secret and a key that came of it never stand in one
 * text: the write that stores one drops the other.
 */
import { FIRST_EPOCH } from '@milagro-ts/api/founding'
import { GroupDocument } from '@milagro-ts/api/group-document'
import { type EpochStep, EpochStepField } from '@milagro-ts/api/key-rotation'
import { DeviceRegistration as DeviceRegistrationFields } from '@milagro-ts/api/rpa-routes'
import { VouchedUserRegistration } from '@milagro-ts/api/rps-routes'
import {
  AttributesField,
  Bytes,
  BytesUpTo,
  GroupIdField,
  IdCoreField,
  Strict,
  Uint32,
} from '@milagro-ts/api/schemas'
import Type, { Compile, type Static } from '@milagro-ts/api/typebox'
import { fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { type Attributes, IdCore } from '@milagro-ts/crypto/identity'
import { decodeTokenFile, encodeTokenFile, type TokenFile } from '@milagro-ts/crypto/pin'
import { G1, G2 } from '@milagro-ts/crypto/points'
import { SUITE } from '@milagro-ts/crypto/suite'
import { Permit } from '@milagro-ts/crypto/time-permit'
import { ClientError } from './errors.js'
import type { TokenStore } from './token-store.js'
import type { LockedKey } from './unlocker.js'

/** What a user's registration says beside the vouch, which is made anew. */
const { vouch: _vouch, ...userFields } = VouchedUserRegistration.properties
export const UserRegistration = Strict(userFields)
export type UserRegistration = Static<typeof UserRegistration>
export type DeviceRegistration = Static<typeof DeviceRegistrationFields>

/** A key beside D_dev, with the key epoch of its purpose that it is of. */
export interface FurtherKey extends LockedKey {
  readonly epoch: number
}

/** Δ·A from one key epoch of `device` to a later one. No secret without the key that it is added to. */
export interface KeyStep extends EpochStep {
  readonly delta: G1
}

/** The device's own key for one slot: of `agree` in G2, of `encrypt` in G1. */
export interface StoredSlotKey<P = G2> extends LockedKey<P> {
  readonly slot: number
  readonly epoch: number
}

export interface DeviceIdentity extends LockedKey {
  readonly idCore: IdCore
  readonly attributes: Attributes
  /** base64url of the code's id, where it was enrolled by one: the same code again is the same enrolment. */
  readonly codeId: string | null
  /** Key epoch of purpose `device` that the key is of. */
  readonly keyEpoch: number
  /** The key of `agree`; null where the ticket was for none. */
  readonly agree: FurtherKey | null
  /** D_sign, what signs without a network; null where the ticket was for none. */
  readonly sign: FurtherKey | null
  /** s·He(C), what opens files that are for this device; null where the ticket was for none. */
  readonly encrypt: FurtherKey | null
  /** To a key epoch that had not begun when it was fetched; null where there is none. */
  readonly ahead: KeyStep | null
  /** Ascending by slot: what this device answers others by. */
  readonly slotKeys: readonly StoredSlotKey[]
  /** Ascending by slot: what opens files for this device at that slot. */
  readonly fileKeys: readonly StoredSlotKey<G1>[]
}

export interface User {
  /** What this device calls the user; OWN_PIN for the device's own PIN. */
  readonly name: string
  readonly attributes: Attributes
  readonly token: TokenFile
  /** A new PIN's token, until its first login; then it is `token`. */
  readonly next: TokenFile | null
  readonly codeId: string | null
}
export const OWN_PIN = ''

/** An enrolment under way; `secret` is the private half of its HPKE key. */
export type Pending =
  | { readonly kind: 'device'; readonly secret: Uint8Array; readonly request: DeviceRegistration }
  | {
      readonly kind: 'user'
      readonly secret: Uint8Array
      readonly name: string
      readonly request: UserRegistration
    }
  | {
      readonly kind: 'pin'
      readonly secret: Uint8Array
      readonly name: string
      /** Of the PIN that is being changed. */
      readonly pinGen: number
    }

/** Which of the identities of a store. */
export interface IdentityKey {
  readonly groupId: Uint8Array
  /** Instance or VIN. */
  readonly instance: string
}

export interface DeviceRecord extends IdentityKey {
  readonly revisions: readonly GroupDocument[]
  readonly device: DeviceIdentity | null
  readonly users: readonly User[]
  readonly pending: readonly Pending[]
  readonly permit: Permit | null
  /** Of the slot after it: it counts from the begin of that slot. */
  readonly nextPermit: Permit | null
  /** The highest number of a state of the banned leaves that a bundle was of; 0 before the first. */
  readonly leavesNumber: number
}

const TokenFileFields = Strict({
  suite: Type.Literal(SUITE),
  v: Type.Literal(1),
  groupId: GroupIdField,
  idCore: IdCoreField,
  userCore: BytesUpTo(32, 0),
  pinGen: Uint32,
  iterations: Uint32,
  keyEpoch: Type.Optional(Uint32),
  token: Bytes(48),
})
const CodeId = Type.Optional(Bytes(16))
const UserName = Type.String({ maxLength: 256 })
const Secret = { secret: Bytes(32) }
const Lock = {
  unlocker: Type.Optional(Type.String({ minLength: 1, maxLength: 64 })),
  keyHash: Bytes(32),
}
const StoredKey = { key: Bytes(48), ...Lock }
/** More slots than a device prepares for. */
const MOST_SLOT_KEYS = 16
const SlotKeysField = (length: 48 | 96) =>
  Type.Optional(
    Type.Array(Strict({ slot: Uint32, epoch: Uint32, key: Bytes(length), ...Lock }), {
      minItems: 1,
      maxItems: MOST_SLOT_KEYS,
    }),
  )
const StoredIdentity = Strict({
  groupId: GroupIdField,
  instance: Type.String({ minLength: 1, maxLength: 128 }),
  revisions: Type.Array(GroupDocument, { minItems: 1 }),
  device: Type.Optional(
    Strict({
      idCore: IdCoreField,
      attributes: AttributesField,
      ...StoredKey,
      codeId: CodeId,
      /** Absent for the first. */
      keyEpoch: Type.Optional(Type.Integer({ minimum: FIRST_EPOCH + 1, maximum: 0xffff_ffff })),
      agree: Type.Optional(Strict({ ...StoredKey, epoch: Uint32 })),
      sign: Type.Optional(Strict({ ...StoredKey, epoch: Uint32 })),
      encrypt: Type.Optional(Strict({ ...StoredKey, epoch: Uint32 })),
      ahead: Type.Optional(Strict({ ...EpochStepField.properties, delta: Bytes(48) })),
      slotKeys: SlotKeysField(96),
      fileKeys: SlotKeysField(48),
    }),
  ),
  users: Type.Array(
    Strict({
      name: UserName,
      attributes: AttributesField,
      token: TokenFileFields,
      next: Type.Optional(TokenFileFields),
      codeId: CodeId,
    }),
  ),
  pending: Type.Array(
    Type.Union([
      Strict({ kind: Type.Literal('device'), ...Secret, request: DeviceRegistrationFields }),
      Strict({ kind: Type.Literal('user'), ...Secret, name: UserName, request: UserRegistration }),
      Strict({ kind: Type.Literal('pin'), ...Secret, name: UserName, pinGen: Uint32 }),
    ]),
  ),
  permit: Type.Optional(BytesUpTo(160)),
  nextPermit: Type.Optional(BytesUpTo(160)),
  leavesNumber: Type.Optional(Uint32),
})
type StoredIdentity = Static<typeof StoredIdentity>
/** More is not a device's store but somebody's database. */
const MOST_IDENTITIES = 64
const StoredText = Strict({
  suite: Type.Literal(SUITE),
  v: Type.Literal(1),
  identities: Type.Array(StoredIdentity, { maxItems: MOST_IDENTITIES }),
})
const texts = Compile(StoredText)

export function encodeRecords(records: readonly DeviceRecord[]): string {
  return encodeText(records.map(encodeIdentity))
}

/** STORE_DAMAGED for anything but a text of this version; the message says nothing of what stands in it. */
export function decodeRecords(text: string): DeviceRecord[] {
  return decodeText(text).map(decodeIdentity)
}

function encodeText(identities: readonly StoredIdentity[]): string {
  return JSON.stringify({ suite: SUITE, v: 1, identities: [...identities] } satisfies Static<
    typeof StoredText
  >)
}

function decodeText(text: string): readonly StoredIdentity[] {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    // The parser's message quotes the text, which is secret.
    throw new ClientError('STORE_DAMAGED', 'the token store is not JSON')
  }
  if (!texts.Check(value)) throw new ClientError('STORE_DAMAGED')
  const keys = value.identities.map(({ groupId, instance }) => `${groupId} ${instance}`)
  if (new Set(keys).size < keys.length)
    throw new ClientError('STORE_DAMAGED', 'the token store holds one identity twice')
  return value.identities
}

function encodeIdentity(record: DeviceRecord): StoredIdentity {
  const { device } = record
  const codeId = (id: string | null) => (id === null ? {} : { codeId: id })
  return {
    groupId: toBase64Url(record.groupId),
    instance: record.instance,
    revisions: [...record.revisions],
    ...(device === null
      ? {}
      : {
          device: {
            idCore: device.idCore.mpinId,
            attributes: { ...device.attributes },
            ...keyJson(device),
            ...codeId(device.codeId),
            ...(device.keyEpoch === FIRST_EPOCH ? {} : { keyEpoch: device.keyEpoch }),
            ...(device.agree === null ? {} : { agree: furtherJson(device.agree) }),
            ...(device.sign === null ? {} : { sign: furtherJson(device.sign) }),
            ...(device.encrypt === null ? {} : { encrypt: furtherJson(device.encrypt) }),
            ...(device.ahead === null
              ? {}
              : { ahead: { ...device.ahead, delta: toBase64Url(device.ahead.delta.encode()) } }),
            ...(device.slotKeys.length === 0 ? {} : { slotKeys: device.slotKeys.map(slotKeyJson) }),
            ...(device.fileKeys.length === 0 ? {} : { fileKeys: device.fileKeys.map(slotKeyJson) }),
          },
        }),
    users: record.users.map(user => ({
      name: user.name,
      attributes: { ...user.attributes },
      token: tokenJson(user.token),
      ...(user.next === null ? {} : { next: tokenJson(user.next) }),
      ...codeId(user.codeId),
    })),
    pending: record.pending.map(pending => ({ ...pending, secret: toBase64Url(pending.secret) })),
    ...(record.permit === null ? {} : { permit: toBase64Url(record.permit.encode()) }),
    ...(record.nextPermit === null ? {} : { nextPermit: toBase64Url(record.nextPermit.encode()) }),
    ...(record.leavesNumber === 0 ? {} : { leavesNumber: record.leavesNumber }),
  }
}

const keyJson = ({ key, unlocker, keyHash }: LockedKey<G1 | G2>) => ({
  key: toBase64Url(key.encode()),
  ...(unlocker === null ? {} : { unlocker }),
  keyHash: toBase64Url(keyHash),
})
const slotKeyJson = (slotKey: StoredSlotKey<G1 | G2>) => ({
  slot: slotKey.slot,
  epoch: slotKey.epoch,
  ...keyJson(slotKey),
})
const furtherJson = (further: FurtherKey) => ({ ...keyJson(further), epoch: further.epoch })

function tokenJson(token: TokenFile): Static<typeof TokenFileFields> {
  return { ...encodeTokenFile(token), suite: SUITE, v: 1 }
}

function decodeIdentity(stored: StoredIdentity): DeviceRecord {
  try {
    return decodeFields(stored)
  } catch (error) {
    if (!(error instanceof DecodeError)) throw error
    throw new ClientError('STORE_DAMAGED', `the token store is damaged at ${error.field}`, { cause: error })
  }
}

function decodeFields(stored: StoredIdentity): DeviceRecord {
  const { device, permit, nextPermit } = stored
  return {
    groupId: fromBase64Url(stored.groupId, 'groupId', 32),
    instance: stored.instance,
    revisions: stored.revisions,
    device:
      device === undefined
        ? null
        : {
            idCore: IdCore.fromBase64Url(device.idCore),
            attributes: device.attributes,
            ...decodeKey(device, 'device'),
            codeId: device.codeId ?? null,
            keyEpoch: device.keyEpoch ?? FIRST_EPOCH,
            agree: decodeFurther(device.agree, 'device.agree'),
            sign: decodeFurther(device.sign, 'device.sign'),
            encrypt: decodeFurther(device.encrypt, 'device.encrypt'),
            ahead: decodeStep(device.ahead),
            slotKeys: (device.slotKeys ?? []).map(decodeSlotKey),
            fileKeys: (device.fileKeys ?? []).map(stored => ({
              slot: stored.slot,
              epoch: stored.epoch,
              ...decodeKey(stored, 'device.fileKeys'),
            })),
          },
    users: stored.users.map(({ name, attributes, token, next, codeId }) => ({
      name,
      attributes,
      token: decodeTokenFile(token),
      next: next === undefined ? null : decodeTokenFile(next),
      codeId: codeId ?? null,
    })),
    pending: stored.pending.map(pending => ({
      ...pending,
      secret: fromBase64Url(pending.secret, 'pending.secret', 32),
    })),
    permit: permit === undefined ? null : Permit.decode(fromBase64Url(permit, 'permit')),
    nextPermit: nextPermit === undefined ? null : Permit.decode(fromBase64Url(nextPermit, 'nextPermit')),
    leavesNumber: stored.leavesNumber ?? 0,
  }
}

function decodeKey(
  { key, unlocker, keyHash }: { key: string; unlocker?: string; keyHash: string },
  field: string,
): LockedKey {
  return {
    key: G1.decode(fromBase64Url(key, `${field}.key`, 48), `${field}.key`),
    unlocker: unlocker ?? null,
    keyHash: fromBase64Url(keyHash, `${field}.keyHash`, 32),
  }
}

function decodeSlotKey({
  slot,
  epoch,
  key,
  unlocker,
  keyHash,
}: {
  slot: number
  epoch: number
  key: string
  unlocker?: string
  keyHash: string
}): StoredSlotKey {
  const field = 'device.slotKeys'
  return {
    slot,
    epoch,
    key: G2.decode(fromBase64Url(key, `${field}.key`, 96), `${field}.key`),
    unlocker: unlocker ?? null,
    keyHash: fromBase64Url(keyHash, `${field}.keyHash`, 32),
  }
}

function decodeFurther(
  stored: (Parameters<typeof decodeKey>[0] & { epoch: number }) | undefined,
  field: string,
): FurtherKey | null {
  return stored === undefined ? null : { ...decodeKey(stored, field), epoch: stored.epoch }
}

function decodeStep(
  stored: { readonly from: number; readonly to: number; readonly delta: string } | undefined,
): KeyStep | null {
  if (stored === undefined) return null
  const { from, to, delta } = stored
  return { from, to, delta: G1.decode(fromBase64Url(delta, 'device.ahead', 48), 'device.ahead') }
}

/** Times that a change is made again because another one came in between. */
const ATTEMPTS = 32

/** One identity in a token store that may hold others. */
export class Records {
  readonly #store: TokenStore
  readonly #key: IdentityKey
  /** The last record decoded, and of which text: points are expensive to decode. */
  #last: { readonly stored: string; readonly record: DeviceRecord } | undefined

  constructor(store: TokenStore, key: IdentityKey) {
    this.#store = store
    this.#key = key
  }

  /**
   * The enrolled identity that `identity` names, by M-Pin ID or instance; unnamed, the only one. NOT_ENROLLED: none of
   * that name, or none at all. WHICH_IDENTITY: several.
   */
  static async select(store: TokenStore, identity: string | undefined): Promise<Records> {
    const text = await store.read()
    const enrolled = (text === null ? [] : decodeText(text)).filter(({ device }) => device !== undefined)
    const named =
      identity === undefined
        ? enrolled
        : enrolled.filter(({ instance, device }) => identity === device?.idCore || identity === instance)
    const [one, ...more] = named
    if (one === undefined)
      throw new ClientError(
        'NOT_ENROLLED',
        enrolled.length === 0 ? undefined : 'the token store holds other identities, not this one',
      )
    if (more.length > 0) throw new ClientError('WHICH_IDENTITY')
    const { groupId, instance } = one
    return new Records(store, { groupId: fromBase64Url(groupId, 'groupId', 32), instance })
  }

  async read(): Promise<DeviceRecord | null> {
    const text = await this.#store.read()
    return this.#own(text === null ? [] : decodeText(text))
  }

  /** `change` is made on the newest record, again if another writer was faster; what it throws ends the update. */
  async update(change: (record: DeviceRecord | null) => DeviceRecord): Promise<DeviceRecord> {
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const former = await this.#store.read()
      const identities = former === null ? [] : decodeText(former)
      const record = change(this.#own(identities))
      const own = encodeIdentity(record)
      const at = identities.findIndex(identity => this.#isOwn(identity))
      const isLeft = record.device !== null || record.pending.length > 0
      const text = encodeText([
        ...identities.slice(0, at < 0 ? identities.length : at),
        ...(isLeft ? [own] : []),
        ...(at < 0 ? [] : identities.slice(at + 1)),
      ])
      if (text === former) return record
      if (at < 0 && identities.length >= MOST_IDENTITIES)
        throw new ClientError('STORE_UNAVAILABLE', `the token store holds ${MOST_IDENTITIES} identities`)
      if (await this.#store.replace(former, text)) {
        this.#last = { stored: JSON.stringify(own), record }
        return record
      }
    }
    throw new ClientError('STORE_CHANGED')
  }

  #isOwn({ groupId, instance }: StoredIdentity): boolean {
    return instance === this.#key.instance && groupId === toBase64Url(this.#key.groupId)
  }

  #own(identities: readonly StoredIdentity[]): DeviceRecord | null {
    const own = identities.find(identity => this.#isOwn(identity))
    if (own === undefined) return null
    const stored = JSON.stringify(own)
    if (this.#last?.stored !== stored) this.#last = { stored, record: decodeIdentity(own) }
    return this.#last.record
  }
}
