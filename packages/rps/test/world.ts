/**
 * A small world around an RPS under test: three authorities that hold shares of secrets which the test knows, a
 * relying party that says what the test tells it to, cars and drivers with their keys. Everything talks HTTP on
 * 127.0.0.1; the clock is turned by hand.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Client, createClient } from '@milagro-ts/api/call'
import { dtaRoutes } from '@milagro-ts/api/dta-routes'
import { Group, signDocument } from '@milagro-ts/api/group'
import type { GroupDocument } from '@milagro-ts/api/group-document'
import { LogHead } from '@milagro-ts/api/issuance-log'
import { deltaTerms } from '@milagro-ts/api/key-rotation'
import {
  type Es256PrivateKey,
  Es256PublicKey,
  generateEs256,
  generateHpkeKey,
  type HpkeKeyPair,
} from '@milagro-ts/api/keys'
import { createLog, type Log } from '@milagro-ts/api/log'
import { EMPTY_ROOT } from '@milagro-ts/api/merkle-tree'
import { createMetrics } from '@milagro-ts/api/metrics'
import { Refused } from '@milagro-ts/api/problem'
import { requestSigner, serverCallerCheck } from '@milagro-ts/api/request-auth'
import { type Approved, type Notice, rpaRoutes } from '@milagro-ts/api/rpa-routes'
import { rpsRoutes } from '@milagro-ts/api/rps-routes'
import { seal } from '@milagro-ts/api/seal'
import { createApp, type Handlers, mount } from '@milagro-ts/api/serve'
import { type SlotKeyRequest, signSlotKeyRequest } from '@milagro-ts/api/slot-key-request'
import {
  cosignerKid,
  type EventPayload,
  type LeavesPayload,
  type LeavesState,
  leavesHash,
  signCosignature,
  signEvent,
  signLeaves,
  signPermitStatement,
  signState,
  signTicket,
  signTree,
  type TreePayload,
  verifyLeaves,
  verifyPermitStatement,
  verifyTicket,
  verifyTree,
} from '@milagro-ts/api/statements'
import { systemRandom } from '@milagro-ts/api/system'
import { fromBase64Url, toBase64Url, utf8 } from '@milagro-ts/crypto/bytes'
import { enrolmentKeyHash } from '@milagro-ts/crypto/enrolment'
import {
  agreePointG2,
  deviceIdentityPoint,
  encodeName,
  IdCore,
  issueIdCore,
  NO_USER,
  pinIdentityPoint,
  signIdentityPoint,
  userCoreOf,
} from '@milagro-ts/crypto/identity'
import { clientProve, type LoginJson, type LoginMessage, MODE, type Mode } from '@milagro-ts/crypto/mpin'
import { authorityIssueNodes, decodeNodes } from '@milagro-ts/crypto/node-shares'
import { BannedLeaves, type TreeNode } from '@milagro-ts/crypto/permit-tree'
import { G1, G2 } from '@milagro-ts/crypto/points'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { splitSecret } from '@milagro-ts/crypto/secret-sharing'
import { authorityServerKeyShare } from '@milagro-ts/crypto/server-key'
import { sha256 } from '@milagro-ts/crypto/sha256'
import { authorityIssue, shareContext } from '@milagro-ts/crypto/share-proof'
import { hasPublicKey, PURPOSES, type Purpose, SUITE } from '@milagro-ts/crypto/suite'
import { Permit, permitInput, permitPoint, slotAt } from '@milagro-ts/crypto/time-permit'
import { encodeTlv } from '@milagro-ts/crypto/tlv'
import type { AudiencePolicy, RpsConfig } from '@milagro-ts/rps/config'
import { createRps, openKeys, type Rps, type RpsOptions } from '@milagro-ts/rps/server'
import { rpsMigrations } from '@milagro-ts/rps/tables'
import { openDatabase, type Store } from '@milagro-ts/store/database'
import type { FastifyInstance } from 'fastify'
import { deal, nextRevision } from '../../api/test/group-fixture.js'
import { FakeClock } from './fake-clock.js'

export const PASSPHRASE = 'sesame, or a longer word'
export const SLOT = { origin: 1_767_225_600, length: 3_600 }
/** In the middle of slot 1000. */
export const NOON = (SLOT.origin + 1_000 * SLOT.length + 1_800) * 1000
export const NOON_SLOT = 1_000
/** The RPS' own audience; nothing listens there under this name. */
/** Milliseconds: client and servers share one thread here, and a slow machine. */
const CLIENT_TIMEOUT = 60_000
export const OWN = 'https://rps.example'
export const TRACKING = 'https://tracking.example'
export const FLEET = 'https://fleet.example'
export const AUDIENCES: AudiencePolicy[] = [
  { name: TRACKING, service: 'tracking', pin: 'optional', tlsExporter: 'absent' },
  { name: FLEET, service: 'fleet', pin: 'required', tlsExporter: 'absent' },
  { name: 'devices-only', pin: 'never', tlsExporter: 'absent' },
  { name: 'bound', service: 'tracking', pin: 'optional', tlsExporter: 'required' },
]

function fromPurposes<T>(make: (purpose: Purpose) => T): Record<Purpose, T> {
  return Object.fromEntries(PURPOSES.map(purpose => [purpose, make(purpose)])) as Record<Purpose, T>
}

function listen(app: FastifyInstance): Promise<string> {
  return app.listen({ host: '127.0.0.1', port: 0 })
}

/** Any request JWT once; the fakes have no store. */
function onceOnly() {
  const seen = new Set<string>()
  return {
    put: async (kind: string, key: string) =>
      !seen.has(`${kind} ${key}`) && seen.add(`${kind} ${key}`).size > 0,
  }
}

