/** The authority as a process: `dist/main.js`, as the command line and `npm start` run it. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { createClient, Unreachable } from '@milagro-ts/api/call'
import { dtaAdminRoutes, dtaRoutes } from '@milagro-ts/api/dta-routes'
import { groupMake } from '@milagro-ts/api/founding'
import { type Group, proposalHash } from '@milagro-ts/api/group'
import type { GroupProposal } from '@milagro-ts/api/group-document'
import { type Es256PrivateKey, generateEs256, generateHpkeKey } from '@milagro-ts/api/keys'
import { signTicket } from '@milagro-ts/api/statements'
import { systemRandom } from '@milagro-ts/api/system'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { enrolmentKeyHash } from '@milagro-ts/crypto/enrolment'
import { SUITE } from '@milagro-ts/crypto/suite'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { asRecipient, type Car, codeOf, makeCar, makeServer } from './world.js'

const MAIN = fileURLToPath(new URL('../dist/main.js', import.meta.url))

let folder: string
let children: ChildProcess[]
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'milagro-dta-'))
  children = []
})
afterEach(async () => {
  for (const child of children) {
    if (child.exitCode !== null || child.signalCode !== null) continue
    child.kill('SIGKILL')
    await once(child, 'exit')
  }
  await rm(folder, { recursive: true })
})

async function writeConfig(changes: object = {}): Promise<string> {
  const path = join(folder, 'dta.json')
  const config = {
    name: 'ta1',
    listen: { host: '127.0.0.1', port: 0 },
    adminListen: { host: '127.0.0.1', port: 0 },
    dataDir: join(folder, 'data'),
    ...changes,
  }
  await writeFile(path, JSON.stringify(config))
  return path
}

type Env = Record<string, string>
const PASSPHRASE: Env = { MILAGRO_DTA_PASSPHRASE: 'correct horse' }

function run(args: string[], env: Env = PASSPHRASE): ChildProcess {
  const path = process.env.PATH ?? ''
  const child = spawn(process.execPath, [MAIN, ...args], { env: { PATH: path, ...env } })
  children.push(child)
  return child
}

/** Runs to the end. */
async function finish(args: string[], env?: Env): Promise<{ code: number; out: string; err: string }> {
  const child = run(args, env)
  let [out, err] = ['', '']
  child.stdout?.on('data', chunk => {
    out += chunk
  })
  child.stderr?.on('data', chunk => {
    err += chunk
  })
  const [code] = (await once(child, 'close')) as [number]
  return { code, out, err }
}

interface Ready {
  readonly child: ChildProcess
  readonly url: string
  readonly adminUrl: string
}
async function serve(config: string): Promise<Ready> {
  const child = run(['--config', config])
  child.stderr?.resume()
  const lines = createInterface({ input: child.stdout as NonNullable<ChildProcess['stdout']> })
  for await (const line of lines) {
    const event = JSON.parse(line) as { event: string; url: string; adminUrl: string; pid: number }
    expect(event).toMatchObject({ event: 'ready', pid: child.pid })
    return { child, url: event.url, adminUrl: event.adminUrl }
  }
  throw new Error('ended without being ready')
}

const initialised = (out: string) => JSON.parse(out) as { event: string; signKey: string; hpkeKey: string }

test('SIGHUP reads the policy file again; a wrong one is said, and the server goes on', async () => {
  const policyFile = join(folder, 'policy.json')
  await writeFile(policyFile, '{"groups": {"*": {"zone": "nowhere"}}}')
  const config = await writeConfig({ policyFile })
  expect((await finish(['--config', config, '--init'])).code).toBe(0)
  const refused = await finish(['--config', config])
  expect([refused.code, refused.err]).toEqual([2, expect.stringContaining("zone 'nowhere' is not known")])

  await writeFile(policyFile, '{"groups": {}}')
  const child = run(['--config', config])
  let said = ''
  for (const stream of [child.stdout, child.stderr])
    stream?.on('data', chunk => {
      said += chunk
    })
  const hears = (text: string) => expect.poll(() => said, { timeout: 20_000 }).toContain(text)
  await hears('"event":"ready"')
  await writeFile(policyFile, '{"groups": {"*": {"keysPerDay": "many"}}}')
  child.kill('SIGHUP')
  await hears('the policy in force stays')
  await writeFile(policyFile, '{"groups": {"*": {"keysPerDay": 3}}}')
  child.kill('SIGHUP')
  await hears('the policy file is read anew')
  child.kill('SIGTERM')
  expect(await once(child, 'exit')).toEqual([0, null])
})

