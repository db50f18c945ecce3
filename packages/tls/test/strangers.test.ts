/** OpenSSL's s_client at our server, its s_server for our client, and what a handshake looks like on the wire. */
import { createServer as createTlsServer } from 'node:tls'
import { connect } from '@milagro-ts/tls/connect'
import { createServer } from '@milagro-ts/tls/server'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { hex, openssl, opensslServer, opensslVersion } from './openssl.js'
import { cert, key } from './someones-certificate.js'
import { type Car, NAME, outcome, World } from './world.js'

let world: World
beforeEach(async () => {
  world = await World.start()
})
afterEach(() => world.close())

const SUITES = ['TLS_AES_128_GCM_SHA256', 'TLS_CHACHA20_POLY1305_SHA256']

describe.skipIf(opensslVersion === undefined)('openssl s_client at our server', () => {
  let port: number
  let inside: string[]
  beforeEach(async () => {
    inside = []
    const { door, timers, log } = world
    const server = createServer({ door, timers, log }, (socket, peer) => {
      inside.push(peer.mpinId)
      socket.on('error', () => undefined)
      socket.end('welcome')
    })
    server.on('tlsClientError', () => undefined)
    port = await world.listen(server)
  })
  const client = (identity: string, psk: Uint8Array, ...more: string[]) =>
    openssl(
      ['s_client', '-connect', `127.0.0.1:${port}`, '-psk_identity', identity, '-psk', hex(psk), ...more],
      { until: /welcome/ },
    )

  test.each(SUITES)('the right key, %s', async suite => {
    const car = world.car(1)
    const { identity, psk } = await car.externalPsk(NAME)
    const said = await client(identity, psk, '-ciphersuites', suite)
    expect(said).toContain('welcome')
    expect(said).toContain(`, TLSv1.3, Cipher is ${suite}`)
    expect(said).toContain('no peer certificate available')
    expect(inside).toEqual([car.mpinId])
  })

  test('a wrong key and an unknown identity get the same alert', async () => {
    const { identity, psk } = await world.car(1).externalPsk(NAME)
    const alertOf = (said: string) => /alert [a-z ]+/.exec(said)?.[0]
    const wrong = alertOf(await client(identity, new Uint8Array(32).fill(1)))
    // OpenSSL 3.0 says the one, 3.5 the other.
    expect(wrong).toMatch(/^alert (illegal parameter|decrypt error)$/)
    expect(alertOf(await client('Client_identity', psk))).toBe(wrong)
    expect(inside).toEqual([])
  })

  test('TLS 1.2, and no PSK at all, are refused', async () => {
    const { identity, psk } = await world.car(1).externalPsk(NAME)
    expect(await client(identity, psk, '-tls1_2')).toContain('alert protocol version')
    expect(await openssl(['s_client', '-connect', `127.0.0.1:${port}`])).toContain('alert handshake failure')
    expect(inside).toEqual([])
  })

  test('who would do without a Diffie–Hellman exchange gets one', async () => {
    const { identity, psk } = await world.car(1).externalPsk(NAME)
    const said = await client(identity, psk, '-allow_no_dhe_kex', '-tlsextdebug')
    expect(said).toContain('welcome')
    expect(said).toMatch(/TLS server extension "key share"/)
  })

  test('on the wire: psk_dhe_ke, no certificate, and nobody’s certificate is asked for', async () => {
    const { identity, psk } = await world.car(1).externalPsk(NAME)
    const said = await client(identity, psk, '-msg', '-tlsextdebug')
    const messages = [...said.matchAll(/Handshake \[length [0-9a-f]+\], (\w+)/g)].map(([, name]) => name)
    const end = messages.lastIndexOf('Finished') + 1
    expect(messages.slice(0, end)).toEqual([
      'ClientHello',
      'ServerHello',
      'EncryptedExtensions',
      'Finished',
      'Finished',
    ])
    // With the number of a session that isn't kept (guards.test.ts, 2); how to have none: tickets.test.ts.
    expect(messages.slice(end)).toEqual(['NewSessionTicket'])
    expect(said).toMatch(/TLS server extension "key share"/)
    expect(said).toMatch(/TLS server extension "psk"/)
  })
})

