/**
 * Mounts a route table on fastify: a request is parsed strictly, its caller established, its fields checked against
 * the schemas, and only then handed on. Every no is problem+json with a code of the closed list.
 */
import { createHash } from 'node:crypto'
import { type IncomingHttpHeaders, type Server, type ServerResponse, STATUS_CODES } from 'node:http'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { PoolUnavailable } from '@milagro-ts/crypto/node-pool'
import { StoreError } from '@milagro-ts/store/store-error'
import Fastify, {
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
  type FastifyServerFactory,
} from 'fastify'
import type { Log } from './log.js'
import type { Metrics } from './metrics.js'
import { openApi } from './openapi.js'
import { type Code, Refused } from './problem.js'
import {
  type Answer,
  BODY_LIMIT,
  type Body,
  type Caller,
  codesOf,
  type Params,
  type Query,
  type Route,
  type RouteTable,
} from './route.js'
import type { ServerCertificate } from './server-certificate.js'
import { parseStrictJson } from './strict-json.js'
import { Compile, type TSchema, type Validator } from './typebox.js'

/** What a caller check or a handler may know of a request beside its fields. */
export interface Meta {
  readonly method: string
  /** Path and query as sent. */
  readonly url: string
  readonly ip: string
  /** The connection that it came by, where there is one: who is at its other end (packages/tls), and what a login is bound to. */
  readonly socket?: Socket
  readonly headers: IncomingHttpHeaders
  readonly body: Uint8Array
  /** SHA-256 of the body's bytes as received. */
  readonly bodyHash: Uint8Array
}

/** A server that proved itself with a request JWT. */
export interface ServerCaller {
  readonly name: string
}

/** What each kind of caller is known as to a handler. `I` and `O` are the server's own types. */
export interface CallerKinds<I, O> {
  open: undefined
  server: ServerCaller
  identity: I
  operator: O
  admin: undefined
}

/** One check per kind of caller that the table uses; each throws Refused. */
export type CallerChecks<I, O> = {
  readonly [K in Exclude<Caller, 'open'>]?: (meta: Meta) => Promise<CallerKinds<I, O>[K]>
}

export interface Input<R extends Route, I, O> {
  readonly params: Params<R>
  readonly query: Query<R>
  readonly body: Body<R>
  readonly caller: CallerKinds<I, O>[R['caller']]
  readonly meta: Meta
}
export type Handler<R extends Route, I = undefined, O = undefined> = R extends { stream: string }
  ? (input: Input<R, I, O>, response: ServerResponse) => Promise<void>
  : (input: Input<R, I, O>) => Promise<Answer<R>>
export type Handlers<T extends RouteTable, I = undefined, O = undefined> = {
  readonly [K in keyof T]: Handler<T[K], I, O>
}

const HEADER_LIMIT = 16_384
const MAX_CONNECTIONS = 8_192
/** Milliseconds between two requests on a connection. */
const KEEP_ALIVE_TIMEOUT = 5_000
const EMPTY = new Uint8Array()

export interface AppOptions {
  /** Names the OpenAPI document. */
  readonly title: string
  readonly log: Log
  readonly metrics: Metrics
  /** Milliseconds for a whole request to arrive; 10 000 unless said. */
  readonly requestTimeout?: number
  /** Addresses of reverse proxies whose X-Forwarded-For is believed. None unless said. */
  readonly trustProxy?: string[]
  /** Origins whose pages may read answers (Fetch standard, CORS). None unless said; cookies are never asked for. */
  readonly webOrigins?: readonly string[]
  /** TLS ends in this process. Plain HTTP without it. */
  readonly certificate?: ServerCertificate | undefined
}

interface AppState {
  readonly options: AppOptions
  readonly table: Record<string, Route>
  /** Of every route, those of plugins too: who else answers at a path is what a 405 names. */
  readonly known: { method: string; path: string }[]
  /** The OpenAPI document, made when first asked for. */
  openApi: string | undefined
  closing: boolean
}
const states = new WeakMap<FastifyInstance, AppState>()

/** What a mounted route carries in fastify's config. */
interface RouteConfig {
  readonly name?: string
  readonly codes?: ReadonlySet<Code>
}

