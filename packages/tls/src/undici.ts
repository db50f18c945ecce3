/**
 * undici, and so the global fetch, as one device: undici's own `Agent` and `buildConnector`, with an identity in the place
 * of certificates.
 *
 *   const dispatcher = new Agent({ connect: { identity: car } })
 *   await fetch('https://gw.example/', { dispatcher })
 *
 * `fetch`, `request` and the others ask for the dispatcher with each call, one of this module: without one undici would go by
 * its global one, and so in the clear or by certificates.
 *
 * undici's pools know connections by their origin, not by their PSK. So a dispatcher that has this connector speaks for the
 * connector's device alone: one for each, and none of them the global one where a process has several devices.
 *
 * A kept connection isn't used for another request once its slot is about to end. undici tells nobody which of its
 * connections is busy but who listens to its diagnostics channels, of undici's own and of the one within node alike.
 */
import { subscribe } from 'node:diagnostics_channel'
import type { TLSSocket } from 'node:tls'
import {
  Dispatcher,
  errors,
  FormData,
  Headers,
  Request,
  type RequestInfo,
  type RequestInit,
  Response,
  Agent as UndiciAgent,
  Client as UndiciClient,
  Pool as UndiciPool,
  fetch as undiciFetch,
  pipeline as undiciPipeline,
  request as undiciRequest,
  stream as undiciStream,
} from 'undici'
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
  if (typeof options?.identity?.externalPsk !== 'function')
    throw new TypeError('connect.identity: a Device, in the place of a certificate')
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

/** undici's options, with an identity in those of its connections. */
type OfDevice<Options> = Omit<Options, 'connect' | 'factory'> & { readonly connect: ConnectorOptions }
export type AgentOptions = OfDevice<UndiciAgent.Options>
export type ClientOptions = OfDevice<UndiciClient.Options>
export type PoolOptions = OfDevice<UndiciPool.Options>

/** undici's, for one device. TypeError as `buildConnector`, and for `factory`. */
export class Agent extends UndiciAgent {
  constructor(options: AgentOptions) {
    super(ofDevice(options))
  }
}

/** undici's, for one device and one server. TypeError as Agent, and for a URL that isn't https. */
export class Client extends UndiciClient {
  constructor(url: string | URL, options: ClientOptions) {
    requireHttps(url)
    super(url, ofDevice(options))
  }
}

/** As Client, with several connections. */
export class Pool extends UndiciPool {
  constructor(url: string | URL, options: PoolOptions) {
    requireHttps(url)
    super(url, ofDevice(options))
  }
}

function ofDevice<Options extends object>(options: OfDevice<Options>): Options {
  const { connect, factory, ...others } = (options ?? {}) as AgentOptions & { readonly factory?: unknown }
  if (factory !== undefined)
    throw new TypeError('factory: it would make connections of its own, and these are the device’s')
  return { ...others, connect: buildConnector(connect) } as unknown as Options
}

function requireHttps(url: unknown): void {
  const { protocol, origin } = (typeof url === 'string' ? new URL(url) : (url ?? {})) as Partial<URL>
  if ((protocol ?? (origin === undefined ? undefined : new URL(origin).protocol)) !== 'https:')
    throw new TypeError('https alone: anything else would go unprotected')
}

function requireOwn(dispatcher: unknown): void {
  if (!(dispatcher instanceof Agent || dispatcher instanceof Client || dispatcher instanceof Pool))
    throw new TypeError('dispatcher: an Agent, Client or Pool of this module, with each request')
}

/** As undici's. Rejects with a TypeError without `dispatcher`, with one that isn't of this module, and for a URL that isn't https. */
export async function fetch(
  input: RequestInfo,
  init: RequestInit & { readonly dispatcher: Dispatcher },
): Promise<Response> {
  requireOwn(init?.dispatcher)
  const isRequest = input instanceof Request
  const url = new URL(isRequest ? input.url : String(input))
  requireHttps(url)
  return undiciFetch(isRequest ? input : url, init)
}

type Asked = [url: unknown, options?: unknown, ...others: unknown[]]
/** TypeError as `fetch`, before anything is asked. */
function guarded<F extends (...given: never[]) => unknown>(ask: F): F {
  const asking = (...given: Asked) => {
    const [url, options] = given
    requireOwn((options as { readonly dispatcher?: unknown } | undefined)?.dispatcher)
    requireHttps(url)
    return ask(...(given as unknown as never[]))
  }
  return asking as unknown as F
}

export const request = guarded(undiciRequest)
export const stream = guarded(undiciStream)
export const pipeline = guarded(undiciPipeline)

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

export { Dispatcher, errors, FormData, Headers, Request, Response }
export default {
  Agent,
  buildConnector,
  Client,
  Dispatcher,
  errors,
  FormData,
  fetch,
  Headers,
  Pool,
  pipeline,
  Request,
  Response,
  request,
  stream,
}
