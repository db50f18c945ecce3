/**
 * TLS without certificates in front of a service that knows nothing of it, and that is told who came.
 *
 *   device -- TLS by its own key -->  door: this slot, permitted, not banned  -- TCP or Unix domain socket -->  service
 *
 *   pass     what the service hears of the device
 *   proxy    PROXY protocol v2, before the first byte (proxy-protocol.ts)
 *   http     headers of each request (gateway-http.ts)
 *   mqtt     user name of the CONNECT (mqtt-connect.ts)
 *   none     nothing: whoever is in, is in
 *
 * The door puts out who is banned, and everybody when the slot and its grace are over; the connection to the service ends
 * with the device's. The service must hear nobody but the gateway: it believes whoever reaches it.
 */
import type { Socket } from 'node:net'
import type { TLSSocket } from 'node:tls'
import type { Log } from '@milagro-ts/api/log'
import type { Metrics } from '@milagro-ts/api/metrics'
import { sourceOf } from '@milagro-ts/api/rate-limit'
import type { Timers } from '@milagro-ts/api/system'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { Collected } from './collected.js'
import type { Door, TlsPeer } from './door.js'
import { HttpPassing, type PassedOn } from './gateway-http.js'
import { HandshakePlaces } from './handshake-places.js'
import { connectAs, type MqttRefusal, readConnect, refusalPacket } from './mqtt-connect.js'
import { canonicalAddress, type Ends, proxyHeader, readProxyHeader } from './proxy-protocol.js'
import { reachService } from './reach-service.js'
import { Refusals } from './refusals.js'
import { relay } from './relay.js'
import type { IdentityTlsServer } from './server.js'
import type { ServiceAddress } from './service-address.js'
import { createServer } from './tls.js'

export const PASS = ['proxy', 'http', 'mqtt', 'none'] as const
export type Pass = (typeof PASS)[number]

/** What may change while the gateway serves; connections that are there keep what they began with. */
export interface GatewaySettings {
  readonly to: ServiceAddress
  readonly pass: Pass
  /** The name that is passed on: the M-Pin ID, or what the RA knows the device by (a VIN), which outlives generations. */
  readonly name: 'mpinId' | 'instance'
  /** Connections that have come in, in all and of one device. */
  readonly connections: number
  readonly connectionsPerDevice: number
  /** Connections that haven't come in yet, in all and of one source: a stranger takes nobody's place inside. */
  readonly handshakes: number
  readonly handshakesPerSource: number
  /** Addresses, in their canonical spelling, whose connections begin with a PROXY header; everybody else's mustn't. */
  readonly balancers?: readonly string[]
  /** Milliseconds without a byte after which a connection is closed. */
  readonly idle: number
  /** Milliseconds until the service takes a connection, a client has said CONNECT, a balancer its header, and the service answers a request. */
  readonly patience: number
}

export interface GatewayOptions {
  readonly door: Door
  readonly timers: Timers
  readonly log: Log
  readonly metrics: Metrics
  /** As of now. */
  readonly settings: () => GatewaySettings
}

/** A connection that hasn't come in yet, and what it is behind its balancer. */
interface Coming {
  readonly raw: Socket
  readonly ends: Ends | undefined
}

/** What the service gets before the device's own bytes; `level` for MQTT, whose client is told what goes wrong. */
interface First {
  readonly bytes: Uint8Array
  readonly level?: 4 | 5
}

/** Why a connection that came through the door didn't reach the service. */
type Fault = 'service-away' | 'too-many' | 'gone' | MqttRefusal

export class Gateway {
  readonly server: IdentityTlsServer
  readonly #options: GatewayOptions
  readonly #http: HttpPassing
  readonly #passedOn = new WeakMap<object, PassedOn>()
  readonly #open = new Set<TLSSocket>()
  readonly #perDevice = new Map<string, number>()
  /** Those that haven't come in yet; and by their ends, since a TLSSocket doesn't say what carries it. */
  readonly #places = new HandshakePlaces<Socket>()
  readonly #comingIn = new Map<string, Coming>()
  /** Of balancers, before their headers. */
  readonly #unnamed = new Set<Socket>()
  readonly #refusals: Refusals
  readonly #headerless: Refusals
  /** What reads the ClientHello. */
  readonly #entrance: (raw: Socket) => void
  #drained: () => void = () => {}
  /** Why the service took no connection at the last attempt. */
  #away: string | undefined

