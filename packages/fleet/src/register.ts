/**
 * The operators' side of the register: vehicles, their drivers, and the codes by which both enrol.
 *
 *   add → code → (device enrols) → next generation → code → (device enrols again, the former identity ends)
 *                                → revoke → (ends at once) → code
 *   assign driver → code → (driver enrols) → PIN reset → code → (next pinGen)
 */
import { Refused } from '@milagro-ts/api/problem'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import type { Attributes } from '@milagro-ts/crypto/identity'
import { IdCore } from '@milagro-ts/crypto/identity'
import type { Clock } from '@milagro-ts/crypto/ports'
import type { Store } from '@milagro-ts/store/database'
import type { Kysely, Selectable } from '@milagro-ts/store/kysely'
import { type Actor, audit } from './audit.js'
import type { Codes, IssuedCode } from './codes.js'
import { assign, findOrAddDriver, identityInForce, revokeInForce } from './enrolments.js'
import { recordEvent } from './events.js'
import type { DeviceTable, FleetSchema, IdentityTable } from './schema.js'
import { attributesOf, attributesText, type NewVehicle } from './vehicle.js'

type Db = Kysely<FleetSchema>
type DeviceRow = Selectable<DeviceTable>

/** Rows of one INSERT: SQLite takes 32 766 parameters at most. */
const INSERT_ROWS = 500

export interface DeviceView {
  readonly id: number
  readonly instance: string
  readonly attributes: Attributes
  readonly factors: number
  /** `invited`: a code is out; `enrolled`: an identity is in force; `revoked`: there was one. */
  readonly state: 'registered' | 'invited' | 'enrolled' | 'revoked'
  readonly idCore?: string
  readonly leaf?: number
  readonly generation?: number
  readonly enrolledAt?: number
  readonly seenAt?: number
  readonly codeExpiresAt?: number
  readonly ban?: BanView
}
export interface BanView {
  readonly id: number
  readonly reason: string
  readonly since: number
  readonly expiresAt?: number
}
export interface DriverView {
  readonly id: number
  readonly attributes: Attributes
  readonly ban?: BanView
}
/** A driver on one vehicle. */
export interface AssignedDriverView extends DriverView {
  /** Once enrolled on the identity in force. */
  readonly userCore?: string
  readonly issuedPinGen: number
  readonly acceptedPinGen: number
  readonly locked: boolean
  readonly codeExpiresAt?: number
}
export interface Filter {
  readonly kind: DeviceTable['kind']
  readonly instance?: string | undefined
  readonly state?: DeviceView['state'] | undefined
  /** Only devices with a higher id. */
  readonly after?: number | undefined
  readonly limit: number
}

export interface RegisterPorts {
  readonly store: Store<FleetSchema>
  readonly codes: Codes
  readonly clock: Clock
  readonly wake: () => void
}

export class Register {
  readonly #ports: RegisterPorts

  constructor(ports: RegisterPorts) {
    this.#ports = ports
  }

