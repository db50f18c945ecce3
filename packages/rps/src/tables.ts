/** The tables of an RPS' database. Nothing in it is a key: S_dev, S_pin and the RPS' own keys lie in sealed files. */
import { concat, u8 } from '@milagro-ts/crypto/bytes'
import type { Connection, Migration } from '@milagro-ts/store/database'
import { sql } from '@milagro-ts/store/kysely'
import { singleUseMigration } from '@milagro-ts/store/single-use'

export const rpsMigrations: readonly Migration[] = [
  singleUseMigration(1),
  {
    id: 2,
    name: 'rps',
    async up(db) {
      // The chain of group documents from the pinned groupId on.
      await sql`CREATE TABLE group_revision (
        number INTEGER PRIMARY KEY, document TEXT NOT NULL
      ) STRICT`.execute(db)
      // T0: since when the replay record is whole; raised by what is purged of it.
      await sql`CREATE TABLE replay_record (
        id INTEGER PRIMARY KEY CHECK (id = 1), since INTEGER NOT NULL
      ) STRICT`.execute(db)

      // PIN generations: the highest issued, the highest that has logged in. Both only go up. user_core is empty for
      // the PIN of a personal device. asked_slot: when the RPA was asked last.
      await sql`CREATE TABLE account (
        id_core BLOB NOT NULL, user_core BLOB NOT NULL,
        issued INTEGER NOT NULL, accepted INTEGER NOT NULL, asked_slot INTEGER NOT NULL,
        PRIMARY KEY (id_core, user_core)
      ) STRICT, WITHOUT ROWID`.execute(db)
      // What the RPA said about an identity (and a user on it), for the slot.
      await sql`CREATE TABLE identity (
        id_core BLOB NOT NULL, user_core BLOB NOT NULL, slot INTEGER NOT NULL,
        attributes TEXT NOT NULL, instance TEXT NOT NULL, user_attributes TEXT,
        PRIMARY KEY (id_core, user_core)
      ) STRICT, WITHOUT ROWID`.execute(db)
      await sql`CREATE TABLE permit (
        id_core BLOB NOT NULL, slot INTEGER NOT NULL, permit BLOB NOT NULL,
        PRIMARY KEY (id_core, slot)
      ) STRICT, WITHOUT ROWID`.execute(db)

      // By enrolment key. digest: of what was asked; vouch_hash: of the M-Pin message that was proven for it.
      await sql`CREATE TABLE registration (
        hpke_key BLOB PRIMARY KEY, digest BLOB NOT NULL, vouch_hash BLOB,
        state TEXT NOT NULL, changed_at INTEGER NOT NULL
      ) STRICT, WITHOUT ROWID`.execute(db)

      // number: of the newest event or state; floor: at or below it nothing is taken any more; state: the newest
      // signed one, for those who begin to follow; state_revision: the group document whose RA keys signed it;
      // resumable: before it, events were signed under an earlier document.
      await sql`CREATE TABLE revocation (
        id INTEGER PRIMARY KEY CHECK (id = 1), number INTEGER NOT NULL, floor INTEGER NOT NULL,
        state TEXT NOT NULL, state_number INTEGER NOT NULL, state_revision INTEGER NOT NULL, resumable INTEGER NOT NULL
      ) STRICT`.execute(db)
      await sql`CREATE TABLE denied (
        id_core BLOB NOT NULL, user_core BLOB NOT NULL, kind TEXT NOT NULL CHECK (kind IN ('banned', 'revoked')),
        PRIMARY KEY (id_core, user_core, kind)
      ) STRICT, WITHOUT ROWID`.execute(db)
      await sql`CREATE TABLE event (number INTEGER PRIMARY KEY, event TEXT NOT NULL) STRICT`.execute(db)
    },
  },
  {
    id: 3,
    name: 'distrust',
    async up(db) {
      // Since when this database knows of guesses again, after it had forgotten some (restore.ts).
      await sql`CREATE TABLE distrust (
        id INTEGER PRIMARY KEY CHECK (id = 1), since INTEGER NOT NULL
      ) STRICT`.execute(db)
    },
  },
  {
    id: 4,
    name: 'notices',
    async up(db) {
      // What the RPA is to be told yet. AUTOINCREMENT: a number never comes again, so what one replica has told and
      // deletes is never what another has put in meanwhile.
      await sql`CREATE TABLE notice (
        number INTEGER PRIMARY KEY AUTOINCREMENT, notice TEXT NOT NULL
      ) STRICT`.execute(db)
    },
  },
  {
    id: 5,
    name: 'permits for nodes',
    async up(db) {
      // target: type ‖ depth ‖ be32 index, or type ‖ idCore (crypto/time-permit.ts, targetBytes).
      await sql`CREATE TABLE permit_of (
        slot INTEGER NOT NULL, target BLOB NOT NULL, permit BLOB NOT NULL, PRIMARY KEY (slot, target)
      ) STRICT, WITHOUT ROWID`.execute(db)
      const { rows } = await sql<{
        id_core: ArrayBuffer
        slot: number
        permit: ArrayBuffer
      }>`SELECT id_core, slot, permit FROM permit`.execute(db)
      for (const { id_core, slot, permit } of rows) {
        const target = concat(u8(1), new Uint8Array(id_core))
        await sql`INSERT INTO permit_of VALUES (${slot}, ${target}, ${permit})`.execute(db)
      }
      await sql`DROP TABLE permit`.execute(db)
      await sql`ALTER TABLE permit_of RENAME TO permit`.execute(db)

      // The newest state of the banned leaves, as the RA signed it, and which authorities have co-signed it.
      await sql`CREATE TABLE leaves (
        id INTEGER PRIMARY KEY CHECK (id = 1), number INTEGER NOT NULL, statement TEXT NOT NULL
      ) STRICT`.execute(db)
      await sql`CREATE TABLE cosignature (
        authority INTEGER PRIMARY KEY, number INTEGER NOT NULL, cosignature TEXT NOT NULL
      ) STRICT`.execute(db)
    },
  },
]

/** False for a database that no server has run on, and that was not begun anew on purpose. */
export function wasServed(connection: Connection): boolean {
  const either = 'SELECT 1 FROM group_revision UNION SELECT 1 FROM distrust LIMIT 1'
  return connection.all(either).length > 0
}
