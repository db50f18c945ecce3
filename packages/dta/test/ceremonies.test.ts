/** Authorities on real sockets: a group founded 2 of 3 by a ceremony, refreshed, handed on; devices notice nothing. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import {
  type CeremonyProposal,
  type CeremonyRecord,
  type CeremonyRounds,
  ceremonyHash,
  type Round,
} from '@milagro-ts/api/ceremony'
import { LEDGER_PAGE } from '@milagro-ts/api/ceremony-ledger'
import { type CeremonyClient, ceremonyRun, verifyTranscript } from '@milagro-ts/api/ceremony-run'
import { documentHash, type Group } from '@milagro-ts/api/group'
import { generateHpkeKey } from '@milagro-ts/api/keys'
import { Refused } from '@milagro-ts/api/problem'
import { verifyTicket } from '@milagro-ts/api/statements'
import { systemRandom } from '@milagro-ts/api/system'
import { fromBase64Url, fromUtf8, toBase64Url } from '@milagro-ts/crypto/bytes'
import { G1 } from '@milagro-ts/crypto/points'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { combineG1, recombineSecret } from '@milagro-ts/crypto/secret-sharing'
import { SUITE } from '@milagro-ts/crypto/suite'
import { authorityKeys } from '@milagro-ts/dta/authority-keys'
import { RecordSeal } from '@milagro-ts/dta/record-seal'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import {
  type Car,
  codeOf,
  type Founded,
  fetchServerKey,
  makeCar,
  makeWorld,
  openShare,
  PASSPHRASE,
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

/** All of them, some of whom are down from a move on. */
function stoppedAt(
  move: Round | 'sign' | 'conclude',
  ...names: readonly string[]
): Map<string, CeremonyClient> {
  const clients = new Map<string, CeremonyClient>(byName(world.authorities))
  const down = () => Promise.reject(new Refused('RETRY_LATER', { detail: 'down' }))
  for (const name of names) {
    const client = clients.get(name) as CeremonyClient
    clients.set(name, {
      ...client,
      ceremonyRound: input => (input.params.round === move ? down() : client.ceremonyRound(input)),
      signCeremony: input => (move === 'sign' ? down() : client.signCeremony(input)),
      concludeCeremony: input => (move === 'conclude' ? down() : client.concludeCeremony(input)),
    })
  }
  return clients
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

    // Without its keys it doesn't become another one.
    const { dataDir } = again.config
    await again.close()
    more = []
    await rm(join(dataDir, 'keys.sealed'))
    await expect(startAuthority('ta4', dataDir, world)).rejects.toMatchObject({ reason: 'missing' })
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
      const clients = stoppedAt(stopAt, ...(stopAt === 'sign' ? ['ta2', 'ta3'] : ['ta2']))
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

  test('goes on in the middle of a ledger of several pages, and after it', async () => {
    const { group } = await run(foundingOf(world, 2), world.authorities)
    await at(0).store.atomic(connection => {
      for (let i = 0; i < 2 * LEDGER_PAGE; i++)
        connection.run('INSERT INTO ledger (group_id, identity_hash, enrolment_key_hash) VALUES (?, ?, ?)', [
          group.groupId,
          systemRandom(32),
          systemRandom(32),
        ])
    })
    const members = [at(0), at(1), await startMore('ta4')]
    const proposal = await reshareOf(group, { dealers: [1, 2], t: 2, members })
    await acceptBy(members, proposal)
    const clients = byName(members)
    const ta4 = clients.get('ta4') as CeremonyClient
    const down = () => Promise.reject(new Refused('RETRY_LATER', { detail: 'down' }))
    let pages = 0
    const again = (changed: Partial<CeremonyClient>) =>
      ceremonyRun({
        proposal,
        clients: new Map(clients).set('ta4', { ...ta4, ...changed }),
        revisions: group.documents,
      })
    const adoptCeremonyLedger: CeremonyClient['adoptCeremonyLedger'] = input =>
      ++pages === 2 ? down() : ta4.adoptCeremonyLedger(input)
    await expect(again({ adoptCeremonyLedger })).rejects.toThrow('ta4, ledger: down')
    const noResult: CeremonyClient['ceremonyRound'] = input =>
      input.params.round === 'result' ? down() : ta4.ceremonyRound(input)
    await expect(again({ ceremonyRound: noResult })).rejects.toThrow('ta4, result: down')
    await expect(again({ concludeCeremony: down })).resolves.toMatchObject({
      unconcluded: [{ name: 'ta4' }],
    })
    expect((await again({})).unconcluded).toEqual([])
    const lines = await at(1).store.atomic(connection =>
      connection.all('SELECT (SELECT count(*) FROM ledger) AS kept, count(*) AS handed FROM ceremony_ledger'),
    )
    expect(lines).toEqual([{ kept: 2 * LEDGER_PAGE, handed: 0 }])
  })

  test('goes on where t have signed and another has given it up since', async () => {
    const { group } = await run(foundingOf(world, 2), world.authorities)
    const car = await makeCar(founded(group))
    const ticket = await ticketFor(founded(group), car)
    const key = await keyFrom(group, car, ticket, [at(0), at(2)])
    const proposal = await reshareOf(group, { dealers: [1, 2, 3], t: 2, members: world.authorities })
    await acceptBy(world.authorities, proposal)
    const clients = stoppedAt('conclude', 'ta1', 'ta2', 'ta3')
    const ta3 = clients.get('ta3') as CeremonyClient
    const down = () => Promise.reject(new Refused('RETRY_LATER', { detail: 'down' }))
    clients.set('ta3', { ...ta3, signCeremony: down })
    await expect(ceremonyRun({ proposal, clients, revisions: group.documents })).rejects.toThrow('conclude')
    world.clock.now += 600_000
    const another = await ticketFor(founded(group), await makeCar(founded(group)))
    const params = { groupId: toBase64Url(group.groupId) }
    await at(2).client.shares({ params, body: { ticket: another, purpose: 'device' } })
    const made = await ceremonyRun({
      proposal,
      clients: byName(world.authorities),
      revisions: group.documents,
    })
    expect([made.group.revision, made.unconcluded]).toEqual([2, []])
    expect((await keyFrom(made.group, car, ticket, [at(1), at(2)])).equals(key)).toBe(true)
  })
})

