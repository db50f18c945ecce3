/** What strangers can do to the door by naming others, without any connection. */
import { be32, concat } from '@milagro-ts/crypto/bytes'
import { IdCore } from '@milagro-ts/crypto/identity'
import { PoolUnavailable } from '@milagro-ts/crypto/node-pool'
import { G1 } from '@milagro-ts/crypto/points'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { PskIdentity } from '@milagro-ts/crypto/static-agreement'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { GRACE, NAME, NOON, SLOT, World } from './world.js'

let world: World
beforeEach(async () => {
  world = await World.start()
  world.computedAs = new Uint8Array(32)
})
afterEach(() => world.close())

/** An identity of somebody whom nobody has seen. */
const made = (n: number) =>
  PskIdentity.ofSlot('m1', IdCore.decode(concat(be32(n), new Uint8Array(35))), SLOT, G1.generator).toString()
const proven = () => true
const unproven = () => false
const sourceOf = (n: number) => `10.${(n >> 16) & 255}.${(n >> 8) & 255}.${n & 255}`

test('who names others, whatever number, asks nobody anything, and displaces nobody', async () => {
  const { door } = world
  const { identity } = await world.car(1).externalPsk(NAME)
  const psk = await door.psk(identity, '192.0.2.1', proven)
  expect(door.authenticated(identity, psk, '192.0.2.1')?.mpinId).toBe(world.car(1).mpinId)
  for (let n = 1; n <= 10_100; n++) {
    const text = made(n)
    expect(await door.psk(text, sourceOf(n), unproven)).toEqual(door.decoy(text))
  }
  expect(world.asked).toEqual([world.car(1).mpinId])
  world.permitted = () => Promise.reject(new Error('nobody answers'))
  expect(door.pskKept(identity)).toEqual(psk)
  expect(door.authenticated(identity, psk, '192.0.2.1')).not.toBeNull()
})

test('ten thousand devices and more that have come in are known for their slot', async () => {
  const { door } = world
  for (let n = 1; n <= 10_100; n++) {
    const text = made(n)
    const psk = await door.psk(text, sourceOf(n), proven)
    expect(door.authenticated(text, psk, sourceOf(n))).not.toBeNull()
  }
  expect(world.asked).toHaveLength(10_100)
  for (let n = 1; n <= 10_100; n++) expect(door.pskKept(made(n))).toBeDefined()
})

test('who has come in is forgotten when the slot and the grace after it are over, and not before', async () => {
  const { door } = world
  const text = made(1)
  const psk = await door.psk(text, '192.0.2.1', proven)
  expect(door.authenticated(text, psk, '192.0.2.1')).not.toBeNull()
  world.turn((1_800 + GRACE) * 1000 - 1)
  expect(door.pskKept(text)).toEqual(psk)
  world.turn(1)
  // What is remembered shows where the clock is set back.
  world.now = NOON
  expect(door.pskKept(text)).toBeUndefined()
  await door.psk(text, '192.0.2.1', proven)
  expect([world.computed, world.asked.length]).toEqual([2, 2])
})

test('what was said of who hasn’t come in is forgotten after two minutes and its five seconds', async () => {
  const { door } = world
  const psk = await door.psk(made(1), '192.0.2.1', proven)
  world.turn(124_999)
  world.now = NOON
  expect(door.authenticated(made(1), psk, '192.0.2.1')).not.toBeNull()
  await door.psk(made(2), '192.0.2.1', proven)
  world.turn(125_000)
  expect(door.authenticated(made(2), psk, '192.0.2.1')).toBeNull()
  expect(door.authenticated(made(1), psk, '192.0.2.1')).not.toBeNull()
})

test('who came in while the clock was ahead is forgotten once it is set back', async () => {
  const { door } = world
  await world.holdKeys(SLOT, SLOT + 1)
  const early = PskIdentity.ofSlot(
    'm1',
    IdCore.decode(concat(be32(9), new Uint8Array(35))),
    SLOT + 1,
    G1.generator,
  ).toString()
  const other = await door.psk(made(1), '192.0.2.1', proven)
  expect(door.authenticated(made(1), other, '192.0.2.1')).not.toBeNull()
  world.turn(0)
  world.now += 3_600_000
  const psk = await door.psk(early, '192.0.2.1', proven)
  expect(door.authenticated(early, psk, '192.0.2.1')).not.toBeNull()
  world.now = NOON
  world.turn(0)
  // In its slot it has to be asked about.
  world.now += 3_600_000
  expect(door.pskKept(early)).toBeUndefined()
})

