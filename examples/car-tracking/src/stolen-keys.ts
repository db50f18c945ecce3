/** What a thief of a server's data folder and passphrase would hold; `--check` plays the thief. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Es256PrivateKey } from '@milagro-ts/api/keys'
import type { Signer } from '@milagro-ts/api/statements'
import { systemClock, systemRandom } from '@milagro-ts/api/system'
import { loadFleetConfig } from '@milagro-ts/fleet/config'
import { type FleetSchema, migrations } from '@milagro-ts/fleet/schema'
import { openFleetKeys } from '@milagro-ts/fleet/server'
import { rpsKeys } from '@milagro-ts/rps/rps-keys'
import { openDatabase } from '@milagro-ts/store/database'

/** The key that proves the RPS to authorities and RPA. */
export async function stolenRequestKey(folder: string): Promise<Es256PrivateKey> {
  const { requestKey } = await rpsKeys.read({
    dataDir: join(folder, 'rps'),
    name: 'rps',
    passphrase: await passphraseOf(folder, 'rps'),
  })
  return requestKey
}

/** The RA's newest ticket key. */
export async function stolenTicketKey(folder: string): Promise<Signer> {
  const config = loadFleetConfig(join(folder, 'fleet.json'), {})
  const store = await openDatabase<FleetSchema>({ file: join(config.dataDir, 'fleet.sqlite'), migrations })
  try {
    const { signers } = await openFleetKeys({
      config,
      passphrase: await passphraseOf(folder, 'fleet'),
      store,
      random: systemRandom,
      clock: systemClock,
    })
    const signer = signers.at(-1)
    if (signer === undefined) throw new TypeError('fleet has no ticket key')
    return signer
  } finally {
    await store.close()
  }
}

async function passphraseOf(folder: string, server: string): Promise<string> {
  return (await readFile(join(folder, `${server}.passphrase`), 'utf8')).trim()
}
