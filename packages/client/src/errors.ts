/**
 * What a device itself says no with. Beside these the SDK throws only what the API package does: `Refused` (a server
 * said no, with its code), `Unreachable` and `UnexpectedAnswer` (no usable answer).
 *
 * What may be repeated. The SDK repeats by itself what changes nothing when it comes twice: fetching documents, keys,
 * nonces and permits, a registration (the same bytes), a share (the same ticket), and proofs by the device alone, each
 * with a fresh nonce. A request that carries a PIN proof is sent once. If its answer is lost the attempt may have been
 * counted, so the SDK says OUTCOME_UNKNOWN and leaves the decision to the caller. Where the server has refused before
 * it looks at the PIN (EXPIRED, REPLAYED, CLOCK, WRONG_PERMIT, PERMIT_EXPIRED) a fresh proof is sent once more.
 */
import { UnexpectedAnswer, Unreachable } from '@milagro-ts/api/call'
import { type Code, Refused } from '@milagro-ts/api/problem'

/**
 * What to do about an error: `again` the same call may simply be made again; `later` after a while, or after somebody
 * has done something; `strike` again, but it may cost one of the PIN's three attempts; `never` with the same arguments.
 */
export type Advice = 'again' | 'later' | 'strike' | 'never'

export const CLIENT_CODES = {
  NOT_ENROLLED: { advice: 'never', means: 'The token store holds no identity yet.' },
  ALREADY_ENROLLED: {
    advice: 'never',
    means: 'The token store holds an identity of this instance, or this user, already.',
  },
  WHICH_IDENTITY: {
    advice: 'never',
    means: 'The token store holds several identities of that name: say which, by its M-Pin ID.',
  },
  UNKNOWN_USER: { advice: 'never', means: 'No user of this name is enrolled on this device.' },
  NO_AGREE_KEY: {
    advice: 'never',
    means: 'This device was enrolled without a key for TLS; its next generation gets one.',
  },
  UNKNOWN_SERVER: {
    advice: 'never',
    means: 'The group document names no server of this name that devices can agree on a key with.',
  },
  PIN_NEEDED: { advice: 'never', means: 'This identity, or this user, goes with a PIN.' },
  NO_SIGN_KEY: {
    advice: 'never',
    means: 'The registration authority gave this device no key to sign with.',
  },
  NO_ENCRYPT_KEY: {
    advice: 'never',
    means: 'The registration authority gave this device no key that opens files.',
  },
  UNKNOWN_RECIPIENT: {
    advice: 'never',
    means: 'The group document names no recipient of files of this name.',
  },
  SLOT_NEEDED: {
    advice: 'never',
    means: 'This name opens files for a slot alone: say which.',
  },
  SLOT_ENDED: {
    advice: 'never',
    means: 'The slot is over, and with it the key for what was encrypted to it.',
  },
  SLOT_AHEAD: {
    advice: 'later',
    means: 'The slot has not begun: its key comes with the slot, or `lead` slots ahead.',
  },
  NOT_A_RECIPIENT: { advice: 'never', means: 'The file is for others, not for this recipient.' },
  WRONG_GROUP: {
    advice: 'never',
    means: 'The group document is not the pinned group’s, does not hold, or went back.',
  },
  WRONG_IDENTITY: {
    advice: 'never',
    means:
      'The approval is for another key, vehicle, person or group: somebody in between changed something.',
  },
  WRONG_SHARE: { advice: 'later', means: 'Trust authorities gave key shares that do not verify.' },
  EPOCH_ENDED: {
    advice: 'never',
    means: 'The key is of a key epoch that has ended: this device was silent for too long. Enrol it anew.',
  },
  ENROLMENT_REFUSED: { advice: 'never', means: 'The registration authority refused.' },
  ENROLMENT_EXPIRED: { advice: 'never', means: 'The enrolment has run out; it takes a new code.' },
  STILL_PENDING: { advice: 'later', means: 'Nobody has approved yet; the same call goes on waiting.' },
  WRONG_ANSWER: {
    advice: 'later',
    means: 'The server’s answer contradicts the group document or the request.',
  },
  WRONG_BUNDLE: {
    advice: 'later',
    means: 'What the cache has of permits is cut off, of another slot or group, or went back.',
  },
  OUTCOME_UNKNOWN: {
    advice: 'strike',
    means: 'A request with a PIN proof got no answer; the attempt may have been counted.',
  },
  STORE_UNAVAILABLE: {
    advice: 'later',
    means: 'The token store cannot be read or written: a full disk, a read-only folder, no permission.',
  },
  STORE_LOCKED: {
    advice: 'later',
    means: 'Another process holds the token store and does not let go of it.',
  },
  STORE_DAMAGED: { advice: 'never', means: 'The token store cannot be read by this version.' },
  STORE_CHANGED: {
    advice: 'again',
    means: 'Somebody else changed the token store in the middle of this call.',
  },
  WRONG_UNLOCKER: { advice: 'never', means: 'The unlocker is missing, or not the one of this device key.' },
} as const satisfies Record<string, { advice: Advice; means: string }>

export type ClientCode = keyof typeof CLIENT_CODES

/** An authority whose share did not verify; `via` the relay it may have been changed there. */
export interface AccusedAuthority {
  readonly index: number
  readonly name: string
  readonly via: 'direct' | 'relay'
}

/** No message of this class holds a secret, an attribute or a PIN. */
export class ClientError extends Error {
  override readonly name = 'ClientError'
  readonly code: ClientCode
  /** For WRONG_SHARE. */
  readonly authorities: readonly AccusedAuthority[]

  constructor(
    code: ClientCode,
    detail?: string,
    { cause, authorities = [] }: { cause?: unknown; authorities?: readonly AccusedAuthority[] } = {},
  ) {
    super(`${code}: ${detail ?? CLIENT_CODES[code].means}`, cause === undefined ? {} : { cause })
    this.code = code
    this.authorities = authorities
  }
}

const REFUSALS: Partial<Record<Code, Advice>> = {
  TOO_SLOW: 'again',
  RETRY_LATER: 'later',
  LOCKED: 'later',
  BANNED: 'later',
  FROZEN: 'later',
  WRONG_SHARE: 'later',
  INTERNAL: 'later',
  EXPIRED: 'later',
  REPLAYED: 'later',
}

/** Whether a call of this SDK that ended with `error` is worth making again. Unknown errors: `never`. */
export function adviceOn(error: unknown): Advice {
  if (error instanceof ClientError) return CLIENT_CODES[error.code].advice
  if (error instanceof Refused) return REFUSALS[error.code] ?? 'never'
  // With a PIN proof in it these would have become OUTCOME_UNKNOWN.
  if (error instanceof Unreachable || error instanceof UnexpectedAnswer) return 'later'
  return 'never'
}
