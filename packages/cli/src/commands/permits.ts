/** `milagro permits`: a slot's permits made in one go, put up as files, checked as anyone can. */
import { mkdir, readFile } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { Group } from '@milagro-ts/api/group'
import { createLog } from '@milagro-ts/api/log'
import { createMetrics } from '@milagro-ts/api/metrics'
import { PermitBundle, type Read } from '@milagro-ts/api/permit-bundle'
import { systemTimers } from '@milagro-ts/api/system'
import { cacheReader } from '@milagro-ts/client/permit-cache'
import { toBase64Url } from '@milagro-ts/crypto/bytes'
import { CryptoPool } from '@milagro-ts/crypto/node-pool'
import type { G2 } from '@milagro-ts/crypto/points'
import { slotAt } from '@milagro-ts/crypto/time-permit'
import { loadRpsConfig, readPassphrase } from '@milagro-ts/rps/config'
import { Issuing } from '@milagro-ts/rps/issuing'
import { rpsMigrations } from '@milagro-ts/rps/tables'
import { openDatabase } from '@milagro-ts/store/database'
import { writeFileAtomic } from '@milagro-ts/store/sealed-file'
import type { Command } from 'commander'
import { answers, CommandRefused, hashOf, type Io, readJsonFile, UsageError } from '../io.js'

/** Permits whose checks are handed to the workers at once. */
const CHUNK = 512
/** Milliseconds between two lines of progress. */
const TELL_EVERY = 1_000

interface WorkOptions {
  readonly config: string
  readonly work: string
  readonly ahead: string
  readonly workers?: string
}
interface VerifyOptions {
  readonly group: string
  readonly groupId: string
  readonly ahead: string
  readonly least: string
  readonly workers?: string
}

export function addPermits(program: Command, io: Io): void {
  const permits = program
    .command('permits')
    .description('permits for nodes of the tree, a whole slot’s at once; the RPS makes them by itself, too')
  const verb = (name: string, description: string) =>
    permits
      .command(name)
      .description(description)
      .option('--ahead <slots>', 'of the slot so many after the current one', '0')
      .option('--workers <threads>', 'one less than there are processors, but at least one, unless said')
  const working = (name: string, description: string) =>
    verb(name, description)
      .requiredOption('--config <file>', 'settings of the RPS, whose keys and name are used')
      .requiredOption('--work <folder>', 'what is done so far; the same folder again goes on')

  answers(
    io,
    working('issue', 'ask the authorities for every permit of the cover that is missing; may be interrupted'),
    async (options: WorkOptions) =>
      withIssuing(io, options, async (issuing, slot) => {
        const state = await issuing.issue(slot, teller(io, 'issued'))
        const { length } = state.leaves.cover()
        return {
          json: { slot, number: state.number, banned: state.leaves.size, permits: length },
          text: [
            `slot ${slot}: ${length} permits, ${state.leaves.size} leaves banned (state ${state.number})`,
          ],
        }
      }),
  )

  answers(
    io,
    working('publish', 'write a slot’s permits as signed files for any HTTP server').requiredOption(
      '--out <folder>',
      'where the files go; serve it as it is',
    ),
    async (options: WorkOptions & { out: string }) =>
      withIssuing(io, options, async (issuing, slot) => {
        await mkdir(options.out, { recursive: true })
        let bytes = 0
        const { number, nodes, parts } = await issuing.bundle(slot, async (name, content) => {
          await writeFileAtomic(join(options.out, name), content, 0o644)
          bytes += content.length
        })
        return {
          json: { slot, number, permits: nodes, parts: parts.length, bytes, out: options.out },
          text: [
            `slot ${slot}: ${nodes} permits in ${parts.length} parts, ${bytes} bytes, in ${options.out}`,
          ],
        }
      }),
  )

  answers(
    io,
    verb('verify', 'check every signature, hash and permit of a bundle')
      .argument('<place>', 'folder or address')
      .requiredOption('--group <file>', 'the group’s documents, first revision first')
      .requiredOption('--group-id <id>', 'the groupId that is pinned')
      .option('--least <number>', 'refuse a state of the banned leaves below this number', '0'),
    async (place: string, options: VerifyOptions) => {
      const group = await Group.verifyFile(readJsonFile(options.group))
      if (toBase64Url(group.groupId) !== hashOf(options.groupId, '--group-id'))
        throw new CommandRefused(`this is group ${toBase64Url(group.groupId)}`)
      const slot = slotAhead(group, options.ahead, io)
      const least = numberOf(options.least, '--least')
      const bundle = await PermitBundle.open({ group, slot, least, read: readerOf(place, io) })
      const pool = poolOf(options.workers, io)
      try {
        await verifyAll(bundle, group, pool, teller(io, 'verified'))
      } finally {
        await pool.close()
      }
      const { number, leaves } = bundle.state
      return {
        json: { valid: true, slot, number, banned: leaves.size, permits: bundle.cover.length },
        text: [
          `valid: slot ${slot}, ${bundle.cover.length} permits, ${leaves.size} leaves banned (state ${number})`,
        ],
      }
    },
  )
}

