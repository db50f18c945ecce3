/**
 * Revoked devices whose keys have ended (api/ended-keys.ts) are left out of what the RA signs. One number of a state has
 * one set: so what has ended is noted here, and is left out from the number of the next event on, in its transaction
 * (events.ts).
 */
import { keysEndedBefore } from '@milagro-ts/api/ended-keys'
import type { Group } from '@milagro-ts/api/group'
import { slotAt, slotStart } from '@milagro-ts/crypto/time-permit'
import type { Store } from '@milagro-ts/store/database'
import type { FleetSchema } from './schema.js'

/** Seconds by which an authority's clock may be behind: it refuses a state that leaves somebody out too early. */
const BEHIND = 60

/**
 * Notes it for the next event; true when it is later than before. A key epoch has ended once its last slot's logins are
 * refused too, after `grace`.
 * @param now Unix seconds.
 */
export async function noteEndedKeys(store: Store<FleetSchema>, group: Group, now: number): Promise<boolean> {
  const { slotRule, policy } = group
  const slot = slotAt(slotRule, Math.max(slotRule.origin, now - policy.grace - BEHIND))
  const endedBefore = keysEndedBefore(group, slot)
  if (endedBefore === 0) return false
  const before = slotStart(slotRule, endedBefore)
  const changed = await store.atomic(connection =>
    connection.run("UPDATE counter SET value = ? WHERE name = 'keys ended before' AND value < ?", [
      before,
      before,
    ]),
  )
  return changed > 0
}
