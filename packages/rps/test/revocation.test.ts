/** Bans: events and states that the RPA pushes and signs, and the stream that services follow. */
import { join } from 'node:path'
import { generateEs256 } from '@milagro-ts/api/keys'
import { readEvents, type ServerSentEvent } from '@milagro-ts/api/sse'
import { verifyEvent, verifyState } from '@milagro-ts/api/statements'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { type Car, codeOf, type RunningRps, type Server, until, World } from './world.js'

let world: World
let rps: RunningRps
let car: Car
/** A database for each test; the server keys are fetched once. */
let store: string
let tests = 0
beforeAll(async () => {
  world = await World.make()
})
afterAll(() => world.close())
beforeEach(async () => {
  store = join(world.folder, `${++tests}.sqlite`)
  world.rpa.number = 4
  world.rpa.isDown = false
  world.rpa.identities.clear()
  world.rpa.asked.state = 0
  rps = await world.startRps({ store })
  car = world.makeCar()
})
afterEach(() => rps.close())

const push = async (event: Promise<string> | string, to = rps) =>
  (await to.client.pushEvent({ body: { event: await event } })).number

interface Reader {
  readonly events: (ServerSentEvent | null)[]
  readonly end: () => void
  readonly ended: Promise<void>
}
const follow = (server: Server, from: RunningRps, lastEventId?: string) =>
  followStream(world, server, from, lastEventId)
async function followStream(
  world: World,
  server: Server,
  from: RunningRps,
  lastEventId?: string,
): Promise<Reader> {
  const url = `${from.url}/v1/events`
  const connection = new AbortController()
  const authorization = await world.authorize(server, from.url, {
    method: 'GET',
    url,
    body: new Uint8Array(),
  })
  const response = await fetch(url, {
    headers: { authorization, ...(lastEventId === undefined ? {} : { 'last-event-id': lastEventId }) },
    signal: connection.signal,
  })
  if (!response.ok) throw new Error(((await response.json()) as { code: string }).code)
  const events: (ServerSentEvent | null)[] = []
  const ended = (async () => {
    try {
      for await (const event of readEvents(response.body!)) events.push(event)
    } catch (error) {
      if (!connection.signal.aborted) throw error
    }
  })()
  return { events, ended, end: () => connection.abort() }
}
const ids = ({ events }: Reader) => events.map(event => event && `${event.event} ${event.id}`)
const stop = async (...readers: Reader[]) => {
  for (const reader of readers) reader.end()
  await Promise.all(readers.map(({ ended }) => ended))
}

describe('events', () => {
  test('one after the other; the same again changes nothing', async () => {
    const ban = await world.event('ban', car.idCore)
    expect(await push(ban)).toBe(5)
    expect(await codeOf(world.login(rps, car))).toBe('BANNED')
    expect(await push(world.event('unban', car.idCore))).toBe(6)
    expect(await push(ban)).toBe(6)
    await world.login(rps, car)
  })

  test('revoked is for good', async () => {
    await push(world.event('revoke', car.idCore))
    await push(world.event('unban', car.idCore))
    expect(await codeOf(world.login(rps, car))).toBe('REVOKED')
  })

  test('by anybody but the RA: not taken', async () => {
    const key = await generateEs256()
    expect(await codeOf(push(world.event('ban', car.idCore, { key })))).toBe('NOT_APPROVED')
    const state = await world.rpa.state(world)
    expect(await codeOf(push(state))).toBe('NOT_APPROVED')
    expect(await codeOf(push('a.b.c_________________'))).toBe('MALFORMED')
    await world.login(rps, car)
  })

  test('a hole has the state fetched, and what came between is in force', async () => {
    const between = world.makeCar()
    for (const { idCore } of [between, car]) world.rpa.identities.get(idCore.mpinId)!.banned = true
    world.rpa.number = 8
    expect(await push(world.event('ban', car.idCore))).toBe(9)
    expect(world.rpa.asked.state).toBe(2)
    expect(await codeOf(world.login(rps, between))).toBe('BANNED')
    expect(await codeOf(world.login(rps, car))).toBe('BANNED')
  })

  test('a hole while the RPA gives no state: to be sent again', async () => {
    world.rpa.number = 8
    const event = await world.event('ban', car.idCore)
    world.rpa.isDown = true
    expect(await codeOf(push(event))).toBe('RETRY_LATER')
    world.rpa.isDown = false
    expect(await push(event)).toBe(9)
  })

  test('an unlock that a state has skipped still takes effect, once', async () => {
    const driver = world.makeDriver(car)
    const lock = async () => {
      for (let i = 0; i < 3; i++) await codeOf(world.login(rps, car, { driver, wrongPin: true }))
      expect(await codeOf(world.login(rps, car, { driver }))).toBe('LOCKED')
    }
    await lock()
    const unlock = await world.event('unlock', car.idCore, { userCore: driver.userCore, pinGen: 1 })
    const ban = await world.event('ban', world.makeCar().idCore)
    // The ban comes first; the state that it brings is numbered after the unlock.
    expect(await push(ban)).toBe(6)
    expect(await codeOf(world.login(rps, car, { driver }))).toBe('LOCKED')
    expect(await push(unlock)).toBe(6)
    await world.login(rps, car, { driver })
    await lock()
    expect(await push(unlock)).toBe(6)
    expect(await codeOf(world.login(rps, car, { driver }))).toBe('LOCKED')
  })

  test('an unlock of before our first state is history', async () => {
    const driver = world.makeDriver(car)
    const unlock = await world.event('unlock', car.idCore, {
      userCore: driver.userCore,
      pinGen: 1,
      number: 3,
    })
    for (let i = 0; i < 3; i++) await codeOf(world.login(rps, car, { driver, wrongPin: true }))
    expect(await push(unlock)).toBe(4)
    expect(await codeOf(world.login(rps, car, { driver }))).toBe('LOCKED')
  })

  test('an RPA that went back in time is not followed', async () => {
    await push(world.event('ban', car.idCore))
    world.rpa.number = 2
    const replica = await world.startRps({ store })
    expect(await codeOf(world.login(replica, car))).toBe('BANNED')
    expect(world.logged.some(line => line.includes('went back to an older state'))).toBe(true)
    await replica.close()
  })
})

