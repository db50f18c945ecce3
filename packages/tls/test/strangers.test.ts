/** OpenSSL's s_client at our server, its s_server for our client, and what a handshake looks like on the wire. */
import { connect as connectTcp, createServer as createTcpServer } from 'node:net'
import { createServer as createTlsServer } from 'node:tls'
import { connect, createServer, secured } from '@milagro-ts/tls/tls'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { hex, openssl, opensslServer, opensslVersion } from './openssl.js'
import { cert, key } from './someones-certificate.js'
import { type Car, NAME, outcome, World } from './world.js'

/** The server's last word on a ClientHello, whichever of the alerts for it a version says: OpenSSL's name of it. */
const FATAL_ALERT = expect.stringMatching(
  /^ERR_SSL_(?:[A-Z0-9]+|SSL\/TLS)_ALERT_(ILLEGAL_PARAMETER|DECRYPT_ERROR|UNKNOWN_PSK_IDENTITY|HANDSHAKE_FAILURE)$/,
)

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

describe('a HelloRetryRequest, of a server that takes another group than the one whose key share a client sends', () => {
  let port: number
  let inside: string[]
  beforeEach(async () => {
    inside = []
    const { door, timers, log } = world
    const server = createServer({ door, timers, log, ecdhCurve: 'P-256' }, (socket, peer) => {
      inside.push(peer.mpinId)
      socket.on('error', () => undefined)
      socket.end('welcome')
    })
    server.on('tlsClientError', () => undefined)
    port = await world.listen(server)
  })

  describe.skipIf(opensslVersion === undefined)('openssl s_client', () => {
    const client = async (identity: string, psk: Uint8Array) => {
      const said = await openssl(
        [
          ...['s_client', '-connect', `127.0.0.1:${port}`, '-groups', 'X25519:P-256', '-msg'],
          ...['-psk_identity', identity, '-psk', hex(psk)],
        ],
        { until: /welcome/ },
      )
      const messages = [...said.matchAll(/Handshake \[length [0-9a-f]+\], (\w+)/g)].map(([, name]) => name)
      return { said, messages, alert: /alert [a-z ]+/.exec(said)?.[0] }
    }
    /** The first ServerHello is the HelloRetryRequest. */
    const RETRIED = ['ClientHello', 'ServerHello', 'ClientHello', 'ServerHello']

    test('the right key, and again by what is kept: one pairing in all', async () => {
      const car = world.car(1)
      const { identity, psk } = await car.externalPsk(NAME)
      for (const _ of [1, 2]) {
        const { said, messages } = await client(identity, psk)
        expect(said).toContain('welcome')
        expect(messages.slice(0, 4)).toEqual(RETRIED)
      }
      expect(inside).toEqual([car.mpinId, car.mpinId])
      expect(world.computed).toBe(1)
    })

    test('a wrong key, an unknown identity and a banned car are refused alike, after a pairing each', async () => {
      const [car, banned] = [world.car(1), world.car(2)]
      const { identity, psk } = await car.externalPsk(NAME)
      const its = await banned.externalPsk(NAME)
      world.banned.add(banned.mpinId)
      const wrong = await client(identity, new Uint8Array(32).fill(1))
      expect(wrong.alert).toMatch(/^alert (illegal parameter|decrypt error)$/)
      // OpenSSL looks at the binder of the first ClientHello before it asks for a second.
      expect(wrong.messages).toEqual(['ClientHello'])
      for (const other of [await client('Client_identity', psk), await client(its.identity, its.psk)])
        expect([other.alert, other.messages]).toEqual([wrong.alert, wrong.messages])
      expect(world.computed).toBe(3)
      // Nothing of it hinders the right key.
      expect((await client(identity, psk)).messages.slice(0, 4)).toEqual(RETRIED)
      expect(inside).toEqual([car.mpinId])
    })
  })

  test('our client, first and again', async () => {
    const car = world.car(1)
    let said = Buffer.alloc(0)
    const between = createTcpServer(near => {
      const far = connectTcp({ host: '127.0.0.1', port })
      for (const [from, to] of [
        [near, far],
        [far, near],
      ] as const) {
        from.on('error', () => to.destroy())
        from.pipe(to)
      }
      near.on('data', chunk => {
        said = Buffer.concat([said, chunk])
      })
    })
    const at = { host: '127.0.0.1', port: await world.listen(between), servername: NAME, identity: car }
    for (const _ of [1, 2]) {
      said = Buffer.alloc(0)
      expect(await outcome(connect(at))).toBe('in')
      // Records of type 22: whatever follows a client's ClientHellos is encrypted, and so of another.
      const types: number[] = []
      for (let i = 0; i < said.length; i += 5 + said.readUInt16BE(i + 3)) types.push(said[i] as number)
      expect(types.filter(type => type === 22)).toHaveLength(2)
    }
    expect(inside).toEqual([car.mpinId, car.mpinId])
    expect(world.computed).toBe(1)
  })
})

