/** What the library's own sources may not do, so that a protocol is a function of its arguments. */
import { readdirSync, readFileSync } from 'node:fs'
import { expect, test } from 'vitest'

const sourcesIn = (folder: URL) =>
  readdirSync(folder)
    .filter(file => file.endsWith('.ts'))
    .map(file => {
      const text = readFileSync(new URL(file, folder), 'utf8')
      // Comments may name what code may not use.
      return { file, code: text.replaceAll(/\/\*[\s\S]*?\*\//g, '').replaceAll(/^\s*\/\/.*$/gm, '') }
    })
const sources = sourcesIn(new URL('../src/', import.meta.url))
/** The retired wire forms. */
const legacy = sourcesIn(new URL('../src/legacy/', import.meta.url))
const using = (pattern: RegExp, of = sources): string[] =>
  of.filter(({ code }) => pattern.test(code)).map(({ file }) => file)
const specifiersOf = (of: typeof sources) =>
  of.flatMap(({ file, code }) =>
    [...code.matchAll(/(?:from|import)\s*\(?\s*'([^']+)'/g)].map(([, specifier]) => ({
      file,
      specifier: specifier as string,
    })),
  )

/** Worker threads are Node's, and an answer of one is a promise; everything that computes is a function, in there too. */
const POOL = ['node-pool.ts', 'pooled-login.ts']

/** Node's as well, and nobody's who isn't sent there by package.json. */
const NODES = ['fma-kernels.ts']

test('the kernels for FMA are imported by Node alone, and use nothing of it but base64', () => {
  const { imports } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as {
    imports: unknown
  }
  expect(imports).toEqual({
    '#fma-kernels': { node: './dist/fma-kernels.js', default: './dist/no-fma-kernels.js' },
  })
  expect(using(/\bBuffer\b/)).toEqual(NODES)
  expect(using(/\bBuffer\b(?!\.from\(KERNEL_\w+, 'base64'\))/)).toEqual([])
  const importers = specifiersOf(sources).filter(({ specifier }) => /fma-(wasm|kernels)/.test(specifier))
  expect(importers.map(({ file, specifier }) => `${file} ${specifier}`)).toEqual([
    'fma-kernels.ts ./kernel-g1-fma-wasm.js',
    'fma-kernels.ts ./kernel-pairing-fma-wasm.js',
    'kernel.ts #fma-kernels',
    'no-fma-kernels.ts ./fma-kernels.js',
  ])
  const types = sources.find(({ file }) => file === 'no-fma-kernels.ts')?.code
  expect(types).toContain("import type { FmaKernels as Kernels } from './fma-kernels.js'")
})

test('there are sources to look at', () => {
  expect(sources.length).toBeGreaterThan(15)
})

test('only kernel.ts knows WebAssembly', () => {
  expect(using(/\bWebAssembly\./)).toEqual(['kernel.ts'])
})

