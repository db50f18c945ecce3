/**
 * Bans, reversible: of a device (vehicle or operator's), or of a driver on every vehicle. A ban is in force from the
 * commit of its row; the same transaction numbers one event for each identity, or user on an identity, that it hits.
 *
 *   add      no ban in force: row + `ban` events            in force already: new reason and expiry, no event
 *   lift     row's lifted_at + `unban` events
 *   expiry   the same as lift, by the clock; whoever asks before the timer fires lifts first
 */
import { Refused } from '@milagro-ts/api/problem'
import type { Timers } from '@milagro-ts/api/system'
import { IdCore } from '@milagro-ts/crypto/identity'
import type { Clock } from '@milagro-ts/crypto/ports'
import type { Store } from '@milagro-ts/store/database'
import type { Kysely } from '@milagro-ts/store/kysely'
import { type Actor, audit } from './audit.js'
import { recordEvent } from './events.js'
import type { FleetSchema } from './schema.js'

/** Timers can't wait longer than 24 days; an hour also catches a clock that was set. */
const LONGEST_WAIT = 3_600_000

export type BanTarget = { readonly device: number } | { readonly driver: number }

export interface Ban {
  readonly id: number
  readonly target: BanTarget
  readonly reason: string
  readonly since: number
  readonly expiresAt?: number | undefined
  readonly madeBy: Actor
}

export interface BanPorts {
  readonly store: Store<FleetSchema>
  readonly clock: Clock
  readonly timers: Timers
  /** Called after a commit that made events. */
  readonly wake: () => void
}

export class Bans {
  readonly #ports: BanPorts
  #endTimer: () => void = () => {}
  #watching: Promise<void> = Promise.resolve()
  #stopped = false

  constructor(ports: BanPorts) {
    this.#ports = ports
  }

  /** @param expiresAt Unix seconds; without it the ban stands until it is lifted. */
  async add(
    target: BanTarget,
    { reason, expiresAt }: { reason: string; expiresAt?: number | undefined },
    actor: Actor,
  ): Promise<Ban> {
    const now = this.#now()
    if (expiresAt !== undefined && expiresAt <= now)
      throw new Refused('MALFORMED', { field: 'expiresAt', detail: 'this time is over' })
    const ban = await this.#change(async tx => {
      const standing = await banOf(tx, target)
      const terms = { reason, expires_at: expiresAt ?? null, made_by: actor }
      if (standing !== undefined) {
        await tx.updateTable('ban').set(terms).where('id', '=', standing.id).execute()
        await audit(tx, now, { actor, action: 'ban', subject: subjectOf(target), outcome: 'changed' })
        return { id: standing.id, since: standing.since }
      }
      const columns =
        'device' in target
          ? { device_id: target.device, driver_id: null }
          : { device_id: null, driver_id: target.driver }
      const { id } = await tx
        .insertInto('ban')
        .values({ ...columns, ...terms, since: now, lifted_at: null, lifted_by: null })
        .returning('id')
        .executeTakeFirstOrThrow()
      await tell(tx, target, 'ban', now)
      await audit(tx, now, { actor, action: 'ban', subject: subjectOf(target), outcome: 'done' })
      return { id, since: now }
    })
    await this.watch()
    return { ...ban, target, reason, expiresAt, madeBy: actor }
  }

  /** Refused NOT_FOUND unless the ban is in force. */
  async lift(id: number, actor: Actor): Promise<void> {
    await this.#change(async tx => {
      const ban = await tx
        .selectFrom('ban')
        .selectAll()
        .where('id', '=', id)
        .where('lifted_at', 'is', null)
        .executeTakeFirst()
      if (ban === undefined) throw new Refused('NOT_FOUND', { detail: 'no ban in force has that number' })
      await lift(tx, id, targetOf(ban), actor, this.#now())
    })
  }

  /** Lifts what has run out. */
  async liftExpired(): Promise<void> {
    const now = this.#now()
    const due = (db: Kysely<FleetSchema>) =>
      db
        .selectFrom('ban')
        .selectAll()
        .where('lifted_at', 'is', null)
        .where('expires_at', '<=', now)
        .orderBy('expires_at')
    // Asked before every permit: nearly always nothing is due, and no write lock is needed to see that.
    const [first] = await due(this.#ports.store.db).limit(1).execute()
    if (first === undefined) return
    await this.#change(async tx => {
      for (const ban of await due(tx).execute()) await lift(tx, ban.id, targetOf(ban), 'clock', now)
    })
  }

  async list(): Promise<Ban[]> {
    const rows = await this.#ports.store.db
      .selectFrom('ban')
      .selectAll()
      .where('lifted_at', 'is', null)
      .orderBy('id')
      .execute()
    return rows.map(row => ({
      id: row.id,
      target: targetOf(row),
      reason: row.reason,
      since: row.since,
      expiresAt: row.expires_at ?? undefined,
      madeBy: row.made_by,
    }))
  }

  /** Sets the timer to the next expiry. Called at the start, and whenever the next expiry may have changed. */
  async watch(): Promise<void> {
    const { store, clock, timers } = this.#ports
    await this.liftExpired()
    const next = await store.db
      .selectFrom('ban')
      .select('expires_at')
      .where('lifted_at', 'is', null)
      .where('expires_at', 'is not', null)
      .orderBy('expires_at')
      .executeTakeFirst()
    this.#endTimer()
    if (next?.expires_at == null) return
    const wait = Math.min(Math.max(next.expires_at * 1000 - clock(), 0), LONGEST_WAIT)
    this.#endTimer = timers.after(wait, () => this.#onTimer())
  }

  /** Resolves when nothing is under way any more. */
  async stop(): Promise<void> {
    this.#stopped = true
    await this.#watching
    this.#endTimer()
  }

  #onTimer(): void {
    if (this.#stopped) return
    // A store that can't be used now is asked again; until then every permit lifts what is due itself.
    this.#watching = this.watch().catch(() => {
      this.#endTimer = this.#ports.timers.after(1000, () => this.#onTimer())
    })
  }

  async #change<Result>(work: (tx: Kysely<FleetSchema>) => Promise<Result>): Promise<Result> {
    const result = await this.#ports.store.db.transaction().execute(work)
    this.#ports.wake()
    return result
  }

  #now(): number {
    return Math.floor(this.#ports.clock() / 1000)
  }
}

