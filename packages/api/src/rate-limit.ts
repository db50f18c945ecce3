/**
 * Token buckets by source address: `burst` at once, `perSecond` in the long run. Memory is bounded: beyond `capacity`
 * sources the one that was quiet for the longest starts afresh. They are kept per process, since nothing rests on them
 * but the load: strikes, nonces and replay live in the store.
 */

import type { Clock } from '@milagro-ts/crypto/ports'
import { Refused } from './problem.js'

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

  /** Refused RETRY_LATER when `source` has nothing left; takes nothing. */
  check(source: string): void {
    const tokens = this.#tokens(source)
    if (tokens >= 1) return
    // Refused, but not quiet: it must not be forgotten in favour of others.
    this.#keep(source, tokens)
    const retryAfter = Math.max(1, Math.ceil((1 - tokens) / this.#rate.perSecond))
    throw new Refused('RETRY_LATER', { detail: 'too many requests', retryAfter })
  }

  /** Takes one token, down to none. */
  charge(source: string): void {
    this.#keep(source, Math.max(0, this.#tokens(source) - 1))
  }

  /** Gives back what was charged for something that came to nothing. */
  refund(source: string): void {
    this.#keep(source, Math.min(this.#rate.burst, this.#tokens(source) + 1))
  }

  #keep(source: string, tokens: number): void {
    this.#buckets.delete(source)
    this.#buckets.set(source, { tokens, at: this.#clock() })
    if (this.#buckets.size <= this.#capacity) return
    const [quietest] = this.#buckets.keys()
    if (quietest !== undefined) this.#buckets.delete(quietest)
  }

  take(source: string): void {
    this.check(source)
    this.charge(source)
  }

  get size(): number {
    return this.#buckets.size
  }

  #tokens(source: string): number {
    const { perSecond, burst } = this.#rate
    const bucket = this.#buckets.get(source)
    if (bucket === undefined) return burst
    // A clock that was set back gives nothing, and takes nothing.
    return Math.min(burst, bucket.tokens + (Math.max(0, this.#clock() - bucket.at) / 1000) * perSecond)
  }
}

/** The name of a source: an IPv4 address, or the /64 of an IPv6 address, which is what one customer gets. */
export function sourceOf(ip: string): string {
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(ip)?.[1]
  if (mapped !== undefined) return mapped
  if (!ip.includes(':')) return ip
  const [left = '', right] = (ip.split('%', 1)[0] ?? '').split('::', 2)
  const head = left.split(':').filter(part => part !== '')
  const tail = (right ?? '').split(':').filter(part => part !== '')
  const zeros = right === undefined ? 0 : Math.max(0, 8 - head.length - tail.length)
  return [...head, ...new Array<string>(zeros).fill('0'), ...tail]
    .slice(0, 4)
    .map(part => Number.parseInt(part, 16).toString(16))
    .join(':')
}
