/**
 * A server as a process. It says on standard output, in JSON lines, what it has made and that it is ready; a start that
 * fails says why in one line on standard error. Exit codes: 2 for settings, passphrase and usage; 1 for the rest.
 */
import { parseArgs } from 'node:util'
import { StoreError } from '@milagro-ts/store/store-error'
import { ConfigError } from './config.js'
import { Refused } from './problem.js'

/** What serves until it is told to end. */
export interface Serving {
  /** Said beside `ready` and the process' id. */
  readonly urls: Readonly<Record<string, unknown>>
  close(): Promise<void>
}

/**
 * Runs `start` and, if it serves, ends it at SIGTERM or SIGINT; null: it has done what it was asked for. Never rejects:
 * what goes wrong is said, and is the exit code.
 */
export async function runProcess(name: string, start: () => Promise<Serving | null>): Promise<void> {
  const fail = (error: unknown) => {
    process.exitCode = error instanceof ConfigError ? 2 : 1
    process.stderr.write(`milagro ${name}: ${reasonOf(error)}\n`)
  }
  try {
    const serving = await start()
    if (serving === null) return
    const end = () => {
      process.off('SIGTERM', end).off('SIGINT', end)
      serving.close().catch(fail)
    }
    process.on('SIGTERM', end).on('SIGINT', end)
    say({ event: 'ready', ...serving.urls, pid: process.pid })
  } catch (error) {
    fail(error)
  }
}

/** One JSON line on standard output. */
export function say(event: { readonly event: string; readonly [field: string]: unknown }): void {
  process.stdout.write(`${JSON.stringify(event)}\n`)
}

/** `--config FILE`, `--init` and further options with a value. ConfigError for anything else. */
export function readFlags<Name extends string = never>(
  ...names: readonly Name[]
): { config: string | undefined; init: boolean } & { readonly [N in Name]: string | undefined } {
  const text = Object.fromEntries(['config', ...names].map(name => [name, { type: 'string' as const }]))
  try {
    const { values } = parseArgs({ options: { ...text, init: { type: 'boolean', default: false } } })
    return values as never
  } catch (error) {
    throw new ConfigError((error as Error).message)
  }
}

function reasonOf(error: unknown): string {
  const isSaid = error instanceof ConfigError || error instanceof StoreError || error instanceof Refused
  if (isSaid) return error.message
  const { code, address, port, message } = error as NodeJS.ErrnoException & {
    address?: string
    port?: number
  }
  if (code === 'EADDRINUSE') return `${address}:${port} is taken`
  return message
}
