/**
 * WebSockets without certificates: the package `ws`, called as ever.
 *
 *   server    new WebSocketServer({ server })                          `server` is one of `https`; `request.peer` says who
 *   client    new WebSocket('wss://gw.example/', { identity: car })
 */
import type { ClientRequest, IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import {
  type ClientOptions,
  createWebSocketStream,
  type ServerOptions,
  WebSocket as Ws,
  WebSocketServer as WsServer,
} from 'ws'
import { agentFor, type IdentityRequest, type RequestOptions } from './https.js'
import type { Accepted, Fixed } from './options.js'
import { peerOf, takesProvenOnly } from './server.js'

export interface WebSocketOptions
  extends Omit<ClientOptions, Fixed | 'agent' | 'createConnection'>,
    Accepted,
    Pick<RequestOptions, 'identity' | 'agent' | 'servername' | 'clock' | 'timers' | 'warnBefore' | 'tls12'> {}

/**
 * As the device that is the agent's or `identity`. TypeError as `request` of `https`; a redirect to another scheme than wss
 * or https is an `error`.
 */
export class WebSocket extends Ws {
  // Whoever asks for `ws` by `require` puts its own plain ones on the class that this one extends.
  static readonly createWebSocketStream = createWebSocketStream
  static get Server(): typeof WebSocketServer {
    return WebSocketServer
  }
  static get WebSocket(): typeof WebSocket {
    return WebSocket
  }
  static get WebSocketServer(): typeof WebSocketServer {
    return WebSocketServer
  }

  constructor(address: string | URL, options: WebSocketOptions)
  constructor(address: string | URL, protocols: string | string[] | undefined, options: WebSocketOptions)
  constructor(
    address: string | URL,
    protocols: string | string[] | WebSocketOptions | undefined,
    given?: WebSocketOptions,
  ) {
    const isList = Array.isArray(protocols) || typeof protocols !== 'object'
    const options = (isList ? given : protocols) ?? {}
    const agent = agentFor(options as RequestOptions)
    super(address, isList ? protocols : undefined, {
      ...options,
      agent,
      ...(options.followRedirects ? { finishRequest: withoutDowngrade(options.finishRequest) } : {}),
    } as ClientOptions)
  }
}

type FinishRequest = NonNullable<ClientOptions['finishRequest']>

/** ws would ask our agent for a connection in the clear, and not catch the refusal. */
function withoutDowngrade(finish: FinishRequest = request => request.end()): FinishRequest {
  return (request: ClientRequest, socket: Ws) => {
    const follow = request.listeners('response') as ((response: IncomingMessage) => void)[]
    request.removeAllListeners('response').on('response', (response: IncomingMessage) => {
      const { location } = response.headers
      const isRedirect = Math.floor(Number(response.statusCode) / 100) === 3 && location !== undefined
      // A location that isn't one is ws' to refuse.
      if (isRedirect && URL.canParse(location, socket.url)) {
        const { protocol } = new URL(location, socket.url)
        if (protocol !== 'wss:' && protocol !== 'https:') {
          request.destroy()
          request.emit('error', new TypeError('redirected: wss alone, anything else would go unprotected'))
          return
        }
      }
      for (const one of follow) one.call(request, response)
    })
    finish(request, socket)
  }
}

/** It takes upgrades of proven devices alone: `server` is one of `https`, or `handleUpgrade` is given them. */
export class WebSocketServer extends WsServer<typeof Ws, typeof IdentityRequest> {
  /** TypeError for `port`, where it would take anybody, and for a `server` that does. */
  constructor(options: Omit<ServerOptions<typeof Ws, typeof IdentityRequest>, 'port' | 'host'>) {
    const { port, server } = options as ServerOptions
    if (port !== undefined && port !== null)
      throw new TypeError('port: a server of `https` listens, and is given as `server`')
    if (server && !takesProvenOnly(server))
      throw new TypeError(
        'server: one of `https`, or one that `overTls` stands before; this one takes anybody',
      )
    super(options)
  }

  /**
   * An upgrade that came by another server than one without certificates is closed, and told to who listens to
   * `wsClientError`.
   */
  override handleUpgrade(
    request: IdentityRequest,
    socket: Duplex,
    head: Buffer,
    done: (opened: Ws, request: IdentityRequest) => void,
  ): void {
    try {
      peerOf(request as IncomingMessage)
    } catch (error) {
      socket.destroy()
      this.emit('wsClientError', error as Error, socket, request)
      return
    }
    super.handleUpgrade(request, socket, head, done)
  }
}

export { createWebSocketStream }
export default WebSocket
