/** Permits for nodes at the RPS: the cover made whole, held, handed out; and what is refused, of whom. */
import type { LeavesPayload, TreePayload } from '@milagro-ts/api/statements'
import { leavesHash } from '@milagro-ts/api/statements'
import { fromBase64Url, toBase64Url } from '@milagro-ts/crypto/bytes'
import { BannedLeaves, type TreeNode } from '@milagro-ts/crypto/permit-tree'
import { G1 } from '@milagro-ts/crypto/points'
import { Permit } from '@milagro-ts/crypto/time-permit'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { asFields, type Car, codeOf, NOON_SLOT, OWN, type RunningRps, SLOT, World } from './world.js'

let world: World
let rps: RunningRps
let car: Car
beforeAll(async () => {
  world = await World.make({ policy: { lead: 1, grace: 300, permits: 'tree' } })
  rps = await world.startRps()
})
afterAll(() => world.close())
beforeEach(() => {
  world.unreachable.clear()
  world.rpa.isDown = false
  world.rpa.onTree = undefined
  for (const authority of world.authorities) authority.behaviour = 'honest'
  // Ten seconds into a slot that nothing of a former test is held for.
  const into = (world.seconds - SLOT.origin) % SLOT.length
  world.clock.leap((SLOT.length * 3 - into + 10) * 1000)
  car = world.makeCar()
})

const ROOT: TreeNode = { depth: 0, index: 0 }
const permitIn = (text: string) => Permit.decode(fromBase64Url(text, 'permit'))
const login = async (who = car, options: Parameters<World['message']>[2] = {}) =>
  world.login(rps, who, options)
const ban = (who: Car) => world.ban(rps, who)
const unban = (who: Car) => world.unban(rps, who)
const heldIn = (slot: number) =>
  rps.store.atomic(connection =>
    connection
      .all('SELECT permit FROM permit WHERE slot = ?', [slot])
      .map(row => Permit.decode(row.permit as Uint8Array)),
  )
const nodesIn = async (slot: number) => (await heldIn(slot)).map(({ target }) => target)
/** Time passes until so many permits of the slot are held: the RPS looks every second what is missing. */
const whole = (slot: number, size: number) =>
  expect
    .poll(
      async () => {
        world.clock.turn(10_000)
        return (await heldIn(slot)).length
      },
      { timeout: 20_000, interval: 5 },
    )
    .toBeGreaterThanOrEqual(size)
const nodeOf = (who: Car, banned: readonly Car[]) => {
  const node = BannedLeaves.of(banned.map(({ idCore }) => idCore.leaf)).nodeOf(who.idCore.leaf)
  return { type: 'node', ...(node as TreeNode) }
}

test('nobody banned: one permit serves everybody, and the RPA is not asked about anybody', async () => {
  const before = world.rpa.asked.permit
  const [first, second] = [await login(), await login(world.makeCar())]
  expect(permitIn(first.permit).target).toEqual({ type: 'node', ...ROOT })
  expect(first.permit).toBe(second.permit)
  expect(world.rpa.asked.permit).toBe(before)
})

test('after a ban the others’ permits are of nodes beside the banned leaf, and what was held stays', async () => {
  await login()
  const thief = world.makeCar()
  await ban(thief)
  expect(await codeOf(login(thief))).toBe('BANNED')
  await expect.poll(async () => permitIn((await login()).permit).target).toEqual(nodeOf(car, [thief]))
  await whole(world.slot, 33)
  const targets = await nodesIn(world.slot)
  expect(targets).toContainEqual({ type: 'node', ...ROOT })
  await unban(thief)
  await login(thief)
  // The un-ban has added nothing but permits: of this slot the root is held already.
  expect((await nodesIn(world.slot)).length).toBeGreaterThanOrEqual(targets.length)
})

