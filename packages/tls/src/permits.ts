/**
 * Whether a device is permitted in a slot, and who it is: the RPS gives the permit that a login of that device would need,
 * with its attributes, and the permit is verified here by the pinned group's public key. So the RPS' word alone lets
 * nobody in, and whoever the RA has banned without anybody hearing of it gets no permit (protocols.md §5).
 */
import type { Group } from '@milagro-ts/api/group'
import { Refused } from '@milagro-ts/api/problem'
import { fromBase64Url } from '@milagro-ts/crypto/bytes'
import type { IdCore } from '@milagro-ts/crypto/identity'
import type { CryptoPool } from '@milagro-ts/crypto/node-pool'
import type { G2 } from '@milagro-ts/crypto/points'
import { CheckedPermit } from '@milagro-ts/crypto/pooled-login'
import { PermitClaim } from '@milagro-ts/crypto/time-permit'
import type { Guard } from '@milagro-ts/rpa/guard'
import type { Permitted } from './door.js'

/** Verified permits in memory. Where permits are for nodes, one speaks for very many devices. */
const KEPT = 10_000
/** How the RPS says that there is no permit for this device. */
const NO_PERMIT: readonly string[] = ['BANNED', 'REVOKED', 'NOT_FOUND', 'EXPIRED', 'PERMIT_EXPIRED']

export interface PermitPorts {
  readonly guard: Pick<Guard, 'permitted'>
  readonly group: () => Group
  readonly pool: CryptoPool
}

export class Permits {
  readonly #ports: PermitPorts
  readonly #verified = new Map<string, Promise<CheckedPermit | null>>()

  constructor(ports: PermitPorts) {
    this.#ports = ports
  }

  /** Null for who has no permit of the slot. Refused RETRY_LATER or INTERNAL, DecodeError, PoolUnavailable: nobody can say. */
  async of(idCore: IdCore, slot: number): Promise<Permitted | null> {
    const answer = await this.#ports.guard.permitted(idCore, slot).catch((error: unknown) => {
      if (error instanceof Refused && NO_PERMIT.includes(error.code)) return null
      throw error
    })
    if (answer === null) return null
    const { permit, attributes, instance } = answer
    const checked = permit === undefined ? null : await this.#check(permit, slot)
    if (checked === null || !checked.covers(idCore))
      throw new Refused('RETRY_LATER', { log: 'the RPS gave no permit of this device and slot' })
    return { attributes, instance }
  }

  #check(text: string, slot: number): Promise<CheckedPermit | null> {
    const known = this.#verified.get(text)
    if (known !== undefined) return known
    const checking = this.#verify(text, slot)
    if (this.#verified.size >= KEPT) this.#verified.delete(this.#verified.keys().next().value as string)
    this.#verified.set(text, checking)
    // What couldn't be verified now is verified when it comes again.
    checking.then(
      checked => checked === null && this.#verified.delete(text),
      () => this.#verified.delete(text),
    )
    return checking
  }

  async #verify(text: string, slot: number): Promise<CheckedPermit | null> {
    const { group, pool } = this.#ports
    const claim = PermitClaim.decode(fromBase64Url(text, 'permit'))
    const keys = group().keysAt('permit', slot)
    if (claim.slot !== slot || keys === null) return null
    const terms = { groupId: group().groupId, permitEpoch: keys.epoch, rule: group().slotRule }
    return CheckedPermit.verify(pool, { terms, publicKey: (keys.pub as G2).encode() }, claim)
  }
}
