/** A file goes to a car by its M-Pin ID, through standard input and output; what was changed on the way is refused. */
import { readdir, readFile } from 'node:fs/promises'
import { createClient } from '@milagro-ts/api/call'
import { dtaRoutes } from '@milagro-ts/api/dta-routes'
import { documentHash } from '@milagro-ts/api/group'
import type { GroupDocument } from '@milagro-ts/api/group-document'
import { signRevisionStatement } from '@milagro-ts/api/statements'
import { Progress } from '@milagro-ts/cli/progress'
import { toBase64Url, utf8 } from '@milagro-ts/crypto/bytes'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type RunningFleet, runFleet } from './running-fleet.js'
import { Folder, milagroAt, milagroWith, piped } from './world.js'

let folder: Folder
let system: RunningFleet
let idCore: string
const SLOW = ['--slow-device', '1000']
const MESSAGE = Uint8Array.from({ length: 200_000 }, (_, i) => (i * 31 + (i >> 8)) & 255)
const noNetwork: typeof fetch = () => Promise.reject(new Error('there is no network'))

const through = async (input: Uint8Array, ...argv: string[]) => {
  const { bytes, output } = piped(input)
  const said = await milagroAt({ fetch: noNetwork, bytes }, ...argv)
  return { ...said, output: output() }
}
const encrypt = (input: Uint8Array, to: readonly string[] = [idCore], ...more: string[]) =>
  through(
    input,
    ...['encrypt', '--to', ...to, '--group', folder.file('group.json'), '--group-id', system.groupId],
    ...more,
  )
const decrypt = (input: Uint8Array, ...more: string[]) =>
  through(input, 'decrypt', '--store', folder.file('car.json'), '--rps', system.rps, ...more)

const settings = (name: string) => ({ name, dataDir: folder.file(name) })
const SECRET = { MILAGRO_SERVICE_PASSPHRASE: 'of the service' }
/** The keys of a service, made before there is a group. */
async function service(name: string): Promise<{ name: string; requestKey: string; hpkeKey: string }> {
  const file = await folder.write(`${name}.json`, { ...settings(name), rps: { url: 'http://127.0.0.1:1' } })
  const { exit, out } = await milagroWith(SECRET, 'decrypt', '--service', file, '--init')
  expect(exit).toBe(0)
  return JSON.parse(out)
}
/** As the service; it needs the authorities. */
const decryptAs = async (name: string, input: Uint8Array) => {
  const { bytes, output } = piped(input)
  const said = await milagroAt(
    { env: SECRET, bytes },
    ...['decrypt', '--service', folder.file(`${name}.json`)],
  )
  return { ...said, output: output() }
}

beforeAll(async () => {
  folder = await Folder.make()
  const depot = await service('depot.example')
  const daily = await service('daily.example')
  system = await runFleet(folder, {
    recipients: [
      { ...depot, kind: 3, purposes: ['encrypt'] },
      { ...daily, kind: 2, purposes: ['encrypt'] },
    ],
  })
  for (const name of ['depot.example', 'daily.example'])
    await folder.write(`${name}.json`, {
      ...settings(name),
      groupFile: folder.file('group.json'),
      groupId: system.groupId,
      rps: { url: system.rps },
    })
  const operator = ['--store', folder.file('operator.json'), '--rps', system.rps]
  await milagroWith(
    { MILAGRO_PIN: '314159', MILAGRO_CODE: system.setupCode },
    ...['device', 'enroll', '--with-pin', '--instance', `operator:${system.operator}`],
    ...['--attribute', `operator=${system.operator}`, ...operator, ...SLOW],
  )
  const added = await milagroWith(
    { MILAGRO_PIN: '314159' },
    ...['fleet', 'add', 'vehicle', 'VIN-1', '--attribute', 'brand=Fiat'],
    ...[...operator, '--url', system.fleet, '--json'],
  )
  const enrolled = await milagroWith(
    { MILAGRO_CODE: added.json.code as string, MILAGRO_RPS_URL: system.rps },
    ...['device', 'enroll', '--instance', 'VIN-1', '--attribute', 'brand=Fiat'],
    ...['--store', folder.file('car.json'), '--json'],
  )
  idCore = enrolled.json.idCore as string
}, 180_000)
afterAll(() => folder.close())

