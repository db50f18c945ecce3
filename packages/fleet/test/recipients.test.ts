import { documentHash, type Group } from '@milagro-ts/api/group'
import type { GroupDocument } from '@milagro-ts/api/group-document'
import { generateEs256, generateHpkeKey } from '@milagro-ts/api/keys'
import { signAbandonment } from '@milagro-ts/api/statements'
import { systemRandom } from '@milagro-ts/api/system'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { type FleetSchema, migrations } from '@milagro-ts/fleet/schema'
import { openDatabase } from '@milagro-ts/store/database'
import { sql } from '@milagro-ts/store/kysely'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { keysOf, nextRevision, signedBy } from '../../api/test/group-fixture.js'
import { FakeAuthority } from './fake-authority.js'
import { refusal, until, World } from './fleet-world.js'

let world: World
let authorities: FakeAuthority[]
async function start(n: number, t = n): Promise<void> {
  authorities = await Promise.all(Array.from({ length: n }, () => FakeAuthority.listen()))
  const urls = authorities.map(({ url }) => url)
  world = await World.start({}, urls, t)
  authorities.forEach((authority, i) => {
    authority.group = world.group
    authority.signKey = world.members.authorities[i]!.signKey
  })
}
async function stop(): Promise<void> {
  await world.stop()
  await Promise.all(authorities.map(authority => authority.close()))
}

type Recipient = GroupDocument['recipients'][number]

beforeEach(() => accept(false))
function accept(accepts = true): void {
  for (const authority of authorities) authority.accepts = accepts
}
const listed = () => world.api.listRecipients({})
const finish = () => world.api.finishRecipients({ body: {} })
const abandon = (...abandonments: string[]) =>
  world.api.abandonRecipients({ body: abandonments.length === 0 ? {} : { abandonments } })
const changeTo = async (recipients: readonly Recipient[]) =>
  world.api.changeRecipients({
    body: { revision: (await listed()).revision, recipients: [...recipients] },
  })
const names = (recipients: readonly Recipient[]) => recipients.map(({ name }) => name)
const newest = () => world.rps.group.document.recipients

async function server(name: string, changes: Partial<Recipient> = {}): Promise<Recipient> {
  return {
    name,
    kind: 2,
    generation: 1,
    purposes: ['agree'],
    hpkeKey: toBase64Url((await generateHpkeKey(systemRandom)).publicKey),
    requestKey: (await generateEs256()).publicKey.toBase64Url(),
    ...changes,
  }
}
const without = async (name: string) => (await listed()).recipients.filter(one => one.name !== name)
const withOne = async (one: Recipient) => [...(await without(one.name)), one]

/** A revision that the members make without fleet, as in a ceremony. */
const nextBy = (group: Group, change: (document: GroupDocument) => unknown) =>
  signedBy(nextRevision(group, change), keysOf(world.members))
async function madeElsewhere(document: GroupDocument): Promise<void> {
  world.rps.group = await world.rps.group.verifyNext(document)
  for (const authority of authorities) authority.group = world.rps.group
}
const trail = async () => (await world.api.audit({ query: {} })).entries

