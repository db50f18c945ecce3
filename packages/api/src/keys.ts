/**
 * Keys of servers and people, not of groups: ES256 (P-256) for signatures, X25519 for HPKE. WebCrypto only, so that
 * the same file runs on Node and in browsers; WebCrypto draws ES256 keys and nonces from the platform's randomness.
 *
 * P-256 public keys travel as the compressed point (33 bytes), which WebCrypto doesn't take: decompression is here.
 * It works on public values only, so its speed may depend on them.
 */

import { DhkemX25519HkdfSha256 } from '@hpke/core'
import {
  concat,
  copyOf,
  equalBytes,
  fromBase64Url,
  fromHex,
  toBase64Url,
  toHex,
} from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import type { Random } from '@milagro-ts/crypto/ports'
import type { CryptoKey } from 'jose'

/** y² = x³ − 3x + b over GF(p), FIPS 186-5 / SEC 2 secp256r1. */
const p = 0xffffffff00000001000000000000000000000000ffffffffffffffffffffffffn
const b = 0x5ac635d8aa3a93e7b3ebbd55769886bc651d06b0cc53b0f63bce3c3e27d2604bn

const ECDSA = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const

/** A P-256 public key in JWK form; members other than these are not made here. */
export interface Es256PublicJwk {
  readonly kty: 'EC'
  readonly crv: 'P-256'
  readonly x: string
  readonly y: string
}
/** A private key as it is kept, sealed, by its server. */
export interface Es256PrivateJwk extends Es256PublicJwk {
  readonly d: string
}

/** A P-256 public key: a point that is on the curve (the curve's cofactor is 1, so it is in the group too). */
export class Es256PublicKey {
  readonly #x: Uint8Array
  readonly #y: Uint8Array
  #imported: Promise<CryptoKey> | undefined

  private constructor(x: Uint8Array, y: Uint8Array) {
    this.#x = x
    this.#y = y
  }

  /** The compressed point (33 bytes, 02 or 03 ‖ x). DecodeError for anything else, or x ≥ p, or off the curve. */
  static decode(bytes: Uint8Array, field = 'key'): Es256PublicKey {
    if (bytes.length !== 33) throw new DecodeError(field, 'a compressed P-256 point is 33 bytes')
    if (bytes[0] !== 2 && bytes[0] !== 3)
      throw new DecodeError(field, 'a compressed point starts with 02 or 03')
    const x = toBigInt(bytes.subarray(1))
    if (x >= p) throw new DecodeError(field, 'x is not below p')
    const square = curveSide(x)
    const root = power(square, (p + 1n) / 4n) // p ≡ 3 mod 4
    if ((root * root) % p !== square) throw new DecodeError(field, 'not on P-256')
    const y = (root & 1n) === BigInt(bytes[0] & 1) ? root : p - root
    return new Es256PublicKey(fromBigInt(x), fromBigInt(y))
  }

  static fromBase64Url(text: string, field = 'key'): Es256PublicKey {
    return Es256PublicKey.decode(fromBase64Url(text, field, 33), field)
  }

  /** Members other than kty, crv, x and y are ignored (RFC 7517 §5). */
  static fromJwk(
    jwk: { kty?: unknown; crv?: unknown; x?: unknown; y?: unknown },
    field = 'jwk',
  ): Es256PublicKey {
    if (jwk.kty !== 'EC' || jwk.crv !== 'P-256') throw new DecodeError(field, 'not a P-256 key')
    const { x: xText, y: yText } = jwk
    if (typeof xText !== 'string' || typeof yText !== 'string')
      throw new DecodeError(field, 'x or y is missing')
    const x = toBigInt(fromBase64Url(xText, `${field}.x`, 32))
    const y = toBigInt(fromBase64Url(yText, `${field}.y`, 32))
    if (x >= p || y >= p || (y * y) % p !== curveSide(x)) throw new DecodeError(field, 'not on P-256')
    return new Es256PublicKey(fromBigInt(x), fromBigInt(y))
  }

