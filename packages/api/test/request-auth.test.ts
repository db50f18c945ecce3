import { signJws } from '@milagro-ts/api/jws'
import { type Es256PrivateKey, generateEs256 } from '@milagro-ts/api/keys'
import { Refused } from '@milagro-ts/api/problem'
import {
  type ArrivedRequest,
  requestSigner,
  serverCallerCheck,
  signRequest,
} from '@milagro-ts/api/request-auth'
import { fromBase64Url, toBase64Url, utf8 } from '@milagro-ts/crypto/bytes'
import { sha256 } from '@milagro-ts/crypto/sha256'
import { openDatabase } from '@milagro-ts/store/database'
import { openSingleUse, singleUseMigration } from '@milagro-ts/store/single-use'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { fixedRandom } from './fixed-random.js'

const T0 = 1_775_869_200
const URL_OF_RPA = 'https://fleet.example:8443'
const BODY = utf8('{"slot":100}')

const stores: { close(): Promise<void> }[] = []
let rps: Es256PrivateKey
let other: Es256PrivateKey
let seconds: number
let check: (request: ArrivedRequest) => Promise<{ name: string }>
let sign: (request: { method: string; url: string; body: Uint8Array }) => Promise<string>
const clock = () => seconds * 1000

beforeAll(async () => {
  ;[rps, other] = await Promise.all([generateEs256(), generateEs256()])
})
beforeEach(async () => {
  seconds = T0
  const store = await openDatabase({ file: ':memory:', migrations: [singleUseMigration(1)] })
  stores.push(store)
  check = serverCallerCheck({
    keyOf: name =>
      new Map([
        ['rps', rps.publicKey],
        ['tracking', other.publicKey],
      ]).get(name),
    singleUse: openSingleUse(store),
    clock,
    publicUrl: `${URL_OF_RPA}/`,
  })
  sign = requestSigner({ name: 'rps', key: rps, clock, random: fixedRandom('requests') })
})
afterAll(() => Promise.all(stores.map(store => store.close())))

const outgoing = { method: 'POST', url: `${URL_OF_RPA}/v1/permit?x=1`, body: BODY }
const arrived = (
  authorization: string | undefined,
  change: Partial<ArrivedRequest> = {},
): ArrivedRequest => ({
  method: 'POST',
  url: '/v1/permit?x=1',
  headers: { authorization },
  bodyHash: sha256(BODY),
  ...change,
})
const codeOf = (answer: Promise<unknown>) =>
  answer.then(
    () => 'OK',
    (error: unknown) => (error instanceof Refused ? error.code : error),
  )
const payload = () => ({
  iss: 'rps',
  htm: 'POST',
  htu: outgoing.url,
  bh: toBase64Url(sha256(BODY)),
  iat: T0,
  exp: T0 + 60,
  jti: toBase64Url(new Uint8Array(16)),
})
const made = async (change: object, { key = rps, typ = 'mpin-request+jwt', kid = 'rps' } = {}) =>
  `MPIN-Request ${await signJws(typ, { ...payload(), ...change }, key, kid)}`

test('a server is known by its request', async () => {
  expect(await check(arrived(await sign(outgoing)))).toEqual({ name: 'rps' })
})

test('a GET has the hash of an empty body', async () => {
  const empty = new Uint8Array()
  const header = await sign({ method: 'GET', url: `${URL_OF_RPA}/v1/state`, body: empty })
  const request = { method: 'GET', url: '/v1/state', bodyHash: sha256(empty) }
  expect(await codeOf(check(arrived(header, request)))).toBe('OK')
})

test('the same request a second time is REPLAYED, a second request is not', async () => {
  const header = await sign(outgoing)
  expect(await codeOf(check(arrived(header)))).toBe('OK')
  expect(await codeOf(check(arrived(header)))).toBe('REPLAYED')
  expect(await codeOf(check(arrived(await sign(outgoing))))).toBe('OK')
})

test('of two that race with one request, one comes first', async () => {
  const header = await sign(outgoing)
  const answers = await Promise.all(Array.from({ length: 8 }, () => codeOf(check(arrived(header)))))
  expect(answers.filter(answer => answer === 'OK')).toHaveLength(1)
})

test('two servers may use one jti', async () => {
  expect(await codeOf(check(arrived(await made({}))))).toBe('OK')
  const header = await made({ iss: 'tracking' }, { key: other, kid: 'tracking' })
  expect(await codeOf(check(arrived(header)))).toBe('OK')
})

test.each<[string, Partial<ArrivedRequest>]>([
  ['method', { method: 'PUT' }],
  ['path', { url: '/v1/verify?x=1' }],
  ['query', { url: '/v1/permit?x=2' }],
  ['missing query', { url: '/v1/permit' }],
  ['body', { bodyHash: sha256(utf8('{"slot":101}')) }],
  ['empty body', { bodyHash: sha256() }],
])('a request for another %s is not this one', async (_what, change) => {
  expect(await codeOf(check(arrived(await sign(outgoing), change)))).toBe('UNAUTHENTICATED')
})

test.each([
  ['another server', 'https://dta1.example/v1/permit?x=1'],
  ['another port', 'https://fleet.example/v1/permit?x=1'],
  ['another scheme', 'http://fleet.example:8443/v1/permit?x=1'],
])('a request made for %s is not for this one', async (_what, url) => {
  expect(await codeOf(check(arrived(await sign({ ...outgoing, url }))))).toBe('UNAUTHENTICATED')
})

