/**
 * What `npm start` and `npm test` share: dependencies installed, everything built. Runs on a fresh clone, so it uses
 * nothing but Node; when nothing has changed it costs the two seconds in which the compiler finds that out.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, statSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

/** @typedef {readonly [string, ...string[]]} Command  a file and its first arguments */

/** The repository's folder, with its final slash. */
export const ROOT = fileURLToPath(new URL('..', import.meta.url))

const OLDEST = { major: 20, minor: 19 }

/** Throws, with one line to show, when this Node is too old or when installing or building fails. */
export async function prepare() {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number)
  if (major < OLDEST.major || (major === OLDEST.major && minor < OLDEST.minor)) {
    throw new Error(`Node ${OLDEST.major}.${OLDEST.minor} or newer is needed; this is ${process.version}`)
  }
  if (!installed()) {
    // Not on standard output, which may be somebody's JSON.
    console.error('installing dependencies …')
    const npm = npmCommand()
    succeed('npm ci', npm, ['ci', '--no-audit', '--no-fund', '--loglevel=error'])
  }
  succeed('the build', [process.execPath], [tool('typescript', 'bin/tsc'), '-b'])
  // Not before: a fresh clone has no bundler yet.
  const { bundleLibraries } = await import('./bundle-libraries.mjs')
  await bundleLibraries()
  const { buildPages } = await import('./build-pages.mjs')
  await buildPages()
}

/** npm writes node_modules/.package-lock.json when it is done: missing or old means never, interrupted or outdated. */
function installed() {
  const done = `${ROOT}node_modules/.package-lock.json`
  return existsSync(done) && statSync(done).mtimeMs >= statSync(`${ROOT}package-lock.json`).mtimeMs
}

/**
 * The npm that started this script, if one did, so that a second npm on the PATH can't take its place.
 *
 * @returns {Command}
 */
export function npmCommand() {
  const running = process.env.npm_execpath
  return running?.endsWith('npm-cli.js') ? [process.execPath, running] : ['npm']
}

/**
 * The file of a dependency's command, run with this very Node whatever the PATH says.
 *
 * @param {string} name
 * @param {string} file
 */
export function tool(name, file) {
  return `${ROOT}node_modules/${name}/${file}`
}

/**
 * Runs a command in the repository's folder, its output going where this process' goes, or all of it to standard error.
 * True when it exits with 0.
 *
 * @param {Command} command
 * @param {readonly string[]} args
 * @param {NodeJS.ProcessEnv} environment
 * @param {'inherit' | 2} output
 */
export function run([file, ...first], args, environment = process.env, output = 'inherit') {
  const { status, error } = spawnSync(file, [...first, ...args], {
    cwd: ROOT,
    stdio: ['ignore', output, 'inherit'],
    env: environment,
  })
  if (error) console.error(`${file} can't be run: ${error.message}`)
  return status === 0
}

/**
 * @param {string} what
 * @param {Command} command
 * @param {readonly string[]} args
 */
function succeed(what, command, args) {
  if (!run(command, args, process.env, 2)) throw new Error(`${what} failed`)
}
