/** Logins between awaits, floods at once, clocks that jump. */
import { Refused } from '@milagro-ts/api/problem'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { authorizationHeader } from '@milagro-ts/crypto/mpin'
import { CryptoPool, PoolUnavailable } from '@milagro-ts/crypto/node-pool'
import { G1 } from '@milagro-ts/crypto/points'
import { type Verification, type VerificationPorts, verification } from '@milagro-ts/rps/verification'
import { afterAll, beforeAll, beforeEach, expect, test, vi } from 'vitest'
import {
  asFields,
  type Car,
  codeOf,
  type MessageOptions,
  NOON,
  OWN,
  type RunningRps,
  World,
} from './world.js'

let world: World
let rps: RunningRps
let car: Car
beforeAll(async () => {
  world = await World.make()
  rps = await world.startRps()
})
afterAll(() => world.close())
beforeEach(() => {
  world.clock.now = NOON + 600_000
  car = world.makeCar()
})

/** Nothing is sent but the ban itself: the RPA has answered "not banned" a moment ago. */
async function banNow(who: Car, userCore?: Uint8Array): Promise<void> {
  const event = await world.event('ban', who.idCore, userCore === undefined ? {} : { userCore })
  await rps.client.pushEvent({ body: { event } })
}

test('a ban that comes while the permit is composed: no token, no receipt', async () => {
  const login = asFields(await world.message(rps, car))
  let ban: Promise<void> | undefined
  for (const authority of world.authorities) authority.beforePermit = () => (ban ??= banNow(car))
  expect(await codeOf(rps.client.login({ body: { login } }))).toBe('BANNED')
  for (const authority of world.authorities) authority.beforePermit = undefined
})

test('a driver’s ban that comes while the account is asked for', async () => {
  const driver = world.makeDriver(car)
  await world.login(rps, car)
  const login = asFields(await world.message(rps, car, { driver }))
  world.rpa.beforePermit = () => banNow(car, driver.userCore)
  expect(await codeOf(rps.client.login({ body: { login } }))).toBe('BANNED')
  world.rpa.beforePermit = undefined
  await world.login(rps, car)
})

/** As from the address `ip`; the code, or undefined. */
async function post(url: string, ip: string, body: object): Promise<string | undefined> {
  const headers = { 'content-type': 'application/json', 'x-forwarded-for': ip }
  const answer = await fetch(url, { method: 'POST', headers, body: JSON.stringify(body) })
  return ((await answer.json()) as { code?: string }).code
}
const failedProofs = (burst: number) => ({ config: { rateLimit: { failedProofs: { perSecond: 1, burst } } } })

test('wrong proofs sent all at once cost no more pairings than one after the other', async () => {
  // As with a store across the network: all have passed the first look before any has failed.
  const FLOOD = 12
  let arrived = 0
  let release = () => {}
  const all = new Promise<void>(resolve => {
    release = resolve
  })
  const together = (ports: VerificationPorts): VerificationPorts => ({
    ...ports,
    takeNonce: async nonce => {
      await ports.takeNonce(nonce)
      if (++arrived === FLOOD) release()
      await all
    },
  })
  const verify: Verification = {
    device: (ports, attempt) => verification.device(together(ports), attempt),
    identity: (ports, attempt) => verification.identity(together(ports), attempt),
  }
  const strict = await world.startRps({ ...failedProofs(3), verify })
  const wrong: MessageOptions = { deviceKey: G1.generator }
  const logins = await Promise.all(Array.from({ length: FLOOD }, () => world.message(strict, car, wrong)))
  const codes = await Promise.all(
    logins.map(login => post(`${strict.url}/v1/logins`, '192.0.2.7', { login })),
  )
  expect(codes.filter(code => code === 'WRONG_PROOF')).toHaveLength(3)
  expect(codes.filter(code => code === 'RETRY_LATER')).toHaveLength(FLOOD - 3)
  await strict.close()
})

const random = (length: number) => toBase64Url(crypto.getRandomValues(new Uint8Array(length)))
const guess = () => ({
  kind: 'device',
  attributes: { brand: 'Trabant' },
  instance: 'VIN-1',
  hpkeKey: random(32),
  nonce: random(32),
  codeId: random(16),
  mac: random(32),
})

