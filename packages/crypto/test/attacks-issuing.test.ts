/** Attacks on founding, issuing and enrolment (protocols.md §3, §9), as far as they show without servers. */
import { be32, concat, equalBytes, fromHex, toHex } from '@milagro-ts/crypto/bytes'
import {
  codeId,
  decodeEnrolmentCode,
  encodeEnrolmentCode,
  enrolmentKeyHash,
  enrolmentMac,
  sixWordIndices,
} from '@milagro-ts/crypto/enrolment'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { hashToG1, hashToScalar } from '@milagro-ts/crypto/hash-to-curve'
import {
  agreePointG2,
  checkIdCore,
  deviceIdentityPoint,
  encodeAttributes,
  encodeName,
  IdCore,
  type IdCoreFields,
  isServerName,
  issueIdCore,
  keyIdentityPoint,
  NO_USER,
  pinIdentityPoint,
  signIdentityPoint,
  userCoreOf,
} from '@milagro-ts/crypto/identity'
import { G1, G2, pairingProductIsOne } from '@milagro-ts/crypto/points'
import { type PossessionProof, possessionProve, possessionVerify } from '@milagro-ts/crypto/possession'
import { Scalar } from '@milagro-ts/crypto/scalar'
import {
  combineG1,
  combineG2,
  lagrangeAtZero,
  recombineSecret,
  splitSecret,
} from '@milagro-ts/crypto/secret-sharing'
import { authorityServerKeyShare, ServerKey, sameLogarithm } from '@milagro-ts/crypto/server-key'
import {
  authorityIssue,
  KeyShare,
  type ShareContext,
  shareContext,
  shareVerify,
  shareVerifyG2,
} from '@milagro-ts/crypto/share-proof'
import { AgreeSlotKey } from '@milagro-ts/crypto/static-agreement'
import { PURPOSES } from '@milagro-ts/crypto/suite'
import { permitInput, permitPoint } from '@milagro-ts/crypto/time-permit'
import { describe, expect, test } from 'vitest'
import {
  car,
  digestOf,
  driver,
  frozen,
  groupId,
  keysOf,
  makeCar,
  masters,
  mustBe,
  rule,
  SLOT,
  scalarOf,
  seeded,
} from './world.js'

const random = seeded('issuing')
const jti = digestOf('a ticket').slice(0, 16)
const { shares, commitments } = masters.device
const [first, second, third] = shares as [(typeof shares)[0], (typeof shares)[0], (typeof shares)[0]]
const C1 = mustBe(commitments[0])

const context: ShareContext = {
  groupId,
  purpose: 'device',
  index: 1,
  shareEpoch: 1,
  identity: car.bytes,
  jti,
}
const A = deviceIdentityPoint(groupId, car)
const statement = { ctx: shareContext(context), commitment: C1, A }
const honest = authorityIssue(statement, first.scalar, random)

