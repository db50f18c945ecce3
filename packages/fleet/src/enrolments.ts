/**
 * The directory behind the RPS' callbacks: decides registrations, and knows who stands how.
 *
 *   device, by code    code and record fit                              → approved at once
 *   device, by a template's code    its pattern covers it, its count isn't used up  → approved at once
 *   device, by words   any instance                                     → pending → an operator approves or refuses
 *   user, by code      the driver's code on this vehicle                → approved at once
 *   user, by words     on an identity in force                          → pending → an operator approves or refuses
 *   pin                the proven pinGen is the highest issued          → approved at once
 *
 * A registration is known by its enrolment key for ever: sent again it gets the same answer, with other bytes it is a
 * contradiction. Every decision is one transaction: code bound, leaf allotted, former generation revoked, events
 * numbered, audit written, or nothing of it.
 */
import { Refused } from '@milagro-ts/api/problem'
import { ticketHash } from '@milagro-ts/api/statements'
import { equalBytes, toBase64Url } from '@milagro-ts/crypto/bytes'
import { type Factors, IdCore } from '@milagro-ts/crypto/identity'
import type { Clock } from '@milagro-ts/crypto/ports'
import type {
  Approval,
  CheckedRegistration,
  Decision,
  DeviceRegistration,
  Directory,
  Happening,
  PinRegistration,
  Revocations,
  Standing,
  UserRegistration,
} from '@milagro-ts/rpa/directory'
import type { RegistrationAuthority } from '@milagro-ts/rpa/registration-authority'
import type { Store } from '@milagro-ts/store/database'
import type { Kysely, Selectable } from '@milagro-ts/store/kysely'
import { type Actor, audit } from './audit.js'
import { type Bans, isBanned } from './bans.js'
import { type Codes, replaceCodes } from './codes.js'
import { lastNumber, recordEvent } from './events.js'
import { type Hooks, notesOf } from './hooks.js'
import type {
  AccountTable,
  CodeTable,
  CounterTable,
  DeviceTable,
  EnrolmentTable,
  FleetSchema,
  IdentityTable,
} from './schema.js'
import { type Templates, takeApproval, templateOf } from './templates.js'
import {
  attributesOf,
  attributesText,
  checkAttributes,
  checkDriver,
  checkReadable,
  DEFAULT_FACTORS,
  OPERATOR_PREFIX,
} from './vehicle.js'

type Db = Kysely<FleetSchema>
type DeviceRow = Selectable<DeviceTable>
type IdentityRow = Selectable<IdentityTable>
type AccountRow = Selectable<AccountTable>
type EnrolmentRow = Selectable<EnrolmentTable>

/** The first PIN generation; 0 stands for "none has logged in yet". */
const FIRST_PIN_GEN = 1
const LAST_GENERATION = 0xffff
/** Registrations that may wait of one vehicle, or of drivers on one vehicle. */
const PENDING_OF_ONE = 5
/** Registrations that are listed for approval; the others follow as these are decided. */
const LISTED = 1000
/** Seconds that an expired code, and a registration which nobody approved, are still answered with what became of them. */
const EXPIRED_KEPT = 30 * 86_400

export interface EnrolmentPorts {
  readonly store: Store<FleetSchema>
  readonly authority: RegistrationAuthority
  readonly codes: Codes
  readonly templates: Templates
  readonly hooks: Hooks
  readonly bans: Bans
  readonly clock: Clock
  readonly wake: () => void
  /** The next leaf, which is remembered outside of the database too. */
  readonly nextLeaf: (tx: Kysely<FleetSchema>) => Promise<number>
  /** What a device's ticket is for. */
  readonly devicePurposes: readonly ('device' | 'agree' | 'sign' | 'encrypt')[]
  /** Seconds in which a registration may be asked for again. */
  readonly lifetime: number
  /** Registrations of unknown instances that may wait for an operator at the same time. */
  readonly pendingLimit: number
}

export interface PendingApproval {
  readonly id: number
  readonly kind: 'device' | 'user'
  readonly words: string
  readonly attributes: Readonly<Record<string, string>>
  /** The device's, or the one of the device on which the user enrols. */
  readonly instance: string
  /** The instance stands in the register. */
  readonly known: boolean
  /** …and has an identity in force, which an approval would end. */
  readonly enrolled: boolean
  readonly createdAt: number
  readonly expiresAt: number
  /** What the customer's own system said of it. */
  readonly note?: string
}

export class Enrolments implements Directory {
  readonly #ports: EnrolmentPorts

  constructor(ports: EnrolmentPorts) {
    this.#ports = ports
  }

  async codeSecret(codeId: Uint8Array): Promise<Uint8Array | null> {
    const { store, codes, templates } = this.#ports
    return (await codes.secret(store.db, codeId)) ?? templates.secret(store.db, codeId)
  }

