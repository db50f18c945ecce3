/**
 * `npm run bench -- permits`: permits for nodes of the tree against one permit for each device, and against what others
 * do. Covers are computed in full; issuing is timed on a sample of nodes and the total *extrapolated*.
 *
 *   --quick   a few nodes, a small fleet: to see that it runs
 *   --json    one object
 */
import { createHash, generateKeyPairSync, sign, verify, X509Certificate } from 'node:crypto'
import { cpus } from 'node:os'
import { CryptoWorker } from '@milagro-ts/crypto/crypto-worker'
import { MOST_NODES } from '@milagro-ts/crypto/node-shares'
import { BannedLeaves } from '@milagro-ts/crypto/permit-tree'
import { G1, G2, PreparedG2 } from '@milagro-ts/crypto/points'
import { Scalar } from '@milagro-ts/crypto/scalar'
import { splitSecret } from '@milagro-ts/crypto/secret-sharing'
import {
  encodePermit,
  Permit,
  permitInput,
  permitPoint,
  VerifiedPermit,
} from '@milagro-ts/crypto/time-permit'
import { certificates } from './certificates.mjs'

/** @type {import('@milagro-ts/crypto/ports').Random} */
const random = length => crypto.getRandomValues(new Uint8Array(length))
const SLOT = 1_000
const T = 2
const N_AUTHORITIES = 3
/** Bytes of a permit as it is carried, and in a bundle. */
const BUNDLED = 53

/** A set of r leaves of 0…N−1, the same at every run. @param {number} N @param {number} r */
function drawn(N, r) {
  let state = 0x9e3779b9 ^ r
  const next = () => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return (state >>> 0) / 2 ** 32
  }
  const leaves = new Set()
  while (leaves.size < r) leaves.add(Math.floor(next() * N))
  return /** @type {Set<number>} */ (leaves)
}

/** Milliseconds and result. @template R @param {() => R} run */
function timed(run) {
  const begin = performance.now()
  const result = run()
  return { ms: performance.now() - begin, result }
}

/** Microseconds each, over `times`. @param {number} times @param {(i: number) => void} run */
function each(times, run) {
  for (let i = 0; i < Math.min(times, 3); i++) run(i)
  const { ms } = timed(() => {
    for (let i = 0; i < times; i++) run(i)
  })
  return (ms * 1000) / times
}