describe('starting', () => {
  test('--init makes the keys once and shows them; serving uses them; SIGTERM ends it cleanly', async () => {
    const config = await writeConfig()
    const one = await finish(['--config', config, '--init'])
    expect(one).toMatchObject({ code: 0, err: '' })
    const two = await finish(['--config', config, '--init'])
    expect(initialised(two.out)).toEqual(initialised(one.out))
    const { child, url } = await serve(config)
    const { signKey, hpkeKey, name } = await createClient(dtaRoutes, { baseUrl: url }).authority({})
    const event = 'initialised'
    expect(initialised(one.out)).toEqual({ event, name, signKey, hpkeKey })
    child.kill('SIGTERM')
    expect(await once(child, 'exit')).toEqual([0, null])
  })

  test('a data folder has one process; one that is killed leaves it free', async () => {
    const config = await writeConfig()
    await finish(['--config', config, '--init'])
    const { child } = await serve(config)
    const inUse = new RegExp(
      `data folder ${join(folder, 'data')} is in use: .* held by process ${child.pid} since`,
    )
    await refuses(['--config', config], PASSPHRASE, 1, inUse)
    await refuses(['--config', config, '--init'], PASSPHRASE, 1, inUse)
    child.kill('SIGKILL')
    await once(child, 'exit')
    await serve(config)
  })

  test('the passphrase from a file', async () => {
    const config = await writeConfig()
    const file = join(folder, 'passphrase')
    await writeFile(file, 'correct horse\n')
    const one = await finish(['--config', config, '--init'])
    const two = await finish(['--config', config, '--init'], { MILAGRO_DTA_PASSPHRASE_FILE: file })
    expect(initialised(two.out)).toEqual(initialised(one.out))
  })

  /** One line on standard error, nothing on standard output. */
  async function refuses(args: string[], env: Env | undefined, code: number, reason: RegExp): Promise<void> {
    const ended = await finish(args, env)
    expect(ended).toMatchObject({ code, out: '' })
    expect(ended.err).toMatch(/^milagro dta: [^\n]+\n$/)
    expect(ended.err).toMatch(reason)
  }

  test('no passphrase', async () => {
    await refuses(['--config', await writeConfig()], {}, 2, /MILAGRO_DTA_PASSPHRASE_FILE/)
  })

  test('two passphrases', async () => {
    const env = { ...PASSPHRASE, MILAGRO_DTA_PASSPHRASE_FILE: '/nowhere' }
    await refuses(['--config', await writeConfig()], env, 2, /both/)
  })

  test('a wrong passphrase', async () => {
    const config = await writeConfig()
    await finish(['--config', config, '--init'])
    const env = { MILAGRO_DTA_PASSPHRASE: 'battery staple' }
    await refuses(['--config', config], env, 1, /keys\.sealed.*passphrase is wrong/)
  })

  test('the keys of another authority', async () => {
    await finish(['--config', await writeConfig(), '--init'])
    await refuses(['--config', await writeConfig({ name: 'ta2' })], PASSPHRASE, 1, /belongs to .*'ta1'/)
  })

  test('a wrong setting, an unknown one, an unknown flag, no file', async () => {
    await refuses(['--config', await writeConfig({ name: 'TA 1' })], PASSPHRASE, 2, /'name'/)
    await refuses(['--config', await writeConfig({ rateLimits: {} })], PASSPHRASE, 2, /rateLimits/)
    await refuses(['--config', await writeConfig(), '--verbose'], PASSPHRASE, 2, /verbose/)
    await refuses(['--config', join(folder, 'none.json')], PASSPHRASE, 2, /none\.json/)
  })

  test('a damaged database, and damaged keys', async () => {
    const config = await writeConfig()
    await finish(['--config', config, '--init'])
    const keys = join(folder, 'data', 'keys.sealed')
    const bytes = await readFile(keys)
    bytes[100] = (bytes[100] as number) ^ 1
    await writeFile(keys, bytes)
    await refuses(['--config', config], PASSPHRASE, 1, /keys\.sealed/)
    await writeFile(join(folder, 'data', 'dta.sqlite'), 'This was a database. '.repeat(500))
    await refuses(['--config', config], PASSPHRASE, 1, /dta\.sqlite.*restore/)
  })

  test('a data folder that is a file', async () => {
    await mkdir(join(folder, 'x'))
    await writeFile(join(folder, 'x', 'data'), '')
    const config = await writeConfig({ dataDir: join(folder, 'x', 'data') })
    await refuses(['--config', config], PASSPHRASE, 2, /setting 'dataDir'.*ENOTDIR/)
    await refuses(['--config', config, '--init'], PASSPHRASE, 2, /setting 'dataDir'.*EEXIST/)
  })

  test('a taken port, the public one or the admin one', async () => {
    const taken = createServer().listen(0, '127.0.0.1')
    await once(taken, 'listening')
    const { port } = taken.address() as { port: number }
    const listen = { host: '127.0.0.1', port }
    await finish(['--config', await writeConfig(), '--init'])
    for (const setting of ['listen', 'adminListen']) {
      const config = await writeConfig({ [setting]: listen })
      const { code, out, err } = await finish(['--config', config])
      const why = `setting '${setting}': 127.0.0.1:${port} is taken: end what listens there, or choose another port`
      expect([code, out, err]).toEqual([1, '', `milagro dta: ${why}\n`])
    }
    taken.close()
  })
})

