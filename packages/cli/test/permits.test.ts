/** A slot's permits in one go: issued, interrupted and taken up again, published, checked; and a cache that lies. */

import { cp, mkdir, readdir, readFile, rename, writeFile } from 'node:fs/promises'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { createClient } from '@milagro-ts/api/call'
import { dtaRoutes } from '@milagro-ts/api/dta-routes'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
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

test('one banned: 32 permits, in what an interruption has left undone', { timeout: 60_000 }, async () => {
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

  // Cut off in the middle: what was made is kept, and the next run makes the rest alone.
  const cut = await milagroAt(
    { env: { MILAGRO_RPS_PASSPHRASE: PASSPHRASE }, fetch: cutAfter('/node-permits', 0) },
    ...['permits', 'issue', '--config', system.rpsConfig, '--work', folder.file('work'), '--ahead', '1'],
    ...['--workers', '0', '--json'],
  )
  expect(cut.exit).toBe(1)
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

test('a device takes its permits from the cache, this slot’s and the next’s, and the RPS’ where there is none', {
  timeout: 60_000,
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

function cutAfter(path: string, calls: number): typeof fetch {
  let left = calls
  return (input, init) => {
    if (!String(input).includes(path) || left-- > 0) return fetch(input, init)
    return Promise.reject(new TypeError('cut off'))
  }
}

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
