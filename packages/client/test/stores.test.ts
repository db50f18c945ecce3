/// <reference lib="dom" />
/** The adapters of the token store and the unlocker: the same cases for memory and file, and what a file must be. */
import { execFile } from 'node:child_process'
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { browserTokenStore } from '@milagro-ts/client/browser-token-store'
import { Device } from '@milagro-ts/client/device'
import { ClientError } from '@milagro-ts/client/errors'
import { fileTokenStore } from '@milagro-ts/client/file-token-store'
import { fileUnlocker } from '@milagro-ts/client/file-unlocker'
import { type DeviceRecord, decodeRecords, encodeRecords, Records } from '@milagro-ts/client/record'
import { memoryTokenStore, type TokenStore } from '@milagro-ts/client/token-store'
import { IdCore } from '@milagro-ts/crypto/identity'
import { IDBFactory as FakeIndexedDb } from 'fake-indexeddb'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { CAR, JO, VIN, World } from './world.js'

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'milagro-client-'))
})
afterEach(() => rm(folder, { recursive: true }))
const modeOf = async (path: string) => (await stat(path)).mode & 0o777

const adapters: readonly [string, () => TokenStore][] = [
  ['memory', memoryTokenStore],
  ['file', () => fileTokenStore(join(folder, 'device', 'store.json'))],
  ['a browser', () => browserTokenStore({ name: 'test', indexedDB: new FakeIndexedDb() })],
]
describe.each(adapters)('a token store in %s', (_name, make) => {
  test('is empty at first, and holds what was written last', async () => {
    const store = make()
    expect(await store.read()).toBeNull()
    expect(await store.replace(null, 'one')).toBe(true)
    expect(await store.replace('one', 'twö')).toBe(true)
    expect(await store.read()).toBe('twö')
  })

  test('takes no change that was made on another text', async () => {
    const store = make()
    await store.replace(null, 'one')
    expect(await store.replace(null, 'two')).toBe(false)
    expect(await store.replace('other', 'two')).toBe(false)
    expect(await store.read()).toBe('one')
  })

  test('of many that start from one text lets one through', async () => {
    const store = make()
    await store.replace(null, 'start')
    const done = await Promise.all(Array.from({ length: 10 }, (_, i) => store.replace('start', `${i}`)))
    expect(done.filter(Boolean)).toHaveLength(1)
    expect(await store.read()).toBe(`${done.indexOf(true)}`)
  })
})

describe('the browser', () => {
  const open = (indexedDB: IDBFactory, name = 'console') => browserTokenStore({ name, indexedDB })
  /** What somebody finds who reads the database by other means. */
  const rows = (indexedDB: IDBFactory) =>
    new Promise<Record<string, unknown>>((resolve, reject) => {
      const request = indexedDB.open('console', 1)
      request.onerror = () => reject(request.error)
      request.onsuccess = () => {
        const store = request.result.transaction('kept', 'readonly').objectStore('kept')
        const [keys, values] = [store.getAllKeys(), store.getAll()]
        values.onsuccess = () =>
          resolve(Object.fromEntries(keys.result.map((key, i) => [String(key), values.result[i] as unknown])))
      }
    })

  test('keeps the text sealed, under a key that nobody can take out', async () => {
    const database = new FakeIndexedDb()
    await open(database).replace(null, 'a token that nobody else may read')
    const { key, text } = (await rows(database)) as {
      key: CryptoKey
      text: { iv: Uint8Array; ciphertext: ArrayBuffer }
    }
    expect([key.extractable, key.algorithm.name, [...key.usages].sort()]).toEqual([
      false,
      'AES-GCM',
      ['decrypt', 'encrypt'],
    ])
    await expect(crypto.subtle.exportKey('raw', key)).rejects.toThrow()
    expect(Buffer.from(text.ciphertext).toString('latin1')).not.toContain('token')
  })

  test('opens again in another page, and is one of several of an origin', async () => {
    const database = new FakeIndexedDb()
    await open(database).replace(null, 'one')
    expect(await open(database).read()).toBe('one')
    expect(await open(database, 'other').read()).toBeNull()
  })

  test('of two pages at once lets one through, and both use one key', async () => {
    const database = new FakeIndexedDb()
    const pages = [open(database), open(database)]
    const done = await Promise.all(pages.map((page, i) => page.replace(null, `${i}`)))
    expect(done.filter(Boolean)).toHaveLength(1)
    expect(await pages[0]?.read()).toBe(await pages[1]?.read())
  })

  test('whose text was changed is refused as damaged, and whose database fails as unavailable', async () => {
    const database = new FakeIndexedDb()
    await open(database).replace(null, 'one')
    const { text } = (await rows(database)) as { text: { iv: Uint8Array; ciphertext: ArrayBuffer } }
    const changed = new Uint8Array(text.ciphertext.slice(0))
    changed[0] = (changed[0] as number) ^ 1
    await new Promise<void>((resolve, reject) => {
      const request = database.open('console', 1)
      request.onerror = () => reject(request.error)
      request.onsuccess = () => {
        const transaction = request.result.transaction('kept', 'readwrite')
        transaction.objectStore('kept').put({ iv: text.iv, ciphertext: changed.buffer }, 'text')
        transaction.oncomplete = () => resolve()
      }
    })
    await expect(open(database).read()).rejects.toMatchObject({ code: 'STORE_DAMAGED' })
    const closed = {
      open: () => {
        throw new DOMException('denied', 'SecurityError')
      },
    }
    await expect(open(closed as unknown as IDBFactory).read()).rejects.toMatchObject({
      code: 'STORE_UNAVAILABLE',
    })
  })
})

