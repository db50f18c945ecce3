import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { refusal, World } from './fleet-world.js'

let world: World
beforeEach(async () => {
  world = await World.start()
})
afterEach(() => world.stop())

// Event 1 is the account of the first operator.
const numbers = () => world.rps.events.map(({ number }) => number)
const status = async () => (await world.api.status({})).events

/** Lets fleet's answers to failed pushes come in, until `condition` holds. */
async function settled(condition: () => Promise<boolean>): Promise<void> {
  while (!(await condition())) await new Promise(resolve => setImmediate(resolve))
}

test('an operator is answered once the RPS has heard of it', async () => {
  const car = await world.car('VIN-1')
  const ban = await world.api.ban({ body: { vehicle: car.id, reason: 'x' } })
  expect(await status()).toEqual({ last: 2, waiting: 0 })
  await world.api.unban({ params: { id: String(ban.id) } })
  expect(await status()).toEqual({ last: 3, waiting: 0 })
  await world.api.revoke({ params: { id: String(car.id) }, body: {} })
  expect(await status()).toEqual({ last: 4, waiting: 0 })
})

describe('an RPS that is away', () => {
  test('keeps no operator waiting for longer than two seconds', async () => {
    const car = await world.car('VIN-1')
    const goOn = world.rps.hold()
    let isAnswered = false
    const answer = world.api.ban({ body: { vehicle: car.id, reason: 'x' } }).finally(() => {
      isAnswered = true
    })
    const since = world.time.now
    await settled(async () => {
      if (!isAnswered) world.time.advance(500)
      return isAnswered
    })
    await answer
    expect(world.time.now - since).toBeGreaterThanOrEqual(2_000)
    expect(await status()).toMatchObject({ last: 2, waiting: 1 })
    goOn()
    await settled(async () => (await status()).waiting === 0)
  })

  test('gets every event in order when it is back', async () => {
    const car = await world.car('VIN-1')
    world.rps.up = false
    const ban = await world.api.ban({ body: { vehicle: car.id, reason: 'x' } }).catch(() => null)
    // The operator's token can't be checked against keys that were never asked for; it was asked for before.
    expect(ban).not.toBeNull()
    await world.api.unban({ params: { id: String(ban!.id) } })
    await world.api.ban({ body: { vehicle: car.id, reason: 'y' } })
    await settled(async () => (await status()).trouble !== undefined)
    expect(await status()).toMatchObject({ last: 4, waiting: 3 })
    world.rps.up = true
    world.time.advance(10_000)
    await world.rps.until(4)
    expect(numbers()).toEqual([1, 2, 3, 4])
    expect(world.rps.events.map(({ kind }) => kind)).toEqual(['account', 'ban', 'unban', 'ban'])
    await settled(async () => (await status()).waiting === 0)
    expect((await status()).trouble).toBeUndefined()
  })

  test('is asked again whatever it refuses with', async () => {
    const car = await world.car('VIN-1')
    let sent = 1
    for (const code of ['RETRY_LATER', 'CONFLICT', 'NOT_APPROVED', 'INTERNAL'] as const) {
      world.rps.refuses = code
      const ban = await world.api.ban({ body: { vehicle: car.id, reason: 'x' } })
      await settled(async () => (await status()).trouble?.includes(code) === true)
      world.rps.refuses = undefined
      world.time.advance(10_000)
      await world.rps.until(++sent)
      await world.api.unban({ params: { id: String(ban.id) } })
      await world.rps.until(++sent)
    }
    expect(numbers()).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9])
  })
})

