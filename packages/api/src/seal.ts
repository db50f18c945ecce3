/**
 * HPKE (RFC 9180), base mode, one message per seal: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM, empty AAD.
 * Everything the seal is bound to goes into `info` (for a share: `shareContext`). A sealed message is `enc ‖ ct`.
 */

import { Aes256Gcm, CipherSuite, HkdfSha256, HpkeError } from '@hpke/core'
import { concat } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import type { Random } from '@milagro-ts/crypto/ports'
import { HpkeKeyPair, kem } from './keys.js'

const suite = new CipherSuite({ kem, kdf: new HkdfSha256(), aead: new Aes256Gcm() })
const ENC = 32
const TAG = 16

/**
 * `to`: the recipient's raw X25519 key, 32 bytes; `random` draws the ephemeral key (32 bytes).
 * DecodeError('hpkeKey') for a key of another length or of small order.
 */
export async function seal(
  to: Uint8Array,
  info: Uint8Array,
  plaintext: Uint8Array,
  random: Random,
): Promise<Uint8Array> {
  if (to.length !== 32) throw new DecodeError('hpkeKey', 'an X25519 key is 32 bytes')
  const ephemeral = await HpkeKeyPair.fromSecret(random(32))
  const recipientPublicKey = await kem.deserializePublicKey(to)
  const ekm = {
    privateKey: ephemeral.cryptoKey(),
    publicKey: await kem.deserializePublicKey(ephemeral.publicKey),
  }
  let sender: Awaited<ReturnType<typeof suite.createSenderContext>>
  try {
    sender = await suite.createSenderContext({ recipientPublicKey, info, ekm })
  } catch (cause) {
    // X25519 of a small-order point is all zero, which RFC 9180 §7.1.4 refuses.
    throw new DecodeError('hpkeKey', `not usable (${(cause as Error).name})`)
  }
  return concat(new Uint8Array(sender.enc), new Uint8Array(await sender.seal(plaintext)))
}

/** Null: not sealed to this key with this info, or changed on the way. DecodeError: too short to be a seal. */
export async function open(
  keyPair: HpkeKeyPair,
  info: Uint8Array,
  sealed: Uint8Array,
): Promise<Uint8Array | null> {
  if (sealed.length < ENC + TAG) throw new DecodeError('sealed', 'shorter than an encapsulated key and a tag')
  try {
    const recipient = await suite.createRecipientContext({
      recipientKey: keyPair.cryptoKey(),
      enc: sealed.slice(0, ENC),
      info,
    })
    return new Uint8Array(await recipient.open(sealed.slice(ENC)))
  } catch (error) {
    if (error instanceof HpkeError) return null
    throw error
  }
}
