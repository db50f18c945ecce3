import { spawn } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
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

describe('npm start says in one line what is wrong', () => {
  test.each([
    ['an unknown flag', ['--chek'], /Unknown option '--chek'/],
    ['a port that is none', ['--port-base', 'x'], /--port-base/],
    ['a program that is not there', ['--check', '--rps-main', 'none.mjs'], /there is no none\.mjs/],
  ])('%s', async (_what, args, why) => {
    const { exit, err } = await run('start.js', ...args)
    expect(exit).toBe(2)
    expect(err).toMatch(why)
    expect(err.trimEnd().split('\n')).toHaveLength(1)
  })

  test('a port that is taken', async () => {
    const server = createServer()
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
    const { port } = server.address() as { port: number }
    const { exit, err } = await run('start.js', '--port-base', String(port))
    await new Promise(resolve => server.close(resolve))
    expect(exit).toBe(2)
    expect(err).toContain(`port ${port} (`)
    const again = await run('start.js', '--port-base', String(port + 100))
    expect(again.err).toContain(`founded with --port-base ${port}`)
  })
})

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
