/** The WebAssembly in the sources is what the kernel's sources give, byte for byte, and imports nothing. */
import { readFileSync } from 'node:fs'
import { fromBase64Url } from '@milagro-ts/crypto/bytes'
import { engine } from '@milagro-ts/crypto/engine'
import { KERNEL_BASE64URL } from '@milagro-ts/crypto/kernel-wasm'
import { expect, test } from 'vitest'
import { buildKernel, moduleSource } from '../kernel/build.mjs'

test('built again, it is the same file', async () => {
  const source = readFileSync(new URL('../src/kernel-wasm.ts', import.meta.url), 'utf8')
  expect(moduleSource(await buildKernel())).toBe(source)
})

test('it imports nothing, and runs here', () => {
  const module = new WebAssembly.Module(Uint8Array.from(fromBase64Url(KERNEL_BASE64URL, 'kernel')))
  expect(WebAssembly.Module.imports(module)).toEqual([])
  expect(engine()).toEqual({ name: 'wasm-simd', why: 'this runtime has WebAssembly with SIMD' })
})
