import { createHmac } from 'node:crypto'
import { signJws, verifyJws } from '@milagro-ts/api/jws'
import { type Es256PrivateKey, generateEs256 } from '@milagro-ts/api/keys'
import { toBase64Url, utf8 } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { beforeAll, describe, expect, test } from 'vitest'

let key: Es256PrivateKey
let keys: Map<string, Es256PrivateKey['publicKey']>
let token: string
beforeAll(async () => {
  key = await generateEs256()
  keys = new Map([['ra1', key.publicKey]])
  token = await signJws('x+jwt', { b: 1, a: 2 }, key, 'ra1')
})

const part = (value: unknown) => toBase64Url(utf8(JSON.stringify(value)))
const header = { alg: 'ES256', kid: 'ra1', typ: 'x+jwt' }
/** Properly signed by the right key, whatever header and payload say. */
const signed = async (head: unknown, payload: string) => {
  const input = `${part(head)}.${payload}`
  return `${input}.${toBase64Url(await key.sign(utf8(input)))}`
}

test('a statement comes back as it was signed, in canonical form', async () => {
  const verified = await verifyJws('x+jwt', token, keys)
  expect(verified?.payload).toEqual({ a: 2, b: 1 })
  expect(verified?.kid).toBe('ra1')
  expect(new TextDecoder().decode(verified?.bytes)).toBe('{"a":2,"b":1}')
  expect(await verifyJws('x+jwt', token, key.publicKey)).not.toBeNull()
  expect(await verifyJws('x+jwt', await signed(header, part({})), keys)).not.toBeNull()
})

describe('is not verified', () => {
  test('with alg none', async () => {
    expect(await verifyJws('x+jwt', `${part({ ...header, alg: 'none' })}.${part({})}.`, keys)).toBeNull()
    expect(await verifyJws('x+jwt', await signed({ ...header, alg: 'none' }, part({})), keys)).toBeNull()
  })

  test('with HS256 keyed with the public key', async () => {
    const input = `${part({ ...header, alg: 'HS256' })}.${part({})}`
    for (const secret of [key.publicKey.encode(), utf8(JSON.stringify(key.publicKey.toJwk()))]) {
      const mac = createHmac('sha256', secret).update(input).digest()
      expect(await verifyJws('x+jwt', `${input}.${toBase64Url(mac)}`, keys)).toBeNull()
    }
  })

  test.each<[string, object]>([
    ['another algorithm of the same key', { ...header, alg: 'ES256K' }],
    ['another typ', { ...header, typ: 'y+jwt' }],
    ['the bare typ', { ...header, typ: 'JWT' }],
    ['no typ', { alg: 'ES256', kid: 'ra1' }],
    ['no kid', { alg: 'ES256', typ: 'x+jwt' }],
    ['a kid that is no text', { ...header, kid: 1 }],
    ['an unknown kid', { ...header, kid: 'ra2' }],
    ['a kid that every object has', { ...header, kid: 'constructor' }],
    ['crit', { ...header, crit: ['exp'], exp: 1 }],
    ['an unencoded payload', { ...header, b64: false, crit: ['b64'] }],
    ['an address of keys', { ...header, jku: 'https://evil.example/jwks' }],
  ])('with %s in the header', async (_cause, head) => {
    expect(await verifyJws('x+jwt', await signed(head, part({})), keys)).toBeNull()
  })

  test('with a key in the header', async () => {
    const own = await generateEs256()
    const input = `${part({ ...header, jwk: own.publicKey.toJwk() })}.${part({})}`
    expect(await verifyJws('x+jwt', `${input}.${toBase64Url(await own.sign(utf8(input)))}`, keys)).toBeNull()
  })

  test('with another key, another payload, no signature, or a zero one', async () => {
    expect(
      await verifyJws('x+jwt', await signJws('x+jwt', {}, await generateEs256(), 'ra1'), keys),
    ).toBeNull()
    const [head, , signature] = token.split('.')
    expect(await verifyJws('x+jwt', `${head}.${part({ a: 3 })}.${signature}`, keys)).toBeNull()
    for (const wrong of ['', toBase64Url(new Uint8Array(64)), toBase64Url(new Uint8Array(63))])
      expect(await verifyJws('x+jwt', `${head}.${part({})}.${wrong}`, keys)).toBeNull()
  })
})

describe('is malformed', () => {
  test.each(['', '.', '..', 'a.b', 'a.b.c.d', '!!.e30.AA'])('as %j', async text => {
    await expect(verifyJws('x+jwt', text, keys)).rejects.toBeInstanceOf(DecodeError)
  })

  test.each<[string, string]>([
    ['a payload that is not JSON', toBase64Url(utf8('{'))],
    ['a payload that is not an object', part([1])],
    ['a payload of null', part(null)],
    ['a payload that is not UTF-8', toBase64Url(Uint8Array.of(0xff, 0xfe))],
  ])('with %s, even when it is signed', async (_cause, payload) => {
    await expect(verifyJws('x+jwt', await signed(header, payload), keys)).rejects.toBeInstanceOf(DecodeError)
  })

  test('in a second spelling of the same payload', async () => {
    // "{}" is e30; two bits of its last character are free.
    await expect(verifyJws('x+jwt', await signed(header, 'e31'), keys)).rejects.toBeInstanceOf(DecodeError)
  })
})