  constructor(options: GatewayOptions) {
    this.#options = options
    const { door, timers, log, metrics, settings } = options
    this.#http = new HttpPassing({
      timers,
      settings,
      deviceAt: socket => this.#passedOn.get(socket) as PassedOn,
      observe: (outcome, error) => {
        metrics.count('requests_passed_on', { outcome })
        // What a device asks for may take too long, or be answered badly: the service is there all the same.
        if (outcome === 'OK' || outcome === 'AWAY') this.#away = error?.message
        else if (outcome === 'FAULT') log.error({ err: error }, 'a request could not be passed on')
        else log.info({ err: error, outcome }, 'the service gave no answer to a request')
      },
    })
    this.#refusals = new Refusals(
      { timers, log },
      'too many connections that haven’t come in: some were closed (handshakes, handshakesPerSource)',
    )
    this.#headerless = new Refusals(
      { timers, log },
      'connections of balancers that begin with no PROXY header of version 2 were closed (balancers)',
    )
    this.server = createServer(
      {
        ...{ door, timers, log },
        heard: raw => this.#places.heard(raw),
        origin: socket => this.#cameAs(socket)?.ends?.remoteAddress,
      },
      (socket, peer) => this.#enter(socket, peer),
    )
    // Nobody is read from before there is a place.
    const read = this.server.listeners('connection') as ((raw: Socket) => void)[]
    this.server.removeAllListeners('connection')
    this.#entrance = raw => {
      for (const one of read) one.call(this.server, raw)
    }
    this.server.on('connection', (raw: Socket) => this.#come(raw))
    this.server.on('tlsClientError', () => metrics.count('handshakes_failed'))
  }

  /** True, or why the service was not reached at the last attempt. */
  get service(): true | string {
    return this.#away ?? true
  }
  get connections(): number {
    return this.#open.size
  }

  /** Connections that haven't come in yet. */
  get comingIn(): number {
    return this.#places.size
  }

  /** Nobody comes in any more; resolves when all have gone, or were put out `within` milliseconds from now. */
  async close(within: number): Promise<void> {
    this.server.close()
    this.#http.close()
    if (this.#open.size > 0) {
      const gone = new Promise<void>(resolve => {
        this.#drained = resolve
      })
      const endWaiting = this.#options.timers.after(within, () => {
        for (const socket of this.#open) socket.destroy()
      })
      await gone
      endWaiting()
    }
    this.#http.end()
  }

  #come(raw: Socket): void {
    // A device that has said everything may still listen.
    raw.allowHalfOpen = true
    const { balancers = [] } = this.#options.settings()
    // It was gone before anybody looked.
    if (raw.remoteAddress === undefined) raw.destroy()
    else if (balancers.length > 0 && balancers.includes(canonicalAddress(raw.remoteAddress)))
      this.#hearBalancer(raw)
    else this.#take(raw, undefined)
  }

  /** The PROXY header, and nothing of what follows it. */
  #hearBalancer(raw: Socket): void {
    const { timers, metrics, settings } = this.#options
    const { patience, handshakes } = settings()
    const balancer = sourceOf(raw.remoteAddress as string)
    const [oldest] = this.#unnamed
    if (oldest !== undefined && this.#unnamed.size >= handshakes) {
      metrics.count('handshakes_displaced')
      this.#refusals.add(balancer)
      this.#unnamed.delete(oldest)
      oldest.destroy()
    }
    this.#unnamed.add(raw)
    const collected = new Collected()
    const endWaiting = timers.after(patience, () => raw.destroy())
    const end = () => {
      endWaiting()
      this.#unnamed.delete(raw)
      raw.off('data', look).off('end', leave).off('close', end)
    }
    const leave = () => raw.destroy()
    const look = (chunk: Buffer) => {
      collected.add(chunk)
      try {
        const header = readProxyHeader(collected.bytes)
        if (header === 'more') return
        end()
        raw.pause()
        const rest = collected.bytes.subarray(header.size)
        if (rest.length > 0) raw.unshift(rest)
        this.#take(raw, header.ends)
        raw.resume()
      } catch (error) {
        if (!(error instanceof DecodeError)) throw error
        metrics.count('proxy_headers_refused')
        this.#headerless.add(balancer)
        raw.destroy()
      }
    }
    raw.on('error', leave).on('close', end).on('end', leave).on('data', look)
  }

  /** A connection that has said nothing of its own yet. @param ends Where it is another's than its own. */
  #take(raw: Socket, ends: Ends | undefined): void {
    const { metrics, settings } = this.#options
    const end = endsOf(raw)
    if (end === undefined || raw.destroyed) return
    const source = sourceOf(ends?.remoteAddress ?? (raw.remoteAddress as string))
    const putOut = this.#places.take(raw, source, settings())
    if (putOut !== undefined) {
      metrics.count(putOut.connection === raw ? 'handshakes_turned_away' : 'handshakes_displaced')
      this.#refusals.add(putOut.source)
      putOut.connection.destroy()
      if (putOut.connection === raw) return
    }
    this.#comingIn.set(end, { raw, ends })
    raw.once('close', () => {
      this.#places.leave(raw)
      if (this.#comingIn.get(end)?.raw === raw) this.#comingIn.delete(end)
    })
    this.#entrance(raw)
  }

  #cameAs(socket: Socket): Coming | undefined {
    const end = endsOf(socket)
    return end === undefined ? undefined : this.#comingIn.get(end)
  }

  #enter(socket: TLSSocket, peer: TlsPeer): void {
    const { metrics } = this.#options
    const { mpinId } = peer
    const came = this.#cameAs(socket)
    if (came !== undefined) {
      this.#comingIn.delete(endsOf(socket) as string)
      this.#places.leave(came.raw)
      if (came.ends !== undefined) setEnds(socket, came.ends)
    }
    this.#open.add(socket)
    this.#perDevice.set(mpinId, (this.#perDevice.get(mpinId) ?? 0) + 1)
    metrics.gauge('connections', this.#open.size)
    socket.on('error', () => undefined)
    socket.once('close', () => {
      this.#open.delete(socket)
      const left = (this.#perDevice.get(mpinId) ?? 1) - 1
      if (left === 0) this.#perDevice.delete(mpinId)
      else this.#perDevice.set(mpinId, left)
      metrics.gauge('connections', this.#open.size)
      if (this.#open.size === 0) this.#drained()
    })
    this.#serve(socket, peer).then(
      fault => this.#account(peer, fault),
      (error: unknown) => {
        socket.destroy()
        this.#options.log.error({ err: error, mpinId }, 'a connection could not be passed on')
      },
    )
  }

  #account({ mpinId }: TlsPeer, fault: Fault | null): void {
    this.#options.metrics.count('connections_taken', { outcome: fault ?? 'OK' })
    if (fault !== null) this.#options.log.info({ mpinId, fault }, 'a connection was not passed on')
  }

  /** Null once the connection is on its way to the service. */
  async #serve(socket: TLSSocket, peer: TlsPeer): Promise<Fault | null> {
    const settings = this.#options.settings()
    const ofDevice = this.#perDevice.get(peer.mpinId) ?? 0
    if (ofDevice > settings.connectionsPerDevice || this.#open.size > settings.connections)
      return this.#end(socket, 'too-many')
    // It has no ends any more to tell the service of.
    const { destroyed, remoteAddress, localAddress } = socket
    if (destroyed || remoteAddress === undefined || localAddress === undefined) {
      socket.destroy()
      return 'gone'
    }
    const device = passedOn(peer, settings)
    if (settings.pass === 'http') {
      this.#passedOn.set(socket, device)
      this.#http.take(socket)
      return null
    }
    const first =
      settings.pass === 'mqtt'
        ? await this.#mqtt(socket, device, settings)
        : this.#first(socket, peer, device, settings)
    if (typeof first === 'string') return first
    const service = await this.#reach(settings, socket)
    if (socket.destroyed || service === null) {
      service?.destroy()
      if (first.level !== undefined) socket.write(refusalPacket('unavailable', first.level))
      return this.#end(socket, 'service-away')
    }
    if (first.bytes.length > 0) service.write(first.bytes)
    void relay(socket, service, { timers: this.#options.timers, idle: settings.idle })
    return null
  }

  /** Whoever was told no has a moment to read it, and none to say more. */
  #end(socket: TLSSocket, fault: Fault): Fault {
    const { timers, settings } = this.#options
    const endWaiting = timers.after(settings().patience, () => socket.destroy())
    socket.once('close', endWaiting)
    socket.end()
    socket.resume()
    return fault
  }

  /** What stands before the device's own bytes. */
  #first(
    socket: TLSSocket,
    { idCore, slot }: TlsPeer,
    { instance }: PassedOn,
    { pass }: GatewaySettings,
  ): First {
    if (pass === 'none') return { bytes: new Uint8Array() }
    const { remoteAddress, remotePort, localAddress, localPort } = socket
    const ends = { remoteAddress, remotePort, localAddress, localPort } as Ends
    return { bytes: proxyHeader(ends, { idCore, slot, instance }) }
  }

  /** The CONNECT under the device's name; what follows it stays in the socket. */
  async #mqtt(
    socket: TLSSocket,
    { mpinId, instance }: PassedOn,
    settings: GatewaySettings,
  ): Promise<First | Fault> {
    const endWaiting = this.#options.timers.after(settings.patience, () => socket.destroy())
    const refuse = (refusal: MqttRefusal, level: 4 | 5) => {
      socket.write(refusalPacket(refusal, level))
      return this.#end(socket, refusal)
    }
    try {
      const packet = await connectOf(socket)
      if (packet === null) return this.#end(socket, 'malformed')
      const renamed = connectAs(packet, instance ?? mpinId)
      return typeof renamed === 'string'
        ? refuse(renamed, packet.level)
        : { bytes: renamed, level: packet.level }
    } catch (error) {
      if (!(error instanceof DecodeError)) throw error
      return refuse(error.field === 'level' ? 'level' : 'malformed', 4)
    } finally {
      endWaiting()
    }
  }

  /** Null when the service takes no connection in time. */
  async #reach({ to, patience }: GatewaySettings, device: Socket): Promise<Socket | null> {
    const { timers, log } = this.#options
    const isWanted = () => !device.destroyed
    try {
      const service = await reachService(to, { timers, patience, allowHalfOpen: true, isWanted })
      this.#away = undefined
      return service
    } catch (error) {
      this.#away = (error as Error).message
      log.warn({ err: error }, 'the service takes no connection')
      return null
    }
  }
}

