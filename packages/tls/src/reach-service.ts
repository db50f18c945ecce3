/** A connection to the service behind a gateway. */
import { connect, type Socket } from 'node:net'
import { Unreachable } from '@milagro-ts/api/call'
import type { Timers } from '@milagro-ts/api/system'
import type { ServiceAddress } from './service-address.js'

export interface Reaching {
  readonly timers: Timers
  /** Milliseconds until it is given up. */
  readonly patience: number
  readonly allowHalfOpen?: boolean
  /** False once nobody waits for it any more: then it isn't tried again. */
  readonly isWanted: () => boolean
}

/** Milliseconds between two tries: first, and at most. */
const FIRST_PAUSE = 5
const LONGEST_PAUSE = 100

/**
 * Resolves once it is connected; rejects with why not, of the last try. Where the queue of a Unix domain socket is full, Linux
 * refuses at once with EAGAIN, and wants to be asked again (connect(2)); at a TCP port the kernel does so itself.
 */
export function reachService(to: ServiceAddress, reaching: Reaching): Promise<Socket> {
  const { timers, patience, allowHalfOpen = false, isWanted } = reaching
  return new Promise((resolve, reject) => {
    let why: Error = new Unreachable('no answer in time')
    let pause = FIRST_PAUSE
    let isOver = false
    let abandon = () => {}
    const endWaiting = timers.after(patience, () => {
      isOver = true
      abandon()
      reject(why)
    })
    const attempt = () => {
      const socket = connect({ ...to, allowHalfOpen, noDelay: true })
      abandon = () => socket.destroy()
      const failed = (error: NodeJS.ErrnoException) => {
        if (isOver) return
        if ('path' in to && error.code === 'EAGAIN' && isWanted()) {
          why = error
          abandon = timers.after(pause, attempt)
          pause = Math.min(2 * pause, LONGEST_PAUSE)
          return
        }
        endWaiting()
        reject(error)
      }
      socket.once('connect', () => {
        socket.off('error', failed)
        // Until whoever takes it listens.
        socket.on('error', () => undefined)
        endWaiting()
        resolve(socket)
      })
      socket.on('error', failed)
    }
    attempt()
  })
}
