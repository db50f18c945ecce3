/**
 * Before a valid device proof nobody learns who exists: whoever is named, the answer is the same and so is every
 * operation of the engine (hashes to the curve, decoded points, multiplications, additions, pairings), counted at the
 * one seam through which all of them go.
 */

import { pinChangePayload, userEnrolmentPayload } from '@milagro-ts/api/payloads'
import { Refused } from '@milagro-ts/api/problem'
import { toBase64Url, utf8 } from '@milagro-ts/crypto/bytes'
import { authorizationHeader, MODE } from '@milagro-ts/crypto/mpin'
import { G1 } from '@milagro-ts/crypto/points'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import {
  asFields,
  type Car,
  codeOf,
  type Driver,
  type MessageOptions,
  OWN,
  type RunningRps,
  TRACKING,
  World,
} from './world.js'

/** How often each function of the engine has been called. */
const engine = vi.hoisted(() => ({ calls: new Map<string, number>() }))
vi.mock('../../crypto/src/engine.js', async original => {
  const counted = (name: string, value: unknown, owner?: unknown): unknown => {
    if (typeof value === 'function' && !/^class\b/.test(String(value)))
      return (...given: unknown[]) => {
        engine.calls.set(name, (engine.calls.get(name) ?? 0) + 1)
        return Reflect.apply(value, owner, given)
      }
    if (Object.getPrototypeOf(value ?? 0) !== Object.prototype) return value
    return Object.fromEntries(
      Object.entries(value as object).map(([key, inner]) => [key, counted(`${name}.${key}`, inner, value)]),
    )
  }
  const exports = await original<object>()
  return Object.fromEntries(Object.entries(exports).map(([name, value]) => [name, counted(name, value)]))
})

let world: World
let rps: RunningRps
interface Named {
  readonly car: Car
  readonly driver: Driver
}
const kinds: Record<string, Named> = {}
beforeAll(async () => {
  world = await World.make()
  rps = await world.startRps({
    config: { rateLimit: { failedProofs: { perSecond: 1_000, burst: 100_000 } } },
  })
  world.clock.now += 600_000
  const named = (options?: Parameters<World['makeCar']>[0]): Named => {
    const car = world.makeCar(options)
    return { car, driver: world.makeDriver(car) }
  }
  Object.assign(kinds, {
    'who has never logged in': named(),
    'who has just logged in': named(),
    unknown: named({ isRegistered: false }),
    banned: named(),
    'banned as a driver': named(),
    revoked: named(),
    locked: named(),
  })
  const { car, driver } = kinds['who has just logged in'] as Named
  await world.login(rps, car, { driver })
  await world.ban(rps, (kinds.banned as Named).car)
  const bannedDriver = kinds['banned as a driver'] as Named
  const { userCore } = bannedDriver.driver
  for (const event of [
    await world.event('ban', bannedDriver.car.idCore, { userCore }),
    await world.event('revoke', (kinds.revoked as Named).car.idCore),
  ])
    await rps.client.pushEvent({ body: { event } })
  const locked = kinds.locked as Named
  for (let i = 0; i < 3; i++) {
    const wrong = world.login(rps, locked.car, { driver: locked.driver, wrongPin: true })
    expect(await codeOf(wrong)).toBe('WRONG_PIN')
  }
})
afterAll(() => world.close())

