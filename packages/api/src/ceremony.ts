/**
 * A ceremony: authorities make, refresh, hand on or rotate a group's master secrets, which nobody ever holds
 * (protocols.md §3; the mathematics is crypto/dealing.ts). All secrets go through it together, with independent
 * polynomials: in a rotation those of the purposes that get a new key epoch, else those of every kept key epoch.
 *
 *   round    who       says                                         has checked before
 *   join     all       nonce; per dealer one fresh HPKE key (box)   the operator accepted the proposal's hash
 *   commit   dealers   SHA-256(TLV{blind, A_{i,k} …})               everybody's joins
 *   open     dealers   blind, A_{i,k}, proof of a_{i,0}             everybody's commits
 *   deal     dealers   f_i(j) sealed to box (j, i), for every j     openings: they fit the commits, proofs hold, C_i
 *   answer   all       complaints: the box's secret key; s'_jQ      each f_i(j) fits A_{i,k}
 *   result   all       hash of the document that each has computed  no complaint; s'_jQ fits C'_j; s'_j is stored
 *   sign     members of the former group (founding: all)            all n results name one document
 *   conclude –         the new shares are in force, old ones go     t signatures (founding: n)
 *
 * Every message is signed and says in `after` what came before it: chain_0 = SHA-256(proposal), chain_{r+1} =
 * SHA-256(JCS[chain_r, payloads of round r in the participants' order]). So whoever was shown something else speaks
 * after another chain, and the ceremony ends there; session = chain_1. The coordinator relays, holds no secret, is
 * believed nothing; a move that is asked again answers with the same bytes, and one ceremony has one past.
 *
 * Why it holds. The commits keep the last dealer from choosing its A_{i,0} after the others'; the proof of possession,
 * bound to session and dealer, keeps it from dealing what it doesn't know; in a reshare A_{i,0} = C_i, in a refresh
 * there is no A_{i,0}, so the group's secret can't change. A rotation is a founding among the members in force, and the
 * secrets before it stay as they were dealt. A dealer's lie is shown by the box's secret key, which opens
 * one sealed share of one dead session; no dealer ever publishes a share. Box keys and polynomials are destroyed when
 * their round is over, so a recorded ceremony and stolen long-term keys give nothing. Nobody's share is in force before
 * everybody has stored his.
 *
 * A result also says which documents of former ceremonies from this revision its speaker abandons: it has not signed them
 * and never will. So whoever has signed one of them knows when it can't find its signatures any more, and is free.
 *
 * Whoever lied is named and leaves; the ceremony ends and a new proposal, without him, starts another (in a refresh
 * and a reshare the dealers are a fixed set anyway, and a founding has nothing to lose).
 */
import { be32, concat, equalBytes, fromBase64Url, toBase64Url, utf8 } from '@milagro-ts/crypto/bytes'
import {
  type Dealing,
  type FirstPower,
  Polynomial,
  shareFits,
  sumOfDealings,
} from '@milagro-ts/crypto/dealing'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { G1, G2 } from '@milagro-ts/crypto/points'
import type { Random } from '@milagro-ts/crypto/ports'
import { possessionProve, possessionVerify } from '@milagro-ts/crypto/possession'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { combineG2, lagrangeAtZero, type PointShare } from '@milagro-ts/crypto/secret-sharing'
import { authorityServerKeyShare, sameLogarithm } from '@milagro-ts/crypto/server-key'
import { sha256 } from '@milagro-ts/crypto/sha256'
import { hasPublicKey, PURPOSES, type Purpose, SUITE } from '@milagro-ts/crypto/suite'
import { slotAt } from '@milagro-ts/crypto/time-permit'
import { decodeTlv, encodeTlv } from '@milagro-ts/crypto/tlv'
import { canonicalBytes, canonicalHash } from './canonical-json.js'
import { FIRST_EPOCH } from './founding.js'
import { checkProposal, documentHash, type Group, type PurposeKeys, signDocument } from './group.js'
import { Authority, type GroupDocument, GroupProposal, KEPT_EPOCHS } from './group-document.js'
import { signJws, verifyJws } from './jws.js'
import { decodeHpkeKey, type Es256PrivateKey, Es256PublicKey, HpkeKeyPair } from './keys.js'
import { Refused } from './problem.js'
import {
  Bytes,
  BytesUpTo,
  GroupIdField,
  HpkeKeyField,
  Jws,
  PurposeField,
  ServerName,
  Strict,
  Uint32,
} from './schemas.js'
import { open, seal } from './seal.js'
import Type, { Compile, type Static } from './typebox.js'

/** Seconds from an authority's join to its signature, unless the proposal says. */
export const CEREMONY_WITHIN = 86_400
/** Participants of one ceremony at most. */
export const PARTICIPANTS = 32

const Suite = Type.Literal(SUITE)
const Index = Type.Integer({ minimum: 1, maximum: 255 })
const Version = Type.Literal(1)
/** A minute to a week. */
const Within = Type.Optional(Type.Integer({ minimum: 60, maximum: 604_800 }))

/** What is agreed before anything is dealt; operators accept its hash. */
export const CeremonyProposal = Type.Union([
  Strict({ suite: Suite, v: Version, kind: Type.Literal('found'), group: GroupProposal, within: Within }),
  Strict({
    suite: Suite,
    v: Version,
    kind: Type.Literal('refresh'),
    groupId: GroupIdField,
    /** Hash of the revision in force. */
    previous: Bytes(32),
    nonce: Bytes(32),
    within: Within,
  }),
  Strict({
    suite: Suite,
    v: Version,
    kind: Type.Literal('reshare'),
    groupId: GroupIdField,
    previous: Bytes(32),
    /** Indices in the revision in force of those who deal, ascending; at least t. λ is over this set. */
    dealers: Type.Array(Index, { minItems: 1, maxItems: PARTICIPANTS }),
    n: Index,
    t: Index,
    authorities: Type.Array(Authority, { minItems: 1, maxItems: PARTICIPANTS }),
    nonce: Bytes(32),
    within: Within,
  }),
  Strict({
    suite: Suite,
    v: Version,
    kind: Type.Literal('rotate'),
    groupId: GroupIdField,
    previous: Bytes(32),
    /** Those that get a new key epoch. */
    purposes: Type.Array(PurposeField, { minItems: 1, maxItems: PURPOSES.length }),
    /** The first slot of the new key epochs. */
    firstSlot: Uint32,
    nonce: Bytes(32),
    within: Within,
  }),
])
export type CeremonyProposal = Static<typeof CeremonyProposal>
const proposals = Compile(CeremonyProposal)

export function ceremonyHash(proposal: CeremonyProposal): Uint8Array {
  return canonicalHash(proposal)
}

