/**
 * Enrolment templates: a pattern of attributes and instances, a code of the template's own, a count and an expiry.
 * A registration whose MAC holds under the template's code, and which the pattern covers, is approved by itself.
 *
 *   made  →  approves, one by one, until the count is used up  →  (used up)
 *         →  ended by an operator    →  expired                    new code: the former one is worth nothing any more
 *
 * The code comes first (protocols.md §3: a template decides after code or words, never instead): it authenticates the
 * device's enrolment key, and only then is the pattern looked at. One code for many devices proves less than a code of
 * each device's own: whoever holds it can enrol as any vehicle that the pattern covers and that is still free. So a
 * template ends no identity, takes no vehicle that has (or had) an identity or a code of its own, and can't exceed its
 * count. A count is taken in the transaction of the approval: never are more approved than it says.
 */
import { Refused } from '@milagro-ts/api/problem'
import { toHex } from '@milagro-ts/crypto/bytes'
import { codeId, encodeEnrolmentCode } from '@milagro-ts/crypto/enrolment'
import type { Attributes, Factors } from '@milagro-ts/crypto/identity'
import type { Clock, Random } from '@milagro-ts/crypto/ports'
import type { Store } from '@milagro-ts/store/database'
import type { Kysely, Selectable } from '@milagro-ts/store/kysely'
import { type Actor, audit } from './audit.js'
import { isBanned } from './bans.js'
import type { IssuedCode } from './codes.js'
import type { DeviceTable, FleetSchema, TemplateTable } from './schema.js'
import type { RowSeal } from './sealed-rows.js'
import { checkReadable, isReadable, OPERATOR_PREFIX } from './vehicle.js'

type Db = Kysely<FleetSchema>
type TemplateRow = Selectable<TemplateTable>

/** Texts are compared in NFC, character by character: no case folding, no look-alikes, no expressions. */
export type TextPattern =
  | { readonly equals: string }
  | { readonly prefix: string }
  | { readonly oneOf: readonly string[] }

/** A device must have exactly these attributes: none more, none less. */
export type AttributePatterns = Readonly<Record<string, TextPattern>>

export interface NewTemplate {
  readonly name: string
  readonly instance: TextPattern
  readonly attributes: AttributePatterns
  /** `new`: vehicles that the register doesn't know; `registered`: only ones put there without a code. */
  readonly vehicles: 'new' | 'registered'
  /** Of new vehicles. */
  readonly factors: Factors
  readonly count: number
  /** Unix seconds. */
  readonly expiresAt: number
}
export interface TemplateView extends NewTemplate {
  readonly id: number
  readonly state: 'active' | 'used up' | 'expired' | 'ended'
  readonly approved: number
  readonly madeBy: string
  readonly madeAt: number
  readonly endedAt?: number
}

export interface TemplatePorts {
  readonly store: Store<FleetSchema>
  readonly seal: RowSeal
  readonly random: Random
  readonly clock: Clock
  readonly groupId: () => Uint8Array
}

export class Templates {
  readonly #ports: TemplatePorts

  constructor(ports: TemplatePorts) {
    this.#ports = ports
  }

