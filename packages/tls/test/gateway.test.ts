/** What a gateway passes on: bytes, the ends of connections, and who is there; and what it doesn't. */
import { type ChildProcess, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, rename, rm } from 'node:fs/promises'
import { createServer as createHttp, type IncomingMessage, request } from 'node:http'
import { connect as connectTcp, createServer as createTcp, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import { toHex } from '@milagro-ts/crypto/bytes'
import { httpsAgent } from '@milagro-ts/tls/https'
import { PROXY_TYPE, proxyHeader } from '@milagro-ts/tls/proxy-protocol'
import { connect, secured } from '@milagro-ts/tls/tls'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import {
  heard,
  INSTANCE,
  listenAt,
  type RunningGateway,
  service,
  serviceAt,
  startGateway,
  startOutbound,
} from './gateway-world.js'
import { type Car, closed, NAME, outcome, SLOT, World } from './world.js'

let world: World
beforeEach(async () => {
  world = await World.start()
})
afterEach(() => world.close())

const dial = ({ port }: { port: number }, car: Car) =>
  secured(connect({ host: '127.0.0.1', port, servername: NAME, identity: car }))
/** What happens in another turn of the event loop. */
async function until<T>(look: () => T | undefined): Promise<T> {
  for (;;) {
    const seen = look()
    if (seen !== undefined) return seen
    await new Promise(setImmediate)
  }
}
const plain = (port: number) => connectTcp({ host: '127.0.0.1', port, allowHalfOpen: true })

describe('PROXY protocol', () => {
  /** The header and what follows it; written from proxy-protocol.txt, not from the encoder. */
  function read(bytes: Buffer) {
    expect(bytes.subarray(0, 13).toString('hex')).toBe('0d0a0d0a000d0a515549540a21')
    const end = 16 + bytes.readUInt16BE(14)
    const ip = bytes[13] === 0x11 ? 4 : 16
    const tlvs = new Map<number, Buffer>()
    for (let at = 16 + 2 * ip + 4; at < end; ) {
      const length = bytes.readUInt16BE(at + 1)
      tlvs.set(bytes[at] as number, bytes.subarray(at + 3, at + 3 + length))
      at += 3 + length
    }
    return {
      source: bytes.subarray(16, 16 + ip).toString('hex'),
      destination: bytes.subarray(16 + ip, 16 + 2 * ip).toString('hex'),
      sourcePort: bytes.readUInt16BE(16 + 2 * ip),
      destinationPort: bytes.readUInt16BE(18 + 2 * ip),
      tlvs,
      rest: bytes.subarray(end).toString(),
    }
  }

  test('stands before the first byte, with addresses, idCore, slot and, where it is asked for, the instance', async () => {
    const came: Promise<Buffer>[] = []
    const to = await service(world, socket => {
      came.push(heard(socket))
      socket.end()
    })
    const gateway = await startGateway(world, { to, pass: 'proxy' })
    const car = world.car(1)
    const socket = await dial(gateway, car)
    socket.end('hello')
    const { tlvs, ...ends } = read(await await until(() => came[0]))
    expect(ends).toEqual({
      source: '7f000001',
      destination: '7f000001',
      sourcePort: socket.localPort,
      destinationPort: gateway.port,
      rest: 'hello',
    })
    expect([...tlvs.keys()]).toEqual([PROXY_TYPE.idCore, PROXY_TYPE.slot])
    expect(tlvs.get(0xe0)?.toString('base64url')).toBe(car.mpinId)
    expect(tlvs.get(0xe1)?.readUInt32BE()).toBe(SLOT)
    gateway.settings = { ...gateway.settings, name: 'instance' }
    const second = await dial(gateway, car)
    second.end()
    expect(
      read(await await until(() => came[1]))
        .tlvs.get(0xe2)
        ?.toString(),
    ).toBe(INSTANCE)
  })

  test('IPv6, IPv4 within it, and what is no address', () => {
    const { idCore } = world.car(1)
    const ends = { remotePort: 1, localPort: 65_535 }
    const of = (remoteAddress: string, localAddress: string) =>
      read(Buffer.from(proxyHeader({ ...ends, remoteAddress, localAddress }, { idCore, slot: 0 })))
    expect(of('2001:db8::1:2', '::1')).toMatchObject({
      source: '20010db8000000000000000000010002',
      destination: '00000000000000000000000000000001',
    })
    expect(of('::ffff:192.0.2.1', '10.0.0.1')).toMatchObject({ source: 'c0000201', destination: '0a000001' })
    expect(of('fe80::1%eth0', '10.0.0.1')).toMatchObject({
      source: 'fe800000000000000000000000000001',
      destination: '00000000000000000000ffff0a000001',
    })
    expect(() => of('somewhere', '::1')).toThrow(RangeError)
  })
})

describe('bytes', () => {
  const DIGEST = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex')

  test('both ways, as they were, through both gateways; half-closed from either side', async () => {
    // The service answers only when the client has said everything.
    const to = await service(world, async socket => {
      const all = await heard(socket)
      socket.write(all)
      socket.end(DIGEST(all))
    })
    const gateway = await startGateway(world, { to, pass: 'none' })
    const { port } = await startOutbound(world, world.car(1), gateway.port)
    const bytes = Buffer.alloc(3_000_000, 'all sorts of things ')
    const socket = plain(port)
    const answer = heard(socket)
    socket.end(bytes)
    expect(DIGEST(await answer)).toBe(DIGEST(Buffer.concat([bytes, Buffer.from(DIGEST(bytes))])))
    // And the service that says everything first still hears.
    const heardLater: Promise<Buffer>[] = []
    const other = await service(world, socket => {
      heardLater.push(heard(socket))
      socket.end('that was all')
    })
    gateway.settings = { ...gateway.settings, to: other }
    const second = plain(port)
    expect((await heard(second)).toString()).toBe('that was all')
    second.end('not yet')
    expect((await await until(() => heardLater[0])).toString()).toBe('not yet')
  })

  test('who reads nothing holds the writer up, and loses nothing', async () => {
    let feeding: Socket | undefined
    const to = await service(world, socket => {
      feeding = socket
    })
    const gateway = await startGateway(world, { to, pass: 'none' })
    const socket = await dial(gateway, world.car(1))
    const writer = await until(() => feeding)
    const chunk = Buffer.alloc(65_536, 7)
    // Until it stays full: system buffers on the way take some megabytes, and no more than those.
    let written = 0
    let full = 0
    while (full < 50) {
      if (writer.writableNeedDrain) {
        full++
        await new Promise(resolve => setTimeout(resolve, 2))
        continue
      }
      full = 0
      written += chunk.length
      writer.write(chunk)
      if (written > 200_000_000) throw new Error('nobody holds it up')
      await new Promise(setImmediate)
    }
    writer.end()
    expect((await heard(socket)).length).toBe(written)
  }, 60_000)

  test('a connection that breaks at one end breaks at the other', async () => {
    const sockets: Socket[] = []
    const to = await service(world, socket => void sockets.push(socket))
    const gateway = await startGateway(world, { to, pass: 'none' })
    const first = await dial(gateway, world.car(1))
    const broken = await until(() => sockets[0])
    const gone = closed(first)
    first.resume()
    broken.resetAndDestroy()
    await gone
    const second = await dial(gateway, world.car(1))
    const left = await until(() => sockets[1])
    const ended = closed(left)
    left.resume()
    left.end()
    second.destroy()
    await ended
  })

  test('silence ends it, a byte now and then doesn’t', async () => {
    const to = await service(world, socket => socket.pipe(socket))
    const gateway = await startGateway(world, { to, pass: 'none', idle: 1_000 })
    const socket = await dial(gateway, world.car(1))
    for (let i = 0; i < 3; i++) {
      socket.write('x')
      await new Promise(resolve => socket.once('data', resolve))
      world.timers.fire()
    }
    const gone = closed(socket)
    socket.resume()
    world.timers.fire()
    world.timers.fire()
    await gone
  })
})

describe('who may stay', () => {
  let gateway: RunningGateway
  let service1: Socket[]
  beforeEach(async () => {
    service1 = []
    const to = await service(world, socket => {
      service1.push(socket)
      socket.write('welcome')
    })
    gateway = await startGateway(world, { to, pass: 'none' })
  })
  const inside = async (car: Car) => {
    const socket = await dial(gateway, car)
    await new Promise(resolve => socket.once('data', resolve))
    return socket
  }

  test('a ban ends the connection to the service as well, and nobody else’s', async () => {
    const [car, other] = [world.car(1), world.car(2)]
    const sockets = [await inside(car), await inside(other)] as const
    const [first] = service1 as [Socket]
    first.resume()
    first.once('end', () => first.end())
    const ends = [closed(sockets[0]), closed(first)]
    world.banned.add(car.mpinId)
    world.door.look()
    await Promise.all(ends)
    expect([sockets[1].destroyed, service1[1]?.destroyed]).toEqual([false, false])
    expect(await outcome(dial(gateway, car))).not.toBe('in')
    expect(service1.length).toBe(2)
    sockets[1].destroy()
  })

  test('a stranger reaches the service with nothing', async () => {
    const { Scalar } = await import('@milagro-ts/crypto/scalar')
    const stranger = world.car(
      1,
      Scalar.random(length => crypto.getRandomValues(new Uint8Array(length))),
    )
    expect(await outcome(dial(gateway, stranger))).not.toBe('in')
    const socket = connectTcp({ host: '127.0.0.1', port: gateway.port })
    socket.write('GET / HTTP/1.1\r\n\r\n')
    await closed(socket)
    expect(service1.length).toBe(0)
    expect(await gateway.metrics()).toContain('gateway_handshakes_failed_total 1')
  })

  test('no more connections of one device, nor in all, than was said', async () => {
    gateway.settings = { ...gateway.settings, connectionsPerDevice: 2 }
    const sockets = [await inside(world.car(1)), await inside(world.car(1))]
    expect(await outcome(dial(gateway, world.car(1)))).toBe('closed')
    sockets.push(await inside(world.car(2)))
    gateway.settings = { ...gateway.settings, connections: 3 }
    expect(await outcome(dial(gateway, world.car(3)))).not.toBe('in')
    expect(service1.length).toBe(3)
    for (const socket of sockets) socket.destroy()
  })

  test('an outbound gateway has as many connections as its settings say now', async () => {
    const outbound = await startOutbound(world, world.car(1), gateway.port)
    const { port } = outbound
    outbound.settings = { ...outbound.settings, connections: 1 }
    const first = plain(port)
    await new Promise(resolve => first.once('data', resolve))
    const one = plain(port)
    expect((await heard(one)).length).toBe(0)
    one.destroy()
    expect(await outbound.metrics()).toContain('outbound_connections_taken_total{outcome="too-many"} 1')
    outbound.settings = { ...outbound.settings, connections: 2 }
    const second = plain(port)
    await new Promise(resolve => second.once('data', resolve))
    for (const socket of [first, second]) socket.destroy()
  })

  /** Connected, and silent. */
  const silentFrom = async (localAddress: string, count: number) => {
    const sockets = Array.from({ length: count }, () =>
      connectTcp({ host: '127.0.0.1', port: gateway.port, localAddress }),
    )
    await Promise.all(sockets.map(socket => once(socket, 'connect')))
    await until(() => (gateway.gateway.comingIn >= count ? true : undefined))
    return sockets.map(socket => socket.on('error', () => undefined).resume())
  }
  const destroyed = (sockets: readonly Socket[]) => sockets.map(socket => socket.destroyed)

  test('strangers who say nothing take no place inside, and the oldest of a source gives way to its next', async () => {
    gateway.settings = { ...gateway.settings, connections: 1, handshakes: 5, handshakesPerSource: 3 }
    const silent = await silentFrom('127.0.0.1', 3)
    const [oldest] = silent as [Socket]
    // The fourth of this source.
    const socket = await inside(world.car(1))
    await closed(oldest)
    expect(destroyed(silent)).toEqual([true, false, false])
    const metrics = await gateway.metrics()
    expect(metrics).toContain('gateway_handshakes_displaced_total 1')
    expect(metrics).not.toContain('gateway_handshakes_turned_away_total')
    for (const one of [...silent, socket, ...service1]) one.destroy()
    await until(() => (gateway.gateway.connections === 0 ? true : undefined))
    // What has gone is counted nowhere.
    gateway.settings = { ...gateway.settings, handshakes: 1 }
    await until(() => (gateway.gateway.comingIn === 0 ? true : undefined))
    ;(await inside(world.car(1))).destroy()
  })

  test('who has said half a ClientHello gives way as well; whose handshake is under way doesn’t, to one of its source', async () => {
    gateway.settings = { ...gateway.settings, handshakesPerSource: 2 }
    const [half] = (await silentFrom('127.0.0.1', 1)) as [Socket]
    half.write(Buffer.from([22, 3, 1, 1]))
    let permit = () => {}
    world.permitted = () =>
      new Promise(resolve => {
        permit = () => resolve({ attributes: {}, instance: 'VIN' })
      })
    const first = inside(world.car(1))
    // It has been asked about: its PSK is there.
    await until(() => (world.asked.length === 1 ? true : undefined))
    const permitFirst = permit
    const second = inside(world.car(2))
    await closed(half)
    await until(() => (world.asked.length === 2 ? true : undefined))
    expect(await outcome(dial(gateway, world.car(3)))).not.toBe('in')
    expect(world.asked).toEqual([world.car(1).mpinId, world.car(2).mpinId])
    const metrics = await gateway.metrics()
    expect(metrics).toContain('gateway_handshakes_displaced_total 1')
    expect(metrics).toContain('gateway_handshakes_turned_away_total 1')
    permitFirst()
    permit()
    for (const socket of await Promise.all([first, second])) socket.destroy()
  })

  test.skipIf(process.platform !== 'linux')(
    'silent connections of ten other addresses keep out no car: one of whose has most gives way, and the log names it',
    async () => {
      gateway.settings = { ...gateway.settings, handshakes: 21, handshakesPerSource: 3 }
      const silent: Socket[] = []
      for (let source = 1; source <= 10; source++)
        silent.push(...(await silentFrom(`127.0.1.${source}`, source === 4 ? 3 : 2)))
      await until(() => (gateway.gateway.comingIn === 21 ? true : undefined))
      const sockets = [await inside(world.car(1)), await inside(world.car(2))]
      // The first took a place of the fourth source, and left it as it came in: there was one for the second.
      await closed(silent[6] as Socket)
      expect(destroyed(silent).indexOf(true)).toBe(6)
      expect(destroyed(silent).filter(Boolean)).toHaveLength(1)
      expect(world.logged.join('')).not.toContain('some were closed')
      world.turn(10_000)
      const [line, ...more] = world.logged.filter(one => one.includes('some were closed'))
      expect(more).toEqual([])
      expect(JSON.parse(line as string)).toMatchObject({
        level: 40,
        refused: 1,
        most: [{ source: '127.0.1.4', refused: 1 }],
      })
      for (const one of [...silent, ...sockets]) one.destroy()
    },
  )

  test('a device that is gone when it has come in: no fault', async () => {
    gateway.settings = { ...gateway.settings, pass: 'proxy' }
    gateway.gateway.server.prependListener('secureConnection', socket => socket.destroy())
    expect(await outcome(dial(gateway, world.car(1)))).not.toBe('in')
    await until(() => (gateway.gateway.connections === 0 ? true : undefined))
    expect(await gateway.metrics()).toContain('gateway_connections_taken_total{outcome="gone"} 1')
    expect(world.logged.join('')).not.toContain('could not be passed on')
  })

  test('closing takes nobody more, waits for those who are in, and then puts them out', async () => {
    const socket = await inside(world.car(1))
    const gone = closed(socket)
    const closing = gateway.gateway.close(5_000)
    expect(await outcome(dial(gateway, world.car(1)))).not.toBe('in')
    socket.write('still here')
    await new Promise(resolve => (service1[0] as Socket).once('data', resolve))
    world.turn(5_000)
    await closing
    await gone
  })

  test('a service that is away: the device is told nothing but the end, and health says it', async () => {
    const to = { host: '127.0.0.1', port: 1 }
    gateway.settings = { ...gateway.settings, to }
    expect(await outcome(dial(gateway, world.car(1)))).toBe('closed')
    expect(gateway.gateway.service).toContain('ECONNREFUSED')
    expect(await gateway.metrics()).toContain('gateway_connections_taken_total{outcome="service-away"} 1')
  })
})

describe('HTTP', () => {
  let requests: IncomingMessage[]
  let to: { host: string; port: number }
  beforeEach(async () => {
    requests = []
    const api = createHttp(async (incoming, response) => {
      requests.push(incoming)
      let body = ''
      for await (const chunk of incoming) body += chunk
      response.setHeader('x-answer', ['one', 'two'])
      response.setHeader('connection', 'keep-alive')
      response.statusCode = incoming.url === '/missing' ? 404 : 200
      response.end(`${incoming.method} ${incoming.url} ${body}`)
    })
    api.on('upgrade', (incoming, socket) => {
      requests.push(incoming)
      if (incoming.url === '/no')
        return void socket.end('HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno')
      socket.write('HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n')
      socket.pipe(socket)
    })
    world.onClose(() => api.closeAllConnections())
    to = { host: '127.0.0.1', port: await world.listen(api) }
  })

  interface Said {
    readonly status: number | undefined
    readonly body: string
    readonly headers: IncomingMessage['headers']
  }
  const ask = (options: object, body = '') =>
    new Promise<Said>((resolve, reject) => {
      const asked = request({ host: '127.0.0.1', ...options }, async answer => {
        let text = ''
        for await (const chunk of answer) text += chunk
        resolve({ status: answer.statusCode, body: text, headers: answer.headers })
      })
      asked.on('error', reject)
      asked.end(body)
    })
  const asCar = (car: Car, { port }: { port: number }) => {
    const agent = httpsAgent(car, { servername: NAME, keepAlive: true, maxSockets: 1 })
    world.onClose(() => agent.destroy())
    return { agent, protocol: 'https:', port }
  }

  test('a request arrives with its body and the device’s name, and the answer comes back', async () => {
    const gateway = await startGateway(world, { to, pass: 'http', name: 'instance' })
    const car = world.car(1)
    const at = asCar(car, gateway)
    const { status, body, headers } = await ask({ ...at, method: 'POST', path: '/tracks?day=1' }, 'here')
    expect([status, body]).toEqual([200, 'POST /tracks?day=1 here'])
    expect(headers['x-answer']).toBe('one, two')
    expect(requests[0]?.headers).toMatchObject({
      'milagro-id': car.mpinId,
      'milagro-slot': String(SLOT),
      'milagro-instance': encodeURIComponent(INSTANCE),
      'x-forwarded-for': '127.0.0.1',
      'x-forwarded-proto': 'https',
    })
    expect(await ask({ ...at, path: '/missing' })).toMatchObject({ status: 404, body: 'GET /missing ' })
    expect(await gateway.metrics()).toContain('gateway_requests_passed_on_total{outcome="OK"} 2')
  })

  test('two devices over the shared connections to the service are never mixed up', async () => {
    const gateway = await startGateway(world, { to, pass: 'http' })
    const [one, two] = [world.car(1), world.car(2)]
    const ats = [asCar(one, gateway), asCar(two, gateway)]
    for (let i = 0; i < 6; i++) await ask({ ...(ats[i % 2] as object), path: `/${i % 2}` })
    expect(new Set(requests.map(({ socket }) => socket.remotePort)).size).toBe(1)
    for (const { url, headers } of requests)
      expect(headers['milagro-id']).toBe(url === '/0' ? one.mpinId : two.mpinId)
  })

  test('what a client says under our names, or in its connection’s own headers, never arrives', async () => {
    const gateway = await startGateway(world, { to, pass: 'http' })
    const [car, other] = [world.car(1), world.car(2)]
    const forged = {
      'Milagro-Id': other.mpinId,
      MILAGRO_ID: other.mpinId,
      'Milagro.Id': other.mpinId,
      milagro_slot: '1',
      'milagro-instance': 'VIN2',
      'X-Forwarded-For': '192.0.2.9',
      X_Forwarded_For: '192.0.2.9',
      'x-real-ip': '192.0.2.9',
      Forwarded: 'for=192.0.2.9',
      'Proxy-Authorization': 'Basic eA==',
      TE: 'trailers',
      Connection: 'keep-alive, X-Hop',
      'X-Hop': 'dropped',
      'X-Kept': 'kept',
    }
    await ask({ ...asCar(car, gateway), headers: forged })
    const { rawHeaders } = requests[0] as IncomingMessage
    const names = rawHeaders.filter((_, i) => i % 2 === 0).map(name => name.toLowerCase())
    expect(names.sort()).toEqual(
      [
        'connection',
        'host',
        'milagro-id',
        'milagro-slot',
        'x-forwarded-for',
        'x-forwarded-proto',
        'x-kept',
      ].sort(),
    )
    expect(rawHeaders.join(' ')).not.toMatch(new RegExp(`${other.mpinId}|192\\.0\\.2\\.9|VIN2`))
    expect(requests[0]?.headers['milagro-id']).toBe(car.mpinId)
  })

  test.each([
    ['two lengths', 'Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'],
    ['a length twice', 'Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef'],
    ['a folded header', 'X-A: 1\r\n Milagro-Id: x\r\n\r\n'],
    ['a space before the colon', 'Milagro-Id : x\r\n\r\n'],
    ['a bare line feed', 'X-A: 1\nMilagro-Id: x\r\n\r\n'],
    ['two hosts', 'Host: y\r\nContent-Length: 0\r\n\r\n'],
    ['two hosts of an upgrade', 'Host: y\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n'],
    [
      'an upgrade to h2c, in which the client would write its own requests',
      'Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n',
    ],
    ['an upgrade with a body', 'Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nhi'],
  ])('%s is refused at the gateway', async (_, rest) => {
    const gateway = await startGateway(world, { to, pass: 'http' })
    const socket = await dial(gateway, world.car(1))
    const answer = heard(socket)
    socket.write(`POST / HTTP/1.1\r\nHost: x\r\n${rest}`)
    expect((await answer).toString()).toMatch(/^HTTP\/1\.1 400 /)
    expect(requests).toEqual([])
    socket.destroy()
  })

  test.each(['gzip, chunked', 'gzip', 'chunked, chunked', 'identity'])(
    'a body that is coded by %s reaches no service',
    async coding => {
      const gateway = await startGateway(world, { to, pass: 'http' })
      const socket = await dial(gateway, world.car(1))
      const answer = heard(socket)
      socket.write(`POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: ${coding}\r\n\r\n0\r\n\r\n`)
      expect((await answer).toString()).toMatch(/^HTTP\/1\.1 (400|501) [\s\S]*connection: close/i)
      expect(requests).toEqual([])
      socket.destroy()
    },
  )

  /** The first request carries a second, in another device's name, as its body. */
  const hidden = (id: string) => `GET /hidden HTTP/1.1\r\nHost: x\r\nMilagro-Id: ${id}\r\n\r\n`
  test.each([
    [
      'in chunks',
      'Transfer-Encoding: chunked\r\n\r\n',
      (body: string) => `${body.length.toString(16)}\r\n${body}\r\n0\r\n\r\n`,
    ],
    [
      'of a length that is said to be the connection’s own',
      'Connection: content-length\r\nContent-Length: LENGTH\r\n\r\n',
      (body: string) => body,
    ],
  ])('the body of a GET, %s, stays a body', async (_, head, framed) => {
    const gateway = await startGateway(world, { to, pass: 'http' })
    const body = hidden(world.car(2).mpinId)
    const socket = await dial(gateway, world.car(1))
    socket.write(
      `GET /seen HTTP/1.1\r\nHost: x\r\n${head.replace('LENGTH', String(body.length))}${framed(body)}`,
    )
    const [answer] = await once(socket, 'data')
    expect(String(answer)).toMatch(/^HTTP\/1\.1 200 /)
    await ask({ ...asCar(world.car(1), gateway), path: '/after' })
    expect(requests.map(({ url }) => url)).toEqual(['/seen', '/after'])
    socket.destroy()
  })

  test('an upgrade: bytes both ways with the device’s name, and a ban ends it; one that the service refuses', async () => {
    const gateway = await startGateway(world, { to, pass: 'http' })
    const car = world.car(1)
    const socket = await dial(gateway, car)
    const upgrade = (path: string) =>
      `GET ${path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nMilagro-Id: forged\r\n\r\n`
    socket.write(`${upgrade('/')}ping`)
    let text = ''
    socket.on('data', chunk => {
      text += chunk
    })
    while (!text.endsWith('ping')) await new Promise(resolve => socket.once('data', resolve))
    expect(text).toMatch(/^HTTP\/1\.1 101 /)
    expect(requests[0]?.headers).toMatchObject({ 'milagro-id': car.mpinId, upgrade: 'websocket' })
    const gone = closed(socket)
    world.banned.add(car.mpinId)
    world.door.look()
    await gone
    const other = await dial(gateway, world.car(2))
    const answer = heard(other)
    other.write(upgrade('/no'))
    expect((await answer).toString()).toMatch(/^HTTP\/1\.1 403 [\s\S]*no$/)
    other.destroy()
  })

  test('who says half a request, or nothing, is closed like any silent connection', async () => {
    const gateway = await startGateway(world, { to, pass: 'http' })
    const sockets = await Promise.all([1, 2].map(leaf => dial(gateway, world.car(leaf))))
    sockets[0]?.write('GET / HTTP/1.1\r\nHo')
    await until(() => (gateway.gateway.connections === 2 ? true : undefined))
    const ends = sockets.map(socket => closed(socket.resume()))
    for (let i = 0; i < 3; i++) {
      world.turn(60_000)
      await new Promise(setImmediate)
    }
    await Promise.all(ends)
  })

  test('a service that is away answers 503 with a problem; one that is silent, too', async () => {
    const gateway = await startGateway(world, { to, pass: 'http' })
    const at = asCar(world.car(1), gateway)
    gateway.settings = { ...gateway.settings, to: { host: '127.0.0.1', port: 1 } }
    const away = await ask(at)
    expect(away).toMatchObject({ status: 503, headers: { 'retry-after': '1' } })
    expect(JSON.parse(away.body)).toMatchObject({ code: 'RETRY_LATER' })
    let arrived = () => {}
    const silent = new Promise<void>(resolve => {
      arrived = resolve
    })
    gateway.settings = {
      ...gateway.settings,
      to: await service(world, socket => socket.once('data', arrived)),
    }
    const asking = ask(at)
    await silent
    await new Promise(setImmediate)
    world.turn(10_000)
    expect(await asking).toMatchObject({ status: 503 })
  })

  test('a target that names another host is refused', async () => {
    const gateway = await startGateway(world, { to, pass: 'http' })
    const socket = await dial(gateway, world.car(1))
    const answer = heard(socket)
    socket.write('GET http://other.example/ HTTP/1.1\r\nHost: x\r\n\r\n')
    expect((await answer).toString()).toMatch(/^HTTP\/1\.1 400 /)
    expect(requests).toEqual([])
    socket.destroy()
  })

  test('closing: the request under way is answered, and is the last on its connection', async () => {
    let answer = () => {}
    let arrived = () => {}
    const asked = new Promise<void>(resolve => {
      arrived = resolve
    })
    const slow = createHttp((_, response) => {
      answer = () => response.end('at last')
      arrived()
    })
    world.onClose(() => slow.closeAllConnections())
    const port = await world.listen(slow)
    const { gateway, ...at } = await startGateway(world, { to: { host: '127.0.0.1', port }, pass: 'http' })
    const asking = ask(asCar(world.car(1), at))
    await asked
    const closing = gateway.close(5_000)
    answer()
    expect(await asking).toMatchObject({ status: 200, body: 'at last', headers: { connection: 'close' } })
    await closing
  })

  test('no tunnel', async () => {
    const gateway = await startGateway(world, { to, pass: 'http' })
    const socket = await dial(gateway, world.car(1))
    socket.write('CONNECT 192.0.2.1:22 HTTP/1.1\r\nHost: x\r\n\r\n')
    expect((await heard(socket)).toString()).toMatch(/^HTTP\/1\.1 405 /)
    socket.destroy()
  })
})

describe('a service at a Unix domain socket', () => {
  let folder: string
  let path: string
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'milagro-socket-'))
    path = join(folder, 'service')
  })
  afterEach(() => rm(folder, { recursive: true }))

  test('proxy: the header has the ends of the device’s connection; and what is said, both ways, half-closed', async () => {
    const came: Promise<Buffer>[] = []
    const to = await serviceAt(world, path, async socket => {
      const all = heard(socket)
      came.push(all)
      socket.end((await all).subarray(-5))
    })
    const gateway = await startGateway(world, { to, pass: 'proxy' })
    const car = world.car(1)
    const socket = await dial(gateway, car)
    const answer = heard(socket)
    socket.end('hello')
    const all = await (came[0] ?? until(() => came[0]))
    const ends = { remoteAddress: '127.0.0.1', remotePort: socket.localPort as number }
    const its = { localAddress: '127.0.0.1', localPort: gateway.port }
    const header = proxyHeader({ ...ends, ...its }, { idCore: car.idCore, slot: SLOT })
    expect(all.toString('hex')).toBe(`${toHex(header)}${Buffer.from('hello').toString('hex')}`)
    expect((await answer).toString()).toBe('hello')
    expect(gateway.gateway.service).toBe(true)
  })

  test('none: nothing but the bytes; another address counts from the next connection on', async () => {
    const to = await serviceAt(world, path, socket => socket.end('at a socket'))
    const gateway = await startGateway(world, { to, pass: 'none' })
    expect((await heard(await dial(gateway, world.car(1)))).toString()).toBe('at a socket')
    const other = await service(world, socket => socket.end('at a port'))
    gateway.settings = { ...gateway.settings, to: other }
    expect((await heard(await dial(gateway, world.car(1)))).toString()).toBe('at a port')
  })

  test('mqtt: the CONNECT arrives under the device’s name', async () => {
    const came: Buffer[] = []
    const to = await serviceAt(world, path, socket => {
      socket.on('data', (chunk: Buffer) => void came.push(chunk))
    })
    const gateway = await startGateway(world, { to, pass: 'mqtt' })
    const car = world.car(1)
    const socket = await dial(gateway, car)
    // 3.1.1, a clean session, no client id, no user name.
    socket.write(Buffer.from('100c00044d5154540402003c0000', 'hex'))
    const packet = await until(() => came[0])
    expect([packet[0], packet.toString('latin1').includes(car.mpinId)]).toEqual([0x10, true])
    socket.destroy()
  })

  test('http: requests of two devices over one connection, and an upgrade', async () => {
    const seen: string[] = []
    const connections: Socket[] = []
    const api = createHttp(({ headers, url }, response) => {
      seen.push(`${url} ${headers['milagro-id']}`)
      response.end('here')
    })
    api.on('connection', socket => void connections.push(socket))
    api.on('upgrade', (_, socket) => {
      socket.write('HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n')
      socket.pipe(socket)
    })
    world.onClose(() => api.closeAllConnections())
    const gateway = await startGateway(world, { to: await listenAt(world, path, api), pass: 'http' })
    const [one, two] = [world.car(1), world.car(2)]
    for (const [car, target] of [[one, '/one'] as const, [two, '/two'] as const]) {
      const socket = await dial(gateway, car)
      socket.write(`GET ${target} HTTP/1.1\r\nHost: x\r\n\r\n`)
      const [answer] = await once(socket, 'data')
      expect(String(answer)).toMatch(/^HTTP\/1\.1 200 /)
      socket.destroy()
    }
    expect([seen, connections.length]).toEqual([[`/one ${one.mpinId}`, `/two ${two.mpinId}`], 1])
    const socket = await dial(gateway, one)
    socket.write('GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nping')
    let text = ''
    while (!text.endsWith('ping')) text += String((await once(socket, 'data'))[0])
    expect(text).toMatch(/^HTTP\/1\.1 101 /)
    socket.destroy()
  })

  test('http: when the service moves, no connection to the former one is kept; the request under way is answered', async () => {
    const open = new Set<Socket>()
    let answerLate = () => {}
    const former = createHttp(({ url }, response) => {
      if (url === '/late') answerLate = () => void response.end('late')
      else response.end('former')
    })
    former.keepAliveTimeout = 0
    former.on('connection', socket => {
      open.add(socket)
      socket.once('close', () => open.delete(socket))
    })
    const next = createHttp((_, response) => response.end('next'))
    world.onClose(() => next.closeAllConnections())
    const gateway = await startGateway(world, { to: await listenAt(world, path, former), pass: 'http' })
    const get = async (socket: Socket, target: string) => {
      socket.write(`GET ${target} HTTP/1.1\r\nHost: x\r\n\r\n`)
      let text = ''
      while (!/(former|late|next)/.test(text)) text += String((await once(socket, 'data'))[0])
      return text.match(/former|late|next/)?.[0]
    }
    const [one, two] = [await dial(gateway, world.car(1)), await dial(gateway, world.car(2))]
    const late = get(one, '/late')
    await until(() => open.size === 1 || undefined)
    expect(await get(two, '/')).toBe('former')
    expect(open.size).toBe(2)
    const to = await listenAt(world, join(folder, 'next'), next)
    gateway.settings = { ...gateway.settings, to }
    expect(await get(two, '/')).toBe('next')
    await until(() => open.size === 1 || undefined)
    answerLate()
    expect(await late).toBe('late')
    await until(() => open.size === 0 || undefined)
    for (const socket of [one, two]) socket.destroy()
  })

  test('one that is away: nothing at the path, or what somebody has left there; health says which', async () => {
    const gateway = await startGateway(world, { to: { path }, pass: 'none' })
    expect(await outcome(dial(gateway, world.car(1)))).toBe('closed')
    expect(gateway.gateway.service).toBe(`connect ENOENT ${path}`)
    const gone = createTcp()
    await new Promise<void>(resolve => gone.listen(join(folder, 'first'), resolve))
    await rename(join(folder, 'first'), path)
    await new Promise(resolve => gone.close(resolve))
    expect(await outcome(dial(gateway, world.car(1)))).toBe('closed')
    expect(gateway.gateway.service).toBe(`connect ECONNREFUSED ${path}`)
    gateway.settings = { ...gateway.settings, pass: 'http' }
    const socket = await dial(gateway, world.car(1))
    socket.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n')
    expect(String((await once(socket, 'data'))[0])).toMatch(/^HTTP\/1\.1 503 /)
    expect(gateway.gateway.service).toBe(`connect ECONNREFUSED ${path}`)
    socket.destroy()
  })
})