/** A fastify instance that speaks problem+json only. Routes come from `mount`; `/openapi.json` prints them. */
export function createApp(options: AppOptions): FastifyInstance {
  const { requestTimeout = 10_000, certificate } = options
  const http = {
    // Whatever flags Node was started with: a lenient parser and the proxy before it disagree on where a request ends.
    insecureHTTPParser: false,
    // checkRequest asks for it, so that the refusal is a problem document.
    requireHostHeader: false,
    maxHeaderSize: HEADER_LIMIT,
    headersTimeout: requestTimeout,
    // Node looks for requests that are out of time this often; its own 30 s would be added to the limit.
    connectionsCheckingInterval: Math.min(1_000, Math.ceil(requestTimeout / 4)),
  }
  const secured = { ...http, requestTimeout, keepAliveTimeout: KEEP_ALIVE_TIMEOUT }
  const serverFactory: FastifyServerFactory | undefined =
    certificate && (listener => certificate.createServer(secured, listener))
  const app: FastifyInstance = Fastify<Server>({
    logger: false,
    bodyLimit: BODY_LIMIT,
    requestTimeout,
    keepAliveTimeout: KEEP_ALIVE_TIMEOUT,
    forceCloseConnections: true,
    return503OnClosing: false,
    exposeHeadRoutes: false,
    trustProxy: options.trustProxy ?? false,
    routerOptions: { maxParamLength: 256 },
    ...(serverFactory === undefined ? { http } : { serverFactory }),
    frameworkErrors: (error, request, reply) => answerError(options, error, request, reply),
    clientErrorHandler: (error, socket) => answerBrokenRequest(options, error, socket),
  })
  app.server.maxConnections = MAX_CONNECTIONS
  const state: AppState = { options, table: {}, known: [], openApi: undefined, closing: false }
  states.set(app, state)
  app.removeAllContentTypeParsers()
  app.addContentTypeParser('application/json', { parseAs: 'buffer' }, (_request, body, done) =>
    done(null, body),
  )
  app.addHook('preClose', async () => {
    state.closing = true
  })
  app.addHook('onRoute', ({ method, url }) => {
    for (const one of [method].flat()) state.known.push({ method: one, path: url })
  })
  app.addHook('onRequest', async (request, reply) => {
    reply.header('x-content-type-options', 'nosniff')
    allowOrigin(options, request, reply)
    if (state.closing) throw new Refused('RETRY_LATER', { detail: 'the server is stopping' })
    checkRequest(request)
  })
  app.setErrorHandler((error: unknown, request, reply) => answerError(options, error, request, reply))
  app.setNotFoundHandler((request, reply) => {
    const methods = state.known
      .filter(route => pathMatches(route.path, pathOf(request)))
      .map(({ method }) => method)
    if (isPreflight(options, request) && methods.length > 0) {
      return reply
        .code(204)
        .header('access-control-allow-methods', [...new Set(methods)].join(', '))
        .header('access-control-allow-headers', 'authorization, content-type')
        .header('access-control-max-age', '600')
        .send()
    }
    if (methods.length > 0) reply.header('allow', [...new Set(methods)].join(', '))
    const refused = new Refused(methods.length > 0 ? 'METHOD_NOT_ALLOWED' : 'NOT_FOUND')
    return answerError(options, refused, request, reply)
  })
  app.get('/openapi.json', (_request, reply) => {
    state.openApi ??= openApi(state.table, options.title)
    return reply.type('application/json').send(state.openApi)
  })
  return app
}

/**
 * Mounts every route of `table`; a route whose kind of caller has no check, or without an answer, ends the start with
 * a TypeError.
 */
