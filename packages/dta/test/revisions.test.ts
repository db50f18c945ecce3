import { type CeremonyProposal, type CeremonyRecord, ceremonyHash } from '@milagro-ts/api/ceremony'
import { documentHash, signDocument } from '@milagro-ts/api/group'
import type { GroupDocument } from '@milagro-ts/api/group-document'
import { type Es256PrivateKey, generateEs256 } from '@milagro-ts/api/keys'
import { signAbandonment, signRevisionStatement } from '@milagro-ts/api/statements'
import { systemRandom } from '@milagro-ts/api/system'
import { fromUtf8, toBase64Url } from '@milagro-ts/crypto/bytes'
import { SUITE } from '@milagro-ts/crypto/suite'
import { authorityKeys } from '@milagro-ts/dta/authority-keys'
import { RecordSeal } from '@milagro-ts/dta/record-seal'
import { afterAll, beforeAll, expect, test } from 'vitest'
import {
  acceptAll,
  clientOf,
  codeOf,
  type Founded,
  foundWorld,
  MIDDAY_SLOT,
  makeCar,
  PASSPHRASE,
  type Running,
  restart,
  type Server,
  ticketFor,
} from './world.js'

let world: Founded
/** The revision in force, as this file drives it. */
let current: GroupDocument
/** The RA key in force. */
let ra: { key: Es256PrivateKey; kid: string }
beforeAll(async () => {
  world = await foundWorld({ n: 2 })
  current = world.group.document
  ra = { key: world.ra, kid: 'ra1' }
})
afterAll(() => world.close())

const first = (): Running => world.authorities[0] as Running
const hashOf = (document: GroupDocument) => toBase64Url(documentHash(document))

/** The next revision with these changes, unsigned. */
function next(changes: Partial<GroupDocument> = {}): GroupDocument {
  const { groupId } = world
  const follows = { revision: current.revision + 1, previous: hashOf(current), groupId }
  return { ...structuredClone(current), ...follows, signatures: [], ...changes }
}

function statementOf(document: GroupDocument, signer = ra): Promise<string> {
  const { revision } = document
  const iat = Math.floor(world.clock.now / 1000)
  const payload = {
    suite: SUITE,
    groupId: world.groupId,
    revision,
    documentHash: hashOf(document),
    iat,
  } as const
  return signRevisionStatement(payload, signer)
}

async function propose(document: GroupDocument, at = first(), statement?: string) {
  const body = { document, statement: statement ?? (await statementOf(document)) }
  return at.client.proposeRevision({ params: { groupId: world.groupId }, body })
}
const conclude = (document: GroupDocument, at = first()) =>
  at.client.concludeRevision({ params: { groupId: world.groupId }, body: { document } })

async function takeIntoForce(document: GroupDocument): Promise<void> {
  await acceptAll(world, hashOf(document))
  const signatures = []
  for (const at of world.authorities) signatures.push(await propose(document, at))
  for (const at of world.authorities) {
    expect(await conclude({ ...document, signatures }, at)).toEqual({ revision: document.revision })
  }
  current = { ...document, signatures }
}

test('a revision in force ends the ceremonies from before, and what they have left', async () => {
  const proposal: CeremonyProposal = {
    suite: SUITE,
    v: 1,
    kind: 'refresh',
    groupId: world.groupId,
    previous: hashOf(current),
    nonce: toBase64Url(systemRandom(32)),
  }
  const hash = ceremonyHash(proposal)
  const params = { ceremonyHash: toBase64Url(hash) }
  const { admin, client, config, store } = first()
  await admin.accept({ body: { hash: params.ceremonyHash } })
  const joined = await client.joinCeremony({ params, body: { proposal, revisions: [current] } })
  const { hpkeKey } = await authorityKeys.read({ ...config, passphrase: PASSPHRASE })
  const seal = RecordSeal.of(hpkeKey.secret(), 'ceremony-record')
  const record = async () => {
    const [row] = await store.atomic(connection => connection.all('SELECT sealed FROM ceremony'))
    return JSON.parse(fromUtf8(seal.open(row?.sealed as Uint8Array, hash), 'record')) as CeremonyRecord
  }
  expect((await record()).boxes).toHaveLength(2)
  await takeIntoForce(next({ policy: { lead: 1, grace: 250 } }))
  expect(Object.keys(await record()).sort()).toEqual(['after', 'said'])
  expect(await client.joinCeremony({ params, body: { proposal } })).toEqual(joined)
  const move = client.ceremonyRound({ params: { ...params, round: 'commit' }, body: { rounds: [] } })
  await expect(move).rejects.toThrow('another revision has come into force')
})

