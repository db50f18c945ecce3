import { existsSync } from 'node:fs'
import { readFile, rm, writeFile } from 'node:fs/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { openDataFolder } from '@milagro-ts/api/data-folder'
import { dtaMigrations } from '@milagro-ts/dta/tables'
import { openDatabase } from '@milagro-ts/store/database'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { Folder, milagro } from './world.js'

let folder: Folder
let file: string
beforeEach(async () => {
  folder = await Folder.make()
  file = folder.file('dta.sqlite')
})
afterEach(() => folder.close())

const store = async (verb: string, ...more: string[]) => {
  await collected()
  return milagro('store', verb, ...more, '--server', 'dta', '--data-dir', folder.path, '--json')
}

setFlagsFromString('--expose-gc')
const gc = runInNewContext('gc') as () => void
/** A closed database is let go of when its statements are collected; each command's process would have ended here. */
async function collected(): Promise<void> {
  gc()
  await new Promise(resolve => setImmediate(resolve))
}

const accepted = async (change?: (hash: Uint8Array) => Uint8Array) => {
  const database = await openDatabase<unknown>({ file, migrations: dtaMigrations })
  const rows = await database.atomic(connection => {
    if (change !== undefined) {
      connection.run('INSERT INTO accepted (hash, at) VALUES (?, ?)', [change(new Uint8Array(32)), 1])
    }
    return connection.all('SELECT hash FROM accepted')
  })
  await database.close()
  return rows.length
}

test('a database comes back as it was when it was copied', async () => {
  await accepted(hash => hash.fill(1))
  expect((await store('backup', folder.file('copy.sqlite'))).exit).toBe(0)
  expect(await accepted(hash => hash.fill(2))).toBe(2)
  expect((await store('restore', folder.file('copy.sqlite'))).json).toMatchObject({ restored: file })
  expect(await accepted()).toBe(1)
  expect(await store('restore', folder.file('copy.sqlite'))).toMatchObject({ exit: 1 })
})

test('a copy is of the schema that the database has; a restore brings it to the newest', async () => {
  const steps = async (file: string) => {
    const database = await openDatabase<unknown>({ file, migrations: dtaMigrations, schema: 'as it is' })
    const rows = await database.atomic(connection => connection.all('SELECT id FROM migration'))
    await database.close()
    return rows.length
  }
  const older = await openDatabase<unknown>({ file, migrations: dtaMigrations.slice(0, 1) })
  expect((await store('backup', folder.file('copy.sqlite'))).exit).toBe(0)
  await older.close()
  expect([await steps(file), await steps(folder.file('copy.sqlite'))]).toEqual([1, 1])
  expect((await store('restore', folder.file('copy.sqlite'))).exit).toBe(0)
  expect([await steps(file), await steps(`${file}.before-restore`)]).toEqual([dtaMigrations.length, 1])
})

test('a copy of this version takes the place of a database that a newer one has gone on with', async () => {
  await accepted(hash => hash.fill(1))
  expect((await store('backup', folder.file('copy.sqlite'))).exit).toBe(0)
  const later = { id: dtaMigrations.length + 1, name: 'later', up: async () => {} }
  await (await openDatabase<unknown>({ file, migrations: [...dtaMigrations, later] })).close()
  expect(await store('backup', folder.file('newer.sqlite'))).toMatchObject({
    exit: 1,
    json: { code: 'NEWER' },
  })
  expect((await store('restore', folder.file('copy.sqlite'))).exit).toBe(0)
  expect(await accepted()).toBe(1)
})

test('a database that somebody uses stays in its place', async () => {
  await accepted(hash => hash.fill(1))
  expect((await store('backup', folder.file('copy.sqlite'))).exit).toBe(0)
  const server = await openDatabase<unknown>({ file, migrations: dtaMigrations })
  try {
    expect(await store('restore', folder.file('copy.sqlite'))).toMatchObject({
      exit: 1,
      json: { why: `${file} is in use: stop the server first` },
    })
    expect(existsSync(`${file}.before-restore`)).toBe(false)
    expect(await server.writable()).toBe(true)
  } finally {
    await server.close()
  }
})

