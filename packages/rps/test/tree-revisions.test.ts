/** Permits for nodes while the group changes: its permit key, its authorities, its RA's keys. */
import { generateEs256 } from '@milagro-ts/api/keys'
import { verifyCosignature, verifyLeaves } from '@milagro-ts/api/statements'
import { fromBase64Url } from '@milagro-ts/crypto/bytes'
import type { TreeNode } from '@milagro-ts/crypto/permit-tree'
import type { G2 } from '@milagro-ts/crypto/points'
import { Permit, VerifiedPermit } from '@milagro-ts/crypto/time-permit'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { type Car, codeOf, type FakeAuthority, type RunningRps, SLOT, until, World } from './world.js'

const ROOT: TreeNode = { depth: 0, index: 0 }

let world: World
let rps: RunningRps
let car: Car
beforeEach(async () => {
  world = await World.make({ policy: { lead: 1, grace: 300, permits: 'tree' } })
  rps = await world.startRps()
  car = world.makeCar()
})
afterEach(() => world.close())

const login = (who = car, options: Parameters<World['message']>[2] = {}) => world.login(rps, who, options)
const permitIn = (text: string) => Permit.decode(fromBase64Url(text, 'permit'))
/** As whoever has nothing but the group document checks it. */
function isGood(permit: Permit): boolean {
  const { group } = world
  const keys = group.keysAt('permit', permit.slot)
  const terms = { groupId: group.groupId, permitEpoch: keys?.epoch as number, rule: group.slotRule }
  return VerifiedPermit.verify(terms, keys?.pub as G2, permit) !== null
}
async function publish(document: Parameters<World['follow']>[0]): Promise<void> {
  await rps.client.publishRevision({ body: { document } })
  await world.follow(document)
}
const nextSlot = () => world.clock.leap(SLOT.length * 1000)
const heldIn = (slot: number) =>
  rps.store.atomic(connection =>
    connection
      .all('SELECT permit FROM permit WHERE slot = ?', [slot])
      .map(row => Permit.decode(row.permit as Uint8Array)),
  )
/** Timers run now and then, so that the workers' real time takes no slot of the clock. */
const wholeIn = (slot: number, size = 1) => {
  let looks = 0
  return until(async () => {
    if (looks++ % 100 === 0) world.clock.turn(10_000)
    return (await heldIn(slot)).length >= size
  })
}
const nodesAsked = () => world.authorities.reduce((sum, { asked }) => sum + asked.nodes, 0)

describe('a rotation of the permit key', () => {
  test('each slot has permits of its key epoch, those ahead too; a carried one of the former is refused', async () => {
    const first = permitIn((await login()).permit)
    await publish(await world.rotate({ rotated: ['permit'], firstSlot: world.slot + 2 }))
    // Held, and good as before: the key of this slot is the former epoch's.
    expect(permitIn((await login()).permit).point.equals(first.point)).toBe(true)
    expect(isGood(first)).toBe(true)

    for (const epoch of [1, 2, 2]) {
      nextSlot()
      const said = permitIn((await login()).permit)
      expect([world.group.epochAt('permit', world.slot), isGood(said)]).toEqual([epoch, true])
      expect(said.point.equals(world.nodePermit(ROOT).point)).toBe(true)
      await wholeIn(world.slot + 1)
      for (const ahead of await heldIn(world.slot + 1)) expect(isGood(ahead)).toBe(true)
    }
    const former = Permit.of(world.slot, first.target, first.point)
    expect(await codeOf(login(world.makeCar(), { permit: former }))).toBe('WRONG_PERMIT')
  })

  test('that came late: permits of the former key for its slots are not handed out any more', async () => {
    await login()
    await wholeIn(world.slot + 1)
    const [ahead] = await heldIn(world.slot + 1)
    // As from authorities that had signed and went on until somebody told them of the end.
    await publish(await world.rotate({ rotated: ['permit'], firstSlot: world.slot + 1 }))
    expect(isGood(ahead as Permit)).toBe(false)
    nextSlot()
    const said = permitIn((await login()).permit)
    expect([said.slot, isGood(said)]).toEqual([world.slot, true])
    for (const held of await heldIn(world.slot)) expect(isGood(held)).toBe(true)
    expect(await codeOf(login(world.makeCar(), { permit: ahead as Permit }))).toBe('WRONG_PERMIT')
  })

  test('bans go on through it', async () => {
    const thief = world.makeCar()
    await world.ban(rps, thief)
    await publish(await world.rotate({ rotated: ['permit'], firstSlot: world.slot + 1 }))
    nextSlot()
    expect(isGood(permitIn((await login()).permit))).toBe(true)
    expect(await codeOf(login(thief))).toBe('BANNED')
    await wholeIn(world.slot, 32)
    // One that was made ahead, before ban and rotation, may still lie there; it is of the former key.
    const good = (await heldIn(world.slot)).filter(isGood)
    expect(good.length).toBeGreaterThanOrEqual(31)
    for (const { target } of good) expect(target).not.toMatchObject(ROOT)
    await world.unban(rps, thief)
    expect(isGood(permitIn((await login(thief)).permit))).toBe(true)
  })
})

