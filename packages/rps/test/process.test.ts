/** The server as a process: `dist/main.js`, as the command line and `npm start` run it. */
import { type ChildProcess, spawn } from 'node:child_process'
import { createPrivateKey } from 'node:crypto'
import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { createClient, Unreachable } from '@milagro-ts/api/call'
import { rpsRoutes } from '@milagro-ts/api/rps-routes'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { rpsMigrations } from '@milagro-ts/rps/tables'
import { openDatabase } from '@milagro-ts/store/database'
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { anothers, cert, key, weak } from '../../tls/test/someones-certificate.js'
import { asFields, codeOf, type MessageOptions, PASSPHRASE, until, World } from './world.js'

const MAIN = fileURLToPath(new URL('../dist/main.js', import.meta.url))
const BROKEN = fileURLToPath(new URL('./broken-rps.mjs', import.meta.url))

let world: World
const children: ChildProcess[] = []
beforeAll(async () => {
  world = await World.make()
  const file = join(world.dataDir, 'rps.sqlite')
  await (await openDatabase({ file, migrations: rpsMigrations })).close()
  // The process has the machine's clock, so the world around it has it too.
  Object.defineProperty(world.clock, 'now', { get: () => Date.now() })
})
afterEach(async () => {
  for (const child of children.splice(0)) {
    if (child.exitCode !== null || child.signalCode !== null) continue
    child.kill('SIGKILL')
    await once(child, 'exit')
  }
})
afterAll(() => world.close())

async function writeConfig(changes: object = {}): Promise<string> {
  const path = join(world.folder, 'rps.json')
  await writeFile(path, JSON.stringify({ ...world.configWith(), workers: 1, ...changes }))
  return path
}

