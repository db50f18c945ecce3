/** The story of a group through its ceremonies: founded 2 of 3, refreshed, handed on to others, and nobody ever held a secret. */
import { Ceremony } from '@milagro-ts/api/ceremony'
import type { Group } from '@milagro-ts/api/group'
import { G1 } from '@milagro-ts/crypto/points'
import { recombineSecret } from '@milagro-ts/crypto/secret-sharing'
import { PURPOSES, type Purpose } from '@milagro-ts/crypto/suite'
import { describe, expect, test } from 'vitest'
import {
  type Founded,
  foundByCeremony,
  refreshProposal,
  reshareProposal,
  runRounds,
  signed,
  TestParticipant,
} from './ceremony-members.js'
import { makeMembers, type Party } from './founding-members.js'

/** sP1 of the members with these indices together. */
const together = (
  participants: readonly TestParticipant[],
  indices: readonly number[],
  purpose: Purpose,
): G1 =>
  G1.generator.mulSecret(
    recombineSecret(
      participants.flatMap(({ ceremony, party, shares }) => {
        const index = ceremony.participant(party.name)?.member
        const scalar = shares.get(purpose)
        return index !== undefined && scalar !== undefined && indices.includes(index)
          ? [{ index, scalar }]
          : []
      }),
    ),
  )

const expectKeys = (group: Group, participants: readonly TestParticipant[], sets: readonly number[][]) => {
  for (const purpose of PURPOSES)
    for (const set of sets)
      expect(together(participants, set, purpose).equals(group.keys(purpose).ivk)).toBe(true)
}

const sharesBefore = ({ participants }: Pick<Founded, 'participants'>) =>
  new Map(participants.map(({ party, shares }) => [party.name, shares]))

async function refresh(before: Founded): Promise<Founded> {
  const proposal = refreshProposal(before.group)
  const ceremony = Ceremony.read(proposal, before.group)
  const old = sharesBefore(before)
  const participants = before.parties.map(party => {
    const current = old.get(party.name)
    return new TestParticipant(party, ceremony, current === undefined ? {} : { current })
  })
  const rounds = await runRounds(participants)
  const group = await before.group.verifyNext(await signed(participants, rounds))
  return { group, parties: before.parties, participants, rounds, proposal }
}

async function reshare(
  before: Founded,
  terms: { dealers: number[]; t: number; members: readonly Party[] },
): Promise<Founded> {
  const proposal = reshareProposal(before.group, terms)
  const ceremony = Ceremony.read(proposal, before.group)
  const old = sharesBefore(before)
  const everybody = [...new Set([...terms.members, ...before.parties])].filter(
    ({ name }) => ceremony.participant(name) !== undefined,
  )
  const participants = everybody.map(party => {
    const current = old.get(party.name)
    return new TestParticipant(party, ceremony, current === undefined ? {} : { current })
  })
  const rounds = await runRounds(participants)
  const group = await before.group.verifyNext(await signed(participants, rounds))
  return { group, parties: terms.members, participants, rounds, proposal }
}

describe('a group', () => {
  test('2 of 3, refreshed, then handed on to four of whom three are new', async () => {
    const founded = await foundByCeremony({ n: 3, t: 2 })
    expectKeys(founded.group, founded.participants, [
      [1, 2],
      [1, 3],
      [2, 3],
    ])
    expect(together(founded.participants, [1], 'device').equals(founded.group.keys('device').ivk)).toBe(false)

    const refreshed = await refresh(founded)
    expectKeys(refreshed.group, refreshed.participants, [
      [1, 2],
      [2, 3],
    ])
    for (const purpose of PURPOSES) {
      const [before, after] = [founded.group.keys(purpose), refreshed.group.keys(purpose)]
      expect(after.ivk.equals(before.ivk)).toBe(true)
      after.commitments.forEach((C, i) => {
        expect(C.equals(before.commitments[i] as G1)).toBe(false)
      })
    }

    const strangers = (await makeMembers({ n: 6 })).authorities.slice(3)
    const members = [founded.parties[2] as Party, ...strangers]
    const handed = await reshare(refreshed, { dealers: [1, 3], t: 3, members })
    expect([handed.group.n, handed.group.t, handed.group.revision]).toEqual([4, 3, 3])
    expectKeys(handed.group, handed.participants, [
      [1, 2, 3],
      [2, 3, 4],
    ])
    for (const purpose of PURPOSES)
      expect(handed.group.keys(purpose).ivk.equals(founded.group.keys(purpose).ivk)).toBe(true)
  })

  test('3 of 3 becomes 2 of 3', async () => {
    const founded = await foundByCeremony({ n: 3, t: 3 })
    const lowered = await reshare(founded, { dealers: [1, 2, 3], t: 2, members: founded.parties })
    expectKeys(lowered.group, lowered.participants, [
      [1, 2],
      [1, 3],
      [2, 3],
    ])
  })
})
