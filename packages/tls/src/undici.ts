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
import type { Socket, TcpNetConnectOpts } from 'node:net'
import type { TLSSocket } from 'node:tls'
import { systemTimers, type Timers } from '@milagro-ts/api/system'
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
import { clientSettings, RESUMED, refuseFixed } from './options.js'
import { type ConnectOptions, connect, secured } from './tls.js'

/** Node's options of a TCP connection that its types of TLS leave out. */
type OfTcp = Pick<
  TcpNetConnectOpts,
  | 'autoSelectFamily'
  | 'autoSelectFamilyAttemptTimeout'
  | 'hints'
  | 'keepAlive'
  | 'keepAliveInitialDelay'
  | 'localAddress'
  | 'localPort'
>
export interface ConnectorOptions
  extends Omit<ConnectOptions, 'host' | 'port' | 'path' | 'socket' | 'timeout'>,
    OfTcp {
  /** Milliseconds from the request for a connection to its `secureConnect`, the PSK's agreement included: 10 000 unless said, 0 for no end. */
  readonly timeout?: number | null | undefined
  /** A Unix domain socket, in the place of the URL's host and port. */
  readonly socketPath?: string | null | undefined
  readonly allowH2?: false | undefined
  readonly maxCachedSessions?: 0 | null | undefined
}

/** What undici asks of a connector: the URL's host and port, and a socket where one is there already. */
export interface ConnectorTarget {
  readonly hostname: string
  readonly port: string
  readonly protocol: string
  readonly localAddress?: string | null | undefined
  readonly httpSocket?: Socket | undefined
}
export type Connector = (
  target: ConnectorTarget,
  callback: (...answer: [error: null, socket: TLSSocket] | [error: Error, socket: null]) => void,
) => void

/**
 * The server is the one that `servername` says, or the URL's host; never what a header says. TypeError for an option that is
 * fixed; of a request it is what `connect` rejects with, undici's ConnectTimeoutError after `timeout`, and TypeError for a URL
 * that isn't https.
 */
export function buildConnector(options: ConnectorOptions): Connector {
  if (typeof options?.identity?.externalPsk !== 'function')
    throw new TypeError('connect.identity: a Device, in the place of a certificate')
  refuseFixed(options, clientSettings(options.tls12))
  refuseUnkept(options)
  const { timeout, socketPath, allowH2: _, maxCachedSessions: __, ...others } = options
  return ({ hostname, port, protocol, localAddress, httpSocket }, callback) => {
    const connecting = async () => {
      if (protocol !== 'https:') throw new TypeError('https alone: anything else would go unprotected')
      const at = { host: unbracketed(hostname), port: Number(port || 443) }
      const path = httpSocket === undefined && socketPath ? { path: socketPath } : undefined
      const from = localAddress ? { localAddress } : undefined
      const over = httpSocket === undefined ? undefined : { socket: httpSocket }
      const settled = { ...others, ...at, ...path, ...from, ...over, ALPNProtocols: ['http/1.1'] }
      const socket = connect(settled)
      // As undici's own connector has it.
      socket.setNoDelay(true)
      if (others.keepAlive ?? true) socket.setKeepAlive(true, others.keepAliveInitialDelay ?? 60_000)
      const callOff = endAfter(timeout ?? 10_000, others.timers ?? systemTimers, socket, settled)
      try {
        return await secured(socket)
      } finally {
        callOff()
      }
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

/** The longest that a timer takes. */
const LONGEST = 2 ** 31 - 1

/** Destroys a socket that isn't secured by then, unless it is called off. */
function endAfter(
  timeout: number,
  timers: Timers,
  socket: TLSSocket,
  { host, port, path }: { readonly host: string; readonly port: number; readonly path?: string | undefined },
): () => void {
  if (timeout === 0) return () => {}
  let ending: NodeJS.Immediate | undefined
  const endTimer = timers.after(Math.min(timeout, LONGEST), () => {
    // What has come while this thread was busy counts first.
    ending = setImmediate(() => {
      // Node has them where a name has several, and its types say always.
      const tried = socket.autoSelectFamilyAttemptedAddresses as string[] | undefined
      const attempted =
        tried === undefined ? `address: ${path ?? `${host}:${port}`}` : `addresses: ${tried.join(', ')}`
      const message = `Connect Timeout Error (attempted ${attempted}, timeout: ${timeout}ms)`
      socket.destroy(new errors.ConnectTimeoutError(message))
    })
  })
  return () => {
    endTimer()
    clearImmediate(ending)
  }
}

/** TypeError for what of undici's own options can't hold, or isn't what it has to be. */
function refuseUnkept(options: ConnectorOptions): void {
  const {
    allowH2,
    maxCachedSessions,
    socketPath,
    timeout,
  }: { readonly [Name in keyof ConnectorOptions]: unknown } = options
  const NO_OPTION = 'is no option of TLS without certificates'
  if (allowH2)
    throw new TypeError(
      `allowH2 ${NO_OPTION}: undici doesn’t tell which connection of HTTP/2 is busy, so none could go at its slot’s end; @milagro-ts/tls/http2 speaks it`,
    )
  if (maxCachedSessions) throw new TypeError(`maxCachedSessions ${NO_OPTION}: ${RESUMED}`)
  // Node would take a number for a port of this host.
  if (typeof (socketPath ?? '') !== 'string')
    throw new TypeError('socketPath: a path, of a Unix domain socket')
  const milliseconds = timeout ?? 0
  if (typeof milliseconds !== 'number' || !(milliseconds >= 0))
    throw new TypeError('timeout: milliseconds, and 0 for no end')
}

/** undici's options, with an identity in those of its connections. */
type OfDevice<Options> = Omit<Options, 'connect' | 'factory' | 'allowH2' | 'maxCachedSessions'> &
  Pick<ConnectorOptions, 'allowH2' | 'maxCachedSessions'> & { readonly connect: ConnectorOptions }
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
  return { ...others, connect: buildConnector(ofConnection(others, connect)) } as unknown as Options
}

/**
 * undici gives its own options of a connection to no connector but the one that it makes. Divergence: `autoSelectFamily`
 * holds as well where it is false, which undici leaves to node.
 */
function ofConnection(
  dispatcher: Omit<AgentOptions, 'connect'>,
  connection: ConnectorOptions,
): ConnectorOptions {
  const { tls, allowH2, maxCachedSessions, socketPath, connectTimeout } = dispatcher
  const { autoSelectFamily, autoSelectFamilyAttemptTimeout } = dispatcher
  return {
    ...(tls as object | undefined),
    allowH2,
    maxCachedSessions,
    socketPath,
    autoSelectFamily,
    autoSelectFamilyAttemptTimeout,
    ...connection,
    timeout: connection?.timeout ?? connectTimeout,
  }
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
