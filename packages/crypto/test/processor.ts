/** Which of the kernels must run here: by Node and the processor, whatever the library finds. */
import { existsSync, readFileSync } from 'node:fs'
import type { EngineChoice } from '@milagro-ts/crypto/engine'

const CPUINFO = '/proc/cpuinfo'
/** Where nothing says so, as most have it. */
export const HAS_FMA =
  process.arch === 'arm64' ||
  !existsSync(CPUINFO) ||
  /^flags\s*:.*\bfma\b/m.test(readFileSync(CPUINFO, 'utf8'))

export const RELAXED_SIMD = '--experimental-wasm-relaxed-simd'
/** From 21 on without a flag. */
const hasRelaxedSimd =
  Number.parseInt(process.versions.node, 10) > 20 || process.execArgv.includes(RELAXED_SIMD)

export const SIMD = {
  name: 'wasm-simd',
  why: 'this runtime has WebAssembly with SIMD',
} as const satisfies EngineChoice
const FMA = {
  name: 'wasm-fma',
  why: 'this runtime has WebAssembly with relaxed SIMD, and the processor multiplies and adds in one',
} as const satisfies EngineChoice
export const ENGINE = HAS_FMA && hasRelaxedSimd && process.env.MILAGRO_KERNEL !== 'simd' ? FMA : SIMD
