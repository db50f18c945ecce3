/**
 * `npm run bench`: our library against mcl-wasm, noble and blst, in one process, as README.md beside this file says.
 *
 *   npm run bench                        every row
 *   npm run bench -- mpin-check load     some rows
 *   npm run bench -- server [--soak|--storm]   full logins over HTTP (server/README.md)
 *   npm run bench -- authority           one authority of many groups (authority/bench.mjs)
 *   npm run bench -- permits [--quick]   covers and issuing at scale (permits.mjs)
 *   npm run bench -- tls [--quick]       handshakes without certificates (tls/bench.mjs)
 *   npm run bench -- encrypt [--quick]   a gigabyte for a device, beside plain age (encrypt.mjs)
 *   npm run bench -- signatures [--quick]   10 000 signatures in batches (signatures.mjs)
 *   npm run bench -- --json              one object on standard output
 *   npm run bench -- --quick             few rounds: to see that it runs, not what it says
 *
 * The exit code is 0 also where a row misses its "must": the table marks it.
 */
import { readFileSync } from 'node:fs'
import { cpus } from 'node:os'
import { pathToFileURL } from 'node:url'
import { engine } from '@milagro-ts/crypto/engine'
import { prepare, ROOT } from '../scripts/prepare.mjs'
import { measureLoad } from './load.mjs'
import { measure } from './measure.mjs'
import { initialiseMcl } from './references.mjs'
import { makeRows } from './rows.mjs'
import { measureSize } from './sizes.mjs'
import { TARGETS } from './targets.mjs'

/** @typedef {import('./measure.mjs').Figures} Figures */
/** @typedef {import('./measure.mjs').Effort} Effort */
/**
 * @typedef {object} Result
 * @property {string} op
 * @property {'us' | 'bytes'} unit
 * @property {number} ours
 * @property {Record<string, number>} references
 * @property {number} [ratio]  ours / mcl-wasm, one by one
 * @property {number} must
 * @property {number} aim
 */
/** @typedef {{node: string, cpu: string, engine: string, rows: Result[]}} Report */

/** @type {Effort} */
const FULL = { warmup: 20, rounds: 25, seconds: 4 }
/** @type {Effort} */
export const QUICK = { warmup: 0, rounds: 1, seconds: 0 }
/** A round of these verifies hundreds of logins. */
const HEAVY = { warmup: 2, rounds: 9, seconds: 4 }
const isHeavy = (/** @type {string} */ op) => op.startsWith('login-batch') || op === 'msm-256'

const rounded = (/** @type {number} */ value) => Number(value.toPrecision(4))

/**
 * @param {readonly string[]} ops
 * @param {'full' | 'quick'} effort
 * @param {(result: Result, figures: Record<string, Figures>) => void} [seen]  as each row is done
 * @returns {Promise<Report>}
 */
export async function runBenchmarks(ops, effort, seen) {
  await initialiseMcl()
  const made = makeRows()
  /** @type {Result[]} */
  const rows = []
  for (const { op, unit, must, aim } of TARGETS.filter(target => ops.includes(target.op))) {
    if (unit === 'bytes') {
      const { bytes } = await measureSize(op)
      /** @type {Result} */
      const result = { op, unit, ours: bytes, references: {}, must, aim }
      rows.push(result)
      seen?.(result, {})
      continue
    }
    const row = made[op]
    if (op !== 'load' && row === undefined) throw new Error(`no row ${op}`)
    const figures = /** @type {Record<string, Figures>} */ (
      row === undefined
        ? measureLoad(effort === 'quick' ? 1 : 11)
        : measure(op, row, effort === 'quick' ? QUICK : isHeavy(op) ? HEAVY : FULL)
    )
    const { ours, ...others } = Object.fromEntries(
      Object.entries(figures).map(([side, { median }]) => [side, median]),
    )
    const mcl = others['mcl-wasm']
    if (ours === undefined || mcl === undefined) throw new Error(`${op}: a side is missing`)
    /** @type {Result} */
    const result = {
      op,
      unit,
      ours: rounded(ours),
      references: Object.fromEntries(Object.entries(others).map(([side, value]) => [side, rounded(value)])),
      ratio: rounded(ours / mcl),
      must,
      aim,
    }
    rows.push(result)
    seen?.(result, figures)
  }
  return { node: process.version, cpu: cpus()[0]?.model ?? 'unknown', engine: engine().name, rows }
}

