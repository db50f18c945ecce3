/**
 * How an authority leaves a group of its own accord: it announces its departure, at least a day ahead, goes on serving until
 * then, and afterwards serves nothing of the group and has destroyed its shares. The departure stands in the signed head of its
 * log (`leavesAt`), where RPS, fleet and the other members see it; until its time it can be taken back. The others
 * reshare without it, or are one fewer: in a group that needs all its members, nobody gets a key any more.
 *
 *   dta leave --group … --after T        dta stay --group …
 *   serving ──────> leaving ──────────────────> serving
 *                      │ the clock reaches T
 *                      v
 *                    left: shares overwritten, ledger and log kept, nothing of it served
 */
import { Refused } from '@milagro-ts/api/problem'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import type { Connection } from '@milagro-ts/store/database'
import type { Authority } from './authority.js'
import { endLeft } from './ended-ceremonies.js'

/** Seconds from its announcement to a departure at least: RPS and fleet have to see it, and people to act. */
const LEAST_AHEAD = 86_400

/** From here on everybody is told. Refused CONFLICT for one that is too near. */
export async function announceDeparture(
  { store, groups, clock, log }: Authority,
  groupId: string,
  leavesAt: number,
): Promise<void> {
  const { group } = groups.find(groupId)
  const now = Math.floor(clock() / 1000)
  if (leavesAt < now + LEAST_AHEAD)
    throw new Refused('CONFLICT', { detail: 'a departure is a day ahead at least' })
  await store.atomic(connection =>
    connection.run(
      'INSERT INTO departure (group_id, announced_at, leaves_at) VALUES (?, ?, ?) ON CONFLICT (group_id) DO UPDATE ' +
        'SET announced_at = excluded.announced_at, leaves_at = excluded.leaves_at',
      [group.groupId, now, leavesAt],
    ),
  )
  groups.leaves(groupId, leavesAt)
  log.warn({ groupId, leavesAt }, 'operator: departure announced')
}

/** Before its time. Refused CONFLICT where none is announced. */
export async function takeBackDeparture({ store, groups, log }: Authority, groupId: string): Promise<void> {
  const { group } = groups.find(groupId)
  const gone = await store.atomic(connection =>
    connection.run('DELETE FROM departure WHERE group_id = ?', [group.groupId]),
  )
  if (gone === 0) throw new Refused('CONFLICT', { detail: 'no departure from this group is announced' })
  groups.leaves(groupId, undefined)
  log.warn({ groupId }, 'operator: departure taken back')
}

/** By groupId, unix seconds. */
export function departures(connection: Connection): ReadonlyMap<string, number> {
  return new Map(
    connection
      .all('SELECT group_id, leaves_at FROM departure')
      .map(row => [toBase64Url(row.group_id as Uint8Array), Number(row.leaves_at)]),
  )
}

/**
 * Destroys the shares of every group whose departure has come, and what ceremonies that began before have left; their
 * groupIds. To be called before groups are opened, and every minute.
 */
export async function leaveWhatIsOver(
  ports: Pick<Authority, 'store' | 'vault' | 'records' | 'clock' | 'random'>,
): Promise<readonly string[]> {
  const { store, vault, clock } = ports
  const left = await store.atomic(connection => {
    const over = connection
      .all(
        'SELECT d.group_id, d.leaves_at FROM departure d JOIN served_group g ON g.group_id = d.group_id ' +
          'WHERE d.leaves_at <= ? AND length(g.sealed) > 0',
        [Math.floor(clock() / 1000)],
      )
      .map(row => ({ groupId: row.group_id as Uint8Array, leftAt: Number(row.leaves_at) * 1000 }))
    for (const { groupId, leftAt } of over) {
      connection.run("UPDATE served_group SET sealed = x'' WHERE group_id = ?", [groupId])
      vault.destroy(connection, groupId)
      endLeft(connection, ports, { groupId, leftAt })
    }
    return over.map(({ groupId }) => toBase64Url(groupId))
  })
  if (left.length > 0) await vault.shred()
  return left
}

/** One that has come, when a ceremony makes the authority a member again. */
export function forgetDeparture(connection: Connection, groupId: Uint8Array, now: number): void {
  connection.run('DELETE FROM departure WHERE group_id = ? AND leaves_at <= ?', [
    groupId,
    Math.floor(now / 1000),
  ])
}