type Env = Record<string, string>
function run(args: string[], env: Env = {}, program = MAIN): ChildProcess {
  const whole = { PATH: process.env.PATH ?? '', MILAGRO_RPS_PASSPHRASE: PASSPHRASE, ...env }
  const child = spawn(process.execPath, [program, ...args], { env: whole })
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

/** Starts and waits for the ready line. */
async function serve(args: string[], env?: Env, program?: string) {
  const child = run(args, env, program)
  child.stderr?.resume()
  const [line] = (await once(createInterface(child.stdout!), 'line')) as [string]
  const ready = JSON.parse(line) as { event: string; url: string; adminUrl: string; pid: number }
  expect([ready.event, ready.pid]).toEqual(['ready', child.pid])
  const client = createClient(rpsRoutes, { baseUrl: ready.url, timeout: 60_000 })
  const login = async (who: Parameters<World['prove']>[0], options: MessageOptions = {}) => {
    const { nonce } = await client.nonce({ body: {} })
    return client.login({ body: { login: asFields(world.prove(who, { nonce, ...options }).toJson()) } })
  }
  return { child, client, login, ...ready }
}

test('--init makes the keys once, before there is a group, and says their public halves', async () => {
  const fresh = { dataDir: join(world.folder, 'fresh'), name: 'rps2', groupId: undefined }
  const config = await writeConfig(fresh)
  const first = await finish(['--config', config, '--init'])
  expect(first.code).toBe(0)
  expect(JSON.parse(first.out)).toEqual({
    event: 'initialised',
    name: 'rps2',
    requestKey: expect.stringMatching(/^[\w-]{44}$/),
    hpkeKey: expect.stringMatching(/^[\w-]{43}$/),
  })
  expect((await finish(['--config', config, '--init'])).out).toBe(first.out)
  expect(await finish(['--config', config])).toMatchObject({
    code: 2,
    err: "milagro rps: setting 'groupId' is missing\n",
  })
})

/** Paths: a certificate, its key, that key under a passphrase, another one, and a pair that OpenSSL finds too weak. */
async function certificateFiles() {
  const write = async (name: string, text: string) => {
    const path = join(world.folder, name)
    await writeFile(path, text)
    return path
  }
  const sealed = createPrivateKey(key).export({
    type: 'pkcs8',
    format: 'pem',
    cipher: 'aes-256-cbc',
    passphrase: PASSPHRASE,
  })
  return {
    cert: await write('cert.pem', cert),
    key: await write('key.pem', key),
    sealed: await write('sealed.pem', String(sealed)),
    other: await write('other.pem', anothers.key),
    weak: { cert: await write('weak.pem', weak.cert), key: await write('weak-key.pem', weak.key) },
  }
}

test('the environment names certificate and key, before the file does', async () => {
  const files = await certificateFiles()
  const config = await writeConfig({ tls: { certFile: files.cert, keyFile: files.other } })
  const { url, child } = await serve(['--config', config], { MILAGRO_RPS_TLS_KEY_FILE: files.key })
  expect(url).toMatch(/^https:\/\/127\.0\.0\.1:/)
  child.kill('SIGTERM')
  expect(await once(child, 'exit')).toEqual([0, null])
}, 60_000)

test('killed in the middle, it goes on where it was; told to end, it ends', async () => {
  const args = ['--config', await writeConfig()]
  const car = world.makeCar()
  const driver = world.makeDriver(car)
  const first = await serve(args)
  await first.login(car, { driver })
  expect(await codeOf(first.login(car, { driver, wrongPin: true }))).toBe('WRONG_PIN')
  await first.client.pushEvent({ body: { event: await world.event('ban', world.makeCar().idCore) } })
  const { nonce } = await first.client.nonce({ body: {} })
  const asked = world.authorities.map(authority => authority.asked.serverKeys)
  first.child.kill('SIGKILL')
  await once(first.child, 'exit')

  const second = await serve(args)
  expect(world.authorities.map(authority => authority.asked.serverKeys)).toEqual(asked)
  await second.login(car, { nonce })
  for (let i = 0; i < 2; i++)
    expect(await codeOf(second.login(car, { driver, wrongPin: true }))).toBe('WRONG_PIN')
  expect(await codeOf(second.login(car, { driver }))).toBe('LOCKED')
  second.child.kill('SIGTERM')
  expect(await once(second.child, 'exit')).toEqual([0, null])
  await expect(second.client.nonce({ body: {} })).rejects.toBeInstanceOf(Unreachable)
}, 120_000)

test('a start that fails says why in one line, and how by its exit code', async () => {
  const good = await writeConfig()
  const oneLine = ({ err }: { err: string }) => {
    expect(err.trim().split('\n')).toHaveLength(1)
    return err
  }
  const without = await finish(['--config', good], { MILAGRO_RPS_PASSPHRASE: '' })
  expect([without.code, oneLine(without)]).toEqual([2, expect.stringContaining('MILAGRO_RPS_PASSPHRASE')])
  const wrong = await finish(['--config', good], { MILAGRO_RPS_PASSPHRASE: 'another' })
  expect([wrong.code, oneLine(wrong)]).toEqual([1, expect.stringContaining('the passphrase is wrong')])
  const flag = await finish(['--confg', good])
  expect([flag.code, oneLine(flag)]).toEqual([2, expect.stringContaining('--confg')])

  const audience = { name: 'twice', pin: 'optional', tlsExporter: 'absent' }
  const files = await certificateFiles()
  const none = join(world.folder, 'none')
  await finish(['--config', await writeConfig({ dataDir: none }), '--init'])
  for (const [changes, why] of [
    [{ deltaSeconds: 301 }, 'deltaSeconds'],
    [{ colour: 'red' }, 'colour'],
    [{ audiences: [audience, audience] }, 'stands twice'],
    [{ audiences: [{ ...audience, name: 'e\u0301' }] }, 'NFC'],
    [
      { audiences: [{ name: 'nobody', pin: 'optional', tlsExporter: 'required' }] },
      "'audiences.0.tlsExporter': nobody could log in: it takes 'tls', or a 'service' that verifies",
    ],
    [{ tls: { certFile: files.cert } }, "'tls.keyFile' is missing"],
    [
      { tls: { certFile: '/nowhere', keyFile: files.key } },
      "'tls.certFile': cannot read '/nowhere' (ENOENT)",
    ],
    [{ tls: { certFile: files.cert, keyFile: world.folder } }, "'tls.keyFile': cannot read"],
    [{ tls: { certFile: files.key, keyFile: files.key } }, "'tls.certFile': no certificate in PEM"],
    [{ tls: { certFile: files.cert, keyFile: files.cert } }, "'tls.keyFile': no private key in PEM"],
    [{ tls: { certFile: files.cert, keyFile: files.sealed } }, 'that opens without a passphrase'],
    [
      { tls: { certFile: files.cert, keyFile: files.other } },
      "not the key of the certificate in 'tls.certFile'",
    ],
    [
      { tls: { certFile: files.weak.cert, keyFile: files.weak.key } },
      "'tls': OpenSSL refuses the certificate (",
    ],
    [{ groupFile: '/nowhere', dataDir: none }, '/nowhere'],
    [{ groupId: toBase64Url(new Uint8Array(32)) }, 'another group'],
  ] as const) {
    const refused = await finish(['--config', await writeConfig(changes)])
    expect([refused.code, oneLine(refused)]).toEqual([2, expect.stringContaining(why)])
    for (const secret of [key, anothers.key].flatMap(pem => pem.split('\n').slice(1, -1)))
      expect(refused.err).not.toContain(secret)
  }

  const taken = createServer().listen(0, '127.0.0.1')
  await once(taken, 'listening')
  const { port } = taken.address() as { port: number }
  const busy = await finish([
    '--config',
    await writeConfig({ listen: { host: '127.0.0.1', port }, logLevel: 'fatal' }),
  ])
  expect([busy.code, oneLine(busy)]).toEqual([
    1,
    expect.stringMatching(
      /^milagro rps: setting 'listen': 127\.0\.0\.1:[0-9]+ is taken: .*choose another port\n$/,
    ),
  ])
  taken.close()

  const damaged = join(world.folder, 'damaged')
  const config = await writeConfig({ dataDir: damaged })
  await finish(['--config', config, '--init'])
  await writeFile(join(damaged, 'rps.sqlite'), 'not a database, whatever its name says'.repeat(50))
  const refused = await finish(['--config', config])
  expect([refused.code, oneLine(refused)]).toEqual([1, expect.stringContaining('damaged')])
}, 120_000)

test('the broken ones run as the real one does', async () => {
  const args = ['--config', await writeConfig()]
  const car = world.makeCar()
  const driver = world.makeDriver(car)
  const everything = await serve(args, { BROKEN_RPS: 'accepts-everything' }, BROKEN)
  for (let i = 0; i < 4; i++) await everything.login(car, { driver, wrongPin: true })
  everything.child.kill('SIGTERM')
  await once(everything.child, 'exit')
  const permits = await serve(args, { BROKEN_RPS: 'ignores-permits' }, BROKEN)
  await permits.login(car, { permit: world.permitOf(world.makeCar().idCore) })
  await until(() => world.rpa.told.length > 0)
}, 120_000)
