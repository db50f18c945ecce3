/** A slot's permits in one go: issued, interrupted and taken up again, published, checked; and a cache that lies. */

import { cp, mkdir, readdir, readFile, rename, writeFile } from 'node:fs/promises'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { createClient } from '@milagro-ts/api/call'
import { dtaRoutes } from '@milagro-ts/api/dta-routes'
import { systemClock, systemTimers } from '@milagro-ts/api/system'
import { be16, be32, concat, fromBase64Url } from '@milagro-ts/crypto/bytes'
import { CryptoWorker } from '@milagro-ts/crypto/crypto-worker'
import { CryptoPool } from '@milagro-ts/crypto/node-pool'
import { decodeNodes, MOST_NODES } from '@milagro-ts/crypto/node-shares'
import { Bans } from '@milagro-ts/fleet/bans'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'
import { PASSPHRASE, type RunningFleet, runFleet } from './running-fleet.js'
import { Folder, milagroAt, milagroWith } from './world.js'

let folder: Folder
let system: RunningFleet
let cache: Server
let web = ''
const SLOW = ['--slow-device', '1000']

const working = (verb: string, ...more: string[]) =>
  milagroWith(
    { MILAGRO_RPS_PASSPHRASE: PASSPHRASE },
    ...[
      'permits',
      verb,
      '--config',
      system.rpsConfig,
      '--work',
      folder.file('work'),
      '--workers',
      '0',
      '--json',
    ],
    ...more,
  )
const verify = (place: string, ...more: string[]) =>
  milagroWith(
    {},
    ...['permits', 'verify', place, '--group', folder.file('group.json'), '--group-id', system.groupId],
    ...['--workers', '0', '--json', ...more],
  )
const operator = (...argv: string[]) =>
  milagroWith(
    { MILAGRO_PIN: '271828', MILAGRO_RPS_URL: system.rps },
    ...[...argv, '--store', folder.file('operator.json'), '--url', system.fleet, '--json'],
  )

beforeAll(async () => {
  folder = await Folder.make()
  system = await runFleet(folder)
  await milagroWith(
    { MILAGRO_PIN: '271828', MILAGRO_CODE: system.setupCode },
    ...['device', 'enroll', '--with-pin', '--instance', `operator:${system.operator}`, ...SLOW],
    ...[
      '--attribute',
      `operator=${system.operator}`,
      '--store',
      folder.file('operator.json'),
      '--rps',
      system.rps,
    ],
  )
  for (const instance of ['VIN-1', 'VIN-2']) {
    const added = await operator('fleet', 'add', 'vehicle', instance, '--attribute', 'brand=Fiat')
    await milagroWith(
      { MILAGRO_CODE: added.json.code as string, MILAGRO_RPS_URL: system.rps },
      ...['device', 'enroll', '--instance', instance, '--attribute', 'brand=Fiat'],
      ...['--store', folder.file(`${instance}.json`), '--json'],
    )
  }
  // Whatever serves files will do.
  cache = createServer((request, response) => {
    readFile(join(folder.file('web'), (request.url ?? '').slice(1))).then(
      bytes => response.end(bytes),
      () => response.writeHead(404).end(),
    )
  })
  await new Promise<void>(resolve => cache.listen(0, '127.0.0.1', resolve))
  web = `http://127.0.0.1:${(cache.address() as AddressInfo).port}/`
}, 180_000)
afterAll(async () => {
  cache.close()
  await folder.close()
})

test('nobody banned: one permit; published, and checked from any server', async () => {
  expect(await working('publish', '--out', folder.file('web'))).toMatchObject({
    exit: 1,
    json: { code: 'NOT_FOUND' },
  })
  expect(await working('issue')).toMatchObject({ exit: 0, json: { permits: 1, banned: 0 } })
  expect(await working('publish', '--out', folder.file('web'))).toMatchObject({
    exit: 0,
    json: { permits: 1, parts: 1 },
  })
  expect(await verify(web)).toMatchObject({ exit: 0, json: { valid: true, permits: 1, banned: 0 } })
})

