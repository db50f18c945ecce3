/**
 * kill -9 at random moments of the ceremonies of five authorities, each a process with its own data folder, and of what
 * they issue. A round:
 *
 *   a founding, refresh, reshare or rotation is proposed and accepted → the coordinator's process runs it → some milliseconds
 *   later somebody is killed: the coordinator, an authority, or both → whoever was killed starts again, and the same
 *   command is said again until it ends with 0 and warns of nobody who hasn't concluded
 *
 * or key shares of a few new cars are asked of every authority, one of which is killed meanwhile, and asked again.
 *
 * Then the group that came of it is looked at: the same keys as ever, every member with a share that belongs to its
 * commitment, every car's key the same, and by a delta that of each later key epoch; no second enrolment key of anybody
 * anywhere. Who dies and when is drawn from the seed; how far a process has come by then is the machine's own.
 */
import { existsSync } from 'node:fs'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Client, createClient, Unreachable } from '@milagro-ts/api/call'
import { dtaRoutes } from '@milagro-ts/api/dta-routes'
import { Group, type PurposeKeys } from '@milagro-ts/api/group'
import { deltaTerms } from '@milagro-ts/api/key-rotation'
import { type Es256PrivateKey, generateEs256, generateHpkeKey } from '@milagro-ts/api/keys'
import { Refused } from '@milagro-ts/api/problem'
import { requestSigner } from '@milagro-ts/api/request-auth'
import { open } from '@milagro-ts/api/seal'
import { verifyTicket } from '@milagro-ts/api/statements'
import { systemRandom } from '@milagro-ts/api/system'
import { freePorts, ManagedProcess, runToEnd } from '@milagro-ts/car-tracking/processes'
import { fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import type { G1 } from '@milagro-ts/crypto/points'
import { KeyShare, shareVerify } from '@milagro-ts/crypto/share-proof'
import { PURPOSES, type Purpose } from '@milagro-ts/crypto/suite'
import { slotAt, slotStart } from '@milagro-ts/crypto/time-permit'
import { expect } from 'vitest'
import { Chance } from '../packages/api/test/ceremony-simulator.js'
import { milagro } from '../packages/cli/test/world.js'
import {
  asRecipient,
  type Car,
  codeOf,
  combineShares,
  makeCar,
  makeServer,
  openShare,
  type Server,
  statementFor,
  ticketFor,
} from '../packages/dta/test/world.js'
import { ROOT } from '../scripts/prepare.mjs'

const AUTHORITIES = ['ta1', 'ta2', 'ta3', 'ta4', 'ta5'] as const
type Name = (typeof AUTHORITIES)[number]
type Kind = 'found' | 'refresh' | 'reshare' | 'rotate' | 'issue'
const DTA = join(ROOT, 'packages/dta/dist/main.js')
const MILAGRO = join(ROOT, 'packages/cli/dist/main.js')
/** Milliseconds in which a ceremony of five is over on an idle machine, and four requests for shares. */
const CEREMONY_TIME = 2_500
const ISSUE_TIME = 150
/** How often a command is said again before it counts as lost. */
const ATTEMPTS = 6
/** Milliseconds for one command, and for a server to start. */
const PATIENCE = 120_000
/** Seconds; and slots from a rotation's proposal to its key epoch: long enough for kills, short enough for the next one. */
const SLOT = 30
const ROTATE_AFTER = 4
/** Milliseconds at a slot's end in which nothing is asked that belongs to one slot. */
const SLOT_END = 5_000
/** Cars that get their shares in a round of issuing; those that are asked for again in each round. */
const NEW_CARS = 4
const OLD_CARS = 3

interface Issued {
  readonly car: Car
  readonly key: G1
  /** Of the key. */
  readonly epoch: number
}
/** The group that was made last, its RA, and the cars that have keys of it. */
interface Fleet {
  readonly group: Group
  readonly file: string
  readonly ra: Es256PrivateKey
  readonly rps: Server
  readonly cars: readonly Issued[]
}

export interface KillTally {
  readonly rounds: Record<Kind, number>
  /** Killed before the command, or the last answer, had come. */
  readonly inTime: Record<'coordinator' | 'authority', number>
  readonly repeated: number
  /** Of these, since a document was in force without somebody, who had died while it was concluded. */
  readonly unconcluded: number
  readonly clonesRefused: number
  /** Rotations that kills held up until their first slot was near. */
  readonly tooLate: number
  /** Keys that went over, by how many key epochs; those whose key epoch had ended. */
  readonly wentOver: Record<number, number>
  readonly ended: number
}

export class CeremonyKillCampaign {
  readonly #folder: string
  readonly #chance: Chance
  readonly #ports: ReadonlyMap<Name, readonly [number, number]>
  readonly #running = new Map<Name, ManagedProcess>()
  readonly tally: { -readonly [K in keyof KillTally]: KillTally[K] } = {
    rounds: { found: 0, refresh: 0, reshare: 0, rotate: 0, issue: 0 },
    inTime: { coordinator: 0, authority: 0 },
    repeated: 0,
    unconcluded: 0,
    clonesRefused: 0,
    tooLate: 0,
    wentOver: {},
    ended: 0,
  }
  #fleet: Fleet | undefined

  private constructor(folder: string, seed: number, ports: readonly number[]) {
    this.#folder = folder
    this.#chance = new Chance(seed)
    this.#ports = new Map(
      AUTHORITIES.map((name, i) => [name, [ports[2 * i], ports[2 * i + 1]] as [number, number]]),
    )
  }

  static async start(seed: number): Promise<CeremonyKillCampaign> {
    const folder = await mkdtemp(join(tmpdir(), 'milagro-ceremony-kill-'))
    const campaign = new CeremonyKillCampaign(folder, seed, await freePorts(2 * AUTHORITIES.length))
    try {
      for (const name of AUTHORITIES) await campaign.#init(name)
      await Promise.all(AUTHORITIES.map(name => campaign.#start(name)))
      return campaign
    } catch (error) {
      await campaign.end()
      throw error
    }
  }

  async end(): Promise<void> {
    await Promise.all([...this.#running.values()].map(child => child.end()))
    await rm(this.#folder, { recursive: true, force: true })
  }

  async round(number: number): Promise<void> {
    const fleet = this.#fleet
    const drawn: Kind =
      fleet === undefined
        ? 'found'
        : this.#chance.is(0.05)
          ? 'found'
          : this.#chance.pick(['refresh', 'reshare', 'reshare', 'rotate', 'rotate', 'issue', 'issue'])
    // One rotation after the other: until the last one's slot has come, something else is done.
    const kind = drawn === 'rotate' && fleet !== undefined && !hasBegun(fleet.group) ? 'issue' : drawn
    if (kind === 'issue') await this.#issue(number, fleet as Fleet)
    else await this.#ceremony(number, kind)
    this.tally.rounds[kind]++
  }

  // ── Ceremonies ──────────────────────────────────────────────────────────────────────────────────────────────────

  async #ceremony(number: number, kind: Exclude<Kind, 'issue'>): Promise<void> {
    const before = kind === 'found' ? undefined : (this.#fleet as Fleet)
    const former = before?.group.document.authorities.map(({ name }) => name as Name) ?? []
    const members =
      kind === 'refresh' || kind === 'rotate'
        ? former
        : this.#chance.some(AUTHORITIES, this.#chance.whole(3, 5))
    const t = this.#chance.whole(Math.floor(members.length / 2) + 1, members.length)
    const ra = before?.ra ?? (await generateEs256())
    const rps = before?.rps ?? (await makeServer('rps'))
    const purposes = this.#chance.pick([PURPOSES, ['device', 'permit']] as const)
    const file = this.#path(`group-${number}.json`)
    const proposal = this.#path(`proposal-${number}.json`)
    const transcript = this.#path(`transcript-${number}.jsonl`)
    const urls = members.map(name => this.#url(name))
    const of = before === undefined ? [] : ['--group', before.file]
    const command = [
      'ceremony',
      ...(kind === 'found'
        ? ['run', await this.#plan(number, urls, t, { ra, rps })]
        : kind === 'refresh'
          ? ['refresh']
          : kind === 'rotate'
            ? ['rotate', '--after', String(ROTATE_AFTER), '--purpose', ...purposes]
            : ['reshare', '--authority', ...urls, '--t', String(t)]),
      ...of,
      ...['--proposal', proposal, '--out', file, '--transcript', transcript],
    ]
    expect(await milagro(...command)).toMatchObject({ exit: 0, err: '' })
    const involved = [...new Set([...former, ...members])]
    for (const name of involved) {
      const join = ['ceremony', 'join', proposal, ...of, '--yes', '--config', this.#path(`${name}.json`)]
      expect(await milagro(...join)).toMatchObject({ exit: 0, err: '' })
    }
    const where = `round ${number}: ${kind}, ${t} of ${members.join(' ')}`
    if ((await this.#runUnderFire(where, command, involved)) === 'too late') {
      const fleet = before as Fleet
      this.tally.tooLate++
      this.#fleet = await this.#check(where, fleet, [])
      return
    }

    expect(await milagro('ceremony', 'verify', transcript)).toMatchObject({ exit: 0, err: '' })
    const group = await Group.verifyFile(JSON.parse(await readFile(file, 'utf8')))
    expect([where, group.n, group.t]).toEqual([
      where,
      members.length,
      kind === 'refresh' || kind === 'rotate' ? before?.group.t : t,
    ])
    if (before !== undefined) {
      expect([where, group.revision]).toEqual([where, before.group.revision + 1])
      for (const purpose of PURPOSES) {
        const isNew = kind === 'rotate' && (purposes as readonly Purpose[]).includes(purpose)
        const [then, now] = [before.group.epochs(purpose), group.epochs(purpose)]
        const kept = isNew ? now.slice(1) : now
        expect([where, purpose, kept.map(ivkOf)]).toEqual([
          where,
          purpose,
          then.map(ivkOf).slice(0, kept.length),
        ])
        expect([where, purpose, now.length]).toEqual([
          where,
          purpose,
          Math.min(3, then.length + (isNew ? 1 : 0)),
        ])
        if (isNew) expect(then.map(ivkOf)).not.toContain(ivkOf(now[0] as PurposeKeys))
      }
    }
    const left = former.filter(name => !members.includes(name))
    this.#fleet = await this.#check(where, { group, file, ra, rps, cars: before?.cars ?? [] }, left)
  }

  /**
   * Runs the command until it ends with 0; somebody is killed once, during its first run. A rotation that isn't signed
   * before its first slot is near never is.
   */
  async #runUnderFire(
    where: string,
    command: readonly string[],
    involved: readonly Name[],
  ): Promise<'done' | 'too late'> {
    const victim = this.#chance.pick([...involved, 'coordinator', 'coordinator', 'both'] as const)
    const wait = this.#chance.whole(200, CEREMONY_TIME)
    // The last moves are over soon, and few moments that are drawn fall into them.
    const move = this.#chance.is(0.3) ? this.#chance.pick(['result', 'sign'] as const) : undefined
    let begun = await this.#logLength()
    const coordinator = this.#command(command)
    await Promise.race([coordinator.ended, move === undefined ? after(wait) : this.#moved(begun, move)])
    const isInTime = coordinator.running
    if (victim === 'coordinator' || victim === 'both') {
      coordinator.kill('SIGKILL')
      if (isInTime) this.tally.inTime.coordinator++
    }
    if (victim !== 'coordinator') {
      if (isInTime) this.tally.inTime.authority++
      await this.#killAndStart(victim === 'both' ? this.#chance.pick(involved) : victim)
    }
    let how = await coordinator.ended
    for (let attempt = 1; ; attempt++) {
      const log = await readFile(this.#path('coordinator.log'), 'utf8')
      const last = log.slice(begun).trimEnd().split('\n').slice(-2)
      // t that have concluded are enough for it to end well; the others are told when the command is said again.
      const isUnconcluded = how === 0 && last.some(line => line.includes('is in force without'))
      if (how === 0 && !isUnconcluded) return 'done'
      if (isUnconcluded) this.tally.unconcluded++
      if (command.includes('rotate') && last.some(line => line.includes('comes too soon'))) return 'too late'
      expect([where, victim, wait, attempt, last]).toSatisfy(() => attempt < ATTEMPTS)
      this.tally.repeated++
      begun = log.length
      how = await this.#command(command).ended
    }
  }

  async #plan(
    number: number,
    urls: readonly string[],
    t: number,
    { ra, rps }: Pick<Fleet, 'ra' | 'rps'>,
  ): Promise<string> {
    const plan = {
      authorities: urls,
      t,
      ra: { m: 1, keys: [{ kid: 'ra1', key: ra.publicKey.toBase64Url() }] },
      recipients: [asRecipient(rps, ['device', 'pin'])],
      slot: { length: SLOT },
      policy: { lead: 0, grace: SLOT },
    }
    const file = this.#path(`plan-${number}.json`)
    await writeFile(file, JSON.stringify(plan))
    return file
  }

  // ── Issuing ─────────────────────────────────────────────────────────────────────────────────────────────────────

  async #issue(number: number, fleet: Fleet): Promise<void> {
    const { group } = fleet
    const members = membersOf(group)
    const victim = this.#chance.pick(members)
    const where = `round ${number}: shares of ${NEW_CARS} cars while ${victim} is killed`
    const groupId = toBase64Url(group.groupId)
    await clearOfSlotEnd(group)
    const asked = epochNow(group)
    const wanted = await Promise.all(
      Array.from({ length: NEW_CARS }, async () => {
        const car = await makeCar({ groupId })
        return { car, ticket: await this.#ticket(fleet, car) }
      }),
    )
    let isOver = false
    const asking = Promise.all(
      wanted.map(({ car, ticket }) =>
        Promise.all(members.map(name => this.#share(fleet, name, car, ticket).catch(lost))),
      ),
    ).finally(() => {
      isOver = true
    })
    await after(this.#chance.whole(0, ISSUE_TIME))
    if (!isOver) this.tally.inTime.authority++
    await this.#killAndStart(victim)
    const first = await asking
    const issued: Issued[] = []
    for (const [i, { car, ticket: former }] of wanted.entries()) {
      await clearOfSlotEnd(group)
      const epoch = epochNow(group)
      // A ticket is for one key epoch; the next one has begun meanwhile.
      const ticket = epoch === asked ? former : await this.#ticket(fleet, car)
      const again = await Promise.all(members.map(name => this.#share(fleet, name, car, ticket)))
      for (const [j, share] of again.entries()) {
        const before = first[i]?.[j]
        if (before !== undefined && epoch === asked)
          expect([where, share.d.equals(before.d)]).toEqual([where, true])
      }
      issued.push({ car, key: this.#key(where, group, again), epoch })
      await this.#refuseClone(where, fleet, car)
    }
    this.#fleet = await this.#check(where, { ...fleet, cars: [...fleet.cars, ...issued] }, [])
  }

  // ── What must hold after every round ────────────────────────────────────────────────────────────────────────────

  /** Looks at the group. The fleet, with keys that went over, and with a new car that got its key. */
  async #check(where: string, fleet: Fleet, left: readonly Name[]): Promise<Fleet> {
    const { group } = fleet
    const cars = [...fleet.cars]
    const members = membersOf(group)
    const keyNow = async (car: Car) => {
      await clearOfSlotEnd(group)
      const ticket = await this.#ticket(fleet, car)
      const shares = await Promise.all(members.map(name => this.#share(fleet, name, car, ticket)))
      return { car, key: this.#key(where, group, shares), epoch: epochNow(group) }
    }
    const everywhere = Array.from(cars.keys())
    for (const at of this.#chance.some(everywhere, Math.min(OLD_CARS, cars.length))) {
      const issued = cars[at] as Issued
      const now = await keyNow(issued.car)
      const over = await this.#goOver(where, fleet, issued, now.epoch)
      if (over !== null)
        expect([where, issued.epoch, over.equals(now.key)]).toEqual([where, issued.epoch, true])
      // Some stay silent for longer.
      if (over === null || this.#chance.is(0.5)) cars[at] = now
      await this.#refuseClone(where, fleet, issued.car)
    }
    const car = await makeCar({ groupId: toBase64Url(group.groupId) })
    cars.push(await keyNow(car))
    for (const name of left)
      expect([where, name, await codeOf(this.#ask(group, name, await this.#ticket(fleet, car)))]).toEqual([
        where,
        name,
        'NOT_FOUND',
      ])
    const groupId = toBase64Url(group.groupId)
    for (const name of members) {
      const audit = await milagro('dta', 'audit', '--url', this.#url(name), '--group', groupId, '--json')
      expect([where, name, audit.exit, audit.json.intact]).toEqual([where, name, 0, true])
    }
    return { ...fleet, cars }
  }

  /** The car's key in key epoch `to`: what it has with Δ·A, from any t. Null when its own key epoch has ended. */
  async #goOver(where: string, fleet: Fleet, { car, key, epoch }: Issued, to: number): Promise<G1 | null> {
    const { group } = fleet
    if (epoch === to) return key
    const members = membersOf(group)
    if (group.keysOf('device', epoch) === null) {
      for (const name of members) {
        const code = await codeOf(this.#delta(fleet, name, car, { from: epoch, to }))
        expect([where, name, code]).toEqual([where, name, 'EXPIRED'])
      }
      this.tally.ended++
      return null
    }
    const deltas = await Promise.all(members.map(name => this.#delta(fleet, name, car, { from: epoch, to })))
    this.tally.wentOver[to - epoch] = (this.tally.wentOver[to - epoch] ?? 0) + 1
    return key.add(this.#key(where, group, deltas))
  }

  /** A part of Δ·A that belongs to that member's commitments. */
  async #delta(fleet: Fleet, name: Name, car: Car, device: { from: number; to: number }): Promise<KeyShare> {
    const { group, ra, rps } = fleet
    await clearOfSlotEnd(group)
    const key = await generateHpkeKey(systemRandom)
    const groupId = toBase64Url(group.groupId)
    const slot = slotNow(group)
    const permitEpoch = group.epochAt('permit', slot) as number
    const world = { ra, groupId, clock: { now: Date.now() } }
    const statement = await statementFor(world, car, { slot, keyEpoch: permitEpoch })
    const authorize = requestSigner({
      name: 'rps',
      key: rps.requestKey,
      clock: Date.now,
      random: systemRandom,
    })
    const { deltas } = createClient(dtaRoutes, { baseUrl: this.#url(name), timeout: PATIENCE, authorize })
    const body = { statement, hpkeKey: toBase64Url(key.publicKey), device }
    const answer = (await deltas({ params: { groupId }, body })).device as NonNullable<
      Awaited<ReturnType<typeof deltas>>['device']
    >
    const rotation = { hpkeKey: key.publicKey, device }
    const terms = deltaTerms(group, rotation, { idCore: car.idCore }, 'device', answer.index)
    const plaintext = terms && (await open(key, terms.ctx, fromBase64Url(answer.sealed, 'sealed')))
    const share = plaintext && KeyShare.decode(plaintext)
    expect([name, membersOf(group)[answer.index - 1], share && shareVerify(terms, share)]).toEqual([
      name,
      name,
      true,
    ])
    return share as KeyShare
  }

  /** The key that any t of the shares make. */
  #key(where: string, group: Group, shares: readonly KeyShare[]): G1 {
    const numbered = shares.map((share, i) => ({ index: i + 1, share }))
    const one = combineShares(numbered.slice(0, group.t))
    const other = combineShares(numbered.slice(-group.t))
    expect([where, one.equals(other)]).toEqual([where, true])
    return one
  }

  /** Nobody gives a share of the same identity to another enrolment key. */
  async #refuseClone(where: string, fleet: Fleet, { idCore }: Car): Promise<void> {
    await clearOfSlotEnd(fleet.group)
    const clone = { idCore, enrolmentKey: await generateHpkeKey(systemRandom) }
    const ticket = await this.#ticket(fleet, clone)
    for (const name of membersOf(fleet.group)) {
      const code = await codeOf(this.#ask(fleet.group, name, ticket))
      expect([where, name, code]).toEqual([where, name, 'ALREADY_ISSUED'])
      this.tally.clonesRefused++
    }
  }

  /** For the key epoch of the present slot. */
  #ticket({ ra, group }: Pick<Fleet, 'ra' | 'group'>, car: Car): Promise<string[]> {
    const world = { ra, groupId: toBase64Url(group.groupId), clock: { now: Date.now() } }
    return ticketFor(world, car, { keyEpochs: { device: epochNow(group) } })
  }

  async #ask(group: Group, name: Name, ticket: string[]) {
    const groupId = toBase64Url(group.groupId)
    const ask = () => this.#client(name).shares({ params: { groupId }, body: { ticket, purpose: 'device' } })
    return ask().catch((error: unknown) => {
      // A connection that nothing was asked on may end on the other side just when something is.
      if (!(error instanceof Unreachable)) throw error
      return ask()
    })
  }

  /** A share that belongs to the commitment of that member. */
  async #share({ group }: Fleet, name: Name, car: Car, ticket: string[]): Promise<KeyShare> {
    const answer = await this.#ask(group, name, ticket)
    const verified = await verifyTicket({ ticket, group, now: Date.now() })
    const terms = verified.shareTerms('device', answer.index, answer.shareEpoch)
    const { commitments } = group.keysOf('device', verified.keyEpochs.device as number) as PurposeKeys
    expect([name, answer.shareEpoch]).toEqual([name, group.shareEpoch])
    const share = await openShare({ group }, answer, car, 'device', terms, commitments[answer.index - 1])
    expect([name, membersOf(group)[answer.index - 1], share !== null]).toEqual([name, name, true])
    return share as KeyShare
  }

  // ── Processes ───────────────────────────────────────────────────────────────────────────────────────────────────

  async #init(name: Name): Promise<void> {
    const [port, admin] = this.#portsOf(name)
    const host = '127.0.0.1'
    const settings = {
      name,
      listen: { host, port },
      adminListen: { host, port: admin },
      publicUrl: this.#url(name),
      dataDir: this.#path(name),
      workers: 0,
    }
    await writeFile(this.#path(`${name}.json`), JSON.stringify(settings))
    await runToEnd(this.#options(name, ['--init']))
  }

  async #start(name: Name): Promise<void> {
    const child = new ManagedProcess(this.#options(name, []))
    this.#running.set(name, child)
    await child.ready()
  }

  async #killAndStart(name: Name): Promise<void> {
    const child = this.#running.get(name) as ManagedProcess
    child.kill('SIGKILL')
    expect(await child.ended).toBe('SIGKILL')
    await this.#start(name)
  }

  /** When all have answered in that move, and the next one begins; or so late that it never comes to it. */
  async #moved(begun: number, move: 'result' | 'sign'): Promise<void> {
    const late = Date.now() + 2 * CEREMONY_TIME
    while (Date.now() < late) {
      const log = await readFile(this.#path('coordinator.log'), 'utf8').catch(() => '')
      if (log.slice(begun).includes(`\n${move.padEnd(8)} `)) return
      await after(2)
    }
  }

  /** Of what coordinators have said so far. */
  async #logLength(): Promise<number> {
    const file = this.#path('coordinator.log')
    return existsSync(file) ? (await readFile(file, 'utf8')).length : 0
  }

  #command(args: readonly string[]): ManagedProcess {
    return new ManagedProcess({
      name: 'coordinator',
      file: MILAGRO,
      args,
      logFile: this.#path('coordinator.log'),
    })
  }

  #options(name: Name, more: readonly string[]) {
    return {
      name,
      file: DTA,
      args: ['--config', this.#path(`${name}.json`), ...more],
      env: { MILAGRO_DTA_PASSPHRASE: 'of the campaign’s' },
      logFile: this.#path(`${name}.log`),
    }
  }

  #client(name: Name): Client<typeof dtaRoutes> {
    return createClient(dtaRoutes, { baseUrl: this.#url(name), timeout: PATIENCE })
  }

  #url(name: Name): string {
    return `http://127.0.0.1:${this.#portsOf(name)[0]}`
  }

  #portsOf(name: Name): readonly [number, number] {
    return this.#ports.get(name) as readonly [number, number]
  }

  #path(name: string): string {
    return join(this.#folder, name)
  }
}

const membersOf = ({ document }: Group) => document.authorities.map(({ name }) => name as Name)

const ivkOf = ({ epoch, ivk }: PurposeKeys) => `${epoch} ${toBase64Url(ivk.encode())}`

const slotNow = ({ slotRule }: Group) => slotAt(slotRule, Math.floor(Date.now() / 1000))
const epochNow = (group: Group) => group.epochAt('device', slotNow(group)) as number
const hasBegun = (group: Group) =>
  PURPOSES.every(purpose => (group.epochs(purpose)[0] as PurposeKeys).firstSlot <= slotNow(group))

/** What belongs to a slot is asked for well before its end. */
async function clearOfSlotEnd({ slotRule }: Group): Promise<void> {
  const next = 1000 * slotStart(slotRule, slotAt(slotRule, Math.floor(Date.now() / 1000)) + 1)
  const rest = next - Date.now()
  // Timers may be a moment early by the clock.
  if (rest < SLOT_END) await after(rest + 50)
}

/** An answer that a kill has cut off; anything else is a failure. */
function lost(error: unknown): undefined {
  if (error instanceof Unreachable || (error instanceof Refused && error.code === 'RETRY_LATER'))
    return undefined
  throw error
}

/** Real time: what is killed is a real process at work. */
const after = (milliseconds: number) => new Promise<void>(resolve => setTimeout(resolve, milliseconds))
