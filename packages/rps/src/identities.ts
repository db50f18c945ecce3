/**
 * What the RPA says about an identity, and about a user on it: not banned (a statement for the authorities), its
 * attributes, the account's PIN generations. One callback answers all three; attributes are kept for the slot.
 */
import { Refused } from '@milagro-ts/api/problem'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { type Attributes, type IdCore, NO_USER } from '@milagro-ts/crypto/identity'
import type { Store } from '@milagro-ts/store/database'
import type { Accounts } from './accounts.js'
import type { RelyingParty, Standing } from './relying-party.js'

export interface Described {
  readonly attributes: Record<string, string>
  readonly instance: string
  readonly user?: Record<string, string>
}

export class Identities {
  readonly #store: Store<unknown>
  readonly #relyingParty: RelyingParty
  readonly #accounts: Accounts

  constructor(ports: { store: Store<unknown>; relyingParty: RelyingParty; accounts: Accounts }) {
    this.#store = ports.store
    this.#relyingParty = ports.relyingParty
    this.#accounts = ports.accounts
  }

  /**
   * Asks the RPA. Null for an identity, or a user on it, that it doesn't know. Refused BANNED, REVOKED, RETRY_LATER.
   * @param slot Which the statement is for; what is said of the identity holds for the slot `now`.
   */
  async ask(idCore: IdCore, userCore: Uint8Array, slot: number, now = slot): Promise<Standing | null> {
    const standing = await this.#relyingParty.standing({
      idCore: idCore.mpinId,
      slot,
      ...(userCore.length === 0 ? {} : { userCore: toBase64Url(userCore) }),
    })
    if (standing === null) return null
    const { attributes, instance, account } = standing
    await this.#store.atomic(connection => {
      if (account !== undefined) this.#accounts.learn(connection, idCore, userCore, account, now)
      connection.run(
        'INSERT INTO identity (id_core, user_core, slot, attributes, instance, user_attributes) VALUES (?, ?, ?, ?, ?, ?) ' +
          'ON CONFLICT DO UPDATE SET slot = excluded.slot, attributes = excluded.attributes, ' +
          'instance = excluded.instance, user_attributes = excluded.user_attributes',
        [
          idCore.bytes,
          userCore,
          now,
          JSON.stringify(attributes),
          instance,
          account?.attributes === undefined ? null : JSON.stringify(account.attributes),
        ],
      )
    })
    return standing
  }

  /** Refused NOT_FOUND, BANNED, REVOKED, RETRY_LATER. */
  async describe(idCore: IdCore, userCore: Uint8Array, slot: number): Promise<Described> {
    const [row] = await this.#store.read(reader =>
      reader.all(
        'SELECT attributes, instance, user_attributes FROM identity WHERE id_core = ? AND user_core = ? AND slot = ?',
        [idCore.bytes, userCore, slot],
      ),
    )
    if (row !== undefined)
      return described(
        JSON.parse(row.attributes as string) as Attributes,
        row.instance as string,
        row.user_attributes === null ? undefined : (JSON.parse(row.user_attributes as string) as Attributes),
      )
    const standing = await this.ask(idCore, userCore, slot)
    if (standing === null) throw new Refused('NOT_FOUND', { detail: 'no such identity' })
    const { attributes, instance, account } = standing
    return described(attributes, instance, userCore === NO_USER ? undefined : account?.attributes)
  }

  async purge(slot: number): Promise<void> {
    await this.#store.atomic(connection => connection.run('DELETE FROM identity WHERE slot < ?', [slot]))
  }
}

function described(attributes: Attributes, instance: string, user: Attributes | undefined): Described {
  return { attributes: { ...attributes }, instance, ...(user === undefined ? {} : { user: { ...user } }) }
}
