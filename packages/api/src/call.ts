/**
 * The typed client of a route table. Answers are checked against the table's schemas; a problem becomes Refused;
 * nothing is retried here, since only the caller knows what is safe to repeat.
 */

import { isOwnClock, type PeerClocks } from './peer-clocks.js'
import { CODES, Problem, Refused } from './problem.js'
import {
  type Answer,
  BODY_LIMIT,
  type Body,
  type Params,
  type Query,
  type Route,
  type RouteTable,
} from './route.js'
import { parseStrictJson } from './strict-json.js'
import { Compile, type TSchema, type Validator } from './typebox.js'

/** The server can't be reached, or didn't answer in time: what became of the request is unknown. */
export class Unreachable extends Error {
  override readonly name = 'Unreachable'
  /** The platform's name for the cause, such as ECONNREFUSED; TIMEOUT for a deadline; undefined where it has none. */
  readonly system: string | undefined

  constructor(message: string, options?: ErrorOptions) {
    super(message, options)
    this.system = systemOf(options?.cause)
  }
}

/** Of an error, or of the first behind it that has one. Never its message, which may hold what was sent. */
export function systemOf(error: unknown, depth = 0): string | undefined {
  if (!(error instanceof Error) || depth > 4) return undefined
  if (error instanceof Unreachable) return error.system
  if (error.name === 'TimeoutError') return 'TIMEOUT'
  const { code } = error as { code?: unknown }
  if (typeof code === 'string' && /^[A-Z][A-Z0-9_]{1,63}$/.test(code)) return code
  return systemOf(error.cause, depth + 1)
}
/** The server answered with something that the route table doesn't know. */
export class UnexpectedAnswer extends Error {
  override readonly name = 'UnexpectedAnswer'
}

export interface OutgoingRequest {
  readonly method: string
  readonly url: string
  readonly body: Uint8Array
}

/** A request whose answer is awaited as a whole. */
export interface Sent extends OutgoingRequest {
  /** Names in lower case. */
  readonly headers: Readonly<Record<string, string>>
  readonly signal?: AbortSignal | undefined
  /** Milliseconds until the whole answer is there. */
  readonly timeout: number
  /** Most bytes of an answer, by its status. */
  readonly limit: (status: number) => number
}
export interface Answered {
  readonly status: number
  readonly contentType: string | null | undefined
  readonly retryAfter: string | null | undefined
  readonly bytes: Uint8Array
}
/** Makes one request, follows no redirect and tries nothing twice. Rejects with UnexpectedAnswer for an answer beyond its limit. */
export type Exchange = (request: Sent) => Promise<Answered>

export interface ClientOptions {
  readonly baseUrl: string
  readonly fetch?: typeof fetch
  /** In the place of `fetch`; there is one for Node in node-exchange.ts. */
  readonly exchange?: Exchange | undefined
  /** Milliseconds for one call; 10 000 unless said. */
  readonly timeout?: number
  /** Largest answer in bytes; 16 MiB unless said. */
  readonly answerLimit?: number
  /** Makes the Authorization header of a request. */
  readonly authorize?: (request: OutgoingRequest) => Promise<string>
  /** Told by each server that a signed request went to whether it found its time right; peers go by their origin. */
  readonly clocks?: PeerClocks | undefined
}

type Given<K extends string, V> = [V] extends [undefined] ? unknown : { readonly [P in K]: V }
export type CallInput<R extends Route> = Given<'params', Params<R>> &
  Given<'query', Query<R>> &
  Given<'body', Body<R>> & { readonly signal?: AbortSignal; readonly authorization?: string }
type Callable<T extends RouteTable> = { [K in keyof T as T[K] extends { stream: string } ? never : K]: T[K] }
export type Client<T extends RouteTable> = {
  readonly [K in keyof Callable<T>]: (input: CallInput<Callable<T>[K]>) => Promise<Answer<Callable<T>[K]>>
}

const problem = Compile(Problem)
const EMPTY = new Uint8Array()
/** Bytes of a problem document. */
const REFUSAL_LIMIT = 65_536

/** One function per route of `table`. Throws Refused, Unreachable or UnexpectedAnswer. */
export function createClient<T extends RouteTable>(table: T, options: ClientOptions): Client<T> {
  const calls = Object.entries(table)
    .filter(([, route]) => route.stream === undefined)
    .map(([name, route]) => {
      const validator = Compile(route.response as TSchema)
      return [name, (input: AnyInput) => call(route, validator, options, input)]
    })
  return Object.fromEntries(calls) as Client<T>
}

/**
 * The full address of a route, parameters filled in and escaped. TypeError for a parameter that is missing, empty or a
 * dot segment: escaping leaves dots alone, and a URL drops them together with the segment before.
 */
export function routeUrl(
  route: Route,
  baseUrl: string,
  input: { params?: Readonly<Record<string, string>>; query?: Readonly<Record<string, string | undefined>> },
): string {
  const path = route.path.replaceAll(/:([A-Za-z]+)/g, (_match, name: string) => {
    const value = input.params?.[name]
    if (value === undefined || /^\.{0,2}$/.test(value))
      throw new TypeError(`route ${route.path} wants '${name}'`)
    return encodeURIComponent(value)
  })
  const query = new URLSearchParams()
  for (const [name, value] of Object.entries(input.query ?? {}))
    if (value !== undefined) query.set(name, value)
  return `${baseUrl.replace(/\/$/, '')}${path}${query.size > 0 ? `?${query}` : ''}`
}