  /** Refused CONFLICT when the instance is there already. */
  add(
    device: NewVehicle & { readonly kind: DeviceTable['kind']; readonly ownPin: boolean },
    { withCode }: { withCode: boolean },
    actor: Actor,
  ): Promise<{ id: number; code?: IssuedCode }> {
    return this.#change(async tx => {
      const now = this.#now()
      const [row] = await insertDevices(tx, [device], now)
      if (row === undefined)
        throw new Refused('CONFLICT', { field: 'instance', detail: 'it is registered already' })
      const { id } = row
      await audit(tx, now, { actor, action: `add ${device.kind}`, subject: `device ${id}`, outcome: 'done' })
      if (!withCode) return { id }
      return { id, code: await this.#ports.codes.issue(tx, { device: id, generation: 0 }, now) }
    })
  }

  /** All or none. Refused CONFLICT names the lines whose VIN is registered already. */
  import(
    rows: readonly (NewVehicle & { readonly line: number })[],
    actor: Actor,
  ): Promise<(IssuedCode & { readonly instance: string })[]> {
    return this.#change(async tx => {
      const now = this.#now()
      const devices = rows.map(row => ({ ...row, kind: 'vehicle' as const, ownPin: false }))
      const inserted = await insertDevices(tx, devices, now)
      if (inserted.length < rows.length) {
        const added = new Set(inserted.map(({ instance }) => instance))
        const lines = rows.filter(({ instance }) => !added.has(instance)).map(({ line }) => line)
        const shown = lines.slice(0, 20).join(', ')
        const more = lines.length > 20 ? ` and ${lines.length - 20} more` : ''
        throw new Refused('CONFLICT', { field: 'csv', detail: `registered already: line ${shown}${more}` })
      }
      const made = inserted.map(({ id, instance }) => ({
        instance,
        ...this.#ports.codes.make({ device: id, generation: 0 }, now),
      }))
      for (let at = 0; at < made.length; at += INSERT_ROWS) {
        const part = made.slice(at, at + INSERT_ROWS).map(({ row }) => row)
        await tx.insertInto('code').values(part).execute()
      }
      await audit(tx, now, { actor, action: 'import', subject: `${rows.length} vehicles`, outcome: 'done' })
      return made.map(({ instance, issued }) => ({ instance, ...issued }))
    })
  }

  async list(filter: Filter): Promise<DeviceView[]> {
    let query = deviceViews(this.#ports.store.db, this.#now())
      .where('device.kind', '=', filter.kind)
      .orderBy('device.id')
      .limit(filter.limit)
    if (filter.instance !== undefined)
      query = query.where('device.instance', '=', filter.instance.normalize('NFC'))
    if (filter.after !== undefined) query = query.where('device.id', '>', filter.after)
    switch (filter.state) {
      case undefined:
        break
      case 'enrolled':
        query = query.where('identity.id', 'is not', null).where('identity.revoked_at', 'is', null)
        break
      case 'revoked':
        query = query.where('identity.revoked_at', 'is not', null).where('code.code_id', 'is', null)
        break
      case 'invited':
        query = query
          .where('code.code_id', 'is not', null)
          .where(on => on.or([on('identity.id', 'is', null), on('identity.revoked_at', 'is not', null)]))
        break
      case 'registered':
        query = query.where('identity.id', 'is', null).where('code.code_id', 'is', null)
    }
    return (await query.execute()).map(viewOf)
  }

  /** Identities of vehicles that are in force, banned ones too, by the order of their bytes: at most `limit` after `after`. */
  async inForce(after: Uint8Array | undefined, limit: number): Promise<Uint8Array[]> {
    let query = this.#ports.store.db
      .selectFrom('identity')
      .innerJoin('device', 'device.id', 'identity.device_id')
      .select('identity.id_core')
      .where('device.kind', '=', 'vehicle')
      .where('identity.revoked_at', 'is', null)
      .orderBy('identity.id_core')
      .limit(limit)
    if (after !== undefined) query = query.where('identity.id_core', '>', after)
    return (await query.execute()).map(row => new Uint8Array(row.id_core))
  }

  /** Refused NOT_FOUND. */
  async one(kind: DeviceTable['kind'], id: number): Promise<DeviceView & { drivers: AssignedDriverView[] }> {
    const { db } = this.#ports.store
    const row = await deviceViews(db, this.#now())
      .where('device.kind', '=', kind)
      .where('device.id', '=', id)
      .executeTakeFirst()
    if (row === undefined) throw new Refused('NOT_FOUND', { detail: `no ${kind} has that number` })
    return { ...viewOf(row), drivers: await assignedDrivers(db, id, this.#now()) }
  }

  /** For a device without an identity in force: its first code, or another instead of one that was lost. */
  deviceCode(kind: DeviceTable['kind'], id: number, actor: Actor): Promise<IssuedCode> {
    return this.#change(async tx => {
      const device = await deviceOf(tx, kind, id)
      if ((await identityInForce(tx, device.id)) !== undefined)
        throw new Refused('CONFLICT', { detail: 'it is enrolled; a new device is the next generation' })
      return this.#deviceCode(tx, device, 'code', actor)
    })
  }

  /** For an enrolled device that is to enrol again: the identity in force ends when the next one is approved. */
  nextGeneration(kind: DeviceTable['kind'], id: number, actor: Actor): Promise<IssuedCode> {
    return this.#change(async tx => {
      const device = await deviceOf(tx, kind, id)
      if ((await identityInForce(tx, device.id)) === undefined)
        throw new Refused('CONFLICT', { detail: 'it has no identity in force' })
      return this.#deviceCode(tx, device, 'next generation', actor)
    })
  }

  /** The identity in force ends now and for good; codes that are out are worth nothing any more. */
  revoke(kind: DeviceTable['kind'], id: number, actor: Actor): Promise<void> {
    return this.#change(async tx => {
      const now = this.#now()
      const device = await deviceOf(tx, kind, id)
      if (!(await revokeInForce(tx, device.id, now)))
        throw new Refused('CONFLICT', { detail: 'it has no identity in force' })
      await tx
        .updateTable('code')
        .set({ replaced: 1 })
        .where('device_id', '=', device.id)
        .where('used_by', 'is', null)
        .execute()
      await audit(tx, now, { actor, action: 'revoke', subject: `device ${id}`, outcome: 'done' })
    })
  }

  /** The RPS forgets the wrong PINs in a row. Without a driver: of the device's own PIN. */
  unlock(
    kind: DeviceTable['kind'],
    { id, driver }: { id: number; driver?: number | undefined },
    actor: Actor,
  ): Promise<number> {
    return this.#change(async tx => {
      const now = this.#now()
      const device = await deviceOf(tx, kind, id)
      const identity = await identityInForce(tx, device.id)
      if (identity === undefined) throw new Refused('CONFLICT', { detail: 'it has no identity in force' })
      const account = await tx
        .selectFrom('account')
        .selectAll()
        .where('identity_id', '=', identity.id)
        .where('driver_id', driver === undefined ? 'is' : '=', driver ?? null)
        .executeTakeFirst()
      if (account === undefined) throw new Refused('NOT_FOUND', { detail: 'nobody to unlock there' })
      await tx.updateTable('account').set({ locked: 0 }).where('id', '=', account.id).execute()
      const number = await recordEvent(tx, now, {
        kind: 'unlock',
        idCore: IdCore.decode(identity.id_core),
        userCore: account.user_core,
        pinGen: account.issued_pin_gen,
      })
      const subject = driver === undefined ? `device ${id}` : `driver ${driver} on device ${id}`
      await audit(tx, now, { actor, action: 'unlock', subject, outcome: 'done' })
      return number
    })
  }

  /** Refused CONFLICT when a driver of exactly these attributes is there already. */
  addDriver(attributes: Attributes, actor: Actor): Promise<number> {
    return this.#change(async tx => {
      const now = this.#now()
      const text = attributesText(attributes)
      const known = await tx
        .selectFrom('driver')
        .select('id')
        .where('attributes', '=', text)
        .executeTakeFirst()
      if (known !== undefined)
        throw new Refused('CONFLICT', { field: 'attributes', detail: `this is driver ${known.id}` })
      const id = await findOrAddDriver(tx, text, now)
      await audit(tx, now, { actor, action: 'add driver', subject: `driver ${id}`, outcome: 'done' })
      return id
    })
  }

  /** Refused NOT_FOUND. */
  async driver(id: number): Promise<void> {
    await knownDriver(this.#ports.store.db, id)
  }

  async drivers({ after, limit }: { after?: number | undefined; limit: number }): Promise<DriverView[]> {
    let query = this.#ports.store.db
      .selectFrom('driver')
      .leftJoin('ban', join => join.onRef('ban.driver_id', '=', 'driver.id').on('ban.lifted_at', 'is', null))
      .select(['driver.id', 'driver.attributes', ...BAN_COLUMNS])
      .orderBy('driver.id')
      .limit(limit)
    if (after !== undefined) query = query.where('driver.id', '>', after)
    return (await query.execute()).map(row => ({
      id: row.id,
      attributes: attributesOf(row.attributes),
      ...banView(row),
    }))
  }

  /** Puts a known or a new driver on a vehicle. Refused CONFLICT when the driver is enrolled there. */
  assignDriver(
    vehicle: number,
    who: { readonly driver: number } | { readonly attributes: Attributes },
    actor: Actor,
  ): Promise<{ driver: number; code: IssuedCode }> {
    return this.#change(async tx => {
      const now = this.#now()
      const device = await vehicleWithDrivers(tx, vehicle)
      const driver =
        'driver' in who
          ? await knownDriver(tx, who.driver)
          : await findOrAddDriver(tx, attributesText(who.attributes), now)
      await assign(tx, device.id, driver, now)
      return { driver, code: await this.#driverCode(tx, device, driver, 'first', actor) }
    })
  }

  /** A driver's first code again, or (`reset`) the code for the next pinGen of a driver who forgot the PIN. */
  driverCode(vehicle: number, driver: number, what: 'first' | 'reset', actor: Actor): Promise<IssuedCode> {
    return this.#change(async tx => {
      const device = await vehicleWithDrivers(tx, vehicle)
      const assigned = await tx
        .selectFrom('assignment')
        .select('driver_id')
        .where('device_id', '=', device.id)
        .where('driver_id', '=', driver)
        .executeTakeFirst()
      if (assigned === undefined)
        throw new Refused('NOT_FOUND', { detail: 'that driver is not on that vehicle' })
      return this.#driverCode(tx, device, driver, what, actor)
    })
  }

  async #driverCode(
    tx: Db,
    device: DeviceRow,
    driver: number,
    what: 'first' | 'reset',
    actor: Actor,
  ): Promise<IssuedCode> {
    const now = this.#now()
    const account = await tx
      .selectFrom('account')
      .innerJoin('identity', 'identity.id', 'account.identity_id')
      .select('account.id')
      .where('account.driver_id', '=', driver)
      .where('identity.device_id', '=', device.id)
      .where('identity.revoked_at', 'is', null)
      .executeTakeFirst()
    if (what === 'first' && account !== undefined)
      throw new Refused('CONFLICT', {
        detail: 'the driver is enrolled there; a forgotten PIN is a PIN reset',
      })
    if (what === 'reset' && account === undefined)
      throw new Refused('CONFLICT', { detail: 'the driver has no PIN there yet' })
    const action = what === 'first' ? 'driver code' : 'PIN reset'
    const subject = `driver ${driver} on device ${device.id}`
    await audit(tx, now, { actor, action, subject, outcome: 'done' })
    return this.#ports.codes.issue(tx, { device: device.id, driver }, now)
  }

  async #deviceCode(tx: Db, device: DeviceRow, action: string, actor: Actor): Promise<IssuedCode> {
    const now = this.#now()
    const newest = await tx
      .selectFrom('identity')
      .select('generation')
      .where('device_id', '=', device.id)
      .orderBy('generation', 'desc')
      .executeTakeFirst()
    const generation = newest === undefined ? 0 : newest.generation + 1
    await audit(tx, now, { actor, action, subject: `device ${device.id}`, outcome: 'done' })
    return this.#ports.codes.issue(tx, { device: device.id, generation }, now)
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