  /** Refused MALFORMED for a pattern that nobody should have meant, or an expiry that is over. */
  async add(template: NewTemplate, actor: Actor): Promise<{ id: number; code: string }> {
    const now = this.#now()
    checkTemplate(template, now)
    const { row, code } = this.#newCode()
    const { name, instance, attributes, vehicles, factors, count, expiresAt } = template
    return this.#ports.store.db.transaction().execute(async tx => {
      const { id } = await tx
        .insertInto('template')
        .values({
          ...row,
          name: name.normalize('NFC'),
          instance: JSON.stringify(normalized(instance)),
          attributes: JSON.stringify(
            Object.entries(attributes).map(([key, pattern]) => [key.normalize('NFC'), normalized(pattern)]),
          ),
          vehicles,
          factors,
          most: count,
          used: 0,
          made_at: now,
          made_by: actor,
          expires_at: expiresAt,
          ended_at: null,
        })
        .returning('id')
        .executeTakeFirstOrThrow()
      await audit(tx, now, { actor, action: 'add template', subject: `template ${id}`, outcome: 'done' })
      return { id, code }
    })
  }

  async list({ after, limit }: { after?: number | undefined; limit: number }): Promise<TemplateView[]> {
    let query = this.#ports.store.db.selectFrom('template').selectAll().orderBy('id').limit(limit)
    if (after !== undefined) query = query.where('id', '>', after)
    const now = this.#now()
    return (await query.execute()).map(row => viewOf(row, now))
  }

  /** From now on it approves nothing; what it has approved stays. Refused NOT_FOUND, CONFLICT when it is ended. */
  async end(id: number, actor: Actor): Promise<void> {
    const now = this.#now()
    await this.#ports.store.db.transaction().execute(async tx => {
      await notEnded(tx, id)
      await tx.updateTable('template').set({ ended_at: now }).where('id', '=', id).execute()
      await audit(tx, now, { actor, action: 'end template', subject: `template ${id}`, outcome: 'done' })
    })
  }

  /** A fresh code; the former one is unknown from now on. Count and expiry stay as they are. */
  async newCode(id: number, actor: Actor): Promise<IssuedCode> {
    const now = this.#now()
    const { row, code } = this.#newCode()
    return this.#ports.store.db.transaction().execute(async tx => {
      const { expires_at: expiresAt } = await notEnded(tx, id)
      await tx.updateTable('template').set(row).where('id', '=', id).execute()
      await audit(tx, now, { actor, action: 'template code', subject: `template ${id}`, outcome: 'done' })
      return { code, expiresAt }
    })
  }

  /** Of ended, used-up and expired ones too: whether a code may be used is decided after its MAC. */
  async secret(db: Db, id: Uint8Array): Promise<Uint8Array | null> {
    const row = await templateOf(db, id)
    return row === undefined ? null : this.#ports.seal.open(rowName(id), row.sealed_secret)
  }

  #newCode() {
    const { random, seal, groupId } = this.#ports
    const secret = random(16)
    const id = codeId(secret)
    return {
      row: { code_id: id, sealed_secret: seal.seal(rowName(id), secret) },
      code: encodeEnrolmentCode({ secret, groupId: groupId() }),
    }
  }

  #now(): number {
    return Math.floor(this.#ports.clock() / 1000)
  }
}

/** The template of a code; undefined when it is no template's. */
export function templateOf(db: Db, codeId: Uint8Array): Promise<TemplateRow | undefined> {
  return db.selectFrom('template').selectAll().where('code_id', '=', codeId).executeTakeFirst()
}

/**
 * The vehicle that `template` approves now, its count taken, inside the caller's transaction. The MAC has been checked.
 * Refused NOT_APPROVED when the template is ended or used up or doesn't cover the device, EXPIRED, BANNED, CONFLICT
 * for a vehicle that is not the template's to approve.

 */
export async function takeApproval(
  tx: Db,
  template: TemplateRow,
  device: { readonly instance: string; readonly attributes: Attributes; readonly attributesText: string },
  now: number,
): Promise<Selectable<DeviceTable>> {
  if (template.ended_at !== null) throw no('the enrolment template was ended')
  if (template.expires_at <= now)
    throw new Refused('EXPIRED', { detail: 'the enrolment template has run out' })
  if (!covers(template, device)) throw no('the enrolment template does not cover this device')
  const { numUpdatedRows } = await tx
    .updateTable('template')
    .set(row => ({ used: row('used', '+', 1) }))
    .where('id', '=', template.id)
    .where(({ eb, ref }) => eb('used', '<', ref('most')))
    .executeTakeFirst()
  if (numUpdatedRows !== 1n) throw no('the enrolment template has approved as many devices as it may')
  const known = await tx
    .selectFrom('device')
    .selectAll()
    .where('instance', '=', device.instance)
    .executeTakeFirst()
  if (known !== undefined) {
    await mayTake(tx, template, known, device.attributesText, now)
    return known
  }
  if (template.vehicles === 'registered') throw no('this vehicle is not in the register')
  return tx
    .insertInto('device')
    .values({
      kind: 'vehicle',
      instance: device.instance,
      attributes: device.attributesText,
      factors: template.factors,
      own_pin: 0,
      created_at: now,
    })
    .returningAll()
    .executeTakeFirstOrThrow()
}

