/**
 * Making the first, n-of-n group without a dealer (protocols.md §3). Authority j draws one secret s_j per purpose;
 * any n of them lie on one polynomial of degree n − 1, so combining and later resharing need nothing else.
 *
 *   coordinator                                     authority j (its operator has accepted proposalHash)
 *      -- proposal -->                              s_j random, C_j = s_jP1; for permit, sign, encrypt also s_jQ
 *                                                   commitment = SHA-256(TLV{blind, C_j …, s_jQ …})
 *      <-- join: JWS{proposalHash, index, nonce, commitment} --
 *      -- all joins -->                             session = SHA-256(JCS[join payloads in index order])
 *      <-- opening: JWS{session, blind, C_j, κ, z, s_jQ} --        once: another set of joins is CONFLICT
 *      -- all openings -->                          commitments fit, κ, z prove s_j, e(C_j, Q) = e(P1, s_jQ);
 *                                                   document = composeFirstRevision(proposal, openings)
 *      <-- groupId, signature --                    each computes the document itself
 *      -- document with all n signatures -->        serves the group from here on
 *
 * Why it holds. The hash commitments keep the last one from choosing its C_j after seeing the others'; the proof of
 * possession, bound to session and index, keeps anybody from using a C_j whose secret it doesn't know (C_3 = X − C_1 −
 * C_2), or another's opening. The session hashes every join with its fresh nonce, so an opening of another run, or of a
 * run in which somebody was shown another join, fits nowhere. The coordinator holds no secret and is believed nothing.
 * A run that fails reveals C_j and s_jQ of secrets that are then thrown away. Single use: an authority's secrets, which
 * it opens under one session only (the waiting states below have codecs; store each before its answer goes out).
 */
import { equalBytes, fromBase64Url, fromUtf8, toBase64Url, utf8 } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { G1, G2 } from '@milagro-ts/crypto/points'
import type { Random } from '@milagro-ts/crypto/ports'
import { possessionProve, possessionVerify } from '@milagro-ts/crypto/possession'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { combineG1, combineG2, type PointShare } from '@milagro-ts/crypto/secret-sharing'
import { authorityServerKeyShare, sameLogarithm } from '@milagro-ts/crypto/server-key'
import { sha256 } from '@milagro-ts/crypto/sha256'
import { PUBLIC_KEY_PURPOSES, PURPOSES, type Purpose, SUITE } from '@milagro-ts/crypto/suite'
import { encodeTlv } from '@milagro-ts/crypto/tlv'
import type { Client } from './call.js'
import { canonicalHash } from './canonical-json.js'
import type { dtaRoutes } from './dta-routes.js'
import { checkProposal, documentHash, Group, proposalHash } from './group.js'
import type { GroupDocument, GroupProposal } from './group-document.js'
import { signJws, verifyJws } from './jws.js'
import { type Es256PrivateKey, Es256PublicKey } from './keys.js'
import { Refused } from './problem.js'
import { Bytes, Jws, Strict } from './schemas.js'
import Type, { Compile, type Static, type TSchema, type Validator } from './typebox.js'

/** Key epoch and share epoch of every purpose in a first revision. */
export const FIRST_EPOCH = 1

const JOIN = 'mpin-founding-join+jwt'
const OPENING = 'mpin-founding-opening+jwt'
const Suite = Type.Literal(SUITE)
const Index = Type.Integer({ minimum: 1, maximum: 255 })

export const JoinPayload = Strict({
  suite: Suite,
  proposalHash: Bytes(32),
  index: Index,
  /** Makes every session another one. */
  nonce: Bytes(32),
  commitment: Bytes(32),
})
export type JoinPayload = Static<typeof JoinPayload>

