/**
 * The long-term keys of a gateway or a PSK file's writer: ES256 for requests, X25519 for what authorities seal to it. Made
 * once, kept in `keys.sealed`; their public parts stand in the group document under its name.
 */
import { access, mkdir } from 'node:fs/promises'
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

export interface ServiceKeys {
  readonly requestKey: Es256PrivateKey
  readonly hpkeKey: HpkeKeyPair
}

const Stored = Compile(
  Strict({
    suite: Type.Literal(SUITE),
    v: Type.Literal(1),
    name: Type.String(),
    requestKey: Strict({
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

export interface KeyFolder {
  readonly dataDir: string
  /** The server's name in the group document. */
  readonly name: string
  readonly passphrase: string
}

/** Makes folder and keys, or opens the keys that are there. StoreError as readServiceKeys. */
export async function makeServiceKeys(folder: KeyFolder, random: Random): Promise<ServiceKeys> {
  const { dataDir, name, passphrase } = folder
  await mkdir(dataDir, { recursive: true, mode: 0o700 })
  const exists = await access(pathIn(dataDir)).then(
    () => true,
    () => false,
  )
  if (exists) return readServiceKeys(folder)
  const keys = { requestKey: await generateEs256(), hpkeKey: await generateHpkeKey(random) }
  const value = {
    suite: SUITE,
    v: 1,
    name,
    requestKey: keys.requestKey.toJwk(),
    hpkeSecret: toBase64Url(keys.hpkeKey.secret()),
  }
  await writeSealedFile(pathIn(dataDir), passphrase, utf8(JSON.stringify(value)), random)
  return keys
}

/** StoreError: no file, a wrong passphrase or a changed byte, or the keys of a server with another name. */
export async function readServiceKeys({ dataDir, name, passphrase }: KeyFolder): Promise<ServiceKeys> {
  const path = pathIn(dataDir)
  const value: unknown = JSON.parse(fromUtf8(await readSealedFile(path, passphrase), 'keys'))
  if (!Stored.Check(value)) throw new StoreError('damaged', `sealed file ${path} holds something else`)
  if (value.name !== name)
    throw new StoreError('foreign', `sealed file ${path} belongs to the server '${value.name}'`)
  return {
    requestKey: await Es256PrivateKey.fromJwk(value.requestKey),
    hpkeKey: await HpkeKeyPair.fromSecret(fromBase64Url(value.hpkeSecret, 'hpkeSecret', 32)),
  }
}
