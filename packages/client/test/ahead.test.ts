/** When a device looks ahead: once a slot, at a moment of its own, and again where that brought nothing. */
import { Ahead } from '@milagro-ts/client/ahead'
import { expect, test } from 'vitest'
import { fixedRandom } from '../../api/test/fixed-random.js'
import { FakeClock } from '../../rps/test/fake-clock.js'

const RULE = { origin: 1_767_225_600, length: 86_400 }
const LENGTH = RULE.length * 1000
const start = (slot: number) => (RULE.origin + slot * RULE.length) * 1000

class Watched {
  readonly clock: FakeClock
  readonly looks: number[] = []
  readonly errors: unknown[] = []
  readonly ahead: Ahead
  /** What the next look comes to. */
  outcome: () => Promise<boolean> = async () => true
  hasTime = true

  constructor({ at = start(100), seed = 1 }: { at?: number; seed?: number } = {}) {
    this.clock = new FakeClock(at)
    this.ahead = Ahead.begin({
      rule: () => RULE,
      now: async () => {
        if (!this.hasTime) throw new Error('no time')
        return this.clock.now
      },
      look: () => {
        this.looks.push(this.clock.now)
        return this.outcome()
      },
      random: fixedRandom(`device ${seed}`),
      timers: this.clock,
      onError: error => this.errors.push(error),
    })
  }

  /** Until `end`, a tenth of an hour at a time. */
  async until(end: number): Promise<void> {
    while (this.clock.now < end) {
      await settled()
      this.clock.turn(Math.min(360_000, end - this.clock.now))
    }
    await settled()
  }
}

const settled = () => new Promise(resolve => setImmediate(resolve))
const placeOf = (moment: number) => ((moment - start(0)) % LENGTH) / LENGTH

test('one look in a slot, in its second half, at another moment each time', async () => {
  const device = new Watched()
  await device.until(start(110))
  expect(device.looks.map(moment => Math.floor((moment - start(0)) / LENGTH))).toEqual(
    Array.from({ length: 10 }, (_, i) => 100 + i),
  )
  for (const moment of device.looks) {
    expect(placeOf(moment)).toBeGreaterThanOrEqual(0.5)
    expect(placeOf(moment)).toBeLessThan(0.875 + 0.01)
  }
  expect(new Set(device.looks.map(placeOf)).size).toBeGreaterThan(8)
})

test('a fleet that was switched on at once doesn’t look at once', async () => {
  const fleet = Array.from({ length: 400 }, (_, i) => new Watched({ seed: i + 1 }))
  await Promise.all(fleet.map(device => device.until(start(101))))
  const buckets = new Array<number>(8).fill(0)
  for (const { looks } of fleet) {
    expect(looks).toHaveLength(1)
    const bucket = Math.min(7, Math.floor(((placeOf(looks[0] as number) - 0.5) / 0.375) * 8))
    buckets[bucket] = (buckets[bucket] as number) + 1
  }
  // Evenly it is 50 each, give or take 7.
  expect(Math.min(...buckets)).toBeGreaterThan(25)
  expect(Math.max(...buckets)).toBeLessThan(80)
})

test('a look that brought nothing, or failed, is made again in the same slot, after longer and longer pauses', async () => {
  const device = new Watched()
  device.outcome = async () => false
  await device.until(start(101))
  const tries = device.looks.length
  expect(tries).toBeGreaterThan(2)
  const pauses = device.looks.slice(1).map((moment, i) => moment - (device.looks[i] as number))
  for (const pause of pauses) expect(pause).toBeGreaterThanOrEqual((LENGTH / 32) * 0.5)
  expect(Math.max(...pauses)).toBeLessThanOrEqual(3_600_000 + 720_000)

  device.outcome = () => Promise.reject(new Error('nobody answers'))
  await device.until(start(101) + LENGTH * 0.9)
  expect(device.errors.length).toBeGreaterThan(0)
  device.outcome = async () => true
  await device.until(start(102))
  const done = device.looks.length
  expect(device.looks.at(-1)).toBeGreaterThan(start(101) + LENGTH * 0.9)
  await device.until(start(102) + LENGTH * 0.49)
  expect(device.looks).toHaveLength(done)
})

test('who comes late draws out of what is left of the slot', async () => {
  for (const seed of [1, 2, 3, 4]) {
    const device = new Watched({ at: start(100) + LENGTH * 0.95, seed })
    await device.until(start(101))
    expect(device.looks).toHaveLength(1)
  }
})

test('closed, it looks no more, and what is under way is waited for', async () => {
  const device = new Watched({ at: start(100) + LENGTH * 0.4 })
  let finish: (done: boolean) => void = () => undefined
  device.outcome = () =>
    new Promise(resolve => {
      finish = resolve
    })
  await device.until(start(101))
  expect(device.looks).toHaveLength(1)
  let isClosed = false
  const closing = device.ahead.close().then(() => {
    isClosed = true
  })
  await settled()
  expect(isClosed).toBe(false)
  finish(true)
  await closing
  await device.until(start(104))
  expect(device.looks).toHaveLength(1)
})

test('without the time it says so, and looks once it has it', async () => {
  const device = new Watched()
  device.hasTime = false
  await device.until(start(100) + LENGTH * 0.3)
  expect(device.errors.length).toBeGreaterThan(1)
  expect(device.looks).toEqual([])
  device.hasTime = true
  await device.until(start(101))
  expect(device.looks).toHaveLength(1)
})

test('a clock that is set back or forth meanwhile: a slot that is entered has a moment of its own', async () => {
  const device = new Watched()
  await device.until(start(100) + LENGTH * 0.2)
  device.clock.now = start(150)
  await device.until(start(151))
  expect(device.looks.at(-1)).toBeGreaterThan(start(150) + LENGTH * 0.49)
  device.clock.leap(0)
  const before = device.looks.length
  await device.until(start(152))
  expect(device.looks).toHaveLength(before + 1)
})
