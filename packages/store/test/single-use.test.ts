import { spawn } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
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

test('three processes open one new file and guess at once: three guesses an account are reserved', async () => {
  const file = join(folder, 'replicas.db')
  const [accounts, guesses] = [20, 17]
  // Each says that it is ready and waits for the starting shot, so that none is done before the next begins.
  const replica = `
    import { once } from 'node:events'
    import { openDatabase } from '@milagro-ts/store/database'
    import { openSingleUse, singleUseMigration } from '@milagro-ts/store/single-use'
    const store = await openDatabase({ file: process.argv[1], migrations: [singleUseMigration(1)] })
    const port = openSingleUse(store)
    console.log('ready')
    await once(process.stdin, 'data')
    const terms = { now: 0, consecutiveLimit: 3, cumulativeLimit: 30, reservationMs: 30000 }
    const reserved = Array(${accounts}).fill(0)
    for (let guess = 0; guess < ${accounts * guesses}; guess++) {
      const account = guess % ${accounts}
      if ('reservation' in await port.reserve('account ' + account, terms)) reserved[account]++
    }
    console.log(JSON.stringify(reserved))
    await store.close()
    process.stdin.destroy()`
  const replicas = [1, 2, 3].map(() => {
    const child = spawn(process.execPath, ['--input-type=module', '-e', replica, file], {
      stdio: ['pipe', 'pipe', 'inherit'],
    })
    return { child, lines: createInterface(child.stdout)[Symbol.asyncIterator]() }
  })
  for (const { lines } of replicas) expect((await lines.next()).value).toBe('ready')
  for (const { child } of replicas) child.stdin.write('go\n')
  const counts: number[][] = await Promise.all(
    replicas.map(async ({ lines }) => JSON.parse((await lines.next()).value)),
  )
  const perAccount = Array.from({ length: accounts }, (_, account) =>
    counts.reduce((sum, count) => sum + count[account]!, 0),
  )
  expect(perAccount).toEqual(Array(accounts).fill(3))
  const port = await openOn(file)
  for (let account = 0; account < accounts; account++) {
    expect(await port.strikes(`account ${account}`)).toEqual({ consecutive: 3, cumulative: 3 })
  }
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
