/**
 * The register, as tables. Times are unix seconds. `device` is whatever can have an identity: a vehicle, or an
 * operator's device; an `identity` is one generation of it; an `account` is a person (or the device's own PIN) on one
 * identity; an `enrolment` is one registration, as it was sent, and what became of it.
 */
import type { GroupDocument } from '@milagro-ts/api/group-document'
import { ticketHash } from '@milagro-ts/api/statements'
import type { Migration } from '@milagro-ts/store/database'
import { type ColumnType, type Generated, sql } from '@milagro-ts/store/kysely'
import { singleUseMigration } from '@milagro-ts/store/single-use'

/** Written by the database alone. */
type Id = Generated<number>
type Flag = 0 | 1

export interface DeviceTable {
  id: Id
  kind: 'vehicle' | 'operator'
  instance: string
  /** attributesText */
  attributes: string
  factors: number
  /** The device has a PIN of its own, without a user: a personal device. */
  own_pin: Flag
  created_at: number
}

export interface IdentityTable {
  id: Id
  device_id: number
  generation: number
  leaf: number
  id_core: Uint8Array
  salt: Uint8Array
  issue_date: string
  issued_at: number
  revoked_at: number | null
  seen_at: number | null
}

export interface DriverTable {
  id: Id
  attributes: string
  created_at: number
}

/** A driver whom an operator, or an approval, has put on a vehicle. */
export interface AssignmentTable {
  device_id: number
  driver_id: number
  created_at: number
}

export interface AccountTable {
  id: Id
  identity_id: number
  /** Null: the device's own PIN. */
  driver_id: number | null
  /** Empty for the device's own PIN. */
  user_core: Uint8Array
  salt: Uint8Array
  /** Highest pinGen that a ticket was made for. */
  issued_pin_gen: number
  /** Highest pinGen that has logged in; 0 at first. */
  accepted_pin_gen: number
  locked: Flag
}

export interface CodeTable {
  code_id: Uint8Array
  device_id: number
  /** Null: the code is for the device itself. */
  driver_id: number | null
  /** Generation that the code makes; null for a driver's code. */
  generation: number | null
  sealed_secret: Uint8Array
  made_at: number
  expires_at: number
  /** The enrolment key that used it. */
  used_by: Uint8Array | null
  /** A later code, or a revocation, has taken its place. */
  replaced: ColumnType<Flag, Flag | undefined, Flag>
}

export interface EnrolmentTable {
  id: Id
  kind: 'device' | 'user' | 'pin'
  /** SHA-256 of the registration as it was sent: the same again is a retry, another is a contradiction. */
  digest: Uint8Array
  hpke_key: Uint8Array
  nonce: Uint8Array
  instance: string | null
  attributes: string
  /** Of the device that asks for a user or a PIN; of the one made, once a device is approved. */
  identity_id: number | null
  account_id: number | null
  pin_gen: number | null
  state: 'pending' | 'approved' | 'refused'
  created_at: number
  expires_at: number
  decided_at: number | null
  /** JSON array of compact JWS. */
  ticket: string | null
}

/** templates.ts */
export interface TemplateTable {
  id: Id
  name: string
  code_id: Uint8Array
  sealed_secret: Uint8Array
  /** JSON: a TextPattern. */
  instance: string
  /** JSON: [name, TextPattern][] */
  attributes: string
  vehicles: 'new' | 'registered'
  factors: number
  most: number
  used: number
  made_at: number
  made_by: string
  expires_at: number
  ended_at: number | null
}

/** What the customer's system said before a registration was decided; hooks.ts. */
export interface RegistrationCheckTable {
  /** SHA-256 of the registration as it was sent. */
  digest: Uint8Array
  decision: 'allow' | 'refuse'
  note: string | null
  at: number
}

/** A message to one target of a hook, until it is taken. */
export interface DeliveryTable {
  id: Id
  /** The hook's id for the receiver: the same in every attempt. */
  message_id: string
  target: string
  body: string
  made_at: number
  attempts: number
  /** Why the last attempt failed. */
  trouble: string | null
  sent_at: number | null
  /** Given up; an operator may have it tried again. */
  dead_at: number | null
}

