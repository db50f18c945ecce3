/** The reader of files of a service's folder (public-name.ts): its keys made, or opened for a file. */
import { createClient, Unreachable } from '@milagro-ts/api/call'
import { type Environment, readSecret } from '@milagro-ts/api/config'
import type { Group } from '@milagro-ts/api/group'
import { pinnedGroup } from '@milagro-ts/api/group-file'
import { rpsRoutes } from '@milagro-ts/api/rps-routes'
import { serviceKeys } from '@milagro-ts/api/service-keys'
import { systemTimers } from '@milagro-ts/api/system'
import type { FileOpener } from '@milagro-ts/client/file-recipient'
import { followGroup } from '@milagro-ts/client/group-store'
import type { Clock, Random } from '@milagro-ts/crypto/ports'
import { publicKeysFault } from '@milagro-ts/crypto/server-key'
import { loadServiceConfig, type ServiceConfig } from './gateway-config.js'
import { publicNameOpener } from './public-name.js'
import { makeService, type ServicePublicKeys } from './service-folder.js'

const PASSPHRASE = 'MILAGRO_SERVICE_PASSPHRASE'

export interface ServiceFolderPorts {
  readonly env: Environment
  readonly clock: Clock
  readonly random: Random
  readonly fetch: typeof fetch
}

/** Makes the data folder and its keys, or opens those that are there. ConfigError, StoreError. */
export async function makeServiceFolder(
  file: string,
  { env, random }: ServiceFolderPorts,
): Promise<ServicePublicKeys> {
  return makeService(loadServiceConfig({ file, env }), readSecret(PASSPHRASE, env), random)
}

/** ConfigError, StoreError; ClientError UNKNOWN_RECIPIENT, WRONG_GROUP. */
export async function openServiceFolder(file: string, ports: ServiceFolderPorts): Promise<FileOpener> {
  const { env, clock, random, fetch } = ports
  const config = loadServiceConfig({ file, env })
  const { name, dataDir } = config
  const keys = await serviceKeys.read({ name, dataDir, passphrase: readSecret(PASSPHRASE, env) })
  const timers = systemTimers
  // A command serves nobody meanwhile.
  const pinned = await pinnedGroup(config, publicKeysFault)
  const group = await newestGroup(config, pinned, fetch)
  return publicNameOpener({ name, keys, group, clock, random, timers, fetch })
}

/** As the RPS has it; where it can't be reached, as the file has it: authorities go by their own in any case. */
async function newestGroup(
  { rps }: ServiceConfig,
  known: Group,
  fetch: typeof globalThis.fetch,
): Promise<Group> {
  const client = createClient(rpsRoutes, { baseUrl: rps.url, fetch })
  try {
    return await followGroup({ rps: client, wait: () => Promise.resolve() }, known)
  } catch (error) {
    if (!(error instanceof Unreachable)) throw error
    return known
  }
}
