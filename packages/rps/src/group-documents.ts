/**
 * The chain of group documents, from the pinned groupId on. Kept in the store, so that replicas on one store follow
 * one revision; never gone back from. The RPS only serves it: whoever reads it checks it again.
 */
import { createClient, Unreachable } from '@milagro-ts/api/call'
import { ConfigError } from '@milagro-ts/api/config'
import { dtaRoutes } from '@milagro-ts/api/dta-routes'
import { documentHash, Group, type KeyCheck } from '@milagro-ts/api/group'
import type { GroupDocument } from '@milagro-ts/api/group-document'
import { readGroupFile } from '@milagro-ts/api/group-file'
import { Refused } from '@milagro-ts/api/problem'
import { equalBytes, fromBase64Url } from '@milagro-ts/crypto/bytes'
import type { Connection, Reader, Store } from '@milagro-ts/store/database'
import type { RpsConfig } from './config.js'

/** More is an authority that plays for time. */
const MOST_REVISIONS = 1024

export class GroupDocuments {
  readonly #store: Store<unknown>
  #group: Group

  private constructor(store: Store<unknown>, group: Group) {
    this.#store = store
    this.#group = group
  }

  /** ConfigError when there is no document, or none of the pinned group; Unreachable. */
  static async open({
    config,
    store,
    fetch,
    keyCheck,
  }: {
    config: RpsConfig
    store: Store<unknown>
    fetch: typeof globalThis.fetch
    keyCheck: KeyCheck
  }): Promise<GroupDocuments> {
    const pinned = fromBase64Url(config.groupId, 'groupId', 32)
    const stored = await store.atomic(connection => revisionsAfter(connection, 0))
    const documents = stored.length > 0 ? stored : await firstDocuments(config, fetch)
    const group = await Group.verifyChain(documents, pinned, keyCheck).catch((error: unknown) => {
      throw new ConfigError(`${sourceOf(config, stored.length > 0)}: ${(error as Error).message}`)
    })
    await store.atomic(connection => {
      for (const document of group.documents) keep(connection, document)
    })
    return new GroupDocuments(store, group)
  }

  /** As of the last look into the store. */
  get latest(): Group {
    return this.#group
  }

  /** The group in force, whichever replica took its newest revision in. */
  async current(): Promise<Group> {
    const newer = await this.#store.read(reader => revisionsAfter(reader, this.#group.revision))
    let group = this.#group
    for (const document of newer) group = await group.verifyNext(document)
    if (group.revision > this.#group.revision) this.#group = group
    return this.#group
  }

  /** Refused NOT_FOUND for a revision that isn't there. */
  async document(revision?: string): Promise<GroupDocument> {
    const group = await this.current()
    if (revision === undefined) return group.document
    const document = group.documents[Number(revision) - 1]
    if (document === undefined) throw new Refused('NOT_FOUND', { detail: 'no such revision' })
    return document
  }

  /**
   * Takes the next revision in. Anyone may bring it: it proves itself by t signatures of the former one's authorities.
   * The one in force again changes nothing. DecodeError, Refused CONFLICT or NOT_APPROVED. True if it is new.
   */
  async publish(document: GroupDocument): Promise<boolean> {
    const before = await this.current()
    // Anyone may call: what can't be the next one is answered before any point of it is decoded.
    const isKnown = equalBytes(documentHash(document), documentHash(before.document))
    if (isKnown) return false
    if (document.revision !== before.revision + 1)
      throw new Refused('CONFLICT', { detail: `revision ${before.revision} is in force` })
    const next = await before.verifyNext(document)
    await this.#store.atomic(connection => {
      if (!keep(connection, next.document))
        throw new Refused('CONFLICT', { detail: 'another revision came first' })
    })
    this.#group = next
    return true
  }
}

/** What a document that isn't the pinned group's is the fault of. */
function sourceOf({ groupFile }: RpsConfig, isKept: boolean): string {
  if (isKept) return "setting 'groupId': this data folder's group document"
  return groupFile === undefined ? "setting 'groupUrl'" : `setting 'groupFile': '${groupFile}'`
}

function revisionsAfter(reader: Reader, number: number): unknown[] {
  return reader
    .all('SELECT document FROM group_revision WHERE number > ? ORDER BY number', [number])
    .map(row => JSON.parse(row.document as string) as unknown)
}

/** False when a revision of this number is there already. */
function keep(connection: Connection, document: GroupDocument): boolean {
  const statement = 'INSERT INTO group_revision (number, document) VALUES (?, ?) ON CONFLICT DO NOTHING'
  return connection.run(statement, [document.revision, JSON.stringify(document)]) === 1
}

async function firstDocuments(
  { groupFile, groupUrl, groupId }: RpsConfig,
  fetch: typeof globalThis.fetch,
): Promise<readonly unknown[]> {
  if (groupFile !== undefined) return readGroupFile(groupFile)
  if (groupUrl === undefined)
    throw new ConfigError(`set 'groupFile' or 'groupUrl': there is no group document yet`)
  const authority = createClient(dtaRoutes, { baseUrl: groupUrl, fetch })
  const revision = (query: { revision?: string }) =>
    authority.group({ params: { groupId }, query }).catch((error: unknown) => {
      const why = `setting 'groupUrl': ${(error as Error).message}`
      throw error instanceof Unreachable ? new Unreachable(why, { cause: error }) : new ConfigError(why)
    })
  const newest = await revision({})
  if (newest.revision > MOST_REVISIONS)
    throw new ConfigError(`setting 'groupUrl': ${newest.revision} revisions are more than a group has`)
  const documents: GroupDocument[] = []
  for (let number = 1; number < newest.revision; number++)
    documents.push(await revision({ revision: String(number) }))
  return [...documents, newest]
}
