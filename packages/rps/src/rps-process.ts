/** The process: `--config file.json [--init]` (api/process.ts); --init says which keys it has made. */
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { readFlags, runProcess, say } from '@milagro-ts/api/process'
import { systemClock, systemRandom } from '@milagro-ts/api/system'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { openDatabase } from '@milagro-ts/store/database'
import { loadRpsConfig, readPassphrase } from './config.js'
import { createRps, openKeys, type RpsOptions } from './server.js'
import { rpsMigrations } from './tables.js'

/** `verify` lets a test run a server that verifies wrongly. Never rejects. */
export function runRps(ports: Pick<RpsOptions, 'verify'> = {}): Promise<void> {
  return runProcess('rps', async () => {
    const flags = readFlags()
    const config = loadRpsConfig(flags.config, process.env)
    const passphrase = readPassphrase(process.env)
    await mkdir(config.dataDir, { recursive: true, mode: 0o700 })
    if (flags.init) {
      const { requestKey, hpkeKey } = await openKeys({ config, passphrase, random: systemRandom })
      say({
        event: 'initialised',
        name: config.name,
        requestKey: requestKey.publicKey.toBase64Url(),
        hpkeKey: toBase64Url(hpkeKey.publicKey),
      })
      return null
    }
    const file = join(config.dataDir, 'rps.sqlite')
    const store = await openDatabase<unknown>({ file, migrations: rpsMigrations })
    try {
      const options = { config, passphrase, store, clock: systemClock, random: systemRandom, ...ports }
      const rps = await createRps(options)
      const urls = await rps.start()
      return { urls, close: () => rps.close().then(() => store.close()) }
    } catch (error) {
      await store.close()
      throw error
    }
  })
}
