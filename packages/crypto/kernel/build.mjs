/**
 * AssemblyScript → WebAssembly → src/kernel-wasm.ts. The result is committed, so that `tsc -b` alone builds the package;
 * test/kernel-build.test.ts builds it again and compares.
 *
 *   node packages/crypto/kernel/build.mjs
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import asc from 'assemblyscript/asc'
import { constantsSource } from './generate-constants.mjs'
import { fieldSource } from './generate-field.mjs'

const folder = new URL('./', import.meta.url)
const target = new URL('../src/kernel-wasm.ts', import.meta.url)

/** The module's bytes. @param {readonly string[]} [options] @returns {Promise<Uint8Array>} */
export async function buildKernel(options = ['-O2']) {
  /** @type {Record<string, string>} */
  const generated = { 'field.ts': fieldSource(), 'constants.ts': constantsSource() }
  /** @type {Uint8Array | undefined} */
  let bytes
  const { error, stderr } = await asc.main(
    [
      'main.ts',
      '--outFile',
      'kernel.wasm',
      '--runtime',
      'stub',
      '--noAssert',
      '--enable',
      'simd',
      '--use',
      'abort=',
      ...options,
    ],
    {
      readFile(name) {
        if (name in generated) return generated[name] ?? null
        try {
          return readFileSync(new URL(name, folder), 'utf8')
        } catch {
          return null
        }
      },
      writeFile(name, contents) {
        if (name === 'kernel.wasm') bytes = /** @type {Uint8Array} */ (contents)
      },
      listFiles: () => [],
    },
  )
  if (error !== null || bytes === undefined)
    throw new Error(`${error?.message}\n${stderr.toString().slice(0, 4000)}`)
  return bytes
}

/** The file that the package's sources import. @param {Uint8Array} bytes */
export function moduleSource(bytes) {
  const base64url = Buffer.from(bytes).toString('base64url')
  const lines = base64url.match(/.{1,100}/g) ?? []
  return `/** The kernel, built from ../kernel by build.mjs: WebAssembly in base64url. */
export const KERNEL_BASE64URL =
  '${lines.join("' +\n  '")}'
`
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const bytes = await buildKernel()
  writeFileSync(target, moduleSource(bytes))
  console.log(`${bytes.length} bytes`)
}
