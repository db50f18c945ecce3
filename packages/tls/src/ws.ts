/**
 * WebSockets without certificates: the package `ws`, called as ever.
 *
 *   server    new WebSocketServer({ server })                          `server` is one of `https`; `request.peer` says who
 *   client    new WebSocket('wss://gw.example/', { identity: car })
 */
import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import { type ClientOptions, type ServerOptions, WebSocket as Ws, WebSocketServer as WsServer } from 'ws'
import { agentFor, type IdentityRequest, type RequestOptions } from './https.js'
import type { Accepted, Fixed } from './options.js'
import { peerOf } from './server.js'

export interface WebSocketOptions
  extends Omit<ClientOptions, Fixed | 'agent' | 'createConnection'>,
    Accepted,
    Pick<RequestOptions, 'identity' | 'agent' | 'servername' | 'clock' | 'timers' | 'warnBefore' | 'tls12'> {}

/** As the device that is the agent's or `identity`. TypeError as `request` of `https`. */
export class WebSocket extends Ws {
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
    super(address, isList ? protocols : undefined, { ...options, agent } as ClientOptions)
  }
}

/** It takes upgrades of proven devices alone: `server` is one of `https`, or `handleUpgrade` is given them. */
export class WebSocketServer extends WsServer<typeof Ws, typeof IdentityRequest> {
  /** TypeError for `port`, where it would take anybody. */
  constructor(options: Omit<ServerOptions<typeof Ws, typeof IdentityRequest>, 'port' | 'host'>) {
    if ((options as ServerOptions).port !== undefined)
      throw new TypeError('port: a server of `https` listens, and is given as `server`')
    super(options)
  }

  /** TypeError for an upgrade that came by another server than one without certificates. */
  override handleUpgrade(
    request: IdentityRequest,
    socket: Duplex,
    head: Buffer,
    done: (opened: Ws, request: IdentityRequest) => void,
  ): void {
    peerOf(request as IncomingMessage)
    super.handleUpgrade(request, socket, head, done)
  }
}

export default WebSocket
