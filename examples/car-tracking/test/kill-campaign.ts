/**
 * kill -9 at a random moment of an enrolment and the logins after it, in a system of real processes. A round:
 *
 *   a new vehicle and a driver, with their codes → the device's process enrols both, and makes a few logins with the
 *   right PIN and a wrong one → at its k-th HTTP exchange and some milliseconds somebody is killed: one of the
 *   authorities, the RPS, fleet, or the device itself → whoever was killed starts again, the device goes on to its end
 *
 * Then the stores themselves are asked: was anything lost, issued twice, or forgiven? Who dies, when, and what is typed
 * are drawn from the seed; how far a process has come by then is the machine's own.
 */
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { systemClock, systemRandom } from '@milagro-ts/api/system'
import { Operator, type Setup } from '@milagro-ts/car-tracking/operator'
import { freePorts, ManagedProcess } from '@milagro-ts/car-tracking/processes'
import { AUTHORITIES, type Ports, SERVERS, type ServerName, Servers } from '@milagro-ts/car-tracking/servers'
import { memoryTokenStore } from '@milagro-ts/client/token-store'
import { toBase64Url, toHex } from '@milagro-ts/crypto/bytes'
import { identityHash } from '@milagro-ts/dta/ledger'
import { dtaMigrations } from '@milagro-ts/dta/tables'
import { migrations as fleetMigrations } from '@milagro-ts/fleet/schema'
import { rpsMigrations } from '@milagro-ts/rps/tables'
import { type Migration, openDatabase, type Row, type SqlValue, type Store } from '@milagro-ts/store/database'
import { expect } from 'vitest'
import { fixedRandom } from '../../../packages/api/test/fixed-random.js'
import { SECRETS_OF_STORES } from '../../../scripts/evidence.mjs'
import { recorder } from '../../../test/evidence-recorder.js'

const VICTIMS = [...AUTHORITIES, 'rps', 'fleet', 'device'] as const
type Victim = (typeof VICTIMS)[number]
const DEVICE = fileURLToPath(new URL('./kill-device.mjs', import.meta.url))
const PIN = '271828'
const WRONG_PIN = '314159'
/** A round has about so many exchanges when nobody dies. */
const EXCHANGES = 30
const MOST_JITTER = 60
/** Milliseconds for a device to come to its end. */
const PATIENCE = 60_000
const LIMIT = 3

/** A login request, as the device's journal has it. */
interface Attempt {
  readonly right: boolean
  readonly body: string
  /** OK or the problem's code; undefined: no answer arrived. */
  readonly code: string | undefined
}

export interface Tally {
  readonly rounds: number
  readonly kills: Readonly<Record<Victim, number>>
  /** Kills that came while the device was still at work. */
  readonly inTime: number
  readonly wrongPins: number
  readonly locked: number
  readonly unanswered: number
  readonly replays: number
}

