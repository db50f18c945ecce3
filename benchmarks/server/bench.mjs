/**
 * `npm run bench -- server`: full logins over HTTP against one RPS, the cars' cryptography in other processes.
 *
 *   npm run bench -- server                    1 and 2 workers: what they can do, and steady load at half of it
 *   npm run bench -- server --rate 100         steady load of so many logins a second
 *   npm run bench -- server --soak             memory after 10⁵ logins against 10⁴
 *   npm run bench -- server --storm            20 000 cars at once, done within 60 s
 *
 * `--logins N`, `--cars N`, `--connections N`, `--seconds N`, `--workers N` change the size; `--json` prints one object.
 * Load goes to 127.0.0.1 only and ends by itself: after so many logins, at the latest after `--seconds`. The exit code
 * is 1 where a login was refused wrongly, or a limit of README.md is missed.
 */
import { execFileSync, fork } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { cpus, tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { makeWorld } from './world.mjs'

/** @typedef {{logins: number, cpuMs: {main: number, workers: number}, eventLoopDelayMs: {p50: number, p99: number, max: number}, rssMb: number, heapMb: number}} Health */
/** @typedef {{times: number[], retries: number, wrong: Record<string, number>, broken: number, tokens: {verified: number, of: number}, cpuMs: number}} Driven */
/** @typedef {import('./cars.mjs').Task['begin']} Begin */
/** @typedef {{cars: number, logins: number, connections: number, begin: Begin, seconds: number}} Load */

/** Processes that drive cars. */
const CLIENTS = 2
/** Milliseconds between two lines about a run that takes long. */
const PROGRESS = 10_000
/** Milliseconds that the event loop may be late under steady load, in 99 of 100 cases. */
export const EVENT_LOOP_LIMIT = 10

/** @param {string} file @param {object} argument @param {string[]} [flags] of Node */
const start = (file, argument, flags = []) =>
  fork(fileURLToPath(new URL(file, import.meta.url)), [JSON.stringify(argument)], {
    execArgv: [...process.execArgv, ...flags],
  })

/**
 * The next message of a child. Its channel ends only after everything that was sent on it has arrived, its exit may
 * overtake that.
 *
 * @param {import('node:child_process').ChildProcess} child @returns {Promise<any>}
 */
function told(child) {
  const early = () =>
    new Error(
      `${basename(child.spawnargs[1] ?? '')} ended early (${child.exitCode ?? child.signalCode ?? 'channel closed'})`,
    )
  return new Promise((resolve, reject) => {
    if (!child.connected) return reject(early())
    const onMessage = (/** @type {unknown} */ message) => {
      child.off('disconnect', onEnd)
      resolve(message)
    }
    const onEnd = () => {
      child.off('message', onMessage)
      reject(early())
    }
    child.once('message', onMessage)
    child.once('disconnect', onEnd)
  })
}

/**
 * One RPS for as long as `use` takes.
 *
 * @template T
 * @param {{workers: number, progress?: (health: Health) => void}} options
 * @param {(rps: {drive: (load: Load) => Promise<Result>, settled: () => Promise<Health>}) => Promise<T>} use
 */
async function withRps({ workers, progress }, use) {
  const folder = await mkdtemp(join(tmpdir(), 'milagro-bench-'))
  const world = await makeWorld({ folder, workers })
  const rps = start('./rps.mjs', world.config, ['--expose-gc'])
  try {
    const { url } = await told(rps)
    const ask = (/** @type {'report' | 'settle'} */ what) => {
      rps.send(what)
      return /** @type {Promise<Health>} */ (told(rps))
    }
    const health = () => ask('report')
    return await use({
      settled: () => ask('settle'),
      async drive(load) {
        const clients = Array.from({ length: CLIENTS }, (_, i) =>
          start('./cars.mjs', {
            url,
            groupId: toBase64Url(world.groupId),
            secret: toBase64Url(world.deviceSecret),
            from: Math.floor((i * load.cars) / CLIENTS),
            cars: Math.floor(load.cars / CLIENTS),
            logins: Math.floor(load.logins / CLIENTS),
            connections: Math.ceil(load.connections / CLIENTS),
            begin: typeof load.begin === 'number' ? load.begin / CLIENTS : load.begin,
          }),
        )
        await Promise.all(clients.map(told))
        const isApart = typeof load.begin === 'number' && apart(rps, [process, ...clients])
        const before = await health()
        rps.send('reset')
        const begin = performance.now()
        const until = Date.now() + load.seconds * 1000
        const driving = Promise.all(
          clients.map(client => {
            client.send({ until })
            return /** @type {Promise<Driven>} */ (told(client))
          }),
        )
        const driven = await (progress === undefined ? driving : watched(driving, health, progress))
        const seconds = (performance.now() - begin) / 1000
        const after = await health()
        if (isApart) apart(rps, [process, ...clients], 'no longer')
        return { ...summary(driven, seconds, before, after), apart: isApart }
      },
    })
  } finally {
    if (rps.connected) rps.disconnect()
    if (rps.exitCode === null) await once(rps, 'exit')
    await world.close()
    await rm(folder, { recursive: true })
  }
}

/**
 * Tells how the server is every ten seconds for as long as `work` takes.
 *
 * @template T @param {Promise<T>} work @param {() => Promise<Health>} health @param {(health: Health) => void} progress
 */
async function watched(work, health, progress) {
  /** @type {NodeJS.Timeout | undefined} */
  let timer
  const tick = () =>
    new Promise(resolve => {
      timer = setTimeout(() => resolve('tick'), PROGRESS)
    })
  try {
    while ((await Promise.race([work.then(() => 'done'), tick()])) === 'tick') progress(await health())
    return await work
  } finally {
    clearTimeout(timer)
  }
}

/** @typedef {ReturnType<typeof summary> & {apart: boolean}} Result */

/**
 * The server on one core, its load on the others, where the system can do that. False where it can't.
 *
 * @param {{pid?: number | undefined}} server
 * @param {readonly {pid?: number | undefined}[]} load
 * @param {'no longer'} [end]
 */
function apart(server, load, end) {
  const last = cpus().length - 1
  if (last === 0) return false
  const pin = (/** @type {{pid?: number | undefined}} */ { pid }, /** @type {string} */ cores) =>
    execFileSync('taskset', ['-a', '-c', '-p', end === undefined ? cores : `0-${last}`, String(pid)], {
      stdio: 'ignore',
    })
  try {
    pin(server, '0')
    for (const one of load) pin(one, `1-${last}`)
    return true
  } catch {
    return false
  }
}

/** @param {Driven[]} driven @param {number} seconds @param {Health} before @param {Health} after */
function summary(driven, seconds, before, after) {
  const times = driven.flatMap(one => one.times).sort((a, b) => a - b)
  const at = (/** @type {number} */ share) => rounded(times[Math.floor(share * (times.length - 1))] ?? 0)
  const wrong = driven.flatMap(one => Object.entries(one.wrong))
  const perLogin = (/** @type {number} */ milliseconds) => rounded(milliseconds / Math.max(1, times.length))
  const { p50, p99, max } = after.eventLoopDelayMs
  return {
    logins: times.length,
    seconds: rounded(seconds),
    perSecond: rounded(times.length / seconds),
    loginMs: { p50: at(0.5), p99: at(0.99) },
    retryLater: driven.reduce((sum, one) => sum + one.retries, 0),
    wronglyRefused: Object.fromEntries(wrong),
    broken: driven.reduce((sum, one) => sum + one.broken, 0),
    tokens: {
      verified: driven.reduce((sum, one) => sum + one.tokens.verified, 0),
      of: driven.reduce((sum, one) => sum + one.tokens.of, 0),
    },
    cpuMsPerLogin: {
      main: perLogin(after.cpuMs.main - before.cpuMs.main),
      workers: perLogin(after.cpuMs.workers - before.cpuMs.workers),
      cars: perLogin(driven.reduce((sum, one) => sum + one.cpuMs, 0)),
    },
    eventLoopDelayMs: { p50: rounded(p50), p99: rounded(p99), max: rounded(max) },
    rssMb: rounded(after.rssMb),
  }
}
const rounded = (/** @type {number} */ value) => Number(value.toPrecision(4))

/**
 * Steady load: so many logins a second, well below what the server can do.
 *
 * @param {{rate: number, seconds: number, cars: number}} load
 */
export function steady({ rate, seconds, cars }) {
  return withRps({ workers: 1 }, async ({ drive }) => {
    const size = { cars, connections: 64, seconds: seconds * 3 }
    // Connections, caches and compilers are warm from here on.
    await drive({ ...size, logins: 2 * cars, begin: 'next' })
    return drive({ ...size, logins: rate * seconds, begin: rate })
  })
}

/**
 * As much load as there can be on a server without workers, which computes on its main thread.
 *
 * @param {{logins: number, cars: number}} load
 */
export function withoutWorkers({ logins, cars }) {
  return withRps({ workers: 0 }, ({ drive }) =>
    drive({ cars, logins, connections: 64, seconds: 60, begin: 'next' }),
  )
}

/** @param {readonly string[]} args @returns {Promise<number>} the exit code */
export async function benchServer(args) {
  const { values } = parseArgs({
    args: [...args],
    options: {
      soak: { type: 'boolean', default: false },
      storm: { type: 'boolean', default: false },
      json: { type: 'boolean', default: false },
      rate: { type: 'string' },
      logins: { type: 'string' },
      cars: { type: 'string' },
      connections: { type: 'string' },
      seconds: { type: 'string' },
      workers: { type: 'string' },
    },
  })
  const number = (
    /** @type {'rate' | 'logins' | 'cars' | 'connections' | 'seconds' | 'workers'} */ name,
    /** @type {number} */ unless,
  ) => {
    const value = Number(values[name] ?? unless)
    if (!Number.isInteger(value) || value < 1) throw new Error(`--${name}: a whole number from 1 on`)
    return value
  }
  const say = (/** @type {string} */ text) => values.json || console.log(text)
  /** @type {Record<string, unknown>} */
  const report = { node: process.version, cpu: cpus()[0]?.model, cores: cpus().length }
  let isMissed = false
  /** @type {(name: string, result: Result & {settledMb?: number}, holds: boolean) => void} */
  const note = (name, result, holds) => {
    report[name] = { ...result, holds }
    const { wronglyRefused, broken, tokens } = result
    const isClean = Object.keys(wronglyRefused).length === 0 && broken === 0 && tokens.verified === tokens.of
    if (!holds || !isClean) isMissed = true
    say(
      `${name}: ${JSON.stringify(result)}${holds ? '' : ' MISSED'}${isClean ? '' : ' WRONG REFUSALS OR TOKENS'}`,
    )
  }
  const isPrompt = (/** @type {Result} */ { eventLoopDelayMs }) => eventLoopDelayMs.p99 <= EVENT_LOOP_LIMIT

  if (values.soak) {
    const cars = number('cars', 1_000)
    const logins = number('logins', 100_000)
    /** @type {Omit<Load, 'logins'>} */
    const load = {
      cars,
      connections: number('connections', 64),
      seconds: number('seconds', 3_600),
      begin: 'next',
    }
    const progress = (/** @type {Health} */ { logins, rssMb }) =>
      say(`${logins} logins, ${rounded(rssMb)} MB`)
    await withRps({ workers: number('workers', 1), progress }, async ({ drive, settled }) => {
      const first = await drive({ ...load, logins: Math.floor(logins / 10) })
      const { rssMb: before } = await settled()
      note(`after ${first.logins}`, { ...first, settledMb: rounded(before) }, true)
      const rest = await drive({ ...load, logins: logins - Math.floor(logins / 10) })
      const { rssMb: after } = await settled()
      const grown = { ...rest, settledMb: rounded(after) }
      note(`after ${first.logins + rest.logins}`, grown, after <= before * 1.1)
    })
  } else if (values.storm) {
    const cars = number('cars', 20_000)
    const seconds = number('seconds', 60)
    const connections = number('connections', 1_000)
    await withRps({ workers: number('workers', 1) }, async ({ drive }) => {
      // Longer than the limit, so that one that misses it says by how much.
      const load = { cars, logins: cars, connections, seconds: seconds * 3 }
      const result = await drive({ ...load, begin: 'at once' })
      note('storm', result, result.logins === cars && result.seconds <= seconds)
    })
  } else if (values.rate !== undefined) {
    const seconds = number('seconds', 20)
    const result = await steady({ rate: number('rate', 100), seconds, cars: number('cars', 200) })
    note(`${values.rate} a second`, result, isPrompt(result))
  } else {
    const cars = number('cars', 500)
    const sizes = values.workers === undefined ? [1, 2] : [number('workers', 1)]
    for (const workers of sizes) {
      await withRps({ workers }, async ({ drive }) => {
        const name = `${workers} worker${workers > 1 ? 's' : ''}`
        const load = { cars, connections: number('connections', 64), seconds: number('seconds', 120) }
        const logins = number('logins', 5_000)
        await drive({ ...load, logins: Math.ceil(logins / 10), begin: 'next' })
        const most = await drive({ ...load, logins, begin: 'next' })
        note(name, most, true)
        const rate = Math.max(2, Math.floor(most.perSecond / 2))
        const half = await drive({ ...load, logins: Math.ceil(logins / 2), begin: rate })
        note(`${name}, ${rate} a second`, half, workers > 1 || isPrompt(half))
      })
    }
  }
  if (values.json) console.log(JSON.stringify(report))
  return isMissed ? 1 : 0
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href)
  process.exitCode = await benchServer(process.argv.slice(2))
