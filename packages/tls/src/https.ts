/**
 * node:https with a device, or a service of a group, in the place of certificates. A server is node's own HTTP server behind
 * the entrance of server.ts: same events, limits and methods, and `request.peer` says who asks. A client gives `identity`
 * with each request, or once to an Agent.
 *
 * An agent is for one device, keeps no TLS session, and asks for the PSK of each new connection, since pools don't tell PSKs
 * apart; a request that gives an identity and no agent goes by that identity's own.
 */
import {
  type ClientRequest,
  Server as HttpServer,
  type ServerOptions as HttpServerOptions,
  IncomingMessage,
  type RequestListener,
  type ServerResponse,
} from 'node:http'
import {
  type AgentOptions,
  Agent as HttpsAgent,
  type RequestOptions as HttpsRequestOptions,
  request as httpsRequest,
} from 'node:https'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { TlsPeer } from './door.js'
import { type Accepted, clientSettings, type Fixed, refuseFixed } from './options.js'
import { type IdentityServerOptions, peerOf, takeProvenOnly } from './server.js'
import { type ConnectOptions, connect, type TlsIdentity } from './tls.js'

/** A request whose sender has proven itself. */
export class IdentityRequest extends IncomingMessage {
  get peer(): TlsPeer {
    return peerOf(this.socket)
  }
}

export interface HttpsServerOptions
  extends IdentityServerOptions,
    Omit<HttpServerOptions, keyof IdentityServerOptions | 'IncomingMessage'> {}
type Listener = RequestListener<typeof IdentityRequest, typeof ServerResponse>

/**
 * As node's; `listener`, and whatever listens to the server's events of HTTP, runs for proven devices only. TypeError for
 * an option that is fixed.
 */
export class Server extends HttpServer<typeof IdentityRequest, typeof ServerResponse> {
  constructor(options: HttpsServerOptions, listener?: Listener) {
    if ((options as HttpServerOptions).IncomingMessage !== undefined)
      throw new TypeError(
        'IncomingMessage is no option of TLS without certificates: its requests say whose they are',
      )
    super({ ...(options as HttpServerOptions), IncomingMessage: IdentityRequest }, listener)
    takeProvenOnly(this, { ALPNProtocols: ['http/1.1'], ...options })
  }
}

/** A Server. */
export function createServer(options: HttpsServerOptions, listener?: Listener): Server {
  return new Server(options, listener)
}

type OfIdentity = Pick<ConnectOptions, 'clock' | 'timers' | 'warnBefore' | 'tls12'>
export interface IdentityAgentOptions extends Omit<AgentOptions, Fixed>, Accepted, OfIdentity {
  readonly identity: TlsIdentity
}

/**
 * For requests as one device. A kept connection isn't used for another request once its slot is about to end. TypeError for
 * an option that is fixed.
 */
export class Agent extends HttpsAgent {
  readonly #identity: TlsIdentity
  readonly #ending = new WeakSet<object>()

  constructor({ identity, ...options }: IdentityAgentOptions) {
    refuseFixed(options, clientSettings(options.tls12))
    if (typeof identity?.externalPsk !== 'function')
      throw new TypeError('identity: a Device, in the place of a certificate')
    super({ ...options, maxCachedSessions: 0 })
    this.#identity = identity
  }

  /** What node keeps connections by: one of TLS 1.2 is none for a request that hasn't chosen it. */
  override getName(options?: HttpsRequestOptions & { readonly tls12?: boolean }): string {
    return `${super.getName(options)}:${options?.tls12 ? 'tls12' : ''}`
  }

