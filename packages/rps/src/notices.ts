/**
 * What the RPA is told of those who log in: the `authenticated` callback, at least once, in order, many at a time.
 *
 *   login decided → row in the store → the answer to the device
 *                         ↓ at once, or GATHER after the last request
 *                   the oldest NOTICES rows, one signed request → taken → rows deleted → the next rows
 *                                                              ↘ anything else → the same rows after a pause that doubles
 *
 * One request is under way at a time, and none overtakes another. What a crash, or an RPA that is away, keeps from being
 * told is told later, under the `id` that it had. Replicas on one store may each tell what the other is telling.
 */
import { UnexpectedAnswer, Unreachable } from '@milagro-ts/api/call'
import { Courier } from '@milagro-ts/api/courier'
import type { Log } from '@milagro-ts/api/log'
import type { Metrics } from '@milagro-ts/api/metrics'
import { Refused } from '@milagro-ts/api/problem'
import { NOTICES, type Notice } from '@milagro-ts/api/rpa-routes'
import type { Timers } from '@milagro-ts/api/system'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import type { Clock, Random } from '@milagro-ts/crypto/ports'
import type { Store } from '@milagro-ts/store/database'
import type { RelyingParty } from './relying-party.js'

/** Milliseconds between two requests that aren't full: signing and sending one costs as much as a login. */
const GATHER = 250
const FIRST_PAUSE = 1_000
const LONGEST_PAUSE = 60_000
/** Rows that wait for an RPA that is away, at most: some 300 MB. */
const KEPT = 1_000_000

export interface NoticePorts {
  readonly store: Store<unknown>
  readonly relyingParty: Pick<RelyingParty, 'happened'>
  readonly clock: Clock
  readonly random: Random
  readonly timers: Timers
  readonly log: Log
  readonly metrics: Metrics
  /** Rows that wait, at most; 1 000 000 unless said. */
  readonly kept?: number
}

/** What happened; when, and under which id it is told, is said here. */
export type Happening = Omit<Notice, 'id' | 'at'>

interface Waiting {
  readonly number: number
  readonly notice: Notice
}

export class Notices {
  readonly #ports: NoticePorts
  readonly #courier: Courier<readonly Waiting[]>
  #isGathering = false
  #endTimer: () => void = () => {}

  constructor(ports: NoticePorts) {
    this.#ports = ports
    this.#courier = new Courier({
      next: () => this.#next(),
      send: waiting => this.#send(waiting),
      describe: troubleOf,
      what: 'notices for the RPA',
      firstPause: FIRST_PAUSE,
      longestPause: LONGEST_PAUSE,
      timers: ports.timers,
      log: ports.log,
    })
  }

  /** Begins with what waits from before. */
  start(): void {
    this.#courier.start()
  }

  /** Resolves when nothing is under way; what waits stays. */
  async stop(): Promise<void> {
    this.#endTimer()
    await this.#courier.stop()
  }

  /** Resolves once it will be told, whatever happens to this process. StoreError. */
  async add(happening: Happening): Promise<void> {
    const { store, clock, random } = this.#ports
    const notice: Notice = {
      id: toBase64Url(random(16)),
      at: Math.floor(clock() / 1000),
      ...happening,
    }
    await store.atomic(connection =>
      connection.run('INSERT INTO notice (notice) VALUES (?)', [JSON.stringify(notice)]),
    )
    // After a failure the courier's own pause decides.
    if (!this.#isGathering && this.#courier.trouble === undefined) this.#courier.wake()
  }

  /** Forgets the oldest of those that are too many. */
  async purge(): Promise<void> {
    const { store, log, metrics, kept = KEPT } = this.#ports
    const { waiting, dropped } = await store.atomic(connection => {
      const [row] = connection.all('SELECT min(number) AS first, max(number) AS last FROM notice')
      if (typeof row?.first !== 'number' || typeof row.last !== 'number') return { waiting: 0, dropped: 0 }
      const { first, last } = row
      const dropped = connection.run('DELETE FROM notice WHERE number <= ?', [last - kept])
      return { waiting: Math.min(kept, last - first + 1), dropped }
    })
    metrics.gauge('notices_waiting', waiting)
    if (dropped === 0) return
    metrics.count('notices_dropped')
    log.error({ dropped }, 'the RPA was away for too long: it will not be told of everything that happened')
  }

  async #next(): Promise<readonly Waiting[] | undefined> {
    if (this.#isGathering) return undefined
    const rows = await this.#ports.store.atomic(connection =>
      connection.all('SELECT number, notice FROM notice ORDER BY number LIMIT ?', [NOTICES]),
    )
    if (rows.length === 0) return undefined
    return rows.map(({ number, notice }) => ({
      number: Number(number),
      notice: JSON.parse(notice as string) as Notice,
    }))
  }

  async #send(waiting: readonly Waiting[]): Promise<void> {
    const { store, relyingParty, log, metrics } = this.#ports
    const unknown = await relyingParty.happened(waiting.map(({ notice }) => notice))
    if (unknown.length > 0) {
      metrics.count('notices_of_unknown')
      log.error({ notices: unknown }, 'the RPA does not know an identity that has proven itself')
    }
    const last = (waiting.at(-1) as Waiting).number
    await store.atomic(connection => connection.run('DELETE FROM notice WHERE number <= ?', [last]))
    if (waiting.length < NOTICES) this.#gather()
  }

  #gather(): void {
    this.#isGathering = true
    this.#endTimer = this.#ports.timers.after(GATHER, () => {
      this.#isGathering = false
      this.#courier.wake()
    })
  }
}

function troubleOf(error: unknown): string {
  if (error instanceof Refused) return `the RPA refuses: ${error.code}`
  if (error instanceof Unreachable) return 'the RPA can’t be reached'
  return error instanceof UnexpectedAnswer ? 'the RPA’s answer is none' : 'the notices could not be sent'
}
