/** PIN to α: PBKDF2-HMAC-SHA-256 by the platform's WebCrypto, then Hq (protocols.md §4). */
import { DecodeError } from '@milagro-ts/crypto/errors'
import type { IdCore } from '@milagro-ts/crypto/identity'
import { pinBytes, pinSalt, pinScalar } from '@milagro-ts/crypto/pin'
import type { Scalar } from '@milagro-ts/crypto/scalar'

export const LEAST_ITERATIONS = 600_000

/** Fewer than LEAST_ITERATIONS are for devices that can't do more in a second or two, and want saying so. */
export interface PinCost {
  readonly iterations: number
  readonly slowDevice?: true
}
export const DEFAULT_COST: PinCost = { iterations: LEAST_ITERATIONS }

/**
 * For a PIN that is being chosen. RangeError: no characters at all, or a cost below the floor. Any other text of any
 * length is a PIN; an empty one would be a factor that everybody has.
 */
export function checkNewPin(pin: string, { iterations, slowDevice }: PinCost): void {
  if (pinBytes(pin).length === 0) throw new RangeError('a PIN has at least one character')
  const least = slowDevice === true ? 1 : LEAST_ITERATIONS
  if (!Number.isInteger(iterations) || iterations < least || iterations > 0xffff_ffff)
    throw new RangeError(
      `at least ${LEAST_ITERATIONS} iterations, or fewer on a device that is said to be slow`,
    )
}

export interface PinAccount {
  readonly idCore: IdCore
  readonly userCore: Uint8Array
  readonly pinGen: number
}

/** α of a typed PIN (NFKC). Secret. DecodeError for text that isn't Unicode (half a surrogate pair). */
export async function stretchPin(pin: string, account: PinAccount, iterations: number): Promise<Scalar> {
  if (iterations < 1) throw new DecodeError('iterations', 'at least one')
  // Copies, because WebCrypto's types want bytes that nobody shares.
  const secret = new Uint8Array(pinBytes(pin))
  const salt = new Uint8Array(pinSalt(account.idCore, account.userCore, account.pinGen))
  const key = await crypto.subtle.importKey('raw', secret, 'PBKDF2', false, ['deriveBits'])
  const bits = await crypto.subtle.deriveBits({ name: 'PBKDF2', hash: 'SHA-256', salt, iterations }, key, 256)
  return pinScalar(new Uint8Array(bits))
}
