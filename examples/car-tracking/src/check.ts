/**
 * The story, played once with real processes over real HTTP: everybody enrols, logs in and reports; PINs lock and
 * unlock; a driver and a car are banned; attackers are refused and named; servers are killed and come back.
 *
 * Each step asserts on what was observed, and reports it as one JSON line. Nothing is mocked: an attacker is a process
 * of its own, or this one holding what an attacker of that kind would hold.
 */
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { TLSSocket } from 'node:tls'
import { fileURLToPath } from 'node:url'
import { type Client, createClient } from '@milagro-ts/api/call'
import { tlsExporter } from '@milagro-ts/api/channel-binding'
import { dtaAdminRoutes, dtaRoutes } from '@milagro-ts/api/dta-routes'
import { generateHpkeKey } from '@milagro-ts/api/keys'
import { type Code, Refused } from '@milagro-ts/api/problem'
import { requestSigner } from '@milagro-ts/api/request-auth'
import { rpaRoutes } from '@milagro-ts/api/rpa-routes'
import { rpsRoutes } from '@milagro-ts/api/rps-routes'
import { type SignedFields, VerifiedMessage } from '@milagro-ts/api/signed-message'
import {
  signPermitStatement,
  signTicket,
  type TicketPayload,
  verifyReceipt,
} from '@milagro-ts/api/statements'
import { systemClock, systemRandom } from '@milagro-ts/api/system'
import { agentFetch, type OnConnections } from '@milagro-ts/client/agent-fetch'
import { Device } from '@milagro-ts/client/device'
import { ClientError } from '@milagro-ts/client/errors'
import type { DeviceOptions } from '@milagro-ts/client/ports'
import { type DeviceRecord, decodeRecords } from '@milagro-ts/client/record'
import { memoryTokenStore, type TokenStore } from '@milagro-ts/client/token-store'
import { fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import { enrolmentKeyHash } from '@milagro-ts/crypto/enrolment'
import { IdCore } from '@milagro-ts/crypto/identity'
import { G1 } from '@milagro-ts/crypto/points'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { sha256 } from '@milagro-ts/crypto/sha256'
import { SUITE } from '@milagro-ts/crypto/suite'
import { Permit, slotAt, slotStart } from '@milagro-ts/crypto/time-permit'
import { TokenKeys } from '@milagro-ts/rpa/token-keys'
import { httpsAgent } from '@milagro-ts/tls/https'
import { connect, secured } from '@milagro-ts/tls/tls'
import { banLimit, CLEAR_FOR_BAN, tooLong } from './ban-limit.js'
import { mosquittoFile } from './broker.js'
import { brokerBehindGateway } from './broker-behind-gateway.js'
import { readNotes } from './car-notes.js'
import { ANSWERS, CALLS, Cars } from './cars.js'
import { Observer, type Seen } from './observer.js'
import { Operator } from './operator.js'
import { peerChannel } from './peer-channel.js'
import { freePorts, ManagedProcess, type ProcessEvent, unlessAborted } from './processes.js'
import { rawProof } from './raw-proof.js'
import { AUTHORITIES, GATEWAY, REPLACEMENT, SERVERS, type ServerName, Servers } from './servers.js'
import { signedOffline } from './signed-offline.js'
import { stolenRequestKey, stolenTicketKey } from './stolen-keys.js'
import { checkBatch, HEAD_CONTEXT, headPayload, trackStart } from './track-chain.js'

/** The car that signs its batches by itself; of the others the RPS gives receipts. */
const SIGNS_ITSELF = 'car-3'
/** Seconds. */
const SLOT = 15
const DELTA = 5
/** Milliseconds after which something hangs: on a busy machine everything takes long. */
const PATIENCE = 120_000
/** Milliseconds before the end of a slot in which nothing begins that a slot's end would disturb. */
const CLEAR = 5_000
/** How often such a thing is tried at most. */
const TRIES = 4
/** Milliseconds for a line that a server wrote before now to get into its log file, on a busy machine too. */
const IN_LOG_WITHIN = 10_000
/** Milliseconds after which a car that goes on without its driver says so: with its next report. */
const SEEN_AFTER = 500
/** PBKDF2 iterations: the story is about strikes, not about the cost of a guess. */
const ITERATIONS = 1_000
const OPERATOR_PIN = '271828'
const ADA = { attributes: { driverName: 'Ada Lovelace' }, pin: '1815' }
const GRACE = { attributes: { driverName: 'Grace Hopper' }, pin: '1906', wrongPin: '1907' }

export interface CheckOptions {
  readonly rpsMain?: string | undefined
  /** Takes one JSON line. */
  readonly say: (line: string) => void
  readonly signal: AbortSignal
}

type Observed = Readonly<Record<string, unknown>>

/** A step saw something else than it should. */
class StepFailed extends Error {
  override readonly name = 'StepFailed'
}

/** In the order in which they are played; a failure is reported under the step's name. */
const STEPS: readonly (readonly [name: string, play: (story: Story) => Promise<Observed>])[] = [
  ['servers-running', serversRunning],
  ['operator-enrolled', operatorEnrolled],
  ['enrolment-by-code', enrolmentByCode],
  ['enrolment-by-approval', enrolmentByApproval],
  ['driver-with-pin', driverWithPin],
  ['login', login],
  ['one-pass', onePass],
  ['positions-stored', positionsStored],
  ['anothers-token', story => story.undisturbed(() => anothersToken(story))],
  ['garbage-permit', story => story.undisturbed(() => garbagePermit(story))],
  ['wrong-pin-locked', wrongPinLocked],
  ['unlocked-by-operator', unlockedByOperator],
  ['driver-banned', driverBanned],
  ['car-banned', carBanned],
  ['signed-offline', signedByProbe],
  ['former-permit', formerPermit],
  ['banned-car-permit', bannedCarPermit],
  ['no-share-for-banned', story => story.undisturbed(() => noShareForBanned(story))],
  ['peer-channel', carsAlone],
  ['unbanned', unbanned],
  ['broker-behind-gateway', positionByBroker],
  ['lying-authority', lyingAuthority],
  ['second-ticket', secondTicket],
  ['relay-swaps-key', relaySwapsKey],
  ['killed-and-restarted', killedAndRestarted],
  ['authority-lost', authorityLost],
  ['authority-replaced', authorityReplaced],
  ['keys-rotated', keysRotated],
  ['car-restarted', carRestarted],
  ['nothing-lost', nothingLost],
]

/** Plays the story; true when every step held. Its last line says so. */
export async function check({ rpsMain, say, signal }: CheckOptions): Promise<boolean> {
  const begin = performance.now()
  const folder = await mkdtemp(join(tmpdir(), 'milagro-check-'))
  const everybody = [...SERVERS, REPLACEMENT, GATEWAY] as const
  const ports = await freePorts(2 * everybody.length + 2)
  const [tls, answering] = ports.slice(-2) as [number, number]
  const portsOf = (name: ServerName) => {
    const at = 2 * everybody.indexOf(name)
    return { public: ports[at] as number, admin: ports[at + 1] as number }
  }
  const servers = new Servers({
    folder,
    ports: {
      'dta-1': portsOf('dta-1'),
      'dta-2': portsOf('dta-2'),
      'dta-3': portsOf('dta-3'),
      'dta-4': portsOf('dta-4'),
      rps: portsOf('rps'),
      fleet: portsOf('fleet'),
      tracking: { ...portsOf('tracking'), tls },
      gateway: portsOf('gateway'),
    },
    slotLength: SLOT,
    grace: 0,
    deltaSeconds: DELTA,
    mosquitto: mosquittoFile(),
    rpsMain,
    clock: systemClock,
    random: systemRandom,
    progress: () => {},
  })
  const cars = new Cars({ folder, servers, answering: { host: '127.0.0.1', port: answering } })
  const story = new Story(folder, servers, cars)
  let playing = 'start'
  let isGreen = false
  try {
    for (const [name, play] of STEPS) {
      playing = name
      story.tries = 1
      const stepBegin = performance.now()
      const observed = await unlessAborted(signal, play(story))
      const milliseconds = Math.round(performance.now() - stepBegin)
      const again = story.tries === 1 ? {} : { tries: story.tries }
      say(JSON.stringify({ event: 'step', name, ...observed, ...again, milliseconds }))
    }
    isGreen = true
    const seconds = Math.round((performance.now() - begin) / 1000)
    say(JSON.stringify({ event: 'check', ok: true, steps: STEPS.length, seconds }))
  } catch (error) {
    say(JSON.stringify({ event: 'check', ok: false, step: playing, why: (error as Error).message }))
  } finally {
    await story.end()
    await rm(folder, { recursive: true, force: true })
  }
  return isGreen
}

/** The cast: servers, cars, the operator, and a vehicle whose device this process plays itself. */
class Story {
  readonly folder: string
  readonly servers: Servers
  readonly cars: Cars
  readonly observer = new Observer()
  /** Processes that end with the story. */
  readonly others: { end(): Promise<void> }[] = []
  /** How often the step that is playing was tried, by `undisturbed`. */
  tries = 1
  /** By the car's name. */
  readonly codes = new Map<string, string>()
  readonly idCores = new Map<string, string>()
  #operator: Operator | undefined
  #probe: Device | undefined
  readonly probeStore: TokenStore = memoryTokenStore()
  /** Of the car that enrolled while one authority was gone. */
  readonly lateStore: TokenStore = memoryTokenStore()
  probeVehicle = 0
  ada = 0
  grace = 0
  driverBan = 0
  carBan = 0
  /** Of the probe, for a slot that has begun before the story's middle. */
  formerPermit: Permit | undefined
  /** The RA's word for car-2, given before its ban. */
  formerStatement = ''

  constructor(folder: string, servers: Servers, cars: Cars) {
    this.folder = folder
    this.servers = servers
    this.cars = cars
  }

  get operator(): Operator {
    return present(this.#operator, 'the operator')
  }
  set operator(operator: Operator) {
    this.#operator = operator
  }
  get probe(): Device {
    return present(this.#probe, 'the probe')
  }
  set probe(probe: Device) {
    this.#probe = probe
  }

  get tracking(): string {
    return this.servers.url('tracking')
  }
  get rps(): Client<typeof rpsRoutes> {
    return createClient(rpsRoutes, { baseUrl: this.servers.url('rps'), fetch: this.observer.fetch })
  }

  deviceOptions(store: TokenStore): DeviceOptions {
    return {
      rps: this.servers.url('rps'),
      store,
      pinCost: { iterations: ITERATIONS, slowDevice: true },
      fetch: this.observer.fetch,
    }
  }

  /** Where the tracking server takes vehicles, and its name in the group. */
  get trackingTls(): { readonly url: string; readonly name: string } {
    return present(this.servers.trackingTls, 'the tracking server’s TLS')
  }

  /** The tracking server over one connection of TLS as a device, and another when it ends. Slots are shorter than the usual warning. */
  over(device: Device, on: OnConnections = {}): typeof fetch {
    const { name: servername } = this.trackingTls
    const agent = httpsAgent(device, { servername, keepAlive: true, maxSockets: 1, warnBefore: 0 })
    return this.observer.over(agentFetch(agent, on))
  }
  /** The probe's proof for the tracking server, bound to this connection of its own. */
  proofOn(socket: TLSSocket): Promise<string> {
    return this.probe.onePass({ audience: this.trackingTls.name, tlsExporter: tlsExporter(socket) })
  }

  /** What was seen of a route, with the process that answered. */
  saw(route: string): Observed {
    return this.asObserved(this.observer.last(route))
  }

  asObserved({ origin, route, status, code }: Seen): Observed {
    const name =
      origin === this.trackingTls.url
        ? 'tracking'
        : ([...SERVERS, REPLACEMENT] as const).find(one => this.servers.url(one) === origin)
    const pid = name === undefined ? undefined : this.servers.process(name).pid
    return { server: name, pid, route, status, ...(code === undefined ? {} : { code }) }
  }

  /** The refusal that `attempt` ends with, as it came over the wire; StepFailed if it succeeds or ends otherwise. */
  async refusal(route: string, code: Code, attempt: () => Promise<unknown>): Promise<Observed> {
    try {
      await attempt()
    } catch (error) {
      if (!(error instanceof Refused)) throw new StepFailed(`${route}: ${(error as Error).message}`)
      const seen = this.observer.last(route)
      if (error.code === code && seen.code === code) return this.asObserved(seen)
      throw new StepFailed(`${route} answered ${seen.status} ${seen.code}, not ${code}`)
    }
    throw new StepFailed(`${route} was not refused: it should have been ${code}`)
  }

  car(name: string): ManagedProcess {
    return present(
      this.cars.all.find(car => car.name === name),
      name,
    )
  }

  /** Starts a car that drives and reports quickly. */
  async drive(name: string, secrets: { driverCode?: string } = {}): Promise<ManagedProcess> {
    const code = this.codes.get(name)
    const withDriver = secrets.driverCode !== undefined
    return this.cars.start(
      {
        name,
        instance: vinOf(name),
        attributes: ATTRIBUTES,
        seed: Number(name.slice(-1)),
        signs: name === SIGNS_ITSELF ? 'itself' : 'rps',
        positionEvery: 200,
        reportEvery: 400,
        slowIterations: ITERATIONS,
        ...(code === undefined ? { groupId: this.servers.groupId } : {}),
        ...(withDriver ? { driver: { attributes: ADA.attributes } } : {}),
      },
      { code, ...(withDriver ? { driverCode: secrets.driverCode, pin: ADA.pin } : {}) },
    )
  }

  /** A car that is on the road, and who it is. */
  onRoad(name: string): { readonly car: ManagedProcess; readonly idCore: string } {
    return { car: this.car(name), idCore: present(this.idCores.get(name), name) }
  }

  /** Starts an attacker's process; its address is what it says when it is ready. */
  async attacker(name: string, file: string, args: readonly string[]): Promise<Attacker> {
    const child = new ManagedProcess({
      name,
      file: fileURLToPath(new URL(file, import.meta.url)),
      args,
      logFile: join(this.folder, 'logs', `${name}.log`),
    })
    this.others.push(child)
    const { url } = await child.ready()
    return { url: url as string, pid: child.pid, end: () => child.end() }
  }

  /** The next event of a car that fits, from `from` on. */
  async told(name: string, event: string, from = 0, fits = (_: ProcessEvent) => true): Promise<ProcessEvent> {
    return this.car(name).waitFor(one => one.event === event && fits(one), {
      from,
      within: PATIENCE,
      what: `'${event}'`,
    })
  }

  /** The record of a car's token store, as a thief of its file would have it. */
  async recordOf(name: string): Promise<DeviceRecord> {
    return onlyRecord(await readFile(join(this.cars.dataDir(name), 'token.json'), 'utf8'))
  }

  async probeRecord(): Promise<DeviceRecord> {
    return onlyRecord(present((await this.probeStore.read()) ?? undefined, 'the probe’s store'))
  }

  /** A login of the probe with this permit, right or wrong. */
  async loginWith(permit: Uint8Array): Promise<unknown> {
    const { rps, servers, tracking: audience } = this
    const record = await this.probeRecord()
    const login = await rawProof({
      rps,
      group: servers.group,
      record,
      audience,
      permit,
      random: systemRandom,
    })
    return rps.login({ body: { login } })
  }

  get slot(): number {
    return slotAt(this.servers.group.slotRule, Math.floor(systemClock() / 1000))
  }

  /** Waits until a slot has begun, everybody's clock being this machine's. */
  async untilSlot(slot: number): Promise<void> {
    const begin = slotStart(this.servers.group.slotRule, slot) * 1000
    await sleep(Math.max(0, begin - systemClock()) + 20)
  }

  /** Waits for the next slot if this one is about to end: what ends with a slot must not be taken for something else. */
  async clearOfSlotEnd(clear = CLEAR): Promise<void> {
    const { slot } = this
    const end = slotStart(this.servers.group.slotRule, slot + 1) * 1000
    if (end - systemClock() < clear) await this.untilSlot(slot + 1)
  }

  /** `play` within one slot and Δ, or again: what a slot's end, or a proof that took too long, does is no finding. */
  async undisturbed<T>(play: () => Promise<T>): Promise<T> {
    for (let tries = 1; ; tries++) {
      this.tries = Math.max(this.tries, tries)
      await this.clearOfSlotEnd()
      const { slot } = this
      const begin = performance.now()
      try {
        return await play()
      } catch (error) {
        const wasDisturbed = this.slot !== slot || performance.now() - begin > DELTA * 1000
        if (!wasDisturbed || tries === TRIES) throw error
      }
    }
  }

  /** @param within Milliseconds. */
  async eventually<T>(
    what: string,
    look: () => Promise<T | undefined>,
    within: number = PATIENCE,
  ): Promise<T> {
    const begin = performance.now()
    for (;;) {
      const found = await look()
      if (found !== undefined) return found
      if (performance.now() - begin > within) throw new StepFailed(`${what}: not within ${within / 1000} s`)
      await sleep(100)
    }
  }

  async end(): Promise<void> {
    this.#operator?.close()
    await Promise.all([this.cars.end(), ...this.others.map(other => other.end())])
    await this.servers.end()
  }
}

interface Attacker {
  readonly url: string
  readonly pid: number
  end(): Promise<void>
}

const ATTRIBUTES = { brand: 'Milagro', model: 'Uno', variant: 'hatchback' }
const vinOf = (name: string) => `VIN-${name.toUpperCase()}`

async function serversRunning(story: Story): Promise<Observed> {
  const { servers } = story
  await servers.start()
  await servers.startBroker()
  const ready = await Promise.all(
    SERVERS.map(name =>
      story.eventually(`${name} is ready`, async () => {
        const response = await fetch(`${servers.adminUrl(name)}/health/ready`)
        return response.status === 200
          ? { server: name, pid: servers.process(name).pid, status: 200 }
          : undefined
      }),
    ),
  )
  expect(new Set(ready.map(({ pid }) => pid)).size === SERVERS.length, 'every server is a process of its own')
  const { n, t, revision } = servers.group
  return { servers: ready, groupId: servers.groupId, n, t, revision }
}

async function operatorEnrolled(story: Story): Promise<Observed> {
  const { servers } = story
  const setup = servers.process('fleet').events.find(({ event }) => event === 'setup-code')
  expect(setup !== undefined, 'fleet prints a setup code at its first start')
  const { operator, code } = setup as unknown as { operator: string; code: string }
  story.operator = await Operator.open({
    ...story.deviceOptions(memoryTokenStore()),
    fleet: servers.url('fleet'),
    tracking: story.tracking,
    pin: OPERATOR_PIN,
    setup: { operator, code },
  })
  const status = await story.operator.fleet.status({})
  expect(status.operator === operator, 'fleet knows the operator')
  return { ...story.saw('GET /v1/status'), operator }
}

async function enrolmentByCode(story: Story): Promise<Observed> {
  const { fleet } = story.operator
  const csv = ['vin,brand,model,variant', ...['car-1', 'car-2', 'probe'].map(csvRow)].join('\n')
  const { vehicles } = await fleet.importVehicles({ body: { csv } })
  for (const name of ['car-1', 'car-2', 'probe']) {
    const made = vehicles.find(({ instance }) => instance === vinOf(name))
    story.codes.set(name, present(made, name).code)
  }
  const { vehicles: listed } = await fleet.listVehicles({ query: { instance: vinOf('car-1') } })
  const assigned = await fleet.assignDriver({
    params: { id: String(present(listed[0], 'car-1').id) },
    body: { attributes: ADA.attributes },
  })
  story.ada = assigned.driver
  await story.drive('car-1', { driverCode: assigned.code.code })
  await story.drive('car-2')
  await story.drive('car-3')
  const enrolled = await Promise.all(['car-1', 'car-2'].map(async name => enrolledCar(story, name)))
  return { ...story.saw('POST /v1/vehicles/import'), cars: enrolled }
}

async function enrolledCar(story: Story, name: string): Promise<Observed> {
  const { idCore, milliseconds } = await story.told(name, 'enrolled')
  story.idCores.set(name, idCore as string)
  return { car: name, pid: story.car(name).pid, idCore, milliseconds }
}

async function enrolmentByApproval(story: Story): Promise<Observed> {
  const { words } = await story.told('car-3', 'words')
  const { fleet } = story.operator
  const waiting = await story.eventually('the registration waits for approval', async () => {
    const { approvals } = await fleet.listApprovals({})
    return approvals.find(({ instance }) => instance === vinOf('car-3'))
  })
  expect(waiting.words === words, `the console shows '${waiting.words}', the car '${words}'`)
  const params = { id: String(waiting.id) }
  const other = (words as string).split(' ').reverse().join(' ')
  const refused = await story.refusal(`POST /v1/approvals/${waiting.id}`, 'NOT_APPROVED', () =>
    fleet.approve({ params, body: { words: other } }),
  )
  await fleet.approve({ params, body: { words: words as string } })
  const car = await enrolledCar(story, 'car-3')
  const [answers, calls] = [story.onRoad(ANSWERS), story.onRoad(CALLS)]
  await story.cars.introduce({ answers: answers.idCore, calls: calls.idCore })
  return { words, otherWords: refused, ...car }
}

async function driverWithPin(story: Story): Promise<Observed> {
  await story.told('car-1', 'driver-enrolled')
  const { fleet } = story.operator
  const { vehicles } = await fleet.listVehicles({ query: { instance: vinOf('car-1') } })
  const detail = await fleet.vehicle({ params: { id: String(present(vehicles[0], 'car-1').id) } })
  const driver = present(
    detail.drivers.find(({ id }) => id === story.ada),
    'Ada in the register',
  )
  expect(driver.userCore !== undefined, 'the register has her userCore')
  return {
    ...story.saw('GET /v1/vehicles/'),
    car: 'car-1',
    userCore: driver.userCore,
    pinGen: driver.issuedPinGen,
  }
}

async function login(story: Story): Promise<Observed> {
  const sessions = await Promise.all(
    ['car-1', 'car-2', 'car-3'].map(async name => {
      const { driver } = await story.told(name, 'logged-in')
      return { car: name, pid: story.car(name).pid, driver }
    }),
  )
  expect(sessions[0]?.driver === true && sessions[1]?.driver === false, 'car-1 has its driver, car-2 none')

  const { fleet } = story.operator
  const { vehicles } = await fleet.listVehicles({ query: { instance: vinOf('probe') } })
  story.probeVehicle = present(vehicles[0], 'the probe in the register').id
  story.probe = await Device.enrol({
    ...story.deviceOptions(story.probeStore),
    code: present(story.codes.get('probe'), 'the probe’s code'),
    instance: vinOf('probe'),
    attributes: ATTRIBUTES,
  })
  const { authenticated } = await story.probe.login({ audience: story.tracking })
  expect(authenticated.idCore === story.probe.mpinId, 'the login is the probe’s')
  story.formerPermit = (await story.probe.permit()).permit

  // Kept for later: what the RA says of car-2 while it is not banned, for the same slot, should another begin just now.
  const { statement } = await (await asRps(story)).rpa.permit({
    body: { idCore: present(story.idCores.get('car-2'), 'car-2'), slot: story.formerPermit.slot },
  })
  story.formerStatement = statement
  return { ...story.saw('POST /v1/logins'), amr: authenticated.amr, cars: sessions }
}

async function onePass(story: Story): Promise<Observed> {
  // For its first Δ seconds the RPS can't speak for what was used before, and takes no proof by time.
  return story.eventually('a one-pass proof to be taken', () => story.undisturbed(() => onePassTwice(story)))
}

/** Undefined where the RPS doesn't take any yet. */
async function onePassTwice(story: Story): Promise<Observed | undefined> {
  let proof: Promise<string> | undefined
  const overTls = story.over(story.probe, {
    authorization: socket => {
      proof ??= story.proofOn(socket)
      return proof
    },
  })
  const end = async () => {
    await overTls(`${story.trackingTls.url}/v1/tracks/end`)
    return story.saw('GET /v1/tracks/end')
  }
  const first = await end()
  if (first.code === 'CLOCK') return undefined
  expect(first.status === 200, `the one-pass proof is ${first.status} ${first.code}`)
  const again = await end()
  expect(again.code === 'REPLAYED', `the same proof again is ${again.status} ${again.code}`)
  const rps = createClient(rpsRoutes, { baseUrl: story.servers.url('rps'), fetch: story.observer.fetch })
  const own = await story.probe.onePass({ audience: story.servers.url('rps') })
  expect((await rps.whoami({ authorization: own })).idCore === story.probe.mpinId, 'whoami names the probe')
  return { ...first, again }
}

async function positionsStored(story: Story): Promise<Observed> {
  const vehicles = await story.eventually('positions of three cars', async () => {
    const { vehicles } = await story.operator.tracking.vehicles({})
    return vehicles.length === 3 && vehicles.every(({ positions }) => positions >= 3) ? vehicles : undefined
  })
  const named = vehicles.map(({ idCore, positions, userCore }) => {
    const [car] = [...story.idCores].find(([, id]) => id === idCore) ?? []
    return { car, positions, driver: userCore !== undefined }
  })
  expect(
    named.every(({ car }) => car !== undefined),
    'every vehicle on the map is one of the cars',
  )
  const anonymous = await story.observer.fetch(`${story.tracking}/v1/vehicles`)
  expect(anonymous.status === 401, 'nobody reads without an operator’s token')
  return { ...story.saw('GET /v1/vehicles'), vehicles: named }
}

/**
 * A login that somebody takes on its way is good on the connection that it is bound to and nowhere else: not on the thief's
 * own, not on another one of the same car. A token is bound to none, and over the public listener no vehicle comes in.
 */
async function anothersToken(story: Story): Promise<Observed> {
  const { trackingTls, tracking: audience, probe } = story
  const thief = await Device.open(story.deviceOptions(await storeOf(story, 'car-3')))
  const end = async (over: typeof fetch, authorization?: string, origin = trackingTls.url) => {
    await over(`${origin}/v1/tracks/end`, authorization === undefined ? {} : { headers: { authorization } })
    return story.saw('GET /v1/tracks/end')
  }
  let channel: TLSSocket | undefined
  const its = story.over(probe, {
    opened: socket => {
      channel = socket
    },
  })
  const nobody = await end(its)
  expect(
    nobody.code === 'UNAUTHENTICATED',
    `before its login a connection is ${nobody.status} ${nobody.code}`,
  )
  const stolen = await story.proofOn(present(channel, 'the probe’s connection'))
  const relayed = await end(story.over(thief), stolen)
  expect(
    relayed.code === 'WRONG_PROOF',
    `the login on another’s connection is ${relayed.status} ${relayed.code}`,
  )
  const moved = await end(story.over(probe), stolen)
  expect(moved.code === 'WRONG_PROOF', `the login on another connection is ${moved.status} ${moved.code}`)
  const own = await end(its, stolen)
  expect(own.status === 200, `the login on its own connection is ${own.status} ${own.code}`)
  const after = await end(its)
  expect(after.status === 200, `the connection that is logged in is ${after.status} ${after.code}`)
  const { accessToken } = await probe.login({ audience })
  const token = await end(its, `Bearer ${accessToken}`)
  expect(token.code === 'UNAUTHENTICATED', `a token is ${token.status} ${token.code}`)
  const withoutTls = await end(story.observer.fetch, `Bearer ${accessToken}`, audience)
  expect(withoutTls.code === 'NOT_FOUND', `without TLS it is ${withoutTls.status} ${withoutTls.code}`)
  return { ...relayed, moved, own, token, withoutTls }
}

async function garbagePermit(story: Story): Promise<Observed> {
  const point = G1.generator.mulSecret(Scalar.random(systemRandom))
  const target = { type: 'id' as const, idCore: story.probe.idCore }
  const garbage = await story.refusal('POST /v1/logins', 'WRONG_PERMIT', () =>
    story.loginWith(Permit.of(story.slot, target, point).encode()),
  )
  const cut = await story.refusal('POST /v1/logins', 'MALFORMED', () => story.loginWith(new Uint8Array(40)))
  return { ...garbage, cut }
}

async function wrongPinLocked(story: Story): Promise<Observed> {
  const { fleet } = story.operator
  const { driver, code } = await fleet.assignDriver({
    params: { id: String(story.probeVehicle) },
    body: { attributes: GRACE.attributes },
  })
  story.grace = driver
  const { probe, tracking: audience } = story
  const user = await probe.enrolUser({ code: code.code, attributes: GRACE.attributes, pin: GRACE.pin })
  const { authenticated } = await probe.login({ audience, user, pin: GRACE.pin })
  expect(authenticated.amr.includes('pin'), 'the right PIN logs in')
  const wrong: Observed[] = []
  for (let attempt = 1; attempt <= 3; attempt++) {
    const login = () => probe.login({ audience, user, pin: GRACE.wrongPin })
    wrong.push(await story.refusal('POST /v1/logins', 'WRONG_PIN', login))
  }
  const locked = await story.refusal('POST /v1/logins', 'LOCKED', () =>
    probe.login({ audience, user, pin: GRACE.pin }),
  )
  const alone = await probe.login({ audience })
  expect(alone.authenticated.amr.length === 1, 'the vehicle alone still logs in')
  return { ...locked, wrong: wrong.map(({ status, code: refused }) => ({ status, code: refused })) }
}

async function unlockedByOperator(story: Story): Promise<Observed> {
  const { operator, probe, tracking: audience } = story
  await operator.fleet.unlock({
    params: { id: String(story.probeVehicle), driver: String(story.grace) },
    body: {},
  })
  const unlock = story.saw('POST /v1/vehicles/')
  const user = GRACE.attributes.driverName
  await story.eventually('the right PIN logs in again', async () => {
    try {
      return await probe.login({ audience, user, pin: GRACE.pin })
    } catch (error) {
      if (error instanceof Refused && error.code === 'LOCKED') return undefined
      throw error
    }
  })
  return { ...story.saw('POST /v1/logins'), unlock }
}

async function driverBanned(story: Story): Promise<Observed> {
  const { operator } = story
  await story.clearOfSlotEnd(CLEAR_FOR_BAN)
  await story.told('car-1', 'stored', story.car('car-1').events.length)
  const from = story.car('car-1').events.length
  const limit = banLimit({ more: SEEN_AFTER })
  const begin = performance.now()
  const ban = await operator.fleet.ban({ body: { driver: story.ada, reason: 'story' } })
  story.driverBan = ban.id
  const posted = story.saw('POST /v1/bans')
  const left = await story.told('car-1', 'driver-left', from)
  const milliseconds = Math.round(performance.now() - begin)
  expect(left.code === 'BANNED', `the driver is refused with ${left.code}`)
  const limits = limit()
  expect(milliseconds <= limits.allowed, `the driver was refused only after ${tooLong(milliseconds, limits)}`)
  const after = story.car('car-1').events.length
  const again = await story.told('car-1', 'logged-in', after - 1)
  expect(again.driver === false, 'the car logs in without its driver')
  const stored = await story.told('car-1', 'stored', after)
  return {
    ...posted,
    ...limits,
    driver: { code: left.code, refusedAfter: milliseconds },
    car: { stored: stored.number },
  }
}

/**
 * In the middle of its streams of positions, by HTTPS and by MQTT: the doors close both connections, and the next position
 * is refused.
 */
async function carBanned(story: Story): Promise<Observed> {
  const { fleet } = story.operator
  const hasBroker = story.servers.mqtt !== undefined
  const car = story.car('car-2')
  const { vehicles } = await fleet.listVehicles({ query: { instance: vinOf('car-2') } })
  await story.clearOfSlotEnd(CLEAR_FOR_BAN)
  await story.told('car-2', 'stored', car.events.length)
  await story.told('car-2', 'stored', car.events.length)
  const opened = car.events.findLastIndex(({ event }) => event === 'connected')
  const sent = car.events.slice(opened)
  const batches = sent.filter(({ event }) => event === 'stored').length
  expect(
    batches > 0 && !sent.some(({ event }) => event === 'disconnected'),
    'the car streams over a connection',
  )
  const ofBroker = ({ event }: ProcessEvent) =>
    event === 'broker-connected' || event === 'broker-disconnected'
  if (hasBroker)
    await story.eventually('the car is connected to the broker', async () =>
      car.events.findLast(ofBroker)?.event === 'broker-connected' ? true : undefined,
    )
  const from = car.events.length
  const limit = banLimit()
  const begin = performance.now()
  const after = async (event: string) => {
    const told = await story.told('car-2', event, from)
    return { told, milliseconds: Math.round(performance.now() - begin) }
  }
  const ban = await fleet.ban({ body: { vehicle: present(vehicles[0], 'car-2').id, reason: 'story' } })
  story.carBan = ban.id
  const posted = story.saw('POST /v1/bans')
  const [ended, { told: refused, milliseconds }, byMqtt] = await Promise.all([
    after('disconnected'),
    after('refused'),
    hasBroker ? after('broker-disconnected') : undefined,
  ])
  const limits = limit()
  const { idCore } = story.onRoad('car-2')
  await closedForBan(story, 'tracking', idCore)
  if (hasBroker) await closedForBan(story, GATEWAY, idCore)
  expect(
    ended.milliseconds <= limits.allowed,
    `the car’s connection ended only after ${tooLong(ended.milliseconds, limits)}`,
  )
  if (byMqtt !== undefined) {
    expect((byMqtt.told.published as number) > 0, 'the car has published over the connection that ended')
    expect(
      byMqtt.milliseconds <= limits.allowed,
      `the car’s connection to the broker ended only after ${tooLong(byMqtt.milliseconds, limits)}`,
    )
  }
  expect(refused.code === 'BANNED', `the next position is refused with ${refused.code}`)
  expect(
    milliseconds <= limits.allowed,
    `the next position was refused only after ${tooLong(milliseconds, limits)}`,
  )
  return {
    ...posted,
    ...limits,
    connection: { batches, endedAfter: ended.milliseconds, car: 'car-2', carPid: car.pid },
    ...(byMqtt === undefined
      ? {}
      : { broker: { published: byMqtt.told.published, endedAfter: byMqtt.milliseconds } }),
    position: { code: refused.code, refusedAfter: milliseconds },
  }
}

/**
 * By its own word it was the door of `server` that closed the connection: this one also ends by itself, with its slot or
 * when no request comes for some seconds.
 */
async function closedForBan(story: Story, server: ServerName, idCore: string): Promise<void> {
  const file = join(story.folder, 'logs', `${server}.log`)
  const word = `"mpinId":"${idCore}","why":"BANNED","msg":"a connection was closed"`
  const look = async () => ((await readFile(file, 'utf8')).includes(word) ? true : undefined)
  await story.eventually(
    `the door of ${server} says that it closed the car’s connection`,
    look,
    IN_LOG_WITHIN,
  )
}

async function signedByProbe(story: Story): Promise<Observed> {
  await story.clearOfSlotEnd()
  return signedOffline(story)
}

async function formerPermit(story: Story): Promise<Observed> {
  const former = present(story.formerPermit, 'the former permit')
  await story.untilSlot(former.slot + 1)
  const expired = await story.refusal('POST /v1/logins', 'PERMIT_EXPIRED', () =>
    story.loginWith(former.encode()),
  )
  const { permit } = await story.probe.permit()
  expect(permit.slot > former.slot, 'the probe gets a permit of the new slot')
  return { ...expired, permitSlot: former.slot, slot: permit.slot }
}

async function bannedCarPermit(story: Story): Promise<Observed> {
  const stored = story.car('car-2').events.findLast(({ event }) => event === 'stored')
  const refused = story.car('car-2').events.findLast(({ event }) => event === 'refused')
  expect(refused?.code === 'BANNED', 'car-2 is still refused')
  const record = await story.recordOf('car-2')
  const { rps, servers } = story
  const proof = { rps, group: servers.group, record, random: systemRandom }
  const permit = await story.refusal('POST /v1/permits', 'BANNED', async () =>
    rps.permit({ body: { login: await rawProof({ ...proof, audience: servers.url('rps') }) } }),
  )
  const login = await story.refusal('POST /v1/logins', 'BANNED', async () =>
    rps.login({ body: { login: await rawProof({ ...proof, audience: story.tracking }) } }),
  )
  await story.clearOfSlotEnd()
  const banned = await Device.open(story.deviceOptions(await storeOf(story, 'car-2')))
  const { url, name } = story.trackingTls
  const { hostname: host, port } = new URL(url)
  const handshake = await turnedAway(banned, { name, host, port: Number(port) })
  const { mqtt } = servers
  const atGateway = mqtt === undefined ? {} : { atGateway: await turnedAway(banned, mqtt) }
  return { ...permit, login, lastStored: stored?.number, handshake, ...atGateway }
}

/** How TLS ends for a banned car; StepFailed where it comes in. */
async function turnedAway(
  identity: Device,
  { name: servername, host, port }: { name: string; host: string; port: number },
): Promise<string> {
  const handshake = await secured(connect({ identity, servername, host, port })).then(
    socket => {
      socket.destroy()
      throw new StepFailed(`the banned car is let in by TLS to ${servername}`)
    },
    (error: NodeJS.ErrnoException) => error.code,
  )
  if (handshake?.startsWith('ERR_SSL_') !== true)
    throw new StepFailed(`the banned car’s handshake with ${servername} ends with ${handshake}`)
  return handshake
}

async function noShareForBanned(story: Story): Promise<Observed> {
  const { rpa, authorities, key } = await asRps(story)
  const { group, groupId } = story.servers
  const idCore = present(story.idCores.get('car-2'), 'car-2')
  const slot = story.slot
  const fromRa = await story.refusal('POST /v1/permit', 'BANNED', () =>
    rpa.permit({ body: { idCore, slot } }),
  )

  const seconds = Math.floor(systemClock() / 1000)
  const forged = await signPermitStatement(
    {
      suite: SUITE,
      groupId,
      keyEpoch: group.epochAt('permit', slot) ?? 0,
      idCore,
      slot,
      banned: false,
      iat: seconds,
      exp: seconds + 60,
      jti: toBase64Url(systemRandom(16)),
    },
    { key, kid: group.raKeys.keys.keys().next().value as string },
  )
  const refusals: Observed[] = []
  for (const authority of authorities) {
    const ask = (statement: string) => () => authority.permits({ params: { groupId }, body: { statement } })
    const route = `POST /v1/groups/${groupId}/permits`
    refusals.push({
      forged: await story.refusal(route, 'NOT_APPROVED', ask(forged)),
      old: await story.refusal(route, 'EXPIRED', ask(story.formerStatement)),
    })
  }
  return { ...fromRa, authorities: refusals }
}

/** Two cars without a server, beside the one that is still banned. */
async function carsAlone(story: Story): Promise<Observed> {
  return peerChannel(story, {
    answers: story.onRoad(ANSWERS),
    calls: story.onRoad(CALLS),
    banned: await storeOf(story, 'car-2'),
  })
}

async function unbanned(story: Story): Promise<Observed> {
  const { fleet } = story.operator
  const from = story.car('car-2').events.length
  await fleet.unban({ params: { id: String(story.carBan) } })
  const lifted = story.saw('DELETE /v1/bans/')
  const stored = await story.told('car-2', 'stored', from)
  await fleet.unban({ params: { id: String(story.driverBan) } })
  return { ...lifted, car: { name: 'car-2', pid: story.car('car-2').pid, stored: stored.number } }
}

/** The cars' positions by MQTT, at a broker that knows nothing of the group. */
async function positionByBroker(story: Story): Promise<Observed> {
  return brokerBehindGateway(
    story,
    ['car-1', 'car-2', 'car-3'].map(name => story.onRoad(name)),
  )
}

async function lyingAuthority(story: Story): Promise<Observed> {
  const { servers, operator } = story
  const { code } = await addVehicle(story, 'probe-2')
  const [moved] = await freePorts(1)
  // Two of three make a key, so a lie costs nothing unless one of the others has frozen the group.
  const admin = await adminOf(story, 'dta-2')
  const params = { groupId: servers.groupId }
  await admin.freeze({ params, body: {} })
  await servers.process('dta-3').end()
  await servers.startOne('dta-3', { port: moved as number })
  const liar = await story.attacker('liar', 'liar-main.js', [
    '--port',
    new URL(servers.url('dta-3')).port,
    '--target',
    `http://127.0.0.1:${moved}`,
  ])
  const store = memoryTokenStore()
  const enrol = () =>
    Device.enrol({ ...story.deviceOptions(store), code, instance: vinOf('probe-2'), attributes: ATTRIBUTES })
  const named = await enrol().then(
    () => {
      throw new StepFailed('the device took a key that an authority lied about')
    },
    (error: unknown) => {
      if (error instanceof ClientError && error.code === 'WRONG_SHARE') return error
      throw error
    },
  )
  const names = named.authorities.map(({ name }) => name)
  expect(names.length === 1 && names[0] === 'dta-3', `the device names ${names.join(', ') || 'nobody'}`)
  await liar.end()
  await servers.process('dta-3').end()
  await servers.startOne('dta-3')
  const device = await enrol()
  await device.login({ audience: story.tracking })
  const { vehicles } = await operator.fleet.listVehicles({ query: { instance: vinOf('probe-2') } })
  expect(vehicles[0]?.idCore === device.mpinId, 'the same enrolment ends well with two true authorities')
  await admin.unfreeze({ params, body: {} })
  return { ...story.saw('POST /v1/logins'), liar: { pid: liar.pid, code: named.code, named: names } }
}

async function secondTicket(story: Story): Promise<Observed> {
  const { servers, folder } = story
  const signer = await stolenTicketKey(folder)
  const { group, groupId } = servers
  const { publicKey } = await generateHpkeKey(systemRandom)
  const keyEpochs = { device: group.keys('device').epoch }
  const ticket = await signTicket(ticketPayload(groupId, keyEpochs, story.probe.mpinId, publicKey), signer)
  const authorities = await Promise.all(
    AUTHORITIES.map(async name => {
      const observer = new Observer()
      const client = createClient(dtaRoutes, { baseUrl: servers.url(name), fetch: observer.fetch })
      const body = { ticket: [ticket], purpose: 'device' as const }
      const code = await client.shares({ params: { groupId }, body }).then(
        () => 'a share',
        (error: unknown) => (error instanceof Refused ? error.code : String(error)),
      )
      // One that wasn't needed for the first key may not know of it; alone it makes nobody a key.
      expect(code === 'ALREADY_ISSUED' || code === 'a share', `${name} answers ${code}, not ALREADY_ISSUED`)
      const { groups } = await (await adminOf(story, name)).status({})
      const alarms = groups.find(one => one.groupId === groupId)?.alarms ?? 0
      expect(code === 'a share' || alarms >= 1, `${name} raises the alarm`)
      const { route, status } = observer.last('POST ')
      return { server: name, pid: servers.process(name).pid, route, status, code, alarms }
    }),
  )
  const refused = authorities.filter(({ code }) => code === 'ALREADY_ISSUED')
  expect(refused.length >= group.t, `only ${refused.length} authorities refuse a second ticket`)
  return { authorities }
}

/** What a thief of the RA's key would sign: an identity that is there, for an enrolment key of his own. */
function ticketPayload(
  groupId: string,
  keyEpochs: { device: number },
  idCore: string,
  enrolmentKey: Uint8Array,
): TicketPayload {
  const seconds = Math.floor(systemClock() / 1000)
  return {
    suite: SUITE,
    groupId,
    keyEpochs,
    idCore,
    purposes: ['device'],
    hpkeKey: toBase64Url(enrolmentKey),
    hpkeKeyHash: toBase64Url(enrolmentKeyHash(enrolmentKey)),
    iat: seconds,
    exp: seconds + 60,
    jti: toBase64Url(systemRandom(16)),
  }
}

async function relaySwapsKey(story: Story): Promise<Observed> {
  const relay = await story.attacker('relay', 'relay-main.js', ['--target', story.servers.url('rps')])
  const { code } = await addVehicle(story, 'probe-3')
  const store = memoryTokenStore()
  const through = { ...story.deviceOptions(store), rps: relay.url, rpsAudience: story.servers.url('rps') }
  const vehicle = { instance: vinOf('probe-3'), attributes: ATTRIBUTES }
  const byCode = await story.refusal('POST /v1/registrations', 'NOT_APPROVED', () =>
    Device.enrol({ ...through, code, ...vehicle }),
  )

  // By hand the words give the relay away: the console shows those of the relay's key.
  const { fleet } = story.operator
  const byWords = { instance: vinOf('probe-4'), attributes: ATTRIBUTES, groupId: story.servers.groupId }
  let shown = ''
  const waiting = Device.enrol({
    ...through,
    ...byWords,
    store: memoryTokenStore(),
    patience: 0,
    onWords: words => {
      shown = words
    },
  }).then(
    () => 'an identity',
    (error: unknown) => (error instanceof ClientError ? error.code : String(error)),
  )
  expect((await waiting) === 'STILL_PENDING', 'the registration through the relay waits')
  const { approvals } = await fleet.listApprovals({})
  const entry = present(
    approvals.find(({ instance }) => instance === vinOf('probe-4')),
    'the registration on the console',
  )
  expect(entry.words !== shown, 'the words on the console are not the device’s')
  const params = { id: String(entry.id) }
  const approved = await story.refusal(`POST /v1/approvals/${entry.id}`, 'NOT_APPROVED', () =>
    fleet.approve({ params, body: { words: shown } }),
  )
  await fleet.refuse({ params, body: {} })
  await relay.end()

  const device = await Device.enrol({ ...story.deviceOptions(store), code, ...vehicle })
  return { ...byCode, relay: { pid: relay.pid }, byHand: approved, direct: device.mpinId }
}

async function killedAndRestarted(story: Story): Promise<Observed> {
  const { servers } = story
  const names = ['car-1', 'car-2', 'car-3']
  const before = names.map(name => ({ name, pid: story.car(name).pid, from: story.car(name).events.length }))
  const killed = (['rps', 'dta-2'] as const).map(name => {
    const { pid } = servers.process(name)
    servers.process(name).kill('SIGKILL')
    return { server: name, pid }
  })
  const ended = await Promise.all(killed.map(({ server }) => servers.process(server).ended))
  expect(
    ended.every(how => how === 'SIGKILL'),
    'both were killed',
  )
  // Whose connection wasn't logged in yet hears it from the tracking server.
  const isMet = ({ event, code }: ProcessEvent) => event === 'trouble' || code === 'RETRY_LATER'
  await Promise.all(
    before.map(({ name, from }) =>
      story.car(name).waitFor(isMet, { from, within: PATIENCE, what: '‘trouble’ or RETRY_LATER' }),
    ),
  )
  const [rps, dta] = await Promise.all([servers.startOne('rps'), servers.startOne('dta-2')])
  const again = before.map(({ name }) => story.car(name).events.length)
  const cars = await Promise.all(
    before.map(async ({ name, pid, from }, at) => {
      const stored = await story.told(name, 'stored', again[at])
      const car = story.car(name)
      expect(car.running && car.pid === pid, `${name} has gone on running`)
      expect(
        !car.events.slice(from).some(({ event }) => event === 'enrolled'),
        `${name} has not enrolled again`,
      )
      return { car: name, pid, stored: stored.number }
    }),
  )
  return {
    killed,
    restarted: [
      { server: 'rps', pid: rps.pid },
      { server: 'dta-2', pid: dta.pid },
    ],
    cars,
  }
}

/** One of three is gone for good: a new car enrols and logs in with the two that are left. */
async function authorityLost(story: Story): Promise<Observed> {
  const { servers } = story
  const { pid } = servers.process('dta-1')
  servers.process('dta-1').kill('SIGKILL')
  await servers.process('dta-1').ended
  const { code } = await addVehicle(story, 'probe-5')
  const device = await Device.enrol({
    ...story.deviceOptions(story.lateStore),
    code,
    instance: vinOf('probe-5'),
    attributes: ATTRIBUTES,
  })
  await device.login({ audience: story.tracking })
  return { ...story.saw('POST /v1/logins'), killed: { server: 'dta-1', pid }, enrolled: device.mpinId }
}

/**
 * The two hand the secrets on to a third: keys that were issued before stay good, new ones are made by others, and the
 * new authority knows whom keys went to before its time.
 */
async function authorityReplaced(story: Story): Promise<Observed> {
  const { servers } = story
  const before = servers.group
  const after = await servers.replaceAuthority('dta-1')
  const names = after.authorities.map(({ name }) => name)
  expect(after.keys('device').ivk.equals(before.keys('device').ivk), 'the group’s key is the same')
  expect(!names.includes('dta-1') && names.includes(REPLACEMENT), `the members are ${names.join(', ')}`)

  const late = await Device.open(story.deviceOptions(story.lateStore))
  const signer = await stolenTicketKey(story.folder)
  const { publicKey } = await generateHpkeKey(systemRandom)
  const keyEpochs = { device: after.keys('device').epoch }
  const ticket = await signTicket(ticketPayload(servers.groupId, keyEpochs, late.mpinId, publicKey), signer)
  const newcomer = createClient(dtaRoutes, { baseUrl: servers.url(REPLACEMENT), fetch: story.observer.fetch })
  const params = { groupId: servers.groupId }
  const clone = await story.refusal(`POST /v1/groups/${servers.groupId}/shares`, 'ALREADY_ISSUED', () =>
    newcomer.shares({ params, body: { ticket: [ticket], purpose: 'device' } }),
  )

  // With only the new authority and one of the old ones: a car enrols, one from before logs in.
  await servers.process('dta-2').end()
  const { code } = await addVehicle(story, 'probe-6')
  const store = memoryTokenStore()
  const fresh = await Device.enrol({
    ...story.deviceOptions(store),
    code,
    instance: vinOf('probe-6'),
    attributes: ATTRIBUTES,
  })
  await fresh.login({ audience: story.tracking })
  await late.login({ audience: story.tracking })
  const login = story.saw('POST /v1/logins')
  const { fleet } = story.operator
  const { vehicles } = await fleet.listVehicles({ query: { instance: vinOf('probe-6') } })
  await fleet.ban({ body: { vehicle: present(vehicles[0], 'probe-6').id, reason: 'story' } })
  const banned = await story.refusal('POST /v1/logins', 'BANNED', () =>
    fresh.login({ audience: story.tracking }),
  )
  await servers.startOne('dta-2')
  return { ...login, revision: after.revision, shareEpoch: after.shareEpoch, members: names, clone, banned }
}

/**
 * All keys are replaced by others. Cars that drive fetch their step ahead and go over by themselves, a driver keeps the PIN, a key of before opens
 * nothing any more, nobody gets a second one in the new key epoch, and a ban is a ban.
 */
async function keysRotated(story: Story): Promise<Observed> {
  const { servers, probe, tracking: audience } = story
  const former = await story.probeRecord()
  // At a slot's begin: authorities sign only while the new keys' first slot is more than the lead away.
  await story.untilSlot(story.slot + 1)
  const group = await servers.rotateKeys()
  const { epoch, firstSlot } = group.keys('device')
  expect(epoch === 2 && firstSlot > story.slot, `key epoch ${epoch} begins with slot ${firstSlot}`)
  await probe.login({ audience })
  expect((await story.probeRecord()).device?.keyEpoch === 1, 'until then the keys that are there serve')
  const driving = ['car-1', 'car-2', 'car-3']
  const ahead = await aheadOf(story, driving, { epoch, firstSlot })
  // Which moment a car draws is its own, and a machine that is busy may be late for one of them.
  expect(ahead.length > 0, 'no car has fetched the step to the new keys before their first slot')
  await story.untilSlot(firstSlot)

  const cars = await Promise.all(
    driving.map(async name => {
      const from = story.car(name).events.length
      await story.told(name, 'stored', from)
      const keyEpoch = await story.eventually(`${name} goes over`, async () => {
        const { device } = await story.recordOf(name)
        return device?.keyEpoch === epoch ? device.keyEpoch : undefined
      })
      expect(
        !story
          .car(name)
          .events.slice(from)
          .some(({ event }) => event === 'enrolled'),
        `${name} has not enrolled again`,
      )
      return { car: name, pid: story.car(name).pid, keyEpoch }
    }),
  )
  const user = GRACE.attributes.driverName
  await probe.login({ audience, user, pin: GRACE.pin })
  const login = story.saw('POST /v1/logins')
  const rotation = story.saw('POST /v1/key-rotations')
  const { device, users } = await story.probeRecord()
  expect(
    device?.keyEpoch === 2 && users[0]?.token.keyEpoch === 2,
    'the probe’s key and token are the new ones',
  )

  const thief = { rps: story.rps, group, record: former, audience, random: systemRandom }
  const old = await story.refusal('POST /v1/logins', 'WRONG_PROOF', async () =>
    story.rps.login({ body: { login: await rawProof(thief) } }),
  )
  const signer = await stolenTicketKey(story.folder)
  const { publicKey } = await generateHpkeKey(systemRandom)
  const ticket = await signTicket(
    ticketPayload(servers.groupId, { device: epoch }, probe.mpinId, publicKey),
    signer,
  )
  const codes = await Promise.all(
    group.authorities.map(async ({ url }) => {
      const authority = createClient(dtaRoutes, { baseUrl: url, fetch: story.observer.fetch })
      const body = { ticket: [ticket], purpose: 'device' as const }
      return authority.shares({ params: { groupId: servers.groupId }, body }).then(
        () => 'a share',
        (error: unknown) => (error instanceof Refused ? error.code : String(error)),
      )
    }),
  )
  const refused = codes.filter(code => code === 'ALREADY_ISSUED').length
  expect(refused >= group.t, `only ${refused} authorities refuse a second key in the new key epoch`)

  const { fleet } = story.operator
  const { vehicles } = await fleet.listVehicles({ query: { instance: vinOf('probe') } })
  const ban = await fleet.ban({ body: { vehicle: present(vehicles[0], 'the probe').id, reason: 'story' } })
  const banned = await story.refusal('POST /v1/logins', 'BANNED', () => probe.login({ audience }))
  await fleet.unban({ params: { id: String(ban.id) } })
  await story.eventually('the probe logs in again', () =>
    probe.login({ audience }).then(
      () => true,
      () => undefined,
    ),
  )
  return {
    ...login,
    revision: group.revision,
    keyEpoch: epoch,
    firstSlot,
    rotation,
    ahead,
    cars,
    old,
    clone: codes,
    banned,
  }
}

/** Cars that hold the step to a key epoch, seen in their token stores until its first slot begins. */
async function aheadOf(
  story: Story,
  cars: readonly string[],
  { epoch, firstSlot }: { epoch: number; firstSlot: number },
): Promise<string[]> {
  const ahead = new Set<string>()
  while (story.slot < firstSlot && ahead.size < cars.length) {
    for (const name of cars) {
      const { device } = await story.recordOf(name)
      if (device?.ahead?.to === epoch) ahead.add(name)
    }
    await sleep(250)
  }
  return [...ahead]
}

async function carRestarted(story: Story): Promise<Observed> {
  const before = story.car('car-3')
  await before.end()
  const after = await story.drive('car-3')
  const { idCore } = await story.told('car-3', 'enrolled')
  expect(idCore === story.idCores.get('car-3'), 'the car has the identity that it had')
  expect(!after.events.some(({ event }) => event === 'words'), 'nobody had to approve again')
  const stored = await story.told('car-3', 'stored')
  return { car: 'car-3', formerPid: before.pid, pid: after.pid, stored: stored.number }
}

async function nothingLost(story: Story): Promise<Observed> {
  await story.cars.end()
  const { servers, operator } = story
  const keys = new TokenKeys({ rps: story.rps, clock: systemClock })
  const cars: Observed[] = []
  for (const name of ['car-1', 'car-2', 'car-3']) {
    const notes = present(
      (await readNotes(join(story.cars.dataDir(name), 'track.json'))) ?? undefined,
      `${name}’s notes`,
    )
    const idCore = IdCore.fromBase64Url(notes.idCore)
    let end = trackStart(servers.group.groupId, idCore.bytes)
    let positions = 0
    let signedItself = 0
    for (let from: number | undefined = 1; from !== undefined; ) {
      const page: Awaited<ReturnType<typeof operator.tracking.track>> = await operator.tracking.track({
        params: { idCore: notes.idCore },
        query: { from: String(from) },
      })
      for (const stored of page.batches) {
        const head = fromBase64Url(stored.head, 'head', 32)
        const after = checkBatch(idCore.bytes, end, { ...stored, previous: end.head, head })
        if (typeof after === 'string')
          throw new StepFailed(`${name}’s track breaks at batch ${stored.number}: ${after}`)
        const signer = await signerOf(stored, headPayload(stored.number, head), servers, keys)
        expect(signer === notes.idCore, `${name} signed batch ${stored.number}`)
        if (stored.signed !== undefined) signedItself++
        positions += stored.positions.length
        end = after
      }
      from = page.more
    }
    // The last batch may be stored although its answer came too late for the car's notes.
    const isStored = notes.unanswered !== undefined && notes.unanswered.number < end.next
    const unsent = notes.waiting.length + (isStored ? 0 : (notes.unanswered?.positions.length ?? 0))
    expect(
      positions + unsent === notes.taken,
      `${name} took ${notes.taken}, stored ${positions}, still holds ${unsent}`,
    )
    const batches = end.next - 1
    expect(
      signedItself === (name === SIGNS_ITSELF ? batches : 0),
      `${name} has the signatures that it is to have`,
    )
    cars.push({ car: name, batches, signedItself, positions, unsent, taken: notes.taken })
  }
  return { ...story.saw('GET /v1/jwks'), cars }
}

/** Who stands behind a batch's head: by the RPS' receipt, or by the car's own signature as it held when it came. */
async function signerOf(
  { receipt, signed, receivedAt }: { receipt?: string; signed?: SignedFields; receivedAt: number },
  payload: Uint8Array,
  servers: Servers,
  keys: TokenKeys,
): Promise<string | null> {
  if (receipt === undefined) {
    const claim = { message: payload, signed, group: servers.group, context: HEAD_CONTEXT, now: receivedAt }
    return VerifiedMessage.verify(claim).idCore.mpinId
  }
  const issuer = servers.url('rps')
  const verified = await verifyReceipt({ receipt, keys: await keys.forToken(receipt), issuer })
  return verified.payloadHash === toBase64Url(sha256(payload)) ? verified.sub : null
}

/** This process with the RPS' request key: what its thief could ask of the RA and of the authorities. */
async function asRps(story: Story) {
  const { servers, observer, folder } = story
  const key = await stolenRequestKey(folder)
  const authorize = requestSigner({ name: 'rps', key, clock: systemClock, random: systemRandom })
  const { fetch } = observer
  return {
    key,
    rpa: createClient(rpaRoutes, { baseUrl: servers.url('fleet'), fetch, authorize }),
    authorities: AUTHORITIES.map(name =>
      createClient(dtaRoutes, { baseUrl: servers.url(name), fetch, authorize }),
    ),
  }
}

/** What an authority's operator can do. */
async function adminOf({ servers }: Story, name: ServerName): Promise<Client<typeof dtaAdminRoutes>> {
  const token = (await readFile(join(servers.dataDir(name), 'admin-token'), 'utf8')).trim()
  const baseUrl = servers.adminUrl(name)
  return createClient(dtaAdminRoutes, { baseUrl, authorize: async () => `Bearer ${token}` })
}

async function addVehicle(story: Story, name: string): Promise<{ code: string }> {
  const { code } = await story.operator.fleet.addVehicle({
    body: { instance: vinOf(name), attributes: ATTRIBUTES, withCode: true },
  })
  return present(code, `a code for ${name}`)
}

function csvRow(name: string): string {
  return [vinOf(name), ATTRIBUTES.brand, ATTRIBUTES.model, ATTRIBUTES.variant].join(',')
}

function expect(holds: boolean, what: string): void {
  if (!holds) throw new StepFailed(what)
}

/** What a thief of a car's file would hold. */
async function storeOf(story: Story, name: string): Promise<TokenStore> {
  const text = await readFile(join(story.cars.dataDir(name), 'token.json'), 'utf8')
  const store = memoryTokenStore()
  expect(await store.replace(null, text), 'the thief has a copy')
  return store
}

/** These stores hold one identity each. */
function onlyRecord(text: string): DeviceRecord {
  return present(decodeRecords(text)[0], 'the identity in the token store')
}

function present<T>(value: T | undefined, what: string): T {
  if (value === undefined) throw new StepFailed(`${what} is missing`)
  return value
}
