/** The one door from bytes to a point or scalar (protocols.md §0), and the algebra behind it. */
import { concat, fromHex, toHex } from '@milagro-ts/crypto/bytes'
import { ORDER } from '@milagro-ts/crypto/engine'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { hashToG1, hashToG2 } from '@milagro-ts/crypto/hash-to-curve'
import { G1, G2, PreparedG2, pairing, pairingProduct, pairingProductIsOne } from '@milagro-ts/crypto/points'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { bls12_381 } from '@noble/curves/bls12-381.js'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { digestOf, scalarOf, seeded } from './world.js'

const P = 0x1a0111ea397fe69a4b1ba7b6434bacd764774b84f38512bf6730d2a0f6b0f6241eabfffeb153ffffb9feffffffffaaabn
const { Fp, Fp2 } = bls12_381.fields
const field = (value: bigint): Uint8Array => fromHex(value.toString(16).padStart(96, '0'))
const flagged = (bytes: Uint8Array, flags: number): Uint8Array => {
  const copy = bytes.slice()
  copy[0] = ((copy[0] as number) & 0x1f) | flags
  return copy
}
const refuses = (Group: { decode(bytes: Uint8Array): unknown }, bytes: Uint8Array) =>
  expect(() => Group.decode(bytes)).toThrow(DecodeError)

// Points of the curve outside the subgroup, by the other library: the door of ours must not open to them.
function offSubgroup1(seed: number): InstanceType<typeof bls12_381.G1.Point> {
  for (let x = BigInt(seed); ; x++) {
    const y2 = Fp.add(Fp.pow(x, 3n), 4n)
    if (!Fp.eql(Fp.pow(y2, (P - 1n) / 2n), Fp.ONE)) continue
    const point = bls12_381.G1.Point.fromAffine({ x, y: Fp.sqrt(y2) })
    if (!point.isTorsionFree()) return point
  }
}
function offSubgroup2(seed: number): InstanceType<typeof bls12_381.G2.Point> {
  for (let c0 = BigInt(seed); ; c0++) {
    const x = Fp2.fromBigTuple([c0, 1n])
    const y2 = Fp2.add(Fp2.pow(x, 3n), Fp2.fromBigTuple([4n, 4n]))
    if (!Fp2.eql(Fp2.pow(y2, (P * P - 1n) / 2n), Fp2.ONE)) continue
    const point = bls12_381.G2.Point.fromAffine({ x, y: Fp2.sqrt(y2) })
    if (!point.isTorsionFree()) return point
  }
}
const upper1 = (y: bigint): number => (2n * y > P ? 0x20 : 0)
/** Compressed by hand: the library refuses to write such points. */
function compress1({ x, y }: { x: bigint; y: bigint }): Uint8Array {
  return flagged(field(x), 0x80 | upper1(y))
}
function compress2({ x, y }: { x: { c0: bigint; c1: bigint }; y: { c0: bigint; c1: bigint } }): Uint8Array {
  return flagged(concat(field(x.c1), field(x.c0)), 0x80 | upper1(y.c1 === 0n ? y.c0 : y.c1))
}

describe.each([
  { name: 'G1', Group: G1, size: 48, some: hashToG1('device', digestOf('some point')).encode() },
  { name: 'G2', Group: G2, size: 96, some: hashToG2('agree', digestOf('some point')).encode() },
])('$name decodes', ({ Group, size, some }) => {
  test('what it encodes', () => {
    expect(toHex(Group.decode(some).encode())).toBe(toHex(some))
    expect(toHex(Group.decode(Group.generator.encode()).encode())).toBe(toHex(Group.generator.encode()))
  })

  test('a point and its negative, told apart by the sign flag alone', () => {
    const negated = flagged(some, ((some[0] as number) & 0xe0) ^ 0x20)
    expect(toHex(Group.decode(some).negate().encode())).toBe(toHex(negated))
  })

  test.each([0, 1, 47, 49, 95, 97, 192].filter(length => length !== size))('not %i bytes', length => {
    refuses(Group, concat(some, some, some).slice(0, length))
  })

  test('no flags but compressed and sign', () => {
    for (let flags = 0; flags < 8; flags++) {
      const bytes = flagged(some, flags << 5)
      if (flags === 4 || flags === 5) expect(toHex(Group.decode(bytes).encode())).toBe(toHex(bytes))
      else refuses(Group, bytes)
    }
  })

  test('not the identity, in any spelling', () => {
    for (const flags of [0x00, 0x40, 0x80, 0xa0, 0xc0, 0xe0])
      refuses(Group, flagged(new Uint8Array(size), flags))
    refuses(Group, Group.identity.encode())
  })

  test('not an uncompressed point', () => {
    refuses(Group, concat(flagged(some, 0), some))
  })

  test('an error that names the field and not the value', () => {
    try {
      Group.decode(new Uint8Array(size), 'uDev')
      expect.unreachable()
    } catch (error) {
      expect(error).toBeInstanceOf(DecodeError)
      expect((error as DecodeError).field).toBe('uDev')
      expect((error as DecodeError).message).not.toContain('00')
    }
  })
})

