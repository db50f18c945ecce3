/**
 * The one worker pool of a Node server: pairings, sums of products and key shares off the main thread.
 *
 *   main thread                                              worker (crypto-worker.ts)
 *   device proofs   devices  ── up to 64, or 4 ms old ──>    one product
 *   from suspects   single   ── one by one ────────────>     one product each
 *   permits         permits  ── up to 64, or 4 ms old ──>    one product
 *   signatures      signatures ─ up to 64, or 4 ms old ──>   one product
 *   PIN proofs      pin      ── one by one ────────────>     one product each, ρ drawn there
 *   PSKs of TLS     psks     ── up to 4 that wait ─────>     one pairing each
 *   everything else work     ── one by one ────────────>
 *
 * A worker that is free takes from the next lane that has something ready, in turns, and within a lane from each source
 * in turns, so that nobody's flood is another's wait. Sources and identities whose proof failed lately go to a single
 * lane: they spoil no batch. The queue is bounded, and the single lanes to a quarter of it. Where it is full, a place in the
 * same lane is taken from the source that has the most of them, for one that has fewer: anybody can name an identity, which is
 * public. What gets no place, or loses it, is PoolUnavailable, which a server answers with RETRY_LATER. A PIN proof is never turned away for that: by then a strike is reserved.
 *
 * A worker that ends takes its jobs with it (PoolUnavailable: nothing was decided, so nothing is allowed) and another
 * takes its place. Server keys are handed over once and their bytes leave this thread; whoever hands them over says how
 * to get them again for a worker that is to replace another.
 *
 * Divergence: the library has no promise, timer or platform module but in this file and pooled-login.ts.
 */
import { getPriority, setPriority } from 'node:os'
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'
import { copyOf } from './bytes.js'
import {
  CryptoWorker,
  type HandedKey,
  type LoginItem,
  type Malformed,
  type Outcome,
  type PermitItem,
  type PskItem,
  type SignatureClaim,
} from './crypto-worker.js'
import { DecodeError } from './errors.js'
import type { Clock, Random } from './ports.js'

/** Nothing was decided: the queue is full, a worker ended, or the pool is closed. Try again in `retryAfter` seconds. */
export class PoolUnavailable extends Error {
  override readonly name = 'PoolUnavailable'
  readonly retryAfter: number

  constructor(why: string, retryAfter: number) {
    super(why)
    this.retryAfter = retryAfter
  }
}

export interface PoolTimers {
  /** Returns the function that ends it. */
  after(milliseconds: number, run: () => void): () => void
}

export type PoolEvent = 'batch' | 'full' | 'crash'

export interface PoolOptions {
  /** Threads; 0 computes on the calling thread, for tests and tiny deployments. */
  readonly workers: number
  /** For the weights, where there is no thread; a thread has the platform's. */
  readonly random: Random
  readonly clock: Clock
  readonly timers: PoolTimers
  /** Jobs that wait, at most; 1 024 unless said. */
  readonly limit?: number
  /** Proofs in a batch, at most; 64 unless said. */
  readonly batch?: number
  /** Milliseconds that a batch waits for more; 4 unless said. Without threads it never waits. */
  readonly wait?: number
  /** Identity points kept by each worker; 10 000 unless said. */
  readonly identities?: number
  readonly on?: (event: PoolEvent, detail: { readonly size?: number; readonly error?: unknown }) => void
  /** The worker's file, where it isn't this one. */
  readonly script?: URL
}

/** Where a proof comes from: who is remembered if it fails. */
export interface ProofOrigin {
  readonly source: string | undefined
  readonly identity: string
}

export type Jobs = {
  [K in keyof CryptoWorker]: CryptoWorker[K] extends (...input: infer I) => infer R
    ? { input: I; result: R }
    : never
}
type JobName = keyof Jobs
interface Task {
  readonly id: number
  readonly job: JobName
  readonly input: readonly unknown[]
}
type Reply = { readonly id: number } & (
  | { readonly result: unknown }
  | { readonly malformed: { readonly field: string; readonly why: string } }
  | { readonly error: string }
)

/** Milliseconds for which a source or an identity whose proof failed goes to the single lane. */
const SUSPECT = 300_000
const SUSPECTS = 10_000
/** Share of the queue that suspects may fill. */
const SUSPECT_SHARE = 1 / 4
/** Retry-After of the refused, in turns, so that they don't all come back at once. */
const RETRY_SPREAD = 8
/** Ends in a row, without a job done, after which a new worker has to wait. */
const QUICK_ENDS = 3
const PAUSE = 5_000

