import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { adminTokenOf, createAdmin, type Readiness } from '@milagro-ts/api/admin'
import { ConfigError } from '@milagro-ts/api/config'
import { createMetrics } from '@milagro-ts/api/metrics'
import type { RouteTable } from '@milagro-ts/api/route'
import { Strict } from '@milagro-ts/api/schemas'
import { systemRandom } from '@milagro-ts/api/system'
import Type from '@milagro-ts/api/typebox'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { listen, outcome, testLog } from './http-server.js'

const table = {
  freeze: {
    method: 'POST',
    path: '/v1/freeze',
    summary: 'An admin route.',
    caller: 'admin',
    body: Strict({ name: Type.String() }),
    response: Strict({ frozen: Type.Boolean() }),
    refuses: [],
  },
} as const satisfies RouteTable

const TOKEN = 'dG9rZW4tZm9yLXRoZS10ZXN0cy1vZi10aGUtYWRtaW4'

async function admin(ready: () => Promise<Readiness> = async () => ({ ok: true, checks: {} })) {
  const { log, lines } = testLog()
  let ran = 0
  const app = createAdmin({
    title: 'Admin',
    log,
    metrics: createMetrics('test'),
    adminToken: TOKEN,
    ready,
    table,
    handlers: {
      freeze: async () => {
        ran++
        return { frozen: true }
      },
    },
  })
  return { ...(await listen(app)), lines, ran: () => ran }
}

describe('whoever reaches the listener', () => {
  test('sees that it lives', async () => {
    const { url } = await admin()
    const response = await fetch(`${url}/health/live`)
    expect(response.status).toBe(200)
    expect(await response.json()).toEqual({ ok: true })
  })
  test.each<[Readiness, number]>([
    [{ ok: true, checks: { store: true } }, 200],
    [{ ok: false, checks: { store: 'not reachable', clock: true } }, 503],
  ])('sees whether it is ready: %j', async (readiness, status) => {
    const { url } = await admin(async () => readiness)
    const response = await fetch(`${url}/health/ready`)
    expect(response.status).toBe(status)
    expect(await response.json()).toEqual(readiness)
  })
  test('is told nothing of a check that throws', async () => {
    const { url } = await admin(async () => {
      throw new Error('hunter2')
    })
    const response = await fetch(`${url}/health/ready`)
    expect(await response.clone().text()).not.toContain('hunter2')
    expect(await outcome(response)).toBe('500 INTERNAL')
  })
  test('sees the metrics', async () => {
    const { url } = await admin()
    const response = await fetch(`${url}/metrics`)
    expect(response.headers.get('content-type')).toMatch(/^text\/plain; version=0\.0\.4/)
    expect(await response.text()).toContain('# TYPE test_requests_total counter')
  })
})

describe('an admin route', () => {
  const freeze = (url: string, headers: Record<string, string>) =>
    fetch(`${url}/v1/freeze`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...headers },
      body: '{"name":"x"}',
    })

  test('wants the admin token', async () => {
    const { url, ran } = await admin()
    const response = await freeze(url, { authorization: `Bearer ${TOKEN}` })
    expect(await response.json()).toEqual({ frozen: true })
    expect(ran()).toBe(1)
  })
  test.each<[string, Record<string, string>]>([
    ['none', {}],
    ['an empty one', { authorization: '' }],
    ['the word alone', { authorization: 'Bearer' }],
    ['the word and a space', { authorization: 'Bearer ' }],
    ['another', { authorization: `Bearer ${TOKEN.replace('d', 'e')}` }],
    ['a part of it', { authorization: `Bearer ${TOKEN.slice(0, -1)}` }],
    ['more than it', { authorization: `Bearer ${TOKEN}A` }],
    ['it without the word', { authorization: TOKEN }],
    ['it after another word', { authorization: `Basic ${TOKEN}` }],
    ['it in another header', { 'x-authorization': `Bearer ${TOKEN}` }],
  ])('refuses %s', async (_, headers) => {
    const { url, ran, lines } = await admin()
    expect(await outcome(await freeze(url, headers))).toBe('401 UNAUTHENTICATED')
    expect(ran()).toBe(0)
    expect(lines.join('')).not.toContain(TOKEN)
  })
  test('refuses a stranger before it looks at what he sends', async () => {
    const { url } = await admin()
    const response = await fetch(`${url}/v1/freeze`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: '{"wrong":',
    })
    expect(await outcome(response)).toBe('401 UNAUTHENTICATED')
  })
  test('can’t be served with an empty token', () => {
    const options = { title: 'x', log: testLog().log, metrics: createMetrics('test'), adminToken: '' }
    const ready = async () => ({ ok: true, checks: {} })
    expect(() => createAdmin({ ...options, ready, table: {}, handlers: {} })).toThrow(TypeError)
  })
})

describe('the token of a data folder', () => {
  let folder: string
  let path: string
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'milagro-admin-'))
    path = join(folder, 'admin-token')
  })
  afterEach(() => rmSync(folder, { recursive: true }))

  test('is made once, for its owner only, and leaves nothing beside it', () => {
    const token = adminTokenOf(folder, systemRandom)
    expect(token).toMatch(/^[A-Za-z0-9_-]{43}$/)
    expect(readFileSync(path, 'utf8')).toBe(`${token}\n`)
    expect(statSync(path).mode & 0o777).toBe(0o600)
    expect(adminTokenOf(folder, systemRandom)).toBe(token)
    expect(readdirSync(folder)).toEqual(['admin-token'])
  })
  test('is another in another folder', () => {
    const other = mkdtempSync(join(tmpdir(), 'milagro-admin-'))
    expect(adminTokenOf(other, systemRandom)).not.toBe(adminTokenOf(folder, systemRandom))
    rmSync(other, { recursive: true })
  })
  test('of two starts at once, one wins, and both have its token', () => {
    let first = ''
    const second = adminTokenOf(folder, length => {
      first = adminTokenOf(folder, systemRandom)
      return systemRandom(length)
    })
    expect(second).toBe(first)
    expect(readdirSync(folder)).toEqual(['admin-token'])
  })
  test.each(['', '\n', 'x', `${'a'.repeat(43)}b\n`, `${'a'.repeat(43)}\n${'b'.repeat(43)}\n`])(
    'is not taken from a damaged file: %j',
    content => {
      writeFileSync(path, content)
      expect(() => adminTokenOf(folder, systemRandom)).toThrow(ConfigError)
    },
  )
})
