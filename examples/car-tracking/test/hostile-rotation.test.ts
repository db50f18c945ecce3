/** A service that follows the bans for longer than the RA keeps its key. */
import { afterEach, beforeEach, expect, test } from 'vitest'
import { CAR, TrackingWorld } from './tracking-world.js'

let world: TrackingWorld
beforeEach(async () => {
  world = await TrackingWorld.make()
  await world.follow()
})
afterEach(() => world.close())

const lookup = async () =>
  (await world.call('GET', '/v1/tracks/end', `Bearer ${await world.token(CAR)}`)).body.code

test('bans by the RA’s next key count, with no restart', async () => {
  await world.changeRaKey()
  await world.changeRaKey()
  await world.event('ban', CAR)
  await world.until(() => world.server.follower.list.number === 6)
  expect(await lookup()).toBe('BANNED')
})

test('and what the former key signs after that counts no more', async () => {
  await world.changeRaKey()
  await world.event('ban', CAR)
  await world.until(() => world.server.follower.list.number === 6)
  world.banned = [{ idCore: CAR.mpinId }]
  await world.event('unban', CAR, { by: 'first' })
  await world.until(() => {
    world.clock.turnToAlarm()
    return world.requests.length === 2
  })
  expect(await lookup()).toBe('BANNED')
})
