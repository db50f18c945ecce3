/**
 * The door of a server without certificates: which PSK an identity gets, and for how long who came in may stay.
 *
 *   identity                                       PSK
 *   m1, of this slot (or the former one within     e(R + h·Hk1(C), S), out of a worker, or kept since this identity's
 *   grace), not banned, permitted, the stream      last handshake in this slot
 *   fresh
 *   unknown, banned, late, without a permit,       HMAC of a secret that nobody has: the handshake fails as with a wrong
 *   of another spelling                            key, after the same pairing
 *   m2 (TLS 1.2, where the server wants it)        the same, if it is here already: TLS 1.2 names the identity when no
 *                                                  worker can be waited for. Who isn't known gets the decoy and is made
 *                                                  ready, so that its next attempt comes in
 *
 * The permit of (device, slot) is asked for once the ClientHello's binder has shown that its sender has the PSK, so strangers
 * cost nobody but this server, and the banned are asked about as everybody is. TLS 1.2 shows nothing by then: each source has few
 * questions at once there. The answer holds for the slot once the device has come in, and for some seconds until then.
 *
 * What is kept is PSK, permit and attributes, never the verdict: deny list, slot and stream are looked at when a handshake
 * begins, when it ends, at every ban and every second. Who is banned is out at once; who stays past slot and grace is out,
 * since a device that may go on has the next slot's PSK; and once the stream of ban events has been silent for 30 s
 * everybody is out.
 */
import type { Log } from '@milagro-ts/api/log'
import type { Metrics } from '@milagro-ts/api/metrics'
import { Refused } from '@milagro-ts/api/problem'
import { type Rate, RateLimit, sourceOf } from '@milagro-ts/api/rate-limit'
import type { Timers } from '@milagro-ts/api/system'
import { utf8 } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { IdCore } from '@milagro-ts/crypto/identity'
import { type CryptoPool, PoolUnavailable } from '@milagro-ts/crypto/node-pool'
import { G1 } from '@milagro-ts/crypto/points'
import type { Clock, Random } from '@milagro-ts/crypto/ports'
import { hmacSha256 } from '@milagro-ts/crypto/sha256'
import { PskIdentity, type SlotPskKind } from '@milagro-ts/crypto/static-agreement'
import { type SlotRule, slotAt, slotStart } from '@milagro-ts/crypto/time-permit'
import { Refusals } from './refusals.js'
import type { SlotKeys } from './slot-keys.js'

/** PSKs and permits kept, of identities that have come in: about 1 kB each. */
const KEPT = 100_000
/** Who has come again, and keeps the place, for one that comes newly: more of them would take too long at once. */
const SPARED = 1_000
/** Of one device in a slot: it has another R only where it has begun afresh. */
const KEPT_OF_ONE = 4
/** So many pairings of one device in a slot are paid back. */
const PAID_BACK = 16
/** PSKs and answers of TLS 1.2, of those who have shown nothing yet. */
const READY = 10_000
/** PSK identities that were read, kept for the end of their handshakes. */
const READ = 1_024
/** Milliseconds that what was said of a device holds before it has come in. */
const SAID = 5_000
/** Milliseconds that PSK and permit wait for a handshake. */
const WAIT = 120_000
/** Questions about devices at once. */
const MOST_ASKED = 256
/** For TLS 1.2, of one source. */
const MOST_MADE_OF_ONE = 16
/** From one source, pairings that no handshake came of. */
export const PAIRINGS_PER_SOURCE: Rate = { perSecond: 50, burst: 500 }
/** Milliseconds between two lines of the log about questions that nobody answers. */
const COMPLAINT = 10_000
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

  /** As the RA has them. */
  readonly attributes: Readonly<Record<string, string>>
  /** The VIN, or what else tells instances apart. */
  readonly instance: string

  private constructor(
    idCore: IdCore,
    slot: number,
    { endsAt, closesAt }: { endsAt: number; closesAt: number },
    { attributes, instance }: Permitted,
  ) {
    this.idCore = idCore
    this.slot = slot
    this.endsAt = endsAt
    this.closesAt = closesAt
    this.attributes = attributes
    this.instance = instance
  }

  /** For the door. */
  static admit(identity: PskIdentity, permitted: Permitted, rule: SlotRule, grace: number): TlsPeer {
    const slot = identity.slot as number
    const end = slotStart(rule, slot + 1)
    const times = { endsAt: end * 1000, closesAt: (end + grace) * 1000 }
    return new TlsPeer(identity.idCore, slot, times, permitted)
  }

  /** The M-Pin ID: base64url of idCore. */
  get mpinId(): string {
    return this.idCore.mpinId
  }
}