describe('a share with its proof', () => {
  test('holds', () => {
    expect(shareVerify(statement, honest)).toBe(true)
    expect(honest.d.equals(A.mulSecret(first.scalar))).toBe(true)
  })

  const other = makeCar(6)
  test.each<[string, Partial<ShareContext>]>([
    ['group', { groupId: digestOf('another group') }],
    ['purpose', { purpose: 'sign' }],
    ['index', { index: 2 }],
    ['share epoch', { shareEpoch: 2 }],
    ['identity', { identity: other.bytes }],
    ['ticket', { jti: digestOf('another ticket').slice(0, 16) }],
    ['kind of issuing: a rotation', { rotation: { oldEpoch: 1, newEpoch: 2 } }],
  ])('is not one for another %s', (_, change) => {
    expect(shareVerify({ ...statement, ctx: shareContext({ ...context, ...change }) }, honest)).toBe(false)
  })

  test('is not one for another identity’s point, nor by another authority', () => {
    expect(shareVerify({ ...statement, A: deviceIdentityPoint(groupId, other) }, honest)).toBe(false)
    expect(shareVerify({ ...statement, commitment: mustBe(commitments[1]) }, honest)).toBe(false)
  })

  test('with another d, κ or z is refused', () => {
    const { d, kappa, z } = honest
    const one = Scalar.fromNumber(1)
    const wrong = [
      KeyShare.of(d.add(G1.generator), kappa, z),
      KeyShare.of(d.negate(), kappa, z),
      KeyShare.of(d, kappa.add(one), z),
      KeyShare.of(d, kappa, z.add(one)),
      KeyShare.of(d, z, kappa),
      KeyShare.of(d, Scalar.fromNumber(0), Scalar.fromNumber(0)),
    ]
    expect(wrong.map(share => shareVerify(statement, share))).toEqual(wrong.map(() => false))
  })

  test('of a liar who proves another secret is refused', () => {
    const s = scalarOf('not the one in C_1')
    expect(shareVerify(statement, authorityIssue(statement, s, random))).toBe(false)
    // … though it is a good proof for the commitment that fits.
    const fitting = { ...statement, commitment: G1.generator.mulSecret(s) }
    expect(shareVerify(fitting, authorityIssue(fitting, s, random))).toBe(true)
  })

  test('of a liar who multiplies A by something else but proves with s_j is refused', () => {
    const d = A.mulSecret(scalarOf('something else'))
    const k = scalarOf('k')
    const kappa = hashToScalar('DLEQ', concat(statement.ctx, d.encode()))
    expect(shareVerify(statement, KeyShare.of(d, kappa, k.subtract(kappa.multiply(first.scalar))))).toBe(
      false,
    )
  })

  test('a constant random source does not reveal s_j', () => {
    // Two proofs under one k: s = (z1 − z2)/(κ2 − κ1).
    const extract = (a: KeyShare, b: KeyShare) =>
      a.z.subtract(b.z).multiply(b.kappa.subtract(a.kappa).invert())
    const k = scalarOf('one k')
    const careless = ['κ1', 'κ2'].map(name => {
      const kappa = scalarOf(name)
      return KeyShare.of(honest.d, kappa, k.subtract(kappa.multiply(first.scalar)))
    }) as [KeyShare, KeyShare]
    expect(extract(...careless).equals(first.scalar)).toBe(true)

    const next = { ...statement, ctx: shareContext({ ...context, shareEpoch: 2 }) }
    const a = authorityIssue(statement, first.scalar, frozen)
    const b = authorityIssue(next, first.scalar, frozen)
    expect(extract(a, b).equals(first.scalar)).toBe(false)
  })

  test('asked twice with one source and one ticket: the same bytes, so nothing is learnt', () => {
    const [a, b] = [1, 2].map(() => toHex(authorityIssue(statement, first.scalar, frozen).encode()))
    expect(a).toBe(b)
  })
})

describe('a share of a server’s key of `agree`, in G2', () => {
  const s = scalarOf('master agree')
  const shares = splitSecret(s, { t: 2, n: 3 }, seeded('shares of agree'))
  const one = mustBe(shares[0])
  const party = { kind: 2, name: 'gw.example', generation: 1 } as const
  const named = (slot: number) => encodeName(groupId, { ...party, slot })
  const termsOf = (slot: number, index = 1) => ({
    ctx: shareContext({ groupId, purpose: 'agree', index, shareEpoch: 9, identity: named(slot), jti }),
    A: agreePointG2(named(slot)),
  })
  const agreed = { ...termsOf(SLOT), commitment: G1.generator.mulSecret(one.scalar) }
  const share = authorityIssue(agreed, one.scalar, seeded('a share in G2'))

  test('holds as it came, and combines to the key that IVK says', () => {
    const received = KeyShare.decodeG2(share.encode())
    expect(shareVerifyG2(agreed, received)).toBe(true)
    const points = shares.slice(0, 2).map(({ index, scalar }) => ({
      index,
      point: authorityIssue({ ...agreed, ...termsOf(SLOT, index) }, scalar, random).d,
    }))
    const owner = { groupId, party, slot: SLOT, epoch: 5 }
    const ivk = G1.generator.mulSecret(s)
    expect(AgreeSlotKey.verify(owner, ivk, combineG2(points))).not.toBeNull()
    expect(AgreeSlotKey.verify(owner, ivk, combineG2(points.slice(0, 1)))).toBeNull()
  })
  test('is no share for another slot, another authority’s commitment, or another secret', () => {
    const { d, kappa, z } = share
    const other = mustBe(shares[1])
    const wrong: [typeof agreed, typeof share][] = [
      [{ ...agreed, ...termsOf(SLOT + 1) }, share],
      [{ ...agreed, ctx: termsOf(SLOT, 2).ctx }, share],
      [{ ...agreed, commitment: G1.generator.mulSecret(other.scalar) }, share],
      [agreed, authorityIssue(agreed, other.scalar, random)],
      [agreed, KeyShare.of(d.add(G2.generator), kappa, z)],
      [agreed, KeyShare.of(d, kappa.add(Scalar.fromNumber(1)), z)],
      [agreed, KeyShare.of(d, kappa, z.add(Scalar.fromNumber(1)))],
    ]
    expect(wrong.map(([terms, forged]) => shareVerifyG2(terms, forged))).toEqual(wrong.map(() => false))
  })
  test('is refused where a share in G1 is wanted, and the other way round', () => {
    expect(() => KeyShare.decode(share.encode())).toThrow(DecodeError)
    expect(() => KeyShare.decodeG2(honest.encode())).toThrow(DecodeError)
  })
})

