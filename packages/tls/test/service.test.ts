/** A service of a group: its keys from authorities, its ban events from a real RPS, and cars that come, stay and go. */
import type { TLSSocket } from 'node:tls'
import { createLog } from '@milagro-ts/api/log'
import { systemRandom } from '@milagro-ts/api/system'
import type { SlotPsk } from '@milagro-ts/client/device'
import { concat, toBase64Url } from '@milagro-ts/crypto/bytes'
import { agreePointG1, agreePointG2, deviceIdentityPoint, encodeName } from '@milagro-ts/crypto/identity'
import { G1, type G2 } from '@milagro-ts/crypto/points'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { sha256 } from '@milagro-ts/crypto/sha256'
import {
  AgreeClientKey,
  AgreeSlotKey,
  AgreeStaticKey,
  ClientAgreement,
  clientAgreeStatic,
  PskIdentity,
  serverAgree,
  serverAgreeStatic,
  slotName,
} from '@milagro-ts/crypto/static-agreement'
import { Permit, slotStart } from '@milagro-ts/crypto/time-permit'
import type { TlsPeer } from '@milagro-ts/tls/door'
import { openTlsService, type TlsService } from '@milagro-ts/tls/service'
import { connect, createServer, secured } from '@milagro-ts/tls/tls'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { asFields, type Car, codeOf, NOON, OWN, type RunningRps, until, World } from '../../rps/test/world.js'
import { closed, outcome } from './world.js'

const LEAD = 2

let world: World
let rps: RunningRps
let service: TlsService
let port: number
let end: () => void
let entered: (peer: TlsPeer) => void
let logged: string[]
let counts: Record<string, number>
/** What the RPS says of an identity, if it isn't what it would say. */
let onIdentity: (() => object) | undefined
let identitiesAsked: number
beforeEach(async () => {
  world = await World.make({ policy: { lead: LEAD, grace: 300 } })
  world.clock.now = NOON
  logged = []
  counts = {}
  onIdentity = undefined
  identitiesAsked = 0
  entered = () => undefined
  rps = await world.startRps()
  await serve()
})
afterEach(async () => {
  end()
  await service.close()
  await world.close()
})

const open = () => openBy(world.group)
const openBy = (group: World['group']) =>
  openTlsService({
    name: 'tracking',
    requestKey: world.tracking.requestKey,
    hpkeKey: world.tracking.hpkeKey,
    group,
    // Requests are bound to the RPS' public address; where it listens is another.
    rpsUrl: OWN,
    fetch: async (input, init) => {
      const url = String(input).replace(OWN, rps.url)
      if (url.includes('/v1/identities/')) {
        identitiesAsked++
        if (onIdentity !== undefined) return Response.json(onIdentity())
      }
      return fetch(url, init)
    },
    log: createLog('tls', { level: 'debug', destination: { write: line => void logged.push(line) } }),
    metrics: {
      count: event => {
        counts[event] = (counts[event] ?? 0) + 1
      },
    },
    workers: 0,
    clock: () => world.clock.now,
    random: systemRandom,
    timers: world.clock,
  })

async function serve(): Promise<void> {
  service = await open()
  const { door, timers, log } = service
  const server = createServer({ door, timers, log }, (socket, peer) => {
    entered(peer)
    socket.on('error', () => undefined)
    socket.write('welcome')
  })
  server.on('tlsClientError', () => undefined)
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  port = (server.address() as { port: number }).port
  end = () => server.close()
  // The first state of the stream of ban events.
  await until(isListening)
}
const isListening = () => service.door.isOpen

/** The car's key of `agree`, made at once from the secret. */
function agreeKeyOf({ idCore }: Car): AgreeClientKey {
  const { groupId } = world.group
  const C = encodeName(groupId, { kind: 1, idCore })
  return AgreeClientKey.of({ groupId, idCore, epoch: 1 }, agreePointG1(C).mulSecret(world.secrets.agree))
}
/** What the car's client would say. */
function identityOf(car: Car, at = world.slot, generation = 1) {
  const { slotRule } = world.group
  const key = agreeKeyOf(car)
  return {
    externalPsk: async (name: string): Promise<SlotPsk> => {
      const party = { kind: 2, name, generation } as const
      const { identity, psk } = ClientAgreement.begin(key, { party, slot: at }, systemRandom).psk('m1')
      return { identity, psk, slot: at, endsAt: slotStart(slotRule, at + 1) * 1000 }
    },
  }
}
const dial = (car: Car, at = world.slot, generation = 1) =>
  secured(
    connect({ host: '127.0.0.1', port, servername: 'tracking', identity: identityOf(car, at, generation) }),
  )