test('refused registrations are paid for by their source, and don’t get to the RPA without end', async () => {
  const strict = await world.startRps(failedProofs(3))
  world.rpa.registrations.length = 0
  world.rpa.verify = async () => {
    throw new Refused('NOT_APPROVED')
  }
  const register = (ip: string) => post(`${strict.url}/v1/registrations`, ip, guess())
  const codes: (string | undefined)[] = []
  for (let i = 0; i < 5; i++) codes.push(await register('192.0.2.8'))
  expect(codes).toEqual(['NOT_APPROVED', 'NOT_APPROVED', 'NOT_APPROVED', 'RETRY_LATER', 'RETRY_LATER'])
  expect(world.rpa.registrations).toHaveLength(3)
  // Neither others, nor the logins of the same address.
  expect(await register('192.0.2.9')).toBe('NOT_APPROVED')
  const login = await world.message(strict, car)
  expect(await post(`${strict.url}/v1/logins`, '192.0.2.8', { login })).toBeUndefined()
  world.rpa.verify = async () => ({ state: 'pending' })
  await strict.close()
})

test('what nobody has decided is paid for by nobody', async () => {
  const strict = await world.startRps(failedProofs(3))
  const register = () => post(`${strict.url}/v1/registrations`, '192.0.2.10', guess())
  world.rpa.verify = async () => {
    throw new Refused('RETRY_LATER')
  }
  for (let i = 0; i < 4; i++) expect(await register()).toBe('RETRY_LATER')
  world.rpa.verify = async () => {
    throw new Refused('NOT_APPROVED')
  }
  expect(await register()).toBe('NOT_APPROVED')
  world.rpa.verify = async () => ({ state: 'pending' })

  const slotKey = (body: object = world.slotKeyRequest(car)) =>
    post(`${strict.url}/v1/authorities/1/slot-keys`, '192.0.2.11', body)
  const full = vi
    .spyOn(CryptoPool.prototype, 'signature')
    .mockRejectedValue(new PoolUnavailable('too many wait', 1))
  for (let i = 0; i < 4; i++) expect(await slotKey()).toBe('RETRY_LATER')
  expect(full).toHaveBeenCalledTimes(4)
  full.mockRestore()
  expect(await slotKey()).toBeUndefined()
  // What can't be decoded is decided.
  const request = world.slotKeyRequest(car)
  const signed = { ...request.signed, signature: toBase64Url(new Uint8Array(96).fill(7)) }
  const codes: (string | undefined)[] = []
  for (let i = 0; i < 4; i++) codes.push(await slotKey({ ...request, signed }))
  expect(codes).toEqual(['MALFORMED', 'MALFORMED', 'MALFORMED', 'RETRY_LATER'])
  await strict.close()
})

test('a clock that jumps ahead, purges and is set back makes no used one-pass message good again', async () => {
  const whoami = async (authorization: string) => {
    const answer = await fetch(`${rps.url}/v1/whoami`, { headers: { authorization } })
    return answer.ok ? 'in' : ((await answer.json()) as { code: string }).code
  }
  const message = authorizationHeader(world.prove(car, { audience: OWN }))
  expect(await whoami(message)).toBe('in')
  expect(await whoami(message)).toBe('REPLAYED')
  const before = world.clock.now
  const purged = async () => {
    const since = () => rps.store.atomic(connection => connection.all('SELECT since FROM replay_record'))
    const rows = () =>
      rps.store.atomic(
        connection => connection.all("SELECT 1 FROM single_use WHERE kind = 'one-pass'").length,
      )
    while ((await rows()) > 0) await since()
  }
  world.clock.turn(3_600_000)
  await purged()
  world.clock.now = before
  expect(await whoami(message)).toBe('CLOCK')
  // By nonce everybody goes on; one pass does when the time that was purged is over.
  await world.login(rps, car)
  world.clock.now = before + 3_600_000
  expect(await whoami(authorizationHeader(world.prove(car, { audience: OWN })))).toBe('in')
})
