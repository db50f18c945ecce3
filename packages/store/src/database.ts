/**
 * One SQLite file per server, through kysely; `:memory:` is the same engine without a file.
 *
 * libsql is synchronous and has one connection here, which is used in turns. `atomic` runs its work without giving up
 * the thread: nothing else of this process can come between its statements, and the write lock, taken at the start,
 * keeps every other process out. What is asked within one turn of the event loop shares a transaction, each in a
 * savepoint of its own, so that it stands or falls by itself.
 *
 * Nobody who used the connection is answered before everything that it wrote, and everything that others wrote before,
 * is on the disk. Nor does anybody wait for the disk on this thread: write-ahead-log.ts.
 */
import { randomUUID } from 'node:crypto'
import { access, open, rename, rm, stat } from 'node:fs/promises'
import { setTimeout } from 'node:timers/promises'
import Database from 'libsql'
import { FileLock, isBusy } from './file-lock.js'
import {
  CompiledQuery,
  type DatabaseConnection,
  type Driver,
  Kysely,
  SqliteDialect,
  SqliteDriver,
  type SqliteStatement,
  sql,
} from './kysely.js'
import { StoreError } from './store-error.js'
import { WriteAheadLog, type WriteAheadLogPorts } from './write-ahead-log.js'
import { PROBE } from './write-probe.js'

/** How long a statement waits for another process' write lock before it fails as `unavailable`, in ms. */
const BUSY_TIMEOUT = 5000
/** Between two tries to have a new file's log, in ms. */
const LOG_PAUSE = 5
/** Pieces of atomic work in one transaction, at most: a few milliseconds of the thread. */
const BATCH = 64

export type SqlValue = string | number | Uint8Array | null
export type Row = Readonly<Record<string, SqlValue>>

/** What `atomic` hands to its work: plain SQL with `?` placeholders, synchronous. Blobs are `Uint8Array`. */
export interface Connection {
  all(statement: string, parameters?: readonly SqlValue[]): Row[]
  /** Returns the number of rows changed. */
  run(statement: string, parameters?: readonly SqlValue[]): number
}

/** What `read` hands to its work. */
export type Reader = Pick<Connection, 'all'>

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
   * Runs `work` whole, within an immediate transaction and without letting go of the thread; a throw undoes it alone.
   * Where the transaction as a whole fails (disk full, no lock), so does everything in it. Called from inside a
   * `db.transaction()` it would wait for itself for ever: use one or the other.
   */
  atomic<Result>(work: (connection: Connection) => Result): Promise<Result>
  /**
   * Runs `work`, which only reads (TypeError otherwise), and waits for nobody's write: neither for the write lock nor
   * for the disk. So it may see what a power cut would take back: it is for what is decided on the way to an answer,
   * never for an answer that confirms what was read.
   */
  read<Result>(work: (reader: Reader) => Result): Promise<Result>
  /** Writes a consistent copy (mode 0600) while the store is in use. Throws StoreError when `toFile` exists. */
  backup(toFile: string): Promise<void>
  /**
   * Folds the write-ahead log into the database and empties it, so that what was overwritten stands in neither. False
   * while another connection reads: ask again later.
   */
  foldLog(): Promise<boolean>
  /**
   * True when a row can be written and committed now: disk, permission and lock are all right, and the file still has
   * its name, without which the next start wouldn't find a word of it. For readiness.
   */
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
 *
 * @param schema `as it is` applies none: for a copy beside a server, which may be of an older version.
 * @param sync Brings the log to the disk: fdatasync, unless a test has another.
 * @param lockFile Held as long as the database is open, for a server that must be the only one: StoreError `locked`, before
 * anything is changed, where another process holds it.
 */
export async function openDatabase<Schema>({
  file,
  migrations,
  schema = 'newest',
  sync,
  lockFile,
}: {
  file: string
  migrations: readonly Migration[]
  schema?: 'newest' | 'as it is'
  sync?: WriteAheadLogPorts['sync']
  lockFile?: string
}): Promise<Store<Schema>> {
  migrations.forEach((migration, at) => {
    if (migration.id !== at + 1)
      throw new RangeError(`migration ${migration.name} must have the id ${at + 1}`)
  })
  const database = await openFile(file)
  let lock: FileLock | undefined
  try {
    lock = lockFile === undefined ? undefined : FileLock.take(lockFile)
    await setUp(database, file)
    const turns = new Turns()
    const log =
      file === ':memory:'
        ? undefined
        : new WriteAheadLog({
            file,
            busyTimeout: BUSY_TIMEOUT,
            alone: work => turns.take(work),
            all: statement => database.all(statement),
            sync,
          })
    database.onCommit = rows => log?.written(rows)
    const db = new Kysely<Schema>({ dialect: new ImmediateDialect({ database, turns, log, lock }) })
    await checkSteps(db, migrations, file)
    if (schema === 'newest') await applySteps(db, migrations)
    const place = file === ':memory:' ? undefined : await placeOf(file)
    return new SqliteStore(db, { database, turns, log, lock }, place)
  } catch (error) {
    database.close()
    lock?.release()
    throw error
  }
}

