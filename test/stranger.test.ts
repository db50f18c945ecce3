import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { NO_TICKETS } from '@milagro-ts/tls/tickets'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { ROOT } from '../scripts/prepare.mjs'
import { freeBase } from './free-port.js'

// stranger.mjs was written by somebody who had docs/protocols and nothing else. What it can't do, the pages don't say.

const stranger = join(ROOT, 'test/stranger.mjs')
const run = promisify(execFile)

test('the pages hold every input that a client needs to check itself', async () => {
  const { stdout } = await run(process.execPath, [stranger, '--self-check'])
  const lines = stdout
    .trimEnd()
    .split('\n')
    .map(line => JSON.parse(line) as { event: string; ok?: boolean })
  expect(lines.at(-1)).toEqual({ event: 'stranger', ok: true })
  expect(lines.filter(({ event, ok }) => event === 'value' && ok).length).toBeGreaterThanOrEqual(70)
})

describe('a running system', () => {
  let folder: string
  let base: number
  let system: ChildProcess
  let said = ''

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'milagro-stranger-'))
    base = await freeBase([0, 1, 2, 9, 11, 12, 13, 50, 51, 52, 61, 62, 63])
    const program = join(ROOT, 'examples/car-tracking/dist/start.js')
    system = spawn(process.execPath, [NO_TICKETS, program, '--port-base', String(base)], { cwd: folder })
    await new Promise<void>((resolve, reject) => {
      const hear = (chunk: Buffer) => {
        said += chunk.toString()
        if (said.includes('Ctrl-C ends')) resolve()
      }
      system.stdout?.on('data', hear)
      system.stderr?.on('data', hear)
      system.once('exit', () => reject(new Error(`the system ended: ${said}`)))
    })
  }, 120_000)

  afterAll(async () => {
    const ended = new Promise(resolve => system.once('exit', resolve))
    system.kill('SIGINT')
    if (system.exitCode === null) await ended
    await rm(folder, { recursive: true })
  }, 30_000)

  test('enrols the stranger by code, logs it in, takes its one pass and signs its receipt', async () => {
    const instance = 'STRANGER-1'
    const attributes = { brand: 'Acme', model: 'Roadster' }
    const [fleet, rps, audience] = [base, base + 1, base + 2].map(port => `http://127.0.0.1:${port}`)
    const code = await newCode(instance, attributes, { fleet: fleet as string, rps: rps as string })
    const asked = JSON.stringify({ attributes, instance, audience })
    const { stdout } = await run(process.execPath, [stranger, rps as string, code, asked]).catch(
      (error: { stdout: string }) => {
        throw new Error(`the stranger says: ${error.stdout.trimEnd().split('\n').at(-1)}`)
      },
    )
    const events = stdout
      .trimEnd()
      .split('\n')
      .map(line => JSON.parse(line) as { event: string; ok?: boolean })
    expect(events.at(-1)).toMatchObject({ event: 'stranger', ok: true })
    expect(events.map(({ event }) => event)).toEqual(
      expect.arrayContaining(['login', 'whoami', 'receipt', 'permit']),
    )
  }, 60_000)

  test('the README’s commands log a car in, and say in one line that a second time has a vehicle too many', async () => {
    const [, block = ''] =
      /the example runs as it stands.*?```sh\n(.*?)```/s.exec(await readFile(`${ROOT}README.md`, 'utf8')) ??
      []
    const script = block
      .replaceAll(/127\.0\.0\.1:740([012])/g, (_port, i: string) => `127.0.0.1:${base + Number(i)}`)
      .replaceAll('npx milagro', `"${process.execPath}" "${join(ROOT, 'packages/cli/bin/milagro.mjs')}"`)
      .replaceAll('node packages', `"${process.execPath}" "${ROOT}packages`)
      .replace('login.mjs', 'login.mjs"')
    const once = () => run('sh', ['-c', script], { cwd: folder })
    const { stdout } = await once()
    expect(stdout).toMatch(/^eyJ[\w-]+\.[\w-]+\.[\w-]+\n$/)
    await expect(once()).rejects.toMatchObject({
      code: 1,
      stdout: '',
      stderr: 'milagro: CONFLICT: instance: it is registered already\n',
    })
  }, 120_000)

  async function newCode(
    vin: string,
    attributes: Record<string, string>,
    urls: { fleet: string; rps: string },
  ): Promise<string> {
    const given = Object.entries(attributes).flatMap(([name, value]) => ['--attribute', `${name}=${value}`])
    const { stdout } = await run(
      process.execPath,
      [
        join(ROOT, 'packages/cli/bin/milagro.mjs'),
        ...['fleet', 'add', 'vehicle', vin, '--factors', '2', '--json', ...given],
        ...['--url', urls.fleet, '--rps', urls.rps, '--store', '.milagro/operator.json'],
      ],
      { cwd: folder, env: { ...process.env, MILAGRO_PIN_FILE: '.milagro/operator.pin' } },
    )
    return (JSON.parse(stdout) as { code: string }).code
  }
})
