/**
 * What may happen once, or a limited number of times: nonces, replay entries, waiting states; strikes against a PIN.
 *
 * Everything that guards security and must not be kept in one process goes through this port. Every call is atomic:
 * of two that race, in one process or in many, one comes first. There is no clock inside: all times are unix
 * milliseconds that the caller's clock gave.
 *
 * Strikes (protocols.md §4): before a PIN proof is looked at, `reserve` adds 1 to both counters of the account, and
 * `settle` says afterwards how it went. A process that dies in between has counted the attempt as wrong, so that
 * nobody gains guesses by making it die.
 */

import type { Migration, Reader, Row, Store } from './database.js'
import { sql } from './kysely.js'

export interface SingleUse {
  /**
   * Stores `value` (empty if not given) under (kind, key). False, without a change, when the key is there already,
   * expired or not: a replayed entry stays refused until it is purged.
   */
  put(kind: string, key: string, entry: { value?: Uint8Array; expiresAt: number }): Promise<boolean>
  /**
   * Reads and deletes. Null: never there, taken or purged. What comes back with `expired` (now > expiresAt) is gone
   * as well; it is told apart so that the caller can answer EXPIRED rather than REPLAYED.
   */
  take(kind: string, key: string, now: number): Promise<Taken | null>
  /** Deletes entries with expiresAt < now, and reservations that no answer can come for any more; returns their number. */
  purge(now: number): Promise<number>
  /**
   * One more attempt for `account`: +1 on both counters. Refused without a change when a counter is at its limit
   * (`cumulative` first: an unlock doesn't help there).
   */
  reserve(account: string, terms: ReserveTerms): Promise<Reserved | Locked>
  /**
   * The attempt's outcome. Wrong: both counters stay. Correct: cumulative gives its unit back, consecutive becomes the
   * number of the account's other reservations in flight (unanswered, not older than their reservationMs).
   * Unanswered for longer than reservationMs counts as wrong for good: a later `correct` gives nothing back, nor does
   * a second one.
   */
  settle(reservation: string, outcome: { now: number; correct: boolean }): Promise<void>
  /** The operator's unlock: consecutive becomes 0. The cumulative count is the account's for ever. */
  unlock(account: string): Promise<void>
  strikes(account: string): Promise<Strikes>
}

export interface Taken {
  readonly value: Uint8Array
  readonly expiresAt: number
  readonly expired: boolean
}

export interface ReserveTerms {
  readonly now: number
  readonly consecutiveLimit: number
  readonly cumulativeLimit: number
  readonly reservationMs: number
}

export interface Reserved {
  readonly reservation: string
}

export interface Locked {
  readonly locked: 'consecutive' | 'cumulative'
}

export interface Strikes {
  readonly consecutive: number
  readonly cumulative: number
}

/** The tables of `openSingleUse`, as step `id` of a server's own list of migrations. */
export function singleUseMigration(id: number): Migration {
  return {
    id,
    name: 'single-use',
    async up(db) {
      await sql`CREATE TABLE single_use (
        kind TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, expires_at INTEGER NOT NULL,
        PRIMARY KEY (kind, key)
      ) STRICT, WITHOUT ROWID`.execute(db)
      await sql`CREATE INDEX single_use_expiry ON single_use (expires_at)`.execute(db)
      await sql`CREATE TABLE strike (
        account TEXT PRIMARY KEY, consecutive INTEGER NOT NULL, cumulative INTEGER NOT NULL
      ) STRICT, WITHOUT ROWID`.execute(db)
      // AUTOINCREMENT: a settled number never comes again, so a late second settle can't hit another attempt.
      await sql`CREATE TABLE strike_reservation (
        id INTEGER PRIMARY KEY AUTOINCREMENT, account TEXT NOT NULL, deadline INTEGER NOT NULL
      ) STRICT`.execute(db)
      await sql`CREATE INDEX strike_reservation_account ON strike_reservation (account, deadline)`.execute(db)
    },
  }
}

