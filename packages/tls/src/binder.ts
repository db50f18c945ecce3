/**
 * The binder of a PSK in a ClientHello (RFC 8446 §4.2.11.2, §7.1), of external PSKs with SHA-256: who offers it has the PSK.
 * OpenSSL looks at it as well, and what it finds decides. This is to know beforehand for whom others are to be asked.
 */
import { createHash } from 'node:crypto'
import { concat, equalBytes, utf8 } from '@milagro-ts/crypto/bytes'
import { hmacSha256, sha256 } from '@milagro-ts/crypto/sha256'

export interface OfferedPsk {
  /** The ClientHello, its four bytes of type and length included, up to where its list of binders begins. */
  readonly before: Uint8Array
  readonly binder: Uint8Array
}

export function binderHolds({ before, binder }: OfferedPsk, psk: Uint8Array): boolean {
  const early = hmacSha256(ZEROS, psk)
  const finished = hmacSha256(hmacSha256(early, BINDER_KEY), FINISHED_KEY)
  return equalBytes(binder, hmacSha256(finished, createHash('sha256').update(before).digest()))
}

const ZEROS = new Uint8Array(32)

/** What HKDF-Expand-Label hashes for 32 bytes: HkdfLabel, and the number of the one block. */
function labelled(label: string, context: Uint8Array): Uint8Array {
  const name = utf8(`tls13 ${label}`)
  const lengths = [Uint8Array.of(0, 32, name.length), name, Uint8Array.of(context.length), context]
  return concat(...lengths, Uint8Array.of(1))
}
const BINDER_KEY = labelled('ext binder', sha256(new Uint8Array()))
const FINISHED_KEY = labelled('finished', new Uint8Array())
