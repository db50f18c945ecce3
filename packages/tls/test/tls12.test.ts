/** TLS 1.2 by explicit choice: who is known comes in, by one suite; the five guards hold there, too. */

import { constants } from 'node:crypto'
import { once } from 'node:events'
import { connect as connectTcp, createServer as createTcp, type Socket } from 'node:net'
import {
  type ConnectionOptions,
  connect as rawConnect,
  createServer as rawServer,
  type TLSSocket,
  type TlsOptions,
} from 'node:tls'
import { Scalar } from '@milagro-ts/crypto/scalar'
import type { SlotPskKind } from '@milagro-ts/crypto/static-agreement'
import { clientHelloOf } from '@milagro-ts/tls/client-hello'
import type { TlsPeer } from '@milagro-ts/tls/door'
import { createServer as createHttpsServer, get, httpsAgent } from '@milagro-ts/tls/https'
import type { IdentityTlsServer } from '@milagro-ts/tls/server'
import { connect, createServer, secured } from '@milagro-ts/tls/tls'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { cert, key } from './someones-certificate.js'
import { type Car, closed, NAME, outcome, SLOT, World } from './world.js'

const SUITE = 'ECDHE-PSK-CHACHA20-POLY1305'
const TLS12 = { minVersion: 'TLSv1.2', maxVersion: 'TLSv1.2', ciphers: SUITE } as const
const NO_CERTIFICATE = {
  checkServerIdentity: (_: string, certificate: object) =>
    Object.keys(certificate).length === 0 ? undefined : new Error('no certificates'),
}
/** How OpenSSL ends a handshake of TLS 1.2 by a wrong PSK. */
const WRONG_KEY = /BAD_RECORD_MAC|DECRYPT_ERROR/

let world: World
let inside: { socket: TLSSocket; peer: TlsPeer }[]
let server: IdentityTlsServer
let port: number
beforeEach(async () => {
  world = await World.start()
  inside = []
  server = serve({ tls12: true })
  port = await world.listen(server)
})
afterEach(() => world.close())

function serve(options: { tls12?: boolean }): IdentityTlsServer {
  const { door, timers, log } = world
  const server = createServer({ door, timers, log, ...options }, (socket, peer) => {
    inside.push({ socket, peer })
    socket.on('error', () => undefined)
    socket.write('welcome')
  })
  return server.on('tlsClientError', () => undefined)
}
const old = (identity: Pick<Car, 'externalPsk'>, at = port) =>
  secured(connect({ host: '127.0.0.1', port: at, servername: NAME, identity, tls12: true }))
const raw = (options: ConnectionOptions, at = port) => {
  const socket = rawConnect({ host: '127.0.0.1', port: at, ...TLS12, ...NO_CERTIFICATE, ...options })
  return new Promise<TLSSocket>((resolve, reject) => {
    socket.once('secureConnect', () => resolve(socket))
    socket.once('error', reject)
  })
}
/** Attempts until it is in, as an old stack that connects again would make them. */
const untilIn = async (car: Car) => {
  await expect.poll(() => outcome(old(car)), { interval: 5 }).toBe('in')
}

test('a car is refused at its first try, and in once its PSK and permit are here; its handler knows it', async () => {
  const car = world.car(1)
  expect(await outcome(old(car))).toMatch(WRONG_KEY)
  expect(inside).toEqual([])
  await untilIn(car)
  expect(world.computed).toBe(1)
  expect(world.asked).toEqual([car.mpinId])
  const socket = await old(car)
  await new Promise(resolve => socket.once('data', resolve))
  expect([socket.getProtocol(), socket.getCipher().name]).toEqual(['TLSv1.2', SUITE])
  expect(socket.getPeerCertificate()).toEqual({})
  expect(socket.getEphemeralKeyInfo()).toMatchObject({ type: 'ECDH' })
  expect(inside.at(-1)?.peer).toMatchObject({ mpinId: car.mpinId, slot: SLOT, attributes: { brand: 'Acme' } })
  socket.destroy()
  // Who has come in once is known for the slot.
  world.turn(600_000)
  expect(await outcome(old(car))).toBe('in')
  expect(world.computed).toBe(1)
})

