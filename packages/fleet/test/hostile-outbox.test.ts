/** What an RPS that lies can do to the fleet that has told it of a ban. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { World } from './fleet-world.js'

let world: World
beforeAll(async () => {
  world = await World.start()
})
afterAll(() => world.stop())

test('an RPS that claims the last of all event numbers doesn’t use them up', async () => {
  const { id } = await world.car('VIN-1')
  world.rps.answersWith = 0xffffffff
  await world.api.ban({ body: { vehicle: id, reason: 'x' } })
  await world.rps.until(2)
  const status = () => world.api.status({})
  // In trouble, or, where the claim is believed, renumbered.
  let { events } = await status()
  while (events.trouble === undefined && events.last === 2) events = (await status()).events
  expect(events).toMatchObject({ last: 2, waiting: 1 })

  // Another RPS is in its place: the ban reaches it under its own number.
  world.rps.answersWith = undefined
  world.time.advance(10_000)
  while ((await status()).events.waiting > 0) world.time.advance(10_000)
  expect((await status()).events).toMatchObject({ last: 2, waiting: 0 })
})
