/**
 * The library as one file without imports, for wherever there is no package manager: a classic script that leaves its
 * exports in the global `milagro`, and the same under Node's `import`.
 *
 *   npm run single-files    writes packages/crypto/dist/single/milagro-crypto.min.js and milagro-device.min.js
 *
 * A device computes in G1 only, so its file has device-engine.ts, the kernel of G1, in the place of engine.ts.
 */
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { pathToFileURL } from 'node:url'
import { gzipSync } from 'node:zlib'
import { build } from 'esbuild'
import { ROOT } from './prepare.mjs'

/** What a device uses from enrolment to login: points of G1 only. */
const DEVICE = {
  bytes: ['fromBase64Url', 'fromHex', 'toBase64Url', 'toHex', 'utf8'],
  engine: ['engine'],
  enrolment: ['decodeEnrolmentCode', 'enrolmentKeyHash', 'enrolmentMac', 'sixWordIndices'],
  errors: ['DecodeError'],
  identity: ['checkIdCore', 'IdCore', 'keyIdentityPoint', 'userCoreOf'],
  mpin: ['authorizationHeader', 'clientProve', 'LoginMessage', 'MODE'],
  pin: ['decodeTokenFile', 'encodeTokenFile', 'joinPin', 'pinBytes', 'pinSalt', 'pinScalar', 'splitPin'],
  points: ['G1'],
  'secret-sharing': ['combineG1'],
  'share-proof': ['KeyShare', 'shareContext', 'shareVerify'],
  'time-permit': ['Permit', 'slotAt'],
}

/** Node's worker pool is an export of its own; what only it imports stays with it. */
const POOL = ['node-pool.ts', 'pooled-login.ts', 'crypto-worker.ts']
/** Node's as well; kernel.ts has what stands in their place. */
const isForFma = (/** @type {string} */ file) => /fma-(wasm|kernels)/.test(file)
/** What another file of the same bundle takes the place of. */
const ENGINES = ['device-engine.ts', 'bigint-engine.ts']

/** Every file of the library that is imported by name, but the worker pool and the kernels for FMA, each under its name in camelCase. */
const everything = () =>
  readdirSync(`${ROOT}packages/crypto/src`)
    .filter(file => file.endsWith('.ts') && ![...POOL, ...ENGINES].includes(file) && !isForFma(file))
    .map(file => file.slice(0, -3))
    .map(file => {
      const name = file.replaceAll(/-(.)/g, (_, letter) => letter.toUpperCase())
      return `export * as ${name} from '@milagro-ts/crypto/${file}'`
    })
    .join('\n')
/** @param {Readonly<Record<string, readonly string[]>>} exported */
const some = exported =>
  Object.entries(exported)
    .map(([file, names]) => `export { ${names.join(', ')} } from '@milagro-ts/crypto/${file}'`)
    .join('\n')

/** @typedef {'milagro-crypto' | 'milagro-device' | 'milagro-device-bigint'} FileName */
/** @type {Readonly<Record<FileName, {entry: () => string, engine: 'engine' | 'device-engine' | 'bigint-engine'}>>} */
export const SINGLE_FILES = {
  'milagro-crypto': { entry: everything, engine: 'engine' },
  'milagro-device': {
    entry: () => `${some(DEVICE)}\nexport { allowBigInt } from '@milagro-ts/crypto/device-engine'`,
    engine: 'device-engine',
  },
  /** For a runtime that has no WebAssembly at all. */
  'milagro-device-bigint': { entry: () => some(DEVICE), engine: 'bigint-engine' },
}

/** Puts another file in the place of engine.js. @param {string} engine @returns {import('esbuild').Plugin} */
const withEngine = engine => ({
  name: engine,
  setup({ onResolve, resolve }) {
    onResolve({ filter: /^\.\/engine\.js$/ }, ({ resolveDir }) => ({ path: `${resolveDir}/${engine}.js` }))
    onResolve({ filter: /^@milagro-ts\/crypto\/engine$/ }, ({ resolveDir, kind }) =>
      resolve(`@milagro-ts/crypto/${engine}`, { resolveDir, kind }),
    )
  },
})

/**
 * Of the built library.
 *
 * @param {FileName} name
 * @returns {Promise<{script: string, gzipped: number, inputs: string[]}>}  inputs are files from the repository's folder
 */
export async function singleFile(name) {
  const { entry, engine } = SINGLE_FILES[name]
  const { outputFiles, metafile } = await build({
    stdin: { contents: entry(), resolveDir: ROOT, sourcefile: '<entry>' },
    absWorkingDir: ROOT,
    bundle: true,
    minify: true,
    write: false,
    metafile: true,
    format: 'iife',
    globalName: 'milagro',
    // In a module, `var milagro` would be nobody's but the module's.
    footer: { js: 'globalThis.milagro=milagro;' },
    target: 'es2022',
    platform: 'neutral',
    plugins: engine === 'engine' ? [] : [withEngine(engine)],
  })
  const [file] = outputFiles
  if (file === undefined) throw new Error('esbuild wrote nothing')
  return {
    script: file.text,
    gzipped: gzipSync(file.contents, { level: 9 }).length,
    inputs: Object.keys(metafile.inputs).filter(input => input !== '<entry>'),
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const folder = 'packages/crypto/dist/single'
  mkdirSync(ROOT + folder, { recursive: true })
  for (const name of /** @type {const} */ (['milagro-crypto', 'milagro-device'])) {
    const { script, gzipped } = await singleFile(name)
    writeFileSync(`${ROOT}${folder}/${name}.min.js`, script)
    console.log(`${folder}/${name}.min.js: ${script.length} bytes, ${gzipped} after gzip`)
  }
}
