/**
 * The authority's long-term keys: ES256 for what it signs (joins, openings, documents), X25519 for what is sealed to
 * it. Made at first start, kept in `keys.sealed`; their public halves stand in group documents, so losing the file
 * ends the authority's part in its groups.
 */
import { access } from 'node:fs/promises'
import { join } from 'node:path'
import { Es256PrivateKey, generateEs256, generateHpkeKey, HpkeKeyPair } from '@milagro-ts/api/keys'
import { Strict } from '@milagro-ts/api/schemas'
import { fromBase64Url, fromUtf8, toBase64Url, utf8 } from '@milagro-ts/crypto/bytes'
import type { Random } from '@milagro-ts/crypto/ports'
import { SUITE } from '@milagro-ts/crypto/suite'
import { readSealedFile, writeSealedFile } from '@milagro-ts/store/sealed-file'
import { StoreError } from '@milagro-ts/store/store-error'
import Type from 'typebox'
import { Compile } from 'typebox/compile'

export interface AuthorityKeys {
  readonly signKey: Es256PrivateKey
  readonly hpkeKey: HpkeKeyPair
}

const Stored = Compile(
  Strict({
    suite: Type.Literal(SUITE),
    v: Type.Literal(1),
    name: Type.String(),
    signKey: Strict({
      kty: Type.Literal('EC'),
      crv: Type.Literal('P-256'),
      x: Type.String(),
      y: Type.String(),
      d: Type.String(),
    }),
    hpkeSecret: Type.String(),
  }),
)

const pathIn = (dataDir: string) => join(dataDir, 'keys.sealed')

export function authorityKeysExist(dataDir: string): Promise<boolean> {
  return access(pathIn(dataDir)).then(
    () => true,
    () => false,
  )
}

/** Makes and stores new keys. */
export async function makeAuthorityKeys(
  dataDir: string,
  name: string,
  passphrase: string,
  random: Random,
): Promise<AuthorityKeys> {
  const keys = { signKey: await generateEs256(), hpkeKey: await generateHpkeKey(random) }
  const stored = {
    suite: SUITE,
    v: 1,
    name,
    signKey: keys.signKey.toJwk(),
    hpkeSecret: toBase64Url(keys.hpkeKey.secret()),
  }
  await writeSealedFile(pathIn(dataDir), passphrase, utf8(JSON.stringify(stored)), random)
  return keys
}

/** StoreError: no file, wrong passphrase or a changed byte, or the keys of an authority with another name. */
export async function readAuthorityKeys(
  dataDir: string,
  name: string,
  passphrase: string,
): Promise<AuthorityKeys> {
  const path = pathIn(dataDir)
  const stored: unknown = JSON.parse(fromUtf8(await readSealedFile(path, passphrase), 'keys'))
  if (!Stored.Check(stored)) throw new StoreError('damaged', `sealed file ${path} holds something else`)
  if (stored.name !== name)
    throw new StoreError('foreign', `sealed file ${path} belongs to the authority '${stored.name}'`)
  return {
    signKey: await Es256PrivateKey.fromJwk(stored.signKey),
    hpkeKey: await HpkeKeyPair.fromSecret(fromBase64Url(stored.hpkeSecret, 'hpkeSecret', 32)),
  }
}
