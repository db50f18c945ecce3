/**
 * Fleet for real, over HTTP on the loopback, in a world where everyone else is the test: the authorities' keys, an RPS
 * that signs its calls and listens for events, a clock and timers that the test turns.
 */
import { copyFileSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createClient } from '@milagro-ts/api/call'
import { groupMake } from '@milagro-ts/api/founding'
import type { Group, KeyCheck } from '@milagro-ts/api/group'
import type { GroupDocument } from '@milagro-ts/api/group-document'
import { type Es256PrivateKey, generateEs256, generateHpkeKey } from '@milagro-ts/api/keys'
import { createLog } from '@milagro-ts/api/log'
import { type Code, Refused } from '@milagro-ts/api/problem'
import { requestSigner } from '@milagro-ts/api/request-auth'
import type { Answer } from '@milagro-ts/api/route'
import { type Approved, type Notice, type RegistrationAnswer, rpaRoutes } from '@milagro-ts/api/rpa-routes'
import type { rpsRoutes } from '@milagro-ts/api/rps-routes'
import { sixWords } from '@milagro-ts/api/six-words'
import {
  type AccessTokenPayload,
  type EventPayload,
  signAccessToken,
  verifyEvent,
} from '@milagro-ts/api/statements'
import { systemRandom, type Timers } from '@milagro-ts/api/system'
import { fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import { codeId, decodeEnrolmentCode, enrolmentMac, sixWordIndices } from '@milagro-ts/crypto/enrolment'
import type { Attributes } from '@milagro-ts/crypto/identity'
import { publicKeysFault } from '@milagro-ts/crypto/server-key'
import { slotAt } from '@milagro-ts/crypto/time-permit'
import type { FleetConfig } from '@milagro-ts/fleet/config'
import { fleetRoutes } from '@milagro-ts/fleet/fleet-routes'
import { type FleetSchema, migrations } from '@milagro-ts/fleet/schema'
import { createFleet, type Fleet, openFleetKeys } from '@milagro-ts/fleet/server'
import { openDatabase, type Store } from '@milagro-ts/store/database'
import { fixedRandom } from '../../api/test/fixed-random.js'
import { MemberAuthority, type Members, makeMembers } from '../../api/test/founding-members.js'
import { dealtGroup } from '../../api/test/group-fixture.js'

export const START = 1_767_225_600_000 + 40 * 86_400_000 + 3_600_000
export const SLOT = 40
export const PASSPHRASE = 'correct horse battery staple'
export const GOLF: Attributes = { brand: 'Volkswagen', model: 'Golf', variant: 'GTI' }
export const ALICE: Attributes = { driverName: 'Alice Wonderland' }

/** A clock with its timers; `advance` fires what falls due, in order. */
export class FakeTime implements Timers {
  now = START
  #timers: { at: number; every: number | undefined; run: () => void }[] = []

  readonly clock = () => this.now
  every(milliseconds: number, run: () => void): () => void {
    return this.#add({ at: this.now + milliseconds, every: milliseconds, run })
  }
  after(milliseconds: number, run: () => void): () => void {
    return this.#add({ at: this.now + milliseconds, every: undefined, run })
  }
  advance(milliseconds: number): void {
    const end = this.now + milliseconds
    for (;;) {
      const due = this.#timers.filter(({ at }) => at <= end).sort((a, b) => a.at - b.at)[0]
      if (due === undefined) break
      this.now = Math.max(this.now, due.at)
      if (due.every === undefined) this.#timers = this.#timers.filter(timer => timer !== due)
      // Once, however long the leap: housekeeping of two weeks in one second is a flood.
      else due.at = end + due.every
      due.run()
    }
    this.now = end
  }
  #add(timer: { at: number; every: number | undefined; run: () => void }): () => void {
    this.#timers.push(timer)
    return () => {
      this.#timers = this.#timers.filter(other => other !== timer)
    }
  }
}

