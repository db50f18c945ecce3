/** The process: `node dist/tracking-main.js --config file.json [--init [--anew]]` (api/process.ts). */
import { readFileSync } from 'node:fs'
import { adminTokenOf } from '@milagro-ts/api/admin'
import { ConfigError, readSecret } from '@milagro-ts/api/config'
import { openDataFolder } from '@milagro-ts/api/data-folder'
import { Group } from '@milagro-ts/api/group'
import { createLog } from '@milagro-ts/api/log'
import { createMetrics } from '@milagro-ts/api/metrics'
import { Refused } from '@milagro-ts/api/problem'
import { readFlags, runProcess, say } from '@milagro-ts/api/process'
import { threadKeyCheck } from '@milagro-ts/api/server-pool'
import { systemClock, systemRandom, systemTimers } from '@milagro-ts/api/system'
import { fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { TrackStore, trackMigrations } from './track-store.js'
import { loadTrackingConfig, type TrackingConfig } from './tracking-config.js'
import { makeOrReadKeys, readKeys } from './tracking-keys.js'

await runProcess('tracking', async () => {
  const flags = readFlags({ hasAnew: true })
  const config = loadTrackingConfig(flags.config, process.env)
  const passphrase = readSecret('MILAGRO_TRACKING_PASSPHRASE', process.env)
  const { dataDir } = config
  const { init, anew } = flags
  const folder = { dataDir, database: 'tracks.sqlite', migrations: trackMigrations, init, anew }
  const store = new TrackStore(await openDataFolder<unknown>(folder))
  try {
    if (init) {
      const { requestKey, hpkeKey } = await makeOrReadKeys(dataDir, passphrase, systemRandom)
      say({
        event: 'initialised',
        name: config.name,
        requestKey: requestKey.publicKey.toBase64Url(),
        hpkeKey: toBase64Url(hpkeKey.publicKey),
      })
      await store.close()
      return null
    }
    const { requestKey, hpkeKey } = await readKeys(dataDir, passphrase)
    // Loaded only now, so that a start that is refused says so at once.
    const { createTracking } = await import('./tracking-server.js')
    const { openTlsService } = await import('@milagro-ts/tls/service')
    const group = await readGroup(config)
    const log = createLog(config.name, { level: config.logLevel ?? 'info' })
    const { name, rps } = config
    const server = createTracking({
      config,
      group,
      requestKey,
      adminToken: adminTokenOf(dataDir, systemRandom),
      store,
      random: systemRandom,
      clock: systemClock,
      timers: systemTimers,
      log,
      metrics: createMetrics('tracking'),
      fetch,
      openTls: () => openTlsService({ name, requestKey, hpkeKey, group, rpsUrl: rps.url, log, workers: 1 }),
    })
    const urls = await server.start()
    return { urls, close: () => server.close().then(() => store.close()) }
  } catch (error) {
    await store.close()
    throw error
  }
})

/** The first revision, which groupId pins, or an array of revisions from it on; else a ConfigError. */
async function readGroup({ groupFile, groupId }: TrackingConfig): Promise<Group> {
  const wrong = (why: string) => new ConfigError(`setting 'groupFile': ${why}`)
  let text: string
  try {
    text = readFileSync(groupFile, 'utf8')
  } catch (error) {
    throw wrong(`cannot read '${groupFile}' (${(error as NodeJS.ErrnoException).code ?? 'error'})`)
  }
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    throw wrong(`'${groupFile}' is not JSON`)
  }
  const documents = Array.isArray(value) ? value : [value]
  const ports = { random: systemRandom, clock: systemClock, timers: systemTimers }
  return Group.verifyChain(documents, fromBase64Url(groupId, 'groupId', 32), threadKeyCheck(ports)).catch(
    (error: unknown) => {
      if (!(error instanceof Refused) && !(error instanceof DecodeError)) throw error
      throw wrong(`'${groupFile}': ${error.message}`)
    },
  )
}
