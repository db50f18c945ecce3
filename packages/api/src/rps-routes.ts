/** Routes of the authentication server. */

import { SealedShare } from './dta-routes.js'
import { GroupDocument } from './group-document.js'
import { KeyRotationFields } from './key-rotation.js'
import type { RouteTable } from './route.js'
import { DeviceRegistration, RegistrationAnswer } from './rpa-routes.js'
import {
  AttributesField,
  AuthenticatedFields,
  Bytes,
  BytesUpTo,
  HOLDS,
  HpkeKeyField,
  IdCoreField,
  Jws,
  LoginFields,
  PermitField,
  PurposeField,
  RevisionQuery,
  ServerName,
  SlotQuery,
  Strict,
  TicketField,
  Uint32,
  UnixSeconds,
  UserCoreField,
} from './schemas.js'
import { SlotKeyRequest } from './slot-key-request.js'
import Type from './typebox.js'

/** A user's registration carries the device's `sign` message over user-enrolment payload (payloads.ts). */
export const VouchedUserRegistration = Strict({
  kind: Type.Literal('user'),
  attributes: AttributesField,
  hpkeKey: HpkeKeyField,
  nonce: Bytes(32),
  codeId: Type.Optional(Bytes(16, 'known')),
  mac: Type.Optional(Bytes(32, 'known')),
  vouch: LoginFields,
})

/** The trust authorities as an RPS has seen them. `live` ones are without trouble; `needed` is t. */
export const AuthoritiesSeen = Strict({
  live: Type.Integer({ minimum: 0, maximum: 255 }),
  needed: Type.Integer({ minimum: 1, maximum: 255 }),
  authorities: Type.Array(
    Strict({
      index: Type.Integer({ minimum: 1, maximum: 255 }),
      name: ServerName,
      trouble: Type.Optional(Type.Enum(['silent', 'refusing', 'other-epoch', 'quarantined'])),
      /** What it refuses with. */
      code: Type.Optional(Type.String()),
      /** Since the RPS was started. */
      answeredAt: Type.Optional(UnixSeconds),
      wrongShares: Type.Integer({ minimum: 0 }),
      quarantinedUntil: Type.Optional(UnixSeconds),
      /** Its departure, until which it serves. */
      leavesAt: Type.Optional(UnixSeconds),
      /** Of the last wrong share: what the RPS' log and the authority's own record can be searched for. */
      requestHash: Type.Optional(Bytes(32)),
      answerHash: Type.Optional(Bytes(32)),
    }),
    { maxItems: 255 },
  ),
})

/** Of the authority that the RPS passes something on to. */
const RelayParams = Strict({ index: Type.String({ pattern: '^[1-9][0-9]{0,2}$', [HOLDS]: 'known' }) })

const AuthorityIndex = Type.Integer({ minimum: 1, maximum: 255 })
/** Of as many authorities as have answered. */
const SealedShares = Type.Array(SealedShare, { minItems: 1, maxItems: 255 })

const proofRefusals = [
  'WRONG_PROOF',
  'WRONG_PIN',
  'LOCKED',
  'BANNED',
  'REVOKED',
  'WRONG_PERMIT',
  'PERMIT_EXPIRED',
  'EXPIRED',
  'REPLAYED',
  'CLOCK',
  // A verification composes the permit that the RPS doesn't hold yet.
  'WRONG_SHARE',
  'FROZEN',
] as const