const Said = { suite: Suite, name: ServerName, after: Bytes(32) }
const Join = Strict({
  ...Said,
  nonce: Bytes(32),
  boxes: Type.Array(HpkeKeyField, { maxItems: PARTICIPANTS }),
})
const Commit = Strict({ ...Said, commitment: Bytes(32) })
const Part = Strict({
  commitments: Type.Array(Bytes(48), { maxItems: PARTICIPANTS }),
  possession: Type.Optional(Strict({ kappa: Bytes(32), z: Bytes(32) })),
})
type Part = Static<typeof Part>
/** Something for some of the purposes, for nothing else. */
const ByPurpose = <S extends Type.TSchema>(schema: S) =>
  Strict(
    Object.fromEntries(PURPOSES.map(purpose => [purpose, Type.Optional(schema)])) as Record<
      Purpose,
      Type.TOptional<S>
    >,
  )
/** Something for some of the secrets, by their names. */
const BySecret = <S extends Type.TSchema>(schema: S) =>
  Type.Record(Type.String({ pattern: `^(${PURPOSES.join('|')})(/[1-9][0-9]{0,9})?$` }), schema, {
    maxProperties: KEPT_EPOCHS * PURPOSES.length,
    additionalProperties: false,
  })
const Opening = Strict({ ...Said, blind: Bytes(32), parts: BySecret(Part) })
const Deal = Strict({ ...Said, sealed: Type.Array(BytesUpTo(1024), { minItems: 1, maxItems: PARTICIPANTS }) })
const Answer = Strict({
  ...Said,
  complaints: Type.Array(Strict({ dealer: Index, boxKey: Bytes(32) }), { maxItems: PARTICIPANTS }),
  /** s'_jQ of the purposes with a public key, where secrets are drawn. */
  pub: Type.Optional(ByPurpose(Bytes(96))),
  /** Of whoever has issued so far, in a reshare: how long its ledger is, and the ledger's hash. */
  ledger: Type.Optional(Strict({ entries: Uint32, hash: Bytes(32) })),
})
/** Documents that one result abandons at most. */
export const ABANDONED = 64
const Result = Strict({
  ...Said,
  documentHash: Bytes(32),
  /** Hashes of documents that the speaker has computed, has not signed and never will. */
  abandons: Type.Optional(Type.Array(Bytes(32), { minItems: 1, maxItems: ABANDONED })),
})

/** The rounds in order; dealers alone speak in some of them. */
export const ROUNDS = ['join', 'commit', 'open', 'deal', 'answer', 'result'] as const
export type Round = (typeof ROUNDS)[number]
const SPEAKERS: Readonly<Record<Round, 'all' | 'dealers'>> = {
  join: 'all',
  commit: 'dealers',
  open: 'dealers',
  deal: 'dealers',
  answer: 'all',
  result: 'all',
}
interface Payloads {
  readonly join: Static<typeof Join>
  readonly commit: Static<typeof Commit>
  readonly open: Static<typeof Opening>
  readonly deal: Static<typeof Deal>
  readonly answer: Static<typeof Answer>
  readonly result: Static<typeof Result>
}
const VALIDATORS: Readonly<Record<Round, { Check(value: unknown): boolean }>> = {
  join: Compile(Join),
  commit: Compile(Commit),
  open: Compile(Opening),
  deal: Compile(Deal),
  answer: Compile(Answer),
  result: Compile(Result),
}
const typOf = (round: Round) => `mpin-ceremony-${round}+jwt`

/** One JWS a speaker, for each round that is over. */
export const CeremonyRounds = Type.Array(Type.Array(Jws(65_536), { minItems: 1, maxItems: PARTICIPANTS }), {
  maxItems: ROUNDS.length,
})
export type CeremonyRounds = Static<typeof CeremonyRounds>

/** Somebody's fault, by round and name: in a transcript, one line. */
export class CeremonyFault extends Refused {
  readonly round: Round
  readonly who: string

  constructor(
    code: 'CONFLICT' | 'WRONG_SHARE' | 'NOT_APPROVED' | 'MALFORMED',
    round: Round,
    who: string,
    why: string,
  ) {
    super(code, { detail: `${who}, ${round}: ${why}` })
    this.round = round
    this.who = who
  }
}

export interface Participant {
  readonly name: string
  readonly signKey: Es256PublicKey
  /** i, as it deals: its index in the group in force (founding: in the group to be). */
  readonly dealer: number | undefined
  /** j, as it will hold a share. */
  readonly member: number | undefined
}

/** What a ceremony must know of the group in force. */
export type Predecessor = Pick<Group, 'groupId' | 't' | 'authorities' | 'document' | 'epochs'>

/** A master secret that a ceremony deals: of one purpose, in one key epoch. */
export interface DealtSecret {
  /** What it goes by in messages and records: its purpose; of a former key epoch `purpose/epoch`. */
  readonly name: string
  readonly purpose: Purpose
  readonly epoch: number
}

/** s_j of every secret that is dealt, by the secrets' names. */
export type Shares = ReadonlyMap<string, Scalar>

/** A proposal that makes sense: who takes part, who deals, who will hold a share. Everybody reads the same out of it. */
export class Ceremony {
  readonly proposal: CeremonyProposal
  readonly hash: Uint8Array
  /** The group in force; undefined in a founding. */
  readonly group: Predecessor | undefined
  readonly participants: readonly Participant[]
  /** In ascending order of index. */
  readonly dealers: readonly (Participant & { readonly dealer: number })[]
  readonly members: readonly (Participant & { readonly member: number })[]
  /** Of the group to be. */
  readonly t: number
  readonly firstPower: FirstPower
  /** All that this kind of ceremony deals, but in simulations. In the order in which they stand everywhere. */
  readonly secrets: readonly DealtSecret[]
  /** New ones (a founding, a rotation), or those that are there, dealt anew. */
  readonly drawsSecrets: boolean
  /** Milliseconds from an authority's join to its signature; a person has chosen them. */
  readonly lifetime: number

  private constructor(
    proposal: CeremonyProposal,
    group: Predecessor | undefined,
    { t, participants }: { t: number; participants: readonly Participant[] },
    purposes: readonly Purpose[],
  ) {
    this.proposal = proposal
    this.hash = ceremonyHash(proposal)
    this.group = group
    this.t = t
    this.participants = participants
    this.firstPower = proposal.kind === 'refresh' ? 1 : 0
    this.lifetime = (proposal.within ?? CEREMONY_WITHIN) * 1000
    this.drawsSecrets = proposal.kind === 'found' || proposal.kind === 'rotate'
    this.secrets = dealtSecrets(proposal, group, purposes)
    this.dealers = participants
      .filter((one): one is Participant & { dealer: number } => one.dealer !== undefined)
      .sort((one, other) => one.dealer - other.dealer)
    this.members = participants.filter(
      (one): one is Participant & { member: number } => one.member !== undefined,
    )
  }

