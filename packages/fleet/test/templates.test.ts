import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { codeId, decodeEnrolmentCode, enrolmentMac } from '@milagro-ts/crypto/enrolment'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { GOLF, refusal, World } from './fleet-world.js'

let world: World
beforeAll(async () => {
  world = await World.start()
})
afterAll(() => world.stop())

const DAY = 86_400
const PATTERNS = {
  brand: { equals: 'Volkswagen' },
  model: { oneOf: ['Golf', 'Polo'] },
  variant: { prefix: 'GT' },
}
const verify = (body: Parameters<ReturnType<World['asRps']>['verify']>[0]['body']) =>
  world.asRps().verify({ body })
let lots = 0
/** A template for a lot of its own; VINs of the lot begin with `vin`. */
async function lot(more: { count?: number; vehicles?: 'new' | 'registered'; expiresAt?: number } = {}) {
  const vin = `LOT${++lots}-`
  const { id, code } = await world.api.addTemplate({
    body: {
      name: `lot ${lots}`,
      instance: { prefix: vin },
      attributes: PATTERNS,
      count: 10,
      expiresAt: world.seconds + DAY,
      ...more,
    },
  })
  const body = async (
    number: number | string,
    attributes: Record<string, string> = GOLF,
    used: string = code.code,
  ) => (await world.registration({ instance: `${vin}${number}`, attributes, code: used })).body
  return { id, vin, code: code.code, body }
}
const templateOf = async (id: number) =>
  (await world.api.listTemplates({ query: {} })).templates.find(template => template.id === id)

describe('a template', () => {
  test('approves devices that hold its code and that it covers; each is a vehicle of its own', async () => {
    const { id, vin, body } = await lot()
    const [one, two] = [await verify(await body(1)), await verify(await body(2, { ...GOLF, model: 'Polo' }))]
    expect([one.state, two.state]).toEqual(['approved', 'approved'])
    expect('leaf' in one && 'leaf' in two && one.leaf !== two.leaf).toBe(true)
    const { vehicles } = await world.api.listVehicles({ query: { instance: `${vin}2` } })
    expect(vehicles).toMatchObject([{ state: 'enrolled', attributes: { ...GOLF, model: 'Polo' } }])
    expect(await templateOf(id)).toMatchObject({
      state: 'active',
      approved: 2,
      count: 10,
      madeBy: 'operator:admin',
    })
    const { entries } = await world.api.audit({ query: {} })
    expect(entries).toContainEqual(expect.objectContaining({ actor: `template:${id}`, action: 'approve' }))
    expect(entries).toContainEqual(
      expect.objectContaining({ action: 'add template', subject: `template ${id}` }),
    )
  })

  test('of count 3 approves 3 of 50 that come at once', async () => {
    const { id, body } = await lot({ count: 3 })
    const bodies = await Promise.all(Array.from({ length: 50 }, (_, number) => body(number)))
    const outcomes = await Promise.all(bodies.map(one => refusal(verify(one))))
    expect(outcomes.filter(outcome => outcome === 'no refusal')).toHaveLength(3)
    expect(outcomes.filter(outcome => outcome === 'NOT_APPROVED')).toHaveLength(47)
    expect(await templateOf(id)).toMatchObject({ state: 'used up', approved: 3 })
  })

  test('answers a registration that it approved again, without counting it again', async () => {
    const { id, body } = await lot({ count: 1 })
    const one = await body(1)
    const first = await verify(one)
    expect(await verify(one)).toEqual(first)
    await world.api.endTemplate({ params: { id: String(id) }, body: {} })
    expect(await verify(one)).toEqual(first)
    expect(await templateOf(id)).toMatchObject({ approved: 1, state: 'ended' })
  })

  test('takes nothing of its count for what it refuses', async () => {
    const { id, body } = await lot({ count: 2 })
    await verify(await body(1))
    expect(await refusal(verify(await body(1)))).toBe('CONFLICT instance')
    expect(await refusal(verify(await body(2, { ...GOLF, variant: 'R' })))).toBe('NOT_APPROVED')
    expect(await templateOf(id)).toMatchObject({ approved: 1 })
    expect((await verify(await body(2))).state).toBe('approved')
  })

  test('runs out by the clock', async () => {
    const { id, body } = await lot({ expiresAt: world.seconds + 60 })
    const one = await body(1)
    world.time.advance(60_000)
    expect(await refusal(verify(one))).toBe('EXPIRED')
    expect(await templateOf(id)).toMatchObject({ state: 'expired', approved: 0 })
  })

  test('ends at once, once', async () => {
    const { id, body } = await lot()
    const params = { id: String(id) }
    await world.api.endTemplate({ params, body: {} })
    expect(await refusal(verify(await body(1)))).toBe('NOT_APPROVED')
    expect(await refusal(world.api.endTemplate({ params, body: {} }))).toBe('CONFLICT')
    expect(await refusal(world.api.templateCode({ params, body: {} }))).toBe('CONFLICT')
    expect(await refusal(world.api.endTemplate({ params: { id: '999999' }, body: {} }))).toBe('NOT_FOUND')
  })

  test('whose code was sent again knows the former one no more', async () => {
    const { id, body } = await lot()
    const { code } = await world.api.templateCode({ params: { id: String(id) }, body: {} })
    expect(await refusal(verify(await body(1)))).toBe('NOT_APPROVED')
    expect((await verify(await body(1, GOLF, code))).state).toBe('approved')
  })
})

