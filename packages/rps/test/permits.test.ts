/** Time permits: composed, carried, kept; what happens when the RPA or an authority is away, lies or refuses. */
import { verifyAccessToken } from '@milagro-ts/api/statements'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { authorizationHeader } from '@milagro-ts/crypto/mpin'
import { Permit } from '@milagro-ts/crypto/time-permit'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import {
  asFields,
  type Car,
  codeOf,
  NOON,
  NOON_SLOT,
  OWN,
  type RunningRps,
  TRACKING,
  tokenKeys,
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
  world.unreachable.clear()
  world.rpa.isDown = false
  for (const authority of world.authorities) authority.behaviour = 'honest'
  car = world.makeCar()
})

const askForPermit = async (who = car, server = rps) =>
  server.client.permit({ body: { login: asFields(await world.message(server, who, { audience: OWN })) } })

describe('carried', () => {
  test('a good one is taken and kept: the RPA isn’t asked', async () => {
    const before = world.rpa.asked.permit
    await world.login(rps, car, { permit: world.permitOf(car.idCore) })
    await world.login(rps, car)
    expect(world.rpa.asked.permit).toBe(before)
  })

  test.each<[string, (who: Car) => Permit, string]>([
    ['garbage', who => Permit.of(NOON_SLOT, { type: 'id', idCore: who.idCore }, who.D_dev), 'WRONG_PERMIT'],
    ['another car’s', () => world.permitOf(world.makeCar().idCore), 'WRONG_PERMIT'],
    [
      'another car’s point under its own name',
      who =>
        Permit.of(
          NOON_SLOT,
          { type: 'id', idCore: who.idCore },
          world.permitOf(world.makeCar().idCore).point,
        ),
      'WRONG_PERMIT',
    ],
    [
      'last slot’s point under this slot',
      who =>
        Permit.of(
          NOON_SLOT,
          { type: 'id', idCore: who.idCore },
          world.permitOf(who.idCore, NOON_SLOT - 1).point,
        ),
      'WRONG_PERMIT',
    ],
    ['one of the slot to come', who => world.permitOf(who.idCore, NOON_SLOT + 1), 'WRONG_PERMIT'],
    ['one of the former slot', who => world.permitOf(who.idCore, NOON_SLOT - 1), 'PERMIT_EXPIRED'],
  ])('%s is refused, even where a good one is held', async (_, make, code) => {
    expect(await codeOf(world.login(rps, car, { permit: make(car) }))).toBe(code)
    await world.login(rps, car)
    expect(await codeOf(world.login(rps, car, { permit: make(car) }))).toBe(code)
  })

  test('the former slot’s permit goes with a login for the former slot, within the grace', async () => {
    world.clock.now = (world.group.slotRule.origin + (NOON_SLOT + 1) * 3600 + 10) * 1000
    const permit = world.permitOf(car.idCore, NOON_SLOT)
    expect(await codeOf(world.login(rps, car, { permit }))).toBe('PERMIT_EXPIRED')
    const login = await world.login(rps, car, { permit, slot: NOON_SLOT })
    expect(login.permit).toBe(toBase64Url(permit.encode()))
    // The token rests on the present slot's permit.
    const token = { token: login.accessToken, keys: await tokenKeys(rps), issuer: OWN, audience: TRACKING }
    expect((await verifyAccessToken({ ...token, now: world.clock.now })).slot).toBe(NOON_SLOT + 1)
    expect(login.expiresIn).toBe(300)
  })

  test('a login for the former slot without a permit of it, and asking for one', async () => {
    world.clock.now = (world.group.slotRule.origin + (NOON_SLOT + 1) * 3600 + 10) * 1000
    const login = asFields(await world.message(rps, car, { audience: OWN, slot: NOON_SLOT }))
    expect(await codeOf(rps.client.permit({ body: { login } }))).toBe('PERMIT_EXPIRED')
    expect(await codeOf(world.login(rps, car, { slot: NOON_SLOT }))).toBe('PERMIT_EXPIRED')
  })
})

