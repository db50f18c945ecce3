/**
 * The thread that folds the write-ahead log into its database, on a connection of its own (write-ahead-log.ts starts
 * it): a checkpoint waits for the disk several times, and whoever answers requests must not.
 */
import { parentPort, workerData } from 'node:worker_threads'
import Database from 'libsql'
import { PROBE } from './write-probe.js'

/** PASSIVE: while others write. RESTART: nobody writes, and the next to do so begins the log anew. `null`: the end. */
export type CheckpointOrder = 'PASSIVE' | 'RESTART' | null
/** Absent when it was done as far as it went; otherwise why not. */
export type CheckpointReply = { readonly error?: string }

const port = parentPort
if (port === null) throw new TypeError('checkpoint-thread is started as a thread')
const { file, busyTimeout } = workerData as { file: string; busyTimeout: number }
const database = new Database(file)
const run = (statement: string) => database.prepare(statement).all()

run(`PRAGMA busy_timeout = ${busyTimeout}`)
run('PRAGMA synchronous = FULL')
port.on('message', (order: CheckpointOrder) => {
  if (order === null) {
    database.close()
    port.close()
    return
  }
  let reply: CheckpointReply = {}
  try {
    run(`PRAGMA wal_checkpoint(${order})`)
    // Whoever writes first into a log that begins anew waits for its header to reach the disk: that one is us.
    if (order === 'RESTART') database.prepare(PROBE).run()
  } catch (error) {
    reply = { error: (error as Error).message }
  }
  port.postMessage(reply)
})