async function inside(car: Car): Promise<TLSSocket> {
  const socket = await dial(car)
  await new Promise(resolve => socket.once('data', resolve))
  return socket
}
/** Of the service, by each authority; the RPS has asked for its own two before. */
const asked = () => world.authorities.map(authority => authority.asked.serverKeys - 2)
/** Time passes, and a heartbeat of the stream comes at its end. */
async function pass(milliseconds: number): Promise<void> {
  world.clock.leap(milliseconds)
  await until(() => {
    world.clock.turn(5)
    return service.door.hears
  })
}

test('a car that was enrolled after the server started is in at once; a ban ends its connection within a second', async () => {
  const [car, other] = [world.makeCar(), world.makeCar()]
  const [socket, stays] = [await inside(car), await inside(other)]
  const before = performance.now()
  const gone = closed(socket)
  await world.ban(rps, car)
  await gone
  expect(performance.now() - before).toBeLessThan(1_000)
  expect(stays.destroyed).toBe(false)
  expect(await outcome(dial(car))).not.toBe('in')
  expect(await outcome(dial(other))).toBe('in')
  // And after the ban is over it comes back, by the same key.
  await world.unban(rps, car)
  await until(async () => (await outcome(dial(car))) === 'in')
  stays.destroy()
})

test('keys of this slot and `lead` ahead, one more with each slot that begins; the former slot’s until its grace is over', async () => {
  const car = world.makeCar()
  const first = LEAD + 1
  expect(asked()).toEqual([first, first, first])
  // Its permit of the former slot is held only if somebody has asked for it in that slot.
  expect(await outcome(dial(car))).toBe('in')
  await pass(1_800_000)
  await until(() => asked().every(times => times === first + 1))
  expect(await outcome(dial(car))).toBe('in')
  expect(await outcome(dial(car, world.slot - 1))).toBe('in')
  await pass(300_000)
  expect(await outcome(dial(car, world.slot - 1))).not.toBe('in')
  expect(await outcome(dial(car))).toBe('in')
})

/** Permits that the RPS holds: this slot's of who has come in, and those made ahead of it. */
const permitsHeld = () => rps.store.read(reader => reader.all('SELECT slot FROM permit').length)

test('frozen: what is in hand goes on, nothing follows, and after slot and lead nobody comes in', async () => {
  const car = world.makeCar()
  expect(await outcome(dial(car))).toBe('in')
  await until(async () => (await permitsHeld()) === LEAD + 1)
  for (const authority of world.authorities) authority.behaviour = 'frozen'
  for (let slot = 0; slot <= LEAD; slot++) {
    expect(await outcome(dial(car))).toBe('in')
    await pass(3_600_000)
  }
  expect(await outcome(dial(car))).not.toBe('in')
  await until(() => logged.some(line => line.includes('no key for the current slot: nobody can come in')))
  // A server that starts now gets none at all, and says so.
  expect(await codeOf(open())).toBe('FROZEN')
  for (const authority of world.authorities) authority.behaviour = 'honest'
  world.clock.turn(6_000)
  await until(async () => (await outcome(dial(car))) === 'in')
})

