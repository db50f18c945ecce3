import { once } from 'node:events'
import { connect } from 'node:net'
import { Refused } from '@milagro-ts/api/problem'
import type { RouteTable } from '@milagro-ts/api/route'
import { AttributesField, Bytes, Jws, Strict } from '@milagro-ts/api/schemas'
import { createApp, type Handlers, type Meta, mount, toRefused } from '@milagro-ts/api/serve'
import { SseWriter } from '@milagro-ts/api/sse'
import Type from '@milagro-ts/api/typebox'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { sha256 } from '@milagro-ts/crypto/sha256'
import { beforeEach, describe, expect, test } from 'vitest'
import { listen, outcome, raw, type Server, serve, testLog } from './http-server.js'

const table = {
  echo: {
    method: 'POST',
    path: '/v1/echo',
    summary: 'Gives back what it was given.',
    caller: 'open',
    body: Strict({
      text: Type.String({ maxLength: 8 }),
      inner: Type.Optional(
        Strict({ n: Type.Optional(Type.Integer()), list: Type.Optional(Type.Array(Strict({}))) }),
      ),
      attributes: Type.Optional(AttributesField),
    }),
    response: Strict({ text: Type.String() }),
    refuses: ['CONFLICT'],
    bodyLimit: 1024,
  },
  thing: {
    method: 'GET',
    path: '/v1/things/:id',
    summary: 'One thing.',
    caller: 'open',
    params: Strict({ id: Type.String({ pattern: '^[a-z%/ ]{1,200}$' }) }),
    query: Strict({ part: Type.Optional(Type.String({ pattern: '^[a-z ]+$' })) }),
    response: Strict({ id: Type.String() }),
    refuses: ['CONFLICT'],
  },
  remove: {
    method: 'DELETE',
    path: '/v1/things/:id',
    summary: 'No thing.',
    caller: 'open',
    params: Strict({ id: Type.String() }),
    response: Strict({}),
    refuses: [],
  },
  guarded: {
    method: 'POST',
    path: '/v1/guarded',
    summary: 'For a server.',
    caller: 'server',
    body: Strict({ text: Type.String() }),
    response: Strict({ name: Type.String() }),
    refuses: ['FORBIDDEN'],
  },
  follow: {
    method: 'GET',
    path: '/v1/follow',
    summary: 'A stream.',
    caller: 'open',
    query: Strict({ fail: Type.Optional(Type.String()) }),
    stream: 'text/event-stream',
    refuses: ['CONFLICT'],
  },
} as const satisfies RouteTable

const SECRET = 'hunter2'
let ran: string[]
/** What the handler of `echo` and of `thing` does instead of answering. */
let fail: (() => unknown) | undefined
let seen: Meta | undefined

beforeEach(() => {
  ran = []
  fail = undefined
  seen = undefined
})

const handlers: Handlers<typeof table> = {
  async echo({ body, meta }) {
    ran.push('echo')
    seen = meta
    if (fail) return fail() as { text: string }
    return { text: body.text }
  },
  async thing({ params, query, meta }) {
    ran.push('thing')
    seen = meta
    if (fail) return fail() as { id: string }
    return { id: `${params.id}${query.part ?? ''}` }
  },
  async remove() {
    ran.push('remove')
    return {}
  },
  async guarded({ caller }) {
    ran.push('guarded')
    return { name: caller.name }
  },
  async follow({ query }, response) {
    ran.push('follow')
    if (query.fail === 'before') throw new Refused('CONFLICT', { detail: 'not now' })
    if (query.fail === 'later') throw new Refused('RETRY_LATER', { retryAfter: 7 })
    const writer = new SseWriter(response)
    writer.send({ data: 'one' })
    if (query.fail === 'after') throw new Error(SECRET)
    // The promise of a stream is the stream: when it settles, the stream ends.
  },
}

const checks = {
  server: async (meta: Meta) => {
    ran.push('check')
    if (meta.headers.authorization !== 'good') throw new Refused('UNAUTHENTICATED')
    return { name: 'rps' }
  },
}

