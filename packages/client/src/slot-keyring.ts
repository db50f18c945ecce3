/**
 * A device's slot keys, by which it answers other devices: fetched while there is a network, kept in the token store under
 * the unlocker, used without anybody.
 *
 *   fetch      S = s·Hk2(B) from the authorities (slot-key-collection.ts), into the store; what is over goes out of it
 *   answer     the PSK of an identity that a ClientHello offers, by the key of its slot
 */
import type { Group } from '@milagro-ts/api/group'
import type { IdCore } from '@milagro-ts/crypto/identity'
import type { G1 } from '@milagro-ts/crypto/points'
import { AgreeSlotKey, type PskIdentity, serverAgree } from '@milagro-ts/crypto/static-agreement'
import type { Permit } from '@milagro-ts/crypto/time-permit'
import { ClientError } from './errors.js'
import type { Ports } from './ports.js'
import type { DeviceIdentity } from './record.js'
import { collectSlotKey } from './slot-key-collection.js'
import { lockSlotKey, unlockSlotKey } from './unlocker.js'

/** What the ring works on: one identity's place in its store, and the group document as it is known. */
export interface KeyringPlace {
  readonly idCore: IdCore
  group(): Group
  device(): Promise<DeviceIdentity>
  update(change: (device: DeviceIdentity) => DeviceIdentity): Promise<unknown>
}

export class SlotKeyring {
  readonly #ports: Ports
  readonly #place: KeyringPlace
  /** Opened and checked, with their lines. */
  readonly #open = new Map<number, AgreeSlotKey>()

  constructor(ports: Ports, place: KeyringPlace) {
    this.#ports = ports
    this.#place = place
  }

  /** Whether the key of this slot is in the store. */
  async holds(slot: number): Promise<boolean> {
    return (await this.#place.device()).slotKeys.some(key => this.#isOf(key, slot))
  }

  /**
   * Fetches and stores the key of a slot; keys of slots before `current` − 1 go. EPOCH_ENDED: the key of `sign` is of
   * another key epoch than the slot; else as collectSlotKey throws.
   */
  async fetch(
    { slot, current }: { readonly slot: number; readonly current: number },
    { signKey, signEpoch, permit }: { signKey: G1; signEpoch: number; permit: Permit },
  ): Promise<void> {
    const { idCore } = this.#place
    const group = this.#place.group()
    if (signEpoch !== group.epochAt('sign', slot))
      throw new ClientError('EPOCH_ENDED', 'the signing key is of an earlier key epoch')
    const terms = { idCore, slot, signKey, signEpoch, permit }
    const { key, epoch } = await collectSlotKey(this.#ports, group, terms)
    const owner = { groupId: group.groupId, idCore, slot }
    const stored = { slot, epoch, ...(await lockSlotKey(this.#ports.unlocker, owner, key)) }
    await this.#place.update(device => ({
      ...device,
      slotKeys: [
        ...device.slotKeys.filter(known => known.slot >= current - 1 && known.slot !== slot),
        stored,
      ].sort((a, b) => a.slot - b.slot),
    }))
    for (const known of this.#open.keys()) if (known < current - 1) this.#open.delete(known)
  }

  /** 32 secret bytes; null without a key of the identity's slot. DecodeError for an R that is no point. */
  async answer(identity: PskIdentity): Promise<Uint8Array | null> {
    if (identity.slot === undefined) return null
    const key = await this.#opened(identity.slot)
    return key === null ? null : serverAgree(key, identity)
  }

  async #opened(slot: number): Promise<AgreeSlotKey | null> {
    const open = this.#open.get(slot)
    if (open !== undefined) return open
    const stored = (await this.#place.device()).slotKeys.find(key => this.#isOf(key, slot))
    const group = this.#place.group()
    const keys = group.keysAt('agree', slot)
    if (stored === undefined || keys === null) return null
    const { idCore } = this.#place
    const { groupId } = group
    const S = await unlockSlotKey(this.#ports.unlocker, { groupId, idCore, slot }, stored)
    const party = { kind: 1, idCore } as const
    const key = AgreeSlotKey.verify({ groupId, party, slot, epoch: keys.epoch }, keys.ivk, S)
    if (key === null)
      throw new ClientError('STORE_DAMAGED', 'a slot key in the token store is not the group’s')
    this.#open.set(slot, key)
    return key
  }

  /** Of this slot, and of the key epoch that the slot fixes. */
  #isOf(key: { readonly slot: number; readonly epoch: number }, slot: number): boolean {
    return key.slot === slot && key.epoch === this.#place.group().epochAt('agree', slot)
  }
}