describe('the context of a share', () => {
  const pin: ShareContext = { ...context, purpose: 'pin', userCore: driver, pinGen: 1 }

  test('no two that differ are spelled alike', () => {
    const all: ShareContext[] = [
      context,
      pin,
      { ...pin, pinGen: 2 },
      { ...pin, userCore: NO_USER },
      { ...pin, userCore: digestOf('another driver') },
      ...PURPOSES.slice(2).map(purpose => ({ ...context, purpose })),
      { ...context, index: 255 },
      { ...context, rotation: { oldEpoch: 1, newEpoch: 2 } },
      { ...context, rotation: { oldEpoch: 2, newEpoch: 1 } },
    ]
    expect(new Set(all.map(one => toHex(shareContext(one)))).size).toBe(all.length)
  })

  test.each<[string, ShareContext]>([
    ['index 0', { ...context, index: 0 }],
    ['index 256', { ...context, index: 256 }],
    ['an index that is no whole number', { ...context, index: 1.5 }],
    ['no identity', { ...context, identity: new Uint8Array() }],
    ['a user in another purpose than `pin`', { ...context, userCore: driver }],
    ['a pinGen in another purpose than `pin`', { ...context, pinGen: 1 }],
    ['a share epoch of more than 32 bits', { ...context, shareEpoch: 2 ** 32 }],
  ])('refuses %s', (_, wrong) => {
    expect(() => shareContext(wrong)).toThrow(RangeError)
  })

  test('refuses a jti or a groupId of another length', () => {
    expect(() => shareContext({ ...context, jti: jti.slice(1) })).toThrow(DecodeError)
    expect(() => shareContext({ ...context, groupId: groupId.slice(1) })).toThrow(DecodeError)
  })
})

