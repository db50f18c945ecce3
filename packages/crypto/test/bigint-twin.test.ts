/** The textbook twin against noble's: what it says can be trusted when the kernel is compared with it. */
import { toHex } from '@milagro-ts/crypto/bytes'
import { ORDER, P } from '@milagro-ts/crypto/curve'
import { bls12_381 } from '@noble/curves/bls12-381.js'
import { describe, expect, test } from 'vitest'
import {
  type Fp2,
  type Fp6,
  type Fp12,
  fp2,
  fp2Invert,
  fp2Multiply,
  fp2Root,
  fp6Multiply,
  fp12Bytes,
  fp12Multiply,
  fp12OfHalves,
  fp12One,
  g2Add,
  g2AtX,
  g2Bytes,
  g2InSubgroup,
  g2Multiply,
  g2Negate,
  g2OnCurve,
  twinPairing,
  twinQ,
} from './bigint-twin.js'
import { seeded } from './world.js'

const { Fp2: NobleFp2, Fp6: NobleFp6, Fp12: NobleFp12 } = bls12_381.fields
const random = seeded('twin')
const integer = () => BigInt(`0x${toHex(random(64))}`)
const some2 = () => fp2(integer(), integer())
const some6 = (): Fp6 => [some2(), some2(), some2()]
const noble6 = ([c0, c1, c2]: Fp6) => NobleFp6.create({ c0, c1, c2 })
const plain = ({ c0, c1 }: Fp2) => ({ c0, c1 })
const edges = [fp2(0n, 0n), fp2(1n, 0n), fp2(0n, 1n), fp2(P - 1n, P - 1n), fp2(P - 1n, 0n), fp2(0n, P - 1n)]

describe('fields', () => {
  test('Fp2', () => {
    const values = [...edges, ...Array.from({ length: 10 }, some2)]
    for (const a of values) {
      for (const b of values) expect(fp2Multiply(a, b)).toEqual(plain(NobleFp2.mul(a, b)))
      if (a.c0 !== 0n || a.c1 !== 0n) expect(fp2Invert(a)).toEqual(plain(NobleFp2.inv(a)))
      const root = fp2Root(fp2Multiply(a, a)) as Fp2
      expect(fp2Multiply(root, root)).toEqual(fp2Multiply(a, a))
    }
    // ξ is no square.
    expect(fp2Root(fp2(1n, 1n))).toBe(null)
  })

  test('Fp6 and Fp12', () => {
    for (let i = 0; i < 10; i++) {
      const [a, b, c, d] = [some6(), some6(), some6(), some6()] as [Fp6, Fp6, Fp6, Fp6]
      const product = NobleFp6.mul(noble6(a), noble6(b))
      expect(fp6Multiply(a, b)).toEqual([plain(product.c0), plain(product.c1), plain(product.c2)])
      const left = NobleFp12.create({ c0: noble6(a), c1: noble6(b) })
      const right = NobleFp12.create({ c0: noble6(c), c1: noble6(d) })
      expect(toHex(fp12Bytes(fp12Multiply(fp12OfHalves(a, b), fp12OfHalves(c, d))))).toBe(
        toHex(NobleFp12.toBytes(NobleFp12.mul(left, right))),
      )
    }
  })
})

const { BASE, ZERO } = bls12_381.G2.Point

test('G2: sums, multiples, bytes, membership', () => {
  for (const k of [1n, 2n, 3n, ORDER - 1n, integer() % ORDER]) {
    const point = g2Multiply(twinQ, k)
    const noble = BASE.multiplyUnsafe(k)
    expect(toHex(g2Bytes(point))).toBe(noble.toHex(true))
    expect(g2OnCurve(point)).toBe(true)
    expect(toHex(g2Bytes(g2Add(point, twinQ)))).toBe((k === ORDER - 1n ? ZERO : noble.add(BASE)).toHex(true))
    expect(g2Add(point, g2Negate(point))).toBe(null)
    expect(g2Add(point, null)).toBe(point)
    expect(g2InSubgroup(point)).toBe(true)
  }
  expect(g2Multiply(twinQ, 0n)).toBe(null)
  let outside = 0
  for (let c0 = 1n; outside < 3; c0++) {
    const point = g2AtX(fp2(c0, 1n), true)
    if (point === null) continue
    expect(g2OnCurve(point)).toBe(true)
    if (!g2InSubgroup(point)) outside++
  }
})

test('the pairing has noble’s value, is bilinear, and one where it must be', () => {
  const [a, b] = [integer() % ORDER, integer() % ORDER]
  const P1 = bls12_381.G1.Point.BASE
  const at = (k: bigint) => P1.multiplyUnsafe(k).toAffine()
  const value = (pairs: Parameters<typeof twinPairing>[0]): string => toHex(fp12Bytes(twinPairing(pairs)))
  const noble = toHex(
    NobleFp12.toBytes(bls12_381.pairing(P1.multiplyUnsafe(a), BASE.multiplyUnsafe(b)) as never),
  )
  expect(value([[at(a), g2Multiply(twinQ, b)]])).toBe(noble)
  expect(value([[at((a * b) % ORDER), twinQ]])).toBe(noble)
  const one: Fp12 = fp12One
  expect(
    value([
      [at(a), twinQ],
      [at(ORDER - 1n), g2Multiply(twinQ, a)],
    ]),
  ).toBe(toHex(fp12Bytes(one)))
  expect(
    value([
      [null, twinQ],
      [at(1n), null],
    ]),
  ).toBe(toHex(fp12Bytes(one)))
})
