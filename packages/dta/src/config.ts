/** Settings of an authority. The passphrase is not among them: it comes from MILAGRO_DTA_PASSPHRASE(_FILE). */
import { ConfigError, type Environment, loadConfig, readSecret } from '@milagro-ts/api/config'
import { Strict } from '@milagro-ts/api/schemas'
import {
  ListenSetting,
  LogLevelSetting,
  RateSetting,
  ServerNameSetting,
  TrustProxySetting,
  UrlSetting,
  WorkersSetting,
} from '@milagro-ts/api/settings'
import Type, { type Static } from '@milagro-ts/api/typebox'

export const DtaConfig = Strict({
  /** The authority's name in group documents. */
  name: ServerNameSetting,
  listen: ListenSetting,
  /** Health, metrics and the operator's routes; keep it on the loopback. */
  adminListen: ListenSetting,
  /** Where others reach it. With it, proposals that give another address are refused. */
  publicUrl: Type.Optional(UrlSetting),
  /**
   * Its addresses, one for each group: proposals that give another one are refused, and so are requests for a group that
   * come by another name than the one in its document. A proxy in front must hand on the Host.
   */
  publicUrls: Type.Optional(Type.Array(UrlSetting, { minItems: 1, maxItems: 1_000, uniqueItems: true })),
  /** What the operator allows beside the group documents (policy.ts). Read again at SIGHUP. */
  policyFile: Type.Optional(Type.String({ minLength: 1 })),
  dataDir: Type.String({ minLength: 1 }),
  rateLimit: Type.Optional(
    Strict({
      /** For one source address (IPv6: one /64). */
      address: Type.Optional(RateSetting),
      /** For everything issued in one group. */
      group: Type.Optional(RateSetting),
    }),
  ),
  /** Threads that multiply and check. */
  workers: Type.Optional(WorkersSetting),
  trustProxy: Type.Optional(TrustProxySetting),
  logLevel: Type.Optional(LogLevelSetting),
})
export type DtaConfig = Static<typeof DtaConfig>

/** ConfigError names the first setting that is wrong. */
export function loadDtaConfig(file: string | undefined, env: Environment): DtaConfig {
  const config = loadConfig(DtaConfig, { prefix: 'MILAGRO_DTA', file, env })
  if (config.publicUrl !== undefined && config.publicUrls !== undefined)
    throw new ConfigError("settings 'publicUrl' and 'publicUrls': give one of them")
  return config
}

/** The passphrase that seals everything secret in the data folder. ConfigError when it is missing. */
export function readPassphrase(env: Environment): string {
  return readSecret('MILAGRO_DTA_PASSPHRASE', env)
}
