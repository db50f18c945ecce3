/**
 * undici, and so the global fetch, as one device: undici's own `Agent` and `buildConnector`, with an identity in the place
 * of certificates.
 *
 *   const dispatcher = new Agent({ connect: { identity: car } })
 *   await fetch('https://gw.example/', { dispatcher })
 *
 * undici's pools know connections by their origin, not by their PSK. So a dispatcher that has this connector speaks for the
 * connector's device alone: one for each, and none of them the global one where a process has several devices.
 *
 * A kept connection isn't used for another request once its slot is about to end. undici tells nobody which of its
 * connections is busy but who listens to its diagnostics channels, of undici's own and of the one within node alike.
 */
import { subscribe } from 'node:diagnostics_channel'
import type { TLSSocket } from 'node:tls'
import { fetch, request, Agent as UndiciAgent } from 'undici'
import { clientSettings, refuseFixed } from './options.js'
import { type ConnectOptions, connect, secured } from './tls.js'

export interface ConnectorOptions extends Omit<ConnectOptions, 'host' | 'port' | 'path' | 'socket'> {}

/** What undici asks of a connector: the URL's host and port. */
export interface ConnectorTarget {
  readonly hostname: string
  readonly port: string
  readonly protocol: string
}
export type Connector = (
  target: ConnectorTarget,
  callback: (...answer: [error: null, socket: TLSSocket] | [error: Error, socket: null]) => void,
) => void

/**
 * The server is the one that `servername` says, or the URL's host; never what a header says. TypeError for an option that is
 * fixed; of a request it is what `connect` rejects with, and TypeError for a URL that isn't https.
 */
export function buildConnector(options: ConnectorOptions): Connector {
  refuseFixed(options, clientSettings(options.tls12))
  return ({ hostname, port, protocol }, callback) => {
    const connecting = async () => {
      if (protocol !== 'https:') throw new TypeError('https alone: anything else would go unprotected')
      const at = { host: unbracketed(hostname), port: Number(port || 443) }
      return secured(connect({ ALPNProtocols: ['http/1.1'], ...options, ...at }))
    }
    connecting().then(
      socket => {
        retireWhenEnding(socket)
        callback(null, socket)
      },
      (error: Error) => callback(error, null),
    )
  }
}

export interface AgentOptions extends Omit<UndiciAgent.Options, 'connect' | 'factory'> {
  readonly connect: ConnectorOptions
}

/** undici's, for one device. */
export class Agent extends UndiciAgent {
  constructor({ connect, ...options }: AgentOptions) {
    super({ ...options, connect: buildConnector(connect) })
  }
}

/** Requests under way on our own connections, and the connection of each. */
const requests = new WeakMap<TLSSocket, Set<object>>()
const connections = new WeakMap<object, TLSSocket>()
const ending = new WeakSet<TLSSocket>()
let isListening = false

function retireWhenEnding(socket: TLSSocket): void {
  listen()
  requests.set(socket, new Set())
  socket.once('permit-ending', () => {
    ending.add(socket)
    retire(socket)
  })
}

function retire(socket: TLSSocket): void {
  if (ending.has(socket) && requests.get(socket)?.size === 0) socket.destroy()
}

/** Once in a process. */
function listen(): void {
  if (isListening) return
  isListening = true
  subscribe('undici:client:sendHeaders', message => {
    const { socket, request } = message as { socket: TLSSocket; request: object }
    const underWay = requests.get(socket)
    if (underWay === undefined) return
    underWay.add(request)
    connections.set(request, socket)
  })
  const over = (message: unknown) => {
    const { request } = message as { request: object }
    const socket = connections.get(request)
    if (socket === undefined) return
    requests.get(socket)?.delete(request)
    // In this turn undici still looks at the connection; in a later one it may write the next request.
    queueMicrotask(() => retire(socket))
  }
  subscribe('undici:request:trailers', over)
  subscribe('undici:request:error', over)
}

/** An IPv6 address as a URL has it. */
const unbracketed = (hostname: string) => hostname.replace(/^\[(.*)\]$/, '$1')

export { fetch, request }
