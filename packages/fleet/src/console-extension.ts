/// <reference lib="dom" />
/** What an extension of the console is: a module `main.js` in a folder that fleet's settings name. */
import type { Client } from '@milagro-ts/api/call'
import type { fleetRoutes } from './fleet-routes.js'

export interface ExtensionHost {
  /** The service that the extension talks to, and that the operator has logged in to for it. */
  readonly audience: string | undefined
  /** `Bearer …` for that service. */
  authorization(options?: { readonly fresh?: boolean }): Promise<string>
  /** Fleet's own routes, as the operator. */
  readonly fleet: Client<typeof fleetRoutes>
}

export interface Extension {
  /** Draws into `element`, and gives the function that ends it. It runs in fleet's origin: it is trusted as fleet is. */
  mount(element: HTMLElement, host: ExtensionHost): () => void
}
