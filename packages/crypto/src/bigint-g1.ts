/**
 * G1 in plain BigInt: all that a device needs, for runtimes without SIMD WebAssembly, and the slow twin of the kernel.
 * Same bytes, not the same care: BigInt takes time that depends on its operands, so nothing here is constant time.
 * `multiply` has one shape for every scalar; that hides the rough, not the fine.
 *
 *   bytes → decode → point (X : Y : Z), x = X/Z, y = Y/Z, on y² = x³ + 4 → encode → bytes
 *   message → hash_to_field → u → map onto E' → 11-isogeny to E → clear the cofactor → G1      (RFC 9380 §8.8.1)
 */
import { copyOf } from './bytes.js'
import { ORDER, P, PARAMETER } from './curve.js'
import { COORDINATE_BYTES, coordinateBytes } from './hash-to-field.js'

// The field

const mod = (a: bigint): bigint => {
  const rest = a % P
  return rest < 0n ? rest + P : rest
}

/** Four bits of the exponent at a time; exponents here are public constants. */
function power(base: bigint, exponent: bigint, modulus = P): bigint {
  const powers = [1n, base]
  for (let i = 2; i < 16; i++) powers.push(((powers[i - 1] as bigint) * base) % modulus)
  let result = 1n
  for (const digit of exponent.toString(16)) {
    for (let i = 0; i < 4; i++) result = (result * result) % modulus
    result = (result * (powers[Number.parseInt(digit, 16)] as bigint)) % modulus
  }
  return result
}
const invert = (a: bigint): bigint => power(a, P - 2n)
/** p ≡ 3 mod 4. Not a root when `a` is no square: the caller squares it. */
const squareRoot = (a: bigint): bigint => power(a, (P + 1n) / 4n)

/** 0 for 0. For public scalars, in every engine. */
export const invertScalar = (scalar: bigint): bigint => power(scalar, ORDER - 2n, ORDER)

function integerOf(bytes: Uint8Array): bigint {
  let value = 0n
  for (const byte of bytes) value = (value << 8n) | BigInt(byte)
  return value
}

function bytesOf(integer: bigint, size: number): Uint8Array {
  const bytes = new Uint8Array(size)
  for (let i = size - 1, rest = integer; i >= 0; i--, rest >>= 8n) bytes[i] = Number(rest & 255n)
  return bytes
}

// Integers mod q, of 32 bytes.

const scalarBytes = (integer: bigint): Uint8Array => bytesOf(integer % ORDER, 32)
export const addScalars = (a: Uint8Array, b: Uint8Array): Uint8Array =>
  scalarBytes(integerOf(a) + integerOf(b))
export const subtractScalars = (a: Uint8Array, b: Uint8Array): Uint8Array =>
  scalarBytes(integerOf(a) + ORDER - integerOf(b))
export const multiplyScalars = (a: Uint8Array, b: Uint8Array): Uint8Array =>
  scalarBytes(integerOf(a) * integerOf(b))
/** 48 bytes. */
export const reduceScalar = (bytes: Uint8Array): Uint8Array => scalarBytes(integerOf(bytes))

// The group. Complete formulas of Renes, Costello and Batina 2015 (a = 0, b₃ = 3·4): E has no point of order 2, so
// they hold for all points, the identity and equal points included.

/** Homogeneous coordinates; the identity is (0 : 1 : 0). */
export interface BigIntG1 {
  readonly x: bigint
  readonly y: bigint
  readonly z: bigint
}

const IDENTITY: BigIntG1 = { x: 0n, y: 1n, z: 0n }
/** P1 (draft-irtf-cfrg-pairing-friendly-curves-11 §4.2.1). */
const GENERATOR: BigIntG1 = {
  x: 0x17f1d3a73197d7942695638c4fa9ac0fc3688c4f9774b905a14e3a3f171bac586c55e83ff97a1aeffb3af00adb22c6bbn,
  y: 0x08b3f481e3aaa0f1a09e30ed741d8ae4fcf5e095d5d00af600db18cb2c04b3edd03cc744a2888ae40caa232946c5e7e1n,
  z: 1n,
}