const quiet: Log = createLog('fake', { level: 'silent' })

/** An authority made from nothing but its shares. */
export class FakeAuthority {
  readonly name: string
  readonly signKey: Es256PrivateKey
  index: number
  /** s_j by purpose, of the newest key epoch. */
  shares: Readonly<Record<Purpose, Scalar>>
  /** s_j by key epoch. */
  readonly byEpoch = new Map<number, Readonly<Record<Purpose, Scalar>>>()
  /** What it goes by, if it isn't what the world goes by. */
  group: Group | undefined
  behaviour: 'honest' | 'lying' | 'frozen' = 'honest'
  readonly asked = {
    serverKeys: 0,
    permits: 0,
    leaves: 0,
    nodePermits: 0,
    nodes: 0,
    shares: 0,
    slotKeys: 0,
    deltas: 0,
    group: 0,
  }
  /** The newest banned leaves that it was shown. */
  leaves: LeavesState | undefined
  /** What happens elsewhere while a permit share is made. */
  beforePermit: (() => Promise<void>) | undefined
  onStatement: ((statement: string) => void) | undefined
  /** What it shows for the document in force, if that is a lie. */
  document: GroupDocument | undefined
  /** Unix seconds: a notice in the signed head of its log. */
  leavesAt: number | undefined
  url = ''
  #app: FastifyInstance | undefined

  constructor(
    index: number,
    shares: Readonly<Record<Purpose, Scalar>>,
    signKey: Es256PrivateKey,
    name = `ta${index}`,
  ) {
    this.index = index
    this.name = name
    this.shares = shares
    this.signKey = signKey
  }

  async start(world: World): Promise<void> {
    const app = createApp({ title: this.name, log: quiet, metrics: createMetrics(this.name) })
    const { group, serverKeys, permits, leaves, nodePermits, shares, slotKeys, deltas, logHead } = dtaRoutes
    const table = { group, serverKeys, permits, leaves, nodePermits, shares, slotKeys, deltas, logHead }
    const own = () => this.group ?? world.group
    const handlers: Handlers<typeof table> = {
      group: async ({ query }) => {
        this.asked.group++
        const { documents, document } = own()
        const found =
          query.revision === undefined ? (this.document ?? document) : documents[Number(query.revision) - 1]
        if (found === undefined) throw new Refused('NOT_FOUND')
        return found
      },
      logHead: async () => {
        const head = {
          size: 0,
          root: EMPTY_ROOT,
          at: Math.floor(world.clock.now / 1000),
          leavesAt: this.leavesAt,
        }
        return {
          head: await LogHead.sign({ groupId: own().groupId, name: this.name }, head, this.signKey),
          seen: [],
        }
      },
      serverKeys: async ({ body, caller }) => {
        this.asked.serverKeys++
        const group = own()
        const { shareEpoch } = group
        const recipient = group.recipient(caller.name)!
        const { index } = this
        if (this.behaviour === 'frozen') throw new Refused('FROZEN')
        const { slot } = body
        const { kind, name: server, generation } = recipient
        const name = { kind: kind === 3 ? 3 : 2, name: server, generation } as const
        const identity = encodeName(group.groupId, slot === undefined ? name : { ...name, kind: 2, slot })
        const jti = fromBase64Url(body.nonce, 'nonce', 16)
        const ctx = shareContext({
          groupId: group.groupId,
          purpose: body.purpose,
          index,
          shareEpoch,
          identity,
          jti,
        })
        const secret = this.#share(body.purpose, body.keyEpoch)
        const { commitments } = group.keysOf(body.purpose, body.keyEpoch)!
        const commitment = commitments[index - 1]!
        const share =
          body.purpose === 'agree'
            ? authorityIssue({ ctx, commitment, A: agreePointG2(identity) }, secret, systemRandom).encode()
            : encodeTlv([authorityServerKeyShare(secret).encode()])
        const sealed = await seal(recipient.hpkeKey, ctx, share, systemRandom)
        return { index, shareEpoch, sealed: toBase64Url(sealed) }
      },
      permits: async ({ body }) => {
        this.asked.permits++
        this.onStatement?.(body.statement)
        await this.beforePermit?.()
        if (this.behaviour === 'frozen') throw new Refused('FROZEN')
        const { clock } = world
        const group = own()
        const { shareEpoch } = group
        const { statement } = body
        const { idCore, slot, jti } = await verifyPermitStatement({ statement, group, now: clock.now })
        const { index } = this
        const keys = group.keysAt('permit', slot)!
        const terms = { groupId: group.groupId, permitEpoch: keys.epoch, rule: group.slotRule }
        const identity = permitInput(terms, slot, { type: 'id', idCore })
        const ctx = shareContext({
          groupId: group.groupId,
          purpose: 'permit',
          index,
          shareEpoch,
          identity,
          jti,
        })
        const commitment = keys.commitments[index - 1]!
        const share = authorityIssue(
          { ctx, commitment, A: permitPoint(identity) },
          this.#share('permit', keys.epoch),
          systemRandom,
        )
        return { index, shareEpoch, share: toBase64Url(share.encode()) }
      },
      deltas: async ({ body }) => {
        this.asked.deltas++
        if (this.behaviour === 'frozen') throw new Refused('FROZEN')
        const group = own()
        const { statement, device, pin, pinGen } = body
        const { idCore } = await verifyPermitStatement({ statement, group, now: world.clock.now })
        const rotation = { hpkeKey: fromBase64Url(body.hpkeKey, 'hpkeKey', 32), device, pin }
        const userCore = body.userCore === undefined ? NO_USER : fromBase64Url(body.userCore, 'userCore', 32)
        const account = pinGen === undefined ? undefined : { userCore, pinGen }
        const sealedFor = async (purpose: 'device' | 'pin') => {
          const step = rotation[purpose]
          if (step === undefined) return {}
          const terms = deltaTerms(group, rotation, { idCore, account }, purpose, this.index)!
          const delta = this.#share(purpose, step.to).subtract(this.#share(purpose, step.from))
          const share = authorityIssue(terms, delta, systemRandom)
          const sealed = await seal(rotation.hpkeKey, terms.ctx, share.encode(), systemRandom)
          const { shareEpoch } = group
          return { [purpose]: { index: this.index, shareEpoch, sealed: toBase64Url(sealed) } }
        }
        return { ...(await sealedFor('device')), ...(await sealedFor('pin')) }
      },
      leaves: async ({ body }) => {
        this.asked.leaves++
        if (this.behaviour === 'frozen') throw new Refused('FROZEN')
        const group = own()
        const state = await verifyLeaves({ statement: body.leaves, group })
        if (this.leaves !== undefined && state.number < this.leaves.number) throw new Refused('EXPIRED')
        this.leaves = state
        const { number } = state
        const cosignature = await signCosignature(
          { suite: SUITE, groupId: world.groupId, number, leavesHash: toBase64Url(state.hash) },
          { key: this.signKey, kid: cosignerKid(this.index) },
        )
        return { index: this.index, cosignature }
      },
      nodePermits: async ({ body }) => {
        this.asked.nodePermits++
        this.onStatement?.(body.statement)
        await this.beforePermit?.()
        if (this.behaviour === 'frozen') throw new Refused('FROZEN')
        const group = own()
        const statement = await verifyTree({ statement: body.statement, group, now: world.clock.now })
        if (this.leaves === undefined || !statement.isAbout(this.leaves)) throw new Refused('CONFLICT')
        const nodes = decodeNodes(fromBase64Url(body.nodes, 'nodes'))
        if (!nodes.every(node => this.leaves?.leaves.covers(node))) throw new Refused('NOT_APPROVED')
        this.asked.nodes += nodes.length
        const { index } = this
        const { shareEpoch } = group
        const { slot, jti } = statement
        const { epoch: permitEpoch, commitments } = group.keysAt('permit', slot)!
        const commitment = commitments[index - 1]!
        const terms = { groupId: group.groupId, permitEpoch, rule: group.slotRule }
        const shares = authorityIssueNodes(
          { terms, slot, nodes },
          { index, shareEpoch, commitment, jti },
          this.#share('permit', permitEpoch),
          systemRandom,
        )
        return { index, shareEpoch, shares: toBase64Url(shares.encode()) }
      },
      shares: async ({ body }) => {
        this.asked.shares++
        const group = own()
        await verifyTicket({ ticket: body.ticket, group, now: world.clock.now })
        return { index: this.index, shareEpoch: group.shareEpoch, sealed: toBase64Url(systemRandom(200)) }
      },
      slotKeys: async () => {
        this.asked.slotKeys++
        const { shareEpoch } = own()
        return { index: this.index, shareEpoch, sealed: toBase64Url(systemRandom(300)) }
      },
    }
    const server = async (meta: Parameters<ReturnType<typeof serverCallerCheck>>[0]) =>
      serverCallerCheck({
        keyOf: name => own().recipient(name)?.requestKey,
        singleUse: onceOnly(),
        clock: () => world.clock.now,
        publicUrl: this.url,
      })(meta)
    mount(app, table, handlers, { server })
    this.#app = app
    this.url = await listen(app)
  }

