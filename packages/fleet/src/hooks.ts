/**
 * Hooks into the customer's own system, at addresses that only the configuration names.
 *
 *   before registration   device --> RPS --> fleet --{registration}--> target
 *                                            fleet <--allow | refuse-- target     kept; the same registration asks once
 *                                            no answer in time: RETRY_LATER, nothing decided
 *   after login           RPS --authenticated--> fleet: notice stored, one row for each target, then brought by a
 *                         courier of the target's own: in order, again until it is taken, dead after so many attempts
 *
 * Every call is signed with fleet's request key, as a server signs to another: bound to method, address and body, good
 * for 60 seconds, once. A redirect is a failure, an answer is short, and neither addresses nor logs hold attributes.
 */
import { type Client, createClient, UnexpectedAnswer, Unreachable } from '@milagro-ts/api/call'
import { Courier } from '@milagro-ts/api/courier'
import { hookRoutes, LoginNotice } from '@milagro-ts/api/hook-routes'
import type { Log } from '@milagro-ts/api/log'
import { Refused } from '@milagro-ts/api/problem'
import { requestSigner } from '@milagro-ts/api/request-auth'
import type { Timers } from '@milagro-ts/api/system'
import { Compile } from '@milagro-ts/api/typebox'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import type { Clock, Random } from '@milagro-ts/crypto/ports'
import type { CheckedRegistration, Happening } from '@milagro-ts/rpa/directory'
import type { Store } from '@milagro-ts/store/database'
import type { Kysely, Selectable } from '@milagro-ts/store/kysely'
import { type Actor, audit } from './audit.js'
import type { FleetConfig } from './config.js'
import type { DeliveryTable, FleetSchema } from './schema.js'
import { isReadable } from './vehicle.js'

type Db = Kysely<FleetSchema>
type Delivery = Selectable<DeliveryTable>

/** Milliseconds for one call: before a registration the RPS waits 5 seconds for us. */
const DEADLINE = 3_000
/** Bytes of an answer. */
const ANSWER_LIMIT = 8_192
/** Questions under way at once; whoever comes then asks again. */
const QUESTIONS = 32
const FIRST_PAUSE = 1_000
const LONGEST_PAUSE = 15 * 60_000
/** At the longest pause: about a day. */
const ATTEMPTS = 100
/** Deliveries that were taken are kept so long (seconds); dead ones and answers too. */
const KEPT = 30 * 86_400

const notices = Compile(LoginNotice)

export interface HookPorts {
  readonly config: FleetConfig['hooks']
  readonly store: Store<FleetSchema>
  /** Fleet's name and request key, as the group document has them. */
  readonly signer: Pick<Parameters<typeof requestSigner>[0], 'name' | 'key'>
  readonly fetch: typeof fetch
  readonly clock: Clock
  readonly random: Random
  readonly timers: Timers
  readonly log: Log
}

export interface DeliveryView {
  readonly id: number
  readonly target: string
  readonly state: 'waiting' | 'dead'
  readonly madeAt: number
  readonly attempts: number
  readonly trouble?: string
}

export interface HooksStatus {
  readonly waiting: number
  readonly dead: number
  readonly trouble?: string
}

export class Hooks {
  readonly #ports: HookPorts
  readonly #registrar: Client<typeof hookRoutes> | undefined
  readonly #targets: ReadonlyMap<string, Courier<Delivery>>
  #questions = 0

