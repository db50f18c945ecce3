/**
 * The next revision of the group document, with another RA key or other recipients. Every authority's operator has to agree to it:
 *
 *   start    the document, a new key in the old one's place or the new list of recipients; statement by the RA key in force
 *            -- document, statement --> each authority      its operator accepts the document's hash, then it signs
 *   finish   asks again; with t signatures the document proves itself:
 *            -- document --> each authority (t of them: we take it into force too) --> the RPS
 *
 * One is under way at a time, whatever it changes: they would have the same number. Both moves may be repeated; whoever was
 * away gets the document later. Which key signs is not a state of ours: it is whichever of our keys the document in force
 * names. An old key is deleted once t authorities and the RPS have the document.
 */
import { type Client, createClient, Unreachable } from '@milagro-ts/api/call'
import { dtaRoutes } from '@milagro-ts/api/dta-routes'
import { documentHash, type Group, type GroupAuthority } from '@milagro-ts/api/group'
import type { GroupDocument } from '@milagro-ts/api/group-document'
import type { Log } from '@milagro-ts/api/log'
import { Refused } from '@milagro-ts/api/problem'
import { type RecipientChange, recipientChanges } from '@milagro-ts/api/revision-changes'
import { rpsRoutes } from '@milagro-ts/api/rps-routes'
import { mayStillSign, type Signer, signRevisionStatement } from '@milagro-ts/api/statements'
import { equalBytes, fromBase64Url, toBase64Url, utf8 } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import type { Clock } from '@milagro-ts/crypto/ports'
import { SUITE } from '@milagro-ts/crypto/suite'
import { encodeTlv } from '@milagro-ts/crypto/tlv'
import type { Store } from '@milagro-ts/store/database'
import type { Kysely, Selectable } from '@milagro-ts/store/kysely'
import { type Actor, audit } from './audit.js'
import { makeRaKey, readRaKeys, storeRaKey } from './fleet-keys.js'
import type { GroupInForce } from './group-in-force.js'
import type { FleetSchema, ProposedRevisionTable } from './schema.js'
import type { RowSeal } from './sealed-rows.js'

type Signature = GroupDocument['signatures'][number]
type Recipients = GroupDocument['recipients']
type Proposed = Selectable<ProposedRevisionTable>
/** What a revision of ours changes. */
type Subject = Proposed['subject']

/** Among `delivered`, where authorities stand by index. */
const RPS = 0

export interface RevisionStatus {
  readonly state: Proposed['state']
  readonly revision: number
  /** What each authority's operator accepts: `milagro dta accept HASH`. */
  readonly documentHash: string
  readonly needed: number
  readonly authorities: AuthorityProgress[]
  readonly rpsDelivered: boolean
}
export interface RotationStatus extends RevisionStatus {
  readonly oldKid: string
  readonly newKid: string
  readonly newKey: string
}
export interface RecipientsStatus extends RevisionStatus {
  readonly changes: RecipientChange[]
}

export interface RevisionUnderWay {
  readonly subject: Subject
  readonly says: string
  readonly state: 'open' | 'signed'
  readonly revision: number
  readonly documentHash: string
}

export interface AuthorityProgress {
  readonly index: number
  readonly name: string
  readonly signed: boolean
  readonly delivered: boolean
  /** Why it hasn't signed, or taken, the document: a problem code, `unreachable`, or a sentence. */
  readonly trouble?: string
}

export interface RevisionPorts {
  readonly store: Store<FleetSchema>
  readonly seal: RowSeal
  readonly group: GroupInForce
  readonly signers: () => readonly Signer[]
  /** The keys held have changed. */
  readonly setSigners: (signers: readonly Signer[]) => void
  readonly clock: Clock
  readonly rpsUrl: string
  readonly fetch: typeof fetch
  readonly log: Log
}

export class NextRevision {
  readonly #ports: RevisionPorts
  readonly #rps: Pick<Client<typeof rpsRoutes>, 'publishRevision'>
  /** One move at a time: two would each count half of the signatures. */
  #busy: Promise<unknown> = Promise.resolve()

