/** Routes of a distributed trust authority. */
import { MOST_NODES } from '@milagro-ts/crypto/node-shares'
import { CeremonyProposal, CeremonyRounds } from './ceremony.js'
import { GroupDocument, GroupProposal } from './group-document.js'
import { IssuanceEntry, PROOF_LENGTH } from './issuance-log.js'
import { KeyRotationFields } from './key-rotation.js'
import type { RouteTable } from './route.js'
import {
  AbandonmentsField,
  Bytes,
  BytesUpTo,
  GroupIdField,
  HpkeKeyField,
  Jws,
  PurposeField,
  RevisionQuery,
  ServerName,
  Strict,
  Text,
  TicketField,
  Uint32,
  UnixSeconds,
  UserCoreField,
} from './schemas.js'
import { SlotKeyRequest } from './slot-key-request.js'
import { LEAVES_JWS } from './statements.js'
import Type, { type Static } from './typebox.js'

const ByGroup = Strict({ groupId: GroupIdField })
const ByCeremony = Strict({ ceremonyHash: Bytes(32, 'known') })
const Index = Type.Integer({ minimum: 1, maximum: 255 })
/** Characters of a signed page of a ledger. */
const LEDGER_PAGE_SIZE = 262_144
const ByProposal = Strict({ proposalHash: Bytes(32, 'known') })
const LogNumber = Type.String({ pattern: '^[0-9]{1,10}$' })
/** Hashes, from the leaves upwards. */
const LogProof = Strict({ proof: Type.Array(Bytes(32), { maxItems: PROOF_LENGTH }) })
/** `enc ‖ ct` of a sealed share, and which authority and share epoch it is from. */
export const SealedShare = Strict({
  index: Type.Integer({ minimum: 1, maximum: 255 }),
  shareEpoch: Uint32,
  sealed: BytesUpTo(512),
})

const Clock = Type.String({ pattern: '^([01][0-9]|2[0-3]):[0-5][0-9]$' })
/** What an authority's operator allows in a group, beside what its document does. */
export const GroupPolicy = Strict({
  /** Entries of the issuance log a day. */
  keysPerDay: Type.Optional(Type.Integer({ minimum: 0, maximum: 0xffff_ffff })),
  /** Permit statements a day. */
  permitsPerDay: Type.Optional(Type.Integer({ minimum: 0, maximum: 0xffff_ffff })),
  /** Of days and hours, as in the IANA data base; UTC unless said. */
  zone: Type.Optional(Type.String({ minLength: 1, maxLength: 64, pattern: '^[A-Za-z0-9_+/-]+$' })),
  /** When keys are issued. `to` at or before `from` is the next day’s. */
  hours: Type.Optional(
    Type.Array(
      Strict({
        days: Type.Optional(
          Type.Array(Type.Enum(['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun']), {
            minItems: 1,
            maxItems: 7,
          }),
        ),
        from: Clock,
        to: Clock,
      }),
      { minItems: 1, maxItems: 64 },
    ),
  ),
  /** Signatures that a ticket needs here, by any of these keys (all of the document’s unless said). */
  raSigners: Type.Optional(
    Strict({
      m: Type.Integer({ minimum: 1, maximum: 255 }),
      keys: Type.Optional(
        Type.Array(Type.String({ minLength: 1, maxLength: 64 }), { minItems: 1, maxItems: 255 }),
      ),
    }),
  ),
})
export type GroupPolicy = Static<typeof GroupPolicy>
/** By groupId; `*` for those that have no entry. */
export const PolicyFile = Strict({
  groups: Type.Record(Type.String({ pattern: '^(\\*|[A-Za-z0-9_-]{43})$' }), GroupPolicy, {
    additionalProperties: false,
  }),
})