describe('G1 refuses', () => {
  test('x ≥ p, also where x − p is a point', () => {
    const coordinates = Array.from({ length: 40 }, (_, i) => {
      const bytes = hashToG1('device', digestOf(`point ${i}`)).encode()
      return { bytes, x: bls12_381.G1.Point.fromBytes(bytes).toAffine().x }
    })
    // About a fifth of all x leave room for x + p in 381 bits.
    const spelledTwice = coordinates.filter(({ x }) => x + P < 1n << 381n)
    expect(spelledTwice.length).toBeGreaterThan(1)
    for (const { bytes, x } of spelledTwice) {
      expect(toHex(flagged(field(x), (bytes[0] as number) & 0xe0))).toBe(toHex(bytes))
      refuses(G1, flagged(field(x + P), (bytes[0] as number) & 0xe0))
    }
    for (const x of [P, P + 1n, P + 4n, (1n << 381n) - 1n]) refuses(G1, flagged(field(x), 0x80))
  })

  test('x that is on no point of the curve', () => {
    refuses(G1, flagged(field(1n), 0x80))
    refuses(G1, flagged(field(1n), 0xa0))
  })

  test('points of the curve outside the subgroup', () => {
    for (const seed of [4, 100, 1_000_000]) refuses(G1, compress1(offSubgroup1(seed).toAffine()))
  })

  test('V with a cofactor point added: the pairing would not see it', () => {
    const V = hashToG1('device', digestOf('V')).mulSecret(scalarOf('x'))
    const point = bls12_381.G1.Point.fromBytes(V.encode())
    // q·R leaves the part outside the subgroup only.
    const R = offSubgroup1(4)
    let cofactorPoint = bls12_381.G1.Point.ZERO
    for (let bit = 255n; bit >= 0n; bit--) {
      cofactorPoint = cofactorPoint.double()
      if ((ORDER >> bit) & 1n) cofactorPoint = cofactorPoint.add(R)
    }
    const shifted = point.add(cofactorPoint)
    expect(shifted.equals(point)).toBe(false)
    refuses(G1, compress1(shifted.toAffine()))
    expect(toHex(compress1(point.toAffine()))).toBe(toHex(V.encode()))
  })

  test('a point of G2, and half of one', () => {
    refuses(G1, G2.generator.encode())
    refuses(G1, G2.generator.encode().slice(0, 48))
  })
})

describe('G2 refuses', () => {
  test('c0 ≥ p or c1 ≥ p', () => {
    const { x } = bls12_381.G2.Point.fromBytes(G2.generator.encode()).toAffine()
    const limit = 1n << 381n
    const spelled = [
      [x.c1, x.c0],
      [x.c1 + P, x.c0],
      [x.c1, x.c0 + P],
      [x.c1, P],
      [P, x.c0],
      [x.c1, limit - 1n],
    ] as const
    const sign = (G2.generator.encode()[0] as number) & 0xe0
    const bytes = spelled.map(([c1, c0]) => flagged(concat(field(c1 % limit), field(c0)), sign))
    expect(toHex(G2.decode(bytes[0] as Uint8Array).encode())).toBe(toHex(G2.generator.encode()))
    for (const wrong of bytes.slice(1)) refuses(G2, wrong)
  })

  test('flags in the second coordinate', () => {
    const bytes = G2.generator.encode()
    for (const flag of [0x20, 0x40, 0x80]) {
      refuses(
        G2,
        bytes.map((byte, i) => (i === 48 ? byte | flag : byte)),
      )
    }
  })

  test('points of the curve outside the subgroup', () => {
    for (const seed of [1, 50]) refuses(G2, compress2(offSubgroup2(seed).toAffine()))
  })

  test('a point of G1, and two of them', () => {
    refuses(G2, G1.generator.encode())
    refuses(G2, concat(G1.generator.encode(), G1.generator.encode()))
  })
})