test('one banned: 32 permits, and nothing left to do the second time', { timeout: 180_000 }, async () => {
  const before = (await working('issue')).json
  expect((await operator('fleet', 'ban', '--vehicle', 'VIN-1', '--reason', 'stolen')).exit).toBe(0)
  const said = await working('issue')
  expect(said).toMatchObject({ exit: 0, json: { permits: 32, banned: 1 } })
  expect(said.json.number as number).toBeGreaterThan(before.number as number)
  expect(said.err).toContain('issued 32 of 32')
  // The same again has nothing left to do, and no authority to ask for it.
  const again = await milagroAt(
    {
      env: { MILAGRO_RPS_PASSPHRASE: PASSPHRASE },
      fetch: (input, init) => {
        if (String(input).includes('/node-permits')) throw new Error('asked for what is there')
        return fetch(input, init)
      },
    },
    ...[
      'permits',
      'issue',
      '--config',
      system.rpsConfig,
      '--work',
      folder.file('work'),
      '--workers',
      '0',
      '--json',
    ],
  )
  expect(again).toMatchObject({ exit: 0, json: { permits: 32 } })
  expect((await working('issue', '--ahead', '1')).json).toMatchObject({ permits: 32 })
  expect((await working('issue', '--ahead', '2')).exit).toBe(1)

  await working('publish', '--out', folder.file('web'))
  expect(await verify(web)).toMatchObject({
    exit: 0,
    json: { permits: 32, banned: 1, number: said.json.number },
  })
  expect(await verify(web, '--least', String((said.json.number as number) + 1))).toMatchObject({
    exit: 1,
    json: { code: 'EXPIRED' },
  })
})

