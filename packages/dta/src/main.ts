/** The process: `node main.js --config file.json [--init]` (api/process.ts); --init says which keys it has made. */
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { readFlags, runProcess, say } from '@milagro-ts/api/process'
import { systemClock, systemRandom } from '@milagro-ts/api/system'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { openDatabase } from '@milagro-ts/store/database'
import { loadDtaConfig, readPassphrase } from './config.js'
import { createDta, openKeys } from './server.js'
import { dtaMigrations } from './tables.js'

await runProcess('dta', async () => {
  const flags = readFlags()
  const config = loadDtaConfig(flags.config, process.env)
  const passphrase = readPassphrase(process.env)
  await mkdir(config.dataDir, { recursive: true, mode: 0o700 })
  const store = await openDatabase<unknown>({
    file: join(config.dataDir, 'dta.sqlite'),
    migrations: dtaMigrations,
  })
  const options = { config, passphrase, store, clock: systemClock, random: systemRandom }
  try {
    if (flags.init) {
      const { signKey, hpkeKey } = await openKeys(options)
      say({
        event: 'initialised',
        name: config.name,
        signKey: signKey.publicKey.toBase64Url(),
        hpkeKey: toBase64Url(hpkeKey.publicKey),
      })
      await store.close()
      return null
    }
    const dta = await createDta(options)
    const urls = await dta.start()
    return { urls, close: () => dta.close().then(() => store.close()) }
  } catch (error) {
    await store.close()
    throw error
  }
})
