/**
 * The gateways as processes (api/process.ts): settings, keys, health and metrics; SIGHUP reads the settings again, and
 * SIGTERM lets connections end first.
 */
import type { Server } from 'node:net'
import type { Readiness } from '@milagro-ts/api/admin'
import { type Environment, readSecret } from '@milagro-ts/api/config'
import { type Listen, refuseListen } from '@milagro-ts/api/listen'
import { createLog, type Log } from '@milagro-ts/api/log'
import { createMetrics, type Metrics } from '@milagro-ts/api/metrics'
import { runProcess, type Serving, say } from '@milagro-ts/api/process'
import { systemRandom, systemTimers } from '@milagro-ts/api/system'
import type { DeviceOptions } from '@milagro-ts/client/ports'
import { openAdmin } from './admin-listener.js'
import type { GatewaySettings } from './gateway.js'
import {
  addressFlag,
  GATEWAY_RELOADABLE,
  type GatewayConfig,
  loadGatewayConfig,
  loadOutboundConfig,
  type OutboundConfig,
  serviceFlag,
} from './gateway-config.js'
import type { OutboundSettings } from './outbound-gateway.js'
import { ReloadableSettings } from './reloadable-settings.js'
import { makeService, readService } from './service-folder.js'

/** From the command line; each goes before its setting. */
export interface GatewayFlags {
  readonly config?: string | undefined
  /** `host:port`. */
  readonly listen?: string | undefined
  /** The same, or an absolute path. */
  readonly to?: string | undefined
  readonly pass?: string | undefined
  /** Make the keys, say their public parts, and end. */
  readonly init?: boolean | undefined
}
export interface OutboundFlags {
  readonly config?: string | undefined
  readonly listen?: string | undefined
  readonly to?: string | undefined
  readonly server?: string | undefined
  readonly store?: string | undefined
  readonly unlocker?: string | undefined
  readonly identity?: string | undefined
  readonly rps?: string | undefined
}

/** Connections that wait to be taken. */
const BACKLOG = 511

/** Never rejects. */
export function runGateway(flags: GatewayFlags, env: Environment): Promise<void> {
  return runProcess('tls gateway', async () => {
    const settings = new ReloadableSettings(
      () =>
        loadGatewayConfig({
          file: flags.config,
          env,
          flags: {
            ...address('listen', flags.listen),
            ...(flags.to === undefined ? {} : { to: serviceFlag(flags.to) }),
            ...given('pass', flags.pass),
          },
        }),
      GATEWAY_RELOADABLE,
    )
    const config = settings.current
    const { name } = config
    const passphrase = readSecret('MILAGRO_GATEWAY_PASSPHRASE', env)
    if (flags.init === true) {
      say({ event: 'initialised', ...(await makeService(config, passphrase)) })
      return null
    }
    const parts = await readService(config, passphrase)
    const log = createLog(name, { level: config.logLevel ?? 'info' })
    const metrics = createMetrics('milagro_gateway')
    // Loaded only now, so that a start that is refused says so at once.
    const [{ Gateway }, { openTlsService }] = await Promise.all([
      import('./gateway.js'),
      import('./service.js'),
    ])
    const { workers } = config
    const service = await openTlsService({
      ...parts,
      log,
      metrics,
      ...(workers === undefined ? {} : { workers }),
    })
    const { door } = service
    const gateway = new Gateway({
      door,
      timers: systemTimers,
      log,
      metrics,
      settings: () => gatewaySettings(settings.current),
    })
    const ready = async (): Promise<Readiness> => ({
      ok: door.isOpen,
      checks: {
        events: door.hears || 'the ban events are not heard: nobody comes in',
        slotKey: door.isOpen || !door.hears || 'no key for this slot yet',
        // Said, not counted: who asks for health would stop sending anybody, and nobody would find it back.
        service: gateway.service,
      },
    })
    return serving(gateway, {
      settings,
      log,
      metrics,
      ready,
      end: () => service.close(),
    }).catch(async (error: unknown) => {
      await service.close()
      throw error
    })
  })
}

