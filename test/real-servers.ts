/**
 * Two authorities and an RPS for real, over HTTP on the loopback, in the test's process; the relying-party application
 * and the services are the caller's.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createClient } from '@milagro-ts/api/call'
import { dtaAdminRoutes, dtaRoutes } from '@milagro-ts/api/dta-routes'
import { groupMake } from '@milagro-ts/api/founding'
import { proposalHash } from '@milagro-ts/api/group'
import type { GroupProposal } from '@milagro-ts/api/group-document'
import { createLog } from '@milagro-ts/api/log'
import { createMetrics } from '@milagro-ts/api/metrics'
import { systemClock, systemRandom } from '@milagro-ts/api/system'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { createDta, openKeys as openDtaKeys } from '@milagro-ts/dta/server'
import { dtaMigrations } from '@milagro-ts/dta/tables'
import type { AudiencePolicy } from '@milagro-ts/rps/config'
import { createRps, openKeys as openRpsKeys } from '@milagro-ts/rps/server'
import { rpsMigrations } from '@milagro-ts/rps/tables'
import { openDatabase } from '@milagro-ts/store/database'
import { freePort } from './free-port.js'

const HERE = { host: '127.0.0.1', port: 0 }
export const PORTS = { clock: systemClock, random: systemRandom, passphrase: 'a passphrase of the test’s' }
export const quiet = (name: string) => ({
  log: createLog(name, { level: 'silent' }),
  metrics: createMetrics(name),
})

export interface Founding {
  /** The RA's keys in the group document. */
  readonly raKeys: readonly { readonly kid: string; readonly key: string }[]
  /** Further recipients: services and, if it is one, the application. */
  readonly recipients?: readonly {
    readonly name: string
    readonly hpkeKey: string
    readonly requestKey: string
  }[]
  readonly audiences: readonly AudiencePolicy[]
  /** A fresh RPS takes no one-pass proof before so many seconds have gone by. */
  readonly deltaSeconds?: number
}

export class RealServers {
  readonly folder: string
  readonly rpsUrl: string
  /** Where the application is to listen. */
  readonly rpaUrl: string
  /** Written by `found`. */
  readonly groupFile: string
  groupId = ''
  readonly #ending: (() => Promise<unknown>)[] = []

  private constructor(folder: string, [rps, rpa]: readonly [number, number]) {
    this.folder = folder
    this.groupFile = join(folder, 'group.json')
    this.rpsUrl = `http://127.0.0.1:${rps}`
    this.rpaUrl = `http://127.0.0.1:${rpa}`
  }

  static async make(): Promise<RealServers> {
    const folder = await mkdtemp(join(tmpdir(), 'milagro-real-'))
    return new RealServers(folder, [await freePort(), await freePort()])
  }

  /** The last one first; the folder goes at the end. */
  onClose(end: () => Promise<unknown>): void {
    this.#ending.unshift(end)
  }
  async close(): Promise<void> {
    for (const end of this.#ending) await end()
    await rm(this.folder, { recursive: true })
  }

  /** Founds the group and writes its document; returns what starts the RPS, once the application listens. */
  async found({
    raKeys,
    recipients = [],
    audiences,
    deltaSeconds = 60,
  }: Founding): Promise<() => Promise<void>> {
    const authorities = await Promise.all([1, 2].map(index => this.#authority(index)))
    const settings = {
      name: 'rps',
      dataDir: join(this.folder, 'rps'),
      listen: { ...HERE, port: Number(new URL(this.rpsUrl).port) },
      workers: 0,
      adminListen: HERE,
      publicUrl: this.rpsUrl,
      groupFile: this.groupFile,
      groupId: '',
      rpa: { url: this.rpaUrl },
      audiences: [...audiences],
      deltaSeconds,
    }
    const { requestKey, hpkeKey } = await openRpsKeys({ ...PORTS, config: settings })
    const proposal: GroupProposal = {
      suite: 'BLS12381-SHA256-V1',
      v: 1,
      n: 2,
      t: 2,
      authorities: authorities.map(({ index, name, url, keys }) => ({
        index,
        name,
        url,
        signKey: keys.signKey.publicKey.toBase64Url(),
        hpkeKey: toBase64Url(keys.hpkeKey.publicKey),
      })),
      ra: { m: 1, keys: [...raKeys] },
      recipients: [
        {
          name: 'rps',
          kind: 2,
          generation: 1,
          purposes: ['device', 'pin'],
          hpkeKey: toBase64Url(hpkeKey.publicKey),
          requestKey: requestKey.publicKey.toBase64Url(),
        },
        ...recipients.map(recipient => ({ ...recipient, kind: 2, generation: 1, purposes: [] })),
      ],
      slot: { origin: 1_767_225_600, length: 86_400 },
      policy: { lead: 1, grace: 300 },
      firstSlot: 0,
      nonce: toBase64Url(systemRandom(32)),
    }
    const hash = toBase64Url(proposalHash(proposal))
    for (const { admin } of authorities) await admin.accept({ body: { hash } })
    const clients = authorities.map(({ url }) => createClient(dtaRoutes, { baseUrl: url }))
    const group = await groupMake({ proposal, clients })
    this.groupId = toBase64Url(group.groupId)
    await writeFile(this.groupFile, JSON.stringify(group.documents))
    return async () => {
      const store = await openDatabase<unknown>({ file: ':memory:', migrations: rpsMigrations })
      const config = { ...settings, groupId: this.groupId }
      const rps = await createRps({ ...PORTS, config, store, ...quiet('rps') })
      await rps.start()
      this.onClose(async () => {
        await rps.close()
        await store.close()
      })
    }
  }

  async #authority(index: number) {
    const name = `ta${index}`
    const config = { name, listen: HERE, adminListen: HERE, dataDir: join(this.folder, name), workers: 0 }
    const store = await openDatabase<unknown>({ file: ':memory:', migrations: dtaMigrations })
    const keys = await openDtaKeys({ ...PORTS, config, store })
    const dta = await createDta({ ...PORTS, config, store, ...quiet(name) })
    const { url, adminUrl } = await dta.start()
    this.onClose(async () => {
      await dta.close()
      await store.close()
    })
    const authorize = async () => `Bearer ${dta.adminToken}`
    const admin = createClient(dtaAdminRoutes, { baseUrl: adminUrl, authorize })
    return { index, name, url, keys, admin }
  }
}
