import { execFileSync } from 'node:child_process'
import { generateEs256 } from '@milagro-ts/api/keys'
import { signAccessToken, verifyTicket } from '@milagro-ts/api/statements'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { approved, refusal, World } from './fleet-world.js'

let world: World
beforeAll(async () => {
  world = await World.start()
})
afterAll(() => world.stop())

const status = (token: string) => refusal(world.apiWith(token).status({}))
const tokenFor = (sub: string, changes: Parameters<typeof world.rps.token>[0] | object = {}) =>
  world.rps.token({ sub, aud: world.config.publicUrl, iat: world.seconds, ...changes })
let names = 0
async function operator() {
  const name = `op${++names}`
  const { id, code } = await world.api.inviteOperator({ body: { name } })
  const device = await world.enrolOperator(name, code.code)
  return { id, name, idCore: device.idCore, device }
}

test('the setup code is made once, and enrols the first operator with a PIN of the device’s own', async () => {
  const { body } = await world.registration({
    instance: 'operator:admin',
    attributes: { operator: 'admin' },
    code: world.setupCode,
  })
  const answer = approved(await world.asRps().verify({ body }))
  expect(answer).toMatchObject({ factors: 1, user: { pinGen: 1 } })
  expect(answer.user).toEqual({ pinGen: 1 })
  const ticket = await verifyTicket({ ticket: answer.ticket, group: world.group, now: world.time.now })
  expect([ticket.purposes, ticket.pinGen, ticket.userCore.length]).toEqual([['device', 'agree', 'pin'], 1, 0])
  expect(await world.permit(answer.idCore)).toMatchObject({ account: { issuedPinGen: 1, acceptedPinGen: 0 } })

  const other = await world.registration({
    instance: 'operator:admin',
    attributes: { operator: 'admin' },
    code: world.setupCode,
  })
  expect(await refusal(world.asRps().verify({ body: other.body }))).toBe('CONFLICT')
  world.useOperator(answer.idCore)
  expect(await world.api.status({})).toMatchObject({ operator: 'admin', vehicles: 0, revision: 1 })
})

describe('the command that enrols an operator', () => {
  test('is for the first one’s token store, and another where that may be there already', async () => {
    const command = ({ code, enrol }: { code: string; enrol: string }) => enrol.replace(code, '<code>')
    const rest = `--store operator.json --rps ${world.rps.url}`
    expect(command(await world.fleet.recoveryCode('eve'))).toBe(
      `MILAGRO_CODE=<code> milagro device enroll --with-pin --instance operator:eve --attribute operator=eve ${rest}`,
    )
    const { name } = await operator()
    expect(command(await world.fleet.recoveryCode(name))).toContain(' --store operator-new.json --rps ')
  })

  test('wants no PIN where operators have none, and quotes an address that a shell would read', async () => {
    const issuer = "https://rps.example/?a&b='c'"
    const other = await World.start({ operatorPin: 'never', rps: { url: world.rps.url, issuer } })
    const { enrol } = await other.fleet.recoveryCode('eve')
    expect(enrol).toMatch(/ milagro device enroll --instance operator:eve /)
    const words = execFileSync('sh', ['-c', `set -- ${enrol}; printf '%s\\n' "$@"`], { encoding: 'utf8' })
    expect(words.trimEnd().split('\n').at(-1)).toBe(issuer)
    await other.stop()
  })
})