/** Of exactly one of device and driver; in force until `lifted_at`. */
export interface BanTable {
  id: Id
  device_id: number | null
  driver_id: number | null
  reason: string
  since: number
  expires_at: number | null
  made_by: string
  lifted_at: number | null
  lifted_by: string | null
}

export interface EventTable {
  number: number
  kind: 'ban' | 'unban' | 'revoke' | 'unlock' | 'account'
  id_core: Uint8Array
  user_core: Uint8Array | null
  pin_gen: number | null
  at: number
  sent_at: number | null
}

export interface CounterTable {
  /**
   * `leaf`, `event`: the last one given out. `… before` are times (ended-keys.ts): noted, and in force since the newest event.
   * `revoked not named until`: an event's number, until which states of the leaves were signed before they named the revoked.
   */
  name: 'leaf' | 'event' | 'keys ended before' | 'leaves left out before' | 'revoked not named until'
  value: number
}

export interface AuditTable {
  id: Id
  at: number
  actor: string
  action: string
  subject: string
  outcome: string
}

export interface RaKeyTable {
  kid: string
  public_key: string
  sealed_jwk: Uint8Array
  made_at: number
}

/** A next revision of the group document that was begun here: at most one is open. */
export interface ProposedRevisionTable {
  id: Id
  /** What it changes. */
  subject: 'key' | 'recipients'
  /** For the audit trail: the new kid, or what becomes of which recipient. */
  says: string
  /** Of a change of key; null of any other. */
  old_kid: string | null
  new_kid: string | null
  document: string
  statement: string
  /** JSON: {index, signature}[] */
  signatures: string
  state: 'open' | 'signed' | 'done' | 'abandoned'
  /** JSON: indices of authorities that have the document; 0 stands for the RPS. */
  delivered: string
}

/** Revisions of the group document, from the first on. */
export interface RevisionTable {
  number: number
  document: string
}

/** Every ticket that was handed out, by the hash under which the authorities' logs name it. Nothing is ever deleted. */
export interface SignedTicketTable {
  hash: Uint8Array
}

export interface FleetSchema {
  device: DeviceTable
  identity: IdentityTable
  driver: DriverTable
  assignment: AssignmentTable
  account: AccountTable
  code: CodeTable
  enrolment: EnrolmentTable
  ban: BanTable
  event: EventTable
  counter: CounterTable
  audit: AuditTable
  ra_key: RaKeyTable
  proposed_revision: ProposedRevisionTable
  revision: RevisionTable
  signed_ticket: SignedTicketTable
  template: TemplateTable
  registration_check: RegistrationCheckTable
  delivery: DeliveryTable
}

