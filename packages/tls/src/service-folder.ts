/**
 * A service of a group by its data folder: its long-term keys are made there once, and read at each start.
 *
 *   makeService   folder and keys; their public parts are for `recipients` in the plan of the group
 *   readService   with `log`, what openTlsService wants (service.ts): the keys, and the group that `groupId` pins
 *
 * Gateways, writers of PSK files and readers of files keep theirs by it, too.
 */
import { pinnedGroup } from '@milagro-ts/api/group-file'
import { threadKeyCheck } from '@milagro-ts/api/server-pool'
import { makeServiceKeys, serviceKeys } from '@milagro-ts/api/service-keys'
import { systemClock, systemRandom, systemTimers } from '@milagro-ts/api/system'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import type { Random } from '@milagro-ts/crypto/ports'
import type { TlsServiceOptions } from './service.js'

/** Public parts for the group document, base64url. */
export interface ServicePublicKeys {
  readonly name: string
  readonly requestKey: string
  readonly hpkeKey: string
}

/** A gateway's settings are such, too. */
export interface ServiceSettings {
  /** Among the recipients of the group document. */
  readonly name: string
  readonly dataDir: string
  /** The first revision, or an array of all of them. */
  readonly groupFile?: string | undefined
  /** Pinned: all 32 bytes, base64url. */
  readonly groupId?: string | undefined
  readonly rps: { readonly url: string }
}

/**
 * Makes the folder and `keys.sealed` in it, or opens the keys that are there. StoreError when they don't open.
 *
 * @param passphrase Wanted again at each start.
 */
export async function makeService(
  { dataDir, name }: Pick<ServiceSettings, 'dataDir' | 'name'>,
  passphrase: string,
  random: Random = systemRandom,
): Promise<ServicePublicKeys> {
  const { requestKey, hpkeKey } = await makeServiceKeys({ dataDir, name, passphrase }, random)
  return { name, requestKey: requestKey.publicKey.toBase64Url(), hpkeKey: toBase64Url(hpkeKey.publicKey) }
}

/**
 * The group's keys are checked in a thread that ends by itself. StoreError for keys that are not there or don't open;
 * ConfigError for a group that is not pinned, or another one's document.
 */
export async function readService(
  { dataDir, name, groupFile, groupId, rps }: ServiceSettings,
  passphrase: string,
): Promise<Pick<TlsServiceOptions, 'name' | 'requestKey' | 'hpkeKey' | 'group' | 'rpsUrl'>> {
  const { requestKey, hpkeKey } = await serviceKeys.read({ dataDir, name, passphrase })
  const keyCheck = threadKeyCheck({ clock: systemClock, random: systemRandom, timers: systemTimers })
  const group = await pinnedGroup({ groupFile, groupId }, keyCheck)
  return { name, requestKey, hpkeKey, group, rpsUrl: rps.url }
}
