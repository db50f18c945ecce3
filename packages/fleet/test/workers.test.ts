/** Where the points are: no pairing and no sum of products runs on fleet's main thread. */
import { documentHash, type Group, signDocument } from '@milagro-ts/api/group'
import { threadKeyCheck } from '@milagro-ts/api/server-pool'
import { systemRandom, systemTimers } from '@milagro-ts/api/system'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { CryptoPool } from '@milagro-ts/crypto/node-pool'
import { G1, G2, PreparedG2 } from '@milagro-ts/crypto/points'
import { publicKeysFault } from '@milagro-ts/crypto/server-key'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { until, World } from './fleet-world.js'

/** The built file: a thread can't load a source. */
const BUILT = new URL('../../crypto/dist/node-pool.js', import.meta.url)

let world: World
beforeEach(async () => {
  world = await World.start()
})
afterEach(async () => {
  vi.restoreAllMocks()
  await world.stop()
})

/** Every pairing goes through one of the first two, every sum of products through the third. */
function countCalls() {
  const spies = [
    vi.spyOn(PreparedG2.prototype, 'toEngine'),
    vi.spyOn(G2.prototype, 'toEngine'),
    vi.spyOn(G1, 'sumOfProducts'),
  ]
  return () => spies.map(spy => spy.mock.calls.length)
}

/** A restart, an enrolment, a permit, a login, a ban, and the group's next revision, as the RPS has it. */
async function everything(next: Group): Promise<void> {
  await world.restart()
  const { id, device } = await world.car('VIN-1')
  await world.permit(device.idCore)
  await world.asRps().state({})
  await world.happened({
    event: 'login',
    idCore: device.idCore,
    amr: ['device'],
    audience: 'a',
    slot: world.slot,
  })
  await world.api.ban({ body: { vehicle: id, reason: 'lost' } })
  world.rps.group = next
  await until(async () => {
    world.time.advance(10_000)
    return (await world.api.status({})).revision === 2
  })
}

async function nextRevision(): Promise<Group> {
  const { group, members } = world
  const draft = {
    ...group.document,
    groupId: toBase64Url(group.groupId),
    revision: 2,
    previous: toBase64Url(documentHash(group.document)),
    policy: { lead: 2, grace: 300 },
    signatures: [],
  }
  const signature = await signDocument(draft, members.authorities[0]!.signKey)
  return group.verifyNext({ ...draft, signatures: [{ index: 1, signature }] })
}

test('group documents at a start and later ones, and everything else', async () => {
  const next = await nextRevision()
  let threads = 0
  world.keyCheck = threadKeyCheck({
    clock: world.time.clock,
    random: systemRandom,
    timers: systemTimers,
    startPool: options => {
      threads++
      return CryptoPool.start({ ...options, script: BUILT })
    },
  })
  const calls = countCalls()
  await everything(next)
  expect(calls()).toEqual([0, 0, 0])
  expect(threads).toBeGreaterThan(0)
})

test('the counters count: the same without threads', async () => {
  const next = await nextRevision()
  world.keyCheck = publicKeysFault
  const calls = countCalls()
  await everything(next)
  for (const count of calls()) expect(count).toBeGreaterThan(0)
})