  constructor(ports: RevisionPorts) {
    this.#ports = ports
    this.#rps = createClient(rpsRoutes, { baseUrl: ports.rpsUrl, fetch: ports.fetch, timeout: 5000 })
  }

  /** Refused CONFLICT while a revision is under way. */
  rotateKey(actor: Actor): Promise<RotationStatus> {
    return this.#alone(async () => {
      await this.#lookAround()
      const { current } = this.#ports.group
      const [old, made] = [this.#signer(), await makeRaKey()]
      const entry = { kid: made.kid, key: made.key.publicKey.toBase64Url() }
      const keys = current.document.ra.keys.map(key => (key.kid === old.kid ? entry : key))
      const document = nextRevision(current, { ra: { ...current.document.ra, keys } })
      const change = { subject: 'key', document, old, made, says: made.kid } as const
      return rotationOf(await this.#start(change, actor))
    })
  }

  /**
   * @param revision The one whose recipients the caller has seen: Refused CONFLICT where another is in force by now, and while
   *   one is under way; for a list that is in force already, or that brings an old generation back. DecodeError for what no
   *   authority would sign.
   */
  changeRecipients(
    { revision, recipients }: { readonly revision: number; readonly recipients: Recipients },
    actor: Actor,
  ): Promise<RecipientsStatus> {
    return this.#alone(async () => {
      await this.#lookAround()
      const { current } = this.#ports.group
      const conflict = (detail: string) => new Refused('CONFLICT', { detail })
      if (revision !== current.revision)
        throw conflict(`revision ${current.revision} is in force, the list is one for after ${revision}`)
      const changes = recipientChanges(current.document.recipients, recipients)
      if (changes.length === 0) throw conflict('these recipients are in force already')
      const document = nextRevision(current, { recipients })
      checkRecipients(current, recipients)
      const says = changes.map(({ name, change }) => `${name} ${change}`).join(', ')
      const change = { subject: 'recipients', document, old: this.#signer(), says } as const
      return this.#recipientsOf(await this.#start(change, actor))
    })
  }

  /** Asks the authorities for what is missing and goes as far as it gets. Refused NOT_FOUND before `rotateKey`. */
  finishKey(actor: Actor): Promise<RotationStatus> {
    return this.#alone(async () => rotationOf(await this.#finish('key', actor)))
  }

  /** As `finishKey`, after `changeRecipients`. */
  finishRecipients(actor: Actor): Promise<RecipientsStatus> {
    return this.#alone(async () => this.#recipientsOf(await this.#finish('recipients', actor)))
  }

  /**
   * Drops a revision that the authorities' operators won't sign. An authority signs one document of a number, so it is Refused
   * CONFLICT once so many have signed that no other document can find t; unless so many others have abandoned this one
   * that it never comes into force.
   */
  abandon(subject: Subject, actor: Actor, abandonments: readonly string[] = []): Promise<void> {
    return this.#alone(async () => {
      const { store, clock, group } = this.#ports
      const now = Math.floor(clock() / 1000)
      await this.#lookAround()
      const { n, t } = group.current
      const newest = await this.#newest(subject)
      const hash = documentHash(JSON.parse(newest.document) as GroupDocument)
      const left = await mayStillSign({ abandonments, group: group.current, documentHash: hash })
      await store.db.transaction().execute(async tx => {
        const open = await underWay(tx)
        if (open === undefined)
          throw new Refused('NOT_FOUND', { detail: `no ${NAMES[subject]} is under way` })
        if (open.state === 'signed') throw new Refused('CONFLICT', { detail: 'it is signed: finish it' })
        const signers = (JSON.parse(open.signatures) as Signature[]).map(({ index }) => index)
        if (n - signers.length < t && left >= t) {
          const names = signers.map(index => group.current.authority(index)?.name).join(', ')
          throw new Refused('CONFLICT', {
            detail: `signed by ${names}, who will sign no other: finish it, or have ${left - t + 1} others abandon it`,
          })
        }
        await drop(tx, open)
        await audit(tx, now, { actor, ...told(open, 'start'), outcome: 'abandoned' })
      })
      await this.#reloadKeys()
    })
  }

  async underWay(): Promise<RevisionUnderWay | undefined> {
    const open = await underWay(this.#ports.store.db)
    if (open === undefined) return undefined
    const document = JSON.parse(open.document) as GroupDocument
    return {
      subject: open.subject,
      says: open.says,
      state: open.state as 'open' | 'signed',
      revision: document.revision,
      documentHash: toBase64Url(documentHash(document)),
    }
  }

  /** Brings a signed document to those who were away. For the housekeeping: goes as far as it gets. */
  carryOn(): Promise<void> {
    return this.#alone(async () => {
      const { store, group } = this.#ports
      await this.#settle()
      const newest = await store.db
        .selectFrom('proposed_revision')
        .selectAll()
        .where('state', 'in', ['signed', 'done'])
        .orderBy('id', 'desc')
        .executeTakeFirst()
      if (newest === undefined) return
      const delivered = JSON.parse(newest.delivered) as number[]
      // A later revision that somebody else made brings this one's keys along.
      const { revision } = JSON.parse(newest.document) as GroupDocument
      const isNewest = group.current.revision <= revision
      if (isNewest && delivered.length < group.current.n + 1) await this.#advance(newest)
    })
  }

  /** The one of our keys that the group in force names. Refused CONFLICT where it names none. */
  #signer(): Signer {
    const { keys } = this.#ports.group.current.raKeys
    const found = this.#ports.signers().find(({ kid }) => keys.has(kid))
    if (found === undefined) throw new Refused('CONFLICT', { detail: 'the group names no key of ours' })
    return found
  }

  async #start(
    { subject, document, old, made, says }: Start,
    actor: Actor,
  ): Promise<[Proposed, RevisionStatus]> {
    const { store, seal, group, clock } = this.#ports
    const now = Math.floor(clock() / 1000)
    await group.current.checkNext(document)
    const statement = await signRevisionStatement(
      {
        suite: SUITE,
        groupId: toBase64Url(group.current.groupId),
        revision: document.revision,
        documentHash: toBase64Url(documentHash(document)),
        iat: now,
      },
      old,
    )
    const row = {
      subject,
      says,
      old_kid: made === undefined ? null : old.kid,
      new_kid: made === undefined ? null : made.kid,
      document: JSON.stringify(document),
      statement,
      signatures: '[]',
      state: 'open',
      delivered: '[]',
    } as const
    await store.db.transaction().execute(async tx => {
      const open = await underWay(tx)
      if (open !== undefined)
        throw new Refused('CONFLICT', { detail: `a ${NAMES[open.subject]} is under way` })
      if (made !== undefined) await storeRaKey(tx, seal, made, now)
      await tx.insertInto('proposed_revision').values(row).execute()
      await audit(tx, now, { actor, ...told(row, 'start'), outcome: 'started' })
    })
    await this.#reloadKeys()
    const proposed = await this.#newest(subject)
    return [proposed, await this.#advance(proposed)]
  }

  async #finish(subject: Subject, actor: Actor): Promise<[Proposed, RevisionStatus]> {
    await this.#lookAround()
    const proposed = await this.#newest(subject)
    const status = await this.#advance(proposed)
    const now = Math.floor(this.#ports.clock() / 1000)
    await audit(this.#ports.store.db, now, { actor, ...told(proposed, 'finish'), outcome: status.state })
    return [proposed, status]
  }

  /** Refused NOT_FOUND where there is none with that subject, CONFLICT where one with another is under way. */
  async #newest(subject: Subject): Promise<Proposed> {
    const newest = await this.#ports.store.db
      .selectFrom('proposed_revision')
      .selectAll()
      .orderBy('id', 'desc')
      .executeTakeFirst()
    const isOpen = newest?.state === 'open' || newest?.state === 'signed'
    if (isOpen && newest.subject !== subject)
      throw new Refused('CONFLICT', { detail: `it is a ${NAMES[newest.subject]} that is under way` })
    if (newest === undefined || newest.state === 'abandoned' || newest.subject !== subject)
      throw new Refused('NOT_FOUND', { detail: `no ${NAMES[subject]} is under way` })
    return newest
  }

  /** The members may have made a revision a moment ago: one that follows the former would never be signed. */
  async #lookAround(): Promise<void> {
    await this.#ports.group.refresh()
    await this.#settle()
  }

  /**
   * Ends what is under way here where the group has gone past it meanwhile: a ceremony's document has its number, or it came
   * into force, and another after it, while we were away.
   */
  async #settle(): Promise<void> {
    const { store, group, clock } = this.#ports
    const open = await underWay(store.db)
    if (open === undefined) return
    const document = JSON.parse(open.document) as GroupDocument
    const inForce = group.current.documents[document.revision - 1]
    if (inForce === undefined) return
    const isOurs = equalBytes(documentHash(inForce), documentHash(document))
    if (isOurs && group.current.revision === document.revision) return
    const now = Math.floor(clock() / 1000)
    await store.db.transaction().execute(async tx => {
      if (isOurs) await conclude(tx, open)
      else await drop(tx, open)
      const outcome = isOurs ? 'done' : 'overtaken'
      await audit(tx, now, { actor: 'clock', ...told(open, 'finish'), outcome })
    })
    await this.#reloadKeys()
  }

  async #advance(proposed: Proposed): Promise<RevisionStatus> {
    const { store, group } = this.#ports
    const document = JSON.parse(proposed.document) as GroupDocument
    const troubles = new Map<number, string>()
    let state = proposed.state
    let signatures = JSON.parse(proposed.signatures) as Signature[]
    const delivered = new Set(JSON.parse(proposed.delivered) as number[])
    // It changes no authority and no t, so the signers are the same before and after.
    const { authorities, t } = group.current

    if (state === 'open') {
      signatures = await this.#collect(document, proposed.statement, authorities, signatures, troubles)
      if (signatures.length >= t) state = 'signed'
      await this.#save(proposed.id, { state, signatures: JSON.stringify(signatures) })
    }
    // Of one that others have followed already, nobody needs to be told any more.
    if ((state === 'signed' || state === 'done') && document.revision >= group.current.revision) {
      // The signatures were saved before anybody gets them: every copy carries the same.
      const signed = { ...document, signatures }
      await this.#deliver(signed, authorities, delivered, troubles)
      if ([...delivered].filter(index => index !== RPS).length >= t) {
        await group.adopt(signed)
        await this.#publish(signed, delivered)
        if (delivered.has(RPS)) state = 'done'
      }
      await this.#save(proposed.id, { state, delivered: JSON.stringify([...delivered]) })
      if (state === 'done') {
        await conclude(store.db, proposed)
        await this.#reloadKeys()
      }
    }
    return {
      state,
      revision: document.revision,
      documentHash: toBase64Url(documentHash(document)),
      needed: t,
      authorities: authorities.map(({ index, name }) => {
        const trouble = troubles.get(index)
        return {
          index,
          name,
          signed: signatures.some(signature => signature.index === index),
          delivered: delivered.has(index),
          ...(trouble === undefined ? {} : { trouble }),
        }
      }),
      rpsDelivered: delivered.has(RPS),
    }
  }

  #recipientsOf([{ document: text }, status]: readonly [Proposed, RevisionStatus]): RecipientsStatus {
    const { recipients, revision } = JSON.parse(text) as GroupDocument
    const before = this.#ports.group.current.documents[revision - 2] as GroupDocument
    return { ...status, changes: recipientChanges(before.recipients, recipients) }
  }

  /** The signatures there are now: those had before and the good ones among the new answers, by index. */
  async #collect(
    document: GroupDocument,
    statement: string,
    authorities: readonly GroupAuthority[],
    had: readonly Signature[],
    troubles: Map<number, string>,
  ): Promise<Signature[]> {
    const groupId = document.groupId as string
    const message = encodeTlv([utf8('group-document'), documentHash(document)])
    const missing = authorities.filter(({ index }) => had.every(signature => signature.index !== index))
    const answers = await Promise.all(
      missing.map(async authority => {
        try {
          const client = this.#authority(authority)
          const { signature } = await this.#caughtUp(authority, () =>
            client.proposeRevision({ params: { groupId }, body: { document, statement } }),
          )
          const bytes = fromBase64Url(signature, 'signature', 64)
          if (await authority.signKey.verify(message, bytes)) return [{ index: authority.index, signature }]
          troubles.set(authority.index, 'its signature does not verify')
        } catch (error) {
          troubles.set(authority.index, this.#troubleOf(error, authority.name))
        }
        return []
      }),
    )
    return [...had, ...answers.flat()].sort((a, b) => a.index - b.index)
  }

  async #deliver(
    document: GroupDocument,
    authorities: readonly GroupAuthority[],
    delivered: Set<number>,
    troubles: Map<number, string>,
  ): Promise<void> {
    const groupId = document.groupId as string
    await Promise.all(
      authorities
        .filter(({ index }) => !delivered.has(index))
        .map(async authority => {
          try {
            const client = this.#authority(authority)
            await this.#caughtUp(authority, () =>
              client.concludeRevision({ params: { groupId }, body: { document } }),
            )
            delivered.add(authority.index)
          } catch (error) {
            troubles.set(authority.index, this.#troubleOf(error, authority.name))
          }
        }),
    )
  }

  /** An authority takes one revision after the other: one that was away for longer is brought those that it lacks. */
  async #caughtUp<Result>(authority: GroupAuthority, work: () => Promise<Result>): Promise<Result> {
    try {
      return await work()
    } catch (error) {
      if (!(error instanceof Refused) || error.code !== 'CONFLICT') throw error
      const client = this.#authority(authority)
      const { groupId, documents } = this.#ports.group.current
      const params = { groupId: toBase64Url(groupId) }
      const missed = documents.slice((await client.group({ params, query: {} })).revision)
      if (missed.length === 0) throw error
      for (const document of missed)
        await client.concludeRevision({ params, body: { document } }).catch((error: unknown) => {
          throw error instanceof Refused ? new Lacks(document, error) : error
        })
      return work()
    }
  }

  async #publish(document: GroupDocument, delivered: Set<number>): Promise<void> {
    if (delivered.has(RPS)) return
    try {
      await this.#rps.publishRevision({ body: { document } })
      delivered.add(RPS)
    } catch (error) {
      this.#troubleOf(error, 'RPS')
    }
  }

  #authority({ url }: GroupAuthority) {
    return createClient(dtaRoutes, { baseUrl: url, fetch: this.#ports.fetch, timeout: 5000 })
  }

  #troubleOf(error: unknown, name: string): string {
    this.#ports.log.warn({ err: error, peer: name }, 'the next revision was not taken')
    if (error instanceof Refused) return error.code
    if (error instanceof Lacks) return error.message
    if (error instanceof Unreachable) return 'unreachable'
    if (error instanceof DecodeError) return `MALFORMED ${error.field}`
    return 'unexpected answer'
  }

  async #reloadKeys(): Promise<void> {
    this.#ports.setSigners(await readRaKeys(this.#ports.store.db, this.#ports.seal))
  }

  async #save(id: number, columns: Partial<Omit<Proposed, 'id'>>): Promise<void> {
    await this.#ports.store.db.updateTable('proposed_revision').set(columns).where('id', '=', id).execute()
  }

  #alone<Result>(work: () => Promise<Result>): Promise<Result> {
    const result = this.#busy.then(work)
    this.#busy = result.catch(() => undefined)
    return result
  }
}

