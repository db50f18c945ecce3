/**
 * A server as a process. It says on standard output, in JSON lines, what it has made and that it is ready; a start that
 * fails says why in one line on standard error. Exit codes: 2 for settings and usage, 3 for another server that is
 * needed and unreachable, 1 for the rest: a wrong passphrase, files that are damaged or lost, a taken port.
 */
import { parseArgs } from 'node:util'
import { Unreachable } from './call.js'
import { ConfigError } from './config.js'
import { holdHangups, releaseHangups, takeHangups } from './hangup.js'
import { oneLine } from './log.js'
import { Refused } from './problem.js'

/** What serves until it is told to end. */
export interface Serving {
  /** Said beside `ready` and the process' id. */
  readonly urls: Readonly<Record<string, unknown>>
  /**
   * At SIGHUP: what can be read anew without a restart. Says itself what came of it. One that comes during the start is
   * acted on once it is over; without this method SIGHUP ends the process.
   */
  reload?(): Promise<void>
  close(): Promise<void>
}

/** Milliseconds. */
const LONG = 3_600_000

/**
 * Runs `start` and, if it serves, ends it at SIGTERM or SIGINT; null: it has done what it was asked for. Never rejects:
 * what goes wrong is said, and is the exit code.
 */
export async function runProcess(name: string, start: () => Promise<Serving | null>): Promise<void> {
  const fail = (error: unknown) => {
    process.exitCode = error instanceof ConfigError ? 2 : error instanceof Unreachable ? 3 : 1
    process.stderr.write(`milagro ${name}: ${reasonOf(error)}\n`)
  }
  holdHangups()
  // What a start waits for may be a timer of the system's alone, and those keep no process (system.ts).
  const hold = setInterval(() => undefined, LONG)
  try {
    const serving = await Promise.resolve()
      .then(start)
      .finally(() => clearInterval(hold))
    if (serving === null) return
    const end = () => {
      process.off('SIGTERM', end).off('SIGINT', end)
      serving.close().catch(fail)
    }
    process.on('SIGTERM', end).on('SIGINT', end)
    say({ event: 'ready', ...serving.urls, pid: process.pid })
    if (serving.reload === undefined) releaseHangups()
    else takeHangups(() => void serving.reload?.().catch(fail))
  } catch (error) {
    fail(error)
  }
}

/** One JSON line on standard output. */
export function say(event: { readonly event: string; readonly [field: string]: unknown }): void {
  process.stdout.write(`${JSON.stringify(event)}\n`)
}

/**
 * `--config FILE`, `--init`, further options with a value (`values`), and `--init --anew` where a server `hasAnew`.
 * ConfigError for anything else.
 */
export function readFlags<Name extends string = never>({
  values = [],
  hasAnew = false,
}: {
  values?: readonly Name[]
  hasAnew?: boolean
} = {}): { config: string | undefined; init: boolean; anew: boolean } & {
  readonly [N in Name]: string | undefined
} {
  const text = Object.fromEntries(['config', ...values].map(name => [name, { type: 'string' as const }]))
  const no = { type: 'boolean' as const, default: false }
  let flags: { init?: unknown; anew?: unknown }
  try {
    flags = parseArgs({ options: { ...text, init: no, ...(hasAnew ? { anew: no } : {}) } }).values
  } catch (error) {
    throw new ConfigError((error as Error).message)
  }
  if (flags.anew === true && flags.init !== true) throw new ConfigError('--anew goes with --init')
  return flags as never
}

/**
 * The message alone: what a start may fail with says for itself what to do; of a refusal what only the log may read, too, since
 * an operator reads here. Some of Node's have several lines.
 */
function reasonOf(error: unknown): string {
  const { message } = error as Error
  return oneLine(`${message}${error instanceof Refused ? forTheLog(error) : ''}`)
}

function forTheLog({ log, detail }: Refused): string {
  if (log === undefined) return ''
  return detail === undefined ? `: ${log}` : ` (${log})`
}
