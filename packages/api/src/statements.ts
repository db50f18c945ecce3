/**
 * Everything that is said in a signed statement (compact JWS, ES256, one `typ` each), who may say it, and for how long
 * it holds. `sign…` makes one; `verify…` is the only way to what it says.
 *
 *   typ                    signed by             says
 *   mpin-ticket+jwt        m of the RA's keys    these keys may be issued, sealed to this enrolment key
 *   mpin-permit+jwt        an RA key             this identity is not banned, for one slot, ≤ 60 s
 *   mpin-state+jwt         an RA key             everything banned and revoked, numbered
 *   mpin-leaves+jwt        an RA key             the same as leaves of the permit tree, numbered alike
 *   mpin-tree+jwt          an RA key             which leaves are the newest, for one slot, ≤ 60 s
 *   mpin-cosignature+jwt   an authority          it has taken these leaves, and nothing else under their number
 *   mpin-bundle+jwt        a recipient           these are the permits of one slot's whole cover
 *   mpin-event+jwt         an RA key             one ban, un-ban, revocation, unlock, change of account, numbered
 *   mpin-revision+jwt      an RA key             the RA agrees to a next revision of the group document
 *   at+jwt                 a token key           access token (RFC 9068), ≤ 5 minutes
 *   mpin-receipt+jwt       a token key           a signed message was verified
 *   mpin-time+jwt          a token key           the time, over the caller's nonce
 *
 * Refusals: a signature, key or group that isn't right is NOT_APPROVED (UNAUTHENTICATED for tokens), a wrong shape
 * MALFORMED (DecodeError), a wrong time, epoch or slot EXPIRED. `now` is unix milliseconds, as the clock gives it;
 * times inside statements are unix seconds.
 */
