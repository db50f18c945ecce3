/** The RPS' public token keys: receipts and the time are signed with them. Fetched once, and again for a new key. */
import type { Client } from '@milagro-ts/api/call'
import { Es256PublicKey } from '@milagro-ts/api/keys'
import { Refused } from '@milagro-ts/api/problem'
import type { rpsRoutes } from '@milagro-ts/api/rps-routes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { ClientError } from './errors.js'

type Keys = ReadonlyMap<string, Es256PublicKey>

export class RpsKeys {
  readonly #rps: Pick<Client<typeof rpsRoutes>, 'jwks'>
  #keys: Keys | undefined

  constructor(rps: Pick<Client<typeof rpsRoutes>, 'jwks'>) {
    this.#rps = rps
  }

  /** `check` verifies a statement with the keys; WRONG_ANSWER when it holds with none of them. */
  async verified<T>(check: (keys: Keys) => Promise<T>): Promise<T> {
    if (this.#keys !== undefined) {
      try {
        return await check(this.#keys)
      } catch (error) {
        // Perhaps the RPS has changed its key since.
        if (!(error instanceof Refused)) throw wrongAnswer(error)
      }
    }
    const { keys } = await this.#rps.jwks({})
    try {
      this.#keys = new Map(keys.map(jwk => [jwk.kid, Es256PublicKey.fromJwk(jwk)]))
      return await check(this.#keys)
    } catch (error) {
      throw wrongAnswer(error)
    }
  }
}

function wrongAnswer(error: unknown): unknown {
  return error instanceof Refused || error instanceof DecodeError
    ? new ClientError('WRONG_ANSWER', 'a statement of the RPS does not verify', { cause: error })
    : error
}
