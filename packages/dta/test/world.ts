/** Authorities on 127.0.0.1, each with its own data folder; an RA, an RPS, a tracking server; a clock by hand. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Client, createClient } from '@milagro-ts/api/call'
import { type CeremonyProposal, ceremonyHash } from '@milagro-ts/api/ceremony'
import { ceremonyRun } from '@milagro-ts/api/ceremony-run'
import { dtaAdminRoutes, dtaRoutes } from '@milagro-ts/api/dta-routes'
import { groupMake } from '@milagro-ts/api/founding'
import { documentHash, type Group, type PurposeKeys, proposalHash } from '@milagro-ts/api/group'
import type { GroupProposal } from '@milagro-ts/api/group-document'
import { type Es256PrivateKey, generateEs256, generateHpkeKey, type HpkeKeyPair } from '@milagro-ts/api/keys'
import { createLog } from '@milagro-ts/api/log'
import type { Metrics } from '@milagro-ts/api/metrics'
import { Refused } from '@milagro-ts/api/problem'
import { requestSigner } from '@milagro-ts/api/request-auth'
import { open } from '@milagro-ts/api/seal'
import {
  type LeavesPayload,
  leavesHash,
  type PermitStatementPayload,
  signPermitStatement,
  signTicket,
  signTree,
  type TicketPayload,
  type TreePayload,
  verifyTicket,
} from '@milagro-ts/api/statements'
import { systemRandom, type Timers } from '@milagro-ts/api/system'
import { fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import { enrolmentKeyHash } from '@milagro-ts/crypto/enrolment'
import {
  agreePointG2,
  encodeName,
  encryptPoint,
  type IdCore,
  issueIdCore,
  type Name,
} from '@milagro-ts/crypto/identity'
import { BannedLeaves } from '@milagro-ts/crypto/permit-tree'
import { type G1, G2 } from '@milagro-ts/crypto/points'
import type { Random } from '@milagro-ts/crypto/ports'
import { combineG1, combineG2 } from '@milagro-ts/crypto/secret-sharing'
import { ServerKey, sameLogarithm } from '@milagro-ts/crypto/server-key'
import { KeyShare, shareContext, shareVerify, shareVerifyG2 } from '@milagro-ts/crypto/share-proof'
import { PURPOSES, type Purpose, SUITE } from '@milagro-ts/crypto/suite'
import { Permit, slotAt } from '@milagro-ts/crypto/time-permit'
import { decodeTlv, need } from '@milagro-ts/crypto/tlv'
import type { DtaConfig } from '@milagro-ts/dta/config'
import { createDta, type Dta, type DtaOptions } from '@milagro-ts/dta/server'
import { dtaMigrations } from '@milagro-ts/dta/tables'
import { openDatabase, type Store } from '@milagro-ts/store/database'

export const PASSPHRASE = 'three rings for the elven kings'
export const SLOT = { origin: 1_767_225_600, length: 86_400 }
export const MIDDAY = (SLOT.origin + 300 * SLOT.length + 43_200) * 1000
export const MIDDAY_SLOT = 300

export interface TestClock {
  /** Unix milliseconds. */
  now: number
}
export interface Running {
  readonly config: DtaConfig
  readonly dta: Dta
  readonly store: Store<unknown>
  readonly url: string
  readonly adminUrl: string
  readonly client: Client<typeof dtaRoutes>
  readonly admin: Client<typeof dtaAdminRoutes>
  close(): Promise<void>
}
export interface StartOptions {
  readonly clock: TestClock
  readonly random?: Random
  /** Every line that is logged. */
  readonly logged?: string[]
  readonly config?: Partial<DtaConfig>
  readonly passphrase?: string
  readonly metrics?: Metrics
  readonly timers?: Timers
  /** Towards the other members. */
  readonly fetch?: typeof fetch
  readonly startPool?: DtaOptions['startPool']
  /** Stands between the authority and its store. */
  readonly throughStore?: (store: Store<unknown>) => Store<unknown>
}