describe('combining', () => {
  const D = A.mulSecret(masters.device.s)
  const partOf = (index: number) => ({
    index,
    point: A.mulSecret(mustBe(shares[index - 1]).scalar),
  })

  test('any two of three give the key', () => {
    for (const pair of [
      [1, 2],
      [2, 1],
      [1, 3],
      [3, 2],
      [1, 2, 3],
    ]) {
      expect(combineG1(pair.map(partOf)).equals(D)).toBe(true)
    }
  })

  test('t − 1 shares do not', () => {
    for (const index of [1, 2, 3]) expect(combineG1([partOf(index)]).equals(D)).toBe(false)
  })

  test('t − 1 shares say nothing: every secret is possible with them', () => {
    // For each wished secret there is a second share that gives it.
    for (const wished of [0, 1, 77].map(Scalar.fromNumber)) {
      const [l1, l2] = lagrangeAtZero([1, 2]) as [Scalar, Scalar]
      const scalar = wished.subtract(l1.multiply(first.scalar)).multiply(l2.invert())
      expect(recombineSecret([first, { index: 2, scalar }]).equals(wished)).toBe(true)
    }
  })

  test('a share under another index, or a wrong one, gives another key', () => {
    expect(combineG1([partOf(1), { ...partOf(2), index: 3 }]).equals(D)).toBe(false)
    const wrong = partOf(2).point.add(G1.generator)
    expect(combineG1([partOf(1), { index: 2, point: wrong }]).equals(D)).toBe(false)
  })

  test.each([
    ['index 0: it would be the whole secret', [0, 1]],
    ['an index that stands twice', [2, 2]],
    ['256', [1, 256]],
    ['a negative index', [-1, 2]],
    ['a fraction', [1.5, 2]],
    ['NaN', [Number.NaN, 2]],
    ['no shares at all', []],
  ])('refuses %s', (_, indices) => {
    expect(() => lagrangeAtZero(indices)).toThrow(RangeError)
    expect(() => combineG1(indices.map(index => ({ index, point: A })))).toThrow(RangeError)
    expect(() => recombineSecret(indices.map(index => ({ index, scalar: first.scalar })))).toThrow(RangeError)
  })

  test('shares of two epochs do not mix', () => {
    // A refresh adds shares of zero: every pair of one epoch gives s, a mixed pair does not.
    const zero = splitSecret(Scalar.fromNumber(0), { t: 2, n: 3 }, random)
    const refreshed = shares.map(({ index, scalar }, i) => ({
      index,
      scalar: scalar.add(mustBe(zero[i]).scalar),
    }))
    expect(recombineSecret(refreshed.slice(0, 2)).equals(masters.device.s)).toBe(true)
    expect(recombineSecret([first, mustBe(refreshed[1])]).equals(masters.device.s)).toBe(false)
  })

  test.each([
    [0, 3],
    [4, 3],
    [1, 256],
    [1.5, 3],
  ])('splitting %i of %i is refused', (t, n) => {
    expect(() => splitSecret(first.scalar, { t, n }, random)).toThrow(RangeError)
  })

  test('a broken source is no reason to hand out shares', () => {
    const zeros = (length: number) => new Uint8Array(length)
    expect(() => splitSecret(first.scalar, { t: 2, n: 3 }, zeros)).toThrow(RangeError)
    expect(() => Scalar.random(() => new Uint8Array(16))).toThrow(RangeError)
  })
})

describe('founding, n of n', () => {
  const session = digestOf('the joins')
  const of = (index: number) => ({ session, purpose: 'device' as const, index })
  const [a1, a2] = [scalarOf('a1'), scalarOf('a2')]
  const [A1, A2] = [a1, a2].map(a => G1.generator.mulSecret(a)) as [G1, G1]
  const x = scalarOf('what the last one wants the master secret to be')
  /** C_3 = λ_3⁻¹(xP1 − λ_1C_1 − λ_2C_2): with it, the group's key is x·P1. */
  const rogue = () => {
    const [l1, l2, l3] = lagrangeAtZero([1, 2, 3]) as [Scalar, Scalar, Scalar]
    const rest = G1.generator.mulSecret(x).subtract(A1.mulPublic(l1)).subtract(A2.mulPublic(l2))
    return rest.mulPublic(l3.invert())
  }

  test('the last one would choose the key', () => {
    const ivk = combineG1([A1, A2, rogue()].map((point, i) => ({ index: i + 1, point })))
    expect(ivk.equals(G1.generator.mulSecret(x))).toBe(true)
    expect(ServerKey.verify(ivk, G2.generator.mulSecret(x))).not.toBeNull()
  })

  test('but cannot prove that it possesses what it shows', () => {
    const C3 = rogue()
    const tries: PossessionProof[] = [
      possessionProve(of(3), x, random),
      possessionProve(of(1), a1, random),
      { kappa: Scalar.fromNumber(0), z: Scalar.fromNumber(0) },
      { kappa: scalarOf('κ'), z: scalarOf('z') },
    ]
    expect(tries.map(proof => possessionVerify(of(3), C3, proof))).toEqual(tries.map(() => false))
  })

  test('a member’s own proof holds, for itself, its purpose and this session', () => {
    const proof = possessionProve(of(1), a1, random)
    expect(possessionVerify(of(1), A1, proof)).toBe(true)
    expect(possessionVerify(of(2), A1, proof)).toBe(false)
    expect(possessionVerify({ ...of(1), purpose: 'pin' }, A1, proof)).toBe(false)
    expect(possessionVerify({ ...of(1), session: digestOf('other joins') }, A1, proof)).toBe(false)
    expect(possessionVerify(of(1), A2, proof)).toBe(false)
    const one = Scalar.fromNumber(1)
    expect(possessionVerify(of(1), A1, { ...proof, z: proof.z.add(one) })).toBe(false)
    expect(possessionVerify(of(1), A1, { ...proof, kappa: proof.kappa.add(one) })).toBe(false)
  })

  test('a constant random source does not reveal the share', () => {
    const a = possessionProve(of(1), a1, frozen)
    const b = possessionProve({ ...of(1), session: digestOf('other joins') }, a1, frozen)
    const extracted = a.z.subtract(b.z).multiply(b.kappa.subtract(a.kappa).invert())
    expect(extracted.equals(a1)).toBe(false)
  })
})