test('events wait through a restart and are sent then', async () => {
  const car = await world.car('VIN-1')
  const driver = await world.driverOn(car)
  await world.rps.until(2)
  world.rps.up = false
  await world.api.ban({ body: { driver: driver.id, reason: 'x', expiresAt: world.seconds + 60 } })
  await world.restart()
  expect(numbers()).toEqual([1, 2])
  world.rps.up = true
  // The ban runs out while nobody looks: both events are sent, in order.
  world.time.now += 61_000
  await world.restart()
  await world.rps.until(4)
  expect(world.rps.events.map(({ number, kind }) => [number, kind])).toEqual([
    [1, 'account'],
    [2, 'account'],
    [3, 'ban'],
    [4, 'unban'],
  ])
})

test('a restart keeps vehicles, drivers, codes, bans, leaves, operators and replayed requests', async () => {
  const car = await world.car('VIN-1')
  const driver = await world.driverOn(car)
  const banned = await world.car('VIN-2')
  await world.api.ban({ body: { vehicle: banned.id, reason: 'x' } })
  const { code } = await world.api.addVehicle({ body: { instance: 'VIN-3', attributes: {} } })
  const before = await world.api.vehicle({ params: { id: String(car.id) } })
  const setupCode = world.setupCode
  await world.restart()
  expect(await world.fleet.setupCode()).toBeNull()
  expect(world.setupCode).toBe(setupCode)
  expect(await world.api.vehicle({ params: { id: String(car.id) } })).toEqual(before)
  expect(await refusal(world.permit(car.device.idCore, driver.user.userCore))).toBe('no refusal')
  expect(await refusal(world.permit(banned.device.idCore))).toBe('BANNED idCore')
  const third = await world.enrol({ instance: 'VIN-3', attributes: {}, code: code!.code })
  expect(third.leaf).toBeGreaterThan(banned.device.leaf)
})

test('a database that was restored from a backup gives no leaf out twice and finds that the RPS is ahead', async () => {
  const { id } = await world.car('VIN-1')
  const backup = `${world.dataDir}/backup.sqlite`
  await world.store.backup(backup)
  const lost = await world.car('VIN-2')
  await world.api.ban({ body: { vehicle: lost.id, reason: 'x' } })
  await world.api.ban({ body: { vehicle: id, reason: 'x' } })
  await world.rps.until(3)

  await world.restore(backup)
  const again = await world.car('VIN-3')
  expect(again.device.leaf).toBeGreaterThan(lost.device.leaf)
  // The RPS is at event 3 and takes ours, number 2 once more, for the one it had.
  world.rps.answersWith = 3
  await world.api.ban({ body: { vehicle: id, reason: 'x' } })
  await settled(async () => (await status()).last === 5)
  world.rps.answersWith = undefined
  expect(world.logLines.some(line => line.includes('the RPS knows later events'))).toBe(true)
  // Number 4 is left out, which makes the RPS ask for the state; the ban is told again as number 5.
  await world.rps.until(5)
  expect(world.rps.events.at(-1)).toMatchObject({ number: 5, kind: 'ban' })
  await world.api.ban({ body: { vehicle: again.id, reason: 'x' } })
  await world.rps.until(6)
})

test('status says how the authorities are, as the RPS sees them, asked as the recipient that fleet is', async () => {
  const seen = {
    live: 1,
    needed: 2,
    authorities: [
      { index: 1, name: 'ta1', answeredAt: 1_767_225_600, wrongShares: 0 },
      {
        index: 2,
        name: 'ta2',
        trouble: 'quarantined' as const,
        wrongShares: 3,
        quarantinedUntil: 1_767_225_660,
        requestHash: toBase64Url(new Uint8Array(32)),
      },
    ],
  }
  world.rps.authorities = seen
  expect((await world.api.status({})).authorities).toEqual(seen)
  expect(world.rps.authoritiesAskedAs).toMatch(/^MPIN-Request [\w-]+\.[\w-]+\.[\w-]+$/)
})

test('status is there without the RPS, and says that it is not', async () => {
  await world.api.status({})
  world.rps.up = false
  const { authorities } = await world.api.status({}).finally(() => {
    world.rps.up = true
  })
  expect(authorities).toEqual({ trouble: expect.stringContaining('GET ') })
})
