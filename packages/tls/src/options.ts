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
export const PROTOCOL = {
  minVersion: 'TLSv1.3',
  maxVersion: 'TLSv1.3',
  ciphers: 'TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256',
} as const

/** Tickets resume a connection without asking for its PSK: a banned device would walk in. */
export const NO_TICKET = constants.SSL_OP_NO_TICKET
