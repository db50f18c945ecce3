/** One test for all: what must hold of every route of every table, whoever writes it. */
import { dtaAdminRoutes, dtaRoutes } from '@milagro-ts/api/dta-routes'
import { CODES } from '@milagro-ts/api/problem'
import { registerRoutes } from '@milagro-ts/api/register-routes'
import { codesOf, type Route, type RouteTable } from '@milagro-ts/api/route'
import { rpaRoutes } from '@milagro-ts/api/rpa-routes'
import { rpsRoutes } from '@milagro-ts/api/rps-routes'
import { HOLDS, type Holds } from '@milagro-ts/api/schemas'
import { describe, expect, test } from 'vitest'

const tables: [string, RouteTable][] = [
  ['dta', dtaRoutes],
  ['dta admin', dtaAdminRoutes],
  ['rps', rpsRoutes],
  ['rpa', rpaRoutes],
  ['register', registerRoutes],
]
const routes = tables.flatMap(([table, entries]) =>
  Object.entries(entries).map(([name, route]): [string, Route] => [`${table} ${name}`, route]),
)

interface Schema {
  readonly type?: string
  readonly properties?: Readonly<Record<string, Schema>>
  readonly patternProperties?: Readonly<Record<string, Schema>>
  readonly additionalProperties?: unknown
  readonly maxProperties?: number
  readonly required?: readonly string[]
  readonly items?: Schema
  readonly maxItems?: number
  readonly maxLength?: number
  readonly minimum?: number
  readonly maximum?: number
  readonly pattern?: string
  readonly anyOf?: readonly Schema[]
  readonly const?: unknown
  readonly enum?: readonly unknown[]
  readonly [HOLDS]?: Holds
}

/** Every schema within a schema, itself first, with where it stands. */
function within(schema: Schema, place: string): [string, Schema][] {
  const inner: [string, Schema][] = [
    ...Object.entries(schema.properties ?? {}).map(([name, part]): [string, Schema] => [
      `${place}.${name}`,
      part,
    ]),
    ...Object.values(schema.patternProperties ?? {}).map((part): [string, Schema] => [`${place}.*`, part]),
    ...(schema.items === undefined ? [] : [[`${place}[]`, schema.items] as [string, Schema]]),
    ...(schema.anyOf ?? []).map((part, i): [string, Schema] => [`${place}|${i}`, part]),
  ]
  return [[place, schema], ...inner.flatMap(([where, part]) => within(part, where))]
}

const parts = ({ params, query, body, response }: Route) => ({ params, query, body, response })
/** Every schema of a route by place; `asked` only those of what a stranger sends. */
function schemasOf(route: Route, asked = false): [string, Schema][] {
  return Object.entries(parts(route))
    .filter(([place]) => !asked || place !== 'response')
    .flatMap(([place, schema]) => (schema === undefined ? [] : within(schema as Schema, place)))
}

const names = ({ properties }: Schema) => Object.keys(properties ?? {})

describe.each(routes)('%s', (_, route) => {
  test('says what it is for, in a sentence', () => {
    expect(route.summary).toMatch(/^[A-Z].{9,}\.$/)
  })

  test('has a schema for exactly the parameters of its path, all of them required', () => {
    const inPath = [...route.path.matchAll(/:([^/]+)/g)].map(([, name]) => name)
    const schema = (route.params ?? {}) as Schema
    expect(names(schema)).toEqual(inPath)
    expect(schema.required ?? []).toEqual(inPath)
    // The client, the router and OpenAPI must agree on where a name ends.
    for (const name of inPath) expect(name).toMatch(/^[A-Za-z]+$/)
    expect(route.path).toMatch(/^(\/(v1|[a-z][a-z0-9-]*|:[A-Za-z]+))+$/)
  })

  test('parameters and query are text: there is nothing else in an address', () => {
    for (const [place, schema] of schemasOf(route))
      if (/^(params|query)\.\w+$/.test(place)) expect([place, schema.type]).toEqual([place, 'string'])
  })

  test('refuses with codes of the closed list, each once', () => {
    for (const code of codesOf(route)) expect(CODES).toHaveProperty(code)
    expect(new Set(route.refuses).size).toBe(route.refuses.length)
    if (route.caller !== 'open') expect(codesOf(route)).toContain('UNAUTHENTICATED')
  })

  test('takes and gives no field that it does not name, at any level', () => {
    const open = schemasOf(route)
      .filter(([, schema]) => schema.type === 'object' && schema.additionalProperties !== false)
      .map(([place]) => place)
    expect(open).toEqual([])
  })

  test('knows the type of everything', () => {
    const untyped = schemasOf(route)
      .filter(([, { type, anyOf, enum: values }]) => type === undefined && !anyOf && !values)
      .map(([place]) => place)
    expect(untyped).toEqual([])
  })

  test('bytes say what they stand for, so that bad ones can be made of them', () => {
    const silent = schemasOf(route, true)
      .filter(([, schema]) => schema.pattern?.includes('A-Za-z0-9_-]') && schema[HOLDS] === undefined)
      .map(([place]) => place)
    expect(silent).toEqual([])
  })

  test('nothing that a stranger sends is without bounds', () => {
    const unbounded = schemasOf(route, true)
      .filter(
        ([, schema]) =>
          (schema.type === 'string' &&
            schema.const === undefined &&
            schema.maxLength === undefined &&
            !/\{(\d+,)?\d+\}\$$/.test(schema.pattern ?? '')) ||
          (schema.type === 'array' && schema.maxItems === undefined) ||
          (schema.patternProperties !== undefined && schema.maxProperties === undefined) ||
          (schema.type === 'integer' && (schema.minimum === undefined || schema.maximum === undefined)) ||
          (schema.type === 'number' && schema.const === undefined),
      )
      .map(([place]) => place)
    expect(unbounded).toEqual([])
  })

  test('has a body only where one can be sent, and either an answer or a stream', () => {
    if (route.method === 'GET') expect(route.body).toBeUndefined()
    if (route.method === 'POST' || route.method === 'PUT') expect(route.body).toBeDefined()
    expect((route.response === undefined) !== (route.stream === undefined)).toBe(true)
  })
})

describe.each(tables)('the table %s', (_, table) => {
  test('has one route for each method and address', () => {
    const addresses = Object.values(table).map(
      ({ method, path }) => `${method} ${path.replaceAll(/:[^/]+/g, ':')}`,
    )
    expect(new Set(addresses).size).toBe(addresses.length)
  })
})

describe('no pattern can be made to think', () => {
  const patterns = new Set(
    routes.flatMap(([, route]) =>
      schemasOf(route).flatMap(([, { pattern, patternProperties }]) => [
        ...(pattern === undefined ? [] : [pattern]),
        ...Object.keys(patternProperties ?? {}),
      ]),
    ),
  )
  /** Long runs of what the pattern wants, and then something that it doesn't. */
  const runs = ['a', 'A', '0', '-', '.', 'aA0_', 'a.', 'AQ', 'https://', '\ud83d\ude97', ' ', '\n']
  test.each([...patterns])('%s', pattern => {
    const expression = new RegExp(pattern, 'u')
    const before = performance.now()
    for (const run of runs)
      for (const end of ['', '!', '\n', '\0'])
        for (const start of ['', 'https://', 'a.'])
          expression.test(`${start}${run.repeat(50_000 / run.length)}${end}`)
    // 144 texts of 50 000 characters: linear is milliseconds, a square would be minutes.
    expect(performance.now() - before).toBeLessThan(5_000)
  })
})
