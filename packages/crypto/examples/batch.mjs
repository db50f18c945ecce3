/** Many logins in one product of two pairings, and the bad one among them is found. */
import assert from 'node:assert'
import { deviceIdentityPoint } from '@milagro-ts/crypto/identity'
import { clientProve, DeviceProven, MODE } from '@milagro-ts/crypto/mpin'
import { G1, G2 } from '@milagro-ts/crypto/points'
import { ServerKey } from '@milagro-ts/crypto/server-key'
import { groupId, identityOf, master, random } from './world.mjs'

const s = master()
const S_dev = ServerKey.verify(G1.generator.mulSecret(s), G2.generator.mulSecret(s))
assert(S_dev)
const binding = { groupId }

const waiting = [1, 2, 3, 4].map(leaf => {
  const idCore = identityOf(leaf)
  // The third has a key of another group.
  const deviceKey = deviceIdentityPoint(groupId, idCore).mulSecret(leaf === 3 ? master() : s)
  const terms = {
    mode: MODE.nonce,
    audience: 'https://rps.example',
    deviceEpoch: 1,
    slot: 100,
    idCore,
    nonce: random(32),
  }
  return { message: clientProve({ terms, binding, deviceKey, random }), binding }
})

const verdicts = DeviceProven.verifyBatch(waiting, S_dev, random)
assert.deepEqual(
  verdicts.map(proven => proven !== null),
  [true, true, false, true],
)
