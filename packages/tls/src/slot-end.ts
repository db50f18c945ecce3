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
/** A few at most: all of a slot have one. */
const all = new Set<Ending>()
/** The last one that ran empty: most programs have one connection after the other. */
let spare: Ending | undefined

export interface EndingPorts {
  readonly clock?: Clock | undefined
  readonly timers?: Timers | undefined
  readonly warnBefore?: number | undefined
}

export function tellEnding(
  socket: TLSSocket,
  endsAt: number,
  { clock = systemClock, timers = systemTimers, warnBefore = 60_000 }: EndingPorts,
): void {
  const at = endsAt - warnBefore
  const ending = found(at, endsAt, clock, timers) ?? begin(at, endsAt, clock, timers)
  ending.sockets.add(socket)
  socket.on('close', ending.leave)
}

function found(at: number, endsAt: number, clock: Clock, timers: Timers): Ending | undefined {
  for (const one of all)
    if (one.at === at && one.endsAt === endsAt && one.clock === clock && one.timers === timers) return one
  return undefined
}

function begin(at: number, endsAt: number, clock: Clock, timers: Timers): Ending {
  let endTimer = () => {}
  const sockets = new Set<TLSSocket>()
  const ending: Ending = {
    at,
    endsAt,
    clock,
    timers,
    sockets,
    leave() {
      sockets.delete(this)
      if (sockets.size > 0 || !all.has(ending)) return
      // Only these let a process end.
      if (timers !== systemTimers) return ending.end()
      if (spare !== ending && spare?.sockets.size === 0) spare.end()
      spare = ending
    },
    end() {
      endTimer()
      all.delete(ending)
    },
  }
  const wait = () => {
    // Never at once, even where it is due: who waits for `secureConnect` listens afterwards.
    const left = Math.max(0, at - clock())
    endTimer = timers.after(Math.min(left, LONGEST), () => {
      if (clock() < at) return wait()
      all.delete(ending)
      for (const told of sockets) told.emit('permit-ending', endsAt)
    })
  }
  wait()
  all.add(ending)
  return ending
}
