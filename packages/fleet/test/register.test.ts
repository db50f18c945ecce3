import { readdirSync, readFileSync } from 'node:fs'
import { verifyTicket } from '@milagro-ts/api/statements'
import { decodeEnrolmentCode } from '@milagro-ts/crypto/enrolment'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { ALICE, approved, GOLF, refusal, World } from './fleet-world.js'

let world: World
beforeAll(async () => {
  world = await World.start({ devicePurposes: ['device', 'agree', 'sign'] })
})
afterAll(() => world.stop())

const detailOf = (answer: Promise<unknown>): Promise<string | undefined> =>
  answer.then(
    () => undefined,
    (error: { detail?: string }) => error.detail,
  )

describe('import', () => {
  const HEADER = 'vin,brand,model,variant,factors'

  test('takes 5 000 vehicles in seconds, each with a code that enrols it', async () => {
    const lines = Array.from(
      { length: 5000 },
      (_, i) => `IMPORT-${i},Škoda,Enyaq,${i % 2 ? '"85, RS"' : ''},0`,
    )
    const began = performance.now()
    const { vehicles } = await world.api.importVehicles({ body: { csv: [HEADER, ...lines].join('\r\n') } })
    const seconds = (performance.now() - began) / 1000
    console.info(`imported 5 000 vehicles in ${seconds.toFixed(2)} s`)
    expect(seconds).toBeLessThan(20)
    expect(vehicles).toHaveLength(5000)
    expect(new Set(vehicles.map(({ code }) => code)).size).toBe(5000)
    const { instance, code } = vehicles[4321]!
    expect(instance).toBe('IMPORT-4321')
    expect(decodeEnrolmentCode(code).groupId).toEqual(world.group.groupId)
    const attributes = { brand: 'Škoda', model: 'Enyaq', variant: '85, RS' }
    expect((await world.enrol({ instance, attributes, code })).factors).toBe(0)
  })

  test('is all or nothing, and names the lines', async () => {
    const count = async () => (await world.api.status({})).vehicles
    const before = await count()
    const take = (csv: string) => world.api.importVehicles({ body: { csv } })
    expect(await detailOf(take(`${HEADER}\nNEW-1,a,b,c,0\nNEW-2,a,b\nNEW-1,a,b,c,0\n`))).toBe(
      'line 3: 3 cells where the header has 5; line 4: the VIN stands in line 2 already',
    )
    expect(
      await detailOf(take(`${HEADER}\nNEW-1,a,b,c,0\nIMPORT-7,a,b,c,0\nNEW-2,a,b,c,0\nIMPORT-8,,,,\n`)),
    ).toBe('registered already: line 3, 5')
    expect(await count()).toBe(before)
  })
})

describe('the list of vehicles', () => {
  test('goes by pages, by state and by VIN', async () => {
    const first = await world.api.listVehicles({ query: { limit: '3' } })
    expect(first.vehicles).toHaveLength(3)
    const after = String(first.vehicles.at(-1)?.id)
    const second = await world.api.listVehicles({ query: { limit: '2', after } })
    expect(second.vehicles.map(({ id }) => id)).toEqual([Number(after) + 1, Number(after) + 2])

    const fresh = await world.api.addVehicle({
      body: { instance: 'STATE-1', attributes: GOLF, withCode: false },
    })
    const state = async (id: number) => (await world.api.vehicle({ params: { id: String(id) } })).state
    const listed = async (wanted: 'registered' | 'invited' | 'enrolled' | 'revoked', id: number) => {
      const query = { state: wanted, after: String(id - 1), limit: '1' }
      return (await world.api.listVehicles({ query })).vehicles.some(vehicle => vehicle.id === id)
    }
    expect([fresh.code, await state(fresh.id), await listed('registered', fresh.id)]).toEqual([
      undefined,
      'registered',
      true,
    ])
    const { code } = await world.api.vehicleCode({ params: { id: String(fresh.id) }, body: {} })
    expect([await state(fresh.id), await listed('invited', fresh.id)]).toEqual(['invited', true])
    await world.enrol({ instance: 'STATE-1', code })
    await world.api.nextGeneration({ params: { id: String(fresh.id) }, body: {} })
    expect([await state(fresh.id), await listed('enrolled', fresh.id)]).toEqual(['enrolled', true])
    expect(await listed('invited', fresh.id)).toBe(false)
    await world.api.revoke({ params: { id: String(fresh.id) }, body: {} })
    expect([await state(fresh.id), await listed('revoked', fresh.id)]).toEqual(['revoked', true])
    const { vehicles } = await world.api.listVehicles({ query: { instance: 'STATE-1' } })
    expect(vehicles.map(({ id }) => id)).toEqual([fresh.id])
  })

  test('holds a VIN once, whatever its spelling in Unicode', async () => {
    const body = (instance: string) => ({ body: { instance, attributes: {} } })
    await world.api.addVehicle(body('S\u030C-1'))
    expect(await refusal(world.api.addVehicle(body('\u0160-1')))).toBe('CONFLICT instance')
  })

  test.each(['', ' A', 'A ', 'A\u0000B', 'A\nB', 'x'.repeat(129)])('takes no VIN like %j', async instance => {
    expect(await refusal(world.api.addVehicle({ body: { instance, attributes: {} } }))).toBe(
      'MALFORMED instance',
    )
  })
})

test('a ticket is for the purposes of the configuration', async () => {
  const { device } = await world.car('PURPOSES')
  const { group, time } = world
  const ticket = await verifyTicket({ ticket: device.ticket, group, now: time.now })
  expect(ticket.purposes).toEqual(['device', 'agree', 'sign'])
})

