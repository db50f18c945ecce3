import { dtaRoutes } from '@milagro-ts/api/dta-routes'
import { createMetrics } from '@milagro-ts/api/metrics'
import { CODES } from '@milagro-ts/api/problem'
import type { RouteTable } from '@milagro-ts/api/route'
import { Strict } from '@milagro-ts/api/schemas'
import Type from '@milagro-ts/api/typebox'
import { describe, expect, test } from 'vitest'
import { serve } from './http-server.js'

test('requests are counted by route and code, and timed by route', async () => {
  const metrics = createMetrics('rps')
  metrics.observe('login', 'OK', 0.02)
  metrics.observe('login', 'WRONG_PIN', 0.3)
  metrics.observe('login', 'OK', 0.004)
  const text = await metrics.registry.metrics()
  expect(text).toContain('rps_requests_total{route="login",code="OK"} 2')
  expect(text).toContain('rps_requests_total{route="login",code="WRONG_PIN"} 1')
  expect(text).toContain('rps_request_seconds_count{route="login"} 3')
  expect(text).toContain('rps_request_seconds_bucket{le="0.005",route="login"} 1')
})

test('a gauge says how many there are now', async () => {
  const metrics = createMetrics('rps')
  metrics.gauge('authorities_live', 3)
  metrics.gauge('authorities_live', 2)
  expect(await metrics.registry.metrics()).toContain('\nrps_authorities_live 2\n')
})

test('two servers of one process keep their own', async () => {
  const [one, two] = [createMetrics('dta'), createMetrics('dta')]
  one.count('alarms')
  expect(await two.registry.metrics()).not.toContain('dta_alarms_total')
})

describe('labels', () => {
  const labelled = async (value: string) => {
    const metrics = createMetrics('dta')
    metrics.count('shares', { purpose: value })
    const text = await metrics.registry.metrics()
    return /dta_shares_total\{purpose="([^"]*)"\} 1/.exec(text)?.[1]
  }

  test.each([...Object.keys(CODES), 'device', 'wrong-share', 'ta1', 'fleet.example', 'unreachable'])(
    '%s is a word',
    async value => {
      expect(await labelled(value)).toBe(value)
    },
  )

  test.each([
    ['an idCore', 'AAAAAQAAA2_hUyDmKkO1SqyTKXQtzJDGN5i7pIxQfS0F2bvX1cXy'],
    ['a hash', 'A6unt4AsBXJrby_2pEtjm_rrzjVQgi4lw8YYohRa3b1'],
    ['16 bytes', 'xaBdeFghiJklmnOpqrstuv'],
    ['16 bytes in hex', 'a0b1c2d3e4f5a0b1c2d3e4f5a0b1c2d3'],
    ['a VIN', 'WVWZZZ1JZXW000001'],
    ['an address', '203.0.113.9'],
    ['an IPv6 address', '2001:db8::1'],
    ['a person', 'Ada Lovelace'],
    ['nothing', ''],
  ])('%s is none', async (_, value) => {
    expect(await labelled(value)).toBe('other')
  })
})

test('nothing of a request gets into the metrics', async () => {
  const { url, metrics } = await serve(
    {
      thing: {
        method: 'POST',
        path: '/v1/groups/:groupId',
        summary: '',
        caller: 'open',
        params: dtaRoutes.group.params,
        query: Strict({ q: Type.Optional(Type.String()) }),
        body: Strict({ name: Type.String() }),
        response: Strict({}),
        refuses: [],
      },
    } as const satisfies RouteTable,
    { thing: async () => ({}) },
  )
  const id = 'A'.repeat(43)
  const headers = { 'content-type': 'application/json', authorization: 'Bearer hunter2' }
  const send = (path: string) => fetch(url + path, { method: 'POST', headers, body: '{"name":"hunter2"}' })
  expect((await send(`/v1/groups/${id}?q=hunter2`)).status).toBe(200)
  await send('/v1/groups/hunter2')
  await send('/hunter2/nowhere')
  const text = await metrics.registry.metrics()
  expect(text).not.toMatch(/hunter2|AAAA|127\.0\.0\.1/)
  const routes = [...text.matchAll(/test_requests_total\{route="([^"]*)",code="([^"]*)"\}/g)]
  expect(routes.map(([, route, code]) => `${route} ${code}`).sort()).toEqual([
    'none NOT_FOUND',
    'thing MALFORMED',
    'thing OK',
  ])
})