/** Never rejects. */
export function runOutbound(flags: OutboundFlags, env: Environment): Promise<void> {
  return runProcess('tls gateway --outbound', async () => {
    const { server, store, unlocker, identity, rps } = flags
    const settings = new ReloadableSettings(
      () =>
        loadOutboundConfig({
          file: flags.config,
          env,
          flags: {
            ...address('listen', flags.listen),
            ...address('to', flags.to),
            ...given('server', server),
            ...given('store', store),
            ...given('unlocker', unlocker),
            ...given('identity', identity),
            ...(rps === undefined ? {} : { rps: { url: rps } }),
          },
        }),
      GATEWAY_RELOADABLE,
    )
    const config = settings.current
    const log = createLog('outbound', { level: config.logLevel ?? 'info' })
    const metrics = createMetrics('milagro_outbound')
    const [{ OutboundGateway }, { Device }, options] = await Promise.all([
      import('./outbound-gateway.js'),
      import('@milagro-ts/client/device'),
      deviceOptions(config),
    ])
    const device = await Device.open(options)
    const gateway = new OutboundGateway({
      identity: device,
      timers: systemTimers,
      log,
      metrics,
      settings: () => outboundSettings(settings.current),
    })
    return serving(gateway, {
      settings,
      log,
      metrics,
      ready: async () => ({ ok: true, checks: { service: gateway.service } }),
      end: async () => undefined,
    })
  })
}

async function deviceOptions({ rps, store, unlocker, identity }: OutboundConfig): Promise<DeviceOptions> {
  const [{ fileTokenStore }, { fileUnlocker }, { dirname }] = await Promise.all([
    import('@milagro-ts/client/file-token-store'),
    import('@milagro-ts/client/file-unlocker'),
    import('node:path'),
  ])
  return {
    rps: rps.url,
    store: fileTokenStore(store),
    ...(identity === undefined ? {} : { identity }),
    ...(unlocker === undefined
      ? {}
      : { unlocker: fileUnlocker({ file: unlocker, dataFolder: dirname(store), random: systemRandom }) }),
  }
}

interface ServingParts {
  readonly settings: {
    readonly current: Pick<OutboundConfig, 'listen' | 'adminListen' | 'drainSeconds'>
    reload(log: Log): boolean
  }
  readonly log: Log
  readonly metrics: Metrics
  readonly ready: () => Promise<Readiness>
  readonly end: () => Promise<void>
}

/** Listens on both, and how that ends. PortTaken, ConfigError. */
async function serving(
  gateway: { readonly server: Server; close(within: number): Promise<void> },
  { settings, log, metrics, ready, end }: ServingParts,
): Promise<Serving> {
  const { listen, adminListen } = settings.current
  await listenOn(gateway.server, listen).catch((error: unknown) => refuseListen('listen', listen, error))
  const title = 'Gateway: administration'
  const admin = await openAdmin(adminListen, { title, log, metrics, ready }).catch((error: unknown) => {
    gateway.server.close()
    throw error
  })
  const urls = { listen: addressOf(gateway.server), ...admin.urls }
  log.info(urls, 'serving')
  return {
    urls,
    // Gateways look at their settings whenever they need one.
    reload: async () => void settings.reload(log),
    async close() {
      await gateway.close((settings.current.drainSeconds ?? 10) * 1000)
      await admin.close()
      await end()
    },
  }
}

function listenOn(server: Server, { host, port }: Listen): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen({ host, port, backlog: BACKLOG }, () => {
      server.off('error', reject)
      resolve()
    })
  })
}

function addressOf(server: { address(): unknown }): string {
  const { address, port, family } = server.address() as { address: string; port: number; family: string }
  return `${family === 'IPv6' ? `[${address}]` : address}:${port}`
}

function gatewaySettings(config: GatewayConfig): GatewaySettings {
  const { to, pass, passName = 'mpinId', connectionsPerDevice = 16, handshakesPerSource = 100 } = config
  const limits = limitsOf(config)
  const { handshakes = limits.connections } = config
  return { to, pass, name: passName, connectionsPerDevice, handshakes, handshakesPerSource, ...limits }
}
function outboundSettings(config: OutboundConfig): OutboundSettings {
  const { to, server } = config
  return { to, server, ...limitsOf(config) }
}
function limitsOf({
  connections = 1_000,
  idleSeconds = 3_600,
  patienceSeconds = 10,
}: Pick<GatewayConfig, 'connections' | 'idleSeconds' | 'patienceSeconds'>) {
  return { connections, idle: idleSeconds * 1000, patience: patienceSeconds * 1000 }
}

function address(name: 'listen' | 'to', text: string | undefined) {
  return text === undefined ? {} : { [name]: addressFlag(text, `--${name}`) }
}
const given = (name: string, value: unknown) => (value === undefined ? {} : { [name]: value })
