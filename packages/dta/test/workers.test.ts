/** Where the points are: with a worker thread no pairing and no sum of products runs on an authority's main thread. */
import { checkOpenings, composeFirstRevision } from '@milagro-ts/api/founding'
import { Group, proposalHash } from '@milagro-ts/api/group'
import { systemRandom } from '@milagro-ts/api/system'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { CryptoPool } from '@milagro-ts/crypto/node-pool'
import { G1, G2, PreparedG2 } from '@milagro-ts/crypto/points'
import { afterEach, expect, test, vi } from 'vitest'
import { acceptAll, clientOf, makeCar, makeWorld, restart, statementFor, ticketFor } from './world.js'

/** The built file: a thread can't load a source. */
const BUILT = new URL('../../crypto/dist/node-pool.js', import.meta.url)
const startPool = (options: Parameters<typeof CryptoPool.start>[0]) =>
  CryptoPool.start({ ...options, workers: 1, script: BUILT })

afterEach(() => vi.restoreAllMocks())

/** What runs on this thread while `work` does: the server's main thread is this one, too. */
async function callsDuring<T>(work: () => Promise<T>): Promise<{ result: T; calls: readonly number[] }> {
  const spies = [
    vi.spyOn(PreparedG2.prototype, 'toEngine'),
    vi.spyOn(G2.prototype, 'toEngine'),
    vi.spyOn(G1, 'sumOfProducts'),
  ]
  const result = await work()
  const calls = spies.map(spy => spy.mock.calls.length)
  vi.restoreAllMocks()
  return { result, calls }
}
const NONE = [0, 0, 0]

test('founding, key shares, server keys, permit shares, a restart: none of it on the main thread', async () => {
  const world = await makeWorld({ n: 1 })
  const { clock, proposal } = world
  // The world's authority with a pool of threads, on the same data and address.
  let [running] = world.authorities as [(typeof world.authorities)[number]]
  running = await restart(running, { clock, startPool })
  const served = { ...world, authorities: [running] }
  const hash = toBase64Url(proposalHash(proposal))
  await acceptAll(served, hash)
  const params = { proposalHash: hash }

  const { result: opened, calls: first } = await callsDuring(async () => {
    const { join } = await running.client.joinFounding({ params, body: { proposal } })
    const { opening } = await running.client.openFounding({ params, body: { joins: [join] } })
    const { signature } = await running.client.signFounding({ params, body: { openings: [opening] } })
    return { join, opening, signature }
  })
  expect(first).toEqual(NONE)

  const { result: document, calls: coordinator } = await callsDuring(async () => {
    const { openings } = await checkOpenings(proposal, [opened.join], [opened.opening])
    return {
      ...(await composeFirstRevision(proposal, openings)),
      signatures: [{ index: 1, signature: opened.signature }],
    }
  })
  // The coordinator is no server. And the counters count.
  expect(coordinator.every(count => count > 0)).toBe(true)
  const group = await Group.verifyFirst(document)
  const groupId = toBase64Url(group.groupId)
  const founded = { ...served, group, groupId }
  const car = await makeCar(founded)
  const ticket = await ticketFor(founded, car)
  const statement = await statementFor(founded, car)

  const { calls: serving } = await callsDuring(async () => {
    await running.client.concludeFounding({ params, body: { document } })
    await running.client.shares({ params: { groupId }, body: { ticket, purpose: 'device' } })
    const rps = clientOf(world, running, world.rps)
    const body = { purpose: 'device' as const, keyEpoch: 1, nonce: toBase64Url(systemRandom(16)) }
    await rps.serverKeys({ params: { groupId }, body })
    await rps.permits({ params: { groupId }, body: { statement } })
    running = await restart(running, { clock, startPool })
    await running.client.shares({ params: { groupId }, body: { ticket, purpose: 'device' } })
  })
  expect(serving).toEqual(NONE)
  await running.close()
  await world.close()
})
