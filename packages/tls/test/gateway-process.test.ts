/**
 * The gateway as `milagro tls gateway` runs it, by the clock of a world with authorities and an RPS: which starts wait and which
 * are refused, its health over HTTP while ban events or a slot key are lacking, and how soon a ban that the RPS hears has
 * ended a connection.
 */
import { writeFile } from 'node:fs/promises'
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net'
import { join } from 'node:path'
import type { Readiness } from '@milagro-ts/api/admin'
import { ConfigError } from '@milagro-ts/api/config'
import type { Serving } from '@milagro-ts/api/process'
import { makeServiceKeys } from '@milagro-ts/api/service-keys'
import { systemRandom } from '@milagro-ts/api/system'
import { agreePointG1, encodeName } from '@milagro-ts/crypto/identity'
import { publicKeysFault } from '@milagro-ts/crypto/server-key'
import { AgreeClientKey, ClientAgreement } from '@milagro-ts/crypto/static-agreement'
import { slotStart } from '@milagro-ts/crypto/time-permit'
import { runGateway } from '@milagro-ts/tls/gateway-process'
import { connect, secured } from '@milagro-ts/tls/tls'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { type Car, NOON, OWN, type RunningRps, until, World } from '../../rps/test/world.js'
import { closed, outcome } from './world.js'

const NAME = 'tracking'
const PASSPHRASE = 'one word'
const SLOT = 3_600_000

let world: World
let rps: RunningRps
let gateway: Serving | undefined
/** Nobody answers at the authorities' addresses. */
let areAway: boolean
let service: Server
/** Connections that the service got. */
let came: Socket[]

// What would serve until a signal comes is the test's to end.
vi.mock('@milagro-ts/api/process', async original => ({
  ...(await original<typeof import('@milagro-ts/api/process')>()),
  runProcess: async (_: string, start: () => Promise<Serving>) => {
    gateway = await start()
  },
}))
// The clock and the RPS are the world's, as are the keys that the group names.
vi.mock('@milagro-ts/tls/service', async original => {
  const { openTlsService } = await original<typeof import('@milagro-ts/tls/service')>()
  return {
    openTlsService: (options: Parameters<typeof openTlsService>[0]) =>
      openTlsService({
        ...options,
        requestKey: world.tracking.requestKey,
        hpkeKey: world.tracking.hpkeKey,
        fetch: async (input, init) => {
          const { origin } = new URL(String(input))
          if (areAway && world.authorities.some(({ url }) => url === origin))
            throw new TypeError('fetch failed')
          return fetch(String(input).replace(OWN, rps.url), init)
        },
        clock: () => world.clock.now,
        timers: world.clock,
      }),
  }
})

// Its thread is started from what is built, and classes would be there twice.
vi.mock('@milagro-ts/api/server-pool', async original => ({
  ...(await original<typeof import('@milagro-ts/api/server-pool')>()),
  threadKeyCheck: () => publicKeysFault,
}))

beforeEach(async () => {
  world = await World.make()
  world.clock.now = NOON
  rps = await world.startRps()
  gateway = undefined
  areAway = false
  came = []
  service = createServer(socket => {
    came.push(socket)
    socket.on('error', () => undefined).resume()
    socket.write('welcome')
  })
  await new Promise<void>(resolve => service.listen(0, '127.0.0.1', resolve))
})
afterEach(async () => {
  await gateway?.close()
  for (const socket of came) socket.destroy()
  service.close()
  await world.close()
})

