/** Requests and answers that two programs could read differently, many requests at once, and answers that are none. */
import { once } from 'node:events'
import { createServer as createHttp, type IncomingMessage } from 'node:http'
import { connect as connectTcp, createServer as createTcp, type Socket } from 'node:net'
import { HttpPassing } from '@milagro-ts/tls/gateway-http'
import { connect, secured } from '@milagro-ts/tls/tls'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { heard, type RunningGateway, service, startGateway } from './gateway-world.js'
import { NAME, World } from './world.js'

let world: World
let gateway: RunningGateway
let requests: { url: string | undefined; rawHeaders: string[]; body: string }[]
beforeEach(async () => {
  world = await World.start()
  requests = []
  const api = createHttp(async (incoming: IncomingMessage, response) => {
    let body = ''
    for await (const chunk of incoming) body += chunk
    requests.push({ url: incoming.url, rawHeaders: incoming.rawHeaders, body })
    response.end(`answer to ${incoming.url}`)
  })
  api.maxHeadersCount = 0
  world.onClose(() => api.closeAllConnections())
  gateway = await startGateway(world, {
    to: { host: '127.0.0.1', port: await world.listen(api) },
    pass: 'http',
  })
})
afterEach(() => world.close())

const dial = (leaf = 1) =>
  secured(connect({ host: '127.0.0.1', port: gateway.port, servername: NAME, identity: world.car(leaf) }))
/** Everything that the gateway says to these bytes, up to the end of the connection. */
async function said(...bytes: string[]): Promise<string> {
  const socket = await dial()
  const answer = heard(socket)
  for (const each of bytes) socket.write(each, 'latin1')
  return String(await answer)
}
const turn = () => new Promise(setImmediate)
/** Lines of a kind that nothing is done with. */
const lines = (count: number) => 'a:\r\n'.repeat(count)
const last = 'Host: x\r\nConnection: close\r\n'

describe('a request of many header lines', () => {
  const inside = () => {
    const second = `POST /smuggled HTTP/1.1\r\nHost: x\r\nMilagro-Id: ${world.car(2).mpinId}\r\nContent-Length: 0\r\n\r\n`
    return `${second.length.toString(16)}\r\n${second}\r\n0\r\n\r\n`
  }
  const request = (before: number) =>
    `GET /cover HTTP/1.1\r\n${last}${lines(before)}Transfer-Encoding: chunked\r\n\r\n${inside()}`

  test('of a hundred has a body, and the device’s name before everything that the client says', async () => {
    expect(await said(request(97))).toMatch(/^HTTP\/1\.1 200 /)
    const [only, ...others] = requests
    expect(others).toEqual([])
    expect(only?.body).toContain('/smuggled')
    expect(only?.rawHeaders.slice(0, 2)).toEqual(['milagro-id', world.car(1).mpinId])
    expect(only?.rawHeaders.filter(name => name.toLowerCase() === 'milagro-id')).toHaveLength(1)
  })

  // Node reads a thousand into `headers`, and 22 and later refuse more by themselves.
  test.each([98, 999, 1_000, 1_001, 2_001])('of %i and three is refused', async before => {
    expect(await said(request(before))).toMatch(/^HTTP\/1\.1 431 /)
    const socket = await dial()
    socket.write(`GET /after HTTP/1.1\r\n${last}\r\n`)
    await heard(socket)
    expect(requests.map(({ url }) => url)).toEqual(['/after'])
  })

  test('an upgrade of as many is refused', async () => {
    const upgrade = 'Connection: Upgrade\r\nUpgrade: websocket\r\n'
    const answer = await said(`GET / HTTP/1.1\r\nHost: x\r\n${upgrade}${lines(98)}\r\n`)
    expect(answer).toMatch(/^HTTP\/1\.1 4(00|31) /)
    expect(requests).toEqual([])
  })
})

