/** What a server counts and says of its workers. */
import { createLog } from '@milagro-ts/api/log'
import { startServerPool } from '@milagro-ts/api/server-pool'
import { CryptoPool, type PoolOptions } from '@milagro-ts/crypto/node-pool'
import { expect, test } from 'vitest'

test('every event is counted; of a full queue the log has a line in ten seconds, of each worker that ends one', () => {
  const [counted, logged]: [string[], string[]] = [[], []]
  let now = 0
  let on: NonNullable<PoolOptions['on']> = () => {}
  startServerPool(
    {
      config: { workers: 0 },
      startPool: options => {
        on = options.on ?? on
        return CryptoPool.start(options)
      },
    },
    {
      clock: () => now,
      random: length => new Uint8Array(length),
      log: createLog('test', { level: 'debug', destination: { write: line => void logged.push(line) } }),
      metrics: { count: name => void counted.push(name) },
    },
  )
  const lines = (text: string) => logged.filter(line => line.includes(text)).length
  for (const at of [0, 0, 9_999]) {
    now = at
    on('full', {})
  }
  expect(lines('too much waits')).toBe(1)
  now = 10_000
  on('full', {})
  expect(lines('too much waits')).toBe(2)
  on('crash', { error: new Error('gone') })
  on('crash', { error: new Error('gone') })
  on('batch', { size: 1 })
  expect(lines('a worker ended')).toBe(2)
  expect(counted).toEqual([...Array(4).fill('pool_full'), 'pool_crash', 'pool_crash', 'pool_batch'])
})
