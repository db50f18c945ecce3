/** What is read of a ClientHello before node:tls sees it: real ones, in pieces, and what is none. */
import { type AddressInfo, createServer } from 'node:net'
import { connect } from 'node:tls'
import { concat } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { ClientHelloReader, MOST_HELLO, pskIdentitiesOf } from '@milagro-ts/tls/client-hello'
import { beforeAll, describe, expect, test, vi } from 'vitest'

const IDENTITY = `m1.${'A'.repeat(122)}`
const SUITE = {
  ciphers: 'TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256',
  minVersion: 'TLSv1.3',
} as const

/** What this Node's OpenSSL sends first. */
function helloOf(options: object): Promise<Buffer> {
  return new Promise(resolve => {
    const server = createServer(socket => {
      socket.once('data', bytes => {
        socket.destroy()
        server.close(() => resolve(bytes))
      })
    })
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address() as AddressInfo
      connect({ host: '127.0.0.1', port, ...SUITE, ...options }).on('error', () => undefined)
    })
  })
}
const offering = (identity: string) =>
  helloOf({
    pskCallback: () => ({ identity, psk: Buffer.alloc(32) }),
    checkServerIdentity: () => new Error('no certificates'),
  })

let hello: Buffer
beforeAll(async () => {
  hello = await offering(IDENTITY)
})

test('the identity of a real one', () => {
  expect(pskIdentitiesOf(hello)).toEqual([IDENTITY])
})

test('one that offers no PSK has none, and one of 200 characters is handed on', async () => {
  expect(pskIdentitiesOf(await helloOf({}))).toEqual([])
  const long = 'x'.repeat(200)
  expect(pskIdentitiesOf(await offering(long))).toEqual([long])
})

test('every beginning of it asks for more', () => {
  for (let length = 0; length < hello.length; length++)
    expect(pskIdentitiesOf(hello.subarray(0, length))).toBe('more')
})

test.each([1, 2, 3, 5, 64, 500])('in records of %i bytes it is the same', size => {
  const message = hello.subarray(5)
  const records: Uint8Array[] = []
  for (let at = 0; at < message.length; at += size) {
    const fragment = message.subarray(at, at + size)
    records.push(Uint8Array.of(22, 3, 1, fragment.length >> 8, fragment.length & 255), fragment)
  }
  const bytes = concat(...records)
  expect(pskIdentitiesOf(bytes)).toEqual([IDENTITY])
  expect(pskIdentitiesOf(bytes.subarray(0, bytes.length - 1))).toBe('more')
})

test('a stranger’s, in thousands of records that never make a whole, isn’t joined anew for each', () => {
  const bytes = concat(
    ...[1, 0, 0x70, 0, ...Array(5_000).fill(7)].map(byte => Uint8Array.of(22, 3, 1, 0, 1, byte)),
  )
  const concats = vi.spyOn(Buffer, 'concat')
  expect(pskIdentitiesOf(bytes)).toBe('more')
  expect(concats.mock.calls.length).toBeLessThan(3)
  concats.mockRestore()
})

test('byte for byte it is the same', () => {
  const reader = new ClientHelloReader()
  const found = [...hello].map(byte => reader.read(Uint8Array.of(byte)))
  expect(found.slice(0, -1).every(one => one === 'more')).toBe(true)
  expect(found.at(-1)).toMatchObject({ identities: [IDENTITY], offersTls13: true })
  expect(reader.bytes).toEqual(hello)
})

test('the longest that makes no whole, each byte alone in a record and in a piece: a few milliseconds', () => {
  const bytes = concat(
    ...[1, 0, 0x70, 0, ...Array(5_400).fill(7)].map(byte => Uint8Array.of(22, 3, 1, 0, 1, byte)),
  )
  const reader = new ClientHelloReader()
  const begun = process.cpuUsage()
  let more = 0
  for (let at = 0; at < bytes.length; at++) if (reader.read(bytes.subarray(at, at + 1)) === 'more') more++
  const { user } = process.cpuUsage(begun)
  expect(more).toBe(bytes.length)
  // Looking at all of it anew for each byte takes seconds.
  expect(user).toBeLessThan(500_000)
})

test('what follows it is not looked at', () => {
  expect(pskIdentitiesOf(concat(hello, Uint8Array.of(23, 3, 3, 0, 1, 0)))).toEqual([IDENTITY])
})

describe('refused', () => {
  test.each([
    ['HTTP', Buffer.from('GET / HTTP/1.1\r\n\r\n')],
    ['an alert first', Buffer.from('15030100020100', 'hex')],
    ['a ServerHello', Buffer.from('16030100050200000100', 'hex')],
    ['a record of no length', Buffer.from('1603010000', 'hex')],
    ['a record beyond 2¹⁴', Buffer.from('1603014001', 'hex')],
    ['a message of 16 MB', Buffer.from('160301000401ffffff', 'hex')],
    ['a body that ends in the middle of its random', Buffer.from('1603010006010000020303', 'hex')],
  ])('%s', (_, bytes) => {
    expect(() => pskIdentitiesOf(bytes)).toThrow(DecodeError)
  })

  test('a list that says it is longer than what holds it', () => {
    const at = hello.indexOf(IDENTITY) - 2
    const longer = Buffer.from(hello)
    longer.writeUInt16BE(0xffff, at)
    expect(() => pskIdentitiesOf(longer)).toThrow(DecodeError)
  })

  test('one that never ends', () => {
    const record = concat(Uint8Array.of(22, 3, 1, 64, 0), new Uint8Array(16_384).fill(1))
    const long = concat(record, record, record).map((byte, i) =>
      i > 5 && i < 9 ? ([0, 127, 255][i - 6] ?? 0) : byte,
    )
    expect(() => pskIdentitiesOf(long.subarray(0, MOST_HELLO + 1))).toThrow(DecodeError)
  })

  test('whatever one changes, it is a list of texts, a wish for more, or a DecodeError', () => {
    let seed = 1
    const drawn = (below: number) => {
      seed = (seed * 48_271) % 0x7fff_ffff
      return seed % below
    }
    for (let i = 0; i < 3_000; i++) {
      const bytes = Buffer.from(hello.subarray(0, 1 + drawn(hello.length)))
      for (let j = 0; j <= drawn(4); j++) bytes[drawn(bytes.length)] = drawn(256)
      try {
        const found = pskIdentitiesOf(bytes)
        if (found !== 'more') for (const text of found) expect(text).toMatch(/^[\x21-\x7e]{0,256}$/)
      } catch (error) {
        expect(error).toBeInstanceOf(DecodeError)
      }
    }
  })
})