const start = (options = {}): Promise<Server> => serve(table, handlers, checks, options)

const post = (url: string, body: string | Uint8Array<ArrayBuffer>, headers: Record<string, string> = {}) =>
  fetch(url, { method: 'POST', headers: { 'content-type': 'application/json', ...headers }, body })

const problemOf = async (response: Response) => (await response.json()) as Record<string, unknown>

test('a request that fits is answered with what the schema says', async () => {
  const { url } = await start()
  const response = await post(`${url}/v1/echo`, '{"text":"hello"}')
  expect(response.status).toBe(200)
  expect(response.headers.get('content-type')).toMatch(/^application\/json/)
  expect(response.headers.get('cache-control')).toBe('no-store')
  expect(response.headers.get('x-content-type-options')).toBe('nosniff')
  expect(await response.json()).toEqual({ text: 'hello' })
})

describe('a body is refused before a handler runs', () => {
  const deep = (n: number) => `${'['.repeat(n)}${']'.repeat(n)}`
  test.each([
    ['unknown field', '{"text":"x","more":1}'],
    ['unknown field further in', '{"text":"x","inner":{"n":1,"m":2}}'],
    ['unknown field in a list', '{"text":"x","inner":{"list":[{},{"a":1}]}}'],
    ['missing field', '{}'],
    ['a number as text', '{"text":"x","inner":{"n":"1"}}'],
    ['text as a number', '{"text":1}'],
    ['a fraction for an integer', '{"text":"x","inner":{"n":1.5}}'],
    ['a number beyond all numbers', '{"text":"x","inner":{"n":1e999}}'],
    ['null for an absent field', '{"text":"x","inner":null}'],
    ['a list for an object', '["text"]'],
    ['duplicate key', '{"text":"a","text":"b"}'],
    ['duplicate key written with an escape', '{"text":"a","\\u0074ext":"b"}'],
    ['duplicate key further in', '{"text":"a","inner":{"n":1,"n":2}}'],
    ['duplicate key in a list', '{"text":"a","inner":{"list":[{"a":1,"a":1}]}}'],
    ['__proto__', '{"text":"a","__proto__":{"text":"b"}}'],
    ['__proto__ written with an escape', '{"text":"a","\\u005f_proto__":{"text":"b"}}'],
    ['__proto__ alone, standing in for the field', '{"__proto__":{"text":"b"}}'],
    ['__proto__ where names are free', '{"text":"a","attributes":{"__proto__":"x"}}'],
    ['constructor', '{"text":"a","constructor":{"prototype":{"x":1}}}'],
    ['a lone surrogate', '{"text":"\\ud800"}'],
    ['surrogates the wrong way round', '{"text":"\\udc00\\ud800"}'],
    ['a lone surrogate in a name', '{"text":"a","attributes":{"\\udfff":"x"}}'],
    ['an empty name', '{"text":"a","attributes":{"":"x"}}'],
    ['text that is short only to the eye', `{"text":"a${'\u0301'.repeat(200)}"}`],
    ['nested beyond measure', `{"text":"x","inner":${deep(17)}}`],
    ['nested far beyond measure', deep(500)],
    ['not JSON', '{text:1}'],
    ['two texts', '{"text":"x"}{"text":"y"}'],
    ['a byte order mark', '\ufeff{"text":"x"}'],
    ['a comment', '{"text":"x"/**/}'],
    ['nothing', ''],
  ])('%s', async (_, body) => {
    const { url } = await start()
    const response = await post(`${url}/v1/echo`, body)
    expect(await outcome(response)).toBe('400 MALFORMED')
    expect(ran).toEqual([])
  })

  test.each([
    ['invalid', [0xff]],
    ['overlong', [0xc0, 0xaf]],
    ['a surrogate in three bytes', [0xed, 0xa0, 0x80]],
    ['cut off', [0xe2, 0x82]],
  ])('UTF-8: %s', async (_, bytes) => {
    const { url } = await start()
    const body = Uint8Array.from([...Buffer.from('{"text":"'), ...bytes, ...Buffer.from('"}')])
    expect(await outcome(await post(`${url}/v1/echo`, body))).toBe('400 MALFORMED')
    expect(ran).toEqual([])
  })

  test('no body and no content type', async () => {
    const { url } = await start()
    expect(await outcome(await fetch(`${url}/v1/echo`, { method: 'POST' }))).toBe('400 MALFORMED')
    expect(ran).toEqual([])
  })
})

