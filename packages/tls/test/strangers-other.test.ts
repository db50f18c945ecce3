/** Clients on GnuTLS and wolfSSL at our server and servers on both for our client: right key, wrong key, unknown. */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { connect, createServer, secured, type TlsIdentity } from '@milagro-ts/tls/tls'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { hex } from './openssl.js'
import { freePort, haveTools, type Running, ran, started } from './tools.js'
import { NAME, outcome, World } from './world.js'

const hasGnuTls = haveTools('no handshake with GnuTLS is tested', 'gnutls-cli', 'gnutls-serv')
const source = (name: string) => fileURLToPath(new URL(`${name}.c`, import.meta.url))
const hasWolfSsl =
  haveTools('no handshake with wolfSSL is tested', 'cc') &&
  (await ran(['sh', '-c', 'echo "#include <wolfssl/ssl.h>" | cc -E - >/dev/null'])).status === 0
if (!hasWolfSsl)
  console.log('wolfSSL’s headers (libwolfssl-dev) are not here: no handshake with it is tested')

/** TLS 1.3 with an external PSK and a key exchange, and nothing else. */
const PRIORITY =
  'NONE:+VERS-TLS1.3:+AES-128-GCM:+CHACHA20-POLY1305:+AEAD:+ECDHE-PSK:+GROUP-X25519:+GROUP-SECP256R1:+SIGN-ALL'

/** The server's last word on a ClientHello, whichever of the alerts for it a version says: OpenSSL's name of it. */
const FATAL_ALERT = expect.stringMatching(
  /^ERR_SSL_(?:[A-Z0-9]+|SSL\/TLS)_ALERT_(ILLEGAL_PARAMETER|DECRYPT_ERROR|UNKNOWN_PSK_IDENTITY|HANDSHAKE_FAILURE)$/,
)

let world: World
let folder: string
beforeEach(async () => {
  world = await World.start()
  folder = await mkdtemp(join(tmpdir(), 'milagro-strangers-'))
})
afterEach(async () => {
  await world.close()
  await rm(folder, { recursive: true })
})

/** Our server, which says one line to whoever is in. */
async function ours(): Promise<{ port: number; inside: string[] }> {
  const inside: string[] = []
  const { door, timers, log } = world
  const server = createServer({ door, timers, log }, (socket, peer) => {
    inside.push(peer.mpinId)
    socket.on('error', () => undefined)
    socket.end('welcome\n')
  })
  server.on('tlsClientError', () => undefined)
  return { port: await world.listen(server), inside }
}

