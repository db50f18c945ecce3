import { generateEs256 } from '@milagro-ts/api/keys'
import { verifyPermitStatement, verifyTicket } from '@milagro-ts/api/statements'
import { IdCore } from '@milagro-ts/crypto/identity'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { FakeAuthority } from './fake-authority.js'
import { approved, refusal, World } from './fleet-world.js'

let world: World
let authorities: [FakeAuthority, FakeAuthority]
beforeAll(async () => {
  authorities = [await FakeAuthority.listen(), await FakeAuthority.listen()]
  world = await World.start(
    {},
    authorities.map(({ url }) => url),
  )
  authorities.forEach((authority, i) => {
    authority.group = world.group
    authority.signKey = world.members.authorities[i]!.signKey
  })
})
afterAll(async () => {
  await world.stop()
  await Promise.all(authorities.map(authority => authority.close()))
})

const rotate = () => world.api.rotateKey({ body: {} })
const finish = () => world.api.finishKey({ body: {} })
const revisions = () => authorities.map(({ group }) => group.revision)
function acceptAll(accepts = true) {
  for (const authority of authorities) authority.accepts = accepts
}

describe('changing the RA key', () => {
  afterEach(() => acceptAll(false))

  test('goes by the authorities’ operators; tickets and waiting events are signed anew', async () => {
    const { id, code } = await world.api.addVehicle({ body: { instance: 'VIN-1', attributes: {} } })
    const { body } = await world.registration({ instance: 'VIN-1', attributes: {}, code: code!.code })
    const before = approved(await world.asRps().verify({ body }))

    const started = await rotate()
    expect(started).toMatchObject({ state: 'open', revision: 2, needed: 2, rpsDelivered: false })
    expect(started.authorities.map(({ signed, trouble }) => [signed, trouble])).toEqual([
      [false, 'NOT_APPROVED'],
      [false, 'NOT_APPROVED'],
    ])
    expect(await refusal(rotate())).toBe('CONFLICT')

    // One of two accepts: not enough in a group of both. The old key signs on.
    authorities[0].accepts = true
    expect(await finish()).toMatchObject({ state: 'open' })
    expect((await world.api.status({})).raKeys).toEqual([started.oldKid])
    expect(approved(await world.asRps().verify({ body })).ticket).toEqual(before.ticket)

    // An event waits while the key changes under it.
    world.rps.up = false
    const ban = await world.api.ban({ body: { vehicle: id, reason: 'x' } })
    authorities[1].accepts = true
    const signed = await finish()
    expect(signed).toMatchObject({ state: 'signed', rpsDelivered: false })
    expect(signed.authorities.every(authority => authority.signed && authority.delivered)).toBe(true)
    expect(await refusal(world.api.abandonKey({ body: {} }))).toBe('CONFLICT')
    world.rps.up = true
    expect(await finish()).toMatchObject({ state: 'done', rpsDelivered: true, newKid: started.newKid })
    expect(await world.api.status({})).toMatchObject({ revision: 2, raKeys: [started.newKid] })
    world.time.advance(10_000)
    await world.rps.until(1)

    await world.api.unban({ params: { id: String(ban.id) } })
    const after = approved(await world.asRps().verify({ body }))
    expect(after.ticket).not.toEqual(before.ticket)
    const { group } = world.rps
    expect(group.revision).toBe(2)
    const ticket = await verifyTicket({ ticket: after.ticket, group, now: world.time.now })
    expect(ticket.idCore.mpinId).toBe(before.idCore)
    const { statement } = await world.permit(before.idCore)
    await verifyPermitStatement({ statement, group, now: world.time.now })

    // The old key is gone, and the chain is kept.
    const held = await world.store.db.selectFrom('ra_key').select('kid').execute()
    expect(held).toEqual([{ kid: started.newKid }])
    await world.restart()
    expect(await world.api.status({})).toMatchObject({ revision: 2, raKeys: [started.newKid] })
  })

  test('reaches an authority that signed and was then away, by itself', async () => {
    const before = revisions()[0]!
    acceptAll()
    authorities[1].reachable = false
    const started = await rotate()
    expect(started).toMatchObject({ state: 'signed', needed: 2 })
    expect(started.authorities.map(({ signed, delivered, trouble }) => [signed, delivered, trouble])).toEqual(
      [
        [true, true, undefined],
        [true, false, 'unreachable'],
      ],
    )
    // Fewer than t have it: we don't sign with the new key yet.
    expect((await world.api.status({})).raKeys).toEqual([started.oldKid])
    authorities[1].reachable = true
    world.time.advance(60_000)
    while ((await world.api.status({})).revision === before)
      await new Promise(resolve => setImmediate(resolve))
    expect(revisions()).toEqual([before + 1, before + 1])
    expect((await world.api.status({})).raKeys).toEqual([started.newKid])
    expect(await finish()).toMatchObject({ state: 'done' })
  })

  test('takes no signature by another key, can be dropped, and begun again', async () => {
    const before = revisions()[0]!
    acceptAll()
    const keys = authorities.map(({ signKey }) => signKey)
    for (const authority of authorities) authority.signKey = await generateEs256()
    const started = await rotate()
    expect(started.authorities.map(({ signed }) => signed)).toEqual([false, false])
    expect(started.authorities[1]?.trouble).toBe('its signature does not verify')
    expect(revisions()).toEqual([before, before])

    await world.api.abandonKey({ body: {} })
    for (const [i, authority] of authorities.entries()) authority.signKey = keys[i]!
    expect(await refusal(finish())).toBe('NOT_FOUND')
    expect(await refusal(world.api.abandonKey({ body: {} }))).toBe('NOT_FOUND')
    const again = await rotate()
    expect(again).toMatchObject({ state: 'done', oldKid: started.oldKid })
    expect(again.newKid).not.toBe(started.newKid)
  })

  test('that was under way goes on after a restart', async () => {
    const started = await rotate()
    await world.restart()
    acceptAll()
    expect(await finish()).toMatchObject({ state: 'done', newKid: started.newKid })
    const { device } = await world.car('VIN-NEW-KEY')
    await verifyTicket({ ticket: device.ticket, group: world.rps.group, now: world.time.now })
  })
})

