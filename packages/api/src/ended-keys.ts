/**
 * When the keys of a revoked device have ended. Until then it stays in what the RA signs of the revoked; after that it
 * would only make states longer and covers larger.
 *
 *   purpose         the last key epoch of which a device that was revoked in key epoch e can have a key
 *   agree, sign     e        they come with a ticket, of the key epoch in force
 *   device          e + 1    the step to the next key epoch may have been fetched ahead
 *
 * Past these, nobody signs or proves anything by such a key, and it leads to no later one: the RA knows the identity as
 * revoked for ever, so there is neither a ticket nor a permit statement for it, and without that no authority gives a
 * delta.
 */
import type { Purpose } from '@milagro-ts/crypto/suite'
import type { Group } from './group.js'

/** Key epochs after that of the revocation of which a revoked device may have the key. */
const FURTHER = { device: 1, agree: 0, sign: 0 } as const satisfies Partial<Record<Purpose, number>>
type Ending = keyof typeof FURTHER
const ENDING = Object.keys(FURTHER) as Ending[]

/** A slot: whoever was revoked in an earlier one has keys of ended key epochs only, in `slot` and later. 0: nobody has. */
export function keysEndedBefore(group: Pick<Group, 'epochAt' | 'documents'>, slot: number): number {
  const slots = ENDING.map(purpose => {
    const epoch = group.epochAt(purpose, slot)
    if (epoch === null) return 0
    const begun = group.documents
      .map(({ purposes }) => purposes[purpose])
      .find(keys => keys.epoch === epoch - FURTHER[purpose])
    return begun?.firstSlot ?? 0
  })
  return Math.min(...slots)
}
