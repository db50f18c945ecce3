/** Three authorities, the RPS and fleet themselves, in this process and over HTTP, with an operator who is enrolled. */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Client, createClient } from '@milagro-ts/api/call'
import { dtaAdminRoutes, dtaRoutes } from '@milagro-ts/api/dta-routes'
import { groupMake } from '@milagro-ts/api/founding'
import { type Group, proposalHash } from '@milagro-ts/api/group'
import type { GroupProposal } from '@milagro-ts/api/group-document'
import { createLog, type Log } from '@milagro-ts/api/log'
import { createMetrics } from '@milagro-ts/api/metrics'
import { systemClock, systemRandom, systemTimers, type Timers } from '@milagro-ts/api/system'
import { Device } from '@milagro-ts/client/device'
import type { DeviceOptions } from '@milagro-ts/client/ports'
import { memoryTokenStore } from '@milagro-ts/client/token-store'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import type { Clock } from '@milagro-ts/crypto/ports'
import { publicKeysFault } from '@milagro-ts/crypto/server-key'
import { createDta, openKeys as openDtaKeys } from '@milagro-ts/dta/server'
import { dtaMigrations } from '@milagro-ts/dta/tables'
import { fleetRoutes } from '@milagro-ts/fleet/fleet-routes'
import { type FleetSchema, migrations as fleetMigrations } from '@milagro-ts/fleet/schema'
import { createFleet, openFleetKeys } from '@milagro-ts/fleet/server'
import { createRps, openKeys as openRpsKeys } from '@milagro-ts/rps/server'
import { rpsMigrations } from '@milagro-ts/rps/tables'
import { openDatabase, type Store } from '@milagro-ts/store/database'
import { freePort } from '../../../test/free-port.js'
import { CHEAP, TRACKING } from './world.js'

export const OPERATOR_PIN = 'correct horse'
export const SLOT = 86_400
const HERE = { host: '127.0.0.1', port: 0 }
const quiet = (name: string) => ({ log: createLog(name, { level: 'silent' }), metrics: createMetrics(name) })

export type ServerName = 'ta1' | 'ta2' | 'ta3' | 'rps' | 'fleet'
type AdminClient = Client<typeof dtaAdminRoutes>

export interface RunningOptions {
  readonly clock?: Clock
  readonly timers?: Timers
  /** What permits are for, and slots in seconds. */
  readonly permits?: 'tree' | 'identity'
  readonly slot?: number
  readonly grace?: number
  /** What fleet's tickets for devices are for; what fleet itself says unless said. */
  readonly devicePurposes?: ('device' | 'agree' | 'sign')[]
  /** Between the RPS and what it calls. */
  readonly fetch?: typeof fetch
  /** Of one server; the common one unless said. */
  readonly clockOf?: (name: ServerName) => Clock
  readonly logOf?: (name: ServerName) => Log
  /**
   * Called with each server's data folder, before anything is in it; answers with what to do when it is to go. Databases
   * are in memory without it.
   */
  readonly onFolder?: (name: ServerName, folder: string) => () => void
}

export class RunningServers {
  rpsUrl = ''
  fleetUrl = ''
  groupId = ''
  group!: Group
  /** Of the fleet's operators; each call with a fresh token from `act`. */
  fleet!: Client<typeof fleetRoutes>
  readonly authorities: { readonly name: ServerName; readonly admin: AdminClient }[] = []
  readonly stores = new Map<ServerName, Store<unknown>>()
  readonly adminUrls = new Map<ServerName, string>()
  readonly #clock: Clock
  readonly #ending: (() => Promise<unknown>)[] = []
  #operator!: Device

  private constructor(clock: Clock) {
    this.#clock = clock
  }

  static async start(options: RunningOptions = {}): Promise<RunningServers> {
    const servers = new RunningServers(options.clock ?? systemClock)
    try {
      await servers.#start(options)
    } catch (error) {
      await servers.close()
      throw error
    }
    return servers
  }

