/**
 * Leaves are never given out twice, not even after a restore of the database: a file beside it holds a number that no
 * leaf given out so far exceeds, and a start begins above that number. So a start skips a few leaves (of 2^32), and a
 * backup of the database alone can't bring one back.
 */
import { closeSync, fsyncSync, openSync, readFileSync, renameSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { StoreError } from '@milagro-ts/store/store-error'
import type { Kysely } from 'kysely'
import type { FleetSchema } from './schema.js'

/** Leaves between two writes of the file. */
const STEP = 256

export class LeafCeiling {
  readonly #path: string
  #ceiling: number

  private constructor(path: string, ceiling: number) {
    this.#path = path
    this.#ceiling = ceiling
  }

  /** Lifts the database's counter to the file's number. StoreError when the file holds something else. */
  static async open(dataDir: string, db: Kysely<FleetSchema>): Promise<LeafCeiling> {
    const path = join(dataDir, 'leaf-ceiling')
    const kept = read(path)
    await db
      .updateTable('counter')
      .set({ value: kept })
      .where('name', '=', 'leaf')
      .where('value', '<', kept)
      .execute()
    return new LeafCeiling(path, kept)
  }

  /** Before `leaf` is given out. Synchronous: it stands inside the transaction that gives it out. */
  keep(leaf: number): void {
    if (leaf <= this.#ceiling) return
    const ceiling = leaf + STEP
    write(this.#path, ceiling)
    this.#ceiling = ceiling
  }
}

function read(path: string): number {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return 0
    throw new StoreError('unavailable', `${path} can't be read (${(error as Error).message})`, {
      cause: error,
    })
  }
  if (!/^[1-9][0-9]{0,9}\n$/.test(text))
    throw new StoreError('damaged', `${path} does not hold a number: restore it`)
  return Number(text)
}

function write(path: string, ceiling: number): void {
  const unfinished = `${path}.tmp`
  const file = openSync(unfinished, 'w', 0o600)
  try {
    writeSync(file, `${ceiling}\n`)
    fsyncSync(file)
  } finally {
    closeSync(file)
  }
  renameSync(unfinished, path)
}
