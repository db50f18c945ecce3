/** A device gets its permits out of signed bundles, which any cache may serve, and believes no cache. */
import { Device } from '@milagro-ts/client/device'
import type { DeviceOptions } from '@milagro-ts/client/ports'
import { memoryTokenStore, type TokenStore } from '@milagro-ts/client/token-store'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { FakeClock } from '../../rps/test/fake-clock.js'
import { CAR, TRACKING, World } from './world.js'

const CACHE = 'https://cache.test/permits'
let world: World
beforeAll(async () => {
  world = await World.start()
})
afterAll(() => world.close())

/** What the cache has, by name. */
const files = new Map<string, Uint8Array>()
const faults: Error[] = []
let asked: string[] = []
beforeEach(() => {
  files.clear()
  faults.length = 0
  asked = []
  world.seen.length = 0
  world.now += 3 * 86_400_000
})

const cached: typeof fetch = async (input, init) => {
  const url = String(input)
  if (!url.startsWith(`${CACHE}/`)) return world.fetch(input, init)
  const name = url.slice(CACHE.length + 1)
  asked.push(name)
  const bytes = files.get(name)
  return bytes === undefined ? new Response(null, { status: 404 }) : new Response(bytes.slice())
}

let made = 0
async function enrol(options: Partial<DeviceOptions> = {}): Promise<{ device: Device; store: TokenStore }> {
  const store = memoryTokenStore()
  const instance = `WVWZZZ1JZXW0010${10 + made++}`
  const common = { ...world.ports, fetch: cached, bundles: CACHE, store }
  const onCacheFault = (error: Error) => void faults.push(error)
  const device = await Device.enrol({
    ...common,
    onCacheFault,
    ...options,
    code: world.code(),
    attributes: CAR,
    instance,
  })
  world.seen.length = 0
  return { device, store }
}
const reopen = (store: TokenStore) =>
  Device.open({
    ...world.ports,
    fetch: cached,
    bundles: CACHE,
    store,
    onCacheFault: error => void faults.push(error),
  })
const publish = async (bundle: Parameters<World['bundle']>[0]) => {
  for (const [name, bytes] of await world.bundle(bundle)) files.set(name, bytes)
}
const nameOf = (ending: string) => [...files.keys()].find(name => name.endsWith(ending)) as string

test('the permit comes from the cache, and the RPS isn’t asked', async () => {
  const { device } = await enrol()
  await publish({ slot: world.slot() })
  const permit = await device.permit()
  expect(permit.permit.target).toEqual({ type: 'node', depth: 0, index: 0 })
  expect(permit.covers(device.idCore)).toBe(true)
  expect(world.seen).toEqual([])
  expect(asked).toHaveLength(3)
  // In hand it is asked for no more.
  await device.permit()
  expect(asked).toHaveLength(3)
})

test('the next slot’s is kept beside the current one, in the store too, and a login of that slot carries it', async () => {
  const { device, store } = await enrol()
  const slot = world.slot()
  await publish({ slot })
  await publish({ slot: slot + 1 })
  const [current, next] = [await device.permit(), await device.nextPermit()]
  expect([current.slot, next?.slot]).toEqual([slot, slot + 1])
  const before = asked.length
  const again = await reopen(store)
  expect((await again.permit()).slot).toBe(slot)
  world.now += 86_400_000
  expect((await again.permit()).slot).toBe(slot + 1)
  // The slot after the next takes the place of the one that is over.
  await publish({ slot: slot + 2 })
  expect((await again.nextPermit())?.slot).toBe(slot + 2)
  expect((await again.permit()).slot).toBe(slot + 1)
  expect(asked.length).toBe(before + 3)
  expect(world.seen).toEqual([])
  await again.login({ audience: TRACKING })
  expect(faults).toEqual([])
})

test('without the next slot’s permit anywhere there is none yet', async () => {
  const { device } = await enrol()
  expect(await device.nextPermit()).toBeNull()
  expect(faults).toMatchObject([{ code: 'NOT_FOUND' }])
})

