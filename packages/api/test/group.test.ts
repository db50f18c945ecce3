import { readFileSync } from 'node:fs'
import { canonicalBytes } from '@milagro-ts/api/canonical-json'
import { checkProposal, documentHash, Group, groupIdOf } from '@milagro-ts/api/group'
import type { GroupDocument } from '@milagro-ts/api/group-document'
import { type Es256PrivateKey, generateEs256 } from '@milagro-ts/api/keys'
import { Refused } from '@milagro-ts/api/problem'
import { fromUtf8, toBase64Url, toHex } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { G1, G2 } from '@milagro-ts/crypto/points'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { splitSecret } from '@milagro-ts/crypto/secret-sharing'
import { PURPOSES } from '@milagro-ts/crypto/suite'
import { beforeAll, describe, expect, test } from 'vitest'
import { fixedRandom } from './fixed-random.js'
import {
  type Fixture,
  keysOf,
  makeGroup,
  nextRevision,
  publicKeysOf,
  reshare,
  reshared,
  signedBy,
} from './group-fixture.js'

let fixture: Fixture
let keys: Es256PrivateKey[]
beforeAll(async () => {
  fixture = await makeGroup({ n: 3, t: 2 })
  keys = keysOf(fixture.members)
})

const copy = (document: GroupDocument): GroupDocument => structuredClone(document)
const pointOf = (scalar: number) => toBase64Url(G1.generator.mulPublic(Scalar.fromNumber(scalar)).encode())
const pubOf = (scalar: number) => toBase64Url(G2.generator.mulPublic(Scalar.fromNumber(scalar)).encode())
/** 32 bytes leave two bits of the last character unused: the same bytes, said differently. */
const secondSpelling = (text: string) => {
  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'
  return text.slice(0, -1) + alphabet[alphabet.indexOf(text.at(-1) as string) + 1]
}
const code = (error: unknown) => (error instanceof Refused ? error.code : error)

describe('the group document of the independent implementation', () => {
  const { general } = JSON.parse(
    readFileSync(new URL('../../../vectors/v1.json', import.meta.url), 'utf8'),
  ) as { general: { groupDocument: { jcs: string; groupId: string } } }
  const { jcs, groupId } = general.groupDocument
  const document = { ...JSON.parse(jcs), signatures: [] } as GroupDocument

  test('has its canonical form and its groupId', () => {
    const { signatures: _, ...unsigned } = document
    expect(fromUtf8(canonicalBytes(unsigned), 'jcs')).toBe(jcs)
    expect(toHex(groupIdOf(document))).toBe(groupId)
  })

  test('holds in everything but the signatures, which it was published without', async () => {
    await expect(Group.verifyFirst(document)).rejects.toThrow('NOT_APPROVED: 0 signatures, 3 needed')
  })
})

test('signatures are outside the hash, everything else is inside', async () => {
  const { document, group } = fixture
  expect(documentHash({ ...document, signatures: [] })).toEqual(group.groupId)
  expect(documentHash({ ...document, policy: { lead: 2, grace: 300 } })).not.toEqual(group.groupId)
})

test('what a group has read does not change with the object it was read from', async () => {
  const document = copy(fixture.document)
  const group = await Group.verifyFirst(document)
  document.ra.m = 0
  expect(group.document).toEqual(fixture.document)
  expect(Object.isFrozen(group.document.ra.keys[0])).toBe(true)
})

test('a verified group gives its members, keys and epochs', async () => {
  const { group, members } = fixture
  expect(group.authority(2)?.name).toBe('ta2')
  expect(group.authority(2)?.signKey.equals(members.authorities[1]?.signKey.publicKey as never)).toBe(true)
  expect([group.authority(0), group.authority(4)]).toEqual([undefined, undefined])
  expect(group.recipient('rps')?.purposes).toEqual(['device', 'pin'])
  expect(group.recipient('nobody')).toBeUndefined()
  expect(group.raKeys.m).toBe(1)
  expect([group.n, group.t, group.revision]).toEqual([3, 2, 1])
  expect(group.epochAt('device', 7)).toBe(1)
})

