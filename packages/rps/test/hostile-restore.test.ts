/** A thief with time: guesses, and gets the operator to put a backup back. */
import { copyFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { authorizationHeader } from '@milagro-ts/crypto/mpin'
import { beginAnew, distrustRestored } from '@milagro-ts/rps/restore'
import { rpsMigrations, wasServed } from '@milagro-ts/rps/tables'
import { openDatabase } from '@milagro-ts/store/database'
import { expect, test } from 'vitest'
import { codeOf, type Driver, OWN, World } from './world.js'

test('a database from a backup gives back no guess, no used message and no banned car', async () => {
  const world = await World.make()
  const before = await world.startRps()
  world.clock.turn(120_000)
  const [car, banned] = [world.makeCar(), world.makeCar()]
  const driver = world.makeDriver(car)
  await world.login(before, car, { driver })
  await world.login(before, banned)
  const backup = join(world.folder, 'backup.sqlite')
  await before.store.backup(backup)

  for (let i = 0; i < 3; i++)
    expect(await codeOf(world.login(before, car, { driver, wrongPin: true }))).toBe('WRONG_PIN')
  await world.ban(before, banned)
  const authorization = authorizationHeader(world.prove(car, { audience: OWN }))
  await before.client.whoami({ authorization })
  await before.close()

  const file = join(world.dataDir, 'rps.sqlite')
  for (const suffix of ['', '-wal', '-shm']) await rm(file + suffix, { force: true })
  await copyFile(backup, file)
  const restored = await openDatabase<unknown>({ file, migrations: rpsMigrations })
  await distrustRestored(restored, world.clock.now)
  await restored.close()

  world.rpa.isDown = true
  const after = await world.startRps()
  expect(await codeOf(world.login(after, banned))).toBe('RETRY_LATER')
  world.rpa.isDown = false
  expect(await codeOf(world.login(after, banned))).toBe('BANNED')
  expect(await codeOf(after.client.whoami({ authorization }))).toBe('CLOCK')
  expect(await codeOf(world.login(after, car, { driver }))).toBe('LOCKED')
  await world.login(after, car)
  const { userCore } = driver
  const unlock = await world.event('unlock', car.idCore, { userCore, pinGen: 1 })
  await after.client.pushEvent({ body: { event: unlock } })
  await world.login(after, car, { driver })
  await world.close()
})

test('a database that is begun anew gives back no guess either, nor a used message; who enrols from then on is free', async () => {
  const world = await World.make()
  const before = await world.startRps()
  world.clock.turn(120_000)
  const [car, banned] = [world.makeCar(), world.makeCar()]
  const driver = world.makeDriver(car)
  await world.login(before, car, { driver })
  await world.ban(before, banned)
  for (let i = 0; i < 3; i++)
    expect(await codeOf(world.login(before, car, { driver, wrongPin: true }))).toBe('WRONG_PIN')
  const authorization = authorizationHeader(world.prove(car, { audience: OWN }))
  await before.client.whoami({ authorization })
  await before.close()

  const file = join(world.dataDir, 'rps.sqlite')
  for (const suffix of ['', '-wal', '-shm']) await rm(file + suffix, { force: true })
  const begun = await openDatabase<unknown>({ file, migrations: rpsMigrations })
  expect(await begun.atomic(wasServed)).toBe(false)
  await beginAnew(begun, world.clock.now)
  expect(await begun.atomic(wasServed)).toBe(true)
  await begun.close()

  const after = await world.startRps()
  expect(await codeOf(world.login(after, banned))).toBe('BANNED')
  expect(await codeOf(after.client.whoami({ authorization }))).toBe('CLOCK')
  expect(await codeOf(world.login(after, car, { driver }))).toBe('LOCKED')
  await world.login(after, car)
  const { userCore } = driver
  const unlock = await world.event('unlock', car.idCore, { userCore, pinGen: 1 })
  await after.client.pushEvent({ body: { event: unlock } })
  for (let i = 0; i < 2; i++)
    expect(await codeOf(world.login(after, car, { driver, wrongPin: true }))).toBe('WRONG_PIN')
  await world.login(after, car, { driver })

  const newDriver = world.makeDriver(car)
  const made = await world.event('account', car.idCore, { userCore: newDriver.userCore, pinGen: 1 })
  await after.client.pushEvent({ body: { event: made } })
  await world.login(after, car, { driver: newDriver })

  // An operator that fleet has let in anew: nobody else could unlock the others.
  const [former, operator] = [world.makeCar({ factors: 1 }), world.makeCar({ factors: 1 })]
  const pins = [former, operator].map(device => world.makeOwnPin(device))
  const told = await world.event('account', operator.idCore, { pinGen: 1 })
  await after.client.pushEvent({ body: { event: told } })
  expect(await codeOf(world.login(after, former, { driver: pins[0] as Driver }))).toBe('LOCKED')
  await world.login(after, operator, { driver: pins[1] as Driver })
  await world.close()
})
