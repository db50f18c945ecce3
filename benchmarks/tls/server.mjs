/** The server's process: a listener for each kind, told what to do by messages. */
import { constants } from 'node:crypto'
import { createServer as createTlsServer } from 'node:tls'
import { generateEs256 } from '@milagro-ts/api/keys'
import { createLog } from '@milagro-ts/api/log'
import { nodeExchange } from '@milagro-ts/api/node-exchange'
import { systemTimers } from '@milagro-ts/api/system'
import { CryptoPool } from '@milagro-ts/crypto/node-pool'
import { Guard } from '@milagro-ts/rpa/guard'
import { Door } from '@milagro-ts/tls/door'
import { Permits } from '@milagro-ts/tls/permits'
import { createServer } from '@milagro-ts/tls/tls'
import {
  B,
  EPOCH,
  groupId,
  NAME,
  PROTOCOL,
  permitKey,
  RULE,
  random,
  SLOT,
  STATIC,
  secretOf,
  slotKey,
} from './world.mjs'

/** @typedef {import('./world.mjs').Kind} Kind */

const CHUNK = Buffer.alloc(65_536, 0x61)
/** Bytes that are sent instead of one; set by `bulk`. */
let bulk = 0
/** What is open, for `idle`. */
let open = 0

/** One byte says that the handshake is over here, too. @param {import('node:tls').TLSSocket} socket */
function serve(socket) {
  open++
  socket.on('close', () => open--).on('error', () => undefined)
  if (bulk === 0) {
    socket.write('x')
    return
  }
  let left = bulk
  const more = () => {
    while (left > 0) {
      left -= CHUNK.length
      if (!socket.write(CHUNK)) return
    }
    socket.off('drain', more)
    socket.end()
  }
  socket.on('drain', more)
  more()
}

/** @param {{secret: string, rpsUrl: string, certificates: import('./world.mjs').Certificates}} start */
async function listen({ secret, rpsUrl, certificates: { server, client } }) {
  const common = { ...PROTOCOL, secureOptions: constants.SSL_OP_NO_TICKET }
  const door = await openDoor(secretOf(secret), rpsUrl)
  const log = createLog('tls', { level: 'warn' })
  /** @type {Record<string, import('node:net').Server>} */
  const servers = {
    p256: createTlsServer({ ...common, key: server.key, cert: server.cert }, serve),
    'p256-mutual': createTlsServer(
      { ...common, key: server.key, cert: server.cert, ca: client.ca, requestCert: true },
      serve,
    ),
    psk: createTlsServer({ ...common, pskCallback: () => STATIC.psk }, serve),
    milagro: createServer({ door, timers: systemTimers, log }, serve),
  }
  /** @type {Record<string, number>} */
  const ports = {}
  for (const [name, one] of Object.entries(servers)) {
    one.on('tlsClientError', error => {
      throw error
    })
    await new Promise(resolve => one.listen(0, '127.0.0.1', () => resolve(undefined)))
    ports[name] = /** @type {import('node:net').AddressInfo} */ (one.address()).port
  }
  return ports
}

/** @param {import('@milagro-ts/crypto/scalar').Scalar} s @param {string} rpsUrl */
async function openDoor(s, rpsUrl) {
  const pool = CryptoPool.start({ workers: 1, random, clock: Date.now, timers: systemTimers })
  await pool.handOver(async () => [slotKey(s)])
  const ports = {
    keys: {
      B: (/** @type {number} */ slot) => (slot === SLOT ? B : undefined),
      keepComplete: async () => {},
    },
    bans: { fresh: true, list: { denies: () => null, number: 0 } },
    permitted: await openPermits(s, rpsUrl, pool),
    rule: () => ({ slotRule: RULE, grace: 0 }),
    pool,
    clock: Date.now,
    random,
    timers: systemTimers,
    log: createLog('tls', { level: 'warn' }),
  }
  const door = new Door(ports)
  door.start()
  return door
}

/**
 * The RPS is asked once for a device and slot, as by every service. Of the group document there is what a permit is checked by.
 *
 * @param {import('@milagro-ts/crypto/scalar').Scalar} s
 * @param {string} rpsUrl
 * @param {CryptoPool} pool
 */
async function openPermits(s, rpsUrl, pool) {
  const keys = { epoch: EPOCH, pub: permitKey(s) }
  const group = /** @type {import('@milagro-ts/api/group').Group} */ (
    /** @type {unknown} */ ({ groupId, slotRule: RULE, keysAt: () => keys })
  )
  const guard = new Guard({
    rpsUrl,
    audience: NAME,
    name: NAME,
    requestKey: await generateEs256(),
    group,
    random,
    clock: Date.now,
    timers: systemTimers,
    fetch,
    exchange: nodeExchange,
    log: createLog('tls', { level: 'warn' }),
  })
  const permits = new Permits({ guard, group: () => group, pool })
  return (/** @type {import('@milagro-ts/crypto/identity').IdCore} */ idCore, /** @type {number} */ slot) =>
    permits.of(idCore, slot)
}

const collect = /** @type {() => void} */ (globalThis.gc ?? (() => undefined))

/** @type {Record<string, (input: any) => unknown>} */
const tasks = {
  listen,
  /** Microseconds of the whole process, its worker included, until now. */
  cpu: () => process.cpuUsage(),
  bulk: (/** @type {number} */ bytes) => {
    bulk = bytes
    return bytes
  },
  memory: () => {
    collect()
    return { open, rss: process.memoryUsage.rss() }
  },
}

process.on('message', async (/** @type {{task: string, input: unknown}} */ { task, input }) => {
  process.send?.({ done: await tasks[task]?.(input) })
})
process.on('disconnect', () => process.exit())
