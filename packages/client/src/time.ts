/**
 * Which time it is: by the device's own clock, or, for a device without one, by the RPS' signed answer and a counter.
 *
 *   device                                    RPS
 *   -- nonce (32 random bytes) -->
 *                              <-- mpin-time+jwt{nonce, time} --
 *   now = time + ticks since half of the round trip
 *
 * An old answer doesn't fit the nonce; one that took longer than ROUND_TRIP is thrown away.
 */
import type { Client } from '@milagro-ts/api/call'
import type { rpsRoutes } from '@milagro-ts/api/rps-routes'
import { verifyTime } from '@milagro-ts/api/statements'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import type { Clock, Random } from '@milagro-ts/crypto/ports'
import { ClientError } from './errors.js'
import type { RpsKeys } from './rps-keys.js'

/** Unix milliseconds. */
export interface DeviceTime {
  now(): Promise<number>
  /** The RPS says that the time is wrong: look again, where there is somewhere to look. */
  doubt(): void
}

export const clockTime = (clock: Clock): DeviceTime => ({
  now: () => Promise.resolve(clock()),
  doubt: () => undefined,
})

/** Milliseconds that an answer may take. */
const ROUND_TRIP = 10_000
/** Milliseconds after which the counter may have drifted. */
const GOOD_FOR = 3_600_000

export interface ServerTimePorts {
  readonly rps: Pick<Client<typeof rpsRoutes>, 'time'>
  readonly keys: RpsKeys
  readonly random: Random
  /** Monotonic milliseconds from any origin. */
  readonly ticks: () => number
}

export class ServerTime implements DeviceTime {
  readonly #ports: ServerTimePorts
  #known: { readonly time: number; readonly at: number } | undefined

  constructor(ports: ServerTimePorts) {
    this.#ports = ports
  }

  async now(): Promise<number> {
    const { ticks } = this.#ports
    if (this.#known === undefined || ticks() - this.#known.at > GOOD_FOR) this.#known = await this.#ask()
    return this.#known.time + (ticks() - this.#known.at)
  }

  doubt(): void {
    this.#known = undefined
  }

  async #ask(): Promise<{ time: number; at: number }> {
    const { rps, keys, random, ticks } = this.#ports
    const nonce = random(32)
    const asked = ticks()
    const { time } = await rps.time({ query: { nonce: toBase64Url(nonce) } })
    const answered = ticks()
    if (answered - asked > ROUND_TRIP)
      throw new ClientError('WRONG_ANSWER', 'the time took too long to arrive')
    const seconds = await keys.verified(known => verifyTime({ time, keys: known, nonce }))
    return { time: seconds * 1000, at: (asked + answered) / 2 }
  }
}