  async decide(registration: CheckedRegistration): Promise<Decision> {
    await this.#ports.bans.liftExpired()
    const { hpkeKey, digest } = registration
    const isKnown = await this.#ports.store.db
      .selectFrom('enrolment')
      .select('id')
      .where('hpke_key', '=', hpkeKey)
      .executeTakeFirst()
    // Outside of the transaction: nobody else waits for the customer's system.
    if (isKnown === undefined) await this.#ports.hooks.beforeRegistration(registration)
    return this.#change(async tx => {
      const now = this.#now()
      const known = await tx
        .selectFrom('enrolment')
        .selectAll()
        .where('hpke_key', '=', hpkeKey)
        .executeTakeFirst()
      if (known !== undefined) {
        if (!equalBytes(known.digest, digest))
          throw new Refused('CONFLICT', { detail: 'this enrolment key was used for another registration' })
        return this.#answerOf(tx, known, now)
      }
      const enrolment = await this.#firstTime(tx, registration, now)
      const subject = `enrolment ${enrolment.id}`
      await audit(tx, now, {
        actor: 'rps',
        action: `enrol ${enrolment.kind}`,
        subject,
        outcome: enrolment.state,
      })
      return this.#answerOf(tx, enrolment, now)
    })
  }

  async keepTicket(
    hpkeKey: Uint8Array,
    ticket: readonly string[],
    former: readonly string[] | undefined,
  ): Promise<readonly string[]> {
    return this.#ports.store.db.transaction().execute(async tx => {
      const { ticket: kept } = await tx
        .selectFrom('enrolment')
        .select('ticket')
        .where('hpke_key', '=', hpkeKey)
        .executeTakeFirstOrThrow()
      const expected = former === undefined ? null : JSON.stringify(former)
      if (kept !== expected && kept !== null) return JSON.parse(kept) as string[]
      await tx
        .updateTable('enrolment')
        .set({ ticket: JSON.stringify(ticket) })
        .where('hpke_key', '=', hpkeKey)
        .execute()
      // Before it goes out: an entry of an authority's log that names another one is a key that nobody asked for.
      await tx
        .insertInto('signed_ticket')
        .values({ hash: ticketHash(ticket) })
        .onConflict(conflict => conflict.doNothing())
        .execute()
      return ticket
    })
  }

  async standing(idCore: IdCore, userCore: Uint8Array): Promise<Standing | null> {
    await this.#ports.bans.liftExpired()
    const { db } = this.#ports.store
    const found = await identityOf(db, idCore)
    if (found === undefined) return null
    const { identity, device } = found
    const now = this.#now()
    const base = { attributes: attributesOf(device.attributes), instance: device.instance }
    if (identity.revoked_at !== null) return { ...base, state: 'revoked' }
    if (await isBanned(db, { device: device.id }, now))
      return { ...base, state: 'in force', banned: 'device' }
    const account = await accountOf(db, identity.id, userCore)
    if (account === undefined) return userCore.length > 0 ? null : { ...base, state: 'in force' }
    const { driver_id, issued_pin_gen: issuedPinGen, accepted_pin_gen: acceptedPinGen } = account
    if (driver_id === null) return { ...base, state: 'in force', account: { issuedPinGen, acceptedPinGen } }
    const driver = await db
      .selectFrom('driver')
      .select('attributes')
      .where('id', '=', driver_id)
      .executeTakeFirstOrThrow()
    return {
      ...base,
      state: 'in force',
      banned: (await isBanned(db, { driver: driver_id }, now)) ? 'user' : undefined,
      account: { issuedPinGen, acceptedPinGen, attributes: attributesOf(driver.attributes) },
    }
  }

  async revocations(): Promise<Revocations> {
    await this.#ports.bans.liftExpired()
    // One transaction: the number must be that of exactly these bans.
    return this.#ports.store.db.transaction().execute(async tx => {
      const devices = await tx
        .selectFrom('ban')
        .innerJoin('identity', 'identity.device_id', 'ban.device_id')
        .select('identity.id_core')
        .where('ban.lifted_at', 'is', null)
        .where('identity.revoked_at', 'is', null)
        .orderBy('identity.id')
        .execute()
      const users = await tx
        .selectFrom('ban')
        .innerJoin('account', 'account.driver_id', 'ban.driver_id')
        .innerJoin('identity', 'identity.id', 'account.identity_id')
        .select(['identity.id_core', 'account.user_core'])
        .where('ban.lifted_at', 'is', null)
        .where('identity.revoked_at', 'is', null)
        .orderBy('account.id')
        .execute()
      const number = await lastNumber(tx)
      const counter = async (name: CounterTable['name']) => {
        const row = tx.selectFrom('counter').select('value').where('name', '=', name)
        return (await row.executeTakeFirstOrThrow()).value
      }
      const leftOutBefore = await counter('leaves left out before')
      const unnamedUntil = await counter('revoked not named until')
      const revoked = await tx
        .selectFrom('identity')
        .select(['id_core', 'revoked_at'])
        .where('revoked_at', 'is not', null)
        .orderBy('id')
        .execute()
      return {
        number,
        banned: [
          ...devices.map(({ id_core }) => ({ idCore: IdCore.decode(id_core) })),
          ...users.map(({ id_core, user_core }) => ({ idCore: IdCore.decode(id_core), userCore: user_core })),
        ],
        revoked: revoked.map(({ id_core, revoked_at }) => ({
          idCore: IdCore.decode(id_core),
          ...(number > unnamedUntil ? { since: revoked_at as number } : {}),
          keysEnded: (revoked_at as number) < leftOutBefore,
        })),
      }
    })
  }

  async happened(happenings: readonly Happening[]): Promise<readonly Happening[]> {
    const unknown: Happening[] = []
    await this.#ports.store.db.transaction().execute(async tx => {
      for (const happening of happenings) if (!(await this.#note(tx, happening))) unknown.push(happening)
    })
    this.#ports.hooks.wake()
    return unknown
  }

  /** False for an identity that nobody knows. */
  async #note(tx: Db, happening: Happening): Promise<boolean> {
    const { event, idCore, userCore, pinGen } = happening
    const now = this.#now()
    const found = await identityOf(tx, idCore)
    if (found === undefined) {
      await audit(tx, now, {
        actor: 'rps',
        action: event,
        subject: `identity ${idCore.mpinId}`,
        outcome: 'NOT_FOUND',
      })
      return false
    }
    const { identity, device } = found
    // Another server's clock doesn't make it later than it is, and what comes late was no later.
    const seen = Math.max(identity.seen_at ?? 0, Math.min(happening.at, now))
    await tx.updateTable('identity').set({ seen_at: seen }).where('id', '=', identity.id).execute()
    const account = await accountOf(tx, identity.id, userCore)
    if (account !== undefined) await this.#accountHappened(tx, account, event, pinGen)
    await this.#ports.hooks.record(tx, happening, device.kind === 'vehicle' ? device.id : undefined)
    await audit(tx, now, { actor: 'rps', action: event, subject: `device ${device.id}`, outcome: 'noted' })
    return true
  }

  /** Registrations that wait for an operator, the oldest first, at most LISTED. */
  async pending(): Promise<PendingApproval[]> {
    const { db } = this.#ports.store
    const rows = await db
      .selectFrom('enrolment')
      .leftJoin('identity', 'identity.id', 'enrolment.identity_id')
      .leftJoin('device', join =>
        join.on(on =>
          on.or([
            on('device.id', '=', on.ref('identity.device_id')),
            on('device.instance', '=', on.ref('enrolment.instance')),
          ]),
        ),
      )
      .leftJoin('identity as in_force', join =>
        join.onRef('in_force.device_id', '=', 'device.id').on('in_force.revoked_at', 'is', null),
      )
      .selectAll('enrolment')
      .select(['device.instance as device_instance', 'in_force.id as in_force_id'])
      .where('enrolment.state', '=', 'pending')
      .where('enrolment.expires_at', '>', this.#now())
      .orderBy('enrolment.id')
      .limit(LISTED)
      .execute()
    const notes = await notesOf(
      db,
      rows.map(({ digest }) => digest),
    )
    return rows.map(row => ({
      id: row.id,
      kind: row.kind as 'device' | 'user',
      words: this.#wordsOf(row),
      attributes: attributesOf(row.attributes),
      instance: row.instance ?? row.device_instance ?? '',
      known: row.device_instance !== null,
      enrolled: row.kind === 'device' && row.in_force_id !== null,
      createdAt: row.created_at,
      expiresAt: row.expires_at,
      ...noteOf(notes.get(toBase64Url(row.digest))),
    }))
  }

  async pendingCount(): Promise<number> {
    const { waiting } = await this.#ports.store.db
      .selectFrom('enrolment')
      .select(({ fn }) => fn.countAll<number>().as('waiting'))
      .where('state', '=', 'pending')
      .where('expires_at', '>', this.#now())
      .executeTakeFirstOrThrow()
    return waiting
  }

  /**
   * The operator has compared the words on the console with the ones on the device, and says which.
   * Refused NOT_APPROVED for other words, CONFLICT for a record that doesn't fit or a vehicle that has an identity in
   * force (unless `nextGeneration`), BANNED, REVOKED, EXPIRED.
   */
  approve(
    id: number,
    { words, nextGeneration, factors }: { words: string; nextGeneration?: boolean; factors?: Factors },
    actor: Actor,
  ): Promise<void> {
    return this.#change(async tx => {
      const now = this.#now()
      const row = await this.#waiting(tx, id, now)
      if (sameWords(words) !== this.#wordsOf(row))
        throw new Refused('NOT_APPROVED', { detail: 'these are not the words of this registration' })
      const attributes = attributesOf(row.attributes)
      if (row.kind === 'device') {
        const device = await this.#recordFor(tx, row, factors, now)
        if (nextGeneration !== true && (await identityInForce(tx, device.id)) !== undefined)
          throw new Refused('CONFLICT', {
            detail: 'the vehicle has an identity in force; approve it as the next generation to end that one',
          })
        const identity = await this.#newIdentity(tx, device, row.hpke_key, now)
        await this.#settle(tx, id, await deviceTerms(tx, device, identity), now)
      } else {
        const { identity, device } = await this.#inForce(tx, row.identity_id as number, now)
        const driver = await findOrAddDriver(tx, row.attributes, now)
        if (await isBanned(tx, { driver }, now)) throw new Refused('BANNED', { field: 'driver' })
        await assign(tx, device.id, driver, now)
        await replaceCodes(tx, device.id, driver)
        const account = await this.#nextPin(tx, identity, { driver, attributes }, now)
        await this.#settle(tx, id, { identity, account }, now)
      }
      await audit(tx, now, { actor, action: 'approve', subject: `enrolment ${id}`, outcome: 'approved' })
    })
  }

  refuse(id: number, actor: Actor): Promise<void> {
    return this.#change(async tx => {
      const now = this.#now()
      await this.#waiting(tx, id, now)
      await tx
        .updateTable('enrolment')
        .set({ state: 'refused', decided_at: now })
        .where('id', '=', id)
        .execute()
      await audit(tx, now, { actor, action: 'refuse', subject: `enrolment ${id}`, outcome: 'refused' })
    })
  }

  async #firstTime(tx: Db, registration: CheckedRegistration, now: number): Promise<EnrolmentRow> {
    switch (registration.kind) {
      case 'device':
        return this.#device(tx, registration, now)
      case 'user':
        return this.#user(tx, registration, now)
      case 'pin':
        return this.#pin(tx, registration, now)
    }
  }

  async #device(tx: Db, registration: DeviceRegistration, now: number): Promise<EnrolmentRow> {
    const { codeId, hpkeKey } = registration
    const instance = registration.instance.normalize('NFC')
    const attributes = attributesText(registration.attributes)
    if (codeId === null) {
      // An operator's device would look like any other to whoever approves it.
      if (instance.startsWith(OPERATOR_PREFIX))
        throw new Refused('NOT_APPROVED', { detail: 'operators enrol by code' })
      checkReadable('instance', instance)
      checkAttributes(registration.attributes)
      return this.#insert(tx, registration, { instance, attributes, state: 'pending' }, now)
    }
    const template = await templateOf(tx, codeId)
    if (template !== undefined) {
      const asked = { instance, attributes: registration.attributes, attributesText: attributes }
      const device = await takeApproval(tx, template, asked, now)
      const identity = await this.#newIdentity(tx, device, hpkeKey, now)
      const terms = await deviceTerms(tx, device, identity)
      const made = await this.#insert(
        tx,
        registration,
        { instance, attributes, state: 'approved', ...terms },
        now,
      )
      const actor = `template:${template.id}`
      await audit(tx, now, { actor, action: 'approve', subject: `enrolment ${made.id}`, outcome: 'approved' })
      return made
    }
    const code = await usableCode(tx, codeId, now)
    if (code.driver_id !== null) throw notForThis()
    const device = await deviceById(tx, code.device_id)
    if (device.instance !== instance || device.attributes !== attributes) throw notForThis()
    if (await isBanned(tx, { device: device.id }, now)) throw new Refused('BANNED', { field: 'instance' })
    await bindCode(tx, codeId, hpkeKey)
    const identity = await this.#newIdentity(tx, device, hpkeKey, now)
    if (identity.generation !== code.generation)
      throw new Refused('CONFLICT', { detail: 'the code is for another generation of this vehicle' })
    const terms = await deviceTerms(tx, device, identity)
    return this.#insert(tx, registration, { instance, attributes, state: 'approved', ...terms }, now)
  }

  async #user(tx: Db, registration: UserRegistration, now: number): Promise<EnrolmentRow> {
    const { codeId, hpkeKey } = registration
    const found = await identityOf(tx, registration.idCore)
    if (found === undefined)
      throw new Refused('NOT_APPROVED', { field: 'idCore', detail: 'unknown identity' })
    const { identity, device } = await this.#inForce(tx, found.identity.id, now)
    if (device.factors === 0 || device.own_pin === 1)
      throw new Refused('NOT_APPROVED', { field: 'idCore', detail: 'this device takes no drivers' })
    const attributes = attributesText(registration.attributes)
    if (codeId === null) {
      checkDriver(registration.attributes)
      return this.#insert(tx, registration, { attributes, state: 'pending', identity }, now)
    }
    const code = await usableCode(tx, codeId, now)
    if (code.device_id !== device.id || code.driver_id === null) throw notForThis()
    const driver = await tx
      .selectFrom('driver')
      .selectAll()
      .where('id', '=', code.driver_id)
      .executeTakeFirstOrThrow()
    if (driver.attributes !== attributes) throw notForThis()
    if (await isBanned(tx, { driver: driver.id }, now)) throw new Refused('BANNED', { field: 'attributes' })
    await bindCode(tx, codeId, hpkeKey)
    const account = await this.#nextPin(
      tx,
      identity,
      { driver: driver.id, attributes: registration.attributes },
      now,
    )
    return this.#insert(tx, registration, { attributes, state: 'approved', identity, account }, now)
  }

  async #pin(tx: Db, registration: PinRegistration, now: number): Promise<EnrolmentRow> {
    const found = await identityOf(tx, registration.idCore)
    if (found === undefined)
      throw new Refused('NOT_APPROVED', { field: 'idCore', detail: 'unknown identity' })
    const { identity } = await this.#inForce(tx, found.identity.id, now)
    const account = await accountOf(tx, identity.id, registration.userCore)
    if (account === undefined)
      throw new Refused('NOT_APPROVED', { field: 'userCore', detail: 'unknown user' })
    if (account.driver_id !== null && (await isBanned(tx, { driver: account.driver_id }, now)))
      throw new Refused('BANNED', { field: 'userCore' })
    if (registration.pinGen !== account.issued_pin_gen)
      throw new Refused('CONFLICT', { field: 'pinGen', detail: 'another PIN generation was issued since' })
    const next = await this.#raisePinGen(tx, identity, account, now)
    return this.#insert(
      tx,
      registration,
      { attributes: attributesText({}), state: 'approved', identity, account: next },
      now,
    )
  }

  /** What a registration that is known already comes to now. */
  async #answerOf(tx: Db, row: EnrolmentRow, now: number): Promise<Decision> {
    if (row.state === 'refused') return { state: 'refused' }
    if (row.expires_at <= now) return { state: 'expired' }
    if (row.state === 'pending') return { state: 'pending' }
    const { identity, device } = await this.#inForce(tx, row.identity_id as number, now)
    const account =
      row.account_id === null
        ? undefined
        : await tx
            .selectFrom('account')
            .selectAll()
            .where('id', '=', row.account_id)
            .executeTakeFirstOrThrow()
    if (account?.driver_id != null && (await isBanned(tx, { driver: account.driver_id }, now)))
      throw new Refused('BANNED', { field: 'attributes' })
    // A later generation was issued: keys for this one would never be accepted.
    if (account !== undefined && account.issued_pin_gen !== row.pin_gen) return { state: 'expired' }
    return this.#approval(row, identity, device, account)
  }

  #approval(
    row: EnrolmentRow,
    identity: IdentityRow,
    device: DeviceRow,
    account: AccountRow | undefined,
  ): Approval {
    const ownPin = account !== undefined && account.driver_id === null
    const forDevice = [...this.#ports.devicePurposes, ...(ownPin ? (['pin'] as const) : [])]
    return {
      state: 'approved',
      identity: {
        idCore: IdCore.decode(identity.id_core),
        leaf: identity.leaf,
        generation: identity.generation,
        factors: device.factors as Factors,
        issueDate: identity.issue_date,
        salt: identity.salt,
      },
      ...(account === undefined
        ? {}
        : {
            user: {
              userCore: account.user_core,
              salt: ownPin ? undefined : account.salt,
              pinGen: account.issued_pin_gen,
            },
          }),
      purposes: row.kind === 'device' ? forDevice : ['pin'],
      ticket: row.ticket === null ? undefined : (JSON.parse(row.ticket) as string[]),
    }
  }

  /** Ends the former generation in the same transaction: never are two identities of one device in force. */
  async #newIdentity(tx: Db, device: DeviceRow, hpkeKey: Uint8Array, now: number): Promise<IdentityRow> {
    const newest = await tx
      .selectFrom('identity')
      .select('generation')
      .where('device_id', '=', device.id)
      .orderBy('generation', 'desc')
      .executeTakeFirst()
    const generation = newest === undefined ? 0 : newest.generation + 1
    if (generation > LAST_GENERATION)
      throw new Refused('CONFLICT', { detail: 'this vehicle has had all its generations' })
    await revokeInForce(tx, device.id, now)
    const leaf = await this.#ports.nextLeaf(tx)
    const factors = device.factors as Factors
    const made = this.#ports.authority.newIdentity(
      { attributes: attributesOf(device.attributes), instance: device.instance, hpkeKey },
      { leaf, generation, factors },
    )
    const identity = await tx
      .insertInto('identity')
      .values({
        device_id: device.id,
        generation,
        leaf,
        id_core: made.idCore.bytes,
        salt: made.salt,
        issue_date: made.issueDate,
        issued_at: now,
        revoked_at: null,
        seen_at: null,
      })
      .returningAll()
      .executeTakeFirstOrThrow()
    if (device.own_pin === 1) {
      const own = await tx
        .insertInto('account')
        .values({
          identity_id: identity.id,
          driver_id: null,
          user_core: new Uint8Array(),
          salt: new Uint8Array(),
          issued_pin_gen: FIRST_PIN_GEN,
          accepted_pin_gen: 0,
          locked: 0,
        })
        .returningAll()
        .executeTakeFirstOrThrow()
      // An RPS that was restored would take it for one whose guesses it has forgotten, and lock out a new operator.
      await tellAccount(tx, identity, own, now)
    }
    await replaceCodes(tx, device.id, null)
    return identity
  }

  /** The driver's account on this identity with one PIN generation more; made if it isn't there. */
  async #nextPin(
    tx: Db,
    identity: IdentityRow,
    { driver, attributes }: { driver: number; attributes: Readonly<Record<string, string>> },
    now: number,
  ): Promise<AccountRow> {
    const account = await tx
      .selectFrom('account')
      .selectAll()
      .where('driver_id', '=', driver)
      .where('identity_id', '=', identity.id)
      .executeTakeFirst()
    if (account !== undefined) return this.#raisePinGen(tx, identity, account, now)
    const { userCore, salt } = this.#ports.authority.newUser(attributes)
    const made = await tx
      .insertInto('account')
      .values({
        identity_id: identity.id,
        driver_id: driver,
        user_core: userCore,
        salt,
        issued_pin_gen: FIRST_PIN_GEN,
        accepted_pin_gen: 0,
        locked: 0,
      })
      .returningAll()
      .executeTakeFirstOrThrow()
    await tellAccount(tx, identity, made, now)
    return made
  }

  async #raisePinGen(tx: Db, identity: IdentityRow, account: AccountRow, now: number): Promise<AccountRow> {
    const raised = await tx
      .updateTable('account')
      .set({ issued_pin_gen: account.issued_pin_gen + 1 })
      .where('id', '=', account.id)
      .returningAll()
      .executeTakeFirstOrThrow()
    await tellAccount(tx, identity, raised, now)
    return raised
  }

  async #insert(
    tx: Db,
    registration: CheckedRegistration,
    terms: {
      attributes: string
      state: 'pending' | 'approved'
      instance?: string
      identity?: IdentityRow
      account?: AccountRow | undefined
    },
    now: number,
  ): Promise<EnrolmentRow> {
    const { pendingLimit, lifetime } = this.#ports
    if (terms.state === 'pending') await checkPending(tx, pendingLimit, terms, now)
    const { kind, digest, hpkeKey } = registration
    const { state, attributes, instance, identity, account } = terms
    return tx
      .insertInto('enrolment')
      .values({
        kind,
        digest,
        hpke_key: hpkeKey,
        nonce: 'nonce' in registration ? registration.nonce : new Uint8Array(),
        instance: instance ?? null,
        attributes,
        identity_id: identity?.id ?? null,
        account_id: account?.id ?? null,
        pin_gen: account?.issued_pin_gen ?? null,
        state,
        created_at: now,
        expires_at: now + lifetime,
        decided_at: state === 'pending' ? null : now,
        ticket: null,
      })
      .returningAll()
      .executeTakeFirstOrThrow()
  }

  async #settle(
    tx: Db,
    id: number,
    { identity, account }: { identity: IdentityRow; account: AccountRow | undefined },
    now: number,
  ): Promise<void> {
    await tx
      .updateTable('enrolment')
      .set({
        state: 'approved',
        identity_id: identity.id,
        account_id: account?.id ?? null,
        pin_gen: account?.issued_pin_gen ?? null,
        decided_at: now,
        expires_at: now + this.#ports.lifetime,
      })
      .where('id', '=', id)
      .execute()
  }

  async #waiting(tx: Db, id: number, now: number): Promise<EnrolmentRow> {
    const row = await tx.selectFrom('enrolment').selectAll().where('id', '=', id).executeTakeFirst()
    if (row === undefined) throw new Refused('NOT_FOUND', { detail: 'no registration has that number' })
    if (row.state !== 'pending') throw new Refused('CONFLICT', { detail: `it is ${row.state} already` })
    if (row.expires_at <= now) throw new Refused('EXPIRED', { detail: 'the registration has run out' })
    return row
  }

  /** The vehicle's record; made when nobody has registered this instance. */
  async #recordFor(tx: Db, row: EnrolmentRow, factors: Factors | undefined, now: number): Promise<DeviceRow> {
    const instance = row.instance as string
    const device = await tx
      .selectFrom('device')
      .selectAll()
      .where('instance', '=', instance)
      .executeTakeFirst()
    if (device === undefined)
      return tx
        .insertInto('device')
        .values({
          kind: 'vehicle',
          instance,
          attributes: row.attributes,
          factors: factors ?? DEFAULT_FACTORS,
          own_pin: 0,
          created_at: now,
        })
        .returningAll()
        .executeTakeFirstOrThrow()
    if (device.attributes !== row.attributes)
      throw new Refused('CONFLICT', {
        detail: 'the vehicle of this VIN has other attributes in the register',
      })
    if (factors !== undefined && factors !== device.factors)
      throw new Refused('CONFLICT', { detail: 'the vehicle of this VIN has other factors in the register' })
    if (await isBanned(tx, { device: device.id }, now)) throw new Refused('BANNED', { field: 'instance' })
    return device
  }

  async #inForce(tx: Db, id: number, now: number): Promise<{ identity: IdentityRow; device: DeviceRow }> {
    const identity = await tx
      .selectFrom('identity')
      .selectAll()
      .where('id', '=', id)
      .executeTakeFirstOrThrow()
    if (identity.revoked_at !== null) throw new Refused('REVOKED', { field: 'idCore' })
    const device = await deviceById(tx, identity.device_id)
    if (await isBanned(tx, { device: device.id }, now)) throw new Refused('BANNED', { field: 'idCore' })
    return { identity, device }
  }

  async #accountHappened(
    tx: Db,
    account: AccountRow,
    event: Happening['event'],
    pinGen: number | undefined,
  ): Promise<void> {
    if (event === 'wrong-pin') return
    // A generation that was never issued can't have logged in; an older one than the accepted one is over.
    const login = event === 'login' && pinGen !== undefined && pinGen <= account.issued_pin_gen
    const accepted = login ? Math.max(account.accepted_pin_gen, pinGen) : account.accepted_pin_gen
    if (event === 'login' && !login) return
    await tx
      .updateTable('account')
      .set({ accepted_pin_gen: accepted, locked: event === 'locked' ? 1 : 0 })
      .where('id', '=', account.id)
      .execute()
  }

  #wordsOf(row: Pick<EnrolmentRow, 'attributes' | 'hpke_key' | 'nonce'>): string {
    const { attributes, hpke_key: hpkeKey, nonce } = row
    return this.#ports.authority.words({ attributes: attributesOf(attributes), hpkeKey, nonce })
  }

  async #change<Result>(work: (tx: Db) => Promise<Result>): Promise<Result> {
    const result = await this.#ports.store.db.transaction().execute(work)
    this.#ports.wake()
    return result
  }

  #now(): number {
    return Math.floor(this.#ports.clock() / 1000)
  }
}

