/**
 * Where vehicles come in: TLS without certificates before the requests of an HTTP server. It opens as soon as the
 * authorities have given a key for the current slot, and tries again until then: a tracking server whose authorities are
 * away still shows its tracks.
 */
import type { Server as HttpServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Listen } from '@milagro-ts/api/listen'
import type { Log } from '@milagro-ts/api/log'
import type { Timers } from '@milagro-ts/api/system'
import { type IdentityTlsServer, overTls } from '@milagro-ts/tls/server'
import type { TlsService } from '@milagro-ts/tls/service'

/** Milliseconds between two attempts. */
const AGAIN = 1_000

export interface VehicleEntranceOptions {
  /** Gets the connections; listens nowhere itself. */
  readonly http: HttpServer
  readonly open: () => Promise<TlsService>
  readonly listen: Listen
  readonly timers: Timers
  readonly log: Log
}

export class VehicleEntrance {
  readonly #options: VehicleEntranceOptions
  #service: TlsService | undefined
  #server: IdentityTlsServer | undefined
  #opening: Promise<void> = Promise.resolve()
  #endWaiting = () => {}
  #why = 'no key for this slot yet'
  #isClosed = false

  constructor(options: VehicleEntranceOptions) {
    this.#options = options
  }

  /** Where it listens; null until it does. */
  get address(): AddressInfo | null {
    return (this.#server?.address() ?? null) as AddressInfo | null
  }
  /** True, or why no vehicle can come in; for readiness. */
  get standing(): true | string {
    if (this.address === null) return this.#why
    return this.#service?.door.isOpen === true || 'no key for this slot, or the ban events are lost'
  }

  start(): void {
    this.#opening = this.#open().catch((error: unknown) => {
      this.#options.log.warn({ err: error }, 'vehicles can’t come in yet; tried again')
      if (!this.#isClosed) this.#endWaiting = this.#options.timers.after(AGAIN, () => this.start())
    })
  }

  async close(): Promise<void> {
    this.#isClosed = true
    this.#endWaiting()
    await this.#opening
    await this.#end()
  }

  async #open(): Promise<void> {
    const { http, open, listen, log } = this.#options
    const service = await open()
    this.#service = service
    const server = overTls(http, { door: service.door, timers: service.timers, log })
    this.#server = server
    server.on('tlsClientError', (error: Error) => log.debug({ err: error }, 'a handshake failed'))
    try {
      await new Promise<void>((resolve, reject) => {
        server.once('error', reject)
        server.listen(listen, resolve)
      })
    } catch (error) {
      this.#why = `can’t listen on ${listen.host}:${listen.port} (${(error as NodeJS.ErrnoException).code})`
      await this.#end()
      throw error
    }
    log.info({ address: server.address() }, 'vehicles come in by TLS')
  }

  async #end(): Promise<void> {
    const [server, service] = [this.#server, this.#service]
    this.#server = undefined
    this.#service = undefined
    // Who is inside is put out by the service's end, and only then the server has closed.
    const closed = server?.listening ? new Promise(resolve => server.close(resolve)) : undefined
    await service?.close()
    await closed
  }
}
