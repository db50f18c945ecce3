/**
 * Logins at the RPS that are bound to their TLS connection (RFC 9266): a device's own, to a process of the RPS that ends
 * TLS itself. Who relays one between two connections gets nowhere.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { rename, writeFile } from 'node:fs/promises'
import { Agent as HttpsAgent, createServer as httpsServer } from 'node:https'
import { type AddressInfo, type Server, type Socket, createServer as tcpServer } from 'node:net'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { text } from 'node:stream/consumers'
import { type ConnectionOptions, connect, createServer, type TLSSocket } from 'node:tls'
import { fileURLToPath } from 'node:url'
import { createClient, Unreachable } from '@milagro-ts/api/call'
import { rpsRoutes } from '@milagro-ts/api/rps-routes'
import { agentFetch } from '@milagro-ts/client/agent-fetch'
import { boundFetch, connectBound } from '@milagro-ts/client/bound-fetch'
import { Device } from '@milagro-ts/client/device'
import { fileTokenStore } from '@milagro-ts/client/file-token-store'
import { stretchPin } from '@milagro-ts/client/pin-stretch'
import { encodeRecords } from '@milagro-ts/client/record'
import { memoryTokenStore } from '@milagro-ts/client/token-store'
import { lockKey } from '@milagro-ts/client/unlocker'
import { pinIdentityPoint } from '@milagro-ts/crypto/identity'
import { splitPin } from '@milagro-ts/crypto/pin'
import type { AudiencePolicy } from '@milagro-ts/rps/config'
import { rpsMigrations } from '@milagro-ts/rps/tables'
import { openDatabase } from '@milagro-ts/store/database'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import {
  asFields,
  type Car,
  codeOf,
  type Driver,
  type MessageOptions,
  OWN,
  PASSPHRASE,
  TRACKING,
  until,
  World,
} from '../../rps/test/world.js'
import { anothers, cert, key } from '../../tls/test/someones-certificate.js'

const MAIN = fileURLToPath(new URL('../../rps/dist/main.js', import.meta.url))
const CLI = fileURLToPath(new URL('../../cli/dist/main.js', import.meta.url))
const NAME = 'gw.example'
const BOUND = 'bound at the RPS'
const PIN = '271828'
const AUDIENCES: AudiencePolicy[] = [
  { name: BOUND, pin: 'optional', tlsExporter: 'required' },
  { name: TRACKING, service: 'tracking', pin: 'optional', tlsExporter: 'absent' },
]
/** A device believes both, so whoever has either certificate can take its connection. */
const TRUSTED = { ca: [cert, anothers.cert], servername: NAME }

interface Rps {
  readonly url: string
  readonly port: number
  readonly child: ChildProcess
  /** What it has logged. */
  readonly lines: string[]
}

let world: World
let rps: Rps
let car: Car
let driver: Driver
const tls = { certFile: '', keyFile: '' }
const children: ChildProcess[] = []
const ending: (() => unknown)[] = []
beforeAll(async () => {
  world = await World.make()
  tls.certFile = join(world.folder, 'cert.pem')
  tls.keyFile = join(world.folder, 'key.pem')
  await renew({ cert, key })
  const file = join(world.dataDir, 'rps.sqlite')
  await (await openDatabase({ file, migrations: rpsMigrations })).close()
  // The process has the machine's clock, so the world around it has it too.
  Object.defineProperty(world.clock, 'now', { get: () => Date.now() })
  rps = await serve({ tls, audiences: AUDIENCES })
  car = world.makeCar()
  driver = world.makeDriver(car)
}, 120_000)
afterEach(async () => {
  for (const end of ending.splice(0).reverse()) await end()
})
afterAll(async () => {
  for (const child of children) await stop(child)
  await world.close()
})

async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  child.kill('SIGKILL')
  await once(child, 'exit')
}