export const rpsRoutes = {
  group: {
    method: 'GET',
    path: '/v1/group',
    summary: 'The group document in force; check it against the pinned groupId.',
    caller: 'open',
    query: RevisionQuery,
    response: GroupDocument,
    refuses: [],
  },
  publishRevision: {
    method: 'POST',
    path: '/v1/group',
    summary: 'A next revision; it proves itself by t signatures of the former one’s authorities.',
    caller: 'open',
    body: Strict({ document: GroupDocument }),
    response: Strict({ revision: Uint32 }),
    refuses: ['NOT_APPROVED', 'CONFLICT'],
    bodyLimit: 1_048_576,
  },
  time: {
    method: 'GET',
    path: '/v1/time',
    summary: 'The server’s time, signed over the caller’s nonce, for devices without a clock.',
    caller: 'open',
    query: Strict({ nonce: Bytes(32) }),
    response: Strict({ time: Jws() }),
    refuses: [],
  },
  jwks: {
    method: 'GET',
    path: '/v1/jwks',
    summary: 'Public keys of tokens and receipts (RFC 7517).',
    caller: 'open',
    response: Strict({
      keys: Type.Array(
        Strict({
          kty: Type.Literal('EC'),
          crv: Type.Literal('P-256'),
          x: Bytes(32),
          y: Bytes(32),
          kid: Type.String(),
          use: Type.Literal('sig'),
          alg: Type.Literal('ES256'),
        }),
      ),
    }),
    refuses: [],
  },
  register: {
    method: 'POST',
    path: '/v1/registrations',
    summary: 'Ask for an identity, and ask again (the same bytes) for what became of it.',
    caller: 'open',
    body: Type.Union([DeviceRegistration, VouchedUserRegistration]),
    response: RegistrationAnswer,
    refuses: ['NOT_APPROVED', 'CONFLICT', ...proofRefusals],
  },
  relayShare: {
    method: 'POST',
    path: '/v1/authorities/:index/shares',
    summary: 'Fetch a sealed share from an authority that the device can’t reach itself.',
    caller: 'open',
    params: RelayParams,
    body: Strict({ ticket: TicketField, purpose: PurposeField }),
    response: SealedShare,
    refuses: ['NOT_APPROVED', 'EXPIRED', 'ALREADY_ISSUED', 'FROZEN', 'WRONG_SHARE'],
  },
  relaySlotKey: {
    method: 'POST',
    path: '/v1/authorities/:index/slot-keys',
    summary: 'Fetch a sealed share of a slot key from an authority that the device can’t reach itself.',
    caller: 'open',
    params: RelayParams,
    body: SlotKeyRequest,
    response: SealedShare,
    refuses: [
      'NOT_APPROVED',
      'EXPIRED',
      'WRONG_PERMIT',
      'WRONG_PROOF',
      'BANNED',
      'REVOKED',
      'FROZEN',
      'WRONG_SHARE',
    ],
  },
  nonce: {
    method: 'POST',
    path: '/v1/nonces',
    summary: 'A nonce for one login: single use, 30 seconds.',
    caller: 'open',
    body: Strict({}),
    response: Strict({
      nonce: Bytes(32),
      slot: Uint32,
      deviceEpoch: Uint32,
      pinEpoch: Uint32,
      expiresAt: UnixSeconds,
    }),
    refuses: [],
  },
  permit: {
    method: 'POST',
    path: '/v1/permits',
    summary: 'The identity’s time permit for the slot of its device proof (audience: the RPS itself).',
    caller: 'open',
    body: Strict({ login: LoginFields }),
    response: Strict({
      permit: PermitField,
      slot: Uint32,
      endsAt: UnixSeconds,
      /** Of the next slot, where the RPS holds it already. */
      next: Type.Optional(PermitField),
    }),
    refuses: proofRefusals,
  },
  login: {
    method: 'POST',
    path: '/v1/logins',
    summary: 'M-Pin: device proof, and PIN proof where asked, to an access token.',
    caller: 'open',
    body: Strict({ login: LoginFields, authOtt: Type.Optional(Type.Boolean()) }),
    response: Strict({
      accessToken: Jws(),
      expiresIn: Type.Integer({ minimum: 0, maximum: 300 }),
      authenticated: AuthenticatedFields,
      permit: PermitField,
      /** Of the slot after it, where the RPS holds it already: it counts from the begin of that slot. */
      next: Type.Optional(PermitField),
      authOtt: Type.Optional(Bytes(32)),
    }),
    refuses: proofRefusals,
  },
  redeemOtt: {
    method: 'POST',
    path: '/v1/otts/redeem',
    summary: 'A relying party turns a one-time authOTT into who logged in, once.',
    caller: 'server',
    body: Strict({ authOtt: Bytes(32, 'known') }),
    response: AuthenticatedFields,
    refuses: ['UNAUTHENTICATED', 'CLOCK', 'FORBIDDEN', 'REPLAYED', 'EXPIRED', 'BANNED', 'REVOKED'],
  },
  verifyOnePass: {
    method: 'POST',
    path: '/v1/verifications',
    summary:
      'A service that was sent `Authorization: MPIN` asks whether it holds; audience must be the service’s own.',
    caller: 'server',
    body: Strict({
      message: BytesUpTo(1024, 1, 'message'),
      /** Of the connection that it came on (RFC 9266), where there is one: it counts if the audience's policy wants it. */
      tlsExporter: Type.Optional(Bytes(32, 'bytes')),
    }),
    response: AuthenticatedFields,
    refuses: ['UNAUTHENTICATED', 'FORBIDDEN', ...proofRefusals],
  },
  sign: {
    method: 'POST',
    path: '/v1/signatures',
    summary: 'A signed message is checked and answered with a signed receipt.',
    caller: 'open',
    body: Strict({ message: LoginFields, payload: BytesUpTo(32_768, 0) }),
    response: Strict({ receipt: Jws() }),
    refuses: proofRefusals,
  },
  changePin: {
    method: 'POST',
    path: '/v1/pin-changes',
    summary:
      'After a proof of the old PIN: a ticket for the next pinGen. The same request gets the same ticket again.',
    caller: 'open',
    body: Strict({ message: LoginFields, hpkeKey: HpkeKeyField }),
    response: RegistrationAnswer,
    refuses: ['NOT_APPROVED', 'CONFLICT', ...proofRefusals],
  },
  rotateKey: {
    method: 'POST',
    path: '/v1/key-rotations',
    summary:
      'Delta shares to a later key epoch, against proofs of the former keys: sealed by the authorities to the device’s key.',
    caller: 'open',
    body: Strict({
      message: LoginFields,
      ...KeyRotationFields,
      /**
       * Indices of authorities whose shares the device couldn't use a moment ago, n − t at most: the RPS, which can't tell
       * good shares from wrong ones, waits for others. Not signed, since it is worth nothing but time.
       */
      without: Type.Optional(Type.Array(AuthorityIndex, { minItems: 1, maxItems: 254 })),
    }),
    response: Strict({ device: Type.Optional(SealedShares), pin: Type.Optional(SealedShares) }),
    refuses: ['EPOCH_ENDED', ...proofRefusals],
  },
  whoami: {
    method: 'GET',
    path: '/v1/whoami',
    summary: 'A protected sample route: who the access token or the one-pass credential speaks for.',
    caller: 'identity',
    response: AuthenticatedFields,
    refuses: ['UNAUTHENTICATED', ...proofRefusals],
  },
  identity: {
    method: 'GET',
    path: '/v1/identities/:idCore',
    summary:
      'Attributes of an identity (and of a user on it) for a service; with `slot` its permit of that slot, or a refusal.',
    caller: 'server',
    params: Strict({ idCore: IdCoreField }),
    query: Strict({ userCore: Type.Optional(UserCoreField), slot: Type.Optional(SlotQuery) }),
    response: Strict({
      attributes: AttributesField,
      instance: Type.String(),
      user: Type.Optional(AttributesField),
      /** Of the slot that was asked for. */
      permit: Type.Optional(PermitField),
    }),
    refuses: [
      'UNAUTHENTICATED',
      'CLOCK',
      'REPLAYED',
      'FORBIDDEN',
      'BANNED',
      'REVOKED',
      'EXPIRED',
      'PERMIT_EXPIRED',
      'WRONG_SHARE',
      'FROZEN',
    ],
  },
  authorities: {
    method: 'GET',
    path: '/v1/authorities',
    summary: 'How the trust authorities are, for a service: who answers, who refuses, who gave wrong shares.',
    caller: 'server',
    response: AuthoritiesSeen,
    refuses: ['UNAUTHENTICATED', 'CLOCK', 'REPLAYED', 'FORBIDDEN'],
  },
  events: {
    method: 'GET',
    path: '/v1/events',
    summary:
      'Server-sent events: first `state` (mpin-state+jwt), then `event` (mpin-event+jwt), id = number; Last-Event-ID resumes.',
    caller: 'server',
    stream: 'text/event-stream',
    refuses: ['UNAUTHENTICATED', 'CLOCK', 'REPLAYED', 'FORBIDDEN'],
  },
  pushEvent: {
    method: 'POST',
    path: '/v1/rpa-events',
    summary: 'The RPA pushes a numbered, RA-signed event: ban, un-ban, revoke, unlock, account.',
    caller: 'open',
    body: Strict({ event: Jws() }),
    response: Strict({ number: Uint32 }),
    refuses: ['NOT_APPROVED', 'CONFLICT', 'EXPIRED'],
  },
} as const satisfies RouteTable
