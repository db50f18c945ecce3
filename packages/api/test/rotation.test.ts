/** A group's life with rotations in it: key epochs beside each other, refreshed and handed on; what readers refuse. */
import { Ceremony, type CeremonyProposal, ceremonyHash, type Shares } from '@milagro-ts/api/ceremony'
import type { Group, PurposeKeys } from '@milagro-ts/api/group'
import type { GroupDocument } from '@milagro-ts/api/group-document'
import { deltaTerms, keyRotationPayload } from '@milagro-ts/api/key-rotation'
import { Refused } from '@milagro-ts/api/problem'
import { toBase64Url, toHex } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { deviceIdentityPoint, IdCore, NO_USER } from '@milagro-ts/crypto/identity'
import { G1 } from '@milagro-ts/crypto/points'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { combineG1, recombineSecret, splitSecret } from '@milagro-ts/crypto/secret-sharing'
import { authorityIssue, shareVerify } from '@milagro-ts/crypto/share-proof'
import { PURPOSES, type Purpose } from '@milagro-ts/crypto/suite'
import { beforeAll, describe, expect, test } from 'vitest'
import {
  foundByCeremony,
  refreshProposal,
  reshareProposal,
  rotateProposal,
  runRounds,
  signed,
  TestParticipant,
} from './ceremony-members.js'
import { fixedRandom } from './fixed-random.js'
import { makeMembers, type Party } from './founding-members.js'
import { keysOf, makeGroup, nextRevision, publicKeysOf, signedBy } from './group-fixture.js'

/** A group as it is in force, and what each member has of it: s_j by `purpose/epoch`. */
interface Life {
  readonly group: Group
  readonly parties: readonly Party[]
  readonly held: ReadonlyMap<string, ReadonlyMap<string, Scalar>>
}

async function found(): Promise<Life> {
  const { group, parties, participants } = await foundByCeremony({ n: 3, t: 2 })
  const held = participants.map(
    ({ party, shares, ceremony }) => [party.name, named(ceremony, shares)] as const,
  )
  return { group, parties, held: new Map(held) }
}

function named({ secrets }: Ceremony, shares: Shares): Map<string, Scalar> {
  return new Map(
    secrets.map(({ name, purpose, epoch }) => [`${purpose}/${epoch}`, shares.get(name) as Scalar]),
  )
}

async function hold(
  before: Life,
  proposal: CeremonyProposal,
  members: readonly Party[] = before.parties,
): Promise<Life> {
  const ceremony = Ceremony.read(proposal, before.group)
  const everybody = [...new Set([...members, ...before.parties])].filter(
    ({ name }) => ceremony.participant(name) !== undefined,
  )
  const participants = everybody.map(party => {
    const own = before.held.get(party.name)
    const current = new Map(
      ceremony.secrets.flatMap(({ name, purpose, epoch }) => {
        const share = own?.get(`${purpose}/${epoch}`)
        return share === undefined ? [] : [[name, share] as const]
      }),
    )
    return new TestParticipant(party, ceremony, own === undefined ? {} : { current })
  })
  const rounds = await runRounds(participants)
  const group = await before.group.verifyNext(await signed(participants, rounds))
  const held = participants
    .filter(({ party }) => members.includes(party))
    .map(({ party, shares }) => {
      const kept = proposal.kind === 'rotate' ? (before.held.get(party.name) ?? []) : []
      return [party.name, new Map([...kept, ...named(ceremony, shares)])] as const
    })
  return { group, parties: members, held: new Map(held) }
}

/** s of a kept epoch, out of the first t members' shares. */
const secretOf = ({ parties, held, group }: Life, purpose: Purpose, epoch: number): Scalar =>
  recombineSecret(
    parties.slice(0, group.t).map(({ name }, i) => ({
      index: i + 1,
      scalar: held.get(name)?.get(`${purpose}/${epoch}`) as Scalar,
    })),
  )

const idCore = IdCore.decode(Uint8Array.from({ length: 39 }, (_, i) => (i === 6 ? 2 : i)))

