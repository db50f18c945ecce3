/** Connections that undici keeps, at the end of a slot, and undici's options of a connection. */
import { channel } from 'node:diagnostics_channel'
import { mkdtempSync, rmSync } from 'node:fs'
import type { ServerResponse } from 'node:http'
import { createServer as createTcp, Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createServer } from '@milagro-ts/tls/https'
import {
  buildConnector,
  Client,
  type ConnectorOptions,
  errors,
  Agent as OurAgent,
  Pool,
} from '@milagro-ts/tls/undici'
import { Agent, type Dispatcher, fetch } from 'undici'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { closed, NAME, World } from './world.js'

let world: World
beforeEach(async () => {
  world = await World.start()
})
afterEach(() => world.close())

/** Half a minute before the notice of a minute. */
const BEFORE = 1_800_000 - 90_000

test('a connection whose slot is about to end takes no other request, and what is under way is answered', async () => {
  const { door, timers, log } = world
  let connections = 0
  let held: ServerResponse | undefined
  const server = createServer({ door, timers, log }, (request, response) => {
    if (request.url !== '/held') return void response.end('ok')
    response.write('half, ')
    held = response
  })
  server.on('secureConnection', () => connections++)
  const port = await world.listen(server)
  const clock = () => world.now
  const connector = buildConnector({ identity: world.car(1), servername: NAME, clock, timers })
  const dispatcher = new Agent({ connections: 1, connect: connector })
  world.onClose(() => dispatcher.destroy())
  const get = async (path: string) => (await fetch(`https://127.0.0.1:${port}${path}`, { dispatcher })).text()

  world.turn(BEFORE)
  expect([await get('/'), await get('/'), connections]).toEqual(['ok', 'ok', 1])
  // One that is kept goes at once.
  world.turn(31_000)
  expect([await get('/'), connections]).toEqual(['ok', 2])

  world.now -= 31_000
  const second = new Agent({ connections: 1, connect: connector })
  world.onClose(() => second.destroy())
  const response = await fetch(`https://127.0.0.1:${port}/held`, { dispatcher: second })
  world.turn(31_000)
  held?.end('and whole')
  expect(await response.text()).toBe('half, and whole')
  const before = connections
  expect(await (await fetch(`https://127.0.0.1:${port}/`, { dispatcher: second })).text()).toBe('ok')
  expect(connections).toBe(before + 1)
})

test('a request of somebody else in the process that ends is looked for on none of our connections', async () => {
  const { door, timers, log } = world
  const server = createServer({ door, timers, log }, (_, response) => void response.end('ok'))
  const port = await world.listen(server)
  const clock = () => world.now
  const connect = buildConnector({ identity: world.car(1), servername: NAME, clock, timers })
  const dispatcher = new Agent({ connections: 1, connect })
  world.onClose(() => dispatcher.destroy())
  await (await fetch(`https://127.0.0.1:${port}/`, { dispatcher })).text()
  const request = {}
  const looked = vi.spyOn(Set.prototype, 'delete')
  try {
    for (const end of ['trailers', 'error']) channel(`undici:request:${end}`).publish({ request })
    expect(looked.mock.calls.filter(([sought]) => sought === request)).toEqual([])
  } finally {
    looked.mockRestore()
  }
})

const DISPATCHERS = {
  Agent: (_: string, options: object) => new OurAgent(options as never),
  Client: (url: string, options: object) => new Client(url, options as never),
  Pool: (url: string, options: object) => new Pool(url, options as never),
}
const KINDS = Object.keys(DISPATCHERS) as (keyof typeof DISPATCHERS)[]

/** With the clock by hand. */
const connection = (more: object = {}): ConnectorOptions => ({ ...unnamed(), servername: NAME, ...more })
/** To the server that the URL names. */
const unnamed = () => ({ identity: world.car(1), clock: () => world.now, timers: world.timers })
const get = async (dispatcher: Dispatcher, origin: string) => {
  const { body } = await dispatcher.request({ origin, path: '/', method: 'GET' })
  return body.text()
}
const dispatcherOf = (kind: keyof typeof DISPATCHERS, url: string, options: object) => {
  const dispatcher = DISPATCHERS[kind](url, options)
  world.onClose(() => dispatcher.destroy())
  return dispatcher
}
const folder = () => {
  const made = mkdtempSync(join(tmpdir(), 'milagro-'))
  world.onClose(() => rmSync(made, { recursive: true }))
  return made
}

