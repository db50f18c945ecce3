/** The operator of the example: enrolled with the setup code that fleet prints once, logged in by M-Pin everywhere. */
import { type Client, createClient } from '@milagro-ts/api/call'
import { Device } from '@milagro-ts/client/device'
import type { DeviceOptions } from '@milagro-ts/client/ports'
import type { Session } from '@milagro-ts/client/session'
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
      fetch: renewing(fetch, sessions.fleet),
      authorize: () => sessions.fleet.authorization(),
    })
    this.tracking = createClient(trackingRoutes, {
      baseUrl: options.tracking,
      fetch: renewing(fetch, sessions.tracking),
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

type Sessions = Readonly<Record<'fleet' | 'tracking', Session>>

/** A token may end on its way; nothing was done then, so the request is made once more with a fresh one. */
function renewing(fetch: typeof globalThis.fetch, session: Session): typeof globalThis.fetch {
  return async (input, init) => {
    const first = await fetch(input, init)
    if (first.status !== 401) return first
    await first.body?.cancel()
    const headers = new Headers(init?.headers)
    headers.set('authorization', await session.authorization({ fresh: true }))
    return fetch(input, { ...init, headers })
  }
}
