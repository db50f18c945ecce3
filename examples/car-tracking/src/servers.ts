/**
 * The servers of the example and how they come to be: settings and passphrases in one folder, keys, the group, and
 * then six processes.
 *
 *   folder/
 *     <server>.json, <server>.passphrase (0600)      settings; opens what is sealed in <server>/
 *     <server>/                                      its data: keys.sealed, database, admin-token
 *     group.json                                     the group document; its hash is the pinned groupId
 *     logs/<server>.log
 *
 *   every server: --init → public keys → proposal → D-TAs running, their operator accepts it → ceremony → group.json
 *   → RPS, fleet, tracking server; and where there is mosquitto, the broker and the gateway in front of it
 */
import { existsSync } from 'node:fs'
import { mkdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { createClient } from '@milagro-ts/api/call'
import { Ceremony, type CeremonyProposal } from '@milagro-ts/api/ceremony'
import { ceremonyRun } from '@milagro-ts/api/ceremony-run'
import { dtaAdminRoutes, dtaRoutes } from '@milagro-ts/api/dta-routes'
import { fingerprint, Group } from '@milagro-ts/api/group'
import type { GroupProposal } from '@milagro-ts/api/group-document'
import { rpsRoutes } from '@milagro-ts/api/rps-routes'
import { foundingProposal, reshareProposal, rotateProposal } from '@milagro-ts/cli/ceremony-plan'
import { programFile } from '@milagro-ts/cli/programs'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { relaxedSimdFlags } from '@milagro-ts/crypto/fma-kernels'
import type { Clock, Random } from '@milagro-ts/crypto/ports'
import { writeFileAtomic } from '@milagro-ts/store/sealed-file'
import { NO_TICKETS } from '@milagro-ts/tls/tickets'
import { BROKER, type BrokerSocket, brokerProcess, brokerSocket, endBroker } from './broker.js'
import type { GatewayAddress } from './live-positions.js'
import {
  ManagedProcess,
  type ProcessEvent,
  ProcessFailure,
  type ProcessOptions,
  runToEnd,
} from './processes.js'

export const AUTHORITIES = ['dta-1', 'dta-2', 'dta-3'] as const
export const SERVERS = [...AUTHORITIES, 'rps', 'fleet', 'tracking'] as const
/** Takes the place of an authority that is gone for good. */
export const REPLACEMENT = 'dta-4'
/** In front of an MQTT broker, where one is shown: a server of the group as well. */
export const GATEWAY = 'gateway'
export type ServerName = (typeof SERVERS)[number] | typeof REPLACEMENT | typeof GATEWAY
/** Authorities that make a key: any two of the three. */
const T = 2

export interface Ports {
  readonly public: number
  readonly admin: number
  /** Of the tracking server alone: where vehicles come in by TLS. */
  readonly tls?: number
}
export interface ServersOptions {
  readonly folder: string
  /** The replacement's only where one may be needed, the gateway's only where the group is to have one. */
  readonly ports: Readonly<Record<(typeof SERVERS)[number], Ports> & Partial<Record<ServerName, Ports>>>
  /** Seconds. */
  readonly slotLength: number
  readonly grace: number
  /** Seconds that a one-pass clientTime may differ; for so long after its first start the RPS takes none. */
  readonly deltaSeconds: number
  /** mosquitto's program: the broker behind the gateway. Without it there is neither. */
  readonly mosquitto?: string | undefined
  /** Another program in the RPS' place. */
  readonly rpsMain?: string | undefined
  readonly clock: Clock
  readonly random: Random
  /** Told what is being done, in words. */
  readonly progress: (step: string) => void
}

const ENVIRONMENT: Readonly<Record<ServerName, string>> = {
  'dta-1': 'MILAGRO_DTA_PASSPHRASE_FILE',
  'dta-2': 'MILAGRO_DTA_PASSPHRASE_FILE',
  'dta-3': 'MILAGRO_DTA_PASSPHRASE_FILE',
  'dta-4': 'MILAGRO_DTA_PASSPHRASE_FILE',
  rps: 'MILAGRO_RPS_PASSPHRASE_FILE',
  fleet: 'MILAGRO_FLEET_PASSPHRASE_FILE',
  tracking: 'MILAGRO_TRACKING_PASSPHRASE_FILE',
  gateway: 'MILAGRO_GATEWAY_PASSPHRASE_FILE',
}

/** The live map, as built: a part of fleet's console. */
const MAP = fileURLToPath(new URL('../dist/map/', import.meta.url))

export class Servers {
  readonly #options: ServersOptions
  readonly #running = new Map<ServerName, ManagedProcess>()
  #broker: ManagedProcess | undefined
  #socket: BrokerSocket | undefined
  #group: Group | undefined
  #isEnding = false

  constructor(options: ServersOptions) {
    this.#options = options
  }

  /** Origin of a server's public listener. */
  url(name: ServerName): string {
    return `http://127.0.0.1:${this.#portsOf(name).public}`
  }
  adminUrl(name: ServerName): string {
    return `http://127.0.0.1:${this.#portsOf(name).admin}`
  }
  /** Where the tracking server takes vehicles by TLS, and its name, for which they log in there; undefined: over its public listener. */
  get trackingTls(): { readonly url: string; readonly name: string } | undefined {
    const { tls } = this.#portsOf('tracking')
    return tls === undefined ? undefined : { url: `https://127.0.0.1:${tls}`, name: 'tracking' }
  }
  /** Why there is no broker; undefined: there is one. A group that was founded without a gateway goes on without one. */
  get mqttLeftOut(): string | undefined {
    if (this.#options.mosquitto === undefined) return 'there is no mosquitto on this machine'
    if (this.group.recipient(GATEWAY) === undefined)
      return 'the group was founded without a gateway (--fresh starts over)'
    return undefined
  }
  /** Where cars reach the broker; undefined: there is none. */
  get mqtt(): GatewayAddress | undefined {
    if (this.mqttLeftOut !== undefined) return undefined
    return { host: '127.0.0.1', port: this.#portsOf(GATEWAY).public, name: GATEWAY }
  }
  /** Behind the gateway; undefined: none was started. */
  get broker(): ManagedProcess | undefined {
    return this.#broker
  }
  /** Where the broker listens: for its gateway, and for this user's programs that subscribe. */
  get brokerSocket(): string {
    if (this.#socket === undefined)
      throw new TypeError('the broker’s socket has its place once start() is called')
    return this.#socket.path
  }
  /** Every process that was started last under its name. */
  get all(): readonly ManagedProcess[] {
    return [...this.#running.values(), ...(this.#broker === undefined ? [] : [this.#broker])]
  }
  dataDir(name: ServerName): string {
    return this.#path(name)
  }
  get group(): Group {
    if (this.#group === undefined) throw new TypeError('the group is there once the servers have started')
    return this.#group
  }
  get groupId(): string {
    return toBase64Url(this.group.groupId)
  }
  process(name: ServerName): ManagedProcess {
    const found = this.#running.get(name)
    if (found === undefined) throw new TypeError(`${name} has not been started`)
    return found
  }

  /** Starts everything; makes what isn't there yet. ProcessFailure, Refused or Unreachable name who failed. */
  async start(): Promise<void> {
    await mkdir(this.#path('logs'), { recursive: true, mode: 0o700 })
    if (this.#options.ports.gateway !== undefined && this.#options.mosquitto !== undefined)
      await this.#placeSocket()
    await Promise.all(this.#withKeys.map(name => this.#passphrase(name)))
    const isNew = !existsSync(this.#path('group.json'))
    if (isNew) await this.#foundGroup()
    this.#group = await Group.verifyFile(JSON.parse(await readFile(this.#path('group.json'), 'utf8')))
    this.#options.progress(`group ${fingerprint(this.#group.groupId)}`)
    await this.#startAll(SERVERS.filter(name => !this.#running.has(name)))
  }

  /** The broker and its gateway, where there is to be one; not before the authorities run, who give the gateway its keys. */
  async startBroker(): Promise<void> {
    const { mosquitto, folder, progress } = this.#options
    if (mosquitto === undefined || this.mqtt === undefined || this.#socket === undefined) return
    progress(`starting ${BROKER}, ${GATEWAY}`)
    const options = await brokerProcess(folder, mosquitto, this.#socket)
    if (this.#isEnding) throw new ProcessFailure(`${BROKER} is not started any more`)
    this.#broker = new ManagedProcess(options)
    await Promise.all([this.#broker.ready(), this.startOne(GATEWAY)])
  }

  /** Starts one server and waits until it is ready; `port` puts it behind another than its published one. */
  async startOne(name: ServerName, { port }: { port?: number } = {}): Promise<ManagedProcess> {
    await this.#settings(name, port)
    if (this.#isEnding) throw new ProcessFailure(`${name} is not started any more`)
    const child = new ManagedProcess(this.#processOptions(name, []))
    this.#running.set(name, child)
    await child.ready()
    return child
  }

  /** Ends everything in an order in which nobody misses anybody: who asks first, who is asked last. */
  async end(): Promise<void> {
    this.#isEnding = true
    const services = [GATEWAY, 'tracking', 'fleet', 'rps'] as const
    await Promise.all(services.map(name => this.#running.get(name)?.end()))
    if (this.#broker !== undefined) await endBroker(this.#broker)
    await this.#socket?.remove()
    await Promise.all(([...AUTHORITIES, REPLACEMENT] as const).map(name => this.#running.get(name)?.end()))
  }

  async #placeSocket(): Promise<void> {
    const socket = await brokerSocket(this.#options.folder)
    this.#socket = socket
    if (!this.#isEnding) return
    await socket.remove()
    throw new ProcessFailure(`${BROKER} is not started any more`)
  }

  async #startAll(names: readonly ServerName[]): Promise<void> {
    this.#options.progress(`starting ${names.join(', ')}`)
    await Promise.all(names.map(name => this.startOne(name)))
  }

  async #foundGroup(): Promise<void> {
    const { progress, clock, random, slotLength, grace } = this.#options
    progress('making keys')
    const names = this.#withKeys
    await Promise.all(names.map(name => this.#settings(name)))
    const said = await Promise.all(names.map(name => runToEnd(this.#processOptions(name, ['--init']))))
    const made = (name: ServerName) => initialised(name, said[names.indexOf(name)] ?? [])
    const [rps, fleet] = [made('rps'), made('fleet')]
    await this.#startAll(AUTHORITIES)
    progress('founding the group, 2 of 3, in a ceremony')
    const recipient = ({ name, requestKey, hpkeKey }: Initialised, purposes: Purposes) => {
      return { name, kind: 2, generation: 1, purposes, hpkeKey, requestKey }
    }
    const proposal = await foundingProposal(
      {
        authorities: AUTHORITIES.map(name => this.url(name)),
        t: T,
        ra: { m: 1, keys: [...fleet.raKeys] },
        recipients: [
          recipient(rps, ['device', 'pin']),
          recipient(fleet, ['agree']),
          recipient(made('tracking'), ['agree']),
          ...(names.includes(GATEWAY) ? [recipient(made(GATEWAY), ['agree'])] : []),
        ],
        slot: { length: slotLength },
        policy: { lead: 1, grace },
      },
      { fetch, clock, random },
    )
    await this.#writeGroup(await this.#ceremony(proposal, AUTHORITIES))
  }

  /**
   * One authority is gone for good: the others hand the group's secrets on to themselves and to a new one, and tell the
   * RPS. No device is touched.
   */
  async replaceAuthority(gone: (typeof AUTHORITIES)[number]): Promise<Group> {
    const others = AUTHORITIES.filter(name => name !== gone)
    await this.#passphrase(REPLACEMENT)
    await this.#settings(REPLACEMENT)
    await runToEnd(this.#processOptions(REPLACEMENT, ['--init']))
    await this.startOne(REPLACEMENT)
    const members = [...others, REPLACEMENT] as const
    const proposal = await reshareProposal(
      this.group,
      { urls: members.map(name => this.url(name)), t: T, dealers: others },
      { fetch, clock: this.#options.clock, random: this.#options.random },
    )
    this.#group = await this.#ceremony(proposal, members, this.group)
    await this.#writeGroup(this.#group)
    const rps = createClient(rpsRoutes, { baseUrl: this.url('rps') })
    await rps.publishRevision({ body: { document: this.#group.document } })
    return this.#group
  }

  /** New keys for logins and permits from the slot after next on: all members deal, and the RPS is told. */
  async rotateKeys(): Promise<Group> {
    const { clock, random } = this.#options
    const { lead } = this.group.policy
    // Not `agree`: of that purpose devices get no deltas, and cars would have to enrol anew to speak TLS.
    const purposes = ['device', 'pin', 'permit']
    const proposal = rotateProposal(this.group, { purposes, after: lead + 1 }, { fetch, clock, random })
    const members = this.group.authorities.map(({ name }) => name as ServerName)
    this.#group = await this.#ceremony(proposal, members, this.group)
    await this.#writeGroup(this.#group)
    const rps = createClient(rpsRoutes, { baseUrl: this.url('rps') })
    await rps.publishRevision({ body: { document: this.#group.document } })
    return this.#group
  }

  async #ceremony(proposal: CeremonyProposal, names: readonly ServerName[], group?: Group): Promise<Group> {
    const { hash } = Ceremony.read(proposal, group)
    await Promise.all(names.map(name => this.#accept(name, toBase64Url(hash))))
    const clients = new Map(
      names.map(name => [name, createClient(dtaRoutes, { baseUrl: this.url(name), timeout: 300_000 })]),
    )
    const revisions = group === undefined ? {} : { revisions: group.documents }
    return (await ceremonyRun({ proposal, clients, ...revisions })).group
  }

  /** What the operator of each authority does: here all of them are the person who typed `npm start`. */
  async #accept(name: ServerName, hash: string): Promise<void> {
    const token = (await readFile(join(this.dataDir(name), 'admin-token'), 'utf8')).trim()
    const admin = createClient(dtaAdminRoutes, {
      baseUrl: this.adminUrl(name),
      authorize: async () => `Bearer ${token}`,
    })
    await admin.accept({ body: { hash } })
  }

  /** One document, or all revisions in an array. */
  async #writeGroup(group: Group): Promise<void> {
    const documents = group.documents.length === 1 ? group.document : group.documents
    await writeFileAtomic(this.#path('group.json'), `${JSON.stringify(documents, null, 2)}\n`, 0o644)
  }

  /** Who makes keys before there is a group. */
  get #withKeys(): readonly ServerName[] {
    return this.#options.ports.gateway === undefined ? SERVERS : [...SERVERS, GATEWAY]
  }

  #portsOf(name: ServerName): Ports {
    const ports = this.#options.ports[name]
    if (ports === undefined) throw new TypeError(`${name} has no ports`)
    return ports
  }

  async #settings(name: ServerName, port = this.#portsOf(name).public): Promise<void> {
    const host = '127.0.0.1'
    const { tls } = this.#portsOf('tracking')
    const { gateway } = this.#options.ports
    const listening = {
      name,
      listen: { host, port },
      adminListen: { host, port: this.#portsOf(name).admin },
      dataDir: this.dataDir(name),
    }
    const common = { ...listening, publicUrl: this.url(name) }
    const pinned = {
      groupFile: this.#path('group.json'),
      // Not before there is one: `--init` does without.
      ...(this.#group === undefined ? {} : { groupId: this.groupId }),
    }
    // Three on one machine.
    const authority = { ...common, workers: 1 }
    const settings = {
      'dta-1': authority,
      'dta-2': authority,
      'dta-3': authority,
      'dta-4': authority,
      rps: {
        ...common,
        ...pinned,
        rpa: { url: this.url('fleet') },
        webOrigins: [this.url('fleet')],
        deltaSeconds: this.#options.deltaSeconds,
        audiences: [
          // People, and what cars sign; then cars on their own connections.
          { name: this.url('tracking'), service: 'tracking', pin: 'optional', tlsExporter: 'absent' },
          ...(tls === undefined
            ? []
            : [{ name: 'tracking', service: 'tracking', pin: 'optional', tlsExporter: 'required' }]),
          { name: this.url('fleet'), service: 'fleet', pin: 'optional', tlsExporter: 'absent' },
          ...(gateway === undefined
            ? []
            : [{ name: this.url(GATEWAY), service: GATEWAY, pin: 'optional', tlsExporter: 'absent' }]),
        ],
      },
      fleet: {
        ...common,
        ...pinned,
        rps: { url: this.url('rps') },
        rpsName: 'rps',
        devicePurposes: ['device', 'agree', 'sign'],
        extensions: [{ name: 'map', title: 'Map', folder: MAP, audience: this.url('tracking') }],
      },
      tracking: {
        ...common,
        ...pinned,
        ...(tls === undefined ? {} : { tlsListen: { host, port: tls } }),
        rps: { url: this.url('rps') },
        webOrigins: [this.url('fleet')],
      },
      gateway: {
        ...listening,
        ...pinned,
        rps: { url: this.url('rps') },
        to: { path: this.#socket?.path ?? NO_BROKER },
        pass: 'mqtt',
      },
    }[name]
    await writeFileAtomic(this.#path(`${name}.json`), `${JSON.stringify(settings, null, 2)}\n`)
  }

  async #passphrase(name: ServerName): Promise<void> {
    const path = this.#path(`${name}.passphrase`)
    if (!existsSync(path)) await writeFileAtomic(path, `${toBase64Url(this.#options.random(24))}\n`)
  }

  #processOptions(name: ServerName, more: readonly string[]): ProcessOptions {
    return {
      name,
      file: this.#program(name),
      // Of these two, who comes in by TLS is given no session ticket, and costs a pairing.
      nodeFlags: name === 'tracking' || name === GATEWAY ? [NO_TICKETS, ...relaxedSimdFlags()] : [],
      args: [
        ...(name === GATEWAY ? ['tls', 'gateway'] : []),
        '--config',
        this.#path(`${name}.json`),
        ...more,
      ],
      env: { [ENVIRONMENT[name]]: this.#path(`${name}.passphrase`) },
      logFile: join(this.#path('logs'), `${name}.log`),
    }
  }

  #program(name: ServerName): string {
    if (name === 'rps') return this.#options.rpsMain ?? programFile('rps')
    if (name === 'fleet') return programFile('fleet')
    if (name === 'tracking') return fileURLToPath(new URL('../dist/tracking-main.js', import.meta.url))
    if (name === GATEWAY) return fileURLToPath(import.meta.resolve('@milagro-ts/cli/main'))
    return programFile('dta')
  }

  #path(name: string): string {
    return join(this.#options.folder, name)
  }
}

/** Stands in the gateway's settings where there is no mosquitto: it makes its keys, for a later start, and doesn't run. */
const NO_BROKER = '/no-broker'

type Purposes = GroupProposal['recipients'][number]['purposes']
interface Initialised {
  readonly name: string
  readonly requestKey: string
  readonly hpkeKey: string
  readonly raKeys: readonly { readonly kid: string; readonly key: string }[]
}

function initialised(name: string, events: readonly ProcessEvent[]): Initialised {
  const made = events.find(({ event }) => event === 'initialised')
  if (made === undefined) throw new TypeError(`${name} --init has not said its keys`)
  const { requestKey, hpkeKey, raKeys = [] } = made as unknown as Initialised
  return { name, requestKey, hpkeKey, raKeys }
}
