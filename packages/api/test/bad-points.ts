/** Encodings that no decoder of a point or scalar may take, each with its cause. */
import { G1, G2 } from '@milagro-ts/crypto/points'

/** The fields' primes: BLS12-381's p and q, P-256's p and b (SEC 2). */
const P = 0x1a0111ea397fe69a4b1ba7b6434bacd764774b84f38512bf6730d2a0f6b0f6241eabfffeb153ffffb9feffffffffaaabn
const Q = 0x73eda753299d7d483339d80809a1d80553bda402fffe5bfeffffffff00000001n
const P256 = 0xffffffff00000001000000000000000000000000ffffffffffffffffffffffffn
const P256_B = 0x5ac635d8aa3a93e7b3ebbd55769886bc651d06b0cc53b0f63bce3c3e27d2604bn

export type BadBytes = readonly [why: string, bytes: Uint8Array]

function bigEndian(value: bigint, length: number): Uint8Array {
  return Uint8Array.from(Buffer.from(value.toString(16).padStart(2 * length, '0'), 'hex'))
}
function withFlags(bytes: Uint8Array, flags: number): Uint8Array {
  const flagged = bytes.slice()
  flagged[0] = (flagged[0] as number) | flags
  return flagged
}

function power(base: bigint, exponent: bigint, modulus: bigint): bigint {
  let [result, square] = [1n, base % modulus]
  for (let rest = exponent; rest > 0n; rest >>= 1n) {
    if (rest & 1n) result = (result * square) % modulus
    square = (square * square) % modulus
  }
  return result
}
const isSquare = (value: bigint, modulus: bigint) =>
  power(value, (modulus - 1n) / 2n, modulus) !== modulus - 1n
/** Of the small numbers the first for which `holds`. */
function first(holds: (x: bigint) => boolean): bigint {
  let x = 1n
  while (!holds(x)) x++
  return x
}

/** y² = x³ + 4 has a root: x is on the curve, and outside the subgroup but for one x in 2¹²⁵. */
const onG1 = (x: bigint) => isSquare(x ** 3n + 4n, P)
/** For x in the base field, y² = x³ + 4 + 4u is a square of Fp2 exactly if its norm is one of Fp. */
const onG2 = (x: bigint) => isSquare((x ** 3n + 4n) ** 2n + 16n, P)

function badPoints(size: number, on: (x: bigint) => boolean, good: Uint8Array): BadBytes[] {
  const x = (value: bigint) => withFlags(bigEndian(value, size), 0x80)
  return [
    ['off the curve', x(first(value => !on(value)))],
    ['off the subgroup', x(first(on))],
    ['the identity', withFlags(new Uint8Array(size), 0xc0)],
    ['not flagged as compressed', good.map((byte, i) => (i === 0 ? byte & 0x7f : byte))],
    ['flagged as the identity', withFlags(good, 0x40)],
    ['the identity with a sign', withFlags(new Uint8Array(size), 0xe0)],
    ['x = p', withFlags(size === 48 ? bigEndian(P, 48) : bigEndian(P << 384n, 96), 0x80)],
    ['nothing but zeros', new Uint8Array(size)],
  ]
}
export const BAD_G1 = badPoints(48, onG1, G1.generator.encode())
export const BAD_G2 = badPoints(96, onG2, G2.generator.encode())

const onP256 = (x: bigint) => isSquare(x ** 3n - 3n * x + P256_B, P256)
const p256 = (sign: number, x: bigint) => Uint8Array.of(sign, ...bigEndian(x, 32))
export const BAD_P256: BadBytes[] = [
  [
    'off the curve',
    p256(
      2,
      first(value => !onP256(value)),
    ),
  ],
  ['x = p', p256(2, P256)],
  ['not flagged as compressed', p256(4, first(onP256))],
  ['the identity', new Uint8Array(33)],
]

export const BAD_SCALAR: BadBytes[] = [
  ['q', bigEndian(Q, 32)],
  ['all ones', new Uint8Array(32).fill(0xff)],
]

/** X25519 public keys whose every shared secret is zero: RFC 9180 §7.1.4 has them refused (RFC 7748 §6.1). */
export const BAD_X25519: BadBytes[] = [
  ['zero', new Uint8Array(32)],
  ['one', Uint8Array.of(1, ...new Uint8Array(31))],
  [
    'of order 8',
    Uint8Array.from(Buffer.from('e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800', 'hex')),
  ],
]
