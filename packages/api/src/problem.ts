/**
 * What a server may say no with: the closed list of codes, each with its one HTTP status, as problem+json
 * (RFC 9457). docs/errors.md lists the same codes; a test compares.
 */
import Type, { type Static } from './typebox.js'

export const CODES = {
  MALFORMED: { status: 400, means: 'The request has a wrong shape, field, point or encoding.' },
  UNAUTHENTICATED: {
    status: 401,
    means: 'The request carries no valid credential (token, request JWT, M-Pin).',
  },
  WRONG_PROOF: { status: 401, means: 'The device proof does not hold, or the identity may not log in.' },
  WRONG_PIN: { status: 401, means: 'The device is proven, the PIN is not.' },
  EXPIRED: { status: 401, means: 'A nonce, slot, epoch, ticket or statement is out of its time.' },
  CLOCK: { status: 401, means: 'The clocks of the sender and of the server are too far apart.' },
  FORBIDDEN: { status: 403, means: 'The caller is known but may not do this.' },
  BANNED: { status: 403, means: 'The vehicle or the user is banned.' },
  REVOKED: { status: 403, means: 'The identity has ended for good; enrol the next generation.' },
  WRONG_PERMIT: { status: 403, means: 'The time permit does not verify.' },
  PERMIT_EXPIRED: { status: 403, means: 'The time permit belongs to a slot that has ended.' },
  NOT_APPROVED: { status: 403, means: 'Nobody with the right to do so has approved this.' },
  EPOCH_ENDED: {
    status: 403,
    means: 'The key is of a key epoch that has ended; enrol the next generation.',
  },
  FROZEN: { status: 403, means: 'The authority has frozen this group.' },
  NOT_FOUND: { status: 404, means: 'There is nothing at this address.' },
  METHOD_NOT_ALLOWED: { status: 405, means: 'The address does not take this method.' },
  TOO_SLOW: { status: 408, means: 'The request did not arrive in time; nothing was decided.' },
  ALREADY_ISSUED: { status: 409, means: 'Keys for this identity were issued to another enrolment key.' },
  REPLAYED: { status: 409, means: 'A single-use value is unknown or was used before.' },
  CONFLICT: { status: 409, means: 'The request contradicts what is already recorded.' },
  TOO_LARGE: { status: 413, means: 'The body is larger than this route takes.' },
  UNSUPPORTED_MEDIA_TYPE: { status: 415, means: 'The body is not application/json.' },
  LOCKED: { status: 423, means: 'Too many wrong PINs; an operator must unlock, or a new PIN is needed.' },
  RETRY_LATER: { status: 503, means: 'Nothing was decided; try again after Retry-After seconds.' },
  WRONG_SHARE: { status: 502, means: 'A trust authority answered with a share that does not verify.' },
  INTERNAL: { status: 500, means: 'The server met an error of its own; nothing more is said.' },
} as const satisfies Record<string, { status: number; means: string }>

export type Code = keyof typeof CODES

/** Codes that any route may answer with, so that no route table repeats them. */
export const EVERYWHERE: readonly Code[] = [
  'MALFORMED',
  'NOT_FOUND',
  'METHOD_NOT_ALLOWED',
  'TOO_SLOW',
  'TOO_LARGE',
  'UNSUPPORTED_MEDIA_TYPE',
  'RETRY_LATER',
  'INTERNAL',
]

/** The problem+json body: `type` is `urn:milagro-ts:<code>`, `detail` is what the peer may read. */
export const Problem = Type.Object(
  {
    type: Type.String(),
    title: Type.String(),
    status: Type.Integer(),
    code: Type.Enum(Object.keys(CODES) as Code[]),
    detail: Type.Optional(Type.String()),
    field: Type.Optional(Type.String()),
  },
  { additionalProperties: false },
)
export type Problem = Static<typeof Problem>

/**
 * A refused request. `detail` and `field` go to the peer; `log` only to the server's log. Thrown by handlers,
 * made from an answer by the typed client.
 */
export class Refused extends Error {
  override readonly name = 'Refused'
  readonly code: Code
  readonly detail: string | undefined
  readonly field: string | undefined
  readonly log: string | undefined
  readonly retryAfter: number | undefined

  constructor(
    code: Code,
    more: {
      detail?: string | undefined
      field?: string | undefined
      log?: string | undefined
      retryAfter?: number | undefined
    } = {},
  ) {
    super(more.detail === undefined ? code : `${code}: ${more.detail}`)
    this.code = code
    this.detail = more.detail
    this.field = more.field
    this.log = more.log
    this.retryAfter = more.retryAfter
  }

  get status(): number {
    return CODES[this.code].status
  }

  toProblem(): Problem {
    return {
      type: `urn:milagro-ts:${this.code}`,
      title: CODES[this.code].means,
      status: this.status,
      code: this.code,
      ...(this.detail === undefined ? {} : { detail: this.detail }),
      ...(this.field === undefined ? {} : { field: this.field }),
    }
  }
}
