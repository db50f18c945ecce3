import { generateEs256 } from '@milagro-ts/api/keys'
import { ticketHash, verifyPermitStatement, verifyTicket } from '@milagro-ts/api/statements'
import { utf8 } from '@milagro-ts/crypto/bytes'
import { IdCore } from '@milagro-ts/crypto/identity'
import { sha256 } from '@milagro-ts/crypto/sha256'
import { type FleetSchema, migrations } from '@milagro-ts/fleet/schema'
import { openDatabase } from '@milagro-ts/store/database'
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
  const idCoreOf = (text: string) => IdCore.fromBase64Url(text).bytes
  /** A car and the hash of the ticket that it was given. */
  const enrolled = async (vin: string) => {
    const { device } = await world.car(vin)
    return { idCore: idCoreOf(device.idCore), ticketHash: ticketHash(device.ticket) }
  }
  const alarms = async () => (await world.api.status({})).logs.alarms
  /** No more than a minute of fleet's clock later; how long a busy machine takes for it doesn't matter. */
  async function named(pattern: RegExp): Promise<string> {
    const find = async () => (await alarms()).find(alarm => pattern.test(alarm))
    for (let waited = 0; waited < 60_000; waited += 10_000) {
      world.time.advance(10_000)
      later()
      // A look under way is a few answers on the loopback away.
      for (let turn = 0; turn < 50; turn++) {
        const found = await find()
        if (found !== undefined) return found
        await new Promise(resolve => setImmediate(resolve))
      }
    }
    return expect
      .poll(find, { timeout: 20_000 })
      .toBeDefined()
      .then(async () => (await find()) as string)
  }
  /** Time goes on for everybody. */
  function later(): void {
    for (const authority of authorities) authority.now = Math.floor(world.time.now / 1000) + 120
  }
  const forgetFaults = () => world.store.atomic(connection => connection.run('DELETE FROM log_fault'))
  let honest: FakeAuthority['log'][]
  beforeAll(() => {
    for (const authority of authorities) authority.log = []
    later()
  })

  test('names a key that belongs to no vehicle, or to no ticket, within a minute, by one honest log', async () => {
    const [one, two] = authorities
    for (const vin of ['VIN-A', 'VIN-B', 'VIN-C']) {
      const { idCore, ticketHash } = await enrolled(vin)
      one.issue(idCore, ticketHash)
      two.issue(idCore, ticketHash)
    }
    expect(await run()).toMatchObject([
      { entries: 3, intact: true, unknown: [], faults: [] },
      { entries: 3, intact: true, unknown: [], faults: [] },
    ])
    expect(await alarms()).toEqual([])

    // `one` keeps it back; `two` is honest.
    two.issue(new Uint8Array(39))
    expect(await named(/no vehicle/)).toBe(
      `${(await run())[1]?.name} entry 4: a device key that belongs to no vehicle`,
    )
    const { idCore } = await enrolled('VIN-D')
    two.issue(idCore, new Uint8Array(32).fill(9))
    expect(await named(/ticket/)).toMatch(/entry 5: a device key on a ticket that was never handed out/)
    honest = [one.log, two.log].map(log => [...log])
  })

  test('says which log can’t be read, and goes on where it was', async () => {
    const [one] = authorities
    one.up = false
    expect((await run())[0]).toMatchObject({ entries: 3, intact: false, faults: [] })
    expect((await world.api.status({})).logs.unread).toHaveLength(1)
    one.up = true
    await world.restart()
    expect(await run()).toMatchObject([
      { entries: 3, intact: true },
      { entries: 5, unknown: [{}, {}] },
    ])
  })

  test('names the log that lacks the key of a vehicle in use', async () => {
    const { idCore, ticketHash } = await enrolled('VIN-E')
    authorities[1].issue(idCore, ticketHash)
    await world.restart()
    expect((await world.api.reconcile({})).lacking).toEqual([])
    // It logs in, so that both of this group of two have issued.
    await world.store.db
      .updateTable('identity')
      .set({ seen_at: Math.floor(world.time.now / 1000) })
      .where('id_core', '=', idCore)
      .execute()
    const { name } = world.group.authorities[0] as { name: string }
    expect(await named(/VIN-E/)).toBe(`the key of VIN-E is in 1 logs of 2; missing at ${name}`)
    authorities[0].issue(idCore, ticketHash)
    expect((await world.api.reconcile({})).lacking).toEqual([])
    honest = authorities.map(({ log }) => [...log])
  })

  test('says who leaves', async () => {
    const { name } = world.group.authorities[0] as { name: string }
    authorities[0].leavesAt = 1_800_000_000
    await run()
    expect((await world.api.status({})).logs.leaving).toEqual([{ name, leavesAt: 1_800_000_000 }])
    authorities[0].leavesAt = undefined
    await run()
    expect((await world.api.status({})).logs.leaving).toEqual([])
  })

  test('keeps the signed heads of a log that gets shorter, or is another one', async () => {
    const [one, two] = authorities
    later()
    one.now += 60
    one.log = one.log.slice(0, 2)
    two.log = two.log.map((entry, i) => (i === 1 ? { ...entry, at: entry.at + 1 } : entry))
    const found = await run()
    expect(found.map(({ faults }) => faults.map(({ fault, detail }) => [fault, detail]))).toEqual([
      [['shorter', 'it has 2 entries, it had 4']],
      [['split', 'two histories of 6 entries']],
    ])
    expect(found.map(({ faults }) => faults[0]?.heads.length)).toEqual([2, 2])
    // It is no excuse to have been right again.
    one.log = [...(honest[0] ?? [])]
    two.log = [...(honest[1] ?? [])]
    expect((await run()).map(({ intact }) => intact)).toEqual([false, false])
  })

  test('takes entries only under the head, link by link', async () => {
    const [one, two] = authorities
    await forgetFaults()
    for (const vin of ['VIN-F', 'VIN-G', 'VIN-H']) {
      const { idCore, ticketHash } = await enrolled(vin)
      one.issue(idCore, ticketHash)
      two.issue(idCore, ticketHash)
    }
    const [log, other] = [one.log, two.log]
    one.log = log.map((entry, i) => (i === 5 ? { ...entry, previous: entry.ticketHash } : entry))
    two.log = other.filter((_, i) => i !== 7)
    expect((await run()).map(({ faults }) => faults.map(({ detail }) => detail))).toEqual([
      ['the chain breaks at entry 6'],
      ['entry 8 is missing'],
    ])
    one.log = log
    two.log = other
    expect((await run()).map(({ entries }) => entries)).toEqual([7, 9])
  })

  test('asks again for a proof that was damaged on the way, and accuses nobody for one', async () => {
    const [one] = authorities
    await forgetFaults()
    const { idCore } = await enrolled('VIN-Z')
    // More than a page (of two here): what is read before the head takes a proof.
    for (let i = 0; i < 4; i++)
      one.issue(idCore, new Uint8Array(32).fill(i), { purpose: 'agree', kind: 'slot' })
    later()
    one.onProof = proof => [...proof, sha256(utf8('another'))]
    expect((await run())[0]).toMatchObject({ faults: [], trouble: expect.stringMatching(/asked again/) })
    one.onProof = proof => proof
    expect((await run())[0]).toMatchObject({ intact: true, faults: [], entries: one.log.length })
    // One that stays damaged is named: not as a split, since its two heads show none.
    for (let i = 0; i < 4; i++)
      one.issue(idCore, new Uint8Array(32).fill(i), { purpose: 'agree', kind: 'slot' })
    later()
    one.onProof = proof => [...proof, sha256(utf8('another'))]
    await run()
    const detail = expect.stringMatching(/^no proof joins its/)
    expect((await run())[0]).toMatchObject({ faults: [{ fault: 'broken', detail }] })
    one.onProof = proof => proof
    await run()
    await forgetFaults()
  })

  test('is kept from the other logs by none that is slow and long', async () => {
    const [one, two] = authorities
    await forgetFaults()
    const { idCore } = await enrolled('VIN-I')
    const { idCore: other, ticketHash } = await enrolled('VIN-J')
    const start = one.log.length
    // In order, of an identity of ours: nothing is wrong with it but that it takes two minutes.
    for (let i = 0; i < 60; i++)
      one.issue(idCore, new Uint8Array(32).fill(i), { purpose: 'agree', kind: 'slot' })
    later()
    const before = world.time.now
    let pages = 0
    one.onPage = () => {
      world.time.now += 4_000
      // Once `two` has been read in this look.
      if (++pages === 3) two.issue(other, ticketHash)
    }
    const [slow] = await run()
    expect(slow).toMatchObject({ intact: false, faults: [], trouble: expect.stringMatching(/in time/) })
    expect(slow?.entries).toBeGreaterThan(start)
    expect((await run())[1]).toMatchObject({ intact: true, entries: two.log.length })
    expect(pages).toBeGreaterThan(3)
    expect(world.time.now - before).toBeLessThan(40_000)
    one.onPage = () => {}
    expect((await run())[0]).toMatchObject({ intact: true, entries: start + 60 })
  })

  test('hears from another member of a second history', async () => {
    const [one, two] = authorities
    await forgetFaults()
    const { name } = world.group.authorities[1] as { name: string }
    const hidden = two.log.slice(0, -1).concat({ ...two.log.at(-1)!, at: 1 })
    one.seen = [{ authority: name, head: await two.head(hidden) }]
    expect(await named(/split/)).toBe(`the log of ${name} is split: another member has seen another log`)
    // What that authority hasn't signed says nothing about it.
    await forgetFaults()
    one.seen = [{ authority: name, head: await one.head(hidden) }]
    await run()
    expect(await alarms()).not.toContainEqual(expect.stringMatching(/split/))
  })

  test('acknowledged by an operator, with a reason, a finding is no alarm; with other facts it is another', async () => {
    const [, two] = authorities
    await forgetFaults()
    later()
    const found = async () => (await run())[1]!.unknown
    const [first, second] = await found()
    expect(first?.finding).toMatch(/^[0-9a-f]{24}$/)
    const before = await alarms()
    const reason = 'a test of the authority’s operator'
    const acknowledge = (findings: string[]) => world.api.acknowledge({ body: { findings, reason } })
    expect(await refusal(acknowledge(['5c1e09d27a4b8f6033b1c7e2']))).toBe('NOT_FOUND findings')
    // All or none.
    expect(await refusal(acknowledge([first!.finding, 'e07b42a95d183c6f901f6ab4']))).toBe(
      'NOT_FOUND findings',
    )
    expect((await found()).map(({ acknowledged }) => acknowledged)).toEqual([undefined, undefined])

    await acknowledge([first!.finding])
    const at = Math.floor(world.time.now / 1000)
    const { actor } = (await world.api.audit({ query: {} })).entries.find(
      ({ action, outcome }) => action === 'acknowledge' && outcome === 'done',
    )!
    expect(actor).toMatch(/^operator:/)
    expect((await found())[0]?.acknowledged).toEqual({ by: actor, at, reason })
    expect(await alarms()).toEqual(before.slice(1))
    expect(await refusal(acknowledge([first!.finding]))).toBe('CONFLICT')
    await world.restart()
    expect(await alarms()).toEqual(before.slice(1))
    await acknowledge([second!.finding])
    expect(await alarms()).toEqual([])

    // The same key on another entry.
    two.issue(new Uint8Array(39))
    expect(await named(/no vehicle/)).toMatch(/entry [0-9]+: a device key that belongs to no vehicle/)
    const third = (await found()).at(-1)!
    expect(third.idCoreHash).toBe(first!.idCoreHash)
    await acknowledge([third.finding])

    // A log's fault, and the same again with another history.
    two.log = two.log.slice(0, -2)
    const fault = async () => (await run())[1]!.faults
    expect(await named(/shorter/)).toContain('shorter')
    const [shorter] = await fault()
    await acknowledge([shorter!.finding])
    later()
    expect((await fault()).map(({ acknowledged }) => acknowledged?.reason)).toEqual([reason])
    expect(await alarms()).toEqual([])
    two.log = two.log.slice(0, -1)
    world.time.advance(60_000)
    later()
    const again = await fault()
    expect(again.map(({ acknowledged }) => acknowledged === undefined)).toEqual([false, true])
    expect(again[1]?.finding).not.toBe(shorter!.finding)
    // Until somebody has looked into it, it is the one.
    two.log = two.log.slice(0, -1)
    world.time.advance(60_000)
    later()
    expect(await fault()).toHaveLength(2)
  })

  test('a device asks for its slot keys without a ticket; one of no vehicle is named', async () => {
    const slotKey = { purpose: 'agree', kind: 'slot' } as const
    const { idCore } = await enrolled('VIN-K')
    const before = (await alarms()).length
    authorities[0].issue(idCore, undefined, slotKey)
    await run()
    expect(await alarms()).toHaveLength(before)
    authorities[0].issue(new Uint8Array(39).fill(1), undefined, slotKey)
    expect(await named(/agree key that belongs to no vehicle/)).toContain('entry')
  })
})

test('an older build’s head is checked when its log is read anew', async () => {
  const store = await openDatabase<FleetSchema>({ file: ':memory:', migrations: migrations.slice(0, 3) })
  const signKeys = world.group.authorities.map(({ signKey }) => signKey.toBase64Url())
  try {
    const document = JSON.stringify(world.group.document)
    await store.db.insertInto('revision').values({ number: 1, document }).execute()
    await store.atomic(connection =>
      connection.run('INSERT INTO log_head VALUES (2, 3, ?)', [new Uint8Array(32).fill(7)]),
    )
    await store.db.transaction().execute(step => migrations[3]!.up(step as never))
    const [row] = await store.atomic(connection => connection.all('SELECT * FROM followed_log'))
    expect(row).toMatchObject({ sign_key: signKeys[1], size: 0, former_number: 3 })
  } finally {
    await store.close()
  }
})