describe.skipIf(opensslVersion === undefined)('our client at openssl s_server', () => {
  const at = async (identity: string, key: Uint8Array) => {
    const server = await opensslServer(['-psk_identity', identity, '-psk', hex(key), '-tls1_3'])
    world.onClose(() => server.end())
    return server
  }
  const echoed = async (port: number, identity: Car) => {
    const socket = await connect({ host: '127.0.0.1', port, servername: NAME, identity })
    const answer = new Promise<string>((resolve, reject) => {
      socket.once('data', chunk => resolve(chunk.toString()))
      socket.once('error', reject)
      socket.once('close', () => reject(new Error('closed')))
    })
    socket.write('hello\n')
    return answer.finally(() => socket.destroy())
  }

  test('the right key', async () => {
    const car = world.car(1)
    const { identity, psk } = await car.externalPsk(NAME)
    const { port } = await at(identity, psk)
    expect(await echoed(port, car)).toBe('olleh\n')
  })

  test('a wrong key, and an identity that it doesn’t know', async () => {
    const car = world.car(1)
    const { identity, psk } = await car.externalPsk(NAME)
    const wrongKey = await at(identity, new Uint8Array(32).fill(1))
    const unknown = await at('somebody', psk)
    for (const { port } of [wrongKey, unknown]) await expect(echoed(port, car)).rejects.toThrow()
  })

  test('one that has a certificate and no PSK', async () => {
    const port = await world.listen(
      createTlsServer({ cert, key }, socket => socket.write('x')).on('tlsClientError', () => undefined),
    )
    const options = { host: '127.0.0.1', port, servername: NAME, identity: world.car(1) }
    expect(await outcome(connect(options))).not.toBe('in')
  })
})

describe.skipIf(opensslVersion === undefined)('TLS 1.2, by explicit choice', () => {
  const SUITE = 'ECDHE-PSK-CHACHA20-POLY1305'
  /** Fatal, from the server. */
  const alertOf = (said: string) => /SSL alert number \d+/.exec(said)?.[0]

  test('openssl s_client: in by the right key once the server knows the device; else one alert for everybody', async () => {
    const inside: string[] = []
    const { door, timers, log } = world
    const server = createServer({ door, timers, log, tls12: true }, (socket, peer) => {
      inside.push(peer.mpinId)
      socket.on('error', () => undefined)
      socket.end('welcome')
    })
    const port = await world.listen(server.on('tlsClientError', () => undefined))
    const client = (identity: string, psk: Uint8Array) =>
      openssl(
        [
          ...['s_client', '-connect', `127.0.0.1:${port}`, '-tls1_2', '-cipher', SUITE],
          ...['-psk_identity', identity, '-psk', hex(psk)],
        ],
        { until: /welcome/ },
      )
    const car = world.car(1)
    const { identity, psk } = await car.externalPsk(NAME, 'm2')
    const first = alertOf(await client(identity, psk))
    expect(first).toBeDefined()
    let said = ''
    await expect
      .poll(async () => (said = await client(identity, psk)), { timeout: 10_000 })
      .toContain('welcome')
    expect(said).toContain(`New, TLSv1.2, Cipher is ${SUITE}`)
    expect(said).toContain('no peer certificate available')
    expect(inside).toEqual([car.mpinId])
    const wrong = new Uint8Array(32).fill(1)
    expect(alertOf(await client(identity, wrong))).toBe(first)
    expect(alertOf(await client('somebody', psk))).toBe(first)
    expect(inside).toHaveLength(1)
  })

  test('our client at openssl s_server: the right key, and a wrong one', async () => {
    const car = world.car(1)
    const { identity, psk } = await car.externalPsk(NAME, 'm2')
    const to = async (key: Uint8Array) => {
      const server = await opensslServer([
        ...['-tls1_2', '-cipher', SUITE],
        ...['-psk_identity', identity, '-psk', hex(key)],
      ])
      world.onClose(() => server.end())
      return connect({ host: '127.0.0.1', port: server.port, servername: NAME, identity: car, tls12: true })
    }
    const socket = await to(psk)
    const answer = new Promise<string>(resolve => socket.once('data', chunk => resolve(chunk.toString())))
    socket.write('hello\n')
    expect(await answer).toBe('olleh\n')
    socket.destroy()
    await expect(to(new Uint8Array(32).fill(1))).rejects.toThrow()
  })
})
