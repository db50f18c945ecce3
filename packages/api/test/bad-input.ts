/**
 * Bad input, made from route tables: from one request that a route takes, every request that differs from it in one
 * thing and must be refused. What a field is comes from its schema (`x-holds` in schemas.ts says what its bytes stand
 * for), so a route that is added is driven without a word here; one for which no request can be made is an error.
 *
 *   mutants(route, good)  →  [{kind, what, request, expects}]
 *   drive(server)         →  for each route × kind: all of them are sent; 4xx, problem+json, a code of the route's own
 *                            list and of the kind's; the store says the same before and after; then the good request
 *                            itself is taken, and the server is alive
 */
import { Agent, type Server as HttpServer, request as httpRequest, type IncomingMessage } from 'node:http'
import { connect } from 'node:net'
import { CODES, type Code, Problem } from '@milagro-ts/api/problem'
import { codesOf, type Route, type RouteTable } from '@milagro-ts/api/route'
import { HOLDS, type Holds } from '@milagro-ts/api/schemas'
import { Compile, type Validator } from '@milagro-ts/api/typebox'
import { fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { G1 } from '@milagro-ts/crypto/points'
import type { Connection, Store } from '@milagro-ts/store/database'
import { BAD_G1, BAD_G2, BAD_P256, BAD_SCALAR, BAD_X25519, type BadBytes } from './bad-points.js'

/** The columns of the table, and the codes that a kind may be refused with where the route lists them. */
export const KINDS = {
  'missing field': ['MALFORMED'],
  'extra field': ['MALFORMED'],
  'wrong type': ['MALFORMED'],
  'out of bounds': ['MALFORMED'],
  'bad base64url': ['MALFORMED'],
  // A signature over the whole document, or its hash, may speak before the point is looked at.
  'bad point': ['MALFORMED', 'NOT_APPROVED', 'CONFLICT'],
  'unknown or expired': undefined,
  'too large': ['TOO_LARGE'],
  'content type': ['UNSUPPORTED_MEDIA_TYPE'],
  'duplicate key': ['MALFORMED'],
  'broken JSON': ['MALFORMED'],
  'deep nesting': ['MALFORMED'],
  'NUL, surrogate': ['MALFORMED'],
  // Another route may stand at the address that a mistake makes.
  address: ['MALFORMED', 'NOT_FOUND', 'METHOD_NOT_ALLOWED'],
  'wrong method': ['METHOD_NOT_ALLOWED'],
  credential: undefined,
  'slow request': ['TOO_SLOW'],
} as const satisfies Record<string, readonly Code[] | undefined>
export type Kind = keyof typeof KINDS

/** What a route is asked with; parameters and query as the client has them, before escaping. */
export interface Fields {
  readonly params?: Readonly<Record<string, string>>
  readonly query?: Readonly<Record<string, string>>
  readonly body?: unknown
}
/** Bytes on their way to a server. */
export interface Sent {
  readonly method: string
  /** Path and query, escaped. */
  readonly path: string
  readonly headers: Readonly<Record<string, string>>
  readonly body?: Uint8Array
}
interface Mutant {
  readonly kind: Kind
  readonly what: string
  readonly sent: Sent
  /** In the place of the good credential; undefined: none at all. */
  readonly authorization?: { readonly value: string | undefined }
}

/** A request of a wrong content that only its own server's test can make: an expired nonce, another's ticket. */
export interface MoreBad {
  readonly what: string
  readonly fields: Fields
}
/** What is known of a route beside its table. Without `fields` the request is made from the schemas. */
export interface Known {
  readonly fields?: () => Promise<Fields> | Fields
  readonly unknown?: () => Promise<readonly MoreBad[]>
}

export interface DrivenServer {
  readonly name: string
  /** Everything that is mounted on the listener. */
  readonly tables: Readonly<Record<string, RouteTable>>
  readonly url: string
  readonly http: HttpServer
  /** By the table's and the route's name: `fleet/approve`. */
  readonly known: Readonly<Record<string, Known>>
  /** Texts of what fields hold, for requests that are made from schemas. */
  readonly supply: Partial<Readonly<Record<Holds, string>>>
  /** The credential of a request that has one. */
  readonly authorize: (route: Route, sent: Sent) => Promise<string | undefined>
  /** Credentials that don't hold for this request. */
  readonly badCredentials: (
    route: Route,
    sent: Sent,
  ) => Promise<readonly (readonly [what: string, value: string])[]>
  /** Everything that is stored, a line each. */
  readonly stored: () => Promise<readonly string[]>
}

interface Schema {
  readonly type?: string
  readonly properties?: Readonly<Record<string, Schema>>
  readonly patternProperties?: Readonly<Record<string, Schema>>
  readonly maxProperties?: number
  readonly required?: readonly string[]
  readonly items?: Schema
  readonly minItems?: number
  readonly maxItems?: number
  readonly minLength?: number
  readonly maxLength?: number
  readonly minimum?: number
  readonly maximum?: number
  readonly pattern?: string
  readonly anyOf?: readonly Schema[]
  readonly const?: unknown
  readonly enum?: readonly unknown[]
  readonly [HOLDS]?: Holds
}

const validators = new WeakMap<object, Validator>()
function fits(schema: Schema, value: unknown): boolean {
  const known = validators.get(schema)
  const validator = known ?? Compile(schema as never)
  if (known === undefined) validators.set(schema, validator)
  return validator.Check(value)
}

// ── A request that the schemas take ─────────────────────────────────────────────────────────────────────────────────

const TEXTS = ['1', 'a', 'text', '2026-02-11', 'https://example.org', 'one two three four five six']

/** The smallest value that fits; Error for a text that nobody has described. */
function sample(schema: Schema, supply: DrivenServer['supply'], place: string): unknown {
  if ('const' in schema) return schema.const
  if (schema.enum !== undefined) return schema.enum[0]
  if (schema.anyOf !== undefined) return sample(schema.anyOf[0] as Schema, supply, place)
  switch (schema.type) {
    case 'object':
      if (schema.patternProperties !== undefined) {
        const [named] = Object.values(schema.patternProperties)
        return { name: sample(named as Schema, supply, `${place}.*`) }
      }
      return Object.fromEntries(
        (schema.required ?? []).map(name => [
          name,
          sample(schema.properties?.[name] as Schema, supply, `${place}.${name}`),
        ]),
      )
    case 'array':
      return Array.from({ length: Math.max(1, schema.minItems ?? 0) }, () =>
        sample(schema.items as Schema, supply, `${place}[]`),
      )
    case 'integer':
    case 'number':
      return Math.max(schema.minimum ?? 1, Math.min(1, schema.maximum ?? 1))
    case 'boolean':
      return true
  }
  const holds = schema[HOLDS]
  const bytes = toBase64Url(new Uint8Array(Math.floor(((schema.minLength ?? 4) * 3) / 4)))
  const texts = [holds === undefined ? undefined : supply[holds], 'AAAAAA.AAAAAA.AAAAAA', bytes, ...TEXTS]
  const found = texts.find(text => text !== undefined && fits(schema, text))
  if (found === undefined)
    throw new Error(`no text is known that fits ${place}: say in its schema what it holds`)
  return found
}

const ROOTS = ['params', 'query', 'body'] as const

/** What is known of the route, completed from its schemas. */
async function goodFields(server: DrivenServer, name: string, route: Route): Promise<Fields> {
  const known = (await server.known[name]?.fields?.()) ?? {}
  const made = ROOTS.flatMap(root => {
    const schema = route[root] as Schema | undefined
    if (schema === undefined || known[root] !== undefined) return []
    return [[root, sample(schema, server.supply, `${name} ${root}`)]]
  })
  return { ...Object.fromEntries(made), ...known }
}

function pathOf(route: Route, { params = {}, query = {} }: Fields): string {
  const path = route.path.replaceAll(/:([A-Za-z]+)/g, (_, name: string) =>
    encodeURIComponent(params[name] ?? ''),
  )
  const search = new URLSearchParams(query)
  return search.size === 0 ? path : `${path}?${search}`
}

const JSON_TYPE = { 'content-type': 'application/json' }
const utf8 = (text: string) => new TextEncoder().encode(text)

function sentOf(route: Route, fields: Fields, text?: string): Sent {
  const { method } = route
  const path = pathOf(route, fields)
  if (route.body === undefined) return { method, path, headers: {} }
  return { method, path, headers: JSON_TYPE, body: utf8(text ?? JSON.stringify(fields.body)) }
}

// ── Places in a request ─────────────────────────────────────────────────────────────────────────────────────────────

type Key = string | number
/** A value in the request: the keys to it from the root, its schema, and a request in which it stands. */
interface Place {
  readonly keys: readonly Key[]
  readonly schema: Schema
  readonly value: unknown
  readonly fields: Fields
}

/** `fields` with the value at `keys` changed; `change` gets its parent. */
function changed(fields: Fields, keys: readonly Key[], change: (parent: never, last: Key) => void): Fields {
  const copy = structuredClone(fields)
  let parent: unknown = copy
  for (const key of keys.slice(0, -1)) parent = (parent as Record<Key, unknown>)[key]
  change(parent as never, keys.at(-1) as Key)
  return copy
}
const replaced = (fields: Fields, keys: readonly Key[], value: unknown): Fields =>
  changed(fields, keys, (parent: Record<Key, unknown>, last) => {
    parent[last] = value
  })

/** Every place that the schemas name, absent fields and other branches of a union filled in. */
function* places(
  supply: DrivenServer['supply'],
  schema: Schema,
  keys: readonly Key[],
  fields: Fields,
): Generator<Place> {
  const value = keys.reduce<unknown>((inner, key) => (inner as Record<Key, unknown>)[key], fields)
  if (schema.anyOf !== undefined) {
    const mine = schema.anyOf.find(branch => fits(branch, value))
    for (const branch of schema.anyOf) {
      const other = () => replaced(fields, keys, sample(branch, supply, keys.join('.')))
      yield* places(supply, branch, keys, branch === mine ? fields : other())
    }
    return
  }
  yield { keys, schema, value, fields }
  for (const [name, property] of Object.entries(schema.properties ?? {})) {
    const inner = [...keys, name]
    const isThere = (value as Record<string, unknown>)[name] !== undefined
    yield* places(
      supply,
      property,
      inner,
      isThere ? fields : replaced(fields, inner, sample(property, supply, inner.join('.'))),
    )
  }
  const [named] = Object.values(schema.patternProperties ?? {})
  const [firstName] = Object.keys(value as object)
  if (named !== undefined && firstName !== undefined)
    yield* places(supply, named, [...keys, firstName], fields)
  if (schema.items !== undefined && (value as unknown[]).length > 0)
    yield* places(supply, schema.items, [...keys, 0], fields)
}

// ── One thing wrong ─────────────────────────────────────────────────────────────────────────────────────────────────

interface Wrong {
  readonly kind: Kind
  readonly what: string
  readonly fields: Fields
  /** The body's text, where it is more than JSON.stringify can make. */
  readonly text?: string
}

const OTHER_TYPES: readonly unknown[] = [null, 7.5, 'text', true, [], {}]

function* wrongAt({ keys, schema, value, fields }: Place, route: Route): Generator<Wrong> {
  const root = keys[0] as 'params' | 'query' | 'body'
  const place = keys.join('.')
  const put = (kind: Kind, what: string, other: unknown): Wrong => ({
    kind,
    what: `${place}: ${what}`,
    fields: replaced(fields, keys, other),
  })

  if (schema.type === 'object') {
    if (root !== 'params')
      for (const name of schema.required ?? [])
        yield {
          kind: 'missing field',
          what: `${place}.${name}`,
          fields: changed(fields, [...keys, name], (parent: Record<Key, unknown>, last) => {
            delete parent[last]
          }),
        }
    if (schema.properties !== undefined && root !== 'params')
      yield put('extra field', 'a field that nobody knows', { ...(value as object), unexpected: '1' })
    if (root === 'body') yield duplicateKey(keys, value as object, fields)
    if (schema.maxProperties !== undefined) {
      const many = Array.from({ length: schema.maxProperties + 1 }, (_, i) => [`name${i}`, 'value'])
      yield put('out of bounds', 'too many of them', Object.fromEntries(many))
      yield put('out of bounds', 'a long name', { ['n'.repeat(65)]: 'value' })
      yield put('NUL, surrogate', 'NUL in a name', { 'na\0me': 'value' })
      yield put('NUL, surrogate', 'half a pair in a name', { 'na\ud800me': 'value' })
      yield put('extra field', '__proto__ for a name', JSON.parse('{"__proto__": "value"}'))
    }
  }
  if (root === 'body')
    for (const other of OTHER_TYPES)
      if (!fits(schema, other)) yield put('wrong type', other === null ? 'null' : typeof other, other)
  if (schema.type === 'array') {
    const items = value as unknown[]
    if (schema.maxItems !== undefined)
      yield put('out of bounds', 'too many', Array(schema.maxItems + 1).fill(items[0] ?? null))
    if ((schema.minItems ?? 0) > 0) yield put('out of bounds', 'none', [])
  }
  if (schema.type === 'integer') {
    const { minimum = 0, maximum = 0 } = schema
    yield put('out of bounds', 'too small', minimum - 1)
    yield put('out of bounds', 'too great', maximum + 1)
    yield put('out of bounds', 'beyond all numbers', 1e300)
  }
  if (schema.type === 'string' && schema.const === undefined && schema.enum === undefined)
    yield* wrongText(schema, String(value), put, route)
  if (schema[HOLDS] === 'known' && schema.type === 'integer')
    yield put('unknown or expired', 'a number that nothing has', schema.maximum)
}

function* wrongText(
  schema: Schema,
  text: string,
  put: (kind: Kind, what: string, other: string) => Wrong,
  route: Route,
): Generator<Wrong> {
  const most = schema.maxLength ?? 300
  if (schema.maxLength !== undefined || !fits(schema, text.padEnd(most + 1, text.at(-1))))
    yield put('out of bounds', 'too long', text.padEnd(most + 1, text.at(-1) ?? 'a'))
  if ((schema.minLength ?? 0) > 0) yield put('out of bounds', 'empty', '')
  yield put('NUL, surrogate', 'NUL', `${text.slice(0, 1)}\0${text.slice(2)}`)
  yield put('NUL, surrogate', 'half a pair', `${text.slice(0, 1)}\ud83d${text.slice(2)}`)
  const holds = schema[HOLDS]
  if (holds === undefined) return
  const isBytes = /^\^\(?\[A-Za-z0-9_-\]\{\d+\}/.test(schema.pattern ?? '')
  if (isBytes) yield* wrongBytes(holds, fromBase64Url(text, 'sample'), text, put)
  if (holds === 'jws') {
    const [head, payload, signature = ''] = text.split('.')
    yield put('bad base64url', 'padding', `${head}.${payload}.${signature.slice(0, -1)}=`)
    yield put('bad base64url', 'another alphabet', `${head}.${payload}.${signature.slice(0, -1)}+`)
    const other = signature.startsWith('A') ? 'B' : 'A'
    yield put('unknown or expired', 'another signature', `${head}.${payload}.${other}${signature.slice(1)}`)
    yield put('unknown or expired', 'no signature of anybody', 'AAAAAA.AAAAAA.AAAAAA')
    const none = toBase64Url(utf8('{"alg":"none"}'))
    yield put('unknown or expired', 'signed by nothing', `${none}.${payload}.${signature}`)
  }
  if (holds === 'known' && !isBytes)
    yield put('unknown or expired', 'nothing has it', numberOfNothing(schema, route))
}

const numberOfNothing = (schema: Schema, route: Route): string => {
  const found = ['4294967295', '255', '9'].find(text => fits(schema, text))
  if (found === undefined) throw new Error(`${route.path}: what would nothing be called by?`)
  return found
}

function* wrongBytes(
  holds: Holds,
  bytes: Uint8Array,
  text: string,
  put: (kind: Kind, what: string, other: string) => Wrong,
): Generator<Wrong> {
  yield put('bad base64url', 'padding', `${text}=`)
  yield put('bad base64url', 'another alphabet', `${text.slice(0, -1)}+`)
  yield put('bad base64url', 'a space', `${text.slice(0, -1)} `)
  yield put('bad base64url', 'a new line after it', `${text}\n`)
  // Where the last character holds bits of no byte they are zero: `_` sets them all.
  if (bytes.length % 3 !== 0) yield put('bad base64url', 'stray bits', `${text.slice(0, -1)}_`)
  if (bytes.length % 3 === 0) yield put('bad base64url', 'a character alone', `${text}A`)
  const as = (bad: readonly BadBytes[]) =>
    bad.map(([why, other]) => put('bad point', why, toBase64Url(other)))
  const flipped = () => toBase64Url(bytes.map((byte, i) => (i === bytes.length - 1 ? byte ^ 1 : byte)))
  switch (holds) {
    case 'g1':
      yield* as(BAD_G1)
      break
    case 'g2':
      yield* as(BAD_G2)
      break
    case 'p256':
      yield* as(BAD_P256)
      break
    case 'scalar':
      yield* as(BAD_SCALAR)
      break
    case 'x25519':
      yield* as(BAD_X25519)
      break
    case 'known':
      yield put('unknown or expired', 'another one', flipped())
      break
    case 'idCore':
    case 'anyIdCore':
      yield put(
        'bad point',
        'factors of no meaning',
        toBase64Url(bytes.map((byte, i) => (i === 6 ? 3 : byte))),
      )
      if (holds === 'idCore') yield put('unknown or expired', 'nobody', flipped())
      break
    case 'nodes':
      yield put('bad point', 'a byte less', toBase64Url(bytes.subarray(0, -1)))
      yield put('bad point', 'a node too deep', toBase64Url(Uint8Array.of(33, 0, 0, 0, 0)))
      yield put('bad point', 'a node beside the tree', toBase64Url(Uint8Array.of(1, 0, 0, 0, 2)))
      break
    case 'permit':
    case 'message':
      yield put('bad point', 'a byte more', toBase64Url(Uint8Array.of(...bytes, 0)))
      yield put('bad point', 'a byte less', toBase64Url(bytes.subarray(0, -1)))
      for (const at of pointsIn(bytes))
        for (const [why, other] of BAD_G1) {
          const copy = bytes.slice()
          copy.set(other, at)
          yield put('bad point', `${why} at byte ${at}`, toBase64Url(copy))
        }
  }
}

/** Where points of G1 stand in an encoding. */
function pointsIn(bytes: Uint8Array): number[] {
  const found: number[] = []
  for (let at = 0; at + 48 <= bytes.length; at++) {
    if (((bytes[at] as number) & 0xc0) !== 0x80) continue
    try {
      G1.decode(bytes.subarray(at, at + 48))
      found.push(at)
    } catch (error) {
      if (!(error instanceof DecodeError)) throw error
    }
  }
  return found
}

/** The object at `keys` with its first key twice, or one key twice where it has none. */
function duplicateKey(keys: readonly Key[], value: object, fields: Fields): Wrong {
  const [name = 'unexpected'] = Object.keys(value)
  const again = `${JSON.stringify(name)}:${JSON.stringify((value as Record<string, unknown>)[name] ?? 1)}`
  const marker = 'the place of the object with a key twice'
  const whole = JSON.stringify(replaced(fields, keys, marker).body)
  const rest = JSON.stringify(value).slice(1)
  const twice = rest === '}' ? `{${again},${again}}` : `{${again},${rest}`
  return {
    kind: 'duplicate key',
    what: keys.join('.'),
    fields,
    text: whole.replace(JSON.stringify(marker), () => twice),
  }
}

const MEGABYTE = 1_048_576
const LIMIT = 65_536

function* wrongBodies(route: Route, good: Fields): Generator<Mutant> {
  const sent = sentOf(route, good)
  const { path, method, headers, body = new Uint8Array() } = sent
  const text = new TextDecoder().decode(body)
  const as = (kind: Kind, what: string, bytes: string | Uint8Array): Mutant => ({
    kind,
    what,
    sent: { ...sent, body: typeof bytes === 'string' ? utf8(bytes) : bytes },
  })
  yield as('missing field', 'no body', '')
  const size = Math.max(MEGABYTE, (route.bodyLimit ?? LIMIT) + 1)
  const large = utf8(text + ' '.repeat(Math.max(0, size - body.length)))
  yield as('too large', `${size} bytes`, large)
  yield {
    kind: 'too large',
    what: `${size} bytes in chunks`,
    sent: { path, method, headers: { ...headers, 'transfer-encoding': 'chunked' }, body: large },
  }
  for (const type of [
    'text/plain',
    'application/x-www-form-urlencoded',
    'multipart/form-data; boundary=x',
    'application/json; charset=utf-16',
    'application/problem+json',
  ])
    yield { kind: 'content type', what: type, sent: { ...sent, headers: { 'content-type': type } } }
  yield { kind: 'content type', what: 'none', sent: { ...sent, headers: {} } }
  const gzip = { ...headers, 'content-encoding': 'gzip' }
  yield { kind: 'content type', what: 'compressed', sent: { ...sent, headers: gzip } }
  const half = text.slice(0, Math.ceil(text.length / 2))
  yield as('broken JSON', 'cut off', half)
  yield as('broken JSON', 'something after it', `${text}}`)
  yield as('broken JSON', 'twice', text + text)
  yield as('broken JSON', 'a byte order mark', `\ufeff${text}`)
  yield as('broken JSON', 'a comment', `${text}/**/`)
  yield as('broken JSON', 'no JSON', 'body')
  yield as('broken JSON', 'a number that is none', `{"a":NaN,${text.slice(1)}`)
  yield as('broken JSON', 'not UTF-8', Uint8Array.of(...utf8(`{"a`), 0xff, ...utf8(`":1,${text.slice(1)}`)))
  const deep = (levels: number) => '['.repeat(levels) + ']'.repeat(levels)
  const beside = text === '{}' ? '}' : `,${text.slice(1)}`
  for (const levels of [17, 500, 20_000]) {
    yield as('deep nesting', `${levels} lists`, deep(levels))
    yield as('deep nesting', `${levels} lists in a field`, `{"unexpected":${deep(levels)}${beside}`)
  }
}

function* wrongAddresses(route: Route, good: Fields): Generator<Mutant> {
  const sent = sentOf(route, good)
  const at = (what: string, path: string): Mutant => ({ kind: 'address', what, sent: { ...sent, path } })
  const [path = '', search] = sent.path.split('?', 2)
  const query = search === undefined ? '' : `?${search}`
  yield at('a slash more', `${path}/${query}`)
  yield at('two slashes', `/${path}${query}`)
  yield at('upper case', `${path.replace('/v1', '/V1')}${query}`)
  yield at('a letter as an escape', `${path.replace('/v', '/%76')}${query}`)
  yield at('dot segments', `/v1/x/..${path.slice(3)}${query}`)
  yield at('escaped dot segments', `/v1/%2e%2e${path}${query}`)
  yield at('another host', `http://evil.example${path}${query}`)
  yield at('a backslash', `${path.replace('/v1/', '/v1\\')}${query}`)
  const and = search === undefined ? '?' : `?${search}&`
  yield at('a query that nobody knows', `${path}${and}unexpected=1`)
  yield at('a query that is a prototype', `${path}${and}__proto__=1`)
  yield at('a query with a broken escape', `${path}${and}a=%zz`)
  yield at('a query that is not UTF-8', `${path}${and}a=%ff`)
  for (const name of Object.keys(good.query ?? {})) yield at(`${name} twice`, `${path}${and}${name}=1`)
  for (const name of Object.keys(good.params ?? {})) {
    const put = (text: string) => {
      const marked = pathOf(route, { ...good, params: { ...good.params, [name]: 'MARK' } })
      return marked.replace('MARK', () => text)
    }
    yield at(`${name} empty`, put(''))
    yield at(`${name} with a broken escape`, put('%zz'))
    yield at(`${name} that is not UTF-8`, put('%ff'))
    yield at(`${name} with a slash in it`, put('a%2Fb'))
    yield at(`${name} far too long`, put('a'.repeat(5_000)))
  }
  if (route.body === undefined) {
    const body = { headers: JSON_TYPE, body: utf8('{}') }
    yield { kind: 'extra field', what: 'a body where there is none', sent: { ...sent, ...body } }
  }
}

function* wrongMethods(server: DrivenServer, route: Route, good: Fields): Generator<Mutant> {
  const sent = sentOf(route, good)
  const [path = ''] = sent.path.split('?', 1)
  const parts = path.split('/')
  const taken = Object.values(server.tables)
    .flatMap(table => Object.values(table))
    .filter(other => {
      const wanted = other.path.split('/')
      return (
        wanted.length === parts.length && wanted.every((part, i) => part.startsWith(':') || part === parts[i])
      )
    })
    .map(({ method }) => method as string)
  for (const method of ['GET', 'POST', 'PUT', 'DELETE', 'PATCH', 'OPTIONS']) {
    if (taken.includes(method)) continue
    const bare = method === 'GET' || sent.body === undefined
    yield {
      kind: 'wrong method',
      what: method,
      sent: bare ? { method, path, headers: {} } : { ...sent, method },
    }
  }
}

async function wrongCredentials(server: DrivenServer, route: Route, good: Fields): Promise<Mutant[]> {
  if (route.caller === 'open') return []
  const sent = sentOf(route, good)
  const garbage: [string, string | undefined][] = [
    ['none', undefined],
    ['empty', ''],
    ['a scheme alone', 'Bearer'],
    ['another scheme', 'Basic YTpi'],
    ['garbage as a token', 'Bearer garbage'],
    ['three parts of garbage as a token', 'Bearer AAAAAA.AAAAAA.AAAAAA'],
    ['garbage as a proof', 'MPIN AAAA'],
    ['garbage as a request JWT', 'MPIN-Request AAAAAA.AAAAAA.AAAAAA'],
    ['eight thousand characters', `Bearer ${'a'.repeat(8_000)}`],
  ]
  return [...garbage, ...(await server.badCredentials(route, sent))].map(([what, value]) => ({
    kind: 'credential',
    what,
    sent,
    authorization: { value },
  }))
}

/** Every request that differs from a good one of this route in one thing. */
async function mutants(server: DrivenServer, name: string, route: Route, good: Fields): Promise<Mutant[]> {
  const found: Mutant[] = []
  for (const root of ROOTS) {
    const schema = route[root] as Schema | undefined
    if (schema === undefined) continue
    for (const place of places(server.supply, schema, [root], good))
      for (const { kind, what, fields, text } of wrongAt(place, route)) {
        // Half of a pair has no escape in an address.
        if (root !== 'body' && what.endsWith('half a pair')) continue
        found.push({ kind, what, sent: sentOf(route, fields, text) })
      }
  }
  for (const { what, fields } of (await server.known[name]?.unknown?.()) ?? [])
    found.push({ kind: 'unknown or expired', what, sent: sentOf(route, { ...good, ...fields }) })
  if (route.body !== undefined) found.push(...wrongBodies(route, good))
  found.push(...wrongAddresses(route, good), ...wrongMethods(server, route, good))
  return [...found, ...(await wrongCredentials(server, route, good))]
}

// ── Sent, and looked at ─────────────────────────────────────────────────────────────────────────────────────────────

interface Answered {
  readonly status: number
  readonly type: string
  readonly text: string
}

const agent = new Agent({ keepAlive: true })

/** Status, type and text; of a stream only that it has begun. A server that hangs up in silence is an Error. */
function send(url: string, { method, path, headers, body }: Sent): Promise<Answered> {
  const { hostname, port } = new URL(url)
  // A server may answer a large body before it has come to its end, and close the connection then.
  const options = {
    hostname,
    port,
    method,
    path,
    headers,
    agent: (body?.length ?? 0) > LIMIT ? false : agent,
  }
  return new Promise((resolve, reject) => {
    const request = httpRequest(options, (response: IncomingMessage) => {
      const { statusCode = 0, headers } = response
      const type = String(headers['content-type'] ?? '').split(';')[0] as string
      if (type === 'text/event-stream') {
        response.destroy()
        return resolve({ status: statusCode, type, text: '' })
      }
      let text = ''
      response.setEncoding('utf8').on('data', (part: string) => {
        text += part
      })
      response.on('end', () => resolve({ status: statusCode, type, text }))
      response.on('error', reject)
    })
    request.on('error', reject)
    if (body === undefined) return void request.end()
    // Of a DELETE with a body node gives no length by itself.
    if (!('transfer-encoding' in headers)) request.setHeader('content-length', body.length)
    request.end(body)
  })
}

const problems = Compile(Problem)

/** What is wrong with an answer to bad input; null: nothing. */
function complaint(answer: Answered, kind: Kind, route: Route): string | null {
  const { status, type, text } = answer
  const said = `${status} ${text.slice(0, 200)}`
  if (status < 400 || status > 499) return said
  if (type !== 'application/problem+json') return `${said} as ${type}`
  let problem: unknown
  try {
    problem = JSON.parse(text)
  } catch {
    return `${said}, which is not JSON`
  }
  if (!problems.Check(problem)) return `${said}, which is no problem document`
  const { code, title } = problem
  if (problem.status !== status || CODES[code].status !== status || title !== CODES[code].means)
    return `${said}, which contradicts itself`
  if (!codesOf(route).has(code)) return `${said}: not a code of the route`
  const expected: readonly Code[] | undefined = KINDS[kind]
  return expected === undefined || expected.includes(code) ? null : `${said}: not a code for this`
}

export type Counts = Partial<Record<Kind, number>>
export interface Driven {
  /** By route, in the tables' order. */
  readonly counts: ReadonlyMap<string, Counts>
  /** What wasn't refused as it must be. */
  readonly complaints: readonly string[]
}

/** Drives every route of every table with every kind. What a server does wrong comes back as a complaint. */
export async function drive(server: DrivenServer): Promise<Driven> {
  const counts = new Map<string, Counts>()
  const complaints: string[] = []
  const shapes = new Map<string, Sent>()
  const routes = Object.entries(server.tables).flatMap(([tableName, table]) =>
    Object.entries(table).map(([name, route]) => [`${tableName}/${name}`, route] as const),
  )
  for (const name of Object.keys(server.known))
    if (!routes.some(([route]) => route === name))
      complaints.push(`${server.name}: there is no route ${name}`)
  for (const [name, route] of routes) {
    const good = await goodFields(server, name, route)
    const byKind = new Map<Kind, Mutant[]>()
    for (const mutant of await mutants(server, name, route, good))
      byKind.set(mutant.kind, [...(byKind.get(mutant.kind) ?? []), mutant])
    for (const [kind, all] of byKind) {
      const before = await server.stored()
      for (const mutant of all) {
        const why = await answerOf(server, route, mutant).then(
          answer => complaint(answer, kind, route),
          (error: Error) => `no answer (${error.message})`,
        )
        if (why !== null) complaints.push(`${name}, ${kind}, ${mutant.what}: ${why}`)
      }
      for (const row of difference(before, await server.stored()))
        complaints.push(`${name}, ${kind}: ${row.slice(0, 200)}`)
    }
    counts.set(name, Object.fromEntries([...byKind].map(([kind, all]) => [kind, all.length])))
    const sent = sentOf(route, good)
    shapes.set(name, sent)
    complaints.push(...(await goodIsTaken(server, name, route, sent)))
  }
  const before = await server.stored()
  complaints.push(...(await driveSlowly(server, routes, shapes)))
  for (const row of difference(before, await server.stored()))
    complaints.push(`slow request: ${row.slice(0, 200)}`)
  for (const count of counts.values()) count['slow request'] = 1
  return { counts, complaints }
}

function difference(before: readonly string[], after: readonly string[]): string[] {
  const [was, is] = [new Set(before), new Set(after)]
  return [
    ...after.filter(row => !was.has(row)).map(row => `written ${row}`),
    // A nonce is used up by whoever names it, and by a proof that then fails.
    ...before
      .filter(row => !is.has(row) && !row.startsWith('single_use {"kind":"nonce"'))
      .map(row => `gone ${row}`),
  ]
}

async function answerOf(
  server: DrivenServer,
  route: Route,
  { sent, authorization }: Pick<Mutant, 'sent' | 'authorization'>,
): Promise<Answered> {
  const value = authorization === undefined ? await server.authorize(route, sent) : authorization.value
  const headers = value === undefined ? sent.headers : { ...sent.headers, authorization: value }
  return send(server.url, { ...sent, headers })
}

/**
 * The control: the request that all these differ from in one thing. One that was made from schemas alone may be refused
 * for what it names, but not for its shape.
 */
async function goodIsTaken(server: DrivenServer, name: string, route: Route, sent: Sent): Promise<string[]> {
  const { status, text } = await answerOf(server, route, { sent })
  const isKnown = server.known[name]?.fields !== undefined
  const refused = /"code":"([A-Z_]+)"/.exec(text)?.[1]
  const isTaken = status === 200 || (!isKnown && status < 500 && refused !== 'MALFORMED')
  return isTaken
    ? []
    : [`${name}: the good request was answered ${status} ${text.slice(0, 200)}: say how one is made`]
}

/** Milliseconds for a request to arrive, while slow ones are sent. */
const SLOW = 50

/** Half a request on every route at once. */
async function driveSlowly(
  server: DrivenServer,
  routes: readonly (readonly [string, Route])[],
  shapes: ReadonlyMap<string, Sent>,
): Promise<string[]> {
  const usual = server.http.requestTimeout
  server.http.requestTimeout = SLOW
  const complaints = await Promise.all(
    routes.map(async ([name, route]) => {
      const { path, body } = shapes.get(name) as Sent
      const head = `${route.method} ${path} HTTP/1.1\r\nHost: x\r\n`
      const text = new TextDecoder().decode(body)
      const type = 'Content-Type: application/json\r\n'
      const part =
        body === undefined ? head : `${head}${type}Content-Length: ${body.length + 1}\r\n\r\n${text}`
      const answer = await rest(server.url, part)
      const [, status, media = '', said = ''] =
        /^HTTP\/1\.1 (\d+) .*?content-type: ([^\r]*)\r\n.*?\r\n\r\n(.*)$/is.exec(answer) ?? []
      const why = complaint({ status: Number(status), type: media, text: said }, 'slow request', route)
      return why === null ? [] : [`${name}, slow request: ${why}`]
    }),
  )
  server.http.requestTimeout = usual
  return complaints.flat()
}

/** Sends a part of a request and gives what comes back until the server has had enough. */
function rest(url: string, part: string): Promise<string> {
  const { hostname, port } = new URL(url)
  return new Promise((resolve, reject) => {
    let answer = ''
    const socket = connect(Number(port), hostname, () => socket.write(part))
    socket.on('data', data => {
      answer += data.toString('utf8')
    })
    socket.on('error', reject)
    socket.on('close', () => resolve(answer))
  })
}

// ── What a server has stored ────────────────────────────────────────────────────────────────────────────────────────

/**
 * A line for each row of each table. Left out: `write_probe`, which readiness writes, SQLite's own counters, and what a refusal is meant to
 * leave behind: a proven caller's request id, which is used up, and the audit entry that says what was refused.
 */
export function rowsOf(store: Pick<Store<unknown>, 'atomic'>): Promise<string[]> {
  return store.atomic((connection: Connection) =>
    connection
      .all(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT IN ('write_probe', 'sqlite_sequence') ORDER BY name",
      )
      .flatMap(({ name }) =>
        connection
          .all(`SELECT * FROM "${String(name)}"`)
          .filter(row => !(name === 'single_use' && row.kind === 'request'))
          .filter(row => !(name === 'audit' && String(row.outcome) in CODES))
          .map(row => `${String(name)} ${JSON.stringify(row, inHex)}`),
      ),
  )
}
const inHex = (_key: string, value: unknown) =>
  value instanceof Uint8Array ? Buffer.from(value).toString('hex') : value

/** The table route × kind, in markdown. */
export function tableOf(
  driven: readonly { readonly name: string; readonly counts: Driven['counts'] }[],
): string {
  const kinds = Object.keys(KINDS) as Kind[]
  const row = (cells: readonly (string | number)[]) => `| ${cells.join(' | ')} |`
  const total = (counts: readonly Counts[], kind: Kind) =>
    counts.reduce((sum, count) => sum + (count[kind] ?? 0), 0)
  const whole = (count: Counts) => kinds.reduce((sum, kind) => sum + (count[kind] ?? 0), 0)
  const all = driven.flatMap(({ counts }) => [...counts.values()])
  const head = [row(['route', ...kinds, 'all']), row(['---', ...kinds.map(() => '--:'), '--:'])]
  const sections = driven.map(({ name, counts }) =>
    [
      `## ${name}`,
      '',
      ...head,
      ...[...counts].map(([route, count]) =>
        row([`\`${route}\``, ...kinds.map(kind => count[kind] ?? '–'), whole(count)]),
      ),
    ].join('\n'),
  )
  const sums = [
    '## Together',
    '',
    ...head,
    row(['all', ...kinds.map(kind => total(all, kind)), all.reduce((sum, count) => sum + whole(count), 0)]),
  ]
  return [...sections, sums.join('\n')].join('\n\n')
}

/** Request JWTs that don't hold for `sent`; `sign` makes one as `name`, with `key`, at `now` off by so much. */
export async function badRequestJwts(
  sent: Sent,
  sign: (request: { method: string; path: string; body: Uint8Array }, as?: RequestJwtLie) => Promise<string>,
): Promise<(readonly [string, string])[]> {
  const request = { method: sent.method, path: sent.path, body: sent.body ?? new Uint8Array() }
  return [
    ['of another method', await sign({ ...request, method: sent.method === 'GET' ? 'POST' : 'GET' })],
    ['for another address', await sign({ ...request, path: `${sent.path}x` })],
    ['for another body', await sign({ ...request, body: utf8('another') })],
    ['by a name that nobody has', await sign(request, 'nobody')],
    ['by another key', await sign(request, 'another key')],
    ['of an hour ago', await sign(request, 'an hour ago')],
    ['of the next hour', await sign(request, 'in an hour')],
  ]
}
export type RequestJwtLie = 'nobody' | 'another key' | 'an hour ago' | 'in an hour'
