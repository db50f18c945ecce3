/**
 * Every `decode`: what it made comes back, and anything else is a DecodeError or the one spelling of what came out. A
 * mutation fuzz from a fixed seed, with a budget of cases and not of seconds.
 */
import { fromBase64Url, fromHex, fromUtf8, toBase64Url, toHex, utf8 } from '@milagro-ts/crypto/bytes'
import { decodeEnrolmentCode, encodeEnrolmentCode } from '@milagro-ts/crypto/enrolment'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { decodeGroupId, decodeUserCore, IdCore } from '@milagro-ts/crypto/identity'
import { authorizationHeader, LoginClaim, LoginMessage, parseAuthorization } from '@milagro-ts/crypto/mpin'
import { decodeTokenFile, encodeTokenFile } from '@milagro-ts/crypto/pin'
import { G1, G2 } from '@milagro-ts/crypto/points'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { authorityIssue, KeyShare } from '@milagro-ts/crypto/share-proof'
import { Permit, PermitClaim } from '@milagro-ts/crypto/time-permit'
import { decodeTlv, encodeTlv } from '@milagro-ts/crypto/tlv'
import { describe, expect, test } from 'vitest'
import { dice, LONGER, mutate } from './fuzz.js'
import {
  alphaOf,
  car,
  digestOf,
  driven,
  driver,
  groupId,
  loginAlone,
  loginWithPin,
  RIGHT_PIN,
  SLOT,
  scalarOf,
  seeded,
  signTerms,
  timeTerms,
} from './world.js'

const point = G1.generator.mulPublic(scalarOf('a point'))
const permit = Permit.of(SLOT, { type: 'id', idCore: car }, point)
const nodePermit = Permit.of(SLOT, { type: 'node', depth: 9, index: 3 }, point)
const messages = [
  loginAlone(),
  loginAlone(timeTerms).withPermit(nodePermit),
  loginAlone(signTerms),
  loginWithPin().withPermit(permit),
  loginWithPin(RIGHT_PIN, timeTerms),
]
const share = authorityIssue(
  { ctx: digestOf('ctx'), commitment: point, A: G1.generator },
  scalarOf('share'),
  seeded('share'),
)

/** `decode` must give null (a DecodeError, checked) or the bytes that its result encodes to. */
const outcome = (decode: () => Uint8Array): Uint8Array | null => {
  try {
    return decode()
  } catch (error) {
    if (error instanceof DecodeError) return null
    throw error
  }
}

interface Door {
  readonly name: string
  readonly good: readonly Uint8Array[]
  readonly again: (bytes: Uint8Array) => Uint8Array
  readonly cases?: number
}
const doors: readonly Door[] = [
  { name: 'Scalar', good: [scalarOf('s').encode()], again: bytes => Scalar.decode(bytes).encode() },
  { name: 'G1', good: [point.encode()], again: bytes => G1.decode(bytes).encode() },
  { name: 'G2', good: [G2.generator.encode()], again: bytes => G2.decode(bytes).encode(), cases: 300 },
  { name: 'groupId', good: [groupId], again: bytes => decodeGroupId(bytes) },
  { name: 'userCore', good: [driver], again: bytes => decodeUserCore(bytes) },
  { name: 'idCore', good: [car.bytes], again: bytes => IdCore.decode(bytes).bytes },
  {
    name: 'TLV',
    good: [encodeTlv([digestOf('a'), undefined, utf8('b'), digestOf('c')])],
    again: bytes => encodeTlv(decodeTlv(bytes, { tags: 6, field: 'tlv' })),
    cases: 4000,
  },
  { name: 'UTF-8', good: [utf8('Grüße, 🚗')], again: bytes => utf8(fromUtf8(bytes, 'text')), cases: 4000 },
  { name: 'key share', good: [share.encode()], again: bytes => KeyShare.decode(bytes).encode() },
  {
    name: 'permit',
    good: [permit.encode(), nodePermit.encode()],
    again: bytes => Permit.decode(bytes).encode(),
    cases: 1500,
  },
  {
    name: 'login message',
    good: messages.map(message => message.encode()),
    again: bytes => LoginMessage.decode(bytes).encode(),
    cases: 1500,
  },
]

