/**
 * RETIRED. How far a wrong PIN is from the true one: what a retired server computed from a failed run, to be lenient
 * with slips of the finger. It is why a server that holds SS and a run needs no guesses; our own protocol gives no such
 * thing away.
 *
 *   E = e(V, Q)·e(U* + y·H, SS)    F = e(U + yA, Q)    E·F^δ = 1, δ = entered − true
 *
 * It holds because a PIN that is δ too large leaves E = e(−(x + y)·δA, Q). F is never with the permit. The retired code
 * looked for δ by kangaroos, which sometimes missed; baby steps and giant steps (Shanks 1971) don't.
 */
import { toHex } from '../bytes.js'
import { identityPoint } from './hash-to-curve.js'
import { type Commitment, type Login, runProduct } from './mpin.js'
import { GT } from './pairing.js'
import { type G1, G2 } from './points.js'
import { Scalar } from './scalar.js'

/** |δ| is below this: the number of PINs. */
const RANGE = 10_000
/** RANGE is its square. */
const STEP = 100

export interface PinErrorTerms {
  readonly E: GT
  readonly F: GT
}

export const pinErrorTerms = (
  login: Login,
  SS: G2,
  commitment: Commitment,
  y: Scalar,
  V: G1,
): PinErrorTerms => ({
  E: runProduct(login, SS, commitment, y, V),
  F: GT.pairing(login.curve, [
    [commitment.U.add(identityPoint(login.curve, login.hashedId).multiply(y)), G2.generator(login.curve)],
  ]),
})

/** δ, −9999…9999; null when no PIN makes the run hold: another key, permit or identity was wrong. */
export function pinError({ E, F }: PinErrorTerms): number | null {
  const { curve } = F
  const exponents = new Map<string, number>()
  let baby = GT.one(curve)
  for (let i = 0; i < STEP; i++, baby = baby.multiply(F)) exponents.set(toHex(baby.encode()), i)
  // E⁻¹ = F^δ, δ = STEP·j + i: E⁻¹·F^(−STEP·j) is a baby step.
  const giant = F.power(Scalar.fromNumber(curve, STEP)).invert()
  let rest = E.invert().multiply(F.power(Scalar.fromNumber(curve, RANGE)))
  for (let j = -STEP; j < STEP; j++, rest = rest.multiply(giant)) {
    const i = exponents.get(toHex(rest.encode()))
    if (i !== undefined) return STEP * j + i
  }
  return null
}
