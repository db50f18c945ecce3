/**
 * Follows the RPS' stream of ban events and keeps a deny list, so that an access token that was issued before a ban
 * opens nothing after it.
 *
 *   RPS  -- state (mpin-state+jwt), then events (mpin-event+jwt), heartbeats between them -->  EventFollower
 *   DenyList: the state by number, each event the next number; a hole makes the follower ask for the state again
 *
 * States and events are signed by the RA, so the RPS can hold them back but not invent them; and whoever holds the
 * stream back makes the list stale: 30 seconds after the last sign of life nothing is believed any more.
 */
import { readRefusal, routeUrl, systemOf, UnexpectedAnswer, Unreachable } from '@milagro-ts/api/call'
import type { Log } from '@milagro-ts/api/log'
import { isOwnClock, type PeerClocks } from '@milagro-ts/api/peer-clocks'
import { Refused } from '@milagro-ts/api/problem'
import { rpsRoutes } from '@milagro-ts/api/rps-routes'
import { readEvents } from '@milagro-ts/api/sse'
import type { EventPayload, RevocationState } from '@milagro-ts/api/statements'
import type { Timers } from '@milagro-ts/api/system'
import { DecodeError } from '@milagro-ts/crypto/errors'
import type { Clock } from '@milagro-ts/crypto/ports'

/** Milliseconds after the last sign of life until nothing is believed any more. */
export const FAIL_CLOSED_AFTER = 30_000
/** A stream that has been silent for so long is dropped and asked for again; heartbeats come every few seconds. */
const SILENT_AFTER = 15_000
const RETRY_FIRST = 250
const RETRY_MOST = 4_000

const SAID = [Refused, DecodeError, UnexpectedAnswer, Unreachable] as const

/** Who is banned and who is revoked, as of a numbered state. */
export class DenyList {
  #number: number | undefined
  readonly #banned = new Set<string>()
  readonly #revoked = new Set<string>()

  /** The number of the newest state or event that is in; undefined before the first state. */
  get number(): number | undefined {
    return this.#number
  }

