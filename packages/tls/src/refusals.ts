/** Refusals that strangers can bring about in any number: one line of the log in ten seconds says how many, and whose most were. */
import type { Log } from '@milagro-ts/api/log'
import type { Timers } from '@milagro-ts/api/system'

/** Milliseconds from the first to the line that tells of it and of those after it. */
const COLLECTED = 10_000
/** Sources that are counted one by one, and those that the line names. */
const COUNTED = 1_000
const NAMED = 5

export class Refusals {
  readonly #timers: Timers
  readonly #log: Log
  readonly #what: string
  readonly #ofSource = new Map<string, number>()
  #all = 0

  /** @param what The line's text. */
  constructor({ timers, log }: { readonly timers: Timers; readonly log: Log }, what: string) {
    this.#timers = timers
    this.#log = log
    this.#what = what
  }

  add(source: string): void {
    if (this.#all === 0) this.#timers.after(COLLECTED, () => this.#tell())
    this.#all++
    const before = this.#ofSource.get(source)
    if (before !== undefined || this.#ofSource.size < COUNTED) this.#ofSource.set(source, (before ?? 0) + 1)
  }

  #tell(): void {
    const most = [...this.#ofSource]
      .sort(([, one], [, other]) => other - one)
      .slice(0, NAMED)
      .map(([source, refused]) => ({ source, refused }))
    this.#log.warn({ refused: this.#all, most }, this.#what)
    this.#all = 0
    this.#ofSource.clear()
  }
}
