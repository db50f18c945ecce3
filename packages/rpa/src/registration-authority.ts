/**
 * The registration authority: the signing role of a relying-party application (protocols.md §1, §3, §5).
 *
 *   identity  idCore = leaf ‖ generation ‖ factors ‖ H(groupId, attributes, instance, date, enrolment key, salt)
 *   ticket    m RA keys sign {idCore, userCore, pinGen, purposes, enrolment key}: authorities seal shares to that key
 *   permit    one RA key signs "not banned" for one slot, 60 seconds
 *   state     everything banned and revoked, under the number of the newest event
 *   tree      the same as leaves, and for one slot and 60 seconds that they are the newest
 *   event     one change, under the next number
 *
 * Whoever holds m of these keys can enrol as anybody (the authorities' logs show it): they lie sealed, and here they
 * are only ever asked to sign. Keys that the group document doesn't name (yet, or any more) sign nothing.
 */

import type { Group } from '@milagro-ts/api/group'
import { Refused } from '@milagro-ts/api/problem'
import { type RevokedLeaf, RevokedLeaves } from '@milagro-ts/api/revoked-leaves'
import { sixWords } from '@milagro-ts/api/six-words'
import {
  type EventPayload,
  type LeavesPayload,
  leavesHash,
  PERMIT_STATEMENT_LIFETIME,
  type PermitStatementPayload,
  type Signer,
  type StatePayload,
  signEvent,
  signLeaves,
  signPermitStatement,
  signState,
  signTicket,
  signTree,
  type TicketPayload,
  type TreePayload,
  verifyTicket,
} from '@milagro-ts/api/statements'
import { be32, equalBytes, toBase64Url, utf8 } from '@milagro-ts/crypto/bytes'
import { enrolmentKeyHash, enrolmentMac, sixWordIndices } from '@milagro-ts/crypto/enrolment'
import {
  type Attributes,
  encodeAttributes,
  type IdCore,
  issueIdCore,
  userCoreOf,
} from '@milagro-ts/crypto/identity'
import { BannedLeaves } from '@milagro-ts/crypto/permit-tree'
import type { Clock, Random } from '@milagro-ts/crypto/ports'
import { sha256 } from '@milagro-ts/crypto/sha256'
import { type Purpose, SUITE } from '@milagro-ts/crypto/suite'
import { slotAt } from '@milagro-ts/crypto/time-permit'
import { encodeTlv } from '@milagro-ts/crypto/tlv'
import type { Allotted, Approval, IdentityRecord, Revocations, Revoked } from './directory.js'

/** Seconds that a ticket holds; a registration that is asked for again gets a fresh one when it is over. */
const TICKET_LIFETIME = 3600
/** A ticket with fewer seconds left is not handed out again: the device still has to reach t authorities. */
const TICKET_REST = 120
/** Slots that the RPS' clock may be behind ours. */
const FORMER_SLOTS = 1

export interface RegistrationAuthorityPorts {
  /** The group document in force. */
  readonly group: () => Group
  /** The RA keys held here; more than the document names, while one is being changed. */
  readonly signers: () => readonly Signer[]
  readonly clock: Clock
  readonly random: Random
}

/** What a code's MAC and the six words are over; `instance` is absent for a user. */
export interface ClaimedFields {
  readonly attributes: Attributes
  readonly instance?: string | undefined
  readonly hpkeKey: Uint8Array
  readonly nonce: Uint8Array
}

export class RegistrationAuthority {
  readonly #ports: RegistrationAuthorityPorts

  constructor(ports: RegistrationAuthorityPorts) {
    this.#ports = ports
  }

  get groupId(): Uint8Array {
    return this.#ports.group().groupId
  }

  /** Whether `mac` (32 bytes) is the one that only the code's holder and we can make. */
  macHolds(secret: Uint8Array, mac: Uint8Array, claimed: ClaimedFields): boolean {
    return equalBytes(enrolmentMac(secret, { groupId: this.groupId, ...claimed }), mac)
  }

  /** What console and device both show. */
  words({ attributes, hpkeKey, nonce }: ClaimedFields): string {
    return sixWords(sixWordIndices({ groupId: this.groupId, attributes, hpkeKey, nonce }))
  }

