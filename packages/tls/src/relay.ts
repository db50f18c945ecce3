/**
 * Bytes both ways between two connections, as if they were one: whoever reads slowly holds the writer up (backpressure),
 * who has said everything may still listen (half-close), and a connection that is broken breaks the other.
 */
import type { Duplex } from 'node:stream'
import type { Timers } from '@milagro-ts/api/system'

export interface RelayPorts {
  readonly timers: Timers
  /** Milliseconds without a byte either way, after which both are closed (at the latest after twice as many). */
  readonly idle: number
}

/** Resolves when both are closed; never rejects. Each must allow half-open connections. */
export async function relay(one: Duplex, other: Duplex, { timers, idle }: RelayPorts): Promise<void> {
  let moved = true
  const saw = () => {
    moved = true
  }
  const endWatch = timers.every(idle, () => {
    if (!moved) for (const side of [one, other]) side.destroy()
    moved = false
  })
  const closes = [follow(one, other, saw), follow(other, one, saw)]
  one.pipe(other)
  other.pipe(one)
  await Promise.all(closes)
  endWatch()
}

function follow(side: Duplex, other: Duplex, saw: () => void): Promise<void> {
  return new Promise(resolve => {
    const gone = () => {
      // One that has said and heard everything is done; what it said may still be on its way through the other.
      if (!(side.readableEnded && side.writableFinished)) other.destroy()
      resolve()
    }
    if (side.destroyed) return gone()
    side.on('data', saw)
    side.on('error', () => undefined)
    side.once('close', gone)
  })
}
