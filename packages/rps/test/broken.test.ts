/** The tests' own control: an RPS that verifies wrongly does let in what the right one refuses. */

import { G1 } from '@milagro-ts/crypto/points'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { acceptsEverything, ignoresPermits } from './broken-verification.mjs'
import { codeOf, World } from './world.js'

let world: World
beforeAll(async () => {
  world = await World.make()
})
afterAll(() => world.close())

test('one that accepts everything', async () => {
  const rps = await world.startRps({ verify: acceptsEverything })
  const car = world.makeCar()
  const driver = world.makeDriver(car)
  for (let i = 0; i < 4; i++) await world.login(rps, car, { driver, wrongPin: true })
  await world.login(rps, car, { deviceKey: G1.generator })
  await rps.close()
})

test('one that ignores permits', async () => {
  const rps = await world.startRps({ verify: ignoresPermits })
  const car = world.makeCar()
  await world.login(rps, car, { permit: world.permitOf(world.makeCar().idCore) })
  await world.login(rps, car, { permit: world.permitOf(car.idCore, world.slot - 1) })
  expect(await codeOf(world.login(rps, car, { deviceKey: G1.generator }))).toBe('WRONG_PROOF')
  await rps.close()
})
