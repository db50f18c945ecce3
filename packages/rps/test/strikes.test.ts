/** Steps 3 and 4: PINs, counted so that a thief can't dodge and an outsider can't lock. */
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { pinIdentityPoint } from '@milagro-ts/crypto/identity'
import { type LoginJson, LoginMessage } from '@milagro-ts/crypto/mpin'
import { G1 } from '@milagro-ts/crypto/points'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { strikeAccount } from '@milagro-ts/rps/verification'
import { openSingleUse } from '@milagro-ts/store/single-use'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import {
  asFields,
  type Car,
  codeOf,
  type Driver,
  type MessageOptions,
  NOON,
  type RunningRps,
  World,
} from './world.js'

/** A reservation as the server makes it, but for the consecutive limit. */
const ONE_STRIKE = (now: number) => ({
  now,
  consecutiveLimit: 100,
  cumulativeLimit: 30,
  reservationMs: 30_000,
})

let world: World
let rps: RunningRps
let car: Car
let driver: Driver
beforeAll(async () => {
  world = await World.make()
  rps = await world.startRps()
})
afterAll(() => world.close())
beforeEach(() => {
  world.clock.now = NOON
  car = world.makeCar()
  driver = world.makeDriver(car)
})

const right = () => world.login(rps, car, { driver })
const wrong = () => codeOf(world.login(rps, car, { driver, wrongPin: true }))
const strikes = (pinGen = 1) =>
  openSingleUse(rps.store).strikes(strikeAccount(car.idCore, driver.userCore, pinGen))

test('three wrong PINs lock; the right one is refused like a wrong one; an unlock opens again', async () => {
  for (let i = 0; i < 3; i++) expect(await wrong()).toBe('WRONG_PIN')
  expect(await wrong()).toBe('LOCKED')
  expect(await codeOf(right())).toBe('LOCKED')
  expect(await strikes()).toEqual({ consecutive: 3, cumulative: 3 })
  await world.toldUntil(told => told.filter(({ event }) => event === 'locked').length >= 2)
  expect(world.rpa.told.filter(({ event }) => event === 'wrong-pin')).toHaveLength(2)

  const event = await world.event('unlock', car.idCore, { userCore: driver.userCore, pinGen: 1 })
  await rps.client.pushEvent({ body: { event } })
  expect(await strikes()).toEqual({ consecutive: 0, cumulative: 3 })
  await right()
  // The same unlock again, from whoever recorded it, opens nothing.
  for (let i = 0; i < 3; i++) await wrong()
  await rps.client.pushEvent({ body: { event } })
  expect(await codeOf(right())).toBe('LOCKED')
})

test('the car alone is not locked with its driver, nor is another driver', async () => {
  for (let i = 0; i < 3; i++) await wrong()
  await world.login(rps, car)
  await world.login(rps, car, { driver: world.makeDriver(car, 'Grace') })
})

test('a right PIN gives its unit back and clears the row: the 31st honest login works', async () => {
  for (let i = 0; i < 31; i++) await right()
  expect(await strikes()).toEqual({ consecutive: 0, cumulative: 0 })
  await wrong()
  await wrong()
  await right()
  expect(await strikes()).toEqual({ consecutive: 0, cumulative: 2 })
}, 60_000)

test('30 wrong PINs in the life of a generation are the end of it, whatever is unlocked between', async () => {
  const singleUse = openSingleUse(rps.store)
  const unlock = async () => {
    const event = await world.event('unlock', car.idCore, { userCore: driver.userCore, pinGen: 1 })
    await rps.client.pushEvent({ body: { event } })
  }
  await right()
  for (let i = 0; i < 29; i++) {
    await singleUse.reserve(strikeAccount(car.idCore, driver.userCore, 1), ONE_STRIKE(world.clock.now))
  }
  world.clock.turn(30_001)
  await unlock()
  await right()
  expect(await wrong()).toBe('WRONG_PIN')
  expect(await strikes()).toEqual({ consecutive: 1, cumulative: 30 })
  expect(await codeOf(right())).toBe('LOCKED')
  await unlock()
  expect(await codeOf(right())).toBe('LOCKED')
  // A new PIN is a new generation, with counters of its own.
  world.accountOf(car, driver).issuedPinGen = 2
  await world.login(rps, car, { driver, pinGen: 2 })
})

