/**
 * authOTT: 32 random bytes that a client hands to a service, which turns them, once and within 60 seconds, into who
 * logged in. Kept under the service's name, so that another one that gets hold of it can neither redeem nor spoil it.
 */
import { Refused } from '@milagro-ts/api/problem'
import type { AuthenticatedFields } from '@milagro-ts/api/schemas'
import { fromUtf8, toBase64Url, utf8 } from '@milagro-ts/crypto/bytes'
import type { Clock, Random } from '@milagro-ts/crypto/ports'
import type { SingleUse } from '@milagro-ts/store/single-use'

/** Milliseconds. */
const LIFETIME = 60_000

const kindOf = (service: string) => `ott ${service}`

export class Otts {
  readonly #singleUse: SingleUse
  readonly #clock: Clock
  readonly #random: Random

  constructor({ singleUse, clock, random }: { singleUse: SingleUse; clock: Clock; random: Random }) {
    this.#singleUse = singleUse
    this.#clock = clock
    this.#random = random
  }

  async issue(service: string, who: AuthenticatedFields): Promise<string> {
    const authOtt = toBase64Url(this.#random(32))
    const entry = { value: utf8(JSON.stringify(who)), expiresAt: this.#clock() + LIFETIME }
    await this.#singleUse.put(kindOf(service), authOtt, entry)
    return authOtt
  }

  /** Refused REPLAYED (unknown to this service, or used) or EXPIRED. */
  async redeem(service: string, authOtt: string): Promise<AuthenticatedFields> {
    const taken = await this.#singleUse.take(kindOf(service), authOtt, this.#clock())
    if (taken === null) throw new Refused('REPLAYED', { detail: 'the authOTT is unknown or used' })
    if (taken.expired) throw new Refused('EXPIRED', { detail: 'the authOTT is too old' })
    return JSON.parse(fromUtf8(taken.value, 'authOtt')) as AuthenticatedFields
  }
}
