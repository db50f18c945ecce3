/** What holds for the whole server: secrets stay inside, strangers are held back, the operator's listener. */
import { readdir, readFile } from 'node:fs/promises'
import { request } from 'node:http'
import { join } from 'node:path'
import { createClient } from '@milagro-ts/api/call'
import { dtaAdminRoutes, dtaRoutes } from '@milagro-ts/api/dta-routes'
import { systemRandom } from '@milagro-ts/api/system'
import { toBase64Url, toHex } from '@milagro-ts/crypto/bytes'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { PURPOSES } from '@milagro-ts/crypto/suite'
import { authorityKeys } from '@milagro-ts/dta/authority-keys'
import type { Store } from '@milagro-ts/store/database'
import { StoreError } from '@milagro-ts/store/store-error'
import { afterAll, beforeAll, expect, test } from 'vitest'
import {
  clientOf,
  codeOf,
  type Founded,
  fetchServerKey,
  foundWorld,
  makeCar,
  PASSPHRASE,
  type Running,
  restart,
  statementFor,
  ticketFor,
} from './world.js'

/** Everything that the authorities drew. */
const drawn: Uint8Array[] = []
let world: Founded
beforeAll(async () => {
  const random = (length: number) => {
    const bytes = systemRandom(length)
    drawn.push(bytes.slice())
    return bytes
  }
  world = await foundWorld({ n: 1, random })
})
afterAll(() => world.close())
const first = (): Running => world.authorities[0] as Running

test('no secret is in the log, nor in the files, of a run with every kind of request', async () => {
  const params = { groupId: world.groupId }
  const S_dev = await fetchServerKey(world, 'device')
  const S_pin = await fetchServerKey(world, 'pin')
  const car = await makeCar(world)
  const ticket = await ticketFor(world, car, { purposes: ['device', 'pin', 'sign'] })
  const statement = await statementFor(world, car)
  for (const running of world.authorities) {
    for (const purpose of ['device', 'pin', 'sign', 'agree'] as const)
      await running.client.shares({ params, body: { ticket, purpose } }).catch(() => undefined)
    await clientOf(world, running, world.rps).permits({ params, body: { statement } })
    await clientOf(world, running, world.tracking)
      .permits({ params, body: { statement } })
      .catch(() => undefined)
  }
  // What fails inside is logged with its error.
  const broken = () => {
    throw new Error('no randomness')
  }
  world.authorities[0] = await restart(first(), { ...world, random: broken })
  expect(await codeOf(first().client.shares({ params, body: { ticket, purpose: 'device' } }))).toBe(
    'INTERNAL',
  )
  world.authorities[0] = await restart(first(), world)

  const secrets: Uint8Array[] = [S_dev.encode(), S_pin.encode()]
  for (const bytes of drawn) {
    // 48 bytes become a master share; 32 bytes are blinds, nonces' seeds, HPKE secrets, the admin token.
    if (bytes.length === 48) secrets.push(Scalar.random(() => bytes).encode())
    if (bytes.length >= 32) secrets.push(bytes)
  }
  for (const { config } of world.authorities) {
    const { signKey, hpkeKey } = await authorityKeys.read({ ...config, passphrase: PASSPHRASE })
    secrets.push(Buffer.from(signKey.toJwk().d, 'base64url'), hpkeKey.secret())
  }
  const texts = [
    PASSPHRASE,
    ticket[0] as string,
    statement,
    ...world.authorities.map(({ dta }) => dta.adminToken),
    ...secrets.flatMap(bytes => [toBase64Url(bytes), toHex(bytes), Buffer.from(bytes).toString('base64')]),
  ]
  const log = world.logged.join('')
  // What is looked for would be found: the log has all of it, the bytes are compared as they are written.
  expect(log).toContain(world.groupId)
  expect(log).toContain('request refused')
  expect(log).toContain('request failed')
  expect(texts.filter(text => log.includes(text))).toEqual([])

  const masterShares = drawn
    .filter(bytes => bytes.length === 48)
    .map(bytes => Scalar.random(() => bytes).encode())
  expect(masterShares).toHaveLength(PURPOSES.length)
  for (const { config } of world.authorities) {
    for (const file of await readdir(config.dataDir)) {
      const bytes = await readFile(join(config.dataDir, file))
      const found = masterShares.filter(
        share =>
          bytes.includes(Buffer.from(share)) ||
          bytes.includes(toBase64Url(share)) ||
          bytes.includes(toHex(share)),
      )
      expect(found, file).toEqual([])
    }
  }
})

test('admin routes want the token; health and metrics do not', async () => {
  const { dta } = first()
  const { port } = dta.admin.server.address() as { port: number }
  const baseUrl = `http://127.0.0.1:${port}`
  const stranger = createClient(dtaAdminRoutes, { baseUrl, authorize: async () => 'Bearer guess' })
  const params = { groupId: world.groupId }
  expect(await codeOf(stranger.status({}))).toBe('UNAUTHENTICATED')
  expect(await codeOf(stranger.accept({ body: { hash: world.groupId } }))).toBe('UNAUTHENTICATED')
  expect(await codeOf(stranger.unfreeze({ params, body: {} }))).toBe('UNAUTHENTICATED')
  expect((await fetch(`${baseUrl}/health/live`)).status).toBe(200)
  const ready = await fetch(`${baseUrl}/health/ready`)
  expect([ready.status, await ready.json()]).toEqual([
    200,
    { ok: true, checks: { store: true, clock: true, groups: true } },
  ])
  const metrics = await (await fetch(`${baseUrl}/metrics`)).text()
  expect(metrics).toContain('milagro_dta_requests_total')
  expect(metrics).not.toContain(world.groupId)
  // None of it is on the public listener.
  for (const path of ['/health/live', '/metrics', '/v1/status'])
    expect((await fetch(`${first().url}${path}`)).status).toBe(404)
})

