/** A car that was silent for ten slots comes back by itself, while the world has gone on: over the servers themselves. */
import { Device } from '@milagro-ts/client/device'
import { memoryTokenStore } from '@milagro-ts/client/token-store'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Calendar } from './calendar.js'
import { RunningServers } from './running-servers.js'
import { CAR, JO, TRACKING, VIN } from './world.js'

const calendar = new Calendar()
let servers: RunningServers
beforeAll(async () => {
  servers = await RunningServers.start({ clock: () => calendar.now, timers: calendar })
}, 180_000)
afterAll(() => servers.close())

/** The operator and the authorities' operators change the RA's key: the next revision of the group document. */
async function changeRaKey(): Promise<void> {
  const { fleet, authorities } = servers
  const { documentHash } = await fleet.rotateKey({ ...(await servers.act()), body: {} })
  for (const { admin } of authorities) await admin.accept({ body: { hash: documentHash } })
  await fleet.finishKey({ ...(await servers.act()), body: {} })
}

test('a car silent for ten slots has a new permit, the newest revision and a new token at its next call', {
  timeout: 300_000,
}, async () => {
  const { fleet } = servers
  const { id, code } = await fleet.addVehicle({
    ...(await servers.act()),
    body: { instance: VIN, attributes: { ...CAR } },
  })
  const invited = await fleet.assignDriver({
    ...(await servers.act()),
    params: { id: String(id) },
    body: { attributes: { ...JO } },
  })

  /** Requests of the car, and those whose answers are to be lost. */
  const sent: string[] = []
  const lost: string[] = []
  const store = memoryTokenStore()
  const options = {
    ...servers.ports,
    store,
    ticks: () => calendar.now,
    wait: () => Promise.resolve(),
    fetch: (async (input, init) => {
      const { pathname } = new URL(String(input))
      sent.push(pathname)
      const response = await fetch(input, init)
      const at = lost.indexOf(pathname)
      if (at < 0) return response
      lost.splice(at, 1)
      await response.arrayBuffer()
      throw new TypeError('the connection broke')
    }) as typeof fetch,
  }
  const car = await Device.enrol({ ...options, code: code?.code as string, attributes: CAR, instance: VIN })
  await car.enrolUser({ code: invited.code.code, attributes: JO, pin: '1234' })
  const alone = await car.session({ audience: TRACKING })
  const driven = await car.session({ audience: TRACKING, user: 'Jo', pin: '1234' })
  const former = { alone: await alone.accessToken(), driven: await driven.accessToken() }
  const formerPermit = await car.permit()
  const revisionsOf = async () => JSON.parse((await store.read()) as string).identities[0].revisions.length
  expect(await revisionsOf()).toBe(1)

  calendar.pass(5)
  await changeRaKey()
  calendar.pass(5)
  await changeRaKey()

  // The network comes back shaky: the first answer of everything that may be repeated is lost.
  sent.length = 0
  lost.push('/v1/nonces', '/v1/group', '/v1/logins')
  const fresh = await alone.accessToken()
  expect(lost).toEqual([])
  expect(fresh).not.toBe(former.alone)
  expect(sent.filter(path => path === '/v1/logins')).toHaveLength(2)
  expect(await revisionsOf()).toBe(3)
  const permit = await car.permit()
  expect(permit.slot).toBe(formerPermit.slot + 10)
  expect(await alone.accessToken()).toBe(fresh)

  // With a PIN proof a lost answer is not asked for again behind the caller's back.
  sent.length = 0
  lost.push('/v1/logins')
  await expect(driven.accessToken()).rejects.toMatchObject({ code: 'OUTCOME_UNKNOWN' })
  expect(sent.filter(path => path === '/v1/logins')).toHaveLength(1)
  const again = await driven.accessToken()
  expect(again).not.toBe(former.driven)
  expect(sent.filter(path => path === '/v1/logins')).toHaveLength(2)

  // So does a car that was switched off meanwhile, from its store alone.
  calendar.pass(10)
  const started = await Device.open(options)
  const { authenticated } = await started.login({ audience: TRACKING, user: 'Jo', pin: '1234' })
  expect(authenticated.amr).toEqual(['device', 'pin'])
  expect((await started.permit()).slot).toBe(permit.slot + 10)
  expect(JSON.parse((await store.read()) as string).identities[0].permit).toBeDefined()

  // The last revision holds for it: a receipt and an enrolment under the RA's new key.
  expect((await started.sign({ audience: TRACKING, payload: Uint8Array.of(1) })).split('.')).toHaveLength(3)
  await started.changePin({ user: 'Jo', oldPin: '1234', newPin: '4321' })
  await started.login({ audience: TRACKING, user: 'Jo', pin: '4321' })
})
