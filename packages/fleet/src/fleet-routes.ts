/**
 * The operators' routes of fleet. Every one wants an operator's access token; the RPS' callbacks (rpaRoutes) are
 * mounted beside them. Enrolment codes and drivers' attributes stand in answers only.
 */
import { Recipients } from '@milagro-ts/api/group-document'
import type { Code } from '@milagro-ts/api/problem'
import type { RouteTable } from '@milagro-ts/api/route'
import { AuthoritiesSeen } from '@milagro-ts/api/rps-routes'
import {
  AbandonmentsField,
  AttributesField,
  Bytes,
  GroupIdField,
  IdNumber as Id,
  IdCoreField,
  IdText as IdInPath,
  ServerName,
  Strict,
  Text,
  Uint32,
  UnixSeconds,
  UserCoreField,
} from '@milagro-ts/api/schemas'
import Type, { type TSchema } from '@milagro-ts/api/typebox'

const Digits = Type.String({ pattern: '^[0-9]{1,10}$' })
const ById = Strict({ id: IdInPath })
const ByDriver = Strict({ id: IdInPath, driver: IdInPath })
const Instance = Type.String({ minLength: 1, maxLength: 128, pattern: '^\\S(?:[^\\p{Cc}]*\\S)?$' })
const Factors = Type.Union([Type.Literal(0), Type.Literal(1), Type.Literal(2)])
const OperatorName = Type.String({ pattern: '^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$' })
const Empty = Strict({})

const EnrolmentCode = Strict({ code: Type.String(), expiresAt: UnixSeconds })
const BanView = Strict({
  id: Id,
  reason: Type.String(),
  since: UnixSeconds,
  expiresAt: Type.Optional(UnixSeconds),
})
const deviceFields = {
  id: Id,
  instance: Type.String(),
  attributes: AttributesField,
  /** 0 device alone, 1 device and PIN, 2 device, and PIN where a service asks. */
  factors: Type.Integer({ minimum: 0, maximum: 2 }),
  state: Type.Enum(['registered', 'invited', 'enrolled', 'revoked']),
  idCore: Type.Optional(IdCoreField),
  leaf: Type.Optional(Uint32),
  generation: Type.Optional(Type.Integer({ minimum: 0, maximum: 0xffff })),
  enrolledAt: Type.Optional(UnixSeconds),
  /** Last time that the RPS told of this identity. */
  seenAt: Type.Optional(UnixSeconds),
  codeExpiresAt: Type.Optional(UnixSeconds),
  ban: Type.Optional(BanView),
}
export const VehicleView = Strict(deviceFields)
export const DriverView = Strict({ id: Id, attributes: AttributesField, ban: Type.Optional(BanView) })
export const VehicleDetail = Strict({
  ...deviceFields,
  drivers: Type.Array(
    Strict({
      id: Id,
      attributes: AttributesField,
      ban: Type.Optional(BanView),
      userCore: Type.Optional(UserCoreField),
      issuedPinGen: Uint32,
      acceptedPinGen: Uint32,
      locked: Type.Boolean(),
      codeExpiresAt: Type.Optional(UnixSeconds),
    }),
  ),
})
export const PendingApproval = Strict({
  id: Id,
  kind: Type.Enum(['device', 'user']),
  /** To be compared, word by word, with what the device shows. */
  words: Type.String(),
  attributes: AttributesField,
  instance: Type.String(),
  known: Type.Boolean(),
  enrolled: Type.Boolean(),
  createdAt: UnixSeconds,
  expiresAt: UnixSeconds,
  /** What the customer’s own system said of it (hook before registration). */
  note: Type.Optional(Type.String()),
})
export const DeliveryView = Strict({
  id: Id,
  target: Type.String(),
  state: Type.Enum(['waiting', 'dead']),
  madeAt: UnixSeconds,
  attempts: Type.Integer({ minimum: 0 }),
  trouble: Type.Optional(Type.String()),
})
export const BanEntry = Strict({
  id: Id,
  vehicle: Type.Optional(Id),
  operator: Type.Optional(Id),
  driver: Type.Optional(Id),
  reason: Type.String(),
  since: UnixSeconds,
  expiresAt: Type.Optional(UnixSeconds),
  madeBy: Type.String(),
})
/** How far a next revision has come. */
const revisionFields = {
  state: Type.Enum(['open', 'signed', 'done', 'abandoned']),
  revision: Uint32,
  documentHash: Bytes(32),
  needed: Type.Integer(),
  authorities: Type.Array(
    Strict({
      index: Type.Integer(),
      name: Type.String(),
      signed: Type.Boolean(),
      delivered: Type.Boolean(),
      trouble: Type.Optional(Type.String()),
    }),
  ),
  rpsDelivered: Type.Boolean(),
}
export const RotationView = Strict({
  ...revisionFields,
  oldKid: Type.String(),
  newKid: Type.String(),
  newKey: Bytes(33),
})
export const RecipientsView = Strict({
  ...revisionFields,
  /** `says` is a line for people, without the name. */
  changes: Type.Array(
    Strict({
      name: ServerName,
      change: Type.Enum(['added', 'removed', 're-keyed', 'changed']),
      says: Type.String(),
    }),
  ),
})
const FindingId = Type.String({ pattern: '^[0-9a-f]{24}$' })
/** What a finding goes by, and who knows of it. */
const FINDING = {
  finding: FindingId,
  acknowledged: Type.Optional(Strict({ by: Type.String(), at: UnixSeconds, reason: Type.String() })),
}
export const ReconciliationView = Strict({
  authorities: Type.Array(
    Strict({
      index: Type.Integer(),
      name: Type.String(),
      entries: Type.Integer(),
      /** No fault was ever found with the log, and it could be read just now. */
      intact: Type.Boolean(),
      /** Why it couldn’t. */
      trouble: Type.Optional(Type.String()),
      readAt: Type.Optional(UnixSeconds),
      /** The authority’s departure. */
      leavesAt: Type.Optional(UnixSeconds),
      faults: Type.Array(
        Strict({
          fault: Type.Enum(['split', 'shorter', 'broken', 'rewritten']),
          detail: Type.String(),
          foundAt: UnixSeconds,
          /** As the authority has signed them. */
          heads: Type.Array(Type.String()),
          ...FINDING,
        }),
      ),
      /** Keys that an authority issued for no identity of this register, or on no ticket of it. */
      unknown: Type.Array(
        Strict({
          number: Uint32,
          at: UnixSeconds,
          purpose: Type.String(),
          idCoreHash: Bytes(32),
          ticketHash: Bytes(32),
          why: Type.Enum(['no-vehicle', 'no-ticket']),
          foundAt: UnixSeconds,
          ...FINDING,
        }),
      ),
    }),
  ),
  /** Identities that have logged in, while fewer logs have their key than had to issue it. */
  lacking: Type.Array(
    Strict({
      instance: Type.String(),
      idCoreHash: Bytes(32),
      held: Type.Integer(),
      needed: Type.Integer(),
      missing: Type.Array(Type.String()),
      ...FINDING,
    }),
  ),
})

