/**
 * A car that drives and reports: it takes a position at every tick, and sends what waits as the next batch of its
 * track. Until a batch is answered the same batch is sent again, so a lost answer, a server that is down, or a start of
 * the car itself loses nothing and repeats nothing.
 */
import { type Client, UnexpectedAnswer, Unreachable } from '@milagro-ts/api/call'
import { type Code, Refused } from '@milagro-ts/api/problem'
import { ClientError } from '@milagro-ts/client/errors'
import { fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import type { Clock } from '@milagro-ts/crypto/ports'
import type { Notes } from './car-notes.js'
import type { Drive } from './gpx.js'
import {
  appendBatch,
  type Batch,
  type HeadWord,
  headPayload,
  type Position,
  type TrackEnd,
  trackStart,
} from './track-chain.js'
import { MOST_POSITIONS, type trackingRoutes } from './tracking-routes.js'

/** The car's identity as it needs it here; car-main.ts makes it from the SDK. */
export interface CarIdentity {
  readonly groupId: Uint8Array
  /** base64url */
  readonly idCore: string
  /**
   * What a request to the tracking server carries: an access token, renewed before it ends. Undefined where the car logs in
   * on its connections. `fresh` throws the login in hand away.
   */
  authorization(options: { fresh: boolean }): Promise<string | undefined>
  /** Logs in at the RPS, which says why a car isn't let in where TLS says nothing. */
  login(): Promise<unknown>
  /** A word for a payload: the RPS' receipt for the tracking server, or the car's own signature with its permit. */
  word(payload: Uint8Array): Promise<HeadWord>
  /** Goes on without the driver; false when there was none. */
  leaveDriver(): boolean
}

export interface CarOptions {
  readonly identity: CarIdentity
  readonly tracking: Client<typeof trackingRoutes>
  readonly drive: Drive
  readonly notes: Notes | null
  readonly save: (notes: Notes) => Promise<void>
  readonly clock: Clock
  /** Milliseconds between two positions. */
  readonly interval: number
  /** What happened, for whoever watches. */
  readonly say: (event: CarEvent) => void
}

export type CarEvent =
  | { readonly event: 'stored'; readonly number: number; readonly positions: number; readonly total: number }
  | { readonly event: 'refused'; readonly code: Code; readonly waiting: number }
  /** No usable answer; the same again later. */
  | { readonly event: 'trouble'; readonly why: string; readonly waiting: number }
  | { readonly event: 'driver-left'; readonly code: Code }

/** Positions that wait at most; a car without a network for longer forgets the oldest. */
const MOST_WAITING = 20_000
/** Refusals that end the driver's seat, not the car's journey. */
const DRIVERS: readonly Code[] = ['BANNED', 'LOCKED', 'WRONG_PIN']

export class SimulatedCar {
  readonly #options: CarOptions
  #notes: Notes
  #word: { readonly number: number; readonly word: HeadWord } | undefined
  #needsLogin = false
  #stored = 0
  #saving: Promise<unknown> = Promise.resolve()

  constructor(options: CarOptions) {
    this.#options = options
    const { identity, notes } = options
    this.#notes =
      notes !== null && notes.idCore === identity.idCore
        ? notes
        : {
            idCore: identity.idCore,
            taken: 0,
            end: trackStart(identity.groupId, fromBase64Url(identity.idCore, 'idCore', 39)),
            waiting: [],
            unanswered: undefined,
          }
  }

  /** Takes the next position of the drive: that one. */
  async tick(): Promise<Position> {
    const { clock, drive, interval } = this.#options
    const { waiting, taken, unanswered, end } = this.#notes
    const last = waiting.at(-1) ?? unanswered?.positions.at(-1) ?? end
    const fix = drive.at((taken * interval) / 1000)
    const position: Position = {
      // A clock that was set back must not make the track go back.
      at: Math.max(clock(), last.at + 1),
      latE7: fix.latE7,
      lonE7: fix.lonE7,
      speed: Math.min(0xffff, Math.round(fix.speed * 100)),
      heading: fix.heading,
    }
    await this.#change({ taken: taken + 1, waiting: [...waiting, position].slice(-MOST_WAITING) })
    return position
  }

  /** Sends what waits, as one batch. True: it was stored (or nothing waited). Never throws for a no of a server. */
  async report(): Promise<boolean> {
    const { identity, tracking, say } = this.#options
    const batch = await this.#nextBatch()
    if (batch === null) return true
    try {
      if (this.#word?.number !== batch.number) {
        const word = await identity.word(headPayload(batch.number, batch.head))
        this.#word = { number: batch.number, word }
      }
      const credential = await this.#credential(this.#needsLogin)
      this.#needsLogin = false
      const { end } = await tracking.append({
        ...credential,
        body: {
          number: batch.number,
          previous: toBase64Url(batch.previous),
          positions: [...batch.positions],
          head: toBase64Url(batch.head),
          ...this.#word.word,
        },
      })
      await this.#change({ end: decodeEnd(end), unanswered: undefined })
      this.#stored += batch.positions.length
      say({ event: 'stored', number: batch.number, positions: batch.positions.length, total: this.#stored })
      return true
    } catch (error) {
      await this.#afterRefusal(error)
      return false
    }
  }

  async #nextBatch(): Promise<Batch | null> {
    const { unanswered, waiting, end } = this.#notes
    if (unanswered !== undefined) return unanswered
    if (waiting.length === 0) return null
    const idCore = fromBase64Url(this.#notes.idCore, 'idCore', 39)
    const [batch] = appendBatch(idCore, end, waiting.slice(0, MOST_POSITIONS))
    await this.#change({ unanswered: batch, waiting: waiting.slice(MOST_POSITIONS) })
    return batch
  }

  async #afterRefusal(error: unknown): Promise<void> {
    const { identity, say } = this.#options
    const waiting = this.#notes.waiting.length + (this.#notes.unanswered?.positions.length ?? 0)
    if (isTurnedAway(error)) {
      const why = await identity.login().then(
        () => undefined,
        (refusal: unknown) => refusal,
      )
      if (why !== undefined) return this.#afterRefusal(why)
    }
    if (error instanceof Unreachable || error instanceof UnexpectedAnswer || error instanceof ClientError) {
      return say({ event: 'trouble', why: error.message, waiting })
    }
    if (!(error instanceof Refused)) throw error
    if (DRIVERS.includes(error.code) && identity.leaveDriver()) {
      this.#needsLogin = true
      return say({ event: 'driver-left', code: error.code })
    }
    // A signature is of a slot, and the batch may have waited for longer.
    if (error.code === 'EXPIRED') this.#word = undefined
    if (error.code === 'CONFLICT' || error.code === 'REPLAYED') await this.#rebase()
    else if (error.code !== 'RETRY_LATER') this.#needsLogin = true
    say({ event: 'refused', code: error.code, waiting })
  }

  /** The track stands elsewhere than the car's notes say (they were lost, or restored): carries on from there. */
  async #rebase(): Promise<void> {
    const end = decodeEnd(await this.#options.tracking.end(await this.#credential(true)))
    const { unanswered, waiting } = this.#notes
    const again = [...(unanswered?.positions ?? []), ...waiting].filter(position => position.at > end.at)
    this.#word = undefined
    await this.#change({ end, unanswered: undefined, waiting: again })
  }

  async #credential(fresh: boolean): Promise<{ authorization?: string }> {
    const authorization = await this.#options.identity.authorization({ fresh })
    return authorization === undefined ? {} : { authorization }
  }

  /** Takes the change at once, and is done when the file has it; one save at a time, so the newest is the last. */
  #change(part: Partial<Notes>): Promise<void> {
    this.#notes = { ...this.#notes, ...part }
    const saved = this.#saving.then(() => this.#options.save(this.#notes))
    this.#saving = saved.catch(() => undefined)
    return saved
  }
}

/** Not let in by TLS, which tells nobody why: a ban, a slot that has ended, another server. The RPS says more. */
function isTurnedAway(error: unknown): boolean {
  if (!(error instanceof Unreachable)) return false
  const { code } = (error.cause ?? {}) as NodeJS.ErrnoException
  return code?.startsWith('ERR_SSL_') === true
}

function decodeEnd(end: { next: number; head: string; at: number }): TrackEnd {
  return { next: end.next, head: fromBase64Url(end.head, 'head', 32), at: end.at }
}