test('surrogates in pairs, escapes and 16 levels are no offence', async () => {
  const { url } = await start()
  const response = await post(
    `${url}/v1/echo`,
    '{"text":"\\ud83d\\ude97 \\"\\\\","attributes":{"a":"{[\\""}}',
  )
  expect(await response.json()).toEqual({ text: '🚗 "\\' })
})

test('the refusal names the field and the rule, never the value', async () => {
  const { url, lines } = await start()
  const response = await post(`${url}/v1/echo`, `{"text":"x","inner":{"n":"${SECRET}"}}`)
  const text = await response.text()
  expect(JSON.parse(text)).toEqual({
    type: 'urn:milagro-ts:MALFORMED',
    title: expect.any(String),
    status: 400,
    code: 'MALFORMED',
    detail: 'must be integer',
    field: 'inner.n',
  })
  expect(text + lines.join('')).not.toContain(SECRET)
  expect(await problemOf(await post(`${url}/v1/echo`, '{"text":"x","more":1}'))).toMatchObject({
    field: 'more',
    detail: 'this field is not known here',
  })
})

describe('the body’s kind and size', () => {
  test.each([
    'text/plain',
    'application/x-www-form-urlencoded',
    'multipart/form-data; boundary=x',
    'application/jsonp',
    'application/json-patch+json',
    'application/json; charset=utf-16',
    'application/json; charset=utf-8; charset=utf-16',
    'application/json, text/plain',
    'json',
  ])('%s is not taken', async type => {
    const { url } = await start()
    const response = await post(`${url}/v1/echo`, '{"text":"x"}', { 'content-type': type })
    expect(await outcome(response)).toBe('415 UNSUPPORTED_MEDIA_TYPE')
    expect(ran).toEqual([])
  })

  test('nor is a compressed body', async () => {
    const { url } = await start()
    const response = await post(`${url}/v1/echo`, '{"text":"x"}', { 'content-encoding': 'gzip' })
    expect(await outcome(response)).toBe('415 UNSUPPORTED_MEDIA_TYPE')
  })

  test.each(['application/json; charset=utf-8', 'Application/JSON;charset="UTF-8"'])('%s is', async type => {
    const { url } = await start()
    const response = await post(`${url}/v1/echo`, '{"text":"x"}', { 'content-type': type })
    expect(await outcome(response)).toBe('200 OK')
  })

  const body = (length: number) => `{"text":"x"}${' '.repeat(length - 12)}`

  test('up to the route’s own limit and not a byte more', async () => {
    const { url } = await start()
    expect(await outcome(await post(`${url}/v1/echo`, body(1024)))).toBe('200 OK')
    expect(await outcome(await post(`${url}/v1/echo`, body(1025)))).toBe('413 TOO_LARGE')
    expect(ran).toEqual(['echo'])
  })

  test('in chunks too, whatever they add up to', async () => {
    const { port } = await start()
    const chunk = `200\r\n${' '.repeat(0x200)}\r\n`
    const answer = await raw(
      port,
      'POST /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n',
      chunk.repeat(3),
    )
    expect(answer).toMatch(/^HTTP\/1\.1 413 /)
    expect(answer).toContain('"code":"TOO_LARGE"')
    expect(ran).toEqual([])
  })

  test('64 KiB where the route says nothing', async () => {
    const { url } = await start()
    const response = await post(`${url}/v1/guarded`, body(65_537), { authorization: 'good' })
    expect(await outcome(response)).toBe('413 TOO_LARGE')
  })

  test('no body where the route has none', async () => {
    const { url } = await start()
    const init = { method: 'DELETE', headers: { 'content-type': 'application/json' } }
    expect(await outcome(await fetch(`${url}/v1/things/a`, { ...init, body: '{}' }))).toBe('400 MALFORMED')
    expect(await outcome(await fetch(`${url}/v1/things/a`, { method: 'DELETE' }))).toBe('200 OK')
  })

  test.each([
    ['a length', 'Content-Length: 2\r\n\r\n{}'],
    ['chunks', 'Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n'],
  ])('a GET that hides a body with %s is refused', async (_, rest) => {
    const { port } = await start()
    const answer = await raw(
      port,
      `GET /v1/things/a HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n${rest}`,
    )
    expect(answer).toMatch(/^HTTP\/1\.1 400 /)
    expect(answer).toContain('"code":"MALFORMED"')
    expect(ran).toEqual([])
  })
})

