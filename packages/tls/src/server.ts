/**
 * A TLS server without certificates, over node:tls: same sockets, same events, same options where they are the caller's.
 *
 *   raw connection     the ClientHello is read, its first PSK identity goes through the door, a worker computes the PSK
 *   node:tls           gets the bytes back and does the handshake by that PSK, TLS 1.3, psk_dhe_ke, no ticket
 *   secureConnection   (socket, peer): only for whom the door still lets in when the handshake is over
 *   permit-ending      on the socket, a minute before the slot ends; at slot end and grace, or at a ban, it is closed
 *
 * A ClientHello without a PSK, or with a second identity that is better, is OpenSSL's to refuse: there is no certificate
 * that it could use instead.
 */
import {
  createServer as createHttpServer,
  type Server as HttpServer,
  type IncomingMessage,
  type ServerResponse,
} from 'node:http'
import { Server, type Socket } from 'node:net'
import { createServer as createTlsServer, type TLSSocket, type TlsOptions } from 'node:tls'
import type { Log } from '@milagro-ts/api/log'
import type { Timers } from '@milagro-ts/api/system'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { PoolUnavailable } from '@milagro-ts/crypto/node-pool'
import { pskIdentitiesOf } from './client-hello.js'
import type { Door, TlsPeer } from './door.js'
import { type Fixed, NO_TICKET, PROTOCOL, refuseFixed } from './options.js'

/** Milliseconds from a connection to the end of its handshake. */
const HANDSHAKE_TIMEOUT = 10_000

export interface IdentityServerOptions extends Omit<TlsOptions, Fixed> {
  readonly door: Door
  readonly timers: Timers
  readonly log: Log
}

/** Whom a handshake is prepared for. */
interface Prepared {
  readonly psk: Uint8Array
  /** Connections that go by it. */
  uses: number
}

export class IdentityTlsServer extends Server {
  readonly #options: IdentityServerOptions
  readonly #tls
  /** By identity; of handshakes under way. */
  readonly #prepared = new Map<string, Prepared>()
  /** By which identity node:tls was given a PSK. */
  readonly #used = new WeakMap<TLSSocket, { readonly identity: string; readonly psk: Uint8Array }>()

  /** For createServer. */
  constructor(options: IdentityServerOptions) {
    super({ pauseOnConnect: false })
    const { door, timers, log, ...tlsOptions } = options
    refuseFixed(tlsOptions)
    this.#options = options
    this.#tls = createTlsServer({
      handshakeTimeout: HANDSHAKE_TIMEOUT,
      ...tlsOptions,
      ...PROTOCOL,
      secureOptions: NO_TICKET,
      pskCallback: (socket, identity) => this.#pskOf(socket, identity),
    })
    this.#tls.on('secureConnection', socket => this.#secure(socket))
    this.#tls.on('tlsClientError', (error, socket) => this.emit('tlsClientError', error, socket))
    this.on('connection', (raw: Socket) => {
      this.#prepare(raw).catch((error: unknown) => {
        if (!(error instanceof PoolUnavailable || error instanceof DecodeError))
          log.error({ err: error }, 'a connection could not be prepared')
        raw.destroy()
      })
    })
  }

  /** Reads the ClientHello, prepares its PSK, and gives the bytes back. DecodeError, PoolUnavailable. */
  async #prepare(raw: Socket): Promise<void> {
    const { door, timers, handshakeTimeout = HANDSHAKE_TIMEOUT } = this.#options
    // Until node:tls listens; what it meets afterwards is a tlsClientError.
    raw.on('error', () => raw.destroy())
    const endWaiting = timers.after(handshakeTimeout, () => raw.destroy())
    const read = await helloOf(raw).finally(endWaiting)
    if (read === null || raw.destroyed) return
    const [identity] = read.identities
    if (identity !== undefined) {
      const psk = await door.psk(identity, raw.remoteAddress ?? '')
      if (raw.destroyed) return
      const prepared = this.#prepared.get(identity) ?? { psk, uses: 0 }
      prepared.uses++
      this.#prepared.set(identity, prepared)
      raw.once('close', () => {
        if (--prepared.uses === 0) this.#prepared.delete(identity)
      })
    }
    raw.unshift(read.bytes)
    this.#tls.emit('connection', raw)
  }

  /** Called by OpenSSL, once more after a HelloRetryRequest. What it throws would end the process on older Node. */
  #pskOf(socket: TLSSocket, identity: string): Buffer | null {
    try {
      const prepared = this.#prepared.get(identity)
      if (prepared !== undefined) this.#used.set(socket, { identity, psk: prepared.psk })
      return Buffer.from(prepared?.psk ?? this.#options.door.decoy(identity))
    } catch (error) {
      this.#options.log.error({ err: error }, 'a PSK could not be given')
      return null
    }
  }

  #secure(socket: TLSSocket): void {
    const used = this.#used.get(socket)
    const peer = used === undefined ? null : this.#options.door.authenticated(used.identity, used.psk)
    if (peer === null) {
      socket.destroy()
      return
    }
    peers.set(socket, peer)
    const leave = this.#options.door.enter(
      {
        ending: endsAt => socket.emit('permit-ending', endsAt),
        putOut: why => {
          this.#options.log.info({ mpinId: peer.mpinId, why }, 'a connection was closed')
          socket.destroy()
        },
      },
      peer,
    )
    socket.once('close', leave)
    this.emit('secureConnection', socket, peer)
  }
}

const peers = new WeakMap<object, TlsPeer>()

/** Who is at the other end of a socket of this server, or of the request that came by it. TypeError for any other. */
export function peerOf(from: Socket | Pick<IncomingMessage, 'socket'>): TlsPeer {
  const peer = peers.get('socket' in from ? from.socket : from)
  if (peer === undefined) throw new TypeError('not a connection of a TLS server without certificates')
  return peer
}

/** `listener` runs for proven devices only, and is told which. */
export function createServer(
  options: IdentityServerOptions,
  listener?: (socket: TLSSocket, peer: TlsPeer) => void,
): IdentityTlsServer {
  const server = new IdentityTlsServer(options)
  if (listener !== undefined) server.on('secureConnection', listener)
  return server
}

/** HTTPS without certificates; `http` of the answer is where its requests come from, for timeouts and upgrades. */
export function createHttpsServer(
  options: IdentityServerOptions,
  listener: (request: IncomingMessage, response: ServerResponse, peer: TlsPeer) => void,
): IdentityTlsServer & { readonly http: HttpServer } {
  const http = createHttpServer((request, response) => listener(request, response, peerOf(request)))
  const server = createServer(options, socket => http.emit('connection', socket))
  return Object.assign(server, { http })
}

interface Hello {
  readonly bytes: Buffer
  readonly identities: readonly string[]
}

/** Null when the connection ends before. DecodeError for bytes that no ClientHello begins with. */
function helloOf(raw: Socket): Promise<Hello | null> {
  return new Promise((resolve, reject) => {
    let bytes: Buffer = Buffer.alloc(0)
    const end = () => {
      raw.off('readable', look)
      raw.off('close', closed)
    }
    const closed = () => {
      end()
      resolve(null)
    }
    const look = () => {
      try {
        for (let chunk = raw.read() as Buffer | null; chunk !== null; chunk = raw.read() as Buffer | null) {
          bytes = Buffer.concat([bytes, chunk])
          const identities = pskIdentitiesOf(bytes)
          if (identities === 'more') continue
          end()
          resolve({ bytes, identities })
          return
        }
      } catch (error) {
        end()
        reject(error)
      }
    }
    raw.on('readable', look)
    raw.on('close', closed)
  })
}
