/**
 * Who did what to what, and what came of it: every operator's action and every callback. Rows name things by number
 * (`vehicle 12`, `driver 3`), so that the trail holds no secret and no driver's name.
 */
import type { Log } from '@milagro-ts/api/log'
import { RateLimit } from '@milagro-ts/api/rate-limit'
import type { Route } from '@milagro-ts/api/route'
import { toRefused } from '@milagro-ts/api/serve'
import type { Clock } from '@milagro-ts/crypto/ports'
import type { Store } from '@milagro-ts/store/database'
import type { Kysely } from '@milagro-ts/store/kysely'
import type { FleetSchema } from './schema.js'

/** Refused callbacks that are written: whoever can reach the RPS can cause them. The rest is written as a count. */
const REFUSED_CALLBACKS = { perSecond: 1, burst: 100 }

/** `operator:<name>`, `rps`, `template:<id>`, `clock` (an expiry), or `console` (someone at the server's own machine). */
export type Actor = string

export interface AuditEntry {
  readonly actor: Actor
  readonly action: string
  readonly subject: string
  /** `done`, a decision, or the code of a refusal. */
  readonly outcome: string
}

/** Inside the transaction of what it tells, so that neither stands without the other. */
export async function audit(db: Kysely<FleetSchema>, at: number, entry: AuditEntry): Promise<void> {
  await db
    .insertInto('audit')
    .values({ at, ...entry })
    .execute()
}

/** Newest first. */
export async function auditTrail(
  db: Kysely<FleetSchema>,
  { before, limit }: { before?: number | undefined; limit: number },
): Promise<(AuditEntry & { readonly id: number; readonly at: number })[]> {
  let query = db.selectFrom('audit').selectAll().orderBy('id', 'desc').limit(limit)
  if (before !== undefined) query = query.where('id', '<', before)
  return query.execute()
}

type AnyHandlers = Record<string, (input: never) => Promise<unknown>>

/**
 * Writes what the transactions can't: refusals, which roll back, and callbacks that change nothing. What did change
 * something is written with the change.
 */
export class AuditTrail {
  readonly #store: Store<FleetSchema>
  readonly #clock: Clock
  readonly #log: Log
  readonly #refusedCallbacks: RateLimit
  #leftOut = 0

  constructor({ store, clock, log }: { store: Store<FleetSchema>; clock: Clock; log: Log }) {
    this.#store = store
    this.#clock = clock
    this.#log = log
    this.#refusedCallbacks = new RateLimit(REFUSED_CALLBACKS, clock)
  }

  around<H extends AnyHandlers, I>(
    table: Readonly<Record<string, Route>>,
    handlers: H,
    actorOf: (input: I) => Actor,
  ): H {
    const wrapped = Object.entries(handlers).map(([name, handler]) => {
      const { caller, method } = table[name] as Route
      const reads = caller === 'operator' && method === 'GET'
      const told = async (input: never) => {
        const entry = { actor: actorOf(input as I), action: name, subject: subjectOf(input) }
        try {
          const answer = await handler(input)
          if (name === 'permit' || name === 'state') await this.#write({ ...entry, outcome: 'signed' })
          return answer
        } catch (error) {
          const outcome = toRefused(error).code
          if (caller === 'server') await this.#writeRefusedCallback({ ...entry, outcome })
          else if (!reads) await this.#write({ ...entry, outcome })
          throw error
        }
      }
      return [name, told]
    })
    return Object.fromEntries(wrapped) as H
  }

  async #writeRefusedCallback(entry: AuditEntry): Promise<void> {
    try {
      this.#refusedCallbacks.take('callbacks')
    } catch {
      this.#leftOut++
      return
    }
    const leftOut = this.#leftOut
    this.#leftOut = 0
    if (leftOut > 0)
      await this.#write({ ...entry, action: 'refused', subject: `${leftOut} more`, outcome: 'left out' })
    await this.#write(entry)
  }

  /** A refusal stands even if the trail can't be written; whoever asked must hear the refusal. */
  async #write(entry: AuditEntry): Promise<void> {
    try {
      await audit(this.#store.db, Math.floor(this.#clock() / 1000), entry)
    } catch (error) {
      this.#log.error({ err: error, ...entry }, 'audit entry lost')
    }
  }
}

/** What a request names: numbers from the path, or the identity or instance that the RPS asks about; no attributes. */
function subjectOf(input: unknown): string {
  const { params, body } = input as {
    params?: Readonly<Record<string, string>>
    body?: { readonly idCore?: unknown; readonly instance?: unknown }
  }
  const named = Object.entries(params ?? {}).map(([name, value]) => `${name} ${value}`)
  if (typeof body?.idCore === 'string') named.push(`identity ${body.idCore}`)
  else if (typeof body?.instance === 'string') named.push(`instance ${JSON.stringify(body.instance)}`)
  return named.join(', ')
}
