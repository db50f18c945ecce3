/**
 * The tracking server: writes positions of proven identities only, in the order in which they were driven, and forgets
 * a token the moment its holder is banned.
 *
 *   POST /v1/tracks: (1) the credential: an access token for this server's audience, or `Authorization: MPIN`, which
 *   the RPS checks  (2) the ban events are fresh (else RETRY_LATER) and don't deny the holder  (3) the batch carries the
 *   track on  (4) who says that the head is the vehicle's: the RPS' receipt, for this audience, of the same vehicle, over
 *   this head; or the vehicle's own signature over it with its permit of the slot  (5) it still carries the track on:
 *   stored, shown to readers.
 *
 * (3) costs a hash and (4) pairings, so what is no next batch costs none; and a vehicle has one batch looked at at a time
 * (a second is RETRY_LATER), so none fills the queue of the others. Whoever has stolen a vehicle's token, which without TLS is
 * good on any connection, can so keep that vehicle at RETRY_LATER until the token runs out or the vehicle is banned, and no other.
 *
 * Signatures and permits that come within a few milliseconds are verified together, in a worker, 64 at a time at most; each
 * has a verdict of its own, and what finds too many waiting is RETRY_LATER (crypto/node-pool.ts).
 *
 * Where `tlsListen` is set, vehicles come in by TLS without certificates and nowhere else, for an audience of its own: the
 * server's name. There (1) is a login of the connection: a one-pass proof of the very identity that the connection is, bound
 * to it (RFC 9266), with its first request; those after it carry none. A proof or token that was stolen is good on no other
 * connection. People come by plain HTTP and for `publicUrl`: a browser has no keys for such TLS.
 *
 * Readers are operators: identities that the RA has given an `operator:` instance.
 */
import type { Server as HttpServer } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { TLSSocket } from 'node:tls'
import { createAdmin } from '@milagro-ts/api/admin'
import { tlsExporter } from '@milagro-ts/api/channel-binding'
import type { Group } from '@milagro-ts/api/group'
import type { Es256PrivateKey } from '@milagro-ts/api/keys'
import { listenBoth } from '@milagro-ts/api/listen'
import type { Log } from '@milagro-ts/api/log'
import type { Metrics } from '@milagro-ts/api/metrics'
import { Refused } from '@milagro-ts/api/problem'
import { createApp, type Handlers, type Meta, mount } from '@milagro-ts/api/serve'
import { VerifiedMessage } from '@milagro-ts/api/signed-message'
import { SseWriter } from '@milagro-ts/api/sse'
import { type ReceiptPayload, verifyReceipt } from '@milagro-ts/api/statements'
import type { Timers } from '@milagro-ts/api/system'
import { equalBytes, fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { IdCore } from '@milagro-ts/crypto/identity'
import type { CryptoPool } from '@milagro-ts/crypto/node-pool'
import type { Clock, Random } from '@milagro-ts/crypto/ports'
import { sha256 } from '@milagro-ts/crypto/sha256'
import type { EventFollower } from '@milagro-ts/rpa/ban-events'
import { Guard, type Holder } from '@milagro-ts/rpa/guard'
import { peerOf } from '@milagro-ts/tls/server'
import type { TlsService } from '@milagro-ts/tls/service'
import type { FastifyInstance } from 'fastify'
import {
  type Batch,
  type BatchFault,
  HEAD_CONTEXT,
  type HeadWord,
  headPayload,
  type TrackEnd,
  trackStart,
} from './track-chain.js'
import type { Appended, TrackStore, Vehicle } from './track-store.js'
import type { TrackingConfig } from './tracking-config.js'
import { type AppendBody, readerRoutes, type trackingRoutes, vehicleRoutes } from './tracking-routes.js'
import { VehicleEntrance } from './vehicle-entrance.js'

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
  /** Where vehicles' own signatures are verified; closed by its opener. */
  readonly pool: CryptoPool
  readonly random: Random
  readonly clock: Clock
  readonly timers: Timers
  readonly log: Log
  readonly metrics: Metrics
  readonly fetch: typeof fetch
  /** This server as a service of TLS without certificates; wanted where `tlsListen` is set. */
  readonly openTls?: () => Promise<TlsService>
}
export interface TrackingServer {
  readonly app: FastifyInstance
  readonly admin: FastifyInstance
  readonly follower: EventFollower
  /** Where vehicles come in by TLS; null while they don't. */
  readonly tlsAddress: AddressInfo | null
  start(): Promise<{ url: string; adminUrl: string }>
  close(): Promise<void>
}