const TABLES = [
  `CREATE TABLE device (
    id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL CHECK (kind IN ('vehicle', 'operator')),
    instance TEXT NOT NULL UNIQUE, attributes TEXT NOT NULL, factors INTEGER NOT NULL CHECK (factors BETWEEN 0 AND 2),
    own_pin INTEGER NOT NULL, created_at INTEGER NOT NULL) STRICT`,
  `CREATE TABLE identity (
    id INTEGER PRIMARY KEY AUTOINCREMENT, device_id INTEGER NOT NULL REFERENCES device, generation INTEGER NOT NULL,
    leaf INTEGER NOT NULL UNIQUE, id_core BLOB NOT NULL UNIQUE, salt BLOB NOT NULL, issue_date TEXT NOT NULL,
    issued_at INTEGER NOT NULL, revoked_at INTEGER, seen_at INTEGER, UNIQUE (device_id, generation)) STRICT`,
  'CREATE UNIQUE INDEX identity_in_force ON identity (device_id) WHERE revoked_at IS NULL',
  `CREATE TABLE driver (
    id INTEGER PRIMARY KEY AUTOINCREMENT, attributes TEXT NOT NULL UNIQUE, created_at INTEGER NOT NULL) STRICT`,
  `CREATE TABLE assignment (
    device_id INTEGER NOT NULL REFERENCES device, driver_id INTEGER NOT NULL REFERENCES driver,
    created_at INTEGER NOT NULL, PRIMARY KEY (device_id, driver_id)) STRICT, WITHOUT ROWID`,
  `CREATE TABLE account (
    id INTEGER PRIMARY KEY AUTOINCREMENT, identity_id INTEGER NOT NULL REFERENCES identity,
    driver_id INTEGER REFERENCES driver, user_core BLOB NOT NULL, salt BLOB NOT NULL,
    issued_pin_gen INTEGER NOT NULL, accepted_pin_gen INTEGER NOT NULL, locked INTEGER NOT NULL,
    UNIQUE (identity_id, user_core)) STRICT`,
  'CREATE UNIQUE INDEX account_of_driver ON account (driver_id, identity_id)',
  `CREATE TABLE code (
    code_id BLOB PRIMARY KEY, device_id INTEGER NOT NULL REFERENCES device, driver_id INTEGER REFERENCES driver,
    generation INTEGER, sealed_secret BLOB NOT NULL, made_at INTEGER NOT NULL, expires_at INTEGER NOT NULL,
    used_by BLOB, replaced INTEGER NOT NULL DEFAULT 0) STRICT`,
  'CREATE INDEX code_of_device ON code (device_id)',
  `CREATE TABLE enrolment (
    id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, digest BLOB NOT NULL, hpke_key BLOB NOT NULL UNIQUE,
    nonce BLOB NOT NULL, instance TEXT, attributes TEXT NOT NULL, identity_id INTEGER REFERENCES identity,
    account_id INTEGER REFERENCES account, pin_gen INTEGER, state TEXT NOT NULL,
    created_at INTEGER NOT NULL, expires_at INTEGER NOT NULL, decided_at INTEGER, ticket TEXT) STRICT`,
  `CREATE INDEX enrolment_pending ON enrolment (expires_at) WHERE state = 'pending'`,
  `CREATE TABLE ban (
    id INTEGER PRIMARY KEY AUTOINCREMENT, device_id INTEGER REFERENCES device, driver_id INTEGER REFERENCES driver,
    reason TEXT NOT NULL, since INTEGER NOT NULL, expires_at INTEGER, made_by TEXT NOT NULL, lifted_at INTEGER,
    lifted_by TEXT, CHECK ((device_id IS NULL) <> (driver_id IS NULL))) STRICT`,
  'CREATE UNIQUE INDEX ban_of_device ON ban (device_id) WHERE lifted_at IS NULL',
  'CREATE UNIQUE INDEX ban_of_driver ON ban (driver_id) WHERE lifted_at IS NULL',
  'CREATE INDEX ban_expiry ON ban (expires_at) WHERE lifted_at IS NULL',
  `CREATE TABLE event (
    number INTEGER PRIMARY KEY, kind TEXT NOT NULL, id_core BLOB NOT NULL, user_core BLOB, pin_gen INTEGER,
    at INTEGER NOT NULL, sent_at INTEGER) STRICT`,
  'CREATE INDEX event_waiting ON event (number) WHERE sent_at IS NULL',
  'CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID',
  `INSERT INTO counter (name, value) VALUES ('leaf', 0), ('event', 0)`,
  `CREATE TABLE audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, actor TEXT NOT NULL, action TEXT NOT NULL,
    subject TEXT NOT NULL, outcome TEXT NOT NULL) STRICT`,
  'CREATE INDEX audit_time ON audit (at)',
  `CREATE TABLE ra_key (
    kid TEXT PRIMARY KEY, public_key TEXT NOT NULL, sealed_jwk BLOB NOT NULL, made_at INTEGER NOT NULL) STRICT`,
  `CREATE TABLE rotation (
    id INTEGER PRIMARY KEY AUTOINCREMENT, old_kid TEXT NOT NULL, new_kid TEXT NOT NULL, document TEXT NOT NULL,
    statement TEXT NOT NULL, signatures TEXT NOT NULL, state TEXT NOT NULL, delivered TEXT NOT NULL) STRICT`,
  `CREATE UNIQUE INDEX rotation_open ON rotation ((1)) WHERE state IN ('open', 'signed')`,
  'CREATE TABLE revision (number INTEGER PRIMARY KEY, document TEXT NOT NULL) STRICT',
  'CREATE TABLE log_head (authority INTEGER PRIMARY KEY, number INTEGER NOT NULL, hash BLOB NOT NULL) STRICT',
]

