/** What strangers can do to the door by naming others, without any connection. */
import { be32, concat } from '@milagro-ts/crypto/bytes'
import { IdCore } from '@milagro-ts/crypto/identity'
import { G1 } from '@milagro-ts/crypto/points'
import { PskIdentity } from '@milagro-ts/crypto/static-agreement'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { NAME, SLOT, World } from './world.js'

let world: World
beforeEach(async () => {
  world = await World.start()
  world.computedAs = new Uint8Array(32)
})
afterEach(() => world.close())

/** An identity of somebody whom nobody has seen. */
const made = (n: number) =>
  PskIdentity.ofSlot('m1', IdCore.decode(concat(be32(n), new Uint8Array(35))), SLOT, G1.generator).toString()
const sourceOf = (n: number) => `10.${(n >> 16) & 255}.${(n >> 8) & 255}.${n & 255}`

test('who has come in stays known whatever number of others is named, while nobody can be asked', async () => {
  const { door } = world
  const { identity } = await world.car(1).externalPsk(NAME)
  const psk = await door.psk(identity, '192.0.2.1')
  expect(door.authenticated(identity, psk)?.mpinId).toBe(world.car(1).mpinId)
  for (let n = 1; n <= 10_100; n++) await door.psk(made(n), sourceOf(n))
  expect(world.asked.length).toBe(10_101)
  world.permitted = () => Promise.reject(new Error('nobody answers'))
  expect(door.pskKept(identity)).toEqual(psk)
  expect(door.authenticated(identity, psk)).not.toBeNull()
})

test('one source has so many questions that come to nothing, and no more', async () => {
  const { door } = world
  world.permitted = async () => null
  const ask = (n: number) => door.psk(made(n), '192.0.2.1')
  for (let n = 1; n <= 500; n++) await ask(n)
  await expect(ask(501)).rejects.toMatchObject({ code: 'RETRY_LATER' })
  expect(world.asked.length).toBe(500)
})
