/**
 * How the trust authorities are, as this process has seen them: by every share it asked for, and by a look at each of
 * them twice a minute.
 *
 *   trouble       what was seen                                    until
 *   silent        no answer                                        the next answer
 *   refusing      it has frozen the group, or knows it or us not   a good share, or ten minutes
 *   other-epoch   an answer of another share epoch                 a good share, or we have the same document
 *   quarantined   a wrong share                                    a minute; each time twice as long, a day at most
 *
 * Whoever is quarantined is asked as a last resort (api/quorum.ts), so that it costs no login. Every share is verified
 * anyway; a quarantine saves the work and names the liar. It is this process' own affair, and is over after a restart
 * and with the next share epoch, whose shares are others.
 */
import type { Group } from '@milagro-ts/api/group'
import type { Log } from '@milagro-ts/api/log'
import type { Metrics } from '@milagro-ts/api/metrics'
import type { Code } from '@milagro-ts/api/problem'
import type { Fault } from '@milagro-ts/api/quorum'
import type { Clock } from '@milagro-ts/crypto/ports'
import type { Purpose } from '@milagro-ts/crypto/suite'

/** Milliseconds. */
const FIRST_QUARANTINE = 60_000
const LONGEST_QUARANTINE = 86_400_000
/** Without a wrong share for so long after a quarantine, the next one is a first one again. */
const FORGIVEN = 86_400_000
const REFUSAL_REMEMBERED = 600_000

/** Refusals that are no answer to this one request, but to all. */
const STANDING: ReadonlySet<Code> = new Set(['FROZEN', 'NOT_FOUND', 'FORBIDDEN', 'UNAUTHENTICATED'])

export type Trouble = 'silent' | 'refusing' | 'other-epoch' | 'quarantined'
export interface AuthorityStanding {
  readonly index: number
  readonly name: string
  readonly trouble: Trouble | null
  /** Of a refusal. */
  readonly code: Code | undefined
  /** Unix milliseconds of the last answer of any kind. */
  readonly answeredAt: number | undefined
  /** Wrong shares since this process began. */
  readonly wrongShares: number
  /** Unix milliseconds. */
  readonly quarantinedUntil: number | undefined
  /** Of the last wrong share, base64url. */
  readonly evidence: Evidence | undefined
  /** Unix seconds: of its departure, until which it serves. */
  readonly leavesAt: number | undefined
}
interface Evidence {
  readonly requestHash: string
  /** Absent where what came was no answer of the route. */
  readonly answerHash: string | undefined
}
export interface Margin {
  readonly n: number
  /** t. */
  readonly needed: number
  /** Without trouble. */
  readonly live: number
}

/** What was asked, so that an authority's operator can find it: hashes only. */
export interface Request {
  readonly purpose: Purpose
  /** SHA-256 of what was sent, base64url. */
  readonly requestHash: string
}

interface Seen {
  signKey: string
  answeredAt: number | undefined
  trouble: {
    readonly kind: 'silent' | 'refusing' | 'other-epoch'
    readonly at: number
    readonly code?: Code
    readonly shareEpoch?: number | undefined
  } | null
  quarantine: { readonly until: number; readonly times: number; readonly shareEpoch: number } | null
  wrongShares: number
  evidence: Evidence | undefined
  leavesAt: number | undefined
}

export interface WatchPorts {
  /** As last heard of. */
  readonly group: () => Group
  readonly clock: Clock
  readonly log: Log
  readonly metrics: Metrics
}

export class AuthorityWatch {
  readonly #ports: WatchPorts
  /** By name; a member that another one has taken the place of is another one, with another signing key. */
  readonly #seen = new Map<string, Seen>()
  #level: 'all' | 'some' | 'too few' = 'all'
  #live = Number.POSITIVE_INFINITY

  constructor(ports: WatchPorts) {
    this.#ports = ports
  }

  /** Indices of the quarantined. */
  lastResort(group: Group): ReadonlySet<number> {
    return new Set(
      this.standings(group).flatMap(({ index, trouble }) => (trouble === 'quarantined' ? [index] : [])),
    )
  }

