/**
 * Seals records in the database under a secret that is in memory: what an authority remembers between two moves of a
 * ceremony, the keys of its groups, and under those the groups' shares. A passphrase's scrypt each time would hold up
 * everything else for a tenth of a second; the first secret is the authority's own HPKE secret, which the passphrase has
 * opened at the start.
 *
 *   key    = HKDF-SHA-256(secret; info `milagro-ts-` ‖ use), 32 bytes
 *   sealed = nonce (12, random) ‖ AES-256-GCM(key; nonce; AAD what the record belongs to) ‖ tag (16)
 */
import { createCipheriv, createDecipheriv, hkdfSync } from 'node:crypto'
import { utf8 } from '@milagro-ts/crypto/bytes'
import type { Random } from '@milagro-ts/crypto/ports'
import { StoreError } from '@milagro-ts/store/store-error'

/** No two kinds of record open each other. */
export type RecordUse = 'ceremony-record' | 'group-key' | 'master-shares'

const NONCE = 12
const TAG = 16

export class RecordSeal {
  readonly #key: Uint8Array
  readonly #use: RecordUse

  private constructor(key: Uint8Array, use: RecordUse) {
    this.#key = key
    this.#use = use
  }

  /** The secret's bytes are overwritten. */
  static of(secret: Uint8Array, use: RecordUse): RecordSeal {
    const key = new Uint8Array(hkdfSync('sha256', secret, new Uint8Array(), utf8(`milagro-ts-${use}`), 32))
    secret.fill(0)
    return new RecordSeal(key, use)
  }

  seal(plaintext: Uint8Array, belongsTo: Uint8Array, random: Random): Uint8Array {
    const nonce = random(NONCE)
    const cipher = createCipheriv('aes-256-gcm', this.#key, nonce, { authTagLength: TAG }).setAAD(belongsTo)
    return Uint8Array.from(
      Buffer.concat([nonce, cipher.update(plaintext), cipher.final(), cipher.getAuthTag()]),
    )
  }

  /** StoreError `damaged`: changed bytes, a record that belongs to something else, or another authority's. */
  open(sealed: Uint8Array, belongsTo: Uint8Array): Uint8Array {
    const end = sealed.length - TAG
    if (end < NONCE) throw this.#damaged()
    const decipher = createDecipheriv('aes-256-gcm', this.#key, sealed.subarray(0, NONCE), {
      authTagLength: TAG,
    })
      .setAAD(belongsTo)
      .setAuthTag(sealed.subarray(end))
    try {
      return Uint8Array.from(Buffer.concat([decipher.update(sealed.subarray(NONCE, end)), decipher.final()]))
    } catch {
      throw this.#damaged()
    }
  }

  #damaged(): StoreError {
    return new StoreError('damaged', `a ${this.#use} does not open: restore the database from a backup`)
  }
}