test('a request that hasn’t chosen it goes over no kept connection of TLS 1.2', async () => {
  const { door, timers, log } = world
  const https = createHttpsServer({ door, timers, log, tls12: true }, ({ socket }, response) =>
    response.end((socket as TLSSocket).getProtocol()),
  )
  world.onClose(() => https.closeAllConnections())
  const at = { host: '127.0.0.1', port: await world.listen(https.on('tlsClientError', () => undefined)) }
  const car = world.car(1)
  await untilIn(car)
  const clock = () => world.now
  const agent = httpsAgent(car, { servername: NAME, keepAlive: true, clock, timers })
  const asked = (options: { tls12?: boolean }) =>
    new Promise<[string, boolean]>((resolve, reject) => {
      const request = get({ ...at, agent, ...options }, async response => {
        let text = ''
        for await (const chunk of response) text += chunk
        resolve([text, request.reusedSocket])
      }).on('error', reject)
    })
  const free = () => Object.values(agent.freeSockets).flat().length
  expect(await asked({ tls12: true })).toEqual(['TLSv1.2', false])
  await expect.poll(free).toBe(1)
  expect(await asked({ tls12: true })).toEqual(['TLSv1.2', true])
  await expect.poll(free).toBe(1)
  expect(await asked({})).toEqual(['TLSv1.3', false])
  await expect.poll(free).toBe(2)
  expect(await asked({})).toEqual(['TLSv1.3', true])
  agent.destroy()
})

test('what was made ready waits for two minutes', async () => {
  const car = world.car(1)
  await outcome(old(car))
  await expect.poll(() => world.computed).toBe(1)
  world.turn(125_000)
  expect(await outcome(old(car))).toMatch(WRONG_KEY)
  await untilIn(car)
})

test('not where the server hasn’t chosen it; and TLS 1.3 is what the others get where it has', async () => {
  const strict = await world.listen(serve({}))
  expect(await outcome(old(world.car(1), strict))).toMatch(/PROTOCOL_VERSION/)
  const socket = await secured(connect({ host: '127.0.0.1', port, servername: NAME, identity: world.car(1) }))
  await new Promise(resolve => socket.once('data', resolve))
  expect(socket.getProtocol()).toBe('TLSv1.3')
  socket.destroy()
})

describe('fails as with a wrong key, at the first try and later', () => {
  const as = (identity: string, psk: Uint8Array) => ({
    externalPsk: async () => ({ identity, psk, slot: SLOT, endsAt: 0 }),
  })
  const own = (leaf = 1, kind: SlotPskKind = 'm2') => world.car(leaf).externalPsk(NAME, kind)
  const cases: Record<string, () => Promise<Pick<Car, 'externalPsk'>>> = {
    'a key of another group': async () => world.car(1, Scalar.fromNumber(7)),
    'the right identity with another PSK': async () => as((await own()).identity, new Uint8Array(32)),
    'a name that is no identity': async () => as('Client_identity', (await own()).psk),
    'a banned car': async () => {
      world.banned.add(world.car(3).mpinId)
      return world.car(3)
    },
    'a car without a permit': async () => {
      world.permitted = async () => null
      return world.car(1)
    },
    'a car of the former slot, after grace': async () => {
      const { identity, psk } = await world.car(1).externalPsk(NAME, 'm2', SLOT - 1)
      return as(identity, psk)
    },
    'an identity of TLS 1.3 with its PSK': async () => {
      const { identity, psk } = await own(1, 'm1')
      return as(identity, psk)
    },
    'an identity of TLS 1.2 with the PSK of TLS 1.3': async () => {
      const car = world.car(1)
      const { identity } = await car.externalPsk(NAME, 'm2')
      return as(identity, (await car.externalPsk(NAME, 'm1')).psk)
    },
    'everybody, while the ban events are lost': async () => {
      world.fresh = false
      return world.car(1)
    },
  }
  test.each(Object.keys(cases))('%s', async name => {
    const who = await (cases[name] as () => Promise<Pick<Car, 'externalPsk'>>)()
    for (let attempt = 0; attempt < 3; attempt++) {
      expect(await outcome(old(who))).toMatch(WRONG_KEY)
      await new Promise(resolve => setImmediate(resolve))
    }
    expect(inside).toEqual([])
  })
})

