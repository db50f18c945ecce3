/**
 * The kernels against two other libraries, neither of which shares a line with noble, the tests' usual oracle: mcl-wasm
 * (multiples, sums, hashes, values of GT), and blst, whose interface is that of BLS signatures: keys are multiples of P1,
 * signatures multiples of a hash to G2, and what it verifies are products of pairings.
 */
import {
  aggregatePublicKeys,
  aggregateSignatures,
  PublicKey,
  SecretKey,
  Signature,
  verify,
} from '@chainsafe/blst'
import { toHex, utf8 } from '@milagro-ts/crypto/bytes'
import { ORDER } from '@milagro-ts/crypto/curve'
import { COORDINATE_BYTES, coordinateBytes } from '@milagro-ts/crypto/hash-to-field'
import { Scalar } from '@milagro-ts/crypto/scalar'
import mcl from 'mcl-wasm'
import { beforeAll, describe, expect, test } from 'vitest'
import { engineG1, engineG2, kernels, type Point } from './kernels.js'
import { seeded } from './world.js'

/** The DSTs that mcl has built in; blst's binding has the second. */
const DST = {
  G1: utf8('BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_POP_'),
  G2: utf8('BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_'),
}
const random = seeded('oracles')
const randomScalar = (): bigint => BigInt(`0x${toHex(random(48))}`) % ORDER
const inBytes = (k: bigint): Uint8Array => Scalar.fromBigInt(k).encode()
/** Buffers of other libraries included. */
const hex = (bytes: Uint8Array): string => toHex(Uint8Array.from(bytes))

beforeAll(async () => {
  await mcl.init(mcl.BLS12_381)
  // The serialization of the curve's usual specification, RFC 9380's map, subgroup checks at every decoding.
  mcl.setETHserialization(true)
  mcl.setMapToMode(mcl.IRTF)
  mcl.verifyOrderG1(true)
  mcl.verifyOrderG2(true)
})
function mclScalar(k: bigint): InstanceType<typeof mcl.Fr> {
  const scalar = new mcl.Fr()
  scalar.setStr(k.toString())
  return scalar
}
type MclG1 = InstanceType<typeof mcl.G1>
type MclG2 = InstanceType<typeof mcl.G2>
function mclG1(bytes: Uint8Array): MclG1 {
  const point = new mcl.G1()
  point.deserialize(bytes)
  return point
}
function mclG2(bytes: Uint8Array): MclG2 {
  const point = new mcl.G2()
  point.deserialize(bytes)
  return point
}

for (const { name, group, decoded, hash, theirHash, dst } of [
  {
    name: 'G1',
    group: engineG1,
    decoded: mclG1 as (bytes: Uint8Array) => MclG1 | MclG2,
    hash: kernels.hashToG1,
    theirHash: mcl.hashAndMapToG1 as (message: Uint8Array) => MclG1 | MclG2,
    dst: DST.G1,
  },
  {
    name: 'G2',
    group: engineG2,
    decoded: mclG2,
    hash: kernels.hashToG2,
    theirHash: mcl.hashAndMapToG2,
    dst: DST.G2,
  },
]) {
  describe(`mcl-wasm, ${name}`, () => {
    const bytesOf = (p: Point): string => toHex(group.encode(p))
    const times = (k: bigint): Point => group.multiply(group.generator, inBytes(k))

    test('multiples, sums, doubles, negatives', () => {
      const base = decoded(group.encode(group.generator)) as MclG1
      for (let i = 0; i < 200; i++) {
        const [a, b] = [randomScalar(), randomScalar()]
        const [p, q] = [times(a), group.multiplyPublic(group.generator, inBytes(b))]
        const [theirP, theirQ] = [mcl.mul(base, mclScalar(a)), mcl.mul(base, mclScalar(b))]
        const own = [p, q, group.add(p, q), group.add(p, p), group.negate(p), group.multiply(p, inBytes(b))]
        const theirs = [
          theirP,
          theirQ,
          mcl.add(theirP, theirQ),
          mcl.dbl(theirP),
          mcl.neg(theirP),
          mcl.mul(theirP, mclScalar(b)),
        ]
        expect(own.map(bytesOf)).toEqual(theirs.map(point => hex(point.serialize())))
        expect(bytesOf(group.multiplyPublic(p, inBytes(b)))).toBe(hex((theirs[5] as MclG1).serialize()))
        const back = group.decode((theirs[2] as MclG1).serialize())
        expect(back && group.equals(back, own[2] as Point)).toBe(true)
      }
    })

    test('sums of products', () => {
      for (const size of [1, 2, 3, 17, 32, 64, 100]) {
        const scalars = Array.from({ length: size }, (_, i) => (i % 7 === 6 ? 0n : randomScalar()))
        const points = scalars.map((_, i) => (i % 9 === 8 ? group.identity : times(randomScalar())))
        const sum = mcl.mulVec(
          points.map(point => decoded(group.encode(point)) as MclG1),
          scalars.map(mclScalar),
        )
        expect(bytesOf(group.sumOfProducts(points, scalars.map(inBytes)))).toBe(hex(sum.serialize()))
      }
    })

    test('hashes of messages under its own tag', () => {
      for (let i = 0; i < 200; i++) {
        const message = random(i)
        expect(bytesOf(hash(message, dst))).toBe(hex(theirHash(message).serialize()))
      }
    })
  })
}