/**
 * True while a connection, of this process or another, has `file` open: whoever put another file in its place would
 * leave that one writing into the former. False for what is no database. StoreError `unavailable` when it can't be
 * looked at.
 */
export function isInUse(file: string): boolean {
  const database = new CheckedDatabase(file)
  try {
    // Every connection to a database in WAL mode holds a shared lock, and to end that mode takes the exclusive one.
    database.all('PRAGMA journal_mode = DELETE')
    return false
  } catch (error) {
    if (!(error instanceof StoreError)) throw error
    if (error.reason === 'damaged') return false
    if (isBusy(error.cause)) return true
    throw error
  } finally {
    database.close()
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

/**
 * Going over to a write-ahead log takes all locks at once, and where two processes do so with one new file SQLite doesn't let
 * either wait for the other, whatever its timeout: it is tried again.
 */
async function turnToLog(database: CheckedDatabase): Promise<void> {
  const until = performance.now() + BUSY_TIMEOUT
  for (;;) {
    try {
      database.all('PRAGMA journal_mode = WAL')
      return
    } catch (error) {
      if (performance.now() > until || !isBusy((error as StoreError).cause)) throw error
    }
    await setTimeout(LOG_PAUSE)
  }
}

async function setUp(database: CheckedDatabase, file: string): Promise<void> {
  database.all(`PRAGMA busy_timeout = ${BUSY_TIMEOUT}`)
  await turnToLog(database)
  // A strike or a used nonce must outlive a power cut: the rest of FULL, and the checkpoints, are write-ahead-log.ts's.
  database.all('PRAGMA synchronous = NORMAL')
  database.all('PRAGMA wal_autocheckpoint = 0')
  database.all('PRAGMA foreign_keys = ON')
  // Deleted values (nonces, waiting states) are overwritten rather than left in free pages.
  database.all('PRAGMA secure_delete = ON')
  const findings = database.all('PRAGMA quick_check(1)')
  if (findings[0]?.quick_check !== 'ok') {
    throw new StoreError('damaged', `database ${file} is damaged: restore it from a backup`)
  }
}

/** The steps that `file` has are the first ones of `migrations`: else StoreError. */
async function checkSteps<Schema>(
  db: Kysely<Schema>,
  migrations: readonly Migration[],
  file: string,
): Promise<void> {
  const tables = await sql`SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'migration'`.execute(
    db,
  )
  if (tables.rows.length === 0) return
  const { rows } = await sql<{
    id: number
    name: string
  }>`SELECT id, name FROM migration ORDER BY id`.execute(db)
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
}

async function applySteps<Schema>(db: Kysely<Schema>, migrations: readonly Migration[]): Promise<void> {
  const untyped = db as unknown as Kysely<unknown>
  await untyped.transaction().execute(async step => {
    await sql`CREATE TABLE IF NOT EXISTS migration (id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT`.execute(
      step,
    )
    await sql`CREATE TABLE IF NOT EXISTS write_probe (id INTEGER PRIMARY KEY, writes INTEGER NOT NULL) STRICT`.execute(
      step,
    )
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

interface Asked {
  readonly work: (connection: Connection) => unknown
  readonly resolve: (result: never) => void
  readonly reject: (error: unknown) => void
}

class SqliteStore<Schema> implements Store<Schema> {
  readonly db: Kysely<Schema>
  readonly #parts: Parts
  readonly #database: CheckedDatabase
  /** Of the file that was opened; none of `:memory:`. */
  readonly #place: Place | undefined
  #asked: Asked[] = []
  #answering: Promise<void> | undefined
  #closed = false

  constructor(db: Kysely<Schema>, parts: Parts, place: Place | undefined) {
    this.db = db
    this.#parts = parts
    this.#database = parts.database
    this.#place = place
  }

  atomic<Result>(work: (connection: Connection) => Result): Promise<Result> {
    return new Promise<Result>((resolve, reject) => {
      this.#asked.push({ work, resolve, reject })
      this.#answering ??= this.#answer()
    })
  }

  read<Result>(work: (reader: Reader) => Result): Promise<Result> {
    return this.#parts.turns.take(() => work(this.#database.reader))
  }

  /** One transaction of what was asked until its turn comes. */
  async #answer(): Promise<void> {
    // What else this turn of the event loop has to ask comes along.
    await new Promise(resolve => setImmediate(resolve))
    const { turns, log } = this.#parts
    let asked: Asked[] = []
    try {
      const settle = await turns.take(() => {
        asked = this.#asked.splice(0, BATCH)
        this.#answering = this.#asked.length > 0 ? this.#answer() : undefined
        return this.#transaction(asked)
      })
      await log?.synced()
      for (const done of settle) done()
    } catch (error) {
      for (const { reject } of asked) reject(error)
    }
  }

  /** What is left to be done once it is on the disk. */
  #transaction(asked: readonly Asked[]): (() => void)[] {
    this.#database.run('BEGIN IMMEDIATE')
    try {
      const settle = asked.map(one => this.#attempt(one))
      this.#database.run('COMMIT')
      return settle
    } catch (error) {
      // A full disk ends the transaction by itself; a second ROLLBACK would hide the error that matters.
      if (this.#database.inTransaction) this.#database.run('ROLLBACK')
      throw error
    }
  }

  #attempt({ work, resolve, reject }: Asked): () => void {
    this.#database.run('SAVEPOINT asked')
    let settle: () => void
    try {
      const result = work(this.#database) as never
      settle = () => resolve(result)
    } catch (error) {
      if (!this.#database.inTransaction) throw error
      this.#database.run('ROLLBACK TO asked')
      settle = () => reject(error)
    }
    this.#database.run('RELEASE asked')
    return settle
  }

  async backup(toFile: string): Promise<void> {
    if (await exists(toFile)) throw new StoreError('unavailable', `backup ${toFile} exists already`)
    const unfinished = `${toFile}.${randomUUID()}.tmp`
    try {
      // VACUUM INTO accepts an empty file, which is how the copy gets its mode before it holds a byte.
      await (await open(unfinished, 'wx', 0o600)).close()
      await this.#parts.turns.take(() => this.#database.run('VACUUM INTO ?', [unfinished]))
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

  async foldLog(): Promise<boolean> {
    const { turns, log } = this.#parts
    await log?.synced()
    const [done] = await turns.take(() => this.#database.all('PRAGMA wal_checkpoint(TRUNCATE)'))
    return done?.busy === 0
  }

  async writable(): Promise<boolean> {
    try {
      await this.atomic(connection => connection.run(PROBE))
      const place = this.#place
      return place === undefined || isSameFile(place, await placeOf(place.file))
    } catch (error) {
      if (error instanceof StoreError) return false
      throw error
    }
  }

  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    const { turns, log, lock } = this.#parts
    while (this.#answering !== undefined) await this.#answering
    try {
      await turns.take(() => this.#database.all('PRAGMA wal_checkpoint(TRUNCATE)'))
      await log?.synced()
    } finally {
      await log?.close()
      await this.db.destroy()
      lock?.release()
    }
  }
}

async function exists(file: string): Promise<boolean> {
  return access(file).then(
    () => true,
    () => false,
  )
}

/** Who may use the connection, in the order of asking. */
class Turns {
  #last: Promise<void> = Promise.resolve()

  /** Resolves, when it is one's turn, to the function that ends it. */
  async next(): Promise<() => void> {
    const before = this.#last
    let end: () => void = () => {}
    this.#last = new Promise(resolve => {
      end = resolve
    })
    await before
    return end
  }

  async take<Result>(work: () => Promise<Result> | Result): Promise<Result> {
    const end = await this.next()
    try {
      return await work()
    } finally {
      end()
    }
  }
}

interface Parts {
  readonly database: CheckedDatabase
  readonly turns: Turns
  /** None of `:memory:`. */
  readonly log: WriteAheadLog | undefined
  /** None of a database that others may have open. */
  readonly lock: FileLock | undefined
}

/** Which file has a name. */
interface Place {
  readonly file: string
  readonly device: number
  readonly inode: number
}

/** StoreError `unavailable` when there is none, or it can't be looked at. */
async function placeOf(file: string): Promise<Place> {
  try {
    const { dev, ino } = await stat(file)
    return { file, device: dev, inode: ino }
  } catch (error) {
    throw new StoreError('unavailable', `database ${file} can't be looked at (${(error as Error).message})`, {
      cause: error,
    })
  }
}

const isSameFile = (a: Place, b: Place): boolean => a.device === b.device && a.inode === b.inode

interface Prepared {
  readonly statement: Database.Statement
  readonly reader: boolean
  readonly writes: boolean
}
/** Statements kept prepared; preparing one takes longer than running it. */
const PREPARED = 256
const READS = /^\s*(?:SELECT|EXPLAIN|PRAGMA|BEGIN|COMMIT|ROLLBACK|SAVEPOINT|RELEASE|VACUUM INTO)\b/i

/** libsql with two corrections: a blob is a `Uint8Array`, and what an operator must mend is a StoreError. */
class CheckedDatabase implements Connection {
  /** Told of each commit, and how many rows it has changed. */
  onCommit: (rows: number) => void = () => {}
  readonly reader: Reader = {
    all: (statement, parameters) => {
      if (this.#prepare(statement).writes) throw new TypeError('read only reads')
      return this.all(statement, parameters)
    },
  }
  readonly #file: string
  readonly #libsql: Database.Database
  /** By text, the longest unused first. */
  readonly #prepared = new Map<string, Prepared>()
  #uncommitted = 0

  constructor(file: string) {
    this.#file = file
    this.#libsql = new Database(file)
  }

  get inTransaction(): boolean {
    return this.#libsql.inTransaction
  }

  /** The form in which kysely asks. */
  prepare(statement: string): SqliteStatement {
    return {
      reader: this.#prepare(statement).reader,
      all: parameters => this.all(statement, parameters as readonly SqlValue[]) as unknown[],
      run: parameters => this.#run(statement, parameters as readonly SqlValue[]),
      iterate: parameters =>
        this.all(statement, parameters as readonly SqlValue[])[
          Symbol.iterator
        ]() as IterableIterator<unknown>,
    }
  }

  all(statement: string, parameters: readonly SqlValue[] = []): Row[] {
    const prepared = this.#prepare(statement)
    const rows = this.#checked(() => prepared.statement.all(parameters).map(withBytes)) as Row[]
    this.#changed(prepared, rows.length)
    return rows
  }

  run(statement: string, parameters: readonly SqlValue[] = []): number {
    return Number(this.#run(statement, parameters).changes)
  }

  close(): void {
    this.#prepared.clear()
    if (this.#libsql.open) this.#libsql.close()
  }

  #run(statement: string, parameters: readonly SqlValue[]): Database.RunResult {
    const prepared = this.#prepare(statement)
    const result = this.#checked(() => prepared.statement.run(parameters))
    this.#changed(prepared, Number(result.changes))
    return result
  }

  #prepare(text: string): Prepared {
    let prepared = this.#prepared.get(text)
    if (prepared === undefined) {
      const statement = this.#checked(() => this.#libsql.prepare(text))
      prepared = { statement, reader: statement.reader, writes: !READS.test(text) }
      if (this.#prepared.size >= PREPARED) this.#prepared.delete(this.#prepared.keys().next().value as string)
    } else this.#prepared.delete(text)
    this.#prepared.set(text, prepared)
    return prepared
  }

  /** A schema that changes counts as a row. Only what is committed can be brought to the disk. */
  #changed({ writes }: Prepared, rows: number): void {
    if (writes) this.#uncommitted += Math.max(1, rows)
    if (this.#uncommitted === 0 || this.inTransaction) return
    const changed = this.#uncommitted
    this.#uncommitted = 0
    this.onCommit(changed)
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
  readonly #parts: Parts

  constructor(parts: Parts) {
    super({ database: parts.database })
    this.#parts = parts
  }

  override createDriver(): Driver {
    return new ImmediateDriver(this.#parts)
  }
}

/**
 * A transaction that only asks for the write lock at its first write can't have it if another process wrote since its
 * first read; the lock is taken at the beginning instead. Whoever gives the connection back waits for the disk only
 * then, while the next one uses it.
 */
class ImmediateDriver extends SqliteDriver {
  readonly #parts: Parts
  #endTurn: () => void = () => {}

  constructor(parts: Parts) {
    super({ database: parts.database })
    this.#parts = parts
  }

  override async acquireConnection(): Promise<DatabaseConnection> {
    this.#endTurn = await this.#parts.turns.next()
    return super.acquireConnection()
  }

  override async releaseConnection(): Promise<void> {
    await super.releaseConnection()
    this.#endTurn()
    await this.#parts.log?.synced()
  }

  override async beginTransaction(connection: DatabaseConnection): Promise<void> {
    await connection.executeQuery(CompiledQuery.raw('BEGIN IMMEDIATE'))
  }

  override async rollbackTransaction(connection: DatabaseConnection): Promise<void> {
    if (this.#parts.database.inTransaction) await connection.executeQuery(CompiledQuery.raw('ROLLBACK'))
  }
}
