/**
 * The binder of a PSK in a ClientHello (RFC 8446 §4.2.11.2, §7.1), of external PSKs with SHA-256: who offers it has the PSK.
 * OpenSSL looks at it as well, and what it finds decides. This is to know beforehand for whom others are to be asked.
 */
import { createHash, createHmac, timingSafeEqual } from 'node:crypto'
import { concat, utf8 } from '@milagro-ts/crypto/bytes'

export interface OfferedPsk {
  /** The ClientHello, its four bytes of type and length included, up to where its list of binders begins. */
  readonly before: Uint8Array
  readonly binder: Uint8Array
}

export function binderHolds({ before, binder }: OfferedPsk, psk: Uint8Array): boolean {
  const early = hmac(ZEROS, psk)
  const finished = hmac(hmac(early, BINDER_KEY), FINISHED_KEY)
  const expected = hmac(finished, createHash('sha256').update(before).digest())
  return binder.length === expected.length && timingSafeEqual(binder, expected)
}

const ZEROS = new Uint8Array(32)
const hmac = (key: Uint8Array, data: Uint8Array): Buffer => createHmac('sha256', key).update(data).digest()

/** What HKDF-Expand-Label hashes for 32 bytes: HkdfLabel, and the number of the one block. */
function labelled(label: string, context: Uint8Array): Uint8Array {
  const name = utf8(`tls13 ${label}`)
  const lengths = [Uint8Array.of(0, 32, name.length), name, Uint8Array.of(context.length), context]
  return concat(...lengths, Uint8Array.of(1))
}
const BINDER_KEY = labelled('ext binder', createHash('sha256').digest())
const FINISHED_KEY = labelled('finished', new Uint8Array())