test('a revision waits for the operator', async () => {
  const document = next({ policy: { lead: 1, grace: 299 } })
  expect(await codeOf(propose(document))).toBe('NOT_APPROVED')
  const waiting = { groupId: world.groupId, documentHash: hashOf(document), accepted: false, signed: false }
  expect((await first().admin.status({})).revisions).toEqual([{ ...waiting, changes: ['grace 250 → 299'] }])
})

test('a revision without the word of the RA in force', async () => {
  const document = next({ policy: { lead: 1, grace: 298 } })
  await acceptAll(world, hashOf(document))
  const stranger = await statementOf(document, { key: await generateEs256(), kid: 'ra1' })
  expect(await codeOf(propose(document, first(), stranger))).toBe('NOT_APPROVED')
  const other = await statementOf(next({ policy: { lead: 1, grace: 297 } }))
  expect(await codeOf(propose(document, first(), other))).toBe('NOT_APPROVED')
})

test.each([
  ['a threshold', (document: GroupDocument) => ({ ...document, t: 1 })],
  [
    'the order of the key shares',
    (document: GroupDocument) => {
      const { device } = document.purposes
      const purposes = { ...document.purposes, device: { ...device, shares: [...device.shares].reverse() } }
      return { ...document, purposes }
    },
  ],
  ['a slot length', (document: GroupDocument) => ({ ...document, slot: { ...document.slot, length: 60 } })],
  [
    "a member's signing key",
    (document: GroupDocument) => ({
      ...document,
      authorities: document.authorities.map((authority, i) =>
        i === 1 ? { ...authority, signKey: world.rps.requestKey.publicKey.toBase64Url() } : authority,
      ),
    }),
  ],
])('a revision that changes %s is not signed', async (_, change) => {
  const document = change(next())
  await acceptAll(world, hashOf(document))
  expect(['CONFLICT', 'MALFORMED']).toContain(await codeOf(propose(document)))
})

test('the RA rotates its key: tickets of the new one hold, those of the old one do not, after a restart as well', async () => {
  const key = await generateEs256()
  await takeIntoForce(next({ ra: { m: 1, keys: [{ kid: 'ra2', key: key.publicKey.toBase64Url() }] } }))
  // What waited for the operator under this number can't be signed any more.
  expect((await first().admin.status({})).revisions).toEqual([])
  const old = await ticketFor(world, await makeCar(world), {}, ra)
  ra = { key, kid: 'ra2' }
  const fresh = await ticketFor(world, await makeCar(world), {}, ra)
  const params = { groupId: world.groupId }
  for (const _ of ['running', 'restarted']) {
    const { client, admin } = first()
    expect(await codeOf(client.shares({ params, body: { ticket: old, purpose: 'device' } }))).toBe(
      'NOT_APPROVED',
    )
    await client.shares({ params, body: { ticket: fresh, purpose: 'device' } })
    expect(await client.group({ params, query: {} })).toEqual(current)
    expect((await admin.status({})).revisions.map(({ documentHash }) => documentHash)).not.toContain(
      hashOf(current),
    )
    world.authorities[0] = await restart(first(), world)
  }
})

test('a concluded revision is concluded again without harm; signing again gives the same bytes', async () => {
  const document = next({ policy: { lead: 2, grace: 60 } })
  await acceptAll(world, hashOf(document))
  const one = await propose(document)
  expect(await propose(document)).toEqual(one)
  await takeIntoForce(document)
  expect(await conclude(current)).toEqual({ revision: current.revision })
})

test('an old revision is not taken into force again', async () => {
  const { signatures } = world.group.document
  expect(signatures).toHaveLength(2)
  await acceptAll(world, hashOf(world.group.document))
  expect(await codeOf(conclude(world.group.document))).toBe('CONFLICT')
})

test('fewer signatures than t, or one by somebody else', async () => {
  const document = next({ policy: { lead: 3, grace: 60 } })
  await acceptAll(world, hashOf(document))
  const signatures = []
  for (const at of world.authorities) signatures.push(await propose(document, at))
  expect(await codeOf(conclude({ ...document, signatures: signatures.slice(1) }))).toBe('NOT_APPROVED')
  const forged = { index: 2, signature: await signDocument(document, await generateEs256()) }
  const withForged = [...signatures.slice(0, 1), forged]
  expect(await codeOf(conclude({ ...document, signatures: withForged }))).toBe('NOT_APPROVED')

  // One document per number, even when the operator accepts a second one.
  const second = next({ policy: { lead: 4, grace: 60 } })
  await acceptAll(world, hashOf(second))
  expect(await codeOf(propose(second))).toBe('CONFLICT')
  await takeIntoForce(document)
})