describe.each(doors)('$name', ({ name, good, again, cases = 800 }) => {
  test('comes back', () => {
    for (const bytes of good) expect(toHex(again(bytes))).toBe(toHex(bytes))
  })

  test('nothing at all, too much, and noise are refused or spelled as they came', () => {
    const noise = Array.from({ length: 50 }, (_, i) => seeded(`noise ${i}`)(i * 3))
    for (const bytes of [new Uint8Array(), new Uint8Array(1000), ...noise]) {
      const result = outcome(() => again(bytes))
      if (result !== null) expect(toHex(result)).toBe(toHex(bytes))
    }
  })

  test(`${cases} mutations are refused or spelled as they came`, () => {
    const roll = dice(`mutations of ${name}`)
    for (let i = 0; i < LONGER * cases; i++) {
      let bytes = good[roll(good.length)] as Uint8Array
      for (let times = 1 + roll(2); times > 0; times--) bytes = mutate(bytes, roll)
      const result = outcome(() => again(bytes))
      if (result !== null) expect(toHex(result)).toBe(toHex(bytes))
    }
  })

  test('the bytes given are not changed', () => {
    for (const bytes of good) {
      for (const copy of [bytes.slice(), Buffer.from(bytes)]) {
        again(copy)
        expect(toHex(copy)).toBe(toHex(bytes))
      }
    }
  })
})

/** What is made of bytes and keeps some of them, and what it gives again. */
const KEPT: readonly (readonly [
  name: string,
  good: Uint8Array,
  read: (bytes: Uint8Array) => () => Uint8Array,
])[] = [
  ['Scalar', scalarOf('s').encode(), read => later(Scalar.decode(read))],
  ['G1', point.encode(), read => later(G1.decode(read))],
  ['G2', G2.generator.encode(), read => later(G2.decode(read))],
  [
    'idCore',
    car.bytes,
    read =>
      (
        idCore => () =>
          idCore.bytes
      )(IdCore.decode(read)),
  ],
  [
    'TLV',
    encodeTlv([digestOf('a'), utf8('b')]),
    read =>
      (
        entries => () =>
          encodeTlv(entries)
      )(decodeTlv(read, { tags: 2, field: 'tlv' })),
  ],
  [
    'permit',
    permit.encode(),
    read =>
      (
        claim => () =>
          claim.bytes.slice()
      )(PermitClaim.decode(read)),
  ],
  [
    'login message',
    (messages[3] as LoginMessage).encode(),
    read =>
      (
        claim => () =>
          claim.bytes.slice()
      )(LoginClaim.decode(read)),
  ],
]
const later = (made: { encode(): Uint8Array }) => () => made.encode()

test.each(KEPT)('%s: who gave the bytes, or was given them, may overwrite them', (_, good, read) => {
  // A Uint8Array like any other, but for its slices, which are views.
  const given = Buffer.from(good)
  const write = read(given)
  write().fill(0)
  given.fill(0)
  expect(toHex(write())).toBe(toHex(good))
})

/** Text is mutated as bytes of Latin-1, and grown by characters that matter to parsers. */
describe.each([
  {
    name: 'base64url',
    good: toBase64Url(digestOf('b')),
    again: (text: string) => toBase64Url(fromBase64Url(text, 'b')),
  },
  { name: 'hex', good: toHex(digestOf('h')), again: (text: string) => toHex(fromHex(text)) },
  {
    name: 'M-Pin ID',
    good: car.mpinId,
    again: (text: string) => IdCore.fromBase64Url(text).mpinId,
  },
  {
    name: 'Authorization',
    good: authorizationHeader(messages[3] as LoginMessage),
    again: (text: string) => authorizationHeader(parseAuthorization(text)),
  },
  {
    name: 'enrolment code',
    good: encodeEnrolmentCode({ secret: digestOf('s').slice(0, 16), groupId }),
    // The one decoder that forgives: case and separators.
    again: (text: string) => encodeEnrolmentCode(decodeEnrolmentCode(text)),
    plain: (text: string) => text.toUpperCase().replace(/[\s-]/g, ''),
  },
])('$name', ({ name, good, again, plain = (text: string) => text }) => {
  test('comes back, and 800 mutations are refused or spelled as they came', () => {
    expect(again(good)).toBe(good)
    const roll = dice(`text of ${name}`)
    for (let i = 0; i < LONGER * 800; i++) {
      const text = [...mutate(utf8(good), roll)].map(byte => String.fromCharCode(byte)).join('')
      const spelled = roll(4) > 0 ? text : text + [' ', '=', '\n', '\0', '\u0130', '🔑'][roll(6)]
      let result: string
      try {
        result = again(spelled)
      } catch (error) {
        expect(error).toBeInstanceOf(DecodeError)
        continue
      }
      expect(plain(result)).toBe(plain(spelled))
    }
  })
})