import { equalBytes, fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import { enrolmentKeyHash } from '@milagro-ts/crypto/enrolment'
import { DecodeError } from '@milagro-ts/crypto/errors'
import {
  encodeName,
  IdCore,
  type KeyIdentity,
  keyIdentityInput,
  keyIdentityPoint,
  NO_USER,
} from '@milagro-ts/crypto/identity'
import { BannedLeaves } from '@milagro-ts/crypto/permit-tree'
import type { G1 } from '@milagro-ts/crypto/points'
import { sha256 } from '@milagro-ts/crypto/sha256'
import { shareContext } from '@milagro-ts/crypto/share-proof'
import { type Purpose, SUITE } from '@milagro-ts/crypto/suite'
import { slotAt, slotStart } from '@milagro-ts/crypto/time-permit'
import { canonicalHash } from './canonical-json.js'
import { documentHash, type Group, type PurposeKeys } from './group.js'
import type { GroupDocument } from './group-document.js'
import { signJws, type VerificationKeys, type VerifiedJws, verifyJws } from './jws.js'
import { decodeHpkeKey, type Es256PrivateKey } from './keys.js'
import { Refused } from './problem.js'
import { RevokedLeaves } from './revoked-leaves.js'
import {
  Bytes,
  BytesUpTo,
  GroupIdField,
  IdCoreField,
  Strict,
  Uint32,
  UnixSeconds,
  UserCoreField,
} from './schemas.js'
import Type, { Compile, type Static, type TSchema, type Validator } from './typebox.js'

/** Seconds that a signer's clock may run ahead of ours. */
const SKEW = 60
/** Longest life in seconds of a permit statement and of an access token. */
export const PERMIT_STATEMENT_LIFETIME = 60
export const ACCESS_TOKEN_LIFETIME = 300

const Suite = Type.Literal(SUITE)
const Jti = Bytes(16)
const Amr = Type.Array(Type.Enum(['device', 'pin']), { minItems: 1, maxItems: 2 })
const Leaf = Uint32

export const TicketPayload = Strict({
  suite: Suite,
  groupId: GroupIdField,
  /** The key epoch of each of `purposes`, no other. */
  keyEpochs: Strict({
    device: Type.Optional(Uint32),
    pin: Type.Optional(Uint32),
    agree: Type.Optional(Uint32),
    sign: Type.Optional(Uint32),
    encrypt: Type.Optional(Uint32),
  }),
  idCore: IdCoreField,
  userCore: Type.Optional(UserCoreField),
  pinGen: Type.Optional(Uint32),
  purposes: Type.Array(Type.Enum(['device', 'pin', 'agree', 'sign', 'encrypt']), {
    minItems: 1,
    maxItems: 5,
  }),
  hpkeKey: Bytes(32),
  hpkeKeyHash: Bytes(32),
  iat: UnixSeconds,
  exp: UnixSeconds,
  jti: Jti,
})
export type TicketPayload = Static<typeof TicketPayload>
/** What a ticket can be for: `permit` is never a client's key. */
export type TicketPurpose = TicketPayload['purposes'][number]

export const PermitStatementPayload = Strict({
  suite: Suite,
  groupId: GroupIdField,
  /** Of `permit`, at the slot. */
  keyEpoch: Uint32,
  idCore: IdCoreField,
  userCore: Type.Optional(UserCoreField),
  pinGen: Type.Optional(Uint32),
  slot: Uint32,
  banned: Type.Literal(false),
  iat: UnixSeconds,
  exp: UnixSeconds,
  jti: Jti,
})
export type PermitStatementPayload = Static<typeof PermitStatementPayload>

export const StatePayload = Strict({
  suite: Suite,
  groupId: GroupIdField,
  number: Uint32,
  iat: UnixSeconds,
  /** With a userCore: that user on that device only. */
  banned: Type.Array(Strict({ idCore: IdCoreField, userCore: Type.Optional(UserCoreField) })),
  revoked: Type.Array(Strict({ idCore: IdCoreField, leaf: Leaf })),
})
export type StatePayload = Static<typeof StatePayload>

/** Most bytes of leaves in one statement: a million that are banned, half a million that are revoked. */
const LEAVES = 4_000_000
/** Characters of a `mpin-leaves+jwt`. */
export const LEAVES_JWS = 8_388_608

/** Nothing of it depends on when it was signed: one number has one payload, hence one hash. */
export const LeavesPayload = Strict({
  suite: Suite,
  groupId: GroupIdField,
  /** Of the newest event. */
  number: Uint32,
  /** be32 each, ascending: what is banned as a device. Absent: none. */
  leaves: Type.Optional(BytesUpTo(LEAVES)),
  /** What is revoked (revoked-leaves.ts): none of it is in `leaves`. Absent: none, or the RA has put it into `leaves`. */
  revoked: Type.Optional(BytesUpTo(LEAVES)),
})
export type LeavesPayload = Static<typeof LeavesPayload>

export const TreePayload = Strict({
  suite: Suite,
  groupId: GroupIdField,
  /** Of `permit`, at the slot. */
  keyEpoch: Uint32,
  slot: Uint32,
  number: Uint32,
  /** SHA-256 of the payload of the mpin-leaves+jwt with this number. */
  leavesHash: Bytes(32),
  iat: UnixSeconds,
  exp: UnixSeconds,
  jti: Jti,
})
export type TreePayload = Static<typeof TreePayload>

export const CosignaturePayload = Strict({
  suite: Suite,
  groupId: GroupIdField,
  number: Uint32,
  leavesHash: Bytes(32),
})
export type CosignaturePayload = Static<typeof CosignaturePayload>

export const BundlePayload = Strict({
  suite: Suite,
  groupId: GroupIdField,
  slot: Uint32,
  /** Of the banned leaves whose cover it is. */
  number: Uint32,
  leavesHash: Bytes(32),
  /** In the cover, hence in the parts together. */
  nodes: Uint32,
  /** In the order of their leaves: SHA-256 of each, and the first leaf below its first node. */
  parts: Type.Array(Strict({ hash: Bytes(32), first: Leaf }), { maxItems: 65_536 }),
  iat: UnixSeconds,
})
export type BundlePayload = Static<typeof BundlePayload>

export const EventPayload = Strict({
  suite: Suite,
  groupId: GroupIdField,
  number: Uint32,
  iat: UnixSeconds,
  /** `account`: a ticket for a new pinGen was made; `unlock`: the consecutive strikes of the pinGen become 0. */
  kind: Type.Enum(['ban', 'unban', 'revoke', 'unlock', 'account']),
  idCore: IdCoreField,
  userCore: Type.Optional(UserCoreField),
  pinGen: Type.Optional(Uint32),
})
export type EventPayload = Static<typeof EventPayload>

export const RevisionPayload = Strict({
  suite: Suite,
  groupId: GroupIdField,
  revision: Uint32,
  documentHash: Bytes(32),
  iat: UnixSeconds,
})
export type RevisionPayload = Static<typeof RevisionPayload>

export const AbandonmentPayload = Strict({
  suite: Suite,
  groupId: GroupIdField,
  /** Of the document: the one after the revision in force. */
  revision: Uint32,
  documentHash: Bytes(32),
})
export type AbandonmentPayload = Static<typeof AbandonmentPayload>

export const AccessTokenPayload = Strict({
  iss: Type.String({ minLength: 1, maxLength: 256 }),
  aud: Type.String({ minLength: 1, maxLength: 256 }),
  /** idCore */
  sub: IdCoreField,
  userCore: Type.Optional(UserCoreField),
  amr: Amr,
  slot: Uint32,
  iat: UnixSeconds,
  exp: UnixSeconds,
  jti: Jti,
})
export type AccessTokenPayload = Static<typeof AccessTokenPayload>

export const ReceiptPayload = Strict({
  iss: Type.String({ minLength: 1, maxLength: 256 }),
  aud: Type.String({ minLength: 1, maxLength: 256 }),
  /** idCore */
  sub: IdCoreField,
  userCore: Type.Optional(UserCoreField),
  amr: Amr,
  slot: Uint32,
  /** SHA-256 of the payload that the message signs. */
  payloadHash: Bytes(32),
  iat: UnixSeconds,
})
export type ReceiptPayload = Static<typeof ReceiptPayload>

export const TimePayload = Strict({ nonce: Bytes(32), time: UnixSeconds })
export type TimePayload = Static<typeof TimePayload>

const TICKET = { typ: 'mpin-ticket+jwt', validator: Compile(TicketPayload) }
const PERMIT = { typ: 'mpin-permit+jwt', validator: Compile(PermitStatementPayload) }
const STATE = { typ: 'mpin-state+jwt', validator: Compile(StatePayload) }
const LEAVES_STATE = { typ: 'mpin-leaves+jwt', validator: Compile(LeavesPayload) }
const TREE = { typ: 'mpin-tree+jwt', validator: Compile(TreePayload) }
const COSIGNATURE = { typ: 'mpin-cosignature+jwt', validator: Compile(CosignaturePayload) }
const BUNDLE = { typ: 'mpin-bundle+jwt', validator: Compile(BundlePayload) }
const EVENT = { typ: 'mpin-event+jwt', validator: Compile(EventPayload) }
const REVISION = { typ: 'mpin-revision+jwt', validator: Compile(RevisionPayload) }
const ABANDONMENT = { typ: 'mpin-abandonment+jwt', validator: Compile(AbandonmentPayload) }
const ACCESS_TOKEN = { typ: 'at+jwt', validator: Compile(AccessTokenPayload) }
const RECEIPT = { typ: 'mpin-receipt+jwt', validator: Compile(ReceiptPayload) }
const TIME = { typ: 'mpin-time+jwt', validator: Compile(TimePayload) }

/** A key with the kid under which its public half is published. */
export interface Signer {
  readonly key: Es256PrivateKey
  readonly kid: string
}

/** One signature of a ticket. m RA keys sign the same payload; the ticket is the array of theirs. */
export const signTicket = (payload: TicketPayload, signer: Signer) => sign(TICKET, payload, signer)
export const signPermitStatement = (payload: PermitStatementPayload, signer: Signer) =>
  sign(PERMIT, payload, signer)
export const signState = (payload: StatePayload, signer: Signer) => sign(STATE, payload, signer)
export const signLeaves = (payload: LeavesPayload, signer: Signer) => sign(LEAVES_STATE, payload, signer)
export const signTree = (payload: TreePayload, signer: Signer) => sign(TREE, payload, signer)
/** By an authority; its kid is `cosignerKid` of its index. */
export const signCosignature = (payload: CosignaturePayload, signer: Signer) =>
  sign(COSIGNATURE, payload, signer)
/** By a recipient's request key; its kid is the recipient's name. */
export const signBundle = (payload: BundlePayload, signer: Signer) => sign(BUNDLE, payload, signer)
export const signEvent = (payload: EventPayload, signer: Signer) => sign(EVENT, payload, signer)
/** By an authority, which never signs that document; its kid is `cosignerKid` of its index. */
export const signAbandonment = (payload: AbandonmentPayload, signer: Signer) =>
  sign(ABANDONMENT, payload, signer)
export const signRevisionStatement = (payload: RevisionPayload, signer: Signer) =>
  sign(REVISION, payload, signer)
export const signAccessToken = (payload: AccessTokenPayload, signer: Signer) =>
  sign(ACCESS_TOKEN, payload, signer)
export const signReceipt = (payload: ReceiptPayload, signer: Signer) => sign(RECEIPT, payload, signer)
export const signTime = (payload: TimePayload, signer: Signer) => sign(TIME, payload, signer)

/** A ticket that the group's RA has signed, in its time. Authorities issue against it; a device checks its own. */
export class VerifiedTicket {
  readonly groupId: Uint8Array
  readonly idCore: IdCore
  /** NO_USER for a device's own ticket. */
  readonly userCore: Uint8Array
  /** Exactly when `pin` is among the purposes. */
  readonly pinGen: number | undefined
  readonly purposes: readonly TicketPurpose[]
  readonly keyEpochs: Readonly<Partial<Record<TicketPurpose, number>>>
  /** Raw X25519 enrolment key that shares are sealed to. */
  readonly hpkeKey: Uint8Array
  readonly jti: Uint8Array
  /** Unix seconds. */
  readonly expiresAt: number
  /** SHA-256 of the signed payload: the ticket's name in logs. Not of the JWS, whose signature has two forms. */
  readonly hash: Uint8Array
  /** kids of the RA keys that have signed it, each another one. */
  readonly signers: readonly string[]

  private constructor(payload: TicketPayload, bytes: Uint8Array, signers: readonly string[]) {
    this.groupId = fromBase64Url(payload.groupId, 'groupId', 32)
    this.idCore = IdCore.fromBase64Url(payload.idCore)
    this.userCore = payload.userCore === undefined ? NO_USER : fromBase64Url(payload.userCore, 'userCore', 32)
    this.pinGen = payload.pinGen
    this.purposes = payload.purposes
    this.keyEpochs = payload.keyEpochs
    this.hpkeKey = decodeHpkeKey(payload.hpkeKey)
    this.jti = fromBase64Url(payload.jti, 'jti', 16)
    this.expiresAt = payload.exp
    this.hash = sha256(bytes)
    this.signers = signers
    checkTicket(payload, this.hpkeKey)
  }

  /** Every signature is by another RA key of the group, there are m of them, and all say the same. */
  static async verify({
    ticket,
    group,
    now,
  }: {
    ticket: readonly string[]
    group: Group
    now: number
  }): Promise<VerifiedTicket> {
    const { m, keys } = group.raKeys
    const signed = await Promise.all(ticket.map(token => verified(TICKET.typ, token, keys)))
    const [first] = signed
    if (first === undefined || signed.length < m)
      throw notApproved(`${signed.length} RA signatures, ${m} needed`)
    if (new Set(signed.map(({ kid }) => kid)).size !== signed.length)
      throw notApproved('an RA key signs once')
    if (!signed.every(({ bytes }) => equalBytes(bytes, first.bytes)))
      throw notApproved('the RA signatures are for different tickets')
    const payload = shaped(TICKET.validator, first)
    const signers = signed.map(({ kid }) => kid)
    const made = new VerifiedTicket(payload, first.bytes, signers)
    checkGroup(payload, group)
    checkTimes(payload, now)
    const slot = slotAt(group.slotRule, Math.floor(now / 1000))
    for (const purpose of made.purposes)
      if (payload.keyEpochs[purpose] !== group.epochAt(purpose, slot))
        throw expired(`the ticket is not for the ${purpose} key epoch in force`)
    return made
  }

  /** Whose key: for `agree` and `encrypt` the device's own name TLV. RangeError: not a purpose of this ticket. */
  keyIdentity(purpose: Purpose): KeyIdentity {
    if (!(this.purposes as readonly Purpose[]).includes(purpose))
      throw new RangeError(`no ticket for ${purpose}`)
    const { groupId, idCore, userCore, pinGen } = this
    if (purpose === 'pin') return { purpose, idCore, userCore, pinGen: pinGen as number }
    if (purpose === 'device' || purpose === 'sign') return { purpose, idCore }
    return { purpose: purpose as 'agree' | 'encrypt', name: encodeName(groupId, { kind: 1, idCore }) }
  }

  /** Those of the key epoch that the ticket is for. EXPIRED: it has ended. RangeError: not a purpose of this ticket. */
  keysFor(purpose: Purpose, group: Group): PurposeKeys {
    const epoch = (this.keyEpochs as Partial<Record<Purpose, number>>)[purpose]
    if (epoch === undefined) throw new RangeError(`no ticket for ${purpose}`)
    const keys = group.keysOf(purpose, epoch)
    if (keys === null) throw expired(`the ${purpose} key epoch of the ticket has ended`)
    return keys
  }

  /**
   * A, which the authority hashes itself out of `input`, and ctx: the share proof's context and the seal's info. A is
   * hashed when it is asked for.
   */
  shareTerms(
    purpose: Purpose,
    index: number,
    shareEpoch: number,
  ): { readonly input: Uint8Array; readonly A: G1; readonly ctx: Uint8Array } {
    const identity = this.keyIdentity(purpose)
    const { groupId, jti } = this
    const ctx = shareContext({
      groupId,
      purpose,
      index,
      shareEpoch,
      identity: 'name' in identity ? identity.name : identity.idCore.bytes,
      ...('pinGen' in identity ? { userCore: identity.userCore, pinGen: identity.pinGen } : {}),
      jti,
    })
    return {
      input: keyIdentityInput(groupId, identity),
      get A() {
        return keyIdentityPoint(groupId, identity)
      },
      ctx,
    }
  }

  /**
   * What an authority's ledger holds one enrolment key for, ever. User and pinGen count for `pin` alone: with them in
   * the others' names, a driver's ticket would be a second way to the car's device key.
   */
  ledgerKey(purpose: Purpose): string {
    const identity = this.keyIdentity(purpose)
    const account = 'pinGen' in identity ? `/${toBase64Url(identity.userCore)}/${identity.pinGen}` : ''
    return `${purpose}/${this.idCore.mpinId}${account}`
  }
}
export const verifyTicket = VerifiedTicket.verify

/** `VerifiedTicket.hash` of a ticket that the caller has signed itself. DecodeError when it isn't a compact JWS. */
export function ticketHash([first = '']: readonly string[]): Uint8Array {
  return sha256(fromBase64Url(first.split('.')[1] ?? '', 'ticket'))
}

function checkTicket(payload: TicketPayload, hpkeKey: Uint8Array): void {
  const { purposes, keyEpochs, userCore, pinGen } = payload
  if (new Set(purposes).size !== purposes.length) throw new DecodeError('purposes', 'one stands twice')
  if (
    Object.keys(keyEpochs).length !== purposes.length ||
    purposes.some(purpose => keyEpochs[purpose] === undefined)
  )
    throw new DecodeError('keyEpochs', 'one for each purpose')
  if ((pinGen !== undefined) !== purposes.includes('pin'))
    throw new DecodeError('pinGen', 'stands exactly with the purpose pin')
  if (userCore !== undefined && purposes.some(purpose => purpose !== 'pin'))
    throw new DecodeError('userCore', 'a user has a key for pin only')
  if (!equalBytes(enrolmentKeyHash(hpkeKey), fromBase64Url(payload.hpkeKeyHash, 'hpkeKeyHash', 32)))
    throw new DecodeError('hpkeKeyHash', 'not the hash of hpkeKey')
}

/** The RA's word that an identity (and the user on it) is not banned: what an authority wants for a permit share. */
export class VerifiedPermitStatement {
  readonly idCore: IdCore
  readonly userCore: Uint8Array
  readonly pinGen: number | undefined
  readonly slot: number
  readonly jti: Uint8Array
  /** Unix seconds. */
  readonly expiresAt: number

  private constructor(payload: PermitStatementPayload) {
    this.idCore = IdCore.fromBase64Url(payload.idCore)
    this.userCore = payload.userCore === undefined ? NO_USER : fromBase64Url(payload.userCore, 'userCore', 32)
    this.pinGen = payload.pinGen
    this.slot = payload.slot
    this.jti = fromBase64Url(payload.jti, 'jti', 16)
    this.expiresAt = payload.exp
  }

  /** The slot is the current one, up to `lead` ahead, or the former one within `grace`; else EXPIRED. */
  static async verify({
    statement,
    group,
    now,
  }: {
    statement: string
    group: Group
    now: number
  }): Promise<VerifiedPermitStatement> {
    const signed = await verified(PERMIT.typ, statement, group.raKeys.keys)
    const payload = shaped(PERMIT.validator, signed)
    const made = new VerifiedPermitStatement(payload)
    checkGroup(payload, group)
    checkTimes(payload, now, PERMIT_STATEMENT_LIFETIME)
    checkSlot(payload.slot, group, now)
    if (payload.keyEpoch !== group.epochAt('permit', payload.slot))
      throw expired('the statement is not for the permit key epoch of its slot')
    return made
  }
}
export const verifyPermitStatement = VerifiedPermitStatement.verify

function checkSlot(slot: number, { slotRule, policy }: Group, now: number): void {
  const seconds = Math.floor(now / 1000)
  const current = slotAt(slotRule, seconds)
  if (slot > current + policy.lead) throw expired('the slot is further ahead than the group allows')
  if (slot === current - 1 && seconds - slotStart(slotRule, current) <= policy.grace) return
  if (slot < current) throw expired('the slot has ended')
}

/** What is banned and revoked, as the RA signed it. The higher number replaces the lower. */
export class RevocationState {
  readonly number: number
  readonly issuedAt: number
  readonly payload: StatePayload
  readonly #devices: ReadonlySet<string>
  readonly #users: ReadonlySet<string>
  readonly #revoked: ReadonlySet<string>

  private constructor(payload: StatePayload) {
    const { banned, revoked } = payload
    this.number = payload.number
    this.issuedAt = payload.iat
    this.payload = payload
    this.#devices = new Set(
      banned.filter(({ userCore }) => userCore === undefined).map(({ idCore }) => idCore),
    )
    this.#users = new Set(
      banned
        .filter(({ userCore }) => userCore !== undefined)
        .map(({ idCore, userCore }) => `${idCore}/${userCore}`),
    )
    this.#revoked = new Set(revoked.map(({ idCore }) => idCore))
    for (const { idCore, leaf } of revoked)
      if (IdCore.fromBase64Url(idCore).leaf !== leaf)
        throw new DecodeError('revoked.leaf', 'not the leaf of idCore')
  }

  static async verify({ state, group }: { state: string; group: Group }): Promise<RevocationState> {
    const payload = shaped(STATE.validator, await verified(STATE.typ, state, group.raKeys.keys))
    checkGroup(payload, group)
    return new RevocationState(payload)
  }

  isRevoked(idCore: IdCore): boolean {
    return this.#revoked.has(idCore.mpinId)
  }

  /** Banned as a device, or as this user on it. */
  isBanned(idCore: IdCore, userCore: Uint8Array = NO_USER): boolean {
    const user = userCore.length > 0 && this.#users.has(`${idCore.mpinId}/${toBase64Url(userCore)}`)
    return user || this.#devices.has(idCore.mpinId)
  }
}
export const verifyState = RevocationState.verify