describe('a start', () => {
  test('without any state nobody is let in; as soon as there is one, everybody is', async () => {
    world.rpa.isDown = true
    const fresh = await world.startRps({ store: ':memory:' })
    const permit = world.permitOf(car.idCore)
    expect(await codeOf(world.login(fresh, car, { permit }))).toBe('RETRY_LATER')
    const ready = await fetch(`${fresh.adminUrl}/health/ready`)
    expect([ready.status, await ready.json()]).toMatchObject([
      503,
      { ok: false, checks: { revocation: 'no revocation state from the RPA yet', serverKeys: true } },
    ])
    world.rpa.isDown = false
    world.clock.turn(5_000)
    await until(async () => (await fetch(`${fresh.adminUrl}/health/ready`)).ok)
    await world.login(fresh, car, { permit })
    await fresh.close()
  })

  test('asks for what was banned while it was away', async () => {
    await rps.close()
    world.rpa.identities.get(car.idCore.mpinId)!.banned = true
    world.rpa.number++
    rps = await world.startRps({ store })
    expect(await codeOf(world.login(rps, car, { permit: world.permitOf(car.idCore) }))).toBe('BANNED')
  })

  test('remembers its list when the RPA is away', async () => {
    await world.ban(rps, car)
    await rps.close()
    world.rpa.isDown = true
    rps = await world.startRps({ store })
    const permit = world.permitOf(car.idCore)
    expect(await codeOf(world.login(rps, car, { permit }))).toBe('BANNED')
    const other = world.makeCar()
    await world.login(rps, other, { permit: world.permitOf(other.idCore) })
  })
})

