/**
 * The process: `node main.js --config file.json [--init | --operator-code NAME]`. Says on standard output, one JSON
 * line each, which code enrols the first operator (at the first start), by which command, and that it is ready; with
 * --init, which keys it has made; with --operator-code, a code for an operator, for the day when none of them can log in.
 */
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { ConfigError } from '@milagro-ts/api/config'
import { openDataFolder } from '@milagro-ts/api/data-folder'
import { readFlags, runProcess, say } from '@milagro-ts/api/process'
import { systemClock, systemRandom } from '@milagro-ts/api/system'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { loadFleetConfig, readPassphrase } from './config.js'
import { type FleetSchema, migrations } from './schema.js'

/** Beside this file, where the pages were built. */
const built = fileURLToPath(new URL('./pages/', import.meta.url))
const pagesFolder = existsSync(built) ? built : undefined

await runProcess('fleet', async () => {
  const flags = readFlags({ values: ['operator-code'] })
  const operator = operatorName(flags['operator-code'])
  const config = loadFleetConfig(flags.config, process.env)
  const passphrase = readPassphrase(process.env)
  const store = await openDataFolder<FleetSchema>({
    dataDir: config.dataDir,
    database: 'fleet.sqlite',
    migrations,
    init: flags.init,
    beside: operator !== undefined,
  })
  // Loaded only now, so that a start that is refused says so at once.
  const { createFleet, openFleetKeys } = await import('./server.js')
  const options = { config, passphrase, store, clock: systemClock, random: systemRandom, pagesFolder }
  try {
    if (flags.init) {
      const { requestKey, hpkeKey, signers } = await openFleetKeys(options)
      say({
        event: 'initialised',
        name: config.name,
        raKeys: signers.map(({ kid, key }) => ({ kid, key: key.publicKey.toBase64Url() })),
        requestKey: requestKey.publicKey.toBase64Url(),
        hpkeKey: toBase64Url(hpkeKey.publicKey),
      })
      await store.close()
      return null
    }
    const fleet = await createFleet(options)
    if (operator !== undefined) {
      say({ event: 'operator-code', ...(await fleet.recoveryCode(operator)) })
      await fleet.close()
      await store.close()
      return null
    }
    const urls = await fleet.start()
    const setupCode = await fleet.setupCode()
    if (setupCode !== null) say({ event: 'setup-code', ...setupCode })
    return { urls, close: () => fleet.close().then(() => store.close()) }
  } catch (error) {
    await store.close()
    throw error
  }
})

function operatorName(value: string | undefined): string | undefined {
  if (value !== undefined && !/^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$/.test(value))
    throw new ConfigError('--operator-code wants a name of [a-z0-9._-]')
  return value
}
