/**
 * The authority's brake: nothing more is issued for a frozen group, or to a frozen recipient, from the answer to
 * `freeze` on. It is kept in the database and looked up there every time, so a restart doesn't thaw anything.
 */
import { Refused } from '@milagro-ts/api/problem'
import type { Connection } from '@milagro-ts/store/database'

/** Stands for the whole group in the table. */
const EVERYBODY = ''

export function freeze(connection: Connection, groupId: Uint8Array, recipient = EVERYBODY): void {
  connection.run('INSERT INTO freeze (group_id, recipient) VALUES (?, ?) ON CONFLICT DO NOTHING', [
    groupId,
    recipient,
  ])
}

export function unfreeze(connection: Connection, groupId: Uint8Array, recipient = EVERYBODY): void {
  connection.run('DELETE FROM freeze WHERE group_id = ? AND recipient = ?', [groupId, recipient])
}

/** Whether the group is frozen, or the recipient if one is named. */
export function isFrozen(connection: Connection, groupId: Uint8Array, recipient = EVERYBODY): boolean {
  return (
    connection.all('SELECT 1 FROM freeze WHERE group_id = ? AND recipient IN (?, ?)', [
      groupId,
      EVERYBODY,
      recipient,
    ]).length > 0
  )
}

export function refuseFrozen(connection: Connection, groupId: Uint8Array, recipient?: string): void {
  if (isFrozen(connection, groupId, recipient)) throw new Refused('FROZEN')
}
