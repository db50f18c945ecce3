/**
 * What the operator has said yes or no to, by hash; and what waits for a word. The last word counts. Nothing is signed, and no secret is made, for
 * a proposal or revision whose hash isn't accepted.
 *
 * What waits is for the status page only. Anybody can propose, so it lives in memory and the oldest makes room.
 */
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import type { Connection, Store } from '@milagro-ts/store/database'

const WAITING = 32

export interface WaitingRevision {
  readonly groupId: string
  readonly number: number
  readonly documentHash: string
  /** What it changes, in words. */
  readonly changes: string[]
}

export class Acceptance {
  readonly #store: Store<unknown>
  readonly #proposals = new Set<string>()
  readonly #revisions = new Map<string, WaitingRevision>()

  constructor(store: Store<unknown>) {
    this.#store = store
  }

  /** The operator's yes to a hash, whether what it belongs to has been seen already or not. */
  async accept(hash: Uint8Array, now: number): Promise<void> {
    await this.#store.atomic(connection => {
      connection.run('DELETE FROM rejected WHERE hash = ?', [hash])
      connection.run('INSERT INTO accepted (hash, at) VALUES (?, ?) ON CONFLICT DO NOTHING', [hash, now])
    })
  }

  /** The operator's no, in the transaction that ends what was begun. */
  reject(connection: Connection, hash: Uint8Array, reason: string, now: number): void {
    connection.run('DELETE FROM accepted WHERE hash = ?', [hash])
    connection.run(
      'INSERT INTO rejected (hash, reason, at) VALUES (?, ?, ?) ' +
        'ON CONFLICT (hash) DO UPDATE SET reason = excluded.reason, at = excluded.at',
      [hash, reason, now],
    )
  }

  /** Why the operator has said no; null where he has not. */
  async rejection(hash: Uint8Array): Promise<string | null> {
    const [row] = await this.#store.atomic(connection =>
      connection.all('SELECT reason FROM rejected WHERE hash = ?', [hash]),
    )
    return row === undefined ? null : String(row.reason)
  }

  isAccepted(hash: Uint8Array): Promise<boolean> {
    return this.#store.atomic(connection => acceptedIn(connection, hash))
  }

  proposalWaits(hash: Uint8Array): void {
    this.#proposals.add(toBase64Url(hash))
    const [oldest] = this.#proposals
    if (this.#proposals.size > WAITING && oldest !== undefined) this.#proposals.delete(oldest)
  }

  /** It has been joined, and is listed elsewhere from here on. */
  proposalSettled(hash: Uint8Array): void {
    this.#proposals.delete(toBase64Url(hash))
  }

  revisionWaits(groupId: Uint8Array, number: number, hash: Uint8Array, changes: string[]): void {
    const documentHash = toBase64Url(hash)
    this.#revisions.set(documentHash, { groupId: toBase64Url(groupId), number, documentHash, changes })
    const [oldest] = this.#revisions.keys()
    if (this.#revisions.size > WAITING && oldest !== undefined) this.#revisions.delete(oldest)
  }

  /** base64url hashes of proposals that were put to this authority before their acceptance. */
  get waitingProposals(): readonly string[] {
    return [...this.#proposals]
  }
  get waitingRevisions(): readonly WaitingRevision[] {
    return [...this.#revisions.values()]
  }
}

export function acceptedIn(connection: Connection, hash: Uint8Array): boolean {
  return connection.all('SELECT 1 FROM accepted WHERE hash = ?', [hash]).length > 0
}
