import { mkdtemp, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Migration, openDatabase } from '@milagro-ts/store/database'
import { type Generated, sql } from '@milagro-ts/store/kysely'
import { afterEach, beforeEach, expect, test } from 'vitest'

interface Cars {
  car: { id: Generated<number>; vin: string; seal: Uint8Array }
}

const first: Migration = {
  id: 1,
  name: 'cars',
  up: async db => {
    await sql`CREATE TABLE car (id INTEGER PRIMARY KEY, vin TEXT NOT NULL UNIQUE, seal BLOB NOT NULL) STRICT`.execute(
      db,
    )
  },
}
const second: Migration = {
  id: 2,
  name: 'colour',
  up: async db => {
    await sql`ALTER TABLE car ADD COLUMN colour TEXT`.execute(db)
  },
}

let folder: string
let file: string

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'milagro-store-'))
  file = join(folder, 'server.db')
})

afterEach(() => rm(folder, { recursive: true }))

const open = (migrations: Migration[] = [first], at = file) => openDatabase<Cars>({ file: at, migrations })

test('a server stores a car, restarts with a wider schema, and finds it', async () => {
  const before = await open()
  await before.db
    .insertInto('car')
    .values({ vin: 'V1', seal: Uint8Array.of(0, 1, 254) })
    .execute()
  await before.close()
  const after = await open([first, second])
  const cars = await after.db.selectFrom('car').selectAll().execute()
  expect(cars).toEqual([{ id: 1, vin: 'V1', seal: Uint8Array.of(0, 1, 254), colour: null }])
  await after.close()
})

test('a copy of an older server’s database, made while that runs, leaves both as they are', async () => {
  const server = await open([first])
  const beside = await openDatabase<Cars>({ file, migrations: [first, second], schema: 'as it is' })
  const copy = join(folder, 'copy.db')
  await beside.backup(copy)
  await beside.close()
  expect(await server.atomic(c => c.all('SELECT id FROM migration'))).toEqual([{ id: 1 }])
  await server.close()
  await (await open([first], copy)).close()
  await (await open([first])).close()
  await expect(
    openDatabase({ file, migrations: [{ ...second, id: 1 }], schema: 'as it is' }),
  ).rejects.toMatchObject({ reason: 'foreign' })
  await expect(openDatabase({ file, migrations: [], schema: 'as it is' })).rejects.toMatchObject({
    reason: 'newer',
  })
})

test('blobs come out as Uint8Array from kysely, its streams, raw statements and :memory:', async () => {
  const store = await open([first], ':memory:')
  const row = { vin: 'V1', seal: Uint8Array.of(7) }
  const returned = await store.db.insertInto('car').values(row).returning('seal').executeTakeFirstOrThrow()
  expect(returned.seal).toStrictEqual(Uint8Array.of(7))
  const streamed = store.db.selectFrom('car').select('seal').stream()
  for await (const { seal } of streamed) expect(seal).toStrictEqual(Uint8Array.of(7))
  expect(await store.atomic(c => c.all('SELECT seal FROM car'))).toStrictEqual([{ seal: Uint8Array.of(7) }])
  await store.close()
})

test('the log is written ahead, synced by us (write-ahead-log.test.ts), and foreign keys hold', async () => {
  const store = await open()
  const pragma = (name: string) => store.atomic(c => Object.values(c.all(`PRAGMA ${name}`)[0]!)[0])
  expect(await pragma('journal_mode')).toBe('wal')
  // NORMAL, and no checkpoint within a commit.
  expect(await pragma('synchronous')).toBe(1)
  expect(await pragma('wal_autocheckpoint')).toBe(0)
  expect(await pragma('foreign_keys')).toBe(1)
  await store.close()
})

test('nobody but the owner reads the file', async () => {
  const store = await open()
  await store.writable()
  for (const name of await readdir(folder)) expect((await stat(join(folder, name))).mode & 0o077).toBe(0)
  await store.close()
})

test('a step that fails leaves nothing behind, and can be tried again', async () => {
  const broken: Migration = {
    id: 2,
    name: 'colour',
    up: async db => {
      await second.up(db)
      throw new Error('power cut')
    },
  }
  await expect(open([first, broken])).rejects.toThrow('power cut')
  const store = await open([first, second])
  expect(await store.db.selectFrom('car').selectAll().execute()).toEqual([])
  await store.close()
})

test('steps that are not numbered 1, 2, 3 are a programmer’s mistake', async () => {
  await expect(open([second])).rejects.toThrow(RangeError)
  await expect(open([first, first])).rejects.toThrow(RangeError)
})

