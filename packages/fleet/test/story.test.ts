import { verifyPermitStatement, verifyState, verifyTicket } from '@milagro-ts/api/statements'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { enrolmentKeyHash } from '@milagro-ts/crypto/enrolment'
import { checkIdCore, IdCore, userCoreOf } from '@milagro-ts/crypto/identity'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { ALICE, approved, bytes, GOLF, refusal, SLOT, World } from './fleet-world.js'

let world: World
beforeAll(async () => {
  world = await World.start()
})
afterAll(() => world.stop())

test('a car and its driver enrol, are banned, come back; then the car gets its next generation', async () => {
  // The first operator enrols by the setup code and adds a car.
  const { id, code } = await world.api.addVehicle({ body: { instance: 'VIN-STORY', attributes: GOLF } })
  const { body } = await world.registration({ instance: 'VIN-STORY', code: code!.code })
  const car = approved(await world.asRps().verify({ body }))
  const fields = {
    groupId: world.group.groupId,
    attributes: GOLF,
    instance: 'VIN-STORY',
    issueDate: car.issueDate,
    enrolmentKeyHash: enrolmentKeyHash(bytes(body.hpkeKey)),
    salt: bytes(car.salt),
    leaf: car.leaf,
    generation: car.generation,
    factors: car.factors,
  }
  expect(checkIdCore(IdCore.fromBase64Url(car.idCore), fields)).toBe(true)
  const { group } = world
  const ticket = await verifyTicket({ ticket: car.ticket, group, now: world.time.now })
  expect(ticket).toMatchObject({ purposes: ['device', 'agree'], pinGen: undefined })
  expect(await world.api.vehicle({ params: { id: String(id) } })).toMatchObject({
    state: 'enrolled',
    idCore: car.idCore,
    generation: 0,
    drivers: [],
  })

  // Alice is put on the car and enrols there by her own code.
  const alice = await world.driverOn({ id, device: car })
  const { userCore, salt, pinGen } = alice.user
  const recomputed = userCoreOf({ groupId: group.groupId, attributes: ALICE, salt: bytes(salt!) })
  expect([toBase64Url(recomputed), pinGen]).toEqual([userCore, 1])
  const userTicket = await verifyTicket({ ticket: alice.answer.ticket, group, now: world.time.now })
  expect(userTicket).toMatchObject({ purposes: ['pin'], pinGen: 1 })
  await world.happened({
    event: 'login',
    idCore: car.idCore,
    userCore: userCore!,
    pinGen: 1,
    amr: ['device', 'pin'],
    audience: 'https://tracking.example',
    slot: SLOT,
  })
  const permit = await world.permit(car.idCore, userCore)
  expect(permit).toMatchObject({
    instance: 'VIN-STORY',
    attributes: GOLF,
    account: { issuedPinGen: 1, acceptedPinGen: 1, attributes: ALICE },
  })
  await verifyPermitStatement({ statement: permit.statement, group, now: world.time.now })

  // Alice is banned: the car alone goes on. The RPS has heard of it.
  const ban = await world.api.ban({ body: { driver: alice.id, reason: 'licence withdrawn' } })
  expect(await refusal(world.permit(car.idCore, userCore))).toBe('BANNED userCore')
  expect(await refusal(world.permit(car.idCore))).toBe('no refusal')
  await world.rps.until(3)
  expect(world.rps.events.map(({ number, kind }) => [number, kind])).toEqual([
    [1, 'account'],
    [2, 'account'],
    [3, 'ban'],
  ])
  expect(world.rps.events[2]).toMatchObject({ idCore: car.idCore, userCore })

  // The car is banned as well; then both come back.
  const carBan = await world.api.ban({ body: { vehicle: id, reason: 'stolen' } })
  expect(await refusal(world.permit(car.idCore))).toBe('BANNED idCore')
  const during = await verifyState({ state: (await world.asRps().state({})).state, group })
  expect(during.number).toBe(4)
  expect(during.isBanned(IdCore.fromBase64Url(car.idCore))).toBe(true)
  await world.api.unban({ params: { id: String(carBan.id) } })
  await world.api.unban({ params: { id: String(ban.id) } })
  expect(await refusal(world.permit(car.idCore, userCore))).toBe('no refusal')
  const after = await verifyState({ state: (await world.asRps().state({})).state, group })
  expect([after.number, after.payload.banned]).toEqual([6, []])

  // A new device in the old car: the next generation ends the former one.
  const next = await world.api.nextGeneration({ params: { id: String(id) }, body: {} })
  expect(await refusal(world.permit(car.idCore))).toBe('no refusal')
  const again = await world.enrol({ instance: 'VIN-STORY', code: next.code })
  expect([again.generation, again.leaf > car.leaf]).toEqual([1, true])
  expect(await refusal(world.permit(car.idCore))).toBe('REVOKED idCore')
  expect(await refusal(world.permit(again.idCore))).toBe('no refusal')
  await world.rps.until(7)
  expect(world.rps.events.at(-1)).toMatchObject({ number: 7, kind: 'revoke', idCore: car.idCore })
  const end = await verifyState({ state: (await world.asRps().state({})).state, group })
  expect(end.payload.revoked).toEqual([{ idCore: car.idCore, leaf: car.leaf }])
})
