/** Batch verification and its attacks (protocols.md §6, §9). */
import { type Equation, verifyEquation, verifyEquations, weightedSums } from '@milagro-ts/crypto/batch'
import { hashToG1, hashToScalar } from '@milagro-ts/crypto/hash-to-curve'
import { deviceIdentityPoint, type IdCore } from '@milagro-ts/crypto/identity'
import { IdentityPoints } from '@milagro-ts/crypto/identity-points'
import { type BoundMessage, challengeTlv, DeviceProven, LoginMessage } from '@milagro-ts/crypto/mpin'
import { G1, PreparedG2 } from '@milagro-ts/crypto/points'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { Permit, permitInput, permitPoint, VerifiedPermit } from '@milagro-ts/crypto/time-permit'
import { describe, expect, test, vi } from 'vitest'
import {
  bareEquation,
  binding,
  digestOf,
  EPOCH,
  groupId,
  keysOf,
  loginAlone,
  loginWithPin,
  makeCar,
  masters,
  mustBe,
  nonceTerms,
  rule,
  SLOT,
  scalarOf,
  seeded,
} from './world.js'

const S_dev = masters.device.serverKey
const random = seeded('the server’s weights')
const SIZE = 16
const cars = Array.from({ length: SIZE }, (_, i) => makeCar(i))
const termsOf = (idCore: IdCore) => ({ ...nonceTerms, idCore })
const good = cars.map((idCore): BoundMessage => ({ message: loginAlone(termsOf(idCore)), binding }))
/** Its V belongs to nothing. */
const garbage = good.map(({ message }, i) => ({
  message: LoginMessage.of(message, { U_dev: message.U_dev, V_dev: hashToG1('device', digestOf(`V ${i}`)) }),
  binding,
}))
const mixed = (bad: (i: number) => boolean) =>
  good.map((item, i) => (bad(i) ? (garbage[i] as BoundMessage) : item))

function equationOf({ message }: BoundMessage): Equation {
  const c = hashToScalar('CHAL', challengeTlv(message, undefined, binding, { U_dev: message.U_dev }))
  const A = deviceIdentityPoint(groupId, message.idCore)
  return { V: message.V_dev, U: message.U_dev, cA: { c, A } }
}
const placesOf = (verdicts: readonly (DeviceProven | null)[]) =>
  verdicts.flatMap((proven, i) => (proven === null ? [i] : []))

describe('device proofs in a batch', () => {
  test.each([
    ['none is bad', () => false],
    ['one is bad', (i: number) => i === 11],
    ['the first is bad', (i: number) => i === 0],
    ['the last is bad', (i: number) => i === SIZE - 1],
    ['some are bad', (i: number) => [2, 3, 9].includes(i)],
    ['one of each pair is bad', (i: number) => i % 2 === 0],
    ['all are bad', () => true],
    ['all but one are bad', (i: number) => i !== 6],
  ])('%s', (_, bad) => {
    const verdicts = DeviceProven.verifyBatch(mixed(bad), S_dev, random)
    expect(placesOf(verdicts)).toEqual(cars.flatMap((__, i) => (bad(i) ? [i] : [])))
    for (const [i, proven] of verdicts.entries())
      if (proven !== null) expect(proven.message).toBe(good[i]?.message)
  })

  test('none at all, and one by itself', () => {
    expect(DeviceProven.verifyBatch([], S_dev, random)).toEqual([])
    expect(placesOf(DeviceProven.verifyBatch(good.slice(0, 1), S_dev, random))).toEqual([])
    expect(placesOf(DeviceProven.verifyBatch(garbage.slice(0, 1), S_dev, random))).toEqual([0])
  })

  test('of one identity many times, the same message among them', () => {
    const again = loginAlone(termsOf(cars[0] as IdCore), seeded('another login'))
    const items = [good[0], { message: again, binding }, good[0], garbage[0], good[1]] as BoundMessage[]
    expect(placesOf(DeviceProven.verifyBatch(items, S_dev, random))).toEqual([3])
  })

  test('each under its own binding: another exporter or group is another challenge', () => {
    const items = [
      good[0],
      { message: good[1]?.message, binding: { groupId, tlsExporter: digestOf('exporter') } },
      { message: good[2]?.message, binding: { groupId: digestOf('another group') } },
    ] as BoundMessage[]
    expect(placesOf(DeviceProven.verifyBatch(items, S_dev, random))).toEqual([1, 2])
  })

  test('a wrong PIN is nothing to it: PIN proofs are not looked at', () => {
    const verdicts = DeviceProven.verifyBatch(
      [{ message: loginWithPin('0000'), binding }, good[0] as BoundMessage],
      S_dev,
      random,
    )
    expect(placesOf(verdicts)).toEqual([])
  })
})

