/** What the RPA is told of those who log in: everything, in order, many at a time, whatever fails in between. */
import { Unreachable } from '@milagro-ts/api/call'
import { createLog } from '@milagro-ts/api/log'
import { createMetrics } from '@milagro-ts/api/metrics'
import { NOTICES, type Notice } from '@milagro-ts/api/rpa-routes'
import { systemRandom } from '@milagro-ts/api/system'
import { type Happening, Notices } from '@milagro-ts/rps/notices'
import { rpsMigrations } from '@milagro-ts/rps/tables'
import { openDatabase, type Store } from '@milagro-ts/store/database'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { FakeClock } from './fake-clock.js'
import { NOON, until, World } from './world.js'

/** Milliseconds between two requests that aren't full. */
const GATHER = 250

let clock: FakeClock
let store: Store<unknown>
let logged: string[]
let requests: Notice[][]
/** What the RPA makes of a request. */
let answer: (notices: readonly Notice[]) => Promise<readonly string[]>
let notices: Notices
const open: Notices[] = []

function makeNotices(kept?: number): Notices {
  const made = new Notices({
    store,
    relyingParty: {
      happened: told => {
        requests.push([...told])
        return answer(told)
      },
    },
    clock: () => clock.now,
    random: systemRandom,
    timers: clock,
    log: createLog('rps', { destination: { write: line => void logged.push(line) } }),
    metrics: createMetrics('rps'),
    ...(kept === undefined ? {} : { kept }),
  })
  open.push(made)
  return made
}
beforeEach(async () => {
  clock = new FakeClock(NOON)
  store = await openDatabase({ file: ':memory:', migrations: rpsMigrations })
  logged = []
  requests = []
  answer = async () => []
  notices = makeNotices()
  notices.start()
})
afterEach(async () => {
  for (const one of open.splice(0)) await one.stop()
  await store.close()
})

/** Login number `i`. */
const happening = (i: number): Happening => ({
  event: 'login',
  idCore: Buffer.alloc(39, i).toString('base64url'),
  amr: ['device'],
  audience: 'https://tracking.example',
  slot: i,
})
async function add(from: number, to: number): Promise<void> {
  for (let i = from; i <= to; i++) await notices.add(happening(i))
}
const slots = (told: readonly Notice[] = requests.flat()) => told.map(({ slot }) => slot)
const range = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, i) => from + i)
const waiting = () => store.read(reader => reader.all('SELECT number FROM notice')).then(rows => rows.length)
const nothingWaits = () => until(async () => (await waiting()) === 0)

test('the first is told at once; those of the next moment together', async () => {
  await add(1, 1)
  await nothingWaits()
  await add(2, 9)
  expect(slots()).toEqual([1])
  clock.turn(GATHER - 1)
  expect(await waiting()).toBe(8)
  clock.turn(1)
  await nothingWaits()
  expect(requests.map(told => slots(told))).toEqual([[1], range(2, 9)])
  expect(requests.flat().every(({ at }) => at === NOON / 1000)).toBe(true)
  expect(new Set(requests.flat().map(({ id }) => id)).size).toBe(9)
})

test('a full request waits for nothing: a hundred logins are a few requests', async () => {
  await add(1, 1)
  await nothingWaits()
  await add(2, 101)
  clock.turn(GATHER)
  await nothingWaits()
  expect(requests.map(told => told.length)).toEqual([1, NOTICES, NOTICES, NOTICES, 100 - 3 * NOTICES])
  expect(slots()).toEqual(range(1, 101))
})

test('one request at a time: what happens meanwhile is told after it', async () => {
  let arrive: () => void = () => {}
  answer = () =>
    new Promise(resolve => {
      arrive = () => resolve([])
    })
  await add(1, 1)
  await until(() => requests.length === 1)
  await add(2, 4)
  clock.turn(10 * GATHER)
  expect(requests).toHaveLength(1)
  answer = async () => []
  arrive()
  await until(async () => {
    clock.turn(1)
    return (await waiting()) === 0
  })
  expect(slots()).toEqual(range(1, 4))
})

test('while the RPA is away nothing is lost, tries come rarely, and it is told all in order', async () => {
  answer = () => Promise.reject(new Unreachable('no answer'))
  await add(1, 40)
  await until(() => requests.length === 1 && logged.length === 1)
  for (let second = 0; second < 62; second++) {
    clock.turn(1_000)
    await until(() => true)
    await add(41 + second, 41 + second)
  }
  // After 1, 2, 4, 8, 16 and 32 seconds at the earliest, however many log in.
  expect(requests.length).toBeLessThanOrEqual(7)
  expect(logged.filter(line => line.includes('notices for the RPA wait'))).toHaveLength(1)
  answer = async () => []
  const failed = requests.length
  await until(async () => {
    clock.turn(1_000)
    return (await waiting()) === 0
  })
  expect(slots(requests.slice(failed).flat())).toEqual(range(1, 102))
})

test('an answer that is lost: the same again, under the same ids, and nothing before it', async () => {
  answer = () => Promise.reject(new Unreachable('the answer is lost'))
  await add(1, 3)
  await until(() => logged.length === 1)
  answer = async () => []
  clock.turn(1_000)
  await nothingWaits()
  const [first = [], ...rest] = requests
  expect(rest.flat().slice(0, first.length)).toEqual(first)
  expect(slots(rest.flat())).toEqual([1, 2, 3])
})

test('a process that ends before it has told: the next one tells', async () => {
  answer = () => Promise.reject(new Unreachable('no answer'))
  await add(1, 5)
  await notices.stop()
  answer = async () => []
  requests = []
  makeNotices().start()
  await nothingWaits()
  expect(slots()).toEqual(range(1, 5))
})

test('an identity that the RPA doesn’t know: an error in the log, told once', async () => {
  answer = async told => told.filter(({ slot }) => slot === 2).map(({ id }) => id)
  await add(1, 1)
  await nothingWaits()
  await add(2, 3)
  clock.turn(GATHER)
  await nothingWaits()
  expect(slots()).toEqual([1, 2, 3])
  const [line = ''] = logged
  expect(logged).toHaveLength(1)
  expect(JSON.parse(line)).toMatchObject({ level: 50, notices: [requests.flat()[1]?.id] })
})

test('what is too much is forgotten from its old end, and said', async () => {
  answer = () => Promise.reject(new Unreachable('no answer'))
  notices = makeNotices(10)
  await add(1, 13)
  await notices.purge()
  const rows = await store.read(reader => reader.all('SELECT notice FROM notice ORDER BY number'))
  expect(rows.map(({ notice }) => (JSON.parse(notice as string) as Notice).slot)).toEqual(range(4, 13))
  expect(logged.some(line => line.includes('"dropped":3'))).toBe(true)
  logged = []
  await notices.purge()
  expect(logged).toEqual([])
})

test('of a server whose RPA is down: nobody waits for it, and a restart later it hears of each login', async () => {
  const world = await World.make()
  try {
    const rps = await world.startRps()
    const cars = [world.makeCar(), world.makeCar(), world.makeCar()]
    // With their permits, so that nothing else asks the RPA.
    for (const car of cars) await world.login(rps, car)
    await world.toldUntil(told => told.length === 3)
    world.rpa.told.length = 0
    world.rpa.isDown = true
    for (const car of cars) await world.login(rps, car)
    await rps.close()
    world.rpa.isDown = false
    const again = await world.startRps()
    await world.toldUntil(told => told.length >= 3)
    expect(world.rpa.told.map(({ idCore }) => idCore)).toEqual(cars.map(({ idCore }) => idCore.mpinId))
    await again.close()
  } finally {
    await world.close()
  }
})
