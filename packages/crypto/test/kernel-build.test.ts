/** The WebAssembly in the sources is what the kernels' sources give, byte for byte, and imports nothing. */
import { readFileSync } from 'node:fs'
import { engine } from '@milagro-ts/crypto/engine'
import { KERNEL_G1 } from '@milagro-ts/crypto/kernel-g1-wasm'
import { KERNEL_PAIRING } from '@milagro-ts/crypto/kernel-pairing-wasm'
import { moduleBytes } from '@milagro-ts/crypto/module-text'
import { expect, test } from 'vitest'
import { buildKernel, KERNELS, moduleSource } from '../kernel/build.mjs'

const BOTH = [
  ['g1', KERNEL_G1],
  ['pairing', KERNEL_PAIRING],
] as const

test.each(BOTH)('the kernel %s built again is the same file', async which => {
  const source = readFileSync(KERNELS[which].file, 'utf8')
  expect(moduleSource(which, await buildKernel(which))).toBe(source)
})

test.each(BOTH)('the kernel %s imports nothing, and compiles here', (_, text) => {
  const module = new WebAssembly.Module(Uint8Array.from(moduleBytes(text)))
  expect(WebAssembly.Module.imports(module)).toEqual([])
})

test('the engine runs it', () => {
  expect(engine()).toEqual({ name: 'wasm-simd', why: 'this runtime has WebAssembly with SIMD' })
})
