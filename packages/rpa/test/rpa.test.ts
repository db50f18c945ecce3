import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { createClient } from '@milagro-ts/api/call'
import { generateHpkeKey } from '@milagro-ts/api/keys'
import { Refused } from '@milagro-ts/api/problem'
import { requestSigner, serverCallerCheck, signRequest } from '@milagro-ts/api/request-auth'
import { type Approved, rpaRoutes } from '@milagro-ts/api/rpa-routes'
import { sixWords } from '@milagro-ts/api/six-words'
import { verifyPermitStatement, verifyState, verifyTicket } from '@milagro-ts/api/statements'
import { fromBase64Url, toBase64Url, utf8 } from '@milagro-ts/crypto/bytes'
import { codeId, enrolmentKeyHash, enrolmentMac, sixWordIndices } from '@milagro-ts/crypto/enrolment'
import { checkIdCore, IdCore } from '@milagro-ts/crypto/identity'
import { createCallbacks } from '@milagro-ts/rpa/callbacks'
import { createRpaHandler, nodeListener, type RpaHandler } from '@milagro-ts/rpa/handlers'
import { RegistrationAuthority } from '@milagro-ts/rpa/registration-authority'
import { openDatabase, type Store } from '@milagro-ts/store/database'
import { openSingleUse, singleUseMigration } from '@milagro-ts/store/single-use'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { fixedRandom } from '../../api/test/fixed-random.js'
import { makeGroup, type TestGroup } from './group-of-test.js'
import { MemoryDirectory } from './memory-directory.js'

const START = 1_767_225_600_000 + 40 * 86_400_000 + 3_600_000
const SLOT = 40
const NOBODY = Buffer.alloc(39).toString('base64url')
const noticeOf = (idCore: string, id = Buffer.alloc(16).toString('base64url')) => ({
  id,
  at: START / 1000,
  event: 'login' as const,
  idCore,
  amr: ['device' as const],
  audience: 'a',
  slot: SLOT,
})
const GOLF = { brand: 'Volkswagen', model: 'Golf', variant: 'GTI' }
const VIN = 'WVWZZZ1JZXW000001'
const SECRET = fixedRandom('golf')(16)

let world: TestGroup
let store: Store<unknown>
let server: Server
let url: string
let now: number
let directory: MemoryDirectory
let authority: RegistrationAuthority
let handle: RpaHandler
let errors: unknown[]
const random = fixedRandom('rpa test')

beforeAll(async () => {
  world = await makeGroup({ m: 2, k: 2 })
  store = await openDatabase({ file: ':memory:', migrations: [singleUseMigration(1)] })
  server = createServer((request, response) => nodeListener(handle)(request, response))
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
})
afterAll(async () => {
  await new Promise(resolve => server.close(resolve))
  await store.close()
})
beforeEach(() => {
  now = START
  errors = []
  const clock = () => now
  authority = new RegistrationAuthority({
    group: () => world.group,
    signers: () => world.signers,
    clock,
    random,
  })
  directory = new MemoryDirectory(() => authority)
  directory.vehicles.push({ instance: VIN, attributes: GOLF, secret: SECRET })
  handle = createRpaHandler({
    callbacks: createCallbacks({ authority, directory, rpsName: 'rps' }),
    server: serverCallerCheck({
      keyOf: name => world.group.recipient(name)?.requestKey,
      singleUse: openSingleUse(store),
      clock,
      publicUrl: url,
    }),
    onError: error => errors.push(error),
  })
})

const rps = () => rpsAs('rps', world.rpsKey)
function rpsAs(name: string, key: TestGroup['rpsKey']) {
  return createClient(rpaRoutes, {
    baseUrl: url,
    authorize: requestSigner({ name, key, clock: () => now, random }),
  })
}

async function registration(changes: { secret?: Uint8Array; instance?: string } = {}) {
  const { publicKey: hpkeKey } = await generateHpkeKey(random)
  const nonce = random(32)
  const instance = changes.instance ?? VIN
  const secret = changes.secret ?? SECRET
  const mac = enrolmentMac(secret, {
    groupId: world.group.groupId,
    attributes: GOLF,
    instance,
    hpkeKey,
    nonce,
  })
  return {
    kind: 'device' as const,
    attributes: GOLF,
    instance,
    hpkeKey: toBase64Url(hpkeKey),
    nonce: toBase64Url(nonce),
    codeId: toBase64Url(codeId(secret)),
    mac: toBase64Url(mac),
  }
}

