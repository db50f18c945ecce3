/**
 * `npm run bench -- authority`: one authority's process that serves many groups, on one core, with ledgers and logs of
 * a million devices. What it takes to start, how much memory it has in use, and how fast it answers.
 *
 *   npm run bench -- authority                           50 groups, 1 000 000 devices
 *   npm run bench -- authority --groups 5 --devices 5000 to see that it runs
 *   npm run bench -- authority --json
 *
 * The groups are founded over HTTP by the process itself; devices are put into its database while it is ended, and one log
 * is read to its end against its head, which shows that they are there as if it had issued. Then it is started on core 0 (`taskset`), with its own choice of workers, and asked from
 * here, on the other cores: by one connection after the other, group by group in turn.
 */
import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { createClient } from '@milagro-ts/api/call'
import { dtaAdminRoutes, dtaRoutes } from '@milagro-ts/api/dta-routes'
import { groupMake } from '@milagro-ts/api/founding'
import { proposalHash } from '@milagro-ts/api/group'
import { entryHashes, LogHead } from '@milagro-ts/api/issuance-log'
import { generateEs256, generateHpkeKey } from '@milagro-ts/api/keys'
import { Peaks } from '@milagro-ts/api/merkle-tree'
import { requestSigner } from '@milagro-ts/api/request-auth'
import { signPermitStatement, signTicket } from '@milagro-ts/api/statements'
import { systemClock, systemRandom } from '@milagro-ts/api/system'
import { equalBytes, toBase64Url } from '@milagro-ts/crypto/bytes'
import { enrolmentKeyHash } from '@milagro-ts/crypto/enrolment'
import { issueIdCore } from '@milagro-ts/crypto/identity'
import { SUITE } from '@milagro-ts/crypto/suite'
import { slotAt } from '@milagro-ts/crypto/time-permit'
import { subtreesOf } from '@milagro-ts/dta/issuance-log'
import { addToLedger } from '@milagro-ts/dta/ledger'
import { dtaMigrations } from '@milagro-ts/dta/tables'
import { openDatabase } from '@milagro-ts/store/database'

const MAIN = fileURLToPath(import.meta.resolve('@milagro-ts/dta/main'))
const PASSPHRASE = 'of a benchmark'
/** Devices in one transaction. */
const BLOCK = 1000
const UNLIMITED = { perSecond: 1_000_000, burst: 1_000_000 }
const SLOT = { origin: 1_767_225_600, length: 86_400 }
/** Megabytes. */
const MOST_MEMORY = 256

const rounded = (/** @type {number} */ value) => Number(value.toPrecision(4))
/** @param {number} begin */
const since = begin => rounded((performance.now() - begin) / 1000)

/** @typedef {import('@milagro-ts/api/group').Group} Group */
/** @typedef {{url: string, adminUrl: string, pid: number, seconds: number, end: () => Promise<void>}} Running */

/**
 * @param {string} config
 * @param {boolean} pinned
 * @returns {Promise<Running>}
 */
async function serve(config, pinned) {
  const begin = performance.now()
  const command = [process.execPath, MAIN, '--config', config]
  const [file = '', ...args] = pinned ? ['taskset', '-c', '0', ...command] : command
  const env = { ...process.env, MILAGRO_DTA_PASSPHRASE: PASSPHRASE }
  const child = spawn(file, args, { env, stdio: ['ignore', 'pipe', 'inherit'] })
  const ended = once(child, 'exit')
  const lines = createInterface({ input: /** @type {import('node:stream').Readable} */ (child.stdout) })
  for await (const line of lines) {
    const event = JSON.parse(line)
    if (event.event !== 'ready') continue
    return {
      ...event,
      seconds: since(begin),
      end: async () => {
        child.kill('SIGTERM')
        await ended
      },
    }
  }
  throw new Error('the authority ended before it was ready')
}

/** @param {string} config */
async function init(config) {
  const env = { ...process.env, MILAGRO_DTA_PASSPHRASE: PASSPHRASE }
  const child = spawn(process.execPath, [MAIN, '--config', config, '--init'], { env, stdio: 'ignore' })
  const [code] = await once(child, 'exit')
  if (code !== 0) throw new Error('the data folder was not made')
}

