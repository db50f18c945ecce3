/** What every part of an authority works with: its keys, its groups, its store, and the world as ports. */
import type { Log } from '@milagro-ts/api/log'
import type { Metrics } from '@milagro-ts/api/metrics'
import { Refused } from '@milagro-ts/api/problem'
import type { RateLimit } from '@milagro-ts/api/rate-limit'
import type { CryptoPool } from '@milagro-ts/crypto/node-pool'
import type { Clock, Random } from '@milagro-ts/crypto/ports'
import type { Store } from '@milagro-ts/store/database'
import type { Acceptance } from './acceptance.js'
import type { AuthorityKeys } from './authority-keys.js'
import type { Groups } from './groups.js'
import type { Leaves } from './leaves.js'
import type { LedgerMark } from './ledger-mark.js'
import type { Policy } from './policy.js'
import type { RecordSeal } from './record-seal.js'
import type { ShareVault } from './share-vault.js'

export interface Authority {
  readonly name: string
  /** Its addresses in group documents, one for each group; none: any. */
  readonly publicUrls: readonly string[]
  readonly keys: AuthorityKeys
  /** Seals whatever secret is made later on. */
  readonly passphrase: string
  readonly groups: Groups
  readonly vault: ShareVault
  /** Seals what is remembered of ceremonies. */
  readonly records: RecordSeal
  readonly policy: Policy
  readonly acceptance: Acceptance
  /** Of everything that is issued, by group and kind: whoever holds a ticket can't use up the permits. */
  readonly issueLimit: RateLimit
  /** Of slot keys, by group, device and slot. */
  readonly slotKeyLimit: RateLimit
  /** Hashes of requests for slot keys that have no line in the log yet. */
  readonly slotKeysUnderWay: Set<string>
  readonly ledgerMark: LedgerMark
  readonly leaves: Leaves
  readonly store: Store<unknown>
  /** Multiplications by s_j, and whatever else takes long. */
  readonly pool: CryptoPool
  readonly clock: Clock
  readonly random: Random
  readonly log: Log
  readonly metrics: Metrics
}

/** NOT_APPROVED for a document that gives this authority an address that isn't one of its own. */
export function refuseAddress(publicUrls: readonly string[], url: string): void {
  if (publicUrls.length > 0 && !publicUrls.includes(url))
    throw new Refused('NOT_APPROVED', { detail: `this authority's address is ${publicUrls.join(' or ')}` })
}