describe('the address', () => {
  const get = async (target: string) => {
    const { port } = await start()
    const answer = await raw(port, `GET ${target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`)
    return `${answer.slice(9, 12)} ${/"code":"([A-Z_]+)"/.exec(answer)?.[1] ?? 'OK'}`
  }

  test.each([
    ['unknown query', '/v1/things/a?other=1', '400 MALFORMED'],
    ['query given twice', '/v1/things/a?part=a&part=b', '400 MALFORMED'],
    ['query that is a prototype', '/v1/things/a?__proto__=b', '400 MALFORMED'],
    ['query where there is none', '/v1/things/a?constructor', '400 MALFORMED'],
    ['query with a broken escape', '/v1/things/a?part=%zz', '400 MALFORMED'],
    ['query that is not UTF-8', '/v1/things/a?part=%ff', '400 MALFORMED'],
    ['a good query', '/v1/things/a?part=b%20c', '200 OK'],
    ['an empty query', '/v1/things/a?', '200 OK'],
    ['parameter that does not fit', '/v1/things/A', '400 MALFORMED'],
    ['parameter too long', `/v1/things/${'a'.repeat(257)}`, '400 MALFORMED'],
    ['parameter far too long', `/v1/things/${'a'.repeat(10_000)}`, '400 MALFORMED'],
    ['parameter with a broken escape', '/v1/things/%zz', '400 MALFORMED'],
    ['parameter that is not UTF-8', '/v1/things/%ff', '400 MALFORMED'],
    ['parameter with a null', '/v1/things/%00', '400 MALFORMED'],
    ['parameter with an escaped slash', '/v1/things/a%2Fb', '200 OK'],
    ['empty parameter', '/v1/things/', '400 MALFORMED'],
    ['nothing there', '/v1/nothing', '404 NOT_FOUND'],
    ['a slash more', '/v1/things/a/', '404 NOT_FOUND'],
    ['two slashes', '/v1//things/a', '404 NOT_FOUND'],
    ['upper case', '/V1/things/a', '404 NOT_FOUND'],
    ['letters written as escapes', '/v1/%74hings/a', '404 NOT_FOUND'],
    ['dot segments', '/v1/x/../things/a', '400 MALFORMED'],
    ['escaped dot segments', '/v1/x/%2e%2e/things/a', '400 MALFORMED'],
    ['another host', 'http://evil.example/v1/things/a', '400 MALFORMED'],
    ['another host without a scheme', '//evil.example/v1/things/a', '400 MALFORMED'],
    ['a fragment', '/v1/things/a#b', '400 MALFORMED'],
    ['a backslash', '/v1\\things\\a', '400 MALFORMED'],
    ['no path', '*', '400 MALFORMED'],
  ])('%s', async (_, target, expected) => {
    expect(await get(target)).toBe(expected)
    expect(ran).toEqual(expected === '200 OK' ? ['thing'] : [])
  })

  test('what is refused is not repeated', async () => {
    const { port, lines } = await start()
    for (const target of [
      `/v1/things/%zz${SECRET}`,
      `/v1/things/${'a'.repeat(300)}${SECRET}`,
      `/${SECRET}`,
    ]) {
      const answer = await raw(port, `GET ${target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`)
      expect(answer).toContain('application/problem+json')
      expect(answer).not.toContain(SECRET)
    }
    expect(lines.join('')).not.toContain(SECRET)
  })

  test.each([
    ['POST', '/v1/things/a', 'GET, DELETE'],
    ['GET', '/v1/echo', 'POST'],
    ['HEAD', '/v1/things/a', 'GET, DELETE'],
    ['OPTIONS', '/v1/things/a', 'GET, DELETE'],
    ['PATCH', '/v1/echo', 'POST'],
    ['PROPFIND', '/v1/echo', 'POST'],
    ['PUT', '/openapi.json', 'GET'],
  ])('%s %s is 405 and names what is allowed', async (method, path, allow) => {
    const { url } = await start()
    const response = await fetch(url + path, { method })
    expect(response.status).toBe(405)
    expect(response.headers.get('allow')).toBe(allow)
    if (method === 'HEAD') expect(await response.text()).toBe('')
    else expect(await problemOf(response)).toMatchObject({ code: 'METHOD_NOT_ALLOWED', status: 405 })
    expect(ran).toEqual([])
  })
})