describe('composed', () => {
  test('once for an identity and slot, however many ask at once; anew for the next slot', async () => {
    const before = { rpa: world.rpa.asked.permit, ta: world.authorities[0]!.asked.permits }
    const messages = []
    for (let i = 0; i < 4; i++) messages.push(await world.message(rps, car))
    await Promise.all(messages.map(login => rps.client.login({ body: { login: asFields(login) } })))
    expect(world.rpa.asked.permit - before.rpa).toBe(1)
    expect(world.authorities[0]!.asked.permits - before.ta).toBe(1)
    world.clock.turn(3_600_000)
    await world.login(rps, car)
    expect(world.rpa.asked.permit - before.rpa).toBe(2)
  })

  test('a replica and a restarted server hold what one has composed', async () => {
    await world.login(rps, car)
    const before = world.rpa.asked.permit
    const replica = await world.startRps()
    await world.login(replica, car)
    expect(world.rpa.asked.permit).toBe(before)
    await replica.close()
  })

  test('for the one who proves the device, whatever else it logs in with', async () => {
    const personal = world.makeCar({ factors: 1 })
    expect((await askForPermit(personal)).slot).toBe(NOON_SLOT)
    const login = asFields(
      await world.message(rps, personal, { audience: OWN, driver: world.makeOwnPin(personal) }),
    )
    expect(await codeOf(rps.client.permit({ body: { login } }))).toBe('MALFORMED')
  })

  test('not for a service’s audience', async () => {
    const login = asFields(await world.message(rps, car))
    expect(await codeOf(rps.client.permit({ body: { login } }))).toBe('MALFORMED')
  })

  test('not for the banned and the revoked, whom the RPA names even when no event has come', async () => {
    world.rpa.identities.get(car.idCore.mpinId)!.banned = true
    expect(await codeOf(askForPermit())).toBe('BANNED')
    const gone = world.makeCar()
    world.rpa.identities.get(gone.idCore.mpinId)!.revoked = true
    expect(await codeOf(askForPermit(gone))).toBe('REVOKED')
  })

  test('one authority that lies is named in the log, and the permit is made without it', async () => {
    world.authorities[0]!.behaviour = 'lying'
    const isNamed = () =>
      world.logged.some(line => line.includes('"authority":"ta1"') && line.includes('wrong-share'))
    // Two good answers are enough, so whether the liar's is looked at depends on which comes last.
    for (let i = 0; i < 20 && !isNamed(); i++) await askForPermit(world.makeCar())
    expect(isNamed()).toBe(true)
  })

  test('one authority that is down is done without', async () => {
    world.unreachable.add(world.authorities[2]!.url)
    await askForPermit()
  })

  test('two that are down: later, and then it works by itself', async () => {
    world.unreachable.add(world.authorities[1]!.url).add(world.authorities[2]!.url)
    expect(await codeOf(askForPermit())).toBe('RETRY_LATER')
    world.unreachable.clear()
    await askForPermit()
  })

  test('two that lie: refused, naming them', async () => {
    world.authorities[0]!.behaviour = 'lying'
    world.authorities[1]!.behaviour = 'lying'
    await expect(askForPermit()).rejects.toMatchObject({
      code: 'WRONG_SHARE',
      detail: 'wrong share from ta1, ta2',
    })
    await expect(world.login(rps, car)).rejects.toMatchObject({ code: 'WRONG_SHARE' })
  })

  test('two that are frozen', async () => {
    world.authorities[0]!.behaviour = 'frozen'
    world.authorities[1]!.behaviour = 'frozen'
    expect(await codeOf(askForPermit())).toBe('FROZEN')
  })
})

describe('while the RPA is away', () => {
  test('a kept permit goes on to the end of its slot, and no further', async () => {
    const driver = world.makeDriver(car)
    await world.login(rps, car, { driver })
    world.rpa.isDown = true
    await world.login(rps, car, { driver })
    expect((await askForPermit()).slot).toBe(NOON_SLOT)
    expect(await codeOf(world.login(rps, world.makeCar()))).toBe('RETRY_LATER')
    world.clock.turn(3_600_000)
    expect(await codeOf(world.login(rps, car))).toBe('RETRY_LATER')
    world.rpa.isDown = false
    await world.login(rps, car)
  })

  test('a carried permit is as good', async () => {
    world.rpa.isDown = true
    await world.login(rps, car, { permit: world.permitOf(car.idCore) })
  })

  test('unreachable is as down', async () => {
    world.unreachable.add(world.rpa.url)
    expect(await codeOf(askForPermit())).toBe('RETRY_LATER')
  })

  test('a driver whose account was never heard of has to wait', async () => {
    const driver = world.makeDriver(car)
    await world.login(rps, car)
    world.rpa.isDown = true
    expect(await codeOf(world.login(rps, car, { driver }))).toBe('RETRY_LATER')
  })
})

test('what a token or an answer says about its permit ends with the slot', async () => {
  world.clock.now = (world.group.slotRule.origin + (NOON_SLOT + 1) * 3600 - 100) * 1000
  const { expiresIn, accessToken } = await world.login(rps, car, { audience: OWN })
  expect(expiresIn).toBe(100)
  const authorization = `Bearer ${accessToken}`
  expect(await rps.client.whoami({ authorization })).toMatchObject({
    idCore: car.idCore.mpinId,
    slot: NOON_SLOT,
  })
  world.clock.turn(99_000)
  await rps.client.whoami({ authorization })
  world.clock.turn(1_000)
  expect(await codeOf(rps.client.whoami({ authorization }))).toBe('UNAUTHENTICATED')
})

test('with a grace of 0 the former slot is over when it is over', async () => {
  const strict = await World.make({ policy: { lead: 0, grace: 0 }, t: 3 })
  const server = await strict.startRps()
  const own = strict.makeCar()
  await strict.login(server, own)
  strict.clock.now = (strict.group.slotRule.origin + (NOON_SLOT + 1) * 3600) * 1000
  expect(await codeOf(strict.login(server, own, { slot: NOON_SLOT }))).toBe('EXPIRED')
  await strict.login(server, own)

  // All three are needed here: one that lies, or is down, is enough to stop.
  strict.clock.turn(3_600_000)
  strict.authorities[1]!.behaviour = 'lying'
  await expect(strict.login(server, own)).rejects.toMatchObject({
    code: 'WRONG_SHARE',
    detail: 'wrong share from ta2',
  })
  strict.authorities[1]!.behaviour = 'honest'
  strict.unreachable.add(strict.authorities[1]!.url)
  await expect(strict.login(server, own)).rejects.toMatchObject({ code: 'RETRY_LATER' })
  await strict.close()
})

test('a one-pass message with a bad permit is not let in either', async () => {
  // Later than any test before: after a clock that went back one pass waits.
  world.clock.now = NOON + 86_400_000
  const permit = world.permitOf(world.makeCar().idCore)
  const message = world.prove(car, { audience: OWN, permit })
  expect(await codeOf(rps.client.whoami({ authorization: authorizationHeader(message) }))).toBe(
    'WRONG_PERMIT',
  )
  const toTracking = toBase64Url(world.prove(car, { permit }).encode())
  const asked = rps.as(world.tracking).verifyOnePass({ body: { message: toTracking } })
  expect(await codeOf(asked)).toBe('WRONG_PERMIT')
})