test('a PSK that TLS 1.3 was prepared by is none of TLS 1.2’s', async () => {
  const { identity, psk } = await world.car(1).externalPsk(NAME, 'm1')
  const pskCallback = () => ({ identity, psk })
  const hello = await helloOf({ minVersion: 'TLSv1.3', ciphers: 'TLS_AES_128_GCM_SHA256', pskCallback })
  const waiting = connectTcp(port, '127.0.0.1')
  waiting.on('error', () => undefined)
  waiting.write(hello)
  // The server's answer: its side of that handshake is prepared and waits for the rest.
  await new Promise(resolve => waiting.once('data', resolve))
  expect(await outcome(raw({ pskCallback }))).toMatch(WRONG_KEY)
  waiting.destroy()
})

test('banned inside, and out at the next look', async () => {
  const car = world.car(1)
  await untilIn(car)
  const socket = await old(car)
  await new Promise(resolve => socket.once('data', resolve))
  world.banned.add(car.mpinId)
  world.door.look()
  await closed(socket)
  expect(await outcome(old(car))).toMatch(WRONG_KEY)
})

describe('one suite', () => {
  const others = [
    'PSK-AES128-GCM-SHA256',
    'PSK-CHACHA20-POLY1305',
    'DHE-PSK-AES128-GCM-SHA256',
    'RSA-PSK-AES128-GCM-SHA256',
    'ECDHE-PSK-AES128-CBC-SHA256',
    'ECDHE-RSA-AES128-GCM-SHA256',
  ]
  test.each(others)('not %s', async ciphers => {
    const { identity, psk } = await world.car(1).externalPsk(NAME, 'm2')
    const offered = raw({ ciphers: `${ciphers}:@SECLEVEL=0`, pskCallback: () => ({ identity, psk }) })
    expect(await outcome(offered)).toMatch(/HANDSHAKE_FAILURE/)
    expect(world.computed).toBe(0)
  })

  test('nor does a device take a certificate instead, or a PSK without a Diffie–Hellman exchange', async () => {
    const car = world.car(1)
    const { psk } = await car.externalPsk(NAME, 'm2')
    const impostor = async (options: TlsOptions) => {
      const server = rawServer({ minVersion: 'TLSv1.2', maxVersion: 'TLSv1.2', ...options }, socket =>
        socket.write('welcome'),
      )
      return world.listen(server.on('tlsClientError', () => undefined))
    }
    expect(await outcome(old(car, await impostor({ cert, key })))).not.toBe('in')
    const plain = await impostor({ ciphers: 'PSK-AES128-GCM-SHA256', pskCallback: () => Buffer.from(psk) })
    expect(await outcome(old(car, plain))).not.toBe('in')
  })
})

describe('without the extended master secret', () => {
  test('a ClientHello is not answered; with it, it is', async () => {
    const { identity, psk } = await world.car(1).externalPsk(NAME, 'm2')
    const hello = await helloOf({ ...TLS12, pskCallback: () => ({ identity, psk }) })
    expect(clientHelloOf(hello)).toEqual({
      identities: [],
      offersTls13: false,
      hasExtendedMasterSecret: true,
    })
    const answered = (bytes: Uint8Array) =>
      new Promise<boolean>(resolve => {
        const socket = connectTcp(port, '127.0.0.1', () => socket.write(bytes))
        socket.once('data', () => resolve(true))
        socket.once('close', () => resolve(false))
        socket.on('error', () => undefined)
        world.onClose(() => socket.destroy())
      })
    expect(await answered(hello)).toBe(true)
    const without = Buffer.from(hello)
    // Type 23, no content, becomes a type that nobody knows.
    without[without.indexOf('00170000', 0, 'hex')] = 0xee
    expect(clientHelloOf(without)).toMatchObject({ hasExtendedMasterSecret: false })
    expect(await answered(without)).toBe(false)
  })
})

