/** A tracking server in the test's process, with an RPS that is a fetch function: it signs what tests ask for. */
import { Writable } from 'node:stream'
import { documentHash, Group, type KeyCheck, signDocument } from '@milagro-ts/api/group'
import type { GroupDocument } from '@milagro-ts/api/group-document'
import { type Es256PrivateKey, generateEs256 } from '@milagro-ts/api/keys'
import { createLog } from '@milagro-ts/api/log'
import { createMetrics } from '@milagro-ts/api/metrics'
import { Refused } from '@milagro-ts/api/problem'
import { type SignedFields, signedFields } from '@milagro-ts/api/signed-message'
import {
  type EventPayload,
  type ReceiptPayload,
  signAccessToken,
  signEvent,
  signReceipt,
  signState,
} from '@milagro-ts/api/statements'
import { systemRandom, systemTimers, type Timers } from '@milagro-ts/api/system'
import {
  appendBatch,
  type Batch,
  HEAD_CONTEXT,
  headPayload,
  type Position,
  type TrackEnd,
  trackStart,
} from '@milagro-ts/car-tracking/track-chain'
import { TrackStore } from '@milagro-ts/car-tracking/track-store'
import { createTracking, type TrackingServer } from '@milagro-ts/car-tracking/tracking-server'
import { concat, toBase64Url } from '@milagro-ts/crypto/bytes'
import { sign } from '@milagro-ts/crypto/ibs'
import { IdCore, signIdentityPoint } from '@milagro-ts/crypto/identity'
import { CryptoPool, type PoolOptions } from '@milagro-ts/crypto/node-pool'
import { sha256 } from '@milagro-ts/crypto/sha256'
import { SUITE } from '@milagro-ts/crypto/suite'
import { Permit, permitInput, permitPoint, slotAt } from '@milagro-ts/crypto/time-permit'
import type { TlsService } from '@milagro-ts/tls/service'
import { fixedRandom } from '../../../packages/api/test/fixed-random.js'
import { type Fixture, makeGroup } from '../../../packages/api/test/group-fixture.js'

export const PUBLIC_URL = 'http://tracking.test'
export const RPS_URL = 'http://rps.test'

/** Turned by hand; starts at noon. */
export class FakeClock implements Timers {
  now = Date.UTC(2026, 5, 1, 12)
  #alarms: { at: number; again?: number; run: () => void }[] = []

  every(milliseconds: number, run: () => void) {
    return this.#add({ at: this.now + milliseconds, again: milliseconds, run })
  }
  after(milliseconds: number, run: () => void) {
    return this.#add({ at: this.now + milliseconds, run })
  }
  turn(milliseconds: number) {
    const end = this.now + milliseconds
    for (;;) {
      const next = this.#alarms.filter(({ at }) => at <= end).sort((a, b) => a.at - b.at)[0]
      if (next === undefined) break
      this.now = next.at
      if (next.again === undefined) this.#alarms = this.#alarms.filter(alarm => alarm !== next)
      else next.at += next.again
      next.run()
    }
    this.now = end
  }
  /** Turns to the next alarm that rings once, if there is one. */
  turnToAlarm() {
    const next = this.#alarms.filter(({ again }) => again === undefined).sort((a, b) => a.at - b.at)[0]
    if (next !== undefined) this.turn(next.at - this.now)
  }
  #add(alarm: { at: number; again?: number; run: () => void }) {
    this.#alarms.push(alarm)
    return () => {
      this.#alarms = this.#alarms.filter(other => other !== alarm)
    }
  }
}

export const idCoreOf = (leaf: number) =>
  IdCore.decode(concat(Uint8Array.of(0, 0, 0, leaf, 0, 1, 2), new Uint8Array(32).fill(leaf)))
export const CAR = idCoreOf(1)
export const OTHER_CAR = idCoreOf(2)
export const OPERATOR = idCoreOf(9)
export const DRIVER = toBase64Url(new Uint8Array(32).fill(3))

/** One group for all worlds of a file: its pairings take longer than everything else here. */
let founded: Promise<Fixture> | undefined