/** Takes connections and says nothing. */
async function silent(path?: string) {
  const server = createTcp()
  const sockets: Socket[] = []
  server.on('connection', socket => {
    socket.on('error', () => undefined).resume()
    sockets.push(socket)
  })
  const first = new Promise<Socket>(resolve => server.once('connection', resolve))
  world.onClose(() => {
    for (const socket of sockets) socket.destroy()
  })
  if (path === undefined) return { url: `https://127.0.0.1:${await world.listen(server)}`, sockets, first }
  await new Promise<void>(listening => server.listen(path, listening))
  world.onClose(() => server.close())
  return { url: `https://${NAME}`, sockets, first }
}

/** What has come of it so far. */
function followed(asking: Promise<unknown>) {
  const state = { error: undefined as unknown, isOver: false }
  asking.then(
    () => Object.assign(state, { isOver: true }),
    error => Object.assign(state, { error, isOver: true }),
  )
  return state
}

const aTurn = () => new Promise(setImmediate)

describe('the time that a connection may take', () => {
  /** Of a request to a silent server: not before, and then. */
  async function endsAfter(milliseconds: number, kind: keyof typeof DISPATCHERS, options: object) {
    const { url, first } = await silent()
    const asking = get(dispatcherOf(kind, url, options), url)
    const state = followed(asking)
    const socket = await first
    world.turn(milliseconds - 1)
    await aTurn()
    await aTurn()
    expect(state.isOver).toBe(false)
    world.turn(1)
    await expect(asking).rejects.toMatchObject({
      name: 'ConnectTimeoutError',
      code: 'UND_ERR_CONNECT_TIMEOUT',
      message: `Connect Timeout Error (attempted address: ${new URL(url).host}, timeout: ${milliseconds}ms)`,
    })
    expect(state.error).toBeInstanceOf(errors.ConnectTimeoutError)
    await closed(socket)
  }

  test.each(KINDS)('%s: ten seconds, unless one is said', async kind => {
    await endsAfter(10_000, kind, { connect: connection() })
    await endsAfter(10_000, kind, { connect: connection({ timeout: null }), connectTimeout: undefined })
  })

  test.each(KINDS)('%s: by connectTimeout', async kind => {
    await endsAfter(500, kind, { connect: connection(), connectTimeout: 500 })
  })

  test.each(KINDS)('%s: by connect.timeout, which counts more', async kind => {
    await endsAfter(700, kind, { connect: connection({ timeout: 700 }), connectTimeout: 500 })
  })

  test('fetch has it as its cause', async () => {
    const { url, first } = await silent()
    const dispatcher = dispatcherOf('Agent', url, { connect: connection({ timeout: 500 }) })
    const asking = fetch(url, { dispatcher })
    followed(asking)
    await first
    world.turn(500)
    await expect(asking).rejects.toMatchObject({ cause: { code: 'UND_ERR_CONNECT_TIMEOUT' } })
  })

  test.each([0, Number.POSITIVE_INFINITY])('%s: no end', async timeout => {
    const { url, first } = await silent()
    const after = vi.spyOn(world.timers, 'after')
    const options = { connect: connection({ timeout }), connectTimeout: 500 }
    const asking = get(dispatcherOf('Client', url, options), url)
    const state = followed(asking)
    const socket = await first
    world.turn(60_000)
    await aTurn()
    await aTurn()
    expect(state.isOver).toBe(false)
    // Node's timers take no longer one, and would go off at once.
    expect(after.mock.calls.every(([milliseconds]) => milliseconds < 2 ** 31)).toBe(true)
    socket.destroy()
    await expect(asking).rejects.toThrow()
    expect(state.error).not.toBeInstanceOf(errors.ConnectTimeoutError)
  })

  test('the agreement of the PSK counts, and nothing is connected to afterwards', async () => {
    const { url, sockets } = await silent()
    const psk = world.car(1).externalPsk(NAME)
    let agree = () => {}
    const identity = {
      externalPsk: () =>
        new Promise(resolve => {
          agree = () => resolve(psk)
        }),
    }
    const connect = connection({ identity, timeout: 500 })
    const asking = get(dispatcherOf('Client', url, { connect }), url)
    followed(asking)
    await aTurn()
    world.turn(500)
    await expect(asking).rejects.toBeInstanceOf(errors.ConnectTimeoutError)
    agree()
    await aTurn()
    // A connection that comes after it.
    const probe = new Socket().connect(Number(new URL(url).port))
    await new Promise(resolve => probe.once('connect', resolve))
    while (sockets.length === 0) await aTurn()
    expect(sockets[0]?.remotePort).toBe(probe.localPort)
    probe.destroy()
  })

  test('over a Unix domain socket, too', async () => {
    const socketPath = join(folder(), 'socket')
    const { url, first } = await silent(socketPath)
    const asking = get(
      dispatcherOf('Client', url, { connect: connection({ timeout: 500 }), socketPath }),
      url,
    )
    followed(asking)
    const socket = await first
    world.turn(500)
    await expect(asking).rejects.toMatchObject({
      message: `Connect Timeout Error (attempted address: ${socketPath}, timeout: 500ms)`,
    })
    await closed(socket)
  })

  test('the addresses that were tried are named, where the name has several', async () => {
    const { url, first } = await silent()
    const { port } = new URL(url)
    const addresses = [
      { address: '127.0.0.1', family: 4 },
      { address: '::1', family: 6 },
    ]
    const lookup: ConnectorOptions['lookup'] = (_, __, found) => found(null, addresses)
    const options = { connect: connection({ timeout: 500, lookup }), autoSelectFamily: true }
    const asking = get(dispatcherOf('Agent', url, options), `https://${NAME}:${port}`)
    followed(asking)
    await first
    world.turn(500)
    await expect(asking).rejects.toMatchObject({
      message: `Connect Timeout Error (attempted addresses: 127.0.0.1:${port}, timeout: 500ms)`,
    })
  })

  test('of a connector alone', async () => {
    const { url, first } = await silent()
    const { hostname, port, protocol } = new URL(url)
    const answer = new Promise<unknown[]>(resolve =>
      buildConnector(connection({ timeout: 500 }))({ hostname, port, protocol }, (...given) =>
        resolve(given),
      ),
    )
    await first
    world.turn(500)
    expect(await answer).toEqual([expect.any(errors.ConnectTimeoutError), null])
  })

  test('a connection that is there isn’t ended, and its time isn’t node’s time without a byte', async () => {
    const { door, timers, log } = world
    const server = createServer({ door, timers, log }, (_, response) => void response.end('ok'))
    let connections = 0
    server.on('secureConnection', () => connections++)
    const url = `https://127.0.0.1:${await world.listen(server)}`
    const idle = vi.spyOn(Socket.prototype, 'setTimeout')
    try {
      const dispatcher = dispatcherOf('Client', url, { connect: connection({ timeout: 1_234 }) })
      expect(await get(dispatcher, url)).toBe('ok')
      world.turn(2_000)
      await aTurn()
      await aTurn()
      expect([await get(dispatcher, url), connections]).toEqual(['ok', 1])
      expect(idle.mock.calls.filter(([time]) => time === 1_234)).toEqual([])
    } finally {
      idle.mockRestore()
    }
  })

  test('a handshake that ends in the turn in which the time does has come in time', async () => {
    const { door, log } = world
    const server = createServer({ door, timers: world.timers, log })
    const port = String(await world.listen(server))
    let expire = () => {}
    const timers = {
      every: () => () => {},
      after: (milliseconds: number, run: () => void) => {
        if (milliseconds === 500) expire = run
        return () => {}
      },
    }
    const connected = vi.spyOn(Socket.prototype, 'connect')
    try {
      const answer = new Promise<unknown[]>(resolve => {
        const connector = buildConnector(connection({ timeout: 500, timers }))
        connector({ hostname: '127.0.0.1', port, protocol: 'https:' }, (...given) => resolve(given))
      })
      const [socket] = connected.mock.contexts as Socket[]
      socket?.prependOnceListener('secureConnect', () => expire())
      const [error, given] = await answer
      await aTurn()
      await aTurn()
      expect([error, given, socket?.destroyed]).toEqual([null, socket, false])
      socket?.destroy()
    } finally {
      connected.mockRestore()
    }
  })

  test.each(['500', -1, Number.NaN, true])('%s is no time', timeout => {
    expect(() => buildConnector(connection({ timeout }))).toThrow(TypeError)
    expect(() => buildConnector(connection({ timeout }))).toThrow('timeout: milliseconds')
  })
})

