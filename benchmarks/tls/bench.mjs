/**
 * `npm run bench -- tls`: TLS without certificates against ECDSA P-256 and a static PSK, node:tls at both ends of all of
 * them, client and server in processes of their own.
 *
 *   --quick       few handshakes: to see that it runs
 *   --json        one object
 *   --only KIND   that kind's handshakes alone, as long as it is told to: for a profiler
 */
import { execFileSync, fork } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { relaxedSimdFlags } from '../../packages/crypto/dist/fma-kernels.js'
import { NO_TICKETS } from '../../packages/tls/dist/tickets.js'
import { figures } from '../measure.mjs'
import { KINDS } from './world.mjs'

/** @typedef {import('./world.mjs').Kind} Kind */
/** @typedef {import('./world.mjs').Cpu} Cpu */
/** @typedef {{warm: number, rounds: number, count: number, idle: number, bulk: number}} Effort */

/** @type {Effort} */
const FULL = { warm: 6_000, rounds: 15, count: 1_000, idle: 1_000, bulk: 256 * 1_048_576 }
/** @type {Effort} */
export const QUICK = { warm: 4, rounds: 1, count: 4, idle: 8, bulk: 4 * 1_048_576 }
/** Handshakes at once. */
const WIDTH = 4

/** What is aimed at; microseconds, and ratios of CPU and of time. "Equal" in bulk is within what two runs differ by. */
const AIMS = { firstServerUs: 2_000, repeatedToPsk: 1.2, bulkToPsk: 1.05 }

/** @param {readonly string[]} args */
const openssl = args => execFileSync('openssl', args, { stdio: ['ignore', 'pipe', 'pipe'] })

/**
 * A server's and a client's certificate, as short as they come, each by a CA of its own: OpenSSL would send a CA that it
 * trusts itself along with the certificate.
 *
 * @returns {import('./world.mjs').Certificates}
 */
function makeCertificates() {
  const folder = mkdtempSync(join(tmpdir(), 'milagro-bench-tls-'))
  const at = (/** @type {string} */ name) => join(folder, name)
  const text = (/** @type {string} */ name) => readFileSync(at(name), 'utf8')
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes']
  const signed = (/** @type {string} */ name, /** @type {string} */ subject) => {
    const [ca, caKey] = [at(`${name}-ca.pem`), at(`${name}-ca.key`)]
    openssl(['req', '-x509', ...key, '-subj', '/CN=ca', '-keyout', caKey, '-out', ca])
    openssl([
      'req',
      ...key,
      '-subj',
      `/CN=${subject}`,
      '-keyout',
      at(`${name}.key`),
      '-out',
      at(`${name}.csr`),
    ])
    writeFileSync(at('extensions'), `subjectAltName=DNS:${subject}\n`)
    const files = ['-in', at(`${name}.csr`), '-extfile', at('extensions'), '-out', at(`${name}.pem`)]
    openssl(['x509', '-req', '-CA', ca, '-CAkey', caKey, '-CAcreateserial', ...files])
    return { key: text(`${name}.key`), cert: text(`${name}.pem`), ca: text(`${name}-ca.pem`) }
  }
  try {
    return { server: signed('server', 'gw.example'), client: signed('client', 'device-1') }
  } finally {
    rmSync(folder, { recursive: true })
  }
}

/** A process that does one task after the other. @param {string} file */
function start(file) {
  const path = fileURLToPath(new URL(file, import.meta.url))
  // As TLS servers here are started; none of the kinds sends a session ticket then.
  const child = fork(path, { execArgv: ['--expose-gc', NO_TICKETS, ...relaxedSimdFlags()] })
  const ended = once(child, 'exit')
  return {
    /** @param {string} task @param {unknown} [input] @returns {Promise<any>} */
    async ask(task, input) {
      const answer = once(child, 'message')
      child.send({ task, input })
      const [message] = await Promise.race([
        answer,
        ended.then(([code]) => {
          throw new Error(`${file} ended with ${code}`)
        }),
      ])
      return message.done
    },
    async end() {
      child.disconnect()
      await ended
    },
  }
}

/** @typedef {ReturnType<typeof start>} Process */

/** All three processes, ready. */
async function pair() {
  const rps = start('rps.mjs')
  const server = start('server.mjs')
  const client = start('client.mjs')
  // Below the order of the group, and not zero.
  const secret = Buffer.concat([Buffer.of(1), randomBytes(31)]).toString('hex')
  const certificates = makeCertificates()
  const rpsUrl = await rps.ask('listen', { secret })
  const ports = await server.ask('listen', { secret, rpsUrl, certificates })
  await client.ask('listen', { secret, certificates, ports })
  const end = () => Promise.all([client.end(), server.end(), rps.end()])
  return { server, client, end }
}

/** @param {Cpu} cpu */
const sum = ({ user, system }) => user + system