async function writeSettings(more: object): Promise<string> {
  const dataDir = join(world.folder, 'gateway')
  const any = { host: '127.0.0.1', port: 0 }
  const settings = {
    ...{ name: NAME, dataDir, listen: any, adminListen: any, pass: 'none', workers: 0, drainSeconds: 0 },
    to: { host: '127.0.0.1', port: (service.address() as AddressInfo).port },
    ...{ groupId: world.groupId, groupFile: join(world.folder, 'group.json'), rps: { url: OWN } },
    logLevel: 'fatal',
    ...more,
  }
  const config = join(world.folder, 'gateway.json')
  await writeFile(config, JSON.stringify(settings))
  return config
}
async function start(
  more: { readonly name?: string; readonly [setting: string]: unknown } = {},
): Promise<void> {
  const { name = NAME } = more
  const config = await writeSettings(more)
  const dataDir = join(world.folder, 'gateway')
  await makeServiceKeys({ name, dataDir, passphrase: PASSPHRASE }, systemRandom)
  await runGateway({ config }, { MILAGRO_GATEWAY_PASSPHRASE: PASSPHRASE })
}
async function health(): Promise<[number, Readiness]> {
  const answer = await fetch(`${gateway?.urls.adminUrl}/health/ready`)
  return [answer.status, (await answer.json()) as Readiness]
}
const READY = [200, { ok: true, checks: { events: true, slotKey: true, service: true } }]
const away = (checks: object) => [
  503,
  { ok: false, checks: { events: true, slotKey: true, service: true, ...checks } },
]
const NOT_HEARD = away({ events: 'the ban events are not heard: nobody comes in' })
/** Looks again and again, `turn` milliseconds of the world later each time. */
const isReady = (turn: number) =>
  until(async () => {
    world.clock.turn(turn)
    return (await health())[0] === 200
  })

const dial = ({ idCore }: Car) => {
  const { groupId, slotRule } = world.group
  const C = encodeName(groupId, { kind: 1, idCore })
  const D = agreePointG1(C).mulSecret(world.secrets.agree)
  const key = AgreeClientKey.of({ groupId, idCore, epoch: 1 }, D)
  const identity = {
    externalPsk: async (name: string) => {
      const at = { party: { kind: 2, name, generation: 1 }, slot: world.slot } as const
      const psk = ClientAgreement.begin(key, at, systemRandom).psk('m1')
      return { ...psk, slot: at.slot, endsAt: slotStart(slotRule, at.slot + 1) * 1000 }
    },
  }
  const [host, port] = String(gateway?.urls.listen).split(':')
  return secured(connect({ host, port: Number(port), servername: NAME, identity }))
}

test('health is 503 until ban events are heard, and from half a minute after they are lost', async () => {
  await rps.close()
  await start()
  expect(await health()).toEqual(NOT_HEARD)
  rps = await world.startRps()
  await isReady(5)
  expect(await health()).toEqual(READY)
  await rps.close()
  world.clock.turn(29_000)
  expect(await health()).toEqual(READY)
  world.clock.turn(2_000)
  expect(await health()).toEqual(NOT_HEARD)
  expect(await outcome(dial(world.makeCar()))).not.toBe('in')
  rps = await world.startRps()
  await isReady(4_000)
  expect(await outcome(dial(world.makeCar()))).toBe('in')
})

test('health is 503 where the authorities gave no key for this slot, and 200 when they do', async () => {
  await start()
  await isReady(0)
  for (const authority of world.authorities) authority.behaviour = 'frozen'
  world.clock.leap(SLOT)
  // A heartbeat comes after the leap.
  await until(async () => {
    world.clock.turn(5)
    return (await health())[1].checks.events === true
  })
  expect(await health()).toEqual(away({ slotKey: 'no key for this slot yet' }))
  expect(await outcome(dial(world.makeCar()))).not.toBe('in')
  for (const authority of world.authorities) authority.behaviour = 'honest'
  world.clock.turn(6_000)
  await isReady(5)
  expect(await health()).toEqual(READY)
  expect(await outcome(dial(world.makeCar()))).toBe('in')
})

test('authorities that are away when it starts are waited for, as the RPS is: devices come in once they are back', async () => {
  areAway = true
  await start()
  await until(async () => {
    world.clock.turn(5)
    return (await health())[1].checks.events === true
  })
  expect(await health()).toEqual(away({ slotKey: 'no key for this slot yet' }))
  expect(await outcome(dial(world.makeCar()))).not.toBe('in')
  areAway = false
  world.clock.turn(6_000)
  await isReady(5)
  expect(await outcome(dial(world.makeCar()))).toBe('in')
})