export async function startAuthority(name: string, dataDir: string, options: StartOptions): Promise<Running> {
  const config: DtaConfig = {
    name,
    listen: { host: '127.0.0.1', port: 0 },
    adminListen: { host: '127.0.0.1', port: 0 },
    dataDir,
    workers: 0,
    ...options.config,
  }
  const store = await openDatabase<unknown>({
    file: join(dataDir, 'dta.sqlite'),
    migrations: dtaMigrations,
  })
  const logged = options.logged ?? []
  const dta = await createDta({
    config,
    passphrase: options.passphrase ?? PASSPHRASE,
    store: options.throughStore?.(store) ?? store,
    clock: () => options.clock.now,
    random: options.random ?? systemRandom,
    log: createLog('dta', { level: 'debug', destination: { write: line => logged.push(line) } }),
    ...(options.metrics === undefined ? {} : { metrics: options.metrics }),
    ...(options.timers === undefined ? {} : { timers: options.timers }),
    ...(options.fetch === undefined ? {} : { fetch: options.fetch }),
    ...(options.startPool === undefined ? {} : { startPool: options.startPool }),
  }).catch(async error => {
    await store.close()
    throw error
  })
  const { url, adminUrl } = await dta.start()
  return {
    config,
    dta,
    store,
    url,
    adminUrl,
    client: createClient(dtaRoutes, { baseUrl: url }),
    admin: createClient(dtaAdminRoutes, {
      baseUrl: adminUrl,
      authorize: async () => `Bearer ${dta.adminToken}`,
    }),
    async close() {
      await dta.close()
      await store.close()
    },
  }
}

/** Ends it (as a crash does: nothing is told to anybody) and starts it again on the same port and data. */
export async function restart(running: Running, options: StartOptions): Promise<Running> {
  await running.close()
  const port = Number(new URL(running.url).port)
  const config = { ...running.config, listen: { host: '127.0.0.1', port } }
  return startAuthority(running.config.name, running.config.dataDir, { ...options, config })
}

export interface Server {
  readonly name: string
  readonly requestKey: Es256PrivateKey
  readonly hpkeKey: HpkeKeyPair
}
export async function makeServer(name: string): Promise<Server> {
  return { name, requestKey: await generateEs256(), hpkeKey: await generateHpkeKey(systemRandom) }
}
export function asRecipient(
  server: Server,
  purposes: GroupProposal['recipients'][number]['purposes'],
  kind: 2 | 3 = 2,
): GroupProposal['recipients'][number] {
  return {
    name: server.name,
    kind,
    generation: 1,
    purposes,
    hpkeKey: toBase64Url(server.hpkeKey.publicKey),
    requestKey: server.requestKey.publicKey.toBase64Url(),
  }
}

export interface World {
  readonly clock: TestClock
  readonly logged: string[]
  readonly random: Random
  readonly authorities: Running[]
  readonly proposal: GroupProposal
  readonly ra: Es256PrivateKey
  readonly rps: Server
  readonly tracking: Server
  /** A static server: it has one key of `agree` for all slots. */
  readonly broker: Server
  close(): Promise<void>
}
export interface Founded extends World {
  readonly group: Group
  readonly groupId: string
}

/**
 * Authorities that have not founded anything yet, and the proposal that would make them a group. `n` is 3 unless said:
 * where one or two show the same, a test is over sooner with them.
 */
export async function makeWorld(options: { n?: number; random?: Random } = {}): Promise<World> {
  const clock = { now: MIDDAY }
  const logged: string[] = []
  const random = options.random ?? systemRandom
  const folder = await mkdtemp(join(tmpdir(), 'milagro-dta-'))
  const authorities: Running[] = []
  for (const name of ['ta1', 'ta2', 'ta3'].slice(0, options.n ?? 3)) {
    const dataDir = await mkdtemp(join(folder, `${name}-`))
    authorities.push(await startAuthority(name, dataDir, { clock, logged, random }))
  }
  const [ra, rps, tracking, broker] = await Promise.all([
    generateEs256(),
    makeServer('rps'),
    makeServer('tracking.example'),
    makeServer('broker.example'),
  ])
  const proposal = await propose(authorities, ra, [
    asRecipient(rps, ['device', 'pin']),
    asRecipient(tracking, ['agree', 'encrypt']),
    asRecipient(broker, ['agree', 'encrypt'], 3),
  ])
  return {
    clock,
    logged,
    random,
    authorities,
    proposal,
    ra,
    rps,
    tracking,
    broker,
    async close() {
      for (const authority of authorities) await authority.close()
      await rm(folder, { recursive: true })
    },
  }
}

