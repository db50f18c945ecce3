/** The log of a server: JSON lines by pino; fields that could carry a secret or a person's name never get in. */
import { type DestinationStream, type Logger, pino } from 'pino'

/** Names of fields that are cut out wherever they stand, whatever their case. */
export const REDACTED = [
  'accessToken',
  'adminToken',
  'attributes',
  'authOtt',
  'authorization',
  'code',
  'cookie',
  'driverName',
  'enrolmentCode',
  'login',
  'mac',
  'message',
  'passphrase',
  'payload',
  'pin',
  'receipt',
  'sealed',
  'secret',
  'share',
  'statement',
  'ticket',
  'token',
] as const

const CENSOR = '[redacted]'
const NAMES: ReadonlySet<string> = new Set(REDACTED.map(name => name.toLowerCase()))
const MAX_DEPTH = 8

export type Log = Logger

/** @param destination Where lines go; standard error in a process, so that standard output stays for answers. */
export function createLog(
  name: string,
  options: { level?: string; destination?: DestinationStream } = {},
): Log {
  return pino(
    {
      name,
      level: options.level ?? 'info',
      formatters: { log: fields => clean(fields, 0) as Record<string, unknown> },
      // The fields of a child log don't pass the formatter; pino's own redaction and serialiser guard those.
      redact: { paths: REDACTED.flatMap(field => [field, `*.${field}`, `*.*.${field}`]), censor: CENSOR },
      serializers: { err: (value: unknown) => (value instanceof Error ? describeError(value) : value) },
    },
    options.destination ?? pino.destination({ dest: 2, sync: true }),
  )
}

/** What of a value may be printed. Bytes may be keys, and an object of a class may hold anything: only their kind. */
function clean(value: unknown, depth: number): unknown {
  if (typeof value === 'bigint') return String(value)
  if (typeof value !== 'object' || value === null) return value
  if (value instanceof Error) return describeError(value)
  if (value instanceof Date) return value
  if (ArrayBuffer.isView(value)) return `[${value.byteLength} bytes]`
  if (depth === MAX_DEPTH) return '[deep]'
  if (Array.isArray(value)) return value.map(item => clean(item, depth + 1))
  const prototype: unknown = Object.getPrototypeOf(value)
  if (prototype !== Object.prototype && prototype !== null) return `[${value.constructor?.name ?? 'object'}]`
  return Object.fromEntries(
    Object.entries(value).map(([name, field]) => [
      name,
      NAMES.has(name.toLowerCase()) ? CENSOR : clean(field, depth + 1),
    ]),
  )
}

interface DescribedError {
  readonly type: string
  /** Of what is expected: its message, on one line. Not `message`: that is a field that is cut out. */
  readonly says?: string
  /** Of a refusal: what only the log may read. */
  readonly why?: string
  /** Of what isn't expected; begins with the message. */
  readonly stack?: string | undefined
  /** A refusal's code, or the platform's name for it, such as ECONNREFUSED. Not `code`: that is a field that is cut out. */
  readonly system?: string
  readonly cause?: DescribedError
}

/** Characters of a message. */
const MOST_SAID = 2_000
/** Errors that say for themselves what to do, by name: where in the program they were made helps nobody. */
const EXPECTED: ReadonlySet<string> = new Set([
  'ClientError',
  'ConfigError',
  'PeerRefused',
  'PoolUnavailable',
  'PortTaken',
  'Refused',
  'StoreError',
  'UnexpectedAnswer',
  'Unreachable',
])
/** What befalls connections, by Node's and undici's codes and those of OpenSSL. */
const OF_CONNECTIONS =
  /^(?:E(?:AI_AGAIN|CONN[A-Z]+|HOST[A-Z]+|NET[A-Z]+|NOTFOUND|PIPE|PROTO|TIMEDOUT)|ERR_SSL_|UND_ERR_)/

/** An error's own extra fields stay out, since libraries hang requests and rows on them. */
function describeError(error: Error, depth = 0): DescribedError {
  const { code, log } = error as { code?: unknown; log?: unknown }
  const cause = error.cause instanceof Error && depth < 3 ? describeError(error.cause, depth + 1) : undefined
  return {
    type: error.name,
    ...(isExpected(error)
      ? {
          says: oneLine(error.message),
          ...(error.name === 'Refused' && typeof log === 'string' ? { why: log } : {}),
        }
      : { stack: error.stack }),
    ...(typeof code === 'string' && /^[A-Z][A-Z0-9_]{1,63}$/.test(code) ? { system: code } : {}),
    ...(cause === undefined ? {} : { cause }),
  }
}

/** Of what a peer may have said: not all of it, and no more work than it is long. */
export const oneLine = (text: string): string => text.slice(0, MOST_SAID).replaceAll(/[\r\n]+[ \t]*/g, ' ')

function isExpected(error: Error): boolean {
  // Of fetch, which says no more than that.
  const isOfFetch = /^(?:fetch failed|terminated)$/.test(error.message) && error.cause instanceof Error
  return EXPECTED.has(error.name) || isOfConnection(isOfFetch ? (error.cause as Error) : error)
}

function isOfConnection({ code, syscall }: NodeJS.ErrnoException): boolean {
  // At a Unix domain socket `connect` may fail with any code: ENOENT, EACCES, EAGAIN.
  return syscall === 'connect' || (typeof code === 'string' && OF_CONNECTIONS.test(code))
}
