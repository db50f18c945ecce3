/**
 * The coordinator of a ceremony: anybody, with no secret. It relays each round's messages to everybody, checks what it
 * relays, so that whoever is at fault is named here too, and keeps the transcript, which anybody can replay.
 *
 * A run that broke off is run again with the same proposal: every move answers with the same bytes the second time, so
 * it goes on where it stopped, and nobody is asked again for a round that stands whole in the transcript. Once all results
 * are said, t are enough: t signatures make the document, and with t members that have concluded it is in force, whoever
 * else has died meanwhile.
 */
import { fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { type Client, UnexpectedAnswer, Unreachable } from './call.js'
import {
  Ceremony,
  CeremonyFault,
  type CeremonyProposal,
  type CeremonyRounds,
  checkCeremony,
  checkResults,
  checkRounds,
  ROUNDS,
  type Round,
  readMessage,
  statedLedgers,
} from './ceremony.js'
import { type LedgerLine, readLedgerPage } from './ceremony-ledger.js'
import type { dtaRoutes } from './dta-routes.js'
import { documentHash, Group } from './group.js'
import type { GroupDocument } from './group-document.js'
import { Refused } from './problem.js'

/** What the coordinator needs of an authority's client. */
export type CeremonyClient = Pick<
  Client<typeof dtaRoutes>,
  | 'joinCeremony'
  | 'ceremonyRound'
  | 'signCeremony'
  | 'concludeCeremony'
  | 'readCeremonyLedger'
  | 'adoptCeremonyLedger'
>

export interface CeremonyProgress {
  readonly move: Round | 'ledger' | 'sign' | 'conclude'
  /** Who has done it. */
  readonly name: string
}

export interface CeremonyResult {
  readonly group: Group
  /** One JSON text a line. */
  readonly transcript: readonly string[]
  /** Who has not concluded, and why: they go on with their old shares until they are told again. */
  readonly unconcluded: readonly Failure[]
}

export interface Failure {
  readonly name: string
  readonly why: string
}

/**
 * @param revisions The group's documents from the first to the one in force; none in a founding.
 * @param clients By participants' names.
 * @param written The transcript of a run that broke off. What isn't of this ceremony, or doesn't hold, is passed over.
 * @param onTranscript Called with every line as soon as it is known, so that what a failed run has said is kept.
 * Throws CeremonyFault naming who is at fault, Refused naming who refused, Unreachable naming who didn't answer. Of the
 * signatures and of the conclusion, only when fewer than t are left (of the signatures of a founding: n).
 */
export async function ceremonyRun({
  proposal,
  revisions = [],
  clients,
  written = [],
  onProgress = () => {},
  onTranscript = () => {},
}: {
  proposal: CeremonyProposal
  revisions?: readonly GroupDocument[]
  clients: ReadonlyMap<string, CeremonyClient>
  written?: readonly string[]
  onProgress?: (progress: CeremonyProgress) => void
  onTranscript?: (line: string) => void
}): Promise<CeremonyResult> {
  const predecessor = await predecessorOf(proposal, revisions)
  const ceremony = Ceremony.read(proposal, predecessor)
  const params = { ceremonyHash: toBase64Url(ceremony.hash) }
  const transcript: string[] = []
  const note = (line: object) => {
    const text = JSON.stringify(line)
    transcript.push(text)
    onTranscript(text)
  }
  const asked = async <T>(name: string, move: CeremonyProgress['move'], ask: Asking<T>): Promise<T> => {
    const client = clients.get(name)
    if (client === undefined) throw new RangeError(`no client for ${name}`)
    const answer = await ask(client, name).catch((error: unknown) => named(name, move, error))
    onProgress({ move, name })
    return answer
  }
  const all = <T>(names: readonly string[], move: CeremonyProgress['move'], ask: Asking<T>) =>
    Promise.all(names.map(name => asked(name, move, ask)))
  /** The first failure is thrown when fewer than `least` of those who count have answered. */
  const most = async <T>(
    names: readonly string[],
    move: 'sign' | 'conclude',
    { least, counts = () => true }: { least: number; counts?: (name: string) => boolean },
    ask: Asking<T>,
  ) => {
    const failures: (Failure & { error: unknown })[] = []
    const answers: T[] = []
    let count = 0
    const outcomes = await Promise.allSettled(names.map(name => asked(name, move, ask)))
    for (const [i, outcome] of outcomes.entries()) {
      const name = names[i] as string
      if (outcome.status === 'fulfilled') {
        answers.push(outcome.value)
        if (counts(name)) count++
      } else failures.push({ name, why: whyOf(outcome.reason), error: outcome.reason })
    }
    const [first] = failures
    if (first !== undefined && count < least) throw first.error
    return { answers, failures: failures.map(({ name, why }) => ({ name, why })) }
  }
  const everybody = ceremony.participants.map(({ name }) => name)

  note({ proposal })
  for (const revision of revisions) note({ revision })
  const rounds = await roundsIn(ceremony, written)
  for (const [r, messages] of rounds.entries()) {
    const round = ROUNDS[r] as Round
    for (const message of messages) note({ round, message })
    for (const { name } of ceremony.speakers(round)) onProgress({ move: round, name })
  }
  for (const round of ROUNDS.slice(rounds.length)) {
    if (round === 'result') {
      const waiting = await waitingForLedgers({ ceremony, rounds, params, clients })
      if (waiting.size > 0) await relayLedgers({ ceremony, rounds, params, waiting }, all)
    }
    const names = ceremony.speakers(round).map(({ name }) => name)
    const answers = await all(names, round, client =>
      round === 'join'
        ? client.joinCeremony({
            params,
            body: { proposal, ...(revisions.length > 0 && { revisions: [...revisions] }) },
          })
        : client.ceremonyRound({ params: { ...params, round }, body: { rounds } }),
    )
    const messages = answers.map(({ message }) => message)
    for (const message of messages) note({ round, message })
    rounds.push(messages)
    await checkRounds(ceremony, rounds)
  }

  const unsigned = await checkCeremony(ceremony, rounds)
  await checkResults(ceremony, rounds, unsigned)
  const signers = ceremony.dealers.map(({ name }) => name)
  const needed = predecessor === undefined ? signers.length : predecessor.t
  const { answers: signatures } = await most(signers, 'sign', { least: needed }, client =>
    client.signCeremony({ params, body: { rounds } }),
  )
  const document = { ...unsigned, signatures }
  const group =
    predecessor === undefined ? await Group.verifyFirst(document) : await predecessor.verifyNext(document)
  note({ document: group.document })
  const isMember = (name: string) => ceremony.members.some(member => member.name === name)
  const { failures } = await most(everybody, 'conclude', { least: ceremony.t, counts: isMember }, client =>
    client.concludeCeremony({ params, body: { document: group.document } }),
  )
  return { group, transcript, unconcluded: failures }
}

type Asking<T> = (client: CeremonyClient, name: string) => Promise<T>

/** Of what `named` throws; a programmer's mistake is no answer of a member. */
function whyOf(error: unknown): string {
  if (error instanceof Refused) return `${error.detail ?? error.code} (${error.code})`
  if (isOfMember(error)) return error.message
  throw error
}

const isOfMember = (error: unknown): error is Refused | Unreachable | UnexpectedAnswer =>
  error instanceof Refused || error instanceof Unreachable || error instanceof UnexpectedAnswer

async function predecessorOf(
  proposal: CeremonyProposal,
  revisions: readonly GroupDocument[],
): Promise<Group | undefined> {
  if (proposal.kind === 'found') return undefined
  return Group.verifyChain(revisions, fromBase64Url(proposal.groupId, 'groupId', 32))
}

/** The rounds that are whole in a transcript of this ceremony, as far as they hold. */
async function roundsIn(ceremony: Ceremony, transcript: readonly string[]): Promise<CeremonyRounds> {
  const entries = transcript.map(readEntry)
  const rounds: CeremonyRounds = []
  for (const round of ROUNDS) {
    const messages = entries.flatMap(entry =>
      entry !== null && 'message' in entry && entry.round === round ? [entry.message] : [],
    )
    try {
      await checkRounds(ceremony, [...rounds, messages])
    } catch (error) {
      if (error instanceof Refused || error instanceof DecodeError) return rounds
      throw error
    }
    rounds.push(messages)
  }
  return rounds
}

interface Relaying {
  readonly ceremony: Ceremony
  readonly rounds: CeremonyRounds
  readonly params: { readonly ceremonyHash: string }
}

/**
 * Members that give no result yet, for want of lines: all of them the first time, none when the run broke off after the
 * results; by then a dealer may have given up, and hands nothing over any more.
 */
async function waitingForLedgers({
  ceremony,
  rounds,
  params,
  clients,
}: Relaying & { clients: ReadonlyMap<string, CeremonyClient> }): Promise<ReadonlySet<string>> {
  const stated = await statedLedgers(ceremony, rounds)
  const waiting = new Set<string>()
  if ([...stated.values()].every(({ entries }) => entries === 0)) return waiting
  const asked = ceremony.members.map(async ({ name }) => {
    try {
      await clients.get(name)?.ceremonyRound({ params: { ...params, round: 'result' }, body: { rounds } })
    } catch (error) {
      if (error instanceof Refused && error.code === 'CONFLICT') waiting.add(name)
      // Whatever else it is comes again where everybody is asked.
      else if (!isOfMember(error)) throw error
    }
  })
  await Promise.all(asked)
  return waiting
}

/** Everybody who waits gets the ledger of every dealer but its own. */
async function relayLedgers(
  { ceremony, rounds, params, waiting }: Relaying & { waiting: ReadonlySet<string> },
  all: <T>(
    names: readonly string[],
    move: 'ledger',
    ask: (client: CeremonyClient, name: string) => Promise<T>,
  ) => Promise<T[]>,
): Promise<void> {
  const stated = await statedLedgers(ceremony, rounds)
  for (const [dealer, { entries }] of stated) {
    const source = ceremony.dealers.find(one => one.dealer === dealer)?.name as string
    const members = [...waiting].filter(name => name !== source)
    if (members.length === 0) continue
    let after: string | undefined
    for (let relayed = 0; relayed < entries; ) {
      const [answer] = await all([source], 'ledger', client =>
        client.readCeremonyLedger({ params, query: after === undefined ? {} : { after } }),
      )
      const { page } = answer as { page: string }
      await all(members, 'ledger', client => client.adoptCeremonyLedger({ params, body: { page } }))
      const { lines } = await readLedgerPage(ceremony, page)
      relayed += lines.length
      after = (lines.at(-1) as LedgerLine).identityHash
    }
  }
}

function named(name: string, move: string, error: unknown): never {
  if (error instanceof Refused) {
    const { code, field, detail, retryAfter } = error
    throw new Refused(code, { detail: `${name}, ${move}: ${detail ?? code}`, field, retryAfter })
  }
  if (error instanceof Unreachable)
    throw new Unreachable(`${name}, ${move}: ${error.message}`, { cause: error })
  if (error instanceof UnexpectedAnswer) throw new UnexpectedAnswer(`${name}, ${move}: ${error.message}`)
  throw error
}

export type TranscriptVerdict =
  | { readonly valid: true; readonly group: Group }
  /** `line` counts from 1; of what is missing, it is the line after the last. */
  | { readonly valid: false; readonly line: number; readonly why: string }

/**
 * Replays a transcript: every signature, the chain, every commitment, proof, complaint and the document. The first line
 * that is wrong is named; of a fault that only later lines show, the line of whoever is at fault.
 */
export async function verifyTranscript(lines: readonly string[]): Promise<TranscriptVerdict> {
  const entries: Entry[] = []
  for (const [i, text] of lines.entries()) {
    const entry = readEntry(text)
    if (entry === null) return { valid: false, line: i + 1, why: 'not a line of a transcript' }
    entries.push(entry)
  }
  const lineOf = (round: Round, who: string) => {
    const at = entries.findLastIndex(
      entry => 'message' in entry && entry.round === round && entry.kid === who,
    )
    return at === -1 ? lines.length + 1 : at + 1
  }
  let at = 0
  try {
    const [first] = entries
    if (first === undefined || !('proposal' in first)) return { valid: false, line: 1, why: 'no proposal' }
    at = 1
    let group: Group | undefined
    for (; at < entries.length; at++) {
      const entry = entries[at] as Entry
      if (!('revision' in entry)) break
      group =
        group === undefined ? await Group.verifyFirst(entry.revision) : await group.verifyNext(entry.revision)
    }
    let ceremony: Ceremony
    try {
      ceremony = Ceremony.read(first.proposal, group)
    } catch (error) {
      // By itself, or beside the group as it was: not what comes after it is wrong.
      if (error instanceof DecodeError) return { valid: false, line: 1, why: error.message }
      throw error
    }
    const rounds: CeremonyRounds = []
    for (const round of ROUNDS) {
      const messages: string[] = []
      for (; at < entries.length; at++) {
        const entry = entries[at] as Entry
        if (!('message' in entry) || entry.round !== round) break
        await readMessage(ceremony, round, entry.message)
        if (messages.includes(entry.message))
          return {
            valid: false,
            line: at + 1,
            why: `a message of ${entry.kid} in round ${round} stands twice`,
          }
        messages.push(entry.message)
      }
      rounds.push(messages)
      await checkRounds(ceremony, rounds)
    }
    const document = await checkCeremony(ceremony, rounds)
    await checkResults(ceremony, rounds, document)
    const last = entries[at]
    if (last === undefined || !('document' in last))
      return { valid: false, line: at + 1, why: 'the document is missing' }
    const made =
      group === undefined ? await Group.verifyFirst(last.document) : await group.verifyNext(last.document)
    if (toBase64Url(documentHash(made.document)) !== toBase64Url(documentHash(document)))
      return { valid: false, line: at + 1, why: 'the document is not what the rounds come to' }
    at++
    if (at < entries.length) return { valid: false, line: at + 1, why: 'nothing follows the document' }
    return { valid: true, group: made }
  } catch (error) {
    if (error instanceof CeremonyFault)
      return { valid: false, line: lineOf(error.round, error.who), why: error.detail ?? error.code }
    if (error instanceof Refused) return { valid: false, line: at + 1, why: error.detail ?? error.code }
    if (error instanceof DecodeError) return { valid: false, line: at + 1, why: error.message }
    throw error
  }
}

type Entry =
  | { readonly proposal: CeremonyProposal }
  | { readonly revision: GroupDocument }
  | { readonly round: Round; readonly message: string; readonly kid: string }
  | { readonly document: GroupDocument }

/** The form only: what stands in it is checked where it is used. */
function readEntry(text: string): Entry | null {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return null
  }
  if (typeof value !== 'object' || value === null) return null
  const entry = value as Record<string, unknown>
  if ('proposal' in entry) return { proposal: entry.proposal as CeremonyProposal }
  if ('revision' in entry) return { revision: entry.revision as GroupDocument }
  if ('document' in entry) return { document: entry.document as GroupDocument }
  const { round, message } = entry
  if (!ROUNDS.includes(round as Round) || typeof message !== 'string') return null
  return { round: round as Round, message, kid: kidOf(message) }
}

/** Who claims to have said it; whether he has is found out when it is verified. */
function kidOf(message: string): string {
  try {
    const header: unknown = JSON.parse(
      atob((message.split('.')[0] as string).replaceAll('-', '+').replaceAll('_', '/')),
    )
    return String((header as { kid?: unknown }).kid)
  } catch {
    return ''
  }
}
