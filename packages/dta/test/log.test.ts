/** The issuance log as others read it, and authorities that keep each other's to their word. */
import { entryHashes, LogHead, type LogOwner } from '@milagro-ts/api/issuance-log'
import { leafHash, Peaks, verifyConsistency } from '@milagro-ts/api/merkle-tree'
import { createMetrics, type Metrics } from '@milagro-ts/api/metrics'
import { systemRandom } from '@milagro-ts/api/system'
import { fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import { authorityKeys } from '@milagro-ts/dta/authority-keys'
import { afterAll, beforeAll, expect, test } from 'vitest'
import {
  codeOf,
  type Founded,
  foundWorld,
  makeCar,
  PASSPHRASE,
  type Running,
  restart,
  ticketFor,
} from './world.js'

let world: Founded
beforeAll(async () => {
  world = await foundWorld()
})
afterAll(() => world.close())

const member = (i: number) => world.authorities[i] as Running
const params = () => ({ groupId: world.groupId })
const owner = (i: number): LogOwner => {
  const { name, signKey } = world.group.authority(i + 1) as { name: string; signKey: LogOwner['signKey'] }
  return { groupId: world.group.groupId, name, signKey }
}
const headOf = async (i: number) =>
  LogHead.verify((await member(i).client.logHead({ params: params() })).head, owner(i))
async function enrol(...authorities: number[]) {
  const ticket = await ticketFor(world, await makeCar(world))
  for (const i of authorities)
    await member(i).client.shares({ params: params(), body: { ticket, purpose: 'device' } })
}
const evidence = async (i: number) =>
  (await member(i).admin.status({})).evidence.map(({ authority, fault }) => `${authority} ${fault}`)
/** Every look of everybody at everybody, passed on once. */
async function exchange(rounds = 2) {
  for (let round = 0; round < rounds; round++)
    for (const { dta } of world.authorities) await dta.exchangeLogs()
}

test('an authority signs what its log comes to, and proves that it only grew', async () => {
  expect(await headOf(0)).toMatchObject({ size: 0, root: Peaks.empty.root })
  await enrol(0, 1, 2)
  const before = await headOf(0)
  world.clock.now += 1000
  await enrol(0, 1)
  await enrol(0, 1)
  const after = await headOf(0)
  expect(after).toMatchObject({ size: 3, at: before.at + 1 })

  const { entries } = await member(0).client.log({ params: params(), query: {} })
  const leaves = entries.map(entry => entryHashes(world.group.groupId, entry).leaf)
  expect(leaves.reduce((peaks, leaf) => peaks.append(leaf), Peaks.empty).head).toMatchObject({
    size: after.size,
    root: after.root,
  })
  const query = { before: '1', after: '3' }
  const { proof } = await member(0).client.logConsistency({ params: params(), query })
  expect(
    verifyConsistency(
      before,
      after,
      proof.map(hash => fromBase64Url(hash, 'proof')),
    ),
  ).toBe(true)
})

test('a head is of one group and one authority, and no proof is about what isn’t there', async () => {
  const { head } = await member(0).client.logHead({ params: params() })
  expect(await codeOf(LogHead.verify(head, owner(1)))).toBe('NOT_APPROVED')
  expect(await codeOf(LogHead.verify(head, { ...owner(0), groupId: new Uint8Array(32) }))).toBe(
    'NOT_APPROVED',
  )
  const { client } = member(0)
  const consistency = (before: string, after: string) =>
    codeOf(client.logConsistency({ params: params(), query: { before, after } }))
  const inclusion = (number: string, size: string) =>
    codeOf(client.logInclusion({ params: params(), query: { number, size } }))
  expect(await consistency('3', '4')).toBe('NOT_FOUND')
  expect(await consistency('3', '2')).toBe('MALFORMED')
  expect(await inclusion('1', '9999999999')).toBe('NOT_FOUND')
  expect(await inclusion('0', '3')).toBe('MALFORMED')
  expect(await inclusion('4', '3')).toBe('MALFORMED')
})

test('members keep each other’s newest heads, and find nothing in honest logs', async () => {
  await exchange()
  await enrol(0, 1, 2)
  world.clock.now += 30_000
  await exchange()
  const { seen } = await member(0).client.logHead({ params: params() })
  expect(seen.map(({ authority }) => authority)).toEqual(['ta2', 'ta3'])
  const kept = await LogHead.verify(seen[0]?.head as string, owner(1))
  expect(kept).toMatchObject({ size: 4, root: (await headOf(1)).root })
  for (const i of [0, 1, 2]) expect(await evidence(i)).toEqual([])
})

test('a head is never earlier than the one before, whatever becomes of the clock', async () => {
  const before = await headOf(0)
  world.clock.now -= 3_600_000
  expect((await headOf(0)).at).toBe(before.at)
  world.authorities[0] = await restart(member(0), world)
  const { at } = await headOf(0)
  expect(at).toBeGreaterThanOrEqual(before.at)
  expect(at).toBeLessThanOrEqual(before.at + 60)
  world.clock.now += 3_600_000
})

test('a member that is away is asked again, and named by a count alone', async () => {
  const metrics: Metrics = createMetrics('milagro_dta')
  const away = (async () => {
    throw new TypeError('no route')
  }) as typeof fetch
  world.authorities[0] = await restart(member(0), { ...world, metrics, fetch: away })
  await member(0).dta.exchangeLogs()
  expect(await metrics.registry.metrics()).toContain(
    'milagro_dta_log_exchange_failures_total{authority="ta2"} 1',
  )
  expect(await evidence(0)).toEqual([])
  world.authorities[0] = await restart(member(0), world)
})

test('a member that hands on heads without end keeps nobody from the next one', async () => {
  await enrol(0, 1, 2)
  await enrol(0, 1, 2)
  await exchange()
  const { signKey } = await authorityKeys.read({ ...member(2).config, passphrase: PASSPHRASE })
  const { at, size } = await headOf(2)
  expect(size).toBeGreaterThan(1)
  const [entry] = (await member(2).client.log({ params: params(), query: {} })).entries
  const root = entryHashes(world.group.groupId, entry as NonNullable<typeof entry>).leaf
  // ta2 and ta3 are of one mind: each head is in order, and each wants a proof.
  const seen = await Promise.all(
    Array.from({ length: 20 }, async (_, i) => ({
      authority: 'ta3',
      head: await LogHead.sign(owner(2), { size: 1, root, at: at - i }, signKey),
    })),
  )
  let proofs = 0
  const slow = (async (url: string, init?: RequestInit) => {
    if (url.includes('/log/consistency')) {
      proofs++
      world.clock.now += 4_000
    }
    const answer = await fetch(url, init)
    if (!url.startsWith(member(1).url) || !url.endsWith('/log/head')) return answer
    return Response.json({ ...((await answer.json()) as object), seen })
  }) as typeof fetch
  world.authorities[0] = await restart(member(0), { ...world, fetch: slow })
  await member(0).dta.exchangeLogs()
  expect(proofs).toBeGreaterThan(1)
  expect(proofs).toBeLessThan(6)
  expect(await evidence(0)).toEqual([])
  world.authorities[0] = await restart(member(0), world)
})

test('a proof that was damaged on the way accuses nobody, and one that holds is the end of it', async () => {
  await exchange()
  await enrol(0, 1, 2)
  let isDamaging = true
  const proxy = (async (url: string, init?: RequestInit) => {
    const answer = await fetch(url, init)
    if (!isDamaging || !url.startsWith(`${member(1).url}/`) || !url.includes('/log/consistency'))
      return answer
    return Response.json({ proof: [toBase64Url(systemRandom(32))] })
  }) as typeof fetch
  const metrics: Metrics = createMetrics('milagro_dta')
  world.authorities[0] = await restart(member(0), { ...world, metrics, fetch: proxy })
  world.logged.length = 0
  const look = async (seconds: number) => {
    world.clock.now += seconds * 1000
    await member(0).dta.exchangeLogs()
    return { found: await evidence(0), isAlarm: world.logged.join('').includes('alarm: no proof joins') }
  }
  const keptSize = async () => {
    const { seen } = await member(0).client.logHead({ params: params() })
    return (await LogHead.verify(seen.find(({ authority }) => authority === 'ta2')?.head as string, owner(1)))
      .size
  }
  const { size } = await headOf(1)
  expect(await look(0)).toEqual({ found: [], isAlarm: false })
  expect(await keptSize()).toBe(size - 1)
  expect(await metrics.registry.metrics()).toContain('milagro_dta_log_proofs_failed_total{authority="ta2"}')
  // For as long as a minute it is an alarm, and still no evidence: nothing of it is kept.
  await look(30)
  expect(await look(30)).toEqual({ found: [], isAlarm: true })
  isDamaging = false
  expect((await look(30)).found).toEqual([])
  expect(await keptSize()).toBe(size)
  expect(world.logged.join('')).toContain('of one log after all')
  world.authorities[0] = await restart(member(0), world)
  await exchange()
})

test('two histories of one log meet: whoever signed both is named, with both heads', async () => {
  const { signKey } = await authorityKeys.read({ ...member(2).config, passphrase: PASSPHRASE })
  // ta3 shows ta1 a log of its own in which an entry is another one.
  const honest = await headOf(2)
  const other = await LogHead.sign(
    owner(2),
    { size: honest.size, root: leafHash(honest.root), at: honest.at },
    signKey,
  )
  const split = (async (url: string, init?: RequestInit) => {
    const answer = await fetch(url, init)
    if (!url.startsWith(member(2).url) || !url.endsWith('/log/head')) return answer
    return Response.json({ ...((await answer.json()) as object), head: other })
  }) as typeof fetch
  // ta1 hasn't met ta3 yet, so it believes what it is shown.
  await member(0).store.atomic(connection => connection.run('DELETE FROM seen_head'))
  world.authorities[0] = await restart(member(0), { ...world, fetch: split })
  world.logged.length = 0
  await member(0).dta.exchangeLogs()
  expect(await evidence(0)).toEqual(['ta3 split'])
  await member(1).dta.exchangeLogs()
  expect(await evidence(1)).toEqual(['ta3 split'])

  const [found] = (await member(1).admin.status({})).evidence
  const heads = await Promise.all((found?.heads ?? []).map(jws => LogHead.verify(jws, owner(2))))
  expect(heads.map(({ size }) => size)).toEqual([honest.size, honest.size])
  expect(heads[0]?.root).not.toEqual(heads[1]?.root)
  expect(world.logged.join('')).toContain('alarm: an authority has shown two histories of its log')
  // ta3 learns that somebody has signed with its key.
  await member(2).dta.exchangeLogs()
  expect(await evidence(2)).toEqual(['ta3 forgotten'])
  // Said once.
  world.logged.length = 0
  await exchange(1)
  expect(world.logged.join('')).not.toContain('alarm')
  world.authorities[0] = await restart(member(0), world)
})

test('a log that entries were taken out of is named', async () => {
  await exchange(1)
  await member(1).store.atomic(connection => {
    connection.run('DELETE FROM issuance WHERE number = (SELECT max(number) FROM issuance)')
  })
  world.clock.now += 30_000
  await exchange(1)
  expect(await evidence(0)).toContain('ta2 shorter')
  expect(await evidence(2)).toContain('ta2 shorter')
})
