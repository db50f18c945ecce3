/**
 * When a commit is on the disk, and when the log of commits is folded into the database: neither keeps the thread that
 * writes waiting.
 *
 *   thread of the connection            libuv's threads             checkpoint-thread.ts
 *   COMMIT, pages into `-wal`
 *   synced()                   ──────>  fdatasync of `-wal`
 *   further COMMITs            ──────>  the next one: one call does for all that were written before it began
 *   after CHECKPOINT rows      ───────────────────────────────────>  PASSIVE: the long part; writers go on
 *   nobody writes              ───────────────────────────────────>  RESTART: the rest; the log begins anew
 *
 * SQLite does the same within COMMIT, at synchronous = FULL with its automatic checkpoints. Here the connection is at
 * NORMAL, which writes the same pages in the same order and leaves out the one sync at the end of a commit
 * (sqlite.org/pragma.html#pragma_synchronous); that sync is made here, and nobody is answered before it.
 */
import { type FileHandle, open } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { Worker } from 'node:worker_threads'
import type { CheckpointOrder, CheckpointReply } from './checkpoint-thread.js'
import { StoreError } from './store-error.js'

/** Rows written between two checkpoints: about as many megabytes of log as there are hundreds. */
const CHECKPOINT = 2_000

export interface WriteAheadLogPorts {
  readonly file: string
  readonly busyTimeout: number
  /** Runs `work` while nobody else uses the connection. */
  readonly alone: <Result>(work: () => Promise<Result> | Result) => Promise<Result>
  /** A statement on the connection itself, on this thread. */
  readonly all: (statement: string) => readonly Readonly<Record<string, unknown>>[]
  /** Brings what was written to `log` to the disk; fdatasync unless a test has another. */
  readonly sync?: ((log: FileHandle) => Promise<void>) | undefined
}

export class WriteAheadLog {
  readonly #ports: WriteAheadLogPorts
  #log: FileHandle | undefined
  /** Commits, by number: the last that was written, the last that is on the disk. */
  #written = 0
  #onDisk = 0
  #syncing: Promise<void> | undefined
  /** A sync has failed: what the system made of the pages since is unknown. */
  #isTorn = false
  #rows = 0
  #thread: Worker | undefined
  #checkpointing: Promise<void> | undefined

  constructor(ports: WriteAheadLogPorts) {
    this.#ports = ports
  }

  /** A commit, with so many rows changed. */
  written(rows: number): void {
    this.#written++
    this.#rows += rows
    if (this.#rows < CHECKPOINT || this.#checkpointing !== undefined) return
    this.#rows = 0
    this.#checkpointing = this.#checkpoint().finally(() => {
      this.#checkpointing = undefined
    })
  }

  /** Resolves when every commit of until now is on the disk. StoreError `unavailable` when it can't be said. */
  async synced(): Promise<void> {
    const wanted = this.#written
    while (this.#onDisk < wanted) {
      this.#syncing ??= this.#sync().finally(() => {
        this.#syncing = undefined
      })
      await this.#syncing
    }
  }

  /** After the last commit. */
  async close(): Promise<void> {
    await this.#checkpointing
    // Whoever waits for it is told how it went.
    await this.#syncing?.catch(() => undefined)
    await this.#endThread()
    await this.#log?.close()
  }

  async #sync(): Promise<void> {
    const { file, sync = log => log.datasync() } = this.#ports
    const upTo = this.#written
    try {
      // After a failed sync Linux may call pages clean that never arrived, and a second sync says nothing about them.
      // A checkpoint writes each of them again, into the database.
      if (this.#isTorn) await this.#writeAgain()
      this.#log ??= await open(`${file}-wal`, 'r+')
      await sync(this.#log)
    } catch (error) {
      this.#isTorn = true
      if (error instanceof StoreError) throw error
      throw new StoreError('unavailable', `database ${file} can't be used (${(error as Error).message})`, {
        cause: error,
      })
    }
    this.#isTorn = false
    this.#onDisk = Math.max(this.#onDisk, upTo)
  }

  async #writeAgain(): Promise<void> {
    await this.#checkpointing
    const { file, alone, all } = this.#ports
    const [done] = await alone(() => all('PRAGMA wal_checkpoint(TRUNCATE)'))
    if (done?.busy !== 0)
      throw new StoreError('unavailable', `database ${file} can't be used (another process reads it)`)
  }

  /** One that fails, on a full disk for example, loses nothing, and the next is tried after as many rows. */
  async #checkpoint(): Promise<void> {
    const { alone, all } = this.#ports
    try {
      await this.#order('PASSIVE')
      await alone(() => this.#order('RESTART'))
    } catch {
      // No thread, or no longer: SQLite's own checkpoints then, within a commit.
      this.#thread = undefined
      await alone(() => all('PRAGMA wal_autocheckpoint = 1000'))
    }
  }

  /** Rejects when there is no such thread. */
  #order(order: CheckpointOrder): Promise<CheckpointReply> {
    this.#thread ??= this.#start()
    const thread = this.#thread
    thread.ref()
    return new Promise((resolve, reject) => {
      const settle = (act: () => void) => {
        thread.unref()
        thread.off('message', onReply).off('error', onEnd).off('exit', onEnd)
        act()
      }
      const onReply = (reply: CheckpointReply) => settle(() => resolve(reply))
      const onEnd = () => settle(() => reject(new Error('the thread of the checkpoints ended')))
      thread.on('message', onReply).on('error', onEnd).on('exit', onEnd)
      thread.postMessage(order)
    })
  }

  async #endThread(): Promise<void> {
    const thread = this.#thread
    if (thread === undefined) return
    this.#thread = undefined
    thread.ref()
    const ended = new Promise(resolve => thread.once('exit', resolve))
    thread.postMessage(null satisfies CheckpointOrder)
    await ended
  }

  #start(): Worker {
    // By name: a thread runs the built file, also where this one is a source.
    const script = createRequire(import.meta.url).resolve('@milagro-ts/store/checkpoint-thread')
    const { file, busyTimeout } = this.#ports
    return new Worker(script, { workerData: { file, busyTimeout } })
  }
}
