/**
 * Drives an enrolment to its end: stores the waiting state, posts, waits, collects, and stores what came of it in the
 * one write that destroys the enrolment key. Called again after a crash or a lost answer it goes on where it stopped,
 * with the same enrolment key, so an enrolment code is never used up by an accident.
 */
import type { Group } from '@milagro-ts/api/group'
import { Refused } from '@milagro-ts/api/problem'
import type { Approved, RegistrationAnswer } from '@milagro-ts/api/rpa-routes'
import type { LoginFields } from '@milagro-ts/api/schemas'
import { equalBytes, fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import { codeId, decodeEnrolmentCode, type EnrolmentCode } from '@milagro-ts/crypto/enrolment'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { type Attributes, encodeAttributes } from '@milagro-ts/crypto/identity'
import type { TokenFile } from '@milagro-ts/crypto/pin'
import {
  type CollectedKey,
  DeviceAwaitingApproval,
  DeviceAwaitingShares,
  DeviceKeys,
  PinAwaitingApproval,
  PinAwaitingShares,
  PinKey,
  userWords,
} from './enrol.js'
import { ClientError } from './errors.js'
import { fetchGroup, followGroup, storedGroup } from './group-store.js'
import { collectKey } from './key-collection.js'
import { checkNewPin } from './pin-stretch.js'
import type { Ports } from './ports.js'
import { type DeviceRecord, type FurtherKey, OWN_PIN, type Pending, Records, type User } from './record.js'
import { repeatSafely } from './repeat.js'
import type { TokenStore } from './token-store.js'
import { type KeyOwner, lockKey } from './unlocker.js'

/** How long, and how, to wait for an approval. */
export interface Patience {
  /** Shows the six words to whoever compares them; called once, when approval is by hand. */
  readonly onWords?: (words: string) => void
  /** Seconds until STILL_PENDING; 900 unless said. The same call later goes on waiting. */
  readonly patience?: number
  readonly signal?: AbortSignal
}

export interface DeviceEnrolment extends Patience {
  /** The enrolment code; without one a person approves by the six words, and `groupId` is pinned by the caller. */
  readonly code?: string
  /** base64url of 32 bytes; with a code it must be the code's own. */
  readonly groupId?: string
  readonly attributes: Attributes
  /** Instance or VIN. */
  readonly instance: string
  /** For a device that has a PIN of its own. */
  readonly pin?: string
  /** Refuse an approval with other factors. */
  readonly factors?: 0 | 1 | 2
  /** The store holds a former generation of this instance: it stays until this enrolment is done. */
  readonly replace?: boolean
}

export interface UserEnrolment extends Patience {
  readonly code?: string
  readonly attributes: Attributes
  /** What this device calls the user; the attribute `driverName` unless said. */
  readonly name?: string
  readonly pin: string
}

/** Milliseconds between two looks, from the first to the slowest. */
const FIRST_LOOK = 1_000
const SLOWEST_LOOK = 15_000
const PATIENCE = 900

/** The identity's records, once it is enrolled: new, or in the store already by this very claim. */
export async function enrolDevice(
  ports: Ports,
  store: TokenStore,
  enrolment: DeviceEnrolment,
): Promise<Records> {
  const { attributes, instance, pin, factors } = enrolment
  if (pin !== undefined) checkNewPin(pin, ports.pinCost)
  const code = enrolment.code === undefined ? undefined : decodeEnrolmentCode(enrolment.code)
  const groupId = pinnedGroup(enrolment.groupId, code)
  const records = new Records(store, { groupId, instance })
  const record = await records.read()
  if (record?.device != null) {
    // By hand nothing tells a next generation from the one that is here.
    const nextByHand = enrolment.replace === true && code === undefined
    if (!nextByHand && isEnrolment(record, { attributes, code })) return records
    if (enrolment.replace !== true) throw new ClientError('ALREADY_ENROLLED')
  }
  const group =
    record === null
      ? await fetchGroup(ports, groupId)
      : await followGroup(ports, await storedGroup(record.revisions, groupId))

  const fresh = await DeviceAwaitingApproval.request({
    groupId,
    attributes,
    instance,
    code,
    random: ports.random,
  })
  const held = heldFor(record, fresh.pending)
  const waiting = held === undefined ? fresh : await DeviceAwaitingApproval.resume(held)
  await records.update(former => {
    if (former?.device?.idCore.mpinId !== record?.device?.idCore.mpinId)
      throw new ClientError('STORE_CHANGED')
    const none = { device: null, users: [], pending: [], permit: null, nextPermit: null, leavesNumber: 0 }
    return begun({ groupId, instance, ...(former ?? none), revisions: group.documents }, waiting.pending)
  })
  if (code === undefined) enrolment.onWords?.(waiting.words(groupId))

  const post = () => ports.rps.register({ body: waiting.pending.request })
  await untilIssued(ports, records, waiting.pending, enrolment, post, async answer => {
    const now = await ports.time.now()
    const current = await followGroup(ports, group)
    const approved = await DeviceAwaitingShares.verify(waiting, answer, { group: current, now, factors })
    if (approved.pinGen !== undefined && pin === undefined) throw new ClientError('PIN_NEEDED')
    const keys = await DeviceKeys.combine(approved, (purpose, collection) =>
      collectKey(ports, purpose, collection),
    )
    const { idCore } = approved
    const locked = await lockKey(ports.unlocker, { groupId, idCore, purpose: 'device' }, keys.deviceKey)
    const agree = await lockedFurther(ports, { groupId, idCore, purpose: 'agree' }, keys.agreeKey)
    const sign = await lockedFurther(ports, { groupId, idCore, purpose: 'sign' }, keys.signKey)
    const encrypt = await lockedFurther(ports, { groupId, idCore, purpose: 'encrypt' }, keys.encryptKey)
    const token = keys.pinKey === null ? null : await keys.pinKey.split(pin as string, ports.pinCost)
    const own = codeIdOf(code)
    await finish(records, waiting.pending, former => ({
      ...former,
      revisions: current.documents,
      device: {
        idCore,
        attributes: { ...attributes },
        codeId: own,
        keyEpoch: keys.keyEpoch,
        ...locked,
        agree,
        sign,
        ahead: null,
        slotKeys: [],
        fileKeys: [],
        encrypt,
      },
      // Users of a former generation had their keys on that identity.
      users: token === null ? [] : [{ name: OWN_PIN, attributes: {}, token, next: null, codeId: own }],
      pending: [],
      permit: null,
      nextPermit: null,
    }))
  })
  return records
}

async function lockedFurther(
  { unlocker }: Ports,
  owner: KeyOwner,
  collected: CollectedKey | null,
): Promise<FurtherKey | null> {
  if (collected === null) return null
  const { key, epoch } = collected
  return { ...(await lockKey(unlocker, owner, key)), epoch }
}

/** What an enrolled device lends to the enrolment of a user, or of a new PIN. */
export interface Enrolled {
  readonly ports: Ports
  readonly records: Records
  readonly record: DeviceRecord
  readonly group: Group
}

/** `vouch` makes the device's word over user attributes and enrolment key: a fresh `sign` message at each call. */
export async function enrolUser(
  { ports, records, record, group }: Enrolled,
  enrolment: UserEnrolment,
  vouch: (hpkeKey: Uint8Array) => Promise<LoginFields>,
): Promise<string> {
  const { attributes, pin } = enrolment
  checkNewPin(pin, ports.pinCost)
  const name = enrolment.name ?? attributes.driverName
  if (name === undefined || name === OWN_PIN || name.length > 256)
    throw new RangeError('a user wants a name of 1–256 characters')
  const { groupId } = group
  const code = enrolment.code === undefined ? undefined : decodeEnrolmentCode(enrolment.code)
  if (code !== undefined && !equalBytes(code.groupId, groupId))
    throw new ClientError('WRONG_GROUP', 'the enrolment code is of another group')
  const user = record.users.find(known => known.name === name)
  if (user !== undefined && code === undefined)
    throw new ClientError('ALREADY_ENROLLED', 'this user is enrolled; a forgotten PIN takes a new code')
  // The same code again is the enrolment that has been done; another code is for a forgotten PIN.
  if (user !== undefined && user.codeId === codeIdOf(code)) return name

  const fresh = await PinAwaitingApproval.user({ name, groupId, attributes, code, random: ports.random })
  const held = heldFor(record, fresh.pending)
  const waiting = held === undefined ? fresh : await PinAwaitingApproval.resume(held)
  await records.update(former => begun(needed(former), waiting.pending))
  if (code === undefined) enrolment.onWords?.(userWords(groupId, waiting))

  let word = await vouch(waiting.keyPair.publicKey)
  const post = async () => {
    try {
      return await ports.rps.register({ body: { ...waiting.pending.request, vouch: word } })
    } catch (error) {
      // The word holds for one nonce; these refusals come before anything else is looked at.
      if (!(error instanceof Refused) || !STALE.has(error.code)) throw error
      word = await vouch(waiting.keyPair.publicKey)
      return ports.rps.register({ body: { ...waiting.pending.request, vouch: word } })
    }
  }
  const former = tokensOf(user)
  await untilIssued(ports, records, waiting.pending, enrolment, post, async answer => {
    const token = await pinToken(ports, waiting, answer, { record, group, former, pin })
    await finish(records, waiting.pending, newest => {
      const made: User = { name, attributes: { ...attributes }, token, next: null, codeId: codeIdOf(code) }
      const before = newest.users.find(known => known.name === name)
      // A new key for a known user is like a changed PIN: the old token stays until the new one has logged in.
      const after = before === undefined ? made : { ...made, token: before.token, next: token }
      return {
        ...newest,
        users: [...newest.users.filter(known => known.name !== name), after],
        // Whatever else was under way for this user has been overtaken.
        pending: newest.pending.filter(other => other.kind === 'device' || other.name !== name),
      }
    })
  })
  return name
}
const STALE: ReadonlySet<string> = new Set(['EXPIRED', 'REPLAYED', 'CLOCK', 'PERMIT_EXPIRED'])

/** `ask` proves the old PIN over the new enrolment key to the RPS, and brings its answer; called again to look again. */
export async function changePin(
  { ports, records, record, group }: Enrolled,
  {
    user,
    base,
    newPin,
    waits,
  }: { user: User; base: TokenFile; newPin: string; waits: Omit<Patience, 'onWords'> },
  ask: (hpkeKey: Uint8Array) => Promise<RegistrationAnswer>,
): Promise<void> {
  checkNewPin(newPin, ports.pinCost)
  const { name } = user
  const { pinGen } = base
  const fresh = await PinAwaitingApproval.newPin({ name, pinGen, random: ports.random })
  const held = heldFor(record, fresh.pending)
  const waiting = held === undefined ? fresh : await PinAwaitingApproval.resume(held)
  await records.update(former => begun(needed(former), waiting.pending))
  // Proven anew even when an unfinished change is taken up again: whoever finds one half done still needs the old PIN.
  const post = () => ask(waiting.keyPair.publicKey)
  const former = [base, ...tokensOf(user).filter(token => token !== base)]
  await untilIssued(ports, records, waiting.pending, waits, post, async answer => {
    const next = await pinToken(ports, waiting, answer, { record, group, former, pin: newPin })
    await finish(records, waiting.pending, newest => ({
      ...newest,
      users: newest.users.map(known => (known.name === name ? { ...known, token: base, next } : known)),
      pending: newest.pending.filter(other => other.kind !== 'pin' || other.name !== name),
    }))
  })
}

/** The tokens of a user, newest first. */
export function tokensOf(user: User | undefined): readonly TokenFile[] {
  if (user === undefined) return []
  return user.next === null ? [user.token] : [user.next, user.token]
}

async function pinToken(
  ports: Ports,
  waiting: PinAwaitingApproval,
  answer: Approved,
  {
    record,
    group,
    former,
    pin,
  }: { record: DeviceRecord; group: Group; former: readonly TokenFile[]; pin: string },
): Promise<TokenFile> {
  const { idCore } = deviceOf(record)
  const now = await ports.time.now()
  const current = await followGroup(ports, group)
  const approved = await PinAwaitingShares.verify(waiting, answer, { group: current, now, idCore, former })
  const key = await PinKey.combine(approved, (purpose, collection) => collectKey(ports, purpose, collection))
  return key.split(pin, ports.pinCost)
}

/**
 * Looks until the RA has decided, then issues; once more from the start when the ticket ran out in between.
 * ENROLMENT_REFUSED and ENROLMENT_EXPIRED end the enrolment and destroy its key; STILL_PENDING leaves it.
 */
async function untilIssued(
  ports: Ports,
  records: Records,
  pending: Pending,
  { patience = PATIENCE, signal }: Patience,
  post: () => Promise<RegistrationAnswer>,
  issue: (answer: Approved) => Promise<void>,
): Promise<void> {
  let waited = 0
  let pause = FIRST_LOOK
  let reissued = false
  for (;;) {
    signal?.throwIfAborted()
    const answer = await repeatSafely(ports.wait, post, signal)
    if (answer.state === 'approved') {
      try {
        return await issue(answer)
      } catch (error) {
        if (reissued || !(error instanceof Refused) || error.code !== 'EXPIRED') throw error
        ports.time.doubt()
        reissued = true
        continue
      }
    }
    if (answer.state !== 'pending') {
      await records.update(record => without(record, pending))
      throw new ClientError(answer.state === 'refused' ? 'ENROLMENT_REFUSED' : 'ENROLMENT_EXPIRED')
    }
    if (waited >= patience * 1000) throw new ClientError('STILL_PENDING')
    await ports.wait(pause)
    waited += pause
    pause = Math.min(2 * pause, SLOWEST_LOOK)
  }
}

/** Waiting states that are kept; the oldest go first. */
const MOST_PENDING = 8

/** The record with a waiting state, to be stored before anything is sent: a code is bound to the first key it comes with. */
function begun(record: DeviceRecord, pending: Pending): DeviceRecord {
  const others = record.pending.filter(other => !equalBytes(other.secret, pending.secret))
  // Another process has begun the same with a key of its own; the next call takes that one up.
  if (others.some(other => sameClaim(other, pending))) throw new ClientError('STORE_CHANGED')
  return { ...record, pending: [...others, pending].slice(-MOST_PENDING) }
}

/** The waiting state of the same claim, with its enrolment key, if this is not the first call. */
function heldFor<P extends Pending>(record: DeviceRecord | null, pending: P): P | undefined {
  return record?.pending.find((other): other is P => sameClaim(other, pending))
}

function sameClaim(one: Pending, other: Pending): boolean {
  if (one.kind === 'device' && other.kind === 'device') return sameRequest(one.request, other.request)
  if (one.kind === 'user' && other.kind === 'user')
    return one.name === other.name && sameRequest(one.request, other.request)
  return one.kind === 'pin' && other.kind === 'pin' && one.name === other.name && one.pinGen === other.pinGen
}

interface Request {
  readonly attributes: Attributes
  readonly codeId?: string
}
function sameRequest(one: Request, other: Request): boolean {
  return one.codeId === other.codeId && sameAttributes(one.attributes, other.attributes)
}

/**
 * The write that stores what came of it and drops the enrolment key. STORE_CHANGED when somebody else has finished or
 * replaced this enrolment meanwhile: what is in hand is then forgotten, so of one key one token at most is stored.
 */
async function finish(
  records: Records,
  pending: Pending,
  change: (record: DeviceRecord) => DeviceRecord,
): Promise<void> {
  await records.update(record => {
    const still = record?.pending.some(other => equalBytes(other.secret, pending.secret))
    if (record === null || still !== true) throw new ClientError('STORE_CHANGED')
    return change(without(record, pending))
  })
}

function without(record: DeviceRecord | null, pending: Pending): DeviceRecord {
  const others = needed(record).pending.filter(other => !equalBytes(other.secret, pending.secret))
  return { ...needed(record), pending: others }
}

function needed(record: DeviceRecord | null): DeviceRecord {
  if (record === null) throw new ClientError('NOT_ENROLLED')
  return record
}

export function deviceOf(record: DeviceRecord | null): NonNullable<DeviceRecord['device']> {
  const device = record?.device ?? null
  if (device === null) throw new ClientError('NOT_ENROLLED')
  return device
}

function pinnedGroup(text: string | undefined, code: EnrolmentCode | undefined): Uint8Array {
  const given = text === undefined ? undefined : fromBase64Url(text, 'groupId', 32)
  if (given !== undefined && code !== undefined && !equalBytes(given, code.groupId))
    throw new ClientError('WRONG_GROUP', 'the enrolment code is of another group')
  const groupId = code?.groupId ?? given
  if (groupId === undefined) throw new RangeError('an enrolment wants a code, or the groupId to pin')
  return groupId
}

const codeIdOf = (code: EnrolmentCode | undefined): string | null =>
  code === undefined ? null : toBase64Url(codeId(code.secret))

/** Is what the store holds of this group and instance the outcome of this very enrolment? */
function isEnrolment(
  { device }: DeviceRecord,
  claim: { readonly attributes: Attributes; readonly code: EnrolmentCode | undefined },
): boolean {
  return (
    device !== null &&
    device.codeId === codeIdOf(claim.code) &&
    sameAttributes(device.attributes, claim.attributes)
  )
}

function sameAttributes(one: Attributes, other: Attributes): boolean {
  try {
    return equalBytes(encodeAttributes(one), encodeAttributes(other))
  } catch (error) {
    if (error instanceof DecodeError) return false
    throw error
  }
}