/** Ends the identity in force for good, if there is one, and tells the RPS. */
export async function revokeInForce(tx: Db, device: number, now: number): Promise<boolean> {
  const identity = await identityInForce(tx, device)
  if (identity === undefined) return false
  await tx.updateTable('identity').set({ revoked_at: now }).where('id', '=', identity.id).execute()
  await recordEvent(tx, now, { kind: 'revoke', idCore: IdCore.decode(identity.id_core) })
  return true
}

export function identityInForce(db: Db, device: number): Promise<IdentityRow | undefined> {
  return db
    .selectFrom('identity')
    .selectAll()
    .where('device_id', '=', device)
    .where('revoked_at', 'is', null)
    .executeTakeFirst()
}

/** A driver of exactly these attributes (attributesText). */
export async function findOrAddDriver(tx: Db, attributes: string, now: number): Promise<number> {
  const known = await tx
    .selectFrom('driver')
    .select('id')
    .where('attributes', '=', attributes)
    .executeTakeFirst()
  if (known !== undefined) return known.id
  const { id } = await tx
    .insertInto('driver')
    .values({ attributes, created_at: now })
    .returning('id')
    .executeTakeFirstOrThrow()
  return id
}

export async function assign(tx: Db, device: number, driver: number, now: number): Promise<void> {
  await tx
    .insertInto('assignment')
    .values({ device_id: device, driver_id: driver, created_at: now })
    .onConflict(conflict => conflict.doNothing())
    .execute()
}

