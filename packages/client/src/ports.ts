/** The world as the SDK sees it, and its defaults. */
import { type Client, createClient } from '@milagro-ts/api/call'
import { dtaRoutes } from '@milagro-ts/api/dta-routes'
import type { Fault } from '@milagro-ts/api/quorum'
import { rpsRoutes } from '@milagro-ts/api/rps-routes'
import { systemClock, systemRandom } from '@milagro-ts/api/system'
import type { Clock, Random } from '@milagro-ts/crypto/ports'
import { PermitCache } from './permit-cache.js'
import { DEFAULT_COST, type PinCost } from './pin-stretch.js'
import type { Wait } from './repeat.js'
import { RpsKeys } from './rps-keys.js'
import { clockTime, type DeviceTime, ServerTime } from './time.js'
import type { TokenStore } from './token-store.js'
import type { Unlocker } from './unlocker.js'

/** How authorities are reached: by themselves, through the RPS, or through the RPS where they can't be reached. */
export type Reach = 'direct' | 'relay' | 'either'

/** A connection to the RPS that a login is bound to; bound-fetch.ts makes one, in Node. */
export interface BoundConnection {
  /** 32 bytes that its two ends have in common, and nobody else (RFC 9266). */
  readonly tlsExporter: Uint8Array
  /** What it sends goes over this connection, or fails. */
  readonly fetch: typeof fetch
  close(): void
}

export interface DeviceOptions {
  /** Address of the RPS. */
  readonly rps: string
  /** The RPS' own audience, if it isn't its address. */
  readonly rpsAudience?: string
  readonly store: TokenStore
  /** Which identity of the store to open, by M-Pin ID or instance, where it holds several. */
  readonly identity?: string
  /** Where α_hw comes from; without one the store alone holds the device key. */
  readonly unlocker?: Unlocker
  /** `none`: the device has no clock that it trusts, and takes the RPS' signed time. */
  readonly clock?: Clock | 'none'
  readonly pinCost?: PinCost
  readonly reach?: Reach
  /** Address of the folder with the group's permit bundles, on any HTTP server or cache: asked before the RPS is. */
  readonly bundles?: string
  /** The cache had no permit, or none that holds; the RPS is asked instead. */
  readonly onCacheFault?: (error: Error) => void
  readonly random?: Random
  readonly fetch?: typeof fetch
  readonly wait?: Wait
  /** Monotonic milliseconds from any origin. */
  readonly ticks?: () => number
  /** An authority lied or failed, though enough others answered. */
  readonly onFault?: (fault: Fault) => void
}

export interface Ports {
  readonly rps: Client<typeof rpsRoutes>
  /** The same over one connection. TypeError where the RPS' address isn't https. */
  readonly rpsOver: (connection: BoundConnection) => Client<typeof rpsRoutes>
  readonly rpsAudience: string
  readonly rpsKeys: RpsKeys
  readonly authority: (url: string) => Client<typeof dtaRoutes>
  readonly time: DeviceTime
  readonly unlocker: Unlocker | undefined
  readonly pinCost: PinCost
  readonly reach: Reach
  readonly permitCache: PermitCache | undefined
  readonly onCacheFault: (error: Error) => void
  readonly random: Random
  readonly wait: Wait
  readonly ticks: () => number
  readonly onFault: (fault: Fault) => void
}

/** Milliseconds for a direct call to an authority: behind many firewalls it is never answered, and the relay waits. */
const DIRECT_TIMEOUT = 5_000

export const systemWait: Wait = milliseconds => new Promise(resolve => setTimeout(resolve, milliseconds))

export function portsOf(options: DeviceOptions): Ports {
  const {
    fetch = globalThis.fetch,
    clock = systemClock,
    random = systemRandom,
    ticks = () => performance.now(),
  } = options
  const baseUrl = options.rps.replace(/\/$/, '')
  const rps = createClient(rpsRoutes, { baseUrl, fetch })
  const rpsKeys = new RpsKeys(rps)
  return {
    rps,
    rpsOver: connection => {
      if (!baseUrl.startsWith('https:'))
        throw new TypeError(`logins are bound to TLS connections, and ${baseUrl} is no https address`)
      return createClient(rpsRoutes, { baseUrl, fetch: connection.fetch })
    },
    rpsAudience: options.rpsAudience ?? baseUrl,
    rpsKeys,
    authority: url => createClient(dtaRoutes, { baseUrl: url, fetch, timeout: DIRECT_TIMEOUT }),
    time: clock === 'none' ? new ServerTime({ rps, keys: rpsKeys, random, ticks }) : clockTime(clock),
    unlocker: options.unlocker,
    pinCost: options.pinCost ?? DEFAULT_COST,
    reach: options.reach ?? 'either',
    permitCache: options.bundles === undefined ? undefined : new PermitCache(options.bundles, fetch),
    onCacheFault: options.onCacheFault ?? (() => undefined),
    random,
    wait: options.wait ?? systemWait,
    ticks,
    onFault: options.onFault ?? (() => undefined),
  }
}