/** What `leavesHash` is of. */
export const leavesHash = (payload: LeavesPayload): Uint8Array => canonicalHash(payload)

/** The leaves that get no permits, as the RA signed them. The higher number replaces the lower. */
export class LeavesState {
  readonly number: number
  /** All of them, the revoked ones too. */
  readonly leaves: BannedLeaves
  /** Those of them that the RA is held to. */
  readonly revoked: RevokedLeaves
  /** 32 bytes: two states of one number are one when these are equal. */
  readonly hash: Uint8Array
  /** As it is passed on. */
  readonly statement: string

  private constructor(payload: LeavesPayload, bytes: Uint8Array, statement: string) {
    this.number = payload.number
    const banned = BannedLeaves.decode(fromBase64Url(payload.leaves ?? '', 'leaves'))
    this.revoked = RevokedLeaves.decode(fromBase64Url(payload.revoked ?? '', 'revoked'))
    this.leaves = this.revoked.size === 0 ? banned : banned.and(this.revoked.leaves)
    if (this.leaves.size !== banned.size + this.revoked.size)
      throw new DecodeError('revoked', 'a leaf is among the banned ones, too')
    this.hash = sha256(bytes)
    this.statement = statement
  }

  static async verify({ statement, group }: { statement: string; group: Group }): Promise<LeavesState> {
    const signed = await verified(LEAVES_STATE.typ, statement, group.raKeys.keys)
    const payload = shaped(LEAVES_STATE.validator, signed)
    checkGroup(payload, group)
    return new LeavesState(payload, signed.bytes, statement)
  }
}
export const verifyLeaves = LeavesState.verify

