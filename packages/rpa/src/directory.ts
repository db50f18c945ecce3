/**
 * The port that a customer's application implements: who is who, and who is banned. The library checks what a
 * registration proves, makes identities and signs; the directory decides and remembers.
 *
 *   RPS              library                                   directory
 *   verify     -->   codeSecret(codeId)                   -->  secret of the code
 *                    recomputes the MAC
 *                    decide(registration)                 -->  binds the code, allots leaf and generation, stores the
 *                                                              identity that `registration.identity(…)` makes
 *                    signs the ticket, keepTicket(…)      -->  stores it with the registration
 *   permit     -->   standing(idCore, userCore)           -->  in force, banned, revoked
 *   authenticated -> happened(…)                          -->  last seen, PIN generation in use, locked
 *   state, tree -->  revocations()                        -->  everything banned and revoked, numbered
 */
import type { Attributes, Factors, IdCore } from '@milagro-ts/crypto/identity'

/** What an identity was made of: everything from which the device recomputes it. */
export interface IdentityRecord {
  readonly idCore: IdCore
  readonly leaf: number
  readonly generation: number
  readonly factors: Factors
  /** YYYY-MM-DD */
  readonly issueDate: string
  /** 16 bytes. */
  readonly salt: Uint8Array
}

/** `userCore` is NO_USER, and `salt` absent, for the PIN of a personal device. */
export interface UserRecord {
  readonly userCore: Uint8Array
  readonly salt?: Uint8Array | undefined
  readonly pinGen: number
}

/** What the directory allots, inside its own transaction. */
export interface Allotted {
  /** Unique in the group and never used again, not even after a restore. */
  readonly leaf: number
  readonly generation: number
  readonly factors: Factors
}

interface Registration {
  /** SHA-256 of everything that was sent. The same key with another digest is a contradiction. */
  readonly digest: Uint8Array
  /** Raw X25519 enrolment key, 32 bytes: names this registration. */
  readonly hpkeKey: Uint8Array
}
interface Authenticated {
  /**
   * The code whose MAC has held. Without a code the registration proves nothing yet: it waits until a person has
   * compared `words` with the ones that the device shows.
   */
  readonly codeId: Uint8Array | null
  readonly words: string
  /** 32 bytes of the device's. */
  readonly nonce: Uint8Array
  readonly attributes: Attributes
}

export interface DeviceRegistration extends Registration, Authenticated {
  readonly kind: 'device'
  readonly instance: string
}
export interface UserRegistration extends Registration, Authenticated {
  readonly kind: 'user'
  readonly idCore: IdCore
}
export interface PinRegistration extends Registration {
  readonly kind: 'pin'
  readonly idCore: IdCore
  readonly userCore: Uint8Array
  /** The generation whose PIN has just been proven. */
  readonly pinGen: number
}
export type CheckedRegistration = DeviceRegistration | UserRegistration | PinRegistration

export interface Approval {
  readonly state: 'approved'
  readonly identity: IdentityRecord
  /** With the purpose `pin`. */
  readonly user?: UserRecord | undefined
  /** What the ticket is for: `device` and more for a device, `pin` alone for a user or a new PIN. */
  readonly purposes: readonly ('device' | 'pin' | 'agree' | 'sign' | 'encrypt')[]
  /** The ticket kept by `keepTicket`, if there is one. */
  readonly ticket?: readonly string[] | undefined
}
export type Decision = Approval | { readonly state: 'pending' | 'refused' | 'expired' }

export interface Standing {
  readonly state: 'in force' | 'revoked'
  /** Who of the two is banned, if any. */
  readonly banned?: 'device' | 'user' | undefined
  readonly attributes: Attributes
  readonly instance: string
  /** Of the user asked for; of the device's own PIN if it has one and no user was asked for. */
  readonly account?:
    | {
        readonly issuedPinGen: number
        readonly acceptedPinGen: number
        readonly attributes?: Attributes | undefined
      }
    | undefined
}

export interface Revoked {
  readonly idCore: IdCore
  /**
   * Unix seconds. Authorities refuse a state that leaves it out before its keys have ended. Where it isn't said, nobody holds
   * the RA to that. May change together with the number of the state only.
   */
  readonly since?: number | undefined
  /**
   * All keys that it may have are of ended key epochs (api/ended-keys.ts), so states leave it out. May change together with
   * the number of the state only.
   */
  readonly keysEnded?: boolean | undefined
}

export interface Revocations {
  /** Of the newest event; goes up only. */
  readonly number: number
  readonly banned: readonly { readonly idCore: IdCore; readonly userCore?: Uint8Array | undefined }[]
  readonly revoked: readonly Revoked[]
}

export interface Happening {
  /** 16 random bytes as base64url, the same whenever it is told again. */
  readonly id: string
  /** Unix seconds, by the RPS' clock. */
  readonly at: number
  readonly event: 'login' | 'locked' | 'wrong-pin'
  readonly idCore: IdCore
  readonly userCore: Uint8Array
  readonly pinGen?: number | undefined
  readonly amr: readonly ('device' | 'pin')[]
  readonly audience: string
  readonly slot: number
}

export interface Directory {
  /** The 16 secret bytes of a code, whether or not it may still be used; null for an unknown one. */
  codeSecret(codeId: Uint8Array): Promise<Uint8Array | null>
  /**
   * Decides once and for all, atomically: of two registrations that race for one code, one wins. The same digest again
   * gets the same decision again. Refuses (Refused) with NOT_APPROVED, CONFLICT, EXPIRED, BANNED, REVOKED.
   */
  decide(registration: CheckedRegistration): Promise<Decision>
  /**
   * Keeps `ticket` for the registration of `hpkeKey`, provided that the one kept so far is still `former`; returns
   * the one kept after that, so that of two answers that race both hand out one ticket.
   */
  keepTicket(
    hpkeKey: Uint8Array,
    ticket: readonly string[],
    former: readonly string[] | undefined,
  ): Promise<readonly string[]>
  /** Null when the identity, or the user on it, is unknown. */
  standing(idCore: IdCore, userCore: Uint8Array): Promise<Standing | null>
  revocations(): Promise<Revocations>
  /**
   * The oldest first; all of them are taken in, or none. Told at least once, so the same may come again under the same
   * id. Returns those of identities that nobody knows.
   */
  happened(happenings: readonly Happening[]): Promise<readonly Happening[]>
}
