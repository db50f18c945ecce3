/**
 * The packages and who imports whom, read from their sources; drawn into docs/architecture.md by
 *
 *   node scripts/draw-graph.mjs
 *
 * test/package-graph.test.ts compares the picture with the sources and holds the sources to the floors.
 */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { isBuiltin } from 'node:module'
import { pathToFileURL } from 'node:url'
import ts from 'typescript'
import { ROOT } from './prepare.mjs'

/** Imports point from a higher floor to a lower one. `examples/*` are on floor 5. */
export const FLOORS = /** @type {Readonly<Record<string, number>>} */ ({
  crypto: 0,
  store: 0,
  api: 1,
  dta: 2,
  rps: 2,
  rpa: 2,
  client: 2,
  fleet: 3,
  tls: 3,
  'pin-pad': 3,
  cli: 4,
})
const EXAMPLES = 5

const SCOPE = '@milagro-ts/'
const BEGIN = '<!-- graph:begin -->'
const END = '<!-- graph:end -->'
export const PICTURE = `${ROOT}docs/architecture.md`

/**
 * @typedef {object} Import
 * @property {string} file  from the repository's folder
 * @property {string} specifier
 * @property {'relative' | 'own' | 'builtin' | 'workspace' | 'external'} kind  own: by package.json's `imports`
 * @property {string} name  of the package: `store`, `kysely`, `node:fs`; of a relative or own import the specifier
 */

/**
 * @typedef {object} Package
 * @property {string} name  without the scope
 * @property {string} folder  from the repository's folder
 * @property {number | undefined} floor
 * @property {PackageJson} json
 * @property {readonly Import[]} imports  of its sources
 * @property {readonly Import[]} testImports
 */

/**
 * @typedef {object} PackageJson
 * @property {string} name
 * @property {string} [license]
 * @property {string} [type]
 * @property {string} [version]
 * @property {{node?: string}} [engines]
 * @property {Record<string, string>} [dependencies]
 * @property {Record<string, string>} [optionalDependencies]
 * @property {Record<string, string>} [peerDependencies]
 * @property {Record<string, string>} [devDependencies]
 */

/** @returns {Package[]} Lowest floor first, then by name. */
export function readPackages() {
  const packages = ['packages', 'examples'].flatMap(parent =>
    readdirSync(ROOT + parent)
      .map(name => ({ name, folder: `${parent}/${name}` }))
      .filter(({ folder }) => existsSync(`${ROOT}${folder}/package.json`))
      .map(({ name, folder }) => ({
        name,
        folder,
        floor: parent === 'examples' ? EXAMPLES : FLOORS[name],
        json: readJson(`${folder}/package.json`),
        imports: [...importsUnder(`${folder}/src`), ...importsUnder(`${folder}/bin`)],
        testImports: importsUnder(`${folder}/test`),
      })),
  )
  return packages.sort((a, b) => (a.floor ?? 99) - (b.floor ?? 99) || (a.name < b.name ? -1 : 1))
}

/** @param {string} file @returns {PackageJson} */
export function readJson(file) {
  return JSON.parse(readFileSync(ROOT + file, 'utf8'))
}

/** @param {string} folder @returns {Import[]} */
export function importsUnder(folder) {
  if (!existsSync(ROOT + folder)) return []
  return readdirSync(ROOT + folder, { recursive: true, encoding: 'utf8' })
    .filter(file => /\.[cm]?[jt]sx?$/.test(file))
    .sort()
    .flatMap(file => importsOf(`${folder}/${file}`))
}

/** @param {string} file @returns {Import[]} */
function importsOf(file) {
  const { importedFiles } = ts.preProcessFile(readFileSync(ROOT + file, 'utf8'), true, true)
  return importedFiles.map(({ fileName: specifier }) => {
    if (/^\.{0,2}\//.test(specifier)) return { file, specifier, kind: 'relative', name: specifier }
    if (specifier.startsWith('#')) return { file, specifier, kind: 'own', name: specifier }
    if (isBuiltin(specifier)) return { file, specifier, kind: 'builtin', name: specifier }
    const [first = '', second = ''] = specifier.split('/')
    if (specifier.startsWith(SCOPE)) return { file, specifier, kind: 'workspace', name: second }
    return { file, specifier, kind: 'external', name: first.startsWith('@') ? `${first}/${second}` : first }
  })
}

/** The other packages of this repository that a package's sources import. @param {Package} pack @returns {string[]} */
export function importedPackages(pack) {
  const names = pack.imports.filter(({ kind }) => kind === 'workspace').map(({ name }) => name)
  return [...new Set(names)].filter(name => name !== pack.name).sort()
}

/**
 * Mermaid with the arrows that no longer way implies, then every import in a table.
 *
 * @param {readonly Package[]} packages
 */
export function drawGraph(packages) {
  const imports = new Map(packages.map(pack => [pack.name, importedPackages(pack)]))
  /** @param {string} from @returns {string[]} */
  const below = from => (imports.get(from) ?? []).flatMap(name => [name, ...below(name)])
  const floors = [...new Set(packages.map(({ floor }) => floor))].sort((a, b) => (b ?? 0) - (a ?? 0))
  const lines = ['```mermaid', 'flowchart TD']
  for (const floor of floors) {
    const names = packages.filter(pack => pack.floor === floor).map(({ name }) => name)
    lines.push(`  subgraph floor${floor}[floor ${floor}]`, ...names.map(name => `    ${name}`), '  end')
  }
  for (const { name } of [...packages].reverse()) {
    const direct = imports.get(name) ?? []
    const implied = new Set(direct.flatMap(below))
    lines.push(...direct.filter(to => !implied.has(to)).map(to => `  ${name} --> ${to}`))
  }
  lines.push('```', '', '| floor | package | imports |', '|---|---|---|')
  for (const { floor, name } of [...packages].reverse()) {
    lines.push(`| ${floor} | ${name} | ${imports.get(name)?.join(', ') || '–'} |`)
  }
  return lines.join('\n')
}

/** The picture in `text`; throws when the two markers aren't there. @param {string} text */
export function pictureIn(text) {
  const { start, end } = placeIn(text)
  return text.slice(start, end).trim()
}

/** @param {string} text */
function placeIn(text) {
  const start = text.indexOf(BEGIN) + BEGIN.length
  const end = text.indexOf(END)
  if (start < BEGIN.length || end < start) throw new Error(`${PICTURE} needs ${BEGIN} and, below it, ${END}`)
  return { start, end }
}

function main() {
  const text = existsSync(PICTURE) ? readFileSync(PICTURE, 'utf8') : `# Architecture\n\n${BEGIN}\n${END}\n`
  const { start, end } = placeIn(text)
  writeFileSync(PICTURE, `${text.slice(0, start)}\n${drawGraph(readPackages())}\n${text.slice(end)}`)
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) main()
