/** Where the points are: with a worker thread no pairing and no sum of products runs on the server's main thread. */

import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { authorizationHeader, DeviceProven, MODE } from '@milagro-ts/crypto/mpin'
import { CryptoPool, PoolUnavailable } from '@milagro-ts/crypto/node-pool'
import { G1, G2, PreparedG2 } from '@milagro-ts/crypto/points'
import { ServerKey } from '@milagro-ts/crypto/server-key'
import { type VerificationPorts, verification } from '@milagro-ts/rps/verification'
import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest'
import { asFields, type Car, codeOf, OWN, type RunningRps, World } from './world.js'

/** The built file: a thread can't load a source. */
const BUILT = new URL('../../crypto/dist/node-pool.js', import.meta.url)
const inThreads = (workers: number) => ({
  startPool: (options: Parameters<typeof CryptoPool.start>[0]) =>
    CryptoPool.start({ ...options, workers, script: BUILT }),
})

let world: World
beforeAll(async () => {
  world = await World.make()
})
afterEach(() => vi.restoreAllMocks())
afterAll(() => world.close())

/** Every pairing goes through one of the first two, every sum of products through the third. */
function countCalls() {
  const spies = {
    pairings: vi.spyOn(PreparedG2.prototype, 'toEngine'),
    points: vi.spyOn(G2.prototype, 'toEngine'),
    sums: vi.spyOn(G1, 'sumOfProducts'),
  }
  return () => Object.fromEntries(Object.entries(spies).map(([name, spy]) => [name, spy.mock.calls.length]))
}
const NONE = { pairings: 0, points: 0, sums: 0 }

test('the counters count', () => {
  const calls = countCalls()
  const S = ServerKey.verify(
    G1.generator.mulSecret(world.secrets.device),
    G2.generator.mulSecret(world.secrets.device),
  ) as ServerKey
  const before = calls()
  expect(before).not.toEqual(NONE)
  const message = world.prove(world.makeCar(), {})
  expect(
    DeviceProven.verifyBatch(
      [message, message].map(one => ({ message: one, binding: { groupId: world.group.groupId } })),
      S,
      length => new Uint8Array(length).fill(1),
    ),
  ).toHaveLength(2)
  for (const [name, count] of Object.entries(before))
    if (name !== 'points') expect(calls()[name]).toBeGreaterThan(count)
})

async function everything(rps: RunningRps, car: Car): Promise<unknown[]> {
  const driver = world.makeDriver(car)
  const other = world.makeCar()
  const answers: unknown[] = []
  // Composes permits, verifies them, device and PIN proofs.
  answers.push(await world.login(rps, car))
  answers.push(await world.login(rps, car, { driver }))
  answers.push(await codeOf(world.login(rps, car, { driver, wrongPin: true })))
  answers.push(await codeOf(world.login(rps, other, { deviceKey: G1.generator })))
  answers.push(
    await rps.client.permit({
      body: { login: asFields(await world.message(rps, other, { audience: OWN })) },
    }),
  )
  const carried = world.makeCar()
  answers.push(await world.login(rps, carried, { permit: world.permitOf(carried.idCore) }))
  const payload = new Uint8Array([1, 2, 3])
  const signed = world.prove(car, { mode: MODE.sign, payload })
  answers.push(
    await rps.client.sign({ body: { message: asFields(signed.toJson()), payload: toBase64Url(payload) } }),
  )
  const who = await fetch(`${rps.url}/v1/whoami`, {
    headers: { authorization: authorizationHeader(world.prove(car, { audience: OWN, driver })) },
  })
  answers.push(who.status)
  return answers
}

test('logins, permits, PINs, signatures, one pass, garbage, a new revision, a restart: none of it on the main thread', async () => {
  const car = world.makeCar()
  const next = await world.nextRevision({ policy: { lead: 2, grace: 300 } })
  const calls = countCalls()
  // Fetches the server keys, too.
  const rps = await world.startRps(inThreads(1))
  // One-pass messages are taken once the replay record is old enough.
  world.clock.now += 120_000
  await everything(rps, car)
  expect(await rps.client.publishRevision({ body: { document: next } })).toEqual({ revision: 2 })
  await rps.close()
  // The chain of documents, the sealed keys and the kept permits are checked again.
  const again = await world.startRps(inThreads(2))
  await world.login(again, car)
  await again.close()
  expect(calls()).toEqual(NONE)
  await world.follow(next)
})

test('the same answers with threads and without', async () => {
  const shape = (answers: unknown[]) =>
    answers.map(answer =>
      typeof answer === 'object' && answer !== null ? Object.keys(answer).sort() : answer,
    )
  const threads = await world.startRps(inThreads(2))
  const none = await world.startRps()
  world.clock.now += 120_000
  expect(shape(await everything(threads, world.makeCar()))).toEqual(
    shape(await everything(none, world.makeCar())),
  )
  await threads.close()
  await none.close()
})

test('while no worker can say, nobody is let in and nobody is blamed: RETRY_LATER with a time', async () => {
  const car = world.makeCar()
  const driver = world.makeDriver(car)
  let isBroken = true
  const rps = await world.startRps({
    verify: {
      device: verification.device,
      identity: (ports: VerificationPorts, attempt) => {
        if (isBroken)
          vi.spyOn(ports.pool, 'deviceProof').mockRejectedValueOnce(new PoolUnavailable('too many wait', 7))
        return verification.identity(ports, attempt)
      },
    },
  })
  const login = asFields(await world.message(rps, car, { driver }))
  const answer = await fetch(`${rps.url}/v1/logins`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ login }),
  })
  expect([
    answer.status,
    answer.headers.get('retry-after'),
    ((await answer.json()) as { code: string }).code,
  ]).toEqual([503, '7', 'RETRY_LATER'])
  isBroken = false
  expect(await world.login(rps, car, { driver })).toHaveProperty('accessToken')
  await rps.close()
})

test('a worker that dies at a PIN proof gives nothing away: the strike stands until the answer is overdue', async () => {
  const car = world.makeCar()
  const driver = world.makeDriver(car)
  const rps = await world.startRps({
    verify: {
      device: verification.device,
      identity: (ports, attempt) => {
        vi.spyOn(ports.pool, 'pinProof').mockRejectedValueOnce(new PoolUnavailable('a worker ended', 1))
        return verification.identity(ports, attempt)
      },
    },
  })
  for (let i = 0; i < 3; i++) expect(await codeOf(world.login(rps, car, { driver }))).toBe('RETRY_LATER')
  expect(await codeOf(world.login(rps, car, { driver }))).toBe('LOCKED')
  await rps.close()
})
