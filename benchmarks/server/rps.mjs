/**
 * The RPS under load, a process of its own: as `milagro rps serve` runs it, and it tells its parent how it is. Ends
 * with its parent.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { createMetrics } from '@milagro-ts/api/metrics'
import { systemClock, systemRandom } from '@milagro-ts/api/system'
import { createRps } from '@milagro-ts/rps/server'
import { rpsMigrations } from '@milagro-ts/rps/tables'
import { openDatabase } from '@milagro-ts/store/database'
import { PASSPHRASE } from './world.mjs'

/** Milliseconds; the histogram holds the time between two of its ticks, this one included. */
const RESOLUTION = 1
/** Milliseconds after which nothing of a load is under way any more. */
const SETTLE = 2_000
const CLOCK_TICK = 10 // milliseconds in one unit of /proc

const config = JSON.parse(process.argv[2] ?? '{}')
const store = await openDatabase({ file: join(config.dataDir, 'rps.sqlite'), migrations: rpsMigrations })
const metrics = createMetrics('bench')
const rps = await createRps({
  config,
  metrics,
  passphrase: PASSPHRASE,
  store,
  clock: systemClock,
  random: systemRandom,
})
const { url } = await rps.start()
const delay = monitorEventLoopDelay({ resolution: RESOLUTION })
delay.enable()

/** CPU of the main thread so far, in milliseconds. */
function mainThread() {
  const fields = readFileSync(`/proc/self/task/${process.pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? []
  return (Number(fields[11]) + Number(fields[12])) * CLOCK_TICK
}
/** Logins that were let in so far, by the server's own count. */
async function logins() {
  const { values } = (await metrics.registry.getSingleMetric('bench_requests_total')?.get()) ?? { values: [] }
  const found = values.find(({ labels }) => labels.route === 'login' && labels.code === 'OK')
  return found?.value ?? 0
}
const late = (/** @type {number} */ nanoseconds) => Math.max(0, nanoseconds / 1e6 - RESOLUTION)

process.on('message', async message => {
  if (message === 'reset') {
    delay.reset()
    return
  }
  if (message === 'settle') {
    await new Promise(resolve => setTimeout(resolve, SETTLE))
    // What is garbage by now was no leak.
    globalThis.gc?.()
  }
  const { user, system } = process.cpuUsage()
  const main = mainThread()
  process.send?.({
    logins: await logins(),
    cpuMs: { main, workers: Math.max(0, (user + system) / 1000 - main) },
    eventLoopDelayMs: {
      p50: late(delay.percentile(50)),
      p99: late(delay.percentile(99)),
      max: late(delay.max),
    },
    rssMb: process.memoryUsage().rss / 2 ** 20,
    heapMb: process.memoryUsage().heapUsed / 2 ** 20,
  })
})
process.on('disconnect', async () => {
  await rps.close()
  await store.close()
  process.exit()
})
process.send?.({ url })