/** In one move each, as whoever renews certificates does. */
async function renew(files: { cert: string; key: string }): Promise<void> {
  for (const [path, text] of [
    [tls.certFile, files.cert],
    [tls.keyFile, files.key],
  ] as const) {
    await writeFile(`${path}.new`, text, { mode: 0o600 })
    await rename(`${path}.new`, path)
  }
}

async function serve(changes: object): Promise<Rps> {
  const path = join(world.folder, 'rps.json')
  await writeFile(path, JSON.stringify({ ...world.configWith(), workers: 1, ...changes }))
  const env = { PATH: process.env.PATH ?? '', MILAGRO_RPS_PASSPHRASE: PASSPHRASE }
  const child = spawn(process.execPath, [MAIN, '--config', path], { env })
  children.push(child)
  const lines: string[] = []
  createInterface(child.stderr).on('line', line => lines.push(line))
  const [line] = (await once(createInterface(child.stdout), 'line')) as [string]
  const { url } = JSON.parse(line) as { url: string }
  return { url, port: Number(new URL(url).port), child, lines }
}

const opened = (port: number, options: ConnectionOptions = {}) =>
  connectBound(`https://127.0.0.1:${port}`, { ...TRUSTED, ...options })

/** By connections as they come, of an agent's; closed at the test's end. */
function clientOf(url: string, options: ConnectionOptions = {}) {
  return createClient(rpsRoutes, { baseUrl: url, fetch: fetchBy(options), timeout: 60_000 })
}
function fetchBy(options: ConnectionOptions = {}): typeof fetch {
  const agent = new HttpsAgent({ keepAlive: true, ...TRUSTED, ...options })
  ending.push(() => agent.destroy())
  return agentFetch(agent)
}
/** The message of a login, over a nonce of this RPS. */
async function loginOf(url: string, options: MessageOptions) {
  const { nonce } = await clientOf(url).nonce({ body: {} })
  return { login: asFields(world.prove(car, { audience: BOUND, nonce, ...options }).toJson()) }
}

/** The car with its driver. */
async function storeText(): Promise<string> {
  const { groupId } = world.group
  const { idCore, D_dev } = car
  const { userCore, attributes } = driver
  const account = { idCore, userCore, pinGen: 1 }
  const alpha = await stretchPin(PIN, account, 1)
  const A_pin = pinIdentityPoint(groupId, idCore, userCore, 1)
  const record = {
    groupId,
    instance: 'VIN-1',
    revisions: world.group.documents,
    device: {
      idCore,
      attributes: {},
      ...(await lockKey(undefined, { groupId, idCore, purpose: 'device' }, D_dev)),
      codeId: null,
      keyEpoch: 1,
      agree: null,
      sign: null,
      encrypt: null,
      ahead: null,
      slotKeys: [],
      fileKeys: [],
    },
    users: [
      {
        name: 'Ada',
        attributes,
        token: {
          ...account,
          groupId,
          iterations: 1,
          keyEpoch: 1,
          token: splitPin(world.pinKeyOf(car, driver, 1), alpha, A_pin),
        },
        next: null,
        codeId: null,
      },
    ],
    pending: [],
    permit: null,
    nextPermit: null,
    leavesNumber: 0,
  }
  return encodeRecords([record])
}

/** The car's; `at` is where it finds the RPS. */
async function device(at: { url: string } = rps): Promise<Device> {
  const store = memoryTokenStore()
  await store.replace(null, await storeText())
  return Device.open({
    rps: at.url,
    rpsAudience: OWN,
    store,
    fetch: at.url.startsWith('https:') ? fetchBy() : fetch,
    wait: () => Promise.resolve(),
  })
}

const ways = [
  ['the device alone', {}],
  ['a driver with a PIN', { user: 'Ada', pin: PIN }],
] as const

/**
 * Takes connections by a certificate of its own, which the device believes, and passes on what comes, over its own
 * connections to the RPS; it has heard everything.
 */