export function mount<T extends RouteTable, I = undefined, O = undefined>(
  app: FastifyInstance,
  table: T,
  handlers: Handlers<T, I, O>,
  checks: CallerChecks<I, O>,
): void {
  const state = states.get(app)
  if (state === undefined) throw new TypeError('mount wants an app made by createApp')
  const { options } = state
  state.openApi = undefined
  for (const [name, route] of Object.entries(table)) {
    const check = route.caller === 'open' ? async () => undefined : checks[route.caller]
    if (check === undefined) throw new TypeError(`route ${name} wants a check for caller '${route.caller}'`)
    if ((route.response === undefined) === (route.stream === undefined))
      throw new TypeError(`route ${name} wants either a response or a stream`)
    state.table[name] = route
    const validators = {
      params: compile(route.params),
      query: compile(route.query),
      body: compile(route.body),
      response: compile(route.response),
    }
    const config: RouteConfig = { name, codes: codesOf(route) }
    app.route({
      method: route.method,
      url: route.path,
      bodyLimit: route.bodyLimit ?? BODY_LIMIT,
      config,
      handler: async (request, reply) => {
        // The router takes `/v1/%6Cogins` for `/v1/logins`; a proxy's rules for that path would not.
        if (!pathMatches(route.path, pathOf(request))) throw new Refused('NOT_FOUND')
        const body = request.body instanceof Uint8Array ? request.body : EMPTY
        if (route.body === undefined && body.length > 0) throw noBody()
        const meta: Meta = {
          method: request.method,
          url: request.url,
          ip: request.ip,
          socket: request.raw.socket,
          headers: request.headers,
          body,
          bodyHash: new Uint8Array(createHash('sha256').update(body).digest()),
        }
        const caller = await check(meta)
        const input = {
          caller,
          params: validators.params === undefined ? undefined : checked(validators.params, request.params),
          query:
            validators.query === undefined
              ? noQuery(request.query)
              : checked(validators.query, request.query),
          body: validators.body === undefined ? undefined : checked(validators.body, parseStrictJson(body)),
          meta,
        }
        // The table's types tie each handler to its own route; inside this loop the tie is only known by name.
        const handler = handlers[name] as unknown as (
          input: unknown,
          response: ServerResponse,
        ) => Promise<unknown>
        if (route.stream !== undefined) {
          reply.hijack()
          await answerStream(options, config, reply, () => handler(input, reply.raw))
          return reply
        }
        const answer = await handler(input, reply.raw)
        if (!validators.response?.Check(answer)) {
          throw new Refused('INTERNAL', { log: `answer of ${name} does not fit its schema` })
        }
        const text = JSON.stringify(answer)
        options.metrics.observe(name, 'OK', reply.elapsedTime / 1000)
        return reply.header('cache-control', 'no-store').type('application/json').send(text)
      },
    })
  }
}

/** The handler writes the answer itself; until it has begun to, a refusal is still a problem document. */
async function answerStream(
  options: AppOptions,
  config: RouteConfig,
  reply: FastifyReply,
  run: () => Promise<unknown>,
): Promise<void> {
  const { raw } = reply
  const name = config.name ?? 'none'
  try {
    await run()
    raw.end()
    // How long somebody listened says nothing about how fast the server is.
    options.metrics.observe(name, 'OK', 0)
  } catch (error) {
    const refused = refusalOf(options, error, config)
    options.metrics.observe(name, refused.code, reply.elapsedTime / 1000)
    if (raw.headersSent) raw.destroy()
    else raw.writeHead(refused.status, problemHeaders(refused)).end(JSON.stringify(refused.toProblem()))
  }
}

/** What must hold of any request before anything looks at it. */
function checkRequest({ raw }: FastifyRequest): void {
  const { url = '', headers } = raw
  if (!isPlainTarget(url)) throw new Refused('MALFORMED', { detail: 'the address is not in its plain form' })
  if (headers.host === undefined && raw.httpVersion === '1.1')
    throw new Refused('MALFORMED', { detail: 'no Host header' })
  // Node keeps the first of two; whoever stands before it may have checked the second.
  const names = raw.rawHeaders.filter((_, i) => i % 2 === 0).map(name => name.toLowerCase())
  for (const name of ['authorization', 'content-type', 'host'])
    if (names.indexOf(name) !== names.lastIndexOf(name))
      throw new Refused('MALFORMED', { detail: `two headers ${name}` })
  if (headers['transfer-encoding'] === undefined && Number(headers['content-length'] ?? 0) === 0) return
  // Fastify doesn't read the body of a GET, so it would go past the checks and past the hash that a caller signs.
  if (raw.method === 'GET' || raw.method === 'HEAD') throw noBody()
  if ((headers['content-encoding'] ?? 'identity') !== 'identity') throw new Refused('UNSUPPORTED_MEDIA_TYPE')
  if (!JSON_TYPE.test(headers['content-type'] ?? '')) throw new Refused('UNSUPPORTED_MEDIA_TYPE')
}