test('three key epochs side by side, refreshed and handed on; every delta leads to the key it says', async () => {
  const founded = await found()
  const second = await hold(founded, rotateProposal(founded.group, { firstSlot: 10 }))
  expect(second.group.epochs('device').map(({ epoch }) => epoch)).toEqual([2, 1])
  const third = await hold(second, rotateProposal(second.group, { firstSlot: 20 }))
  const refreshed = await hold(third, refreshProposal(third.group))
  const strangers = (await makeMembers({ n: 5 })).authorities.slice(3)
  const members = [third.parties[2] as Party, ...strangers]
  const handed = await hold(
    refreshed,
    reshareProposal(refreshed.group, { dealers: [1, 3], t: 2, members }),
    members,
  )
  expect([0, 9, 10, 19, 20, 999].map(slot => handed.group.epochAt('pin', slot))).toEqual([1, 1, 2, 2, 3, 3])

  const first = { device: secretOf(founded, 'device', 1), permit: secretOf(founded, 'permit', 1) }
  expect(handed.group.keysAt('permit', 5)?.ivk.equals(G1.generator.mulSecret(first.permit))).toBe(true)
  expect(secretOf(handed, 'device', 1).equals(first.device)).toBe(true)
  for (const life of [third, refreshed, handed])
    for (const purpose of PURPOSES)
      for (const { epoch, ivk } of life.group.epochs(purpose))
        expect(G1.generator.mulSecret(secretOf(life, purpose, epoch)).equals(ivk)).toBe(true)
  const C = ({ group }: Life) => group.keysOf('device', 1)?.commitments[0] as G1
  expect(C(refreshed).equals(C(third))).toBe(false)

  const { groupId } = handed.group
  const D = (epoch: number) =>
    deviceIdentityPoint(groupId, idCore).mulSecret(secretOf(handed, 'device', epoch))
  for (const [from, to] of [
    [1, 2],
    [2, 3],
    [1, 3],
  ] as const) {
    const rotation = { hpkeKey: fixedRandom('key')(32), device: { from, to } }
    const shares = handed.parties.slice(0, 2).map(({ name }, i) => {
      const own = handed.held.get(name) as ReadonlyMap<string, Scalar>
      const terms = deltaTerms(handed.group, rotation, { idCore }, 'device', i + 1)
      if (terms === null) throw new Error('no such step')
      const delta = (own.get(`device/${to}`) as Scalar).subtract(own.get(`device/${from}`) as Scalar)
      const share = authorityIssue(terms, delta, fixedRandom(name))
      expect(shareVerify(terms, share)).toBe(true)
      return { index: i + 1, point: share.d }
    })
    expect(D(from).add(combineG1(shares)).equals(D(to))).toBe(true)
  }

  const fourth = await hold(handed, rotateProposal(handed.group, { firstSlot: 30, purposes: ['device'] }))
  expect(fourth.group.epochs('device').map(({ epoch }) => epoch)).toEqual([4, 3, 2])
  expect(fourth.group.epochs('pin').map(({ epoch }) => epoch)).toEqual([3, 2, 1])
  expect(fourth.group.keysOf('device', 1)).toBeNull()
  // What is over is still known by the chain, for whoever looks at something old.
  expect(fourth.group.epochAt('device', 5)).toBe(1)
  const gone = { hpkeKey: fixedRandom('key')(32), device: { from: 1, to: 4 } }
  expect(deltaTerms(fourth.group, gone, { idCore }, 'device', 1)).toBeNull()
})

describe('a rotation ceremony', () => {
  let life: Life
  beforeAll(async () => {
    life = await found()
  })
  const proposed = (more: object) => () =>
    Ceremony.read({ ...rotateProposal(life.group, { firstSlot: 10 }), ...more }, life.group)

  test('wants purposes, each once, and a first slot after the one of the epoch before', () => {
    expect(proposed({ purposes: [] })).toThrow(DecodeError)
    expect(proposed({ purposes: ['device', 'device'] })).toThrow(DecodeError)
    expect(proposed({ purposes: ['nothing'] })).toThrow(DecodeError)
    expect(proposed({ firstSlot: 0 })).toThrow(DecodeError)
    expect(proposed({ previous: toBase64Url(new Uint8Array(32)) })).toThrow(Refused)
    expect(proposed({ nonce: toBase64Url(new Uint8Array(32).fill(3)) })).not.toThrow()
  })

  test('deals with all members, each of whom proves that it knows what it deals', async () => {
    const ceremony = Ceremony.read(
      rotateProposal(life.group, { firstSlot: 10, purposes: ['sign', 'device'] }),
      life.group,
    )
    expect(ceremony.dealers.map(({ dealer }) => dealer)).toEqual([1, 2, 3])
    // In the one order, whatever the proposal's.
    expect(ceremony.secrets.map(({ name, epoch }) => `${name} ${epoch}`)).toEqual(['device 2', 'sign 2'])
    const participants = life.parties.map(party => new TestParticipant(party, ceremony))
    const rounds = await runRounds(participants, 'commit')
    const opened = await Promise.all(participants.map(one => one.move('open', rounds)))
    const payload = (jws: string) =>
      JSON.parse(Buffer.from(jws.split('.')[1] as string, 'base64url').toString())
    for (const message of opened)
      for (const part of Object.values(payload(message).parts)) expect(part).toHaveProperty('possession')
    expect(toHex(ceremonyHash(ceremony.proposal))).toBe(toHex(ceremony.hash))
  })
})