test('the next slot’s cover is made at a moment drawn for each slot, in its first half', async () => {
  // When the RPA is asked, not when the permits are there: the clock goes on by hand while workers make them.
  const moments = new Map<number, number>()
  world.rpa.onTree = (truth, state) => {
    if (!moments.has(truth.slot)) moments.set(truth.slot, world.seconds)
    return [truth, state]
  }
  const drawn = new Set<number>()
  for (let i = 0; i < 4; i++) {
    const [begun, slot] = [world.seconds, world.slot + 1]
    expect((await login()).next).toBeUndefined()
    await whole(slot, 1)
    const moment = moments.get(slot)! - begun
    expect(moment).toBeGreaterThanOrEqual(0)
    // The RPA hears of it while the clock goes on: some of it is no part of the draw.
    expect(moment).toBeLessThanOrEqual(SLOT.length / 2 + 900)
    drawn.add(moment)
    if (i < 3) world.clock.leap((SLOT.length * 2 - ((world.seconds - SLOT.origin) % SLOT.length)) * 1000)
  }
  // A draw of 256 moments: the same one four times is a draw that isn't one.
  expect(drawn.size).toBeGreaterThan(1)
  const { next } = await login()
  const { slot, target } = permitIn(next!)
  expect({ slot, target }).toEqual({ slot: world.slot + 1, target: { type: 'node', ...ROOT } })
  const asked = await rps.client.permit({
    body: { login: asFields(await world.message(rps, car, { audience: OWN })) },
  })
  expect(asked.next).toBe(next)
})

test('nobody answers any more: what was made ahead goes on, and then nothing does', async () => {
  await login()
  await whole(world.slot + 1, 1)
  world.rpa.isDown = true
  for (const { url } of world.authorities) world.unreachable.add(url)
  world.clock.leap(SLOT.length * 1000)
  await login()
  world.clock.leap(SLOT.length * 1000)
  expect(await codeOf(login())).toBe('RETRY_LATER')
})

test('a ban while nobody answers: a wider permit that is held serves the others, the banned one is refused', async () => {
  await login()
  expect(permitIn((await login()).permit).target).toEqual({ type: 'node', ...ROOT })
  const thief = world.makeCar()
  world.rpa.isDown = true
  await ban(thief)
  expect(await codeOf(login(thief))).toBe('BANNED')
  expect(permitIn((await login()).permit).target).toEqual({ type: 'node', ...ROOT })
  world.rpa.isDown = false
  await unban(thief)
})

test('an authority is shown each state once, and again when it has forgotten it', async () => {
  await login()
  // The slowest one's answer may not have been waited for.
  const isKnown = () => world.authorities.every(({ leaves }) => leaves?.number === world.rpa.number)
  const nextSlot = async () => {
    world.clock.leap(SLOT.length * 1000)
    await login()
  }
  for (let i = 0; i < 20 && !isKnown(); i++) await nextSlot()
  for (let i = 0; i < 3; i++) await nextSlot()
  const asked = () => world.authorities.reduce((sum, { asked }) => sum + asked.leaves, 0)
  const before = asked()
  for (let i = 0; i < 3; i++) await nextSlot()
  expect(asked()).toBe(before)
  for (const authority of world.authorities) authority.leaves = undefined
  await nextSlot()
  expect(asked()).toBeGreaterThanOrEqual(before + 2)
})

test('a replica and a restarted server go on with the leaves and permits that one has', async () => {
  await login()
  const nodes = () => world.authorities.reduce((sum, { asked }) => sum + asked.nodes, 0)
  const before = nodes()
  const replica = await world.startRps()
  await world.login(replica, car)
  expect(nodes()).toBe(before)
  await replica.close()
})

