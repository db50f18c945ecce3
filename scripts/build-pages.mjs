/**
 * Builds the pages: what stands in `pages/` of a package becomes files for browsers in its `dist/pages/`. Run by
 * prepare.mjs after the compiler; when nothing has changed it costs the time to look.
 *
 *   node scripts/build-pages.mjs
 */
import { copyFileSync, existsSync, mkdirSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { basename, dirname } from 'node:path'
import { pathToFileURL } from 'node:url'
import { ROOT } from './prepare.mjs'

/**
 * @typedef {object} Pages
 * @property {string} folder  of the sources
 * @property {string} out
 * @property {string} entry  the module, in `folder`
 * @property {string} name  of the module that is made of it
 * @property {readonly string[]} copied  files that are served as they are
 * @property {Readonly<Record<string, () => Promise<string>>>} [made]  files that are made of data
 */

/** @type {readonly Pages[]} */
const PAGES = [
  {
    folder: 'packages/fleet/pages',
    out: 'packages/fleet/dist/pages',
    entry: 'main.tsx',
    name: 'console',
    copied: ['index.html', 'icon.svg', 'console.css'],
  },
  {
    folder: 'examples/car-tracking/map',
    out: 'examples/car-tracking/dist/map',
    entry: 'main.ts',
    name: 'main',
    copied: [],
    made: { 'land.json': async () => (await import('./base-map.mjs')).land() },
  },
  {
    folder: 'examples/car-tracking/landing',
    out: 'examples/car-tracking/dist/landing',
    entry: 'main.tsx',
    name: 'landing',
    copied: ['index.html', '../../../packages/fleet/pages/icon.svg'],
  },
]

/** What a page is made of: its own sources, the packages that it takes in, and what builds it. */
const SOURCES = ['packages/crypto/dist', 'packages/api/dist', 'packages/client/dist', 'packages/fleet/src']
const STAMP = '.built'

export async function buildPages() {
  for (const pages of PAGES) if (existsSync(ROOT + pages.folder) && isStale(pages)) await build(pages)
}

/** @param {Pages} pages */
function isStale({ folder, out }) {
  const stamp = `${ROOT}${out}/${STAMP}`
  if (!existsSync(stamp)) return true
  const built = statSync(stamp).mtimeMs
  const inputs = [folder, 'packages/fleet/pages', ...SOURCES, 'scripts', 'package-lock.json']
  return inputs.some(input => newest(ROOT + input) > built)
}

/** @param {string} path @returns {number} */
function newest(path) {
  if (!existsSync(path)) return 0
  const { mtimeMs } = statSync(path)
  if (!statSync(path).isDirectory()) return mtimeMs
  const inside = readdirSync(path, { recursive: true, encoding: 'utf8' })
    .filter(file => /\.(js|ts|tsx|mjs|css|html|svg)$/.test(file))
    .map(file => statSync(`${path}/${file}`).mtimeMs)
  return Math.max(0, ...inside)
}

/** @param {Pages} pages */
async function build({ folder, out, entry, name, copied, made = {} }) {
  const { build: bundle } = await import('esbuild')
  rmSync(ROOT + out, { recursive: true, force: true })
  mkdirSync(ROOT + out, { recursive: true })
  await bundle({
    absWorkingDir: ROOT,
    entryPoints: { [name]: `${folder}/${entry}` },
    outdir: out,
    bundle: true,
    format: 'esm',
    target: ['es2022'],
    minify: true,
    jsx: 'automatic',
    jsxImportSource: 'preact',
    loader: { '.png': 'dataurl' },
    plugins: [noEvaluation],
    logLevel: 'warning',
  })
  for (const file of copied) copyFileSync(`${ROOT}${folder}/${file}`, `${ROOT}${out}/${basename(file)}`)
  for (const [file, make] of Object.entries(made)) writeFileSync(`${ROOT}${out}/${file}`, await make())
  writeFileSync(`${ROOT}${out}/${STAMP}`, '')
}

/**
 * The schema library tries whether it may make functions of text. Our pages' policy says no, and a browser reports
 * the attempt; so it is told beforehand. Processes take that library as one file, in which no module of it is left to
 * replace: pages take it from its own.
 *
 * @type {import('esbuild').Plugin}
 */
const noEvaluation = {
  name: 'no-evaluation',
  setup(pluginBuild) {
    pluginBuild.onLoad({ filter: /api[/\\]dist[/\\]typebox\.js$/ }, async ({ path }) => ({
      contents: await readFile(path.replace('/dist/', '/src/').replace(/js$/, 'ts'), 'utf8'),
      loader: 'ts',
      resolveDir: dirname(path),
    }))
    pluginBuild.onLoad({ filter: /typebox[/\\]build[/\\]system[/\\]environment[/\\]evaluate\.mjs$/ }, () => ({
      contents:
        'export const CanEvaluate = () => false\n' +
        "export const Evaluate = () => { throw new TypeError('no functions are made of text here') }\n",
      loader: 'js',
    }))
  },
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) await buildPages()
