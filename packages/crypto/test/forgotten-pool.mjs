/** A process that has a worker do one thing, and never closes the pool. */
import { CryptoPool } from '@milagro-ts/crypto/node-pool'

const timers = {
  /** @param {number} milliseconds @param {() => void} run */
  after(milliseconds, run) {
    const timer = setTimeout(run, milliseconds).unref()
    return () => clearTimeout(timer)
  },
}
const random = (/** @type {number} */ length) => new Uint8Array(length)
const pool = CryptoPool.start({ workers: 1, clock: Date.now, random, timers })
console.log((await pool.run('serverKeyShare', new Uint8Array(32).fill(1))).length)
