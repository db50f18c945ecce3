/**
 * Whether this server's clock agrees with those of the servers that it talks to. Both sides of a signed request learn of
 * a difference (request-auth.ts):
 *
 *   who is asked   the request is signed well and out of its time: Refused CLOCK, with both times; in its log
 *   who has asked  is refused so: in its log, once
 *   both           /health/ready says `clock`, until a request between the two is in time again, or neither has heard of
 *                  the other for two minutes, or the own clock is set
 *
 * Not ready is who differs from more than half of those that it has heard of lately: one service with a wrong clock
 * doesn't put the server that it asks out of order. Where there are only two, nobody can say which of them is right.
 */
import type { Clock } from '@milagro-ts/crypto/ports'
import type { Log } from './log.js'
import { Refused } from './problem.js'

/** Milliseconds after which what was heard of a peer says nothing any more; either way, since the own clock may be set. */
const REMEMBERED = 120_000
/** Characters of a peer's words that go into the log. */
const MOST_SAID = 200

interface Heard {
  /** By our clock, in milliseconds. */
  readonly at: number
  /** How the clocks differ; undefined when they agree. */
  readonly why: string | undefined
}

export class PeerClocks {
  readonly #clock: Clock
  readonly #log: Log
  readonly #heard = new Map<string, Heard>()

  constructor({ clock, log }: { clock: Clock; log: Log }) {
    this.#clock = clock
    this.#log = log
  }

  /** A request between `peer` and this server, either way, was in time. */
  agree(peer: string): void {
    this.#hear(peer, undefined)
  }

  /** A request of `peer` was out of its time, and refused. */
  differ(peer: string, { detail = '' }: Refused): void {
    this.#hear(peer, detail)
  }

  /** `peer` has refused a request of ours with CLOCK. */
  refused(peer: string, { detail = 'out of its time' }: Refused): void {
    const why = detail.slice(0, MOST_SAID)
    if (this.#lately(peer)?.why === undefined) this.#log.warn({ peer, why }, 'our clock is refused')
    this.#hear(peer, why)
  }

  /** For /health/ready: `check` is true, or names who differs; `ok` is false when those are most. */
  get standing(): { readonly ok: boolean; readonly check: true | string } {
    const lately = [...this.#heard.keys()].flatMap(peer => {
      const heard = this.#lately(peer)
      return heard === undefined ? [] : [{ peer, why: heard.why }]
    })
    const differing = lately.filter(({ why }) => why !== undefined)
    if (differing.length === 0) return { ok: true, check: true }
    const check = `clock: ${differing.map(({ peer, why }) => `${peer}: ${why}`).join('; ')}`
    return { ok: 2 * differing.length <= lately.length, check }
  }

  #hear(peer: string, why: string | undefined): void {
    if (why === undefined && this.#lately(peer)?.why !== undefined)
      this.#log.info({ peer }, 'the clocks agree again')
    this.#heard.set(peer, { at: this.#clock(), why })
  }

  #lately(peer: string): Heard | undefined {
    const heard = this.#heard.get(peer)
    return heard !== undefined && Math.abs(this.#clock() - heard.at) <= REMEMBERED ? heard : undefined
  }
}

/** Refused CLOCK for a request; `field` tells it from a client's clock. @param now, iat Unix seconds. */
export function outOfTime(iss: string, iat: number, now: number): Refused {
  const seconds = Math.round(Math.abs(iat - now))
  const detail = `signed at ${timeOf(iat)}, arrived at ${timeOf(now)}: ${seconds} s apart`
  return new Refused('CLOCK', { field: REQUEST_CLOCK, detail, log: `${iss}: ${detail}` })
}

/** True when `error` says that a server's own request was out of its time. */
export function isOwnClock(error: unknown): error is Refused {
  return error instanceof Refused && error.code === 'CLOCK' && error.field === REQUEST_CLOCK
}

const REQUEST_CLOCK = 'iat'

/** A signed time may be any integer; beyond what a date can be it stands as it is. */
function timeOf(seconds: number): string {
  const time = new Date(Math.floor(seconds) * 1000)
  return Number.isNaN(time.getTime()) ? String(seconds) : time.toISOString().replace('.000Z', 'Z')
}