describe('two authorities, both needed', () => {
  beforeAll(() => start(2))
  afterAll(stop)

  describe('other recipients', () => {
    test('go by the authorities’ operators; the audit trail says who', async () => {
      const gateway = await server('gw.example')
      const before = await listed()
      const started = await changeTo([...before.recipients, gateway])
      expect(started).toMatchObject({ state: 'open', revision: 2, needed: 2, rpsDelivered: false })
      expect(started.changes).toMatchObject([{ name: 'gw.example', change: 'added' }])
      expect(started.changes[0]?.says).toContain(gateway.requestKey)
      expect(started.authorities.map(({ trouble }) => trouble)).toEqual(['NOT_APPROVED', 'NOT_APPROVED'])
      const { documentHash: hash } = started
      expect((await listed()).underWay).toEqual({
        subject: 'recipients',
        says: 'gw.example added',
        state: 'open',
        revision: 2,
        documentHash: hash,
      })

      authorities[0]!.accepts = true
      expect(await finish()).toMatchObject({ state: 'open', changes: started.changes })
      expect(names(newest())).not.toContain('gw.example')
      authorities[1]!.accepts = true
      expect(await finish()).toMatchObject({ state: 'done', rpsDelivered: true, changes: started.changes })
      expect(await listed()).toEqual({ revision: 2, recipients: [...before.recipients, gateway] })
      expect(newest()).toEqual([...before.recipients, gateway])
      expect(authorities.map(({ group }) => group.revision)).toEqual([2, 2])
      const { raKeys } = world.group
      expect([...world.rps.group.raKeys.keys.keys()]).toEqual([...raKeys.keys.keys()])

      expect(
        (await trail())
          .filter(({ action }) => /recipients/i.test(action))
          .map(({ actor, action, subject, outcome }) => [actor, action, subject, outcome]),
      ).toEqual([
        ['operator:admin', 'finish recipients', 'gw.example added', 'done'],
        ['operator:admin', 'finish recipients', 'gw.example added', 'open'],
        ['operator:admin', 'change recipients', 'gw.example added', 'started'],
      ])
    })

    test('are for operators alone', async () => {
      const { revision, recipients } = await listed()
      const nobody = world.apiWith('x')
      for (const asked of [
        nobody.listRecipients({}),
        nobody.changeRecipients({ body: { revision, recipients } }),
        nobody.finishRecipients({ body: {} }),
        nobody.abandonRecipients({ body: {} }),
      ])
        expect(await refusal(asked)).toBe('UNAUTHENTICATED')
    })

    test.each<[string, () => Promise<readonly Recipient[]>, string]>([
      ['that are in force already', async () => [...(await listed()).recipients].reverse(), 'CONFLICT'],
      ['without one of pin', () => without('rps'), 'CONFLICT'],
      [
        'with another one of pin',
        async () =>
          (await listed()).recipients.map(one => (one.name === 'rps' ? { ...one, name: 'rps-2' } : one)),
        'CONFLICT',
      ],
      ['with two of pin', async () => withOne(await server('gw.example', { purposes: ['pin'] })), 'CONFLICT'],
      [
        'with other keys of the one of pin',
        async () => {
          const { requestKey } = await server('x')
          return (await listed()).recipients.map(one => (one.name === 'rps' ? { ...one, requestKey } : one))
        },
        'CONFLICT',
      ],
      [
        'of a purpose that no server has keys of',
        async () => withOne(await server('x', { purposes: ['sign'] })),
        'MALFORMED recipients.purposes',
      ],
      [
        'two of whom have one request key',
        async () => withOne({ ...(await server('x')), requestKey: newest()[0]!.requestKey }),
        'MALFORMED recipients.requestKey',
      ],
      [
        'with a name twice',
        async () => [...(await listed()).recipients, await server('rps')],
        'MALFORMED recipients.name',
      ],
      [
        'with a request key that is no point',
        async () =>
          withOne({
            ...(await server('x')),
            requestKey: toBase64Url(Uint8Array.of(2, ...new Uint8Array(32).fill(255))),
          }),
        'MALFORMED recipients.x.requestKey',
      ],
    ])('%s are refused, and nothing is under way', async (_, recipients, code) => {
      accept()
      expect(await refusal(changeTo(await recipients()))).toBe(code)
      expect((await listed()).underWay).toBeUndefined()
      expect(authorities.map(({ group }) => group.revision)).toEqual([2, 2])
    })

    test('on a list of before are refused', async () => {
      const { recipients } = await listed()
      const body = { revision: 1, recipients: [...recipients, await server('late')] }
      expect(await refusal(world.api.changeRecipients({ body }))).toBe('CONFLICT')
    })

    test('never bring an old generation back, of a name that was removed either', async () => {
      accept()
      const raised = await server('gw.example', { generation: 3 })
      expect((await changeTo(await withOne(raised))).changes).toMatchObject([
        { change: 're-keyed', says: expect.stringContaining('generation 1 → 3') },
      ])
      const lower = await server('gw.example', { generation: 2 })
      expect(await refusal(changeTo(await withOne(lower)))).toBe('CONFLICT')
      expect(await changeTo(await without('gw.example'))).toMatchObject({
        state: 'done',
        changes: [{ name: 'gw.example', change: 'removed' }],
      })
      expect(await refusal(changeTo(await withOne(lower)))).toBe('CONFLICT')
      expect(await changeTo(await withOne(await server('gw.example', { generation: 3 })))).toMatchObject({
        state: 'done',
      })
    })

    test('one revision is under way at a time, whatever it changes', async () => {
      const started = await changeTo(await withOne(await server('one')))
      expect(await refusal(changeTo(await withOne(await server('two'))))).toBe('CONFLICT')
      expect(await refusal(world.api.rotateKey({ body: {} }))).toBe('CONFLICT')
      expect(await refusal(world.api.finishKey({ body: {} }))).toBe('CONFLICT')
      expect(await refusal(world.api.abandonKey({ body: {} }))).toBe('CONFLICT')
      expect((await listed()).underWay?.documentHash).toBe(started.documentHash)
      await abandon()
      expect((await listed()).underWay).toBeUndefined()
      expect(await refusal(finish())).toBe('NOT_FOUND')
      expect(await refusal(abandon())).toBe('NOT_FOUND')

      const { newKid } = await world.api.rotateKey({ body: {} })
      expect((await listed()).underWay).toMatchObject({ subject: 'key', says: newKid })
      expect(await refusal(changeTo(await withOne(await server('two'))))).toBe('CONFLICT')
      expect(await refusal(finish())).toBe('CONFLICT')
      expect(await refusal(abandon())).toBe('CONFLICT')
      accept()
      expect(await world.api.finishKey({ body: {} })).toMatchObject({ state: 'done', newKid })
      // With the new key.
      expect(await changeTo(await withOne(await server('two')))).toMatchObject({ state: 'done' })
    })

    test('that one authority has signed are dropped when the other has abandoned them', async () => {
      authorities[0]!.accepts = true
      const { documentHash: hash, revision } = await changeTo(await withOne(await server('three')))
      expect(await refusal(abandon())).toBe('CONFLICT')
      const { suite } = world.group.document
      const payload = { suite, groupId: toBase64Url(world.group.groupId), revision, documentHash: hash }
      await abandon(await signAbandonment(payload, { key: authorities[1]!.signKey, kid: 'authority-2' }))
      expect(names((await listed()).recipients)).not.toContain('three')
      authorities[0]!.release()
    })
  })

  describe('a crash of fleet loses nothing', () => {
    test('between start and finish', async () => {
      const started = await changeTo(await withOne(await server('four')))
      await world.restart()
      expect((await listed()).underWay?.documentHash).toBe(started.documentHash)
      accept()
      expect(await finish()).toMatchObject({ state: 'done', documentHash: started.documentHash })
      expect(names(newest())).toContain('four')
    })

    test('with the authorities told, and the RPS not', async () => {
      accept()
      world.rps.up = false
      const started = await changeTo(await withOne(await server('told')))
      expect(started).toMatchObject({ state: 'signed', rpsDelivered: false })
      expect((await listed()).revision).toBe(started.revision)
      world.rps.up = true
      await world.restart()
      await until(() => names(newest()).includes('told'))
      expect(await finish()).toMatchObject({ state: 'done', documentHash: started.documentHash })
    })

    test('with the signatures there, and nobody told', async () => {
      accept()
      for (const authority of authorities) authority.reachable = false
      const started = await changeTo(await withOne(await server('five')))
      expect(started).toMatchObject({ state: 'signed', rpsDelivered: false })
      await world.restart()
      for (const authority of authorities) authority.reachable = true
      world.time.advance(60_000)
      await until(() => names(newest()).includes('five'))
      expect(await finish()).toMatchObject({ state: 'done', documentHash: started.documentHash })
    })
  })

  describe('when the group has gone on without fleet', () => {
    test('one whose number a ceremony’s document has is dropped, and another can begin', async () => {
      const started = await changeTo(await withOne(await server('six')))
      await madeElsewhere(await nextBy(world.rps.group, next => (next.policy.grace = 77)))
      accept()
      expect(await refusal(finish())).toBe('NOT_FOUND')
      expect((await trail()).find(({ outcome }) => outcome === 'overtaken')).toMatchObject({
        actor: 'clock',
        subject: 'six added',
      })
      const again = await changeTo(await withOne(await server('six')))
      expect(again).toMatchObject({ state: 'done', revision: started.revision + 1 })
      expect(world.rps.group.policy.grace).toBe(77)
    })

    test('one that came into force, and was followed by another, is done', async () => {
      accept()
      for (const authority of authorities) authority.reachable = false
      const { newKid, oldKid } = await world.api.rotateKey({ body: {} })
      const row = await world.store.db
        .selectFrom('proposed_revision')
        .selectAll()
        .orderBy('id', 'desc')
        .executeTakeFirstOrThrow()
      await madeElsewhere({ ...JSON.parse(row.document), signatures: JSON.parse(row.signatures) })
      await madeElsewhere(await nextBy(world.rps.group, next => (next.policy.grace = 78)))
      for (const authority of authorities) authority.reachable = true
      expect(await world.api.finishKey({ body: {} })).toMatchObject({ state: 'done', newKid })
      const held = await world.store.db.selectFrom('ra_key').select('kid').execute()
      expect(held).toEqual([{ kid: newKid }])
      expect(held).not.toContainEqual({ kid: oldKid })
      expect(await changeTo(await withOne(await server('seven')))).toMatchObject({ state: 'done' })
    })
  })
})

