/** Who is not banned, as nodes of a tree: one node while nobody is, about r·log₂(N/r) for r of N. */
import assert from 'node:assert'
import { BannedLeaves, leavesBelow } from '@milagro-ts/crypto/permit-tree'

// Nobody: the root, for all 2³² leaves.
const nobody = BannedLeaves.of([]).cover()
assert.deepEqual(nobody.slice(0, nobody.length), [{ depth: 0, index: 0 }])

// Three among the first 1 024: every other leaf is under one node of the cover, and no banned one is.
const banned = BannedLeaves.of([5, 6, 700])
const cover = banned.cover()
const nodes = cover.slice(0, cover.length)
for (let leaf = 0; leaf < 1_024; leaf++) {
  const above = nodes.filter(node => {
    const { first, count } = leavesBelow(node)
    return first <= leaf && leaf < first + count
  })
  assert.equal(above.length, banned.has(leaf) ? 0 : 1)
  assert.deepEqual(banned.nodeOf(leaf), above[0] ?? null)
}

// One more ban takes one node away and puts those beside the way to that leaf in its place; all others stay.
const later = banned.and([300])
const gone = nodes.filter(node => !later.covers(node))
assert.deepEqual(gone, [banned.nodeOf(300)])
