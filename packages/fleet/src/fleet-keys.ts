/**
 * Everything secret that fleet has for longer than a minute: in `keys.sealed`, under the passphrase, the data key, the
 * request key and the HPKE key; in the database, under the data key, the RA's signing keys, because they change, and
 * the secrets of enrolment codes.
 */
import { access } from 'node:fs/promises'
import { join } from 'node:path'
import {
  type Es256PrivateJwk,
  Es256PrivateKey,
  generateEs256,
  generateHpkeKey,
  HpkeKeyPair,
} from '@milagro-ts/api/keys'
import { Strict } from '@milagro-ts/api/schemas'
import type { Signer } from '@milagro-ts/api/statements'
import { fromBase64Url, fromUtf8, toBase64Url, utf8 } from '@milagro-ts/crypto/bytes'
import type { Random } from '@milagro-ts/crypto/ports'
import { sha256 } from '@milagro-ts/crypto/sha256'
import { SUITE } from '@milagro-ts/crypto/suite'
import { readSealedFile, writeSealedFile } from '@milagro-ts/store/sealed-file'
import { StoreError } from '@milagro-ts/store/store-error'
import type { Kysely } from 'kysely'
import Type from 'typebox'
import { Compile } from 'typebox/compile'
import type { FleetSchema } from './schema.js'
import type { RowSeal } from './sealed-rows.js'

export interface FleetKeys {
  /** 32 bytes, for RowSeal. */
  readonly dataKey: Uint8Array
  readonly requestKey: Es256PrivateKey
  readonly hpkeKey: HpkeKeyPair
}

const Jwk = Strict({
  kty: Type.Literal('EC'),
  crv: Type.Literal('P-256'),
  x: Type.String(),
  y: Type.String(),
  d: Type.String(),
})
const Stored = Compile(
  Strict({
    suite: Type.Literal(SUITE),
    v: Type.Literal(1),
    name: Type.String(),
    dataKey: Type.String(),
    requestKey: Jwk,
    hpkeSecret: Type.String(),
  }),
)

const pathIn = (dataDir: string) => join(dataDir, 'keys.sealed')

export function fleetKeysExist(dataDir: string): Promise<boolean> {
  return access(pathIn(dataDir)).then(
    () => true,
    () => false,
  )
}

export async function makeFleetKeys(
  dataDir: string,
  name: string,
  passphrase: string,
  random: Random,
): Promise<FleetKeys> {
  const keys = {
    dataKey: random(32),
    requestKey: await generateEs256(),
    hpkeKey: await generateHpkeKey(random),
  }
  const stored = {
    suite: SUITE,
    v: 1,
    name,
    dataKey: toBase64Url(keys.dataKey),
    requestKey: keys.requestKey.toJwk(),
    hpkeSecret: toBase64Url(keys.hpkeKey.secret()),
  }
  await writeSealedFile(pathIn(dataDir), passphrase, utf8(JSON.stringify(stored)), random)
  return keys
}

/** StoreError: no file, wrong passphrase or a changed byte, or the keys of another server. */
export async function readFleetKeys(dataDir: string, name: string, passphrase: string): Promise<FleetKeys> {
  const path = pathIn(dataDir)
  const stored: unknown = JSON.parse(fromUtf8(await readSealedFile(path, passphrase), 'keys'))
  if (!Stored.Check(stored)) throw new StoreError('damaged', `sealed file ${path} holds something else`)
  if (stored.name !== name) throw new StoreError('foreign', `sealed file ${path} belongs to '${stored.name}'`)
  return {
    dataKey: fromBase64Url(stored.dataKey, 'dataKey', 32),
    requestKey: await Es256PrivateKey.fromJwk(stored.requestKey),
    hpkeKey: await HpkeKeyPair.fromSecret(fromBase64Url(stored.hpkeSecret, 'hpkeSecret', 32)),
  }
}

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