describe('a first revision is refused, even with every signature, for', () => {
  const random = fixedRandom('other')
  const cases: Record<string, [change: (document: GroupDocument) => unknown, field: RegExp]> = {
    'an IVK that is not the sum of the shares': [d => (d.purposes.device.ivk = pointOf(7)), /device\.ivk/],
    'a commitment that is not on the polynomial': [
      d => (d.purposes.agree.shares[2] = pointOf(7)),
      /agree\.ivk/,
    ],
    'two commitments swapped': [d => d.purposes.pin.shares.reverse(), /pin\.ivk/],
    'a commitment too few': [d => d.purposes.pin.shares.pop(), /pin\.shares/],
    'a public key of another secret': [d => (d.purposes.permit.pub = pubOf(7)), /permit\.pub/],
    'a public key that is missing': [d => delete d.purposes.sign.pub, /sign\.pub/],
    'a multiple of the pin secret in G2': [
      d => (d.purposes.pin.pub = toBase64Url(G2.generator.mulSecret(fixture.secrets.pin).encode())),
      /pin\.pub/,
    ],
    'a point at infinity': [
      d => (d.purposes.device.ivk = toBase64Url(Uint8Array.of(0xc0, ...new Uint8Array(47)))),
      /device\.ivk/,
    ],
    'a point that is not on the curve': [
      d => (d.purposes.device.shares[0] = toBase64Url(random(48))),
      /device\.shares\.1/,
    ],
    'a key in a second spelling of its base64url': [
      d => (d.authorities[0]!.hpkeKey = secondSpelling(d.authorities[0]!.hpkeKey)),
      /authorities\.0\.hpkeKey/,
    ],
    'a t that two halves reach': [d => (d.t = 1), /^t$/],
    'a t that cannot be reached': [d => (d.t = 4), /^t$/],
    'indices out of order': [d => d.authorities.reverse(), /authorities/],
    'an index that stands twice': [d => (d.authorities[1]!.index = 1), /authorities/],
    'one name for two authorities': [d => (d.authorities[1]!.name = 'ta1'), /authorities\.name/],
    'one signing key for two authorities': [
      d => (d.authorities[1]!.signKey = d.authorities[0]!.signKey),
      /authorities\.signKey/,
    ],
    'a signing key off the curve': [
      d => (d.authorities[1]!.signKey = toBase64Url(Uint8Array.of(2, ...new Uint8Array(31), 1))),
      /authorities\.2\.signKey/,
    ],
    'two recipients of pin': [d => d.recipients[1]?.purposes.push('pin'), /recipients/],
    'no recipient of pin': [d => d.recipients[0]?.purposes.pop(), /recipients/],
    'a recipient of a purpose that has no server keys': [
      d => d.recipients[1]?.purposes.push('permit'),
      /recipients\.purposes/,
    ],
    'one name for two recipients': [d => (d.recipients[1]!.name = 'rps'), /recipients\.name/],
    'one request key for two recipients': [
      d => (d.recipients[1]!.requestKey = d.recipients[0]!.requestKey),
      /recipients\.requestKey/,
    ],
    'a recipient whose name is not a server name': [d => (d.recipients[1]!.name = 'a-.b'), /name/],
    'more RA signatures than RA keys': [d => (d.ra.m = 2), /ra\.m/],
    'one RA key under two names': [
      d => {
        d.ra.m = 2
        d.ra.keys.push({ kid: 'ra2', key: d.ra.keys[0]!.key })
      },
      /ra\.key/,
    ],
    'one RA name for two keys': [
      d => d.ra.keys.push({ kid: 'ra1', key: d.authorities[0]!.signKey }),
      /ra\.kid/,
    ],
    'a field that nobody knows': [d => Object.assign(d, { extra: 1 }), /group/],
    'another suite': [d => Object.assign(d, { suite: 'BLS12381-SHA256-V2' }), /group\.suite/],
    'a groupId of its own': [d => (d.groupId = toBase64Url(random(32))), /groupId/],
    'a predecessor': [d => (d.previous = toBase64Url(random(32))), /previous/],
  }
  test.each(Object.entries(cases))('%s', async (_cause, [change, field]) => {
    const fake = copy(fixture.document)
    change(fake)
    const error = await Group.verifyFirst(await signedBy(fake, keys)).catch((error: unknown) => error)
    expect(error).toBeInstanceOf(DecodeError)
    expect((error as DecodeError).field).toMatch(field)
  })

  test('what is no document at all', async () => {
    for (const value of [undefined, null, 1, 'x', [], {}])
      await expect(Group.verifyFirst(value)).rejects.toBeInstanceOf(DecodeError)
  })
})