describe('where and how a connection goes', () => {
  async function served(listen?: string) {
    const { door, timers, log } = world
    const server = createServer(
      { door, timers, log },
      (request, response) => void response.end(request.peer.mpinId),
    )
    if (listen === undefined) return `https://127.0.0.1:${await world.listen(server)}`
    await new Promise<void>(resolve => server.listen(listen, resolve))
    world.onClose(() => server.close())
    return `https://${NAME}`
  }

  test.each(KINDS)('%s: by a Unix domain socket, to the server that the URL names', async kind => {
    const socketPath = join(folder(), 'socket')
    const url = await served(socketPath)
    const connect = unnamed()
    for (const options of [
      { connect, socketPath },
      { connect: { ...connect, socketPath }, socketPath: '/nowhere' },
    ])
      expect(await get(dispatcherOf(kind, url, options), url)).toBe(world.car(1).mpinId)
    const missed = dispatcherOf(kind, url, { connect, socketPath: `${socketPath}-not` })
    await expect(get(missed, url)).rejects.toMatchObject({ code: 'ENOENT' })
  })

  /** What node is told of a connection, and what of the socket. */
  async function told(kind: keyof typeof DISPATCHERS, options: object) {
    const url = await served()
    const connected = vi.spyOn(Socket.prototype, 'connect')
    const keptAlive = vi.spyOn(Socket.prototype, 'setKeepAlive')
    const undelayed = vi.spyOn(Socket.prototype, 'setNoDelay')
    try {
      expect(await get(dispatcherOf(kind, url, options), url)).toBe(world.car(1).mpinId)
      const [socket] = connected.mock.contexts
      const of = ({ mock }: { mock: { calls: unknown[][]; contexts: unknown[] } }) =>
        mock.calls.filter((_, i) => mock.contexts[i] === socket)
      return {
        options: connected.mock.calls[0]?.[0] as unknown as Record<string, unknown>,
        keptAlive: of(keptAlive),
        undelayed: of(undelayed),
      }
    } finally {
      for (const spy of [connected, keptAlive, undelayed]) spy.mockRestore()
    }
  }

  test.each(KINDS)('%s: the address that it goes from, and the choice among several', async kind => {
    const { options } = await told(kind, {
      connect: connection(),
      autoSelectFamily: true,
      autoSelectFamilyAttemptTimeout: 123,
      localAddress: '127.0.0.1',
    })
    expect(options).toMatchObject({
      autoSelectFamily: true,
      autoSelectFamilyAttemptTimeout: 123,
      localAddress: '127.0.0.1',
    })
    const within = { autoSelectFamily: false, localAddress: '127.0.0.1', family: 4, hints: 0 }
    const own = await told(kind, { connect: connection(within), autoSelectFamily: true })
    expect(own.options).toMatchObject(within)
    const { options: none } = await told(kind, { connect: connection(), autoSelectFamily: false })
    expect(none).toMatchObject({ autoSelectFamily: false })
  })

  test.each(KINDS)('%s: kept alive after a minute, unless said, and never delayed', async kind => {
    const usual = await told(kind, { connect: connection() })
    expect([usual.keptAlive, usual.undelayed]).toEqual([[[true, 60_000]], [[true]]])
    const said = await told(kind, { connect: connection({ keepAlive: true, keepAliveInitialDelay: 5_000 }) })
    expect(said.keptAlive).toEqual([[true, 5_000]])
    const not = await told(kind, { connect: connection({ keepAlive: false }) })
    expect(not.keptAlive).toEqual([])
  })

  test('over a socket that the connector is given', async () => {
    const { port } = new URL(await served())
    const httpSocket = new Socket().connect(Number(port))
    await new Promise(resolve => httpSocket.once('connect', resolve))
    const target = { hostname: NAME, port: '1', protocol: 'https:', httpSocket }
    const [error, socket] = await new Promise<unknown[]>(resolve =>
      buildConnector(unnamed())(target, (...given) => resolve(given)),
    )
    expect(error).toBe(null)
    expect((socket as Socket).remotePort).toBe(Number(port))
    httpSocket.destroy()
  })

  test('HTTP/1.1 alone is offered', async () => {
    const { options } = await told('Client', { connect: connection({ ALPNProtocols: ['h2', 'http/1.1'] }) })
    expect(options.ALPNProtocols).toEqual(['http/1.1'])
  })
})