/**
 * Microseconds of each side and in all for one handshake.
 *
 * @param {{server: Process, client: Process}} at
 * @param {Kind} kind
 * @param {number} count
 */
async function handshakes({ server, client }, kind, count) {
  await client.ask('prepare', { kind, count })
  const before = sum(await server.ask('cpu'))
  const { ms, cpu, bytes } = await client.ask('handshakes', { kind, count, width: WIDTH })
  const serverUs = (sum(await server.ask('cpu')) - before) / count
  return { serverUs, clientUs: sum(cpu) / count, perSecond: (count * 1000) / ms, bytes }
}

const isSlow = (/** @type {Kind} */ kind) => ['first', 'first-ahead', 'psk-paced'].includes(kind)

const rounded = (/** @type {number} */ value) => Number(value.toPrecision(4))
const median = (/** @type {number[]} */ samples) => rounded(figures(samples).median)
const p10 = (/** @type {number[]} */ samples) => rounded(figures(samples).p10)

/** Where a side takes three milliseconds for each, so many fewer make a sample. */
const SLOW = 5

/** @param {Effort} effort */
async function measureHandshakes({ warm, rounds, count }) {
  const at = await pair()
  try {
    /** @type {Map<Kind, Awaited<ReturnType<typeof handshakes>>[]>} */
    const samples = new Map(KINDS.map(kind => [kind, []]))
    // A server runs for days: its code has been compiled by what went before, that of the slow ones as well.
    for (const kind of KINDS) await handshakes(at, kind, warm)
    const many = (/** @type {Kind} */ kind) => (isSlow(kind) ? Math.ceil(count / SLOW) : count)
    for (let round = 0; round < rounds; round++)
      for (let i = 0; i < KINDS.length; i++) {
        const kind = /** @type {Kind} */ (KINDS[(i + round) % KINDS.length])
        samples.get(kind)?.push(await handshakes(at, kind, many(kind)))
      }
    return [...samples].map(([kind, all]) => ({
      kind,
      serverUs: median(all.map(({ serverUs }) => serverUs)),
      clientUs: median(all.map(({ clientUs }) => clientUs)),
      perSecond: median(all.map(({ perSecond }) => perSecond)),
      bytes: all.at(-1)?.bytes ?? 0,
      p10: {
        serverUs: p10(all.map(({ serverUs }) => serverUs)),
        clientUs: p10(all.map(({ clientUs }) => clientUs)),
      },
    }))
  } finally {
    await at.end()
  }
}

/** Bytes of the server's memory that an idle connection takes, each kind in a process of its own. @param {Effort} effort */
async function measureIdle({ idle }) {
  const rows = []
  for (const kind of KINDS.filter(kind => !['repeated', 'psk-paced', 'first-ahead'].includes(kind))) {
    const at = await pair()
    try {
      // Code and pools have grown by then.
      await handshakes(at, kind, Math.min(idle, 100))
      await at.client.ask('prepare', { kind, count: idle })
      const before = await at.server.ask('memory')
      await at.client.ask('hold', { kind, count: idle })
      const after = await at.server.ask('memory')
      if (after.open - before.open !== idle)
        throw new Error(`${after.open} connections are open, not ${idle}`)
      rows.push({ kind, connections: idle, bytesEach: Math.round((after.rss - before.rss) / idle) })
      await at.client.ask('release')
    } finally {
      await at.end()
    }
  }
  return rows
}

/** Megabytes a second from server to client. @param {Effort} effort */
async function measureBulk({ rounds, bulk }) {
  const at = await pair()
  try {
    await at.server.ask('bulk', bulk)
    const kinds = /** @type {const} */ (['psk', 'repeated'])
    /** @type {Record<string, number[]>} */
    const rates = { psk: [], repeated: [] }
    for (let round = 0; round <= rounds; round++)
      for (const kind of round % 2 === 0 ? kinds : [...kinds].reverse()) {
        const { ms } = await at.client.ask('receive', { kind, bytes: bulk })
        if (round > 0) rates[kind]?.push(bulk / 1_000 / ms)
      }
    return kinds.map(kind => ({
      kind,
      megabytesPerSecond: median(rates[kind] ?? []),
      p10: p10(rates[kind] ?? []),
    }))
  } finally {
    await at.end()
  }
}