  /**
   * DecodeError for a wrong shape and for members, t or dealers that make no group; Refused CONFLICT unless it starts
   * from `group`, the revision in force.
   */
  static read(value: unknown, group?: Predecessor, purposes: readonly Purpose[] = PURPOSES): Ceremony {
    if (!proposals.Check(value)) throw new DecodeError('proposal', 'wrong shape')
    const proposal = value as CeremonyProposal
    if (proposal.kind === 'found') {
      const { t, n, authorities } = checkProposal(proposal.group)
      if (n > PARTICIPANTS) throw new DecodeError('n', `at most ${PARTICIPANTS} take part`)
      const participants = authorities.map(({ index, name, signKey }) => ({
        name,
        signKey: Es256PublicKey.fromBase64Url(signKey, name),
        dealer: index,
        member: index,
      }))
      return new Ceremony(proposal, undefined, { t, participants }, purposes)
    }
    if (group === undefined || toBase64Url(group.groupId) !== proposal.groupId)
      throw new Refused('CONFLICT', { detail: 'the proposal is for another group' })
    if (toBase64Url(documentHash(group.document)) !== proposal.previous)
      throw new Refused('CONFLICT', { detail: 'the proposal does not start from the revision in force' })
    const roles = proposal.kind === 'reshare' ? reshareRoles(group, proposal) : memberRoles(group)
    if (proposal.kind === 'refresh' && group.t < 2)
      throw new DecodeError('t', 'one that holds the whole secret has nothing to refresh')
    if (proposal.kind === 'rotate') checkRotation(proposal, group)
    return new Ceremony(proposal, group, roles, purposes)
  }

  get purposes(): readonly Purpose[] {
    return PURPOSES.filter(purpose => this.secrets.some(secret => secret.purpose === purpose))
  }

  participant(name: string): Participant | undefined {
    return this.participants.find(one => one.name === name)
  }

  speakers(round: Round): readonly Participant[] {
    return SPEAKERS[round] === 'all' ? this.participants : this.dealers
  }
}

function dealtSecrets(
  proposal: CeremonyProposal,
  group: Predecessor | undefined,
  purposes: readonly Purpose[],
): DealtSecret[] {
  if (group === undefined) return purposes.map(purpose => ({ name: purpose, purpose, epoch: FIRST_EPOCH }))
  const newest = purposes.map(purpose => ({
    name: purpose,
    purpose,
    epoch: (group.epochs(purpose)[0] as PurposeKeys).epoch,
  }))
  if (proposal.kind === 'rotate')
    return newest
      .filter(({ purpose }) => proposal.purposes.includes(purpose))
      .map(secret => ({ ...secret, epoch: secret.epoch + 1 }))
  const former = purposes.flatMap(purpose =>
    group
      .epochs(purpose)
      .slice(1)
      .map(({ epoch }) => ({ name: `${purpose}/${epoch}`, purpose, epoch })),
  )
  return [...newest, ...former]
}

function checkRotation(
  { purposes, firstSlot }: Extract<CeremonyProposal, { kind: 'rotate' }>,
  group: Predecessor,
): void {
  if (new Set(purposes).size !== purposes.length) throw new DecodeError('purposes', 'one stands twice')
  for (const purpose of purposes)
    if (firstSlot <= (group.epochs(purpose)[0] as PurposeKeys).firstSlot)
      throw new DecodeError('firstSlot', `the ${purpose} epoch in force starts then, or later`)
}

/**
 * Before an authority joins a rotation, and before it signs. A new key epoch begins after every slot that permits may
 * have been made for, so that none of them is of the former epoch; and after the last one has begun, so that the epoch
 * in force is always kept. Refused EXPIRED and CONFLICT; other kinds have no hour.
 * @param now Unix seconds.
 */
export function refuseUntimely({ proposal, group, secrets }: Ceremony, now: number): void {
  if (proposal.kind !== 'rotate' || group === undefined) return
  const { slot, policy } = group.document
  const present = slotAt(slot, now)
  if (proposal.firstSlot <= present + policy.lead)
    throw new Refused('EXPIRED', {
      detail: `the first slot of the new key epoch comes too soon: after ${present + policy.lead}; make a new proposal`,
    })
  for (const { purpose } of secrets)
    if ((group.epochs(purpose)[0] as PurposeKeys).firstSlot > present)
      throw new Refused('CONFLICT', {
        detail: `the last ${purpose} key epoch has not begun; one rotation after the other`,
      })
}

/** Everybody deals and stays. */
function memberRoles({ t, authorities }: Predecessor) {
  if (authorities.length > PARTICIPANTS)
    throw new DecodeError('authorities', `at most ${PARTICIPANTS} take part`)
  return {
    t,
    participants: authorities.map(({ index, name, signKey }) => ({
      name,
      signKey,
      dealer: index,
      member: index,
    })),
  }
}

function reshareRoles(
  group: Predecessor,
  proposal: Extract<CeremonyProposal, { kind: 'reshare' }>,
): { t: number; participants: Participant[] } {
  const { n, t, authorities, dealers, nonce } = proposal
  const { suite, v, ra, recipients, slot, policy } = group.document
  // The same rules as for a new group's members: indices 1…n, everything unique, 2t > n.
  checkProposal({ suite, v, n, t, authorities, ra, recipients, slot, policy, firstSlot: 0, nonce })
  if (dealers.some((index, i) => index <= (dealers[i - 1] ?? 0) || index > group.authorities.length))
    throw new DecodeError('dealers', 'indices of the group in force, ascending')
  if (dealers.length < group.t) throw new DecodeError('dealers', `at least ${group.t} must deal`)
  const dealing = dealers.map(index => group.authorities[index - 1] as Group['authorities'][number])
  const participants: Participant[] = authorities.map(({ index, name, signKey }) => {
    const key = Es256PublicKey.fromBase64Url(signKey, name)
    const known = dealing.find(one => one.name === name || one.signKey.equals(key))
    if (known !== undefined && !(known.name === name && known.signKey.equals(key)))
      throw new DecodeError('authorities', `${name} and a dealer share a name or a key, not both`)
    return { name, signKey: key, dealer: known?.index, member: index }
  })
  for (const { index, name, signKey } of dealing)
    if (!participants.some(one => one.name === name))
      participants.push({ name, signKey, dealer: index, member: undefined })
  if (participants.length > PARTICIPANTS)
    throw new DecodeError('authorities', `at most ${PARTICIPANTS} take part`)
  return { t, participants }
}

/** Rounds whose signatures, order and chain hold. What the messages claim is looked at round by round, below. */
interface Transcript extends Readonly<Partial<{ [R in Round]: readonly Payloads[R][] }>> {
  /** chain_0 … up to the first round that isn't over. */
  readonly chain: readonly Uint8Array[]
}

/** @param over How many rounds must be there, whole; more are not looked at. */
async function readRounds(ceremony: Ceremony, rounds: CeremonyRounds, over: number): Promise<Transcript> {
  const chain = [ceremony.hash]
  const read: Partial<Record<Round, unknown[]>> = {}
  for (const [r, round] of ROUNDS.slice(0, over).entries()) {
    const payloads = await readRound(ceremony, round, rounds[r] ?? [], chain[r] as Uint8Array)
    read[round] = payloads
    chain.push(canonicalHash([toBase64Url(chain[r] as Uint8Array), ...payloads]))
  }
  return { ...(read as Omit<Transcript, 'chain'>), chain }
}