describe('JSON', () => {
  const tokenFile = encodeTokenFile({
    groupId,
    idCore: car,
    userCore: driver,
    pinGen: 1,
    iterations: 600_000,
    keyEpoch: 1,
    token: driven().token,
  })
  const strange = [
    undefined,
    null,
    true,
    0,
    -1,
    0.5,
    2 ** 53,
    2 ** 32,
    '',
    'AA',
    'AAAA====',
    [],
    {},
    '\ud800',
    'x'.repeat(5000),
  ]
  const shapes = [
    ...messages.map((message, i) => ({
      name: `login message ${i}`,
      good: message.toJson() as object,
      again: (value: unknown) => LoginMessage.fromJson(value).toJson() as object,
    })),
    {
      name: 'token file',
      good: tokenFile as object,
      again: (value: unknown) => encodeTokenFile(decodeTokenFile(value)) as object,
    },
  ]

  test.each(shapes)('$name comes back', ({ good, again }) => {
    expect(again(JSON.parse(JSON.stringify(good)))).toEqual(good)
  })

  test.each(shapes)('$name: each field missing, strange, or another’s', ({ good, again }) => {
    for (const name of Object.keys(good)) {
      for (const value of [...strange, ...Object.values(good)]) {
        const changed: Record<string, unknown> = { ...good, [name]: value }
        try {
          const result = again(changed)
          expect(JSON.parse(JSON.stringify(result))).toEqual(JSON.parse(JSON.stringify(changed)))
        } catch (error) {
          expect(error).toBeInstanceOf(DecodeError)
        }
      }
    }
  })

  test.each(shapes)('$name: unknown fields are refused', ({ good, again }) => {
    for (const name of ['extra', 'Mode', 'toString']) {
      expect(() => again({ ...good, [name]: 1 })).toThrow(DecodeError)
    }
    expect(() => again(JSON.parse(`{"__proto__": 1, ${JSON.stringify(good).slice(1)}`))).toThrow(DecodeError)
  })

  test.each([undefined, null, 1, 'text', true, [], [1]])('%j is no message and no token file', value => {
    expect(() => LoginMessage.fromJson(value)).toThrow(DecodeError)
    expect(() => decodeTokenFile(value)).toThrow(DecodeError)
  })

  test('a token file of another suite or version', () => {
    expect(() => decodeTokenFile({ ...tokenFile, suite: 'BLS12381-SHA256-V2' })).toThrow(DecodeError)
    expect(() => decodeTokenFile({ ...tokenFile, v: 2 })).toThrow(DecodeError)
    expect(() => decodeTokenFile({ ...tokenFile, iterations: 0 })).toThrow(DecodeError)
  })
})

