import { once } from 'node:events'
import { createServer, globalAgent, type IncomingMessage, type ServerResponse } from 'node:http'
import { type AddressInfo, createServer as createTcp } from 'node:net'
import { createClient, type Exchange, routeUrl, UnexpectedAnswer, Unreachable } from '@milagro-ts/api/call'
import { nodeExchange } from '@milagro-ts/api/node-exchange'
import { Refused } from '@milagro-ts/api/problem'
import type { RouteTable } from '@milagro-ts/api/route'
import { Strict } from '@milagro-ts/api/schemas'
import Type from '@milagro-ts/api/typebox'
import { describe, expect, onTestFinished, test } from 'vitest'
import { serve } from './http-server.js'

const table = {
  put: {
    method: 'PUT',
    path: '/v1/things/:id/parts/:part',
    summary: 'Everything that a call can carry.',
    caller: 'open',
    params: Strict({ id: Type.String(), part: Type.String() }),
    query: Strict({ a: Type.Optional(Type.String()), b: Type.Optional(Type.String()) }),
    body: Strict({ text: Type.String() }),
    response: Strict({ said: Type.String() }),
    refuses: ['CONFLICT', 'LOCKED'],
  },
  get: {
    method: 'GET',
    path: '/v1/get',
    summary: 'Nothing but an answer.',
    caller: 'open',
    response: Strict({ said: Type.String() }),
    refuses: ['CONFLICT'],
  },
  stream: {
    method: 'GET',
    path: '/v1/stream',
    summary: 'Not for this client.',
    caller: 'open',
    stream: 'text/event-stream',
    refuses: [],
  },
} as const satisfies RouteTable

