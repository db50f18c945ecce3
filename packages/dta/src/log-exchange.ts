/**
 * Authorities of a group keep each other's logs to their word: twice a minute each asks every other member for the head
 * of its log, and for the heads that this one has seen. A head is compared with the one that is kept of that log
 * (api/issuance-log.ts `judge`); what passes takes its place, and is handed on by `logHead`. What doesn't is evidence:
 * the two heads stay in the table `log_evidence`, and the operator is told, in log, metric and `dta status`.
 *
 *   ta1                                   ta2, which showed ta3 another log
 *   -- logHead? -->
 *   <-- head of ta2 (20, a), seen: … --   kept: (18, x): consistency 18, 20 holds, so ta1 keeps (20, a)
 *                                         ta3
 *   -- logHead? -->
 *   <-- head of ta3, seen: ta2 (20, b) -- two heads of 20 entries, and another root: a split
 *
 * A proof that doesn't join two heads of different sizes is no evidence: nobody has signed it, and whoever stands between
 * may have damaged it. It is asked for again in each round; where none came for a minute the operator is told, and when one
 * comes that is over.
 *
 * Heads of this authority's own log that others have seen are compared as well: with its database. One that it doesn't
 * bear out was signed by somebody else with its key, or the database is not the one that was served from.
 */
import { createClient, UnexpectedAnswer, Unreachable } from '@milagro-ts/api/call'
import { dtaRoutes } from '@milagro-ts/api/dta-routes'
import type { GroupAuthority } from '@milagro-ts/api/group'
import { type HeadFault, judge, LogHead, type LogOwner } from '@milagro-ts/api/issuance-log'
import type { TreeHead } from '@milagro-ts/api/merkle-tree'
import { Refused } from '@milagro-ts/api/problem'
import type { Answer } from '@milagro-ts/api/route'
import { equalBytes, toBase64Url } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import type { Connection } from '@milagro-ts/store/database'
import type { Authority } from './authority.js'
import type { ServedGroup } from './groups.js'
import { logHead } from './issuance-log.js'

/** Milliseconds between two rounds. */
export const EXCHANGE_INTERVAL = 30_000
/** Milliseconds that a member has for an answer. */
const TIMEOUT = 5_000
/** Milliseconds for the heads of others that one member hands on: however many, the next member is asked. */
const SEEN_TIME = 10_000
/** Milliseconds for which proofs don't join two heads until that is an alarm. */
const UNPROVEN_TIME = 60_000
/** Pairs of heads that are remembered for it. */
const UNPROVEN = 1_000
/** Seconds of heads that one write does for. */
const TIME_AHEAD = 60

/** `forgotten`: of this authority's own log. */
export type LogFault = HeadFault | 'forgotten'

export interface LogEvidence {
  readonly groupId: string
  /** Whose log. */
  readonly authority: string
  readonly fault: LogFault
  /** Unix seconds. */
  readonly at: number
  /** The two heads, as they were signed. */
  readonly heads: readonly [string, string]
}

type Heads = Answer<(typeof dtaRoutes)['logHead']>

export class LogExchange {
  readonly #authority: Authority
  readonly #fetch: typeof fetch
  #round: Promise<void> | undefined
  /** Of the newest head that was signed, by group, and the head: within one second the same. */
  readonly #times = new Map<string, number>()
  readonly #signed = new Map<string, Promise<string> & { readonly of?: string }>()
  /** Heads that no proof has joined with the kept one since `since`; the longest known first. */
  readonly #unproven = new Map<string, { readonly since: number; isTold: boolean }>()

  constructor(authority: Authority, fetcher: typeof fetch) {
    this.#authority = authority
    this.#fetch = fetcher
  }

