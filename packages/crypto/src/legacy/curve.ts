/**
 * RETIRED. The two curves that Milagro's M-Pin ran on, for what was deployed on them; nothing new uses this folder.
 *
 *   BN254CX   the retired server's default: a Barreto–Naehrig curve with at most 100 bits of security (Barbulescu and
 *             Duquesne 2019, "Updating key size estimations for pairings")
 *   BLS381    BLS12-381 under its first name; the curve is today's, the hashes and the wire forms are not
 *
 * Everything here comes from the parameter u, the coefficient b and the twist, as in AMCL (version3, rom_curve_*):
 *
 *   BN     p = 36u⁴ + 36u³ + 24u² + 6u + 1    r = p − 6u²             final exponent (p¹² − 1)/r      loop 6u + 2
 *   BLS12  p = (u − 1)²·r/3 + u               r = u⁴ − u² + 1         final exponent 3(p¹² − 1)/r     loop u
 *   D-twist y² = x³ + b/ξ, untwisted by (xw², yw³)    M-twist y² = x³ + bξ, untwisted by (x/w², y/w³)
 */
import { type Affine, GroupLaw, type Projective } from './group-law.js'
import { type Fp2, Tower } from './tower.js'

export class LegacyCurve {
  readonly name: 'BN254CX' | 'BLS381'
  readonly family: Family
  readonly u: bigint
  /** NB: bytes of a field element and of a scalar. */
  readonly size: number
  readonly r: bigint
  readonly twist: 'D' | 'M'
  readonly tower: Tower
  readonly g1: GroupLaw<bigint>
  readonly g2: GroupLaw<Fp2>
  readonly generator1: Projective<bigint>
  readonly generator2: Projective<Fp2>
  /** Multiplies a point of the curve into G1; 1 where every point is in it. */
  readonly cofactor1: bigint
  /** Of the Miller loop, with its sign. */
  readonly loop: bigint
  /** Coefficients of 1, ψ, ψ², ψ³ that multiply a point of the twist into G2. */
  readonly cofactor2: readonly bigint[]
  readonly #psiX: Fp2
  readonly #psiY: Fp2

  constructor({ name, family, u, b, twist, size, generator1, generator2 }: Parameters) {
    const { p, r } = FIELDS[family](u)
    this.name = name
    this.family = family
    this.u = u
    this.size = size
    this.r = r
    this.twist = twist
    this.tower = new Tower(p)
    const { fp, fp2, frobeniusConstants } = this.tower
    // 1/ξ = (1 − i)/2
    const bTwisted = twist === 'M' ? { re: b, im: b } : { re: b / 2n, im: -b / 2n }
    this.g1 = new GroupLaw(fp, b)
    this.g2 = new GroupLaw(fp2, bTwisted)
    this.generator1 = this.g1.fromAffine(generator1)
    this.generator2 = this.g2.fromAffine(generator2)
    // On BLS381 the whole cofactor, where RFC 9380 and MIRACL Core multiply by 1 − u.
    this.cofactor1 = family === 'BN' ? 1n : (u - 1n) ** 2n / 3n
    this.loop = family === 'BN' ? 6n * u + 2n : u
    this.cofactor2 = family === 'BN' ? [u, 3n * u, u, 1n] : [u * u - u - 1n, u - 1n, 2n, 0n]
    const [psiX, psiY] = [frobeniusConstants[2] as Fp2, frobeniusConstants[3] as Fp2]
    this.#psiX = twist === 'D' ? psiX : fp2.invert(psiX)
    this.#psiY = twist === 'D' ? psiY : fp2.invert(psiY)
  }

  /** Untwist, p-th power, twist. On G2 it multiplies by p. */
  psi({ x, y, z }: Projective<Fp2>): Projective<Fp2> {
    const { fp2 } = this.tower
    return {
      x: fp2.multiply(fp2.conjugate(x), this.#psiX),
      y: fp2.multiply(fp2.conjugate(y), this.#psiY),
      z: fp2.conjugate(z),
    }
  }
}

type Family = 'BN' | 'BLS12'
interface Parameters {
  readonly name: 'BN254CX' | 'BLS381'
  readonly family: Family
  readonly u: bigint
  /** Even: half of it stands in the D-twist. */
  readonly b: bigint
  readonly twist: 'D' | 'M'
  readonly size: number
  readonly generator1: Affine<bigint>
  readonly generator2: Affine<Fp2>
}

const FIELDS: Readonly<Record<Family, (u: bigint) => { readonly p: bigint; readonly r: bigint }>> = {
  BN: u => {
    const p = 36n * u ** 4n + 36n * u ** 3n + 24n * u ** 2n + 6n * u + 1n
    return { p, r: p - 6n * u ** 2n }
  },
  BLS12: u => {
    const r = u ** 4n - u ** 2n + 1n
    return { p: ((u - 1n) ** 2n * r) / 3n + u, r }
  },
}

export const BN254CX = new LegacyCurve({
  name: 'BN254CX',
  family: 'BN',
  u: -0x4000_0000_03c0_12b1n,
  b: 2n,
  twist: 'D',
  size: 32,
  generator1: { x: -1n, y: 1n },
  generator2: {
    x: {
      re: 0x19682d2c7053b256358b2500f5c34bbb907c85bfa03e2726c0851ceee4d2ec74n,
      im: 0x1466b9ec3e19f64aa011c937a8e99743f81b97b0c209c30f47a58e8b2e29cfe1n,
    },
    y: {
      re: 0x0a79edd972332b8dd81e22157daee2096361b33d847ec1b30cfbfcebcf0be09fn,
      im: 0x06160c39ecc4c09035c6e4512d8d3461c2864ea569d2edebed904b228898ee9dn,
    },
  },
})

export const BLS381 = new LegacyCurve({
  name: 'BLS381',
  family: 'BLS12',
  u: -0xd201_0000_0001_0000n,
  b: 4n,
  twist: 'M',
  size: 48,
  generator1: {
    x: 0x17f1d3a73197d7942695638c4fa9ac0fc3688c4f9774b905a14e3a3f171bac586c55e83ff97a1aeffb3af00adb22c6bbn,
    y: 0x08b3f481e3aaa0f1a09e30ed741d8ae4fcf5e095d5d00af600db18cb2c04b3edd03cc744a2888ae40caa232946c5e7e1n,
  },
  generator2: {
    x: {
      re: 0x024aa2b2f08f0a91260805272dc51051c6e47ad4fa403b02b4510b647ae3d1770bac0326a805bbefd48056c8c121bdb8n,
      im: 0x13e02b6052719f607dacd3a088274f65596bd0d09920b61ab5da61bbdc7f5049334cf11213945d57e5ac7d055d042b7en,
    },
    y: {
      re: 0x0ce5d527727d6e118cc9cdc6da2e351aadfd9baa8cbdd3a76d429a695160d12c923ac9cc3baca289e193548608b82801n,
      im: 0x0606c4a02ea734cc32acd2b02bc28b99cb3e287e85a763af267492ab572e99ab3f370d275cec1da1aaa9075ff05f79ben,
    },
  },
})
