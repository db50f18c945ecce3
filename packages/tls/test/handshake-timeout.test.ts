/** A handshake that doesn't go on is closed, whoever began it and however far it has come. */
import { once } from 'node:events'
import {
  type AddressInfo,
  connect as connectTcp,
  createServer as createTcp,
  type Server,
  type Socket,
} from 'node:net'
import { type ConnectionOptions, connect as rawConnect } from 'node:tls'
import { createServer as createHttpsServer } from '@milagro-ts/tls/https'
import { connect, createServer, secured } from '@milagro-ts/tls/tls'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { service, startGateway } from './gateway-world.js'
import { closed, NAME, World } from './world.js'

/** Node's own timer is real: milliseconds. */
const LIMIT = 200

let world: World
beforeEach(async () => {
  world = await World.start()
})
afterEach(() => world.close())

/** What is sent first to a port where nobody answers. */
async function firstBytes(begin: (port: number) => void): Promise<Buffer> {
  const server = createTcp()
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  begin((server.address() as AddressInfo).port)
  const [socket] = await once(server, 'connection')
  socket.on('error', () => undefined)
  const [bytes] = await once(socket, 'data')
  socket.destroy()
  server.close()
  return bytes
}
/** Of somebody without a key. */
const strangersHello = (options: ConnectionOptions = {}) =>
  firstBytes(port => {
    rawConnect({ host: '127.0.0.1', port, minVersion: 'TLSv1.3', ...options }).on('error', () => undefined)
  })
/** As one who listens has it. */
const overheardHello = () =>
  firstBytes(port => {
    const socket = connect({ host: '127.0.0.1', port, servername: NAME, identity: world.car(1) })
    socket.on('error', () => undefined)
  })
/** The same in a record that says it is longer, and isn't here. */
function inLongerRecord(hello: Buffer): Buffer {
  const longer = Buffer.from(hello)
  longer.writeUInt16BE(16_384, 3)
  return longer
}
function said(port: number, bytes: Buffer) {
  const socket = connectTcp({ host: '127.0.0.1', port }, () => socket.write(bytes))
  socket.on('error', () => undefined).resume()
  world.onClose(() => socket.destroy())
  return socket
}

const SERVERS = {
  tls: (options: object) => createServer({ ...ports(), ...options }, () => undefined),
  https: (options: object) => createHttpsServer({ ...ports(), ...options }, () => undefined),
}
const ports = () => ({ door: world.door, timers: world.timers, log: world.log })
const dial = (port: number) =>
  secured(
    connect({
      host: '127.0.0.1',
      port,
      servername: NAME,
      identity: world.car(1),
      clock: () => world.now,
      timers: world.timers,
    }),
  )
const listen = (server: Server) => world.listen(server.on('tlsClientError', () => undefined))

describe.each(Object.keys(SERVERS) as (keyof typeof SERVERS)[])('%s', name => {
  test('a whole ClientHello in a record that isn’t whole', async () => {
    const server = SERVERS[name]({})
    const port = await listen(server)
    for (const hello of [await strangersHello(), await overheardHello()]) {
      const accepted = once(server, 'connection')
      const socket = said(port, inLongerRecord(hello))
      const [raw] = await accepted
      while (raw.bytesRead < hello.length) await new Promise(setImmediate)
      world.turn(9_999)
      expect(socket.destroyed).toBe(false)
      world.turn(1)
      await closed(socket)
    }
  })

  test('a known device’s ClientHello, said again by who has overheard it', async () => {
    const port = await listen(SERVERS[name]({ handshakeTimeout: LIMIT }))
    const hello = await overheardHello()
    const own = await dial(port)
    await closed(said(port, hello))
    own.destroy()
  })

  test('TLS 1.2, by somebody without a key', async () => {
    const port = await listen(SERVERS[name]({ handshakeTimeout: LIMIT, tls12: true }))
    const hello = await strangersHello({
      minVersion: 'TLSv1.2',
      maxVersion: 'TLSv1.2',
      ciphers: 'ECDHE-PSK-CHACHA20-POLY1305',
      pskCallback: () => ({ identity: 'nobody', psk: Buffer.alloc(32) }),
      checkServerIdentity: () => undefined,
    })
    await closed(said(port, hello))
  })
})

test('a socket that has closed before it is given to the server is waited for by nobody', async () => {
  const server = SERVERS.tls({})
  await listen(server)
  const listener = createTcp()
  const far = await world.listen(listener)
  const accepted = once(listener, 'connection')
  const near = connectTcp(far, '127.0.0.1')
  const [raw] = await accepted
  raw.destroy()
  await once(raw, 'close')
  server.emit('connection', raw)
  expect(raw.listenerCount('data')).toBe(0)
  near.destroy()
})

test('a gateway has the places again of those whose handshake doesn’t go on', async () => {
  const to = await service(world, socket => socket.end('served'))
  const { gateway, port } = await startGateway(world, { to, pass: 'none', handshakesPerSource: 3 })
  const hello = inLongerRecord(await strangersHello())
  const idle = [1, 2, 3].map(() => said(port, hello))
  await expect.poll(() => gateway.comingIn).toBe(3)
  world.turn(10_000)
  await Promise.all(idle.map(closed))
  await expect.poll(() => gateway.comingIn).toBe(0)
  ;(await dial(port)).destroy()
})

test.skipIf(process.platform !== 'linux')(
  'overheard ClientHellos of one address keep its own newcomer out of a gateway, and nobody else’s',
  async () => {
    const to = await service(world, socket => socket.end('served'))
    const limits = { handshakes: 3, handshakesPerSource: 3 }
    const { gateway, port, metrics } = await startGateway(world, { to, pass: 'none', ...limits })
    const hello = await overheardHello()
    // From here on its PSK is kept.
    ;(await dial(port)).destroy()
    await expect.poll(() => gateway.comingIn).toBe(0)
    const answered = async () => {
      const socket = connectTcp({ host: '127.0.0.1', port, localAddress: '127.0.1.1' })
      world.onClose(() => socket.destroy())
      socket.on('error', () => undefined).write(hello)
      await once(socket, 'data')
      return socket.resume()
    }
    const [oldest, ...others] = [await answered(), await answered(), await answered()]
    const own = connectTcp({ host: '127.0.0.1', port, localAddress: '127.0.1.1' })
    await closed(own.resume())
    ;(await dial(port)).destroy()
    await closed(oldest as Socket)
    expect(others.map(socket => socket.destroyed)).toEqual([false, false])
    const counted = await metrics()
    expect(counted).toContain('gateway_handshakes_turned_away_total 1')
    expect(counted).toContain('gateway_handshakes_displaced_total 1')
  },
)