async function manInTheMiddle(): Promise<{ url: string; port: number; heard: () => string }> {
  let heard = ''
  const sockets = new Set<TLSSocket>()
  const mallory = createServer({ ...anothers }, victim => {
    const own = connect({ host: '127.0.0.1', port: rps.port, ca: cert, servername: NAME })
    for (const socket of [victim, own]) {
      sockets.add(socket)
      socket.on('error', () => undefined)
    }
    victim.on('data', chunk => {
      heard += chunk
    })
    victim.pipe(own).pipe(victim)
  })
  const port = await listening(mallory)
  ending.push(() => {
    for (const socket of sockets) socket.destroy()
  })
  return { url: `https://127.0.0.1:${port}`, port, heard: () => heard }
}

async function listening(server: Server): Promise<number> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  ending.push(() => new Promise(resolve => server.close(resolve)))
  return (server.address() as AddressInfo).port
}

describe.each(ways)('a login by %s', (_, who) => {
  test('that is bound to its connection gives a token, and a session a new one over another connection', async () => {
    let connections = 0
    const over = () => {
      connections++
      return opened(rps.port)
    }
    const mine = await device()
    const { accessToken, authenticated } = await mine.login({ audience: BOUND, ...who, over })
    expect([accessToken.split('.').length, authenticated.audience]).toEqual([3, BOUND])
    expect(connections).toBe(1)
    const session = await mine.session({ audience: BOUND, ...who, over })
    const first = await session.accessToken()
    expect(await session.accessToken({ fresh: true })).not.toBe(first)
    expect(connections).toBe(3)
    session.close()
  })

  test('that is relayed is WRONG_PROOF, and costs no strike', async () => {
    const mallory = await manInTheMiddle()
    const victim = await device(mallory)
    // What stands between does pass logins on: one that is bound to nothing comes through.
    expect((await victim.login({ audience: TRACKING, ...who })).accessToken).toBeTruthy()
    const honest = await device()
    const over = () => opened(rps.port)
    // One more strike would lock the account.
    if ('pin' in who)
      for (let i = 0; i < 2; i++)
        expect(await codeOf(honest.login({ audience: BOUND, ...who, pin: '314159', over }))).toBe('WRONG_PIN')
    for (let i = 0; i < 3; i++)
      expect(await codeOf(victim.login({ audience: BOUND, ...who, over: () => opened(mallory.port) }))).toBe(
        'WRONG_PROOF',
      )
    expect(mallory.heard()).toContain(`"audience":"${BOUND}"`)
    expect((await honest.login({ audience: BOUND, ...who, over })).accessToken).toBeTruthy()
  })

  test('that is bound to nothing is WRONG_PROOF where the audience wants it', async () => {
    const mine = await device()
    expect(await codeOf(mine.login({ audience: BOUND, ...who }))).toBe('WRONG_PROOF')
  })

  test('that is bound is WRONG_PROOF where the audience wants it absent', async () => {
    const mine = await device()
    expect(await codeOf(mine.login({ audience: TRACKING, ...who, over: () => opened(rps.port) }))).toBe(
      'WRONG_PROOF',
    )
  })

  test('under TLS 1.2 is MALFORMED there, and what binds nothing comes in', async () => {
    const old = { maxVersion: 'TLSv1.2' } as const
    const client = clientOf(rps.url, old)
    const by = 'pin' in who ? { driver } : {}
    for (const binding of [{}, { tlsExporter: new Uint8Array(32).fill(7) }])
      await expect(
        client.login({ body: await loginOf(rps.url, { ...by, ...binding }) }),
      ).rejects.toMatchObject({ code: 'MALFORMED', field: 'tlsExporter' })
    const body = await loginOf(rps.url, { ...by, audience: TRACKING })
    expect((await client.login({ body })).accessToken).toBeTruthy()
  })

  test('is good on its own connection alone, and once', async () => {
    const [own, other] = [await opened(rps.port), await opened(rps.port)]
    const via = ({ fetch }: typeof own) => createClient(rpsRoutes, { baseUrl: rps.url, fetch })
    const by = 'pin' in who ? { driver } : {}
    const stolen = await loginOf(rps.url, { ...by, tlsExporter: own.tlsExporter })
    expect(await codeOf(via(other).login({ body: stolen }))).toBe('WRONG_PROOF')
    const body = await loginOf(rps.url, { ...by, tlsExporter: own.tlsExporter })
    expect((await via(own).login({ body })).authenticated.audience).toBe(BOUND)
    expect(await codeOf(via(other).login({ body }))).toBe('REPLAYED')
    own.close()
    other.close()
  })
})