/** What one group's authorities and its RPS compute, single-threaded. */
function issuing(/** @type {import('@milagro-ts/crypto/permit-tree').TreeNode[]} */ nodes) {
  const s = Scalar.random(random)
  const shares = splitSecret(s, { t: T, n: N_AUTHORITIES }, random)
  const sQ = G2.generator.mulSecret(s)
  const terms = { groupId: new Uint8Array(32).fill(1), permitEpoch: 1, rule: { origin: 0, length: 86_400 } }
  const worker = new CryptoWorker({ random, identities: 1 })
  const jti = random(16)
  const issuers = shares.map(({ index, scalar }) => ({
    index,
    shareEpoch: 1,
    commitment: G1.generator.mulSecret(scalar).encode(),
    jti,
  }))
  let [authority, rps] = [0, 0]
  for (let from = 0; from < nodes.length; from += MOST_NODES) {
    const batch = { terms, slot: SLOT, nodes: nodes.slice(from, from + MOST_NODES) }
    const made = shares.slice(0, T).map(({ scalar }, j) => {
      const issuer = /** @type {(typeof issuers)[number]} */ (issuers[j])
      const { ms, result } = timed(() => worker.issueNodes({ batch, issuer, secret: scalar.encode() }))
      authority += ms / T
      return { issuer, shares: result }
    })
    const { ms, result } = timed(() => {
      const points = made.map(({ issuer, shares }) => {
        const point = worker.nodeSharesVerify({ batch, issuer, shares })
        if (point === null) throw new Error('a good share does not verify')
        return { index: issuer.index, point }
      })
      return worker.composePermits({ batch, publicKey: sQ.encode(), shares: points })
    })
    if (result.some(permit => permit === null)) throw new Error('good shares make no permit')
    rps += ms
  }
  const Q = PreparedG2.of(sQ)
  const target = /** @type {const} */ ({ type: 'node', depth: 20, index: 5 })
  const permit = Permit.of(SLOT, target, permitPoint(permitInput(terms, SLOT, target)).mulSecret(s))
  const carried = permit.encode()
  const check = each(50, () => {
    if (VerifiedPermit.verify(terms, Q, Permit.decode(carried)) === null) throw new Error('a good permit')
  })
  // Of an identity: a share with a proof of its own, as small groups have it.
  const count = Math.min(200, nodes.length)
  let [ownAuthority, ownRps] = [0, 0]
  for (let i = 0; i < count; i++) {
    const input = permitInput(terms, SLOT, { type: 'node', depth: 32, index: i })
    const statement = /** @type {const} */ ({ purpose: 'permit', input, ctx: jti })
    const made = shares.slice(0, T).map(({ scalar, index }, j) => {
      const full = {
        ...statement,
        commitment: /** @type {(typeof issuers)[number]} */ (issuers[j]).commitment,
      }
      const { ms, result } = timed(() => worker.issue({ statement: full, secret: scalar.encode() }))
      ownAuthority += ms / T
      return { full, index, share: result }
    })
    ownRps += timed(() => {
      const points = made.map(({ full, index, share }) => {
        const point = worker.shareVerify({ statement: full, share })
        if (point === null) throw new Error('a good share does not verify')
        return { index, point }
      })
      const point = worker.combine(points)
      const wire = encodePermit(SLOT, { type: 'node', depth: 32, index: i }, point)
      const [holds] = worker.permits([{ terms, publicKey: sQ.encode(), permit: wire }])
      if (holds !== true) throw new Error('a good permit')
    }).ms
  }
  const us = (/** @type {number} */ ms, /** @type {number} */ n) => (ms * 1000) / n
  return {
    nodes: nodes.length,
    carriedBytes: carried.length,
    authorityUs: us(authority, nodes.length),
    rpsUs: us(rps, nodes.length),
    identityAuthorityUs: us(ownAuthority, count),
    identityRpsUs: us(ownRps, count),
    checkUs: check,
  }
}

/** An ES256 signature of 200 bytes, as a staple, a certificate or a list carries one. */
function ecdsa() {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const message = random(200)
  const signature = sign('sha256', message, privateKey)
  return {
    signUs: each(500, () => void sign('sha256', message, privateKey)),
    verifyUs: each(500, () => {
      if (!verify('sha256', message, publicKey, signature)) throw new Error('a good signature')
    }),
  }
}

/** Bytes and check of a device's certificate, parsed each time, and of a staple; null without openssl. */
function carriedByOthers() {
  const made = certificates()
  if (made === null) return null
  const { device, authority, stapleBytes } = made
  return {
    certificateBytes: device.length,
    stapleBytes,
    certificateUs: each(500, () => {
      if (!new X509Certificate(device).verify(authority)) throw new Error('a good certificate')
    }),
  }
}

/** Bits of one level for `members` at false-positive rate p. */
const bits = (/** @type {number} */ members, /** @type {number} */ p) =>
  Math.max(8, Math.ceil(1.44 * members * Math.log2(1 / p)))

/**
 * A cascade of Bloom filters (CRLite: Larisch et al., IEEE S&P 2017, §III): level 1 of the revoked with p = r/(√2·(N−r)),
 * each further one of the former's false positives with p = 1/2.
 */
function cascadeBytes(/** @type {number} */ N, /** @type {number} */ r) {
  if (r === 0) return 0
  let total = bits(r, Math.min(0.5, r / (Math.SQRT2 * (N - r))))
  for (let members = r / Math.SQRT2; members >= 1; members /= Math.SQRT2) total += bits(members, 0.5)
  return Math.ceil(total / 8)
}

