import { Courier } from '@milagro-ts/api/courier'
import { createLog } from '@milagro-ts/api/log'
import { expect, test } from 'vitest'
import { FakeTime } from './fleet-world.js'

function courierOf(waiting: string[], ports: { onEmpty?: () => void; send?: () => Promise<void> } = {}) {
  const taken: string[] = []
  const courier = new Courier<string>({
    async next() {
      if (waiting.length === 0) ports.onEmpty?.()
      return waiting[0]
    },
    async send(item) {
      await ports.send?.()
      taken.push(item)
      waiting.shift()
    },
    describe: () => 'trouble',
    what: 'items',
    firstPause: 1,
    longestPause: 1,
    timers: new FakeTime(),
    log: createLog('test', { level: 'silent' }),
  })
  return { courier, taken }
}

test.each([1, 2, 3, 4, 5, 6, 7, 8])(
  'what comes %i turns after the last look is taken before it counts as settled',
  async turns => {
    const waiting: string[] = []
    let late: Promise<readonly string[]> | undefined
    const { courier, taken } = courierOf(waiting, {
      // As long as a way to another server and back.
      send: () => new Promise(resolve => setImmediate(resolve)),
      onEmpty: () => {
        late ??= (async () => {
          for (let turn = 0; turn < turns; turn++) await Promise.resolve()
          waiting.push('late')
          courier.wake()
          await courier.settled()
          return [...taken]
        })()
      },
    })
    courier.start()
    await courier.settled()
    expect(await late).toEqual(['late'])
    await courier.stop()
  },
)

test('what can’t be sent is settled as well: its next attempt waits for the pause', async () => {
  const { courier, taken } = courierOf(['stays'], { send: () => Promise.reject(new Error('away')) })
  courier.start()
  await courier.settled()
  expect([taken, courier.trouble]).toEqual([[], 'trouble'])
  await courier.stop()
})
