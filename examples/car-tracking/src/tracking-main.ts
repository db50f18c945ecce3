/**
 * The tracking server's process: `node dist/tracking-main.js --config file.json [--init]`. One JSON line on standard
 * output when it is ready (`--init`: with its public keys, and it ends). A wrong setting is one line and exit code 2.
 */
import { mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { adminTokenOf } from '@milagro-ts/api/admin'
import { ConfigError, readSecret } from '@milagro-ts/api/config'
import { Group } from '@milagro-ts/api/group'
import { createLog } from '@milagro-ts/api/log'
import { createMetrics } from '@milagro-ts/api/metrics'
import { systemClock, systemRandom, systemTimers } from '@milagro-ts/api/system'
import { fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import { TrackStore } from './track-store.js'
import { loadTrackingConfig, type TrackingConfig } from './tracking-config.js'
import { makeOrReadKeys, readKeys } from './tracking-keys.js'
import { createTracking } from './tracking-server.js'

const PASSPHRASE = 'MILAGRO_TRACKING_PASSPHRASE'

try {
  const { values } = parseArgs({
    options: { config: { type: 'string' }, init: { type: 'boolean', default: false } },
  })
  const config = loadTrackingConfig(values.config, process.env)
  mkdirSync(config.dataDir, { recursive: true, mode: 0o700 })
  await (values.init ? init(config) : serve(config))
} catch (error) {
  fail(error)
}

/** One clear line, and the exit code: 2 for wrong settings, 1 for anything else. */
function fail(error: unknown): void {
  const { code, message, address, port } = error as NodeJS.ErrnoException & {
    address?: string
    port?: number
  }
  process.stderr.write(`tracking: ${code === 'EADDRINUSE' ? `${address}:${port} is taken` : message}\n`)
  const isUsage = error instanceof ConfigError || code?.startsWith('ERR_PARSE_ARGS')
  process.exitCode = isUsage ? 2 : 1
}

async function init(config: TrackingConfig): Promise<void> {
  const { requestKey, hpkeKey } = await makeOrReadKeys(
    config.dataDir,
    readSecret(PASSPHRASE, process.env),
    systemRandom,
  )
  say({
    event: 'initialised',
    name: config.name,
    requestKey: requestKey.publicKey.toBase64Url(),
    hpkeKey: toBase64Url(hpkeKey.publicKey),
  })
}

async function serve(config: TrackingConfig): Promise<void> {
  const { requestKey } = await readKeys(config.dataDir, readSecret(PASSPHRASE, process.env))
  const group = await readGroup(config)
  const server = createTracking({
    config,
    group,
    requestKey,
    adminToken: adminTokenOf(config.dataDir, systemRandom),
    store: await TrackStore.open(join(config.dataDir, 'tracks.sqlite')),
    random: systemRandom,
    clock: systemClock,
    timers: systemTimers,
    log: createLog(config.name, { level: config.logLevel ?? 'info' }),
    metrics: createMetrics('tracking'),
    fetch,
  })
  const close = () => void server.close().catch(fail)
  process.once('SIGTERM', close)
  process.once('SIGINT', close)
  try {
    say({ event: 'ready', ...(await server.start()), pid: process.pid })
  } catch (error) {
    await server.close()
    throw error
  }
}

/** The document that groupId pins, or a ConfigError. */
async function readGroup({ groupFile, groupId }: TrackingConfig): Promise<Group> {
  let document: unknown
  try {
    document = JSON.parse(readFileSync(groupFile, 'utf8'))
  } catch (error) {
    throw new ConfigError(`groupFile: cannot read '${groupFile}' (${(error as Error).message})`)
  }
  return Group.verifyChain([document], fromBase64Url(groupId, 'groupId', 32))
}

function say(event: Readonly<Record<string, unknown>>): void {
  process.stdout.write(`${JSON.stringify(event)}\n`)
}
