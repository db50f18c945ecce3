import { documentHash, Group } from '@milagro-ts/api/group'
import { signJws } from '@milagro-ts/api/jws'
import { type Es256PrivateKey, generateEs256 } from '@milagro-ts/api/keys'
import { Refused } from '@milagro-ts/api/problem'
import {
  type AccessTokenPayload,
  type PermitStatementPayload,
  type Signer,
  type StatePayload,
  signAccessToken,
  signEvent,
  signPermitStatement,
  signReceipt,
  signRevisionStatement,
  signState,
  signTicket,
  signTime,
  type TicketPayload,
  verifyAccessToken,
  verifyEvent,
  verifyPermitStatement,
  verifyReceipt,
  verifyRevisionStatement,
  verifyState,
  verifyTicket,
  verifyTime,
} from '@milagro-ts/api/statements'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { enrolmentKeyHash } from '@milagro-ts/crypto/enrolment'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { IdCore, NO_USER } from '@milagro-ts/crypto/identity'
import { beforeAll, describe, expect, test } from 'vitest'
import { fixedRandom } from './fixed-random.js'
import { type Fixture, keysOf, makeGroup, signedBy } from './group-fixture.js'

const ORIGIN = 1_767_225_600
const DAY = 86_400
/** One hour into slot 100. */
const T0 = ORIGIN + 100 * DAY + 3600
const NOW = T0 * 1000

const SUITE = 'BLS12381-SHA256-V1'
const bytes = (seed: string, length: number) => fixedRandom(seed)(length)
const car = (() => {
  const made = bytes('car', 39)
  made[6] = 2
  return IdCore.decode(made)
})()
const driver = bytes('driver', 32)
const hpkeKey = bytes('enrolment key', 32)

let one: Fixture
let twoOfThree: Fixture
let stranger: Es256PrivateKey
beforeAll(async () => {
  one = await makeGroup()
  // The same members with three RA keys, of which two must sign.
  twoOfThree = await makeGroup({ m: 2, k: 3 })
  stranger = await generateEs256()
})

const ra = (fixture: Fixture, number = 1): Signer => ({
  key: fixture.members.ra[number - 1] as Es256PrivateKey,
  kid: `ra${number}`,
})
const outcome = (answer: Promise<unknown>) =>
  answer.then(
    () => 'OK',
    (error: unknown) => {
      if (error instanceof Refused) return error.code
      if (error instanceof DecodeError) return 'MALFORMED'
      throw error
    },
  )
const groupIdOf = (fixture: Fixture) => toBase64Url(fixture.group.groupId)