test('50 guesses at once over three replicas: at most 3 are looked at', async () => {
  const replicas = [rps, await world.startRps(), await world.startRps()]
  // Permit and account are known, so that nobody's patience with the RPA decides what a guess is answered.
  await right()
  const messages: LoginJson[] = []
  for (let i = 0; i < 50; i++) messages.push(await world.message(rps, car, { driver, wrongPin: true }))
  const guesses = messages.map((login, i) =>
    codeOf(replicas[i % 3]!.client.login({ body: { login: asFields(login) } })),
  )
  const codes = await Promise.all(guesses)
  expect(codes.filter(code => code === 'WRONG_PIN').length).toBeLessThanOrEqual(3)
  expect(codes.filter(code => code === 'LOCKED').length).toBeGreaterThanOrEqual(47)
  expect(await strikes()).toEqual({ consecutive: 3, cumulative: 3 })
  for (const replica of replicas.slice(1)) await replica.close()
}, 60_000)

test('garbage from everywhere locks nobody', async () => {
  const garbage = await world.message(rps, car, { driver, deviceKey: G1.generator })
  for (let i = 0; i < 30; i++) {
    const { nonce } = await rps.client.nonce({ body: {} })
    const headers = { 'content-type': 'application/json', 'x-forwarded-for': `198.51.100.${i}` }
    const body = JSON.stringify({ login: { ...garbage, nonce } })
    const answer = await fetch(`${rps.url}/v1/logins`, { method: 'POST', headers, body })
    expect(await answer.json()).toMatchObject({ code: 'WRONG_PROOF' })
  }
  expect(await strikes()).toEqual({ consecutive: 0, cumulative: 0 })
  await right()
}, 60_000)

test('an attempt that a crash left unanswered counts as wrong, for good', async () => {
  await openSingleUse(rps.store).reserve(
    strikeAccount(car.idCore, driver.userCore, 1),
    ONE_STRIKE(world.clock.now),
  )
  await right()
  // In flight yet, so the success counts it.
  expect(await strikes()).toEqual({ consecutive: 1, cumulative: 1 })
  world.clock.turn(30_001)
  await right()
  expect(await strikes()).toEqual({ consecutive: 0, cumulative: 1 })
})

test('an unknown user, or one of another car, is a wrong PIN that makes no row', async () => {
  const stranger = { userCore: crypto.getRandomValues(new Uint8Array(32)), attributes: {} }
  const elsewhere = world.makeDriver(world.makeCar())
  for (const who of [stranger, elsewhere]) {
    for (let i = 0; i < 5; i++) expect(await codeOf(world.login(rps, car, { driver: who }))).toBe('WRONG_PIN')
    const account = strikeAccount(car.idCore, who.userCore, 1)
    expect(await openSingleUse(rps.store).strikes(account)).toEqual({ consecutive: 0, cumulative: 0 })
  }
})

test('a generation that was never issued is a wrong PIN, uncounted', async () => {
  expect(await codeOf(world.login(rps, car, { driver, pinGen: 2 }))).toBe('WRONG_PIN')
  expect(await strikes(2)).toEqual({ consecutive: 0, cumulative: 0 })
})

test('a banned driver is refused without a strike, the car is not', async () => {
  world.accountOf(car, driver).banned = true
  const event = await world.event('ban', car.idCore, { userCore: driver.userCore })
  await rps.client.pushEvent({ body: { event } })
  expect(await wrong()).toBe('BANNED')
  expect(await strikes()).toEqual({ consecutive: 0, cumulative: 0 })
  await world.login(rps, car)
})

test('one account is no oracle for another: points of A_pin′ in a PIN proof don’t get through', async () => {
  const mine = world.makeDriver(car, 'Mallory')
  const victim = pinIdentityPoint(world.group.groupId, car.idCore, driver.userCore, 1)
  // Mallory's own right PIN, plus ρ times the victim's point in U and ρ times a guess at its key in V.
  const guess = victim.mulSecret(world.secrets.pin)
  const rho = Scalar.fromNumber(11)
  const message = LoginMessage.fromJson(await world.message(rps, car, { driver: mine }))
  const forged = {
    ...message.toJson(),
    uPin: toBase64Url(message.pin!.U_pin.add(victim.mulSecret(rho)).encode()),
    vPin: toBase64Url(message.pin!.V_pin.subtract(guess.mulSecret(rho)).encode()),
  }
  // U_pin is in c, so the device proof has to be made over it: the device is Mallory's own.
  expect(await codeOf(rps.client.login({ body: { login: asFields(forged) } }))).toBe('WRONG_PROOF')
})

test.each<[string, MessageOptions]>([
  ['right', {}],
  ['wrong', { wrongPin: true }],
])('a right PIN while a %s one is in flight', async (_, options) => {
  const both = [world.login(rps, car, { driver }), world.login(rps, car, { driver, ...options })]
  const outcomes = await Promise.allSettled(both)
  expect(outcomes[0]!.status).toBe('fulfilled')
  expect(await strikes()).toMatchObject({ cumulative: options.wrongPin ? 1 : 0 })
})
