/** The process: `--config file.json [--init [--anew]]` (api/process.ts); --init says which keys it has made. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { openDataFolder } from '@milagro-ts/api/data-folder'
import { readFlags, runProcess, say } from '@milagro-ts/api/process'
import { systemClock, systemRandom } from '@milagro-ts/api/system'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { loadInitConfig, loadRpsConfig, readPassphrase } from './config.js'
import type { RpsOptions } from './server.js'
import { rpsMigrations, wasServed } from './tables.js'

/** `verify` lets a test run a server that verifies wrongly. Never rejects. */
export function runRps(ports: Pick<RpsOptions, 'verify'> = {}): Promise<void> {
  return runProcess('rps', async () => {
    const flags = readFlags({ hasAnew: true })
    const config = flags.init ? null : loadRpsConfig(flags.config, process.env)
    const { name, dataDir } = config ?? loadInitConfig(flags.config, process.env)
    const passphrase = readPassphrase(process.env)
    const store = await openDataFolder<unknown>({
      dataDir,
      database: 'rps.sqlite',
      migrations: rpsMigrations,
      init: flags.init,
      anew: flags.anew,
      belongs: async store =>
        flags.anew || !existsSync(join(dataDir, 'server-keys.sealed')) || store.atomic(wasServed),
    })
    try {
      // Loaded only now, so that a start that is refused says so at once.
      const [{ createRps, openKeys }, { beginAnew }] = await Promise.all([
        import('./server.js'),
        import('./restore.js'),
      ])
      if (flags.anew) await beginAnew(store, systemClock())
      if (config === null) {
        const { requestKey, hpkeKey } = await openKeys({
          config: { name, dataDir },
          passphrase,
          random: systemRandom,
        })
        say({
          event: 'initialised',
          name,
          requestKey: requestKey.publicKey.toBase64Url(),
          hpkeKey: toBase64Url(hpkeKey.publicKey),
        })
        await store.close()
        return null
      }
      const options = { config, passphrase, store, clock: systemClock, random: systemRandom, ...ports }
      const rps = await createRps(options)
      const urls = await rps.start()
      const { renewCertificate: reload } = rps
      return {
        urls,
        ...(reload === undefined ? {} : { reload }),
        close: () => rps.close().then(() => store.close()),
      }
    } catch (error) {
      await store.close()
      throw error
    }
  })
}
