/**
 * One SQLite file per server, through kysely; `:memory:` is the same engine without a file.
 *
 * libsql is synchronous and has one connection here, so statements queue behind kysely's mutex. `atomic` runs a whole
 * transaction without giving up the thread: nothing else of this process can come between its statements, and the
 * write lock, taken at the start, keeps every other process out.
 */
import { randomUUID } from 'node:crypto'
import { access, open, rename, rm } from 'node:fs/promises'
import {
  CompiledQuery,
  type DatabaseConnection,
  type Driver,
  Kysely,
  SqliteDialect,
  SqliteDriver,
  type SqliteStatement,
  sql,
} from 'kysely'
import Database from 'libsql'
import { StoreError } from './store-error.js'

/** How long a statement waits for another process' write lock before it fails as `unavailable`, in ms. */
const BUSY_TIMEOUT = 5000

export type SqlValue = string | number | Uint8Array | null
export type Row = Readonly<Record<string, SqlValue>>

/** What `atomic` hands to its work: plain SQL with `?` placeholders, synchronous. Blobs are `Uint8Array`. */
export interface Connection {
  all(statement: string, parameters?: readonly SqlValue[]): Row[]
  /** Returns the number of rows changed. */
  run(statement: string, parameters?: readonly SqlValue[]): number
}

/**
 * One step of a schema. Numbered from 1 without gaps, never changed once released: a database remembers number and
 * name. `up` runs inside a transaction of its own, so a step is applied whole or not at all.
 */
export interface Migration {
  readonly id: number
  readonly name: string
  up(db: Kysely<unknown>): Promise<void>
}

export interface Store<Schema> {
  /** Transactions of `db` take the write lock when they begin, so none fails half-way for want of it. */
  readonly db: Kysely<Schema>
  /**
   * Runs `work` in one immediate transaction without letting go of the thread; a throw rolls back. Called from inside
   * a `db.transaction()` it would wait for itself for ever: use one or the other.
   */
  atomic<Result>(work: (connection: Connection) => Result): Promise<Result>
  /** Writes a consistent copy (mode 0600) while the store is in use. Throws StoreError when `toFile` exists. */
  backup(toFile: string): Promise<void>
  /** True when a row can be written and committed now: disk, permission and lock are all right. For readiness. */
  writable(): Promise<boolean>
  /** Ends the connection; a second call does nothing. */
  close(): Promise<void>
}

/**
 * Opens `file` (created with mode 0600, or `:memory:`), checks it, and applies the migrations that it lacks.
 *
 * Throws StoreError, with one line for the operator: `damaged` (not a database, or PRAGMA quick_check objects),
 * `newer` (it has a migration that `migrations` hasn't), `foreign` (a migration by another name), `unavailable`.
 * A list of migrations that isn't numbered 1, 2, 3 … is a RangeError.
 */
export async function openDatabase<Schema>({
  file,
  migrations,
}: {
  file: string
  migrations: readonly Migration[]
}): Promise<Store<Schema>> {
  migrations.forEach((migration, at) => {
    if (migration.id !== at + 1)
      throw new RangeError(`migration ${migration.name} must have the id ${at + 1}`)
  })
  const database = await openFile(file)
  try {
    setUp(database, file)
    const db = new Kysely<Schema>({ dialect: new ImmediateDialect(database) })
    await migrate(db, migrations, file)
    return new SqliteStore(db, database)
  } catch (error) {
    database.close()
    throw error
  }
}

async function openFile(file: string): Promise<CheckedDatabase> {
  try {
    // SQLite gives its -wal and -shm files the mode of the main file, so making that one first closes all three.
    if (file !== ':memory:') await (await open(file, 'a', 0o600)).close()
    return new CheckedDatabase(file)
  } catch (error) {
    if (error instanceof StoreError) throw error
    throw new StoreError('unavailable', `database ${file} can't be opened: ${(error as Error).message}`, {
      cause: error,
    })
  }
}

