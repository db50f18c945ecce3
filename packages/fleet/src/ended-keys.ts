/**
 * Revoked leaves stay among the banned ones as long as a key that they may have is worth something; after that they would
 * only make the cover larger.
 *
 *   purpose         the last key epoch of which a device that was revoked in key epoch e can have a key
 *   agree, sign     e        they come with a ticket, of the key epoch in force
 *   device          e + 1    the step to the next key epoch may have been fetched ahead
 *
 * Past these, nobody signs or proves anything by such a key, and it leads to no later one: the register knows the
 * identity as revoked for ever, so there is neither a ticket nor a permit statement for it, and without that no authority
 * gives a delta.
 *
 * One number of a state has one set of leaves. So what has ended is noted here, and is left out from the number of the
 * next event on, in its transaction (events.ts).
 */
import type { Group } from '@milagro-ts/api/group'
import type { Purpose } from '@milagro-ts/crypto/suite'
import { slotStart } from '@milagro-ts/crypto/time-permit'
import type { Store } from '@milagro-ts/store/database'
import type { FleetSchema } from './schema.js'

/** Key epochs after that of the revocation of which a revoked device may have the key. */
const FURTHER = { device: 1, agree: 0, sign: 0 } as const satisfies Partial<Record<Purpose, number>>

/** Unix seconds: whoever was revoked before has keys of ended key epochs only, in `slot` and later. 0 where nobody has. */
export function keysEndedBefore(
  group: Pick<Group, 'epochAt' | 'documents' | 'slotRule'>,
  slot: number,
): number {
  const times = Object.entries(FURTHER).map(([name, further]) => {
    const purpose = name as keyof typeof FURTHER
    const epoch = group.epochAt(purpose, slot)
    if (epoch === null) return 0
    const begun = group.documents
      .map(({ purposes }) => purposes[purpose])
      .find(keys => keys.epoch === epoch - further)
    return begun === undefined ? 0 : slotStart(group.slotRule, begun.firstSlot)
  })
  return Math.min(...times)
}

/** Notes it for the next event; true when it is later than before. */
export async function noteEndedKeys(store: Store<FleetSchema>, group: Group, slot: number): Promise<boolean> {
  const before = keysEndedBefore(group, slot)
  const changed = await store.atomic(connection =>
    connection.run("UPDATE counter SET value = ? WHERE name = 'keys ended before' AND value < ?", [
      before,
      before,
    ]),
  )
  return changed > 0
}
