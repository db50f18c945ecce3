/** A gateway behind TCP load balancers: the PROXY header that is read, whose it is believed, and whose connection it is then. */
import { once } from 'node:events'
import { createServer as createHttp } from 'node:http'
import { connect as connectTcp, createServer as createTcp, type Socket } from 'node:net'
import { fromHex } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import {
  canonicalAddress,
  MOST_PROXY_HEADER,
  proxyHeader,
  readProxyHeader,
} from '@milagro-ts/tls/proxy-protocol'
import { connect, secured } from '@milagro-ts/tls/tls'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { heard, type RunningGateway, service, startGateway } from './gateway-world.js'
import { type Car, closed, NAME, outcome, SLOT, World } from './world.js'

let world: World
beforeEach(async () => {
  world = await World.start()
})
afterEach(() => world.close())

const SIGNATURE = '0d0a0d0a000d0a515549540a'
/** By hand from proxy-protocol.txt, not from the encoder. */
const header = (rest: string) => Buffer.from(fromHex(`${SIGNATURE}${rest.replaceAll(' ', '')}`))
/** From 198.51.100.7:4660 to 203.0.113.1:443. */
const TCP4 = header('21 11 000c c6336407 cb007101 1234 01bb')
const LOCAL = header('20 00 0000')

describe('the header', () => {
  const ofTcp4 = {
    remoteAddress: '198.51.100.7',
    remotePort: 0x1234,
    localAddress: '203.0.113.1',
    localPort: 443,
  }

  test('of IPv4, of IPv6, and IPv4 within IPv6', () => {
    expect(readProxyHeader(TCP4)).toEqual({ size: 28, ends: ofTcp4 })
    const [source, destination] = [`20010db8${'0'.repeat(22)}07`, `20010db8000100000000000000000001`]
    expect(readProxyHeader(header(`21 21 0024 ${source} ${destination} 1234 01bb`))).toEqual({
      size: 52,
      ends: { ...ofTcp4, remoteAddress: '2001:db8::7', localAddress: '2001:db8:1::1' },
    })
    const mapped = (hex: string) => `${'0'.repeat(20)}ffff${hex}`
    expect(
      readProxyHeader(header(`21 21 0024 ${mapped('c6336407')} ${mapped('cb007101')} 1234 01bb`)),
    ).toEqual({
      size: 52,
      ends: ofTcp4,
    })
  })

  test('that a gateway writes, with its entries; what follows is left aside', () => {
    const { idCore } = world.car(1)
    const written = Buffer.from(proxyHeader(ofTcp4, { idCore, slot: SLOT, instance: 'VIN1' }))
    const read = { size: written.length, ends: ofTcp4 }
    expect(readProxyHeader(written)).toEqual(read)
    expect(readProxyHeader(Buffer.concat([written, Buffer.from('GET / HTTP/1.1')]))).toEqual(read)
    for (let length = 0; length < written.length; length++)
      expect(readProxyHeader(written.subarray(0, length))).toBe('more')
  })

  test('of a balancer that speaks for itself: whatever it says of ends is left aside', () => {
    expect(readProxyHeader(LOCAL)).toEqual({ size: 16, ends: undefined })
    expect(readProxyHeader(header('20 11 000c c6336407 cb007101 1234 01bb'))).toEqual({
      size: 28,
      ends: undefined,
    })
    expect(readProxyHeader(header('20 00 0002 ffff'))).toEqual({ size: 18, ends: undefined })
  })

  test('of its greatest length', () => {
    const value = MOST_PROXY_HEADER - 16 - 12 - 3
    const lengths = [12 + 3 + value, value].map(length => length.toString(16).padStart(4, '0'))
    const longest = header(
      `21 11 ${lengths[0]} c6336407 cb007101 1234 01bb 04 ${lengths[1]} ${'00'.repeat(value)}`,
    )
    expect(readProxyHeader(longest)).toEqual({ size: MOST_PROXY_HEADER, ends: ofTcp4 })
  })

  test.each([
    ['another signature, at its first byte', Buffer.from('\x16'), 'no PROXY protocol of version 2'],
    [
      'version 1',
      Buffer.from('PROXY TCP4 198.51.100.7 203.0.113.1 4660 443\r\n'),
      'no PROXY protocol of version 2',
    ],
    ['another version', header('31 11 000c'), 'a version or command of another kind'],
    ['another command', header('22 11 000c'), 'a version or command of another kind'],
    ['a byte more than is read', header('21 11 0ff1'), 'too long'],
    ['the same of a balancer’s own', header('20 00 0ff1'), 'too long'],
    ['UDP', header('21 12 000c c6336407 cb007101 1234 01bb'), 'ends that are not of TCP'],
    ['ends that it doesn’t say', header('21 00 0000'), 'ends that are not of TCP'],
    ['ends of a Unix domain socket', header(`21 31 00d8 ${'00'.repeat(216)}`), 'ends that are not of TCP'],
    ['addresses that are cut off', header('21 11 000b c6336407 cb007101 1234 01'), 'cut off'],
    ['IPv6 of the length of IPv4', header('21 21 000c c6336407 cb007101 1234 01bb'), 'cut off'],
    [
      'an entry without its length',
      header('21 11 000e c6336407 cb007101 1234 01bb 0400'),
      'an entry is cut off',
    ],
    [
      'an entry beyond the end',
      header('21 11 0010 c6336407 cb007101 1234 01bb 040002ff'),
      'an entry is cut off',
    ],
    [
      'a byte after the entries',
      header('21 11 0010 c6336407 cb007101 1234 01bb 04000004'),
      'an entry is cut off',
    ],
  ])('is refused: %s', (_, bytes, why) => {
    expect(() => readProxyHeader(bytes)).toThrow(new DecodeError('proxyHeader', why))
  })

  test.each([
    ['192.0.2.1', '192.0.2.1'],
    ['::ffff:192.0.2.1', '192.0.2.1'],
    ['::FFFF:c000:0201', '192.0.2.1'],
    ['2001:0DB8:0:0::1', '2001:db8::1'],
    ['64:ff9b::192.0.2.1', '64:ff9b::c000:201'],
    ['::1', '::1'],
    ['fe80::1%eth0', 'fe80::1'],
  ])('the spelling of %s is %s', (text, spelled) => {
    expect(canonicalAddress(text)).toBe(spelled)
  })
})

