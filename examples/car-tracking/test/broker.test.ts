/** mosquitto as a process of the example: it ends when it is to, and nothing is left behind. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { access, chmod, mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import {
  BROKER,
  type BrokerSocket,
  brokerInUse,
  brokerProcess,
  brokerSocket,
  endBroker,
  mosquittoFile,
  mosquittoPid,
} from '@milagro-ts/car-tracking/broker'
import { ManagedProcess } from '@milagro-ts/car-tracking/processes'
import { isSocketPathTooLong } from '@milagro-ts/tls/service-address'
import { connectAsync } from 'mqtt'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'milagro-broker-'))
  await mkdir(join(folder, 'logs'))
})
afterEach(async () => {
  vi.unstubAllEnvs()
  await rm(folder, { recursive: true })
})

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
  const socket = await brokerSocket(folder)
  const broker = new ManagedProcess(await brokerProcess(folder, process.execPath, socket))
  await expect(broker.ready()).rejects.toThrow('broker has ended')
  expect(await broker.ended).not.toBe(0)
  await expect.poll(log).toMatch(/broker: mosquitto has ended \(\d+\)\n$/)
})

const modeOf = async (file: string) => (await stat(file)).mode & 0o777

test('mosquitto has one listener: a socket in a folder that only this user may enter, and no port', async () => {
  // Of whatever mode it was.
  await mkdir(join(folder, 'mosquitto'), { mode: 0o755 })
  const { path } = await brokerSocket(folder)
  expect(path).toBe(join(folder, 'mosquitto', 'socket'))
  expect(await modeOf(dirname(path))).toBe(0o700)
  const { args } = await brokerProcess(folder, '/usr/sbin/mosquitto', { path, remove: async () => {} })
  const config = await readFile(args[args.indexOf('--config') + 1] as string, 'utf8')
  const listening = config.split('\n').filter(line => /^(listener|port|bind_)/.test(line))
  expect(listening).toEqual([`listener 0 ${path}`])
})

test.each([
  ['is too long', ['a'.repeat(60), 'b'.repeat(60)]],
  ['has a space', ['a b']],
])(
  'below a folder whose name %s, the socket has a folder of its own, which goes at the end',
  async (_, names) => {
    const deep = join(folder, ...names)
    await mkdir(deep, { recursive: true })
    const { path, remove } = await brokerSocket(deep)
    expect([path.startsWith(deep), isSocketPathTooLong(path)]).toEqual([false, false])
    expect(await modeOf(dirname(path))).toBe(0o700)
    await writeFile(path, '')
    await remove()
    await expect(access(dirname(path))).rejects.toThrow('ENOENT')
    // Once more is no error.
    await remove()
  },
)

test('where no folder does for a socket, that is said', async () => {
  vi.stubEnv('TMPDIR', join(folder, 't t'))
  await mkdir(join(folder, 't t'))
  await expect(brokerSocket(join(folder, 'a b'))).rejects.toThrow('socket finds no place')
  expect(await readdir(join(folder, 't t'))).toEqual([])
})

test('a folder that a killed start has left behind goes at the next one', async () => {
  const deep = join(folder, 'a b')
  await mkdir(deep)
  const { path: left } = await brokerSocket(deep)
  await writeFile(left, '')
  const { path, remove } = await brokerSocket(deep)
  await expect(access(dirname(left))).rejects.toThrow('ENOENT')
  await access(dirname(path))
  // What somebody else has put in is left.
  await writeFile(join(dirname(path), 'other'), '')
  await remove()
  expect(await readdir(dirname(path))).toEqual(['other'])
  await rm(dirname(path), { recursive: true })
})

test.each([
  ['ours', []],
  ['a folder of its own', ['a b']],
])('a socket that somebody listens at is in use: %s', async (_, names) => {
  const deep = join(folder, ...names)
  await mkdir(deep, { recursive: true })
  const { path, remove } = await brokerSocket(deep)
  expect(await brokerInUse(deep)).toBeUndefined()
  const server = createServer()
  await new Promise<void>(resolve => server.listen(path, resolve))
  expect(await brokerInUse(deep)).toBe(`${path} is in use: end the mosquitto that listens there first`)
  await expect(brokerSocket(deep)).rejects.toThrow(`${path} is in use`)
  await new Promise(resolve => server.close(resolve))
  expect(await brokerInUse(deep)).toBeUndefined()
  await remove()
})

test('one whose queue is full is in use', async () => {
  const { path } = await brokerSocket(folder)
  const serving = `require('node:net').createServer()
    .listen({ path: process.argv[1], backlog: 1 }, () => console.log('listening'))`
  const child = spawn(process.execPath, ['-e', serving, path], { stdio: ['ignore', 'pipe', 'inherit'] })
  await new Promise(resolve => child.stdout.once('data', resolve))
  child.kill('SIGSTOP')
  const queued = [1, 2].map(() => connect(path))
  await Promise.all(queued.map(one => new Promise(resolve => one.once('connect', resolve))))
  expect(await brokerInUse(folder)).toContain('is in use')
  for (const one of queued) one.destroy()
  child.kill('SIGKILL')
})

const program = mosquittoFile()
if (program === undefined) console.log('there is no mosquitto: how it starts and ends is not tested')

describe.skipIf(program === undefined)('mosquitto', () => {
  let socket: BrokerSocket
  let path: string
  let broker: ManagedProcess
  const start = async () => {
    broker = new ManagedProcess(await brokerProcess(folder, program as string, socket))
    await broker.ready()
  }
  beforeEach(async () => {
    socket = await brokerSocket(folder)
    path = socket.path
    await start()
  })
  afterEach(() => broker.end())

  test('listens once it is ready, and ends when it is told to', async () => {
    expect(broker.name).toBe(BROKER)
    expect(await touch(path)).toBe('closed')
    await broker.end()
    expect(await broker.ended).toBe(0)
    expect(await touch(path)).toBe('nobody listens')
  })

  test('one that still runs, from an earlier start, is said', async () => {
    await expect(brokerSocket(folder)).rejects.toThrow(`${path} is in use`)
    await broker.end()
    expect(await brokerSocket(folder)).toMatchObject({ path })
  })

  test('a socket that a killed one has left behind is in nobody’s way', async () => {
    process.kill(mosquittoPid(broker) as number, 'SIGKILL')
    await broker.ended
    await access(path)
    expect(await touch(path)).toBe('nobody listens')
    socket = await brokerSocket(folder)
    await start()
    expect(await touch(path)).toBe('closed')
  })

  test.skipIf(process.getuid?.() !== 0)('another user does not reach it', async () => {
    // All but its own folder is open to everybody.
    await chmod(folder, 0o755)
    const connecting = `require('node:net').connect(process.argv[1])
      .once('connect', () => process.exit(0)).once('error', error => { console.log(error.code); process.exit(1) })`
    const nobody = { uid: 65_534, gid: 65_534, cwd: '/', encoding: 'utf8' } as const
    const said = spawnSync(process.execPath, ['-e', connecting, path], nobody)
    expect(said).toMatchObject({ status: 1, stdout: 'EACCES\n' })
  })

  test('this user’s programs have whatever name they say there, as the README warns', async () => {
    const local = { protocol: 'mqtt+unix', path, protocolVersion: 5, reconnectPeriod: 0 } as const
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
    expect(await touch(path)).toBe('closed')
    await endBroker(broker)
    await expect.poll(() => touch(path), { timeout: 20_000 }).toBe('nobody listens')
    // Once more is no error.
    await endBroker(broker)
  })

  test('does not outlive whoever started it', async () => {
    await broker.end()
    const { file, args } = await brokerProcess(folder, program as string, socket)
    const child: ChildProcess = spawn(process.execPath, [file, ...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    const ended = new Promise(resolve => child.once('close', resolve))
    await new Promise(resolve => child.stdout?.once('data', resolve))
    // Nobody reads any more what it says, and it has something to say.
    child.stdout?.destroy()
    child.stderr?.destroy()
    expect(await touch(path)).toBe('closed')
    await expect.poll(() => touch(path), { timeout: 20_000 }).toBe('nobody listens')
    await ended
  })
})

/** Connects, which mosquitto writes of in its log. */
function touch(path: string): Promise<string> {
  return new Promise(resolve => {
    const socket = connect(path)
    socket.once('connect', () => socket.end('no MQTT'))
    socket.once('close', () => resolve('closed'))
    // Refused where the file is left and nobody reads it any more.
    socket.on('error', error => {
      const { code = '' } = error as NodeJS.ErrnoException
      resolve(['ECONNREFUSED', 'ENOENT'].includes(code) ? 'nobody listens' : 'closed')
    })
  })
}