test('a signature is bound as a login is', async () => {
  const mine = await device()
  // A record that was just begun speaks for no clientTime yet: the second attempt, by a nonce, has its own connection.
  const payload = new Uint8Array([1, 2, 3])
  const over = () => opened(rps.port)
  const receipt = await mine.sign({ audience: BOUND, payload, over })
  expect(receipt.split('.')).toHaveLength(3)
  expect(await codeOf(mine.sign({ audience: BOUND, payload }))).toBe('WRONG_PROOF')
})

test('a connection that does not come about is no attempt, and one to an RPS without TLS no login', async () => {
  const mine = await device()
  const nobody = () =>
    boundFetch(connect({ host: '127.0.0.1', port: rps.port, servername: NAME, ca: anothers.cert }))
  const who = { audience: BOUND, user: 'Ada', pin: PIN }
  await expect(mine.login({ ...who, over: nobody })).rejects.toBeInstanceOf(Unreachable)
  const old = () => opened(rps.port, { maxVersion: 'TLSv1.2' })
  await expect(mine.login({ ...who, over: old })).rejects.toThrow(/speaks no TLS 1\.3/)
  const ended = connect({ host: '127.0.0.1', port: rps.port, ...TRUSTED })
  ended.destroy()
  await expect(boundFetch(ended)).rejects.toBeInstanceOf(Unreachable)
  const held: Socket[] = []
  const silent = await listening(tcpServer(socket => held.push(socket)))
  const waiting = boundFetch(connect({ host: '127.0.0.1', port: silent, ...TRUSTED }), 50)
  await expect(waiting).rejects.toMatchObject({ name: 'Unreachable', system: 'TIMEOUT' })
  for (const socket of held) socket.destroy()
})

test('every request goes over the one connection, or fails', async () => {
  let connections = 0
  let requests = 0
  const server = httpsServer({ cert, key }, (request, response) => {
    request.resume()
    if (++requests === 6) response.setHeader('connection', 'close')
    response.end(String(requests))
  })
  server.on('secureConnection', () => connections++)
  const port = await listening(server)
  const { fetch } = await opened(port)
  const url = `https://127.0.0.1:${port}/`
  const get = async () => (await fetch(url)).text()
  expect(await get()).toBe('1')
  expect(await Promise.all([get(), get()])).toEqual(['2', '3'])
  await expect(fetch(`https://127.0.0.1:${port + 1}/`)).rejects.toThrow(/is gone/)
  expect(await get()).toBe('4')
  // The server closes after the sixth, with one more that waits.
  const last = await Promise.allSettled([get(), get(), get()])
  expect(last.map(({ status }) => status)).toEqual(['fulfilled', 'fulfilled', 'rejected'])
  await expect(fetch(url)).rejects.toThrow(/is gone/)
  expect([connections, requests]).toEqual([1, 6])
  const closed = await opened(port)
  closed.close()
  await expect(closed.fetch(url)).rejects.toThrow(/is gone/)
  expect(requests).toBe(6)
})

/** What the RPS says of a certificate that it was told to take. */
async function told(files: { cert: string; key: string }, line: string): Promise<void> {
  const before = rps.lines.length
  await renew(files)
  rps.child.kill('SIGHUP')
  await until(() => rps.lines.slice(before).some(text => text.includes(line)))
}

