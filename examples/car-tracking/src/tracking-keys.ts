/** The tracking server's own keys: they stand in the group document under its name, so they are made once. */
import { access } from 'node:fs/promises'
import { join } from 'node:path'
import { Es256PrivateKey, generateEs256, generateHpkeKey, HpkeKeyPair } from '@milagro-ts/api/keys'
import { Strict } from '@milagro-ts/api/schemas'
import { fromBase64Url, fromUtf8, toBase64Url, utf8 } from '@milagro-ts/crypto/bytes'
import type { Random } from '@milagro-ts/crypto/ports'
import { readSealedFile, writeSealedFile } from '@milagro-ts/store/sealed-file'
import { StoreError } from '@milagro-ts/store/store-error'
import Type from 'typebox'
import { Compile } from 'typebox/compile'

export interface TrackingKeys {
  readonly requestKey: Es256PrivateKey
  readonly hpkeKey: HpkeKeyPair
}

const text = Type.String()
const stored = Compile(
  Strict({
    v: Type.Literal(1),
    requestKey: Strict({ kty: Type.Literal('EC'), crv: Type.Literal('P-256'), x: text, y: text, d: text }),
    hpkeSecret: text,
  }),
)
const pathIn = (dataDir: string) => join(dataDir, 'keys.sealed')

/** The keys in the data folder, made and sealed if there are none. StoreError when they don't open. */
export async function makeOrReadKeys(
  dataDir: string,
  passphrase: string,
  random: Random,
): Promise<TrackingKeys> {
  const exists = await access(pathIn(dataDir)).then(
    () => true,
    () => false,
  )
  if (exists) return readKeys(dataDir, passphrase)
  const keys = { requestKey: await generateEs256(), hpkeKey: await generateHpkeKey(random) }
  const value = { v: 1, requestKey: keys.requestKey.toJwk(), hpkeSecret: toBase64Url(keys.hpkeKey.secret()) }
  await writeSealedFile(pathIn(dataDir), passphrase, utf8(JSON.stringify(value)), random)
  return keys
}

/** StoreError when there are none, or they don't open. */
export async function readKeys(dataDir: string, passphrase: string): Promise<TrackingKeys> {
  const path = pathIn(dataDir)
  const value: unknown = JSON.parse(fromUtf8(await readSealedFile(path, passphrase), 'keys'))
  if (!stored.Check(value)) throw new StoreError('damaged', `sealed file ${path} holds something else`)
  return {
    requestKey: await Es256PrivateKey.fromJwk(value.requestKey),
    hpkeKey: await HpkeKeyPair.fromSecret(fromBase64Url(value.hpkeSecret, 'hpkeSecret', 32)),
  }
}