/** Megabytes in use now, and at most until now. @param {number} pid */
async function memoryOf(pid) {
  const text = await readFile(`/proc/${pid}/status`, 'utf8')
  const kilobytes = (/** @type {string} */ name) => Number(new RegExp(`${name}:\\s+(\\d+)`).exec(text)?.[1])
  return { now: rounded(kilobytes('VmRSS') / 1024), most: rounded(kilobytes('VmHWM') / 1024) }
}

/**
 * @param {Running} running
 * @param {string} dataDir
 * @param {number} count
 * @param {{ra: import('@milagro-ts/api/keys').Es256PrivateKey, rps: Rps}} others
 * @returns {Promise<Group[]>}
 */
async function foundGroups(running, dataDir, count, { ra, rps }) {
  const client = createClient(dtaRoutes, { baseUrl: running.url })
  const token = (await readFile(join(dataDir, 'admin-token'), 'utf8')).trim()
  const admin = createClient(dtaAdminRoutes, {
    baseUrl: running.adminUrl,
    authorize: async () => `Bearer ${token}`,
  })
  const { name, signKey, hpkeKey } = await client.authority({})
  /** @type {Group[]} */
  const groups = []
  for (let i = 0; i < count; i++) {
    /** @type {import('@milagro-ts/api/group-document').GroupProposal} */
    const proposal = {
      suite: SUITE,
      v: 1,
      n: 1,
      t: 1,
      authorities: [{ index: 1, name, url: running.url, signKey, hpkeKey }],
      ra: { m: 1, keys: [{ kid: 'ra1', key: ra.publicKey.toBase64Url() }] },
      recipients: [
        {
          name: 'rps',
          kind: 2,
          generation: 1,
          purposes: ['device', 'pin'],
          hpkeKey: toBase64Url(rps.hpkeKey.publicKey),
          requestKey: rps.requestKey.publicKey.toBase64Url(),
        },
      ],
      slot: SLOT,
      policy: { lead: 1, grace: 300 },
      firstSlot: 0,
      nonce: toBase64Url(systemRandom(32)),
    }
    await admin.accept({ body: { hash: toBase64Url(proposalHash(proposal)) } })
    groups.push(await groupMake({ proposal, clients: [client] }))
  }
  return groups
}
/** @typedef {{requestKey: import('@milagro-ts/api/keys').Es256PrivateKey, hpkeKey: import('@milagro-ts/api/keys').HpkeKeyPair}} Rps */

/** Devices into ledgers and logs, the groups in turn; seconds. @param {string} dataDir @param {readonly Group[]} groups @param {number} devices */
async function seed(dataDir, groups, devices) {
  const store = await openDatabase({ file: join(dataDir, 'dta.sqlite'), migrations: dtaMigrations })
  const begin = performance.now()
  const at = Math.floor(systemClock() / 1000)
  const each = Math.ceil(devices / groups.length)
  /** @type {Record<string, number>} */
  const issued = {}
  for (const { groupId } of groups) {
    /** @type {Uint8Array} */
    let previous = groupId
    /** The last complete subtree of each level. @type {Uint8Array[]} */
    const latest = []
    for (let from = 0; from < each; from += BLOCK)
      await store.atomic(connection => {
        const hashes = new Uint8Array(randomBytes(128 * BLOCK))
        for (let i = from; i < Math.min(each, from + BLOCK); i++) {
          const [identity, keyHash, ticketHash, idCoreHash] =
            /** @type {[Uint8Array, Uint8Array, Uint8Array, Uint8Array]} */ (
              [0, 32, 64, 96].map(at => hashes.slice(128 * (i - from) + at, 128 * (i - from) + at + 32))
            )
          addToLedger(connection, { groupId, identity, keyHash })
          const number = i + 1
          const [ticket, idCore] = [toBase64Url(ticketHash), toBase64Url(idCoreHash)]
          const { hash, leaf } = entryHashes(groupId, {
            number,
            at,
            purpose: 'device',
            ticketHash: ticket,
            idCoreHash: idCore,
            previous: toBase64Url(previous),
          })
          const subtrees = subtreesOf(number, leaf, level => /** @type {Uint8Array} */ (latest[level]))
          for (let level = 0; 32 * level < subtrees.length; level++)
            latest[level] = subtrees.slice(32 * level, 32 * (level + 1))
          connection.run(
            'INSERT INTO issuance (group_id, number, at, purpose, ticket_hash, id_core_hash, previous, hash, subtrees) ' +
              "VALUES (?, ?, ?, 'device', ?, ?, ?, ?, ?)",
            [groupId, number, at, ticketHash, idCoreHash, previous, hash, subtrees],
          )
          previous = hash
        }
      })
    issued[toBase64Url(groupId)] = each
  }
  await store.close()
  await writeFile(join(dataDir, 'issued.json'), JSON.stringify(issued))
  return since(begin)
}

