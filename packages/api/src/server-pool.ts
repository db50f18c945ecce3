/** The worker pool as servers run it: how many threads, what is counted and logged, and the group document's checks in it. */
import { availableParallelism } from 'node:os'
import type { DealingBytes } from '@milagro-ts/crypto/crypto-worker'
import type { Dealing } from '@milagro-ts/crypto/dealing'
import { CryptoPool, type PoolOptions } from '@milagro-ts/crypto/node-pool'
import { G1, G2 } from '@milagro-ts/crypto/points'
import type { Clock, Random } from '@milagro-ts/crypto/ports'
import type { PointShare } from '@milagro-ts/crypto/secret-sharing'
import type { CeremonyArithmetic } from './ceremony.js'
import type { FoundingArithmetic } from './founding.js'
import type { KeyCheck } from './group.js'
import type { Log } from './log.js'
import type { Metrics } from './metrics.js'
import { systemTimers, type Timers } from './system.js'

/** Milliseconds between two lines of the log about a full queue. */
const COMPLAINT = 10_000

/** A thread for each processor but one, which is for the event loop and the database; at least one. */
export function startServerPool(
  {
    config,
    startPool = CryptoPool.start,
  }: {
    readonly config: { readonly workers?: number | undefined }
    readonly startPool?: (options: PoolOptions) => CryptoPool
  },
  {
    clock,
    random,
    timers = systemTimers,
    log,
    metrics,
  }: {
    readonly clock: Clock
    readonly random: Random
    readonly timers?: Timers
    readonly log: Log
    readonly metrics: Pick<Metrics, 'count'>
  },
): CryptoPool {
  let complainedAt = Number.NEGATIVE_INFINITY
  return startPool({
    workers: config.workers ?? Math.max(1, availableParallelism() - 1),
    random,
    clock,
    timers,
    on: (event, { error }) => {
      metrics.count(`pool_${event}`)
      if (event === 'crash') log.error({ err: error }, 'a worker ended; another takes its place')
      if (event === 'full' && clock() >= complainedAt + COMPLAINT) {
        complainedAt = clock()
        log.warn('too much waits for the workers: some is turned away')
      }
    },
  })
}

/** The keys of a group document, checked in a worker. */
export const poolKeyCheck =
  (pool: CryptoPool): KeyCheck =>
  ({ t, ivk, commitments, pub }) =>
    pool.run('publicKeysFault', {
      t,
      ivk: ivk.encode(),
      commitments: commitments.map(commitment => commitment.encode()),
      pub: pub?.encode(),
    })

/** Milliseconds after which a thread with nothing more to check ends. */
const IDLE = 2_000

/**
 * The same for servers that have no other points: the thread is there while there is something to check, at a start and
 * when a revision comes.
 */
export function threadKeyCheck({
  startPool = CryptoPool.start,
  ...ports
}: {
  readonly clock: Clock
  readonly random: Random
  readonly timers: Timers
  readonly startPool?: (options: PoolOptions) => CryptoPool
}): KeyCheck {
  let pool: CryptoPool | undefined
  let running = 0
  let endIdle = () => {}
  return async keys => {
    endIdle()
    pool ??= startPool({ workers: 1, ...ports })
    running++
    try {
      return await poolKeyCheck(pool)(keys)
    } finally {
      running--
      if (running === 0)
        endIdle = ports.timers.after(IDLE, () => {
          const idle = pool
          pool = undefined
          void idle?.close()
        })
    }
  }
}

/** The arithmetic of a founding, in a worker. */
export const poolFoundingArithmetic = (pool: CryptoPool): FoundingArithmetic => ({
  possessionVerify: ({ session, purpose, index }, commitment, { kappa, z }) =>
    pool.run('possessionVerify', {
      session,
      purpose,
      index,
      commitment: commitment.encode(),
      kappa: kappa.encode(),
      z: z.encode(),
    }),
  sameLogarithm: (C, W) => pool.run('sameLogarithm', { commitment: C.encode(), W: W.encode() }),
  combineG1: async shares => G1.decode(await pool.run('combine', encoded(shares)), 'ivk'),
  combineG2: async shares => G2.decode(await pool.run('combinePublicKey', encoded(shares)), 'pub'),
})

const encoded = (shares: readonly PointShare<G1 | G2>[]) =>
  shares.map(({ index, point }) => ({ index, point: point.encode() }))

/** The arithmetic of a ceremony, in a worker. */
export const poolCeremonyArithmetic = (pool: CryptoPool): CeremonyArithmetic => {
  const { possessionVerify, sameLogarithm, combineG2 } = poolFoundingArithmetic(pool)
  return {
    possessionVerify,
    sameLogarithm,
    combineG2,
    shareFits: (dealing, index, share) =>
      pool.run('shareFits', { dealing: dealingBytes(dealing), index, share: share.encode() }),
    sumOfDealings: async (dealings, index, weights) =>
      G1.decode(
        await pool.run('sumOfDealings', {
          dealings: dealings.map(dealingBytes),
          index,
          weights: weights?.map(weight => weight.encode()),
        }),
        'commitment',
      ),
  }
}

function dealingBytes({ firstPower, commitments }: Dealing): DealingBytes {
  return { firstPower, commitments: commitments.map(commitment => commitment.encode()) }
}
