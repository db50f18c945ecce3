/** Authorities on real sockets: a group founded 2 of 3 by a ceremony, refreshed, handed on; devices notice nothing. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type CeremonyProposal, ceremonyHash } from '@milagro-ts/api/ceremony'
import { type CeremonyClient, ceremonyRun, verifyTranscript } from '@milagro-ts/api/ceremony-run'
import { documentHash, type Group } from '@milagro-ts/api/group'
import { generateHpkeKey } from '@milagro-ts/api/keys'
import { Refused } from '@milagro-ts/api/problem'
import { verifyTicket } from '@milagro-ts/api/statements'
import { systemRandom } from '@milagro-ts/api/system'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import type { G1 } from '@milagro-ts/crypto/points'
import { combineG1 } from '@milagro-ts/crypto/secret-sharing'
import { SUITE } from '@milagro-ts/crypto/suite'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import {
  type Car,
  codeOf,
  type Founded,
  fetchServerKey,
  makeCar,
  makeWorld,
  openShare,
  type Running,
  restart,
  startAuthority,
  ticketFor,
  type World,
} from './world.js'

let world: World
let more: Running[]
let folder: string
beforeEach(async () => {
  world = await makeWorld()
  folder = await mkdtemp(join(tmpdir(), 'milagro-dta-'))
  more = []
})
afterEach(async () => {
  for (const authority of more) await authority.close()
  await world.close()
  await rm(folder, { recursive: true })
})

const byName = (running: readonly Running[]): Map<string, CeremonyClient> =>
  new Map(running.map(({ config, client }) => [config.name, client]))

async function acceptBy(running: readonly Running[], proposal: CeremonyProposal): Promise<void> {
  for (const { admin } of running) await admin.accept({ body: { hash: toBase64Url(ceremonyHash(proposal)) } })
}

async function run(
  proposal: CeremonyProposal,
  running: readonly Running[],
  group?: Group,
): Promise<{ group: Group; transcript: readonly string[] }> {
  await acceptBy(running, proposal)
  return ceremonyRun({ proposal, clients: byName(running), ...(group && { revisions: group.documents }) })
}

const foundingOf = ({ proposal }: World, t: number): CeremonyProposal => ({
  suite: SUITE,
  v: 1,
  kind: 'found',
  group: { ...proposal, t },
})
const founded = (group: Group): Founded => ({ ...world, group, groupId: toBase64Url(group.groupId) })

const startingFrom = (group: Group) => ({
  suite: SUITE as 'BLS12381-SHA256-V1',
  v: 1 as const,
  groupId: toBase64Url(group.groupId),
  previous: toBase64Url(documentHash(group.document)),
  nonce: toBase64Url(systemRandom(32)),
})
const refreshOf = (group: Group): CeremonyProposal => ({ ...startingFrom(group), kind: 'refresh' })
async function reshareOf(
  group: Group,
  { dealers, t, members }: { dealers: number[]; t: number; members: readonly Running[] },
): Promise<CeremonyProposal> {
  const authorities = await Promise.all(
    members.map(async ({ client, url }, i) => {
      const { name, signKey, hpkeKey } = await client.authority({})
      return { index: i + 1, name, url, signKey, hpkeKey }
    }),
  )
  return { ...startingFrom(group), kind: 'reshare', dealers, t, n: members.length, authorities }
}

async function startMore(name: string): Promise<Running> {
  const { clock, logged, random } = world
  const authority = await startAuthority(name, await mkdtemp(join(folder, `${name}-`)), {
    clock,
    logged,
    random,
  })
  more.push(authority)
  return authority
}

/** The device key out of the shares of these authorities. */
async function keyFrom(group: Group, car: Car, ticket: string[], from: readonly Running[]): Promise<G1> {
  const terms = founded(group)
  const shares = await Promise.all(
    from.map(async ({ client }) => {
      const answer = await client.shares({
        params: { groupId: terms.groupId },
        body: { ticket, purpose: 'device' },
      })
      const verified = await verifyTicket({ ticket, group, now: world.clock.now })
      const share = await openShare(
        terms,
        answer,
        car,
        'device',
        verified.shareTerms('device', answer.index, answer.shareEpoch),
      )
      if (share === null) throw new Error(`no good share from ${answer.index}`)
      return { index: answer.index, point: share.d }
    }),
  )
  return combineG1(shares)
}

const at = (i: number): Running => world.authorities[i] as Running

