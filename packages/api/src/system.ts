/** The ports of a real machine. Nothing else in the servers and the SDK asks the platform for time or randomness. */
import type { Clock, Random } from '@milagro-ts/crypto/ports'

export const systemRandom: Random = length => crypto.getRandomValues(new Uint8Array(length))
/** Unix milliseconds. */
export const systemClock: Clock = () => Date.now()

/** Timers as a port, so that tests turn them by hand. `every` and `after` return the function that ends them. */
export interface Timers {
  every(milliseconds: number, run: () => void): () => void
  after(milliseconds: number, run: () => void): () => void
}
export const systemTimers: Timers = {
  every(milliseconds, run) {
    const timer = setInterval(run, milliseconds)
    letExit(timer)
    return () => clearInterval(timer)
  },
  after(milliseconds, run) {
    const timer = setTimeout(run, milliseconds)
    letExit(timer)
    return () => clearTimeout(timer)
  },
}

/** Node would wait for its timers before it exits; a browser's are plain numbers. */
function letExit(timer: object | number): void {
  if (typeof timer === 'object' && 'unref' in timer && typeof timer.unref === 'function') timer.unref()
}
