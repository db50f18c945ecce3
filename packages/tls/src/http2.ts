/**
 * node:http2 with a device, or a service of a group, in the place of certificates. A session is of one device; whoever pools
 * sessions does so for each device by itself.
 */
import {
  type ClientHttp2Session,
  type ClientSessionOptions,
  constants,
  createServer as createHttp2Server,
  getDefaultSettings,
  getPackedSettings,
  getUnpackedSettings,
  type Http2Server,
  Http2ServerRequest,
  Http2ServerResponse,
  connect as http2Connect,
  type IncomingHttpHeaders,
  type ServerHttp2Stream,
  type ServerOptions,
  sensitiveHeaders,
} from 'node:http2'
import type { ReadableOptions } from 'node:stream'
import type { TlsPeer } from './door.js'
import { admit, type IdentityServerOptions, peerOf, takeProvenOnly } from './server.js'
import { type ConnectOptions, connect as tlsConnect } from './tls.js'

/** A request whose sender has proven itself. */
export class IdentityHttp2Request extends Http2ServerRequest {
  readonly #peer: TlsPeer | undefined

  constructor(
    stream: ServerHttp2Stream,
    headers: IncomingHttpHeaders,
    options: ReadableOptions,
    rawHeaders: readonly string[],
  ) {
    super(stream, headers, options, rawHeaders)
    // It may have been ended since the request came.
    this.#peer = stream.session === undefined || stream.session.destroyed ? undefined : peerOf(stream.session)
  }

  get peer(): TlsPeer {
    return this.#peer as TlsPeer
  }
  /** Nobody waits for an answer, and no listener is told of it. */
  static isOver(request: unknown): boolean {
    return request instanceof IdentityHttp2Request && request.#peer === undefined
  }
}

export interface Http2SecureServerOptions
  extends IdentityServerOptions,
    Omit<ServerOptions, keyof IdentityServerOptions | 'Http2ServerRequest' | 'allowHTTP1'> {}

/**
 * As node's; what listens to the server's events of HTTP runs for proven devices only: `request.peer`, and
 * `peerOf(stream.session)` for a stream. HTTP/1.1 isn't spoken. TypeError for an option that is fixed.
 */
export function createSecureServer(
  options: Http2SecureServerOptions,
  listener?: (request: IdentityHttp2Request, response: Http2ServerResponse) => void,
): Http2Server {
  const { allowHTTP1, Http2ServerRequest: own } = options as ServerOptions & { readonly allowHTTP1?: boolean }
  if (allowHTTP1) throw new TypeError('allowHTTP1: HTTP/1.1 has a server of `https`')
  if (own !== undefined)
    throw new TypeError('Http2ServerRequest: the requests of this server say whose they are')
  const server = createHttp2Server(
    { ...(options as ServerOptions), Http2ServerRequest: IdentityHttp2Request },
    listener as Parameters<typeof createHttp2Server>[1],
  )
  takeProvenOnly(server, { ...options, ALPNProtocols: ['h2'] })
  // A session forgets its socket when it ends.
  server.on('session', session => void admit(session, peerOf(session)))
  const { emit } = server
  server.emit = (event: string | symbol, ...given: unknown[]) =>
    !IdentityHttp2Request.isOver(given[0]) && emit.call(server, event, ...given)
  return server
}

export interface Http2ConnectOptions
  extends Omit<ConnectOptions, 'host' | 'port' | 'path'>,
    Omit<ClientSessionOptions, keyof ConnectOptions | 'createConnection' | 'protocol'> {}

/**
 * As node's: a session to `authority` (`https://host[:port]`) at once, as one device. TypeError for another scheme and as
 * `connect` of `tls`; the session's `error` is the socket's, and one where the server doesn't speak HTTP/2.
 */
export function connect(
  authority: string | URL,
  options: Http2ConnectOptions,
  listener?: Parameters<typeof http2Connect>[2],
): ClientHttp2Session {
  const { protocol, hostname, port } = new URL(authority)
  if (protocol !== 'https:') throw new TypeError('https alone: anything else would go unprotected')
  if ((options as ClientSessionOptions).createConnection !== undefined)
    throw new TypeError('createConnection is no option of TLS without certificates: `socket` is')
  const socket = tlsConnect(Number(port || 443), hostname.replace(/^\[(.*)\]$/, '$1'), {
    ...options,
    ALPNProtocols: ['h2'],
  })
  // Before the session's own, which would speak HTTP/2 to whatever it is.
  socket.once('secureConnect', () => {
    if (socket.alpnProtocol !== 'h2') session.destroy(new Error('the server speaks no HTTP/2'))
  })
  const session = http2Connect(authority, { ...options, createConnection: () => socket }, listener)
  return session
}

export {
  constants,
  getDefaultSettings,
  getPackedSettings,
  getUnpackedSettings,
  Http2ServerResponse,
  IdentityHttp2Request as Http2ServerRequest,
  sensitiveHeaders,
}
export default {
  connect,
  constants,
  createSecureServer,
  getDefaultSettings,
  getPackedSettings,
  getUnpackedSettings,
  Http2ServerRequest: IdentityHttp2Request,
  Http2ServerResponse,
  sensitiveHeaders,
}
