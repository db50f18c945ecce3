/** The tree of leaves: whoever isn't banned is under exactly one node of the cover, whoever is under none. */
import { DecodeError } from '@milagro-ts/crypto/errors'
import { BannedLeaves, leavesBelow, NodeList, type TreeNode } from '@milagro-ts/crypto/permit-tree'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'

const LAST = 2 ** 32 - 1
const leaf = fc.oneof(
  fc.integer({ min: 0, max: LAST }),
  fc.integer({ min: 0, max: 40 }),
  fc.integer({ min: LAST - 40, max: LAST }),
)
const sets = fc.array(leaf, { maxLength: 40 }).map(leaves => BannedLeaves.of(leaves))
const nodesOf = (cover: NodeList): TreeNode[] => cover.slice(0, cover.length)

const isUnder = ({ first, count }: ReturnType<typeof leavesBelow>, one: number) =>
  one >= first && one < first + count

describe('the cover', () => {
  test('is the root when nobody is banned', () => {
    expect(nodesOf(BannedLeaves.of([]).cover())).toEqual([{ depth: 0, index: 0 }])
    expect(BannedLeaves.of([]).nodeOf(7)).toEqual({ depth: 0, index: 0 })
  })

  test('beside one banned leaf is its 32 siblings on the way up', () => {
    const cover = nodesOf(BannedLeaves.of([5]).cover())
    expect(cover).toHaveLength(32)
    expect(cover.slice(0, 3)).toEqual([
      { depth: 30, index: 0 },
      { depth: 32, index: 4 },
      { depth: 31, index: 3 },
    ])
    expect(cover.at(-1)).toEqual({ depth: 1, index: 1 })
  })

  test('has no node for the first and the last leaf when they are banned', () => {
    const cover = nodesOf(BannedLeaves.of([LAST, 0]).cover())
    expect(cover).toHaveLength(62)
    expect(cover.some(node => isUnder(leavesBelow(node), 0) || isUnder(leavesBelow(node), LAST))).toBe(false)
  })

  test('leaves no banned leaf covered, and every other exactly once (random sets)', () => {
    fc.assert(
      fc.property(sets, fc.array(leaf, { maxLength: 40 }), (banned, asked) => {
        const ranges = nodesOf(banned.cover()).map(leavesBelow)
        // In order and without overlap; together they are all leaves but the banned ones.
        const total = ranges.reduce((sum, { count }) => sum + count, 0)
        expect(total).toBe(2 ** 32 - banned.size)
        ranges.forEach(({ first }, i) => {
          const before = ranges[i - 1]
          if (before !== undefined) expect(first).toBeGreaterThanOrEqual(before.first + before.count)
        })
        for (const one of [...asked, 0, LAST]) {
          const over = ranges.filter(range => isUnder(range, one)).length
          expect(over).toBe(banned.has(one) ? 0 : 1)
        }
      }),
      { numRuns: 300 },
    )
  })

  test('is as small as it can be: no parent of a node is free of banned leaves', () => {
    fc.assert(
      fc.property(sets, banned => {
        const all = [...Array.from({ length: banned.size }, (_, i) => leafAt(banned, i))]
        for (const { depth, index } of nodesOf(banned.cover())) {
          if (depth === 0) continue
          const parent = leavesBelow({ depth: depth - 1, index: Math.floor(index / 2) })
          expect(all.some(one => isUnder(parent, one))).toBe(true)
        }
      }),
      { numRuns: 100 },
    )
  })

  test('nodeOf and covers agree with it', () => {
    fc.assert(
      fc.property(sets, leaf, (banned, one) => {
        const cover = nodesOf(banned.cover())
        const found = banned.nodeOf(one)
        expect(found).toEqual(cover.find(node => isUnder(leavesBelow(node), one)) ?? null)
        for (const node of cover) expect(banned.covers(node)).toBe(true)
        if (found === null || found.depth === 32) return
        const below = { depth: found.depth + 1, index: found.index * 2 }
        expect(banned.covers(below)).toBe(false)
      }),
      { numRuns: 200 },
    )
  })

  test('of a ban more covers nobody new, and of an un-ban loses nobody', () => {
    fc.assert(
      fc.property(sets, leaf, fc.array(leaf, { maxLength: 20 }), (before, one, asked) => {
        const leaves = Array.from({ length: before.size }, (_, i) => leafAt(before, i))
        const after = BannedLeaves.of([...leaves, one])
        for (const each of asked) if (after.nodeOf(each) !== null) expect(before.nodeOf(each)).not.toBeNull()
      }),
      { numRuns: 100 },
    )
  })

  test('stays below r·log₂(N/r) and the nodes beside the subtree of N leaves', () => {
    const [r, N] = [1_000, 1_000_000]
    const banned = BannedLeaves.of(Array.from({ length: r }, (_, i) => i * (N / r) + ((i * 7919) % 997)))
    expect(banned.size).toBe(r)
    expect(banned.cover().length).toBeLessThanOrEqual(r * Math.log2(2 ** 20 / r) + 12)
  })
})

describe('a set of banned leaves', () => {
  test('has one spelling, read back as it was', () => {
    fc.assert(
      fc.property(sets, banned => {
        const bytes = banned.encode()
        expect(bytes.length).toBe(4 * banned.size)
        expect(BannedLeaves.decode(bytes).encode()).toEqual(bytes)
      }),
      { numRuns: 100 },
    )
  })

  test.each([
    ['a leaf cut off', [0, 0, 0, 1, 0]],
    ['a leaf twice', [0, 0, 0, 1, 0, 0, 0, 1]],
    ['leaves out of order', [0, 0, 0, 2, 0, 0, 0, 1]],
  ])('is refused with %s', (_, bytes) => {
    expect(() => BannedLeaves.decode(Uint8Array.from(bytes))).toThrow(DecodeError)
  })

  test('takes no number that is no leaf, and a node no index outside its depth', () => {
    for (const wrong of [-1, 2 ** 32, 0.5]) expect(() => BannedLeaves.of([wrong])).toThrow(RangeError)
    for (const wrong of [
      { depth: 33, index: 0 },
      { depth: 1, index: 2 },
      { depth: -1, index: 0 },
    ])
      expect(() => NodeList.of([wrong])).toThrow(RangeError)
  })
})

function leafAt(banned: BannedLeaves, place: number): number {
  return new DataView(banned.encode().buffer).getUint32(4 * place)
}