describe.skipIf(opensslVersion === undefined)('our client at openssl s_server', () => {
  const at = async (identity: string, key: Uint8Array) => {
    const server = await opensslServer(['-psk_identity', identity, '-psk', hex(key), '-tls1_3'])
    world.onClose(() => server.end())
    return server
  }
  const handshake = (port: number, identity: Car) =>
    secured(connect({ host: '127.0.0.1', port, servername: NAME, identity }))
  const echoed = async (port: number, identity: Car) => {
    const socket = await handshake(port, identity)
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

  test('a wrong key under an identity that it knows', async () => {
    const car = world.car(1)
    const { identity } = await car.externalPsk(NAME)
    const { port } = await at(identity, new Uint8Array(32).fill(1))
    await expect(handshake(port, car)).rejects.toMatchObject({ code: FATAL_ALERT })
  })

  test('an identity that it doesn’t know, with the key that it has', async () => {
    const car = world.car(1)
    const { psk } = await car.externalPsk(NAME)
    const { port } = await at('somebody', psk)
    await expect(handshake(port, car)).rejects.toMatchObject({ code: FATAL_ALERT })
  })

  test('one that has a certificate and no PSK', async () => {
    const port = await world.listen(
      createTlsServer({ cert, key }, socket => socket.write('x')).on('tlsClientError', () => undefined),
    )
    const options = { host: '127.0.0.1', port, servername: NAME, identity: world.car(1) }
    await expect(secured(connect(options))).rejects.toMatchObject({ code: 'DEPTH_ZERO_SELF_SIGNED_CERT' })
  })
})

describe('our client on the wire', () => {
  /** A ClientHello, as much as is asked of it here. */
  const helloOf = (record: Buffer) => {
    // Record header 5, message header 4, version 2, random 32.
    const afterSession = 44 + (record[43] as number)
    const suites = record.subarray(afterSession + 2, afterSession + 2 + record.readUInt16BE(afterSession))
    const extensions: [number, Buffer][] = []
    // One compression method, none.
    for (let at = afterSession + 2 + suites.length + 2 + 2; at < record.length; ) {
      const end = at + 4 + record.readUInt16BE(at + 2)
      extensions.push([record.readUInt16BE(at), record.subarray(at + 4, end)])
      at = end
    }
    return { session: record.subarray(43, afterSession), suites: hex(suites), extensions }
  }
  type Hello = ReturnType<typeof helloOf>
  /** A server that answers the ClientHello by what `answer` makes of it; what it heard, once the client is gone. */
  const rawServer = async (answer: (hello: Hello) => Buffer) => {
    const server = createTcpServer()
    const heard = new Promise<{ hello: Hello; after: Buffer }>(resolve =>
      server.once('connection', socket => {
        let bytes = Buffer.alloc(0)
        let hello: Hello | undefined
        const end = () => (bytes.length < 5 ? Number.POSITIVE_INFINITY : 5 + bytes.readUInt16BE(3))
        socket.on('error', () => undefined)
        socket.on('data', chunk => {
          bytes = Buffer.concat([bytes, chunk])
          if (hello !== undefined || bytes.length < end()) return
          hello = helloOf(bytes.subarray(0, end()))
          socket.write(answer(hello))
        })
        socket.on('close', () => resolve({ hello: hello as Hello, after: bytes.subarray(end()) }))
      }),
    )
    const port = await world.listen(server)
    return { options: { host: '127.0.0.1', port, servername: NAME, identity: world.car(1) }, heard }
  }
  const record = (type: number, body: Buffer) => Buffer.concat([Buffer.from([type, 3, 3]), sized(body)])
  const sized = (body: Buffer) => Buffer.concat([Buffer.from([body.length >> 8, body.length & 255]), body])
  const alert = (description: number) => record(21, Buffer.from([2, description]))
  /** ServerHello of TLS_AES_128_GCM_SHA256 with these extensions. */
  const serverHello = (session: Buffer, ...extensions: [number, Buffer][]) => {
    const body = Buffer.concat([
      Buffer.from([3, 3]),
      Buffer.alloc(32, 1),
      session,
      Buffer.from([0x13, 0x01, 0]),
      sized(
        Buffer.concat(extensions.flatMap(([type, value]) => [Buffer.from([type >> 8, type]), sized(value)])),
      ),
    ])
    return record(22, Buffer.concat([Buffer.from([2, 0]), sized(body)]))
  }
  const [PRE_SHARED_KEY, EARLY_DATA, SUPPORTED_VERSIONS, KEY_EXCHANGE_MODES, KEY_SHARE] = [41, 42, 43, 45, 51]
  const TLS13 = Buffer.from([3, 4])

  test('psk_dhe_ke alone, TLS 1.3 alone, one identity, a key share; no early data, no name', async () => {
    const { options, heard } = await rawServer(() => alert(40))
    await expect(secured(connect(options))).rejects.toMatchObject({ code: FATAL_ALERT })
    const { suites, extensions } = (await heard).hello
    const offered = new Map(extensions.map(([type, value]) => [type, hex(value)]))
    expect(offered.size).toBe(extensions.length)
    expect(offered.get(KEY_EXCHANGE_MODES)).toBe('0101')
    expect(offered.get(SUPPORTED_VERSIONS)).toBe('020304')
    // The two suites, and what OpenSSL adds in the place of renegotiation_info.
    expect(
      suites
        .match(/.{4}/g)
        ?.filter(suite => suite !== '00ff')
        .sort(),
    ).toEqual(['1301', '1303'])
    expect(offered.has(KEY_SHARE)).toBe(true)
    expect(offered.has(EARLY_DATA)).toBe(false)
    expect(offered.has(0)).toBe(false)
    // One identity of 125 bytes, whose age is 0, and one binder of 32.
    expect(extensions.at(-1)?.[0]).toBe(PRE_SHARED_KEY)
    const { identity } = await options.identity.externalPsk(NAME)
    const one = `0083007d${hex(Buffer.from(identity))}00000000`
    expect(offered.get(PRE_SHARED_KEY)).toMatch(new RegExp(`^${one}002120[0-9a-f]{64}$`))
  })

  test('a server that takes the PSK without a Diffie–Hellman exchange is left', async () => {
    const { options, heard } = await rawServer(({ session }) =>
      serverHello(session, [SUPPORTED_VERSIONS, TLS13], [PRE_SHARED_KEY, Buffer.from([0, 0])]),
    )
    await expect(secured(connect(options))).rejects.toMatchObject({ code: 'ERR_SSL_NO_SUITABLE_KEY_SHARE' })
    // missing_extension; illegal_parameter of OpenSSL 3.5, in Node 22 and 24.
    expect([hex(alert(109)), hex(alert(47))]).toContain(hex((await heard).after))
  })

  test('nor is TLS 1.2 taken from one that answers with it', async () => {
    const { options, heard } = await rawServer(({ session }) => serverHello(session))
    await expect(secured(connect(options))).rejects.toMatchObject({ code: 'ERR_SSL_UNSUPPORTED_PROTOCOL' })
    expect(hex((await heard).after)).toBe(hex(alert(70)))
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
      .poll(async () => (said = await client(identity, psk)), { timeout: 60_000 })
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
      return secured(
        connect({ host: '127.0.0.1', port: server.port, servername: NAME, identity: car, tls12: true }),
      )
    }
    const socket = await to(psk)
    const answer = new Promise<string>(resolve => socket.once('data', chunk => resolve(chunk.toString())))
    socket.write('hello\n')
    expect(await answer).toBe('olleh\n')
    socket.destroy()
    await expect(to(new Uint8Array(32).fill(1))).rejects.toThrow()
  })
})