  encode(): Uint8Array {
    return concat(Uint8Array.of(2 + ((this.#y[31] as number) & 1)), this.#x)
  }

  toBase64Url(): string {
    return toBase64Url(this.encode())
  }

  toJwk(): Es256PublicJwk {
    return { kty: 'EC', crv: 'P-256', x: toBase64Url(this.#x), y: toBase64Url(this.#y) }
  }

  equals(other: Es256PublicKey): boolean {
    return equalBytes(this.#x, other.#x) && equalBytes(this.#y, other.#y)
  }

  /** For libraries that want WebCrypto's form; imported once. */
  cryptoKey(): Promise<CryptoKey> {
    this.#imported ??= crypto.subtle.importKey('jwk', { ...this.toJwk() }, ECDSA, true, ['verify'])
    return this.#imported
  }

  /** ECDSA with SHA-256 over `message`; `signature` is r ‖ s, 64 bytes. */
  async verify(message: Uint8Array, signature: Uint8Array): Promise<boolean> {
    return signature.length === 64 && crypto.subtle.verify(ECDSA, await this.cryptoKey(), signature, message)
  }
}

export class Es256PrivateKey {
  readonly publicKey: Es256PublicKey
  readonly #key: CryptoKey
  readonly #d: string

  private constructor(publicKey: Es256PublicKey, key: CryptoKey, d: string) {
    this.publicKey = publicKey
    this.#key = key
    this.#d = d
  }

  /** DecodeError unless d, x and y belong together (a key that signs what nobody can verify is refused here). */
  static async fromJwk(jwk: Es256PrivateJwk, field = 'jwk'): Promise<Es256PrivateKey> {
    const publicKey = Es256PublicKey.fromJwk(jwk, field)
    if (typeof jwk.d !== 'string') throw new DecodeError(field, 'd is missing')
    fromBase64Url(jwk.d, `${field}.d`, 32)
    let key: CryptoKey
    try {
      key = await crypto.subtle.importKey('jwk', { ...publicKey.toJwk(), d: jwk.d }, ECDSA, false, ['sign'])
    } catch (cause) {
      throw new DecodeError(field, `not a P-256 private key (${(cause as Error).name})`)
    }
    const made = new Es256PrivateKey(publicKey, key, jwk.d)
    const probe = new Uint8Array(32)
    if (!(await publicKey.verify(probe, await made.sign(probe))))
      throw new DecodeError(field, 'd is not the key of x and y')
    return made
  }

  /** r ‖ s, 64 bytes, over SHA-256 of `message`. */
  async sign(message: Uint8Array): Promise<Uint8Array> {
    return new Uint8Array(await crypto.subtle.sign(ECDSA, this.#key, message))
  }

  cryptoKey(): CryptoKey {
    return this.#key
  }

  /** The secret, to be sealed and stored. */
  toJwk(): Es256PrivateJwk {
    return { ...this.publicKey.toJwk(), d: this.#d }
  }
}

export async function generateEs256(): Promise<Es256PrivateKey> {
  const pair = await crypto.subtle.generateKey(ECDSA, true, ['sign', 'verify'])
  const { x, y, d } = await crypto.subtle.exportKey('jwk', pair.privateKey)
  return Es256PrivateKey.fromJwk({ kty: 'EC', crv: 'P-256', x: x as string, y: y as string, d: d as string })
}

/** DHKEM(X25519, HKDF-SHA256) of RFC 9180: the one KEM of the suite. */
export const kem = new DhkemX25519HkdfSha256()

const CURVE25519_P = 2n ** 255n - 19n
/** u of the points whose order divides 8 on Curve25519 or its twist; with them every shared secret is zero (RFC 7748 §6.1). */
const SMALL_ORDER: ReadonlySet<bigint> = new Set([
  0n,
  1n,
  CURVE25519_P - 1n,
  0xb8495f16056286fdb1329ceb8d09da6ac49ff1fae35616aeb8413b7c7aebe0n,
  0x57119fd0dd4e22d8868e1c58c45c44045bef839c55b1d0b1248c50a3bc959c5fn,
])

/**
 * A stranger's X25519 public key from base64url: 32 bytes that something can be sealed to. DecodeError for another
 * length and for points of small order, which RFC 9180 §7.1.4 refuses only when it comes to sealing.
 */
export function decodeHpkeKey(text: string, field = 'hpkeKey'): Uint8Array {
  const bytes = fromBase64Url(text, field, 32)
  // Little-endian; the highest bit counts for nothing (RFC 7748 §5).
  const u = toBigInt(Uint8Array.from(bytes).reverse()) & (2n ** 255n - 1n)
  if (SMALL_ORDER.has(u % CURVE25519_P)) throw new DecodeError(field, 'a point of small order')
  return bytes
}

/** An X25519 key pair for HPKE. */
export class HpkeKeyPair {
  /** Raw, 32 bytes. */
  readonly publicKey: Uint8Array
  readonly #secret: Uint8Array
  readonly #key: CryptoKey

  private constructor(publicKey: Uint8Array, secret: Uint8Array, key: CryptoKey) {
    this.publicKey = publicKey
    this.#secret = secret
    this.#key = key
  }

  /** `secret`: any 32 bytes (RFC 7748 clamps them). */
  static async fromSecret(secret: Uint8Array, field = 'hpkeSecret'): Promise<HpkeKeyPair> {
    if (secret.length !== 32) throw new DecodeError(field, 'an X25519 secret is 32 bytes')
    const kept = copyOf(secret)
    const key: CryptoKey = await kem.deserializePrivateKey(kept)
    const { x } = await crypto.subtle.exportKey('jwk', key)
    return new HpkeKeyPair(fromBase64Url(x as string, field, 32), kept, key)
  }

  /** The secret, to be sealed and stored. */
  secret(): Uint8Array {
    return this.#secret.slice()
  }

  cryptoKey(): CryptoKey {
    return this.#key
  }
}

export function generateHpkeKey(random: Random): Promise<HpkeKeyPair> {
  return HpkeKeyPair.fromSecret(random(32))
}

function curveSide(x: bigint): bigint {
  return (((x * x * x - 3n * x + b) % p) + p) % p
}

function power(base: bigint, exponent: bigint): bigint {
  let result = 1n
  let square = base
  for (let rest = exponent; rest > 0n; rest >>= 1n) {
    if (rest & 1n) result = (result * square) % p
    square = (square * square) % p
  }
  return result
}

function toBigInt(bytes: Uint8Array): bigint {
  return BigInt(`0x${toHex(bytes)}`)
}

function fromBigInt(value: bigint): Uint8Array {
  return fromHex(value.toString(16).padStart(64, '0'))
}