test('a cache without the slot, or without anything: the RPS', async () => {
  const { device } = await enrol()
  expect((await device.permit()).slot).toBe(world.slot())
  expect(world.seen).toContain('permit')
  expect(faults).toMatchObject([{ code: 'NOT_FOUND' }])
  world.now += 86_400_000
  const gone = await enrol({
    fetch: (input, init) =>
      String(input).startsWith(CACHE) ? Promise.reject(new TypeError('gone')) : world.fetch(input, init),
  })
  expect((await gone.device.permit()).slot).toBe(world.slot())
  expect(faults.at(-1)).toMatchObject({ name: 'Unreachable' })
})

test('banned by the bundle: the RPS has the last word', async () => {
  const { device } = await enrol()
  await publish({ slot: world.slot(), banned: [device.idCore.leaf], number: 9 })
  world.banned.add(device.mpinId)
  await expect(device.permit()).rejects.toMatchObject({ code: 'BANNED' })
  expect(faults).toMatchObject([{ code: 'BANNED' }])
  world.banned.delete(device.mpinId)
  expect((await device.permit()).slot).toBe(world.slot())
})

describe('a bundle is refused, and the RPS asked,', () => {
  const change = (ending: string, how: (bytes: Uint8Array) => Uint8Array) => {
    const name = nameOf(ending)
    files.set(name, how(files.get(name) as Uint8Array))
  }
  const cases: [string, (leaf: number, slot: number) => Promise<void>, RegExp][] = [
    [
      'that is stale: yesterday’s under today’s name',
      async (_, slot) => {
        await publish({ slot: slot - 1 })
        files.set(`${slot}.json`, files.get(`${slot - 1}.json`) as Uint8Array)
      },
      /a bundle of another slot/,
    ],
    [
      'of another group',
      async (_, slot) => {
        const other = await World.start()
        for (const [name, bytes] of await other.bundle({ slot })) files.set(name, bytes)
        await other.close()
      },
      /not a mpin-bundle\+jwt by a known key/,
    ],
    [
      'whose head is cut off',
      async (_, slot) => {
        await publish({ slot })
        change('.json', bytes => bytes.subarray(0, -1))
      },
      /not JSON/,
    ],
    [
      'whose part is cut off',
      async (leaf, slot) => {
        await publish({ slot, banned: [leaf + 1] })
        change('.permits', bytes => bytes.subarray(53))
      },
      /not what its hash says/,
    ],
    [
      'whose leaves are cut off',
      async (_, slot) => {
        await publish({ slot })
        change('.leaves', bytes => bytes.subarray(0, -1))
      },
      /not a compact JWS/,
    ],
    [
      'with the leaves of another state',
      async (leaf, slot) => {
        await publish({ slot, number: 3 })
        const [former] = [files.get(nameOf('.leaves')) as Uint8Array]
        files.clear()
        await publish({ slot, number: 4, banned: [leaf + 1] })
        files.set(nameOf('.leaves'), former)
      },
      /other leaves than the manifest speaks of/,
    ],
    [
      'without t co-signatures',
      async (_, slot) => {
        await publish({ slot })
        change('.json', bytes => {
          const head = JSON.parse(new TextDecoder().decode(bytes))
          head.cosignatures.length = 1
          return new TextEncoder().encode(JSON.stringify(head))
        })
      },
      /1 co-signatures, 2 needed/,
    ],
    [
      'whose permit is none of the group’s',
      (_, slot) => publish({ slot, by: world.anotherSecret }),
      /the permit does not verify/,
    ],
  ]
  test.each(cases)('%s', async (_, tamper, why) => {
    const { device } = await enrol()
    await tamper(device.idCore.leaf, world.slot())
    expect((await device.permit()).permit.target.type).toBe('id')
    expect(world.seen).toContain('permit')
    expect(faults).toHaveLength(1)
    expect(faults[0]).toMatchObject({ code: 'WRONG_BUNDLE', message: expect.stringMatching(why) })
    expect(faults[0]?.message).toContain(`the bundle of slot ${world.slot()}`)
  })

  test('with a permit of a node above a banned leaf', async () => {
    const { device } = await enrol()
    const { leaf } = device.idCore
    const slot = world.slot()
    // The root's permit, from before the ban, where the cover has 32 smaller nodes.
    const before = await world.bundle({ slot, number: 1 })
    const root = [...before].find(([name]) => name.endsWith('.permits'))?.[1] as Uint8Array
    await publish({ slot, banned: [leaf + 1], number: 2 })
    files.set(nameOf('.permits'), root)
    await device.permit()
    expect(faults).toMatchObject([{ code: 'WRONG_BUNDLE', message: expect.stringMatching(/hash/) }])
    // The publisher itself, whose manifest goes by leaves that nobody has signed.
    faults.length = 0
    world.now += 86_400_000
    files.clear()
    await publish({ slot: slot + 1, number: 2, banned: [leaf + 1], claimed: [] })
    expect(files.get(nameOf('.permits'))).toHaveLength(53)
    await device.permit()
    expect(faults).toMatchObject([
      { code: 'WRONG_BUNDLE', message: expect.stringMatching(/not the cover of these leaves/) },
    ])
  })

  test('that is rolled back to an older state than one that was seen, also after a restart', async () => {
    const { device, store } = await enrol()
    const slot = world.slot()
    await publish({ slot, number: 7 })
    await device.permit()
    await publish({ slot: slot + 1, number: 6 })
    expect(await device.nextPermit()).toBeNull()
    expect(faults).toMatchObject([
      { code: 'WRONG_BUNDLE', message: expect.stringMatching(/an older revocation state/) },
    ])
    await (await reopen(store)).nextPermit()
    expect(faults).toHaveLength(2)
    expect(JSON.parse((await store.read()) as string).identities[0].leavesNumber).toBe(7)
    // The same number again is no step back.
    await publish({ slot: slot + 1, number: 7 })
    expect((await device.nextPermit())?.slot).toBe(slot + 1)
  })

  test('that is larger than any', async () => {
    const { device } = await enrol()
    await publish({ slot: world.slot() })
    change('.permits', () => new Uint8Array(4_096 * 53 + 1))
    await device.permit()
    expect(faults).toMatchObject([{ name: 'UnexpectedAnswer' }])
  })
})