async function readRound<R extends Round>(
  ceremony: Ceremony,
  round: R,
  messages: readonly string[],
  after: Uint8Array,
): Promise<Payloads[R][]> {
  const speakers = ceremony.speakers(round)
  const byName = new Map<string, Payloads[R]>()
  for (const message of messages) {
    const { who, payload } = await readMessage(ceremony, round, message)
    const first = byName.get(who)
    // Anybody can repeat a message, or make a second signature out of one: only another payload is the speaker's fault.
    if (first !== undefined) {
      if (equalBytes(canonicalHash(first), canonicalHash(payload)))
        throw new Refused('CONFLICT', { detail: `a message of ${who} in round ${round} stands twice` })
      throw new CeremonyFault('CONFLICT', round, who, 'says two things')
    }
    if (payload.after !== toBase64Url(after))
      throw new CeremonyFault('CONFLICT', round, who, 'speaks after other messages than these')
    byName.set(who, payload)
  }
  return speakers.map(({ name }) => {
    const payload = byName.get(name)
    if (payload === undefined) throw new CeremonyFault('CONFLICT', round, name, 'has not spoken')
    return payload
  })
}

/** NOT_APPROVED: signed by nobody who speaks in this round. */
export async function readMessage<R extends Round>(
  ceremony: Ceremony,
  round: R,
  message: string,
): Promise<{ who: string; payload: Payloads[R] }> {
  const keys = new Map(ceremony.speakers(round).map(({ name, signKey }) => [name, signKey]))
  const verified = await verifyJws(typOf(round), message, keys)
  if (verified === null)
    throw new Refused('NOT_APPROVED', {
      detail: `a message of round ${round} is signed by nobody who speaks in it`,
    })
  const { kid, payload } = verified
  if (!VALIDATORS[round].Check(payload)) throw new CeremonyFault('MALFORMED', round, kid, 'wrong shape')
  if (payload.name !== kid) throw new CeremonyFault('NOT_APPROVED', round, kid, 'speaks as somebody else')
  return { who: kid, payload: payload as Payloads[R] }
}

/** What takes pairings and sums of products: an authority hands it to its workers. */
export interface CeremonyArithmetic {
  possessionVerify(...claim: Parameters<typeof possessionVerify>): boolean | Promise<boolean>
  sameLogarithm(C: G1, W: G2): boolean | Promise<boolean>
  shareFits(...claim: Parameters<typeof shareFits>): boolean | Promise<boolean>
  sumOfDealings(...terms: Parameters<typeof sumOfDealings>): G1 | Promise<G1>
  combineG2(shares: readonly PointShare<G2>[]): G2 | Promise<G2>
}
export const onThisThread: CeremonyArithmetic = {
  possessionVerify,
  sameLogarithm,
  shareFits,
  sumOfDealings,
  combineG2,
}

/** By the secrets' names, in the dealers' order. */
type Dealings = ReadonlyMap<string, readonly Dealing[]>

/** What the group has for a secret that it has. */
function keysBefore(group: Predecessor | undefined, { purpose, epoch }: DealtSecret): PurposeKeys {
  return group?.epochs(purpose).find(keys => keys.epoch === epoch) as PurposeKeys
}

/** Openings that fit their commits, prove what they must prove, and deal what they must deal. */
async function checkOpenings(
  ceremony: Ceremony,
  { chain, commit, open: openings }: Transcript,
  arithmetic: CeremonyArithmetic,
): Promise<Dealings> {
  const { secrets, firstPower, t, dealers, proposal, group, drawsSecrets } = ceremony
  const session = chain[1] as Uint8Array
  const dealings = new Map<string, Dealing[]>(secrets.map(({ name }) => [name, []]))
  for (const [i, dealer] of dealers.entries()) {
    const opening = needed(openings)[i] as Payloads['open']
    const wrong = (why: string) => new CeremonyFault('WRONG_SHARE', 'open', dealer.name, why)
    const commitment = commitmentTo(fromBase64Url(opening.blind, 'blind', 32), secrets, opening.parts)
    if (
      !equalBytes(
        commitment,
        fromBase64Url((needed(commit)[i] as Payloads['commit']).commitment, 'commitment', 32),
      )
    )
      throw wrong('the opening does not fit the commit')
    if (!isFor(secrets, opening.parts)) throw wrong('other secrets than were proposed')
    for (const secret of secrets) {
      const { name, purpose } = secret
      const part = opening.parts[name] as Part
      if (part.commitments.length !== t - firstPower)
        throw wrong(`${part.commitments.length} commitments for ${name}, ${t - firstPower} expected`)
      const commitments = part.commitments.map(text => pointOf(text, 'open', dealer.name))
      if ((part.possession !== undefined) !== drawsSecrets)
        throw wrong('a proof of possession stands exactly where a secret is drawn')
      if (part.possession !== undefined) {
        const proof = {
          kappa: scalarOf(part.possession.kappa, 'open', dealer.name),
          z: scalarOf(part.possession.z, 'open', dealer.name),
        }
        const claim = { session, purpose, index: dealer.dealer }
        if (!(await arithmetic.possessionVerify(claim, commitments[0] as G1, proof)))
          throw wrong(`no proof of possession for ${purpose}`)
      }
      if (proposal.kind === 'reshare') {
        const C = keysBefore(group, secret).commitments[dealer.dealer - 1] as G1
        if (!(commitments[0] as G1).equals(C)) throw wrong(`deals another ${name} secret than its share`)
      }
      ;(dealings.get(name) as Dealing[]).push({ firstPower, commitments })
    }
  }
  return dealings
}

/** SHA-256(TLV{1 blind, 2 … one for each secret: its commitments, concatenated}). */
function commitmentTo(
  blind: Uint8Array,
  secrets: readonly DealtSecret[],
  parts: Readonly<Record<string, Part>>,
): Uint8Array {
  const points = secrets.map(({ name }) =>
    concat(...(parts[name]?.commitments ?? []).map(text => fromBase64Url(text, 'commitment', 48))),
  )
  return sha256(encodeTlv([blind, ...points]))
}

/** The HPKE info of f_i(j): TLV{1 `ceremony-share`, 2 session, 3 be32 i, 4 be32 j}. */
function sealInfo(session: Uint8Array, dealer: number, member: number): Uint8Array {
  return encodeTlv([utf8('ceremony-share'), session, be32(dealer), be32(member)])
}

/** f_i(j) for every secret, or null when it doesn't open or doesn't fit what was committed to. */
async function openDealt(
  ceremony: Ceremony,
  transcript: Transcript,
  dealings: Dealings,
  { i, member, box }: { i: number; member: number; box: HpkeKeyPair },
  arithmetic: CeremonyArithmetic,
): Promise<Map<string, Scalar> | null> {
  const dealer = ceremony.dealers[i] as Participant & { dealer: number }
  const sealed = (needed(transcript.deal)[i] as Payloads['deal']).sealed[member - 1]
  if (sealed === undefined) return null
  const info = sealInfo(transcript.chain[1] as Uint8Array, dealer.dealer, member)
  try {
    const plaintext = await open(box, info, fromBase64Url(sealed, 'sealed'))
    if (plaintext === null) return null
    const values = decodeTlv(plaintext, { tags: ceremony.secrets.length, field: 'share' })
    plaintext.fill(0)
    const shares = new Map<string, Scalar>()
    for (const [p, { name }] of ceremony.secrets.entries()) {
      const value = values[p]
      if (value === undefined) return null
      const share = Scalar.decode(value, 'share')
      const dealing = (dealings.get(name) as readonly Dealing[])[i] as Dealing
      if (!(await arithmetic.shareFits(dealing, member, share))) return null
      shares.set(name, share)
    }
    return shares
  } catch (error) {
    if (error instanceof DecodeError) return null
    throw error
  }
}