interface AnyInput {
  readonly params?: Readonly<Record<string, string>>
  readonly query?: Readonly<Record<string, string | undefined>>
  readonly body?: unknown
  readonly signal?: AbortSignal
  readonly authorization?: string
}

async function call(
  route: Route,
  validator: Validator,
  options: ClientOptions,
  input: AnyInput,
): Promise<unknown> {
  const url = routeUrl(route, options.baseUrl, input)
  const body = route.body === undefined ? EMPTY : new TextEncoder().encode(JSON.stringify(input.body))
  const most = route.bodyLimit ?? BODY_LIMIT
  // A server cuts off whoever sends more, and that looks like one that isn't there.
  if (body.length > most)
    throw new Refused('TOO_LARGE', {
      detail: `the body has ${body.length} bytes, and ${route.path} takes ${most}`,
    })
  const authorization =
    input.authorization ?? (await options.authorize?.({ method: route.method, url, body }))
  const exchange = options.exchange ?? fetchExchange(options.fetch ?? fetch)
  const answerLimit = options.answerLimit ?? 16_777_216
  let answered: Answered
  try {
    answered = await exchange({
      method: route.method,
      url,
      headers: {
        ...(route.body === undefined ? {} : { 'content-type': 'application/json' }),
        ...(authorization === undefined ? {} : { authorization }),
      },
      body,
      signal: input.signal,
      timeout: options.timeout ?? 10_000,
      limit: status => (isOk(status) ? answerLimit : REFUSAL_LIMIT),
    })
  } catch (error) {
    if (error instanceof UnexpectedAnswer) throw error
    const system = systemOf(error)
    throw new Unreachable(
      `${route.method} ${new URL(url).origin}${route.path} got no answer${system === undefined ? '' : ` (${system})`}`,
      { cause: error },
    )
  }
  if (isOk(answered.status)) {
    const value = parseAnswer(route, answered, 'application/json')
    if (!validator.Check(value))
      throw new UnexpectedAnswer(`the answer of ${route.path} does not fit its schema`)
    if (route.caller === 'server') options.clocks?.agree(new URL(url).origin)
    return value
  }
  const refused = refusalIn(route, answered)
  if (isOwnClock(refused)) options.clocks?.refused(new URL(url).origin, refused)
  throw refused
}

const isOk = (status: number) => status >= 200 && status < 300

/** By the platform's `fetch`, or what stands in its place. */
function fetchExchange(fetch: typeof globalThis.fetch): Exchange {
  return async ({ method, url, headers, body, signal, timeout, limit }) => {
    const inTime = AbortSignal.timeout(timeout)
    const response = await fetch(url, {
      method,
      headers,
      ...(body.length === 0 ? {} : { body }),
      redirect: 'manual',
      signal: signal ? AbortSignal.any([inTime, signal]) : inTime,
    })
    return answeredBy(response, await readAtMost(response, limit(response.status)))
  }
}

function answeredBy({ status, headers }: Response, bytes: Uint8Array): Answered {
  return { status, contentType: headers.get('content-type'), retryAfter: headers.get('retry-after'), bytes }
}

/** What a response that isn't ok says, for who reads its answers itself, as of a stream. UnexpectedAnswer. */
export async function readRefusal(route: Route, response: Response): Promise<Refused> {
  return refusalIn(route, answeredBy(response, await readAtMost(response, REFUSAL_LIMIT)))
}

/** UnexpectedAnswer when it is no problem document. */
function refusalIn(route: Route, answered: Answered): Refused {
  const { status, retryAfter } = answered
  const value = parseAnswer(route, answered, 'application/problem+json')
  if (problem.Check(value) && value.status === status && CODES[value.code].status === value.status)
    return asRefused(value, retryAfter)
  throw new UnexpectedAnswer(`${route.path} answered ${status} without a problem document`)
}

export function tooLarge(limit: number): UnexpectedAnswer {
  return new UnexpectedAnswer(`the answer is larger than ${limit} bytes`)
}

/** The body; UnexpectedAnswer for one of more than `limit` bytes. */
export async function readAtMost(response: Response, limit: number): Promise<Uint8Array> {
  if (response.body === null) return EMPTY
  const chunks: Uint8Array[] = []
  let length = 0
  // Not `for await`: not every browser's streams have it.
  const reader = response.body.getReader()
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    length += part.value.length
    if (length > limit) {
      await reader.cancel()
      throw tooLarge(limit)
    }
    chunks.push(part.value)
  }
  const bytes = new Uint8Array(length)
  let offset = 0
  for (const chunk of chunks) {
    bytes.set(chunk, offset)
    offset += chunk.length
  }
  return bytes
}

/** As strict as with a request: whoever stands behind the other end may be a liar. */
function parseAnswer(route: Route, { status, contentType, bytes }: Answered, type: string): unknown {
  const given = contentType?.split(';', 1)[0]?.trim().toLowerCase()
  if (given !== type) throw new UnexpectedAnswer(`${route.path} answered ${status}, not ${type}`)
  try {
    return parseStrictJson(bytes)
  } catch (error) {
    if (!(error instanceof Refused)) throw error
    throw new UnexpectedAnswer(`the answer of ${route.path}: ${error.detail}`)
  }
}

function asRefused(body: Problem, after: string | null | undefined): Refused {
  return new Refused(body.code, {
    detail: body.detail,
    field: body.field,
    retryAfter: after != null && /^[0-9]{1,6}$/.test(after) ? Number(after) : undefined,
  })
}
