/** Authorities that take part in ceremonies inside the test's process; records go through JSON, as through a store. */
import {
  Ceremony,
  type CeremonyPorts,
  type CeremonyProposal,
  type CeremonyRecord,
  type CeremonyRounds,
  ceremonyMove,
  ceremonySign,
  type Predecessor,
  ROUNDS,
  type Round,
  type Shares,
  sharesOf,
} from '@milagro-ts/api/ceremony'
import { documentHash, Group } from '@milagro-ts/api/group'
import type { GroupDocument, GroupProposal } from '@milagro-ts/api/group-document'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { sha256 } from '@milagro-ts/crypto/sha256'
import { PURPOSES, type Purpose, SUITE } from '@milagro-ts/crypto/suite'
import { fixedRandom } from './fixed-random.js'
import { makeMembers, type Party } from './founding-members.js'

export const noLedger = async () => ({ entries: 0, hash: sha256(new Uint8Array()) })

/** One authority in one ceremony. */
export class TestParticipant {
  readonly party: Party
  readonly ceremony: Ceremony
  readonly ports: CeremonyPorts
  record: CeremonyRecord | null = null

  constructor(party: Party, ceremony: Ceremony, more: Partial<CeremonyPorts> = {}) {
    this.party = party
    this.ceremony = ceremony
    this.ports = {
      name: party.name,
      key: party.signKey,
      random: fixedRandom(`${party.name} ${toBase64Url(ceremony.hash)}`),
      ledger: noLedger,
      ...more,
    }
  }

  async move(round: Round, rounds: CeremonyRounds): Promise<string> {
    const record = await ceremonyMove(this.ceremony, this.record, round, rounds, this.ports)
    this.record = JSON.parse(JSON.stringify(record)) as CeremonyRecord
    return this.record.said[round] as string
  }

  sign(rounds: CeremonyRounds) {
    return ceremonySign(this.ceremony, this.record, rounds, this.ports)
  }

  get shares(): Shares {
    return sharesOf(this.record as CeremonyRecord)
  }
}

/** All rounds up to and with `last`, through participants in the ceremony's order. */
export async function runRounds(
  participants: readonly TestParticipant[],
  last: Round = 'result',
): Promise<CeremonyRounds> {
  const { ceremony } = participants[0] as TestParticipant
  const rounds: CeremonyRounds = []
  for (const round of ROUNDS.slice(0, ROUNDS.indexOf(last) + 1)) {
    const messages: string[] = []
    for (const { name } of ceremony.speakers(round)) {
      const participant = participants.find(({ party }) => party.name === name) as TestParticipant
      messages.push(await participant.move(round, rounds))
    }
    rounds.push(messages)
  }
  return rounds
}

/** The document with all signatures of those who sign. */
export async function signed(
  participants: readonly TestParticipant[],
  rounds: CeremonyRounds,
): Promise<GroupDocument> {
  const answers = await Promise.all(participants.map(participant => participant.sign(rounds)))
  const signatures = answers.flatMap(({ signature }) => (signature === null ? [] : [signature]))
  return { ...(answers[0] as (typeof answers)[number]).document, signatures }
}

export interface Founded {
  readonly group: Group
  readonly parties: readonly Party[]
  readonly participants: readonly TestParticipant[]
  readonly rounds: CeremonyRounds
  readonly proposal: CeremonyProposal
}

export async function foundingProposal({ n, t }: { n: number; t: number }) {
  const members = await makeMembers({ n })
  const group: GroupProposal = { ...members.proposal, t }
  const proposal: CeremonyProposal = { suite: 'BLS12381-SHA256-V1', v: 1, kind: 'found', group }
  return { proposal, parties: members.authorities }
}

export async function foundByCeremony(size: { n: number; t: number }): Promise<Founded> {
  const { proposal, parties } = await foundingProposal(size)
  const ceremony = Ceremony.read(proposal)
  const participants = parties.map(party => new TestParticipant(party, ceremony))
  const rounds = await runRounds(participants)
  return {
    group: await Group.verifyFirst(await signed(participants, rounds)),
    parties,
    participants,
    rounds,
    proposal,
  }
}

export function refreshProposal(
  group: Pick<Predecessor, 'groupId' | 'document'>,
  seed = 'refresh',
): CeremonyProposal {
  return {
    suite: 'BLS12381-SHA256-V1',
    v: 1,
    kind: 'refresh',
    groupId: toBase64Url(group.groupId),
    previous: toBase64Url(documentHash(group.document)),
    nonce: toBase64Url(fixedRandom(seed)(32)),
  }
}

export function rotateProposal(
  group: Pick<Predecessor, 'groupId' | 'document'>,
  {
    firstSlot,
    purposes = [...PURPOSES],
    nonce = toBase64Url(fixedRandom(`rotate ${firstSlot}`)(32)),
  }: { firstSlot: number; purposes?: Purpose[]; nonce?: string },
): CeremonyProposal {
  return {
    suite: SUITE,
    v: 1,
    kind: 'rotate',
    groupId: toBase64Url(group.groupId),
    previous: toBase64Url(documentHash(group.document)),
    purposes,
    firstSlot,
    nonce,
  }
}

/** `members`: the new group, in the order of its indices. */
export function reshareProposal(
  group: Pick<Predecessor, 'groupId' | 'document'>,
  {
    dealers,
    t,
    members,
    seed = 'reshare',
  }: { dealers: number[]; t: number; members: readonly Party[]; seed?: string },
): CeremonyProposal {
  return {
    suite: 'BLS12381-SHA256-V1',
    v: 1,
    kind: 'reshare',
    groupId: toBase64Url(group.groupId),
    previous: toBase64Url(documentHash(group.document)),
    dealers,
    n: members.length,
    t,
    authorities: members.map(({ name, signKey, hpkeKey }, i) => ({
      index: i + 1,
      name,
      url: `http://${name}.example`,
      signKey: signKey.publicKey.toBase64Url(),
      hpkeKey,
    })),
    nonce: toBase64Url(fixedRandom(seed)(32)),
  }
}
