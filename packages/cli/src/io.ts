/** What commands share: their world as an argument, how they answer, and which exit code an error is. */
import { readFileSync } from 'node:fs'
import { UnexpectedAnswer, Unreachable } from '@milagro-ts/api/call'
import { ConfigError, type Environment } from '@milagro-ts/api/config'
import { Refused } from '@milagro-ts/api/problem'
import { ClientError } from '@milagro-ts/client/errors'
import { fromBase64Url } from '@milagro-ts/crypto/bytes'
import { DecodeError } from '@milagro-ts/crypto/errors'
import { IdCore } from '@milagro-ts/crypto/identity'
import type { Clock, Random } from '@milagro-ts/crypto/ports'
import { StoreError } from '@milagro-ts/store/store-error'
import { type Command, CommanderError } from 'commander'

export interface Io {
  readonly out: (text: string) => void
  readonly err: (text: string) => void
  readonly env: Environment
  readonly fetch: typeof fetch
  readonly clock: Clock
  readonly random: Random
  /** Whether somebody sits there who can be asked. */
  readonly isTerminal: boolean
  /** What comes in and goes out as bytes; the rest of the command doesn't look at them. */
  readonly bytes: ByteStreams
}

/** Standard input and output as streams. */
export interface ByteStreams {
  readonly input: () => ReadableStream<Uint8Array>
  /** Nothing more is read: a pipe that goes on would keep the process. */
  readonly close: () => void
  /** Bytes that will come, where that is known: a file, and not a pipe. */
  readonly inputSize: number | undefined
  /** Waits until whoever reads has taken it. */
  readonly output: (bytes: Uint8Array) => Promise<void>
  /** Whether somebody sees the error stream. */
  readonly isWatched: boolean
}

/** Exit codes of every command. */
export const EXIT = { done: 0, refused: 1, usage: 2, unreachable: 3 } as const

/** The command was understood and its answer is no. */
export class CommandRefused extends Error {
  override readonly name = 'CommandRefused'
}
/** The command line or a file that it names is wrong. */
export class UsageError extends Error {
  override readonly name = 'UsageError'
}

/** What a command came to: `json` for programs, `text` for people (its lines). */
export interface Outcome {
  readonly json: Readonly<Record<string, unknown>>
  readonly text: readonly string[]
}

/**
 * Makes `work` the action of `command`, which gets `--json`. The arguments of `work` are commander's: the command's
 * arguments, then its options. Null: it has answered by itself, as it went.
 */
export function answers<Args extends unknown[]>(
  io: Io,
  command: Command,
  work: (...args: Args) => Promise<Outcome | null>,
): Command {
  return command.option('--json', 'answer with one JSON object').action(async (...given: unknown[]) => {
    const outcome = await work(...(given.slice(0, -1) as Args))
    if (outcome === null) return
    const { json } = command.opts<{ json?: boolean }>()
    io.out(json ? `${JSON.stringify(outcome.json)}\n` : outcome.text.map(line => `${line}\n`).join(''))
  })
}

/** The exit code for whatever a command threw, and the one line that says why. */
export function explain(error: unknown): { exit: number; code: string; why: string } {
  if (error instanceof CommanderError) {
    return { exit: error.exitCode === 0 ? EXIT.done : EXIT.usage, code: 'USAGE', why: error.message }
  }
  if (error instanceof UsageError || error instanceof ConfigError) {
    return { exit: EXIT.usage, code: 'USAGE', why: error.message }
  }
  if (error instanceof Unreachable || error instanceof UnexpectedAnswer) {
    return { exit: EXIT.unreachable, code: 'UNREACHABLE', why: error.message }
  }
  if (error instanceof ClientError) {
    const exit = error.code === 'OUTCOME_UNKNOWN' ? EXIT.unreachable : EXIT.refused
    return { exit, code: error.code, why: error.message.slice(error.code.length + 2) }
  }
  if (error instanceof Refused) {
    const why = error.detail ?? error.toProblem().title
    return {
      exit: EXIT.refused,
      code: error.code,
      why: error.field === undefined ? why : `${error.field}: ${why}`,
    }
  }
  if (error instanceof DecodeError) return { exit: EXIT.refused, code: 'MALFORMED', why: error.message }
  if (error instanceof StoreError)
    return { exit: EXIT.refused, code: error.reason.toUpperCase(), why: error.message }
  if (error instanceof Error) return { exit: EXIT.refused, code: 'REFUSED', why: error.message }
  return { exit: EXIT.refused, code: 'REFUSED', why: 'an unknown error' }
}

/** Parses a JSON file that the user named. UsageError when it can't be read or isn't JSON. */
/** Without the white space around it. */
export function readTextFile(path: string): string {
  try {
    return readFileSync(path, 'utf8').trim()
  } catch (error) {
    throw new UsageError(`cannot read '${path}' (${(error as NodeJS.ErrnoException).code ?? 'error'})`)
  }
}

export function readJsonFile(path: string): unknown {
  const text = readTextFile(path)
  try {
    return JSON.parse(text)
  } catch {
    throw new UsageError(`'${path}' is not JSON`)
  }
}

/** `text`, where it is the address of a server. UsageError, which names the flag, where it isn't. */
export function addressOf(text: string, flag: string): string {
  if (URL.canParse(text) && /^https?:/i.test(text)) return text
  throw new UsageError(`${flag}: '${text}' is not an address such as https://example.org`)
}

/** `text`, where it is 32 bytes as base64url: a groupId, a document's hash. UsageError, which names `what`, else. */
export function hashOf(text: string, what: string): string {
  try {
    fromBase64Url(text, what, 32)
    return text
  } catch (error) {
    if (!(error instanceof DecodeError)) throw error
    throw new UsageError(`${what}: '${text}' is not 32 bytes in base64url (43 characters)`)
  }
}

/** The device of an M-Pin ID. UsageError, which names the flag, for what is none. */
export function mpinIdOf(text: string, flag: string): IdCore {
  try {
    return IdCore.fromBase64Url(text)
  } catch (error) {
    if (!(error instanceof DecodeError)) throw error
    throw new UsageError(`${flag}: '${text}' is no M-Pin ID (52 characters of base64url)`)
  }
}

/** A table for people: columns as wide as their widest cell. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const widths = head.map((title, column) =>
    Math.max(title.length, ...rows.map(row => (row[column] ?? '').length)),
  )
  const line = (cells: readonly string[]) =>
    cells
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join('  ')
      .trimEnd()
  return [line(head), ...rows.map(line)]
}

/** A time with its zone, which no machine's own is taken for. UsageError, which names the flag, for what isn't one. */
export function unixSeconds(text: string, flag: string): number {
  const time = ZONED.test(text) ? Date.parse(text) : Number.NaN
  if (Number.isNaN(time))
    throw new UsageError(
      `${flag}: '${text}' is not a time with Z or an offset, such as 2030-01-31T12:00:00Z or 2030-01-31T13:00:00+01:00`,
    )
  return Math.floor(time / 1000)
}
const ZONED = /^\d{4}-\d\d-\d\dT\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:\d\d)$/