/** The ban in force, if there is one. An expired one that nobody has lifted yet is not in force. */
export async function isBanned(db: Kysely<FleetSchema>, target: BanTarget, now: number): Promise<boolean> {
  const ban = await banOf(db, target)
  return ban !== undefined && (ban.expires_at === null || ban.expires_at > now)
}

async function banOf(db: Kysely<FleetSchema>, target: BanTarget) {
  const query = db.selectFrom('ban').selectAll().where('lifted_at', 'is', null)
  return 'device' in target
    ? query.where('device_id', '=', target.device).executeTakeFirst()
    : query.where('driver_id', '=', target.driver).executeTakeFirst()
}

async function lift(
  tx: Kysely<FleetSchema>,
  id: number,
  target: BanTarget,
  actor: Actor,
  now: number,
): Promise<void> {
  await tx.updateTable('ban').set({ lifted_at: now, lifted_by: actor }).where('id', '=', id).execute()
  await tell(tx, target, 'unban', now)
  await audit(tx, now, { actor, action: 'unban', subject: subjectOf(target), outcome: 'done' })
}

/** One event for each identity in force, or user on one, that a ban of `target` hits. */
async function tell(
  tx: Kysely<FleetSchema>,
  target: BanTarget,
  kind: 'ban' | 'unban',
  at: number,
): Promise<void> {
  if ('device' in target) {
    const identity = await tx
      .selectFrom('identity')
      .select('id_core')
      .where('device_id', '=', target.device)
      .where('revoked_at', 'is', null)
      .executeTakeFirst()
    if (identity !== undefined) await recordEvent(tx, at, { kind, idCore: IdCore.decode(identity.id_core) })
    return
  }
  const accounts = await tx
    .selectFrom('account')
    .innerJoin('identity', 'identity.id', 'account.identity_id')
    .select(['identity.id_core', 'account.user_core'])
    .where('account.driver_id', '=', target.driver)
    .where('identity.revoked_at', 'is', null)
    .orderBy('account.id')
    .execute()
  for (const { id_core, user_core } of accounts)
    await recordEvent(tx, at, { kind, idCore: IdCore.decode(id_core), userCore: user_core })
}

function targetOf({
  device_id,
  driver_id,
}: {
  device_id: number | null
  driver_id: number | null
}): BanTarget {
  return device_id === null ? { driver: driver_id as number } : { device: device_id }
}

function subjectOf(target: BanTarget): string {
  return 'device' in target ? `device ${target.device}` : `driver ${target.driver}`
}