/** An authority lacks an earlier revision, and doesn't take it: its operator may not have accepted that one. */
class Lacks extends Error {
  override readonly name = 'Lacks'
  constructor(document: GroupDocument, { code }: Refused) {
    super(`${code} for revision ${document.revision}, which it lacks: ${toBase64Url(documentHash(document))}`)
  }
}

/** What is to become of the document in force. */
interface Start {
  readonly subject: Subject
  readonly document: GroupDocument
  /** Signs the statement. */
  readonly old: Signer
  /** Takes its place. */
  readonly made?: Signer
  /** For the audit trail. */
  readonly says: string
}

/** In words, each after `a` or `no`. */
const NAMES: Readonly<Record<Subject, string>> = {
  key: 'change of key',
  recipients: 'change of recipients',
}
const ACTIONS = {
  key: { start: 'rotate key', finish: 'finish key' },
  recipients: { start: 'change recipients', finish: 'finish recipients' },
} as const satisfies Record<Subject, object>

function told({ subject, says }: Pick<Proposed, 'subject' | 'says'>, move: 'start' | 'finish') {
  return { action: ACTIONS[subject][move], subject: says }
}

function underWay(db: Kysely<FleetSchema>): Promise<Proposed | undefined> {
  return db
    .selectFrom('proposed_revision')
    .selectAll()
    .where('state', 'in', ['open', 'signed'])
    .executeTakeFirst()
}

