/** What programs are made of, over TLS without certificates: fetch, HTTP/2, WebSockets, MQTT; one pool for each device. */
import { once } from 'node:events'
import { createServer as createHttp } from 'node:http'
import { createServer as createNodeHttps, get, Agent as HttpsAgent } from 'node:https'
import { createRequire } from 'node:module'
import { createServer as createTcp, type LookupFunction, Socket } from 'node:net'
import type { TLSSocket } from 'node:tls'
import { createSecureServer, connect as http2Connect } from '@milagro-ts/tls/http2'
import { createServer as createHttpsServer, httpsAgent, IdentityRequest } from '@milagro-ts/tls/https'
import { connectAsync, MqttClient, connect as mqttConnect } from '@milagro-ts/tls/mqtt'
import { overTls, peerOf } from '@milagro-ts/tls/server'
import { createServer } from '@milagro-ts/tls/tls'
import ours, { buildConnector, Client, Agent as OurAgent, Pool } from '@milagro-ts/tls/undici'
import { createWebSocketStream, WebSocket, WebSocketServer } from '@milagro-ts/tls/ws'
import { Aedes, type Client as BrokerClient } from 'aedes'
import mqttjs, { type IClientOptions } from 'mqtt'
import { Agent, fetch as undiciFetch } from 'undici'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { type Car, closed, NAME, RULE, SLOT, World } from './world.js'

let world: World
beforeEach(async () => {
  world = await World.start()
})
afterEach(() => world.close())

const ports = () => ({ door: world.door, timers: world.timers, log: world.log })
const quiet = <S extends { on(event: 'tlsClientError', listener: () => void): S }>(server: S) =>
  server.on('tlsClientError', () => undefined)
async function https(): Promise<{ port: number; seen: string[] }> {
  const seen: string[] = []
  const server = createHttpsServer(ports(), (request, response) => {
    seen.push(`${request.method} ${request.url} ${request.peer.mpinId}`)
    response.setHeader('content-type', 'text/plain')
    request.pipe(response)
  })
  world.onClose(() => server.closeAllConnections())
  return { port: await world.listen(quiet(server)), seen }
}

