/**
 * Compact JWS (RFC 7515), as narrow as it goes: ES256 only, a header of exactly {alg, kid, typ}, a payload in
 * canonical JSON. `typ` keeps one kind of statement from being taken for another (RFC 8725 §3.11); the algorithm is
 * ours, never the header's choice.
 */
import { fromBase64Url, fromUtf8, toBase64Url } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { CompactSign, compactVerify, errors } from 'jose'
import { canonicalBytes } from './canonical-json.js'
import { type Es256PrivateKey, Es256PublicKey } from './keys.js'

/** One key whatever the kid, or the keys by kid. */
export type VerificationKeys = Es256PublicKey | { get(kid: string): Es256PublicKey | undefined }

export interface VerifiedJws {
  readonly kid: string
  readonly key: Es256PublicKey
  readonly payload: Readonly<Record<string, unknown>>
  /** The payload's bytes: two statements say the same when these are equal. */
  readonly bytes: Uint8Array
}

export function signJws(typ: string, payload: object, key: Es256PrivateKey, kid: string): Promise<string> {
  return new CompactSign(canonicalBytes(payload))
    .setProtectedHeader({ alg: 'ES256', kid, typ })
    .sign(key.cryptoKey())
}

/**
 * Null: not signed as `typ` by one of `keys` (another algorithm, type, kid or signature).
 * DecodeError: not a compact JWS at all, or a signed payload that is not a JSON object.
 */
export async function verifyJws(
  typ: string,
  token: string,
  keys: VerificationKeys,
): Promise<VerifiedJws | null> {
  const header = headerOf(token)
  const { alg, kid, typ: claimed, ...rest } = header
  // `crit`, `b64`, `jwk`, `jku`, `x5u`: nothing that a header could bend is understood here, so nothing is accepted.
  if (alg !== 'ES256' || claimed !== typ || typeof kid !== 'string' || Object.keys(rest).length > 0)
    return null
  const key = keys instanceof Es256PublicKey ? keys : keys.get(kid)
  if (key === undefined) return null
  const bytes = await signedBytes(token, key)
  return bytes === null ? null : { kid, key, bytes, payload: objectOf(bytes, 'jws.payload') }
}

async function signedBytes(token: string, key: Es256PublicKey): Promise<Uint8Array | null> {
  try {
    const { payload } = await compactVerify(token, await key.cryptoKey(), { algorithms: ['ES256'] })
    // The base64url of a signed text is the same text in one form only.
    if (toBase64Url(payload) !== token.split('.')[1]) throw new DecodeError('jws', 'not canonical base64url')
    return payload
  } catch (error) {
    if (error instanceof errors.JWSSignatureVerificationFailed) return null
    if (error instanceof errors.JOSEError) throw new DecodeError('jws', 'not a compact JWS')
    throw error
  }
}

function headerOf(token: string): Readonly<Record<string, unknown>> {
  const parts = token.split('.')
  if (parts.length !== 3) throw new DecodeError('jws', 'not a compact JWS')
  return objectOf(fromBase64Url(parts[0] as string, 'jws.header'), 'jws.header')
}

function objectOf(bytes: Uint8Array, field: string): Readonly<Record<string, unknown>> {
  const text = fromUtf8(bytes, field)
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    throw new DecodeError(field, 'not JSON')
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new DecodeError(field, 'not a JSON object')
  return value as Record<string, unknown>
}
