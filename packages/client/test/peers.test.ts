/**
 * What a car fetches ahead so that it can open and answer channels with other cars where there is no network, and open files
 * for a slot: against fleet, RPS and three authorities on real HTTP.
 */
import { Refused } from '@milagro-ts/api/problem'
import { SLOT_KEY_CONTEXT } from '@milagro-ts/api/slot-key-request'
import { systemRandom } from '@milagro-ts/api/system'
import { Device } from '@milagro-ts/client/device'
import { decryptFile, encryptFile } from '@milagro-ts/client/encrypted-file'
import { ClientError } from '@milagro-ts/client/errors'
import type { DeviceOptions } from '@milagro-ts/client/ports'
import { memoryTokenStore, type TokenStore } from '@milagro-ts/client/token-store'
import { callbackUnlocker } from '@milagro-ts/client/unlocker'
import { utf8 } from '@milagro-ts/crypto/bytes'
import type { IdCore } from '@milagro-ts/crypto/identity'
import { PskIdentity } from '@milagro-ts/crypto/static-agreement'
import { slotStart } from '@milagro-ts/crypto/time-permit'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { FakeClock } from '../../rps/test/fake-clock.js'
import { RunningServers } from './running-servers.js'
import { CAR } from './world.js'

const SLOT = 600
const ORIGIN = 1_767_225_600
const clock = new FakeClock((ORIGIN + 1_000 * SLOT + 60) * 1000)
let servers: RunningServers
/** Whether devices reach anybody. */
let online = true
/** Paths that devices have asked for. */
const asked: string[] = []

beforeAll(async () => {
  servers = await RunningServers.start({
    clock: () => clock.now,
    timers: clock,
    permits: 'tree',
    slot: SLOT,
    grace: 60,
    devicePurposes: ['device', 'agree', 'sign'],
  })
}, 180_000)
afterAll(() => servers.close())
beforeEach(() => {
  online = true
})

const ports = (): Omit<DeviceOptions, 'store'> => ({
  ...servers.ports,
  fetch: (input, init) => {
    if (!online) return Promise.reject(new TypeError('no network'))
    asked.push(new URL(String(input)).pathname)
    return fetch(input, init)
  },
})

interface Car {
  readonly id: number
  readonly device: Device
  readonly store: TokenStore
}
let made = 0
async function enrol(more: Partial<DeviceOptions> = {}): Promise<Car> {
  const instance = `WVWZZZ1JZXW00020${made++}`
  const { id, code } = await servers.fleet.addVehicle({
    ...(await servers.act()),
    body: { instance, attributes: { ...CAR } },
  })
  const store = memoryTokenStore()
  const options = { ...ports(), ...more, store, code: code?.code as string, attributes: CAR, instance }
  return { id, store, device: await Device.enrol(options) }
}

const current = () => Math.floor((clock.now / 1000 - ORIGIN) / SLOT)
function toSlot(number: number, offset = 1): void {
  clock.turn((slotStart({ origin: ORIGIN, length: SLOT }, number) + offset) * 1000 - clock.now)
}
/** Until it is ready for the next slot, too: the RPS makes those permits by itself, in the middle of this one. */
async function prepared({ device }: Car): Promise<void> {
  await expect
    .poll(
      async () => {
        clock.turn(1000)
        return device.preparePeers()
      },
      { timeout: 20_000 },
    )
    .toEqual([current(), current() + 1])
}
const codeOf = (call: Promise<unknown>) =>
  call.then(
    () => 'done',
    (error: unknown) =>
      error instanceof Refused || error instanceof ClientError ? error.code : String(error),
  )

/** Do both come to the same PSK, each by itself? */
async function agree(from: Device, to: Device, expected: IdCore = to.idCore): Promise<boolean> {
  const { identity, psk } = await from.peerPsk(expected)
  const answer = await to.answerPeer(PskIdentity.decode(identity))
  return answer !== null && Buffer.from(answer).equals(psk)
}

test('two cars agree without a network, in this slot and the next, though one was started again', {
  timeout: 60_000,
}, async () => {
  const [one, other] = [await enrol(), await enrol()]
  toSlot(current() + 1, 400)
  await prepared(one)
  await prepared(other)
  online = false
  expect(await agree(one.device, other.device)).toBe(true)
  // Both at once, each in both parts.
  expect(await agree(other.device, one.device)).toBe(true)
  const again = await Device.open({ ...ports(), store: other.store })
  expect(await agree(one.device, again)).toBe(true)

  toSlot(current() + 1)
  expect(await agree(one.device, again)).toBe(true)
  expect(again.permitInHand(current())?.slot).toBe(current())
  // For the slot after that there is neither key nor permit.
  toSlot(current() + 1)
  expect(await agree(one.device, again)).toBe(false)
  expect(again.permitInHand(current())).toBeNull()
  await expect(again.preparePeers()).rejects.toThrow()
})