describe.skipIf(!hasGnuTls)('gnutls-cli at our server', () => {
  const client = (port: number, identity: string, key: Uint8Array) =>
    ran([
      'gnutls-cli',
      ...['--port', String(port), '--priority', PRIORITY, '--pskusername', identity, '--pskkey', hex(key)],
      ...['--disable-sni', '127.0.0.1'],
    ])

  test('the right key', async () => {
    const { port, inside } = await ours()
    const car = world.car(1)
    const { identity, psk } = await car.externalPsk(NAME)
    // Its exit code only says whether it or we were first to end.
    const { text } = await client(port, identity, psk)
    expect(text).toContain('welcome')
    expect(text).toMatch(/Description: \(TLS1\.3/)
    expect(text).toContain(`PSK authentication. Connected as '${identity}'`)
    expect(text).not.toMatch(/Certificate type|Got a certificate list/)
    expect(inside).toEqual([car.mpinId])
  })

  test('a wrong key and an unknown identity get the same answer', async () => {
    const { port, inside } = await ours()
    const { identity, psk } = await world.car(1).externalPsk(NAME)
    const alertOf = (text: string) => /alert \[\d+\]: .*/.exec(text)?.[0]
    const wrong = await client(port, identity, new Uint8Array(32).fill(1))
    const unknown = await client(port, 'somebody', psk)
    expect(alertOf(wrong.text)).toBeDefined()
    expect(alertOf(unknown.text)).toBe(alertOf(wrong.text))
    expect(wrong.status).not.toBe(0)
    expect(inside).toEqual([])
  })
})

describe.skipIf(!hasGnuTls)('our client at gnutls-serv', () => {
  let server: Running
  afterEach(() => server.end())
  const at = async (identity: string, key: Uint8Array) => {
    const port = await freePort()
    const file = join(folder, 'psk')
    await writeFile(file, `${identity}:${hex(key)}\n`, { mode: 0o600 })
    server = started([
      'gnutls-serv',
      ...['--port', String(port), '--echo', '--priority', PRIORITY, '--pskpasswd', file],
    ])
    await server.said(/listening on IPv4 [^\n]*done/i)
    return port
  }
  const handshake = (port: number, identity: TlsIdentity) =>
    secured(connect({ host: '127.0.0.1', port, servername: NAME, identity }))

  test('the right key', async () => {
    // The identity is drawn once for a car and a slot: what the server is given is what the car says.
    const car = world.car(1)
    const { identity, psk } = await car.externalPsk(NAME)
    const port = await at(identity, psk)
    const socket = await handshake(port, car)
    const answer = new Promise<string>((resolve, reject) => {
      socket.once('data', chunk => resolve(chunk.toString()))
      socket.once('error', reject)
      socket.once('close', () => reject(new Error('closed')))
    })
    socket.write('hello\n')
    expect(await answer).toBe('hello\n')
    socket.destroy()
  })

  test('a wrong key under an identity that it knows', async () => {
    const car = world.car(1)
    const { identity } = await car.externalPsk(NAME)
    const port = await at(identity, new Uint8Array(32).fill(1))
    await expect(handshake(port, car)).rejects.toMatchObject({ code: FATAL_ALERT })
  })

  test('an identity that it doesn’t know, with the key that it has', async () => {
    const car = world.car(1)
    const { psk } = await car.externalPsk(NAME)
    const port = await at('somebody', psk)
    await expect(handshake(port, car)).rejects.toMatchObject({ code: FATAL_ALERT })
  })
})

describe.skipIf(!hasWolfSsl)('wolfSSL', () => {
  /** Its server closes, with an alert or without one. */
  const LEFT = expect.stringMatching(/^ECONNRESET$|^ERR_SSL_[A-Z0-9/]+_ALERT_/)
  let built: string
  const program = (name: string) => join(built, name)
  beforeAll(async () => {
    built = await mkdtemp(join(tmpdir(), 'milagro-wolfssl-'))
    for (const name of ['wolfssl-client', 'wolfssl-server']) {
      const build = [
        'cc',
        '-Wall',
        '-Wextra',
        '-Werror',
        '-o',
        program(name),
        source(name),
        '-lwolfssl',
      ] as const
      expect(await ran(build)).toEqual({ status: 0, text: '' })
    }
  })
  afterAll(() => rm(built, { recursive: true }))
  const client = (port: number, identity: string, key: Uint8Array) =>
    ran([program('wolfssl-client'), String(port), identity], { env: { MILAGRO_KEY: hex(key) } })

  test('its client, of sixty lines at most, at our server: the right key', async () => {
    const lines = (await readFile(source('wolfssl-client'), 'utf8')).trimEnd().split('\n')
    expect(lines.length).toBeLessThanOrEqual(60)
    const { port, inside } = await ours()
    const car = world.car(1)
    const { identity, psk } = await car.externalPsk(NAME)
    expect(await client(port, identity, psk)).toEqual({
      status: 0,
      text: 'TLS13-AES128-GCM-SHA256 welcome\n\n',
    })
    expect(inside).toEqual([car.mpinId])
  })

  test('its client at our server: a wrong key and an unknown identity fail alike', async () => {
    const { port, inside } = await ours()
    const { identity, psk } = await world.car(1).externalPsk(NAME)
    const wrong = await client(port, identity, new Uint8Array(32).fill(1))
    const unknown = await client(port, 'somebody', psk)
    expect(wrong).toMatchObject({ status: 1, text: expect.stringMatching(/alert/i) })
    expect(unknown).toEqual(wrong)
    expect(inside).toEqual([])
  })

  test('our client at its server: the right key, a wrong one, and an identity that it doesn’t know', async () => {
    const car = world.car(1)
    const offered = await car.externalPsk(NAME)
    const { identity: unknown } = await world.car(2).externalPsk(NAME)
    const port = await freePort()
    const server = started([program('wolfssl-server'), String(port), offered.identity], {
      MILAGRO_KEY: hex(offered.psk),
    })
    try {
      await server.said(/listening/)
      const handshake = (identity: TlsIdentity) =>
        secured(connect({ host: '127.0.0.1', port, servername: NAME, identity }))
      expect(await outcome(handshake(car))).toBe('in')
      const other = (changed: object) => ({ externalPsk: async () => ({ ...offered, ...changed }) })
      const wrongKey = handshake(other({ psk: new Uint8Array(32).fill(1) }))
      await expect(wrongKey).rejects.toMatchObject({ code: LEFT })
      await server.said(/binder does not verify/)
      expect(server.text()).not.toContain('unknown identity')
      await expect(handshake(other({ identity: unknown }))).rejects.toMatchObject({ code: LEFT })
      await server.said(/unknown identity/)
      // None of them has ended it.
      expect(await outcome(handshake(car))).toBe('in')
    } finally {
      await server.end()
    }
  })
})
