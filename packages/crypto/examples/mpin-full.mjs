/** M-Pin Full: a login that leaves both ends with two session keys. The client confirms first. */
import assert from 'node:assert'
import { deviceIdentityPoint } from '@milagro-ts/crypto/identity'
import { DeviceProven, LoginMessage, MODE } from '@milagro-ts/crypto/mpin'
import { clientBegin, serverAnswer } from '@milagro-ts/crypto/mpin-full'
import { G1, G2 } from '@milagro-ts/crypto/points'
import { ServerKey } from '@milagro-ts/crypto/server-key'
import { groupId, identityOf, master, random } from './world.mjs'

const s = master()
const idCore = identityOf(5)
const S_dev = ServerKey.verify(G1.generator.mulSecret(s), G2.generator.mulSecret(s))
assert(S_dev)
const binding = { groupId }
const terms = {
  mode: MODE.nonce,
  audience: 'https://rps.example',
  deviceEpoch: 1,
  slot: 100,
  idCore,
  nonce: random(32),
}

const [message, awaitingW] = clientBegin({
  terms,
  binding,
  deviceKey: deviceIdentityPoint(groupId, idCore).mulSecret(s),
  random,
})
// → server: the message. ← W
const proven = DeviceProven.verify(LoginMessage.decode(message.encode()), binding, S_dev)
assert(proven)
const [{ W }, awaitingR] = serverAnswer(proven, S_dev, random)
// → server: R and a confirmation. ← a confirmation
const [first, awaitingConfirmation] = awaitingW.confirm(W)
const accepted = awaitingR.accept(first)
assert(accepted)
const [second, atServer] = accepted
assert.deepEqual(awaitingConfirmation.accept(second), atServer)
