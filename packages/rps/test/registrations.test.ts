/** Registrations of devices and of users on them, on the way to the RPA and back. */
import { userEnrolmentPayload } from '@milagro-ts/api/payloads'
import { Refused } from '@milagro-ts/api/problem'
import type { RegistrationAnswer } from '@milagro-ts/api/rpa-routes'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { IdCore } from '@milagro-ts/crypto/identity'
import { MODE } from '@milagro-ts/crypto/mpin'
import { CryptoPool } from '@milagro-ts/crypto/node-pool'
import { G1 } from '@milagro-ts/crypto/points'
import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'
import {
  asFields,
  type Car,
  codeOf,
  type MessageOptions,
  NOON,
  OWN,
  type RunningRps,
  World,
} from './world.js'

let world: World
let rps: RunningRps
let car: Car
beforeAll(async () => {
  world = await World.make()
  rps = await world.startRps()
})
afterAll(() => world.close())
beforeEach(() => {
  world.clock.now = NOON
  world.rpa.isDown = false
  world.rpa.registrations.length = 0
  car = world.makeCar()
})

const random = (length: number) => toBase64Url(crypto.getRandomValues(new Uint8Array(length)))
const device = (changes: object = {}) => ({
  kind: 'device' as const,
  attributes: { brand: 'Trabant', model: '601' },
  instance: 'VIN-1',
  hpkeKey: random(32),
  nonce: random(32),
  codeId: random(16),
  mac: random(32),
  ...changes,
})
async function user(hpkeKey = crypto.getRandomValues(new Uint8Array(32)), options: MessageOptions = {}) {
  const attributes = { driverName: 'Ada' }
  const payload = userEnrolmentPayload(attributes, hpkeKey)
  const vouch = await world.message(rps, car, { mode: MODE.sign, audience: OWN, payload, ...options })
  return {
    kind: 'user' as const,
    attributes,
    hpkeKey: toBase64Url(hpkeKey),
    nonce: random(32),
    vouch: asFields(vouch),
  }
}
/** What the RPA answers, one after the other; the last for ever. */
function answers(...list: (RegistrationAnswer | Refused)[]) {
  let next = 0
  world.rpa.verify = async () => {
    const answer = list[Math.min(next++, list.length - 1)]!
    if (answer instanceof Refused) throw answer
    return answer
  }
}

describe('a device', () => {
  test('waits, is approved, and gets the same ticket as often as it asks', async () => {
    const body = device({ codeId: undefined, mac: undefined })
    const { codeId: _, mac: __, ...byHand } = body
    const approved = await world.approval(car, Buffer.from(byHand.hpkeKey, 'base64url'))
    answers({ state: 'pending' }, { state: 'pending' }, approved)
    expect(await rps.client.register({ body: byHand })).toEqual({ state: 'pending' })
    expect(await rps.client.register({ body: byHand })).toEqual({ state: 'pending' })
    expect(await rps.client.register({ body: byHand })).toEqual(approved)
    expect(await rps.client.register({ body: byHand })).toEqual(approved)
    expect(world.rpa.registrations).toHaveLength(4)
    expect(world.rpa.registrations[0]).toEqual(byHand)
  })

  test.each(['refused', 'expired'] as const)('%s is the end: the RPA isn’t asked again', async state => {
    answers({ state: 'pending' }, { state })
    const body = device()
    await rps.client.register({ body })
    expect(await rps.client.register({ body })).toEqual({ state })
    expect(await rps.client.register({ body })).toEqual({ state })
    expect(world.rpa.registrations).toHaveLength(2)
  })

  test('other bytes under the same key are CONFLICT', async () => {
    answers({ state: 'pending' })
    const body = device()
    await rps.client.register({ body })
    for (const change of [
      { instance: 'VIN-2' },
      { attributes: { brand: 'Wartburg' } },
      { nonce: random(32) },
    ])
      expect(await codeOf(rps.client.register({ body: { ...body, ...change } }))).toBe('CONFLICT')
    expect(world.rpa.registrations).toHaveLength(1)
  })

  test('the same fields in another order are the same registration', async () => {
    answers({ state: 'pending' })
    const body = device()
    await rps.client.register({ body })
    const turned = Object.fromEntries(Object.entries(body).reverse()) as typeof body
    expect(await rps.client.register({ body: turned })).toEqual({ state: 'pending' })
  })

  test.each(['NOT_APPROVED', 'CONFLICT', 'EXPIRED', 'BANNED', 'REVOKED'] as const)(
    'the RPA’s %s goes through, and leaves nothing behind',
    async code => {
      answers(new Refused(code), { state: 'pending' })
      const body = device()
      expect(await codeOf(rps.client.register({ body }))).toBe(code)
      expect(await rps.client.register({ body })).toEqual({ state: 'pending' })
    },
  )

  test('a code without its MAC, and a MAC without its code', async () => {
    const { codeId: _, ...withoutCode } = device()
    const { mac: __, ...withoutMac } = device()
    expect(await codeOf(rps.client.register({ body: withoutCode }))).toBe('MALFORMED')
    expect(await codeOf(rps.client.register({ body: withoutMac }))).toBe('MALFORMED')
  })

  test('while the RPA is away nothing is decided; then it goes on by itself', async () => {
    answers({ state: 'pending' })
    world.rpa.isDown = true
    const body = device()
    expect(await codeOf(rps.client.register({ body }))).toBe('RETRY_LATER')
    world.rpa.isDown = false
    expect(await rps.client.register({ body })).toEqual({ state: 'pending' })
  })

  test('an RPA that takes an approval back to pending is not believed', async () => {
    const body = device()
    answers(await world.approval(car, Buffer.from(body.hpkeKey, 'base64url')), { state: 'pending' })
    await rps.client.register({ body })
    expect(await codeOf(rps.client.register({ body }))).toBe('RETRY_LATER')
  })
})