const TEMPLATES_AND_HOOKS = [
  `CREATE TABLE template (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, code_id BLOB NOT NULL UNIQUE,
    sealed_secret BLOB NOT NULL, instance TEXT NOT NULL, attributes TEXT NOT NULL,
    vehicles TEXT NOT NULL CHECK (vehicles IN ('new', 'registered')), factors INTEGER NOT NULL,
    most INTEGER NOT NULL, used INTEGER NOT NULL, made_at INTEGER NOT NULL, made_by TEXT NOT NULL,
    expires_at INTEGER NOT NULL, ended_at INTEGER, CHECK (used BETWEEN 0 AND most)) STRICT`,
  `CREATE TABLE registration_check (
    digest BLOB PRIMARY KEY, decision TEXT NOT NULL CHECK (decision IN ('allow', 'refuse')), note TEXT,
    at INTEGER NOT NULL) STRICT, WITHOUT ROWID`,
  'CREATE INDEX registration_check_time ON registration_check (at)',
  `CREATE TABLE delivery (
    id INTEGER PRIMARY KEY AUTOINCREMENT, message_id TEXT NOT NULL, target TEXT NOT NULL, body TEXT NOT NULL,
    made_at INTEGER NOT NULL, attempts INTEGER NOT NULL, trouble TEXT,
    sent_at INTEGER, dead_at INTEGER) STRICT`,
  'CREATE INDEX delivery_waiting ON delivery (target, id) WHERE sent_at IS NULL AND dead_at IS NULL',
]

/** What reconciliation.ts knows of the authorities' logs, which go by their signing key. */
const LOGS = [
  'CREATE TABLE signed_ticket (hash BLOB PRIMARY KEY) STRICT, WITHOUT ROWID',
  `CREATE TABLE followed_log (
    id INTEGER PRIMARY KEY AUTOINCREMENT, sign_key TEXT NOT NULL UNIQUE, name TEXT NOT NULL,
    size INTEGER NOT NULL, previous BLOB NOT NULL, peaks BLOB NOT NULL, head TEXT, head_at INTEGER,
    read_at INTEGER, leaves_at INTEGER, former_number INTEGER, former_hash BLOB) STRICT`,
  `CREATE TABLE log_fault (
    log INTEGER NOT NULL REFERENCES followed_log, fault TEXT NOT NULL, detail TEXT NOT NULL,
    found_at INTEGER NOT NULL, heads TEXT NOT NULL, PRIMARY KEY (log, fault)) STRICT, WITHOUT ROWID`,
  `CREATE TABLE unknown_key (
    log INTEGER NOT NULL REFERENCES followed_log, number INTEGER NOT NULL, at INTEGER NOT NULL, purpose TEXT NOT NULL,
    id_core_hash BLOB NOT NULL, ticket_hash BLOB NOT NULL, why TEXT NOT NULL, found_at INTEGER NOT NULL,
    PRIMARY KEY (log, number)) STRICT, WITHOUT ROWID`,
  `CREATE TABLE issued_identity (
    identity_id INTEGER PRIMARY KEY REFERENCES identity, id_core_hash BLOB NOT NULL UNIQUE, logs INTEGER NOT NULL) STRICT`,
  'CREATE INDEX issued_identity_logs ON issued_identity (logs)',
  `CREATE TABLE logged_key (
    identity_id INTEGER NOT NULL REFERENCES identity, log INTEGER NOT NULL REFERENCES followed_log,
    PRIMARY KEY (identity_id, log)) STRICT, WITHOUT ROWID`,
]

