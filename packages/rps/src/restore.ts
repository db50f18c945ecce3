/**
 * What a database from a backup no longer knows: which messages, nonces and authOTTs were used since, which PINs were
 * guessed at, who was banned. So before a server runs on it:
 *
 *   replay record      T0 is now: one-pass messages of before are refused
 *   nonces, authOTTs   gone: unknown is refused as used
 *   strikes            each known account counts as locked until an operator unlocks it
 *   revocation         no state: everything is RETRY_LATER until the RPA has given one
 *   PIN generations    the RPA is asked before our record is believed
 */
import { IdCore } from '@milagro-ts/crypto/identity'
import type { Store } from '@milagro-ts/store/database'
import { CONSECUTIVE_LIMIT, strikeAccount } from './verification.js'

/** @param now Unix milliseconds. An account that the backup has never heard of starts without strikes. */
export async function distrustRestored(store: Store<unknown>, now: number): Promise<void> {
  await store.atomic(connection => {
    connection.run('UPDATE replay_record SET since = max(since, ?)', [now])
    connection.run("DELETE FROM single_use WHERE kind NOT IN ('one-pass', 'request')", [])
    connection.run('UPDATE strike SET consecutive = max(consecutive, ?)', [CONSECUTIVE_LIMIT])
    const accounts = connection.all('SELECT id_core, user_core, issued, accepted FROM account')
    for (const { id_core, user_core, issued, accepted } of accounts)
      for (let pinGen = Math.max(1, Number(accepted)); pinGen <= Number(issued); pinGen++)
        connection.run(
          'INSERT INTO strike (account, consecutive, cumulative) VALUES (?, ?, 0) ON CONFLICT DO NOTHING',
          [
            strikeAccount(IdCore.decode(id_core as Uint8Array), user_core as Uint8Array, pinGen),
            CONSECUTIVE_LIMIT,
          ],
        )
    connection.run('UPDATE account SET asked_slot = -1', [])
    for (const table of ['revocation', 'denied', 'event']) connection.run(`DELETE FROM ${table}`, [])
  })
}