test.each([
  ['a host with a user', 'GET / HTTP/1.1\r\nHost: a@b\r\n\r\n', 400],
  ['a host with a path', 'GET / HTTP/1.1\r\nHost: a/b\r\n\r\n', 400],
  ['a host with a space', 'GET / HTTP/1.1\r\nHost: a b\r\n\r\n', 400],
  ['an empty host', 'GET / HTTP/1.1\r\nHost:\r\n\r\n', 400],
  ['no host, as HTTP/1.0 allows', 'GET / HTTP/1.0\r\n\r\n', 400],
  ['a fragment', 'GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n', 400],
  ['an asterisk that isn’t OPTIONS’', 'GET * HTTP/1.1\r\nHost: x\r\n\r\n', 400],
  ['another version', 'GET / HTTP/2.0\r\nHost: x\r\n\r\n', 505],
])('%s is refused', async (_, request, status) => {
  expect(await said(request)).toMatch(new RegExp(`^HTTP/1\\.1 (${status}|400) [\\s\\S]*close`, 'i'))
  expect(requests).toEqual([])
})

test.each(['[::1]:8443', 'gw.example', '192.0.2.1:1'])('a host may be %s', async host => {
  expect(await said(`GET / HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`)).toMatch(/ 200 /)
  expect(requests).toHaveLength(1)
})

describe('many requests at once', () => {
  let under: number
  let most: number
  let answer: (() => void)[]
  beforeEach(async () => {
    under = most = 0
    answer = []
    const slow = createHttp((incoming, response) => {
      most = Math.max(most, ++under)
      answer.push(() => {
        under--
        response.end(`answer to ${incoming.url}`)
      })
    })
    world.onClose(() => slow.closeAllConnections())
    const port = await world.listen(slow)
    gateway.settings = { ...gateway.settings, to: { host: '127.0.0.1', port } }
  })
  const asked = async (count: number) => {
    while (answer.length < count) await turn()
  }

  test('are passed on one after the other, and answered in their order', async () => {
    const socket = await dial()
    let text = ''
    socket.on('data', chunk => {
      text += chunk
    })
    socket.write([1, 2, 3].map(n => `GET /${n} HTTP/1.1\r\nHost: x\r\n\r\n`).join(''))
    for (let i = 1; i <= 3; i++) {
      await asked(i)
      for (let turns = 0; turns < 100; turns++) await turn()
      expect(answer).toHaveLength(i)
      answer[i - 1]?.()
    }
    while (!text.includes('answer to /3')) await once(socket, 'data')
    expect([...text.matchAll(/answer to \/(\d)/g)].map(([, n]) => n)).toEqual(['1', '2', '3'])
    expect(most).toBe(1)
    socket.destroy()
  })

  test('more than sixteen that wait end the connection, and the service has seen one', async () => {
    const socket = await dial()
    socket.on('error', () => undefined)
    const gone = new Promise(resolve => socket.once('close', resolve))
    socket.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n'.repeat(3_000))
    await gone
    await turn()
    expect(most).toBeLessThanOrEqual(1)
  })

  test.each([
    ['an upgrade', 'Connection: Upgrade\r\nUpgrade: websocket\r\n', 'GET /2'],
    ['a tunnel', '', 'CONNECT other:1'],
  ])(
    '%s while one is under way ends the connection, and puts nothing into the answer',
    async (_, more, second) => {
      const half = createHttp((_incoming, response) => {
        response.writeHead(200, { 'content-length': 100 })
        response.write('half')
      })
      world.onClose(() => half.closeAllConnections())
      const port = await world.listen(half)
      gateway.settings = { ...gateway.settings, to: { host: '127.0.0.1', port } }
      const socket = await dial()
      let text = ''
      socket.on('data', chunk => {
        text += chunk
      })
      socket.on('error', () => undefined)
      const gone = new Promise(resolve => socket.once('close', resolve))
      socket.write('GET /1 HTTP/1.1\r\nHost: x\r\n\r\n')
      while (!text.endsWith('half')) await once(socket, 'data')
      socket.write(`${second} HTTP/1.1\r\nHost: x\r\n${more}\r\n`)
      await gone
      expect(text).toMatch(/half$/)
    },
  )

  // Node would answer some of these by itself, and the answer be none of those that others wait for.
  test.each([
    ['without a host', 'GET / HTTP/1.1\r\n\r\n'],
    ['of an asterisk', 'GET * HTTP/1.1\r\nHost: x\r\n\r\n'],
    ['of another version', 'GET / HTTP/2.0\r\nHost: x\r\n\r\n'],
  ])('what follows one that is refused, %s, isn’t carried out', async (_, refused) => {
    const answer = await said(`${refused}POST /act HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n`)
    expect(answer).toMatch(/^HTTP\/1\.1 (400|505) /)
    expect(answer.match(/HTTP\/1\.1/g)).toHaveLength(1)
    for (let turns = 0; turns < 100; turns++) await turn()
    expect(most).toBe(0)
  })

  test('an expectation that nobody knows is not the gateway’s to meet', async () => {
    const heardAnswer = said(`GET / HTTP/1.1\r\n${last}Expect: more\r\n\r\n`)
    await asked(1)
    answer[0]?.()
    expect(await heardAnswer).toMatch(/^HTTP\/1\.1 200 /)
  })
})

