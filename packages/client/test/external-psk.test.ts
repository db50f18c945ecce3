/** The key of `agree` that a device gets at its enrolment, and the external PSKs that it speaks TLS by. */

import { systemRandom } from '@milagro-ts/api/system'
import { Device } from '@milagro-ts/client/device'
import { memoryTokenStore, type TokenStore } from '@milagro-ts/client/token-store'
import { callbackUnlocker } from '@milagro-ts/client/unlocker'
import { PskIdentity, serverAgree } from '@milagro-ts/crypto/static-agreement'
import { slotAt, slotStart } from '@milagro-ts/crypto/time-permit'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import { CAR, TRACKING, VIN, World } from './world.js'

const SERVER = 'tracking'

let world: World
let store: TokenStore
beforeAll(async () => {
  world = await World.start({ n: 3, t: 2 })
})
beforeEach(() => {
  store = memoryTokenStore()
  world.devicePurposes = ['device', 'agree']
})
afterEach(() => world.lies.clear())
afterAll(() => world.close())

const enrol = (more: Partial<Parameters<typeof Device.enrol>[0]> = {}) =>
  Device.enrol({
    ...world.ports,
    store,
    code: world.code(),
    attributes: CAR,
    instance: VIN,
    ...more,
  })
const slotNow = () => slotAt(world.group.slotRule, Math.floor(world.now / 1000))
const atServer = (identity: string, slot = slotNow()) =>
  serverAgree(world.slotKey(SERVER, slot), PskIdentity.decode(identity))

test('an enrolled car agrees with a server that has never heard of it', async () => {
  const car = await enrol()
  const { identity, psk, slot, endsAt } = await car.externalPsk(SERVER)
  expect(PskIdentity.decode(identity).idCore.mpinId).toBe(car.mpinId)
  expect(atServer(identity)).toEqual(psk)
  expect([slot, endsAt]).toEqual([slotNow(), slotStart(world.group.slotRule, slotNow() + 1) * 1000])
  // The login goes by the other key, as before.
  await car.login({ audience: TRACKING })
})

test('opened again it has its key; another r, since r is in memory only', async () => {
  const before = await (await enrol()).externalPsk(SERVER)
  const again = await (await Device.open({ ...world.ports, store })).externalPsk(SERVER)
  expect(again.identity).not.toBe(before.identity)
  expect(atServer(again.identity)).toEqual(again.psk)
})

test('one identity for a server and a slot, however many ask; the next slot has another', async () => {
  const car = await enrol()
  const asked = await Promise.all([1, 2, 3].map(() => car.externalPsk(SERVER)))
  expect(new Set(asked.map(({ identity }) => identity)).size).toBe(1)
  world.now += world.group.slotRule.length * 1000
  const next = await car.externalPsk(SERVER)
  expect(next.slot).toBe((asked[0]?.slot ?? 0) + 1)
  expect(next.identity).not.toBe(asked[0]?.identity)
  expect(atServer(next.identity)).toEqual(next.psk)
})

test('for TLS 1.2 it is another key', async () => {
  const car = await enrol()
  const [m1, m2] = [await car.externalPsk(SERVER), await car.externalPsk(SERVER, 'm2')]
  expect(m2.identity).toBe(m1.identity.replace('m1.', 'm2.'))
  expect(m2.psk).not.toEqual(m1.psk)
  expect(atServer(m2.identity)).toEqual(m2.psk)
})

test('with an authority that lies, while the others are enough', async () => {
  world.lies.set(2, 'share')
  const { identity, psk } = await (await enrol()).externalPsk(SERVER)
  expect(atServer(identity)).toEqual(psk)
})

test('under an unlocker the store alone has neither key', async () => {
  const secret = systemRandom(32)
  await enrol({ unlocker: callbackUnlocker(async () => secret) })
  const open = (bytes?: Uint8Array) =>
    Device.open({
      ...world.ports,
      store,
      ...(bytes === undefined ? {} : { unlocker: callbackUnlocker(async () => bytes) }),
    })
  const { identity, psk } = await (await open(secret)).externalPsk(SERVER)
  expect(atServer(identity)).toEqual(psk)
  for (const bytes of [undefined, new Uint8Array(32)])
    await expect((await open(bytes)).externalPsk(SERVER)).rejects.toMatchObject({ code: 'WRONG_UNLOCKER' })
})

test('only servers of the group, by their exact name', async () => {
  const car = await enrol()
  // The RPS is a recipient of other purposes.
  for (const name of ['other.example', 'rps', 'Tracking', 'tracking.', `${SERVER}:443`, ''])
    await expect(car.externalPsk(name)).rejects.toMatchObject({ code: 'UNKNOWN_SERVER' })
})

test('a device whose ticket was for no such key enrols and logs in as ever', async () => {
  world.devicePurposes = ['device']
  const car = await enrol()
  await car.login({ audience: TRACKING })
  await expect(car.externalPsk(SERVER)).rejects.toMatchObject({ code: 'NO_AGREE_KEY' })
})