/** A server that answers as told, whatever it is asked; it counts its requests. */
async function peer(
  answer: (response: ServerResponse, request: IncomingMessage) => void,
): Promise<{ url: string; requests: IncomingMessage[] }> {
  const requests: IncomingMessage[] = []
  const server = createServer((request, response) => {
    requests.push(request)
    answer(response, request)
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(
    () =>
      new Promise<void>(resolve => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  )
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, requests }
}

const json = (response: ServerResponse, status: number, value: unknown, type = 'application/json') =>
  response.writeHead(status, { 'content-type': type }).end(JSON.stringify(value))
const problem = (code: string, status: number, more: object = {}) => ({
  type: `urn:milagro-ts:${code}`,
  title: 'x',
  status,
  code,
  ...more,
})
const ways: readonly [string, Exchange | undefined][] = [
  ['by fetch', undefined],
  ['by node’s client', nodeExchange],
]
describe.each(ways)('%s:', (_way, exchange) => {
  /** Nobody listens on port 1; `fetch` refuses it by itself, and has no name for that. */
  const refusal = exchange === undefined ? '' : ' (ECONNREFUSED)'
  /** What a call of `get` came to. */
  const outcome = async (url: string, options: object = {}): Promise<unknown> =>
    createClient(table, { baseUrl: url, exchange, ...options })
      .get({})
      .catch((error: unknown) => error)

  describe('a call', () => {
    test('carries parameters, query, body and authorization', async () => {
      let given: unknown
      const { url } = await serve(
        { put: table.put },
        {
          put: async ({ params, query, body, meta }) => {
            given = { params, query, body, authorization: meta.headers.authorization, url: meta.url }
            return { said: 'yes' }
          },
        },
      )
      const signed: unknown[] = []
      const client = createClient(table, {
        exchange,
        baseUrl: `${url}/`,
        authorize: async request => {
          signed.push(request)
          return 'signed'
        },
      })
      const id = 'a/b?c#d%&é ..'
      const input = {
        params: { id, part: '1' },
        query: { a: '&=+ é', b: undefined as never },
        body: { text: 'ü' },
      }
      expect(await client.put(input)).toEqual({ said: 'yes' })
      const target = '/v1/things/a%2Fb%3Fc%23d%25%26%C3%A9%20../parts/1?a=%26%3D%2B+%C3%A9'
      expect(given).toEqual({
        params: { id, part: '1' },
        query: { a: '&=+ é' },
        body: { text: 'ü' },
        authorization: 'signed',
        url: target,
      })
      // What is signed is what is sent.
      expect(signed).toEqual([
        { method: 'PUT', url: url + target, body: new TextEncoder().encode('{"text":"ü"}') },
      ])
      await client.put({ ...input, authorization: 'mine' })
      expect(given).toMatchObject({ authorization: 'mine' })
      expect(signed).toHaveLength(1)
    })

    test('has a function for every route but the streams', () => {
      expect(Object.keys(createClient(table, { baseUrl: 'http://127.0.0.1' }))).toEqual(['put', 'get'])
    })

    test.each(['', '.', '..'])('does not leave its path by a parameter %j', part => {
      expect(() => routeUrl(table.put, 'http://server', { params: { id: 'a', part } })).toThrow(TypeError)
    })
    test('wants every parameter', () => {
      expect(() => routeUrl(table.put, 'http://server', { params: { id: 'a' } })).toThrow(TypeError)
    })
    test('goes by a connection that is open already', async () => {
      const { url, requests } = await peer(response => json(response, 200, { said: 'x' }))
      const sockets = new Set<unknown>()
      for (let i = 0; i < 5; i++) {
        expect(await outcome(url)).toEqual({ said: 'x' })
        sockets.add(requests.at(-1)?.socket)
      }
      expect(sockets.size).toBeLessThan(3)
    })
    test('goes by a new connection where the other end has closed the one that was kept', async () => {
      const { url, requests } = await peer(response => json(response, 200, { said: 'x' }))
      for (let i = 0; i < 3; i++) {
        expect(await outcome(url)).toEqual({ said: 'x' })
        const { socket } = requests.at(-1) as IncomingMessage
        const closed = once(socket, 'close')
        socket.end()
        await closed
      }
      expect(new Set(requests.map(({ socket }) => socket)).size).toBe(3)
    })
    test('passes over what is said before the answer', async () => {
      const { url } = await peer(response => {
        response.writeEarlyHints({ link: '</x>; rel=preload' })
        json(response, 200, { said: 'x' })
      })
      expect(await outcome(url)).toEqual({ said: 'x' })
    })
    test('is made once, whatever comes back', async () => {
      const { url, requests } = await peer(response => response.destroy())
      expect(await outcome(url)).toBeInstanceOf(Unreachable)
      expect(requests).toHaveLength(1)
    })
  })

  describe('Unreachable', () => {
    test('nobody listens', async () => {
      const { url } = await peer(() => {})
      const port = Number(new URL(url).port)
      const error = await outcome(`http://127.0.0.1:${port === 1 ? 2 : 1}`)
      expect(error).toBeInstanceOf(Unreachable)
      expect((error as Error).message).toBe(`GET http://127.0.0.1:1/v1/get got no answer${refusal}`)
    })
    test('no answer in time', async () => {
      const { url } = await peer(() => {})
      const error = await outcome(url, { timeout: 50 })
      expect(error).toBeInstanceOf(Unreachable)
      expect((error as Error).message).toMatch(/ got no answer \(TIMEOUT\)$/)
    })
    test('says what the platform calls the cause, and nothing of its message', async () => {
      const secret = 'https://user:hunter2@example.org'
      const failing = (cause: Error) =>
        (async () => {
          throw new TypeError(`fetch of ${secret} failed`, { cause })
        }) as typeof fetch
      const of = async (fetch: typeof globalThis.fetch) =>
        (await outcome('http://127.0.0.1:9', { fetch, exchange: undefined })) as Unreachable
      const refused = await of(failing(Object.assign(new Error(secret), { code: 'ECONNREFUSED' })))
      expect([refused.system, refused.message]).toEqual([
        'ECONNREFUSED',
        'GET http://127.0.0.1:9/v1/get got no answer (ECONNREFUSED)',
      ])
      const unnamed = await of(failing(Object.assign(new Error(secret), { code: secret })))
      expect([unnamed.system, unnamed.message]).toEqual([
        undefined,
        'GET http://127.0.0.1:9/v1/get got no answer',
      ])
      expect(new Unreachable('rps: no answer', { cause: refused }).system).toBe('ECONNREFUSED')

      const { url } = await peer(() => {})
      const tls = (await outcome(url.replace('http:', 'https:'))) as Unreachable
      expect(tls.system).toMatch(/SSL|EPROTO/)
    })
    test('an answer that begins in time and never ends', async () => {
      const { url } = await peer(response => {
        response.writeHead(200, { 'content-type': 'application/json' }).write('{"said":')
      })
      const error = await outcome(url, { timeout: 50 })
      expect(error).toBeInstanceOf(Unreachable)
      expect((error as Unreachable).system).toBe('TIMEOUT')
    })
    test('the connection is reset before an answer', async () => {
      const { url } = await peer(response => response.socket?.resetAndDestroy())
      expect(await outcome(url)).toBeInstanceOf(Unreachable)
    })
    test('the connection is reset within the answer', async () => {
      const { url } = await peer(response => {
        response.writeHead(200, { 'content-type': 'application/json', 'content-length': 100 })
        response.write('{"said":"y', () => response.socket?.resetAndDestroy())
      })
      expect(await outcome(url)).toBeInstanceOf(Unreachable)
    })
    test('the answer is shorter than it says', async () => {
      const { url } = await peer(response => {
        response.writeHead(200, { 'content-type': 'application/json', 'content-length': 100 })
        response.write('{"said":"yes"}', () => response.socket?.end())
      })
      expect(await outcome(url)).toBeInstanceOf(Unreachable)
    })
    test('something that is not HTTP answers', async () => {
      const { url } = await peer(response => response.socket?.end('SSH-2.0-x\r\n'))
      expect(await outcome(url)).toBeInstanceOf(Unreachable)
    })
    test('the caller gives up', async () => {
      const { url } = await peer(() => {})
      const call = createClient(table, { baseUrl: url, exchange }).get({ signal: AbortSignal.abort() })
      await expect(call).rejects.toBeInstanceOf(Unreachable)
    })
    test('the caller gives up in the middle of the answer', async () => {
      const caller = new AbortController()
      const { url } = await peer(response => {
        response.writeHead(200, { 'content-type': 'application/json' })
        response.write('{"said":', () => caller.abort())
      })
      const call = createClient(table, { baseUrl: url, exchange }).get({ signal: caller.signal })
      await expect(call).rejects.toBeInstanceOf(Unreachable)
    })
    test('names the route, not the values that were sent', async () => {
      const client = createClient(table, { baseUrl: 'http://127.0.0.1:1', exchange })
      const error = await client
        .put({
          params: { id: 'hunter2', part: 'hunter2' },
          query: { a: 'hunter2' },
          body: { text: 'hunter2' },
        })
        .catch((error: unknown) => error)
      expect((error as Error).message).toBe(
        `PUT http://127.0.0.1:1/v1/things/:id/parts/:part got no answer${refusal}`,
      )
    })
  })

  describe('UnexpectedAnswer', () => {
    const answers: [string, (response: ServerResponse) => void][] = [
      ['a field too many', response => json(response, 200, { said: 'x', more: 1 })],
      ['a field too few', response => json(response, 200, {})],
      ['a field of another type', response => json(response, 200, { said: 1 })],
      ['null', response => json(response, 200, null)],
      ['nothing', response => response.writeHead(200, { 'content-type': 'application/json' }).end()],
      ['no content', response => response.writeHead(204).end()],
      ['a page', response => response.writeHead(200, { 'content-type': 'text/html' }).end('<html></html>')],
      ['JSON that calls itself a page', response => json(response, 200, { said: 'x' }, 'text/html')],
      ['JSON of no type', response => response.writeHead(200).end('{"said":"x"}')],
      ['a problem that calls itself a success', response => json(response, 200, problem('CONFLICT', 409))],
      [
        'JSON with a key twice',
        response =>
          response.writeHead(200, { 'content-type': 'application/json' }).end('{"said":"x","said":"y"}'),
      ],
      [
        'JSON with a lone surrogate',
        response => response.writeHead(200, { 'content-type': 'application/json' }).end('{"said":"\\ud800"}'),
      ],
      [
        'text that is not UTF-8',
        response =>
          response
            .writeHead(200, { 'content-type': 'application/json' })
            .end(Buffer.from([...Buffer.from('{"said":"'), 0xff, ...Buffer.from('"}')])),
      ],
      ['a redirect', response => response.writeHead(302, { location: '/v1/other' }).end()],
      [
        'a redirect that keeps the method',
        response => response.writeHead(307, { location: 'http://x/' }).end(),
      ],
      [
        'a proxy’s page',
        response => response.writeHead(502, { 'content-type': 'text/html' }).end('<h1>502</h1>'),
      ],
      ['an error without a document', response => response.writeHead(500).end()],
      ['an error in another form', response => json(response, 400, { error: 'x' })],
      ['a problem of another type', response => json(response, 409, problem('CONFLICT', 409))],
      ['a problem with an unknown code', response => json(response, 409, problem('OH_NO', 409), PROBLEM)],
      ['a problem named after a method', response => json(response, 409, problem('toString', 409), PROBLEM)],
      ['a problem under another status', response => json(response, 500, problem('CONFLICT', 409), PROBLEM)],
      [
        'a problem with a status not its own',
        response => json(response, 500, problem('CONFLICT', 500), PROBLEM),
      ],
      [
        'a problem with more',
        response => json(response, 409, problem('CONFLICT', 409, { more: 1 }), PROBLEM),
      ],
    ]
    const PROBLEM = 'application/problem+json'

    test.each(answers)('%s', async (_, answer) => {
      const { url, requests } = await peer(answer)
      expect(await outcome(url)).toBeInstanceOf(UnexpectedAnswer)
      expect(requests.map(request => request.url)).toEqual(['/v1/get'])
    })

    test('an answer that is too large, told or not', async () => {
      const { url } = await peer(response => json(response, 200, { said: 'x'.repeat(200) }))
      expect(await outcome(url, { answerLimit: 211 })).toEqual({ said: 'x'.repeat(200) })
      expect(await outcome(url, { answerLimit: 210 })).toBeInstanceOf(UnexpectedAnswer)
    })

    test('an answer without an end', async () => {
      const { url } = await peer(response => {
        response.writeHead(200, { 'content-type': 'application/json' })
        const more = () => {
          while (!response.destroyed && response.write(' '.repeat(16_384)));
          response.once('drain', more)
        }
        more()
      })
      expect(await outcome(url, { answerLimit: 1_000_000 })).toBeInstanceOf(UnexpectedAnswer)
    })

    test('an answer that grows when unpacked', async () => {
      const { gzipSync } = await import('node:zlib')
      const packed = gzipSync(Buffer.alloc(5_000_000, ' '))
      expect(packed.length).toBeLessThan(10_000)
      const { url } = await peer(response =>
        response
          .writeHead(200, { 'content-type': 'application/json', 'content-encoding': 'gzip' })
          .end(packed),
      )
      expect(await outcome(url, { answerLimit: 1_000_000 })).toBeInstanceOf(UnexpectedAnswer)
    })
  })

  describe('Refused', () => {
    test('with everything that the peer said', async () => {
      const { url } = await peer(response => {
        response.setHeader('retry-after', '12')
        json(
          response,
          503,
          problem('RETRY_LATER', 503, { detail: 'busy', field: 'a' }),
          'application/problem+json; x=y',
        )
      })
      const error = await outcome(url)
      expect(error).toBeInstanceOf(Refused)
      expect(error).toMatchObject({
        code: 'RETRY_LATER',
        status: 503,
        detail: 'busy',
        field: 'a',
        retryAfter: 12,
      })
    })

    test.each(['soon', '-1', '1e9', '99999999999', 'Wed, 21 Oct 2026 07:28:00 GMT', ''])(
      'Retry-After: %s is not believed',
      async after => {
        const { url } = await peer(response => {
          response.setHeader('retry-after', after)
          json(response, 503, problem('RETRY_LATER', 503), 'application/problem+json')
        })
        expect(await outcome(url)).toMatchObject({ code: 'RETRY_LATER', retryAfter: undefined })
      },
    )

    test('as our own servers say it', async () => {
      const { url } = await serve(
        { get: table.get },
        {
          get: async () => {
            throw new Refused('CONFLICT', { detail: 'taken', field: 'name', log: 'not for you' })
          },
        },
      )
      expect(await outcome(url)).toMatchObject({
        code: 'CONFLICT',
        detail: 'taken',
        field: 'name',
        log: undefined,
      })
    })
  })
})

describe('node’s client', () => {
  const sent: Parameters<Exchange>[0] = {
    method: 'GET',
    url: '',
    body: new Uint8Array(),
    headers: {},
    timeout: 10_000,
    limit: () => 1_000_000,
  }
  const connections = () => Object.values(globalAgent.sockets).flat().length

  test('an upgrade that nobody asked for is no answer, at once', async () => {
    const { url } = await peer(response => {
      const headers = 'Connection: Upgrade\r\nUpgrade: h2c\r\n'
      response.socket?.write(`HTTP/1.1 101 Switching Protocols\r\n${headers}\r\n`)
    })
    await expect(nodeExchange({ ...sent, url })).rejects.toMatchObject({ code: 'ECONNRESET' })
  })

  test.each([true, false])(
    'an answer before the request is whole is one, and nothing stays open; the server closes: %s',
    async closes => {
      const before = connections()
      const server = createTcp(socket => {
        socket.on('error', () => undefined)
        socket.once('data', () => {
          socket.pause()
          const answer = 'HTTP/1.1 413 Payload Too Large\r\nContent-Length: 2\r\n\r\nno'
          if (closes) socket.end(answer)
          else socket.write(answer)
        })
        onTestFinished(() => void socket.destroy())
      })
      await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
      onTestFinished(() => void server.close())
      const { port } = server.address() as AddressInfo
      const body = new Uint8Array(30_000_000)
      const answered = await nodeExchange({ ...sent, method: 'POST', url: `http://127.0.0.1:${port}/`, body })
      expect(answered.status).toBe(413)
      await expect.poll(connections).toBe(before)
    },
  )

  test.each(['DELETE', 'GET', 'OPTIONS', 'POST'])('says how long the body of a %s is', async method => {
    const bodies: string[] = []
    const { url, requests } = await peer(async (response, request) => {
      let body = ''
      for await (const chunk of request) body += chunk
      bodies.push(body)
      response.end()
    })
    const body = new TextEncoder().encode('GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n')
    await nodeExchange({ ...sent, method, url, body })
    await nodeExchange({ ...sent, url: `${url}/next` })
    expect(requests.map(request => request.url)).toEqual(['/', '/next'])
    expect(bodies).toEqual([new TextDecoder().decode(body), ''])
  })

  test('puts an answer of many small pieces together', async () => {
    const bytes = Buffer.from(Array.from({ length: 5_000 }, (_, i) => i % 251))
    const { url } = await peer(response => {
      for (const byte of bytes) response.write(Buffer.of(byte))
      response.end()
    })
    const answered = await nodeExchange({ ...sent, url })
    expect(Buffer.from(answered.bytes).equals(bytes)).toBe(true)
    await expect(nodeExchange({ ...sent, url, limit: () => 4_999 })).rejects.toThrow(UnexpectedAnswer)
  })

  test('two kinds of content are none', async () => {
    const { url } = await peer(response => {
      const types = ['application/json', 'content-type', 'text/html']
      response.writeHead(200, ['content-type', ...types]).end('{"said":"x"}')
    })
    const call = createClient(table, { baseUrl: url, exchange: nodeExchange }).get({})
    await expect(call).rejects.toThrow(UnexpectedAnswer)
  })

  test('a URL with the name of a user is not asked, nor is one whose caller has given up before', async () => {
    const { url, requests } = await peer(response => response.end())
    await expect(nodeExchange({ ...sent, url: url.replace('//', '//a:b@') })).rejects.toThrow(TypeError)
    const signal = AbortSignal.abort(new Error('too late'))
    await expect(nodeExchange({ ...sent, url, signal })).rejects.toThrow('too late')
    expect(requests).toEqual([])
  })
})
