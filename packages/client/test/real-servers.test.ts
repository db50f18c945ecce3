/** The SDK against the servers themselves: three authorities, the RPS and fleet, in one process, over HTTP. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Client, createClient } from '@milagro-ts/api/call'
import { dtaAdminRoutes, dtaRoutes } from '@milagro-ts/api/dta-routes'
import { groupMake } from '@milagro-ts/api/founding'
import { proposalHash } from '@milagro-ts/api/group'
import type { GroupProposal } from '@milagro-ts/api/group-document'
import { createLog } from '@milagro-ts/api/log'
import { createMetrics } from '@milagro-ts/api/metrics'
import { systemClock, systemRandom } from '@milagro-ts/api/system'
import { Device } from '@milagro-ts/client/device'
import { memoryTokenStore } from '@milagro-ts/client/token-store'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { createDta, openKeys as openDtaKeys } from '@milagro-ts/dta/server'
import { dtaMigrations } from '@milagro-ts/dta/tables'
import { fleetRoutes } from '@milagro-ts/fleet/fleet-routes'
import { type FleetSchema, migrations as fleetMigrations } from '@milagro-ts/fleet/schema'
import { createFleet, openFleetKeys } from '@milagro-ts/fleet/server'
import { createRps, openKeys as openRpsKeys } from '@milagro-ts/rps/server'
import { rpsMigrations } from '@milagro-ts/rps/tables'
import { openDatabase } from '@milagro-ts/store/database'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { CAR, CHEAP, JO, TRACKING, VIN } from './world.js'

const HERE = { host: '127.0.0.1', port: 0 }
const world = { clock: systemClock, random: systemRandom, passphrase: 'a passphrase of the test’s' }
const quiet = (name: string) => ({ log: createLog(name, { level: 'silent' }), metrics: createMetrics(name) })
const ending: (() => Promise<unknown>)[] = []

let rpsUrl: string
let groupId: string
let operator: Device
let fleet: Client<typeof fleetRoutes>
/** With a fresh token of the operator's. */
const act = async () => ({ authorization: `Bearer ${(await login()).accessToken}` })
let login: () => Promise<{ accessToken: string }>