describe('killed', () => {
  let ra: Es256PrivateKey
  let group: Group
  let ready: Ready
  let config: string

  /** A group of one: its founding takes one process. */
  async function found(): Promise<void> {
    config = await writeConfig()
    await finish(['--config', config, '--init'])
    ready = await serve(config)
    const client = createClient(dtaRoutes, { baseUrl: ready.url, timeout: 100_000 })
    const { name, signKey, hpkeKey } = await client.authority({})
    ra = await generateEs256()
    const proposal: GroupProposal = {
      suite: SUITE,
      v: 1,
      n: 1,
      t: 1,
      authorities: [{ index: 1, name, url: ready.url, signKey, hpkeKey }],
      ra: { m: 1, keys: [{ kid: 'ra1', key: ra.publicKey.toBase64Url() }] },
      recipients: [asRecipient(await makeServer('rps'), ['device', 'pin'])],
      slot: { origin: 1_767_225_600, length: 86_400 },
      policy: { lead: 1, grace: 300 },
      firstSlot: 0,
      nonce: toBase64Url(systemRandom(32)),
    }
    const token = (await readFile(join(folder, 'data', 'admin-token'), 'utf8')).trim()
    const admin = createClient(dtaAdminRoutes, {
      baseUrl: ready.adminUrl,
      authorize: async () => `Bearer ${token}`,
    })
    await admin.accept({ body: { hash: toBase64Url(proposalHash(proposal)) } })
    group = await groupMake({ proposal, clients: [client] })
  }

  const groupId = () => toBase64Url(group.groupId)
  function ticketFor(car: Car): Promise<string> {
    const iat = Math.floor(Date.now() / 1000)
    const { publicKey } = car.enrolmentKey
    const payload = {
      suite: SUITE,
      groupId: groupId(),
      keyEpochs: { device: 1 },
      idCore: car.idCore.mpinId,
      purposes: ['device' as const],
      hpkeKey: toBase64Url(publicKey),
      hpkeKeyHash: toBase64Url(enrolmentKeyHash(publicKey)),
      iat,
      exp: iat + 600,
      jti: toBase64Url(systemRandom(16)),
    }
    return signTicket(payload as Parameters<typeof signTicket>[0], { key: ra, kid: 'ra1' })
  }
  const ask = (ticket: string) =>
    createClient(dtaRoutes, { baseUrl: ready.url, timeout: 100_000 }).shares({
      params: { groupId: groupId() },
      body: { ticket: [ticket], purpose: 'device' },
    })

  test('kill -9 in the middle of issuing: who asked first keeps the identity, and gets its share again', async () => {
    await found()
    const cars = await Promise.all(Array.from({ length: 24 }, () => makeCar({ groupId: groupId() })))
    const tickets = await Promise.all(cars.map(ticketFor))
    const answered = new Set<number>()
    let rest = cars.length
    const asked = tickets.map((ticket, i) =>
      ask(ticket).then(
        () => {
          answered.add(i)
          rest -= 1
          // Some are answered, some are being worked on, some wait.
          if (rest === 16) ready.child.kill('SIGKILL')
        },
        error => expect(error).toBeInstanceOf(Unreachable),
      ),
    )
    await Promise.all(asked)
    if (ready.child.signalCode === null) await once(ready.child, 'exit')
    expect(ready.child.signalCode).toBe('SIGKILL')
    expect(answered.size).toBeGreaterThanOrEqual(8)
    expect(answered.size).toBeLessThan(24)

    ready = await serve(config)
    for (const i of answered) {
      const { idCore } = cars[i] as Car
      const clone = { idCore, enrolmentKey: await generateHpkeKey(systemRandom) }
      expect(await codeOf(ask(await ticketFor(clone)))).toBe('ALREADY_ISSUED')
    }
    for (const ticket of tickets) await ask(ticket)
    const params = { groupId: groupId() }
    const { entries } = await createClient(dtaRoutes, { baseUrl: ready.url, timeout: 100_000 }).log({
      params,
      query: {},
    })
    expect(entries.map(({ number }) => number)).toEqual(cars.map((_, i) => i + 1))
  })
})