test('mcl-wasm: its maps to the curves, under any other tag', () => {
  for (let i = 0; i < 100; i++) {
    const [message, tag] = [random(3 * i), random(1 + 2 * i)]
    const uniform = coordinateBytes(message, tag, 4)
    const elements = [0, 1, 2, 3].map(at => {
      const element = new mcl.Fp()
      element.setBigEndianMod(uniform.subarray(at * COORDINATE_BYTES, (at + 1) * COORDINATE_BYTES))
      return element
    }) as [InstanceType<typeof mcl.Fp>, ...InstanceType<typeof mcl.Fp>[]]
    const pairs = [0, 2].map(at => {
      const pair = new mcl.Fp2()
      pair.set_a(elements[at] as (typeof elements)[0])
      pair.set_b(elements[at + 1] as (typeof elements)[0])
      return pair.mapToG2()
    }) as [MclG2, MclG2]
    expect(toHex(engineG2.encode(kernels.hashToG2(message, tag)))).toBe(
      hex(mcl.add(pairs[0], pairs[1]).serialize()),
    )
    const short = coordinateBytes(message, tag, 1)
    const element = new mcl.Fp()
    element.setBigEndianMod(short)
    expect(toHex(engineG1.encode(kernels.encodeToG1(message, tag)))).toBe(hex(element.mapToG1().serialize()))
  }
})

/** mcl writes the second half of an element of Fp2 first. */
const ofMclGT = (bytes: Uint8Array): string =>
  Array.from({ length: 6 }, (_, i) => {
    const at = 96 * i
    return hex(bytes.slice(at + 48, at + 96)) + hex(bytes.slice(at, at + 48))
  }).join('')

test('mcl-wasm: values of the pairing, of products and quotients, byte for byte', () => {
  for (let i = 0; i < 60; i++) {
    const [a, b, c, d] = [randomScalar(), randomScalar(), randomScalar(), randomScalar()]
    const [A, C] = [a, c].map(k => engineG1.multiply(engineG1.generator, inBytes(k))) as [Point, Point]
    const [B, D] = [b, d].map(k => engineG2.multiply(engineG2.generator, inBytes(k))) as [Point, Point]
    const ours = [
      kernels.pairingProduct([[A, B]]),
      kernels.pairingProduct([[C, kernels.prepareG2(D)]]),
      kernels.pairingProduct([
        [A, B],
        [C, D],
      ]),
    ]
    ours.push(kernels.divideGT(ours[0] as (typeof ours)[0], ours[1] as (typeof ours)[0]))
    const [x, y] = [
      mcl.pairing(mclG1(engineG1.encode(A)), mclG2(engineG2.encode(B))),
      mcl.pairing(mclG1(engineG1.encode(C)), mclG2(engineG2.encode(D))),
    ]
    const theirs = [x, y, mcl.mul(x, y), mcl.div(x, y)]
    expect(ours.map(value => toHex(kernels.bytesOfGT(value)))).toEqual(
      theirs.map(value => ofMclGT(value.serialize())),
    )
    // e(aP, bQ) = e(P, Q)^(ab), with the power by mcl.
    if (i > 0) continue
    const one = mcl.pairing(
      mclG1(engineG1.encode(engineG1.generator)),
      mclG2(engineG2.encode(engineG2.generator)),
    )
    expect(ofMclGT(mcl.pow(one, mclScalar((a * b) % ORDER)).serialize())).toBe(
      toHex(kernels.bytesOfGT(ours[0] as (typeof ours)[0])),
    )
  }
})