describe('a user on a device', () => {
  test('by the device’s word: the RPA hears whose device it is, and nothing of the message', async () => {
    answers({ state: 'pending' })
    const body = await user()
    expect(await rps.client.register({ body })).toEqual({ state: 'pending' })
    const { vouch: _, ...claimed } = body
    expect(world.rpa.registrations).toEqual([{ ...claimed, idCore: car.idCore.mpinId }])
  })

  test('asks again with the same bytes, though its message was used; on a replica, too', async () => {
    const body = await user()
    const driver = world.makeDriver(car)
    const approved = await world.approval(car, Buffer.from(body.hpkeKey, 'base64url'), { driver, pinGen: 1 })
    answers({ state: 'pending' }, approved)
    await rps.client.register({ body })
    const replica = await world.startRps()
    expect(await replica.client.register({ body })).toEqual(approved)
    expect(await rps.client.register({ body })).toEqual(approved)
    await replica.close()
    // Known from the ticket: the driver logs in while the RPA is away.
    await world.login(rps, car)
    world.rpa.isDown = true
    await world.login(rps, car, { driver })
  })

  test('the message of a request that the RPA did not hear still counts', async () => {
    answers({ state: 'pending' })
    await world.login(rps, car)
    const body = await user()
    world.rpa.isDown = true
    expect(await codeOf(rps.client.register({ body }))).toBe('RETRY_LATER')
    world.rpa.isDown = false
    expect(await rps.client.register({ body })).toEqual({ state: 'pending' })
  })

  test('a new message for the same request replaces the one before', async () => {
    answers({ state: 'pending' })
    const key = crypto.getRandomValues(new Uint8Array(32))
    const first = await user(key)
    await rps.client.register({ body: first })
    const { vouch } = await user(key)
    expect(await rps.client.register({ body: { ...first, vouch } })).toEqual({ state: 'pending' })
    expect(await rps.client.register({ body: { ...first, vouch } })).toEqual({ state: 'pending' })
  })

  test('another car’s word for the same request is CONFLICT', async () => {
    answers({ state: 'pending' })
    const key = crypto.getRandomValues(new Uint8Array(32))
    const first = await user(key)
    await rps.client.register({ body: first })
    car = world.makeCar()
    const { vouch } = await user(key)
    expect(await codeOf(rps.client.register({ body: { ...first, vouch } }))).toBe('CONFLICT')
  })

  test.each<[string, MessageOptions, string]>([
    ['no device key behind it', { deviceKey: G1.generator }, 'WRONG_PROOF'],
    ['another audience', { audience: 'https://tracking.example' }, 'MALFORMED'],
  ])('%s', async (_, options, code) => {
    expect(await codeOf(rps.client.register({ body: await user(undefined, options) }))).toBe(code)
    expect(world.rpa.registrations).toEqual([])
  })

  test('a relay that swaps the key or the person', async () => {
    const body = await user()
    expect(await codeOf(rps.client.register({ body: { ...body, hpkeKey: random(32) } }))).toBe('MALFORMED')
    const attributes = { driverName: 'Mallory' }
    expect(await codeOf(rps.client.register({ body: { ...body, attributes } }))).toBe('MALFORMED')
    expect(world.rpa.registrations).toEqual([])
  })

  test('a banned car vouches for nobody, nor does its earlier word', async () => {
    answers({ state: 'pending' })
    const body = await user()
    await rps.client.register({ body })
    await world.ban(rps, car)
    expect(await codeOf(rps.client.register({ body }))).toBe('BANNED')
    expect(await codeOf(rps.client.register({ body: await user() }))).toBe('BANNED')
  })

  test('a device’s registration under a user’s key is CONFLICT', async () => {
    answers({ state: 'pending' })
    const body = await user()
    await rps.client.register({ body })
    expect(await codeOf(rps.client.register({ body: device({ hpkeKey: body.hpkeKey }) }))).toBe('CONFLICT')
  })
})

