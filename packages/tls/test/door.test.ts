/** What strangers can do to the door by naming others, without any connection. */
import { be32, concat } from '@milagro-ts/crypto/bytes'
import { IdCore } from '@milagro-ts/crypto/identity'
import { PoolUnavailable } from '@milagro-ts/crypto/node-pool'
import { G1 } from '@milagro-ts/crypto/points'
import { Scalar } from '@milagro-ts/crypto/scalar'
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
  expect(door.authenticated(identity, psk, '192.0.2.1')?.mpinId).toBe(world.car(1).mpinId)
  for (let n = 1; n <= 10_100; n++) await door.psk(made(n), sourceOf(n))
  expect(world.asked.length).toBe(10_101)
  world.permitted = () => Promise.reject(new Error('nobody answers'))
  expect(door.pskKept(identity)).toEqual(psk)
  expect(door.authenticated(identity, psk, '192.0.2.1')).not.toBeNull()
})

test('one source has so many questions that come to nothing, and no more', async () => {
  const { door } = world
  world.permitted = async () => null
  const ask = (n: number) => door.psk(made(n), '192.0.2.1')
  for (let n = 1; n <= 500; n++) await ask(n)
  await expect(ask(501)).rejects.toMatchObject({ code: 'RETRY_LATER' })
  expect(world.asked.length).toBe(500)
})

test('a name that can’t be read is one of them, and costs its source as much', async () => {
  const { door } = world
  const say = (n: number, source = '192.0.2.1') => door.psk(`nobody ${n}`, source)
  for (let n = 1; n <= 500; n++) expect(await say(n)).toEqual(door.decoy(`nobody ${n}`))
  expect(world.computed).toBe(500)
  await expect(say(501)).rejects.toMatchObject({ code: 'RETRY_LATER' })
  await expect(door.psk(made(1), '192.0.2.1')).rejects.toMatchObject({ code: 'RETRY_LATER' })
  expect(world.computed).toBe(500)
  expect(await say(502, '192.0.2.2')).toHaveLength(32)
  world.now += 20
  expect(await say(503)).toHaveLength(32)
})

test('who can’t be let in while the ban events are lost costs its source as much', async () => {
  const { door } = world
  world.fresh = false
  for (let n = 1; n <= 500; n++) await door.psk(made(n), '192.0.2.1')
  await expect(door.psk(made(501), '192.0.2.1')).rejects.toMatchObject({ code: 'RETRY_LATER' })
  expect(world.computed).toBe(500)
})

test('all addresses of an IPv6 /64 take one turn at the workers, by names that can be read and by others', async () => {
  const { door } = world
  await door.psk(made(1), '2001:db8:0:1::1')
  await door.psk(made(2), '2001:db8:0:1:ffff::2')
  await door.psk('nobody', '2001:db8:0:1::3')
  await door.psk('nobody', '2001:db8:0:2::1')
  expect(world.turns).toEqual(['2001:db8:0:1', '2001:db8:0:1', '2001:db8:0:1', '2001:db8:0:2'])
})

test('the name of who has come in, with ever new R, costs its source as much; who has come in pays nothing', async () => {
  const { door } = world
  const { identity } = await world.car(1).externalPsk(NAME)
  const psk = await door.psk(identity, '192.0.2.1')
  expect(door.authenticated(identity, psk, '192.0.2.1')).not.toBeNull()
  const R = G1.generator
  const named = (n: number) =>
    PskIdentity.ofSlot('m1', world.car(1).idCore, SLOT, R.mulPublic(Scalar.fromBigInt(BigInt(n)))).toString()
  for (let n = 1; n <= 500; n++) await door.psk(named(n), '192.0.2.2')
  await expect(door.psk(named(501), '192.0.2.2')).rejects.toMatchObject({ code: 'RETRY_LATER' })
  expect([world.computed, world.asked.length]).toEqual([501, 1])
  // By what it has here, from wherever.
  expect(door.pskKept(identity)).toEqual(psk)
  expect(await door.psk(identity, '192.0.2.2')).toEqual(psk)
  // From its own address as often as it comes in.
  for (let n = 1; n <= 600; n++) {
    const again = named(n)
    expect(door.authenticated(again, await door.psk(again, '192.0.2.1'), '192.0.2.1')).not.toBeNull()
  }
})

test('what no worker takes costs nothing', async () => {
  const { door } = world
  world.isFull = true
  for (let n = 1; n <= 600; n++) await expect(door.psk(made(n), '192.0.2.1')).rejects.toThrow(PoolUnavailable)
  world.isFull = false
  expect(await door.psk(made(601), '192.0.2.1')).toHaveLength(32)
})

test('a question that nobody answers is paid back, and once where its device comes in by an earlier answer', async () => {
  const { door } = world
  const { identity } = await world.car(1).externalPsk(NAME)
  const psk = await door.psk(identity, '192.0.2.1')
  world.turn(5_000)
  const asker = '192.0.2.2'
  for (let n = 1; n <= 490; n++) await door.psk(`nobody ${n}`, asker)
  world.permitted = () => Promise.reject(new Error('nobody answers'))
  for (let n = 1; n <= 20; n++) await door.psk(made(n), asker)
  let fail = (_: Error) => {}
  world.permitted = () =>
    new Promise((_, reject) => {
      fail = reject
    })
  const asked = door.psk(identity, asker)
  expect(door.authenticated(identity, psk, asker)?.mpinId).toBe(world.car(1).mpinId)
  fail(new Error('nobody answers'))
  await asked
  for (let n = 491; n <= 500; n++) await door.psk(`nobody ${n}`, asker)
  await expect(door.psk('nobody 501', asker)).rejects.toMatchObject({ code: 'RETRY_LATER' })
})