beforeAll(async () => {
  const folder = await mkdtemp(join(tmpdir(), 'milagro-real-'))
  ending.push(() => rm(folder, { recursive: true }))
  const [rpsPort, fleetPort] = await Promise.all([freePort(), freePort()])
  rpsUrl = `http://127.0.0.1:${rpsPort}`
  const fleetUrl = `http://127.0.0.1:${fleetPort}`

  const authorities = await Promise.all(
    [1, 2, 3].map(async index => {
      const name = `ta${index}`
      const config = { name, listen: HERE, adminListen: HERE, dataDir: join(folder, name) }
      const store = await openDatabase<unknown>({ file: ':memory:', migrations: dtaMigrations })
      const keys = await openDtaKeys({ ...world, config, store })
      const dta = await createDta({ ...world, config, store, ...quiet(name) })
      const { url, adminUrl } = await dta.start()
      ending.unshift(async () => {
        await dta.close()
        await store.close()
      })
      const admin = createClient(dtaAdminRoutes, {
        baseUrl: adminUrl,
        authorize: async () => `Bearer ${dta.adminToken}`,
      })
      return { index, name, url, keys, admin }
    }),
  )
  const rpsConfig = { name: 'rps', dataDir: join(folder, 'rps') }
  const fleetConfig = { name: 'fleet', dataDir: join(folder, 'fleet') }
  const rpsStore = await openDatabase<unknown>({ file: ':memory:', migrations: rpsMigrations })
  const fleetStore = await openDatabase<FleetSchema>({ file: ':memory:', migrations: fleetMigrations })
  const groupFile = join(folder, 'group.json')
  const listens = (port: number) => ({ listen: { ...HERE, port }, adminListen: HERE, groupFile })
  const rpsSettings = {
    ...rpsConfig,
    ...listens(rpsPort),
    publicUrl: rpsUrl,
    groupId: '',
    rpa: { url: fleetUrl },
    audiences: [
      { name: TRACKING, pin: 'optional' as const, tlsExporter: 'absent' as const },
      { name: fleetUrl, service: 'fleet', pin: 'required' as const, tlsExporter: 'absent' as const },
    ],
  }
  const fleetSettings = {
    ...fleetConfig,
    ...listens(fleetPort),
    publicUrl: fleetUrl,
    groupId: '',
    rps: { url: rpsUrl },
    rpsName: 'rps',
  }
  const rpsKeys = await openRpsKeys({ ...world, config: rpsSettings })
  const fleetKeys = await openFleetKeys({ ...world, config: fleetSettings, store: fleetStore })
  const recipient = (
    name: string,
    { hpkeKey, requestKey }: Pick<typeof rpsKeys, 'hpkeKey' | 'requestKey'>,
    purposes: GroupProposal['recipients'][number]['purposes'],
  ) => ({
    name,
    kind: 2,
    generation: 1,
    purposes,
    hpkeKey: toBase64Url(hpkeKey.publicKey),
    requestKey: requestKey.publicKey.toBase64Url(),
  })
  const proposal: GroupProposal = {
    suite: 'BLS12381-SHA256-V1',
    v: 1,
    n: 3,
    t: 3,
    authorities: authorities.map(({ index, name, url, keys }) => ({
      index,
      name,
      url,
      signKey: keys.signKey.publicKey.toBase64Url(),
      hpkeKey: toBase64Url(keys.hpkeKey.publicKey),
    })),
    ra: { m: 1, keys: fleetKeys.signers.map(({ kid, key }) => ({ kid, key: key.publicKey.toBase64Url() })) },
    recipients: [recipient('rps', rpsKeys, ['device', 'pin']), recipient('fleet', fleetKeys, ['agree'])],
    slot: { origin: 1_767_225_600, length: 86_400 },
    policy: { lead: 1, grace: 300 },
    firstSlot: 0,
    nonce: toBase64Url(systemRandom(32)),
  }
  const hash = toBase64Url(proposalHash(proposal))
  for (const { admin } of authorities) await admin.accept({ body: { hash } })
  const clients = authorities.map(({ url }) => createClient(dtaRoutes, { baseUrl: url }))
  const group = await groupMake({ proposal, clients })
  groupId = toBase64Url(group.groupId)
  await writeFile(groupFile, JSON.stringify(group.documents))

  const server = await createFleet({
    ...world,
    config: { ...fleetSettings, groupId },
    store: fleetStore,
    ...quiet('fleet'),
  })
  await server.start()
  const setup = await server.setupCode()
  if (setup === null) throw new Error('fleet made no setup code')
  const rps = await createRps({
    ...world,
    config: { ...rpsSettings, groupId },
    store: rpsStore,
    ...quiet('rps'),
  })
  await rps.start()
  ending.unshift(async () => {
    await Promise.all([rps.close(), server.close()])
    await Promise.all([rpsStore.close(), fleetStore.close()])
  })

  operator = await Device.enrol({
    ...ports(),
    code: setup.code,
    attributes: { operator: 'admin' },
    instance: 'operator:admin',
    pin: 'correct horse',
  })
  login = () => operator.login({ audience: fleetUrl, pin: 'correct horse' })
  fleet = createClient(fleetRoutes, { baseUrl: fleetUrl })
}, 120_000)
afterAll(async () => {
  for (const end of ending) await end()
})

function ports() {
  return { rps: rpsUrl, store: memoryTokenStore(), pinCost: CHEAP }
}

async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  await new Promise(resolve => server.close(resolve))
  return port
}

