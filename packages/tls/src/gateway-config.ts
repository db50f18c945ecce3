/**
 * Settings of a gateway, of an outbound gateway, of a PSK file's writer and of a reader of files: JSON file < environment
 * (`MILAGRO_GATEWAY_…`, `MILAGRO_OUTBOUND_…`, `MILAGRO_PSK_FILE_…`, `MILAGRO_SERVICE_…`) < flags. The passphrase of the keys is not among them.
 */
import { isIP } from 'node:net'
import { isAbsolute } from 'node:path'
import { ConfigError, type ConfigSources, loadConfig } from '@milagro-ts/api/config'
import { Strict } from '@milagro-ts/api/schemas'
import {
  GroupIdSetting,
  ListenSetting,
  LogLevelSetting,
  RateSetting,
  ServerNameSetting,
  UrlSetting,
  WorkersSetting,
} from '@milagro-ts/api/settings'
import Type, { type Static } from '@milagro-ts/api/typebox'
import { PASS } from './gateway.js'
import { canonicalAddress } from './proxy-protocol.js'
import { isSocketPathTooLong, LONGEST_SOCKET_PATH, type ServiceAddress } from './service-address.js'

const Path = Type.String({ minLength: 1 })
const Connections = Type.Integer({ minimum: 1, maximum: 1_000_000 })
const Seconds = Type.Integer({ minimum: 1, maximum: 604_800 })
const to = {
  host: Type.String({ minLength: 1, maxLength: 253 }),
  port: Type.Integer({ minimum: 1, maximum: 65_535 }),
}
/** Health and metrics, for whoever reaches it. */
const AdminListenSetting = Strict({
  /** 127.0.0.1 unless said. */
  host: Type.Optional(Type.String({ minLength: 1, maxLength: 253 })),
  /** 0: any free port. */
  port: Type.Integer({ minimum: 0, maximum: 65_535 }),
})
export type AdminListen = Static<typeof AdminListenSetting>

/** A server of a group that keeps keys of its own. */
const server = {
  /** Its name among the recipients of the group document. */
  name: ServerNameSetting,
  dataDir: Path,
  /** Pinned: all 32 bytes. Only making the keys can do without group. */
  groupId: Type.Optional(GroupIdSetting),
  /** The first revision, or an array of all of them. */
  groupFile: Type.Optional(Path),
  rps: Strict({ url: UrlSetting }),
}
const limits = {
  /** Connections in all; 1 000 unless said. */
  connections: Type.Optional(Connections),
  /** Seconds without a byte after which a connection is closed; an hour unless said. */
  idleSeconds: Type.Optional(Seconds),
  /** Seconds to reach the service, for a CONNECT, for the head of an answer; 10 unless said. */
  patienceSeconds: Type.Optional(Seconds),
  /** Seconds that connections have to end when the gateway is told to; 10 unless said. */
  drainSeconds: Type.Optional(Type.Integer({ minimum: 0, maximum: 3_600 })),
}

export const GatewayConfig = Strict({
  ...server,
  listen: ListenSetting,
  adminListen: AdminListenSetting,
  /** The service behind it: host and port, or else the path of its Unix domain socket. */
  to: Strict({
    host: Type.Optional(to.host),
    port: Type.Optional(to.port),
    path: Type.Optional(Type.String()),
  }),
  /** How the service is told who came. */
  pass: Type.Enum([...PASS]),
  /** The name that it is told: `mpinId` unless said, or `instance`, what the RA knows the device by. */
  passName: Type.Optional(Type.Enum(['mpinId', 'instance'])),
  ...limits,
  /** Of one device; 16 unless said. */
  connectionsPerDevice: Type.Optional(Connections),
  /** Connections whose handshake isn't over, in all; as many as `connections` unless said. */
  handshakes: Type.Optional(Connections),
  /** Of one source; 100 unless said. Behind a load balancer everybody is one source. */
  handshakesPerSource: Type.Optional(Connections),
  /** Addresses of TCP load balancers, whose connections begin with a PROXY header (version 2): each source is then its own. */
  balancers: Type.Optional(Type.Array(Type.String({ minLength: 1, maxLength: 64 }), { maxItems: 64 })),
  /** Of one source, pairings that no handshake came of; 500 and 50 a second unless said. Behind a load balancer as above. */
  pairingsPerSource: Type.Optional(RateSetting),
  workers: Type.Optional(WorkersSetting),
  logLevel: Type.Optional(LogLevelSetting),
})
export type GatewayConfig = Omit<Static<typeof GatewayConfig>, 'to'> & { readonly to: ServiceAddress }