describe('a burst at a Unix domain socket whose queue is full', () => {
  const BURST = 100
  let folder: string
  let path: string
  let stopped: ChildProcess
  /** In a process of its own, which is stopped: the kernel queues two connections, and refuses the others with EAGAIN. */
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'milagro-socket-'))
    path = join(folder, 'service')
    const serving = `require('node:http').createServer((_, answer) => answer.end('here'))
      .listen({ path: process.argv[1], backlog: 1 }, () => console.log('listening'))`
    stopped = spawn(process.execPath, ['-e', serving, path], { stdio: ['ignore', 'pipe', 'inherit'] })
    await once(stopped.stdout as Readable, 'data')
    stopped.kill('SIGSTOP')
  })
  afterEach(async () => {
    stopped.kill('SIGKILL')
    await rm(folder, { recursive: true })
  })

  const ROOM = {
    connections: BURST + 1,
    connectionsPerDevice: BURST,
    handshakes: BURST,
    handshakesPerSource: BURST,
  }
  const ALL = /connections_taken_total\{outcome="OK"\} 100|requests_passed_on_total\{outcome="OK"\} 100/
  const get = (socket: Socket) =>
    new Promise<string>(resolve => {
      socket.once('data', (chunk: Buffer) => resolve(String(chunk).slice(0, 12)))
      socket.once('close', () => resolve('closed'))
      socket.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n')
    })
  const burst = async (gateway: RunningGateway) => {
    const sockets = await Promise.all(Array.from({ length: BURST }, () => dial(gateway, world.car(1))))
    return { sockets, answers: Promise.all(sockets.map(get)) }
  }
  /** Time goes by, in steps of `milliseconds`, until this has come about; nobody is put out for silence. */
  const passing = async <T>(milliseconds: number, awaited: Promise<T>): Promise<T> => {
    let isOver = false
    const end = () => {
      isOver = true
    }
    awaited.then(end, end)
    while (!isOver) {
      await new Promise(resolve => setTimeout(resolve, 5))
      world.now += milliseconds
      world.timers.fireDue()
    }
    return awaited
  }

  test.each(['none', 'http'] as const)('%s: nobody is refused', async pass => {
    const gateway = await startGateway(world, { to: { path }, pass, ...ROOM, patience: 3_600_000 })
    const { sockets, answers } = await burst(gateway)
    await new Promise(resolve => setTimeout(resolve, 200))
    stopped.kill('SIGCONT')
    expect(new Set(await passing(20, answers))).toEqual(new Set(['HTTP/1.1 200']))
    expect(await gateway.metrics()).toMatch(ALL)
    for (const socket of sockets) socket.destroy()
  })

  test('an upgrade waits as well', async () => {
    const gateway = await startGateway(world, { to: { path }, pass: 'http', ...ROOM, patience: 3_600_000 })
    const { sockets, answers } = await burst(gateway)
    const socket = await dial(gateway, world.car(2))
    socket.write('GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n')
    const answer = once(socket, 'data')
    await new Promise(resolve => setTimeout(resolve, 200))
    stopped.kill('SIGCONT')
    // This service knows no upgrade, and answers as if nobody had asked for one.
    expect(String((await passing(20, answer))[0])).toMatch(/^HTTP\/1\.1 200 /)
    await passing(20, answers)
    for (const one of [...sockets, socket]) one.destroy()
  })

  test('when patience is over it is away, and health says why', async () => {
    const gateway = await startGateway(world, { to: { path }, pass: 'http', ...ROOM })
    const { sockets, answers } = await burst(gateway)
    // Those that the kernel has queued wait for an answer.
    const said = await passing(100, answers)
    expect(new Set(said)).toEqual(new Set(['HTTP/1.1 503']))
    await expect.poll(() => gateway.gateway.service).toMatch(/EAGAIN|no answer in time/)
    for (const socket of sockets) socket.destroy()
    gateway.settings = { ...gateway.settings, pass: 'none' }
    expect(await passing(100, outcome(dial(gateway, world.car(1))))).toBe('closed')
    expect(gateway.gateway.service).toBe(`connect EAGAIN ${path}`)
  })
})

test('what a gateway logs names devices by their M-Pin ID, and holds no key', async () => {
  const to = await service(world, socket => socket.end('x'))
  const gateway = await startGateway(world, { to, pass: 'none' })
  const car = world.car(1)
  await heard(await dial(gateway, car))
  const { psk } = await car.externalPsk(NAME)
  for (const line of world.logged) expect(line).not.toContain(toHex(psk))
})
