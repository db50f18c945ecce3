/** The tables of an authority's database. Secrets are in it only sealed (store/sealed-file.ts). */
import { entryHashes } from '@milagro-ts/api/issuance-log'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import type { Migration, Row } from '@milagro-ts/store/database'
import { type Kysely, sql } from '@milagro-ts/store/kysely'
import { singleUseMigration } from '@milagro-ts/store/single-use'
import { entryOf, subtreesOf } from './issuance-log.js'
import { identityHash } from './ledger.js'

/** Rows that a migration moves at a time. */
const BLOCK = 1_000

export const dtaMigrations: readonly Migration[] = [
  singleUseMigration(1),
  {
    id: 2,
    name: 'authority',
    async up(db) {
      // What the operator said yes to: hashes of group proposals and of revisions.
      await sql`CREATE TABLE accepted (hash BLOB PRIMARY KEY, at INTEGER NOT NULL) STRICT, WITHOUT ROWID`.execute(
        db,
      )

      // One row per proposal that was joined. `joined`, `opened` and `sealed` hold secrets, sealed, until the group
      // is concluded.
      await sql`CREATE TABLE founding (
        proposal_hash BLOB PRIMARY KEY, proposal TEXT NOT NULL, started_at INTEGER NOT NULL,
        own_join TEXT NOT NULL, joined BLOB, opened BLOB,
        openings_hash BLOB, document_hash BLOB, signature TEXT, sealed BLOB
      ) STRICT, WITHOUT ROWID`.execute(db)

      // Groups that are served, with the sealed shares of their master secrets, and their chains of documents.
      await sql`CREATE TABLE served_group (
        group_id BLOB PRIMARY KEY, proposal_hash BLOB NOT NULL UNIQUE, sealed BLOB NOT NULL
      ) STRICT, WITHOUT ROWID`.execute(db)
      await sql`CREATE TABLE revision (
        group_id BLOB NOT NULL REFERENCES served_group, number INTEGER NOT NULL, document TEXT NOT NULL,
        PRIMARY KEY (group_id, number)
      ) STRICT, WITHOUT ROWID`.execute(db)
      // The one document per revision number that this authority has signed, and signs until it is abandoned.
      await sql`CREATE TABLE signed_revision (
        group_id BLOB NOT NULL REFERENCES served_group, number INTEGER NOT NULL,
        document_hash BLOB NOT NULL, signature TEXT NOT NULL,
        PRIMARY KEY (group_id, number)
      ) STRICT, WITHOUT ROWID`.execute(db)

      // No silent clone: one enrolment key per identity and purpose, ever. No epoch in the key, no DELETE anywhere.
      await sql`CREATE TABLE ledger (
        group_id BLOB NOT NULL REFERENCES served_group, identity TEXT NOT NULL, enrolment_key_hash BLOB NOT NULL,
        PRIMARY KEY (group_id, identity)
      ) STRICT, WITHOUT ROWID`.execute(db)
      await sql`CREATE TABLE issuance (
        group_id BLOB NOT NULL REFERENCES served_group, number INTEGER NOT NULL, at INTEGER NOT NULL,
        purpose TEXT NOT NULL, ticket_hash BLOB NOT NULL, id_core_hash BLOB NOT NULL,
        previous BLOB NOT NULL, hash BLOB NOT NULL,
        PRIMARY KEY (group_id, number), UNIQUE (group_id, ticket_hash, purpose)
      ) STRICT, WITHOUT ROWID`.execute(db)
      // Tickets that asked for a second key of an identity: each is a sign of a forged or careless approval.
      await sql`CREATE TABLE alarm (
        group_id BLOB NOT NULL REFERENCES served_group, ticket_hash BLOB NOT NULL, purpose TEXT NOT NULL,
        id_core_hash BLOB NOT NULL, at INTEGER NOT NULL,
        PRIMARY KEY (group_id, ticket_hash, purpose)
      ) STRICT, WITHOUT ROWID`.execute(db)

      await sql`CREATE TABLE permit_statement (
        group_id BLOB NOT NULL REFERENCES served_group, caller TEXT NOT NULL, jti BLOB NOT NULL,
        statement_hash BLOB NOT NULL, expires_at INTEGER NOT NULL,
        PRIMARY KEY (group_id, caller, jti)
      ) STRICT, WITHOUT ROWID`.execute(db)
      await sql`CREATE INDEX permit_statement_expiry ON permit_statement (expires_at)`.execute(db)

      // recipient '': the whole group.
      await sql`CREATE TABLE freeze (
        group_id BLOB NOT NULL REFERENCES served_group, recipient TEXT NOT NULL,
        PRIMARY KEY (group_id, recipient)
      ) STRICT, WITHOUT ROWID`.execute(db)
    },
  },
  {
    id: 3,
    name: 'ceremonies',
    async up(db) {
      // Identities by their hash, so that a ledger can be handed on.
      await sql`CREATE TABLE hashed_ledger (
        group_id BLOB NOT NULL REFERENCES served_group, identity_hash BLOB NOT NULL, enrolment_key_hash BLOB NOT NULL,
        PRIMARY KEY (group_id, identity_hash)
      ) STRICT, WITHOUT ROWID`.execute(db)
      interface Line {
        group_id: ArrayBuffer
        identity: string
        enrolment_key_hash: ArrayBuffer
      }
      for (let from = 0; ; from += BLOCK) {
        const { rows } =
          await sql<Line>`SELECT * FROM ledger ORDER BY group_id, identity LIMIT ${BLOCK} OFFSET ${from}`.execute(
            db,
          )
        for (const { group_id, identity, enrolment_key_hash } of rows)
          await sql`INSERT INTO hashed_ledger VALUES (${group_id}, ${identityHash(identity)}, ${enrolment_key_hash})`.execute(
            db,
          )
        if (rows.length < BLOCK) break
      }
      await sql`DROP TABLE ledger`.execute(db)
      await sql`ALTER TABLE hashed_ledger RENAME TO ledger`.execute(db)

      // One row per ceremony that was joined. `sealed` is the record, secrets inside, until it is concluded; what was
      // said stays, so that a move that is asked again answers the same.
      // answered_at: from then on a dealer of a reshare adds nothing to its ledger, until the ceremony is concluded or
      // given up; what is given up is never signed.
      await sql`CREATE TABLE ceremony (
        ceremony_hash BLOB PRIMARY KEY, group_id BLOB, proposal TEXT NOT NULL, revisions TEXT NOT NULL,
        started_at INTEGER NOT NULL, sealed BLOB NOT NULL,
        hands_over INTEGER NOT NULL, answered_at INTEGER, state TEXT NOT NULL
      ) STRICT, WITHOUT ROWID`.execute(db)
      await sql`CREATE TABLE ceremony_ledger (
        ceremony_hash BLOB NOT NULL REFERENCES ceremony, dealer INTEGER NOT NULL,
        identity_hash BLOB NOT NULL, enrolment_key_hash BLOB NOT NULL,
        PRIMARY KEY (ceremony_hash, dealer, identity_hash)
      ) STRICT, WITHOUT ROWID`.execute(db)
    },
  },
  {
    id: 4,
    name: 'tree over the log',
    async up(db) {
      // issuance-log.ts
      await sql`ALTER TABLE issuance ADD COLUMN subtrees BLOB NOT NULL DEFAULT x''`.execute(db)
      // What is issued when a key is rotated; null for a key.
      await sql`ALTER TABLE issuance ADD COLUMN kind TEXT`.execute(db)
      await growTrees(db)

      // Up to when heads of this authority's own log may have been signed, unix seconds.
      await sql`CREATE TABLE head_time (
        group_id BLOB PRIMARY KEY REFERENCES served_group, reserved INTEGER NOT NULL
      ) STRICT, WITHOUT ROWID`.execute(db)
      // The newest head of each other member's log that was checked against the one before; members go by their key.
      await sql`CREATE TABLE seen_head (
        group_id BLOB NOT NULL REFERENCES served_group, sign_key TEXT NOT NULL,
        size INTEGER NOT NULL, root BLOB NOT NULL, at INTEGER NOT NULL, head TEXT NOT NULL,
        PRIMARY KEY (group_id, sign_key)
      ) STRICT, WITHOUT ROWID`.execute(db)
      // Two heads that one log can't have had; the first such pair of each kind. Nothing is ever deleted.
      await sql`CREATE TABLE log_evidence (
        group_id BLOB NOT NULL REFERENCES served_group, sign_key TEXT NOT NULL, fault TEXT NOT NULL,
        name TEXT NOT NULL, kept TEXT NOT NULL, head TEXT NOT NULL, at INTEGER NOT NULL,
        PRIMARY KEY (group_id, sign_key, fault)
      ) STRICT, WITHOUT ROWID`.execute(db)
    },
  },
  {
    id: 5,
    name: 'a will of its own',
    async up(db) {
      // policy.ts: what was issued on a day, of the group's time zone.
      await sql`CREATE TABLE quota (
        group_id BLOB NOT NULL REFERENCES served_group, counted TEXT NOT NULL, day TEXT NOT NULL, used INTEGER NOT NULL,
        PRIMARY KEY (group_id, counted, day)
      ) STRICT, WITHOUT ROWID`.execute(db)
      // departure.ts
      await sql`CREATE TABLE departure (
        group_id BLOB PRIMARY KEY REFERENCES served_group, announced_at INTEGER NOT NULL, leaves_at INTEGER NOT NULL
      ) STRICT, WITHOUT ROWID`.execute(db)
      // share-vault.ts: each group's own key, sealed. It is there before the group is.
      await sql`CREATE TABLE group_key (
        group_id BLOB PRIMARY KEY, sealed BLOB NOT NULL
      ) STRICT, WITHOUT ROWID`.execute(db)
    },
  },
  {
    id: 6,
    name: 'leaves',
    async up(db) {
      // The newest state of the banned leaves: be32 each, ascending. hash: of the RA's payload.
      await sql`CREATE TABLE leaves (
        group_id BLOB PRIMARY KEY REFERENCES served_group, number INTEGER NOT NULL, hash BLOB NOT NULL,
        leaves BLOB NOT NULL
      ) STRICT, WITHOUT ROWID`.execute(db)
    },
  },
  {
    id: 7,
    name: 'rejections',
    async up(db) {
      // What the operator said no to, and why.
      await sql`CREATE TABLE rejected (hash BLOB PRIMARY KEY, reason TEXT NOT NULL, at INTEGER NOT NULL) STRICT, WITHOUT ROWID`.execute(
        db,
      )
    },
  },
  {
    id: 8,
    name: 'revoked leaves',
    async up(db) {
      // Those of the newest state that it names as revoked: be32 leaf, be32 slot, ascending.
      await sql`ALTER TABLE leaves ADD COLUMN revoked BLOB NOT NULL DEFAULT x''`.execute(db)
    },
  },
  {
    id: 9,
    name: 'abandoned documents',
    async up(db) {
      // Hashes of documents that this authority never signs, whoever asks. Nothing is ever deleted.
      await sql`CREATE TABLE abandoned (
        group_id BLOB NOT NULL REFERENCES served_group, document_hash BLOB NOT NULL,
        PRIMARY KEY (group_id, document_hash)
      ) STRICT, WITHOUT ROWID`.execute(db)
    },
  },
]

