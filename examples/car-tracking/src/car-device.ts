/**
 * A car's settings as the SDK wants them, and what the car gets before it needs it: the next slot's permit, out of the
 * bundles where the settings say where these are, and the step to a key epoch that is announced. So a car that drives into
 * the next slot without a network, or past the first slot of new keys, asks nobody.
 */
import { join } from 'node:path'
import type { Timers } from '@milagro-ts/api/system'
import type { Ahead } from '@milagro-ts/client/ahead'
import type { Device } from '@milagro-ts/client/device'
import { fileTokenStore } from '@milagro-ts/client/file-token-store'
import type { DeviceOptions } from '@milagro-ts/client/ports'
import type { CarConfig } from './car-config.js'

export type DeviceEvent =
  /** The bundles had no permit, or none that holds; the RPS was asked. */
  | { readonly event: 'no-bundle'; readonly why: string }
  /** An attempt to get ahead failed; it is made again. */
  | { readonly event: 'not-ahead'; readonly why: string }

type Say = (event: DeviceEvent) => void

export function deviceOptionsOf(config: CarConfig, say: Say): DeviceOptions {
  const { rps, dataDir, bundles, slowIterations } = config
  return {
    rps,
    store: fileTokenStore(join(dataDir, 'token.json')),
    ...(bundles === undefined
      ? {}
      : { bundles, onCacheFault: ({ message }) => say({ event: 'no-bundle', why: message }) }),
    ...(slowIterations === undefined
      ? {}
      : { pinCost: { iterations: slowIterations, slowDevice: true as const } }),
  }
}

/** From now on, until what is returned is closed. */
export function keepAhead(device: Device, say: Say, timers?: Timers): Ahead {
  return device.keepAhead({
    ...(timers === undefined ? {} : { timers }),
    onError: error =>
      say({ event: 'not-ahead', why: error instanceof Error ? error.message : String(error) }),
  })
}
