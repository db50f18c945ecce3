/** Health and metrics of a process that has no admin route: its admin listener, where the settings have one. */
import { createAdmin, type Readiness } from '@milagro-ts/api/admin'
import { refuseListen, urlOf } from '@milagro-ts/api/listen'
import type { Log } from '@milagro-ts/api/log'
import type { Metrics } from '@milagro-ts/api/metrics'
import { systemRandom } from '@milagro-ts/api/system'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import type { AdminListen } from './gateway-config.js'

export interface AdminListenerOptions {
  readonly title: string
  readonly log: Log
  readonly metrics: Metrics
  readonly ready: () => Promise<Readiness>
}

export interface AdminListener {
  /** Empty where nothing listens. */
  readonly urls: { readonly adminUrl?: string }
  close(): Promise<void>
}

/** Listens on the loopback unless `host` says otherwise; without the setting nowhere. PortTaken, ConfigError. */
export async function openAdmin(
  setting: AdminListen | undefined,
  options: AdminListenerOptions,
): Promise<AdminListener> {
  if (setting === undefined) return { urls: {}, close: async () => undefined }
  const { host = '127.0.0.1', port } = setting
  const admin = createAdmin({
    ...options,
    // There is no admin route: nobody needs to know it.
    adminToken: toBase64Url(systemRandom(32)),
    table: {},
    handlers: {},
  })
  await admin
    .listen({ host, port })
    .catch((error: unknown) => refuseListen('adminListen', { host, port }, error))
  return { urls: { adminUrl: urlOf(admin) }, close: () => admin.close() }
}