describe('server keys', () => {
  const W = authorityServerKeyShare(first.scalar)

  test('a share is checked against its own commitment', () => {
    expect(sameLogarithm(C1, W)).toBe(true)
    expect(sameLogarithm(mustBe(commitments[1]), W)).toBe(false)
    expect(sameLogarithm(C1, W.negate())).toBe(false)
    expect(sameLogarithm(mustBe(masters.pin.commitments[0]), W)).toBe(false)
  })

  test('one authority alone, a wrong share, or another purpose’s key is no S', () => {
    const part = (index: number, scalar: Scalar) => ({ index, point: authorityServerKeyShare(scalar) })
    const { ivk } = masters.device
    expect(ServerKey.combine(ivk, [part(1, first.scalar), part(3, third.scalar)])).not.toBeNull()
    expect(ServerKey.combine(ivk, [part(1, first.scalar)])).toBeNull()
    expect(ServerKey.combine(ivk, [part(1, first.scalar), part(2, scalarOf('a lie'))])).toBeNull()
    expect(ServerKey.combine(ivk, [part(1, first.scalar), part(3, second.scalar)])).toBeNull()
    expect(ServerKey.verify(ivk, masters.pin.sQ)).toBeNull()
    expect(ServerKey.verify(ivk, W)).toBeNull()
  })

  test('a master secret of zero is none', () => {
    expect(sameLogarithm(G1.identity, G2.identity)).toBe(true)
    expect(ServerKey.verify(G1.identity, G2.identity)).toBeNull()
  })
})

describe('one purpose’s identity is no other’s', () => {
  const input = permitInput({ groupId, permitEpoch: 1, rule }, SLOT, { type: 'id', idCore: car })

  test('the same bytes give another point in each purpose', () => {
    const points = PURPOSES.map(purpose => toHex(hashToG1(purpose, input).encode()))
    expect(new Set(points).size).toBe(PURPOSES.length)
    expect(deviceIdentityPoint(groupId, car).equals(signIdentityPoint(groupId, car))).toBe(false)
  })

  test('a name that is spelled like a permit’s input gets no permit', () => {
    for (const purpose of ['agree', 'encrypt'] as const) {
      expect(keyIdentityPoint(groupId, { purpose, name: input }).equals(permitPoint(input))).toBe(false)
      const ctx = shareContext({ ...context, purpose, identity: input })
      const permitCtx = shareContext({ ...context, purpose: 'permit', identity: input })
      const asked = { ctx, commitment: C1, A: keyIdentityPoint(groupId, { purpose, name: input }) }
      const share = authorityIssue(asked, first.scalar, random)
      expect(shareVerify({ ctx: permitCtx, commitment: C1, A: permitPoint(input) }, share)).toBe(false)
    }
  })

  test('a PIN key is for one car, driver and pinGen', () => {
    const all = [
      pinIdentityPoint(groupId, car, driver, 1),
      pinIdentityPoint(groupId, car, driver, 2),
      pinIdentityPoint(groupId, car, NO_USER, 1),
      pinIdentityPoint(groupId, car, digestOf('another driver'), 1),
      pinIdentityPoint(groupId, makeCar(6), driver, 1),
      pinIdentityPoint(digestOf('another group'), car, driver, 1),
      deviceIdentityPoint(groupId, car),
    ]
    expect(new Set(all.map(point => toHex(point.encode()))).size).toBe(all.length)
  })

  test('each switch of keyIdentityPoint', () => {
    const name = encodeName(groupId, { kind: 1, idCore: car })
    expect(keyIdentityPoint(groupId, { purpose: 'device', idCore: car }).equals(keysOf(car).A_dev)).toBe(true)
    const pin = keyIdentityPoint(groupId, { purpose: 'pin', idCore: car, userCore: driver, pinGen: 1 })
    expect(pin.equals(keysOf(car).A_pin)).toBe(true)
    const sign = keyIdentityPoint(groupId, { purpose: 'sign', idCore: car })
    expect(sign.equals(signIdentityPoint(groupId, car))).toBe(true)
    expect(keyIdentityPoint(groupId, { purpose: 'agree', name }).equals(hashToG1('agree', name))).toBe(true)
  })

  test('key shares of one car do not open another', () => {
    const own = keysOf(makeCar(66))
    expect(
      pairingProductIsOne([
        [own.D_dev, G2.generator],
        [A.negate(), masters.device.sQ],
      ]),
    ).toBe(false)
  })
})

