/**
 * One process at a time: a lock that the operating system lets go of when its holder dies, by whatever death, so that
 * nothing stale is ever left to be broken.
 *
 *   <file>          an empty SQLite database; its write lock is the lock, and nothing is ever written to it
 *   <file>.holder   {pid, since} while somebody holds it: who, for the message of those who wait in vain
 *
 * A pid file alone can't do that: between "its process is gone" and "so the lock is mine" two may come to the same
 * conclusion, and a pid may be somebody else's by then.
 */
import { closeSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import Database from 'libsql'
import { StoreError } from './store-error.js'

/** Milliseconds between two attempts, and until they are given up unless said. */
const AGAIN = 20
const PATIENCE = 5_000

/**
 * Runs `work`, which is synchronous, as the file's only holder. Waits for a holder at most `patience` milliseconds:
 * StoreError `locked` then, naming its process. StoreError `unavailable` when the lock file can't be made or used; what
 * `work` throws passes through.
 */
export async function withFileLock<Result>(
  file: string,
  work: () => Result,
  { patience = PATIENCE }: { patience?: number } = {},
): Promise<Result> {
  const giveUpAt = performance.now() + patience
  const lock = openLock(file)
  try {
    while (!asUnavailable(file, () => begin(lock))) {
      if (performance.now() >= giveUpAt)
        throw new StoreError('locked', `${file} is held by ${holderOf(file)}`)
      await new Promise(resolve => setTimeout(resolve, AGAIN))
    }
    try {
      asUnavailable(file, () => writeFileSync(holderFile(file), holderText(), { mode: 0o600 }))
      return work()
    } finally {
      rmSync(holderFile(file), { force: true })
      // Closing alone leaves the lock until the statements are collected.
      lock.prepare('ROLLBACK').run()
    }
  } finally {
    lock.close()
  }
}

/** Held until it is released, or until this process dies. */
export class FileLock {
  readonly #file: string
  readonly #lock: Database.Database

  private constructor(file: string, lock: Database.Database) {
    this.#file = file
    this.#lock = lock
  }

  /** At once, or StoreError `locked`, naming the holder; `unavailable` when the lock file can't be made or used. */
  static take(file: string): FileLock {
    const lock = openLock(file)
    try {
      if (!asUnavailable(file, () => begin(lock)))
        throw new StoreError('locked', `${file} is held by ${holderOf(file)}`)
      asUnavailable(file, () => writeFileSync(holderFile(file), holderText(), { mode: 0o600 }))
      return new FileLock(file, lock)
    } catch (error) {
      lock.close()
      throw error
    }
  }

  /** A second call does nothing. */
  release(): void {
    if (!this.#lock.open) return
    rmSync(holderFile(this.#file), { force: true })
    this.#lock.prepare('ROLLBACK').run()
    this.#lock.close()
  }
}

/**
 * Makes the file where there is none, and never opens one that is there but through SQLite: to close any other descriptor of
 * it would let go of a lock that this process holds (POSIX).
 */
function openLock(file: string): Database.Database {
  return asUnavailable(file, () => {
    try {
      closeSync(openSync(file, 'ax', 0o600))
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    }
    return new Database(file)
  })
}

/** False while another process, or another call of this one, holds the lock. */
function begin(lock: Database.Database): boolean {
  try {
    lock.prepare('BEGIN IMMEDIATE').run()
    return true
  } catch (error) {
    if (isBusy(error)) return false
    throw error
  }
}

function asUnavailable<Result>(file: string, step: () => Result): Result {
  try {
    return step()
  } catch (error) {
    throw new StoreError('unavailable', `${file} can't be locked (${(error as Error).message})`, {
      cause: error,
    })
  }
}

/** SQLITE_BUSY, whatever its extension. */
export function isBusy(error: unknown): boolean {
  return (
    error instanceof Database.SqliteError && (Number((error as { rawCode?: unknown }).rawCode) & 0xff) === 5
  )
}

const holderFile = (file: string): string => `${file}.holder`
const holderText = (): string => JSON.stringify({ pid: process.pid, since: new Date().toISOString() })

function holderOf(file: string): string {
  try {
    const { pid, since } = JSON.parse(readFileSync(holderFile(file), 'utf8')) ?? {}
    if (Number.isInteger(pid) && typeof since === 'string')
      return `process ${pid} since ${since.slice(0, 24)}`
  } catch (error) {
    // It let go at this very moment, or died while it wrote its name.
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT' && !(error instanceof SyntaxError)) throw error
  }
  return 'another process'
}
