/** RFC 8785 (JCS): the one form in which documents and statements are hashed, signed and compared. */
import { utf8 } from '@milagro-ts/crypto/bytes'
import { sha256 } from '@milagro-ts/crypto/sha256'
import canonicalize from 'canonicalize'

/** UTF-8 of the canonical form; absent (`undefined`) members are left out. TypeError for what JSON can't say. */
export function canonicalBytes(value: object): Uint8Array {
  const text = canonicalize(value)
  if (text === undefined) throw new TypeError('not a JSON value')
  return utf8(text)
}

/** SHA-256 of the canonical form, 32 bytes. */
export function canonicalHash(value: object): Uint8Array {
  return sha256(canonicalBytes(value))
}
