/**
 * A server's data folder at its start: what was lost of it shows here, before anything is opened or made.
 *
 *   --init          makes the folder, the database, and last of all keys.sealed
 *   a start         wants all three: where there are keys there was a database, and one that is gone, or empty, held
 *                   strikes, ledgers, a register; to begin without it would forget them silently
 *   --init --anew   begins a new database with the keys that are there, once the former one is lost for good
 *
 * Whatever is refused is left as it was found. Who opens a folder has it alone until the database is closed: what is decided
 * by what was read a moment ago (a ledger, a register, strikes) isn't decided twice.
 */
import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { Migration, Store } from '@milagro-ts/store/database'
import { openDatabase } from '@milagro-ts/store/database'
import { FileLock } from '@milagro-ts/store/file-lock'
import { StoreError } from '@milagro-ts/store/store-error'
import { ConfigError } from './config.js'
import { makeFolder, noFolderYet } from './folder.js'

export interface DataFolderOptions {
  readonly dataDir: string
  /** The database's name in it. */
  readonly database: string
  readonly migrations: readonly Migration[]
  readonly init?: boolean
  /** Beside a server that runs: for a command that asks and adds, and keeps nothing in its own memory. */
  readonly beside?: boolean
  /** Only where a server can do without its former database; absent where it can't. */
  readonly anew?: boolean | undefined
  /** False for a database that is whole, and yet not the one that belongs to the folder's other files. */
  readonly belongs?: (store: Store<unknown>) => Promise<boolean>
}

/**
 * The folder's database. ConfigError for a folder that isn't there, can't be made, or has never been initialised;
 * StoreError `locked` for one that another process has open, for one that has lost a part, and as `openDatabase` says.
 */
export async function openDataFolder<Schema>(options: DataFolderOptions): Promise<Store<Schema>> {
  const { dataDir, database, migrations, init = false, anew } = options
  const file = join(dataDir, database)
  if (init) await makeFolder(dataDir)
  const hasKeys = (await sizeOf(join(dataDir, 'keys.sealed'))) !== null
  const size = await sizeOf(file)
  const hasDatabase = size !== null && size > 0
  if (!init && !hasKeys && !hasDatabase) throw noFolderYet(dataDir)
  if (!init && !hasKeys)
    throw new StoreError('missing', `${dataDir} has ${database} but no keys.sealed: ${WAY_TO_KEYS}`)
  if (anew === true && !hasKeys)
    throw new ConfigError(`--anew: '${dataDir}' has no keys.sealed to begin anew with`)
  if (anew === true && hasDatabase) throw new ConfigError(`--anew: '${file}' is there: move it away first`)
  if (anew !== true && hasKeys && !hasDatabase)
    throw new StoreError(
      'missing',
      `${file} ${size === null ? 'is gone' : 'is empty'}: ${wayToDatabase(anew)}`,
    )

  const lock = options.beside === true ? {} : { lockFile: join(dataDir, LOCK) }
  const store = await openDatabase<Schema>({ file, migrations, ...lock }).catch((error: unknown) => {
    if (init && error instanceof StoreError && error.reason === 'unavailable')
      throw new StoreError('unavailable', `setting 'dataDir': ${error.message}`, { cause: error })
    throw asInUse(error, dataDir)
  })
  try {
    if ((await options.belongs?.(store as unknown as Store<unknown>)) === false)
      throw new StoreError(
        'missing',
        `${file} is not the one that was used in this folder: ${wayToDatabase(anew)}`,
      )
    return store
  } catch (error) {
    await store.close()
    throw error
  }
}

/** For what changes a folder's files while its server is away. StoreError `locked` where a process has the folder. */
export function takeDataFolder(dataDir: string): FileLock {
  try {
    return FileLock.take(join(dataDir, LOCK))
  } catch (error) {
    throw asInUse(error, dataDir)
  }
}

/** Held by the server whose folder it is. */
const LOCK = 'process.lock'

function asInUse(error: unknown, dataDir: string): unknown {
  if (!(error instanceof StoreError) || error.reason !== 'locked') return error
  return new StoreError('locked', `data folder ${dataDir} is in use: ${error.message}; end that first`, {
    cause: error,
  })
}

const WAY_TO_KEYS = 'restore it from a backup, or, where nothing was ever served, make it with --init'

/** @param anew Undefined where a server knows no --anew. */
function wayToDatabase(anew: boolean | undefined): string {
  const otherwise = anew === undefined ? 'begin with another dataDir' : 'begin anew with --init --anew'
  return `restore it from a backup, or, if it is lost for good, ${otherwise} (docs/operations.md)`
}

/** In bytes; null when there is no such file. */
async function sizeOf(path: string): Promise<number | null> {
  try {
    return (await stat(path)).size
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return null
    throw new ConfigError(`setting 'dataDir': '${path}' can't be looked at (${codeOf(error)})`)
  }
}

function codeOf(error: unknown): string {
  return (error as NodeJS.ErrnoException).code ?? 'error'
}
