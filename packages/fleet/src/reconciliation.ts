/**
 * Every authority publishes what it issued, as hashes in a log that can only grow (api/issuance-log.ts). Fleet reads
 * along, three times a minute, and looks each entry up in its register:
 *
 *   what                 found where                                    it means
 *   `no-vehicle`         an entry whose identity is not in the register a key on a ticket of which this RA has no record
 *   `no-ticket`          an entry for an identity of ours, whose ticket a key more for it, on a ticket that this RA never
 *                        was never handed out                           handed out
 *   lacking              an identity that has logged in, so that t       one of the logs that lack it keeps a key back
 *                        authorities issued its key; fewer logs have it
 *   `split`, `shorter`   two heads that no one log can have had         the authority tells different readers different
 *                                                                       logs; the heads are kept as evidence
 *   `broken`             entries or a proof, twice, that don't come to  it publishes another log than it signs, or somebody on
 *                        the signed head                                the way changes it: no evidence, they aren't signed
 *   `rewritten`          an entry that was another one before           found with the head of an older build
 *
 * Heads of a log come from its authority, and from the other members, who hand on what they have seen: so one honest
 * member is enough to bring a second history to light, and one honest issuer to name a rogue key.
 *
 * What is found stays in the database; it is in the log once, and in metrics, status and `fleet audit` until an operator
 * who knows what happened acknowledges it, with a reason. A finding goes by the hash of its facts: one that comes again with
 * others is another.
 */
import { type Client, createClient, UnexpectedAnswer, Unreachable } from '@milagro-ts/api/call'
import { dtaRoutes } from '@milagro-ts/api/dta-routes'
import type { GroupAuthority } from '@milagro-ts/api/group'
import { entryHashes, type IssuanceEntry, judge, LogHead } from '@milagro-ts/api/issuance-log'
import type { Log } from '@milagro-ts/api/log'
import { Peaks, type TreeHead, verifyConsistency } from '@milagro-ts/api/merkle-tree'
import type { Metrics } from '@milagro-ts/api/metrics'
import { Refused } from '@milagro-ts/api/problem'
import type { Timers } from '@milagro-ts/api/system'
import { equalBytes, fromBase64Url, toBase64Url, toHex, utf8 } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import type { Clock } from '@milagro-ts/crypto/ports'
import { sha256 } from '@milagro-ts/crypto/sha256'
import type { Connection, Reader, Row, Store } from '@milagro-ts/store/database'
import type { Actor } from './audit.js'
import type { GroupInForce } from './group-in-force.js'
import type { FleetSchema } from './schema.js'

/** Milliseconds between two looks. */
export const LOOK_INTERVAL = 20_000
/** Milliseconds that an authority has for an answer. */
const TIMEOUT = 5_000
/**
 * Milliseconds in one look for the pages of one log, and for what others have seen of it. What is left is the next look's:
 * who is slow, or says that it has billions of entries, keeps nobody from reading the others.
 */
const LOOK_TIME = 10_000
/** Unknown keys that are listed of one authority, and identities that logs lack. */
const LISTED = 1000
/** Identities that are taken up in one transaction. */
const BLOCK = 1000
/** Seconds that an authority's clock may be behind ours. */
const SKEW = 60

export interface ReconciliationPorts {
  readonly store: Store<FleetSchema>
  readonly group: GroupInForce
  readonly fetch: typeof fetch
  readonly clock: Clock
  readonly timers: Timers
  readonly log: Log
  readonly metrics: Metrics
}

/** An operator's word that a finding is known. */
export interface Acknowledgement {
  readonly by: Actor
  /** Unix seconds. */
  readonly at: number
  readonly reason: string
}
interface Finding {
  /** 24 hex digits: the hash of the finding's facts. */
  readonly finding: string
  readonly acknowledged?: Acknowledgement
}