  async close(): Promise<void> {
    await this.#app?.close()
  }

  #share(purpose: Purpose, epoch: number): Scalar {
    if (this.behaviour === 'lying') return Scalar.random(systemRandom)
    return (this.byEpoch.get(epoch) ?? this.shares)[purpose]
  }
}

interface RegisteredIdentity {
  readonly attributes: Record<string, string>
  readonly instance: string
  banned?: boolean
  revoked?: boolean
}
export interface RegisteredAccount {
  issuedPinGen: number
  acceptedPinGen: number
  attributes?: Record<string, string>
  banned?: boolean
}
type Verify = Parameters<Handlers<typeof rpaRoutes>['verify']>[0]['body']

/** A relying party that the test tells what to say. */
export class FakeRpa {
  readonly identities = new Map<string, RegisteredIdentity>()
  /** By `idCore/userCore`. */
  readonly accounts = new Map<string, RegisteredAccount>()
  readonly told: Notice[] = []
  readonly registrations: Verify[] = []
  readonly asked = { permit: 0, tree: 0, state: 0 }
  /** What it says instead of the truth about the banned leaves. */
  onTree: ((truth: TreePayload, state: LeavesPayload) => [TreePayload, LeavesPayload]) | undefined
  isDown = false
  /** What happens elsewhere between the answer and its arrival. */
  beforePermit: (() => Promise<void>) | undefined
  number = 0
  verify: (body: Verify) => Promise<Approved | { state: 'pending' | 'refused' | 'expired' }> = async () => ({
    state: 'pending',
  })
  url = ''
  #app: FastifyInstance | undefined

