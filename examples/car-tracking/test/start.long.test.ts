/**
 * `npm start` itself, twice in one folder: its cars are heard at the broker under their own names, two of them have a channel to
 * each other, a ban ends a car's MQTT connection, and at the end nothing is left running. What the steps are worth `--check` shows.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { mosquittoFile } from '@milagro-ts/car-tracking/broker'
import { topicOf } from '@milagro-ts/car-tracking/live-positions'
import { Operator } from '@milagro-ts/car-tracking/operator'
import { isFree } from '@milagro-ts/car-tracking/processes'
import { fileTokenStore } from '@milagro-ts/client/file-token-store'
import { NO_TICKETS } from '@milagro-ts/tls/tickets'
import { connectAsync, type MqttClient } from 'mqtt'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'

const START = fileURLToPath(new URL('../dist/start.js', import.meta.url))
const PATIENCE = 120_000
/** Offsets of every port that it takes. */
const PORTS = [0, 1, 2, 3, 4, 6, 9, 11, 12, 13, 50, 51, 52, 54, 61, 62, 63]

const hasMosquitto = mosquittoFile() !== undefined
if (!hasMosquitto) console.log('there is no mosquitto: cars’ positions at a broker are not tested')

describe.skipIf(!hasMosquitto)('npm start', () => {
  let folder: string
  let base: number
  let child: ChildProcess
  let out: string
  let subscriber: MqttClient | undefined
  const heard = new Map<string, number>()

  const start = () => {
    out = ''
    child = spawn(process.execPath, [NO_TICKETS, START, '--port-base', String(base)], { cwd: folder })
    child.stdout?.on('data', chunk => {
      out += chunk
    })
    child.stderr?.on('data', chunk => {
      out += chunk
    })
  }
  const says = (what: RegExp) =>
    vi.waitFor(() => expect(out).toMatch(what), { timeout: PATIENCE, interval: 100 })
  const end = () =>
    new Promise<number | null>(resolve => {
      child.once('close', resolve)
      child.kill('SIGINT')
    })
  const free = async () => (await Promise.all(PORTS.map(offset => isFree(base + offset)))).every(Boolean)

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'milagro-npm-start-'))
    base = 20_000 + (process.pid % 10_000)
    while (!(await free())) base += 100
    start()
    await says(/^running after/m)
  }, 2 * PATIENCE)
  afterAll(async () => {
    await subscriber?.endAsync(true)
    if (child.exitCode === null) await end()
    await rm(folder, { recursive: true })
  })

  const idCores = async () => {
    const book = JSON.parse(await readFile(join(folder, '.milagro/address-book.json'), 'utf8'))
    return book as { name: string; idCore: string }[]
  }

  test('every car is heard at the broker, and two have a channel to each other', {
    timeout: PATIENCE,
  }, async () => {
    subscriber = await connectAsync({
      protocol: 'mqtt+unix',
      path: join(folder, '.milagro/mosquitto/socket'),
      reconnectPeriod: 0,
    })
    subscriber.on('message', topic => void heard.set(topic, (heard.get(topic) ?? 0) + 1))
    await subscriber.subscribeAsync('cars/#')
    await expect
      .poll(() => [...heard.values()].filter(count => count > 1).length, { timeout: PATIENCE })
      .toBe(3)
    const pair = await idCores()
    expect(pair.map(({ name }) => name)).toEqual(['car-1', 'car-3'])
    expect([...heard.keys()]).toEqual(expect.arrayContaining(pair.map(({ idCore }) => topicOf(idCore))))
    await says(/^car-3: has a channel to car-1/m)
  })

  test('a ban ends a car’s connection to the broker', { timeout: PATIENCE }, async () => {
    const at = (offset: number) => `http://127.0.0.1:${base + offset}`
    const operator = await Operator.open({
      rps: at(1),
      fleet: at(0),
      tracking: at(2),
      store: fileTokenStore(join(folder, '.milagro/operator.json')),
      pin: (await readFile(join(folder, '.milagro/operator.pin'), 'utf8')).trim(),
    })
    const { vehicles } = await operator.fleet.listVehicles({ query: { instance: 'DEMO-CAR-2' } })
    const [{ id = 0, idCore = '' } = {}] = vehicles
    const log = () => readFile(join(folder, '.milagro/logs/broker.log'), 'utf8')
    expect(await log()).not.toContain(`Client ${idCore} closed`)
    await operator.fleet.ban({ body: { vehicle: id, reason: 'test' } })
    await expect.poll(log, { timeout: PATIENCE }).toContain(`Client ${idCore} closed`)
    operator.close()
    const [silent, others] = [heard.get(topicOf(idCore)), [...heard.values()].reduce((sum, one) => sum + one)]
    await expect
      .poll(() => [...heard.values()].reduce((sum, one) => sum + one), { timeout: PATIENCE })
      .toBeGreaterThan(others + 4)
    expect(heard.get(topicOf(idCore))).toBe(silent)
  })

  test('Ctrl-C ends everything, and a second start has all of it again', {
    timeout: 2 * PATIENCE,
  }, async () => {
    const before = await idCores()
    await subscriber?.endAsync(true)
    expect(await end()).toBe(0)
    expect(out).toMatch(/ending\n$/)
    expect(await free()).toBe(true)
    start()
    await says(/^car-3: has a channel to car-1/m)
    expect(out).toMatch(/mosquitto \d+/)
    expect(await idCores()).toEqual(before)
    expect(await readdir(join(folder, '.milagro/logs'))).toContain('gateway.log')
  })
})
