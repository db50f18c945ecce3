/** README.md, "In a fleet of your own": its settings and commands, in a whole system on other ports. */
import { execFile } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { delimiter, dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type RunningFleet, runFleet } from '../../../packages/cli/test/running-fleet.js'
import { Folder, milagroWith } from '../../../packages/cli/test/world.js'
import { ROOT } from '../../../scripts/prepare.mjs'
import { freePorts } from '../src/processes.js'

const page = readFileSync(`${ROOT}examples/car-tracking/README.md`, 'utf8').split(
  '## In a fleet of your own',
)[1] as string
const blocks = [...page.matchAll(/^( *)```(sh|json)\n([\s\S]*?)^\1```/gm)].map(
  ([, indent = '', , text = '']) => text.replaceAll(new RegExp(`^${indent}`, 'gm'), ''),
)
const OWN = ['7540', '7543', '7590']
const RPS = 'http://127.0.0.1:7520'

let folder: Folder
let ports: readonly number[]
let fleet: RunningFleet | undefined
/** The page's ports are other ones, and the RPS is the test's. */
const here = (text: string) =>
  text
    .replaceAll(RPS, fleet?.rps ?? RPS)
    .replaceAll(/\b75(?:40|43|90)\b/g, port => String(ports[OWN.indexOf(port)]))
const block = (number: number) => here(blocks[number] as string)
const place = (name: string) => join(dirname(folder.file('x')), 'first-fleet', name)

beforeAll(async () => {
  folder = await Folder.make()
  ports = await freePorts(OWN.length)
  mkdirSync(place(''))
  symlinkSync(`${ROOT}examples`, folder.file('examples'))
  writeFileSync(place('passphrase'), 'one word\n')
})
afterAll(async () => {
  for (const pid of existsSync(place('pids')) ? readFileSync(place('pids'), 'utf8').trim().split('\n') : [])
    process.kill(Number(pid), 'SIGKILL')
  await folder.close()
})

async function said(script: string): Promise<string> {
  const { stdout } = await promisify(execFile)('sh', ['-ec', script], {
    cwd: place(''),
    env: {
      PATH: [`${ROOT}node_modules/.bin`, dirname(process.execPath), '/usr/bin', '/bin'].join(delimiter),
      MILAGRO_RPS_URL: fleet?.rps,
      MILAGRO_PIN: '271828',
    },
  })
  return stdout
}
const logged = (file: string, event: string) =>
  expect.poll(() => readFileSync(place(file), 'utf8')).toContain(`"event":"${event}"`)

test('the service, a car that reports, an operator who reads', { timeout: 180_000 }, async () => {
  const [settings, init, audiences, serve, car, drive, read] = blocks.keys()
  writeFileSync(place('tracking.json'), block(settings as number))
  const { event, ...recipient } = JSON.parse(await said(block(init as number)))
  expect([event, recipient.name]).toEqual(['initialised', 'tracking'])
  fleet = await runFleet(folder, {
    recipients: [{ kind: 2, purposes: ['agree'], ...recipient }],
    devicePurposes: ['device', 'agree'],
    audiences: JSON.parse(block(audiences as number)),
    deltaSeconds: 1,
  })
  writeFileSync(place('group.json'), readFileSync(folder.file('group.json')))
  // Once more, by the RPS that there is now.
  writeFileSync(place('tracking.json'), block(settings as number))
  const enrol = ['device', 'enroll', '--rps', fleet.rps, '--store', place('operator.json')]
  const operator = ['--instance', `operator:${fleet.operator}`, '--attribute', `operator=${fleet.operator}`]
  await milagroWith(
    { MILAGRO_PIN: '271828', MILAGRO_CODE: fleet.setupCode },
    ...[...enrol, ...operator, '--with-pin', '--slow-device', '1000'],
  )

  // What the shell of first-fleet.md has.
  const shell =
    `of() { echo ${fleet.groupId}; }\n` +
    `fleet() { milagro fleet "$@" --url ${fleet.fleet} --store operator.json; }\n`
  const [secret] = block(init as number).split('\n')
  await said(`${shell}${secret}\n${block(serve as number)}`)
  await logged('tracking.log', 'ready')
  writeFileSync(place('car-1.json'), block(car as number))
  await said(shell + block(drive as number))
  for (const event of ['enrolled', 'connected', 'stored']) await logged('car-1.log', event)
  const { vehicles } = JSON.parse(await said(shell + block(read as number)))
  expect(vehicles).toHaveLength(1)
})
