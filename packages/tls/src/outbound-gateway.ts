/**
 * A device's end of TLS without certificates for a program that can't be changed: plain TCP in on the loopback, TLS out by
 * the device's own key to a server that has proven its name.
 *
 *   program -- TCP, this machine -->  here  -- TLS by the device's key -->  gateway or server of the group
 *
 * Whoever may connect to the loopback speaks as the device, so it is for machines whose users are all the device.
 */
import { createServer, type Server, type Socket } from 'node:net'
import { Unreachable } from '@milagro-ts/api/call'
import type { Log } from '@milagro-ts/api/log'
import type { Metrics } from '@milagro-ts/api/metrics'
import type { Timers } from '@milagro-ts/api/system'
import { relay } from './relay.js'
import { connect, secured, type TlsIdentity } from './tls.js'

export interface OutboundSettings {
  readonly to: { readonly host: string; readonly port: number }
  /** The server's name in the group document. */
  readonly server: string
  readonly connections: number
  /** Milliseconds without a byte after which a connection is closed. */
  readonly idle: number
  /** Milliseconds until the handshake is over. */
  readonly patience: number
}

export interface OutboundOptions {
  readonly identity: TlsIdentity
  readonly timers: Timers
  readonly log: Log
  readonly metrics: Metrics
  /** As of now. */
  readonly settings: () => OutboundSettings
}

export class OutboundGateway {
  readonly server: Server
  readonly #options: OutboundOptions
  readonly #open = new Set<Socket>()
  #drained: () => void = () => {}
  #away: string | undefined

  constructor(options: OutboundOptions) {
    this.#options = options
    this.server = createServer({ allowHalfOpen: true, pauseOnConnect: true, noDelay: true }, socket => {
      this.#take(socket).catch((error: unknown) => {
        // The program reads that the connection has ended; why stands here.
        this.#away = (error as Error).message
        options.metrics.count('connections_taken', { outcome: 'service-away' })
        options.log.warn({ err: error }, 'the server was not reached')
        socket.destroy()
      })
    })
  }

  /** True, or why the server was not reached at the last attempt. */
  get service(): true | string {
    return this.#away ?? true
  }
  get connections(): number {
    return this.#open.size
  }

  /** As the gateway's: resolves when all have gone, or were ended `within` milliseconds from now. */
  async close(within: number): Promise<void> {
    this.server.close()
    if (this.#open.size === 0) return
    const gone = new Promise<void>(resolve => {
      this.#drained = resolve
    })
    const endWaiting = this.#options.timers.after(within, () => {
      for (const socket of this.#open) socket.destroy()
    })
    await gone
    endWaiting()
  }

  async #take(socket: Socket): Promise<void> {
    const { identity, timers, metrics, settings } = this.#options
    const { to, server: servername, connections, idle, patience } = settings()
    if (this.#open.size >= connections) {
      metrics.count('connections_taken', { outcome: 'too-many' })
      socket.destroy()
      return
    }
    this.#open.add(socket)
    metrics.gauge('connections', this.#open.size)
    socket.on('error', () => undefined)
    socket.once('close', () => {
      this.#open.delete(socket)
      metrics.gauge('connections', this.#open.size)
      if (this.#open.size === 0) this.#drained()
    })
    const ended = new AbortController()
    const endWaiting = timers.after(patience, () => ended.abort(new Unreachable('no handshake in time')))
    socket.once('close', () => ended.abort(new Unreachable('the program has gone')))
    const options = { ...to, allowHalfOpen: true, servername, identity, timers }
    const server = connect(options)
    const late = () => void server.destroy(ended.signal.reason)
    ended.signal.addEventListener('abort', late)
    if (ended.signal.aborted) late()
    await secured(server).finally(endWaiting)
    ended.signal.removeEventListener('abort', late)
    this.#away = undefined
    metrics.count('connections_taken', { outcome: 'OK' })
    void relay(socket, server, { timers, idle })
  }
}