test('a permit is for a node or for an identity, and says no more than that', () => {
  const [slot, , , , id, sealed] = decodeTlv(permit.encode(), { tags: 6, field: 'permit' })
  const [, , depth, index] = decodeTlv(nodePermit.encode(), { tags: 6, field: 'permit' })
  const [node, identity] = [Uint8Array.of(0), Uint8Array.of(1)]
  const good = [
    [slot, identity, undefined, undefined, id, sealed],
    [slot, node, depth, index, undefined, sealed],
  ]
  const wrong = [
    [slot, node, depth, index, id, sealed],
    [slot, identity, depth, undefined, id, sealed],
    [slot, identity, undefined, index, id, sealed],
    [slot, identity, undefined, undefined, undefined, sealed],
    [slot, node, undefined, index, undefined, sealed],
    [slot, node, depth, undefined, undefined, sealed],
    [slot, Uint8Array.of(2), undefined, undefined, id, sealed],
    [slot, undefined, undefined, undefined, id, sealed],
    [undefined, identity, undefined, undefined, id, sealed],
    [slot, identity, undefined, undefined, id, undefined],
    [slot, node, Uint8Array.of(33), index, undefined, sealed],
    [slot, node, Uint8Array.of(1), index, undefined, sealed],
  ]
  for (const entries of good) expect(Permit.decode(encodeTlv(entries)).slot).toBe(SLOT)
  for (const entries of wrong) expect(() => Permit.decode(encodeTlv(entries))).toThrow(DecodeError)
})

describe('a login message', () => {
  test('with the longest audience still fits into its header', () => {
    const terms = { ...timeTerms, audience: 'ä'.repeat(128) }
    const header = authorizationHeader(loginWithPin(RIGHT_PIN, terms).withPermit(permit))
    expect(parseAuthorization(header).audience).toBe(terms.audience)
    expect(() => loginAlone({ ...timeTerms, audience: `a${terms.audience}` })).toThrow(DecodeError)
    expect(() => loginAlone({ ...timeTerms, audience: '' })).toThrow(DecodeError)
  })

  test('an audience that is not in NFC would be another text for people and the same for c', () => {
    expect(() => loginAlone({ ...timeTerms, audience: 'e\u0301' })).toThrow(DecodeError)
  })

  test.each([
    'Bearer abc',
    'MPIN',
    'MPIN ',
    'mpin AAAA',
    'MPIN  AAAA',
    'MPIN AAAA,',
    'MPIN AAAA AAAA',
    ' MPIN AAAA',
    `MPIN ${'A'.repeat(4000)}`,
  ])('is not in the header %j', header => {
    expect(() => parseAuthorization(header)).toThrow(DecodeError)
  })

  test('carries a userCore with a PIN proof only, and the PIN fields all or none', () => {
    const entries = decodeTlv((messages[3] as LoginMessage).encode(), { tags: 19, field: 'm' })
    const pinTags = [12, 13, 14, 15, 17, 18]
    for (const tag of pinTags) {
      expect(() => LoginMessage.decode(encodeTlv(entries.with(tag - 1, undefined)))).toThrow(DecodeError)
    }
    const none = pinTags.reduce((left, tag) => left.with(tag - 1, undefined), entries)
    expect(() => LoginMessage.decode(encodeTlv(none))).toThrow(DecodeError)
    expect(LoginMessage.decode(encodeTlv(none.with(7, undefined))).pin).toBeUndefined()
  })

  test('errors name the field and never its value', () => {
    const entries = decodeTlv((messages[3] as LoginMessage).encode(), { tags: 19, field: 'm' })
    const wrong: readonly (readonly [number, Uint8Array, string])[] = [
      [7, digestOf('x'), 'idCore'],
      [11, digestOf('x'), 'vDev'],
      [15, digestOf('x').slice(1), 'z'],
      [19, utf8('BLS12381-SHA256-V2'), 'suite'],
      [5, digestOf('x').slice(1), 'nonce'],
    ]
    for (const [tag, value, field] of wrong) {
      try {
        LoginMessage.decode(encodeTlv(entries.with(tag - 1, value)))
        expect.unreachable()
      } catch (error) {
        expect(error).toBeInstanceOf(DecodeError)
        expect((error as DecodeError).field).toBe(field)
        expect((error as DecodeError).message).not.toContain(toHex(value).slice(0, 8))
      }
    }
  })

  test('secrets are in no field that a log would print', () => {
    const { D_dev } = driven()
    const seen = JSON.stringify([share, D_dev, alphaOf(RIGHT_PIN), scalarOf('x')])
    expect(seen).toBe('[{},{},{},{}]')
  })
})