test('encrypted and decrypted without a network', async () => {
  const { exit, output, err, out } = await encrypt(MESSAGE)
  expect({ exit, err, out }).toEqual({ exit: 0, err: '', out: '' })
  const opened = await decrypt(output)
  expect({ exit: opened.exit, err: opened.err }).toEqual({ exit: 0, err: '' })
  expect(Buffer.from(opened.output).equals(Buffer.from(MESSAGE))).toBe(true)
})

test('to a public name and a device in one file; each opens it with its own key', async () => {
  const { exit, output } = await encrypt(MESSAGE, ['depot.example', idCore])
  expect(exit).toBe(0)
  expect(Buffer.from(output).toString('latin1')).not.toContain('depot')
  for (const opened of [await decryptAs('depot.example', output), await decrypt(output)]) {
    expect({ exit: opened.exit, err: opened.err }).toEqual({ exit: 0, err: '' })
    expect(Buffer.from(opened.output).equals(Buffer.from(MESSAGE))).toBe(true)
  }
  expect(await decryptAs('daily.example', output)).toMatchObject({
    exit: 1,
    err: expect.stringContaining('NOT_A_RECIPIENT'),
  })
})

test('to names at a slot: by its number or a time in it; a server takes nothing else', async () => {
  const now = new Date().toISOString()
  const { output } = await encrypt(MESSAGE, ['daily.example', 'depot.example'], '--slot', now)
  const header = Buffer.from(output).toString('latin1')
  const slot = /^-> milagro-ibe [\w-]{43} 1 [\w-]{6} slot=([0-9]+)$/m.exec(header)?.[1] as string
  for (const name of ['daily.example', 'depot.example'])
    expect((await decryptAs(name, output)).output).toHaveLength(MESSAGE.length)
  const numbered = await encrypt(MESSAGE, ['daily.example'], '--slot', slot)
  expect((await decryptAs('daily.example', numbered.output)).exit).toBe(0)

  expect(await encrypt(MESSAGE, ['daily.example'])).toMatchObject({
    exit: 1,
    err: expect.stringContaining('SLOT_NEEDED'),
  })
  const far = await encrypt(MESSAGE, ['daily.example'], '--slot', String(Number(slot) + 7))
  expect(await decryptAs('daily.example', far.output)).toMatchObject({
    exit: 1,
    err: expect.stringContaining('SLOT_AHEAD'),
  })
  expect(await encrypt(MESSAGE, ['rps'])).toMatchObject({
    exit: 1,
    err: expect.stringContaining('UNKNOWN_RECIPIENT'),
  })
  expect(await encrypt(MESSAGE, ['depot.example'], '--slot', 'someday')).toMatchObject({ exit: 2 })
})

test('fetched ahead: a file for the slot is opened though nobody can be asked, and not before', async () => {
  const { output } = await encrypt(MESSAGE, [idCore], '--slot', new Date().toISOString())
  expect((await decrypt(output)).exit).toBe(3)
  const prepared = await milagroWith(
    { MILAGRO_RPS_URL: system.rps },
    ...['device', 'prepare-files', '--store', folder.file('car.json'), '--json'],
  )
  const slot = / slot=([0-9]+)$/m.exec(Buffer.from(output).toString('latin1'))?.[1]
  expect(prepared).toMatchObject({
    exit: 0,
    json: { idCore, slots: expect.arrayContaining([Number(slot)]) },
  })
  expect((await decrypt(output)).output).toHaveLength(MESSAGE.length)
})

test('a changed file for a public name is refused, and so are two kinds of keys at once', async () => {
  const { output } = await encrypt(MESSAGE, ['depot.example'])
  const changed = output.map((byte, i) => (i === output.length - 3 ? byte ^ 1 : byte))
  expect((await decryptAs('depot.example', changed)).exit).toBe(1)
  const both = ['--store', folder.file('car.json'), '--service', folder.file('depot.example.json')]
  expect(await through(output, 'decrypt', ...both)).toMatchObject({ exit: 2 })
  expect(await through(output, 'decrypt')).toMatchObject({ exit: 2 })
})

