/**
 * Writes docs/bad-input.md: drives every route with every kind of bad input and notes how much of each it was.
 *
 *   node scripts/print-bad-input.mjs
 *
 * A test compares.
 */
import { spawnSync } from 'node:child_process'
import { ROOT } from './prepare.mjs'

const { status } = spawnSync('npx', ['vitest', 'run', 'test/bad-input.test.ts'], {
  cwd: ROOT,
  stdio: 'inherit',
  env: { ...process.env, MILAGRO_WRITE_PAGES: '1' },
})
process.exitCode = status ?? 1