describe('a ticket', () => {
  const payload = (fixture: Fixture, change: Partial<TicketPayload> = {}): TicketPayload => ({
    suite: SUITE,
    groupId: groupIdOf(fixture),
    keyEpochs: { device: 1 },
    idCore: car.mpinId,
    purposes: ['device'],
    hpkeKey: toBase64Url(hpkeKey),
    hpkeKeyHash: toBase64Url(enrolmentKeyHash(hpkeKey)),
    iat: T0,
    exp: T0 + 600,
    jti: toBase64Url(bytes('jti', 16)),
    ...change,
  })
  const made = (change: Partial<TicketPayload> = {}) => signTicket(payload(one, change), ra(one))
  const verify = async (ticket: readonly string[], now = NOW, group: Group = one.group) =>
    verifyTicket({ ticket, group, now })

  test('says what may be issued to whom, in one way for both sides', async () => {
    const ticket = await verify([await made()])
    expect(ticket.idCore.equals(car)).toBe(true)
    expect([ticket.userCore, ticket.pinGen, ticket.purposes]).toEqual([NO_USER, undefined, ['device']])
    expect(ticket.hpkeKey).toEqual(hpkeKey)
    const again = await verify([await made()])
    expect(again.hash).toEqual(ticket.hash)
    expect(again.shareTerms('device', 1, 1).ctx).toEqual(ticket.shareTerms('device', 1, 1).ctx)
    expect(again.shareTerms('device', 2, 1).ctx).not.toEqual(ticket.shareTerms('device', 1, 1).ctx)
    expect(again.shareTerms('device', 1, 2).ctx).not.toEqual(ticket.shareTerms('device', 1, 1).ctx)
    expect(() => ticket.keyIdentity('pin')).toThrow(RangeError)
  })

  test('has one name in the log, whichever of its two ECDSA signatures it carries', async () => {
    const [first, second] = await Promise.all([made(), made()])
    expect(first).not.toBe(second)
    expect((await verify([first])).hash).toEqual((await verify([second])).hash)
  })

  const user: Partial<TicketPayload> = { purposes: ['pin'], keyEpochs: { pin: 1 }, pinGen: 3 }

  test('of a user is for another key than the car’s and than another pinGen', async () => {
    const userCore = toBase64Url(driver)
    const third = await verify([await made({ ...user, userCore })])
    const fourth = await verify([await made({ ...user, userCore, pinGen: 4 })])
    const nobody = await verify([await made(user)])
    expect(new Set([third, fourth, nobody].map(ticket => ticket.ledgerKey('pin'))).size).toBe(3)
    const points = [third, fourth, nobody].map(ticket => ticket.shareTerms('pin', 1, 1).A)
    expect(points.some((A, i) => points.some((B, j) => i !== j && A.equals(B)))).toBe(false)
  })

  test('with a pinGen does not open a second way to the device key', async () => {
    const plain = await verify([await made()])
    const both = await verify([
      await made({ purposes: ['device', 'pin'], keyEpochs: { device: 1, pin: 1 }, pinGen: 9 }),
    ])
    expect(both.ledgerKey('device')).toBe(plain.ledgerKey('device'))
    expect(both.shareTerms('device', 1, 1).ctx).toEqual(plain.shareTerms('device', 1, 1).ctx)
  })

  test.each<[string, Partial<TicketPayload>]>([
    [
      'a user with a device key',
      {
        ...user,
        userCore: toBase64Url(driver),
        purposes: ['pin', 'device'],
        keyEpochs: { pin: 1, device: 1 },
      },
    ],
    ['a user without a PIN', { userCore: toBase64Url(driver) }],
    ['a PIN without its generation', { purposes: ['pin'], keyEpochs: { pin: 1 } }],
    ['a generation without a PIN', { pinGen: 1 }],
    ['a purpose twice', { purposes: ['device', 'device'] }],
    ['no epoch for a purpose', { keyEpochs: {} }],
    ['an epoch too many', { keyEpochs: { device: 1, sign: 1 } }],
    ['the hash of another key', { hpkeKeyHash: toBase64Url(bytes('other', 32)) }],
    ['an idCore with unknown factors', { idCore: toBase64Url(new Uint8Array(39).fill(9)) }],
  ])('does not hold with %s', async (_cause, change) => {
    expect(await outcome(made(change).then(token => verify([token])))).toBe('MALFORMED')
  })

  test('is never for permits, and has no field more', async () => {
    const { key, kid } = ra(one)
    for (const change of [{ purposes: ['permit'], keyEpochs: { permit: 1 } }, { admin: true }]) {
      const token = await signJws('mpin-ticket+jwt', { ...payload(one), ...change }, key, kid)
      expect(await outcome(verify([token]))).toBe('MALFORMED')
    }
    await expect(signTicket({ ...payload(one), purposes: [] }, ra(one))).rejects.toBeInstanceOf(TypeError)
  })

  test('is not forged', async () => {
    const forged = await signTicket(payload(one), { key: stranger, kid: 'ra1' })
    expect(await outcome(verify([forged]))).toBe('NOT_APPROVED')
    const unknown = await signTicket(payload(one), { key: stranger, kid: 'ra9' })
    expect(await outcome(verify([unknown]))).toBe('NOT_APPROVED')
    const authority = keysOf(one.members)[0] as Es256PrivateKey
    expect(
      await outcome(signTicket(payload(one), { key: authority, kid: 'ta1' }).then(t => verify([t]))),
    ).toBe('NOT_APPROVED')
    expect(await outcome(verify([]))).toBe('NOT_APPROVED')
  })

  test('is not another statement of the same RA', async () => {
    const { key, kid } = ra(one)
    for (const typ of ['mpin-permit+jwt', 'mpin-event+jwt', 'JWT'])
      expect(await outcome(signJws(typ, payload(one), key, kid).then(t => verify([t])))).toBe('NOT_APPROVED')
  })

  test('of another group is refused, though the same RA signed it', async () => {
    const groupId = toBase64Url(bytes('another group', 32))
    expect(await outcome(verify([await made({ groupId })]))).toBe('NOT_APPROVED')
    // A real second group that shares this group's RA key.
    const document = await signedBy(
      { ...structuredClone(one.document), policy: { lead: 2, grace: 0 } },
      keysOf(one.members),
    )
    const second = await Group.verifyFirst(document)
    expect(await outcome(verify([await made()], NOW, second))).toBe('NOT_APPROVED')
  })

  test('holds from its first second to its last', async () => {
    const ticket = [await made()]
    expect(await outcome(verify(ticket, (T0 + 600) * 1000 - 1))).toBe('OK')
    expect(await outcome(verify(ticket, (T0 + 600) * 1000))).toBe('EXPIRED')
    expect(await outcome(verify(ticket, (T0 - 60) * 1000))).toBe('OK')
    expect(await outcome(verify(ticket, (T0 - 61) * 1000))).toBe('EXPIRED')
    expect(await outcome(verify([await made({ exp: T0 })], (T0 - 1) * 1000))).toBe('EXPIRED')
  })

  test('of another key epoch is EXPIRED', async () => {
    for (const epoch of [0, 2])
      expect(await outcome(verify([await made({ keyEpochs: { device: epoch } })]))).toBe('EXPIRED')
  })

  describe('where two of three must sign', () => {
    const by = (number: number, change: Partial<TicketPayload> = {}) =>
      signTicket(payload(twoOfThree, change), ra(twoOfThree, number))
    const check = (ticket: readonly string[]) => verify(ticket, NOW, twoOfThree.group)

    test('two do, and three', async () => {
      expect(await outcome(check([await by(1), await by(3)]))).toBe('OK')
      expect(await outcome(check([await by(1), await by(2), await by(3)]))).toBe('OK')
    })
    test('one does not', async () => {
      expect(await outcome(check([await by(2)]))).toBe('NOT_APPROVED')
    })
    test('one twice does not, whichever bytes its signatures have', async () => {
      const token = await by(1)
      expect(await outcome(check([token, token]))).toBe('NOT_APPROVED')
      expect(await outcome(check([token, await by(1)]))).toBe('NOT_APPROVED')
    })
    test('one under two names does not', async () => {
      const { key } = ra(twoOfThree, 1)
      const asSecond = await signTicket(payload(twoOfThree), { key, kid: 'ra2' })
      expect(await outcome(check([await by(1), asSecond]))).toBe('NOT_APPROVED')
    })
    test('two for different tickets do not', async () => {
      for (const change of [{ pinGen: 1 }, { jti: toBase64Url(bytes('other', 16)) }, { exp: T0 + 601 }])
        expect(await outcome(check([await by(1), await by(2, change)]))).toBe('NOT_APPROVED')
    })
    test('two and a stranger do not', async () => {
      const extra = await signTicket(payload(twoOfThree), { key: stranger, kid: 'ra3' })
      expect(await outcome(check([await by(1), await by(2), extra]))).toBe('NOT_APPROVED')
    })
  })
})

