/**
 * What stands in a token store. Tokens have the form of encoding.md's token file, everything else is next to them:
 *
 *   {suite, v, identities: [{
 *     groupId, revisions                         the group document from the first revision to the newest seen
 *     device   {idCore, attributes, instance, key, unlocker?, keyHash, codeId?}      once enrolled
 *     users    [{name, attributes, token, next?, codeId?}]       next: a new PIN's token, until its first login
 *     pending  [{kind, secret, …}]               enrolments under way; secret: the private half of the enrolment key
 *     permit?                                    the newest time permit
 *   }]}
 *
 * This version keeps one identity; a store with more is of a later one. An enrolment key's secret and a key that came
 * of it never stand in one text: the write that stores one drops the other.
 */
import { GroupDocument } from '@milagro-ts/api/group-document'
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
import { fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { type Attributes, IdCore } from '@milagro-ts/crypto/identity'
import { decodeTokenFile, encodeTokenFile, type TokenFile } from '@milagro-ts/crypto/pin'
import { G1 } from '@milagro-ts/crypto/points'
import { SUITE } from '@milagro-ts/crypto/suite'
import { Permit } from '@milagro-ts/crypto/time-permit'
import Type, { type Static } from 'typebox'
import { Compile } from 'typebox/compile'
import { ClientError } from './errors.js'
import type { TokenStore } from './token-store.js'
import type { LockedKey } from './unlocker.js'

/** What a user's registration says beside the vouch, which is made anew. */
const { vouch: _vouch, ...userFields } = VouchedUserRegistration.properties
export const UserRegistration = Strict(userFields)
export type UserRegistration = Static<typeof UserRegistration>
export type DeviceRegistration = Static<typeof DeviceRegistrationFields>

export interface DeviceIdentity extends LockedKey {
  readonly idCore: IdCore
  readonly attributes: Attributes
  readonly instance: string
  /** base64url of the code's id, where it was enrolled by one: the same code again is the same enrolment. */
  readonly codeId: string | null
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

export interface DeviceRecord {
  readonly groupId: Uint8Array
  readonly revisions: readonly GroupDocument[]
  readonly device: DeviceIdentity | null
  readonly users: readonly User[]
  readonly pending: readonly Pending[]
  readonly permit: Permit | null
}

const TokenFileFields = Strict({
  suite: Type.Literal(SUITE),
  v: Type.Literal(1),
  groupId: GroupIdField,
  idCore: IdCoreField,
  userCore: BytesUpTo(32, 0),
  pinGen: Uint32,
  iterations: Uint32,
  token: Bytes(48),
})
const CodeId = Type.Optional(Bytes(16))
const UserName = Type.String({ maxLength: 256 })
const Secret = { secret: Bytes(32) }
const StoredIdentity = Strict({
  groupId: GroupIdField,
  revisions: Type.Array(GroupDocument, { minItems: 1 }),
  device: Type.Optional(
    Strict({
      idCore: IdCoreField,
      attributes: AttributesField,
      instance: Type.String(),
      key: Bytes(48),
      unlocker: Type.Optional(Type.String({ minLength: 1, maxLength: 64 })),
      keyHash: Bytes(32),
      codeId: CodeId,
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
})
const StoredText = Strict({
  suite: Type.Literal(SUITE),
  v: Type.Literal(1),
  identities: Type.Array(StoredIdentity, { minItems: 1, maxItems: 1 }),
})
const texts = Compile(StoredText)

export function encodeRecord(record: DeviceRecord): string {
  const { device } = record
  const codeId = (id: string | null) => (id === null ? {} : { codeId: id })
  const identity: Static<typeof StoredIdentity> = {
    groupId: toBase64Url(record.groupId),
    revisions: [...record.revisions],
    ...(device === null
      ? {}
      : {
          device: {
            idCore: device.idCore.mpinId,
            attributes: { ...device.attributes },
            instance: device.instance,
            key: toBase64Url(device.key.encode()),
            ...(device.unlocker === null ? {} : { unlocker: device.unlocker }),
            keyHash: toBase64Url(device.keyHash),
            ...codeId(device.codeId),
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
  }
  return JSON.stringify({ suite: SUITE, v: 1, identities: [identity] } satisfies Static<typeof StoredText>)
}

function tokenJson(token: TokenFile): Static<typeof TokenFileFields> {
  return { ...encodeTokenFile(token), suite: SUITE, v: 1 }
}

/** STORE_DAMAGED for anything but a text of this version; the message says nothing of what stands in it. */
export function decodeRecord(text: string): DeviceRecord {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    // The parser's message quotes the text, which is secret.
    throw new ClientError('STORE_DAMAGED', 'the token store is not JSON')
  }
  if (!texts.Check(value)) throw new ClientError('STORE_DAMAGED')
  const [identity] = value.identities as [Static<typeof StoredIdentity>]
  try {
    return decodeIdentity(identity)
  } catch (error) {
    if (!(error instanceof DecodeError)) throw error
    throw new ClientError('STORE_DAMAGED', `the token store is damaged at ${error.field}`, { cause: error })
  }
}

function decodeIdentity(stored: Static<typeof StoredIdentity>): DeviceRecord {
  const { device, permit } = stored
  return {
    groupId: fromBase64Url(stored.groupId, 'groupId', 32),
    revisions: stored.revisions,
    device:
      device === undefined
        ? null
        : {
            idCore: IdCore.fromBase64Url(device.idCore),
            attributes: device.attributes,
            instance: device.instance,
            key: G1.decode(fromBase64Url(device.key, 'device.key', 48), 'device.key'),
            unlocker: device.unlocker ?? null,
            keyHash: fromBase64Url(device.keyHash, 'device.keyHash', 32),
            codeId: device.codeId ?? null,
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
  }
}

/** Times that a change is made again because another one came in between. */
const ATTEMPTS = 32

/** A token store that holds records. */
export class Records {
  readonly #store: TokenStore
  /** The last text decoded: points are expensive to decode. */
  #last: { readonly text: string; readonly record: DeviceRecord } | undefined

  constructor(store: TokenStore) {
    this.#store = store
  }

  async read(): Promise<DeviceRecord | null> {
    return this.#decode(await this.#store.read())
  }

  /** `change` is made on the newest record, again if another writer was faster; what it throws ends the update. */
  async update(change: (record: DeviceRecord | null) => DeviceRecord): Promise<DeviceRecord> {
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const former = await this.#store.read()
      const record = change(this.#decode(former))
      const text = encodeRecord(record)
      if (text === former) return record
      if (await this.#store.replace(former, text)) {
        this.#last = { text, record }
        return record
      }
    }
    throw new ClientError('STORE_CHANGED')
  }

  #decode(text: string | null): DeviceRecord | null {
    if (text === null) return null
    if (this.#last?.text !== text) this.#last = { text, record: decodeRecord(text) }
    return this.#last.record
  }
}