describe('a group of three, two of whom suffice', () => {
  test('is founded, issues with one down, is refreshed and handed on, and the device key stays', async () => {
    const { group, transcript } = await run(foundingOf(world, 2), world.authorities)
    expect([group.n, group.t, group.shareEpoch]).toEqual([3, 2, 1])
    expect(await verifyTranscript(transcript)).toMatchObject({ valid: true })

    const car = await makeCar(founded(group))
    const ticket = await ticketFor(founded(group), car)
    const key = await keyFrom(group, car, ticket, [at(0), at(1)])
    expect((await keyFrom(group, car, ticket, [at(1), at(2)])).equals(key)).toBe(true)
    const S = await fetchServerKey(founded(group), 'device')

    const refreshed = await run(refreshOf(group), world.authorities, group)
    expect(refreshed.group.shareEpoch).toBe(2)
    expect(await verifyTranscript(refreshed.transcript)).toMatchObject({ valid: true })
    expect((await keyFrom(refreshed.group, car, ticket, [at(0), at(2)])).equals(key)).toBe(true)

    const ta4 = await startMore('ta4')
    const members = [at(1), at(2), ta4]
    const reshare = await reshareOf(refreshed.group, { dealers: [2, 3], t: 2, members })
    const handed = await run(reshare, members, refreshed.group)
    expect(handed.group.authorities.map(({ name }) => name)).toEqual(['ta2', 'ta3', 'ta4'])
    expect((await keyFrom(handed.group, car, ticket, [ta4, at(1)])).equals(key)).toBe(true)
    expect(await verifyTranscript(handed.transcript)).toMatchObject({ valid: true })
    const after = await fetchServerKey({ ...founded(handed.group), authorities: members }, 'device')
    expect(after.encode()).toEqual(S.encode())

    // The new member knows whom keys went to before its time.
    const thief: Car = { idCore: car.idCore, enrolmentKey: await generateHpkeKey(systemRandom) }
    const stolen = await ticketFor(founded(handed.group), thief)
    const params = { groupId: toBase64Url(group.groupId) }
    expect(await codeOf(ta4.client.shares({ params, body: { ticket: stolen, purpose: 'device' } }))).toBe(
      'ALREADY_ISSUED',
    )

    // Everything of it survives a restart.
    const again = await restart(ta4, { clock: world.clock })
    more = [again]
    expect((await keyFrom(handed.group, car, ticket, [again, at(1)])).equals(key)).toBe(true)
  })

  test('one that leaves issues nothing more, and says so', async () => {
    const { group } = await run(foundingOf(world, 2), world.authorities)
    const ta4 = await startMore('ta4')
    const members = [at(1), at(2), ta4]
    const proposal = await reshareOf(group, { dealers: [1, 2, 3], t: 2, members })
    await run(proposal, [...world.authorities, ta4], group)
    const car = await makeCar(founded(group))
    const body = { ticket: await ticketFor(founded(group), car), purpose: 'device' as const }
    expect(await codeOf(at(0).client.shares({ params: { groupId: toBase64Url(group.groupId) }, body }))).toBe(
      'NOT_FOUND',
    )
  })
})

describe('an interrupted ceremony', () => {
  test('changes nothing, and goes on after every authority was restarted', async () => {
    const { group } = await run(foundingOf(world, 2), world.authorities)
    const car = await makeCar(founded(group))
    const ticket = await ticketFor(founded(group), car)
    const key = await keyFrom(group, car, ticket, [at(0), at(1)])
    const proposal = refreshOf(group)
    await acceptBy(world.authorities, proposal)
    for (const stopAt of ['commit', 'open', 'deal', 'answer', 'result', 'sign'] as const) {
      const clients = new Map<string, CeremonyClient>(byName(world.authorities))
      const ta2 = clients.get('ta2') as CeremonyClient
      const down = () => Promise.reject(new Refused('RETRY_LATER', { detail: 'down' }))
      clients.set('ta2', {
        ...ta2,
        ceremonyRound: input => (input.params.round === stopAt ? down() : ta2.ceremonyRound(input)),
        signCeremony: input => (stopAt === 'sign' ? down() : ta2.signCeremony(input)),
      })
      const attempt = ceremonyRun({ proposal, clients, revisions: group.documents })
      await expect(attempt).rejects.toThrow('ta2')
      for (const [i, authority] of world.authorities.entries())
        world.authorities[i] = await restart(authority, { clock: world.clock })
      expect((await keyFrom(group, car, ticket, [at(0), at(2)])).equals(key)).toBe(true)
    }
    const { group: refreshed } = await ceremonyRun({
      proposal,
      clients: byName(world.authorities),
      revisions: group.documents,
    })
    expect((await keyFrom(refreshed, car, ticket, [at(0), at(1)])).equals(key)).toBe(true)
  })

  test('a dealer that has answered issues nothing new, and after ten minutes issues and never signs', async () => {
    const { group } = await run(foundingOf(world, 2), world.authorities)
    const ta4 = await startMore('ta4')
    const members = [at(0), at(1), ta4]
    const proposal = await reshareOf(group, { dealers: [1, 2], t: 2, members })
    await acceptBy(members, proposal)
    const clients = byName(members)
    const stopped = clients.get('ta4') as CeremonyClient
    const down = () => Promise.reject(new Refused('RETRY_LATER', { detail: 'down' }))
    clients.set('ta4', {
      ...stopped,
      ceremonyRound: input => (input.params.round === 'result' ? down() : stopped.ceremonyRound(input)),
    })
    const again = () => ceremonyRun({ proposal, clients, revisions: group.documents })
    await expect(again()).rejects.toThrow('ta4')
    const body = {
      ticket: await ticketFor(founded(group), await makeCar(founded(group))),
      purpose: 'device' as const,
    }
    const params = { groupId: toBase64Url(group.groupId) }
    expect(await codeOf(at(0).client.shares({ params, body }))).toBe('RETRY_LATER')
    world.clock.now += 600_000
    expect((await at(0).client.shares({ params, body })).index).toBe(1)
    clients.set('ta4', stopped)
    await expect(again()).rejects.toThrow('given the ceremony up')
  })
})

