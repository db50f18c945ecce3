/**
 * Brings what is stored to where it must go: one thing after the other, each until it was taken, at once when there is
 * something new.
 *
 *   commit → wake → send next() → taken → next() …
 *                              ↘ anything else → again after a pause that doubles
 *
 * What is next, and what it means that it was taken, stands in the database: a courier remembers nothing but its pause.
 */
import type { Log } from './log.js'
import type { Timers } from './system.js'

export interface CourierPorts<Item> {
  /** What is to be sent now; undefined when nothing is. */
  readonly next: () => Promise<Item | undefined>
  /** Resolves once it was taken and that is written down; rejects to be asked again after a pause. */
  readonly send: (item: Item) => Promise<void>
  /** What an operator reads of a failure. */
  readonly describe: (error: unknown) => string
  /** What waits, for the log. */
  readonly what: string
  /** Milliseconds. */
  readonly firstPause: number
  readonly longestPause: number
  readonly timers: Timers
  readonly log: Log
}

export class Courier<Item> {
  readonly #ports: CourierPorts<Item>
  #running: Promise<void> | undefined
  #again = false
  #stopped = true
  #pause: number
  #trouble: string | undefined
  #endTimer: () => void = () => {}

  constructor(ports: CourierPorts<Item>) {
    this.#ports = ports
    this.#pause = ports.firstPause
  }

  /** Why the last attempt failed; undefined when it didn't. */
  get trouble(): string | undefined {
    return this.#trouble
  }

  start(): void {
    this.#stopped = false
    this.wake()
  }

  /** There may be something to send. Never throws and never waits. */
  wake(): void {
    if (this.#stopped) return
    this.#again = true
    if (this.#running !== undefined) return
    this.#endTimer()
    this.#running = this.#run().finally(() => {
      this.#running = undefined
      // Woken after the last look and before this line.
      if (this.#again) this.wake()
    })
  }

  /** Resolves once what there is was taken or has failed. */
  async settled(): Promise<void> {
    // Again where it was woken at a run's very end: the next run is the one that brings it.
    while (this.#running !== undefined) await this.#running
  }

  /** Resolves when nothing is under way any more. */
  async stop(): Promise<void> {
    this.#stopped = true
    this.#endTimer()
    await this.#running
  }

  async #run(): Promise<void> {
    const { next, send, firstPause } = this.#ports
    try {
      while (this.#again && !this.#stopped) {
        this.#again = false
        for (let item = await next(); item !== undefined && !this.#stopped; item = await next()) {
          await send(item)
          this.#pause = firstPause
          this.#trouble = undefined
        }
      }
    } catch (error) {
      this.#again = false
      this.#onTrouble(error)
    }
  }

  #onTrouble(error: unknown): void {
    const { describe, log, what, timers, longestPause } = this.#ports
    const trouble = describe(error)
    if (trouble !== this.#trouble) log.warn({ err: error, trouble }, `${what} wait`)
    this.#trouble = trouble
    if (this.#stopped) return
    this.#endTimer = timers.after(this.#pause, () => this.wake())
    this.#pause = Math.min(this.#pause * 2, longestPause)
  }
}
