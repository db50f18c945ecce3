/**
 * Does time tell secrets? Fixed against random (dudect: Reparaz, Balasch, Verbauwhede 2017, "Dude, is my code constant
 * time?"): the same operation with one fixed secret and with fresh ones, in random order; Welch's t of the two means
 * says how sure it is that they differ. |t| < 5 is no evidence of a leak, which is less than a proof that there is none.
 *
 * A sample is one operation between two readings of performance.now(), which Node gives in nanoseconds. Inputs are made
 * before, a chunk at a time, each an object of its own in both classes. Interrupts and collections make the upper tail,
 * which hides small differences: so t is taken over all samples and over those below some percentiles of all, and the
 * largest counts.
 *
 * This is about the WebAssembly kernels that run: those for FMA where there are some, those for SIMD alone elsewhere, or
 * where MILAGRO_KERNEL=simd asks for them. On this machine, today. BigInt arithmetic is not constant time, and nothing of
 * the kind is claimed for it.
 */
import { engine } from '@milagro-ts/crypto/engine'
import { clientProve } from '@milagro-ts/crypto/mpin'
import { G1, G2 } from '@milagro-ts/crypto/points'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { describe, expect, test } from 'vitest'
import { ENGINE } from './processor.js'
import { binding, car, keysOf, nonceTerms, scalarOf, seeded } from './world.js'

const SAMPLES = { g1: 1_000_000, g2: 1_000_000, proof: 1_000_000, control: 20_000 } as const
const CHUNK = 1000
const PERCENTILES = [1, 0.99, 0.95, 0.9, 0.75, 0.5]

const random = seeded(`timing ${process.env.MILAGRO_SEED ?? ''}`)
/** As long as an honest scalar, and all its windows but the highest are zero. */
const FIXED = Scalar.fromBigInt(1n << 254n).encode()

/** Welch's t of two lists of which one entry each is picked by `isFixed`, below `limit`. */
function welch(times: Float64Array, isFixed: Uint8Array, limit: number): number {
  const count = [0, 0]
  const mean = [0, 0]
  const squares = [0, 0]
  times.forEach((time, i) => {
    if (time > limit) return
    const at = isFixed[i] as 0 | 1
    count[at] = (count[at] as number) + 1
    const delta = time - (mean[at] as number)
    mean[at] = (mean[at] as number) + delta / (count[at] as number)
    squares[at] = (squares[at] as number) + delta * (time - (mean[at] as number))
  })
  const [n0, n1] = count as [number, number]
  const [s0, s1] = squares as [number, number]
  return ((mean[1] as number) - (mean[0] as number)) / Math.sqrt(s0 / (n0 - 1) / n0 + s1 / (n1 - 1) / n1)
}

/**
 * The largest |t|.
 *
 * @param prepare Makes the operation's input of one class, outside the time.
 */
function largestT<Input>(
  samples: number,
  prepare: (isFixed: boolean) => Input,
  operation: (input: Input) => unknown,
): number {
  const times = new Float64Array(samples)
  const isFixed = new Uint8Array(samples)
  // Warm: the baseline compiler's code is gone before anything counts.
  for (let i = 0; i < 500; i++) operation(prepare(i % 2 === 0))
  for (let from = 0; from < samples; from += CHUNK) {
    const bits = random(CHUNK / 8)
    const inputs = Array.from({ length: CHUNK }, (_, i) => {
      isFixed[from + i] = ((bits[i >> 3] as number) >> (i & 7)) & 1
      return prepare(isFixed[from + i] === 1)
    })
    for (let i = 0; i < CHUNK; i++) {
      const input = inputs[i] as Input
      const begin = performance.now()
      operation(input)
      times[from + i] = performance.now() - begin
    }
  }
  const sorted = times.slice().sort()
  const values = PERCENTILES.map(part =>
    welch(times, isFixed, sorted[Math.ceil(part * samples) - 1] as number),
  )
  return Math.max(...values.map(Math.abs))
}

/** Both classes do the same work here: where it differs, what lies in the caches afterwards differs, and t shows it. */
function secretScalar(isFixed: boolean): Scalar {
  const drawn = Scalar.random(random).encode()
  return Scalar.decode(isFixed ? FIXED.slice() : drawn)
}

test('it is the kernel that is measured', () => {
  expect(engine()).toEqual(ENGINE)
})

test('the t of samples with one distribution is small, with two large', () => {
  const bits = Uint8Array.from(random(10_000), byte => byte & 1)
  const noise = Float64Array.from(random(10_000))
  expect(Math.abs(welch(noise, bits, 255))).toBeLessThan(5)
  expect(
    Math.abs(
      welch(
        noise.map((time, i) => time + 20 * (bits[i] as number)),
        bits,
        300,
      ),
    ),
  ).toBeGreaterThan(10)
})

describe('a fixed secret takes as long as random ones', () => {
  const P = G1.generator.mulPublic(scalarOf('P'))
  const Q = G2.generator.mulPublic(scalarOf('Q'))

  test(`G1 multiplication, ${SAMPLES.g1} samples`, () => {
    const t = largestT(SAMPLES.g1, secretScalar, scalar => P.mulSecret(scalar))
    console.log(`G1 multiplication: |t| = ${t.toFixed(2)}`)
    expect(t).toBeLessThan(5)
  })

  test(`G2 multiplication, ${SAMPLES.g2} samples`, () => {
    const t = largestT(SAMPLES.g2, secretScalar, scalar => Q.mulSecret(scalar))
    console.log(`G2 multiplication: |t| = ${t.toFixed(2)}`)
    expect(t).toBeLessThan(5)
  })

  test(`the device's proof with its hedged nonce, ${SAMPLES.proof} samples`, () => {
    // The random source is what differs: x is a hash of it and of the key.
    const fixed = seeded('the fixed draw')(32)
    const { D_dev } = keysOf(car)
    const t = largestT(
      SAMPLES.proof,
      isFixed => {
        const drawn = random(32)
        return isFixed ? fixed.slice() : drawn
      },
      draw => clientProve({ terms: nonceTerms, binding, deviceKey: D_dev, random: () => draw }),
    )
    console.log(`device's proof: |t| = ${t.toFixed(2)}`)
    expect(t).toBeLessThan(5)
  })
})

test('a multiplication that skips zero bits is caught, far above the limit', () => {
  const P = G1.generator.mulPublic(scalarOf('P'))
  const leaking = (scalar: Scalar): G1 => {
    let sum = G1.identity
    for (const byte of scalar.encode()) {
      for (let bit = 7; bit >= 0; bit--) {
        sum = sum.add(sum)
        if ((byte >> bit) & 1) sum = sum.add(P)
      }
    }
    return sum
  }
  const k = scalarOf('k')
  expect(leaking(k).equals(P.mulPublic(k))).toBe(true)
  const t = largestT(SAMPLES.control, secretScalar, leaking)
  console.log(`leaking control: |t| = ${t.toFixed(0)}`)
  expect(t).toBeGreaterThan(50)
})