describe('an authority that lies about its share of a slot key', () => {
  test('is passed over, and with t − 1 honest ones left there is no key', async () => {
    const [one, another] = world.authorities
    one!.behaviour = 'lying'
    end()
    await service.close()
    await serve()
    expect(await outcome(dial(world.makeCar()))).toBe('in')
    another!.behaviour = 'lying'
    expect(await codeOf(open())).toBe('WRONG_SHARE')
  })

  test('gives no key even where the proofs hold, since t shares make one of the group’s IVK or none', async () => {
    const honest = world.authorities.map(({ shares }) => shares)
    const keysOf = world.group.keysOf.bind(world.group)
    // Other shares, and commitments to them in a document that nobody has verified.
    for (const authority of world.authorities)
      authority.shares = { ...authority.shares, agree: Scalar.random(systemRandom) }
    const commitments = world.authorities.map(({ shares }) => G1.generator.mulSecret(shares.agree))
    const told = vi.spyOn(world.group, 'keysOf').mockImplementation((purpose, epoch) => {
      const keys = keysOf(purpose, epoch)
      return purpose === 'agree' && keys !== null ? { ...keys, commitments } : keys
    })
    await expect(open()).rejects.toMatchObject({
      code: 'RETRY_LATER',
      log: 'the shares of a slot key don’t make the key of this name',
    })
    for (const [i, authority] of world.authorities.entries()) authority.shares = honest[i]!
    told.mockRestore()
    await (await open()).close()
  })
})

test('removed from the group: no further key, the stream is cut, and after half a minute everybody is out', async () => {
  const car = world.makeCar()
  const socket = await inside(car)
  const recipients = world.group.document.recipients.filter(({ name }) => name !== 'tracking')
  const document = await world.nextRevision({ recipients })
  await rps.client.publishRevision({ body: { document } })
  const before = world.group
  await world.follow(document)
  // Who asks by the document that named it is refused, and then reads the one in force.
  expect(await codeOf(openBy(before))).toBe('FORBIDDEN')
  expect(await codeOf(openBy(world.group))).toBe('FORBIDDEN')
  await until(() => logged.some(line => line.includes('the stream of ban events')))
  const gone = closed(socket)
  world.clock.turn(31_000)
  await gone
  expect(await outcome(dial(car))).not.toBe('in')
})

test('the next generation of its name: it fetches the keys anew, and devices that agree on the former are out', async () => {
  const car = world.makeCar()
  const before = world.group
  expect(await outcome(dial(car))).toBe('in')
  expect(await outcome(dial(car, world.slot, 2))).not.toBe('in')
  const recipients = before.document.recipients.map(recipient =>
    recipient.name === 'tracking' ? { ...recipient, generation: 2 } : recipient,
  )
  const document = await world.nextRevision({ recipients })
  await rps.client.publishRevision({ body: { document } })
  await world.follow(document)
  await pass(60_000)
  // Its look at the group ends when it ends; the next tick after that fetches.
  await until(async () => {
    world.clock.turn(1_000)
    return (await outcome(dial(car, world.slot, 2))) === 'in'
  })
  expect(await outcome(dial(car))).not.toBe('in')
  expect(asked()).toEqual(new Array(3).fill(2 * (LEAD + 1)))
  // One that starts with the document of before finds its shares of another name, and reads the one in force.
  await (await openBy(before)).close()
})

test('neither a device’s key of `agree` nor a server’s request key logs anybody in at the RPS', async () => {
  const car = world.makeCar()
  const C = encodeName(world.group.groupId, { kind: 1, idCore: car.idCore })
  const deviceKey = agreePointG1(C).mulSecret(world.secrets.agree)
  expect(await codeOf(world.login(rps, car, { deviceKey }))).toBe('WRONG_PROOF')
  const url = `${rps.url}/v1/whoami`
  const request = { method: 'GET', url, body: new Uint8Array() }
  const authorization = await world.authorize(world.tracking, rps.url, request)
  const answer = await fetch(url, { headers: { authorization } })
  expect([answer.status, ((await answer.json()) as { code: string }).code]).toEqual([401, 'UNAUTHENTICATED'])
  expect((await world.login(rps, car)).authenticated.idCore).toBe(car.idCore.mpinId)
})

