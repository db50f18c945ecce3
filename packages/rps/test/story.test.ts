/** The story through the RPS: a car asks for its permit, logs in, a driver logs in, a position is signed, a ban. */
import { verifyAccessToken, verifyReceipt } from '@milagro-ts/api/statements'
import { fromBase64Url, toBase64Url, utf8 } from '@milagro-ts/crypto/bytes'
import { authorizationHeader, MODE } from '@milagro-ts/crypto/mpin'
import type { G2 } from '@milagro-ts/crypto/points'
import { Permit, VerifiedPermit } from '@milagro-ts/crypto/time-permit'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { asFields, codeOf, OWN, type RunningRps, TRACKING, tokenKeys, World } from './world.js'

let world: World
let rps: RunningRps
beforeAll(async () => {
  world = await World.make()
  rps = await world.startRps()
})
afterAll(() => world.close())

test('a car and its driver log in, sign, are banned and let in again', async () => {
  const { client } = rps
  const car = world.makeCar()
  const driver = world.makeDriver(car)

  // The permit, against a device proof; composed by two of three authorities once the RPA said "not banned".
  const login = asFields(await world.message(rps, car, { audience: OWN }))
  const { permit, slot, endsAt } = await client.permit({ body: { login } })
  expect([slot, endsAt]).toEqual([world.slot, world.group.slotRule.origin + (slot + 1) * 3600])
  const terms = { groupId: world.group.groupId, permitEpoch: 1, rule: world.group.slotRule }
  const carried = Permit.decode(fromBase64Url(permit, 'permit'))
  const verified = VerifiedPermit.verify(terms, world.group.keys('permit').pub as G2, carried)
  expect(verified?.covers(car.idCore)).toBe(true)

  // The car alone, for the tracking server.
  const alone = await world.login(rps, car, { permit: carried })
  expect(alone).toMatchObject({
    expiresIn: 300,
    permit,
    authenticated: { idCore: car.idCore.mpinId, amr: ['device'], slot, audience: TRACKING },
  })
  const keys = await tokenKeys(rps)
  const token = await verifyAccessToken({
    token: alone.accessToken,
    keys,
    issuer: OWN,
    audience: TRACKING,
    now: world.clock.now,
  })
  expect(token.idCore.equals(car.idCore)).toBe(true)

  // With its driver's PIN.
  const withPin = await world.login(rps, car, { driver })
  expect(withPin.authenticated).toMatchObject({
    amr: ['device', 'pin'],
    userCore: toBase64Url(driver.userCore),
  })
  await world.toldUntil(told => told.length === 2)
  expect(world.rpa.told.map(({ event, pinGen }) => [event, pinGen])).toEqual([
    ['login', undefined],
    ['login', 1],
  ])

  // A head of positions, signed.
  const payload = utf8('48.1374, 11.5755')
  const message = asFields(await world.message(rps, car, { mode: MODE.sign, payload }))
  const { receipt } = await client.sign({ body: { message, payload: toBase64Url(payload) } })
  expect(await verifyReceipt({ receipt, keys, issuer: OWN })).toMatchObject({
    aud: TRACKING,
    sub: car.idCore.mpinId,
    payloadHash: message.payloadHash,
  })

  // One pass, once the replay record is old enough to speak.
  world.clock.turn(121_000)
  const authorization = authorizationHeader(world.prove(car, { audience: OWN }))
  expect(await client.whoami({ authorization })).toMatchObject({ idCore: car.idCore.mpinId, amr: ['device'] })
  const toTracking = toBase64Url(world.prove(car).encode())
  const seen = await rps.as(world.tracking).verifyOnePass({ body: { message: toTracking } })
  expect(seen).toMatchObject({ idCore: car.idCore.mpinId, audience: TRACKING })

  // Banned, and let in again.
  await world.ban(rps, car)
  expect(await codeOf(world.login(rps, car))).toBe('BANNED')
  expect(await codeOf(world.login(rps, car, { driver }))).toBe('BANNED')
  await world.unban(rps, car)
  await world.login(rps, car, { driver })
})
