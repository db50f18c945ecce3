/** Settings of fleet. The passphrase is not among them: it comes from MILAGRO_FLEET_PASSPHRASE(_FILE). */
import { type Environment, loadConfig, readSecret } from '@milagro-ts/api/config'
import { Strict } from '@milagro-ts/api/schemas'
import {
  GroupIdSetting,
  ListenSetting,
  LogLevelSetting,
  ServerNameSetting,
  TrustProxySetting,
  UrlSetting,
} from '@milagro-ts/api/settings'
import Type, { type Static } from '@milagro-ts/api/typebox'

const Days = Type.Integer({ minimum: 1, maximum: 3650 })

export const FleetConfig = Strict({
  /** Its name as a recipient in the group document. */
  name: ServerNameSetting,
  listen: ListenSetting,
  /** Health and metrics; keep it on the loopback. */
  adminListen: ListenSetting,
  /** Where the RPS and operators reach it: the audience of operators' tokens. */
  publicUrl: UrlSetting,
  dataDir: Type.String({ minLength: 1 }),
  /**
   * The group document: its first revision, or an array of revisions from the first on. Read at the first start.
   * This and groupId come after --init, whose keys the document names.
   */
  groupFile: Type.Optional(Type.String({ minLength: 1 })),
  groupId: Type.Optional(GroupIdSetting),
  /** `issuer`: `iss` of its tokens, its own publicUrl; the url unless said. */
  rps: Strict({ url: UrlSetting, issuer: Type.Optional(UrlSetting) }),
  /** The recipient of the group document whose request key may call. */
  rpsName: ServerNameSetting,
  /** What a vehicle's ticket is for; `device` and `agree` (TLS) unless said. */
  devicePurposes: Type.Optional(
    Type.Array(Type.Enum(['device', 'agree', 'sign', 'encrypt']), { minItems: 1, maxItems: 4 }),
  ),
  /** Whether operators' devices have a PIN, and every operator's login must show it. Required unless said. */
  operatorPin: Type.Optional(Type.Enum(['required', 'never'])),
  /** Name of the operator whom the setup code of the first start enrols. */
  firstOperator: Type.Optional(Type.String({ pattern: '^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$' })),
  /** How long an enrolment code may be used. */
  codeDays: Type.Optional(Days),
  /** How long a registration waits for an operator, and may be asked for again once approved. */
  registrationDays: Type.Optional(Days),
  /** Registrations that may wait at the same time. */
  pendingLimit: Type.Optional(Type.Integer({ minimum: 1, maximum: 100_000 })),
  auditDays: Type.Optional(Days),
  /** Parts of the console that come from elsewhere. */
  extensions: Type.Optional(
    Type.Array(
      Strict({
        /** In the address: `/extensions/<name>/`. */
        name: Type.String({ pattern: '^[a-z][a-z0-9-]{0,31}$' }),
        title: Type.String({ minLength: 1, maxLength: 40 }),
        /** Holds its module `main.js` and what that loads. */
        folder: Type.String({ minLength: 1 }),
        /** The service that it talks to, by its origin; operators log in to it as well. */
        audience: Type.Optional(UrlSetting),
      }),
      { maxItems: 16 },
    ),
  ),
  /**
   * The customer's own system, called by fleet (hook-routes.ts). Base addresses; fleet adds `/v1/before-registration`
   * and `/v1/after-login`, and follows no redirect.
   */
  hooks: Type.Optional(
    Strict({
      /** Asked before a registration is decided; no answer, no registration. */
      beforeRegistration: Type.Optional(UrlSetting),
      /** Told of every login. */
      afterLogin: Type.Optional(Type.Array(UrlSetting, { maxItems: 8 })),
      /** Milliseconds for one call; the RPS waits 5 seconds for all of it. */
      deadline: Type.Optional(Type.Integer({ minimum: 100, maximum: 4_000 })),
      /** After so many a notice is given up, until an operator has it tried again. */
      attempts: Type.Optional(Type.Integer({ minimum: 1, maximum: 10_000 })),
    }),
  ),
  trustProxy: Type.Optional(TrustProxySetting),
  logLevel: Type.Optional(LogLevelSetting),
})
export type FleetConfig = Static<typeof FleetConfig>

/** ConfigError names the first setting that is wrong. */
export function loadFleetConfig(file: string | undefined, env: Environment): FleetConfig {
  return loadConfig(FleetConfig, { prefix: 'MILAGRO_FLEET', file, env })
}

/** The passphrase that seals everything secret in the data folder. ConfigError when it is missing. */
export function readPassphrase(env: Environment): string {
  return readSecret('MILAGRO_FLEET_PASSPHRASE', env)
}
