/**
 * A car's login on its connections to the tracking server (docs/protocols/tls.md, "Logins inside"): the first request on
 * each carries a one-pass proof that is bound to that connection, those after it carry none.
 */
import type { TLSSocket } from 'node:tls'
import { tlsExporter } from '@milagro-ts/api/channel-binding'
import type { OnConnections } from '@milagro-ts/client/agent-fetch'

export interface ChannelLoginOptions {
  /** `Authorization: MPIN …` over these 32 bytes. */
  readonly prove: (tlsExporter: Uint8Array) => Promise<string>
  /** Told when a connection is logged in. */
  readonly loggedIn?: () => void
}

export class ChannelLogin implements OnConnections {
  readonly #options: ChannelLoginOptions
  #connections = new WeakSet<TLSSocket>()

  constructor(options: ChannelLoginOptions) {
    this.#options = options
  }

  readonly authorization = async (socket: TLSSocket): Promise<string | undefined> =>
    this.#connections.has(socket) ? undefined : this.#options.prove(tlsExporter(socket))

  readonly answered = (socket: TLSSocket, status: number): void => {
    if (status !== 200 || this.#connections.has(socket)) return
    this.#connections.add(socket)
    this.#options.loggedIn?.()
  }

  /** The next request on any connection proves anew. */
  forget(): void {
    this.#connections = new WeakSet()
  }
}
