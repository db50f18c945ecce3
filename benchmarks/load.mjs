/**
 * Loading: `node benchmarks/load.mjs <side>` imports one library, makes it ready, decodes a point with all its checks,
 * adds it to itself, and prints the milliseconds since this script began. Each sample is a process of its own.
 */
import { execFileSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { figures } from './measure.mjs'

/** P1. */
const POINT = Buffer.from(
  '97f1d3a73197d7942695638c4fa9ac0fc3688c4f9774b905a14e3a3f171bac586c55e83ff97a1aeffb3af00adb22c6bb',
  'hex',
)

/** Each gives the bytes of P + P. @type {Readonly<Record<string, () => Promise<Uint8Array>>>} */
const LIBRARIES = {
  async ours() {
    const { G1 } = await import('@milagro-ts/crypto/points')
    const P = G1.decode(POINT)
    return P.add(P).encode()
  },
  async 'mcl-wasm'() {
    const { default: mcl } = await import('mcl-wasm')
    await mcl.init(mcl.BLS12_381)
    mcl.setETHserialization(true)
    mcl.verifyOrderG1(true)
    const P = new mcl.G1()
    P.deserialize(POINT)
    return mcl.add(P, P).serialize()
  },
  async noble() {
    const { bls12_381 } = await import('@noble/curves/bls12-381.js')
    const P = bls12_381.G1.Point.fromBytes(POINT)
    P.assertValidity()
    return P.add(P).toBytes(true)
  },
  async blst() {
    const { aggregatePublicKeys, PublicKey } = await import('@chainsafe/blst')
    const P = PublicKey.fromBytes(POINT, true)
    return aggregatePublicKeys([P, P]).toBytes(true)
  },
}
/** 2·P1. */
const SUM = 'a572cbea904d67468808c8eb50a9450c9721db309128012543902d0ac358a62ae28f75bb8f1c7c42c39a8c5529bf0f4e'

/**
 * Microseconds by side, in turn.
 *
 * @param {number} rounds
 * @returns {Record<string, import('./measure.mjs').Figures>}
 */
export function measureLoad(rounds) {
  const script = fileURLToPath(import.meta.url)
  const sides = Object.keys(LIBRARIES)
  /** @type {Record<string, number[]>} */
  const samples = Object.fromEntries(sides.map(side => [side, []]))
  for (let i = 0; i < rounds; i++) {
    for (const side of sides) {
      const said = Number(
        execFileSync(process.execPath, [...process.execArgv, script, side], { encoding: 'utf8' }),
      )
      if (!(said > 0)) throw new Error(`load: ${side} gave no time`)
      samples[side]?.push(said * 1000)
    }
  }
  return Object.fromEntries(Object.entries(samples).map(([side, list]) => [side, figures(list)]))
}

const side = process.argv[2] ?? ''
if (process.argv[1] === fileURLToPath(import.meta.url) && side in LIBRARIES) {
  const begin = performance.now()
  const sum = await LIBRARIES[side]?.()
  const took = performance.now() - begin
  if (Buffer.from(sum ?? []).toString('hex') !== SUM) throw new Error(`${side} adds wrongly`)
  console.log(took)
}
