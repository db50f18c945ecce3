/** examples/express-app as a process, before real servers: authorities, RPS and fleet. */
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { type Client, createClient } from '@milagro-ts/api/call'
import { Device } from '@milagro-ts/client/device'
import { memoryTokenStore } from '@milagro-ts/client/token-store'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { publicKeysFault } from '@milagro-ts/crypto/server-key'
import { fleetRoutes } from '@milagro-ts/fleet/fleet-routes'
import { type FleetSchema, migrations } from '@milagro-ts/fleet/schema'
import { createFleet, openFleetKeys } from '@milagro-ts/fleet/server'
import { openDatabase } from '@milagro-ts/store/database'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { ROOT } from '../scripts/prepare.mjs'
import { freePort } from './free-port.js'
import { PORTS, quiet, RealServers } from './real-servers.js'

const SHOP = 'https://shop.example'
const GOLF = { brand: 'Volkswagen', model: 'Golf' }
const EXAMPLE = join(ROOT, 'examples/express-app/src')
let servers: RealServers
let app: string
let fleet: Client<typeof fleetRoutes>
let act: () => Promise<{ authorization: string }>

beforeAll(async () => {
  servers = await RealServers.make()
  const { folder, rpsUrl, rpaUrl, groupFile } = servers
  const keyFile = join(folder, 'key.json')
  const { stdout } = await promisify(execFile)(process.execPath, [join(EXAMPLE, 'make-key.js'), keyFile])
  const store = await openDatabase<FleetSchema>({ file: ':memory:', migrations })
  const config = {
    name: 'fleet',
    listen: { host: '127.0.0.1', port: Number(new URL(rpaUrl).port) },
    adminListen: { host: '127.0.0.1', port: 0 },
    publicUrl: rpaUrl,
    dataDir: join(folder, 'fleet'),
    groupFile,
    rps: { url: rpsUrl },
    rpsName: 'rps',
    operatorPin: 'never' as const,
  }
  const keys = await openFleetKeys({ ...PORTS, config, store })
  const startRps = await servers.found({
    raKeys: keys.signers.map(({ kid, key }) => ({ kid, key: key.publicKey.toBase64Url() })),
    recipients: [
      JSON.parse(stdout),
      {
        name: 'fleet',
        hpkeKey: toBase64Url(keys.hpkeKey.publicKey),
        requestKey: keys.requestKey.publicKey.toBase64Url(),
      },
    ],
    audiences: [
      { name: SHOP, service: 'shop', pin: 'optional', tlsExporter: 'absent' },
      { name: rpaUrl, service: 'fleet', pin: 'never', tlsExporter: 'absent' },
    ],
    deltaSeconds: 5,
  })
  const settings = { ...config, groupId: servers.groupId }
  const server = await createFleet({
    ...PORTS,
    keyCheck: publicKeysFault,
    config: settings,
    store,
    ...quiet('fleet'),
  })
  await server.start()
  servers.onClose(async () => {
    await server.close()
    await store.close()
  })
  await startRps()
  const port = await freePort()
  app = `http://127.0.0.1:${port}`
  const child = spawn(process.execPath, [join(EXAMPLE, 'app.js')], {
    env: {
      ...process.env,
      RPS: rpsUrl,
      AUDIENCE: SHOP,
      KEY_FILE: keyFile,
      GROUP_FILE: groupFile,
      GROUP_ID: servers.groupId,
      PORT: String(port),
    },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  servers.onClose(() => ended(child))
  await new Promise<void>((resolve, reject) => {
    child.stdout.once('data', () => resolve())
    child.once('exit', status => reject(new Error(`app.js ended with ${status}`)))
  })
  const setup = await server.setupCode()
  const operator = await Device.enrol({
    rps: rpsUrl,
    store: memoryTokenStore(),
    code: setup?.code as string,
    attributes: { operator: 'admin' },
    instance: 'operator:admin',
  })
  act = async () => ({
    authorization: `Bearer ${(await operator.login({ audience: rpaUrl })).accessToken}`,
  })
  fleet = createClient(fleetRoutes, { baseUrl: rpaUrl })
})
afterAll(() => servers.close())

function ended(child: ChildProcess): Promise<void> {
  return new Promise(resolve => {
    child.once('exit', () => resolve())
    child.kill('SIGTERM')
  })
}

async function get(path: string, authorization?: string) {
  const answer = await fetch(app + path, authorization === undefined ? {} : { headers: { authorization } })
  const isJson = answer.headers.get('content-type')?.includes('json') === true
  return { status: answer.status, body: isJson ? await answer.json() : await answer.text() }
}

test('the open page is open; the garage wants a device, of this service, that is not banned', async () => {
  expect(await get('/')).toEqual({ status: 200, body: 'Open to everybody.\n' })
  expect(await get('/garage')).toMatchObject({ status: 401, body: { code: 'UNAUTHENTICATED' } })
  expect(await get('/nothing')).toMatchObject({ status: 401 })
  expect(await get('/garage', 'Bearer a.b.c')).toMatchObject({ status: 401 })

  const { id, code } = await fleet.addVehicle({
    ...(await act()),
    body: { instance: 'VIN-1', attributes: GOLF },
  })
  const car = await Device.enrol({
    rps: servers.rpsUrl,
    store: memoryTokenStore(),
    code: code?.code as string,
    attributes: GOLF,
    instance: 'VIN-1',
  })
  const bearer = `Bearer ${(await car.login({ audience: SHOP })).accessToken}`
  // The stream of ban events may still be on its way when the process says that it listens.
  await expect.poll(() => get('/garage', bearer).then(({ status }) => status)).toBe(200)
  expect(await get('/garage', bearer)).toEqual({
    status: 200,
    body: { idCore: car.idCore.mpinId, amr: ['device'] },
  })
  let onePass = ''
  const prove = async () => {
    onePass = await car.onePass({ audience: SHOP })
    return get('/garage', onePass)
  }
  await expect.poll(prove, { timeout: 30_000 }).toMatchObject({ status: 200 })
  expect(await get('/garage', onePass)).toMatchObject({ status: 409, body: { code: 'REPLAYED' } })
  const { authorization: forFleet } = await act()
  expect(await get('/garage', forFleet)).toMatchObject({ status: 401 })

  await fleet.ban({ ...(await act()), body: { vehicle: id, reason: 'stolen' } })
  const begin = performance.now()
  await expect
    .poll(() => get('/garage', bearer), { interval: 20, timeout: 10_000 })
    .toMatchObject({ status: 403, body: { code: 'BANNED' } })
  expect(performance.now() - begin).toBeLessThan(1000)
  expect(await get('/')).toMatchObject({ status: 200 })
})

test('it stays fifteen lines', async () => {
  const lines = (await readFile(join(EXAMPLE, 'app.js'), 'utf8')).split('\n')
  expect(lines.filter(line => line !== '').length).toBeLessThanOrEqual(15)
})
