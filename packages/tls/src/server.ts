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
import { Server, type Socket } from 'node:net'
import { createServer as createTlsServer, type TLSSocket, type TlsOptions } from 'node:tls'
import type { Log } from '@milagro-ts/api/log'
import { Refused } from '@milagro-ts/api/problem'
import type { Timers } from '@milagro-ts/api/system'
import { equalBytes } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { PoolUnavailable } from '@milagro-ts/crypto/node-pool'
import { binderHolds, type OfferedPsk } from './binder.js'
import { type ClientHello, ClientHelloReader, clientHelloOf } from './client-hello.js'
import { type Door, type Guest, TlsPeer } from './door.js'
import { type Accepted, type Fixed, refuseFixed, SECURE_OPTIONS, serverSettings } from './options.js'
import { warnOfTickets } from './tickets.js'

/** Milliseconds from a connection to the end of its handshake. */
const HANDSHAKE_TIMEOUT = 10_000

/** Node's, with what `openTlsService` resolves to in the place of `cert` and `key`. */
export interface IdentityServerOptions extends Omit<TlsOptions, Fixed>, Accepted {
  readonly door: Pick<Door, 'psk' | 'pskKept' | 'pskAtOnce' | 'decoy' | 'enter' | 'leave'> & {
    /** @param source The one that `psk` was told for this connection; empty where it wasn't asked. */
    authenticated(text: string, psk: Uint8Array, source: string): TlsPeer | null
  }
  readonly timers: Timers
  readonly log: Log
  /** Whoever comes in has proven who it is; a program may go on saying so. */
  readonly requestCert?: true
  /** Whether TLS 1.2 is taken as well, from stacks that have nothing better; they need a second attempt at first. */
  readonly tls12?: boolean
  /** Told of each raw connection (the server's `connection`) whose ClientHello is whole, whoever sent it. */
  readonly heard?: (raw: Socket) => void
  /** The address that a connection counts for, where it isn't its own: it came through a load balancer. */
  readonly origin?: (socket: Socket) => string | undefined
}

/** A socket whose other end has proven itself; it is `authorized`, as node says of who has shown a certificate. */
export type IdentitySocket = TLSSocket & { readonly peer: TlsPeer }
/** For a ClientHello; what has come of it, where that is a part. */
interface Waiting {
  readonly endTimer: () => void
  reader: ClientHelloReader | undefined
}
/** Whom a handshake is prepared for. */
interface Prepared {
  psk: Uint8Array
  /** Connections that go by it. */
  uses: number
  /** Of all of them; undefined where they have several. */
  source: string | undefined
}

/** Who knocks, and then who is in. Private, since programs print sockets. */
class Visitor implements Guest {
  readonly #socket: TLSSocket
  readonly #log: Log
  readonly #identity: string
  readonly #source: string
  #psk: Uint8Array | undefined
  #peer: TlsPeer | undefined

  constructor(socket: TLSSocket, log: Log, identity: string, psk: Uint8Array, source: string) {
    this.#socket = socket
    this.#log = log
    this.#identity = identity
    this.#source = source
    this.#psk = psk
  }
  /** Once the handshake has succeeded: who is in, or null. */
  static enter(visitor: Visitor, door: IdentityServerOptions['door']): TlsPeer | null {
    const psk = visitor.#psk
    if (psk === undefined) return null
    visitor.#psk = undefined
    const peer = door.authenticated(visitor.#identity, psk, visitor.#source)
    if (peer === null) return null
    visitor.#peer = peer
    door.enter(visitor, peer)
    return peer
  }
  /** The handshake has failed. */
  static turnAway(visitor: Visitor): void {
    visitor.#psk = undefined
  }

  ending(endsAt: number): void {
    this.#socket.emit('permit-ending', endsAt)
  }
  putOut(why: string): void {
    this.#log.info({ mpinId: this.#peer?.mpinId, why }, 'a connection was closed')
    this.#socket.destroy()
  }
}

/** By which identity node:tls was given a PSK. On the socket: a collector has much to do with weak maps. */
const VISITOR = Symbol('visitor')
type Marked = TLSSocket & { [VISITOR]?: Visitor }

/** A listener of every raw connection. */
function destroyIt(this: Socket): void {
  this.destroy()
}

/** Told of a socket whose other end has proven itself, and is still let in. */
export type Enter = (socket: IdentitySocket, peer: TlsPeer) => void

/**
 * What stands before the connections of a server: who proves itself is told to `enter`, then emitted as the server's
 * `secureConnection`. Nobody else's bytes get any further.
 */
class Entrance {
  readonly #server: Server
  readonly #options: IdentityServerOptions
  readonly #enter: Enter | undefined
  readonly #tls
  readonly #isTls13Only: boolean
  /** Those whose ClientHello isn't whole yet. */
  readonly #waiting = new Map<Socket, Waiting>()
  /** Listeners of raw connections, the same for all. */
  readonly #came: (this: Socket, chunk: Buffer) => void
  readonly #ended: (this: Socket) => void
  readonly #left: (this: Socket) => void
  /** And of those of node:tls. */
  readonly #gone: (this: Marked) => void
  /** By identity; of handshakes under way. */
  readonly #prepared = new Map<string, Prepared>()