/** Throws for the first complaint: the dealer's fault if the published key shows a lie, else the accuser's. */
async function checkComplaints(
  ceremony: Ceremony,
  transcript: Transcript,
  dealings: Dealings,
  arithmetic: CeremonyArithmetic,
): Promise<void> {
  for (const [p, { name, member }] of ceremony.participants.entries()) {
    for (const { dealer, boxKey } of (needed(transcript.answer)[p] as Payloads['answer']).complaints) {
      const i = ceremony.dealers.findIndex(one => one.dealer === dealer)
      const falsely = (why: string) => new CeremonyFault('WRONG_SHARE', 'answer', name, why)
      if (member === undefined || i === -1) throw falsely('complains about nobody who dealt to it')
      const box = await HpkeKeyPair.fromSecret(fromBase64Url(boxKey, 'boxKey', 32))
      const { boxes } = needed(transcript.join)[p] as Payloads['join']
      if (toBase64Url(box.publicKey) !== boxes[i])
        throw falsely('complains with a key that was never its box')
      const accused = (ceremony.dealers[i] as Participant).name
      if ((await openDealt(ceremony, transcript, dealings, { i, member, box }, arithmetic)) !== null)
        throw falsely(`complains about ${accused}, whose share is good`)
      throw new CeremonyFault(
        'WRONG_SHARE',
        'deal',
        accused,
        `the share for ${name} is not what was committed to`,
      )
    }
  }
}

/** What the rounds come to for one secret. */
interface Outcome {
  /** C'_j by position j − 1. */
  readonly commitments: readonly G1[]
  readonly ivk: G1
  readonly pub: G2 | undefined
}

async function outcomeOf(
  ceremony: Ceremony,
  transcript: Transcript,
  dealings: Dealings,
  arithmetic: CeremonyArithmetic,
): Promise<ReadonlyMap<string, Outcome>> {
  const { proposal, group, members, dealers, drawsSecrets } = ceremony
  const weights =
    proposal.kind === 'reshare' ? lagrangeAtZero(dealers.map(({ dealer }) => dealer)) : undefined
  const outcomes = new Map<string, Outcome>()
  for (const secret of ceremony.secrets) {
    const dealt = dealings.get(secret.name) as readonly Dealing[]
    const before = drawsSecrets ? undefined : keysBefore(group, secret)
    const commitments: G1[] = []
    for (const { member } of members) {
      const sum = await arithmetic.sumOfDealings(dealt, member, weights)
      commitments.push(proposal.kind === 'refresh' ? sum.add(before?.commitments[member - 1] as G1) : sum)
    }
    const ivk = before?.ivk ?? G1.sum(dealt.map(dealing => dealing.commitments[0] as G1))
    const pub = !hasPublicKey(secret.purpose)
      ? undefined
      : (before?.pub ?? (await publicKeyOf(ceremony, transcript, secret.purpose, commitments, arithmetic)))
    outcomes.set(secret.name, { commitments, ivk, pub })
  }
  return outcomes
}

/** sQ = Σ λ_j·s_jQ of a new secret, each s_jQ checked against C_j. */
async function publicKeyOf(
  ceremony: Ceremony,
  transcript: Transcript,
  purpose: Purpose,
  commitments: readonly G1[],
  arithmetic: CeremonyArithmetic,
): Promise<G2> {
  const shares: PointShare<G2>[] = []
  for (const [p, { name, member }] of ceremony.participants.entries()) {
    const wrong = (why: string) => new CeremonyFault('WRONG_SHARE', 'answer', name, why)
    const text = (needed(transcript.answer)[p] as Payloads['answer']).pub?.[purpose]
    if (text === undefined || member === undefined) throw wrong(`no public share for ${purpose}`)
    let W: G2
    try {
      W = G2.decode(fromBase64Url(text, 'pub', 96), 'pub')
    } catch (error) {
      if (error instanceof DecodeError) throw wrong(`the public share for ${purpose} is no point`)
      throw error
    }
    if (!(await arithmetic.sameLogarithm(commitments[member - 1] as G1, W)))
      throw wrong(`the public share for ${purpose} is of another secret`)
    shares.push({ index: member, point: W })
  }
  return arithmetic.combineG2(shares.slice(0, ceremony.t))
}

/** The document that the ceremony comes to, without signatures: every participant computes the same bytes. */
function composeDocument(ceremony: Ceremony, outcomes: ReadonlyMap<string, Outcome>): GroupDocument {
  const { proposal, group, secrets } = ceremony
  const fieldsOf = (name: string) => {
    const { commitments, ivk, pub } = outcomes.get(name) as Outcome
    return {
      ivk: toBase64Url(ivk.encode()),
      shares: commitments.map(commitment => toBase64Url(commitment.encode())),
      ...(pub === undefined ? {} : { pub: toBase64Url(pub.encode()) }),
    }
  }
  const byPurpose = (keys: (purpose: Purpose) => PurposeDocument) =>
    Object.fromEntries(
      ceremony.purposes.map(purpose => [purpose, keys(purpose)]),
    ) as GroupDocument['purposes']
  if (proposal.kind === 'found') {
    const { firstSlot, nonce: _, ...rest } = proposal.group
    const purposes = byPurpose(purpose => ({ epoch: FIRST_EPOCH, firstSlot, ...fieldsOf(purpose) }))
    return { ...rest, revision: 1, purposes, signatures: [] }
  }
  const before = (group as Predecessor).document
  const rotated = (purpose: Purpose, firstSlot: number): PurposeDocument => {
    const { former = [], ...newest } = before.purposes[purpose]
    const epoch = newest.epoch + 1
    return { epoch, firstSlot, ...fieldsOf(purpose), former: [newest, ...former].slice(0, KEPT_EPOCHS - 1) }
  }
  const dealtAnew = (purpose: Purpose): PurposeDocument => {
    const { former, ...newest } = before.purposes[purpose]
    const anew = (keys: typeof newest) => {
      const { name } = secrets.find(one => one.purpose === purpose && one.epoch === keys.epoch) as DealtSecret
      return { epoch: keys.epoch, firstSlot: keys.firstSlot, ...fieldsOf(name) }
    }
    return { ...anew(newest), ...(former && { former: former.map(anew) }) }
  }
  const { n, t, authorities } = proposal.kind === 'reshare' ? proposal : before
  return {
    ...before,
    revision: before.revision + 1,
    previous: toBase64Url(documentHash(before)),
    groupId: toBase64Url((group as Predecessor).groupId),
    n,
    t,
    authorities,
    purposes:
      proposal.kind === 'rotate'
        ? { ...before.purposes, ...byPurpose(purpose => rotated(purpose, proposal.firstSlot)) }
        : byPurpose(dealtAnew),
    signatures: [],
  }
}