describe('what it takes', () => {
  const lines = S_dev.lines
  const productsFor = (bad: (i: number) => boolean) =>
    verifyEquations(mixed(bad).map(equationOf), lines, random).products

  test('one product when all are good', () => {
    expect(productsFor(() => false)).toBe(1)
  })

  test.each([0, 5, SIZE - 1])('log₂ n products more for the one that is bad, at %i', at => {
    expect(productsFor(i => i === at)).toBe(1 + Math.log2(SIZE))
  })

  test('never more than n', () => {
    expect(productsFor(() => true)).toBe(SIZE)
    expect(productsFor(i => i !== 6)).toBe(SIZE)
    expect(productsFor(i => [1, 8].includes(i))).toBeLessThanOrEqual(2 * Math.log2(SIZE))
  })
})

describe('Mallory with a key of his own, who wants to be Alice', () => {
  const [alice, mallory] = cars as [IdCore, IdCore]
  const { A_dev: A_alice } = keysOf(alice)
  const { A_dev: A_mallory, D_dev: D_mallory } = keysOf(mallory)
  const [x, y] = [scalarOf('x'), scalarOf('y')]
  const challengeOf = (idCore: IdCore, U_dev: G1) =>
    hashToScalar('CHAL', challengeTlv(termsOf(idCore), undefined, binding, { U_dev }))
  // X of Alice's message is known before his own is made, so that his own takes it out of the sum again.
  const U_alice = A_alice.mulSecret(x)
  const X_alice = A_alice.mulSecret(x.add(challengeOf(alice, U_alice)))
  const U_mallory = A_mallory.mulSecret(y).subtract(X_alice)
  const c = challengeOf(mallory, U_mallory)
  const E = hashToG1('device', digestOf('anything'))
  const V_mallory = D_mallory.mulSecret(y.add(c)).negate().subtract(E)
  const forged = [
    { message: LoginMessage.of(termsOf(alice), { U_dev: U_alice, V_dev: E }), binding },
    { message: LoginMessage.of(termsOf(mallory), { U_dev: U_mallory, V_dev: V_mallory }), binding },
  ]

  test('would be, if the weights were 1', () => {
    const one = forged.map(() => Scalar.fromNumber(1))
    const { V, X } = weightedSums(forged.map(equationOf), one)
    expect(bareEquation(V, X, S_dev.point)).toBe(true)
  })

  test('does not know them: one is drawn for each message, once they are there', () => {
    const drawn: number[] = []
    const counting = (length: number) => {
      drawn.push(length)
      return random(length)
    }
    expect(placesOf(DeviceProven.verifyBatch(forged, S_dev, counting))).toEqual([0, 1])
    expect(drawn).toEqual([16, 16])
  })

  test('is not, alone or among others', () => {
    expect(placesOf(DeviceProven.verifyBatch(forged, S_dev, random))).toEqual([0, 1])
    expect(placesOf(DeviceProven.verifyBatch([...good.slice(2), ...forged], S_dev, random))).toEqual([14, 15])
    expect(forged.map(item => verifyEquation(equationOf(item), S_dev.lines))).toEqual([false, false])
  })

  test('a source that broke ends the batch: no weight is zero', () => {
    expect(() => DeviceProven.verifyBatch(good, S_dev, length => new Uint8Array(length))).toThrow(RangeError)
  })
})

test('a poison flood costs its honest neighbours time, never their login', () => {
  const flood = Array.from({ length: 40 }, (_, i) => garbage[i % SIZE] as BoundMessage)
  const items = [...flood.slice(0, 13), good[3], ...flood.slice(13, 30), good[4], ...flood.slice(30)]
  const verdicts = DeviceProven.verifyBatch(items as BoundMessage[], S_dev, random)
  expect(verdicts.flatMap((proven, i) => (proven === null ? [] : [i]))).toEqual([13, 31])
})

