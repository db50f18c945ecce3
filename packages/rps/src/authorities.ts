/** The authorities as the RPS calls them: by the addresses in the group document, signed with its request key. */
import { type Client, createClient } from '@milagro-ts/api/call'
import { dtaRoutes } from '@milagro-ts/api/dta-routes'
import { requestSigner } from '@milagro-ts/api/request-auth'

export class Authorities {
  readonly #options: { readonly authorize: ReturnType<typeof requestSigner>; readonly fetch: typeof fetch }
  readonly #clients = new Map<string, Client<typeof dtaRoutes>>()

  constructor({
    fetch,
    ...signer
  }: Parameters<typeof requestSigner>[0] & { fetch: typeof globalThis.fetch }) {
    this.#options = { authorize: requestSigner(signer), fetch }
  }

  at({ url }: { readonly url: string }): Client<typeof dtaRoutes> {
    const known = this.#clients.get(url)
    if (known !== undefined) return known
    const client = createClient(dtaRoutes, { baseUrl: url, timeout: 5_000, ...this.#options })
    this.#clients.set(url, client)
    return client
  }
}