test('with --out there is a file when all of it is there, and none before', async () => {
  const { exit } = await encrypt(MESSAGE, [idCore], '--out', folder.file('map.age'))
  expect(exit).toBe(0)
  const file = new Uint8Array(await readFile(folder.file('map.age')))
  expect(await decrypt(file, '--out', folder.file('map'))).toMatchObject({ exit: 0 })
  expect(Buffer.from(MESSAGE).equals(await readFile(folder.file('map')))).toBe(true)
  const changed = file.map((byte, i) => (i === file.length - 3 ? byte ^ 1 : byte))
  const said = await decrypt(changed, '--out', folder.file('changed'))
  expect(said).toMatchObject({ exit: 1, err: 'milagro: MALFORMED: file: it was changed or cut off\n' })
  expect((await readdir(folder.path)).filter(name => name.startsWith('changed'))).toEqual([])
})

test('on standard output a changed file ends at the last chunk that was authentic, and the command fails', async () => {
  const { output } = await encrypt(MESSAGE)
  const changed = output.map((byte, i) => (i === output.length - 3 ? byte ^ 1 : byte))
  const said = await decrypt(changed)
  expect(said.exit).toBe(1)
  expect(said.output.length).toBeLessThan(MESSAGE.length)
  expect(Buffer.from(said.output).equals(Buffer.from(MESSAGE.subarray(0, said.output.length)))).toBe(true)
})

test('what is no file is refused at once, however much of it would come', async () => {
  let isClosed = false
  const endless = new ReadableStream<Uint8Array>({ pull: controller => controller.enqueue(utf8('yes\n')) })
  const { bytes } = piped(MESSAGE)
  const said = await milagroAt(
    {
      bytes: {
        ...bytes,
        input: () => endless,
        close: () => {
          isClosed = true
        },
      },
    },
    ...['decrypt', '--store', folder.file('car.json'), '--rps', system.rps],
  )
  expect(said).toMatchObject({ exit: 1, err: 'milagro: MALFORMED: file: not a file of age v1\n' })
  expect(isClosed).toBe(true)
})

test('a file for somebody else', async () => {
  const bytes = Buffer.from(idCore, 'base64url')
  bytes[38]! ^= 1
  const { output } = await encrypt(MESSAGE, [toBase64Url(bytes)])
  expect(await decrypt(output)).toMatchObject({ exit: 1, err: expect.stringContaining('NOT_A_RECIPIENT') })
})

test('a name that is none, a group that is another, nobody at all', async () => {
  expect(await encrypt(MESSAGE, ['VIN-1'])).toMatchObject({
    exit: 2,
    err: expect.stringContaining('no M-Pin ID'),
  })
  const other = toBase64Url(new Uint8Array(32))
  const group = ['--group', folder.file('group.json'), '--group-id', other]
  expect(await through(MESSAGE, 'encrypt', '--to', idCore, ...group)).toMatchObject({ exit: 1 })
  expect(await through(MESSAGE, 'encrypt', ...group)).toMatchObject({ exit: 2 })
})

