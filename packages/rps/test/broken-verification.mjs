/**
 * Two ways of verifying wrongly, to see that the story notices: one that accepts every message, one that looks at no
 * permit. They are given to createRps (or runRps) in the place of the right one.
 */
import { deviceIdentityPoint, NO_USER, pinIdentityPoint } from '@milagro-ts/crypto/identity'
import { clientProve, LoginClaim } from '@milagro-ts/crypto/mpin'
import { CryptoPool } from '@milagro-ts/crypto/node-pool'
import { G1, G2 } from '@milagro-ts/crypto/points'
import { AuthenticatedLogin, ProvenLogin } from '@milagro-ts/crypto/pooled-login'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { verification } from '@milagro-ts/rps/verification'

/** @typedef {import('@milagro-ts/rps/verification').Verification} Verification */

/**
 * Only a verification makes an `AuthenticatedLogin`, so this one verifies a proof of its own under a secret of its own.
 *
 * @param {import('@milagro-ts/rps/verification').VerificationPorts} ports
 * @param {import('@milagro-ts/rps/verification').Attempt} attempt
 */
async function forge({ group, random, clock }, { message }) {
  const { groupId } = group
  const { idCore, deviceEpoch } = message
  const s = Scalar.random(random)
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
  const timers = { after: () => () => {} }
  const pool = CryptoPool.start({ workers: 0, random, clock, timers })
  const keyOf = (/** @type {'device' | 'pin'} */ purpose, /** @type {number} */ epoch) => ({
    purpose,
    epoch,
    ivk: G1.generator.mulSecret(s).encode(),
    S: G2.generator.mulSecret(s).encode(),
  })
  await pool.handOver(async () => [keyOf('device', deviceEpoch), keyOf('pin', pinEpoch)])
  const proven = await ProvenLogin.verify(pool, LoginClaim.decode(forged.encode()), { groupId }, undefined)
  if (proven === null) throw new Error('a proof of its own secret')
  return { proven, pool, hasPin }
}

/** @type {Verification} */
export const acceptsEverything = {
  device: async (ports, attempt) => ({ proven: (await forge(ports, attempt)).proven, permit: undefined }),
  identity: async (ports, attempt) => {
    const { proven, pool, hasPin } = await forge(ports, attempt)
    const authenticated = hasPin
      ? await AuthenticatedLogin.byPin(pool, proven)
      : AuthenticatedLogin.byDevice(proven)
    if (authenticated === null) throw new Error('a PIN of its own secret')
    return { authenticated, permit: undefined }
  },
}

/** @type {Verification} */
export const ignoresPermits = {
  device: (ports, attempt) => verification.device(ports, { ...attempt, needsPermit: false }),
  identity: (ports, attempt) => verification.identity(ports, { ...attempt, needsPermit: false }),
}