export interface UnknownKey
  extends Pick<IssuanceEntry, 'number' | 'at' | 'purpose' | 'idCoreHash' | 'ticketHash'> {
  readonly why: 'no-vehicle' | 'no-ticket'
  /** Unix seconds. */
  readonly foundAt: number
}
export type LogFault = 'split' | 'shorter' | 'broken' | 'rewritten'
export interface FoundFault extends Finding {
  readonly fault: LogFault
  readonly detail: string
  /** Unix seconds. */
  readonly foundAt: number
  /** The signed heads that show it. */
  readonly heads: string[]
}

export interface AuthorityFindings {
  readonly index: number
  readonly name: string
  /** Entries read, each of them under a signed head. */
  readonly entries: number
  /** No fault was ever found with the log, and it could be read just now. */
  readonly intact: boolean
  /** Why it couldn't. */
  readonly trouble?: string
  /** Unix seconds of the last time that it could. */
  readonly readAt?: number
  /** Unix seconds: the authority’s departure. */
  readonly leavesAt?: number
  readonly faults: FoundFault[]
  readonly unknown: (UnknownKey & Finding)[]
}
/** An identity that has logged in while fewer than t logs have its key. */
export interface LackedKey {
  readonly instance: string
  readonly idCoreHash: string
  /** Logs that have it; t of them should. */
  readonly held: number
  readonly needed: number
  /** Authorities whose log doesn't: at least one of them keeps it back. */
  readonly missing: string[]
}
export interface Findings {
  readonly authorities: AuthorityFindings[]
  readonly lacking: (LackedKey & Finding)[]
}

/** A log as it was read so far. */
interface Followed {
  readonly id: number
  readonly previous: Uint8Array
  readonly peaks: Peaks
  /** The newest head that was checked; null before the first. */
  readonly head: (TreeHead & { readonly at: number; readonly jws: string }) | null
  /** A head that an older build kept: the chain's hash at an entry. */
  readonly former: { readonly number: number; readonly hash: Uint8Array } | null
}

type Api = Pick<Client<typeof dtaRoutes>, 'log' | 'logHead' | 'logConsistency'>

export class Reconciliation {
  readonly #ports: ReconciliationPorts
  /** By signing key. */
  readonly #troubles = new Map<string, string>()
  /** Heads that were judged already. */
  readonly #judged = new Set<string>()
  /** Signing keys of logs, and heads that others have seen, that a proof didn't join with what was read. */
  readonly #doubted = new Set<string>()
  #lacking: LackedKey[] = []
  #look: Promise<void> | undefined
  #end = () => {}
  readonly #ending = new AbortController()

  constructor(ports: ReconciliationPorts) {
    this.#ports = ports
  }

  /** From here on every ticket is on record. To be called before the first is handed out. */
  async begin(): Promise<void> {
    const { store } = this.#ports
    const now = this.#now()
    await store.atomic(connection =>
      connection.run(
        "INSERT INTO counter (name, value) VALUES ('logs followed since', ?) ON CONFLICT DO NOTHING",
        [now],
      ),
    )
  }

  start(): void {
    const { timers, log } = this.#ports
    const look = () =>
      void this.look().catch((error: unknown) =>
        log.error({ err: error }, 'the authorities’ logs were not read; tried again later'),
      )
    this.#end = timers.every(LOOK_INTERVAL, look)
    look()
  }

  async stop(): Promise<void> {
    this.#end()
    this.#ending.abort()
    await this.#look?.catch(() => undefined)
  }

  /** A look that begins now, and everything that was ever found. */
  async run(): Promise<Findings> {
    // One that is under way has read some logs before the question; whoever began it hears how it ends.
    await this.#look?.catch(() => undefined)
    await this.look()
    return this.findings()
  }