test.each(['dta', 'rps'])(
  'a folder that a server has is left to it, whose database --server %s means',
  async server => {
    await accepted(hash => hash.fill(1))
    expect((await store('backup', folder.file('copy.sqlite'))).exit).toBe(0)
    await writeFile(folder.file('keys.sealed'), '')
    const start = () =>
      openDataFolder({ dataDir: folder.path, database: 'dta.sqlite', migrations: dtaMigrations })
    const running = await start()
    try {
      const why = await start().catch((error: Error) => error.message)
      expect(why).toMatch(
        /^data folder .* is in use: .*process.lock is held by process [0-9]+ since .*; end that first$/,
      )
      for (const verb of [['migrate'], ['restore', folder.file('copy.sqlite')]])
        expect(
          await milagro('store', ...verb, '--server', server, '--data-dir', folder.path, '--json'),
        ).toMatchObject({ exit: 1, json: { code: 'LOCKED', why } })
      expect(existsSync(`${file}.before-restore`)).toBe(false)
      expect((await store('backup', folder.file('meanwhile.sqlite'))).exit).toBe(0)
    } finally {
      await running.close()
    }
    expect((await store('migrate')).exit).toBe(0)
    expect((await store('restore', folder.file('copy.sqlite'))).exit).toBe(0)
    expect(
      (await milagro('store', 'migrate', '--server', 'dta', '--data-dir', folder.file('none'))).exit,
    ).toBe(2)
    expect(await accepted()).toBe(1)
  },
)

test('a damaged copy, and another server’s, leave the database in its place', async () => {
  await accepted(hash => hash.fill(1))
  await writeFile(
    folder.file('damaged.sqlite'),
    'not a database at all, and long enough to be read as one. '.repeat(99),
  )
  expect(await store('restore', folder.file('damaged.sqlite'))).toMatchObject({
    exit: 1,
    json: { code: 'DAMAGED' },
  })
  await (await openDatabase({ file: folder.file('other.sqlite'), migrations: [] })).close()
  const other = await openDatabase({
    file: folder.file('rps.sqlite'),
    migrations: [{ id: 1, name: 'another', up: async () => {} }],
  })
  await other.close()
  expect(await store('restore', folder.file('rps.sqlite'))).toMatchObject({
    exit: 1,
    json: { code: 'FOREIGN' },
  })
  expect(await accepted()).toBe(1)
})

test('migrating says at which step the schema is; there must be a database', async () => {
  expect(await store('migrate')).toMatchObject({ exit: 2 })
  await accepted()
  expect((await store('migrate')).json).toEqual({ steps: dtaMigrations.length })
  const wrong = await milagro('store', 'migrate', '--server', 'tracking', '--data-dir', folder.path)
  expect(wrong.exit).toBe(2)
})

test.each([
  ['damaged', (bytes: Buffer) => bytes.fill(0x55, 0, 200)],
  ['empty', () => Buffer.alloc(0)],
  ['gone', () => null],
] as const)(
  'a copy takes the place of a database that is %s, which is what it is for',
  async (_what, damage) => {
    await accepted(hash => hash.fill(1))
    expect((await store('backup', folder.file('copy.sqlite'))).exit).toBe(0)
    for (const suffix of ['-wal', '-shm']) await rm(file + suffix, { force: true })
    const damaged = damage(await readFile(file))
    if (damaged === null) await rm(file)
    else await writeFile(file, damaged)
    if (damaged !== null) {
      expect(await store('migrate')).toMatchObject({ exit: 1, json: { code: 'DAMAGED' } })
      expect(await readFile(file)).toEqual(damaged)
    }
    const restored = await store('restore', folder.file('copy.sqlite'))
    const former = damaged === null ? {} : { former: `${file}.before-restore` }
    expect([restored.exit, restored.json]).toEqual([0, { restored: file, ...former }])
    if (damaged !== null) expect(await readFile(`${file}.before-restore`)).toEqual(damaged)
    expect(await accepted()).toBe(1)
  },
)