export class KillCampaign {
  readonly #folder: string
  readonly #servers: Servers
  readonly #operator: Operator
  readonly #stores: ReadonlyMap<string, Store<unknown>>
  readonly #random: (length: number) => Uint8Array
  readonly #turns: Victim[] = []
  readonly #tally = {
    rounds: 0,
    kills: Object.fromEntries(VICTIMS.map(name => [name, 0])) as Record<Victim, number>,
    inTime: 0,
    wrongPins: 0,
    locked: 0,
    unanswered: 0,
    replays: 0,
  }

  private constructor(
    folder: string,
    servers: Servers,
    operator: Operator,
    stores: ReadonlyMap<string, Store<unknown>>,
    seed: number,
  ) {
    this.#folder = folder
    this.#servers = servers
    this.#operator = operator
    this.#stores = stores
    this.#random = fixedRandom(`kill ${seed}`)
  }

  static async start(seed: number): Promise<KillCampaign> {
    const folder = await mkdtemp(join(tmpdir(), 'milagro-kill-'))
    const free = await freePorts(2 * SERVERS.length)
    const ports = Object.fromEntries(
      SERVERS.map((name, i) => [name, { public: free[2 * i], admin: free[2 * i + 1] }]),
    ) as Record<ServerName, Ports>
    const servers = new Servers({
      folder,
      ports,
      slotLength: 86_400,
      grace: 300,
      deltaSeconds: 60,
      clock: systemClock,
      random: systemRandom,
      progress: () => undefined,
    })
    try {
      await servers.start()
      const setup = servers.process('fleet').events.find(({ event }) => event === 'setup-code')
      const operator = await Operator.open({
        rps: servers.url('rps'),
        fleet: servers.url('fleet'),
        tracking: servers.url('tracking'),
        store: memoryTokenStore(),
        pinCost: { iterations: 10, slowDevice: true },
        pin: PIN,
        setup: setup as unknown as Setup,
      })
      const open = async (name: ServerName, file: string, migrations: readonly Migration[]) =>
        [name, await openDatabase<unknown>({ file: join(folder, name, file), migrations })] as const
      const stores = await Promise.all([
        ...AUTHORITIES.map(name => open(name, 'dta.sqlite', dtaMigrations)),
        open('rps', 'rps.sqlite', rpsMigrations),
        open('fleet', 'fleet.sqlite', fleetMigrations),
      ])
      return new KillCampaign(folder, servers, operator, new Map(stores), seed)
    } catch (error) {
      await servers.end()
      await rm(folder, { recursive: true, force: true })
      throw error
    }
  }

  get tally(): Tally {
    return this.#tally
  }

  async end(): Promise<void> {
    await this.#recordEvidence()
    this.#operator.close()
    for (const store of this.#stores.values()) await store.close()
    await this.#servers.end()
    await rm(this.#folder, { recursive: true, force: true })
  }

  async round(number: number): Promise<void> {
    const victim = this.#nextVictim()
    const exchange = 1 + this.#below(EXCHANGES)
    const jitter = this.#below(MOST_JITTER)
    // Half of the rounds run into the lock.
    const wrongs = this.#below(2) === 0 ? [true, false, false, false, true, true] : this.#drawn(5)
    const where = `round ${number}: ${victim} at exchange ${exchange} + ${jitter} ms`
    const { folder, vehicle } = await this.#newVehicle(number, wrongs)
    const ledgers = await this.#ledgers()

    let device = this.#startDevice(number, folder)
    const said = [...(await this.#killDuring(victim, device, { exchange, jitter }))]
    if (victim === 'device') device = this.#startDevice(number, folder)
    else await this.#servers.startOne(victim)
    await device.waitFor(({ event }) => event === 'done', { within: PATIENCE, what: `end of ${where}` })
    expect([where, await device.ended]).toEqual([where, 0])
    said.push(...device.events)

    await this.#check(where, { folder, vehicle, said, ledgers })
    this.#tally.rounds++
    this.#tally.kills[victim]++
  }

  async #newVehicle(number: number, plan: readonly boolean[]): Promise<{ folder: string; vehicle: number }> {
    const { fleet } = this.#operator
    const instance = `KILL-${number}`
    const attributes = { brand: 'Acme', model: 'Roadster' }
    const driver = `Driver ${number}`
    const { id, code } = await fleet.addVehicle({ body: { instance, attributes } })
    const seat = await fleet.assignDriver({
      params: { id: String(id) },
      body: { attributes: { driverName: driver } },
    })
    const folder = join(this.#folder, instance)
    await mkdir(folder)
    const settings = {
      rps: this.#servers.url('rps'),
      audience: this.#servers.url('tracking'),
      instance,
      attributes,
      code: code?.code,
      driver,
      driverCode: seat.code.code,
      pin: PIN,
      wrongPin: WRONG_PIN,
      plan,
    }
    await writeFile(join(folder, 'settings.json'), JSON.stringify(settings))
    return { folder, vehicle: id }
  }

  #startDevice(number: number, folder: string): ManagedProcess {
    return new ManagedProcess({
      name: `device ${number}`,
      file: DEVICE,
      args: [folder],
      logFile: join(this.#folder, 'logs', 'devices.log'),
    })
  }

  /** What the device had said by the time of the kill, if it was its own. */
  async #killDuring(
    victim: Victim,
    device: ManagedProcess,
    { exchange, jitter }: { exchange: number; jitter: number },
  ): Promise<ManagedProcess['events']> {
    let seen = 0
    const moment = device.waitFor(
      ({ event }) => event === 'done' || (event === 'exchange' && ++seen === exchange),
      { within: PATIENCE, what: `exchange ${exchange}` },
    )
    if ((await moment).event === 'exchange') this.#tally.inTime++
    await new Promise(resolve => setTimeout(resolve, jitter))
    const killed = victim === 'device' ? device : this.#servers.process(victim)
    killed.kill('SIGKILL')
    await killed.ended
    return victim === 'device' ? killed.events : []
  }

  async #check(
    where: string,
    round: {
      folder: string
      vehicle: number
      said: ManagedProcess['events']
      ledgers: readonly ReadonlyMap<string, string>[]
    },
  ): Promise<void> {
    const { identities } = JSON.parse(await readFile(join(round.folder, 'store.json'), 'utf8'))
    recorder?.secretsOf(SECRETS_OF_STORES, identities)
    const [{ device, users, pending }] = identities
    const [{ token }] = users
    const { idCore } = device

    // No lost enrolment: whatever was said to be done is what is there, on the device and at the RA.
    const claimed = round.said.filter(({ event }) => event === 'enrolled').map(({ idCore: said }) => said)
    expect([where, identities.length, users.length, pending]).toEqual([where, 1, 1, []])
    expect([where, ...new Set(claimed)]).toEqual([where, idCore])
    const inRegister = await this.#rows('fleet', 'SELECT id_core FROM identity WHERE device_id = ?', [
      round.vehicle,
    ])
    expect([where, ...inRegister.map(row => toBase64Url(row.id_core as Uint8Array))]).toEqual([where, idCore])

    // No double issue: the device's keys and the driver's went to one enrolment key each, the same at every authority that
    // has issued, and those are two of the three at least; nothing else of this round.
    const wanted = [
      `device/${idCore}`,
      `agree/${idCore}`,
      `sign/${idCore}`,
      `pin/${idCore}/${token.userCore}/${token.pinGen}`,
    ].map(key => toHex(identityHash(key)))
    const issued = (await this.#ledgers()).map(
      (ledger, i) => new Map([...ledger].filter(([identity]) => !round.ledgers[i]?.has(identity))),
    )
    for (const own of issued)
      expect([where, [...own.keys()].filter(identity => !wanted.includes(identity))]).toEqual([where, []])
    for (const identity of wanted) {
      const keys = issued.flatMap(own => own.get(identity) ?? [])
      expect([where, keys.length >= 2, new Set(keys).size]).toEqual([where, true, 1])
    }
    for (const name of AUTHORITIES)
      expect([where, name, await this.#rows(name, 'SELECT * FROM alarm')]).toEqual([where, name, []])

    const attempts = await attemptsIn(round.folder)
    await this.#checkStrikes(where, attempts, `${idCore}/${token.userCore}/${token.pinGen}`)
    await this.#checkNonces(where, attempts)
  }

  /** No lost strike: what was answered WRONG_PIN is counted, what was locked stays so, and nothing is made up. */
  async #checkStrikes(where: string, attempts: readonly Attempt[], account: string): Promise<void> {
    const counted = await this.#rows('rps', 'SELECT consecutive, cumulative FROM strike WHERE account = ?', [
      account,
    ])
    const { consecutive = 0, cumulative = 0 } = counted[0] ?? {}
    const wrong = attempts.filter(({ code }) => code === 'WRONG_PIN').length
    const locked = attempts.filter(({ code }) => code === 'LOCKED').length
    const open = attempts.filter(({ code }) => !['OK', 'WRONG_PIN', 'LOCKED'].includes(code ?? '')).length
    expect(wrong, `${where}: WRONG_PIN answered, ${cumulative} counted`).toBeLessThanOrEqual(
      cumulative as number,
    )
    expect(cumulative, `${where}: counted of ${wrong} answered and ${open} open`).toBeLessThanOrEqual(
      wrong + open,
    )
    let inARow = 0
    let isLocked = false
    for (const { right, code } of attempts) {
      expect([where, isLocked && code !== undefined && code !== 'LOCKED' && code !== 'RETRY_LATER']).toEqual([
        where,
        false,
      ])
      if (code === 'LOCKED') isLocked = true
      if (code === 'WRONG_PIN') inARow++
      if (code === 'OK') {
        expect([where, right]).toEqual([where, true])
        inARow = 0
      }
      expect(inARow, where).toBeLessThanOrEqual(LIMIT)
    }
    expect(inARow, `${where}: wrong in a row`).toBeLessThanOrEqual(consecutive as number)
    if (isLocked) expect(consecutive, `${where}: locked`).toBeGreaterThanOrEqual(LIMIT)
    this.#tally.wrongPins += wrong
    this.#tally.locked += locked
    this.#tally.unanswered += open
  }

  /** A nonce that was used stays used: no request that was answered is taken a second time. */
  async #checkNonces(where: string, attempts: readonly Attempt[]): Promise<void> {
    for (const { body, code } of attempts) {
      if (code === undefined || code === 'RETRY_LATER') continue
      const response = await fetch(`${this.#servers.url('rps')}/v1/logins`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body,
      })
      const again = (await response.json()) as { code?: string }
      expect([where, code, again.code]).toEqual([where, code, 'REPLAYED'])
      this.#tally.replays++
    }
  }

  /** What the processes have said of themselves, and what they must not have said. */
  async #recordEvidence(): Promise<void> {
    if (recorder === undefined) return
    for (const name of SERVERS) {
      recorder.line('metrics', await (await fetch(`${this.#servers.adminUrl(name)}/metrics`)).text())
      const text = async (file: string) => (await readFile(join(this.#folder, file), 'utf8')).trim()
      recorder.secret('passphrase', await text(`${name}.passphrase`))
      recorder.secret('token', await text(join(name, 'admin-token')))
    }
    for (const pin of [PIN, WRONG_PIN]) recorder.secret('pin', pin)
  }

  /** Of every authority: identity to enrolment key. */
  #ledgers(): Promise<Map<string, string>[]> {
    return Promise.all(
      AUTHORITIES.map(async name => {
        const rows = await this.#rows(name, 'SELECT identity_hash, enrolment_key_hash FROM ledger')
        return new Map(
          rows.map(
            row =>
              [toHex(row.identity_hash as Uint8Array), toHex(row.enrolment_key_hash as Uint8Array)] as const,
          ),
        )
      }),
    )
  }

  async #rows(name: ServerName, statement: string, parameters: readonly SqlValue[] = []): Promise<Row[]> {
    const store = this.#stores.get(name)
    if (store === undefined) throw new TypeError(`${name} has no store here`)
    return store.atomic(connection => connection.all(statement, parameters))
  }

  /** Everybody's turn comes, in an order that is drawn anew each time. */
  #nextVictim(): Victim {
    if (this.#turns.length === 0) this.#turns.push(...VICTIMS)
    const [victim] = this.#turns.splice(this.#below(this.#turns.length), 1)
    return victim as Victim
  }

  #below(limit: number): number {
    const [a = 0, b = 0, c = 0] = this.#random(3)
    return ((a << 16) | (b << 8) | c) % limit
  }

  #drawn(length: number): boolean[] {
    return Array.from({ length }, () => this.#below(2) === 0)
  }
}

async function attemptsIn(folder: string): Promise<Attempt[]> {
  const lines = (await readFile(join(folder, 'journal'), 'utf8')).trim().split('\n')
  const entries = lines.map(line => JSON.parse(line))
  return entries
    .filter(entry => 'sent' in entry)
    .map(({ sent, right, body }) => ({
      right,
      body,
      code: entries.find(({ answered }) => answered === sent)?.code,
    }))
}
