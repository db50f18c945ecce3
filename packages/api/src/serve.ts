/**
 * Mounts a route table on fastify: a request is parsed strictly, its caller established, its fields checked against
 * the schemas, and only then handed on. Every no is problem+json with a code of the closed list.
 */
import { createHash } from 'node:crypto'
import type { IncomingHttpHeaders, ServerResponse } from 'node:http'
import { DecodeError } from '@milagro-ts/crypto/errors'
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify'
import type { TSchema } from 'typebox'
import { Compile, type Validator } from 'typebox/compile'
import type { Log } from './log.js'
import type { Metrics } from './metrics.js'
import { openApi } from './openapi.js'
import { type Code, Refused } from './problem.js'
import type { Answer, Body, Caller, Params, Query, Route, RouteTable } from './route.js'
import { parseStrictJson } from './strict-json.js'

/** What a caller check or a handler may know of a request beside its fields. */
export interface Meta {
  readonly method: string
  /** Path and query as sent. */
  readonly url: string
  readonly ip: string
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

const BODY_LIMIT = 65_536
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
}

interface AppState {
  readonly options: AppOptions
  readonly table: Record<string, Route>
}
const states = new WeakMap<FastifyInstance, AppState>()

/** A fastify instance that speaks problem+json only. Routes come from `mount`; `/openapi.json` prints them. */
export function createApp(options: AppOptions): FastifyInstance {
  const app = Fastify({
    logger: false,
    bodyLimit: BODY_LIMIT,
    requestTimeout: options.requestTimeout ?? 10_000,
    keepAliveTimeout: 5_000,
    forceCloseConnections: true,
    exposeHeadRoutes: false,
    trustProxy: options.trustProxy ?? false,
    routerOptions: { maxParamLength: 256 },
  })
  const state: AppState = { options, table: {} }
  states.set(app, state)
  app.removeAllContentTypeParsers()
  app.addContentTypeParser('application/json', { parseAs: 'buffer' }, (_request, body, done) =>
    done(null, body),
  )
  app.setErrorHandler((error: unknown, request, reply) => answerError(options, error, request, reply))
  app.setNotFoundHandler((request, reply) => {
    const path = request.url.split('?', 1)[0] ?? ''
    const others = Object.values(state.table).filter(route => pathMatches(route.path, path))
    if (others.length > 0) reply.header('allow', others.map(route => route.method).join(', '))
    const refused = new Refused(others.length > 0 ? 'METHOD_NOT_ALLOWED' : 'NOT_FOUND')
    return answerError(options, refused, request, reply)
  })
  app.get('/openapi.json', (_request, reply) =>
    reply.type('application/json').send(openApi(state.table, options.title)),
  )
  return app
}

/** Mounts every route of `table`; a route whose kind of caller has no check ends the start with a TypeError. */
export function mount<T extends RouteTable, I = undefined, O = undefined>(
  app: FastifyInstance,
  table: T,
  handlers: Handlers<T, I, O>,
  checks: CallerChecks<I, O>,
): void {
  const state = states.get(app)
  if (state === undefined) throw new TypeError('mount wants an app made by createApp')
  const { options } = state
  for (const [name, route] of Object.entries(table)) {
    const check = route.caller === 'open' ? async () => undefined : checks[route.caller]
    if (check === undefined) throw new TypeError(`route ${name} wants a check for caller '${route.caller}'`)
    state.table[name] = route
    const validators = {
      params: compile(route.params),
      query: compile(route.query),
      body: compile(route.body),
      response: compile(route.response),
    }
    app.route({
      method: route.method,
      url: route.path,
      bodyLimit: route.bodyLimit ?? BODY_LIMIT,
      config: { name },
      handler: async (request, reply) => {
        const body = request.body instanceof Uint8Array ? request.body : EMPTY
        if (route.body === undefined && body.length > 0)
          throw new Refused('MALFORMED', { detail: 'no body here' })
        const meta: Meta = {
          method: request.method,
          url: request.url,
          ip: request.ip,
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
          try {
            await handler(input, reply.raw)
          } catch (error) {
            if (reply.raw.headersSent) {
              options.log.error({ err: error, route: name }, 'stream failed')
              reply.raw.destroy()
            } else {
              const refused = toRefused(error)
              logFailure(options, error, refused, name)
              const problem = JSON.stringify(refused.toProblem())
              reply.raw.writeHead(refused.status, { 'content-type': 'application/problem+json' }).end(problem)
            }
          }
          return reply
        }
        const answer = await handler(input, reply.raw)
        if (validators.response !== undefined && !validators.response.Check(answer)) {
          throw new Refused('INTERNAL', { log: `answer of ${name} does not fit its schema` })
        }
        options.metrics.observe(name, 'OK', reply.elapsedTime / 1000)
        return reply.header('cache-control', 'no-store').type('application/json').send(JSON.stringify(answer))
      },
    })
  }
}

