/** The timers behind `permit-ending`: one for all sockets of a slot, and none that nobody waits for. */
import { EventEmitter } from 'node:events'
import type { TLSSocket } from 'node:tls'
import type { Timers } from '@milagro-ts/api/system'
import { tellEnding } from '@milagro-ts/tls/slot-end'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'

const NOW = 1_700_000_000_000
const ENDS_AT = NOW + 3_600_000
const WARN_BEFORE = 60_000

beforeEach(() => void vi.useFakeTimers({ now: NOW }))
afterEach(() => void vi.useRealTimers())

const newSocket = () => new EventEmitter() as TLSSocket
function told(socket: TLSSocket): number[] {
  const moments: number[] = []
  socket.on('permit-ending', (endsAt: number) => moments.push(endsAt))
  return moments
}

test('all sockets of a slot are told by one timer, and who has closed isn’t', () => {
  const sockets = Array.from({ length: 3 }, newSocket)
  const heard = sockets.map(told)
  for (const socket of sockets) tellEnding(socket, ENDS_AT, {})
  expect(vi.getTimerCount()).toBe(1)
  sockets[1]?.emit('close')
  vi.advanceTimersByTime(ENDS_AT - WARN_BEFORE - NOW)
  expect(heard).toEqual([[ENDS_AT], [], [ENDS_AT]])
  expect(vi.getTimerCount()).toBe(0)
})

test('one connection after the other goes by the same timer', () => {
  for (let i = 0; i < 10; i++) {
    const socket = newSocket()
    tellEnding(socket, ENDS_AT, {})
    socket.emit('close')
    expect(vi.getTimerCount()).toBe(1)
  }
  const last = newSocket()
  const heard = told(last)
  tellEnding(last, ENDS_AT, {})
  vi.advanceTimersByTime(ENDS_AT - WARN_BEFORE - NOW)
  expect(heard).toEqual([ENDS_AT])
})

test('a timer that nobody waits for is one at most, however many moments and clocks there were', () => {
  for (let i = 0; i < 100; i++) {
    const socket = newSocket()
    tellEnding(socket, ENDS_AT, { warnBefore: i, clock: () => Date.now() })
    socket.emit('close')
  }
  expect(vi.getTimerCount()).toBe(1)
})

test('one that would hold the process is ended with its last socket', () => {
  let alive = 0
  const timers: Timers = {
    every: () => () => {},
    after: () => {
      alive++
      return () => void alive--
    },
  }
  const [one, other] = [newSocket(), newSocket()]
  tellEnding(one, ENDS_AT, { timers })
  tellEnding(other, ENDS_AT, { timers })
  one.emit('close')
  expect(alive).toBe(1)
  other.emit('close')
  expect(alive).toBe(0)
})