test('the fault is the cache’s; a store that fails is not', async () => {
  const { device, store } = await enrol()
  await publish({ slot: world.slot() })
  store.replace = () => Promise.reject(new Error('disk'))
  await expect(device.permit()).rejects.toThrow('disk')
  expect(faults).toEqual([])
})

test('keepAhead gets the next slot’s permit once the cache has it, at its own moment; else the RPS’', async () => {
  // At the begin of a slot, by the world's clock and the timers alike.
  const { origin, length } = world.group.slotRule
  const slot = world.slot() + 1
  world.now = (origin + slot * length) * 1000
  const timers = new FakeClock(world.now)
  const { device, store } = await enrol()
  await publish({ slot })
  await device.permit()
  const errors: unknown[] = []
  const ahead = device.keepAhead({ timers, onError: error => void errors.push(error) })
  const until = async (part: number) => {
    const end = (origin + (slot + part) * length) * 1000
    while (timers.now < end) {
      await new Promise(resolve => setTimeout(resolve, 0))
      timers.turn(Math.min(600_000, end - timers.now))
      world.now = timers.now
    }
  }
  await until(0.5)
  expect(asked).toHaveLength(3)
  // Published late: the first look may find nothing, and looks again.
  await publish({ slot: slot + 1 })
  const inStore = async () => JSON.parse((await store.read()) as string).identities[0].nextPermit
  await until(0.99)
  await expect.poll(inStore).toBeTruthy()
  expect((await device.nextPermit())?.slot).toBe(slot + 1)
  expect(errors).toEqual([])
  await ahead.close()
  expect(toBase64Url((await device.permit()).permit.encode())).toBe(
    JSON.parse((await store.read()) as string).identities[0].permit,
  )
})
