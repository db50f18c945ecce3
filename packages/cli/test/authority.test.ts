/** What an authority's operator says to it, against authorities on sockets, and what they do afterwards. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createClient } from '@milagro-ts/api/call'
import { dtaRoutes } from '@milagro-ts/api/dta-routes'
import { documentHash } from '@milagro-ts/api/group'
import { signRevisionStatement } from '@milagro-ts/api/statements'
import { systemRandom } from '@milagro-ts/api/system'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { SUITE } from '@milagro-ts/crypto/suite'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { freePort } from '../../../test/free-port.js'
import {
  acceptAll,
  codeOf,
  type Founded,
  fetchServerKey,
  foundWorld,
  makeCar,
  type Running,
  restart,
  ticketFor,
} from '../../dta/test/world.js'
import { milagroAt } from './world.js'

const DAY = 86_400
const UNKNOWN = toBase64Url(systemRandom(32))

let world: Founded
beforeEach(async () => {
  world = await foundWorld({ n: 2 })
})
afterEach(() => world.close())

const authority = (at = 0) => world.authorities[at] as Running
/** Said to the first authority, by the world's clock. */
function dta(...argv: string[]) {
  const { adminUrl, config } = authority()
  const to = ['--admin-url', adminUrl, '--data-dir', config.dataDir]
  return milagroAt({ clock: () => world.clock.now }, 'dta', ...argv, ...to, '--json')
}
const stateOf = async () => {
  const { groups } = (await dta('status')).json as { groups: { frozen: boolean; leavesAt?: number }[] }
  return groups[0]
}
/** A new car's share. */
async function enrol(at = 0) {
  const ticket = await ticketFor(world, await makeCar(world))
  const { client } = authority(at)
  return client.shares({ params: { groupId: world.groupId }, body: { ticket, purpose: 'device' } })
}
/** Unix seconds, as people write them. */
const inDays = (days: number) => new Date(world.clock.now + days * DAY * 1000).toISOString()

test('what one that has not signed a revision writes frees one that has', async () => {
  const { group, groupId } = world
  const document = {
    ...structuredClone(group.document),
    revision: 2,
    previous: groupId,
    groupId,
    policy: { lead: 2, grace: 60 },
    signatures: [],
  }
  const hash = toBase64Url(documentHash(document))
  await acceptAll(world, hash)
  const iat = Math.floor(world.clock.now / 1000)
  const said = { suite: SUITE, groupId, revision: 2, documentHash: hash, iat } as const
  const statement = await signRevisionStatement(said, { key: world.ra, kid: 'ra1' })
  await authority().client.proposeRevision({ params: { groupId }, body: { document, statement } })
  expect((await dta('status')).json.revisions).toMatchObject([{ documentHash: hash, signed: true }])

  const file = join(authority(1).config.dataDir, 'ta2.abandonment')
  const at = (which: number, ...argv: string[]) => {
    const { adminUrl, config } = authority(which)
    const to = ['--group', groupId, '--admin-url', adminUrl, '--data-dir', config.dataDir, '--json']
    return milagroAt({ clock: () => world.clock.now }, 'group', ...argv, ...to)
  }
  const abandon = ['abandon', hash, '--out', file]
  expect(await at(0, ...abandon)).toMatchObject({ exit: 1, json: { code: 'CONFLICT' } })
  expect(await at(1, ...abandon)).toMatchObject({ exit: 0, json: { abandoned: hash, out: file } })
  expect(await at(0, 'release', hash, file)).toMatchObject({ exit: 0, json: { released: hash } })
  expect((await dta('status')).json.revisions).toEqual([])
})

describe('freeze', () => {
  test('a group: nothing of it is issued any more, by this authority alone, until it is unfrozen', async () => {
    expect(await dta('freeze', world.groupId)).toMatchObject({ exit: 0, err: '', json: { frozen: true } })
    expect(await stateOf()).toMatchObject({ frozen: true })
    expect(await codeOf(enrol())).toBe('FROZEN')
    expect(await codeOf(fetchServerKey(world, 'pin'))).toBe('FROZEN')
    expect((await enrol(1)).index).toBe(2)

    // Kept where a restart finds it.
    world.authorities[0] = await restart(authority(), world)
    expect(await codeOf(enrol())).toBe('FROZEN')
    expect(await dta('unfreeze', world.groupId)).toMatchObject({ exit: 0, err: '', json: { frozen: false } })
    expect(await stateOf()).toMatchObject({ frozen: false })
    expect((await enrol()).index).toBe(1)
  })

  test('a recipient of a group: it alone gets nothing', async () => {
    const rps = ['rps', '--group', world.groupId]
    expect((await dta('freeze', ...rps)).exit).toBe(0)
    expect(await codeOf(fetchServerKey(world, 'pin'))).toBe('FROZEN')
    expect((await enrol()).index).toBe(1)
    expect((await dta('unfreeze', ...rps)).exit).toBe(0)
    await fetchServerKey(world, 'pin')
  })

  test.each(['freeze', 'unfreeze'])(
    '%s: another group is refused with 1, none is a wrong usage',
    async verb => {
      expect(await dta(verb, UNKNOWN)).toMatchObject({ exit: 1, json: { code: 'NOT_FOUND' } })
      expect(await dta(verb)).toMatchObject({ exit: 2, json: { code: 'USAGE' } })
      expect(await dta(verb, 'rps')).toMatchObject({ exit: 2, json: { code: 'USAGE' } })
      expect(await stateOf()).toMatchObject({ frozen: false })
    },
  )

  test('ends with 3 when the authority is not there', async () => {
    const nobody = ['--admin-url', `http://127.0.0.1:${await freePort()}`]
    const said = await milagroAt(
      {},
      ...['dta', 'freeze', world.groupId, '--data-dir', authority().config.dataDir, ...nobody, '--json'],
    )
    expect(said).toMatchObject({ exit: 3, json: { code: 'UNREACHABLE' } })
  })
})

