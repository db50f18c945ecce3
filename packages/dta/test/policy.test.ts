/** An authority's own rules: quota, hours, RA signers, names; one process for several groups. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createClient } from '@milagro-ts/api/call'
import { ConfigError } from '@milagro-ts/api/config'
import { dtaRoutes } from '@milagro-ts/api/dta-routes'
import { groupMake } from '@milagro-ts/api/founding'
import { proposalHash } from '@milagro-ts/api/group'
import { Refused } from '@milagro-ts/api/problem'
import { systemRandom } from '@milagro-ts/api/system'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { Policy, refuseHours, refuseSigners, takeFromQuota } from '@milagro-ts/dta/policy'
import { dtaMigrations } from '@milagro-ts/dta/tables'
import { openDatabase } from '@milagro-ts/store/database'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  acceptAll,
  clientOf,
  codeOf,
  type Founded,
  foundWorld,
  makeCar,
  type Running,
  restart,
  statementFor,
  ticketFor,
} from './world.js'

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'milagro-policy-'))
})
afterAll(() => rm(folder, { recursive: true }))

/** What a refusal says: its code and Retry-After. */
function refusalOf(act: () => void): [string, number | undefined] | null {
  try {
    act()
    return null
  } catch (error) {
    if (error instanceof Refused) return [error.code, error.retryAfter]
    throw error
  }
}

describe('hours', () => {
  const berlin = {
    zone: 'Europe/Berlin',
    hours: [{ days: ['mon' as const, 'fri' as const], from: '07:00', to: '19:00' }],
  }
  const at = (time: string) => refusalOf(() => refuseHours(berlin, Date.parse(time)))
  test('are the zone’s, and say when to come back', () => {
    // Monday 2026-11-30; Berlin is an hour ahead of UTC in winter.
    expect(at('2026-11-30T06:00:00Z')).toBeNull()
    expect(at('2026-11-30T17:59:59Z')).toBeNull()
    expect(at('2026-11-30T05:59:30Z')).toEqual(['RETRY_LATER', 30])
    expect(at('2026-11-30T18:00:00Z')).toEqual(['RETRY_LATER', 3 * 86_400 + 12 * 3600])
    expect(at('2026-12-04T18:00:00Z')).toEqual(['RETRY_LATER', 2 * 86_400 + 12 * 3600])
    // Two hours in summer.
    expect(at('2026-07-06T05:00:00Z')).toBeNull()
    expect(at('2026-07-06T04:59:59Z')).toEqual(['RETRY_LATER', 1])
  })
  test('go over midnight, and around the week', () => {
    const night = { hours: [{ days: ['sat' as const], from: '22:00', to: '06:00' }] }
    const at = (time: string) => refusalOf(() => refuseHours(night, Date.parse(time)))
    expect(at('2026-11-28T21:59:00Z')).toEqual(['RETRY_LATER', 60])
    expect(at('2026-11-28T22:00:00Z')).toBeNull()
    expect(at('2026-11-29T05:59:00Z')).toBeNull()
    expect(at('2026-11-29T06:00:00Z')).toEqual(['RETRY_LATER', 6 * 86_400 + 16 * 3600])
    expect(refusalOf(() => refuseHours({ hours: [{ from: '08:00', to: '08:00' }] }, 0))).toBeNull()
    expect(refusalOf(() => refuseHours({}, 0))).toBeNull()
  })
})