describe('three authorities, any two of whom are enough', () => {
  beforeAll(() => start(3, 2))
  afterAll(stop)

  test('one that was away for two revisions is brought both, in order', async () => {
    const [, , away] = authorities as [FakeAuthority, FakeAuthority, FakeAuthority]
    accept()
    away.up = false
    expect(await changeTo(await withOne(await server('one')))).toMatchObject({ state: 'done', revision: 2 })
    const missed = world.rps.group.document
    const newest = await changeTo(await withOne(await server('two')))
    expect(newest).toMatchObject({ state: 'done', revision: 3 })
    expect(newest.authorities[2]).toMatchObject({ delivered: false, trouble: 'unreachable' })

    away.up = true
    away.refuses = 2
    expect((await finish()).authorities[2]).toMatchObject({
      delivered: false,
      trouble: `NOT_APPROVED for revision 2, which it lacks: ${toBase64Url(documentHash(missed))}`,
    })
    away.refuses = undefined
    world.time.advance(60_000)
    await until(() => away.group.revision === 3)
    expect((await finish()).authorities.map(({ delivered }) => delivered)).toEqual([true, true, true])
  })

  test('one that lacks a revision is brought it before it signs the next', async () => {
    const [, other, away] = authorities as [FakeAuthority, FakeAuthority, FakeAuthority]
    accept()
    away.up = false
    expect(await changeTo(await withOne(await server('three')))).toMatchObject({ state: 'done' })
    away.up = true
    other.up = false
    expect(await changeTo(await withOne(await server('four')))).toMatchObject({ state: 'done', revision: 5 })
    expect(away.group.revision).toBe(5)
    other.up = true
    world.time.advance(60_000)
    await until(() => other.group.revision === 5)
  })
})

