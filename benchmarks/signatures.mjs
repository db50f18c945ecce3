/**
 * `npm run bench -- signatures`: 10 000 signed positions of 100 cars, verified in batches and one by one. Decoding U and V,
 * with the subgroup check, and the hashes belong to it on both sides.
 *
 *   --quick   200 of 10 cars: to see that it runs
 *   --json    one object
 */
import { cpus } from 'node:os'
import { Signature, sign, signaturesVerify, signatureVerify } from '@milagro-ts/crypto/ibs'
import { IdCore, signIdentityPoint } from '@milagro-ts/crypto/identity'
import { G2 } from '@milagro-ts/crypto/points'
import { Scalar } from '@milagro-ts/crypto/scalar'

/** @type {import('@milagro-ts/crypto/ports').Random} */
const random = length => crypto.getRandomValues(new Uint8Array(length))

/** Microseconds for each of `count`. @template R @param {number} count @param {() => R} run */
function each(count, run) {
  const begin = performance.now()
  const result = run()
  return { us: ((performance.now() - begin) * 1000) / count, result }
}

/** @param {{quick: boolean}} effort */
export function measureSignatures({ quick }) {
  const [count, cars, alone] = quick ? [200, 10, 20] : [10_000, 100, 1_000]
  const groupId = random(32)
  const s = Scalar.random(random)
  const Ppub = G2.generator.mulSecret(s)
  const signers = Array.from({ length: cars }, (_, i) => {
    const idCore = IdCore.decode(Uint8Array.of(0, 0, 0, i, 0, 1, 0, ...random(32)))
    return { idCore, key: signIdentityPoint(groupId, idCore).mulSecret(s) }
  })
  /** @type {{terms: import('@milagro-ts/crypto/ibs').SignatureTerms, message: Uint8Array, bytes: Uint8Array}[]} */
  const carried = []
  const signing = each(count, () => {
    for (let i = 0; i < count; i++) {
      const { idCore, key } = /** @type {(typeof signers)[number]} */ (signers[i % cars])
      const terms = { groupId, idCore, slot: 100, context: 'position of a car', signEpoch: 1 }
      const message = new TextEncoder().encode(`{"lat":48.1,"lon":11.5,"n":${i}}`)
      carried.push({ terms, message, bytes: sign(terms, key, message, random).encode() })
    }
  })
  const read = (/** @type {readonly (typeof carried)[number][]} */ some) =>
    some.map(({ terms, message, bytes }) => ({ terms, message, signature: Signature.decode(bytes) }))
  // Both sides have been through their code before they are timed, and refuse a forgery.
  const forged = { .../** @type {(typeof carried)[number]} */ (carried[0]), message: new Uint8Array(1) }
  for (const { terms, message, signature } of read([forged]))
    if (signatureVerify(terms, Ppub, message, signature)) throw new Error('one by one takes a forgery')
  const verdicts = signaturesVerify(read([...carried.slice(0, 20), forged]), Ppub, random)
  if (verdicts.at(-1) !== false || verdicts.slice(0, -1).includes(false))
    throw new Error('a batch decides otherwise')

  const oneByOne = each(alone, () =>
    read(carried.slice(0, alone)).every(({ terms, message, signature }) =>
      signatureVerify(terms, Ppub, message, signature),
    ),
  )
  const batched = each(count, () => signaturesVerify(read(carried), Ppub, random))
  if (!oneByOne.result || batched.result.includes(false)) throw new Error('a good signature does not verify')
  // One in a hundred is false: what finding them costs.
  const spoilt = carried.map((item, i) => (i % 100 === 50 ? { ...item, message: new Uint8Array(1) } : item))
  const withForged = each(count, () => signaturesVerify(read(spoilt), Ppub, random))
  if (withForged.result.some((holds, i) => holds === (i % 100 === 50)))
    throw new Error('a batch decides otherwise')
  return {
    node: process.version,
    cpu: cpus()[0]?.model ?? 'unknown',
    count,
    cars,
    signUs: signing.us,
    oneByOneUs: oneByOne.us,
    batchUs: batched.us,
    withForgedUs: withForged.us,
    ratio: batched.us / oneByOne.us,
  }
}

const USAGE = 'npm run bench -- signatures [--quick] [--json]'

/** @param {readonly string[]} args */
export function benchSignatures(args) {
  const unknown = args.filter(arg => !['--quick', '--json'].includes(arg))
  if (unknown.length > 0) {
    console.error(`unknown: ${unknown.join(', ')}\n${USAGE}`)
    return 2
  }
  const figures = measureSignatures({ quick: args.includes('--quick') })
  if (args.includes('--json')) console.log(JSON.stringify(figures))
  else {
    const { node, cpu, count, cars, signUs, oneByOneUs, batchUs, withForgedUs, ratio } = figures
    console.log(`Node ${node}, ${cpu}; ${count} signatures of ${cars} cars; microseconds each`)
    console.log(`signing                       ${signUs.toFixed(0)}`)
    console.log(`verifying, one by one         ${oneByOneUs.toFixed(0)}`)
    console.log(`verifying, in batches         ${batchUs.toFixed(0)}   ratio ${ratio.toFixed(3)}`)
    console.log(
      `with one in a hundred false   ${withForgedUs.toFixed(0)}   ratio ${(withForgedUs / oneByOneUs).toFixed(3)}`,
    )
  }
  return 0
}