/** PSKs in one message, at most: waking a thread costs a tenth of one, and whoever is first waits for all of them. */
const PSKS = 4

/** Of the kernel's scheduler, added to the main thread's: its share beside it is a third. */
const WORKER_NICENESS = 5

interface Waiting<Item> {
  readonly item: Item
  readonly resolve: (outcome: never) => void
  readonly reject: (error: Error) => void
}
/** Jobs that take a list, and answer by place. */
type BatchJob = 'devices' | 'permits' | 'signatures' | 'externalPsks'
interface WaitingTask {
  readonly job: JobName
  readonly input: readonly unknown[]
}

export class CryptoPool {
  readonly #options: PoolOptions
  readonly #slots: Slot[]
  readonly #devices: Lane<LoginItem>
  readonly #single: Lane<LoginItem>
  readonly #permits: Lane<PermitItem>
  readonly #singlePermits: Lane<PermitItem>
  readonly #signatures: Lane<SignatureClaim>
  readonly #singleSignatures: Lane<SignatureClaim>
  readonly #pin: Lane<WaitingTask>
  readonly #psks: Lane<PskItem>
  readonly #work: Lane<WaitingTask>
  /** What a task of a lane is, where it takes a list. */
  readonly #batchJobs: ReadonlyMap<Lane<never>, BatchJob>
  readonly #lanes: readonly Lane<never>[]
  /** Until when, by name; the longest known first. */
  readonly #suspects = new Map<string, number>()
  #next = 0
  #refused = 0
  #load: (() => Promise<readonly HandedKey[]>) | undefined
  #isClosed = false

