/**
 * A service of a group, ready to serve TLS: its slot keys, the stream of ban events, permits, and the door between them.
 *
 *   openTlsService   group document followed through the RPS, slot keys from the authorities, ban events and devices'
 *                    permits and attributes from the RPS
 *   {...service}     for the servers of tls, https and http2, in the place of key and cert
 *   service.close    everybody is put out, nothing is asked any more
 */
import { type Client, createClient } from '@milagro-ts/api/call'
import { dtaRoutes } from '@milagro-ts/api/dta-routes'
import type { Group } from '@milagro-ts/api/group'
import type { Es256PrivateKey, HpkeKeyPair } from '@milagro-ts/api/keys'
import type { Log } from '@milagro-ts/api/log'
import type { Metrics } from '@milagro-ts/api/metrics'
import { nodeExchange } from '@milagro-ts/api/node-exchange'
import type { Rate } from '@milagro-ts/api/rate-limit'
import { requestSigner } from '@milagro-ts/api/request-auth'
import { startServerPool } from '@milagro-ts/api/server-pool'
import { systemClock, systemRandom, systemTimers, type Timers } from '@milagro-ts/api/system'
import type { Clock, Random } from '@milagro-ts/crypto/ports'
import { Guard } from '@milagro-ts/rpa/guard'
import { Door } from './door.js'
import { FollowedGroup } from './followed-group.js'
import { Permits } from './permits.js'
import { mayPass } from './recipient-shares.js'
import { SlotKeys } from './slot-keys.js'

/** Milliseconds for one call to an authority. */
const TIMEOUT = 5_000

export interface TlsServiceOptions {
  /** The server's name among the recipients of the group document, with purpose `agree`, and its keys there. */
  readonly name: string
  readonly requestKey: Es256PrivateKey
  readonly hpkeKey: HpkeKeyPair
  /** The pinned group; later revisions come from the RPS. */
  readonly group: Group
  /** The RPS' origin. */
  readonly rpsUrl: string
  readonly log: Log
  /** Where is counted what befalls the threads (`pool_batch`, `pool_full`, `pool_crash`) and sources (`pairings_turned_away`). */
  readonly metrics?: Pick<Metrics, 'count'>
  /**
   * Of one source, pairings that no handshake came of; 500 and 50 a second unless said. More where a load balancer, or a
   * carrier's NAT, is everybody's source: one stranger behind it takes them from all who come newly.
   */
  readonly pairingsPerSource?: Rate
  /** Threads for pairings; one less than there are processors, at least one, unless said. */
  readonly workers?: number
  readonly clock?: Clock
  readonly random?: Random
  readonly timers?: Timers
  /**
   * For every request. Unless said it is the platform's for streams and authorities, and node's own HTTP client for what the RPS is
   * asked: about each device that comes, and for the group document.
   */
  readonly fetch?: typeof fetch
  /** Milliseconds before the end of a slot at which `permit-ending` is told; a minute unless said. */
  readonly warnBefore?: number
  /**
   * Resolves also while too few authorities answer: nobody is let in until they have given the key of the slot. Unless said it rejects, and
   * whoever called tries again.
   */
  readonly waits?: boolean
}

export interface TlsService {
  readonly door: Door
  readonly timers: Timers
  readonly log: Log
  close(): Promise<void>
}

/**
 * Resolves once there is a key for the current slot, with `waits` at the latest after the first attempt. Until the first ban
 * events have come nobody is let in. Rejects with Refused where too few authorities gave a share: FORBIDDEN (NotNamed: by the
 * group document) and UNAUTHENTICATED (not in the document), FROZEN, and without `waits` RETRY_LATER; Unreachable where only the RPS can
 * say whether a later revision names the server, and doesn't.
 */
export async function openTlsService(options: TlsServiceOptions): Promise<TlsService> {
  const {
    name,
    requestKey,
    hpkeKey,
    rpsUrl,
    log,
    metrics = { count() {} },
    pairingsPerSource,
    workers,
    clock = systemClock,
    random = systemRandom,
    timers = systemTimers,
    fetch = globalThis.fetch,
    warnBefore = 60_000,
    waits = false,
  } = options
  const guard = new Guard({
    rpsUrl,
    audience: name,
    name,
    requestKey,
    group: options.group,
    random,
    clock,
    timers,
    fetch,
    exchange: options.fetch === undefined ? nodeExchange : undefined,
    log,
    changed: () => door.look(),
  })
  const followed = new FollowedGroup(options.group, { rps: guard.rps, timers, log })
  const group = () => followed.current
  const authorize = requestSigner({ name, key: requestKey, clock, random })
  const authorities = new Map<string, Client<typeof dtaRoutes>>()
  const authority = ({ url }: { readonly url: string }) => {
    const client =
      authorities.get(url) ?? createClient(dtaRoutes, { baseUrl: url, timeout: TIMEOUT, authorize, fetch })
    authorities.set(url, client)
    return client
  }
  const pool = startServerPool({ config: { workers } }, { clock, random, timers, log, metrics })
  const keys = new SlotKeys({
    name,
    hpkeKey,
    authority,
    group,
    follow: () => followed.follow(),
    pool,
    clock,
    random,
    timers,
    log,
  })
  const rule = () => ({ slotRule: group().slotRule, grace: group().policy.grace })
  const permits = new Permits({ guard, group, pool })
  const door = new Door({
    keys,
    bans: guard.follower,
    permitted: (idCore, slot) => permits.of(idCore, slot),
    rule,
    pool,
    clock,
    random,
    timers,
    log,
    metrics,
    pairingsPerSource,
    warnBefore,
  })
  const close = async () => {
    followed.close()
    door.stop()
    await guard.stop()
    await pool.close()
  }
  guard.start()
  try {
    // The group at hand may be of before this server was named, or got its keys.
    await followed.orByNewer(() => keys.complete())
  } catch (error) {
    if (!waits || !mayPass(error)) {
      await close()
      throw error
    }
    log.warn(
      { err: error },
      'no key for the current slot yet: nobody can come in until the authorities give it',
    )
  }
  door.start()
  return { door, timers, log, close }
}