const JSON_TYPE = /^application\/json(?: *; *charset="?utf-8"?)?$/i

/**
 * Path and query in the one form that a URL parser leaves alone: no scheme and host, no dot segments, no fragment,
 * nothing unescaped, no broken escape in the query (the router answers for those in the path). A request JWT signs
 * the address, and a proxy rules by it, so there is one spelling.
 */
function isPlainTarget(url: string): boolean {
  try {
    const { pathname, search } = new URL(url, 'http://server')
    decodeURIComponent(search)
    return pathname + search === url || `${pathname}${search}?` === url
  } catch {
    return false
  }
}

/**
 * A page of another origin may read the answer if its origin is on the list. This guards the page's user against other
 * pages, not the server: what a request may do depends on its credential alone, which no browser adds by itself.
 */
function allowOrigin({ webOrigins }: AppOptions, { raw }: FastifyRequest, reply: FastifyReply): void {
  if (webOrigins === undefined) return
  // On the raw response: a stream's answer is written past fastify.
  const response = reply.raw
  response.setHeader('vary', 'Origin')
  const { origin } = raw.headers
  if (origin === undefined || !webOrigins.includes(origin)) return
  response.setHeader('access-control-allow-origin', origin)
  response.setHeader('access-control-expose-headers', 'retry-after')
}

function isPreflight({ webOrigins = [] }: AppOptions, { raw }: FastifyRequest): boolean {
  return (
    raw.method === 'OPTIONS' &&
    raw.headers['access-control-request-method'] !== undefined &&
    webOrigins.includes(raw.headers.origin ?? '')
  )
}

function pathOf(request: FastifyRequest): string {
  return request.url.split('?', 1)[0] ?? ''
}

function compile(schema: TSchema | undefined): Validator | undefined {
  return schema === undefined ? undefined : Compile(schema)
}

function checked(validator: Validator, value: unknown): unknown {
  if (validator.Check(value)) return value
  const first = validator.Errors(value)[0]
  // The path and the rule go to the peer, never the value: it could be a secret that sits in the wrong field.
  const detail = first?.keyword === 'boolean' ? 'this field is not known here' : first?.message
  throw new Refused('MALFORMED', { field: fieldOf(first?.instancePath), detail })
}

/** `a.b.3`, as far as its names are plain: the rest was named by the peer, and may hold anything. */
export function fieldOf(instancePath: string | undefined): string | undefined {
  const [, ...names] = (instancePath ?? '').slice(0, 128).split('/')
  const end = names.findIndex(name => !/^[A-Za-z0-9]{1,64}$/.test(name))
  return (end < 0 ? names : names.slice(0, end)).join('.') || undefined
}

function noQuery(query: unknown): undefined {
  if (Object.keys(query as object).length > 0) throw new Refused('MALFORMED', { detail: 'no query here' })
  return undefined
}

function noBody(): Refused {
  return new Refused('MALFORMED', { detail: 'no body here' })
}

function pathMatches(pattern: string, path: string): boolean {
  const wanted = pattern.split('/')
  const parts = path.split('/')
  return (
    wanted.length === parts.length && wanted.every((part, i) => part.startsWith(':') || part === parts[i])
  )
}

/** What fastify itself refuses, by its error code. */
const FASTIFY_CODES: ReadonlyMap<unknown, Code> = new Map<unknown, Code>([
  ['FST_ERR_CTP_INVALID_MEDIA_TYPE', 'UNSUPPORTED_MEDIA_TYPE'],
  ['FST_ERR_CTP_EMPTY_TYPE', 'UNSUPPORTED_MEDIA_TYPE'],
  ['FST_ERR_CTP_BODY_TOO_LARGE', 'TOO_LARGE'],
  ['FST_ERR_CTP_INVALID_CONTENT_LENGTH', 'MALFORMED'],
  ['FST_ERR_CTP_EMPTY_JSON_BODY', 'MALFORMED'],
  ['FST_ERR_BAD_URL', 'MALFORMED'],
  ['FST_ERR_MAX_PARAM_LENGTH', 'MALFORMED'],
])

