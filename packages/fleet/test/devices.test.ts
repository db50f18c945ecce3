/** The list of devices that static servers of the group get, and nobody else. */
import { createClient } from '@milagro-ts/api/call'
import { DEVICES_PAGE, registerRoutes } from '@milagro-ts/api/register-routes'
import { requestSigner } from '@milagro-ts/api/request-auth'
import { be32, concat, fromBase64Url, toHex } from '@milagro-ts/crypto/bytes'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { refusal, World } from './fleet-world.js'

let world: World
beforeAll(async () => {
  world = await World.start()
})
afterAll(() => world.stop())

function as(name: string, key = world.broker) {
  const { random, time, url, config } = world
  const sign = requestSigner({ name, key, clock: time.clock, random })
  return createClient(registerRoutes, {
    baseUrl: url,
    authorize: request => sign({ ...request, url: request.url.replace(url, config.publicUrl) }),
  })
}

test('vehicles in force by the order of their bytes, from anywhere; banned ones too, revoked ones and operators not', async () => {
  const cars: Awaited<ReturnType<World['car']>>[] = []
  for (let i = 0; i < 4; i++) cars.push(await world.car(`VIN-${i}`))
  const ids = () =>
    cars.map(({ device }) => device.idCore).sort((one, other) => (hexOf(one) < hexOf(other) ? -1 : 1))
  const hexOf = (id: string) => toHex(fromBase64Url(id, 'id', 39))
  const all = await as('broker').devices({ query: {} })
  expect(all).toEqual({ devices: ids(), more: false })
  const [first, second] = ids()
  expect((await as('broker').devices({ query: { after: first as string } })).devices[0]).toBe(second)
  const [gone, banned] = cars as [(typeof cars)[0], (typeof cars)[0]]
  await world.api.ban({ body: { vehicle: banned.id, reason: 'test' } })
  await world.api.revoke({ params: { id: String(gone.id) }, body: {} })
  cars.shift()
  expect((await as('broker').devices({ query: {} })).devices).toEqual(ids())
})

test('more than a page: each once, in order, and the last page says so', async () => {
  const csv = ['vin,brand', ...Array.from({ length: DEVICES_PAGE + 1 }, (_, i) => `MANY-${i},Acme`)].join(
    '\n',
  )
  await world.api.importVehicles({ body: { csv } })
  const { db } = world.store
  const devices = await db.selectFrom('device').select('id').where('instance', 'like', 'MANY-%').execute()
  const many = devices.map(({ id }, i) => ({
    device_id: id,
    generation: 0,
    leaf: 1_000_000 + i,
    id_core: concat(be32(1_000_000 + i), new Uint8Array(35)),
    salt: new Uint8Array(16),
    issue_date: '2026-01-01',
    issued_at: world.seconds,
    revoked_at: null,
    seen_at: null,
  }))
  for (let i = 0; i < many.length; i += 100)
    await world.store.db
      .insertInto('identity')
      .values(many.slice(i, i + 100))
      .execute()
  const first = await as('broker').devices({ query: {} })
  expect([first.devices.length, first.more]).toEqual([DEVICES_PAGE, true])
  const last = await as('broker').devices({ query: { after: first.devices.at(-1) as string } })
  expect(last.more).toBe(false)
  const all = [...first.devices, ...last.devices].map(device => toHex(fromBase64Url(device, 'device', 39)))
  expect(all).toEqual([...new Set(all)].sort())
  expect(all).toEqual(expect.arrayContaining(many.map(row => toHex(row.id_core))))
})

test('no server of another kind, no stranger, no operator', async () => {
  expect(await refusal(as('rps', world.members.rps.signKey).devices({ query: {} }))).toBe('FORBIDDEN')
  expect(await refusal(as('tracking', world.members.tracking.signKey).devices({ query: {} }))).toBe(
    'FORBIDDEN',
  )
  expect(await refusal(as('broker', world.members.rps.signKey).devices({ query: {} }))).toBe(
    'UNAUTHENTICATED',
  )
  const token = await world.operatorToken()
  const operator = createClient(registerRoutes, { baseUrl: world.url, authorize: async () => token })
  expect(await refusal(operator.devices({ query: {} }))).toBe('UNAUTHENTICATED')
})