/** The subtrees of every entry that is in the log already. */
async function growTrees(db: Kysely<unknown>): Promise<void> {
  interface Line extends Row {
    readonly group_id: Uint8Array
    readonly number: number
  }
  let group = ''
  /** The last complete subtree of each level: the left neighbour of the next one. */
  let latest: Uint8Array[] = []
  let after: Pick<Line, 'group_id' | 'number'> = { group_id: new Uint8Array(), number: 0 }
  for (;;) {
    const { rows } =
      await sql<Line>`SELECT * FROM issuance WHERE (group_id, number) > (${after.group_id}, ${after.number})
        ORDER BY group_id, number LIMIT ${BLOCK}`.execute(db)
    for (const row of rows) {
      const name = toBase64Url(row.group_id)
      if (name !== group) latest = []
      group = name
      const { leaf } = entryHashes(row.group_id, entryOf(row))
      const subtrees = subtreesOf(row.number, leaf, level => latest[level] as Uint8Array)
      for (let level = 0; 32 * level < subtrees.length; level++)
        latest[level] = subtrees.slice(32 * level, 32 * (level + 1))
      await sql`UPDATE issuance SET subtrees = ${subtrees} WHERE group_id = ${row.group_id} AND number = ${row.number}`.execute(
        db,
      )
    }
    const last = rows.at(-1)
    if (last === undefined || rows.length < BLOCK) return
    after = last
  }
}
