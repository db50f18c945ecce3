/** The log of a server: JSON lines by pino; fields that could carry a secret or a person's name never get in. */
import { type DestinationStream, type Logger, pino } from 'pino'

/** Names of fields that are cut out wherever they stand, down to the third level. */
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
      redact: {
        paths: REDACTED.flatMap(field => [field, `*.${field}`, `*.*.${field}`]),
        censor: '[redacted]',
      },
      serializers: { err: describeError },
    },
    options.destination ?? pino.destination({ dest: 2, sync: true }),
  )
}

/** Type, message and stack; an error's own extra fields stay out, since libraries hang requests and rows on them. */
function describeError(error: unknown): unknown {
  if (!(error instanceof Error)) return { type: typeof error }
  return { type: error.name, message: error.message, stack: error.stack }
}
