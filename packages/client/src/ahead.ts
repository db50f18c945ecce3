/**
 * What a device gets before it needs it: the next slot's permit, and the step to a key epoch that begins later. When, is
 * drawn for each slot and each device, so that a fleet that was switched on at the same time doesn't ask at once:
 *
 *   |------------------------|--------------------|--------|       one slot
 *   0    servers make them  1/2    first attempt  7/8      1       each moment as likely as any other
 *
 * An attempt that brings no permit is made again, after a drawn part of a pause that doubles each time, in the same slot.
 * A device that is opened later than that draws out of what is left of the slot.
 */
import type { Timers } from '@milagro-ts/api/system'
import type { Random } from '@milagro-ts/crypto/ports'
import { type SlotRule, slotAt, slotStart } from '@milagro-ts/crypto/time-permit'

/** Parts of the slot between which the first attempt is made. */
const FROM = 1 / 2
const UNTIL = 7 / 8
/** Part of the slot, and milliseconds at most, that the first pause between two attempts may take. */
const PAUSE = 1 / 32
const LONGEST_PAUSE = 3_600_000
/** Milliseconds that one timer waits at most: longer than this a clock may be set in between. */
const LONGEST_TIMER = 3_600_000

export interface AheadPorts {
  readonly rule: () => SlotRule
  /** Unix milliseconds. */
  readonly now: () => Promise<number>
  /** One attempt; true once the next slot has all that it will need. */
  readonly look: () => Promise<boolean>
  readonly random: Random
  readonly timers: Timers
  /** What an attempt has met. It is made again; nothing has changed. */
  readonly onError: (error: unknown) => void
}

export class Ahead {
  readonly #ports: AheadPorts
  #slot = -1
  #due = 0
  #attempts = 0
  #endTimer: (() => void) | undefined
  #isClosed = false
  #looking: Promise<void> = Promise.resolve()

  private constructor(ports: AheadPorts) {
    this.#ports = ports
  }

  static begin(ports: AheadPorts): Ahead {
    const ahead = new Ahead(ports)
    ahead.#turn()
    return ahead
  }

  /** Resolves once nothing is under way any more. */
  close(): Promise<void> {
    this.#isClosed = true
    this.#endTimer?.()
    return this.#looking
  }

  #turn(): void {
    this.#looking = this.#once()
      .catch((error: unknown) => {
        // The device's time could not be asked for: the slot is as unknown as before.
        this.#ports.onError(error)
        return this.#fraction() * LONGEST_PAUSE
      })
      .then(wait => {
        if (this.#isClosed) return
        this.#endTimer = this.#ports.timers.after(Math.max(1, Math.min(wait, LONGEST_TIMER)), () =>
          this.#turn(),
        )
      })
  }

  /** Looks if it is time to; milliseconds until there is something to do again. */
  async #once(): Promise<number> {
    const { now, rule, look, onError } = this.#ports
    const before = await now()
    this.#enter(before)
    if (before < this.#due) return this.#due - before
    const isDone = await look().catch((error: unknown) => {
      onError(error)
      return false
    })
    const after = await now()
    const { slot, start, length } = slotOf(rule(), after)
    // Into the next slot meanwhile: it draws a moment of its own.
    if (slot !== this.#slot) return 0
    const end = start + length
    const pause = Math.min(LONGEST_PAUSE, length * PAUSE * 2 ** this.#attempts++)
    const again = after + pause * (1 + this.#fraction()) * 0.5
    this.#due = isDone || again >= end ? end : again
    return this.#due - after
  }

  /** Draws the moment of a slot that has just begun for this device. */
  #enter(now: number): void {
    const { slot, start, length } = slotOf(this.#ports.rule(), now)
    if (slot === this.#slot) return
    const until = start + length * UNTIL
    const [from, to] = now < until ? [Math.max(now, start + length * FROM), until] : [now, start + length]
    this.#slot = slot
    this.#attempts = 0
    this.#due = from + (to - from) * this.#fraction()
  }

  #fraction(): number {
    const bytes = this.#ports.random(4)
    return new DataView(bytes.buffer, bytes.byteOffset, 4).getUint32(0) / 2 ** 32
  }
}

/** Milliseconds; a clock from before the group's first slot is in that one. */
function slotOf(rule: SlotRule, now: number) {
  const slot = slotAt(rule, Math.max(rule.origin, Math.floor(now / 1000)))
  return { slot, start: slotStart(rule, slot) * 1000, length: rule.length * 1000 }
}