/** The RA's word, for one slot, which leaves are the newest: what an authority wants for the permits of nodes. */
export class VerifiedTreeStatement {
  readonly slot: number
  readonly number: number
  readonly leavesHash: Uint8Array
  readonly jti: Uint8Array
  /** Unix seconds. */
  readonly expiresAt: number

  private constructor(payload: TreePayload) {
    this.slot = payload.slot
    this.number = payload.number
    this.leavesHash = fromBase64Url(payload.leavesHash, 'leavesHash', 32)
    this.jti = fromBase64Url(payload.jti, 'jti', 16)
    this.expiresAt = payload.exp
  }

  /** The slot is the current one, up to `lead` ahead, or the former one within `grace`; else EXPIRED. */
  static async verify({
    statement,
    group,
    now,
  }: {
    statement: string
    group: Group
    now: number
  }): Promise<VerifiedTreeStatement> {
    const payload = shaped(TREE.validator, await verified(TREE.typ, statement, group.raKeys.keys))
    const made = new VerifiedTreeStatement(payload)
    checkGroup(payload, group)
    checkTimes(payload, now, PERMIT_STATEMENT_LIFETIME)
    checkSlot(payload.slot, group, now)
    if (payload.keyEpoch !== group.epochAt('permit', payload.slot))
      throw expired('the statement is not for the permit key epoch of its slot')
    return made
  }

