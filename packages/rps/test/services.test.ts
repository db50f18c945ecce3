/** What services ask: authOTTs, attributes; and what anybody may: keys, time, the group. */

import { Group } from '@milagro-ts/api/group'
import { verifyAccessToken, verifyTime } from '@milagro-ts/api/statements'
import { equalBytes, fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import {
  type Car,
  codeOf,
  FLEET,
  NOON,
  OWN,
  type RunningRps,
  TRACKING,
  tokenKeys,
  until,
  World,
} from './world.js'

let world: World
let rps: RunningRps
let car: Car
beforeAll(async () => {
  world = await World.make()
  rps = await world.startRps()
})
afterAll(() => world.close())
beforeEach(() => {
  world.clock.now = NOON
  car = world.makeCar()
})

describe('authOTT', () => {
  const redeem = (authOtt: string, by = world.tracking) => rps.as(by).redeemOtt({ body: { authOtt } })
  const issue = async () => (await world.login(rps, car, { authOtt: true })).authOtt!

  test('is redeemed once, by the service it is for', async () => {
    const authOtt = await issue()
    // Another service learns nothing and spoils nothing.
    expect(await codeOf(redeem(authOtt, world.fleet))).toBe('REPLAYED')
    expect(await redeem(authOtt)).toEqual({
      idCore: car.idCore.mpinId,
      amr: ['device'],
      slot: world.slot,
      audience: TRACKING,
    })
    expect(await codeOf(redeem(authOtt))).toBe('REPLAYED')
  })

  test('holds for 60 seconds', async () => {
    const [inTime, late] = [await issue(), await issue()]
    world.clock.turn(60_000)
    await redeem(inTime)
    world.clock.turn(1)
    expect(await codeOf(redeem(late))).toBe('EXPIRED')
  })

  test('of somebody who was banned meanwhile', async () => {
    const authOtt = await issue()
    await world.ban(rps, car)
    expect(await codeOf(redeem(authOtt))).toBe('BANNED')
  })

  test('not where no service could redeem it, and none without being asked for', async () => {
    const alone = world.login(rps, car, { authOtt: true, audience: 'devices-only' })
    expect(await codeOf(alone)).toBe('MALFORMED')
    expect(await world.login(rps, car)).not.toHaveProperty('authOtt')
  })

  test('not for strangers, nor twice with one request', async () => {
    const authOtt = await issue()
    expect(await codeOf(rps.client.redeemOtt({ body: { authOtt } }))).toBe('UNAUTHENTICATED')
    const stranger = { ...world.fleet, name: 'tracking' }
    expect(await codeOf(redeem(authOtt, stranger))).toBe('UNAUTHENTICATED')
    const url = `${rps.url}/v1/otts/redeem`
    const body = new TextEncoder().encode(JSON.stringify({ authOtt }))
    const authorization = await world.authorize(world.tracking, rps.url, { method: 'POST', url, body })
    const headers = { authorization, 'content-type': 'application/json' }
    expect((await fetch(url, { method: 'POST', headers, body })).status).toBe(200)
    expect(await (await fetch(url, { method: 'POST', headers, body })).json()).toMatchObject({
      code: 'REPLAYED',
    })
  })
})

describe('attributes', () => {
  const lookUp = (who = car, userCore?: Uint8Array, slot?: number) =>
    rps.as(world.tracking).identity({
      params: { idCore: who.idCore.mpinId },
      query: {
        ...(userCore === undefined ? {} : { userCore: toBase64Url(userCore) }),
        ...(slot === undefined ? {} : { slot: String(slot) }),
      },
    })

  test('of a car, and of its driver; the RPA is asked once a slot', async () => {
    const driver = world.makeDriver(car)
    const { attributes, instance } = world.rpa.identities.get(car.idCore.mpinId)!
    const before = world.rpa.asked.permit
    expect(await lookUp()).toEqual({ attributes, instance })
    expect(await lookUp()).toEqual({ attributes, instance })
    expect(await lookUp(car, driver.userCore)).toEqual({ attributes, instance, user: driver.attributes })
    expect(await lookUp(car, driver.userCore)).toEqual({ attributes, instance, user: driver.attributes })
    expect(world.rpa.asked.permit - before).toBe(2)
    world.clock.turn(3_600_000)
    await lookUp()
    expect(world.rpa.asked.permit - before).toBe(3)
  })

  test('not of the unknown, the banned and the revoked', async () => {
    expect(await codeOf(lookUp(world.makeCar({ isRegistered: false })))).toBe('NOT_FOUND')
    expect(await codeOf(lookUp(car, new Uint8Array(32)))).toBe('NOT_FOUND')
    await lookUp()
    await world.ban(rps, car)
    expect(await codeOf(lookUp())).toBe('BANNED')
    const gone = world.makeCar()
    await rps.client.pushEvent({ body: { event: await world.event('revoke', gone.idCore) } })
    expect(await codeOf(lookUp(gone))).toBe('REVOKED')
  })

  test('with a slot: its permit of it, made if it isn’t held, by one question to the RPA', async () => {
    const { attributes, instance } = world.rpa.identities.get(car.idCore.mpinId)!
    const before = world.rpa.asked.permit
    const permit = toBase64Url(world.permitOf(car.idCore).encode())
    expect(await lookUp(car, undefined, world.slot)).toEqual({ attributes, instance, permit })
    expect(await lookUp(car, undefined, world.slot)).toEqual({ attributes, instance, permit })
    expect(world.rpa.asked.permit - before).toBe(1)
  })

  test('with a slot: only by the rule of a login’s slot', async () => {
    const at = (slot: number) => codeOf(lookUp(car, undefined, slot))
    expect(await at(world.slot + 1)).toBe('EXPIRED')
    expect(await at(world.slot - 1)).toBe('EXPIRED')
    expect(await at(0xffff_ffff)).toBe('EXPIRED')
    const known = await lookUp(car, undefined, world.slot)
    world.clock.turn(1_800_000)
    expect((await lookUp(car, undefined, world.slot - 1)).permit).toBe(known.permit)
    const other = world.makeCar()
    expect(await codeOf(lookUp(other, undefined, world.slot - 1))).toBe('PERMIT_EXPIRED')
    world.clock.turn(300_000)
    expect(await at(world.slot - 1)).toBe('EXPIRED')
  })

  test('with a slot: none of the unknown, of the banned, and of whom the RA withholds it', async () => {
    const nobody = world.makeCar({ isRegistered: false })
    expect(await codeOf(lookUp(nobody, undefined, world.slot))).toBe('NOT_FOUND')
    world.rpa.identities.get(car.idCore.mpinId)!.banned = true
    expect(await codeOf(lookUp(car, undefined, world.slot))).toBe('BANNED')
    const held = world.makeCar()
    await lookUp(held, undefined, world.slot)
    await world.ban(rps, held)
    expect(await codeOf(lookUp(held, undefined, world.slot))).toBe('BANNED')
  })

  test('with a slot: RETRY_LATER while neither RPA nor store can say', async () => {
    world.rpa.isDown = true
    expect(await codeOf(lookUp(car, undefined, world.slot))).toBe('RETRY_LATER')
    world.rpa.isDown = false
    expect((await lookUp(car, undefined, world.slot)).permit).toBeDefined()
  })

  test('only for servers that speak for an audience here', async () => {
    const params = { idCore: car.idCore.mpinId }
    expect(await codeOf(rps.client.identity({ params, query: {} }))).toBe('UNAUTHENTICATED')
    const config = { audiences: [{ name: FLEET, pin: 'required' as const, tlsExporter: 'absent' as const }] }
    const some = await world.startRps({ config })
    expect(await codeOf(some.as(world.tracking).identity({ params, query: {} }))).toBe('FORBIDDEN')
    expect(
      await codeOf(some.as(world.tracking).redeemOtt({ body: { authOtt: toBase64Url(new Uint8Array(32)) } })),
    ).toBe('FORBIDDEN')
    const message = toBase64Url(world.prove(car).encode())
    expect(await codeOf(some.as(world.tracking).verifyOnePass({ body: { message } }))).toBe('FORBIDDEN')
    await some.close()
  })
})

describe('tokens', () => {
  test('for one audience, and not for another; whoami takes its own only', async () => {
    const { accessToken } = await world.login(rps, car)
    const keys = await tokenKeys(rps)
    const token = { token: accessToken, keys, issuer: OWN, now: world.clock.now }
    expect((await verifyAccessToken({ ...token, audience: TRACKING })).amr).toEqual(['device'])
    expect(await codeOf(verifyAccessToken({ ...token, audience: FLEET }))).toBe('UNAUTHENTICATED')
    expect(await codeOf(rps.client.whoami({ authorization: `Bearer ${accessToken}` }))).toBe(
      'UNAUTHENTICATED',
    )
  })

  test('are refused by whoami from the moment of a ban', async () => {
    const driver = world.makeDriver(car)
    const { accessToken } = await world.login(rps, car, { audience: OWN, driver })
    const authorization = `Bearer ${accessToken}`
    expect(await rps.client.whoami({ authorization })).toMatchObject({
      userCore: toBase64Url(driver.userCore),
    })
    const event = await world.event('ban', car.idCore, { userCore: driver.userCore })
    await rps.client.pushEvent({ body: { event } })
    expect(await codeOf(rps.client.whoami({ authorization }))).toBe('BANNED')
  })

  test('hold for five minutes at most', async () => {
    const { accessToken, expiresIn } = await world.login(rps, car, { audience: OWN })
    expect(expiresIn).toBe(300)
    world.clock.turn(299_000)
    await rps.client.whoami({ authorization: `Bearer ${accessToken}` })
    world.clock.turn(1_000)
    expect(await codeOf(rps.client.whoami({ authorization: `Bearer ${accessToken}` }))).toBe(
      'UNAUTHENTICATED',
    )
  })
})

test('the time, signed over the caller’s nonce', async () => {
  const nonce = crypto.getRandomValues(new Uint8Array(32))
  const { time } = await rps.client.time({ query: { nonce: toBase64Url(nonce) } })
  const keys = await tokenKeys(rps)
  expect(await verifyTime({ time, keys, nonce })).toBe(world.seconds)
  expect(await codeOf(verifyTime({ time, keys, nonce: new Uint8Array(32) }))).toBe('NOT_APPROVED')
})

describe('the group document', () => {
  test('is served for anybody to check; a next revision is taken in by every replica, once proven', async () => {
    const replica = await world.startRps()
    const document = await rps.client.group({ query: {} })
    const pinned = fromBase64Url(world.groupId, 'groupId', 32)
    expect((await Group.verifyChain([document], pinned)).revision).toBe(1)
    expect(await codeOf(rps.client.group({ query: { revision: '2' } }))).toBe('NOT_FOUND')

    const next = await world.nextRevision({ policy: { lead: 2, grace: 300 } })
    const unsigned = await world.nextRevision({ policy: { lead: 2, grace: 300 } }, 1)
    expect(await codeOf(rps.client.publishRevision({ body: { document: unsigned } }))).toBe('NOT_APPROVED')
    const skipped = { ...next, revision: 3 }
    expect(await codeOf(rps.client.publishRevision({ body: { document: skipped } }))).toBe('CONFLICT')
    expect(await rps.client.publishRevision({ body: { document: next } })).toEqual({ revision: 2 })
    expect(await rps.client.publishRevision({ body: { document: next } })).toEqual({ revision: 2 })
    expect(await codeOf(rps.client.publishRevision({ body: { document } }))).toBe('CONFLICT')
    const chain = await Promise.all(['1', '2'].map(revision => replica.client.group({ query: { revision } })))
    expect((await Group.verifyChain(chain, pinned)).policy.lead).toBe(2)
    expect(await replica.client.group({ query: {} })).toEqual(next)
    await replica.close()
  })

  test('another group’s is refused', async () => {
    const other = await World.make()
    const document = await other.nextRevision({})
    const { revision } = await rps.client.group({ query: {} })
    expect(
      await codeOf(
        rps.client.publishRevision({ body: { document: { ...document, revision: revision + 1 } } }),
      ),
    ).toBe('NOT_APPROVED')
    await other.close()
  })

  test('a removed recipient is nobody from then on; new RA keys have the state fetched anew', async () => {
    const world = await World.make()
    const rps = await world.startRps()
    const car = world.makeCar()
    const recipients = world.group.document.recipients.filter(({ name }) => name !== 'tracking')
    const document = await world.nextRevision({ recipients })
    const asked = world.rpa.asked.state
    await rps.client.publishRevision({ body: { document } })
    await world.follow(document)
    await until(() => world.rpa.asked.state === asked + 1)
    const lookUp = rps.as(world.tracking).identity({ params: { idCore: car.idCore.mpinId }, query: {} })
    expect(await codeOf(lookUp)).toBe('UNAUTHENTICATED')
    expect(equalBytes(world.group.groupId, fromBase64Url(rps.config.groupId, 'groupId'))).toBe(true)
    await world.close()
  })
})
