/**
 * Two ways of verifying wrongly, to see that the story notices: one that accepts every message, one that looks at no
 * permit. They are given to createRps (or runRps) in the place of the right one.
 */
import { deviceIdentityPoint, NO_USER, pinIdentityPoint } from '@milagro-ts/crypto/identity'
import { Authenticated, clientProve, DeviceProven } from '@milagro-ts/crypto/mpin'
import { G1, G2 } from '@milagro-ts/crypto/points'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { ServerKey } from '@milagro-ts/crypto/server-key'
import { verification } from '@milagro-ts/rps/verification'

/** @typedef {import('@milagro-ts/rps/verification').Verification} Verification */

/**
 * Only a verification makes an `Authenticated`, so this one verifies a proof of its own under a secret of its own.
 *
 * @param {import('@milagro-ts/rps/verification').VerificationPorts} ports
 * @param {import('@milagro-ts/rps/verification').Attempt} attempt
 */
function forge({ group, random }, { message }) {
  const { groupId } = group
  const { idCore } = message
  const s = Scalar.random(random)
  const S = ServerKey.verify(G1.generator.mulSecret(s), G2.generator.mulSecret(s))
  if (S === null) throw new Error('a server key of its own secret')
  const needsPin = idCore.factors === 1
  const { userCore, pinGen, pinEpoch } = message.pin ?? { userCore: NO_USER, pinGen: 1, pinEpoch: 1 }
  const pinKey = pinIdentityPoint(groupId, idCore, userCore, pinGen).mulSecret(s)
  const hasPin = message.pin !== undefined || needsPin
  const forged = clientProve({
    terms: message,
    binding: { groupId },
    deviceKey: deviceIdentityPoint(groupId, idCore).mulSecret(s),
    pin: hasPin ? { terms: { userCore, pinGen, pinEpoch }, pinKey } : undefined,
    random,
  })
  const proven = DeviceProven.verify(forged, { groupId }, S)
  if (proven === null) throw new Error('a proof of its own secret')
  return { proven, S, hasPin }
}

/** @type {Verification} */
export const acceptsEverything = {
  device: async (ports, attempt) => ({ proven: forge(ports, attempt).proven, permit: undefined }),
  identity: async (ports, attempt) => {
    const { proven, S, hasPin } = forge(ports, attempt)
    const authenticated = hasPin
      ? Authenticated.byPin(proven, S, ports.random)
      : Authenticated.byDevice(proven)
    if (authenticated === null) throw new Error('a PIN of its own secret')
    return { authenticated, permit: undefined }
  },
}

/** @type {Verification} */
export const ignoresPermits = {
  device: (ports, attempt) => verification.device(ports, { ...attempt, needsPermit: false }),
  identity: (ports, attempt) => verification.identity(ports, { ...attempt, needsPermit: false }),
}