/** Against a row's targets. @param {Result} result */
export function mark({ unit, ours, ratio, must, aim }) {
  const reached = unit === 'bytes' ? ours : /** @type {number} */ (ratio)
  return reached <= aim ? 'aim' : reached <= must ? 'must' : 'MISSED'
}

const REFERENCES = ['mcl-wasm', 'mcl-wasm-batched', 'noble', 'blst']
const COLUMNS = ['row', 'ours', ...REFERENCES, 'ratio', 'must', 'aim', '']
const WIDTHS = [21, 17, 17, 17, 17, 17, 7, 6, 6, 6]
const line = (/** @type {readonly string[]} */ cells) =>
  cells.map((cell, i) => (i === 0 ? cell.padEnd(WIDTHS[0] ?? 0) : cell.padStart(WIDTHS[i] ?? 0))).join(' ')

/**
 * Median and, in brackets, p10.
 *
 * @param {Result} result
 * @param {Record<string, Figures>} figures
 */
function tableLine(result, figures) {
  const { op, unit, ours, references, ratio, must, aim } = result
  const timed = (/** @type {string} */ side) => {
    const { median, p10 } = figures[side] ?? {}
    return median === undefined || p10 === undefined ? '–' : `${median.toFixed(0)} (${p10.toFixed(0)})`
  }
  const cells =
    unit === 'bytes'
      ? [`${ours} B`, ...REFERENCES.map(() => '–'), '–', `${must / 1000}k`, `${aim / 1000}k`]
      : [
          timed('ours'),
          ...REFERENCES.map(side => (side in references ? timed(side) : '–')),
          (ratio ?? 0).toFixed(2),
          must.toFixed(2),
          aim.toFixed(2),
        ]
  return line([op, ...cells, mark(result)])
}

const version = (/** @type {string} */ name) =>
  JSON.parse(readFileSync(`${ROOT}node_modules/${name}/package.json`, 'utf8')).version

const USAGE = `npm run bench [-- [--json] [--quick] [row …]]
rows: ${TARGETS.map(({ op }) => op).join(', ')}`

/** @param {readonly string[]} args */
async function main(args) {
  if (args[0] === 'authority') {
    await prepare()
    const { runAuthority } = await import('./authority/bench.mjs')
    return runAuthority(args.slice(1))
  }
  if (args[0] === 'server') {
    await prepare()
    const { benchServer } = await import('./server/bench.mjs')
    process.exitCode = await benchServer(args.slice(1))
    return
  }
  if (args[0] === 'permits') {
    await prepare()
    const { benchPermits } = await import('./permits.mjs')
    process.exitCode = benchPermits(args.slice(1))
    return
  }
  if (args[0] === 'tls') {
    await prepare()
    const { benchTls } = await import('./tls/bench.mjs')
    process.exitCode = await benchTls(args.slice(1))
    return
  }
  if (args[0] === 'encrypt') {
    await prepare()
    const { benchEncrypt } = await import('./encrypt.mjs')
    process.exitCode = benchEncrypt(args.slice(1))
    return
  }
  if (args[0] === 'signatures') {
    await prepare()
    const { benchSignatures } = await import('./signatures.mjs')
    process.exitCode = benchSignatures(args.slice(1))
    return
  }
  const flags = args.filter(arg => arg.startsWith('--'))
  const names = args.filter(arg => !arg.startsWith('--'))
  const unknown = [
    ...flags.filter(flag => !['--json', '--quick'].includes(flag)),
    ...names.filter(name => !TARGETS.some(({ op }) => op === name)),
  ]
  if (unknown.length > 0) {
    const why = `unknown: ${unknown.join(', ')}`
    console.error(`${why}\n${USAGE}`)
    process.exitCode = 2
    return
  }
  await prepare()
  const json = flags.includes('--json')
  const ops = names.length > 0 ? names : TARGETS.map(({ op }) => op)
  if (!json) {
    const versions = ['mcl-wasm', '@noble/curves', '@chainsafe/blst'].map(name => `${name} ${version(name)}`)
    console.log(`Node ${process.version}, ${cpus()[0]?.model} × ${cpus().length}; engine: ${engine().name}`)
    console.log(`${versions.join(', ')}; microseconds, median (p10); ratio = ours / mcl-wasm\n`)
    console.log(line(COLUMNS))
  }
  const report = await runBenchmarks(ops, flags.includes('--quick') ? 'quick' : 'full', (result, figures) => {
    if (!json) console.log(tableLine(result, figures))
  })
  if (json) console.log(JSON.stringify(report))
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  await main(process.argv.slice(2))
}
