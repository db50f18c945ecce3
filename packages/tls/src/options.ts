/**
 * What of node:tls a caller may still choose, and what is fixed. Each fixed option was a working attack or an ended
 * process (docs/protocols/tls.md, "Five guards").
 */
import { constants } from 'node:crypto'

/** Node's options that are ours to say. One that is given is a TypeError, so that nobody believes it counts. */
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

export function refuseFixed(options: object): void {
  for (const name of FIXED)
    if (Object.hasOwn(options, name)) throw new TypeError(`${name} is no option of TLS without certificates`)
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
