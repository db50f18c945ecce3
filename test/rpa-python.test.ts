/** examples/rpa-python: an application that shares no line with us, as the RA of a real group. */
import { execFile, spawn, spawnSync } from 'node:child_process'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { createClient } from '@milagro-ts/api/call'
import { type Es256PrivateKey, generateEs256, generateHpkeKey } from '@milagro-ts/api/keys'
import { requestSigner } from '@milagro-ts/api/request-auth'
import { rpaRoutes } from '@milagro-ts/api/rpa-routes'
import { rpsRoutes } from '@milagro-ts/api/rps-routes'
import { systemClock, systemRandom } from '@milagro-ts/api/system'
import { Device } from '@milagro-ts/client/device'
import { memoryTokenStore } from '@milagro-ts/client/token-store'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { refusal } from '../packages/fleet/test/fleet-world.js'
import { ROOT } from '../scripts/prepare.mjs'
import { RealServers } from './real-servers.js'

/** Debian's own comes with Debian's python3-cryptography; another one stands before it on some machines' PATH. */
const python = ['/usr/bin/python3', 'python3'].find(
  command => spawnSync(command, ['-c', 'import cryptography']).status === 0,
)
if (python === undefined)
  console.log(
    'skipped: examples/rpa-python wants python3 with cryptography (apt install python3-cryptography)',
  )
const PROGRAM = join(ROOT, 'examples/rpa-python/rpa.py')
const SHOP = 'https://shop.example'
const GOLF = { brand: 'Volkswagen', model: 'Gölf' }
const VIN = 'WVWZZZ1JZXW000001'

describe.skipIf(python === undefined)('an application in Python', () => {
  let servers: RealServers
  let config: string
  let shop: Es256PrivateKey
  const run = async (...argv: string[]) =>
    (await promisify(execFile)(python as string, [PROGRAM, '--config', config, ...argv])).stdout.trim()

  beforeAll(async () => {
    servers = await RealServers.make()
    config = join(servers.folder, 'rpa.json')
    const settings = {
      listen: { host: '127.0.0.1', port: Number(new URL(servers.rpaUrl).port) },
      publicUrl: servers.rpaUrl,
      rpsUrl: servers.rpsUrl,
      rpsName: 'rps',
      kid: 'python-1',
      keyFile: join(servers.folder, 'ra-key.pem'),
      database: join(servers.folder, 'register.sqlite'),
      groupFile: servers.groupFile,
    }
    await writeFile(config, JSON.stringify(settings))
    const raKeys = [JSON.parse(await run('init')) as { kid: string; key: string }]
    const service = await generateEs256()
    const startRps = await servers.found({
      raKeys,
      recipients: [
        {
          name: 'shop',
          hpkeKey: toBase64Url((await generateHpkeKey(systemRandom)).publicKey),
          requestKey: service.publicKey.toBase64Url(),
        },
      ],
      audiences: [{ name: SHOP, service: 'shop', pin: 'never', tlsExporter: 'absent' }],
    })
    shop = service
    await writeFile(config, JSON.stringify({ ...settings, groupId: servers.groupId }))
    const child = spawn(python as string, [PROGRAM, '--config', config, 'serve'], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    servers.onClose(async () => {
      const ended = new Promise(resolve => child.once('exit', resolve))
      child.kill('SIGTERM')
      await ended
    })
    await new Promise<void>((resolve, reject) => {
      child.stdout.once('data', () => resolve())
      child.once('exit', status => reject(new Error(`rpa.py ended with ${status}`)))
    })
    await startRps()
  })
  afterAll(() => servers?.close())

  const device = (code: string, attributes: Record<string, string> = GOLF, instance = VIN) =>
    Device.enrol({ rps: servers.rpsUrl, store: memoryTokenStore(), code, attributes, instance })
  const outcome = (car: Device) =>
    car.login({ audience: SHOP }).then(
      () => 'in',
      (error: { code?: string }) => error.code,
    )

  test('a device enrols, logs in, is banned, and is let in again', async () => {
    const code = await run('add', VIN, 'brand=Volkswagen', 'model=Gölf')
    await expect(device(code, { ...GOLF, model: 'Polo' })).rejects.toMatchObject({ code: 'NOT_APPROVED' })
    const car = await device(code)
    expect(car.idCore.factors).toBe(0)
    const { authenticated } = await car.login({ audience: SHOP })
    expect(authenticated).toMatchObject({ idCore: car.idCore.mpinId, amr: ['device'] })
    expect((await car.permit()).covers(car.idCore)).toBe(true)
    await expect(device(code)).rejects.toMatchObject({ code: 'CONFLICT' })

    await run('ban', VIN)
    expect(await outcome(car)).toBe('BANNED')
    await run('unban', VIN)
    expect(await outcome(car)).toBe('in')
  })

  test('a service is told who it is', async () => {
    const code = await run('add', 'VIN-2', 'brand=Fiat')
    const car = await device(code, { brand: 'Fiat' }, 'VIN-2')
    await car.login({ audience: SHOP })
    const sign = requestSigner({ name: 'shop', key: shop, clock: systemClock, random: systemRandom })
    const rps = createClient(rpsRoutes, { baseUrl: servers.rpsUrl, authorize: sign })
    const identity = await rps.identity({ params: { idCore: car.idCore.mpinId }, query: {} })
    expect(identity).toEqual({ attributes: { brand: 'Fiat' }, instance: 'VIN-2' })
  })

  test('nobody but the RPS is answered', async () => {
    const ask = (name: string, key: Es256PrivateKey) =>
      createClient(rpaRoutes, {
        baseUrl: servers.rpaUrl,
        authorize: requestSigner({ name, key, clock: systemClock, random: systemRandom }),
      }).state({})
    expect(await refusal(ask('shop', shop))).toBe('FORBIDDEN')
    expect(await refusal(ask('rps', shop))).toBe('UNAUTHENTICATED')
    expect(await refusal(createClient(rpaRoutes, { baseUrl: servers.rpaUrl }).state({}))).toBe(
      'UNAUTHENTICATED',
    )
    const call = (method: string, path: string, body?: string) =>
      fetch(servers.rpaUrl + path, { method, ...(body === undefined ? {} : { body }) }).then(async answer => [
        answer.status,
        ((await answer.json()) as { code: string }).code,
      ])
    expect(await call('GET', '/v1/nothing')).toEqual([404, 'NOT_FOUND'])
    expect(await call('GET', '/v1/verify')).toEqual([405, 'METHOD_NOT_ALLOWED'])
    expect(await call('POST', '/v1/verify', '{}')).toEqual([401, 'UNAUTHENTICATED'])
    expect(await call('POST', '/v1/verify', 'x'.repeat(70_000))).toEqual([413, 'TOO_LARGE'])
  })
})
