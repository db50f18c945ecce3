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
  const audience = { name: GATEWAY, service: GATEWAY, pin: 'optional', tlsExporter: 'absent' } as const
  system = await runFleet(folder, { authorities: 2, audiences: [audience] })
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

  // For the next ceremony, and for servers to come.
  const out = folder.file('group-4.json')
  const fetched = (groupId: string) =>
    milagro('group', 'fetch', '--rps', system.rps, '--group', groupId, '--out', out, '--json')
  expect((await fetched(system.groupId)).json).toEqual({ groupId: system.groupId, revision: 4, out })
  expect((await milagro('group', 'verify', out, '--group', system.groupId, '--json')).json).toMatchObject({
    revision: 4,
  })
  const other = toBase64Url(new Uint8Array(32))
  expect(await fetched(other)).toMatchObject({ exit: 1, json: { code: 'WRONG_GROUP' } })
})

test('the difference is said before it is proposed, to the authorities’ operators too; it can be dropped', async () => {
  const keys = await makeKeys()
  const one = await folder.write('gateway.json', gateway(keys, 2))
  const two = await folder.write('more.json', [
    { ...gateway(await makeKeys()), name: 'psk.example', kind: 3 },
  ])
  const before = await inForce()
  const { out, err, exit } = await fleet('recipients', '--add', one, two)
  expect(exit).toBe(0)
  const added = `added gw.example: kind 2, generation 2, keys of agree, requestKey ${keys.requestKey.publicKey.toBase64Url()}`
  const said = err.trim().split('\n')
  expect(said).toEqual([
    expect.stringContaining(added),
    expect.stringMatching(/^added psk\.example: kind 3, generation 1/),
  ])
  const [head, revision = ''] = out.split('\n')
  expect(head).toBe('gw.example added, psk.example added: open')
  const hash = /^revision 5 (\S{43}), 2 signatures needed$/.exec(revision)?.[1] as string

  const [config = ''] = system.dtaConfigs
  const waiting = (await milagro('dta', 'status', '--config', config)).out.split('\n')
  const at = waiting.indexOf(`revision ${hash} of ${system.groupId} waits for you`)
  expect(waiting.slice(at + 1, at + 3)).toEqual(said.map(line => `  ${line}`))
  expect(await fleet('recipients', '--finish')).toMatchObject({
    exit: 1,
    err: 'milagro: REFUSED: revision 5 is not in force: 2 must sign, ta1 (NOT_APPROVED), ta2 (NOT_APPROVED) has not\n',
  })
  expect((await fleet('recipients')).out).toContain(
    `under way  revision 5 ${hash}: gw.example added, psk.example added, open\n`,
  )
  expect((await recipients('--remove', 'fleet')).json).toMatchObject({
    code: 'CONFLICT',
    why: 'a change of recipients is under way',
  })
  expect((await fleet('recipients', '--abandon')).out).toBe('abandoned\n')
  expect(await inForce()).toEqual(before)
})

test('one of a name that is there takes its place; what nobody would sign is refused in one line', async () => {
  const [first, next] = [await makeKeys(), await makeKeys()]
  await take('--add', await folder.write('gateway.json', gateway(first, 2)))
  const { length } = (await inForce()).recipients
  const rekeyed = await folder.write('gateway.json', gateway(next, 3))
  await take('--add', rekeyed)
  expect((await inForce()).recipients).toHaveLength(length)
  expect(await slotKeys(first)).toEqual(['UNAUTHENTICATED', 'UNAUTHENTICATED'])
  expect(await slotKeys(next)).toEqual(['OK', 'OK'])
  // Removed and added in one revision.
  const other = await folder.write('other.json', { ...gateway(await makeKeys()), name: 'gw-2.example' })
  await take('--remove', GATEWAY, '--add', other)
  expect((await inForce()).recipients.map(({ name }) => name)).toEqual(['rps', 'fleet', 'gw-2.example'])

  const pin = { ...gateway(await makeKeys()), name: 'x', purposes: ['pin'] }
  const refused = async (...argv: string[]) => {
    const { exit, err } = await fleet('recipients', ...argv)
    return [exit, err.trim().split('\n').at(-1)]
  }
  const old = await folder.write('old.json', gateway(first, 1))
  for (const [argv, exit, why] of [
    [['--add', old, '--remove', 'gw-2.example'], 1, 'gw.example has had generation 3'],
    [['--remove', 'rps'], 1, 'rps stays the one recipient of pin'],
    [['--add', await folder.write('pin.json', pin)], 1, 'rps stays the one recipient of pin, as it is'],
    [['--add', other], 1, 'in force already'],
    [['--remove', 'nobody.example'], 1, 'the group names no nobody.example'],
    [['--set', other, '--remove', 'fleet'], 2, 'say one of --set'],
    [['--finish', '--abandon'], 2, 'say one of --set'],
    [['--add', await folder.write('wrong.json', [{ ...pin, kind: 4 }])], 2, "wrong.json'.0.kind"],
  ] as const)
    expect(await refused(...argv)).toEqual([exit, expect.stringContaining(why)])
  expect((await recipients()).json).not.toHaveProperty('underWay')
})