describe('a cover of more than one batch', () => {
  const actor = 'test'
  let bans: Bans
  const ids: number[] = []
  beforeAll(async () => {
    const { fleetStore } = system
    // The server learns of these at its next look; the commands ask the fleet themselves.
    bans = new Bans({ store: fleetStore, clock: systemClock, timers: systemTimers, wake: () => {} })
    for (let i = 1; i <= 12; i++) {
      const leaf = i * 0x13579bdf
      const at = Math.floor(systemClock() / 1000)
      const { id: device } = await fleetStore.db
        .insertInto('device')
        .values({
          ...{ kind: 'vehicle', instance: `FAR-${i}`, attributes: '[]', factors: 0 },
          ...{ own_pin: 0, created_at: at },
        })
        .returning('id')
        .executeTakeFirstOrThrow()
      await fleetStore.db
        .insertInto('identity')
        .values({
          ...{ device_id: device, generation: 1, leaf, issue_date: '2026-01-01', issued_at: at },
          id_core: concat(be32(leaf), be16(1), new Uint8Array(33).fill(i, 1)),
          ...{ salt: new Uint8Array(16), revoked_at: null, seen_at: null },
        })
        .execute()
      ids.push((await bans.add({ device }, { reason: 'stolen' }, actor)).id)
    }
  })
  afterAll(async () => {
    for (const id of ids) await bans.lift(id, actor)
    await bans.stop()
  })
  afterEach(() => vi.restoreAllMocks())

  /** What the commands hand to their threads, and no server of this process does meanwhile. */
  const jobsHere = () => ({
    nodeSharesVerify: vi.spyOn(CryptoWorker.prototype, 'nodeSharesVerify'),
    composePermits: vi.spyOn(CryptoWorker.prototype, 'composePermits'),
    permits: vi.spyOn(CryptoWorker.prototype, 'permits'),
  })
  const issueIn = (work: string, ports: { fetch: typeof fetch }) =>
    milagroAt(
      { env: { MILAGRO_RPS_PASSPHRASE: PASSPHRASE }, ...ports },
      ...['permits', 'issue', '--config', system.rpsConfig, '--work', folder.file(work)],
      ...['--workers', '0', '--json'],
    )
  /** The nodes that an authority is asked for, and an end to the network once `most` times were let through. */
  function asking(most = Number.POSITIVE_INFINITY): { fetch: typeof fetch; batches: string[][] } {
    const batches: string[][] = []
    return {
      batches,
      fetch: async (input, init) => {
        if (!String(input).includes('/node-permits')) return fetch(input, init)
        if (batches.length === most) throw new TypeError('cut off')
        const { nodes } = (await new Response(init?.body as Uint8Array<ArrayBuffer>).json()) as {
          nodes: string
        }
        batches.push(
          decodeNodes(fromBase64Url(nodes, 'nodes')).map(({ depth, index }) => `${depth}/${index}`),
        )
        return fetch(input, init)
      },
    }
  }
  /** Files go by the hash of what is in them. */
  const filesOf = async (name: string) =>
    (await readdir(folder.file(name))).filter(file => !file.endsWith('.json')).sort()

  test('cut off after a batch: the next run asks for the rest alone', { timeout: 300_000 }, async () => {
    const here = jobsHere()
    const before = asking(1)
    const cut = await issueIn('cut', before)
    expect(cut.exit).toBe(1)
    expect(before.batches.map(({ length }) => length)).toEqual([MOST_NODES])

    const after = asking()
    const resumed = await issueIn('cut', after)
    const { permits } = resumed.json as { permits: number }
    expect(resumed).toMatchObject({ exit: 0, json: { banned: 13 } })
    expect(permits).toBeGreaterThan(MOST_NODES)
    expect(resumed.err).toContain(`issued ${MOST_NODES} of ${permits}`)
    // Each node once, in the one run or the other.
    const nodes = [...before.batches, ...after.batches].flat()
    expect(nodes).toHaveLength(permits)
    expect(new Set(nodes).size).toBe(permits)
    // With --workers 0 the counters of the next test do count.
    expect(here.nodeSharesVerify).toHaveBeenCalled()
    expect(here.composePermits).toHaveBeenCalled()
  })

  test('issued, published and verified in threads: the same permits', { timeout: 300_000 }, async () => {
    const start = CryptoPool.start.bind(CryptoPool)
    // A thread can't load a source.
    const script = new URL('../../crypto/dist/node-pool.js', import.meta.url)
    const started = vi.spyOn(CryptoPool, 'start').mockImplementation(options => start({ ...options, script }))
    const here = jobsHere()
    const env = { MILAGRO_RPS_PASSPHRASE: PASSPHRASE }
    const inThreads = (verb: string, work: string, ...more: string[]) =>
      milagroWith(
        env,
        ...['permits', verb, '--config', system.rpsConfig, '--work', folder.file(work), '--json'],
        ...more,
      )
    const whole = await inThreads('issue', 'whole')
    expect(whole).toMatchObject({ exit: 0, json: { banned: 13 } })
    for (const work of ['whole', 'cut'])
      expect(await inThreads('publish', work, '--out', folder.file(`of-${work}`))).toMatchObject({ exit: 0 })
    expect(await filesOf('of-whole')).toHaveLength(2)
    expect(await filesOf('of-cut')).toEqual(await filesOf('of-whole'))
    const checked = await milagroWith(
      {},
      ...['permits', 'verify', folder.file('of-cut'), '--group', folder.file('group.json')],
      ...['--group-id', system.groupId, '--json'],
    )
    expect(checked).toMatchObject({ exit: 0, json: { permits: whole.json.permits, banned: 13 } })
    const threads = Math.max(1, availableParallelism() - 1)
    expect(started.mock.calls.map(([{ workers }]) => workers)).toEqual([threads, threads, threads, threads])
    for (const job of Object.values(here)) expect(job).not.toHaveBeenCalled()
  })
})

test('a device takes its permits from the cache, this slot’s and the next’s, and the RPS’ where there is none', {
  timeout: 180_000,
}, async () => {
  await working('issue', '--ahead', '1')
  await working('publish', '--ahead', '1', '--out', folder.file('web/next'))
  const asked: string[] = []
  const watching: typeof fetch = (input, init) => {
    asked.push(new URL(String(input)).pathname)
    return fetch(input, init)
  }
  const permit = (bundles: string, ...more: string[]) =>
    milagroAt(
      { env: { MILAGRO_RPS_URL: system.rps }, fetch: watching },
      ...['device', 'permit', '--store', folder.file('VIN-2.json'), '--bundles', bundles, '--json', ...more],
    )
  const next = await permit(`${web}next`, '--next')
  expect(next).toMatchObject({ exit: 0, err: '' })
  expect(asked).toHaveLength(3)
  expect(asked.every(path => /\.(json|leaves|permits)$/.test(path))).toBe(true)
  const current = await permit(`${web}elsewhere`)
  expect(current).toMatchObject({
    exit: 0,
    err: expect.stringContaining('the RPS is asked instead'),
    json: { slot: (next.json.slot as number) - 1 },
  })
  expect(asked).toContain('/v1/permits')
  // In the store by now: nobody is asked for anything.
  asked.length = 0
  expect(await permit(web)).toMatchObject({ exit: 0, err: '', json: current.json })
  expect(asked).toEqual([])
})

