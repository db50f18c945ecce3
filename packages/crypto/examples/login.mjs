/** M-Pin: a car proves its key and shows nothing of it. */
import assert from 'node:assert'
import { deviceIdentityPoint } from '@milagro-ts/crypto/identity'
import { clientProve, DeviceProven, LoginMessage, MODE } from '@milagro-ts/crypto/mpin'
import { G1, G2 } from '@milagro-ts/crypto/points'
import { ServerKey } from '@milagro-ts/crypto/server-key'
import { groupId, identityOf, master, random } from './world.mjs'

const s = master()
const idCore = identityOf(5)
const deviceKey = deviceIdentityPoint(groupId, idCore).mulSecret(s)
const S_dev = ServerKey.verify(G1.generator.mulSecret(s), G2.generator.mulSecret(s))
assert(S_dev)

// The server gives a nonce, once.
const nonce = random(32)
const binding = { groupId }

// The car answers with 48-byte points U and V, and who it is.
const terms = { mode: MODE.nonce, audience: 'https://rps.example', deviceEpoch: 1, slot: 100, idCore, nonce }
const sent = clientProve({ terms, binding, deviceKey, random }).encode()

// The server decodes everything at the door, and checks e(V, Q) = e(U + cA, S).
const proven = DeviceProven.verify(LoginMessage.decode(sent), binding, S_dev)
assert(proven)
assert.equal(proven.message.idCore.mpinId, idCore.mpinId)
assert.deepEqual(proven.message.nonce, nonce)

// Another group's car has a key of another master secret.
const stranger = deviceIdentityPoint(groupId, idCore).mulSecret(master())
const forged = clientProve({ terms, binding, deviceKey: stranger, random })
assert.equal(DeviceProven.verify(forged, binding, S_dev), null)
