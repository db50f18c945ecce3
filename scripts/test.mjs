/**
 * `npm test`: everything that must hold before a change lands, in one run.
 *
 *   npm test                      install, build, types of the tests, linter, all tests; crypto and TLS under Node 22, 24; the guards of TLS under 20.19.0
 *   npm test -- packages/store    only the tests whose path contains that
 *   npm run test:long             the campaigns as well, with a seed that is printed (MILAGRO_SEED repeats a run)
 *   REQUIRE_SERVICES=1 npm test   a test that is skipped, for want of a service or of a network, is a failure
 *
 * The last line is `N passed, N failed, N skipped`; a step that fails without a test of its own counts as one failed.
 */
import { randomInt } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { checkEvidence, EVIDENCE, recording } from './evidence.mjs'
import { prepare, run, tool } from './prepare.mjs'
import { environmentWith, fetchNode } from './with-node.mjs'

const OTHER_NODES = ['22', '24']
/** What runs under every Node: arithmetic, which V8 compiles, and what goes by node:tls, whose OpenSSL is another one in each. */
const SUITES = ['packages/crypto/test', 'packages/tls/test']
/** The first Node that is good enough, where a PSK callback that throws ends the process: the five guards hold there. */
const FIRST_NODE = '20.19.0'
const GUARDS = ['packages/tls/test/guards.test.ts']

const required = process.env.REQUIRE_SERVICES === '1'
const total = { passed: 0, failed: 0, skipped: 0 }
/** @type {string[]} */
const failures = []

/**
 * @param {string} name
 * @param {() => boolean | Promise<boolean>} work
 */
async function step(name, work) {
  const begin = performance.now()
  console.log(`\n— ${name}`)
  let ok = false
  try {
    ok = await work()
  } catch (error) {
    console.error(error instanceof Error ? error.message : error)
  }
  console.log(`— ${name}: ${ok ? 'ok' : 'FAILED'} in ${((performance.now() - begin) / 1000).toFixed(1)} s`)
  return ok
}

/**
 * A step that is one check: it has no number of tests, so it only counts when it fails.
 *
 * @param {string} name
 * @param {() => boolean | Promise<boolean>} work
 */
async function check(name, work) {
  if (await step(name, work)) return true
  total.failed++
  failures.push(name)
  return false
}

/**
 * Vitest over `filters`; adds its numbers to the total. False when anything failed, or nothing ran.
 *
 * @param {string} name
 * @param {readonly string[]} filters
 */
function vitest(name, filters, environment = process.env, node = process.execPath) {
  return step(name, () => {
    const folder = mkdtempSync(join(tmpdir(), 'milagro-test-'))
    const report = join(folder, 'report.json')
    const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${report}`]
    const ok = run([node], [tool('vitest', 'vitest.mjs'), 'run', ...reporters, ...filters], environment)
    const { passed, failed, skipped } = numbers(report)
    rmSync(folder, { recursive: true })
    total.passed += passed
    total.skipped += skipped
    // Vitest may fail with every test green (an error outside any test, no test found): that is a failure too.
    const wrong = failed > 0 ? failed : ok && passed > 0 ? 0 : 1
    total.failed += wrong
    if (wrong > 0) failures.push(name)
    return wrong === 0
  })
}

/** @param {string} report */
function numbers(report) {
  /** @type {{status: string, assertionResults: {status: string}[]}[]} */
  let results
  try {
    results = JSON.parse(readFileSync(report, 'utf8')).testResults
  } catch (error) {
    console.error(`vitest left no report: ${error instanceof Error ? error.message : error}`)
    return { passed: 0, failed: 0, skipped: 0 }
  }
  const count = { passed: 0, failed: 0, skipped: 0 }
  for (const file of results) {
    const statuses = file.assertionResults.map(result => result.status)
    for (const status of statuses) {
      count[status === 'passed' || status === 'failed' ? status : 'skipped']++
    }
    // A file that can't even be loaded has no test that could fail.
    if (file.status === 'failed' && !statuses.includes('failed')) count.failed++
  }
  return count
}

/** @param {string} what @param {readonly string[]} suites @param {string} version */
async function suitesUnder(what, suites, version) {
  const name = `${what} under Node ${version}`
  const bin = fetchNode(version, why =>
    console.log(`\n${why}${required ? '' : `: ${what} are not tested there`}`),
  )
  if (bin !== null) await vitest(name, suites, { ...environmentWith(bin), MILAGRO_BRIEF: '1' }, `${bin}/node`)
  else if (required) await check(name, () => false)
}

/** @param {readonly string[]} filters */
async function everything(filters) {
  const built = await check('install and build', async () => {
    await prepare()
    return true
  })
  if (!built) return
  if (filters.length > 0) {
    await vitest('tests', filters, recording(process.env))
    await check('no secret in any log line, error or metric', () =>
      checkEvidence(EVIDENCE, { isWhole: false }),
    )
    return
  }
  for (const project of ['test', 'pages']) {
    await check(`types of the ${project === 'test' ? 'tests' : 'pages'}`, () =>
      run([process.execPath], [tool('typescript', 'bin/tsc'), '-p', `tsconfig.${project}.json`]),
    )
  }
  await check('linter', () =>
    run([process.execPath], [tool('@biomejs/biome', 'bin/biome'), 'check', '--error-on-warnings', '.']),
  )
  await vitest('tests', [], recording(process.env))
  await check('no secret in any log line, error or metric', () => checkEvidence(EVIDENCE, { isWhole: true }))
  for (const major of OTHER_NODES) {
    if (process.versions.node.split('.')[0] !== major) await suitesUnder('crypto and TLS', SUITES, major)
  }
  await suitesUnder('guards of TLS', GUARDS, FIRST_NODE)
}

const args = process.argv.slice(2)
if (args.includes('--long')) {
  process.env.MILAGRO_LONG = '1'
  process.env.MILAGRO_SEED ??= String(randomInt(2 ** 31))
  console.log(`seed ${process.env.MILAGRO_SEED} (MILAGRO_SEED=… npm run test:long repeats it)`)
}
await everything(args.filter(arg => arg !== '--long'))

if (required && total.skipped > 0) failures.push(`${total.skipped} skipped although REQUIRE_SERVICES=1`)
if (failures.length > 0) console.log(`\nfailed: ${failures.join(', ')}`)
if (args.includes('--long')) console.log(`seed ${process.env.MILAGRO_SEED}`)
process.exitCode = failures.length > 0 || total.passed === 0 ? 1 : 0
console.log(`${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`)
