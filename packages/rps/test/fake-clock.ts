import type { Timers } from '@milagro-ts/api/system'

interface Alarm {
  at: number
  readonly every: number | undefined
  readonly run: () => void
}

/** Clock and timers that a test turns by hand. */
export class FakeClock implements Timers {
  /** Unix milliseconds. */
  now: number
  #alarms: Alarm[] = []

  constructor(now: number) {
    this.now = now
  }

  every(milliseconds: number, run: () => void) {
    return this.#add({ at: this.now + milliseconds, every: milliseconds, run })
  }

  after(milliseconds: number, run: () => void) {
    return this.#add({ at: this.now + milliseconds, every: undefined, run })
  }

  /** Lets time pass; what is due runs in its order. */
  turn(milliseconds: number) {
    const end = this.now + milliseconds
    for (;;) {
      const [next] = this.#alarms.filter(({ at }) => at <= end).sort((one, other) => one.at - other.at)
      if (next === undefined) break
      this.now = Math.max(this.now, next.at)
      if (next.every === undefined) this.#alarms = this.#alarms.filter(alarm => alarm !== next)
      else next.at += next.every
      next.run()
    }
    this.now = end
  }

  /** Many hours pass; what was due in them again and again runs once, at their end. */
  leap(milliseconds: number) {
    this.now += milliseconds
    for (const alarm of this.#alarms) if (alarm.at < this.now) alarm.at = this.now
    this.turn(0)
  }

  #add(alarm: Alarm) {
    this.#alarms.push(alarm)
    return () => {
      this.#alarms = this.#alarms.filter(other => other !== alarm)
    }
  }
}
