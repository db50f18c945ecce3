import { existsSync, readFileSync } from 'node:fs'
import { posix } from 'node:path'
import { describe, expect, test } from 'vitest'
import {
  drawGraph,
  FLOORS,
  type Import,
  importedPackages,
  importsUnder,
  type Package,
  PICTURE,
  pictureIn,
  readJson,
  readPackages,
} from '../scripts/draw-graph.mjs'
import { ROOT } from '../scripts/prepare.mjs'

const packages = readPackages()
const rootJson = readJson('package.json')
const where = ({ file, specifier }: Import) => `${file} imports ${specifier}`

/** Packages that these sources may not import, in words. */
function climbs(pack: Pick<Package, 'name' | 'floor' | 'imports'>): string[] {
  return importedPackages(pack as Package)
    .filter(name => !((FLOORS[name] ?? Number.POSITIVE_INFINITY) < (pack.floor ?? -1)))
    .map(name => `${pack.name} (floor ${pack.floor}) imports ${name} (floor ${FLOORS[name]})`)
}

test('every package stands on a floor', () => {
  expect(packages.length).toBeGreaterThan(9)
  expect(packages.filter(({ floor }) => floor === undefined).map(({ name }) => name)).toEqual([])
})

test('the rule refuses the same floor, a higher one and an unknown package', () => {
  const importing = (name: string): Import[] => [
    { file: 'packages/rps/src/x.ts', specifier: `@milagro-ts/${name}/x`, kind: 'workspace', name },
  ]
  const rps = (name: string) => climbs({ name: 'rps', floor: 2, imports: importing(name) })
  expect(rps('api')).toEqual([])
  expect(rps('dta')).toHaveLength(1)
  expect(rps('fleet')).toHaveLength(1)
  expect(rps('car-tracking')).toHaveLength(1)
})

describe.each(packages)('$name', pack => {
  const external = pack.imports.filter(({ kind }) => kind === 'external')

  test('imports point strictly down', () => {
    expect(climbs(pack)).toEqual([])
  })

  test('relative imports stay in the package', () => {
    const outside = pack.imports.filter(({ file, specifier, kind }) => {
      return kind === 'relative' && !posix.join(posix.dirname(file), specifier).startsWith(`${pack.folder}/`)
    })
    expect(outside.map(where)).toEqual([])
  })

  test('what it names by `imports` is declared there, and is a file of its own', () => {
    const named = pack.imports.filter(({ kind }) => kind === 'own').map(({ name }) => name)
    const { imports = {} } = pack.json as { imports?: Record<string, Record<string, string>> }
    expect([...new Set(named)].sort()).toEqual(Object.keys(imports).sort())
    for (const path of Object.values(imports).flatMap(Object.values)) {
      expect(path).toMatch(/^\.\/dist\/[a-z0-9-]+\.js$/)
      const source = path.replace('./dist/', `${ROOT}${pack.folder}/src/`).replace(/js$/, 'ts')
      expect(existsSync(source)).toBe(true)
    }
  })

  test('what is declared is used, and what is used is declared', () => {
    const { dependencies, optionalDependencies, peerDependencies } = pack.json
    const declared = Object.keys({ ...dependencies, ...optionalDependencies, ...peerDependencies })
    const used = [
      ...importedPackages(pack).map(name => `@milagro-ts/${name}`),
      ...external.map(({ name }) => name),
    ]
    expect([...new Set(used)].sort()).toEqual(declared.sort())
  })

  test('its tests use what it or the repository declares', () => {
    const { dependencies, devDependencies } = pack.json
    const declared = { ...dependencies, ...devDependencies, ...rootJson.devDependencies }
    const undeclared = pack.testImports.filter(({ kind, name }) => kind === 'external' && !(name in declared))
    expect(undeclared.map(where)).toEqual([])
  })

  test('no file gathers others', () => {
    const barrels = pack.imports.filter(({ file }) => /\/index\.[a-z]+$/.test(file)).map(({ file }) => file)
    const sources = [...new Set(pack.imports.map(({ file }) => file))]
    const gathering = sources.filter(file => /^export \*/m.test(readFileSync(ROOT + file, 'utf8')))
    expect([...new Set(barrels), ...gathering]).toEqual([])
  })
})

test('crypto is self-contained: no platform but worker threads, and their priority, in its pool; no dependency', () => {
  const crypto = packages.find(({ name }) => name === 'crypto')!
  const foreign = crypto.imports.filter(({ kind }) => kind !== 'relative' && kind !== 'own').map(where)
  expect(foreign).toEqual([
    'packages/crypto/src/node-pool.ts imports node:os',
    'packages/crypto/src/node-pool.ts imports node:worker_threads',
  ])
  expect(crypto.json.dependencies ?? {}).toEqual({})
})

test('docs/dependencies.md has one line for every dependency, names its users and says why', () => {
  const users = new Map<string, Set<string>>()
  const add = (user: string, names: Iterable<string>) => {
    for (const name of names) {
      if (!name.startsWith('@milagro-ts/')) users.set(name, (users.get(name) ?? new Set()).add(user))
    }
  }
  for (const { name, json } of packages) {
    const { dependencies, optionalDependencies, peerDependencies, devDependencies } = json
    add(name, Object.keys({ ...dependencies, ...optionalDependencies, ...peerDependencies }))
    add(`${name} (dev)`, Object.keys(devDependencies ?? {}))
  }
  add('dev', Object.keys(rootJson.devDependencies ?? {}))
  const expected = [...users].map(([name, by]) => `${name} | ${[...by].sort().join(', ')}`).sort()

  const rows = readFileSync(`${ROOT}docs/dependencies.md`, 'utf8')
    .split('\n')
    .filter(line => line.startsWith('| `'))
    .map(line => line.split('|').map(cell => cell.trim().replaceAll('`', '')))
  expect(rows.map(([, name, by]) => `${name} | ${by}`).sort()).toEqual(expected)
  expect(rows.filter(([, , , reason]) => !reason).map(([, name]) => name)).toEqual([])
})

test('tests across packages and scripts use what the repository or a package declares', () => {
  const declared = Object.assign(
    {},
    rootJson.devDependencies,
    ...packages.flatMap(({ json }) => [json.dependencies, json.devDependencies]),
  )
  const imports = ['test', 'scripts', 'benchmarks'].flatMap(importsUnder)
  const undeclared = imports.filter(({ kind, name }) => kind === 'external' && !(name in declared))
  expect(undeclared.map(where)).toEqual([])
})

test('the picture in docs/architecture.md is what the sources say (node scripts/draw-graph.mjs redraws it)', () => {
  expect(pictureIn(readFileSync(PICTURE, 'utf8'))).toBe(drawGraph(packages))
})
