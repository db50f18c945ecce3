/**
 * HTTP/2 without certificates, by the names that node:http2 has: `createSecureServer` with a door, `connect` with an
 * identity. A session is of one device; whoever pools sessions does so for each device by itself.
 */
import {
  type ClientHttp2Session,
  type ClientSessionOptions,
  createServer as createHttp2Server,
  type Http2Server,
  type Http2ServerRequest,
  type Http2ServerResponse,
  connect as http2Connect,
} from 'node:http2'
import { type ConnectOptions, connect as tlsConnect } from './connect.js'
import type { TlsPeer } from './door.js'
import { admit, type IdentityServerOptions, type IdentityTlsServer, overTls, peerOf } from './server.js'

/** A request whose sender has proven itself. */
export type IdentityHttp2Request = Http2ServerRequest & { readonly peer: TlsPeer }

/**
 * `http` of the answer is where streams and sessions come from: `peerOf(stream.session)` says whose they are. HTTP/1.1 isn't
 * spoken. TypeError for an option that is fixed.
 */
export function createSecureServer(
  options: IdentityServerOptions,
  listener: (request: IdentityHttp2Request, response: Http2ServerResponse, peer: TlsPeer) => void,
): IdentityTlsServer & { readonly http: Http2Server } {
  const http = createHttp2Server((request, response) => {
    const { session } = request.stream
    // It may have been ended since the request came: then nobody waits for an answer.
    if (session === undefined || session.destroyed) return
    const peer = peerOf(session)
    listener(admit(request, peer), response, peer)
  })
  // A session forgets its socket when it ends.
  http.on('session', session => void admit(session, peerOf(session)))
  return overTls(http, { ...options, ALPNProtocols: ['h2'] })
}

/**
 * A session to `authority` (`https://host[:port]`) as one device. Rejects as `connect` of TLS does, with TypeError for another
 * scheme, and with an Error where the server doesn't speak HTTP/2.
 */
export async function connect(
  authority: string | URL,
  {
    session = {},
    ...options
  }: Omit<ConnectOptions, 'host' | 'port'> & { readonly session?: ClientSessionOptions },
): Promise<ClientHttp2Session> {
  const { protocol, hostname, port } = new URL(authority)
  if (protocol !== 'https:') throw new TypeError('https alone: anything else would go unprotected')
  const socket = await tlsConnect({
    ...options,
    host: hostname.replace(/^\[(.*)\]$/, '$1'),
    port: Number(port || 443),
    ALPNProtocols: ['h2'],
  })
  if (socket.alpnProtocol !== 'h2') {
    socket.destroy()
    throw new Error('the server speaks no HTTP/2')
  }
  return http2Connect(authority, { ...session, createConnection: () => socket })
}