const PatternText = Type.String({ minLength: 1, maxLength: 256 })
/** Compared in NFC, character by character. */
export const TextPattern = Type.Union([
  Strict({ equals: PatternText }),
  Strict({ prefix: PatternText }),
  Strict({ oneOf: Type.Array(PatternText, { minItems: 1, maxItems: 100 }) }),
])
const templateFields = {
  name: Type.String({ minLength: 1, maxLength: 64 }),
  instance: TextPattern,
  /** A device must have exactly these attributes. */
  attributes: Type.Record(Type.String({ pattern: '^[\\s\\S]{1,64}$' }), TextPattern, {
    maxProperties: 32,
    additionalProperties: false,
  }),
  count: Type.Integer({ minimum: 1, maximum: 1_000_000 }),
  expiresAt: UnixSeconds,
}
const Vehicles = Type.Enum(['new', 'registered'])
export const TemplateView = Strict({
  id: Id,
  ...templateFields,
  vehicles: Vehicles,
  factors: Type.Integer({ minimum: 0, maximum: 2 }),
  state: Type.Enum(['active', 'used up', 'expired', 'ended']),
  approved: Type.Integer({ minimum: 0 }),
  madeBy: Type.String(),
  madeAt: UnixSeconds,
  endedAt: Type.Optional(UnixSeconds),
})

const banTerms = {
  reason: Text(500),
  /** Without it the ban stands until it is lifted. */
  expiresAt: Type.Optional(UnixSeconds),
}

const mayRefuse = (...more: Code[]): readonly Code[] => [
  'UNAUTHENTICATED',
  'FORBIDDEN',
  'EXPIRED',
  'BANNED',
  'REVOKED',
  ...more,
]
/** A page of a list: `after` is the last id of the page before. */
const paged = <P extends Record<string, TSchema>>(more: P) =>
  Strict({ after: Type.Optional(Digits), limit: Type.Optional(Digits), ...more })

