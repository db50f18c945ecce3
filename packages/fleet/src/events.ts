/**
 * Numbered events: what an RPS and everyone behind it must hear of. An event gets its number in the transaction of the
 * change that it tells, so numbers follow each other without gaps and none exists for a change that was rolled back.
 * Which revoked leaves are left out (ended-keys.ts) changes with a number alone.
 */
import type { IdCore } from '@milagro-ts/crypto/identity'
import type { Kysely } from '@milagro-ts/store/kysely'
import type { CounterTable, EventTable, FleetSchema } from './schema.js'

export interface Change {
  readonly kind: EventTable['kind']
  readonly idCore: IdCore
  /** Empty or absent: the device itself. */
  readonly userCore?: Uint8Array
  readonly pinGen?: number
}

/** The next number of a counter, never given out before. */
export async function nextNumber(tx: Kysely<FleetSchema>, name: CounterTable['name']): Promise<number> {
  const { value } = await tx
    .updateTable('counter')
    .set(row => ({ value: row('value', '+', 1) }))
    .where('name', '=', name)
    .returning('value')
    .executeTakeFirstOrThrow()
  return value
}

export async function recordEvent(tx: Kysely<FleetSchema>, at: number, change: Change): Promise<number> {
  const number = await nextNumber(tx, 'event')
  await tx
    .updateTable('counter')
    .set({
      value: query => query.selectFrom('counter').select('value').where('name', '=', 'keys ended before'),
    })
    .where('name', '=', 'leaves left out before')
    .execute()
  const { kind, idCore, userCore, pinGen } = change
  await tx
    .insertInto('event')
    .values({
      number,
      kind,
      id_core: idCore.bytes,
      user_core: userCore === undefined || userCore.length === 0 ? null : userCore,
      pin_gen: pinGen ?? null,
      at,
      sent_at: null,
    })
    .execute()
  return number
}

/** The number of the newest event; 0 before the first. */
export async function lastNumber(db: Kysely<FleetSchema>): Promise<number> {
  const { value } = await db
    .selectFrom('counter')
    .select('value')
    .where('name', '=', 'event')
    .executeTakeFirstOrThrow()
  return value
}
