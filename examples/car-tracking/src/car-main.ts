/**
 * A simulated car's process: `node dist/car-main.js --config car.json [--gpx track.gpx]`. It enrols if it hasn't yet,
 * logs in, drives, reports and keeps ahead of the slots until SIGTERM. Every event is a JSON line on standard output.
 *
 *   every position   → tracking server, in batches      HTTPS without certificates: the record, of which nothing is lost
 *                    → broker, by its gateway           MQTT, where `mqtt` is set: as it is now, for whoever subscribes
 *                    ↔ another car                      a channel with no server at all, where `peers` is set
 */
import { mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { createClient } from '@milagro-ts/api/call'
import { ConfigError, type Environment, readSecret } from '@milagro-ts/api/config'
import { createLog } from '@milagro-ts/api/log'
import { systemClock, systemTimers } from '@milagro-ts/api/system'
import { agentFetch } from '@milagro-ts/client/agent-fetch'
import { Device } from '@milagro-ts/client/device'
import { adviceOn } from '@milagro-ts/client/errors'
import type { Session } from '@milagro-ts/client/session'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { httpsAgent } from '@milagro-ts/tls/https'
import { type CarConfig, loadCarConfig } from './car-config.js'
import { deviceOptionsOf, keepAhead } from './car-device.js'
import { readNotes, writeNotes } from './car-notes.js'
import { CarPeers } from './car-peers.js'
import { ChannelLogin } from './channel-login.js'
import { Drive, generatedTrack, parseGpx } from './gpx.js'
import { LivePositions } from './live-positions.js'
import { type CarIdentity, type CarOptions, SimulatedCar } from './simulated-car.js'
import { HEAD_CONTEXT, type Position } from './track-chain.js'
import { trackingRoutes } from './tracking-routes.js'

/** Milliseconds between two attempts at what can't be done yet. */
const AGAIN = 1_000
const DEFAULT_SPEED = 14

const ending = new AbortController()
process.once('SIGTERM', () => ending.abort())
process.once('SIGINT', () => ending.abort())

try {
  const { values } = parseArgs({ options: { config: { type: 'string' }, gpx: { type: 'string' } } })
  const config = loadCarConfig(
    values.config,
    process.env,
    values.gpx === undefined ? {} : { gpx: values.gpx },
  )
  await drive(config, process.env, ending.signal)
} catch (error) {
  if (!ending.signal.aborted) {
    const { code, message } = error as NodeJS.ErrnoException
    process.stderr.write(`car: ${message}\n`)
    const isUsage =
      error instanceof ConfigError || error instanceof DecodeError || code?.startsWith('ERR_PARSE_ARGS')
    process.exitCode = isUsage ? 2 : 1
    ending.abort()
  }
}

async function drive(config: CarConfig, env: Environment, signal: AbortSignal): Promise<void> {
  const { dataDir, positionEvery, reportEvery } = config
  const track = config.gpx === undefined ? generatedTrack(config.seed ?? 1) : parseGpx(readTrack(config.gpx))
  mkdirSync(dataDir, { recursive: true, mode: 0o700 })
  const device = await patiently(signal, () => enrolled(config, env))
  const user =
    config.driver === undefined ? undefined : await patiently(signal, () => seated(device, config, env))
  const notes = join(dataDir, 'track.json')
  const car = new SimulatedCar({
    ...(config.trackingTls === undefined
      ? {
          identity: byTokens(device, config, env, user),
          tracking: createClient(trackingRoutes, { baseUrl: config.tracking }),
        }
      : onConnections(device, config.trackingTls, config, env, user)),
    drive: new Drive(track, config.speed ?? DEFAULT_SPEED),
    notes: await readNotes(notes),
    save: changed => writeNotes(notes, changed),
    clock: systemClock,
    interval: positionEvery,
    say,
  })
  let here: Position | undefined
  const { mqtt, peers: peered } = config
  const peers =
    peered === undefined
      ? undefined
      : new CarPeers({
          ...peered,
          identity: device,
          position: () => here,
          every: reportEvery,
          clock: systemClock,
          timers: systemTimers,
          log: createLog(config.name, { level: 'warn' }),
          say,
        })
  await peers?.listen()
  const live = mqtt === undefined ? undefined : new LivePositions(device, mqtt, { again: reportEvery, say })
  const ahead = keepAhead(device, say)
  say({ event: 'ready', idCore: device.mpinId, pid: process.pid })
  try {
    await Promise.all([
      until(signal, positionEvery, async () => {
        here = await car.tick()
        live?.publish(here)
      }),
      until(signal, reportEvery, () => car.report()),
      ...(peers === undefined ? [] : [until(signal, reportEvery, () => peers.look())]),
    ])
  } finally {
    peers?.close()
    await live?.close()
    await ahead.close()
  }
}

/**
 * By TLS as this very device, logged in on each connection; `connected`, `logged-in` and `disconnected` are said. A receipt is
 * for the public audience: it is bound to what was signed, and to no connection.
 */
function onConnections(
  device: Device,
  { url: baseUrl, name }: NonNullable<CarConfig['trackingTls']>,
  config: CarConfig,
  env: Environment,
  driver: string | undefined,
): Pick<CarOptions, 'identity' | 'tracking'> {
  let user = driver
  const login = new ChannelLogin({
    prove: tlsExporter => device.onePass({ audience: name, tlsExporter, ...factorsOf(user, env) }),
    loggedIn: () => say({ event: 'logged-in', driver: user !== undefined }),
  })
  const atRps = () => device.login({ audience: config.tracking })
  // Slots may be shorter than the usual warning, and a request that breaks off at the end of one is made again.
  const agent = httpsAgent(device, { servername: name, keepAlive: true, maxSockets: 1, warnBefore: 0 })
  const fetch = agentFetch(agent, {
    authorization: login.authorization,
    answered: login.answered,
    opened: socket => {
      say({ event: 'connected', server: name })
      socket.once('close', () => say({ event: 'disconnected', server: name }))
    },
  })
  return {
    tracking: createClient(trackingRoutes, { baseUrl, fetch }),
    identity: {
      groupId: device.groupId,
      idCore: device.mpinId,
      async authorization({ fresh }) {
        if (!fresh) return undefined
        login.forget()
        // A one-pass proof is made by what the device knows, and what it was refused for only the RPS can tell it: a key
        // epoch that has begun, a ban.
        await atRps()
        return undefined
      },
      login: atRps,
      word: wordBy(device, config),
      leaveDriver() {
        const had = user !== undefined
        user = undefined
        return had
      },
    },
  }
}

/** What the car says for the head of a batch: its own signature, or the RPS' receipt for the public audience. */
function wordBy(device: Device, { signs, tracking: audience }: CarConfig): CarIdentity['word'] {
  return async payload =>
    signs === 'itself'
      ? { signed: await device.signOffline(payload, HEAD_CONTEXT) }
      : { receipt: await device.sign({ audience, payload }) }
}

/** The identity in the store; a new one by code or words when there is none. */
async function enrolled(config: CarConfig, env: Environment): Promise<Device> {
  const code = optionalSecret('MILAGRO_CAR_CODE', env)
  const { attributes, instance, groupId } = config
  const begin = performance.now()
  const device = await Device.enrol({
    ...deviceOptionsOf(config, say),
    attributes,
    instance,
    ...(code === undefined ? {} : { code }),
    ...(groupId === undefined ? {} : { groupId }),
    onWords: words => say({ event: 'words', words }),
  })
  say({ event: 'enrolled', idCore: device.mpinId, milliseconds: Math.round(performance.now() - begin) })
  return device
}

/** The driver's name on the device, enrolled if that hasn't been yet. */
async function seated(device: Device, config: CarConfig, env: Environment): Promise<string> {
  const attributes = config.driver?.attributes ?? {}
  const known = (await device.users()).find(({ name }) => name === attributes.driverName)
  if (known !== undefined) return known.name
  const code = optionalSecret('MILAGRO_CAR_DRIVER_CODE', env)
  const pin = readSecret('MILAGRO_CAR_PIN', env)
  const user = await device.enrolUser({
    attributes,
    pin,
    ...(code === undefined ? {} : { code }),
    onWords: words => say({ event: 'words', words }),
  })
  say({ event: 'driver-enrolled' })
  return user
}

/** The SDK's device and session as the car sees them. */
function byTokens(
  device: Device,
  config: CarConfig,
  env: Environment,
  driver: string | undefined,
): CarIdentity {
  let user = driver
  let session: Session | undefined
  const accessToken = async (fresh: boolean): Promise<string> => {
    if (session !== undefined) return session.accessToken({ fresh })
    session = await device.session({ audience: config.tracking, ...factorsOf(user, env) })
    say({ event: 'logged-in', driver: user !== undefined })
    return session.accessToken()
  }
  return {
    groupId: device.groupId,
    idCore: device.mpinId,
    authorization: async ({ fresh }) => `Bearer ${await accessToken(fresh)}`,
    login: () => accessToken(true),
    word: wordBy(device, config),
    leaveDriver() {
      if (user === undefined) return false
      user = undefined
      session?.close()
      session = undefined
      return true
    },
  }
}

function factorsOf(user: string | undefined, env: Environment): { user?: string; pin?: string } {
  return user === undefined ? {} : { user, pin: readSecret('MILAGRO_CAR_PIN', env) }
}

/** Makes an attempt again while the SDK says that it is worth it. */
async function patiently<T>(signal: AbortSignal, attempt: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await attempt()
    } catch (error) {
      const advice = adviceOn(error)
      if (advice !== 'again' && advice !== 'later') throw error
      say({ event: 'waiting', why: (error as Error).message })
      await sleep(AGAIN, undefined, { signal })
    }
  }
}

/** Does `work` every so many milliseconds, one after the other, until the car is to end. */
async function until(signal: AbortSignal, milliseconds: number, work: () => Promise<unknown>): Promise<void> {
  while (!signal.aborted) {
    const begin = performance.now()
    await work()
    const left = Math.max(0, milliseconds - (performance.now() - begin))
    await sleep(left, undefined, { signal }).catch(() => undefined)
  }
}

function optionalSecret(name: string, env: Environment): string | undefined {
  return env[name] === undefined && env[`${name}_FILE`] === undefined ? undefined : readSecret(name, env)
}

function readTrack(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    throw new ConfigError(`gpx: cannot read '${path}' (${(error as NodeJS.ErrnoException).code ?? 'error'})`)
  }
}

function say(event: Readonly<Record<string, unknown>>): void {
  process.stdout.write(`${JSON.stringify(event)}\n`)
}
