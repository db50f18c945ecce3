/** What a removed service still hears, and what a ban that comes in the middle still lets through. */
import { readEvents, type ServerSentEvent } from '@milagro-ts/api/sse'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { asFields, type Car, codeOf, NOON, OWN, type RunningRps, SLOT, until, World } from './world.js'

let world: World
let rps: RunningRps
let car: Car
beforeAll(async () => {
  // No permits ahead: each is composed when it is asked for, with the ban in the middle.
  world = await World.make({ policy: { lead: 0, grace: 300 } })
  rps = await world.startRps()
})
afterAll(() => world.close())
beforeEach(() => {
  world.clock.now = NOON
  car = world.makeCar()
})

async function banNow(): Promise<void> {
  const event = await world.event('ban', car.idCore)
  await rps.client.pushEvent({ body: { event } })
}

test('a ban that comes while a permit alone is composed: no permit', async () => {
  const login = asFields(await world.message(rps, car, { audience: OWN }))
  let ban: Promise<void> | undefined
  for (const authority of world.authorities) authority.beforePermit = () => (ban ??= banNow())
  expect(await codeOf(rps.client.permit({ body: { login } }))).toBe('BANNED')
  for (const authority of world.authorities) authority.beforePermit = undefined
})

test('a ban that comes while a login in the grace is given the permit of the present slot: no token', async () => {
  await world.login(rps, car)
  const login = asFields(await world.message(rps, car))
  const { nonce } = await rps.client.nonce({ body: {} })
  world.clock.now += 1_800_000
  const { nonce: later } = await rps.client.nonce({ body: {} })
  expect(later).not.toBe(nonce)
  const inGrace = asFields(await world.message(rps, car, { slot: login.slot }))
  let ban: Promise<void> | undefined
  for (const authority of world.authorities) authority.beforePermit = () => (ban ??= banNow())
  expect(await codeOf(rps.client.login({ body: { login: inGrace } }))).toBe('BANNED')
  for (const authority of world.authorities) authority.beforePermit = undefined
  expect(ban).toBeDefined()
  expect(SLOT.length).toBe(3_600)
})

test('a service that a revision has removed, or given another key, hears no further event', async () => {
  const url = `${rps.url}/v1/events`
  const connection = new AbortController()
  const request = { method: 'GET', url, body: new Uint8Array() }
  const authorization = await world.authorize(world.tracking, rps.url, request)
  const response = await fetch(url, { headers: { authorization }, signal: connection.signal })
  const heard: ServerSentEvent[] = []
  let hasEnded = false
  const ended = (async () => {
    try {
      // A heartbeat says nothing.
      for await (const event of readEvents(response.body!)) if (event !== null) heard.push(event)
    } catch (error) {
      if (!connection.signal.aborted) throw error
    }
    hasEnded = true
  })()
  await until(() => heard.length > 0)
  const before = heard.length
  const recipients = world.group.document.recipients.filter(({ name }) => name !== 'tracking')
  const document = await world.nextRevision({ recipients })
  await rps.client.publishRevision({ body: { document } })
  await world.follow(document)
  await banNow()
  world.clock.turn(5_000)
  await until(() => hasEnded || heard.length > before)
  expect(hasEnded).toBe(true)
  expect(heard.length).toBe(before)
  connection.abort()
  await ended
})