describe('two parsers must not disagree on a request', () => {
  const body = '{"text":"x"}'
  const requests: [string, string][] = [
    ['length and chunks', `Content-Length: 12\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n${body}`],
    ['two lengths', `Content-Length: 12\r\nContent-Length: 13\r\n\r\n${body} `],
    ['two lengths that agree', `Content-Length: 12\r\nContent-Length: 12\r\n\r\n${body}`],
    ['a length with a sign', `Content-Length: +12\r\n\r\n${body}`],
    ['an unknown transfer coding', `Transfer-Encoding: xchunked\r\n\r\n${body}`],
    ['chunked before another coding', `Transfer-Encoding: chunked, gzip\r\n\r\n${body}`],
    ['a chunk length that is none', 'Transfer-Encoding: chunked\r\n\r\n0x0c\r\n{"text":"x"}\r\n0\r\n\r\n'],
    ['a folded header', `X-A: 1\r\n Content-Length: 0\r\nContent-Length: 12\r\n\r\n${body}`],
    ['a space before the colon', `Content-Length : 12\r\n\r\n${body}`],
    ['a null in a header', `X-A: a\0b\r\nContent-Length: 12\r\n\r\n${body}`],
    ['lines that end in LF alone', `X-A: 1\nContent-Length: 12\n\n${body}`],
    ['two authorizations', `Authorization: a\r\nAuthorization: b\r\nContent-Length: 12\r\n\r\n${body}`],
    ['two content types', `Content-Type: application/json\r\nContent-Length: 12\r\n\r\n${body}`],
    ['two hosts', `Host: y\r\nContent-Length: 12\r\n\r\n${body}`],
  ]
  test.each(requests)('%s', async (_, rest) => {
    const { port } = await start()
    const answer = await raw(
      port,
      `POST /v1/echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n${rest}`,
    )
    expect(answer).toMatch(/^HTTP\/1\.1 400 /)
    expect(answer).toContain('"code":"MALFORMED"')
    expect(ran).toEqual([])
  })

  test('no host', async () => {
    const { port } = await start()
    expect(await raw(port, 'GET /v1/things/a HTTP/1.1\r\nConnection: close\r\n\r\n')).toMatch(
      /^HTTP\/1\.1 400 .*"code":"MALFORMED"/s,
    )
    expect(ran).toEqual([])
  })

  test('headers that never end', async () => {
    const { port } = await start()
    const answer = await raw(port, `GET /v1/things/a HTTP/1.1\r\nHost: x\r\nX-A: ${'a'.repeat(20_000)}`)
    expect(answer).toMatch(/^HTTP\/1\.1 413 .*"code":"TOO_LARGE"/s)
  })

  test('something that is not HTTP', async () => {
    const { port } = await start()
    expect(await raw(port, '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03')).toMatch(
      /^HTTP\/1\.1 400 .*application\/problem\+json.*"code":"MALFORMED"/s,
    )
  })
})

