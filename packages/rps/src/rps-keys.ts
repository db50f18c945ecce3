/**
 * The RPS' own long-term keys: ES256 for requests to authorities and RPA, X25519 for what is sealed to it, ES256 for
 * tokens and receipts. Made at first start, kept in `keys.sealed`. The first two stand in the group document.
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

export interface RpsKeys {
  readonly requestKey: Es256PrivateKey
  readonly hpkeKey: HpkeKeyPair
  readonly tokenKey: Es256PrivateKey
}

const PrivateJwk = Strict({
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
    requestKey: PrivateJwk,
    hpkeSecret: Type.String(),
    tokenKey: PrivateJwk,
  }),
)

const pathIn = (dataDir: string) => join(dataDir, 'keys.sealed')

export function rpsKeysExist(dataDir: string): Promise<boolean> {
  return access(pathIn(dataDir)).then(
    () => true,
    () => false,
  )
}

/** Makes and stores new keys. */
export async function makeRpsKeys(
  dataDir: string,
  name: string,
  passphrase: string,
  random: Random,
): Promise<RpsKeys> {
  const keys = {
    requestKey: await generateEs256(),
    hpkeKey: await generateHpkeKey(random),
    tokenKey: await generateEs256(),
  }
  const stored = {
    suite: SUITE,
    v: 1,
    name,
    requestKey: keys.requestKey.toJwk(),
    hpkeSecret: toBase64Url(keys.hpkeKey.secret()),
    tokenKey: keys.tokenKey.toJwk(),
  }
  await writeSealedFile(pathIn(dataDir), passphrase, utf8(JSON.stringify(stored)), random)
  return keys
}

/** StoreError: no file, wrong passphrase or a changed byte, or the keys of a server with another name. */
export async function readRpsKeys(dataDir: string, name: string, passphrase: string): Promise<RpsKeys> {
  const path = pathIn(dataDir)
  const stored: unknown = JSON.parse(fromUtf8(await readSealedFile(path, passphrase), 'keys'))
  if (!Stored.Check(stored)) throw new StoreError('damaged', `sealed file ${path} holds something else`)
  if (stored.name !== name)
    throw new StoreError('foreign', `sealed file ${path} belongs to the server '${stored.name}'`)
  return {
    requestKey: await Es256PrivateKey.fromJwk(stored.requestKey),
    hpkeKey: await HpkeKeyPair.fromSecret(fromBase64Url(stored.hpkeSecret, 'hpkeSecret', 32)),
    tokenKey: await Es256PrivateKey.fromJwk(stored.tokenKey),
  }
}
