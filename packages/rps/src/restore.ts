/**
 * What a database from a backup no longer knows, and a new one in a used folder never knew: which messages, nonces and
 * authOTTs were used since, which PINs were guessed at, who was banned. So before a server runs on it:
 *
 *   replay record      T0 is now: one-pass messages of before are refused
 *   nonces, authOTTs   gone: unknown is refused as used
 *   strikes            each account counts as locked until an operator unlocks it: those in the backup at once, the
 *                      others when the RPA first speaks of them; a PIN whose ticket is made from now on starts afresh
 *   revocation         no state: everything is RETRY_LATER until the RPA has given one
 *   PIN generations    the RPA is asked before our record is believed
 */
import { IdCore } from '@milagro-ts/crypto/identity'
import type { Connection, Store } from '@milagro-ts/store/database'
import { CONSECUTIVE_LIMIT, strikeAccount } from './verification.js'

/** @param now Unix milliseconds. */
export async function distrustRestored(store: Store<unknown>, now: number): Promise<void> {
  await store.atomic(connection => {
    connection.run('UPDATE replay_record SET since = max(since, ?)', [now])
    connection.run("DELETE FROM single_use WHERE kind NOT IN ('one-pass', 'request')", [])
    connection.run('UPDATE strike SET consecutive = max(consecutive, ?)', [CONSECUTIVE_LIMIT])
    mark(connection, now)
    const accounts = connection.all('SELECT id_core, user_core, issued, accepted FROM account')
    for (const { id_core, user_core, issued, accepted } of accounts)
      lockForgotten(connection, IdCore.decode(id_core as Uint8Array), user_core as Uint8Array, {
        issued: Number(issued),
        accepted: Number(accepted),
      })
    connection.run('UPDATE account SET asked_slot = -1', [])
    for (const table of ['revocation', 'denied', 'event']) connection.run(`DELETE FROM ${table}`, [])
  })
}

/** For a new database where the former one is lost for good. @param now Unix milliseconds. */
export async function beginAnew(store: Store<unknown>, now: number): Promise<void> {
  await store.atomic(connection => {
    connection.run('INSERT INTO replay_record (id, since) VALUES (1, ?)', [now])
    mark(connection, now)
  })
}

/** The RPA speaks of an account whose guesses this database may have forgotten: locked, unless it knows of them. */
export function lockForgotten(
  connection: Connection,
  idCore: IdCore,
  userCore: Uint8Array,
  { issued, accepted }: { readonly issued: number; readonly accepted: number },
): void {
  for (let pinGen = Math.max(1, accepted); pinGen <= issued; pinGen++)
    beginStrikes(connection, strikeAccount(idCore, userCore, pinGen), CONSECUTIVE_LIMIT)
}

/** A ticket for this generation was made now: nobody can have guessed at it. */
export function trustNew(connection: Connection, idCore: IdCore, userCore: Uint8Array, pinGen: number): void {
  beginStrikes(connection, strikeAccount(idCore, userCore, pinGen), 0)
}

function mark(connection: Connection, now: number): void {
  const statement =
    'INSERT INTO distrust (id, since) VALUES (1, ?) ON CONFLICT DO UPDATE SET since = excluded.since'
  connection.run(statement, [now])
}

/** In a database that was never distrusted a counter begins with its first guess. */
function beginStrikes(connection: Connection, account: string, consecutive: number): void {
  connection.run(
    'INSERT INTO strike (account, consecutive, cumulative) SELECT ?, ?, 0 FROM distrust WHERE id = 1 ' +
      'ON CONFLICT DO NOTHING',
    [account, consecutive],
  )
}
