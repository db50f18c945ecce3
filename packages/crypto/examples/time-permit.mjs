/** A permit of a slot, checked by anybody without a network; the day after it is worth nothing. */
import assert from 'node:assert'
import { BannedLeaves } from '@milagro-ts/crypto/permit-tree'
import { G2, PreparedG2 } from '@milagro-ts/crypto/points'
import { Permit, permitInput, permitPoint, slotAt, VerifiedPermit } from '@milagro-ts/crypto/time-permit'
import { groupId, identityOf, master } from './world.mjs'

const s = master()
const publicKey = PreparedG2.of(G2.generator.mulSecret(s))
const rule = { origin: 1_767_225_600, length: 86_400 }
const terms = { groupId, permitEpoch: 1, rule }
const slot = slotAt(rule, Date.UTC(2026, 3, 11, 12) / 1000)
const car = identityOf(5)
const other = identityOf(6)

// Leaf 6 is banned: the others are under the nodes of the cover, and each node gets one permit.
const banned = BannedLeaves.of([6])
assert.equal(banned.nodeOf(6), null)
const node = banned.nodeOf(5)
assert(node)
const target = /** @type {const} */ ({ type: 'node', ...node })
const permit = Permit.of(slot, target, permitPoint(permitInput(terms, slot, target)).mulSecret(s))

const carried = permit.encode()
const verified = VerifiedPermit.verify(terms, publicKey, Permit.decode(carried))
assert(verified)
assert(verified.covers(car))
assert(!verified.covers(other))

const tomorrow = Permit.of(slot + 1, target, permit.point)
assert.equal(VerifiedPermit.verify(terms, publicKey, tomorrow), null)
