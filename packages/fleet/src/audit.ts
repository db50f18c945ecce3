/**
 * Who did what to what, and what came of it: every operator's action and every callback. Rows name things by number
 * (`vehicle 12`, `driver 3`), so that the trail holds no secret and no driver's name.
 */
import type { Kysely } from 'kysely'
import type { FleetSchema } from './schema.js'

/** `operator:<name>`, `rps`, `clock` (an expiry), or `console` (someone at the server's own machine). */
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