function setUp(database: CheckedDatabase, file: string): void {
  // FULL: a strike or a used nonce must outlive a power cut, so every commit reaches the disk before it is answered.
  database.all(`PRAGMA busy_timeout = ${BUSY_TIMEOUT}`)
  database.all('PRAGMA journal_mode = WAL')
  database.all('PRAGMA synchronous = FULL')
  database.all('PRAGMA foreign_keys = ON')
  // Deleted values (nonces, waiting states) are overwritten rather than left in free pages.
  database.all('PRAGMA secure_delete = ON')
  const findings = database.all('PRAGMA quick_check(1)')
  if (findings[0]?.quick_check !== 'ok') {
    throw new StoreError('damaged', `database ${file} is damaged: restore it from a backup`)
  }
}

async function migrate<Schema>(
  db: Kysely<Schema>,
  migrations: readonly Migration[],
  file: string,
): Promise<void> {
  const untyped = db as unknown as Kysely<unknown>
  await untyped.transaction().execute(async step => {
    await sql`CREATE TABLE IF NOT EXISTS migration (id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT`.execute(
      step,
    )
    await sql`CREATE TABLE IF NOT EXISTS write_probe (id INTEGER PRIMARY KEY, writes INTEGER NOT NULL) STRICT`.execute(
      step,
    )
    const { rows } = await sql<{
      id: number
      name: string
    }>`SELECT id, name FROM migration ORDER BY id`.execute(step)
    for (const applied of rows) {
      const known = migrations[applied.id - 1]
      if (known === undefined) {
        throw new StoreError(
          'newer',
          `database ${file} was written by a newer version (step ${applied.id}, this one knows ${migrations.length}): ` +
            'start that version, or restore a backup made before it',
        )
      }
      if (known.name !== applied.name) {
        throw new StoreError(
          'foreign',
          `database ${file} belongs to another program: its step ${applied.id} is "${applied.name}", not "${known.name}"`,
        )
      }
    }
  })
  for (const migration of migrations) {
    await untyped.transaction().execute(async step => {
      // Looked up again under the write lock: another process may have applied it a moment ago.
      const { rows } = await sql`SELECT 1 FROM migration WHERE id = ${migration.id}`.execute(step)
      if (rows.length > 0) return
      await migration.up(step)
      await sql`INSERT INTO migration (id, name) VALUES (${migration.id}, ${migration.name})`.execute(step)
    })
  }
}

class SqliteStore<Schema> implements Store<Schema> {
  readonly db: Kysely<Schema>
  readonly #database: CheckedDatabase
  #closed = false

  constructor(db: Kysely<Schema>, database: CheckedDatabase) {
    this.db = db
    this.#database = database
  }

  atomic<Result>(work: (connection: Connection) => Result): Promise<Result> {
    return this.#alone(() => {
      this.#database.run('BEGIN IMMEDIATE')
      let result: Result
      try {
        result = work(this.#database)
        this.#database.run('COMMIT')
      } catch (error) {
        // A full disk ends the transaction by itself; a second ROLLBACK would hide the error that matters.
        if (this.#database.inTransaction) this.#database.run('ROLLBACK')
        throw error
      }
      return result
    })
  }

  async backup(toFile: string): Promise<void> {
    if (await exists(toFile)) throw new StoreError('unavailable', `backup ${toFile} exists already`)
    const unfinished = `${toFile}.${randomUUID()}.tmp`
    try {
      // VACUUM INTO accepts an empty file, which is how the copy gets its mode before it holds a byte.
      await (await open(unfinished, 'wx', 0o600)).close()
      await this.#alone(() => this.#database.run('VACUUM INTO ?', [unfinished]))
      const copy = await open(unfinished, 'r+')
      await copy.sync().finally(() => copy.close())
      await rename(unfinished, toFile)
    } catch (error) {
      await rm(unfinished, { force: true })
      if (error instanceof StoreError) throw error
      throw new StoreError('unavailable', `backup ${toFile} can't be written: ${(error as Error).message}`, {
        cause: error,
      })
    }
  }

  async writable(): Promise<boolean> {
    try {
      await this.atomic(connection =>
        connection.run(
          'INSERT INTO write_probe (id, writes) VALUES (1, 1) ON CONFLICT DO UPDATE SET writes = writes + 1',
        ),
      )
      return true
    } catch (error) {
      if (error instanceof StoreError) return false
      throw error
    }
  }

  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    await this.#alone(() => this.#database.all('PRAGMA wal_checkpoint(TRUNCATE)'))
    await this.db.destroy()
  }

  /** Waits for kysely's only connection, then runs `work` on the database itself in one go. */
  #alone<Result>(work: () => Result): Promise<Result> {
    return this.db.connection().execute(() => Promise.resolve().then(work))
  }
}