describe('a permit statement', () => {
  const payload = (change: Partial<PermitStatementPayload> = {}): PermitStatementPayload => ({
    suite: SUITE,
    groupId: groupIdOf(one),
    keyEpoch: 1,
    idCore: car.mpinId,
    slot: 100,
    banned: false,
    iat: T0,
    exp: T0 + 60,
    jti: toBase64Url(bytes('jti', 16)),
    ...change,
  })
  const check = async (change: Partial<PermitStatementPayload> = {}, now = NOW) =>
    outcome(
      signPermitStatement(payload(change), ra(one)).then(statement =>
        verifyPermitStatement({ statement, group: one.group, now }),
      ),
    )

  test('says who is not banned in which slot', async () => {
    const statement = await signPermitStatement(
      payload({ userCore: toBase64Url(driver), pinGen: 1 }),
      ra(one),
    )
    const verified = await verifyPermitStatement({ statement, group: one.group, now: NOW })
    expect(verified.idCore.equals(car)).toBe(true)
    expect([verified.slot, verified.userCore, verified.pinGen]).toEqual([100, driver, 1])
  })

  test('lives 60 seconds at most', async () => {
    expect(await check({ exp: T0 + 61 })).toBe('EXPIRED')
    expect(await check({}, NOW + 59_999)).toBe('OK')
    expect(await check({}, NOW + 60_000)).toBe('EXPIRED')
  })

  test('is for the current slot or `lead` ahead, no further', async () => {
    expect(await check({ slot: 101 })).toBe('OK')
    expect(await check({ slot: 102 })).toBe('EXPIRED')
    expect(await check({ slot: 0xffff_ffff })).toBe('EXPIRED')
  })

  test('is for the former slot within `grace` only', async () => {
    const start = ORIGIN + 100 * DAY
    const at = (seconds: number) => ({ iat: start + seconds, exp: start + seconds + 30, slot: 99 })
    expect(await check(at(300), (start + 300) * 1000)).toBe('OK')
    expect(await check(at(301), (start + 301) * 1000)).toBe('EXPIRED')
    expect(await check({ ...at(1), slot: 98 }, (start + 1) * 1000)).toBe('EXPIRED')
  })

  test('is not for another key epoch, not by a stranger, not of another group', async () => {
    expect(await check({ keyEpoch: 2 })).toBe('EXPIRED')
    expect(await check({ groupId: toBase64Url(bytes('x', 32)) })).toBe('NOT_APPROVED')
    const statement = await signPermitStatement(payload(), { key: stranger, kid: 'ra1' })
    expect(await outcome(verifyPermitStatement({ statement, group: one.group, now: NOW }))).toBe(
      'NOT_APPROVED',
    )
  })

  test('cannot say that somebody is banned, nor stay silent about it', async () => {
    const { key, kid } = ra(one)
    for (const banned of [true, undefined, 'false', 0]) {
      const statement = await signJws('mpin-permit+jwt', { ...payload(), banned }, key, kid)
      expect(await outcome(verifyPermitStatement({ statement, group: one.group, now: NOW }))).toBe(
        'MALFORMED',
      )
    }
  })
})