describe('a reshare of the group', () => {
  /** To these members, all of whom go by it at once. */
  async function handOn(members: readonly FakeAuthority[], t = 2): Promise<void> {
    const { document, moveOn } = await world.reshare({ members, t })
    moveOn(...members)
    await publish(document)
    world.authorities = [...members]
  }
  const cosigned = () =>
    rps.store.atomic(connection =>
      connection
        .all('SELECT authority, cosignature FROM cosignature ORDER BY authority')
        .map(row => ({ index: Number(row.authority), cosignature: row.cosignature as string })),
    )

  /** The slowest one's answer is not always waited for; each slot asks everybody who hasn't. */
  const untilCosigned = (authorities: number) =>
    until(async () => {
      nextSlot()
      await login()
      return (await cosigned()).length === authorities
    })

  test('what is held stays good; those who are new are shown the banned leaves before they are asked', async () => {
    const thief = world.makeCar()
    await world.ban(rps, thief)
    await login()
    // Those ahead as well, so that none of them are asked for meanwhile.
    await wholeIn(world.slot, 32)
    await wholeIn(world.slot + 1, 32)
    const [ta1, , ta3] = world.authorities as [FakeAuthority, FakeAuthority, FakeAuthority]
    const fresh = await world.newAuthority('ta4')
    const before = nodesAsked()
    await handOn([ta3, fresh, ta1])
    expect(isGood(permitIn((await login()).permit))).toBe(true)
    expect(nodesAsked() - fresh.asked.nodes).toBeLessThanOrEqual(before)

    nextSlot()
    expect(isGood(permitIn((await login()).permit))).toBe(true)
    await wholeIn(world.slot, 32)
    await untilCosigned(3)
    expect(fresh.leaves?.number).toBe(world.rpa.number)
    expect(fresh.leaves?.leaves.nodeOf(thief.idCore.leaf)).toBeNull()
    expect(await codeOf(login(thief))).toBe('BANNED')
    // The indices are others' now, and so are the co-signatures.
    const state = await verifyLeaves({ statement: fresh.leaves?.statement as string, group: world.group })
    for (const one of await cosigned()) await verifyCosignature({ ...one, group: world.group, state })
  })

  test('no co-signature is left of one that has gone', async () => {
    await login()
    await untilCosigned(3)
    await handOn(world.authorities.slice(0, 2))
    await untilCosigned(2)
    expect((await cosigned()).map(({ index }) => index)).toEqual([1, 2])
  })
})