export const dtaRoutes = {
  authority: {
    method: 'GET',
    path: '/v1/authority',
    summary: 'Who this authority is: name and public keys, whose fingerprints members compare out of band.',
    caller: 'open',
    response: Strict({
      suite: Type.String(),
      name: Type.String(),
      signKey: Bytes(33),
      hpkeKey: HpkeKeyField,
    }),
    refuses: [],
  },
  joinFounding: {
    method: 'POST',
    path: '/v1/foundings/:proposalHash/join',
    summary:
      'First move of making an n-of-n group: a signed hash commitment to this authority’s public shares.',
    caller: 'open',
    params: ByProposal,
    body: Strict({ proposal: GroupProposal }),
    response: Strict({ join: Jws() }),
    refuses: ['NOT_APPROVED', 'CONFLICT'],
    bodyLimit: 262_144,
  },
  openFounding: {
    method: 'POST',
    path: '/v1/foundings/:proposalHash/open',
    summary: 'Second move, after all commitments: the public shares with proofs of possession, signed.',
    caller: 'open',
    params: ByProposal,
    body: Strict({ joins: Type.Array(Jws(), { minItems: 1, maxItems: 255 }) }),
    response: Strict({ opening: Jws(8192) }),
    refuses: ['NOT_APPROVED', 'CONFLICT', 'EXPIRED'],
    bodyLimit: 1_048_576,
  },
  signFounding: {
    method: 'POST',
    path: '/v1/foundings/:proposalHash/sign',
    summary:
      'Third move, after all openings: this authority’s signature over the first revision it computed itself.',
    caller: 'open',
    params: ByProposal,
    body: Strict({ openings: Type.Array(Jws(8192), { minItems: 1, maxItems: 255 }) }),
    response: Strict({ groupId: GroupIdField, signature: Bytes(64) }),
    refuses: ['NOT_APPROVED', 'CONFLICT', 'WRONG_SHARE', 'EXPIRED'],
    bodyLimit: 4_194_304,
  },
  concludeFounding: {
    method: 'POST',
    path: '/v1/foundings/:proposalHash/conclude',
    summary: 'Last move: the document with every signature; from here on the authority serves the group.',
    caller: 'open',
    params: ByProposal,
    body: Strict({ document: GroupDocument }),
    response: Strict({ groupId: GroupIdField }),
    refuses: ['NOT_APPROVED', 'CONFLICT'],
    bodyLimit: 1_048_576,
  },
  joinCeremony: {
    method: 'POST',
    path: '/v1/ceremonies/:ceremonyHash/join',
    summary:
      'First round of a ceremony: a signed join with fresh keys, once the operator has accepted the proposal’s hash.',
    caller: 'open',
    params: ByCeremony,
    body: Strict({
      proposal: CeremonyProposal,
      /** For one that doesn’t serve the group yet: its documents from the first on. */
      revisions: Type.Optional(Type.Array(GroupDocument, { minItems: 1, maxItems: 1_000 })),
    }),
    response: Strict({ message: Jws(8192) }),
    refuses: ['NOT_APPROVED', 'CONFLICT', 'EXPIRED'],
    bodyLimit: 4_194_304,
  },
  ceremonyRound: {
    method: 'POST',
    path: '/v1/ceremonies/:ceremonyHash/rounds/:round',
    summary: 'A later round: everything that was said before, for this authority’s signed message.',
    caller: 'open',
    params: Strict({
      ceremonyHash: Bytes(32, 'known'),
      round: Type.String({ maxLength: 8, pattern: '^(commit|open|deal|answer|result)$' }),
    }),
    body: Strict({ rounds: CeremonyRounds }),
    response: Strict({ message: Jws(65_536) }),
    refuses: ['NOT_APPROVED', 'CONFLICT', 'WRONG_SHARE', 'EXPIRED'],
    bodyLimit: 8_388_608,
  },
  signCeremony: {
    method: 'POST',
    path: '/v1/ceremonies/:ceremonyHash/sign',
    summary: 'After all results: the signature of an authority of the former group (or of the founded one).',
    caller: 'open',
    params: ByCeremony,
    body: Strict({ rounds: CeremonyRounds }),
    response: Strict({ index: Index, signature: Bytes(64) }),
    refuses: ['NOT_APPROVED', 'CONFLICT', 'EXPIRED'],
    bodyLimit: 8_388_608,
  },
  concludeCeremony: {
    method: 'POST',
    path: '/v1/ceremonies/:ceremonyHash/conclude',
    summary:
      'The signed document: from here on the authority serves the group with its new share, or leaves it.',
    caller: 'open',
    params: ByCeremony,
    body: Strict({ document: GroupDocument }),
    response: Strict({ groupId: GroupIdField, revision: Uint32 }),
    refuses: ['NOT_APPROVED', 'CONFLICT'],
    bodyLimit: 1_048_576,
  },
  readCeremonyLedger: {
    method: 'GET',
    path: '/v1/ceremonies/:ceremonyHash/ledger',
    summary:
      'Of a dealer that has answered in a reshare: the ledger that it has stated, as hashes, page by page.',
    caller: 'open',
    params: ByCeremony,
    query: Strict({ after: Type.Optional(Bytes(32)) }),
    response: Strict({ page: Jws(LEDGER_PAGE_SIZE) }),
    refuses: ['NOT_APPROVED', 'CONFLICT'],
  },
  adoptCeremonyLedger: {
    method: 'POST',
    path: '/v1/ceremonies/:ceremonyHash/ledger',
    summary: 'Another dealer’s ledger, page by page in order; it must come to what that dealer has stated.',
    caller: 'open',
    params: ByCeremony,
    body: Strict({ page: Jws(LEDGER_PAGE_SIZE) }),
    response: Strict({ lines: Uint32 }),
    refuses: ['NOT_APPROVED', 'CONFLICT'],
    bodyLimit: 2 * LEDGER_PAGE_SIZE,
  },
  group: {
    method: 'GET',
    path: '/v1/groups/:groupId',
    summary:
      'The group document in force, as this authority knows it; `revision` for an older one, to walk the chain.',
    caller: 'open',
    params: ByGroup,
    query: RevisionQuery,
    response: GroupDocument,
    refuses: [],
  },
  shares: {
    method: 'POST',
    path: '/v1/groups/:groupId/shares',
    summary:
      'A key share against an RA ticket, sealed to the enrolment key in it. The same ticket gets its share again.',
    caller: 'open',
    params: ByGroup,
    body: Strict({ ticket: TicketField, purpose: PurposeField }),
    response: SealedShare,
    refuses: ['NOT_APPROVED', 'EXPIRED', 'ALREADY_ISSUED', 'FROZEN'],
  },
  serverKeys: {
    method: 'POST',
    path: '/v1/groups/:groupId/server-keys',
    summary:
      'A key share for a recipient of the group document, sealed to its HPKE key; of `agree` and `encrypt` for its own name, with a `slot` or, for a static server, without.',
    caller: 'server',
    params: ByGroup,
    body: Strict({
      purpose: PurposeField,
      keyEpoch: Uint32,
      nonce: Bytes(16),
      slot: Type.Optional(Uint32),
    }),
    response: SealedShare,
    refuses: ['UNAUTHENTICATED', 'CLOCK', 'FORBIDDEN', 'EXPIRED', 'REPLAYED', 'FROZEN'],
  },
  slotKeys: {
    method: 'POST',
    path: '/v1/groups/:groupId/slot-keys',
    summary:
      'A share of a device’s own key of `agree` or `encrypt` for one slot, against its signature and its permit for that slot; sealed to the key that it has signed.',
    caller: 'open',
    params: ByGroup,
    body: SlotKeyRequest,
    response: SealedShare,
    refuses: ['NOT_APPROVED', 'EXPIRED', 'WRONG_PERMIT', 'WRONG_PROOF', 'BANNED', 'FROZEN'],
  },
  deltas: {
    method: 'POST',
    path: '/v1/groups/:groupId/deltas',
    summary:
      'Delta shares δ_jA from one key epoch to another, for a device that has proven its former keys to the caller; sealed to its key.',
    caller: 'server',
    params: ByGroup,
    body: Strict({
      /** The RA’s word that the vehicle is not banned. */
      statement: Jws(),
      ...KeyRotationFields,
      /** Whose PIN key, with `pin`. */
      userCore: Type.Optional(UserCoreField),
      pinGen: Type.Optional(Uint32),
    }),
    response: Strict({ device: Type.Optional(SealedShare), pin: Type.Optional(SealedShare) }),
    refuses: ['UNAUTHENTICATED', 'CLOCK', 'FORBIDDEN', 'NOT_APPROVED', 'EXPIRED', 'REPLAYED', 'FROZEN'],
  },
  permits: {
    method: 'POST',
    path: '/v1/groups/:groupId/permits',
    summary: 'A permit share against the RA’s statement that the identity is not banned.',
    caller: 'server',
    params: ByGroup,
    body: Strict({ statement: Jws() }),
    response: Strict({
      index: Type.Integer({ minimum: 1, maximum: 255 }),
      shareEpoch: Uint32,
      share: BytesUpTo(160),
    }),
    refuses: ['UNAUTHENTICATED', 'CLOCK', 'FORBIDDEN', 'NOT_APPROVED', 'EXPIRED', 'REPLAYED', 'FROZEN'],
  },
  leaves: {
    method: 'POST',
    path: '/v1/groups/:groupId/leaves',
    summary: 'A newer state of the banned leaves, signed by the RA: taken, and co-signed.',
    caller: 'server',
    params: ByGroup,
    body: Strict({ leaves: Jws(LEAVES_JWS) }),
    response: Strict({ index: Index, cosignature: Jws() }),
    refuses: ['UNAUTHENTICATED', 'CLOCK', 'FORBIDDEN', 'NOT_APPROVED', 'CONFLICT', 'EXPIRED', 'REPLAYED'],
    bodyLimit: LEAVES_JWS + 1_024,
  },
  nodePermits: {
    method: 'POST',
    path: '/v1/groups/:groupId/node-permits',
    summary: 'Permit shares for nodes of the cover, against the RA’s statement which leaves are the newest.',
    caller: 'server',
    params: ByGroup,
    body: Strict({ statement: Jws(), nodes: BytesUpTo(5 * MOST_NODES, 5, 'nodes') }),
    response: Strict({ index: Index, shareEpoch: Uint32, shares: BytesUpTo(48 * MOST_NODES + 79) }),
    refuses: [
      'UNAUTHENTICATED',
      'CLOCK',
      'FORBIDDEN',
      'NOT_APPROVED',
      'CONFLICT',
      'EXPIRED',
      'REPLAYED',
      'FROZEN',
    ],
  },
  proposeRevision: {
    method: 'POST',
    path: '/v1/groups/:groupId/revisions',
    summary: 'A next revision of the document: signed once this authority’s operator has accepted its hash.',
    caller: 'open',
    params: ByGroup,
    body: Strict({ document: GroupDocument, statement: Jws() }),
    response: Strict({ index: Type.Integer({ minimum: 1, maximum: 255 }), signature: Bytes(64) }),
    refuses: ['NOT_APPROVED', 'CONFLICT'],
    bodyLimit: 1_048_576,
  },
  concludeRevision: {
    method: 'POST',
    path: '/v1/groups/:groupId/revisions/conclude',
    summary: 'A next revision with t signatures of the former one’s authorities; taken into force.',
    caller: 'open',
    params: ByGroup,
    body: Strict({ document: GroupDocument }),
    response: Strict({ revision: Uint32 }),
    refuses: ['NOT_APPROVED', 'CONFLICT'],
    bodyLimit: 1_048_576,
  },
  log: {
    method: 'GET',
    path: '/v1/groups/:groupId/log',
    summary: 'The append-only issuance log: what was issued, to which ticket and identity, as hashes.',
    caller: 'open',
    params: ByGroup,
    query: Strict({ from: Type.Optional(LogNumber) }),
    response: Strict({ entries: Type.Array(IssuanceEntry) }),
    refuses: [],
  },
  logHead: {
    method: 'GET',
    path: '/v1/groups/:groupId/log/head',
    summary:
      'What the issuance log comes to, signed: size, root of the tree, time, departure; and the heads of the other members’ logs that this authority has checked, or found fault with.',
    caller: 'open',
    params: ByGroup,
    response: Strict({
      head: Jws(),
      seen: Type.Array(Strict({ authority: ServerName, head: Jws() }), { maxItems: 2_000 }),
    }),
    refuses: [],
  },
  logConsistency: {
    method: 'GET',
    path: '/v1/groups/:groupId/log/consistency',
    summary: 'Proof that the log of `after` entries begins with the log of `before` entries (RFC 9162).',
    caller: 'open',
    params: ByGroup,
    query: Strict({ before: LogNumber, after: LogNumber }),
    response: LogProof,
    refuses: [],
  },
  logInclusion: {
    method: 'GET',
    path: '/v1/groups/:groupId/log/inclusion',
    summary: 'Proof that entry `number` stands in the log of `size` entries (RFC 9162).',
    caller: 'open',
    params: ByGroup,
    query: Strict({ number: LogNumber, size: LogNumber }),
    response: LogProof,
    refuses: [],
  },
} as const satisfies RouteTable

