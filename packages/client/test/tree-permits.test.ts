/**
 * Permits for nodes through everything: fleet signs the banned leaves, three authorities take and co-sign them and issue
 * nodes, the RPS composes, logins carry the permits of this slot and the next to the car. And how long a ban takes:
 * online nothing, offline at most lead + slot + grace.
 */
import { Refused } from '@milagro-ts/api/problem'
import { Device } from '@milagro-ts/client/device'
import { memoryTokenStore, type TokenStore } from '@milagro-ts/client/token-store'
import { fromBase64Url } from '@milagro-ts/crypto/bytes'
import { Permit, type PermitTarget, slotStart, VerifiedPermit } from '@milagro-ts/crypto/time-permit'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { FakeClock } from '../../rps/test/fake-clock.js'
import { RunningServers } from './running-servers.js'
import { CAR, TRACKING } from './world.js'

const SLOT = 600
const GRACE = 60
const ORIGIN = 1_767_225_600
/** A minute into slot 1000. */
const clock = new FakeClock((ORIGIN + 1_000 * SLOT + 60) * 1000)
let servers: RunningServers
/** Addresses (their ports) that the RPS can't reach. */
const away = new Set<string>()

beforeAll(async () => {
  servers = await RunningServers.start({
    clock: () => clock.now,
    timers: clock,
    permits: 'tree',
    slot: SLOT,
    grace: GRACE,
    fetch: (input, init) =>
      away.has(new URL(String(input)).port) ? Promise.reject(new TypeError('away')) : fetch(input, init),
  })
}, 180_000)
afterAll(() => servers.close())

interface Car {
  readonly id: number
  readonly device: Device
  readonly store: TokenStore
}
let made = 0
async function enrol(): Promise<Car> {
  const instance = `WVWZZZ1JZXW00010${made++}`
  const { id, code } = await servers.fleet.addVehicle({
    ...(await servers.act()),
    body: { instance, attributes: { ...CAR } },
  })
  const store = memoryTokenStore()
  const options = { ...servers.ports, store, code: code?.code as string, attributes: CAR, instance }
  return { id, store, device: await Device.enrol(options) }
}

/** What a car has with it: the permits in its store. */
async function carried({ store }: Car): Promise<{ now?: VerifiedPermit; next?: VerifiedPermit }> {
  const { identities } = JSON.parse((await store.read()) as string)
  const read = (text: string | undefined) =>
    text === undefined ? {} : { is: checked(Permit.decode(fromBase64Url(text, 'permit'))) }
  const [now, next] = [read(identities[0].permit).is, read(identities[0].nextPermit).is]
  return { ...(now === undefined ? {} : { now }), ...(next === undefined ? {} : { next }) }
}

function checked(permit: Permit): VerifiedPermit {
  const { group } = servers
  const { epoch, pub } = group.keysAt('permit', permit.slot)!
  const terms = { groupId: group.groupId, permitEpoch: epoch, rule: group.slotRule }
  const verified = VerifiedPermit.verify(terms, pub!, permit)
  if (verified === null) throw new Error('the permit does not verify')
  return verified
}

const login = (car: Car) => car.device.login({ audience: TRACKING })
const codeOf = (asked: Promise<unknown>) =>
  asked.then(
    () => 'in',
    (error: unknown) => (error instanceof Refused ? error.code : String(error)),
  )
const targetOf = (permit: VerifiedPermit | undefined): PermitTarget | undefined => permit?.permit.target
const seconds = () => clock.now / 1000
const slot = () => Math.floor((seconds() - ORIGIN) / SLOT)

/** Time passes second by second, and what is to be made for it is. */
async function toSlot(number: number, offset: number): Promise<void> {
  clock.turn((slotStart({ origin: ORIGIN, length: SLOT }, number) + offset) * 1000 - clock.now)
}
/** A login until it brings the next slot's permit: the RPS makes those by itself. */
async function withNext(car: Car): Promise<VerifiedPermit> {
  await expect
    .poll(
      async () => {
        clock.turn(1000)
        await login(car)
        return (await carried(car)).next?.slot
      },
      { timeout: 20_000 },
    )
    .toBe(slot() + 1)
  return (await carried(car)).next as VerifiedPermit
}