describe('a revocation state', () => {
  const other = IdCore.zero
  const payload = (change: Partial<StatePayload> = {}): StatePayload => ({
    suite: SUITE,
    groupId: groupIdOf(one),
    number: 7,
    iat: T0,
    banned: [{ idCore: car.mpinId, userCore: toBase64Url(driver) }],
    revoked: [{ idCore: other.mpinId, leaf: 0 }],
    ...change,
  })
  const verify = async (change: Partial<StatePayload> = {}, signer = ra(one)) =>
    verifyState({ state: await signState(payload(change), signer), group: one.group })

  test('bans a driver on a car without banning the car', async () => {
    const state = await verify()
    expect(state.number).toBe(7)
    expect([state.isBanned(car), state.isBanned(car, driver), state.isBanned(car, bytes('x', 32))]).toEqual([
      false,
      true,
      false,
    ])
    expect([state.isRevoked(other), state.isRevoked(car)]).toEqual([true, false])
  })

  test('that bans a car bans every driver on it', async () => {
    const state = await verify({ banned: [{ idCore: car.mpinId }] })
    expect([state.isBanned(car), state.isBanned(car, driver)]).toEqual([true, true])
  })

  test('does not name a leaf that is not the identity’s', async () => {
    expect(await outcome(verify({ revoked: [{ idCore: other.mpinId, leaf: 1 }] }))).toBe('MALFORMED')
  })

  test('is the RA’s, of this group', async () => {
    expect(await outcome(verify({}, { key: stranger, kid: 'ra1' }))).toBe('NOT_APPROVED')
    expect(await outcome(verify({ groupId: toBase64Url(bytes('x', 32)) }))).toBe('NOT_APPROVED')
  })
})

test('an event is the RA’s, of this group, and not a ticket', async () => {
  const { group } = one
  const payload = {
    suite: SUITE,
    groupId: groupIdOf(one),
    number: 8,
    iat: T0,
    kind: 'ban',
    idCore: car.mpinId,
  } as const
  expect(await verifyEvent({ event: await signEvent(payload, ra(one)), group })).toEqual(payload)
  const forged = await signEvent(payload, { key: stranger, kid: 'ra1' })
  expect(await outcome(verifyEvent({ event: forged, group }))).toBe('NOT_APPROVED')
  const foreign = await signEvent({ ...payload, groupId: toBase64Url(bytes('x', 32)) }, ra(one))
  expect(await outcome(verifyEvent({ event: foreign, group }))).toBe('NOT_APPROVED')
})

