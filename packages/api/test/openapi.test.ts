import { dtaAdminRoutes, dtaRoutes } from '@milagro-ts/api/dta-routes'
import { openApi } from '@milagro-ts/api/openapi'
import { CODES } from '@milagro-ts/api/problem'
import { registerRoutes } from '@milagro-ts/api/register-routes'
import { codesOf, type Route, type RouteTable } from '@milagro-ts/api/route'
import { rpaRoutes } from '@milagro-ts/api/rpa-routes'
import { rpsRoutes } from '@milagro-ts/api/rps-routes'
import { describe, expect, test } from 'vitest'
import { serve } from './http-server.js'

interface Operation {
  readonly operationId: string
  readonly summary: string
  readonly security?: readonly Readonly<Record<string, readonly string[]>>[]
  readonly parameters?: readonly { name: string; in: string; required: boolean; schema: object }[]
  readonly requestBody?: { required: boolean; content: Record<string, { schema: object }> }
  readonly responses: Record<string, { description: string; content: Record<string, { schema?: object }> }>
}
interface Document {
  readonly openapi: string
  readonly info: { title: string; version: string }
  readonly paths: Record<string, Record<string, Operation>>
  readonly components: { schemas: Record<string, object>; securitySchemes: Record<string, { type: string }> }
}

const documents: [string, RouteTable, Document][] = (
  [
    ['D-TA', dtaRoutes],
    ['D-TA admin', dtaAdminRoutes],
    ['RPS', rpsRoutes],
    ['RPA', rpaRoutes],
    ['register', registerRoutes],
  ] as [string, RouteTable][]
).map(([title, table]) => [title, table, JSON.parse(openApi(table, title))])

/** Every object in a value, at any depth. */
function objects(value: unknown): Record<string, unknown>[] {
  if (typeof value !== 'object' || value === null) return []
  return [
    ...(Array.isArray(value) ? [] : [value as Record<string, unknown>]),
    ...Object.values(value).flatMap(objects),
  ]
}

describe.each(documents)('%s', (title, table, document) => {
  const operations = Object.entries(document.paths).flatMap(([path, item]) =>
    Object.entries(item).map(([method, operation]) => ({ path, method, operation })),
  )

  test('is OpenAPI 3.1', () => {
    expect(document.openapi).toBe('3.1.0')
    expect(document.info).toMatchObject({ title, version: '1' })
    expect(Object.keys(document).sort()).toEqual(['components', 'info', 'openapi', 'paths'])
  })

  test('has each route once, under its own name', () => {
    const listed = operations.map(
      ({ path, method, operation }) =>
        `${operation.operationId} ${method.toUpperCase()} ${path.replaceAll(/\{(\w+)\}/g, ':$1')}`,
    )
    expect(listed.sort()).toEqual(
      Object.entries(table)
        .map(([name, { method, path }]) => `${name} ${method} ${path}`)
        .sort(),
    )
  })

  test('names every parameter of a path, and requires it', () => {
    for (const { path, operation } of operations) {
      const inPath = (operation.parameters ?? []).filter(parameter => parameter.in === 'path')
      expect(inPath.map(({ name }) => name)).toEqual([...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name))
      expect(inPath.every(({ required }) => required)).toBe(true)
    }
  })

  test('has each code of a route once, under its own status, as a problem document', () => {
    for (const { operation } of operations) {
      const codes = Object.entries(operation.responses).flatMap(([status, { description, content }]) => {
        if (status === '200') return []
        expect(content).toEqual({
          'application/problem+json': { schema: { $ref: '#/components/schemas/Problem' } },
        })
        const listed = [...description.matchAll(/`([A-Z_]+)`: /g)].map(
          ([, code]) => code as keyof typeof CODES,
        )
        for (const code of listed) {
          expect(CODES[code].status).toBe(Number(status))
          expect(description).toContain(CODES[code].means)
        }
        return listed
      })
      expect(codes.sort()).toEqual([...codesOf(table[operation.operationId] as Route)].sort())
    }
  })

  test('says what is sent and what comes back', () => {
    for (const { operation } of operations) {
      const route = table[operation.operationId] as Route
      expect(operation.summary).toBe(route.summary)
      const [type, media] = Object.entries(operation.responses['200']?.content ?? {})[0] ?? []
      expect(type).toBe(route.stream ?? 'application/json')
      expect(media?.schema).toEqual(route.response && JSON.parse(JSON.stringify(route.response)))
      const body = operation.requestBody?.content['application/json']?.schema
      expect(body).toEqual(route.body && JSON.parse(JSON.stringify(route.body)))
    }
  })

  test('refers only to what it defines', () => {
    const schemes = Object.keys(document.components.securitySchemes)
    for (const { operation } of operations)
      for (const name of (operation.security ?? []).flatMap(Object.keys)) expect(schemes).toContain(name)
    const callers = new Set(Object.values(table).map(({ caller }) => caller))
    callers.delete('open')
    expect(schemes.sort()).toEqual([...callers].sort())
    const references = objects(document).flatMap(({ $ref }) => (typeof $ref === 'string' ? [$ref] : []))
    expect(new Set(references)).toEqual(new Set(['#/components/schemas/Problem']))
    expect(document.components.schemas).toHaveProperty('Problem')
  })

  test('holds nothing but what JSON Schema 2020-12 knows, and x-holds', () => {
    const known =
      /^(type|properties|patternProperties|required|additionalProperties|items|anyOf|const|enum|pattern|(min|max)(Length|Items|Properties)|minimum|maximum|description|title|x-holds)$/
    for (const { operation } of operations) {
      const bodies = [operation.requestBody?.content, operation.responses['200']?.content]
      for (const schema of objects(bodies).filter(
        ({ type, anyOf }) => typeof type === 'string' || Array.isArray(anyOf),
      ))
        for (const key of Object.keys(schema)) expect(key).toMatch(known)
    }
  })
})

test('is served by every app', async () => {
  const routes = { time: { ...rpsRoutes.time } }
  const { url } = await serve(routes, { time: async () => ({ time: 'a.b.c' }) })
  const response = await fetch(`${url}/openapi.json`)
  expect(response.headers.get('content-type')).toMatch(/^application\/json/)
  expect(await response.text()).toBe(openApi(routes, 'Test'))
})