describe('a device that goes', () => {
  const held: Socket[] = []
  beforeEach(async () => {
    held.length = 0
    const to = await service(world, socket => {
      held.push(socket)
      socket.resume()
    })
    gateway.settings = { ...gateway.settings, to }
  })
  test.each([
    ['in the middle of an upload', 'POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nabc'],
    ['before the answer', 'GET / HTTP/1.1\r\nHost: x\r\n\r\n'],
    ['before the answer, with others waiting', 'GET / HTTP/1.1\r\nHost: x\r\n\r\n'.repeat(3)],
  ])('%s takes its connection to the service along', async (_, request) => {
    const socket = await dial()
    socket.on('error', () => undefined)
    socket.write(request)
    while (held.length === 0) await turn()
    const gone = once(held[0] as Socket, 'end')
    socket.destroy()
    await gone
    for (let turns = 0; turns < 100; turns++) await turn()
    expect(held).toHaveLength(1)
  })
})

describe('an answer that can’t be passed on', () => {
  /** The service says this to each request, and no more. */
  const says = async (answer: string | null) => {
    let arrived = () => {}
    const came = new Promise<void>(resolve => {
      arrived = resolve
    })
    const to = await service(world, (socket: Socket) => {
      socket.once('data', () => {
        arrived()
        if (answer !== null) socket.end(answer, 'latin1')
      })
    })
    gateway.settings = { ...gateway.settings, to }
    return { came }
  }
  const request = (method: string) => `${method} / HTTP/1.1\r\n${last}Content-Length: 0\r\n\r\n`
  const problem = (answer: string) => JSON.parse(/\{.*\}/.exec(answer)?.[0] ?? '')

  test.each([
    ['no status', 'HTTP/1.1 000 X\r\nContent-Length: 0\r\n\r\n'],
    ['a status of before the first', 'HTTP/1.1 099 X\r\nContent-Length: 0\r\n\r\n'],
    ['a status of four digits', 'HTTP/1.1 1000 X\r\nContent-Length: 0\r\n\r\n'],
    ['a status of after the last', 'HTTP/1.1 777 X\r\nContent-Length: 0\r\n\r\n'],
    ['two lengths', 'HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab'],
    ['another protocol', 'SSH-2.0-OpenSSH_9.2\r\n'],
    [
      'an upgrade that nobody asked for',
      'HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n',
    ],
    ['nothing', ''],
  ])('%s: who may ask again is told so, and who may not isn’t', async (_, answer) => {
    await says(answer)
    const asked = await said(request('GET'))
    expect(asked).toMatch(/^HTTP\/1\.1 503 /)
    expect(problem(asked)).toMatchObject({ code: 'RETRY_LATER' })
    const done = await said(request('POST'))
    expect(done).toMatch(/^HTTP\/1\.1 502 Bad Gateway\r\n/)
    expect(done.toLowerCase()).not.toContain('retry-after')
    expect(problem(done)).toMatchObject({ status: 502, detail: expect.stringContaining('may have acted') })
    expect(gateway.gateway.service).toBe(true)
    expect(await gateway.metrics()).toContain('gateway_requests_passed_on_total{outcome="BAD_ANSWER"} 2')
  })

  test.each([
    ['a control character', 'O\x01K'],
    ['bytes that are no ASCII', 'Stra\xdfe'],
    ['nothing', ''],
  ])('a reason of %s is the gateway’s own', async (_, reason) => {
    await says(`HTTP/1.1 404 ${reason}\r\nContent-Length: 2\r\n\r\nno`)
    expect(await said(request('POST'))).toMatch(/^HTTP\/1\.1 (404 Not Found|502 Bad Gateway)\r\n/)
  })

  test('a 204 has no length', async () => {
    await says('HTTP/1.1 204 X\r\nContent-Length: 2\r\nX-A: b\r\n\r\n')
    const answer = await said(request('POST'))
    expect(answer).toMatch(/^HTTP\/1\.1 204 No Content\r\n[\s\S]*x-a: b/)
    expect(answer.toLowerCase()).not.toContain('content-length')
  })

  test.each([
    ['GET', 503],
    ['POST', 504],
  ])('silence: %s is answered %i when patience is over', async (method, status) => {
    const { came } = await says(null)
    const answer = said(request(method))
    await came
    await turn()
    world.turn(10_000)
    expect(await answer).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `))
    expect(gateway.gateway.service).toBe(true)
  })

  test('a service that takes no connection has acted on nothing: anybody may ask again', async () => {
    gateway.settings = { ...gateway.settings, to: { host: '127.0.0.1', port: 1 } }
    expect(await said(request('POST'))).toMatch(/^HTTP\/1\.1 503 /)
    expect(gateway.gateway.service).toMatch(/ECONNREFUSED/)
  })

  test('a plain answer to an upgrade that breaks off ends the device’s connection', async () => {
    await says('HTTP/1.1 200 X\r\nContent-Length: 100\r\n\r\nhalf')
    const socket = await dial()
    socket.on('error', () => undefined).resume()
    const gone = new Promise(resolve => socket.once('close', resolve))
    socket.write('GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n')
    await gone
  })

  test('an upload that is answered early is read to its end: the next request is answered, too', async () => {
    const early = createHttp((incoming, response) => {
      if (incoming.url === '/after') return void response.end('after')
      response.writeHead(413, { connection: 'close', 'content-length': 0 }).end()
    })
    world.onClose(() => early.closeAllConnections())
    const port = await world.listen(early)
    gateway.settings = { ...gateway.settings, to: { host: '127.0.0.1', port } }
    const body = 'x'.repeat(1_000_000)
    const answer = await said(
      `POST / HTTP/1.1\r\nHost: x\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
      `GET /after HTTP/1.1\r\n${last}\r\n`,
    )
    expect(answer).toMatch(/^HTTP\/1\.1 (413|502) /)
    expect(answer).toMatch(/after$/)
  })
})

describe('a fault of the gateway’s own', () => {
  const upgrade = 'Connection: Upgrade\r\nUpgrade: websocket\r\n'
  test.each([
    ['a request', `GET / HTTP/1.1\r\nHost: x\r\n\r\n`],
    ['an upgrade', `GET / HTTP/1.1\r\nHost: x\r\n${upgrade}\r\n`],
  ])(
    'before %s is asked is no fault of the device’s, and ends nothing but its connection',
    async (_, text) => {
      const observed: unknown[] = []
      const passing = new HttpPassing({
        timers: world.timers,
        settings: () => gateway.settings,
        deviceAt: () => {
          throw new TypeError('of our own')
        },
        observe: (outcome, error) => observed.push([outcome, error?.message]),
      })
      const port = await world.listen(createTcp(socket => passing.take(socket)))
      const socket = connectTcp(port, '127.0.0.1')
      const answer = heard(socket)
      socket.write(text)
      expect(String(await answer)).toMatch(/^HTTP\/1\.1 500 Internal Server Error\r\n/)
      expect(observed).toEqual([['FAULT', 'of our own']])
      expect(requests).toEqual([])
      passing.end()
    },
  )
})
