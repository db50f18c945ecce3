/**
 * The tracking server: writes positions of proven identities only, in the order in which they were driven, and forgets
 * a token the moment its holder is banned.
 *
 *   POST /v1/tracks: (1) the credential: an access token for this server's audience, or `Authorization: MPIN`, which
 *   the RPS checks  (2) the ban events are fresh (else RETRY_LATER) and don't deny the holder  (3) the RPS' receipt:
 *   for this audience, of the same vehicle, over this head  (4) the batch carries the track on  (5) stored, shown to
 *   readers.
 *
 * Readers are operators: identities that the RA has given an `operator:` instance.
 */
import { createAdmin } from '@milagro-ts/api/admin'
import { createClient, Unreachable } from '@milagro-ts/api/call'
import type { Group } from '@milagro-ts/api/group'
import type { Es256PrivateKey } from '@milagro-ts/api/keys'
import { listenBoth } from '@milagro-ts/api/listen'
import type { Log } from '@milagro-ts/api/log'
import type { Metrics } from '@milagro-ts/api/metrics'
import { Refused } from '@milagro-ts/api/problem'
import { requestSigner } from '@milagro-ts/api/request-auth'
import { rpsRoutes } from '@milagro-ts/api/rps-routes'
import { createApp, type Handlers, type Meta, mount } from '@milagro-ts/api/serve'
import { SseWriter } from '@milagro-ts/api/sse'
import {
  type ReceiptPayload,
  verifyAccessToken,
  verifyEvent,
  verifyReceipt,
  verifyState,
} from '@milagro-ts/api/statements'
import type { Timers } from '@milagro-ts/api/system'
import { followGroup } from '@milagro-ts/client/group-store'
import { equalBytes, fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import { IdCore } from '@milagro-ts/crypto/identity'
import type { Clock, Random } from '@milagro-ts/crypto/ports'
import { sha256 } from '@milagro-ts/crypto/sha256'
import type { FastifyInstance } from 'fastify'
import { EventFollower } from './ban-events.js'
import { RpsKeys } from './rps-keys.js'
import { type Batch, type BatchFault, headPayload, type TrackEnd, trackStart } from './track-chain.js'
import type { TrackStore } from './track-store.js'
import type { TrackingConfig } from './tracking-config.js'
import { trackingRoutes } from './tracking-routes.js'

/** Instances of operators begin with this; the RA gives it to no vehicle. */
const OPERATOR = 'operator:'
/** Milliseconds that a vehicle's clock may run ahead: a track can't go back behind its last position. */
const AHEAD = 60_000
/** Batches of one answer. */
const PAGE = 100
const HEARTBEAT = 10_000

export interface TrackingOptions {
  readonly config: TrackingConfig
  /** The pinned group; later revisions come from the RPS when they are needed. */
  readonly group: Group
  /** The server's requestKey in the group document. */
  readonly requestKey: Es256PrivateKey
  readonly adminToken: string
  /** Closed by its opener. */
  readonly store: TrackStore
  readonly random: Random
  readonly clock: Clock
  readonly timers: Timers
  readonly log: Log
  readonly metrics: Metrics
  readonly fetch: typeof fetch
}
export interface TrackingServer {
  readonly app: FastifyInstance
  readonly admin: FastifyInstance
  readonly follower: EventFollower
  start(): Promise<{ url: string; adminUrl: string }>
  close(): Promise<void>
}

/** A vehicle (and a driver on it) that has proven itself for this request. */
interface Proven {
  readonly idCore: IdCore
  readonly userCore: string | undefined
}
/** Whoever holds a credential, and until when it is good. */
interface Holder extends Proven {
  /** Unix milliseconds. */
  readonly expiresAt: number
}
/** A reader of the stream. */
interface Watcher {
  readonly writer: SseWriter
  readonly operator: Holder
}

export function createTracking(options: TrackingOptions): TrackingServer {
  const { config, store, clock, timers, log, metrics, fetch } = options
  let { group } = options
  const authorize = requestSigner({
    name: config.name,
    key: options.requestKey,
    clock,
    random: options.random,
  })
  const rps = createClient(rpsRoutes, { baseUrl: config.rps.url, fetch, authorize })
  const keys = new RpsKeys({ rps, clock })
  const watchers = new Set<Watcher>()

  /** The RA may have changed its keys since: what isn't signed by those we know sends us to the RPS for revisions. */
  async function byRa<T>(verify: (group: Group) => Promise<T>): Promise<T> {
    try {
      return await verify(group)
    } catch (error) {
      if (!(error instanceof Refused) || error.code !== 'NOT_APPROVED') throw error
      const wait = (milliseconds: number) =>
        new Promise<void>(resolve => void timers.after(milliseconds, resolve))
      const newer = await followGroup({ rps, wait }, group)
      if (newer.revision === group.revision) throw error
      group = newer
      log.info({ revision: group.revision }, 'a new revision of the group document')
      return verify(group)
    }
  }
  const follower = new EventFollower({
    rpsUrl: config.rps.url,
    authorize,
    verifyState: state => byRa(group => verifyState({ state, group })),
    verifyEvent: event => byRa(group => verifyEvent({ event, group })),
    clock,
    timers,
    fetch,
    log,
    changed: list => {
      for (const { writer, operator } of watchers) {
        if (list.denies(operator.idCore.mpinId, operator.userCore) !== null) writer.close()
      }
    },
  })

  /** Bearer token or one-pass proof; then, whichever it was, the deny list. */
  async function proven(meta: Meta): Promise<Holder> {
    const authorization = meta.headers.authorization ?? ''
    const [scheme = '', credential = ''] = authorization.split(' ', 2)
    if (scheme === 'Bearer') {
      const token = await verifyAccessToken({
        token: credential,
        keys: await keys.forToken(credential),
        issuer: config.rps.url,
        audience: config.publicUrl,
        now: clock(),
      })
      const userCore = token.userCore.length === 0 ? undefined : toBase64Url(token.userCore)
      follower.check(token.idCore.mpinId, userCore)
      return {
        idCore: token.idCore,
        userCore,
        expiresAt: token.expiresAt * 1000,
      }
    }
    if (scheme === 'MPIN') {
      const answer = await fromRps(rps.verifyOnePass({ body: { message: credential } }))
      if (answer.audience !== config.publicUrl) throw new Refused('UNAUTHENTICATED')
      follower.check(answer.idCore, answer.userCore)
      return {
        idCore: IdCore.fromBase64Url(answer.idCore),
        userCore: answer.userCore,
        // Good for the request that it came with.
        expiresAt: clock(),
      }
    }
    throw new Refused('UNAUTHENTICATED', { detail: 'a Bearer token or an MPIN proof' })
  }

  async function operator(meta: Meta): Promise<Holder> {
    const holder = await proven(meta)
    const { instance } = await fromRps(rps.identity({ params: { idCore: holder.idCore.mpinId }, query: {} }))
    if (!instance.startsWith(OPERATOR)) throw new Refused('FORBIDDEN', { detail: 'operators only' })
    return holder
  }

  async function receiptOf(receipt: string): Promise<ReceiptPayload> {
    try {
      return await verifyReceipt({ receipt, keys: await keys.forToken(receipt), issuer: config.rps.url })
    } catch (error) {
      if (!(error instanceof Refused) || error.code !== 'NOT_APPROVED') throw error
      throw new Refused('WRONG_PROOF', { detail: error.detail })
    }
  }

  const startOf = (idCore: IdCore) => trackStart(group.groupId, idCore.bytes)

  const handlers: Handlers<typeof trackingRoutes, Proven, Holder> = {
    async append({ caller, body }) {
      const batch: Batch = {
        number: body.number,
        previous: fromBase64Url(body.previous, 'previous', 32),
        positions: body.positions,
        head: fromBase64Url(body.head, 'head', 32),
      }
      const now = clock()
      if (batch.positions.some(position => position.at > now + AHEAD)) {
        throw new Refused('CLOCK', { detail: 'a position is of the future' })
      }
      const receipt = await receiptOf(body.receipt)
      const signed = sha256(headPayload(batch.number, batch.head))
      if (
        receipt.aud !== config.publicUrl ||
        receipt.sub !== caller.idCore.mpinId ||
        !equalBytes(fromBase64Url(receipt.payloadHash, 'payloadHash', 32), signed)
      ) {
        throw new Refused('WRONG_PROOF', { detail: 'the receipt is not for this head of this vehicle' })
      }
      follower.check(receipt.sub, receipt.userCore)
      const appended = await store.append(
        { text: caller.idCore.mpinId, bytes: caller.idCore.bytes },
        startOf(caller.idCore),
        batch,
        { userCore: caller.userCore, receivedAt: now, receipt: body.receipt },
      )
      if (typeof appended === 'string') throw refusalOf(appended)
      metrics.count('positions', { outcome: appended.stored > 0 ? 'stored' : 'again' })
      if (appended.stored > 0) show(caller, batch)
      return { end: wireEnd(appended.end), stored: appended.stored }
    },

    async end({ caller }) {
      return wireEnd(await store.end(caller.idCore.mpinId, startOf(caller.idCore)))
    },

    async vehicles() {
      const vehicles = await store.vehicles()
      return {
        vehicles: vehicles.map(({ userCore, ...vehicle }) => ({
          ...vehicle,
          ...(userCore === undefined ? {} : { userCore }),
          banned: follower.list.denies(vehicle.idCore) !== null,
        })),
      }
    },

    async track({ params, query }) {
      const idCore = IdCore.fromBase64Url(params.idCore)
      const batches = await store.batches(params.idCore, Number(query.from ?? '1'), PAGE)
      if (batches.length === 0 && (await store.end(params.idCore, startOf(idCore))).next === 1) {
        throw new Refused('NOT_FOUND', { detail: 'no track of this vehicle' })
      }
      const last = batches.at(-1)
      return {
        start: toBase64Url(startOf(idCore).head),
        batches: batches.map(({ userCore, head, positions, ...batch }) => ({
          ...batch,
          ...(userCore === undefined ? {} : { userCore }),
          positions: [...positions],
          head: toBase64Url(head),
        })),
        ...(batches.length === PAGE && last !== undefined ? { more: last.number + 1 } : {}),
      }
    },

    async stream({ caller }, response) {
      const writer = new SseWriter(response)
      const watcher = { writer, operator: caller }
      watchers.add(watcher)
      // A stream ends with the token that opened it; its reader logs in again.
      const endAlarm = timers.after(Math.max(0, caller.expiresAt - clock()), () => writer.close())
      const endHeartbeat = timers.every(HEARTBEAT, () => writer.heartbeat())
      await writer.closed
      endAlarm()
      endHeartbeat()
      watchers.delete(watcher)
    },
  }

  function show(vehicle: Proven, batch: Batch): void {
    const data = JSON.stringify({
      idCore: vehicle.idCore.mpinId,
      ...(vehicle.userCore === undefined ? {} : { userCore: vehicle.userCore }),
      number: batch.number,
      position: batch.positions.at(-1),
    })
    for (const { writer } of watchers) writer.send({ event: 'position', data })
  }

  const pages = config.webOrigins === undefined ? {} : { webOrigins: config.webOrigins }
  const app = createApp({ title: 'milagro-ts tracking', log, metrics, ...pages })
  mount(app, trackingRoutes, handlers, { identity: proven, operator })
  const admin = createAdmin({
    title: 'milagro-ts tracking admin',
    log,
    metrics,
    adminToken: options.adminToken,
    table: {},
    handlers: {},
    ready: async () => {
      const isWritable = await store.writable()
      return {
        ok: isWritable && follower.fresh,
        checks: {
          store: isWritable || 'cannot be written',
          banEvents: follower.fresh || 'the stream of ban events is lost',
        },
      }
    },
  })

  return {
    app,
    admin,
    follower,
    async start() {
      const urls = await listenBoth({ app, admin }, config)
      follower.start()
      return urls
    },
    async close() {
      for (const { writer } of watchers) writer.close()
      await follower.stop()
      await Promise.all([app.close(), admin.close()])
    },
  }
}

/** The RPS' refusals of the peer's proof go on to the peer; what it says of this server, or that it is away, doesn't. */
async function fromRps<T>(answer: Promise<T>): Promise<T> {
  try {
    return await answer
  } catch (error) {
    if (error instanceof Unreachable) {
      throw new Refused('RETRY_LATER', { detail: 'the authentication server is unreachable', retryAfter: 1 })
    }
    if (error instanceof Refused && (error.code === 'UNAUTHENTICATED' || error.code === 'FORBIDDEN')) {
      throw new Refused('INTERNAL', { log: `the authentication server refuses this one: ${error.message}` })
    }
    throw error
  }
}

function wireEnd(end: TrackEnd): { next: number; head: string; at: number } {
  return { next: end.next, head: toBase64Url(end.head), at: end.at }
}

function refusalOf(fault: BatchFault): Refused {
  const why = {
    gap: 'batches before this one are missing',
    repeated: 'a batch of this number is stored',
    fork: 'the batch does not build on the track’s head',
    reordered: 'the positions are not in the order of their times',
    'wrong-head': 'the head is not the hash of the batch',
  }[fault]
  return new Refused(fault === 'repeated' ? 'REPLAYED' : 'CONFLICT', { detail: `${fault}: ${why}` })
}
