/** RFC 9380 §5 against noble's, for every length that can go wrong; the RFC's own vectors are in vectors-hash-to-curve. */
import { utf8 } from '@milagro-ts/crypto/bytes'
import { ORDER, P } from '@milagro-ts/crypto/curve'
import {
  COORDINATE_BYTES,
  coordinateBytes,
  expandMessageXmd,
  scalarBytes,
} from '@milagro-ts/crypto/hash-to-field'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { afterBlocks, digestOf, padded, sha256 } from '@milagro-ts/crypto/sha256'
import { expand_message_xmd, hash_to_field } from '@noble/curves/abstract/hash-to-curve.js'
import { bls12_381 } from '@noble/curves/bls12-381.js'
import { expect, test } from 'vitest'
import { seeded } from './world.js'

const { hash } = bls12_381.G1.defaults
const DST = utf8('MILAGRO-TS-V1-TEST')

test('p and q are the curve’s', () => {
  expect(P).toBe(bls12_381.fields.Fp.ORDER)
  expect(ORDER).toBe(bls12_381.fields.Fr.ORDER)
})

test('messages, tags and outputs around the block and digest lengths', () => {
  const bytes = seeded('expand')
  for (const message of [0, 1, 52, 55, 56, 63, 64, 65, 119, 128, 300, 900, 1100].map(bytes)) {
    for (const dst of [1, 22, 23, 60, 254, 255, 256, 300].map(bytes)) {
      for (const length of [1, 31, 32, 33, 48, 128, 256]) {
        expect(expandMessageXmd(message, dst, length)).toEqual(expand_message_xmd(message, dst, length, hash))
      }
    }
  }
  expect(expandMessageXmd(DST, DST, 8160)).toEqual(expand_message_xmd(DST, DST, 8160, hash))
})

test('mistakes of the caller', () => {
  expect(() => expandMessageXmd(DST, DST, 8161)).toThrow(RangeError)
  expect(() => expandMessageXmd(DST, new Uint8Array(), 32)).toThrow(RangeError)
  expect(() => afterBlocks(new Uint8Array(63))).toThrow(RangeError)
})

test('scalars and coordinates are those of hash_to_field', () => {
  const bytes = seeded('elements')
  const toBigInt = (chunk: Uint8Array) => chunk.reduce((sum, byte) => (sum << 8n) | BigInt(byte), 0n)
  for (let i = 0; i < 50; i++) {
    const message = bytes(i)
    const options = { k: 128, expand: 'xmd', hash, DST } as const
    expect([[Scalar.reduce(scalarBytes(message, DST)).toBigInt()]]).toEqual(
      hash_to_field(message, 1, { ...options, p: ORDER, m: 1 }),
    )
    for (const { count, m } of [
      { count: 1, m: 1 },
      { count: 2, m: 1 },
      { count: 2, m: 2 },
    ]) {
      const chunks = coordinateBytes(message, DST, count * m)
      const coordinates = Array.from({ length: count * m }, (_, at) =>
        toBigInt(chunks.subarray(at * COORDINATE_BYTES, (at + 1) * COORDINATE_BYTES)),
      )
      expect(coordinates.map(value => value % P)).toEqual(
        hash_to_field(message, count, { ...options, p: P, m }).flat(),
      )
    }
  }
})

test('SHA-256 goes on after whole blocks as if they were one message', () => {
  const bytes = seeded('prefix')
  for (const whole of [0, 64, 192]) {
    const head = bytes(whole)
    const prefix = afterBlocks(head)
    for (const rest of [0, 1, 55, 56, 64, 100].map(bytes)) {
      expect(digestOf(afterBlocks(padded([rest], prefix), prefix))).toEqual(sha256(head, rest))
      expect(digestOf(afterBlocks(padded([rest, rest], prefix), prefix))).toEqual(sha256(head, rest, rest))
    }
  }
})
