import { verifyTicket } from '@milagro-ts/api/statements'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { ALICE, approved, GOLF, refusal, World } from './fleet-world.js'

let world: World
beforeAll(async () => {
  world = await World.start({ pendingLimit: 3 })
})
afterAll(() => world.stop())

const verify = (body: Parameters<ReturnType<World['asRps']>['verify']>[0]['body']) =>
  world.asRps().verify({ body })
let vins = 0
const vin = () => `VIN-${++vins}`
async function invited(instance = vin()) {
  const { id, code } = await world.api.addVehicle({ body: { instance, attributes: GOLF } })
  return { id, instance, code: code!.code }
}

describe('a code', () => {
  test('is bound to the first key that used it', async () => {
    const { instance, code } = await invited()
    const first = await world.registration({ instance, code })
    const second = await world.registration({ instance, code })
    const answer = approved(await verify(first.body))
    expect(await refusal(verify(second.body))).toBe('CONFLICT')
    expect(await verify(first.body)).toEqual(answer)
  })

  test('used by two keys at once goes to one', async () => {
    const { instance, code } = await invited()
    const bodies = await Promise.all(
      Array.from({ length: 8 }, async () => (await world.registration({ instance, code })).body),
    )
    const outcomes = await Promise.all(bodies.map(body => refusal(verify(body))))
    expect(outcomes.filter(outcome => outcome === 'no refusal')).toHaveLength(1)
    expect(outcomes.filter(outcome => outcome === 'CONFLICT')).toHaveLength(7)
  })

  test('with the key swapped on the way is refused, and still good for its device', async () => {
    const { instance, code } = await invited()
    const { body } = await world.registration({ instance, code })
    const swapped = { ...body, hpkeKey: toBase64Url(world.random(32)) }
    expect(await refusal(verify(swapped))).toBe('NOT_APPROVED')
    expect((await verify(body)).state).toBe('approved')
  })

  test('runs out', async () => {
    const { instance, code } = await invited()
    const { body } = await world.registration({ instance, code })
    world.time.advance(14 * 86_400_000)
    expect(await refusal(verify(body))).toBe('EXPIRED')
  })

  test('is worth nothing once another was sent', async () => {
    const { id, instance, code } = await invited()
    const again = await world.api.vehicleCode({ params: { id: String(id) }, body: {} })
    expect(await refusal(verify((await world.registration({ instance, code })).body))).toBe('NOT_APPROVED')
    expect((await world.enrol({ instance, code: again.code })).generation).toBe(0)
  })

  test('is for its own vehicle, with the attributes of the register', async () => {
    const [mine, other] = [await invited(), await invited()]
    const body = async (change: { instance?: string; attributes?: Record<string, string> }) =>
      (await world.registration({ instance: mine.instance, code: mine.code, ...change })).body
    expect(await refusal(verify(await body({ instance: other.instance })))).toBe('NOT_APPROVED')
    expect(await refusal(verify(await body({ instance: 'VIN-NOBODY' })))).toBe('NOT_APPROVED')
    expect(await refusal(verify(await body({ attributes: { ...GOLF, variant: 'R' } })))).toBe('NOT_APPROVED')
    expect(await refusal(verify(await body({ attributes: { ...GOLF, extra: 'x' } })))).toBe('NOT_APPROVED')
    expect((await verify(await body({}))).state).toBe('approved')
  })

  test('of a banned vehicle enrols nothing, until the ban is lifted', async () => {
    const { id, instance, code } = await invited()
    const { id: ban } = await world.api.ban({ body: { vehicle: id, reason: 'stolen at the dealer’s' } })
    const { body } = await world.registration({ instance, code })
    expect(await refusal(verify(body))).toBe('BANNED instance')
    await world.api.unban({ params: { id: String(ban) } })
    expect((await verify(body)).state).toBe('approved')
  })

  test('of a driver enrols no device, and of a device no driver', async () => {
    const car = await world.car(vin())
    const { code } = await world.api.assignDriver({
      params: { id: String(car.id) },
      body: { attributes: ALICE },
    })
    const { instance } = await world.api.vehicle({ params: { id: String(car.id) } })
    const asDevice = await world.registration({ instance, attributes: ALICE, code: code.code })
    expect(await refusal(verify(asDevice.body))).toBe('NOT_APPROVED')
    const next = await world.api.nextGeneration({ params: { id: String(car.id) }, body: {} })
    const asUser = await world.userRegistration({ idCore: car.device.idCore, code: next.code })
    expect(await refusal(verify(asUser.body))).toBe('NOT_APPROVED')
  })
})

