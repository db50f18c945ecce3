/**
 * AssemblyScript → WebAssembly → src/kernel-*-wasm.ts. The results are committed, so that
 * `tsc -b` alone builds the package; test/kernel-build.test.ts builds them again and compares.
 *
 *   node packages/crypto/kernel/build.mjs
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import asc from 'assemblyscript/asc'
import { constantsSource } from './generate-constants.mjs'
import { FIELDS, fieldSource } from './generate-field.mjs'

const folder = new URL('./', import.meta.url)

/** All are of the same sources; each has what its main file offers, over its field layer. */
export const KERNELS = /** @type {const} */ ({
  g1: {
    main: 'main-g1.ts',
    file: new URL('../src/kernel-g1-wasm.ts', import.meta.url),
    name: 'KERNEL_G1',
    what: 'G1',
    field: 'simd',
    areVectorsRolled: true,
  },
  pairing: {
    main: 'main-pairing.ts',
    file: new URL('../src/kernel-pairing-wasm.ts', import.meta.url),
    name: 'KERNEL_PAIRING',
    what: 'G2 and pairings',
    field: 'simd',
    areVectorsRolled: false,
  },
  g1Fma: {
    main: 'main-g1.ts',
    file: new URL('../src/kernel-g1-fma-wasm.ts', import.meta.url),
    name: 'KERNEL_G1_FMA',
    what: 'G1, for a processor with FMA',
    field: 'fma',
    areVectorsRolled: false,
  },
  pairingFma: {
    main: 'main-pairing.ts',
    file: new URL('../src/kernel-pairing-fma-wasm.ts', import.meta.url),
    name: 'KERNEL_PAIRING_FMA',
    what: 'G2 and pairings, for a processor with FMA',
    field: 'fma',
    areVectorsRolled: false,
  },
})

/** A module's bytes. @param {keyof typeof KERNELS} which @returns {Promise<Uint8Array>} */
export function buildKernel(which, options = ['-O2']) {
  return buildModule(KERNELS[which], options)
}

/**
 * @typedef {object} Module
 * @property {string} main
 * @property {keyof typeof FIELDS} field
 * @property {boolean} areVectorsRolled
 * @property {string} [source] main's text where there is no such file
 */
/** @param {Module} of @returns {Promise<Uint8Array>} */
export async function buildModule({ main, field, areVectorsRolled, source }, options = ['-O2']) {
  /** @type {Record<string, string>} */
  const generated = {
    ...(source === undefined ? {} : { [main]: source }),
    'entry.ts': `export * from './${main.replace(/\.ts$/, '')}'${field === 'fma' ? "\nexport { isFused } from './field'" : ''}\n`,
    'field.ts': fieldSource(FIELDS[field], { areVectorsRolled }),
    'constants.ts': constantsSource(FIELDS[field]),
  }
  /** @type {Uint8Array | undefined} */
  let bytes
  const { error, stderr } = await asc.main(
    [
      'entry.ts',
      '--outFile',
      'kernel.wasm',
      '--runtime',
      'stub',
      '--noAssert',
      '--enable',
      'simd',
      ...(field === 'fma' ? ['--enable', 'relaxed-simd'] : []),
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

/** The file that the package's sources import. @param {keyof typeof KERNELS} which @param {Uint8Array} bytes */
export function moduleSource(which, bytes) {
  const { field, name, what } = KERNELS[which]
  // Node alone has those with FMA: it reads base64 fast.
  const [text, how] =
    field === 'fma'
      ? [Buffer.from(bytes).toString('base64'), 'in base64']
      : [moduleText(bytes), 'as module-text.ts reads it']
  return `/** The kernel of ${what}, built from ../kernel by build.mjs: WebAssembly, ${how}. */
export const ${name} =
  '${text}'
`
}

/** Without what ends a literal or begins something in it. */
const ALPHABET = [...Array(95).keys()]
  .map(i => String.fromCharCode(32 + i))
  .filter(character => !'"$\'\\`'.includes(character))
const SINGLES = ALPHABET.length - 2
/** See src/module-text.ts. @param {Uint8Array} bytes */
function moduleText(bytes) {
  const counts = new Array(256).fill(0)
  for (const byte of bytes) counts[byte]++
  const order = [...counts.keys()].sort((a, b) => counts[b] - counts[a] || a - b)
  /** @param {number} place */
  const spelled = place =>
    place < SINGLES
      ? ALPHABET[place]
      : `${ALPHABET[SINGLES - 1 + Math.floor(place / SINGLES)]}${ALPHABET[place % SINGLES]}`
  const placeOf = new Map(order.map((byte, place) => [byte, place]))
  const head = order.map(byte => `${ALPHABET[byte >> 4]}${ALPHABET[byte & 15]}`).join('')
  return head + [...bytes].map(byte => spelled(/** @type {number} */ (placeOf.get(byte)))).join('')
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  for (const which of /** @type {(keyof typeof KERNELS)[]} */ (Object.keys(KERNELS))) {
    const bytes = await buildKernel(which)
    writeFileSync(KERNELS[which].file, moduleSource(which, bytes))
    console.log(`${which}: ${bytes.length} bytes`)
  }
}
