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
  readonly stack: string | undefined
  /** The platform's name for it, such as ECONNREFUSED. Not `code`: that is a field that is cut out. */
  readonly system?: string
  readonly cause?: DescribedError
}

/** An error's own extra fields stay out, since libraries hang requests and rows on them. */
function describeError(error: Error, depth = 0): DescribedError {
  const code = (error as { code?: unknown }).code
  return {
    type: error.name,
    // Begins with the message.
    stack: error.stack,
    ...(typeof code === 'string' && /^[A-Z][A-Z0-9_]{1,63}$/.test(code) ? { system: code } : {}),
    ...(error.cause instanceof Error && depth < 3 ? { cause: describeError(error.cause, depth + 1) } : {}),
  }
}