  async start(world: World): Promise<void> {
    const app = createApp({ title: 'rpa', log: quiet, metrics: createMetrics('rpa') })
    const handlers: Handlers<typeof rpaRoutes> = {
      verify: async ({ body }) => {
        this.registrations.push(body)
        return this.verify(body)
      },
      permit: async ({ body }) => {
        this.asked.permit++
        const identity = this.identities.get(body.idCore)
        if (identity === undefined) throw new Refused('NOT_FOUND')
        if (identity.revoked) throw new Refused('REVOKED')
        if (identity.banned) throw new Refused('BANNED', { field: 'idCore' })
        const account = this.accounts.get(`${body.idCore}/${body.userCore ?? ''}`)
        if (account === undefined && body.userCore !== undefined) throw new Refused('NOT_FOUND')
        if (account?.banned) throw new Refused('BANNED', { field: 'userCore' })
        const iat = world.seconds
        const statement = await signPermitStatement(
          {
            suite: SUITE,
            groupId: world.groupId,
            keyEpoch: world.group.epochAt('permit', body.slot)!,
            idCore: body.idCore,
            slot: body.slot,
            banned: false,
            iat,
            exp: iat + 60,
            jti: toBase64Url(systemRandom(16)),
          },
          world.raSigner,
        )
        await this.beforePermit?.()
        const { attributes, instance } = identity
        if (account === undefined) return { statement, attributes, instance }
        const { banned: _, ...known } = account
        return { statement, attributes, instance, account: known }
      },
      tree: async ({ body }) => {
        this.asked.tree++
        const { suite, groupId } = { suite: SUITE, groupId: world.groupId } as const
        const out = [...this.identities].filter(([, { banned, revoked }]) => banned || revoked)
        const bytes = BannedLeaves.of(out.map(([id]) => IdCore.fromBase64Url(id).leaf)).encode()
        const leaves = bytes.length > 0 ? { leaves: toBase64Url(bytes) } : {}
        const honest: LeavesPayload = { suite, groupId, number: this.number, ...leaves }
        const iat = world.seconds
        const truth: TreePayload = {
          suite,
          groupId,
          keyEpoch: world.group.epochAt('permit', body.slot)!,
          slot: body.slot,
          number: this.number,
          leavesHash: toBase64Url(leavesHash(honest)),
          iat,
          exp: iat + 60,
          jti: toBase64Url(systemRandom(16)),
        }
        const [said, state] = this.onTree?.(truth, honest) ?? [truth, honest]
        const statement = await signTree(said, world.raSigner)
        if (body.number === this.number) return { statement }
        return { statement, leaves: await signLeaves(state, world.raSigner) }
      },
      authenticated: async ({ body }) => {
        this.told.push(...body.notices)
        return { unknown: [] }
      },
      state: async () => {
        this.asked.state++
        return { state: await this.state(world) }
      },
    }
    mount(app, rpaRoutes, handlers, {
      server: async meta => {
        if (this.isDown) throw new Refused('RETRY_LATER')
        return serverCallerCheck({
          keyOf: name => world.group.recipient(name)?.requestKey,
          singleUse: onceOnly(),
          clock: () => world.clock.now,
          publicUrl: this.url,
        })(meta)
      },
    })
    this.#app = app
    this.url = await listen(app)
  }

  state(world: World, number = this.number): Promise<string> {
    const users = [...this.accounts].filter(([, { banned }]) => banned).map(([key]) => key.split('/'))
    return signState(
      {
        suite: SUITE,
        groupId: world.groupId,
        number,
        iat: world.seconds,
        banned: [
          ...[...this.identities].filter(([, { banned }]) => banned).map(([idCore]) => ({ idCore })),
          ...users.map(([idCore, userCore]) => ({ idCore: idCore!, ...(userCore ? { userCore } : {}) })),
        ],
        revoked: [...this.identities]
          .filter(([, { revoked }]) => revoked)
          .map(([idCore]) => ({ idCore, leaf: IdCore.fromBase64Url(idCore).leaf })),
      },
      world.raSigner,
    )
  }

  async close(): Promise<void> {
    await this.#app?.close()
  }
}

export interface Server {
  readonly name: string
  readonly requestKey: Es256PrivateKey
  readonly hpkeKey: HpkeKeyPair
}
async function makeServer(name: string): Promise<Server> {
  return { name, requestKey: await generateEs256(), hpkeKey: await generateHpkeKey(systemRandom) }
}

export interface RunningRps {
  readonly rps: Rps
  readonly config: RpsConfig
  readonly store: Store<unknown>
  readonly url: string
  readonly adminUrl: string
  readonly client: Client<typeof rpsRoutes>
  /** As a service calls it. */
  as(server: Server): Client<typeof rpsRoutes>
  close(): Promise<void>
}

/** A car, or whatever has a device key. */
export interface Car {
  readonly idCore: IdCore
  readonly D_dev: G1
}
export interface Driver {
  readonly userCore: Uint8Array
  readonly attributes: Record<string, string>
}

/** What a test changes of a message that would be right. */
export interface MessageOptions {
  readonly mode?: Mode
  readonly audience?: string
  readonly slot?: number
  readonly deviceEpoch?: number
  readonly pinEpoch?: number
  readonly nonce?: string
  readonly clientTime?: number
  readonly payload?: Uint8Array
  readonly driver?: Driver
  readonly pinGen?: number
  readonly wrongPin?: boolean
  readonly permit?: Permit
  readonly tlsExporter?: Uint8Array
  readonly deviceKey?: G1
}

export class World {
  readonly clock = new FakeClock(NOON)
  readonly logged: string[] = []
  readonly rpa = new FakeRpa()
  /** Addresses that can't be reached. */
  readonly unreachable = new Set<string>()
  /** Of the newest key epoch. */
  secrets = fromPurposes(() => Scalar.random(systemRandom))
  /** By key epoch. */
  readonly epochs = new Map([[1, this.secrets]])
  raKey: Es256PrivateKey
  raKid = 'ra1'
  readonly tracking: Server
  readonly fleet: Server
  authorities: FakeAuthority[]
  readonly folder: string
  readonly #t: number
  readonly #slot: { origin: number; length: number }
  readonly #policy: GroupDocument['policy']
  readonly #running: RunningRps[] = []
  /** Former members, too. */
  readonly #started: FakeAuthority[] = []
  #group: Group | undefined
  #leaf = 0