test('a quota is counted in the store, day by day of the zone, each group for itself', async () => {
  const store = await openDatabase<unknown>({ file: ':memory:', migrations: dtaMigrations })
  const [one, two] = [systemRandom(32), systemRandom(32)]
  const policy = { keysPerDay: 2, zone: 'Europe/Berlin' }
  const take = (groupId: Uint8Array, time: string) =>
    store.atomic(connection =>
      refusalOf(() => takeFromQuota(connection, 'keys', { groupId, policy, now: Date.parse(time) })),
    )
  try {
    await store.atomic(connection => {
      for (const groupId of [one, two])
        connection.run('INSERT INTO served_group VALUES (?, ?, ?)', [groupId, groupId, new Uint8Array()])
    })
    // Ten at once: two.
    const taken = await Promise.all(Array.from({ length: 10 }, () => take(one, '2026-11-30T22:59:50Z')))
    expect(taken.filter(refusal => refusal === null)).toHaveLength(2)
    expect(taken.at(-1)).toEqual(['RETRY_LATER', 10])
    expect(await take(two, '2026-11-30T22:59:50Z')).toBeNull()
    expect(await take(one, '2026-11-30T23:00:00Z')).toBeNull()
    const none = { keysPerDay: 0 }
    const refused = await store.atomic(connection =>
      refusalOf(() => takeFromQuota(connection, 'keys', { groupId: two, policy: none, now: 0 })),
    )
    expect(refused).toEqual(['RETRY_LATER', 86_400])
  } finally {
    await store.close()
  }
})

test('RA signers: so many, of those that this authority counts', () => {
  const refused = (raSigners: { m: number; keys?: string[] } | undefined, ...kids: string[]) =>
    refusalOf(() => refuseSigners(raSigners === undefined ? {} : { raSigners }, kids))?.[0] ?? null
  expect(refused(undefined, 'a')).toBeNull()
  expect(refused({ m: 2 }, 'a')).toBe('NOT_APPROVED')
  expect(refused({ m: 2 }, 'a', 'b')).toBeNull()
  expect(refused({ m: 2, keys: ['a', 'c', 'd'] }, 'a', 'b')).toBe('NOT_APPROVED')
  expect(refused({ m: 2, keys: ['a', 'c', 'd'] }, 'd', 'a')).toBeNull()
})

test.each([
  ['{', /is not JSON|JSON/],
  ['{"groups": {"*": {"keysPerDay": -1}}}', /keysPerDay/],
  ['{"groups": {"*": {"keysPerday": 1}}}', /keysPerday/],
  ['{"groups": {"nonsense": {}}}', /groups/],
  ['{"groups": {"*": {"zone": "Mars/Olympus"}}}', /zone 'Mars\/Olympus' is not known/],
  ['{"groups": {"*": {"hours": [{"from": "7", "to": "9"}]}}}', /hours/],
  ['{"groups": {"*": {"raSigners": {"m": 2, "keys": ["a", "a"]}}}}', /more signatures than it has keys/],
])('a policy file that can’t be meant is refused in one line: %s', async (text, why) => {
  const path = join(folder, 'wrong.json')
  await writeFile(path, text)
  expect(() => Policy.open(path)).toThrow(ConfigError)
  expect(() => Policy.open(path)).toThrow(why)
})