describe('names', () => {
  test('of a server: what DNS would take, in lower case', () => {
    const good = ['a', 'gw.example', 'xn--mnchen-3ya.example', '127.0.0.1', `${'a'.repeat(63)}.b`, 'a-b.c']
    const bad = [
      '',
      '.',
      'gw.example.',
      '.gw',
      'a..b',
      'GW.example',
      'gw.example:443',
      'gw_1.example',
      '-a.example',
      'a-.example',
      `${'a'.repeat(64)}.b`,
      `${'a.'.repeat(127)}`,
      'münchen.example',
      'gw.example\n',
      'gw example',
      '*.example',
    ]
    expect(good.filter(name => !isServerName(name))).toEqual([])
    expect(bad.filter(isServerName)).toEqual([])
    for (const name of bad) {
      for (const kind of [2, 3] as const) {
        expect(() => encodeName(groupId, { kind, name, generation: 0 })).toThrow(DecodeError)
      }
    }
  })

  test('one kind’s name is no other’s, with or without a slot', () => {
    const names = [
      encodeName(groupId, { kind: 1, idCore: car }),
      encodeName(groupId, { kind: 1, idCore: car, slot: SLOT }),
      encodeName(groupId, { kind: 2, name: 'gw.example', generation: 1 }),
      encodeName(groupId, { kind: 2, name: 'gw.example', generation: 1, slot: SLOT }),
      encodeName(groupId, { kind: 2, name: 'gw.example', generation: 1, slot: 0 }),
      encodeName(groupId, { kind: 3, name: 'gw.example', generation: 1 }),
      encodeName(groupId, { kind: 4, name: 'gw.example', generation: 1 }),
      encodeName(groupId, { kind: 4, name: 'gw.example', generation: 0 }),
      encodeName(groupId, { kind: 4, name: car.mpinId, generation: 1 }),
    ]
    expect(new Set(names.map(toHex)).size).toBe(names.length)
  })

  test('an empty public name is none', () => {
    expect(() => encodeName(groupId, { kind: 4, name: '', generation: 0 })).toThrow(DecodeError)
  })
})