const Admin = { caller: 'admin', refuses: ['UNAUTHENTICATED'] } as const
export const dtaAdminRoutes = {
  status: {
    ...Admin,
    method: 'GET',
    path: '/v1/status',
    summary: 'Groups, proposals that wait for the operator, revisions that wait, counts, frozen or not.',
    response: Strict({
      name: Type.String(),
      groups: Type.Array(
        Strict({
          groupId: GroupIdField,
          revision: Uint32,
          frozen: Type.Boolean(),
          issued: Type.Integer(),
          /** Root of the tree over the log. */
          logRoot: Bytes(32),
          alarms: Type.Integer(),
          policy: GroupPolicy,
          /** Of today, counted while there is a quota. */
          used: Strict({ keys: Type.Integer(), permits: Type.Integer() }),
          leavesAt: Type.Optional(UnixSeconds),
        }),
      ),
      /** Pairs of signed heads that no one log can have had. */
      evidence: Type.Array(
        Strict({
          groupId: GroupIdField,
          authority: ServerName,
          fault: Type.Enum(['split', 'shorter', 'forgotten']),
          at: UnixSeconds,
          heads: Type.Array(Jws(), { minItems: 2, maxItems: 2 }),
        }),
      ),
      proposals: Type.Array(
        Strict({ proposalHash: Bytes(32), accepted: Type.Boolean(), concluded: Type.Boolean() }),
      ),
      ceremonies: Type.Array(
        Strict({
          ceremonyHash: Bytes(32),
          kind: Type.String(),
          state: Type.String(),
        }),
      ),
      revisions: Type.Array(
        Strict({
          groupId: GroupIdField,
          documentHash: Bytes(32),
          accepted: Type.Boolean(),
          signed: Type.Boolean(),
          /** In words, of one that came before it was accepted. */
          changes: Type.Optional(Type.Array(Type.String())),
        }),
      ),
    }),
  },
  accept: {
    ...Admin,
    method: 'POST',
    path: '/v1/accept',
    summary: 'The operator accepts a group proposal, or a revision, by its hash.',
    body: Strict({ hash: Bytes(32) }),
    response: Strict({ accepted: Bytes(32) }),
  },
  reject: {
    ...Admin,
    method: 'POST',
    path: '/v1/reject',
    summary:
      'The operator says no to a ceremony’s proposal, and why: the coordinator is told. What was begun is given up.',
    body: Strict({ hash: Bytes(32), reason: Text(500) }),
    response: Strict({ rejected: Bytes(32) }),
    refuses: ['CONFLICT'],
  },
  abandonRevision: {
    ...Admin,
    method: 'POST',
    path: '/v1/groups/:groupId/abandon',
    summary:
      'Never sign this document for the next revision: the answer is what frees an authority that has signed it.',
    params: ByGroup,
    body: Strict({ documentHash: Bytes(32) }),
    response: Strict({ abandonment: Jws() }),
    refuses: ['UNAUTHENTICATED', 'CONFLICT'],
  },
  releaseRevision: {
    ...Admin,
    method: 'POST',
    path: '/v1/groups/:groupId/release',
    summary:
      'Sign another document in the place of this one, which too many have abandoned for it to come into force.',
    params: ByGroup,
    body: Strict({ documentHash: Bytes(32), abandonments: AbandonmentsField }),
    response: Strict({ released: Bytes(32) }),
    refuses: ['UNAUTHENTICATED', 'CONFLICT', 'NOT_APPROVED'],
  },
  freeze: {
    ...Admin,
    method: 'POST',
    path: '/v1/groups/:groupId/freeze',
    summary: 'Issue nothing more for this group until unfrozen; with a name, nothing more to that recipient.',
    params: ByGroup,
    body: Strict({ recipient: Type.Optional(ServerName) }),
    response: Strict({ frozen: Type.Boolean() }),
  },
  unfreeze: {
    ...Admin,
    method: 'POST',
    path: '/v1/groups/:groupId/unfreeze',
    summary: 'Serve the group (or the recipient) again.',
    params: ByGroup,
    body: Strict({ recipient: Type.Optional(ServerName) }),
    response: Strict({ frozen: Type.Boolean() }),
  },
  leave: {
    ...Admin,
    method: 'POST',
    path: '/v1/groups/:groupId/leave',
    summary:
      'Announce a departure, a day ahead at least: after that time nothing of the group is served any more, and its shares are destroyed.',
    params: ByGroup,
    body: Strict({ leavesAt: UnixSeconds }),
    response: Strict({ leavesAt: UnixSeconds }),
    refuses: ['UNAUTHENTICATED', 'CONFLICT'],
  },
  stay: {
    ...Admin,
    method: 'POST',
    path: '/v1/groups/:groupId/stay',
    summary: 'Take an announced departure back, before its time.',
    params: ByGroup,
    body: Strict({}),
    response: Strict({}),
    refuses: ['UNAUTHENTICATED', 'CONFLICT'],
  },
  reloadPolicy: {
    ...Admin,
    method: 'POST',
    path: '/v1/policy/reload',
    summary: 'Read the policy file again. One that is wrong changes nothing.',
    body: Strict({}),
    response: Strict({}),
    refuses: ['UNAUTHENTICATED', 'CONFLICT'],
  },
} as const satisfies RouteTable