describe('who is slow', () => {
  const head = 'POST /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 12\r\n'

  test.each([
    ['with its headers', [head]],
    ['with its body', [`${head}\r\n`, '{"text']],
    ['with everything', ['']],
  ])('%s is told so and cut off; no handler has run', async (_, parts) => {
    const { port, lines } = await start({ requestTimeout: 100 })
    const answer = await raw(port, ...parts)
    expect(answer).toMatch(/^HTTP\/1\.1 408 .*"code":"TOO_SLOW"/s)
    expect(ran).toEqual([])
    expect(lines.join('')).not.toContain('"level":50')
  })

  test('who hangs up in the middle of a body is no error of the server', async () => {
    const { app, port, lines, url } = await start()
    const arrived = once(app.server, 'request')
    const socket = connect(port, '127.0.0.1')
    socket.write(`${head}\r\n{"text`)
    const [request] = await arrived
    const gone = new Promise(resolve => request.once('close', resolve))
    socket.destroy()
    await gone
    expect(await outcome(await fetch(`${url}/v1/things/a`))).toBe('200 OK')
    expect(ran).toEqual(['thing'])
    expect(lines.join('')).not.toContain('"level":50')
  })
})

describe('what a handler throws', () => {
  const send = async (thrown: unknown) => {
    fail = () => {
      throw thrown
    }
    const server = await start()
    const response = await post(`${server.url}/v1/echo`, '{"text":"x"}')
    return { response, text: await response.clone().text(), ...server }
  }

  test('Refused: its code, status, detail and field', async () => {
    const { response, lines } = await send(
      new Refused('CONFLICT', { detail: 'for the peer', field: 'text', log: 'for the log' }),
    )
    expect(response.status).toBe(409)
    expect(await problemOf(response)).toEqual({
      type: 'urn:milagro-ts:CONFLICT',
      title: 'The request contradicts what is already recorded.',
      status: 409,
      code: 'CONFLICT',
      detail: 'for the peer',
      field: 'text',
    })
    expect(lines.join('')).toContain('for the log')
  })

  test.each([
    [undefined, '1'],
    [30, '30'],
    [0, '1'],
    [2.3, '3'],
  ])('RETRY_LATER after %s seconds: Retry-After %s', async (retryAfter, header) => {
    const { response } = await send(new Refused('RETRY_LATER', { retryAfter }))
    expect(response.status).toBe(503)
    expect(response.headers.get('retry-after')).toBe(header)
  })

  test('DecodeError: MALFORMED with its field', async () => {
    const { response } = await send(new DecodeError('uDev', 'not on the curve'))
    expect(response.status).toBe(400)
    expect(await problemOf(response)).toMatchObject({
      code: 'MALFORMED',
      field: 'uDev',
      detail: 'not on the curve',
    })
  })

  test.each([
    ['an Error', new Error(SECRET)],
    ['a TypeError', new TypeError(SECRET)],
    ['an Error that calls itself a client’s fault', Object.assign(new Error(SECRET), { statusCode: 400 })],
    ['a string', SECRET],
    ['nothing', undefined],
    ['an INTERNAL that says too much', new Refused('INTERNAL', { detail: SECRET })],
    ['a refusal that the route does not list', new Refused('WRONG_PIN', { detail: SECRET })],
  ])('%s: INTERNAL, and its text stays inside', async (_, thrown) => {
    const { response, text, lines } = await send(thrown)
    expect(await outcome(response)).toBe('500 INTERNAL')
    expect(text).not.toContain(SECRET)
    expect(lines.join('')).toContain('"level":50')
  })

  test('an answer that does not fit: INTERNAL', async () => {
    const wrong: unknown[] = [{ text: 1 }, { text: SECRET, more: SECRET }, undefined, null, { text: 1n }]
    for (const answer of wrong) {
      fail = () => answer
      const { url } = await start()
      const response = await post(`${url}/v1/echo`, '{"text":"x"}')
      const text = await response.clone().text()
      expect(await outcome(response)).toBe('500 INTERNAL')
      expect(text).not.toContain(SECRET)
    }
  })

  test('is counted by route and code', async () => {
    const { metrics } = await send(new Refused('CONFLICT'))
    expect(await metrics.registry.metrics()).toContain('test_requests_total{route="echo",code="CONFLICT"} 1')
  })

  test.each([
    ['FST_ERR_CTP_BODY_TOO_LARGE', 'TOO_LARGE'],
    ['FST_ERR_CTP_INVALID_MEDIA_TYPE', 'UNSUPPORTED_MEDIA_TYPE'],
    ['FST_ERR_BAD_URL', 'MALFORMED'],
    ['toString', 'INTERNAL'],
    ['ECONNRESET', 'INTERNAL'],
  ])('fastify’s %s is %s', (code, expected) => {
    expect(toRefused(Object.assign(new Error(), { code })).code).toBe(expected)
  })
})