describe('blst', () => {
  test('keys and their sums: multiples of P1', () => {
    const scalars = Array.from({ length: 200 }, randomScalar)
    const own = scalars.map(k => engineG1.multiply(engineG1.generator, inBytes(k)))
    const keys = scalars.map(k => SecretKey.fromBytes(inBytes(k)).toPublicKey())
    own.forEach((point, i) => {
      const theirs = (keys[i] as PublicKey).toBytes(true)
      expect(toHex(engineG1.encode(point))).toBe(hex(theirs))
      const back = engineG1.decode(Uint8Array.from(theirs))
      expect(back && engineG1.equals(back, point)).toBe(true)
    })
    for (const size of [1, 2, 3, 50, 200]) {
      const ones = scalars.slice(0, size).map(() => inBytes(1n))
      expect(toHex(engineG1.encode(engineG1.sumOfProducts(own.slice(0, size), ones)))).toBe(
        hex(aggregatePublicKeys(keys.slice(0, size)).toBytes(true)),
      )
    }
  })

  test('signatures and their sums: multiples of hashes to G2', () => {
    const rows = Array.from({ length: 200 }, (_, i) => {
      const [k, message] = [randomScalar(), random(i)]
      const own = engineG2.multiply(kernels.hashToG2(message, DST.G2), inBytes(k))
      return { own, theirs: SecretKey.fromBytes(inBytes(k)).sign(message) }
    })
    for (const { own, theirs } of rows) expect(toHex(engineG2.encode(own))).toBe(hex(theirs.toBytes(true)))
    for (const size of [1, 2, 3, 50, 200]) {
      const some = rows.slice(0, size)
      const sum = some.reduce((total, { own }) => engineG2.add(total, own), engineG2.identity)
      expect(toHex(engineG2.encode(sum))).toBe(
        hex(aggregateSignatures(some.map(({ theirs }) => theirs)).toBytes(true)),
      )
    }
  })

  test('e(kP, H) = e(P, S) by both, for the right S and for no other', () => {
    const minus = engineG1.negate(engineG1.generator)
    for (let i = 0; i < 60; i++) {
      const [k, message] = [randomScalar(), random(32)]
      const H = kernels.hashToG2(message, DST.G2)
      const key = engineG1.multiply(engineG1.generator, inBytes(k))
      const right = engineG2.multiply(H, inBytes(k))
      for (const S of [right, engineG2.add(right, H), engineG2.negate(right)]) {
        const own = kernels.isOneGT(
          kernels.pairingProduct([
            [key, H],
            [minus, S],
          ]),
        )
        const theirs = verify(
          message,
          PublicKey.fromBytes(engineG1.encode(key), true),
          Signature.fromBytes(engineG2.encode(S), true),
        )
        expect([own, theirs]).toEqual(S === right ? [true, true] : [false, false])
      }
    }
  })

  test('which bytes are points of the groups', () => {
    const verdict = (decode: () => unknown): boolean => {
      try {
        return decode() !== null
      } catch {
        return false
      }
    }
    let [taken, asked] = [0, 0]
    for (let i = 0; i < 200; i++) {
      const k = inBytes(randomScalar())
      const points = [
        [engineG1, engineG1.encode(engineG1.multiply(engineG1.generator, k))],
        [engineG2, engineG2.encode(engineG2.multiply(engineG2.generator, k))],
      ] as const
      for (const [group, good] of points) {
        const flipped = good.slice()
        const at = (random(1)[0] as number) % good.length
        flipped[at] = (flipped[at] as number) ^ (1 << (i % 8))
        for (const bytes of [good, flipped]) {
          const own = verdict(() => group.decode(bytes))
          const theirs = verdict(() =>
            group === engineG1 ? PublicKey.fromBytes(bytes, true) : Signature.fromBytes(bytes, true),
          )
          expect(own).toBe(theirs)
          asked++
          if (own) taken++
        }
      }
    }
    expect(taken).toBeGreaterThanOrEqual(400)
    expect(taken).toBeLessThan(asked)
  })
})