test('another car’s name is another key; a car is no peer of its own', { timeout: 60_000 }, async () => {
  const [one, other, third] = [await enrol(), await enrol(), await enrol()]
  for (const car of [one, other, third]) await car.device.preparePeers()
  expect(await agree(one.device, other.device, third.device.idCore)).toBe(false)
  expect(await agree(one.device, third.device, other.device.idCore)).toBe(false)
  await expect(one.device.peerPsk(one.device.idCore)).rejects.toThrow(RangeError)
})

test('what is here already is fetched from nobody', async () => {
  const car = await enrol()
  toSlot(current() + 1, 400)
  await prepared(car)
  asked.length = 0
  await car.device.preparePeers()
  expect(asked.filter(path => path.endsWith('/slot-keys'))).toEqual([])
  const { identities } = JSON.parse((await car.store.read()) as string)
  expect(identities[0].device.slotKeys).toHaveLength(2)
})

test('keys of slots that are over go, those for devices as those for files, whichever is looked after', async () => {
  const [car, kept] = [await enrol(), await enrol()]
  const slot = current()
  const keysIn = async ({ store }: Car) => {
    const { device } = JSON.parse((await store.read()) as string).identities[0]
    const slots: { slot: number }[] = [...(device.slotKeys ?? []), ...(device.fileKeys ?? [])]
    return slots.filter(key => key.slot === slot).length
  }
  for (const { device } of [car, kept]) {
    await device.preparePeers()
    await device.prepareFiles()
  }
  const offered = await anIdentityFor(kept)
  expect(await kept.device.answerPeer(offered)).not.toBeNull()
  expect([await keysIn(car), await keysIn(kept)]).toEqual([2, 2])
  toSlot(slot + 2)
  await car.device.prepareFiles()
  expect(await keysIn(car)).toBe(0)

  const ahead = kept.device.keepAhead({ timers: clock, onError: () => undefined })
  await expect
    .poll(async () => {
      clock.turn(10_000)
      return keysIn(kept)
    })
    .toBe(0)
  await ahead.close()
  expect(await kept.device.answerPeer(offered)).toBeNull()
})

test('a banned car gets nothing for a further slot', { timeout: 60_000 }, async () => {
  const car = await enrol()
  await car.device.preparePeers()
  await servers.fleet.ban({ ...(await servers.act()), body: { vehicle: car.id, reason: 'stolen' } })
  toSlot(current() + 2)
  await expect.poll(() => codeOf(car.device.preparePeers()), { timeout: 10_000 }).toBe('BANNED')
  expect(await car.device.answerPeer(await anIdentityFor(car))).toBeNull()
})

/** What an honest car offers it. */
async function anIdentityFor({ device }: Car): Promise<PskIdentity> {
  const honest = await enrol()
  return PskIdentity.decode((await honest.device.peerPsk(device.idCore)).identity)
}

test('through the RPS, where authorities can’t be reached', async () => {
  const [one, other] = [await enrol({ reach: 'relay' }), await enrol()]
  asked.length = 0
  await one.device.preparePeers()
  expect(asked.filter(path => path.endsWith('/slot-keys'))).toEqual(
    expect.arrayContaining([1, 2, 3].map(index => `/v1/authorities/${index}/slot-keys`)),
  )
  expect(await agree(other.device, one.device)).toBe(true)
})

test('under an unlocker the store alone answers nobody', async () => {
  const secret = systemRandom(32)
  const unlocker = callbackUnlocker(async () => secret)
  const [locked, other] = [await enrol({ unlocker }), await enrol()]
  await locked.device.preparePeers()
  expect(await agree(other.device, locked.device)).toBe(true)
  const { identity } = await other.device.peerPsk(locked.device.idCore)
  const open = (more: Partial<DeviceOptions>) => Device.open({ ...ports(), store: locked.store, ...more })
  const answer = async (more: Partial<DeviceOptions>) =>
    (await open(more)).answerPeer(PskIdentity.decode(identity))
  expect(await answer({ unlocker })).not.toBeNull()
  const wrong = callbackUnlocker(async () => new Uint8Array(32))
  for (const more of [{}, { unlocker: wrong }]) expect(await codeOf(answer(more))).toBe('WRONG_UNLOCKER')
})