type PurposeDocument = GroupDocument['purposes'][Purpose]

/** The rounds so far are whole, signed, and each said after the ones before. CeremonyFault otherwise. */
export async function checkRounds(ceremony: Ceremony, rounds: CeremonyRounds): Promise<void> {
  await readRounds(ceremony, rounds, rounds.length)
}

/** The document that the first five rounds come to, after everything that anybody can check has been checked. */
export async function checkCeremony(
  ceremony: Ceremony,
  rounds: CeremonyRounds,
  arithmetic: CeremonyArithmetic = onThisThread,
): Promise<GroupDocument> {
  const transcript = await readRounds(ceremony, rounds, 5)
  checkJoins(ceremony, transcript)
  const dealings = await checkOpenings(ceremony, transcript, arithmetic)
  checkDeals(ceremony, transcript)
  await checkComplaints(ceremony, transcript, dealings, arithmetic)
  checkAnswers(ceremony, transcript)
  return composeDocument(ceremony, await outcomeOf(ceremony, transcript, dealings, arithmetic))
}

/** All results name `document`; else somebody has computed something else. */
export async function checkResults(
  ceremony: Ceremony,
  rounds: CeremonyRounds,
  document: GroupDocument,
): Promise<void> {
  const { result } = await readRounds(ceremony, rounds, 6)
  const hash = toBase64Url(documentHash(document))
  for (const { name, documentHash: computed } of needed(result))
    if (computed !== hash)
      throw new CeremonyFault('CONFLICT', 'result', name, 'has computed another document')
}

function checkJoins({ participants, dealers }: Ceremony, { join }: Transcript): void {
  participants.forEach(({ name, member }, p) => {
    const { boxes } = needed(join)[p] as Payloads['join']
    const expected = member === undefined ? 0 : dealers.length
    const wrong = (why: string) => new CeremonyFault('WRONG_SHARE', 'join', name, why)
    if (boxes.length !== expected || new Set(boxes).size !== boxes.length)
      throw wrong(`${expected} different boxes expected`)
    for (const box of boxes) {
      try {
        decodeHpkeKey(box, 'box')
      } catch (error) {
        if (error instanceof DecodeError) throw wrong('nothing can be sealed to one of its boxes')
        throw error
      }
    }
  })
}

function checkDeals({ dealers, members }: Ceremony, { deal }: Transcript): void {
  dealers.forEach(({ name }, i) => {
    if ((needed(deal)[i] as Payloads['deal']).sealed.length !== members.length)
      throw new CeremonyFault('WRONG_SHARE', 'deal', name, 'not one sealed share for each member')
  })
}

/**
 * Whoever has issued says what: in a reshare each dealer, nobody else. And public shares of new secrets, of purposes with
 * a public key: a multiple in G2 of any other secret would test PINs.
 */
function checkAnswers(
  { participants, proposal, secrets, drawsSecrets }: Ceremony,
  { answer }: Transcript,
): void {
  const withPublicKey = secrets.filter(({ purpose }) => hasPublicKey(purpose))
  participants.forEach(({ name, dealer }, p) => {
    const wrong = (why: string) => new CeremonyFault('WRONG_SHARE', 'answer', name, why)
    const { ledger, pub } = needed(answer)[p] as Payloads['answer']
    if ((ledger !== undefined) !== (proposal.kind === 'reshare' && dealer !== undefined))
      throw wrong('each dealer of a reshare states its ledger, nobody else')
    if (drawsSecrets ? !isFor(withPublicKey, pub ?? {}) : pub !== undefined)
      throw wrong('public shares stand where secrets are drawn, for the purposes with a public key')
  })
}

const isFor = (secrets: readonly DealtSecret[], parts: object) =>
  Object.keys(parts).length === secrets.length && secrets.every(({ name }) => Object.hasOwn(parts, name))

/** What each dealer of a reshare has said of its ledger; empty otherwise. By dealer index. */
export async function statedLedgers(
  ceremony: Ceremony,
  rounds: CeremonyRounds,
): Promise<ReadonlyMap<number, { readonly entries: number; readonly hash: Uint8Array }>> {
  const { answer } = await readRounds(ceremony, rounds, 5)
  const stated = new Map<number, { entries: number; hash: Uint8Array }>()
  ceremony.participants.forEach(({ dealer }, p) => {
    const ledger = (needed(answer)[p] as Payloads['answer']).ledger
    if (ledger !== undefined && dealer !== undefined)
      stated.set(dealer, { entries: ledger.entries, hash: fromBase64Url(ledger.hash, 'ledger.hash', 32) })
  })
  return stated
}

/** Who abandons which document in its result: indices in the group in force, by the documents' hashes in base64url. */
export async function abandonedDocuments(
  ceremony: Ceremony,
  rounds: CeremonyRounds,
): Promise<ReadonlyMap<string, ReadonlySet<number>>> {
  const { result } = await readRounds(ceremony, rounds, 6)
  const abandoned = new Map<string, Set<number>>()
  ceremony.participants.forEach(({ signKey }, p) => {
    // A member that deals nothing here may have dealt there.
    const index = ceremony.group?.authorities.find(one => one.signKey.equals(signKey))?.index
    if (index === undefined) return
    for (const hash of (needed(result)[p] as Payloads['result']).abandons ?? [])
      abandoned.set(hash, (abandoned.get(hash) ?? new Set()).add(index))
  })
  return abandoned
}

/**
 * One participant's memory of one ceremony. Secrets are inside: keep it sealed, and write it before what was said
 * leaves. Each round forgets what the next ones don't need.
 */
export interface CeremonyRecord {
  /** Own messages by round. */
  readonly said: Readonly<Partial<Record<Round, string>>>
  /** chain_r that the message of round r was said after. */
  readonly after: Readonly<Partial<Record<Round, string>>>
  /** Secret keys of the boxes, in the dealers' order; until the answer. */
  readonly boxes?: readonly string[]
  /** f_i by the secrets' names; from commit to deal. */
  readonly polynomials?: Readonly<Record<string, string>>
  readonly blind?: string
  /** s'_j by the secrets' names; from the answer on. */
  readonly shares?: Readonly<Record<string, string>>
  /** From the result on. */
  readonly document?: GroupDocument
}

export interface CeremonyPorts {
  /** This participant's name in the proposal. */
  readonly name: string
  readonly key: Es256PrivateKey
  readonly random: Random
  readonly arithmetic?: CeremonyArithmetic
  /** s_i of the group in force, of every kept key epoch: what a dealer hands on or refreshes. */
  readonly current?: Shares
  /** Of a dealer in a reshare, asked for at its answer: from then on nothing is added to it. */
  readonly ledger?: () => Promise<{ readonly entries: number; readonly hash: Uint8Array }>
  /** Hashes of documents that the result abandons; whoever says so keeps to it, after a crash as well. */
  readonly abandons?: readonly Uint8Array[]
}

