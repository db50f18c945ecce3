/** The RPS' token keys by kid, fetched when a kid is new and then kept. */
import type { Client } from '@milagro-ts/api/call'
import { Unreachable } from '@milagro-ts/api/call'
import { Es256PublicKey } from '@milagro-ts/api/keys'
import { Refused } from '@milagro-ts/api/problem'
import type { rpsRoutes } from '@milagro-ts/api/rps-routes'
import { fromBase64Url, fromUtf8 } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import type { Clock } from '@milagro-ts/crypto/ports'

/** Milliseconds between two fetches at least, so that made-up kids don't become requests. */
const FETCH_EVERY = 5_000

export class TokenKeys {
  readonly #rps: Pick<Client<typeof rpsRoutes>, 'jwks'>
  readonly #clock: Clock
  #keys: ReadonlyMap<string, Es256PublicKey> = new Map()
  #fetchedAt = Number.NEGATIVE_INFINITY

  constructor({ rps, clock }: { rps: Pick<Client<typeof rpsRoutes>, 'jwks'>; clock: Clock }) {
    this.#rps = rps
    this.#clock = clock
  }

  /** The keys to verify this token with; the newest ones if its kid was unknown. RETRY_LATER when the RPS is away. */
  async forToken(token: string): Promise<ReadonlyMap<string, Es256PublicKey>> {
    const kid = kidOf(token)
    if (kid === null || this.#keys.has(kid) || this.#clock() - this.#fetchedAt < FETCH_EVERY)
      return this.#keys
    try {
      const { keys } = await this.#rps.jwks({})
      this.#keys = new Map(keys.map(jwk => [jwk.kid, Es256PublicKey.fromJwk(jwk)]))
      this.#fetchedAt = this.#clock()
    } catch (error) {
      if (!(error instanceof Unreachable)) throw error
      throw new Refused('RETRY_LATER', { detail: 'the authentication server is unreachable', retryAfter: 1 })
    }
    return this.#keys
  }
}

/** Of a compact JWS; only to know which key to look for. The verification reads the header again, strictly. */
function kidOf(token: string): string | null {
  try {
    const header: unknown = JSON.parse(fromUtf8(fromBase64Url(token.split('.')[0] ?? '', 'header'), 'header'))
    if (typeof header !== 'object' || header === null || !('kid' in header)) return null
    return typeof header.kid === 'string' ? header.kid : null
  } catch (error) {
    if (error instanceof DecodeError || error instanceof SyntaxError) return null
    throw error
  }
}
