/** The PSK of TLS 1.3 out of two names: the server keeps no list, the device no certificate. */
import assert from 'node:assert'
import { agreePointG1, agreePointG2, encodeName } from '@milagro-ts/crypto/identity'
import { G1 } from '@milagro-ts/crypto/points'
import {
  AgreeClientKey,
  AgreeSlotKey,
  ClientAgreement,
  PskIdentity,
  serverAgree,
  slotName,
} from '@milagro-ts/crypto/static-agreement'
import { groupId, identityOf, master, random } from './world.mjs'

const s = master()
const epoch = 1
const slot = 100
const idCore = identityOf(5)
const gateway = /** @type {const} */ ({ kind: 2, name: 'gw.example', generation: 1 })

const clientKey = AgreeClientKey.of(
  { groupId, idCore, epoch },
  agreePointG1(encodeName(groupId, { kind: 1, idCore })).mulSecret(s),
)
// A server's key is for its name and one slot; it is checked against the group's public key.
const serverKey = AgreeSlotKey.verify(
  { groupId, party: gateway, slot, epoch },
  G1.generator.mulSecret(s),
  agreePointG2(slotName(groupId, gateway, slot)).mulSecret(s),
)
assert(serverKey)

// The device: an identity for the ClientHello, and the PSK. The server: the same PSK, out of the identity.
const { identity, psk } = ClientAgreement.begin(clientKey, { party: gateway, slot }, random).psk('m1')
assert.equal(identity.length, 125)
assert.deepEqual(serverAgree(serverKey, PskIdentity.decode(identity)), psk)
