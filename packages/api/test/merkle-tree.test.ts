/** The tree over a log: the roots of RFC 6962's own test log, proofs of every pair of sizes, and forged ones. */
import {
  consistencyProof,
  EMPTY_ROOT,
  inclusionProof,
  leafHash,
  type NodeAt,
  nodeHash,
  Peaks,
  treeRoot,
  verifyConsistency,
  verifyInclusion,
} from '@milagro-ts/api/merkle-tree'
import { fromHex, toHex } from '@milagro-ts/crypto/bytes'
import { expect, test } from 'vitest'

/** Test log and roots of github.com/google/certificate-transparency, merkletree/merkle_tree_test.cc. */
const ENTRIES = [
  '',
  '00',
  '10',
  '2021',
  '3031',
  '40414243',
  '5051525354555657',
  '606162636465666768696a6b6c6d6e6f',
].map(hex => fromHex(hex))
const ROOTS = [
  'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855',
  '6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d',
  'fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125',
  'aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77',
  'd37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7',
  '4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4',
  '76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef',
  'ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c',
  '5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328',
]

/** Every hash by hand. */
function nodesOf(leaves: readonly Uint8Array[]): NodeAt {
  const nodeAt: NodeAt = (level, position) =>
    level === 0
      ? (leaves[position] as Uint8Array)
      : nodeHash(nodeAt(level - 1, 2 * position), nodeAt(level - 1, 2 * position + 1))
  return nodeAt
}

const leaves = Array.from({ length: 40 }, (_, i) => leafHash(ENTRIES[i] ?? Uint8Array.of(i)))
const nodeAt = nodesOf(leaves)
const rootAt = (size: number) => treeRoot(size, nodeAt)
const SIZES = leaves.map((_, i) => i).concat(leaves.length)

test('gives the roots of the known log, from its nodes and from peaks alone', () => {
  expect(ROOTS.map((_, size) => toHex(rootAt(size)))).toEqual(ROOTS)
  let peaks = Peaks.empty
  for (const size of SIZES) {
    expect(peaks.head).toEqual({ size, root: rootAt(size) })
    expect(Peaks.decode(size, peaks.encode()).root).toEqual(peaks.root)
    peaks = peaks.append(leaves[size] ?? leafHash(new Uint8Array()))
  }
  expect(() => Peaks.decode(3, new Uint8Array(32))).toThrow(RangeError)
})

test('proves every entry of every log, and no other', () => {
  for (const size of SIZES.slice(1)) {
    const root = rootAt(size)
    for (let index = 0; index < size; index++) {
      const proof = inclusionProof(index, size, nodeAt)
      const leaf = leaves[index] as Uint8Array
      const holds = (changes: Partial<Parameters<typeof verifyInclusion>[0]>) =>
        verifyInclusion({ leaf, index, size, root, proof, ...changes })
      expect(holds({})).toBe(true)
      expect(holds({ leaf: leafHash(Uint8Array.of(1, 2)) })).toBe(false)
      expect(holds({ index: index + 1 })).toBe(false)
      expect(holds({ root: EMPTY_ROOT })).toBe(false)
      expect(holds({ proof: [...proof, root] })).toBe(false)
      if (proof.length > 0) expect(holds({ proof: proof.slice(1) })).toBe(false)
    }
  }
  expect(() => inclusionProof(3, 3, nodeAt)).toThrow(RangeError)
})

test('proves that each log begins with every shorter one, and no other', () => {
  for (const after of SIZES)
    for (const before of SIZES.filter(size => size <= after)) {
      const proof = consistencyProof(before, after, nodeAt)
      const [old, now] = [before, after].map(size => ({ size, root: rootAt(size) })) as [
        { size: number; root: Uint8Array },
        { size: number; root: Uint8Array },
      ]
      expect(verifyConsistency(old, now, proof)).toBe(true)
      const fake = leafHash(Uint8Array.of(9, 9, 9))
      expect(verifyConsistency({ ...old, root: fake }, now, proof)).toBe(false)
      // Every log begins with the empty one.
      if (before > 0) expect(verifyConsistency(old, { ...now, root: fake }, proof)).toBe(false)
      expect(verifyConsistency(old, now, [...proof, fake])).toBe(false)
      for (const i of proof.keys())
        expect(
          verifyConsistency(
            old,
            now,
            proof.map((hash, at) => (at === i ? fake : hash)),
          ),
        ).toBe(false)
      if (before < after) expect(verifyConsistency(now, old, proof)).toBe(false)
    }
  expect(() => consistencyProof(4, 3, nodeAt)).toThrow(RangeError)
})
