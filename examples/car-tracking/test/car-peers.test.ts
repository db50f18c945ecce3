/** What a car says on a channel to another and takes from it, its address book, and how it prepares. `--check` plays the channel itself. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { duplexPair } from 'node:stream'
import { createLog } from '@milagro-ts/api/log'
import {
  CarPeers,
  type CarPeersOptions,
  exchangePositions,
  type PeerEvent,
  writeAddressBook,
} from '@milagro-ts/car-tracking/car-peers'
import { freePorts } from '@milagro-ts/car-tracking/processes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { CAR, OTHER_CAR } from './tracking-world.js'

const HERE = { at: 1_800_000_000_000, latE7: 481_390_000, lonE7: 116_100_000, speed: 1_400, heading: 90 }
/** 0.001° to the north. */
const THERE = { ...HERE, latE7: HERE.latE7 + 10_000 }
const line = (value: unknown) => `${JSON.stringify(value)}\n`

let events: PeerEvent[]
let due: (() => void)[]
let said: Pick<CarPeersOptions, 'timers' | 'say' | 'every'>
beforeEach(() => {
  events = []
  due = []
  said = {
    every: 3_000,
    say: event => void events.push(event),
    timers: {
      every(_milliseconds, run) {
        due.push(run)
        return () => {
          due = due.filter(one => one !== run)
        }
      },
      after: () => () => undefined,
    },
  }
})

describe('a channel', () => {
  /** This car's end, and what the other car does at its own. */
  const channel = (position: CarPeersOptions['position'] = () => HERE) => {
    const [own, other] = duplexPair()
    const errors: Error[] = []
    own.on('error', error => errors.push(error))
    let text = ''
    other.on('data', (chunk: Buffer) => {
      text += chunk
    })
    exchangePositions(own, OTHER_CAR.mpinId, { ...said, position })
    return { own, other, errors, heard: () => text }
  }

  test('a car says where it is at once, and every so often until the channel ends', async () => {
    const { own, heard } = channel()
    await expect.poll(heard).toBe(line(HERE))
    for (const run of due) run()
    await expect.poll(heard).toBe(line(HERE) + line(HERE))
    own.destroy()
    await expect.poll(() => events.at(-1)?.event).toBe('peer-disconnected')
    expect(due).toEqual([])
  })

  test('a car that does not know yet where it is says nothing, and hears', async () => {
    const { other, heard } = channel(() => undefined)
    other.write(line(THERE))
    await expect.poll(() => events.at(-1)).toEqual({ event: 'peer-heard', peer: OTHER_CAR.mpinId })
    expect(heard()).toBe('')
  })

  test('positions are heard as they come, in whatever pieces', async () => {
    const { other } = channel()
    const [first, second] = [line(THERE), line(THERE)]
    other.write(first.slice(0, 20))
    other.write(first.slice(20) + second)
    const heard = { event: 'peer-heard', peer: OTHER_CAR.mpinId, metresAway: 111 }
    await expect
      .poll(() => events)
      .toEqual([{ event: 'peer-connected', peer: OTHER_CAR.mpinId }, heard, heard])
  })

  test.each([
    ['no JSON', 'hello\n', 'not JSON'],
    ['no position', '{}\n', 'not a position'],
    ['a position nowhere', line({ ...THERE, latE7: 900_000_001 }), 'not a position'],
    ['a position with more', line({ ...THERE, code: 'x' }), 'not a position'],
    ['a line without an end', 'x'.repeat(513), 'too long'],
  ])('%s ends it', async (_what, text, why) => {
    const { own, other, errors } = channel()
    other.write(text)
    await expect.poll(() => own.destroyed).toBe(true)
    expect(errors).toMatchObject([{ name: 'DecodeError', message: expect.stringContaining(why) }])
    await expect
      .poll(() => events.at(-1))
      .toEqual({ event: 'peer-disconnected', peer: OTHER_CAR.mpinId, heard: 0 })
  })
})

describe('a car', () => {
  let folder: string
  let file: string
  let now: number
  let prepared: number
  let offline: boolean
  let asked: string[]
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'milagro-peers-'))
    file = join(folder, 'address-book.json')
    now = 0
    prepared = 0
    offline = false
    asked = []
  })
  afterEach(() => rm(folder, { recursive: true }))

  const LENGTH = 60
  const slotOf = () => Math.floor(now / 1_000 / LENGTH)
  const peers = () =>
    new CarPeers({
      ...said,
      file,
      identity: {
        idCore: CAR,
        group: { slotRule: { origin: 0, length: LENGTH } } as never,
        async preparePeers() {
          if (offline) throw new TypeError('there is no network here')
          prepared++
          return [slotOf(), slotOf() + 1]
        },
        async peerPsk(peer) {
          asked.push(peer.mpinId)
          return {
            identity: 'm1.x',
            psk: new Uint8Array(32),
            slot: slotOf(),
            endsAt: Number.MAX_SAFE_INTEGER,
          }
        },
        answerPeer: async () => null,
        permitInHand: () => null,
      },
      position: () => HERE,
      clock: () => now,
      log: createLog('car', { level: 'silent' }),
    })

  test('prepares once in each slot, and again where that failed', async () => {
    const car = peers()
    await car.look()
    await car.look()
    expect(prepared).toBe(1)
    now += LENGTH * 1_000
    offline = true
    await car.look()
    await car.look()
    offline = false
    await car.look()
    await car.look()
    expect(prepared).toBe(2)
    // What went wrong is said once.
    expect(events).toEqual([
      { event: 'peers-prepared', slots: [0, 1] },
      { event: 'peer-trouble', why: 'there is no network here' },
      { event: 'peers-prepared', slots: [1, 2] },
    ])
  })

  test('connects to those of its book that have an address, and never to itself', async () => {
    const [port = 0] = await freePorts(1)
    const at = { host: '127.0.0.1', port }
    const car = peers()
    await car.look()
    expect(asked).toEqual([])
    await writeAddressBook(file, [
      { name: 'itself', idCore: CAR.mpinId, at },
      { name: 'other', idCore: OTHER_CAR.mpinId, at },
    ])
    await car.look()
    await expect
      .poll(() => events.at(-1))
      .toEqual({ event: 'peer-trouble', why: expect.stringContaining('ECONNREFUSED') })
    await car.look()
    await expect.poll(() => asked).toEqual([OTHER_CAR.mpinId, OTHER_CAR.mpinId])
    await writeAddressBook(file, [{ name: 'other', idCore: OTHER_CAR.mpinId }])
    await car.look()
    expect(asked).toHaveLength(2)
  })

  test.each([
    ['no JSON', '['],
    ['no list', '{}'],
    ['a contact without a name', `[{"idCore": "${OTHER_CAR.mpinId}"}]`],
    ['a name that is none', '[{"name": "other", "idCore": "somebody"}]'],
  ])('takes %s for no address book', async (_what, text) => {
    await writeFile(file, text)
    await expect(peers().look()).rejects.toBeInstanceOf(DecodeError)
  })
})
