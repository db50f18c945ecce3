/**
 * Authorities, RA and RPS in the test's process, on real HTTP: as little of each as a device meets, with `tamper` to
 * make any answer a lie. What a real RPS must do beside (persistence, limits, events) is not here.
 */
import type { AddressInfo } from 'node:net'
import { Writable } from 'node:stream'
import { dtaRoutes } from '@milagro-ts/api/dta-routes'
import { documentHash, Group } from '@milagro-ts/api/group'
import type { GroupDocument } from '@milagro-ts/api/group-document'
import { type Es256PrivateKey, generateEs256, generateHpkeKey } from '@milagro-ts/api/keys'
import { createLog } from '@milagro-ts/api/log'
import { createMetrics } from '@milagro-ts/api/metrics'
import { pinChangePayload, userEnrolmentPayload } from '@milagro-ts/api/payloads'
import { writeBundle } from '@milagro-ts/api/permit-bundle'
import { Refused } from '@milagro-ts/api/problem'
import type { Approved, RegistrationAnswer } from '@milagro-ts/api/rpa-routes'
import { rpsRoutes } from '@milagro-ts/api/rps-routes'
import { seal } from '@milagro-ts/api/seal'
import { createApp, type Handlers, mount } from '@milagro-ts/api/serve'
import { sixWords } from '@milagro-ts/api/six-words'
import {
  cosignerKid,
  type LeavesState,
  signAccessToken,
  signCosignature,
  signLeaves,
  signReceipt,
  signTicket,
  signTime,
  type TicketPayload,
  type VerifiedTicket,
  verifyLeaves,
  verifyTicket,
} from '@milagro-ts/api/statements'
import { systemRandom } from '@milagro-ts/api/system'
import type { DeviceOptions } from '@milagro-ts/client/ports'
import { equalBytes, fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import {
  codeId,
  encodeEnrolmentCode,
  enrolmentKeyHash,
  enrolmentMac,
  sixWordIndices,
} from '@milagro-ts/crypto/enrolment'
import {
  type Attributes,
  agreePointG2,
  deviceIdentityPoint,
  IdCore,
  issueIdCore,
  NO_USER,
  userCoreOf,
} from '@milagro-ts/crypto/identity'
import { Authenticated, DeviceProven, LoginMessage, MODE } from '@milagro-ts/crypto/mpin'
import { BannedLeaves, type TreeNode } from '@milagro-ts/crypto/permit-tree'
import { G2 } from '@milagro-ts/crypto/points'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { ServerKey } from '@milagro-ts/crypto/server-key'
import { sha256 } from '@milagro-ts/crypto/sha256'
import { authorityIssue } from '@milagro-ts/crypto/share-proof'
import { AgreeSlotKey, slotName } from '@milagro-ts/crypto/static-agreement'
import { type Purpose, SUITE } from '@milagro-ts/crypto/suite'
import {
  Permit,
  permitInput,
  permitPoint,
  slotAt,
  slotStart,
  VerifiedPermit,
} from '@milagro-ts/crypto/time-permit'
import { fixedRandom } from '../../api/test/fixed-random.js'
import { type Members, makeMembers, party } from '../../api/test/founding-members.js'
import { deal, fromPurposes, keysOf, nextRevision, signedBy } from '../../api/test/group-fixture.js'

export const TRACKING = 'https://tracking.test'
export const CAR: Attributes = { brand: 'Acme', model: 'Roadster', variant: 'GT' }
export const VIN = 'WVWZZZ1JZXW000001'
export const JO: Attributes = { driverName: 'Jo' }
/** Few enough for a test; the vectors and one test below use real numbers. */
export const CHEAP = { iterations: 10, slowDevice: true } as const

const NONCE_LIFE = 30

interface Code {
  readonly secret: Uint8Array
  readonly attributes: Attributes
  readonly factors: 0 | 1 | 2
  readonly ownPin: boolean
  usedBy?: string
}
interface Account {
  readonly attributes: Attributes | null
  readonly salt: Uint8Array
  issued: number
  accepted: number
  /** By pinGen. */
  readonly strikes: Map<number, number>
}
interface Registration {
  readonly fields: string
  answer: RegistrationAnswer
  readonly approve: () => Promise<RegistrationAnswer>
  readonly words: string
}

type RpsTable = Pick<
  typeof rpsRoutes,
  'group' | 'time' | 'jwks' | 'register' | 'relayShare' | 'nonce' | 'permit' | 'login' | 'sign' | 'changePin'
>
const { group, time, jwks, register, relayShare, nonce, permit, login, sign, changePin } = rpsRoutes
const rpsTable: RpsTable = {
  group,
  time,
  jwks,
  register,
  relayShare,
  nonce,
  permit,
  login,
  sign,
  changePin,
}
const { shares: sharesRoute } = dtaRoutes
const dtaTable = { shares: sharesRoute }

/** What an authority does wrong, by its index. */
export type Lie = 'share' | 'identity' | 'index' | 'nonsense' | 'down' | 'slow' | 'ledger'

export class World {
  /** Unix milliseconds; turned by hand. */
  now = Date.UTC(2026, 5, 1, 12)
  readonly lies = new Map<number, Lie>()
  /** Requests that reached the RPS, by route. */
  readonly seen: string[] = []
  /** Requests that an authority was asked directly. */
  direct = 0
  /** Changes what the RPS answers, by route. */
  tamper: { readonly [K in keyof RpsTable]?: (answer: never) => unknown } = {}
  /** Changes what the RPS passes on to the RA. */
  tamperRegistration: (fields: Record<string, unknown>) => Record<string, unknown> = fields => fields
  /** Answers that are lost on the way back, by path; the request has had its effect. */
  readonly lost: string[] = []
  readonly banned = new Set<string>()
  readonly audiences = new Map<string, 'never' | 'optional' | 'required'>([[TRACKING, 'optional']])
  revisions: GroupDocument[] = []
  url = ''
  /** What a device's ticket is for, beside the PIN of its own. */
  devicePurposes: TicketPayload['purposes'] = ['device']
  /** Of the newest registration. */
  lastHpkeKey = ''
  group!: Group

  readonly #codes = new Map<string, Code>()
  readonly #registrations = new Map<string, Registration>()
  readonly #identities = new Map<string, Attributes>()
  readonly #accounts = new Map<string, Account>()
  readonly #nonces = new Map<string, number>()
  readonly #ledger = new Map<string, string>()
  readonly #apps: ReturnType<typeof createApp>[] = []
  readonly #dtaApps: ReturnType<typeof createApp>[] = []
  #members: Members
  readonly #tokenKey: Es256PrivateKey
  #secrets!: Readonly<Record<Purpose, Scalar>>
  #shares!: Readonly<Record<Purpose, readonly Scalar[]>>
  #serverKeys!: { readonly device: ServerKey; readonly pin: ServerKey }
  #leaf = 0
  #endWaiting!: () => void

  private constructor(members: Members, tokenKey: Es256PrivateKey) {
    this.#members = members
    this.#tokenKey = tokenKey
  }

  static async start({ n = 3, t = 2 } = {}): Promise<World> {
    const world = new World(await makeMembers({ n }), await generateEs256())
    const urls: string[] = []
    for (let index = 1; index <= n; index++) {
      urls.push(await world.#listenAsAuthority(index))
    }
    world.url = await world.#listen(app => mount(app, rpsTable, world.#rps(), {}))
    await world.#found(urls, t)
    return world
  }

  /** What a slow authority waits for. */
  readonly untilClosed = new Promise<void>(resolve => {
    this.#endWaiting = resolve
  })

  async close(): Promise<void> {
    this.#endWaiting()
    await Promise.all(this.#apps.map(app => app.close()))
  }

  /** Options of a device in this world: its clock, no waiting, cheap PINs. */
  get ports(): Omit<DeviceOptions, 'store'> {
    return {
      rps: this.url,
      clock: () => this.now,
      wait: milliseconds => {
        this.now += milliseconds
        return Promise.resolve()
      },
      pinCost: CHEAP,
      fetch: this.fetch,
    }
  }

  fetch: typeof fetch = async (input, init) => {
    const url = new URL(String(input))
    const response = await fetch(input, init)
    const lost = this.lost.indexOf(url.pathname)
    if (lost < 0) return response
    this.lost.splice(lost, 1)
    await response.arrayBuffer()
    throw new TypeError('the connection broke')
  }

  code(
    attributes: Attributes = CAR,
    { factors = 2, ownPin = false }: { factors?: 0 | 1 | 2; ownPin?: boolean } = {},
  ): string {
    const secret = systemRandom(16)
    this.#codes.set(toBase64Url(codeId(secret)), { secret, attributes, factors, ownPin })
    return encodeEnrolmentCode({ secret, groupId: this.group.groupId })
  }

  /** The operator compares the words and approves. */
  async approve(words: string): Promise<void> {
    const registration = [...this.#registrations.values()].find(known => known.words === words)
    if (registration === undefined) throw new Error('nobody waits with these words')
    registration.answer = await registration.approve()
  }

  /** The operator approves whatever comes, without comparing; the RPS keeps the answer to show it to a device. */
  async blindApproval(): Promise<{ answer: RegistrationAnswer }> {
    const { publicKey } = await generateHpkeKey(systemRandom)
    const registration = {
      kind: 'device',
      attributes: CAR,
      instance: VIN,
      hpkeKey: toBase64Url(publicKey),
      nonce: toBase64Url(systemRandom(32)),
      ...this.tamperRegistration({}),
    }
    return { answer: await this.#approveDevice(registration, 2, false) }
  }

  refuseAll(state: 'refused' | 'expired'): void {
    for (const registration of this.#registrations.values()) registration.answer = { state }
  }

  account(idCore: IdCore, userCore: string): Account {
    return this.#accounts.get(`${idCore.mpinId}/${userCore}`) as Account
  }

  unlock(): void {
    for (const account of this.#accounts.values()) account.strikes.clear()
  }

  /** Authorities forget their ledger: only a test of the device's own guard wants that. */
  forgetLedger(): void {
    this.#ledger.clear()
  }

  /** What a server of this name gets from the authorities, for one slot. */
  slotKey(name: string, slot: number): AgreeSlotKey {
    const party = { kind: 2, name, generation: this.group.recipient(name)?.generation ?? 1 } as const
    const { groupId } = this.group
    const S = agreePointG2(slotName(groupId, party, slot)).mulSecret(this.#secrets.agree)
    const claim = { groupId, party, slot, epoch: 1 }
    return AgreeSlotKey.verify(claim, this.group.keys('agree').ivk, S) as AgreeSlotKey
  }

  /** The next revision, with another grace. */
  async revise(): Promise<GroupDocument> {
    const before = this.revisions.at(-1) as GroupDocument
    const document = {
      ...before,
      revision: before.revision + 1,
      previous: toBase64Url(documentHash(before)),
      groupId: toBase64Url(this.group.groupId),
      policy: { ...before.policy, grace: before.policy.grace + 1 },
    }
    const signed = await signedBy(document, keysOf(this.#members))
    this.group = await this.group.verifyNext(signed)
    this.revisions.push(signed)
    return signed
  }

  /**
   * The authorities deal the same secrets anew, for `n` of them of which `t` suffice, and go by it at once; `move` gives
   * all of them new addresses, and nobody is at the old ones. The RPS has the revision once what is returned is called.
   */
  async reshare({ n = this.group.n, t = this.group.t, move = false } = {}): Promise<() => void> {
    const { shares, purposes } = deal(this.#secrets, { t, n }, systemRandom)
    const old = this.#members.authorities
    const parties = await Promise.all(Array.from({ length: n }, (_, i) => old[i] ?? party(`ta${i + 1}`)))
    const before = move ? this.#dtaApps.splice(0) : []
    const authorities: GroupDocument['authorities'] = []
    for (const [i, { name, signKey, hpkeKey }] of parties.entries()) {
      const index = i + 1
      const known = move ? undefined : this.group.authority(index)?.url
      const url = known ?? (await this.#listenAsAuthority(index))
      authorities.push({ index, name, url, signKey: signKey.publicKey.toBase64Url(), hpkeKey })
    }
    const document = nextRevision(this.group, next => Object.assign(next, { n, t, purposes, authorities }))
    const signed = await signedBy(document, keysOf(this.#members).slice(0, this.group.t))
    this.group = await this.group.verifyNext(signed)
    this.#shares = shares
    this.#members = { ...this.#members, authorities: parties }
    await Promise.all(before.map(app => app.close()))
    return () => void this.revisions.push(signed)
  }

  async #listenAsAuthority(index: number): Promise<string> {
    return this.#listen(app => {
      this.#dtaApps.push(app)
      mount(app, dtaTable, this.#authority(index), {})
    })
  }

  /** A first revision of its own making, as somebody would have to show who doesn't know the pinned group's keys. */
  async otherGroup(): Promise<GroupDocument> {
    const members = await makeMembers({ n: 3 })
    const { document } = await this.#document(
      members,
      this.revisions[0]?.authorities.map(({ url }) => url) ?? [],
      2,
    )
    return document
  }

  async #listen(mounted: (app: ReturnType<typeof createApp>) => void): Promise<string> {
    const log = createLog('world', {
      level: 'silent',
      destination: new Writable({ write: (_c, _e, done) => done() }),
    })
    const app = createApp({ title: 'world', log, metrics: createMetrics('world') })
    mounted(app)
    this.#apps.push(app)
    await app.listen({ host: '127.0.0.1', port: 0 })
    return `http://127.0.0.1:${(app.server.address() as AddressInfo).port}`
  }

  async #found(urls: readonly string[], t: number): Promise<void> {
    const { document, secrets, shares } = await this.#document(this.#members, urls, t)
    this.#secrets = secrets
    this.#shares = shares
    this.group = await Group.verifyFirst(document)
    this.revisions = [document]
    const key = (purpose: 'device' | 'pin') => {
      const S = G2.generator.mulSecret(secrets[purpose])
      return ServerKey.verify(this.group.keys(purpose).ivk, S) as ServerKey
    }
    this.#serverKeys = { device: key('device'), pin: key('pin') }
  }

  async #document(members: Members, urls: readonly string[], t: number) {
    const random = fixedRandom(`secrets ${members.proposal.authorities[0]?.signKey}`)
    const { proposal } = members
    const secrets = fromPurposes(() => Scalar.random(random))
    const { shares, purposes } = deal(secrets, { t, n: proposal.n }, random)
    const { nonce: _, firstSlot: __, ...rest } = proposal
    const unsigned: GroupDocument = {
      ...rest,
      t,
      authorities: proposal.authorities.map((authority, i) => ({ ...authority, url: urls[i] as string })),
      revision: 1,
      purposes,
      signatures: [],
    }
    return { document: await signedBy(unsigned, keysOf(members)), secrets, shares }
  }

  #authority(index: number): Handlers<typeof dtaTable> {
    return {
      shares: async ({ body: { ticket, purpose } }) => {
        this.direct++
        return this.#share(index, ticket, purpose)
      },
    }
  }

  async #share(index: number, signatures: readonly string[], purpose: Purpose) {
    const lie = this.lies.get(index)
    if (lie === 'down') throw new Refused('RETRY_LATER')
    if (lie === 'slow') await this.untilClosed
    const ticket = await verifyTicket({ ticket: signatures, group: this.group, now: this.now })
    this.#book(index, ticket, purpose)
    const { shareEpoch } = this.group
    const { A: own, ctx } = ticket.shareTerms(purpose, index, shareEpoch)
    const A = lie === 'identity' ? deviceIdentityPoint(ticket.groupId, IdCore.zero) : own
    const s_j = this.#shares[purpose][lie === 'share' ? index % this.group.n : index - 1] as Scalar
    const commitment = this.group.keys(purpose).commitments[index - 1]
    if (commitment === undefined) throw new Error('no such authority')
    const share = authorityIssue({ ctx, commitment, A }, s_j, systemRandom)
    // The seal opens whatever is in it: only the proof shows that the share is another's.
    const sealed =
      lie === 'nonsense' ? systemRandom(200) : await seal(ticket.hpkeKey, ctx, share.encode(), systemRandom)
    return {
      index: lie === 'index' ? (index % this.group.n) + 1 : index,
      shareEpoch,
      sealed: toBase64Url(sealed),
    }
  }

  #book(index: number, ticket: VerifiedTicket, purpose: Purpose): void {
    const key = `${index}/${ticket.ledgerKey(purpose)}`
    const hpkeKey = toBase64Url(ticket.hpkeKey)
    const known = this.#ledger.get(key)
    if (this.lies.get(index) === 'ledger' || (known !== undefined && known !== hpkeKey))
      throw new Refused('ALREADY_ISSUED')
    this.#ledger.set(key, hpkeKey)
  }

  #rps(): Handlers<RpsTable> {
    const handlers: Handlers<RpsTable> = {
      group: async ({ query: { revision } }) => {
        const document = revision === undefined ? this.revisions.at(-1) : this.revisions[Number(revision) - 1]
        if (document === undefined) throw new Refused('NOT_FOUND')
        return document
      },
      time: async ({ query }) => {
        const payload = { nonce: query.nonce, time: this.#seconds() }
        return { time: await signTime(payload, this.#signer()) }
      },
      jwks: async () => ({
        keys: [
          { ...this.#tokenKey.publicKey.toJwk(), kid: 'token1', use: 'sig' as const, alg: 'ES256' as const },
        ],
      }),
      register: async ({ body }) => {
        this.lastHpkeKey = body.hpkeKey
        if (body.kind === 'device') return this.#register(this.tamperRegistration({ ...body }) as typeof body)
        const { vouch, ...fields } = body
        const known = this.#registrations.get(body.hpkeKey)
        if (known !== undefined) return known.answer
        const payload = userEnrolmentPayload(body.attributes, fromBase64Url(body.hpkeKey, 'hpkeKey', 32))
        const device = this.#verify(LoginMessage.fromJson(vouch), { audience: this.url, payload })
        return this.#registerUser(fields, device.idCore)
      },
      relayShare: async ({ params, body: { ticket, purpose } }) =>
        this.#share(Number(params.index), ticket, purpose),
      nonce: async () => {
        const nonce = toBase64Url(systemRandom(32))
        const expiresAt = this.#seconds() + NONCE_LIFE
        this.#nonces.set(nonce, expiresAt)
        return { nonce, slot: this.slot(), deviceEpoch: 1, pinEpoch: 1, expiresAt }
      },
      permit: async ({ body }) => {
        const { idCore, slot } = this.#verify(LoginMessage.fromJson(body.login), { audience: this.url })
        const endsAt = slotStart(this.group.slotRule, slot + 1)
        return { permit: this.permitOf(idCore, slot), slot, endsAt }
      },
      login: async ({ body }) => {
        const message = LoginMessage.fromJson(body.login)
        const { idCore, userCore, amr, audience, slot } = this.#verify(message, {})
        const user = userCore.length === 0 ? {} : { userCore: toBase64Url(userCore) }
        const payload = {
          iss: this.url,
          aud: audience,
          sub: idCore.mpinId,
          ...user,
          amr: [...amr],
          slot,
          iat: this.#seconds(),
          exp: this.#seconds() + 300,
          jti: toBase64Url(systemRandom(16)),
        }
        return {
          accessToken: await signAccessToken(payload, this.#signer()),
          expiresIn: 300,
          authenticated: { idCore: idCore.mpinId, ...user, amr: [...amr], slot, audience },
          permit: this.permitOf(idCore, slot),
          ...(body.authOtt === true ? { authOtt: toBase64Url(systemRandom(32)) } : {}),
        }
      },
      sign: async ({ body }) => {
        const payload = fromBase64Url(body.payload, 'payload')
        const { idCore, userCore, amr, audience, slot } = this.#verify(LoginMessage.fromJson(body.message), {
          payload,
        })
        const receipt = await signReceipt(
          {
            iss: this.url,
            aud: audience,
            sub: idCore.mpinId,
            ...(userCore.length === 0 ? {} : { userCore: toBase64Url(userCore) }),
            amr: [...amr],
            slot,
            payloadHash: toBase64Url(sha256(payload)),
            iat: this.#seconds(),
          },
          this.#signer(),
        )
        return { receipt }
      },
      changePin: async ({ body }) => {
        const known = this.#registrations.get(body.hpkeKey)
        const fields = JSON.stringify(body.message)
        if (known?.fields === fields) return known.answer
        const payload = pinChangePayload(fromBase64Url(body.hpkeKey, 'hpkeKey', 32))
        const message = LoginMessage.fromJson(body.message)
        const { idCore, userCore } = this.#verify(message, { audience: this.url, payload })
        if (known !== undefined) return known.answer
        const account = this.account(idCore, toBase64Url(userCore))
        if (message.pin?.pinGen !== account.issued) throw new Refused('CONFLICT')
        account.issued++
        const pinGen = account.issued
        const user = { ...(userCore.length === 0 ? {} : { userCore: toBase64Url(userCore) }), pinGen }
        const ticket = await this.#ticket(idCore, body.hpkeKey, ['pin'], { userCore, pinGen })
        const approved = { ...this.#fieldsOf(idCore), user, ticket }
        const approve = () => Promise.resolve(approved)
        this.#registrations.set(body.hpkeKey, { fields, answer: approved, approve, words: '' })
        return approved
      },
    }
    for (const [name, handler] of Object.entries(handlers)) {
      const tampering = async (input: never) => {
        this.seen.push(name)
        const answer = await (handler as unknown as (input: never) => Promise<never>)(input)
        return (await this.tamper[name as keyof RpsTable]?.(answer)) ?? answer
      }
      Object.assign(handlers, { [name]: tampering })
    }
    return handlers
  }

  permitOf(idCore: IdCore, slot: number, by: Scalar = this.#secrets.permit): string {
    const target = { type: 'id', idCore } as const
    const terms = { groupId: this.group.groupId, permitEpoch: 1, rule: this.group.slotRule }
    const point = permitPoint(permitInput(terms, slot, target)).mulSecret(by)
    return toBase64Url(Permit.of(slot, target, point).encode())
  }

  #isPermit(permit: Permit, { idCore, slot }: Pick<LoginMessage, 'idCore' | 'slot'>): boolean {
    const { epoch: permitEpoch, pub } = this.group.keys('permit')
    const terms = { groupId: this.group.groupId, permitEpoch, rule: this.group.slotRule }
    return permit.slot === slot && VerifiedPermit.verify(terms, pub as G2, permit)?.covers(idCore) === true
  }

  /**
   * A slot's bundle, by the names of its files: manifest by the RPS, banned leaves by the RA, all authorities'
   * co-signatures. `by` is another secret than the permits', `claimed` other leaves that the RPS makes the cover of.
   */
  async bundle({
    slot,
    banned = [],
    number = 1,
    claimed = banned,
    by = this.#secrets.permit,
  }: {
    slot: number
    banned?: readonly number[]
    number?: number
    claimed?: readonly number[]
    by?: Scalar
  }): Promise<Map<string, Uint8Array>> {
    const { group } = this
    const { ra, authorities, rps } = this.#members
    const groupId = toBase64Url(group.groupId)
    const leaves = banned.length === 0 ? {} : { leaves: toBase64Url(BannedLeaves.of(banned).encode()) }
    const signer = { key: ra[0] as Es256PrivateKey, kid: 'ra1' }
    const statement = await signLeaves({ suite: SUITE, groupId, number, ...leaves }, signer)
    const state = await verifyLeaves({ statement, group })
    const cosigned = { suite: SUITE, groupId, number, leavesHash: toBase64Url(state.hash) } as const
    const cosignatures = await Promise.all(
      authorities.map(async ({ signKey }, i) => ({
        index: i + 1,
        cosignature: await signCosignature(cosigned, { key: signKey, kid: cosignerKid(i + 1) }),
      })),
    )
    const terms = { groupId: group.groupId, permitEpoch: 1, rule: group.slotRule }
    const pointOf = async (node: TreeNode) =>
      permitPoint(permitInput(terms, slot, { type: 'node', ...node }))
        .mulSecret(by)
        .encode()
    const files = new Map<string, Uint8Array>()
    const write = async (name: string, bytes: Uint8Array) => void files.set(name, bytes)
    const publisher = { key: rps.signKey, kid: 'rps' }
    const claim = { ...state, leaves: BannedLeaves.of(claimed) } as LeavesState
    await writeBundle({
      group,
      slot,
      state: claim,
      cosignatures,
      pointOf,
      signer: publisher,
      now: this.now,
      write,
    })
    return files
  }

  /** One of the wrong secrets, to make garbage with. */
  get anotherSecret(): Scalar {
    return this.#secrets.sign
  }

  slot(): number {
    return slotAt(this.group.slotRule, this.#seconds())
  }

  #verify(
    message: LoginMessage,
    { audience, payload }: { audience?: string; payload?: Uint8Array },
  ): Pick<Authenticated, 'idCore' | 'userCore' | 'amr' | 'audience' | 'slot'> {
    const toSelf = audience !== undefined
    if (toSelf ? message.audience !== audience : !this.audiences.has(message.audience))
      throw new Refused('MALFORMED')
    if ((payload === undefined) !== (message.mode !== MODE.sign)) throw new Refused('MALFORMED')
    if (payload !== undefined && !equalBytes(message.payloadHash as Uint8Array, sha256(payload)))
      throw new Refused('MALFORMED')
    if (message.nonce !== undefined) {
      const expiresAt = this.#nonces.get(toBase64Url(message.nonce))
      this.#nonces.delete(toBase64Url(message.nonce))
      if (expiresAt === undefined) throw new Refused('REPLAYED')
      if (expiresAt < this.#seconds()) throw new Refused('EXPIRED')
    } else if (Math.abs((message.clientTime as number) - this.#seconds()) > 60) throw new Refused('CLOCK')
    if (message.slot !== this.slot()) throw new Refused('EXPIRED')
    const proven = DeviceProven.verify(message, { groupId: this.group.groupId }, this.#serverKeys.device)
    if (proven === null || !this.#identities.has(message.idCore.mpinId)) throw new Refused('WRONG_PROOF')
    if (this.banned.has(message.idCore.mpinId)) throw new Refused('BANNED')
    if (message.permit !== undefined && !this.#isPermit(message.permit, message))
      throw new Refused('WRONG_PERMIT')
    const { pin, idCore, slot } = message
    if (pin === undefined) {
      // Permits are given to the device alone, whatever a login wants.
      if (idCore.factors === 1 && toSelf)
        return { idCore, userCore: NO_USER, amr: ['device'], audience: message.audience, slot }
      return Authenticated.byDevice(proven)
    }
    const account = this.account(idCore, toBase64Url(pin.userCore))
    if (account === undefined || pin.pinGen < account.accepted || pin.pinGen > account.issued)
      throw new Refused('WRONG_PIN')
    const strikes = account.strikes.get(pin.pinGen) ?? 0
    if (strikes >= 3) throw new Refused('LOCKED')
    const authenticated = Authenticated.byPin(proven, this.#serverKeys.pin, systemRandom)
    if (authenticated === null) {
      account.strikes.set(pin.pinGen, strikes + 1)
      throw new Refused('WRONG_PIN')
    }
    account.strikes.set(pin.pinGen, 0)
    account.accepted = pin.pinGen
    return authenticated
  }

  async #register(body: {
    attributes: Attributes
    instance: string
    hpkeKey: string
    nonce: string
    codeId?: string
    mac?: string
  }): Promise<RegistrationAnswer> {
    const known = this.#registrations.get(body.hpkeKey)
    const fields = JSON.stringify(body)
    if (known !== undefined) {
      if (known.fields !== fields) throw new Refused('CONFLICT')
      return known.answer
    }
    const code = this.#codeOf(body)
    const make = () => this.#approveDevice(body, code?.factors ?? 2, code?.ownPin ?? false)
    return this.#decide(body, fields, code, make)
  }

  async #registerUser(
    body: { attributes: Attributes; hpkeKey: string; nonce: string; codeId?: string; mac?: string },
    idCore: IdCore,
  ): Promise<RegistrationAnswer> {
    const code = this.#codeOf(body)
    return this.#decide(body, JSON.stringify(body), code, async () => {
      const mine = [...this.#accounts.entries()].find(
        ([key, { attributes }]) =>
          key.startsWith(idCore.mpinId) && JSON.stringify(attributes) === JSON.stringify(body.attributes),
      )?.[1]
      const salt = mine?.salt ?? systemRandom(16)
      const userCore = userCoreOf({ groupId: this.group.groupId, attributes: body.attributes, salt })
      const key = `${idCore.mpinId}/${toBase64Url(userCore)}`
      const account = mine ?? {
        attributes: body.attributes,
        salt,
        issued: 0,
        accepted: 0,
        strikes: new Map<number, number>(),
      }
      account.issued++
      this.#accounts.set(key, account)
      const pinGen = account.issued
      return {
        ...this.#fieldsOf(idCore),
        user: { userCore: toBase64Url(userCore), salt: toBase64Url(salt), pinGen },
        ticket: await this.#ticket(idCore, body.hpkeKey, ['pin'], { userCore, pinGen }),
      }
    })
  }

  async #decide(
    body: { attributes: Attributes; hpkeKey: string; nonce: string },
    fields: string,
    code: Code | undefined,
    approve: () => Promise<RegistrationAnswer>,
  ): Promise<RegistrationAnswer> {
    const hpkeKey = fromBase64Url(body.hpkeKey, 'hpkeKey', 32)
    const nonce = fromBase64Url(body.nonce, 'nonce', 32)
    const { groupId } = this.group
    const words = sixWords(sixWordIndices({ groupId, attributes: body.attributes, hpkeKey, nonce }))
    const answer: RegistrationAnswer = code === undefined ? { state: 'pending' } : await approve()
    this.#registrations.set(body.hpkeKey, { fields, answer, approve, words })
    return answer
  }

  #codeOf(body: {
    attributes: Attributes
    instance?: string
    hpkeKey: string
    nonce: string
    codeId?: string
    mac?: string
  }): Code | undefined {
    if (body.codeId === undefined || body.mac === undefined) return undefined
    const code = this.#codes.get(body.codeId)
    if (code === undefined) throw new Refused('NOT_APPROVED')
    const mac = enrolmentMac(code.secret, {
      groupId: this.group.groupId,
      attributes: body.attributes,
      instance: body.instance,
      hpkeKey: fromBase64Url(body.hpkeKey, 'hpkeKey', 32),
      nonce: fromBase64Url(body.nonce, 'nonce', 32),
    })
    if (!equalBytes(mac, fromBase64Url(body.mac, 'mac', 32))) throw new Refused('NOT_APPROVED')
    if (JSON.stringify(code.attributes) !== JSON.stringify(body.attributes)) throw new Refused('NOT_APPROVED')
    if (code.usedBy !== undefined && code.usedBy !== body.hpkeKey) throw new Refused('CONFLICT')
    code.usedBy = body.hpkeKey
    return code
  }

  async #approveDevice(
    body: { attributes: Attributes; instance: string; hpkeKey: string },
    factors: 0 | 1 | 2,
    ownPin: boolean,
  ): Promise<Approved> {
    const salt = systemRandom(16)
    const fields = { issueDate: '2026-06-01', leaf: this.#leaf++, generation: 0, factors }
    const idCore = issueIdCore({
      groupId: this.group.groupId,
      attributes: body.attributes,
      instance: body.instance,
      enrolmentKeyHash: enrolmentKeyHash(fromBase64Url(body.hpkeKey, 'hpkeKey', 32)),
      salt,
      ...fields,
    })
    this.#identities.set(idCore.mpinId, body.attributes)
    if (ownPin)
      this.#accounts.set(`${idCore.mpinId}/`, {
        attributes: null,
        salt,
        issued: 1,
        accepted: 0,
        strikes: new Map<number, number>(),
      })
    const pin = ownPin ? { userCore: NO_USER, pinGen: 1 } : undefined
    return {
      state: 'approved',
      idCore: idCore.mpinId,
      ...fields,
      salt: toBase64Url(salt),
      ...(ownPin ? { user: { pinGen: 1 } } : {}),
      ticket: await this.#ticket(
        idCore,
        body.hpkeKey,
        [...this.devicePurposes, ...(ownPin ? (['pin'] as const) : [])],
        pin,
      ),
    }
  }

  /** Of an identity that is in force; a device checks them at its own enrolment only. */
  #fieldsOf(idCore: IdCore): Omit<Approved, 'user' | 'ticket'> {
    const { leaf, generation, factors } = idCore
    const salt = toBase64Url(new Uint8Array(16))
    return {
      state: 'approved',
      idCore: idCore.mpinId,
      leaf,
      generation,
      factors,
      issueDate: '2026-06-01',
      salt,
    }
  }

  async #ticket(
    idCore: IdCore,
    hpkeKey: string,
    purposes: TicketPayload['purposes'],
    pin?: { userCore: Uint8Array; pinGen: number },
  ): Promise<string[]> {
    const user = pin === undefined || pin.userCore.length === 0 ? {} : { userCore: toBase64Url(pin.userCore) }
    const payload: TicketPayload = {
      suite: SUITE,
      groupId: toBase64Url(this.group.groupId),
      keyEpochs: Object.fromEntries(purposes.map(purpose => [purpose, 1])),
      idCore: idCore.mpinId,
      ...user,
      ...(pin === undefined ? {} : { pinGen: pin.pinGen }),
      purposes,
      hpkeKey,
      hpkeKeyHash: toBase64Url(enrolmentKeyHash(fromBase64Url(hpkeKey, 'hpkeKey', 32))),
      iat: this.#seconds(),
      exp: this.#seconds() + 3600,
      jti: toBase64Url(systemRandom(16)),
    }
    return [await signTicket(payload, { key: this.#members.ra[0] as Es256PrivateKey, kid: 'ra1' })]
  }

  /** A ticket of the RA's for whatever a test wants. */
  ticketFor(
    idCore: IdCore,
    hpkeKey: string,
    purposes: TicketPayload['purposes'],
    pin?: { userCore: Uint8Array; pinGen: number },
  ): Promise<string[]> {
    return this.#ticket(idCore, hpkeKey, purposes, pin)
  }

  #signer() {
    return { key: this.#tokenKey, kid: 'token1' }
  }

  #seconds(): number {
    return Math.floor(this.now / 1000)
  }
}