test('a database of a newer version is refused in one line', async () => {
  await (await open([first, second])).close()
  const refusal = await open([first]).catch(error => error)
  expect(refusal).toMatchObject({ name: 'StoreError', reason: 'newer' })
  expect(refusal.message).toMatch(/^database .*server\.db was written by a newer version[^\n]*$/)
})

test('a database of another program is refused', async () => {
  await (await open([{ ...first, name: 'authority' }])).close()
  await expect(open([first])).rejects.toMatchObject({ name: 'StoreError', reason: 'foreign' })
})

test('a file that is no database is refused as damaged', async () => {
  await writeFile(file, 'this is a text, and longer than the header of a database would be. '.repeat(20))
  const refusal = await open().catch(error => error)
  expect(refusal).toMatchObject({ name: 'StoreError', reason: 'damaged' })
  expect(refusal.message).not.toContain('\n')
})

test('a database with overwritten pages is refused as damaged', async () => {
  const store = await open()
  const cars = Array.from({ length: 500 }, (_, n) => ({ vin: `V${n}`, seal: new Uint8Array(100) }))
  await store.db.insertInto('car').values(cars).execute()
  await store.close()
  const bytes = await readFile(file)
  bytes.fill(0xa5, 4096 * 3, 4096 * 8)
  await writeFile(file, bytes)
  await expect(open()).rejects.toMatchObject({ name: 'StoreError', reason: 'damaged' })
})

test('a folder that is not there is refused as unavailable', async () => {
  const nowhere = join(folder, 'nowhere', 'server.db')
  await expect(open([first], nowhere)).rejects.toMatchObject({ name: 'StoreError', reason: 'unavailable' })
})

test('atomic work that throws changes nothing', async () => {
  const store = await open()
  const insert = "INSERT INTO car (vin, seal) VALUES ('V1', x'00')"
  await expect(
    store.atomic(connection => {
      connection.run(insert)
      throw new Error('stop')
    }),
  ).rejects.toThrow('stop')
  expect(await store.atomic(connection => connection.run(insert))).toBe(1)
  await store.close()
})

test('atomic work waits for a running transaction and is not undone with it', async () => {
  const store = await open()
  const undone = store.db.transaction().execute(async step => {
    await step.insertInto('car').values({ vin: 'undone', seal: new Uint8Array() }).execute()
    throw new Error('stop')
  })
  const kept = store.atomic(c => c.run("INSERT INTO car (vin, seal) VALUES ('kept', x'00')"))
  await expect(undone).rejects.toThrow('stop')
  await kept
  expect(await store.db.selectFrom('car').select('vin').execute()).toEqual([{ vin: 'kept' }])
  await store.close()
})

test('a statement that breaks a constraint is no StoreError', async () => {
  const store = await open()
  const insert = () => store.db.insertInto('car').values({ vin: 'V1', seal: new Uint8Array() }).execute()
  await insert()
  await expect(insert()).rejects.toMatchObject({ name: expect.not.stringMatching('StoreError') })
  await store.close()
})

test('a backup is a whole database, for the owner only, and replaces nothing', async () => {
  const store = await open()
  await store.db
    .insertInto('car')
    .values({ vin: 'V1', seal: Uint8Array.of(9) })
    .execute()
  const copy = join(folder, 'copy.db')
  await store.backup(copy)
  expect((await stat(copy)).mode & 0o777).toBe(0o600)
  await expect(store.backup(copy)).rejects.toMatchObject({ name: 'StoreError' })
  await expect(store.backup(join(folder, 'nowhere', 'copy.db'))).rejects.toMatchObject({
    reason: 'unavailable',
  })
  await store.close()
  expect((await readdir(folder)).filter(name => name.endsWith('.tmp'))).toEqual([])
  const restored = await open([first], copy)
  expect(await restored.db.selectFrom('car').select('seal').execute()).toEqual([{ seal: Uint8Array.of(9) }])
  await restored.close()
})

test('writable says no while the database takes no writes, and yes afterwards', async () => {
  const store = await open()
  expect(await store.writable()).toBe(true)
  await store.db.connection().execute(connection => sql`PRAGMA query_only = ON`.execute(connection))
  expect(await store.writable()).toBe(false)
  await store.db.connection().execute(connection => sql`PRAGMA query_only = OFF`.execute(connection))
  expect(await store.writable()).toBe(true)
  await store.close()
})

test('writable says no while another file, or none, has the database’s name', async () => {
  const store = await open()
  const aside = join(folder, 'aside.db')
  await rename(file, aside)
  expect(await store.writable()).toBe(false)
  await writeFile(file, '')
  expect(await store.writable()).toBe(false)
  await rename(aside, file)
  expect(await store.writable()).toBe(true)
  await store.close()
})

test('closing twice is closing once', async () => {
  const store = await open()
  await store.close()
  await store.close()
})