describe('what a ceremony that came to nothing has left in the records', () => {
  /** Everything secret in them, to whoever has the disk and the passphrase. */
  async function secretsOf({ store, config }: Running): Promise<Partial<CeremonyRecord>[]> {
    const { hpkeKey } = await authorityKeys.read({ ...config, passphrase: PASSPHRASE })
    const seal = RecordSeal.of(hpkeKey.secret(), 'ceremony-record')
    const rows = await store.atomic(connection =>
      connection.all('SELECT ceremony_hash, sealed FROM ceremony'),
    )
    return rows
      .map(row => seal.open(row.sealed as Uint8Array, row.ceremony_hash as Uint8Array))
      .map(record => JSON.parse(fromUtf8(record, 'record')) as CeremonyRecord)
      .map(({ said: _, after: _after, document: _document, ...secret }) => secret)
      .filter(secret => Object.keys(secret).length > 0)
  }
  const deviceShare = ([record]: Partial<CeremonyRecord>[]) =>
    Scalar.decode(fromBase64Url(record?.shares?.device ?? '', 'share'), 'share')

  async function unsigned(proposal: CeremonyProposal, group: Group, at: Round | 'sign') {
    await acceptBy(world.authorities, proposal)
    const clients = stoppedAt(at, 'ta1', 'ta2', 'ta3')
    await expect(ceremonyRun({ proposal, clients, revisions: group.documents })).rejects.toThrow(at)
  }

  test('is destroyed with the shares that it began from', async () => {
    const { group } = await run(foundingOf(world, 2), world.authorities)
    await unsigned(refreshOf(group), group, 'sign')
    // One disk is stolen today and another one after the next refresh: t shares of one polynomial.
    const shares = await Promise.all(
      [1, 3].map(async index => {
        const scalar = deviceShare(await secretsOf(at(index - 1)))
        return { index, scalar }
      }),
    )
    expect(G1.generator.mulPublic(recombineSecret(shares)).equals(group.keys('device').ivk)).toBe(true)
    const open = await reshareOf(group, { dealers: [1, 2, 3], t: 2, members: world.authorities })
    await unsigned(open, group, 'open')
    await run(refreshOf(group), world.authorities, group)
    for (const authority of world.authorities) expect(await secretsOf(authority)).toEqual([])
  })

  test('is destroyed when the authority leaves, and doesn’t bring it back', async () => {
    const { group } = await run(foundingOf(world, 2), world.authorities)
    const params = { groupId: toBase64Url(group.groupId) }
    const proposal = refreshOf(group)
    await acceptBy(world.authorities, proposal)
    const clients = stoppedAt('conclude', 'ta1', 'ta2', 'ta3')
    await expect(ceremonyRun({ proposal, clients, revisions: group.documents })).rejects.toThrow('conclude')
    await at(0).admin.leave({ params, body: { leavesAt: Math.floor(world.clock.now / 1000) + 86_400 } })
    world.clock.now += 86_400_000
    world.authorities[0] = await restart(at(0), { clock: world.clock })
    expect(await secretsOf(at(0))).toEqual([])
    const made = await ceremonyRun({
      proposal,
      clients: byName(world.authorities),
      revisions: group.documents,
    })
    expect(made.unconcluded).toMatchObject([{ name: 'ta1' }])
    expect((await at(0).admin.status({})).groups).toEqual([])
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

describe('a document that one has signed and the others refuse', () => {
  /** Runs until ta1 alone has signed; the rounds. */
  async function signedByTa1(proposal: CeremonyProposal, group: Group): Promise<CeremonyRounds> {
    await acceptBy(world.authorities, proposal)
    const clients = stoppedAt('sign', 'ta2', 'ta3')
    let rounds: CeremonyRounds | undefined
    const ta1 = clients.get('ta1') as CeremonyClient
    clients.set('ta1', {
      ...ta1,
      signCeremony: input => {
        rounds = input.body.rounds
        return ta1.signCeremony(input)
      },
    })
    await expect(ceremonyRun({ proposal, clients, revisions: group.documents })).rejects.toThrow('ta2, sign')
    return rounds as CeremonyRounds
  }
  const signs = (i: number, proposal: CeremonyProposal, rounds: CeremonyRounds) =>
    codeOf(
      at(i).client.signCeremony({
        params: { ceremonyHash: toBase64Url(ceremonyHash(proposal)) },
        body: { rounds },
      }),
    )
  const again = (proposal: CeremonyProposal, group: Group, clients = byName(world.authorities)) =>
    ceremonyRun({ proposal, clients, revisions: group.documents })
  const resharedToItself = (group: Group, dealers: number[], t: number) =>
    reshareOf(group, { dealers, t, members: world.authorities })

  test.each(['refresh', 'reshare'] as const)(
    'keeps a group of all of three from nothing: after a late %s another comes into force, and the late one never',
    async kind => {
      const { group } = await run(foundingOf(world, 3), world.authorities)
      const proposed = kind === 'refresh' ? refreshOf(group) : await resharedToItself(group, [1, 2, 3], 3)
      const late = { ...proposed, within: 60 }
      const rounds = await signedByTa1(late, group)
      world.clock.now += 600_001
      await expect(again(late, group)).rejects.toThrow('ta2, sign')
      const next = await run(refreshOf(group), world.authorities, group)
      expect(next.group.revision).toBe(2)
      // Not even with clocks that are set back, and after a restart.
      world.clock.now -= 600_001
      world.authorities[1] = await restart(at(1), { clock: world.clock })
      for (const i of [0, 1, 2]) expect(await signs(i, late, rounds)).toMatch(/^(CONFLICT|EXPIRED)$/)
      // What had been handed over keeps nothing from being issued.
      const car = await makeCar(founded(next.group))
      const ticket = await ticketFor(founded(next.group), car)
      await keyFrom(next.group, car, ticket, world.authorities)
    },
  )

  test('keeps its number while enough others may still sign it', async () => {
    const { group } = await run(foundingOf(world, 2), world.authorities)
    const first = refreshOf(group)
    const rounds = await signedByTa1(first, group)
    // ta3 has no part in the second, and abandons nothing.
    const members = [at(0), at(1), await startMore('ta4')]
    const second = await reshareOf(group, { dealers: [1, 2], t: 2, members })
    await expect(run(second, members, group)).rejects.toThrow(
      'ta1, sign: this authority has signed another document with that number',
    )
    expect(await signs(1, first, rounds)).toBe('EXPIRED')
    // ta1 and ta3 are two of three: the first comes into force, at ta2 as well, and the second never does.
    const made = await again(first, group)
    expect([made.group.revision, made.unconcluded]).toEqual([2, []])
    await expect(again(second, group, byName(members))).rejects.toThrow('ta1')
    const car = await makeCar(founded(made.group))
    await keyFrom(made.group, car, await ticketFor(founded(made.group), car), [at(1), at(2)])
  })

  test('is abandoned as well by one that deals nothing in the next ceremony', async () => {
    const { group } = await run(foundingOf(world, 2), world.authorities)
    await signedByTa1(refreshOf(group), group)
    const next = await run(await resharedToItself(group, [1, 2], 2), world.authorities, group)
    expect([next.group.revision, next.group.document.signatures.length]).toEqual([2, 2])
  })

  test('is not abandoned by a result that came before its own', async () => {
    const { group } = await run(foundingOf(world, 2), world.authorities)
    const [first, second] = [refreshOf(group), refreshOf(group)]
    await acceptBy(world.authorities, second)
    await expect(again(second, group, stoppedAt('result', 'ta1'))).rejects.toThrow('ta1, result')
    await signedByTa1(first, group)
    // ta2 and ta3 have spoken in the second before there was anything to abandon: ta1 knows nothing of what they do now.
    await expect(again(second, group)).rejects.toThrow(
      'ta1, sign: this authority has signed another document with that number',
    )
    const made = await again(first, group)
    expect([made.group.revision, made.unconcluded]).toEqual([2, []])
  })

  test('is never signed by one whose operator has said no after its result', async () => {
    const { group } = await run(foundingOf(world, 2), world.authorities)
    const proposal = refreshOf(group)
    const rounds = await signedByTa1(proposal, group)
    const body = { hash: toBase64Url(ceremonyHash(proposal)), reason: 'a strange fingerprint' }
    await at(1).admin.reject({ body })
    expect(await signs(1, proposal, rounds)).toBe('EXPIRED')
  })
})

describe('at the end', () => {
  test('one that has died keeps nobody from the document, and concludes when it is back', async () => {
    const { group } = await run(foundingOf(world, 2), world.authorities)
    const proposal = refreshOf(group)
    await acceptBy(world.authorities, proposal)
    let lines: string[] = []
    const run2 = (clients: Map<string, CeremonyClient>, written: readonly string[] = []) => {
      lines = []
      return ceremonyRun({
        proposal,
        clients,
        revisions: group.documents,
        written,
        onTranscript: line => lines.push(line),
      })
    }
    await expect(run2(stoppedAt('conclude', 'ta1', 'ta3'))).rejects.toThrow('ta1, conclude')
    const transcript = lines
    const down = () => Promise.reject(new Refused('RETRY_LATER', { detail: 'down' }))
    const dead = { ...(byName(world.authorities).get('ta3') as CeremonyClient), joinCeremony: down }
    const gone = stoppedAt('conclude', 'ta3').set('ta3', {
      ...dead,
      ceremonyRound: down,
      signCeremony: down,
      concludeCeremony: down,
    })
    // Without the transcript there is nobody who knows what it has said; a line cut off in the middle is asked for again.
    await expect(run2(gone)).rejects.toThrow('ta3, join')
    await expect(run2(gone, transcript.with(-2, '{"round":"result","mess'))).rejects.toThrow('ta3, result')
    const made = await run2(gone, transcript)
    expect(lines.slice(0, -1)).toEqual(transcript.slice(0, -1))
    expect(await verifyTranscript(lines)).toMatchObject({ valid: true })
    expect(made.group.revision).toBe(2)
    expect(made.unconcluded).toEqual([{ name: 'ta3', why: 'ta3, conclude: down (RETRY_LATER)' }])
    const car = await makeCar(founded(made.group))
    const ticket = await ticketFor(founded(made.group), car)
    const key = await keyFrom(made.group, car, ticket, [at(0), at(1)])
    expect((await run2(byName(world.authorities))).unconcluded).toEqual([])
    expect((await keyFrom(made.group, car, ticket, [at(0), at(2)])).equals(key)).toBe(true)
  })

  test('t signatures are enough, but of a founding all', async () => {
    const proposal = foundingOf(world, 2)
    await acceptBy(world.authorities, proposal)
    const clients = stoppedAt('sign', 'ta2')
    await expect(ceremonyRun({ proposal, clients })).rejects.toThrow('ta2, sign')
    const { group } = await ceremonyRun({ proposal, clients: byName(world.authorities) })
    const refresh = refreshOf(group)
    await acceptBy(world.authorities, refresh)
    const made = await ceremonyRun({ proposal: refresh, clients, revisions: group.documents })
    expect([made.group.document.signatures.length, made.unconcluded]).toEqual([2, []])
  })
})
