/** Settings of a simulated car. Codes and the PIN are secrets: `MILAGRO_CAR_CODE`, `…_DRIVER_CODE`, `…_PIN` (or `…_FILE`). */
import { type Environment, loadConfig } from '@milagro-ts/api/config'
import { AttributesField, Strict } from '@milagro-ts/api/schemas'
import {
  AN_ORIGIN,
  GroupIdSetting,
  ListenSetting,
  ServerNameSetting,
  wanting,
} from '@milagro-ts/api/settings'
import Type, { type Static } from '@milagro-ts/api/typebox'

const Url = wanting(Type.String({ pattern: '^https?://[^/\\s]+$' }), AN_ORIGIN)
const Milliseconds = Type.Integer({ minimum: 50, maximum: 3_600_000 })

export const CarConfig = Strict({
  name: Type.String({ minLength: 1, maxLength: 64 }),
  /** Addresses of the authentication server and of the tracking server, which is the audience. */
  rps: Url,
  tracking: Url,
  /** Address of the folder with the group's permit bundles, on any HTTP server or cache: asked before the RPS is. */
  bundles: Type.Optional(
    wanting(
      Type.String({ pattern: '^https?://[^\\s]+$' }),
      'an address such as https://cache.example/permits',
    ),
  ),
  /** Where the tracking server takes vehicles by TLS without certificates, and its name in the group document. */
  trackingTls: Type.Optional(
    Strict({
      url: wanting(
        Type.String({ pattern: '^https://[^/\\s]+$' }),
        'an origin such as https://tracking.example:8443',
      ),
      name: ServerNameSetting,
    }),
  ),
  /** The gateway in front of an MQTT broker, and its name in the group document: where the car's position is published as it is now. */
  mqtt: Type.Optional(
    Strict({
      host: Type.String({ minLength: 1, maxLength: 253 }),
      port: Type.Integer({ minimum: 1, maximum: 65_535 }),
      name: ServerNameSetting,
    }),
  ),
  /** The address book of the cars that this one speaks to with no server between them (car-peers.ts), and where it answers itself. */
  peers: Type.Optional(Strict({ file: Type.String({ minLength: 1 }), listen: Type.Optional(ListenSetting) })),
  dataDir: Type.String({ minLength: 1 }),
  /** VIN */
  instance: Type.String({ minLength: 1, maxLength: 128 }),
  attributes: AttributesField,
  /** Pinned, for a car that enrols by words; a code names its group itself. */
  groupId: Type.Optional(GroupIdSetting),
  /** Who drives. */
  driver: Type.Optional(Strict({ attributes: AttributesField })),
  /** The track: a GPX file, or one drawn from a number. */
  gpx: Type.Optional(Type.String({ minLength: 1 })),
  seed: Type.Optional(Type.Integer({ minimum: 0 })),
  /** Metres per second. */
  speed: Type.Optional(Type.Number({ exclusiveMinimum: 0, maximum: 200 })),
  /**
   * Who vouches for a batch: the RPS, asked for a receipt each time, or the car `itself`, by its key of `sign` and its permit.
   * The RPS unless said.
   */
  signs: Type.Optional(Type.Enum(['itself', 'rps'])),
  /** Between two positions, and between two batches. */
  positionEvery: Milliseconds,
  reportEvery: Milliseconds,
  /** PBKDF2 iterations below the usual number: for demonstrations and slow devices. */
  slowIterations: Type.Optional(Type.Integer({ minimum: 1 })),
})
export type CarConfig = Static<typeof CarConfig>

/** ConfigError names the first setting that is wrong. */
export function loadCarConfig(
  file: string | undefined,
  env: Environment,
  flags: Readonly<Record<string, unknown>>,
): CarConfig {
  return loadConfig(CarConfig, { prefix: 'MILAGRO_CAR', file, env, flags })
}