async function propose(
  authorities: readonly Running[],
  ra: Es256PrivateKey,
  recipients: GroupProposal['recipients'],
): Promise<GroupProposal> {
  const members = await Promise.all(
    authorities.map(async ({ client, url }, i) => {
      const { name, signKey, hpkeKey } = await client.authority({})
      return { index: i + 1, name, url, signKey, hpkeKey }
    }),
  )
  return {
    suite: SUITE,
    v: 1,
    n: members.length,
    t: members.length,
    authorities: members,
    ra: { m: 1, keys: [{ kid: 'ra1', key: ra.publicKey.toBase64Url() }] },
    recipients,
    slot: SLOT,
    policy: { lead: 1, grace: 300 },
    firstSlot: 0,
    nonce: toBase64Url(systemRandom(32)),
  }
}

/** Every authority's operator says yes. */
export async function acceptAll({ authorities }: World, hash: string): Promise<void> {
  for (const { admin } of authorities) await admin.accept({ body: { hash } })
}

export async function foundWorld(options: Parameters<typeof makeWorld>[0] = {}): Promise<Founded> {
  const world = await makeWorld(options)
  const hash = toBase64Url(proposalHash(world.proposal))
  await acceptAll(world, hash)
  const clients = world.authorities.map(({ client }) => client)
  const group = await groupMake({ proposal: world.proposal, clients })
  return { ...world, group, groupId: toBase64Url(group.groupId) }
}

export function rotationOf(
  group: Group,
  { firstSlot, purposes = [...PURPOSES] }: { firstSlot: number; purposes?: Purpose[] },
): CeremonyProposal {
  return {
    suite: SUITE,
    v: 1,
    kind: 'rotate',
    groupId: toBase64Url(group.groupId),
    previous: toBase64Url(documentHash(group.document)),
    purposes,
    firstSlot,
    nonce: toBase64Url(systemRandom(32)),
  }
}

