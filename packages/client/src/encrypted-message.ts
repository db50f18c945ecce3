/**
 * A small message to a name, whole in memory (Boneh–Franklin as in crypto/ibe.ts, then AES-256-GCM under M).
 *
 *   U ‖ V ‖ W ‖ AES-256-GCM(M; nonce 0, additional data `milagro message` ‖ U ‖ V ‖ W; message)
 *
 * 176 bytes more than the message. M is for this one message, so the nonce is zero. A file's stanza has U ‖ V ‖ W alone as its
 * additional data (encrypted-file.ts), so that its sealed key is no message that a recipient might show to somebody. It names neither recipient nor key epoch nor slot: whoever carries it
 * says them, and under others it doesn't open. Who sent it, it doesn't say either: sign it for that. Files, and messages to
 * many, are encrypted-file.ts.
 */
import { concat, utf8 } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { ENCAPSULATION_LENGTH, type EncryptionTerms, encapsulate } from '@milagro-ts/crypto/ibe'
import type { Random } from '@milagro-ts/crypto/ports'

/** Bytes of a message; a longer one is a file. */
export const MOST_MESSAGE = 64 * 1024
export const GCM_TAG = 16

/** RangeError for more than MOST_MESSAGE bytes. */
export async function sealMessage(
  terms: EncryptionTerms,
  message: Uint8Array,
  random: Random,
): Promise<Uint8Array> {
  if (message.length > MOST_MESSAGE) throw new RangeError(`a message has at most ${MOST_MESSAGE} bytes`)
  const { encapsulation, key } = encapsulate(terms, random)
  try {
    return concat(encapsulation, await sealUnder(key, labelled(encapsulation), message))
  } finally {
    key.fill(0)
  }
}

/**
 * The message, or null where it was made for another key, or changed.
 *
 * @param decapsulate M of U ‖ V ‖ W, or null: `Device.decapsulate`, or that of a public name, with key epoch and slot.
 * @throws DecodeError for a length that no sealed message has, or a U that is no point of G2; and what `decapsulate` throws.
 */
export async function openMessage(
  sealed: Uint8Array,
  decapsulate: (encapsulation: Uint8Array) => Promise<Uint8Array | null>,
): Promise<Uint8Array | null> {
  const more = sealed.length - ENCAPSULATION_LENGTH - GCM_TAG
  if (more < 0 || more > MOST_MESSAGE)
    throw new DecodeError(
      'message',
      `${ENCAPSULATION_LENGTH + GCM_TAG} bytes and at most ${MOST_MESSAGE} more expected`,
    )
  const encapsulation = sealed.slice(0, ENCAPSULATION_LENGTH)
  const key = await decapsulate(encapsulation)
  if (key === null) return null
  try {
    return await openUnder(key, labelled(encapsulation), sealed.subarray(ENCAPSULATION_LENGTH))
  } finally {
    key.fill(0)
  }
}

const labelled = (encapsulation: Uint8Array): Uint8Array => concat(utf8('milagro message'), encapsulation)

/** AES-256-GCM(M; plaintext), for the one plaintext that M is for. */
export async function sealUnder(
  key: Uint8Array,
  additionalData: Uint8Array,
  plaintext: Uint8Array,
): Promise<Uint8Array> {
  const sealed = await crypto.subtle.encrypt(
    gcm(additionalData),
    await keyOf(key, 'encrypt'),
    plaintext.slice(),
  )
  return new Uint8Array(sealed)
}

/** Null for what was changed. */
export async function openUnder(
  key: Uint8Array,
  additionalData: Uint8Array,
  sealed: Uint8Array,
): Promise<Uint8Array | null> {
  const imported = await keyOf(key, 'decrypt')
  try {
    return new Uint8Array(await crypto.subtle.decrypt(gcm(additionalData), imported, sealed.slice()))
  } catch {
    // The platform says OperationError and no more.
    return null
  }
}

const gcm = (additionalData: Uint8Array) => ({
  name: 'AES-GCM',
  iv: new Uint8Array(12),
  additionalData: additionalData.slice(),
})
const keyOf = (key: Uint8Array, usage: 'encrypt' | 'decrypt') =>
  crypto.subtle.importKey('raw', key.slice(), 'AES-GCM', false, [usage])
