/** An authority's issuance log, read from its beginning: link by link, and against the head that it has signed. */
import type { Client } from '@milagro-ts/api/call'
import type { dtaRoutes } from '@milagro-ts/api/dta-routes'
import { entryHashes, type IssuanceEntry, LogHead, type LogOwner } from '@milagro-ts/api/issuance-log'
import { Peaks } from '@milagro-ts/api/merkle-tree'
import { equalBytes, toBase64Url } from '@milagro-ts/crypto/bytes'

export interface CheckedLog {
  readonly entries: readonly IssuanceEntry[]
  readonly head: LogHead
  /** What is wrong with it. */
  readonly fault: string | undefined
}

/** Refused NOT_APPROVED for a head that isn't `owner`'s. */
export async function checkIssuanceLog(
  client: Pick<Client<typeof dtaRoutes>, 'log' | 'logHead'>,
  owner: LogOwner,
): Promise<CheckedLog> {
  const groupId = toBase64Url(owner.groupId)
  const { head: jws } = await client.logHead({ params: { groupId } })
  const head = await LogHead.verify(jws, owner)
  const entries: IssuanceEntry[] = []
  let previous = groupId
  let peaks = Peaks.empty
  const found = (fault?: string): CheckedLog => ({ entries, head, fault })
  while (entries.length < head.size) {
    const from = String(entries.length + 1)
    const page = await client.log({ params: { groupId }, query: { from } })
    if (page.entries.length === 0)
      return found(`the log ends at ${entries.length}, its head says ${head.size}`)
    // What was issued since the head was signed is for another day.
    for (const entry of page.entries.slice(0, head.size - entries.length)) {
      const number = entries.length + 1
      if (entry.number !== number || entry.previous !== previous)
        return found(`the log is broken at entry ${number}`)
      entries.push(entry)
      const { hash, leaf } = entryHashes(owner.groupId, entry)
      previous = toBase64Url(hash)
      peaks = peaks.append(leaf)
    }
  }
  return equalBytes(peaks.root, head.root) ? found() : found('the log is not the one whose head was signed')
}
