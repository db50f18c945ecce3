/**
 * node:tls with a device, or a service of a group, in the place of certificates: `connect` and `createServer`, called as
 * node's. A client gives `identity` where it gave `key`, `cert` and `ca`; a server gives what `openTlsService` resolves to.
 *
 *   connect        a TLSSocket at once
 *     PSK            out of the identity: a pairing once in a slot, sometimes a question to the network
 *     TCP, TLS       only when it is there; `lookup` waits for it, a socket of the caller's own isn't started before
 *   secureConnect  the server has proven its name
 *   permit-ending  a minute before the slot ends
 *
 * The server is who its name in the group document says, `servername` (or `host` without one), and that comes from the
 * caller. `checkServerIdentity` always errs, since node asks it for certificates only, so no certificate is ever accepted in
 * the place of the PSK.
 */
import { lookup as dnsLookup, type LookupOptions } from 'node:dns'
import { isIP, type LookupFunction, Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import {
  type ConnectionOptions,
  createSecureContext,
  type SecureContext,
  type SecureContextOptions,
  TLSSocket,
  connect as tlsConnect,
} from 'node:tls'
import type { Timers } from '@milagro-ts/api/system'
import type { SlotPsk } from '@milagro-ts/client/device'
import type { Clock } from '@milagro-ts/crypto/ports'
import type { SlotPskKind } from '@milagro-ts/crypto/static-agreement'
import { type Accepted, clientSettings, type Fixed, refuseFixed, SECURE_OPTIONS } from './options.js'
import { type Enter, type IdentityServerOptions, IdentityTlsServer } from './server.js'
import { tellEnding } from './slot-end.js'

/** Who connects: a Device of the client package is one. */
export interface TlsIdentity {
  externalPsk(server: string, kind?: SlotPskKind): Promise<SlotPsk>
}

/** Node's options, those included that its types leave to net.connect. */
export interface ConnectOptions extends Omit<ConnectionOptions, Fixed>, Accepted {
  readonly identity: TlsIdentity
  readonly signal?: AbortSignal
  readonly allowHalfOpen?: boolean
  readonly family?: number
  readonly clock?: Clock
  readonly timers?: Timers
  /** Milliseconds before the end of the slot at which `permit-ending` is told; a minute unless said. */
  readonly warnBefore?: number
  /**
   * Offers TLS 1.2 alone, to a server that has nothing better. Such a server that is ours lets a device in by TLS 1.2
   * only when it knows it already: the first attempt of a slot is refused, and a later one isn't.
   */
  readonly tls12?: boolean
}

type Secured = () => void

/**
 * As node's: a socket at once, `secureConnect` (and the callback) when the server has proven its name, and before the slot
 * is over `permit-ending` with its end in Unix milliseconds. `error` is what the identity rejects with (ClientError), TLS'
 * own where the server isn't the one (with REFUSED_KEY before its message), or the network's. TypeError for an option that is fixed, or without a name.
 */
export function connect(options: ConnectOptions, secured?: Secured): TLSSocket
export function connect(path: string, options: ConnectOptions, secured?: Secured): TLSSocket
export function connect(port: number, options: ConnectOptions, secured?: Secured): TLSSocket
export function connect(port: number, host: string, options: ConnectOptions, secured?: Secured): TLSSocket
export function connect(...given: unknown[]): TLSSocket {
  const { identity, clock, timers, warnBefore, tls12 = false, ...options } = optionsOf(given)
  if (typeof identity?.externalPsk !== 'function')
    throw new TypeError('identity: a Device, in the place of a certificate')
  const settings = clientSettings(tls12)
  refuseFixed(options, settings)
  const server = options.servername || options.host
  if (!server) throw new TypeError('servername, or host: the name of the server in its group')

  let psk: SlotPsk | undefined
  // Set one by one: for a literal that spreads others Node 20 takes thirty times as long.
  const settled: Settled = options
  if (OF_CONTEXT.some(name => options[name] !== undefined)) {
    Object.assign(settled, settings, { secureOptions: SECURE_OPTIONS, secureContext: undefined })
  } else settled.secureContext = sharedContext(settings)
  settled.rejectUnauthorized = settings.rejectUnauthorized
  // A server name on the wire tells a listener what the port and address tell already; no certificate is chosen by it.
  settled.servername = ''
  settled.checkServerIdentity = tls12 ? refuseCertificateTls12 : refuseCertificate
  settled.pskCallback = () => {
    // What it throws ends the connection.
    if (psk === undefined) throw new Error('the server spoke before it was spoken to')
    return { psk: psk.psk, identity: psk.identity }
  }
  const late = lateConnection(settled)
  const socket = late.begin()
  socket.destroy = destroyExplained
  const callback = given.at(-1)
  if (typeof callback === 'function') socket.once('secureConnect', callback as Secured)
  const begin = async () => {
    try {
      const ready = await identity.externalPsk(server, tls12 ? 'm2' : 'm1')
      if (socket.destroyed) return
      psk = ready
      socket.once('secureConnect', () => tellEnding(socket, ready.endsAt, { clock, timers, warnBefore }))
      late.start(socket)
    } catch (error) {
      socket.destroy(error as Error)
    }
  }
  void begin()
  return socket
}

/** What a server tells nobody one by one: so that nobody learns whom it knows (docs/protocols/tls.md). */
export const REFUSED_KEY =
  'the server refuses this key: another name or generation, banned, no permit, not this slot, or a clock that is off'
/** Of TLS 1.2, whose first attempt in a slot is refused for no fault of the device. */
const FIRST_ATTEMPT = '; by TLS 1.2 it may be the first attempt of the slot'
/** Alerts that a handshake ends with where the two keys differ, or one isn't known: RFC 8446 §6.2. */
const OF_KEY: ReadonlySet<number> = new Set([20, 40, 47, 51, 115])
const BAD_RECORD_MAC = 20

/** In the place of a socket's own `destroy`, which all of its errors go through: those of the key are told in words. */
function destroyExplained(this: TLSSocket, error?: Error): TLSSocket {
  const { secureConnecting } = this as { secureConnecting?: boolean }
  if (error !== undefined && error !== null && secureConnecting) explain(error)
  return TLSSocket.prototype.destroy.call(this, error)
}

/** OpenSSL's names of alerts change, and its numbers don't. The error stays what it was, but for its text. */
function explain(error: Error): void {
  const { message, stack } = error
  const alert = Number(/SSL alert number (\d+)/.exec(message)?.[1])
  if (!OF_KEY.has(alert) || message.startsWith(REFUSED_KEY)) return
  error.message = `${REFUSED_KEY}${alert === BAD_RECORD_MAC ? FIRST_ATTEMPT : ''}: ${message}`
  if (stack !== undefined) error.stack = stack.replace(message, () => error.message)
}

const refuseCertificate = () => new Error('a certificate was offered in the place of the external PSK')
/** Under TLS 1.2 node asks it about the certificate that there is none of. */
const refuseCertificateTls12 = (_: string, certificate: object) =>
  Object.keys(certificate).length === 0 ? undefined : refuseCertificate()

/** As node:net reads them: what stands in the options counts more than what stands before them. */
function optionsOf([first, ...others]: unknown[]): ConnectOptions {
  if (typeof first === 'object' && first !== null) return first as ConnectOptions
  const isPath = typeof first === 'string' && !(Number(first) >= 0)
  const at = isPath
    ? { path: first }
    : { port: Number(first), ...(typeof others[0] === 'string' ? { host: others[0] } : {}) }
  const options = others.slice(0, 2).find(one => typeof one === 'object' && one !== null) as ConnectOptions
  return { ...at, ...options }
}

/** What node is given, but where to. */
type Settled = ConnectionOptions & Pick<ConnectOptions, 'allowHalfOpen' | 'family'>

/** A connection whose socket is there before it begins. */
interface LateConnection {
  begin(): TLSSocket
  start(socket: TLSSocket): void
}

function lateConnection(settled: Settled): LateConnection {
  if (settled.socket !== undefined) return lateOver(settled, settled.socket)
  return settled.path ? lateAtPath(settled, settled.path) : lateAtHost(settled)
}

/** TCP waits in the look for the host's address, which node takes for addresses as well when they stand in brackets. */
function lateAtHost(settled: Settled): LateConnection {
  const host = settled.host || 'localhost'
  const lookup = settled.lookup ?? (dnsLookup as LookupFunction)
  const version = isIP(host)
  let look = () => {}
  let isStarted = false
  settled.host = version === 0 ? host : `[${host}]`
  settled.lookup = (_, options, found) => {
    look = () => {
      if (version === 0) return lookup(host, options, found)
      if ((options as LookupOptions).all) found(null, [{ address: host, family: version }])
      else found(null, host, version)
    }
    if (isStarted) look()
  }
  return {
    begin: () => tlsConnect(settled),
    start() {
      isStarted = true
      look()
    },
  }
}

function lateAtPath({ path: _, ...settled }: Settled, path: string): LateConnection {
  const pipe = new Socket({ allowHalfOpen: settled.allowHalfOpen === true })
  const { begin, start } = lateOver(settled, pipe)
  return {
    begin() {
      const socket = begin()
      if (settled.timeout !== undefined) socket.setTimeout(settled.timeout)
      return socket
    },
    start(socket) {
      start(socket)
      pipe.connect(path)
    },
  }
}

/** Over what the caller has: node:tls begins when that is connected, and until `start` it is told that it isn't. */
function lateOver(settled: Settled, stream: Duplex): LateConnection {
  const own = stream instanceof Socket ? stream : new StreamSocket(stream)
  settled.socket = own
  return {
    begin() {
      const { connecting } = own
      const listeners = own.listeners('connect')
      const settable = own as { connecting: boolean }
      settable.connecting = true
      try {
        const socket = tlsConnect(settled)
        own.prependOnceListener('close', () => {
          // Its error would be the socket's already. Node's types don't list `secureConnecting`.
          const { secureConnecting } = socket as { secureConnecting?: boolean }
          if (secureConnecting && own.errored === null)
            socket.destroy(new Error('closed before the end of the handshake'))
        })
        return socket
      } finally {
        settable.connecting = connecting
        for (const listener of own.listeners('connect') as (() => void)[])
          if (!listeners.includes(listener)) own.off('connect', listener)
      }
    },
    start(socket) {
      const begin = () => {
        ;(socket as { connecting: boolean }).connecting = false
        socket.emit('connect')
      }
      if (own instanceof StreamSocket || !own.pending) begin()
      else own.once('connect', begin)
    },
  }
}

/** A stream that is no socket, for node:tls to take as one. */
class StreamSocket extends Socket {
  readonly #stream: Duplex

  constructor(stream: Duplex) {
    super({ allowHalfOpen: stream.allowHalfOpen })
    this.#stream = stream
    stream.on('data', (chunk: Buffer) => {
      if (!this.push(chunk)) stream.pause()
    })
    stream.pause()
    stream.on('end', () => this.push(null))
    stream.on('error', error => this.destroy(error))
    stream.on('close', () => this.destroy())
  }

  override _read(): void {
    this.#stream.resume()
  }
  override _write(chunk: Buffer, encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    this.#stream.write(chunk, encoding, done)
  }
  override _writev(
    chunks: { chunk: Buffer; encoding: BufferEncoding }[],
    done: (error?: Error | null) => void,
  ): void {
    this.#stream.write(Buffer.concat(chunks.map(({ chunk }) => chunk)), done)
  }
  override _final(done: (error?: Error | null) => void): void {
    this.#stream.end(done)
  }
  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#stream.destroy()
    super._destroy(error, done)
  }
}

