/** Time permits (protocols.md §5): slots, targets, and what a verified permit says. */
import { DecodeError } from '@milagro-ts/crypto/errors'
import { IdCore } from '@milagro-ts/crypto/identity'
import { G1 } from '@milagro-ts/crypto/points'
import { combineG1 } from '@milagro-ts/crypto/secret-sharing'
import { authorityIssue, shareContext, shareVerify } from '@milagro-ts/crypto/share-proof'
import {
  Permit,
  type PermitTarget,
  type PermitTerms,
  permitCovers,
  permitInput,
  permitPoint,
  slotAt,
  slotStart,
  VerifiedPermit,
} from '@milagro-ts/crypto/time-permit'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  car,
  digestOf,
  EPOCH,
  groupId,
  makeCar,
  masters,
  mustBe,
  rule,
  SLOT,
  scalarOf,
  seeded,
} from './world.js'

const terms: PermitTerms = { groupId, permitEpoch: EPOCH.permit, rule }
const { sQ, s, shares, commitments } = masters.permit
const target: PermitTarget = { type: 'id', idCore: car }
const make = (of: PermitTarget, slot = SLOT) =>
  Permit.of(slot, of, permitPoint(permitInput(terms, slot, of)).mulSecret(s))
const permit = make(target)

describe('slots', () => {
  const small = { origin: 1000, length: 15 }

  test('begin at the origin and last their length', () => {
    expect([1000, 1014.999, 1015, 1029, 1030].map(now => slotAt(small, now))).toEqual([0, 0, 1, 1, 2])
    expect(slotStart(small, 2)).toBe(1030)
  })

  test('outside 0…2³²−1 are refused, never wrapped', () => {
    const last = 2 ** 32 - 1
    expect(slotAt(small, slotStart(small, last))).toBe(last)
    for (const now of [999, -1, slotStart(small, last + 1), Number.NaN, Number.POSITIVE_INFINITY]) {
      expect(() => slotAt(small, now)).toThrow(DecodeError)
    }
    expect(() => slotAt({ origin: 0, length: 0 }, 1)).toThrow(DecodeError)
    for (const slot of [-1, last + 1, 1.5]) {
      expect(() => permitInput(terms, slot, target)).toThrow(RangeError)
      expect(() => Permit.of(slot, target, permit.point)).toThrow(RangeError)
    }
  })
})

