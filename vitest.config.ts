import { fileURLToPath } from 'node:url'
import { defineConfig } from 'vitest/config'

// `npm run test:long`: campaigns (*.long.test.ts) and every property test with more cases, from one printed seed.
const long = process.env.MILAGRO_LONG === '1'

// Tests import packages by name; the alias points every such import at the sources, so that one class has one
// identity (a point made by a test is the point that the code under test knows).
export default defineConfig({
  resolve: {
    alias: [
      {
        find: /^@milagro-ts\/car-tracking\/(.+)$/,
        replacement: fileURLToPath(new URL('./examples/car-tracking/src/$1.ts', import.meta.url)),
      },
      {
        find: /^@milagro-ts\/([a-z-]+)\/(.+)$/,
        replacement: fileURLToPath(new URL('./packages/$1/src/$2.ts', import.meta.url)),
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
    pool: 'forks',
    maxWorkers: 2,
  },
})