describe('files for a slot', () => {
  const streamOf = (bytes: Uint8Array) => new Blob([bytes.slice()]).stream() as ReadableStream<Uint8Array>
  const bytesOf = async (stream: ReadableStream<Uint8Array>) =>
    new Uint8Array(await new Response(stream).arrayBuffer())
  const fileFor = async ({ device }: Car, ...slots: number[]) =>
    bytesOf(
      await encryptFile(streamOf(utf8('for today')), {
        to: slots.map(slot => ({ kind: 1, idCore: device.idCore, slot })),
        group: servers.group,
        now: clock.now,
        random: systemRandom,
      }),
    )
  const opened = async (file: Uint8Array, device: Device) =>
    Buffer.from(await bytesOf(await decryptFile(streamOf(file), device))).toString()
  const keysIn = async ({ store }: Car): Promise<number[]> =>
    (JSON.parse((await store.read()) as string).identities[0].device.fileKeys ?? []).map(
      ({ slot }: { slot: number }) => slot,
    )

  test('opened in the slot without a network, by a key that is destroyed with the slot', async () => {
    const [car, late] = [await enrol(), await enrol()]
    toSlot(current() + 1, 400)
    const slot = current()
    const [file, lateFile, tomorrows] = await Promise.all([
      fileFor(car, slot),
      fileFor(late, slot),
      fileFor(car, slot + 1),
    ])
    expect(await car.device.prepareFiles()).toContain(slot)
    online = false
    expect(await opened(file, car.device)).toBe('for today')
    const copied = await car.store.read()
    toSlot(slot + 1)
    await expect(opened(file, car.device)).rejects.toMatchObject({ code: 'SLOT_ENDED' })
    expect(await keysIn(car)).not.toContain(slot)
    // Who has the store now has no key of the slot, and no authority gives one: the file stays closed.
    online = true
    await expect(opened(lateFile, late.device)).rejects.toMatchObject({ code: 'SLOT_ENDED' })
    expect(JSON.parse(copied as string).identities[0].device.fileKeys).not.toHaveLength(0)
    // The next slot's is another key.
    expect(await opened(tomorrows, car.device)).toBe('for today')
    expect(await keysIn(car)).toEqual([slot + 1])
  })

  test('asked for when a file comes; of a slot far ahead there is none yet, of one that is over nothing is made', async () => {
    const car = await enrol()
    const slot = current()
    asked.length = 0
    expect(await opened(await fileFor(car, slot), car.device)).toBe('for today')
    expect(asked.some(path => path.endsWith('/slot-keys'))).toBe(true)
    await expect(opened(await fileFor(car, slot + 9), car.device)).rejects.toMatchObject({
      code: 'SLOT_AHEAD',
    })
    await expect(fileFor(car, slot - 1)).rejects.toMatchObject({ code: 'SLOT_ENDED' })
    // For several slots: by the one whose key there is.
    expect(await opened(await fileFor(car, slot + 9, slot), car.device)).toBe('for today')
  })

  test('a flipped bit in each byte of the stanza’s line, the slot among them', async () => {
    const car = await enrol()
    const file = await fileFor(car, current())
    await opened(file, car.device)
    const line = Buffer.from(file).toString('latin1')
    const [from, to] = [line.indexOf('-> '), line.indexOf('\n', line.indexOf('-> '))]
    expect(line.slice(from, to)).toMatch(/^-> milagro-ibe [\w-]{43} 1 [\w-]{6} slot=[0-9]+$/)
    for (let at = from; at <= to; at++) {
      const changed = file.map((byte, i) => (i === at ? byte ^ (1 << (at % 7)) : byte))
      await expect(opened(changed, car.device), `byte ${at}`).rejects.toThrow()
    }
  })

  test('under an unlocker a copy of the store alone opens nothing', async () => {
    const secret = systemRandom(32)
    const unlocker = callbackUnlocker(async () => secret)
    const car = await enrol({ unlocker })
    const file = await fileFor(car, current())
    await car.device.prepareFiles()
    online = false
    const open = async (more: Partial<DeviceOptions>) =>
      opened(file, await Device.open({ ...ports(), store: car.store, ...more }))
    expect(await open({ unlocker })).toBe('for today')
    await expect(open({})).rejects.toMatchObject({ code: 'WRONG_UNLOCKER' })
  })
})

test('a car signs nothing of its own for the context of slot keys', async () => {
  const { device } = await enrol()
  await expect(device.signOffline(utf8('a message'), SLOT_KEY_CONTEXT)).rejects.toThrow(RangeError)
})
