/**
 * The group document as fleet knows it: the chain of revisions from the pinned groupId on, kept in the database, so
 * that nothing that a file or an RPS says can lead back to an older one.
 */
import { type Client, createClient, Unreachable } from '@milagro-ts/api/call'
import { ConfigError } from '@milagro-ts/api/config'
import { Group, type KeyCheck } from '@milagro-ts/api/group'
import type { GroupDocument } from '@milagro-ts/api/group-document'
import { readGroupFile } from '@milagro-ts/api/group-file'
import type { Log } from '@milagro-ts/api/log'
import { Refused } from '@milagro-ts/api/problem'
import { rpsRoutes } from '@milagro-ts/api/rps-routes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import type { Store } from '@milagro-ts/store/database'
import type { FleetSchema } from './schema.js'

export interface GroupPorts {
  readonly store: Store<FleetSchema>
  readonly groupFile: string
  /** Pinned, 32 bytes. */
  readonly groupId: Uint8Array
  readonly rpsUrl: string
  readonly fetch: typeof fetch
  readonly keyCheck: KeyCheck
  readonly log: Log
}

export class GroupInForce {
  readonly #ports: GroupPorts
  readonly #rps: Pick<Client<typeof rpsRoutes>, 'group'>
  #group: Group

  private constructor(ports: GroupPorts, group: Group) {
    this.#ports = ports
    this.#rps = createClient(rpsRoutes, { baseUrl: ports.rpsUrl, fetch: ports.fetch, timeout: 5000 })
    this.#group = group
  }

  /**
   * From the database; at the very first start from the file, which then holds a first revision or an array of
   * revisions from the first on. ConfigError when it isn't the pinned group's.
   */
  static async open(ports: GroupPorts): Promise<GroupInForce> {
    const rows = await ports.store.db.selectFrom('revision').select('document').orderBy('number').execute()
    const kept = rows.map(({ document }): unknown => JSON.parse(document))
    try {
      const documents = kept.length > 0 ? kept : await readGroupFile(ports.groupFile)
      const group = await Group.verifyChain(documents, ports.groupId, ports.keyCheck)
      const opened = new GroupInForce(ports, group)
      if (kept.length === 0) for (const document of group.documents) await opened.#keep(document)
      return opened
    } catch (error) {
      if (!(error instanceof Refused) && !(error instanceof DecodeError)) throw error
      const source =
        kept.length > 0
          ? "setting 'groupId': this data folder's group document"
          : `setting 'groupFile': '${ports.groupFile}'`
      throw new ConfigError(`${source}: ${error.message}`)
    }
  }

  get current(): Group {
    return this.#group
  }

  /** Takes a next revision into force. Refused or DecodeError when it isn't one; the one in force changes nothing. */
  async adopt(document: GroupDocument): Promise<void> {
    const next = await this.#group.verifyNext(document)
    if (next === this.#group) return
    await this.#keep(next.document)
    // Another look may have got further meanwhile.
    if (next.revision > this.#group.revision) this.#group = next
  }

  /** Asks the RPS for later revisions; what can't be reached or doesn't verify leaves everything as it is. */
  async refresh(): Promise<void> {
    try {
      const { revision: newest } = await this.#rps.group({ query: {} })
      for (let revision = this.#group.revision + 1; revision <= newest; revision++) {
        await this.adopt(await this.#rps.group({ query: { revision: String(revision) } }))
        // It said a number that it has no document for.
        if (this.#group.revision < revision) return
      }
    } catch (error) {
      if (error instanceof Unreachable) return
      this.#ports.log.warn({ err: error }, 'the RPS’ group document was not taken')
    }
  }

  async #keep(document: GroupDocument): Promise<void> {
    await this.#ports.store.db
      .insertInto('revision')
      .values({ number: document.revision, document: JSON.stringify(document) })
      .onConflict(conflict => conflict.doNothing())
      .execute()
  }
}
