/**
 * An operator in the browser: a device of their own, whose key lies sealed in IndexedDB, and a PIN that is typed at
 * every visit. From a login on, one session for each service keeps an access token in memory.
 */
import { type Client, createClient } from '@milagro-ts/api/call'
import type { Answer } from '@milagro-ts/api/route'
import { browserTokenStore } from '@milagro-ts/client/browser-token-store'
import { Device } from '@milagro-ts/client/device'
import type { Session } from '@milagro-ts/client/session'
import { consoleRoutes } from '../src/console-routes.js'
import { fleetRoutes } from '../src/fleet-routes.js'

export type Fleet = Client<typeof fleetRoutes>
export type ConsoleSettings = Answer<(typeof consoleRoutes)['consoleSettings']>

const store = browserTokenStore({ name: 'fleet-console' })

/** Where this page stands: what it may ask without a login. */
export const loadSettings = (): Promise<ConsoleSettings> =>
  createClient(consoleRoutes, { baseUrl: location.origin }).consoleSettings({})

/** Names of the operators whose keys this browser keeps. */
export async function knownOperators(): Promise<readonly string[]> {
  const identities = await Device.list(store)
  return identities
    .filter(({ mpinId }) => mpinId !== undefined)
    .map(({ instance }) => instance.replace(/^operator:/, ''))
}

/** Enrols this browser with a setup code, or opens what was enrolled before by the same code. */
export async function enrolOperator(
  settings: ConsoleSettings,
  enrolment: { readonly operator: string; readonly code: string; readonly pin: string },
): Promise<ConsoleSession> {
  const { operator, code, pin } = enrolment
  const device = await Device.enrol({
    ...optionsOf(settings),
    code: code.trim(),
    instance: `operator:${operator}`,
    attributes: { operator },
    pin,
    replace: true,
  })
  return ConsoleSession.begin(settings, device, operator, pin)
}

export async function logInOperator(
  settings: ConsoleSettings,
  { operator, pin }: { readonly operator: string; readonly pin: string },
): Promise<ConsoleSession> {
  const device = await Device.open({ ...optionsOf(settings), identity: `operator:${operator}` })
  return ConsoleSession.begin(settings, device, operator, pin)
}

/** Authorities are reached through the RPS: a page of another origin can't call them. */
const optionsOf = ({ rps }: ConsoleSettings) => ({ rps, store, reach: 'relay' }) as const

export class ConsoleSession {
  readonly operator: string
  readonly fleet: Fleet
  readonly settings: ConsoleSettings
  readonly #sessions: ReadonlyMap<string, Session>

  private constructor(settings: ConsoleSettings, operator: string, sessions: ReadonlyMap<string, Session>) {
    this.settings = settings
    this.operator = operator
    this.#sessions = sessions
    this.fleet = createClient(fleetRoutes, {
      baseUrl: location.origin,
      authorize: () => this.authorization(settings.audience),
      fetch: async (input, init) => {
        const answer = await fetch(input, init)
        if (answer.status !== 401) return answer
        // A token may end on its way; nothing was done then, so the request is made once more with a fresh one.
        await answer.body?.cancel()
        const headers = new Headers(init?.headers)
        headers.set('authorization', await this.authorization(settings.audience, { fresh: true }))
        return fetch(input, { ...init, headers })
      },
    })
  }

  /** One login for each service, all with the PIN that was typed; it is not kept. */
  static async begin(
    settings: ConsoleSettings,
    device: Device,
    operator: string,
    pin: string,
  ): Promise<ConsoleSession> {
    const audiences = [settings.audience, ...settings.extensions.flatMap(({ audience }) => audience ?? [])]
    const sessions = new Map<string, Session>()
    // One after the other: a wrong PIN is then one strike, not several.
    for (const audience of new Set(audiences)) sessions.set(audience, await device.session({ audience, pin }))
    return new ConsoleSession(settings, operator, sessions)
  }

  /** `Bearer …` for a service. TypeError for one that this console doesn't log in to. */
  authorization(audience: string, options?: { readonly fresh?: boolean }): Promise<string> {
    const session = this.#sessions.get(audience)
    if (session === undefined) throw new TypeError(`no session for ${audience}`)
    return session.authorization(options)
  }

  close(): void {
    for (const session of this.#sessions.values()) session.close()
  }
}