async function refusal(answer: Promise<unknown>): Promise<string> {
  return answer.then(
    () => 'no refusal',
    (error: unknown) => (error instanceof Refused ? error.code : String(error)),
  )
}

async function enrolled(): Promise<Approved> {
  const answer = await rps().verify({ body: await registration() })
  if (answer.state !== 'approved') throw new Error(answer.state)
  return answer
}

test('a car enrols by code, gets its permit statement, and is banned', async () => {
  const body = await registration()
  const answer = await rps().verify({ body })
  if (answer.state !== 'approved') throw new Error(answer.state)

  const idCore = IdCore.fromBase64Url(answer.idCore)
  const hpkeKey = fromBase64Url(body.hpkeKey, 'hpkeKey', 32)
  const recomputed = checkIdCore(idCore, {
    groupId: world.group.groupId,
    attributes: GOLF,
    instance: VIN,
    issueDate: answer.issueDate,
    enrolmentKeyHash: enrolmentKeyHash(hpkeKey),
    salt: fromBase64Url(answer.salt, 'salt', 16),
    leaf: answer.leaf,
    generation: answer.generation,
    factors: answer.factors,
  })
  expect(recomputed).toBe(true)
  expect(answer.issueDate).toBe('2026-02-10')

  expect(answer.ticket).toHaveLength(2)
  const ticket = await verifyTicket({ ticket: answer.ticket, group: world.group, now })
  expect(ticket.idCore.equals(idCore)).toBe(true)
  expect(ticket.purposes).toEqual(['device'])
  expect(toBase64Url(ticket.hpkeKey)).toBe(body.hpkeKey)

  const permit = await rps().permit({ body: { idCore: answer.idCore, slot: SLOT } })
  expect(permit).toMatchObject({ attributes: GOLF, instance: VIN })
  const statement = await verifyPermitStatement({ statement: permit.statement, group: world.group, now })
  expect([statement.slot, statement.idCore.mpinId]).toEqual([SLOT, answer.idCore])

  directory.vehicles[0]!.banned = true
  expect(await refusal(rps().permit({ body: { idCore: answer.idCore, slot: SLOT } }))).toBe('BANNED')
  const { state } = await rps().state({})
  const verified = await verifyState({ state, group: world.group })
  expect([verified.number, verified.isBanned(idCore)]).toEqual([1, true])
})