  /** They gave shares that verify. */
  goodShares(group: Group, indices: readonly number[]): void {
    const now = this.#ports.clock()
    for (const index of indices) this.#of(group, index, seen => heard(seen, now, { trouble: null }))
    this.assess()
  }

  failedShare(group: Group, { purpose, requestHash }: Request, fault: Fault): void {
    const { clock, log, metrics } = this.#ports
    const { index, name, kind, code, shareEpoch, answerHash, why } = fault
    const now = clock()
    metrics.count('authority_faults', { authority: name, purpose, kind })
    let until: number | undefined
    this.#of(group, index, seen => {
      if (kind === 'unreachable') seen.trouble = { kind: 'silent', at: now }
      else if (kind === 'other-epoch') heard(seen, now, { trouble: { kind, at: now, shareEpoch } })
      else if (kind === 'wrong-share') {
        until = quarantine(seen, group.shareEpoch, now)
        seen.evidence = { requestHash, answerHash }
      } else if (code !== undefined && STANDING.has(code))
        heard(seen, now, { trouble: { kind: 'refusing', at: now, code } })
      else heard(seen, now)
    })
    if (kind === 'wrong-share')
      log.warn(
        { authority: name, purpose, kind, request: requestHash, answer: answerHash, why, until },
        'an authority gave a wrong share and is quarantined',
      )
    else
      log.warn(
        { authority: name, purpose, kind, refused: code, shareEpoch, why },
        'an authority gave no good share',
      )
    this.assess()
  }

  /** It answered a look, or a call that was relayed. `isCurrent`: it goes by the document that is in force here. */
  answered(group: Group, index: number, isCurrent?: boolean): void {
    const now = this.#ports.clock()
    this.#of(group, index, seen => {
      const { trouble } = seen
      const isOver =
        trouble === null ||
        trouble.kind === 'silent' ||
        (trouble.kind === 'refusing' && now >= trouble.at + REFUSAL_REMEMBERED) ||
        (trouble.kind === 'other-epoch' && isCurrent === true)
      heard(seen, now, isOver ? { trouble: null } : {})
    })
  }

  /** It didn't answer a look, or (`code`) refused it. */
  failed(group: Group, index: number, code?: Code): void {
    const now = this.#ports.clock()
    this.#of(group, index, seen => {
      if (code === undefined) seen.trouble = { kind: 'silent', at: now }
      else if (STANDING.has(code)) heard(seen, now, { trouble: { kind: 'refusing', at: now, code } })
      else heard(seen, now)
    })
  }

  /** A device says that it couldn't use its share. Nobody here can see whether that is so: it is told, and no more. */
  reported(group: Group, index: number): void {
    const authority = group.authority(index)?.name
    if (authority === undefined) return
    this.#ports.metrics.count('authority_shares_reported', { authority })
    this.#ports.log.warn({ authority }, 'a device says that it could not use an authority’s delta share')
  }

  /** What its signed head says: when it leaves, or that it doesn't. */
  departure(group: Group, index: number, leavesAt: number | undefined): void {
    this.#of(group, index, seen => {
      if (seen.leavesAt === leavesAt) return
      seen.leavesAt = leavesAt
      const authority = group.authority(index)?.name
      this.#ports.log.warn(
        { authority, leavesAt },
        leavesAt === undefined ? 'an authority stays after all' : 'an authority has announced its departure',
      )
    })
  }

  standings(group = this.#ports.group()): AuthorityStanding[] {
    const now = this.#ports.clock()
    return group.authorities.map(({ index, name, signKey }) => {
      const known = this.#seen.get(name)
      const seen = known?.signKey === signKey.toBase64Url() ? known : undefined
      const quarantined = seen?.quarantine
      // Ahead of us, until we had the revision as well.
      const isOver = seen?.trouble?.shareEpoch === group.shareEpoch
      const trouble = isOver ? null : seen?.trouble
      const isIn =
        quarantined != null && quarantined.until > now && quarantined.shareEpoch === group.shareEpoch
      return {
        index,
        name,
        trouble: isIn ? 'quarantined' : (trouble?.kind ?? null),
        code: trouble?.code,
        answeredAt: seen?.answeredAt,
        wrongShares: seen?.wrongShares ?? 0,
        quarantinedUntil: isIn ? quarantined.until : undefined,
        evidence: seen?.evidence,
        leavesAt: seen?.leavesAt,
      }
    })
  }

  margin(group = this.#ports.group()): Margin {
    const live = this.standings(group).filter(({ trouble }) => trouble === null).length
    return { n: group.n, needed: group.t, live }
  }

  /** True, or what is to be known: readiness carries it, but never fails by it, since held permits go on. */
  check(): true | string {
    const group = this.#ports.group()
    const { n, needed, live } = this.margin(group)
    const leaving = this.standings(group).flatMap(({ name, leavesAt }) =>
      leavesAt === undefined ? [] : [`${name} leaves ${new Date(leavesAt * 1000).toISOString()}`],
    )
    if (live === n) return leaving.length === 0 || leaving.join(', ')
    const troubled = this.standings(group).flatMap(({ name, trouble }) =>
      trouble === null ? [] : [`${name} ${trouble}`],
    )
    const alarm = live < needed ? 'alarm: no permit or key can be had, ' : ''
    return `${alarm}${live} of ${n} authorities answer, ${needed} are needed (${[...troubled, ...leaving].join(', ')})`
  }

  /** Sets the gauges; says once, and at once, when the margin shrinks, is used up, and is back. */
  assess(): void {
    const { log, metrics, group } = this.#ports
    const { n, needed, live } = this.margin()
    const quarantined = this.lastResort(group()).size
    metrics.gauge('authorities_live', live)
    metrics.gauge('authorities_needed', needed)
    metrics.gauge('authorities_quarantined', quarantined)
    const level = live === n ? 'all' : live >= needed ? 'some' : 'too few'
    const [before, levelBefore] = [this.#live, this.#level]
    this.#live = live
    this.#level = level
    const facts = { live, needed, n, check: this.check() }
    if (level === 'too few' && levelBefore !== 'too few')
      log.error(facts, 'alarm: fewer authorities answer than are needed')
    else if (level === 'some' && (levelBefore === 'all' || (levelBefore === 'some' && live < before)))
      log.warn(facts, 'the margin of authorities shrinks')
    else if (level === 'some' && levelBefore === 'too few')
      log.warn(facts, 'enough authorities answer again, not all')
    else if (level === 'all' && levelBefore !== 'all') log.info(facts, 'all authorities answer again')
  }

  #of(group: Group, index: number, change: (seen: Seen) => void): void {
    const authority = group.authority(index)
    if (authority === undefined) return
    const { name } = authority
    const signKey = authority.signKey.toBase64Url()
    let seen = this.#seen.get(name)
    if (seen?.signKey !== signKey) {
      seen = {
        signKey,
        answeredAt: undefined,
        trouble: null,
        quarantine: null,
        wrongShares: 0,
        evidence: undefined,
        leavesAt: undefined,
      }
      this.#seen.set(name, seen)
    }
    change(seen)
  }
}

function heard(seen: Seen, now: number, change: Partial<Pick<Seen, 'trouble'>> = {}): void {
  seen.answeredAt = now
  if (change.trouble !== undefined) seen.trouble = change.trouble
  else if (seen.trouble?.kind === 'silent') seen.trouble = null
}

/** Until when. A wrong share out of a quarantine (the last resort was asked) doesn't make it longer. */
function quarantine(seen: Seen, shareEpoch: number, now: number): number {
  heard(seen, now, { trouble: null })
  seen.wrongShares++
  const before = seen.quarantine?.shareEpoch === shareEpoch ? seen.quarantine : null
  if (before !== null && before.until > now) return before.until
  const times = before === null || before.until + FORGIVEN < now ? 1 : before.times + 1
  const until = now + Math.min(FIRST_QUARANTINE * 2 ** (times - 1), LONGEST_QUARANTINE)
  seen.quarantine = { until, times, shareEpoch }
  return until
}
