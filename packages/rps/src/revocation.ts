/**
 * Who is banned and who is revoked: the RA's signed state, and its numbered, signed events after it.
 *
 *   start, gap, new RA keys    the RPA's state, whole        a lower number than ours is passed over: nobody goes back
 *   event number + 1           applied, kept, passed on
 *   event ≤ number             had already: nothing; but an unlock or a new ticket that a state has skipped is no part
 *                              of the state, so it still takes effect, once
 *
 * The list lives in the store, so that every replica refuses from the moment one of them has the event, and a restart
 * forgets nobody. Without any state nothing is known, and everything is RETRY_LATER.
 */
import type { Group } from '@milagro-ts/api/group'
import type { Log } from '@milagro-ts/api/log'
import { Refused } from '@milagro-ts/api/problem'
import { type EventPayload, type RevocationState, verifyEvent, verifyState } from '@milagro-ts/api/statements'
import { fromBase64Url } from '@milagro-ts/crypto/bytes'
import { IdCore, NO_USER } from '@milagro-ts/crypto/identity'
import type { Connection, Reader, Store } from '@milagro-ts/store/database'
import type { SingleUse } from '@milagro-ts/store/single-use'
import type { Accounts } from './accounts.js'
import type { RelyingParty } from './relying-party.js'
import { strikeAccount } from './verification.js'

/** Events kept for those who resume. */
const KEPT_EVENTS = 10_000
/** Events since the state that newcomers are sent: beyond it the state is fetched again. */
const STATE_LAG = 1_000
/** Events read at once. */
const PAGE = 200
/** PIN generations below the newest that an unlock reaches: the one in use while its successor is being fetched. */
const UNLOCKED_GENERATIONS = 8

export interface RevocationPorts {
  readonly store: Store<unknown>
  readonly singleUse: SingleUse
  readonly accounts: Accounts
  readonly relyingParty: RelyingParty
  readonly group: () => Promise<Group>
  readonly log: Log
}

/** What a follower of the events is to be sent next; both empty when it has everything. */
export interface Next {
  readonly state?: { readonly number: number; readonly statement: string }
  readonly events: readonly { readonly number: number; readonly event: string }[]
}

interface Held {
  readonly number: number
  readonly floor: number
  readonly state: string
  readonly stateNumber: number
  readonly stateRevision: number
  readonly resumable: number
}

/** What was taken in: may it be other leaves that get permits? */
export interface Change {
  readonly leaves: boolean
}
type Listener = (change: Change) => void

export class Revocation {
  readonly #ports: RevocationPorts
  readonly #listeners = new Set<Listener>()
  #refreshing: Promise<void> | undefined

  constructor(ports: RevocationPorts) {
    this.#ports = ports
  }