  isAbout({ number, hash }: Pick<LeavesState, 'number' | 'hash'>): boolean {
    return this.number === number && equalBytes(this.leavesHash, hash)
  }
}
export const verifyTree = VerifiedTreeStatement.verify

export const cosignerKid = (index: number): string => `authority-${index}`

/** By the authority of this index, or NOT_APPROVED. */
export async function verifyCosignature({
  cosignature,
  group,
  index,
  state,
}: {
  cosignature: string
  group: Group
  index: number
  state: Pick<LeavesState, 'number' | 'hash'>
}): Promise<void> {
  const key = group.authority(index)?.signKey
  const keys = new Map(key === undefined ? [] : [[cosignerKid(index), key]])
  const payload = shaped(COSIGNATURE.validator, await verified(COSIGNATURE.typ, cosignature, keys))
  checkGroup(payload, group)
  const hash = fromBase64Url(payload.leavesHash, 'leavesHash', 32)
  if (payload.number !== state.number || !equalBytes(hash, state.hash))
    throw notApproved('the co-signature is for other leaves')
}

/** t authorities of the group have taken this state. NOT_APPROVED for fewer, or for one that isn't theirs. */
export async function verifyCosignatures({
  cosignatures,
  group,
  state,
}: {
  cosignatures: readonly { readonly index: number; readonly cosignature: string }[]
  group: Group
  state: Pick<LeavesState, 'number' | 'hash'>
}): Promise<void> {
  if (new Set(cosignatures.map(({ index }) => index)).size !== cosignatures.length)
    throw notApproved('an authority co-signs once')
  for (const { index, cosignature } of cosignatures)
    await verifyCosignature({ cosignature, group, index, state })
  if (cosignatures.length < group.t)
    throw notApproved(`${cosignatures.length} co-signatures, ${group.t} needed`)
}

