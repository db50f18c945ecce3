/** Under load the server's event loop is late by 10 ms at most, in 99 of 100 cases: one worker, full logins over HTTP. */
import { expect, test } from 'vitest'
import { EVENT_LOOP_LIMIT, steady, withoutWorkers } from '../benchmarks/server/bench.mjs'

/** Whatever else the machine does only makes a round worse. */
const ROUNDS = 5

test(`p99 of the event-loop delay is at most ${EVENT_LOOP_LIMIT} ms, and all cars are let in`, async () => {
  const seen: number[] = []
  while (seen.length < ROUNDS && Math.min(...seen) > EVENT_LOOP_LIMIT) {
    const { logins, wronglyRefused, broken, eventLoopDelayMs, apart } = await steady({
      rate: 200,
      seconds: 10,
      cars: 200,
    })
    expect({ logins, wronglyRefused, broken }).toEqual({ logins: 2_000, wronglyRefused: {}, broken: 0 })
    console.log(
      `event loop, ms: ${JSON.stringify(eventLoopDelayMs)}${apart ? '' : ', load on the same cores'}`,
    )
    seen.push(eventLoopDelayMs.p99)
  }
  expect(Math.min(...seen)).toBeLessThanOrEqual(EVENT_LOOP_LIMIT)
})

test('the measure sees a loop that is held up: proofs on the main thread', async () => {
  const { eventLoopDelayMs } = await withoutWorkers({ logins: 400, cars: 200 })
  expect(eventLoopDelayMs.p99).toBeGreaterThan(EVENT_LOOP_LIMIT)
})