describe('signatures of a first revision', () => {
  test('every authority must have signed', async () => {
    const missing = await signedBy(fixture.document, [keys[0], undefined, keys[2]])
    expect(code(await Group.verifyFirst(missing).catch(e => e))).toBe('NOT_APPROVED')
  })

  test('one authority does not sign for another', async () => {
    const [first, second] = fixture.document.signatures
    const twice = {
      ...fixture.document,
      signatures: [first!, { ...second!, index: 1 }, { ...first!, index: 3 }],
    }
    await expect(Group.verifyFirst(twice)).rejects.toBeInstanceOf(DecodeError)
    const swapped = await signedBy(fixture.document, [keys[0], keys[0], keys[2]])
    expect(code(await Group.verifyFirst(swapped).catch(e => e))).toBe('NOT_APPROVED')
  })

  test('a stranger does not sign, not even beside all members', async () => {
    const stranger = await generateEs256()
    const added = await signedBy(fixture.document, [...keys, stranger])
    expect(code(await Group.verifyFirst(added).catch(e => e))).toBe('NOT_APPROVED')
  })

  test('a signature is for one document', async () => {
    const other = { ...copy(fixture.document), policy: { lead: 64, grace: 300 } }
    expect(code(await Group.verifyFirst(other).catch(e => e))).toBe('NOT_APPROVED')
  })

  test('a group that signed itself is not the pinned one', async () => {
    const other = await signedBy({ ...copy(fixture.document), policy: { lead: 64, grace: 300 } }, keys)
    await expect(Group.verifyFirst(other)).resolves.toBeInstanceOf(Group)
    expect(code(await Group.verifyChain([other], fixture.group.groupId).catch(e => e))).toBe('NOT_APPROVED')
  })
})

describe('the next revision', () => {
  const next = nextRevision
  const step = async (change: (document: GroupDocument) => unknown, signers = keys) =>
    fixture.group.verifyNext(await signedBy(next(fixture.group, change), signers))

  test('moves an address, with t signatures', async () => {
    const group = await step(d => (d.authorities[1]!.url = 'https://moved.example'), keys.slice(0, 2))
    expect(group.revision).toBe(2)
    expect(group.groupId).toEqual(fixture.group.groupId)
    expect(group.authority(2)?.url).toBe('https://moved.example')
    const again = await Group.verifyChain(group.documents, fixture.group.groupId)
    expect(again.document).toEqual(group.document)
  })

  test('the one in force again changes nothing', async () => {
    expect(await fixture.group.verifyNext(fixture.document)).toBe(fixture.group)
  })

  test('an authority checks it before anybody has signed', async () => {
    const document = next(fixture.group)
    expect(await fixture.group.checkNext(document)).toEqual(documentHash(document))
    await expect(fixture.group.checkNext({ ...document, revision: 3 })).rejects.toThrow('CONFLICT')
  })

  test('needs t signatures', async () => {
    const error = await step(() => undefined, keys.slice(0, 1)).catch(e => e)
    expect(code(error)).toBe('NOT_APPROVED')
  })

  test('is signed by the authorities of the one before, not by those it names', async () => {
    const strangers = await Promise.all([generateEs256(), generateEs256(), generateEs256()])
    const takeOver = (d: GroupDocument) => {
      for (const [i, key] of strangers.entries()) d.authorities[i]!.signKey = key.publicKey.toBase64Url()
    }
    expect(code(await step(takeOver, strangers).catch(e => e))).toBe('NOT_APPROVED')
    const changed = await step(takeOver, keys)
    const after = await signedBy(next(changed), keys)
    expect(code(await changed.verifyNext(after).catch(e => e))).toBe('NOT_APPROVED')
    await expect(changed.verifyNext(await signedBy(next(changed), strangers))).resolves.toBeInstanceOf(Group)
  })

  test.each<[string, (document: GroupDocument) => unknown, string]>([
    ['skips a number', d => (d.revision = 3), 'CONFLICT'],
    ['follows another document', d => (d.previous = toBase64Url(new Uint8Array(32))), 'CONFLICT'],
    ['belongs to another group', d => (d.groupId = toBase64Url(new Uint8Array(32))), 'NOT_APPROVED'],
    ['moves the slots', d => (d.slot.origin += 1), 'CONFLICT'],
    ['stretches the slots', d => (d.slot.length *= 2), 'CONFLICT'],
    ['jumps over a key epoch', d => (d.purposes.device.epoch = 3), 'CONFLICT'],
    ['starts a key epoch before the one before it', d => (d.purposes.device.epoch = 2), 'CONFLICT'],
    ['moves the start of its key epoch', d => (d.purposes.device.firstSlot = 1), 'CONFLICT'],
    [
      'changes a master secret within its epoch',
      d => {
        const secret = Scalar.fromNumber(7)
        const shares = splitSecret(secret, { t: 2, n: 3 }, fixedRandom('new secret'))
        d.purposes.device = publicKeysOf(
          'device',
          secret,
          shares.map(({ scalar }) => scalar),
        )
      },
      'CONFLICT',
    ],
  ])('is refused when it %s', async (_cause, change, expected) => {
    expect(code(await step(change).catch(e => e))).toBe(expected)
  })

  test('does not go back, nor sideways', async () => {
    const two = await step(d => (d.policy.lead = 0))
    const three = await two.verifyNext(await signedBy(next(two), keys))
    for (const old of [fixture.document, two.document])
      expect(code(await three.verifyNext(old).catch(e => e))).toBe('CONFLICT')
    const fork = await signedBy(
      next(fixture.group, d => (d.policy.lead = 9)),
      keys,
    )
    expect(code(await two.verifyNext(fork).catch(e => e))).toBe('CONFLICT')
    const { groupId } = fixture.group
    expect(code(await Group.verifyChain([fixture.document, three.document], groupId).catch(e => e))).toBe(
      'CONFLICT',
    )
    await expect(Group.verifyChain([two.document], groupId)).rejects.toThrow('CONFLICT: not a first revision')
  })

  test('refreshes shares under the same key', async () => {
    const random = fixedRandom('refresh')
    const shares = splitSecret(fixture.secrets.device, { t: 2, n: 3 }, random).map(({ scalar }) => scalar)
    const group = await step(
      d => (d.purposes.device = publicKeysOf('device', fixture.secrets.device, shares)),
    )
    const before = fixture.group.keys('device')
    expect(group.keys('device').ivk.equals(before.ivk)).toBe(true)
    expect(group.keysAt('device', 0)?.commitments[0]?.equals(before.commitments[0] as G1)).toBe(false)
  })

  test('rotates a key from a slot on: the slot fixes the epoch', async () => {
    const random = fixedRandom('rotation')
    const secret = Scalar.random(random)
    const shares = splitSecret(secret, { t: 2, n: 3 }, random).map(({ scalar }) => scalar)
    const rotated = publicKeysOf('permit', secret, shares, { epoch: 2, firstSlot: 50 })
    const group = await step(d => (d.purposes.permit = { ...rotated, former: [d.purposes.permit] }))
    expect([0, 49, 50, 51].map(slot => group.epochAt('permit', slot))).toEqual([1, 1, 2, 2])
    expect(group.keysAt('permit', 49)?.pub?.equals(fixture.group.keys('permit').pub as G2)).toBe(true)
    expect(group.keys('permit').epoch).toBe(2)
  })
})

