/**
 * A TLS server without certificates, over node:tls: same sockets, same events, same options where they are the caller's.
 *
 *   raw connection     the ClientHello is read, its first PSK identity goes through the door, a worker computes the PSK
 *   node:tls           gets the bytes back and does the handshake by that PSK, TLS 1.3, psk_dhe_ke, no ticket (tickets.ts)
 *   secureConnection   (socket, peer): only for whom the door still lets in when the handshake is over; `socket.peer`
 *   permit-ending      on the socket, a minute before the slot ends; at slot end and grace, or at a ban, it is closed
 *
 * A ClientHello without a PSK, or with a second identity that is better, is OpenSSL's to refuse: there is no certificate
 * that it could use instead.
 *
 * With `tls12` TLS 1.2 is taken as well: ECDHE-PSK, extended master secret, no tickets, no renegotiation. It names the
 * identity inside the handshake, so only who is known already comes in (door.ts).
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
import { Refused } from '@milagro-ts/api/problem'
import type { Timers } from '@milagro-ts/api/system'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { PoolUnavailable } from '@milagro-ts/crypto/node-pool'
import { type ClientHello, ClientHelloReader } from './client-hello.js'
import { type Door, TlsPeer } from './door.js'
import { type Fixed, PROTOCOL, refuseFixed, SECURE_OPTIONS, SERVER_TLS12 } from './options.js'
import { warnOfTickets } from './tickets.js'

/** Milliseconds from a connection to the end of its handshake. */
const HANDSHAKE_TIMEOUT = 10_000

export interface IdentityServerOptions extends Omit<TlsOptions, Fixed> {
  readonly door: Pick<Door, 'psk' | 'pskKept' | 'pskAtOnce' | 'decoy' | 'enter'> & {
    /** @param source The one that `psk` was told for this connection. */
    authenticated(text: string, psk: Uint8Array, source: string): TlsPeer | null
  }
  readonly timers: Timers
  readonly log: Log
  /** Whether TLS 1.2 is taken as well, from stacks that have nothing better; they need a second attempt at first. */
  readonly tls12?: boolean
}

/** A socket whose other end has proven itself. */
export type IdentitySocket = TLSSocket & { readonly peer: TlsPeer }
/** A request that came by such a socket. */
export type IdentityRequest = IncomingMessage & { readonly peer: TlsPeer }

/** Whom a handshake is prepared for. */
interface Prepared {
  readonly psk: Uint8Array
  /** Connections that go by it. */
  uses: number
}

interface Used {
  readonly identity: string
  readonly psk: Uint8Array
  readonly source: string
}

export class IdentityTlsServer extends Server {
  readonly #options: IdentityServerOptions
  readonly #tls
  readonly #isTls13Only: boolean
  /** By identity; of handshakes under way. */
  readonly #prepared = new Map<string, Prepared>()
  /** By which identity node:tls was given a PSK. */
  readonly #used = new WeakMap<TLSSocket, Used>()

