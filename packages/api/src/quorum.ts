/**
 * Asks the authorities of a group for a share each, all at once, and takes the first t good answers.
 *
 *   answer                             is                what it says of the authority
 *   of the asked one and its epoch     verified          a good share, or `wrong-share`: it lies or is damaged
 *   of another share epoch             `other-epoch`     nothing: it has taken in a revision that we haven't, or not yet
 *   no answer by the deadline          `unreachable`     it, or the way to it, is down
 *   a problem                          `refused`         with its code
 *
 * One that is slow holds nobody up once t have answered; its call is ended. Authorities of `lastResort` (who lied lately)
 * are asked when the others can't give t any more, or after a second, so that leaving them out never costs a share.
 * `deadlineMs` is for all of it. Nothing is asked twice here: what may be repeated, only the asker knows.
 */
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import type { G1 } from '@milagro-ts/crypto/points'
import type { Purpose } from '@milagro-ts/crypto/suite'
import { UnexpectedAnswer, Unreachable } from './call.js'
import { canonicalHash } from './canonical-json.js'
import type { Group, GroupAuthority } from './group.js'
import { type Code, Refused } from './problem.js'
import { systemTimers, type Timers } from './system.js'

/** Milliseconds until those of the last resort are asked, if t good answers haven't come. */
const PATIENCE = 1_000

/** An authority with its commitment C_j for the purpose that is asked for. */
export interface AskedAuthority extends GroupAuthority {
  readonly commitment: G1
}
/** What every answer with a share says of it: whose it is, and of which share epoch. */
export interface ShareAnswer {
  readonly index: number
  readonly shareEpoch: number
}
export interface Fault {
  readonly index: number
  readonly name: string
  readonly kind: 'wrong-share' | 'other-epoch' | 'unreachable' | 'refused'
  /** Of a refusal. */
  readonly code?: Code
  /** Of an answer of another share epoch. */
  readonly shareEpoch?: number
  /** Of a wrong share: SHA-256 of the answer in canonical form, base64url. */
  readonly answerHash?: string
  /** What was wrong with the share; of an unreachable one the platform's name for it, where it has one. */
  readonly why?: string
}
export interface Quorum<Share> {
  /** Exactly t, ascending by index and of one share epoch: ready to combine. */
  readonly shares: readonly { readonly index: number; readonly share: Share }[]
  /** What had gone wrong by the time t were good. */
  readonly faults: readonly Fault[]
}

/** Too few good answers; `faults` says of each authority why. */
export class NoQuorum extends Refused {
  readonly faults: readonly Fault[]

  constructor(code: Code, faults: readonly Fault[], more: ConstructorParameters<typeof Refused>[1]) {
    super(code, more)
    this.faults = faults
  }
}

/** An authority is in a later share epoch than `group`: there may be a newer revision of the document to take in. */
export function hasMovedOn(group: Group, faults: readonly Fault[]): boolean {
  return faults.some(({ shareEpoch }) => shareEpoch !== undefined && shareEpoch > group.shareEpoch)
}

/**
 * `ask` calls one authority (its signal ends when the answer is no longer wanted); `verify` turns an answer of the
 * group's own share epoch into a good share, or null. A DecodeError of either, an answer outside the schema and an answer
 * with another's index count as a wrong share.
 *
 * Throws NoQuorum when t can't be had: WRONG_SHARE naming the liars if one lied; the authorities' own code if all that
 * refused gave the same one and the others aren't enough to explain it; else RETRY_LATER.
 */
