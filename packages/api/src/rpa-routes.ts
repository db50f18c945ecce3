/** The callbacks that a relying-party application offers to its RPS. Three of them carry the story; `state` lets an
 * RPS catch up, and `tree` is for groups whose permits are for nodes. */

import type { RouteTable } from './route.js'
import {
  AttributesField,
  Bytes,
  HpkeKeyField,
  IdCoreField,
  Jws,
  Strict,
  Text,
  TicketField,
  Uint32,
  UnixSeconds,
  UserCoreField,
} from './schemas.js'
import { LEAVES_JWS } from './statements.js'
import Type, { type Static } from './typebox.js'

/** A device asks to become an identity. `codeId` and `mac` come together (enrolment by code) or not at all (by hand). */
export const DeviceRegistration = Strict({
  kind: Type.Literal('device'),
  attributes: AttributesField,
  instance: Text(128),
  hpkeKey: HpkeKeyField,
  nonce: Bytes(32),
  codeId: Type.Optional(Bytes(16, 'known')),
  mac: Type.Optional(Bytes(32, 'known')),
})
/** A person asks to become a user of an enrolled device, which the RPS has seen vouch for it. */
export const UserRegistration = Strict({
  kind: Type.Literal('user'),
  idCore: IdCoreField,
  attributes: AttributesField,
  hpkeKey: HpkeKeyField,
  nonce: Bytes(32),
  codeId: Type.Optional(Bytes(16, 'known')),
  mac: Type.Optional(Bytes(32, 'known')),
})
/** A user who has just proven the old PIN (the RPS has checked it) asks for the next pinGen. */
export const PinChange = Strict({
  kind: Type.Literal('pin'),
  idCore: IdCoreField,
  userCore: Type.Optional(UserCoreField),
  pinGen: Uint32,
  hpkeKey: HpkeKeyField,
})

/** Everything from which the device recomputes idCore and userCore, and its ticket. */
export const Approved = Strict({
  state: Type.Literal('approved'),
  idCore: IdCoreField,
  leaf: Uint32,
  generation: Type.Integer({ minimum: 0, maximum: 0xffff }),
  factors: Type.Integer({ minimum: 0, maximum: 2 }),
  /** YYYY-MM-DD */
  issueDate: Type.String({ pattern: '^[0-9]{4}-[0-9]{2}-[0-9]{2}$' }),
  salt: Bytes(16),
  user: Type.Optional(
    Strict({ userCore: Type.Optional(UserCoreField), salt: Type.Optional(Bytes(16)), pinGen: Uint32 }),
  ),
  ticket: TicketField,
})
export type Approved = Static<typeof Approved>
export const RegistrationAnswer = Type.Union([
  Approved,
  Strict({ state: Type.Literal('pending') }),
  Strict({ state: Type.Literal('refused') }),
  Strict({ state: Type.Literal('expired') }),
])
export type RegistrationAnswer = Static<typeof RegistrationAnswer>

/** Notices in one request, at most: together they stay well below the 64 KiB of a body. */
export const NOTICES = 32
/** What happened to an identity. */
export const Notice = Strict({
  /** Random; the same whenever it is told again. */
  id: Bytes(16),
  event: Type.Enum(['login', 'locked', 'wrong-pin']),
  /** When it happened, by the RPS' clock. */
  at: UnixSeconds,
  idCore: Bytes(39, 'anyIdCore'),
  userCore: Type.Optional(UserCoreField),
  pinGen: Type.Optional(Uint32),
  amr: Type.Array(Type.Enum(['device', 'pin']), { maxItems: 2 }),
  audience: Text(256),
  slot: Uint32,
})
export type Notice = Static<typeof Notice>

export const rpaRoutes = {
  verify: {
    method: 'POST',
    path: '/v1/verify',
    summary: 'May this device, user or new PIN have keys? The same registration gets the same answer again.',
    caller: 'server',
    body: Type.Union([DeviceRegistration, UserRegistration, PinChange]),
    response: RegistrationAnswer,
    refuses: [
      'UNAUTHENTICATED',
      'CLOCK',
      'FORBIDDEN',
      'REPLAYED',
      'CONFLICT',
      'NOT_APPROVED',
      'EXPIRED',
      'BANNED',
      'REVOKED',
    ],
  },
  permit: {
    method: 'POST',
    path: '/v1/permit',
    summary: 'Is this identity (and this user on it) banned? If not: a signed statement for the authorities.',
    caller: 'server',
    body: Strict({ idCore: IdCoreField, slot: Uint32, userCore: Type.Optional(UserCoreField) }),
    response: Strict({
      statement: Jws(),
      attributes: AttributesField,
      instance: Type.String(),
      /** For an identity with PIN users: the highest pinGen a ticket was made for, and the one that logged in last. */
      account: Type.Optional(
        Strict({ issuedPinGen: Uint32, acceptedPinGen: Uint32, attributes: Type.Optional(AttributesField) }),
      ),
    }),
    refuses: ['UNAUTHENTICATED', 'CLOCK', 'FORBIDDEN', 'REPLAYED', 'EXPIRED', 'BANNED', 'REVOKED'],
  },
  tree: {
    method: 'POST',
    path: '/v1/tree',
    summary:
      'Which leaves get no permits: a signed statement for the authorities, and the leaves unless `number` is theirs.',
    caller: 'server',
    body: Strict({ slot: Uint32, number: Type.Optional(Uint32) }),
    response: Strict({ statement: Jws(), leaves: Type.Optional(Jws(LEAVES_JWS)) }),
    refuses: ['UNAUTHENTICATED', 'CLOCK', 'FORBIDDEN', 'REPLAYED', 'EXPIRED'],
  },
  authenticated: {
    method: 'POST',
    path: '/v1/authenticated',
    summary:
      'What happened, the oldest first: logins, PIN generations taken into use, accounts locked. At least once.',
    caller: 'server',
    body: Strict({ notices: Type.Array(Notice, { minItems: 1, maxItems: NOTICES }) }),
    /** The ids of notices of identities that this application never made; they are told as well, and not again. */
    response: Strict({ unknown: Type.Array(Bytes(16), { maxItems: NOTICES }) }),
    refuses: ['UNAUTHENTICATED', 'CLOCK', 'FORBIDDEN', 'REPLAYED'],
  },
  state: {
    method: 'GET',
    path: '/v1/state',
    summary: 'The numbered, signed revocation state: everything that is banned or revoked now.',
    caller: 'server',
    response: Strict({ state: Jws(8_388_608) }),
    refuses: ['UNAUTHENTICATED', 'CLOCK', 'FORBIDDEN', 'REPLAYED'],
  },
} as const satisfies RouteTable