  constructor(server: Server, options: IdentityServerOptions, enter?: Enter) {
    const { door, timers, log, tls12 = false, heard, origin, ...tlsOptions } = options
    if (door === undefined)
      throw new TypeError('door: what openTlsService resolves to, in the place of a certificate')
    const { requestCert, rejectUnauthorized, ...settings } = serverSettings(tls12)
    refuseFixed(tlsOptions, { ...settings, requestCert, rejectUnauthorized })
    this.#server = server
    this.#options = options
    const entrance = this
    this.#came = function (chunk) {
      entrance.#look(this, chunk)
    }
    this.#left = function () {
      entrance.#leave(this)
    }
    this.#gone = function () {
      const visitor = this[VISITOR]
      if (visitor !== undefined) options.door.leave(visitor)
    }
    // Who says no more, and hasn't said a ClientHello, will say none; the socket may be half-open else.
    this.#ended = function () {
      if (entrance.#waiting.has(this)) this.destroy()
    }
    this.#enter = enter
    this.#isTls13Only = !tls12
    this.#tls = createTlsServer({
      handshakeTimeout: HANDSHAKE_TIMEOUT,
      ...tlsOptions,
      ...settings,
      // Of certificates, and there are none.
      requestCert: false,
      secureOptions: SECURE_OPTIONS,
      pskCallback: (socket, identity) => this.#pskOf(socket, identity),
    })
    this.#tls.on('secureConnection', socket => this.#secure(socket))
    this.#tls.on('tlsClientError', (error, socket) => {
      const visitor = (socket as Marked)[VISITOR]
      if (visitor !== undefined) Visitor.turnAway(visitor)
      server.emit('tlsClientError', error, socket)
      // Node leaves a handshake that takes too long open.
      socket.destroy()
    })
    server.once('listening', () => void warnOfTickets(log))
    server.on('connection', (raw: Socket) => this.#read(raw))
  }

  /** Reads the ClientHello as it comes. */
  #read(raw: Socket): void {
    const { timers, handshakeTimeout = HANDSHAKE_TIMEOUT } = this.#options
    // Its `close` was before.
    if (raw.destroyed) return
    const endTimer = timers.after(handshakeTimeout, () => {
      this.#waiting.delete(raw)
      raw.destroy()
    })
    this.#waiting.set(raw, { endTimer, reader: undefined })
    // Until node:tls listens; what it meets afterwards is a tlsClientError.
    raw.on('error', destroyIt)
    raw.on('close', this.#left)
    raw.on('end', this.#ended)
    // Not `readable`, which would wait for another turn of the loop.
    raw.on('data', this.#came)
  }

  #look(raw: Socket, chunk: Buffer): void {
    const waiting = this.#waiting.get(raw)
    if (waiting === undefined) return
    try {
      const hello = waiting.reader === undefined ? clientHelloOf(chunk) : waiting.reader.read(chunk)
      if (hello === 'more') {
        if (waiting.reader !== undefined) return
        waiting.reader = new ClientHelloReader()
        waiting.reader.read(chunk)
        return
      }
      raw.off('data', this.#came).pause()
      this.#leave(raw)
      this.#options.heard?.(raw)
      this.#decide(raw, waiting.reader?.bytes ?? chunk, hello)
    } catch (error) {
      this.#refuse(raw, error)
    }
  }

  #leave(raw: Socket): void {
    this.#waiting.get(raw)?.endTimer()
    this.#waiting.delete(raw)
  }

  /** Whose PSK is kept goes on at once; everybody else's is prepared. */
  #decide(raw: Socket, bytes: Buffer, hello: ClientHello): void {
    if (!hello.offersTls13 && !hello.hasExtendedMasterSecret) {
      raw.destroy()
      return
    }
    const [identity] = hello.identities
    if (identity === undefined || this.#options.door.pskKept(identity) !== undefined) this.#goOn(raw, bytes)
    else
      this.#prepare(raw, bytes, identity, hello.offered).catch((error: unknown) => this.#refuse(raw, error))
  }

  /** PoolUnavailable, Refused. */
  async #prepare(
    raw: Socket,
    bytes: Buffer,
    identity: string,
    offered: OfferedPsk | undefined,
  ): Promise<void> {
    const isProven = (psk: Uint8Array) => offered !== undefined && binderHolds(offered, psk)
    const source = this.#sourceOf(raw)
    const psk = await this.#options.door.psk(identity, source, isProven)
    if (raw.destroyed) return
    const prepared = this.#prepared.get(identity) ?? { psk, uses: 0, source }
    // Anybody can name an identity: a connection that has got the decoy for it takes nothing from whose it is.
    if (prepared.uses > 0 && equalBytes(prepared.psk, this.#options.door.decoy(identity))) prepared.psk = psk
    prepared.uses++
    if (prepared.source !== source) prepared.source = undefined
    this.#prepared.set(identity, prepared)
    raw.once('close', () => {
      if (--prepared.uses === 0) this.#prepared.delete(identity)
    })
    this.#goOn(raw, bytes)
  }

  #sourceOf(socket: Socket): string {
    return this.#options.origin?.(socket) ?? socket.remoteAddress ?? ''
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
  #pskOf(socket: TLSSocket, identity: string): Uint8Array | null {
    try {
      const { door } = this.#options
      // A PSK is for the version that it is bound to: what is prepared for TLS 1.3 is none of TLS 1.2's. One that is kept is
      // looked at anew, as for a ban since the ClientHello was read.
      const isTls13 = this.#isTls13Only || socket.getProtocol() === 'TLSv1.3'
      const kept = isTls13 ? door.pskKept(identity) : undefined
      const prepared = isTls13 ? this.#prepared.get(identity) : undefined
      // Asking the kernel takes as long as all else here: for who comes again by what is kept there is no need, and where all
      // that is prepared is of one source it is known.
      const known = kept === undefined ? prepared?.source : prepared === undefined ? '' : undefined
      const source = known ?? this.#sourceOf(socket)
      const psk = isTls13 ? (kept ?? prepared?.psk) : door.pskAtOnce(identity, source)
      if (psk !== undefined)
        (socket as Marked)[VISITOR] = new Visitor(socket, this.#options.log, identity, psk, source)
      return psk ?? door.decoy(identity)
    } catch (error) {
      this.#options.log.error({ err: error }, 'a PSK could not be given')
      return null
    }
  }

  #secure(socket: Marked): void {
    const visitor = socket[VISITOR]
    const peer = visitor === undefined ? null : Visitor.enter(visitor, this.#options.door)
    if (peer === null) {
      socket.destroy()
      return
    }
    socket.on('close', this.#gone)
    const admitted = admit(socket, peer)
    socket.authorized = true
    this.#enter?.(admitted, peer)
    this.#server.emit('secureConnection', socket, peer)
  }
}

/** `listener` runs for proven devices only, and is told which: `socket.peer`, and once more as a second argument. */
export class IdentityTlsServer extends Server {
  constructor(options: IdentityServerOptions, listener?: Enter) {
    super({ ...options, pauseOnConnect: false })
    new Entrance(this, options)
    refuseCertificates(this)
    if (listener !== undefined) this.on('secureConnection', listener)
  }
}

/**
 * Puts TLS before a server of node:http or node:http2 that nobody has connected to: what it would have done with each
 * connection it does with those of proven devices, and its events of HTTP, `clientError` among them, are theirs alone: a
 * handshake that fails is a `tlsClientError`, and closed. TypeError for an option that is fixed, and a server that listens.
 */
export function takeProvenOnly(server: Server, options: IdentityServerOptions): void {
  refuseListening(server)
  const serve = server.listeners('connection') as ((socket: Socket) => void)[]
  server.removeAllListeners('connection')
  const { allowHalfOpen = false } = options as { allowHalfOpen?: boolean }
  Object.assign(server, { allowHalfOpen })
  new Entrance(server, options, socket => {
    for (const one of serve) one.call(server, socket)
  })
  // Not HTTP's `clientError` as well, as with node: who has proven nothing is told to none of HTTP's listeners.
  server.on('tlsClientError', (error: Error, socket: TLSSocket) => void socket.destroy(error))
  refuseCertificates(server)
  provenOnly.add(server)
}

function refuseListening(server: Server): void {
  if (server.listening) throw new TypeError('a server that listens already takes anybody')
}

const provenOnly = new WeakSet<object>()
/** Whether a server of HTTP is given connections of proven devices alone. */
export function takesProvenOnly(server: object): boolean {
  return provenOnly.has(server)
}

/** Methods of node's TLS servers that give them certificates or tickets, and why there is none here. */
const OF_CERTIFICATES = {
  addContext: 'a server name chooses no certificate, since there is none',
  setSecureContext: 'a server goes by what openTlsService resolves to, which renews its keys by itself',
  getTicketKeys: 'there are no tickets: one would let in without the PSK',
  setTicketKeys: 'there are no tickets: one would let in without the PSK',
} as const

function refuseCertificates(server: Server): void {
  for (const [name, why] of Object.entries(OF_CERTIFICATES))
    Object.defineProperty(server, name, {
      value: () => {
        throw new TypeError(`${name} is no method of TLS without certificates: ${why}`)
      },
    })
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

/**
 * A TLS server before a server of HTTP that somebody else has made and that doesn't listen anew, such as a framework's
 * (`app.server` of fastify). Its limits hold; `peerOf(request)` says who asks. A server of one's own is one of `https`.
 * TypeError for one that listens.
 */
export function overTls(http: Server, options: IdentityServerOptions): IdentityTlsServer {
  refuseListening(http)
  const server = new IdentityTlsServer(options, socket => http.emit('connection', socket))
  http.listen = () => {
    throw new TypeError('the TLS server listens: this one would take anybody')
  }
  // Node looks for requests that are out of time only from an HTTP server's `listening` to its close.
  server.on('listening', () => http.emit('listening'))
  server.on('close', () => http.close(() => undefined))
  provenOnly.add(http)
  return server
}
