/** What the programs beside this are given: who they are, and what they say. */

import type { TlsService } from '@milagro-ts/tls/service'
import type { TlsIdentity } from '@milagro-ts/tls/tls'

/** A server's and a client's, of one CA. */
export interface Certificates {
  readonly key: string
  readonly cert: string
  readonly ca: string
}

/** What `openTlsService` resolves to, as far as a server asks, and a Device. */
export interface Identities {
  readonly service: Pick<TlsService, 'timers' | 'log'> & { readonly door: TlsService['door'] }
  readonly car: TlsIdentity
}

export type Say = (line: string) => void