describe('a registration', () => {
  test('sent again gets the same bytes again', async () => {
    const body = await registration()
    const [first, second] = [await rps().verify({ body }), await rps().verify({ body })]
    expect(second).toEqual(first)
  })

  test('sent twice at once gets one ticket', async () => {
    const body = await registration()
    const [first, second] = await Promise.all([rps().verify({ body }), rps().verify({ body })])
    expect(second).toEqual(first)
  })

  test('gets a fresh ticket for the same key once the old one has run out', async () => {
    const body = await registration()
    const first = await rps().verify({ body })
    now += 3_700_000
    const second = await rps().verify({ body })
    if (first.state !== 'approved' || second.state !== 'approved') throw new Error('not approved')
    expect(second.ticket).not.toEqual(first.ticket)
    expect({ ...second, ticket: [] }).toEqual({ ...first, ticket: [] })
    const ticket = await verifyTicket({ ticket: second.ticket, group: world.group, now })
    expect(toBase64Url(ticket.hpkeKey)).toBe(body.hpkeKey)
  })

  test.each(['hpkeKey', 'nonce'] as const)('with a swapped %s is refused', async field => {
    const body = { ...(await registration()), [field]: toBase64Url(random(32)) }
    expect(await refusal(rps().verify({ body }))).toBe('NOT_APPROVED')
  })

  test('with other attributes or another VIN than its MAC is refused', async () => {
    const body = await registration()
    expect(await refusal(rps().verify({ body: { ...body, attributes: { ...GOLF, variant: 'R' } } }))).toBe(
      'NOT_APPROVED',
    )
    expect(await refusal(rps().verify({ body: { ...body, instance: 'OTHER' } }))).toBe('NOT_APPROVED')
  })

  test('with an unknown code answers like one with a wrong MAC', async () => {
    const unknown = await registration({ secret: random(16) })
    const wrong = { ...(await registration()), mac: toBase64Url(random(32)) }
    const told = (body: typeof unknown) =>
      rps()
        .verify({ body })
        .catch((error: unknown) => (error instanceof Refused ? JSON.stringify(error.toProblem()) : error))
    expect(await told(unknown)).toBe(await told(wrong))
    expect(JSON.parse((await told(wrong)) as string)).toMatchObject({ code: 'NOT_APPROVED' })
  })

  test('with half a proof is malformed', async () => {
    const { mac: _, ...body } = await registration()
    expect(await refusal(rps().verify({ body }))).toBe('MALFORMED')
  })

  test('without a code waits, and its words are the device’s own', async () => {
    const { mac: _mac, codeId: _code, ...body } = await registration()
    expect(await rps().verify({ body })).toEqual({ state: 'pending' })
    const fields = {
      groupId: world.group.groupId,
      attributes: GOLF,
      hpkeKey: fromBase64Url(body.hpkeKey, 'hpkeKey', 32),
      nonce: fromBase64Url(body.nonce, 'nonce', 32),
    }
    expect(directory.words).toEqual([sixWords(sixWordIndices(fields))])
  })
})

describe('a permit statement', () => {
  test('is made for the current slot and up to lead ahead', async () => {
    const { idCore } = await enrolled()
    const ask = (slot: number) => refusal(rps().permit({ body: { idCore, slot } }))
    expect(await ask(SLOT)).toBe('no refusal')
    expect(await ask(SLOT + world.group.policy.lead)).toBe('no refusal')
    expect(await ask(SLOT - 1)).toBe('no refusal')
    expect(await ask(SLOT + world.group.policy.lead + 1)).toBe('EXPIRED')
    expect(await ask(SLOT - 2)).toBe('EXPIRED')
  })

  test('is not made for an unknown identity or user', async () => {
    const { idCore } = await enrolled()
    const unknown = toBase64Url(new Uint8Array(39))
    expect(await refusal(rps().permit({ body: { idCore: unknown, slot: SLOT } }))).toBe('NOT_FOUND')
    const userCore = toBase64Url(random(32))
    expect(await refusal(rps().permit({ body: { idCore, slot: SLOT, userCore } }))).toBe('NOT_FOUND')
  })
})

describe('the caller', () => {
  test('is the RPS and no other recipient of the group', async () => {
    const { idCore } = await enrolled()
    const body = { idCore, slot: SLOT }
    expect(await refusal(rpsAs('tracking', world.trackingKey).permit({ body }))).toBe('FORBIDDEN')
    expect(await refusal(rpsAs('rps', world.trackingKey).permit({ body }))).toBe('UNAUTHENTICATED')
    expect(await refusal(createClient(rpaRoutes, { baseUrl: url }).permit({ body }))).toBe('UNAUTHENTICATED')
  })

  test('makes a request once', async () => {
    const authorization = await signRequest(
      { method: 'GET', url: `${url}/v1/state`, body: new Uint8Array() },
      { name: 'rps', key: world.rpsKey, clock: () => now, random },
    )
    const ask = () => refusal(createClient(rpaRoutes, { baseUrl: url }).state({ authorization }))
    expect([await ask(), await ask()]).toEqual(['no refusal', 'REPLAYED'])
  })

  test('may not change the body it signed', async () => {
    const { idCore } = await enrolled()
    const signed = utf8(JSON.stringify({ idCore, slot: SLOT }))
    const authorization = await signRequest(
      { method: 'POST', url: `${url}/v1/permit`, body: signed },
      { name: 'rps', key: world.rpsKey, clock: () => now, random },
    )
    const body = { idCore, slot: SLOT + 1 }
    expect(await refusal(createClient(rpaRoutes, { baseUrl: url }).permit({ body, authorization }))).toBe(
      'UNAUTHENTICATED',
    )
  })
})