test('a clock that is behind the log is not ready', async () => {
  const car = await makeCar(world)
  const ticket = await ticketFor(world, car)
  await first().client.shares({ params: { groupId: world.groupId }, body: { ticket, purpose: 'device' } })
  world.clock.now -= 3_600_000
  const { port } = first().dta.admin.server.address() as { port: number }
  const ready = await fetch(`http://127.0.0.1:${port}/health/ready`)
  world.clock.now += 3_600_000
  expect(ready.status).toBe(503)
})

test('a source that asks too often is told when to come back, and nobody else is held up', async () => {
  const config = { rateLimit: { address: { perSecond: 0.5, burst: 3 } } }
  const before = first()
  world.authorities[0] = await restart({ ...before, config: { ...before.config, ...config } }, world)
  const { url } = first()
  for (let i = 0; i < 3; i++) expect((await fetch(`${url}/v1/authority`)).status).toBe(200)
  const refused = await fetch(`${url}/v1/authority`)
  expect([refused.status, refused.headers.get('retry-after')]).toEqual([503, '2'])
  expect(await refused.json()).toMatchObject({ code: 'RETRY_LATER' })
  expect(await statusFrom('127.0.0.2', `${url}/v1/authority`)).toBe(200)
  world.clock.now += 2_000
  expect((await fetch(`${url}/v1/authority`)).status).toBe(200)
  world.authorities[0] = await restart({ ...first(), config: before.config }, world)
})

test("a group's allowance is used up by what the RA has signed, not by strangers", async () => {
  const config = { rateLimit: { group: { perSecond: 0.1, burst: 2 } } }
  const before = first()
  world.authorities[0] = await restart({ ...before, config: { ...before.config, ...config } }, world)
  const ask = (ticket: string[]) =>
    first().client.shares({ params: { groupId: world.groupId }, body: { ticket, purpose: 'device' } })
  const forged = await ticketFor(world, await makeCar(world), {}, { key: world.rps.requestKey, kid: 'ra1' })
  for (let i = 0; i < 5; i++) expect(await codeOf(ask(forged))).toBe('NOT_APPROVED')
  const ticket = await ticketFor(world, await makeCar(world))
  await ask(ticket)
  await ask(ticket)
  expect(await codeOf(ask(ticket))).toBe('RETRY_LATER')
  world.authorities[0] = await restart({ ...first(), config: before.config }, world)
})

test('a store that cannot be used: nothing is issued, and it recovers by itself', async () => {
  let down = false
  const throughStore = (store: Store<unknown>): Store<unknown> => ({
    db: store.db,
    atomic: work => (down ? Promise.reject(new StoreError('unavailable', 'disk full')) : store.atomic(work)),
    read: work => (down ? Promise.reject(new StoreError('unavailable', 'disk full')) : store.read(work)),
    backup: file => store.backup(file),
    foldLog: () => store.foldLog(),
    writable: async () => !down && (await store.writable()),
    close: () => store.close(),
  })
  world.authorities[0] = await restart(first(), { ...world, throughStore })
  const params = { groupId: world.groupId }
  const ticket = await ticketFor(world, await makeCar(world))
  const ask = () => first().client.shares({ params, body: { ticket, purpose: 'device' } })
  const askServerKey = () =>
    clientOf(world, first(), world.rps).serverKeys({
      params,
      body: { purpose: 'device', keyEpoch: 1, nonce: toBase64Url(systemRandom(16)) },
    })
  down = true
  expect(await codeOf(ask())).toBe('RETRY_LATER')
  expect(await codeOf(askServerKey())).toBe('RETRY_LATER')
  const { port } = first().dta.admin.server.address() as { port: number }
  expect((await fetch(`http://127.0.0.1:${port}/health/ready`)).status).toBe(503)
  down = false
  await ask()
  await askServerKey()
  world.authorities[0] = await restart(first(), world)
})

test('what has expired is purged, and what has not stays', async () => {
  const due: (() => void)[] = []
  const timers = {
    every: (_: number, run: () => void) => {
      due.push(run)
      return () => due.splice(0)
    },
    after: () => () => undefined,
  }
  world.authorities[0] = await restart(first(), { ...world, timers })
  const rps = clientOf(world, first(), world.rps)
  const ask = () =>
    rps.serverKeys({
      params: { groupId: world.groupId },
      body: { purpose: 'device', keyEpoch: 1, nonce: toBase64Url(systemRandom(16)) },
    })
  const kept = () =>
    first().store.atomic(
      connection => connection.all("SELECT key FROM single_use WHERE kind = 'request'").length,
    )
  await ask()
  world.clock.now += 50_000
  const before = await kept()
  await ask()
  expect(await kept()).toBe(before + 1)
  world.clock.now += 20_000
  for (const run of due) run()
  expect(await kept()).toBe(1)
  world.authorities[0] = await restart(first(), world)
  expect(due).toEqual([])
})

test('the routes that are mounted are those of the table', async () => {
  const document = (await (await fetch(`${first().url}/openapi.json`)).json()) as { paths: object }
  const paths = Object.values(dtaRoutes).map(({ path }) => path.replaceAll(/:([A-Za-z]+)/g, '{$1}'))
  expect(Object.keys(document.paths).sort()).toEqual([...new Set(paths)].sort())
})

/** The status of a GET from another address of this machine. */
function statusFrom(localAddress: string, url: string): Promise<number | undefined> {
  return new Promise((resolve, reject) => {
    request(url, { localAddress }, response => {
      response.resume()
      resolve(response.statusCode)
    })
      .on('error', reject)
      .end()
  })
}
