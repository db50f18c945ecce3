/**
 * The long-term keys of a service that is a recipient in the group document and no more (a gateway, a PSK file's writer, a
 * reader of files, an application behind TLS): ES256 for requests, X25519 for what authorities seal to it.
 */
import type { Random } from '@milagro-ts/crypto/ports'
import { StoreError } from '@milagro-ts/store/store-error'
import { makeFolder, noFolderYet } from './folder.js'
import { KeyFile, type KeyFolder, type KeysOf } from './key-file.js'

export const serviceKeys = new KeyFile({ requestKey: 'es256' })
export type ServiceKeys = KeysOf<typeof serviceKeys>

/** Makes folder and keys, or opens the keys that are there. ConfigError for the folder, StoreError when they don't open. */
export async function makeServiceKeys(folder: KeyFolder, random: Random): Promise<ServiceKeys> {
  await makeFolder(folder.dataDir)
  return (await serviceKeys.exists(folder.dataDir))
    ? serviceKeys.read(folder)
    : serviceKeys.make(folder, random)
}

/** ConfigError where none were made, for they are all that such a folder holds; StoreError when they don't open. */
export async function readServiceKeys(folder: KeyFolder): Promise<ServiceKeys> {
  try {
    return await serviceKeys.read(folder)
  } catch (error) {
    if (error instanceof StoreError && error.reason === 'missing') throw noFolderYet(folder.dataDir)
    throw error
  }
}