async function identityOf(
  db: Db,
  idCore: IdCore,
): Promise<{ identity: IdentityRow; device: DeviceRow } | undefined> {
  const identity = await db
    .selectFrom('identity')
    .selectAll()
    .where('id_core', '=', idCore.bytes)
    .executeTakeFirst()
  if (identity === undefined) return undefined
  return { identity, device: await deviceById(db, identity.device_id) }
}

function accountOf(db: Db, identity: number, userCore: Uint8Array): Promise<AccountRow | undefined> {
  return db
    .selectFrom('account')
    .selectAll()
    .where('identity_id', '=', identity)
    .where('user_core', '=', userCore)
    .executeTakeFirst()
}

function deviceById(db: Db, id: number): Promise<DeviceRow> {
  return db.selectFrom('device').selectAll().where('id', '=', id).executeTakeFirstOrThrow()
}

async function deviceTerms(
  tx: Db,
  device: DeviceRow,
  identity: IdentityRow,
): Promise<{ identity: IdentityRow; account: AccountRow | undefined }> {
  const account = device.own_pin === 1 ? await accountOf(tx, identity.id, new Uint8Array()) : undefined
  return { identity, account }
}

/** The MAC has been checked: whoever asks holds the code. */
async function usableCode(tx: Db, codeId: Uint8Array, now: number): Promise<Selectable<CodeTable>> {
  const code = await tx.selectFrom('code').selectAll().where('code_id', '=', codeId).executeTakeFirst()
  // A template's, for something that a template approves nothing of; or deleted since its MAC was checked.
  if (code === undefined) throw notForThis()
  // A registration by the key that used it would have been known by now.
  if (code.used_by !== null)
    throw new Refused('CONFLICT', { detail: 'the enrolment code was used with another key' })
  if (code.replaced === 1) throw new Refused('NOT_APPROVED', { detail: 'the enrolment code was replaced' })
  if (code.expires_at <= now) throw new Refused('EXPIRED', { detail: 'the enrolment code has run out' })
  return code
}

