/**
 * Session tickets, of which servers without certificates have no use. With SSL_OP_NO_TICKET OpenSSL still sends one in
 * TLS 1.3: the number of a session that node doesn't keep. It opens nothing, but it is there, and node has no option for
 * SSL_CTX_set_num_tickets. OpenSSL's configuration has one (`NumTickets`), and node reads that once, at the start of the
 * process; neither a Worker nor a setting in the running process makes it read another.
 *
 *   node --openssl-config=node_modules/@milagro-ts/tls/no-tickets.cnf server.js
 */
import { randomBytes } from 'node:crypto'
import { Duplex } from 'node:stream'
import { connect, createServer } from 'node:tls'
import { fileURLToPath } from 'node:url'
import type { Log } from '@milagro-ts/api/log'
import { PROTOCOL, SECURE_OPTIONS } from './options.js'

const FILE = fileURLToPath(new URL('../no-tickets.cnf', import.meta.url))

/** With it Node's servers send none. */
export const NO_TICKETS = `--openssl-config=${FILE}`

/** Whether whoever started this process has said which configuration OpenSSL reads. */
export function hasOpensslConfiguration(
  env: Readonly<Record<string, string | undefined>>,
  execArgv: readonly string[],
): boolean {
  const flags = [...execArgv, env.NODE_OPTIONS ?? ''].join(' ')
  return /--openssl-(shared-)?config/.test(flags) || env.OPENSSL_CONF !== undefined
}

/** Whether servers of this process send tickets: seen in a handshake with itself, which no socket carries. */
export async function sendsTickets(): Promise<boolean> {
  const [near, far] = pipe()
  const psk = randomBytes(32)
  const server = createServer(
    { ...PROTOCOL, secureOptions: SECURE_OPTIONS, pskCallback: () => psk },
    // What is sent comes before it.
    socket => socket.end('.'),
  )
  const client = connect({
    ...PROTOCOL,
    socket: far,
    pskCallback: () => ({ identity: 'tickets', psk }),
    checkServerIdentity: () => new Error('a certificate was offered in the place of the external PSK'),
  })
  let isSent = false
  client.on('session', () => {
    isSent = true
  })
  try {
    return await new Promise<boolean>((resolve, reject) => {
      client.once('error', reject)
      server.once('tlsClientError', reject)
      client.once('end', () => resolve(isSent))
      client.resume()
      server.emit('connection', near)
    })
  } finally {
    client.destroy()
  }
}

let isSaid = false

/** Says so once in a process whose servers send tickets. Never rejects. */
export async function warnOfTickets(log: Log): Promise<void> {
  if (isSaid) return
  isSaid = true
  try {
    if (!(await sendsTickets())) return
    log.warn(
      { startWith: NO_TICKETS },
      'every handshake ends with a session ticket; it opens nothing, and Node started with that flag sends none',
    )
  } catch (error) {
    log.warn({ err: error }, 'whether session tickets are sent could not be seen')
  }
}

/** What is written into one comes out of the other. */
function pipe(): [Duplex, Duplex] {
  const end = (other: () => Duplex) =>
    new Duplex({
      read() {},
      write(chunk: Buffer, _, done) {
        other().push(chunk)
        done()
      },
      final(done) {
        other().push(null)
        done()
      },
    })
  const near: Duplex = end(() => far)
  const far: Duplex = end(() => near)
  return [near, far]
}