/**
 * One call after the other, `width` at a time.
 *
 * @param {number} count
 * @param {number} width
 * @param {(i: number) => Promise<unknown>} call
 */
async function timed(count, width, call) {
  /** @type {number[]} */
  const times = []
  let next = 0
  const begin = performance.now()
  await Promise.all(
    Array.from({ length: width }, async () => {
      while (next < count) {
        const i = next++
        const started = performance.now()
        await call(i)
        times.push(performance.now() - started)
      }
    }),
  )
  const seconds = (performance.now() - begin) / 1000
  times.sort((a, b) => a - b)
  const at = (/** @type {number} */ share) => rounded(times[Math.floor(share * (times.length - 1))] ?? 0)
  return { calls: count, perSecond: rounded(count / seconds), p50: at(0.5), p99: at(0.99) }
}

/** @param {{groups: number, devices: number}} size */
export async function benchAuthority({ groups: count, devices }) {
  const folder = await mkdtemp(join(tmpdir(), 'milagro-bench-authority-'))
  const dataDir = join(folder, 'data')
  const config = join(folder, 'dta.json')
  /** @type {Running | undefined} */
  let running
  try {
    const listen = { host: '127.0.0.1', port: 0 }
    const rateLimit = { address: UNLIMITED, group: UNLIMITED }
    const settings = { name: 'ta1', listen, adminListen: listen, dataDir, rateLimit, logLevel: 'error' }
    await writeFile(config, JSON.stringify(settings))
    await init(config)
    const ra = await generateEs256()
    const rps = { requestKey: await generateEs256(), hpkeKey: await generateHpkeKey(systemRandom) }
    running = await serve(config, false)
    const documentUrl = running.url
    const founding = performance.now()
    const groups = await foundGroups(running, dataDir, count, { ra, rps })
    const foundedIn = since(founding)
    await running.end()
    running = undefined
    const seededIn = await seed(dataDir, groups, devices)

    const isPinned = cpus().length > 1
    running = await serve(config, isPinned)
    const { url, pid } = running
    const atStart = await memoryOf(pid)
    const client = createClient(dtaRoutes, { baseUrl: url })
    const groupOf = (/** @type {number} */ i) => /** @type {Group} */ (groups[i % groups.length])
    const params = (/** @type {number} */ i) => ({ groupId: toBase64Url(groupOf(i).groupId) })
    const size = Math.ceil(devices / count)

    const made = await Promise.all(Array.from({ length: 500 }, (_, i) => makeRequest(groupOf(i), ra, i)))
    const shares = await timed(made.length, 8, i =>
      client.shares({ params: params(i), body: { ticket: [made[i]?.ticket ?? ''], purpose: 'device' } }),
    )
    // An authority checks which address a request was made for: the one in the documents.
    const authorize = requestSigner({
      name: 'rps',
      key: rps.requestKey,
      clock: systemClock,
      random: systemRandom,
    })
    const asRps = createClient(dtaRoutes, {
      baseUrl: url,
      authorize: request => authorize({ ...request, url: request.url.replace(url, documentUrl) }),
    })
    const permits = await timed(made.length, 8, i =>
      asRps.permits({ params: params(i), body: { statement: made[i]?.statement ?? '' } }),
    )
    const heads = await timed(1000, 8, i => client.logHead({ params: params(i) }))
    const pages = await timed(200, 2, i =>
      client.log({ params: params(i), query: { from: String(1 + ((i * 500) % size)) } }),
    )
    const proofs = await timed(500, 8, i =>
      client.logConsistency({
        params: params(i),
        query: { before: String(1 + (i % size)), after: String(size) },
      }),
    )
    await readLog(client, groupOf(0))
    const memory = await memoryOf(pid)
    const bytes = (await stat(join(dataDir, 'dta.sqlite'))).size
    return {
      groups: count,
      devices,
      pinned: isPinned,
      foundedIn,
      seededIn,
      startedIn: running.seconds,
      databaseMb: rounded(bytes / 1_048_576),
      rssMb: { atStart: atStart.now, afterLoad: memory.now, most: memory.most },
      holds: memory.most <= MOST_MEMORY,
      shares,
      permits,
      heads,
      pages,
      proofs,
    }
  } finally {
    await running?.end()
    await rm(folder, { recursive: true })
  }
}

