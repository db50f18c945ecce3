import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { CarConfig } from '@milagro-ts/car-tracking/car-config'
import { type DeviceEvent, deviceOptionsOf, keepAhead } from '@milagro-ts/car-tracking/car-device'
import { Device } from '@milagro-ts/client/device'
import { decodeRecords } from '@milagro-ts/client/record'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { CAR, World } from '../../../packages/client/test/world.js'
import { FakeClock } from './tracking-world.js'

const BUNDLES = 'https://cache.test/permits/'
let world: World
let dataDir: string
beforeAll(async () => {
  ;[world, dataDir] = await Promise.all([World.start(), mkdtemp(join(tmpdir(), 'milagro-car-'))])
})
afterAll(async () => {
  await world.close()
  await rm(dataDir, { recursive: true })
})

test('a car has the next slot’s permit ahead, out of the bundles of its settings; what fails is said', async () => {
  const { length, origin } = world.group.slotRule
  const slot = world.slot() + 1
  world.now = (origin + slot * length) * 1000
  const timers = new FakeClock()
  timers.now = world.now
  const files = new Map<string, Uint8Array>()
  /** Calls that the RPS has yet to answer: a clock that goes on meanwhile would take the slot away from under them. */
  let asked = 0
  let isRpsGone = false
  const fetch: typeof globalThis.fetch = async (input, init) => {
    const url = String(input)
    if (!url.startsWith(BUNDLES)) {
      if (isRpsGone) throw new TypeError('fetch failed')
      asked++
      return world.fetch(input, init).finally(() => asked--)
    }
    const file = files.get(url.slice(BUNDLES.length))
    return file === undefined ? new Response(null, { status: 404 }) : new Response(file.slice())
  }
  const config: CarConfig = {
    name: 'car',
    rps: world.url,
    tracking: 'http://tracking.test',
    bundles: BUNDLES,
    dataDir,
    instance: 'WVWZZZ1JZXW003001',
    attributes: CAR,
    positionEvery: 1000,
    reportEvery: 1000,
  }
  const said: DeviceEvent[] = []
  const options = { ...world.ports, ...deviceOptionsOf(config, event => said.push(event)), fetch }
  const { instance, attributes } = config
  const device = await Device.enrol({ ...options, code: world.code(), attributes, instance })
  const next = async () =>
    decodeRecords(await readFile(join(dataDir, 'token.json'), 'utf8'))[0]?.nextPermit?.slot
  world.seen.length = 0

  const ahead = keepAhead(device, event => said.push(event), timers)
  const until = async (part: number) => {
    const end = (origin + (slot + part) * length) * 1000
    while (timers.now < end) {
      do await new Promise(resolve => setTimeout(resolve, 2))
      while (asked > 0)
      timers.turn(Math.min(600_000, end - timers.now))
      world.now = timers.now
    }
  }
  // Every drawn moment is over: it has looked, where there was nothing, and gone on.
  await until(0.9)
  await expect.poll(() => said.map(({ event }) => event)).toContain('no-bundle')
  expect(await next()).toBeUndefined()
  for (const [name, bytes] of await world.bundle({ slot: slot + 1 })) files.set(name, bytes)
  await until(0.99)
  await expect.poll(next).toBe(slot + 1)

  // In the next slot neither its bundles nor its RPS are there.
  world.now = timers.now = (origin + (slot + 1) * length) * 1000
  isRpsGone = true
  files.clear()
  await until(1.9)
  await expect.poll(() => said.map(({ event }) => event)).toContain('not-ahead')
  await ahead.close()
})
