/** Pages on a server's own origin, and which other origins' pages may read its answers. */
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ConfigError } from '@milagro-ts/api/config'
import { createMetrics } from '@milagro-ts/api/metrics'
import { servePages } from '@milagro-ts/api/pages'
import type { RouteTable } from '@milagro-ts/api/route'
import { Strict } from '@milagro-ts/api/schemas'
import { createApp } from '@milagro-ts/api/serve'
import { SseWriter } from '@milagro-ts/api/sse'
import Type from '@milagro-ts/api/typebox'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { listen, outcome, raw, serve, testLog } from './http-server.js'

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'milagro-pages-'))
  await mkdir(join(folder, 'site'))
  await writeFile(join(folder, 'secret'), 'outside')
  await writeFile(join(folder, 'site', 'index.html'), '<!doctype html><title>A page</title>')
  await writeFile(join(folder, 'site', 'main.js'), 'export {}')
})
afterAll(() => rm(folder, { recursive: true }))

async function site(prefix?: string) {
  const app = createApp({ title: 'Test', log: testLog().log, metrics: createMetrics('test') })
  const options = { folder: join(folder, 'site'), entry: 'index.html', connectTo: ['https://rps.example'] }
  await servePages(app, { ...options, ...(prefix === undefined ? {} : { prefix }) })
  return listen(app)
}

describe('pages', () => {
  test('come with a policy that lets no script or style in but their own', async () => {
    const { url } = await site()
    const answer = await fetch(`${url}/`)
    expect(await answer.text()).toContain('A page')
    const policy = (answer.headers.get('content-security-policy') ?? '').split('; ')
    expect(policy).toEqual([
      "default-src 'none'",
      "script-src 'self' 'wasm-unsafe-eval'",
      "style-src 'self'",
      "img-src 'self' data:",
      "connect-src 'self' https://rps.example",
      "base-uri 'none'",
      "form-action 'none'",
      "frame-ancestors 'none'",
    ])
    expect(answer.headers.get('x-content-type-options')).toBe('nosniff')
    expect(answer.headers.get('referrer-policy')).toBe('no-referrer')
    expect((await fetch(`${url}/main.js`)).headers.get('content-type')).toMatch(
      /^(text|application)\/javascript/,
    )
  })

  test('of a new build show at once: each is asked for again', async () => {
    const { url, port } = await site()
    const first = await fetch(`${url}/main.js`)
    expect(first.headers.get('cache-control')).toBe('no-cache')
    const etag = first.headers.get('etag') ?? ''
    // Node's fetch adds a header of its own that asks for the whole file.
    const again = await raw(
      port,
      `GET /main.js HTTP/1.1\r\nHost: x\r\nIf-None-Match: ${etag}\r\nConnection: close\r\n\r\n`,
    )
    expect(again).toMatch(/^HTTP\/1\.1 304 /)
  })

  test.each([
    '/secret',
    '/../secret',
    '/%2e%2e/secret',
    '/..%2fsecret',
    '/main.js/../../secret',
    '/none.js',
    '//main.js',
  ])('nothing else is there: %s', async path => {
    const { url } = await site()
    const answer = await fetch(`${url}${path}`)
    expect([400, 404]).toContain(answer.status)
    expect(await answer.text()).not.toContain('outside')
  })

  test('take no other method', async () => {
    const { url } = await site()
    expect(await outcome(await fetch(`${url}/main.js`, { method: 'POST' }))).toBe('405 METHOD_NOT_ALLOWED')
  })

  test('stand under their prefix', async () => {
    const { url } = await site('/extensions/map/')
    expect((await fetch(`${url}/extensions/map/main.js`)).status).toBe(200)
    expect((await fetch(`${url}/main.js`)).status).toBe(404)
  })

  test('that were not built end the start with the folder’s name', async () => {
    const app = createApp({ title: 'Test', log: testLog().log, metrics: createMetrics('test') })
    const empty = join(folder, 'empty')
    await mkdir(empty)
    await symlink(join(folder, 'none'), join(empty, 'index.html'))
    const serving = servePages(app, { folder: empty, entry: 'index.html', connectTo: [] })
    await expect(serving).rejects.toThrow(ConfigError)
    await expect(serving).rejects.toThrow(empty)
  })
})

describe('pages of other origins', () => {
  const PAGE = 'https://fleet.example'
  const table = {
    greet: {
      method: 'POST',
      path: '/v1/greetings',
      summary: 'Greets.',
      caller: 'open',
      body: Strict({ name: Type.String() }),
      response: Strict({ greeting: Type.String() }),
      refuses: [],
    },
    stream: {
      method: 'GET',
      path: '/v1/stream',
      summary: 'Says one thing.',
      caller: 'open',
      stream: 'text/event-stream',
      refuses: [],
    },
  } as const satisfies RouteTable
  const start = (webOrigins?: string[]) =>
    serve(
      table,
      {
        greet: async ({ body }) => ({ greeting: `Hello ${body.name}` }),
        stream: async (_input, response) => {
          const writer = new SseWriter(response)
          writer.send({ data: 'one' })
          writer.close()
          await writer.closed
        },
      },
      {},
      webOrigins === undefined ? {} : { webOrigins },
    )
  const preflight = (url: string, origin: string) =>
    fetch(`${url}/v1/greetings`, {
      method: 'OPTIONS',
      headers: { origin, 'access-control-request-method': 'POST' },
    })
  const greeting = (url: string, origin: string, body = '{"name":"Ada"}') =>
    fetch(`${url}/v1/greetings`, {
      method: 'POST',
      headers: { origin, 'content-type': 'application/json' },
      body,
    })
  const allowed = (answer: Response) => answer.headers.get('access-control-allow-origin')

  test('on the list may ask and read: answers, refusals and streams', async () => {
    const { url } = await start([PAGE])
    const asked = await preflight(url, PAGE)
    expect([asked.status, allowed(asked)]).toEqual([204, PAGE])
    expect(asked.headers.get('access-control-allow-methods')).toBe('POST')
    expect(asked.headers.get('access-control-allow-headers')).toBe('authorization, content-type')
    expect(asked.headers.get('access-control-allow-credentials')).toBeNull()
    const answers = [
      await greeting(url, PAGE),
      await greeting(url, PAGE, '{}'),
      await fetch(`${url}/v1/stream`, { headers: { origin: PAGE } }),
    ]
    expect(answers.map(allowed)).toEqual([PAGE, PAGE, PAGE])
    expect(answers.map(answer => answer.headers.get('vary'))).toEqual(['Origin', 'Origin', 'Origin'])
    expect(answers.map(({ status }) => status)).toEqual([200, 400, 200])
  })

  test.each(['https://other.example', 'http://fleet.example', `${PAGE}.evil.example`, 'null'])(
    'off the list may not: %s',
    async origin => {
      const { url } = await start([PAGE])
      const asked = await preflight(url, origin)
      expect([asked.status, allowed(asked)]).toEqual([405, null])
      expect(allowed(await greeting(url, origin))).toBeNull()
    },
  )

  test('find no list at all unless one is set', async () => {
    const { url } = await start()
    expect((await preflight(url, PAGE)).status).toBe(405)
    const answer = await greeting(url, PAGE)
    expect([allowed(answer), answer.headers.get('vary')]).toEqual([null, null])
  })

  test('and a question about a path that isn’t there is a 404', async () => {
    const { url } = await start([PAGE])
    const answer = await fetch(`${url}/v1/none`, {
      method: 'OPTIONS',
      headers: { origin: PAGE, 'access-control-request-method': 'POST' },
    })
    expect(await outcome(answer)).toBe('404 NOT_FOUND')
  })
})