describe('reconciliation', () => {
  const run = async () => (await world.api.reconcile({})).authorities
  const enrolled = async (vin: string) => IdCore.fromBase64Url((await world.car(vin)).device.idCore).bytes

  test('names every key that no vehicle asked for, logs that change, and authorities that can’t be asked', async () => {
    const [one, two] = authorities
    for (const vin of ['VIN-A', 'VIN-B', 'VIN-C']) {
      const idCore = await enrolled(vin)
      one.issue(idCore)
      two.issue(idCore)
    }
    expect(await run()).toMatchObject([
      { entries: 3, intact: true, unknown: [] },
      { entries: 3, intact: true, unknown: [] },
    ])

    two.issue(new Uint8Array(39))
    one.up = false
    expect(await run()).toMatchObject([
      { entries: 0, intact: false },
      { entries: 4, intact: true, unknown: [{ number: 4, purpose: 'device' }] },
    ])
    one.up = true

    const honest = one.log
    one.log = honest.slice(0, 2)
    two.log.splice(1, 1)
    expect((await run()).map(({ trouble }) => trouble)).toEqual([
      'the log ends at 2; it had 3 entries',
      'entry 2 is missing',
    ])

    one.log = []
    for (const vin of ['VIN-D', 'VIN-E', 'VIN-F', 'VIN-G']) one.issue(await enrolled(vin))
    two.log = honest.map(entry => (entry.number === 3 ? { ...entry, previous: entry.ticketHash } : entry))
    expect((await run()).map(({ trouble }) => trouble)).toEqual([
      'entry 3 is not the one that stood there before',
      'the chain breaks at entry 3',
    ])
  })
})
