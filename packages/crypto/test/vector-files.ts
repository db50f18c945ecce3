/** The data of vectors/, and spellings that published vectors use and the library does not. */
import { readFileSync } from 'node:fs'
import { concat, fromHex, toHex } from '@milagro-ts/crypto/bytes'
import { G1, G2 } from '@milagro-ts/crypto/points'
import { Scalar } from '@milagro-ts/crypto/scalar'

export function readVectors<T>(name: string): T {
  return JSON.parse(readFileSync(new URL(`../../../vectors/${name}`, import.meta.url), 'utf8')) as T
}

const P = 0x1a0111ea397fe69a4b1ba7b6434bacd764774b84f38512bf6730d2a0f6b0f6241eabfffeb153ffffb9feffffffffaaabn
const isUpper = (hex: string): boolean => 2n * BigInt(`0x${hex}`) > P
const isZero = (hex: string): boolean => /^0*$/.test(hex)

function withFlags(x: Uint8Array, upper: boolean): Uint8Array {
  const bytes = x.slice()
  bytes[0] = (bytes[0] as number) | 0x80 | (upper ? 0x20 : 0)
  return bytes
}

/** From affine coordinates, 96 hex digits each. */
export const g1FromAffine = (x: string, y: string): G1 => G1.decode(withFlags(fromHex(x), isUpper(y)))

/** From affine coordinates, [c0, c1] each. */
export function g2FromAffine([x0, x1]: readonly [string, string], [y0, y1]: readonly [string, string]): G2 {
  const upper = isZero(y1) ? isUpper(y0) : isUpper(y1)
  return G2.decode(withFlags(concat(fromHex(x1), fromHex(x0)), upper))
}

/** `04 ‖ x ‖ y`. */
export const g1FromUncompressed = (hex: string): G1 => g1FromAffine(hex.slice(2, 98), hex.slice(98))

const coordinate = (hex: string, i: number): string => hex.slice(96 * i, 96 * i + 96)

/** x.c0 ‖ x.c1 ‖ y.c0 ‖ y.c1, as milagro-crypto-c writes. */
export const g2FromCoordinates = (hex: string): G2 =>
  g2FromAffine([coordinate(hex, 0), coordinate(hex, 1)], [coordinate(hex, 2), coordinate(hex, 3)])

/** 04 ‖ x.c1 ‖ x.c0 ‖ y.c1 ‖ y.c0, as MIRACL Core writes. */
export const g2FromUncompressed = (hex: string): G2 => {
  const [x1, x0, y1, y0] = [0, 1, 2, 3].map(i => coordinate(hex.slice(2), i)) as [
    string,
    string,
    string,
    string,
  ]
  return g2FromAffine([x0, x1], [y0, y1])
}

/** 48 bytes of which the first 16 are zero. */
export function wideScalar(hex: string): Scalar {
  if (!isZero(hex.slice(0, 32))) throw new RangeError('a wide scalar below 2²⁵⁶ expected')
  return Scalar.decode(fromHex(hex.slice(32)))
}

export const point1 = (hex: string): G1 => G1.decode(fromHex(hex))
export const point2 = (hex: string): G2 => G2.decode(fromHex(hex))
export const scalar = (hex: string): Scalar => Scalar.decode(fromHex(hex))
export const hexOf = (value: { encode(): Uint8Array }): string => toHex(value.encode())
