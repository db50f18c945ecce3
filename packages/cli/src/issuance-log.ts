/** An authority's issuance log, read from its beginning and checked link by link. */
import type { Client } from '@milagro-ts/api/call'
import type { dtaRoutes } from '@milagro-ts/api/dta-routes'
import { fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import { entryHash, type IssuanceEntry } from '@milagro-ts/dta/issuance-log'

export interface CheckedLog {
  readonly entries: readonly IssuanceEntry[]
  /** Number of the first entry that doesn't fit what is before it. */
  readonly brokenAt: number | undefined
}

/** @param groupId base64url */
export async function checkIssuanceLog(
  client: Pick<Client<typeof dtaRoutes>, 'log'>,
  groupId: string,
): Promise<CheckedLog> {
  const group = fromBase64Url(groupId, 'groupId', 32)
  const entries: IssuanceEntry[] = []
  let previous = groupId
  for (;;) {
    const page = await client.log({ params: { groupId }, query: { from: String(entries.length + 1) } })
    if (page.entries.length === 0) return { entries, brokenAt: undefined }
    for (const entry of page.entries) {
      const number = entries.length + 1
      if (entry.number !== number || entry.previous !== previous) return { entries, brokenAt: number }
      entries.push(entry)
      previous = toBase64Url(entryHash(group, entry))
    }
  }
}