  /** Refused REVOKED or BANNED; RETRY_LATER when no state was ever had. */
  async check(idCore: IdCore, userCore: Uint8Array = NO_USER): Promise<void> {
    const look = () =>
      this.#ports.store.read(reader => ({
        // Not the row: the state in it may be megabytes, and every login looks twice.
        hasState: reader.all('SELECT 1 FROM revocation').length > 0,
        denied: denied(reader, idCore, userCore),
      }))
    let found = await look()
    if (!found.hasState) {
      await this.refresh()
      found = await look()
    }
    if (found.denied.includes('revoked')) throw new Refused('REVOKED')
    if (found.denied.includes('banned')) throw new Refused('BANNED')
  }

  /** The number of the newest event or state; null before the first state. */
  async number(): Promise<number | null> {
    return (await this.#ports.store.atomic(held))?.number ?? null
  }

  /** Fetches the RPA's state and takes it in. Refused RETRY_LATER. */
  async refresh(): Promise<void> {
    this.#refreshing ??= this.#refresh().finally(() => {
      this.#refreshing = undefined
    })
    await this.#refreshing
  }

  /**
   * Takes one pushed event. Returns the number that we are at after it. Refused NOT_APPROVED, CONFLICT or RETRY_LATER;
   * DecodeError.
   */
  async push(event: string): Promise<number> {
    const payload = await verifyEvent({ event, group: await this.#ports.group() })
    let number = await this.#take(event, payload)
    if (number === null) {
      await this.refresh()
      number = await this.#take(event, payload)
    }
    if (number === null)
      throw new Refused('CONFLICT', {
        detail: 'the revocation state is older than the event before this one',
      })
    this.#changed({ leaves: changesLeaves(payload) })
    return number
  }

  /** What comes after event `cursor` (null: from the beginning). Refused RETRY_LATER when there is no state. */
  async after(cursor: number | null): Promise<Next> {
    const next = await this.#ports.store.atomic(connection => {
      const now = held(connection)
      if (now === undefined) return null
      const { number, state, stateNumber, resumable } = now
      if (cursor === number) return { events: [] }
      const canResume = cursor !== null && resumable <= cursor && cursor < number
      const resumed = canResume ? eventsAfter(connection, cursor) : []
      if (cursor !== null && resumed.length > 0 && resumed.every((row, i) => row.number === cursor + 1 + i))
        return { events: resumed }
      // A hole, or a follower that is ahead of us: only the state tells where we are.
      return {
        state: { number: stateNumber, statement: state },
        events: eventsAfter(connection, stateNumber),
      }
    })
    if (next === null) throw new Refused('RETRY_LATER', { detail: 'no revocation state yet', retryAfter: 5 })
    return next
  }

  /** False when there is no state, or one signed under an earlier group document: its RA keys may have changed. */
  async isCurrent(): Promise<boolean> {
    const { revision } = await this.#ports.group()
    const now = await this.#ports.store.atomic(held)
    return now !== undefined && now.stateRevision >= revision
  }

  /** Calls `changed` whenever this process has taken something in. Returns the function that ends it. */
  onChange(changed: Listener): () => void {
    this.#listeners.add(changed)
    return () => this.#listeners.delete(changed)
  }

  /** Forgets old events; asks for a newer state when followers would be sent too many events after it. */
  async purge(): Promise<void> {
    const now = await this.#ports.store.atomic(connection => {
      const before = held(connection)
      if (before === undefined) return undefined
      const floor = Math.max(before.floor, Math.min(before.number - KEPT_EVENTS, before.stateNumber))
      connection.run('DELETE FROM event WHERE number <= ?', [floor])
      connection.run('UPDATE revocation SET floor = ?', [floor])
      return before
    })
    if (now === undefined || now.number - now.stateNumber > STATE_LAG) await this.refresh()
  }

  async #refresh(): Promise<void> {
    const { relyingParty, group, log, store, accounts } = this.#ports
    const statement = await relyingParty.state()
    const verifier = await group()
    let state: RevocationState
    try {
      state = await verifyState({ state: statement, group: verifier })
    } catch (error) {
      throw new Refused('RETRY_LATER', { log: `the RPA's state: ${(error as Error).message}`, retryAfter: 5 })
    }
    const before = await store.atomic(connection => {
      const now = held(connection)
      if (now === undefined || state.number >= now.number)
        replace(connection, { state, statement, revision: verifier.revision }, now)
      if (now === undefined || state.number > now.number) accounts.doubt(connection)
      return now
    })
    if (before !== undefined && state.number < before.number)
      log.error(
        { theirs: state.number, ours: before.number },
        'the RPA went back to an older state: passed over',
      )
    this.#changed({ leaves: true })
  }

  /** Null: something is missing before this event. */
  async #take(event: string, payload: EventPayload): Promise<number | null> {
    const { store, singleUse, accounts } = this.#ports
    const standing = await store.atomic(connection => standingOf(connection, payload.number))
    if (standing === null) return null
    if (standing.isHad) return standing.number
    const idCore = IdCore.fromBase64Url(payload.idCore)
    const userCore =
      payload.userCore === undefined ? NO_USER : fromBase64Url(payload.userCore, 'userCore', 32)
    // Before the event counts as had: a crash in between has it sent and done again, which changes nothing.
    if (payload.kind === 'unlock') {
      const live = await accounts.live(idCore, userCore)
      const newest = Math.max(payload.pinGen ?? 0, live?.issued ?? 0)
      const oldest = Math.max(live?.accepted ?? 0, newest - UNLOCKED_GENERATIONS)
      for (let pinGen = oldest; pinGen <= newest; pinGen++)
        await singleUse.unlock(strikeAccount(idCore, userCore, pinGen))
    }
    if (payload.kind === 'account' && payload.pinGen !== undefined)
      await accounts.issued(idCore, userCore, payload.pinGen, { isNew: true })
    return store.atomic(connection => {
      const now = standingOf(connection, payload.number)
      if (now === null || now.isHad) return now?.number ?? null
      connection.run('INSERT INTO event (number, event) VALUES (?, ?)', [payload.number, event])
      // What a state has skipped is in it, as far as bans go.
      if (payload.number <= now.number) return now.number
      apply(connection, payload.kind, idCore, userCore)
      connection.run('UPDATE revocation SET number = ?', [payload.number])
      return payload.number
    })
  }

  #changed(change: Change): void {
    for (const listener of this.#listeners) listener(change)
  }
}

