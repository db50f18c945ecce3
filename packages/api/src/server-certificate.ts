/**
 * A web server's certificate, for a public listener that ends TLS itself. What a login is bound to (channel-binding.ts) is
 * known to the process that ends TLS and to no other, so a proxy before it would have taken it away.
 */
import { constants, createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto'
import { readFileSync } from 'node:fs'
import type { RequestListener } from 'node:http'
import { createServer, type Server, type ServerOptions } from 'node:https'
import { createSecureContext, type SecureContextOptions } from 'node:tls'
import { ConfigError } from './config.js'
import { Strict } from './schemas.js'
import Type, { type Static } from './typebox.js'

const Path = Type.String({ minLength: 1 })
export const CertificateSetting = Strict({
  /** PEM: the server's certificate, then those between it and its CA. */
  certFile: Path,
  /** PEM, without a passphrase; readable by the server's user alone. */
  keyFile: Path,
})
export type CertificateSetting = Static<typeof CertificateSetting>

/** Milliseconds for a handshake. */
const HANDSHAKE_TIMEOUT = 10_000
/** TLS 1.2 is for clients that bind nothing to their connection: forward secrecy and AEAD alone, and no renegotiation. */
const PROTOCOL: SecureContextOptions = {
  minVersion: 'TLSv1.2',
  ciphers: [
    'TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256',
    'ECDHE+AESGCM:ECDHE+CHACHA20',
  ].join(':'),
  secureOptions: constants.SSL_OP_NO_RENEGOTIATION,
}

export class ServerCertificate {
  readonly #setting: CertificateSetting
  readonly #servers: Server[] = []
  #context: SecureContextOptions

  /** ConfigError says which file is wrong, and nothing of what is in it. */
  constructor(setting: CertificateSetting) {
    this.#setting = setting
    this.#context = readContext(setting)
  }

  /** Of node:https, under TLS 1.3 and 1.2; it takes renewed files with the others. */
  createServer(options: ServerOptions, listener: RequestListener): Server {
    const server = createServer(
      { ...options, ...this.#context, handshakeTimeout: HANDSHAKE_TIMEOUT },
      listener,
    )
    this.#servers.push(server)
    return server
  }

  /** Reads the files again; handshakes from now on have what is in them. After a ConfigError they have what they had. */
  renew(): void {
    this.#context = readContext(this.#setting)
    for (const server of this.#servers) server.setSecureContext(this.#context)
  }
}

function readContext({ certFile, keyFile }: CertificateSetting): SecureContextOptions {
  const cert = readPem('tls.certFile', certFile)
  const key = readPem('tls.keyFile', keyFile)
  if (!certificateIn(cert).checkPrivateKey(privateKeyIn(key)))
    throw new ConfigError("setting 'tls.keyFile': not the key of the certificate in 'tls.certFile'")
  const context = { ...PROTOCOL, cert, key }
  try {
    createSecureContext(context)
  } catch (error) {
    throw new ConfigError(`setting 'tls': OpenSSL refuses the certificate (${codeOf(error)})`)
  }
  return context
}

function readPem(setting: string, path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    throw new ConfigError(`setting '${setting}': cannot read '${path}' (${codeOf(error)})`)
  }
}

function certificateIn(pem: string): X509Certificate {
  try {
    return new X509Certificate(pem)
  } catch {
    throw new ConfigError("setting 'tls.certFile': no certificate in PEM")
  }
}

/** OpenSSL's own words could quote the file. */
function privateKeyIn(pem: string): KeyObject {
  try {
    return createPrivateKey(pem)
  } catch {
    throw new ConfigError("setting 'tls.keyFile': no private key in PEM that opens without a passphrase")
  }
}

function codeOf(error: unknown): string {
  return (error as NodeJS.ErrnoException).code ?? 'error'
}
