/** Settings of the tracking server: JSON file < `MILAGRO_TRACKING_*` < flags. */
import { type Environment, loadConfig } from '@milagro-ts/api/config'
import { GroupIdField, Strict } from '@milagro-ts/api/schemas'
import { ListenSetting, LogLevelSetting, WebOriginsSetting } from '@milagro-ts/api/settings'
import Type, { type Static } from '@milagro-ts/api/typebox'

export const TrackingConfig = Strict({
  /** The server's name among the group document's recipients; its requests are signed under it. */
  name: Type.String({ minLength: 1, maxLength: 253 }),
  listen: ListenSetting,
  adminListen: ListenSetting,
  /**
   * Where vehicles come in, by TLS without certificates, and log in for the audience `name`, which the RPS wants bound to
   * their connection. Then they come in nowhere else, and the public listener is for the people who read: a browser has
   * no keys for such TLS.
   */
  tlsListen: Type.Optional(ListenSetting),
  /** Origin of the public listener; also the audience of tokens, one-pass proofs and receipts. */
  publicUrl: Type.String({ pattern: '^https?://[^/\\s]+$' }),
  dataDir: Type.String({ minLength: 1 }),
  /** Pinned; only `--init`, whose keys the group document names, does without it and without groupFile. */
  groupId: Type.Optional(GroupIdField),
  /** The first revision, or an array of all of them. */
  groupFile: Type.Optional(Type.String({ minLength: 1 })),
  /** The authentication server: its origin, which is also the issuer of its tokens and receipts. */
  rps: Strict({ url: Type.String({ pattern: '^https?://[^/\\s]+$' }) }),
  /** Where pages stand that show the vehicles. */
  webOrigins: Type.Optional(WebOriginsSetting),
  logLevel: Type.Optional(LogLevelSetting),
})
export type TrackingConfig = Static<typeof TrackingConfig>

/** ConfigError names the first setting that is wrong. */
export function loadTrackingConfig(file: string | undefined, env: Environment): TrackingConfig {
  return loadConfig(TrackingConfig, { prefix: 'MILAGRO_TRACKING', file, env })
}