/** Their algorithm 7. */
function add(a: BigIntG1, b: BigIntG1): BigIntG1 {
  const xx = mod(a.x * b.x)
  const yy = mod(a.y * b.y)
  const zz = 12n * mod(a.z * b.z)
  const xy = mod((a.x + a.y) * (b.x + b.y) - xx - yy)
  const yz = mod(a.y * b.z + a.z * b.y)
  const xz = 12n * mod(a.x * b.z + a.z * b.x)
  return {
    x: mod(xy * (yy - zz) - yz * xz),
    y: mod(3n * xx * xz + (yy - zz) * (yy + zz)),
    z: mod((yy + zz) * yz + 3n * xx * xy),
  }
}

/** Their algorithm 9. */
function double({ x, y, z }: BigIntG1): BigIntG1 {
  const yy = mod(y * y)
  const zz = 12n * mod(z * z)
  const difference = mod(yy - 3n * zz)
  return {
    x: mod(2n * difference * mod(x * y)),
    y: mod(difference * (yy + zz) + 8n * yy * zz),
    z: mod(8n * yy * mod(y * z)),
  }
}

const negate = ({ x, y, z }: BigIntG1): BigIntG1 => ({ x, y: mod(-y), z })
const isIdentity = ({ z }: BigIntG1): boolean => z === 0n
const equals = (a: BigIntG1, b: BigIntG1): boolean =>
  mod(a.x * b.z - b.x * a.z) === 0n && mod(a.y * b.z - b.y * a.z) === 0n

/** |t|·a, by the bits of the public |t|, six of which are set. */
function timesParameter(a: BigIntG1): BigIntG1 {
  let sum = a
  for (const bit of PARAMETER.toString(2).slice(1)) {
    sum = double(sum)
    if (bit === '1') sum = add(sum, a)
  }
  return sum
}

/**
 * On G1, [t²](x, y) = (βx, −y), where β is the cube root of 1 with which it holds for P1: λ = −t² solves λ² + λ + 1 = 0
 * mod q as q = t⁴ − t² + 1, and (x, y) ↦ (βx, y) is the endomorphism with that eigenvalue.
 */
const BETA = 0x5f19672fdf76ce51ba69c6076a0f77eaddb3a93be6f89688de17d813620a00022e01fffffffefffen
const timesParameterSquared = ({ x, y, z }: BigIntG1): BigIntG1 => ({ x: mod(BETA * x), y: mod(-y), z })

/** In G1 exactly when that holds (Scott 2021, "A note on group membership tests for G1, G2 and GT", §6). */
const inSubgroup = (a: BigIntG1): boolean =>
  equals(timesParameter(timesParameter(a)), timesParameterSquared(a))

/**
 * Σ kP for points of G1 and scalars below q, 32 bytes each, which may be secret. k = k₀ + k₁t² with both below 2¹²⁸, four bits of
 * each at a time; a zero digit adds the identity.
 */
function sumOfProducts(points: readonly BigIntG1[], scalars: readonly Uint8Array[]): BigIntG1 {
  if (points.length !== scalars.length) throw new RangeError('as many scalars as points expected')
  const halves = scalars.map(integerOf).flatMap(k => [k % PARAMETER ** 2n, k / PARAMETER ** 2n])
  const tables = points.flatMap(point => {
    const multiples = [IDENTITY]
    for (let i = 1; i < 16; i++) multiples.push(add(multiples[i - 1] as BigIntG1, point))
    return [multiples, multiples.map(timesParameterSquared)]
  })
  let sum = IDENTITY
  for (let at = 124n; at >= 0n; at -= 4n) {
    for (let i = 0; i < 4; i++) sum = double(sum)
    tables.forEach((table, i) => {
      const digit = Number(((halves[i] as bigint) >> at) & 15n)
      sum = add(sum, table[digit] as BigIntG1)
    })
  }
  return sum
}
const multiply = (a: BigIntG1, scalar: Uint8Array): BigIntG1 => sumOfProducts([a], [scalar])

// Bytes: 48, big-endian x; above it three flags: compressed, identity, y is the larger of the two.

const SIZE = 48
const COMPRESSED = 0x80
const INFINITE = 0x40
const LARGER = 0x20
const FLAGS = COMPRESSED | INFINITE | LARGER
const isLarger = (y: bigint): boolean => 2n * y > P

