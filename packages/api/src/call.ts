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
export interface ClientOptions {
  readonly baseUrl: string
  readonly fetch?: typeof fetch
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
  const timeout = AbortSignal.timeout(options.timeout ?? 10_000)
  let answer: { response: Response; bytes: Uint8Array }
  try {
    const response = await (options.fetch ?? fetch)(url, {
      method: route.method,
      headers: {
        ...(route.body === undefined ? {} : { 'content-type': 'application/json' }),
        ...(authorization === undefined ? {} : { authorization }),
      },
      ...(route.body === undefined ? {} : { body }),
      redirect: 'manual',
      signal: input.signal ? AbortSignal.any([timeout, input.signal]) : timeout,
    })
    answer = {
      response,
      bytes: await readAtMost(response, response.ok ? (options.answerLimit ?? 16_777_216) : REFUSAL_LIMIT),
    }
  } catch (error) {
    if (error instanceof UnexpectedAnswer) throw error
    const system = systemOf(error)
    throw new Unreachable(
      `${route.method} ${new URL(url).origin}${route.path} got no answer${system === undefined ? '' : ` (${system})`}`,
      { cause: error },
    )
  }
  const { response, bytes } = answer
  if (response.ok) {
    const value = parseAnswer(route, response, bytes, 'application/json')
    if (!validator.Check(value))
      throw new UnexpectedAnswer(`the answer of ${route.path} does not fit its schema`)
    if (route.caller === 'server') options.clocks?.agree(new URL(url).origin)
    return value
  }
  const refused = refusalIn(route, response, bytes)
  if (isOwnClock(refused)) options.clocks?.refused(new URL(url).origin, refused)
  throw refused
}

/** What a response that isn't ok says, for who reads its answers itself, as of a stream. UnexpectedAnswer. */
export async function readRefusal(route: Route, response: Response): Promise<Refused> {
  return refusalIn(route, response, await readAtMost(response, REFUSAL_LIMIT))
}

/** UnexpectedAnswer when it is no problem document. */
function refusalIn(route: Route, response: Response, bytes: Uint8Array): Refused {
  const value = parseAnswer(route, response, bytes, 'application/problem+json')
  if (problem.Check(value) && value.status === response.status && CODES[value.code].status === value.status)
    return asRefused(value, response)
  throw new UnexpectedAnswer(`${route.path} answered ${response.status} without a problem document`)
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
      throw new UnexpectedAnswer(`the answer is larger than ${limit} bytes`)
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
function parseAnswer(route: Route, response: Response, bytes: Uint8Array, type: string): unknown {
  const given = response.headers.get('content-type')?.split(';', 1)[0]?.trim().toLowerCase()
  if (given !== type) throw new UnexpectedAnswer(`${route.path} answered ${response.status}, not ${type}`)
  try {
    return parseStrictJson(bytes)
  } catch (error) {
    if (!(error instanceof Refused)) throw error
    throw new UnexpectedAnswer(`the answer of ${route.path}: ${error.detail}`)
  }
}

function asRefused(body: Problem, response: Response): Refused {
  const after = response.headers.get('retry-after')
  return new Refused(body.code, {
    detail: body.detail,
    field: body.field,
    retryAfter: after !== null && /^[0-9]{1,6}$/.test(after) ? Number(after) : undefined,
  })
}