export class TrackingWorld {
  readonly clock = new FakeClock()
  group: Group
  readonly server: TrackingServer
  readonly store: TrackStore
  readonly pool: CryptoPool
  /** Of the worlds' one group; for those who sign by themselves. */
  readonly #secrets: Fixture['secrets']
  #url: Promise<string> | undefined
  #ra: Es256PrivateKey
  readonly #firstRa: Es256PrivateKey
  readonly #authority: Es256PrivateKey
  readonly #tokenKey: Es256PrivateKey
  readonly #stranger: Es256PrivateKey
  #stream: ReadableStreamDefaultController<Uint8Array> | undefined
  #number = 5
  /** What /v1/verifications answers; by message. */
  readonly onePass = new Map<
    string,
    { idCore: string; amr: ('device' | 'pin')[]; slot: number; audience: string; tlsExporter?: string }
  >()
  /** Authorization headers that the stub has seen on calls of servers. */
  readonly requests: string[] = []
  isRpsDown = false
  banned: { idCore: string; userCore?: string }[] = []

  private constructor(made: {
    group: Group
    secrets: Fixture['secrets']
    ra: Es256PrivateKey
    authority: Es256PrivateKey
    requestKey: Es256PrivateKey
    tokenKey: Es256PrivateKey
    stranger: Es256PrivateKey
    store: TrackStore
    openTls: (() => Promise<TlsService>) | undefined
    pool: Partial<PoolOptions>
  }) {
    this.group = made.group
    this.#ra = made.ra
    this.#firstRa = made.ra
    this.#authority = made.authority
    this.#tokenKey = made.tokenKey
    this.#stranger = made.stranger
    this.store = made.store
    this.#secrets = made.secrets
    const ports = { random: fixedRandom('weights'), clock: () => this.clock.now, timers: systemTimers }
    this.pool = CryptoPool.start({ ...ports, workers: 0, ...made.pool })
    this.server = createTracking({
      config: {
        name: 'tracking',
        listen: { host: '127.0.0.1', port: 0 },
        adminListen: { host: '127.0.0.1', port: 0 },
        publicUrl: PUBLIC_URL,
        dataDir: '/nowhere',
        groupId: toBase64Url(made.group.groupId),
        groupFile: '/nowhere/group.json',
        rps: { url: RPS_URL },
        ...(made.openTls === undefined ? {} : { tlsListen: { host: '127.0.0.1', port: 0 } }),
      },
      ...(made.openTls === undefined ? {} : { openTls: made.openTls }),
      group: made.group,
      requestKey: made.requestKey,
      adminToken: 'an admin token of a test',
      store: made.store,
      pool: this.pool,
      random: fixedRandom('tracking'),
      clock: () => this.clock.now,
      timers: this.clock,
      log: createLog('tracking', {
        destination: new Writable({ write: (_chunk, _encoding, done) => done() }),
      }),
      metrics: createMetrics('tracking'),
      fetch: (input, init) => this.#rps(new URL(String(input)), init ?? {}),
    })
  }

  /**
   * @param keyCheck Where the group's document is checked, and where those after it.
   * @param openTls For a server that takes vehicles by TLS.
   * @param pool How signatures of vehicles are verified; on this thread unless said.
   */
  static async make({
    file = ':memory:',
    keyCheck,
    openTls,
    pool = {},
  }: {
    file?: string
    keyCheck?: KeyCheck
    openTls?: () => Promise<TlsService>
    pool?: Partial<PoolOptions>
  } = {}): Promise<TrackingWorld> {
    founded ??= makeGroup({ n: 1, t: 1 })
    const { members, group, secrets } = await founded
    return new TrackingWorld({
      secrets,
      group:
        keyCheck === undefined ? group : await Group.verifyChain(group.documents, group.groupId, keyCheck),
      ra: members.ra[0]!,
      authority: members.authorities[0]!.signKey,
      requestKey: members.tracking.signKey,
      tokenKey: await generateEs256(),
      stranger: await generateEs256(),
      store: await TrackStore.open(file),
      openTls,
      pool,
    })
  }

  async close() {
    await this.server.close()
    await this.pool.close()
    await this.store.close()
  }

  /** Where the public listener is, listening from the first time on. */
  url(): Promise<string> {
    this.#url ??= this.server.app.listen({ host: '127.0.0.1', port: 0 })
    return this.#url
  }

  /** Follows the stream, with its state taken in. */
  async follow() {
    this.server.follower.start()
    await this.until(() => this.server.follower.fresh)
  }

