/**
 * The retired hashes: of an identity, of a day, into scalars, into G1 and G2. The maps try one x after the other, so
 * their time tells their input; that was an identity, which is public.
 *
 *   HASH_ID = mhashit(0, ID)    A = mapit(HASH_ID)    A_T = mapit(mhashit(day, HASH_ID))
 */
import { be32 } from '../bytes.js'
import { sha256 } from '../sha256.js'
import type { LegacyCurve } from './curve.js'
import type { Projective } from './group-law.js'
import { os2i } from './octets.js'
import { G1, G2 } from './points.js'
import { Scalar } from './scalar.js'
import type { Fp2 } from './tower.js'

/**
 * SHA-256((n > 0 ? be32 n : nothing) | parts), with zeros on its left up to NB octets.
 *
 * @param n A day, a time in seconds, or 0 for none: 0…2³²−1.
 */
export function mhashit({ size }: LegacyCurve, n: number, ...parts: readonly Uint8Array[]): Uint8Array {
  const digest = n === 0 ? sha256(...parts) : sha256(be32(n), ...parts)
  const octets = new Uint8Array(size)
  octets.set(digest, size - digest.length)
  return octets
}

/** HASH_ID: NB octets. @param id The identity as it was issued: in most deployments UTF-8 of JSON. */
export const hashId = (curve: LegacyCurve, id: Uint8Array): Uint8Array => mhashit(curve, 0, id)

/** OS2I(mhashit(n, parts)) mod r: GET_Y with a time, Hq of WCC with 0. */
export const hashToScalar = (curve: LegacyCurve, n: number, ...parts: readonly Uint8Array[]): Scalar =>
  Scalar.reduce(curve, mhashit(curve, n, ...parts))

/** A. @param hashedId HASH_ID, NB octets; RangeError for another length. */
export function identityPoint(curve: LegacyCurve, hashedId: Uint8Array): G1 {
  if (hashedId.length !== curve.size) throw new RangeError(`HASH_ID has ${curve.size} bytes`)
  return mapit(curve, hashedId)
}

/** A_T of a day since 1970, from 1 on: day 0 meant that there are no permits. */
export function permitPoint(curve: LegacyCurve, hashedId: Uint8Array, day: number): G1 {
  if (!Number.isInteger(day) || day < 1) throw new RangeError('days count from 1 on')
  return mapit(curve, mhashit(curve, day, hashedId))
}

/** The first x from h on with a point, its y even, times the cofactor. */
export function mapit(curve: LegacyCurve, h: Uint8Array): G1 {
  const { g1, cofactor1 } = curve
  const { fp } = curve.tower
  for (let x = os2i(h) % fp.p; ; x = (x + 1n) % fp.p) {
    const root = fp.root(g1.rightSide(x))
    if (root === null) continue
    const point = g1.multiply({ x, y: root % 2n === 0n ? root : fp.p - root, z: 1n }, cofactor1)
    if (!g1.isIdentity(point)) return G1.fromProjective(curve, point)
  }
}

/** The first 1 + ik from k = h on with a point, times the cofactor by powers of ψ. */
export function mapit2(curve: LegacyCurve, h: Uint8Array): G2 {
  const { g2, cofactor2 } = curve
  const { fp, fp2 } = curve.tower
  for (let k = os2i(h) % fp.p; ; k = (k + 1n) % fp.p) {
    const x: Fp2 = { re: 1n, im: k }
    const y = fp2.root(g2.rightSide(x))
    if (y === null) continue
    let image: Projective<Fp2> = g2.fromAffine({ x, y })
    let sum = g2.identity
    for (const coefficient of cofactor2) {
      sum = g2.add(sum, g2.multiply(image, coefficient))
      image = curve.psi(image)
    }
    if (!g2.isIdentity(sum)) return G2.fromProjective(curve, sum)
  }
}