describe('a registration', () => {
  test('with the same key and other bytes is a contradiction', async () => {
    const { instance, code } = await invited()
    const { body } = await world.registration({ instance, code })
    await verify(body)
    const { mac: _mac, codeId: _codeId, ...withoutCode } = body
    expect(await refusal(verify(withoutCode))).toBe('CONFLICT')
  })

  test('is answered for a week after it was approved', async () => {
    const { instance, code } = await invited()
    const { body } = await world.registration({ instance, code })
    const first = approved(await verify(body))
    world.time.advance(6 * 86_400_000)
    const later = approved(await verify(body))
    expect(later.idCore).toBe(first.idCore)
    await verifyTicket({ ticket: later.ticket, group: world.group, now: world.time.now })
    world.time.advance(86_400_000)
    expect(await verify(body)).toEqual({ state: 'expired' })
  })

  test('of a banned or revoked vehicle gets its ticket no more', async () => {
    const { id, instance, code } = await invited()
    const { body } = await world.registration({ instance, code })
    await verify(body)
    const { id: ban } = await world.api.ban({ body: { vehicle: id, reason: 'x' } })
    expect(await refusal(verify(body))).toBe('BANNED idCore')
    await world.api.unban({ params: { id: String(ban) } })
    await world.api.revoke({ params: { id: String(id) }, body: {} })
    expect(await refusal(verify(body))).toBe('REVOKED idCore')
  })
})

describe('leaves and generations', () => {
  test('a leaf is never given out twice, and a revoked vehicle starts over with the next generation', async () => {
    const { id, instance, code } = await invited()
    const first = await world.enrol({ instance, code })
    await world.api.revoke({ params: { id: String(id) }, body: {} })
    expect(await refusal(world.permit(first.idCore))).toBe('REVOKED idCore')
    const second = await world.api.vehicleCode({ params: { id: String(id) }, body: {} })
    const again = await world.enrol({ instance, code: second.code })
    expect([first.generation, again.generation]).toEqual([0, 1])
    expect(again.leaf).toBeGreaterThan(first.leaf)
    const rows = await world.store.db.selectFrom('identity').select('leaf').execute()
    expect(new Set(rows.map(({ leaf }) => leaf)).size).toBe(rows.length)
  })

  test('approving g+1 and revoking g are one step: when the step fails, g stays', async () => {
    const { id, instance, code } = await invited()
    const first = await world.enrol({ instance, code })
    const next = await world.api.nextGeneration({ params: { id: String(id) }, body: {} })
    const { body } = await world.registration({ instance, code: next.code })
    const events = world.store.db.selectFrom('event').select('number').where('kind', '=', 'revoke')
    const before = (await events.execute()).length
    // The insert of the new identity fails after the old one was revoked inside the transaction.
    const failing = `CREATE TRIGGER fail_identity BEFORE INSERT ON identity BEGIN SELECT RAISE(ABORT, 'full'); END`
    await world.store.atomic(connection => connection.run(failing))
    expect(await refusal(verify(body))).toBe('INTERNAL')
    await world.store.atomic(connection => connection.run('DROP TRIGGER fail_identity'))
    expect(await refusal(world.permit(first.idCore))).toBe('no refusal')
    expect(await events.execute()).toHaveLength(before)

    const again = approved(await verify(body))
    expect(again.generation).toBe(1)
    expect(await refusal(world.permit(first.idCore))).toBe('REVOKED idCore')
    expect(await events.execute()).toHaveLength(before + 1)
  })

  test('a code for the next generation doesn’t end the one in force before it is used', async () => {
    const { id, device } = await world.car(vin())
    await world.api.nextGeneration({ params: { id: String(id) }, body: {} })
    expect(await refusal(world.permit(device.idCore))).toBe('no refusal')
    expect(await refusal(world.api.vehicleCode({ params: { id: String(id) }, body: {} }))).toBe('CONFLICT')
  })
})

