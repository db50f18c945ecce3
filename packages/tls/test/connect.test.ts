/** `connect` as node has it: a socket at once, and a connection when the PSK is there. */
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer as createTcp, connect as rawConnect, Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Duplex } from 'node:stream'
import { TLSSocket } from 'node:tls'
import type { SlotPsk } from '@milagro-ts/client/device'
import type { IdentityTlsServer } from '@milagro-ts/tls/server'
import { connect, createServer, secured, type TlsIdentity } from '@milagro-ts/tls/tls'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { NAME, outcome, World } from './world.js'

let world: World
let server: IdentityTlsServer
let port: number
/** What has come to the server's port, before TLS. */
let came: Socket[]
beforeEach(async () => {
  world = await World.start()
  came = []
  const { door, timers, log } = world
  server = createServer({ door, timers, log }, socket => {
    socket.on('error', () => undefined)
    socket.pipe(socket)
  })
  server.on('connection', raw => came.push(raw))
  server.on('tlsClientError', () => undefined)
  port = await world.listen(server)
})
afterEach(() => world.close())

/** An identity whose PSK comes when it is told to. */
function slow(): {
  identity: TlsIdentity
  ready: () => Promise<void>
  fail: (why: Error) => void
  asked: string[]
} {
  const asked: string[] = []
  let resolve: (psk: SlotPsk) => void = () => {}
  let fail: (why: Error) => void = () => {}
  const psk = new Promise<SlotPsk>((yes, no) => {
    resolve = yes
    fail = no
  })
  const externalPsk = (name: string) => {
    asked.push(name)
    return psk
  }
  const ready = async () =>
    resolve({ ...(await world.car(1).externalPsk(NAME)), endsAt: Number.POSITIVE_INFINITY })
  return { identity: { externalPsk }, ready, fail, asked }
}
const turn = () => new Promise(setImmediate)
const echoed = async (socket: TLSSocket, text = 'early') => {
  const [data] = await once(socket, 'data')
  expect(String(data)).toBe(text)
  socket.destroy()
}

describe('every way that node:tls is called', () => {
  const options = () => ({ identity: world.car(1), servername: NAME })
  test.each([
    ['options', () => connect({ ...options(), port, host: '127.0.0.1' })],
    ['port, options', () => connect(port, { ...options(), host: '127.0.0.1' })],
    ['port, host, options', () => connect(port, '127.0.0.1', options())],
    ['a port that is text', () => connect(String(port) as never, '127.0.0.1', options())],
    ['a host that has to be looked up', () => connect(port, 'localhost', options())],
    ['options whose host is null', () => connect({ ...options(), port, host: null as never })],
    ['port, null, options', () => connect(port, null as never, options())],
    [
      'options that count more than what stands before them',
      () => connect(1, 'x.invalid', { ...options(), port, host: '127.0.0.1' } as never),
    ],
  ])('%s', async (_, dial) => {
    const socket = dial()
    expect(socket).toBeInstanceOf(TLSSocket)
    socket.write('early')
    await echoed(socket)
  })

  test('the callback is told once, as `secureConnect` is', async () => {
    let told = 0
    const socket = connect(port, '127.0.0.1', options(), () => told++)
    await once(socket, 'secureConnect')
    await turn()
    expect([told, socket.authorized, socket.remotePort]).toEqual([1, true, port])
    socket.destroy()
  })

  test('a path', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'milagro-tls-'))
    const { door, timers, log } = world
    const local = createServer({ door, timers, log }, socket => socket.pipe(socket))
    const path = join(folder, 'socket')
    local.listen(path)
    await once(local, 'listening')
    try {
      const { identity, ready } = slow()
      const socket = connect(path, { identity, servername: NAME })
      socket.write('early')
      await turn()
      expect(socket.connecting).toBe(true)
      await ready()
      await echoed(socket)
      const absent = connect(`${path}.not`, options())
      expect((await once(absent, 'error'))[0]).toMatchObject({ code: 'ENOENT' })
    } finally {
      await new Promise(resolve => local.close(resolve))
      await rm(folder, { recursive: true })
    }
  })
})