/** The rows that were inserted, in order; one whose instance is there already is left out. */
async function insertDevices(
  tx: Db,
  devices: readonly (NewVehicle & { readonly kind: DeviceTable['kind']; readonly ownPin: boolean })[],
  now: number,
): Promise<{ id: number; instance: string }[]> {
  const inserted: { id: number; instance: string }[] = []
  for (let at = 0; at < devices.length; at += INSERT_ROWS) {
    const values = devices
      .slice(at, at + INSERT_ROWS)
      .map(({ kind, instance, attributes, factors, ownPin }) => ({
        kind,
        instance: instance.normalize('NFC'),
        attributes: attributesText(attributes),
        factors,
        own_pin: ownPin ? (1 as const) : (0 as const),
        created_at: now,
      }))
    const rows = await tx
      .insertInto('device')
      .values(values)
      .onConflict(conflict => conflict.column('instance').doNothing())
      .returning(['id', 'instance'])
      .execute()
    inserted.push(...rows)
  }
  return inserted
}

async function deviceOf(db: Db, kind: DeviceTable['kind'], id: number): Promise<DeviceRow> {
  const device = await db
    .selectFrom('device')
    .selectAll()
    .where('id', '=', id)
    .where('kind', '=', kind)
    .executeTakeFirst()
  if (device === undefined) throw new Refused('NOT_FOUND')
  return device
}