/** The port on a store whose migrations include `singleUseMigration`. */
export function openSingleUse(store: Pick<Store<unknown>, 'atomic' | 'read'>): SingleUse {
  return new SqliteSingleUse(store)
}

class SqliteSingleUse implements SingleUse {
  readonly #store: Pick<Store<unknown>, 'atomic' | 'read'>

  constructor(store: Pick<Store<unknown>, 'atomic' | 'read'>) {
    this.#store = store
  }

  put(
    kind: string,
    key: string,
    { value, expiresAt }: { value?: Uint8Array; expiresAt: number },
  ): Promise<boolean> {
    return this.#store.atomic(connection => {
      const statement =
        'INSERT INTO single_use (kind, key, value, expires_at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING'
      return connection.run(statement, [kind, key, value ?? new Uint8Array(), expiresAt]) === 1
    })
  }

  take(kind: string, key: string, now: number): Promise<Taken | null> {
    return this.#store.atomic(connection => {
      const statement = 'DELETE FROM single_use WHERE kind = ? AND key = ? RETURNING value, expires_at'
      const [row] = connection.all(statement, [kind, key])
      if (row === undefined) return null
      const expiresAt = number(row, 'expires_at')
      return { value: row.value as Uint8Array, expiresAt, expired: now > expiresAt }
    })
  }

  purge(now: number): Promise<number> {
    return this.#store.atomic(
      connection =>
        connection.run('DELETE FROM single_use WHERE expires_at < ?', [now]) +
        connection.run('DELETE FROM strike_reservation WHERE deadline < ?', [now]),
    )
  }

  reserve(account: string, terms: ReserveTerms): Promise<Reserved | Locked> {
    const { now, consecutiveLimit, cumulativeLimit, reservationMs } = terms
    return this.#store.atomic(connection => {
      const { consecutive, cumulative } = strikesOf(connection, account)
      if (cumulative >= cumulativeLimit) return { locked: 'cumulative' }
      if (consecutive >= consecutiveLimit) return { locked: 'consecutive' }
      connection.run(
        'INSERT INTO strike (account, consecutive, cumulative) VALUES (?, 1, 1) ' +
          'ON CONFLICT DO UPDATE SET consecutive = consecutive + 1, cumulative = cumulative + 1',
        [account],
      )
      const statement = 'INSERT INTO strike_reservation (account, deadline) VALUES (?, ?) RETURNING id'
      const [row] = connection.all(statement, [account, now + reservationMs])
      return { reservation: String(row?.id) }
    })
  }

  settle(reservation: string, { now, correct }: { now: number; correct: boolean }): Promise<void> {
    return this.#store.atomic(connection => {
      const statement = 'DELETE FROM strike_reservation WHERE id = ? RETURNING account, deadline'
      const [row] = connection.all(statement, [reservation])
      if (row === undefined || !correct || now > number(row, 'deadline')) return
      connection.run(
        'UPDATE strike SET cumulative = cumulative - 1, consecutive = ' +
          '(SELECT count(*) FROM strike_reservation AS other WHERE other.account = strike.account AND other.deadline >= ?) ' +
          'WHERE account = ?',
        [now, row.account as string],
      )
    })
  }

  unlock(account: string): Promise<void> {
    return this.#store.atomic(connection => {
      connection.run('UPDATE strike SET consecutive = 0 WHERE account = ?', [account])
    })
  }

  strikes(account: string): Promise<Strikes> {
    return this.#store.read(reader => strikesOf(reader, account))
  }
}

function strikesOf(reader: Reader, account: string): Strikes {
  const [row] = reader.all('SELECT consecutive, cumulative FROM strike WHERE account = ?', [account])
  if (row === undefined) return { consecutive: 0, cumulative: 0 }
  return { consecutive: number(row, 'consecutive'), cumulative: number(row, 'cumulative') }
}

function number(row: Row, column: string): number {
  return Number(row[column])
}