describe('enrolment by words', () => {
  const waiting = async (instance: string) =>
    (await world.api.listApprovals({})).approvals.find(approval => approval.instance === instance)!

  test('an unknown VIN waits with its attributes, and the operator names the words that were compared', async () => {
    const instance = vin()
    const { body, words } = await world.registration({ instance })
    expect(await verify(body)).toEqual({ state: 'pending' })
    const pending = await waiting(instance)
    expect(pending).toMatchObject({ kind: 'device', words, attributes: GOLF, known: false, enrolled: false })
    const params = { id: String(pending.id) }
    const other = words.split(' ').reverse().join(' ')
    expect(await refusal(world.api.approve({ params, body: { words: other } }))).toBe('NOT_APPROVED')
    expect(await verify(body)).toEqual({ state: 'pending' })
    await world.api.approve({ params, body: { words: `  ${words.toUpperCase()} `, factors: 0 } })
    const answer = approved(await verify(body))
    expect([answer.factors, answer.generation]).toEqual([0, 0])
    expect(await verify(body)).toEqual(answer)
    expect(await refusal(world.api.approve({ params, body: { words } }))).toBe('CONFLICT')
    const { vehicles } = await world.api.listVehicles({ query: { instance } })
    expect(vehicles).toMatchObject([{ instance, state: 'enrolled', idCore: answer.idCore }])
  })

  test('a relay that swaps the key shows other words', async () => {
    const { body, words } = await world.registration({ instance: vin() })
    const swapped = { ...body, instance: vin(), hpkeKey: toBase64Url(world.random(32)) }
    await verify(swapped)
    const pending = await waiting(swapped.instance)
    expect(pending.words).not.toBe(words)
    const params = { id: String(pending.id) }
    expect(await refusal(world.api.approve({ params, body: { words } }))).toBe('NOT_APPROVED')
    await world.api.refuse({ params, body: {} })
    expect(await verify(swapped)).toEqual({ state: 'refused' })
  })

  test('a VIN that is taken is not approved over the vehicle that has it, unless as its next generation', async () => {
    const instance = vin()
    const { device } = await world.car(instance)
    const { body, words } = await world.registration({ instance })
    await verify(body)
    const pending = await waiting(instance)
    expect(pending).toMatchObject({ known: true, enrolled: true })
    const params = { id: String(pending.id) }
    expect(await refusal(world.api.approve({ params, body: { words } }))).toBe('CONFLICT')
    expect(await refusal(world.permit(device.idCore))).toBe('no refusal')
    await world.api.approve({ params, body: { words, nextGeneration: true } })
    expect(approved(await verify(body)).generation).toBe(1)
    expect(await refusal(world.permit(device.idCore))).toBe('REVOKED idCore')
  })

  test('a VIN of the register with other attributes is not approved', async () => {
    const { instance } = await invited()
    const { body, words } = await world.registration({ instance, attributes: { ...GOLF, model: 'Polo' } })
    await verify(body)
    const { id } = await waiting(instance)
    expect(await refusal(world.api.approve({ params: { id: String(id) }, body: { words } }))).toBe('CONFLICT')
    await world.api.refuse({ params: { id: String(id) }, body: {} })
  })

  test('a code that is out is worth nothing once the vehicle was approved by words', async () => {
    const { instance, code } = await invited()
    const byWords = await world.registration({ instance })
    await verify(byWords.body)
    const { id, words } = await waiting(instance)
    await world.api.approve({ params: { id: String(id) }, body: { words } })
    const byCode = await world.registration({ instance, code })
    expect(await refusal(verify(byCode.body))).toBe('NOT_APPROVED')
  })

  test('waits a week', async () => {
    const { body, words } = await world.registration({ instance: vin() })
    await verify(body)
    const { id } = await waiting(body.instance)
    world.time.advance(7 * 86_400_000)
    expect(await verify(body)).toEqual({ state: 'expired' })
    expect(await waiting(body.instance)).toBeUndefined()
    expect(await refusal(world.api.approve({ params: { id: String(id) }, body: { words } }))).toBe('EXPIRED')
  })

  test('a flood of unknown VINs keeps no vehicle of the register and no driver from asking', async () => {
    const car = await world.car(vin())
    const { instance } = await invited()
    const outcomes: string[] = []
    for (let i = 0; i < 5; i++)
      outcomes.push(await refusal(verify((await world.registration({ instance: vin() })).body)))
    expect(outcomes).toEqual(['no refusal', 'no refusal', 'no refusal', 'RETRY_LATER', 'RETRY_LATER'])
    expect((await verify((await world.registration({ instance })).body)).state).toBe('pending')
    const user = await world.userRegistration({ idCore: car.device.idCore })
    expect((await verify(user.body)).state).toBe('pending')
    world.time.advance(7 * 86_400_000)
  })

  test('an operator’s device enrols by code only', async () => {
    const { body } = await world.registration({ instance: 'operator:eve', attributes: { operator: 'eve' } })
    expect(await refusal(verify(body))).toBe('NOT_APPROVED')
  })
})