const PrivatePart = { c: Bytes(48), kappa: Bytes(32), z: Bytes(32) }
const Part = Strict(PrivatePart)
const PublicPart = Strict({ ...PrivatePart, pub: Bytes(96) })
export const OpeningPayload = Strict({
  suite: Suite,
  session: Bytes(32),
  index: Index,
  /** 32 random bytes inside the commitment. */
  blind: Bytes(32),
  parts: Strict({
    device: Part,
    pin: Part,
    permit: PublicPart,
    agree: Part,
    sign: PublicPart,
    encrypt: PublicPart,
  }),
})
export type OpeningPayload = Static<typeof OpeningPayload>

const Secrets = Strict({
  device: Bytes(32),
  pin: Bytes(32),
  permit: Bytes(32),
  agree: Bytes(32),
  sign: Bytes(32),
  encrypt: Bytes(32),
})
const JoinedState = Strict({ index: Index, blind: Bytes(32), secrets: Secrets, join: Jws() })
const OpenedState = Strict({
  index: Index,
  secrets: Secrets,
  joins: Type.Array(Jws(), { minItems: 1, maxItems: 255 }),
  opening: Jws(8192),
})

const joinPayloads = Compile(JoinPayload)
const openingPayloads = Compile(OpeningPayload)
const joinedStates = Compile(JoinedState)
const openedStates = Compile(OpenedState)

/** s_j of every purpose. */
export type MasterShares = Readonly<Record<Purpose, Scalar>>

/** Move 1. The authority's own key must be the proposal's for `index`; an n-of-n group has t = n. */
export async function foundingJoin({
  proposal,
  index,
  key,
  random,
}: {
  proposal: GroupProposal
  index: number
  key: Es256PrivateKey
  random: Random
}): Promise<AwaitingJoins> {
  checkFounding(proposal)
  const me = proposal.authorities[index - 1]
  if (me === undefined || me.signKey !== key.publicKey.toBase64Url())
    throw new Refused('NOT_APPROVED', { detail: 'this authority is not in the proposal' })
  const secrets = forEachPurpose(() => Scalar.random(random))
  const blind = random(32)
  const payload: JoinPayload = {
    suite: SUITE,
    proposalHash: toBase64Url(proposalHash(proposal)),
    index,
    nonce: toBase64Url(random(32)),
    commitment: toBase64Url(commitmentTo(blind, publicParts(secrets))),
  }
  return AwaitingJoins.of(index, blind, secrets, await signJws(JOIN, payload, key, me.name))
}

/** Has joined, waits for everybody's joins. Keep it sealed: the secrets are inside. */
export class AwaitingJoins {
  readonly index: number
  /** This authority's answer to move 1, the same however often it is asked. */
  readonly join: string
  readonly #blind: Uint8Array
  readonly #secrets: MasterShares

  private constructor(index: number, blind: Uint8Array, secrets: MasterShares, join: string) {
    this.index = index
    this.join = join
    this.#blind = blind
    this.#secrets = secrets
  }

  static of(index: number, blind: Uint8Array, secrets: MasterShares, join: string): AwaitingJoins {
    return new AwaitingJoins(index, blind, secrets, join)
  }

