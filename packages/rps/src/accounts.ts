/**
 * PIN generations (protocols.md §4, "PIN"): every change of a PIN is a new pinGen with a new key. Per account (idCore,
 * userCore) two numbers are known, from our own record and from the RPA's, whichever is higher; both only go up.
 *
 *   issued     a ticket was made for it           a message with a higher one is of an unknown generation
 *   accepted   the highest that has logged in     a message with a lower one is of a generation that is over
 *
 * So after a change the old token works until the first login with the new one, and then never again. Refusals here
 * are WRONG_PIN without a strike, and no counter is made for them.
 */
import { Refused } from '@milagro-ts/api/problem'
import type { IdCore } from '@milagro-ts/crypto/identity'
import type { Connection, Store } from '@milagro-ts/store/database'
import { lockForgotten, trustNew } from './restore.js'

interface Generations {
  readonly issued: number
  readonly accepted: number
}

/** Asks the RPA, and records what it says by `learn`; null when it knows no such user. */
export type Ask = (idCore: IdCore, userCore: Uint8Array, slot: number) => Promise<object | null>

/** asked_slot of an account that the RPA must be asked about before anything else. */
const NEVER = -1

export class Accounts {
  readonly #store: Store<unknown>

  constructor(store: Store<unknown>) {
    this.#store = store
  }

  /**
   * May a PIN of this generation be tried? The RPA is asked once a slot, and when the generation is newer than what is
   * known. While it can't be reached, our own record decides. Refused BANNED, REVOKED or RETRY_LATER.
   */
  async takes(
    { idCore, userCore, pinGen }: { idCore: IdCore; userCore: Uint8Array; pinGen: number },
    slot: number,
    ask: Ask,
  ): Promise<boolean> {
    const own = await this.#find(idCore, userCore)
    if (own !== undefined && pinGen < own.accepted) return false
    if (own?.askedSlot === slot && pinGen <= own.issued) return true
    try {
      if ((await ask(idCore, userCore, slot)) === null) return false
    } catch (error) {
      const isAway = error instanceof Refused && error.code === 'RETRY_LATER'
      if (isAway && own !== undefined && pinGen <= own.issued) return true
      throw error
    }
    const known = await this.#find(idCore, userCore)
    return known !== undefined && known.accepted <= pinGen && pinGen <= known.issued
  }

  /** A PIN of this generation was right. False when a newer one was accepted meanwhile: this one is over. */
  async accept(idCore: IdCore, userCore: Uint8Array, pinGen: number): Promise<boolean> {
    return this.#store.atomic(connection => {
      const statement =
        'UPDATE account SET accepted = ? WHERE id_core = ? AND user_core = ? AND accepted <= ?'
      return connection.run(statement, [pinGen, idCore.bytes, userCore, pinGen]) === 1
    })
  }

  /** The RPA's record, in the caller's transaction. */
  learn(
    connection: Connection,
    idCore: IdCore,
    userCore: Uint8Array,
    { issuedPinGen, acceptedPinGen }: { issuedPinGen: number; acceptedPinGen: number },
    askedSlot: number,
  ): void {
    connection.run(
      'INSERT INTO account (id_core, user_core, issued, accepted, asked_slot) VALUES (?, ?, ?, ?, ?) ' +
        'ON CONFLICT DO UPDATE SET issued = max(issued, excluded.issued), ' +
        'accepted = max(accepted, excluded.accepted), asked_slot = max(asked_slot, excluded.asked_slot)',
      [idCore.bytes, userCore, issuedPinGen, acceptedPinGen, askedSlot],
    )
    if (askedSlot !== NEVER)
      lockForgotten(connection, idCore, userCore, { issued: issuedPinGen, accepted: acceptedPinGen })
  }

  /** A ticket was made for this generation; `isNew`: just now, as an event of the RA's says. */
  async issued(
    idCore: IdCore,
    userCore: Uint8Array,
    pinGen: number,
    { isNew = false }: { isNew?: boolean } = {},
  ): Promise<void> {
    await this.#store.atomic(connection => {
      this.learn(connection, idCore, userCore, { issuedPinGen: pinGen, acceptedPinGen: 0 }, NEVER)
      if (isNew) trustNew(connection, idCore, userCore, pinGen)
    })
  }

  /** Tickets may have been made that nobody told us of: the RPA is asked again before our record is believed. */
  doubt(connection: Connection): void {
    connection.run('UPDATE account SET asked_slot = ?', [NEVER])
  }

  /** The generations that may have strikes now, newest last. */
  async live(idCore: IdCore, userCore: Uint8Array): Promise<Generations | undefined> {
    return this.#find(idCore, userCore)
  }

  async #find(
    idCore: IdCore,
    userCore: Uint8Array,
  ): Promise<(Generations & { askedSlot: number }) | undefined> {
    const [row] = await this.#store.read(reader =>
      reader.all('SELECT issued, accepted, asked_slot FROM account WHERE id_core = ? AND user_core = ?', [
        idCore.bytes,
        userCore,
      ]),
    )
    if (row === undefined) return undefined
    return {
      issued: Number(row.issued),
      accepted: Number(row.accepted),
      askedSlot: Number(row.asked_slot),
    }
  }
}