  /** The signed head, and what was seen of the others. */
  async heads(served: ServedGroup): Promise<Heads> {
    const { store, keys, groups } = this.#authority
    const { group, index } = served
    const { groupId } = group
    // `atomic`, since a head is a promise: what it counts must be on the disk before anybody sees it.
    const { head, at, seen } = await store.atomic(connection => ({
      head: logHead(connection, groupId),
      at: this.#time(connection, groupId),
      // Evidence is handed on as well: whoever compares the two heads has it, too.
      seen: connection.all(
        'SELECT sign_key, head FROM seen_head WHERE group_id = ?1 ' +
          'UNION SELECT sign_key, kept FROM log_evidence WHERE group_id = ?1 ' +
          'UNION SELECT sign_key, head FROM log_evidence WHERE group_id = ?1',
        [groupId],
      ),
    }))
    const name = (group.authority(index) as GroupAuthority).name
    const key = toBase64Url(groupId)
    const leavesAt = groups.leavesAt(key)
    const of = `${at} ${toBase64Url(head.root)} ${leavesAt}`
    let signed = this.#signed.get(key)
    if (signed?.of !== of) {
      signed = Object.assign(LogHead.sign({ groupId, name }, { ...head, at, leavesAt }, keys.signKey), { of })
      this.#signed.set(key, signed)
    }
    return {
      head: await signed,
      seen: group.authorities.flatMap(({ index, name, signKey }) => {
        const key = signKey.toBase64Url()
        const heads = index === served.index ? [] : seen.filter(row => row.sign_key === key)
        return heads.map(row => ({ authority: name, head: row.head as string }))
      }),
    }
  }