/** Null for bytes that are no compressed point of the curve in the subgroup, or spell it in a second way. */
function decode(bytes: Uint8Array): BigIntG1 | null {
  if (bytes.length !== SIZE) return null
  const first = bytes[0] as number
  const x = integerOf(copyOf(bytes).fill(first & ~FLAGS, 0, 1))
  if ((first & COMPRESSED) === 0) return null
  if (first & INFINITE) return (first & LARGER) === 0 && x === 0n ? IDENTITY : null
  if (x >= P) return null
  const square = mod(x ** 3n + 4n)
  const root = squareRoot(square)
  if (mod(root * root) !== square) return null
  const y = isLarger(root) === ((first & LARGER) !== 0) ? root : P - root
  const point = { x, y, z: 1n }
  return inSubgroup(point) ? point : null
}

function encode(point: BigIntG1): Uint8Array {
  if (isIdentity(point)) return new Uint8Array(SIZE).fill(COMPRESSED | INFINITE, 0, 1)
  const overZ = invert(point.z)
  const bytes = bytesOf(mod(point.x * overZ), SIZE)
  bytes[0] = (bytes[0] as number) | COMPRESSED | (isLarger(mod(point.y * overZ)) ? LARGER : 0)
  return bytes
}

export const bigintG1 = {
  generator: GENERATOR,
  identity: IDENTITY,
  size: SIZE,
  decode,
  encode,
  add,
  negate,
  equals,
  isIdentity,
  multiply,
  multiplyPublic: multiply,
  sumOfProducts,
}

// Hash to curve

/** E': y² = x³ + A'x + B' (RFC 9380 §8.8.1), and Z of the map. */
const A_ISO =
  0x144698a3b8e9433d693a02c96d4982b0ea985383ee66a8d8e8981aefd881ac98936f8da0e0f97f5cf428082d584c1dn
const B_ISO =
  0x12e2908d11688030018b12e8753eee3b2016c1f0f24f4070a0b9c14fcef35ef55a23215a316ceaa5d1cc48e98e172be0n
const Z = 11n

/** Coefficients, lowest first. */
type Polynomial = readonly bigint[]

/**
 * The kernel polynomial h of the isogeny: its roots are the x of the five pairs ±Q of the kernel. x_den of RFC 9380
 * Appendix E.2 is h² and y_den is h³; this is their root. The other coefficients of that appendix follow from it.
 */
const KERNEL: Polynomial = [
  0x133341fb0962a34cb0504a9c4fada0a5090d38679b4c040d5d1c3afb023a3409fcc0815fea66d8b02bbef9c8b5a66e07n,
  0x264908af037bcede00d054cf5d4775e83eb6cf63c76b969f8ed174fb59fcff78d201f46f6cfc4ed6552e59ce75177b0n,
  0x1335c502c1f54c49aceea65e87fd7203ba0f626f305fc0cfd606a5dae9f3c8e81a4b3b69600129fabd307c69bf319d39n,
  0x94440f65f408a6e930e16e3e92dd17bf60d6e9679a8d3d58593de55ac23703042d609537eb3549aac234d896ca82944n,
  0x4afe09d5cf4956a23b6b71f59d2b3407b415a774b7be81bbb6fa99cbc798e0ac98ba725a5bc328016b1c268b4766e85n,
  1n,
]

interface MapConstants {
  /** √−Z. */
  readonly rootOfMinusZ: bigint
  /** x ↦ xNum/h², y ↦ y·yNum/h³. */
  readonly xNum: Polynomial
  readonly yNum: Polynomial
}

let mapConstants: MapConstants | undefined

/**
 * The isogeny of degree ℓ = 11 with the kernel h, by Kohel's formula (Kohel 1996, §2.4), f = x³ + A'x + B':
 *
 *   N  = (ℓx + 2h₄)·h² − 2f'·h'h − 4f·(h''h − h'²)        x ↦ N/h², y ↦ y·(N/h²)' = y·(N'h − 2Nh')/h³
 *
 * is normalized; followed by (x, y) ↦ (x/ℓ², y/ℓ³) it ends on E and is the RFC's. Made at the first hash.
 */
