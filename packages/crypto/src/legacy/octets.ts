/** OS2I and I2OS of the retired wire: big-endian integers in octets. */

export function os2i(octets: Uint8Array): bigint {
  let integer = 0n
  for (const octet of octets) integer = (integer << 8n) | BigInt(octet)
  return integer
}

/** @param integer 0 ≤ integer < 2^(8·size). */
export function i2os(integer: bigint, size: number): Uint8Array {
  const octets = new Uint8Array(size)
  for (let i = size - 1, rest = integer; i >= 0; i--, rest >>= 8n) octets[i] = Number(rest & 255n)
  return octets
}
