/**
 * The callbacks as one function from request to response, for whatever serves HTTP in the customer's application:
 *
 *   const handle = createRpaHandler({ callbacks, server: serverCallerCheck({ … }) })
 *
 *   node:http   createServer(nodeListener(handle))
 *   express     app.use('/milagro', nodeListener(handle))              before any body parser
 *   fastify     app.all('/v1/*', (request, reply) => nodeListener(handle)(request.raw, reply.hijack().raw))
 *
 * The body's bytes must be the ones that arrived, because the caller's signature is over them. Behind a mount path or
 * a proxy, `publicUrl` of serverCallerCheck is the address that the RPS uses, the mount path included.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { Refused } from '@milagro-ts/api/problem'
import { BODY_LIMIT, codesOf, type Route } from '@milagro-ts/api/route'
import { rpaRoutes } from '@milagro-ts/api/rpa-routes'
import { fieldOf, type Meta, type ServerCaller, toRefused } from '@milagro-ts/api/serve'
import { parseStrictJson } from '@milagro-ts/api/strict-json'
import { Compile, type TSchema, type Validator } from '@milagro-ts/api/typebox'
import { sha256 } from '@milagro-ts/crypto/sha256'
import type { Callbacks, RpaRoutes } from './callbacks.js'

export interface PlainRequest {
  readonly method: string
  /** Path and query, below the mount path: `/v1/verify`. */
  readonly url: string
  /** Names in lower case, as node:http gives them. */
  readonly headers: Readonly<Record<string, string | string[] | undefined>>
  readonly body: Uint8Array
}
export interface PlainResponse {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly body: Uint8Array
}
export type RpaHandler = (request: PlainRequest) => Promise<PlainResponse>

export interface RpaHandlerOptions {
  readonly callbacks: Callbacks
  /** Who calls, from `serverCallerCheck`. */
  readonly server: (meta: Meta) => Promise<ServerCaller>
  /** Told of what went wrong inside; the peer reads INTERNAL only. */
  readonly onError?: (error: unknown, route: string) => void
}

const NAMES = Object.keys(rpaRoutes) as (keyof RpaRoutes)[]

interface Compiled {
  readonly name: keyof RpaRoutes
  readonly route: Route
  readonly body: Validator | undefined
  readonly response: Validator
}

export function createRpaHandler({ callbacks, server, onError }: RpaHandlerOptions): RpaHandler {
  const compiled = NAMES.map((name): Compiled => {
    const route: Route = rpaRoutes[name]
    return {
      name,
      route,
      body: route.body === undefined ? undefined : Compile(route.body),
      response: Compile(route.response as TSchema),
    }
  })
  return async request => {
    let found: Compiled | undefined
    try {
      found = routeOf(compiled, request)
      return answer(200, 'application/json', await call(found, request))
    } catch (error) {
      const refused = refusalOf(found, error)
      const later = refused.code === 'RETRY_LATER' ? { 'retry-after': String(refused.retryAfter ?? 1) } : {}
      return answer(refused.status, 'application/problem+json', refused.toProblem(), later)
    }
  }

  /** A code outside the route's list is a fault of this application, which the peer hears as INTERNAL. */
  function refusalOf(found: Compiled | undefined, error: unknown): Refused {
    const refused = toRefused(error)
    const listed = found === undefined || codesOf(found.route).has(refused.code)
    if (listed && refused.code !== 'INTERNAL') return refused
    onError?.(error, found?.name ?? 'none')
    return new Refused('INTERNAL')
  }

  async function call({ name, body, response }: Compiled, request: PlainRequest): Promise<unknown> {
    const meta: Meta = {
      method: request.method,
      url: request.url,
      ip: '',
      headers: request.headers,
      body: request.body,
      bodyHash: sha256(request.body),
    }
    const caller = await server(meta)
    const input = { caller, meta, params: undefined, query: undefined, body: bodyOf(body, request) }
    // The table ties each callback to its own route; here the tie is only known by name.
    const callback = callbacks[name] as unknown as (input: unknown) => Promise<unknown>
    const value = await callback(input)
    if (!response.Check(value)) throw new TypeError(`the answer of ${name} does not fit its schema`)
    return value
  }
}

/** A listener of node:http around a handler: collects the body, up to 64 KiB. */
export function nodeListener(
  handle: RpaHandler,
): (request: IncomingMessage, response: ServerResponse) => void {
  return (request, response) => {
    collect(request)
      .then(body =>
        handle({ method: request.method ?? '', url: request.url ?? '', headers: request.headers, body }),
      )
      .catch((error: unknown) => {
        const refused = error instanceof Refused ? error : new Refused('MALFORMED')
        return answer(refused.status, 'application/problem+json', refused.toProblem(), {
          connection: 'close',
        })
      })
      .then(({ status, headers, body }) => response.writeHead(status, headers).end(body))
      .catch((error: unknown) => response.destroy(error instanceof Error ? error : undefined))
  }
}

async function collect(request: IncomingMessage): Promise<Uint8Array> {
  const chunks: Buffer[] = []
  let length = 0
  for await (const chunk of request as AsyncIterable<Buffer>) {
    length += chunk.length
    if (length > BODY_LIMIT) throw new Refused('TOO_LARGE')
    chunks.push(chunk)
  }
  return new Uint8Array(Buffer.concat(chunks))
}

function routeOf(compiled: readonly Compiled[], { method, url }: PlainRequest): Compiled {
  const [path, query] = url.split('?', 2)
  const found = compiled.find(({ route }) => route.path === path)
  if (found === undefined) throw new Refused('NOT_FOUND')
  if (found.route.method !== method) throw new Refused('METHOD_NOT_ALLOWED')
  if (query !== undefined) throw new Refused('MALFORMED', { detail: 'no query here' })
  return found
}

function bodyOf(validator: Validator | undefined, { headers, body }: PlainRequest): unknown {
  if (validator === undefined) {
    if (body.length > 0) throw new Refused('MALFORMED', { detail: 'no body here' })
    return undefined
  }
  if (body.length > BODY_LIMIT) throw new Refused('TOO_LARGE')
  const type = headers['content-type']
  if (typeof type !== 'string' || !/^application\/json(?: *; *charset="?utf-8"?)?$/i.test(type))
    throw new Refused('UNSUPPORTED_MEDIA_TYPE')
  const value = parseStrictJson(body)
  if (validator.Check(value)) return value
  const [first] = validator.Errors(value)
  const field = fieldOf(first?.instancePath)
  throw new Refused('MALFORMED', { ...(field ? { field } : {}), detail: first?.message })
}

function answer(
  status: number,
  type: string,
  value: unknown,
  more: Readonly<Record<string, string>> = {},
): PlainResponse {
  const body = new TextEncoder().encode(JSON.stringify(value))
  return { status, headers: { 'content-type': type, 'cache-control': 'no-store', ...more }, body }
}
