/** What every part of an authority works with: its keys, its groups, its store, and the world as ports. */
import type { Log } from '@milagro-ts/api/log'
import type { Metrics } from '@milagro-ts/api/metrics'
import type { RateLimit } from '@milagro-ts/api/rate-limit'
import type { CryptoPool } from '@milagro-ts/crypto/node-pool'
import type { Clock, Random } from '@milagro-ts/crypto/ports'
import type { Store } from '@milagro-ts/store/database'
import type { Acceptance } from './acceptance.js'
import type { AuthorityKeys } from './authority-keys.js'
import type { Groups } from './groups.js'
import type { LedgerMark } from './ledger-mark.js'

export interface Authority {
  readonly name: string
  /** Its address in group documents, if configured. */
  readonly publicUrl: string | undefined
  readonly keys: AuthorityKeys
  /** Seals whatever secret is made later on. */
  readonly passphrase: string
  readonly groups: Groups
  readonly acceptance: Acceptance
  /** Of everything that is issued, by group and kind: whoever holds a ticket can't use up the permits. */
  readonly issueLimit: RateLimit
  readonly ledgerMark: LedgerMark
  readonly store: Store<unknown>
  /** Multiplications by s_j, and whatever else takes long. */
  readonly pool: CryptoPool
  readonly clock: Clock
  readonly random: Random
  readonly log: Log
  readonly metrics: Metrics
}