test('a renewed certificate is taken at SIGHUP, a wrong one is not, and what is open stays', async () => {
  const before = await opened(rps.port)
  const shown = async () => {
    const socket = connect({ host: '127.0.0.1', port: rps.port, ...TRUSTED })
    await once(socket, 'secureConnect')
    const { raw } = socket.getPeerCertificate()
    socket.destroy()
    return raw.toString('base64')
  }
  const inPem = (pem: string) => pem.replaceAll(/-----[A-Z ]+-----|\s/g, '')
  expect(await shown()).toBe(inPem(cert))
  await told(anothers, 'are read anew')
  expect(await shown()).toBe(inPem(anothers.cert))
  await told({ cert, key: anothers.key }, 'the certificate in use stays')
  expect(rps.lines.join('\n')).toContain("setting 'tls.keyFile': not the key of the certificate")
  expect(await shown()).toBe(inPem(anothers.cert))
  await told({ cert, key }, 'are read anew')
  expect(await shown()).toBe(inPem(cert))
  const client = createClient(rpsRoutes, { baseUrl: rps.url, fetch: before.fetch })
  expect((await client.nonce({ body: {} })).slot).toBe(world.slot)
  before.close()
})

test('the command line logs in so with --bound, by the certificate of a CA that Node is told of', async () => {
  await told(anothers, 'are read anew')
  const ca = join(world.folder, 'ca.pem')
  await writeFile(ca, anothers.cert)
  const store = join(world.folder, 'device.json')
  await fileTokenStore(store).replace(null, await storeText())
  const login = async (...flags: string[]) => {
    const args = ['device', 'login', '--store', store, '--rps', rps.url, '--audience', BOUND, ...flags]
    const env = { PATH: process.env.PATH ?? '', NODE_EXTRA_CA_CERTS: ca }
    const child = spawn(process.execPath, [CLI, ...args], { env })
    children.push(child)
    const texts = Promise.all([text(child.stdout), text(child.stderr)])
    const [code] = (await once(child, 'close')) as [number]
    return [code, ...(await texts)]
  }
  expect(await login('--bound')).toEqual([0, expect.stringMatching(/^[\w-]+\.[\w-]+\.[\w-]+\n$/), ''])
  expect(await login()).toEqual([1, '', expect.stringContaining('WRONG_PROOF')])
  expect(await login('--bound', '--rps', 'http://127.0.0.1')).toEqual([
    2,
    '',
    expect.stringContaining('--bound takes an RPS whose address is https'),
  ])
  await told({ cert, key }, 'are read anew')
}, 60_000)

test('what is no TLS is no request, and the server goes on', async () => {
  await expect(fetch(rps.url.replace('https', 'http'))).rejects.toThrow()
  await until(() => rps.lines.some(line => line.includes('"TLS failed"')))
  expect((await clientOf(rps.url).nonce({ body: {} })).slot).toBe(world.slot)
})

test('over plain HTTP it is MALFORMED, with or without a proof of a connection', async () => {
  await stop(rps.child)
  rps = await serve({ audiences: AUDIENCES.map(policy => ({ ...policy, service: 'tracking' })) })
  expect(rps.url).toMatch(/^http:/)
  const client = createClient(rpsRoutes, { baseUrl: rps.url, timeout: 60_000 })
  for (const options of [{}, { driver }, { tlsExporter: new Uint8Array(32).fill(7) }]) {
    const { nonce } = await client.nonce({ body: {} })
    const login = asFields(world.prove(car, { audience: BOUND, nonce, ...options }).toJson())
    await expect(client.login({ body: { login } })).rejects.toMatchObject({
      code: 'MALFORMED',
      field: 'tlsExporter',
    })
  }
  const mine = await device()
  const notHttps = /is no https address/
  await expect(mine.login({ audience: BOUND, over: () => connectBound(rps.url) })).rejects.toThrow(notHttps)
  const elsewhere = await listening(createServer({ cert, key }))
  await expect(mine.login({ audience: BOUND, over: () => opened(elsewhere) })).rejects.toThrow(notHttps)
}, 60_000)