describe('the handler', () => {
  const post = async (path: string, body: string, headers: Record<string, string> = {}) => {
    const bytes = utf8(body)
    const authorization = await signRequest(
      { method: 'POST', url: url + path, body: bytes },
      { name: 'rps', key: world.rpsKey, clock: () => now, random },
    )
    const response = await fetch(url + path, {
      method: 'POST',
      body,
      headers: { authorization, 'content-type': 'application/json', ...headers },
    })
    return (await response.json()) as { code: string }
  }

  test.each([
    ['an unknown path', '/v1/other', '{}', 'NOT_FOUND'],
    ['a query', '/v1/permit?x=1', '{}', 'MALFORMED'],
    [
      'a field too many',
      '/v1/authenticated',
      JSON.stringify({ notices: [noticeOf(NOBODY)], extra: 1 }),
      'MALFORMED',
    ],
    ['a key twice', '/v1/authenticated', '{"notices":[],"notices":[]}', 'MALFORMED'],
    ['no JSON', '/v1/authenticated', '{', 'MALFORMED'],
    ['another method', '/v1/state', '{}', 'METHOD_NOT_ALLOWED'],
  ])('refuses %s', async (_what, path, body, code) => {
    expect((await post(path, body)).code).toBe(code)
  })

  test('refuses another content type', async () => {
    expect((await post('/v1/permit', '{}', { 'content-type': 'text/plain' })).code).toBe(
      'UNSUPPORTED_MEDIA_TYPE',
    )
  })

  test('refuses a body over 64 KiB', async () => {
    const response = await fetch(`${url}/v1/verify`, {
      method: 'POST',
      body: new Uint8Array(70_000),
      headers: { 'content-type': 'application/json' },
    })
    expect(await response.json()).toMatchObject({ code: 'TOO_LARGE' })
  })

  test('says INTERNAL and no more when the directory fails, and tells its owner', async () => {
    directory.happened = () => Promise.reject(new Error('the row of driver Alice'))
    const { idCore } = await enrolled()
    const error = await rps()
      .authenticated({ body: { notices: [noticeOf(idCore)] } })
      .catch((caught: unknown) => caught)
    expect(error).toMatchObject({ code: 'INTERNAL', detail: undefined })
    expect(errors).toHaveLength(1)
  })
})

test('what happened arrives in its order; whom the directory doesn’t know is said by the notice’s id', async () => {
  const { idCore } = await enrolled()
  const ids = [1, 2, 3].map(byte => Buffer.alloc(16, byte).toString('base64url'))
  const notices = [idCore, NOBODY, idCore].map((one, i) => noticeOf(one, ids[i]))
  expect(await rps().authenticated({ body: { notices } })).toEqual({ unknown: [ids[1]] })
  expect(directory.happenings.map(({ id, at, idCore }) => [id, at, idCore.mpinId])).toEqual(
    notices.map(({ id, at, idCore }) => [id, at, idCore]),
  )
})

test('a code that the route doesn’t list is INTERNAL for the peer', async () => {
  directory.happened = () => Promise.reject(new Refused('LOCKED', { detail: 'somebody else’s refusal' }))
  const { idCore } = await enrolled()
  expect(await refusal(rps().authenticated({ body: { notices: [noticeOf(idCore)] } }))).toBe('INTERNAL')
  expect(errors).toMatchObject([{ code: 'LOCKED' }])
})

test('an RA key that the group does not name signs nothing', async () => {
  const body = await registration()
  const other = (await makeGroup()).signers
  authority = new RegistrationAuthority({
    group: () => world.group,
    signers: () => other,
    clock: () => now,
    random,
  })
  handle = createRpaHandler({
    callbacks: createCallbacks({ authority, directory, rpsName: 'rps' }),
    server: async () => ({ name: 'rps' }),
  })
  expect(await refusal(rps().verify({ body }))).toBe('RETRY_LATER')
  expect(await refusal(rps().state({}))).toBe('RETRY_LATER')
})
