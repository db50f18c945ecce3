/** Where the points are: no pairing and no sum of products runs on the tracking server's main thread. */
import type { KeyCheck } from '@milagro-ts/api/group'
import { threadKeyCheck } from '@milagro-ts/api/server-pool'
import { systemClock, systemRandom, systemTimers } from '@milagro-ts/api/system'
import { CryptoPool, type PoolOptions } from '@milagro-ts/crypto/node-pool'
import { G1, G2, PreparedG2 } from '@milagro-ts/crypto/points'
import { publicKeysFault } from '@milagro-ts/crypto/server-key'
import { afterEach, beforeAll, expect, test, vi } from 'vitest'
import { CAR, TrackingWorld } from './tracking-world.js'

/** The built file: a thread can't load a source. */
const BUILT = new URL('../../../packages/crypto/dist/node-pool.js', import.meta.url)

// The group that all worlds share is founded here, by authorities who compute where they are.
beforeAll(async () => (await TrackingWorld.make()).close())
afterEach(() => vi.restoreAllMocks())

/** Pairings by a prepared point and by a plain one, sums of products: a start, positions with a receipt and
 * signed by the vehicle, a revision, a ban. */
async function callsOf(keyCheck: KeyCheck, pool: Partial<PoolOptions>): Promise<readonly number[]> {
  const spies = [
    vi.spyOn(PreparedG2.prototype, 'toEngine'),
    vi.spyOn(G2.prototype, 'toEngine'),
    vi.spyOn(G1, 'sumOfProducts'),
  ]
  const world = await TrackingWorld.make({ keyCheck, pool })
  try {
    await world.follow()
    const [batch, end] = world.batch(CAR, world.start(CAR), world.positions(3))
    const [next] = world.batch(CAR, end, world.positions(3, world.clock.now))
    const signed = world.signed(CAR, next)
    const token = `Bearer ${await world.token(CAR)}`
    expect((await world.send(batch, token, await world.receipt(CAR, batch))).status).toBe(200)
    expect((await world.send(next, token, signed)).status).toBe(200)
    await world.changeRaKey()
    await world.event('ban', CAR)
    await world.until(() => world.server.follower.list.number === 6)
    expect((await world.call('GET', '/v1/tracks/end', token)).body.code).toBe('BANNED')
    return spies.map(spy => spy.mock.calls.length)
  } finally {
    await world.close()
  }
}

test('the group document at the start and the next one, positions, bans', async () => {
  const startPool = (options: Parameters<typeof CryptoPool.start>[0]) =>
    CryptoPool.start({ ...options, script: BUILT })
  const ports = { clock: systemClock, random: systemRandom, timers: systemTimers }
  const pool = { workers: 1, script: BUILT }
  expect(await callsOf(threadKeyCheck({ ...ports, startPool }), pool)).toEqual([0, 0, 0])
})

test('the counters count: the same without threads', async () => {
  for (const count of await callsOf(publicKeysFault, {})) expect(count).toBeGreaterThan(0)
})