test('nothing else is imported but files of this folder', () => {
  const outside = specifiersOf(sources).filter(({ specifier }) => !/^\.\/[a-z0-9-]+\.js$/.test(specifier))
  // The worker pool is Node's alone, by its name and by its export, and kernels for FMA are, by package.json's imports.
  expect(outside).toEqual([
    { file: 'kernel.ts', specifier: '#fma-kernels' },
    { file: 'node-pool.ts', specifier: 'node:os' },
    { file: 'node-pool.ts', specifier: 'node:worker_threads' },
  ])
  expect(using(/['"]node:/)).toEqual(['node-pool.ts'])
})

test.each([
  ['the clock', /\bDate\b|\bperformance\b/],
  ['a random source of its own', /Math\.random|\bcrypto\b|getRandomValues/],
  ['the network', /\bfetch\b|XMLHttpRequest|WebSocket/],
  ['a timer or a promise', /set(Timeout|Interval|Immediate)|\basync\b|\bawait\b|\bPromise\b/],
  ['the process or the console', /\bprocess\b|\bconsole\b|\bglobalThis\b/],
  ['what small runtimes lack', /TextEncoder|TextDecoder|\bBuffer\b|\batob\b|\bbtoa\b/],
])('no file uses %s', (_, pattern) => {
  expect(using(pattern).filter(file => ![...POOL, ...NODES].includes(file))).toEqual([])
  expect(using(pattern, legacy)).toEqual([])
})

test('the retired forms import bytes, hash, errors and ports, and nothing but they themselves imports them', () => {
  expect(legacy.length).toBeGreaterThan(10)
  const outside = specifiersOf(legacy).filter(
    ({ specifier }) => !/^\.\/[a-z0-9-]+\.js$|^\.\.\/(bytes|errors|ports|sha256)\.js$/.test(specifier),
  )
  expect(outside).toEqual([])
  expect(using(/\bWebAssembly\b/, legacy)).toEqual([])

  const importers = ['packages', 'examples', 'benchmarks', 'scripts', 'test']
    .flatMap(root => filesUnder(new URL(`../../../${root}/`, import.meta.url)))
    .filter(file => /(from|import)\s*\(?\s*['"][^'"]*\/legacy\//.test(readFileSync(file, 'utf8')))
    .map(({ pathname }) => pathname.split('/').slice(-3).join('/'))
  expect(importers.length).toBeGreaterThan(0)
  // And what throws noise at every decode.
  const own = /^crypto\/(test|examples)\/legacy-|\/test\/fuzz\.test\.ts$/
  expect(importers.filter(file => !own.test(file))).toEqual([])
})

/** Sources of the repository below `folder`, what is installed or built left out. */
function filesUnder(folder: URL): URL[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap(entry => {
    if (entry.isDirectory()) {
      return ['node_modules', 'dist', 'public'].includes(entry.name)
        ? []
        : filesUnder(new URL(`${entry.name}/`, folder))
    }
    return /\.[cm]?[jt]sx?$/.test(entry.name) ? [new URL(entry.name, folder)] : []
  })
}

test('of those, the pool alone has threads, and what waits for them waits', () => {
  expect(using(/\basync\b|\bawait\b|\bPromise\b/)).toEqual(POOL)
  expect(using(/getRandomValues|worker_threads/)).toEqual(['node-pool.ts'])
  expect(using(/\bDate\b|\bperformance\b|set(Timeout|Interval|Immediate)/)).toEqual([])
  expect(using(/\bprocess\b/)).toEqual(['fma-kernels.ts', 'node-pool.ts'])
  // Nothing else of the library knows of it, so no bundle for a device or a browser holds it.
  const importers = sources.filter(({ code }) =>
    /from '\.\/(node-pool|pooled-login|crypto-worker)\.js'/.test(code),
  )
  expect(importers.map(({ file }) => file)).toEqual(POOL)
})

test('the engine’s handles stay where points and scalars are made', () => {
  expect(using(/\b(from|to)Engine\b/)).toEqual(['hash-to-curve.ts', 'points.ts'])
  expect(using(/\b(from|to)BigInt\b/)).toEqual(['scalar.ts'])
  expect(using(/from '\.\/engine\.js'/)).toEqual(['hash-to-curve.ts', 'points.ts', 'scalar.ts'])
})

test('where a secret is multiplied, the fixed-shape multiplication is used', () => {
  // Every public multiplication is by a challenge, a weight, a λ, or a published z; this list is read by people.
  const uses = sources.flatMap(({ file, code }) =>
    [...code.matchAll(/\.mulPublic\(([^()]*(?:\([^()]*\))?[^()]*)\)/g)].map(([, by]) => `${file}: ${by}`),
  )
  expect([...new Set(uses)].sort()).toEqual([
    'batch.ts: cA.c',
    'chow-choo.ts: pi_c',
    'chow-choo.ts: pi_s',
    'ibs.ts: c',
    'mpin-full.ts: transcriptScalar(transcript)',
    'mpin.ts: c',
    'secret-sharing.ts: lambda[i] as Scalar',
  ])
  // The multiple of a hash within a pairing, by a challenge.
  const paired = sources.flatMap(({ file, code }) =>
    [...code.matchAll(/pairingWithHash\((\w+), (\w+),/g)].map(([, , by]) => `${file}: ${by}`),
  )
  expect(paired).toEqual(['engine.ts: scalar', 'static-agreement.ts: h'])
  // Sums: by weights of proofs and batches, and challenges, ρ and z, λ, published κ and z, powers of an index.
  expect(using(/\.sumOfProducts\(/)).toEqual([
    'batch.ts',
    'dealing.ts',
    'device-engine.ts',
    'engine.ts',
    'mpin.ts',
    'node-shares.ts',
    'points.ts',
    'possession.ts',
    'secret-sharing.ts',
    'share-proof.ts',
  ])
})