/** By a recipient of the group document that composes permits; else NOT_APPROVED. */
export async function verifyBundle({
  manifest,
  group,
}: {
  manifest: string
  group: Group
}): Promise<BundlePayload> {
  const makers = group.recipients.filter(({ purposes }) => purposes.includes('device'))
  const keys = new Map(makers.map(({ name, requestKey }) => [name, requestKey]))
  const payload = shaped(BUNDLE.validator, await verified(BUNDLE.typ, manifest, keys))
  checkGroup(payload, group)
  return payload
}

/** The caller keeps the number and takes no event twice. */
export async function verifyEvent({ event, group }: { event: string; group: Group }): Promise<EventPayload> {
  const payload = shaped(EVENT.validator, await verified(EVENT.typ, event, group.raKeys.keys))
  checkGroup(payload, group)
  IdCore.fromBase64Url(payload.idCore)
  return payload
}

/** The RA in force agrees to this next revision (which may name its next keys). */
export async function verifyRevisionStatement({
  statement,
  group,
  document,
}: {
  statement: string
  group: Group
  document: GroupDocument
}): Promise<RevisionPayload> {
  const payload = shaped(REVISION.validator, await verified(REVISION.typ, statement, group.raKeys.keys))
  checkGroup(payload, group)
  if (!equalBytes(fromBase64Url(payload.documentHash, 'documentHash', 32), documentHash(document)))
    throw notApproved('the statement is for another document')
  return payload
}