describe('the caller', () => {
  test('is established before the fields are looked at', async () => {
    const { url } = await start()
    const response = await post(`${url}/v1/guarded`, '{"wrong":1')
    expect(await outcome(response)).toBe('401 UNAUTHENTICATED')
    expect(ran).toEqual(['check'])
  })

  test('is handed on', async () => {
    const { url } = await start()
    const response = await post(`${url}/v1/guarded`, '{"text":"x"}', { authorization: 'good' })
    expect(await response.json()).toEqual({ name: 'rps' })
    expect(ran).toEqual(['check', 'guarded'])
  })

  test('is checked on the very bytes and address that were sent', async () => {
    const { url } = await start()
    const body = '{ "text" : "é" }'
    await post(`${url}/v1/echo`, body)
    expect(seen?.method).toBe('POST')
    expect(seen?.url).toBe('/v1/echo')
    expect(seen?.bodyHash).toEqual(sha256(new TextEncoder().encode(body)))
    await fetch(`${url}/v1/things/a%20b?part=c`)
    expect(seen?.url).toBe('/v1/things/a%20b?part=c')
    expect(seen?.bodyHash).toEqual(sha256(new Uint8Array()))
  })

  test('is where the connection comes from, unless a named proxy says otherwise', async () => {
    const headers = { 'x-forwarded-for': '203.0.113.9, 198.51.100.7' }
    await fetch(`${(await start()).url}/v1/things/a`, { headers })
    expect(seen?.ip).toBe('127.0.0.1')
    await fetch(`${(await start({ trustProxy: ['10.0.0.0/8'] })).url}/v1/things/a`, { headers })
    expect(seen?.ip).toBe('127.0.0.1')
    await fetch(`${(await start({ trustProxy: [] })).url}/v1/things/a`, { headers })
    expect(seen?.ip).toBe('127.0.0.1')
    // Only the entry that the trusted proxy itself wrote: what stands before it, anybody can send.
    await fetch(`${(await start({ trustProxy: ['127.0.0.1'] })).url}/v1/things/a`, { headers })
    expect(seen?.ip).toBe('198.51.100.7')
  })
})

describe('a stream', () => {
  test('is written by its handler and ends with it', async () => {
    const { url, metrics } = await start()
    const response = await fetch(`${url}/v1/follow`)
    expect(response.headers.get('content-type')).toBe('text/event-stream')
    expect(await response.text()).toBe('data: one\n\n')
    expect(await metrics.registry.metrics()).toContain('test_requests_total{route="follow",code="OK"} 1')
  })

  test('is refused with a problem document while nothing was written', async () => {
    const { url } = await start()
    expect(await outcome(await fetch(`${url}/v1/follow?fail=before`))).toBe('409 CONFLICT')
    const later = await fetch(`${url}/v1/follow?fail=later`)
    expect(later.headers.get('retry-after')).toBe('7')
    expect(await outcome(later)).toBe('503 RETRY_LATER')
  })

  test('breaks off when its handler fails, and says nothing of why', async () => {
    const { url, lines } = await start()
    const response = await fetch(`${url}/v1/follow?fail=after`)
    await expect(response.text()).rejects.toThrow()
    expect(lines.join('')).toContain('"level":50')
  })
})

