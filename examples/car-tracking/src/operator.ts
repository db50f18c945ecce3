/** The operator of the example: enrolled with the setup code that fleet prints once, logged in by M-Pin everywhere. */
import { type Client, createClient } from '@milagro-ts/api/call'
import { Device } from '@milagro-ts/client/device'
import type { DeviceOptions } from '@milagro-ts/client/ports'
import { fleetRoutes } from '@milagro-ts/fleet/fleet-routes'
import { trackingRoutes } from './tracking-routes.js'

export interface OperatorOptions extends DeviceOptions {
  readonly fleet: string
  readonly tracking: string
  readonly pin: string
  /** From fleet's `setup-code` event, at its first start. */
  readonly setup?: Setup | undefined
}
export interface Setup {
  readonly operator: string
  readonly code: string
}

export class Operator {
  readonly device: Device
  readonly fleet: Client<typeof fleetRoutes>
  readonly tracking: Client<typeof trackingRoutes>
  readonly #close: () => void

  private constructor(device: Device, options: OperatorOptions, sessions: Sessions) {
    this.device = device
    const { fetch = globalThis.fetch } = options
    this.fleet = createClient(fleetRoutes, {
      baseUrl: options.fleet,
      fetch,
      authorize: () => sessions.fleet.authorization(),
    })
    this.tracking = createClient(trackingRoutes, {
      baseUrl: options.tracking,
      fetch,
      authorize: () => sessions.tracking.authorization(),
    })
    this.#close = () => {
      sessions.fleet.close()
      sessions.tracking.close()
    }
  }

  /** Enrols if there is a setup code, and logs in. Throws what the SDK throws. */
  static async open(options: OperatorOptions): Promise<Operator> {
    const { setup, pin, fleet, tracking } = options
    const device =
      setup === undefined
        ? await Device.open(options)
        : await Device.enrol({
            ...options,
            code: setup.code,
            instance: `operator:${setup.operator}`,
            attributes: { operator: setup.operator },
          })
    const sessions = {
      fleet: await device.session({ audience: fleet, pin }),
      tracking: await device.session({ audience: tracking, pin }),
    }
    return new Operator(device, options, sessions)
  }

  close(): void {
    this.#close()
  }
}

type Sessions = Readonly<Record<'fleet' | 'tracking', Awaited<ReturnType<Device['session']>>>>
