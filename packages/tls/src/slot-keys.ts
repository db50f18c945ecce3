/**
 * A server's own keys of `agree` (protocols.md §7): fetched from the authorities for the current slot and `lead` ahead,
 * kept in memory until their slot and its grace are over, and computed with in the workers alone.
 *
 *   askRecipientKey (recipient-shares.ts): S out of t shares; e(IVK, Hk2(B)) = e(P1, S) when a worker takes it in
 *
 * Nothing is written to disk: after a start the authorities are asked again, so a stolen disk holds no slot key, but who
 * steals hpkeKey and requestKey has what the server has until the group no longer names it.
 */
import type { Group } from '@milagro-ts/api/group'
import type { Log } from '@milagro-ts/api/log'
import { Refused } from '@milagro-ts/api/problem'
import { hasMovedOn, NoQuorum } from '@milagro-ts/api/quorum'
import type { HandedSlotKey } from '@milagro-ts/crypto/crypto-worker'
import type { Clock } from '@milagro-ts/crypto/ports'
import { slotName } from '@milagro-ts/crypto/static-agreement'
import { slotAt, slotStart } from '@milagro-ts/crypto/time-permit'
import { askRecipientKey, mayPass, NotNamed, type RecipientSharePorts } from './recipient-shares.js'

/** Milliseconds between two attempts. */
const PAUSE = 5_000

export interface SlotKeyPorts extends RecipientSharePorts {
  /** The server's name among the recipients of the group document. */
  readonly name: string
  /** The group in force as far as it is known, and a look for what came since. */
  readonly group: () => Group
  readonly follow: () => Promise<Group>
  readonly clock: Clock
  readonly log: Log
}

interface HeldKey extends Omit<HandedSlotKey, 'S'> {
  /** 96 secret bytes; copies of them go to workers. */
  readonly S: Uint8Array
  readonly B: Uint8Array
}

export class SlotKeys {
  readonly #ports: SlotKeyPorts
  readonly #held = new Map<number, HeldKey>()
  #completing: Promise<void> | undefined
  #notBefore = Number.NEGATIVE_INFINITY

  constructor(ports: SlotKeyPorts) {
    this.#ports = ports
  }

  /** B of a slot whose key is here and in the workers. */
  B(slot: number): Uint8Array | undefined {
    return this.#held.get(slot)?.B
  }

  /**
   * Drops what is over and fetches what is missing. While there is no key for the current slot it throws Refused as
   * askAuthorities says, or PoolUnavailable; one for a later slot has time.
   */
  complete(): Promise<void> {
    this.#completing ??= this.#complete().finally(() => {
      this.#completing = undefined
    })
    return this.#completing
  }

  /** The same, in the background and not too often; never rejects. */
  async keepComplete(): Promise<void> {
    const { clock, log } = this.#ports
    if (this.#missing().length === 0 || clock() < this.#notBefore || this.#completing !== undefined) return
    this.#notBefore = clock() + PAUSE
    try {
      await this.complete()
    } catch (error) {
      log.error({ err: error, slots: this.#missing() }, 'no key for the current slot: nobody can come in')
    }
  }

  #missing(): number[] {
    const { name, group, clock } = this.#ports
    const { slotRule, policy } = group()
    const current = slotAt(slotRule, Math.floor(clock() / 1000))
    const generation = group().recipient(name)?.generation
    return Array.from({ length: policy.lead + 1 }, (_, ahead) => current + ahead).filter(slot => {
      const held = this.#held.get(slot)
      // Devices that know the next generation agree on keys with that one; no longer named, it has what it has.
      return held === undefined || (generation !== undefined && held.generation !== generation)
    })
  }

  async #complete(): Promise<void> {
    const { group, clock, pool, log } = this.#ports
    const { slotRule, policy } = group()
    const slots = this.#missing()
    for (const [slot, { S }] of this.#held) {
      if (clock() < (slotStart(slotRule, slot + 1) + policy.grace) * 1000) continue
      this.#held.delete(slot)
      S.fill(0)
    }
    if (slots.length === 0) return
    const outcomes = await Promise.allSettled(slots.map(slot => this.#fetch(slot)))
    const fetched = outcomes.flatMap(outcome => (outcome.status === 'fulfilled' ? [outcome.value] : []))
    const replaced = fetched.flatMap(({ slot }) => this.#held.get(slot) ?? [])
    const all = [...this.#held.values(), ...fetched].filter(key => !replaced.includes(key))
    if (fetched.length > 0) {
      const verdicts = await pool.handOver(async () => all.map(handed))
      if (verdicts.includes(false)) {
        for (const { S } of fetched) S.fill(0)
        throw new Refused('RETRY_LATER', { log: 'the shares of a slot key don’t make the key of this name' })
      }
      for (const key of fetched) this.#held.set(key.slot, key)
      for (const { S } of replaced) S.fill(0)
      log.info({ slots: fetched.map(({ slot }) => slot) }, 'slot keys fetched')
    }
    const failed = outcomes.find(outcome => outcome.status === 'rejected')
    if (failed === undefined) return
    if (!this.#held.has(slotAt(slotRule, Math.floor(clock() / 1000)))) throw failed.reason
    log.warn({ err: failed.reason, slots: this.#missing() }, 'no key for a later slot yet; tried again')
  }

  async #fetch(slot: number): Promise<HeldKey> {
    const { group, follow } = this.#ports
    try {
      return await this.#ask(group(), slot)
    } catch (error) {
      // A later revision than the one that is pinned may name it.
      const isBehind =
        error instanceof NotNamed || (error instanceof NoQuorum && hasMovedOn(group(), error.faults))
      if (!isBehind) throw error
      const newest = await follow().catch((failed: unknown) => {
        throw mayPass(failed) ? failed : error
      })
      return this.#ask(newest, slot)
    }
  }

  async #ask(group: Group, slot: number): Promise<HeldKey> {
    const { name } = this.#ports
    const { groupId } = group
    const recipient = group.recipient(name)
    if (recipient?.kind !== 2 || !recipient.purposes.includes('agree')) throw new NotNamed(`server ${name}`)
    const { generation } = recipient
    const keys = group.keysAt('agree', slot)
    if (keys === null) throw new Refused('RETRY_LATER', { log: 'the group has not begun' })
    const { epoch, ivk } = keys
    const B = slotName(groupId, { kind: 2, name, generation }, slot)
    const S = await askRecipientKey({ group, purpose: 'agree', epoch, name: B, slot }, this.#ports)
    return { purpose: 'agree', groupId, name, generation, slot, epoch, ivk: ivk.encode(), S, B }
  }
}

function handed({ B: _, ...key }: HeldKey): HandedSlotKey {
  return { ...key, S: key.S.slice() }
}
