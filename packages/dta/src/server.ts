/**
 * A distributed trust authority: the public listener with everything that is issued and agreed, the admin listener
 * with health, metrics and the operator's few moves.
 */
import { adminTokenOf, createAdmin, type Readiness } from '@milagro-ts/api/admin'
import type { Round } from '@milagro-ts/api/ceremony'
import { ConfigError } from '@milagro-ts/api/config'
import { dtaAdminRoutes, dtaRoutes } from '@milagro-ts/api/dta-routes'
import { makeFolder } from '@milagro-ts/api/folder'
import type { Group, GroupAuthority } from '@milagro-ts/api/group'
import type { GroupDocument } from '@milagro-ts/api/group-document'
import { listenBoth } from '@milagro-ts/api/listen'
import { createLog, type Log } from '@milagro-ts/api/log'
import { consistencyProof, inclusionProof, type NodeAt } from '@milagro-ts/api/merkle-tree'
import { createMetrics, type Metrics } from '@milagro-ts/api/metrics'
import { PeerClocks } from '@milagro-ts/api/peer-clocks'
import { Refused } from '@milagro-ts/api/problem'
import { RateLimit, sourceOf } from '@milagro-ts/api/rate-limit'
import { serverCallerCheck } from '@milagro-ts/api/request-auth'
import { createApp, type Handlers, type Meta, mount, type ServerCaller } from '@milagro-ts/api/serve'
import { poolKeyCheck, startServerPool } from '@milagro-ts/api/server-pool'
import { systemTimers, type Timers } from '@milagro-ts/api/system'
import { fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import type { CryptoPool, PoolOptions } from '@milagro-ts/crypto/node-pool'
import type { Clock, Random } from '@milagro-ts/crypto/ports'
import { SUITE } from '@milagro-ts/crypto/suite'
import type { Connection, Store } from '@milagro-ts/store/database'
import { openSingleUse, type SingleUse } from '@milagro-ts/store/single-use'
import { StoreError } from '@milagro-ts/store/store-error'
import type { FastifyInstance } from 'fastify'
import { Acceptance } from './acceptance.js'
import type { Authority } from './authority.js'
import { type AuthorityKeys, authorityKeys } from './authority-keys.js'
import { Ceremonies } from './ceremonies.js'
import type { DtaConfig } from './config.js'
import { issueDeltas } from './deltas.js'
import { announceDeparture, leaveWhatIsOver, takeBackDeparture } from './departure.js'
import { endOvertaken } from './ended-ceremonies.js'
import { Foundings } from './founding.js'
import { freeze, isFrozen, unfreeze } from './freeze.js'
import { Groups, unknownGroup } from './groups.js'
import { issuedUpTo, logHead, readIssuance, treeNodes } from './issuance-log.js'
import { cosignLeaves, Leaves } from './leaves.js'
import { LedgerMark } from './ledger-mark.js'
import { EXCHANGE_INTERVAL, LogExchange, logEvidence } from './log-exchange.js'
import { issueNodeShares, issuePermitShare } from './permits.js'
import { type Counted, Policy, purgeQuotas, usedToday } from './policy.js'
import { RecordSeal } from './record-seal.js'
import {
  abandonRevision,
  concludeRevision,
  releaseRevision,
  revisionStatus,
  signRevision,
} from './revisions.js'
import { issueServerKey } from './server-keys.js'
import { SealedVault, type ShareVault } from './share-vault.js'
import { issueShare } from './shares.js'
import { issueSlotKey, SLOT_KEYS } from './slot-keys.js'

const ADDRESS_RATE = { perSecond: 50, burst: 500 }
const GROUP_RATE = { perSecond: 200, burst: 2_000 }
/** Devices and slots whose allowance of slot keys is remembered. */
const SLOT_KEY_SOURCES = 100_000
/** Milliseconds between two purges of what has expired. */
const PURGE_INTERVAL = 60_000

export interface DtaOptions {
  readonly config: DtaConfig
  /** Opens and seals every secret in the data folder. */
  readonly passphrase: string
  /** Opened with `dtaMigrations`. Closed by its opener. */
  readonly store: Store<unknown>
  readonly clock: Clock
  readonly random: Random
  readonly log?: Log
  readonly metrics?: Metrics
  readonly timers?: Timers
  /** Asks the other members. */
  readonly fetch?: typeof fetch
  /** Where master shares are kept: sealed in the store unless said. */
  readonly vault?: ShareVault
  /** Starts the workers; a test may have them from another file. */
  readonly startPool?: (options: PoolOptions) => CryptoPool
}

export interface Dta {
  readonly app: FastifyInstance
  readonly admin: FastifyInstance
  readonly adminToken: string
  /** Listens on both. Rejects when a port is taken. */
  start(): Promise<{ url: string; adminUrl: string }>
  /** A file that is wrong changes nothing, and is said in the log. */
  reloadPolicy(): Promise<void>
  /** Looks at the other members' logs now, rather than at the next round. */
  exchangeLogs(): Promise<void>
  close(): Promise<void>
}

/** StoreError for a wrong passphrase, and for files and documents that are damaged or don't belong together. */
export async function createDta(options: DtaOptions): Promise<Dta> {
  const { config, passphrase, store, clock, random } = options
  const log = options.log ?? createLog('dta', config.logLevel === undefined ? {} : { level: config.logLevel })
  const metrics = options.metrics ?? createMetrics('milagro_dta')
  const policy = Policy.open(config.policyFile)
  const keys = await openKeys(options)
  const pool = startServerPool(options, { clock, random, log, metrics })
  const hpkeSecret = keys.hpkeKey.secret()
  const vault = options.vault ?? new SealedVault({ store, passphrase, hpkeSecret, random })
  const records = RecordSeal.of(keys.hpkeKey.secret(), 'ceremony-record')
  const leave = async () => {
    const left = await leaveWhatIsOver({ store, vault, records, clock, random })
    for (const groupId of left)
      log.warn({ groupId }, 'the departure has come: the shares of the group are destroyed')
  }
  const check = poolKeyCheck(pool)
  const load = async () => {
    await leave()
    await store.atomic(connection => endOvertaken(connection, { records, random }))
    // A crash may have come between a conclusion and this.
    await vault.shred()
    return Groups.load({ store, vault, signKey: keys.signKey.publicKey, check, clock })
  }
  const groups = await load().catch(async (error: unknown) => {
    await pool.close()
    throw error
  })
  const ledgerMark = await LedgerMark.open(config.dataDir)
  await freezeForgetful(store, groups, ledgerMark, log)
  const singleUse = openSingleUse(store)
  const authority: Authority = {
    name: config.name,
    publicUrls: config.publicUrls ?? (config.publicUrl === undefined ? [] : [config.publicUrl]),
    keys,
    passphrase,
    groups,
    vault,
    records,
    policy,
    acceptance: new Acceptance(store),
    ledgerMark,
    leaves: new Leaves(store),
    issueLimit: new RateLimit(config.rateLimit?.group ?? GROUP_RATE, clock),
    slotKeyLimit: new RateLimit(SLOT_KEYS, clock, SLOT_KEY_SOURCES),
    slotKeysUnderWay: new Set(),
    store,
    pool,
    clock,
    random,
    log,
    metrics,
  }
  const foundings = new Foundings(authority)
  const ceremonies = new Ceremonies(authority)
  const logs = new LogExchange(authority, options.fetch ?? fetch)
  const clocks = new PeerClocks({ clock, log })
  const sources = new RateLimit(config.rateLimit?.address ?? ADDRESS_RATE, clock)

  const trust = config.trustProxy === undefined ? {} : { trustProxy: config.trustProxy }
  const app = createApp({ title: 'Distributed trust authority', log, metrics, ...trust })
  // Calls that only a server makes count apart: an RPS relays for devices, and what those ask for without end must not
  // cost the fleet its permits.
  const serverPaths = new Set<string | undefined>(
    Object.values(dtaRoutes).flatMap(({ caller, path }) => (caller === 'server' ? [path] : [])),
  )
  app.addHook('onRequest', async ({ ip, routeOptions }) => {
    const source = sourceOf(ip)
    sources.take(serverPaths.has(routeOptions.url) ? `${source} server` : source)
  })
  if (config.publicUrls !== undefined) {
    app.addHook('onRequest', async ({ host, routeOptions, params }) => {
      if (!routeOptions.url?.startsWith('/v1/groups/:groupId')) return
      const { group, index } = groups.find((params as { groupId: string }).groupId)
      const own = group.authority(index) as GroupAuthority
      // One group's name leads to no other's, and doesn't say that there are others.
      if (host !== new URL(own.url).host) throw unknownGroup()
    })
  }
  mount(app, dtaRoutes, publicHandlers({ authority, foundings, ceremonies, logs }), {
    server: serverCheck(authority, singleUse, clocks),
  })

  const adminToken = adminTokenOf(config.dataDir, random)
  const admin = createAdmin({
    title: 'Distributed trust authority: administration',
    log,
    metrics,
    ready: () => readiness(authority, clocks),
    adminToken,
    table: dtaAdminRoutes,
    handlers: adminHandlers({ authority, foundings, ceremonies }),
  })

  const purge = () => {
    const duties = [
      singleUse.purge(clock()),
      store.atomic(connection => purgeQuotas(connection, clock())),
      ceremonies.between(leave).then(() => vault.sweep()),
    ]
    void Promise.all(duties).catch(error => log.error({ err: error }, 'purge failed; tried again later'))
  }
  let ends: readonly (() => void)[] = []
  let exchange: Promise<void> = Promise.resolve()
  return {
    app,
    admin,
    adminToken,
    async start() {
      const urls = await listenBoth({ app, admin }, config).catch(async (error: unknown) => {
        await pool.close()
        throw error
      })
      const timers = options.timers ?? systemTimers
      ends = [
        timers.every(PURGE_INTERVAL, purge),
        timers.every(EXCHANGE_INTERVAL, () => {
          exchange = logs.exchange()
        }),
      ]
      log.info({ ...urls, groups: groups.all.length }, 'serving')
      return urls
    },
    reloadPolicy: async () => {
      try {
        policy.reload()
        log.warn('the policy file is read anew')
      } catch (error) {
        if (!(error instanceof ConfigError)) throw error
        log.error({ why: error.message }, 'the policy in force stays')
      }
    },
    exchangeLogs: () => logs.exchange(),
    async close() {
      for (const end of ends) end()
      await Promise.all([app.close(), admin.close(), exchange])
      await pool.close()
    },
  }
}

/** The authority's keys; made when the data folder is new. */
export async function openKeys({
  config,
  passphrase,
  store,
  random,
}: Pick<DtaOptions, 'config' | 'passphrase' | 'store' | 'random'>): Promise<AuthorityKeys> {
  const { dataDir, name } = config
  await makeFolder(dataDir)
  const folder = { dataDir, name, passphrase }
  if (await authorityKeys.exists(dataDir)) return authorityKeys.read(folder)
  const used = await store.atomic(connection =>
    connection.all('SELECT 1 FROM founding UNION ALL SELECT 1 FROM ceremony LIMIT 1'),
  )
  if (used.length > 0)
    throw new StoreError('missing', `${dataDir} has ceremonies but no keys.sealed: restore it from a backup`)
  return authorityKeys.make(folder, random)
}

/**
 * A database that was put back from a backup has forgotten whom keys were issued to since. Nothing more is issued for
 * its groups until the operator, who knows what happened, unfreezes them.
 */
async function freezeForgetful(
  store: Store<unknown>,
  groups: Groups,
  ledgerMark: LedgerMark,
  log: Log,
): Promise<void> {
  for (const { group } of groups.all) {
    const groupId = toBase64Url(group.groupId)
    const forgotten = await store.atomic(connection => {
      const missing = ledgerMark.of(groupId) - issuedUpTo(connection, group.groupId)
      if (missing > 0) freeze(connection, group.groupId)
      return missing
    })
    if (forgotten > 0)
      log.error({ groupId, forgotten }, 'frozen: the database is older than what was issued last')
  }
}

/** What the routes are about. */
interface Parts {
  readonly authority: Authority
  readonly foundings: Foundings
  readonly ceremonies: Ceremonies
  readonly logs: LogExchange
}

function publicHandlers({ authority, foundings, ceremonies, logs }: Parts): Handlers<typeof dtaRoutes> {
  const { name, keys, groups, store } = authority
  return {
    authority: async () => ({
      suite: SUITE,
      name,
      signKey: keys.signKey.publicKey.toBase64Url(),
      hpkeKey: toBase64Url(keys.hpkeKey.publicKey),
    }),
    joinFounding: ({ params, body }) => foundings.join(params.proposalHash, body.proposal),
    openFounding: ({ params, body }) => foundings.open(params.proposalHash, body.joins),
    signFounding: ({ params, body }) => foundings.sign(params.proposalHash, body.openings),
    concludeFounding: ({ params, body }) => foundings.conclude(params.proposalHash, body.document),
    joinCeremony: ({ params, body }) => ceremonies.join(params.ceremonyHash, body.proposal, body.revisions),
    ceremonyRound: ({ params, body }) =>
      ceremonies.move(params.ceremonyHash, params.round as Round, body.rounds),
    signCeremony: ({ params, body }) => ceremonies.sign(params.ceremonyHash, body.rounds),
    concludeCeremony: ({ params, body }) => ceremonies.conclude(params.ceremonyHash, body.document),
    readCeremonyLedger: ({ params, query }) => ceremonies.readLedger(params.ceremonyHash, query.after),
    adoptCeremonyLedger: ({ params, body }) => ceremonies.adoptLedger(params.ceremonyHash, body.page),
    group: async ({ params, query }) => documentOf(groups.find(params.groupId).group, query.revision),
    shares: async ({ params, body }) => issueShare(authority, groups.find(params.groupId), body),
    serverKeys: async ({ params, caller, body }) =>
      issueServerKey(authority, groups.find(params.groupId), caller, body),
    slotKeys: async ({ params, body, meta }) =>
      issueSlotKey(authority, groups.find(params.groupId), body, sourceOf(meta.ip)),
    deltas: async ({ params, caller, body }) =>
      issueDeltas(authority, groups.find(params.groupId), caller, body),
    permits: async ({ params, caller, body }) =>
      issuePermitShare(authority, groups.find(params.groupId), caller, body),
    leaves: async ({ params, caller, body }) =>
      cosignLeaves(authority, groups.find(params.groupId), caller, body),
    nodePermits: async ({ params, caller, body }) =>
      issueNodeShares(authority, groups.find(params.groupId), caller, body),
    proposeRevision: async ({ params, body }) => signRevision(authority, groups.find(params.groupId), body),
    concludeRevision: ({ params, body }) =>
      ceremonies.between(async () => concludeRevision(authority, groups.find(params.groupId), body.document)),
    log: async ({ params, query }) => {
      const { groupId } = groups.find(params.groupId).group
      const from = Number(query.from ?? 1)
      return { entries: await store.atomic(connection => readIssuance(connection, groupId, from)) }
    },
    logHead: ({ params }) => logs.heads(groups.find(params.groupId)),
    logConsistency: ({ params, query }) => {
      const [before, after] = [Number(query.before), Number(query.after)]
      if (before > after) throw new DecodeError('before', 'a log grows')
      return logProof(authority, params.groupId, after, nodeAt => consistencyProof(before, after, nodeAt))
    },
    logInclusion: ({ params, query }) => {
      const [number, size] = [Number(query.number), Number(query.size)]
      if (number < 1 || number > size) throw new DecodeError('number', 'from 1 to size')
      return logProof(authority, params.groupId, size, nodeAt => inclusionProof(number - 1, size, nodeAt))
    },
  }
}

/** Refused NOT_FOUND where the log has fewer entries than `size`. */
function logProof(
  { groups, store }: Authority,
  name: string,
  size: number,
  make: (nodeAt: NodeAt) => Uint8Array[],
): Promise<{ proof: string[] }> {
  const { groupId } = groups.find(name).group
  return store.atomic(connection => {
    if (size > issuedUpTo(connection, groupId))
      throw new Refused('NOT_FOUND', { detail: 'the log has fewer entries' })
    return { proof: make(treeNodes(connection, groupId)).map(toBase64Url) }
  })
}

/** Refused NOT_FOUND for a revision that isn't there. */
function documentOf(group: Group, revision: string | undefined): GroupDocument {
  const document = revision === undefined ? group.document : group.documents[Number(revision) - 1]
  if (document === undefined) throw new Refused('NOT_FOUND', { detail: 'no such revision' })
  return document
}

function adminHandlers({
  authority,
  foundings,
  ceremonies,
}: Omit<Parts, 'logs'>): Handlers<typeof dtaAdminRoutes> {
  const { groups, store, log } = authority
  const setFrozen = async (params: { groupId: string }, recipient: string | undefined, frozen: boolean) => {
    const { group } = groups.find(params.groupId)
    if (recipient !== undefined && group.recipient(recipient) === undefined)
      throw new Refused('NOT_FOUND', { detail: 'the group has no such recipient' })
    const set = frozen ? freeze : unfreeze
    const now = await store.atomic(connection => {
      set(connection, group.groupId, recipient)
      return {
        frozen: isFrozen(connection, group.groupId, recipient),
        issued: issuedUpTo(connection, group.groupId),
      }
    })
    // The operator's word that the ledger as it stands is the one to go on with.
    if (!frozen && recipient === undefined) await authority.ledgerMark.reset(params.groupId, now.issued)
    log.warn({ groupId: params.groupId, recipient: recipient ?? 'all', frozen }, 'operator: freeze')
    return { frozen: now.frozen }
  }
  return {
    status: async () => ({
      name: authority.name,
      groups: await store.atomic(connection =>
        groups.all.map(({ group }) => {
          const { groupId } = group
          const { size, root } = logHead(connection, groupId)
          const policy = authority.policy.of(groupId)
          const used = (counted: Counted) =>
            usedToday(connection, counted, { groupId, policy, now: authority.clock() })
          const leavesAt = groups.leavesAt(toBase64Url(groupId))
          const [alarms] = connection.all('SELECT count(*) AS n FROM alarm WHERE group_id = ?', [
            group.groupId,
          ])
          return {
            groupId: toBase64Url(group.groupId),
            revision: group.revision,
            frozen: isFrozen(connection, group.groupId),
            issued: size,
            logRoot: toBase64Url(root),
            alarms: Number(alarms?.n),
            policy,
            used: { keys: used('keys'), permits: used('permits') },
            ...(leavesAt === undefined ? {} : { leavesAt }),
          }
        }),
      ),
      evidence: (await store.atomic(logEvidence)).map(({ heads, ...found }) => ({
        ...found,
        heads: [...heads],
      })),
      proposals: await foundings.status(),
      ceremonies: await ceremonies.status(),
      revisions: await revisionStatus(authority),
    }),
    accept: async ({ body }) => {
      await authority.acceptance.accept(fromBase64Url(body.hash, 'hash', 32), authority.clock())
      log.info({ hash: body.hash }, 'operator: accepted')
      return { accepted: body.hash }
    },
    reject: async ({ body }) => {
      await ceremonies.reject(fromBase64Url(body.hash, 'hash', 32), body.reason)
      log.info({ hash: body.hash }, 'operator: rejected')
      return { rejected: body.hash }
    },
    abandonRevision: async ({ params, body }) => {
      const hash = fromBase64Url(body.documentHash, 'documentHash', 32)
      return { abandonment: await abandonRevision(authority, groups.find(params.groupId), hash) }
    },
    releaseRevision: async ({ params, body: { documentHash, abandonments } }) => {
      const hash = fromBase64Url(documentHash, 'documentHash', 32)
      await releaseRevision(authority, groups.find(params.groupId), { hash, abandonments })
      return { released: documentHash }
    },
    freeze: ({ params, body }) => setFrozen(params, body.recipient, true),
    unfreeze: ({ params, body }) => setFrozen(params, body.recipient, false),
    leave: async ({ params, body }) => {
      await announceDeparture(authority, params.groupId, body.leavesAt)
      return { leavesAt: body.leavesAt }
    },
    stay: async ({ params }) => {
      await takeBackDeparture(authority, params.groupId)
      return {}
    },
    reloadPolicy: async () => {
      try {
        authority.policy.reload()
      } catch (error) {
        if (!(error instanceof ConfigError)) throw error
        throw new Refused('CONFLICT', { detail: error.message })
      }
      log.warn('operator: the policy file is read anew')
      return {}
    },
  }
}

/**
 * Recipients are known per group, so the caller's key comes from the document of the group in the path. The address
 * that a request is bound to is the one that the document gives for this authority.
 */
function serverCheck(
  authority: Authority,
  singleUse: SingleUse,
  clocks: PeerClocks,
): (meta: Meta) => Promise<ServerCaller> {
  return async meta => {
    const groupId = /^\/v1\/groups\/([A-Za-z0-9_-]{42}[AEIMQUYcgkosw048])\//.exec(meta.url)?.[1]
    if (groupId === undefined) throw new Refused('MALFORMED', { field: 'groupId' })
    const { group, index } = authority.groups.find(groupId)
    const check = serverCallerCheck({
      keyOf: name => group.recipient(name)?.requestKey,
      singleUse,
      clock: authority.clock,
      publicUrl: (group.authority(index) as { url: string }).url,
      clocks,
    })
    return check(meta)
  }
}

async function readiness({ store, clock, groups }: Authority, clocks: PeerClocks): Promise<Readiness> {
  const writable = await store.writable()
  const newest = writable ? await store.atomic(connection => newestEntry(connection, groups)) : 0
  const behind = newest > clock() / 1000 + 60
  const checks = {
    store: writable || 'the database cannot be written',
    clock: behind ? 'the clock is behind the issuance log' : clocks.standing.check,
    groups: groups.all.length > 0 || 'no group yet',
  }
  return { ok: writable && !behind && clocks.standing.ok, checks }
}

/** Unix seconds; 0 where nothing was ever issued. */
function newestEntry(connection: Connection, groups: Groups): number {
  const times = groups.all.map(({ group }) => {
    const [last] = connection.all('SELECT at FROM issuance WHERE group_id = ? ORDER BY number DESC LIMIT 1', [
      group.groupId,
    ])
    return Number(last?.at ?? 0)
  })
  return Math.max(0, ...times)
}