/**
 * How many authorities may still sign this document for the next revision: those of the group that have not abandoned it.
 * With fewer than t of them it never comes into force. NOT_APPROVED for an abandonment of another document or by nobody of
 * the group.
 */
export async function mayStillSign({
  abandonments,
  group,
  documentHash: hash,
}: {
  abandonments: readonly string[]
  group: Group
  documentHash: Uint8Array
}): Promise<number> {
  const keys = new Map(group.authorities.map(({ index, signKey }) => [cosignerKid(index), signKey]))
  const gone = new Set<string>()
  for (const abandonment of abandonments) {
    const signed = await verified(ABANDONMENT.typ, abandonment, keys)
    const payload = shaped(ABANDONMENT.validator, signed)
    checkGroup(payload, group)
    const isThis = equalBytes(fromBase64Url(payload.documentHash, 'documentHash', 32), hash)
    if (!isThis || payload.revision !== group.revision + 1)
      throw notApproved('the abandonment is of another document')
    gone.add(signed.kid)
  }
  return group.n - gone.size
}

/** Who an access token speaks for. */
export class AccessToken {
  readonly idCore: IdCore
  readonly userCore: Uint8Array
  readonly amr: readonly ('device' | 'pin')[]
  readonly slot: number
  readonly audience: string
  readonly jti: string
  /** Unix seconds. */
  readonly expiresAt: number

