/**
 * Token buckets, one per key: `burst` requests at once, `perSecond` in the long run. Memory is bounded: beyond
 * `capacity` keys the one that was quiet for the longest is forgotten, which gives its owner a full bucket again.
 * Whoever has that many addresses meets the bucket of the group, which is one key.
 */
import { Refused } from '@milagro-ts/api/problem'
import type { Clock } from '@milagro-ts/crypto/ports'

export interface Rate {
  readonly perSecond: number
  readonly burst: number
}

interface Bucket {
  tokens: number
  /** Unix milliseconds up to which `tokens` is reckoned. */
  at: number
}

export class RateLimit {
  readonly #rate: Rate
  readonly #clock: Clock
  readonly #capacity: number
  /** In the order of last use, the longest quiet first. */
  readonly #buckets = new Map<string, Bucket>()

  constructor(rate: Rate, clock: Clock, capacity = 10_000) {
    this.#rate = rate
    this.#clock = clock
    this.#capacity = capacity
  }

  /** Takes one token. Refused('RETRY_LATER') with the seconds until the next one when there is none. */
  take(key: string): void {
    const { perSecond, burst } = this.#rate
    const now = this.#clock()
    const before = this.#buckets.get(key) ?? { tokens: burst, at: now }
    // A clock that was set back gives nothing, and takes nothing.
    const gained = (Math.max(0, now - before.at) / 1000) * perSecond
    const tokens = Math.min(burst, before.tokens + gained)
    this.#buckets.delete(key)
    this.#buckets.set(key, { tokens: tokens < 1 ? tokens : tokens - 1, at: now })
    if (this.#buckets.size > this.#capacity) {
      const [quietest] = this.#buckets.keys()
      if (quietest !== undefined) this.#buckets.delete(quietest)
    }
    if (tokens < 1) {
      const retryAfter = Math.max(1, Math.ceil((1 - tokens) / perSecond))
      throw new Refused('RETRY_LATER', { detail: 'too many requests', retryAfter })
    }
  }

  get size(): number {
    return this.#buckets.size
  }
}

/** The key of a source: an IPv4 address, or the /64 of an IPv6 address, which is what one customer gets. */
export function sourceOf(ip: string): string {
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(ip)
  if (mapped?.[1] !== undefined) return mapped[1]
  if (!ip.includes(':')) return ip
  const [left = '', right] = (ip.split('%', 1)[0] ?? '').split('::', 2)
  const head = left === '' ? [] : left.split(':')
  const tail = right === undefined || right === '' ? [] : right.split(':')
  const zeros = right === undefined ? 0 : Math.max(0, 8 - head.length - tail.length)
  const groups = [...head, ...new Array<string>(zeros).fill('0'), ...tail]
  return groups
    .slice(0, 4)
    .map(group => Number.parseInt(group, 16).toString(16))
    .join(':')
}
