/**
 * Leaves are never given out twice, not even after a restore of the database: a file beside it holds a number that no
 * leaf given out so far exceeds, and the first leaf after a start is above that number. So a start skips a few leaves
 * (of 2^32), and a backup of the database alone can't bring one back.
 */
import { closeSync, fsyncSync, openSync, readFileSync, renameSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import type { Kysely } from '@milagro-ts/store/kysely'
import { StoreError } from '@milagro-ts/store/store-error'
import { nextNumber } from './events.js'
import type { FleetSchema } from './schema.js'

/** Leaves between two writes of the file. */
const STEP = 256

export class LeafCeiling {
  readonly #path: string
  /** What the file held at the start. */
  readonly #floor: number
  #ceiling: number

  private constructor(path: string, floor: number) {
    this.#path = path
    this.#floor = floor
    this.#ceiling = floor
  }

  /** StoreError when the file holds something else. */
  static open(dataDir: string): LeafCeiling {
    const path = join(dataDir, 'leaf-ceiling')
    return new LeafCeiling(path, read(path))
  }

  /** The next leaf, in the transaction that gives it out; the file goes before. */
  async next(tx: Kysely<FleetSchema>): Promise<number> {
    await tx
      .updateTable('counter')
      .set({ value: this.#floor })
      .where('name', '=', 'leaf')
      .where('value', '<', this.#floor)
      .execute()
    const leaf = await nextNumber(tx, 'leaf')
    if (leaf > this.#ceiling) {
      write(this.#path, leaf + STEP)
      this.#ceiling = leaf + STEP
    }
    return leaf
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
  try {
    const file = openSync(unfinished, 'w', 0o600)
    try {
      writeSync(file, `${ceiling}\n`)
      fsyncSync(file)
    } finally {
      closeSync(file)
    }
    renameSync(unfinished, path)
  } catch (error) {
    throw new StoreError('unavailable', `${path} can't be written (${(error as Error).message})`, {
      cause: error,
    })
  }
}
