/**
 * A server's own long-term keys: made once, kept in `keys.sealed` of its data folder under its passphrase. Their public parts
 * stand in group documents, so losing the file ends the server's part in its groups.
 *
 * In the file: JSON {suite, v: 1, name, …}, and for each key by its name: ES256 a JWK, 32 bytes base64url; for `hpkeKey`,
 * X25519, its secret is `hpkeSecret`.
 */
import { access } from 'node:fs/promises'
import { join } from 'node:path'
import { fromBase64Url, toBase64Url, utf8 } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import type { Random } from '@milagro-ts/crypto/ports'
import { SUITE } from '@milagro-ts/crypto/suite'
import { writeSealedFile } from '@milagro-ts/store/sealed-file'
import { StoreError } from '@milagro-ts/store/store-error'
import { unusable } from './folder.js'
import { Es256PrivateKey, generateEs256, generateHpkeKey, HpkeKeyPair } from './keys.js'
import { Strict } from './schemas.js'
import { readSealedJson } from './sealed-json.js'
import Type, { Compile } from './typebox.js'

export interface KeyFolder {
  readonly dataDir: string
  /** The server's name in the group document. */
  readonly name: string
  readonly passphrase: string
}

/** Kinds of key beside the HPKE key, which every server has. */
interface Kinds {
  readonly es256: Es256PrivateKey
  readonly bytes32: Uint8Array
}
type Spec = Readonly<Record<string, keyof Kinds>>
type KeysBy<S extends Spec> = { readonly [Key in keyof S]: Kinds[S[Key]] } & { readonly hpkeKey: HpkeKeyPair }
/** The keys that a KeyFile holds. */
export type KeysOf<File> = File extends KeyFile<infer S> ? KeysBy<S> : never

const Text = Type.String()
const Stored = Compile(
  Type.Object({ suite: Type.Literal(SUITE), v: Type.Literal(1), name: Text, hpkeSecret: Text }),
)
const Jwk = Compile(
  Strict({ kty: Type.Literal('EC'), crv: Type.Literal('P-256'), x: Text, y: Text, d: Text }),
)

/** What one kind of server keeps: `new KeyFile({ requestKey: 'es256' })`, and its HPKE key. */
export class KeyFile<S extends Spec> {
  readonly #spec: S

  constructor(spec: S) {
    this.#spec = spec
  }

  exists(dataDir: string): Promise<boolean> {
    return access(pathIn(dataDir)).then(
      () => true,
      () => false,
    )
  }

  /** Makes and stores new keys, in the place of any that are there. ConfigError or StoreError where they can't be written. */
  async make({ dataDir, name, passphrase }: KeyFolder, random: Random): Promise<KeysBy<S>> {
    const hpkeKey = await generateHpkeKey(random)
    const keys: Record<string, unknown> = { hpkeKey }
    const stored: Record<string, unknown> = { suite: SUITE, v: 1, name }
    for (const [key, kind] of Object.entries(this.#spec)) {
      if (kind === 'es256') {
        const made = await generateEs256()
        keys[key] = made
        stored[key] = made.toJwk()
      } else {
        const made = random(32)
        keys[key] = made
        stored[key] = toBase64Url(made)
      }
    }
    stored.hpkeSecret = toBase64Url(hpkeKey.secret())
    await writeSealedFile(pathIn(dataDir), passphrase, utf8(JSON.stringify(stored)), random).catch(
      (error: unknown) => {
        throw unusable(dataDir, error)
      },
    )
    return keys as KeysBy<S>
  }

  /** StoreError: no file, a wrong passphrase or a changed byte, the keys of another server, or no such keys. */
  read({ dataDir, name, passphrase }: KeyFolder): Promise<KeysBy<S>> {
    const path = pathIn(dataDir)
    return readSealedJson(path, passphrase, async stored => {
      if (!Stored.Check(stored)) throw new DecodeError('keys', 'not a server’s')
      if (stored.name !== name)
        throw new StoreError('foreign', `sealed file ${path} belongs to the server '${stored.name}'`)
      const fields = Object.entries(stored).filter(
        ([field]) => !['suite', 'v', 'name', 'hpkeSecret'].includes(field),
      )
      if (fields.some(([field]) => !Object.hasOwn(this.#spec, field)))
        throw new DecodeError('keys', 'of another kind of server')
      const held = new Map<string, unknown>(fields)
      const keys: Record<string, unknown> = {
        hpkeKey: await HpkeKeyPair.fromSecret(fromBase64Url(stored.hpkeSecret, 'hpkeSecret', 32)),
      }
      for (const [key, kind] of Object.entries(this.#spec)) {
        const value = held.get(key)
        if (kind === 'es256' && Jwk.Check(value)) keys[key] = await Es256PrivateKey.fromJwk(value, key)
        else if (kind === 'bytes32' && typeof value === 'string') keys[key] = fromBase64Url(value, key, 32)
        else throw new DecodeError(key, 'no such key')
      }
      return keys as KeysBy<S>
    })
  }
}

const pathIn = (dataDir: string) => join(dataDir, 'keys.sealed')
