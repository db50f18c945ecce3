/**
 * A whole life of a group in one process, out of one seed: authorities found it, then refresh it, hand it on or rotate
 * its key, while messages are lost, late, doubled and out of order, machines crash and come back with what they had
 * written, clocks are set, and some authorities lie. Time is virtual, every event has its turn, so a seed is a run.
 *
 *   Coordinator  -- ask(stage, rounds) -->  Network  -->  Machine     api/ceremony.ts, a record, shares in force
 *                <--  message, refusal --            <--
 *
 * After every ceremony `Checks` looks at everything that went over the network and at what every machine holds. The
 * curve is the real one; what all participants compute alike is computed once, and one purpose stands for all six.
 */
import {
  CEREMONY_WITHIN,
  Ceremony,
  type CeremonyArithmetic,
  CeremonyFault,
  type CeremonyProposal,
  type CeremonyRecord,
  type CeremonyRounds,
  ceremonyMove,
  ceremonySign,
  checkCeremony,
  checkResults,
  checkRounds,
  onThisThread,
  type Predecessor,
  ROUNDS,
  type Round,
  readMessage,
  refuseUntimely,
  type Shares,
  sharesOf,
} from '@milagro-ts/api/ceremony'
import { documentHash, type PurposeKeys } from '@milagro-ts/api/group'
import type { GroupDocument, GroupProposal } from '@milagro-ts/api/group-document'
import { Es256PrivateKey, HpkeKeyPair } from '@milagro-ts/api/keys'
import { Refused } from '@milagro-ts/api/problem'
import { equalBytes, fromBase64Url, toBase64Url, toHex, utf8 } from '@milagro-ts/crypto/bytes'
import { Polynomial } from '@milagro-ts/crypto/dealing'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { hashToG1 } from '@milagro-ts/crypto/hash-to-curve'
import { G1, type G2 } from '@milagro-ts/crypto/points'
import type { Random } from '@milagro-ts/crypto/ports'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { combineG1, recombineSecret, type ScalarShare } from '@milagro-ts/crypto/secret-sharing'
import { authorityServerKeyShare } from '@milagro-ts/crypto/server-key'
import { sha256 } from '@milagro-ts/crypto/sha256'
import { authorityIssue, shareContext, shareVerify } from '@milagro-ts/crypto/share-proof'
import { hasPublicKey, PURPOSES, type Purpose, SUITE } from '@milagro-ts/crypto/suite'
import { slotAt } from '@milagro-ts/crypto/time-permit'
import { encodeTlv } from '@milagro-ts/crypto/tlv'
import { p256 } from '@noble/curves/nist.js'
import {
  bytesOf,
  groupWith,
  type Knowledge,
  type Lie,
  type Lies,
  type Payload,
  payloadOf,
  say,
  sealedFor,
} from './ceremony-byzantine.js'
import { noLedger, refreshProposal, reshareProposal, rotateProposal } from './ceremony-members.js'
import { fixedRandom } from './fixed-random.js'
import type { Party } from './founding-members.js'

/** mulberry32: what happens in a run, and nothing that has to be secret in it. */
export class Chance {
  #state: number

  constructor(seed: number) {
    this.#state = seed >>> 0
  }
  /** In [0, 1). */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0
    let z = this.#state
    z = Math.imul(z ^ (z >>> 15), z | 1)
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61)
    return ((z ^ (z >>> 14)) >>> 0) / 2 ** 32
  }
  /** In low … high. */
  whole(low: number, high: number): number {
    return low + Math.floor(this.next() * (high - low + 1))
  }
  is(probability: number): boolean {
    return this.next() < probability
  }
  pick<T>(list: readonly T[]): T {
    return list[this.whole(0, list.length - 1)] as T
  }
  some<T>(list: readonly T[], count: number): T[] {
    const rest = [...list]
    return Array.from({ length: count }, () => rest.splice(this.whole(0, rest.length - 1), 1)[0] as T)
  }
}

export const FAULTS = [
  'loss',
  'duplication',
  'reordering',
  'partition',
  'crash',
  'coordinator crash',
  'clock',
  'byzantine',
] as const
export type Fault = (typeof FAULTS)[number]

/** Machines that are not as they should be: the checks must notice (the tests' controls). */
export type Broken =
  | 'takes every share'
  | 'serves before the end'
  | 'writes after it answers'
  | 'tells its box'
  | 'forgets the former key epoch'
  | 'keeps what has ended'
  | 'gives another delta'
  | 'goes over by itself'
  | 'tells its delta'
  | 'pools its shares'
  | 'pools its deltas'
  | 'keeps what others hold'
  | 'draws the same again'
  | 'minds no clock'

type Stage = Round | 'sign' | 'conclude'
interface Ask {
  readonly stage: Stage
  readonly rounds: CeremonyRounds
  readonly document?: GroupDocument
}
type Answer = { readonly message: string } | { readonly refused: unknown }

/** How a ceremony ended for its coordinator. */
export type Ending =
  | { readonly kind: 'done' }
  | { readonly kind: 'fault'; readonly code: string; readonly round: Round; readonly who: string }
  | { readonly kind: 'refused'; readonly code: string; readonly by: string; readonly why: string }
  | { readonly kind: 'silent'; readonly who: readonly string[] }

export interface CeremonyReport {
  readonly kind: CeremonyProposal['kind']
  readonly n: number
  readonly t: number
  readonly faults: readonly Fault[]
  readonly lies: Readonly<Record<string, string>>
  readonly ending: Ending
  /** The group's newest key epoch after it; 0 without a group. */
  readonly keyEpoch: number
}
export interface RunReport {
  readonly seed: number
  readonly purpose: Purpose
  readonly ceremonies: readonly CeremonyReport[]
  /** What must never be: none, or the run has found something. */
  readonly violations: readonly string[]
}

const SECOND = 1000
const HOUR = 3_600_000
/** Unix seconds at which a run begins; seconds of a slot, and slots of a day. */
const BEGIN = 1_800_000_000
const SLOT = 60
const DAY = 1440
const LEAD = 1

interface Event {
  readonly at: number
  readonly turn: number
  readonly happen: () => Promise<void> | void
}

/** Virtual time. */
class Schedule {
  now = 0
  #turn = 0
  #events: Event[] = []

