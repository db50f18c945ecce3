/** Settings of an authority. The passphrase is not among them: it comes from MILAGRO_DTA_PASSPHRASE(_FILE). */
import { type Environment, loadConfig, readSecret } from '@milagro-ts/api/config'
import { Strict } from '@milagro-ts/api/schemas'
import Type, { type Static } from 'typebox'

const Listen = Strict({
  host: Type.String({ minLength: 1, maxLength: 253 }),
  /** 0: any free port. */
  port: Type.Integer({ minimum: 0, maximum: 65_535 }),
})
const Bucket = Strict({
  /** Requests a second in the long run. */
  perSecond: Type.Number({ exclusiveMinimum: 0, maximum: 1_000_000 }),
  /** Requests at once after a quiet time. */
  burst: Type.Integer({ minimum: 1, maximum: 1_000_000 }),
})

export const DtaConfig = Strict({
  /** The authority's name in group documents. */
  name: Type.String({ minLength: 1, maxLength: 253, pattern: '^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$' }),
  listen: Listen,
  /** Health, metrics and the operator's routes; keep it on the loopback. */
  adminListen: Listen,
  /** Where others reach it. With it, proposals that give another address are refused. */
  publicUrl: Type.Optional(Type.String({ minLength: 8, maxLength: 256, pattern: '^https?://[^\\s]+$' })),
  dataDir: Type.String({ minLength: 1 }),
  rateLimit: Type.Optional(
    Strict({
      /** For one source address (IPv6: one /64). */
      address: Type.Optional(Bucket),
      /** For everything issued in one group. */
      group: Type.Optional(Bucket),
    }),
  ),
  /** Addresses of reverse proxies whose X-Forwarded-For is believed. */
  trustProxy: Type.Optional(Type.Array(Type.String({ minLength: 1, maxLength: 64 }), { maxItems: 16 })),
  logLevel: Type.Optional(Type.Enum(['fatal', 'error', 'warn', 'info', 'debug'])),
})
export type DtaConfig = Static<typeof DtaConfig>

/** ConfigError names the first setting that is wrong. */
export function loadDtaConfig(file: string | undefined, env: Environment): DtaConfig {
  return loadConfig(DtaConfig, { prefix: 'MILAGRO_DTA', file, env })
}

/** The passphrase that seals everything secret in the data folder. ConfigError when it is missing. */
export function readPassphrase(env: Environment): string {
  return readSecret('MILAGRO_DTA_PASSPHRASE', env)
}