  private constructor(options: PoolOptions) {
    const { workers, batch = 64, wait = 4 } = options
    if (!Number.isInteger(workers) || workers < 0) throw new RangeError('workers: a whole number from 0 on')
    this.#options = options
    this.#slots = Array.from({ length: Math.max(1, workers) }, () => new Slot(slot => this.#start(slot)))
    const batched = { size: batch, wait: workers === 0 ? 0 : wait }
    this.#devices = new Lane(batched)
    this.#single = new Lane({ size: 1, wait: 0 })
    this.#permits = new Lane(batched)
    this.#singlePermits = new Lane({ size: 1, wait: 0 })
    this.#signatures = new Lane(batched)
    this.#singleSignatures = new Lane({ size: 1, wait: 0 })
    this.#pin = new Lane({ size: 1, wait: 0 })
    this.#psks = new Lane({ size: workers === 0 ? 1 : PSKS, wait: 0, takers: this.#slots.length })
    this.#work = new Lane({ size: 1, wait: 0 })
    this.#batchJobs = new Map<Lane<never>, BatchJob>([
      [this.#devices as Lane<never>, 'devices'],
      [this.#single as Lane<never>, 'devices'],
      [this.#permits as Lane<never>, 'permits'],
      [this.#singlePermits as Lane<never>, 'permits'],
      [this.#signatures as Lane<never>, 'signatures'],
      [this.#singleSignatures as Lane<never>, 'signatures'],
      [this.#psks as Lane<never>, 'externalPsks'],
    ])
    this.#lanes = [...this.#batchJobs.keys(), this.#pin as Lane<never>, this.#work as Lane<never>]
  }

  /** A thread starts with the first job that there is for it. */
  static start(options: PoolOptions): CryptoPool {
    return new CryptoPool(options)
  }

  /** Jobs that wait for a worker. */
  get waiting(): number {
    return this.#lanes.reduce((sum, lane) => sum + lane.size, 0)
  }

  /**
   * Server keys for every worker, and for those that come later. `load` is called now and whenever a worker replaces
   * another; what it returns is overwritten here. By place: does the key belong to its IVK?
   */
  async handOver(load: () => Promise<readonly HandedKey[]>): Promise<readonly boolean[]> {
    this.#load = load
    const keys = await load()
    const verdicts = await Promise.all(this.#slots.map(slot => this.#giveKeys(slot, copied(keys)))).finally(
      () => erase(keys),
    )
    return keys.map((_, i) => verdicts.every(verdict => verdict[i] === true))
  }

  /** A thread that starts for them needs no others. What has come meanwhile waits for nobody but this. */
  async #giveKeys(slot: Slot, keys: readonly HandedKey[]): Promise<boolean[]> {
    slot.keysUnderWay++
    try {
      return (await slot.run('serverKeys', [keys])) as boolean[]
    } finally {
      slot.keysUnderWay--
      this.#dispatch()
    }
  }

  /**
   * Does the device proof hold? DecodeError for points that are none; PoolUnavailable.
   * @param from Whose failed proofs are remembered: the source of the message, and its identity.
   */
  async deviceProof(item: LoginItem, from: ProofOrigin): Promise<boolean> {
    return this.#proof(item, { batched: this.#devices, single: this.#single }, from)
  }

  /**
   * Does the signature hold? DecodeError for points that are none; PoolUnavailable.
   * @param from Whose false signatures are remembered, and whose turn it takes.
   */
  async signature(item: SignatureClaim, from: ProofOrigin): Promise<boolean> {
    return this.#proof(item, { batched: this.#signatures, single: this.#singleSignatures }, from)
  }

  async #proof<Item>(
    item: Item,
    { batched, single }: { readonly batched: Lane<Item>; readonly single: Lane<Item> },
    from: ProofOrigin,
  ): Promise<boolean> {
    const names = [
      `identity ${from.identity}`,
      ...(from.source === undefined ? [] : [`source ${from.source}`]),
    ]
    const isSuspect = names.some(name => this.#isSuspect(name))
    const lane = isSuspect ? single : batched
    const turn = from.source ?? from.identity
    if (isSuspect && single.size >= Math.ceil(this.#limit * SUSPECT_SHARE)) {
      const displaced = single.displaceFor(turn)
      if (displaced === undefined) throw this.#full()
      displaced.reject(this.#full())
    }
    const outcome = await this.#enqueue<Item, Outcome>(lane, item, turn)
    if (outcome !== true) for (const name of names) this.#suspect(name)
    return verdictOf(outcome)
  }

  /** Does the PIN proof hold? For a message whose device proof was found to hold. */
  async pinProof(item: LoginItem): Promise<boolean> {
    const task = { job: 'pin', input: [item] } as const
    return verdictOf(await this.#enqueue<WaitingTask, Outcome>(this.#pin, task, '', 'always'))
  }

  /**
   * Does the permit verify? DecodeError, PoolUnavailable.
   * @param from Whose false permits are remembered, and whose turn it takes; nobody's where whoever asks is known already.
   */
  async permit(item: PermitItem, from?: ProofOrigin): Promise<boolean> {
    if (from !== undefined)
      return this.#proof(item, { batched: this.#permits, single: this.#singlePermits }, from)
    return verdictOf(await this.#enqueue<PermitItem, Outcome>(this.#permits, item, ''))
  }

  /**
   * The PSK of an identity at the server whose slot key has this B. DecodeError for an R that is no point;
   * PoolUnavailable, also where that slot key hasn't been handed over.
   * @param source Whose turn it takes.
   */
  async externalPsk(item: PskItem, source: string): Promise<Uint8Array> {
    const psk = await this.#enqueue<PskItem, Uint8Array | Malformed | 'no key'>(this.#psks, item, source)
    if (psk === 'no key') throw new PoolUnavailable('the worker has no key for this slot', 5)
    if ('why' in psk) throw new DecodeError(psk.field, psk.why)
    return psk
  }

  /** Anything else that a worker does. DecodeError, PoolUnavailable. */
  async run<K extends Exclude<JobName, 'serverKeys' | BatchJob | 'pin'>>(
    job: K,
    ...input: Jobs[K]['input']
  ): Promise<Jobs[K]['result']> {
    return this.#enqueue<WaitingTask, Jobs[K]['result']>(this.#work, { job, input }, '')
  }

  /** Nothing is taken any more; what waits or runs is PoolUnavailable. */
  async close(): Promise<void> {
    this.#isClosed = true
    this.#turnAway(new PoolUnavailable('the server is stopping', 1))
    await Promise.all(this.#slots.map(slot => slot.close()))
  }

  get #limit(): number {
    return this.#options.limit ?? 1_024
  }

  #enqueue<Item, Result>(lane: Lane<Item>, item: Item, turn: string, mayWait?: 'always'): Promise<Result> {
    if (this.#isClosed) return Promise.reject(new PoolUnavailable('the server is stopping', 1))
    if (mayWait === undefined && this.waiting >= this.#limit) {
      const displaced = lane.displaceFor(turn)
      if (displaced === undefined) return Promise.reject(this.#full())
      displaced.reject(this.#full())
    }
    return new Promise<Result>((resolve, reject) => {
      lane.push(turn, { item, resolve: resolve as (outcome: never) => void, reject })
      this.#arm(lane)
      this.#dispatch()
    })
  }

  /** A batch that isn't full is closed when its time is over. */
  #arm<Item>(lane: Lane<Item>): void {
    if (lane.isReady || lane.isArmed || lane.size === 0) return
    lane.isArmed = true
    const close = () => {
      lane.isArmed = false
      lane.isDue = lane.size > 0
      this.#dispatch()
    }
    if (lane.wait === 0) void Promise.resolve().then(close)
    else this.#options.timers.after(lane.wait, close)
  }

  #dispatch(): void {
    for (const slot of this.#slots) {
      if (!slot.isFree) continue
      const lane = this.#takeTurn()
      if (lane === undefined) return
      this.#give(slot, lane)
    }
  }

  #takeTurn(): Lane<never> | undefined {
    for (let i = 0; i < this.#lanes.length; i++) {
      const lane = this.#lanes[(this.#next + i) % this.#lanes.length] as Lane<never>
      if (!lane.isReady) continue
      this.#next = (this.#next + i + 1) % this.#lanes.length
      return lane
    }
    return undefined
  }

  #give(slot: Slot, lane: Lane<never>): void {
    const taken = lane.take() as Waiting<unknown>[]
    this.#arm(lane)
    const items = taken.map(({ item }) => item)
    const batchJob = this.#batchJobs.get(lane)
    const isBatch = batchJob !== undefined
    const task: WaitingTask = isBatch ? { job: batchJob, input: [items] } : (items[0] as WaitingTask)
    if (isBatch) this.#options.on?.('batch', { size: taken.length })
    slot.run(task.job, task.input).then(
      result => {
        const outcomes = isBatch ? (result as unknown[]) : [result]
        taken.forEach(({ resolve }, i) => {
          ;(resolve as (outcome: unknown) => void)(outcomes[i])
        })
        this.#dispatch()
      },
      (error: Error) => {
        for (const { reject } of taken) reject(error)
        this.#dispatch()
      },
    )
  }

  /** A thread with the server keys in it, or the calling thread. */
  async #start(slot: Slot): Promise<WorkerPort> {
    const { workers, random, identities = 10_000, script } = this.#options
    if (workers === 0) return new SameThread(new CryptoWorker({ random, identities }))
    const thread = new Thread(script ?? new URL('./node-pool.js', import.meta.url), identities)
    thread.onEnd = error => this.#ended(slot, error)
    // A worker that takes another's place; the first ones get their keys from whoever hands them over.
    if (this.#load === undefined || slot.keysUnderWay > 0) return thread
    try {
      const keys = await this.#load()
      await thread.post('serverKeys', [copied(keys)]).finally(() => erase(keys))
      return thread
    } catch (error) {
      await thread.close()
      throw error instanceof PoolUnavailable
        ? error
        : new PoolUnavailable('a new worker got no server keys', 5)
    }
  }

  #ended(slot: Slot, error: unknown): void {
    if (this.#isClosed) return
    this.#options.on?.('crash', { error })
    const pause = slot.ended()
    if (this.#slots.every(({ isHopeless }) => isHopeless))
      this.#turnAway(new PoolUnavailable('no worker stays alive', PAUSE / 1000))
    this.#options.timers.after(pause, () => {
      slot.isPaused = false
      this.#dispatch()
    })
  }

  #turnAway(error: PoolUnavailable): void {
    for (const lane of this.#lanes)
      while (lane.size > 0) for (const { reject } of lane.take() as Waiting<unknown>[]) reject(error)
  }

  #full(): PoolUnavailable {
    this.#options.on?.('full', {})
    return new PoolUnavailable('too many wait', 1 + (this.#refused++ % RETRY_SPREAD))
  }

  #isSuspect(name: string): boolean {
    const until = this.#suspects.get(name)
    return until !== undefined && this.#options.clock() < until
  }

  #suspect(name: string): void {
    this.#suspects.delete(name)
    this.#suspects.set(name, this.#options.clock() + SUSPECT)
    if (this.#suspects.size <= SUSPECTS) return
    const [longest] = this.#suspects.keys()
    this.#suspects.delete(longest as string)
  }
}

function verdictOf(outcome: Outcome): boolean {
  if (typeof outcome === 'boolean') return outcome
  if (outcome === 'no key') throw new PoolUnavailable('the worker has no server key for this epoch', 5)
  throw new DecodeError(outcome.field, outcome.why)
}

function erase(keys: readonly HandedKey[]): void {
  for (const { S } of keys) S.fill(0)
}

const copied = (keys: readonly HandedKey[]): HandedKey[] => keys.map(key => ({ ...key, S: copyOf(key.S) }))

/** What waits for one kind of task, each source's in the order of arrival, the sources in turns. */
class Lane<Item> {
  readonly #turns = new Map<string, Waiting<Item>[]>()
  readonly #batch: number
  /** Workers among whom what waits is shared out, where a batch saves less than another worker. */
  readonly #takers: number
  readonly wait: number
  #size = 0
  /** Its oldest has waited long enough. */
  isDue = false
  isArmed = false

  constructor({
    size,
    wait,
    takers = 1,
  }: { readonly size: number; readonly wait: number; readonly takers?: number }) {
    this.#batch = size
    this.wait = wait
    this.#takers = takers
  }

  get size(): number {
    return this.#size
  }
  get isReady(): boolean {
    return this.#size >= this.#batch || (this.isDue && this.#size > 0)
  }

  push(turn: string, entry: Waiting<Item>): void {
    const entries = this.#turns.get(turn)
    if (entries === undefined) this.#turns.set(turn, [entry])
    else entries.push(entry)
    this.#size++
  }

  /**
   * Takes the latest one of the source that has the most waiting out of it, for one of this source. Undefined unless that
   * has two more than this: a place that is given up is a fairer one, and every source keeps its last.
   */
  displaceFor(turn: string): Waiting<Item> | undefined {
    const own = this.#turns.get(turn)?.length ?? 0
    let most: Waiting<Item>[] = []
    for (const entries of this.#turns.values()) if (entries.length > most.length) most = entries
    if (most.length < own + 2) return undefined
    this.#size--
    return most.pop()
  }

  /** As many as one task takes: one of each source, then the next of each. */
  take(): Waiting<Item>[] {
    const taken: Waiting<Item>[] = []
    const most = Math.min(this.#batch, Math.ceil(this.#size / this.#takers))
    while (taken.length < most) {
      const [first] = this.#turns
      if (first === undefined) break
      const [turn, entries] = first
      taken.push(entries.shift() as Waiting<Item>)
      this.#turns.delete(turn)
      if (entries.length > 0) this.#turns.set(turn, entries)
    }
    this.#size -= taken.length
    this.isDue = false
    return taken
  }
}

interface WorkerPort {
  post(job: JobName, input: readonly unknown[]): Promise<unknown>
  readonly isAlive: boolean
  close(): Promise<void>
}

/** The place of one worker: started when there is something for it, and again when it has ended. */
class Slot {
  readonly #start: (slot: Slot) => Promise<WorkerPort>
  #port: WorkerPort | undefined
  #starting: Promise<WorkerPort> | undefined
  #running = 0
  #isClosed = false
  /** Ends since the last job that was done. */
  #ends = 0
  /** How many times it is being handed server keys. */
  keysUnderWay = 0
  isPaused = false

  constructor(start: (slot: Slot) => Promise<WorkerPort>) {
    this.#start = start
  }

  get isFree(): boolean {
    return this.#running === 0 && !this.isPaused && !this.#isClosed
  }

  async run(job: JobName, input: readonly unknown[]): Promise<unknown> {
    this.#running++
    try {
      const port = await this.#alive()
      const result = await port.post(job, input)
      this.#ends = 0
      return result
    } finally {
      this.#running--
    }
  }

  /** Milliseconds for which no other is started. */
  ended(): number {
    this.isPaused = true
    this.#ends++
    return this.isHopeless ? PAUSE : 0
  }

  get isHopeless(): boolean {
    return this.#ends >= QUICK_ENDS
  }

  async close(): Promise<void> {
    this.#isClosed = true
    await this.#starting?.catch(() => undefined)
    await this.#port?.close()
  }

  async #alive(): Promise<WorkerPort> {
    if (this.#port?.isAlive) return this.#port
    if (this.#isClosed) throw new PoolUnavailable('the server is stopping', 1)
    this.#starting ??= this.#start(this).finally(() => {
      this.#starting = undefined
    })
    this.#port = await this.#starting
    return this.#port
  }
}

/** No thread: the task is done in a later turn of this one. */
class SameThread implements WorkerPort {
  readonly #worker: CryptoWorker
  readonly isAlive = true

  constructor(worker: CryptoWorker) {
    this.#worker = worker
  }

  async post(job: JobName, input: readonly unknown[]): Promise<unknown> {
    await Promise.resolve()
    return perform(this.#worker, job, structuredClone(input))
  }

  async close(): Promise<void> {}
}

class Thread implements WorkerPort {
  readonly #worker: Worker
  readonly #running = new Map<
    number,
    { resolve: (result: unknown) => void; reject: (error: Error) => void }
  >()
  #next = 0
  isAlive = true
  onEnd: (error: unknown) => void = () => {}

  constructor(script: URL, identities: number) {
    this.#worker = new Worker(script, { workerData: { milagroPool: { identities } } })
    let cause: unknown
    this.#worker.on('message', (reply: Reply) => this.#settle(reply))
    this.#worker.on('error', error => {
      cause = error
    })
    this.#worker.on('exit', () => {
      this.isAlive = false
      for (const { reject } of this.#running.values()) reject(new PoolUnavailable('a worker ended', 1))
      this.#running.clear()
      this.onEnd(cause)
    })
    // A process lives for as long as it waits for a job; a pool that was forgotten keeps none. After the listeners: with
    // the first for messages Node refs the worker.
    this.#worker.unref()
  }

  post(job: JobName, input: readonly unknown[]): Promise<unknown> {
    if (!this.isAlive) return Promise.reject(new PoolUnavailable('a worker ended', 1))
    const id = this.#next++
    return new Promise((resolve, reject) => {
      this.#running.set(id, { resolve, reject })
      this.#worker.ref()
      this.#worker.postMessage({ id, job, input } satisfies Task, secretsIn(job, input))
    })
  }

  async close(): Promise<void> {
    await this.#worker.terminate()
  }

  #settle(reply: Reply): void {
    const running = this.#running.get(reply.id)
    this.#running.delete(reply.id)
    if (this.#running.size === 0) this.#worker.unref()
    if ('result' in reply) running?.resolve(reply.result)
    else if ('malformed' in reply)
      running?.reject(new DecodeError(reply.malformed.field, reply.malformed.why))
    else running?.reject(new Error(`in a worker: ${reply.error}`))
  }
}

/** Buffers that move to the worker instead of being copied: server keys leave no bytes behind. */
function secretsIn(job: JobName, input: readonly unknown[]): ArrayBuffer[] {
  if (job !== 'serverKeys') return []
  return (input[0] as readonly HandedKey[]).map(({ S }) => S.buffer as ArrayBuffer)
}

function perform(worker: CryptoWorker, job: JobName, input: readonly unknown[]): unknown {
  return (worker[job] as (...input: readonly unknown[]) => unknown).call(worker, ...input)
}

/** The worker's side: one task after the other. */
function serve(port: NonNullable<typeof parentPort>, identities: number): void {
  const random: Random = length => crypto.getRandomValues(new Uint8Array(length))
  const worker = new CryptoWorker({ random, identities })
  // Where they share a processor the event loop goes first. Linux alone has a priority for each thread.
  if (process.platform === 'linux') setPriority(Math.min(19, getPriority() + WORKER_NICENESS))
  port.on('message', ({ id, job, input }: Task) => {
    let reply: Reply
    try {
      reply = { id, result: perform(worker, job, input) }
    } catch (error) {
      reply =
        error instanceof DecodeError
          ? { id, malformed: { field: error.field, why: error.why } }
          : { id, error: error instanceof Error ? error.message : 'unknown' }
    }
    port.postMessage(reply)
  })
}

const task = (workerData as { milagroPool?: { identities: number } } | null)?.milagroPool
if (!isMainThread && parentPort !== null && task !== undefined) serve(parentPort, task.identities)
