/** The process: `node main.js --config file.json [--init]` (api/process.ts); --init says which keys it has made. */
import { openDataFolder } from '@milagro-ts/api/data-folder'
import { readFlags, runProcess, say } from '@milagro-ts/api/process'
import { systemClock, systemRandom } from '@milagro-ts/api/system'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { loadDtaConfig, readPassphrase } from './config.js'
import { LedgerMark } from './ledger-mark.js'
import { dtaMigrations } from './tables.js'

await runProcess('dta', async () => {
  const flags = readFlags()
  const config = loadDtaConfig(flags.config, process.env)
  const passphrase = readPassphrase(process.env)
  const { dataDir } = config
  const store = await openDataFolder<unknown>({
    dataDir,
    database: 'dta.sqlite',
    migrations: dtaMigrations,
    init: flags.init,
    belongs: async store => {
      const issuedIn = (await LedgerMark.open(dataDir)).groupIds
      const { servedIds } = await import('./groups.js')
      const served = await servedIds(store)
      return issuedIn.every(groupId => served.has(groupId))
    },
  })
  // Loaded only now, so that a start that is refused says so at once.
  const { createDta, openKeys } = await import('./server.js')
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
    return { urls, reload: dta.reloadPolicy, close: () => dta.close().then(() => store.close()) }
  } catch (error) {
    await store.close()
    throw error
  }
})