async function exists(file: string): Promise<boolean> {
  return access(file).then(
    () => true,
    () => false,
  )
}

/** libsql with two corrections: a blob is a `Uint8Array`, and what an operator must mend is a StoreError. */
class CheckedDatabase implements Connection {
  readonly #file: string
  readonly #libsql: Database.Database

  constructor(file: string) {
    this.#file = file
    this.#libsql = new Database(file)
  }

  get inTransaction(): boolean {
    return this.#libsql.inTransaction
  }

  /** The form in which kysely asks. */
  prepare(statement: string): SqliteStatement {
    const prepared = this.#checked(() => this.#libsql.prepare(statement))
    return {
      reader: prepared.reader,
      all: parameters => this.#checked(() => prepared.all(parameters).map(withBytes)),
      run: parameters => this.#checked(() => prepared.run(parameters)),
      iterate: parameters => this.#checked(() => prepared.all(parameters).map(withBytes)[Symbol.iterator]()),
    }
  }

  all(statement: string, parameters: readonly SqlValue[] = []): Row[] {
    return this.prepare(statement).all(parameters) as Row[]
  }

  run(statement: string, parameters: readonly SqlValue[] = []): number {
    return Number(this.prepare(statement).run(parameters).changes)
  }

  close(): void {
    if (this.#libsql.open) this.#libsql.close()
  }

  #checked<Result>(work: () => Result): Result {
    try {
      return work()
    } catch (error) {
      const reason = reasonOf(error)
      if (reason === undefined) throw error
      const what = reason === 'damaged' ? 'is damaged: restore it from a backup' : "can't be used"
      throw new StoreError(reason, `database ${this.#file} ${what} (${(error as Error).message})`, {
        cause: error,
      })
    }
  }
}

/** SQLite's primary result codes (sqlite.org/rescode.html) that speak of the file or the disk, not of the statement. */
function reasonOf(error: unknown): 'damaged' | 'unavailable' | undefined {
  if (!(error instanceof Database.SqliteError)) return undefined
  switch (Number((error as { rawCode?: unknown }).rawCode) & 0xff) {
    case 11: // SQLITE_CORRUPT
    case 26: // SQLITE_NOTADB
      return 'damaged'
    case 3: // SQLITE_PERM
    case 5: // SQLITE_BUSY
    case 6: // SQLITE_LOCKED
    case 7: // SQLITE_NOMEM
    case 8: // SQLITE_READONLY
    case 10: // SQLITE_IOERR
    case 13: // SQLITE_FULL
    case 14: // SQLITE_CANTOPEN
      return 'unavailable'
    default:
      return undefined
  }
}

function withBytes(row: unknown): unknown {
  const converted: Record<string, unknown> = {}
  for (const [column, value] of Object.entries(row as object)) {
    converted[column] = value instanceof ArrayBuffer ? new Uint8Array(value) : value
  }
  return converted
}

class ImmediateDialect extends SqliteDialect {
  readonly #database: CheckedDatabase

  constructor(database: CheckedDatabase) {
    super({ database })
    this.#database = database
  }

  override createDriver(): Driver {
    return new ImmediateDriver(this.#database)
  }
}

/**
 * A transaction that only asks for the write lock at its first write can't have it if another process wrote since its
 * first read; the lock is taken at the beginning instead.
 */
class ImmediateDriver extends SqliteDriver {
  readonly #database: CheckedDatabase

  constructor(database: CheckedDatabase) {
    super({ database })
    this.#database = database
  }

  override async beginTransaction(connection: DatabaseConnection): Promise<void> {
    await connection.executeQuery(CompiledQuery.raw('BEGIN IMMEDIATE'))
  }

  override async rollbackTransaction(connection: DatabaseConnection): Promise<void> {
    if (this.#database.inTransaction) await connection.executeQuery(CompiledQuery.raw('ROLLBACK'))
  }
}