  constructor(ports: HookPorts) {
    this.#ports = ports
    const { config } = ports
    const client = (baseUrl: string) =>
      createClient(hookRoutes, {
        baseUrl,
        fetch: ports.fetch,
        timeout: config?.deadline ?? DEADLINE,
        answerLimit: ANSWER_LIMIT,
        authorize: requestSigner({ ...ports.signer, clock: ports.clock, random: ports.random }),
      })
    this.#registrar = config?.beforeRegistration === undefined ? undefined : client(config.beforeRegistration)
    this.#targets = new Map(
      [...new Set(config?.afterLogin ?? [])].map(target => {
        const api = client(target)
        const courier = new Courier<Delivery>({
          next: () => this.#next(target),
          send: delivery => this.#deliver(api, delivery),
          describe: troubleOf,
          what: 'notices of logins',
          firstPause: FIRST_PAUSE,
          longestPause: LONGEST_PAUSE,
          timers: ports.timers,
          log: ports.log,
        })
        return [target, courier]
      }),
    )
  }

  start(): void {
    for (const courier of this.#targets.values()) courier.start()
  }
  wake(): void {
    for (const courier of this.#targets.values()) courier.wake()
  }
  async stop(): Promise<void> {
    await Promise.all([...this.#targets.values()].map(courier => courier.stop()))
  }

  /**
   * Asks before a registration is decided; once for each, whatever the answer. A new PIN is not asked about: its user
   * was. Refused NOT_APPROVED when the answer is no, RETRY_LATER when there is none.
   */
  async beforeRegistration(registration: CheckedRegistration): Promise<void> {
    if (this.#registrar === undefined || registration.kind === 'pin') return
    const { db } = this.#ports.store
    const known = await db
      .selectFrom('registration_check')
      .select('decision')
      .where('digest', '=', registration.digest)
      .executeTakeFirst()
    const decision = known?.decision ?? (await this.#ask(this.#registrar, registration))
    if (decision === 'refuse')
      throw new Refused('NOT_APPROVED', {
        detail: 'the registration was refused by the customer’s own system',
      })
  }

  async #ask(
    registrar: Client<typeof hookRoutes>,
    registration: Exclude<CheckedRegistration, { kind: 'pin' }>,
  ): Promise<'allow' | 'refuse'> {
    if (this.#questions >= QUESTIONS)
      throw new Refused('RETRY_LATER', { detail: 'too many registrations at once', retryAfter: 5 })
    this.#questions++
    const { kind, digest, codeId, attributes } = registration
    const answer = await registrar
      .beforeRegistration({
        body: {
          id: toBase64Url(digest),
          kind,
          by: codeId === null ? 'words' : 'code',
          attributes: { ...attributes },
          ...(registration.kind === 'device'
            ? { instance: registration.instance }
            : { idCore: registration.idCore.mpinId }),
        },
      })
      .catch((error: unknown) => {
        if (!isFailure(error)) throw error
        throw new Refused('RETRY_LATER', {
          detail: 'the registration could not be checked',
          log: `before registration: ${troubleOf(error)}`,
          retryAfter: 5,
        })
      })
      .finally(() => {
        this.#questions--
      })
    // An operator reads it on a terminal; what can't be shown is left out, the decision stands.
    const note = answer.note !== undefined && isReadable(answer.note) ? answer.note : null
    const { store } = this.#ports
    // Of two answers that race, the first one stands for both.
    const { decision } = await store.db.transaction().execute(async tx => {
      const row = { digest, decision: answer.decision, note, at: this.#now() }
      await tx
        .insertInto('registration_check')
        .values(row)
        .onConflict(conflict => conflict.doNothing())
        .execute()
      return tx
        .selectFrom('registration_check')
        .select('decision')
        .where('digest', '=', digest)
        .executeTakeFirstOrThrow()
    })
    return decision
  }

  /** Stores a notice for each target, in the transaction of what it tells. Call `wake` after the commit. */
  async record(tx: Db, happening: Happening, vehicle: number | undefined): Promise<void> {
    const { id, at, event, idCore, userCore, amr, audience, slot } = happening
    if (event === 'wrong-pin' || this.#targets.size === 0) return
    const notice: LoginNotice = {
      // The RPS' own, so that what it tells again is told again under the same.
      id,
      event,
      at,
      idCore: idCore.mpinId,
      ...(userCore.length === 0 ? {} : { userCore: toBase64Url(userCore) }),
      ...(vehicle === undefined ? {} : { vehicle }),
      amr: [...amr],
      audience,
      slot,
    }
    const rows = [...this.#targets.keys()].map(target => ({
      message_id: notice.id,
      target,
      body: JSON.stringify(notice),
      made_at: this.#now(),
      attempts: 0,
      trouble: null,
      sent_at: null,
      dead_at: null,
    }))
    await tx.insertInto('delivery').values(rows).execute()
  }

  async status(): Promise<HooksStatus> {
    const { db } = this.#ports.store
    const { waiting, dead } = await db
      .selectFrom('delivery')
      .select(({ fn, eb }) => [
        fn.countAll<number>().filterWhere('dead_at', 'is', null).as('waiting'),
        fn
          .countAll<number>()
          .filterWhere(eb('dead_at', 'is not', null))
          .as('dead'),
      ])
      .where('sent_at', 'is', null)
      .executeTakeFirstOrThrow()
    const trouble = [...this.#targets.values()].find(courier => courier.trouble !== undefined)?.trouble
    return { waiting, dead, ...(trouble === undefined ? {} : { trouble }) }
  }

  /** What was not taken yet, or was given up, by number. */
  async list({ after, limit }: { after?: number | undefined; limit: number }): Promise<DeliveryView[]> {
    let query = this.#ports.store.db
      .selectFrom('delivery')
      .selectAll()
      .where('sent_at', 'is', null)
      .orderBy('id')
      .limit(limit)
    if (after !== undefined) query = query.where('id', '>', after)
    return (await query.execute()).map(row => ({
      id: row.id,
      target: row.target,
      state: row.dead_at === null ? 'waiting' : 'dead',
      madeAt: row.made_at,
      attempts: row.attempts,
      ...(row.trouble === null ? {} : { trouble: row.trouble }),
    }))
  }

  /** Tries one that was given up again, from its first attempt on. Refused NOT_FOUND, CONFLICT when it isn't dead. */
  async retry(id: number, actor: Actor): Promise<void> {
    await this.#ports.store.db.transaction().execute(async tx => {
      const row = await tx.selectFrom('delivery').selectAll().where('id', '=', id).executeTakeFirst()
      if (row === undefined) throw new Refused('NOT_FOUND', { detail: 'no notice has that number' })
      if (row.dead_at === null || row.sent_at !== null)
        throw new Refused('CONFLICT', { detail: 'it was not given up' })
      await tx.updateTable('delivery').set({ dead_at: null, attempts: 0 }).where('id', '=', id).execute()
      const subject = `delivery ${id}`
      await audit(tx, this.#now(), { actor, action: 'retry delivery', subject, outcome: 'done' })
    })
    this.wake()
  }

  /** The oldest one for a target: what was told later waits behind it. */
  #next(target: string): Promise<Delivery | undefined> {
    return this.#ports.store.db
      .selectFrom('delivery')
      .selectAll()
      .where('target', '=', target)
      .where('sent_at', 'is', null)
      .where('dead_at', 'is', null)
      .orderBy('id')
      .executeTakeFirst()
  }

  async #deliver(api: Client<typeof hookRoutes>, { id, body, attempts }: Delivery): Promise<void> {
    const notice: unknown = JSON.parse(body)
    if (!notices.Check(notice)) throw new TypeError(`delivery ${id} is no notice`)
    const { store, config, log } = this.#ports
    try {
      await api.afterLogin({ body: notice })
    } catch (error) {
      if (!isFailure(error)) throw error
      const isLast = attempts + 1 >= (config?.attempts ?? ATTEMPTS)
      await store.db
        .updateTable('delivery')
        .set({ attempts: attempts + 1, trouble: troubleOf(error), dead_at: isLast ? this.#now() : null })
        .where('id', '=', id)
        .execute()
      if (isLast) log.error({ delivery: id, attempts: attempts + 1 }, 'a notice of a login was given up')
      throw error
    }
    await store.db
      .updateTable('delivery')
      .set({ attempts: attempts + 1, trouble: null, sent_at: this.#now() })
      .where('id', '=', id)
      .execute()
  }

  #now(): number {
    return Math.floor(this.#ports.clock() / 1000)
  }
}

/** The note that the customer's system left about a registration, by its digest. */
export async function notesOf(db: Db, digests: readonly Uint8Array[]): Promise<ReadonlyMap<string, string>> {
  if (digests.length === 0) return new Map()
  const rows = await db
    .selectFrom('registration_check')
    .select(['digest', 'note'])
    .where('digest', 'in', digests)
    .where('note', 'is not', null)
    .execute()
  return new Map(rows.map(({ digest, note }) => [toBase64Url(digest), note ?? '']))
}

/** Deletes notices that were taken or given up long ago, and answers about registrations of long ago. */
export async function forgetHooks(db: Db, now: number): Promise<void> {
  await db
    .deleteFrom('delivery')
    .where(on => on.or([on('sent_at', '<', now - KEPT), on('dead_at', '<', now - KEPT)]))
    .execute()
  await db
    .deleteFrom('registration_check')
    .where('at', '<', now - KEPT)
    .execute()
}

function isFailure(error: unknown): boolean {
  return error instanceof Unreachable || error instanceof UnexpectedAnswer || error instanceof Refused
}

function troubleOf(error: unknown): string {
  if (error instanceof Refused) return `the target refuses: ${error.code}`
  if (error instanceof Unreachable) return 'the target can’t be reached'
  return error instanceof UnexpectedAnswer ? 'the target’s answer is none' : 'the notice could not be sent'
}