describe('the cache of identity points', () => {
  const verify = (items: readonly BoundMessage[], points: IdentityPoints) =>
    DeviceProven.verifyBatch(items, S_dev, random, points)

  test('gives the same verdicts, cold and warm', () => {
    const points = new IdentityPoints(groupId, 100)
    const items = mixed(i => i === 4 || i === 9)
    expect(placesOf(verify(items, points))).toEqual([4, 9])
    expect({ ...countsOf(points) }).toEqual({ hits: 0, misses: SIZE, size: SIZE - 2 })
    expect(placesOf(verify(items, points))).toEqual([4, 9])
    expect(countsOf(points)).toEqual({ hits: SIZE - 2, misses: SIZE + 2, size: SIZE - 2 })
    // A known identity with a wrong proof is refused as an unknown one is, and stays.
    expect(placesOf(verify(garbage.slice(0, 2), points))).toEqual([0, 1])
    expect(points.size).toBe(SIZE - 2)
  })

  test('tells nobody who is in it: a wrong proof costs the same hashes, products and sums for all', () => {
    const points = new IdentityPoints(groupId, 100)
    verify(good.slice(0, 8), points)
    const costOf = (items: readonly BoundMessage[]) => {
      const spies = [
        // Every hash to G1 makes its point here.
        vi.spyOn(G1, 'fromEngine'),
        vi.spyOn(PreparedG2.prototype, 'toEngine'),
        vi.spyOn(G1, 'sumOfProducts'),
      ]
      expect(placesOf(verify(items, points))).toEqual(items.map((_, i) => i))
      const counts = spies.map(spy => spy.mock.calls.length)
      vi.restoreAllMocks()
      return counts
    }
    for (const n of [1, 4]) {
      const known = costOf(garbage.slice(0, n))
      expect(known[0]).toBe(n)
      expect(costOf(garbage.slice(8, 8 + n))).toEqual(known)
    }
  })

  test('strangers flush nobody: what was not proven does not enter', () => {
    const points = new IdentityPoints(groupId, 4)
    verify(good.slice(0, 4), points)
    verify(garbage, points)
    for (const { message } of good.slice(0, 4))
      expect(points.find(groupId, message.idCore)?.equals(deviceIdentityPoint(groupId, message.idCore))).toBe(
        true,
      )
  })

  test('whose use is longest ago leaves', () => {
    const points = new IdentityPoints(groupId, 2)
    const [a, b, c] = good as [BoundMessage, BoundMessage, BoundMessage]
    verify([a], points)
    verify([b], points)
    verify([a], points)
    verify([c], points)
    const held = [a, b, c].map(({ message }) => points.find(groupId, message.idCore) !== undefined)
    expect(held).toEqual([true, false, true])
    expect(points.size).toBe(2)
  })

  test('is of one group, and may be of size 0', () => {
    const points = new IdentityPoints(digestOf('another group'), 10)
    expect(placesOf(verify(good.slice(0, 2), points))).toEqual([])
    expect(points.size).toBe(0)
    const none = new IdentityPoints(groupId, 0)
    verify(good.slice(0, 2), none)
    expect(none.size).toBe(0)
    expect(() => new IdentityPoints(groupId, -1)).toThrow(RangeError)
  })
})
const countsOf = ({ hits, misses, size }: IdentityPoints) => ({ hits, misses, size })

describe('permits in a batch', () => {
  const terms = { groupId, permitEpoch: EPOCH.permit, rule }
  const publicKey = PreparedG2.of(masters.permit.sQ)
  const permits = cars.slice(0, 6).map(idCore => {
    const target = { type: 'id', idCore } as const
    const HT = permitPoint(permitInput(terms, SLOT, target))
    return Permit.of(SLOT, target, HT.mulSecret(masters.permit.s))
  })

  test('all good', () => {
    const verified = VerifiedPermit.verifyBatch(terms, publicKey, permits, random)
    expect(verified.map((permit, i) => permit?.covers(cars[i] as IdCore))).toEqual(permits.map(() => true))
  })

  test('garbage and two that cancel out are found', () => {
    const E = hashToG1('permit', digestOf('E'))
    const moved = (i: number, by: G1) => {
      const { slot, target, point } = mustBe(permits[i])
      return Permit.of(slot, target, point.add(by))
    }
    const cancelling = permits.with(1, moved(1, E)).with(4, moved(4, E.negate()))
    const sum = (all: readonly Permit[]) => G1.sum(all.map(({ point }) => point))
    expect(sum(cancelling).equals(sum(permits))).toBe(true)
    const verified = VerifiedPermit.verifyBatch(terms, publicKey, cancelling, random)
    expect(verified.map(permit => permit !== null)).toEqual([true, false, true, true, false, true])
    expect(VerifiedPermit.verify(terms, publicKey, mustBe(permits[0]))).not.toBeNull()
    expect(VerifiedPermit.verifyBatch(terms, publicKey, [], random)).toEqual([])
  })
})
