import { verifyState } from '@milagro-ts/api/statements'
import { IdCore } from '@milagro-ts/crypto/identity'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { bytes, refusal, World } from './fleet-world.js'

let world: World
beforeAll(async () => {
  world = await World.start()
})
afterAll(() => world.stop())

let vins = 0
const vin = () => `VIN-${++vins}`
const state = async () => verifyState({ state: (await world.asRps().state({})).state, group: world.group })
const lastEvent = async () => (await state()).number
const permit = (idCore: string, userCore?: string) => refusal(world.permit(idCore, userCore))

describe('a driver’s ban', () => {
  test('counts on every vehicle and on no other driver', async () => {
    const [one, two] = [await world.car(vin()), await world.car(vin())]
    const erin = { driverName: 'Erin' }
    const [onOne, onTwo] = [await world.driverOn(one, erin), await world.driverOn(two, erin)]
    const frank = await world.driverOn(one, { driverName: 'Frank' })
    const before = await lastEvent()
    const { id } = await world.api.ban({ body: { driver: onOne.id, reason: 'x' } })
    expect(await permit(one.device.idCore, onOne.user.userCore)).toBe('BANNED userCore')
    expect(await permit(two.device.idCore, onTwo.user.userCore)).toBe('BANNED userCore')
    expect(await permit(one.device.idCore, frank.user.userCore)).toBe('no refusal')
    expect(await permit(one.device.idCore)).toBe('no refusal')
    await world.rps.until(before + 2)
    expect(world.rps.events.slice(-2)).toMatchObject([
      { number: before + 1, kind: 'ban', idCore: one.device.idCore, userCore: onOne.user.userCore },
      { number: before + 2, kind: 'ban', idCore: two.device.idCore, userCore: onTwo.user.userCore },
    ])
    const now = await state()
    expect(now.isBanned(IdCore.fromBase64Url(two.device.idCore), bytes(onTwo.user.userCore!))).toBe(true)
    expect(now.isBanned(IdCore.fromBase64Url(two.device.idCore))).toBe(false)
    await world.api.unban({ params: { id: String(id) } })
    expect(await permit(two.device.idCore, onTwo.user.userCore)).toBe('no refusal')
    expect(await lastEvent()).toBe(before + 4)
  })
})

describe('a ban', () => {
  test('ends by itself when its time has come, and the RPS hears of it', async () => {
    const { id, device } = await world.car(vin())
    const expiresAt = world.seconds + 3 * 3600
    await world.api.ban({ body: { vehicle: id, reason: 'workshop', expiresAt } })
    const before = await lastEvent()
    world.time.advance(3 * 3_600_000 - 1000)
    expect(await permit(device.idCore)).toBe('BANNED idCore')
    world.time.advance(1000)
    await world.rps.until(before + 1)
    expect(world.rps.events.at(-1)).toMatchObject({
      number: before + 1,
      kind: 'unban',
      idCore: device.idCore,
    })
    expect(await permit(device.idCore)).toBe('no refusal')
    const { entries } = await world.api.audit({ query: {} })
    expect(entries.find(({ action }) => action === 'unban')).toMatchObject({
      actor: 'clock',
      subject: `device ${id}`,
    })
  })

  test('that has run out is lifted by whoever asks before the timer', async () => {
    const { id, device } = await world.car(vin())
    await world.api.ban({ body: { vehicle: id, reason: 'x', expiresAt: world.seconds + 60 } })
    const before = await lastEvent()
    world.time.now += 60_000
    expect(await permit(device.idCore)).toBe('no refusal')
    expect(await lastEvent()).toBe(before + 1)
  })

  test('in force gets a new reason and expiry without a second event', async () => {
    const { id, device } = await world.car(vin())
    const first = await world.api.ban({ body: { vehicle: id, reason: 'x', expiresAt: world.seconds + 60 } })
    const before = await lastEvent()
    const second = await world.api.ban({ body: { vehicle: id, reason: 'y' } })
    expect(second).toMatchObject({
      id: first.id,
      since: first.since,
      reason: 'y',
      vehicle: id,
      madeBy: 'operator:admin',
    })
    world.time.advance(120_000)
    expect(await permit(device.idCore)).toBe('BANNED idCore')
    expect(await lastEvent()).toBe(before)
    const { bans } = await world.api.listBans({})
    expect(bans.filter(ban => ban.vehicle === id)).toEqual([second])
    expect((await world.api.vehicle({ params: { id: String(id) } })).ban).toMatchObject({
      id: first.id,
      reason: 'y',
    })
  })

  test('of nobody, or into the past, is refused', async () => {
    const { id } = await world.car(vin())
    expect(await refusal(world.api.ban({ body: { vehicle: 9999, reason: 'x' } }))).toBe('NOT_FOUND')
    expect(await refusal(world.api.ban({ body: { driver: 9999, reason: 'x' } }))).toBe('NOT_FOUND driver')
    expect(await refusal(world.api.ban({ body: { operator: id, reason: 'x' } }))).toBe('NOT_FOUND')
    const past = { vehicle: id, reason: 'x', expiresAt: world.seconds }
    expect(await refusal(world.api.ban({ body: past }))).toBe('MALFORMED expiresAt')
    expect(await refusal(world.api.unban({ params: { id: '9999' } }))).toBe('NOT_FOUND')
  })

  test('lifted twice is lifted once', async () => {
    const { id } = await world.car(vin())
    const { id: ban } = await world.api.ban({ body: { vehicle: id, reason: 'x' } })
    const before = await lastEvent()
    const lift = () => refusal(world.api.unban({ params: { id: String(ban) } }))
    const outcomes = await Promise.all([lift(), lift(), lift()])
    expect(outcomes.toSorted()).toEqual(['NOT_FOUND', 'NOT_FOUND', 'no refusal'])
    expect(await lastEvent()).toBe(before + 1)
  })

  test('of a vehicle without an identity makes no event, and keeps it from enrolling', async () => {
    const { id } = await world.api.addVehicle({ body: { instance: vin(), attributes: {}, withCode: false } })
    const before = await lastEvent()
    await world.api.ban({ body: { vehicle: id, reason: 'x' } })
    expect(await lastEvent()).toBe(before)
  })
})

test('bans and un-bans in parallel: numbers follow each other, and the RPS ends with what the register says', async () => {
  const cars = []
  for (let i = 0; i < 6; i++) cars.push(await world.car(vin()))
  const before = await lastEvent()
  await Promise.all(
    cars.map(async ({ id }) => {
      for (let round = 0; round < 3; round++) {
        const ban = await world.api.ban({ body: { vehicle: id, reason: `round ${round}` } })
        if (round < 2 || id % 2 === 0) await world.api.unban({ params: { id: String(ban.id) } })
      }
    }),
  )
  const end = await state()
  await world.rps.until(end.number)
  const numbers = world.rps.events.map(({ number }) => number)
  expect(numbers).toEqual(Array.from({ length: end.number }, (_, i) => i + 1))
  const heard = new Map<string, boolean>()
  for (const { number, kind, idCore } of world.rps.events)
    if (number > before) heard.set(idCore, kind === 'ban')
  for (const { id, device } of cars) {
    expect(heard.get(device.idCore)).toBe(id % 2 === 1)
    expect(end.isBanned(IdCore.fromBase64Url(device.idCore))).toBe(id % 2 === 1)
  }
})