/** @param {Effort} effort */
export async function measureTls(effort) {
  const rows = await measureHandshakes(effort)
  const idle = await measureIdle(effort)
  const bulk = await measureBulk(effort)
  const of = (/** @type {Kind} */ kind) =>
    /** @type {(typeof rows)[number]} */ (rows.find(row => row.kind === kind))
  const [mutual, psk, repeated] = [of('p256-mutual'), of('psk'), of('repeated')]
  const [first, ahead] = [of('first'), of('first-ahead')]
  const rate = (/** @type {Kind} */ kind) => bulk.find(row => row.kind === kind)?.megabytesPerSecond ?? 0
  const aims = [
    {
      aim: 'first handshake, the server waits: its CPU, µs',
      reached: first.serverUs,
      most: AIMS.firstServerUs,
    },
    {
      aim: 'first handshake, the server has others: its CPU, µs',
      reached: ahead.serverUs,
      most: AIMS.firstServerUs,
    },
    {
      aim: 'repeated to static PSK: CPU of the server',
      reached: repeated.serverUs / psk.serverUs,
      most: AIMS.repeatedToPsk,
    },
    {
      aim: 'repeated to static PSK: CPU of the client',
      reached: repeated.clientUs / psk.clientUs,
      most: AIMS.repeatedToPsk,
    },
    { aim: 'bytes of a handshake', reached: Math.max(first.bytes, repeated.bytes), most: mutual.bytes },
    { aim: 'repeated: CPU of the server, µs', reached: repeated.serverUs, most: mutual.serverUs },
    { aim: 'repeated: CPU of the client, µs', reached: repeated.clientUs, most: mutual.clientUs },
    { aim: 'bulk to static PSK: time', reached: rate('psk') / rate('repeated'), most: AIMS.bulkToPsk },
  ].map(({ aim, reached, most }) => ({
    aim,
    reached: rounded(reached),
    most: rounded(most),
    met: reached <= most,
  }))
  const { node, openssl: library } = process.versions
  return { node: `v${node}`, openssl: library, cpu: cpus()[0]?.model ?? 'unknown', rows, idle, bulk, aims }
}

/** @type {Readonly<Record<Kind, string>>} */
const TITLES = {
  p256: 'ECDSA P-256, the server alone',
  'p256-mutual': 'ECDSA P-256, both',
  psk: 'static PSK',
  'psk-paced': 'static PSK, clients as slow as of a first',
  first: 'without certificates, first',
  'first-ahead': 'without certificates, first, agreed ahead',
  repeated: 'without certificates, repeated',
}

/** @param {Awaited<ReturnType<typeof measureTls>>} report */
export function tlsTables({ rows, idle, bulk, aims }) {
  return [
    '| handshake | a second | server, µs of CPU (p10) | client, µs of CPU (p10) | bytes |',
    '|---|---|---|---|---|',
    ...rows.map(
      ({ kind, perSecond, serverUs, clientUs, bytes, p10: { serverUs: s10, clientUs: c10 } }) =>
        `| ${TITLES[kind]} | ${perSecond.toFixed(0)} | ${serverUs.toFixed(0)} (${s10.toFixed(0)}) | ${clientUs.toFixed(0)} (${c10.toFixed(0)}) | ${bytes} |`,
    ),
    '',
    `| ${idle[0]?.connections} idle connections | kB of the server’s memory each |`,
    '|---|---|',
    ...idle.map(({ kind, bytesEach }) => `| ${TITLES[kind]} | ${(bytesEach / 1000).toFixed(1)} |`),
    '',
    ...bulk.map(
      ({ kind, megabytesPerSecond, p10: low }) =>
        `Bulk, ${TITLES[kind]}: ${megabytesPerSecond.toFixed(0)} MB/s (p10 ${low.toFixed(0)})`,
    ),
    '',
    '| aim | reached | at most | |',
    '|---|---|---|---|',
    ...aims.map(
      ({ aim, reached, most, met }) => `| ${aim} | ${reached} | ${most} | ${met ? '' : 'MISSED'} |`,
    ),
  ]
}

const USAGE = `npm run bench -- tls [--json] [--quick] [--only ${KINDS.join('|')}]`

/** The exit code. @param {readonly string[]} args */
export async function benchTls(args) {
  const only = args.indexOf('--only')
  const kind = KINDS.find(one => only >= 0 && one === args[only + 1])
  const rest = args.filter((_, i) => only < 0 || (i !== only && i !== only + 1))
  const unknown = rest.filter(arg => !['--json', '--quick'].includes(arg))
  if (unknown.length > 0 || (only >= 0 && kind === undefined)) {
    console.error(`unknown: ${unknown.join(', ') || args[only + 1]}\n${USAGE}`)
    return 2
  }
  const effort = rest.includes('--quick') ? QUICK : FULL
  if (kind !== undefined) {
    const at = await pair()
    try {
      for (let round = 0; round <= effort.rounds; round++)
        console.log(JSON.stringify({ kind, ...(await handshakes(at, kind, effort.count)) }))
    } finally {
      await at.end()
    }
    return 0
  }
  const report = await measureTls(effort)
  if (rest.includes('--json')) console.log(JSON.stringify(report))
  else {
    console.log(`Node ${report.node}, OpenSSL ${report.openssl}, ${report.cpu} × ${cpus().length}\n`)
    for (const text of tlsTables(report)) console.log(text)
  }
  return 0
}