export const OutboundConfig = Strict({
  /** On the loopback: whoever reaches it speaks as the device. */
  listen: ListenSetting,
  adminListen: Type.Optional(AdminListenSetting),
  /** Where the gateway or server is reached. */
  to: Strict(to),
  /** Its name in the group document. */
  server: ServerNameSetting,
  rps: Strict({ url: UrlSetting }),
  /** The device's token store, and the key file without which it opens nothing. */
  store: Path,
  unlocker: Type.Optional(Path),
  /** Where the store holds several: M-Pin ID or instance of the one that is meant. */
  identity: Type.Optional(Type.String({ minLength: 1 })),
  ...limits,
  logLevel: Type.Optional(LogLevelSetting),
})
export type OutboundConfig = Static<typeof OutboundConfig>

export const PskFileConfig = Strict({
  ...server,
  /** The PSK file; run the writer as the broker's user, since it is mode 0600. */
  file: Path,
  /** Where the devices are listed: fleet's address, or else a file of M-Pin IDs, one a line. */
  fleetUrl: Type.Optional(UrlSetting),
  devicesFile: Type.Optional(Path),
  /** How the broker is told that the file is another. */
  reload: Type.Optional(
    Strict({
      /** It gets SIGHUP. */
      pidFile: Type.Optional(Path),
      /** Program and arguments, without a shell. */
      command: Type.Optional(Type.Array(Type.String(), { minItems: 1, maxItems: 32 })),
    }),
  ),
  /** Seconds between two looks at the list of devices; 10 unless said. Bans don't wait for it. */
  everySeconds: Type.Optional(Seconds),
  adminListen: Type.Optional(AdminListenSetting),
  logLevel: Type.Optional(LogLevelSetting),
})
export type PskFileConfig = Static<typeof PskFileConfig>

/** A service that reads files for its public name. */
export const ServiceConfig = Strict(server)
export type ServiceConfig = Static<typeof ServiceConfig>

/** What may change at a reload of a gateway, in either direction; the rest wants a restart. */
export const GATEWAY_RELOADABLE: readonly string[] = [
  'to',
  'pass',
  'passName',
  'connections',
  'connectionsPerDevice',
  'handshakes',
  'handshakesPerSource',
  'pairingsPerSource',
  'balancers',
  'idleSeconds',
  'patienceSeconds',
  'drainSeconds',
]
/** The same of a PSK file's writer. Not `file`: the former one would stay behind, with its keys. */
export const PSK_FILE_RELOADABLE: readonly string[] = ['fleetUrl', 'devicesFile', 'reload', 'everySeconds']

type Sources = Omit<ConfigSources, 'prefix'>

/**
 * ConfigError names the first setting that is wrong, `to` also where it is an address of both kinds, or of none. Balancers
 * are in their canonical spelling.
 */
export function loadGatewayConfig(sources: Sources): GatewayConfig {
  const prefix = 'MILAGRO_GATEWAY'
  const { to, balancers, ...config } = loadConfig(GatewayConfig, { prefix, ...sources })
  return {
    ...config,
    to: serviceAddress(to, namedOf(`${prefix}_TO`, sources)),
    ...(balancers === undefined ? {} : { balancers: balancers.map(addressSetting) }),
  }
}