describe('a start that waiting wouldn’t help is refused', () => {
  const refusal = (name?: string) =>
    start(name === undefined ? {} : { name }).then(
      () => 'it serves',
      (error: unknown) => error,
    )

  test.each(['other', 'rps'])('%s: not named, or not with keys of agree', async name => {
    expect(await refusal(name)).toEqual(
      new ConfigError(`setting 'name': the group names no server ${name} with keys of agree`),
    )
  })

  test('frozen', async () => {
    for (const authority of world.authorities) authority.behaviour = 'frozen'
    expect(await refusal()).toMatchObject({ name: 'Refused', code: 'FROZEN' })
  })
})

test('a name that a later revision than that of its file brought is looked up at the RPS', async () => {
  const recipients = world.group.document.recipients.map(one =>
    one.name === NAME ? { ...one, name: 'renamed' } : one,
  )
  const document = await world.nextRevision({ recipients })
  await rps.client.publishRevision({ body: { document } })
  await world.follow(document)
  const before = world.authorities.map(({ asked }) => asked.serverKeys)
  await start({ name: 'renamed' })
  expect(gateway?.urls.listen).toMatch(/^127\.0\.0\.1:/)
  expect(world.authorities.map(({ asked }) => asked.serverKeys)).toEqual(before.map(times => times + 1))
})

test('a ban ends the connection within a second, at the service as well, and nobody else’s', async () => {
  await start()
  await isReady(0)
  const [car, other] = [world.makeCar(), world.makeCar()]
  const inside = async (one: Car) => {
    const socket = await dial(one)
    await new Promise(resolve => socket.once('data', resolve))
    return socket
  }
  const [socket, stays] = [await inside(car), await inside(other)]
  const [far, farStays] = came as [Socket, Socket]
  const before = performance.now()
  const gone = Promise.all([closed(socket), closed(far)])
  await world.ban(rps, car)
  await gone
  expect(performance.now() - before).toBeLessThan(1_000)
  expect([stays.destroyed, farStays.destroyed]).toEqual([false, false])
  expect(await outcome(dial(car))).not.toBe('in')
  expect(came).toHaveLength(2)
  stays.destroy()
})

test('a source has as many pairings as the settings say; a reload says others, and /metrics who was turned away', async () => {
  await start({ pairingsPerSource: { burst: 1, perSecond: 0.001 } })
  await isReady(0)
  const stranger = {
    externalPsk: async () => ({ identity: 'nobody', psk: new Uint8Array(32), slot: 0, endsAt: 0 }),
  }
  const [host, port] = String(gateway?.urls.listen).split(':')
  await outcome(secured(connect({ host, port: Number(port), servername: NAME, identity: stranger })))
  const car = world.makeCar()
  expect(await outcome(dial(car))).not.toBe('in')
  const metrics = await (await fetch(`${gateway?.urls.adminUrl}/metrics`)).text()
  expect(metrics).toContain('milagro_gateway_pairings_turned_away_total 1')
  await writeSettings({})
  await gateway?.reload?.()
  // By the rate that was there before it would be a quarter of an hour.
  world.clock.turn(100)
  expect(await outcome(dial(car))).toBe('in')
})

test('balancers of the settings are asked for a header, and no longer when a reload has taken them out', async () => {
  await start({ balancers: ['::ffff:127.0.0.1'] })
  await isReady(0)
  const car = world.makeCar()
  expect(await outcome(dial(car))).not.toBe('in')
  const metrics = await (await fetch(`${gateway?.urls.adminUrl}/metrics`)).text()
  expect(metrics).toContain('milagro_gateway_proxy_headers_refused_total 1')
  await writeSettings({})
  await gateway?.reload?.()
  expect(await outcome(dial(car))).toBe('in')
})
