/**
 * A device's side: node:tls and node:https with a device in the place of certificates.
 *
 * The server is who its name in the group document says, `servername` (or `host` without one), and that comes from the
 * caller. Two guards: `checkServerIdentity` always errs, since node asks it for certificates only, so no certificate is
 * ever accepted in the place of the PSK; and an agent is for one device, keeps no TLS session, and asks for the PSK of each
 * new connection, since pools don't tell PSKs apart.
 */
import { Agent, type AgentOptions } from 'node:https'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import {
  type ConnectionOptions,
  createSecureContext,
  type SecureContext,
  type SecureContextOptions,
  type TLSSocket,
  connect as tlsConnect,
} from 'node:tls'
import { systemClock, systemTimers, type Timers } from '@milagro-ts/api/system'
import type { SlotPsk } from '@milagro-ts/client/device'
import type { Clock } from '@milagro-ts/crypto/ports'
import type { SlotPskKind } from '@milagro-ts/crypto/static-agreement'
import { CLIENT_TLS12, type Fixed, PROTOCOL, refuseFixed, SECURE_OPTIONS } from './options.js'

/** Who connects: a Device of the client package is one. */
export interface TlsIdentity {
  externalPsk(server: string, kind?: SlotPskKind): Promise<SlotPsk>
}

export interface ConnectOptions extends Omit<ConnectionOptions, Fixed> {
  readonly identity: TlsIdentity
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

/**
 * A connected socket to a server that has proven its name; it emits `permit-ending` before the slot is over. Rejects with
 * what the identity throws (ClientError), TLS' own error where the server isn't the one, TypeError for a fixed option.
 */
export async function connect({
  identity,
  clock,
  timers,
  warnBefore,
  tls12 = false,
  ...options
}: ConnectOptions): Promise<TLSSocket> {
  refuseFixed(options)
  const server = options.servername ?? options.host
  if (server === undefined) throw new TypeError('servername, or host: the name of the server in its group')
  const psk = await identity.externalPsk(server, tls12 ? 'm2' : 'm1')
  const context = { ...(tls12 ? CLIENT_TLS12 : PROTOCOL), secureOptions: SECURE_OPTIONS }
  const isOwn = OF_CONTEXT.some(name => options[name] !== undefined)
  const socket = tlsConnect({
    ...options,
    ...context,
    ...(isOwn ? {} : { secureContext: sharedContext(context) }),
    // A server name on the wire tells a listener what the port and address tell already; no certificate is chosen by it.
    servername: '',
    pskCallback: () => ({ psk: psk.psk, identity: psk.identity }),
    // Node's default is the environment's (NODE_TLS_REJECT_UNAUTHORIZED).
    rejectUnauthorized: true,
    // Under TLS 1.2 node asks it about the certificate that there is none of.
    checkServerIdentity: (_, certificate) =>
      tls12 && Object.keys(certificate).length === 0
        ? undefined
        : new Error('a certificate was offered in the place of the external PSK'),
  })
  await secured(socket)
  tellEnding(socket, psk.endsAt, { clock, timers, warnBefore })
  return socket
}

/** Of the options that are the caller's those that node's secure context holds. */
const OF_CONTEXT = ['crl', 'dhparam', 'ecdhCurve', 'honorCipherOrder', 'sessionIdContext', 'sigalgs'] as const

/** It holds nothing of a device, and takes longer to make than the rest of a connection that comes again. */
const contexts = new Map<string, SecureContext>()
function sharedContext(options: SecureContextOptions): SecureContext {
  const key = options.maxVersion as string
  const known = contexts.get(key) ?? createSecureContext(options)
  contexts.set(key, known)
  return known
}

export interface IdentityAgentOptions
  extends Omit<AgentOptions, Fixed>,
    Pick<ConnectOptions, 'clock' | 'timers' | 'warnBefore' | 'tls12'> {}

/**
 * For `https.request` and what goes by it, as one device. A kept connection isn't used for another request once its slot is
 * about to end.
 */
export function httpsAgent(identity: TlsIdentity, options: IdentityAgentOptions = {}): Agent {
  refuseFixed(options)
  return new IdentityAgent(identity, options)
}

class IdentityAgent extends Agent {
  readonly #identity: TlsIdentity
  readonly #ending = new WeakSet<object>()

  constructor(identity: TlsIdentity, options: IdentityAgentOptions) {
    super({ ...options, maxCachedSessions: 0 })
    this.#identity = identity
  }

  override createConnection(
    options: ConnectionOptions,
    callback?: (error: Error | null, stream: Duplex) => void,
  ): undefined {
    // Node takes `servername` from the Host header unless the agent has one; a header is no configuration.
    const servername = this.options.servername ?? options.host
    connect({
      ...options,
      ...(servername === undefined ? {} : { servername }),
      identity: this.#identity,
    }).then(
      socket => {
        socket.once('permit-ending', () => this.#retire(socket))
        callback?.(null, socket)
      },
      (error: Error) => (callback as (error: Error) => void)(error),
    )
    return undefined
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

function secured(socket: TLSSocket): Promise<void> {
  return new Promise((resolve, reject) => {
    const failed = (error: Error) => {
      socket.destroy()
      reject(error)
    }
    // Without an error when the caller's own `socket` is destroyed.
    const closed = () => reject(new Error('closed before the end of the handshake'))
    socket.once('error', failed)
    socket.once('close', closed)
    socket.once('secureConnect', () => {
      socket.off('error', failed)
      socket.off('close', closed)
      resolve()
    })
  })
}

/** The longest that a timer takes. */
const LONGEST = 2 ** 31 - 1

function tellEnding(
  socket: TLSSocket,
  endsAt: number,
  {
    clock = systemClock,
    timers = systemTimers,
    warnBefore = 60_000,
  }: { clock?: Clock | undefined; timers?: Timers | undefined; warnBefore?: number | undefined },
): void {
  let end = () => {}
  const wait = () => {
    // Never at once, even where it is due: nobody listens before the socket is there.
    const left = Math.max(0, endsAt - warnBefore - clock())
    end = timers.after(Math.min(left, LONGEST), () => {
      if (clock() < endsAt - warnBefore) wait()
      else socket.emit('permit-ending', endsAt)
    })
  }
  wait()
  socket.once('close', () => end())
}