describe('carried', () => {
  test.each<[string, (who: Car) => Permit, string]>([
    ['the root’s', () => world.nodePermit(ROOT), 'in'],
    ['a smaller node’s above the leaf', who => world.nodePermit({ depth: 32, index: who.idCore.leaf }), 'in'],
    ['one of the identity itself', who => world.permitOf(who.idCore), 'in'],
    ['another leaf’s', who => world.nodePermit({ depth: 32, index: who.idCore.leaf + 1 }), 'WRONG_PERMIT'],
    [
      'another leaf’s point under its own node',
      who =>
        Permit.of(
          world.slot,
          { type: 'node', depth: 32, index: who.idCore.leaf },
          world.nodePermit({ depth: 32, index: who.idCore.leaf + 1 }).point,
        ),
      'WRONG_PERMIT',
    ],
    ['the root’s of the next slot', () => world.nodePermit(ROOT, world.slot + 1), 'WRONG_PERMIT'],
    ['the root’s of the former slot', () => world.nodePermit(ROOT, world.slot - 1), 'PERMIT_EXPIRED'],
  ])('%s: %s', async (_, make, code) => {
    const asked = login(car, { permit: make(car) }).then(
      () => 'in',
      (error: { code: string }) => error.code,
    )
    expect(await asked).toBe(code)
  })

  test('two forged ones at once that would cancel out under weight 1 are both refused', async () => {
    const other = world.makeCar()
    const forged = (who: Car, change: (point: G1) => G1) => {
      const node = { depth: 32, index: who.idCore.leaf }
      return Permit.of(world.slot, { type: 'node', ...node }, change(world.nodePermit(node).point))
    }
    const codes = await Promise.all([
      codeOf(login(car, { permit: forged(car, point => point.add(G1.generator)) })),
      codeOf(login(other, { permit: forged(other, point => point.subtract(G1.generator)) })),
    ])
    expect(codes).toEqual(['WRONG_PERMIT', 'WRONG_PERMIT'])
  })

  test('of before the ban: the newest revocations say no, permit or not', async () => {
    const permit = world.nodePermit(ROOT)
    await login(car, { permit })
    await ban(car)
    expect(await codeOf(login(car, { permit }))).toBe('BANNED')
    await unban(car)
    await login(car, { permit })
  })
})

describe('an RPA', () => {
  const lie = (change: (truth: TreePayload, state: LeavesPayload) => [TreePayload, LeavesPayload]) => {
    world.rpa.number++
    world.rpa.onTree = change
  }

  test.each<[string, Parameters<typeof lie>[0]]>([
    [
      'that goes back to an older state',
      (truth, state) => {
        const older = { ...state, number: 0 }
        return [{ ...truth, number: 0, leavesHash: toBase64Url(leavesHash(older)) }, older]
      },
    ],
    [
      'whose leaves are others than it speaks of',
      (truth, state) => [truth, { ...state, number: 4_000_000_000 }],
    ],
    ['that speaks of another slot', (truth, state) => [{ ...truth, slot: truth.slot + 1 }, state]],
    ['of another group', (truth, state) => [{ ...truth, groupId: toBase64Url(new Uint8Array(32)) }, state]],
    ['that speaks for longer than a minute', (truth, state) => [{ ...truth, exp: truth.exp + 1 }, state]],
  ])('%s gets nobody a permit', async (_, change) => {
    lie(change)
    expect(await codeOf(login())).toBe('RETRY_LATER')
    world.rpa.onTree = undefined
    world.clock.turn(60_000)
    await login()
  })
})

describe('authorities', () => {
  test('that lie are named, and done without as long as t are honest', async () => {
    world.authorities[0]!.behaviour = 'lying'
    await login()
    world.clock.leap(SLOT.length * 1000)
    world.authorities[1]!.behaviour = 'lying'
    await expect(login()).rejects.toMatchObject({ code: 'WRONG_SHARE', detail: 'wrong share from ta1, ta2' })
  })

  test('that are frozen', async () => {
    for (const authority of world.authorities) authority.behaviour = 'frozen'
    expect(await codeOf(login())).toBe('FROZEN')
  })
})

test('a slot is over for permits as for logins', async () => {
  expect(NOON_SLOT).toBeLessThan(world.slot)
  world.clock.leap((SLOT.length - ((world.seconds - SLOT.origin) % SLOT.length)) * 1000 + 10_000)
  expect(await codeOf(login(car, { slot: world.slot - 1 }))).toBe('PERMIT_EXPIRED')
  await login()
})
