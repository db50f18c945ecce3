/**
 * Everything secret that fleet has for longer than a minute: in `keys.sealed`, under the passphrase, the data key, the
 * request key and the HPKE key; in the database, under the data key, the RA's signing keys, because they change, and
 * the secrets of enrolment codes.
 */
import { KeyFile, type KeysOf } from '@milagro-ts/api/key-file'
import { type Es256PrivateJwk, Es256PrivateKey, generateEs256 } from '@milagro-ts/api/keys'
import type { Signer } from '@milagro-ts/api/statements'
import { fromUtf8, toBase64Url, utf8 } from '@milagro-ts/crypto/bytes'
import { sha256 } from '@milagro-ts/crypto/sha256'
import type { Kysely } from '@milagro-ts/store/kysely'
import type { FleetSchema } from './schema.js'
import type { RowSeal } from './sealed-rows.js'

/** `dataKey` is for RowSeal. */
export const fleetKeys = new KeyFile({ dataKey: 'bytes32', requestKey: 'es256' })
export type FleetKeys = KeysOf<typeof fleetKeys>

/** A fresh RA key; its kid is taken from the key, so that no two share one. */
export async function makeRaKey(): Promise<Signer> {
  const key = await generateEs256()
  return { key, kid: `ra-${toBase64Url(sha256(key.publicKey.encode())).slice(0, 11)}` }
}

export async function storeRaKey(
  db: Kysely<FleetSchema>,
  seal: RowSeal,
  { key, kid }: Signer,
  now: number,
): Promise<void> {
  await db
    .insertInto('ra_key')
    .values({
      kid,
      public_key: key.publicKey.toBase64Url(),
      sealed_jwk: seal.seal(rowName(kid), utf8(JSON.stringify(key.toJwk()))),
      made_at: now,
    })
    .execute()
}

/** All RA keys held, oldest first. StoreError when one doesn't open. */
export async function readRaKeys(db: Kysely<FleetSchema>, seal: RowSeal): Promise<Signer[]> {
  const rows = await db.selectFrom('ra_key').selectAll().orderBy('made_at').orderBy('kid').execute()
  return Promise.all(
    rows.map(async ({ kid, sealed_jwk }) => {
      const jwk = JSON.parse(fromUtf8(seal.open(rowName(kid), sealed_jwk), 'raKey')) as Es256PrivateJwk
      return { kid, key: await Es256PrivateKey.fromJwk(jwk, 'raKey') }
    }),
  )
}

function rowName(kid: string): string {
  return `ra-key:${kid}`
}
