/**
 * The token store as a file, mode 0600 in a folder of mode 0700, replaced as a whole. Beside it `<file>.lock` is held
 * while the text is compared and replaced (store/file-lock.ts): the operating system lets go of it when the process
 * dies, so a crash leaves nothing to clean up by hand.
 */
import { closeSync, fsyncSync, openSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import { withFileLock } from '@milagro-ts/store/file-lock'
import { StoreError } from '@milagro-ts/store/store-error'
import { ClientError } from './errors.js'
import type { TokenStore } from './token-store.js'

/**
 * `path` is the file; its folder is made when it isn't there. STORE_UNAVAILABLE where it can't be read or written (the
 * text is then the former one, whole), STORE_LOCKED where another process holds it for longer than `patience`
 * milliseconds (5 000 unless said).
 */
export function fileTokenStore(path: string, { patience }: { patience?: number } = {}): TokenStore {
  const file = resolve(path)
  const lock = `${file}.lock`
  return {
    read: async () => usable(() => readText(file)),
    replace: (former, next) =>
      usable(async () => {
        await mkdir(dirname(file), { recursive: true, mode: 0o700 })
        return withFileLock(
          lock,
          () => {
            if (readText(file) !== former) return false
            replaceFile(file, next)
            return true
          },
          patience === undefined ? {} : { patience },
        )
      }),
  }
}

/** What the system says of disk and folder becomes an error that a caller can tell; it holds a path and no text. */
async function usable<T>(work: () => T | Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    if (error instanceof StoreError)
      throw new ClientError(error.reason === 'locked' ? 'STORE_LOCKED' : 'STORE_UNAVAILABLE', message, {
        cause: error,
      })
    if (code === undefined) throw error
    throw new ClientError('STORE_UNAVAILABLE', `the token store can't be used (${message})`, { cause: error })
  }
}

function readText(file: string): string | null {
  try {
    return readFileSync(file, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
    throw error
  }
}

/**
 * Always the same unfinished name: what a crash left there (it may hold a token) is gone before the next is written.
 * So is what a full disk let through, at once.
 */
function replaceFile(file: string, text: string): void {
  const unfinished = `${file}.new`
  rmSync(unfinished, { force: true })
  try {
    const descriptor = openSync(unfinished, 'wx', 0o600)
    try {
      writeFileSync(descriptor, text)
      fsyncSync(descriptor)
    } finally {
      closeSync(descriptor)
    }
    renameSync(unfinished, file)
  } catch (error) {
    rmSync(unfinished, { force: true })
    throw error
  }
  // The new name is an entry of the folder, which has to reach the disk as well. Windows can't open folders.
  if (process.platform === 'win32') return
  const folder = openSync(dirname(file), 'r')
  try {
    fsyncSync(folder)
  } finally {
    closeSync(folder)
  }
}