describe('fetch', () => {
  const dispatcherOf = (car: Car) => {
    const dispatcher = new Agent({ connect: buildConnector({ identity: car, servername: NAME }) })
    world.onClose(() => dispatcher.destroy())
    return dispatcher
  }

  test('node’s own and undici’s, as a device each: the handler knows whose request it is', async () => {
    const { port, seen } = await https()
    const [one, two] = [world.car(1), world.car(2)]
    const url = `https://127.0.0.1:${port}`
    const init = { method: 'POST', body: 'x'.repeat(70_000) }
    // The types of undici and of node's own are two copies of one text.
    const answer = await fetch(`${url}/one`, {
      ...init,
      dispatcher: dispatcherOf(one),
    } as unknown as RequestInit)
    expect(await answer.text()).toBe(init.body)
    const other = await undiciFetch(`${url}/two`, { ...init, dispatcher: dispatcherOf(two) })
    expect(await other.text()).toBe(init.body)
    expect(seen).toEqual([`POST /one ${one.mpinId}`, `POST /two ${two.mpinId}`])
  })

  test('over one kept connection, and each dispatcher over its own', async () => {
    const { port, seen } = await https()
    const cars = [world.car(1), world.car(2)]
    const dispatchers = cars.map(dispatcherOf)
    for (let i = 0; i < 3; i++)
      for (const [j, dispatcher] of dispatchers.entries()) {
        const answer = await undiciFetch(`https://127.0.0.1:${port}/${j}`, { dispatcher })
        await answer.text()
      }
    expect(world.computed).toBe(2)
    expect(seen).toEqual(
      Array(3)
        .fill(cars.map((car, j) => `GET /${j} ${car.mpinId}`))
        .flat(),
    )
  })

  test('http is refused, and so is an option that would undo a guard', async () => {
    const dispatcher = dispatcherOf(world.car(1))
    await expect(undiciFetch('http://127.0.0.1:34567/', { dispatcher })).rejects.toMatchObject({
      cause: { message: 'https alone: anything else would go unprotected' },
    })
    for (const option of ['pskCallback', 'ca', 'rejectUnauthorized', 'checkServerIdentity'])
      expect(() => buildConnector({ identity: world.car(1), [option]: null })).toThrow(option)
  })

  test('without a dispatcher of this module nothing goes anywhere, nor in the clear with one', async () => {
    const asked: unknown[] = []
    const plain = await world.listen(createTcp(socket => void asked.push(socket.destroy())))
    const connect = { identity: world.car(1), servername: NAME }
    const dispatcher = new OurAgent({ connect })
    world.onClose(() => dispatcher.destroy())
    const factory = () => expect.unreachable()
    const calls = {
      fetch: (url: string, options: object) => ours.fetch(url, options as never),
      request: async (url: string, options: object) => ours.request(url, options as never),
      stream: async (url: string, options: object) => ours.stream(url, options as never, factory),
      pipeline: async (url: string, options: object) => ours.pipeline(url, options as never, factory),
    }
    for (const [name, call] of Object.entries(calls))
      for (const scheme of ['http', 'https']) {
        const url = `${scheme}://127.0.0.1:${plain}/`
        for (const options of [undefined, {}, { dispatcher: new Agent() }])
          await expect(call(url, options as never), name).rejects.toThrow('of this module')
        if (scheme === 'http')
          await expect(call(url, { dispatcher, method: 'GET' }), name).rejects.toThrow('https alone')
      }
    await expect(ours.fetch('data:text/plain,x', { dispatcher })).rejects.toThrow('https alone')
    for (const One of [Client, Pool])
      expect(() => new One('http://127.0.0.1', { connect })).toThrow('https alone')
    expect(() => new OurAgent(undefined as never)).toThrow('identity: a Device')
    expect(() => new OurAgent({ connect, factory } as never)).toThrow('factory')
    expect(asked).toEqual([])
  })

  test('by a Client and by a Pool, for one device each', async () => {
    const { port, seen } = await https()
    const url = `https://127.0.0.1:${port}`
    const [one, two] = [world.car(1), world.car(2)]
    const client = new Client(url, { connect: { identity: one, servername: NAME } })
    const pool = new Pool(url, { connect: { identity: two, servername: NAME }, connections: 1 })
    for (const dispatcher of [client, pool]) {
      world.onClose(() => dispatcher.destroy())
      const { body } = await ours.request(`${url}/a`, { dispatcher, method: 'PUT', body: 'text' })
      expect(await body.text()).toBe('text')
      const { body: own } = await dispatcher.request({ path: '/b', method: 'PUT', body: 'more' })
      expect(await own.text()).toBe('more')
      const answer = await ours.fetch(new ours.Request(`${url}/c`), { dispatcher })
      expect(await answer.text()).toBe('')
    }
    expect(seen).toEqual(
      [one, two].flatMap(({ mpinId }) => [`PUT /a ${mpinId}`, `PUT /b ${mpinId}`, `GET /c ${mpinId}`]),
    )
  })

  test('a server that isn’t the one is an error of the request', async () => {
    const { port, seen } = await https()
    const connect = buildConnector({ identity: world.car(1), servername: 'other.example' })
    const dispatcher = new Agent({ connect })
    await expect(undiciFetch(`https://127.0.0.1:${port}`, { dispatcher })).rejects.toThrow('fetch failed')
    await dispatcher.destroy()
    expect(seen).toEqual([])
  })
})