describe('the file', () => {
  const path = () => join(folder, 'device', 'store.json')

  test('is its owner’s alone, and so is its folder', async () => {
    const before = process.umask(0)
    try {
      await fileTokenStore(path()).replace(null, 'one')
    } finally {
      process.umask(before)
    }
    expect(await modeOf(path())).toBe(0o600)
    expect(await modeOf(join(folder, 'device'))).toBe(0o700)
    for (const name of await readdir(join(folder, 'device')))
      expect([name, await modeOf(join(folder, 'device', name))]).toEqual([name, 0o600])
  })

  test('that a crash left unfinished (it may hold a token) is gone after the next write', async () => {
    await mkdir(join(folder, 'device'))
    await writeFile(`${path()}.new`, 'a token that was never taken into use')
    const store = fileTokenStore(path())
    expect(await store.read()).toBeNull()
    await store.replace(null, 'one')
    expect((await readdir(join(folder, 'device'))).filter(name => name.endsWith('.new'))).toEqual([])
  })

  test('can’t be read: the error is the system’s', async () => {
    await mkdir(path(), { recursive: true })
    await expect(fileTokenStore(path()).read()).rejects.toThrow('EISDIR')
  })

  test('of two processes that count to 20 in it comes out with 40', async () => {
    await fileTokenStore(path()).replace(null, '0')
    const script = fileURLToPath(new URL('./count-in-store.mjs', import.meta.url))
    const count = () => promisify(execFile)(process.execPath, [script, path(), '20'])
    await Promise.all([count(), count()])
    expect(await readFile(path(), 'utf8')).toBe('40')
  })
})