describe('the relay to the authorities', () => {
  const relay = (index: string, ticket: string[]) =>
    rps.client.relayShare({ params: { index }, body: { ticket, purpose: 'device' } })

  test('passes a share on as it is', async () => {
    const { ticket } = await world.approval(car, new Uint8Array(32).fill(9))
    expect(await relay('2', ticket)).toMatchObject({ index: 2, shareEpoch: 1 })
    expect(world.authorities[1]!.asked.shares).toBe(1)
  })

  test('asks nobody with a ticket that isn’t one', async () => {
    const { ticket } = await world.approval(car, new Uint8Array(32).fill(9))
    const before = world.authorities.map(({ asked }) => asked.shares)
    world.clock.turn(3_700_000)
    expect(await codeOf(relay('1', ticket))).toBe('EXPIRED')
    expect(await codeOf(relay('1', [`${ticket[0]!.slice(0, -6)}AAAAAA`]))).toBe('NOT_APPROVED')
    expect(world.authorities.map(({ asked }) => asked.shares)).toEqual(before)
  })

  test('passes a device’s request for its slot key on, and asks nobody with another', async () => {
    const ask = (body = world.slotKeyRequest(car), index = '1') =>
      rps.client.relaySlotKey({ params: { index }, body })
    const signature = vi.spyOn(CryptoPool.prototype, 'signature')
    expect(await ask()).toMatchObject({ index: 1, shareEpoch: 1 })
    expect(signature.mock.lastCall?.[1]).toEqual({ source: '127.0.0.1', identity: car.idCore.mpinId })
    signature.mockRestore()
    const { slotKeys } = world.authorities[0]!.asked
    const thief = { ...world.slotKeyRequest(car), hpkeKey: toBase64Url(new Uint8Array(32).fill(8)) }
    expect(await codeOf(ask(thief))).toBe('WRONG_PROOF')
    expect(await codeOf(ask(world.slotKeyRequest(car, { signer: IdCore.zero })))).toBe('WRONG_PROOF')
    expect(await codeOf(ask(world.slotKeyRequest(car, { slot: world.slot + 2 })))).toBe('EXPIRED')
    const late = { ...world.slotKeyRequest(car) }
    late.signed = {
      ...late.signed,
      permit: toBase64Url(world.permitOf(car.idCore, world.slot + 1).encode()),
    }
    expect(await codeOf(ask(late))).toBe('WRONG_PERMIT')
    expect(await codeOf(ask(undefined, '4'))).toBe('NOT_FOUND')
    const body = world.slotKeyRequest(car)
    await world.ban(rps, car)
    expect(await codeOf(ask(body))).toBe('BANNED')
    expect(world.authorities[0]!.asked.slotKeys).toBe(slotKeys)
  })

  test('an authority that isn’t, and one that is down', async () => {
    const { ticket } = await world.approval(car, new Uint8Array(32).fill(9))
    expect(await codeOf(relay('4', ticket))).toBe('NOT_FOUND')
    world.unreachable.add(world.authorities[0]!.url)
    expect(await codeOf(relay('1', ticket))).toBe('RETRY_LATER')
    world.unreachable.clear()
  })
})