/** The same, built: its bytes, and microseconds for a look-up. Small fleets alone: everybody has to be asked. */
function builtCascade(/** @type {number} */ N, /** @type {Set<number>} */ revoked) {
  const positions = (
    /** @type {number} */ leaf,
    /** @type {number} */ level,
    /** @type {{size: number, k: number}} */ f,
  ) => {
    const hash = createHash('sha256').update(`${level} ${leaf}`).digest()
    return Array.from({ length: f.k }, (_, i) => hash.readUInt32BE(4 * (i % 8)) % f.size)
  }
  /** @type {{data: Uint8Array, size: number, k: number}[]} */
  const levels = []
  const has = (/** @type {number} */ leaf, /** @type {number} */ level) => {
    const f = /** @type {(typeof levels)[number]} */ (levels[level])
    return positions(leaf, level, f).every(at => ((f.data[at >>> 3] ?? 0) >> (at & 7)) & 1)
  }
  let members = [...revoked]
  let others = Array.from({ length: N }, (_, leaf) => leaf).filter(leaf => !revoked.has(leaf))
  for (let level = 0; members.length > 0; level++) {
    const p = level === 0 ? Math.min(0.5, members.length / (Math.SQRT2 * others.length)) : 0.5
    const size = bits(members.length, p)
    const f = {
      data: new Uint8Array(Math.ceil(size / 8)),
      size,
      k: Math.max(1, Math.min(8, Math.round(Math.log2(1 / p)))),
    }
    levels.push(f)
    for (const leaf of members)
      for (const at of positions(leaf, level, f)) f.data[at >>> 3] = (f.data[at >>> 3] ?? 0) | (1 << (at & 7))
    const wrong = others.filter(leaf => has(leaf, level))
    others = members
    members = wrong
  }
  const lookup = (/** @type {number} */ leaf) => {
    let level = 0
    while (level < levels.length && has(leaf, level)) level++
    return level % 2 === 1
  }
  for (const leaf of [...revoked].slice(0, 200)) if (!lookup(leaf)) throw new Error('the cascade misses one')
  const lookupUs = each(2_000, i => void lookup(i % N))
  return { bytes: levels.reduce((sum, { data }) => sum + data.length, 0), levels: levels.length, lookupUs }
}

const SETS = {
  fleets: [1e6, 1e7, 1e8],
  bans: [0, 1e3, 1e4, 1e5],
  sample: 20_000,
  built: 1e6,
  kept: [1e6, 3e6],
}
const SMALL = { fleets: [1e4], bans: [0, 10, 100], sample: 256, built: 1e4, kept: [1e4] }

/** @param {{quick: boolean}} options */
export function measurePermits({ quick }) {
  const { fleets, bans, sample, built, kept } = quick ? SMALL : SETS
  const covers = fleets.flatMap(N =>
    bans.map(r => {
      const leaves = [...drawn(N, r)]
      const { ms: setMs, result: banned } = timed(() => BannedLeaves.of(leaves))
      const { ms: coverMs, result: cover } = timed(() => banned.cover())
      return {
        N,
        r,
        nodes: cover.length,
        setMs,
        coverMs,
        stateBytes: 4 * r,
        bundleBytes: BUNDLED * cover.length,
      }
    }),
  )
  const [N = 0] = fleets.slice(-1)
  const [r = 0] = bans.slice(-2)
  const cover = BannedLeaves.of(drawn(N, r)).cover()
  const made = issuing(cover.slice(0, sample))
  const rows = covers.map(row => ({
    ...row,
    authoritySeconds: (row.nodes * made.authorityUs) / 1e6,
    rpsSeconds: (row.nodes * made.rpsUs) / 1e6,
    identityAuthoritySeconds: (row.N * made.identityAuthorityUs) / 1e6,
    cascadeBytes: cascadeBytes(row.N, row.r),
  }))
  // Leaves that stay banned until their key epoch ends: the set of years.
  const years = kept.map(r => {
    const { ms, result } = timed(() => BannedLeaves.of(drawn(N, r)).cover())
    return { N, r, nodes: result.length, ms, stateBytes: 4 * r, bundleBytes: BUNDLED * result.length }
  })
  // The same number, the oldest ones: revoked together, they leave one gap.
  const together = kept.map(r => ({
    N,
    r,
    nodes: BannedLeaves.of(Array.from({ length: r }, (_, i) => i)).cover().length,
  }))
  return {
    node: process.version,
    cpu: cpus()[0]?.model ?? 'unknown',
    made,
    ecdsa: ecdsa(),
    others: carriedByOthers(),
    cascade: bans
      .filter(bans => bans > 0)
      .map(r => ({ N: built, r, ...builtCascade(built, drawn(built, r)), modelled: cascadeBytes(built, r) })),
    rows,
    years,
    together,
  }
}

