/** A whole system in the test's process: one authority, RPS and fleet, and the setup code of its first operator. */
import { type Es256PrivateKey, generateHpkeKey } from '@milagro-ts/api/keys'
import { systemClock, systemRandom } from '@milagro-ts/api/system'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { publicKeysFault } from '@milagro-ts/crypto/server-key'
import { type FleetSchema, migrations } from '@milagro-ts/fleet/schema'
import { createFleet, openFleetKeys } from '@milagro-ts/fleet/server'
import type { AudiencePolicy } from '@milagro-ts/rps/config'
import { createRps, openKeys } from '@milagro-ts/rps/server'
import { rpsMigrations } from '@milagro-ts/rps/tables'
import { openDatabase, type Store } from '@milagro-ts/store/database'
import { freePort } from '../../../test/free-port.js'
import { type Folder, milagro, silent } from './world.js'

export const PASSPHRASE = 'test'

export interface RunningFleet {
  readonly fleet: string
  readonly rps: string
  readonly dta: string
  /** Settings of each authority, for its operator's commands. */
  readonly dtaConfigs: readonly string[]
  readonly groupId: string
  readonly setupCode: string
  readonly operator: string
  /** What the RA signs with. */
  readonly ra: { readonly kid: string; readonly key: Es256PrivateKey }
  /** Settings of the RPS, for commands that work as it. */
  readonly rpsConfig: string
  readonly fleetStore: Store<FleetSchema>
}

/** What a test adds to the group: servers by their public keys, and what vehicles get keys for. */
export interface FleetOptions {
  /** 1 unless said; all of them are needed. */
  readonly authorities?: number
  readonly recipients?: readonly {
    readonly name: string
    readonly kind: 2 | 3
    readonly requestKey: string
    readonly hpkeKey: string
    /** `agree` unless said. */
    readonly purposes?: readonly string[]
  }[]
  readonly devicePurposes?: ('device' | 'agree' | 'sign' | 'encrypt')[]
  /** Beside fleet's, and one by the name of each recipient where it isn't among these. */
  readonly audiences?: readonly AudiencePolicy[]
  /** A fresh RPS takes no one-pass proof before so many seconds have gone by. */
  readonly deltaSeconds?: number
}

export async function runFleet(
  folder: Folder,
  {
    authorities = 1,
    recipients = [],
    devicePurposes = ['device', 'sign', 'encrypt'],
    audiences = [],
    deltaSeconds,
  }: FleetOptions = {},
): Promise<RunningFleet> {
  const members = await Promise.all(
    Array.from({ length: authorities }, (_, i) => folder.authority(`ta${i + 1}`)),
  )
  const [rpsPort, fleetPort] = [await freePort(), await freePort()]
  const [rps, fleet] = [`http://127.0.0.1:${rpsPort}`, `http://127.0.0.1:${fleetPort}`]
  const common = { adminListen: { host: '127.0.0.1', port: 0 }, groupFile: folder.file('group.json') }
  const ports = { passphrase: PASSPHRASE, clock: systemClock, random: systemRandom, log: silent() }

  const fleetStore = await openDatabase<FleetSchema>({ file: ':memory:', migrations })
  const fleetConfig = {
    ...common,
    name: 'fleet',
    listen: { host: '127.0.0.1', port: fleetPort },
    publicUrl: fleet,
    dataDir: folder.file('fleet'),
    rps: { url: rps },
    rpsName: 'rps',
    devicePurposes,
  }
  const rpsConfig = {
    ...common,
    name: 'rps',
    listen: { host: '127.0.0.1', port: rpsPort },
    publicUrl: rps,
    dataDir: folder.file('rps'),
    rpa: { url: fleet },
    audiences: [
      { name: fleet, service: 'fleet', pin: 'optional' as const, tlsExporter: 'absent' as const },
      ...audiences,
      ...recipients
        .filter(({ name }) => audiences.every(audience => audience.name !== name))
        .map(({ name }) => ({
          name,
          service: name,
          pin: 'optional' as const,
          tlsExporter: 'absent' as const,
        })),
    ],
    ...(deltaSeconds === undefined ? {} : { deltaSeconds }),
    groupId: '',
  }
  const rpsKeys = await openKeys({ config: rpsConfig, ...ports })
  const fleetKeys = await openFleetKeys({ config: fleetConfig, store: fleetStore, ...ports })
  const recipient = async (name: string, purposes: string[], requestKey: string, hpkeKey: Uint8Array) => ({
    name,
    kind: 2,
    generation: 1,
    purposes,
    hpkeKey: toBase64Url(hpkeKey),
    requestKey,
  })
  const plan = await folder.write('plan.json', {
    authorities: members.map(({ url }) => url),
    t: authorities,
    ra: { m: 1, keys: fleetKeys.signers.map(({ kid, key }) => ({ kid, key: key.publicKey.toBase64Url() })) },
    recipients: [
      await recipient(
        'rps',
        ['device', 'pin'],
        rpsKeys.requestKey.publicKey.toBase64Url(),
        rpsKeys.hpkeKey.publicKey,
      ),
      await recipient(
        'fleet',
        [],
        fleetKeys.requestKey.publicKey.toBase64Url(),
        (await generateHpkeKey(systemRandom)).publicKey,
      ),
      ...recipients.map(added => ({ purposes: ['agree'], ...added, generation: 1 })),
    ],
    slot: { length: 86_400 },
    policy: { lead: 1, grace: 300 },
  })
  const make = [
    'group',
    'make',
    plan,
    '--proposal',
    folder.file('proposal.json'),
    '--out',
    folder.file('group.json'),
  ]
  const { proposalHash } = (await milagro(...make, '--json')).json
  for (const { config } of members)
    await milagro('group', 'accept', proposalHash as string, '--config', config)
  const groupId = (await milagro(...make, '--json')).json.groupId as string

  const rpsStore = await openDatabase<unknown>({ file: ':memory:', migrations: rpsMigrations })
  const rpsServer = await createRps({
    config: { ...rpsConfig, groupId, workers: 0 },
    store: rpsStore,
    ...ports,
    // What is drawn in one byte is the moment at which the next slot's permits are made: the first, whatever the time of day.
    random: length => (length === 1 ? new Uint8Array(1) : systemRandom(length)),
  })
  const fleetServer = await createFleet({
    keyCheck: publicKeysFault,
    config: { ...fleetConfig, groupId },
    store: fleetStore,
    ...ports,
  })
  await rpsServer.start()
  await fleetServer.start()
  folder.onClose(async () => {
    await Promise.all([rpsServer.close(), fleetServer.close()])
    await Promise.all([rpsStore.close(), fleetStore.close()])
  })
  const setup = await fleetServer.setupCode()
  if (setup === null) throw new Error('fleet made no setup code')
  const rpsFile = await folder.write('rps.json', { ...rpsConfig, groupId, workers: 0 })
  const [ra] = fleetKeys.signers
  if (ra === undefined) throw new Error('fleet has no RA key')
  return {
    fleet,
    rps,
    dta: (members[0] as { url: string }).url,
    dtaConfigs: members.map(({ config }) => config),
    groupId,
    setupCode: setup.code,
    operator: setup.operator,
    ra,
    rpsConfig: rpsFile,
    fleetStore,
  }
}
