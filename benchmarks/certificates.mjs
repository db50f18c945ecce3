/**
 * What a device of a CA carries, made by OpenSSL for the comparison: a certificate for 24 hours and an OCSP staple, ES256
 * throughout, with no extension that the purpose doesn't need.
 */
import { execFileSync } from 'node:child_process'
import { X509Certificate } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const P256 = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes']

/** Null where there is no openssl. */
export function certificates() {
  const folder = mkdtempSync(join(tmpdir(), 'milagro-bench-'))
  const at = (/** @type {string} */ name) => join(folder, name)
  const openssl = (/** @type {string[]} */ ...args) => execFileSync('openssl', args, { stdio: 'pipe' })
  try {
    openssl('version')
  } catch (error) {
    if (/** @type {NodeJS.ErrnoException} */ (error).code === 'ENOENT') return null
    throw error
  }
  try {
    writeFileSync(at('device.cnf'), 'basicConstraints=CA:FALSE\nextendedKeyUsage=clientAuth\n')
    openssl(
      'req',
      '-x509',
      ...P256,
      '-keyout',
      at('ca.key'),
      '-out',
      at('ca.pem'),
      '-subj',
      '/CN=fleet CA',
      '-days',
      '1',
    )
    openssl('req', ...P256, '-keyout', at('device.key'), '-out', at('device.csr'), '-subj', '/CN=car 000001')
    openssl(
      'x509',
      '-req',
      '-in',
      at('device.csr'),
      '-CA',
      at('ca.pem'),
      '-CAkey',
      at('ca.key'),
      '-days',
      '1',
      '-set_serial',
      '0x1001',
      '-extfile',
      at('device.cnf'),
      '-out',
      at('device.pem'),
    )
    // One line of a CA's database (V: valid), as `openssl ca` keeps it.
    writeFileSync(at('index.txt'), 'V\t491231235959Z\t\t1001\tunknown\t/CN=car 000001\n')
    openssl(
      'ocsp',
      '-index',
      at('index.txt'),
      '-CA',
      at('ca.pem'),
      '-rsigner',
      at('ca.pem'),
      '-rkey',
      at('ca.key'),
      '-issuer',
      at('ca.pem'),
      '-cert',
      at('device.pem'),
      '-no_nonce',
      '-resp_no_certs',
      '-ndays',
      '1',
      '-respout',
      at('staple.der'),
      '-noverify',
    )
    const certificate = new X509Certificate(readFileSync(at('device.pem')))
    return {
      /** DER, for Node to read. */
      device: certificate.raw,
      authority: new X509Certificate(readFileSync(at('ca.pem'))).publicKey,
      stapleBytes: readFileSync(at('staple.der')).length,
    }
  } finally {
    rmSync(folder, { recursive: true })
  }
}
