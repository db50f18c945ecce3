/** docs/tls-service.md: its two programs are packages/tls/examples, and run as processes of their own in a whole system. */
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { copyFileSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { delimiter, dirname } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type RunningFleet, runFleet } from '../packages/cli/test/running-fleet.js'
import { Folder, milagroWith } from '../packages/cli/test/world.js'
import { ROOT } from '../scripts/prepare.mjs'
import { freePort } from './free-port.js'

const page = readFileSync(`${ROOT}docs/tls-service.md`, 'utf8')
const example = (name: string) => readFileSync(`${ROOT}packages/tls/examples/${name}.mjs`, 'utf8')
const blocks = [...page.matchAll(/^( *)```(sh|json|text)\n([\s\S]*?)^\1```/gm)].map(
  ([, indent = '', , text = '']) => text.replaceAll(new RegExp(`^${indent}`, 'gm'), ''),
)
const [init, audience, run, come, answer] = blocks as [string, string, string, string, string]

test.each(['server', 'client'])('the page shows %s.mjs', name => {
  const [, shown] =
    new RegExp(`<!-- ${name}:begin -->\n\`\`\`js\n(.*?)\`\`\`\n<!-- ${name}:end -->`, 's').exec(page) ?? []
  expect(shown).toBe(example(name))
})
test('the server stays one screen', () => {
  expect(example('server').trimEnd().split('\n').length).toBeLessThanOrEqual(25)
})

let folder: Folder
let fleet: RunningFleet
let port: number
let server: ChildProcess | undefined
beforeAll(async () => {
  folder = await Folder.make()
  port = await freePort()
  for (const name of ['server', 'client'])
    copyFileSync(`${ROOT}packages/tls/examples/${name}.mjs`, folder.file(`${name}.mjs`))
  symlinkSync(`${ROOT}node_modules`, folder.file('node_modules'))
  writeFileSync(folder.file('depot.passphrase'), 'one word\n')
})
afterAll(async () => {
  if (server?.exitCode === null) process.kill(-(server.pid as number), 'SIGKILL')
  await folder.close()
})

const env = () => ({
  PATH: [dirname(process.execPath), '/usr/bin', '/bin'].join(delimiter),
  // The port is the reader's.
  PORT: String(port),
})
/** What the page leaves to its reader is put in. */
const filled = (script: string) =>
  script.replace('http://127.0.0.1:7520', fleet.rps).replace('GROUP_ID=…', `GROUP_ID=${fleet.groupId}`)

function said(script: string): Promise<{ code: number; out: string; err: string }> {
  return new Promise(resolve => {
    execFile('sh', ['-ec', script], { cwd: dirname(folder.file('x')), env: env() }, (error, out, err) =>
      resolve({ code: Number(error?.code ?? 0), out, err }),
    )
  })
}

test('its keys, the group, a car that comes in, its ban', { timeout: 180_000 }, async () => {
  const made = await said(init)
  expect([made.code, made.err]).toEqual([0, ''])
  expect((await said(init)).out).toBe(made.out)
  const { kind, generation, purposes, ...recipient } = JSON.parse(made.out)
  expect([kind, generation, purposes]).toEqual([2, 1, ['agree']])
  // The fleet of the test has this audience for each service.
  expect(JSON.parse(audience)).toEqual({
    name: recipient.name,
    service: recipient.name,
    pin: 'optional',
    tlsExporter: 'absent',
  })
  fleet = await runFleet(folder, {
    recipients: [{ kind, purposes, ...recipient }],
    devicePurposes: ['device', 'agree'],
  })

  const withPin = { MILAGRO_PIN: '271828' }
  const at = ['--rps', fleet.rps, '--store', folder.file('operator.json')]
  const operator = ['--instance', `operator:${fleet.operator}`, '--attribute', `operator=${fleet.operator}`]
  await milagroWith(
    { ...withPin, MILAGRO_CODE: fleet.setupCode },
    ...['device', 'enroll', ...at, ...operator, '--with-pin', '--slow-device', '1000'],
  )
  const asOperator = (...argv: string[]) =>
    milagroWith(withPin, 'fleet', ...argv, ...at, '--url', fleet.fleet, '--json')
  const fiat = ['--attribute', 'brand=Fiat']
  const { json } = await asOperator('add', 'vehicle', 'VIN-1', ...fiat)
  const car = ['--rps', fleet.rps, '--store', folder.file('car.json')]
  await milagroWith(
    { MILAGRO_CODE: json.code as string },
    'device',
    'enroll',
    ...car,
    '--instance',
    'VIN-1',
    ...fiat,
  )

  server = spawn('sh', ['-ec', `${init.split('\n')[0]}\n${filled(run).replace(/^node/m, 'exec node')}`], {
    cwd: dirname(folder.file('x')),
    env: env(),
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  })
  let log = ''
  server.stderr?.on('data', chunk => {
    log += chunk
  })
  expect(String(await once(server.stdout as NodeJS.ReadableStream, 'data'))).toBe('open\n')

  const coming = () => said(`export RPS=${fleet.rps}\n${come}`)
  // Until the first ban events have come nobody is let in.
  await expect.poll(coming).toEqual({ code: 0, out: answer, err: '' })
  expect(log).not.toContain('ticket')

  expect((await asOperator('ban', '--vehicle', 'VIN-1', '--reason', 'sold')).exit).toBe(0)
  await expect.poll(coming).toMatchObject({ code: 1, out: '', err: expect.stringContaining('EPROTO') })

  server.kill('SIGTERM')
  expect(await once(server, 'close')).toEqual([0, null])
})