const payload = utf8('a position')
const hpkeKey = new Uint8Array(32).fill(9)
type Sending = () => Promise<unknown>
/** Where a message can go: made first, then sent. */
const routes: Record<string, (who: Car, terms: MessageOptions) => Promise<Sending>> = {
  'login by nonce': async (who, terms) => {
    const login = asFields(await world.message(rps, who, terms))
    return () => rps.client.login({ body: { login } })
  },
  'login by time': async (who, terms) => {
    const login = asFields(world.prove(who, terms).toJson())
    return () => rps.client.login({ body: { login, authOtt: true } })
  },
  'one pass': async (who, terms) => {
    const authorization = authorizationHeader(world.prove(who, { ...terms, audience: OWN }))
    return () => rps.client.whoami({ authorization })
  },
  'one pass that a service asks about': async (who, terms) => {
    const message = toBase64Url(world.prove(who, { ...terms, audience: TRACKING }).encode())
    return () => rps.as(world.tracking).verifyOnePass({ body: { message } })
  },
  signature: async (who, terms) => {
    const message = asFields(world.prove(who, { ...terms, mode: MODE.sign, payload }).toJson())
    return () => rps.client.sign({ body: { message, payload: toBase64Url(payload) } })
  },
  permit: async (who, terms) => {
    const login = asFields(world.prove(who, { ...terms, audience: OWN }).toJson())
    return () => rps.client.permit({ body: { login } })
  },
  'registration of a driver': async (who, terms) => {
    const attributes = { driverName: 'Eve' }
    const signed = userEnrolmentPayload(attributes, hpkeKey)
    const vouch = asFields(
      world.prove(who, { ...terms, mode: MODE.sign, audience: OWN, payload: signed }).toJson(),
    )
    const [key, nonce] = [toBase64Url(hpkeKey), toBase64Url(new Uint8Array(32))]
    return () => rps.client.register({ body: { kind: 'user', attributes, hpkeKey: key, nonce, vouch } })
  },
  'change of a PIN': async (who, terms) => {
    const signed = pinChangePayload(hpkeKey)
    const message = asFields(
      world.prove(who, { ...terms, mode: MODE.sign, audience: OWN, payload: signed }).toJson(),
    )
    return () => rps.client.changePin({ body: { message, hpkeKey: toBase64Url(hpkeKey) } })
  },
  'relay of a share for a ticket that nobody signed': async who => {
    const { ticket } = await world.approval(who, hpkeKey)
    const forged = ticket.map(jws => `${jws.slice(0, -86)}${'A'.repeat(86)}`)
    return () =>
      rps.client.relayShare({ params: { index: '1' }, body: { ticket: forged, purpose: 'device' } })
  },
}
/** The others take a message with a PIN proof and one without. */
const FACTORS: Record<string, boolean[]> = {
  permit: [false],
  'change of a PIN': [true],
  'relay of a share for a ticket that nobody signed': [false],
}
const cases = Object.entries(routes).flatMap(([name, route]) =>
  (FACTORS[name] ?? [false, true]).map(
    withPin => [`${name}${withPin ? ', with a PIN' : ''}`, route, withPin] as const,
  ),
)

const asked = () => [world.rpa.asked, ...world.authorities.map(authority => authority.asked)]

describe('whoever is named, the answer and the work are the same', () => {
  test.each(cases)('%s', async (name, route, withPin) => {
    const before = JSON.stringify(asked())
    const kindsBy = new Map<string, string[]>()
    for (const [kind, { car, driver }] of Object.entries(kinds)) {
      const send = await route(car, { deviceKey: G1.generator, ...(withPin ? { driver } : {}) })
      engine.calls.clear()
      const answer = await send().catch((error: unknown) => {
        if (!(error instanceof Refused)) throw error
        return error.toProblem()
      })
      const work = JSON.stringify([answer, Object.fromEntries([...engine.calls].sort())])
      kindsBy.set(work, [...(kindsBy.get(work) ?? []), kind])
    }
    expect([...kindsBy.values()], [...kindsBy.keys()].join('\n')).toEqual([Object.keys(kinds)])
    const [work = ''] = kindsBy.keys()
    if (name.startsWith('relay')) expect(work).toContain('"code":"NOT_APPROVED"')
    else {
      expect(work).toContain('"code":"WRONG_PROOF"')
      // What is counted is there to be counted: a decoder, a hash to the curve, a product of pairings.
      expect(work).toMatch(/decode/)
      expect(work).toMatch(/hashToG1|mapToG1/i)
      expect(work).toMatch(/pairing|miller/i)
    }
    // Nobody else was asked, who could be seen to be.
    expect(JSON.stringify(asked())).toBe(before)
  })

  test('and a counter that would not see a difference would fail here', async () => {
    const { car, driver } = kinds['who has never logged in'] as Named
    const worked: string[] = []
    for (const terms of [{ deviceKey: G1.generator }, { deviceKey: G1.generator, driver }, {}]) {
      const login = asFields(world.prove(car, terms).toJson())
      engine.calls.clear()
      await rps.client.login({ body: { login } }).catch(() => undefined)
      worked.push(JSON.stringify([...engine.calls].sort()))
    }
    expect(new Set(worked).size).toBe(3)
  })
})
