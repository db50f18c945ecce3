/** Bytes and hashes: our own code against the platform's, which the library may not import and a test may. */
import { createHash, createHmac, hkdfSync } from 'node:crypto'
import {
  be16,
  be32,
  be32At,
  be64,
  concat,
  equalBytes,
  fromBase64Url,
  fromHex,
  fromUtf8,
  nfcUtf8,
  readInteger,
  toBase64Url,
  toHex,
  u8,
  utf8,
} from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { hkdfSha256, hmacSha256, sha256 } from '@milagro-ts/crypto/sha256'
import { decodeTlv, encodeTlv } from '@milagro-ts/crypto/tlv'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'

const bytes = (maxLength = 300) => fc.uint8Array({ maxLength })
const hex = (of: Uint8Array) => Buffer.from(of).toString('hex')

describe('hashes, as node:crypto has them', () => {
  test('SHA-256 of every length up to three blocks, and of a long message', () => {
    for (let length = 0; length < 200; length++) {
      const message = new Uint8Array(length).map((_, i) => (i * 31 + length) & 255)
      expect(hex(sha256(message))).toBe(createHash('sha256').update(message).digest('hex'))
    }
    const long = new Uint8Array(100_003).fill(0x61)
    expect(hex(sha256(long))).toBe(createHash('sha256').update(long).digest('hex'))
  })

  test('SHA-256 over parts is SHA-256 over their concatenation', () => {
    fc.assert(fc.property(bytes(), bytes(), (a, b) => equalBytes(sha256(a, b), sha256(concat(a, b)))))
  })

  const digest = (message: Uint8Array) => createHash('sha256').update(message).digest('hex')

  test('SHA-256 of messages of one to 20 blocks, the long and the short ones in turn', () => {
    const message = new Uint8Array(1280).map((_, i) => (i * 167 + 13) & 255)
    for (let blocks = 1; blocks <= 20; blocks++) {
      for (const length of [-10, -9, -8, -1, 0].map(over => 64 * blocks + over)) {
        const part = message.subarray(1280 - length)
        expect(hex(sha256(part))).toBe(digest(part))
        expect(hex(sha256(part.subarray(0, length >> 3)))).toBe(digest(part.subarray(0, length >> 3)))
      }
    }
  })

  test('a digest that broke off leaves nothing in the next', () => {
    const broken = Object.defineProperty({ length: 1 }, 0, {
      get() {
        throw new Error('broken')
      },
    }) as unknown as Uint8Array
    for (const length of [0, 3, 55, 56, 64, 500]) {
      expect(() => sha256(new Uint8Array(900).fill(255), broken)).toThrow('broken')
      const message = new Uint8Array(length).fill(1)
      expect(hex(sha256(message))).toBe(digest(message))
    }
  })

  test('no text is a TypeError, and no empty bytes', () => {
    for (const wrong of [5, {}, true, null, undefined, [], new Date()])
      expect(() => utf8(wrong as unknown as string)).toThrow(TypeError)
  })

  test('HMAC with keys of every kind of length', () => {
    fc.assert(
      fc.property(bytes(200), bytes(), bytes(), (key, a, b) => {
        expect(hex(hmacSha256(key, a, b))).toBe(createHmac('sha256', key).update(a).update(b).digest('hex'))
      }),
    )
    for (const length of [0, 63, 64, 65]) {
      const key = new Uint8Array(length).fill(1)
      expect(hex(hmacSha256(key))).toBe(createHmac('sha256', key).digest('hex'))
    }
  })

  test('HKDF of every length', () => {
    fc.assert(
      fc.property(
        bytes(80),
        bytes(80),
        bytes(80),
        fc.integer({ min: 1, max: 200 }),
        (salt, ikm, info, length) => {
          const expected = new Uint8Array(hkdfSync('sha256', ikm, salt, info, length))
          expect(hex(hkdfSha256(salt, ikm, info, length))).toBe(hex(expected))
        },
      ),
    )
    const none = new Uint8Array()
    expect(hkdfSha256(none, none, none, 8160)).toHaveLength(8160)
    expect(() => hkdfSha256(none, none, none, 8161)).toThrow(RangeError)
  })
})

