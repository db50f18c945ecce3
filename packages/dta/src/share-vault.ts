/**
 * Where master shares are while nobody uses them: a port, so that a KMS or an HSM can take the place of the adapter here,
 * which keeps them sealed in the authority's database.
 *
 *   keys.sealed (passphrase, scrypt)          the authority's HPKE secret
 *     └ HKDF ─ seals group_key.sealed         32 random bytes for each group, made with it and destroyed with it
 *         └ HKDF ─ seals served_group.sealed  version 2: `milagro-shares-2` (16) ‖ nonce (12) ‖ AES-256-GCM ‖ tag (16),
 *                                             AAD `milagro-shares-2` ‖ groupId ‖ origin
 *   version 1                                 a sealed file of store/sealed-file.ts, by the passphrase itself; opened, and
 *                                             sealed anew at the next start
 *
 * `origin` is the hash of the proposal or ceremony that the shares come from, so one group's can't be put in the place of
 * another's, nor those of one ceremony in another's.
 *
 * A KMS keeps the group's key instead of `group_key` and opens it when asked; an HSM gives a record that only names what it
 * holds, and a `MasterShares` that computes inside. What neither needs to know is when: a record is kept before the
 * transaction that puts it in force, and destroyed in the one that ends it.
 */
import { concat, equalBytes, utf8 } from '@milagro-ts/crypto/bytes'
import type { Random } from '@milagro-ts/crypto/ports'
import type { Connection, Store } from '@milagro-ts/store/database'
import { openSealed } from '@milagro-ts/store/sealed-file'
import { StoreError } from '@milagro-ts/store/store-error'
import { LocalShares, type MasterShares } from './master-shares.js'
import { RecordSeal } from './record-seal.js'

export interface ShareTerms {
  readonly groupId: Uint8Array
  /** Hash of the proposal or ceremony that they come from. */
  readonly origin: Uint8Array
}

export interface ShareVault {
  /** What stands in the database for these shares. */
  keep(shares: MasterShares, terms: ShareTerms): Promise<Uint8Array>
  /** StoreError `damaged`: changed, or of another group, ceremony or authority. */
  open(record: Uint8Array, terms: ShareTerms): Promise<MasterShares>
  /** The record is of an older version, and should be kept anew. */
  isOutdated(record: Uint8Array): boolean
  /** Whatever opens records of the group, in the transaction that takes the last of them away. */
  destroy(connection: Connection, groupId: Uint8Array): void
  /** What transactions have overwritten is gone from the rest of the store as well, now or at a later `sweep`. */
  shred(): Promise<void>
  /** To be called from time to time. */
  sweep(): Promise<void>
}

const VERSION = utf8('milagro-shares-2')
const GROUP_KEY = 32

export class SealedVault implements ShareVault {
  readonly #store: Store<unknown>
  readonly #passphrase: string
  readonly #random: Random
  readonly #keys: RecordSeal
  #isDue = false

  /** `hpkeSecret` is overwritten. */
  constructor({
    store,
    passphrase,
    hpkeSecret,
    random,
  }: {
    store: Store<unknown>
    passphrase: string
    hpkeSecret: Uint8Array
    random: Random
  }) {
    this.#store = store
    this.#passphrase = passphrase
    this.#random = random
    this.#keys = RecordSeal.of(hpkeSecret, 'group-key')
  }

  async keep(shares: MasterShares, { groupId, origin }: ShareTerms): Promise<Uint8Array> {
    const seal = await this.#made(groupId)
    const plaintext = shares.encode(origin)
    const sealed = seal.seal(plaintext, concat(VERSION, groupId, origin), this.#random)
    plaintext.fill(0)
    return concat(VERSION, sealed)
  }

  async open(record: Uint8Array, { groupId, origin }: ShareTerms): Promise<MasterShares> {
    if (this.isOutdated(record)) return LocalShares.decode(openSealed(this.#passphrase, record), origin)
    const seal = await this.#found(groupId)
    const plaintext = seal.open(record.subarray(VERSION.length), concat(VERSION, groupId, origin))
    return LocalShares.decode(plaintext, origin)
  }

  isOutdated(record: Uint8Array): boolean {
    return !equalBytes(record.subarray(0, VERSION.length), VERSION)
  }

  destroy(connection: Connection, groupId: Uint8Array): void {
    connection.run('DELETE FROM group_key WHERE group_id = ?', [groupId])
  }

  async shred(): Promise<void> {
    this.#isDue = true
    await this.sweep()
  }

  /** The database overwrites what it deletes (`secure_delete`); its log keeps former pages until it is folded in. */
  async sweep(): Promise<void> {
    if (this.#isDue) this.#isDue = !(await this.#store.foldLog())
  }

  /** Made when the first shares of a group are kept. */
  async #made(groupId: Uint8Array): Promise<RecordSeal> {
    const fresh = this.#random(GROUP_KEY)
    const sealed = this.#keys.seal(fresh, groupId, this.#random)
    fresh.fill(0)
    await this.#store.atomic(connection =>
      connection.run('INSERT INTO group_key (group_id, sealed) VALUES (?, ?) ON CONFLICT DO NOTHING', [
        groupId,
        sealed,
      ]),
    )
    return this.#found(groupId)
  }

  async #found(groupId: Uint8Array): Promise<RecordSeal> {
    const [row] = await this.#store.atomic(connection =>
      connection.all('SELECT sealed FROM group_key WHERE group_id = ?', [groupId]),
    )
    if (row === undefined)
      throw new StoreError('damaged', 'a group has shares and no key: restore the database from a backup')
    return RecordSeal.of(this.#keys.open(row.sealed as Uint8Array, groupId), 'master-shares')
  }
}
