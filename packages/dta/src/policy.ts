/**
 * What this authority's operator allows, beside what the group document does: a file of his own, read at the start, at
 * SIGHUP and at `dta policy --reload`. A file that is wrong leaves the one in force.
 *
 *   {"groups": {
 *     "<groupId>": {"keysPerDay": 500, "permitsPerDay": 2000000, "zone": "Europe/Berlin",
 *                   "hours": [{"days": ["mon", "tue", "wed", "thu", "fri"], "from": "07:00", "to": "19:00"}],
 *                   "raSigners": {"m": 2, "keys": ["ra1", "ra2", "ra3"]}},
 *     "*": {"keysPerDay": 10}}}
 *
 *   setting        applies to                       refusal
 *   keysPerDay     keys on tickets, once each       RETRY_LATER, Retry-After to the next midnight in `zone`
 *   permitsPerDay  permit statements                the same
 *   hours          key shares                       RETRY_LATER, Retry-After to the next opening
 *   raSigners      tickets                          NOT_APPROVED
 *
 * `*` is for groups without an entry; a group without either has no limits of this kind. Days and hours are those of
 * `zone`, UTC unless said. What a ticket got once it gets again, whatever the day: a quota counts keys, not answers.
 */
import { readFileSync } from 'node:fs'
import { ConfigError } from '@milagro-ts/api/config'
import { type GroupPolicy, PolicyFile } from '@milagro-ts/api/dta-routes'
import { Refused } from '@milagro-ts/api/problem'
import { parseStrictJson } from '@milagro-ts/api/strict-json'
import { Compile } from '@milagro-ts/api/typebox'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import type { Connection } from '@milagro-ts/store/database'

const policyFile = Compile(PolicyFile)
const ELSE = '*'
const DAYS = ['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat'] as const
type Weekday = (typeof DAYS)[number]
const DAY = 1_440
const WEEK = 7 * DAY

export type Counted = 'keys' | 'permits'

export class Policy {
  readonly #path: string | undefined
  #groups: Readonly<Record<string, GroupPolicy>>

  private constructor(path: string | undefined, groups: Readonly<Record<string, GroupPolicy>>) {
    this.#path = path
    this.#groups = groups
  }

  /** Without a path there are no limits. ConfigError for a file that isn't there, or says what can't be meant. */
  static open(path: string | undefined): Policy {
    return new Policy(path, path === undefined ? {} : readPolicy(path))
  }