/**
 * One move: the record with this round's message in it. Asked again with the same past it gives the record unchanged.
 * Refused CONFLICT for another past or a round out of turn, WRONG_SHARE or another CeremonyFault naming who is at fault.
 */
export async function ceremonyMove(
  ceremony: Ceremony,
  record: CeremonyRecord | null,
  round: Round,
  rounds: CeremonyRounds,
  ports: CeremonyPorts,
): Promise<CeremonyRecord> {
  const me = ceremony.participant(ports.name)
  if (me === undefined || !me.signKey.equals(ports.key.publicKey))
    throw new Refused('NOT_APPROVED', { detail: 'this authority takes no part in the ceremony' })
  if (!ceremony.speakers(round).includes(me))
    throw new Refused('CONFLICT', { detail: `${me.name} has nothing to say in round ${round}` })
  const over = ROUNDS.indexOf(round)
  if (rounds.length !== over)
    throw new Refused('CONFLICT', {
      detail: `round ${round} comes after ${over} others, not ${rounds.length}`,
    })
  const transcript = await readRounds(ceremony, rounds, over)
  const after = toBase64Url(transcript.chain.at(-1) as Uint8Array)
  if (record?.said[round] !== undefined) {
    if (record.after[round] !== after)
      throw new Refused('CONFLICT', {
        detail: `${me.name} has spoken in round ${round} after other messages`,
      })
    return record
  }
  if (record !== null) checkPast(ceremony, me, record, round, transcript)
  else if (round !== 'join') throw new Refused('NOT_APPROVED', { detail: `${me.name} has not joined` })
  const state: Moving = { ceremony, me, transcript, record: record ?? { said: {}, after: {} }, rounds, ports }
  const { payload, keep } = await MOVES[round](state)
  const said = await signJws(
    typOf(round),
    { suite: SUITE, name: me.name, after, ...payload },
    ports.key,
    me.name,
  )
  return {
    ...keep,
    said: { ...state.record.said, [round]: said },
    after: { ...state.record.after, [round]: after },
  }
}

/** Everything said so far is what this participant has seen and said itself. */
function checkPast(
  ceremony: Ceremony,
  me: Participant,
  record: CeremonyRecord,
  round: Round,
  transcript: Transcript,
): void {
  const { chain } = transcript
  for (const [r, earlier] of ROUNDS.slice(0, ROUNDS.indexOf(round)).entries()) {
    const p = ceremony.speakers(earlier).indexOf(me)
    if (p === -1) continue
    const said = record.said[earlier]
    if (said === undefined)
      throw new Refused('CONFLICT', { detail: `${me.name} has not spoken in round ${earlier}` })
    // Its boxes and polynomials belong to what it has said: with a stolen key, or after a lost record, there is more.
    if (said.split('.')[1] !== toBase64Url(canonicalBytes(needed(transcript[earlier])[p] as object)))
      throw new Refused('CONFLICT', {
        detail: `another message of ${me.name} in round ${earlier} than it has said`,
      })
    if (record.after[earlier] !== toBase64Url(chain[r] as Uint8Array))
      throw new Refused('CONFLICT', {
        detail: `${me.name} has spoken in round ${earlier} after other messages`,
      })
  }
}

interface Moving {
  readonly ceremony: Ceremony
  readonly me: Participant
  readonly transcript: Transcript
  readonly record: CeremonyRecord
  readonly rounds: CeremonyRounds
  readonly ports: CeremonyPorts
}
interface Moved {
  readonly payload: object
  /** What is remembered beside what was said. */
  readonly keep: Omit<CeremonyRecord, 'said' | 'after'>
}

const MOVES: Readonly<Record<Round, (state: Moving) => Promise<Moved>>> = {
  join: async ({ ceremony: { dealers }, me, ports: { random } }) => {
    const boxes = await Promise.all(
      me.member === undefined ? [] : dealers.map(() => HpkeKeyPair.fromSecret(random(32))),
    )
    return {
      payload: { nonce: toBase64Url(random(32)), boxes: boxes.map(box => toBase64Url(box.publicKey)) },
      keep: { boxes: boxes.map(box => toBase64Url(box.secret())) },
    }
  },

  commit: async ({ ceremony, transcript, record, ports: { random, current } }) => {
    checkJoins(ceremony, transcript)
    const { secrets, proposal, t, firstPower } = ceremony
    const polynomials = new Map(
      secrets.map(({ name }) => {
        const constant =
          proposal.kind === 'refresh'
            ? Scalar.fromNumber(0)
            : proposal.kind === 'reshare'
              ? current?.get(name)
              : undefined
        if (proposal.kind === 'reshare' && constant === undefined)
          throw new Refused('CONFLICT', { detail: `this authority has no ${name} share to hand on` })
        return [name, Polynomial.random(t, random, constant)]
      }),
    )
    const blind = random(32)
    const parts = partsOf(polynomials, firstPower)
    return {
      payload: { commitment: toBase64Url(commitmentTo(blind, secrets, parts)) },
      keep: {
        ...heldBoxes(record),
        blind: toBase64Url(blind),
        polynomials: Object.fromEntries(
          [...polynomials].map(([name, polynomial]) => [name, toBase64Url(polynomial.encode())]),
        ),
      },
    }
  },

  open: async ({ ceremony, me, transcript, record, ports: { random } }) => {
    const session = transcript.chain[1] as Uint8Array
    const polynomials = polynomialsOf(record)
    const parts = partsOf(polynomials, ceremony.firstPower)
    if (ceremony.drawsSecrets)
      for (const { name, purpose } of ceremony.secrets) {
        const claim = { session, purpose, index: me.dealer as number }
        const { constant } = polynomials.get(name) as Polynomial
        const { kappa, z } = possessionProve(claim, constant, random)
        ;(parts[name] as Part).possession = {
          kappa: toBase64Url(kappa.encode()),
          z: toBase64Url(z.encode()),
        }
      }
    const { blind, polynomials: kept } = record
    return { payload: { blind, parts }, keep: { ...heldBoxes(record), ...(kept && { polynomials: kept }) } }
  },

  deal: async ({ ceremony, me, transcript, record, ports: { random, arithmetic } }) => {
    await checkOpenings(ceremony, transcript, arithmetic ?? onThisThread)
    const session = transcript.chain[1] as Uint8Array
    const i = ceremony.dealers.findIndex(({ name }) => name === me.name)
    const polynomials = polynomialsOf(record)
    const sealed: string[] = []
    for (const { name, member } of ceremony.members) {
      const p = ceremony.participants.findIndex(one => one.name === name)
      const box = (needed(transcript.join)[p] as Payloads['join']).boxes[i] as string
      const plaintext = encodeTlv(
        ceremony.secrets.map(({ name }) => (polynomials.get(name) as Polynomial).at(member).encode()),
      )
      const info = sealInfo(session, me.dealer as number, member)
      sealed.push(toBase64Url(await seal(fromBase64Url(box, 'box', 32), info, plaintext, random)))
      plaintext.fill(0)
    }
    return { payload: { sealed }, keep: heldBoxes(record) }
  },

  answer: async ({ ceremony, me, transcript, record, ports }) => {
    const arithmetic = ports.arithmetic ?? onThisThread
    checkJoins(ceremony, transcript)
    const dealings = await checkOpenings(ceremony, transcript, arithmetic)
    checkDeals(ceremony, transcript)
    const complaints: { dealer: number; boxKey: string }[] = []
    const dealt: Map<string, Scalar>[] = []
    if (me.member !== undefined)
      for (const [i, { dealer }] of ceremony.dealers.entries()) {
        const boxKey = record.boxes?.[i] as string
        const box = await HpkeKeyPair.fromSecret(fromBase64Url(boxKey, 'boxKey', 32))
        const opened = await openDealt(
          ceremony,
          transcript,
          dealings,
          { i, member: me.member, box },
          arithmetic,
        )
        if (opened === null) complaints.push({ dealer, boxKey })
        else dealt.push(opened)
      }
    const reports = ceremony.proposal.kind === 'reshare' && me.dealer !== undefined
    const ledger = reports ? await (ports.ledger as NonNullable<CeremonyPorts['ledger']>)() : undefined
    const shares =
      me.member === undefined || complaints.length > 0
        ? undefined
        : sharesFrom(ceremony, dealt, ports.current)
    return {
      payload: {
        complaints,
        ...(shares !== undefined && ceremony.drawsSecrets && { pub: publicSharesOf(ceremony, shares) }),
        ...(ledger && { ledger: { entries: ledger.entries, hash: toBase64Url(ledger.hash) } }),
      },
      keep: shares === undefined ? {} : { shares: encodeShares(shares) },
    }
  },

  result: async ({ ceremony, me, record, rounds, ports }) => {
    const document = await checkCeremony(ceremony, rounds, ports.arithmetic)
    if (me.member !== undefined) checkOwnShares(ceremony, document, me.member, sharesOf(record))
    const { shares } = record
    const abandons = (ports.abandons ?? []).map(hash => toBase64Url(hash))
    return {
      payload: {
        documentHash: toBase64Url(documentHash(document)),
        ...(abandons.length > 0 && { abandons }),
      },
      keep: { ...(shares && { shares }), document },
    }
  },
}