describe('what a stranger sends', () => {
  test.each(['\u001b[2J', 'a\nb', '\u202egpj', 'x\u2066y'])(
    'is refused when it can’t be shown as it is: %j',
    async text => {
      const keyed = await world.registration({ instance: vin(), attributes: { [text]: 'x' } })
      const valued = await world.registration({ instance: vin(), attributes: { brand: text } })
      const vinned = await world.registration({ instance: text })
      const outcomes = [keyed, valued, vinned].map(({ body }) => refusal(verify(body)))
      expect(await Promise.all(outcomes)).toEqual([
        'MALFORMED attributes',
        expect.stringMatching(/^MALFORMED attributes(\.brand)?$/),
        'MALFORMED instance',
      ])
      const { device } = await world.car(vin())
      const user = await world.userRegistration({ idCore: device.idCore, attributes: { driverName: text } })
      // A body of several shapes names no field.
      const named = /^MALFORMED( attributes(\.driverName)?)?$/
      expect(await refusal(verify(user.body))).toMatch(named)
      const added = world.api.addDriver({ body: { attributes: { driverName: text } } })
      expect(await refusal(added)).toMatch(named)
    },
  )

  test('about a driver has a name in it', async () => {
    const { device } = await world.car(vin())
    const user = await world.userRegistration({ idCore: device.idCore, attributes: { licence: '1' } })
    expect(await refusal(verify(user.body))).toBe('MALFORMED attributes')
  })
})