/** @param {Group} group @param {import('@milagro-ts/api/keys').Es256PrivateKey} ra @param {number} leaf */
async function makeRequest(group, ra, leaf) {
  const { publicKey } = await generateHpkeKey(systemRandom)
  const hpkeKeyHash = enrolmentKeyHash(publicKey)
  const idCore = issueIdCore({
    groupId: group.groupId,
    attributes: { brand: 'Trabant', model: '601' },
    instance: `VIN-${leaf}`,
    issueDate: '2026-10-28',
    enrolmentKeyHash: hpkeKeyHash,
    salt: systemRandom(16),
    leaf,
    generation: 0,
    factors: 0,
  })
  const iat = Math.floor(systemClock() / 1000)
  const common = {
    groupId: toBase64Url(group.groupId),
    idCore: idCore.mpinId,
    iat,
  }
  const signer = { key: ra, kid: 'ra1' }
  const ticket = await signTicket(
    {
      suite: SUITE,
      ...common,
      keyEpochs: { device: 1 },
      purposes: ['device'],
      hpkeKey: toBase64Url(publicKey),
      hpkeKeyHash: toBase64Url(hpkeKeyHash),
      exp: iat + 3600,
      jti: toBase64Url(systemRandom(16)),
    },
    signer,
  )
  const statement = await signPermitStatement(
    {
      suite: SUITE,
      ...common,
      keyEpoch: 1,
      slot: slotAt(SLOT, iat),
      banned: false,
      exp: iat + 60,
      jti: toBase64Url(systemRandom(16)),
    },
    signer,
  )
  return { ticket, statement }
}

/** From its beginning, against its head: an authority that answers fast must answer right. @param {import('@milagro-ts/api/call').Client<typeof dtaRoutes>} client @param {Group} group */
async function readLog(client, group) {
  const { groupId } = group
  const params = { groupId: toBase64Url(groupId) }
  const authority = /** @type {import('@milagro-ts/api/group').GroupAuthority} */ (group.authority(1))
  const { head: jws } = await client.logHead({ params })
  const head = await LogHead.verify(jws, { groupId, name: authority.name, signKey: authority.signKey })
  let peaks = Peaks.empty
  while (peaks.size < head.size) {
    const { entries } = await client.log({ params, query: { from: String(peaks.size + 1) } })
    for (const entry of entries.slice(0, head.size - peaks.size))
      peaks = peaks.append(entryHashes(groupId, entry).leaf)
  }
  if (!equalBytes(peaks.root, head.root)) throw new Error('the log is not that of its head')
}

/** @param {readonly string[]} args */
export async function runAuthority(args) {
  const numberOf = (/** @type {string} */ flag, /** @type {number} */ otherwise) =>
    args.includes(flag) ? Number(args[args.indexOf(flag) + 1]) : otherwise
  const result = await benchAuthority({
    groups: numberOf('--groups', 50),
    devices: numberOf('--devices', 1_000_000),
  })
  if (args.includes('--json')) return console.log(JSON.stringify(result))
  const { shares, permits, heads, pages, proofs, ...rest } = result
  console.log(JSON.stringify(rest, null, 2))
  console.table({ shares, permits, heads, pages, proofs })
}