describe('HTTP/2', () => {
  const serve = async () => {
    const server = createSecureServer(ports(), (request, response) => {
      expect(peerOf(request.stream.session as object)).toBe(request.peer)
      response.end(`${request.headers[':path']} ${request.peer.mpinId}`)
    })
    return { server, port: await world.listen(quiet(server)) }
  }
  const asked = async (session: ReturnType<typeof http2Connect>, path: string) => {
    const stream = session.request({ ':path': path })
    let text = ''
    for await (const chunk of stream) text += String(chunk)
    return text
  }

  test('many streams of one device over one connection, and a session of another beside it', async () => {
    const { port } = await serve()
    const cars = [world.car(1), world.car(2)]
    for (const car of cars) {
      const session = http2Connect(`https://127.0.0.1:${port}`, { identity: car, servername: NAME })
      const answers = await Promise.all(['/a', '/b', '/c'].map(path => asked(session, path)))
      expect(answers).toEqual(['/a', '/b', '/c'].map(path => `${path} ${car.mpinId}`))
      session.destroy()
    }
    expect(world.computed).toBe(2)
  })

  test('a ban ends the session', async () => {
    const { port } = await serve()
    const car = world.car(1)
    const session = http2Connect(`https://127.0.0.1:${port}`, { identity: car, servername: NAME })
    await asked(session, '/a')
    session.on('error', () => undefined)
    const gone = new Promise<void>(resolve => session.once('close', () => resolve()))
    world.banned.add(car.mpinId)
    world.door.look()
    await gone
  })

  test('a ban while requests are coming ends the session, and neither runs a handler nor ends the process', async () => {
    const { server, port } = await serve()
    const car = world.car(1)
    const session = http2Connect(`https://127.0.0.1:${port}`, { identity: car, servername: NAME })
    session.on('error', () => undefined)
    await asked(session, '/a')
    const seen: unknown[] = []
    server.prependListener('stream', stream => {
      seen.push(stream)
      world.banned.add(car.mpinId)
      world.door.look()
    })
    const streams = ['/b', '/c', '/d'].map(path => asked(session, path))
    for (const stream of await Promise.allSettled(streams))
      expect(stream.status === 'rejected' || stream.value === '').toBe(true)
    expect(seen.length).toBeGreaterThan(0)
  })

  test('where the server speaks none, or isn’t reached by https, it is an error', async () => {
    const port = await world.listen(quiet(createServer(ports(), socket => void socket.on('error', () => {}))))
    const options = { identity: world.car(1), servername: NAME }
    const connected: unknown[] = []
    const session = http2Connect(`https://127.0.0.1:${port}`, options)
    // Asked before it is known what the server speaks: nothing of it is sent.
    session.request({ ':path': '/' }).on('error', error => connected.push(error.message))
    const [error] = await once(session, 'error')
    expect((error as Error).message).toBe('the server speaks no HTTP/2')
    expect(session.destroyed).toBe(true)
    // Of a server that speaks HTTP/1.1 alone TLS itself says so.
    const { port: http1 } = await https()
    const refused = http2Connect(`https://127.0.0.1:${http1}`, options)
    expect((await once(refused, 'error'))[0]).toMatchObject({
      code: expect.stringMatching(/NO_APPLICATION_PROTOCOL/),
    })
    expect(() => http2Connect(`http://127.0.0.1:${port}`, options)).toThrow(TypeError)
    expect(() =>
      http2Connect(`https://127.0.0.1:${port}`, { ...options, createConnection: null } as never),
    ).toThrow('createConnection')
    expect(() => createSecureServer({ ...ports(), allowHTTP1: true } as never)).toThrow('allowHTTP1')
    expect(() => createSecureServer({ ...ports(), Http2ServerRequest: Object } as never)).toThrow(
      'Http2ServerRequest',
    )
  })
})

