/**
 * A route is data: the server mounts it, the typed client calls it, OpenAPI is printed from it, and one test
 * drives every route of every table.
 */

import { type Code, EVERYWHERE } from './problem.js'
import type { Static, TSchema } from './typebox.js'

/**
 * Who may call: `open` anyone; `server` a request JWT of a registered server (request-auth.ts); `identity` an
 * access token or `Authorization: MPIN`; `operator` an operator's access token; `admin` the listener's admin token.
 */
export type Caller = 'open' | 'server' | 'identity' | 'operator' | 'admin'

export interface Route {
  readonly method: 'GET' | 'POST' | 'PUT' | 'DELETE'
  /** With `:name` for parameters. */
  readonly path: string
  readonly summary: string
  readonly caller: Caller
  readonly params?: TSchema
  readonly query?: TSchema
  readonly body?: TSchema
  /** Absent for a stream. */
  readonly response?: TSchema
  readonly stream?: 'text/event-stream'
  /** Beyond EVERYWHERE and what the caller check refuses with (`codesOf` has all). */
  readonly refuses: readonly Code[]
  /** Bytes; BODY_LIMIT unless said. */
  readonly bodyLimit?: number
}

/** Bytes of a request's body. */
export const BODY_LIMIT = 65_536

/** What the check of each kind of caller may refuse with; an M-Pin credential's own codes stand in the routes. */
const CHECKS: Readonly<Record<Caller, readonly Code[]>> = {
  open: [],
  server: ['UNAUTHENTICATED', 'REPLAYED'],
  identity: ['UNAUTHENTICATED'],
  operator: ['UNAUTHENTICATED'],
  admin: ['UNAUTHENTICATED'],
}

/** Every code that a route may answer with, each once. */
export function codesOf(route: Route): ReadonlySet<Code> {
  return new Set([...EVERYWHERE, ...CHECKS[route.caller], ...route.refuses])
}

export type RouteTable = Readonly<Record<string, Route>>
export type Params<R extends Route> = R extends { params: infer S extends TSchema } ? Static<S> : undefined
export type Query<R extends Route> = R extends { query: infer S extends TSchema } ? Static<S> : undefined
export type Body<R extends Route> = R extends { body: infer S extends TSchema } ? Static<S> : undefined
export type Answer<R extends Route> = R extends { response: infer S extends TSchema } ? Static<S> : undefined
