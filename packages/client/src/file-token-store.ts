/**
 * The token store as a file, mode 0600 in a folder of mode 0700, replaced as a whole. Beside it `<file>.lock` is an
 * empty SQLite database: its write lock is held while the text is compared and replaced, and the operating system lets
 * go of it when the process dies, so a crash leaves nothing to clean up by hand.
 */
import { closeSync, fsyncSync, openSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import { openDatabase } from '@milagro-ts/store/database'
import type { TokenStore } from './token-store.js'

/** `path` is the file; its folder is made when it isn't there. File system errors pass through. */
export function fileTokenStore(path: string): TokenStore {
  const file = resolve(path)
  return {
    read: async () => readText(file),
    async replace(former, next) {
      await mkdir(dirname(file), { recursive: true, mode: 0o700 })
      const lock = await openDatabase({ file: `${file}.lock`, migrations: [] })
      try {
        return await lock.atomic(() => {
          if (readText(file) !== former) return false
          replaceFile(file, next)
          return true
        })
      } finally {
        await lock.close()
      }
    },
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

/** Always the same unfinished name: what a crash left there (it may hold a token) is gone before the next is written. */
function replaceFile(file: string, text: string): void {
  const unfinished = `${file}.new`
  rmSync(unfinished, { force: true })
  const descriptor = openSync(unfinished, 'wx', 0o600)
  try {
    writeFileSync(descriptor, text)
    fsyncSync(descriptor)
  } finally {
    closeSync(descriptor)
  }
  renameSync(unfinished, file)
  // The new name is an entry of the folder, which has to reach the disk as well. Windows can't open folders.
  if (process.platform === 'win32') return
  const folder = openSync(dirname(file), 'r')
  try {
    fsyncSync(folder)
  } finally {
    closeSync(folder)
  }
}
