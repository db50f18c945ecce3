/** Nonces of logins: 32 random bytes, single use, 30 seconds; known to every replica through the store. */
import type { Group } from '@milagro-ts/api/group'
import { Refused } from '@milagro-ts/api/problem'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import type { Clock, Random } from '@milagro-ts/crypto/ports'
import { slotAt, slotStart } from '@milagro-ts/crypto/time-permit'
import type { SingleUse } from '@milagro-ts/store/single-use'

const KIND = 'nonce'
/** Milliseconds. */
const LIFETIME = 30_000

export class Nonces {
  readonly #singleUse: SingleUse
  readonly #clock: Clock
  readonly #random: Random

  constructor({ singleUse, clock, random }: { singleUse: SingleUse; clock: Clock; random: Random }) {
    this.#singleUse = singleUse
    this.#clock = clock
    this.#random = random
  }

  async issue(group: Group): Promise<{
    nonce: string
    slot: number
    deviceEpoch: number
    pinEpoch: number
    expiresAt: number
  }> {
    const now = this.#clock()
    const slot = currentSlot(group, now)
    const [deviceEpoch, pinEpoch] = [group.epochAt('device', slot), group.epochAt('pin', slot)]
    if (deviceEpoch === null || pinEpoch === null) throw notBegun()
    const nonce = toBase64Url(this.#random(32))
    const expiresAt = now + LIFETIME
    await this.#singleUse.put(KIND, nonce, { expiresAt })
    return { nonce, slot, deviceEpoch, pinEpoch, expiresAt: Math.floor(expiresAt / 1000) }
  }

  /** Refused REPLAYED for a nonce that is unknown or used, EXPIRED for one that is known but too old. */
  async take(nonce: Uint8Array): Promise<void> {
    const taken = await this.#singleUse.take(KIND, toBase64Url(nonce), this.#clock())
    if (taken === null) throw new Refused('REPLAYED', { detail: 'the nonce is unknown or used' })
    if (taken.expired) throw new Refused('EXPIRED', { detail: 'the nonce is too old' })
  }
}

/** The slot by the server's clock. Refused RETRY_LATER before the group's origin. */
export function currentSlot(group: Group, now: number): number {
  const seconds = Math.floor(now / 1000)
  if (seconds < group.slotRule.origin) throw notBegun()
  return slotAt(group.slotRule, seconds)
}

/** Whether a message or a permit of `slot` counts now: it is the current slot, or the former one within `grace`. */
export function isSlotNow(group: Group, slot: number, now: number): boolean {
  const current = currentSlot(group, now)
  return (
    slot === current ||
    (slot === current - 1 && now / 1000 - slotStart(group.slotRule, current) < group.policy.grace)
  )
}

/** Unix seconds at which `slot` is over. */
export function slotEnd(group: Group, slot: number): number {
  return slotStart(group.slotRule, slot) + group.slotRule.length
}

function notBegun(): Refused {
  return new Refused('RETRY_LATER', { detail: 'the group has not begun', retryAfter: 60 })
}