/** What fleet sees of an RPS. Events are verified as they come. */
export class FakeRps {
  readonly events: EventPayload[] = []
  tokenKey: Es256PrivateKey
  readonly #server: Server
  group!: Group
  /** When set, every event is refused with it. */
  refuses: Code | undefined
  /** When set, it says that it has events up to this number. */
  answersWith: number | undefined
  /** When false, connections are cut. */
  up = true
  kid = 'token-1'
  jwksAsked = 0
  /** As of an RPS that names a newest revision of any number, and has the one in force for each. */
  namesRevision: number | undefined
  groupsAsked = 0
  #waiting: (() => void)[] = []
  #held: Promise<void> | undefined

  private constructor(tokenKey: Es256PrivateKey) {
    this.tokenKey = tokenKey
    this.#server = createServer((request, response) => {
      this.#serve(request, response).catch((error: unknown) => {
        response.writeHead(500).end(String(error))
      })
    })
  }
  static async listen(): Promise<FakeRps> {
    const rps = new FakeRps(await generateEs256())
    await new Promise<void>(resolve => rps.#server.listen(0, '127.0.0.1', resolve))
    return rps
  }
  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`
  }
  close(): Promise<unknown> {
    this.#server.closeAllConnections()
    return new Promise(resolve => this.#server.close(resolve))
  }
  async changeTokenKey(): Promise<void> {
    this.tokenKey = await generateEs256()
    this.kid = `${this.kid}-next`
  }
  /** From now on an event is answered when the returned function has been called. */
  hold(): () => void {
    let letGo = () => {}
    this.#held = new Promise(resolve => {
      letGo = resolve
    })
    return letGo
  }
  /** Resolves once event `number` has come. */
  async until(number: number): Promise<void> {
    while (!this.events.some(event => event.number >= number))
      await new Promise<void>(resolve => this.#waiting.push(resolve))
  }
  token(
    payload: Partial<AccessTokenPayload> & Pick<AccessTokenPayload, 'sub' | 'aud' | 'iat'>,
  ): Promise<string> {
    const whole: AccessTokenPayload = {
      iss: this.url,
      amr: ['device', 'pin'],
      slot: SLOT,
      exp: payload.iat + 300,
      jti: toBase64Url(crypto.getRandomValues(new Uint8Array(16))),
      ...payload,
    }
    return signAccessToken(whole, { key: this.tokenKey, kid: this.kid })
  }

  /** What it says of the authorities, and by which credential it was asked last. */
  authorities: Answer<typeof rpsRoutes.authorities> = {
    live: 1,
    needed: 1,
    authorities: [{ index: 1, name: 'ta1', wrongShares: 0 }],
  }
  authoritiesAskedAs: string | undefined

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    if (!this.up) {
      request.socket.destroy()
      return
    }
    let body = ''
    for await (const chunk of request) body += String(chunk)
    const answer = (status: number, value: unknown) =>
      response
        .writeHead(status, { 'content-type': `application/${status === 200 ? 'json' : 'problem+json'}` })
        .end(JSON.stringify(value))
    const { pathname, searchParams } = new URL(request.url ?? '', this.url)
    switch (`${request.method} ${pathname}`) {
      case 'GET /v1/jwks': {
        this.jwksAsked++
        const jwk = { ...this.tokenKey.publicKey.toJwk(), kid: this.kid, use: 'sig', alg: 'ES256' }
        return void answer(200, { keys: [jwk] })
      }
      case 'GET /v1/authorities':
        this.authoritiesAskedAs = request.headers.authorization
        return void answer(200, this.authorities)
      case 'GET /v1/group': {
        this.groupsAsked++
        if (this.namesRevision !== undefined) {
          const { document } = this.group
          return void answer(
            200,
            searchParams.has('revision') ? document : { ...document, revision: this.namesRevision },
          )
        }
        const revision = Number(searchParams.get('revision') ?? this.group.revision)
        return void answer(200, this.group.documents[revision - 1])
      }
      case 'POST /v1/group': {
        const { document } = JSON.parse(body) as { document: GroupDocument }
        this.group = await this.group.verifyNext(document)
        return void answer(200, { revision: this.group.revision })
      }
      case 'POST /v1/rpa-events': {
        if (this.refuses !== undefined) {
          const problem = new Refused(this.refuses).toProblem()
          return void answer(problem.status, problem)
        }
        const { event } = JSON.parse(body) as { event: string }
        const payload = await verifyEvent({ event, group: this.group })
        this.events.push(payload)
        await this.#held
        answer(200, { number: this.answersWith ?? payload.number })
        for (const wake of this.#waiting.splice(0)) wake()
        return
      }
      default:
        response.writeHead(404).end()
    }
  }
}

export interface Registration {
  readonly body: {
    readonly kind: 'device'
    readonly attributes: Attributes
    readonly instance: string
    readonly hpkeKey: string
    readonly nonce: string
    readonly codeId?: string
    readonly mac?: string
  }
  readonly words: string
}

export class World {
  readonly time = new FakeTime()
  readonly rps: FakeRps
  readonly dataDir: string
  readonly random = fixedRandom('fleet world')
  readonly logLines: string[] = []
  /** Here, unless a test has threads. */
  keyCheck: KeyCheck = publicKeysFault
  config: FleetConfig
  members!: Members
  /** Request key of the group's static server. */
  broker!: Es256PrivateKey
  group!: Group
  store!: Store<FleetSchema>
  fleet!: Fleet
  url = ''
  adminUrl = ''
  setupCode = ''
  #operator: string | undefined

  private constructor(rps: FakeRps, overrides: Partial<FleetConfig>) {
    this.rps = rps
    this.dataDir = mkdtempSync(join(tmpdir(), 'fleet-test-'))
    this.config = {
      name: 'fleet',
      listen: { host: '127.0.0.1', port: 0 },
      adminListen: { host: '127.0.0.1', port: 0 },
      publicUrl: 'http://fleet.invalid',
      dataDir: this.dataDir,
      groupFile: join(this.dataDir, 'group.json'),
      rps: { url: rps.url },
      rpsName: 'rps',
      ...overrides,
    }
  }

  /**
   * A running fleet of a fresh group, of one authority unless addresses are given, all of whom are needed unless t is; nobody
   * enrolled yet.
   */
  static async start(
    overrides: Partial<FleetConfig> = {},
    authorityUrls: string[] = [],
    t = authorityUrls.length,
  ): Promise<World> {
    const world = new World(await FakeRps.listen(), overrides)
    world.store = await world.#open()
    const { signers, requestKey, hpkeKey } = await openFleetKeys(world.#options())
    const members = await makeMembers({ n: Math.max(authorityUrls.length, 1) })
    const { proposal } = members
    world.broker = await generateEs256()
    world.members = {
      ...members,
      proposal: {
        ...proposal,
        authorities: proposal.authorities.map((authority, i) => ({
          ...authority,
          url: authorityUrls[i] ?? authority.url,
        })),
        ra: { m: 1, keys: signers.map(({ kid, key }) => ({ kid, key: key.publicKey.toBase64Url() })) },
        recipients: [
          ...proposal.recipients,
          {
            name: 'broker',
            kind: 3,
            generation: 1,
            purposes: ['agree'],
            hpkeKey: toBase64Url((await generateHpkeKey(systemRandom)).publicKey),
            requestKey: world.broker.publicKey.toBase64Url(),
          },
          {
            name: 'fleet',
            kind: 2,
            generation: 1,
            purposes: ['agree'],
            hpkeKey: toBase64Url(hpkeKey.publicKey),
            requestKey: requestKey.publicKey.toBase64Url(),
          },
        ],
      },
    }
    const clients = members.authorities.map((_, i) => new MemberAuthority(world.members, i + 1))
    world.group =
      t < authorityUrls.length
        ? (await dealtGroup(world.members, t)).group
        : await groupMake({ proposal: world.members.proposal, clients })
    world.rps.group = world.group
    writeFileSync(world.config.groupFile as string, JSON.stringify(world.group.document))
    world.config = { ...world.config, groupId: toBase64Url(world.group.groupId) }
    await world.#run()
    return world
  }

  /** As after a kill: nothing is closed in order but the file handle, everything is read again. */
  async restart(): Promise<void> {
    await this.fleet.close()
    await this.store.close()
    this.store = await this.#open()
    await this.#run()
  }

  /** As after `store restore`: the database of a backup in a data folder that has gone on. */
  async restore(backup: string): Promise<void> {
    await this.fleet.close()
    await this.store.close()
    const file = join(this.dataDir, 'fleet.sqlite')
    for (const part of [file, `${file}-wal`, `${file}-shm`]) rmSync(part, { force: true })
    copyFileSync(backup, file)
    this.store = await this.#open()
    await this.#run()
  }

  async stop(): Promise<void> {
    await this.fleet.close()
    await this.store.close()
    await this.rps.close()
    rmSync(this.dataDir, { recursive: true })
  }

  get slot(): number {
    return slotAt(this.group.slotRule, this.seconds)
  }
  get seconds(): number {
    return Math.floor(this.time.now / 1000)
  }

  /** The callbacks, as the RPS calls them; or as someone else. */
  asRps(name = 'rps', key = this.members.rps.signKey) {
    const { random } = this
    const sign = requestSigner({ name, key, clock: this.time.clock, random })
    // The signature is for the address that fleet knows as its own.
    return createClient(rpaRoutes, {
      baseUrl: this.url,
      authorize: request => sign({ ...request, url: request.url.replace(this.url, this.config.publicUrl) }),
    })
  }

  /** The operators' API with the first operator's token, made for the time that it is. */
  get api() {
    return createClient(fleetRoutes, { baseUrl: this.url, authorize: () => this.operatorToken() })
  }
  apiWith(token: string) {
    return createClient(fleetRoutes, { baseUrl: this.url, authorize: async () => `Bearer ${token}` })
  }
  async operatorToken(): Promise<string> {
    this.#operator ??= (await this.enrolOperator('admin', this.setupCode)).idCore
    const token = await this.rps.token({ sub: this.#operator, aud: this.config.publicUrl, iat: this.seconds })
    return `Bearer ${token}`
  }
  useOperator(idCore: string): void {
    this.#operator = idCore
  }
  async enrolOperator(name: string, code: string): Promise<Approved> {
    return this.enrol({ instance: `operator:${name}`, attributes: { operator: name }, code })
  }

  async registration({
    instance,
    attributes = GOLF,
    code,
  }: {
    instance: string
    attributes?: Attributes
    code?: string
  }): Promise<Registration> {
    const { publicKey: hpkeKey } = await generateHpkeKey(this.random)
    const nonce = this.random(32)
    const fields = { groupId: this.group.groupId, attributes, instance, hpkeKey, nonce }
    const secret = code === undefined ? undefined : decodeEnrolmentCode(code).secret
    return {
      body: {
        kind: 'device',
        attributes,
        instance,
        hpkeKey: toBase64Url(hpkeKey),
        nonce: toBase64Url(nonce),
        ...(secret === undefined
          ? {}
          : { codeId: toBase64Url(codeId(secret)), mac: toBase64Url(enrolmentMac(secret, fields)) }),
      },
      words: sixWords(sixWordIndices(fields)),
    }
  }

  async userRegistration({
    idCore,
    attributes = ALICE,
    code,
  }: {
    idCore: string
    attributes?: Attributes
    code?: string
  }) {
    const { publicKey: hpkeKey } = await generateHpkeKey(this.random)
    const nonce = this.random(32)
    const fields = { groupId: this.group.groupId, attributes, hpkeKey, nonce }
    const secret = code === undefined ? undefined : decodeEnrolmentCode(code).secret
    return {
      body: {
        kind: 'user' as const,
        idCore,
        attributes,
        hpkeKey: toBase64Url(hpkeKey),
        nonce: toBase64Url(nonce),
        ...(secret === undefined
          ? {}
          : { codeId: toBase64Url(codeId(secret)), mac: toBase64Url(enrolmentMac(secret, fields)) }),
      },
      words: sixWords(sixWordIndices(fields)),
    }
  }

  async enrol(device: { instance: string; attributes?: Attributes; code: string }): Promise<Approved> {
    const { body } = await this.registration(device)
    return approved(await this.asRps().verify({ body }))
  }
  /** A vehicle added, and enrolled by its code. */
  async car(instance: string, factors: 0 | 1 | 2 = 2): Promise<{ id: number; device: Approved }> {
    const { id, code } = await this.api.addVehicle({ body: { instance, attributes: GOLF, factors } })
    return { id, device: await this.enrol({ instance, code: code!.code }) }
  }
  /** A driver put on a vehicle, and enrolled there by code. */
  async driverOn(
    car: { id: number; device: Approved },
    attributes: Attributes = ALICE,
  ): Promise<{ id: number; user: NonNullable<Approved['user']>; answer: Approved }> {
    const { driver, code } = await this.api.assignDriver({
      params: { id: String(car.id) },
      body: { attributes },
    })
    const { body } = await this.userRegistration({ idCore: car.device.idCore, attributes, code: code.code })
    const answer = approved(await this.asRps().verify({ body }))
    return { id: driver, user: answer.user!, answer }
  }
  /** What the RPS tells of somebody; the ids of those that fleet doesn't know. */
  async happened(...happenings: readonly Omit<Notice, 'id' | 'at'>[]): Promise<readonly string[]> {
    const notices = happenings.map(happening => ({
      id: toBase64Url(this.random(16)),
      at: this.seconds,
      ...happening,
    }))
    return (await this.asRps().authenticated({ body: { notices } })).unknown
  }
  permit(idCore: string, userCore?: string) {
    const user = userCore === undefined ? {} : { userCore }
    return this.asRps().permit({ body: { idCore, slot: this.slot, ...user } })
  }

  #open(): Promise<Store<FleetSchema>> {
    return openDatabase<FleetSchema>({ file: join(this.dataDir, 'fleet.sqlite'), migrations })
  }
  #options() {
    const { config, store, random } = this
    const destination = { write: (line: string) => void this.logLines.push(line) }
    return {
      config,
      passphrase: PASSPHRASE,
      store,
      clock: this.time.clock,
      timers: this.time,
      random,
      keyCheck: this.keyCheck,
      log: createLog('fleet', { level: 'debug', destination }),
    }
  }
  async #run(): Promise<void> {
    this.fleet = await createFleet(this.#options())
    const urls = await this.fleet.start()
    this.setupCode = (await this.fleet.setupCode())?.code ?? this.setupCode
    this.url = urls.url
    this.adminUrl = urls.adminUrl
  }
}

/** Lets promises and sockets run until `condition` holds. */
export async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await condition())) await new Promise(resolve => setImmediate(resolve))
}

export function approved(answer: RegistrationAnswer): Approved {
  if (answer.state !== 'approved') throw new Error(`the registration is ${answer.state}`)
  return answer
}

/** The code of a refusal, with its field if it has one. */
export async function refusal(answer: Promise<unknown>): Promise<string> {
  return answer.then(
    () => 'no refusal',
    (error: unknown) => {
      if (!(error instanceof Refused)) throw error
      return error.field === undefined ? error.code : `${error.code} ${error.field}`
    },
  )
}

export const bytes = (text: string) => fromBase64Url(text, 'bytes')
