/** mosquitto as a process of the example: it ends when it is to, and nothing is left behind. */
import { type ChildProcess, spawn } from 'node:child_process'
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import {
  BROKER,
  brokerProcess,
  endBroker,
  mosquittoFile,
  mosquittoPid,
} from '@milagro-ts/car-tracking/broker'
import { freePorts, isFree, ManagedProcess } from '@milagro-ts/car-tracking/processes'
import { connectAsync } from 'mqtt'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'milagro-broker-'))
  await mkdir(join(folder, 'logs'))
})
afterEach(() => rm(folder, { recursive: true }))

const log = () => readFile(join(folder, 'logs', `${BROKER}.log`), 'utf8')

test('mosquitto is found where it is, and nowhere else', async () => {
  const program = join(folder, 'mosquitto')
  expect(mosquittoFile([folder])).toBeUndefined()
  await writeFile(program, '#!/bin/sh\n', { mode: 0o600 })
  expect(mosquittoFile([folder])).toBeUndefined()
  await chmod(program, 0o700)
  expect(mosquittoFile(['/nowhere', folder])).toBe(program)
})

test('a program that is not mosquitto is said', async () => {
  const broker = new ManagedProcess(await brokerProcess(folder, process.execPath, 1))
  await expect(broker.ready()).rejects.toThrow('broker has ended')
  expect(await broker.ended).not.toBe(0)
  await expect.poll(log).toMatch(/broker: mosquitto has ended \(\d+\)\n$/)
})

const program = mosquittoFile()
if (program === undefined) console.log('there is no mosquitto: how it starts and ends is not tested')

describe.skipIf(program === undefined)('mosquitto', () => {
  let port: number
  let broker: ManagedProcess
  beforeEach(async () => {
    ;[port = 0] = await freePorts(1)
    broker = new ManagedProcess(await brokerProcess(folder, program as string, port))
    await broker.ready()
  })
  afterEach(() => broker.end())

  test('listens once it is ready, and ends when it is told to', async () => {
    expect(broker.name).toBe(BROKER)
    expect(await isFree(port)).toBe(false)
    await broker.end()
    expect(await broker.ended).toBe(0)
    expect(await isFree(port)).toBe(true)
  })

  test('who reaches it past the gateway has whatever name it says, as the README warns', async () => {
    const local = { host: '127.0.0.1', port, protocolVersion: 5, reconnectPeriod: 0 } as const
    const anybody = await connectAsync({ ...local, username: 'car-1' })
    const publish = (topic: string) =>
      anybody.publishAsync(topic, 'here', { qos: 1 }).then(
        () => 'taken',
        (error: { code?: number }) => error.code,
      )
    expect([await publish('cars/car-1/at'), await publish('cars/car-2/at')]).toEqual(['taken', 0x87])
    await anybody.endAsync(true)
    const readme = await readFile(new URL('../../../README.md', import.meta.url), 'utf8')
    expect(readme.replaceAll('\n', ' ')).toContain('may write there under any car’s name')
  })

  test('killed, it takes its process along, which says so', async () => {
    process.kill(mosquittoPid(broker) as number, 'SIGKILL')
    expect(await broker.ended).toBe(1)
    await expect.poll(log).toMatch(/broker: mosquitto has ended \(SIGKILL\)\n$/)
  })

  test('is ended where its process was killed and cannot end it', async () => {
    broker.kill('SIGKILL')
    expect(await broker.ended).toBe('SIGKILL')
    expect(await isFree(port)).toBe(false)
    await endBroker(broker)
    await expect.poll(() => isFree(port), { timeout: 20_000 }).toBe(true)
    // Once more is no error.
    await endBroker(broker)
  })

  test('does not outlive whoever started it', async () => {
    const [other = 0] = await freePorts(1)
    const { file, args } = await brokerProcess(folder, program as string, other)
    const child: ChildProcess = spawn(process.execPath, [file, ...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    const ended = new Promise(resolve => child.once('close', resolve))
    await new Promise(resolve => child.stdout?.once('data', resolve))
    // Nobody reads any more what it says, and it has something to say.
    child.stdout?.destroy()
    child.stderr?.destroy()
    expect(await isFree(other)).toBe(false)
    await expect.poll(() => touch(other), { timeout: 20_000 }).toBe('nobody listens')
    await ended
    expect(await isFree(other)).toBe(true)
  })
})

/** Connects, which mosquitto writes of in its log. */
function touch(port: number): Promise<string> {
  return new Promise(resolve => {
    const socket = connect(port, '127.0.0.1')
    socket.once('connect', () => socket.end('no MQTT'))
    socket.once('close', () => resolve('closed'))
    socket.on('error', error =>
      resolve((error as NodeJS.ErrnoException).code === 'ECONNREFUSED' ? 'nobody listens' : 'closed'),
    )
  })
}
