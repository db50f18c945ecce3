/**
 * The door of a server without certificates: which PSK an identity gets, and for how long who came in may stay.
 *
 *   identity                                       PSK
 *   m1, of this slot (or the former one within     e(R + h·Hk1(C), S), out of a worker, or kept since this identity's
 *   grace), not banned, the stream fresh           last handshake in this slot
 *   unknown, banned, late, of another spelling     HMAC of a secret that nobody has: the handshake fails as with a wrong
 *                                                  key, and takes as long
 *
 * What is kept is the PSK, never the verdict: deny list, slot and stream are looked at when a handshake begins, when it
 * ends, at every ban and every second. Who is banned is out at once; who stays past slot and grace is out, since a device
 * that may go on has the next slot's PSK; and once the stream of ban events has been silent for 30 s everybody is out.
 */
import type { Log } from '@milagro-ts/api/log'
import type { Timers } from '@milagro-ts/api/system'
import { utf8 } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { IdCore } from '@milagro-ts/crypto/identity'
import type { CryptoPool } from '@milagro-ts/crypto/node-pool'
import { G1 } from '@milagro-ts/crypto/points'
import type { Clock, Random } from '@milagro-ts/crypto/ports'
import { hmacSha256 } from '@milagro-ts/crypto/sha256'
import { PskIdentity } from '@milagro-ts/crypto/static-agreement'
import { type SlotRule, slotAt, slotStart } from '@milagro-ts/crypto/time-permit'
import type { SlotKeys } from './slot-keys.js'

/** PSKs kept, of identities that have come in: about 0.4 kB each. */
const KEPT = 10_000
/** Milliseconds between two looks at those who are in. */
const LOOK = 1_000

/** A device that has proven itself in a handshake, for as long as its slot and the grace after it. */
export class TlsPeer {
  readonly idCore: IdCore
  readonly slot: number
  /** Unix milliseconds: from here on new connections go by the next slot. */
  readonly endsAt: number
  /** Unix milliseconds: the end of the slot and its grace, when the connection is closed. */
  readonly closesAt: number

  private constructor(idCore: IdCore, slot: number, endsAt: number, closesAt: number) {
    this.idCore = idCore
    this.slot = slot
    this.endsAt = endsAt
    this.closesAt = closesAt
  }

  /** For the door. */
  static admit(identity: PskIdentity, rule: SlotRule, grace: number): TlsPeer {
    const slot = identity.slot as number
    const end = slotStart(rule, slot + 1)
    return new TlsPeer(identity.idCore, slot, end * 1000, (end + grace) * 1000)
  }

  /** The M-Pin ID: base64url of idCore. */
  get mpinId(): string {
    return this.idCore.mpinId
  }
}

/** Who may not come in, as the stream of ban events has it; EventFollower of the RPA package is one. */
export interface Bans {
  /** Whether the list may be believed. */
  readonly fresh: boolean
  readonly list: { denies(idCore: string): string | null }
}

export interface DoorPorts {
  readonly keys: Pick<SlotKeys, 'B' | 'keepComplete'>
  readonly bans: Bans
  /** Of the group in force; `grace` in seconds. */
  readonly rule: () => { readonly slotRule: SlotRule; readonly grace: number }
  readonly pool: Pick<CryptoPool, 'externalPsk'>
  readonly clock: Clock
  readonly random: Random
  readonly timers: Timers
  readonly log: Log
  /** Milliseconds before the end of a slot at which `permit-ending` is told; a minute unless said. */
  readonly notice?: number
}

/** Somebody inside: told once that the slot is about to end, and put out. */
export interface Guest {
  ending(endsAt: number): void
  putOut(why: string): void
}

export class Door {
  readonly #ports: DoorPorts
  readonly #secret: Uint8Array
  /** What a worker computes for who gets nothing of it. */
  readonly #nobody: (slot: number) => string
  readonly #kept = new Map<string, { readonly psk: Uint8Array; readonly slot: number }>()
  readonly #guests = new Map<Guest, { readonly peer: TlsPeer; told: boolean }>()
  #endLooking = () => {}

  constructor(ports: DoorPorts) {
    this.#ports = ports
    this.#secret = ports.random(32)
    const R = G1.generator
    this.#nobody = slot => PskIdentity.ofSlot('m1', IdCore.zero, slot, R).toString()
  }