describe('a cache that lies', () => {
  const cdn = () => folder.file('cdn')
  const head = async () => (await readdir(cdn())).find(name => name.endsWith('.json')) as string
  const part = async () => (await readdir(cdn())).find(name => name.endsWith('.permits')) as string
  const manifest = async () => {
    const { leavesHash, parts } = JSON.parse(
      Buffer.from(
        JSON.parse(await readFile(join(cdn(), await head()), 'utf8')).manifest.split('.')[1],
        'base64url',
      ).toString(),
    )
    return { leaves: `${leavesHash}.leaves`, part: `${parts[0].hash}.permits` }
  }
  beforeEach(async () => {
    await mkdir(cdn(), { recursive: true })
    await cp(folder.file('web'), cdn(), { recursive: true, force: true })
  })

  test.each<[string, () => Promise<void>]>([
    [
      'with a permit changed',
      async () => {
        const file = join(cdn(), (await manifest()).part)
        const bytes = await readFile(file)
        bytes[20]! ^= 1
        await writeFile(file, bytes)
      },
    ],
    [
      'with two permits in each other’s places',
      async () => {
        const file = join(cdn(), (await manifest()).part)
        const bytes = await readFile(file)
        await writeFile(
          file,
          Buffer.concat([bytes.subarray(53, 106), bytes.subarray(0, 53), bytes.subarray(106)]),
        )
      },
    ],
    [
      'with a part cut off',
      async () => {
        const file = join(cdn(), (await manifest()).part)
        await writeFile(file, (await readFile(file)).subarray(53))
      },
    ],
    [
      'with the permits of before the ban',
      async () => {
        const { part: now } = await manifest()
        const old = (await readdir(cdn())).find(name => name.endsWith('.permits') && name !== now) as string
        await cp(join(cdn(), old), join(cdn(), now))
      },
    ],
    [
      'with the leaves of before the ban',
      async () => {
        const { leaves: now } = await manifest()
        const old = (await readdir(cdn())).find(name => name.endsWith('.leaves') && name !== now) as string
        await cp(join(cdn(), old), join(cdn(), now))
      },
    ],
    [
      'without co-signatures',
      async () => {
        const file = join(cdn(), await head())
        const { manifest } = JSON.parse(await readFile(file, 'utf8'))
        await writeFile(file, JSON.stringify({ manifest, cosignatures: [] }))
      },
    ],
    [
      'with a manifest by nobody',
      async () => {
        const file = join(cdn(), await head())
        const { manifest, cosignatures } = JSON.parse(await readFile(file, 'utf8'))
        const [header, payload] = manifest.split('.')
        await writeFile(
          file,
          JSON.stringify({ manifest: `${header}.${payload}.${'A'.repeat(86)}`, cosignatures }),
        )
      },
    ],
    [
      'with another slot’s bundle',
      async () => {
        const name = await head()
        await rename(join(cdn(), name), join(cdn(), 'other'))
        const next = folder.file('next')
        await working('publish', '--out', next, '--ahead', '1')
        const other = (await readdir(next)).find(file => file.endsWith('.json')) as string
        await cp(join(next, other), join(cdn(), name))
      },
    ],
    [
      'without anything',
      async () => {
        await rename(join(cdn(), await part()), join(cdn(), 'gone'))
        await rename(join(cdn(), await head()), join(cdn(), 'gone.too'))
      },
    ],
  ])('is found out %s', async (_, tamper) => {
    expect((await verify(cdn())).exit).toBe(0)
    await tamper()
    expect((await verify(cdn())).exit).toBe(1)
  })
})

test('who is among the newest banned leaves is refused although its permit is good', async () => {
  await writeFile(folder.file('note.txt'), 'hello')
  const leaves = (await readdir(folder.file('web'))).filter(name => name.endsWith('.leaves'))
  expect(leaves).toHaveLength(2)
  const sign = (vin: string) =>
    milagroWith(
      { MILAGRO_RPS_URL: system.rps },
      ...['sign', folder.file('note.txt'), '--context', 'note', '--out', folder.file(`${vin}.sig`)],
      ...['--store', folder.file(`${vin}.json`), '--json'],
    )
  expect((await sign('VIN-2')).exit).toBe(0)
  expect(await sign('VIN-1')).toMatchObject({ exit: 1, json: { code: 'BANNED' } })
  for (const name of leaves)
    expect(
      await milagroWith(
        {},
        ...['verify', folder.file('note.txt'), '--signature', folder.file('VIN-2.sig'), '--context', 'note'],
        ...['--group', folder.file('group.json'), '--group-id', system.groupId, '--offline'],
        ...['--leaves', folder.file(`web/${name}`), '--json'],
      ),
    ).toMatchObject({ exit: 0, json: { valid: true } })
})