describe('scalars', () => {
  const bytesOf = (value: bigint) => fromHex(value.toString(16).padStart(64, '0'))

  test('decode below the order only, in 32 bytes only', () => {
    expect(Scalar.decode(bytesOf(ORDER - 1n)).toBigInt()).toBe(ORDER - 1n)
    expect(Scalar.decode(new Uint8Array(32)).isZero()).toBe(true)
    for (const wrong of [ORDER, ORDER + 1n, 2n ** 256n - 1n]) refuses(Scalar, bytesOf(wrong))
    for (const length of [0, 31, 33, 48]) refuses(Scalar, new Uint8Array(length))
  })

  test('are a field', () => {
    const any = fc.bigInt({ min: 0n, max: ORDER - 1n }).map(Scalar.fromBigInt)
    fc.assert(
      fc.property(any, any, any, (a, b, c) => {
        expect(
          a
            .add(b)
            .multiply(c)
            .equals(a.multiply(c).add(b.multiply(c))),
        ).toBe(true)
        expect(a.subtract(b).equals(a.add(b.negate()))).toBe(true)
        expect(a.add(a.negate()).isZero()).toBe(true)
        if (!a.isZero()) expect(a.multiply(a.invert()).equals(Scalar.fromNumber(1))).toBe(true)
        expect(Scalar.decode(a.encode()).equals(a)).toBe(true)
        expect(a.encode()).toHaveLength(32)
      }),
      { numRuns: 200 },
    )
  })

  test('mistakes of the caller', () => {
    expect(() => Scalar.fromNumber(0).invert()).toThrow(RangeError)
    for (const wrong of [-1, 0.5, Number.NaN, 2 ** 53])
      expect(() => Scalar.fromNumber(wrong)).toThrow(RangeError)
  })

  test('random ones are below the order, weights below 2¹²⁸', () => {
    const random = seeded('scalars')
    for (let i = 0; i < 50; i++) {
      const scalar = Scalar.random(random)
      expect(scalar.toBigInt() < ORDER && !scalar.isZero()).toBe(true)
      expect(Scalar.randomWeight(random).toBigInt() >> 128n).toBe(0n)
    }
    const asked: number[] = []
    Scalar.random(length => {
      asked.push(length)
      return new Uint8Array(length).fill(255)
    })
    // 48 bytes for 255 bits: the reduction's bias stays below 2⁻¹²⁸.
    expect(asked).toEqual([48])
  })
})

describe('the algebra', () => {
  const edge = [0n, 1n, 2n, 3n, ORDER - 1n, ORDER - 2n, 1n << 254n, (1n << 128n) - 1n]
  const scalars = [...edge.map(Scalar.fromBigInt), ...['a', 'b', 'c'].map(scalarOf)]

  /** Double and add, from the definition. */
  function slowly<T extends { add(other: T): T }>(identity: T, point: T, k: bigint): T {
    let sum = identity
    for (let bit = 255n; bit >= 0n; bit--) {
      sum = sum.add(sum)
      if ((k >> bit) & 1n) sum = sum.add(point)
    }
    return sum
  }

  test.each([{ name: 'G1', Group: G1, some: G1.generator.mulPublic(scalarOf('some')) }])(
    '$name: multiplying, secretly, publicly and slowly, is one',
    ({ Group, some }) => {
      for (const point of [some, Group.generator, Group.identity]) {
        for (const k of scalars) {
          const expected = toHex(slowly(Group.identity, point, k.toBigInt()).encode())
          expect(toHex(point.mulSecret(k).encode())).toBe(expected)
          expect(toHex(point.mulPublic(k).encode())).toBe(expected)
        }
      }
    },
  )

  test('G2: multiplying, secretly, publicly and slowly, is one', () => {
    const some = G2.generator.mulPublic(scalarOf('some'))
    for (const point of [some, G2.generator, G2.identity]) {
      for (const k of scalars) {
        const expected = toHex(slowly(G2.identity, point, k.toBigInt()).encode())
        expect(toHex(point.mulSecret(k).encode())).toBe(expected)
        expect(toHex(point.mulPublic(k).encode())).toBe(expected)
      }
    }
  })

  test('sums, differences, negatives', () => {
    const [a, b] = ['a', 'b'].map(name => G1.generator.mulPublic(scalarOf(name))) as [G1, G1]
    expect(a.subtract(b).add(b).equals(a)).toBe(true)
    expect(a.add(a.negate()).isIdentity()).toBe(true)
    expect(G1.sum([]).isIdentity()).toBe(true)
    expect(G1.sum([a, b, a.negate()]).equals(b)).toBe(true)
    const [c, d] = ['c', 'd'].map(name => G2.generator.mulPublic(scalarOf(name))) as [G2, G2]
    expect(c.subtract(d).add(d).equals(c)).toBe(true)
    expect(G2.sum([c, c.negate()]).isIdentity()).toBe(true)
  })

  test('the pairing is bilinear, and not degenerate', () => {
    const [a, b] = ['a', 'b'].map(scalarOf) as [Scalar, Scalar]
    const expected = pairing(G1.generator.mulPublic(a.multiply(b)), G2.generator)
    expect(pairing(G1.generator.mulPublic(a), G2.generator.mulPublic(b)).equals(expected)).toBe(true)
    expect(pairing(G1.generator, G2.generator.mulPublic(a.multiply(b))).equals(expected)).toBe(true)
    expect(expected.isOne()).toBe(false)
    expect(expected.toBytes()).toHaveLength(576)
    expect(pairing(G1.identity, G2.generator).isOne()).toBe(true)
    expect(pairing(G1.generator, G2.identity).isOne()).toBe(true)
  })

  test('a product of pairings is one, or not', () => {
    const k = scalarOf('k')
    const balanced: [G1, G2][] = [
      [G1.generator.mulPublic(k), G2.generator],
      [G1.generator.negate(), G2.generator.mulPublic(k)],
    ]
    expect(pairingProductIsOne([])).toBe(true)
    expect(pairingProductIsOne(balanced)).toBe(true)
    expect(pairingProductIsOne([...balanced, [G1.identity, G2.generator]])).toBe(true)
    expect(pairingProductIsOne([...balanced, [G1.generator, G2.generator]])).toBe(false)
    expect(pairingProductIsOne(balanced.slice(1))).toBe(false)
    expect(pairingProductIsOne([[G1.identity, G2.identity]])).toBe(true)
  })
})