/** A connection of the balancer, which is at 127.0.0.1, that begins so. */
async function through(
  port: number,
  first: Uint8Array,
  localAddress = '127.0.0.1',
  localPort?: number,
): Promise<Socket> {
  const raw = connectTcp({ host: '127.0.0.1', port, localAddress, localPort })
  world.onClose(() => raw.destroy())
  raw.on('error', () => undefined)
  await once(raw, 'connect')
  raw.write(first)
  return raw
}
const dial = async (port: number, car: Car, first = TCP4) =>
  secured(connect({ socket: await through(port, first), servername: NAME, identity: car }))
/** What a car says first. */
async function helloOf(car: Car): Promise<Buffer> {
  const server = createTcp()
  const said = once(server, 'connection').then(([socket]) => once(socket, 'data'))
  const port = await world.listen(server)
  const socket = connect({ host: '127.0.0.1', port, servername: NAME, identity: car })
  socket.on('error', () => undefined)
  const [hello] = await said
  socket.destroy()
  return hello
}
const welcome = () =>
  service(world, socket => {
    socket.write('welcome')
  })

describe('a gateway', () => {
  const behind = async (more: object = {}): Promise<RunningGateway> =>
    startGateway(world, { to: await welcome(), pass: 'none', balancers: ['127.0.0.1'], ...more })

  test('takes a car for who the balancer says: at its pairings, and before the service', async () => {
    let came: Promise<Buffer> | undefined
    const to = await service(world, socket => {
      came = heard(socket)
      socket.end()
    })
    const { port } = await behind({ to, pass: 'proxy' })
    const socket = await dial(port, world.car(1))
    socket.end()
    await closed(socket.resume())
    expect(world.turns).toEqual(['198.51.100.7'])
    const bytes = (await came) as Buffer
    expect(bytes.subarray(12, 14).toString('hex')).toBe('2111')
    expect(bytes.subarray(16, 28).toString('hex')).toBe('c6336407cb007101123401bb')
  })

  test('says so in X-Forwarded-For', async () => {
    const seen: unknown[] = []
    const http = createHttp((request, response) => {
      seen.push(request.headers['x-forwarded-for'])
      response.end()
    })
    const to = { host: '127.0.0.1', port: await world.listen(http) }
    const { port } = await behind({ to, pass: 'http' })
    const socket = await dial(port, world.car(1))
    socket.write('GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 192.0.2.9\r\n\r\n')
    await once(socket, 'data')
    expect(seen).toEqual(['198.51.100.7'])
    socket.destroy()
    http.closeAllConnections()
  })

  test('tells two cars apart whom the balancer brings from one port, at two addresses of the gateway', async () => {
    const came: { id: unknown; from: unknown }[] = []
    const http = createHttp(({ headers }, response) => {
      came.push({ id: headers['milagro-id'], from: headers['x-forwarded-for'] })
      response.end()
    })
    const { gateway, port } = await behind({
      to: { host: '127.0.0.1', port: await world.listen(http) },
      pass: 'http',
    })
    const other = await world.listen(createTcp(socket => gateway.server.emit('connection', socket)))
    const elsewhere = Buffer.from(TCP4).fill(9, 16, 20)
    const first = await through(port, TCP4)
    const second = await through(other, elsewhere, '127.0.0.1', first.localPort)
    expect(second.localPort).toBe(first.localPort)
    await expect.poll(() => gateway.comingIn).toBe(2)
    const cars = [world.car(1), world.car(2)] as const
    for (const [car, raw] of [
      [cars[0], first],
      [cars[1], second],
    ] as const) {
      const socket = await secured(connect({ socket: raw, servername: NAME, identity: car }))
      socket.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n')
      await once(socket, 'data')
    }
    expect(came).toEqual([
      { id: cars[0].mpinId, from: '198.51.100.7' },
      { id: cars[1].mpinId, from: '9.9.9.9' },
    ])
    expect(gateway.comingIn).toBe(0)
    http.closeAllConnections()
  })

  test('takes the header in pieces, and with the ClientHello in one', async () => {
    const { port, gateway } = await behind()
    const raw = await through(port, TCP4.subarray(0, 1))
    for (const byte of TCP4.subarray(1)) {
      await new Promise(setImmediate)
      raw.write(Buffer.of(byte))
    }
    expect(await outcome(secured(connect({ socket: raw, servername: NAME, identity: world.car(1) })))).toBe(
      'in',
    )
    const hello = await helloOf(world.car(2))
    const whole = await through(port, Buffer.concat([TCP4, hello]))
    const [answer] = await once(whole, 'data')
    // A handshake record with a ServerHello, no alert.
    expect([answer[0], answer[5]]).toEqual([22, 2])
    whole.destroy()
    await expect.poll(() => gateway.comingIn).toBe(0)
  })

  test('pays a car’s pairing back to its own address', async () => {
    await world.close()
    world = await World.start({ pairingsPerSource: { burst: 1, perSecond: 0.001 } })
    const { port } = await behind()
    for (let n = 1; n <= 3; n++) expect(await outcome(dial(port, world.car(n)))).toBe('in')
    // A stranger's own, at another address behind the same balancer.
    const stranger = {
      externalPsk: async () => ({ identity: 'nobody', psk: new Uint8Array(32), slot: 0, endsAt: 0 }),
    }
    const elsewhere = Buffer.from(TCP4).fill(9, 16, 20)
    for (let n = 1; n <= 2; n++)
      await outcome(
        secured(connect({ socket: await through(port, elsewhere), servername: NAME, identity: stranger })),
      )
    expect(world.counted).toEqual(['pairings_turned_away'])
    expect(await outcome(dial(port, world.car(4)))).toBe('in')
  })

  test('pays it back there as well where somebody else behind the balancer repeats the car’s ClientHello', async () => {
    await world.close()
    world = await World.start({ pairingsPerSource: { burst: 1, perSecond: 0.001 } })
    const { port } = await behind()
    const elsewhere = Buffer.from(TCP4).fill(9, 16, 20)
    const car = world.car(1)
    const repeated = await through(port, Buffer.concat([elsewhere, await helloOf(car)]))
    await once(repeated, 'data')
    expect(await outcome(dial(port, car))).toBe('in')
    expect(world.turns).toEqual(['9.9.9.9', '198.51.100.7'])
    expect(await outcome(dial(port, world.car(2)))).toBe('in')
    repeated.destroy()
  })

  test('counts the places of each address behind it by itself', async () => {
    const { port, gateway } = await behind({ handshakesPerSource: 1 })
    const silent: Socket[] = []
    for (let n = 1; n <= 3; n++) silent.push(await through(port, Buffer.from(TCP4).fill(n, 16, 20)))
    await expect.poll(() => gateway.comingIn).toBe(3)
    await through(port, Buffer.from(TCP4).fill(2, 16, 20))
    await closed(silent[1] as Socket)
    expect(silent.map(({ destroyed }) => destroyed)).toEqual([false, true, false])
    expect(await outcome(dial(port, world.car(1)))).toBe('in')
  })

  test('closes a balancer’s connection without a header, counts it, and says so', async () => {
    const { port, metrics } = await behind()
    expect(await outcome(dial(port, world.car(1), Buffer.alloc(0)))).not.toBe('in')
    await closed((await through(port, header('21 12 0000'))).resume())
    expect(await metrics()).toContain('gateway_proxy_headers_refused_total 2')
    world.turn(10_000)
    const [line] = world.logged.filter(one => one.includes('PROXY header'))
    expect(JSON.parse(line as string)).toMatchObject({
      level: 40,
      refused: 2,
      most: [{ source: '127.0.0.1' }],
    })
  })

  test('closes one that says nothing, or half a header, when patience is over, or when it says no more', async () => {
    const { port } = await behind()
    const accepted = [await through(port, Buffer.alloc(0)), await through(port, TCP4.subarray(0, 20))]
    const ended = await through(port, TCP4.subarray(0, 20))
    ended.end()
    await closed(ended.resume())
    world.turn(9_999)
    expect(accepted.map(({ destroyed }) => destroyed)).toEqual([false, false])
    world.turn(1)
    await Promise.all(accepted.map(socket => closed(socket.resume())))
  })

  test('keeps no more of those than there are places: the oldest gives way', async () => {
    const { port, metrics } = await behind({ handshakes: 2 })
    const silent: Socket[] = []
    for (let n = 1; n <= 3; n++) silent.push((await through(port, TCP4.subarray(0, 20))).resume())
    await closed(silent[0] as Socket)
    expect(await outcome(dial(port, world.car(1)))).toBe('in')
    expect(await metrics()).toContain('gateway_handshakes_displaced_total 2')
  })

  test('takes a balancer that speaks for itself for itself', async () => {
    const { port } = await behind()
    expect(await outcome(dial(port, world.car(1), LOCAL))).toBe('in')
    expect(world.turns).toEqual(['127.0.0.1'])
  })

  test.skipIf(process.platform !== 'linux')(
    'believes nobody else’s header, and wants none there',
    async () => {
      const gateway = await behind()
      await closed((await through(gateway.port, TCP4, '127.0.1.1')).resume())
      const direct = await through(gateway.port, Buffer.alloc(0), '127.0.1.1')
      expect(
        await outcome(secured(connect({ socket: direct, servername: NAME, identity: world.car(1) }))),
      ).toBe('in')
      expect(world.turns).toEqual(['127.0.1.1'])
      // The settings are looked at for each connection.
      gateway.settings = { ...gateway.settings, balancers: [] }
      await closed((await through(gateway.port, TCP4)).resume())
      gateway.settings = { ...gateway.settings, balancers: ['127.0.0.9', '127.0.1.1'] }
      const other = await through(gateway.port, TCP4, '127.0.1.1')
      expect(
        await outcome(secured(connect({ socket: other, servername: NAME, identity: world.car(2) }))),
      ).toBe('in')
      expect(world.turns).toEqual(['127.0.1.1', '198.51.100.7'])
    },
  )

  test('a second header, which a stranger sends behind the balancer’s, is nobody’s', async () => {
    const { port } = await behind()
    const raw = await through(port, Buffer.concat([TCP4, Buffer.from(TCP4).fill(9, 16, 20)]))
    await closed(raw.resume())
    expect(world.turns).toEqual([])
  })
})