  async close(): Promise<void> {
    for (const end of this.#ending.splice(0)) await end()
  }

  /** Options of a device, but for its store. */
  get ports(): Omit<DeviceOptions, 'store'> {
    return { rps: this.rpsUrl, pinCost: CHEAP, clock: this.#clock }
  }

  /** A fresh token of the operator's. */
  async act(): Promise<{ authorization: string }> {
    const { accessToken } = await this.#operator.login({ audience: this.fleetUrl, pin: OPERATOR_PIN })
    return { authorization: `Bearer ${accessToken}` }
  }

  async #start({
    timers = systemTimers,
    onFolder,
    clockOf,
    logOf,
    permits = 'identity',
    slot = SLOT,
    grace = 300,
    devicePurposes,
    fetch = globalThis.fetch,
  }: RunningOptions): Promise<void> {
    const world = {
      clock: this.#clock,
      random: systemRandom,
      passphrase: 'a passphrase of the test’s',
      timers,
    }
    const worldOf = (name: ServerName) => ({ ...world, clock: clockOf?.(name) ?? world.clock })
    const quietly = (name: ServerName) => ({
      ...quiet(name),
      ...(logOf === undefined ? {} : { log: logOf(name) }),
    })
    const folder = await mkdtemp(join(tmpdir(), 'milagro-real-'))
    this.#ending.push(() => rm(folder, { recursive: true }))
    const folderOf = async (name: ServerName) => {
      const own = join(folder, name)
      await mkdir(own, { mode: 0o700 })
      const leave = onFolder?.(name, own)
      // Once the servers are closed, before the folders go.
      if (leave !== undefined) this.#ending.splice(-1, 0, async () => leave())
      return own
    }
    const fileOf = (own: string) => (onFolder === undefined ? ':memory:' : join(own, 'store.sqlite'))
    const [rpsPort, fleetPort] = await Promise.all([freePort(), freePort()])
    this.rpsUrl = `http://127.0.0.1:${rpsPort}`
    this.fleetUrl = `http://127.0.0.1:${fleetPort}`

    const authorities = await Promise.all(
      [1, 2, 3].map(async index => {
        const name = `ta${index}` as ServerName
        const dataDir = await folderOf(name)
        const config = { name, listen: HERE, adminListen: HERE, dataDir, workers: 0 }
        const store = await openDatabase<unknown>({ file: fileOf(dataDir), migrations: dtaMigrations })
        const keys = await openDtaKeys({ ...world, config, store })
        const dta = await createDta({ ...worldOf(name), config, store, ...quietly(name) })
        const { url, adminUrl } = await dta.start()
        this.stores.set(name, store)
        this.adminUrls.set(name, adminUrl)
        this.#ending.unshift(async () => {
          await dta.close()
          await store.close()
        })
        const admin = createClient(dtaAdminRoutes, {
          baseUrl: adminUrl,
          authorize: async () => `Bearer ${dta.adminToken}`,
        })
        return { index, name, url, keys, admin }
      }),
    )
    this.authorities.push(...authorities)
    const rpsConfig = { name: 'rps', dataDir: await folderOf('rps'), workers: 0 }
    const fleetConfig = { name: 'fleet', dataDir: await folderOf('fleet') }
    const rpsStore = await openDatabase<unknown>({
      file: fileOf(rpsConfig.dataDir),
      migrations: rpsMigrations,
    })
    const fleetStore = await openDatabase<FleetSchema>({
      file: fileOf(fleetConfig.dataDir),
      migrations: fleetMigrations,
    })
    this.stores.set('rps', rpsStore).set('fleet', fleetStore as unknown as Store<unknown>)
    const groupFile = join(folder, 'group.json')
    const listens = (port: number) => ({ listen: { ...HERE, port }, adminListen: HERE, groupFile })
    const rpsSettings = {
      ...rpsConfig,
      ...listens(rpsPort),
      publicUrl: this.rpsUrl,
      groupId: '',
      rpa: { url: this.fleetUrl },
      audiences: [
        { name: TRACKING, pin: 'optional' as const, tlsExporter: 'absent' as const },
        { name: this.fleetUrl, service: 'fleet', pin: 'required' as const, tlsExporter: 'absent' as const },
      ],
    }
    const fleetSettings = {
      ...fleetConfig,
      ...listens(fleetPort),
      publicUrl: this.fleetUrl,
      groupId: '',
      rps: { url: this.rpsUrl },
      rpsName: 'rps',
      ...(devicePurposes === undefined ? {} : { devicePurposes }),
    }
    const rpsKeys = await openRpsKeys({ ...world, config: rpsSettings })
    const fleetKeys = await openFleetKeys({ ...world, config: fleetSettings, store: fleetStore })
    const recipient = (
      name: string,
      { hpkeKey, requestKey }: Pick<typeof rpsKeys, 'hpkeKey' | 'requestKey'>,
      purposes: GroupProposal['recipients'][number]['purposes'],
    ) => ({
      name,
      kind: 2,
      generation: 1,
      purposes,
      hpkeKey: toBase64Url(hpkeKey.publicKey),
      requestKey: requestKey.publicKey.toBase64Url(),
    })
    const proposal: GroupProposal = {
      suite: 'BLS12381-SHA256-V1',
      v: 1,
      n: 3,
      t: 3,
      authorities: authorities.map(({ index, name, url, keys }) => ({
        index,
        name,
        url,
        signKey: keys.signKey.publicKey.toBase64Url(),
        hpkeKey: toBase64Url(keys.hpkeKey.publicKey),
      })),
      ra: {
        m: 1,
        keys: fleetKeys.signers.map(({ kid, key }) => ({ kid, key: key.publicKey.toBase64Url() })),
      },
      recipients: [recipient('rps', rpsKeys, ['device', 'pin']), recipient('fleet', fleetKeys, ['agree'])],
      slot: { origin: 1_767_225_600, length: slot },
      policy: { lead: 1, grace, permits },
      firstSlot: 0,
      nonce: toBase64Url(systemRandom(32)),
    }
    const hash = toBase64Url(proposalHash(proposal))
    for (const { admin } of authorities) await admin.accept({ body: { hash } })
    const clients = authorities.map(({ url }) => createClient(dtaRoutes, { baseUrl: url, timeout: 60_000 }))
    const group = await groupMake({ proposal, clients })
    this.groupId = toBase64Url(group.groupId)
    this.group = group
    await writeFile(groupFile, JSON.stringify(group.documents))

    const fleet = await createFleet({
      keyCheck: publicKeysFault,
      ...worldOf('fleet'),
      config: { ...fleetSettings, groupId: this.groupId },
      store: fleetStore,
      ...quietly('fleet'),
    })
    this.adminUrls.set('fleet', (await fleet.start()).adminUrl)
    const setup = await fleet.setupCode()
    if (setup === null) throw new Error('fleet made no setup code')
    const rps = await createRps({
      ...worldOf('rps'),
      fetch,
      config: { ...rpsSettings, groupId: this.groupId },
      store: rpsStore,
      ...quietly('rps'),
    })
    this.adminUrls.set('rps', (await rps.start()).adminUrl)
    this.#ending.unshift(async () => {
      await Promise.all([rps.close(), fleet.close()])
      await Promise.all([rpsStore.close(), fleetStore.close()])
    })

    this.#operator = await Device.enrol({
      ...this.ports,
      store: memoryTokenStore(),
      code: setup.code,
      attributes: { operator: 'admin' },
      instance: 'operator:admin',
      pin: OPERATOR_PIN,
    })
    this.fleet = createClient(fleetRoutes, { baseUrl: this.fleetUrl })
  }
}
