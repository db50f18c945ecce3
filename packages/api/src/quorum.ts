/**
 * Asks all authorities of a group at once and takes the first t good answers. One that lies is named, one that is dead
 * is reported, one that is slow holds nobody up once t have answered.
 */
import { DecodeError } from '@milagro-ts/crypto/errors'
import type { G1 } from '@milagro-ts/crypto/points'
import type { Purpose } from '@milagro-ts/crypto/suite'
import { UnexpectedAnswer, Unreachable } from './call.js'
import type { Group, GroupAuthority } from './group.js'
import { type Code, Refused } from './problem.js'
import { systemTimers, type Timers } from './system.js'

/** An authority with its commitment C_j for the purpose that is asked for. */
export interface AskedAuthority extends GroupAuthority {
  readonly commitment: G1
}
export interface Fault {
  readonly index: number
  readonly name: string
  readonly kind: 'wrong-share' | 'unreachable' | 'refused'
  /** Of a refusal. */
  readonly code?: Code
}
export interface Quorum<Share> {
  /** Exactly t, ascending by index: ready to combine. */
  readonly shares: readonly { readonly index: number; readonly share: Share }[]
  /** What had gone wrong by the time t were good. */
  readonly faults: readonly Fault[]
}

/**
 * `ask` calls one authority (its signal ends when the answer is no longer wanted); `verify` turns the answer into a
 * good share, or null. A DecodeError of either, and an answer outside the schema, count as a wrong share.
 *
 * Throws Refused when t can't be had: WRONG_SHARE naming the liars if one lied; the authorities' own code if all that
 * refused gave the same one and the dead aren't enough to explain it; else RETRY_LATER. `deadlineMs` is for all of it.
 */
export async function askAuthorities<Answer, Share>({
  group,
  purpose,
  ask,
  verify,
  t = group.t,
  deadlineMs,
  timers = systemTimers,
}: {
  group: Group
  purpose: Purpose
  ask: (authority: AskedAuthority, signal: AbortSignal) => Promise<Answer>
  verify: (authority: AskedAuthority, answer: Answer) => Promise<Share | null> | Share | null
  t?: number
  deadlineMs: number
  timers?: Timers
}): Promise<Quorum<Share>> {
  const { commitments } = group.keys(purpose)
  const asked = group.authorities.map((authority, i) => ({ ...authority, commitment: commitments[i] as G1 }))
  const shares: { index: number; share: Share }[] = []
  const faults: Fault[] = []
  const enough = new AbortController()

  await new Promise<void>((done, fail) => {
    const stop = timers.after(deadlineMs, done)
    const settled = () => {
      if (shares.length < t && shares.length + faults.length < asked.length) return
      stop()
      done()
    }
    for (const authority of asked) {
      const { index, name } = authority
      askOne(authority, ask, verify, enough.signal).then(outcome => {
        if (enough.signal.aborted) return
        if ('share' in outcome) {
          if (shares.length < t) shares.push({ index, share: outcome.share })
        } else faults.push({ index, name, ...outcome })
        settled()
      }, fail)
    }
  }).finally(() => enough.abort())

  for (const { index, name } of asked) {
    const silent =
      !shares.some(share => share.index === index) && !faults.some(fault => fault.index === index)
    if (silent && shares.length < t) faults.push({ index, name, kind: 'unreachable' })
  }
  faults.sort((one, other) => one.index - other.index)
  if (shares.length < t) throw refusal(faults, t, asked.length)
  return { shares: shares.sort((one, other) => one.index - other.index), faults }
}

type Outcome<Share> = { share: Share } | Pick<Fault, 'kind' | 'code'>

async function askOne<Answer, Share>(
  authority: AskedAuthority,
  ask: (authority: AskedAuthority, signal: AbortSignal) => Promise<Answer>,
  verify: (authority: AskedAuthority, answer: Answer) => Promise<Share | null> | Share | null,
  signal: AbortSignal,
): Promise<Outcome<Share>> {
  try {
    const share = await verify(authority, await ask(authority, signal))
    return share === null ? { kind: 'wrong-share' } : { share }
  } catch (error) {
    if (error instanceof Refused) return { kind: 'refused', code: error.code }
    if (error instanceof Unreachable) return { kind: 'unreachable' }
    if (error instanceof DecodeError || error instanceof UnexpectedAnswer) return { kind: 'wrong-share' }
    throw error
  }
}

function refusal(faults: readonly Fault[], t: number, n: number): Refused {
  const names = (kind: Fault['kind']) => faults.filter(fault => fault.kind === kind).map(({ name }) => name)
  const liars = names('wrong-share')
  const log = faults.map(({ name, kind, code }) => `${name}: ${code ?? kind}`).join(', ')
  if (liars.length > 0)
    return new Refused('WRONG_SHARE', { detail: `wrong share from ${liars.join(', ')}`, log })
  const codes = new Set(faults.filter(({ kind }) => kind === 'refused').map(({ code }) => code))
  const [code] = codes
  // More have refused than the group can spare: the living alone decide it, so it isn't the dead one's fault.
  if (codes.size === 1 && code !== undefined && names('refused').length > n - t)
    return new Refused(code, { detail: `refused by ${names('refused').join(', ')}`, log })
  const dead = names('unreachable')
  return new Refused('RETRY_LATER', {
    detail: dead.length > 0 ? `no answer from ${dead.join(', ')}` : 'the trust authorities disagree',
    log,
  })
}