  start(): void {
    this.#endLooking = this.#ports.timers.every(LOOK, () => {
      void this.#ports.keys.keepComplete()
      this.look()
    })
  }
  /** Puts everybody out. */
  stop(): void {
    this.#endLooking()
    for (const guest of this.#guests.keys()) guest.putOut('the server is stopping')
  }

  /** Whether the ban events are heard; while they aren't, nobody comes in. */
  get hears(): boolean {
    return this.#ports.bans.fresh
  }
  /** Whether anybody can come in now: the ban events are heard, and there is a key for this slot. For readiness. */
  get isOpen(): boolean {
    const { keys, rule, clock } = this.#ports
    return this.hears && keys.B(slotAt(rule().slotRule, Math.floor(clock() / 1000))) !== undefined
  }

  /** The PSK for an identity that a ClientHello offers. PoolUnavailable when nothing can be computed now. */
  async psk(text: string, source: string): Promise<Uint8Array> {
    const identity = this.#mayEnter(text)
    if (identity !== null) {
      const kept = this.#kept.get(text)
      if (kept !== undefined) return kept.psk
    }
    const computed = await this.#compute(identity === null ? undefined : text, source)
    return identity === null || computed === null ? this.decoy(text) : computed
  }

  /** A PSK that nobody else has, the same for the same text. */
  decoy(text: string): Uint8Array {
    return hmacSha256(this.#secret, utf8(text))
  }

  /** Whose handshake by this identity and PSK has succeeded; null for who may not be here (any more). */
  authenticated(text: string, psk: Uint8Array): TlsPeer | null {
    const identity = this.#mayEnter(text)
    if (identity === null) return null
    this.#keep(text, { psk, slot: identity.slot as number })
    const { slotRule, grace } = this.#ports.rule()
    return TlsPeer.admit(identity, slotRule, grace)
  }

  /** From here on `guest` is put out when its time is over; the answer is called when it has left by itself. */
  enter(guest: Guest, peer: TlsPeer): () => void {
    this.#guests.set(guest, { peer, told: false })
    return () => void this.#guests.delete(guest)
  }

  /** At those who are in: at every ban, and every second. */
  look(): void {
    const { bans, clock, notice = 60_000 } = this.#ports
    const now = clock()
    const { fresh } = bans
    for (const [guest, entry] of this.#guests) {
      const { idCore, endsAt, closesAt } = entry.peer
      const why = !fresh
        ? 'the stream of ban events is lost'
        : (bans.list.denies(idCore.mpinId) ?? (now >= closesAt ? 'the slot has ended' : null))
      if (why !== null) {
        this.#guests.delete(guest)
        guest.putOut(why)
      } else if (!entry.told && now >= endsAt - notice) {
        entry.told = true
        guest.ending(endsAt)
      }
    }
    for (const [text, kept] of this.#kept) if (!this.#isNow(kept)) this.#kept.delete(text)
  }

  /** Slot, deny list and stream, as of now. */
  #mayEnter(text: string): PskIdentity | null {
    const { bans, keys } = this.#ports
    const identity = decoded(text)
    if (identity === null || identity.kind !== 'm1' || !this.#isNow(identity)) return null
    if (keys.B(identity.slot as number) === undefined) return null
    return bans.fresh && bans.list.denies(identity.idCore.mpinId) === null ? identity : null
  }

  /** The current slot, or the former one within `grace`. */
  #isNow({ slot }: { readonly slot: number | undefined }): boolean {
    const { rule, clock } = this.#ports
    const { slotRule, grace } = rule()
    const seconds = Math.floor(clock() / 1000)
    const current = slotAt(slotRule, seconds)
    return slot === current || (slot === current - 1 && seconds - slotStart(slotRule, current) < grace)
  }

  /** What the pairing gives; for who gets a decoy it is made as well, so that both take as long. */
  async #compute(text: string | undefined, source: string): Promise<Uint8Array | null> {
    const { keys, pool, rule, clock } = this.#ports
    const current = slotAt(rule().slotRule, Math.floor(clock() / 1000))
    const slot = text === undefined ? current : (PskIdentity.decode(text).slot as number)
    const B = keys.B(slot)
    if (B === undefined) return null
    try {
      return await pool.externalPsk({ B, identity: text ?? this.#nobody(slot) }, source)
    } catch (error) {
      // R is no point.
      if (error instanceof DecodeError) return null
      throw error
    }
  }

  #keep(text: string, kept: { readonly psk: Uint8Array; readonly slot: number }): void {
    this.#kept.delete(text)
    if (this.#kept.size >= KEPT) {
      const [oldest] = this.#kept.keys()
      this.#kept.delete(oldest as string)
    }
    this.#kept.set(text, kept)
  }
}

function decoded(text: string): PskIdentity | null {
  try {
    return PskIdentity.decode(text)
  } catch (error) {
    if (error instanceof DecodeError) return null
    throw error
  }
}
