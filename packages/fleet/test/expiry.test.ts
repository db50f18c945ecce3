import { afterAll, beforeAll, expect, test } from 'vitest'
import { GOLF, refusal, until, World } from './fleet-world.js'

let world: World
beforeAll(async () => {
  world = await World.start()
})
afterAll(() => world.stop())

const DAY = 86_400_000
const verify = (body: Parameters<ReturnType<World['asRps']>['verify']>[0]['body']) =>
  world.asRps().verify({ body })
const codes = () => world.store.db.selectFrom('code').selectAll().execute()
const enrolments = () => world.store.db.selectFrom('enrolment').selectAll().execute()

/** Housekeeping that fell due in a leap of the clock reads the time at which it fell due: the next one reads the end. */
function leap(milliseconds: number): void {
  world.time.advance(milliseconds)
  world.time.advance(60_000)
}

test('a code that was sent again: the former one is dead, the newest one enrols', async () => {
  const { id, code } = await world.api.addVehicle({ body: { instance: 'VIN-1', attributes: GOLF } })
  const params = { id: String(id) }
  const second = await world.api.vehicleCode({ params, body: {} })
  const third = await world.api.vehicleCode({ params, body: {} })
  for (const dead of [code!.code, second.code]) {
    const { body } = await world.registration({ instance: 'VIN-1', code: dead })
    expect(await refusal(verify(body))).toBe('NOT_APPROVED')
  }
  expect((await world.enrol({ instance: 'VIN-1', code: third.code })).generation).toBe(0)
})

test('tickets, codes and registrations are forgotten by the clock; approved keys never', async () => {
  await world.operatorToken()
  const { code } = await world.api.addVehicle({ body: { instance: 'VIN-2', attributes: GOLF } })
  const { body } = await world.registration({ instance: 'VIN-2', code: code!.code })
  expect((await verify(body)).state).toBe('approved')
  const late = await world.api.addVehicle({ body: { instance: 'VIN-3', attributes: GOLF } })
  const lateBody = (await world.registration({ instance: 'VIN-3', code: late.code!.code })).body
  const waiting = (await world.registration({ instance: 'VIN-4' })).body
  expect(await verify(waiting)).toEqual({ state: 'pending' })
  expect((await enrolments()).some(({ ticket }) => ticket !== null)).toBe(true)

  leap(8 * DAY)
  await until(async () => (await enrolments()).every(({ ticket }) => ticket === null))
  expect(await verify(body)).toEqual({ state: 'expired' })
  expect(await verify(waiting)).toEqual({ state: 'expired' })
  expect((await world.api.listApprovals({})).approvals).toEqual([])

  leap(7 * DAY)
  expect(await refusal(verify(lateBody))).toBe('EXPIRED')
  expect((await codes()).length).toBeGreaterThan(0)

  leap(31 * DAY)
  await until(async () => (await codes()).length === 0)
  await until(async () => (await enrolments()).every(({ state }) => state === 'approved'))
  expect(await refusal(verify(lateBody))).toBe('NOT_APPROVED')
  // Its enrolment key has made an identity: it makes no other, however long ago.
  expect(await verify(body).catch((error: unknown) => String(error))).not.toMatchObject({ state: 'approved' })
})