test('a request lives 60 seconds, by the server’s clock', async () => {
  const header = await sign(outgoing)
  seconds = T0 + 60
  expect(await codeOf(check(arrived(header)))).toBe('CLOCK')
  expect(await codeOf(check(arrived(header)))).toBe('REPLAYED')
  seconds = T0
  const second = await sign(outgoing)
  seconds = T0 + 59
  expect(await codeOf(check(arrived(second)))).toBe('OK')
})

test('a caller’s clock may be 60 seconds ahead, not more', async () => {
  seconds = T0 - 60
  expect(await codeOf(check(arrived(await made({}))))).toBe('OK')
  seconds = T0 - 61
  expect(await codeOf(check(arrived(await made({ jti: toBase64Url(new Uint8Array(16).fill(1)) }))))).toBe(
    'CLOCK',
  )
})

test.each([
  ['behind', -3600],
  ['ahead', 3600],
])('a caller whose clock is an hour %s is told both times', async (_where, off) => {
  const header = await made({ iat: T0 + off, exp: T0 + off + 60 })
  const [signed, now] = [T0 + off, T0].map(time => new Date(time * 1000).toISOString().replace('.000Z', 'Z'))
  await expect(check(arrived(header))).rejects.toMatchObject({
    code: 'CLOCK',
    field: 'iat',
    detail: `signed at ${signed}, arrived at ${now}: 3600 s apart`,
    log: expect.stringMatching(/^rps: signed at /),
  })
})

test('what is wrong beside its time is UNAUTHENTICATED, whatever its time: a stranger learns nothing', async () => {
  const old = { iat: T0 - 3600, exp: T0 - 3540 }
  expect(await codeOf(check(arrived(await made(old, { key: other }))))).toBe('UNAUTHENTICATED')
  expect(await codeOf(check(arrived(await made(old), { method: 'PUT' })))).toBe('UNAUTHENTICATED')
  expect(await codeOf(check(arrived(await made(old), { url: '/v1/state' })))).toBe('UNAUTHENTICATED')
  expect(await codeOf(check(arrived(await made(old), { bodyHash: sha256() })))).toBe('UNAUTHENTICATED')
  expect(await codeOf(check(arrived(await made({ ...old, exp: T0 }))))).toBe('UNAUTHENTICATED')
  expect(await codeOf(check(arrived(await made({ ...old, exp: old.iat }))))).toBe('UNAUTHENTICATED')
})

test('a replay entry outlives the request', async () => {
  const header = await made({ iat: T0 + 60, exp: T0 + 120 })
  expect(await codeOf(check(arrived(header)))).toBe('OK')
  seconds = T0 + 119
  expect(await codeOf(check(arrived(header)))).toBe('REPLAYED')
})

test.each<[string, object]>([
  ['lives longer than 60 seconds', { exp: T0 + 61 }],
  ['names another caller', { iss: 'tracking' }],
  ['has a field more', { admin: true }],
  ['has no jti', { jti: undefined }],
  ['has a short jti', { jti: 'AA' }],
  ['spells its jti in a second way', { jti: `${'A'.repeat(21)}B` }],
])('a request that %s is refused', async (_cause, change) => {
  expect(await codeOf(check(arrived(await made(change))))).toBe('UNAUTHENTICATED')
})

test('a request is not signed by a stranger, nor by another server, nor as another typ', async () => {
  expect(await codeOf(check(arrived(await made({}, { key: other }))))).toBe('UNAUTHENTICATED')
  expect(await codeOf(check(arrived(await made({ iss: 'evil' }, { kid: 'evil' }))))).toBe('UNAUTHENTICATED')
  expect(await codeOf(check(arrived(await made({}, { typ: 'at+jwt' }))))).toBe('UNAUTHENTICATED')
})

test.each([
  undefined,
  '',
  'MPIN-Request',
  'MPIN-Request ',
  'MPIN-Request a.b.c',
  'Bearer a.b.c',
  'MPIN AAAA',
])('the header %j is no credential', async header => {
  expect(await codeOf(check(arrived(header)))).toBe('UNAUTHENTICATED')
})

test('a stranger’s garbage leaves nothing in the store', async () => {
  const puts: string[] = []
  const counting = serverCallerCheck({
    keyOf: () => rps.publicKey,
    singleUse: {
      put: async (_kind, key) => {
        puts.push(key)
        return true
      },
    },
    clock,
    publicUrl: URL_OF_RPA,
  })
  expect(await codeOf(counting(arrived(await made({}, { key: other }))))).toBe('UNAUTHENTICATED')
  expect(puts).toEqual([])
  const random = fixedRandom('one')
  await counting(arrived(await signRequest(outgoing, { name: 'rps', key: rps, clock, random })))
  expect(puts).toHaveLength(1)
})

test('every signature is r ‖ s of 64 bytes, where r or s is a short number too', async () => {
  const sign = requestSigner({ name: 'rps', key: rps, clock, random: fixedRandom('short') })
  let short = 0
  for (let i = 0; i < 1_500; i++) {
    const jws = (await sign(outgoing)).slice('MPIN-Request '.length)
    const [header, payload, signature = ''] = jws.split('.')
    const bytes = fromBase64Url(signature, 'signature', 64)
    if (bytes[0] === 0 || bytes[32] === 0) short++
    expect(await rps.publicKey.verify(utf8(`${header}.${payload}`), bytes)).toBe(true)
  }
  // One in 128; none of so many in one run of a hundred thousand.
  expect(short).toBeGreaterThan(0)
})
