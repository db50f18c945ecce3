/** `permit-ending` for clients' sockets: one timer for all that are told at one moment, as all of a slot are. */
import type { TLSSocket } from 'node:tls'
import { systemClock, systemTimers, type Timers } from '@milagro-ts/api/system'
import type { Clock } from '@milagro-ts/crypto/ports'

/** The longest that a timer takes. */
const LONGEST = 2 ** 31 - 1

interface Ending {
  readonly sockets: Set<TLSSocket>
  end(): void
}
/** By when they are told, in unix milliseconds, and the slot's end. */
type Endings = Map<string, Ending>
const all = new WeakMap<Timers, WeakMap<Clock, Endings>>()
/** The last one that ran empty: most programs have one connection after the other. */
let spare: Ending | undefined

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
  const ending = endings.get(key) ?? begin()
  ending.sockets.add(socket)
  socket.once('close', () => {
    ending.sockets.delete(socket)
    if (ending.sockets.size > 0 || endings.get(key) !== ending) return
    // Only these let a process end.
    if (timers !== systemTimers) return ending.end()
    if (spare !== ending && spare?.sockets.size === 0) spare.end()
    spare = ending
  })

  function begin(): Ending {
    let endTimer = () => {}
    const begun = {
      sockets: new Set<TLSSocket>(),
      end() {
        endTimer()
        endings.delete(key)
      },
    }
    const wait = () => {
      // Never at once, even where it is due: who waits for `secureConnect` listens afterwards.
      const left = Math.max(0, at - clock())
      endTimer = timers.after(Math.min(left, LONGEST), () => {
        if (clock() < at) return wait()
        endings.delete(key)
        for (const told of begun.sockets) told.emit('permit-ending', endsAt)
      })
    }
    wait()
    endings.set(key, begun)
    return begun
  }
}
