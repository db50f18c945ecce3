/**
 * From device to device, with no server anywhere while the channel is opened: TLS 1.3 by a PSK out of two idCores, then each
 * shows the other that it isn't banned.
 *
 *   device C (connects)                                         device B (answers, by its own slot key of kind 1)
 *   PSK of (B, slot)
 *   -- ClientHello: m1, idCore of C, slot, R -->                this slot, or the former within grace? not B itself? allowed?
 *                       <-- Finished --                         PSK out of its slot key (static-agreement.ts)
 *   -- Finished -->                                             C is who it says
 *   -- be16 length ‖ TLV{1 role 1, 2 exporter, 3 permit} -->
 *                       <-- be16 length ‖ TLV{1 role 2, 2 exporter, 3 permit} --
 *   the other's role, this channel's exporter, a permit of the PSK's slot that covers the other's leaf and verifies against
 *   the pinned group document; only then a handler runs
 *
 * Both pin whom they expect: C names B's idCore, from configuration and never from the network, and B is asked by `allow`.
 * The role keeps a device's own words from being played back to it, and an identity that is its own comes in at no door. The
 * exporter (RFC 9266) ties the words to this channel. Permits are public and say that a leaf wasn't banned when permits of
 * the slot were issued: a ban is seen as late as offline, lead + slot + grace. Who knows newer bans says so in `allow`, which
 * is asked again every second. At slot end and grace both close.
 */
import { Server, type Socket } from 'node:net'
import type { TLSSocket } from 'node:tls'
import { tlsExporter } from '@milagro-ts/api/channel-binding'
import type { Group, PurposeKeys } from '@milagro-ts/api/group'
import type { Log } from '@milagro-ts/api/log'
import { RateLimit, sourceOf } from '@milagro-ts/api/rate-limit'
import { systemClock, systemRandom, systemTimers, type Timers } from '@milagro-ts/api/system'
import type { SlotPsk } from '@milagro-ts/client/device'
import { be16, concat, equalBytes, readInteger, u8, utf8 } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { IdCore } from '@milagro-ts/crypto/identity'
import { G1, type G2 } from '@milagro-ts/crypto/points'
import type { Clock, Random } from '@milagro-ts/crypto/ports'
import { hmacSha256 } from '@milagro-ts/crypto/sha256'
import { PskIdentity } from '@milagro-ts/crypto/static-agreement'
import { Permit, slotAt, slotStart, VerifiedPermit } from '@milagro-ts/crypto/time-permit'
import { decodeTlv, encodeTlv, need } from '@milagro-ts/crypto/tlv'
import { type Guest, TlsPeer } from './door.js'
import { type IdentityServerOptions, IdentityTlsServer } from './server.js'
import { tellEnding } from './slot-end.js'
import { warnOfTickets } from './tickets.js'
import { type ConnectOptions, connect, secured } from './tls.js'

/** Milliseconds from a connection, or from the end of the handshake, to the other's permit. */
const TIMEOUT = 10_000
/** Milliseconds between two looks at those who are in. */
const LOOK = 1_000
/** Bytes of what is said of a permit. */
const LONGEST = 256
/** From one source, handshakes that came to nothing: each is a pairing on the device's one thread. */
const RATE = { perSecond: 5, burst: 50 }
/** Between devices nobody says what the RA knows of them: no attributes, no instance. */
const UNTOLD = { attributes: {}, instance: '' } as const
const ROLE = { connects: 1, answers: 2 } as const
type Role = keyof typeof ROLE

/** A device as it opens and answers channels: a Device of the client package is one, after `preparePeers`. Asks nobody. */
export interface PeerIdentity {
  readonly idCore: IdCore
  readonly group: Pick<Group, 'groupId' | 'slotRule' | 'policy' | 'keysAt'>
  peerPsk(peer: IdCore): Promise<SlotPsk>
  /** Null without a key of the identity's slot. DecodeError for an R that is no point. */
  answerPeer(identity: PskIdentity): Promise<Uint8Array | null>
  /** Null without one. */
  permitInHand(slot: number): Permit | null
}

/** The other end has proven its name, and may not speak. */
export class PeerRefused extends Error {
  override readonly name = 'PeerRefused'
}

