import { createHash } from 'node:crypto'
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import {
  openSealed,
  readSealedFile,
  sealBytes,
  writeFileAtomic,
  writeSealedFile,
} from '@milagro-ts/store/sealed-file'
import { StoreError } from '@milagro-ts/store/store-error'
import { afterEach, beforeEach, expect, test } from 'vitest'

const PASSPHRASE = 'correct horse battery staple'
const SECRET = Uint8Array.from({ length: 32 }, (_, at) => at)
const HEADER = 16 + 3 + 16 + 12

let folder: string
let file: string
let drawn: number

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'milagro-sealed-'))
  file = join(folder, 'share.sealed')
  drawn = 0
})

afterEach(() => rm(folder, { recursive: true }))

/** Fixed, and different at every call. */
function random(length: number): Uint8Array {
  return Uint8Array.from(createHash('sha512').update(String(drawn++)).digest().subarray(0, length))
}

test('a share is sealed to a file and opened again', async () => {
  await writeSealedFile(file, PASSPHRASE, SECRET, random)
  expect((await stat(file)).mode & 0o777).toBe(0o600)
  expect(await readSealedFile(file, PASSPHRASE)).toStrictEqual(SECRET)
  expect((await readFile(file)).includes(Buffer.from(SECRET))).toBe(false)
})

test('the empty plaintext can be sealed', () => {
  expect(openSealed(PASSPHRASE, sealBytes(PASSPHRASE, new Uint8Array(), random))).toStrictEqual(
    new Uint8Array(),
  )
})

test('one passphrase in two Unicode forms is one passphrase', () => {
  expect(openSealed('Scho\u0308n', sealBytes('Sch\u00f6n', SECRET, random))).toStrictEqual(SECRET)
})

test('the same bytes sealed twice have nothing in common', () => {
  const [one, other] = [sealBytes(PASSPHRASE, SECRET, random), sealBytes(PASSPHRASE, SECRET, random)]
  expect(one.subarray(HEADER)).not.toEqual(other.subarray(HEADER))
})

test('an empty passphrase is a programmer’s mistake', () => {
  expect(() => sealBytes('', SECRET, random)).toThrow(RangeError)
})

test('a wrong passphrase is refused in one line that holds neither', async () => {
  await writeSealedFile(file, PASSPHRASE, SECRET, random)
  const refusal = await readSealedFile(file, 'another one').catch(error => error)
  expect(refusal).toBeInstanceOf(StoreError)
  expect(refusal.reason).toBe('damaged')
  expect(refusal.message).toMatch(
    /^sealed file .*share\.sealed: the passphrase is wrong or the file was changed[^\n]*$/,
  )
  expect(refusal.message).not.toContain('another one')
})

test('a flipped byte is noticed in every field: magic, parameters, salt, nonce, ciphertext, tag', () => {
  const sealed = sealBytes(PASSPHRASE, SECRET, random)
  // One place in each field; the parameters are tried one by one, because each has bounds of its own.
  for (const at of [0, 15, 16, 17, 18, 19, 34, 35, 46, HEADER, HEADER + 31, HEADER + 32, sealed.length - 1]) {
    const flipped = Uint8Array.from(sealed)
    flipped[at]! ^= 1
    expect(() => openSealed(PASSPHRASE, flipped), `byte ${at}`).toThrow(StoreError)
  }
})

test('cut and lengthened files are refused', () => {
  const sealed = sealBytes(PASSPHRASE, SECRET, random)
  for (const length of [0, 1, 16, HEADER, HEADER + 15, sealed.length - 1]) {
    expect(() => openSealed(PASSPHRASE, sealed.subarray(0, length)), `${length} bytes`).toThrow(StoreError)
  }
  expect(() => openSealed(PASSPHRASE, Buffer.concat([sealed, Buffer.of(0)]))).toThrow(StoreError)
})

test('a header that asks for all memory is refused before scrypt runs', () => {
  for (const [at, value] of [
    [16, 21],
    [16, 255],
    [16, 0],
    [17, 9],
    [17, 0],
    [18, 5],
    [18, 0],
  ] as const) {
    const planted = sealBytes(PASSPHRASE, SECRET, random)
    planted[at] = value
    expect(() => openSealed(PASSPHRASE, planted), `byte ${at} = ${value}`).toThrow('out of bounds')
  }
})

test('a file that is not there is told from one that cannot be opened', async () => {
  await expect(readSealedFile(file, PASSPHRASE)).rejects.toMatchObject({
    name: 'StoreError',
    reason: 'missing',
  })
  await expect(readSealedFile(folder, PASSPHRASE)).rejects.toMatchObject({ reason: 'unavailable' })
  await writeFile(
    file,
    'plain text, as long as a sealed file with its header and its tag would have to be at least',
  )
  await expect(readSealedFile(file, PASSPHRASE)).rejects.toMatchObject({ reason: 'damaged' })
})

test('an atomic write replaces the file, sets its mode and leaves nothing beside it', async () => {
  await writeFile(file, 'old')
  await chmod(file, 0o644)
  await writeFileAtomic(file, 'new')
  expect(await readFile(file, 'utf8')).toBe('new')
  expect((await stat(file)).mode & 0o777).toBe(0o600)
  await writeFileAtomic(file, Uint8Array.of(1, 2), 0o644)
  expect((await stat(file)).mode & 0o777).toBe(0o644)
  expect(await readdir(folder)).toEqual(['share.sealed'])
})

test('an atomic write that fails leaves the target as it was and nothing beside it', async () => {
  const occupied = join(folder, 'occupied')
  await mkdir(occupied)
  await expect(writeFileAtomic(occupied, 'x')).rejects.toMatchObject({ code: 'EISDIR' })
  expect((await stat(occupied)).isDirectory()).toBe(true)
  expect(await readdir(folder)).toEqual(['occupied'])
})

test('of many atomic writes at once one wins whole', async () => {
  const texts = Array.from({ length: 10 }, (_, n) => String(n).repeat(10_000))
  await Promise.all(texts.map(text => writeFileAtomic(file, text)))
  expect(texts).toContain(await readFile(file, 'utf8'))
  expect(await readdir(folder)).toEqual(['share.sealed'])
})