  after(delay: number, happen: Event['happen']): void {
    this.#events.push({ at: this.now + delay, turn: this.#turn++, happen })
  }
  async run(): Promise<void> {
    for (;;) {
      let next: Event | undefined
      for (const event of this.#events)
        if (next === undefined || event.at < next.at || (event.at === next.at && event.turn < next.turn))
          next = event
      if (next === undefined) return
      this.#events = this.#events.filter(event => event !== next)
      this.now = next.at
      await next.happen()
    }
  }
}

/** What one lie is, and whether anybody can show it afterwards. */
interface LieKind {
  readonly name: string
  readonly provable: boolean
  readonly lies: (chance: Chance, ceremony: Ceremony, party: Party) => Lies | null
}

const otherBytes = (length: number, chance: Chance) =>
  toBase64Url(Uint8Array.from({ length }, () => chance.whole(0, 255)))
const one = Scalar.fromNumber(1)

const wrongSealed =
  (chance: Chance, plaintext: (knowledge: Knowledge) => Uint8Array | null): Lie =>
  async ({ sealed, ...rest }, knowledge) => {
    const changed = [...(sealed as string[])]
    const others = knowledge.ceremony.members.filter(({ name }) => name !== knowledge.party.name)
    const { member } = chance.pick(others)
    const bytes = plaintext(knowledge)
    changed[member - 1] =
      bytes === null ? otherBytes(chance.whole(1, 200), chance) : await sealedFor(knowledge, member, bytes)
    return { ...rest, sealed: changed }
  }

export const LIES: readonly LieKind[] = [
  {
    name: 'wrong share',
    provable: true,
    lies: (chance, { dealers }, { name }) =>
      dealers.some(one => one.name === name)
        ? { deal: wrongSealed(chance, () => encodeTlv([one.encode()])) }
        : null,
  },
  {
    name: 'share of a smuggled constant',
    provable: true,
    lies: (chance, { dealers, purposes }, { name }) =>
      dealers.some(one => one.name === name)
        ? {
            deal: wrongSealed(chance, ({ before }) => {
              const text = before?.polynomials?.[purposes[0] as Purpose] as string
              return encodeTlv([Polynomial.decode(fromBase64Url(text, 'f')).constant.add(one).encode()])
            }),
          }
        : null,
  },
  {
    name: 'sealed rubbish',
    provable: true,
    lies: (chance, { dealers }, { name }) =>
      dealers.some(one => one.name === name) ? { deal: wrongSealed(chance, () => null) } : null,
  },
  {
    name: 'one share too few',
    provable: true,
    lies: (_, { dealers }, { name }) =>
      dealers.some(one => one.name === name)
        ? { deal: payload => ({ ...payload, sealed: (payload.sealed as string[]).slice(1) }) }
        : null,
  },
  {
    name: 'another opening',
    provable: true,
    lies: (chance, { dealers }, { name }) =>
      dealers.some(one => one.name === name)
        ? { open: payload => ({ ...payload, blind: otherBytes(32, chance) }) }
        : null,
  },
  {
    name: 'wrong proof',
    provable: true,
    lies: (_, { drawsSecrets, purposes }) =>
      drawsSecrets
        ? {
            open: payload => {
              const [purpose] = purposes as [Purpose]
              const part = (payload.parts as Record<Purpose, { possession: { kappa: string; z: string } }>)[
                purpose
              ]
              const { kappa, z } = part.possession
              return { ...payload, parts: { [purpose]: { ...part, possession: { kappa: z, z: kappa } } } }
            },
          }
        : null,
  },
  {
    name: 'false complaint',
    provable: true,
    lies: (chance, { dealers, members }, { name }) =>
      members.some(one => one.name === name)
        ? {
            answer: (payload, { before }) => {
              const i = chance.whole(0, dealers.length - 1)
              return {
                ...payload,
                complaints: [{ dealer: dealers[i]?.dealer, boxKey: before?.boxes?.[i] }],
              }
            },
          }
        : null,
  },
  {
    name: 'public share of another secret',
    provable: true,
    lies: (_, { drawsSecrets, purposes: [purpose] }) =>
      drawsSecrets && hasPublicKey(purpose as Purpose)
        ? {
            answer: payload => ({
              ...payload,
              pub: { [purpose as Purpose]: toBase64Url(authorityServerKeyShare(one).encode()) },
            }),
          }
        : null,
  },
  {
    name: 'a secret too many',
    provable: true,
    lies: (_, { dealers, purposes: [purpose] }, { name }) =>
      dealers.some(one => one.name === name)
        ? {
            open: payload => {
              const parts = payload.parts as Record<string, unknown>
              return { ...payload, parts: { ...parts, [`${purpose}/99`]: parts[purpose as Purpose] } }
            },
          }
        : null,
  },
  {
    name: 'another document',
    provable: true,
    lies: chance => ({ result: payload => ({ ...payload, documentHash: otherBytes(32, chance) }) }),
  },
  {
    name: 'a box of small order',
    provable: true,
    lies: (_, { members }, { name }) =>
      members.some(one => one.name === name)
        ? {
            join: ({ boxes, ...rest }) => ({
              ...rest,
              boxes: [...(boxes as string[]).slice(1), toBase64Url(new Uint8Array(32))],
            }),
          }
        : null,
  },
  {
    name: 'after another past',
    provable: true,
    lies: (chance, ceremony, { name }) => {
      const spoken = ROUNDS.filter(round => ceremony.speakers(round).some(one => one.name === name))
      return { [chance.pick(spoken)]: (payload: Payload) => ({ ...payload, after: otherBytes(32, chance) }) }
    },
  },
]
/** Lies that are ways of answering rather than contents. */
export const WAYS = ['silence', 'equivocation', 'replay'] as const
type Way = (typeof WAYS)[number]

interface Lying {
  readonly name: string
  readonly provable: boolean
  readonly lies: Lies
  readonly way?: { readonly kind: Way; readonly round: Round }
}

/** s_j of every kept key epoch, by epoch. */
type Held = ReadonlyMap<number, Scalar>

/** What the run needs of one authority through all its ceremonies. */
interface Machine {
  readonly party: Party
  /** In force. */
  shares: Held | undefined
  document: GroupDocument | undefined
  /** Own messages of former ceremonies, by round. */
  readonly former: Map<Round, string>
  readonly broken: Broken | undefined
  /** Of broken ones: what they have put together in this ceremony, by index. */
  readonly pool: Map<number, Scalar>
}
/** Before a ceremony. */
type Standing = Pick<Machine, 'shares' | 'document'>

/** s_j by the names that the ceremony gives them. */
function forCeremony({ secrets }: Ceremony, held: Held): Shares {
  return new Map(
    secrets.flatMap(({ name, epoch }) => {
      const share = held.get(epoch)
      return share === undefined ? [] : [[name, share] as const]
    }),
  )
}

/** s'_j of what was dealt, by epoch. */
function dealtBy({ secrets }: Ceremony, record: CeremonyRecord | null): Map<number, Scalar> {
  const shares: Shares = record === null ? new Map() : sharesOf(record)
  return new Map(
    secrets.flatMap(({ name, epoch }) => {
      const share = shares.get(name)
      return share === undefined ? [] : [[epoch, share] as const]
    }),
  )
}

const epochsOf = ({ purposes }: GroupDocument, purpose: Purpose) => {
  const { former = [], ...newest } = purposes[purpose]
  return [newest, ...former]
}

/** What a machine serves once the document is in force: what was dealt, else what it had; of each kept epoch. */
function heldAfter(machine: Machine, ceremony: Ceremony, record: CeremonyRecord): Held {
  const dealt = dealtBy(ceremony, record)
  const [purpose] = ceremony.purposes as [Purpose]
  const [newest, ...former] = epochsOf(record.document as GroupDocument, purpose)
  const kept = machine.broken === 'forgets the former key epoch' ? [] : former
  const ended = machine.broken === 'keeps what has ended' ? (machine.shares ?? []) : []
  return new Map([
    ...ended,
    ...[newest, ...kept].flatMap(keys => {
      const epoch = keys?.epoch as number
      const share = dealt.get(epoch) ?? machine.shares?.get(epoch)
      return share === undefined ? [] : [[epoch, share] as const]
    }),
  ])
}

/** δ_j = s'_j − s_j. */
function deltaOf({ shares, broken }: Machine, from: number, to: number): Scalar | undefined {
  const [former, next] = [shares?.get(from), shares?.get(to)]
  if (former === undefined || next === undefined) return undefined
  return broken === 'gives another delta' ? former.subtract(next) : next.subtract(former)
}

/** One machine in one ceremony. */
class Member {
  readonly machine: Machine
  readonly lying: Lying | undefined
  /** What it has written: all that a crash leaves. */
  stored: CeremonyRecord | null = null
  signed: string | undefined
  concluded: GroupDocument | undefined
  /** Every polynomial (`secret f_i`) and box that it has had, for the checks. */
  readonly polynomials = new Set<string>()
  readonly boxes = new Map<string, string>()
  /** Every byte string that it has written, in hex. */
  readonly files = new Set<string>()
  down = false
  /** Offset of its clock; can be set. */
  clock = 0
  /** It has refused because of the hour; what its clock said when it signed, in unix seconds. */
  untimely = false
  signedAt: number | undefined
  readonly #ceremony: Ceremony
  readonly #random: Random
  readonly #arithmetic: CeremonyArithmetic
  /** Unix seconds at which the ceremony begins. */
  readonly #begin: number
  #joinedAt: number | undefined
  #told = new Set<Round>()

  constructor(
    machine: Machine,
    { ceremony, begin }: { ceremony: Ceremony; begin: number },
    lying: Lying | undefined,
    random: Random,
    arithmetic: CeremonyArithmetic,
  ) {
    this.machine = machine
    this.lying = lying
    this.#ceremony = ceremony
    this.#begin = begin
    this.#random = machine.broken === 'draws the same again' ? fixedRandom(machine.party.name) : random
    this.#arithmetic =
      machine.broken === 'takes every share' ? { ...arithmetic, shareFits: () => true } : arithmetic
  }

  get name(): string {
    return this.machine.party.name
  }
  /** In which rounds it has said what isn't so. */
  get told(): ReadonlySet<Round> {
    return this.#told
  }

