/**
 * Revoked leaves stay among the banned ones until every key that they may have is of an ended key epoch; then they leave,
 * with an event's number, and whoever was revoked comes back by nothing all the same.
 */
import { verifyState } from '@milagro-ts/api/statements'
import { Device } from '@milagro-ts/client/device'
import { memoryTokenStore } from '@milagro-ts/client/token-store'
import { BannedLeaves } from '@milagro-ts/crypto/permit-tree'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Calendar } from './calendar.js'
import { passSlots, rotateKeys } from './rotate-keys.js'
import { RunningServers } from './running-servers.js'
import { CAR, TRACKING } from './world.js'

const calendar = new Calendar()
let servers: RunningServers
beforeAll(async () => {
  servers = await RunningServers.start({
    clock: () => calendar.now,
    timers: calendar,
    permits: 'tree',
  })
}, 180_000)
afterAll(() => servers.close())

let made = 0
async function enrol(): Promise<{ id: number; device: Device }> {
  const instance = `WVWZZZ1JZXW00030${made++}`
  const { id, code } = await servers.fleet.addVehicle({
    ...(await servers.act()),
    body: { instance, attributes: { ...CAR } },
  })
  const options = { ...servers.ports, store: memoryTokenStore(), wait: async () => undefined }
  const device = await Device.enrol({ ...options, code: code?.code as string, attributes: CAR, instance })
  return { id, device }
}

/** What the authorities have co-signed last: number, and which leaves. */
async function banned(): Promise<{ number: number; leaves: BannedLeaves }[]> {
  return Promise.all(
    (['ta1', 'ta2', 'ta3'] as const).map(async name => {
      const [row] = await servers.stores
        .get(name)!
        .read(reader => reader.all('SELECT number, leaves FROM leaves'))
      return { number: Number(row?.number), leaves: BannedLeaves.decode(row?.leaves as Uint8Array) }
    }),
  )
}

test('a revoked leaf leaves when its key epochs have ended, and its device stays out', {
  timeout: 300_000,
}, async () => {
  let { group } = servers
  const [thief, honest] = [await enrol(), await enrol()]
  for (let i = 0; i < 3; i++) await enrol()
  const other = await enrol()
  const { leaf } = thief.device.idCore
  await thief.device.login({ audience: TRACKING })
  await servers.fleet.revoke({ ...(await servers.act()), params: { id: String(thief.id) }, body: {} })
  const codeOf = (asked: Promise<unknown>) =>
    asked.then(
      () => 'in',
      (error: { code?: string }) => error.code,
    )
  const enter = () => codeOf(thief.device.login({ audience: TRACKING }))
  await expect.poll(enter, { timeout: 10_000 }).toBe('REVOKED')

  /** An event, and a slot for which permits are made under its number. */
  const happens = async () => {
    const { id } = await servers.fleet.ban({
      ...(await servers.act()),
      body: { vehicle: other.id, reason: 'borrowed' },
    })
    const { events } = await servers.fleet.status(await servers.act())
    // What is held of the slot may do for a login: the new state is shown where permits are made.
    const shown = async () => {
      await passSlots(servers, calendar, 1)
      return (await banned()).every(({ number }) => number >= events.last)
    }
    await expect.poll(shown, { timeout: 60_000 }).toBe(true)
    const states = await banned()
    await servers.fleet.unban({ ...(await servers.act()), params: { id: String(id) } })
    return states
  }
  const has = (states: { leaves: BannedLeaves }[]) => states.map(({ leaves }) => leaves.has(leaf))

  expect(has(await happens())).toEqual([true, true, true])
  // The next key epoch: a device may have had its key ahead when it was revoked.
  group = await rotateKeys(servers, group, calendar.now)
  await passSlots(servers, calendar, 3)
  expect(has(await happens())).toEqual([true, true, true])

  group = await rotateKeys(servers, group, calendar.now)
  await passSlots(servers, calendar, 3)
  // One number has one set: without an event the leaf stays.
  await passSlots(servers, calendar, 1)
  await honest.device.login({ audience: TRACKING })
  expect(has(await banned())).toEqual([true, true, true])
  const after = await happens()
  expect(has(after)).toEqual([false, false, false])
  expect(after.every(({ leaves }) => leaves.has(other.device.idCore.leaf))).toBe(true)

  // Permits speak for its leaf again, and it may have one in hand.
  await passSlots(servers, calendar, 2)
  const permit = await honest.device.permit()
  expect(permit.covers(thief.device.idCore)).toBe(true)
  // Neither a login nor a step to a later key epoch: the RPS' deny list says no; and when it has the state anew, which
  // names it no more, the register does.
  expect(await enter()).toBe('REVOKED')
  const rps = servers.stores.get('rps')!
  await rps.atomic(connection => connection.run('DELETE FROM revocation'))
  expect(await enter()).toBe('REVOKED')
  const denied = await rps.read(reader => reader.all('SELECT id_core FROM denied'))
  expect(denied.map(({ id_core }) => id_core)).not.toContainEqual(thief.device.idCore.bytes)
  const [row] = await rps.read(reader => reader.all('SELECT state FROM revocation'))
  const { payload } = await verifyState({ state: row?.state as string, group })
  expect(payload.revoked).toEqual([])
})