describe('a relay between device and RA', () => {
  const secret = digestOf('a code').slice(0, 16)
  const fields = {
    groupId,
    attributes: { brand: 'Acme', model: 'Roadster' },
    instance: 'WVWZZZ1JZXW000001',
    hpkeKey: digestOf('the device’s key'),
    nonce: digestOf('the device’s nonce'),
  }
  const changes = {
    'the HPKE key': { hpkeKey: digestOf('the relay’s key') },
    group: { groupId: digestOf('a fake group') },
    'an attribute': { attributes: { brand: 'Acme', model: 'Roadster X' } },
    'a name and its value': { attributes: { brand: 'Acme', mode: 'lRoadster' } },
    nonce: { nonce: digestOf('another nonce') },
  }
  test.each(Object.entries(changes))('swaps %s: MAC and words differ', (_, change) => {
    const swapped = { ...fields, ...change }
    expect(equalBytes(enrolmentMac(secret, swapped), enrolmentMac(secret, fields))).toBe(false)
    expect(sixWordIndices(swapped)).not.toEqual(sixWordIndices(fields))
  })

  test('swaps the instance, or takes it away: the MAC differs', () => {
    const { instance: _, ...user } = fields
    const macs = [fields, { ...fields, instance: 'WVWZZZ1JZXW000002' }, user].map(of =>
      toHex(enrolmentMac(secret, of)),
    )
    expect(new Set(macs).size).toBe(3)
  })

  test('without the code it makes no MAC, and the code’s id does not tell the code', () => {
    expect(
      equalBytes(enrolmentMac(digestOf('a guess').slice(0, 16), fields), enrolmentMac(secret, fields)),
    ).toBe(false)
    expect(codeId(secret)).toHaveLength(16)
    expect(equalBytes(codeId(secret), secret)).toBe(false)
  })

  test('a key or nonce of another length is refused', () => {
    expect(() => enrolmentMac(secret, { ...fields, hpkeKey: fields.hpkeKey.slice(1) })).toThrow(DecodeError)
    expect(() => enrolmentMac(secret, { ...fields, nonce: new Uint8Array() })).toThrow(DecodeError)
    expect(() => sixWordIndices({ ...fields, nonce: new Uint8Array(31) })).toThrow(DecodeError)
    expect(() => enrolmentKeyHash(new Uint8Array(33))).toThrow(DecodeError)
  })

  test('six words are six of 2048', () => {
    const indices = sixWordIndices(fields)
    expect(indices).toHaveLength(6)
    expect(indices.every(index => Number.isInteger(index) && index >= 0 && index < 2048)).toBe(true)
  })
})

describe('an enrolment code', () => {
  const secret = digestOf('a code').slice(0, 16)
  const text = encodeEnrolmentCode({ secret, groupId })

  test('has twenty groups of four, read in any case and spacing', () => {
    expect(text).toMatch(/^([A-Z2-7]{4}-){19}[A-Z2-7]{4}$/)
    for (const typed of [
      text,
      text.toLowerCase(),
      text.replaceAll('-', ''),
      ` ${text.replaceAll('-', ' \n')}`,
    ]) {
      expect(decodeEnrolmentCode(typed)).toEqual({ secret, groupId })
    }
  })

  test('a mistyped letter is noticed on the device', () => {
    const letters = [...text]
    const noticed = letters.flatMap((letter, i) => {
      if (letter === '-') return []
      const typed = letters.with(i, letter === 'A' ? 'B' : 'A').join('')
      try {
        return [decodeEnrolmentCode(typed) === undefined]
      } catch (error) {
        return [error instanceof DecodeError]
      }
    })
    expect(noticed).toEqual(noticed.map(() => true))
  })

  test.each([
    ['', ''],
    ['one letter short', text.slice(0, -1)],
    ['one letter long', `${text}A`],
    ['a digit that base32 has not', text.replace(/[A-Z2-7]/, '1')],
    ['a letter of another alphabet', text.replace(/[A-Z2-7]/, 'Ä')],
  ])('refused: %s', (_, typed) => {
    expect(() => decodeEnrolmentCode(typed)).toThrow(DecodeError)
  })

  test('a secret of another length makes no code', () => {
    expect(() => encodeEnrolmentCode({ secret: secret.slice(1), groupId })).toThrow(RangeError)
    expect(() => encodeEnrolmentCode({ secret, groupId: groupId.slice(1) })).toThrow(DecodeError)
  })
})