describe('a start fails with a TypeError', () => {
  const route = { method: 'GET', path: '/', summary: '', refuses: [], response: Strict({}) } as const
  const app = () => {
    const server = { title: 'x', log: testLog().log, metrics: { observe: () => {} } }
    return createApp(server as unknown as Parameters<typeof createApp>[0])
  }

  test('when a kind of caller has no check', () => {
    const guarded = { guarded: { ...route, caller: 'operator' } } as const
    expect(() => mount(app(), guarded, { guarded: async () => ({}) }, {})).toThrow(TypeError)
  })
  test('when a route has neither an answer nor a stream', () => {
    const { response: _, ...silent } = route
    const table: RouteTable = { silent: { ...silent, caller: 'open' } }
    expect(() =>
      mount(app(), table, { silent: async () => ({}) } as unknown as Handlers<RouteTable>, {}),
    ).toThrow(TypeError)
  })
})

test('a server that is stopping takes no new request', async () => {
  let finish = () => {}
  const stopped = new Promise<void>(resolve => {
    finish = resolve
  })
  const { log } = testLog()
  const app = createApp({ title: 'x', log, metrics: { observe: () => {} } as never })
  mount(app, { thing: table.thing }, { thing: handlers.thing }, {})
  let answer = ''
  app.addHook('preClose', async () => {
    // Fastify runs this before it closes the connections: what arrives now meets a server whose store may be gone.
    const { statusCode, body } = await app
      .inject({ url: '/v1/things/a' })
      .catch(() => ({ statusCode: 0, body: '' }))
    answer = `${statusCode} ${body}`
    finish()
  })
  await listen(app)
  await app.close()
  await stopped
  expect(ran).toEqual([])
  expect(answer).not.toContain('200')
})

describe('bytes in JSON have one spelling', () => {
  test.each([1, 16, 32, 33, 39, 48, 64, 96])('%s bytes', async length => {
    const table = {
      take: {
        method: 'POST',
        path: '/',
        summary: '',
        caller: 'open',
        body: Strict({ bytes: Bytes(length) }),
        response: Strict({}),
        refuses: [],
      },
    } as const
    const { url } = await serve(table, { take: async () => ({}) })
    const good = toBase64Url(new Uint8Array(length).fill(0xff))
    // Where the last character holds bits of no byte, they are zero: `_` sets them all.
    const unused = length % 3 === 0 ? [] : [`${good.slice(0, -1)}_`]
    const spellings = [
      ...unused,
      `${good}=`,
      good.replaceAll('_', '/'),
      ` ${good}`,
      `${good}\n`,
      good.slice(1),
    ]
    expect(await outcome(await post(url, JSON.stringify({ bytes: good })))).toBe('200 OK')
    for (const text of spellings)
      expect(await outcome(await post(url, JSON.stringify({ bytes: text })))).toBe('400 MALFORMED')
  })

  test('a JWS has three parts', async () => {
    const table = {
      take: {
        method: 'POST',
        path: '/',
        summary: '',
        caller: 'open',
        body: Strict({ jws: Jws() }),
        response: Strict({}),
        refuses: [],
      },
    } as const
    const { url } = await serve(table, { take: async () => ({}) })
    const answers = []
    for (const jws of [
      'aaaaaaaa.bbbbbbbb.cccccccc',
      'aaaaaaaaaa.bbbbbbbbbb',
      'aaaaaa.bbbbb.cccccc.dddd',
      'a..bbbbbbbbbbbbbb',
    ])
      answers.push(await outcome(await post(url, JSON.stringify({ jws }))))
    expect(answers).toEqual(['200 OK', ...Array(3).fill('400 MALFORMED')])
  })
})
