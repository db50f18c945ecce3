/** p, Montgomery's R, and integers as limbs. */

export const P =
  0x1a0111ea397fe69a4b1ba7b6434bacd764774b84f38512bf6730d2a0f6b0f6241eabfffeb153ffffb9feffffffffaaabn
/** Of both representations: 14 limbs of 28 bits, 8 of 49. */
export const R = 1n << 392n

/** @param {bigint} value @param {number} bits @param {number} count */
export const limbsOf = (value, bits, count) =>
  Array.from({ length: count }, (_, i) => BigInt.asUintN(bits, value >> BigInt(bits * i)))

/** Limbs in [−2^(bits − 1), 2^(bits − 1)), the top one what is left. @param {bigint} value @param {number} bits @param {number} count */
export function balancedLimbsOf(value, bits, count) {
  const limbs = []
  let rest = value
  for (let i = 0; i < count - 1; i++) {
    const limb = BigInt.asIntN(bits, rest)
    limbs.push(limb)
    rest = (rest - limb) >> BigInt(bits)
  }
  return [...limbs, rest]
}

/** −p⁻¹ mod 2^bits by Newton's iteration. @param {number} bits */
export function minusInverseOfP(bits) {
  let y = 1n
  for (let known = 1; known < bits; known *= 2) y = BigInt.asUintN(bits, y * (2n - P * y))
  return BigInt.asUintN(bits, -y)
}