describe('a token', () => {
  test('of an operator for this service is taken', async () => {
    expect(await status(await tokenFor((await operator()).idCore))).toBe('no refusal')
  })

  test.each([
    ['of another audience', { aud: 'https://tracking.example' }],
    ['of another issuer', { iss: 'https://other.example' }],
    ['that has run out', { iat: 1_767_225_600, exp: 1_767_225_900 }],
    ['of the future', { iat: 4_000_000_000, exp: 4_000_000_300 }],
    ['that lives too long', { exp: 4_000_000_000 }],
  ])('%s is refused', async (_what, changes) => {
    expect(await status(await tokenFor((await operator()).idCore, changes))).toBe('UNAUTHENTICATED')
  })

  test('by another key, or changed, is refused', async () => {
    const { idCore } = await operator()
    const payload = {
      iss: world.rps.url,
      aud: world.config.publicUrl,
      sub: idCore,
      amr: ['device' as const, 'pin' as const],
      slot: world.slot,
      iat: world.seconds,
      exp: world.seconds + 300,
      jti: toBase64Url(world.random(16)),
    }
    const forged = await signAccessToken(payload, { key: await generateEs256(), kid: world.rps.kid })
    expect(await status(forged)).toBe('UNAUTHENTICATED')
    const token = await tokenFor(idCore)
    const [head, , signature] = token.split('.')
    const changed = toBase64Url(
      new TextEncoder().encode(JSON.stringify({ ...payload, exp: payload.exp + 1 })),
    )
    expect(await status(`${head}.${changed}.${signature}`)).toBe('UNAUTHENTICATED')
    expect(await status(token)).toBe('no refusal')
  })

  test('of a vehicle, a driver in one, or a stranger is refused', async () => {
    const car = await world.car('VIN-1')
    const { user } = await world.driverOn(car)
    expect(await status(await tokenFor(car.device.idCore))).toBe('FORBIDDEN')
    expect(await status(await tokenFor(car.device.idCore, { userCore: user.userCore! }))).toBe('FORBIDDEN')
    expect(await status(await tokenFor(toBase64Url(new Uint8Array(39))))).toBe('FORBIDDEN')
  })

  test('of a vehicle whose VIN looks like an operator can’t come about', async () => {
    const body = { instance: 'operator:mallory', attributes: {} }
    expect(await refusal(world.api.addVehicle({ body }))).toBe('MALFORMED instance')
    const csv = 'vin\noperator:mallory\n'
    expect(await refusal(world.api.importVehicles({ body: { csv } }))).toBe('MALFORMED csv')
  })

  test('without the PIN is not enough', async () => {
    expect(await status(await tokenFor((await operator()).idCore, { amr: ['device'] }))).toBe('FORBIDDEN')
  })

  test('is refused from the moment of a ban here, although it is still good by itself', async () => {
    const { id, idCore } = await operator()
    const token = await tokenFor(idCore)
    expect(await status(token)).toBe('no refusal')
    const ban = await world.api.ban({ body: { operator: id, reason: 'left', expiresAt: world.seconds + 60 } })
    expect(ban).toMatchObject({ operator: id })
    expect(await status(token)).toBe('BANNED')
    expect((await world.api.listBans({})).bans).toMatchObject([{ operator: id }])
    world.time.now += 60_000
    expect(await status(token)).toBe('no refusal')
    await world.api.revokeOperator({ params: { id: String(id) }, body: {} })
    expect(await status(token)).toBe('REVOKED')
  })

  test('is checked with the RPS’ new key when the RPS has changed it', async () => {
    const { idCore } = await operator()
    await status(await tokenFor(idCore))
    const before = world.rps.jwksAsked
    world.time.now += 3000
    await world.rps.changeTokenKey()
    expect(await status(await tokenFor(idCore))).toBe('no refusal')
    expect(world.rps.jwksAsked).toBe(before + 1)
    // A flood of unknown kids doesn't become a flood of questions.
    const strange = await signAccessToken(
      {
        iss: 'x',
        aud: 'x',
        sub: idCore,
        amr: ['device'],
        slot: 0,
        iat: 1,
        exp: 2,
        jti: toBase64Url(world.random(16)),
      },
      { key: await generateEs256(), kid: 'strange' },
    )
    await Promise.all(Array.from({ length: 20 }, () => status(strange)))
    expect(world.rps.jwksAsked).toBe(before + 1)
  })
})

test('nothing of the operators’ API answers without a token', async () => {
  const open = await fetch(`${world.url}/v1/status`)
  expect([open.status, await open.json()]).toMatchObject([401, { code: 'UNAUTHENTICATED' }])
  const document = (await (await fetch(`${world.url}/openapi.json`)).json()) as {
    paths: Record<string, Record<string, object>>
  }
  const unguarded: string[] = []
  for (const [path, methods] of Object.entries(document.paths))
    for (const method of Object.keys(methods)) {
      const response = await fetch(world.url + path.replaceAll(/\{[a-z]+\}/gi, '1'), {
        method: method.toUpperCase(),
        ...(method === 'post' ? { body: '{}', headers: { 'content-type': 'application/json' } } : {}),
      })
      if (response.status !== 401) unguarded.push(`${method} ${path} ${response.status}`)
    }
  expect(Object.keys(document.paths).length).toBeGreaterThan(25)
  expect(unguarded).toEqual([])
})

test('a known operator who lost the device gets a code at the server’s own machine', async () => {
  const { name, idCore } = await operator()
  const { code } = await world.fleet.recoveryCode(name)
  const again = await world.enrolOperator(name, code)
  expect(again.generation).toBe(1)
  expect(await status(await tokenFor(idCore))).toBe('REVOKED')
  expect(await status(await tokenFor(again.idCore))).toBe('no refusal')
})

test('an operator’s PIN is changed without a user, and unlocked', async () => {
  const { id, idCore } = await operator()
  const body = { kind: 'pin' as const, idCore, pinGen: 1, hpkeKey: toBase64Url(world.random(32)) }
  const answer = approved(await world.asRps().verify({ body }))
  expect(answer.user).toEqual({ pinGen: 2 })
  const { event } = await world.api.unlockOperator({ params: { id: String(id) }, body: {} })
  await world.rps.until(event)
  expect(world.rps.events.find(({ number }) => number === event)).toMatchObject({
    kind: 'unlock',
    idCore,
    pinGen: 2,
  })
})