async function vehicleWithDrivers(db: Db, id: number): Promise<DeviceRow> {
  const device = await deviceOf(db, 'vehicle', id)
  if (device.factors === 0)
    throw new Refused('CONFLICT', { detail: 'this vehicle takes no drivers (factors 0)' })
  return device
}

async function knownDriver(db: Db, id: number): Promise<number> {
  const driver = await db.selectFrom('driver').select('id').where('id', '=', id).executeTakeFirst()
  if (driver === undefined) throw new Refused('NOT_FOUND', { field: 'driver' })
  return driver.id
}

const BAN_COLUMNS = [
  'ban.id as ban_id',
  'ban.reason as ban_reason',
  'ban.since as ban_since',
  'ban.expires_at as ban_expires_at',
] as const

interface BanColumns {
  readonly ban_id: number | null
  readonly ban_reason: string | null
  readonly ban_since: number | null
  readonly ban_expires_at: number | null
}

/** Each device with its newest identity, its usable code and its ban, where there are such. */
function deviceViews(db: Db, now: number) {
  return db
    .selectFrom('device')
    .leftJoin('identity', join =>
      join.onRef('identity.device_id', '=', 'device.id').on('identity.generation', '=', on =>
        on
          .selectFrom('identity as newest')
          .select(({ fn }) => fn.max('newest.generation').as('generation'))
          .whereRef('newest.device_id', '=', 'device.id'),
      ),
    )
    .leftJoin('code', join =>
      join
        .onRef('code.device_id', '=', 'device.id')
        .on('code.driver_id', 'is', null)
        .on('code.used_by', 'is', null)
        .on('code.replaced', '=', 0)
        .on('code.expires_at', '>', now),
    )
    .leftJoin('ban', join => join.onRef('ban.device_id', '=', 'device.id').on('ban.lifted_at', 'is', null))
    .select([
      'device.id',
      'device.instance',
      'device.attributes',
      'device.factors',
      'identity.id_core',
      'identity.leaf',
      'identity.generation',
      'identity.issued_at',
      'identity.seen_at',
      'identity.revoked_at',
      'code.expires_at as code_expires_at',
      ...BAN_COLUMNS,
    ])
}

