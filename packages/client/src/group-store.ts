/**
 * The group document on a device: fetched from an RPS that is not trusted for it, checked from the pinned groupId on,
 * and followed forward only.
 */
import type { Client } from '@milagro-ts/api/call'
import { documentHash, Group } from '@milagro-ts/api/group'
import type { GroupDocument } from '@milagro-ts/api/group-document'
import { Refused } from '@milagro-ts/api/problem'
import type { rpsRoutes } from '@milagro-ts/api/rps-routes'
import { equalBytes } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { ClientError } from './errors.js'
import { repeatSafely, type Wait } from './repeat.js'

/** Where revisions come from. */
export interface GroupSource {
  readonly rps: Pick<Client<typeof rpsRoutes>, 'group'>
  readonly wait: Wait
}

/** Revisions that may have come since the last look; more is an RPS that plays for time. */
const MOST_REVISIONS = 1024

/** The pinned group, from its first revision to the one in force. WRONG_GROUP if it doesn't hold. */
export async function fetchGroup(source: GroupSource, groupId: Uint8Array): Promise<Group> {
  const first = await revision(source, 1)
  return followGroup(source, await held(() => Group.verifyChain([first], groupId)))
}

/** The same group with the revisions that have come since. WRONG_GROUP when an older or another one is offered. */
export async function followGroup(source: GroupSource, known: Group): Promise<Group> {
  const newest = await revision(source)
  // Nearly always, and it saves the pairings.
  if (equalBytes(documentHash(newest), documentHash(known.document))) return known
  if (newest.revision < known.revision)
    throw new ClientError('WRONG_GROUP', `revision ${newest.revision} is offered after ${known.revision}`)
  if (newest.revision - known.revision > MOST_REVISIONS)
    throw new ClientError('WRONG_GROUP', 'too many revisions at once')
  let group = known
  for (let number = known.revision + 1; number < newest.revision; number++) {
    const next = await revision(source, number)
    group = await held(() => group.verifyNext(next))
  }
  return held(() => group.verifyNext(newest))
}

/** Checked again from what the token store kept. */
export function storedGroup(revisions: readonly GroupDocument[], groupId: Uint8Array): Promise<Group> {
  return held(() => Group.verifyChain(revisions, groupId))
}

function revision({ rps, wait }: GroupSource, number?: number): Promise<GroupDocument> {
  const query = number === undefined ? {} : { revision: String(number) }
  return repeatSafely(wait, () => rps.group({ query }))
}

async function held(check: () => Promise<Group>): Promise<Group> {
  try {
    return await check()
  } catch (error) {
    if (!(error instanceof Refused || error instanceof DecodeError)) throw error
    throw new ClientError('WRONG_GROUP', `the group document does not hold (${error.message})`, {
      cause: error,
    })
  }
}