export async function askAuthorities<Answer extends ShareAnswer, Share>({
  group,
  purpose,
  epoch,
  ask,
  verify,
  t = group.t,
  deadlineMs,
  lastResort = NOBODY,
  onFault,
  timers = systemTimers,
}: {
  group: Group
  purpose: Purpose
  /** A key epoch that is kept: whose commitments the shares are verified by. */
  epoch: number
  ask: (authority: AskedAuthority, signal: AbortSignal) => Promise<Answer>
  verify: (authority: AskedAuthority, answer: Answer) => Promise<Share | null> | Share | null
  t?: number
  deadlineMs: number
  /** Indices. */
  lastResort?: ReadonlySet<number>
  /** Hears of each fault when it is seen, whatever the others still come to. */
  onFault?: (fault: Fault) => void
  timers?: Timers
}): Promise<Quorum<Share>> {
  const commitments = group.keysOf(purpose, epoch)?.commitments
  if (commitments === undefined) throw new RangeError(`no ${purpose} key epoch ${epoch} is kept`)
  const all = group.authorities.map((authority, i) => ({ ...authority, commitment: commitments[i] as G1 }))
  const waiting = all.filter(({ index }) => lastResort.has(index))
  const shares: { index: number; share: Share }[] = []
  const faults: Fault[] = []
  /** Asked, and not answered yet. */
  const asked = new Map<number, string>()
  const enough = new AbortController()
  const endings: (() => void)[] = []

  const blame = (fault: Fault) => {
    faults.push(fault)
    onFault?.(fault)
  }

  await new Promise<void>((done, fail) => {
    const start = (authority: AskedAuthority) => {
      const { index, name } = authority
      asked.set(index, name)
      askOne({ group, authority, ask, verify, signal: enough.signal })
        .then(outcome => {
          if (enough.signal.aborted) return
          asked.delete(index)
          if (!('share' in outcome)) blame({ index, name, ...outcome })
          else if (shares.length < t) shares.push({ index, share: outcome.share })
          settled()
        })
        .catch(fail)
    }
    const askTheRest = () => {
      for (const authority of waiting.splice(0)) start(authority)
    }
    const settled = () => {
      if (shares.length + asked.size < t) askTheRest()
      if (shares.length >= t || asked.size === 0) done()
    }
    endings.push(timers.after(deadlineMs, done))
    if (waiting.length > 0) endings.push(timers.after(PATIENCE, askTheRest))
    for (const authority of all) if (!lastResort.has(authority.index)) start(authority)
    settled()
  }).finally(() => {
    enough.abort()
    for (const end of endings) end()
  })

  if (shares.length < t) for (const [index, name] of asked) blame({ index, name, kind: 'unreachable' })
  faults.sort((one, other) => one.index - other.index)
  if (shares.length < t) throw refusal(faults, t, all.length)
  return { shares: shares.sort((one, other) => one.index - other.index), faults }
}
const NOBODY: ReadonlySet<number> = new Set()

type Outcome<Share> = { share: Share } | Omit<Fault, 'index' | 'name'>

async function askOne<Answer extends ShareAnswer, Share>({
  group,
  authority,
  ask,
  verify,
  signal,
}: {
  group: Group
  authority: AskedAuthority
  ask: (authority: AskedAuthority, signal: AbortSignal) => Promise<Answer>
  verify: (authority: AskedAuthority, answer: Answer) => Promise<Share | null> | Share | null
  signal: AbortSignal
}): Promise<Outcome<Share>> {
  let answer: Answer | undefined
  const wrong = (why: string): Outcome<Share> => ({
    kind: 'wrong-share',
    ...(answer === undefined ? {} : { answerHash: toBase64Url(canonicalHash(answer)) }),
    why,
  })
  try {
    answer = await ask(authority, signal)
    const { shareEpoch } = answer
    // First: in another epoch the same authority may well have another index.
    if (shareEpoch !== group.shareEpoch) return { kind: 'other-epoch', shareEpoch }
    if (answer.index !== authority.index) return wrong("another authority's")
    const share = await verify(authority, answer)
    return share === null ? wrong('does not verify') : { share }
  } catch (error) {
    if (error instanceof Refused) return { kind: 'refused', code: error.code }
    if (error instanceof Unreachable)
      return { kind: 'unreachable', ...(error.system === undefined ? {} : { why: error.system }) }
    if (error instanceof DecodeError || error instanceof UnexpectedAnswer) return wrong(error.message)
    throw error
  }
}

function refusal(faults: readonly Fault[], t: number, n: number): NoQuorum {
  const names = (kind: Fault['kind']) => faults.filter(fault => fault.kind === kind).map(({ name }) => name)
  const liars = names('wrong-share')
  const log = faults
    .map(({ name, kind, code, why }) => {
      const said = kind === 'unreachable' && why !== undefined ? `${kind} (${why})` : kind
      return `${name}: ${code ?? said}`
    })
    .join(', ')
  if (liars.length > 0)
    return new NoQuorum('WRONG_SHARE', faults, { detail: `wrong share from ${liars.join(', ')}`, log })
  const codes = new Set(faults.filter(({ kind }) => kind === 'refused').map(({ code }) => code))
  const [code] = codes
  // More have refused than the group can spare: the living alone decide it, so it isn't the dead one's fault.
  if (codes.size === 1 && code !== undefined && names('refused').length > n - t)
    return new NoQuorum(code, faults, { detail: `refused by ${names('refused').join(', ')}`, log })
  const dead = names('unreachable')
  const elsewhere = names('other-epoch')
  const reasons = [
    ...(dead.length > 0 ? [`no answer from ${dead.join(', ')}`] : []),
    ...(elsewhere.length > 0 ? [`in another share epoch: ${elsewhere.join(', ')}`] : []),
  ]
  return new NoQuorum('RETRY_LATER', faults, {
    detail: reasons.length > 0 ? reasons.join('; ') : 'the trust authorities disagree',
    log,
  })
}
