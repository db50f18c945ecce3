import { Polynomial, shareFits, sumOfDealings } from '@milagro-ts/crypto/dealing'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { G1 } from '@milagro-ts/crypto/points'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { lagrangeAtZero, recombineSecret } from '@milagro-ts/crypto/secret-sharing'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { seeded } from './world.js'

const random = seeded('dealing')
const one = Scalar.fromNumber(1)
const dealingOf = (f: Polynomial, firstPower: 0 | 1 = 0) => ({
  firstPower,
  commitments: f.commitments(firstPower),
})

/** All members' sums of all dealers' evaluations. */
const sharesOf = (polynomials: readonly Polynomial[], n: number, weights?: readonly Scalar[]) =>
  Array.from({ length: n }, (_, i) => ({
    index: i + 1,
    scalar: polynomials.reduce(
      (sum, f, d) => sum.add(f.at(i + 1).multiply(weights?.[d] ?? one)),
      Scalar.fromNumber(0),
    ),
  }))

test('three deal, any two of three make the key that nobody chose', () => {
  const polynomials = Array.from({ length: 3 }, () => Polynomial.random(2, random))
  const dealings = polynomials.map(f => dealingOf(f))
  for (const index of [1, 2, 3])
    for (const [i, f] of polynomials.entries())
      expect(shareFits(dealings[i] as (typeof dealings)[number], index, f.at(index))).toBe(true)

  const shares = sharesOf(polynomials, 3)
  const ivk = G1.sum(dealings.map(({ commitments }) => commitments[0] as G1))
  for (const pair of [
    [0, 1],
    [0, 2],
    [1, 2],
  ] as const) {
    const chosen = pair.map(i => shares[i] as (typeof shares)[number])
    expect(G1.generator.mulSecret(recombineSecret(chosen)).equals(ivk)).toBe(true)
  }
  for (const { index, scalar } of shares)
    expect(G1.generator.mulSecret(scalar).equals(sumOfDealings(dealings, index))).toBe(true)
})

test('a refresh changes every share and not the secret', () => {
  const before = sharesOf([Polynomial.random(2, random)], 3)
  const zero = Array.from({ length: 3 }, () => Polynomial.random(2, random, Scalar.fromNumber(0)))
  const dealings = zero.map(f => dealingOf(f, 1))
  const change = sharesOf(zero, 3)
  const after = before.map(({ index, scalar }, i) => ({
    index,
    scalar: scalar.add((change[i] as (typeof change)[number]).scalar),
  }))
  expect(recombineSecret(after.slice(1)).equals(recombineSecret(before.slice(0, 2)))).toBe(true)
  after.forEach(({ index, scalar }, i) => {
    const old = before[i] as (typeof before)[number]
    expect(scalar.equals(old.scalar)).toBe(false)
    const C = G1.generator.mulSecret(old.scalar).add(sumOfDealings(dealings, index))
    expect(G1.generator.mulSecret(scalar).equals(C)).toBe(true)
  })
  // Shares of two epochs lie on no common polynomial.
  const mixed = [before[0], after[1]] as [(typeof before)[number], (typeof after)[number]]
  expect(recombineSecret(mixed).equals(recombineSecret(before.slice(0, 2)))).toBe(false)
})

test('a reshare takes the secret from 3 of 3 to 2 of 4', () => {
  const old = sharesOf([Polynomial.random(3, random)], 3)
  const dealt = old.map(({ scalar }) => Polynomial.random(2, random, scalar))
  const lambda = lagrangeAtZero([1, 2, 3])
  const dealings = dealt.map(f => dealingOf(f))
  const fresh = sharesOf(dealt, 4, lambda)
  expect(recombineSecret(fresh.slice(2)).equals(recombineSecret(old))).toBe(true)
  for (const { index, scalar } of fresh)
    expect(G1.generator.mulSecret(scalar).equals(sumOfDealings(dealings, index, lambda))).toBe(true)
})

describe('a share that was not dealt', () => {
  const f = Polynomial.random(3, random)
  test('changed by one', () => {
    expect(shareFits(dealingOf(f), 2, f.at(2).add(one))).toBe(false)
  })
  test('another member’s', () => {
    expect(shareFits(dealingOf(f), 2, f.at(3))).toBe(false)
  })
  test('of a polynomial with one commitment exchanged', () => {
    const [A0, , A2] = f.commitments() as [G1, G1, G1]
    const other = G1.generator.mulSecret(Scalar.random(random))
    expect(shareFits({ firstPower: 0, commitments: [A0, other, A2] }, 2, f.at(2))).toBe(false)
  })
  test('a constant smuggled into a refresh', () => {
    const smuggler = Polynomial.random(2, random)
    expect(shareFits(dealingOf(smuggler, 1), 1, smuggler.at(1))).toBe(false)
  })
})

test('evaluations agree with the commitments for any t and index', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 6 }), fc.integer({ min: 1, max: 255 }), (t, index) => {
      const f = Polynomial.random(t, random)
      return shareFits(dealingOf(f), index, f.at(index))
    }),
    { numRuns: 20 },
  )
})

test('there is no share with the index 0, 256 or 1.5', () => {
  const f = Polynomial.random(2, random)
  for (const index of [0, 256, 1.5, -1]) {
    expect(() => f.at(index)).toThrow(RangeError)
    expect(() => sumOfDealings([dealingOf(f)], index)).toThrow(RangeError)
  }
})

test('a polynomial goes through its codec and back; half a scalar and none do not', () => {
  const f = Polynomial.random(3, random)
  expect(Polynomial.decode(f.encode()).at(7).equals(f.at(7))).toBe(true)
  for (const length of [0, 31, 33, 256 * 32])
    expect(() => Polynomial.decode(new Uint8Array(length))).toThrow(DecodeError)
  expect(() => Polynomial.decode(new Uint8Array(32).fill(0xff))).toThrow(DecodeError)
})