describe('a record', () => {
  let world: World
  let text: string
  beforeAll(async () => {
    world = await World.start({ n: 1, t: 1 })
    const store = memoryTokenStore()
    const options = { ...world.ports, store, attributes: CAR, instance: VIN }
    const car = await Device.enrol({ ...options, code: world.code() })
    await car.enrolUser({ code: world.code(JO), attributes: JO, pin: '1234' })
    await car.changePin({ user: 'Jo', oldPin: '1234', newPin: '4321' })
    await expect(
      car.enrolUser({ attributes: { driverName: 'Kim' }, pin: '5678', patience: 1 }),
    ).rejects.toMatchObject({ code: 'STILL_PENDING' })
    await car.permit()
    text = (await store.read()) as string
  })
  afterAll(() => world.close())
  const single = (stored: string) => decodeRecords(stored)[0] as DeviceRecord

  test('with a device, tokens, a waiting state and a permit goes through its codec unchanged', () => {
    expect(encodeRecords(decodeRecords(text))).toBe(text)
    const [{ device, users, pending, permit }] = JSON.parse(text).identities
    expect(Object.keys(users[0].token)).toEqual([
      'suite',
      'v',
      'groupId',
      'idCore',
      'userCore',
      'pinGen',
      'iterations',
      'token',
    ])
    expect([device.codeId.length, users[0].next.pinGen, pending[0].kind, permit.length > 48]).toEqual([
      22,
      2,
      'user',
      true,
    ])
  })

  test('that is damaged anywhere is refused, and no message says what stood in it', () => {
    const secret = JSON.parse(text).identities[0].device.key as string
    const damaged = [
      '',
      'null',
      '{}',
      text.slice(0, -1),
      text.replace('"v":1', '"v":2'),
      text.replace('BLS12381-SHA256-V1', 'OTHER'),
      text.replace('"users"', '"persons"'),
      text.replace(
        secret,
        secret.replace(/^./, letter => (letter === 'A' ? 'B' : 'A')),
      ),
      text.replace(secret, secret.slice(0, -1)),
      text.replace('"identities":[', '"identities":[{},'),
      text.replace('"keyHash"', '"extra":1,"keyHash"'),
    ]
    for (const bad of damaged) {
      let thrown: unknown
      try {
        decodeRecords(bad)
      } catch (error) {
        thrown = error
      }
      expect(thrown).toBeInstanceOf(ClientError)
      expect(thrown).toMatchObject({ code: 'STORE_DAMAGED' })
      expect(JSON.stringify([String(thrown), String((thrown as Error).cause)])).not.toContain(
        secret.slice(4, 20),
      )
    }
  })

  test('changed by two at once keeps both changes', async () => {
    const store = memoryTokenStore()
    await store.replace(null, text)
    const [one, other] = [new Records(store, single(text)), new Records(store, single(text))]
    await Promise.all([
      one.update(record => ({ ...single(text), ...record, permit: null })),
      other.update(record => ({ ...single(text), ...record, pending: [] })),
    ])
    const record = await one.read()
    expect([record?.permit, record?.pending]).toEqual([null, []])
  })

  test('that others keep changing is given up', async () => {
    let turn = 0
    const restless: TokenStore = {
      read: async () => (turn++ % 2 === 0 ? text : text),
      replace: async () => false,
    }
    await expect(
      new Records(restless, single(text)).update(() => ({ ...single(text), permit: null })),
    ).rejects.toMatchObject({ code: 'STORE_CHANGED' })
  })
})

describe('the key file', () => {
  const paths = () => ({ file: join(folder, 'keys', 'alpha'), dataFolder: join(folder, 'data') })

  test('is made once, its owner’s alone, and gives every identity another secret', async () => {
    const unlocker = fileUnlocker(paths())
    await unlocker.prepare()
    expect(await modeOf(paths().file)).toBe(0o600)
    expect(await readFile(paths().file)).toHaveLength(32)
    const secret = await unlocker.secret(IdCore.zero)
    await unlocker.prepare()
    expect(await fileUnlocker(paths()).secret(IdCore.zero)).toEqual(secret)
    expect(await unlocker.secret(IdCore.decode(new Uint8Array(39).fill(1)))).not.toEqual(secret)
    expect(await readdir(join(folder, 'keys'))).toEqual(['alpha'])
  })

  test('inside the data folder would be copied with it', () => {
    const { dataFolder } = paths()
    for (const file of [
      dataFolder,
      join(dataFolder, 'alpha'),
      join(dataFolder, 'deep', 'alpha'),
      join(dataFolder, '..alpha'),
    ])
      expect(() => fileUnlocker({ file, dataFolder })).toThrow(RangeError)
    fileUnlocker({ file: `${dataFolder}-keys`, dataFolder })
  })

  test('that is missing, damaged or open to others opens nothing', async () => {
    const unlocker = fileUnlocker(paths())
    await expect(unlocker.secret(IdCore.zero)).rejects.toMatchObject({ code: 'WRONG_UNLOCKER' })
    await unlocker.prepare()
    await chmod(paths().file, 0o644)
    await expect(unlocker.secret(IdCore.zero)).rejects.toThrow('0600')
    await chmod(paths().file, 0o600)
    await writeFile(paths().file, 'short')
    await expect(unlocker.secret(IdCore.zero)).rejects.toThrow('damaged')
  })
})