  /** What it would answer, and the writing that comes before the answer. Null: it says nothing. */
  async handle(ask: Ask, now: number): Promise<{ answer: Answer; write: () => void } | null> {
    try {
      if (ask.stage === 'conclude') return await this.#conclude(ask.document as GroupDocument)
      if (ask.stage === 'sign') return await this.#sign(ask, now)
      return await this.#move(ask.stage, ask.rounds, now)
    } catch (error) {
      if (error instanceof Refused || error instanceof DecodeError)
        return { answer: { refused: error }, write: () => {} }
      throw error
    }
  }

  async #move(round: Round, rounds: CeremonyRounds, now: number) {
    const { party, shares, broken } = this.machine
    const way = this.lying?.way?.round === round ? this.lying.way.kind : undefined
    if (way === 'silence') return null
    const before = way === 'equivocation' ? this.#without(round) : this.stored
    if (before?.said[round] === undefined) this.#refuseLate(now)
    if (round === 'join' && before === null) this.#refuseUntimely(now)
    let record = await ceremonyMove(this.#ceremony, before, round, rounds, {
      name: party.name,
      key: party.signKey,
      random: this.#random,
      arithmetic: this.#arithmetic,
      ledger: noLedger,
      ...(shares && { current: forCeremony(this.#ceremony, shares) }),
    })
    if (record !== before) {
      const lie = this.lying?.lies[round]
      if (lie !== undefined) record = await this.#lie(record, round, lie, rounds)
      if (way === 'replay') {
        const former = this.machine.former.get(round)
        if (former !== undefined) record = withSaid(record, round, former)
      }
      if (way !== undefined) this.#told.add(round)
      if (broken === 'tells its box' && round === 'join')
        record = await this.#lie(record, round, ({ nonce: _, ...rest }) => ({
          ...rest,
          nonce: record.boxes?.[0],
        }))
      const delta = broken === 'tells its delta' && round === 'result' ? this.#delta(record) : undefined
      if (delta !== undefined)
        record = await this.#lie(record, round, payload => ({ ...payload, documentHash: delta }))
    }
    for (const [secret, text] of Object.entries(record.polynomials ?? {}))
      this.polynomials.add(`${secret} ${text}`)
    const said = payloadOf(record.said[round] as string)
    for (const [i, box] of (record.boxes ?? []).entries())
      if (round === 'join') this.boxes.set(box, (said.boxes as string[])[i] as string)
    const kept = broken === 'keeps what others hold' ? this.#keptOfOthers(record) : {}
    const written = JSON.parse(JSON.stringify({ ...record, ...kept })) as CeremonyRecord
    return {
      answer: { message: record.said[round] as string },
      write: () => {
        this.#joinedAt ??= now + this.clock
        this.stored = written
        // Its former messages are in what it wrote before.
        for (const bytes of bytesOf({ ...written, said: written.said[round] })) this.files.add(toHex(bytes))
        if (broken === 'serves before the end' && round === 'answer')
          this.machine.shares = dealtBy(this.#ceremony, written)
        if (broken === 'goes over by itself' && round === 'result') this.#goOver(written)
      },
    }
  }

  /** Of a rotation. */
  #delta(record: CeremonyRecord): string | undefined {
    const { proposal, secrets } = this.#ceremony
    if (proposal.kind !== 'rotate') return undefined
    const [{ epoch }] = secrets as [Ceremony['secrets'][number]]
    const next = dealtBy(this.#ceremony, record).get(epoch) as Scalar
    return toBase64Url(next.subtract(this.machine.shares?.get(epoch - 1) as Scalar).encode())
  }

  async #lie(record: CeremonyRecord, round: Round, lie: Lie, rounds: CeremonyRounds = []) {
    const { party } = this.machine
    const payload = payloadOf(record.said[round] as string)
    const knowledge = { ceremony: this.#ceremony, party, rounds, before: this.stored, record }
    if (this.lying !== undefined) this.#told.add(round)
    return withSaid(record, round, await say(party, round, await lie(payload, knowledge)))
  }

  /** Of an equivocator: as if it had never spoken in this round. */
  #without(round: Round): CeremonyRecord | null {
    if (this.stored?.said[round] === undefined) return this.stored
    if (round === 'join') return null
    // It keeps what it had before, as a liar may.
    return this.#kept.get(round) ?? this.stored
  }
  readonly #kept = new Map<Round, CeremonyRecord>()
  /** For an equivocator, before it writes. */
  keep(round: Round): void {
    if (this.stored !== null && !this.#kept.has(round)) this.#kept.set(round, this.stored)
  }

  async #sign({ rounds }: Ask, now: number) {
    if (this.lying?.way?.kind === 'silence' && this.lying.way.round === 'result') return null
    if (this.signed === undefined) {
      this.#refuseLate(now)
      this.#refuseUntimely(now)
    }
    const { party } = this.machine
    const { signature } = await ceremonySign(this.#ceremony, this.stored, rounds, {
      name: party.name,
      key: party.signKey,
    })
    const given = this.signed ?? JSON.stringify(signature)
    return {
      answer: { message: given },
      write: () => {
        this.signed = given
        this.signedAt ??= this.#unixSeconds(now)
      },
    }
  }

  async #conclude(document: GroupDocument) {
    const own = this.stored?.document
    if (own === undefined || !equalBytes(documentHash(own), documentHash(document)))
      throw new Refused('CONFLICT', { detail: 'this authority has computed another document' })
    if (!(await isSigned(document, this.#ceremony)))
      throw new Refused('NOT_APPROVED', { detail: 'signatures are missing' })
    return {
      answer: { message: this.#pool() ?? 'concluded' },
      write: () => {
        if (this.concluded === undefined) this.#goOver(this.stored as CeremonyRecord)
      },
    }
  }

  #goOver(record: CeremonyRecord): void {
    const { machine } = this
    const stays = this.#ceremony.members.some(({ name }) => name === this.name)
    machine.shares = stays ? heldAfter(machine, this.#ceremony, record) : undefined
    machine.document = record.document
    this.concluded = record.document
  }

  /** Of machines whose files are one: the shares of all that have come as far. */
  #keptOfOthers(record: CeremonyRecord) {
    const { member } = this.#ceremony.participant(this.name) as { member?: number }
    const [share] = dealtBy(this.#ceremony, record).values()
    if (member !== undefined && share !== undefined) this.machine.pool.set(member, share)
    return { kept: [...this.machine.pool.values()].map(share => toBase64Url(share.encode())) }
  }

  /** Of machines that put together what they have: s', or s' − s, once t have. */
  #pool(): string | undefined {
    const { proposal, t, secrets } = this.#ceremony
    const { broken, pool, shares: before } = this.machine
    if (proposal.kind !== 'rotate' || this.stored === null) return undefined
    const { member } = this.#ceremony.participant(this.name) as { member: number }
    const [{ epoch }] = secrets as [Ceremony['secrets'][number]]
    const [former, next] = [before?.get(epoch - 1), dealtBy(this.#ceremony, this.stored).get(epoch)]
    if (former === undefined || next === undefined) return undefined
    if (broken === 'pools its shares') pool.set(member, next)
    else if (broken === 'pools its deltas') pool.set(member, next.subtract(former))
    if (pool.size < t) return undefined
    const some = [...pool].slice(0, t).map(([index, scalar]) => ({ index, scalar }))
    return toBase64Url(recombineSecret(some).encode())
  }

  #refuseLate(now: number): void {
    if (this.#joinedAt !== undefined && now + this.clock > this.#joinedAt + 1000 * CEREMONY_WITHIN)
      throw new Refused('EXPIRED', { detail: 'the ceremony took longer than a day; make a new proposal' })
  }

  #refuseUntimely(now: number): void {
    if (this.machine.broken === 'minds no clock') return
    try {
      refuseUntimely(this.#ceremony, this.#unixSeconds(now))
    } catch (error) {
      this.untimely = true
      throw error
    }
  }

  #unixSeconds(now: number): number {
    return this.#begin + Math.floor((now + this.clock) / 1000)
  }
}

const withSaid = (record: CeremonyRecord, round: Round, said: string): CeremonyRecord => ({
  ...record,
  said: { ...record.said, [round]: said },
})

/** By t of the former group, by all n in a founding. */
async function isSigned(document: GroupDocument, { dealers, group, proposal }: Ceremony): Promise<boolean> {
  const needed = proposal.kind === 'found' ? proposal.group.n : (group as Predecessor).t
  const message = encodeTlv([utf8('group-document'), documentHash(document)])
  const signers = new Set<number>()
  for (const { index, signature } of document.signatures) {
    const key = dealers.find(({ dealer }) => dealer === index)?.signKey
    if (key !== undefined && (await key.verify(message, fromBase64Url(signature, 'signature', 64))))
      signers.add(index)
  }
  return signers.size >= needed
}

/** The network of one ceremony, and everything that went over it. */
class Network {
  readonly captured = new Set<string>()
  readonly #schedule: Schedule
  readonly #chance: Chance
  readonly #faults: readonly Fault[]
  #apart: { readonly from: number; readonly to: number; readonly names: readonly string[] }

  constructor(schedule: Schedule, chance: Chance, faults: readonly Fault[], names: readonly string[]) {
    this.#schedule = schedule
    this.#chance = chance
    this.#faults = faults
    const from = chance.whole(0, 10 * SECOND)
    const to = faults.includes('partition')
      ? from + (chance.is(0.1) ? 30 * HOUR : chance.whole(SECOND, HOUR))
      : from
    this.#apart = { from, to, names: chance.some(names, chance.whole(1, names.length)) }
  }

  get longPartition(): boolean {
    return this.#apart.to - this.#apart.from > HOUR
  }

  /** A message between the coordinator and `name`, in either direction. */
  send(name: string, body: unknown, deliver: Event['happen']): void {
    this.#capture(body)
    const chance = this.#chance
    const copies = this.#faults.includes('duplication') && chance.is(0.3) ? 2 : 1
    for (let copy = 0; copy < copies; copy++) {
      if (this.#faults.includes('loss') && chance.is(0.2)) continue
      const slow = this.#faults.includes('reordering') && chance.is(0.3)
      this.#schedule.after(chance.whole(1, slow ? 20 * SECOND : 100), () => {
        const { from, to, names } = this.#apart
        const { now } = this.#schedule
        return now >= from && now < to && names.includes(name) ? undefined : deliver()
      })
    }
  }

  #capture(body: unknown): void {
    if (typeof body === 'string') this.captured.add(body)
    else if (body instanceof Error) this.captured.add(`${body.name} ${body.message}`)
    else if (typeof body === 'object' && body !== null)
      for (const part of Object.values(body)) this.#capture(part)
  }
}

