import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Unreachable } from '@milagro-ts/api/call'
import { Refused } from '@milagro-ts/api/problem'
import {
  decodeNotes,
  encodeNotes,
  type Notes,
  readNotes,
  writeNotes,
} from '@milagro-ts/car-tracking/car-notes'
import { Drive, generatedTrack } from '@milagro-ts/car-tracking/gpx'
import { type CarEvent, type CarOptions, SimulatedCar } from '@milagro-ts/car-tracking/simulated-car'
import { type Batch, checkBatch, type TrackEnd, trackStart } from '@milagro-ts/car-tracking/track-chain'
import { fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { beforeEach, describe, expect, test } from 'vitest'
import { CAR, OTHER_CAR } from './tracking-world.js'

const groupId = new Uint8Array(32).fill(7)
const start = trackStart(groupId, CAR.bytes)

/** A tracking server that checks chains, and can be told to fail before or after it has stored. */
class Tracking {
  end: TrackEnd = start
  positions = 0
  fail: 'before' | 'after' | 'tls' | Refused | undefined
  credentials: string[] = []

  readonly client: CarOptions['tracking'] = {
    append: async ({ authorization, body }) => {
      this.credentials.push(authorization ?? '')
      if (this.fail instanceof Refused) throw this.fail
      if (this.fail === 'before') throw new Unreachable('down')
      if (this.fail === 'tls')
        throw new Unreachable('no answer', {
          cause: Object.assign(new Error('alert'), { code: 'ERR_SSL_SSLV3_ALERT_ILLEGAL_PARAMETER' }),
        })
      const batch: Batch = {
        ...body,
        previous: fromBase64Url(body.previous, 'previous', 32),
        head: fromBase64Url(body.head, 'head', 32),
      }
      const again = batch.number === this.end.next - 1 && toBase64Url(this.end.head) === body.head
      if (!again) {
        const after = checkBatch(CAR.bytes, this.end, batch)
        if (typeof after === 'string') throw new Refused('CONFLICT', { detail: after })
        this.end = after
        this.positions += batch.positions.length
      }
      if (this.fail === 'after') throw new Unreachable('the answer is lost')
      return { end: this.#wire(), stored: again ? 0 : batch.positions.length }
    },
    end: async () => this.#wire(),
    vehicles: async () => ({ vehicles: [] }),
    track: async () => ({ start: '', batches: [] }),
  }

  #wire() {
    return { next: this.end.next, head: toBase64Url(this.end.head), at: this.end.at }
  }
}

let tracking: Tracking
let now: number
let notes: Notes | null
let events: CarEvent[]
let hasDriver: boolean
let words: number
let freshLogins: number
let logins: number
let refusal: Refused | undefined
beforeEach(() => {
  tracking = new Tracking()
  now = 1_800_000_000_000
  notes = null
  events = []
  hasDriver = false
  words = 0
  freshLogins = 0
  logins = 0
  refusal = undefined
})

const car = () =>
  new SimulatedCar({
    identity: {
      groupId,
      idCore: CAR.mpinId,
      authorization: async ({ fresh }) => {
        if (fresh) freshLogins++
        return hasDriver ? 'with-driver' : 'alone'
      },
      login: async () => {
        logins++
        if (refusal !== undefined) throw refusal
      },
      word: async () => {
        words++
        return { receipt: 'receipt' }
      },
      leaveDriver: () => {
        const had = hasDriver
        hasDriver = false
        return had
      },
    },
    tracking: tracking.client,
    drive: new Drive(generatedTrack(1), 14),
    notes,
    save: async changed => {
      notes = decodeNotes(encodeNotes(changed))
    },
    clock: () => now,
    interval: 1000,
    say: event => events.push(event),
  })

async function drive(driving: SimulatedCar, seconds: number) {
  for (let second = 0; second < seconds; second++) {
    now += 1000
    await driving.tick()
  }
}

test('what was driven is stored, in batches that follow each other', async () => {
  const driving = car()
  await drive(driving, 3)
  expect(await driving.report()).toBe(true)
  await drive(driving, 2)
  expect(await driving.report()).toBe(true)
  expect(await driving.report()).toBe(true)
  expect(tracking).toMatchObject({ positions: 5, end: { next: 3 } })
  expect(events).toEqual([
    { event: 'stored', number: 1, positions: 3, total: 3 },
    { event: 'stored', number: 2, positions: 2, total: 5 },
  ])
})

describe('nothing is lost and nothing is stored twice', () => {
  test.each(['before', 'after'] as const)('when the server fails %s it has stored', async when => {
    const driving = car()
    await drive(driving, 3)
    tracking.fail = when
    expect(await driving.report()).toBe(false)
    await drive(driving, 2)
    tracking.fail = undefined
    expect(await driving.report()).toBe(true)
    expect(await driving.report()).toBe(true)
    expect(tracking).toMatchObject({ positions: 5, end: { next: 3 } })
    expect(words).toBe(2)
  })

  test('when the car starts again with a batch unanswered', async () => {
    const before = car()
    await drive(before, 3)
    tracking.fail = 'after'
    await before.report()
    await drive(before, 1)
    tracking.fail = undefined
    const after = car()
    await drive(after, 1)
    await after.report()
    await after.report()
    expect(tracking).toMatchObject({ positions: 5, end: { next: 3 } })
  })

  test('when the car has lost its notes it asks where its track stands', async () => {
    const before = car()
    await drive(before, 3)
    await before.report()
    notes = null
    const after = car()
    await drive(after, 2)
    expect(await after.report()).toBe(false)
    expect(events.at(-1)).toMatchObject({ event: 'refused', code: 'CONFLICT' })
    expect(await after.report()).toBe(true)
    expect(tracking).toMatchObject({ positions: 5, end: { next: 3 } })
  })

  test('when its clock is set back', async () => {
    const driving = car()
    await drive(driving, 2)
    await driving.report()
    now -= 3_600_000
    await drive(driving, 2)
    expect(await driving.report()).toBe(true)
    expect(tracking.positions).toBe(4)
  })
})

test('a driver who is banned leaves; the car goes on alone', async () => {
  hasDriver = true
  const driving = car()
  await drive(driving, 1)
  tracking.fail = new Refused('BANNED')
  expect(await driving.report()).toBe(false)
  expect(events).toEqual([{ event: 'driver-left', code: 'BANNED' }])
  tracking.fail = undefined
  expect(await driving.report()).toBe(true)
  expect(tracking.credentials).toEqual(['with-driver', 'alone'])
  expect(freshLogins).toBe(1)
})

test('a car that is banned keeps what it drives until it is un-banned', async () => {
  const driving = car()
  tracking.fail = new Refused('BANNED')
  for (let round = 1; round <= 3; round++) {
    await drive(driving, 1)
    expect(await driving.report()).toBe(false)
    expect(events.at(-1)).toEqual({ event: 'refused', code: 'BANNED', waiting: round })
  }
  tracking.fail = undefined
  await driving.report()
  await driving.report()
  expect(tracking.positions).toBe(3)
})

test('notes of another identity are another car’s', async () => {
  const before = car()
  await drive(before, 2)
  notes = { ...(notes as Notes | null)!, idCore: OTHER_CAR.mpinId }
  await drive(car(), 1)
  expect(notes).toMatchObject({ idCore: CAR.mpinId, taken: 1 })
})

describe('notes', () => {
  test('are read as they were written, by their owner only', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'milagro-notes-'))
    const file = join(folder, 'notes.json')
    expect(await readNotes(file)).toBeNull()
    const driving = car()
    await drive(driving, 2)
    tracking.fail = 'before'
    await driving.report()
    await drive(driving, 1)
    await writeNotes(file, notes!)
    expect(await readNotes(file)).toEqual(notes)
    expect((await stat(file)).mode & 0o777).toBe(0o600)
    await writeFile(file, '{"v":2}')
    await expect(readNotes(file)).rejects.toThrow(DecodeError)
    await rm(folder, { recursive: true })
  })
})

describe('a car that TLS turns away asks the RPS why', () => {
  test('and is told of its ban', async () => {
    const driving = car()
    await drive(driving, 2)
    tracking.fail = 'tls'
    refusal = new Refused('BANNED')
    expect(await driving.report()).toBe(false)
    expect(events).toEqual([{ event: 'refused', code: 'BANNED', waiting: 2 }])
  })

  test('and when nothing is against it, tries again later with what it has', async () => {
    const driving = car()
    await drive(driving, 2)
    tracking.fail = 'tls'
    expect(await driving.report()).toBe(false)
    expect(events).toMatchObject([{ event: 'trouble', waiting: 2 }])
    expect(logins).toBe(1)
    tracking.fail = undefined
    expect(await driving.report()).toBe(true)
    expect(tracking.positions).toBe(2)
  })

  test('but a server that is down is no reason for a login', async () => {
    const driving = car()
    await drive(driving, 2)
    tracking.fail = 'before'
    await driving.report()
    expect(logins).toBe(0)
  })
})