test('with nobody banned one permit, of the root, serves the whole fleet', { timeout: 60_000 }, async () => {
  const [one, other] = [await enrol(), await enrol()]
  await login(one)
  await login(other)
  const [first, second] = [await carried(one), await carried(other)]
  expect(targetOf(first.now)).toEqual({ type: 'node', depth: 0, index: 0 })
  expect(first.now?.permit.encode()).toEqual(second.now?.permit.encode())
})

test('a login brings the next slot’s permit, which carries the car over the turn of the slot alone', {
  timeout: 60_000,
}, async () => {
  const car = await enrol()
  await toSlot(1_001, 400)
  const next = await withNext(car)
  expect(next.covers(car.device.idCore)).toBe(true)
  // Before its slot begins it is good for nothing.
  expect((await car.device.permit()).slot).toBe(1_001)
  await toSlot(1_002, 1)
  for (const { url } of servers.group.authorities) away.add(new URL(url).port)
  away.add(new URL(servers.fleetUrl).port)
  expect((await car.device.permit()).slot).toBe(1_002)
  expect(await codeOf(login(car))).toBe('in')
  away.clear()
})

test('a ban: at once online, offline at most lead + slot + grace; an un-ban only adds permits', {
  timeout: 90_000,
}, async () => {
  const [thief, honest] = [await enrol(), await enrol()]
  await toSlot(1_010, 400)
  const { group } = servers
  // The worst case: the thief has the next slot's permit already when the ban comes.
  const stolen = await withNext(thief)
  const bannedAt = seconds()
  const { id } = await servers.fleet.ban({
    ...(await servers.act()),
    body: { vehicle: thief.id, reason: 'stolen' },
  })
  await expect.poll(() => codeOf(login(thief)), { timeout: 10_000 }).toBe('BANNED')
  expect(seconds()).toBe(bannedAt)

  // Offline: what it has counts to the end of its slot and the grace after it, and there is nothing more to come.
  const lastGood = slotStart(group.slotRule, stolen.slot + 1) + GRACE
  expect(lastGood - bannedAt).toBeLessThanOrEqual((group.policy.lead + 1) * SLOT + GRACE)
  await toSlot(1_011, 400)
  const others = await withNext(honest)
  expect(others.covers(honest.device.idCore)).toBe(true)
  expect(others.covers(thief.device.idCore)).toBe(false)
  const store = servers.stores.get('rps')!
  const held = await store.atomic(connection =>
    connection
      .all('SELECT permit FROM permit WHERE slot = 1012')
      .map(row => checked(Permit.decode(row.permit as Uint8Array))),
  )
  expect(held).toHaveLength(32)
  expect(held.some(permit => permit.covers(thief.device.idCore))).toBe(false)
  expect(held.filter(permit => permit.covers(honest.device.idCore))).toHaveLength(1)
  // In hand it still has the one that it got before the ban; the slot after that it has nothing.
  expect((await thief.device.permit()).slot).toBe(1_011)
  await toSlot(1_012, GRACE)
  expect(await codeOf(thief.device.permit())).toBe('BANNED')

  // All three authorities have co-signed the state that the ban made.
  const signed = await store.atomic(connection => connection.all('SELECT authority, number FROM cosignature'))
  expect(signed.map(({ authority }) => Number(authority))).toEqual([1, 2, 3])
  expect(new Set(signed.map(({ number }) => Number(number))).size).toBe(1)

  const before = new Set(held.map(permit => JSON.stringify(targetOf(permit))))
  await servers.fleet.unban({ ...(await servers.act()), params: { id: String(id) } })
  await expect.poll(() => codeOf(login(thief)), { timeout: 10_000 }).toBe('in')
  await toSlot(1_012, 400)
  await withNext(thief)
  const after = await store.atomic(connection =>
    connection
      .all('SELECT permit FROM permit WHERE slot = 1012')
      .map(row => Permit.decode(row.permit as Uint8Array)),
  )
  const targets = new Set(after.map(({ target }) => JSON.stringify(target)))
  expect([...before].every(target => targets.has(target))).toBe(true)
  expect(targets.has(JSON.stringify({ type: 'node', depth: 0, index: 0 }))).toBe(true)
})
