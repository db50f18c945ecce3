/**
 * The group document (protocols.md §1, encoding.md "group document"): everything public about a group, pinned by
 * the SHA-256 of its first revision.
 */

import {
  Bytes,
  GroupIdField,
  HpkeKeyField,
  PurposeField,
  ServerName,
  Strict,
  Text,
  Uint32,
  UnixSeconds,
  Url,
} from './schemas.js'
import Type, { type Static } from './typebox.js'

/** P-256 public key: the compressed point. */
const P256Key = Bytes(33)

export const Authority = Strict({
  index: Type.Integer({ minimum: 1, maximum: 255 }),
  name: ServerName,
  url: Url,
  signKey: P256Key,
  hpkeKey: HpkeKeyField,
})
export const Recipient = Strict({
  name: ServerName,
  /**
   * 2 server, 3 static server (the kinds of name TLVs of `agree`): by it a recipient gets its keys of `agree` and `encrypt` for a
   * slot each, or without one.
   */
  kind: Type.Integer({ minimum: 2, maximum: 3 }),
  generation: Uint32,
  purposes: Type.Array(PurposeField, { maxItems: 6 }),
  hpkeKey: HpkeKeyField,
  requestKey: P256Key,
})
export const Recipients = Type.Array(Recipient, { maxItems: 64 })
const RaKeys = Strict({
  m: Type.Integer({ minimum: 1, maximum: 8 }),
  keys: Type.Array(Strict({ kid: Text(64), key: P256Key }), {
    minItems: 1,
    maxItems: 8,
  }),
})
const Slot = Strict({ origin: UnixSeconds, length: Type.Integer({ minimum: 1, maximum: 31_622_400 }) })
export const PermitPolicy = Type.Enum(['tree', 'identity'])
const Policy = Strict({
  /** Slots that a permit may be issued ahead. */
  lead: Type.Integer({ minimum: 0, maximum: 64 }),
  /** Seconds that the former slot's permit is still taken. */
  grace: Type.Integer({ minimum: 0, maximum: 86_400 }),
  /**
   * What permits are for: nodes of the tree of leaves, or one identity each, which suits small groups. Absent in documents
   * of before there was a choice: `identity`.
   */
  permits: Type.Optional(PermitPolicy),
})
/** Key epochs of a purpose that the authorities keep shares of: the newest, and those before it. */
export const KEPT_EPOCHS = 3
const EpochFields = {
  epoch: Uint32,
  firstSlot: Uint32,
  ivk: Bytes(48),
  /** C_j by index 1…n. */
  shares: Type.Array(Bytes(48), { minItems: 1, maxItems: 255 }),
  pub: Type.Optional(Bytes(96)),
}
const PublicKeys = Strict({
  ...EpochFields,
  /** Key epochs before the newest that are still kept, the later one first. */
  former: Type.Optional(Type.Array(Strict(EpochFields), { minItems: 1, maxItems: KEPT_EPOCHS - 1 })),
})

/** What `group make` starts from: the document without the keys that the authorities will make. */
export const GroupProposal = Strict({
  suite: Type.Literal('BLS12381-SHA256-V1'),
  v: Type.Literal(1),
  n: Type.Integer({ minimum: 1, maximum: 255 }),
  t: Type.Integer({ minimum: 1, maximum: 255 }),
  authorities: Type.Array(Authority, { minItems: 1, maxItems: 255 }),
  ra: RaKeys,
  recipients: Recipients,
  slot: Slot,
  policy: Policy,
  /** First slot of the first key epoch (epoch 1 of every purpose). */
  firstSlot: Uint32,
  /** 32 random bytes: two makings of the same proposal are two groups. */
  nonce: Bytes(32),
})
export type GroupProposal = Static<typeof GroupProposal>

export const GroupDocument = Strict({
  suite: Type.Literal('BLS12381-SHA256-V1'),
  v: Type.Literal(1),
  revision: Type.Integer({ minimum: 1, maximum: 0xffff_ffff }),
  /** SHA-256 of the predecessor's JCS form without signatures; from revision 2 on. */
  previous: Type.Optional(Bytes(32)),
  groupId: Type.Optional(GroupIdField),
  n: Type.Integer({ minimum: 1, maximum: 255 }),
  t: Type.Integer({ minimum: 1, maximum: 255 }),
  purposes: Strict({
    device: PublicKeys,
    pin: PublicKeys,
    permit: PublicKeys,
    agree: PublicKeys,
    sign: PublicKeys,
    encrypt: PublicKeys,
  }),
  authorities: Type.Array(Authority, { minItems: 1, maxItems: 255 }),
  ra: RaKeys,
  recipients: Recipients,
  slot: Slot,
  policy: Policy,
  /** ES256 over the document's hash, by authorities' signKeys. */
  signatures: Type.Array(
    Strict({ index: Type.Integer({ minimum: 1, maximum: 255 }), signature: Bytes(64) }),
    { maxItems: 255 },
  ),
})
export type GroupDocument = Static<typeof GroupDocument>