/** A vehicle (and a driver on it) that has proven itself for this request. */
type Proven = Pick<Holder, 'idCore' | 'userCore'>
type Taken = Exclude<Appended, BatchFault>
/** A reader of the stream. */
interface Watcher {
  readonly writer: SseWriter
  readonly operator: Holder
}

export function createTracking(options: TrackingOptions): TrackingServer {
  const { config, group, store, pool, clock, timers, log, metrics, fetch } = options
  const watchers = new Set<Watcher>()
  const guard = new Guard({
    rpsUrl: config.rps.url,
    audience: config.publicUrl,
    name: config.name,
    requestKey: options.requestKey,
    group,
    random: options.random,
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
  const { follower, keys } = guard
  const proven = (meta: Meta) => guard.check(meta.headers.authorization)

  const bound = guard.for(config.name)
  /** Good for as long as the connection, which ends with its slot. */
  const logins = new WeakMap<Socket, Holder>()

  async function loggedIn({ socket, headers: { authorization } }: Meta): Promise<Holder> {
    if (!(socket instanceof TLSSocket)) throw new TypeError('no connection of the vehicles’ entrance')
    const known = logins.get(socket)
    if (authorization === undefined && known !== undefined) {
      follower.check(known.idCore.mpinId, known.userCore)
      return known
    }
    // Whoever tries to be somebody else is nobody until that holds.
    logins.delete(socket)
    const holder = await bound.check(authorization, tlsExporter(socket))
    if (peerOf(socket).mpinId !== holder.idCore.mpinId)
      throw new Refused('WRONG_PROOF', { detail: 'the proof is another identity’s than the connection' })
    logins.set(socket, holder)
    return holder
  }

  async function operator(meta: Meta): Promise<Holder> {
    const holder = await proven(meta)
    const { instance } = await guard.identity({ idCore: holder.idCore, userCore: undefined })
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

  /** That the head is the vehicle's, each by itself, however many are checked together; the driver of whom its receipt speaks. */
  async function checkWord(word: HeadWord, batch: Batch, { idCore }: Proven): Promise<string | undefined> {
    const payload = headPayload(batch.number, batch.head)
    if ('receipt' in word) {
      const { aud, sub, userCore, payloadHash } = await receiptOf(word.receipt)
      if (
        aud !== config.publicUrl ||
        sub !== idCore.mpinId ||
        !equalBytes(fromBase64Url(payloadHash, 'payloadHash', 32), sha256(payload))
      )
        throw new Refused('WRONG_PROOF', { detail: 'the receipt is not for this head of this vehicle' })
      return userCore
    }
    const { signed } = word
    // A look at what is claimed costs no pairing.
    if (signed.idCore !== idCore.mpinId)
      throw new Refused('WRONG_PROOF', { detail: 'signed by another vehicle' })
    const item = { message: payload, signed, context: HEAD_CONTEXT, now: clock() }
    await guard
      .bySigner(inForce => VerifiedMessage.verifyIn(pool, { ...item, group: inForce }))
      .catch((error: unknown) => {
        if (!(error instanceof Refused) || error.code !== 'NOT_APPROVED') throw error
        throw new Refused('WRONG_PROOF', { detail: error.detail })
      })
    return undefined
  }

  const startOf = (idCore: IdCore) => trackStart(group.groupId, idCore.bytes)

  async function append(caller: Proven, vehicle: Vehicle, body: AppendBody) {
    const batch: Batch = {
      number: body.number,
      previous: fromBase64Url(body.previous, 'previous', 32),
      positions: body.positions,
      head: fromBase64Url(body.head, 'head', 32),
    }
    const word = wordOf(body)
    const now = clock()
    if (batch.positions.some(position => position.at > now + AHEAD)) {
      throw new Refused('CLOCK', { detail: 'a position is of the future' })
    }
    const start = startOf(caller.idCore)
    const foreseen = taken(await store.check(vehicle, start, batch))
    if (foreseen.stored === 0) return answered(foreseen)
    const userCore = await checkWord(word, batch, caller)
    follower.check(vehicle.text, userCore)
    const more = { userCore: caller.userCore, receivedAt: now, word }
    const appended = taken(await store.append(vehicle, start, batch, more))
    if (appended.stored > 0) show(caller, batch)
    return answered(appended)
  }

  function answered({ end, stored }: Taken) {
    metrics.count('positions', { outcome: stored > 0 ? 'stored' : 'again' })
    return { end: wireEnd(end), stored }
  }

  /** Vehicles that have a batch under way, by M-Pin ID. */
  const appending = new Set<string>()

  const handlers: Handlers<typeof trackingRoutes, Proven, Holder> = {
    async append({ caller, body }) {
      const { mpinId, bytes } = caller.idCore
      if (appending.has(mpinId))
        throw new Refused('RETRY_LATER', { detail: 'a batch of this vehicle is under way', retryAfter: 1 })
      appending.add(mpinId)
      try {
        return await append(caller, { text: mpinId, bytes }, body)
      } finally {
        appending.delete(mpinId)
      }
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
        batches: batches.map(({ userCore, head, positions, word, ...batch }) => ({
          ...batch,
          ...word,
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
  mount(app, readerRoutes, handlers, { operator })
  const inside = createApp({ title: 'milagro-ts tracking, for vehicles', log, metrics })
  if (config.tlsListen === undefined) mount(app, vehicleRoutes, handlers, { identity: proven })
  else mount(inside, vehicleRoutes, handlers, { identity: loggedIn })
  const entrance = entranceOf(options, inside.server)
  const admin = createAdmin({
    title: 'milagro-ts tracking admin',
    log,
    metrics,
    adminToken: options.adminToken,
    table: {},
    handlers: {},
    ready: async () => {
      const isWritable = await store.writable()
      const { ok, check } = guard.clocks.standing
      const tls = entrance?.standing ?? true
      return {
        ok: isWritable && follower.fresh && ok && tls === true,
        checks: {
          store: isWritable || 'cannot be written',
          banEvents: follower.fresh || 'the stream of ban events is lost',
          clock: check,
          ...(entrance === undefined ? {} : { tls }),
        },
      }
    },
  })

  return {
    app,
    admin,
    follower,
    get tlsAddress() {
      return entrance?.address ?? null
    },
    async start() {
      await inside.ready()
      const urls = await listenBoth({ app, admin }, config)
      guard.start()
      entrance?.start()
      return urls
    },
    async close() {
      for (const { writer } of watchers) writer.close()
      await entrance?.close()
      await guard.stop()
      await Promise.all([app.close(), inside.close(), admin.close()])
    },
  }
}

/** DecodeError unless there is exactly one. */
function wordOf({ receipt, signed }: AppendBody): HeadWord {
  if (receipt !== undefined && signed === undefined) return { receipt }
  if (signed !== undefined && receipt === undefined) return { signed }
  throw new DecodeError('receipt', 'a receipt or a signature of the vehicle’s own')
}

function entranceOf(
  { config, openTls, timers, log }: TrackingOptions,
  http: HttpServer,
): VehicleEntrance | undefined {
  const { tlsListen: listen } = config
  if (listen === undefined) return undefined
  if (openTls === undefined) throw new TypeError('tlsListen is set, and there is no openTls')
  return new VehicleEntrance({ http, open: openTls, listen, timers, log })
}

function wireEnd(end: TrackEnd): { next: number; head: string; at: number } {
  return { next: end.next, head: toBase64Url(end.head), at: end.at }
}

function taken(appended: Appended): Taken {
  if (typeof appended === 'string') throw refusalOf(appended)
  return appended
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
