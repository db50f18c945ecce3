/** Permits for many nodes: each authority answers with a share of each and one proof for all of them. */
import assert from 'node:assert'
import {
  authorityIssueNodes,
  composePermits,
  NodeShares,
  nodeSharesVerify,
} from '@milagro-ts/crypto/node-shares'
import { BannedLeaves } from '@milagro-ts/crypto/permit-tree'
import { G1, G2, PreparedG2 } from '@milagro-ts/crypto/points'
import { splitSecret } from '@milagro-ts/crypto/secret-sharing'
import { groupId, identityOf, master, random } from './world.mjs'

// In life no hand holds s: dealing.mjs.
const s = master()
const publicKey = PreparedG2.of(G2.generator.mulSecret(s))
const authorities = splitSecret(s, { t: 2, n: 3 }, random)

const terms = { groupId, permitEpoch: 1, rule: { origin: 0, length: 86_400 } }
const cover = BannedLeaves.of([6]).cover()
const batch = { terms, slot: 100, nodes: cover.slice(0, cover.length) }

// Two of the three answer; the RPS checks each answer as a whole.
const jti = random(16)
const answers = authorities.slice(1).map(({ index, scalar }) => {
  const issuer = { index, shareEpoch: 1, commitment: G1.generator.mulSecret(scalar), jti }
  return { issuer, bytes: authorityIssueNodes(batch, issuer, scalar, random).encode() }
})
const shares = answers.map(({ issuer, bytes }) => {
  const received = NodeShares.decode(bytes)
  assert(nodeSharesVerify(batch, issuer, received))
  return { index: issuer.index, points: received.points }
})

// One share that is wrong, and the proof of all doesn't hold.
const [first] = answers
assert(first)
const { points, kappa, z } = NodeShares.decode(first.bytes)
const spoilt = NodeShares.of([G1.generator, ...points.slice(1)], kappa, z)
assert(!nodeSharesVerify(batch, first.issuer, spoilt))

// Out of two shares of each node a permit of each: a car has the one of the node above it, leaf 6 has none.
const permits = composePermits(batch, publicKey, shares, random)
assert.equal(permits.filter(permit => permit?.covers(identityOf(5))).length, 1)
assert.equal(permits.filter(permit => permit?.covers(identityOf(6))).length, 0)
assert(!permits.includes(null))
