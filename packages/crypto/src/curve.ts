/**
 * The numbers of BLS12-381 (draft-irtf-cfrg-pairing-friendly-curves-11 §4.2.1): everything is given by the parameter
 * t = −(2⁶³ + 2⁶² + 2⁶⁰ + 2⁵⁷ + 2⁴⁸ + 2¹⁶), whose sign and size the formulas below carry.
 */

/** |t|. */
export const PARAMETER = 0xd201_0000_0001_0000n
const t = -PARAMETER

/** The prime order of G1, G2 and GT: q = t⁴ − t² + 1. */
export const ORDER: bigint = t ** 4n - t ** 2n + 1n
/** The prime of the field: p = (t − 1)²·q/3 + t. */
export const P: bigint = ((t - 1n) ** 2n * ORDER) / 3n + t
