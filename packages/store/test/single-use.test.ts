import { execFile } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { openDatabase, type Store } from '@milagro-ts/store/database'
import { openSingleUse, type SingleUse, singleUseMigration } from '@milagro-ts/store/single-use'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { singleUseCases } from './single-use-cases.js'

let folder: string
let stores: Store<unknown>[]

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'milagro-store-'))
  stores = []
})

afterEach(async () => {
  await Promise.all(stores.map(store => store.close()))
  await rm(folder, { recursive: true })
})

async function openOn(file: string): Promise<SingleUse> {
  const store = await openDatabase<unknown>({ file, migrations: [singleUseMigration(1)] })
  stores.push(store)
  return openSingleUse(store)
}

describe('SQLite, a file', () => {
  singleUseCases(() => openOn(join(folder, 'single-use.db')))
})

describe('SQLite, :memory:', () => {
  singleUseCases(() => openOn(':memory:'))
})

describe('SQLite, two connections taking turns', () => {
  singleUseCases(async () => {
    const replicas = [
      await openOn(join(folder, 'shared.db')),
      await openOn(join(folder, 'shared.db')),
    ] as const
    let turn = 0
    const next = () => replicas[turn++ % 2]!
    return {
      put: (...args) => next().put(...args),
      take: (...args) => next().take(...args),
      purge: (...args) => next().purge(...args),
      reserve: (...args) => next().reserve(...args),
      settle: (...args) => next().settle(...args),
      unlock: (...args) => next().unlock(...args),
      strikes: (...args) => next().strikes(...args),
    }
  })
})

test('three processes start on one new file and make 51 guesses at once: three are reserved', async () => {
  const file = join(folder, 'replicas.db')
  const replica = `
    import { openDatabase } from '@milagro-ts/store/database'
    import { openSingleUse, singleUseMigration } from '@milagro-ts/store/single-use'
    const store = await openDatabase({ file: process.argv[1], migrations: [singleUseMigration(1)] })
    const port = openSingleUse(store)
    const terms = { now: 0, consecutiveLimit: 3, cumulativeLimit: 30, reservationMs: 30000 }
    const outcomes = await Promise.all(Array.from({ length: 17 }, () => port.reserve('account', terms)))
    console.log(outcomes.filter(outcome => 'reservation' in outcome).length)
    await store.close()`
  const run = () => promisify(execFile)(process.execPath, ['--input-type=module', '-e', replica, file])
  const reserved = await Promise.all([run(), run(), run()])
  expect(reserved.reduce((sum, { stdout }) => sum + Number(stdout), 0)).toBe(3)
  expect(await (await openOn(file)).strikes('account')).toEqual({ consecutive: 3, cumulative: 3 })
})

test('strikes and used nonces outlive a restart', async () => {
  const file = join(folder, 'restart.db')
  const before = await openOn(file)
  await before.reserve('a', { now: 0, consecutiveLimit: 3, cumulativeLimit: 30, reservationMs: 1 })
  await before.put('replay', 'r', { expiresAt: 9 })
  await stores.pop()?.close()
  const after = await openOn(file)
  expect(await after.strikes('a')).toEqual({ consecutive: 1, cumulative: 1 })
  expect(await after.put('replay', 'r', { expiresAt: 9 })).toBe(false)
})
