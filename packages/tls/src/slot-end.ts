/** `permit-ending` for clients' sockets: one timer for all that are told at one moment, as all of a slot are. */
import type { TLSSocket } from 'node:tls'
import { systemClock, systemTimers, type Timers } from '@milagro-ts/api/system'
import type { Clock } from '@milagro-ts/crypto/ports'

/** The longest that a timer takes. */
const LONGEST = 2 ** 31 - 1

/** Of those who are told at one moment, all by the same timers. */
interface Ending {
  /** When they are told, in unix milliseconds, and the slot's end. */
  readonly at: number
  readonly endsAt: number
  readonly clock: Clock
  readonly timers: Timers
  readonly sockets: Set<TLSSocket>
  /** A listener of theirs. */
  leave(this: TLSSocket): void
  end(): void
}
/** By both times. */
type Endings = Map<string, Ending>
const all = new WeakMap<Timers, WeakMap<Clock, Endings>>()
/** The one that was asked for last, unless it is over: nearly always it is the next one, too. */
let latest: Ending | undefined
/** The last one that ran empty: most programs have one connection after the other. */
let spare: Ending | undefined

export interface EndingPorts {
  readonly clock?: Clock | undefined
  readonly timers?: Timers | undefined
  readonly warnBefore?: number | undefined
}

/** @param endsAt Unix milliseconds; endless where somebody else tells it. */
export function tellEnding(
  socket: TLSSocket,
  endsAt: number,
  { clock = systemClock, timers = systemTimers, warnBefore = 60_000 }: EndingPorts,
): void {
  if (endsAt === Number.POSITIVE_INFINITY) return
  const at = endsAt - warnBefore
  const isLatest =
    latest?.at === at && latest.endsAt === endsAt && latest.clock === clock && latest.timers === timers
  const ending = isLatest ? (latest as Ending) : endingOf(at, endsAt, clock, timers)
  latest = ending
  ending.sockets.add(socket)
  socket.on('close', ending.leave)
}

function endingOf(at: number, endsAt: number, clock: Clock, timers: Timers): Ending {
  const byClock = all.get(timers) ?? new WeakMap<Clock, Endings>()
  all.set(timers, byClock)
  const endings = byClock.get(clock) ?? new Map()
  byClock.set(clock, endings)
  const key = `${at} ${endsAt}`
  const found = endings.get(key)
  if (found !== undefined) return found
  let endTimer = () => {}
  let isOver = false
  const sockets = new Set<TLSSocket>()
  const over = () => {
    isOver = true
    endings.delete(key)
    if (latest === ending) latest = undefined
  }
  const ending: Ending = {
    at,
    endsAt,
    clock,
    timers,
    sockets,
    leave() {
      sockets.delete(this)
      if (sockets.size > 0 || isOver) return
      // Only these let a process end.
      if (timers !== systemTimers) return ending.end()
      if (spare !== ending && spare?.sockets.size === 0) spare.end()
      spare = ending
    },
    end() {
      endTimer()
      over()
    },
  }
  const wait = () => {
    // Never at once, even where it is due: who waits for `secureConnect` listens afterwards.
    const left = Math.max(0, at - clock())
    endTimer = timers.after(Math.min(left, LONGEST), () => {
      if (clock() < at) return wait()
      over()
      for (const told of sockets) told.emit('permit-ending', endsAt)
    })
  }
  wait()
  endings.set(key, ending)
  return ending
}