describe('what a thief makes of a server’s keys logs nobody in at the RPS', () => {
  interface Stolen {
    /** As the authorities gave it to the server. */
    readonly S: G2
    /** What it is good for: the PSK of this car at this server. */
    readonly psk: Uint8Array
  }
  const owner = () => ({ groupId: world.group.groupId, epoch: 1 })
  const ivk = () => G1.generator.mulSecret(world.secrets.agree)
  const slotKey = async (car: Car): Promise<Stolen> => {
    const party = { kind: 2, name: 'tracking', generation: 1 } as const
    const { slot } = world
    const S = agreePointG2(slotName(owner().groupId, party, slot)).mulSecret(world.secrets.agree)
    const key = AgreeSlotKey.verify({ ...owner(), party, slot }, ivk(), S) as AgreeSlotKey
    const { identity, psk } = await identityOf(car).externalPsk('tracking')
    expect(serverAgree(key, PskIdentity.decode(identity))).toEqual(psk)
    return { S, psk }
  }
  const staticKey = async (car: Car): Promise<Stolen> => {
    const party = { kind: 3, name: 'tracking', generation: 1 } as const
    const S = agreePointG2(encodeName(owner().groupId, party)).mulSecret(world.secrets.agree)
    const key = AgreeStaticKey.verify({ ...owner(), party }, ivk(), S) as AgreeStaticKey
    const { psk } = clientAgreeStatic(agreeKeyOf(car), party)
    expect(serverAgreeStatic(key, car.idCore).psk).toEqual(psk)
    return { S, psk }
  }

  test.each([
    ['its slot key', slotKey],
    ['its static key', staticKey],
  ])('%s', async (_, steal) => {
    const car = world.makeCar()
    const { S, psk } = await steal(car)
    const bytes = S.encode()
    // A login wants s·A in G1, of another secret; out of these come but numbers, and points that nobody has multiplied by it.
    const A = deviceIdentityPoint(world.group.groupId, car.idCore)
    const scalarOf = (made: Uint8Array) => Scalar.reduce(concat(sha256(made), new Uint8Array(16)))
    const asKeys = [A.mulSecret(scalarOf(bytes)), A.mulSecret(scalarOf(psk)), agreePointG1(bytes)]
    for (const deviceKey of asKeys)
      expect(await codeOf(world.login(rps, car, { deviceKey }))).toBe('WRONG_PROOF')

    // The point itself in the place of the proof, and either of its coordinate's halves as a point of G1.
    const halves = [bytes.slice(0, 48), bytes.slice(48)]
    for (const half of halves) half[0] = ((half[0] as number) & 0x1f) | 0x80
    for (const V of [bytes, ...halves]) {
      const login = { ...asFields(await world.message(rps, car)), V_dev: toBase64Url(V) }
      expect(await codeOf(rps.client.login({ body: { login } }))).toBe('MALFORMED')
    }

    expect((await world.login(rps, car)).authenticated.idCore).toBe(car.idCore.mpinId)
  })
})

test('the stream lost: for half a minute it goes on, then everybody is out and nobody comes in, until it is back', async () => {
  const car = world.makeCar()
  const socket = await inside(car)
  const { port: at } = new URL(rps.url)
  await rps.close()
  world.clock.turn(29_000)
  expect(socket.destroyed).toBe(false)
  expect(await outcome(dial(car))).toBe('in')
  const gone = closed(socket)
  world.clock.turn(2_000)
  await gone
  expect(await outcome(dial(car))).not.toBe('in')
  rps = await world.startRps({ config: { listen: { host: '127.0.0.1', port: Number(at) } } })
  await until(() => {
    world.clock.turn(4_000)
    return isListening()
  })
  expect(await outcome(dial(car))).toBe('in')
})

test('attributes are there when a handler runs, asked for once for a device and slot, with its permit', async () => {
  const car = world.makeCar()
  const peers: TlsPeer[] = []
  entered = peer => void peers.push(peer)
  const sockets = [await inside(car), ...(await Promise.all([inside(car), inside(car)]))]
  const { attributes, instance } = world.rpa.identities.get(car.idCore.mpinId)!
  for (const peer of peers) expect(peer).toMatchObject({ attributes, instance })
  expect(peers).toHaveLength(3)
  expect(identitiesAsked).toBe(1)
  for (const socket of sockets) socket.destroy()
})