test('an older build’s change of key goes on', async () => {
  const store = await openDatabase<FleetSchema>({ file: ':memory:', migrations: migrations.slice(0, -1) })
  try {
    const rows = [
      { document: '{"a":1}', state: 'abandoned' },
      { document: '{"b":2}', state: 'signed' },
    ]
    for (const { document, state } of rows)
      await sql`INSERT INTO rotation (old_kid, new_kid, document, statement, signatures, state, delivered)
        VALUES ('ra-1', 'ra-2', ${document}, 's', '[]', ${state}, '[1]')`.execute(store.db)
    await store.db.transaction().execute(step => migrations.at(-1)!.up(step as never))
    const kept = await store.db.selectFrom('proposed_revision').selectAll().orderBy('id').execute()
    expect(kept).toEqual(
      rows.map((row, i) => ({
        ...row,
        ...{ id: i + 1, subject: 'key', says: 'ra-2', old_kid: 'ra-1', new_kid: 'ra-2' },
        ...{ statement: 's', signatures: '[]', delivered: '[1]' },
      })),
    )
    // The next has its own number, and there is room for one.
    const open = { ...kept[1]!, subject: 'recipients' as const, old_kid: null, new_kid: null }
    const insert = () =>
      store.db
        .insertInto('proposed_revision')
        .values({ ...open, id: undefined })
        .execute()
    await expect(insert()).rejects.toThrow(/UNIQUE/)
    await store.db.updateTable('proposed_revision').set({ state: 'done' }).execute()
    await insert()
    expect(await store.db.selectFrom('proposed_revision').select('id').execute()).toHaveLength(3)
  } finally {
    await store.close()
  }
})