function viewOf(
  row: Pick<DeviceRow, 'id' | 'instance' | 'attributes' | 'factors'> & {
    [K in 'id_core' | 'leaf' | 'generation' | 'issued_at' | 'seen_at' | 'revoked_at']:
      | Selectable<IdentityTable>[K]
      | null
  } & { code_expires_at: number | null } & BanColumns,
): DeviceView {
  const enrolled = row.id_core !== null && row.revoked_at === null
  const invited = row.code_expires_at !== null
  return {
    id: row.id,
    instance: row.instance,
    attributes: attributesOf(row.attributes),
    factors: row.factors,
    state: enrolled ? 'enrolled' : invited ? 'invited' : row.id_core === null ? 'registered' : 'revoked',
    ...(row.id_core === null ? {} : { idCore: IdCore.decode(row.id_core).mpinId }),
    ...(row.leaf === null ? {} : { leaf: row.leaf }),
    ...(row.generation === null ? {} : { generation: row.generation }),
    ...(row.issued_at === null ? {} : { enrolledAt: row.issued_at }),
    ...(row.seen_at === null ? {} : { seenAt: row.seen_at }),
    ...(row.code_expires_at === null ? {} : { codeExpiresAt: row.code_expires_at }),
    ...banView(row),
  }
}

function banView(row: BanColumns): { ban?: BanView } {
  if (row.ban_id === null || row.ban_reason === null || row.ban_since === null) return {}
  const { ban_id: id, ban_reason: reason, ban_since: since, ban_expires_at: expiresAt } = row
  return { ban: { id, reason, since, ...(expiresAt === null ? {} : { expiresAt }) } }
}

async function assignedDrivers(db: Db, device: number, now: number): Promise<AssignedDriverView[]> {
  const rows = await db
    .selectFrom('assignment')
    .innerJoin('driver', 'driver.id', 'assignment.driver_id')
    .leftJoin('identity', join =>
      join.onRef('identity.device_id', '=', 'assignment.device_id').on('identity.revoked_at', 'is', null),
    )
    .leftJoin('account', join =>
      join
        .onRef('account.identity_id', '=', 'identity.id')
        .onRef('account.driver_id', '=', 'assignment.driver_id'),
    )
    .leftJoin('code', join =>
      join
        .onRef('code.device_id', '=', 'assignment.device_id')
        .onRef('code.driver_id', '=', 'assignment.driver_id')
        .on('code.used_by', 'is', null)
        .on('code.replaced', '=', 0)
        .on('code.expires_at', '>', now),
    )
    .leftJoin('ban', join => join.onRef('ban.driver_id', '=', 'driver.id').on('ban.lifted_at', 'is', null))
    .select([
      'driver.id',
      'driver.attributes',
      'account.user_core',
      'account.issued_pin_gen',
      'account.accepted_pin_gen',
      'account.locked',
      'code.expires_at as code_expires_at',
      ...BAN_COLUMNS,
    ])
    .where('assignment.device_id', '=', device)
    .orderBy('driver.id')
    .execute()
  return rows.map(row => ({
    id: row.id,
    attributes: attributesOf(row.attributes),
    ...(row.user_core === null ? {} : { userCore: toBase64Url(row.user_core) }),
    issuedPinGen: row.issued_pin_gen ?? 0,
    acceptedPinGen: row.accepted_pin_gen ?? 0,
    locked: row.locked === 1,
    ...(row.code_expires_at === null ? {} : { codeExpiresAt: row.code_expires_at }),
    ...banView(row),
  }))
}
