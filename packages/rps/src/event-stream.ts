/**
 * `GET /v1/events`: services follow bans as they happen (server-sent events). Each follower has a cursor, the number of
 * what it was sent last; whatever the store holds after it is sent in order, so a follower misses nothing and gets
 * nothing twice, whichever replica took an event in.
 *
 *   first        event: state    id: number    data: mpin-state+jwt
 *   then         event: event    id: number    data: mpin-event+jwt
 *   each 5 s     : (heartbeat)
 *
 * A request JWT proves a service once, the stream lasts: it ends when the group document no longer names that key.
 */
import { Refused } from '@milagro-ts/api/problem'
import type { SseWriter } from '@milagro-ts/api/sse'
import type { Timers } from '@milagro-ts/api/system'
import type { Revocation } from './revocation.js'

/** Milliseconds. */
const HEARTBEAT = 5_000
/** How often events that another replica took in are looked for. */
const LOOK = 250
const FOLLOWERS = 1_000
const FOLLOWERS_OF_ONE = 32

interface Follower {
  readonly service: string
  readonly writer: SseWriter
  readonly mayHear: () => boolean
  /** Null before the state was sent. */
  cursor: number | null
  /** Ends when everything known has been sent. */
  sending: Promise<void> | undefined
  again: boolean
}

export class EventStream {
  readonly #revocation: Revocation
  readonly #timers: Timers
  readonly #onError: (error: unknown) => void
  readonly #followers = new Set<Follower>()
  #ends: (() => void)[] = []

  constructor(ports: { revocation: Revocation; timers: Timers; onError: (error: unknown) => void }) {
    this.#revocation = ports.revocation
    this.#timers = ports.timers
    this.#onError = ports.onError
  }

  start(): void {
    const sendAll = () => {
      for (const follower of this.#followers) this.#send(follower)
    }
    this.#ends = [
      this.#revocation.onChange(sendAll),
      this.#timers.every(LOOK, sendAll),
      this.#timers.every(HEARTBEAT, () => {
        for (const { writer } of this.#followers) writer.heartbeat()
      }),
    ]
  }

  stop(): void {
    for (const end of this.#ends) end()
    for (const { writer } of this.#followers) writer.close()
  }

  get size(): number {
    return this.#followers.size
  }

  /**
   * Refused RETRY_LATER when there is no state to begin with, or there are too many followers: before `open`.
   * @param mayHear Asked before everything that is sent: the service may be removed, or get another key, meanwhile.
   */
  async follow(
    service: string,
    {
      lastEventId,
      mayHear,
      open,
    }: { lastEventId: string | undefined; mayHear: () => boolean; open: () => SseWriter },
  ): Promise<void> {
    const ofOne = [...this.#followers].filter(follower => follower.service === service).length
    if (this.#followers.size >= FOLLOWERS || ofOne >= FOLLOWERS_OF_ONE)
      throw new Refused('RETRY_LATER', { detail: 'too many followers', retryAfter: 10 })
    if ((await this.#revocation.number()) === null) await this.#revocation.refresh()
    const cursor = lastEventId !== undefined && /^[0-9]{1,10}$/.test(lastEventId) ? Number(lastEventId) : null
    const follower: Follower = { service, writer: open(), mayHear, cursor, sending: undefined, again: false }
    this.#followers.add(follower)
    this.#send(follower)
    await follower.writer.closed
    this.#followers.delete(follower)
    await follower.sending
  }

  #send(follower: Follower): void {
    follower.again = true
    follower.sending ??= this.#sendAll(follower)
      .catch(error => {
        this.#onError(error)
        // It reconnects, and begins with what it has.
        follower.writer.close()
      })
      .finally(() => {
        follower.sending = undefined
        // Asked for after the last look and before this line.
        if (follower.again && this.#followers.has(follower)) this.#send(follower)
      })
  }

  async #sendAll(follower: Follower): Promise<void> {
    while (follower.again) {
      follower.again = false
      const { state, events } = await this.#revocation.after(follower.cursor)
      if (!follower.mayHear()) {
        follower.writer.close()
        return
      }
      if (state !== undefined) {
        follower.writer.send({ id: String(state.number), event: 'state', data: state.statement })
        follower.cursor = state.number
      }
      for (const { number, event } of events) {
        follower.writer.send({ id: String(number), event: 'event', data: event })
        follower.cursor = number
      }
      // There may be another page.
      if (events.length > 0) follower.again = true
    }
  }
}
