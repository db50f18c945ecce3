/** RFC 9380's own vectors, through the functions that everything else hashes with. */
import { toHex, utf8 } from '@milagro-ts/crypto/bytes'
import {
  encodeToG1,
  encodeToG2,
  hashToG1 as hashToG1Under,
  hashToG2 as hashToG2Under,
} from '@milagro-ts/crypto/engine'
import { expandMessageXmd } from '@milagro-ts/crypto/hash-to-field'
import { G1, G2 } from '@milagro-ts/crypto/points'
import { describe, expect, test } from 'vitest'
import { g1FromAffine, g2FromAffine, hexOf, readVectors } from './vector-files.js'

interface Suite {
  readonly suite: string
  readonly dst: string
  readonly points: readonly {
    readonly message: string
    readonly x: readonly [string, string]
    readonly y: readonly [string, string]
  }[]
}
interface Expansion {
  readonly suite: string
  readonly dst: string
  readonly outputs: readonly { readonly message: string; readonly length: number; readonly bytes: string }[]
}
const { suites, expand } = readVectors<{ suites: readonly Suite[]; expand: readonly Expansion[] }>(
  'hash-to-curve.json',
)

/** Bytes of the compressed point that the suite gives. */
const hashes: Readonly<Record<string, (message: Uint8Array, dst: Uint8Array) => string>> = {
  'BLS12381G1_XMD:SHA-256_SSWU_RO_': (message, dst) => hexOf(G1.fromEngine(hashToG1Under(message, dst))),
  'BLS12381G1_XMD:SHA-256_SSWU_NU_': (message, dst) => hexOf(G1.fromEngine(encodeToG1(message, dst))),
  'BLS12381G2_XMD:SHA-256_SSWU_RO_': (message, dst) => hexOf(G2.fromEngine(hashToG2Under(message, dst))),
  'BLS12381G2_XMD:SHA-256_SSWU_NU_': (message, dst) => hexOf(G2.fromEngine(encodeToG2(message, dst))),
}

describe.each(suites)('$suite', ({ suite, dst, points }) => {
  test.each(points)('"$message"', ({ message, x, y }) => {
    const expected = suite.includes('G1_') ? g1FromAffine(x[0], y[0]) : g2FromAffine(x, y)
    expect(hashes[suite]?.(utf8(message), utf8(dst))).toBe(hexOf(expected))
  })
})

describe.each(expand)('$suite under $dst', ({ dst, outputs }) => {
  test.each(outputs)('$length bytes of "$message"', ({ message, length, bytes }) => {
    expect(toHex(expandMessageXmd(utf8(message), utf8(dst), length))).toBe(bytes)
  })
})

test('all four suites and both expansions are here', () => {
  expect(suites.map(({ suite }) => suite).sort()).toEqual(Object.keys(hashes).sort())
  expect(expand.map(({ outputs }) => outputs.length)).toEqual([10, 10])
})