/** Users are banned online alone, and of PINs a permit says nothing. */
function changesLeaves({ kind, userCore }: EventPayload): boolean {
  return kind === 'revoke' || ((kind === 'ban' || kind === 'unban') && userCore === undefined)
}

function held(connection: Connection): Held | undefined {
  const [row] = connection.all('SELECT * FROM revocation')
  if (row === undefined) return undefined
  return {
    number: Number(row.number),
    floor: Number(row.floor),
    state: row.state as string,
    stateNumber: Number(row.state_number),
    stateRevision: Number(row.state_revision),
    resumable: Number(row.resumable),
  }
}

/** Where we are with regard to event `number`; null when something is missing before it. */
function standingOf(connection: Connection, number: number): { number: number; isHad: boolean } | null {
  const now = held(connection)
  if (now === undefined || number > now.number + 1) return null
  if (number <= now.floor) return { number: now.number, isHad: true }
  const [row] = connection.all('SELECT 1 FROM event WHERE number = ?', [number])
  return { number: now.number, isHad: row !== undefined }
}

function eventsAfter(connection: Connection, number: number): { number: number; event: string }[] {
  return connection
    .all('SELECT number, event FROM event WHERE number > ? ORDER BY number LIMIT ?', [number, PAGE])
    .map(row => ({ number: Number(row.number), event: row.event as string }))
}

function denied(reader: Reader, idCore: IdCore, userCore: Uint8Array): unknown[] {
  return reader
    .all('SELECT kind FROM denied WHERE id_core = ? AND user_core IN (?, ?)', [
      idCore.bytes,
      NO_USER,
      userCore,
    ])
    .map(row => row.kind)
}

function replace(
  connection: Connection,
  { state, statement, revision }: { state: RevocationState; statement: string; revision: number },
  now: Held | undefined,
): void {
  connection.run('DELETE FROM denied')
  for (const { idCore, userCore } of state.payload.banned)
    apply(
      connection,
      'ban',
      IdCore.fromBase64Url(idCore),
      userCore === undefined ? NO_USER : fromBase64Url(userCore, 'userCore', 32),
    )
  for (const { idCore } of state.payload.revoked)
    apply(connection, 'revoke', IdCore.fromBase64Url(idCore), NO_USER)
  const isNewlySigned = now === undefined || revision > now.stateRevision
  connection.run(
    'INSERT INTO revocation (id, number, floor, state, state_number, state_revision, resumable) ' +
      'VALUES (1, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET number = excluded.number, state = excluded.state, ' +
      'state_number = excluded.state_number, state_revision = excluded.state_revision, resumable = excluded.resumable',
    [
      state.number,
      // Events of before our first state are history: an unlock among them could be anybody's replay.
      now?.floor ?? state.number,
      statement,
      state.number,
      revision,
      isNewlySigned ? state.number : now.resumable,
    ],
  )
}

function apply(
  connection: Connection,
  kind: EventPayload['kind'],
  idCore: IdCore,
  userCore: Uint8Array,
): void {
  const key = [idCore.bytes, userCore]
  const insert = 'INSERT INTO denied (id_core, user_core, kind) VALUES (?, ?, ?) ON CONFLICT DO NOTHING'
  if (kind === 'ban') connection.run(insert, [...key, 'banned'])
  // An identity ends as a whole.
  if (kind === 'revoke') connection.run(insert, [idCore.bytes, NO_USER, 'revoked'])
  if (kind === 'unban')
    connection.run("DELETE FROM denied WHERE id_core = ? AND user_core = ? AND kind = 'banned'", key)
}