function compile(schema: TSchema | undefined): Validator | undefined {
  return schema === undefined ? undefined : Compile(schema)
}

function checked(validator: Validator, value: unknown): unknown {
  if (validator.Check(value)) return value
  const first = validator.Errors(value)[0]
  // The path and the rule go to the peer, never the value: it could be a secret that sits in the wrong field.
  throw new Refused('MALFORMED', { field: fieldOf(first?.instancePath), detail: first?.message })
}

function fieldOf(instancePath: string | undefined): string | undefined {
  if (instancePath === undefined || instancePath === '') return undefined
  return instancePath.slice(1, 129).replaceAll('/', '.')
}

function noQuery(query: unknown): undefined {
  if (Object.keys(query as object).length > 0) throw new Refused('MALFORMED', { detail: 'no query here' })
  return undefined
}

function pathMatches(pattern: string, path: string): boolean {
  const wanted = pattern.split('/')
  const parts = path.split('/')
  return (
    wanted.length === parts.length && wanted.every((part, i) => part.startsWith(':') || part === parts[i])
  )
}

/** What fastify itself refuses, by its error code. */
const FASTIFY_CODES: Readonly<Record<string, Code>> = {
  FST_ERR_CTP_INVALID_MEDIA_TYPE: 'UNSUPPORTED_MEDIA_TYPE',
  FST_ERR_CTP_EMPTY_TYPE: 'UNSUPPORTED_MEDIA_TYPE',
  FST_ERR_CTP_BODY_TOO_LARGE: 'TOO_LARGE',
  FST_ERR_CTP_INVALID_CONTENT_LENGTH: 'MALFORMED',
  FST_ERR_CTP_EMPTY_JSON_BODY: 'MALFORMED',
  FST_ERR_BAD_URL: 'MALFORMED',
  FST_ERR_MAX_PARAM_LENGTH: 'MALFORMED',
}

export function toRefused(error: unknown): Refused {
  if (error instanceof Refused) return error
  if (error instanceof DecodeError) return new Refused('MALFORMED', { field: error.field, detail: error.why })
  const code = (error as { code?: unknown } | null)?.code
  const known = typeof code === 'string' ? FASTIFY_CODES[code] : undefined
  return known === undefined ? new Refused('INTERNAL') : new Refused(known)
}

function logFailure(options: AppOptions, error: unknown, refused: Refused, route: string): void {
  if (refused.code === 'INTERNAL')
    options.log.error({ err: error, route, why: refused.log }, 'request failed')
  else options.log.info({ route, refused: refused.code, why: refused.log }, 'request refused')
}

function answerError(options: AppOptions, error: unknown, request: FastifyRequest, reply: FastifyReply) {
  const refused = toRefused(error)
  const route = (request.routeOptions.config as { name?: string }).name ?? 'none'
  logFailure(options, error, refused, route)
  options.metrics.observe(route, refused.code, reply.elapsedTime / 1000)
  if (refused.code === 'RETRY_LATER') reply.header('retry-after', String(refused.retryAfter ?? 1))
  return reply
    .code(refused.status)
    .header('cache-control', 'no-store')
    .type('application/problem+json')
    .send(JSON.stringify(refused.toProblem()))
}
