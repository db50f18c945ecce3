/** PIN changes: the next generation's ticket, and which generation may log in when. */
import { pinChangePayload } from '@milagro-ts/api/payloads'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { MODE } from '@milagro-ts/crypto/mpin'
import { Accounts } from '@milagro-ts/rps/accounts'
import { strikeAccount } from '@milagro-ts/rps/verification'
import { openSingleUse } from '@milagro-ts/store/single-use'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import {
  asFields,
  type Car,
  codeOf,
  type Driver,
  type MessageOptions,
  NOON,
  OWN,
  type RunningRps,
  World,
} from './world.js'

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
  world.rpa.isDown = false
  world.rpa.told.length = 0
  car = world.makeCar()
  driver = world.makeDriver(car)
  world.rpa.verify = async body => {
    if (body.kind !== 'pin') return { state: 'refused' }
    world.accountOf(car, driver).issuedPinGen = body.pinGen + 1
    return world.approval(car, Buffer.from(body.hpkeKey, 'base64url'), { driver, pinGen: body.pinGen + 1 })
  }
})

const login = (pinGen: number, options: MessageOptions = {}) =>
  world.login(rps, car, { driver, pinGen, ...options })
const newKey = () => crypto.getRandomValues(new Uint8Array(32))
async function changePin(hpkeKey: Uint8Array, options: MessageOptions = {}) {
  const payload = pinChangePayload(hpkeKey)
  const message = await world.message(rps, car, {
    mode: MODE.sign,
    audience: OWN,
    payload,
    driver,
    ...options,
  })
  return { message: asFields(message), hpkeKey: toBase64Url(hpkeKey) }
}

test('the old PIN works until the first login with the new one, and never after it', async () => {
  await login(1)
  const body = await changePin(newKey())
  const answer = await rps.client.changePin({ body })
  expect(answer).toMatchObject({ state: 'approved', user: { pinGen: 2 } })
  expect(world.rpa.registrations.at(-1)).toEqual({
    kind: 'pin',
    idCore: car.idCore.mpinId,
    userCore: toBase64Url(driver.userCore),
    pinGen: 1,
    hpkeKey: body.hpkeKey,
  })
  await login(1)
  await login(2)
  expect(await codeOf(login(1))).toBe('WRONG_PIN')
  expect(await codeOf(login(1, { wrongPin: true }))).toBe('WRONG_PIN')
  // Uncounted, right or wrong: the old generation has no say any more.
  for (let i = 0; i < 4; i++) expect(await codeOf(login(1, { wrongPin: true }))).toBe('WRONG_PIN')
  expect(await codeOf(login(1))).toBe('WRONG_PIN')
  await login(2)
  await world.toldUntil(told => told.some(({ pinGen }) => pinGen === 2))
})

test('the same request gets the same ticket again; another message for it, too; another key or person doesn’t', async () => {
  const hpkeKey = newKey()
  const body = await changePin(hpkeKey)
  const first = await rps.client.changePin({ body })
  world.rpa.verify = async () => first
  expect(await rps.client.changePin({ body })).toEqual(first)
  const again = await changePin(hpkeKey)
  expect(await rps.client.changePin({ body: again })).toEqual(first)
  expect(await rps.client.changePin({ body: again })).toEqual(first)
  const other = world.makeDriver(car, 'Grace')
  expect(await codeOf(rps.client.changePin({ body: await changePin(hpkeKey, { driver: other }) }))).toBe(
    'CONFLICT',
  )
  // The message is over the key.
  expect(await codeOf(rps.client.changePin({ body: { ...body, hpkeKey: toBase64Url(newKey()) } }))).toBe(
    'MALFORMED',
  )
})