describe('a permit', () => {
  test('composed from t shares that prove themselves', () => {
    const input = permitInput(terms, SLOT, target)
    const HT = permitPoint(input)
    const parts = shares.slice(1).map(({ index, scalar }) => {
      const ctx = shareContext({
        groupId,
        purpose: 'permit',
        index,
        shareEpoch: 1,
        identity: input,
        jti: digestOf('a statement').slice(0, 16),
      })
      const statement = { ctx, commitment: mustBe(commitments[index - 1]), A: HT }
      const share = authorityIssue(statement, scalar, seeded('k'))
      expect(shareVerify(statement, share)).toBe(true)
      return { index, point: share.d }
    })
    expect(combineG1(parts).equals(permit.point)).toBe(true)
  })

  test('says: this one, in this slot', () => {
    const verified = mustBe(VerifiedPermit.verify(terms, sQ, Permit.decode(permit.encode())))
    expect(verified.slot).toBe(SLOT)
    expect(verified.covers(car)).toBe(true)
    expect(verified.covers(makeCar(6))).toBe(false)
    expect(verified.permit.point.equals(permit.point)).toBe(true)
  })

  test.each<[string, PermitTerms]>([
    ['group', { ...terms, groupId: digestOf('another group') }],
    ['key epoch', { ...terms, permitEpoch: EPOCH.permit + 1 }],
    ['origin', { ...terms, rule: { ...rule, origin: rule.origin + 1 } }],
    ['slot length', { ...terms, rule: { ...rule, length: rule.length - 1 } }],
  ])('is none under another %s', (_, other) => {
    expect(VerifiedPermit.verify(other, sQ, permit)).toBeNull()
  })

  test.each<[string, Permit]>([
    ['another slot', Permit.of(SLOT + 1, target, permit.point)],
    ['another car', Permit.of(SLOT, { type: 'id', idCore: makeCar(6) }, permit.point)],
    ['the car’s leaf', Permit.of(SLOT, { type: 'node', depth: 32, index: 5 }, permit.point)],
    ['the whole tree', Permit.of(SLOT, { type: 'node', depth: 0, index: 0 }, permit.point)],
    ['garbage', Permit.of(SLOT, target, G1.generator.mulPublic(scalarOf('garbage')))],
    ['its negative', Permit.of(SLOT, target, permit.point.negate())],
    ['twice itself', Permit.of(SLOT, target, permit.point.add(permit.point))],
    [
      'one authority’s share',
      Permit.of(
        SLOT,
        target,
        permitPoint(permitInput(terms, SLOT, target)).mulSecret(mustBe(shares[0]).scalar),
      ),
    ],
  ])('is not one for %s', (_, claimed) => {
    expect(VerifiedPermit.verify(terms, sQ, claimed)).toBeNull()
  })

  test('under another purpose’s public key is none', () => {
    expect(VerifiedPermit.verify(terms, masters.device.sQ, permit)).toBeNull()
  })

  test('two slots whose rules agree on the start are still two lengths', () => {
    const half = { ...terms, rule: { origin: rule.origin, length: rule.length / 2 } }
    expect(slotStart(half.rule, 2 * SLOT)).toBe(slotStart(rule, SLOT))
    expect(VerifiedPermit.verify(half, sQ, Permit.of(2 * SLOT, target, permit.point))).toBeNull()
  })
})

describe('nodes of the tree', () => {
  const withLeaf = (leaf: number) => makeCar(leaf)

  test.each([
    [0, 0, 0, true],
    [0, 0, 2 ** 32 - 1, true],
    [1, 0, 2 ** 31 - 1, true],
    [1, 1, 2 ** 31 - 1, false],
    [1, 1, 2 ** 31, true],
    [32, 5, 5, true],
    [32, 5, 4, false],
    [31, 2, 5, true],
    [31, 2, 4, true],
    [31, 2, 6, false],
    [32, 2 ** 32 - 1, 2 ** 32 - 1, true],
  ])('depth %i, index %i, leaf %i: %s', (depth, index, leaf, expected) => {
    expect(permitCovers({ type: 'node', depth, index }, withLeaf(leaf))).toBe(expected)
  })

  test('the same as whole-number division, for every node and leaf', () => {
    const node = fc
      .integer({ min: 0, max: 32 })
      .chain(depth =>
        fc.record({ depth: fc.constant(depth), index: fc.integer({ min: 0, max: 2 ** depth - 1 }) }),
      )
    const leaf = fc.integer({ min: 0, max: 2 ** 32 - 1 })
    fc.assert(
      fc.property(node, leaf, ({ depth, index }, at) => {
        const bytes = new Uint8Array(39)
        new DataView(bytes.buffer).setUint32(0, at)
        const covers = permitCovers({ type: 'node', depth, index }, IdCore.decode(bytes))
        return covers === (Math.floor(at / 2 ** (32 - depth)) === index)
      }),
    )
  })

  test('one permit of the root serves every car', () => {
    const verified = mustBe(VerifiedPermit.verify(terms, sQ, make({ type: 'node', depth: 0, index: 0 })))
    expect([0, 5, 2 ** 32 - 1].map(leaf => verified.covers(withLeaf(leaf)))).toEqual([true, true, true])
  })

  test.each([
    [33, 0],
    [1, 2],
    [0, 1],
    [32, 2 ** 32],
  ])('depth %i, index %i is no node', (depth, index) => {
    expect(() => permitInput(terms, SLOT, { type: 'node', depth, index })).toThrow(DecodeError)
    expect(() => Permit.of(SLOT, { type: 'node', depth, index }, permit.point)).toThrow(DecodeError)
  })
})