/** Of a device that has a permit of a slot. */
export interface Permitted {
  readonly attributes: Readonly<Record<string, string>>
  readonly instance: string
}

/** Who may not come in, as the stream of ban events has it; EventFollower of the RPA package is one. */
export interface Bans {
  /** Whether the list may be believed. */
  readonly fresh: boolean
  readonly list: {
    denies(idCore: string): string | null
    /** Of the newest state or event that is in. */
    readonly number: number | undefined
  }
}

export interface DoorPorts {
  readonly keys: Pick<SlotKeys, 'B' | 'keepComplete'>
  readonly bans: Bans
  /** Whether a device has a permit of the slot; null for who has none. Rejects while nobody can say. */
  readonly permitted: (idCore: IdCore, slot: number) => Promise<Permitted | null>
  /** Of the group in force; `grace` in seconds. */
  readonly rule: () => { readonly slotRule: SlotRule; readonly grace: number }
  readonly pool: Pick<CryptoPool, 'externalPsk'>
  readonly clock: Clock
  readonly random: Random
  readonly timers: Timers
  readonly log: Log
  /** Where `pairings_turned_away` is counted. */
  readonly metrics?: Pick<Metrics, 'count'> | undefined
  /** Of one source, pairings that no handshake came of; 500 and 50 a second unless said. Looked at whenever one is asked for. */
  readonly pairingsPerSource?: Rate | undefined
  /** Milliseconds before the end of a slot at which `permit-ending` is told; a minute unless said. */
  readonly warnBefore?: number
}

/** Somebody inside: told once that the slot is about to end, and put out. */
export interface Guest {
  ending(endsAt: number): void
  putOut(why: string): void
}

/** What was said of a device in a slot. */
interface Said {
  readonly slot: number
  answer: Promise<Permitted | null>
  isPending: boolean
  /** The last answer that came. */
  permitted: Permitted | null | undefined
  /** Unix milliseconds up to which it isn't asked again; without end once the device has come in. */
  until: number
  /** The number of the deny list when it was asked: a no doesn't outlast it. */
  number: number | undefined
  /** By which it has come in, the newest last; and by how many in all. */
  readonly texts: string[]
  comings: number
}

interface Asked {
  readonly text: string
  readonly identity: PskIdentity
}

interface Held {
  readonly identity: PskIdentity
  readonly psk: Uint8Array
  readonly slot: number
  /** Unix milliseconds. */
  readonly until: number
}

interface Admitted extends Held {
  readonly permitted: Permitted
  /** Since it was last the oldest: it isn't displaced then. */
  hasComeAgain: boolean
}

export class Door {
  readonly #ports: DoorPorts
  readonly #secret: Uint8Array
  readonly #pairings: RateLimit
  readonly #refusals: Refusals
  /** What a worker computes for who gets nothing of it. */
  readonly #nobody: (slot: number) => string
  /** PSKs by identity: of who has come in, and (m2) of who may with its next attempt. */
  readonly #kept = new Map<string, Admitted>()
  readonly #ready = new Map<string, Held>()
  /** By identity, for whom. */
  readonly #making = new Map<string, string>()
  /** Of handshakes under way, so that each is read once. */
  readonly #read = new Map<string, PskIdentity>()
  /** By slot and M-Pin ID: of those who haven't come in yet, and of those who have, whom no number of others displaces. */
  readonly #said = new Map<string, Said>()
  readonly #saidOfKnown = new Map<string, Said>()
  /** By source and identity: pairings that no handshake has come of yet. */
  readonly #paid = new Map<string, number>()
  /** As they were when those who have come in were last gone through; none where somebody is to be looked at again. */
  #slotsSeen: SlotsNow | undefined
  #asking = 0
  #complainedAt = Number.NEGATIVE_INFINITY
  readonly #guests = new Map<Guest, { readonly peer: TlsPeer; told: boolean }>()
  #endLooking = () => {}

  constructor(ports: DoorPorts) {
    this.#ports = ports
    this.#secret = ports.random(32)
    this.#pairings = new RateLimit(ports.pairingsPerSource ?? PAIRINGS_PER_SOURCE, ports.clock)
    this.#refusals = new Refusals(
      ports,
      'too many pairings that no handshake came of: connections were closed (pairingsPerSource)',
    )
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

