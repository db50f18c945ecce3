/** The clients' process: as many handshakes of a kind as it is told, so many at once. */
import { connect as rawConnect } from 'node:net'
import { connect as connectTls, createSecureContext } from 'node:tls'
import { connect, secured } from '@milagro-ts/tls/tls'
import { agreement, deviceKey, NAME, PROTOCOL, STATIC, secretOf } from './world.mjs'

/** @typedef {import('./world.mjs').Kind} Kind */
/** @typedef {import('node:tls').TLSSocket} TLSSocket */

/** Of a record of one byte: header, byte, type of the content, tag (RFC 8446 §5.2). */
const ONE_BYTE = 5 + 1 + 1 + 16

/** @type {{secret: string, certificates: import('./world.mjs').Certificates, ports: Record<string, number>}} */
let world
/** Devices that have no PSK yet. @type {ReturnType<typeof deviceKey>[]} */
const fresh = []
let leaf = 0
/** Of devices that are ahead. @type {import('@milagro-ts/client/device').SlotPsk[]} */
const agreed = []
/** Of a device that never connects. @type {ReturnType<typeof deviceKey> | undefined} */
let spare
/** The one that comes again. @type {import('@milagro-ts/client/device').SlotPsk | undefined} */
let known

/** @type {Partial<Record<Kind, import('node:tls').SecureContext>>} */
const contexts = {}

/** @type {ReadonlySet<Kind>} */
const OURS = new Set(['first', 'first-ahead', 'repeated'])
/** @param {Kind} kind */
const isPsk = kind => kind === 'psk' || kind === 'psk-paced'

/** @param {Kind} kind */
function contextOf(kind) {
  const { server, client } = world.certificates
  if (isPsk(kind)) return createSecureContext(PROTOCOL)
  const own = kind === 'p256-mutual' ? { key: client.key, cert: client.cert } : {}
  return createSecureContext({ ...PROTOCOL, ca: server.ca, ...own })
}

/** @param {Kind} kind @param {import('node:net').Socket} raw @returns {Promise<TLSSocket>} */
function begin(kind, raw) {
  if (kind === 'first') {
    const key = fresh.pop()
    if (key === undefined) throw new Error('no device is left')
    return secured(
      connect({ socket: raw, servername: NAME, identity: { externalPsk: async () => agreement(key) } }),
    )
  }
  if (kind === 'first-ahead') {
    const psk = agreed.pop()
    if (psk === undefined) throw new Error('no agreement is left')
    return secured(connect({ socket: raw, servername: NAME, identity: { externalPsk: async () => psk } }))
  }
  if (kind === 'repeated') {
    known ??= agreement(deviceKey(secretOf(world.secret), 0))
    const psk = known
    return secured(connect({ socket: raw, servername: NAME, identity: { externalPsk: async () => psk } }))
  }
  // As long as a first one takes here, for nothing.
  if (kind === 'psk-paced') {
    spare ??= deviceKey(secretOf(world.secret), 0)
    agreement(spare)
  }
  // Made once, as the fastest that node:tls offers.
  const secureContext = contexts[kind] ?? contextOf(kind)
  contexts[kind] = secureContext
  const socket = connectTls(
    isPsk(kind)
      ? {
          socket: raw,
          secureContext,
          pskCallback: () => STATIC,
          checkServerIdentity: () => new Error('none'),
        }
      : { socket: raw, secureContext, servername: NAME },
  )
  return new Promise((resolve, reject) => {
    socket.once('error', reject)
    socket.once('secureConnect', () => {
      socket.off('error', reject)
      resolve(socket)
    })
  })
}

/**
 * A connection with its handshake over at both ends, and the bytes that it took.
 *
 * @param {Kind} kind
 * @param {(length: number) => void} [received]
 */
async function open(kind, received = () => undefined) {
  const at = OURS.has(kind) ? 'milagro' : isPsk(kind) ? 'psk' : kind
  const port = world.ports[at] ?? 0
  const raw = rawConnect(port, '127.0.0.1')
  raw.setNoDelay()
  await new Promise((resolve, reject) => {
    raw.once('error', reject)
    raw.once('connect', () => {
      raw.off('error', reject)
      resolve(undefined)
    })
  })
  const socket = await begin(kind, raw)
  await new Promise((resolve, reject) => {
    socket.once('error', reject)
    socket.on('data', data => {
      received(data.length)
      resolve(undefined)
    })
  })
  if (kind.startsWith('p256') && !socket.authorized) throw new Error('a server that nobody vouches for')
  return { socket, bytes: raw.bytesRead + raw.bytesWritten - ONE_BYTE }
}

/** @type {Record<string, (input: any) => Promise<unknown>>} */
const tasks = {
  listen: async input => {
    world = input
  },
  /** Devices are made outside the time, and what they do ahead. @param {{kind: Kind, count: number}} input */
  prepare: async ({ kind, count }) => {
    const s = secretOf(world.secret)
    if (kind === 'first') while (fresh.length < count) fresh.push(deviceKey(s, ++leaf))
    if (kind === 'first-ahead') while (agreed.length < count) agreed.push(agreement(deviceKey(s, ++leaf)))
  },
  /** @param {{kind: Kind, count: number, width: number}} input */
  handshakes: async ({ kind, count, width }) => {
    let next = 0
    let bytes = 0
    const begun = process.cpuUsage()
    const at = performance.now()
    await Promise.all(
      Array.from({ length: width }, async () => {
        while (next < count) {
          next++
          const { socket, bytes: took } = await open(kind)
          bytes = took
          const gone = new Promise(resolve => socket.once('close', resolve))
          socket.destroy()
          await gone
        }
      }),
    )
    return { ms: performance.now() - at, cpu: process.cpuUsage(begun), bytes }
  },
  /** @param {{kind: Kind, count: number}} input */
  hold: async ({ kind, count }) => {
    const held = []
    for (let i = 0; i < count; i++) held.push((await open(kind)).socket)
    kept = held
    return held.length
  },
  release: async () => {
    await Promise.all(
      kept.map(socket => {
        const gone = new Promise(resolve => socket.once('close', resolve))
        socket.destroy()
        return gone
      }),
    )
    kept = []
  },
  /** Milliseconds from the first byte to the end. @param {{kind: Kind, bytes: number}} input */
  receive: async ({ kind, bytes }) => {
    const begun = process.cpuUsage()
    let received = 0
    const { socket } = await open(kind, length => {
      received += length
    })
    const at = performance.now()
    await new Promise(resolve => socket.once('end', resolve))
    const ms = performance.now() - at
    socket.destroy()
    if (received !== bytes) throw new Error(`${received} of ${bytes} bytes came`)
    return { ms, cpu: process.cpuUsage(begun) }
  },
}
/** @type {TLSSocket[]} */
let kept = []

process.on('message', async (/** @type {{task: string, input: unknown}} */ { task, input }) => {
  process.send?.({ done: await tasks[task]?.(input) })
})
process.on('disconnect', () => process.exit())
