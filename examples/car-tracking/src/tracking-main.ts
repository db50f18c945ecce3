/** The process: `node dist/tracking-main.js --config file.json [--init]` (api/process.ts). */
import { readFileSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { adminTokenOf } from '@milagro-ts/api/admin'
import { ConfigError, readSecret } from '@milagro-ts/api/config'
import { Group } from '@milagro-ts/api/group'
import { createLog } from '@milagro-ts/api/log'
import { createMetrics } from '@milagro-ts/api/metrics'
import { readFlags, runProcess, say } from '@milagro-ts/api/process'
import { systemClock, systemRandom, systemTimers } from '@milagro-ts/api/system'
import { fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import { TrackStore } from './track-store.js'
import { loadTrackingConfig, type TrackingConfig } from './tracking-config.js'
import { makeOrReadKeys, readKeys } from './tracking-keys.js'
import { createTracking } from './tracking-server.js'

await runProcess('tracking', async () => {
  const flags = readFlags()
  const config = loadTrackingConfig(flags.config, process.env)
  const passphrase = readSecret('MILAGRO_TRACKING_PASSPHRASE', process.env)
  await mkdir(config.dataDir, { recursive: true, mode: 0o700 })
  if (flags.init) {
    const { requestKey, hpkeKey } = await makeOrReadKeys(config.dataDir, passphrase, systemRandom)
    say({
      event: 'initialised',
      name: config.name,
      requestKey: requestKey.publicKey.toBase64Url(),
      hpkeKey: toBase64Url(hpkeKey.publicKey),
    })
    return null
  }
  const { requestKey } = await readKeys(config.dataDir, passphrase)
  const store = await TrackStore.open(join(config.dataDir, 'tracks.sqlite'))
  try {
    const server = createTracking({
      config,
      group: await readGroup(config),
      requestKey,
      adminToken: adminTokenOf(config.dataDir, systemRandom),
      store,
      random: systemRandom,
      clock: systemClock,
      timers: systemTimers,
      log: createLog(config.name, { level: config.logLevel ?? 'info' }),
      metrics: createMetrics('tracking'),
      fetch,
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
  let document: unknown
  try {
    document = JSON.parse(readFileSync(groupFile, 'utf8'))
  } catch (error) {
    throw new ConfigError(`groupFile: cannot read '${groupFile}' (${(error as Error).message})`)
  }
  return Group.verifyChain(
    Array.isArray(document) ? document : [document],
    fromBase64Url(groupId, 'groupId', 32),
  )
}