  /**
   * The PSK for an identity that a ClientHello offers. PoolUnavailable when nothing can be computed now, Refused
   * RETRY_LATER when too much is asked already.
   * @param isProven Whether the ClientHello shows that its sender has this PSK.
   */
  async psk(text: string, source: string, isProven: (psk: Uint8Array) => boolean): Promise<Uint8Array> {
    const made = await this.#make(text, 'm1', source, isProven)
    return made ?? this.decoy(text)
  }

  /** The PSK of who has come in by it in this slot and still may, without waiting; undefined for everybody else. */
  pskKept(text: string): Uint8Array | undefined {
    const held = this.#kept.get(text)
    return held?.identity.kind === 'm1' && this.#mayComeAgain(held) ? held.psk : undefined
  }

  /** The PSK for an identity of TLS 1.2, as far as it is here; else it is made ready for the next attempt. */
  pskAtOnce(text: string, source: string): Uint8Array {
    const identity = this.#readable(text, 'm2')
    if (identity === null) return this.decoy(text)
    const kept = this.#kept.get(text)
    if (kept !== undefined && this.#mayComeAgain(kept)) return kept.psk
    const ready = this.#ready.get(text)
    if (ready !== undefined && this.#mayEnter(identity)) return ready.psk
    void this.#makeReady(text, source)
    return this.decoy(text)
  }

  /** A PSK that nobody else has, the same for the same text. */
  decoy(text: string): Uint8Array {
    return hmacSha256(this.#secret, utf8(text))
  }

  /**
   * Whose handshake by this identity and PSK has succeeded; null for who may not be here (any more).
   * @param source The one that `psk` was told for this connection; empty where it wasn't asked.
   */
  authenticated(text: string, psk: Uint8Array, source: string): TlsPeer | null {
    const held = this.#kept.get(text)
    if (held !== undefined) {
      if (!this.#mayComeAgain(held)) return null
      if (source !== '') this.#payBack(sourceOf(source), text)
      held.hasComeAgain = true
      return this.#admit(held.identity, held.permitted)
    }
    const identity = this.#readable(text, 'm1') ?? this.#readable(text, 'm2')
    if (identity === null || !this.#isWelcome(identity)) return null
    const key = saidOf(identity)
    const said = this.#saidAbout(key)
    if (said?.permitted == null) return null
    said.until = Number.POSITIVE_INFINITY
    this.#ready.delete(text)
    const slot = identity.slot as number
    // The clock may be set back before the next look.
    if (slot !== this.#slotsSeen?.current) this.#slotsSeen = undefined
    this.#said.delete(key)
    put(this.#saidOfKnown, key, said)
    said.comings++
    said.texts.push(text)
    if (said.texts.length > KEPT_OF_ONE) this.#kept.delete(said.texts.shift() as string)
    if (said.comings <= PAID_BACK) this.#payBack(sourceOf(source), text)
    const { permitted } = said
    this.#keep(text, { identity, psk, slot, until: Number.POSITIVE_INFINITY, permitted, hasComeAgain: false })
    return this.#admit(identity, permitted)
  }

  /**
   * Beyond what is kept the oldest goes, of those who haven't come again (of the first thousand, where all have): to move each
   * to the end when it comes costs more.
   */
  #keep(text: string, admitted: Admitted): void {
    let spared = 0
    for (const [oldest, one] of this.#kept) {
      if (this.#kept.size < KEPT) break
      this.#kept.delete(oldest)
      if (!one.hasComeAgain || spared++ === SPARED) break
      one.hasComeAgain = false
      this.#kept.set(oldest, one)
    }
    this.#kept.set(text, admitted)
  }

  #admit(identity: PskIdentity, permitted: Permitted): TlsPeer {
    const { slotRule, grace } = this.#ports.rule()
    return TlsPeer.admit(identity, permitted, slotRule, grace)
  }

  /** From here on `guest` is put out when its time is over, unless it leaves by itself. */
  enter(guest: Guest, peer: TlsPeer): void {
    this.#guests.set(guest, { peer, told: false })
  }
  leave(guest: Guest): void {
    this.#guests.delete(guest)
  }

  /** At those who are in: at every ban, and every second. */
  look(): void {
    const { bans, clock, warnBefore = 60_000 } = this.#ports
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
      } else if (!entry.told && now >= endsAt - warnBefore) {
        entry.told = true
        guest.ending(endsAt)
      }
    }
    this.#forget(now)
  }

  /** What is over. Of those who have come in that is by their slot alone, so they are gone through when that changes. */
  #forget(now: number): void {
    if (this.#kept.size + this.#ready.size + this.#said.size + this.#saidOfKnown.size === 0) return
    const slots = this.#slotsNow()
    for (const [text, { slot, until }] of this.#ready)
      if (now >= until || !isOf(slots, slot)) this.#ready.delete(text)
    for (const [key, { slot, until, isPending }] of this.#said)
      if (!isPending && (now >= until + WAIT || !isOf(slots, slot))) this.#said.delete(key)
    const seen = this.#slotsSeen
    if (slots.current === seen?.current && slots.isFormerIn === seen.isFormerIn) return
    this.#slotsSeen = slots
    for (const [text, { slot }] of this.#kept) if (!isOf(slots, slot)) this.#kept.delete(text)
    for (const [key, { slot, isPending }] of this.#saidOfKnown) {
      if (isOf(slots, slot)) continue
      if (isPending) this.#slotsSeen = undefined
      else this.#saidOfKnown.delete(key)
    }
  }

  /** Who has a PSK to give for it, whoever names it; null says nothing of who that is. */
  #readable(text: string, kind: SlotPskKind): PskIdentity | null {
    const identity = this.#decoded(text)
    if (identity === null || identity.kind !== kind || !this.#isNow(identity)) return null
    return this.#ports.keys.B(identity.slot as number) === undefined ? null : identity
  }

  #decoded(text: string): PskIdentity | null {
    const known = this.#kept.get(text)?.identity ?? this.#read.get(text)
    if (known !== undefined) return known
    try {
      const identity = PskIdentity.decode(text)
      put(this.#read, text, identity, READ)
      return identity
    } catch (error) {
      if (error instanceof DecodeError) return null
      throw error
    }
  }

  /** Slot, deny list and stream, as of now; and the permit, as it was said. */
  #mayEnter(identity: PskIdentity, key = saidOf(identity)): boolean {
    return this.#isAdmissible(identity) && this.#saidAbout(key)?.permitted != null
  }
  /** Who has come in in this slot had a permit of it. */
  #mayComeAgain({ identity, slot }: Held): boolean {
    return this.#ports.keys.B(slot) !== undefined && this.#isAdmissible(identity)
  }
  #isAdmissible(identity: PskIdentity): boolean {
    return this.#isWelcome(identity) && this.#isNow(identity)
  }
  /** By deny list and stream. */
  #isWelcome({ idCore }: PskIdentity): boolean {
    const { bans } = this.#ports
    return bans.fresh && bans.list.denies(idCore.mpinId) === null
  }

  #saidAbout(key: string): Said | undefined {
    return this.#saidOfKnown.get(key) ?? this.#said.get(key)
  }

  /** Null for who gets nothing; for whom the same is done. */
  async #make(
    text: string,
    kind: SlotPskKind,
    source: string,
    isProven: (psk: Uint8Array) => boolean,
  ): Promise<Uint8Array | null> {
    const payer = sourceOf(source)
    const identity = this.#readable(text, kind)
    if (identity === null || !this.hears) {
      await this.#paired(undefined, payer)
      return null
    }
    const psk = this.#kept.get(text)?.psk ?? (await this.#paired({ text, identity }, payer))
    if (psk === null || !isProven(psk)) return null
    const key = saidOf(identity)
    try {
      await this.#ask(identity, key)
    } finally {
      const isAnswered = this.#saidAbout(key)?.permitted !== undefined
      if (kind === 'm1' && !isAnswered) this.#payBack(payer, text)
    }
    return this.#mayEnter(identity, key) ? psk : null
  }

  /** What the pairing gives; for who gets a decoy it is made as well, so that both take as long. */
  async #paired(asked: Asked | undefined, payer: string): Promise<Uint8Array | null> {
    const { keys, pool } = this.#ports
    this.#charge(payer)
    if (asked !== undefined) this.#pay(payer, asked.text)
    const slot = asked?.identity.slot ?? this.#slotsNow().current
    const B = keys.B(slot)
    if (B === undefined) return null
    try {
      return await pool.externalPsk({ B, identity: asked?.text ?? this.#nobody(slot) }, payer)
    } catch (error) {
      // R is no point.
      if (error instanceof DecodeError) return null
      if (asked !== undefined) this.#payBack(payer, asked.text)
      throw error
    }
  }

  /** Refused RETRY_LATER. */
  #charge(payer: string): void {
    try {
      this.#pairings.take(payer)
    } catch (error) {
      this.#ports.metrics?.count('pairings_turned_away')
      this.#refusals.add(payer)
      throw error
    }
  }

  #pay(payer: string, text: string): void {
    const key = paymentOf(payer, text)
    put(this.#paid, key, (this.#paid.get(key) ?? 0) + 1)
  }

  /** A pairing is paid for until its handshake has succeeded. */
  #payBack(payer: string, text: string): void {
    const key = paymentOf(payer, text)
    const left = (this.#paid.get(key) ?? 0) - 1
    if (left < 0) return
    this.#pairings.refund(payer)
    if (left === 0) this.#paid.delete(key)
    else this.#paid.set(key, left)
  }

  async #makeReady(text: string, source: string): Promise<void> {
    if (this.#making.has(text) || this.#making.size >= MOST_ASKED) return
    const payer = sourceOf(source)
    let ofOne = 0
    for (const one of this.#making.values()) if (one === payer) ofOne++
    if (ofOne >= MOST_MADE_OF_ONE) return
    this.#making.set(text, payer)
    try {
      const psk = await this.#make(text, 'm2', source, () => true)
      if (psk === null) return
      const identity = PskIdentity.decode(text)
      const slot = identity.slot as number
      put(this.#ready, text, { identity, psk, slot, until: this.#ports.clock() + WAIT }, READY)
    } catch (error) {
      // It is made at another attempt.
      if (!(error instanceof PoolUnavailable || error instanceof Refused))
        this.#ports.log.error({ err: error }, 'a PSK could not be made ready')
    } finally {
      this.#making.delete(text)
    }
  }

  /** Once for a device and slot, whatever number of connections it opens. Refused RETRY_LATER; the answer never rejects. */
  #ask(identity: PskIdentity, key: string): Promise<Permitted | null> {
    const { permitted, clock, bans, log } = this.#ports
    const known = this.#saidAbout(key)
    const { number } = bans.list
    if (known !== undefined && this.#holds(known)) return known.answer
    if (this.#asking >= MOST_ASKED)
      throw new Refused('RETRY_LATER', { detail: 'too many devices are being asked about', retryAfter: 1 })
    const slot = identity.slot as number
    const said: Said = {
      slot,
      answer: Promise.resolve(null),
      isPending: true,
      permitted: known?.permitted,
      until: 0,
      number,
      texts: known?.texts ?? [],
      comings: known?.comings ?? 0,
    }
    this.#asking++
    const hasAnswered = () => {
      said.isPending = false
      this.#asking--
    }
    said.answer = permitted(identity.idCore, slot).then(
      answer => {
        hasAnswered()
        said.permitted = answer
        said.until = Math.max(said.until, clock() + SAID)
        return answer
      },
      (error: unknown) => {
        hasAnswered()
        if (this.#said.get(key) === said) this.#said.delete(key)
        if (clock() >= this.#complainedAt + COMPLAINT) {
          this.#complainedAt = clock()
          const why = error instanceof Refused ? error.log : undefined
          log.warn({ err: error, why }, 'nobody says whether devices are permitted: they can’t come in')
        }
        return null
      },
    )
    this.#saidOfKnown.delete(key)
    put(this.#said, key, said, READY)
    return said.answer
  }

  #holds({ isPending, permitted, until, number }: Said): boolean {
    if (isPending) return true
    return this.#ports.clock() < until && (permitted !== null || number === this.#ports.bans.list.number)
  }

  /** The current slot, or the former one within `grace`. */
  #isNow({ slot }: PskIdentity): boolean {
    return isOf(this.#slotsNow(), slot)
  }
  #slotsNow(): SlotsNow {
    const { rule, clock } = this.#ports
    const { slotRule, grace } = rule()
    const seconds = Math.floor(clock() / 1000)
    const current = slotAt(slotRule, seconds)
    return { current, isFormerIn: seconds - slotStart(slotRule, current) < grace }
  }
}

/** The current slot, and whether the former one is within `grace`. */
interface SlotsNow {
  readonly current: number
  readonly isFormerIn: boolean
}
const isOf = ({ current, isFormerIn }: SlotsNow, slot: number | undefined): boolean =>
  slot === current || (isFormerIn && slot === current - 1)

/** As the newest entry; beyond `most` the oldest goes. */
function put<T>(entries: Map<string, T>, key: string, value: T, most = KEPT): void {
  entries.delete(key)
  if (entries.size >= most) entries.delete(entries.keys().next().value as string)
  entries.set(key, value)
}

const saidOf = ({ slot, idCore }: PskIdentity) => `${slot} ${idCore.mpinId}`
const paymentOf = (payer: string, text: string) => `${payer} ${text}`