describe('a service that may not read any more', () => {
  /** A file for a name without a slot, and one for each name at this slot. */
  const files = async () => {
    const slot = ['--slot', new Date().toISOString()]
    const made = [
      ['depot.example', await encrypt(MESSAGE, ['depot.example'])],
      ['depot.example', await encrypt(MESSAGE, ['depot.example'], ...slot)],
      ['daily.example', await encrypt(MESSAGE, ['daily.example'], ...slot)],
    ] as const
    return made.map(([name, { output }]) => ({ name, output }))
  }
  const opened = async (suffix = '') =>
    Promise.all(
      (await files()).map(async ({ name, output }) => {
        const said = await decryptAs(name + suffix, output)
        return said.exit === 0 ? said.output.length : /[A-Z_]{4,}/.exec(said.err)?.[0]
      }),
    )
  const all = <T>(what: T) => [what, what, what]

  test('frozen by name: no key without a slot and none for one, though it has opened such files before', async () => {
    const freeze = async (verb: 'freeze' | 'unfreeze') => {
      for (const name of ['depot.example', 'daily.example'])
        expect(
          await milagroWith(
            {},
            ...['dta', verb, name, '--group', system.groupId, '--config', folder.file('ta1.json')],
          ),
        ).toMatchObject({ exit: 0 })
    }
    expect(await opened()).toEqual(all(MESSAGE.length))
    await freeze('freeze')
    expect(await opened()).toEqual(all('FROZEN'))
    await freeze('unfreeze')
    expect(await opened()).toEqual(all(MESSAGE.length))
  })

  test('removed from the document: neither by the revision that it knows nor by the next', async () => {
    const params = { groupId: system.groupId }
    const dta = createClient(dtaRoutes, { baseUrl: system.dta, fetch })
    const before = await dta.group({ params, query: {} })
    const unsigned: GroupDocument = {
      ...before,
      groupId: system.groupId,
      revision: before.revision + 1,
      previous: toBase64Url(documentHash(before)),
      recipients: before.recipients.filter(({ name }) => !/^(depot|daily)/.test(name)),
      signatures: [],
    }
    const hash = toBase64Url(documentHash(unsigned))
    const statement = await signRevisionStatement(
      {
        suite: 'BLS12381-SHA256-V1',
        groupId: system.groupId,
        revision: unsigned.revision,
        documentHash: hash,
        iat: Math.floor(Date.now() / 1000),
      },
      system.ra,
    )
    await milagroWith({}, 'group', 'accept', hash, '--config', folder.file('ta1.json'))
    const signature = await dta.proposeRevision({ params, body: { document: unsigned, statement } })
    const after = { ...unsigned, signatures: [signature] }

    // Nobody tells them of revisions, so each goes by what its file has.
    await folder.write('after.json', [before, after])
    for (const name of ['depot.example', 'daily.example']) {
      const own = { ...settings(name), groupId: system.groupId, rps: { url: 'http://127.0.0.1:1' } }
      await folder.write(`${name}-before.json`, { ...own, groupFile: folder.file('group.json') })
      await folder.write(`${name}-after.json`, { ...own, groupFile: folder.file('after.json') })
    }
    expect(await opened('-before')).toEqual(all(MESSAGE.length))
    await dta.concludeRevision({ params, body: { document: after } })
    expect(await opened('-before')).toEqual(all('UNAUTHENTICATED'))
    expect(await opened('-after')).toEqual(all('UNKNOWN_RECIPIENT'))
  })
})

describe('progress', () => {
  test('a bar where the size is known, ten times a second at most, and gone at the end', () => {
    let now = 0
    const lines: string[] = []
    const progress = new Progress(
      text => lines.push(text),
      () => now,
      4_000_000,
    )
    for (let i = 0; i < 4; i++) {
      now += i === 2 ? 10 : 500
      progress.add(1_000_000)
    }
    progress.end()
    expect(lines).toEqual([
      '\r[######------------------]  25 %  1.0 MB  2.0 MB/s',
      '\r[############------------]  50 %  2.0 MB  2.0 MB/s',
      '\r[########################] 100 %  4.0 MB  2.6 MB/s',
      `\r${' '.repeat(50)}\r`,
    ])
  })
  test('of a pipe only what has come', () => {
    const lines: string[] = []
    const progress = new Progress(
      text => lines.push(text),
      () => 0,
      undefined,
    )
    progress.add(2_500_000_000)
    expect(lines).toEqual(['\r2.50 GB'])
  })
  test('nothing where nothing came', () => {
    const lines: string[] = []
    const progress = new Progress(
      text => lines.push(text),
      () => 0,
      undefined,
    )
    progress.end()
    expect(lines).toEqual([])
  })
  test('goes to the error stream of somebody who watches', async () => {
    const { bytes } = piped(utf8('x'))
    const said = await milagroAt(
      { bytes: { ...bytes, isWatched: true } },
      ...['encrypt', '--to', idCore, '--group', folder.file('group.json'), '--group-id', system.groupId],
    )
    expect(said.exit).toBe(0)
    expect(said.err).toContain('100 %')
    expect(said.err.endsWith('\r')).toBe(true)
  })
})