/** Of the options that are the caller's those that node's secure context holds. */
const OF_CONTEXT = ['crl', 'dhparam', 'ecdhCurve', 'honorCipherOrder', 'sessionIdContext', 'sigalgs'] as const

/** It holds nothing of a device, and takes longer to make than the rest of a connection that comes again. */
const contexts = new Map<string, SecureContext>()
function sharedContext(settings: SecureContextOptions): SecureContext {
  const key = settings.maxVersion as string
  const known = contexts.get(key)
  if (known !== undefined) return known
  const made = createSecureContext({ ...settings, secureOptions: SECURE_OPTIONS })
  contexts.set(key, made)
  return made
}

/**
 * Resolves at `secureConnect`; rejects with the socket's error, or where it closes without one. For code that awaits: node's
 * `once(socket, 'secureConnect')` would wait for ever on a socket that is closed.
 */
export function secured(socket: TLSSocket): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    const closed = () => reject(new Error('closed before the end of the handshake'))
    socket.once('error', reject)
    socket.once('close', closed)
    socket.once('secureConnect', () => {
      socket.off('error', reject)
      socket.off('close', closed)
      resolve(socket)
    })
  })
}

/** As node's: `listener` runs for proven devices only. TypeError for an option that is fixed. */
export function createServer(options: IdentityServerOptions, listener?: Enter): IdentityTlsServer {
  return new IdentityTlsServer(options, listener)
}

/** For `instanceof`. TypeError for a new one, which would speak TLS by certificates. */
const SocketOfConnect = new Proxy(TLSSocket, {
  construct() {
    throw new TypeError('a TLSSocket is what `connect` gives, and what a server’s listener is given')
  },
})
type SocketOfConnect = TLSSocket

export { IdentityTlsServer as Server, SocketOfConnect as TLSSocket }
export default { connect, createServer, Server: IdentityTlsServer, TLSSocket: SocketOfConnect }