test('a question that is open when slot and grace end pays nobody back by that', async () => {
  const { door } = world
  world.turn((1_800 + GRACE) * 1000 - 6_500)
  const psk = await door.psk(renewed(1), '192.0.2.1', proven)
  // Its answer has run out, and the next one waits.
  world.turn(6_000)
  const answers: ((answer: null) => void)[] = []
  world.permitted = () => new Promise<null>(resolve => answers.push(resolve))
  const waiting = Array.from({ length: 400 }, (_, n) => door.psk(renewed(n + 2), '192.0.2.9', proven))
  await vi.waitFor(() => expect(answers).toHaveLength(1))
  expect(door.authenticated(renewed(1), psk, '192.0.2.1')).not.toBeNull()
  world.turn(500)
  for (const answer of answers) answer(null)
  await Promise.all(waiting)
  world.turn(0)
  let left = 0
  for (; left < 500; left++) {
    const isRefused = await door.psk(`nobody ${left}`, '192.0.2.9', unproven).then(
      () => false,
      () => true,
    )
    if (isRefused) break
  }
  // A hundred were left, and in half a second 25 more.
  expect(left).toBe(125)
})

test('before the first slot there is nobody to look for', () => {
  world.now = 0
  expect(() => world.door.look()).not.toThrow()
})

test('one source has so many pairings that come to nothing, and no more', async () => {
  const { door } = world
  world.permitted = async () => null
  const come = (n: number) => door.psk(made(n), '192.0.2.1', n % 2 ? proven : unproven)
  for (let n = 1; n <= 500; n++) await come(n)
  await expect(come(501)).rejects.toMatchObject({ code: 'RETRY_LATER' })
  expect(world.computed).toBe(500)
  expect(world.asked.length).toBe(250)
})

test('a name that can’t be read is one of them, and costs its source as much', async () => {
  const { door } = world
  const say = (n: number, source = '192.0.2.1') => door.psk(`nobody ${n}`, source, proven)
  for (let n = 1; n <= 500; n++) expect(await say(n)).toEqual(door.decoy(`nobody ${n}`))
  expect(world.computed).toBe(500)
  await expect(say(501)).rejects.toMatchObject({ code: 'RETRY_LATER' })
  await expect(door.psk(made(1), '192.0.2.1', proven)).rejects.toMatchObject({ code: 'RETRY_LATER' })
  expect(world.computed).toBe(500)
  expect(await say(502, '192.0.2.2')).toHaveLength(32)
  world.now += 20
  expect(await say(503)).toHaveLength(32)
})

test('a source that is refused is counted, and named in one line of the log in ten seconds; whom it named isn’t', async () => {
  const { door } = world
  const come = (n: number, source: string) => door.psk(made(n), source, unproven).catch(() => undefined)
  for (let n = 1; n <= 503; n++) await come(n, '2001:db8:0:1::1')
  for (let n = 1; n <= 501; n++) await come(n, '192.0.2.1')
  const refused = new Array(4).fill('pairings_turned_away')
  expect(world.counted).toEqual(refused)
  world.turn(9_999)
  expect(world.logged).toEqual([])
  world.turn(1)
  expect(world.logged).toHaveLength(1)
  const line = JSON.parse(world.logged[0] as string)
  expect(line).toMatchObject({
    level: 40,
    refused: 4,
    most: [
      { source: '2001:db8:0:1', refused: 3 },
      { source: '192.0.2.1', refused: 1 },
    ],
    msg: 'too many pairings that no handshake came of: connections were closed (pairingsPerSource)',
  })
  for (let n = 1; n <= 503; n++) expect(world.logged[0]).not.toContain(made(n))
  // Nothing more has been refused.
  world.turn(10_000)
  expect(world.logged).toHaveLength(1)
})

test('how many pairings a source has can be set, and changes while the door stands', async () => {
  await world.close()
  const rate = { burst: 2, perSecond: 1 }
  world = await World.start({ pairingsPerSource: rate })
  world.computedAs = new Uint8Array(32)
  const { door } = world
  const come = (n: number) => door.psk(made(n), '192.0.2.1', unproven)
  for (let n = 1; n <= 2; n++) expect(await come(n)).toEqual(door.decoy(made(n)))
  await expect(come(3)).rejects.toMatchObject({ code: 'RETRY_LATER' })
  world.now += 1_000
  await come(4)
  await expect(come(5)).rejects.toMatchObject({ code: 'RETRY_LATER' })
  Object.assign(rate, { burst: 100, perSecond: 100 })
  world.now += 1_000
  for (let n = 6; n <= 105; n++) expect(await come(n)).toEqual(door.decoy(made(n)))
  await expect(come(106)).rejects.toMatchObject({ code: 'RETRY_LATER' })
})

