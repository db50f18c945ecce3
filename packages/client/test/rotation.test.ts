/**
 * Rotations, over the servers themselves: three authorities, the RPS and fleet in one process, time turned by hand. A
 * car and its driver go over to each new key epoch by themselves, and keep identity and PIN.
 */
import { createClient } from '@milagro-ts/api/call'
import { Group } from '@milagro-ts/api/group'
import { generateHpkeKey } from '@milagro-ts/api/keys'
import { rpsRoutes } from '@milagro-ts/api/rps-routes'
import { systemRandom, systemTimers } from '@milagro-ts/api/system'
import { Device } from '@milagro-ts/client/device'
import type { DeviceOptions } from '@milagro-ts/client/ports'
import { decodeRecords } from '@milagro-ts/client/record'
import { memoryTokenStore, type TokenStore } from '@milagro-ts/client/token-store'
import { callbackUnlocker } from '@milagro-ts/client/unlocker'
import { fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import { slotAt } from '@milagro-ts/crypto/time-permit'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Calendar } from './calendar.js'
import { passSlots, rotateKeys } from './rotate-keys.js'
import { RunningServers, SLOT } from './running-servers.js'
import { CAR, JO, TRACKING } from './world.js'

const calendar = new Calendar()
let servers: RunningServers
let group: Group
const rps = () => createClient(rpsRoutes, { baseUrl: servers.rpsUrl })
beforeAll(async () => {
  servers = await RunningServers.start({
    clock: () => calendar.now,
    timers: calendar,
    devicePurposes: ['device', 'sign'],
  })
  const first = await rps().group({ query: {} })
  group = await Group.verifyChain([first], fromBase64Url(servers.groupId, 'groupId', 32))
}, 180_000)
afterAll(() => servers.close())

const rotate = async () => {
  group = await rotateKeys(servers, group, calendar.now)
}
const pass = (slots: number) => passSlots(servers, calendar, slots)