async function bindCode(tx: Db, codeId: Uint8Array, hpkeKey: Uint8Array): Promise<void> {
  await tx.updateTable('code').set({ used_by: hpkeKey }).where('code_id', '=', codeId).execute()
}

/**
 * Anybody can ask for an unknown instance, so those have a budget of their own: a flood of them keeps no vehicle of
 * the register, and no driver on an enrolled one, from asking.
 */
async function checkPending(
  tx: Db,
  limit: number,
  { instance, identity }: { instance?: string; identity?: IdentityRow },
  now: number,
): Promise<void> {
  const waiting = tx
    .selectFrom('enrolment')
    .select(({ fn }) => fn.countAll<number>().as('count'))
    .where('state', '=', 'pending')
    .where('expires_at', '>', now)
  const known =
    identity === undefined
      ? await tx
          .selectFrom('device')
          .select('instance')
          .where('instance', '=', instance ?? '')
          .executeTakeFirst()
      : undefined
  const [query, most] =
    identity !== undefined
      ? [waiting.where('identity_id', '=', identity.id), PENDING_OF_ONE]
      : known !== undefined
        ? [waiting.where('instance', '=', known.instance), PENDING_OF_ONE]
        : [
            waiting
              .where('kind', '=', 'device')
              .where('instance', 'not in', tx.selectFrom('device').select('device.instance')),
            limit,
          ]
  const { count } = await query.executeTakeFirstOrThrow()
  if (count >= most)
    throw new Refused('RETRY_LATER', {
      detail: 'too many registrations wait for an operator',
      retryAfter: 60,
    })
}

