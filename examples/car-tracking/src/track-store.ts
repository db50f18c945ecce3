/**
 * Tracks at rest: one row per batch with its positions as the very bytes that its head is the hash of, and one row
 * per track for where it ends. Both change in one transaction.
 */
import type { SignedFields } from '@milagro-ts/api/signed-message'
import {
  type Connection,
  type Migration,
  openDatabase,
  type Row,
  type Store,
} from '@milagro-ts/store/database'
import { sql } from '@milagro-ts/store/kysely'
import {
  type Batch,
  type BatchFault,
  checkBatch,
  decodePositions,
  encodePositions,
  type HeadWord,
  type Position,
  type TrackEnd,
} from './track-chain.js'

export interface StoredBatch {
  readonly number: number
  readonly userCore: string | undefined
  /** Unix milliseconds. */
  readonly receivedAt: number
  readonly positions: readonly Position[]
  readonly head: Uint8Array
  readonly word: HeadWord
}
export interface LastSeen {
  readonly idCore: string
  readonly userCore: string | undefined
  readonly position: Position
  readonly batches: number
  readonly positions: number
}
/** An M-Pin ID, and the idCore in it. */
export interface Vehicle {
  readonly text: string
  readonly bytes: Uint8Array
}
export type Appended = { readonly end: TrackEnd; readonly stored: number } | BatchFault

export const trackMigrations: readonly Migration[] = [
  {
    id: 1,
    name: 'tracks',
    async up(db) {
      await sql`CREATE TABLE track (
        id_core TEXT PRIMARY KEY, next INTEGER NOT NULL, head BLOB NOT NULL, at INTEGER NOT NULL,
        positions INTEGER NOT NULL) STRICT`.execute(db)
      await sql`CREATE TABLE batch (
        id_core TEXT NOT NULL REFERENCES track, number INTEGER NOT NULL, user_core TEXT, received_at INTEGER NOT NULL,
        positions BLOB NOT NULL, head BLOB NOT NULL, receipt TEXT NOT NULL,
        PRIMARY KEY (id_core, number)) STRICT, WITHOUT ROWID`.execute(db)
    },
  },
  {
    id: 2,
    name: 'signed by the vehicle itself',
    async up(db) {
      await sql`CREATE TABLE batch_with_word (
        id_core TEXT NOT NULL REFERENCES track, number INTEGER NOT NULL, user_core TEXT, received_at INTEGER NOT NULL,
        positions BLOB NOT NULL, head BLOB NOT NULL, receipt TEXT, signed TEXT,
        PRIMARY KEY (id_core, number), CHECK ((receipt IS NULL) <> (signed IS NULL))) STRICT, WITHOUT ROWID`.execute(
        db,
      )
      await sql`INSERT INTO batch_with_word
        SELECT id_core, number, user_core, received_at, positions, head, receipt, NULL FROM batch`.execute(db)
      await sql`DROP TABLE batch`.execute(db)
      await sql`ALTER TABLE batch_with_word RENAME TO batch`.execute(db)
    },
  },
]

export class TrackStore {
  readonly #store: Store<unknown>

  /** @param store Opened with `trackMigrations`. */
  constructor(store: Store<unknown>) {
    this.#store = store
  }

  /** @param file A path, or `:memory:`. Throws StoreError. */
  static async open(file: string): Promise<TrackStore> {
    return new TrackStore(await openDatabase({ file, migrations: trackMigrations }))
  }

  /** Where the track stands; `start` for one that has no batch. */
  end(idCore: string, start: TrackEnd): Promise<TrackEnd> {
    return this.#store.atomic(connection => endOf(connection, idCore, start))
  }

  /** What `append` would say at this moment, with nothing stored. */
  check(idCore: Vehicle, start: TrackEnd, batch: Batch): Promise<Appended> {
    return this.#store.atomic(connection => carriedOn(connection, idCore, start, batch))
  }

  /**
   * Checks and stores a batch in one transaction. The track's last batch again changes nothing and is answered alike:
   * its vehicle may have missed the answer.
   */
  append(
    idCore: Vehicle,
    start: TrackEnd,
    batch: Batch,
    more: { readonly userCore: string | undefined; readonly receivedAt: number; readonly word: HeadWord },
  ): Promise<Appended> {
    return this.#store.atomic(connection => {
      const appended = carriedOn(connection, idCore, start, batch)
      if (typeof appended === 'string' || appended.stored === 0) return appended
      const { end } = appended
      connection.run(
        `INSERT INTO track (id_core, next, head, at, positions) VALUES (?, ?, ?, ?, ?)
         ON CONFLICT DO UPDATE SET next = excluded.next, head = excluded.head, at = excluded.at,
           positions = positions + excluded.positions`,
        [idCore.text, end.next, end.head, end.at, batch.positions.length],
      )
      connection.run(
        `INSERT INTO batch (id_core, number, user_core, received_at, positions, head, receipt, signed)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
        [
          idCore.text,
          batch.number,
          more.userCore ?? null,
          more.receivedAt,
          encodePositions(batch.positions),
          batch.head,
          'receipt' in more.word ? more.word.receipt : null,
          'signed' in more.word ? JSON.stringify(more.word.signed) : null,
        ],
      )
      return appended
    })
  }

  /** Where every vehicle was last. */
  vehicles(): Promise<LastSeen[]> {
    return this.#store.atomic(connection =>
      connection
        .all(
          `SELECT batch.id_core, batch.user_core, batch.number, batch.positions AS last, track.positions
           FROM track JOIN batch ON batch.id_core = track.id_core AND batch.number = track.next - 1
           ORDER BY batch.id_core`,
        )
        .map(row => ({
          idCore: row.id_core as string,
          userCore: (row.user_core as string | null) ?? undefined,
          position: decodePositions(row.last as Uint8Array).at(-1) as Position,
          batches: row.number as number,
          positions: row.positions as number,
        })),
    )
  }

  /** At most `limit` batches from number `from` on. */
  batches(idCore: string, from: number, limit: number): Promise<StoredBatch[]> {
    return this.#store.atomic(connection =>
      connection
        .all('SELECT * FROM batch WHERE id_core = ? AND number >= ? ORDER BY number LIMIT ?', [
          idCore,
          from,
          limit,
        ])
        .map(asBatch),
    )
  }

  writable(): Promise<boolean> {
    return this.#store.writable()
  }

  close(): Promise<void> {
    return this.#store.close()
  }
}

function carriedOn(connection: Connection, idCore: Vehicle, start: TrackEnd, batch: Batch): Appended {
  const end = endOf(connection, idCore.text, start)
  const after = checkBatch(idCore.bytes, end, batch)
  if (after === 'repeated' && Buffer.from(end.head).equals(batch.head)) return { end, stored: 0 }
  return typeof after === 'string' ? after : { end: after, stored: batch.positions.length }
}

function endOf(connection: Connection, idCore: string, start: TrackEnd): TrackEnd {
  const [row] = connection.all('SELECT next, head, at FROM track WHERE id_core = ?', [idCore])
  if (row === undefined) return start
  return { next: row.next as number, head: row.head as Uint8Array, at: row.at as number }
}

function asBatch(row: Row): StoredBatch {
  return {
    number: row.number as number,
    userCore: (row.user_core as string | null) ?? undefined,
    receivedAt: row.received_at as number,
    positions: decodePositions(row.positions as Uint8Array),
    head: row.head as Uint8Array,
    word:
      row.signed === null
        ? { receipt: row.receipt as string }
        : { signed: JSON.parse(row.signed as string) as SignedFields },
  }
}
