/** A data folder that can't be made or written: one sentence that names the setting and the cause. */
import { mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ConfigError } from '@milagro-ts/api/config'
import { openDataFolder } from '@milagro-ts/api/data-folder'
import { makeFolder, unusable } from '@milagro-ts/api/folder'
import { makeServiceKeys, readServiceKeys, serviceKeys } from '@milagro-ts/api/service-keys'
import { systemRandom } from '@milagro-ts/api/system'
import { StoreError } from '@milagro-ts/store/store-error'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'milagro-folder-'))
})
afterEach(() => rmSync(folder, { recursive: true }))

const refusal = (making: Promise<unknown>) =>
  making.then(
    () => 'made',
    (error: unknown) => error,
  )
const says = (dataDir: string, why: string) =>
  new ConfigError(`setting 'dataDir': '${dataDir}' can't be made or written: ${why}`)

test('all of its levels are made, for this user alone; one that is there stays', async () => {
  const deep = join(folder, 'a', 'b')
  await makeFolder(deep)
  expect([join(folder, 'a'), deep].map(path => statSync(path).mode & 0o777)).toEqual([0o700, 0o700])
  writeFileSync(join(deep, 'kept'), 'x')
  await makeFolder(`${deep}/`)
  expect(readdirSync(deep)).toEqual(['kept'])
})

describe('is refused', () => {
  test.each([
    ['a file', 'file', 'it is no folder (EEXIST)'],
    ['in a file', 'file/data', 'it is no folder, or in none (ENOTDIR)'],
    ['a link to nothing', 'link', 'it is no folder (EEXIST)'],
  ])('%s', async (_, name, why) => {
    writeFileSync(join(folder, 'file'), 'mine')
    symlinkSync(join(folder, 'nothing'), join(folder, 'link'))
    const path = join(folder, name)
    expect(await refusal(makeFolder(path))).toEqual(says(path, why))
    expect(readdirSync(folder).sort()).toEqual(['file', 'link'])
  })

  // Node's own recursive mkdir never comes back from here.
  test.runIf(process.platform === 'linux')('where the system takes no folder', async () => {
    const why = 'the file system takes no folder there (ENOENT)'
    expect(await refusal(makeFolder('/proc/nc'))).toEqual(says('/proc/nc', why))
    expect(await refusal(makeFolder('/proc/nc/deep'))).toEqual(says('/proc/nc/deep', why))
  })
})

describe('what the file system says', () => {
  const failed = (code: string) => Object.assign(new Error(`${code}: x, mkdir`), { code })

  test.each([
    ['EROFS', 'the file system is read-only (EROFS)'],
    ['EACCES', 'this user may not write there (EACCES)'],
    ['EPERM', 'this user may not write there (EPERM)'],
    ['EIO', 'EIO'],
  ])('%s', (code, why) => {
    expect(unusable('/data', failed(code))).toEqual(says('/data', why))
  })
  test.each(['ENOSPC', 'EDQUOT'])('%s: the setting is right, and the disk full', code => {
    const error = failed(code)
    expect(unusable('/data', error)).toEqual(
      new StoreError('unavailable', `setting 'dataDir': no room is left for '/data' (${code})`, {
        cause: error,
      }),
    )
  })
  test.each([
    ['of another kind', new TypeError('x')],
    ['whose code is no system’s', Object.assign(new Error('x'), { code: 'FROZEN' })],
  ])('an error %s stays as it is', (_, error) => {
    expect(unusable('/data', error)).toBe(error)
  })
})

describe('keys alone', () => {
  const keysIn = (dataDir: string) => ({ name: 'gw.example', dataDir, passphrase: 'one word' })

  test('that were never made: no data folder yet', async () => {
    const dataDir = join(folder, 'none')
    const none = new ConfigError(
      `setting 'dataDir': '${dataDir}' is no data folder yet: make it with --init, or mount the disk that it is on`,
    )
    expect(await refusal(readServiceKeys(keysIn(dataDir)))).toEqual(none)
    await makeFolder(dataDir)
    expect(await refusal(readServiceKeys(keysIn(dataDir)))).toEqual(none)
    await makeServiceKeys(keysIn(dataDir), systemRandom)
    expect(await readServiceKeys(keysIn(dataDir))).toHaveProperty('requestKey')
  })

  test('that are there and don’t open are no folder to be made', async () => {
    await makeServiceKeys(keysIn(folder), systemRandom)
    const other = { ...keysIn(folder), passphrase: 'one that opens nothing' }
    expect(await refusal(readServiceKeys(other))).toMatchObject({ name: 'StoreError', reason: 'damaged' })
  })

  test('that can’t be written name the setting', async () => {
    const file = join(folder, 'file')
    writeFileSync(file, 'mine')
    expect(await refusal(serviceKeys.make(keysIn(file), systemRandom))).toEqual(
      says(file, 'it is no folder, or in none (ENOTDIR)'),
    )
  })
})

test('a database that --init can’t make names the setting', async () => {
  mkdirSync(join(folder, 'x.sqlite'))
  const opening = openDataFolder({ dataDir: folder, database: 'x.sqlite', migrations: [], init: true })
  expect(await refusal(opening)).toMatchObject({
    reason: 'unavailable',
    message: expect.stringMatching(/^setting 'dataDir': database .*x\.sqlite can't be opened: /),
  })
})