describe('before the PSK is there', () => {
  test('nothing is sent, and what is written waits', async () => {
    const { identity, ready, asked } = slow()
    const socket = connect(port, '127.0.0.1', { identity, servername: NAME })
    socket.write('early')
    for (let i = 0; i < 5; i++) await turn()
    expect([came.length, socket.connecting, asked]).toEqual([0, true, [NAME]])
    await ready()
    await echoed(socket)
    expect(came).toHaveLength(1)
  })

  test.each([
    ['destroy', (socket: TLSSocket) => void socket.destroy()],
    ['its signal', (_: TLSSocket, gone: AbortController) => gone.abort()],
  ])('%s ends it, and no connection is made afterwards', async (_, end) => {
    const { identity, ready } = slow()
    const gone = new AbortController()
    const socket = connect(port, '127.0.0.1', { identity, servername: NAME, signal: gone.signal })
    socket.on('error', () => undefined)
    const closed = new Promise(resolve => socket.once('close', resolve))
    await turn()
    end(socket, gone)
    await closed
    await ready()
    for (let i = 0; i < 5; i++) await turn()
    expect(came).toEqual([])
  })

  test('its timeout is told', async () => {
    const { identity } = slow()
    const socket = connect(port, '127.0.0.1', { identity, servername: NAME, timeout: 1 })
    await once(socket, 'timeout')
    socket.destroy()
  })

  test('what the identity rejects with, or throws, is the socket’s error', async () => {
    const { identity, fail } = slow()
    const socket = connect(port, '127.0.0.1', { identity, servername: NAME })
    fail(new Error('no key of this slot'))
    expect((await once(socket, 'error'))[0]).toMatchObject({ message: 'no key of this slot' })
    const throwing = {
      externalPsk: () => {
        throw new Error('at once')
      },
    }
    const other = connect(port, '127.0.0.1', { identity: throwing, servername: NAME })
    expect((await once(other, 'error'))[0]).toMatchObject({ message: 'at once' })
    expect(came).toEqual([])
  })
})

test('a lookup of the caller’s own is asked for a name, and says where it is', async () => {
  const names: string[] = []
  const lookup = (name: string, _: object, found: (...given: unknown[]) => void) => {
    names.push(name)
    const all = (_ as { all?: boolean }).all
    if (all) found(null, [{ address: '127.0.0.1', family: 4 }])
    else found(null, '127.0.0.1', 4)
  }
  const socket = connect(port, NAME, { identity: world.car(1), lookup } as never)
  socket.write('early')
  await echoed(socket)
  expect(names).toEqual([NAME])
  const broken = () => {
    throw new Error('no resolver')
  }
  const lost = connect(port, NAME, { identity: world.car(1), lookup: broken })
  expect((await once(lost, 'error'))[0]).toMatchObject({ message: 'no resolver' })
})

test('an address that no lookup knows, and a port that nobody listens at, are errors as node has them', async () => {
  const identity = world.car(1)
  const lost = connect(port, 'x.invalid', { identity })
  expect((await once(lost, 'error'))[0]).toMatchObject({ syscall: 'getaddrinfo' })
  await new Promise(resolve => server.close(resolve))
  const refused = connect(port, '127.0.0.1', { identity })
  expect((await once(refused, 'error'))[0]).toMatchObject({
    code: 'ECONNREFUSED',
    address: '127.0.0.1',
    port,
  })
})

describe('a socket of the caller’s own', () => {
  const raw = () => rawConnect(port, '127.0.0.1')
  const own: readonly [string, () => Promise<Duplex>][] = [
    ['that is connected', () => connected()],
    ['that is connecting', async () => raw()],
    [
      'that connects later',
      async () => {
        const later = new Socket()
        setImmediate(() => later.connect(port, '127.0.0.1'))
        return later
      },
    ],
    [
      'that is a stream',
      async () => {
        const inner = raw()
        return Duplex.from({ readable: inner, writable: inner })
      },
    ],
  ]
  const connected = async () => {
    const socket = raw()
    await once(socket, 'connect')
    return socket
  }

  test.each(own)('%s', async (_, make) => {
    const stream = await make()
    const { identity, ready } = slow()
    const socket = connect({ socket: stream, identity, servername: NAME })
    let sent = 0
    server.once('connection', peer => peer.on('data', (chunk: Buffer) => (sent += chunk.length)))
    socket.write('early')
    for (let i = 0; i < 20; i++) await turn()
    expect([sent, socket.connecting]).toEqual([0, true])
    await ready()
    await echoed(socket)
  })

  test('that goes before the PSK is there is an error', async () => {
    const { identity, ready } = slow()
    for (const stream of [await connected(), new Duplex({ read() {}, write: (_, __, done) => done() })]) {
      const socket = connect({ socket: stream, identity, servername: NAME })
      const failed = once(socket, 'error')
      stream.destroy()
      expect((await failed)[0]).toMatchObject({ message: 'closed before the end of the handshake' })
    }
    await ready()
  })

  test('whose other end speaks first, before there is a PSK, hears of nothing but the end', async () => {
    const heard: Buffer[] = []
    const hasty = createTcp(socket => {
      socket.on('error', () => undefined)
      socket.on('data', chunk => heard.push(chunk))
      socket.write(Buffer.from('160303000401000000', 'hex'))
    })
    const at = await world.listen(hasty)
    const stream = rawConnect(at, '127.0.0.1')
    await once(stream, 'readable')
    const { identity, ready } = slow()
    const socket = connect({ socket: stream, identity, servername: NAME })
    expect(await outcome(secured(socket))).toBe('the server spoke before it was spoken to')
    await ready()
    expect(heard).toEqual([])
  })
})