  private constructor(payload: AccessTokenPayload) {
    this.idCore = IdCore.fromBase64Url(payload.sub)
    this.userCore = payload.userCore === undefined ? NO_USER : fromBase64Url(payload.userCore, 'userCore', 32)
    this.amr = payload.amr
    this.slot = payload.slot
    this.audience = payload.aud
    this.jti = payload.jti
    this.expiresAt = payload.exp
  }

  /** Every refusal is UNAUTHENTICATED: the bearer learns nothing from a token that isn't good. */
  static async verify({
    token,
    keys,
    issuer,
    audience,
    now,
  }: {
    token: string
    keys: VerificationKeys
    issuer: string
    audience: string
    now: number
  }): Promise<AccessToken> {
    const no = (detail: string) => new Refused('UNAUTHENTICATED', { detail })
    try {
      const payload = shaped(ACCESS_TOKEN.validator, await verified(ACCESS_TOKEN.typ, token, keys))
      if (payload.iss !== issuer || payload.aud !== audience) throw no('the token is for another service')
      checkTimes(payload, now, ACCESS_TOKEN_LIFETIME)
      return new AccessToken(payload)
    } catch (error) {
      if (error instanceof Refused && error.code !== 'UNAUTHENTICATED') throw no(error.detail ?? 'not valid')
      if (error instanceof DecodeError) throw no(`${error.field}: ${error.why}`)
      throw error
    }
  }
}
export const verifyAccessToken = AccessToken.verify

export async function verifyReceipt({
  receipt,
  keys,
  issuer,
}: {
  receipt: string
  keys: VerificationKeys
  issuer: string
}): Promise<ReceiptPayload> {
  const payload = shaped(RECEIPT.validator, await verified(RECEIPT.typ, receipt, keys))
  if (payload.iss !== issuer) throw notApproved('the receipt is of another issuer')
  return payload
}

/** The server's time, unix seconds, said over this nonce (32 bytes). */
export async function verifyTime({
  time,
  keys,
  nonce,
}: {
  time: string
  keys: VerificationKeys
  nonce: Uint8Array
}): Promise<number> {
  const payload = shaped(TIME.validator, await verified(TIME.typ, time, keys))
  if (!equalBytes(fromBase64Url(payload.nonce, 'nonce', 32), nonce))
    throw notApproved('said over another nonce')
  return payload.time
}

interface Kind<S extends TSchema> {
  readonly typ: string
  readonly validator: Validator<Record<never, never>, S>
}

/** Refuses with a TypeError what `verify` would refuse for its shape. */
async function sign<S extends TSchema>(
  { typ, validator }: Kind<S>,
  payload: object,
  { key, kid }: Signer,
): Promise<string> {
  if (!validator.Check(payload)) throw new TypeError(`not a payload of ${typ}`)
  return signJws(typ, payload, key, kid)
}

async function verified(typ: string, token: string, keys: VerificationKeys): Promise<VerifiedJws> {
  const signed = await verifyJws(typ, token, keys)
  if (signed === null) throw notApproved(`not a ${typ} by a known key`)
  return signed
}

function shaped<S extends TSchema>(validator: Kind<S>['validator'], { payload }: VerifiedJws): Static<S> {
  if (validator.Check(payload)) return payload as Static<S>
  const [first] = validator.Errors(payload)
  const path = (first?.instancePath ?? '').replaceAll('/', '.')
  throw new DecodeError(`payload${path}`, first?.message ?? 'wrong shape')
}

function checkGroup({ groupId }: { groupId: string }, group: Group): void {
  if (!equalBytes(fromBase64Url(groupId, 'groupId', 32), group.groupId))
    throw notApproved('made for another group')
}

function checkTimes({ iat, exp }: { iat: number; exp: number }, now: number, lifetime = Infinity): void {
  const seconds = now / 1000
  if (exp <= iat || exp - iat > lifetime) throw expired('its time is longer than it may be')
  if (iat > seconds + SKEW) throw expired('not valid yet')
  if (seconds >= exp) throw expired('its time is over')
}

function notApproved(detail: string): Refused {
  return new Refused('NOT_APPROVED', { detail })
}

function expired(detail: string): Refused {
  return new Refused('EXPIRED', { detail })
}