test('of two ceremonies from one revision the second ends when the first is concluded', async () => {
  const { group } = await run(foundingOf(world, 2), world.authorities)
  const [first, second] = [refreshOf(group), refreshOf(group)]
  await acceptBy(world.authorities, second)
  const clients = byName(world.authorities)
  const ta3 = clients.get('ta3') as CeremonyClient
  const down = () => Promise.reject(new Refused('RETRY_LATER', { detail: 'down' }))
  const interrupted = new Map(clients).set('ta3', { ...ta3, ceremonyRound: down })
  const begin = ceremonyRun({ proposal: second, clients: interrupted, revisions: group.documents })
  await expect(begin).rejects.toThrow('ta3')
  await run(first, world.authorities, group)
  const goOn = ceremonyRun({ proposal: second, clients, revisions: group.documents })
  await expect(goOn).rejects.toThrow('another revision has come into force')
})

test('without its operator’s word an authority takes no part', async () => {
  const proposal = foundingOf(world, 2)
  await acceptBy(world.authorities.slice(1), proposal)
  const attempt = ceremonyRun({ proposal, clients: byName(world.authorities) })
  await expect(attempt).rejects.toThrow("ta1, join: this authority's operator has not accepted the proposal")
})

describe('an operator who says no', () => {
  const reject = ({ admin }: Running, proposal: CeremonyProposal, reason: string) =>
    admin.reject({ body: { hash: toBase64Url(ceremonyHash(proposal)), reason } })

  test('is named with his reason, after a restart as well, until he says yes', async () => {
    const proposal = foundingOf(world, 2)
    await acceptBy(world.authorities, proposal)
    await reject(at(1), proposal, 'who is ta3?')
    world.authorities[1] = await restart(at(1), { clock: world.clock })
    const clients = () => byName(world.authorities)
    await expect(ceremonyRun({ proposal, clients: clients() })).rejects.toThrow(
      "ta2, join: this authority's operator has said no: who is ta3?",
    )
    await acceptBy([at(1)], proposal)
    expect((await ceremonyRun({ proposal, clients: clients() })).group.t).toBe(2)
    expect(await codeOf(reject(at(1), proposal, 'too late'))).toBe('CONFLICT')
  })

  test('in the middle ends it, and the group goes on as it was', async () => {
    const { group } = await run(foundingOf(world, 2), world.authorities)
    const car = await makeCar(founded(group))
    const ticket = await ticketFor(founded(group), car)
    const key = await keyFrom(group, car, ticket, [at(0), at(1)])
    const proposal = refreshOf(group)
    await acceptBy(world.authorities, proposal)
    const clients = new Map<string, CeremonyClient>(byName(world.authorities))
    const ta3 = clients.get('ta3') as CeremonyClient
    const down = () => Promise.reject(new Refused('RETRY_LATER', { detail: 'down' }))
    clients.set('ta3', {
      ...ta3,
      ceremonyRound: input => (input.params.round === 'answer' ? down() : ta3.ceremonyRound(input)),
    })
    const again = () => ceremonyRun({ proposal, clients, revisions: group.documents })
    await expect(again()).rejects.toThrow('ta3')
    await reject(at(0), proposal, 'a strange fingerprint')
    clients.set('ta3', ta3)
    await expect(again()).rejects.toThrow('ta1')
    expect((await keyFrom(group, car, ticket, [at(0), at(2)])).equals(key)).toBe(true)
    const { group: refreshed } = await run(refreshOf(group), world.authorities, group)
    expect((await keyFrom(refreshed, car, ticket, [at(0), at(1)])).equals(key)).toBe(true)
  })
})

test('a ceremony ends when the time that was chosen is over', async () => {
  const proposal = { ...foundingOf(world, 2), within: 120 }
  await acceptBy(world.authorities, proposal)
  const clients = new Map<string, CeremonyClient>(byName(world.authorities))
  const ta3 = clients.get('ta3') as CeremonyClient
  const down = () => Promise.reject(new Refused('RETRY_LATER', { detail: 'down' }))
  clients.set('ta3', { ...ta3, ceremonyRound: down })
  await expect(ceremonyRun({ proposal, clients })).rejects.toThrow('ta3')
  world.clock.now += 120_001
  clients.set('ta3', ta3)
  await expect(ceremonyRun({ proposal, clients })).rejects.toThrow('took longer than the 120 s agreed on')
})
