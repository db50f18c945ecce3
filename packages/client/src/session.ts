/**
 * A login that stays: hands out an access token and renews it in time, one renewal at a time however many ask. With a
 * PIN it holds D_pin (never the PIN) in memory until it is closed, so that renewing asks nobody.
 */
import { UnexpectedAnswer, Unreachable } from '@milagro-ts/api/call'
import { Refused } from '@milagro-ts/api/problem'
import { ClientError } from './errors.js'

export interface SessionToken {
  readonly accessToken: string
  /** Seconds. */
  readonly expiresIn: number
}

/** Renews when less than this is left: milliseconds at most, and as a part of the token's life. */
const MARGIN = 60_000
const MARGIN_PART = 0.2
/** Milliseconds between two attempts to renew while the token in hand is still good. */
const ATTEMPT_EVERY = 5_000

interface Token {
  readonly text: string
  readonly renewAt: number
  readonly endsAt: number
}

export class Session {
  readonly #ticks: () => number
  #login: (() => Promise<SessionToken>) | null
  #token: Token | undefined
  #renewal: Promise<Token> | undefined

  /** @param login Makes one login; `ticks` are monotonic milliseconds. */
  constructor(login: () => Promise<SessionToken>, ticks: () => number) {
    this.#login = login
    this.#ticks = ticks
  }

  /**
   * A token with some life left. `fresh` throws the one in hand away, after a service has refused it. While the RPS
   * can't be reached the one in hand serves to its end. Throws what a login throws.
   */
  async accessToken({ fresh = false }: { fresh?: boolean } = {}): Promise<string> {
    if (fresh) this.#token = undefined
    const token = this.#token
    if (this.#login !== null && token !== undefined && this.#ticks() < token.renewAt) return token.text
    try {
      return (await this.#renew()).text
    } catch (error) {
      const now = this.#ticks()
      if (token === undefined || now >= token.endsAt || !mayPass(error)) throw error
      // A login that may have been counted as a wrong PIN is not made again behind the caller's back.
      const unknown = error instanceof ClientError
      this.#token = {
        ...token,
        renewAt: unknown ? token.endsAt : Math.min(token.endsAt, now + ATTEMPT_EVERY),
      }
      return token.text
    }
  }

  /** `Authorization: Bearer …` */
  async authorization(options: { fresh?: boolean } = {}): Promise<string> {
    return `Bearer ${await this.accessToken(options)}`
  }

  /** Forgets token and keys; every later call is a TypeError. */
  close(): void {
    this.#login = null
    this.#token = undefined
  }

  #renew(): Promise<Token> {
    this.#renewal ??= this.#once().finally(() => {
      this.#renewal = undefined
    })
    return this.#renewal
  }

  async #once(): Promise<Token> {
    if (this.#login === null) throw new TypeError('the session is closed')
    const begin = this.#ticks()
    const { accessToken, expiresIn } = await this.#login()
    // Counted from before the request, so that a slow answer makes it shorter rather than longer.
    const endsAt = begin + expiresIn * 1000
    const margin = Math.min(MARGIN, expiresIn * 1000 * MARGIN_PART)
    const token = { text: accessToken, renewAt: endsAt - margin, endsAt }
    if (this.#login !== null) this.#token = token
    return token
  }
}

/** Errors that say nothing about the identity: the token in hand is as good as before. */
function mayPass(error: unknown): boolean {
  if (error instanceof Unreachable || error instanceof UnexpectedAnswer) return true
  if (error instanceof ClientError) return error.code === 'OUTCOME_UNKNOWN'
  return error instanceof Refused && ['RETRY_LATER', 'TOO_SLOW', 'INTERNAL'].includes(error.code)
}