  /** Takes a whole state. An older one than what is held is passed over: nobody goes back. */
  replace(state: RevocationState): void {
    if (this.#number !== undefined && state.number < this.#number) return
    this.#banned.clear()
    this.#revoked.clear()
    for (const entry of state.payload.banned) this.#banned.add(keyOf(entry.idCore, entry.userCore))
    for (const entry of state.payload.revoked) this.#revoked.add(entry.idCore)
    this.#number = state.number
  }

  /** Takes one event. False: events are missing before it, so the state must be asked for. */
  apply(event: EventPayload): boolean {
    if (this.#number === undefined) return false
    if (event.number <= this.#number) return true
    if (event.number !== this.#number + 1) return false
    if (event.kind === 'ban') this.#banned.add(keyOf(event.idCore, event.userCore))
    if (event.kind === 'unban') this.#banned.delete(keyOf(event.idCore, event.userCore))
    if (event.kind === 'revoke') this.#revoked.add(event.idCore)
    this.#number = event.number
    return true
  }

  /** The code to refuse with, or null. */
  denies(idCore: string, userCore?: string): 'BANNED' | 'REVOKED' | null {
    if (this.#revoked.has(idCore)) return 'REVOKED'
    if (this.#banned.has(keyOf(idCore))) return 'BANNED'
    return userCore !== undefined && this.#banned.has(keyOf(idCore, userCore)) ? 'BANNED' : null
  }
}

function keyOf(idCore: string, userCore?: string): string {
  return userCore === undefined ? idCore : `${idCore}.${userCore}`
}

export interface FollowerOptions {
  readonly rpsUrl: string
  /** Makes the request JWT (request-auth.ts). */
  readonly authorize: (request: { method: string; url: string; body: Uint8Array }) => Promise<string>
  /** Each throws when the RA's signature, the group or the shape is wrong. */
  readonly verifyState: (token: string) => Promise<RevocationState>
  readonly verifyEvent: (token: string) => Promise<EventPayload>
  readonly clock: Clock
  readonly timers: Timers
  readonly fetch: typeof fetch
  readonly clocks?: PeerClocks | undefined
  readonly log: Log
  /** Called after every change of the list. */
  readonly changed?: (list: DenyList) => void
}

export class EventFollower {
  readonly list = new DenyList()
  readonly #options: FollowerOptions
  #lastHeard = Number.NEGATIVE_INFINITY
  #trouble: unknown
  #stopped = false
  #connection = new AbortController()
  #running: Promise<void> = Promise.resolve()
  #wake: () => void = () => {}

  constructor(options: FollowerOptions) {
    this.#options = options
  }

  start(): void {
    this.#running = this.#follow()
  }

  async stop(): Promise<void> {
    this.#stopped = true
    this.#connection.abort()
    this.#wake()
    await this.#running
  }

  /** When the last sign of life came, by the clock; −∞ before the first. */
  get heardAt(): number {
    return this.#lastHeard
  }

  /** What the last attempt ended with; undefined since the stream is heard. */
  get trouble(): unknown {
    return this.#trouble
  }

  /** True while the list may be believed. */
  get fresh(): boolean {
    return this.list.number !== undefined && this.#options.clock() - this.#lastHeard <= FAIL_CLOSED_AFTER
  }

  /** Refuses whom the list denies; and everybody (`RETRY_LATER`) while the list may not be believed. */
  check(idCore: string, userCore?: string): void {
    if (!this.fresh) {
      throw new Refused('RETRY_LATER', { detail: 'the stream of ban events is lost', retryAfter: 1 })
    }
    const code = this.list.denies(idCore, userCore)
    if (code !== null) throw new Refused(code)
  }

  async #follow(): Promise<void> {
    let wait = RETRY_FIRST
    while (!this.#stopped) {
      const before = this.#lastHeard
      try {
        await this.#connect()
        this.#options.log.warn('the stream of ban events has ended')
      } catch (error) {
        if (this.#stopped) return
        this.#trouble = this.#lossOf(error)
        this.#options.log.warn({ err: this.#trouble }, 'the stream of ban events is lost')
      }
      wait = this.#lastHeard > before ? RETRY_FIRST : Math.min(wait * 2, RETRY_MOST)
      await this.#pause(wait)
    }
  }

  async #connect(): Promise<void> {
    const { rpsUrl, authorize, fetch, timers, clocks } = this.#options
    const url = routeUrl(rpsRoutes.events, rpsUrl, {})
    this.#connection = new AbortController()
    const connection = this.#connection
    let heard = true
    const endWatch = timers.every(SILENT_AFTER, () => {
      if (!heard) connection.abort(new Unreachable('the stream is silent'))
      heard = false
    })
    try {
      const response = await fetch(url, {
        headers: {
          accept: 'text/event-stream',
          authorization: await authorize({ method: 'GET', url, body: new Uint8Array() }),
        },
        redirect: 'error',
        signal: connection.signal,
      })
      if (!response.ok) {
        const refused = await readRefusal(rpsRoutes.events, response)
        if (isOwnClock(refused)) clocks?.refused(new URL(url).origin, refused)
        throw refused
      }
      if (response.body === null) throw new UnexpectedAnswer('the RPS answered nothing')
      clocks?.agree(new URL(url).origin)
      let hasState = false
      for await (const event of readEvents(endedBy(response.body, connection.signal))) {
        heard = true
        if (event?.event === 'state') {
          this.list.replace(await this.#options.verifyState(event.data))
          hasState = true
        } else if (event?.event === 'event') {
          if (!this.list.apply(await this.#options.verifyEvent(event.data)))
            throw new UnexpectedAnswer('an event is missing')
        }
        // Heartbeats say that nothing happened since the state, so without one they say nothing.
        if (hasState) {
          this.#lastHeard = this.#options.clock()
          this.#trouble = undefined
        }
        if (event !== null) this.#options.changed?.(this.list)
      }
    } finally {
      endWatch()
      connection.abort()
    }
  }

  /** What the RPS says; anything else is the network's, or was in the way. */
  #lossOf(error: unknown): unknown {
    if (SAID.some(kind => error instanceof kind)) return error
    const system = systemOf(error)
    const why = system === undefined ? '' : ` (${system})`
    const url = routeUrl(rpsRoutes.events, this.#options.rpsUrl, {})
    return new Unreachable(`GET ${url} gives no answer${why}`, { cause: error })
  }

  async #pause(milliseconds: number): Promise<void> {
    await new Promise<void>(resolve => {
      if (this.#stopped) return resolve()
      this.#wake = resolve
      this.#options.timers.after(milliseconds, resolve)
    })
  }
}

/**
 * The body of an answer, which ends with the signal. Fetch alone would do, but on Node it loses the signal of an answer whose
 * request object was collected: the reader then waits for a stream that nobody ends.
 */
function endedBy(body: ReadableStream<Uint8Array>, signal: AbortSignal): ReadableStream<Uint8Array> {
  return body.pipeThrough(new TransformStream<Uint8Array, Uint8Array>(), { signal })
}