describe('leave and stay', () => {
  const headLeavesAt = async () => {
    const params = { groupId: world.groupId }
    const { head } = await createClient(dtaRoutes, { baseUrl: authority().url }).logHead({ params })
    const payload = Buffer.from(head.split('.')[1] as string, 'base64url').toString()
    return (JSON.parse(payload) as { leavesAt?: number }).leavesAt
  }

  test('a departure is announced, seen in the signed head, and taken back', async () => {
    const leavesAt = Math.floor(world.clock.now / 1000) + 2 * DAY
    expect(await dta('leave', world.groupId, '--after', inDays(2))).toMatchObject({
      exit: 0,
      err: '',
      json: { leavesAt },
    })
    expect([await stateOf(), await headLeavesAt()]).toMatchObject([{ leavesAt }, leavesAt])
    expect((await enrol()).index).toBe(1)
    expect(await dta('stay', world.groupId)).toMatchObject({ exit: 0, json: { stays: world.groupId } })
    expect((await stateOf())?.leavesAt).toBeUndefined()
    expect(await headLeavesAt()).toBeUndefined()
    world.clock.now += 3 * DAY * 1000
    expect((await enrol()).index).toBe(1)
  })

  test('after its time nothing is served, and it is too late to stay', async () => {
    await dta('leave', world.groupId, '--after', inDays(2))
    world.clock.now += 2 * DAY * 1000
    expect(await codeOf(enrol())).toBe('NOT_FOUND')
    expect(await dta('stay', world.groupId)).toMatchObject({ exit: 1, json: { code: 'NOT_FOUND' } })
    expect((await enrol(1)).index).toBe(2)
  })

  test('a departure that is near, another group, and nothing to take back are refused with 1', async () => {
    expect(await dta('leave', world.groupId, '--after', inDays(0.9))).toMatchObject({
      exit: 1,
      json: { code: 'CONFLICT', why: expect.stringContaining('a day ahead at least') },
    })
    expect(await dta('leave', UNKNOWN, '--after', inDays(2))).toMatchObject({
      exit: 1,
      json: { code: 'NOT_FOUND' },
    })
    expect(await dta('stay', world.groupId)).toMatchObject({ exit: 1, json: { code: 'CONFLICT' } })
    expect((await stateOf())?.leavesAt).toBeUndefined()
  })

  test('a time that is none, or no time, is a wrong usage', async () => {
    expect(await dta('leave', world.groupId, '--after', 'soon')).toMatchObject({ exit: 2 })
    expect(await dta('leave', world.groupId)).toMatchObject({ exit: 2 })
    expect(await dta('stay')).toMatchObject({ exit: 2 })
    expect((await stateOf())?.leavesAt).toBeUndefined()
  })
})

describe('policy', () => {
  let folder: string
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'milagro-cli-policy-'))
  })
  afterEach(() => rm(folder, { recursive: true }))
  const groups = (policy: object) => ({ exit: 0, json: { groups: [{ groupId: world.groupId, policy }] } })

  test('is shown; read again, it is in force; a wrong one changes nothing and ends with 1', async () => {
    const file = join(folder, 'policy.json')
    const write = (policy: unknown) => writeFile(file, JSON.stringify(policy))
    await write({ groups: { '*': { keysPerDay: 2 } } })
    const config = { ...authority().config, policyFile: file }
    world.authorities[0] = await restart({ ...authority(), config }, world)
    expect(await dta('policy')).toMatchObject(groups({ keysPerDay: 2 }))

    await write({ groups: { [world.groupId]: { keysPerDay: 1 } } })
    // Not before it is said.
    expect(await dta('policy')).toMatchObject(groups({ keysPerDay: 2 }))
    expect(await dta('policy', '--reload')).toMatchObject(groups({ keysPerDay: 1 }))
    await enrol()
    expect(await codeOf(enrol())).toBe('RETRY_LATER')

    await write({ groups: { '*': { keysPerDay: -1 } } })
    expect(await dta('policy', '--reload')).toMatchObject({
      exit: 1,
      json: { ok: false, why: expect.stringContaining('keysPerDay') },
    })
    expect(await dta('policy')).toMatchObject(groups({ keysPerDay: 1 }))
    expect(await codeOf(enrol())).toBe('RETRY_LATER')
  })

  test('without a file there are no rules, and none to read again', async () => {
    expect(await dta('policy')).toMatchObject(groups({}))
    expect(await dta('policy', '--reload')).toMatchObject({
      exit: 1,
      json: { ok: false, why: expect.stringContaining('policyFile') },
    })
  })
})
