/**
 * The authentication server: the public listener with everything that devices, services and the RPA ask, the admin
 * listener with health and metrics. Each route's handler says in a few lines what it asks of a message; how a message
 * is verified stands in verification.ts alone.
 */
import { adminTokenOf, createAdmin, type Readiness } from '@milagro-ts/api/admin'
import { UnexpectedAnswer, Unreachable } from '@milagro-ts/api/call'
import { exporterOf } from '@milagro-ts/api/channel-binding'
import { ConfigError } from '@milagro-ts/api/config'
import { makeFolder } from '@milagro-ts/api/folder'
import type { Group, GroupAuthority } from '@milagro-ts/api/group'
import { listenBoth } from '@milagro-ts/api/listen'
import { createLog, type Log } from '@milagro-ts/api/log'
import { createMetrics, type Metrics } from '@milagro-ts/api/metrics'
import { PeerClocks } from '@milagro-ts/api/peer-clocks'
import { type Code, Refused } from '@milagro-ts/api/problem'
import { RateLimit, sourceOf } from '@milagro-ts/api/rate-limit'
import { serverCallerCheck } from '@milagro-ts/api/request-auth'
import { rpsRoutes } from '@milagro-ts/api/rps-routes'
import type { AuthenticatedFields } from '@milagro-ts/api/schemas'
import { type CallerChecks, createApp, type Handlers, type Meta, mount } from '@milagro-ts/api/serve'
import { ServerCertificate } from '@milagro-ts/api/server-certificate'
import { poolKeyCheck, startServerPool } from '@milagro-ts/api/server-pool'
import { VerifiedSlotKeyRequest } from '@milagro-ts/api/slot-key-request'
import { SseWriter } from '@milagro-ts/api/sse'
import { verifyTicket } from '@milagro-ts/api/statements'
import { systemTimers, type Timers } from '@milagro-ts/api/system'
import { fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { IdCore, NO_USER } from '@milagro-ts/crypto/identity'
import { authorizationBytes, LoginClaim, MODE } from '@milagro-ts/crypto/mpin'
import type { CryptoPool, PoolOptions } from '@milagro-ts/crypto/node-pool'
import type { Clock, Random } from '@milagro-ts/crypto/ports'
import { sha256 } from '@milagro-ts/crypto/sha256'
import type { Store } from '@milagro-ts/store/database'
import { openSingleUse, type SingleUse } from '@milagro-ts/store/single-use'
import { StoreError } from '@milagro-ts/store/store-error'
import type { FastifyInstance } from 'fastify'
import { Accounts } from './accounts.js'
import { Audiences } from './audiences.js'
import { Authorities } from './authorities.js'
import { type AuthorityStanding, AuthorityWatch } from './authority-watch.js'
import type { RpsConfig } from './config.js'
import { EventStream } from './event-stream.js'
import { GroupDocuments } from './group-documents.js'
import { Identities } from './identities.js'
import { IdentityPermits } from './identity-permits.js'
import { KeyRotations } from './key-rotations.js'
import { currentSlot, isSlotNow, Nonces, slotEnd } from './nonces.js'
import { Notices } from './notices.js'
import { Otts } from './otts.js'
import { Permits } from './permits.js'
import { type ProveSigned, Registrations } from './registrations.js'
import { RelyingParty } from './relying-party.js'
import { Revocation } from './revocation.js'
import { type RpsKeys, rpsKeys } from './rps-keys.js'
import { SERVER_KEY_PURPOSES, ServerKeys } from './server-keys.js'
import { authenticatedFields, Tokens, userFields } from './tokens.js'
import { TreePermits } from './tree-permits.js'
import {
  type Attempt,
  REPLAY_KEPT,
  type Verification,
  type VerificationPorts,
  verification,
} from './verification.js'

const ADDRESS_RATE = { perSecond: 200, burst: 2_000 }
const FAILED_PROOF_RATE = { perSecond: 2, burst: 60 }
/** Δ in seconds. */
const DELTA = 60
/** Milliseconds between two purges of what has expired. */
const PURGE_INTERVAL = 60_000
/** Milliseconds that a used-up nonce is still told from an unknown one. */
const EXPIRED_KEPT = 60_000
/** Milliseconds between two attempts to get what the server can't do without. */
const RETRY_INTERVAL = 5_000
/** Milliseconds between two looks at which permits of the cover are missing. */
const TICK_INTERVAL = 1_000
/** Milliseconds between two looks at the authorities. */
const LOOK_INTERVAL = 30_000

export interface RpsOptions {
  readonly config: RpsConfig
  /** Opens and seals every secret in the data folder. */
  readonly passphrase: string
  /** Opened with `rpsMigrations`. Closed by its opener. */
  readonly store: Store<unknown>
  readonly clock: Clock
  readonly random: Random
  readonly log?: Log
  readonly metrics?: Metrics
  readonly timers?: Timers
  readonly fetch?: typeof fetch
  /** How messages are verified. Anything but the default is for tests that must see a broken server noticed. */
  readonly verify?: Verification
  /** Starts the workers; a test may have them from another file. */
  readonly startPool?: (options: PoolOptions) => CryptoPool
}

export interface Rps {
  readonly app: FastifyInstance
  readonly admin: FastifyInstance
  readonly adminToken: string
  /** Listens on both, and makes one attempt to fetch server keys and revocation state. Rejects when a port is taken. */
  start(): Promise<{ url: string; adminUrl: string }>
  /** Reads certificate and key again, where there are any; files that are wrong change nothing, and the log says so. */
  readonly renewCertificate: (() => Promise<void>) | undefined
  close(): Promise<void>
}

/** Everything that the handlers share. */
interface Parts {
  readonly config: RpsConfig
  readonly store: Store<unknown>
  readonly clock: Clock
  readonly clocks: PeerClocks
  readonly log: Log
  readonly singleUse: SingleUse
  readonly audiences: Audiences
  readonly documents: GroupDocuments
  readonly authorities: Authorities
  readonly watch: AuthorityWatch
  /** A revision of the group document was taken in. */
  readonly onRevision: () => void
  readonly relyingParty: RelyingParty
  readonly notices: Notices
  readonly accounts: Accounts
  readonly identities: Identities
  readonly permits: Permits
  readonly revocation: Revocation
  readonly registrations: Registrations
  readonly failedRegistrations: RateLimit
  readonly rotations: KeyRotations
  readonly serverKeys: ServerKeys
  readonly nonces: Nonces
  readonly otts: Otts
  readonly tokens: Tokens
  readonly events: EventStream
  readonly verify: Verification
  readonly verificationPorts: () => Promise<VerificationPorts>
}

/**
 * ConfigError for settings that don't fit the group document, and for a certificate that is none; StoreError for a wrong passphrase, and for files that are
 * damaged or don't belong together.
 */
export async function createRps(options: RpsOptions): Promise<Rps> {
  const { config } = options
  const log = options.log ?? createLog('rps', config.logLevel === undefined ? {} : { level: config.logLevel })
  const metrics = options.metrics ?? createMetrics('milagro_rps')
  const timers = options.timers ?? systemTimers
  const certificate = config.tls && new ServerCertificate(config.tls)
  const pool = startServerPool(options, { clock: options.clock, random: options.random, log, metrics })
  const parts = await openParts(options, { log, metrics, timers, pool }).catch(async (error: unknown) => {
    await pool.close()
    throw error
  })
  const sources = new RateLimit(config.rateLimit?.address ?? ADDRESS_RATE, options.clock)

  const trust = config.trustProxy === undefined ? {} : { trustProxy: config.trustProxy }
  const pages = config.webOrigins === undefined ? {} : { webOrigins: config.webOrigins }
  const app = createApp({
    title: 'Authentication server (RPS)',
    log,
    metrics,
    certificate,
    ...trust,
    ...pages,
  })
  app.addHook('onRequest', async request => sources.take(sourceOf(request.ip)))
  mount(app, rpsRoutes, handlers(parts), callerChecks(parts))

  const adminToken = adminTokenOf(config.dataDir, options.random)
  const admin = createAdmin({
    title: 'Authentication server: administration',
    log,
    metrics,
    ready: () => readiness(parts),
    adminToken,
    table: {},
    handlers: {},
  })

  let ends: (() => void)[] = []
  return {
    app,
    admin,
    adminToken,
    async start() {
      const urls = await listenBoth({ app, admin }, config).catch(async (error: unknown) => {
        await pool.close()
        throw error
      })
      await Promise.all([fetchServerKeys(parts), fetchState(parts)])
      parts.events.start()
      parts.notices.start()
      ends = [
        timers.every(PURGE_INTERVAL, () => void purge(parts)),
        timers.every(RETRY_INTERVAL, () => void completeParts(parts)),
        timers.every(TICK_INTERVAL, () => void parts.permits.tick(parts.documents.latest)),
        timers.every(LOOK_INTERVAL, () => void parts.authorities.look()),
      ]
      void parts.authorities.look()
      void parts.permits.tick(parts.documents.latest)
      log.info(urls, 'serving')
      return urls
    },
    renewCertificate:
      certificate &&
      (async () => {
        try {
          certificate.renew()
          log.warn('certificate and key are read anew')
        } catch (error) {
          if (!(error instanceof ConfigError)) throw error
          log.error({ why: error.message }, 'the certificate in use stays')
        }
      }),
    async close() {
      for (const end of ends) end()
      parts.events.stop()
      await Promise.all([app.close(), admin.close()])
      await Promise.all([parts.notices.stop(), parts.authorities.close(), parts.permits.close()])
      await pool.close()
    },
  }
}

/** The RPS' own keys; made when the data folder is new. */
export async function openKeys({
  config,
  passphrase,
  random,
}: Pick<RpsOptions, 'passphrase' | 'random'> & {
  readonly config: Pick<RpsConfig, 'dataDir' | 'name'>
}): Promise<RpsKeys> {
  const { dataDir, name } = config
  await makeFolder(dataDir)
  const folder = { dataDir, name, passphrase }
  return (await rpsKeys.exists(dataDir)) ? rpsKeys.read(folder) : rpsKeys.make(folder, random)
}

async function openParts(
  options: RpsOptions,
  { log, metrics, timers, pool }: { log: Log; metrics: Metrics; timers: Timers; pool: CryptoPool },
): Promise<Parts> {
  const { config, passphrase, store, clock, random } = options
  const fetch = options.fetch ?? globalThis.fetch
  const { name, dataDir } = config
  const isUsed = await store.atomic(connection => connection.all('SELECT 1 FROM group_revision LIMIT 1'))
  if (isUsed.length > 0 && !(await rpsKeys.exists(dataDir)))
    throw new StoreError('missing', `${dataDir} has a database but no keys.sealed: restore it from a backup`)
  const { requestKey, hpkeKey, tokenKey } = await openKeys(options)
  const signer = { name, key: requestKey, clock, random }
  const documents = await GroupDocuments.open({ config, store, fetch, keyCheck: poolKeyCheck(pool) })
  checkRecipient(documents.latest, config, { requestKey, hpkeKey, tokenKey })
  const watch = new AuthorityWatch({ group: () => documents.latest, clock, log, metrics })
  // New key epochs want server keys; new RA keys want a state for followers that these keys have signed.
  const onRevision = () => void completeParts(parts)
  const clocks = new PeerClocks({ clock, log })
  const authorities = new Authorities({ ...signer, fetch, timers, documents, watch, clocks, log, onRevision })
  const serverKeys = await ServerKeys.open(
    { name, dataDir, passphrase, hpkeKey, authorities, pool, random, log },
    documents.latest,
  )
  const singleUse = openSingleUse(store)
  const accounts = new Accounts(store)
  const relyingParty = new RelyingParty({ ...signer, url: config.rpa.url, fetch, clocks })
  const notices = new Notices({ store, relyingParty, clock, random, timers, log, metrics })
  const identities = new Identities({ store, relyingParty, accounts })
  const group = () => documents.current()
  const revocation = new Revocation({ store, singleUse, accounts, relyingParty, group, log })
  const identity = new IdentityPermits({ identities, authorities, pool, clock })
  const tree = await TreePermits.open(
    {
      store,
      relyingParty,
      authorities,
      pool,
      clock,
      eventNumber: () => revocation.number(),
      onBehind: () =>
        void revocation.refresh().catch(error => log.warn({ err: error }, 'no newer state yet')),
    },
    documents.latest,
  )
  const permits = new Permits({ store, identity, tree, pool, clock, random, log, metrics })
  revocation.onChange(({ leaves }) => {
    if (!leaves) return
    permits.doubt()
    void permits.tick(documents.latest)
  })
  const nonces = new Nonces({ singleUse, clock, random })
  const checkRevocation = (idCore: IdCore, userCore: Uint8Array) => revocation.check(idCore, userCore)
  const registrations = new Registrations({ store, relyingParty, accounts, checkRevocation, clock })
  const events = new EventStream({
    revocation,
    timers,
    onError: error => log.error({ err: error }, 'a follower of the events was cut off'),
  })
  const failedProofs = new RateLimit(config.rateLimit?.failedProofs ?? FAILED_PROOF_RATE, clock)
  await beginReplayRecord(store, clock())

  const verificationPorts = async (): Promise<VerificationPorts> => {
    const group = await documents.current()
    return {
      group,
      pool,
      checkServerKey: (purpose, epoch) => serverKeys.check(purpose, epoch),
      clock,
      random,
      delta: config.deltaSeconds ?? DELTA,
      replaySince: () => replayRecordSince(store),
      takeNonce: nonce => nonces.take(nonce),
      singleUse,
      failedProofs,
      checkRevocation,
      permit: async (wanted, carried) => {
        const permit = await (carried === undefined
          ? permits.obtain(group, wanted)
          : permits.takeCarried(group, wanted, carried))
        permits.prepare(group, wanted.idCore)
        return permit
      },
      takesPin: account =>
        accounts.takes(account, currentSlot(group, clock()), (idCore, userCore, slot) =>
          identities.ask(idCore, userCore, slot),
        ),
      acceptPin: (idCore, userCore, pinGen) => accounts.accept(idCore, userCore, pinGen),
      tell: happening => notices.add(happening),
      metrics,
    }
  }
  const parts: Parts = {
    config,
    store,
    clock,
    clocks,
    log,
    singleUse,
    audiences: new Audiences(config),
    documents,
    authorities,
    watch,
    onRevision,
    relyingParty,
    notices,
    accounts,
    identities,
    permits,
    revocation,
    registrations,
    rotations: new KeyRotations({ identities, authorities, clock }),
    failedRegistrations: new RateLimit(config.rateLimit?.failedProofs ?? FAILED_PROOF_RATE, clock),
    serverKeys,
    nonces,
    otts: new Otts({ singleUse, clock, random }),
    tokens: new Tokens({ issuer: config.publicUrl, tokenKey, clock, random }),
    events,
    verify: options.verify ?? verification,
    verificationPorts,
  }
  return parts
}

/** ConfigError unless the group document names this server, with its keys, for both purposes. */
function checkRecipient(group: Group, { name }: RpsConfig, { requestKey, hpkeKey }: RpsKeys): void {
  const recipient = group.recipient(name)
  if (recipient === undefined)
    throw new ConfigError(`setting 'name': the group document has no recipient '${name}'`)
  const lacking = SERVER_KEY_PURPOSES.filter(purpose => !recipient.purposes.includes(purpose))
  if (lacking.length > 0)
    throw new ConfigError(`the group document gives '${name}' no server key for ${lacking.join(', ')}`)
  if (
    !recipient.requestKey.equals(requestKey.publicKey) ||
    toBase64Url(recipient.hpkeKey) !== toBase64Url(hpkeKey.publicKey)
  )
    throw new ConfigError(`the group document has other keys for '${name}' than this data folder`)
}

/** T0: when a record that is empty now was begun. The same for every replica on one store. */
async function beginReplayRecord(store: Store<unknown>, now: number): Promise<void> {
  await store.atomic(connection =>
    connection.run('INSERT INTO replay_record (id, since) VALUES (1, ?) ON CONFLICT DO NOTHING', [now]),
  )
}

function replayRecordSince(store: Store<unknown>): Promise<number> {
  return store.read(reader => Number(reader.all('SELECT since FROM replay_record')[0]?.since))
}

/**
 * Before what expired before `before` is forgotten: from here on the record speaks only for what was put in later, so
 * that a clock that jumped ahead, purged and was set back makes no used message good again.
 */
async function raiseReplayRecord(store: Store<unknown>, before: number): Promise<void> {
  await store.atomic(connection =>
    connection.run('UPDATE replay_record SET since = max(since, ?)', [before - REPLAY_KEPT]),
  )
}

function handlers(parts: Parts): Handlers<typeof rpsRoutes, AuthenticatedFields> {
  const { audiences, documents, nonces, otts, permits, registrations, revocation, tokens, verify, clock } =
    parts

  /** What every attempt of a client has in common. */
  const attemptOf = (meta: Meta): Pick<Attempt, 'source' | 'tlsExporter'> => ({
    source: sourceOf(meta.ip),
    tlsExporter: exporterOf(meta.socket),
  })
  /** Messages in mode `sign` for the RPS itself. */
  const proveSigned =
    (meta: Meta): ProveSigned =>
    async (message, payloadHash, pin) => {
      await verify.identity(await parts.verificationPorts(), {
        ...attemptOf(meta),
        message,
        payloadHash,
        modes: [MODE.sign],
        audience: { ...audiences.own, ...(pin === 'required' ? { pin } : {}) },
        factors: 'identity',
        needsPermit: true,
      })
    }

  /** Of the slot after it, so that a device that goes offline has it with it; only what is held already. */
  const nextPermit = async (group: Group, idCore: IdCore, slot: number): Promise<{ next?: string }> => {
    const next = await permits.find(group, idCore, slot + 1)
    return next === null ? {} : { next: toBase64Url(next.bytes) }
  }

  /** What a service that has its own proof of the device asks for; by the rule of a login's slot and permit. */
  const permitFor = async (group: Group, idCore: IdCore, slot: number): Promise<{ permit: string }> => {
    if (!isSlotNow(group, slot, clock())) throw new Refused('EXPIRED', { field: 'slot' })
    const permit = await permits
      .obtain(group, { idCore, userCore: NO_USER, slot })
      .catch((error: unknown) => {
        if (error instanceof Refused && error.code === 'WRONG_PROOF')
          throw new Refused('NOT_FOUND', { detail: 'no such identity' })
        throw error
      })
    permits.prepare(group, idCore)
    return { permit: toBase64Url(permit.bytes) }
  }

  /** What is refused is paid for by the source, as failed proofs are; what nobody decided is not. */
  const paidByFailure = async <T>(source: string, work: () => Promise<T>): Promise<T> => {
    parts.failedRegistrations.check(source)
    try {
      return await work()
    } catch (error) {
      const isRefused = error instanceof Refused && error.code !== 'RETRY_LATER'
      if (isRefused || error instanceof DecodeError) parts.failedRegistrations.charge(source)
      throw error
    }
  }

  return {
    group: ({ query }) => documents.document(query.revision),

    publishRevision: async ({ body }) => {
      if (await documents.publish(body.document)) {
        parts.log.info({ revision: body.document.revision }, 'a new revision of the group document')
        parts.onRevision()
      }
      return { revision: documents.latest.revision }
    },

    time: async ({ query }) => {
      fromBase64Url(query.nonce, 'nonce', 32)
      return { time: await tokens.time(query.nonce) }
    },

    jwks: async () => tokens.jwks(),

    register: ({ body, meta }) =>
      body.kind === 'device'
        ? paidByFailure(sourceOf(meta.ip), () => registrations.device(body))
        : registrations.user(body, proveSigned(meta)),

    // What is relayed the authority checks again; here it keeps strangers from reaching authorities through us.
    relayShare: async ({ params: { index }, body }) => {
      const group = await documents.current()
      const authority = authorityOf(group, index)
      await verifyTicket({ ticket: body.ticket, group, now: clock() })
      const params = { groupId: toBase64Url(group.groupId) }
      return parts.authorities
        .relay(group, authority, client => client.shares({ params, body }))
        .catch(error => refuseRelayed(authority.name, error))
    },

    relaySlotKey: async ({ params: { index }, body, meta }) => {
      const { group, pool } = await parts.verificationPorts()
      const authority = authorityOf(group, index)
      const source = sourceOf(meta.ip)
      const { idCore } = await paidByFailure(source, () =>
        VerifiedSlotKeyRequest.verify({ request: body, group, pool, now: clock(), source }),
      )
      await revocation.check(idCore, NO_USER)
      const params = { groupId: toBase64Url(group.groupId) }
      return parts.authorities
        .relay(group, authority, client => client.slotKeys({ params, body }))
        .catch(error => refuseRelayed(authority.name, error))
    },

    nonce: async () => nonces.issue(await documents.current()),

    permit: async ({ body, meta }) => {
      const ports = await parts.verificationPorts()
      const { group } = ports
      const { proven } = await verify.device(ports, {
        ...attemptOf(meta),
        message: LoginClaim.fromJson(body.login),
        modes: [MODE.nonce, MODE.time],
        audience: audiences.own,
        factors: 'device',
        needsPermit: false,
      })
      const { idCore, slot } = proven.message
      const permit = await permits.obtain(group, { idCore, userCore: NO_USER, slot })
      // RPA and authorities may have taken seconds; a ban of meanwhile counts.
      await revocation.check(idCore)
      return {
        permit: toBase64Url(permit.bytes),
        slot,
        endsAt: slotEnd(group, slot),
        ...(await nextPermit(group, idCore, permit.slot)),
      }
    },

    login: async ({ body, meta }) => {
      const ports = await parts.verificationPorts()
      const { group } = ports
      const message = LoginClaim.fromJson(body.login)
      const audience = audiences.ofLogin(message.audience)
      if (body.authOtt === true && audience.service === undefined)
        throw new Refused('MALFORMED', { field: 'authOtt', detail: 'no service could redeem it' })
      const { authenticated, permit: proven } = await verify.identity(ports, {
        ...attemptOf(meta),
        message,
        modes: [MODE.nonce, MODE.time],
        audience,
        factors: 'identity',
        needsPermit: true,
      })
      const { idCore, userCore, amr } = authenticated
      const permit = proven ?? (await permits.obtain(group, { idCore, userCore, slot: message.slot }))
      // A login in the grace of a slot that is over gets a token of the present one, or none.
      const slot = currentSlot(group, clock())
      if (permit.slot !== slot) {
        await permits.obtain(group, { idCore, userCore, slot })
        await revocation.check(idCore, userCore)
      }
      const token = await tokens.access(authenticated, { slot, slotEnd: slotEnd(group, slot) })
      const fields = authenticatedFields(authenticated)
      await parts.notices.add({
        event: 'login',
        idCore: idCore.mpinId,
        ...userFields(userCore),
        ...(message.pin === undefined ? {} : { pinGen: message.pin.pinGen }),
        amr: [...amr],
        audience: message.audience,
        slot,
      })
      return {
        ...token,
        authenticated: fields,
        permit: toBase64Url(permit.bytes),
        ...(await nextPermit(group, idCore, permit.slot)),
        ...(body.authOtt === true ? { authOtt: await otts.issue(audience.service as string, fields) } : {}),
      }
    },

    redeemOtt: async ({ body, caller }) => {
      audiences.checkService(caller.name)
      fromBase64Url(body.authOtt, 'authOtt', 32)
      const fields = await otts.redeem(caller.name, body.authOtt)
      await revocation.check(IdCore.fromBase64Url(fields.idCore), userCoreOf(fields))
      return fields
    },

    verifyOnePass: async ({ body, caller }) => {
      audiences.checkService(caller.name)
      const message = LoginClaim.decode(fromBase64Url(body.message, 'message'))
      const { authenticated } = await verify.identity(await parts.verificationPorts(), {
        message,
        modes: [MODE.time],
        audience: audiences.ofService(caller.name, message.audience),
        factors: 'identity',
        needsPermit: true,
        tlsExporter:
          body.tlsExporter === undefined ? undefined : fromBase64Url(body.tlsExporter, 'tlsExporter', 32),
      })
      return authenticatedFields(authenticated)
    },

    sign: async ({ body, meta }) => {
      const message = LoginClaim.fromJson(body.message)
      const payloadHash = sha256(fromBase64Url(body.payload, 'payload'))
      const { authenticated } = await verify.identity(await parts.verificationPorts(), {
        ...attemptOf(meta),
        message,
        payloadHash,
        modes: [MODE.sign],
        audience: audiences.ofSignature(message.audience),
        factors: 'identity',
        needsPermit: true,
      })
      return { receipt: await tokens.receipt(authenticated, payloadHash) }
    },

    changePin: ({ body, meta }) => registrations.pinChange(body, proveSigned(meta)),

    rotateKey: async ({ body, meta }) => {
      const ports = await parts.verificationPorts()
      return parts.rotations.rotate(ports.group, body, attempt =>
        verify.identity(ports, { ...attemptOf(meta), ...attempt, audience: audiences.own }),
      )
    },

    whoami: async ({ caller }) => caller,

    identity: async ({ params, query, caller }) => {
      audiences.checkService(caller.name)
      const idCore = IdCore.fromBase64Url(params.idCore)
      const userCore = userCoreOf(query)
      await revocation.check(idCore, userCore)
      const group = await documents.current()
      const permit = query.slot === undefined ? {} : await permitFor(group, idCore, Number(query.slot))
      const slot = currentSlot(group, clock())
      const described = await parts.identities.describe(idCore, userCore, slot)
      // RPA and authorities may have taken seconds; a ban of meanwhile counts.
      await revocation.check(idCore, userCore)
      return { ...described, ...permit }
    },

    authorities: async ({ caller }) => {
      audiences.checkService(caller.name)
      const group = await documents.current()
      const { live, needed } = parts.watch.margin(group)
      return { live, needed, authorities: parts.watch.standings(group).map(standingView) }
    },

    events: async ({ caller, meta }, response) => {
      audiences.checkService(caller.name)
      const lastEventId = meta.headers['last-event-id']
      const keyOf = () => documents.latest.recipient(caller.name)?.requestKey
      const proven = keyOf()
      await parts.events.follow(caller.name, {
        lastEventId: typeof lastEventId === 'string' ? lastEventId : undefined,
        mayHear: () => proven !== undefined && keyOf()?.equals(proven) === true,
        open: () => new SseWriter(response),
      })
    },

    pushEvent: async ({ body }) => ({ number: await revocation.push(body.event) }),
  }
}

function callerChecks(parts: Parts): CallerChecks<AuthenticatedFields, undefined> {
  const { config, documents, singleUse, clock, clocks, tokens, revocation, verify, audiences } = parts
  return {
    server: async meta => {
      const group = await documents.current()
      const check = serverCallerCheck({
        keyOf: name => group.recipient(name)?.requestKey,
        singleUse,
        clock,
        publicUrl: config.publicUrl,
        clocks,
      })
      return check(meta)
    },

    /** `Bearer` with a token for the RPS' own audience, or a one-pass message for it. */
    identity: async meta => {
      const authorization = meta.headers.authorization ?? ''
      const identify = async () => {
        if (authorization.startsWith('Bearer ')) {
          const token = await tokens.verify(authorization.slice('Bearer '.length))
          await revocation.check(token.idCore, token.userCore)
          return authenticatedFields(token)
        }
        if (!authorization.startsWith('MPIN ')) throw new Refused('UNAUTHENTICATED')
        const { authenticated } = await verify.identity(await parts.verificationPorts(), {
          message: LoginClaim.decode(authorizationBytes(authorization), 'authorization'),
          modes: [MODE.time],
          audience: audiences.own,
          factors: 'identity',
          needsPermit: true,
          source: sourceOf(meta.ip),
          tlsExporter: exporterOf(meta.socket),
        })
        return authenticatedFields(authenticated)
      }
      return identify()
    },
  }
}

function standingView({
  index,
  name,
  trouble,
  code,
  answeredAt,
  wrongShares,
  quarantinedUntil,
  evidence,
  leavesAt,
}: AuthorityStanding) {
  return {
    index,
    name,
    ...(trouble === null ? {} : { trouble }),
    ...(code === undefined ? {} : { code }),
    ...(answeredAt === undefined ? {} : { answeredAt: Math.floor(answeredAt / 1000) }),
    wrongShares,
    ...(quarantinedUntil === undefined ? {} : { quarantinedUntil: Math.ceil(quarantinedUntil / 1000) }),
    ...(leavesAt === undefined ? {} : { leavesAt }),
    ...(evidence === undefined ? {} : { requestHash: evidence.requestHash }),
    ...(evidence?.answerHash === undefined ? {} : { answerHash: evidence.answerHash }),
  }
}

function userCoreOf({ userCore }: { userCore?: string | undefined }): Uint8Array {
  return userCore === undefined ? NO_USER : fromBase64Url(userCore, 'userCore', 32)
}

function authorityOf(group: Group, index: string): GroupAuthority {
  const authority = group.authority(Number(index))
  if (authority === undefined) throw new Refused('NOT_FOUND', { detail: 'no such authority' })
  return authority
}

/** What an authority refuses a device’s request for goes to the device as it is. */
function refuseRelayed(name: string, error: unknown): never {
  const passedOn: readonly Code[] = [
    'NOT_APPROVED',
    'EXPIRED',
    'ALREADY_ISSUED',
    'WRONG_PERMIT',
    'WRONG_PROOF',
    'BANNED',
    'FROZEN',
    'RETRY_LATER',
    'MALFORMED',
  ]
  if (error instanceof Refused && !passedOn.includes(error.code))
    throw new Refused('RETRY_LATER', { log: `${name} refuses: ${error.message}`, retryAfter: 5 })
  if (error instanceof Unreachable)
    throw new Refused('RETRY_LATER', { detail: `no answer from ${name}`, log: error.message, retryAfter: 5 })
  if (error instanceof UnexpectedAnswer)
    throw new Refused('WRONG_SHARE', { detail: `wrong share from ${name}`, log: error.message })
  throw error
}

/** Once, at the start; what fails here is tried again until it is there. */
async function fetchServerKeys({ serverKeys, documents, log }: Parts): Promise<void> {
  try {
    await serverKeys.complete(await documents.current())
  } catch (error) {
    log.warn({ err: error, why: error instanceof Refused ? error.log : undefined }, 'no server keys yet')
  }
}

async function fetchState({ revocation, log }: Parts): Promise<void> {
  try {
    await revocation.refresh()
  } catch (error) {
    log.warn({ err: error, why: error instanceof Refused ? error.log : undefined }, 'the RPA gave no state')
  }
}

async function completeParts(parts: Parts): Promise<void> {
  if (!parts.serverKeys.isComplete(parts.documents.latest)) await fetchServerKeys(parts)
  try {
    if (!(await parts.revocation.isCurrent())) await fetchState(parts)
  } catch (error) {
    parts.log.error({ err: error }, 'the store cannot be read')
  }
}

async function purge({
  clock,
  store,
  singleUse,
  documents,
  permits,
  identities,
  registrations,
  revocation,
  notices,
  log,
}: Parts) {
  try {
    const now = clock()
    await raiseReplayRecord(store, now - EXPIRED_KEPT)
    await singleUse.purge(now - EXPIRED_KEPT)
    const slot = currentSlot(await documents.current(), now)
    await permits.purge(slot - 1)
    await identities.purge(slot)
    await registrations.purge(now)
    await revocation.purge()
    await notices.purge()
  } catch (error) {
    log.error({ err: error }, 'purge failed; tried again later')
  }
}

async function readiness({
  store,
  serverKeys,
  documents,
  revocation,
  clock,
  watch,
  clocks,
}: Parts): Promise<Readiness> {
  const writable = await store.writable()
  const hasState = writable && (await revocation.number()) !== null
  const hasBegun = clock() / 1000 >= documents.latest.slotRule.origin
  const hasKeys = hasBegun && serverKeys.isReady(documents.latest, currentSlot(documents.latest, clock()))
  const checks = {
    store: writable || 'the database cannot be written',
    serverKeys: hasKeys || 'not fetched from the authorities yet',
    revocation: hasState || 'no revocation state from the RPA yet',
    clock: hasBegun ? clocks.standing.check : "the clock is before the group's origin",
    authorities: watch.check(),
  }
  return { ok: writable && hasKeys && hasState && hasBegun && clocks.standing.ok, checks }
}
