/** The tracking server by TLS without certificates: real connections, a door under one master secret, time by hand. */
import { createServer as createHttp } from 'node:http'
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net'
import type { TLSSocket } from 'node:tls'
import { tlsExporter } from '@milagro-ts/api/channel-binding'
import { Refused } from '@milagro-ts/api/problem'
import { ChannelLogin } from '@milagro-ts/car-tracking/channel-login'
import type { Batch } from '@milagro-ts/car-tracking/track-chain'
import { VehicleEntrance } from '@milagro-ts/car-tracking/vehicle-entrance'
import { agentFetch } from '@milagro-ts/client/agent-fetch'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { httpsAgent } from '@milagro-ts/tls/https'
import type { TlsService } from '@milagro-ts/tls/service'
import { connect, secured } from '@milagro-ts/tls/tls'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { type Car, closed, NAME, World as TlsWorld, wrongKeyAlert } from '../../../packages/tls/test/world.js'
import { TrackingWorld } from './tracking-world.js'

let tls: TlsWorld
let world: TrackingWorld
let car: Car
let another: Car
let batch: Batch
let url: string
/** Connections that clients have opened. */
let opened: Socket[]
/** What the authorities answer. */
let away: Refused | undefined
/** Opened services. */
let services: number

const openTls = async (): Promise<TlsService> => {
  if (away !== undefined) throw away
  services++
  const { door, timers, log } = tls
  return { door, timers, log, close: leave }
}
const leave = async () => {
  services--
  tls.door.stop()
}

beforeEach(async () => {
  tls = await TlsWorld.start()
  away = undefined
  services = 0
  opened = []
  world = await TrackingWorld.make({ openTls })
  car = tls.car(1)
  another = tls.car(2)
  ;[batch] = world.batch(car.idCore, world.start(car.idCore), world.positions(3))
  const started = await world.server.start()
  expect(started.url).toMatch(/^http:/)
  await world.until(() => world.server.follower.fresh && world.server.tlsAddress !== null)
  url = `https://127.0.0.1:${world.server.tlsAddress?.port}`
})
afterEach(async () => {
  for (const socket of opened) socket.destroy()
  await world.close()
  expect(services).toBe(0)
  await tls.close()
})

/** As this car over its own connection, which it logs in; or with another login in the place of its own. */
const fetchAs = (who: Car, login?: string) =>
  agentFetch(httpsAgent(who, { servername: NAME, keepAlive: true, maxSockets: 1, clock: () => tls.now }), {
    opened: socket => void opened.push(socket),
    ...(login === undefined ? loginOf(who) : { authorization: async () => login }),
  })
const loginOf = (who: Car) =>
  new ChannelLogin({ prove: async exporter => world.boundProof(who.idCore, exporter) })

async function report(fetch: typeof globalThis.fetch, origin = url) {
  const answer = await fetch(`${origin}/v1/tracks`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({
      number: batch.number,
      previous: toBase64Url(batch.previous),
      positions: batch.positions,
      head: toBase64Url(batch.head),
      receipt: await world.receipt(car.idCore, batch),
    }),
  })
  return { status: answer.status, body: (await answer.json()) as { code?: string; stored?: number } }
}

test('a car logs in once on its connection, and reports over it as itself', async () => {
  const fetch = fetchAs(car)
  expect(await report(fetch)).toMatchObject({ status: 200, body: { stored: 3 } })
  const end = await fetch(`${url}/v1/tracks/end`)
  expect(await end.json()).toMatchObject({ next: 2 })
  expect(opened).toHaveLength(1)
  expect(world.onePass.size).toBe(1)
})

describe('a login that was taken on its way', () => {
  /** Bound to a connection of the car's. */
  const stolen = async () => {
    const { port } = new URL(url)
    const socket = await secured(
      connect({ identity: car, servername: NAME, host: '127.0.0.1', port: Number(port) }),
    )
    opened.push(socket)
    return world.boundProof(car.idCore, tlsExporter(socket))
  }

  test('opens no other connection, not even of the same car, and stores nothing', async () => {
    const login = await stolen()
    for (const who of [another, car])
      expect((await report(fetchAs(who, login))).body.code).toBe('WRONG_PROOF')
    expect(await report(fetchAs(car))).toMatchObject({ body: { stored: 3 } })
  })

  test('is of no use on the public listener, where no vehicle comes in', async () => {
    const { port } = world.server.app.server.address() as AddressInfo
    const login = await stolen()
    const byHttp: typeof globalThis.fetch = (input, init) =>
      globalThis.fetch(input, {
        ...init,
        headers: { ...(init?.headers as Record<string, string>), authorization: login },
      })
    expect((await report(byHttp, `http://127.0.0.1:${port}`)).body.code).toBe('NOT_FOUND')
  })
})