export interface PeerServerOptions
  extends Omit<IdentityServerOptions, 'door' | 'timers' | 'log' | 'handshakeTimeout' | 'tls12'> {
  readonly identity: PeerIdentity
  /** Whom this device lets in; asked when a handshake begins and ends, and every second of a channel. */
  readonly allow: (idCore: IdCore) => boolean
  readonly log: Log
  readonly clock?: Clock
  readonly timers?: Timers
  readonly random?: Random
  /** Milliseconds before the end of the slot at which `permit-ending` is told; a minute unless said. */
  readonly warnBefore?: number
  /** Milliseconds for the handshake, and once more for the permit; 10 s unless said. */
  readonly timeout?: number
}

export interface ConnectPeerOptions extends Omit<ConnectOptions, 'identity' | 'servername' | 'tls12'> {
  readonly identity: PeerIdentity
  /** The device that is to be at the other end. */
  readonly peer: IdCore
  /** Milliseconds for the other's permit; 10 s unless said. */
  readonly timeout?: number
}

/** Emits `secureConnection` (socket, peer) for devices that have proven their name and shown their permit. */
export class PeerServer extends Server {
  readonly #door: PeerDoor
  readonly #inner: IdentityTlsServer

  /** For createPeerServer. */
  constructor({
    identity,
    allow,
    log,
    clock = systemClock,
    timers = systemTimers,
    random = systemRandom,
    warnBefore = 60_000,
    timeout = TIMEOUT,
    ...tlsOptions
  }: PeerServerOptions) {
    super()
    this.#door = new PeerDoor({ identity, allow, clock, timers, random, warnBefore })
    this.#inner = new IdentityTlsServer({
      ...tlsOptions,
      door: this.#door,
      timers,
      log,
      handshakeTimeout: timeout,
    })
    this.on('connection', (raw: Socket) => this.#inner.emit('connection', raw))
    this.#inner.on('tlsClientError', (error, socket) => this.emit('tlsClientError', error, socket))
    this.#inner.on('secureConnection', (socket: TLSSocket, peer: TlsPeer) => {
      showPermits(socket, peer, { identity, role: 'answers', timers, timeout }).then(
        () => {
          this.#door.letSpeak(peer)
          this.emit('secureConnection', socket, peer)
        },
        (error: unknown) => {
          log.warn({ err: error, mpinId: peer.mpinId }, 'a device may not speak')
          socket.destroy()
        },
      )
    })
    this.once('listening', () => {
      this.#door.start()
      void warnOfTickets(log)
    })
    this.once('close', () => this.#door.stop())
  }

  /** Listens no more, and ends the channels that are open. */
  override close(callback?: (error?: Error) => void): this {
    this.#door.stop()
    return super.close(callback)
  }
}

/** `listener` runs for devices that have proven their name and shown their permit, and is told which. */
export function createPeerServer(
  options: PeerServerOptions,
  listener?: (socket: TLSSocket, peer: TlsPeer) => void,
): PeerServer {
  const server = new PeerServer(options)
  if (listener !== undefined) server.on('secureConnection', listener)
  return server
}

/**
 * A channel to the device `peer`, which has proven that it is it and shown its permit; emits `permit-ending`, and closes at
 * the end of slot and grace. Rejects with PeerRefused (no permit of its own or of the other's), TLS' own error where the
 * other end is somebody else or doesn't let us in, and what the identity throws; RangeError for this device itself.
 */
export async function connectPeer({
  identity,
  peer,
  timeout = TIMEOUT,
  ...options
}: ConnectPeerOptions): Promise<TLSSocket> {
  if (peer.equals(identity.idCore)) throw new RangeError('a device is no peer of its own')
  const { clock = systemClock, timers = systemTimers, warnBefore } = options
  const offered = await identity.peerPsk(peer)
  // The end of its slot is told once there is a channel to listen at.
  const externalPsk = async () => ({ ...offered, endsAt: Number.POSITIVE_INFINITY })
  const socket = await secured(connect({ ...options, servername: peer.mpinId, identity: { externalPsk } }))
  try {
    const { slotRule, policy } = identity.group
    const other = TlsPeer.admit(
      PskIdentity.ofSlot('m1', peer, offered.slot, G1.generator),
      UNTOLD,
      slotRule,
      policy.grace,
    )
    await showPermits(socket, other, { identity, role: 'connects', timers, timeout })
    const close = timers.every(LOOK, () => {
      if (clock() >= other.closesAt) socket.destroy()
    })
    socket.once('close', close)
    tellEnding(socket, offered.endsAt, { clock, timers, warnBefore })
    return socket
  } catch (error) {
    socket.destroy()
    throw error
  }
}