describe('a template does not cover', () => {
  const lacks = { brand: 'Volkswagen', model: 'Golf' }
  const cases: Record<string, Record<string, string>> = {
    'another value': { ...GOLF, brand: 'Volkswagen AG' },
    'another case': { ...GOLF, brand: 'VOLKSWAGEN' },
    'an attribute more': { ...GOLF, role: 'admin' },
    'an attribute less': lacks,
    'another attribute in its place': { ...lacks, Variant: 'GTI' },
    'a look-alike in another script': { ...GOLF, model: 'G\u043elf' },
    'a letter that a mark changes': { ...GOLF, variant: 'GT\u030aI' },
    'characters that can’t be seen': { ...GOLF, variant: 'GT\u202eI' },
    'an empty set of attributes': {},
  }
  test.each(Object.entries(cases))('%s', async (_name, attributes) => {
    const { id, body } = await lot()
    expect(await refusal(verify(await body(1, attributes)))).toBe('NOT_APPROVED')
    expect(await templateOf(id)).toMatchObject({ approved: 0 })
  })

  test('a VIN of another lot, or an operator', async () => {
    const [mine, other] = [await lot(), await lot()]
    const { body } = await world.registration({ instance: `${other.vin}1`, code: mine.code })
    expect(await refusal(verify(body))).toBe('NOT_APPROVED')
    const operator = await world.registration({ instance: 'operator:eve', code: mine.code })
    expect(await refusal(verify(operator.body))).toBe('NOT_APPROVED')
  })

  test('a driver', async () => {
    const { body, code } = await lot()
    const answer = await verify(await body(1))
    if (answer.state !== 'approved') throw new Error(answer.state)
    const user = await world.userRegistration({ idCore: answer.idCore, code })
    expect(await refusal(verify(user.body))).toBe('NOT_APPROVED')
  })
})

test('composed and decomposed letters are the same letters', async () => {
  const name = 'Citroe\u0308n'
  const { code } = await world.api.addTemplate({
    body: {
      name: 'two forms',
      instance: { prefix: 'NFC-' },
      attributes: { brand: { equals: name } },
      count: 2,
      expiresAt: world.seconds + DAY,
    },
  })
  for (const [number, brand] of [name.normalize('NFC'), name.normalize('NFD')].entries()) {
    const { body } = await world.registration({
      instance: `NFC-${number}`,
      attributes: { brand },
      code: code.code,
    })
    expect((await verify(body)).state).toBe('approved')
  }
})

