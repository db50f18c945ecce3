/**
 * The process: `node main.js --config file.json [--init]`. Says on standard output, in one JSON line, that it is ready
 * (or, with --init, which keys it has made); a start that fails says why in one line on standard error.
 * Exit codes: 2 for settings, passphrase and usage; 1 for a store that can't be used and a port that is taken.
 */
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { ConfigError } from '@milagro-ts/api/config'
import { systemClock, systemRandom } from '@milagro-ts/api/system'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { openDatabase } from '@milagro-ts/store/database'
import { StoreError } from '@milagro-ts/store/store-error'
import { loadDtaConfig, readPassphrase } from './config.js'
import { createDta, openKeys } from './server.js'
import { dtaMigrations } from './tables.js'

async function main(): Promise<void> {
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
      return
    }
    const dta = await createDta(options)
    const urls = await dta.start()
    const end = () => {
      process.off('SIGTERM', end).off('SIGINT', end)
      dta
        .close()
        .then(() => store.close())
        .catch(fail)
    }
    process.on('SIGTERM', end).on('SIGINT', end)
    say({ event: 'ready', ...urls, pid: process.pid })
  } catch (error) {
    await store.close()
    throw error
  }
}

function readFlags(): { config?: string | undefined; init: boolean } {
  try {
    const { values } = parseArgs({
      options: { config: { type: 'string' }, init: { type: 'boolean', default: false } },
    })
    return { config: values.config, init: values.init }
  } catch (error) {
    throw new ConfigError((error as Error).message)
  }
}

function say(event: object): void {
  process.stdout.write(`${JSON.stringify(event)}\n`)
}

function fail(error: unknown): void {
  process.exitCode = error instanceof ConfigError ? 2 : 1
  process.stderr.write(`milagro dta: ${reasonOf(error)}\n`)
}

function reasonOf(error: unknown): string {
  if (error instanceof ConfigError || error instanceof StoreError) return error.message
  const { code, address, port, message } = error as NodeJS.ErrnoException & {
    address?: string
    port?: number
  }
  if (code === 'EADDRINUSE') return `${address}:${port} is taken`
  return message
}

await main().catch(fail)
