/** A line on a terminal that says how far a stream of bytes is, ten times a second at most. */
import type { Clock } from '@milagro-ts/crypto/ports'

const WIDTH = 24
/** Milliseconds. */
const EVERY = 100

export class Progress {
  readonly #write: (text: string) => void
  readonly #clock: Clock
  readonly #size: number | undefined
  readonly #begin: number
  #done = 0
  #told = Number.NEGATIVE_INFINITY
  #longest = 0

  /** @param size Bytes in all, where that is known. */
  constructor(write: (text: string) => void, clock: Clock, size: number | undefined) {
    this.#write = write
    this.#clock = clock
    this.#size = size
    this.#begin = clock()
  }

  add(bytes: number): void {
    this.#done += bytes
    const now = this.#clock()
    if (now - this.#told < EVERY) return
    this.#told = now
    this.#tell(now)
  }

  /** Leaves the terminal as it was. */
  end(): void {
    if (this.#longest > 0) this.#write(`\r${' '.repeat(this.#longest)}\r`)
  }

  #tell(now: number): void {
    const seconds = (now - this.#begin) / 1000
    const speed = seconds > 0 ? `  ${amount(this.#done / seconds)}/s` : ''
    const line = `${this.#bar()}${amount(this.#done)}${speed}`
    this.#longest = Math.max(this.#longest, line.length)
    this.#write(`\r${line.padEnd(this.#longest)}`)
  }

  #bar(): string {
    if (this.#size === undefined || this.#size === 0) return ''
    const part = Math.min(1, this.#done / this.#size)
    const filled = Math.floor(part * WIDTH)
    const percent = String(Math.floor(part * 100)).padStart(3)
    return `[${'#'.repeat(filled)}${'-'.repeat(WIDTH - filled)}] ${percent} %  `
  }
}

function amount(bytes: number): string {
  return bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`
}
