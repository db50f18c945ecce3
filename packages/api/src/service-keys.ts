/**
 * The long-term keys of a service that is a recipient in the group document and no more (a gateway, a PSK file's writer, a
 * reader of files, an application behind TLS): ES256 for requests, X25519 for what authorities seal to it.
 */
import { mkdir } from 'node:fs/promises'
import type { Random } from '@milagro-ts/crypto/ports'
import { KeyFile, type KeyFolder, type KeysOf } from './key-file.js'

export const serviceKeys = new KeyFile({ requestKey: 'es256' })
export type ServiceKeys = KeysOf<typeof serviceKeys>

/** Makes folder and keys, or opens the keys that are there. StoreError when they don't open. */
export async function makeServiceKeys(folder: KeyFolder, random: Random): Promise<ServiceKeys> {
  await mkdir(folder.dataDir, { recursive: true, mode: 0o700 })
  return (await serviceKeys.exists(folder.dataDir))
    ? serviceKeys.read(folder)
    : serviceKeys.make(folder, random)
}