describe('resuming', () => {
  /** A server as one would write it, with what it knows of sessions. */
  const naive = async (
    banned: Set<string>,
    known: Awaited<ReturnType<Car['externalPsk']>>,
    by: 'ticket' | 'id',
  ) => {
    const sessions = new Map<string, Buffer>()
    const server = rawServer(
      {
        ...TLS12,
        ...(by === 'id' ? { secureOptions: constants.SSL_OP_NO_TICKET } : {}),
        pskCallback: (_, name) =>
          banned.has(name) || name !== known.identity ? null : Buffer.from(known.psk),
      },
      socket => socket.on('error', () => undefined).write('welcome'),
    )
    if (by === 'id') {
      server.on('newSession', (id: Buffer, session: Buffer, done: () => void) => {
        sessions.set(id.toString('hex'), session)
        done()
      })
      server.on('resumeSession', (id: Buffer, done: (error: null, session: Buffer | null) => void) =>
        done(null, sessions.get(id.toString('hex')) ?? null),
      )
    }
    return world.listen(server.on('tlsClientError', () => undefined))
  }

  test.each(['ticket', 'id'] as const)('by %s, without the guard: a banned car walks in', async by => {
    const psk = await world.car(1).externalPsk(NAME, 'm2')
    const banned = new Set<string>()
    const at = await naive(banned, psk, by)
    const first = await raw({ pskCallback: () => psk }, at)
    const session = first.getSession()
    first.destroy()
    banned.add(psk.identity)
    expect(await outcome(raw({ pskCallback: () => psk }, at))).not.toBe('in')
    expect(await outcome(raw({ session, pskCallback: () => psk }, at))).toBe('in')
  })

  test('with it there is nothing to come in by: no ticket, and a number that nobody keeps', async () => {
    const sessions: unknown[] = []
    server.on('newSession', (id: Buffer) => void sessions.push(id))
    server.on('resumeSession', (id: Buffer) => void sessions.push(id))
    const car = world.car(1)
    await untilIn(car)
    const psk = await car.externalPsk(NAME, 'm2')
    const first = await raw({ pskCallback: () => psk })
    const session = first.getSession() as Buffer
    expect(first.getTLSTicket()).toBeUndefined()
    first.destroy()
    const again = await raw({ session, pskCallback: () => psk })
    expect(again.isSessionReused()).toBe(false)
    again.destroy()
    world.banned.add(car.mpinId)
    expect(await outcome(raw({ session, pskCallback: () => psk }))).toMatch(WRONG_KEY)
    // Without the PSK the number alone is nothing.
    expect(await outcome(raw({ session }))).not.toBe('in')
    expect(sessions).toEqual([])
  })
})

describe('negotiating anew', () => {
  const renegotiated = (socket: TLSSocket) =>
    new Promise<boolean>(resolve => {
      socket.on('error', () => resolve(false))
      socket.once('close', () => resolve(false))
      socket.renegotiate({}, error => resolve(error === null))
    })

  test('works at a server as one would write it, and not here', async () => {
    const car = world.car(1)
    const psk = await car.externalPsk(NAME, 'm2')
    const plain = rawServer({ ...TLS12, pskCallback: () => Buffer.from(psk.psk) }, socket =>
      socket.on('error', () => undefined),
    )
    const there = await raw({ pskCallback: () => psk }, await world.listen(plain))
    expect(await renegotiated(there)).toBe(true)
    there.destroy()
    await untilIn(car)
    const here = await raw({ pskCallback: () => psk })
    expect(await renegotiated(here)).toBe(false)
    here.destroy()
  })
})

test('who names another for TLS 1.3 and then goes on by TLS 1.2 keeps nobody out', async () => {
  const car = world.car(1)
  const { identity } = await car.externalPsk(NAME)
  const hello = await helloOf({
    minVersion: 'TLSv1.2',
    ciphers: `TLS_AES_128_GCM_SHA256:${SUITE}`,
    pskCallback: () => ({ identity, psk: new Uint8Array(32) }),
  })
  // supported_versions becomes an extension that nobody knows.
  const versions = hello.indexOf('002b00050403040303', 'hex')
  expect(versions).toBeGreaterThan(0)
  hello.writeUInt16BE(0x7a7a, versions)
  const stranger = connectTcp(port, '127.0.0.1').on('error', () => undefined)
  stranger.write(hello)
  const [answer] = await once(stranger, 'data')
  // A ServerHello, and a handshake that waits for more.
  expect([answer[0], answer[5]]).toEqual([22, 2])
  expect(await outcome(secured(connect({ host: '127.0.0.1', port, servername: NAME, identity: car })))).toBe(
    'in',
  )
  expect(stranger.destroyed).toBe(false)
  stranger.destroy()
})

/** What this Node's OpenSSL sends first. */
function helloOf(options: ConnectionOptions): Promise<Buffer> {
  return new Promise(resolve => {
    const server = createTcp((socket: Socket) => {
      socket.on('error', () => undefined)
      socket.once('data', bytes => {
        socket.destroy()
        server.close(() => resolve(bytes))
      })
    })
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address() as { port: number }
      rawConnect({ host: '127.0.0.1', port, ...NO_CERTIFICATE, ...options }).on('error', () => undefined)
    })
  })
}