describe('an option that can’t hold is a TypeError', () => {
  const REFUSED = [
    ['allowH2', true, 'HTTP/2'],
    ['maxCachedSessions', 1, 'asks for no PSK'],
    ['maxCachedSessions', 100, 'asks for no PSK'],
    ['socketPath', 8080, 'a path'],
  ] as const
  const url = `https://${NAME}`

  test.each(REFUSED)('%s: %s', (name, value, why) => {
    const option = { [name]: value }
    const makers = [
      () => buildConnector(connection(option)),
      ...KINDS.map(kind => () => DISPATCHERS[kind](url, { connect: connection(option) })),
      ...KINDS.map(kind => () => DISPATCHERS[kind](url, { connect: connection(), ...option })),
    ]
    for (const make of makers) {
      expect(make).toThrow(TypeError)
      expect(make).toThrow(name)
      expect(make).toThrow(why)
    }
  })

  test.each(KINDS)('%s: what the old `tls` says', kind => {
    const make = () => DISPATCHERS[kind](url, { connect: connection(), tls: { ca: 'mine' } })
    expect(make).toThrow('ca is no option of TLS without certificates')
  })

  test('one that says what holds anyway isn’t', () => {
    for (const kind of KINDS)
      for (const options of [
        { allowH2: false, maxCachedSessions: 0, socketPath: undefined },
        { allowH2: undefined, maxCachedSessions: null, socketPath: null },
      ]) {
        dispatcherOf(kind, url, { connect: connection(options), ...options })
      }
  })
})