describe('spellings', () => {
  test('hex and base64url, as Buffer has them', () => {
    fc.assert(
      fc.property(bytes(), value => {
        expect(toHex(value)).toBe(hex(value))
        expect(fromHex(toHex(value))).toEqual(value)
        expect(toBase64Url(value)).toBe(Buffer.from(value).toString('base64url'))
        expect(fromBase64Url(toBase64Url(value), 'value')).toEqual(value)
      }),
    )
  })

  test('UTF-8, as TextEncoder has it', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), text => {
        expect(utf8(text)).toEqual(new TextEncoder().encode(text))
        expect(fromUtf8(utf8(text), 'text')).toBe(text)
      }),
    )
  })

  test('UTF-8 of one, two, three and four bytes, beside one another, in an array of just its length', () => {
    const limits = [0, 0x41, 0x7f, 0x80, 0x7ff, 0x800, 0xd7ff, 0xe000, 0xffff, 0x10000, 0x10ffff]
    const texts = limits.map(point => String.fromCodePoint(point))
    const around = ['', 'a', 'abc', ...texts]
    for (const text of texts) {
      for (const before of around) {
        for (const after of around) {
          const encoded = utf8(before + text + after)
          expect(encoded).toEqual(new TextEncoder().encode(before + text + after))
          expect(encoded.buffer.byteLength).toBe(encoded.length)
        }
      }
    }
    expect(utf8('')).toEqual(new Uint8Array())
  })

  test('UTF-8 that TextDecoder refuses is refused, and no other', () => {
    const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
    const nearUtf8 = fc.oneof(
      bytes(8),
      fc
        .array(fc.constantFrom(0xc0, 0xc2, 0xe0, 0xed, 0xf0, 0xf4, 0xf5, 0x80, 0x9f, 0xa0, 0xbf, 0x41), {
          maxLength: 5,
        })
        .map(list => Uint8Array.from(list)),
    )
    fc.assert(
      fc.property(nearUtf8, value => {
        let expected: string | undefined
        try {
          expected = decoder.decode(value)
        } catch {
          expected = undefined
        }
        if (expected === undefined) expect(() => fromUtf8(value, 'text')).toThrow(DecodeError)
        else expect(fromUtf8(value, 'text')).toBe(expected)
      }),
      { numRuns: 3000 },
    )
  })

  test.each(['A', 'AB', 'AAB', 'AA==', 'AA=', 'A A', '+A', '/A', 'AA\n', 'ÄA', '🔑', 'AAAAA'])(
    'not the one base64url of anything: %j',
    text => {
      expect(() => fromBase64Url(text, 'value')).toThrow(DecodeError)
    },
  )

  test('base64url of every length', () => {
    for (let length = 0; length < 130; length++) {
      const value = new Uint8Array(length).map((_, i) => (i * 89 + length) & 255)
      const text = Buffer.from(value).toString('base64url')
      expect(toBase64Url(value)).toBe(text)
      expect(fromBase64Url(text, 'value', length)).toEqual(value)
      for (const fewer of [1, 2, 3])
        if (length > 3) expect(() => fromBase64Url(text.slice(fewer), 'value', length)).toThrow(DecodeError)
    }
  })

  test('64 characters are base64url’s, and no other of all units of UTF-16, wherever it stands', () => {
    const taken = (text: string): boolean => {
      try {
        return fromBase64Url(text, 'value').length === 3
      } catch (error) {
        if (error instanceof DecodeError) return false
        throw error
      }
    }
    for (const [before, after] of [
      ['', 'AAA'],
      ['A', 'AA'],
      ['AA', 'A'],
      ['AAA', ''],
    ] as const) {
      const characters = Array.from({ length: 0x10000 }, (_, unit) => String.fromCharCode(unit))
      const good = characters.filter(character => taken(`${before}${character}${after}`))
      expect(good.join('')).toMatch(/^-0123456789[A-Z]{26}_[a-z]{26}$/)
    }
  })

  test('base64url of another length than expected', () => {
    expect(fromBase64Url('AAAA', 'value', 3)).toEqual(new Uint8Array(3))
    expect(() => fromBase64Url('AAAA', 'value', 4)).toThrow(DecodeError)
    expect(() => fromBase64Url('', 'value', 1)).toThrow(DecodeError)
  })

  test.each(['0', 'AB', '0x', ' 00', '0g'])('not lower-case hex: %j', text => {
    expect(() => fromHex(text)).toThrow(DecodeError)
  })

  test.each(['\ud800', 'a\udc00', '\udc00\ud800', 'ab\ud800c', 'ü\udc00', '🔑\ud83d', '\ud83d🔑'])(
    'a lone surrogate has no UTF-8',
    text => {
      expect(() => utf8(text)).toThrow(DecodeError)
    },
  )

  test('text enters a TLV in NFC', () => {
    expect(nfcUtf8('e\u0301')).toEqual(utf8('é'))
  })

  test('integers, big-endian, in their width only', () => {
    expect([u8(255), be16(258), be32(0xdeadbeef), be64(2 ** 53 - 1)].map(toHex)).toEqual([
      'ff',
      '0102',
      'deadbeef',
      '001fffffffffffff',
    ])
    for (const [encode, limit] of [
      [u8, 2 ** 8],
      [be16, 2 ** 16],
      [be32, 2 ** 32],
      [be64, 2 ** 53],
    ] as const) {
      expect(readInteger(encode(limit - 1), encode(0).length, 'value')).toBe(limit - 1)
      for (const value of [0, 1, 255, 256, 65_535, 65_536, 2 ** 31, 2 ** 32, 2 ** 52 + 257])
        if (value < limit) expect(readInteger(encode(value), encode(0).length, 'value')).toBe(value)
      for (const wrong of [limit, -1, 0.5, Number.NaN]) expect(() => encode(wrong)).toThrow(RangeError)
    }
    for (const value of [0, 1, 255, 2 ** 24, 2 ** 31, 0xdeadbeef, 2 ** 32 - 1])
      expect(be32At(concat(new Uint8Array(3).fill(255), be32(value), Uint8Array.of(255)), 3)).toBe(value)
    expect(() => readInteger(new Uint8Array(3), 4, 'value')).toThrow(DecodeError)
    expect(() => readInteger(fromHex('0020000000000000'), 8, 'value')).toThrow(DecodeError)
    expect(() => readInteger(new Uint8Array(8).fill(255), 8, 'value')).toThrow(DecodeError)
  })

  test('equality of bytes', () => {
    fc.assert(fc.property(bytes(20), bytes(20), (a, b) => equalBytes(a, b) === (Buffer.compare(a, b) === 0)))
    expect(equalBytes(fromHex('00'), fromHex('0000'))).toBe(false)
  })
})