test('drivers are listed with what is banned of them', async () => {
  const { id } = await world.api.addDriver({ body: { attributes: { driverName: 'Greta' } } })
  await world.api.ban({ body: { driver: id, reason: 'x', expiresAt: world.seconds + 3600 } })
  const { drivers } = await world.api.listDrivers({ query: { after: String(id - 1) } })
  expect(drivers).toMatchObject([
    { id, attributes: { driverName: 'Greta' }, ban: { reason: 'x', expiresAt: world.seconds + 3600 } },
  ])
  const [bare] = (await world.api.listVehicles({ query: { instance: 'IMPORT-0' } })).vehicles
  expect(
    await refusal(world.api.assignDriver({ params: { id: String(bare!.id) }, body: { driver: 999_999 } })),
  ).toBe('CONFLICT')
  const car = await world.car('DRIVERS')
  const assign = world.api.assignDriver({ params: { id: String(car.id) }, body: { driver: 999_999 } })
  expect(await refusal(assign)).toBe('NOT_FOUND driver')
})

test('the audit trail tells who did what, and what was refused, without names or secrets', async () => {
  const car = await world.car('AUDIT')
  const driver = await world.driverOn(car)
  const ban = await world.api.ban({ body: { vehicle: car.id, reason: 'x' } })
  await refusal(world.permit(car.device.idCore))
  await world.api.unban({ params: { id: String(ban.id) } })
  await world.permit(car.device.idCore)
  await refusal(world.api.unban({ params: { id: String(ban.id) } }))
  const { entries } = await world.api.audit({ query: { limit: '20' } })
  const told = entries.map(
    ({ actor, action, subject, outcome }) => `${actor} | ${action} | ${subject} | ${outcome}`,
  )
  expect(told.toReversed().slice(-9)).toEqual([
    `operator:admin | add vehicle | device ${car.id} | done`,
    expect.stringMatching(/^rps \| enrol device \| enrolment \d+ \| approved$/),
    `operator:admin | driver code | driver ${driver.id} on device ${car.id} | done`,
    expect.stringMatching(/^rps \| enrol user \| enrolment \d+ \| approved$/),
    `operator:admin | ban | device ${car.id} | done`,
    `rps | permit | identity ${car.device.idCore} | BANNED`,
    `operator:admin | unban | device ${car.id} | done`,
    `rps | permit | identity ${car.device.idCore} | signed`,
    `operator:admin | unban | id ${ban.id} | NOT_FOUND`,
  ])
  const older = await world.api.audit({ query: { before: String(entries.at(-1)?.id), limit: '5' } })
  expect(older.entries[0]?.id).toBe(entries.at(-1)!.id - 1)
})

test('a flood of refused callbacks fills the audit trail with a count', async () => {
  const { body } = await world.registration({ instance: 'FLOOD', code: world.setupCode })
  for (let i = 0; i < 130; i++)
    await refusal(world.asRps().verify({ body: { ...body, instance: `FLOOD-${i}` } }))
  world.time.advance(10_000)
  await refusal(world.asRps().verify({ body: { ...body, instance: 'FLOOD-LAST' } }))
  const { entries } = await world.api.audit({ query: { limit: '1000' } })
  const written = entries.filter(({ subject }) => subject.includes('FLOOD')).length
  const [count] = entries.filter(({ outcome }) => outcome === 'left out')
  expect(written).toBeLessThanOrEqual(101)
  expect(Number(count?.subject.split(' ')[0]) + written).toBe(131)
})

describe('secrets', () => {
  test('stand in no log line, no audit entry and, except sealed, nowhere in the data folder', async () => {
    const { id, code } = await world.api.addVehicle({ body: { instance: 'SECRET-1', attributes: GOLF } })
    const { body } = await world.registration({ instance: 'SECRET-1', code: code!.code })
    const device = approved(await world.asRps().verify({ body }))
    const driver = await world.driverOn({ id, device })
    await world
      .asRps()
      .verify({ body: { ...body, mac: body.nonce } })
      .catch(() => undefined)
    await world.api.ban({ body: { driver: driver.id, reason: 'x' } })
    await refusal(world.permit(device.idCore, driver.user.userCore))
    const unused = await world.api.nextGeneration({ params: { id: String(id) }, body: {} })
    const token = (await world.operatorToken()).slice('Bearer '.length)
    await refusal(world.apiWith(`${token}x`).status({}))

    const { secret } = decodeEnrolmentCode(unused.code)
    const spellings = [Buffer.from(secret).toString('base64url'), Buffer.from(secret).toString('hex')]
    const log = world.logLines.join('\n')
    const trail = JSON.stringify(await world.api.audit({ query: { limit: '1000' } }))
    expect(log.length).toBeGreaterThan(1000)
    const never = [
      code!.code,
      unused.code,
      ...spellings,
      body.mac!,
      device.ticket[0]!,
      token,
      ALICE.driverName!,
      'Alice',
      'correct horse',
    ]
    for (const text of never) {
      expect(log.includes(text), `log: ${text}`).toBe(false)
      expect(trail.includes(text), `audit: ${text}`).toBe(false)
    }

    const secrets = [
      Buffer.from(secret),
      ...spellings.map(text => Buffer.from(text)),
      Buffer.from(unused.code),
    ]
    const keys = (await world.store.db.selectFrom('ra_key').select('sealed_jwk').execute()).length
    expect(keys).toBe(1)
    for (const name of readdirSync(world.dataDir)) {
      const bytes = readFileSync(`${world.dataDir}/${name}`)
      for (const hidden of [...secrets, Buffer.from('"d":"')])
        expect([name, bytes.includes(hidden)]).toEqual([name, false])
    }
  })
})