describe('a reshare', () => {
  let founded: Fixture
  beforeAll(async () => {
    founded = await makeGroup({ n: 3, t: 3 })
  })
  /** What readers of the new revision say, when `signers` have signed it. */
  const read = async (
    before: Fixture,
    document: GroupDocument,
    signers: readonly (Es256PrivateKey | undefined)[],
  ) =>
    before.group.verifyNext(await signedBy(document, signers)).then(
      group => group,
      (error: unknown) => (error instanceof DecodeError ? error.field : code(error)),
    )

  test('lowers t, grows, and replaces a member, one share epoch each; every key stays', async () => {
    expect(founded.group.shareEpoch).toBe(1)
    const lowered = await reshared(founded, { t: 2 })
    expect([lowered.group.n, lowered.group.t, lowered.group.shareEpoch]).toEqual([3, 2, 2])
    const grown = await reshared(lowered, { t: 3, authorities: [1, 2, 3, 'ta4', 'ta5'] })
    expect([grown.group.n, grown.group.t, grown.group.shareEpoch]).toEqual([5, 3, 3])
    expect(grown.group.authority(5)?.name).toBe('ta5')
    const replaced = await reshared(grown, { authorities: [1, 'ta6', 4, 5, 3] })
    expect(replaced.group.authorities.map(({ name }) => name)).toEqual(['ta1', 'ta6', 'ta4', 'ta5', 'ta3'])
    const refreshed = await reshared(replaced)
    expect([refreshed.group.revision, refreshed.group.shareEpoch]).toEqual([5, 5])
    for (const purpose of PURPOSES) {
      const [first, last] = [founded.group.keys(purpose), refreshed.group.keys(purpose)]
      expect([last.ivk.encode(), last.pub?.encode()]).toEqual([first.ivk.encode(), first.pub?.encode()])
      expect(last.commitments).toHaveLength(5)
    }
    const again = await Group.verifyChain(refreshed.group.documents, founded.group.groupId)
    expect(again.shareEpoch).toBe(5)
    // The last two alone prove nothing to whoever pinned the group.
    const [first, ...later] = refreshed.group.documents
    const skipped = [first, ...later.slice(1)]
    expect(code(await Group.verifyChain(skipped, founded.group.groupId).catch(e => e))).toBe('CONFLICT')
    expect(code(await founded.group.verifyNext(refreshed.document).catch(e => e))).toBe('CONFLICT')
  })

  test('is no part of other revisions: their share epoch stays', async () => {
    const lowered = await reshared(founded, { t: 2 })
    const moved = nextRevision(lowered.group, d => (d.authorities[0]!.url = 'https://moved.example'))
    const group = await lowered.group.verifyNext(await signedBy(moved, keysOf(lowered.members)))
    expect([group.revision, group.shareEpoch]).toEqual([3, 2])
  })

  test('a change of one purpose’s shares is another share epoch for all', async () => {
    const { document } = await reshare(founded)
    const one = nextRevision(founded.group, d => (d.purposes.pin = document.purposes.pin))
    const group = await founded.group.verifyNext(await signedBy(one, keysOf(founded.members)))
    expect(group.shareEpoch).toBe(2)
  })

  test('is refused when half of the members would do', async () => {
    const grown = await reshare(founded, { t: 2, authorities: [1, 2, 3, 'ta4'] })
    expect(await read(founded, grown.document, keysOf(founded.members))).toBe('t')
  })

  test('is refused with the signatures of the new members only, or of t − 1 old ones', async () => {
    const lowered = await reshared(founded, { t: 2 })
    const { document, members } = await reshare(lowered, { authorities: ['ta4', 'ta5', 'ta6'] })
    const [old] = keysOf(lowered.members)
    expect(await read(lowered, document, keysOf(members))).toBe('NOT_APPROVED')
    expect(await read(lowered, document, [old])).toBe('NOT_APPROVED')
    expect(await read(lowered, document, [old, ...keysOf(members).slice(1)])).toBe('NOT_APPROVED')
    // The old ones go: those who sign what comes next are the new ones.
    expect(await read(lowered, document, keysOf(lowered.members).slice(0, 2))).toBeInstanceOf(Group)
    const gone = await reshared(lowered, { authorities: ['ta4', 'ta5', 'ta6'] })
    const after = nextRevision(gone.group, d => (d.policy.lead = 2))
    expect(await read(gone, after, keysOf(lowered.members))).toBe('NOT_APPROVED')
    expect(await read(gone, after, keysOf(gone.members))).toBeInstanceOf(Group)
  })

  test('is refused when one purpose gets another key, even from all members', async () => {
    const other = { ...founded, secrets: { ...founded.secrets, pin: Scalar.fromNumber(7) } }
    const { document } = await reshare(other, { t: 2 })
    expect(await read(founded, document, keysOf(founded.members))).toBe('CONFLICT')
    // The IVK of before over the shares of another secret.
    document.purposes.pin.ivk = founded.document.purposes.pin.ivk
    expect(await read(founded, document, keysOf(founded.members))).toBe('purposes.pin.ivk')
  })

  test('is refused when the public key changes under the same IVK', async () => {
    const { document } = await reshare(founded, { t: 2 })
    document.purposes.permit.pub = pubOf(7)
    expect(await read(founded, document, keysOf(founded.members))).toBe('purposes.permit.pub')
  })

  test('is refused when shares of degree t − 1 are missing, or one is of another polynomial', async () => {
    const { document } = await reshare(founded, { authorities: [1, 2, 3, 'ta4'] })
    const few = structuredClone(document)
    few.purposes.sign.shares.pop()
    expect(await read(founded, few, keysOf(founded.members))).toBe('purposes.sign.shares')
    const bent = structuredClone(document)
    bent.purposes.sign.shares[3] = pointOf(7)
    expect(await read(founded, bent, keysOf(founded.members))).toBe('purposes.sign.ivk')
  })

  test('t does not go up in name only: the old t would still do', async () => {
    const lowered = await reshared(founded, { t: 2 })
    const raised = nextRevision(lowered.group, d => (d.t = 3))
    expect(await read(lowered, raised, keysOf(lowered.members))).toBe('CONFLICT')
    const { document } = await reshare(lowered, { t: 3 })
    document.purposes.device = lowered.document.purposes.device
    expect(await read(lowered, document, keysOf(lowered.members))).toBe('CONFLICT')
  })
})

test('a proposal is checked like the document it becomes', () => {
  const { proposal } = fixture.members
  expect(checkProposal(structuredClone(proposal))).toEqual(proposal)
  expect(() => checkProposal({ ...proposal, recipients: [] })).toThrow(DecodeError)
  expect(() => checkProposal({ ...proposal, t: 1 })).toThrow(DecodeError)
  expect(() => checkProposal({ ...proposal, more: 1 })).toThrow(DecodeError)
})
