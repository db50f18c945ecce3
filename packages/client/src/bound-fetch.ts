/**
 * A connection to the RPS that a login is bound to (docs/protocols/tls.md, "Logins inside"): for `over` of `device.login`.
 *
 *   await device.login({ audience, over: () => connectBound('https://rps.example') })
 *
 * Browsers show no page the exporter of its connection, so this is for Node alone.
 */
import { Agent } from 'node:https'
import { isIP } from 'node:net'
import type { Duplex } from 'node:stream'
import { type ConnectionOptions, connect, type TLSSocket } from 'node:tls'
import { Unreachable } from '@milagro-ts/api/call'
import { exporterOf } from '@milagro-ts/api/channel-binding'
import { agentFetch } from './agent-fetch.js'
import type { BoundConnection } from './ports.js'

/** Milliseconds for a connection to come about. */
const PATIENCE = 10_000

/**
 * Opens a connection to the RPS at this address, and goes by its certificate.
 * @param options Of node:tls, as `ca` for a CA that Node doesn't know. TypeError for an address that isn't https.
 */
export async function connectBound(
  address: string,
  options: ConnectionOptions = {},
): Promise<BoundConnection> {
  const { protocol, hostname, port } = new URL(address)
  if (protocol !== 'https:')
    throw new TypeError(`logins are bound to TLS connections, and ${address} is no https address`)
  const host = hostname.replace(/^\[(.*)\]$/, '$1')
  const servername = isIP(host) === 0 ? { servername: host } : {}
  return boundFetch(connect({ host, port: Number(port || 443), ...servername, ...options }))
}

/**
 * Takes the connection over, once its handshake is done; whom it leads to is settled by who opened it. Its fetch is for
 * https addresses of one origin: requests go over this connection one after the other, or reject once it is gone.
 * Unreachable where it doesn't come about within so many milliseconds, or speaks no TLS 1.3.
 */
export async function boundFetch(socket: TLSSocket, patience = PATIENCE): Promise<BoundConnection> {
  try {
    await secured(socket, patience)
  } catch (error) {
    throw new Unreachable('the connection that a login would be bound to does not come about', {
      cause: error,
    })
  }
  const tlsExporter = exporterOf(socket)
  if (tlsExporter === undefined) {
    socket.destroy()
    throw new Unreachable('no login can be bound to this connection: it speaks no TLS 1.3')
  }
  // The request that fails with it says what it was.
  socket.on('error', () => undefined)
  const agent = new OneConnection(socket)
  return { tlsExporter, fetch: agentFetch(agent), close: () => void socket.destroy() }
}

function secured(socket: TLSSocket, patience: number): Promise<void> {
  return new Promise((resolve, reject) => {
    if (socket.destroyed) reject(new Error('the connection is closed'))
    // The Finished of this end: the handshake is done.
    else if (socket.getFinished() !== undefined) resolve()
    else {
      const deadline = AbortSignal.timeout(patience)
      const giveUp = () => socket.destroy(deadline.reason)
      deadline.addEventListener('abort', giveUp)
      socket.once('error', reject)
      socket.once('close', () => {
        deadline.removeEventListener('abort', giveUp)
        reject(new Error('the connection is closed'))
      })
      socket.once('secureConnect', () => {
        deadline.removeEventListener('abort', giveUp)
        socket.off('error', reject)
        resolve()
      })
    }
  })
}

/** Of node:https, but what it would open a second connection for fails. */
class OneConnection extends Agent {
  #socket: TLSSocket | undefined

  constructor(socket: TLSSocket) {
    super({ keepAlive: true, maxSockets: 1 })
    this.#socket = socket
  }

  override createConnection(
    _options: unknown,
    callback: (error: Error | null, socket: Duplex) => void,
  ): Duplex | undefined {
    const socket = this.#socket
    this.#socket = undefined
    if (socket !== undefined && !socket.destroyed) return socket
    // Not thrown: for a request that waited for its turn nobody would catch it.
    callback(new Error('the connection that this fetch goes over is gone'), undefined as never)
    return undefined
  }
}
