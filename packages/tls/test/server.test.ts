/** Cars at a server without certificates: who comes in, who doesn't, and who has to leave. */

import { once } from 'node:events'
import { type IncomingMessage, ServerResponse } from 'node:http'
import { get, request as httpsRequest, type RequestOptions } from 'node:https'
import { connect as rawConnect, Socket } from 'node:net'
import { Duplex, PassThrough } from 'node:stream'
import { createServer as rawServer } from 'node:tls'
import { inspect } from 'node:util'
import type { SlotPsk } from '@milagro-ts/client/device'
import { utf8 } from '@milagro-ts/crypto/bytes'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { sha256 } from '@milagro-ts/crypto/sha256'
import type { TlsPeer } from '@milagro-ts/tls/door'
import { createSecureServer } from '@milagro-ts/tls/http2'
import {
  createServer as createHttpsServer,
  Server as HttpsServer,
  type HttpsServerOptions,
  httpsAgent,
  IdentityRequest,
  type RequestOptions as IdentityRequestOptions,
  request,
} from '@milagro-ts/tls/https'
import { FIXED } from '@milagro-ts/tls/options'
import { type IdentitySocket, type IdentityTlsServer, peerOf } from '@milagro-ts/tls/server'
import { connect, createServer, secured, TLSSocket, type TlsIdentity } from '@milagro-ts/tls/tls'
import { afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { cert, key } from './someones-certificate.js'
import { closed, GRACE, NAME, outcome, RULE, SLOT, World, wrongKeyAlert } from './world.js'

let world: World
let wrongKey: string
let server: IdentityTlsServer
let port: number
let inside: { socket: IdentitySocket; peer: TlsPeer }[]
beforeAll(async () => {
  wrongKey = await wrongKeyAlert()
})
beforeEach(async () => {
  world = await World.start()
  inside = []
  const { door, timers, log } = world
  server = createServer({ door, timers, log }, (socket, peer) => {
    inside.push({ socket, peer })
    socket.on('error', () => undefined)
    socket.write('welcome')
  })
  server.on('tlsClientError', () => undefined)
  port = await world.listen(server)
})
afterEach(() => world.close())

const open = (identity: TlsIdentity, servername = NAME) =>
  secured(
    connect({ host: '127.0.0.1', port, servername, identity, clock: () => world.now, timers: world.timers }),
  )

test('a car that the server has never heard of is in at its first try, and both know who the other is', async () => {
  const car = world.car(1)
  const socket = await open(car)
  await new Promise(resolve => socket.once('data', resolve))
  expect(socket.getProtocol()).toBe('TLSv1.3')
  expect(['TLS_AES_128_GCM_SHA256', 'TLS_CHACHA20_POLY1305_SHA256']).toContain(socket.getCipher().name)
  expect(socket.getPeerCertificate()).toEqual({})
  const [one] = inside
  expect(one?.peer.mpinId).toBe(car.mpinId)
  expect(one?.peer.slot).toBe(SLOT)
  expect(peerOf(one?.socket as Socket)).toBe(one?.peer)
  expect(one?.socket.peer).toBe(one?.peer)
  // Nobody is another one later.
  expect(() => Object.assign(one?.socket as Socket, { peer: {} })).toThrow(TypeError)
  expect(() => peerOf(socket)).toThrow(TypeError)
  socket.destroy()
})
test('of several PSK identities in a ClientHello the first counts', async () => {
  const { door, timers, log } = world
  const asked: string[] = []
  const noting = Object.assign(Object.create(door), {
    psk: async (text: string) => {
      asked.push(text)
      return new Uint8Array(32)
    },
    pskKept: () => undefined,
    decoy: () => new Uint8Array(32),
  })
  const noted = createServer({ door: noting, timers, log })
  noted.on('tlsClientError', () => undefined)
  const socket = rawConnect({ host: '127.0.0.1', port: await world.listen(noted) })
  socket.on('error', () => undefined)
  socket.write(helloOffering('first', 'second'))
  await closed(socket.resume())
  expect(asked).toEqual(['first'])
})
/** RFC 8446 §4.1.2, with supported_versions and pre_shared_key alone. */
function helloOffering(...identities: string[]): Buffer {
  const u16 = (value: number) => Buffer.of(value >> 8, value & 255)
  const counted = (...parts: Uint8Array[]) => {
    const bytes = Buffer.concat(parts)
    return Buffer.concat([u16(bytes.length), bytes])
  }
  const offered = identities.flatMap(text => [counted(utf8(text)), Buffer.alloc(4)])
  const binders = identities.map(() => Buffer.concat([Buffer.of(32), Buffer.alloc(32)]))
  const extensions = counted(
    u16(43),
    counted(Buffer.of(2, 3, 4)),
    u16(45),
    counted(Buffer.of(1, 1)),
    u16(41),
    counted(counted(...offered), counted(...binders)),
  )
  const start = [u16(0x0303), Buffer.alloc(32), Buffer.of(0), counted(u16(0x1301)), Buffer.of(1, 0)]
  const body = Buffer.concat([...start, extensions])
  const message = Buffer.concat([Buffer.of(1, 0), u16(body.length), body])
  return Buffer.concat([Buffer.of(22, 3, 1), u16(message.length), message])
}
test('each connection by one identity is told to the door with its own source', async () => {
  const { door, timers, log } = world
  const told: string[] = []
  const noting = {
    psk: door.psk.bind(door),
    pskKept: door.pskKept.bind(door),
    pskAtOnce: door.pskAtOnce.bind(door),
    decoy: door.decoy.bind(door),
    enter: door.enter.bind(door),
    leave: door.leave.bind(door),
    authenticated: (text: string, psk: Uint8Array, source: string) => {
      told.push(source)
      return door.authenticated(text, psk, source)
    },
  }
  let answer = () => {}
  world.permitted = () =>
    new Promise(resolve => {
      answer = () => resolve({ attributes: {}, instance: '' })
    })
  const noted = createServer({ door: noting, timers, log }, socket => socket.write('welcome'))
  const at = await world.listen(noted)
  const comes = (identity: TlsIdentity, localAddress: string) => {
    const socket = rawConnect({ host: '127.0.0.1', port: at, localAddress })
    return outcome(secured(connect({ socket, servername: NAME, identity, timers })))
  }
  const alone = comes(world.car(1), '127.0.0.2')
  await expect.poll(() => world.asked.length).toBe(1)
  answer()
  expect(await alone).toBe('in')
  expect(told).toEqual(['127.0.0.2'])
  const car = world.car(2)
  const both = [comes(car, '127.0.0.1'), comes(car, '127.0.0.2')]
  await expect.poll(() => [world.computed, world.asked.length]).toEqual([3, 2])
  answer()
  expect(await Promise.all(both)).toEqual(['in', 'in'])
  expect(told.slice(1).sort()).toEqual(['127.0.0.1', '127.0.0.2'])
})
test('a socket of the caller’s own that goes before the handshake is over is an error, not a wait without end', async () => {
  const own = new Duplex({ read() {}, write: (_chunk, _encoding, done) => done() })
  const connecting = secured(
    connect({ socket: own, servername: NAME, identity: world.car(1), timers: world.timers }),
  )
  await new Promise(setImmediate)
  own.destroy()
  await expect(connecting).rejects.toThrow('closed before the end of the handshake')
})

describe('a socket that is printed shows no PSK', () => {
  const shown = (socket: Socket) =>
    inspect(socket, { depth: null, showHidden: true, maxArrayLength: null }).replaceAll(/\s+/g, '')
  const spellings = ({ psk }: SlotPsk) => [Array.from(psk).join(','), Buffer.from(psk).toString('hex')]

  test('of who is in, at either end', async () => {
    const car = world.car(1)
    const socket = await open(car)
    await new Promise(resolve => socket.once('data', resolve))
    const psk = await car.externalPsk(NAME)
    for (const spelling of spellings(psk)) {
      expect(shown(inside[0]?.socket as Socket)).not.toContain(spelling)
      expect(shown(socket)).not.toContain(spelling)
    }
    socket.destroy()
  })

  test('of whom a stranger names', async () => {
    const car = world.car(1)
    ;(await open(car)).destroy()
    const psk = await car.externalPsk(NAME)
    const told = new Promise<Socket>(resolve => server.once('tlsClientError', (_, socket) => resolve(socket)))
    const named = { ...psk, psk: new Uint8Array(32) }
    await expect(open({ externalPsk: async () => named })).rejects.toThrow()
    const text = shown(await told)
    for (const spelling of spellings(psk)) expect(text).not.toContain(spelling)
  })

  test('and one that holds it would', async () => {
    const psk = await world.car(1).externalPsk(NAME)
    const [decimal = '', hex = ''] = spellings(psk)
    const holder = (own: unknown) => shown(Object.assign(new Socket(), { own }))
    expect(holder(Uint8Array.from(psk.psk))).toContain(decimal)
    expect(holder(Buffer.from(psk.psk))).toContain(hex)
  })
})

test('bytes go both ways, more than a record of them', async () => {
  const socket = await open(world.car(1))
  await new Promise(resolve => socket.once('data', resolve))
  const sent = Buffer.alloc(100_000, 'x')
  const back = new Promise<number>(resolve => {
    let length = 0
    socket.on('data', (chunk: Buffer) => {
      length += chunk.length
      if (length >= sent.length) resolve(length)
    })
  })
  inside[0]?.socket.pipe(inside[0].socket)
  socket.write(sent)
  expect(await back).toBe(sent.length)
  socket.destroy()
})

test('a ClientHello that comes byte by byte, or in many records, is put together', async () => {
  const { connect: raw, createServer: listenRaw } = await import('node:net')
  const slow = listenRaw(from => {
    const to = raw(port, '127.0.0.1')
    from.on('error', () => undefined)
    to.on('error', () => undefined)
    to.pipe(from)
    // The client's first flight in pieces of 7 bytes; each piece waits until the last one was taken.
    from.on('data', (chunk: Buffer) => {
      for (let at = 0; at < chunk.length; at += 7) to.write(chunk.subarray(at, at + 7))
    })
  })
  const through = await world.listen(slow)
  const options = { host: '127.0.0.1', port: through, servername: NAME, identity: world.car(1) }
  expect(await outcome(connect(options))).toBe('in')
})

describe('fails as with a wrong key', () => {
  const at = async (identity: string, psk: Uint8Array) => {
    const endsAt = 0
    return outcome(open({ externalPsk: async () => ({ identity, psk, slot: SLOT, endsAt }) }))
  }
  const own = (leaf = 1) => world.car(leaf).externalPsk(NAME)
  const cases: Record<string, () => Promise<string>> = {
    'a key of another group': async () => outcome(open(world.car(1, Scalar.fromNumber(7)))),
    'the right identity with another PSK': async () => at((await own()).identity, new Uint8Array(32)),
    'another device’s identity': async () => at((await own(2)).identity, (await own(1)).psk),
    'a name that is no identity': async () => at('Client_identity', (await own()).psk),
    'an identity with an R that is no point': async () => {
      const { identity, psk } = await own()
      return at(`${identity.slice(0, 60)}${'A'.repeat(60)}${identity.slice(120)}`, psk)
    },
    'a banned car': async () => {
      world.banned.add(world.car(3).mpinId)
      return outcome(open(world.car(3)))
    },
    'a car without a permit': async () => {
      world.permitted = async () => null
      return outcome(open(world.car(1)))
    },
    'a car, while nobody says who is permitted': async () => {
      world.permitted = () => Promise.reject(new TypeError('fetch failed'))
      return outcome(open(world.car(1)))
    },
    'a car of the former slot, after grace': async () => {
      const late = await world.car(1).externalPsk(NAME, 'm1', SLOT - 1)
      return at(late.identity, late.psk)
    },
    'a car of the next slot, whose clock is ahead': async () => {
      await world.holdKeys(SLOT, SLOT + 1)
      const early = await world.car(1).externalPsk(NAME, 'm1', SLOT + 1)
      return at(early.identity, early.psk)
    },
    'a car that means another server': async () => outcome(open(world.car(1), 'other.example')),
    'everybody, while the ban events are lost': async () => {
      world.fresh = false
      return outcome(open(world.car(1)))
    },
    'an identity for TLS 1.2': async () => {
      const { identity, psk } = await own()
      return at(identity.replace('m1.', 'm2.'), psk)
    },
    'a static identity': async () => at(`s1.${world.car(1).mpinId}`, (await own()).psk),
  }
  test.each(Object.keys(cases))('%s', async name => {
    expect(await (cases[name] as () => Promise<string>)()).toBe(wrongKey)
    expect(inside).toEqual([])
    // Whatever the reason, one pairing: what it took says nothing either.
    expect(world.computed).toBe(1)
  })
})

test('a PSK is kept for who has come in: the second handshake computes nothing, and a ban counts all the same', async () => {
  const car = world.car(1)
  expect(await outcome(open(car))).toBe('in')
  expect(await outcome(open(car))).toBe('in')
  expect(world.computed).toBe(1)
  world.banned.add(car.mpinId)
  expect(await outcome(open(car))).toBe(wrongKey)
  world.banned.clear()
  expect(await outcome(open(car))).toBe('in')
})

describe('whether a device is permitted', () => {
  const other = () => world.car(1, Scalar.fromNumber(7))

  test('is asked once for all its connections, and its handlers find who it is', async () => {
    world.permitted = async () => ({ attributes: { brand: 'Acme', model: 'Gale' }, instance: 'VIN1' })
    const car = world.car(1)
    expect(await Promise.all([open(car), open(car), open(car)].map(outcome))).toEqual(['in', 'in', 'in'])
    expect(await outcome(open(car))).toBe('in')
    expect(world.asked).toEqual([car.mpinId])
    for (const { socket, peer } of inside) {
      expect(peer).toMatchObject({ attributes: { brand: 'Acme', model: 'Gale' }, instance: 'VIN1' })
      expect(peerOf(socket)).toBe(peer)
    }
  })

  test('is asked in each slot', async () => {
    const car = world.car(1)
    expect(await outcome(open(car))).toBe('in')
    world.turn(RULE.length * 1000)
    await world.holdKeys(SLOT + 1)
    world.permitted = async () => null
    expect(await outcome(open(car))).toBe(wrongKey)
    expect(world.asked).toEqual([car.mpinId, car.mpinId])
  })

  test('is asked about the banned, too: what that takes says nothing', async () => {
    world.banned.add(world.car(1).mpinId)
    await outcome(open(world.car(1)))
    expect(world.asked).toEqual([world.car(1).mpinId])
  })

  test('who names a device without its key has nobody asked', async () => {
    for (const answer of [{ attributes: {}, instance: '' }, null]) {
      world.permitted = async () => answer
      expect(await outcome(open(other()))).toBe(wrongKey)
    }
    expect(world.asked).toEqual([])
  })

  test('no, for five seconds', async () => {
    world.permitted = async () => null
    for (const pause of [0, 4_999, 1]) {
      world.turn(pause)
      expect(await outcome(open(world.car(1)))).toBe(wrongKey)
    }
    expect(world.asked).toHaveLength(2)
  })

  test('no, until there is a newer deny list: who is un-banned waits for nothing', async () => {
    world.permitted = async () => null
    expect(await outcome(open(world.car(1)))).toBe(wrongKey)
    world.permitted = async () => ({ attributes: {}, instance: '' })
    expect(await outcome(open(world.car(1)))).toBe(wrongKey)
    world.bans.list.number++
    expect(await outcome(open(world.car(1)))).toBe('in')
  })

  test('five hundred strangers of one address use up what it may ask; who has proven itself pays nothing', async () => {
    const { door } = world
    const named = async (leaf: number) => (await world.car(leaf).externalPsk(NAME)).identity
    const refused = async (leaf: number) => {
      try {
        await door.psk(await named(leaf), '192.0.2.1', () => false)
        return null
      } catch (error) {
        return error
      }
    }
    const car = world.car(1)
    for (let i = 0; i < 3; i++) {
      const { identity } = await car.externalPsk(NAME)
      const psk = await door.psk(identity, '192.0.2.1', () => true)
      expect(door.authenticated(identity, psk, '192.0.2.1')).not.toBeNull()
    }
    const { identity } = await car.externalPsk(NAME)
    // No pairings for them, which are computed for each all the same.
    world.computedAs = sha256(utf8(identity))
    for (let leaf = 2; leaf < 502; leaf++) expect(await refused(leaf)).toBeNull()
    expect(await refused(502)).toMatchObject({ code: 'RETRY_LATER' })
    expect(world.asked).toHaveLength(1)
    expect(await door.psk(await named(503), '192.0.2.2', () => false)).toHaveLength(32)
    expect(door.pskKept(identity)).toBeDefined()
  })
})

test('a stranger’s identities are never kept', async () => {
  const stranger = world.car(1, Scalar.fromNumber(7))
  await outcome(open(stranger))
  await outcome(open(stranger))
  expect(world.computed).toBe(2)
})

test('banned between the ClientHello and the end of the handshake: nobody runs', async () => {
  const car = world.car(1)
  const { psk } = world.door
  world.door.psk = async (...asked) => {
    const computed = await psk.apply(world.door, asked)
    world.banned.add(car.mpinId)
    return computed
  }
  expect(await outcome(open(car))).toBe('closed')
  expect(inside).toEqual([])
})

describe('who is inside', () => {
  const enter = async (leaf: number) => {
    const socket = await open(world.car(leaf))
    await new Promise(resolve => socket.once('data', resolve))
    return socket
  }

  test('and banned is out at the next look, the others stay', async () => {
    const [bad, good] = [await enter(1), await enter(2)]
    world.banned.add(world.car(1).mpinId)
    world.door.look()
    await closed(bad)
    expect(good.destroyed).toBe(false)
    good.destroy()
  })

  test('is told a minute before the slot ends, stays through grace, and is out after it', async () => {
    const socket = await enter(1)
    const told: string[] = []
    socket.on('permit-ending', endsAt => told.push(`client ${endsAt}`))
    inside[0]?.socket.on('permit-ending', endsAt => told.push(`server ${endsAt}`))
    const end = (RULE.origin + (SLOT + 1) * RULE.length) * 1000
    world.turn(end - 60_001 - world.now)
    expect(told).toEqual([])
    world.turn(1)
    expect(told.sort()).toEqual([`client ${end}`, `server ${end}`])
    const atServer = inside[0]?.socket
    world.turn(60_000 + GRACE * 1000 - 1)
    expect(atServer?.destroyed).toBe(false)
    world.turn(1)
    expect(atServer?.destroyed).toBe(true)
    await closed(socket)
    expect(told).toHaveLength(2)
  })

  test('is told as well who comes in the slot’s last minute, once there is a socket to listen at', async () => {
    const end = (RULE.origin + (SLOT + 1) * RULE.length) * 1000
    world.turn(end - 30_000 - world.now)
    const socket = await open(world.car(1))
    const told = new Promise(resolve => socket.once('permit-ending', resolve))
    world.turn(0)
    expect(await told).toBe(end)
    socket.destroy()
  })

  test('is out once the ban events are lost', async () => {
    const socket = await enter(1)
    world.fresh = false
    world.turn(1_000)
    await closed(socket)
  })
})

test('within grace the former slot’s identity is taken, after it no more; the next slot has its own key', async () => {
  const car = world.car(1)
  const former = await car.externalPsk(NAME)
  const asFormer = { externalPsk: async () => former }
  world.turn(1_800_000)
  await world.holdKeys(SLOT, SLOT + 1)
  expect(await outcome(open(asFormer))).toBe('in')
  expect(await outcome(open(car))).toBe('in')
  world.turn(GRACE * 1000)
  expect(await outcome(open(asFormer))).toBe(wrongKey)
  expect(await outcome(open(car))).toBe('in')
})

describe('bytes that are no ClientHello', () => {
  test.each([
    ['HTTP', Buffer.from('GET / HTTP/1.1\r\n\r\n')],
    ['an alert first', Buffer.from('15030100020100', 'hex')],
    ['another handshake message', Buffer.from('16030100050200000100', 'hex')],
    ['a record of no length', Buffer.from('1603010000', 'hex')],
    ['a record that is too long', Buffer.from('160301ffff', 'hex')],
    ['a message that is too long', Buffer.from('160301000401ffffff', 'hex')],
    ['a list that is cut off', Buffer.from('160301002601000022', 'hex')],
  ])('%s: closed, and nothing computed', async (_, bytes) => {
    const { connect: raw } = await import('node:net')
    const socket = raw(port, '127.0.0.1')
    // The last case says that more is to come, and then ends.
    socket.on('connect', () => socket.end(bytes))
    await closed(socket)
    expect(world.computed).toBe(0)
  })

  test('who says nothing is closed after ten seconds', async () => {
    const { connect: raw } = await import('node:net')
    const socket = raw(port, '127.0.0.1')
    const accepted = new Promise(resolve => server.once('connection', resolve))
    await accepted
    world.turn(9_999)
    expect(socket.destroyed).toBe(false)
    world.turn(1)
    await closed(socket)
  })
})

describe('HTTPS', () => {
  const listen = async () => {
    const { door, timers, log } = world
    const https = createHttpsServer({ door, timers, log }, (req, response) => {
      const { peer } = req
      const same = peerOf(req) === peer && peerOf(req.socket) === peer
      response.end(JSON.stringify({ url: req.url, mpinId: peer.mpinId, same }))
    })
    https.on('tlsClientError', () => undefined)
    world.onClose(() => https.closeAllConnections())
    return world.listen(https)
  }
  const fetched = (options: RequestOptions) =>
    new Promise<string>((resolve, reject) => {
      get(options, response => {
        let text = ''
        response.on('data', (chunk: Buffer) => {
          text += chunk.toString()
        })
        response.on('end', () => resolve(text))
      }).on('error', reject)
    })

  test('a handler is told whose request it is; one agent for each car, over one kept connection', async () => {
    const at = { host: '127.0.0.1', port: await listen() }
    const cars = [world.car(1), world.car(2)]
    const agents = cars.map(car => httpsAgent(car, { servername: NAME, keepAlive: true, maxSockets: 1 }))
    for (const [i, car] of cars.entries())
      for (const path of ['/a', '/b']) {
        const answer = await fetched({ ...at, path, agent: agents[i] })
        expect(JSON.parse(answer)).toEqual({ url: path, mpinId: car.mpinId, same: true })
      }
    // Two handshakes for four requests.
    expect(world.computed).toBe(2)
    for (const agent of agents) agent.destroy()
  })

  test.each(['idle', 'busy'])(
    'a kept connection whose slot is about to end is used for no other request: one that is %s then',
    async what => {
      const { door, timers, log } = world
      const came: Socket[] = []
      let answer = () => {}
      const https = createHttpsServer({ door, timers, log }, ({ url, socket }, response) => {
        came.push(socket)
        answer = () => response.end(url)
        if (url !== '/busy') answer()
      })
      world.onClose(() => https.closeAllConnections())
      const at = { host: '127.0.0.1', port: await world.listen(https), servername: NAME }
      const own = { clock: () => world.now, timers, keepAlive: true, maxSockets: 1 }
      const agent = httpsAgent(world.car(1), own)
      const ask = (path: string) => fetched({ ...at, path, agent })
      expect(await ask('/a')).toBe('/a')
      const second = ask(`/${what}`)
      await expect.poll(() => came.length).toBe(2)
      expect(came[1]).toBe(came[0])
      if (what === 'idle') await second
      world.turn((RULE.origin + (SLOT + 1) * RULE.length) * 1000 - 60_000 - world.now)
      answer()
      expect(await second).toBe(`/${what}`)
      expect(await ask('/c')).toBe('/c')
      expect(came[2]).not.toBe(came[0])
      agent.destroy()
    },
  )

  test('a handler runs for nobody else: not for a stream that is handed to the server as if it had come by TLS', async () => {
    const { door, timers, log } = world
    const seen: unknown[] = []
    const https = createHttpsServer({ door, timers, log }, req => void seen.push(req.peer))
    https.on('connection', () => seen.push('connection'))
    for (const event of ['connection', 'secureConnection', 'secure']) {
      const stranger = new PassThrough()
      stranger.on('error', () => undefined)
      https.emit(event, stranger)
      stranger.write('GET / HTTP/1.1\r\nhost: gw.example\r\n\r\n')
      await new Promise(setImmediate)
    }
    // What is not a ClientHello is closed; the others meet nobody.
    expect(seen).toEqual(['connection'])
    expect(() => {
      https.emit('request', new IdentityRequest(new Socket()), {} as never)
    }).toThrow('not a connection of a TLS server')
    expect(seen).toEqual(['connection'])
    // To the compiler a socket from elsewhere is none that a listener takes.
    const isTaken: Socket extends IdentitySocket ? true : false = false
    expect(isTaken).toBe(false)
  })

  test('clientError is told of proven devices, and tlsClientError of handshakes that fail, which are closed', async () => {
    const { door, timers, log } = world
    const https = createHttpsServer({ door, timers, log })
    const told: unknown[] = []
    https.on('clientError', (_, socket) => {
      told.push(peerOf(socket).mpinId)
      socket.destroy()
    })
    https.on('tlsClientError', (_, socket) => void told.push(socket.destroyed))
    const to = { host: '127.0.0.1', port: await world.listen(https), servername: NAME }
    expect(await outcome(connect({ ...to, identity: world.car(2, Scalar.fromNumber(7)) }))).toBe(wrongKey)
    await expect.poll(() => told).toEqual([true])
    const socket = await secured(connect({ ...to, identity: world.car(1) }))
    socket.on('error', () => undefined).write('NONSENSE\r\n\r\n')
    await closed(socket)
    expect(told).toEqual([true, world.car(1).mpinId])
  })

  test('a server is one of its class; of its own class nobody makes a TLSSocket, which would ask for certificates', async () => {
    const { door, timers, log } = world
    for (const server of [createHttpsServer({ door, timers, log }), new HttpsServer({ door, timers, log })])
      expect(server).toBeInstanceOf(HttpsServer)
    expect(await open(world.car(1))).toBeInstanceOf(TLSSocket)
    expect(() => new TLSSocket(new Socket())).toThrow(TypeError)
  })

  test('what node’s servers are given certificates and tickets by is refused', () => {
    const { door, timers, log } = world
    for (const made of [
      createServer({ door, timers, log }),
      createHttpsServer({ door, timers, log }),
      createSecureServer({ door, timers, log }),
    ] as unknown as Record<string, () => void>[])
      for (const name of ['addContext', 'setSecureContext', 'getTicketKeys', 'setTicketKeys'])
        expect(() => made[name]?.()).toThrow(`${name} is no method of TLS without certificates`)
  })

  test('the name of the server is the agent’s or the URL’s, never the Host header’s', async () => {
    const agent = httpsAgent(world.car(1))
    const asked: string[] = []
    const spy = httpsAgent({
      externalPsk: async name => {
        asked.push(name)
        throw new Error('enough')
      },
    })
    const options = { host: '127.0.0.1', port: await listen(), headers: { host: NAME }, agent: spy }
    await expect(fetched(options)).rejects.toThrow('enough')
    expect(asked).toEqual(['127.0.0.1'])
    agent.destroy()
  })

  test('what an agent can’t do is an error of the request, not of the process', async () => {
    const agent = httpsAgent({ externalPsk: () => Promise.reject(new Error('no key')) }, { servername: NAME })
    await expect(fetched({ host: '127.0.0.1', port: await listen(), agent })).rejects.toThrow('no key')
    const req = httpsRequest({ host: '127.0.0.1', port, agent: httpsAgent(world.car(1)), ca: 'mine' })
    await expect(new Promise((_, reject) => req.on('error', reject).end())).rejects.toThrow(TypeError)
  })
})

test('options that would undo a guard are refused, not passed over', async () => {
  const { door, timers, log } = world
  const identity = world.car(1)
  for (const name of FIXED) {
    expect(() => createServer({ door, timers, log, [name]: null })).toThrow(`${name} is no option`)
    expect(() => createHttpsServer({ door, timers, log, [name]: null })).toThrow(`${name} is no option`)
    expect(() => connect({ host: NAME, identity, [name]: null })).toThrow(`${name} is no option`)
    expect(() => httpsAgent(identity, { [name]: null })).toThrow(`${name} is no option`)
    expect(() => request({ host: NAME, identity, [name]: null })).toThrow(`${name} is no option`)
  }
  expect(() => connect({ port, identity })).toThrow(/servername/)
  expect(() => connect({ port, host: NAME } as never)).toThrow('identity: a Device')
  expect(() => createServer({ timers, log } as never)).toThrow('door: what openTlsService resolves to')
})

test('an option that is undefined is none, as to node, and weakens nothing', async () => {
  const { door, timers, log } = world
  const none = Object.fromEntries(FIXED.map(name => [name, undefined]))
  const https = createHttpsServer(
    { door, timers, log, IncomingMessage: undefined, ...none } as HttpsServerOptions,
    (req, response) => void response.end(req.peer.mpinId),
  )
  https.on('tlsClientError', () => undefined)
  world.onClose(() => https.closeAllConnections())
  const at = { host: '127.0.0.1', port: await world.listen(https), servername: NAME }
  const identity = world.car(1)
  const asked = request({ ...at, identity, createConnection: undefined, ...none } as IdentityRequestOptions)
  asked.end()
  const [response] = await once(asked, 'response')
  let text = ''
  for await (const chunk of response) text += chunk
  expect(text).toBe(identity.mpinId)
  // The checks of certificates that node would have switched off are on.
  process.env.NODE_TLS_REJECT_UNAUTHORIZED = '0'
  try {
    const impostor = rawServer({ cert, key }, socket => void socket.end('welcome'))
    const to = { ...at, port: await world.listen(impostor.on('tlsClientError', () => undefined)) }
    expect(await outcome(connect({ ...to, identity, ...none }))).not.toBe('in')
  } finally {
    delete process.env.NODE_TLS_REJECT_UNAUTHORIZED
  }
})

test('a class of one’s own for answers is used', async () => {
  const { door, timers, log } = world
  class Answer<R extends IncomingMessage> extends ServerResponse<R> {}
  const seen: boolean[] = []
  const https = createHttpsServer({ door, timers, log, ServerResponse: Answer }, (_, response) => {
    seen.push(response instanceof Answer)
    response.end()
  })
  world.onClose(() => https.closeAllConnections())
  const at = { host: '127.0.0.1', port: await world.listen(https), servername: NAME }
  await once(request({ ...at, identity: world.car(1) }).end(), 'response')
  expect(seen).toEqual([true])
})

test('what holds anyway may be said, and what would weaken it is refused with what to give instead', async () => {
  const { door, timers, log } = world
  const held = { rejectUnauthorized: true, minVersion: 'TLSv1.3', maxVersion: 'TLSv1.3' } as const
  const server = createServer({ door, timers, log, ...held, requestCert: true }, socket => {
    expect(socket.authorized).toBe(true)
    socket.end('welcome')
  })
  const at = { host: '127.0.0.1', port: await world.listen(server), servername: NAME, identity: world.car(1) }
  expect(await outcome(connect({ ...at, ...held }))).toBe('in')
  for (const [name, value, why] of [
    ['rejectUnauthorized', false, /is refused, always/],
    ['requestCert', false, /has proven who it is, always/],
    ['minVersion', 'TLSv1.2', /tls12: true/],
    ['cert', 'mine', /openTlsService/],
    ['key', 'mine', /`identity`/],
  ] as const) {
    expect(() => createServer({ door, timers, log, [name]: value })).toThrow(why)
    expect(() => connect({ ...at, [name]: value })).toThrow(why)
  }
  expect(() => connect({ ...at, minVersion: 'TLSv1.3', tls12: true })).toThrow(/minVersion/)
  expect(() => createServer({ door, timers, log, minVersion: 'TLSv1.3', tls12: true })).toThrow(/minVersion/)
})
