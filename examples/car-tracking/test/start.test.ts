import { spawn } from 'node:child_process'
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'milagro-start-'))
})
afterEach(() => rm(folder, { recursive: true }))

/** The built program, run in an empty folder. */
function run(file: string, ...args: string[]): Promise<{ exit: number | null; out: string; err: string }> {
  const program = fileURLToPath(new URL(`../dist/${file}`, import.meta.url))
  const child = spawn(process.execPath, [program, ...args], { cwd: folder })
  let out = ''
  let err = ''
  child.stdout.on('data', chunk => {
    out += chunk
  })
  child.stderr.on('data', chunk => {
    err += chunk
  })
  return new Promise(resolve => child.once('close', exit => resolve({ exit, out, err })))
}

test('--help says the flags, among them those that the README names, and touches nothing', async () => {
  const { exit, out, err } = await run('start.js', '--help')
  expect({ exit, err }).toEqual({ exit: 0, err: '' })
  const flagsOf = (text: string) => new Set(text.match(/--[a-z][a-z-]*/g))
  const said = flagsOf(out)
  expect(said).toEqual(new Set(['--fresh', '--port-base', '--open', '--check', '--rps-main', '--help']))
  const readme = await readFile(new URL('../../../README.md', import.meta.url), 'utf8')
  const named = readme.match(/npm start -- [^`\n]*/g)?.flatMap(text => [...flagsOf(text)]) ?? []
  expect(named).toContain('--check')
  for (const flag of named) expect(said).toContain(flag)
  expect(out).toContain('(7400 unless said)')
  expect(out).toContain('.milagro/')
  expect(await readdir(folder)).toEqual([])
  // Each of them is taken: what is wrong is said of the last one.
  const all = [...said].flatMap(flag => (flag === '--port-base' || flag === '--rps-main' ? [] : [flag]))
  const { err: why } = await run('start.js', ...all, '--port-base', '8200', '--rps-main', 'none.mjs')
  expect(why).toContain('there is no none.mjs')
})

describe('npm start says in one line what is wrong', () => {
  test.each([
    ['an unknown flag', ['--chek'], /Unknown option '--chek'/],
    ['a port that is none', ['--port-base', 'x'], /--port-base/],
    ['ports beyond the last one', ['--port-base', '65530'], /--port-base is a port from 1000 to 65472/],
    ['a program that is not there', ['--check', '--rps-main', 'none.mjs'], /there is no none\.mjs/],
  ])('%s', async (_what, args, why) => {
    const { exit, err } = await run('start.js', ...args)
    expect(exit).toBe(2)
    expect(err).toMatch(why)
    expect(err.trimEnd().split('\n')).toHaveLength(1)
  })

  const state = async (files: Record<string, string>) => {
    await mkdir(join(folder, '.milagro'))
    for (const [name, text] of Object.entries(files)) await writeFile(join(folder, '.milagro', name), text)
  }

  test('a port that is taken, and then the state is as it was', async () => {
    await using taken = await listening()
    const { exit, err } = await run('start.js', '--port-base', String(taken.port))
    expect(exit).toBe(2)
    expect(err).toMatch(new RegExp(`port ${taken.port} \\(.*--port-base <n>`))
    expect(err).not.toContain('--fresh')
    expect(await readdir(folder)).toEqual([])
  })

  test('another port base than the group was founded with', async () => {
    await state({ 'settings.json': '{"portBase": 8100}' })
    const { exit, err } = await run('start.js', '--port-base', '8200')
    expect(exit).toBe(2)
    expect(err).toContain('founded with --port-base 8100')
  })

  test.each(['{', 'null', '{"portBase": "8100"}'])('damaged settings: %s', async text => {
    await state({ 'settings.json': text })
    const { exit, err } = await run('start.js')
    expect(exit).toBe(2)
    expect(err).toMatch(/settings\.json is damaged.*--fresh/)
  })

  test.each([[[]], [['--fresh']], [['--fresh', '--port-base', '8200']]])(
    'a system that runs in the same folder, which %j leaves alone',
    async args => {
      await using taken = await listening()
      const settings = `{"portBase": ${taken.port}}`
      await state({ 'settings.json': settings, 'running.pid': String(process.pid) })
      const { exit, err } = await run('start.js', ...args)
      expect(exit).toBe(2)
      expect(err).toContain(`end process ${process.pid} first`)
      expect(await readFile(join(folder, '.milagro', 'settings.json'), 'utf8')).toBe(settings)
    },
  )

  test.each([[[]], [['--fresh']]])(
    'a mosquitto of an earlier start that still listens, whose folder %j leaves alone',
    async args => {
      await state({ 'settings.json': '{"portBase": 8100}' })
      await mkdir(join(folder, '.milagro', 'mosquitto'))
      const path = join(folder, '.milagro', 'mosquitto', 'socket')
      const broker = createServer()
      await new Promise<void>(resolve => broker.listen(path, resolve))
      const { exit, err } = await run('start.js', ...args)
      expect(exit).toBe(2)
      expect(err).toContain('mosquitto/socket is in use: end the mosquitto that listens there first')
      expect(await readdir(join(folder, '.milagro'))).toEqual(['mosquitto', 'settings.json'])
      await new Promise(resolve => broker.close(resolve))
    },
  )
})

/** A server on a port that is neither the first nor beyond the last that a port base may be. */
async function listening() {
  const server = createServer()
  const listen = (port: number) =>
    new Promise<boolean>(resolve => {
      server.once('error', () => resolve(false))
      server.listen(port, '127.0.0.1', () => resolve(true))
    })
  let port = 20_000 + (process.pid % 10_000)
  while (!(await listen(port))) port += 100
  return { port, [Symbol.asyncDispose]: () => new Promise<void>(resolve => server.close(() => resolve())) }
}

describe('a car says in one line what is wrong', () => {
  const config = {
    name: 'car',
    rps: 'http://127.0.0.1:1',
    tracking: 'http://127.0.0.1:2',
    instance: 'VIN',
    attributes: {},
    positionEvery: 1000,
    reportEvery: 1000,
  }
  test.each([
    ['a setting', { ...config, positionEvery: 0 }, [], /positionEvery/],
    ['a GPX file that is not there', config, ['--gpx', 'none.gpx'], /cannot read 'none\.gpx'/],
    ['a GPX file that is none', config, ['--gpx', 'car.json'], /gpx/],
  ])('%s', async (_what, settings, args, why) => {
    await writeFile(join(folder, 'car.json'), JSON.stringify({ ...settings, dataDir: join(folder, 'car') }))
    const { exit, err } = await run('car-main.js', '--config', 'car.json', ...args)
    expect(exit).toBe(2)
    expect(err).toMatch(why)
  })
})

describe('the tracking server says in one line what is wrong', () => {
  test.each([
    ['a setting', { name: 'tracking' }, /setting/],
    ['nothing at all', undefined, /cannot read/],
  ])('%s', async (_what, settings, why) => {
    if (settings !== undefined) await writeFile(join(folder, 'tracking.json'), JSON.stringify(settings))
    const { exit, err } = await run('tracking-main.js', '--config', 'tracking.json')
    expect(exit).toBe(2)
    expect(err).toMatch(why)
  })
})