describe('other RA keys in the group document', () => {
  /** `ra1` goes, or stays beside the others; the RA signs with the last one. */
  async function changeKeys(kids: readonly string[], { stays = false, m = 1 } = {}) {
    const former = world.raSigner
    const made = await Promise.all(kids.map(async kid => ({ kid, key: await generateEs256() })))
    const keys = [...(stays ? [former] : []), ...made].map(({ kid, key }) => ({
      kid,
      key: key.publicKey.toBase64Url(),
    }))
    await publish(await world.nextRevision({ ra: { m, keys } }))
    const { kid, key } = made.at(-1) as (typeof made)[number]
    world.raKid = kid
    world.raKey = key
    return { former, made }
  }

  test('the state that the former key signed is asked for again, and authorities take it as the same one', async () => {
    const thief = world.makeCar()
    await world.ban(rps, thief)
    await login()
    await wholeIn(world.slot, 32)
    const before = world.authorities.map(({ leaves }) => leaves?.statement)
    await changeKeys(['ra2'])
    // What was made ahead asks nobody.
    nextSlot()
    nextSlot()
    expect(isGood(permitIn((await login()).permit))).toBe(true)
    await wholeIn(world.slot, 32)
    expect(await codeOf(login(thief))).toBe('BANNED')
    const shown = world.authorities.filter(({ leaves }, i) => leaves?.statement !== before[i])
    expect(shown.length).toBeGreaterThanOrEqual(world.group.t)
    for (const { leaves } of shown) {
      const state = await verifyLeaves({ statement: leaves?.statement as string, group: world.group })
      expect(state.number).toBe(world.rpa.number)
    }
  })

  test('a word of the former key that would hold for a minute more is not shown to anybody', async () => {
    const [thief, other] = [world.makeCar(), world.makeCar()]
    // So that nothing of the cover is made but what is asked for by a login.
    for (const authority of world.authorities) authority.behaviour = 'frozen'
    await world.ban(rps, thief)
    await until(() => world.logged.some(line => line.includes('not all permits of the cover for now')))
    for (const authority of world.authorities) authority.behaviour = 'honest'
    await login()
    await changeKeys(['ra2'])
    expect(isGood(permitIn((await login(other)).permit))).toBe(true)
  })

  test('after a restart the kept state of the former key is not gone by', async () => {
    const thief = world.makeCar()
    await world.ban(rps, thief)
    await login()
    await changeKeys(['ra2'])
    await rps.close()
    const [kept, asked] = [world.rpa.asked.tree, world.authorities.map(({ leaves }) => leaves?.statement)]
    rps = await world.startRps()
    nextSlot()
    expect(isGood(permitIn((await login()).permit))).toBe(true)
    expect(world.rpa.asked.tree).toBeGreaterThan(kept)
    expect(world.authorities.filter(({ leaves }, i) => leaves?.statement !== asked[i]).length).not.toBe(0)
    expect(await codeOf(login(thief))).toBe('BANNED')
  })

  test('an RA that goes on with the former key gets nobody a permit; what is held serves until its slot ends', async () => {
    await login()
    const { former } = await changeKeys(['ra2'])
    const { raKid, raKey } = world
    world.raKid = former.kid
    world.raKey = former.key
    await login()
    nextSlot()
    nextSlot()
    expect(await codeOf(login())).toBe('RETRY_LATER')
    world.raKid = raKid
    world.raKey = raKey
    world.clock.turn(60_000)
    expect(isGood(permitIn((await login()).permit))).toBe(true)
  })

  test('of several keys, two of which sign a ticket, each one speaks for the leaves by itself', async () => {
    const { former, made } = await changeKeys(['ra2', 'ra3'], { stays: true, m: 2 })
    expect([world.group.raKeys.m, world.group.raKeys.keys.size]).toEqual([2, 3])
    for (const { kid, key } of [former, ...made]) {
      world.raKid = kid
      world.raKey = key
      nextSlot()
      nextSlot()
      expect(isGood(permitIn((await login()).permit))).toBe(true)
    }
    // A key that no revision names: nobody's word.
    world.raKey = await generateEs256()
    nextSlot()
    nextSlot()
    expect(await codeOf(login())).toBe('RETRY_LATER')
  })
})
