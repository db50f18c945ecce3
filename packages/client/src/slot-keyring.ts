/**
 * A device's slot keys: fetched while there is a network, kept in the token store under the unlocker, used without anybody.
 *
 *   fetch      the key from the authorities (slot-key-collection.ts), into the store; what is over goes out of it
 *   dropEnded  out of the store with what is over
 *   keyOf      the key of a slot, unlocked
 *
 * Of `agree` it is S = s·Hk2(B), by which the device answers other devices (PeerKeys: the PSK of an identity that a
 * ClientHello offers); of `encrypt` s·He(B), by which it opens files.
 */
import type { Group, PurposeKeys } from '@milagro-ts/api/group'
import type { IdCore } from '@milagro-ts/crypto/identity'
import type { G1, G2 } from '@milagro-ts/crypto/points'
import { AgreeSlotKey, type PskIdentity, serverAgree } from '@milagro-ts/crypto/static-agreement'
import type { Permit } from '@milagro-ts/crypto/time-permit'
import { ClientError } from './errors.js'
import type { Ports } from './ports.js'
import type { DeviceIdentity, StoredSlotKey } from './record.js'
import { agreeSlotKeys, collectSlotKey, encryptSlotKeys, type SlotKeyKind } from './slot-key-collection.js'
import { agreeSlotLock, encryptSlotLock, type SlotKeyLock } from './unlocker.js'

/** What a ring works on: one identity's place in its store, and the group document as it is known. */
export interface KeyringPlace {
  readonly idCore: IdCore
  group(): Group
  device(): Promise<DeviceIdentity>
  update(change: (device: DeviceIdentity) => DeviceIdentity): Promise<unknown>
}

/** A purpose's slot keys, and where they lie. */
interface RingOf<P> {
  readonly kind: SlotKeyKind<P>
  readonly lock: SlotKeyLock<P>
  /** Slots for which a key is kept after its own has ended. */
  readonly kept: number
  readonly stored: (device: DeviceIdentity) => readonly StoredSlotKey<P>[]
  readonly storing: (keys: readonly StoredSlotKey<P>[]) => Partial<DeviceIdentity>
}
/** A peer may offer an identity of the former slot within `grace`. */
const PEERS: RingOf<G2> = {
  kind: agreeSlotKeys,
  lock: agreeSlotLock,
  kept: 1,
  stored: ({ slotKeys }) => slotKeys,
  storing: slotKeys => ({ slotKeys }),
}
/** Files of a slot end with it. */
const FILES: RingOf<G1> = {
  kind: encryptSlotKeys,
  lock: encryptSlotLock,
  kept: 0,
  stored: ({ fileKeys }) => fileKeys,
  storing: fileKeys => ({ fileKeys }),
}

export class SlotKeyring<P> {
  readonly #ports: Ports
  readonly #place: KeyringPlace
  readonly #of: RingOf<P>

  private constructor(ports: Ports, place: KeyringPlace, of: RingOf<P>) {
    this.#ports = ports
    this.#place = place
    this.#of = of
  }

  static ofPeers(ports: Ports, place: KeyringPlace): SlotKeyring<G2> {
    return new SlotKeyring(ports, place, PEERS)
  }
  static ofFiles(ports: Ports, place: KeyringPlace): SlotKeyring<G1> {
    return new SlotKeyring(ports, place, FILES)
  }

  /** Whether the key of this slot is in the store. */
  async holds(slot: number): Promise<boolean> {
    return (await this.#find(slot)) !== undefined
  }

  /**
   * Fetches and stores the key of a slot; keys of slots that are over go. EPOCH_ENDED: the key of `sign` is of another key
   * epoch than the slot; else as collectSlotKey throws.
   */
  async fetch(
    { slot, current }: { readonly slot: number; readonly current: number },
    { signKey, signEpoch, permit }: { signKey: G1; signEpoch: number; permit: Permit },
  ): Promise<void> {
    const { kind, lock } = this.#of
    const { idCore } = this.#place
    const group = this.#place.group()
    if (signEpoch !== group.epochAt('sign', slot)) throw signingKeyEnded()
    const terms = { idCore, slot, signKey, signEpoch, permit }
    const { key, epoch } = await collectSlotKey(this.#ports, group, kind, terms)
    const owner = { groupId: group.groupId, idCore, slot }
    const fetched = { slot, epoch, ...(await lock.lock(this.#ports.unlocker, owner, key)) }
    await this.#keep(current, keys => [...keys.filter(known => known.slot !== slot), fetched])
  }

  /** Keys of slots that are over go out of the store. */
  async dropEnded(current: number): Promise<void> {
    const { stored, kept } = this.#of
    const isOver = stored(await this.#place.device()).some(({ slot }) => slot < current - kept)
    if (isOver) await this.#keep(current, keys => keys)
  }

  /** The key of a slot, secret, and what it belongs to; null where it isn't here. WRONG_UNLOCKER, STORE_DAMAGED. */
  async keyOf(slot: number): Promise<{ readonly key: P; readonly keys: PurposeKeys } | null> {
    const { kind, lock } = this.#of
    const found = await this.#find(slot)
    const group = this.#place.group()
    const keys = group.keysAt(kind.purpose, slot)
    if (found === undefined || keys === null) return null
    const owner = { groupId: group.groupId, idCore: this.#place.idCore, slot }
    const key = await lock.unlock(this.#ports.unlocker, owner, found)
    if (!kind.belongs(owner, keys, key))
      throw new ClientError('STORE_DAMAGED', 'a slot key in the token store is not the group’s')
    return { key, keys }
  }

  #keep(
    current: number,
    change: (keys: readonly StoredSlotKey<P>[]) => readonly StoredSlotKey<P>[],
  ): Promise<unknown> {
    const { stored, storing, kept } = this.#of
    return this.#place.update(device => ({
      ...device,
      ...storing(
        change(stored(device))
          .filter(({ slot }) => slot >= current - kept)
          .sort((a, b) => a.slot - b.slot),
      ),
    }))
  }

  /** Of this slot, and of the key epoch that the slot fixes. */
  async #find(slot: number): Promise<StoredSlotKey<P> | undefined> {
    const { kind, stored } = this.#of
    const epoch = this.#place.group().epochAt(kind.purpose, slot)
    return stored(await this.#place.device()).find(key => key.slot === slot && key.epoch === epoch)
  }
}

/** What a device answers others by. */
export class PeerKeys {
  readonly #ring: SlotKeyring<G2>
  readonly #place: KeyringPlace
  /** Opened and checked, with their lines. */
  readonly #open = new Map<number, AgreeSlotKey>()

  constructor(ring: SlotKeyring<G2>, place: KeyringPlace) {
    this.#ring = ring
    this.#place = place
  }

  /** Nothing is answered by a key of a slot before the former one. */
  forgetBefore(current: number): void {
    for (const slot of this.#open.keys()) if (slot < current - PEERS.kept) this.#open.delete(slot)
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
    const found = await this.#ring.keyOf(slot)
    if (found === null) return null
    const { epoch, ivk } = found.keys
    const { groupId } = this.#place.group()
    const party = { kind: 1, idCore: this.#place.idCore } as const
    const key = AgreeSlotKey.verify({ groupId, party, slot, epoch }, ivk, found.key) as AgreeSlotKey
    this.#open.set(slot, key)
    return key
  }
}

export const signingKeyEnded = (): ClientError =>
  new ClientError('EPOCH_ENDED', 'the signing key is of an earlier key epoch')
