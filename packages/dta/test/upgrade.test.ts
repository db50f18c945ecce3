/** A data folder that an older build wrote, opened by this one (fixtures/authority-step-3/README.md). */
import { cp, mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { entryHashes, type IssuanceEntry, LogHead } from '@milagro-ts/api/issuance-log'
import { leafHash, Peaks, verifyInclusion } from '@milagro-ts/api/merkle-tree'
import { fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import { authorityKeys } from '@milagro-ts/dta/authority-keys'
import { entryOf, logHead } from '@milagro-ts/dta/issuance-log'
import { dtaMigrations } from '@milagro-ts/dta/tables'
import { openDatabase } from '@milagro-ts/store/database'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { PASSPHRASE, type Running, startAuthority } from './world.js'

interface Expected {
  readonly name: string
  readonly groupId: string
  readonly entries: IssuanceEntry[]
  readonly now: number
}
const recorded = fileURLToPath(new URL('fixtures/authority-step-3/', import.meta.url))
let folder: string
let expected: Expected
let running: Running
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'milagro-upgrade-'))
  await cp(recorded, folder, { recursive: true })
  expected = JSON.parse(await readFile(join(folder, 'expected.json'), 'utf8'))
  running = await startAuthority(expected.name, folder, { clock: { now: expected.now } })
})
afterAll(async () => {
  await running.close()
  await rm(folder, { recursive: true })
})

test('goes on with its group, its log, its alarm and its brakes', async () => {
  const params = { groupId: expected.groupId }
  const { groups } = await running.admin.status({})
  expect(groups).toMatchObject([{ groupId: expected.groupId, issued: 7, alarms: 1, frozen: false }])
  const [row] = await running.store.atomic(connection => connection.all('SELECT recipient FROM freeze'))
  expect(row?.recipient).toBe('tracking.example')
  expect((await running.client.log({ params, query: {} })).entries).toEqual(expected.entries)
})

test('has the tree over the log that was kept as a chain', async () => {
  const params = { groupId: expected.groupId }
  const groupId = fromBase64Url(expected.groupId, 'groupId', 32)
  const leaves = expected.entries.map(entry => entryHashes(groupId, entry).leaf)
  const { root } = leaves.reduce((peaks, leaf) => peaks.append(leaf), Peaks.empty)

  const { signKey } = await authorityKeys.read({
    dataDir: folder,
    name: expected.name,
    passphrase: PASSPHRASE,
  })
  const owner = { groupId, name: expected.name, signKey: signKey.publicKey }
  const head = await LogHead.verify((await running.client.logHead({ params })).head, owner)
  expect(head).toMatchObject({ size: 7, root, at: Math.floor(expected.now / 1000) })
  for (const [index, leaf] of leaves.entries()) {
    const query = { number: String(index + 1), size: '7' }
    const { proof } = await running.client.logInclusion({ params, query })
    const hashes = proof.map(hash => fromBase64Url(hash, 'proof', 32))
    expect(verifyInclusion({ leaf, index, size: 7, root, proof: hashes })).toBe(true)
    expect(verifyInclusion({ leaf: leafHash(new Uint8Array()), index, size: 7, root, proof: hashes })).toBe(
      false,
    )
  }
})

test('grows the trees of logs that are longer than what is moved at a time, each group its own', async () => {
  const store = await openDatabase<unknown>({ file: ':memory:', migrations: dtaMigrations.slice(0, 3) })
  const groups = [1, 2].map(byte => new Uint8Array(32).fill(byte))
  const lengths = [2_500, 7]
  try {
    for (const [i, groupId] of groups.entries())
      await store.atomic(connection => {
        connection.run('INSERT INTO served_group VALUES (?, ?, ?)', [groupId, groupId, new Uint8Array()])
        let previous: Uint8Array = groupId
        for (let number = 1; number <= (lengths[i] as number); number++) {
          const hash = new Uint8Array(32)
          new DataView(hash.buffer).setUint32(0, number)
          const entry: IssuanceEntry = {
            number,
            at: 1_770_000_000,
            purpose: 'device',
            ticketHash: toBase64Url(hash),
            idCoreHash: toBase64Url(hash),
            previous: toBase64Url(previous),
          }
          const { hash: own } = entryHashes(groupId, entry)
          connection.run('INSERT INTO issuance VALUES (?, ?, ?, ?, ?, ?, ?, ?)', [
            groupId,
            number,
            entry.at,
            entry.purpose,
            hash,
            hash,
            previous,
            own,
          ])
          previous = own
        }
      })
    for (const step of dtaMigrations.slice(3)) await store.db.transaction().execute(step.up)
    for (const [i, groupId] of groups.entries()) {
      const head = await store.atomic(connection => logHead(connection, groupId))
      let peaks = Peaks.empty
      const rows = await store.atomic(connection =>
        connection.all('SELECT * FROM issuance WHERE group_id = ? ORDER BY number', [groupId]),
      )
      for (const row of rows) peaks = peaks.append(entryHashes(groupId, entryOf(row)).leaf)
      expect(head).toEqual({ size: lengths[i], root: peaks.root })
    }
  } finally {
    await store.close()
  }
})
