import { createLog } from '@milagro-ts/api/log'
import { isOwnClock, outOfTime, PeerClocks } from '@milagro-ts/api/peer-clocks'
import { Refused } from '@milagro-ts/api/problem'
import { beforeEach, expect, test } from 'vitest'

const T0 = 1_775_869_200
let seconds: number
let lines: Record<string, unknown>[]
let clocks: PeerClocks
beforeEach(() => {
  seconds = T0
  lines = []
  const log = createLog('test', {
    destination: { write: (line: string) => void lines.push(JSON.parse(line)) },
  })
  clocks = new PeerClocks({ clock: () => seconds * 1000, log })
})
const late = (peer: string) => clocks.differ(peer, new Refused('CLOCK', { detail: 'an hour apart' }))
const said = () => lines.map(({ msg }) => msg)

test('nothing heard is nothing against the clock', () => {
  expect(clocks.standing).toEqual({ ok: true, check: true })
})

test('the only peer differs: not ready, with its name and why, until a request is in time', () => {
  late('rps')
  expect(clocks.standing).toEqual({ ok: false, check: 'clock: rps: an hour apart' })
  clocks.agree('rps')
  expect(clocks.standing).toEqual({ ok: true, check: true })
  expect(said()).toEqual(['the clocks agree again'])
})

test('one of three differs: it is named, and the server stays ready; two of three, and it does not', () => {
  clocks.agree('https://one.example')
  clocks.agree('rps')
  late('tracking')
  expect(clocks.standing).toEqual({ ok: true, check: 'clock: tracking: an hour apart' })
  late('rps')
  expect(clocks.standing.ok).toBe(false)
})

test('a peer that refuses ours is said in one line, however often it does; then that it agrees again', () => {
  const refused = outOfTime('rps', T0 - 3600, T0)
  for (let time = 0; time < 5; time++) clocks.refused('https://fleet.example', refused)
  expect(clocks.standing.ok).toBe(false)
  clocks.agree('https://fleet.example')
  expect(lines).toMatchObject([
    { level: 40, peer: 'https://fleet.example', why: refused.detail, msg: 'our clock is refused' },
    { level: 30, peer: 'https://fleet.example', msg: 'the clocks agree again' },
  ])
})

test('what was heard more than two minutes ago says nothing, nor what a clock has said that was set since', () => {
  late('rps')
  seconds += 120
  expect(clocks.standing.ok).toBe(false)
  seconds += 1
  expect(clocks.standing).toEqual({ ok: true, check: true })
  late('rps')
  seconds -= 3600
  expect(clocks.standing).toEqual({ ok: true, check: true })
})

test('a peer’s long words are cut', () => {
  clocks.refused('x', new Refused('CLOCK', { field: 'iat', detail: 'y'.repeat(5000) }))
  expect(String(clocks.standing.check).length).toBeLessThan(250)
})

test('a request’s clock is told from a client’s, and any number is a time', () => {
  expect(isOwnClock(outOfTime('rps', T0, T0))).toBe(true)
  expect(isOwnClock(new Refused('CLOCK'))).toBe(false)
  expect(isOwnClock(new Refused('EXPIRED', { field: 'iat' }))).toBe(false)
  expect(outOfTime('rps', 0xff_ffff_ffff_ff, T0).detail).toContain('signed at ')
})