interface PeerDoorPorts extends Required<Pick<PeerServerOptions, 'identity' | 'allow'>> {
  readonly clock: Clock
  readonly timers: Timers
  readonly random: Random
  readonly warnBefore: number
}

/** As the door of a service (door.ts), with the caller's `allow` in the place of the stream of ban events. */
export class PeerDoor {
  readonly #ports: PeerDoorPorts
  readonly #rate: RateLimit
  readonly #secret: Uint8Array
  readonly #guests = new Map<Guest, { readonly peer: TlsPeer; told: boolean }>()
  /** Whose channels somebody listens at: they have shown their permits. */
  readonly #speaking = new WeakSet<TlsPeer>()
  #endLooking = () => {}

  constructor(ports: PeerDoorPorts) {
    this.#ports = ports
    this.#secret = ports.random(32)
    this.#rate = new RateLimit(RATE, ports.clock)
  }

  start(): void {
    this.#endLooking = this.#ports.timers.every(LOOK, () => this.#look())
  }
  stop(): void {
    this.#endLooking()
    for (const guest of this.#guests.keys()) guest.putOut('the device is stopping')
    this.#guests.clear()
  }

  /**
   * The PSK for an identity that a ClientHello offers; for who may not come in, one that nobody has, after the same work.
   * Refused RETRY_LATER for a source from which too much has come to nothing.
   */
  async psk(text: string, source: string): Promise<Uint8Array> {
    this.#rate.take(sourceOf(source))
    const identity = this.#mayEnter(text)
    const slot = identity?.slot ?? this.#slot()
    const nobody = PskIdentity.ofSlot('m1', IdCore.zero, slot, G1.generator)
    const psk = await this.#answer(identity ?? nobody)
    return identity === null || psk === null ? this.decoy(text) : psk
  }

  /** Each is computed when it comes. */
  pskKept(): undefined {}
  /** Of TLS 1.2, which devices don't speak among themselves. */
  pskAtOnce(text: string): Uint8Array {
    return this.decoy(text)
  }

  decoy(text: string): Uint8Array {
    return hmacSha256(this.#secret, utf8(text))
  }

  /** The source gets back what `psk` took for this connection. */
  authenticated(text: string, _psk: Uint8Array, source: string): TlsPeer | null {
    const identity = this.#mayEnter(text)
    if (identity === null) return null
    this.#rate.refund(sourceOf(source))
    const { slotRule, policy } = this.#ports.identity.group
    return TlsPeer.admit(identity, UNTOLD, slotRule, policy.grace)
  }

  enter(guest: Guest, peer: TlsPeer): void {
    this.#guests.set(guest, { peer, told: false })
  }
  leave(guest: Guest): void {
    this.#guests.delete(guest)
  }
  letSpeak(peer: TlsPeer): void {
    this.#speaking.add(peer)
  }

  #look(): void {
    const { allow, clock, warnBefore } = this.#ports
    const now = clock()
    for (const [guest, entry] of this.#guests) {
      const { idCore, endsAt, closesAt } = entry.peer
      const why = !allow(idCore) ? 'not allowed any more' : now >= closesAt ? 'the slot has ended' : null
      if (why !== null) {
        this.#guests.delete(guest)
        guest.putOut(why)
      } else if (!entry.told && now >= endsAt - warnBefore && this.#speaking.has(entry.peer)) {
        entry.told = true
        guest.ending(endsAt)
      }
    }
  }

  /** Of another device that is allowed, of the current slot or the former one within `grace`. */
  #mayEnter(text: string): PskIdentity | null {
    const { identity: own, allow, clock } = this.#ports
    let offered: PskIdentity
    try {
      offered = PskIdentity.decode(text)
    } catch (error) {
      if (error instanceof DecodeError) return null
      throw error
    }
    const { slotRule, policy } = own.group
    const current = this.#slot()
    const isFormer =
      offered.slot === current - 1 && clock() / 1000 - slotStart(slotRule, current) < policy.grace
    if (offered.kind !== 'm1' || (offered.slot !== current && !isFormer)) return null
    // Who reflects what this device has sent is nobody.
    if (offered.idCore.equals(own.idCore) || !allow(offered.idCore)) return null
    return offered
  }

