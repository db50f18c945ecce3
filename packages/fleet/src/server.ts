/**
 * Fleet as a server: the RPS' callbacks and the operators' API on the public listener, health and metrics on the
 * admin one. Callbacks prove themselves with the RPS' request key, operators with an access token.
 */
import { mkdir } from 'node:fs/promises'
import { adminTokenOf, createAdmin, type Readiness } from '@milagro-ts/api/admin'
import { ConfigError } from '@milagro-ts/api/config'
import type { KeyCheck } from '@milagro-ts/api/group'
import { listenBoth } from '@milagro-ts/api/listen'
import { createLog, type Log } from '@milagro-ts/api/log'
import { createMetrics, type Metrics } from '@milagro-ts/api/metrics'
import { PeerClocks } from '@milagro-ts/api/peer-clocks'
import { Refused } from '@milagro-ts/api/problem'
import { DEVICES_PAGE, registerRoutes } from '@milagro-ts/api/register-routes'
import { serverCallerCheck } from '@milagro-ts/api/request-auth'
import { rpaRoutes } from '@milagro-ts/api/rpa-routes'
import { createApp, type Input, type Meta, mount } from '@milagro-ts/api/serve'
import { threadKeyCheck } from '@milagro-ts/api/server-pool'
import type { Signer } from '@milagro-ts/api/statements'
import { systemTimers, type Timers } from '@milagro-ts/api/system'
import { fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import { IdCore } from '@milagro-ts/crypto/identity'
import type { Clock, Random } from '@milagro-ts/crypto/ports'
import { createCallbacks } from '@milagro-ts/rpa/callbacks'
import { RegistrationAuthority } from '@milagro-ts/rpa/registration-authority'
import type { Store } from '@milagro-ts/store/database'
import { openSingleUse, type SingleUse } from '@milagro-ts/store/single-use'
import { StoreError } from '@milagro-ts/store/store-error'
import type { FastifyInstance } from 'fastify'
import { AuditTrail } from './audit.js'
import { Bans } from './bans.js'
import { Codes } from './codes.js'
import type { FleetConfig } from './config.js'
import { serveConsole } from './console.js'
import { noteEndedKeys } from './ended-keys.js'
import { Enrolments, forgetExpired } from './enrolments.js'
import { type FleetHandlers, fleetHandlers } from './fleet-handlers.js'
import { type FleetKeys, fleetKeys, makeRaKey, readRaKeys, storeRaKey } from './fleet-keys.js'
import { fleetRoutes } from './fleet-routes.js'
import { GroupInForce } from './group-in-force.js'
import { forgetHooks, Hooks } from './hooks.js'
import { LeafCeiling } from './leaf-ceiling.js'
import { NextRevision } from './next-revision.js'
import { type Operator, type OperatorCode, Operators } from './operators.js'
import { Outbox } from './outbox.js'
import { Reconciliation } from './reconciliation.js'
import { Register } from './register.js'
import { RpsView } from './rps-view.js'
import type { FleetSchema } from './schema.js'
import { RowSeal } from './sealed-rows.js'
import { Templates } from './templates.js'

const DAY = 86_400
/** Milliseconds between two purges, and between two looks for a later revision of the group document. */
const HOUSEKEEPING = 60_000
/** Expired request ids are kept a little longer than they count. */
const PURGE_SLACK = 120_000

export interface FleetOptions {
  readonly config: FleetConfig
  /** Opens and seals every secret in the data folder. */
  readonly passphrase: string
  /** Opened with `migrations` of schema.ts. Closed by its opener. */
  readonly store: Store<FleetSchema>
  readonly clock: Clock
  readonly random: Random
  /** The console's pages, as built; without it there are none. */
  readonly pagesFolder?: string | undefined
  readonly log?: Log
  readonly metrics?: Metrics
  readonly timers?: Timers
  readonly fetch?: typeof fetch
  /** Where the sums and pairings of a group document are computed: in a thread, unless a test has it otherwise. */
  readonly keyCheck?: KeyCheck
}

export interface Fleet {
  readonly app: FastifyInstance
  readonly admin: FastifyInstance
  readonly adminToken: string
  readonly groupId: Uint8Array
  /** Makes the first operator's code, once: null when there is one, or an operator. It is told nowhere else. */
  setupCode(): Promise<OperatorCode | null>
  /** A code for an operator, made at the server's own machine. */
  recoveryCode(operator: string): Promise<OperatorCode>
  /** Listens on both. Rejects when a port is taken. */
  start(): Promise<{ url: string; adminUrl: string }>
  close(): Promise<void>
}

/** ConfigError for settings, StoreError for a wrong passphrase and for what is damaged. */
export async function createFleet(options: FleetOptions): Promise<Fleet> {
  const { config, store, clock, random } = options
  const log =
    options.log ?? createLog('fleet', config.logLevel === undefined ? {} : { level: config.logLevel })
  const metrics = options.metrics ?? createMetrics('milagro_fleet')
  const timers = options.timers ?? systemTimers
  const fetcher = options.fetch ?? fetch
  const { groupFile, groupId } = config
  if (groupFile === undefined || groupId === undefined)
    throw new ConfigError("settings 'groupFile' and 'groupId' are missing")

  const { seal, signers: first, requestKey } = await openFleetKeys(options)
  let signers: readonly Signer[] = first
  const rps = { rpsUrl: config.rps.url, fetch: fetcher }
  const group = await GroupInForce.open({
    store,
    groupFile,
    groupId: fromBase64Url(groupId, 'groupId', 32),
    ...rps,
    keyCheck: options.keyCheck ?? threadKeyCheck({ clock, random, timers }),
    log,
  })
  const leaves = LeafCeiling.open(config.dataDir)
  const authority = new RegistrationAuthority({
    group: () => group.current,
    signers: () => signers,
    clock,
    random,
  })
  const outbox = new Outbox({ store, authority, ...rps, clock, timers, log })
  const wake = () => outbox.wake()
  const codes = new Codes({
    seal,
    random,
    groupId: () => group.current.groupId,
    lifetime: (config.codeDays ?? 14) * DAY,
  })
  const templates = new Templates({ store, seal, random, clock, groupId: () => group.current.groupId })
  const hooks = new Hooks({
    config: config.hooks,
    store,
    signer: { name: config.name, key: requestKey },
    fetch: fetcher,
    clock,
    random,
    timers,
    log,
  })
  const bans = new Bans({ store, clock, timers, wake })
  const register = new Register({ store, codes, clock, wake })
  const enrolments = new Enrolments({
    store,
    authority,
    codes,
    templates,
    hooks,
    bans,
    clock,
    wake,
    nextLeaf: tx => leaves.next(tx),
    devicePurposes: config.devicePurposes ?? ['device', 'agree'],
    lifetime: (config.registrationDays ?? 7) * DAY,
    pendingLimit: config.pendingLimit ?? 1000,
  })
  const operators = new Operators({
    store,
    register,
    bans,
    clock,
    ...rps,
    issuer: config.rps.issuer ?? config.rps.url,
    publicUrl: config.publicUrl,
    withPin: config.operatorPin !== 'never',
  })
  const nextRevision = new NextRevision({
    store,
    seal,
    group,
    signers: () => signers,
    setSigners: changed => {
      signers = changed
    },
    clock,
    ...rps,
    log,
  })
  const reconciliation = new Reconciliation({ store, group, fetch: fetcher, clock, timers, log, metrics })
  await reconciliation.begin()
  const singleUse = openSingleUse(store)

  const trust = config.trustProxy === undefined ? {} : { trustProxy: config.trustProxy }
  const app = createApp({ title: 'Fleet: a relying-party application', log, metrics, ...trust })
  const trail = new AuditTrail({ store, clock, log })
  const callbacks = createCallbacks({ authority, directory: enrolments, rpsName: config.rpsName })
  const clocks = new PeerClocks({ clock, log })
  const rpsCheck = serverCallerCheck({
    keyOf: name => group.current.recipient(name)?.requestKey,
    singleUse,
    clock,
    publicUrl: config.publicUrl,
    clocks,
  })
  mount(
    app,
    rpaRoutes,
    trail.around(rpaRoutes, callbacks, () => 'rps'),
    {
      server: meta => rpsCheck(meta),
    },
  )
  mount(app, registerRoutes, { devices: input => devicesFor(group, register, input) }, { server: rpsCheck })
  const ports = {
    store,
    register,
    enrolments,
    templates,
    bans,
    operators,
    nextRevision,
    reconciliation,
    outbox,
    hooks,
    group,
    rpsView: new RpsView({ name: config.name, key: requestKey, clock, random, ...rps }),
  }
  const operatorRoutes = trail.around(
    fleetRoutes,
    fleetHandlers(ports),
    ({ caller }: { caller: Operator }) => caller.actor,
  ) as FleetHandlers
  mount<typeof fleetRoutes, undefined, Operator>(app, fleetRoutes, operatorRoutes, {
    operator: (meta: Meta) => operators.check(meta),
  })

  if (options.pagesFolder !== undefined) await serveConsole(app, config, options.pagesFolder)

  const adminToken = adminTokenOf(config.dataDir, random)
  const admin = createAdmin({
    title: 'Fleet: administration',
    log,
    metrics,
    ready: () => readiness(store, group, signers, clocks),
    adminToken,
    table: {},
    handlers: {},
  })

  let endHousekeeping = () => {}
  let housekeeping: Promise<unknown> = Promise.resolve()
  let following: Promise<unknown> | undefined
  return {
    app,
    admin,
    adminToken,
    groupId: group.current.groupId,
    setupCode: () => operators.setupCode(config.firstOperator ?? 'admin'),
    recoveryCode: name => operators.recoveryCode(name),
    async start() {
      const urls = await listenBoth({ app, admin }, config)
      await bans.watch()
      outbox.start()
      hooks.start()
      reconciliation.start()
      const keepHouse = () => {
        const before = Math.floor(clock() / 1000) - (config.auditDays ?? 365) * DAY
        const duties = [nextRevision.carryOn(), purge(store, singleUse, clock(), before)]
        housekeeping = Promise.all(duties).catch((error: unknown) =>
          log.error({ err: error }, 'housekeeping failed; tried again later'),
        )
      }
      const noteEnded = async () => {
        if (await noteEndedKeys(store, group.current, Math.floor(clock() / 1000)))
          log.info('keys of revoked devices have ended: they are left out from the next event on')
      }
      // What is signed here is of the key epoch of its slot: a new one must be known before its first slot.
      const follow = () => {
        following ??= group
          .refresh()
          .then(noteEnded)
          .catch((error: unknown) =>
            log.error({ err: error }, 'the group document was not kept; tried again later'),
          )
          .finally(() => {
            following = undefined
          })
      }
      const third = Math.ceil((group.current.slotRule.length * 1000) / 3)
      const ends = [
        timers.every(HOUSEKEEPING, keepHouse),
        timers.every(Math.min(HOUSEKEEPING, third), follow),
      ]
      endHousekeeping = () => {
        for (const end of ends) end()
      }
      follow()
      keepHouse()
      log.info({ ...urls, revision: group.current.revision }, 'serving')
      return urls
    },
    async close() {
      endHousekeeping()
      await Promise.all([
        app.close(),
        admin.close(),
        bans.stop(),
        outbox.stop(),
        hooks.stop(),
        reconciliation.stop(),
        housekeeping,
        following,
      ])
    },
  }
}

/** Every device of the register, for who needs a list of them: static servers, as the group document names them. */
async function devicesFor(
  group: GroupInForce,
  register: Register,
  { caller, query }: Input<(typeof registerRoutes)['devices'], undefined, undefined>,
) {
  if (group.current.recipient(caller.name)?.kind !== 3)
    throw new Refused('FORBIDDEN', { detail: `${caller.name} is no static server of the group` })
  const after = query.after === undefined ? undefined : IdCore.fromBase64Url(query.after, 'after').bytes
  const found = await register.inForce(after, DEVICES_PAGE + 1)
  return { devices: found.slice(0, DEVICES_PAGE).map(toBase64Url), more: found.length > DEVICES_PAGE }
}

/** Fleet's keys; made when the data folder is new. */
export async function openFleetKeys({
  config,
  passphrase,
  store,
  random,
  clock,
}: Pick<FleetOptions, 'config' | 'passphrase' | 'store' | 'random' | 'clock'>): Promise<
  FleetKeys & { readonly seal: RowSeal; readonly signers: readonly Signer[] }
> {
  const { dataDir, name } = config
  await mkdir(dataDir, { recursive: true, mode: 0o700 })
  const used = await store.db.selectFrom('ra_key').select('kid').executeTakeFirst()
  const folder = { dataDir, name, passphrase }
  if (await fleetKeys.exists(dataDir)) {
    const keys = await fleetKeys.read(folder)
    // Nobody knows a new one: the group document names those that were made together with keys.sealed.
    if (used === undefined)
      throw new StoreError(
        'missing',
        `fleet.sqlite in ${dataDir} has none of the RA keys that were made with keys.sealed: restore it from a backup ` +
          'or, if it is lost for good, begin with another dataDir (docs/operations.md)',
      )
    const seal = new RowSeal(keys.dataKey, random)
    return { ...keys, seal, signers: await readRaKeys(store.db, seal) }
  }
  if (used !== undefined)
    throw new StoreError('missing', `${dataDir} has RA keys but no keys.sealed: restore it from a backup`)
  const keys = await fleetKeys.make(folder, random)
  const seal = new RowSeal(keys.dataKey, random)
  await storeRaKey(store.db, seal, await makeRaKey(), Math.floor(clock() / 1000))
  return { ...keys, seal, signers: await readRaKeys(store.db, seal) }
}

async function readiness(
  store: Store<FleetSchema>,
  group: GroupInForce,
  signers: readonly Signer[],
  clocks: PeerClocks,
): Promise<Readiness> {
  const { m, keys } = group.current.raKeys
  const named = signers.filter(({ kid, key }) => keys.get(kid)?.equals(key.publicKey)).length
  const writable = await store.writable()
  return {
    ok: writable && named >= m && clocks.standing.ok,
    checks: {
      store: writable || 'the database cannot be written',
      raKeys: named >= m || `the group wants ${m} RA signatures and names ${named} of our keys`,
      clock: clocks.standing.check,
    },
  }
}

async function purge(
  store: Store<FleetSchema>,
  singleUse: SingleUse,
  now: number,
  auditBefore: number,
): Promise<void> {
  await singleUse.purge(now - PURGE_SLACK)
  await store.db.deleteFrom('audit').where('at', '<', auditBefore).execute()
  await forgetExpired(store.db, Math.floor(now / 1000))
  await forgetHooks(store.db, Math.floor(now / 1000))
}
