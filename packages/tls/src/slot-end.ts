/** `permit-ending` for clients' sockets: one timer for all that are told at one moment, as all of a slot are. */
import type { TLSSocket } from 'node:tls'
import { systemClock, systemTimers, type Timers } from '@milagro-ts/api/system'
import type { Clock } from '@milagro-ts/crypto/ports'

/** The longest that a timer takes. */
const LONGEST = 2 ** 31 - 1

/** By when they are told, in unix milliseconds, and the slot's end. */
type Endings = Map<string, Set<TLSSocket>>
const all = new WeakMap<Timers, WeakMap<Clock, Endings>>()

function endingsOf(timers: Timers, clock: Clock): Endings {
  const byClock = all.get(timers) ?? new WeakMap<Clock, Endings>()
  all.set(timers, byClock)
  const endings = byClock.get(clock) ?? new Map()
  byClock.set(clock, endings)
  return endings
}

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
  const endings = endingsOf(timers, clock)
  const key = `${at} ${endsAt}`
  const sockets = endings.get(key) ?? begin()
  sockets.add(socket)
  socket.once('close', () => sockets.delete(socket))

  // It waits for the slot's end also where all have closed: the next one comes soon, as a rule, and timers let a process end.
  function begin(): Set<TLSSocket> {
    const begun = new Set<TLSSocket>()
    const wait = () => {
      // Never at once, even where it is due: who waits for `secureConnect` listens afterwards.
      const left = Math.max(0, at - clock())
      timers.after(Math.min(left, LONGEST), () => {
        if (clock() < at) return wait()
        endings.delete(key)
        for (const told of begun) told.emit('permit-ending', endsAt)
      })
    }
    wait()
    endings.set(key, begun)
    return begun
  }
}