/** It never comes into force. */
async function drop(db: Kysely<FleetSchema>, { id, new_kid }: Proposed): Promise<void> {
  await db.updateTable('proposed_revision').set({ state: 'abandoned' }).where('id', '=', id).execute()
  if (new_kid !== null) await db.deleteFrom('ra_key').where('kid', '=', new_kid).execute()
}

/** Everybody who needs it has it. */
async function conclude(db: Kysely<FleetSchema>, { id, old_kid }: Proposed): Promise<void> {
  await db.updateTable('proposed_revision').set({ state: 'done' }).where('id', '=', id).execute()
  if (old_kid !== null) await db.deleteFrom('ra_key').where('kid', '=', old_kid).execute()
}

function nextRevision(
  current: Group,
  changes: Partial<Pick<GroupDocument, 'ra' | 'recipients'>>,
): GroupDocument {
  const { document } = current
  return {
    ...document,
    revision: document.revision + 1,
    groupId: toBase64Url(current.groupId),
    previous: toBase64Url(documentHash(document)),
    ...changes,
    signatures: [],
  }
}

/** What authorities would sign, and no RA wants. Refused CONFLICT. */
function checkRecipients(current: Group, recipients: Recipients): void {
  const conflict = (detail: string) => new Refused('CONFLICT', { detail })
  const pinned = (list: Recipients) => list.filter(({ purposes }) => purposes.includes('pin'))
  const [rps] = pinned(current.document.recipients)
  // Another one would count wrong PINs from zero, and with other keys than the RPS has no operator logs in to put it right.
  if (recipientChanges(pinned(current.document.recipients), pinned(recipients)).length > 0)
    throw conflict(`${rps?.name} stays the one recipient of pin, as it is`)
  const ever = current.documents.flatMap(document => document.recipients)
  for (const { name, generation } of recipients) {
    const highest = Math.max(0, ...ever.filter(one => one.name === name).map(one => one.generation))
    if (generation < highest)
      throw conflict(`${name} has had generation ${highest}: the keys of an older one may be in other hands`)
  }
}

function rotationOf([{ document, old_kid, new_kid }, status]: readonly [
  Proposed,
  RevisionStatus,
]): RotationStatus {
  const { ra } = JSON.parse(document) as GroupDocument
  return {
    ...status,
    oldKid: old_kid as string,
    newKid: new_kid as string,
    newKey: ra.keys.find(({ kid }) => kid === new_kid)?.key ?? '',
  }
}
