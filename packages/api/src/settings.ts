/** Settings that every server has. */

import { ServerName, Strict, Url } from './schemas.js'
import Type from './typebox.js'

export const ListenSetting = Strict({
  host: Type.String({ minLength: 1, maxLength: 253 }),
  /** 0: any free port. */
  port: Type.Integer({ minimum: 0, maximum: 65_535 }),
})
export const UrlSetting = Url
/** A name in the group document. */
export const ServerNameSetting = ServerName
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
  Type.String({ maxLength: 256, pattern: '^https?://[a-z0-9.:\\[\\]-]+$' }),
  { maxItems: 16 },
)
export const LogLevelSetting = Type.Enum(['fatal', 'error', 'warn', 'info', 'debug'])
/** Threads for pairings and the like: one less than there are processors, but one, unless said; 0 is none. */
export const WorkersSetting = Type.Integer({ minimum: 0, maximum: 256 })