describe('WebSockets', () => {
  const serve = async () => {
    const server = createHttpsServer(ports(), (_, response) => response.end())
    const sockets = new WebSocketServer({ server })
    const inside: string[] = []
    sockets.on('connection', (socket, { peer }) => {
      inside.push(peer.mpinId)
      socket.on('error', () => undefined)
      socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }))
    })
    world.onClose(() => sockets.close())
    return { port: await world.listen(quiet(server)), inside }
  }
  const dial = (port: number, car: Car) =>
    new WebSocket(`wss://127.0.0.1:${port}/stream`, { identity: car, servername: NAME })

  test('each message comes back, and the listener knows whose it is; a ban closes it', async () => {
    const { port, inside } = await serve()
    const cars = [world.car(1), world.car(2)]
    const sockets: WebSocket[] = []
    for (const car of cars) {
      const socket = dial(port, car)
      sockets.push(socket)
      await once(socket, 'open')
      socket.send('position')
      expect(String((await once(socket, 'message'))[0])).toBe('position')
    }
    expect(inside.sort()).toEqual(cars.map(({ mpinId }) => mpinId).sort())
    sockets[0]?.on('error', () => undefined)
    const gone = new Promise<void>(resolve => sockets[0]?.once('close', () => resolve()))
    world.banned.add(cars[0]?.mpinId ?? '')
    world.door.look()
    await gone
    expect(sockets[1]?.readyState).toBe(WebSocket.OPEN)
    sockets[1]?.terminate()
  })

  test('who is banned doesn’t get as far as the upgrade', async () => {
    const { port, inside } = await serve()
    world.banned.add(world.car(1).mpinId)
    const socket = dial(port, world.car(1))
    const [error] = await once(socket, 'error')
    expect(error).toBeInstanceOf(Error)
    expect(inside).toEqual([])
  })

  test('neither listens for anybody, nor takes an upgrade from somewhere else', async () => {
    expect(() => new WebSocketServer({ port: 0 } as never)).toThrow(TypeError)
    expect(() => new WebSocket('wss://127.0.0.1', {} as never)).toThrow('identity, or an agent of one')
    expect(() => new WebSocket('wss://127.0.0.1', { agent: new HttpsAgent() } as never)).toThrow(TypeError)
    const sockets = new WebSocketServer({ noServer: true })
    const told: string[] = []
    sockets.on('wsClientError', error => told.push(error.message))
    const request = new IdentityRequest(new Socket())
    const opened = () => expect.unreachable()
    expect(sockets.handleUpgrade(request, request.socket, Buffer.alloc(0), opened)).toBeUndefined()
    expect(request.socket.destroyed).toBe(true)
    expect(told).toEqual(['not a connection of a TLS server without certificates'])
  })

  test('no server that takes anybody is one: a stranger’s upgrade would end the process', async () => {
    for (const server of [createHttp(), createNodeHttps(), createServer(ports())])
      expect(() => new WebSocketServer({ server } as never)).toThrow('this one takes anybody')
    const http = createHttp()
    const server = overTls(http, ports())
    const sockets = new WebSocketServer({ server: http as never })
    sockets.on('connection', (socket, request) => socket.send(peerOf(request).mpinId))
    world.onClose(() => sockets.close())
    const socket = dial(await world.listen(quiet(server)), world.car(1))
    expect(String((await once(socket, 'message'))[0])).toBe(world.car(1).mpinId)
    socket.terminate()
  })

  test('nor is one that listens already: it would go on answering anybody', async () => {
    const http = createHttp()
    await world.listen(http)
    expect(() => overTls(http, ports())).toThrow('a server that listens already takes anybody')
    expect(() => new WebSocketServer({ server: http as never })).toThrow('this one takes anybody')
  })

  test('a redirect into the clear is an error of the WebSocket, and one by wss is followed', async () => {
    const clear: unknown[] = []
    const plain = await world.listen(createTcp(socket => void clear.push(socket.destroy())))
    const { port } = await serve()
    for (const [location, outcome] of [
      [`ws://127.0.0.1:${plain}/`, 'redirected: wss alone, anything else would go unprotected'],
      [`http://127.0.0.1:${plain}/`, 'redirected: wss alone, anything else would go unprotected'],
      ['http://', 'Invalid URL: http://'],
      [`wss://127.0.0.1:${port}/`, 'open'],
    ] as const) {
      const redirecting = createHttpsServer(ports())
      redirecting.on('upgrade', (_, socket) =>
        socket.end(`HTTP/1.1 302 Found\r\nlocation: ${location}\r\ncontent-length: 0\r\n\r\n`),
      )
      const from = await world.listen(quiet(redirecting))
      const options = { identity: world.car(1), servername: NAME, followRedirects: true }
      const socket = new WebSocket(`wss://127.0.0.1:${from}/`, options)
      const heard = await new Promise(resolve => {
        socket.once('open', () => resolve('open'))
        socket.once('error', error => resolve(error.message))
      })
      expect(heard).toBe(outcome)
      socket.terminate()
    }
    expect(clear).toEqual([])
  })

  test('the classes on the class are its own, also where somebody asks for ws by `require`', () => {
    const required = createRequire(import.meta.url)('ws') as object
    expect(required).toHaveProperty('Server')
    expect(WebSocket.Server).toBe(WebSocketServer)
    expect(WebSocket.WebSocketServer).toBe(WebSocketServer)
    expect(WebSocket.WebSocket).toBe(WebSocket)
    for (const name of ['Server', 'WebSocketServer', 'WebSocket'])
      expect(WebSocketServer).not.toHaveProperty(name)
    expect(() => new WebSocket.Server({ port: 0 } as never)).toThrow('a server of `https` listens')
  })

  test('as a stream of node’s', async () => {
    const { port } = await serve()
    const stream = createWebSocketStream(dial(port, world.car(1)), { encoding: 'utf8' })
    stream.write('position')
    expect((await once(stream, 'data'))[0]).toBe('position')
    stream.destroy()
  })
})