const size = (/** @type {number} */ bytes) =>
  bytes < 1e3
    ? `${bytes} B`
    : bytes < 1e6
      ? `${(bytes / 1e3).toFixed(1)} kB`
      : `${(bytes / 1e6).toFixed(1)} MB`
const duration = (/** @type {number} */ seconds) =>
  seconds < 1
    ? `${(seconds * 1000).toFixed(1)} ms`
    : seconds < 600
      ? `${seconds.toFixed(1)} s`
      : `${(seconds / 3600).toFixed(1)} h`

/** @param {ReturnType<typeof measurePermits>} report */
export function permitTables({ made, ecdsa: signed, others, cascade, rows, years, together }) {
  return [
    `Issuing, ${made.nodes} nodes, one thread, ${T} of ${N_AUTHORITIES}: an authority ${made.authorityUs.toFixed(0)} µs a node, the RPS ${made.rpsUs.toFixed(0)} µs a node.`,
    `One for each identity: an authority ${made.identityAuthorityUs.toFixed(0)} µs, the RPS ${made.identityRpsUs.toFixed(0)} µs each.`,
    `A carried permit: ${made.carriedBytes} bytes, checked in ${made.checkUs.toFixed(0)} µs. ES256: sign ${signed.signUs.toFixed(0)} µs, verify ${signed.verifyUs.toFixed(0)} µs.`,
    others === null
      ? 'No openssl here: neither certificates nor staples.'
      : `A device's certificate: ${others.certificateBytes} bytes, parsed and checked in ${others.certificateUs.toFixed(0)} µs; an OCSP staple: ${others.stapleBytes} bytes, one ES256 check more.`,
    '',
    '| leaves | bans | nodes | cover | leaves, bytes | bundle | an authority, *extrapolated* | RPS, *extrapolated* | one for each: an authority, *extrapolated* |',
    '|---|---|---|---|---|---|---|---|---|',
    ...rows.map(
      row =>
        `| ${`10^${Math.log10(row.N)}`} | ${row.r} | ${row.nodes} | ${row.coverMs.toFixed(1)} ms | ${size(row.stateBytes)} | ${size(row.bundleBytes)} | ${duration(row.authoritySeconds)} | ${duration(row.rpsSeconds)} | ${duration(row.identityAuthoritySeconds)} |`,
    ),
    '',
    '| leaves | bans | signed list | filter cascade, modelled |',
    '|---|---|---|---|',
    ...rows
      .filter(({ r }) => r > 0)
      .map(row => `| ${row.N} | ${row.r} | ${size(row.stateBytes + 64)} | ${size(row.cascadeBytes)} |`),
    '',
    ...cascade.map(
      built =>
        `Filter cascade built for ${built.N} and ${built.r}: ${size(built.bytes)} (modelled ${size(built.modelled)}), ${built.levels} levels, ${built.lookupUs.toFixed(1)} µs a look-up.`,
    ),
    '',
    '| leaves | revoked so far | nodes | cover | leaves, bytes | bundle | nodes if they are neighbours |',
    '|---|---|---|---|---|---|---|',
    ...years.map(
      (row, i) =>
        `| ${row.N} | ${row.r} | ${row.nodes} | ${row.ms.toFixed(0)} ms | ${size(row.stateBytes)} | ${size(row.bundleBytes)} | ${together[i]?.nodes} |`,
    ),
  ]
}

/** The exit code. @param {readonly string[]} args */
export function benchPermits(args) {
  const unknown = args.filter(arg => !['--json', '--quick'].includes(arg))
  if (unknown.length > 0) {
    console.error(`unknown: ${unknown.join(', ')}\nnpm run bench -- permits [--json] [--quick]`)
    return 2
  }
  const report = measurePermits({ quick: args.includes('--quick') })
  if (args.includes('--json')) console.log(JSON.stringify(report))
  else {
    console.log(`Node ${report.node}, ${report.cpu} × ${cpus().length}\n`)
    for (const text of permitTables(report)) console.log(text)
  }
  return 0
}
