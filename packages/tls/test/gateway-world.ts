/** A gateway in front of a service and, for programs that know nothing of TLS, a device's outbound gateway, in a World. */
import type { Server, Socket } from 'node:net'
import { createServer as createTcp } from 'node:net'
import { createMetrics } from '@milagro-ts/api/metrics'
import { Gateway, type GatewaySettings } from '@milagro-ts/tls/gateway'
import { OutboundGateway, type OutboundSettings } from '@milagro-ts/tls/outbound-gateway'
import { type Car, NAME, type World } from './world.js'

export const INSTANCE = 'VIN of the RA'

export interface RunningGateway {
  readonly gateway: Gateway
  readonly port: number
  readonly metrics: () => Promise<string>
  settings: GatewaySettings
}

export async function startGateway(
  world: World,
  settings: Partial<GatewaySettings> & Pick<GatewaySettings, 'to' | 'pass'>,
): Promise<RunningGateway> {
  const { door, timers, log } = world
  const metrics = createMetrics('gateway')
  world.permitted = async () => ({ attributes: {}, instance: INSTANCE })
  const running = {
    settings: {
      name: 'mpinId' as const,
      connections: 100,
      connectionsPerDevice: 10,
      handshakes: 100,
      handshakesPerSource: 50,
      idle: 60_000,
      patience: 10_000,
      ...settings,
    },
  }
  const gateway = new Gateway({ door, timers, log, metrics, settings: () => running.settings })
  const port = await world.listen(gateway.server)
  world.onClose(() => gateway.close(0).catch(() => undefined))
  return Object.assign(running, { gateway, port, metrics: () => metrics.registry.metrics() })
}

export interface RunningOutbound {
  readonly port: number
  readonly metrics: () => Promise<string>
  settings: OutboundSettings
}

/** Plain TCP on the loopback that speaks to `to` as this car. */
export async function startOutbound(world: World, car: Car, to: number): Promise<RunningOutbound> {
  const { timers, log } = world
  const metrics = createMetrics('outbound')
  const running = {
    settings: {
      to: { host: '127.0.0.1', port: to },
      server: NAME,
      connections: 100,
      idle: 60_000,
      patience: 10_000,
    },
  }
  const settings = () => running.settings
  const outbound = new OutboundGateway({ identity: car, timers, log, metrics, settings })
  const port = await world.listen(outbound.server)
  world.onClose(() => outbound.close(0))
  return Object.assign(running, { port, metrics: () => metrics.registry.metrics() })
}

/** A service that does this with each connection. */
export async function service(
  world: World,
  serve: (socket: Socket) => void,
): Promise<{ host: string; port: number }> {
  return { host: '127.0.0.1', port: await world.listen(serving(serve)) }
}

/** The same at a Unix domain socket. */
export function serviceAt(
  world: World,
  path: string,
  serve: (socket: Socket) => void,
): Promise<{ path: string }> {
  return listenAt(world, path, serving(serve))
}

export async function listenAt(world: World, path: string, server: Server): Promise<{ path: string }> {
  await new Promise<void>(resolve => server.listen(path, resolve))
  world.onClose(() => server.close())
  return { path }
}

function serving(serve: (socket: Socket) => void): Server {
  return createTcp({ allowHalfOpen: true }, socket => {
    socket.on('error', () => undefined)
    serve(socket)
  })
}

/** Everything that comes until the other end has said everything; rejects for a connection that breaks. */
export function heard(socket: Socket): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = []
    socket.on('data', (chunk: Buffer) => void chunks.push(chunk))
    socket.once('end', () => resolve(Buffer.concat(chunks)))
    socket.once('error', reject)
    socket.once('close', () => reject(new Error('closed')))
  })
}
