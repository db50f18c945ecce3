/** Boneh–Franklin: a key for a name, before whoever has the name has a key. */
import assert from 'node:assert'
import { decapsulate, encapsulate } from '@milagro-ts/crypto/ibe'
import { encodeName, encryptPoint } from '@milagro-ts/crypto/identity'
import { G2 } from '@milagro-ts/crypto/points'
import { groupId, master, random } from './world.mjs'

const s = master()
const Ppub = G2.generator.mulSecret(s)
const name = encodeName(groupId, { kind: 4, name: 'workshop@example.org', generation: 0 })

// Anybody, by the group document; `key` is for one message.
const { encapsulation, key } = encapsulate({ name, Ppub }, random)

// Whoever the authorities give the name's key to.
const workshop = encryptPoint(name).mulSecret(s)
assert.deepEqual(decapsulate({ name, Ppub }, workshop, encapsulation), key)

// A name with a slot has another key, which can be withheld from the next slot on.
const today = encodeName(groupId, { kind: 4, name: 'workshop@example.org', generation: 0, slot: 100 })
assert.equal(
  decapsulate({ name: today, Ppub }, workshop, encapsulate({ name: today, Ppub }, random).encapsulation),
  null,
)
