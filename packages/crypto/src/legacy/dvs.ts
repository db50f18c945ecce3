/**
 * RETIRED. Designated verifier signatures of the retired wire: one-pass M-Pin by a client whose key the authority can't
 * use, over a message. The server alone can check, and could have made each signature itself.
 *
 *   client: z, Pa = z⁻¹Q, ID' = ID | Pa                        authority: CS = s·A, A of ID'
 *   TOKEN = z·CS − PIN·A
 *   U = xA, y = GET_Y(time, U | MESSAGE), V = −(x + y)(TOKEN + PIN·A)
 *   -- ID, Pa, time, MESSAGE, U, V -->                         e(V, Pa)·e(U + yA, SS) = 1 ?
 *
 * It holds because e(z·CS, z⁻¹Q) = e(CS, Q) = e(A, SS). Pa is in the identity, so another Pa is another key. Never with
 * permits.
 */
import { concat } from '../bytes.js'
import type { Random } from '../ports.js'
import type { LegacyCurve } from './curve.js'
import { hashId, identityPoint } from './hash-to-curve.js'
import { clientProveOnePass, type Login, type OnePass, onePassChallenge, splitPin } from './mpin.js'
import { GT } from './pairing.js'
import { type G1, G2 } from './points.js'
import { Scalar } from './scalar.js'

/** @returns z, secret, and Pa = z⁻¹Q, which goes into the identity. */
export function signerKeyPair(curve: LegacyCurve, random: Random): { readonly z: Scalar; readonly Pa: G2 } {
  const z = Scalar.random(curve, random)
  return { z, Pa: G2.generator(curve).multiply(z.invert()) }
}

/** ID | Pa under one hash: what the authority issues CS for. */
export const signerLogin = (id: Uint8Array, Pa: G2): Login => ({
  curve: Pa.curve,
  hashedId: hashId(Pa.curve, concat(id, Pa.encode())),
})

/** TOKEN = z·CS − PIN·A. @param clientSecret CS, of signerLogin's identity. */
export function signerToken(login: Login, z: Scalar, clientSecret: G1, pin: number): G1 {
  return splitPin(clientSecret.multiply(z), pin, identityPoint(login.curve, login.hashedId))
}

/** @param time Unix time in seconds, 1…2³²−1. */
export const sign = (
  login: Login,
  secrets: { readonly token: G1; readonly pin: number },
  { time, message }: { readonly time: number; readonly message: Uint8Array },
  random: Random,
): OnePass => clientProveOnePass(login, secrets, { time, message }, random)

/** Whether the signature is by `id` and Pa over this message and time: for whoever holds SS. */
export function verify(id: Uint8Array, Pa: G2, SS: G2, signature: OnePass, message: Uint8Array): boolean {
  const login = signerLogin(id, Pa)
  const y = onePassChallenge(login, signature, signature.time, message)
  const A = identityPoint(login.curve, login.hashedId)
  return GT.pairing(login.curve, [
    [signature.V, Pa],
    [signature.U.add(A.multiply(y)), SS],
  ]).isOne()
}