test('a car and its driver live through their whole story', { timeout: 120_000 }, async () => {
  const { id, code } = await fleet.addVehicle({
    ...(await act()),
    body: { instance: VIN, attributes: { ...CAR } },
  })
  const store = memoryTokenStore()
  const car = await Device.enrol({
    ...ports(),
    store,
    code: code?.code as string,
    attributes: CAR,
    instance: VIN,
  })
  const vehicle = { params: { id: String(id) } }

  const invited = await fleet.assignDriver({ ...(await act()), ...vehicle, body: { attributes: { ...JO } } })
  await car.enrolUser({ code: invited.code.code, attributes: JO, pin: '1234' })
  const jo = (pin: string) => car.login({ audience: TRACKING, user: 'Jo', pin })
  expect((await jo('1234')).authenticated.amr).toEqual(['device', 'pin'])

  const permit = await car.permit()
  expect(permit.covers(car.idCore)).toBe(true)
  const receipt = await car.sign({ audience: TRACKING, payload: Uint8Array.of(1, 2, 3) })
  expect(receipt.split('.')).toHaveLength(3)

  await car.changePin({ user: 'Jo', oldPin: '1234', newPin: '4321' })
  await jo('1234')
  await jo('4321')
  await expect(jo('1234')).rejects.toMatchObject({ code: 'WRONG_PIN' })

  // With the old PIN just now that makes three in a row.
  for (const wrong of ['0000', '1111']) await expect(jo(wrong)).rejects.toMatchObject({ code: 'WRONG_PIN' })
  await expect(jo('4321')).rejects.toMatchObject({ code: 'LOCKED' })
  const unlocking = { params: { id: String(id), driver: String(invited.driver) } }
  await fleet.unlock({ ...(await act()), ...unlocking, body: {} })
  await expect.poll(() => jo('4321').then(() => 'in'), { timeout: 10_000 }).toBe('in')

  const reset = await fleet.resetPin({ ...(await act()), ...unlocking, body: {} })
  await car.enrolUser({ code: reset.code, attributes: JO, pin: '9876' })
  await jo('9876')
  await expect(jo('4321')).rejects.toMatchObject({ code: 'WRONG_PIN' })

  const banned = await fleet.ban({ ...(await act()), body: { vehicle: id, reason: 'stolen' } })
  await expect
    .poll(() => car.login({ audience: TRACKING }).catch(error => error.code), { timeout: 10_000 })
    .toBe('BANNED')
  await fleet.unban({ ...(await act()), params: { id: String(banned.id) } })
  await expect
    .poll(
      () =>
        car.login({ audience: TRACKING }).then(
          () => 'in',
          error => error.code,
        ),
      { timeout: 10_000 },
    )
    .toBe('in')

  const next = await fleet.nextGeneration({ ...(await act()), ...vehicle, body: {} })
  const claim = { ...ports(), store, code: next.code, attributes: CAR, instance: VIN }
  await expect(Device.enrol(claim)).rejects.toMatchObject({ code: 'ALREADY_ENROLLED' })
  const renewed = await Device.enrol({ ...claim, replace: true })
  expect(renewed.idCore.generation).toBe(car.idCore.generation + 1)
  await renewed.login({ audience: TRACKING })
  await expect(car.login({ audience: TRACKING })).rejects.toMatchObject({ code: 'STORE_CHANGED' })
})

test('a car that nobody knows is approved by its six words', { timeout: 60_000 }, async () => {
  const instance = 'WVWZZZ1JZXW000002'
  let shown = ''
  const car = await Device.enrol({
    ...ports(),
    groupId,
    attributes: CAR,
    instance,
    onWords: words => {
      shown = words
    },
    wait: async () => {
      const { approvals } = await fleet.listApprovals(await act())
      const waiting = approvals.find(approval => approval.words === shown)
      if (waiting !== undefined)
        await fleet.approve({
          ...(await act()),
          params: { id: String(waiting.id) },
          body: { words: shown, factors: 2 },
        })
    },
  })
  await car.login({ audience: TRACKING })
})