  /** For createServer. */
  constructor(options: IdentityServerOptions) {
    super({ pauseOnConnect: false })
    const { door, timers, log, tls12 = false, ...tlsOptions } = options
    refuseFixed(tlsOptions)
    this.#options = options
    this.#tls = createTlsServer({
      handshakeTimeout: HANDSHAKE_TIMEOUT,
      ...tlsOptions,
      ...(tls12 ? SERVER_TLS12 : PROTOCOL),
      secureOptions: SECURE_OPTIONS,
      pskCallback: (socket, identity) => this.#pskOf(socket, identity),
    })
    this.#tls.on('secureConnection', socket => this.#secure(socket))
    this.#tls.on('tlsClientError', (error, socket) => this.emit('tlsClientError', error, socket))
    this.once('listening', () => void warnOfTickets(log))
    this.#isTls13Only = !tls12
    this.on('connection', (raw: Socket) => this.#read(raw))
  }

  /** Reads the ClientHello as it comes. */
  #read(raw: Socket): void {
    const { timers, handshakeTimeout = HANDSHAKE_TIMEOUT } = this.#options
    // Until node:tls listens; what it meets afterwards is a tlsClientError.
    raw.on('error', () => raw.destroy())
    const endWaiting = timers.after(handshakeTimeout, () => raw.destroy())
    raw.once('close', endWaiting)
    // Who says no more, and hasn't said a ClientHello, will say none; the socket may be half-open else.
    const ended = () => raw.destroy()
    raw.once('end', ended)
    const reader = new ClientHelloReader()
    const look = (chunk: Buffer) => {
      try {
        const hello = reader.read(chunk)
        if (hello === 'more') return
        raw.off('data', look).off('end', ended).pause()
        raw.off('close', endWaiting)
        endWaiting()
        this.#decide(raw, reader.bytes, hello)
      } catch (error) {
        this.#refuse(raw, error)
      }
    }
    // Not `readable`, which would wait for another turn of the loop.
    raw.on('data', look)
  }

  /** Whose PSK is kept goes on at once; everybody else's is prepared. */
  #decide(
    raw: Socket,
    bytes: Buffer,
    { identities, offersTls13, hasExtendedMasterSecret }: ClientHello,
  ): void {
    if (!offersTls13 && !hasExtendedMasterSecret) {
      raw.destroy()
      return
    }
    const [identity] = identities
    if (identity === undefined || this.#options.door.pskKept(identity) !== undefined) this.#goOn(raw, bytes)
    else this.#prepare(raw, bytes, identity).catch((error: unknown) => this.#refuse(raw, error))
  }

  /** PoolUnavailable, Refused. */
  async #prepare(raw: Socket, bytes: Buffer, identity: string): Promise<void> {
    const psk = await this.#options.door.psk(identity, raw.remoteAddress ?? '')
    if (raw.destroyed) return
    const prepared = this.#prepared.get(identity) ?? { psk, uses: 0 }
    prepared.uses++
    this.#prepared.set(identity, prepared)
    raw.once('close', () => {
      if (--prepared.uses === 0) this.#prepared.delete(identity)
    })
    this.#goOn(raw, bytes)
  }

  /** Gives the bytes back. */
  #goOn(raw: Socket, bytes: Buffer): void {
    raw.unshift(bytes)
    this.#tls.emit('connection', raw)
  }

  #refuse(raw: Socket, error: unknown): void {
    const isExpected = error instanceof PoolUnavailable || error instanceof DecodeError
    if (!isExpected && !(error instanceof Refused && error.code === 'RETRY_LATER'))
      this.#options.log.error({ err: error }, 'a connection could not be prepared')
    raw.destroy()
  }

  /** Called by OpenSSL, once more after a HelloRetryRequest. What it throws would end the process on older Node. */
  #pskOf(socket: TLSSocket, identity: string): Buffer | null {
    try {
      const { door } = this.#options
      const source = socket.remoteAddress ?? ''
      // A PSK is for the version that it is bound to: what is prepared for TLS 1.3 is none of TLS 1.2's. One that is kept is
      // looked at anew, as for a ban since the ClientHello was read.
      const psk =
        this.#isTls13Only || socket.getProtocol() === 'TLSv1.3'
          ? (door.pskKept(identity) ?? this.#prepared.get(identity)?.psk)
          : door.pskAtOnce(identity, source)
      if (psk !== undefined) this.#used.set(socket, { identity, psk, source })
      const { buffer, byteOffset, length } = psk ?? door.decoy(identity)
      return Buffer.from(buffer, byteOffset, length)
    } catch (error) {
      this.#options.log.error({ err: error }, 'a PSK could not be given')
      return null
    }
  }

  #secure(socket: TLSSocket): void {
    const used = this.#used.get(socket)
    const peer =
      used === undefined ? null : this.#options.door.authenticated(used.identity, used.psk, used.source)
    if (peer === null) {
      socket.destroy()
      return
    }
    admit(socket, peer)
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

/** Only for a connection, or what came by it, of whom the door has let in. */
export function admit<T extends object>(to: T, peer: TlsPeer): T & { readonly peer: TlsPeer } {
  return Object.defineProperty(to, 'peer', { value: peer }) as T & { readonly peer: TlsPeer }
}

/**
 * Who is at the other end of a socket of this server, or of the request, upgrade or HTTP/2 session that came by it.
 * TypeError for any other.
 */
export function peerOf(from: object): TlsPeer {
  const { peer, socket } = from as { peer?: unknown; socket?: { peer?: unknown } }
  const found = peer ?? socket?.peer
  if (!(found instanceof TlsPeer))
    throw new TypeError('not a connection of a TLS server without certificates')
  return found
}

/** `listener` runs for proven devices only, and is told which. */
export function createServer(
  options: IdentityServerOptions,
  listener?: (socket: IdentitySocket, peer: TlsPeer) => void,
): IdentityTlsServer {
  const server = new IdentityTlsServer(options)
  if (listener !== undefined) server.on('secureConnection', listener)
  return server
}

/** HTTPS without certificates; `http` of the answer is where its requests come from, for timeouts and upgrades. */
export function createHttpsServer(
  options: IdentityServerOptions,
  listener: (request: IdentityRequest, response: ServerResponse, peer: TlsPeer) => void,
): IdentityTlsServer & { readonly http: HttpServer } {
  const http = createHttpServer((request, response) => {
    const peer = peerOf(request)
    listener(admit(request, peer), response, peer)
  })
  return overTls(http, options)
}

/**
 * A server of HTTP that gets its connections from one of TLS, and from nowhere else: one of node:http, or what a framework
 * has made (`app.server` of fastify). Its limits hold; `peerOf(request)` says who asks.
 */
export function overTls<H extends Server>(
  http: H,
  options: IdentityServerOptions,
): IdentityTlsServer & { readonly http: H } {
  const server = createServer(options, socket => http.emit('connection', socket))
  http.listen = () => {
    throw new TypeError('the TLS server listens: this one would take anybody')
  }
  // Node looks for requests that are out of time only from an HTTP server's `listening` to its close.
  server.on('listening', () => http.emit('listening'))
  server.on('close', () => http.close(() => undefined))
  return Object.assign(server, { http })
}