/** A vehicle of the register: only if an operator left it to a template, and nothing of its own is out. */
async function mayTake(
  tx: Db,
  template: TemplateRow,
  known: Selectable<DeviceTable>,
  attributesText: string,
  now: number,
): Promise<void> {
  if (await isBanned(tx, { device: known.id }, now)) throw new Refused('BANNED', { field: 'instance' })
  const identity = await tx
    .selectFrom('identity')
    .select('id')
    .where('device_id', '=', known.id)
    .executeTakeFirst()
  const code = await tx
    .selectFrom('code')
    .select('code_id')
    .where('device_id', '=', known.id)
    .where('driver_id', 'is', null)
    .executeTakeFirst()
  if (template.vehicles === 'new' || identity !== undefined || code !== undefined)
    throw new Refused('CONFLICT', { field: 'instance', detail: 'the vehicle is registered already' })
  if (known.kind !== 'vehicle' || known.attributes !== attributesText)
    throw no('the enrolment template does not cover this device')
}

function covers(
  template: TemplateRow,
  { instance, attributes }: { readonly instance: string; readonly attributes: Attributes },
): boolean {
  if (instance.startsWith(OPERATOR_PREFIX)) return false
  if (!matches(JSON.parse(template.instance) as TextPattern, instance)) return false
  const patterns = new Map(JSON.parse(template.attributes) as [string, TextPattern][])
  const given = Object.entries(attributes)
  return (
    given.length === patterns.size &&
    given.every(([name, value]) => {
      const pattern = patterns.get(name.normalize('NFC'))
      return pattern !== undefined && matches(pattern, value)
    })
  )
}

/** Whether a text, brought to NFC, is what the pattern (in NFC) says. What can't be read is never covered. */
export function matches(pattern: TextPattern, text: string): boolean {
  const value = text.normalize('NFC')
  if (!isReadable(value)) return false
  if ('equals' in pattern) return value === pattern.equals
  if ('oneOf' in pattern) return pattern.oneOf.includes(value)
  // A mark that follows would change the prefix's last letter into another one.
  return value.startsWith(pattern.prefix) && !/^\p{M}/u.test(value.slice(pattern.prefix.length))
}

function normalized(pattern: TextPattern): TextPattern {
  if ('equals' in pattern) return { equals: pattern.equals.normalize('NFC') }
  if ('prefix' in pattern) return { prefix: pattern.prefix.normalize('NFC') }
  return { oneOf: pattern.oneOf.map(text => text.normalize('NFC')) }
}

function textsOf(pattern: TextPattern): readonly string[] {
  if ('equals' in pattern) return [pattern.equals]
  return 'prefix' in pattern ? [pattern.prefix] : pattern.oneOf
}

function checkTemplate({ name, instance, attributes, expiresAt }: NewTemplate, now: number): void {
  checkReadable('name', name)
  checkReadable('instance', ...textsOf(instance))
  if (textsOf(instance).some(text => text.startsWith(OPERATOR_PREFIX)))
    throw new Refused('MALFORMED', { field: 'instance', detail: 'operators are invited' })
  checkReadable('attributes', ...Object.keys(attributes), ...Object.values(attributes).flatMap(textsOf))
  const names = Object.keys(attributes).map(key => key.normalize('NFC'))
  if (new Set(names).size < names.length)
    throw new Refused('MALFORMED', { field: 'attributes', detail: 'an attribute stands there twice' })
  if (expiresAt <= now) throw new Refused('MALFORMED', { field: 'expiresAt', detail: 'it is over' })
}

async function notEnded(tx: Db, id: number): Promise<TemplateRow> {
  const row = await tx.selectFrom('template').selectAll().where('id', '=', id).executeTakeFirst()
  if (row === undefined) throw new Refused('NOT_FOUND')
  if (row.ended_at !== null) throw new Refused('CONFLICT', { detail: 'the template was ended' })
  return row
}

function viewOf(row: TemplateRow, now: number): TemplateView {
  return {
    id: row.id,
    name: row.name,
    instance: JSON.parse(row.instance) as TextPattern,
    attributes: Object.fromEntries(JSON.parse(row.attributes) as [string, TextPattern][]),
    vehicles: row.vehicles,
    factors: row.factors as Factors,
    count: row.most,
    approved: row.used,
    expiresAt: row.expires_at,
    state:
      row.ended_at !== null
        ? 'ended'
        : row.expires_at <= now
          ? 'expired'
          : row.used >= row.most
            ? 'used up'
            : 'active',
    madeBy: row.made_by,
    madeAt: row.made_at,
    ...(row.ended_at === null ? {} : { endedAt: row.ended_at }),
  }
}

function no(detail: string): Refused {
  return new Refused('NOT_APPROVED', { detail })
}

function rowName(id: Uint8Array): string {
  return `template:${toHex(id)}`
}
