/**
 * Changing an RA key, which every authority's operator has to agree to:
 *
 *   start    new key; next revision of the group document with it in the old one's place; statement by the old key
 *            -- document, statement --> each authority      its operator accepts the document's hash, then it signs
 *   finish   asks again; with t signatures the document proves itself:
 *            -- document --> each authority (t of them: we take it into force too) --> the RPS
 *
 * Both moves may be repeated; whoever was away gets the document later. Which key signs is not a state of ours: it is
 * whichever of our keys the document in force names. The old key is deleted once t authorities and the RPS have the
 * document.
 */
import { type Client, createClient, Unreachable } from '@milagro-ts/api/call'
import { dtaRoutes } from '@milagro-ts/api/dta-routes'
import { documentHash, type Group, type GroupAuthority } from '@milagro-ts/api/group'
import type { GroupDocument } from '@milagro-ts/api/group-document'
import type { Log } from '@milagro-ts/api/log'
import { Refused } from '@milagro-ts/api/problem'
import { rpsRoutes } from '@milagro-ts/api/rps-routes'
import { mayStillSign, type Signer, signRevisionStatement } from '@milagro-ts/api/statements'
import { fromBase64Url, toBase64Url, utf8 } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import type { Clock } from '@milagro-ts/crypto/ports'
import { SUITE } from '@milagro-ts/crypto/suite'
import { encodeTlv } from '@milagro-ts/crypto/tlv'
import type { Store } from '@milagro-ts/store/database'
import type { Selectable } from '@milagro-ts/store/kysely'
import { type Actor, audit } from './audit.js'
import { makeRaKey, readRaKeys, storeRaKey } from './fleet-keys.js'
import type { GroupInForce } from './group-in-force.js'
import type { FleetSchema, RotationTable } from './schema.js'
import type { RowSeal } from './sealed-rows.js'

type Signature = GroupDocument['signatures'][number]
type Rotation = Selectable<RotationTable>

/** Among `delivered`, where authorities stand by index. */
const RPS = 0

export interface RotationStatus {
  readonly state: Rotation['state']
  readonly oldKid: string
  readonly newKid: string
  readonly newKey: string
  readonly revision: number
  /** What each authority's operator accepts: `milagro dta accept HASH`. */
  readonly documentHash: string
  readonly needed: number
  readonly authorities: AuthorityProgress[]
  readonly rpsDelivered: boolean
}

export interface AuthorityProgress {
  readonly index: number
  readonly name: string
  readonly signed: boolean
  readonly delivered: boolean
  /** Why it hasn't signed, or taken, the document: a problem code, or `unreachable`. */
  readonly trouble?: string
}

export interface RotationPorts {
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

export class KeyRotation {
  readonly #ports: RotationPorts
  readonly #rps: Pick<Client<typeof rpsRoutes>, 'publishRevision'>
  /** One move at a time: two would each count half of the signatures. */
  #busy: Promise<unknown> = Promise.resolve()

  constructor(ports: RotationPorts) {
    this.#ports = ports
    this.#rps = createClient(rpsRoutes, { baseUrl: ports.rpsUrl, fetch: ports.fetch, timeout: 5000 })
  }

