/**
 * Secrets inside the database: AES-256-GCM under one data key, which itself lies in the passphrase's sealed file.
 * Associated data names the row, so that a sealed value moved to another row does not open there.
 *
 *   nonce (12, random) ‖ ciphertext ‖ tag (16)
 */
import { createCipheriv, createDecipheriv } from 'node:crypto'
import type { Random } from '@milagro-ts/crypto/ports'
import { StoreError } from '@milagro-ts/store/store-error'

const NONCE = 12
const TAG = 16

export class RowSeal {
  readonly #key: Uint8Array
  readonly #random: Random

  /** @param key 32 bytes. */
  constructor(key: Uint8Array, random: Random) {
    if (key.length !== 32) throw new RangeError('a data key has 32 bytes')
    this.#key = key
    this.#random = random
  }

  /** @param row What the value belongs to, for example `code:<hex id>`. */
  seal(row: string, plaintext: Uint8Array): Uint8Array {
    const nonce = this.#random(NONCE)
    const cipher = createCipheriv('aes-256-gcm', this.#key, nonce, { authTagLength: TAG }).setAAD(
      Buffer.from(row),
    )
    return Uint8Array.from(
      Buffer.concat([nonce, cipher.update(plaintext), cipher.final(), cipher.getAuthTag()]),
    )
  }

  /** Throws StoreError `damaged` when the value was changed, moved, or sealed under another key. */
  open(row: string, sealed: Uint8Array): Uint8Array {
    const bytes = Buffer.from(sealed)
    const end = bytes.length - TAG
    if (end < NONCE) throw new StoreError('damaged', `the sealed value of a row is cut short (${row})`)
    const decipher = createDecipheriv('aes-256-gcm', this.#key, bytes.subarray(0, NONCE), {
      authTagLength: TAG,
    })
      .setAAD(Buffer.from(row))
      .setAuthTag(bytes.subarray(end))
    try {
      return Uint8Array.from(Buffer.concat([decipher.update(bytes.subarray(NONCE, end)), decipher.final()]))
    } catch (error) {
      throw new StoreError('damaged', `the sealed value of a row does not open (${row})`, { cause: error })
    }
  }
}
