import { systemTimers, type Timers } from '@milagro-ts/api/system'
import { SLOT } from './running-servers.js'

/** Turned by hand; what servers do every so often is done when the test says so. */
export class Calendar implements Timers {
  now = Date.UTC(2026, 5, 1, 12)
  readonly #jobs = new Set<() => void>()

  every(_milliseconds: number, run: () => void): () => void {
    this.#jobs.add(run)
    return () => this.#jobs.delete(run)
  }
  after = systemTimers.after

  pass(slots: number): void {
    this.now += slots * SLOT * 1000
    for (const run of this.#jobs) run()
  }
}
