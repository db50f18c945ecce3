/**
 * The server as a process: `--config file.json [--init]`. Says on standard output, in one JSON line, that it is ready
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
import { loadRpsConfig, readPassphrase } from './config.js'
import { createRps, openKeys, type RpsOptions } from './server.js'
import { rpsMigrations } from './tables.js'

/** Never rejects: what goes wrong is said, and is the exit code. */
export function runRps(ports: Pick<RpsOptions, 'verify'> = {}): Promise<void> {
  return run(ports).catch(fail)
}

async function run(ports: Pick<RpsOptions, 'verify'>): Promise<void> {
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
    return
  }
  const file = join(config.dataDir, 'rps.sqlite')
  const store = await openDatabase<unknown>({ file, migrations: rpsMigrations })
  try {
    const rps = await createRps({
      config,
      passphrase,
      store,
      clock: systemClock,
      random: systemRandom,
      ...ports,
    })
    const urls = await rps.start()
    const end = () => {
      process.off('SIGTERM', end).off('SIGINT', end)
      rps
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
  process.stderr.write(`milagro rps: ${reasonOf(error)}\n`)
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
