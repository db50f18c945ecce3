/** The process: `node dist/tracking-main.js --config file.json [--init [--anew]]` (api/process.ts). */
import { adminTokenOf } from '@milagro-ts/api/admin'
import { readSecret } from '@milagro-ts/api/config'
import { openDataFolder } from '@milagro-ts/api/data-folder'
import { createLog } from '@milagro-ts/api/log'
import { createMetrics } from '@milagro-ts/api/metrics'
import { readFlags, runProcess, say } from '@milagro-ts/api/process'
import { startServerPool } from '@milagro-ts/api/server-pool'
import { systemClock, systemRandom, systemTimers } from '@milagro-ts/api/system'
import { makeService, readService } from '@milagro-ts/tls/service-folder'
import { TrackStore, trackMigrations } from './track-store.js'
import { loadTrackingConfig } from './tracking-config.js'

await runProcess('tracking', async () => {
  const flags = readFlags({ hasAnew: true })
  const config = loadTrackingConfig(flags.config, process.env)
  const passphrase = readSecret('MILAGRO_TRACKING_PASSPHRASE', process.env)
  const { dataDir, name } = config
  const { init, anew } = flags
  const folder = { dataDir, database: 'tracks.sqlite', migrations: trackMigrations, init, anew }
  const store = new TrackStore(await openDataFolder<unknown>(folder))
  try {
    if (init) {
      say({ event: 'initialised', ...(await makeService(config, passphrase)) })
      await store.close()
      return null
    }
    const parts = await readService(config, passphrase)
    // Loaded only now, so that a start that is refused says so at once.
    const { createTracking } = await import('./tracking-server.js')
    const { openTlsService } = await import('@milagro-ts/tls/service')
    const log = createLog(name, { level: config.logLevel ?? 'info' })
    const metrics = createMetrics('tracking')
    const ports = { clock: systemClock, random: systemRandom, log, metrics }
    // A thread starts with the first signature that comes.
    const pool = startServerPool({ config: { workers: 1 } }, ports)
    const { group, requestKey } = parts
    const server = createTracking({
      config,
      group,
      requestKey,
      adminToken: adminTokenOf(dataDir, systemRandom),
      store,
      pool,
      ...ports,
      timers: systemTimers,
      fetch,
      openTls: () => openTlsService({ ...parts, log, metrics, workers: 1 }),
    })
    const urls = await server.start()
    const close = async () => {
      await server.close()
      await pool.close()
      await store.close()
    }
    return { urls, close }
  } catch (error) {
    await store.close()
    throw error
  }
})
