/**
 * How far the issuance log of each group had come, in a file beside the database: `issued.json`. A database that comes
 * back from a backup is behind it, which is how an authority notices that its ledger has forgotten something. (Whoever
 * puts back the whole folder puts back the mark as well: that must be told to the authority, with `dta freeze`.)
 */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import Type, { Compile } from '@milagro-ts/api/typebox'
import { writeFileAtomic } from '@milagro-ts/store/sealed-file'
import { StoreError } from '@milagro-ts/store/store-error'

/** Numbers of log entries by groupId. */
const Marks = Compile(Type.Record(Type.String(), Type.Integer({ minimum: 0 })))

export class LedgerMark {
  readonly #path: string
  readonly #numbers: Map<string, number>
  #written: Promise<void> = Promise.resolve()
  #failed = false

  private constructor(path: string, numbers: Map<string, number>) {
    this.#path = path
    this.#numbers = numbers
  }

  /** StoreError `damaged` for a file that isn't one. */
  static async open(dataDir: string): Promise<LedgerMark> {
    const path = join(dataDir, 'issued.json')
    const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return '{}'
      throw new StoreError('unavailable', `${path} can't be read (${error.code})`, { cause: error })
    })
    return new LedgerMark(path, new Map(Object.entries(parse(text, path))))
  }

  /** Groups that keys were issued in. */
  get groupIds(): readonly string[] {
    return [...this.#numbers.keys()]
  }

  of(groupId: string): number {
    return this.#numbers.get(groupId) ?? 0
  }

  /** Resolves when the file says that entry `number` was made. */
  reach(groupId: string, number: number): Promise<void> {
    const known = this.of(groupId)
    if (number <= known && !this.#failed) return this.#written
    return this.reset(groupId, Math.max(number, known))
  }

  /** As `reach`, backwards too. */
  reset(groupId: string, number: number): Promise<void> {
    this.#numbers.set(groupId, number)
    const write = () => this.#write()
    this.#written = this.#written.then(write, write)
    return this.#written
  }

  async #write(): Promise<void> {
    try {
      await writeFileAtomic(this.#path, `${JSON.stringify(Object.fromEntries(this.#numbers))}\n`)
      this.#failed = false
    } catch (error) {
      this.#failed = true
      throw new StoreError('unavailable', `${this.#path} can't be written: ${(error as Error).message}`, {
        cause: error,
      })
    }
  }
}

const WAY_OUT =
  'restore it from a backup, or, where the database is not from one, delete it (docs/operations.md)'

function parse(text: string, path: string): Record<string, number> {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (cause) {
    throw new StoreError('damaged', `${path} is not JSON: ${WAY_OUT}`, { cause })
  }
  if (!Marks.Check(value)) throw new StoreError('damaged', `${path} holds something else: ${WAY_OUT}`)
  return value
}
