/** The groups that this authority serves: the document in force, its own index in it, its shares of the secrets. */
import { Group, type KeyCheck } from '@milagro-ts/api/group'
import type { GroupDocument } from '@milagro-ts/api/group-document'
import type { Es256PublicKey } from '@milagro-ts/api/keys'
import { Refused } from '@milagro-ts/api/problem'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import type { Clock } from '@milagro-ts/crypto/ports'
import { PURPOSES } from '@milagro-ts/crypto/suite'
import type { Connection, Store } from '@milagro-ts/store/database'
import { StoreError } from '@milagro-ts/store/store-error'
import { departures } from './departure.js'
import type { MasterShares } from './master-shares.js'
import type { ShareVault } from './share-vault.js'

export interface ServedGroup {
  readonly group: Group
  /** j: this authority's index. */
  readonly index: number
  readonly shares: MasterShares
}

export class Groups {
  /** By groupId in base64url. */
  readonly #served = new Map<string, ServedGroup>()
  readonly #clock: Clock
  /** Departures, unix seconds. */
  readonly #leaving: Map<string, number>

  private constructor(clock: Clock, leaving: ReadonlyMap<string, number>) {
    this.#clock = clock
    this.#leaving = new Map(leaving)
  }

  /**
   * Opens and checks everything that is served. StoreError `damaged`: a wrong passphrase, a chain of documents that
   * doesn't verify, shares that aren't those of the document.
   */
  static async load({
    store,
    vault,
    signKey,
    check,
    clock,
  }: {
    store: Store<unknown>
    vault: ShareVault
    signKey: Es256PublicKey
    check: KeyCheck
    clock: Clock
  }): Promise<Groups> {
    const rows = await store.atomic(connection =>
      connection.all('SELECT group_id, proposal_hash, sealed FROM served_group').map(row => ({
        groupId: row.group_id as Uint8Array,
        proposalHash: row.proposal_hash as Uint8Array,
        sealed: row.sealed as Uint8Array,
        documents: documentsOf(connection, row.group_id as Uint8Array),
      })),
    )
    const groups = new Groups(clock, await store.atomic(departures))
    for (const { groupId, proposalHash, sealed, documents } of rows) {
      // Left in a reshare: its share is destroyed, its ledger and log stay.
      if (sealed.length === 0) continue
      const group = await readChain(documents, groupId, check)
      const shares = await vault.open(sealed, { groupId, origin: proposalHash })
      groups.serve(group, shares, signKey)
      if (!vault.isOutdated(sealed)) continue
      const anew = await vault.keep(shares, { groupId, origin: proposalHash })
      await store.atomic(connection =>
        connection.run('UPDATE served_group SET sealed = ? WHERE group_id = ? AND sealed = ?', [
          anew,
          groupId,
          sealed,
        ]),
      )
      await vault.shred()
    }
    return groups
  }

  /** From here on the group is served. StoreError when key or shares aren't those in its document. */
  serve(group: Group, shares: MasterShares, signKey: Es256PublicKey): void {
    const index = this.check(group, shares, signKey)
    const name = toBase64Url(group.groupId)
    // Back again after it had left.
    if (this.#isOver(name)) this.#leaving.delete(name)
    this.#served.set(name, { group, index, shares })
  }

  /** What `serve` checks; j. */
  check(group: Group, shares: MasterShares, signKey: Es256PublicKey): number {
    const index = group.authorities.find(authority => authority.signKey.equals(signKey))?.index
    const name = toBase64Url(group.groupId)
    if (index === undefined)
      throw new StoreError('foreign', `this authority's signing key is not in group ${name}`)
    for (const purpose of PURPOSES)
      for (const { epoch, commitments } of group.epochs(purpose)) {
        const own = shares.commitment(purpose, epoch)
        if (own === undefined || commitments[index - 1]?.equals(own) !== true)
          throw new StoreError(
            'damaged',
            `the ${purpose} share of group ${name}, key epoch ${epoch}, is not the one in its document`,
          )
      }
    return index
  }

  /** The same group with a revision more. */
  replace(group: Group): void {
    const served = this.find(toBase64Url(group.groupId))
    this.#served.set(toBase64Url(group.groupId), { ...served, group })
  }

  /** Handed on to others: nothing more is issued here. */
  leave(groupId: string): void {
    this.#served.delete(groupId)
  }

  /** A departure, unix seconds; undefined takes it back. */
  leaves(groupId: string, at: number | undefined): void {
    if (at === undefined) this.#leaving.delete(groupId)
    else this.#leaving.set(groupId, at)
  }
  leavesAt(groupId: string): number | undefined {
    return this.#leaving.get(groupId)
  }
  #isOver(groupId: string): boolean {
    return (this.#leaving.get(groupId) ?? Number.POSITIVE_INFINITY) * 1000 <= this.#clock()
  }

  /** Refused('NOT_FOUND') for a group that isn't served here, or not any more. */
  find(groupId: string): ServedGroup {
    const served = this.#isOver(groupId) ? undefined : this.#served.get(groupId)
    if (served === undefined) throw unknownGroup()
    return served
  }

  get all(): readonly ServedGroup[] {
    return [...this.#served].flatMap(([name, served]) => (this.#isOver(name) ? [] : [served]))
  }
}

export const unknownGroup = () => new Refused('NOT_FOUND', { detail: 'this authority serves no such group' })

/** The groups in the database, by groupId in base64url; nothing of them is opened. */
export async function servedIds(store: Store<unknown>): Promise<ReadonlySet<string>> {
  const rows = await store.atomic(connection => connection.all('SELECT group_id FROM served_group'))
  return new Set(rows.map(row => toBase64Url(row.group_id as Uint8Array)))
}

function documentsOf(connection: Connection, groupId: Uint8Array): GroupDocument[] {
  return connection
    .all('SELECT document FROM revision WHERE group_id = ? ORDER BY number', [groupId])
    .map(row => JSON.parse(row.document as string) as GroupDocument)
}

async function readChain(
  documents: readonly GroupDocument[],
  groupId: Uint8Array,
  check: KeyCheck,
): Promise<Group> {
  try {
    return await Group.verifyChain(documents, groupId, check)
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : 'unreadable'
    throw new StoreError('damaged', `the documents of group ${toBase64Url(groupId)} do not verify (${why})`, {
      cause,
    })
  }
}
