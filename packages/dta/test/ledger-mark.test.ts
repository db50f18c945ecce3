import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { LedgerMark } from '@milagro-ts/dta/ledger-mark'
import { afterEach, beforeEach, expect, test } from 'vitest'

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'milagro-dta-'))
})
afterEach(() => rm(folder, { recursive: true }))

test('it goes up by itself, back only by reset, and is there after a restart', async () => {
  const mark = await LedgerMark.open(folder)
  expect(mark.of('a')).toBe(0)
  await Promise.all([mark.reach('a', 2), mark.reach('a', 3), mark.reach('a', 1), mark.reach('b', 7)])
  const later = await LedgerMark.open(folder)
  expect([later.of('a'), later.of('b')]).toEqual([3, 7])
  await later.reset('a', 1)
  expect((await LedgerMark.open(folder)).of('a')).toBe(1)
})

test('what could not be written is written as soon as it can be, even for an entry that is not new', async () => {
  const place = join(folder, 'data')
  const mark = await LedgerMark.open(place)
  await expect(mark.reach('a', 2)).rejects.toMatchObject({ reason: 'unavailable' })
  await expect(mark.reach('a', 1)).rejects.toMatchObject({ reason: 'unavailable' })
  await mkdir(place)
  await mark.reach('a', 1)
  expect((await LedgerMark.open(place)).of('a')).toBe(2)
})

test.each(['', 'x', '[]', '{"a":-1}', '{"a":"1"}'])('a file that holds %j is damaged', async text => {
  await writeFile(join(folder, 'issued.json'), text)
  await expect(LedgerMark.open(folder)).rejects.toMatchObject({ reason: 'damaged' })
})