  /** ConfigError leaves everything as it was. */
  reload(): void {
    if (this.#path === undefined)
      throw new ConfigError("setting 'policyFile' is missing: there is none to read")
    this.#groups = readPolicy(this.#path)
  }

  of(groupId: Uint8Array): GroupPolicy {
    return this.#groups[toBase64Url(groupId)] ?? this.#groups[ELSE] ?? {}
  }
}

/** Refused NOT_APPROVED unless enough of those whom this authority counts have signed. */
export function refuseSigners({ raSigners }: GroupPolicy, signers: readonly string[]): void {
  if (raSigners === undefined) return
  const { m, keys } = raSigners
  const counted = signers.filter(kid => keys === undefined || keys.includes(kid)).length
  if (counted < m)
    throw new Refused('NOT_APPROVED', {
      detail: `this authority wants ${m} RA signatures that it counts, the ticket has ${counted}`,
    })
}

/** Refused RETRY_LATER outside the hours. @param now unix milliseconds */
export function refuseHours({ hours, zone }: GroupPolicy, now: number): void {
  if (hours === undefined) return
  const { minute } = localTime(zone, now)
  const spans = hours.flatMap(({ days = DAYS, from, to }) =>
    days.map(day => {
      const start = DAYS.indexOf(day) * DAY + minutesOf(from)
      const length = (minutesOf(to) - minutesOf(from) + DAY) % DAY || DAY
      return { start, length }
    }),
  )
  const since = (start: number) => (minute - start + WEEK) % WEEK
  if (spans.some(({ start, length }) => since(start) < length)) return
  const wait = Math.min(...spans.map(({ start }) => WEEK - since(start)))
  throw new Refused('RETRY_LATER', {
    detail: 'this authority issues no keys for the group at this hour',
    retryAfter: wait * 60 - (Math.floor(now / 1000) % 60),
  })
}

/**
 * One more of today's, in the transaction of what is counted; the count goes with it if that comes to nothing.
 * Refused RETRY_LATER when there are as many as may be.
 */
export function takeFromQuota(
  connection: Connection,
  counted: Counted,
  { groupId, policy, now }: { groupId: Uint8Array; policy: GroupPolicy; now: number },
): void {
  const most = counted === 'keys' ? policy.keysPerDay : policy.permitsPerDay
  if (most === undefined) return
  const { day, second } = localTime(policy.zone, now)
  const taken =
    most > 0 &&
    connection.run(
      'INSERT INTO quota (group_id, counted, day, used) VALUES (?, ?, ?, 1) ' +
        'ON CONFLICT (group_id, counted, day) DO UPDATE SET used = used + 1 WHERE used < ?',
      [groupId, counted, day, most],
    ) > 0
  if (taken) return
  throw new Refused('RETRY_LATER', {
    detail: `this authority's ${counted} of the day for the group are used up`,
    retryAfter: 86_400 - second,
  })
}

/** Of the day that it is now; counted only while there is a quota. */
export function usedToday(
  connection: Connection,
  counted: Counted,
  { groupId, policy, now }: { groupId: Uint8Array; policy: GroupPolicy; now: number },
): number {
  const { day } = localTime(policy.zone, now)
  const [row] = connection.all('SELECT used FROM quota WHERE group_id = ? AND counted = ? AND day = ?', [
    groupId,
    counted,
    day,
  ])
  return Number(row?.used ?? 0)
}

/** Days of more than a month ago. */
export function purgeQuotas(connection: Connection, now: number): void {
  const { day } = localTime(undefined, now - 32 * 86_400_000)
  connection.run('DELETE FROM quota WHERE day < ?', [day])
}

interface LocalTime {
  /** `2030-01-31` */
  readonly day: string
  /** Of the day. */
  readonly second: number
  /** Of the week, which begins on Sunday. */
  readonly minute: number
}

const clocks = new Map<string, Intl.DateTimeFormat>()

function localTime(zone = 'UTC', now: number): LocalTime {
  let clock = clocks.get(zone)
  if (clock === undefined) {
    clock = new Intl.DateTimeFormat('en-US', {
      timeZone: zone,
      hourCycle: 'h23',
      weekday: 'short',
      year: 'numeric',
      month: '2-digit',
      day: '2-digit',
      hour: '2-digit',
      minute: '2-digit',
      second: '2-digit',
    })
    clocks.set(zone, clock)
  }
  const parts = Object.fromEntries(clock.formatToParts(now).map(({ type, value }) => [type, value]))
  const [hour, minute, second] = [Number(parts.hour), Number(parts.minute), Number(parts.second)]
  const weekday = DAYS.indexOf((parts.weekday ?? '').toLowerCase() as Weekday)
  return {
    day: `${parts.year}-${parts.month}-${parts.day}`,
    second: (hour * 60 + minute) * 60 + second,
    minute: weekday * DAY + hour * 60 + minute,
  }
}

function minutesOf(text: string): number {
  const [hour, minute] = text.split(':').map(Number) as [number, number]
  return hour * 60 + minute
}

function readPolicy(path: string): Readonly<Record<string, GroupPolicy>> {
  const wrong = (why: string) => new ConfigError(`policy file '${path}': ${why}`)
  let value: unknown
  try {
    value = parseStrictJson(readFileSync(path))
  } catch (error) {
    const why = error instanceof Refused ? error.detail : (error as NodeJS.ErrnoException).code
    throw wrong(why ?? 'cannot be read')
  }
  if (!policyFile.Check(value)) {
    const [first] = policyFile.Errors(value)
    throw wrong(
      `${(first?.instancePath ?? '').slice(1).replaceAll('/', '.')} ${first?.message ?? 'is wrong'}`,
    )
  }
  for (const [name, { zone, raSigners }] of Object.entries(value.groups)) {
    if (zone !== undefined && !isZone(zone)) throw wrong(`groups.${name}.zone '${zone}' is not known`)
    if (raSigners?.keys !== undefined && raSigners.m > new Set(raSigners.keys).size)
      throw wrong(`groups.${name}.raSigners wants more signatures than it has keys`)
  }
  return value.groups
}

function isZone(zone: string): boolean {
  try {
    new Intl.DateTimeFormat('en-US', { timeZone: zone })
    return true
  } catch {
    return false
  }
}
