/**
 * Clocks that are an hour off, over the servers themselves in one process: their clock is a port, so that of one of them
 * is shifted. (A process has the machine's clock, and no setting moves it.)
 */
import { createLog } from '@milagro-ts/api/log'
import { systemTimers } from '@milagro-ts/api/system'
import { Device } from '@milagro-ts/client/device'
import { memoryTokenStore } from '@milagro-ts/client/token-store'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { RunningServers, type ServerName } from './running-servers.js'
import { CAR, JO, TRACKING, VIN } from './world.js'

const HOUR = 3_600_000
let now = Date.UTC(2026, 5, 1, 12)
const off = new Map<string, number>()
const lines = new Map<ServerName, Record<string, unknown>[]>()
const clockOf = (name: string) => () => now + (off.get(name) ?? 0)
const timers = { every: () => () => {}, after: systemTimers.after }

let servers: RunningServers
const store = memoryTokenStore()
let cars = 0
beforeAll(async () => {
  servers = await RunningServers.start({
    clock: () => now,
    clockOf,
    timers,
    logOf(name) {
      const said: Record<string, unknown>[] = []
      lines.set(name, said)
      return createLog(name, { destination: { write: (line: string) => void said.push(JSON.parse(line)) } })
    },
  })
  const car = await newCar(VIN, store)
  const { id, device } = car
  const { code } = await servers.fleet.assignDriver({
    ...(await servers.act()),
    params: { id: String(id) },
    body: { attributes: { ...JO } },
  })
  await device.enrolUser({ code: code.code, attributes: JO, pin: '1234' })
}, 180_000)
afterAll(() => servers.close())
beforeEach(() => {
  off.clear()
  // Past what servers remember of each other's clocks.
  now += 200_000
  for (const said of lines.values()) said.length = 0
})

async function newCar(instance: string, kept = memoryTokenStore()) {
  const attributes = { ...CAR }
  const { id, code } = await servers.fleet.addVehicle({
    ...(await servers.act()),
    body: { instance, attributes },
  })
  const claim = {
    ...servers.ports,
    wait: async () => {},
    store: kept,
    code: code?.code as string,
    attributes,
    instance,
  }
  return { id, device: await Device.enrol(claim) }
}
async function ready(name: ServerName) {
  const response = await fetch(`${servers.adminUrls.get(name)}/health/ready`)
  const { checks } = (await response.json()) as { checks: { clock: true | string } }
  return { status: response.status, clock: checks.clock }
}
const codeOf = (work: Promise<unknown>) =>
  work.then(
    () => 'OK',
    (error: { code: string }) => error.code,
  )
/** What a server says of clocks; what was under way when the test turned the clock on is 200 s old, and left out. */
const saidOfClocks = (name: ServerName) =>
  (lines.get(name) ?? [])
    .map(({ why }) => String(why ?? ''))
    .filter(why => why.includes('s apart') && !why.endsWith(' 200 s apart'))

test.each([
  ['rps', HOUR],
  ['rps', -HOUR],
  ['fleet', HOUR],
  ['fleet', -HOUR],
] as const)(
  '%s is %i ms off: RPS and fleet say so, are not ready, and recover by themselves',
  async (name, by) => {
    const { device } = await newCar(`CLOCK-${++cars}`)
    off.set(name, by)
    // A first permit takes a statement of the RPA's, which refuses the RPS' request.
    expect(await codeOf(device.login({ audience: TRACKING }))).toBe('RETRY_LATER')
    const inFleet = saidOfClocks('fleet')
    const inRps = saidOfClocks('rps').filter(why => !why.startsWith('RPA'))
    const times = /signed at 2026-06-01T1\d:\d\d:\d\dZ, arrived at 2026-06-01T1\d:\d\d:\d\dZ: 3600 s apart$/
    expect(inFleet.length).toBeGreaterThan(0)
    for (const line of inFleet) expect(line).toMatch(new RegExp(`^rps: ${times.source}`))
    expect(inRps).toEqual([expect.stringMatching(times)])
    for (const server of ['rps', 'fleet'] as const) {
      const { status, clock } = await ready(server)
      expect([server, status]).toEqual([server, 503])
      expect(clock).toMatch(/^clock: .*3600 s apart/)
    }
    off.clear()
    expect(await codeOf(device.login({ audience: TRACKING }))).toBe('OK')
    await expect.poll(() => ready('fleet')).toEqual({ status: 200, clock: true })
    expect(await ready('rps')).toEqual({ status: 200, clock: true })
  },
)

test('one authority of three is an hour off: it is named, no permit is made without it, and then one is', async () => {
  const { device } = await newCar(`CLOCK-${++cars}`)
  off.set('ta2', -HOUR)
  expect(await codeOf(device.login({ audience: TRACKING }))).toBe('RETRY_LATER')
  expect(saidOfClocks('ta2').length).toBeGreaterThan(0)
  expect((await ready('ta2')).status).toBe(503)
  // The RPS agrees with fleet and the two others, and says whom it differs from.
  const { status, clock } = await ready('rps')
  expect([status, String(clock)]).toEqual([200, expect.stringMatching(/^clock: http.*3600 s apart$/)])
  off.clear()
  expect(await codeOf(device.login({ audience: TRACKING }))).toBe('OK')
  expect([await ready('ta2'), await ready('rps')]).toEqual([
    { status: 200, clock: true },
    { status: 200, clock: true },
  ])
})

test.each([HOUR, -HOUR])(
  'a device whose clock is %i ms off logs in by a nonce, and its one pass is CLOCK',
  async by => {
    const car = await Device.open({ ...servers.ports, store, clock: () => now + by })
    expect(await codeOf(car.login({ audience: TRACKING, user: 'Jo', pin: '1234' }))).toBe('OK')
    const message = await car.onePass({ audience: servers.rpsUrl, user: 'Jo', pin: '1234' })
    const response = await fetch(`${servers.rpsUrl}/v1/whoami`, { headers: { authorization: message } })
    expect([response.status, await response.json()]).toMatchObject([
      401,
      { code: 'CLOCK', detail: `clientTime is ${by / 1000} s off, 60 are allowed: set it, or use a nonce` },
    ])
    const right = await Device.open({ ...servers.ports, store })
    const good = await right.onePass({ audience: servers.rpsUrl, user: 'Jo', pin: '1234' })
    const taken = await fetch(`${servers.rpsUrl}/v1/whoami`, { headers: { authorization: good } })
    expect(taken.status).toBe(200)
  },
)