describe('a driver', () => {
  test('enrols by words, as the person that the operator knows', async () => {
    const car = await world.car(vin())
    const attributes = { driverName: 'Bob by words' }
    const { body, words } = await world.userRegistration({ idCore: car.device.idCore, attributes })
    expect(await verify(body)).toEqual({ state: 'pending' })
    const { approvals } = await world.api.listApprovals({})
    const pending = approvals.find(approval => approval.words === words)!
    expect(pending).toMatchObject({ kind: 'user', attributes, known: true })
    await world.api.approve({ params: { id: String(pending.id) }, body: { words } })
    const answer = approved(await verify(body))
    expect(answer).toMatchObject({ idCore: car.device.idCore, user: { pinGen: 1 } })
    const { drivers } = await world.api.vehicle({ params: { id: String(car.id) } })
    expect(drivers).toMatchObject([{ attributes, userCore: answer.user?.userCore, issuedPinGen: 1 }])
  })

  test('enrols on the vehicle that the code is for, under the name that it is for', async () => {
    const [mine, other] = [await world.car(vin()), await world.car(vin())]
    const { code } = await world.api.assignDriver({
      params: { id: String(mine.id) },
      body: { attributes: ALICE },
    })
    const on = (idCore: string, attributes = ALICE) =>
      world
        .userRegistration({ idCore, attributes, code: code.code })
        .then(({ body }) => refusal(verify(body)))
    expect(await on(other.device.idCore)).toBe('NOT_APPROVED')
    expect(await on(mine.device.idCore, { driverName: 'Mallory' })).toBe('NOT_APPROVED')
    expect(await on(toBase64Url(new Uint8Array(39)))).toBe('NOT_APPROVED idCore')
    expect(await on(mine.device.idCore)).toBe('no refusal')
    expect(await on(mine.device.idCore)).toBe('CONFLICT')
  })

  test('has another userCore on another car', async () => {
    const [one, two] = [await world.car(vin()), await world.car(vin())]
    const [first, second] = [await world.driverOn(one), await world.driverOn(two)]
    expect(first.id).toBe(second.id)
    expect(first.user.userCore).not.toBe(second.user.userCore)
  })

  test('is not put on a car without a PIN, nor on a revoked one', async () => {
    const bare = await world.car(vin(), 0)
    const assign = world.api.assignDriver({ params: { id: String(bare.id) }, body: { attributes: ALICE } })
    expect(await refusal(assign)).toBe('CONFLICT')
    const user = await world.userRegistration({ idCore: bare.device.idCore })
    expect(await refusal(verify(user.body))).toBe('NOT_APPROVED idCore')
    const car = await world.car(vin())
    const { code } = await world.api.assignDriver({
      params: { id: String(car.id) },
      body: { attributes: ALICE },
    })
    await world.api.revoke({ params: { id: String(car.id) }, body: {} })
    const late = await world.userRegistration({ idCore: car.device.idCore, code: code.code })
    expect(await refusal(verify(late.body))).toBe('REVOKED idCore')
  })

  test('who is banned enrols nowhere', async () => {
    const car = await world.car(vin())
    const attributes = { driverName: 'Banned before' }
    const { driver, code } = await world.api.assignDriver({
      params: { id: String(car.id) },
      body: { attributes },
    })
    await world.api.ban({ body: { driver, reason: 'x' } })
    const { body } = await world.userRegistration({ idCore: car.device.idCore, attributes, code: code.code })
    expect(await refusal(verify(body))).toBe('BANNED attributes')
    const byWords = await world.userRegistration({ idCore: car.device.idCore, attributes })
    await verify(byWords.body)
    const { approvals } = await world.api.listApprovals({})
    const { id } = approvals.find(({ words }) => words === byWords.words)!
    const approve = world.api.approve({ params: { id: String(id) }, body: { words: byWords.words } })
    expect(await refusal(approve)).toBe('BANNED driver')
  })

  test('without a name is nobody', async () => {
    expect(await refusal(world.api.addDriver({ body: { attributes: { licence: '1' } } }))).toBe(
      'MALFORMED attributes',
    )
    const { id } = await world.api.addDriver({ body: { attributes: { driverName: 'Carol' } } })
    expect(id).toBeGreaterThan(0)
    expect(await refusal(world.api.addDriver({ body: { attributes: { driverName: 'Carol' } } }))).toBe(
      'CONFLICT attributes',
    )
  })
})

