/**
 * Enrolment codes: 128 bits that one device, or one driver on one vehicle, may use once. The secret is needed again to
 * recompute a MAC, so it is kept, sealed; it is looked up by its codeId, which tells nothing of it.
 *
 *   made  →  used (bound to the first enrolment key whose MAC holds)
 *         →  replaced (a newer code for the same, or the device was revoked)      expired
 */
import { toHex } from '@milagro-ts/crypto/bytes'
import { codeId, encodeEnrolmentCode } from '@milagro-ts/crypto/enrolment'
import type { Random } from '@milagro-ts/crypto/ports'
import type { Kysely } from '@milagro-ts/store/kysely'
import type { FleetSchema } from './schema.js'
import type { RowSeal } from './sealed-rows.js'

export interface IssuedCode {
  /** To be shown once; it can't be asked for again, only replaced. */
  readonly code: string
  /** Unix seconds. */
  readonly expiresAt: number
}

/** For whom: a device's next identity (`generation`), or a driver on a device. */
export type CodeHolder =
  | { readonly device: number; readonly generation: number }
  | { readonly device: number; readonly driver: number }

export interface CodePorts {
  readonly seal: RowSeal
  readonly random: Random
  readonly groupId: () => Uint8Array
  /** Seconds. */
  readonly lifetime: number
}

export class Codes {
  readonly #ports: CodePorts

  constructor(ports: CodePorts) {
    this.#ports = ports
  }

  /** A fresh code; an unused one for the same holder is worth nothing from now on. */
  async issue(tx: Kysely<FleetSchema>, holder: CodeHolder, now: number): Promise<IssuedCode> {
    const driver = 'driver' in holder ? holder.driver : null
    await replaceCodes(tx, holder.device, driver)
    const { row, issued } = this.make(holder, now)
    await tx.insertInto('code').values(row).execute()
    return issued
  }

  /** The row of a fresh code, for a holder that can't have one yet. */
  make(holder: CodeHolder, now: number) {
    const { seal, random, groupId, lifetime } = this.#ports
    const secret = random(16)
    const id = codeId(secret)
    const expiresAt = now + lifetime
    const row = {
      code_id: id,
      device_id: holder.device,
      driver_id: 'driver' in holder ? holder.driver : null,
      generation: 'generation' in holder ? holder.generation : null,
      sealed_secret: seal.seal(rowName(id), secret),
      made_at: now,
      expires_at: expiresAt,
      used_by: null,
    }
    return { row, issued: { code: encodeEnrolmentCode({ secret, groupId: groupId() }), expiresAt } }
  }

  /** Used, replaced and expired ones too: whether a code may be used is decided after its MAC. */
  async secret(db: Kysely<FleetSchema>, id: Uint8Array): Promise<Uint8Array | null> {
    const row = await db
      .selectFrom('code')
      .select('sealed_secret')
      .where('code_id', '=', id)
      .executeTakeFirst()
    return row === undefined ? null : this.#ports.seal.open(rowName(id), row.sealed_secret)
  }
}

/** @param driver Null: the device's own codes. */
export async function replaceCodes(
  tx: Kysely<FleetSchema>,
  device: number,
  driver: number | null,
): Promise<void> {
  await tx
    .updateTable('code')
    .set({ replaced: 1 })
    .where('device_id', '=', device)
    .where('driver_id', driver === null ? 'is' : '=', driver)
    .where('used_by', 'is', null)
    .execute()
}

function rowName(id: Uint8Array): string {
  return `code:${toHex(id)}`
}