describe('a permit', () => {
  const permitAway = (car: Car) => {
    world.rpa.identities.get(car.idCore.mpinId)!.banned = true
  }

  test('that the RA withholds keeps a device out, although no ban was heard; it is back when the RA gives one', async () => {
    const car = world.makeCar()
    permitAway(car)
    expect(await outcome(dial(car))).not.toBe('in')
    world.rpa.identities.get(car.idCore.mpinId)!.banned = false
    // A no holds for five seconds.
    expect(await outcome(dial(car))).not.toBe('in')
    world.clock.turn(5_000)
    expect(await outcome(dial(car))).toBe('in')
  })

  test('is not asked for again in the slot; in the next one it is, and withheld', async () => {
    const car = world.makeCar()
    expect(await outcome(dial(car))).toBe('in')
    await until(async () => (await permitsHeld()) === LEAD + 1)
    permitAway(car)
    expect(await outcome(dial(car))).toBe('in')
    await pass(3_600_000)
    // The permits ahead are made when a device has been permitted; this one’s are gone with the slot.
    await rps.store.atomic(connection => connection.run('DELETE FROM permit', []))
    await rps.close()
    rps = await world.startRps({
      config: { listen: { host: '127.0.0.1', port: Number(new URL(rps.url).port) } },
    })
    await until(() => {
      world.clock.turn(1_000)
      return isListening()
    })
    expect(await outcome(dial(car))).not.toBe('in')
  })

  test('of a device that the RA doesn’t know, although its key is good', async () => {
    const car = world.makeCar()
    world.rpa.identities.delete(car.idCore.mpinId)
    expect(await outcome(dial(car))).not.toBe('in')
  })

  test.each([
    ['of another device', (other: Car) => world.permitOf(other.idCore)],
    ['of another slot', (_: Car, car: Car) => world.permitOf(car.idCore, world.slot + 1)],
    [
      'that nobody made',
      (_: Car, car: Car) => Permit.of(world.slot, { type: 'id', idCore: car.idCore }, G1.generator),
    ],
  ])('%s is none, whatever the RPS says', async (_, make) => {
    const [car, other] = [world.makeCar(), world.makeCar()]
    const { attributes, instance } = world.rpa.identities.get(car.idCore.mpinId)!
    onIdentity = () => ({ attributes, instance, permit: toBase64Url(make(other, car).encode()) })
    expect(await outcome(dial(car))).not.toBe('in')
    onIdentity = () => ({ attributes, instance })
    expect(await outcome(dial(car))).not.toBe('in')
    onIdentity = undefined
    expect(await outcome(dial(car))).toBe('in')
    expect(logged.some(line => line.includes('the RPS gave no permit of this device and slot'))).toBe(true)
  })

  test('while the RPS is away: who has come in before comes in again, nobody else does', async () => {
    const [known, unknown] = [world.makeCar(), world.makeCar()]
    expect(await outcome(dial(known))).toBe('in')
    onIdentity = () => {
      throw new TypeError('fetch failed')
    }
    expect(await outcome(dial(known))).toBe('in')
    expect(await outcome(dial(unknown))).not.toBe('in')
    onIdentity = undefined
    expect(await outcome(dial(unknown))).toBe('in')
  })
})

test('a log line says who was put out and why, and no PSK identity', async () => {
  const car = world.makeCar()
  const socket = await inside(car)
  await world.ban(rps, car)
  await closed(socket)
  const said = logged.filter(line => line.includes(car.idCore.mpinId)).map(line => JSON.parse(line))
  expect(said).toMatchObject([{ mpinId: car.idCore.mpinId, why: 'BANNED' }])
  for (const line of logged) expect(line).not.toMatch(/m1\.[A-Za-z0-9_-]{60}/)
})

test('a flood of names that fills the queue is counted, and said once', async () => {
  const attempts = Array.from({ length: 1_100 }, (_, n) =>
    service.door.psk(`nobody ${n}`, `10.0.${n >> 8}.${n & 255}`, () => false),
  )
  const settled = Promise.allSettled(attempts)
  expect(counts.pool_full).toBeGreaterThan(1)
  expect(logged.filter(line => line.includes('too much waits for the workers'))).toHaveLength(1)
  await service.close()
  await settled
})