/** The world a rotation later; `firstSlot` is two slots from now unless said. */
export async function rotated(
  world: Founded,
  terms: { firstSlot?: number; purposes?: Purpose[] } = {},
): Promise<Founded> {
  const now = slotAt(world.group.slotRule, Math.floor(world.clock.now / 1000))
  const proposal = rotationOf(world.group, { firstSlot: now + world.group.policy.lead + 1, ...terms })
  await acceptAll(world, toBase64Url(ceremonyHash(proposal)))
  const clients = new Map(world.authorities.map(({ config, client }) => [config.name, client]))
  const { group } = await ceremonyRun({ proposal, clients, revisions: world.group.documents })
  return { ...world, group }
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

/** A car at the RA's desk: its enrolment key, and the identity that was made over it. */
export interface Car {
  readonly idCore: IdCore
  readonly enrolmentKey: HpkeKeyPair
}
let leaf = 0
export async function makeCar({ groupId }: { groupId: string }): Promise<Car> {
  const enrolmentKey = await generateHpkeKey(systemRandom)
  const idCore = issueIdCore({
    groupId: fromBase64Url(groupId, 'groupId', 32),
    attributes: { brand: 'Trabant', model: '601' },
    instance: `VIN-${leaf}`,
    issueDate: '2026-10-28',
    enrolmentKeyHash: enrolmentKeyHash(enrolmentKey.publicKey),
    salt: systemRandom(16),
    leaf: leaf++,
    generation: 0,
    factors: 2,
  })
  return { idCore, enrolmentKey }
}

export async function ticketFor(
  { ra, groupId, clock }: Pick<Founded, 'ra' | 'groupId' | 'clock'>,
  car: Car,
  changes: Partial<TicketPayload> = {},
  signer: { key: Es256PrivateKey; kid: string } = { key: ra, kid: 'ra1' },
): Promise<string[]> {
  const iat = Math.floor(clock.now / 1000)
  const purposes = changes.purposes ?? ['device']
  const payload: TicketPayload = {
    suite: SUITE,
    groupId,
    keyEpochs: Object.fromEntries(purposes.map(purpose => [purpose, 1])),
    idCore: car.idCore.mpinId,
    purposes,
    hpkeKey: toBase64Url(car.enrolmentKey.publicKey),
    hpkeKeyHash: toBase64Url(enrolmentKeyHash(car.enrolmentKey.publicKey)),
    iat,
    exp: iat + 3600,
    jti: toBase64Url(systemRandom(16)),
    ...(purposes.includes('pin') ? { pinGen: 1 } : {}),
    ...changes,
  }
  return [await signTicket(payload, signer)]
}

export type TicketPurposeOf = 'device' | 'pin' | 'agree' | 'sign' | 'encrypt'

/** Opens one authority's answer and checks its proof; null when it isn't a good share for this car. */
export async function openShare(
  { group }: Pick<Founded, 'group'>,
  { sealed, index, shareEpoch }: { sealed: string; index: number; shareEpoch: number },
  car: Car,
  purpose: TicketPurposeOf,
  terms: { A: G1; ctx: Uint8Array },
  commitment = group.keys(purpose).commitments[index - 1] as G1,
): Promise<KeyShare | null> {
  if (shareEpoch !== group.shareEpoch) return null
  const plaintext = await open(car.enrolmentKey, terms.ctx, fromBase64Url(sealed, 'sealed'))
  if (plaintext === null) return null
  const share = KeyShare.decode(plaintext)
  return shareVerify({ ...terms, commitment }, share) ? share : null
}

/** A car's key of `agree` or `sign`, from all authorities. */
export async function collectKey(world: Founded, car: Car, purpose: 'agree' | 'sign'): Promise<G1> {
  const { group, groupId } = world
  const ticket = await ticketFor(world, car, { purposes: [purpose] })
  const verified = await verifyTicket({ ticket, group, now: world.clock.now })
  const shares = await Promise.all(
    world.authorities.map(async ({ client }) => {
      const answer = await client.shares({ params: { groupId }, body: { ticket, purpose } })
      const terms = verified.shareTerms(purpose, answer.index, answer.shareEpoch)
      const share = await openShare(world, answer, car, purpose, terms)
      if (share === null) throw new Error('not a good share')
      return { index: answer.index, share }
    }),
  )
  return combineShares(shares)
}

/** What the authorities make of the RA's word, composed as the RPS does. */
export async function permitFor(world: Founded, car: Car, slot = MIDDAY_SLOT): Promise<Permit> {
  const statement = await statementFor(world, car, { slot })
  const shares = await Promise.all(
    world.authorities.map(async authority => {
      const params = { groupId: world.groupId }
      const { index, share } = await clientOf(world, authority, world.rps).permits({
        params,
        body: { statement },
      })
      return { index, point: KeyShare.decode(fromBase64Url(share, 'share')).d }
    }),
  )
  return Permit.of(slot, { type: 'id', idCore: car.idCore }, combineG1(shares))
}

export async function statementFor(
  { ra, groupId, clock }: Pick<Founded, 'ra' | 'groupId' | 'clock'>,
  car: Car,
  changes: Partial<PermitStatementPayload> = {},
  signer: { key: Es256PrivateKey; kid: string } = { key: ra, kid: 'ra1' },
): Promise<string> {
  const iat = Math.floor(clock.now / 1000)
  const payload: PermitStatementPayload = {
    suite: SUITE,
    groupId,
    keyEpoch: 1,
    idCore: car.idCore.mpinId,
    slot: MIDDAY_SLOT,
    banned: false,
    iat,
    exp: iat + 60,
    jti: toBase64Url(systemRandom(16)),
    ...changes,
  }
  return signPermitStatement(payload, signer)
}

export function leavesPayload(
  { groupId }: Pick<Founded, 'groupId'>,
  leaves: readonly number[],
  number: number,
): LeavesPayload {
  const bytes = BannedLeaves.of(leaves).encode()
  return { suite: SUITE, groupId, number, ...(bytes.length > 0 ? { leaves: toBase64Url(bytes) } : {}) }
}

/** The RA's word for the current slot that these leaves are the newest. */
export async function treeFor(
  world: Founded,
  leaves: readonly number[],
  number: number,
  changes: Partial<TreePayload> = {},
  signer: { key: Es256PrivateKey; kid: string } = { key: world.ra, kid: 'ra1' },
): Promise<string> {
  const iat = Math.floor(world.clock.now / 1000)
  const payload: TreePayload = {
    suite: SUITE,
    groupId: world.groupId,
    keyEpoch: 1,
    slot: MIDDAY_SLOT,
    number,
    leavesHash: toBase64Url(leavesHash(leavesPayload(world, leaves, number))),
    iat,
    exp: iat + 60,
    jti: toBase64Url(systemRandom(16)),
    ...changes,
  }
  return signTree(payload, signer)
}

/** The authority's routes, called as this server. */
export function clientOf({ clock }: World, { url }: Running, server: Server): Client<typeof dtaRoutes> {
  const authorize = requestSigner({
    name: server.name,
    key: server.requestKey,
    clock: () => clock.now,
    random: systemRandom,
  })
  return createClient(dtaRoutes, { baseUrl: url, authorize })
}

/** S of a purpose, as a recipient makes it: every W_j against its C_j, then S against IVK. */
export async function fetchServerKey(
  world: Founded,
  purpose: 'device' | 'pin',
  keyEpoch = 1,
): Promise<ServerKey> {
  const { group, groupId, rps } = world
  const keys = group.keysOf(purpose, keyEpoch) as PurposeKeys
  const nonce = systemRandom(16)
  const shares = await Promise.all(
    world.authorities.map(async running => {
      const answer = await clientOf(world, running, rps).serverKeys({
        params: { groupId },
        body: { purpose, keyEpoch, nonce: toBase64Url(nonce) },
      })
      const { index, shareEpoch } = answer
      const identity = encodeName(group.groupId, { kind: 2, name: rps.name, generation: 1 })
      const ctx = shareContext({
        groupId: group.groupId,
        purpose,
        index,
        shareEpoch,
        identity,
        jti: nonce,
      })
      const plaintext = await open(rps.hpkeKey, ctx, fromBase64Url(answer.sealed, 'sealed'))
      if (plaintext === null) throw new Error('not sealed to the RPS')
      const W = G2.decode(need(decodeTlv(plaintext, { tags: 1, field: 'W' })[0], 'W'))
      if (!sameLogarithm(keys.commitments[index - 1] as G1, W)) throw new Error('wrong W')
      return { index, point: W }
    }),
  )
  const S = ServerKey.combine(keys.ivk, shares)
  if (S === null) throw new Error('S does not belong to IVK')
  return S
}

/** What a recipient of `agree` makes of all authorities' answers: its key, or null if it isn't that of `name`. */
export function fetchAgreeKey(
  world: Founded,
  server: Server,
  name: Extract<Name, { kind: 2 | 3 }>,
  request: NamedRequest = {},
): Promise<G2 | null> {
  return fetchNamedKey(
    world,
    server,
    { purpose: 'agree', name, request },
    combineG2,
    (statement, plaintext) => {
      const share = KeyShare.decodeG2(plaintext)
      return shareVerifyG2({ ...statement, A: agreePointG2(statement.identity) }, share) ? share.d : null
    },
  )
}

/** What a recipient of `encrypt` makes of all authorities' answers; null where one isn't of `name`. */
export function fetchFileKey(
  world: Founded,
  server: Server,
  name: Extract<Name, { kind: 4 }>,
  request: NamedRequest = {},
): Promise<G1 | null> {
  return fetchNamedKey(
    world,
    server,
    { purpose: 'encrypt', name, request },
    combineG1,
    (statement, plaintext) => {
      const share = KeyShare.decode(plaintext)
      return shareVerify({ ...statement, A: encryptPoint(statement.identity) }, share) ? share.d : null
    },
  )
}

interface NamedRequest {
  readonly slot?: number
  readonly keyEpoch?: number
}

/** @param verified The point of a share that verifies, else null. */
async function fetchNamedKey<Point>(
  world: Founded,
  server: Server,
  { purpose, name, request }: { purpose: 'agree' | 'encrypt'; name: Name; request: NamedRequest },
  combine: (shares: readonly { index: number; point: Point }[]) => Point,
  verified: (
    statement: { ctx: Uint8Array; commitment: G1; identity: Uint8Array },
    plaintext: Uint8Array,
  ) => Point | null,
): Promise<Point | null> {
  const { group, groupId } = world
  const nonce = systemRandom(16)
  const identity = encodeName(group.groupId, name)
  const asked = { keyEpoch: 1, ...request }
  const shares = await Promise.all(
    world.authorities.map(async running => {
      const { index, shareEpoch, sealed } = await clientOf(world, running, server).serverKeys({
        params: { groupId },
        body: { purpose, nonce: toBase64Url(nonce), ...asked },
      })
      const ctx = shareContext({ groupId: group.groupId, purpose, index, shareEpoch, identity, jti: nonce })
      const plaintext = await open(server.hpkeKey, ctx, fromBase64Url(sealed, 'sealed'))
      if (plaintext === null) return null
      const commitment = group.keysOf(purpose, asked.keyEpoch)?.commitments[index - 1] as G1
      const point = verified({ ctx, commitment, identity }, plaintext)
      return point === null ? null : { index, point }
    }),
  )
  return shares.some(share => share === null) ? null : combine(shares.filter(share => share !== null))
}

export function combineShares(shares: readonly { index: number; share: KeyShare }[]): G1 {
  return combineG1(shares.map(({ index, share }) => ({ index, point: share.d })))
}
