/**
 * What fleet calls at the customer's own system: two hooks, at addresses that fleet's configuration names. Each call
 * carries `Authorization: MPIN-Request` (request-auth.ts), signed with the request key that the group document names
 * for fleet, so the receiver checks it as any server checks another. `id` is the same in every attempt.
 */

import type { RouteTable } from './route.js'
import { AttributesField, Bytes, IdCoreField, Strict, Uint32, UnixSeconds, UserCoreField } from './schemas.js'
import Type, { type Static } from './typebox.js'

/** A login, or an account that was locked. No attribute and no name: the receiver knows identities by `idCore`. */
export const LoginNotice = Strict({
  id: Bytes(16),
  event: Type.Enum(['login', 'locked']),
  at: UnixSeconds,
  idCore: IdCoreField,
  userCore: Type.Optional(UserCoreField),
  /** The vehicle's number in fleet's register; absent for an operator. */
  vehicle: Type.Optional(Type.Integer({ minimum: 1, maximum: 0xffff_ffff })),
  amr: Type.Array(Type.Enum(['device', 'pin']), { maxItems: 2 }),
  audience: Type.String({ minLength: 1, maxLength: 256 }),
  slot: Uint32,
})
export type LoginNotice = Static<typeof LoginNotice>

export const hookRoutes = {
  beforeRegistration: {
    method: 'POST',
    path: '/v1/before-registration',
    summary: 'May this registration be decided? `refuse` ends it for good; a note is shown to the operators.',
    caller: 'server',
    body: Strict({
      /** SHA-256 of the registration: the same registration asks with the same id. */
      id: Bytes(32),
      kind: Type.Enum(['device', 'user']),
      /** `code`: an enrolment code (or a template's) has been proven; `words`: an operator will compare six words. */
      by: Type.Enum(['code', 'words']),
      attributes: AttributesField,
      /** Of a device. */
      instance: Type.Optional(Type.String({ minLength: 1, maxLength: 128 })),
      /** Of the device on which a user enrols. */
      idCore: Type.Optional(IdCoreField),
    }),
    response: Strict({
      decision: Type.Enum(['allow', 'refuse']),
      note: Type.Optional(Type.String({ minLength: 1, maxLength: 500 })),
    }),
    refuses: [],
  },
  afterLogin: {
    method: 'POST',
    path: '/v1/after-login',
    summary: 'Somebody logged in, or was locked out. Told at least once, in order; `id` tells a repeat.',
    caller: 'server',
    body: LoginNotice,
    response: Strict({}),
    refuses: [],
  },
} as const satisfies RouteTable