  /** Lets promises run until `holds`. */
  async until(holds: () => boolean) {
    const begin = performance.now()
    while (!holds()) {
      if (performance.now() - begin > 10_000) throw new Error('it does not come about')
      await new Promise(resolve => setImmediate(resolve))
    }
  }

  async event(
    kind: EventPayload['kind'],
    idCore: IdCore,
    more: { userCore?: string; number?: number; by?: 'ra' | 'first' | 'stranger' } = {},
  ) {
    const number = more.number ?? ++this.#number
    const token = await signEvent(
      {
        suite: SUITE,
        groupId: toBase64Url(this.group.groupId),
        number,
        iat: this.#seconds,
        kind,
        idCore: idCore.mpinId,
        ...(more.userCore === undefined ? {} : { userCore: more.userCore }),
      },
      { key: { stranger: this.#stranger, first: this.#firstRa, ra: this.#ra }[more.by ?? 'ra'], kid: 'ra1' },
    )
    this.#send(`id: ${number}\nevent: event\ndata: ${token}\n\n`)
  }

  /** The next revision of the group document, with another RA key, which signs from now on. */
  async changeRaKey() {
    const { document } = this.group
    this.#ra = await generateEs256()
    const next: GroupDocument = {
      ...document,
      groupId: toBase64Url(this.group.groupId),
      revision: document.revision + 1,
      previous: toBase64Url(documentHash(document)),
      ra: { m: 1, keys: [{ kid: 'ra1', key: this.#ra.publicKey.toBase64Url() }] },
      signatures: [],
    }
    const signature = await signDocument(next, this.#authority)
    this.group = await this.group.verifyNext({ ...next, signatures: [{ index: 1, signature }] })
  }

  heartbeat() {
    this.#send(':\n\n')
  }

  /** The RPS goes away: the stream breaks and nothing answers. */
  loseStream() {
    this.isRpsDown = true
    this.#stream?.error(new Error('connection reset'))
    this.#stream = undefined
  }

  token(
    idCore: IdCore,
    more: {
      userCore?: string
      amr?: ('device' | 'pin')[]
      aud?: string
      iss?: string
      by?: 'rps' | 'stranger'
      lifetime?: number
    } = {},
  ) {
    return signAccessToken(
      {
        iss: more.iss ?? RPS_URL,
        aud: more.aud ?? PUBLIC_URL,
        sub: idCore.mpinId,
        ...(more.userCore === undefined ? {} : { userCore: more.userCore }),
        amr: more.amr ?? ['device'],
        slot: 1,
        iat: this.#seconds,
        exp: this.#seconds + (more.lifetime ?? 300),
        jti: toBase64Url(new Uint8Array(16)),
      },
      { key: more.by === 'stranger' ? this.#stranger : this.#tokenKey, kid: 't1' },
    )
  }

  /** A one-pass proof that the RPS takes for the vehicles' audience, over this exporter alone. */
  boundProof({ mpinId: idCore }: IdCore, tlsExporter: Uint8Array): string {
    const message = `proof-${this.onePass.size}`
    const answer = { idCore, amr: ['device' as const], slot: 1, audience: 'tracking' }
    this.onePass.set(message, { ...answer, tlsExporter: toBase64Url(tlsExporter) })
    return `MPIN ${message}`
  }

  receipt(idCore: IdCore, batch: Batch, more: Partial<ReceiptPayload> & { by?: 'stranger' } = {}) {
    const { by, ...changes } = more
    return signReceipt(
      {
        iss: RPS_URL,
        aud: PUBLIC_URL,
        sub: idCore.mpinId,
        amr: ['device'],
        slot: 1,
        payloadHash: toBase64Url(sha256(headPayload(batch.number, batch.head))),
        iat: this.#seconds,
        ...changes,
      },
      { key: by === 'stranger' ? this.#stranger : this.#tokenKey, kid: 't1' },
    )
  }

  /** The vehicle's own signature over the batch's head, with its permit. */
  signed(
    idCore: IdCore,
    batch: Batch,
    more: { context?: string; permitOf?: IdCore; slot?: number } = {},
  ): SignedFields {
    const { groupId, slotRule } = this.group
    const { permit, sign: s } = this.#secrets
    const slot = more.slot ?? slotAt(slotRule, this.#seconds)
    const target = { type: 'id', idCore: more.permitOf ?? idCore } as const
    const HT = permitPoint(permitInput({ groupId, permitEpoch: 1, rule: slotRule }, slot, target))
    const terms = { groupId, idCore, slot, context: more.context ?? HEAD_CONTEXT, signEpoch: 1 }
    const key = signIdentityPoint(groupId, idCore).mulSecret(s)
    const signature = sign(terms, key, headPayload(batch.number, batch.head), systemRandom)
    return signedFields(terms, signature, Permit.of(slot, target, HT.mulSecret(permit)))
  }

  start(idCore: IdCore): TrackEnd {
    return trackStart(this.group.groupId, idCore.bytes)
  }

  positions(count: number, from = this.clock.now - 60_000): Position[] {
    return Array.from({ length: count }, (_, at) => ({
      at: from + at * 1000,
      latE7: 481_374_000 + at,
      lonE7: 115_755_000,
      speed: 1390,
      heading: 90,
    }))
  }

  batch(idCore: IdCore, end: TrackEnd, positions: readonly Position[]): [Batch, TrackEnd] {
    return appendBatch(idCore.bytes, end, positions)
  }

  async send(batch: Batch, authorization: string | undefined, word: string | SignedFields) {
    return this.call('POST', '/v1/tracks', authorization, {
      number: batch.number,
      previous: toBase64Url(batch.previous),
      positions: batch.positions,
      head: toBase64Url(batch.head),
      ...(typeof word === 'string' ? { receipt: word } : { signed: word }),
    })
  }

  async call(method: 'GET' | 'POST', url: string, authorization: string | undefined, body?: object) {
    const answer = await fetch((await this.url()) + url, {
      method,
      headers: {
        ...(authorization === undefined ? {} : { authorization }),
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    })
    return {
      status: answer.status,
      body: (await answer.json()) as Record<string, unknown> & { code?: string },
    }
  }

  get #seconds(): number {
    return Math.floor(this.clock.now / 1000)
  }

  #send(text: string) {
    this.#stream?.enqueue(new TextEncoder().encode(text))
  }

  async #rps(url: URL, init: RequestInit): Promise<Response> {
    if (this.isRpsDown) throw new TypeError('fetch failed')
    const headers = new Headers(init.headers)
    const { pathname } = url
    if (pathname === '/v1/jwks') {
      const jwk = { ...this.#tokenKey.publicKey.toJwk(), kid: 't1', use: 'sig', alg: 'ES256' }
      return Response.json({ keys: [jwk] })
    }
    if (pathname === '/v1/group') {
      const revision = Number(url.searchParams.get('revision') ?? this.group.revision)
      return Response.json(this.group.documents[revision - 1])
    }
    this.requests.push(headers.get('authorization') ?? '')
    if (pathname === '/v1/events') {
      const state = await signState(
        {
          suite: SUITE,
          groupId: toBase64Url(this.group.groupId),
          number: this.#number,
          iat: this.#seconds,
          banned: this.banned,
          revoked: [],
        },
        { key: this.#ra, kid: 'ra1' },
      )
      init.signal?.throwIfAborted()
      const body = new ReadableStream<Uint8Array>({
        start: stream => {
          this.#stream = stream
        },
      })
      init.signal?.addEventListener('abort', () => {
        this.#stream?.error(new Error('aborted'))
        this.#stream = undefined
      })
      this.#send(`id: ${this.#number}\nevent: state\ndata: ${state}\n\n`)
      return new Response(body, { headers: { 'content-type': 'text/event-stream' } })
    }
    if (pathname === '/v1/verifications') {
      const body = JSON.parse(new TextDecoder().decode(init.body as Uint8Array)) as Verification
      const { tlsExporter, ...answer } = this.onePass.get(body.message) ?? {}
      const holds = 'idCore' in answer && tlsExporter === body.tlsExporter
      return holds ? Response.json(answer) : asProblem(new Refused('WRONG_PROOF'))
    }
    const idCore = pathname.slice('/v1/identities/'.length)
    const instance = idCore === OPERATOR.mpinId ? 'operator:ada' : `vin-${idCore.slice(-4)}`
    return Response.json({ attributes: {}, instance })
  }
}

interface Verification {
  readonly message: string
  readonly tlsExporter?: string
}

function asProblem(refused: Refused): Response {
  return new Response(JSON.stringify(refused.toProblem()), {
    status: refused.status,
    headers: { 'content-type': 'application/problem+json' },
  })
}