/** Relays, checks what it relays, asks again, gives up after a day. */
class Coordinator {
  ending: Ending | undefined
  /** Everybody has been told the end. */
  document: GroupDocument | undefined
  /** The round that it has come to. */
  stage: Stage = 'join'
  #rounds: string[][] = []
  #answers = new Map<string, string>()
  #asked = 0
  #life = 0
  readonly #ceremony: Ceremony
  readonly #ask: (name: string, ask: Ask, reply: (answer: Answer) => Promise<void>) => void
  readonly #schedule: Schedule
  readonly #arithmetic: CeremonyArithmetic

  constructor(
    ceremony: Ceremony,
    schedule: Schedule,
    arithmetic: CeremonyArithmetic,
    ask: (name: string, ask: Ask, reply: (answer: Answer) => Promise<void>) => void,
  ) {
    this.#ceremony = ceremony
    this.#schedule = schedule
    this.#arithmetic = arithmetic
    this.#ask = ask
  }

  /** From the beginning: after a crash it knows no more than the proposal. */
  start(): void {
    if (this.ending !== undefined) return
    this.#life++
    this.#rounds = []
    this.#enter('join')
  }

  #enter(stage: Stage): void {
    this.stage = stage
    this.#answers = new Map()
    this.#asked = 0
    this.#again(stage, this.#life)
  }

  #speakers(): readonly string[] {
    const { stage } = this
    if (stage === 'conclude') return this.#ceremony.participants.map(({ name }) => name)
    const speakers = stage === 'sign' ? this.#ceremony.dealers : this.#ceremony.speakers(stage)
    return speakers.map(({ name }) => name)
  }

  /** Asks whoever has not answered; more and more rarely. */
  #again(stage: Stage, life: number): void {
    if (this.ending !== undefined || this.stage !== stage || this.#life !== life) return
    const missing = this.#speakers().filter(name => !this.#answers.has(name))
    if (this.#schedule.now > 40 * HOUR) {
      this.#giveUp(missing)
      return
    }
    const rounds = this.#rounds.map(messages => [...messages])
    const ask: Ask = { stage, rounds, ...(this.document && { document: this.document }) }
    for (const name of missing)
      this.#ask(name, ask, answer =>
        this.ending === undefined && this.stage === stage && this.#life === life
          ? this.#take(name, answer)
          : Promise.resolve(),
      )
    this.#schedule.after(Math.min(SECOND * 2 ** this.#asked++, HOUR), () => this.#again(stage, life))
  }

  #giveUp(missing: readonly string[]): void {
    this.ending = this.stage === 'conclude' ? { kind: 'done' } : { kind: 'silent', who: missing }
  }

  async #take(name: string, answer: Answer): Promise<void> {
    if (this.#answers.has(name)) return
    if ('refused' in answer) {
      this.#fail(answer.refused, name)
      return
    }
    const { stage } = this
    if (stage !== 'sign' && stage !== 'conclude') {
      try {
        const { who } = await readMessage(this.#ceremony, stage, answer.message)
        if (who !== name)
          throw new CeremonyFault('NOT_APPROVED', stage, name, 'passes on what another has said')
      } catch (error) {
        // Whoever answers with what nobody has signed for this round.
        this.#fail(
          error instanceof CeremonyFault ? error : new CeremonyFault('NOT_APPROVED', stage, name, 'unsigned'),
          name,
        )
        return
      }
    }
    this.#answers.set(name, answer.message)
    if (this.#answers.size === this.#speakers().length) await this.#next()
  }

  async #next(): Promise<void> {
    const { stage } = this
    const answers = this.#speakers().map(name => this.#answers.get(name) as string)
    try {
      if (stage === 'conclude') this.ending = { kind: 'done' }
      else if (stage === 'sign') {
        const signatures = answers.map(answer => JSON.parse(answer) as { index: number; signature: string })
        const document = await this.#unsigned()
        this.document = { ...document, signatures }
        this.#enter('conclude')
      } else {
        this.#rounds.push(answers)
        await checkRounds(this.#ceremony, this.#rounds)
        if (stage === 'result') await checkResults(this.#ceremony, this.#rounds, await this.#unsigned())
        else if (stage === 'answer') await this.#unsigned()
        this.#enter(stage === 'result' ? 'sign' : (ROUNDS[ROUNDS.indexOf(stage) + 1] as Round))
      }
    } catch (error) {
      this.#fail(error, 'coordinator')
    }
  }

  #unsigned(): Promise<GroupDocument> {
    return checkCeremony(this.#ceremony, this.#rounds, this.#arithmetic)
  }

  #fail(error: unknown, by: string): void {
    if (error instanceof CeremonyFault)
      this.ending = { kind: 'fault', code: error.code, round: error.round, who: error.who }
    else if (error instanceof Refused)
      this.ending = { kind: 'refused', code: error.code, by, why: error.detail ?? error.log ?? '' }
    else if (error instanceof DecodeError)
      this.ending = { kind: 'refused', code: 'MALFORMED', by, why: error.message }
    else throw error
  }
}

/** What every participant computes alike, computed once. Points that are equal are one object here (`onePoint`). */
function remembering(): CeremonyArithmetic {
  const numbers = new WeakMap<object, number>()
  let count = 0
  const id = (thing: object) => {
    const known = numbers.get(thing)
    if (known !== undefined) return known
    numbers.set(thing, ++count)
    return count
  }
  const kept = new Map<string, unknown>()
  const once = <T>(key: string, compute: () => T): T => {
    if (!kept.has(key)) kept.set(key, compute())
    return kept.get(key) as T
  }
  return {
    ...onThisThread,
    possessionVerify: (context, commitment, { kappa, z }) =>
      once(
        `possession ${toHex(context.session)} ${context.purpose} ${context.index} ${id(commitment)} ${toHex(kappa.encode())} ${toHex(z.encode())}`,
        () => onThisThread.possessionVerify(context, commitment, { kappa, z }),
      ) as boolean,
    sumOfDealings: (dealings, index, weights) =>
      once(
        `sum ${dealings.map(({ firstPower, commitments }) => [firstPower, ...commitments.map(id)].join()).join(';')} ${index} ${(weights ?? []).map(weight => toHex(weight.encode())).join()}`,
        () => onThisThread.sumOfDealings(dealings, index, weights) as G1,
      ),
    sameLogarithm: (C: G1, W: G2) =>
      once(`log ${id(C)} ${toHex(W.encode())}`, () => onThisThread.sameLogarithm(C, W)) as boolean,
  }
}

