/** A thief with time: guesses, and gets the operator to put a backup back. */
import { copyFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { authorizationHeader } from '@milagro-ts/crypto/mpin'
import { distrustRestored } from '@milagro-ts/rps/restore'
import { rpsMigrations } from '@milagro-ts/rps/tables'
import { openDatabase } from '@milagro-ts/store/database'
import { expect, test } from 'vitest'
import { codeOf, OWN, World } from './world.js'

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