test('a token, or another’s proof over this very connection, is no login, and ends the one that was', async () => {
  const fetch = fetchAs(car)
  await report(fetch)
  const end = async (authorization?: string) => {
    const answer = await fetch(
      `${url}/v1/tracks/end`,
      authorization === undefined ? {} : { headers: { authorization } },
    )
    return ((await answer.json()) as { code?: string }).code
  }
  expect(await end()).toBeUndefined()
  expect(await end(`Bearer ${await world.token(car.idCore)}`)).toBe('UNAUTHENTICATED')
  expect(await end()).toBe('UNAUTHENTICATED')
  const [socket] = opened
  const others = world.boundProof(another.idCore, tlsExporter(socket as TLSSocket))
  expect(await end(others)).toBe('WRONG_PROOF')
})

test('a ban ends a login at once, before its connection is gone', async () => {
  const fetch = fetchAs(car)
  await report(fetch)
  await world.event('ban', car.idCore)
  await expect
    .poll(async () => ((await (await fetch(`${url}/v1/tracks/end`)).json()) as { code?: string }).code)
    .toBe('BANNED')
})

test('readers’ routes are not for vehicles: over TLS there are none', async () => {
  const answer = await fetchAs(car)(`${url}/v1/vehicles`)
  expect(await answer.json()).toMatchObject({ code: 'NOT_FOUND' })
})

test('a ban in the middle ends the connection, and the next handshake fails as with a wrong key', async () => {
  const fetch = fetchAs(car)
  await report(fetch)
  const [socket] = opened
  tls.banned.add(car.mpinId)
  tls.door.look()
  await closed(socket as Socket)
  const again = await fetch(`${url}/v1/tracks/end`).then(
    () => 'in',
    (error: NodeJS.ErrnoException) => error.code,
  )
  expect(again).toBe(await wrongKeyAlert())
  expect(opened).toHaveLength(1)
})

test('a request that comes too slowly is ended on this listener, too', async () => {
  const { server } = await started({ requestTimeout: 50 })
  const { port } = server.address() as AddressInfo
  const socket = await secured(connect({ identity: car, servername: NAME, host: '127.0.0.1', port }))
  opened.push(socket)
  socket.write('GET /v1/tracks/end HT')
  const answer = await new Promise<string>(resolve => socket.once('data', data => resolve(String(data))))
  expect(answer).toContain('408')
})

/** An HTTP server with these limits behind an entrance of its own. */
async function started({ requestTimeout }: { requestTimeout: number }): Promise<{ server: Server }> {
  const { createServer: createHttp } = await import('node:http')
  const { overTls } = await import('@milagro-ts/tls/server')
  const limits = { requestTimeout, headersTimeout: requestTimeout, connectionsCheckingInterval: 10 }
  const { door, timers, log } = tls
  const server = overTls(createHttp(limits), { door, timers, log })
  await tls.listen(server)
  return { server }
}

describe('until vehicles can come in', () => {
  test('it is tried again, and readiness says so', async () => {
    away = new Refused('RETRY_LATER')
    const late = await TrackingWorld.make({ openTls })
    try {
      await late.server.start()
      await late.follow()
      const ready = async () => (await late.server.admin.inject('/health/ready')).json()
      expect(await ready()).toMatchObject({ ok: false, checks: { tls: 'no key for this slot yet' } })
      away = undefined
      late.clock.turn(1_000)
      await late.until(() => late.server.tlsAddress !== null)
      expect(await ready()).toMatchObject({ ok: true, checks: { tls: true } })
    } finally {
      await late.close()
    }
  })

  test('a port that is taken is no end of the server', async () => {
    const taken = createServer()
    const port = await tls.listen(taken)
    const http = createHttp()
    const entrance = new VehicleEntrance({
      http,
      open: openTls,
      listen: { host: '127.0.0.1', port },
      timers: world.clock,
      log: tls.log,
    })
    entrance.start()
    await world.until(() => tls.logged.some(line => line.includes('EADDRINUSE')))
    expect(entrance.standing).toMatch(/^can’t listen on 127\.0\.0\.1:\d+ \(EADDRINUSE\)$/)
    await entrance.close()
  })
})
