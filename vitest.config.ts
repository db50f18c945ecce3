import { existsSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'
import { defineConfig } from 'vitest/config'
import { BaseSequencer, type TestSpecification } from 'vitest/node'

// `npm run test:long`: campaigns (*.long.test.ts) and every property test with more cases, from one printed seed.
const long = process.env.MILAGRO_LONG === '1'

const here = (path: string) => fileURLToPath(new URL(path, import.meta.url))

/** What takes half a minute and more, the longest first. By vitest's own order, begun among the last, one runs on alone. */
const SLOW = [
  'packages/api/test/ceremony-simulator.test.ts',
  'packages/crypto/test/kernel.test.ts',
  'test/story.test.ts',
  'examples/car-tracking/test/hard-start.test.ts',
  'packages/dta/test/ceremonies.test.ts',
  'packages/tls/test/strangers.test.ts',
  'test/browser.test.ts',
  'test/stranger.test.ts',
  'examples/car-tracking/test/kill.test.ts',
  'test/bad-input.test.ts',
  'packages/rps/test/authorities.test.ts',
  'test/first-fleet.test.ts',
].map(here)
const gone = SLOW.filter(file => !existsSync(file))
if (gone.length > 0) throw new Error(`no such test: ${gone.join(', ')}`)

class SlowFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const placeOf = ({ moduleId }: TestSpecification) => {
      const at = SLOW.indexOf(moduleId)
      return at === -1 ? SLOW.length : at
    }
    return (await super.sort(files)).sort((one, other) => placeOf(one) - placeOf(other))
  }
}

/**
 * Of these two, whose thousand files every test file's process would read, one file each; what they share stands in a
 * third, so that everything is there once.
 */
const BUNDLED = { typebox: 'typebox', 'typebox-compile': 'typebox/compile', kysely: 'kysely' }
const versionOf = (name: string) =>
  JSON.parse(readFileSync(here(`node_modules/${name}/package.json`), 'utf8')).version as string
const BUNDLES = here(
  `node_modules/.cache/milagro-tests/typebox-${versionOf('typebox')}-kysely-${versionOf('kysely')}`,
)
if (!existsSync(BUNDLES)) {
  const outdir = `${BUNDLES}.${process.pid}`
  await build({
    entryPoints: BUNDLED,
    absWorkingDir: here('packages/api'),
    outdir,
    bundle: true,
    splitting: true,
    format: 'esm',
    platform: 'node',
    outExtension: { '.js': '.mjs' },
  })
  // Another run may have been quicker.
  if (existsSync(BUNDLES)) rmSync(outdir, { recursive: true })
  else renameSync(outdir, BUNDLES)
}

// Tests import packages by name; the alias points every such import at the sources, so that one class has one
// identity (a point made by a test is the point that the code under test knows).
export default defineConfig({
  resolve: {
    alias: [
      ...Object.entries(BUNDLED).map(([file, name]) => ({
        find: new RegExp(`^${name}$`),
        replacement: `${BUNDLES}/${file}.mjs`,
      })),
      { find: /^#fma-kernels$/, replacement: here('packages/crypto/src/fma-kernels.ts') },
      {
        find: /^@milagro-ts\/car-tracking\/(.+)$/,
        replacement: here('examples/car-tracking/src/$1.ts'),
      },
      {
        find: /^@milagro-ts\/([a-z-]+)\/(.+)$/,
        replacement: here('packages/$1/src/$2.ts'),
      },
    ],
  },
  test: {
    include: ['packages/*/test/**/*.test.ts', 'examples/*/test/**/*.test.ts', 'test/**/*.test.ts'],
    exclude: ['**/node_modules/**', ...(long ? [] : ['**/*.long.test.ts'])],
    setupFiles: ['test/evidence.ts', ...(long ? ['test/campaign.ts'] : [])],
    testTimeout: long ? 14_400_000 : 120_000,
    hookTimeout: 180_000,
    // Other threads and processes may have to wait for theirs.
    expect: { poll: { timeout: 30_000 } },
    sequence: { sequencer: SlowFirst },
    pool: 'forks',
    // One more than a small machine has cores: many tests wait for processes, timers and each other's answers.
    maxWorkers: 3,
  },
})