function addressSetting(text: string, at: number): string {
  if (isIP(text) === 0) throw new ConfigError(`setting 'balancers.${at}': must be an IP address`)
  return canonicalAddress(text)
}

type To = Static<typeof GatewayConfig>['to']
const Named = Type.Object({ to: Type.Optional(Type.Object({})) })

/**
 * What the strongest source that has `to` says of it: whose path puts the port of a weaker one out of force, and the other way round.
 * ConfigError where any of them says both.
 */
function namedOf(variable: string, { file, flags = {}, env }: Sources): readonly string[] {
  const ofEnv = ['host', 'port', 'path'].filter(
    name => env[`${variable}_${name.toUpperCase()}`] !== undefined,
  )
  const ofFile = loadConfig(Named, { prefix: '', file, env: {} })
  const all = [Object.keys(flags.to ?? {}), ofEnv, Object.keys(ofFile.to ?? {})]
  for (const names of all)
    if (names.includes('path') && names.length > 1)
      throw new ConfigError("setting 'to': say either host and port, or path, not both")
  return all.find(names => names.length > 0) ?? []
}

function serviceAddress({ host, port, path }: To, named: readonly string[]): ServiceAddress {
  if (named.length === 0) throw new ConfigError("setting 'to': say either host and port, or path")
  if (!named.includes('path')) {
    if (host === undefined) throw new ConfigError("setting 'to.host' is missing")
    if (port === undefined) throw new ConfigError("setting 'to.port' is missing")
    return { host, port }
  }
  if (path === undefined || !isAbsolute(path) || path.includes('\0'))
    throw new ConfigError("setting 'to.path': must be an absolute path")
  if (isSocketPathTooLong(path))
    throw new ConfigError(
      `setting 'to.path': a socket's path has at most ${LONGEST_SOCKET_PATH} bytes here, this one ${Buffer.byteLength(path)}`,
    )
  return { path }
}

/** ConfigError, for an address outside the loopback as well. */
export function loadOutboundConfig(sources: Sources): OutboundConfig {
  const config = loadConfig(OutboundConfig, { prefix: 'MILAGRO_OUTBOUND', ...sources })
  const { host } = config.listen
  if (!(host === 'localhost' || host === '::1' || (isIP(host) === 4 && host.startsWith('127.'))))
    throw new ConfigError(
      "setting 'listen.host': an outbound gateway listens on the loopback only, since whoever reaches it speaks as the device",
    )
  return config
}

/** ConfigError, for two lists of devices or none as well. */
export function loadPskFileConfig(sources: Sources): PskFileConfig {
  const config = loadConfig(PskFileConfig, { prefix: 'MILAGRO_PSK_FILE', ...sources })
  if ((config.fleetUrl === undefined) === (config.devicesFile === undefined))
    throw new ConfigError("say one of the settings 'fleetUrl' and 'devicesFile'")
  return config
}

/** ConfigError names the first setting that is wrong. */
export function loadServiceConfig(sources: Sources): ServiceConfig {
  return loadConfig(ServiceConfig, { prefix: 'MILAGRO_SERVICE', ...sources })
}

/** `host:port`, or an absolute path. ConfigError names the flag. */
export function serviceFlag(text: string): ServiceAddress {
  return isAbsolute(text) ? { path: text } : addressFlag(text, '--to', 'no host:port and no absolute path')
}

/** `host:port`, `[::1]:port`. ConfigError, which names the flag. */
export function addressFlag(
  text: string,
  flag: string,
  isNone = 'no host:port',
): { readonly host: string; readonly port: number } {
  const [, v6, name, port] = /^(?:\[([^\]]+)\]|([^:[\]]+)):(\d{1,5})$/.exec(text) ?? []
  const host = v6 ?? name
  if (host === undefined || Number(port) > 65_535) throw new ConfigError(`${flag}: '${text}' is ${isNone}`)
  return { host, port: Number(port) }
}