/** P-256 keys out of names, so that a seed is a run. */
const parties = new Map<string, Promise<Party>>()
function partyNamed(name: string): Promise<Party> {
  const known = parties.get(name)
  if (known !== undefined) return known
  const make = async (): Promise<Party> => {
    const d = sha256(utf8(`P-256 of ${name}`))
    const point = p256.getPublicKey(d, false)
    const part = (from: number) => toBase64Url(point.slice(from, from + 32))
    const signKey = await Es256PrivateKey.fromJwk({
      kty: 'EC',
      crv: 'P-256',
      x: part(1),
      y: part(33),
      d: toBase64Url(d),
    })
    const { publicKey } = await HpkeKeyPair.fromSecret(sha256(utf8(`X25519 of ${name}`)))
    return { name, signKey, hpkeKey: toBase64Url(publicKey) }
  }
  const made = make()
  parties.set(name, made)
  return made
}

const named = (party: Party, i: number) => ({
  index: i + 1,
  name: party.name,
  url: `http://${party.name}.example`,
  signKey: party.signKey.publicKey.toBase64Url(),
  hpkeKey: party.hpkeKey,
})

async function foundingOf(members: readonly Party[], t: number, nonce: string): Promise<CeremonyProposal> {
  const [ra, rps] = await Promise.all([partyNamed('ra'), partyNamed('rps')])
  const group: GroupProposal = {
    suite: SUITE,
    v: 1,
    n: members.length,
    t,
    authorities: members.map(named),
    ra: { m: 1, keys: [{ kid: 'ra', key: ra.signKey.publicKey.toBase64Url() }] },
    recipients: [
      {
        name: 'rps',
        kind: 2,
        generation: 1,
        purposes: ['device', 'pin'],
        hpkeKey: rps.hpkeKey,
        requestKey: rps.signKey.publicKey.toBase64Url(),
      },
    ],
    slot: { origin: 0, length: SLOT },
    policy: { lead: LEAD, grace: 0 },
    firstSlot: 0,
    nonce,
  }
  return { suite: SUITE, v: 1, kind: 'found', group }
}

/** Small groups are the most of them: a ceremony costs n². */
const SIZES = [...Array(16).fill(3), ...Array(8).fill(4), 5, 5, 5, 5, 6, 7, 8, 9] as readonly number[]
const POOL = 12

/** t with 2t > n. */
const thresholdFor = (n: number, chance: Chance) => chance.whole(Math.floor(n / 2) + 1, n)

/** What becomes of the group once it is founded. */
const PLANS: readonly (readonly Exclude<CeremonyProposal['kind'], 'found'>[])[] = [
  ['refresh'],
  ['reshare'],
  ['rotate'],
  ['reshare', 'refresh'],
  ['refresh', 'reshare'],
  ['rotate', 'refresh'],
  ['rotate', 'reshare'],
  ['reshare', 'rotate'],
  ['rotate', 'rotate', 'rotate'],
]

/** One run: found, then refresh, reshare, rotate, one or more. */
export async function simulate(seed: number, broken?: Broken): Promise<RunReport> {
  return new Run(seed, broken).go()
}

class Run {
  readonly #seed: number
  readonly #chance: Chance
  readonly #purpose: Purpose
  readonly #broken: Broken | undefined
  readonly #ceremonies: CeremonyReport[] = []
  readonly #violations: string[] = []
  readonly #machines = new Map<string, Machine>()
  readonly #arithmetic = remembering()
  readonly #pool = new Map<number, Scalar>()
  #group: Predecessor | undefined
  /** Unix seconds. */
  #now = BEGIN
  /** Every key epoch that there has been: D = Σλ_j d_j of one device, as it was issued first in it. */
  readonly #epochs = new Map<number, PurposeKeys & { device?: G1 }>()
  readonly #liarsEver = new Set<string>()
  /** Every coefficient that an honest one has drawn, and who. */
  readonly #drawn = new Map<string, string>()

  constructor(seed: number, broken: Broken | undefined) {
    this.#seed = seed
    this.#chance = new Chance(seed)
    this.#broken = broken
    this.#purpose = this.#chance.pick(PURPOSES)
  }

