/**
 * Sizes: one minified file of the built library, then gzip. The inputs say whose code is in it. A device computes in G1
 * only, so its file has device-engine.ts, the kernel of G1, in the place of engine.ts; `size-device-bigint` is for one
 * without WebAssembly.
 */
import { readdirSync } from 'node:fs'
import { gzipSync } from 'node:zlib'
import { build } from 'esbuild'
import { ROOT } from '../scripts/prepare.mjs'

/** What a device uses from enrolment to login: points of G1 only. */
const DEVICE = {
  bytes: ['fromBase64Url', 'fromHex', 'toBase64Url', 'toHex', 'utf8'],
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

/** Every file of the library that is imported by name, but the worker pool. */
const everything = () =>
  readdirSync(`${ROOT}packages/crypto/src`)
    .filter(file => file.endsWith('.ts') && !POOL.includes(file))
    .map(
      file =>
        `export * as ${file.slice(0, -3).replaceAll('-', '_')} from '@milagro-ts/crypto/${file.slice(0, -3)}'`,
    )
    .join('\n')
const device = () =>
  Object.entries(DEVICE)
    .map(([file, names]) => `export { ${names.join(', ')} } from '@milagro-ts/crypto/${file}'`)
    .join('\n')

/** @type {Readonly<Record<string, {entry: () => string, engine: 'engine' | 'device-engine' | 'bigint-engine'}>>} */
const BUNDLES = {
  'size-all': { entry: everything, engine: 'engine' },
  'size-device': { entry: device, engine: 'device-engine' },
  'size-device-bigint': { entry: device, engine: 'bigint-engine' },
}

/** Puts another file in the place of engine.js. @param {string} engine @returns {import('esbuild').Plugin} */
const withEngine = engine => ({
  name: engine,
  setup({ onResolve }) {
    onResolve({ filter: /^\.\/engine\.js$/ }, ({ resolveDir }) => ({ path: `${resolveDir}/${engine}.js` }))
  },
})

/**
 * @param {string} op
 * @returns {Promise<{bytes: number, inputs: string[]}>}  after gzip; files from the repository's folder
 */
export async function measureSize(op) {
  const bundle = BUNDLES[op]
  if (bundle === undefined) throw new Error(`no size ${op}`)
  const { outputFiles, metafile } = await build({
    stdin: { contents: bundle.entry(), resolveDir: ROOT, sourcefile: '<entry>' },
    absWorkingDir: ROOT,
    bundle: true,
    minify: true,
    write: false,
    metafile: true,
    format: 'esm',
    target: 'es2022',
    platform: 'neutral',
    plugins: bundle.engine === 'engine' ? [] : [withEngine(bundle.engine)],
  })
  const [file] = outputFiles
  if (file === undefined) throw new Error('esbuild wrote nothing')
  return {
    bytes: gzipSync(file.contents, { level: 9 }).length,
    inputs: Object.keys(metafile.inputs).filter(input => input !== '<entry>'),
  }
}
