/**
 * Seals what an authority remembers between two moves of a ceremony. A passphrase's scrypt at every move would hold up
 * everything else for a tenth of a second each time; so the key comes out of the authority's own HPKE secret, which the
 * passphrase has opened at the start.
 *
 *   key    = HKDF-SHA-256(hpkeSecret; info `milagro-ts-ceremony-record`), 32 bytes
 *   sealed = nonce (12, random) ‖ AES-256-GCM(key; nonce; AAD the ceremony's hash) ‖ tag (16)
 */
import { createCipheriv, createDecipheriv, hkdfSync } from 'node:crypto'
import { utf8 } from '@milagro-ts/crypto/bytes'
import type { Random } from '@milagro-ts/crypto/ports'
import { StoreError } from '@milagro-ts/store/store-error'

const INFO = utf8('milagro-ts-ceremony-record')
const NONCE = 12
const TAG = 16

export class RecordSeal {
  readonly #key: Uint8Array

  private constructor(key: Uint8Array) {
    this.#key = key
  }

  /** The secret's bytes are overwritten. */
  static of(hpkeSecret: Uint8Array): RecordSeal {
    const key = new Uint8Array(hkdfSync('sha256', hpkeSecret, new Uint8Array(), INFO, 32))
    hpkeSecret.fill(0)
    return new RecordSeal(key)
  }

  seal(plaintext: Uint8Array, ceremony: Uint8Array, random: Random): Uint8Array {
    const nonce = random(NONCE)
    const cipher = createCipheriv('aes-256-gcm', this.#key, nonce, { authTagLength: TAG }).setAAD(ceremony)
    return Uint8Array.from(
      Buffer.concat([nonce, cipher.update(plaintext), cipher.final(), cipher.getAuthTag()]),
    )
  }

  /** StoreError `damaged`: changed bytes, another ceremony's record, or another authority's. */
  open(sealed: Uint8Array, ceremony: Uint8Array): Uint8Array {
    const end = sealed.length - TAG
    if (end < NONCE) throw damaged()
    const decipher = createDecipheriv('aes-256-gcm', this.#key, sealed.subarray(0, NONCE), {
      authTagLength: TAG,
    })
      .setAAD(ceremony)
      .setAuthTag(sealed.subarray(end))
    try {
      return Uint8Array.from(Buffer.concat([decipher.update(sealed.subarray(NONCE, end)), decipher.final()]))
    } catch {
      throw damaged()
    }
  }
}

function damaged(): StoreError {
  return new StoreError(
    'damaged',
    'the record of a ceremony does not open: restore the database from a backup',
  )
}
