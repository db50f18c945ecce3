import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer, Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import {
  freePorts,
  isFree,
  ManagedProcess,
  ownBlock,
  ProcessFailure,
  runToEnd,
  unlessAborted,
} from '@milagro-ts/car-tracking/processes'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'milagro-processes-'))
})
afterEach(() => rm(folder, { recursive: true }))

async function program(source: string) {
  const file = join(folder, 'program.mjs')
  await writeFile(file, source)
  return { name: 'program', file, args: ['one'], env: { SECRET_FILE: 'x' }, logFile: join(folder, 'log') }
}
const SAY_READY = `console.log(JSON.stringify({ event: 'ready', args: process.argv.slice(2), env: process.env }))`

test('a process says that it is ready, with its own environment only, and ends when asked', async () => {
  process.env.MILAGRO_OF_THE_PARENT = 'secret'
  const child = new ManagedProcess(await program(`${SAY_READY}\nsetInterval(() => {}, 1000)`))
  const ready = await child.ready()
  expect(ready.args).toEqual(['one'])
  expect(ready.env).toMatchObject({ SECRET_FILE: 'x' })
  expect(ready.env).not.toHaveProperty('MILAGRO_OF_THE_PARENT')
  delete process.env.MILAGRO_OF_THE_PARENT
  await child.end()
  expect(await child.ended).toBe('SIGTERM')
  expect(child.running).toBe(false)
  await child.end()
})

test('one that does not listen is killed', async () => {
  const child = new ManagedProcess(
    await program(`process.on('SIGTERM', () => {})\n${SAY_READY}\nsetInterval(() => {}, 1000)`),
  )
  await child.ready()
  await child.end(50)
  expect(await child.ended).toBe('SIGKILL')
})

test('one that ends before it is ready fails with its own last line', async () => {
  const options = await program(
    `console.error('first'); console.error('port 1 is taken'); process.exitCode = 1`,
  )
  const failure = await new ManagedProcess(options).ready().catch((error: unknown) => error)
  expect(failure).toBeInstanceOf(ProcessFailure)
  expect(failure).toMatchObject({ message: 'program has ended: port 1 is taken' })
  await expect(runToEnd(options)).rejects.toThrow('program ended with 1: port 1 is taken')
})

test('one whose parent is killed ends by itself', async () => {
  const { file, logFile } = await program(`${SAY_READY}\nsetInterval(() => {}, 1000)`)
  const library = new URL('../dist/processes.js', import.meta.url).href
  const parentFile = join(folder, 'parent.mjs')
  await writeFile(
    parentFile,
    `import { ManagedProcess } from '${library}'
    const child = new ManagedProcess(${JSON.stringify({ name: 'child', file, args: [], logFile })})
    await child.ready()
    console.log(JSON.stringify({ event: 'child', child: child.pid }))`,
  )
  const parent = new ManagedProcess({ name: 'parent', file: parentFile, args: [], logFile })
  const { child } = await parent.waitFor(({ event }) => event === 'child')
  parent.kill('SIGKILL')
  await parent.ended
  await vi.waitFor(() => expect(() => process.kill(child as number, 0)).toThrow('ESRCH'), { timeout: 10_000 })
})

test('lines that are no events are kept as text; events can be waited for after they were said', async () => {
  const child = new ManagedProcess(
    await program(`console.log('warning'); console.log('{"event":"a","n":1}'); console.log('{"n":2}')`),
  )
  await child.ended
  expect(child.events).toEqual([
    { event: 'line', text: 'warning' },
    { event: 'a', n: 1 },
    { event: 'line', text: '{"n":2}' },
    { event: 'ended', how: 0 },
  ])
  expect(await child.waitFor(({ event }) => event === 'a')).toMatchObject({ n: 1 })
  await expect(child.waitFor(({ event }) => event === 'a', { from: 2 })).rejects.toThrow(ProcessFailure)
})

test('what takes too long is named', async () => {
  const child = new ManagedProcess(await program('setInterval(() => {}, 1000)'))
  await expect(child.waitFor(() => false, { within: 10, what: 'car' })).rejects.toThrow(
    'program: no car within 10 ms',
  )
  await child.end()
})

test('a port is free or not; free ones differ', async () => {
  const server = createServer()
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as { port: number }
  expect(await isFree(port)).toBe(false)
  await new Promise(resolve => server.close(resolve))
  expect(await isFree(port)).toBe(true)
  expect(new Set(await freePorts(8)).size).toBe(8)
})

test('two processes are never given the same port, also before they use it', async () => {
  const library = new URL('../dist/processes.js', import.meta.url).href
  const asking = await program(
    `import { freePorts } from '${library}'
    const ports = [...(await freePorts(100)), ...(await freePorts(100))]
    console.log(JSON.stringify({ event: 'ports', ports }))
    setInterval(() => {}, 1000)`,
  )
  const children = [1, 2, 3].map(() => new ManagedProcess(asking))
  const said = await Promise.all(children.map(child => child.waitFor(({ event }) => event === 'ports')))
  const given = said.map(({ ports }) => new Set(ports as number[]))
  expect(given.map(({ size }) => size)).toEqual([127, 127, 127])
  expect(new Set(given.flatMap(ports => [...ports])).size).toBe(3 * 127)
  await Promise.all(children.map(child => child.end()))
})

test('more ports than there are is an error', async () => {
  await expect(freePorts(128)).rejects.toThrow('128 free ports are not to be had')
})

test('where each block of ports is held, that is an error after a look at each', async () => {
  const looked = new Set<number>()
  const held = async (port: number) => {
    looked.add(port)
    return undefined
  }
  await expect(ownBlock(held)).rejects.toThrow("each of 177 blocks of ports is another process'")
  expect(looked.size).toBe(177)
})

test('a claim that failed is no later caller’s failure', async () => {
  vi.resetModules()
  const fresh = await import('@milagro-ts/car-tracking/processes')
  vi.spyOn(Server.prototype, 'listen').mockImplementationOnce(function (this: Server) {
    queueMicrotask(() =>
      this.emit('error', Object.assign(new Error('too many open files'), { code: 'EMFILE' })),
    )
    return this
  })
  try {
    await expect(fresh.freePorts(1)).rejects.toThrow('too many open files')
    expect(await fresh.freePorts(1)).toHaveLength(1)
  } finally {
    vi.restoreAllMocks()
  }
})

test('work goes on until somebody interrupts', async () => {
  const interruption = new AbortController()
  expect(await unlessAborted(interruption.signal, Promise.resolve(1))).toBe(1)
  const never = unlessAborted(interruption.signal, new Promise(() => {}))
  interruption.abort()
  await expect(never).rejects.toThrow('interrupted')
})
