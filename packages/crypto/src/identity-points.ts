/**
 * A bounded cache of A_dev = H1(idCore), the costliest part of a device proof in a batch. What a stranger sends is
 * looked up but never kept: only an identity whose device proof held may enter, so nobody without a device key can
 * flush it. The one that was used longest ago leaves.
 *
 * A hit is faster than a miss, and before a valid device proof nobody may learn who is known. So whoever uses this
 * hashes a refused identity anew, as DeviceProven.verifyBatch does: refusing costs the same operations for all.
 */
import { equalBytes } from './bytes.js'
import type { IdCore } from './identity.js'
import type { DeviceProven } from './mpin.js'
import type { G1 } from './points.js'

export class IdentityPoints {
  readonly #groupId: Uint8Array
  readonly #limit: number
  /** In the order of their last use. */
  readonly #points = new Map<string, G1>()
  #hits = 0
  #misses = 0

  /** Of one group. `limit` identities at most; one takes about 0.5 kB. RangeError for less than none. */
  constructor(groupId: Uint8Array, limit: number) {
    if (!Number.isInteger(limit) || limit < 0) throw new RangeError('a limit is a whole number from 0 on')
    this.#groupId = groupId
    this.#limit = limit
  }

  get size(): number {
    return this.#points.size
  }
  get hits(): number {
    return this.#hits
  }
  get misses(): number {
    return this.#misses
  }

  /** A_dev, if it is here; undefined for another group, too. */
  find(groupId: Uint8Array, idCore: IdCore): G1 | undefined {
    const name = idCore.mpinId
    const point = equalBytes(groupId, this.#groupId) ? this.#points.get(name) : undefined
    if (point === undefined) {
      this.#misses++
      return undefined
    }
    this.#hits++
    this.#points.delete(name)
    this.#points.set(name, point)
    return point
  }

  admit({ binding, message, A_dev }: DeviceProven): void {
    if (this.#limit === 0 || !equalBytes(binding.groupId, this.#groupId)) return
    const name = message.idCore.mpinId
    this.#points.delete(name)
    if (this.#points.size >= this.#limit) {
      const [oldest] = this.#points.keys()
      this.#points.delete(oldest as string)
    }
    this.#points.set(name, A_dev)
  }
}
