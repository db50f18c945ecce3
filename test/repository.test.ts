import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { type PackageJson, readJson, readPackages } from '../scripts/draw-graph.mjs'
import { ROOT } from '../scripts/prepare.mjs'

/** Everything that is in the repository or would be with the next commit; text only. */
const files = execFileSync('git', ['ls-files', '-z', '--cached', '--others', '--exclude-standard'], {
  cwd: ROOT,
  encoding: 'utf8',
})
  .split('\0')
  .filter(file => file !== '' && existsSync(ROOT + file))
  .map(file => ({ file, text: readFileSync(ROOT + file, 'utf8') }))
  .filter(({ text }) => !text.includes('\0'))

/** `file:line` of every match, in the files that `of` picks. */
function findings(pattern: RegExp, of: RegExp): string[] {
  return files
    .filter(({ file }) => of.test(file))
    .flatMap(({ file, text }) =>
      text
        .split('\n')
        .flatMap((line, at) =>
          pattern.test(line) ? [`${file}:${at + 1}: ${line.trim().slice(0, 200)}`] : [],
        ),
    )
}

const TESTS = /(^|\/)test\/.*\.[cm]?[jt]sx?$/

interface LockedPackage {
  readonly resolved?: string
  readonly dependencies?: Record<string, string>
  readonly optionalDependencies?: Record<string, string>
}

describe('the lock file', () => {
  const lock = JSON.parse(readFileSync(`${ROOT}package-lock.json`, 'utf8'))
  const packages = Object.entries(lock.packages as Record<string, LockedPackage>)

  test('names no address to download from: the registry is the reader’s own setting', () => {
    expect(
      packages.filter(([, { resolved }]) => /^[a-z+]+:/.test(resolved ?? '')).map(([path]) => path),
    ).toEqual([])
  })

  test('holds every dependency that it names, for every platform, or a clean install fails', () => {
    const paths = new Set(packages.map(([path]) => path))
    const missing = packages.flatMap(([path, { dependencies, optionalDependencies }]) =>
      Object.keys({ ...dependencies, ...optionalDependencies })
        .filter(name => !ancestors(path).some(folder => paths.has(`${folder}node_modules/${name}`)))
        .map(name => `${path} needs ${name}`),
    )
    expect(missing).toEqual([])
  })
})

/** The folders in which Node looks for `node_modules`, from `path` upwards. */
function ancestors(path: string): string[] {
  const parts = path === '' ? [] : path.split('/')
  return [...parts.map((_, at) => `${parts.slice(0, at + 1).join('/')}/`), '']
}

test('no test is switched off or runs alone', () => {
  expect(
    findings(/\.(only|skip|todo|fails)\b(?=\s*[.(])|\b(xit|xtest|xdescribe|fit|fdescribe)\(/, TESTS),
  ).toEqual([])
})

/** Code but for the kernels' bytes, in which any letters may stand side by side. */
const WRITTEN = /(?<!-wasm)\.([cm]?[jt]sx?)$/
test('no code switches the compiler off or is left to be done', () => {
  expect(findings(/@ts-(ignore|nocheck|expect-error)\b|\b(TO[D]O|FIX[M]E|X[X]X)\b/, WRITTEN)).toEqual([])
})

test('no file knows the machine that it was written on', () => {
  expect(findings(/(?<![\w.:/-])\/(root|home|work|Users)\/|[A-Z]:\\Users\\/, /./)).toEqual([])
})

test('licence and notice are there', () => {
  expect(readFileSync(`${ROOT}LICENSE`, 'utf8')).toMatch(/Apache License\s+Version 2\.0/)
  expect(readFileSync(`${ROOT}NOTICE`, 'utf8')).toMatch(
    /not affiliated with.*the Apache Software\s+Foundation/s,
  )
})

const root = readJson('package.json')
const manifests: [string, PackageJson][] = [
  ['package.json', root],
  ...readPackages().map(({ folder, json }): [string, PackageJson] => [`${folder}/package.json`, json]),
]

test.each(manifests)('%s states licence, engines, version and module type', (_, json) => {
  expect(json.license).toBe('Apache-2.0')
  expect(json.engines).toEqual(root.engines)
  expect(json.version).toBe(root.version)
  expect(json.type).toBe('module')
})