  async go(): Promise<RunReport> {
    const chance = this.#chance
    const names = chance.some(
      Array.from({ length: POOL }, (_, i) => `ta${i + 1}`),
      chance.pick(SIZES),
    )
    const plan = chance.pick(PLANS)
    // At least one fault in the run; which ceremony it meets is drawn too.
    const faulty = chance.whole(0, plan.length)
    const faultsAt = (k: number): Fault[] => {
      const drawn = FAULTS.filter(fault => chance.is(fault === 'byzantine' ? 0.3 : 0.15))
      return k === faulty && drawn.length === 0 ? [chance.pick(FAULTS)] : drawn
    }
    let members = names
    let faults = faultsAt(0)
    while (this.#group === undefined) {
      const t = thresholdFor(members.length, chance)
      const proposal = await foundingOf(await this.#partiesOf(members), t, this.#nonce())
      const liars = await this.#ceremony(proposal, faults)
      // Whoever lied leaves, and the next try meets no fault of its own.
      members = members.filter(name => !liars.includes(name))
      faults = []
      if (this.#ceremonies.length > 3) break
    }
    for (const [k, kind] of plan.entries()) {
      if (this.#group === undefined || this.#isStopped(this.#group) || this.#violations.length > 0) break
      const proposal =
        kind === 'rotate'
          ? this.#rotate(this.#group)
          : kind === 'reshare' || this.#group.t < 2
            ? await this.#reshare(this.#group)
            : refreshProposal(this.#group, this.#nonce())
      await this.#ceremony(proposal, faultsAt(k + 1))
    }
    const [seed, purpose] = [this.#seed, this.#purpose]
    return { seed, purpose, ceremonies: this.#ceremonies, violations: this.#violations }
  }

  #nonce(): string {
    return toBase64Url(sha256(utf8(`${this.#seed} ${this.#chance.next()}`)))
  }

  async #partiesOf(names: readonly string[]): Promise<Party[]> {
    const found = await Promise.all(names.map(partyNamed))
    for (const party of found)
      if (!this.#machines.has(party.name))
        this.#machines.set(party.name, {
          party,
          shares: undefined,
          document: undefined,
          former: new Map(),
          // In the controls every machine is broken.
          broken: this.#broken,
          pool: this.#pool,
        })
    return found
  }

  async #reshare(group: Predecessor): Promise<CeremonyProposal> {
    const chance = this.#chance
    const indices = group.authorities.map(({ index }) => index)
    const dealers = chance.some(indices, chance.whole(group.t, indices.length)).sort((a, b) => a - b)
    const now = group.authorities.map(({ name }) => name)
    const others = Array.from({ length: POOL }, (_, i) => `ta${i + 1}`).filter(name => !now.includes(name))
    const n = chance.pick(SIZES)
    const stay = chance.whole(0, Math.min(n, now.length))
    const fresh = Math.min(n - stay, others.length)
    const members = [...chance.some(now, Math.min(n - fresh, now.length)), ...chance.some(others, fresh)]
    const t = thresholdFor(members.length, chance)
    const proposal = reshareProposal(group, { dealers, t, members: await this.#partiesOf(members) })
    return { ...proposal, nonce: this.#nonce() } as CeremonyProposal
  }

  /** Mostly once the last key epoch has begun, and with days to come: at another time it may be refused. */
  #rotate(group: Predecessor): CeremonyProposal {
    const chance = this.#chance
    const last = newestOf(group, this.#purpose).firstSlot
    if (chance.is(0.9)) this.#now = Math.max(this.#now, last * SLOT)
    const soonest = Math.max(this.#slot() + LEAD, last) + 1
    const firstSlot = soonest + (chance.is(0.15) ? chance.whole(0, 20) : chance.whole(3 * DAY, 5 * DAY))
    return rotateProposal(group, { firstSlot, purposes: [this.#purpose], nonce: this.#nonce() })
  }

  #slot(now = this.#now): number {
    return slotAt({ origin: 0, length: SLOT }, now)
  }

  /** The names of those who lied. */
  async #ceremony(proposal: CeremonyProposal, faults: readonly Fault[]): Promise<string[]> {
    const chance = this.#chance
    const ceremony = Ceremony.read(proposal, this.#group, [this.#purpose])
    const lying = faults.includes('byzantine') ? this.#liars(ceremony) : new Map<string, Lying>()
    const members = new Map(
      ceremony.participants.map(({ name }) => {
        const random = fixedRandom(`${this.#seed} ${this.#ceremonies.length} ${name}`)
        const machine = this.#machines.get(name) as Machine
        const moment = { ceremony, begin: this.#now }
        const member = new Member(machine, moment, lying.get(name), random, this.#arithmetic)
        return [name, member]
      }),
    )
    for (const name of lying.keys()) this.#liarsEver.add(name)
    const before = new Map([...this.#machines].map(([name, machine]) => [name, { ...machine }]))
    this.#pool.clear()
    const world = new World(ceremony, members, faults, chance, this.#arithmetic)
    await world.run()
    await world.heal()
    const ending = world.coordinator.ending as Ending
    await this.#check(world, before)
    this.#now += Math.ceil(world.elapsed / 1000)
    this.#ceremonies.push({
      kind: proposal.kind,
      n: ceremony.members.length,
      t: ceremony.t,
      faults,
      lies: Object.fromEntries([...lying].map(([name, lie]) => [name, lie.name])),
      ending,
      keyEpoch: this.#group === undefined ? 0 : newestOf(this.#group, this.#purpose).epoch,
    })
    for (const member of members.values())
      for (const round of ROUNDS) {
        const said = member.stored?.said[round]
        if (said !== undefined) member.machine.former.set(round, said)
      }
    return [...lying.keys()]
  }

  /** Fewer than t, of the dealers as of the members to be. */
  #liars(ceremony: Ceremony): Map<string, Lying> {
    const chance = this.#chance
    const most = Math.min(ceremony.t, ceremony.group?.t ?? ceremony.t, 3) - 1
    const lying = new Map<string, Lying>()
    if (most < 1) return lying
    for (const { name } of chance.some(ceremony.participants, chance.whole(1, most))) {
      const { party } = this.#machines.get(name) as Machine
      const spoken = ROUNDS.filter(round => ceremony.speakers(round).some(one => one.name === name))
      if (chance.is(0.3)) {
        const kind = chance.pick(WAYS)
        lying.set(name, { name: kind, provable: false, lies: {}, way: { kind, round: chance.pick(spoken) } })
        continue
      }
      const kinds = LIES.flatMap(({ name, provable, lies }) => {
        const made = lies(chance, ceremony, party)
        return made === null ? [] : [{ name, provable, lies: made }]
      })
      lying.set(name, chance.pick(kinds))
    }
    return lying
  }

  async #check(world: World, before: ReadonlyMap<string, Standing>): Promise<void> {
    const { ceremony, members, coordinator } = world
    const ending = coordinator.ending as Ending
    const wrong = (what: string) => {
      this.#violations.push(`${ceremony.proposal.kind} ${this.#ceremonies.length + 1}: ${what}`)
    }
    const honest = [...members.values()].filter(({ lying }) => lying === undefined)
    const liars = [...members.values()].filter(({ lying }) => lying !== undefined)
    const isLiar = (name: string) => members.get(name)?.lying !== undefined

    this.#checkSecrets(world, before, wrong)
    this.#checkDeals(honest, world, wrong)

    // All honest ones agree on the document, or on failure.
    const outcomes = new Set(
      honest.map(({ concluded }) => (concluded ? toBase64Url(documentHash(concluded)) : 'none')),
    )
    if (outcomes.size > 1) wrong(`honest members disagree: ${[...outcomes].join(', ')}`)
    const document = honest[0]?.concluded
    const equivocated = liars.some(({ lying }) => lying?.way?.kind === 'equivocation')
    // Once it is signed, an equivocator can keep the coordinator from its end, and nobody else: it has lost its own past
    // and doesn't conclude, or a coordinator that has crashed begins again and hears what fits nobody's past.
    const isKept =
      equivocated &&
      coordinator.document !== undefined &&
      ending.kind === 'refused' &&
      (isLiar(ending.by) || world.faults.includes('coordinator crash'))
    if ((ending.kind === 'done') !== (document !== undefined) && !(isKept && document !== undefined))
      wrong(`ended ${ending.kind}, but members differ`)

    // Whoever is named has lied; a lie that can be shown is named.
    if (ending.kind === 'fault' && !isLiar(ending.who) && !(ending.code === 'CONFLICT' && equivocated))
      wrong(`${ending.who}, who is honest, is named: ${ending.code} ${ending.round}`)
    const isUntimely = ending.kind === 'refused' && members.get(ending.by)?.untimely === true
    const hasNothing = ending.kind === 'refused' && this.#hasNothingToDeal(ending.by, ceremony, before)
    if (
      ending.kind === 'refused' &&
      ending.code !== 'EXPIRED' &&
      !isUntimely &&
      !hasNothing &&
      // An equivocator that has lost its own past refuses by itself, and is named by that.
      !(equivocated && (ending.code === 'CONFLICT' || isLiar(ending.by)))
    )
      wrong(`${ending.by} refuses, and nobody is named: ${ending.code} ${ending.why}`)
    const shown = liars.filter(({ lying, told }) => lying?.provable === true && told.size > 0)
    if (shown.length > 0 && ending.kind === 'done') wrong(`${shown[0]?.name} lied, and it went through`)
    if (ending.kind === 'silent' && !world.network.longPartition && ending.who.some(name => !isLiar(name)))
      wrong(`${ending.who.join()} were asked for a day and said nothing`)
    const excused =
      liars.length > 0 ||
      hasNothing ||
      world.network.longPartition ||
      world.faults.includes('clock') ||
      (isUntimely && this.#mayBeUntimely(world))
    if (!excused && ending.kind !== 'done') wrong(`no reason to end with ${JSON.stringify(ending)}`)

    const purpose = this.#purpose
    if (document === undefined) {
      for (const [name, { shares, document }] of before) {
        const machine = this.#machines.get(name)
        if (machine?.shares !== shares) wrong(`${name} serves another share after a failure`)
        if (machine?.document !== document) wrong(`${name} has another document after a failure`)
      }
    } else {
      const group = groupWith([purpose], document, this.#group)
      this.#checkEpochs(world, group, wrong)
      this.#group = group
    }
    this.#checkKeys(wrong)
    this.#checkDeltas(wrong)
  }

  /** The proposal came before the last key epoch had begun, or the new one was near. */
  #mayBeUntimely({ ceremony: { proposal, group }, elapsed }: World): boolean {
    if (proposal.kind !== 'rotate' || group === undefined) return false
    const hasBegun = newestOf(group, this.#purpose).firstSlot <= this.#slot()
    return !hasBegun || proposal.firstSlot <= this.#slot(this.#now + Math.ceil(elapsed / 1000)) + LEAD
  }

  /** Keys of key epochs are what they were; a rotation adds one, in time, and the one in force is kept. */
  #checkEpochs(
    { ceremony: { proposal, group: before }, members, faults, elapsed }: World,
    group: Predecessor,
    wrong: (what: string) => void,
  ): void {
    const purpose = this.#purpose
    const epochs = group.epochs(purpose)
    for (const { epoch, ivk, firstSlot } of epochs) {
      const known = this.#epochs.get(epoch)
      if (known !== undefined && !(known.ivk.equals(ivk) && known.firstSlot === firstSlot))
        wrong(`another IVK of key epoch ${epoch}`)
    }
    const former = before?.epochs(purpose).map(({ epoch }) => epoch) ?? []
    const expected = proposal.kind === 'rotate' ? [(former[0] as number) + 1, ...former].slice(0, 3) : former
    if (before !== undefined && epochs.map(({ epoch }) => epoch).join() !== expected.join())
      wrong(`key epochs ${epochs.map(({ epoch }) => epoch).join()} after ${former.join()}`)
    const [newest] = epochs as [PurposeKeys]
    if (!this.#epochs.has(newest.epoch)) {
      for (const [epoch, { ivk }] of this.#epochs)
        if (ivk.equals(newest.ivk)) wrong(`the IVK of key epoch ${epoch} again`)
      this.#epochs.set(newest.epoch, newest)
    }
    if (proposal.kind !== 'rotate' || before === undefined) return
    for (const { name, lying, signedAt } of members.values()) {
      if (lying !== undefined || signedAt === undefined) continue
      if (proposal.firstSlot <= this.#slot(signedAt) + LEAD)
        wrong(`${name} has signed in slot ${this.#slot(signedAt)}, near ${proposal.firstSlot}`)
      if (newestOf(before, purpose).firstSlot > this.#slot(signedAt))
        wrong(`${name} has signed before the last key epoch has begun`)
    }
    const present = this.#slot(this.#now + Math.ceil(elapsed / 1000))
    const inForce = [...this.#epochs.values()].findLast(({ firstSlot }) => firstSlot <= present)
    if (!faults.includes('clock') && inForce !== undefined && !expected.includes(inForce.epoch))
      wrong(`key epoch ${inForce.epoch}, in force, is kept no more`)
  }

  /** Who goes by the document in force, and holds a share of a kept key epoch. */
  #holders({ authorities, document }: Predecessor, epoch: number): (ScalarShare & { machine: Machine })[] {
    const inForce = documentHash(document)
    return authorities.flatMap(({ index, name }) => {
      const machine = this.#machines.get(name)
      const scalar = machine?.shares?.get(epoch)
      return machine?.document === undefined ||
        scalar === undefined ||
        !equalBytes(documentHash(machine.document), inForce)
        ? []
        : [{ index, scalar, machine }]
    })
  }

  /** Fewer than t hold a share of a kept key epoch, and whoever doesn't has lied: more than n − t can always stop a group. */
  #isStopped(group: Predecessor): boolean {
    return group.epochs(this.#purpose).some(({ epoch }) => {
      const holders = this.#holders(group, epoch)
      const others = group.authorities.filter(({ index }) => !holders.some(one => one.index === index))
      return holders.length < group.t && others.every(({ name }) => this.#liarsEver.has(name))
    })
  }

  /** It has lied and not concluded, in a former ceremony, and so has nothing to deal of a key epoch that is kept. */
  #hasNothingToDeal(name: string, { secrets, proposal }: Ceremony, before: ReadonlyMap<string, Standing>) {
    return (
      (proposal.kind === 'refresh' || proposal.kind === 'reshare') &&
      this.#liarsEver.has(name) &&
      secrets.some(({ epoch }) => before.get(name)?.shares?.has(epoch) !== true)
    )
  }

  /** Of each kept key epoch the group's key and a device's, from t of those who hold a share, whichever they are. */
  #checkKeys(wrong: (what: string) => void): void {
    const group = this.#group
    if (group === undefined || this.#isStopped(group)) return
    const A = hashToG1(this.#purpose, DEVICE)
    const epochs = group.epochs(this.#purpose)
    for (const { epoch, ivk } of epochs) {
      const holders = this.#holders(group, epoch)
      if (holders.length < group.t) {
        wrong(`${holders.length} hold a share of key epoch ${epoch}, ${group.t} are needed`)
        return
      }
      for (let set = 0; set < (epoch === epochs[0]?.epoch ? 2 : 1); set++) {
        const some = this.#chance.some(holders, group.t)
        const indices = some.map(({ index }) => index).join()
        if (!G1.generator.mulSecret(recombineSecret(some)).equals(ivk))
          wrong(`the shares of ${indices} don’t make IVK of key epoch ${epoch}`)
        const D = combineG1(some.map(({ index, scalar }) => ({ index, point: A.mulSecret(scalar) })))
        const known = this.#epochs.get(epoch) as PurposeKeys & { device?: G1 }
        known.device ??= D
        if (!D.equals(known.device))
          wrong(`the device’s key of key epoch ${epoch} from ${indices} is another`)
      }
    }
    for (const [name, { shares }] of this.#machines)
      for (const epoch of shares?.keys() ?? [])
        if (!epochs.some(kept => kept.epoch === epoch))
          wrong(`${name} holds a share of key epoch ${epoch}, which has ended`)
  }

  /** D + Δ·A is the device's key of a later key epoch, and each part of Δ·A is proven over C'_j − C_j. */
  #checkDeltas(wrong: (what: string) => void): void {
    const group = this.#group
    const kept = group?.epochs(this.#purpose) ?? []
    if (group === undefined || kept.length < 2 || this.#isStopped(group)) return
    const [later, former] = this.#chance.some(kept, 2).sort((one, other) => other.epoch - one.epoch) as [
      PurposeKeys,
      PurposeKeys,
    ]
    const step = `from key epoch ${former.epoch} to ${later.epoch}`
    const A = hashToG1(this.#purpose, DEVICE)
    const holders = this.#holders(group, later.epoch)
    const ofBoth = this.#holders(group, former.epoch).map(({ index }) => index)
    // Whoever has lied and not concluded may have shares since a rotation, and none from before it.
    const able = holders.filter(
      ({ index, machine }) => ofBoth.includes(index) || !this.#liarsEver.has(machine.party.name),
    )
    const shares = this.#chance.some(able, Math.min(group.t, able.length)).flatMap(holder => {
      const { index, machine } = holder
      const delta = deltaOf(machine, former.epoch, later.epoch)
      if (delta === undefined) return []
      const ctx = shareContext({
        groupId: group.groupId,
        purpose: this.#purpose,
        index,
        shareEpoch: group.document.revision,
        identity: DEVICE,
        jti: new Uint8Array(16).fill(index),
        rotation: { oldEpoch: former.epoch, newEpoch: later.epoch },
      })
      const [C, next] = [former, later].map(({ commitments }) => commitments[index - 1] as G1) as [G1, G1]
      const terms = { ctx, commitment: next.subtract(C), A }
      const share = authorityIssue(terms, delta, fixedRandom(`${this.#seed} ${machine.party.name} ${step}`))
      if (!shareVerify(terms, share)) wrong(`the delta of ${machine.party.name} ${step} is not proven`)
      return [{ index, point: share.d }]
    })
    if (shares.length < group.t) {
      wrong(`${shares.length} give a delta ${step}, ${group.t} are needed`)
      return
    }
    const [D, next] = [this.#epochs.get(former.epoch)?.device, this.#epochs.get(later.epoch)?.device]
    if (D?.add(combineG1(shares)).equals(next as G1) !== true)
      wrong(`the device’s key with the delta ${step} is another`)
  }

  /**
   * Nothing that went over the network holds s, s', s' − s, a polynomial, a share, a δ_j, an evaluation, or a box but in
   * a complaint; nor does a file, but of what is its machine's own.
   */
  #checkSecrets(
    { ceremony, members, network }: World,
    before: ReadonlyMap<string, Standing>,
    wrong: (what: string) => void,
  ): void {
    /** A group of one has no other s than its member's share: whose a secret is may have two answers. */
    const secrets = new Map<string, { readonly name: string; readonly whose: readonly string[] }>()
    const keepBytes = (what: string, whose: string, bytes: Uint8Array, rest = '') => {
      const others = secrets.get(toHex(bytes))?.whose ?? []
      secrets.set(toHex(bytes), { name: `${what} of ${whose}${rest}`, whose: [...others, whose] })
    }
    const keep = (what: string, whose: string, scalar: Scalar, rest = '') => {
      if (!scalar.isZero()) keepBytes(what, whose, scalar.encode(), rest)
    }
    /** Of one share epoch. */
    const keepAll = (what: string, whose: string, held: Held) => {
      for (const [epoch, share] of held) {
        keep(what, whose, share, `, key epoch ${epoch}`)
        for (const [former, other] of held)
          if (former < epoch)
            keep(`difference of ${what}`, whose, share.subtract(other), `, key epochs ${former} and ${epoch}`)
      }
    }
    for (const [name, { machine, lying, polynomials, boxes, stored }] of members) {
      const former = before.get(name)?.shares ?? new Map<number, Scalar>()
      const dealt = dealtBy(ceremony, stored)
      keepAll('share', name, former)
      keepAll('share', name, machine.shares ?? new Map())
      keepAll('share', name, ceremony.proposal.kind === 'rotate' ? new Map([...former, ...dealt]) : dealt)
      if (lying !== undefined) continue
      const complaints = payloadOfAnswer(stored)
      for (const box of boxes.keys())
        if (!complaints.includes(box)) keepBytes('box', name, fromBase64Url(box, 'box'))
      for (const text of polynomials) {
        const bytes = bytesOfPolynomial(text)
        const f = Polynomial.decode(bytes)
        for (let k = 0; k < bytes.length; k += 32)
          keep('coefficient', name, Scalar.decode(bytes.slice(k, k + 32)))
        for (const { member } of ceremony.members) keep('evaluation', name, f.at(member))
      }
    }
    const former = this.#group === undefined ? new Map() : secretsOf(this.#group, before, this.#purpose)
    keepAll('s', 'the group', former)
    const [concluded] = [...members.values()].flatMap(({ concluded }) => concluded ?? [])
    if (concluded !== undefined)
      keepAll(
        's',
        'the group',
        secretsOf(groupWith([this.#purpose], concluded), this.#machines, this.#purpose),
      )
    // What a rotation that has failed would have come to.
    const constants = ceremony.dealers.flatMap(({ name }) =>
      [...(members.get(name)?.polynomials ?? [])].map(
        text => Polynomial.decode(bytesOfPolynomial(text)).constant,
      ),
    )
    if (ceremony.proposal.kind === 'rotate' && constants.length === ceremony.dealers.length) {
      const s = constants.reduce((sum, constant) => sum.add(constant))
      keepAll('s', 'the group', new Map([...former, [ceremony.secrets[0]?.epoch as number, s]]))
    }
    const said = [...network.captured]
    const everything = said.flatMap(text => [...bytesOf(text)].map(toHex)).join(' ')
    for (const [secret, { name }] of secrets)
      if (everything.includes(secret)) wrong(`over the network: ${name}`)
    for (const [owner, { files }] of members) {
      const written = [...files].join(' ')
      for (const [secret, { name, whose }] of secrets)
        if (!whose.includes(owner) && written.includes(secret)) wrong(`in a file of ${owner}: ${name}`)
    }
  }

  /**
   * Each polynomial was dealt in one message, one evaluation for each member, and has nothing in common with another: so
   * t−1 members have t−1 evaluations.
   */
  #checkDeals(honest: readonly Member[], { network, ceremony }: World, wrong: (what: string) => void): void {
    const deals = new Map<string, Set<string>>()
    for (const text of network.captured) {
      const [header, payload] = text.split('.') as [string, string | undefined]
      if (payload === undefined || text.split('.').length !== 3) continue
      const { typ, kid } = payloadOf(`.${header}.`) as { typ: string; kid: string }
      if (typ === 'mpin-ceremony-deal+jwt') deals.set(kid, (deals.get(kid) ?? new Set()).add(payload))
    }
    for (const { name, polynomials } of honest) {
      const said = deals.get(name)
      if (said === undefined) continue
      const times = polynomials.size / ceremony.secrets.length
      if (said.size > times) wrong(`${name} has dealt ${times} polynomial in ${said.size} messages`)
      for (const payload of said)
        if ((payloadOf(`.${payload}.`).sealed as string[]).length !== ceremony.members.length)
          wrong(`${name} has sealed other than one evaluation for each member`)
    }
    for (const { name, polynomials } of honest)
      for (const text of polynomials) {
        const bytes = bytesOfPolynomial(text)
        // A refresh and a reshare have their constants from elsewhere.
        for (let k = ceremony.drawsSecrets ? 0 : 32; k < bytes.length; k += 32) {
          const coefficient = toHex(bytes.slice(k, k + 32))
          const known = this.#drawn.get(coefficient)
          if (known !== undefined) wrong(`${name} has a coefficient that ${known} has dealt before`)
          this.#drawn.set(coefficient, name)
        }
      }
  }
}

/** Who holds the secrets of a group, and which: s of each kept key epoch, as far as t hold a share. */
function secretsOf(
  { authorities, t, epochs }: Predecessor,
  machines: ReadonlyMap<string, Standing>,
  purpose: Purpose,
): Held {
  return new Map(
    epochs(purpose).flatMap(({ epoch }) => {
      const held = authorities.flatMap(({ index, name }) => {
        const scalar = machines.get(name)?.shares?.get(epoch)
        return scalar === undefined ? [] : [{ index, scalar }]
      })
      return held.length < t ? [] : [[epoch, recombineSecret(held.slice(0, t))] as const]
    }),
  )
}

/** Of the one purpose of a run. */
const newestOf = (group: Predecessor, purpose: Purpose) => group.epochs(purpose)[0] as PurposeKeys
const DEVICE = utf8('a device')
const bytesOfPolynomial = (text: string) => fromBase64Url(text.split(' ')[1] as string, 'polynomial')

const payloadOfAnswer = (record: CeremonyRecord | null): string[] =>
  record?.said.answer === undefined
    ? []
    : (payloadOf(record.said.answer).complaints as { boxKey: string }[]).map(({ boxKey }) => boxKey)

/** One ceremony with its network, its crashes and its clocks. */
class World {
  readonly ceremony: Ceremony
  readonly members: ReadonlyMap<string, Member>
  readonly faults: readonly Fault[]
  readonly network: Network
  readonly coordinator: Coordinator
  readonly #schedule = new Schedule()
  readonly #chance: Chance

  constructor(
    ceremony: Ceremony,
    members: ReadonlyMap<string, Member>,
    faults: readonly Fault[],
    chance: Chance,
    arithmetic: CeremonyArithmetic,
  ) {
    this.ceremony = ceremony
    this.members = members
    this.faults = faults
    this.#chance = chance
    this.network = new Network(this.#schedule, chance, faults, [...members.keys()])
    this.coordinator = new Coordinator(ceremony, this.#schedule, arithmetic, (name, ask, reply) =>
      this.network.send(name, ask, () => this.#deliver(members.get(name) as Member, ask, reply)),
    )
  }

  async run(): Promise<void> {
    const chance = this.#chance
    if (this.faults.includes('coordinator crash'))
      for (let crashes = chance.whole(1, 3); crashes > 0; crashes--)
        this.#schedule.after(chance.whole(0, 2 * SECOND), () => this.coordinator.start())
    if (this.faults.includes('clock'))
      for (const member of this.members.values()) {
        member.clock = chance.whole(-2000 * CEREMONY_WITHIN, 2000 * CEREMONY_WITHIN)
        if (chance.is(0.2))
          this.#schedule.after(chance.whole(0, 2 * SECOND), () => {
            member.clock += chance.whole(-2000 * CEREMONY_WITHIN, 2000 * CEREMONY_WITHIN)
          })
      }
    this.coordinator.start()
    await this.#schedule.run()
  }

  /** Milliseconds since the ceremony began. */
  get elapsed(): number {
    return this.#schedule.now
  }

  async #deliver(member: Member, ask: Ask, reply: (answer: Answer) => Promise<void>): Promise<void> {
    if (member.down) return
    const handled = await member.handle(ask, this.#schedule.now)
    if (handled === null) return
    const crash =
      this.faults.includes('crash') && this.#chance.is(0.15) ? this.#chance.pick(['before', 'after']) : null
    const send = () => this.network.send(member.name, handled.answer, () => reply(handled.answer))
    if (crash === 'before') {
      // What has not been written is as if it had never been; unless a machine answers first.
      if (member.machine.broken === 'writes after it answers') send()
    } else {
      if (ask.stage !== 'sign' && ask.stage !== 'conclude') member.keep(ask.stage)
      handled.write()
      if (crash === null) send()
    }
    if (crash === null) return
    member.down = true
    this.#schedule.after(this.#chance.whole(100, 30 * SECOND), () => {
      member.down = false
    })
  }

  /** The network is whole again: a document that is signed reaches everybody. */
  async heal(): Promise<void> {
    const { document } = this.coordinator
    if (document === undefined) return
    for (const member of this.members.values()) {
      if (member.concluded !== undefined) continue
      const handled = await member.handle({ stage: 'conclude', rounds: [], document }, 0)
      handled?.write()
    }
  }
}