  async #answer(identity: PskIdentity): Promise<Uint8Array | null> {
    try {
      return await this.#ports.identity.answerPeer(identity)
    } catch (error) {
      // R is no point.
      if (error instanceof DecodeError) return null
      throw error
    }
  }

  #slot(): number {
    return slotAt(this.#ports.identity.group.slotRule, Math.floor(this.#ports.clock() / 1000))
  }
}

/** Shows the own permit and looks at the other's. PeerRefused. */
async function showPermits(
  socket: TLSSocket,
  peer: TlsPeer,
  {
    identity,
    role,
    timers,
    timeout,
  }: {
    readonly identity: PeerIdentity
    readonly role: Role
    readonly timers: Timers
    readonly timeout: number
  },
): Promise<void> {
  const own = identity.permitInHand(peer.slot)
  if (own === null) throw new PeerRefused('no permit of this slot to show')
  const exporter = tlsExporter(socket)
  const said = encodeTlv([u8(ROLE[role]), exporter, own.encode()])
  socket.write(concat(be16(said.length), said))
  const heard = await frameOf(socket, timers, timeout)
  try {
    const [theirRole, theirExporter, permit] = decodeTlv(heard, { tags: 3, field: 'peer' })
    const expected = ROLE[role === 'connects' ? 'answers' : 'connects']
    if (readInteger(need(theirRole, 'peer.role'), 1, 'peer.role') !== expected)
      throw new PeerRefused('it speaks in our own part')
    if (!equalBytes(need(theirExporter, 'peer.exporter'), exporter))
      throw new PeerRefused('it speaks of another channel')
    if (!permits(identity.group, peer, Permit.decode(need(permit, 'peer.permit'))))
      throw new PeerRefused('no permit of this device for this slot')
  } catch (error) {
    if (!(error instanceof DecodeError)) throw error
    throw new PeerRefused(`what it shows doesn’t decode: ${error.message}`, { cause: error })
  }
}

/** Of the channel's slot, of this leaf, and issued by the group's authorities. */
function permits(group: PeerIdentity['group'], { idCore, slot }: TlsPeer, permit: Permit): boolean {
  const { groupId, slotRule } = group
  const { epoch, pub } = group.keysAt('permit', slot) as PurposeKeys
  if (permit.slot !== slot) return false
  const verified = VerifiedPermit.verify({ groupId, permitEpoch: epoch, rule: slotRule }, pub as G2, permit)
  return verified?.covers(idCore) === true
}

/** be16 length and as many bytes; what comes after it stays for the handler. PeerRefused for an end, a wait, a length. */
function frameOf(socket: TLSSocket, timers: Timers, timeout: number): Promise<Uint8Array> {
  return new Promise((resolve, reject) => {
    let bytes: Buffer = Buffer.alloc(0)
    const end = (settle: () => void) => {
      endWaiting()
      socket.off('readable', look)
      socket.off('close', closed)
      socket.off('error', failed)
      settle()
    }
    const refuse = (why: string) => end(() => reject(new PeerRefused(why)))
    const endWaiting = timers.after(timeout, () => refuse('it shows no permit in time'))
    const closed = () => refuse('it closed the channel before it showed a permit')
    const failed = (error: Error) => end(() => reject(error))
    const look = () => {
      for (
        let chunk = socket.read() as Buffer | null;
        chunk !== null;
        chunk = socket.read() as Buffer | null
      ) {
        bytes = Buffer.concat([bytes, chunk])
        if (bytes.length < 2) continue
        const length = bytes.readUInt16BE()
        if (length > LONGEST) return refuse('what it shows is too long')
        if (bytes.length < 2 + length) continue
        const rest = bytes.subarray(2 + length)
        return end(() => {
          if (rest.length > 0) socket.unshift(rest)
          resolve(Uint8Array.from(bytes.subarray(2, 2 + length)))
        })
      }
    }
    socket.on('close', closed)
    socket.on('error', failed)
    socket.on('readable', look)
  })
}
