import type { webcrypto } from 'node:crypto'
import {
  decodeHpkeKey,
  Es256PrivateKey,
  Es256PublicKey,
  generateEs256,
  generateHpkeKey,
  HpkeKeyPair,
} from '@milagro-ts/api/keys'
import { fromHex, toBase64Url, toHex, utf8 } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { describe, expect, test } from 'vitest'
import { fixedRandom } from './fixed-random.js'

/** RFC 6979 A.2.5. */
const rfc6979 = {
  d: 'c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721',
  x: '60fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb6',
  y: '7903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299',
  signatureOfSample:
    'efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716' +
    'f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8',
}
const jwk = {
  kty: 'EC',
  crv: 'P-256',
  x: toBase64Url(fromHex(rfc6979.x)),
  y: toBase64Url(fromHex(rfc6979.y)),
  d: toBase64Url(fromHex(rfc6979.d)),
} as const

describe('ES256', () => {
  test('the public key of RFC 6979 comes out of its compressed point and verifies its signature', async () => {
    const key = Es256PublicKey.decode(fromHex(`03${rfc6979.x}`))
    expect(key.toJwk()).toEqual({ kty: 'EC', crv: 'P-256', x: jwk.x, y: jwk.y })
    expect(toHex(key.encode())).toBe(`03${rfc6979.x}`)
    expect(await key.verify(utf8('sample'), fromHex(rfc6979.signatureOfSample))).toBe(true)
    expect(await key.verify(utf8('simple'), fromHex(rfc6979.signatureOfSample))).toBe(false)
    expect(await key.verify(utf8('sample'), fromHex(rfc6979.signatureOfSample).subarray(1))).toBe(false)
  })

  test('decompression agrees with the platform, whichever the sign', async () => {
    for (let i = 0; i < 16; i++) {
      const { publicKey } = await generateEs256()
      const again = Es256PublicKey.fromBase64Url(publicKey.toBase64Url())
      expect(again.toJwk()).toEqual(publicKey.toJwk())
      expect(again.equals(publicKey)).toBe(true)
      const other = publicKey.encode()
      other[0] = (other[0] as number) ^ 1
      expect(Es256PublicKey.decode(other).equals(publicKey)).toBe(false)
    }
  })

  test('a private key survives being stored, and shows itself to nobody by accident', async () => {
    const key = await generateEs256()
    const again = await Es256PrivateKey.fromJwk(key.toJwk())
    expect(await key.publicKey.verify(utf8('x'), await again.sign(utf8('x')))).toBe(true)
    expect(JSON.stringify(key)).not.toContain(key.toJwk().d)
  })

  test.each<[string, Uint8Array]>([
    ['nothing', new Uint8Array()],
    ['a byte too few', fromHex(rfc6979.x)],
    ['a byte too many', fromHex(`03${rfc6979.x}00`)],
    ['the uncompressed mark', fromHex(`04${rfc6979.x}`)],
    ['the point at infinity', new Uint8Array(33)],
    ['x = p', fromHex('02ffffffff00000001000000000000000000000000ffffffffffffffffffffffff')],
    ['an x that is not on the curve', Uint8Array.of(2, ...new Uint8Array(31), 1)],
  ])('a public key is not %s', (_cause, bytes) => {
    expect(() => Es256PublicKey.decode(bytes)).toThrow(DecodeError)
  })

  test.each<[string, Record<string, unknown>]>([
    ['on another curve', { ...jwk, crv: 'P-384' }],
    ['of another kind', { ...jwk, kty: 'OKP' }],
    ['without y', { ...jwk, y: undefined }],
    ['off the curve', { ...jwk, y: jwk.x }],
    ['of short coordinates', { ...jwk, x: 'AA' }],
  ])('a JWK is not %s', (_cause, wrong) => {
    expect(() => Es256PublicKey.fromJwk(wrong)).toThrow(DecodeError)
  })

  test('a private key is not another one’s', async () => {
    const { d } = (await generateEs256()).toJwk()
    await expect(Es256PrivateKey.fromJwk({ ...jwk, d })).rejects.toBeInstanceOf(DecodeError)
    await expect(Es256PrivateKey.fromJwk({ ...jwk, d: 'AA' })).rejects.toBeInstanceOf(DecodeError)
    await expect(
      Es256PrivateKey.fromJwk({ ...jwk, d: toBase64Url(new Uint8Array(32)) }),
    ).rejects.toBeInstanceOf(DecodeError)
  })
})

/** RFC 7748 §6.1, Alice. */
const rfc7748 = {
  secret: '77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a',
  publicKey: '8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a',
}

describe('X25519', () => {
  test('the key pair of RFC 7748 §6.1', async () => {
    const alice = fromHex(rfc7748.secret)
    const pair = await HpkeKeyPair.fromSecret(alice)
    expect(toHex(pair.publicKey)).toBe(rfc7748.publicKey)
    expect(pair.secret()).toEqual(alice)
  })

  test('a pair is drawn from the given randomness', async () => {
    const [one, same, other] = await Promise.all([
      generateHpkeKey(fixedRandom('a')),
      generateHpkeKey(fixedRandom('a')),
      generateHpkeKey(fixedRandom('b')),
    ])
    expect(one.publicKey).toEqual(same.publicKey)
    expect(one.publicKey).not.toEqual(other.publicKey)
    expect(JSON.stringify(one)).not.toContain('secret')
  })

  test('a secret has 32 bytes', async () => {
    await expect(HpkeKeyPair.fromSecret(new Uint8Array(31))).rejects.toBeInstanceOf(DecodeError)
  })

  test('who gave the secret, in a Buffer, too, or was given it, may overwrite it', async () => {
    const given = Buffer.from(fromHex(rfc7748.secret))
    const pair = await HpkeKeyPair.fromSecret(given)
    given.fill(0)
    pair.secret().fill(0)
    expect(toHex(pair.secret())).toBe(rfc7748.secret)
  })

  describe('a stranger’s public key', () => {
    const P = 2n ** 255n - 19n
    const little = (u: bigint) => Uint8Array.from(fromHex(u.toString(16).padStart(64, '0'))).reverse()
    const orderEight = [
      'e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800',
      '5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157',
    ].map(hex => fromHex(hex))
    const spellings = [...[0n, 1n, P - 1n, P, P + 1n].map(little), ...orderEight]
    const all = spellings.flatMap(bytes => [bytes, bytes.map((byte, i) => (i === 31 ? byte | 0x80 : byte))])

    test('that makes every shared secret zero is refused, in each of its spellings', async () => {
      const { privateKey } = (await crypto.subtle.generateKey({ name: 'X25519' }, false, ['deriveBits'])) as {
        privateKey: webcrypto.CryptoKey
      }
      for (const bytes of all) {
        expect(() => decodeHpkeKey(toBase64Url(bytes))).toThrow(DecodeError)
        // The platform agrees that nothing can be sealed to it.
        const key = await crypto.subtle.importKey('raw', new Uint8Array(bytes), { name: 'X25519' }, false, [])
        const shared = crypto.subtle.deriveBits({ name: 'X25519', public: key }, privateKey, 256)
        await expect(shared).rejects.toThrow()
      }
    })

    test('that is one is taken', async () => {
      const { publicKey } = await generateHpkeKey(fixedRandom('stranger'))
      expect(decodeHpkeKey(toBase64Url(publicKey))).toEqual(publicKey)
      expect(() => decodeHpkeKey(toBase64Url(publicKey.subarray(1)))).toThrow(DecodeError)
    })
  })
})
