/**
 * Brings events to the RPS: in order, each until the RPS has it, at once when there is a new one. An event is signed
 * when it is sent, so that one that waited through a change of the RA's key still verifies.
 *
 *   commit → wake → push event n → {number ≥ n} → sent → event n + 1 …
 *                              ↘ anything else → again after 0.1 s, 0.2 s … 10 s
 *
 * An RPS that was away catches up by the state callback; a number it already has is answered like a new one, with the
 * number that it is at.
 */
import { createClient, Unreachable } from '@milagro-ts/api/call'
import { Courier } from '@milagro-ts/api/courier'
import type { Log } from '@milagro-ts/api/log'
import { Refused } from '@milagro-ts/api/problem'
import { rpsRoutes } from '@milagro-ts/api/rps-routes'
import type { Timers } from '@milagro-ts/api/system'
import { IdCore } from '@milagro-ts/crypto/identity'
import type { Clock } from '@milagro-ts/crypto/ports'
import type { RegistrationAuthority } from '@milagro-ts/rpa/registration-authority'
import type { Store } from '@milagro-ts/store/database'
import type { Kysely, Selectable } from '@milagro-ts/store/kysely'
import { lastNumber, recordEvent } from './events.js'
import type { EventTable, FleetSchema } from './schema.js'

const FIRST_PAUSE = 100
const LONGEST_PAUSE = 10_000
/** Milliseconds that an operator waits for the RPS to hear of what he did. */
const PATIENCE = 2_000
/** How far ahead of our events an RPS may honestly be after we were restored. Numbers end at 2³² − 1. */
const FARTHEST = 1_000_000

export interface OutboxPorts {
  readonly store: Store<FleetSchema>
  readonly authority: RegistrationAuthority
  readonly rpsUrl: string
  readonly fetch: typeof fetch
  readonly clock: Clock
  readonly timers: Timers
  readonly log: Log
}

export interface OutboxStatus {
  readonly lastEvent: number
  /** Events that the RPS hasn't taken yet. */
  readonly waiting: number
  /** Why the last attempt failed; absent when it didn't. */
  readonly trouble?: string
}

export class Outbox {
  readonly #ports: OutboxPorts
  readonly #rps
  readonly #courier: Courier<Selectable<EventTable>>

  constructor(ports: OutboxPorts) {
    this.#ports = ports
    this.#rps = createClient(rpsRoutes, { baseUrl: ports.rpsUrl, fetch: ports.fetch, timeout: 5000 })
    this.#courier = new Courier({
      next: () => this.#next(),
      send: event => this.#send(event),
      describe: troubleOf,
      what: 'events',
      firstPause: FIRST_PAUSE,
      longestPause: LONGEST_PAUSE,
      timers: ports.timers,
      log: ports.log,
    })
  }

  start(): void {
    this.#courier.start()
  }

  /** There may be something to send. Never throws and never waits. */
  wake(): void {
    this.#courier.wake()
  }

  /**
   * Resolves once the RPS has the events there are, or when it is clear that it will hear of them later: it refused one,
   * can't be reached, or took longer than two seconds. So what an operator is answered is nearly always in force.
   */
  async told(): Promise<void> {
    let stopTimer = () => {}
    const late = new Promise<void>(resolve => {
      stopTimer = this.#ports.timers.after(PATIENCE, resolve)
    })
    await Promise.race([this.#courier.settled(), late])
    stopTimer()
  }

  /** Resolves when nothing is under way any more. */
  stop(): Promise<void> {
    return this.#courier.stop()
  }

  async status(): Promise<OutboxStatus> {
    const { db } = this.#ports.store
    const { waiting } = await db
      .selectFrom('event')
      .select(({ fn }) => fn.countAll<number>().as('waiting'))
      .where('sent_at', 'is', null)
      .executeTakeFirstOrThrow()
    const { trouble } = this.#courier
    return { lastEvent: await lastNumber(db), waiting, ...(trouble === undefined ? {} : { trouble }) }
  }

  #next(): Promise<Selectable<EventTable> | undefined> {
    return this.#ports.store.db
      .selectFrom('event')
      .selectAll()
      .where('sent_at', 'is', null)
      .orderBy('number')
      .executeTakeFirst()
  }

  async #send(row: Selectable<EventTable>): Promise<void> {
    const { store, authority, clock, log } = this.#ports
    const event = await authority.event({
      number: row.number,
      at: row.at,
      kind: row.kind,
      idCore: IdCore.decode(row.id_core),
      userCore: row.user_core ?? undefined,
      pinGen: row.pin_gen ?? undefined,
    })
    const { number } = await this.#rps.pushEvent({ body: { event } })
    // Beyond it a lying RPS could use all numbers up, and no ban would ever be told to anybody again.
    if (number < row.number || number > row.number + FARTHEST)
      throw new Refused('CONFLICT', { log: `the RPS is at event ${number}` })
    await store.db.transaction().execute(async tx => {
      await tx
        .updateTable('event')
        .set({ sent_at: Math.floor(clock() / 1000) })
        .where('number', '=', row.number)
        .execute()
      const last = await lastNumber(tx)
      if (number <= last) return
      log.error(
        { ours: last, theirs: number },
        'the RPS knows later events than this database: check the bans',
      )
      await renumber(tx, row.number, number)
    })
  }
}

function troubleOf(error: unknown): string {
  if (error instanceof Refused) return `${error.code}${error.log === undefined ? '' : ` (${error.log})`}`
  return error instanceof Unreachable ? 'the RPS can’t be reached' : 'the event could not be sent'
}

/**
 * Only a fleet whose database was restored is behind its RPS, which took `sent` for an event that it had long ago. So
 * that event, and those behind it, are told again under numbers that the RPS hasn't seen; the number left out between
 * makes it ask for the whole state.
 */
async function renumber(tx: Kysely<FleetSchema>, sent: number, theirs: number): Promise<void> {
  const rows = await tx
    .selectFrom('event')
    .selectAll()
    .where('number', '>=', sent)
    .orderBy('number')
    .execute()
  await tx.deleteFrom('event').where('number', '>=', sent).execute()
  await tx
    .updateTable('counter')
    .set({ value: theirs + 1 })
    .where('name', '=', 'event')
    .execute()
  for (const { kind, id_core, user_core, pin_gen, at } of rows)
    await recordEvent(tx, at, {
      kind,
      idCore: IdCore.decode(id_core),
      ...(user_core === null ? {} : { userCore: user_core }),
      ...(pin_gen === null ? {} : { pinGen: pin_gen }),
    })
}
