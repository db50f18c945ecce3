/** How the trust authorities are, as the RPS sees them: it asks them for shares all day, fleet hardly ever. */
import { type Client, createClient, UnexpectedAnswer, Unreachable } from '@milagro-ts/api/call'
import { Refused } from '@milagro-ts/api/problem'
import { requestSigner } from '@milagro-ts/api/request-auth'
import type { Answer } from '@milagro-ts/api/route'
import { rpsRoutes } from '@milagro-ts/api/rps-routes'

/** Milliseconds; somebody waits for it at a console. */
const TIMEOUT = 3_000

export type AuthoritiesSeen = Answer<typeof rpsRoutes.authorities>

export class RpsView {
  readonly #rps: Client<typeof rpsRoutes>

  constructor({
    rpsUrl,
    fetch,
    ...signer
  }: Parameters<typeof requestSigner>[0] & { rpsUrl: string; fetch: typeof globalThis.fetch }) {
    const authorize = requestSigner(signer)
    this.#rps = createClient(rpsRoutes, { baseUrl: rpsUrl, fetch, timeout: TIMEOUT, authorize })
  }

  /** Or why that can't be said. */
  async authorities(): Promise<AuthoritiesSeen | { readonly trouble: string }> {
    try {
      return await this.#rps.authorities({})
    } catch (error) {
      const isTheirs = [Refused, Unreachable, UnexpectedAnswer].some(kind => error instanceof kind)
      if (!isTheirs) throw error
      return { trouble: `the RPS doesn't say: ${(error as Error).message}` }
    }
  }
}
