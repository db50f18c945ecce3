/**
 * A folder whose disk can be filled and made read-only: a small tmpfs where this process may mount one. Elsewhere
 * `SmallDisk.mount` is null, and a full store is a database at its page limit (`PageLimit`), which SQLite answers with
 * the same code (SQLITE_FULL).
 */
import { execFileSync } from 'node:child_process'
import { closeSync, mkdtempSync, openSync, rmdirSync, rmSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Store } from '@milagro-ts/store/database'
import { sql } from '@milagro-ts/store/kysely'

/** What can run out of space, and get it back. */
export interface Fillable {
  fill(): Promise<void>
  free(): Promise<void>
}

export class SmallDisk implements Fillable {
  readonly #folder: string
  readonly #views: string[] = []

  private constructor(folder: string) {
    this.#folder = folder
  }

  /** Null where nothing may be mounted; that is said in a line. */
  static mount(folder: string, megabytes = 4): SmallDisk | null {
    if (!mayMount()) return null
    mount('-t', 'tmpfs', '-o', `size=${megabytes}m,mode=700`, 'tmpfs', folder)
    return new SmallDisk(folder)
  }

  async fill(): Promise<void> {
    const ballast = openSync(join(this.#folder, 'ballast'), 'a', 0o600)
    try {
      for (const size of [65_536, 4_096, 1]) while (wasWritten(ballast, size));
    } finally {
      closeSync(ballast)
    }
  }

  async free(): Promise<void> {
    rmSync(join(this.#folder, 'ballast'))
  }

  /** The same folder under another path, where nothing can be written. */
  readOnly(): string {
    const view = bindReadOnly(this.#folder)
    this.#views.push(view)
    return view
  }

  /** Of any folder; null where nothing may be mounted. */
  static readOnlyView(folder: string): { readonly path: string; readonly unmount: () => void } | null {
    if (!mayMount()) return null
    const path = bindReadOnly(folder)
    return {
      path,
      unmount() {
        execFileSync('umount', ['-l', path], { stdio: 'pipe' })
        rmdirSync(path)
      },
    }
  }

  unmount(): void {
    // Lazily: a database that is closed keeps its files until its statements are collected.
    for (const view of this.#views.splice(0)) {
      execFileSync('umount', ['-l', view], { stdio: 'pipe' })
      rmdirSync(view)
    }
    execFileSync('umount', ['-l', this.#folder], { stdio: 'pipe' })
  }
}

/** A database that may not grow, with nothing free in it. */
export class PageLimit implements Fillable {
  readonly #store: Store<unknown>

  constructor(store: Store<unknown>) {
    this.#store = store
  }

  async fill(): Promise<void> {
    await this.#store.atomic(connection => connection.all('PRAGMA max_page_count = 1'))
  }
  async free(): Promise<void> {
    await this.#store.atomic(connection => connection.all('PRAGMA max_page_count = 1073741823'))
  }
}

function bindReadOnly(folder: string): string {
  const view = mkdtempSync(`${folder}-read-only-`)
  mount('--bind', folder, view)
  mount('-o', 'remount,bind,ro', view)
  return view
}

/**
 * A folder that becomes read-only under a server that runs: what it writes by path meets a read-only mount, where one
 * may be made, and what it writes into its open database is answered as SQLite answers then (SQLITE_READONLY). The
 * mount alone can't do that: a kernel doesn't take writing away from files that are open.
 */
export async function withReadOnly<T>(
  folder: string,
  store: Store<unknown>,
  work: () => Promise<T>,
): Promise<T> {
  // Not by `atomic`, whose transaction couldn't begin any more.
  const queryOnly = (value: 'ON' | 'OFF') => sql.raw(`PRAGMA query_only = ${value}`).execute(store.db)
  const isMounted = mayMount()
  if (isMounted) {
    mount('--bind', folder, folder)
    mount('-o', 'remount,bind,ro', folder)
  }
  try {
    await queryOnly('ON')
    return await work().finally(() => queryOnly('OFF'))
  } finally {
    if (isMounted) execFileSync('umount', ['-l', folder], { stdio: 'pipe' })
  }
}

let allowed: boolean | undefined
/** Says so in a line when it mayn't. */
export function mayMount(): boolean {
  if (allowed !== undefined) return allowed
  const folder = mkdtempSync(join(tmpdir(), 'milagro-mount-'))
  try {
    mount('-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', folder)
    execFileSync('umount', [folder], { stdio: 'pipe' })
    allowed = true
  } catch (error) {
    console.log(
      `no tmpfs can be mounted here (${(error as Error).message.split('\n')[0]}): page limits instead`,
    )
    allowed = false
  }
  rmdirSync(folder)
  return allowed
}

function mount(...args: string[]): void {
  execFileSync('mount', args, { stdio: 'pipe' })
}

function wasWritten(file: number, size: number): boolean {
  try {
    return writeSync(file, new Uint8Array(size).fill(0xff)) === size
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOSPC') return false
    throw error
  }
}
