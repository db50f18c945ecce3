/**
 * The kernels for a processor that multiplies and adds in one (FMA): for Node from 22 on (20 has relaxed SIMD behind
 * --experimental-wasm-relaxed-simd), and for what takes its packages as Node does. In a bundle for browsers
 * no-fma-kernels.ts stands here, by package.json's `imports`: it would be more than twice as large.
 */
import { KERNEL_G1_FMA } from './kernel-g1-fma-wasm.js'
import { KERNEL_PAIRING_FMA } from './kernel-pairing-fma-wasm.js'

/** The modules' bytes. */
export interface FmaKernels {
  g1(): Uint8Array
  pairing(): Uint8Array
}
export const fmaKernels: FmaKernels | null = {
  g1: () => Buffer.from(KERNEL_G1_FMA, 'base64'),
  pairing: () => Buffer.from(KERNEL_PAIRING_FMA, 'base64'),
}

/** What Node 20 has to be started with where these are to run; other versions need nothing. */
export const relaxedSimdFlags = (): readonly string[] =>
  process.versions.node.startsWith('20.') ? ['--experimental-wasm-relaxed-simd'] : []

/** Unless MILAGRO_KERNEL=simd; it is asked at the first use of a point or scalar. RangeError for anything else there. */
export function isFmaWanted(): boolean {
  const wanted = environment('MILAGRO_KERNEL')
  if (wanted === '' || wanted === 'simd') return wanted === ''
  throw new RangeError(`MILAGRO_KERNEL may be simd, and is ${JSON.stringify(wanted)}`)
}
function environment(name: string): string {
  try {
    return process.env[name] ?? ''
  } catch {
    // A runtime that lets no program read it unasked, as Deno: then nothing is said there.
    return ''
  }
}