describe('a PIN', () => {
  const change = (
    idCore: string,
    userCore: string,
    pinGen: number,
    hpkeKey = toBase64Url(world.random(32)),
  ) => ({
    kind: 'pin' as const,
    idCore,
    userCore,
    pinGen,
    hpkeKey,
  })
  const login = (idCore: string, userCore: string, pinGen: number) =>
    world.happened({
      event: 'login',
      idCore,
      userCore,
      pinGen,
      amr: ['device', 'pin'],
      audience: 'a',
      slot: 40,
    })

  test('is changed to the next generation, once for each proof, the same answer for the same key', async () => {
    const car = await world.car(vin())
    const { user } = await world.driverOn(car)
    const { idCore } = car.device
    const userCore = user.userCore!
    const body = change(idCore, userCore, 1)
    const answer = approved(await verify(body))
    expect(answer.user).toEqual({ userCore, salt: user.salt, pinGen: 2 })
    const ticket = await verifyTicket({ ticket: answer.ticket, group: world.group, now: world.time.now })
    expect([ticket.pinGen, ticket.purposes]).toEqual([2, ['pin']])
    expect(await verify(body)).toEqual(answer)
    // Another key, while 2 was issued: whoever proves 1 gets no second key of generation 2, nor a third generation.
    expect(await refusal(verify(change(idCore, userCore, 1)))).toBe('CONFLICT pinGen')
    expect((await world.permit(idCore, userCore)).account).toMatchObject({
      issuedPinGen: 2,
      acceptedPinGen: 0,
    })
    await login(idCore, userCore, 2)
    await login(idCore, userCore, 1)
    expect((await world.permit(idCore, userCore)).account).toMatchObject({
      issuedPinGen: 2,
      acceptedPinGen: 2,
    })
    expect(approved(await verify(change(idCore, userCore, 2))).user?.pinGen).toBe(3)
    expect(await verify(body)).toEqual({ state: 'expired' })
  })

  test('changed twice at once changes once', async () => {
    const car = await world.car(vin())
    const { user } = await world.driverOn(car)
    const bodies = Array.from({ length: 5 }, () => change(car.device.idCore, user.userCore!, 1))
    const outcomes = await Promise.all(bodies.map(body => refusal(verify(body))))
    expect(outcomes.toSorted()).toEqual([...Array(4).fill('CONFLICT pinGen'), 'no refusal'])
  })

  test('that was forgotten is reset by a code, under the same userCore', async () => {
    const car = await world.car(vin())
    const driver = await world.driverOn(car)
    const params = { id: String(car.id), driver: String(driver.id) }
    expect(await refusal(world.api.driverCode({ params, body: {} }))).toBe('CONFLICT')
    const { code } = await world.api.resetPin({ params, body: {} })
    const { body } = await world.userRegistration({ idCore: car.device.idCore, code })
    const answer = approved(await verify(body))
    expect(answer.user).toEqual({ ...driver.user, pinGen: 2 })
    expect(await refusal(verify(change(car.device.idCore, driver.user.userCore!, 1)))).toBe('CONFLICT pinGen')
  })

  test('of an unknown user, a banned driver or a banned car is not changed', async () => {
    const car = await world.car(vin())
    const { id, user } = await world.driverOn(car, { driverName: 'Dora' })
    const { idCore } = car.device
    expect(await refusal(verify(change(idCore, toBase64Url(world.random(32)), 1)))).toBe(
      'NOT_APPROVED userCore',
    )
    const driverBan = await world.api.ban({ body: { driver: id, reason: 'x' } })
    expect(await refusal(verify(change(idCore, user.userCore!, 1)))).toBe('BANNED userCore')
    await world.api.unban({ params: { id: String(driverBan.id) } })
    await world.api.ban({ body: { vehicle: car.id, reason: 'x' } })
    expect(await refusal(verify(change(idCore, user.userCore!, 1)))).toBe('BANNED idCore')
  })

  test('is locked and unlocked, and the RPS hears of the unlock', async () => {
    const car = await world.car(vin())
    const { id, user } = await world.driverOn(car)
    await world.happened({
      event: 'locked',
      idCore: car.device.idCore,
      userCore: user.userCore!,
      pinGen: 1,
      amr: ['device'],
      audience: 'a',
      slot: 40,
    })
    const lockedNow = async () =>
      (await world.api.vehicle({ params: { id: String(car.id) } })).drivers.map(({ locked }) => locked)
    expect(await lockedNow()).toEqual([true])
    const { event } = await world.api.unlock({ params: { id: String(car.id), driver: String(id) }, body: {} })
    expect(await lockedNow()).toEqual([false])
    await world.rps.until(event)
    expect(world.rps.events.find(({ number }) => number === event)).toMatchObject({
      kind: 'unlock',
      idCore: car.device.idCore,
      userCore: user.userCore,
      pinGen: 1,
    })
  })
})
