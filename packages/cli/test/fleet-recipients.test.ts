/** Other recipients by `milagro fleet recipients`, with two real authorities, the RPS and fleet: who gets keys, and who no more. */
import { readFile } from 'node:fs/promises'
import { createClient } from '@milagro-ts/api/call'
import { dtaRoutes } from '@milagro-ts/api/dta-routes'
import { Group } from '@milagro-ts/api/group'
import { type Es256PrivateKey, generateEs256, generateHpkeKey, type HpkeKeyPair } from '@milagro-ts/api/keys'
import { Refused } from '@milagro-ts/api/problem'
import { requestSigner } from '@milagro-ts/api/request-auth'
import { rpsRoutes } from '@milagro-ts/api/rps-routes'
import { systemClock, systemRandom } from '@milagro-ts/api/system'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { slotAt } from '@milagro-ts/crypto/time-permit'
import { openTlsService } from '@milagro-ts/tls/service'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type RunningFleet, runFleet } from './running-fleet.js'
import { Folder, milagro, milagroWith, silent } from './world.js'

const GATEWAY = 'gw.example'

interface Keys {
  readonly requestKey: Es256PrivateKey
  readonly hpkeKey: HpkeKeyPair
}
interface Listed {
  readonly name: string
  readonly generation: number
}

let folder: Folder
let system: RunningFleet
/** As it was founded: no file of it is written anew. */
let founded: Group
beforeAll(async () => {
  folder = await Folder.make()
  system = await runFleet(folder, { authorities: 2, later: [GATEWAY] })
  founded = await Group.verifyFile(JSON.parse(await readFile(folder.file('group.json'), 'utf8')))
  const enrolled = await milagroWith(
    { MILAGRO_PIN: '271828', MILAGRO_CODE: system.setupCode },
    ...['device', 'enroll', '--with-pin', '--instance', `operator:${system.operator}`],
    ...['--attribute', `operator=${system.operator}`, '--rps', system.rps, '--slow-device', '1000'],
    ...['--store', folder.file('operator.json')],
  )
  expect(enrolled).toMatchObject({ exit: 0 })
}, 60_000)
afterAll(() => folder.close())

const recipients = (...argv: string[]) => fleet('recipients', ...argv, '--json')
const fleet = (...argv: string[]) =>
  milagroWith(
    { MILAGRO_PIN: '271828', MILAGRO_RPS_URL: system.rps },
    ...['fleet', ...argv, '--store', folder.file('operator.json'), '--url', system.fleet],
  )
const inForce = async () =>
  (await recipients()).json as { readonly revision: number; readonly recipients: readonly Listed[] }

const makeKeys = async (): Promise<Keys> => ({
  requestKey: await generateEs256(),
  hpkeKey: await generateHpkeKey(systemRandom),
})
const gateway = ({ requestKey, hpkeKey }: Keys, generation = 1) => ({
  name: GATEWAY,
  kind: 2,
  generation,
  purposes: ['agree'],
  requestKey: requestKey.publicKey.toBase64Url(),
  hpkeKey: toBase64Url(hpkeKey.publicKey),
})

/** Proposed, accepted by both operators, and in force. */
async function take(...flags: string[]): Promise<void> {
  const { json } = await recipients(...flags)
  expect(json).toMatchObject({ state: 'open', needed: 2 })
  for (const config of system.dtaConfigs)
    expect((await milagro('group', 'accept', json.documentHash as string, '--config', config)).exit).toBe(0)
  expect((await recipients('--finish')).json).toMatchObject({ state: 'done', rpsDelivered: true })
}

/** A slot key of `agree` from each authority; the code where one refuses. */
async function slotKeys({ requestKey }: Keys): Promise<string[]> {
  const authorize = requestSigner({
    name: GATEWAY,
    key: requestKey,
    clock: systemClock,
    random: systemRandom,
  })
  const slot = slotAt(founded.slotRule, Math.floor(Date.now() / 1000))
  const body = { purpose: 'agree', keyEpoch: 1, nonce: toBase64Url(systemRandom(16)), slot } as const
  const params = { groupId: system.groupId }
  return Promise.all(
    founded.authorities.map(({ url }) =>
      codeOf(createClient(dtaRoutes, { baseUrl: url, authorize, fetch }).serverKeys({ params, body })),
    ),
  )
}
const codeOf = (answer: Promise<unknown>) =>
  answer.then(
    () => 'OK',
    (error: unknown) => {
      if (error instanceof Refused) return error.code
      throw error
    },
  )

/** The stream of ban events, as that server. */
async function events({ requestKey }: Keys): Promise<Response> {
  const sign = requestSigner({ name: GATEWAY, key: requestKey, clock: systemClock, random: systemRandom })
  const url = `${system.rps}${rpsRoutes.events.path}`
  return fetch(url, {
    headers: { authorization: await sign({ method: 'GET', url, body: new Uint8Array() }) },
  })
}

/** With the group as it was founded: as a gateway whose file is an old one. */
const openGateway = (keys: Keys) =>
  openTlsService({ name: GATEWAY, ...keys, group: founded, rpsUrl: system.rps, log: silent(), workers: 0 })

test('a gateway is added, re-keyed and removed', { timeout: 120_000 }, async () => {
  const [keys, stolen] = [await makeKeys(), await makeKeys()]
  const before = await inForce()
  expect(before).toMatchObject({ revision: 1, recipients: [{ name: 'rps' }, { name: 'fleet' }] })
  const list = async (...more: object[]) => folder.write('recipients.json', [...before.recipients, ...more])

  expect(await slotKeys(stolen)).toEqual(['UNAUTHENTICATED', 'UNAUTHENTICATED'])
  await take('--set', await list(gateway(stolen)))
  expect(await slotKeys(stolen)).toEqual(['OK', 'OK'])
  await (await openGateway(stolen)).close()
  const stream = await events(stolen)
  expect(stream.status).toBe(200)

  await take('--set', await list(gateway(keys, 2)))
  expect(await slotKeys(stolen)).toEqual(['UNAUTHENTICATED', 'UNAUTHENTICATED'])
  expect(await stream.text()).toContain('event: state')
  expect((await events(stolen)).status).toBe(401)
  expect(await slotKeys(keys)).toEqual(['OK', 'OK'])
  await (await openGateway(keys)).close()

  const open = await events(keys)
  await take('--set', await list())
  expect(await slotKeys(keys)).toEqual(['UNAUTHENTICATED', 'UNAUTHENTICATED'])
  await open.text()
  expect((await events(keys)).status).toBe(401)
  await expect(openGateway(keys)).rejects.toMatchObject({ code: 'FORBIDDEN' })
  expect(await inForce()).toEqual({ revision: 4, recipients: before.recipients })
})