describe('a vehicle of the register', () => {
  test('is approved only by a template for such, and only if nothing of its own is out', async () => {
    const [fresh, registered] = [await lot(), await lot({ vehicles: 'registered' })]
    const add = (instance: string, withCode = false) =>
      world.api.addVehicle({ body: { instance, attributes: GOLF, withCode } })
    await add(`${fresh.vin}1`)
    expect(await refusal(verify(await fresh.body(1)))).toBe('CONFLICT instance')
    expect(await refusal(verify(await registered.body('nobody')))).toBe('NOT_APPROVED')
    await add(`${registered.vin}1`)
    expect((await verify(await registered.body(1))).state).toBe('approved')
    expect(await refusal(verify(await registered.body(1)))).toBe('CONFLICT instance')
    await add(`${registered.vin}2`, true)
    expect(await refusal(verify(await registered.body(2)))).toBe('CONFLICT instance')
    await add(`${registered.vin}3`)
    expect(await refusal(verify(await registered.body(3, { ...GOLF, model: 'Polo' })))).toBe('NOT_APPROVED')
  })

  test('that is banned or was revoked stays out', async () => {
    const { vin, body } = await lot({ vehicles: 'registered' })
    const add = (instance: string) =>
      world.api.addVehicle({ body: { instance, attributes: GOLF, withCode: false } })
    const banned = await add(`${vin}1`)
    await world.api.ban({ body: { vehicle: banned.id, reason: 'stolen' } })
    expect(await refusal(verify(await body(1)))).toBe('BANNED instance')
    const revoked = await add(`${vin}2`)
    await verify(await body(2))
    await world.api.revoke({ params: { id: String(revoked.id) }, body: {} })
    expect(await refusal(verify(await body(2)))).toBe('CONFLICT instance')
  })
})

describe('a code', () => {
  test('that was guessed, or stands beside another’s MAC, opens nothing', async () => {
    const [mine, other] = [await lot(), await lot()]
    const honest = await mine.body(1)
    const guessed = { ...honest, codeId: toBase64Url(codeId(world.random(16))) }
    expect(await refusal(verify(guessed))).toBe('NOT_APPROVED')
    const swapped = { ...honest, codeId: toBase64Url(codeId(decodeEnrolmentCode(other.code).secret)) }
    expect(await refusal(verify(swapped))).toBe('NOT_APPROVED')
    const { mac: _mac, codeId: _id, ...without } = honest
    expect((await verify(without)).state).toBe('pending')
  })

  test('used for another group opens nothing', async () => {
    const { code, body } = await lot()
    const honest = await body(1)
    const mac = enrolmentMac(decodeEnrolmentCode(code).secret, {
      groupId: new Uint8Array(32).fill(7),
      attributes: GOLF,
      instance: honest.instance,
      hpkeKey: Buffer.from(honest.hpkeKey, 'base64url'),
      nonce: Buffer.from(honest.nonce, 'base64url'),
    })
    expect(await refusal(verify({ ...honest, mac: toBase64Url(mac) }))).toBe('NOT_APPROVED')
  })
})

describe('a pattern is refused', () => {
  const good = { name: 'x', instance: { prefix: 'X-' }, attributes: PATTERNS, count: 1 }
  const add = (change: object) =>
    refusal(world.api.addTemplate({ body: { ...good, expiresAt: world.seconds + DAY, ...change } }))
  test.each([
    ['an expiry that is over', () => ({ expiresAt: world.seconds }), 'MALFORMED expiresAt'],
    ['operators', () => ({ instance: { prefix: 'operator:' } }), 'MALFORMED instance'],
    ['what can’t be read', () => ({ attributes: { brand: { equals: 'a\u202eb' } } }), 'MALFORMED attributes'],
    [
      'one name in two forms',
      () => ({ attributes: { '\u00eb': { equals: 'a' }, 'e\u0308': { equals: 'b' } } }),
      'MALFORMED attributes',
    ],
  ])('%s', async (_name, change, code) => {
    expect(await add(change())).toBe(code)
  })
  test.each([
    ['no count', { count: 0 }],
    ['an expression', { instance: { regex: '.*' } }],
    ['an empty prefix', { instance: { prefix: '' } }],
    ['two kinds at once', { instance: { prefix: 'X', equals: 'X1' } }],
  ])('%s', async (_name, change) => {
    expect(await add(change)).toMatch(/^MALFORMED/)
  })
})

test('templates survive a restart, and neither log nor database holds a code in clear', async () => {
  const { id, body, code } = await lot()
  const one = await body(1)
  await world.restart()
  expect(await templateOf(id)).toMatchObject({ state: 'active' })
  expect((await verify(one)).state).toBe('approved')
  expect(world.logLines.join('')).not.toContain(code)
})
