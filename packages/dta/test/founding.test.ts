/** One authority under test; the other two members of the group, and the coordinator, are this file. */
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import {
  AwaitingJoins,
  type AwaitingOpenings,
  checkOpenings,
  composeFirstRevision,
  foundingJoin,
} from '@milagro-ts/api/founding'
import { proposalHash, signDocument } from '@milagro-ts/api/group'
import type { GroupDocument, GroupProposal } from '@milagro-ts/api/group-document'
import { type Es256PrivateKey, generateEs256, generateHpkeKey } from '@milagro-ts/api/keys'
import { systemRandom } from '@milagro-ts/api/system'
import { fromUtf8, toBase64Url, utf8 } from '@milagro-ts/crypto/bytes'
import { SUITE } from '@milagro-ts/crypto/suite'
import { afterEach, beforeEach, expect, test } from 'vitest'
import {
  asRecipient,
  codeOf,
  MIDDAY,
  makeServer,
  type Running,
  restart,
  SLOT,
  startAuthority,
} from './world.js'

interface Member {
  readonly index: number
  readonly signKey: Es256PrivateKey
}
const clock = { now: MIDDAY }
let folder: string
let authority: Running
let others: Member[]
let proposal: GroupProposal
let hash: string

beforeEach(async () => {
  clock.now = MIDDAY
  folder = await mkdtemp(join(tmpdir(), 'milagro-dta-'))
  authority = await startAuthority('ta1', folder, { clock })
  others = await Promise.all([2, 3].map(async index => ({ index, signKey: await generateEs256() })))
  proposal = await makeProposal()
  hash = toBase64Url(proposalHash(proposal))
})
afterEach(async () => {
  await authority.close()
  await rm(folder, { recursive: true })
})

async function makeProposal(): Promise<GroupProposal> {
  const { name, signKey, hpkeKey } = await authority.client.authority({})
  const rest = await Promise.all(
    others.map(async ({ index, signKey }) => ({
      index,
      name: `ta${index}`,
      url: `https://ta${index}.example`,
      signKey: signKey.publicKey.toBase64Url(),
      hpkeKey: toBase64Url((await generateHpkeKey(systemRandom)).publicKey),
    })),
  )
  return {
    suite: SUITE,
    v: 1,
    n: 3,
    t: 3,
    authorities: [{ index: 1, name, url: authority.url, signKey, hpkeKey }, ...rest],
    ra: { m: 1, keys: [{ kid: 'ra1', key: (await generateEs256()).publicKey.toBase64Url() }] },
    recipients: [asRecipient(await makeServer('rps'), ['device', 'pin'])],
    slot: SLOT,
    policy: { lead: 1, grace: 300 },
    firstSlot: 0,
    nonce: toBase64Url(systemRandom(32)),
  }
}

const accept = (accepted = hash) => authority.admin.accept({ body: { hash: accepted } })
const params = () => ({ proposalHash: hash })
const join1 = async (given = proposal) =>
  (await authority.client.joinFounding({ params: params(), body: { proposal: given } })).join
const open1 = async (joins: string[]) =>
  (await authority.client.openFounding({ params: params(), body: { joins } })).opening
const sign1 = (openings: string[]) => authority.client.signFounding({ params: params(), body: { openings } })
const conclude1 = (document: GroupDocument) =>
  authority.client.concludeFounding({ params: params(), body: { document } })

const othersJoin = (): Promise<AwaitingJoins[]> =>
  Promise.all(
    others.map(({ index, signKey }) => foundingJoin({ proposal, index, key: signKey, random: systemRandom })),
  )
const othersOpen = (states: AwaitingJoins[], joins: string[]): Promise<AwaitingOpenings[]> =>
  Promise.all(
    states.map((state, i) => {
      const key = (others[i] as Member).signKey
      return state.open({ proposal, joins, key, random: systemRandom })
    }),
  )

/** Everything up to the openings. */
async function untilOpened() {
  await accept()
  const states = await othersJoin()
  const joins = [await join1(), ...states.map(state => state.join)]
  const opened = await othersOpen(states, joins)
  const openings = [await open1(joins), ...opened.map(state => state.opening)]
  return { states, joins, opened, openings }
}

