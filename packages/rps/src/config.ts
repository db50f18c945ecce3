/** Settings of an RPS. The passphrase is not among them: it comes from MILAGRO_RPS_PASSPHRASE(_FILE). */
import { ConfigError, type Environment, loadConfig, readSecret } from '@milagro-ts/api/config'
import { Strict } from '@milagro-ts/api/schemas'
import { CertificateSetting } from '@milagro-ts/api/server-certificate'
import {
  GroupIdSetting,
  ListenSetting,
  LogLevelSetting,
  RateSetting,
  ServerNameSetting,
  TrustProxySetting,
  UrlSetting,
  WebOriginsSetting,
  WorkersSetting,
} from '@milagro-ts/api/settings'
import Type, { type Static } from '@milagro-ts/api/typebox'

/** What the RPS asks of logins for one service. */
export const AudiencePolicy = Strict({
  /** The service's origin (`https://host[:port]`) or another name; compared byte for byte. */
  name: Type.String({ minLength: 1, maxLength: 256 }),
  /** The recipient of the group document that may verify, redeem, look up and follow events for it. */
  service: Type.Optional(ServerNameSetting),
  pin: Type.Enum(['never', 'optional', 'required']),
  /**
   * Whether the challenge is bound to the TLS connection (RFC 9266) that the proof came on: required or absent, never "if
   * present". Logins at the RPS then take `tls`; a service whose TLS ends in its own process says of what connection each
   * one-pass proof was that it asks about.
   */
  tlsExporter: Type.Enum(['absent', 'required']),
})
export type AudiencePolicy = Static<typeof AudiencePolicy>

export const RpsConfig = Strict({
  /** The RPS' name among the recipients of the group document. */
  name: ServerNameSetting,
  listen: ListenSetting,
  /** The public listener ends TLS itself. Without it it speaks plain HTTP, to whatever ends TLS before it. */
  tls: Type.Optional(CertificateSetting),
  /** Health and metrics; keep it on the loopback. */
  adminListen: ListenSetting,
  /** Where others reach it: its own audience, the issuer of its tokens, and what request JWTs are bound to. */
  publicUrl: UrlSetting,
  dataDir: Type.String({ minLength: 1 }),
  /** Pinned: all 32 bytes. It comes after --init, whose keys the group document names. */
  groupId: GroupIdSetting,
  /** The first revision, or an array of all of them; read while the data folder has none. */
  groupFile: Type.Optional(Type.String({ minLength: 1 })),
  /** Without groupFile: an authority's address, where the chain of revisions is fetched. */
  groupUrl: Type.Optional(UrlSetting),
  rpa: Strict({ url: UrlSetting }),
  audiences: Type.Array(AudiencePolicy, { maxItems: 256 }),
  /** Δ: how far clientTime may be from the server's clock, in seconds. */
  deltaSeconds: Type.Optional(Type.Integer({ minimum: 1, maximum: 300 })),
  rateLimit: Type.Optional(
    Strict({
      /** Everything from one source address (IPv6: one /64). */
      address: Type.Optional(RateSetting),
      /** From one source: device proofs that didn't hold, and as many registrations of devices that were refused. */
      failedProofs: Type.Optional(RateSetting),
    }),
  ),
  /** Threads that verify. */
  workers: Type.Optional(WorkersSetting),
  trustProxy: Type.Optional(TrustProxySetting),
  /** Where pages stand that log in from a browser. */
  webOrigins: Type.Optional(WebOriginsSetting),
  logLevel: Type.Optional(LogLevelSetting),
})
export type RpsConfig = Static<typeof RpsConfig>

const BeforeGroup = Strict({ ...RpsConfig.properties, groupId: Type.Optional(GroupIdSetting) })

/** ConfigError names the first setting that is wrong. */
export function loadRpsConfig(file: string | undefined, env: Environment): RpsConfig {
  const config = loadConfig(RpsConfig, { prefix: 'MILAGRO_RPS', file, env })
  checkAudiences(config)
  return config
}

/** As loadRpsConfig, for --init. */
export function loadInitConfig(file: string | undefined, env: Environment): Omit<RpsConfig, 'groupId'> {
  const config = loadConfig(BeforeGroup, { prefix: 'MILAGRO_RPS', file, env })
  checkAudiences(config)
  return config
}

function checkAudiences({ audiences, tls }: Pick<RpsConfig, 'audiences' | 'tls'>): void {
  for (const [i, { name, service, tlsExporter }] of audiences.entries()) {
    if (name !== name.normalize('NFC') || new TextEncoder().encode(name).length > 256)
      throw new ConfigError(`setting 'audiences.${i}.name': at most 256 bytes of UTF-8 in NFC`)
    if (audiences.findIndex(other => other.name === name) !== i)
      throw new ConfigError(`setting 'audiences.${i}.name': '${name}' stands twice`)
    if (tlsExporter === 'required' && tls === undefined && service === undefined)
      throw new ConfigError(
        `setting 'audiences.${i}.tlsExporter': nobody could log in: it takes 'tls', or a 'service' that verifies`,
      )
  }
}

/** The passphrase that seals everything secret in the data folder. ConfigError when it is missing. */
export function readPassphrase(env: Environment): string {
  return readSecret('MILAGRO_RPS_PASSPHRASE', env)
}