test('t signatures do not put a revision into force here that the operator has not accepted', async () => {
  const document = next({ policy: { lead: 5, grace: 60 } })
  const keys = world.authorities.map((_, i) => ({ index: i + 1, signature: toBase64Url(systemRandom(64)) }))
  expect(await codeOf(conclude({ ...document, signatures: keys }))).toBe('NOT_APPROVED')
})

test('a recipient that was removed gets nothing more', async () => {
  const ask = (server: Server, purpose: 'agree' | 'encrypt', slot?: number) =>
    clientOf(world, first(), server).serverKeys({
      params: { groupId: world.groupId },
      body: {
        ...{ purpose, keyEpoch: 1, nonce: toBase64Url(systemRandom(16)) },
        ...(slot === undefined ? {} : { slot }),
      },
    })
  const all = () => [
    ask(world.tracking, 'agree', MIDDAY_SLOT),
    ask(world.tracking, 'encrypt', MIDDAY_SLOT),
    ask(world.broker, 'encrypt', MIDDAY_SLOT),
    ask(world.broker, 'encrypt'),
  ]
  await Promise.all(all())
  await takeIntoForce(next({ recipients: current.recipients.filter(({ name }) => name === 'rps') }))
  expect(await Promise.all(all().map(codeOf))).toEqual(new Array(4).fill('UNAUTHENTICATED'))
})

test('one that one authority signed and the others never got: the others abandon it, and another takes its place', async () => {
  const params = { groupId: world.groupId }
  const [one, other] = world.authorities as [Running, Running]
  const lost = next({ policy: { lead: 6, grace: 60 } })
  const better = next({ policy: { lead: 7, grace: 60 } })
  await acceptAll(world, hashOf(lost))
  await acceptAll(world, hashOf(better))
  await propose(lost, one)
  expect((await one.admin.status({})).revisions).toContainEqual({
    groupId: world.groupId,
    documentHash: hashOf(lost),
    accepted: true,
    signed: true,
  })
  // Without a release the group has no next revision: one signs the first alone, the other is free, and t is 2.
  expect(await codeOf(propose(better, one))).toBe('CONFLICT')
  const abandon = (at: Running, document: GroupDocument) =>
    at.admin.abandonRevision({ params, body: { documentHash: hashOf(document) } })
  const release = (document: GroupDocument, ...abandonments: string[]) =>
    one.admin.releaseRevision({ params, body: { documentHash: hashOf(document), abandonments } })
  expect(await codeOf(release(lost))).toBe('CONFLICT')
  expect(await codeOf(abandon(one, lost))).toBe('CONFLICT')

  const { abandonment } = await abandon(other, lost)
  // Of another document, by nobody of the group, or of the authority's own.
  const { abandonment: elsewhere } = await abandon(other, next({ policy: { lead: 8, grace: 60 } }))
  expect(await codeOf(release(lost, elsewhere))).toBe('NOT_APPROVED')
  const payload = {
    suite: SUITE,
    groupId: world.groupId,
    revision: lost.revision,
    documentHash: hashOf(lost),
  } as const
  const forged = await signAbandonment(payload, { key: world.rps.requestKey, kid: 'authority-2' })
  expect(await codeOf(release(lost, forged))).toBe('NOT_APPROVED')
  expect(await codeOf(release(better, abandonment))).toBe('NOT_APPROVED')
  await release(lost, abandonment)

  // For good, after a restart as well: neither signs the former any more, so it never has the two that it takes.
  world.authorities[1] = await restart(other, world)
  for (const at of world.authorities) expect(await codeOf(propose(lost, at))).toBe('CONFLICT')
  expect(await codeOf(release(lost, abandonment))).toBe('NOT_FOUND')
  await takeIntoForce(better)
  // What was said of the former number is no word about the next.
  const later = next({ policy: { lead: 9, grace: 60 } })
  await acceptAll(world, hashOf(later))
  await propose(later, one)
  expect(await codeOf(release(later, abandonment))).toBe('NOT_APPROVED')
})