/**
 * Deletes what ran out: tickets that nobody can ask for any more at once; codes (with their secrets) and registrations
 * without an approval once nobody needs to be told that they ran out. An approved registration stays for ever, so that
 * its key never makes a second one.
 */
export async function forgetExpired(db: Db, now: number): Promise<void> {
  await db
    .updateTable('enrolment')
    .set({ ticket: null })
    .where('ticket', 'is not', null)
    .where('expires_at', '<=', now)
    .execute()
  await db
    .deleteFrom('code')
    .where('expires_at', '<', now - EXPIRED_KEPT)
    .execute()
  await db
    .deleteFrom('enrolment')
    .where('state', 'in', ['pending', 'refused'])
    .where('expires_at', '<', now - EXPIRED_KEPT)
    .execute()
}

async function tellAccount(tx: Db, identity: IdentityRow, account: AccountRow, now: number): Promise<void> {
  await recordEvent(tx, now, {
    kind: 'account',
    idCore: IdCore.decode(identity.id_core),
    userCore: account.user_core,
    pinGen: account.issued_pin_gen,
  })
}

function noteOf(note: string | undefined): { note?: string } {
  return note === undefined ? {} : { note }
}

/** Any case, any space between. */
function sameWords(text: string): string {
  return text.trim().toLowerCase().split(/\s+/).join(' ')
}

function notForThis(): Refused {
  return new Refused('NOT_APPROVED', { detail: 'the enrolment code is for something else' })
}