function makeMapConstants(): MapConstants {
  const times = (a: Polynomial, b: Polynomial): Polynomial => {
    const product = new Array<bigint>(a.length + b.length - 1).fill(0n)
    a.forEach((x, i) => {
      b.forEach((y, j) => {
        product[i + j] = mod((product[i + j] as bigint) + x * y)
      })
    })
    return product
  }
  const scaled = (a: Polynomial, by: bigint): Polynomial => a.map(x => mod(x * by))
  const plus = (...terms: readonly Polynomial[]): Polynomial =>
    Array.from({ length: Math.max(...terms.map(term => term.length)) }, (_, i) =>
      mod(terms.reduce((sum, term) => sum + (term[i] ?? 0n), 0n)),
    )
  const derivative = (a: Polynomial): Polynomial => a.slice(1).map((x, i) => mod(x * BigInt(i + 1)))

  const h = KERNEL
  const h1 = derivative(h)
  const f = [B_ISO, A_ISO, 0n, 1n]
  const N = plus(
    times([2n * (h[4] as bigint), 11n], times(h, h)),
    scaled(times(derivative(f), times(h1, h)), -2n),
    scaled(times(f, plus(times(derivative(h1), h), scaled(times(h1, h1), -1n))), -4n),
  )
  // N has degree 11 and N'h − 2Nh' degree 15: what stands above has cancelled.
  return {
    rootOfMinusZ: squareRoot(mod(-Z)),
    xNum: scaled(N.slice(0, 12), invert(121n)),
    yNum: scaled(plus(times(derivative(N), h), scaled(times(N, h1), -2n)).slice(0, 16), invert(1331n)),
  }
}

/** Simplified SWU (RFC 9380 §6.6.3, Appendix F.2) and the isogeny. u is public: it comes from an identity. */
function mapToCurve(u: bigint): BigIntG1 {
  mapConstants ??= makeMapConstants()
  const { rootOfMinusZ, xNum, yNum } = mapConstants

  // x' = xn/xd; g = gn/gd is the right side of E' there.
  const zu2 = mod(Z * u * u)
  const tv = mod(zu2 * zu2 + zu2)
  let xn = mod(B_ISO * (tv + 1n))
  const xd = mod(A_ISO * (tv === 0n ? Z : -tv))
  const xd2 = mod(xd * xd)
  const gd = mod(xd2 * xd)
  const gn = mod(mod(xn * xn + A_ISO * xd2) * xn + B_ISO * gd)
  // √(gn/gd), or √(Z·gn/gd) when gn/gd is no square (F.2.1.2); then the other x' = Zu²·x' is on E'.
  const product = mod(gn * gd)
  let y = mod(power(mod(product * mod(gd * gd)), (P - 3n) / 4n) * product)
  if (mod(y * y * gd) !== gn) {
    xn = mod(zu2 * xn)
    y = mod(mod(zu2 * u) * mod(y * rootOfMinusZ))
  }
  if ((u & 1n) !== (y & 1n)) y = mod(-y)

  // The isogeny, homogeneous in (xn, xd).
  const powers = [1n]
  for (let i = 1; i < yNum.length; i++) powers.push(mod((powers[i - 1] as bigint) * xd))
  const at = (polynomial: Polynomial): bigint =>
    polynomial.reduceRight(
      (sum, k, i) => mod(sum * xn + k * (powers[polynomial.length - 1 - i] as bigint)),
      0n,
    )
  const h = at(KERNEL)
  return {
    x: mod(at(xNum) * h),
    y: mod(mod(y * at(yNum)) * xd),
    z: mod(mod(xd * h) * mod(h * h)),
  }
}

/** By h_eff = 1 − t (RFC 9380 §8.8.1). */
const clearCofactor = (point: BigIntG1): BigIntG1 => add(point, timesParameter(point))

function coordinates(message: Uint8Array, dst: Uint8Array, count: number): bigint[] {
  const bytes = coordinateBytes(message, dst, count)
  return Array.from({ length: count }, (_, i) =>
    mod(integerOf(bytes.subarray(i * COORDINATE_BYTES, (i + 1) * COORDINATE_BYTES))),
  )
}

/** hash_to_curve of BLS12381G1_XMD:SHA-256_SSWU_RO_ under any DST. */
export const hashToG1 = (message: Uint8Array, dst: Uint8Array): BigIntG1 =>
  clearCofactor(coordinates(message, dst, 2).map(mapToCurve).reduce(add))
/** encode_to_curve of BLS12381G1_XMD:SHA-256_SSWU_NU_ under any DST. */
export const encodeToG1 = (message: Uint8Array, dst: Uint8Array): BigIntG1 =>
  clearCofactor(coordinates(message, dst, 1).map(mapToCurve).reduce(add))