describe('a change wants the old PIN, proven for it', () => {
  test.each<[string, MessageOptions, string]>([
    ['a wrong PIN', { wrongPin: true }, 'WRONG_PIN'],
    ['a generation that isn’t', { pinGen: 3 }, 'WRONG_PIN'],
    ['the audience of a service', { audience: 'https://tracking.example' }, 'MALFORMED'],
    ['a login', { mode: MODE.nonce, payload: undefined as never }, 'MALFORMED'],
  ])('not %s', async (_, options, code) => {
    expect(await codeOf(rps.client.changePin({ body: await changePin(newKey(), options) }))).toBe(code)
  })

  test('not the device alone', async () => {
    const hpkeKey = newKey()
    const payload = pinChangePayload(hpkeKey)
    const message = asFields(await world.message(rps, car, { mode: MODE.sign, audience: OWN, payload }))
    const body = { message, hpkeKey: toBase64Url(hpkeKey) }
    expect(await codeOf(rps.client.changePin({ body }))).toBe('MALFORMED')
  })

  test('a wrong PIN there is a strike like any other', async () => {
    for (let i = 0; i < 3; i++)
      await codeOf(rps.client.changePin({ body: await changePin(newKey(), { wrongPin: true }) }))
    expect(await codeOf(login(1))).toBe('LOCKED')
  })

  test('a recorded request brings nothing once its driver is banned', async () => {
    const body = await changePin(newKey())
    await rps.client.changePin({ body })
    const event = await world.event('ban', car.idCore, { userCore: driver.userCore })
    await rps.client.pushEvent({ body: { event } })
    expect(await codeOf(rps.client.changePin({ body }))).toBe('BANNED')
  })
})

test('a generation that the RPA issued elsewhere is heard of when it first logs in', async () => {
  await login(1)
  world.accountOf(car, driver).issuedPinGen = 2
  await login(2)
  expect(await codeOf(login(1))).toBe('WRONG_PIN')
})

test('an account event makes a generation known while the RPA is away', async () => {
  await login(1)
  const event = await world.event('account', car.idCore, { userCore: driver.userCore, pinGen: 2 })
  await rps.client.pushEvent({ body: { event } })
  world.rpa.isDown = true
  await login(2)
  expect(await codeOf(login(1))).toBe('WRONG_PIN')
})

test('acceptance is the higher of the two records: an RPS that lost its own asks the RPA', async () => {
  world.accountOf(car, driver).issuedPinGen = 3
  world.accountOf(car, driver).acceptedPinGen = 3
  // With the permit in hand the account is asked for by itself.
  await world.login(rps, car)
  expect(await codeOf(login(1, { wrongPin: true }))).toBe('WRONG_PIN')
  const account = strikeAccount(car.idCore, driver.userCore, 1)
  expect(await openSingleUse(rps.store).strikes(account)).toEqual({ consecutive: 0, cumulative: 0 })
  expect(await codeOf(login(2))).toBe('WRONG_PIN')
  await login(3)
  // An RPA that was restored from a backup doesn't take it back.
  world.accountOf(car, driver).acceptedPinGen = 1
  world.clock.turn(3_600_000)
  expect(await codeOf(login(2))).toBe('WRONG_PIN')
})

test('of two generations that log in at once, the old one doesn’t get in after the new one', async () => {
  world.accountOf(car, driver).issuedPinGen = 2
  const [older, newer] = [
    await world.message(rps, car, { driver }),
    await world.message(rps, car, { driver, pinGen: 2 }),
  ]
  const replica = await world.startRps()
  const outcomes = await Promise.allSettled([
    rps.client.login({ body: { login: asFields(newer) } }),
    replica.client.login({ body: { login: asFields(older) } }),
  ])
  expect(outcomes[0]!.status).toBe('fulfilled')
  expect(await codeOf(world.login(replica, car, { driver }))).toBe('WRONG_PIN')
  await replica.close()
})

test('acceptance goes up only, whichever of two comes last', async () => {
  await login(1)
  const accounts = new Accounts(rps.store)
  world.accountOf(car, driver).issuedPinGen = 3
  expect(await accounts.accept(car.idCore, driver.userCore, 3)).toBe(true)
  expect(await accounts.accept(car.idCore, driver.userCore, 2)).toBe(false)
  expect(await accounts.accept(car.idCore, driver.userCore, 3)).toBe(true)
  expect(await codeOf(login(2))).toBe('WRONG_PIN')
  await login(3)
})