async function car(
  instance: string,
  options: Partial<DeviceOptions> = {},
): Promise<{ id: number; device: Device; store: TokenStore }> {
  const attributes = { ...CAR }
  const { id, code } = await servers.fleet.addVehicle({
    ...(await servers.act()),
    body: { instance, attributes },
  })
  const store = memoryTokenStore()
  const device = await Device.enrol({
    ...servers.ports,
    ...options,
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
  return { id, device, store }
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

test('a device whose signing key has ended asks nobody for the keys of slots, however many a file names', async () => {
  let asked = 0
  const counted: typeof fetch = (input, init) => {
    asked++
    return fetch(input, init)
  }
  const { device } = await car('WVWZZZ1JZXW000004', { fetch: counted })
  await rotate()
  await pass(3)
  const slot = slotAt(group.slotRule, calendar.now / 1000)
  const open = (epoch: number) => device.decapsulate(new Uint8Array(160), { epoch, slot })
  await expect(open(1)).rejects.toMatchObject({ code: 'EPOCH_ENDED' })
  const once = asked
  for (let epoch = 2; epoch < 10; epoch++)
    await expect(open(epoch)).rejects.toMatchObject({ code: 'EPOCH_ENDED' })
  expect(asked).toBe(once)
})

/** What a bad RPS or relay does to a rotation: `change` has the request's body and the true answer's. */
function tampering(change: (body: Json, send: (body: Json) => Promise<Json>) => Promise<Json>): typeof fetch {
  return async (input, init) => {
    if (new URL(String(input)).pathname !== '/v1/key-rotations') return fetch(input, init)
    let refused: Response | undefined
    const send = async (body: Json): Promise<Json> => {
      const response = await fetch(input, { ...init, body: JSON.stringify(body) })
      if (!response.ok) refused = response
      return response.ok ? ((await response.json()) as Json) : {}
    }
    const answer = await change(JSON.parse(new TextDecoder().decode(init?.body as Uint8Array)) as Json, send)
    return (
      refused ?? new Response(JSON.stringify(answer), { headers: { 'content-type': 'application/json' } })
    )
  }
}
type Json = Record<string, unknown>
type Shares = { index: number; shareEpoch: number; sealed: string }[]

test('whatever is done on the way to a rotation, a key is the right one or the former one', {
  timeout: 300_000,
}, async () => {
  const secret = systemRandom(32)
  const unlocker = callbackUnlocker(async () => secret)
  const [plain, locked, other] = [
    await car('WVWZZZ1JZXW000011'),
    await car('WVWZZZ1JZXW000012', { unlocker }),
    await car('WVWZZZ1JZXW000013'),
  ]
  const former = group.keys('device').epoch
  await rotate()
  await pass(3)
  const next = former + 1
  const through = (store: TokenStore, doing: typeof fetch, more: Partial<DeviceOptions> = {}) =>
    Device.open({ ...servers.ports, ...more, store, fetch: doing, wait: async () => undefined })
  const codeOf = (doing: Promise<unknown>) =>
    doing.then(
      () => 'in',
      (error: { code?: string; message: string }) => error.code ?? error.message,
    )
  const alone = async (doing: typeof fetch) =>
    codeOf((await through(plain.store, doing)).login({ audience: TRACKING }))
  const kept = async () => expect(await epochsIn(plain.store)).toEqual([former, former])

  // A relay with a key of its own: the payload that was signed is another.
  const hpkeKey = toBase64Url((await generateHpkeKey(systemRandom)).publicKey)
  expect(await alone(tampering((body, send) => send({ ...body, hpkeKey })))).toBe('MALFORMED')
  // Another step than was signed.
  const device = { from: former, to: former + 2 }
  expect(await alone(tampering((body, send) => send({ ...body, device })))).toBe('EXPIRED')
  await kept()

  // An authority's share for another, cut, or from a rotation of somebody else.
  const changed = (change: (shares: Shares) => Shares) =>
    tampering(async (body, send) => {
      const answer = await send(body)
      return { ...answer, device: change(answer.device as Shares) }
    })
  expect(
    await alone(
      changed(shares =>
        shares.map((share, i) => ({ ...share, sealed: shares[(i + 1) % 3]?.sealed as string })),
      ),
    ),
  ).toBe('WRONG_SHARE')
  expect(await alone(changed(shares => shares.map(share => ({ ...share, sealed: 'AAAA' }))))).toBe(
    'WRONG_SHARE',
  )
  expect(await alone(changed(shares => shares.slice(1)))).toBe('RETRY_LATER')
  expect(await alone(changed(shares => shares.map(share => ({ ...share, index: 1 }))))).toBe('WRONG_SHARE')
  let others: Json = {}
  const watching = tampering(async (body, send) => {
    others = await send(body)
    return others
  })
  await (await through(other.store, watching)).login({ audience: TRACKING })
  expect(await alone(tampering(async (body, send) => ({ ...(await send(body)), ...others })))).toBe(
    'WRONG_SHARE',
  )
  await kept()

  // The answer is lost: of the device alone it is asked for again, with a PIN the caller decides.
  let losses = 1
  const losing = tampering(async (body, send) => {
    const answer = await send(body)
    if (losses-- > 0) throw new TypeError('the connection broke')
    return answer
  })
  const lossy = await through(plain.store, losing)
  expect(await codeOf(lossy.login({ audience: TRACKING, user: 'Jo', pin: '1234' }))).toBe('OUTCOME_UNKNOWN')
  await kept()

  // Killed between the delta and the store, and in a write that failed.
  let failures = 1
  const failing: TokenStore = {
    read: () => plain.store.read(),
    replace: async (before, after) => {
      if (after.includes(`"keyEpoch":${next}`) && failures-- > 0) throw new Error('killed')
      return plain.store.replace(before, after)
    },
  }
  expect(
    await codeOf((await through(failing, fetch)).login({ audience: TRACKING, user: 'Jo', pin: '1234' })),
  ).toBe('killed')
  await kept()

  // Two processes on one store at once.
  const both = await Promise.all([through(plain.store, fetch), through(plain.store, fetch)])
  await Promise.all(both.map(one => one.login({ audience: TRACKING })))
  expect(await epochsIn(plain.store)).toEqual([next, former])
  // A proof that asks nobody but for the key it lacks.
  expect(await (both[0] as Device).onePass({ audience: TRACKING, user: 'Jo', pin: '1234' })).toMatch(/^MPIN /)
  expect(await epochsIn(plain.store)).toEqual([next, next])
  await jo(both[1] as Device)

  // Under an unlocker the key stays locked, by the same secret.
  await locked.device.login({ audience: TRACKING })
  expect(await epochsIn(locked.store)).toEqual([next, former])
  const without = await through(locked.store, fetch)
  expect(await codeOf(without.login({ audience: TRACKING }))).toBe('WRONG_UNLOCKER')
  await jo(await through(locked.store, fetch, { unlocker }))
})

test('the step to a key epoch is fetched ahead of its first slot, and taken then without asking', {
  timeout: 300_000,
}, async () => {
  const sent: string[] = []
  const watching: typeof fetch = (input, init) => {
    sent.push(new URL(String(input)).pathname)
    return fetch(input, init)
  }
  const rotations = () => sent.filter(path => path === '/v1/key-rotations').length
  const secret = systemRandom(32)
  const unlocker = callbackUnlocker(async () => secret)
  const { device, store } = await car('WVWZZZ1JZXW000021', { fetch: watching, unlocker })
  const silent = await car('WVWZZZ1JZXW000022')
  const banned = await car('WVWZZZ1JZXW000023')
  const former = group.keys('device').epoch
  const next = former + 1
  const aheadIn = async ({ store }: { store: TokenStore }) =>
    decodeRecords((await store.read()) as string)[0]?.device?.ahead ?? null

  await rotate()
  await servers.fleet.ban({ ...(await servers.act()), body: { vehicle: banned.id, reason: 'stolen' } })
  await expect
    .poll(() => banned.device.login({ audience: TRACKING }).then(() => 'in', String), { timeout: 10_000 })
    .toContain('BANNED')
  const errors: unknown[] = []
  // Timers that the test runs: the moments are ahead.test.ts' matter.
  const waiting: (() => void)[] = []
  const timers = {
    ...systemTimers,
    after: (_: number, run: () => void) => {
      waiting.push(run)
      return () => undefined
    },
  }
  const aheads = [device, silent.device, banned.device].map(one =>
    one.keepAhead({ timers, onError: error => void errors.push(error) }),
  )
  await expect.poll(() => waiting.length).toBe(3)
  expect(rotations()).toBe(0)
  // Late in the slot every drawn moment is over.
  calendar.now += SLOT * 0.45 * 1000
  for (const run of waiting.splice(0)) run()
  await expect.poll(() => aheadIn({ store }), { timeout: 30_000 }).toMatchObject({ from: former, to: next })
  await expect.poll(() => aheadIn(silent), { timeout: 30_000 }).toMatchObject({ from: former, to: next })
  await expect.poll(() => errors, { timeout: 30_000 }).toMatchObject([{ code: 'BANNED' }])
  await Promise.all(aheads.map(ahead => ahead.close()))
  expect(await aheadIn(banned)).toBeNull()
  expect(rotations()).toBe(1)
  // Until then the key that is there serves.
  await jo(device)
  expect(await epochsIn(store)).toEqual([former, former])

  await pass(3)
  await device.login({ audience: TRACKING })
  expect(await epochsIn(store)).toEqual([next, former])
  expect(await aheadIn({ store })).toBeNull()
  expect(rotations()).toBe(1)
  await jo(device)
  expect(await epochsIn(store)).toEqual([next, next])
  expect(rotations()).toBe(2)

  // Fetched, and then silent for a whole key epoch: the step that it has leads nowhere any more.
  await rotate()
  await pass(3)
  expect(await aheadIn(silent)).not.toBeNull()
  await jo(silent.device)
  expect(await epochsIn(silent.store)).toEqual([next + 1, next + 1])
  expect(await aheadIn(silent)).toBeNull()
})
