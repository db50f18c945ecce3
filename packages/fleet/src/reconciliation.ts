/**
 * Every authority publishes what it issued, as hashes in a chain. Here each entry is looked up among the identities
 * of this register: a key that none of them asked for was issued on a ticket that this RA has no record of. The head
 * of each chain is remembered, so that an authority can't tell another history later.
 *
 *   hash(entry) = SHA-256(TLV{1 groupId, 2 be32 number, 3 be64 at, 4 purpose, 5 ticketHash, 6 idCoreHash, 7 previous})
 *   previous    = hash of the entry before; groupId for entry 1
 */
import { createClient, Unreachable } from '@milagro-ts/api/call'
import { dtaRoutes } from '@milagro-ts/api/dta-routes'
import type { GroupAuthority } from '@milagro-ts/api/group'
import { Refused } from '@milagro-ts/api/problem'
import type { Answer } from '@milagro-ts/api/route'
import { be32, be64, equalBytes, fromBase64Url, toBase64Url, utf8 } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { sha256 } from '@milagro-ts/crypto/sha256'
import { encodeTlv } from '@milagro-ts/crypto/tlv'
import type { Store } from '@milagro-ts/store/database'
import type { GroupInForce } from './group-in-force.js'
import type { FleetSchema } from './schema.js'

type Entry = Answer<(typeof dtaRoutes)['log']>['entries'][number]

/** Entries read from one authority at most. */
const MOST = 1_000_000
/** Unknown keys that are listed of one authority. */
const LISTED = 1000

export interface ReconciliationPorts {
  readonly store: Store<FleetSchema>
  readonly group: GroupInForce
  readonly fetch: typeof fetch
}

export interface AuthorityFindings {
  readonly index: number
  readonly name: string
  /** Entries read. */
  readonly entries: number
  /** The chain holds, and what was read at an earlier time still stands in it. */
  readonly intact: boolean
  readonly trouble?: string
  readonly unknown: Pick<Entry, 'number' | 'at' | 'purpose' | 'idCoreHash'>[]
}

export class Reconciliation {
  readonly #ports: ReconciliationPorts

  constructor(ports: ReconciliationPorts) {
    this.#ports = ports
  }

  async run(): Promise<{ authorities: AuthorityFindings[] }> {
    const { store, group } = this.#ports
    const rows = await store.db.selectFrom('identity').select('id_core').execute()
    const known = new Set(rows.map(({ id_core }) => toBase64Url(sha256(id_core))))
    const authorities = await Promise.all(
      group.current.authorities.map(authority => this.#read(authority, known)),
    )
    return { authorities }
  }

  async #read({ index, name, url }: GroupAuthority, known: ReadonlySet<string>): Promise<AuthorityFindings> {
    const { groupId } = this.#ports.group.current
    const client = createClient(dtaRoutes, { baseUrl: url, fetch: this.#ports.fetch })
    const remembered = await this.#remembered(index)
    const unknown: AuthorityFindings['unknown'] = []
    let [entries, head] = [0, groupId]
    let trouble: string | undefined
    try {
      while (entries < MOST && trouble === undefined) {
        const page = await client.log({
          params: { groupId: toBase64Url(groupId) },
          query: { from: String(entries + 1) },
        })
        if (page.entries.length === 0) break
        for (const entry of page.entries) {
          trouble = breakOf(entry, entries + 1, head)
          if (trouble !== undefined) break
          head = entryHash(groupId, entry)
          entries++
          const { number, at, purpose, idCoreHash } = entry
          if (!known.has(idCoreHash) && unknown.length < LISTED)
            unknown.push({ number, at, purpose, idCoreHash })
          if (entries === remembered?.number && !equalBytes(head, remembered.hash)) {
            trouble = `entry ${entries} is not the one that stood there before`
            break
          }
        }
      }
      if (trouble === undefined && remembered !== undefined && entries < remembered.number)
        trouble = `the log ends at ${entries}; it had ${remembered.number} entries`
      if (trouble === undefined && entries > 0) await this.#remember(index, entries, head)
      return {
        index,
        name,
        entries,
        intact: trouble === undefined,
        ...(trouble === undefined ? {} : { trouble }),
        unknown,
      }
    } catch (error) {
      if (!(error instanceof Unreachable) && !(error instanceof Refused) && !(error instanceof DecodeError))
        throw error
      return { index, name, entries, intact: false, trouble: error.message, unknown }
    }
  }

  #remembered(authority: number): Promise<{ number: number; hash: Uint8Array } | undefined> {
    return this.#ports.store.db
      .selectFrom('log_head')
      .select(['number', 'hash'])
      .where('authority', '=', authority)
      .executeTakeFirst()
  }

  async #remember(authority: number, number: number, hash: Uint8Array): Promise<void> {
    await this.#ports.store.db
      .insertInto('log_head')
      .values({ authority, number, hash })
      .onConflict(conflict => conflict.column('authority').doUpdateSet({ number, hash }))
      .execute()
  }
}

function breakOf(entry: Entry, number: number, head: Uint8Array): string | undefined {
  if (entry.number !== number) return `entry ${number} is missing`
  if (!equalBytes(fromBase64Url(entry.previous, 'previous', 32), head))
    return `the chain breaks at entry ${number}`
  return undefined
}

function entryHash(groupId: Uint8Array, entry: Entry): Uint8Array {
  return sha256(
    encodeTlv([
      groupId,
      be32(entry.number),
      be64(entry.at),
      utf8(entry.purpose),
      fromBase64Url(entry.ticketHash, 'ticketHash', 32),
      fromBase64Url(entry.idCoreHash, 'idCoreHash', 32),
      fromBase64Url(entry.previous, 'previous', 32),
    ]),
  )
}