describe('a document with a new key epoch', () => {
  const random = fixedRandom('documents')
  const newKeys = (purpose: Purpose, secret = Scalar.random(random), epoch = 2, firstSlot = 50) =>
    publicKeysOf(
      purpose,
      secret,
      splitSecret(secret, { t: 2, n: 3 }, random).map(({ scalar }) => scalar),
      { epoch, firstSlot },
    )
  let fixture: Awaited<ReturnType<typeof makeGroup>>
  beforeAll(async () => {
    fixture = await makeGroup()
  })
  const read = async (change: (document: GroupDocument) => void): Promise<string> => {
    const document = nextRevision(fixture.group, change)
    return fixture.group.verifyNext(await signedBy(document, keysOf(fixture.members))).then(
      () => 'taken',
      (error: unknown) => (error instanceof Refused ? error.code : (error as DecodeError).field),
    )
  }
  const rotated = (change: (device: GroupDocument['purposes']['device']) => void = () => undefined) =>
    read(d => {
      const former = structuredClone(d.purposes.device)
      d.purposes.device = { ...newKeys('device'), former: [former] }
      change(d.purposes.device)
    })
  const formerOf = (device: GroupDocument['purposes']['device']) =>
    (device.former as NonNullable<typeof device.former>)[0] as NonNullable<typeof device.former>[number]

  test('is taken with the former one in it, as it was', async () => {
    expect(await rotated()).toBe('taken')
  })

  test.each<[string, string, (device: GroupDocument['purposes']['device']) => void]>([
    ['without the former one', 'CONFLICT', device => delete device.former],
    ['with the former one twice', 'CONFLICT', device => device.former?.push(formerOf(device))],
    [
      'with another key for the former one',
      'CONFLICT',
      device => (device.former = [newKeys('device', undefined, 1, 0)]),
    ],
    ['with another first slot of the former one', 'CONFLICT', device => (formerOf(device).firstSlot = 1)],
    [
      'with the former one dealt anew',
      'CONFLICT',
      device => {
        const anew = newKeys('device', fixture.secrets.device, 1, 0)
        device.former = [anew]
      },
    ],
    ['an epoch further', 'CONFLICT', device => (device.epoch = 3)],
    ['that begins no later', 'CONFLICT', device => (device.firstSlot = 0)],
    [
      'whose IVK is not the sum of its shares',
      'purposes.device.ivk',
      device => {
        device.ivk = toBase64Url(G1.generator.mulSecret(Scalar.random(random)).encode())
      },
    ],
    [
      'with a public key for `device`',
      'purposes.device.pub',
      device => (device.pub = newKeys('sign').pub as string),
    ],
    [
      'with a share too few of the former one',
      'purposes.device.former.1.shares',
      device => formerOf(device).shares.pop(),
    ],
  ])('is refused %s', async (_, code, change) => {
    expect(await rotated(device => void change(device))).toBe(code)
  })

  test('is refused where the epoch stays and one is added, and in a first revision', async () => {
    expect(await read(d => (d.purposes.pin.former = [newKeys('pin', undefined, 0, 0)]))).toBe('CONFLICT')
    expect(
      await read(d => {
        const former = structuredClone(d.purposes.permit)
        d.purposes.permit = {
          ...newKeys('permit'),
          pub: formerPub(fixture.group.keys('permit')),
          former: [former],
        }
      }),
    ).toBe('purposes.permit.pub')
  })
  const formerPub = ({ pub }: PurposeKeys) => toBase64Url((pub as NonNullable<typeof pub>).encode())
})

describe('the terms of a delta', () => {
  test('have the payload’s hash as jti, both key epochs, and whose key it is', async () => {
    const founded = await found()
    const { group } = await hold(
      founded,
      rotateProposal(founded.group, { firstSlot: 10, purposes: ['device', 'pin'] }),
    )
    const hpkeKey = Uint8Array.from({ length: 32 }, (_, i) => i)
    const step = { from: 1, to: 2 }
    expect(toHex(keyRotationPayload({ hpkeKey, device: step, pin: step }))).toBe(
      `010000000c${toHex(new TextEncoder().encode('key-rotation'))}0200000020${toHex(hpkeKey)}` +
        '030000000400000001040000000400000002' +
        '050000000400000001060000000400000002',
    )
    const rotation = { hpkeKey, device: step, pin: step }
    const account = { userCore: NO_USER, pinGen: 7 }
    const device = deltaTerms(group, rotation, { idCore, account }, 'device', 1)
    const pin = deltaTerms(group, rotation, { idCore, account }, 'pin', 1)
    expect(toHex(device?.ctx as Uint8Array).endsWith('090000000400000001' + '0a0000000400000002')).toBe(true)
    expect(toHex(pin?.ctx as Uint8Array)).toContain('070000000400000007')
    expect(device?.commitment.equals(pin?.commitment as G1)).toBe(false)
    expect(() => deltaTerms(group, rotation, { idCore }, 'pin', 1)).toThrow(RangeError)
    expect(() => deltaTerms(group, rotation, { idCore }, 'device', 4)).toThrow(RangeError)
    expect(deltaTerms(group, { hpkeKey, pin: step }, { idCore }, 'device', 1)).toBeNull()
    expect(deltaTerms(group, { hpkeKey, device: { from: 2, to: 1 } }, { idCore }, 'device', 1)).toBeNull()
  })
})
