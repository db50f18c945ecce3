/** Signed positions of several cars, checked together: each is decided as it would be by itself. */

import { type SignedItem, VerifiedMessage } from '@milagro-ts/api/signed-message'
import { systemClock, systemRandom, systemTimers } from '@milagro-ts/api/system'
import { Device } from '@milagro-ts/client/device'
import { memoryTokenStore } from '@milagro-ts/client/token-store'
import { fromBase64Url, toBase64Url, utf8 } from '@milagro-ts/crypto/bytes'
import { CryptoPool } from '@milagro-ts/crypto/node-pool'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { CAR, VIN, World } from './world.js'

const CONTEXT = 'position of a car'
let world: World
let good: SignedItem[]

beforeAll(async () => {
  world = await World.start({ n: 3, t: 2 })
  world.devicePurposes = ['device', 'sign']
  const store = memoryTokenStore()
  const cars: Device[] = []
  for (const instance of [VIN, 'VIN-2', 'VIN-3'])
    cars.push(await Device.enrol({ ...world.ports, store, code: world.code(), attributes: CAR, instance }))
  good = await Promise.all(
    Array.from({ length: 12 }, async (_, i) => {
      const message = utf8(`{"lat":48.1,"lon":${i}}`)
      const form = (['json', 'jws', 'jws-detached'] as const)[i % 3] as 'json'
      return { message, signed: await (cars[i % 3] as Device).signOffline(message, CONTEXT, form) }
    }),
  )
})
afterAll(() => world.close())

const terms = (context = CONTEXT, later = 0) => ({ group: world.group, context, now: world.now + later })
const batch = (items: readonly SignedItem[], at = terms()) =>
  VerifiedMessage.verifyBatch(items, at, systemRandom).map(verdict =>
    verdict instanceof Error ? verdict.message : verdict.idCore.mpinId,
  )
const alone = (items: readonly SignedItem[], at = terms()) =>
  items.map(item => {
    try {
      return VerifiedMessage.verify({ ...item, ...at }).idCore.mpinId
    } catch (error) {
      return (error as Error).message
    }
  })

test('all of them hold', () => {
  const verdicts = batch(good)
  expect(new Set(verdicts).size).toBe(3)
  expect(verdicts).toEqual(alone(good))
  expect(batch([])).toEqual([])
})

test('each fault is its own place’s, and says why', () => {
  const at = (i: number) => good[i] as SignedItem
  const fields = (i: number) => at(i).signed as Record<string, unknown>
  const items = [
    at(0),
    { ...at(3), message: utf8('{"lat":0}') },
    { ...at(0), signed: { ...fields(0), idCore: undefined } },
    { ...at(1), message: utf8('{"lat":0}') },
    { ...at(2), message: utf8('{"lat":0}') },
    { ...at(6), signed: { ...fields(6), slot: 5_000_000 } },
    { ...at(9), signed: { ...fields(9), signature: fields(0).signature } },
    { ...at(4), signed: 'eyJ.' },
    { ...at(5), signed: null },
    at(7),
  ]
  const verdicts = batch(items)
  expect(verdicts).toEqual(alone(items))
  const held = verdicts.flatMap((verdict, i) => (/^[\w-]{52}$/.test(verdict) ? [i] : []))
  expect(held).toEqual([0, 9])
})

test('another context, another slot, another group: all of them', () => {
  const day = world.group.slotRule.length * 1000
  for (const at of [terms('opens a door'), terms(CONTEXT, 3 * day), terms(CONTEXT, -3 * day)]) {
    expect(batch(good, at)).toEqual(alone(good, at))
    expect(batch(good, at).some(verdict => /^[\w-]{52}$/.test(verdict))).toBe(false)
  }
})

const LONG = 'x'.repeat(253)
/** Of another context, so its signature can't hold; its points are points. */
function renamed(i: number, context: string): SignedItem {
  const { message, signed } = good[i] as SignedItem
  if (typeof signed !== 'string') return { message, signed: { ...(signed as object), context } }
  const [head = '', ...rest] = signed.split('.')
  const header = { ...JSON.parse(Buffer.from(fromBase64Url(head, 'head')).toString()), context }
  return { message, signed: [toBase64Url(utf8(JSON.stringify(header))), ...rest].join('.') }
}

test.each([
  ['no room for the prefix of a JWS', LONG],
  ['no room once it is UTF-8', 'é'.repeat(127)],
])('%s: the JWS alone is refused for it', (_, context) => {
  const items = [0, 1, 2].map(i => renamed(i, context))
  const verdicts = batch(items, terms(context))
  expect(verdicts).toEqual(alone(items, terms(context)))
  expect(verdicts.map(verdict => /^context: 1–256 bytes/.test(verdict))).toEqual([false, true, true])
})

test('in a pool a context without room takes nobody’s verdict along', async () => {
  const pool = CryptoPool.start({
    workers: 0,
    random: systemRandom,
    clock: systemClock,
    timers: systemTimers,
  })
  const verdicts = await Promise.allSettled([
    ...[0, 3, 6].map(i => VerifiedMessage.verifyIn(pool, { ...(good[i] as SignedItem), ...terms() })),
    VerifiedMessage.verifyIn(pool, { ...renamed(1, LONG), ...terms(LONG) }),
  ])
  await pool.close()
  expect(verdicts.map(({ status }) => status)).toEqual(['fulfilled', 'fulfilled', 'fulfilled', 'rejected'])
})
