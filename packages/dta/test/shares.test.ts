import { rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { generateEs256, generateHpkeKey } from '@milagro-ts/api/keys'
import { createMetrics } from '@milagro-ts/api/metrics'
import { type TicketPayload, verifyTicket } from '@milagro-ts/api/statements'
import { systemRandom } from '@milagro-ts/api/system'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { enrolmentKeyHash } from '@milagro-ts/crypto/enrolment'
import { pinIdentityPoint } from '@milagro-ts/crypto/identity'
import { G2, pairingProductIsOne } from '@milagro-ts/crypto/points'
import type { KeyShare } from '@milagro-ts/crypto/share-proof'
import { afterAll, beforeAll, expect, test } from 'vitest'
import {
  type Car,
  codeOf,
  combineShares,
  type Founded,
  fetchServerKey,
  foundWorld,
  makeCar,
  openShare,
  type Running,
  restart,
  type TicketPurposeOf,
  ticketFor,
} from './world.js'

let world: Founded
beforeAll(async () => {
  world = await foundWorld({ n: 1 })
})
afterAll(() => world.close())

const first = (): Running => world.authorities[0] as Running
const ask = (ticket: string[], purpose: TicketPurposeOf | 'permit' = 'device', at = first()) =>
  at.client.shares({ params: { groupId: world.groupId }, body: { ticket, purpose } })

/** The same identity, another enrolment key: what a thief of the RA's signature would ask for. */
async function cloneOf(car: Car): Promise<Car> {
  return { idCore: car.idCore, enrolmentKey: await generateHpkeKey(systemRandom) }
}

async function shareOf(car: Car, ticket: string[], purpose: TicketPurposeOf, at = first()) {
  const answer = await ask(ticket, purpose, at)
  const verified = await verifyTicket({ ticket, group: world.group, now: world.clock.now })
  const terms = verified.shareTerms(purpose, answer.index, answer.shareEpoch)
  return { index: answer.index, share: await openShare(world, answer, car, purpose, terms) }
}

async function alarms(at = first()): Promise<number | undefined> {
  const { groups } = await at.admin.status({})
  return groups.find(({ groupId }) => groupId === world.groupId)?.alarms
}

test('the same ticket gets the same share again', async () => {
  const car = await makeCar(world)
  const ticket = await ticketFor(world, car)
  const one = await shareOf(car, ticket, 'device')
  const other = await shareOf(car, ticket, 'device')
  expect(one.share?.d.equals((other.share as KeyShare).d)).toBe(true)
})

test('a new ticket for the same enrolment key gets the same share', async () => {
  const car = await makeCar(world)
  const one = await shareOf(car, await ticketFor(world, car), 'device')
  const other = await shareOf(car, await ticketFor(world, car), 'device')
  expect(one.share?.d.equals((other.share as KeyShare).d)).toBe(true)
})

test('a second ticket with another key is ALREADY_ISSUED and an alarm, after a restart as well', async () => {
  const car = await makeCar(world)
  const clone = await cloneOf(car)
  await ask(await ticketFor(world, car))
  const before = (await alarms()) as number
  const ticket = await ticketFor(world, clone)
  expect(await codeOf(ask(ticket))).toBe('ALREADY_ISSUED')
  expect(await codeOf(ask(ticket))).toBe('ALREADY_ISSUED')
  expect(await alarms()).toBe(before + 1)
  world.authorities[0] = await restart(first(), world)
  expect(await codeOf(ask(ticket))).toBe('ALREADY_ISSUED')
  expect(await alarms()).toBe(before + 1)
  expect((await shareOf(car, await ticketFor(world, car), 'device')).share).not.toBeNull()
})

test("a driver's ticket is no second way to the car's device key", async () => {
  const car = await makeCar(world)
  await ask(await ticketFor(world, car))
  const withPin = await ticketFor(world, await cloneOf(car), { purposes: ['device', 'pin'], pinGen: 7 })
  expect(await codeOf(ask(withPin, 'device'))).toBe('ALREADY_ISSUED')
})

test('fifty requests at once with two keys: one key wins', async () => {
  const car = await makeCar(world)
  const clone = await cloneOf(car)
  const tickets = [await ticketFor(world, car), await ticketFor(world, clone)]
  const asked = Array.from({ length: 50 }, (_, i) => i % 2)
  const outcomes = await Promise.all(
    asked.map(async which =>
      ask(tickets[which] as string[]).then(
        () => `issued ${which}`,
        () => `refused ${which}`,
      ),
    ),
  )
  const counts = (outcome: string) => outcomes.filter(seen => seen === outcome).length
  expect([counts('issued 0'), counts('issued 1')].sort()).toEqual([0, 25])
  expect([counts('refused 0'), counts('refused 1')].sort()).toEqual([0, 25])
})

test('each driver, and each pinGen of a driver, has a key of its own', async () => {
  const car = await makeCar(world)
  const driver = { userCore: toBase64Url(systemRandom(32)), purposes: ['pin'] as TicketPayload['purposes'] }
  const one = await shareOf(car, await ticketFor(world, car, { ...driver, pinGen: 1 }), 'pin')
  const clone = await cloneOf(car)
  expect(await codeOf(ask(await ticketFor(world, clone, { ...driver, pinGen: 1 }), 'pin'))).toBe(
    'ALREADY_ISSUED',
  )
  const next = await shareOf(clone, await ticketFor(world, clone, { ...driver, pinGen: 2 }), 'pin')
  expect(next.share?.d.equals((one.share as KeyShare).d)).toBe(false)
})

test('a pin key is the one that S_pin knows', async () => {
  const car = await makeCar(world)
  const userCore = systemRandom(32)
  const ticket = await ticketFor(world, car, {
    purposes: ['pin'],
    userCore: toBase64Url(userCore),
    pinGen: 3,
  })
  const shares = await Promise.all(world.authorities.map(at => shareOf(car, ticket, 'pin', at)))
  const D_pin = combineShares(shares.map(({ index, share }) => ({ index, share: share as KeyShare })))
  const A_pin = pinIdentityPoint(world.group.groupId, car.idCore, userCore, 3)
  const S_pin = await fetchServerKey(world, 'pin')
  // e(D_pin, Q) = e(A_pin, S_pin)
  expect(
    pairingProductIsOne([
      [D_pin, G2.generator],
      [A_pin.negate(), S_pin.point],
    ]),
  ).toBe(true)
})

test.each(['sign', 'agree', 'encrypt'] as const)(
  'a key of %s is issued by ticket like a device key',
  async purpose => {
    const car = await makeCar(world)
    const { share } = await shareOf(car, await ticketFor(world, car, { purposes: [purpose] }), purpose)
    expect(share).not.toBeNull()
    const clone = await cloneOf(car)
    expect(await codeOf(ask(await ticketFor(world, clone, { purposes: [purpose] }), purpose))).toBe(
      'ALREADY_ISSUED',
    )
  },
)

test('no permit key is issued by ticket', async () => {
  const car = await makeCar(world)
  const ticket = await ticketFor(world, car, { purposes: ['agree', 'encrypt'] })
  expect(await codeOf(ask(ticket, 'permit'))).toBe('NOT_APPROVED')
})

test('a ticket for another purpose is not approved', async () => {
  const ticket = await ticketFor(world, await makeCar(world))
  expect(await codeOf(ask(ticket, 'pin'))).toBe('NOT_APPROVED')
})

test('an expired ticket', async () => {
  const iat = Math.floor(world.clock.now / 1000) - 7200
  const ticket = await ticketFor(world, await makeCar(world), { iat, exp: iat + 3600 })
  expect(await codeOf(ask(ticket))).toBe('EXPIRED')
})

test('a share again, until the ticket expires', async () => {
  const ticket = await ticketFor(world, await makeCar(world))
  await ask(ticket)
  world.clock.now += 3_600_000
  expect(await codeOf(ask(ticket))).toBe('EXPIRED')
})

test('a ticket from the future', async () => {
  const iat = Math.floor(world.clock.now / 1000) + 3600
  const ticket = await ticketFor(world, await makeCar(world), { iat, exp: iat + 3600 })
  expect(await codeOf(ask(ticket))).toBe('EXPIRED')
})

test('a ticket for another key epoch', async () => {
  const ticket = await ticketFor(world, await makeCar(world), { keyEpochs: { device: 2 } })
  expect(await codeOf(ask(ticket))).toBe('EXPIRED')
})

test('a ticket signed by somebody else under the name of the RA key', async () => {
  const ticket = await ticketFor(world, await makeCar(world), {}, { key: await generateEs256(), kid: 'ra1' })
  expect(await codeOf(ask(ticket))).toBe('NOT_APPROVED')
})

test('a ticket signed by a key that the group does not know', async () => {
  const ticket = await ticketFor(world, await makeCar(world), {}, { key: world.ra, kid: 'ra2' })
  expect(await codeOf(ask(ticket))).toBe('NOT_APPROVED')
})

test('a ticket of another group', async () => {
  const ticket = await ticketFor(world, await makeCar(world), { groupId: toBase64Url(systemRandom(32)) })
  expect(await codeOf(ask(ticket))).toBe('NOT_APPROVED')
})

test('a ticket whose payload was changed', async () => {
  const [one] = await ticketFor(world, await makeCar(world))
  const [other] = await ticketFor(world, await makeCar(world))
  const [header, , signature] = (one as string).split('.')
  expect(await codeOf(ask([`${header}.${(other as string).split('.')[1]}.${signature}`]))).toBe(
    'NOT_APPROVED',
  )
})

test('a relay that swaps the enrolment key breaks the signature or the hash', async () => {
  const car = await makeCar(world)
  const { enrolmentKey } = await cloneOf(car)
  const ticket = await ticketFor(world, car, { hpkeKey: toBase64Url(enrolmentKey.publicKey) })
  expect(await codeOf(ask(ticket))).toBe('MALFORMED')
})

test('an enrolment key of small order is refused and leaves no line in the ledger', async () => {
  const car = await makeCar(world)
  const weak = new Uint8Array(32)
  const ticket = await ticketFor(world, car, {
    hpkeKey: toBase64Url(weak),
    hpkeKeyHash: toBase64Url(enrolmentKeyHash(weak)),
  })
  expect(await codeOf(ask(ticket))).toBe('MALFORMED')
  expect((await shareOf(car, await ticketFor(world, car), 'device')).share).not.toBeNull()
})

test('a group that this authority does not serve', async () => {
  const ticket = await ticketFor(world, await makeCar(world))
  const params = { groupId: toBase64Url(systemRandom(32)) }
  expect(await codeOf(first().client.shares({ params, body: { ticket, purpose: 'device' } }))).toBe(
    'NOT_FOUND',
  )
})

test('a frozen group issues nothing, after a restart as well, until it is unfrozen', async () => {
  const params = { groupId: world.groupId }
  const ticket = await ticketFor(world, await makeCar(world))
  expect(await first().admin.freeze({ params, body: {} })).toEqual({ frozen: true })
  expect(await codeOf(ask(ticket))).toBe('FROZEN')
  world.authorities[0] = await restart(first(), world)
  expect(await codeOf(ask(ticket))).toBe('FROZEN')
  expect((await first().admin.status({})).groups[0]?.frozen).toBe(true)
  expect(await first().admin.unfreeze({ params, body: {} })).toEqual({ frozen: false })
  await ask(ticket)
})

test('an answer lost after the ledger was written: the same ticket gets it, another key does not', async () => {
  const car = await makeCar(world)
  const ticket = await ticketFor(world, car)
  // The counter is what runs between the ledger's transaction and the answer.
  const metrics = createMetrics('milagro_dta')
  const dying = {
    ...metrics,
    count(name: string) {
      if (name === 'shares_issued') throw new Error('the process dies here')
    },
  }
  world.authorities[0] = await restart(first(), { ...world, metrics: dying })
  expect(await codeOf(ask(ticket))).toBe('INTERNAL')
  world.authorities[0] = await restart(first(), world)
  expect(await codeOf(ask(await ticketFor(world, await cloneOf(car))))).toBe('ALREADY_ISSUED')
  expect((await shareOf(car, ticket, 'device')).share).not.toBeNull()
})

test('a share that could not be made leaves no line in the ledger', async () => {
  const car = await makeCar(world)
  const ticket = await ticketFor(world, car)
  const broken = () => {
    throw new Error('no randomness')
  }
  world.authorities[0] = await restart(first(), { ...world, random: broken })
  expect(await codeOf(ask(ticket))).toBe('INTERNAL')
  world.authorities[0] = await restart(first(), world)
  const clone = await cloneOf(car)
  expect((await shareOf(clone, await ticketFor(world, clone), 'device')).share).not.toBeNull()
})

test('a database from a backup has forgotten a key: nothing is issued until the operator says so', async () => {
  const [known, forgotten] = [await makeCar(world), await makeCar(world)]
  await ask(await ticketFor(world, known))
  const { config } = first()
  const backup = join(config.dataDir, 'backup.sqlite')
  await first().store.backup(backup)
  await ask(await ticketFor(world, forgotten))

  const database = join(config.dataDir, 'dta.sqlite')
  const before = first()
  await before.close()
  for (const ending of ['-wal', '-shm']) await rm(`${database}${ending}`, { force: true })
  await rename(backup, database)
  world.authorities[0] = await restart({ ...before, close: async () => {} }, world)

  const params = { groupId: world.groupId }
  const ticket = await ticketFor(world, await cloneOf(forgotten))
  expect(await codeOf(ask(ticket))).toBe('FROZEN')
  world.authorities[0] = await restart(first(), world)
  expect(await codeOf(ask(ticket))).toBe('FROZEN')
  expect(await first().admin.unfreeze({ params, body: {} })).toEqual({ frozen: false })
  world.authorities[0] = await restart(first(), world)
  await ask(await ticketFor(world, known))
})

test('the log has one entry per ticket and purpose, however often it is asked', async () => {
  const car = await makeCar(world)
  const ticket = await ticketFor(world, car, { purposes: ['device', 'sign'] })
  for (const purpose of ['device', 'sign', 'device'] as const) await ask(ticket, purpose)
  const { hash } = await verifyTicket({ ticket, group: world.group, now: world.clock.now })
  const params = { groupId: world.groupId }
  const { entries } = await first().client.log({ params, query: {} })
  const mine = entries.filter(({ ticketHash }) => ticketHash === toBase64Url(hash))
  expect(mine.map(({ purpose }) => purpose)).toEqual(['device', 'sign'])
  const last = entries.at(-1)
  const rest = await first().client.log({ params, query: { from: String(last?.number) } })
  expect(rest.entries).toEqual([last])
})