  private constructor(made: {
    raKey: Es256PrivateKey
    tracking: Server
    fleet: Server
    signKeys: readonly Es256PrivateKey[]
    folder: string
    options: WorldOptions
  }) {
    this.raKey = made.raKey
    this.tracking = made.tracking
    this.fleet = made.fleet
    this.folder = made.folder
    this.#t = made.options.t ?? 2
    this.#slot = made.options.slot ?? SLOT
    this.#policy = made.options.policy ?? { lead: 0, grace: 300 }
    const n = made.signKeys.length
    const shares = fromPurposes(purpose =>
      splitSecret(this.secrets[purpose], { t: this.#t, n }, systemRandom),
    )
    this.authorities = made.signKeys.map(
      (signKey, i) =>
        new FakeAuthority(
          i + 1,
          fromPurposes(purpose => shares[purpose][i]!.scalar),
          signKey,
        ),
    )
    this.#started.push(...this.authorities)
  }

  static async make(options: WorldOptions = {}): Promise<World> {
    const world = new World({
      raKey: await generateEs256(),
      tracking: await makeServer('tracking'),
      fleet: await makeServer('fleet'),
      signKeys: await Promise.all(Array.from({ length: options.n ?? 3 }, generateEs256)),
      folder: await mkdtemp(join(tmpdir(), 'milagro-rps-')),
      options,
    })
    await Promise.all([...world.authorities, world.rpa].map(fake => fake.start(world)))
    await world.#found(options)
    return world
  }

  get group(): Group {
    return this.#group!
  }
  get groupId(): string {
    return toBase64Url(this.group.groupId)
  }
  get seconds(): number {
    return Math.floor(this.clock.now / 1000)
  }
  get slot(): number {
    return slotAt(this.group.slotRule, this.seconds)
  }
  get raSigner() {
    return { key: this.raKey, kid: this.raKid }
  }
  get dataDir(): string {
    return join(this.folder, 'rps')
  }

  /** Until the RPA has been told what `holds` wants; notices that gather are sent when time goes on. */
  async toldUntil(holds: (told: readonly Notice[]) => boolean): Promise<void> {
    await until(() => {
      this.clock.turn(1)
      return holds(this.rpa.told)
    })
  }

  /** Starts an RPS on the world's data folder; a second one is a replica of the first, or the first restarted. */
  async startRps(
    options: {
      config?: Partial<RpsConfig>
      verify?: RpsOptions['verify']
      startPool?: RpsOptions['startPool']
      store?: string
      passphrase?: string
    } = {},
  ): Promise<RunningRps> {
    const config = this.configWith(options.config)
    const file = options.store ?? join(config.dataDir, 'rps.sqlite')
    const store = await openDatabase<unknown>({ file, migrations: rpsMigrations })
    const rps = await createRps({
      config,
      passphrase: options.passphrase ?? PASSPHRASE,
      store,
      clock: () => this.clock.now,
      random: systemRandom,
      timers: this.clock,
      fetch: (input, init) => this.#fetch(input, init),
      log: createLog('rps', { level: 'trace', destination: { write: line => void this.logged.push(line) } }),
      metrics: createMetrics('rps'),
      ...(options.verify === undefined ? {} : { verify: options.verify }),
      ...(options.startPool === undefined ? {} : { startPool: options.startPool }),
    }).catch(async error => {
      await store.close()
      throw error
    })
    const { url, adminUrl } = await rps.start()
    let isClosed = false
    const running: RunningRps = {
      rps,
      config,
      store,
      url,
      adminUrl,
      client: createClient(rpsRoutes, { baseUrl: url, timeout: CLIENT_TIMEOUT }),
      as: server =>
        createClient(rpsRoutes, {
          baseUrl: url,
          timeout: CLIENT_TIMEOUT,
          authorize: request => this.authorize(server, url, request),
        }),
      async close() {
        if (isClosed) return
        isClosed = true
        await rps.close()
        await store.close()
      },
    }
    this.#running.push(running)
    return running
  }

  /** The request JWT of a call that goes to `url` but is meant for the RPS' public address. */
  authorize(
    server: Server,
    url: string,
    request: { method: string; url: string; body: Uint8Array },
  ): Promise<string> {
    const { name, requestKey: key } = server
    const sign = requestSigner({ name, key, clock: () => this.clock.now, random: systemRandom })
    return sign({ ...request, url: request.url.replace(url, OWN) })
  }

  configWith(changes: Partial<RpsConfig> = {}): RpsConfig {
    return {
      name: 'rps',
      listen: { host: '127.0.0.1', port: 0 },
      adminListen: { host: '127.0.0.1', port: 0 },
      publicUrl: OWN,
      dataDir: this.dataDir,
      groupId: this.groupId,
      groupFile: join(this.folder, 'group.json'),
      rpa: { url: this.rpa.url },
      audiences: AUDIENCES,
      trustProxy: ['127.0.0.1'],
      workers: 0,
      ...changes,
    }
  }

  async close(): Promise<void> {
    for (const running of this.#running) await running.close()
    await Promise.all([...this.#started, this.rpa].map(fake => fake.close()))
    await rm(this.folder, { recursive: true })
  }

  /** A car with its device key, in the RPA's register unless the test says otherwise. */
  makeCar({ factors = 2, isRegistered = true }: { factors?: number; isRegistered?: boolean } = {}): Car {
    const leaf = this.#leaf++
    const attributes = { brand: 'Trabant', model: '601', variant: `de luxe ${leaf}` }
    const idCore = issueIdCore({
      groupId: this.group.groupId,
      attributes,
      instance: `VIN-${leaf}`,
      issueDate: '2026-02-11',
      enrolmentKeyHash: sha256(utf8(`enrolment key ${leaf}`)),
      salt: systemRandom(16),
      leaf,
      generation: 0,
      factors,
    })
    if (isRegistered) this.rpa.identities.set(idCore.mpinId, { attributes, instance: `VIN-${leaf}` })
    return { idCore, D_dev: this.deviceKeyOf(idCore, 1) }
  }

  deviceKeyOf(idCore: IdCore, epoch: number): G1 {
    return deviceIdentityPoint(this.group.groupId, idCore).mulSecret(this.epochs.get(epoch)!.device)
  }

  pinKeyOf({ idCore }: Car, { userCore }: Driver, epoch: number): G1 {
    const A_pin = pinIdentityPoint(this.group.groupId, idCore, userCore, 1)
    return A_pin.mulSecret(this.epochs.get(epoch)!.pin)
  }

  /** A driver of this car whose first PIN has been issued. */
  makeDriver(car: Car, driverName = 'Ada'): Driver {
    const attributes = { driverName }
    const userCore = userCoreOf({ groupId: this.group.groupId, attributes, salt: systemRandom(16) })
    this.rpa.accounts.set(accountKey(car, { userCore, attributes }), {
      issuedPinGen: 1,
      acceptedPinGen: 0,
      attributes,
    })
    return { userCore, attributes }
  }

  /** The PIN of a personal device: no user. */
  makeOwnPin(car: Car): Driver {
    const own = { userCore: NO_USER, attributes: {} }
    this.rpa.accounts.set(accountKey(car, own), { issuedPinGen: 1, acceptedPinGen: 0 })
    return own
  }

  accountOf(car: Car, driver: Driver): RegisteredAccount {
    return this.rpa.accounts.get(accountKey(car, driver))!
  }

  prove(car: Car, options: MessageOptions = {}): LoginMessage {
    const { groupId } = this.group
    const { driver, payload, tlsExporter, permit } = options
    const mode = options.mode ?? (options.nonce === undefined ? MODE.time : MODE.nonce)
    const pinTerms = {
      userCore: driver?.userCore ?? NO_USER,
      pinGen: options.pinGen ?? 1,
      pinEpoch: options.pinEpoch ?? 1,
    }
    const A_pin = pinIdentityPoint(groupId, car.idCore, pinTerms.userCore, pinTerms.pinGen)
    const D_pin = A_pin.mulSecret((this.epochs.get(pinTerms.pinEpoch) ?? this.secrets).pin)
    return clientProve({
      terms: {
        mode,
        audience: options.audience ?? TRACKING,
        deviceEpoch: options.deviceEpoch ?? 1,
        slot: options.slot ?? this.slot,
        idCore: car.idCore,
        ...(options.nonce === undefined
          ? { clientTime: options.clientTime ?? this.seconds }
          : { nonce: fromBase64Url(options.nonce, 'nonce', 32) }),
        ...(payload === undefined ? {} : { payloadHash: sha256(payload) }),
      },
      binding: { groupId, ...(tlsExporter === undefined ? {} : { tlsExporter }) },
      deviceKey:
        options.deviceKey ??
        (options.deviceEpoch !== undefined && this.epochs.has(options.deviceEpoch)
          ? this.deviceKeyOf(car.idCore, options.deviceEpoch)
          : car.D_dev),
      // A wrong PIN: α is off by one.
      ...(driver === undefined
        ? {}
        : { pin: { terms: pinTerms, pinKey: options.wrongPin ? D_pin.add(A_pin) : D_pin } }),
      ...(permit === undefined ? {} : { permit }),
      random: systemRandom,
    })
  }

  /** A nonce of `rps`, and a message over it. */
  async message({ client }: RunningRps, car: Car, options: MessageOptions = {}): Promise<LoginJson> {
    const { nonce } = await client.nonce({ body: {} })
    return this.prove(car, { nonce, ...options }).toJson()
  }

  async login(rps: RunningRps, car: Car, options: MessageOptions & { authOtt?: boolean } = {}) {
    const { authOtt, ...terms } = options
    const login = asFields(await this.message(rps, car, terms))
    return rps.client.login({ body: { login, ...(authOtt === undefined ? {} : { authOtt }) } })
  }

  /** A permit as t authorities would make it. */
  /** What a device asks for its slot key by. */
  slotKeyRequest(
    { idCore }: { readonly idCore: IdCore },
    { slot = this.slot, signer = idCore }: { readonly slot?: number; readonly signer?: IdCore } = {},
  ): SlotKeyRequest {
    const { groupId } = this.group
    const signKey = signIdentityPoint(groupId, signer).mulSecret(this.secrets.sign)
    return signSlotKeyRequest(
      { groupId, idCore, slot, signEpoch: this.group.epochAt('sign', slot) as number },
      { hpkeKey: new Uint8Array(32).fill(9), jti: systemRandom(16) },
      { signKey, permit: this.permitOf(idCore, slot), random: systemRandom },
    )
  }

  permitOf(idCore: IdCore, slot = this.slot): Permit {
    const permitEpoch = this.group.epochAt('permit', slot)!
    const terms = { groupId: this.group.groupId, permitEpoch, rule: this.group.slotRule }
    const HT = permitPoint(permitInput(terms, slot, { type: 'id', idCore }))
    return Permit.of(slot, { type: 'id', idCore }, HT.mulSecret(this.epochs.get(permitEpoch)!.permit))
  }

  nodePermit(node: TreeNode, slot = this.slot): Permit {
    const target = { type: 'node', ...node } as const
    const permitEpoch = this.group.epochAt('permit', slot)!
    const terms = { groupId: this.group.groupId, permitEpoch, rule: this.group.slotRule }
    const HT = permitPoint(permitInput(terms, slot, target))
    return Permit.of(slot, target, HT.mulSecret(this.epochs.get(permitEpoch)!.permit))
  }

  async event(
    kind: EventPayload['kind'],
    idCore: IdCore,
    more: { userCore?: Uint8Array; pinGen?: number; number?: number; key?: Es256PrivateKey } = {},
  ): Promise<string> {
    const number = more.number ?? ++this.rpa.number
    return signEvent(
      {
        suite: SUITE,
        groupId: this.groupId,
        number,
        iat: this.seconds,
        kind,
        idCore: idCore.mpinId,
        ...(more.userCore === undefined ? {} : { userCore: toBase64Url(more.userCore) }),
        ...(more.pinGen === undefined ? {} : { pinGen: more.pinGen }),
      },
      { key: more.key ?? this.raKey, kid: this.raKid },
    )
  }

  async ban({ client }: RunningRps, car: Car): Promise<void> {
    this.rpa.identities.get(car.idCore.mpinId)!.banned = true
    await client.pushEvent({ body: { event: await this.event('ban', car.idCore) } })
  }

  async unban({ client }: RunningRps, car: Car): Promise<void> {
    this.rpa.identities.get(car.idCore.mpinId)!.banned = false
    await client.pushEvent({ body: { event: await this.event('unban', car.idCore) } })
  }

  /** What a RA answers to a registration that it approves. */
  async approval(
    car: Car,
    hpkeKey: Uint8Array,
    user?: { driver: Driver; pinGen: number },
  ): Promise<Approved> {
    const iat = this.seconds
    const { idCore } = car
    const purpose = user === undefined ? 'device' : 'pin'
    const userCore =
      user === undefined || user.driver.userCore.length === 0
        ? {}
        : { userCore: toBase64Url(user.driver.userCore) }
    const ticket = await signTicket(
      {
        suite: SUITE,
        groupId: this.groupId,
        keyEpochs: { [purpose]: 1 },
        idCore: idCore.mpinId,
        ...userCore,
        ...(user === undefined ? {} : { pinGen: user.pinGen }),
        purposes: [purpose],
        hpkeKey: toBase64Url(hpkeKey),
        hpkeKeyHash: toBase64Url(enrolmentKeyHash(hpkeKey)),
        iat,
        exp: iat + 3600,
        jti: toBase64Url(systemRandom(16)),
      },
      this.raSigner,
    )
    return {
      state: 'approved',
      idCore: idCore.mpinId,
      leaf: idCore.leaf,
      generation: idCore.generation,
      factors: idCore.factors,
      issueDate: '2026-02-11',
      salt: toBase64Url(new Uint8Array(16)),
      ...(user === undefined ? {} : { user: { ...userCore, pinGen: user.pinGen } }),
      ticket: [ticket],
    }
  }

  /** The next revision, signed by the first t authorities. */
  async nextRevision(change: Partial<GroupDocument>, signers = this.group.t): Promise<GroupDocument> {
    const next = nextRevision(this.group, document => Object.assign(document, change))
    return { ...next, signatures: await this.#signatures(next, signers) }
  }

  /**
   * A reshare of the same secrets to these members, in this order (a refresh, if they are the same): the revision, and
   * `moveOn`, which has one of them go by it. Nobody does before.
   */
  async reshare({
    t = this.group.t,
    members = this.authorities,
  }: {
    t?: number
    members?: readonly FakeAuthority[]
  } = {}): Promise<{ document: GroupDocument; moveOn: (...some: FakeAuthority[]) => void }> {
    const { shares, purposes } = deal(this.secrets, { t, n: members.length }, systemRandom)
    const known = this.group.document.authorities
    const authorities = await Promise.all(
      members.map(async ({ name, url, signKey }, i) => ({
        index: i + 1,
        name,
        url,
        signKey: signKey.publicKey.toBase64Url(),
        hpkeKey:
          known.find(old => old.name === name)?.hpkeKey ??
          toBase64Url((await generateHpkeKey(systemRandom)).publicKey),
      })),
    )
    const document = await this.nextRevision({ n: members.length, t, authorities, purposes })
    for (const authority of this.authorities) authority.group ??= this.group
    const group = await this.group.verifyNext(document)
    const moveOn = (...some: FakeAuthority[]) => {
      for (const authority of some) {
        const i = members.indexOf(authority)
        authority.index = i + 1
        authority.shares = fromPurposes(purpose => shares[purpose][i]!)
        authority.group = group
      }
    }
    return { document, moveOn }
  }

  /** The next key epoch, of all purposes unless said, from this slot on; authorities and RPA go by it at once. */
  async rotate({
    firstSlot = this.slot + 1,
    rotated = PURPOSES,
  }: {
    firstSlot?: number
    rotated?: readonly Purpose[]
  } = {}): Promise<GroupDocument> {
    const secrets = fromPurposes(purpose =>
      rotated.includes(purpose) ? Scalar.random(systemRandom) : this.secrets[purpose],
    )
    const { n, t, document } = this.group
    const { shares, purposes } = deal(secrets, { t, n }, systemRandom)
    const epoch = document.purposes.device.epoch + 1
    const next = await this.nextRevision({
      purposes: fromPurposes(purpose => {
        if (!rotated.includes(purpose)) return document.purposes[purpose]
        const { former = [], ...newest } = document.purposes[purpose]
        return { ...purposes[purpose], epoch, firstSlot, former: [newest, ...former].slice(0, 2) }
      }),
    })
    for (const [i, authority] of this.authorities.entries()) {
      authority.byEpoch.set(epoch - 1, authority.shares)
      const before = authority.shares
      authority.shares = fromPurposes(purpose =>
        rotated.includes(purpose) ? shares[purpose][i]! : before[purpose],
      )
      authority.byEpoch.set(epoch, authority.shares)
    }
    this.secrets = secrets
    this.epochs.set(epoch, secrets)
    await this.follow(next)
    return next
  }

  /** An authority that is no member yet. */
  async newAuthority(name: string): Promise<FakeAuthority> {
    const authority = new FakeAuthority(0, this.secrets, await generateEs256(), name)
    this.#started.push(authority)
    await authority.start(this)
    return authority
  }

  /** After a revision was published: what the authorities and the RPA know, too. */
  async follow(document: GroupDocument): Promise<void> {
    this.#group = await this.group.verifyNext(document)
  }

  async #found(options: WorldOptions): Promise<void> {
    const configForKeys = { name: 'rps', dataDir: this.dataDir } as RpsConfig
    const keys = await openKeys({ config: configForKeys, passphrase: PASSPHRASE, random: systemRandom })
    const recipient = (server: Server, purposes: Purpose[]) => ({
      name: server.name,
      kind: 2,
      generation: 1,
      purposes,
      hpkeKey: toBase64Url(server.hpkeKey.publicKey),
      requestKey: server.requestKey.publicKey.toBase64Url(),
    })
    const unsigned: GroupDocument = {
      suite: SUITE,
      v: 1,
      revision: 1,
      n: this.authorities.length,
      t: this.#t,
      purposes: fromPurposes(purpose => ({
        epoch: 1,
        firstSlot: 0,
        ivk: toBase64Url(G1.generator.mulSecret(this.secrets[purpose]).encode()),
        shares: this.authorities.map(({ shares }) =>
          toBase64Url(G1.generator.mulSecret(shares[purpose]).encode()),
        ),
        ...(hasPublicKey(purpose)
          ? { pub: toBase64Url(G2.generator.mulSecret(this.secrets[purpose]).encode()) }
          : {}),
      })),
      authorities: await Promise.all(
        this.authorities.map(async ({ index, name, url, signKey }) => ({
          index,
          name,
          url,
          signKey: signKey.publicKey.toBase64Url(),
          hpkeKey: toBase64Url((await generateHpkeKey(systemRandom)).publicKey),
        })),
      ),
      ra: { m: 1, keys: [{ kid: 'ra1', key: this.raKey.publicKey.toBase64Url() }] },
      recipients: [
        recipient({ name: 'rps', ...keys }, options.rpsPurposes ?? ['device', 'pin']),
        {
          ...recipient(this.tracking, options.rpsPurposes === undefined ? ['agree'] : ['pin']),
          kind: options.trackingKind ?? 2,
        },
        recipient(this.fleet, ['agree']),
      ],
      slot: this.#slot,
      policy: this.#policy,
      signatures: [],
    }
    const document = { ...unsigned, signatures: await this.#signatures(unsigned, this.authorities.length) }
    this.#group = await Group.verifyFirst(document)
    await writeFile(join(this.folder, 'group.json'), JSON.stringify(document))
  }

  #signatures(document: GroupDocument, count: number) {
    return Promise.all(
      this.authorities.slice(0, count).map(async ({ signKey }, i) => ({
        index: i + 1,
        signature: await signDocument(document, signKey),
      })),
    )
  }

  async #fetch(input: Parameters<typeof fetch>[0], init?: RequestInit): Promise<Response> {
    if (this.unreachable.has(new URL(String(input)).origin)) throw new TypeError('fetch failed')
    return fetch(input, init)
  }
}

export interface WorldOptions {
  /** 3 unless said. */
  readonly n?: number
  /** 2 unless said. */
  readonly t?: number
  readonly slot?: { origin: number; length: number }
  /** No permits ahead unless said: they are made in the background, beside whatever a test counts. */
  readonly policy?: GroupDocument['policy']
  readonly rpsPurposes?: Purpose[]
  /** 2 unless said; 3 makes `tracking` a static server. */
  readonly trackingKind?: 2 | 3
}

const accountKey = (car: Car, driver: Driver) =>
  `${car.idCore.mpinId}/${driver.userCore.length === 0 ? '' : toBase64Url(driver.userCore)}`

/** The route's type says more than the codec's; the server checks both. */
export function asFields(json: LoginJson) {
  return json as LoginJson & { suite: 'BLS12381-SHA256-V1' }
}

/** The code of a refusal; throws when the request went through, or failed in another way. */
export async function codeOf(request: Promise<unknown>): Promise<string> {
  let answer: unknown
  try {
    answer = await request
  } catch (error) {
    if (error instanceof Refused) return error.code
    throw error
  }
  throw new Error(`not refused, answered ${JSON.stringify(answer)}`)
}

/** Real milliseconds for other threads, on a machine that may be at others' work as well. */
const PATIENCE = 30_000

/** Lets promises, sockets and threads run until `holds`. */
export async function until(holds: () => boolean | Promise<boolean>): Promise<void> {
  const end = performance.now() + PATIENCE
  while (!(await holds())) {
    if (performance.now() > end) throw new Error('it does not come about')
    await new Promise(resolve => setImmediate(resolve))
  }
}

export async function tokenKeys({ client }: RunningRps): Promise<Map<string, Es256PublicKey>> {
  const { keys } = await client.jwks({})
  return new Map(keys.map(jwk => [jwk.kid, Es256PublicKey.fromJwk(jwk)]))
}