test('who can’t be let in while the ban events are lost costs its source as much, and asks nobody', async () => {
  const { door } = world
  world.fresh = false
  for (let n = 1; n <= 500; n++) await door.psk(made(n), '192.0.2.1', proven)
  await expect(door.psk(made(501), '192.0.2.1', proven)).rejects.toMatchObject({ code: 'RETRY_LATER' })
  expect([world.computed, world.asked.length]).toEqual([500, 0])
})

test('all addresses of an IPv6 /64 take one turn at the workers, by names that can be read and by others', async () => {
  const { door } = world
  await door.psk(made(1), '2001:db8:0:1::1', unproven)
  await door.psk(made(2), '2001:db8:0:1:ffff::2', proven)
  await door.psk('nobody', '2001:db8:0:1::3', proven)
  await door.psk('nobody', '2001:db8:0:2::1', unproven)
  expect(world.turns).toEqual(['2001:db8:0:1', '2001:db8:0:1', '2001:db8:0:1', '2001:db8:0:2'])
})

/** Of one device, by a fresh R each time. */
const renewed = (n: number) =>
  PskIdentity.ofSlot(
    'm1',
    world.car(1).idCore,
    SLOT,
    G1.generator.mulPublic(Scalar.fromBigInt(BigInt(n))),
  ).toString()

test('the name of who has come in, with ever new R, costs its source as much; who has come in pays nothing', async () => {
  const { door } = world
  const { identity } = await world.car(1).externalPsk(NAME)
  const psk = await door.psk(identity, '192.0.2.1', proven)
  expect(door.authenticated(identity, psk, '192.0.2.1')).not.toBeNull()
  for (let n = 1; n <= 500; n++) await door.psk(renewed(n), '192.0.2.2', unproven)
  await expect(door.psk(renewed(501), '192.0.2.2', unproven)).rejects.toMatchObject({ code: 'RETRY_LATER' })
  expect([world.computed, world.asked.length]).toEqual([501, 1])
  // By what it has here, from wherever.
  expect(door.pskKept(identity)).toEqual(psk)
  expect(await door.psk(identity, '192.0.2.2', proven)).toEqual(psk)
})

test('a device has four PSKs kept at most, and sixteen paid back, so it takes nothing from others', async () => {
  const { door } = world
  const other = made(2)
  door.authenticated(other, await door.psk(other, '192.0.2.2', proven), '192.0.2.2')
  const come = async (n: number) =>
    door.authenticated(renewed(n), await door.psk(renewed(n), '192.0.2.1', proven), '192.0.2.1')
  for (let n = 1; n <= 516; n++) expect(await come(n)).not.toBeNull()
  await expect(come(517)).rejects.toMatchObject({ code: 'RETRY_LATER' })
  const kept = Array.from({ length: 516 }, (_, i) => i + 1).filter(
    n => door.pskKept(renewed(n)) !== undefined,
  )
  expect(kept).toEqual([513, 514, 515, 516])
  expect(door.pskKept(other)).toBeDefined()
  expect(world.asked).toHaveLength(2)
})

test('what no worker takes costs nothing, and nobody is asked for it', async () => {
  const { door } = world
  world.isFull = true
  for (let n = 1; n <= 600; n++)
    await expect(door.psk(made(n), '192.0.2.1', proven)).rejects.toThrow(PoolUnavailable)
  expect(world.asked).toEqual([])
  world.isFull = false
  expect(await door.psk(made(601), '192.0.2.1', proven)).toHaveLength(32)
})

test('a device that nobody says anything of is paid back; one that is refused isn’t', async () => {
  const { door } = world
  world.permitted = () => Promise.reject(new Error('nobody answers'))
  for (let n = 1; n <= 600; n++) await door.psk(made(n), '192.0.2.1', proven)
  world.permitted = async () => null
  for (let n = 1; n <= 500; n++) await door.psk(made(n), '192.0.2.1', proven)
  await expect(door.psk(made(501), '192.0.2.1', proven)).rejects.toMatchObject({ code: 'RETRY_LATER' })
})

test('by TLS 1.2, where nobody has shown anything yet, one source has few questions at once', async () => {
  const { door } = world
  let answer = () => {}
  world.permitted = () =>
    new Promise(resolve => {
      answer = () => resolve(null)
    })
  const m2 = (n: number) =>
    PskIdentity.ofSlot(
      'm2',
      IdCore.decode(concat(be32(n), new Uint8Array(35))),
      SLOT,
      G1.generator,
    ).toString()
  for (let n = 1; n <= 100; n++) expect(door.pskAtOnce(m2(n), '192.0.2.1')).toEqual(door.decoy(m2(n)))
  await vi.waitFor(() => expect(world.asked).toHaveLength(16))
  door.pskAtOnce(m2(101), '192.0.2.2')
  await vi.waitFor(() => expect(world.asked).toHaveLength(17))
  answer()
})
