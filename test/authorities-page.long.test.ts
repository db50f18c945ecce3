/**
 * docs/operations/authorities.md, said word by word: three people on three machines, a coordinator, the authentication
 * server and fleet on a fifth, a car that logs in after each change. Each machine is a network of its own where the system
 * allows that (hosts.ts). Only what the page leaves to its reader is put in: addresses, folders, `…`.
 */
import { access, copyFile, readFile, rm, writeFile } from 'node:fs/promises'
import { delimiter, dirname, join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { ROOT } from '../scripts/prepare.mjs'
import { Hosts } from './hosts.js'

const PAGE = join(ROOT, 'docs/operations/authorities.md')
/** Whose machine each authority is on. */
const MACHINES = { ta1: 'anna', ta2: 'ben', ta3: 'cleo', ta4: 'dan', ta5: 'eve' } as const
type Authority = keyof typeof MACHINES
/** What the page shows and this doesn't play, and where it is played. */
const ELSEWHERE: Readonly<Record<string, string>> = {
  "A revision that some have signed and others won't": 'packages/dta/test/revisions.test.ts',
  'One process for several groups': 'packages/dta/test/policy.test.ts',
}
const PORT = 7411
const RPS_PORT = 7400
const FLEET_PORT = 7430
const GATEWAY = 'gw.example'

let hosts: Hosts
let sections: ReadonlyMap<string, readonly string[]>
beforeAll(async () => {
  const bin = join(ROOT, 'node_modules/.bin')
  const path = [bin, dirname(process.execPath), '/usr/sbin', '/usr/bin', '/bin'].join(delimiter)
  hosts = await Hosts.open([...Object.values(MACHINES), 'dora', 'office', 'car', 'gateway'], { PATH: path })
  sections = blocksOf(await readFile(PAGE, 'utf8'))
  console.log(`authorities page: ${hosts.isolated ? 'network namespaces' : 'addresses of the loopback'}`)
})
afterAll(() => hosts.close())

/** `heading number` of the blocks that were said. */
const played = new Set<string>()

/** What stands in code blocks, by the heading above. */
function blocksOf(page: string): ReadonlyMap<string, readonly string[]> {
  const found = new Map<string, string[]>()
  for (const section of page.split(/^## /m).slice(1)) {
    const heading = section.slice(0, section.indexOf('\n'))
    const blocks = [...section.matchAll(/^( *)```(?:sh|json)\n([\s\S]*?)^\1```/gm)]
    found.set(
      heading,
      blocks.map(([, indent, text]) => (text as string).replaceAll(new RegExp(`^${indent}`, 'gm'), '')),
    )
  }
  return found
}

/** The block of a section as that authority's operator says it, with the addresses and folders of these machines. */
function block(heading: string, number: number, name: Authority = 'ta1'): string {
  const text = sections.get(heading)?.[number - 1]
  if (text === undefined) throw new Error(`the page has no block ${number} in '${heading}'`)
  played.add(`${heading} ${number}`)
  return here(text.replaceAll('ta1', name))
}

function here(text: string): string {
  const authority = (name: string) => `http://${hosts.address(MACHINES[name as Authority])}:${PORT}`
  return text
    .replaceAll(/https:\/\/(ta\d)\.example/g, (_, name: string) => authority(name))
    .replaceAll('https://rps.example', rpsUrl())
    .replaceAll('https://fleet.example', fleetUrl())
    .replaceAll('/var/lib/milagro/', '')
    .replaceAll('/etc/milagro/', '')
}
const rpsUrl = () => `http://${hosts.address('office')}:${RPS_PORT}`
const fleetUrl = () => `http://${hosts.address('office')}:${FLEET_PORT}`

async function said(host: string, script: string): Promise<string> {
  const { code, out, err } = await hosts.run(host, script)
  expect([host, script, code, err.trimEnd().split('\n').slice(-3)]).toEqual([
    host,
    script,
    0,
    expect.anything(),
  ])
  return out
}
const answered = async (host: string, command: string) =>
  JSON.parse(await said(host, `${command} --json`)) as Record<string, unknown>

/** As a person sends a file to another. */
const send = (file: string, from: string, to: string) =>
  copyFile(hosts.file(from, file), hosts.file(to, file))

/** Step 1 of the page, on that authority's machine. */
async function setUp(name: Authority): Promise<void> {
  const host = MACHINES[name]
  await writeFile(hosts.file(host, `${name}.json`), block('From nothing to a group', 1, name))
  await writeFile(hosts.file(host, `${name}.passphrase`), `the passphrase of ${name}\n`, { mode: 0o600 })
  await hosts.serve(host, block('From nothing to a group', 2, name))
}

/** Starts it again, in the folder that is there. */
const start = (name: Authority) =>
  hosts.serve(
    MACHINES[name],
    block('From nothing to a group', 2, name).replace(/^milagro dta init .*\n/m, ''),
  )

/** With that authority down, so that all the others of a group of three are needed. */
async function without(name: Authority, work: () => Promise<void>): Promise<void> {
  await hosts.kill(MACHINES[name], 'SIGTERM')
  await work()
  await start(name)
}

/** What an authority says of its groups. */
async function groupsOf(name: Authority) {
  const { groups } = await answered(MACHINES[name], `milagro dta status --config ${name}.json`)
  return groups as { groupId: string; issued: number; frozen: boolean; leavesAt?: number }[]
}

/** The coordinator proposes by `command`, each of these says yes, and the same command again makes it. */
async function changed(command: string, proposal: string, members: readonly Authority[]): Promise<void> {
  const [first, ...rest] = command.split('\nmv ')
  await said('dora', first as string)
  for (const name of members) {
    const host = MACHINES[name]
    await send(proposal, 'dora', host)
    await send('group.json', 'dora', host)
    await said(host, `milagro ceremony join ${proposal} --group group.json --yes --config ${name}.json`)
  }
  await said('dora', [first, ...rest].join('\nmv '))
  await said('dora', 'milagro group verify group.json')
}

/** Another car enrols and logs in, and so does the first one. */
let cars = 0
async function carsAreServed(): Promise<void> {
  const operator = `--store operator.json --url ${fleetUrl()} --json`
  const env = `MILAGRO_PIN=271828 MILAGRO_RPS_URL=${rpsUrl()}`
  const instance = `VIN-${++cars}`
  const added = JSON.parse(
    await said('office', `${env} milagro fleet add vehicle ${instance} --attribute brand=Fiat ${operator}`),
  ) as { code: string }
  await said(
    'car',
    `MILAGRO_RPS_URL=${rpsUrl()} MILAGRO_CODE=${added.code} milagro device enroll --instance ${instance} ` +
      `--attribute brand=Fiat --store ${instance}.json --json`,
  )
  for (const store of [`${instance}.json`, 'VIN-1.json'])
    await said(
      'car',
      `MILAGRO_RPS_URL=${rpsUrl()} milagro device login --audience ${fleetUrl()} --store ${store} --json`,
    )
}

async function founded(): Promise<void> {
  for (const name of ['ta1', 'ta2', 'ta3'] as const) await setUp(name)

  const own = (name: string, port: number) => ({
    name,
    listen: { host: '0.0.0.0', port },
    adminListen: { host: '127.0.0.1', port: port + 1 },
    publicUrl: `http://${hosts.address('office')}:${port}`,
    dataDir: name,
    groupFile: 'group.json',
  })
  const audience = { name: fleetUrl(), service: 'fleet', pin: 'optional', tlsExporter: 'absent' }
  const gateway = { ...audience, name: GATEWAY, service: GATEWAY }
  const settings = {
    rps: { ...own('rps', RPS_PORT), rpa: { url: fleetUrl() }, audiences: [audience, gateway] },
    fleet: { ...own('fleet', FLEET_PORT), rps: { url: rpsUrl() }, rpsName: 'rps' },
  }
  const write = async (more: object) => {
    for (const [name, value] of Object.entries(settings))
      await writeFile(hosts.file('office', `${name}.json`), JSON.stringify({ ...value, ...more }))
  }
  await write({})
  await writeFile(hosts.file('office', 'passphrase'), 'of the office\n', { mode: 0o600 })
  const secrets = 'export MILAGRO_RPS_PASSPHRASE_FILE=passphrase MILAGRO_FLEET_PASSPHRASE_FILE=passphrase;'
  const init = async (name: string) =>
    JSON.parse(await said('office', `${secrets} milagro ${name} init --config ${name}.json`)) as Record<
      string,
      string
    >
  const [rps, fleet] = [await init('rps'), await init('fleet')]
  // The page has the plan, but for its keys.
  const plan = JSON.parse(block('From nothing to a group', 3)) as {
    ra: { keys: unknown }
    recipients: Record<string, unknown>[]
  }
  plan.ra.keys = fleet.raKeys
  const keys: Record<string, Record<string, string>> = { rps, fleet }
  for (const server of plan.recipients) {
    const { hpkeKey, requestKey } = keys[String(server.name)] as Record<string, string>
    Object.assign(server, { hpkeKey, requestKey })
  }
  await writeFile(hosts.file('dora', 'plan.json'), JSON.stringify(plan))

  const run = block('From nothing to a group', 4)
  await said('dora', run)
  for (const name of ['ta1', 'ta2', 'ta3'] as const) {
    await send('proposal.json', 'dora', MACHINES[name])
    await said(MACHINES[name], block('From nothing to a group', 5, name))
  }
  await said('dora', run)
  for (const host of ['anna', 'ben', 'cleo']) {
    await send('founding.jsonl', 'dora', host)
    await send('group.json', 'dora', host)
    await said(host, 'milagro ceremony verify founding.jsonl; milagro group verify group.json')
  }

  await send('group.json', 'dora', 'office')
  const { groupId } = await answered('dora', 'milagro group verify group.json')
  await write({ groupId })
  const started = await Promise.all([
    hosts.serve('office', `${secrets} exec milagro fleet serve --config fleet.json`),
    hosts.serve('office', `${secrets} exec milagro rps serve --config rps.json`),
  ])
  const setup = started.flat().find(({ event }) => event === 'setup-code') as Record<string, string>
  await said(
    'office',
    `MILAGRO_PIN=271828 MILAGRO_CODE=${setup.code} milagro device enroll --with-pin --slow-device 1000 ` +
      `--instance operator:${setup.operator} --attribute operator=${setup.operator} --store operator.json ` +
      `--rps ${rpsUrl()} --json`,
  )
  await carsAreServed()
}

/** The gateway of the page, at the office: added, served, removed. */
async function gatewayCameAndWent(groupId: string): Promise<void> {
  const heading = 'Another server, or one less'
  const ofGateway = (number: number, name: Authority = 'ta1') =>
    block(heading, number, name).replaceAll('<groupId>', groupId)
  const settings = {
    ...{ name: GATEWAY, dataDir: 'gateway', groupId, groupFile: 'group.json', rps: { url: rpsUrl() } },
    ...{ listen: { host: '127.0.0.1', port: 7443 }, adminListen: { host: '127.0.0.1', port: 7470 } },
    ...{ to: { host: '127.0.0.1', port: 8080 }, pass: 'http' },
  }
  await writeFile(hosts.file('gateway', 'gateway.json'), JSON.stringify(settings))
  await writeFile(hosts.file('gateway', 'passphrase'), 'of the gateway\n', { mode: 0o600 })
  // As it was founded.
  await send('group.json', 'dora', 'gateway')
  const gateway = 'MILAGRO_GATEWAY_PASSPHRASE_FILE=passphrase exec milagro tls gateway --config gateway.json'
  const { requestKey, hpkeKey } = JSON.parse(await said('gateway', `${gateway} --init`)) as Record<
    string,
    string
  >
  const entry = { ...JSON.parse(ofGateway(1)), requestKey, hpkeKey }
  await writeFile(hosts.file('office', 'gw.json'), JSON.stringify(entry))
  await expect(hosts.serve('gateway', gateway)).rejects.toThrow(/FORBIDDEN|UNAUTHENTICATED/)

  const pin = 'export MILAGRO_PIN=271828;'
  const agreed = async (proposal: string) => {
    const { documentHash } = JSON.parse(await said('office', `${pin} ${proposal.trim()} --json`)) as {
      documentHash: string
    }
    for (const name of ['ta1', 'ta2', 'ta3'] as const) {
      const shown = await said(MACHINES[name], ofGateway(3, name).replaceAll('<hash>', documentHash))
      expect(shown).toContain(`revision ${documentHash} of ${groupId} waits for you\n  `)
    }
    expect(await said('office', `${pin} ${ofGateway(4)}`)).toContain(': done\n')
    await said('dora', ofGateway(5))
  }
  await agreed(ofGateway(2))
  // Nobody but itself was started.
  await hosts.serve('gateway', gateway)
  await carsAreServed()
  await agreed(ofGateway(2).replace('--add gw.json', `--remove ${GATEWAY}`))
  const health = 'curl -s http://127.0.0.1:7470/health/ready'
  await expect
    .poll(() => hosts.run('gateway', health), { timeout: 60_000 })
    .toMatchObject({
      out: expect.stringContaining('"ok":false'),
    })
  await hosts.kill('gateway', 'SIGTERM')
  await expect(hosts.serve('gateway', gateway)).rejects.toThrow(/FORBIDDEN|UNAUTHENTICATED/)
}

test('the page, from its beginning to its end', { timeout: 1_800_000 }, async () => {
  await founded()

  await changed(block('From time to time: a refresh', 1), 'refresh.json', ['ta1', 'ta2', 'ta3'])
  await carsAreServed()

  await changed(block('New keys: a rotation', 1), 'rotate.json', ['ta1', 'ta2', 'ta3'])
  await carsAreServed()

  const { groupId } = await answered('dora', 'milagro group verify group.json')
  const ofGroup = (heading: string) => block(heading, 1).replaceAll('<groupId>', String(groupId))

  await gatewayCameAndWent(String(groupId))
  await carsAreServed()

  await said('cleo', block('A disk dies', 1))
  const before = await groupsOf('ta3')
  await hosts.kill('cleo', 'SIGKILL')
  await rm(hosts.file('cleo', 'ta3'), { recursive: true })
  await carsAreServed()
  const [restore, serve] = block('A disk dies', 2).split(/^(?=export )/m)
  await said('cleo', restore as string)
  await hosts.serve('cleo', serve as string)
  expect(await groupsOf('ta3')).toEqual(before)
  await without('ta1', carsAreServed)

  await hosts.kill('cleo', 'SIGKILL')
  await rm(hosts.file('cleo', 'ta3'), { recursive: true })
  await carsAreServed()
  await setUp('ta3')
  await changed(block('A disk dies', 3), 'recover.json', ['ta1', 'ta2', 'ta3'])
  await carsAreServed()

  await setUp('ta4')
  await changed(block('A member leaves, another comes', 1), 'reshare.json', ['ta1', 'ta2', 'ta3', 'ta4'])
  await hosts.kill('anna', 'SIGTERM')
  await carsAreServed()

  await said('dan', ofGroup('A member is compromised'))
  expect((await groupsOf('ta4')).map(group => [group.groupId, group.frozen])).toEqual([[groupId, true]])
  await carsAreServed()
  await setUp('ta5')
  await changed(block('A member is compromised', 2), 'exclude.json', ['ta2', 'ta3', 'ta5'])
  // The page: nobody tells it.
  expect(await groupsOf('ta4')).toHaveLength(1)
  await hosts.kill('dan', 'SIGTERM')
  await said('dan', block('A member is compromised', 3))
  await expect(access(hosts.file('dan', 'ta4'))).rejects.toThrow('ENOENT')
  await without('ta2', carsAreServed)

  const [leave, stay] = ofGroup('Leaving a group').split('\n')
  const notices = async () => (await groupsOf('ta3')).map(group => [group.groupId, group.leavesAt])
  await said('cleo', leave as string)
  expect(await notices()).toEqual([[groupId, Date.UTC(2030, 0, 31, 12) / 1000]])
  await said('cleo', stay as string)
  expect(await notices()).toEqual([[groupId, undefined]])
  await carsAreServed()

  const shown = [...sections].flatMap(([heading, blocks]) => blocks.map((_, i) => `${heading} ${i + 1}`))
  const left = shown.filter(one => !played.has(one)).map(one => one.replace(/ \d+$/, ''))
  expect([...new Set(left)]).toEqual(Object.keys(ELSEWHERE))
})