/** Findings that an operator knows of; and a fault of a log once for each of its facts, since one can come again. */
const ACKNOWLEDGEMENTS = [
  `CREATE TABLE acknowledgement (
    finding TEXT PRIMARY KEY, reason TEXT NOT NULL, made_by TEXT NOT NULL, at INTEGER NOT NULL) STRICT, WITHOUT ROWID`,
  `CREATE TABLE log_fault_of_facts (
    log INTEGER NOT NULL REFERENCES followed_log, fault TEXT NOT NULL, detail TEXT NOT NULL,
    found_at INTEGER NOT NULL, heads TEXT NOT NULL, PRIMARY KEY (log, fault, detail)) STRICT, WITHOUT ROWID`,
  'INSERT INTO log_fault_of_facts SELECT log, fault, detail, found_at, heads FROM log_fault',
  'DROP TABLE log_fault',
  'ALTER TABLE log_fault_of_facts RENAME TO log_fault',
]

const PROPOSED_REVISIONS = [
  `CREATE TABLE proposed_revision (
    id INTEGER PRIMARY KEY AUTOINCREMENT, subject TEXT NOT NULL CHECK (subject IN ('key', 'recipients')), says TEXT NOT NULL,
    old_kid TEXT, new_kid TEXT, document TEXT NOT NULL, statement TEXT NOT NULL, signatures TEXT NOT NULL,
    state TEXT NOT NULL, delivered TEXT NOT NULL,
    CHECK ((subject = 'key') = (old_kid IS NOT NULL AND new_kid IS NOT NULL))) STRICT`,
  `INSERT INTO proposed_revision
    SELECT id, 'key', new_kid, old_kid, new_kid, document, statement, signatures, state, delivered FROM rotation`,
  'DROP TABLE rotation',
  `CREATE UNIQUE INDEX proposed_revision_open ON proposed_revision ((1)) WHERE state IN ('open', 'signed')`,
]

export const migrations: readonly Migration[] = [
  singleUseMigration(1),
  {
    id: 2,
    name: 'fleet',
    async up(db) {
      for (const statement of TABLES) await sql.raw(statement).execute(db)
    },
  },
  {
    id: 3,
    name: 'templates and hooks',
    async up(db) {
      for (const statement of TEMPLATES_AND_HOOKS) await sql.raw(statement).execute(db)
    },
  },
  {
    id: 4,
    name: 'logs followed',
    async up(db) {
      for (const statement of LOGS) await sql.raw(statement).execute(db)
      // Where the reading of each log ended, by the authority's place in the document: it is read anew from its
      // beginning, and must have the same entry there.
      const { rows: revisions } = await sql<{
        document: string
      }>`SELECT document FROM revision ORDER BY number DESC LIMIT 1`.execute(db)
      const members = revisions.flatMap(({ document }) => (JSON.parse(document) as GroupDocument).authorities)
      for (const { index, name, signKey } of members)
        await sql`INSERT INTO followed_log (sign_key, name, size, previous, peaks, former_number, former_hash)
          SELECT ${signKey}, ${name}, 0, x'', x'', number, hash FROM log_head WHERE authority = ${index}`.execute(
          db,
        )
      await sql`DROP TABLE log_head`.execute(db)
      const { rows: kept } = await sql<{
        ticket: string
      }>`SELECT ticket FROM enrolment WHERE ticket IS NOT NULL`.execute(db)
      for (const { ticket } of kept)
        await sql`INSERT INTO signed_ticket (hash) VALUES (${ticketHash(JSON.parse(ticket) as string[])})
          ON CONFLICT DO NOTHING`.execute(db)
    },
  },
  {
    id: 5,
    name: 'ended keys',
    async up(db) {
      await sql`INSERT INTO counter (name, value) VALUES ('keys ended before', 0), ('leaves left out before', 0)`.execute(
        db,
      )
    },
  },
  {
    id: 6,
    name: 'acknowledgements',
    async up(db) {
      for (const statement of ACKNOWLEDGEMENTS) await sql.raw(statement).execute(db)
    },
  },
  {
    id: 7,
    name: 'revoked leaves by name',
    async up(db) {
      // One number has one set, byte for byte: states name the revoked from the next event on.
      await sql`INSERT INTO counter (name, value)
        SELECT 'revoked not named until', value FROM counter WHERE name = 'event'`.execute(db)
    },
  },
  {
    id: 8,
    name: 'revisions with other recipients',
    async up(db) {
      for (const statement of PROPOSED_REVISIONS) await sql.raw(statement).execute(db)
    },
  },
]