describe('a sum of products', () => {
  const points = Array.from({ length: 20 }, (_, i) => hashToG1('device', digestOf(`point ${i}`)))
  const scalars = points.map((_, i) => scalarOf(`scalar ${i}`))
  const oneByOne = (n: number) =>
    G1.sum(points.slice(0, n).map((point, i) => point.mulPublic(scalars[i] as Scalar)))

  test.each([0, 1, 2, 8, 9, 20])('of %i points is what the products add up to', n => {
    expect(G1.sumOfProducts(points.slice(0, n), scalars.slice(0, n)).equals(oneByOne(n))).toBe(true)
  })

  test('takes zeros, the identity, and one point many times', () => {
    const [P, Q] = points as [G1, G1]
    const [a, b] = scalars as [Scalar, Scalar]
    const zero = Scalar.fromNumber(0)
    const sum = G1.sumOfProducts([P, Q, G1.identity, P, P.negate()], [a, zero, b, b, a])
    expect(sum.equals(P.mulPublic(b))).toBe(true)
    expect(G1.sumOfProducts([P, P.negate()], [a, a]).isIdentity()).toBe(true)
  })

  test('wants one scalar for each point', () => {
    expect(() => G1.sumOfProducts(points, scalars.slice(1))).toThrow(RangeError)
  })
})

describe('prepared lines', () => {
  const P = hashToG1('device', digestOf('P'))
  const R = hashToG2('agree', digestOf('R'))

  test('give what the point gives', () => {
    expect(pairing(P, PreparedG2.of(R)).equals(pairing(P, R))).toBe(true)
    expect(pairing(P, PreparedG2.generator).equals(pairing(P, G2.generator))).toBe(true)
    expect(pairing(P, PreparedG2.of(G2.identity)).isOne()).toBe(true)
    expect(pairing(P, PreparedG2.of(R)).equals(pairing(P, G2.generator))).toBe(false)
  })

  test('serve again and again, in products too', () => {
    const lines = PreparedG2.of(R)
    const a = scalarOf('a')
    const balanced = [
      [P.mulPublic(a), lines],
      [P.negate(), R.mulPublic(a)],
    ] as const
    expect(pairingProductIsOne(balanced)).toBe(true)
    expect(pairingProductIsOne(balanced)).toBe(true)
    expect(pairingProductIsOne([[P, lines], balanced[1]])).toBe(false)
  })
})

test('values of e divide', () => {
  const P = hashToG1('device', digestOf('P'))
  const R = hashToG2('agree', digestOf('R'))
  const T = hashToG1('device', digestOf('T'))
  const both = pairingProduct([
    [P, R],
    [T, G2.generator],
  ])
  expect(both.divide(pairing(T, G2.generator)).equals(pairing(P, R))).toBe(true)
  expect(both.divide(pairing(P, R)).isOne()).toBe(false)
  expect(both.divide(both).isOne()).toBe(true)
})