/** From here on, whoever asks the socket hears of the ends that the balancer has named. */
function setEnds(socket: Socket, ends: Ends): void {
  for (const [name, value] of Object.entries(ends))
    Object.defineProperty(socket, name, { value, enumerable: true })
}

/** By both ends, as the kernel tells connections apart. Undefined for one that has closed. */
function endsOf({ remoteAddress, remotePort, localAddress, localPort }: Socket): string | undefined {
  return remoteAddress === undefined
    ? undefined
    : [remotePort, remoteAddress, localPort, localAddress].join(' ')
}

function passedOn({ mpinId, slot, instance }: TlsPeer, { name }: GatewaySettings): PassedOn {
  return name === 'mpinId' ? { mpinId, slot } : { mpinId, slot, instance }
}

/** The CONNECT that the connection begins with; null when it ends before. DecodeError. */
function connectOf(socket: TLSSocket) {
  type Packet = Exclude<ReturnType<typeof readConnect>, 'more'>['packet']
  return new Promise<Packet | null>((resolve, reject) => {
    const collected = new Collected()
    const end = () => {
      socket.off('readable', look)
      socket.off('end', closed)
      socket.off('close', closed)
    }
    const closed = () => {
      end()
      resolve(null)
    }
    const look = () => {
      try {
        for (
          let chunk = socket.read() as Buffer | null;
          chunk !== null;
          chunk = socket.read() as Buffer | null
        ) {
          collected.add(chunk)
          const { bytes } = collected
          const found = readConnect(bytes)
          if (found === 'more') continue
          end()
          if (bytes.length > found.size) socket.unshift(bytes.subarray(found.size))
          resolve(found.packet)
          return
        }
      } catch (error) {
        end()
        reject(error)
      }
    }
    socket.on('readable', look)
    socket.on('end', closed)
    socket.on('close', closed)
  })
}
