/** The WebAssembly in the sources is what the kernels' sources give, byte for byte, and imports nothing. */
import { readFileSync } from 'node:fs'
import { setFlagsFromString } from 'node:v8'
import { engine } from '@milagro-ts/crypto/engine'
import { fmaKernels, isFmaWanted, relaxedSimdFlags } from '@milagro-ts/crypto/fma-kernels'
import { type KernelG1, loadKernelG1 } from '@milagro-ts/crypto/kernel'
import { KERNEL_G1 } from '@milagro-ts/crypto/kernel-g1-wasm'
import { KERNEL_PAIRING } from '@milagro-ts/crypto/kernel-pairing-wasm'
import { moduleBytes } from '@milagro-ts/crypto/module-text'
import { expect, test, vi } from 'vitest'
import { buildKernel, KERNELS, moduleSource } from '../kernel/build.mjs'
import { ENGINE, RELAXED_SIMD } from './processor.js'

const ALL: readonly (readonly [keyof typeof KERNELS, () => Uint8Array | undefined])[] = [
  ['g1', () => moduleBytes(KERNEL_G1)],
  ['pairing', () => moduleBytes(KERNEL_PAIRING)],
  ['g1Fma', () => fmaKernels?.g1()],
  ['pairingFma', () => fmaKernels?.pairing()],
]

test('these are all of them', () => {
  expect(ALL.map(([which]) => which)).toEqual(Object.keys(KERNELS))
})

test.each(ALL)('the kernel %s built again is the same file', async (which, bytes) => {
  const source = readFileSync(KERNELS[which].file, 'utf8')
  const built = await buildKernel(which)
  expect(moduleSource(which, built)).toBe(source)
  expect(Buffer.compare(built, bytes() as Uint8Array)).toBe(0)
})

// Before any test asks for what Node 20 has behind a flag.
test('the engine that runs is the one that this Node and this processor can', () => {
  expect(engine()).toEqual(ENGINE)
})

test.each(ALL)('the kernel %s imports nothing, and compiles here', (_, bytes) => {
  for (const flag of relaxedSimdFlags()) setFlagsFromString(flag)
  const module = new WebAssembly.Module(Uint8Array.from(bytes() as Uint8Array))
  expect(WebAssembly.Module.imports(module)).toEqual([])
})

test('MILAGRO_KERNEL=simd does without doubles, and anything else there is an error', () => {
  const isWanted = (said: string) => {
    vi.stubEnv('MILAGRO_KERNEL', said)
    return isFmaWanted()
  }
  expect([isWanted('simd'), isWanted('')]).toEqual([false, true])
  expect(() => isWanted('fast')).toThrow('MILAGRO_KERNEL may be simd, and is "fast"')
  expect(() => loadKernelG1()).toThrow(RangeError)
  vi.stubEnv('MILAGRO_KERNEL', 'simd')
  expect((loadKernelG1() as KernelG1).fma).toBeNull()
  vi.unstubAllEnvs()
})

test('a runtime that lets nobody read the environment says nothing there', () => {
  vi.stubGlobal('process', {
    get env(): never {
      throw new Error('not allowed')
    },
  })
  expect(isFmaWanted()).toBe(true)
  vi.unstubAllGlobals()
})

test('Node 20 alone has to be started with a flag', () => {
  expect(relaxedSimdFlags()).toEqual(process.versions.node.startsWith('20.') ? [RELAXED_SIMD] : [])
})
