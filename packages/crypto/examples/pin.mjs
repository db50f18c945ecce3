/** A PIN as second factor: what is stored is the key less what the PIN gives, and the server counts wrong ones. */
import assert from 'node:assert'
import { pbkdf2Sync } from 'node:crypto'
import { deviceIdentityPoint, pinIdentityPoint, userCoreOf } from '@milagro-ts/crypto/identity'
import { Authenticated, clientProve, DeviceProven, MODE } from '@milagro-ts/crypto/mpin'
import { joinPin, pinBytes, pinSalt, pinScalar, splitPin } from '@milagro-ts/crypto/pin'
import { G1, G2 } from '@milagro-ts/crypto/points'
import { ServerKey } from '@milagro-ts/crypto/server-key'
import { groupId, identityOf, master, random } from './world.mjs'

const secrets = { device: master(), pin: master() }
const serverKeyOf = (/** @type {import('@milagro-ts/crypto/scalar').Scalar} */ s) => {
  const key = ServerKey.verify(G1.generator.mulSecret(s), G2.generator.mulSecret(s))
  assert(key)
  return key
}
const idCore = identityOf(5)
const userCore = userCoreOf({ groupId, attributes: { driverName: 'Jörg' }, salt: random(16) })
const pinGen = 1
const A_pin = pinIdentityPoint(groupId, idCore, userCore, pinGen)
const deviceKey = deviceIdentityPoint(groupId, idCore).mulSecret(secrets.device)
const D_pin = A_pin.mulSecret(secrets.pin)

// α: the PIN, stretched by the platform.
const alphaOf = (/** @type {string} */ pin) =>
  pinScalar(
    new Uint8Array(pbkdf2Sync(pinBytes(pin), pinSalt(idCore, userCore, pinGen), 210_000, 32, 'sha256')),
  )

// The car keeps the token and forgets D_pin. Every PIN joins it to some point; only the right one to D_pin.
const token = splitPin(D_pin, alphaOf('2580'), A_pin)

const terms = {
  mode: MODE.nonce,
  audience: 'https://rps.example',
  deviceEpoch: 1,
  slot: 100,
  idCore,
  nonce: random(32),
}
const loginWith = (/** @type {string} */ typed) => {
  const pin = {
    terms: { userCore, pinGen, pinEpoch: 1 },
    pinKey: joinPin(token, alphaOf(typed), A_pin),
  }
  const message = clientProve({ terms, binding: { groupId }, deviceKey, pin, random })
  const proven = DeviceProven.verify(message, { groupId }, serverKeyOf(secrets.device))
  assert(proven)
  return Authenticated.byPin(proven, serverKeyOf(secrets.pin), random)
}
assert.deepEqual(loginWith('2580')?.amr, ['device', 'pin'])
assert.equal(loginWith('2581'), null)