const READ = { caller: 'operator', method: 'GET', refuses: mayRefuse() } as const
const ACT = { caller: 'operator', method: 'POST', refuses: mayRefuse('CONFLICT') } as const

export const fleetRoutes = {
  listVehicles: {
    ...READ,
    path: '/v1/vehicles',
    summary: 'Vehicles by number, a page at a time; `instance` finds one by its VIN.',
    query: paged({
      instance: Type.Optional(Text(128)),
      state: Type.Optional(Type.Enum(['registered', 'invited', 'enrolled', 'revoked'])),
    }),
    response: Strict({ vehicles: Type.Array(VehicleView) }),
  },
  vehicle: {
    ...READ,
    path: '/v1/vehicles/:id',
    summary: 'One vehicle with its drivers.',
    params: ById,
    response: VehicleDetail,
  },
  addVehicle: {
    ...ACT,
    path: '/v1/vehicles',
    summary: 'Register a vehicle, and make its enrolment code unless it is to enrol by words.',
    body: Strict({
      instance: Instance,
      attributes: AttributesField,
      factors: Type.Optional(Factors),
      withCode: Type.Optional(Type.Boolean()),
    }),
    response: Strict({ id: Id, code: Type.Optional(EnrolmentCode) }),
  },
  importVehicles: {
    ...ACT,
    path: '/v1/vehicles/import',
    summary: 'Register every vehicle of a CSV file, or none of them; one enrolment code each.',
    body: Strict({ csv: Type.String({ minLength: 1 }) }),
    response: Strict({
      vehicles: Type.Array(Strict({ instance: Type.String(), code: Type.String(), expiresAt: UnixSeconds })),
    }),
    bodyLimit: 8_388_608,
  },
  vehicleCode: {
    ...ACT,
    path: '/v1/vehicles/:id/code',
    summary:
      'A new enrolment code for a vehicle that isn’t enrolled; the one sent before is worth nothing any more.',
    params: ById,
    body: Empty,
    response: EnrolmentCode,
  },
  nextGeneration: {
    ...ACT,
    path: '/v1/vehicles/:id/next-generation',
    summary: 'A code by which an enrolled vehicle enrols again; its identity ends when that is approved.',
    params: ById,
    body: Empty,
    response: EnrolmentCode,
  },
  revoke: {
    ...ACT,
    path: '/v1/vehicles/:id/revoke',
    summary: 'End the vehicle’s identity now and for good.',
    params: ById,
    body: Empty,
    response: Empty,
  },
  unlock: {
    ...ACT,
    path: '/v1/vehicles/:id/drivers/:driver/unlock',
    summary: 'Forget the driver’s wrong PINs in a row on this vehicle.',
    params: ByDriver,
    body: Empty,
    response: Strict({ event: Uint32 }),
  },
  assignDriver: {
    ...ACT,
    path: '/v1/vehicles/:id/drivers',
    summary: 'Put a driver, known by number or described by attributes, on a vehicle; a code to enrol there.',
    params: ById,
    body: Type.Union([Strict({ driver: Id }), Strict({ attributes: AttributesField })]),
    response: Strict({ driver: Id, code: EnrolmentCode }),
  },
  driverCode: {
    ...ACT,
    path: '/v1/vehicles/:id/drivers/:driver/code',
    summary: 'A new code for a driver who hasn’t enrolled on the vehicle yet.',
    params: ByDriver,
    body: Empty,
    response: EnrolmentCode,
  },
  resetPin: {
    ...ACT,
    path: '/v1/vehicles/:id/drivers/:driver/pin-reset',
    summary: 'A code by which a driver who forgot the PIN gets a key of the next pinGen.',
    params: ByDriver,
    body: Empty,
    response: EnrolmentCode,
  },
  listDrivers: {
    ...READ,
    path: '/v1/drivers',
    summary: 'Drivers by number, a page at a time.',
    query: paged({}),
    response: Strict({ drivers: Type.Array(DriverView) }),
  },
  addDriver: {
    ...ACT,
    path: '/v1/drivers',
    summary: 'Register a driver; attributes as the driver enrols with them, `driverName` among them.',
    body: Strict({ attributes: AttributesField }),
    response: Strict({ id: Id }),
  },
  listApprovals: {
    ...READ,
    path: '/v1/approvals',
    summary: 'Registrations without a code, each with the six words that its device shows.',
    response: Strict({ approvals: Type.Array(PendingApproval) }),
  },
  approve: {
    ...ACT,
    path: '/v1/approvals/:id/approve',
    summary:
      'The words on console and device are the same: approve. The caller says which words were compared.',
    params: ById,
    body: Strict({
      words: Text(200, 11),
      /** End the vehicle’s identity in force and make the next generation. */
      nextGeneration: Type.Optional(Type.Boolean()),
      /** Of a vehicle that isn’t in the register. */
      factors: Type.Optional(Factors),
    }),
    response: Empty,
    refuses: mayRefuse('CONFLICT', 'NOT_APPROVED'),
  },
  refuse: {
    ...ACT,
    path: '/v1/approvals/:id/refuse',
    summary: 'Refuse a registration.',
    params: ById,
    body: Empty,
    response: Empty,
  },
  listTemplates: {
    ...READ,
    path: '/v1/templates',
    summary: 'Enrolment templates by number, a page at a time; their codes can’t be asked for again.',
    query: paged({}),
    response: Strict({ templates: Type.Array(TemplateView) }),
  },
  addTemplate: {
    ...ACT,
    path: '/v1/templates',
    summary:
      'Make a template: devices that hold its code and that its patterns cover are approved, up to a count.',
    body: Strict({
      ...templateFields,
      /** `new` (unless said): vehicles that the register doesn’t know; `registered`: only ones put there without a code. */
      vehicles: Type.Optional(Vehicles),
      factors: Type.Optional(Factors),
    }),
    response: Strict({ id: Id, code: EnrolmentCode }),
  },
  templateCode: {
    ...ACT,
    path: '/v1/templates/:id/code',
    summary: 'A new code for a template; the one before is worth nothing any more.',
    params: ById,
    body: Empty,
    response: EnrolmentCode,
  },
  endTemplate: {
    ...ACT,
    path: '/v1/templates/:id/end',
    summary: 'From now on the template approves nothing; what it has approved stays.',
    params: ById,
    body: Empty,
    response: Empty,
  },
  listBans: {
    ...READ,
    path: '/v1/bans',
    summary: 'Bans in force.',
    response: Strict({ bans: Type.Array(BanEntry) }),
  },
  ban: {
    ...ACT,
    path: '/v1/bans',
    summary:
      'Ban a vehicle, an operator, or a driver on every vehicle; a ban in force gets a new reason and expiry.',
    body: Type.Union([
      Strict({ vehicle: Id, ...banTerms }),
      Strict({ operator: Id, ...banTerms }),
      Strict({ driver: Id, ...banTerms }),
    ]),
    response: BanEntry,
  },
  unban: {
    ...ACT,
    method: 'DELETE',
    path: '/v1/bans/:id',
    summary: 'Lift a ban.',
    params: ById,
    response: Empty,
  },
  listOperators: {
    ...READ,
    path: '/v1/operators',
    summary: 'Operators.',
    query: paged({}),
    response: Strict({ operators: Type.Array(VehicleView) }),
  },
  inviteOperator: {
    ...ACT,
    path: '/v1/operators',
    summary: 'Invite an operator: the code enrols attributes {operator: NAME}, instance `operator:NAME`.',
    body: Strict({ name: OperatorName }),
    response: Strict({ id: Id, code: EnrolmentCode }),
  },
  operatorCode: {
    ...ACT,
    path: '/v1/operators/:id/code',
    summary: 'A new code for an operator who isn’t enrolled, or (enrolled) for the next generation.',
    params: ById,
    body: Empty,
    response: EnrolmentCode,
  },
  revokeOperator: {
    ...ACT,
    path: '/v1/operators/:id/revoke',
    summary: 'End an operator’s identity now and for good.',
    params: ById,
    body: Empty,
    response: Empty,
  },
  unlockOperator: {
    ...ACT,
    path: '/v1/operators/:id/unlock',
    summary: 'Forget an operator’s wrong PINs in a row.',
    params: ById,
    body: Empty,
    response: Strict({ event: Uint32 }),
  },
  rotateKey: {
    ...ACT,
    path: '/v1/keys/rotate',
    summary:
      'Make a new RA key and ask the authorities for the next revision; their operators accept its hash.',
    body: Empty,
    response: RotationView,
  },
  finishKey: {
    ...ACT,
    path: '/v1/keys/finish',
    summary:
      'Collect the authorities’ signatures and, once there are t, take the new key into use. May be repeated.',
    body: Empty,
    response: RotationView,
  },
  abandonKey: {
    ...ACT,
    path: '/v1/keys/abandon',
    summary:
      'Drop a change of key that the authorities won’t sign; where too many have, with the abandonments of the others.',
    body: Strict({ abandonments: Type.Optional(AbandonmentsField) }),
    response: Empty,
    refuses: mayRefuse('CONFLICT', 'NOT_APPROVED'),
  },
  listRecipients: {
    ...READ,
    path: '/v1/recipients',
    summary:
      'The servers that the group in force names, its revision, and the next one where that is under way.',
    response: Strict({
      revision: Uint32,
      recipients: Recipients,
      underWay: Type.Optional(
        Strict({
          /** What it changes, and which: the new kid, or recipients. */
          subject: Type.Enum(['key', 'recipients']),
          says: Type.String(),
          state: Type.Enum(['open', 'signed']),
          revision: Uint32,
          documentHash: Bytes(32),
        }),
      ),
    }),
  },
  changeRecipients: {
    ...ACT,
    path: '/v1/recipients',
    summary:
      'Ask the authorities for the next revision, with these recipients; their operators accept its hash. `revision` is the one that the list follows.',
    body: Strict({ revision: Uint32, recipients: Recipients }),
    response: RecipientsView,
  },
  finishRecipients: {
    ...ACT,
    path: '/v1/recipients/finish',
    summary:
      'Collect the authorities’ signatures and, once there are t, take the recipients into force. May be repeated.',
    body: Empty,
    response: RecipientsView,
  },
  abandonRecipients: {
    ...ACT,
    path: '/v1/recipients/abandon',
    summary:
      'Drop a change of recipients that the authorities won’t sign; where too many have, with the abandonments of the others.',
    body: Strict({ abandonments: Type.Optional(AbandonmentsField) }),
    response: Empty,
    refuses: mayRefuse('CONFLICT', 'NOT_APPROVED'),
  },
  listDeliveries: {
    ...READ,
    path: '/v1/deliveries',
    summary: 'Notices of logins that a target hasn’t taken, or that were given up.',
    query: paged({}),
    response: Strict({ deliveries: Type.Array(DeliveryView) }),
  },
  retryDelivery: {
    ...ACT,
    path: '/v1/deliveries/:id/retry',
    summary: 'Try a notice that was given up again.',
    params: ById,
    body: Empty,
    response: Empty,
  },
  reconcile: {
    ...READ,
    path: '/v1/reconciliation',
    summary: 'Compare the authorities’ issuance logs with the register: every key without a vehicle.',
    response: ReconciliationView,
  },
  acknowledge: {
    ...ACT,
    path: '/v1/reconciliation/acknowledgements',
    summary:
      'An operator knows of these findings, and why they are no alarm any more; the same finding with other facts is another.',
    body: Strict({
      findings: Type.Array(FindingId, { minItems: 1, maxItems: 1000 }),
      reason: Text(500),
    }),
    response: Empty,
  },
  audit: {
    ...READ,
    path: '/v1/audit',
    summary: 'Who did what, newest first; `before` pages.',
    query: Strict({ before: Type.Optional(Digits), limit: Type.Optional(Digits) }),
    response: Strict({
      entries: Type.Array(
        Strict({
          id: Id,
          at: UnixSeconds,
          actor: Type.String(),
          action: Type.String(),
          subject: Type.String(),
          outcome: Type.String(),
        }),
      ),
    }),
  },
  status: {
    ...READ,
    path: '/v1/status',
    summary: 'Counts, the group in force, the keys that sign, the authorities, events that wait for the RPS.',
    response: Strict({
      operator: Type.String(),
      groupId: GroupIdField,
      revision: Uint32,
      raKeys: Type.Array(Type.String()),
      vehicles: Type.Integer(),
      enrolled: Type.Integer(),
      drivers: Type.Integer(),
      pending: Type.Integer(),
      bans: Type.Integer(),
      events: Strict({ last: Uint32, waiting: Type.Integer(), trouble: Type.Optional(Type.String()) }),
      /** As the RPS sees them; `trouble` when it doesn't say. */
      authorities: Type.Union([AuthoritiesSeen, Strict({ trouble: Type.String() })]),
      /** Their issuance logs: what is wrong, a line each; which couldn’t be read; who leaves. */
      logs: Strict({
        alarms: Type.Array(Type.String()),
        unread: Type.Array(Type.String()),
        leaving: Type.Array(Strict({ name: Type.String(), leavesAt: UnixSeconds })),
      }),
      /** Notices of logins for the customer’s own systems; `dead` ones were given up. */
      hooks: Strict({
        waiting: Type.Integer(),
        dead: Type.Integer(),
        trouble: Type.Optional(Type.String()),
      }),
    }),
  },
} as const satisfies RouteTable