  /** One look at every log; one that is under way is the look. */
  look(): Promise<void> {
    this.#look ??= this.#lookAtAll().finally(() => {
      this.#look = undefined
    })
    return this.#look
  }

  async findings(): Promise<Findings> {
    const { store } = this.#ports
    return store.atomic(connection => this.#findings(connection))
  }

  #findings(connection: Connection): Findings {
    return {
      authorities: this.#ports.group.current.authorities.map(authority =>
        this.#findingsOf(connection, authority),
      ),
      lacking: this.#lacking.map(key => {
        const { idCoreHash, held, needed, missing } = key
        return { ...key, ...findingOf(connection, ['lacking', idCoreHash, held, needed, ...missing]) }
      }),
    }
  }

  /**
   * An operator knows of these findings. NOT_FOUND for one that isn't there, or has other facts by now; CONFLICT for one
   * that was acknowledged before. All of them or none.
   */
  async acknowledge(findings: readonly string[], reason: string, actor: Actor): Promise<void> {
    const { store, log } = this.#ports
    await store.atomic(connection => {
      const { authorities, lacking } = this.#findings(connection)
      const known = new Map(
        [...authorities.flatMap(({ faults, unknown }) => [...faults, ...unknown]), ...lacking].map(
          ({ finding, acknowledged }) => [finding, acknowledged],
        ),
      )
      for (const finding of new Set(findings)) {
        if (!known.has(finding))
          throw new Refused('NOT_FOUND', { field: 'findings', detail: `there is no finding ${finding}` })
        if (known.get(finding) !== undefined)
          throw new Refused('CONFLICT', { detail: `${finding} was acknowledged before` })
        const [subject, now] = [`finding ${finding}`, this.#now()]
        connection.run('INSERT INTO acknowledgement (finding, reason, made_by, at) VALUES (?, ?, ?, ?)', [
          finding,
          reason,
          actor,
          now,
        ])
        connection.run('INSERT INTO audit (at, actor, action, subject, outcome) VALUES (?, ?, ?, ?, ?)', [
          now,
          actor,
          'acknowledge',
          subject,
          'done',
        ])
      }
    })
    log.warn({ findings, actor, reason }, 'findings were acknowledged')
  }

  /** Everything that is wrong and not acknowledged, a line each; nothing about authorities that are merely away. */
  async alarms(): Promise<string[]> {
    const { authorities, lacking } = await this.findings()
    return [
      ...authorities.flatMap(({ name, faults, unknown }) => [
        ...faults.filter(isOpen).map(({ fault, detail }) => `the log of ${name} is ${fault}: ${detail}`),
        ...unknown
          .filter(isOpen)
          .map(key => `${name} entry ${key.number}: a ${key.purpose} key ${MEANS[key.why]}`),
      ]),
      ...lacking
        .filter(isOpen)
        .map(
          ({ instance, missing, held, needed }) =>
            `the key of ${instance} is in ${held} logs of ${needed}; missing at ${missing.join(', ')}`,
        ),
    ]
  }

  /** For status: what is wrong, what couldn't be read, who is going. */
  async summary(): Promise<{
    alarms: string[]
    unread: string[]
    leaving: { name: string; leavesAt: number }[]
  }> {
    const { authorities } = await this.findings()
    return {
      alarms: await this.alarms(),
      unread: authorities.filter(({ trouble }) => trouble !== undefined).map(({ name }) => name),
      leaving: authorities.flatMap(({ name, leavesAt }) =>
        leavesAt === undefined ? [] : [{ name, leavesAt }],
      ),
    }
  }

  async #lookAtAll(): Promise<void> {
    const { group, metrics, store } = this.#ports
    const { authorities } = group.current
    // Who has logged in until here has its key in t logs, all of which are read afterwards.
    // At the first look that is the whole register: block by block, so that others come between.
    while (await store.atomic(knowIdentities)) {}
    const proven = await store.read(reader => this.#proven(reader))
    const heads = await Promise.all(authorities.map(authority => this.#read(authority)))
    await Promise.all(seenOf(authorities, heads).map(seen => this.#judgeSeen(seen)))
    await this.#judgeLacking(proven)
    metrics.gauge('log_alarms', (await this.alarms()).length)
    metrics.gauge('logs_unread', heads.filter(head => head === null).length)
  }

  /** The heads of others that this authority has seen; null when its log couldn't be read. */
  async #read(authority: GroupAuthority): Promise<readonly SeenHead[] | null> {
    const { store } = this.#ports
    const key = authority.signKey.toBase64Url()
    const api = this.#api(authority)
    try {
      const answer = await api.logHead({ params: this.#params() })
      const head = await LogHead.verify(answer.head, this.#owner(authority))
      await this.#catchUp(authority, api, head)
      await store.atomic(connection =>
        connection.run('UPDATE followed_log SET read_at = ?, leaves_at = ? WHERE sign_key = ?', [
          this.#now(),
          head.leavesAt ?? null,
          key,
        ]),
      )
      this.#troubles.delete(key)
      this.#doubted.delete(key)
      return answer.seen
    } catch (error) {
      if (!isTheirs(error)) throw error
      const { message } = error as Error
      if (this.#troubles.get(key) !== message)
        this.#ports.log.warn({ authority: authority.name, why: message }, 'an authority’s log can’t be read')
      this.#troubles.set(key, message)
      return null
    }
  }

  /** Everything up to the head; each page is checked under it before it is kept. Unreadable throws. */
  async #catchUp(authority: GroupAuthority, api: Api, head: LogHead): Promise<void> {
    const { groupId } = this.#ports.group.current
    let log = await this.#followed(authority)
    const kept = log.head
    if (head.size < log.peaks.size) {
      const isOld = kept === null || head.at <= kept.at
      if (isOld) throw new DecodeError('head', 'an older one than before')
      return this.#fault(log, authority, 'shorter', `it has ${head.size} entries, it had ${log.peaks.size}`, [
        kept.jws,
        head.jws,
      ])
    }
    if (head.size === log.peaks.size && !equalBytes(head.root, log.peaks.root))
      return this.#fault(log, authority, 'split', `two histories of ${head.size} entries`, [
        ...(kept === null ? [] : [kept.jws]),
        head.jws,
      ])
    const began = this.#ports.clock()
    while (log.peaks.size < head.size) {
      if (this.#ports.clock() > began + LOOK_TIME)
        throw new UnexpectedAnswer('its log was not read to its end in time; goes on at the next look')
      const from = log.peaks.size + 1
      const answer = await api.log({ params: this.#params(), query: { from: String(from) } })
      const entries = answer.entries.slice(0, head.size - log.peaks.size)
      if (entries.length === 0)
        return this.#fault(
          log,
          authority,
          'broken',
          `it ends at ${log.peaks.size}, its head says ${head.size}`,
          [head.jws],
        )
      let { previous, peaks } = log
      for (const [i, entry] of entries.entries()) {
        const number = from + i
        const isNext =
          entry.number === number && equalBytes(fromBase64Url(entry.previous, 'previous', 32), previous)
        if (!isNext)
          return this.#fault(
            log,
            authority,
            'broken',
            entry.number === number ? `the chain breaks at entry ${number}` : `entry ${number} is missing`,
            [head.jws],
          )
        const { hash, leaf } = entryHashes(groupId, entry)
        if (log.former?.number === number && !equalBytes(log.former.hash, hash))
          return this.#fault(
            log,
            authority,
            'rewritten',
            `entry ${number} is not the one that stood there before`,
            [head.jws],
          )
        peaks = peaks.append(leaf)
        previous = hash
      }
      if (!(await this.#isUnder(api, peaks, head))) {
        if (!this.#isDoubtedAgain(authority.signKey.toBase64Url()))
          throw new UnexpectedAnswer(
            'no proof joins what was read with its head; asked again at the next look',
          )
        const isKeptUnder = kept === null || (await this.#isUnder(api, kept, head))
        return this.#fault(
          log,
          authority,
          'broken',
          isKeptUnder
            ? `entries ${from} to ${peaks.size} are not those of its head`
            : `no proof joins its ${kept.size} entries with the ${head.size} of its head`,
          isKeptUnder ? [head.jws] : [kept.jws, head.jws],
        )
      }
      await this.#keep(authority, log.id, { entries, previous, peaks })
      log = { ...log, previous, peaks }
    }
    if (log.former !== null && head.size < log.former.number)
      return this.#fault(
        log,
        authority,
        'shorter',
        `it has ${head.size} entries, it had ${log.former.number}`,
        [head.jws],
      )
    await this.#ports.store.atomic(connection =>
      connection.run('UPDATE followed_log SET head = ?, head_at = ? WHERE id = ?', [
        head.jws,
        head.at,
        log.id,
      ]),
    )
  }

  /**
   * Whether it was in doubt before. Nobody has signed an entry or a proof, and somebody on the way may have damaged it: so
   * what doesn't come to a head counts when it is so at a second look.
   */
  #isDoubtedAgain(what: string): boolean {
    const isAgain = this.#doubted.has(what)
    if (this.#doubted.size > 10_000) this.#doubted.clear()
    this.#doubted.add(what)
    return isAgain
  }

  /** The head's log begins with this one. */
  async #isUnder(api: Api, before: TreeHead, head: TreeHead): Promise<boolean> {
    if (before.size === head.size) return equalBytes(before.root, head.root)
    return verifyConsistency(before, head, await this.#prove(api)(before.size, head.size).then(hashesOf))
  }

  #prove(api: Api) {
    return async (before: number, after: number): Promise<readonly string[]> => {
      const query = { before: String(before), after: String(after) }
      return (await api.logConsistency({ params: this.#params(), query })).proof
    }
  }

  /** In one transaction: the entries' findings, and that they were read. */
  async #keep(
    authority: GroupAuthority,
    log: number,
    page: { entries: readonly IssuanceEntry[]; previous: Uint8Array; peaks: Peaks },
  ): Promise<void> {
    const { store, log: lines, metrics } = this.#ports
    const now = this.#now()
    const found = await store.atomic(connection => {
      while (knowIdentities(connection)) {}
      const since = numberOf(connection, 'logs followed since')
      const unknown: UnknownKey[] = []
      for (const entry of page.entries) {
        const why = whyUnknown(connection, log, entry, since)
        if (why === null) continue
        const { number, at, purpose, idCoreHash, ticketHash } = entry
        unknown.push({ number, at, purpose, idCoreHash, ticketHash, why, foundAt: now })
        connection.run(
          'INSERT INTO unknown_key (log, number, at, purpose, id_core_hash, ticket_hash, why, found_at) ' +
            'VALUES (?, ?, ?, ?, ?, ?, ?, ?)',
          [log, number, at, purpose, bytes32(idCoreHash), bytes32(ticketHash), why, now],
        )
      }
      connection.run('UPDATE followed_log SET size = ?, previous = ?, peaks = ? WHERE id = ?', [
        page.peaks.size,
        page.previous,
        page.peaks.encode(),
        log,
      ])
      return unknown
    })
    for (const key of found) {
      metrics.count('unknown_keys', { authority: authority.name, why: key.why })
      lines.error({ authority: authority.name, ...key }, `alarm: a key was issued ${MEANS[key.why]}`)
    }
  }

  async #judgeSeen(seen: readonly SeenHead[]): Promise<void> {
    const began = this.#ports.clock()
    for (const { authority: name, head: jws } of seen) {
      if (this.#ports.clock() > began + LOOK_TIME) return
      const authority = this.#ports.group.current.authorities.find(other => other.name === name)
      if (authority === undefined || this.#judged.has(jws)) continue
      try {
        const head = await LogHead.verify(jws, this.#owner(authority))
        const log = await this.#followed(authority)
        // Before it was read up to a head there is nothing to compare with.
        if (log.head === null) continue
        const verdict = await judge(log.head, head, this.#prove(this.#api(authority)))
        if (verdict === 'unproven') {
          if (this.#isDoubtedAgain(jws))
            await this.#fault(
              log,
              authority,
              'broken',
              'no proof joins it with what another member has seen',
              [log.head.jws, jws],
            )
          continue
        }
        if (verdict === 'split' || verdict === 'shorter')
          await this.#fault(log, authority, verdict, 'another member has seen another log', [
            log.head.jws,
            jws,
          ])
        if (this.#judged.size > 10_000) this.#judged.clear()
        this.#judged.add(jws)
      } catch (error) {
        // What isn't signed by that authority says nothing about it, and what it doesn't answer is looked at again.
        if (!isTheirs(error)) throw error
      }
    }
  }

  async #fault(
    log: Followed,
    { name, signKey }: GroupAuthority,
    fault: LogFault,
    detail: string,
    heads: readonly string[],
  ): Promise<void> {
    const { store, metrics, log: lines } = this.#ports
    const isNew = await store.atomic(connection => {
      const before = connection.all('SELECT * FROM log_fault WHERE log = ? AND fault = ?', [log.id, fault])
      // While nobody has looked into it, it is the same one, whatever comes of it in the log's next entries.
      if (before.map(row => faultOf(connection, signKey, row)).some(isOpen)) return 0
      return connection.run(
        'INSERT INTO log_fault (log, fault, detail, found_at, heads) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING',
        [log.id, fault, detail, this.#now(), JSON.stringify(heads)],
      )
    })
    if (isNew === 0) return
    metrics.count('log_faults', { authority: name, fault })
    lines.error(
      { authority: name, fault, detail },
      'alarm: the log of an authority is not what it was; its signed heads are kept',
    )
  }

  /** Of those that had logged in before the logs were read. */
  async #judgeLacking(proven: readonly number[]): Promise<void> {
    const { store, group, log } = this.#ports
    const { authorities } = group.current
    const t = this.#threshold()
    const lacking = await store.atomic(connection => {
      const logs = logsOf(connection)
      const unread = authorities.filter(({ signKey }) => this.#troubles.has(signKey.toBase64Url())).length
      return proven.flatMap(identity => {
        const has = new Set(
          connection.all('SELECT log FROM logged_key WHERE identity_id = ?', [identity]).map(row => row.log),
        )
        if (has.size + unread >= t) return []
        const [row] = connection.all(
          'SELECT d.instance, k.id_core_hash FROM issued_identity k JOIN identity i ON i.id = k.identity_id ' +
            'JOIN device d ON d.id = i.device_id WHERE k.identity_id = ?',
          [identity],
        )
        if (row === undefined) return []
        const missing = authorities.filter(({ signKey }) => !has.has(logs.get(signKey.toBase64Url()) ?? -1))
        return [
          {
            instance: row.instance as string,
            idCoreHash: toBase64Url(row.id_core_hash as Uint8Array),
            held: has.size,
            needed: t,
            missing: missing.map(({ name }) => name),
          },
        ]
      })
    })
    const known = new Set(this.#lacking.map(({ idCoreHash }) => idCoreHash))
    for (const { idCoreHash, held, needed, missing } of lacking)
      if (!known.has(idCoreHash))
        log.error({ idCoreHash, held, needed, missing }, 'alarm: the logs lack a key that is in use')
    this.#lacking = lacking
  }

  /** Identities that have logged in, and whose key fewer than t logs had at the last look. */
  #proven(reader: Reader): number[] {
    const since = numberOf(reader, 'logs followed since')
    return reader
      .all(
        'SELECT k.identity_id FROM issued_identity k JOIN identity i ON i.id = k.identity_id ' +
          'WHERE k.logs < ? AND i.seen_at IS NOT NULL AND i.issued_at >= ? LIMIT ?',
        [this.#threshold(), since, LISTED],
      )
      .map(row => Number(row.identity_id))
  }

  /** The fewest that ever were enough. */
  #threshold(): number {
    return Math.min(...this.#ports.group.current.documents.map(({ t }) => t))
  }

  #findingsOf(connection: Connection, { index, name, signKey }: GroupAuthority): AuthorityFindings {
    const key = signKey.toBase64Url()
    const [log] = connection.all('SELECT * FROM followed_log WHERE sign_key = ?', [key])
    const id = Number(log?.id ?? 0)
    const faults = connection
      .all('SELECT * FROM log_fault WHERE log = ? ORDER BY found_at', [id])
      .map(row => faultOf(connection, signKey, row))
    const unknown = connection
      .all('SELECT * FROM unknown_key WHERE log = ? ORDER BY number LIMIT ?', [id, LISTED])
      .map(unknownOf)
      .map(entry => ({ ...entry, ...findingOf(connection, ['unknown', key, ...factsOf(entry)]) }))
    const trouble = this.#troubles.get(key)
    const [readAt, leavesAt] = [log?.read_at ?? null, log?.leaves_at ?? null]
    return {
      index,
      name,
      entries: Number(log?.size ?? 0),
      intact: faults.length === 0 && trouble === undefined,
      ...(trouble === undefined ? {} : { trouble }),
      ...(readAt === null ? {} : { readAt: Number(readAt) }),
      ...(leavesAt === null ? {} : { leavesAt: Number(leavesAt) }),
      faults,
      unknown,
    }
  }

  async #followed({ name, signKey }: GroupAuthority): Promise<Followed> {
    const { store, group } = this.#ports
    const { groupId } = group.current
    const key = signKey.toBase64Url()
    const row = await store.atomic(connection => {
      connection.run(
        'INSERT INTO followed_log (sign_key, name, size, previous, peaks) VALUES (?, ?, 0, ?, ?) ON CONFLICT DO NOTHING',
        [key, name, groupId, new Uint8Array()],
      )
      return connection.all('SELECT * FROM followed_log WHERE sign_key = ?', [key])[0] as Row
    })
    const jws = row.head as string | null
    const head = jws === null ? null : await LogHead.verify(jws, { groupId, name, signKey })
    return {
      id: Number(row.id),
      // A log that was read by an older build is read again from its beginning.
      previous: Number(row.size) === 0 ? groupId : (row.previous as Uint8Array),
      peaks: Peaks.decode(Number(row.size), row.peaks as Uint8Array),
      head,
      former:
        row.former_number === null
          ? null
          : { number: Number(row.former_number), hash: row.former_hash as Uint8Array },
    }
  }

  #api({ url }: GroupAuthority): Api {
    const { signal } = this.#ending
    const client = createClient(dtaRoutes, { baseUrl: url, fetch: this.#ports.fetch, timeout: TIMEOUT })
    return {
      log: input => client.log({ ...input, signal }),
      logHead: input => client.logHead({ ...input, signal }),
      logConsistency: input => client.logConsistency({ ...input, signal }),
    }
  }
  #owner({ name, signKey }: GroupAuthority) {
    return { groupId: this.#ports.group.current.groupId, name, signKey }
  }
  #params() {
    return { groupId: toBase64Url(this.#ports.group.current.groupId) }
  }
  #now(): number {
    return Math.floor(this.#ports.clock() / 1000)
  }
}

interface SeenHead {
  readonly authority: string
  readonly head: string
}

/**
 * What was seen of each log by other members, a head of each of them in turn: however many one hands on, the others are heard.
 * What it says of its own log it has said.
 */
function seenOf(
  authorities: readonly GroupAuthority[],
  heads: readonly (readonly SeenHead[] | null)[],
): readonly (readonly SeenHead[])[] {
  const byLog = new Map<string, SeenHead[]>()
  const longest = Math.max(...heads.map(seen => seen?.length ?? 0))
  for (let turn = 0; turn < longest; turn++)
    for (const [i, { name }] of authorities.entries()) {
      const seen = heads[i]?.[turn]
      if (seen === undefined || seen.authority === name) continue
      const known = byLog.get(seen.authority)
      if (known === undefined) byLog.set(seen.authority, [seen])
      else known.push(seen)
    }
  return [...byLog.values()]
}

const MEANS: Readonly<Record<UnknownKey['why'], string>> = {
  'no-vehicle': 'that belongs to no vehicle',
  'no-ticket': 'on a ticket that was never handed out',
}

/** Null for an entry that is as it should be; notes whose it is. */
function whyUnknown(
  connection: Connection,
  log: number,
  { at, purpose, idCoreHash, ticketHash, kind }: IssuanceEntry,
  since: number,
): UnknownKey['why'] | null {
  const [identity] = connection.all('SELECT identity_id FROM issued_identity WHERE id_core_hash = ?', [
    bytes32(idCoreHash),
  ])
  if (identity === undefined) return 'no-vehicle'
  // Asked for by the device itself, by the key that it has: on no ticket.
  if (kind !== undefined) return null
  if (purpose === 'device') {
    const id = Number(identity.identity_id)
    const isNew = connection.run(
      'INSERT INTO logged_key (identity_id, log) VALUES (?, ?) ON CONFLICT DO NOTHING',
      [id, log],
    )
    if (isNew > 0) connection.run('UPDATE issued_identity SET logs = logs + 1 WHERE identity_id = ?', [id])
  }
  // Tickets of before are not on record, and an authority's clock may be behind.
  if (at <= since + SKEW) return null
  const known = connection.all('SELECT 1 FROM signed_ticket WHERE hash = ?', [bytes32(ticketHash)])
  return known.length > 0 ? null : 'no-ticket'
}

/** Some of the identities that came since the last look, each before its ticket went out; false: there are no more. */
function knowIdentities(connection: Connection): boolean {
  const rows = connection.all(
    'SELECT id, id_core FROM identity WHERE id > (SELECT coalesce(max(identity_id), 0) FROM issued_identity) ' +
      'ORDER BY id LIMIT ?',
    [BLOCK],
  )
  for (const { id, id_core } of rows)
    connection.run('INSERT INTO issued_identity (identity_id, id_core_hash, logs) VALUES (?, ?, 0)', [
      id as number,
      sha256(id_core as Uint8Array),
    ])
  return rows.length === BLOCK
}

/** Ids of the logs by their authority's signing key. */
function logsOf(connection: Connection): ReadonlyMap<string, number> {
  return new Map(
    connection
      .all('SELECT id, sign_key FROM followed_log')
      .map(row => [row.sign_key as string, Number(row.id)]),
  )
}

function numberOf(reader: Reader, counter: string): number {
  const [row] = reader.all('SELECT value FROM counter WHERE name = ?', [counter])
  return Number(row?.value ?? 0)
}

function unknownOf(row: Row): UnknownKey {
  return {
    number: Number(row.number),
    at: Number(row.at),
    purpose: row.purpose as UnknownKey['purpose'],
    idCoreHash: toBase64Url(row.id_core_hash as Uint8Array),
    ticketHash: toBase64Url(row.ticket_hash as Uint8Array),
    why: row.why as UnknownKey['why'],
    foundAt: Number(row.found_at),
  }
}

const factsOf = ({ number, at, purpose, idCoreHash, ticketHash, why }: UnknownKey) => [
  number,
  at,
  purpose,
  idCoreHash,
  ticketHash,
  why,
]

function faultOf(connection: Connection, signKey: GroupAuthority['signKey'], row: Row): FoundFault {
  const [fault, detail] = [row.fault as LogFault, row.detail as string]
  return {
    fault,
    detail,
    foundAt: Number(row.found_at),
    heads: JSON.parse(row.heads as string) as string[],
    ...findingOf(connection, ['fault', signKey.toBase64Url(), fault, detail]),
  }
}

function findingOf(connection: Connection, facts: readonly (string | number)[]): Finding {
  const finding = toHex(sha256(utf8(JSON.stringify(facts))).subarray(0, 12))
  const [row] = connection.all('SELECT reason, made_by, at FROM acknowledgement WHERE finding = ?', [finding])
  if (row === undefined) return { finding }
  const acknowledged = { by: row.made_by as string, at: Number(row.at), reason: row.reason as string }
  return { finding, acknowledged }
}

const isOpen = ({ acknowledged }: Finding): boolean => acknowledged === undefined

const isTheirs = (error: unknown): boolean =>
  [Unreachable, UnexpectedAnswer, Refused, DecodeError].some(kind => error instanceof kind)
const hashesOf = (proof: readonly string[]) => proof.map(hash => fromBase64Url(hash, 'proof', 32))
const bytes32 = (text: string) => fromBase64Url(text, 'hash', 32)
