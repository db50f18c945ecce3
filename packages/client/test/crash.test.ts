/** A kill at any write leaves a device that goes on: with what it had, or with what was to come. */

import type { Refused } from '@milagro-ts/api/problem'
import { Device } from '@milagro-ts/client/device'
import type { TokenStore } from '@milagro-ts/client/token-store'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Crash, CrashingStore } from './crashing-store.js'
import { CAR, JO, TRACKING, VIN, World } from './world.js'

let world: World
beforeAll(async () => {
  // One authority: how many there are makes no difference to the writes.
  world = await World.start({ n: 1, t: 1 })
})
afterAll(() => world.close())

const options = (store: TokenStore) => ({ ...world.ports, store })
const moments = [1, 2, 3].flatMap(at => [
  { at, after: false, moment: `before write ${at}` },
  { at, after: true, moment: `after write ${at}` },
])

/** One token of a key at most, in everything that was ever stored; and no enrolment key beside what came of it. */
function checkTokens(store: CrashingStore): void {
  for (const [account, tokens] of store.tokens()) expect([account, tokens.size]).toEqual([account, 1])
  for (const text of store.texts) {
    const [{ device, users, pending }] = JSON.parse(text).identities
    const open = pending.map(({ kind, name }: { kind: string; name?: string }) => `${kind} ${name ?? ''}`)
    if (device !== undefined) expect(open).not.toContain('device ')
    for (const { name } of users) expect(open).not.toContain(`user ${name}`)
  }
}

test('the writes of an enrolment are two, of a user two, of a changed PIN two and one at its first login', async () => {
  const store = new CrashingStore()
  const car = await Device.enrol({ ...options(store), code: world.code(), attributes: CAR, instance: VIN })
  expect(store.writes).toBe(2)
  await car.permit()
  const before = store.writes
  await car.enrolUser({ code: world.code(JO), attributes: JO, pin: '1234' })
  expect(store.writes - before).toBe(2)
  await car.changePin({ user: 'Jo', oldPin: '1234', newPin: '4321' })
  expect(store.writes - before).toBe(4)
  await car.login({ audience: TRACKING, user: 'Jo', pin: '4321' })
  expect(store.writes - before).toBe(5)
})

describe.each(moments.filter(({ at }) => at < 3))(
  'a kill $moment of a device’s enrolment',
  ({ at, after }) => {
    test('loses neither code nor key nor splits a PIN key twice, even if another PIN is chosen then', async () => {
      const store = new CrashingStore()
      const code = world.code(CAR, { factors: 1, ownPin: true })
      const claim = { ...options(store), code, attributes: CAR, instance: VIN }
      store.crashAt(at, after)
      await expect(Device.enrol({ ...claim, pin: '1111' })).rejects.toThrow(Crash)
      const phone = await Device.enrol({ ...claim, pin: '2222' })
      const stored = at === 2 && after ? '1111' : '2222'
      await phone.login({ audience: TRACKING, pin: stored })
      checkTokens(store)
    })

    test('of a user’s enrolment neither', async () => {
      const store = new CrashingStore()
      const car = await Device.enrol({
        ...options(store),
        code: world.code(),
        attributes: CAR,
        instance: VIN,
      })
      await car.permit()
      const claim = { code: world.code(JO), attributes: JO }
      store.crashAt(at, after)
      await expect(car.enrolUser({ ...claim, pin: '1111' })).rejects.toThrow(Crash)
      const again = await Device.open(options(store))
      await again.enrolUser({ ...claim, pin: '2222' })
      const stored = at === 2 && after ? '1111' : '2222'
      await again.login({ audience: TRACKING, user: 'Jo', pin: stored })
      checkTokens(store)
    })
  },
)

describe.each(moments)('a kill $moment of a changed PIN', ({ at, after }) => {
  test('leaves the old PIN or the new one working, and the change can be made', async () => {
    const store = new CrashingStore()
    const car = await Device.enrol({ ...options(store), code: world.code(), attributes: CAR, instance: VIN })
    await car.permit()
    await car.enrolUser({ code: world.code(JO), attributes: JO, pin: '1234' })
    store.crashAt(at, after)
    const change = async () => {
      await car.changePin({ user: 'Jo', oldPin: '1234', newPin: '4321' })
      await car.login({ audience: TRACKING, user: 'Jo', pin: '4321' })
    }
    await expect(change()).rejects.toThrow(Crash)

    const again = await Device.open(options(store))
    const login = (pin: string) => again.login({ audience: TRACKING, user: 'Jo', pin })
    const changed = at === 3 || (at === 2 && after)
    if (!changed) {
      await login('1234')
      await again.changePin({ user: 'Jo', oldPin: '1234', newPin: '4321' })
    }
    await login('4321')
    await expect(login('1234')).rejects.toMatchObject({ code: 'WRONG_PIN' } satisfies Partial<Refused>)
    checkTokens(store)
  })
})

test('a change of PIN that was begun still wants the old PIN', async () => {
  const store = new CrashingStore()
  const car = await Device.enrol({ ...options(store), code: world.code(), attributes: CAR, instance: VIN })
  await car.permit()
  await car.enrolUser({ code: world.code(JO), attributes: JO, pin: '1234' })
  store.crashAt(2, false)
  await expect(car.changePin({ user: 'Jo', oldPin: '1234', newPin: '4321' })).rejects.toThrow(Crash)
  const thief = await Device.open(options(store))
  await expect(thief.changePin({ user: 'Jo', oldPin: '0000', newPin: '6666' })).rejects.toMatchObject({
    code: 'WRONG_PIN',
  })
})

test('two processes that finish one enrolment store one token', async () => {
  const store = new CrashingStore()
  const car = await Device.enrol({ ...options(store), code: world.code(), attributes: CAR, instance: VIN })
  await car.permit()
  const claim = { code: world.code(JO), attributes: JO }
  store.crashAt(2, false)
  await expect(car.enrolUser({ ...claim, pin: '0000' })).rejects.toThrow(Crash)
  const both = await Promise.all([Device.open(options(store)), Device.open(options(store))])
  const outcomes = await Promise.allSettled(both.map((one, i) => one.enrolUser({ ...claim, pin: `111${i}` })))
  expect(outcomes.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected'])
  expect(outcomes.find(({ status }) => status === 'rejected')).toMatchObject({
    reason: { code: 'STORE_CHANGED' },
  })
  checkTokens(store)
})
