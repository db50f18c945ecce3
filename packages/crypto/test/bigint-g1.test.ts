/** The BigInt engine of a device against noble's: the same bytes, and the same refusals. */

import { bigintG1, encodeToG1, hashToG1, invertScalar } from '@milagro-ts/crypto/bigint-g1'
import { concat, fromHex, toHex, utf8 } from '@milagro-ts/crypto/bytes'
import { ORDER, P, PARAMETER } from '@milagro-ts/crypto/curve'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { bls12_381 } from '@noble/curves/bls12-381.js'
import { describe, expect, test } from 'vitest'
import { readVectors } from './vector-files.js'
import { seeded } from './world.js'

const Noble = bls12_381.G1.Point
type NobleG1 = InstanceType<typeof Noble>
const { generator, identity } = bigintG1
const hex = (point: typeof generator) => toHex(bigintG1.encode(point))
/** noble writes only one of the coordinates of its identity. */
const nobleHex = (point: NobleG1) => toHex((point.is0() ? Noble.ZERO : point).toBytes(true))
const mustDecode = (bytes: Uint8Array) => {
  const point = bigintG1.decode(bytes)
  if (point === null) throw new Error('not a point')
  return point
}

const random = seeded('bigint')
const integer = (length: number) => BigInt(`0x${toHex(random(length))}`)
const scalar = () => integer(48) % ORDER
const inBytes = (k: bigint): Uint8Array => Scalar.fromBigInt(k).encode()
/** A point by noble, and the same one here. */
function some(): { ours: typeof generator; noble: NobleG1 } {
  const noble = Noble.BASE.multiply(scalar() || 1n)
  return { noble, ours: mustDecode(noble.toBytes(true)) }
}

test('the bytes that are decoded stay as they were, in a Buffer too, whose slices are views', () => {
  const bytes = bigintG1.encode(generator)
  const given = Buffer.from(bytes)
  expect(hex(mustDecode(given))).toBe(toHex(bytes))
  expect(toHex(given)).toBe(toHex(bytes))
})

const t2 = PARAMETER ** 2n
const EDGES = [
  0n,
  1n,
  2n,
  15n,
  16n,
  17n,
  t2 - 1n,
  t2,
  t2 + 1n,
  ORDER - 1n,
  ORDER - 2n,
  ORDER - t2,
  (1n << 254n) - 1n,
  1n << 254n,
]
const nobleTimes = (point: NobleG1, k: bigint) =>
  k === 0n || point.is0() ? Noble.ZERO : point.multiplyUnsafe(k)

describe('the group', () => {
  test('its generator and identity', () => {
    expect(hex(generator)).toBe(nobleHex(Noble.BASE))
    expect(hex(identity)).toBe(nobleHex(Noble.ZERO))
    expect(bigintG1.isIdentity(identity)).toBe(true)
    expect(bigintG1.isIdentity(generator)).toBe(false)
  })

  test('adding, negating, comparing', () => {
    for (let i = 0; i < 20; i++) {
      const [a, b] = [some(), some()]
      expect(hex(bigintG1.add(a.ours, b.ours))).toBe(nobleHex(a.noble.add(b.noble)))
      expect(hex(bigintG1.negate(a.ours))).toBe(nobleHex(a.noble.negate()))
      expect(bigintG1.equals(a.ours, b.ours)).toBe(false)
      expect(bigintG1.equals(bigintG1.add(a.ours, b.ours), bigintG1.add(b.ours, a.ours))).toBe(true)
      // Equal points, opposite points and the identity go through the same formula.
      expect(hex(bigintG1.add(a.ours, a.ours))).toBe(nobleHex(a.noble.double()))
      expect(bigintG1.isIdentity(bigintG1.add(a.ours, bigintG1.negate(a.ours)))).toBe(true)
      expect(bigintG1.equals(bigintG1.add(a.ours, identity), a.ours)).toBe(true)
      expect(bigintG1.equals(a.ours, bigintG1.negate(a.ours))).toBe(false)
      expect(bigintG1.equals(a.ours, identity)).toBe(false)
    }
    expect(bigintG1.isIdentity(bigintG1.add(identity, identity))).toBe(true)
    expect(bigintG1.isIdentity(bigintG1.negate(identity))).toBe(true)
    expect(bigintG1.equals(identity, bigintG1.negate(identity))).toBe(true)
  })

  test('multiplying, at the edges and anywhere', () => {
    const point = some()
    for (const k of [...EDGES, ...Array.from({ length: 30 }, scalar)]) {
      expect(hex(bigintG1.multiply(point.ours, inBytes(k)))).toBe(nobleHex(nobleTimes(point.noble, k)))
      expect(hex(bigintG1.multiplyPublic(generator, inBytes(k)))).toBe(nobleHex(nobleTimes(Noble.BASE, k)))
      expect(bigintG1.isIdentity(bigintG1.multiply(identity, inBytes(k)))).toBe(true)
    }
  })

  test('sums of products, also of equal, opposite and no points', () => {
    const points = Array.from({ length: 5 }, some)
    const [first] = points as [ReturnType<typeof some>]
    const cases = [
      { points: [], scalars: [] },
      { points, scalars: points.map(scalar) },
      { points: [first, first, first], scalars: [1n, 2n, ORDER - 3n] },
      { points: [first, first], scalars: [0n, 0n] },
      { points: points.slice(0, 3), scalars: [t2, ORDER - 1n, 1n] },
    ]
    for (const { points: list, scalars } of cases) {
      const sum = list.reduce(
        (total, { noble }, i) => total.add(nobleTimes(noble, scalars[i] as bigint)),
        Noble.ZERO,
      )
      expect(
        hex(
          bigintG1.sumOfProducts(
            list.map(({ ours }) => ours),
            scalars.map(inBytes),
          ),
        ),
      ).toBe(nobleHex(sum))
    }
    expect(() => bigintG1.sumOfProducts([generator], [])).toThrow(RangeError)
  })

  test('inverse scalars', () => {
    for (const k of EDGES.slice(1)) expect((invertScalar(k) * k) % ORDER).toBe(1n)
    expect(invertScalar(0n)).toBe(0n)
  })
})

