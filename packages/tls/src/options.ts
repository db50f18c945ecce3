/**
 * What of node:tls a caller may still choose, and what is fixed. Each fixed option was a working attack or an ended
 * process (docs/protocols/tls.md, "Five guards").
 */
import { constants } from 'node:crypto'

/** Node's options that are ours to say. One that says otherwise is a TypeError, so that nobody believes it counts. */
export const FIXED = [
  'ca',
  'cert',
  'checkServerIdentity',
  'ciphers',
  'key',
  'maxVersion',
  'minVersion',
  'passphrase',
  'pfx',
  'pskCallback',
  'pskIdentityHint',
  'rejectUnauthorized',
  'requestCert',
  'secureContext',
  'secureOptions',
  'secureProtocol',
  'session',
  'sessionTimeout',
  'SNICallback',
  'ticketKeys',
] as const
export type Fixed = (typeof FIXED)[number]

const NO_CERTIFICATE =
  'there are no certificates: a client gives `identity`, a server what openTlsService resolves to'
const VERSION = 'it is TLS 1.3; `tls12: true` is for what has nothing better'
const PSK = 'the PSK is the identity’s or the door’s'
export const RESUMED = 'a session that is resumed asks for no PSK'
/** What to do instead. */
const WHY: Readonly<Record<Fixed, string>> = {
  ca: 'no certificate is taken, so none vouches for another: the server is who its name in the group says',
  cert: NO_CERTIFICATE,
  checkServerIdentity: 'a server proves its name by the PSK; every certificate is refused',
  ciphers: 'the suites are those that an external PSK goes with',
  key: NO_CERTIFICATE,
  maxVersion: VERSION,
  minVersion: VERSION,
  passphrase: NO_CERTIFICATE,
  pfx: NO_CERTIFICATE,
  pskCallback: PSK,
  pskIdentityHint: PSK,
  rejectUnauthorized: 'whoever doesn’t prove who it is is refused, always',
  requestCert: 'whoever comes in has proven who it is, always',
  secureContext: 'it could hold certificates',
  secureOptions: 'they keep tickets and renegotiation away',
  secureProtocol: VERSION,
  session: RESUMED,
  sessionTimeout: RESUMED,
  SNICallback: NO_CERTIFICATE,
  ticketKeys: RESUMED,
}

const isFixed = (name: string): name is Fixed => Object.hasOwn(WHY, name)

/** Those that a program may go on giving, since they say what holds anyway. */
export interface Accepted {
  readonly rejectUnauthorized?: true
  readonly minVersion?: 'TLSv1.3'
  readonly maxVersion?: 'TLSv1.3'
}

/** TypeError for a fixed option, unless it says what holds anyway: one of `settings`, or `undefined`, which to node is none. */
export function refuseFixed(options: object, settings: Partial<Readonly<Record<Fixed, unknown>>>): void {
  for (const name of Object.keys(options)) {
    if (!isFixed(name)) continue
    const said = (options as Partial<Record<Fixed, unknown>>)[name]
    if (said === undefined || said === settings[name]) continue
    throw new TypeError(`${name} is no option of TLS without certificates: ${WHY[name]}`)
  }
}

/** TLS 1.3 alone; the suites whose hash is SHA-256, which an external PSK goes with. */
const TLS13 = 'TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256'
export const PROTOCOL = { minVersion: 'TLSv1.3', maxVersion: 'TLSv1.3', ciphers: TLS13 } as const

/** The one suite of TLS 1.2 with a Diffie–Hellman exchange, a PSK and an AEAD that OpenSSL has; no plain PSK, no CBC. */
const TLS12 = 'ECDHE-PSK-CHACHA20-POLY1305'
/** For who can't do better, by explicit choice: a client offers TLS 1.2 alone, a server takes both. */
export const CLIENT_TLS12 = { minVersion: 'TLSv1.2', maxVersion: 'TLSv1.2', ciphers: TLS12 } as const
export const SERVER_TLS12 = { ...PROTOCOL, minVersion: 'TLSv1.2', ciphers: `${TLS13}:${TLS12}` } as const

/**
 * Tickets resume a connection without asking for its PSK: a banned device would walk in (what is left of them: tickets.ts). Nor does anybody negotiate
 * TLS 1.2 anew inside a connection.
 */
export const SECURE_OPTIONS = constants.SSL_OP_NO_TICKET | constants.SSL_OP_NO_RENEGOTIATION

const CLIENT = { ...PROTOCOL, rejectUnauthorized: true } as const
const CLIENT_OF_TLS12 = { ...CLIENT_TLS12, rejectUnauthorized: true } as const
/** What holds of a client. Node's default of `rejectUnauthorized` is the environment's (NODE_TLS_REJECT_UNAUTHORIZED). */
export const clientSettings = (tls12 = false): typeof CLIENT | typeof CLIENT_OF_TLS12 =>
  tls12 ? CLIENT_OF_TLS12 : CLIENT
/** What holds of a server, though OpenSSL is to ask for no certificate. */
export const serverSettings = (tls12 = false) => ({
  ...(tls12 ? SERVER_TLS12 : PROTOCOL),
  rejectUnauthorized: true,
  requestCert: true,
})