  encode(): Uint8Array {
    const { index, join } = this
    const state = { index, blind: toBase64Url(this.#blind), secrets: encodeSecrets(this.#secrets), join }
    return utf8(JSON.stringify(state))
  }

  static decode(bytes: Uint8Array): AwaitingJoins {
    const { index, blind, secrets, join } = stateOf(joinedStates, bytes)
    return new AwaitingJoins(index, fromBase64Url(blind, 'blind', 32), decodeSecrets(secrets), join)
  }

  /** Move 2. CONFLICT unless the joins are everybody's, for this proposal, with this authority's own among them. */
  async open({
    proposal,
    joins,
    key,
    random,
  }: {
    proposal: GroupProposal
    joins: readonly string[]
    key: Es256PrivateKey
    random: Random
  }): Promise<AwaitingOpenings> {
    const { index } = this
    const checked = await checkJoins(proposal, joins)
    if (checked.jws[index - 1] !== this.join) throw conflict('the joins hold another join of this authority')
    const { session } = checked
    const own = publicParts(this.#secrets)
    const part = (purpose: Purpose) => {
      const { kappa, z } = possessionProve({ session, purpose, index }, this.#secrets[purpose], random)
      return {
        c: toBase64Url(own.C[purpose].encode()),
        kappa: toBase64Url(kappa.encode()),
        z: toBase64Url(z.encode()),
      }
    }
    const pub = (purpose: PublicPurpose) => toBase64Url(own.W[purpose].encode())
    const payload: OpeningPayload = {
      suite: SUITE,
      session: toBase64Url(session),
      index,
      blind: toBase64Url(this.#blind),
      parts: {
        device: part('device'),
        pin: part('pin'),
        permit: { ...part('permit'), pub: pub('permit') },
        agree: part('agree'),
        sign: { ...part('sign'), pub: pub('sign') },
        encrypt: { ...part('encrypt'), pub: pub('encrypt') },
      },
    }
    const { name } = proposal.authorities[index - 1] as GroupProposal['authorities'][number]
    return AwaitingOpenings.of(index, this.#secrets, checked.jws, await signJws(OPENING, payload, key, name))
  }
}

/** Has opened under one session, waits for everybody's openings. */
export class AwaitingOpenings {
  readonly index: number
  /** In index order. */
  readonly joins: readonly string[]
  readonly opening: string
  readonly #secrets: MasterShares

  private constructor(index: number, secrets: MasterShares, joins: readonly string[], opening: string) {
    this.index = index
    this.joins = joins
    this.opening = opening
    this.#secrets = secrets
  }

  /** Move 1 again. */
  get join(): string {
    return this.joins[this.index - 1] as string
  }

  static of(
    index: number,
    secrets: MasterShares,
    joins: readonly string[],
    opening: string,
  ): AwaitingOpenings {
    return new AwaitingOpenings(index, secrets, joins, opening)
  }

  encode(): Uint8Array {
    const { index, joins, opening } = this
    return utf8(JSON.stringify({ index, secrets: encodeSecrets(this.#secrets), joins, opening }))
  }

  static decode(bytes: Uint8Array): AwaitingOpenings {
    const { index, secrets, joins, opening } = stateOf(openedStates, bytes)
    return new AwaitingOpenings(index, decodeSecrets(secrets), joins, opening)
  }

  /** Move 2 again: the same joins get the same opening, others CONFLICT. One set of secrets opens once. */
  async openAgain({
    proposal,
    joins,
  }: {
    proposal: GroupProposal
    joins: readonly string[]
  }): Promise<string> {
    const { session } = await checkJoins(proposal, joins)
    const { session: opened } = await checkJoins(proposal, this.joins)
    if (!equalBytes(session, opened)) throw conflict('this authority has opened to other joins')
    return this.opening
  }

  /** Move 3: the first revision as this authority computes it, unsigned, and the shares it serves it with. */
  async compose({
    proposal,
    openings,
    arithmetic,
  }: {
    proposal: GroupProposal
    openings: readonly string[]
    arithmetic?: FoundingArithmetic
  }): Promise<{ document: GroupDocument; shares: MasterShares }> {
    const checked = await checkOpenings(proposal, this.joins, openings, arithmetic)
    if (!checked.jws.includes(this.opening))
      throw conflict('the openings hold another opening of this authority')
    const document = await composeFirstRevision(proposal, checked.openings, arithmetic)
    return { document, shares: this.#secrets }
  }
}

/** The joins' payloads in index order, and the session they make. Refused names the authority whose join is wrong. */
export async function checkJoins(
  proposal: GroupProposal,
  joins: readonly string[],
): Promise<{ jws: readonly string[]; payloads: readonly JoinPayload[]; session: Uint8Array }> {
  checkFounding(proposal)
  const { jws, payloads } = await inOrder(proposal, JOIN, joinPayloads, joins)
  const hash = toBase64Url(proposalHash(proposal))
  payloads.forEach((payload, i) => {
    if (payload.proposalHash !== hash) throw conflict(`${nameOf(proposal, i)} has joined another proposal`)
  })
  return { jws, payloads, session: canonicalHash(payloads) }
}

/** One authority's public shares, after everything about them has been checked. */
export interface CheckedOpening {
  readonly index: number
  readonly C: Readonly<Record<Purpose, G1>>
  readonly W: Readonly<Record<PublicPurpose, G2>>
}

/**
 * The openings in index order. Refused WRONG_SHARE names the authority whose opening does not fit its commitment, its
 * proofs or itself; CONFLICT the one that opened under another session.
 */
export async function checkOpenings(
  proposal: GroupProposal,
  joins: readonly string[],
  openings: readonly string[],
  arithmetic: FoundingArithmetic = onThisThread,
): Promise<{ jws: readonly string[]; openings: readonly CheckedOpening[] }> {
  const { payloads: joined, session } = await checkJoins(proposal, joins)
  const { jws, payloads } = await inOrder(proposal, OPENING, openingPayloads, openings)
  const checked: CheckedOpening[] = []
  for (const [i, payload] of payloads.entries()) {
    const wrong = (why: string) => new Refused('WRONG_SHARE', { detail: `${nameOf(proposal, i)}: ${why}` })
    if (!equalBytes(fromBase64Url(payload.session, 'session', 32), session))
      throw conflict(`${nameOf(proposal, i)} has opened under another session`)
    const opening = readOpening(payload)
    const { index, C, W } = opening
    const { commitment } = joined[i] as JoinPayload
    const made = commitmentTo(fromBase64Url(payload.blind, 'blind', 32), opening)
    if (!equalBytes(made, fromBase64Url(commitment, 'commitment', 32)))
      throw wrong('the opening does not fit the commitment')
    for (const purpose of PURPOSES) {
      const { kappa, z } = payload.parts[purpose]
      const proof = { kappa: scalarOf(kappa, 'kappa'), z: scalarOf(z, 'z') }
      if (!(await arithmetic.possessionVerify({ session, purpose, index }, C[purpose], proof)))
        throw wrong(`no proof of possession for ${purpose}`)
    }
    for (const purpose of PUBLIC_KEY_PURPOSES)
      if (!(await arithmetic.sameLogarithm(C[purpose], W[purpose])))
        throw wrong(`the public share for ${purpose} is of another secret`)
    checked.push(opening)
  }
  return { jws, openings: checked }
}

/** What of a founding takes pairings and sums of products: an authority hands it to its workers. */
export interface FoundingArithmetic {
  possessionVerify(...claim: Parameters<typeof possessionVerify>): boolean | Promise<boolean>
  sameLogarithm(C: G1, W: G2): boolean | Promise<boolean>
  combineG1(shares: readonly PointShare<G1>[]): G1 | Promise<G1>
  combineG2(shares: readonly PointShare<G2>[]): G2 | Promise<G2>
}
const onThisThread: FoundingArithmetic = { possessionVerify, sameLogarithm, combineG1, combineG2 }

/** Deterministic: every authority gets the same document, byte for byte, with no signature in it yet. */
export async function composeFirstRevision(
  proposal: GroupProposal,
  openings: readonly CheckedOpening[],
  arithmetic: FoundingArithmetic = onThisThread,
): Promise<GroupDocument> {
  const { suite, v, n, t, authorities, ra, recipients, slot, policy, firstSlot } = proposal
  const keys = async (purpose: Purpose) => {
    const points = openings.map(({ index, C }) => ({ index, point: C[purpose] }))
    const ivk = await arithmetic.combineG1(points) // IVK = Σ λ_j C_j
    return {
      epoch: FIRST_EPOCH,
      firstSlot,
      ivk: toBase64Url(ivk.encode()),
      shares: points.map(({ point }) => toBase64Url(point.encode())),
    }
  }
  const publicKeys = async (purpose: PublicPurpose) => {
    const points = openings.map(({ index, W }) => ({ index, point: W[purpose] }))
    const pub = await arithmetic.combineG2(points) // sQ = Σ λ_j s_jQ
    return { ...(await keys(purpose)), pub: toBase64Url(pub.encode()) }
  }
  return {
    suite,
    v,
    revision: 1,
    n,
    t,
    purposes: {
      device: await keys('device'),
      pin: await keys('pin'),
      permit: await publicKeys('permit'),
      agree: await keys('agree'),
      sign: await publicKeys('sign'),
      encrypt: await publicKeys('encrypt'),
    },
    authorities,
    ra,
    recipients,
    slot,
    policy,
    signatures: [],
  }
}

/** What the coordinator needs of an authority's client. */
export type FoundingClient = Pick<
  Client<typeof dtaRoutes>,
  'joinFounding' | 'openFounding' | 'signFounding' | 'concludeFounding'
>

/**
 * The coordinator: anybody, with no secret. Checks what it relays, so that the one who is at fault is named here too.
 * `clients` by the authorities' index − 1. Throws Refused, or what the clients throw. A run that broke off is run again:
 * every move answers the same the second time.
 */
export async function groupMake({
  proposal,
  clients,
}: {
  proposal: GroupProposal
  clients: readonly FoundingClient[]
}): Promise<Group> {
  checkFounding(proposal)
  if (clients.length !== proposal.n) throw new RangeError('one client for each authority')
  const params = { proposalHash: toBase64Url(proposalHash(proposal)) }
  const all = <T>(move: (client: FoundingClient) => Promise<T>) =>
    Promise.all(
      clients.map((client, i) => move(client).catch((error: unknown) => named(nameOf(proposal, i), error))),
    )

  const joins = (await all(client => client.joinFounding({ params, body: { proposal } }))).map(
    ({ join }) => join,
  )
  await checkJoins(proposal, joins)
  const opened = await all(client => client.openFounding({ params, body: { joins } }))
  const openings = opened.map(({ opening }) => opening)
  const checked = await checkOpenings(proposal, joins, openings)
  const unsigned = await composeFirstRevision(proposal, checked.openings)
  const signed = await all(client => client.signFounding({ params, body: { openings } }))
  const groupId = toBase64Url(documentHash(unsigned))
  signed.forEach((answer, i) => {
    if (answer.groupId !== groupId) throw conflict(`${nameOf(proposal, i)} has computed another group`)
  })
  const signatures = signed.map(({ signature }, i) => ({ index: i + 1, signature }))
  const group = await Group.verifyFirst({ ...unsigned, signatures })
  await all(client => client.concludeFounding({ params, body: { document: group.document } }))
  return group
}

function named(name: string, error: unknown): never {
  if (!(error instanceof Refused)) throw error
  const { code, field, detail, retryAfter } = error
  throw new Refused(code, { detail: `${name}: ${detail ?? code}`, field, retryAfter })
}

type PublicPurpose = (typeof PUBLIC_KEY_PURPOSES)[number]

function checkFounding(proposal: GroupProposal): void {
  checkProposal(proposal)
  if (proposal.t !== proposal.n) throw new DecodeError('t', 'a group is founded n of n; resharing lowers t')
}

function forEachPurpose<T>(make: (purpose: Purpose) => T): Record<Purpose, T> {
  return {
    device: make('device'),
    pin: make('pin'),
    permit: make('permit'),
    agree: make('agree'),
    sign: make('sign'),
    encrypt: make('encrypt'),
  }
}

interface PublicParts {
  readonly C: Readonly<Record<Purpose, G1>>
  readonly W: Readonly<Record<PublicPurpose, G2>>
}

function publicParts(secrets: MasterShares): PublicParts {
  return {
    C: forEachPurpose(purpose => G1.generator.mulSecret(secrets[purpose])),
    W: {
      permit: authorityServerKeyShare(secrets.permit),
      sign: authorityServerKeyShare(secrets.sign),
      encrypt: authorityServerKeyShare(secrets.encrypt),
    },
  }
}

/** SHA-256(TLV{1 blind, 2–7 C_j in the order of PURPOSES, 8–10 s_jQ of permit, sign, encrypt}). */
function commitmentTo(blind: Uint8Array, { C, W }: PublicParts): Uint8Array {
  const points = [...PURPOSES.map(purpose => C[purpose]), ...PUBLIC_KEY_PURPOSES.map(purpose => W[purpose])]
  return sha256(encodeTlv([blind, ...points.map(point => point.encode())]))
}

function readOpening({ index, parts }: OpeningPayload): CheckedOpening {
  const pub = (purpose: PublicPurpose) =>
    G2.decode(fromBase64Url(parts[purpose].pub, `${purpose}.pub`, 96), `${purpose}.pub`)
  return {
    index,
    C: forEachPurpose(purpose =>
      G1.decode(fromBase64Url(parts[purpose].c, `${purpose}.c`, 48), `${purpose}.c`),
    ),
    W: { permit: pub('permit'), sign: pub('sign'), encrypt: pub('encrypt') },
  }
}

/** Exactly one statement of each authority, by its key; sorted by index. */
async function inOrder<S extends TSchema>(
  proposal: GroupProposal,
  typ: string,
  validator: Validator<Record<never, never>, S>,
  tokens: readonly string[],
): Promise<{ jws: readonly string[]; payloads: readonly Static<S>[] }> {
  const { authorities, n } = proposal
  const keys = new Map(
    authorities.map(({ name, signKey }) => [name, Es256PublicKey.fromBase64Url(signKey, name)]),
  )
  const byIndex = new Map<number, { token: string; payload: Static<S> }>()
  for (const token of tokens) {
    const verified = await verifyJws(typ, token, keys)
    if (verified === null) throw new Refused('NOT_APPROVED', { detail: `not a ${typ} of a member` })
    const { payload, kid } = verified
    if (!validator.Check(payload)) throw new DecodeError(typ, `wrong shape from ${kid}`)
    const { index } = payload as { index: number }
    if (authorities[index - 1]?.name !== kid)
      throw new Refused('NOT_APPROVED', { detail: `${kid} speaks as another authority` })
    if (byIndex.has(index)) throw conflict(`${kid} speaks twice`)
    byIndex.set(index, { token, payload: payload as Static<S> })
  }
  if (byIndex.size !== n) throw conflict(`${byIndex.size} of ${n} authorities have spoken`)
  const sorted = [...byIndex].sort(([one], [other]) => one - other).map(([, entry]) => entry)
  return { jws: sorted.map(({ token }) => token), payloads: sorted.map(({ payload }) => payload) }
}

function nameOf({ authorities }: GroupProposal, position: number): string {
  return authorities[position]?.name ?? `authority ${position + 1}`
}

function scalarOf(text: string, field: string): Scalar {
  return Scalar.decode(fromBase64Url(text, field, 32), field)
}

function encodeSecrets(secrets: MasterShares): Record<Purpose, string> {
  return forEachPurpose(purpose => toBase64Url(secrets[purpose].encode()))
}

function decodeSecrets(secrets: Static<typeof Secrets>): MasterShares {
  return forEachPurpose(purpose => scalarOf(secrets[purpose], `secrets.${purpose}`))
}

function stateOf<S extends TSchema>(
  validator: Validator<Record<never, never>, S>,
  bytes: Uint8Array,
): Static<S> {
  let state: unknown
  try {
    state = JSON.parse(fromUtf8(bytes, 'state'))
  } catch (error) {
    if (error instanceof DecodeError) throw error
    throw new DecodeError('state', 'not JSON')
  }
  // What doesn't fit is not repeated in the error: secrets are inside.
  if (!validator.Check(state)) throw new DecodeError('state', 'not a state of a founding')
  return state as Static<S>
}

function conflict(detail: string): Refused {
  return new Refused('CONFLICT', { detail })
}