  /**
   * Of a head that is signed now, unix seconds: the clock's, but never before that of an earlier head, whatever becomes
   * of the clock. Up to when may have been signed is written ahead; a process that starts afterwards begins there.
   */
  #time(connection: Connection, groupId: Uint8Array): number {
    const key = toBase64Url(groupId)
    const [row] = connection.all('SELECT reserved FROM head_time WHERE group_id = ?', [groupId])
    const reserved = Number(row?.reserved ?? 0)
    const at = Math.max(Math.floor(this.#authority.clock() / 1000), this.#times.get(key) ?? reserved)
    this.#times.set(key, at)
    if (at > reserved)
      connection.run(
        'INSERT INTO head_time (group_id, reserved) VALUES (?, ?) ' +
          'ON CONFLICT (group_id) DO UPDATE SET reserved = excluded.reserved',
        [groupId, at + TIME_AHEAD],
      )
    return at
  }

  /** One round: every group, every other member. A round that is under way is the round. Never rejects. */
  exchange(): Promise<void> {
    this.#round ??= this.#all().finally(() => {
      this.#round = undefined
    })
    return this.#round
  }

  async #all(): Promise<void> {
    const { groups, log } = this.#authority
    // One group after another: with many groups this is a steady trickle, not a flood each half minute.
    for (const served of groups.all)
      for (const member of served.group.authorities)
        if (member.index !== served.index)
          await this.#ask(served, member).catch((error: unknown) =>
            log.error({ err: error, authority: member.name }, 'the log of another member was not checked'),
          )
  }

  async #ask(served: ServedGroup, member: GroupAuthority): Promise<void> {
    const groupId = toBase64Url(served.group.groupId)
    try {
      const { head, seen } = await this.#client(member).logHead({ params: { groupId } })
      await this.#look(served, member, head, true)
      const began = this.#authority.clock()
      for (const { authority, head } of seen) {
        if (this.#authority.clock() > began + SEEN_TIME) return
        const owner = served.group.authorities.find(({ name }) => name === authority)
        if (owner !== undefined && owner.index !== member.index) await this.#look(served, owner, head, false)
      }
    } catch (error) {
      const isTheirs = [Unreachable, UnexpectedAnswer, Refused, DecodeError].some(
        kind => error instanceof kind,
      )
      if (!isTheirs) throw error
      const why = (error as Error).message
      this.#authority.metrics.count('log_exchange_failures', { authority: member.name })
      this.#authority.log.debug({ groupId, authority: member.name, why }, 'no head of a member’s log')
    }
  }

  #client({ url }: GroupAuthority) {
    return createClient(dtaRoutes, { baseUrl: url, fetch: this.#fetch, timeout: TIMEOUT })
  }

  async #look(served: ServedGroup, member: GroupAuthority, jws: string, isOwn: boolean): Promise<void> {
    const { store } = this.#authority
    const { groupId } = served.group
    const owner: LogOwner = { groupId, name: member.name, signKey: member.signKey }
    const head = await LogHead.verify(jws, owner)
    if (member.index === served.index) return this.#lookAtOwn(owner, head)
    const signKey = member.signKey.toBase64Url()
    const kept = await store.atomic(connection => keptHead(connection, groupId, signKey))
    if (kept?.head === jws) return
    const prove = async (before: number, after: number) => {
      const answer = await this.#client(member).logConsistency({
        params: { groupId: toBase64Url(groupId) },
        query: { before: String(before), after: String(after) },
      })
      return answer.proof
    }
    const verdict = await judge(kept, head, prove)
    // A member's own head is another one each time; what is handed on stays the same.
    const pair = `${toBase64Url(groupId)} ${signKey} ${isOwn ? '' : jws}`
    if (verdict === 'unproven') return this.#doubt(owner, pair)
    if (this.#unproven.get(pair)?.isTold)
      this.#authority.log.info({ authority: member.name }, 'a member’s heads are of one log after all')
    this.#unproven.delete(pair)
    if (verdict === 'newer' || (verdict === 'known' && isOwn && head.at >= (kept?.at ?? 0))) {
      await store.atomic(connection =>
        connection.run(
          'INSERT INTO seen_head (group_id, sign_key, size, root, at, head) VALUES (?, ?, ?, ?, ?, ?) ' +
            'ON CONFLICT (group_id, sign_key) DO UPDATE SET size = excluded.size, root = excluded.root, ' +
            'at = excluded.at, head = excluded.head WHERE excluded.size >= seen_head.size',
          [groupId, signKey, head.size, head.root, head.at, jws],
        ),
      )
    } else if (verdict !== 'known') await this.#alarm(owner, verdict, kept?.head as string, jws)
  }

  #doubt({ groupId, name: authority }: LogOwner, pair: string): void {
    const { clock, log, metrics } = this.#authority
    metrics.count('log_proofs_failed', { authority })
    const doubt = this.#unproven.get(pair) ?? { since: clock(), isTold: false }
    this.#unproven.set(pair, doubt)
    if (this.#unproven.size > UNPROVEN) {
      const [longest] = this.#unproven.keys()
      this.#unproven.delete(longest as string)
    }
    if (doubt.isTold || clock() < doubt.since + UNPROVEN_TIME) return
    doubt.isTold = true
    metrics.count('log_alarms', { fault: 'unproven' })
    log.error(
      { groupId: toBase64Url(groupId), authority },
      'alarm: no proof joins two heads of a member’s log: it has two histories, or answers are damaged on the way',
    )
  }

  async #lookAtOwn(owner: LogOwner, head: LogHead): Promise<void> {
    const { store, clock, keys } = this.#authority
    const own = await store.atomic(connection => {
      const newest = logHead(connection, owner.groupId)
      return head.size > newest.size ? newest : logHead(connection, owner.groupId, head.size)
    })
    if (own.size === head.size && equalBytes(own.root, head.root)) return
    const at = Math.floor(clock() / 1000)
    const ours = await LogHead.sign(owner, { ...own, at }, keys.signKey)
    await this.#alarm(owner, 'forgotten', ours, head.jws)
  }

  async #alarm(owner: LogOwner, fault: LogFault, kept: string, head: string): Promise<void> {
    const { store, clock, log, metrics } = this.#authority
    const { groupId, name, signKey } = owner
    const isNew = await store.atomic(connection =>
      connection.run(
        'INSERT INTO log_evidence (group_id, sign_key, fault, name, kept, head, at) VALUES (?, ?, ?, ?, ?, ?, ?) ' +
          'ON CONFLICT DO NOTHING',
        [groupId, signKey.toBase64Url(), fault, name, kept, head, Math.floor(clock() / 1000)],
      ),
    )
    if (isNew === 0) return
    metrics.count('log_alarms', { fault })
    // The heads are evidence, and kept (logEvidence); a log line holds nothing that looks like a token.
    log.error({ groupId: toBase64Url(groupId), authority: name, fault }, `alarm: ${MEANS[fault]}`)
  }
}

const MEANS: Readonly<Record<LogFault, string>> = {
  split: 'an authority has shown two histories of its log',
  shorter: 'an authority has taken entries out of its log',
  forgotten: 'others have seen a head of our log that our database doesn’t bear out',
}

function keptHead(
  connection: Connection,
  groupId: Uint8Array,
  signKey: string,
): (TreeHead & { readonly at: number; readonly head: string }) | null {
  const [row] = connection.all('SELECT * FROM seen_head WHERE group_id = ? AND sign_key = ?', [
    groupId,
    signKey,
  ])
  return row === undefined
    ? null
    : {
        size: Number(row.size),
        root: row.root as Uint8Array,
        at: Number(row.at),
        head: row.head as string,
      }
}

/** Everything that was ever found. */
export function logEvidence(connection: Connection): LogEvidence[] {
  return connection.all('SELECT * FROM log_evidence ORDER BY at').map(row => ({
    groupId: toBase64Url(row.group_id as Uint8Array),
    authority: row.name as string,
    fault: row.fault as LogFault,
    at: Number(row.at),
    heads: [row.kept as string, row.head as string] as const,
  }))
}