describe('decoding refuses what noble refuses, and takes what it takes', () => {
  const nobleTakes = (bytes: Uint8Array): string | null => {
    try {
      const point = Noble.fromBytes(bytes)
      point.assertValidity()
      return nobleHex(point)
    } catch {
      return null
    }
  }
  const agree = (bytes: Uint8Array): string | null => {
    const point = bigintG1.decode(bytes)
    const ours = point === null ? null : hex(point)
    expect(ours).toBe(nobleTakes(bytes))
    return ours
  }
  const field = (x: bigint) => fromHex(x.toString(16).padStart(96, '0'))
  const flagged = (x: bigint, flags: number) => {
    const bytes = field(x)
    bytes[0] = (bytes[0] as number) | flags
    return bytes
  }

  test('every flag, on a point, the identity and zero', () => {
    const x = BigInt(`0x${toHex(Noble.BASE.toBytes(true))}`) & ((1n << 381n) - 1n)
    let taken = 0
    for (let flags = 0; flags < 256; flags += 32) {
      for (const value of [x, 0n, 1n]) if (agree(flagged(value, flags)) !== null) taken++
    }
    // Two points and one identity.
    expect(taken).toBe(3)
  })

  test('x = 0…, p − 1, p, beyond', () => {
    for (let x = 0n; x < 40n; x++) {
      agree(flagged(x, 0x80))
      agree(flagged(P - 1n - x, 0xa0))
      expect(agree(flagged(P + x, 0x80))).toBe(null)
    }
    expect(agree(flagged((1n << 381n) - 1n, 0x80))).toBe(null)
  })

  test('points of the curve outside the subgroup', () => {
    const { Fp } = bls12_381.fields
    const compress = (point: NobleG1) => {
      const { x, y } = point.toAffine()
      return flagged(x, 2n * y > P ? 0xa0 : 0x80)
    }
    let outside = 0
    for (let x = 4n; outside < 6; x++) {
      const square = Fp.add(Fp.pow(x, 3n), 4n)
      if (!Fp.eql(Fp.pow(square, (P - 1n) / 2n), 1n)) continue
      const point = Noble.fromAffine({ x, y: Fp.sqrt(square) })
      // q·point leaves the part outside the subgroup only; noble's own multiplication takes scalars below q.
      let cofactorPart = Noble.ZERO
      for (const bit of ORDER.toString(2)) {
        cofactorPart = cofactorPart.double()
        if (bit === '1') cofactorPart = cofactorPart.add(point)
      }
      expect(cofactorPart.is0()).toBe(false)
      for (const wrong of [point, cofactorPart, cofactorPart.add(Noble.BASE)]) {
        expect(agree(compress(wrong))).toBe(null)
      }
      outside++
    }
    expect(agree(compress(Noble.BASE))).toBe(nobleHex(Noble.BASE))
  })

  test('other lengths', () => {
    const bytes = Noble.BASE.toBytes(true)
    for (const wrong of [new Uint8Array(), bytes.slice(1), concat(bytes, Uint8Array.of(0))]) {
      expect(bigintG1.decode(wrong)).toBe(null)
    }
    expect(bigintG1.decode(Noble.BASE.toBytes(false))).toBe(null)
  })
})

describe('hashing to the curve', () => {
  test('RFC 9380’s vectors', () => {
    const { suites } = readVectors<{
      suites: readonly {
        suite: string
        dst: string
        points: readonly { message: string; x: readonly string[]; y: readonly string[] }[]
      }[]
    }>('hash-to-curve.json')
    const hashes: Readonly<Record<string, typeof hashToG1>> = {
      'BLS12381G1_XMD:SHA-256_SSWU_RO_': hashToG1,
      'BLS12381G1_XMD:SHA-256_SSWU_NU_': encodeToG1,
    }
    let checked = 0
    for (const { suite, dst, points } of suites) {
      const hash = hashes[suite]
      if (hash === undefined) continue
      for (const { message, x, y } of points) {
        const expected = Noble.fromAffine({ x: BigInt(`0x${x[0]}`), y: BigInt(`0x${y[0]}`) })
        expect(hex(hash(utf8(message), utf8(dst)))).toBe(nobleHex(expected))
        checked++
      }
    }
    expect(checked).toBe(10)
  })

  test('any message', () => {
    const dst = utf8('MILAGRO-TS-V1-TEST')
    for (let i = 0; i < 40; i++) {
      const message = random(3 * i)
      expect(hex(hashToG1(message, dst))).toBe(
        nobleHex(bls12_381.G1.hashToCurve(message, { DST: dst }) as NobleG1),
      )
      expect(hex(encodeToG1(message, dst))).toBe(
        nobleHex(bls12_381.G1.encodeToCurve(message, { DST: dst }) as NobleG1),
      )
    }
  })
})
