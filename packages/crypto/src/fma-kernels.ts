/**
 * The kernels for a processor that multiplies and adds in one (FMA): Node's alone, from 22 on (20 has relaxed SIMD behind
 * --experimental-wasm-relaxed-simd). In a bundle for others no-fma-kernels.ts stands here, by package.json's `imports`: it
 * would be larger by as much again.
 */
import { KERNEL_G1_FMA } from './kernel-g1-fma-wasm.js'
import { KERNEL_PAIRING_FMA } from './kernel-pairing-fma-wasm.js'

/** For whoever doesn't want them: MILAGRO_KERNEL=simd. */
const wanted = process.env.MILAGRO_KERNEL ?? ''
if (wanted !== '' && wanted !== 'simd')
  throw new RangeError(`MILAGRO_KERNEL may be simd, and is ${JSON.stringify(wanted)}`)

/** The modules' bytes. */
export interface FmaKernels {
  g1(): Uint8Array
  pairing(): Uint8Array
}
export const fmaKernels: FmaKernels | null =
  wanted === 'simd'
    ? null
    : {
        g1: () => Buffer.from(KERNEL_G1_FMA, 'base64'),
        pairing: () => Buffer.from(KERNEL_PAIRING_FMA, 'base64'),
      }