describe('TLV', () => {
  const entries = fc.array(fc.option(bytes(20), { nil: undefined }), { maxLength: 12 })

  test('comes back, empty entries as absent ones', () => {
    fc.assert(
      fc.property(entries, list => {
        const decoded = decodeTlv(encodeTlv(list), { tags: list.length, field: 'tlv' })
        expect(decoded).toEqual(list.map(value => (value?.length ? value : undefined)))
      }),
    )
  })

  test('no two tuples are spelled alike', () => {
    fc.assert(
      fc.property(entries, entries, (a, b) => {
        const same = (list: typeof a) => list.map(value => toHex(value ?? new Uint8Array())).join('|')
        const padded = (list: typeof a) => same([...list, ...new Array(12 - list.length).fill(undefined)])
        expect(equalBytes(encodeTlv(a), encodeTlv(b))).toBe(padded(a) === padded(b))
      }),
    )
  })

  test.each([
    ['tags that descend', '02000000016101000000' + '0162'],
    ['a tag that stands twice', '010000000161010000000162'],
    ['an empty value', '0100000000'],
    ['tag 0', '000000000161'],
    ['an unknown tag', '040000000161'],
    ['a cut header', '01000000'],
    ['a cut value', '010000000261'],
    ['a length beyond everything', '01ffffffff61'],
    ['trailing bytes', '01000000016100'],
  ])('refuses %s', (_, spelled) => {
    expect(() => decodeTlv(fromHex(spelled), { tags: 3, field: 'tlv' })).toThrow(DecodeError)
  })

  test('reads from the middle of a larger buffer, and gives copies', () => {
    const whole = concat(fromHex('ffff'), encodeTlv([utf8('a'), undefined, utf8('bc')]), fromHex('ff'))
    const view = whole.subarray(2, whole.length - 1)
    const decoded = decodeTlv(view, { tags: 3, field: 'tlv' })
    whole.fill(0)
    expect(decoded).toEqual([utf8('a'), undefined, utf8('bc')])
  })

  test('at most 255 tags', () => {
    const full = new Array<Uint8Array>(255).fill(utf8('x'))
    expect(decodeTlv(encodeTlv(full), { tags: 255, field: 'tlv' })).toEqual(full)
    expect(() => encodeTlv([...full, utf8('x')])).toThrow(RangeError)
  })
})
