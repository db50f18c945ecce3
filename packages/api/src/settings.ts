/** Settings that every server has. */

import { GroupIdField, ServerName, Strict, Url } from './schemas.js'
import Type, { type TSchema } from './typebox.js'

/** What a setting wants, in words, as a schema's field: an operator isn't told a pattern (config.ts). */
export const WANTS = 'x-wants'
export const wanting = <S extends TSchema>(schema: S, words: string): S => ({ ...schema, [WANTS]: words })

export const ListenSetting = Strict({
  host: Type.String({ minLength: 1, maxLength: 253 }),
  /** 0: any free port. */
  port: Type.Integer({ minimum: 0, maximum: 65_535 }),
})
export const AN_ORIGIN = 'an origin such as https://rps.example:8080'
export const UrlSetting = wanting(Url, AN_ORIGIN)
/** Pinned: all 32 bytes. */
export const GroupIdSetting = wanting(GroupIdField, '32 bytes in base64url, which are 43 characters')
/** A name in the group document. */
export const ServerNameSetting = wanting(
  ServerName,
  'a name of small letters, digits, dots and hyphens, such as gw.example',
)
export const RateSetting = Strict({
  /** Requests a second in the long run. */
  perSecond: Type.Number({ exclusiveMinimum: 0, maximum: 1_000_000 }),
  /** Requests at once after a quiet time. */
  burst: Type.Integer({ minimum: 1, maximum: 1_000_000 }),
})
/** Addresses of reverse proxies whose X-Forwarded-For is believed. */
export const TrustProxySetting = Type.Array(Type.String({ minLength: 1, maxLength: 64 }), { maxItems: 16 })
/** Origins whose pages may read answers: `https://host[:port]`, no path. */
export const WebOriginsSetting = Type.Array(
  wanting(
    Type.String({ maxLength: 256, pattern: '^https?://[a-z0-9.:\\[\\]-]+$' }),
    'an origin in small letters, such as https://console.example:8080',
  ),
  { maxItems: 16 },
)
export const LogLevelSetting = Type.Enum(['fatal', 'error', 'warn', 'info', 'debug'])
/** Threads for pairings and the like: one less than there are processors, but one, unless said; 0 is none. */
export const WorkersSetting = Type.Integer({ minimum: 0, maximum: 256 })
