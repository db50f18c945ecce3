/**
 * The process: `node main.js --config file.json [--init | --operator-code NAME]`. Says on standard output, one JSON
 * line each, which code enrols the first operator (at the first start) and that it is ready; with --init, which keys
 * it has made; with --operator-code, a code for an operator, for the day when none of them can log in.
 * A start that fails says why in one line on standard error.
 * Exit codes: 2 for settings, passphrase and usage; 1 for a store that can't be used and a port that is taken.
 */
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { ConfigError } from '@milagro-ts/api/config'
import { Refused } from '@milagro-ts/api/problem'
import { systemClock, systemRandom } from '@milagro-ts/api/system'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { openDatabase } from '@milagro-ts/store/database'
import { StoreError } from '@milagro-ts/store/store-error'
import { loadFleetConfig, readPassphrase } from './config.js'
import { type FleetSchema, migrations } from './schema.js'
import { createFleet, openFleetKeys } from './server.js'

async function main(): Promise<void> {
  const flags = readFlags()
  const config = loadFleetConfig(flags.config, process.env)
  const passphrase = readPassphrase(process.env)
  await mkdir(config.dataDir, { recursive: true, mode: 0o700 })
  const file = join(config.dataDir, 'fleet.sqlite')
  const store = await openDatabase<FleetSchema>({ file, migrations })
  const options = { config, passphrase, store, clock: systemClock, random: systemRandom }
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
      return
    }
    const fleet = await createFleet(options)
    if (flags.operatorCode !== undefined) {
      say({
        event: 'operator-code',
        operator: flags.operatorCode,
        ...(await fleet.recoveryCode(flags.operatorCode)),
      })
      await fleet.close()
      await store.close()
      return
    }
    const urls = await fleet.start()
    const end = () => {
      process.off('SIGTERM', end).off('SIGINT', end)
      fleet
        .close()
        .then(() => store.close())
        .catch(fail)
    }
    process.on('SIGTERM', end).on('SIGINT', end)
    if (fleet.setupCode !== null) say({ event: 'setup-code', ...fleet.setupCode })
    say({ event: 'ready', ...urls, pid: process.pid })
  } catch (error) {
    await store.close()
    throw error
  }
}

interface Flags {
  readonly config: string | undefined
  readonly init: boolean
  readonly operatorCode: string | undefined
}

function readFlags(): Flags {
  let values: { config?: string; init?: boolean; 'operator-code'?: string }
  try {
    values = parseArgs({
      options: {
        config: { type: 'string' },
        init: { type: 'boolean' },
        'operator-code': { type: 'string' },
      },
    }).values
  } catch (error) {
    throw new ConfigError((error as Error).message)
  }
  const operatorCode = values['operator-code']
  if (operatorCode !== undefined && !/^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$/.test(operatorCode))
    throw new ConfigError('--operator-code wants a name of [a-z0-9._-]')
  return { config: values.config, init: values.init === true, operatorCode }
}

function say(event: object): void {
  process.stdout.write(`${JSON.stringify(event)}\n`)
}

function fail(error: unknown): void {
  process.exitCode = error instanceof ConfigError ? 2 : 1
  process.stderr.write(`milagro fleet: ${reasonOf(error)}\n`)
}

function reasonOf(error: unknown): string {
  if (error instanceof ConfigError || error instanceof StoreError || error instanceof Refused)
    return error.message
  const { code, address, port, message } = error as NodeJS.ErrnoException & {
    address?: string
    port?: number
  }
  if (code === 'EADDRINUSE') return `${address}:${port} is taken`
  return message
}

await main().catch(fail)
