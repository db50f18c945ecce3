/** What a client that is refused reads: one sentence before node's own words, the same whatever the cause, in every module. */
import { connect as connectTcp, createServer as createTcp } from 'node:net'
import { createServer as rawServer, type TLSSocket } from 'node:tls'
import { createMetrics } from '@milagro-ts/api/metrics'
import http2 from '@milagro-ts/tls/http2'
import https from '@milagro-ts/tls/https'
import mqtt from '@milagro-ts/tls/mqtt'
import { OutboundGateway } from '@milagro-ts/tls/outbound-gateway'
import { connect, createServer, REFUSED_KEY, type TlsIdentity } from '@milagro-ts/tls/tls'
import { Agent, fetch } from '@milagro-ts/tls/undici'
import { WebSocket } from '@milagro-ts/tls/ws'
import { afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { NAME, SLOT, World, wrongKeyAlert } from './world.js'

let world: World
let port: number
/** The code that node has for a wrong key, where no module of ours is. */
let wrongKey: string
beforeAll(async () => {
  wrongKey = await wrongKeyAlert()
})
beforeEach(async () => {
  world = await World.start()
  const { door, timers, log } = world
  const server = createServer({ door, timers, log, tls12: true })
  server.on('tlsClientError', () => undefined)
  port = await world.listen(server)
})
afterEach(() => world.close())

const at = () => ({ host: '127.0.0.1', port, servername: NAME })
const errorOf = (socket: TLSSocket) =>
  new Promise<NodeJS.ErrnoException>(resolve => socket.once('error', resolve))
/** Node's own words come last, and its code is what it was. */
function expectExplained(error: NodeJS.ErrnoException, alert = /SSL alert number (?:47|51)/): void {
  expect(error.message.startsWith(`${REFUSED_KEY}: `)).toBe(true)
  expect(error.message).toMatch(alert)
  expect(error.stack).toContain(REFUSED_KEY)
  expect([wrongKey, 'EPROTO']).toContain(error.code)
}

describe('whatever the cause', () => {
  test.each<[string, () => TlsIdentity]>([
    [
      'banned',
      () => {
        const car = world.car(1)
        world.banned.add(car.mpinId)
        return car
      },
    ],
    [
      'no permit',
      () => {
        world.permitted = async () => null
        return world.car(1)
      },
    ],
    [
      'the ban events are lost',
      () => {
        world.fresh = false
        return world.car(1)
      },
    ],
    ['another name', () => ({ externalPsk: (_, kind) => world.car(1).externalPsk('other.example', kind) })],
    [
      'the former slot',
      () => ({ externalPsk: (name, kind) => world.car(1).externalPsk(name, kind, SLOT - 1) }),
    ],
  ])('%s', async (_, identity) => {
    expectExplained(await errorOf(connect({ ...at(), identity: identity() })))
  })
})

describe('in every module', () => {
  const banned = () => {
    const car = world.car(1)
    world.banned.add(car.mpinId)
    return car
  }
  const url = (scheme = 'https') => `${scheme}://127.0.0.1:${port}/`

  test('https', async () => {
    const request = https.get(url(), { identity: banned(), servername: NAME, agent: false })
    expectExplained(await new Promise<Error>(resolve => request.once('error', resolve)))
  })
  test('http2', async () => {
    const session = http2.connect(url(), { identity: banned(), servername: NAME })
    expectExplained(await new Promise<Error>(resolve => session.once('error', resolve)))
  })
  test('undici, as the cause of fetch’s', async () => {
    const dispatcher = new Agent({ connect: { identity: banned(), servername: NAME } })
    const failed = await fetch(url(), { dispatcher }).catch((error: unknown) => error)
    expectExplained((failed as Error).cause as Error)
    await dispatcher.destroy()
  })
  test('ws', async () => {
    const socket = new WebSocket(url('wss'), { identity: banned(), servername: NAME })
    expectExplained(await new Promise<Error>(resolve => socket.once('error', resolve)))
  })
  test('mqtt', async () => {
    const client = mqtt.connect(url('mqtts'), { identity: banned(), servername: NAME, reconnectPeriod: 0 })
    expectExplained(await new Promise<Error>(resolve => client.once('error', resolve)))
    client.end(true)
  })
  test('the outbound gateway: in its log and in its health', async () => {
    const { timers, log } = world
    const settings = {
      to: { host: '127.0.0.1', port },
      server: NAME,
      connections: 9,
      idle: 60_000,
      patience: 10_000,
    }
    const outbound = new OutboundGateway({
      ...{ identity: banned(), timers, log, metrics: createMetrics('outbound') },
      settings: () => settings,
    })
    const program = connectTcp(await world.listen(outbound.server), '127.0.0.1')
    await new Promise(resolve => program.once('close', resolve))
    expect(outbound.service).toContain(REFUSED_KEY)
    const lines = world.logged.map(line => JSON.parse(line) as { err?: { says?: string; stack?: string } })
    expect(lines.find(({ err }) => err?.says?.includes(REFUSED_KEY))?.err?.stack).toBeUndefined()
  })
})

test('TLS 1.2 besides: its first attempt of a slot is refused', async () => {
  const error = await errorOf(connect({ ...at(), identity: world.car(1), tls12: true }))
  expect(error.message).toMatch(
    new RegExp(
      `^${REFUSED_KEY}; by TLS 1\\.2 it may be the first attempt of the slot: .*SSL alert number 20`,
      's',
    ),
  )
})

describe('what isn’t about the key stays node’s', () => {
  test('nobody listens', async () => {
    const nobody = createTcp()
    const free = await world.listen(nobody)
    await new Promise(resolve => nobody.close(resolve))
    const { code, message } = await errorOf(connect({ ...at(), port: free, identity: world.car(1) }))
    expect([code, message]).toEqual(['ECONNREFUSED', `connect ECONNREFUSED 127.0.0.1:${free}`])
  })

  test('a server of TLS 1.2 alone', async () => {
    const suite = { ciphers: 'ECDHE-PSK-CHACHA20-POLY1305', maxVersion: 'TLSv1.2' } as const
    const other = rawServer({ ...suite, pskCallback: () => Buffer.alloc(32, 1) })
    other.on('tlsClientError', () => undefined)
    const error = await errorOf(connect({ ...at(), port: await world.listen(other), identity: world.car(1) }))
    expect(error.message).not.toContain(REFUSED_KEY)
    expect(error.message).toMatch(/alert protocol version/)
  })

  test('an alert inside of a connection', async () => {
    const { identity, psk } = await world.car(1).externalPsk(NAME)
    const ciphers = 'TLS_AES_128_GCM_SHA256'
    const other = rawServer(
      {
        ciphers,
        minVersion: 'TLSv1.3',
        pskCallback: (_, said) => (said === identity ? Buffer.from(psk) : null),
      },
      socket => void socket.on('error', () => undefined).write('in'),
    )
    other.on('tlsClientError', () => undefined)
    const device = {
      externalPsk: async () => ({ identity, psk, slot: SLOT, endsAt: Number.POSITIVE_INFINITY }),
    }
    // What the client sends is changed on its way: the server's alert is bad_record_mac.
    const relay = createTcp(client => {
      const on = connectTcp((other.address() as { port: number }).port, '127.0.0.1')
      let isInside = false
      on.on('data', chunk => void client.write(chunk)).on('error', () => undefined)
      client
        .on('error', () => undefined)
        .on('data', chunk => {
          if (isInside) chunk[chunk.length - 1] = (chunk.at(-1) as number) ^ 1
          on.write(chunk)
        })
      world.onClose(() => void on.destroy())
      changed = () => {
        isInside = true
      }
    })
    let changed = () => {}
    await world.listen(other)
    const socket = connect({ ...at(), port: await world.listen(relay), identity: device })
    await new Promise(resolve => socket.once('data', resolve))
    changed()
    socket.write('x')
    const error = await errorOf(socket)
    expect(error.message).toMatch(/SSL alert number 20/)
    expect(error.message).not.toContain(REFUSED_KEY)
  })
})