  /** A new identity over the enrolment key; the salt is fresh. DecodeError for a field of the wrong shape. */
  newIdentity(
    device: { attributes: Attributes; instance: string; hpkeKey: Uint8Array },
    { leaf, generation, factors }: Allotted,
  ): IdentityRecord {
    const salt = this.#ports.random(16)
    const issueDate = new Date(this.#ports.clock()).toISOString().slice(0, 10)
    const idCore = issueIdCore({
      groupId: this.groupId,
      attributes: device.attributes,
      instance: device.instance,
      issueDate,
      enrolmentKeyHash: enrolmentKeyHash(device.hpkeKey),
      salt,
      leaf,
      generation,
      factors,
    })
    return { idCore, leaf, generation, factors, issueDate, salt }
  }

  /** A person on a device; the salt is fresh, so that one person's userCores on two devices don't show it. */
  newUser(attributes: Attributes): { userCore: Uint8Array; salt: Uint8Array } {
    const salt = this.#ports.random(16)
    return { userCore: userCoreOf({ groupId: this.groupId, attributes, salt }), salt }
  }

  /** The kept ticket while the group as it is now takes it, a new one else. */
  async ticket(approval: Approval, hpkeKey: Uint8Array): Promise<readonly string[]> {
    if (approval.ticket !== undefined && (await this.#stillGood(approval.ticket))) return approval.ticket
    const { idCore } = approval.identity
    const group = this.#ports.group()
    const now = this.#now()
    const slot = slotAt(group.slotRule, now)
    const { purposes, user } = approval
    const payload: TicketPayload = {
      suite: SUITE,
      groupId: toBase64Url(group.groupId),
      keyEpochs: Object.fromEntries(purposes.map(purpose => [purpose, epochAt(group, purpose, slot)])),
      idCore: idCore.mpinId,
      ...(user === undefined ? {} : userFields(user.userCore, user.pinGen)),
      purposes: [...purposes],
      hpkeKey: toBase64Url(hpkeKey),
      hpkeKeyHash: toBase64Url(enrolmentKeyHash(hpkeKey)),
      iat: now,
      exp: now + TICKET_LIFETIME,
      jti: toBase64Url(this.#ports.random(16)),
    }
    const { m } = group.raKeys
    const signers = this.#signers(group)
    if (signers.length < m) throw new Refused('RETRY_LATER', { log: `the group wants ${m} RA signatures` })
    return Promise.all(signers.slice(0, m).map(signer => signTicket(payload, signer)))
  }

  /**
   * "Not banned", for the authorities: the caller has looked. Refused EXPIRED for a slot that is over, or further
   * ahead than the group allows: such statements would outlive a ban.
   */
  permitStatement({ idCore, slot }: { idCore: IdCore; slot: number }): Promise<string> {
    const group = this.#ports.group()
    const now = this.#permitTime(group, slot)
    const payload: PermitStatementPayload = {
      suite: SUITE,
      groupId: toBase64Url(group.groupId),
      keyEpoch: epochAt(group, 'permit', slot),
      idCore: idCore.mpinId,
      slot,
      banned: false,
      iat: now,
      exp: now + PERMIT_STATEMENT_LIFETIME,
      jti: toBase64Url(this.#ports.random(16)),
    }
    return signPermitStatement(payload, this.#signer(group))
  }

  state({ number, banned, revoked }: Revocations): Promise<string> {
    const group = this.#ports.group()
    const payload: StatePayload = {
      suite: SUITE,
      groupId: toBase64Url(group.groupId),
      number,
      iat: this.#now(),
      banned: banned.map(({ idCore, userCore }) => ({ idCore: idCore.mpinId, ...userFields(userCore) })),
      revoked: revoked
        .filter(({ keysEnded }) => keysEnded !== true)
        .map(({ idCore }) => ({ idCore: idCore.mpinId, leaf: idCore.leaf })),
    }
    return signState(payload, this.#signer(group))
  }

  /**
   * For groups whose permits are for nodes: which leaves are the newest, for one slot. `leaves`, unless the caller has
   * them, is the state itself. Refused EXPIRED as `permitStatement`.
   */
  async tree(
    revocations: Revocations,
    { slot, number: theirs }: { slot: number; number?: number | undefined },
  ): Promise<{ statement: string; leaves?: string }> {
    const group = this.#ports.group()
    const signer = this.#signer(group)
    const { number, banned, revoked } = revocations
    const now = this.#permitTime(group, slot)
    // A driver is banned online alone: permits speak for vehicles.
    const devices = banned.filter(({ userCore }) => userCore === undefined || userCore.length === 0)
    const living = revoked.filter(({ keysEnded }) => keysEnded !== true)
    const dated = living.filter(({ since }) => since !== undefined)
    const others = living.filter(({ since }) => since === undefined)
    const leaves = BannedLeaves.of([...devices, ...others].map(({ idCore }) => idCore.leaf))
    const state: LeavesPayload = {
      suite: SUITE,
      groupId: toBase64Url(group.groupId),
      number,
      ...(leaves.size === 0 ? {} : { leaves: toBase64Url(leaves.encode()) }),
      ...(dated.length === 0
        ? {}
        : { revoked: toBase64Url(RevokedLeaves.of(dated.map(revokedLeaf(group))).encode()) }),
    }
    const payload: TreePayload = {
      suite: SUITE,
      groupId: toBase64Url(group.groupId),
      keyEpoch: epochAt(group, 'permit', slot),
      slot,
      number,
      leavesHash: toBase64Url(leavesHash(state)),
      iat: now,
      exp: now + PERMIT_STATEMENT_LIFETIME,
      jti: toBase64Url(this.#ports.random(16)),
    }
    const statement = await signTree(payload, signer)
    return theirs === number ? { statement } : { statement, leaves: await signLeaves(state, signer) }
  }

  /** @param at Unix seconds of the change, not of the signature: signed again, an event says the same. */
  event(change: {
    number: number
    at: number
    kind: EventPayload['kind']
    idCore: IdCore
    userCore?: Uint8Array | undefined
    pinGen?: number | undefined
  }): Promise<string> {
    const group = this.#ports.group()
    const payload: EventPayload = {
      suite: SUITE,
      groupId: toBase64Url(group.groupId),
      number: change.number,
      iat: change.at,
      kind: change.kind,
      idCore: change.idCore.mpinId,
      ...userFields(change.userCore, change.pinGen),
    }
    return signEvent(payload, this.#signer(group))
  }

  /** Now, in unix seconds, if permits are made for this slot now. */
  #permitTime(group: Group, slot: number): number {
    const now = this.#now()
    const current = slotAt(group.slotRule, now)
    if (slot < current - FORMER_SLOTS || slot > current + group.policy.lead)
      throw new Refused('EXPIRED', {
        field: 'slot',
        detail: 'the slot is not one that permits are made for now',
      })
    return now
  }

  #now(): number {
    return Math.floor(this.#ports.clock() / 1000)
  }

  /** Those of our keys that the group document names. */
  #signers(group: Group): readonly Signer[] {
    return this.#ports
      .signers()
      .filter(({ kid, key }) => group.raKeys.keys.get(kid)?.equals(key.publicKey) === true)
  }

  #signer(group: Group): Signer {
    const [signer] = this.#signers(group)
    if (signer === undefined) throw new Refused('RETRY_LATER', { log: 'the group names none of our RA keys' })
    return signer
  }

  async #stillGood(ticket: readonly string[]): Promise<boolean> {
    try {
      const now = this.#ports.clock() + TICKET_REST * 1000
      await verifyTicket({ ticket, group: this.#ports.group(), now })
      return true
    } catch (error) {
      // Out of time or epoch, or signed by a key that has been changed since.
      if (error instanceof Refused) return false
      throw error
    }
  }
}

/** What names a registration byte for byte; DecodeError for attributes that have no encoding. */
export function registrationDigest(fields: {
  kind: 'device' | 'user' | 'pin'
  hpkeKey: Uint8Array
  nonce?: Uint8Array
  attributes?: Attributes
  instance?: string
  codeId?: Uint8Array | undefined
  mac?: Uint8Array | undefined
  idCore?: IdCore
  userCore?: Uint8Array
  pinGen?: number
}): Uint8Array {
  return sha256(
    encodeTlv([
      utf8(fields.kind),
      fields.hpkeKey,
      fields.nonce,
      fields.attributes === undefined ? undefined : encodeAttributes(fields.attributes),
      fields.instance === undefined ? undefined : utf8(fields.instance),
      fields.codeId,
      fields.mac,
      fields.idCore?.bytes,
      fields.userCore,
      fields.pinGen === undefined ? undefined : be32(fields.pinGen),
    ]),
  )
}

function userFields(
  userCore: Uint8Array | undefined,
  pinGen?: number,
): { userCore?: string; pinGen?: number } {
  return {
    ...(userCore === undefined || userCore.length === 0 ? {} : { userCore: toBase64Url(userCore) }),
    ...(pinGen === undefined ? {} : { pinGen }),
  }
}

/** A clock from before the group's first slot is in that one. */
const revokedLeaf =
  ({ slotRule }: Group) =>
  ({ idCore: { leaf }, since = 0 }: Revoked): RevokedLeaf => ({
    leaf,
    slot: slotAt(slotRule, Math.max(slotRule.origin, since)),
  })

function epochAt(group: Group, purpose: Purpose, slot: number): number {
  const epoch = group.epochAt(purpose, slot)
  if (epoch === null) throw new Refused('RETRY_LATER', { detail: 'the group has not begun' })
  return epoch
}