  /** Node calls it with each request, before it looks for a connection that is kept. */
  addRequest(
    request: ClientRequest,
    options: HttpsRequestOptions & { readonly identity?: TlsIdentity },
  ): void {
    if (options.identity !== undefined && options.identity !== this.#identity)
      throw new TypeError('an agent is for one device, and the request is another’s')
    // Node would take `servername` from the Host header; a header is no configuration.
    const servername = this.options.servername || options.servername || options.host
    ADD_REQUEST.call(this, request, { ...options, servername })
  }

  override createConnection(
    options: ConnectOptions,
    callback?: (error: Error | null, stream: Duplex) => void,
  ): Duplex | undefined {
    try {
      const socket = connect({ ...options, identity: this.#identity })
      socket.once('permit-ending', () => this.#retire(socket))
      return socket
    } catch (error) {
      // The request's, not the process'.
      ;(callback as (error: unknown) => void)(error)
      return undefined
    }
  }

  override keepSocketAlive(socket: Duplex): boolean {
    // The types say nothing of what node's own answers.
    return !this.#ending.has(socket) && (super.keepSocketAlive(socket) as unknown as boolean)
  }

  #retire(socket: Duplex): void {
    this.#ending.add(socket)
    const isFree = Object.values(this.freeSockets).some(free => free?.includes(socket as Socket))
    if (isFree) socket.destroy()
  }
}

/** Of node's agents; its types don't list it. */
const ADD_REQUEST = (HttpsAgent.prototype as unknown as { addRequest: (...given: unknown[]) => void })
  .addRequest

/** An Agent, for libraries that take one. */
export function httpsAgent(
  identity: TlsIdentity,
  options: Omit<IdentityAgentOptions, 'identity'> = {},
): Agent {
  return new Agent({ ...options, identity })
}

export interface RequestOptions
  extends Omit<HttpsRequestOptions, Fixed | 'agent' | 'createConnection'>,
    Accepted,
    OfIdentity {
  readonly identity?: TlsIdentity
  readonly agent?: Agent | false
}
type Answered = (response: IncomingMessage) => void

/**
 * As node's, as the device that is the agent's or `identity`; one of both has to be there. The server is the one that
 * `servername` says, or the URL's host. TypeError for an option that is fixed, for an agent that isn't one of these, and
 * for one of another device.
 */
export function request(options: RequestOptions, answered?: Answered): ClientRequest
export function request(url: string | URL, options: RequestOptions, answered?: Answered): ClientRequest
export function request(...given: unknown[]): ClientRequest {
  const place = typeof given[0] === 'string' || given[0] instanceof URL ? 1 : 0
  const options = (typeof given[place] === 'object' ? given[place] : {}) as RequestOptions
  const answered = given.find(one => typeof one === 'function') as Answered | undefined
  const asked = { ...options, agent: agentFor(options) } as HttpsRequestOptions
  return place === 1 ? httpsRequest(given[0] as string | URL, asked, answered) : httpsRequest(asked, answered)
}

/** A `request` without a body, ended. */
export function get(options: RequestOptions, answered?: Answered): ClientRequest
export function get(url: string | URL, options: RequestOptions, answered?: Answered): ClientRequest
export function get(...given: unknown[]): ClientRequest {
  const asked = request(...(given as [RequestOptions]))
  asked.end()
  return asked
}

/** As node's global agent is. */
const KEPT = { keepAlive: true, scheduling: 'lifo', timeout: 5_000 } as const
const agents = new WeakMap<TlsIdentity, Agent>()

/** For a request, or what goes by one. */
export function agentFor(options: RequestOptions): Agent {
  const { identity, agent, tls12 } = options
  refuseFixed(options, clientSettings(tls12))
  if ((options as HttpsRequestOptions).createConnection !== undefined)
    throw new TypeError(
      'createConnection is no option of TLS without certificates: connections are the agent’s',
    )
  if (agent instanceof Agent) return agent
  if (agent) throw new TypeError('agent: one of this module, for one device')
  if (identity === undefined) throw new TypeError('identity, or an agent of one')
  const kept = agent === undefined ? agents.get(identity) : undefined
  if (kept !== undefined) return kept
  const made = new Agent(agent === false ? { identity } : { ...KEPT, identity })
  if (agent === undefined) agents.set(identity, made)
  return made
}

export default { Agent, createServer, get, httpsAgent, request, Server }