  /** Refused CONFLICT while another change is under way. */
  start(actor: Actor): Promise<RotationStatus> {
    return this.#alone(async () => {
      const { store, seal, group, signers, clock } = this.#ports
      const now = Math.floor(clock() / 1000)
      const current = group.current
      const old = signers().find(({ kid }) => current.raKeys.keys.has(kid))
      if (old === undefined) throw new Refused('CONFLICT', { detail: 'the group names no key of ours' })
      const made = await makeRaKey()
      const document = nextRevision(current, old.kid, made)
      await current.checkNext(document)
      const statement = await signRevisionStatement(
        {
          suite: SUITE,
          groupId: toBase64Url(current.groupId),
          revision: document.revision,
          documentHash: toBase64Url(documentHash(document)),
          iat: now,
        },
        old,
      )
      await store.db.transaction().execute(async tx => {
        const open = await tx
          .selectFrom('rotation')
          .select('id')
          .where('state', 'in', ['open', 'signed'])
          .executeTakeFirst()
        if (open !== undefined) throw new Refused('CONFLICT', { detail: 'a change of key is under way' })
        await storeRaKey(tx, seal, made, now)
        await tx
          .insertInto('rotation')
          .values({
            old_kid: old.kid,
            new_kid: made.kid,
            document: JSON.stringify(document),
            statement,
            signatures: '[]',
            state: 'open',
            delivered: '[]',
          })
          .execute()
        await audit(tx, now, { actor, action: 'rotate key', subject: made.kid, outcome: 'started' })
      })
      await this.#reloadKeys()
      return this.#advance(await this.#newest())
    })
  }

  /** Asks the authorities for what is missing and goes as far as it gets. Refused NOT_FOUND before `start`. */
  finish(actor: Actor): Promise<RotationStatus> {
    return this.#alone(async () => {
      const rotation = await this.#newest()
      const status = await this.#advance(rotation)
      const now = Math.floor(this.#ports.clock() / 1000)
      const subject = rotation.new_kid
      await audit(this.#ports.store.db, now, { actor, action: 'finish key', subject, outcome: status.state })
      return status
    })
  }

  /**
   * Drops a change that the authorities' operators won't sign. An authority signs one document of a number, so it is Refused
   * CONFLICT once so many have signed that no other document can find t; unless so many others have abandoned this one
   * that it never comes into force.
   */
  abandon(actor: Actor, abandonments: readonly string[] = []): Promise<void> {
    return this.#alone(async () => {
      const { store, clock, group } = this.#ports
      const now = Math.floor(clock() / 1000)
      const { n, t } = group.current
      const newest = await this.#newest()
      const hash = documentHash(JSON.parse(newest.document) as GroupDocument)
      const left = await mayStillSign({ abandonments, group: group.current, documentHash: hash })
      await store.db.transaction().execute(async tx => {
        const open = await tx
          .selectFrom('rotation')
          .selectAll()
          .where('state', 'in', ['open', 'signed'])
          .executeTakeFirst()
        if (open === undefined) throw new Refused('NOT_FOUND', { detail: 'no change of key is under way' })
        if (open.state === 'signed') throw new Refused('CONFLICT', { detail: 'it is signed: finish it' })
        const signers = (JSON.parse(open.signatures) as Signature[]).map(({ index }) => index)
        if (n - signers.length < t && left >= t) {
          const names = signers.map(index => group.current.authority(index)?.name).join(', ')
          throw new Refused('CONFLICT', {
            detail: `signed by ${names}, who will sign no other: finish it, or have ${left - t + 1} others abandon it`,
          })
        }
        await tx.updateTable('rotation').set({ state: 'abandoned' }).where('id', '=', open.id).execute()
        await tx.deleteFrom('ra_key').where('kid', '=', open.new_kid).execute()
        await audit(tx, now, { actor, action: 'rotate key', subject: open.new_kid, outcome: 'abandoned' })
      })
      await this.#reloadKeys()
    })
  }

  /** Brings a signed document to those who were away. For the housekeeping: goes as far as it gets. */
  carryOn(): Promise<void> {
    return this.#alone(async () => {
      const { store, group } = this.#ports
      const newest = await store.db
        .selectFrom('rotation')
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

  async #newest(): Promise<Rotation> {
    const rotation = await this.#ports.store.db
      .selectFrom('rotation')
      .selectAll()
      .orderBy('id', 'desc')
      .executeTakeFirst()
    if (rotation === undefined || rotation.state === 'abandoned')
      throw new Refused('NOT_FOUND', { detail: 'no change of key is under way' })
    return rotation
  }

  async #advance(rotation: Rotation): Promise<RotationStatus> {
    const { group } = this.#ports
    const document = JSON.parse(rotation.document) as GroupDocument
    const troubles = new Map<number, string>()
    let state = rotation.state
    let signatures = JSON.parse(rotation.signatures) as Signature[]
    const delivered = new Set(JSON.parse(rotation.delivered) as number[])
    const before = group.current
    // A rotation changes no authority and no t, so the signers are the same before and after.
    const { authorities, t } = before

    if (state === 'open') {
      signatures = await this.#collect(document, rotation.statement, authorities, signatures, troubles)
      if (signatures.length >= t) state = 'signed'
      await this.#save(rotation.id, { state, signatures: JSON.stringify(signatures) })
    }
    if (state === 'signed' || state === 'done') {
      // The signatures were saved before anybody gets them: every copy carries the same.
      const signed = { ...document, signatures }
      await this.#deliver(signed, authorities, delivered, troubles)
      if ([...delivered].filter(index => index !== RPS).length >= t) {
        await group.adopt(signed)
        await this.#publish(signed, delivered)
        if (delivered.has(RPS)) state = 'done'
      }
      await this.#save(rotation.id, { state, delivered: JSON.stringify([...delivered]) })
      if (state === 'done') await this.#forget(rotation.old_kid)
    }
    return {
      state,
      oldKid: rotation.old_kid,
      newKid: rotation.new_kid,
      newKey: document.ra.keys.find(({ kid }) => kid === rotation.new_kid)?.key ?? '',
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
          const { signature } = await client.proposeRevision({
            params: { groupId },
            body: { document, statement },
          })
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
            await this.#authority(authority).concludeRevision({ params: { groupId }, body: { document } })
            delivered.add(authority.index)
          } catch (error) {
            troubles.set(authority.index, this.#troubleOf(error, authority.name))
          }
        }),
    )
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
    if (error instanceof Unreachable) return 'unreachable'
    if (error instanceof DecodeError) return `MALFORMED ${error.field}`
    return 'unexpected answer'
  }

  async #forget(kid: string): Promise<void> {
    await this.#ports.store.db.deleteFrom('ra_key').where('kid', '=', kid).execute()
    await this.#reloadKeys()
  }

  async #reloadKeys(): Promise<void> {
    this.#ports.setSigners(await readRaKeys(this.#ports.store.db, this.#ports.seal))
  }

  async #save(id: number, columns: Partial<Omit<Rotation, 'id'>>): Promise<void> {
    await this.#ports.store.db.updateTable('rotation').set(columns).where('id', '=', id).execute()
  }

  #alone<Result>(work: () => Promise<Result>): Promise<Result> {
    const result = this.#busy.then(work)
    this.#busy = result.catch(() => undefined)
    return result
  }
}

function nextRevision(current: Group, oldKid: string, made: Signer): GroupDocument {
  const { document } = current
  const entry = { kid: made.kid, key: made.key.publicKey.toBase64Url() }
  return {
    ...document,
    revision: document.revision + 1,
    groupId: toBase64Url(current.groupId),
    previous: toBase64Url(documentHash(document)),
    ra: { ...document.ra, keys: document.ra.keys.map(key => (key.kid === oldKid ? entry : key)) },
    signatures: [],
  }
}