test('a revision statement is for one document', async () => {
  const { group, document } = one
  const hash = toBase64Url(documentHash(document))
  const payload = { suite: SUITE, groupId: groupIdOf(one), revision: 2, documentHash: hash, iat: T0 } as const
  const statement = await signRevisionStatement(payload, ra(one))
  expect(await outcome(verifyRevisionStatement({ statement, group, document }))).toBe('OK')
  const other = { ...document, policy: { lead: 64, grace: 0 } }
  expect(await outcome(verifyRevisionStatement({ statement, group, document: other }))).toBe('NOT_APPROVED')
})

describe('an access token', () => {
  const payload = (change: Partial<AccessTokenPayload> = {}): AccessTokenPayload => ({
    iss: 'https://rps.example',
    aud: 'https://tracking.example',
    sub: car.mpinId,
    amr: ['device', 'pin'],
    userCore: toBase64Url(driver),
    slot: 100,
    iat: T0,
    exp: T0 + 300,
    jti: toBase64Url(bytes('jti', 16)),
    ...change,
  })
  const terms = { issuer: 'https://rps.example', audience: 'https://tracking.example' }
  const token = (change: Partial<AccessTokenPayload> = {}) => signAccessToken(payload(change), ra(one))
  const keys = () => one.group.raKeys.keys
  const check = async (change: Partial<AccessTokenPayload>, now = NOW) =>
    outcome(token(change).then(made => verifyAccessToken({ token: made, keys: keys(), ...terms, now })))

  test('speaks for an identity', async () => {
    const verified = await verifyAccessToken({ token: await token(), keys: keys(), ...terms, now: NOW })
    expect(verified.idCore.equals(car)).toBe(true)
    expect([verified.userCore, verified.amr, verified.slot]).toEqual([driver, ['device', 'pin'], 100])
  })

  test.each<[string, Partial<AccessTokenPayload>, number]>([
    ['for another service', { aud: 'https://other.example' }, NOW],
    ['of another issuer', { iss: 'https://evil.example' }, NOW],
    ['that lives longer than five minutes', { exp: T0 + 301 }, NOW],
    ['that is over', {}, NOW + 300_000],
    ['from the future', {}, NOW - 61_000],
    ['for no identity', { sub: toBase64Url(new Uint8Array(39).fill(9)) }, NOW],
  ])('%s is UNAUTHENTICATED', async (_cause, change, now) => {
    expect(await check(change, now)).toBe('UNAUTHENTICATED')
  })

  test('that is garbage, a receipt or forged is UNAUTHENTICATED', async () => {
    const { key, kid } = ra(one)
    const wrong = [
      '',
      'a.b.c',
      await signJws('mpin-receipt+jwt', payload(), key, kid),
      await signAccessToken(payload(), { key: stranger, kid }),
    ]
    for (const made of wrong)
      expect(await outcome(verifyAccessToken({ token: made, keys: keys(), ...terms, now: NOW }))).toBe(
        'UNAUTHENTICATED',
      )
  })
})

test('a receipt is its issuer’s, and the time is said over the caller’s nonce', async () => {
  const { key, kid } = ra(one)
  const keys = key.publicKey
  const payload = {
    iss: 'https://rps.example',
    aud: 'https://tracking.example',
    sub: car.mpinId,
    amr: ['device' as const],
    slot: 100,
    payloadHash: toBase64Url(bytes('payload', 32)),
    iat: T0,
  }
  const receipt = await signReceipt(payload, { key, kid })
  expect(await verifyReceipt({ receipt, keys, issuer: 'https://rps.example' })).toEqual(payload)
  expect(await outcome(verifyReceipt({ receipt, keys, issuer: 'https://evil.example' }))).toBe('NOT_APPROVED')
  expect(await outcome(verifyReceipt({ receipt, keys: stranger.publicKey, issuer: payload.iss }))).toBe(
    'NOT_APPROVED',
  )

  const nonce = bytes('nonce', 32)
  const time = await signTime({ nonce: toBase64Url(nonce), time: T0 }, { key, kid })
  expect(await verifyTime({ time, keys, nonce })).toBe(T0)
  expect(await outcome(verifyTime({ time, keys, nonce: bytes('old', 32) }))).toBe('NOT_APPROVED')
})