describe('idCore', () => {
  const fields: IdCoreFields = {
    groupId,
    attributes: { brand: 'Acme', model: 'Roadster' },
    instance: 'VIN1',
    issueDate: '2026-04-11',
    enrolmentKeyHash: enrolmentKeyHash(digestOf('key')),
    salt: digestOf('salt').slice(0, 16),
    leaf: 5,
    generation: 1,
    factors: 2,
  }
  const idCore = issueIdCore(fields)

  test.each<[string, Partial<IdCoreFields>]>([
    ['group', { groupId: digestOf('another group') }],
    ['attributes', { attributes: { brand: 'Acme', model: 'Roadster', colour: 'red' } }],
    ['instance', { instance: 'VIN2' }],
    ['date', { issueDate: '2026-04-12' }],
    ['enrolment key', { enrolmentKeyHash: enrolmentKeyHash(digestOf('another key')) }],
    ['salt', { salt: digestOf('another salt').slice(0, 16) }],
    ['leaf', { leaf: 6 }],
    ['generation', { generation: 2 }],
    ['factors', { factors: 0 }],
  ])('an RA that swaps the %s is noticed by the device', (_, change) => {
    expect(checkIdCore(idCore, fields)).toBe(true)
    expect(checkIdCore(issueIdCore({ ...fields, ...change }), fields)).toBe(false)
  })

  test('the largest leaf and generation', () => {
    const last = issueIdCore({ ...fields, leaf: 2 ** 32 - 1, generation: 65_535 })
    expect([last.leaf, last.generation]).toEqual([2 ** 32 - 1, 65_535])
    expect(last.bytes.slice(0, 7)).toEqual(fromHex('ffffffffffff02'))
  })

  test.each<[string, Partial<IdCoreFields>, typeof DecodeError | typeof RangeError]>([
    ['a leaf beyond the tree', { leaf: 2 ** 32 }, RangeError],
    ['a negative leaf', { leaf: -1 }, RangeError],
    ['a generation of 17 bits', { generation: 65_536 }, RangeError],
    ['unknown factors', { factors: 3 }, DecodeError],
    ['a date in another form', { issueDate: '11.04.2026' }, DecodeError],
    ['a date with a line end', { issueDate: '2026-04-11\n' }, DecodeError],
    ['a short salt', { salt: new Uint8Array(15) }, DecodeError],
    ['a short key hash', { enrolmentKeyHash: new Uint8Array(31) }, DecodeError],
    ['a short groupId', { groupId: new Uint8Array(31) }, DecodeError],
    ['a name without letters', { attributes: { '': 'x' } }, DecodeError],
    ['a lone surrogate', { instance: '\ud800' }, DecodeError],
  ])('refused: %s', (_, change, error) => {
    expect(() => issueIdCore({ ...fields, ...change })).toThrow(error)
  })

  test('its bytes are a copy: changing them changes nothing', () => {
    const { bytes } = idCore
    bytes.fill(0)
    expect(idCore.equals(issueIdCore(fields))).toBe(true)
    const given = idCore.bytes
    const decoded = IdCore.decode(given)
    given.set(be32(99))
    expect(decoded.leaf).toBe(5)
    expect(decoded.mpinId).toBe(idCore.mpinId)
  })

  test('attributes are sorted by the bytes of their names after NFC, and a name stands once', () => {
    const a = encodeAttributes({ b: '1', a: '2', é: '3' })
    expect(encodeAttributes({ 'e\u0301': '3', a: '2', b: '1' })).toEqual(a)
    expect(() => encodeAttributes({ é: '1', 'e\u0301': '2' })).toThrow(DecodeError)
    const many = (count: number) =>
      Object.fromEntries(Array.from({ length: count }, (_, i) => [`n${i}`, 'v']))
    expect(encodeAttributes(many(255)).length).toBeGreaterThan(255)
    expect(() => encodeAttributes(many(256))).toThrow(DecodeError)
  })

  test('a user is somebody of this group, with these attributes and this salt', () => {
    const user = { groupId, attributes: { driverName: 'Jörg' }, salt: digestOf('s').slice(0, 16) }
    const all = [
      userCoreOf(user),
      userCoreOf({ ...user, groupId: digestOf('another group') }),
      userCoreOf({ ...user, attributes: { driverName: 'Jorg' } }),
      userCoreOf({ ...user, salt: digestOf('t').slice(0, 16) }),
    ]
    expect(new Set(all.map(toHex)).size).toBe(all.length)
    expect(() => userCoreOf({ ...user, salt: new Uint8Array(15) })).toThrow(DecodeError)
  })
})