async function signedByAll(joins: string[], openings: string[], signature: string): Promise<GroupDocument> {
  const { openings: checked } = await checkOpenings(proposal, joins, openings)
  const document = await composeFirstRevision(proposal, checked)
  const rest = await Promise.all(
    others.map(async ({ index, signKey }) => ({ index, signature: await signDocument(document, signKey) })),
  )
  return { ...document, signatures: [{ index: 1, signature }, ...rest] }
}

test('every move, with a restart before each, and asked twice: the same bytes', async () => {
  await accept()
  const again = async () => {
    authority = await restart(authority, { clock })
  }
  const states = await othersJoin()
  const join = await join1()
  await again()
  expect(await join1()).toBe(join)
  const joins = [join, ...states.map(state => state.join)]
  const opening = await open1(joins)
  expect(await open1([...joins].reverse())).toBe(opening)
  await again()
  expect(await join1()).toBe(join)
  expect(await open1(joins)).toBe(opening)
  const openings = [opening, ...(await othersOpen(states, joins)).map(state => state.opening)]
  await again()
  const signed = await sign1(openings)
  expect(await sign1([...openings].reverse())).toEqual(signed)
  await again()
  expect(await sign1(openings)).toEqual(signed)
  const document = await signedByAll(joins, openings, signed.signature)
  expect(await conclude1(document)).toEqual({ groupId: signed.groupId })
  expect(await conclude1(document)).toEqual({ groupId: signed.groupId })
  await again()
  expect(await conclude1(document)).toEqual({ groupId: signed.groupId })
  expect(await sign1(openings)).toEqual(signed)
  const { groupId } = signed
  expect(await authority.client.group({ params: { groupId }, query: {} })).toEqual(document)
  const { proposals, groups } = await authority.admin.status({})
  expect(proposals).toEqual([{ proposalHash: hash, accepted: true, concluded: true }])
  expect(groups).toMatchObject([{ groupId, revision: 1, frozen: false, issued: 0, alarms: 0 }])
})

test('nothing is made for a proposal that the operator has not accepted; the status shows that it waits', async () => {
  expect(await codeOf(join1())).toBe('NOT_APPROVED')
  const waiting = { proposalHash: hash, accepted: false, concluded: false }
  expect((await authority.admin.status({})).proposals).toEqual([waiting])
  await accept()
  expect((await authority.admin.status({})).proposals).toEqual([{ ...waiting, accepted: true }])
  await join1()
})

test('two joins at once make one set of secrets', async () => {
  await accept()
  const [one, other] = await Promise.all([join1(), join1()])
  expect(one).toBe(other)
})

test('a proposal under the hash of another', async () => {
  await accept()
  expect(await codeOf(join1({ ...proposal, policy: { lead: 64, grace: 0 } }))).toBe('CONFLICT')
})

test('a proposal with other keys in the name of this authority', async () => {
  const [me, ...rest] = proposal.authorities as [GroupProposal['authorities'][number]]
  const { publicKey } = await generateHpkeKey(systemRandom)
  for (const changed of [
    { ...me, hpkeKey: toBase64Url(publicKey) },
    { ...me, signKey: (await generateEs256()).publicKey.toBase64Url() },
  ]) {
    const other = { ...proposal, authorities: [changed, ...rest] }
    hash = toBase64Url(proposalHash(other))
    await accept()
    expect(await codeOf(join1(other))).toBe('NOT_APPROVED')
  }
})

test('a proposal with another address than the configured one', async () => {
  authority = await restart(
    { ...authority, config: { ...authority.config, publicUrl: 'https://ta1.example' } },
    { clock },
  )
  await accept()
  expect(await codeOf(join1())).toBe('NOT_APPROVED')
})

test('fewer than n of n: a group is founded by all', async () => {
  proposal = { ...proposal, t: 2 }
  hash = toBase64Url(proposalHash(proposal))
  await accept()
  expect(await codeOf(join1())).toBe('MALFORMED')
})