describe('the stream', () => {
  test('the state first, then each event as it comes, signed by the RA', async () => {
    await push(world.event('ban', world.makeCar().idCore))
    const reader = await follow(world.tracking, rps)
    await until(() => reader.events.length === 2)
    await push(world.event('ban', car.idCore))
    await until(() => reader.events.length === 3)
    expect(ids(reader)).toEqual(['state 4', 'event 5', 'event 6'])
    const { group } = world
    expect((await verifyState({ state: reader.events[0]!.data, group })).number).toBe(4)
    expect(await verifyEvent({ event: reader.events[2]!.data, group })).toMatchObject({
      kind: 'ban',
      idCore: car.idCore.mpinId,
    })
    await stop(reader)
  })

  test('a heartbeat every five seconds', async () => {
    const reader = await follow(world.tracking, rps)
    await until(() => reader.events.length === 1)
    world.clock.turn(15_000)
    await until(() => reader.events.length === 4)
    expect(reader.events.slice(1)).toEqual([null, null, null])
    await stop(reader)
  })

  test('Last-Event-ID goes on where it was; with a hole it begins with the state', async () => {
    for (let i = 0; i < 3; i++) await push(world.event('account', car.idCore))
    const resumed = await follow(world.tracking, rps, '5')
    const upToDate = await follow(world.tracking, rps, '7')
    const ahead = await follow(world.tracking, rps, '99')
    const before = await follow(world.tracking, rps, '2')
    const garbled = await follow(world.tracking, rps, '-1; DROP')
    await push(world.event('ban', car.idCore))
    await until(() => resumed.events.length === 3 && upToDate.events.length === 1)
    expect(ids(resumed)).toEqual(['event 6', 'event 7', 'event 8'])
    expect(ids(upToDate)).toEqual(['event 8'])
    for (const reader of [ahead, before, garbled]) {
      await until(() => reader.events.length === 5)
      expect(ids(reader)).toEqual(['state 4', 'event 5', 'event 6', 'event 7', 'event 8'])
    }
    await stop(resumed, upToDate, ahead, before, garbled)
  })

  test('a state that jumps ahead is sent to those who follow', async () => {
    const reader = await follow(world.tracking, rps)
    world.rpa.number = 10
    await push(world.event('ban', car.idCore))
    await until(() => reader.events.length === 2)
    expect(ids(reader)).toEqual(['state 4', 'state 11'])
    await push(world.event('unban', car.idCore))
    await until(() => reader.events.length === 3)
    expect(ids(reader)[2]).toBe('event 12')
    await stop(reader)
  })

  test('what another replica took in comes within a second', async () => {
    const replica = await world.startRps({ store })
    const reader = await follow(world.fleet, replica)
    await until(() => reader.events.length === 1)
    await push(world.event('ban', car.idCore))
    world.clock.turn(1_000)
    await until(() => reader.events.length === 2)
    expect(ids(reader)).toEqual(['state 4', 'event 5'])
    expect(await codeOf(world.login(replica, car))).toBe('BANNED')
    await stop(reader)
    await replica.close()
  })

  test('only for servers that speak for an audience here', async () => {
    const some = await world.startRps({ store, config: { audiences: [] } })
    await expect(follow(world.tracking, some)).rejects.toThrow('FORBIDDEN')
    const stranger = { ...world.tracking, name: 'stranger' }
    await expect(follow(stranger, rps)).rejects.toThrow('UNAUTHENTICATED')
    await some.close()
  })

  test('one service doesn’t take all places', async () => {
    const readers: Reader[] = []
    for (let i = 0; i < 32; i++) readers.push(await follow(world.tracking, rps))
    await expect(follow(world.tracking, rps)).rejects.toThrow('RETRY_LATER')
    readers.push(await follow(world.fleet, rps))
    await stop(...readers)
  })

  test('ends when the server does', async () => {
    const reader = await follow(world.tracking, rps)
    await until(() => reader.events.length === 1)
    await rps.close()
    await reader.ended
  })
})

test('old events are forgotten, and the state fetched anew, when newcomers would be sent too many', async () => {
  const filler = await world.event('account', car.idCore, { number: 5 })
  await rps.store.atomic(connection => {
    for (let number = 5; number < 1_205; number++)
      connection.run('INSERT INTO event (number, event) VALUES (?, ?)', [number, filler])
    connection.run('UPDATE revocation SET number = ?', [1_204])
  })
  world.rpa.number = 1_204
  world.clock.turn(60_000)
  await until(() => world.rpa.asked.state === 2)
  await push(world.event('ban', car.idCore))
  expect(await codeOf(world.login(rps, car))).toBe('BANNED')
})

test('after a change of the RA’s key followers are sent nothing that the old one has signed', async () => {
  const other = await World.make()
  const server = await other.startRps()
  const gone = other.makeCar()
  other.rpa.identities.get(gone.idCore.mpinId)!.banned = true
  for (let i = 0; i < 2; i++) await push(other.event('ban', gone.idCore), server)

  other.raKey = await generateEs256()
  const ra = { m: 1, keys: [{ kid: 'ra1', key: other.raKey.publicKey.toBase64Url() }] }
  const document = await other.nextRevision({ ra })
  other.rpa.asked.state = 0
  await server.client.publishRevision({ body: { document } })
  await other.follow(document)
  await until(() => other.rpa.asked.state === 1)
  await push(other.event('unban', other.makeCar().idCore), server)
  const resumed = await followStream(other, other.tracking, server, '1')
  await until(() => resumed.events.length === 2)
  expect(ids(resumed)).toEqual(['state 2', 'event 3'])
  await verifyState({ state: resumed.events[0]!.data, group: other.group })
  await verifyEvent({ event: resumed.events[1]!.data, group: other.group })
  await stop(resumed)
  await other.close()
})
