/**
 * Runs a command under another version of Node, a major one or a whole, which npm fetches into .node-versions/ the first time:
 *
 *   node scripts/with-node.mjs 22 -- npx vitest run packages/crypto
 *
 * Exit codes: the command's own; 2 wrong usage; 3 that Node can't be fetched.
 */
import { spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, renameSync, rmSync } from 'node:fs'
import { constants } from 'node:os'
import { delimiter } from 'node:path'
import { pathToFileURL } from 'node:url'
import { npmCommand, ROOT } from './prepare.mjs'

/** @type {readonly NodeJS.Signals[]} */
const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP']

/**
 * The bin folder of the newest Node of that version that npm has, or null with the reason told to `say`.
 *
 * @param {string} version
 * @param {(why: string) => void} say
 */
export function fetchNode(version, say) {
  const name = `node-${process.platform}-${process.arch}`
  const place = `${ROOT}.node-versions/${version}`
  const bin = `${place}/node_modules/${name}/bin`
  if (existsSync(`${bin}/node`)) return bin
  // Fetched beside its place and moved there whole, so that an interrupted fetch is never taken for a Node.
  const unfinished = `${place}.${process.pid}.tmp`
  mkdirSync(unfinished, { recursive: true })
  const [npm, ...first] = npmCommand()
  const options = [
    '--no-save',
    '--ignore-scripts',
    '--no-audit',
    '--no-fund',
    '--fetch-retries=1',
    '--loglevel=error',
  ]
  const { status, stderr, error } = spawnSync(
    npm,
    [...first, 'install', '--prefix', unfinished, ...options, `${name}@${version}`],
    { cwd: unfinished, encoding: 'utf8', stdio: ['ignore', 'ignore', 'pipe'] },
  )
  if (status === 0 && existsSync(`${unfinished}/node_modules/${name}/bin/node`)) {
    rmSync(place, { recursive: true, force: true })
    renameSync(unfinished, place)
    return bin
  }
  rmSync(unfinished, { recursive: true, force: true })
  say(
    `Node ${version} can't be fetched (${name}): ${error?.message ?? stderr.split('\n').find(line => line) ?? status}`,
  )
  return null
}

/** This process' environment with that Node in front of the PATH. @param {string} bin */
export function environmentWith(bin) {
  return { ...process.env, PATH: `${bin}${delimiter}${process.env.PATH ?? ''}` }
}

/** @param {string[]} words */
function main([version, dashes, command, ...args]) {
  if (
    version === undefined ||
    !/^[0-9]+(\.[0-9]+){0,2}$/.test(version) ||
    dashes !== '--' ||
    command === undefined
  ) {
    console.error('usage: node scripts/with-node.mjs VERSION -- COMMAND …')
    process.exit(2)
  }
  const bin = fetchNode(version, console.error)
  if (bin === null) process.exit(3)
  const child = spawn(command, args, { stdio: 'inherit', env: environmentWith(bin) })
  for (const signal of SIGNALS) process.on(signal, () => child.kill(signal))
  child.on('error', error => {
    console.error(`${command} can't be run: ${error.message}`)
    process.exit(1)
  })
  child.on('exit', (code, signal) => process.exit(code ?? 128 + constants.signals[signal ?? 'SIGTERM']))
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) main(process.argv.slice(2))