async function verifyAll(
  bundle: PermitBundle,
  group: Group,
  pool: CryptoPool,
  progress: (done: number, all: number) => void,
): Promise<void> {
  const keys = group.keysAt('permit', bundle.slot)
  if (keys === null) throw new CommandRefused('the group begins later')
  const terms = { groupId: group.groupId, permitEpoch: keys.epoch, rule: group.slotRule }
  const publicKey = (keys.pub as G2).encode()
  let done = 0
  for (let place = 0; place < bundle.parts; place++) {
    const entries = await bundle.part(place)
    for (let from = 0; from < entries.length; from += CHUNK) {
      const chunk = entries.slice(from, from + CHUNK)
      const verdicts = await Promise.all(chunk.map(({ permit }) => pool.permit({ terms, publicKey, permit })))
      const wrong = chunk[verdicts.indexOf(false)]
      if (wrong !== undefined)
        throw new CommandRefused(`the permit of node ${wrong.node.depth}/${wrong.node.index} does not verify`)
      done += chunk.length
      progress(done, bundle.cover.length)
    }
  }
}

async function withIssuing<T>(
  io: Io,
  { config: file, work, ahead, workers }: WorkOptions,
  use: (issuing: Issuing, slot: number) => Promise<T>,
): Promise<T> {
  const config = loadRpsConfig(file, io.env)
  const passphrase = readPassphrase(io.env)
  await mkdir(work, { recursive: true })
  const store = await openDatabase<unknown>({ file: join(work, 'permits.sqlite'), migrations: rpsMigrations })
  const pool = poolOf(workers, io)
  try {
    const issuing = await Issuing.open({
      config,
      passphrase,
      store,
      pool,
      // One batch at the authorities while another is checked here.
      atOnce: 1 + threadsOf(workers),
      clock: io.clock,
      random: io.random,
      timers: systemTimers,
      fetch: io.fetch,
      log: createLog('permits', { level: 'silent' }),
      metrics: createMetrics('milagro_permits'),
    })
    try {
      if (issuing.group.policy.permits !== 'tree')
        throw new CommandRefused('the group’s permits are for one identity each (policy.permits)')
      return await use(issuing, slotAhead(issuing.group, ahead, io))
    } finally {
      await issuing.close()
    }
  } finally {
    await pool.close()
    await store.close()
  }
}

function poolOf(workers: string | undefined, { random, clock }: Io): CryptoPool {
  return CryptoPool.start({ workers: threadsOf(workers), random, clock, timers: systemTimers })
}

function threadsOf(workers: string | undefined): number {
  return workers === undefined ? Math.max(1, availableParallelism() - 1) : numberOf(workers, '--workers')
}

function slotAhead({ slotRule }: Group, ahead: string, { clock }: Io): number {
  return slotAt(slotRule, Math.floor(clock() / 1000)) + numberOf(ahead, '--ahead')
}

function numberOf(text: string, flag: string): number {
  if (!/^[0-9]{1,9}$/.test(text)) throw new UsageError(`${flag} wants a number`)
  return Number(text)
}

function readerOf(place: string, { fetch }: Io): Read {
  if (!/^https?:/i.test(place))
    return async name => {
      try {
        return new Uint8Array(await readFile(join(place, name)))
      } catch (error) {
        throw new CommandRefused(
          `cannot read '${name}' (${(error as NodeJS.ErrnoException).code ?? 'error'})`,
        )
      }
    }
  return cacheReader(place, fetch)
}

/** One line a second on the error stream, and the last one. */
function teller({ err, clock }: Io, what: string): (done: number, all: number) => void {
  let told = Number.NEGATIVE_INFINITY
  return (done, all) => {
    if (done < all && clock() < told + TELL_EVERY) return
    told = clock()
    err(`${what} ${done} of ${all}\n`)
  }
}