export function toRefused(error: unknown): Refused {
  if (error instanceof Refused) return error
  // Nothing is decided past a store that can't be used.
  if (error instanceof StoreError && error.reason === 'unavailable')
    return new Refused('RETRY_LATER', { log: error.message, retryAfter: 5 })
  if (error instanceof PoolUnavailable)
    return new Refused('RETRY_LATER', {
      detail: 'the server is busy',
      log: error.message,
      retryAfter: error.retryAfter,
    })
  if (error instanceof DecodeError) return new Refused('MALFORMED', { field: error.field, detail: error.why })
  return new Refused(FASTIFY_CODES.get((error as { code?: unknown } | null)?.code) ?? 'INTERNAL')
}

/**
 * What the peer is told of an error, which is logged. A code outside the route's list is a fault of this server (often
 * another server's refusal that nobody translated), and what INTERNAL was stays inside.
 */
function refusalOf(options: AppOptions, error: unknown, { name = 'none', codes }: RouteConfig): Refused {
  const refused = toRefused(error)
  if (refused.code !== 'INTERNAL' && codes?.has(refused.code) !== false) {
    options.log.info({ route: name, refused: refused.code, why: refused.log }, 'request refused')
    return refused
  }
  // A refusal that the route doesn't know is an error of the program: where it was made is wanted.
  const from = error instanceof Refused ? { stack: error.stack } : {}
  const why = { route: name, refused: refused.code, why: refused.log, ...from }
  options.log.error({ err: error, ...why }, 'request failed')
  return new Refused('INTERNAL')
}

function problemHeaders(refused: Refused): Record<string, string> {
  const seconds = Math.max(1, Math.ceil(refused.retryAfter ?? 1))
  return {
    'content-type': 'application/problem+json',
    'cache-control': 'no-store',
    'x-content-type-options': 'nosniff',
    ...(refused.code === 'RETRY_LATER' ? { 'retry-after': String(seconds) } : {}),
  }
}

function answerError(options: AppOptions, error: unknown, request: FastifyRequest, reply: FastifyReply) {
  const config = (request.routeOptions.config ?? {}) as RouteConfig
  // Whoever hangs up in the middle of a body is no fault of this server.
  const gone = !request.raw.complete && (error as { code?: unknown } | null)?.code === 'ECONNRESET'
  const cause = gone ? new Refused('MALFORMED', { log: 'the caller hung up' }) : error
  const refused = refusalOf(options, cause, config)
  options.metrics.observe(config.name ?? 'none', refused.code, reply.elapsedTime / 1000)
  return reply.code(refused.status).headers(problemHeaders(refused)).send(JSON.stringify(refused.toProblem()))
}

/** What isn't HTTP, or doesn't arrive in time, never becomes a request: answered on the socket, which is then closed. */
function answerBrokenRequest(options: AppOptions, error: NodeJS.ErrnoException, socket: Duplex): void {
  // Of a TLS connection that failed, or never came about: there is nothing to write on.
  if (/^ERR_(SSL|TLS)_/.test(error.code ?? '')) {
    options.log.info({ route: 'none', why: error.code }, 'TLS failed')
    socket.destroy()
    return
  }
  if (error.code === 'ECONNRESET' || socket.destroyed) return
  const refused =
    error.code === 'ERR_HTTP_REQUEST_TIMEOUT'
      ? new Refused('TOO_SLOW')
      : error.code === 'HPE_HEADER_OVERFLOW'
        ? new Refused('TOO_LARGE', { detail: 'the headers are larger than this server takes' })
        : new Refused('MALFORMED', { detail: 'this is not HTTP' })
  options.log.info({ route: 'none', refused: refused.code, why: error.code }, 'request refused')
  options.metrics.observe('none', refused.code, 0)
  const body = JSON.stringify(refused.toProblem())
  const headers = {
    ...problemHeaders(refused),
    connection: 'close',
    'content-length': Buffer.byteLength(body),
  }
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`)
  const status = `HTTP/1.1 ${refused.status} ${STATUS_CODES[refused.status]}\r\n`
  if (socket.writable) socket.end(`${status}${lines.join('')}\r\n${body}`, () => socket.destroy())
  else socket.destroy()
}
