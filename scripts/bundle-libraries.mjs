/**
 * Makes one file each of what two modules take in: the compiler's output of `packages/api/src/typebox.ts` and
 * `packages/store/src/kysely.ts` gives way to them with the libraries in them. Run by prepare.mjs after the
 * compiler; when nothing has changed it costs the time to look.
 *
 *   node scripts/bundle-libraries.mjs
 */
import { readFileSync, renameSync, writeFileSync } from 'node:fs'
import { pathToFileURL } from 'node:url'
import { ROOT } from './prepare.mjs'

const LIBRARIES = [
  { library: 'typebox', licenceFile: 'license', file: 'packages/api/dist/typebox.js' },
  { library: 'kysely', licenceFile: 'LICENSE', file: 'packages/store/dist/kysely.js' },
]

export async function bundleLibraries() {
  for (const each of LIBRARIES) await bundle(each)
}

/** @param {(typeof LIBRARIES)[number]} each */
async function bundle({ library, licenceFile, file }) {
  const { version, license } = JSON.parse(readFileSync(`${ROOT}node_modules/${library}/package.json`, 'utf8'))
  const licence = readFileSync(`${ROOT}node_modules/${library}/${licenceFile}`, 'utf8')
  const head = `/*\n${library} ${version} (${license}), as one file.\n\n${licence.trim()}\n*/\n`
  // The compiler writes a module again when it has changed, and never by itself.
  if (readFileSync(ROOT + file, 'utf8').startsWith(head)) return
  const { build } = await import('esbuild')
  const { outputFiles } = await build({
    // The compiler's module again, by its source: the module itself may be an older bundle.
    entryPoints: [file.replace('/dist/', '/src/').replace(/js$/, 'ts')],
    absWorkingDir: ROOT,
    bundle: true,
    write: false,
    format: 'esm',
    platform: 'neutral',
    mainFields: ['module', 'main'],
    target: ['es2022'],
    logLevel: 'warning',
  })
  // A process that starts meanwhile reads the one or the other, whole.
  const unfinished = `${ROOT}${file}.${process.pid}.tmp`
  writeFileSync(unfinished, head + outputFiles[0]?.text)
  renameSync(unfinished, ROOT + file)
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) await bundleLibraries()