describe('the same work folder, after the group has changed', () => {
  /** The documents as the authority has them, first revision first. */
  async function documents(): Promise<string> {
    const authority = createClient(dtaRoutes, { baseUrl: system.dta })
    const params = { groupId: system.groupId }
    const { revision: newest } = await authority.group({ params, query: {} })
    const chain = await Promise.all(
      Array.from({ length: newest }, (_, i) =>
        authority.group({ params, query: { revision: String(i + 1) } }),
      ),
    )
    return folder.write(`group-${newest}.json`, chain)
  }
  const place = () => folder.file('changed')
  const check = (group: string) =>
    milagroWith(
      {},
      ...['permits', 'verify', place(), '--group', group, '--group-id', system.groupId],
      ...['--workers', '0', '--json'],
    )

  test('other RA keys: the state is signed anew, and what was made stays', async () => {
    expect((await operator('fleet', 'rotate-key')).json).toMatchObject({ state: 'open' })
    const config = folder.file('ta1.json')
    const { revisions } = (await milagroWith({}, 'dta', 'status', '--config', config, '--json')).json as {
      revisions: { documentHash: string }[]
    }
    const hash = revisions[0]?.documentHash as string
    expect((await milagroWith({}, 'group', 'accept', hash, '--config', config)).exit).toBe(0)
    expect((await operator('fleet', 'rotate-key', '--finish')).json).toMatchObject({ state: 'done' })

    expect(await working('issue')).toMatchObject({ exit: 0, json: { permits: 32 } })
    expect((await working('publish', '--out', place())).exit).toBe(0)
    expect(await check(await documents())).toMatchObject({ exit: 0, json: { permits: 32, banned: 1 } })
    // Whoever has the former document alone doesn't know the key.
    expect(await check(folder.file('group.json'))).toMatchObject({ exit: 1, json: { code: 'NOT_APPROVED' } })
  })

  test('a reshare: the former authorities’ co-signatures count for nothing, the new ones’ do', async () => {
    const group = await documents()
    const { url, config } = await folder.authority('ta2')
    const [proposal, out] = [folder.file('reshare.json'), folder.file('reshared.json')]
    const reshare = () =>
      milagroWith(
        {},
        ...['ceremony', 'reshare', '--authority', url, system.dta, '--t', '2', '--group', group],
        ...['--proposal', proposal, '--out', out],
      )
    expect((await reshare()).exit).toBe(0)
    for (const one of [folder.file('ta1.json'), config]) {
      const join = ['ceremony', 'join', proposal, '--group', group, '--yes', '--config', one]
      expect(await milagroWith({}, ...join)).toMatchObject({ exit: 0, err: '' })
    }
    expect((await reshare()).exit).toBe(0)

    expect(await working('publish', '--out', place())).toMatchObject({
      exit: 1,
      json: { code: 'NOT_FOUND', why: expect.stringContaining('0 co-signatures') },
    })
    expect(await working('issue')).toMatchObject({ exit: 0, json: { permits: 32 } })
    expect((await working('publish', '--out', place())).exit).toBe(0)
    expect(await check(out)).toMatchObject({ exit: 0, json: { permits: 32, banned: 1 } })
    expect(await check(group)).toMatchObject({ exit: 1, json: { code: 'NOT_APPROVED' } })

    // And a ban makes new ones of it, by both.
    expect((await operator('fleet', 'ban', '--vehicle', 'VIN-2', '--reason', 'stolen')).exit).toBe(0)
    expect(await working('issue')).toMatchObject({ exit: 0, json: { banned: 2 } })
    expect((await working('publish', '--out', place())).exit).toBe(0)
    expect(await check(out)).toMatchObject({ exit: 0, json: { banned: 2 } })
  })
})
