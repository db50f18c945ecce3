/** Field types that several route tables share. Bytes are base64url without padding; lengths are exact. */
import Type, { type Static } from './typebox.js'

/**
 * What a field's text stands for beyond its form, as `x-holds` of its schema: what its decoder will refuse, and what
 * the server must know or be able to verify. OpenAPI prints it, and the test of bad input is made from it.
 *
 *   bytes          any bytes: a hash, a salt, a nonce that the caller has drawn
 *   known          names something that the server has, or proves something: an id, a server's nonce, a code
 *   g1, g2, p256   a compressed point;  x25519  a public key;  scalar  0…q−1
 *   idCore, permit, nodes, message, jws   an encoding with parts of its own;  anyIdCore  one of an identity that may be unknown here
 */
export type Holds =
  | 'bytes'
  | 'known'
  | 'g1'
  | 'g2'
  | 'p256'
  | 'x25519'
  | 'scalar'
  | 'idCore'
  | 'anyIdCore'
  | 'permit'
  | 'nodes'
  | 'message'
  | 'jws'
export const HOLDS = 'x-holds'
const holding = (holds: Holds) => ({ [HOLDS]: holds })
/** Lengths that only one thing has. */
const BY_LENGTH: Readonly<Record<number, Holds>> = { 33: 'p256', 39: 'idCore', 48: 'g1', 96: 'g2' }

/** What a last group of one or two bytes looks like: the bits that belong to no byte are zero. */
const ONE_BYTE = '[A-Za-z0-9_-][AQgw]'
const TWO_BYTES = '[A-Za-z0-9_-]{2}[AEIMQUYcgkosw048]'

/** Exactly `length` bytes as base64url. One value has one text, so that texts can be compared and remembered. */
export const Bytes = (length: number, holds: Holds = BY_LENGTH[length] ?? 'bytes') => {
  const characters = Math.ceil((length * 4) / 3)
  const last = ['', ONE_BYTE, TWO_BYTES][length % 3]
  const pattern = `^[A-Za-z0-9_-]{${Math.floor(length / 3) * 4}}${last}$`
  return Type.String({ minLength: characters, maxLength: characters, pattern, ...holding(holds) })
}
/** From `least` to `most` bytes as base64url. */
export const BytesUpTo = (most: number, least = 1, holds: Holds = 'bytes') =>
  Type.String({
    minLength: Math.ceil((least * 4) / 3),
    maxLength: Math.ceil((most * 4) / 3),
    pattern: `^([A-Za-z0-9_-]{4})*(${ONE_BYTE}|${TWO_BYTES})?$`,
    ...holding(holds),
  })
/** A compact JWS. */
export const Jws = (most = 4096) =>
  Type.String({
    minLength: 16,
    maxLength: most,
    pattern: '^[A-Za-z0-9_-]+\\.[A-Za-z0-9_-]+\\.[A-Za-z0-9_-]+$',
    ...holding('jws'),
  })
/** A number that the server has given something. */
export const IdNumber = Type.Integer({ minimum: 1, maximum: 0xffff_ffff, ...holding('known') })
/** The same in an address. */
export const IdText = Type.String({ pattern: '^[1-9][0-9]{0,9}$', ...holding('known') })
/** A time permit as it is carried. */
export const PermitField = BytesUpTo(160, 1, 'permit')
export const HpkeKeyField = Bytes(32, 'x25519')
/** What people read and files hold: any characters but the controls, NUL among them. */
export const Text = (most: number, least = 1) =>
  Type.String({ minLength: least, maxLength: most, pattern: '^[^\\p{Cc}]*$' })
export const Url = Type.String({ minLength: 8, maxLength: 256, pattern: '^https?://[^\\s\\p{Cc}]+$' })
/** A server's name in the group document. */
export const ServerName = Type.String({
  minLength: 1,
  maxLength: 253,
  pattern: '^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$',
  ...holding('known'),
})
export const Uint32 = Type.Integer({ minimum: 0, maximum: 0xffff_ffff })
export const UnixSeconds = Type.Integer({ minimum: 0, maximum: 0xff_ffff_ffff })
export const Strict = <P extends Record<string, Type.TSchema>>(properties: P) =>
  Type.Object(properties, { additionalProperties: false })

/** Which revision of a group document; without it the one in force. */
export const RevisionQuery = Strict({
  revision: Type.Optional(Type.String({ pattern: '^[1-9][0-9]{0,9}$' })),
})
/** A slot in a query. */
export const SlotQuery = Type.String({ pattern: '^(?:0|[1-9][0-9]{0,9})$', maxLength: 10 })
export const GroupIdField = Bytes(32, 'known')
export const IdCoreField = Bytes(39)
export const UserCoreField = Bytes(32)
export const PurposeField = Type.Enum(['device', 'pin', 'permit', 'agree', 'sign', 'encrypt'])
/** Names and values of a vehicle's or a person's attributes, at most 32 of them. */
export const AttributesField = Type.Record(Type.String({ pattern: '^[^\\p{Cc}]{1,64}$' }), Text(256), {
  maxProperties: 32,
  additionalProperties: false,
})

/** One M-Pin message as JSON: the fields of encoding.md's login message, by name. Its decoder is `LoginMessage.fromJson`. */
export const LoginFields = Strict({
  suite: Type.Literal('BLS12381-SHA256-V1'),
  mode: Type.Integer({ minimum: 0, maximum: 2 }),
  audience: Type.String({ minLength: 1, maxLength: 256 }),
  deviceEpoch: Uint32,
  slot: Uint32,
  nonce: Type.Optional(Bytes(32, 'known')),
  clientTime: Type.Optional(UnixSeconds),
  idCore: IdCoreField,
  userCore: Type.Optional(UserCoreField),
  permit: Type.Optional(PermitField),
  uDev: Bytes(48),
  vDev: Bytes(48),
  uPin: Type.Optional(Bytes(48)),
  t: Type.Optional(Bytes(48)),
  vPin: Type.Optional(Bytes(48)),
  z: Type.Optional(Bytes(32, 'scalar')),
  payloadHash: Type.Optional(Bytes(32)),
  pinGen: Type.Optional(Uint32),
  pinEpoch: Type.Optional(Uint32),
})
export type LoginFields = Static<typeof LoginFields>

/** An RA ticket: m compact JWS over one payload (m = 1 unless the group document says more). */
/** What authorities say who never sign a document; n − t + 1 of them are enough, of 255 at most. */
export const AbandonmentsField = Type.Array(Jws(1024), { maxItems: 128 })
export const TicketField = Type.Array(Jws(2048), { minItems: 1, maxItems: 8 })

/** Who was proven by which factors; what a verified message comes to. */
export const AuthenticatedFields = Strict({
  idCore: IdCoreField,
  userCore: Type.Optional(UserCoreField),
  amr: Type.Array(Type.Enum(['device', 'pin'])),
  slot: Uint32,
  audience: Type.String(),
})
export type AuthenticatedFields = Static<typeof AuthenticatedFields>
