/** Settings of the tracking server: JSON file < `MILAGRO_TRACKING_*` < flags. */
import { type Environment, loadConfig } from '@milagro-ts/api/config'
import { GroupIdField, Strict } from '@milagro-ts/api/schemas'
import Type, { type Static } from 'typebox'

const Listen = Strict({
  host: Type.String({ minLength: 1 }),
  port: Type.Integer({ minimum: 0, maximum: 65_535 }),
})

export const TrackingConfig = Strict({
  /** The server's name among the group document's recipients; its requests are signed under it. */
  name: Type.String({ minLength: 1, maxLength: 253 }),
  listen: Listen,
  adminListen: Listen,
  /** Origin of the public listener; also the audience of tokens, one-pass proofs and receipts. */
  publicUrl: Type.String({ pattern: '^https?://[^/\\s]+$' }),
  dataDir: Type.String({ minLength: 1 }),
  groupId: GroupIdField,
  /** The group document; it must be the one that groupId pins. */
  groupFile: Type.String({ minLength: 1 }),
  /** The authentication server: its origin, which is also the issuer of its tokens and receipts. */
  rps: Strict({ url: Type.String({ pattern: '^https?://[^/\\s]+$' }) }),
  logLevel: Type.Optional(Type.Enum(['fatal', 'error', 'warn', 'info', 'debug'])),
})
export type TrackingConfig = Static<typeof TrackingConfig>

/** ConfigError names the first setting that is wrong. */
export function loadTrackingConfig(file: string | undefined, env: Environment): TrackingConfig {
  return loadConfig(TrackingConfig, { prefix: 'MILAGRO_TRACKING', file, env })
}
