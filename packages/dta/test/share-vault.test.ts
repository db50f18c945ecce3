/** Shares at rest: who opens them, what is left of them, and what a backup brings back. */
import { cp, mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { systemRandom } from '@milagro-ts/api/system'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { PURPOSES, type Purpose } from '@milagro-ts/crypto/suite'
import { LocalShares } from '@milagro-ts/dta/master-shares'
import { SealedVault } from '@milagro-ts/dta/share-vault'
import { dtaMigrations } from '@milagro-ts/dta/tables'
import { openDatabase } from '@milagro-ts/store/database'
import { openSealed, sealBytes } from '@milagro-ts/store/sealed-file'
import { afterAll, beforeAll, expect, test } from 'vitest'
import {
  codeOf,
  type Founded,
  foundWorld,
  makeCar,
  PASSPHRASE,
  type Running,
  startAuthority,
  ticketFor,
} from './world.js'

const damaged = expect.objectContaining({ reason: 'damaged' })
const secret = Scalar.random(systemRandom)
const SHARES = LocalShares.ofFounding(
  Object.fromEntries(PURPOSES.map(purpose => [purpose, secret])) as Record<Purpose, Scalar>,
)
let world: Founded
let folder: string
beforeAll(async () => {
  world = await foundWorld({ n: 1 })
  folder = await mkdtemp(join(tmpdir(), 'milagro-vault-'))
})
afterAll(async () => {
  await world.close()
  await rm(folder, { recursive: true })
})

test('shares show nothing of themselves, and open for their group, their origin and their authority only', async () => {
  expect(JSON.stringify(SHARES)).toBe('{"shareEpoch":1}')
  const store = await openDatabase<unknown>({ file: ':memory:', migrations: dtaMigrations })
  const hpkeSecret = systemRandom(32)
  const vaultOf = (secret: Uint8Array) =>
    new SealedVault({ store, passphrase: PASSPHRASE, hpkeSecret: secret.slice(), random: systemRandom })
  const vault = vaultOf(hpkeSecret)
  const terms = { groupId: systemRandom(32), origin: systemRandom(32) }
  const record = await vault.keep(SHARES, terms)
  expect(Buffer.from(record.subarray(0, 16)).toString()).toBe('milagro-shares-2')
  for (const form of [secret.encode(), toBase64Url(secret.encode())])
    expect(Buffer.from(record).includes(Buffer.from(form))).toBe(false)

  const opened = await vaultOf(hpkeSecret).open(record, terms)
  expect(opened.commitment('pin', 1)?.encode()).toEqual(SHARES.commitment('pin', 1)?.encode())
  expect(opened.commitment('pin', 2)).toBeUndefined()
  const other = { groupId: systemRandom(32), origin: systemRandom(32) }
  // That the other group has a key of its own makes no difference.
  await vault.keep(SHARES, other)
  const changed = record.slice()
  changed[changed.length - 1] = (changed.at(-1) as number) ^ 1
  await expect(vault.open(record, { ...terms, origin: other.origin })).rejects.toThrow(damaged)
  await expect(vault.open(record, { ...terms, groupId: other.groupId })).rejects.toThrow(damaged)
  await expect(vault.open(changed, terms)).rejects.toThrow(damaged)
  await expect(vaultOf(systemRandom(32)).open(record, terms)).rejects.toThrow(damaged)

  // Its key destroyed, a record that somebody kept opens no more.
  await store.atomic(connection => vault.destroy(connection, terms.groupId))
  await expect(vault.open(record, terms)).rejects.toThrow(damaged)
  await vault.open(await vault.keep(SHARES, other), other)
  await store.close()
})

test('shares that an older build sealed open by the passphrase alone, for their origin', async () => {
  const store = await openDatabase<unknown>({ file: ':memory:', migrations: dtaMigrations })
  const vault = (passphrase: string) =>
    new SealedVault({ store, passphrase, hpkeSecret: systemRandom(32), random: systemRandom })
  const terms = { groupId: systemRandom(32), origin: systemRandom(32) }
  const old = sealBytes(PASSPHRASE, SHARES.encode(terms.origin), systemRandom)
  expect(vault(PASSPHRASE).isOutdated(old)).toBe(true)
  const opened = await vault(PASSPHRASE).open(old, terms)
  expect(opened.commitment('device', 1)?.encode()).toEqual(SHARES.commitment('device', 1)?.encode())
  await expect(vault('another').open(old, terms)).rejects.toThrow(damaged)
  await expect(vault(PASSPHRASE).open(old, { ...terms, origin: systemRandom(32) })).rejects.toThrow(damaged)
  await store.close()
})

/** Files of a data folder that have these bytes in them. */
async function filesWith(dataDir: string, bytes: Uint8Array): Promise<string[]> {
  const files = await readdir(dataDir)
  const found = await Promise.all(
    files.map(async file => (await readFile(join(dataDir, file))).includes(Buffer.from(bytes))),
  )
  return files.filter((_, i) => found[i])
}
async function rowsOf({ store }: Running) {
  const [row] = await store.atomic(connection =>
    connection.all(
      'SELECT g.sealed, k.sealed AS key FROM served_group g JOIN group_key k ON k.group_id = g.group_id',
    ),
  )
  return [row?.sealed, row?.key] as [Uint8Array, Uint8Array]
}

test('a data folder from an older build has its shares sealed anew, and nothing left of the old', async () => {
  const dataDir = join(folder, 'older')
  await cp(new URL('fixtures/authority-step-3/', import.meta.url), dataDir, { recursive: true })
  const before = await openDatabase<unknown>({
    file: join(dataDir, 'dta.sqlite'),
    migrations: dtaMigrations.slice(0, 3),
  })
  const [old] = await before.atomic(connection => connection.all('SELECT sealed FROM served_group'))
  await before.close()
  expect(() => openSealed(PASSPHRASE, old?.sealed as Uint8Array)).not.toThrow()
  expect(await filesWith(dataDir, old?.sealed as Uint8Array)).toEqual(['dta.sqlite'])

  const { now, name } = JSON.parse(await readFile(join(dataDir, 'expected.json'), 'utf8'))
  const running = await startAuthority(name, dataDir, { clock: { now } })
  expect(await filesWith(dataDir, old?.sealed as Uint8Array)).toEqual([])
  expect((await rowsOf(running))[0].subarray(0, 16)).toEqual(new TextEncoder().encode('milagro-shares-2'))
  await running.close()
})

test('a copy of database and keys serves again; with other keys it doesn’t start', async () => {
  const [authority] = world.authorities as [Running]
  const { dataDir } = authority.config
  const copy = join(folder, 'copy')
  await cp(dataDir, copy, { recursive: true, filter: path => !/dta\.sqlite/.test(path) })
  await authority.store.backup(join(copy, 'dta.sqlite'))
  const restored = await startAuthority('ta1', copy, world)
  const ticket = await ticketFor(world, await makeCar(world))
  const params = { groupId: world.groupId }
  await restored.client.shares({ params, body: { ticket, purpose: 'device' } })
  await restored.close()
  // Another authority's keys, of the same name.
  const stranger = join(folder, 'stranger')
  await (await startFresh(stranger)).close()
  await cp(join(stranger, 'keys.sealed'), join(copy, 'keys.sealed'))
  await expect(startAuthority('ta1', copy, world)).rejects.toThrow(damaged)
})

async function startFresh(dataDir: string): Promise<Running> {
  await cp(new URL('fixtures/authority-step-3/README.md', import.meta.url), join(dataDir, 'README.md'))
  return startAuthority('ta1', dataDir, world)
}

test('an authority whose departure has come has destroyed its shares', async () => {
  const [authority] = world.authorities as [Running]
  const { admin, client, config } = authority
  const params = { groupId: world.groupId }
  const now = () => Math.floor(world.clock.now / 1000)
  const leaveAt = (leavesAt: number) => admin.leave({ params, body: { leavesAt } })
  expect(await codeOf(leaveAt(now() + 86_399))).toBe('CONFLICT')
  expect(await codeOf(admin.stay({ params, body: {} }))).toBe('CONFLICT')
  await leaveAt(now() + 90_000)
  await admin.stay({ params, body: {} })
  expect((await admin.status({})).groups[0]?.leavesAt).toBeUndefined()

  const leavesAt = now() + 86_400
  await leaveAt(leavesAt)
  const { head } = await client.logHead({ params })
  expect(JSON.parse(Buffer.from(head.split('.')[1] as string, 'base64url').toString())).toMatchObject({
    leavesAt,
  })
  expect((await admin.status({})).groups[0]?.leavesAt).toBe(leavesAt)
  const [sealed, key] = await rowsOf(authority)
  const car = await makeCar(world)
  await client.shares({ params, body: { ticket: await ticketFor(world, car), purpose: 'device' } })

  world.clock.now = leavesAt * 1000
  const ticket = await ticketFor(world, await makeCar(world))
  expect(await codeOf(client.shares({ params, body: { ticket, purpose: 'device' } }))).toBe('NOT_FOUND')
  expect(await codeOf(client.logHead({ params }))).toBe('NOT_FOUND')
  expect(await codeOf(admin.stay({ params, body: {} }))).toBe('NOT_FOUND')
  // The next start, or the next minute, makes an end of it.
  await authority.close()
  const again = await startAuthority('ta1', config.dataDir, world)
  world.authorities[0] = again
  expect((await again.admin.status({})).groups).toEqual([])
  for (const bytes of [sealed, key]) expect(await filesWith(config.dataDir, bytes)).toEqual([])
  // The ledger stays: whoever comes back must know whom it has issued to.
  const [lines] = await again.store.atomic(connection => connection.all('SELECT count(*) AS n FROM ledger'))
  expect(Number(lines?.n)).toBeGreaterThan(0)
})