describe('MQTT', () => {
  const event = (client: MqttClient, name: 'connect' | 'close') =>
    new Promise<void>(resolve => {
      client.once(name, () => resolve())
    })
  const serve = async () => {
    const broker = await Aedes.createBroker()
    const inside = new Map<string, string>()
    broker.authenticate = ({ id, conn }: BrokerClient, _name, _password, done) => {
      inside.set(id, peerOf(conn).mpinId)
      done(null, true)
    }
    const server = createServer(ports(), socket => broker.handle(socket))
    world.onClose(() => new Promise<void>(resolve => broker.close(resolve)))
    return { port: await world.listen(quiet(server)), inside }
  }
  const clientOf = (port: number, car: Car, clientId: string, reconnectPeriod = 0) => {
    const options = { servername: NAME, clientId, reconnectPeriod, protocolVersion: 4 } as const
    const client = mqttConnect(`mqtts://127.0.0.1:${port}`, { identity: car, ...options })
    client.on('error', () => undefined)
    world.onClose(() => client.endAsync(true))
    return client
  }

  test('a car publishes, another hears it, and the broker knows both by their connections', async () => {
    const { port, inside } = await serve()
    const [sends, hears] = [world.car(1), world.car(2)]
    const subscriber = clientOf(port, hears, 'two')
    await event(subscriber, 'connect')
    await subscriber.subscribeAsync('positions')
    const publisher = clientOf(port, sends, 'one')
    const heard = new Promise<[string, Buffer]>(resolve => {
      subscriber.once('message', (topic, payload) => resolve([topic, payload]))
    })
    // Before it is connected: it waits.
    await publisher.publishAsync('positions', 'y'.repeat(50_000))
    const [topic, payload] = await heard
    expect([topic, String(payload)]).toEqual(['positions', 'y'.repeat(50_000)])
    expect(Object.fromEntries(inside)).toEqual({ one: sends.mpinId, two: hears.mpinId })
  })

  test('after a slot it connects again by itself, with the PSK of the next', async () => {
    const { port } = await serve()
    const car = world.car(1)
    const client = clientOf(port, car, 'one', 1)
    await event(client, 'connect')
    await world.holdKeys(SLOT, SLOT + 1)
    const gone = event(client, 'close')
    world.turn(1_800_000 + 300_000)
    await gone
    await event(client, 'connect')
    expect(world.asked).toEqual([car.mpinId, car.mpinId])
    expect(RULE.length).toBe(3_600)
  })

  test('a server that says nothing doesn’t keep the client from ending', async () => {
    const silent = createTcp(socket => void socket.on('error', () => undefined))
    const port = await world.listen(silent)
    const accepted = once(silent, 'connection')
    const client = clientOf(port, world.car(1), 'one')
    const [far] = (await accepted) as [Socket]
    const gone = once(far, 'close')
    client.end(true)
    far.resume()
    await gone
  })

  test('its stream tells `permit-ending`, a minute before the slot ends', async () => {
    const { port } = await serve()
    const options = { servername: NAME, clock: () => world.now, timers: world.timers, reconnectPeriod: 0 }
    const client = mqttConnect(`mqtts://127.0.0.1:${port}`, { identity: world.car(1), ...options })
    world.onClose(() => client.endAsync(true))
    const told: number[] = []
    client.stream.on('permit-ending', endsAt => told.push(endsAt))
    await event(client, 'connect')
    const end = (RULE.origin + (SLOT + 1) * RULE.length) * 1000
    world.turn(end - 60_001 - world.now)
    expect(told).toEqual([])
    world.turn(1)
    expect(told).toEqual([end])
  })

  test('connectAsync resolves to the client once it is connected, and rejects with what keeps it from it', async () => {
    const { port } = await serve()
    const options = { servername: NAME, clientId: 'one', reconnectPeriod: 0 }
    const url = `mqtts://127.0.0.1:${port}`
    const client = await connectAsync(url, { ...options, identity: world.car(1) })
    expect(client).toBeInstanceOf(MqttClient)
    expect(client.connected).toBe(true)
    for (const event of ['close', 'end'] as const)
      expect(client.listeners(event).filter(one => String(one).includes('reject'))).toEqual([])
    await client.endAsync()
    await expect(connectAsync({ ...options, identity: world.car(1), protocol: 'mqtt' })).rejects.toThrow(
      TypeError,
    )
    world.banned.add(world.car(2).mpinId)
    await expect(connectAsync(url, { ...options, identity: world.car(2) })).rejects.toThrow()
    const silent = createServer(ports(), socket => void socket.on('error', () => undefined).end())
    const at = `mqtts://127.0.0.1:${await world.listen(quiet(silent))}`
    await expect(connectAsync(at, { ...options, identity: world.car(1) }, false)).rejects.toThrow(
      'closed before it was connected',
    )
  })

  test('each attempt’s error is told once, whatever it is, and ends nobody who doesn’t listen', async () => {
    const closing = await world.listen(createTcp(socket => socket.destroy()))
    const identity = world.car(1)
    for (const [port, says] of [
      [closing, /before secure TLS connection was established|ECONNRESET/],
      [1, /ECONNREFUSED/],
    ] as const) {
      const options = { identity, servername: NAME, reconnectPeriod: 0 }
      const deaf = mqttConnect(`mqtts://127.0.0.1:${port}`, options)
      const client = mqttConnect(`mqtts://127.0.0.1:${port}`, options)
      const told: string[] = []
      client.on('error', error => told.push(error.message))
      await Promise.all(
        [client, deaf].map(one => new Promise(resolve => one.once('close', () => resolve(undefined)))),
      )
      await new Promise(setImmediate)
      expect(told).toEqual([expect.stringMatching(says)])
    }
    expect(() => mqttConnect('mqtts://127.0.0.1', { identity, clean: false })).toThrow('Missing clientId')
  })

  test('who is banned gets an error, and no broker sees a byte', async () => {
    const { port, inside } = await serve()
    world.banned.add(world.car(1).mpinId)
    const client = clientOf(port, world.car(1), 'one')
    const error = await new Promise(resolve => client.once('error', resolve))
    expect(error).toBeInstanceOf(Error)
    expect(inside.size).toBe(0)
    const identity = world.car(1)
    for (const wrong of [{ ca: 'mine' }, { servers: [] }, { protocol: 'mqtt' }])
      expect(() => mqttConnect({ identity, host: NAME, ...wrong } as never)).toThrow(TypeError)
    expect(() => mqttConnect('mqtt://gw.example', { identity })).toThrow('mqtts alone')
  })

  test('options of net and tls hold for every attempt, and so does what the URL says', async () => {
    const came: unknown[] = []
    const broker = await Aedes.createBroker()
    world.onClose(() => new Promise<void>(resolve => broker.close(resolve)))
    const server = createServer({ ...ports(), ALPNProtocols: ['other', 'mqtt'] }, socket => {
      broker.handle(socket)
      broker.authenticate = ({ id }: BrokerClient, name, password, done) => {
        came.push([socket.remoteAddress, socket.alpnProtocol, id, name, String(password)])
        done(null, true)
      }
    })
    const port = await world.listen(quiet(server))
    const looked: unknown[] = []
    const lookup: LookupFunction = (host, { family, all }, found) => {
      looked.push([host, family])
      if (all) found(null, [{ address: '127.0.0.1', family: 4 }])
      else found(null, '127.0.0.1', 4)
    }
    const client = mqttConnect(`mqtts://who:p%40ss@${NAME}:${port}/ignored?clientId=abc`, {
      identity: world.car(1),
      reconnectPeriod: 1,
      lookup,
      family: 4,
      localAddress: '127.0.0.2',
      timeout: 54_321,
      ALPNProtocols: ['mqtt'],
      // Node's would be a Unix domain socket.
      ...{ path: '/nowhere' },
    })
    client.on('error', () => undefined)
    world.onClose(() => client.endAsync(true))
    for (let attempt = 0; attempt < 2; attempt++) {
      await event(client, 'connect')
      expect((client.stream as TLSSocket).timeout).toBe(54_321)
      if (attempt === 0) (client.stream as TLSSocket).destroy()
    }
    expect(looked).toEqual(Array(2).fill([NAME, 4]))
    expect(came).toEqual(Array(2).fill(['127.0.0.2', 'mqtt', 'abc', 'who', 'p@ss']))
  })

  test('a socket of the caller’s is what it goes over', async () => {
    const { port, inside } = await serve()
    const socket = new Socket().connect(port, '127.0.0.1')
    const car = world.car(1)
    const client = mqttConnect({ identity: car, host: NAME, socket, clientId: 'one', reconnectPeriod: 0 })
    world.onClose(() => client.endAsync(true))
    await event(client, 'connect')
    expect(Object.fromEntries(inside)).toEqual({ one: car.mpinId })
  })

  test.each<[url: string, options?: IClientOptions]>([
    ['mqtts://GW.example?clientId=abc', { clientId: 'other' }],
    ['ssl://bücher.example?clientId='],
    ['tls://gw.example:443/path?clientId=a+b%20c%zz&x=1#?clientId=no'],
    ['mqtts://gw.example?clientId=a&clientId=b', { clientId: 'c' }],
    ['mqtts://[2001:db8::1]:77', { clientId: 'c' }],
    ['mqtts://gw.example:1', { host: 'other.example', port: 2, clientId: 'c' }],
    ['mqtts://gw.example', { host: 'one.example', hostname: 'two.example', clientId: 'c' }],
    ['mqtts://u:p%40ss@gw.example', { username: 'x', password: 'y', clientId: 'c' }],
    ['mqtts://u@gw.example', { username: 'x', password: 'y', clientId: 'c' }],
    ['mqtts://u:@gw.example', { clientId: 'c' }],
    ['mqtts://:p@gw.example', { clientId: 'c' }],
    ['mqtts://a:b:c@gw.example', { clientId: 'c' }],
    ['mqtts://u:p@gw.example?clientId=a', { auth: 'q:r', query: { clientId: 'k' } }],
    ['mqtt://gw.example', { protocol: 'mqtts', clientId: 'c' }],
    ['', { protocol: 'mqtts', host: 'gw.example', auth: 'q', query: { clientId: 'k' } }],
  ])('%s is read as MQTT.js reads it', (url, options = {}) => {
    const read = ({ options }: { options: IClientOptions }) => {
      const { protocol, host, hostname, port, username, password, clientId, query } = options
      // As MQTT.js settles them at its first attempt.
      const at = { host: hostname || host, port: port || 8883 }
      return { protocol, ...at, username, password, clientId, query: { ...query } }
    }
    const theirs = mqttjs.connect(url, { ...options, manualConnect: true })
    const ours = mqttConnect(url, { ...options, manualConnect: true, identity: world.car(1) } as never)
    expect(read(ours)).toEqual(read(theirs))
  })

  test('a host of the options counts more than the URL’s, as a name and as an address', async () => {
    const { port, inside } = await serve()
    const options = { identity: world.car(1), clientId: 'one', reconnectPeriod: 0 }
    const client = mqttConnect('mqtts://other.example:1', {
      ...options,
      hostname: NAME,
      port,
      lookup: (_, { all }, found) =>
        all ? found(null, [{ address: '127.0.0.1', family: 4 }]) : found(null, '127.0.0.1', 4),
    })
    world.onClose(() => client.endAsync(true))
    await event(client, 'connect')
    expect([...inside.keys()]).toEqual(['one'])
  })

  test('what a connection would go past in silence is a TypeError', () => {
    const connectTo = (url: string, options: object = {}) => {
      mqttConnect(url, { identity: world.car(1), manualConnect: true, ...options } as never)
    }
    const url = `mqtts://${NAME}`
    expect(() => connectTo(url, { socksProxy: 'socks5h://127.0.0.1:1080' })).toThrow(/^socksProxy, /)
    expect(() => connectTo(url, { unixSocket: true, path: '/run/broker' })).toThrow(/^unixSocket: /)
    expect(() => connectTo('mqtts+unix:///run/broker', { host: NAME })).toThrow(/^unixSocket: /)
    expect(() => connectTo(url, { protocol: 'mqtts+unix' })).toThrow(/^unixSocket: /)
    expect(() => connectTo(url, { protocol: 'ws' })).toThrow('mqtts alone')
    expect(() => connectTo('mqtts:gw.example')).toThrow(/^host: /)
    for (const option of ['key', 'pskCallback', 'checkServerIdentity', 'secureContext', 'session'])
      expect(() => connectTo(url, { [option]: 'mine' })).toThrow(`${option} is no option of TLS`)
    expect(() => connectTo(url, { socksProxy: undefined, unixSocket: false })).not.toThrow()
    vi.stubEnv('MQTTJS_SOCKS_PROXY', 'socks5h://127.0.0.1:1080')
    try {
      expect(() => connectTo(url)).toThrow(/^socksProxy, or MQTTJS_SOCKS_PROXY: /)
      expect(() => connectTo(url, { socket: new Socket() })).not.toThrow()
    } finally {
      vi.unstubAllEnvs()
    }
  })
})

describe('an agent whose slot is about to end', () => {
  test('uses no kept connection for another request', async () => {
    const { port } = await https()
    const agent = httpsAgent(world.car(1), {
      servername: NAME,
      keepAlive: true,
      clock: () => world.now,
      timers: world.timers,
    })
    const fetched = () =>
      new Promise<void>((resolve, reject) => {
        get({ host: '127.0.0.1', port, agent }, response => response.resume().on('end', resolve)).on(
          'error',
          reject,
        )
      })
    await fetched()
    await expect.poll(() => Object.values(agent.freeSockets).flat().length).toBe(1)
    const [free] = Object.values(agent.freeSockets).flat()
    world.turn(1_800_000 - 60_000)
    await closed(free as NonNullable<typeof free>)
    agent.destroy()
  })
})
