/**
 * Rotations, over the servers themselves: three authorities, the RPS and fleet in one process, time turned by hand. A
 * car and its driver go over to each new key epoch by themselves, and keep identity and PIN.
 */
import { createClient } from '@milagro-ts/api/call'
import { type CeremonyProposal, ceremonyHash } from '@milagro-ts/api/ceremony'
import { ceremonyRun } from '@milagro-ts/api/ceremony-run'
import { dtaRoutes } from '@milagro-ts/api/dta-routes'
import { documentHash, Group } from '@milagro-ts/api/group'
import { rpsRoutes } from '@milagro-ts/api/rps-routes'
import { systemRandom } from '@milagro-ts/api/system'
import { Device } from '@milagro-ts/client/device'
import { decodeRecords } from '@milagro-ts/client/record'
import { memoryTokenStore, type TokenStore } from '@milagro-ts/client/token-store'
import { fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import { PURPOSES, SUITE } from '@milagro-ts/crypto/suite'
import { slotAt } from '@milagro-ts/crypto/time-permit'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Calendar } from './calendar.js'
import { RunningServers } from './running-servers.js'
import { CAR, JO, TRACKING } from './world.js'

const calendar = new Calendar()
let servers: RunningServers
let group: Group
const rps = () => createClient(rpsRoutes, { baseUrl: servers.rpsUrl })
beforeAll(async () => {
  servers = await RunningServers.start({ clock: () => calendar.now, timers: calendar })
  const first = await rps().group({ query: {} })
  group = await Group.verifyChain([first], fromBase64Url(servers.groupId, 'groupId', 32))
}, 180_000)
afterAll(() => servers.close())

/** All authorities deal new keys, which serve from the third slot from now on; the RPS and fleet know it. */
async function rotate(): Promise<void> {
  const firstSlot = slotAt(group.slotRule, calendar.now / 1000) + 3
  const proposal: CeremonyProposal = {
    suite: SUITE,
    v: 1,
    kind: 'rotate',
    groupId: servers.groupId,
    previous: toBase64Url(documentHash(group.document)),
    purposes: [...PURPOSES],
    firstSlot,
    nonce: toBase64Url(systemRandom(32)),
  }
  const hash = toBase64Url(ceremonyHash(proposal))
  for (const { admin } of servers.authorities) await admin.accept({ body: { hash } })
  const clients = new Map(
    group.authorities.map(({ name, url }) => [
      name,
      createClient(dtaRoutes, { baseUrl: url, timeout: 60_000 }),
    ]),
  )
  group = (await ceremonyRun({ proposal, revisions: group.documents, clients })).group
  await rps().publishRevision({ body: { document: group.document } })
}

/** `slots` pass, and everybody has done what it does every so often. */
async function pass(slots: number): Promise<void> {
  calendar.pass(slots)
  // The operator's login wants fleet to have the RPS' revision, and the RPS the authorities' keys.
  await expect
    .poll(() => servers.act().then(() => 'in', String), { timeout: 30_000, interval: 200 })
    .toBe('in')
}

async function car(instance: string): Promise<{ device: Device; store: TokenStore }> {
  const attributes = { ...CAR }
  const { id, code } = await servers.fleet.addVehicle({
    ...(await servers.act()),
    body: { instance, attributes },
  })
  const store = memoryTokenStore()
  const device = await Device.enrol({
    ...servers.ports,
    store,
    code: code?.code as string,
    attributes,
    instance,
  })
  const invited = await servers.fleet.assignDriver({
    ...(await servers.act()),
    params: { id: String(id) },
    body: { attributes: { ...JO } },
  })
  await device.enrolUser({ code: invited.code.code, attributes: JO, pin: '1234' })
  return { device, store }
}

/** Key epochs of the device key and of the driver's token. */
async function epochsIn(store: TokenStore): Promise<(number | undefined)[]> {
  const [record] = decodeRecords((await store.read()) as string)
  return [record?.device?.keyEpoch, record?.users[0]?.token.keyEpoch]
}

const jo = (device: Device, pin = '1234') => device.login({ audience: TRACKING, user: 'Jo', pin })

test('a car and its driver go over to the next key epoch and keep the PIN', {
  timeout: 300_000,
}, async () => {
  const { device, store } = await car('WVWZZZ1JZXW000001')
  const silent = await car('WVWZZZ1JZXW000002')
  const lost = await car('WVWZZZ1JZXW000003')
  const session = await device.session({ audience: TRACKING, user: 'Jo', pin: '1234' })
  const before = device.mpinId

  await rotate()
  expect(group.keys('device').epoch).toBe(2)
  // Announced, not begun: everything goes on with the keys that are there.
  await jo(device)
  expect(await epochsIn(store)).toEqual([1, 1])

  await pass(3)
  // The device alone needs no PIN for its own key; its driver's waits for the driver.
  await device.login({ audience: TRACKING })
  expect(await epochsIn(store)).toEqual([2, 1])
  await expect(jo(device, '9999')).rejects.toMatchObject({ code: 'WRONG_PIN' })
  expect(await epochsIn(store)).toEqual([2, 1])
  expect((await jo(device)).authenticated.amr).toEqual(['device', 'pin'])
  expect(await epochsIn(store)).toEqual([2, 2])
  expect(device.mpinId).toBe(before)
  // A session that was opened before goes on, without the PIN.
  expect(await session.accessToken({ fresh: true })).toMatch(/^[^.]+\.[^.]+\.[^.]+$/)
  await expect(jo(device, '9999')).rejects.toMatchObject({ code: 'WRONG_PIN' })
  await device.changePin({ user: 'Jo', oldPin: '1234', newPin: '4321' })
  await jo(device, '4321')

  await rotate()
  await pass(3)
  expect(group.epochs('device').map(({ epoch }) => epoch)).toEqual([3, 2, 1])
  // Silent for two key epochs: one step, device and driver at once.
  await jo(silent.device)
  expect(await epochsIn(silent.store)).toEqual([3, 3])
  await jo(device, '4321')
  expect(await epochsIn(store)).toEqual([3, 3])

  await rotate()
  await pass(3)
  await expect(lost.device.login({ audience: TRACKING })).rejects.toMatchObject({ code: 'EPOCH_ENDED' })
  await jo(silent.device)
  expect(await epochsIn(silent.store)).toEqual([4, 4])
})