test('moves of a founding that was never joined', async () => {
  await accept()
  const joins = (await othersJoin()).map(state => state.join)
  expect(await codeOf(open1(joins))).toBe('NOT_APPROVED')
  expect(await codeOf(sign1(joins))).toBe('NOT_APPROVED')
})

test('a second set of joins', async () => {
  const { joins } = await untilOpened()
  const fresh = (await othersJoin()).map(state => state.join)
  expect(await codeOf(open1([joins[0] as string, ...fresh]))).toBe('CONFLICT')
})

test('joins in which a member is missing, speaks twice, or is somebody else', async () => {
  await accept()
  const own = await join1()
  const [two, three] = (await othersJoin()).map(state => state.join) as [string, string]
  expect(await codeOf(open1([own, two]))).toBe('CONFLICT')
  expect(await codeOf(open1([own, two, two]))).toBe('CONFLICT')
  others[0] = { index: 2, signKey: await generateEs256() }
  const impostor = foundingJoin({
    proposal,
    index: 2,
    key: (others[0] as Member).signKey,
    random: systemRandom,
  })
  await expect(impostor).rejects.toThrow()
  await open1([own, two, three])
})

test("an opening that is not the commitment's is WRONG_SHARE and names its member", async () => {
  const { joins, openings } = await untilOpened()
  // Member 3 opens, in the right session, other secrets than those it committed to.
  const { index, signKey: key } = others[1] as Member
  const fresh = await foundingJoin({ proposal, index, key, random: systemRandom })
  const state = { ...JSON.parse(fromUtf8(fresh.encode(), 'state')), join: joins[2] }
  const lying = AwaitingJoins.decode(utf8(JSON.stringify(state)))
  const opened = await lying.open({ proposal, joins, key, random: systemRandom })
  const request = sign1([openings[0] as string, openings[1] as string, opened.opening])
  await expect(request).rejects.toMatchObject({ code: 'WRONG_SHARE', detail: expect.stringContaining('ta3') })
  // The honest openings still found the group.
  await sign1(openings)
})

test('other openings than those that were signed over', async () => {
  const { joins, openings, states } = await untilOpened()
  await sign1(openings)
  const reopened = (await othersOpen(states, joins)).map(state => state.opening)
  expect(await codeOf(sign1([openings[0] as string, ...reopened]))).toBe('CONFLICT')
})

test('signing before opening', async () => {
  await accept()
  const states = await othersJoin()
  const joins = [await join1(), ...states.map(state => state.join)]
  const openings = (await othersOpen(states, joins)).map(state => state.opening)
  expect(await codeOf(sign1([...openings, openings[0] as string]))).toBe('CONFLICT')
})

test('a founding that takes longer than a day', async () => {
  const { joins, openings } = await untilOpened()
  clock.now += 86_400_001
  expect(await codeOf(open1(joins))).toBe('EXPIRED')
  expect(await codeOf(sign1(openings))).toBe('EXPIRED')
})

test('a document that this authority has not signed, or that not all have signed', async () => {
  const { joins, openings } = await untilOpened()
  const { signature } = await sign1(openings)
  const document = await signedByAll(joins, openings, signature)
  const eager = { ...document, policy: { lead: 64, grace: 300 } }
  expect(await codeOf(conclude1(eager))).toBe('CONFLICT')
  const partly = { ...document, signatures: document.signatures.slice(0, 2) }
  expect(await codeOf(conclude1(partly))).toBe('NOT_APPROVED')
  expect((await authority.admin.status({})).groups).toEqual([])
  await conclude1(document)
})

test('a database whose shares are not those of the group ends the start', async () => {
  const { joins, openings } = await untilOpened()
  const { signature } = await sign1(openings)
  await conclude1(await signedByAll(joins, openings, signature))
  await authority.store.atomic(connection =>
    connection.run('UPDATE served_group SET sealed = ?', [new Uint8Array(400)]),
  )
  const { config, url } = authority
  await authority.close()
  const start = startAuthority('ta1', folder, { clock })
  await expect(start).rejects.toMatchObject({ name: 'StoreError', reason: 'damaged' })
  expect((await readFile(join(folder, 'keys.sealed'))).length).toBeGreaterThan(0)
  authority = { ...authority, config, url, close: async () => {} }
})