describe('an authority of two groups', () => {
  let world: Founded
  let other: Founded
  let path: string
  const authority = () => world.authorities[0] as Running
  const params = () => ({ groupId: world.groupId })
  const enrol = async (founded: Founded) => {
    const ticket = await ticketFor(founded, await makeCar(founded))
    return authority().client.shares({
      params: { groupId: founded.groupId },
      body: { ticket, purpose: 'device' },
    })
  }
  const reload = (policy: object) =>
    writeFile(path, JSON.stringify(policy)).then(() => authority().admin.reloadPolicy({ body: {} }))
  beforeAll(async () => {
    world = await foundWorld({ n: 1 })
    path = join(folder, 'policy.json')
    await writeFile(path, '{"groups": {}}')
    const url = `http://localhost:${new URL(authority().url).port}`
    const proposal = {
      ...world.proposal,
      authorities: world.proposal.authorities.map(one => ({ ...one, url })),
      nonce: toBase64Url(systemRandom(32)),
    }
    await acceptAll(world, toBase64Url(proposalHash(proposal)))
    const group = await groupMake({ proposal, clients: [authority().client] })
    other = { ...world, group, groupId: toBase64Url(group.groupId) }
    const config = { ...authority().config, policyFile: path }
    world.authorities[0] = await restart({ ...authority(), config }, world)
  })
  afterAll(() => world.close())

  test('gives each its own quota, and what was issued again for nothing', async () => {
    await reload({ groups: { [world.groupId]: { keysPerDay: 2, permitsPerDay: 1 }, '*': { keysPerDay: 1 } } })
    const ticket = await ticketFor(world, await makeCar(world))
    const again = () => authority().client.shares({ params: params(), body: { ticket, purpose: 'device' } })
    await again()
    await enrol(world)
    expect(await codeOf(enrol(world))).toBe('RETRY_LATER')
    await again()
    await enrol(other)
    expect(await codeOf(enrol(other))).toBe('RETRY_LATER')
    const { groups } = await authority().admin.status({})
    const mine = groups.find(({ groupId }) => groupId === world.groupId)
    expect(mine).toMatchObject({ issued: 2, used: { keys: 2, permits: 0 }, policy: { keysPerDay: 2 } })

    const car = await makeCar(world)
    const permit = async () =>
      clientOf(world, authority(), world.rps).permits({
        params: params(),
        body: { statement: await statementFor(world, car) },
      })
    await permit()
    expect(await codeOf(permit())).toBe('RETRY_LATER')
    // What was refused is not in the ledger: tomorrow it is issued.
    world.clock.now += 86_400_000
    await enrol(world)
  })

  test('reads its policy again at a command, and keeps the one in force where the file is wrong', async () => {
    await reload({ groups: { '*': { raSigners: { m: 2 } } } })
    expect(await codeOf(enrol(world))).toBe('NOT_APPROVED')
    expect(await codeOf(reload({ groups: { '*': { zone: 'nowhere' } } }))).toBe('CONFLICT')
    expect(await codeOf(enrol(world))).toBe('NOT_APPROVED')
    await authority().dta.reloadPolicy()
    expect(world.logged.join('')).toContain('the policy in force stays')
    await writeFile(path, '{"groups": {}}')
    await authority().dta.reloadPolicy()
    await enrol(world)
  })

  test('is asked for each by its own name', async () => {
    const urls = [world, other].map(({ group }) => group.authority(1)?.url as string)
    const config = { ...authority().config, publicUrls: urls }
    world.authorities[0] = await restart({ ...authority(), config }, world)
    const at = (url: string, { groupId }: Founded) =>
      createClient(dtaRoutes, { baseUrl: url, fetch: viaHost(authority().url) }).group({
        params: { groupId },
        query: {},
      })
    expect((await at(urls[0] as string, world)).revision).toBe(1)
    expect((await at(urls[1] as string, other)).revision).toBe(1)
    expect(await codeOf(at(urls[1] as string, world))).toBe('NOT_FOUND')
    expect(await codeOf(at(urls[0] as string, other))).toBe('NOT_FOUND')
    expect(await codeOf(at('http://elsewhere.example', world))).toBe('NOT_FOUND')
    // What belongs to no group answers by any name.
    const anywhere = createClient(dtaRoutes, {
      baseUrl: 'http://elsewhere.example',
      fetch: viaHost(authority().url),
    })
    expect((await anywhere.authority({})).name).toBe('ta1')
  })
})

/** Calls whose Host is the address that was asked for, all to one listener. */
function viaHost(listener: string): typeof fetch {
  return ((address: string) =>
    new Promise((resolve, reject) => {
      const { host, pathname, search } = new URL(address)
      request(`${listener}${pathname}${search}`, { headers: { host } }, answer => {
        const chunks: Buffer[] = []
        answer.on('data', chunk => chunks.push(chunk))
        answer.on('end', () =>
          resolve(
            new Response(Buffer.concat(chunks), {
              status: answer.statusCode as number,
              headers: { 'content-type': answer.headers['content-type'] as string },
            }),
          ),
        )
      })
        .on('error', reject)
        .end()
    })) as typeof fetch
}