/**
 * After all results: this authority's signature over the document, and the shares that it will serve with it (none for
 * one that leaves). Null for a new member of a group that is signed by its former ones.
 */
export async function ceremonySign(
  ceremony: Ceremony,
  record: CeremonyRecord | null,
  rounds: CeremonyRounds,
  { name, key }: Pick<CeremonyPorts, 'name' | 'key'>,
): Promise<{
  document: GroupDocument
  signature: { index: number; signature: string } | null
}> {
  if (record?.document === undefined)
    throw new Refused('CONFLICT', { detail: `${name} has given no result yet` })
  const { document } = record
  await checkResults(ceremony, rounds, document)
  const index = ceremony.participant(name)?.dealer
  return {
    document,
    signature: index === undefined ? null : { index, signature: await signDocument(document, key) },
  }
}

/** s'_j, from the answer on. */
export function sharesOf({ shares }: CeremonyRecord): Shares {
  return new Map(
    Object.entries(shares ?? {}).map(([name, text]) => [
      name,
      Scalar.decode(fromBase64Url(text, 'shares', 32), 'shares'),
    ]),
  )
}

function sharesFrom(
  { proposal, dealers, secrets }: Ceremony,
  dealt: readonly Map<string, Scalar>[],
  current: Shares | undefined,
): Shares {
  const weights =
    proposal.kind === 'reshare' ? lagrangeAtZero(dealers.map(({ dealer }) => dealer)) : undefined
  return new Map(
    secrets.map(({ name }) => {
      const start = proposal.kind === 'refresh' ? current?.get(name) : Scalar.fromNumber(0)
      if (start === undefined)
        throw new Refused('CONFLICT', { detail: `this authority has no ${name} share to refresh` })
      const share = dealt.reduce((sum, shares, i) => {
        const evaluation = shares.get(name) as Scalar
        return sum.add(weights === undefined ? evaluation : evaluation.multiply(weights[i] as Scalar))
      }, start)
      return [name, share]
    }),
  )
}

function checkOwnShares(
  { secrets }: Ceremony,
  document: GroupDocument,
  member: number,
  shares: Shares,
): void {
  for (const { name, purpose, epoch } of secrets) {
    const share = shares.get(name)
    const C = share === undefined ? undefined : toBase64Url(G1.generator.mulSecret(share).encode())
    const { former = [], ...newest } = document.purposes[purpose]
    const dealt = [newest, ...former].find(keys => keys.epoch === epoch)
    if (C === undefined || dealt?.shares[member - 1] !== C)
      throw new Refused('INTERNAL', {
        log: `the ${name} share does not fit the document it was dealt for`,
      })
  }
}

function publicSharesOf({ secrets }: Ceremony, shares: Shares): Record<string, string> {
  return Object.fromEntries(
    secrets
      .filter(({ purpose }) => hasPublicKey(purpose))
      .map(({ name }) => [name, toBase64Url(authorityServerKeyShare(shares.get(name) as Scalar).encode())]),
  )
}

function partsOf(polynomials: ReadonlyMap<string, Polynomial>, firstPower: FirstPower): Record<string, Part> {
  return Object.fromEntries(
    [...polynomials].map(([name, polynomial]) => [
      name,
      { commitments: polynomial.commitments(firstPower).map(point => toBase64Url(point.encode())) },
    ]),
  )
}

function polynomialsOf({ polynomials }: CeremonyRecord): ReadonlyMap<string, Polynomial> {
  return new Map(
    Object.entries(polynomials ?? {}).map(([name, text]) => [
      name,
      Polynomial.decode(fromBase64Url(text, 'polynomials'), 'polynomials'),
    ]),
  )
}

function encodeShares(shares: Shares): Record<string, string> {
  return Object.fromEntries([...shares].map(([name, share]) => [name, toBase64Url(share.encode())]))
}

const heldBoxes = ({ boxes }: CeremonyRecord) => (boxes === undefined ? {} : { boxes })

function pointOf(text: string, round: Round, who: string): G1 {
  try {
    return G1.decode(fromBase64Url(text, 'commitment', 48), 'commitment')
  } catch (error) {
    if (error instanceof DecodeError)
      throw new CeremonyFault('WRONG_SHARE', round, who, 'a commitment is no point')
    throw error
  }
}

function scalarOf(text: string, round: Round, who: string): Scalar {
  try {
    return Scalar.decode(fromBase64Url(text, 'proof', 32), 'proof')
  } catch (error) {
    if (error instanceof DecodeError)
      throw new CeremonyFault('WRONG_SHARE', round, who, 'a proof is no scalar')
    throw error
  }
}

function needed<T>(round: T | undefined): T {
  if (round === undefined) throw new RangeError('a round that was not read')
  return round
}
