/**
 * A client whose process trusts another CA (NODE_EXTRA_CA_CERTS, which node reads once, at the start), at a server that has
 * a certificate of it and no PSK:
 *
 *   NODE_EXTRA_CA_CERTS=ca.pem node packages/tls/test/trusting-client.mjs < where.json
 *
 * where.json: {"port", "name", "identity", "psk" in hex, "isWide"}. It says what each way in came to: `in`, or the error.
 * Where `isWide`, every context takes a suite of certificates for TLS 1.2 as well.
 */
import { readFileSync } from 'node:fs'
import { request as plainRequest } from 'node:https'
import { syncBuiltinESMExports } from 'node:module'
import tls from 'node:tls'

const { port, name, identity, psk, isWide } = JSON.parse(readFileSync(0, 'utf8'))
const OF_CERTIFICATES = 'ECDHE-ECDSA-AES128-GCM-SHA256'
if (isWide) {
  const { createSecureContext } = tls
  tls.createSecureContext = options =>
    createSecureContext({
      ...options,
      ciphers: `${options.ciphers ?? tls.DEFAULT_CIPHERS}:${OF_CERTIFICATES}`,
    })
  syncBuiltinESMExports()
}
const { connect, secured } = await import('@milagro-ts/tls/tls')
const { request } = await import('@milagro-ts/tls/https')
const { connect: connectHttp2 } = await import('@milagro-ts/tls/http2')
const { Agent, fetch } = await import('@milagro-ts/tls/undici')
const { WebSocket } = await import('@milagro-ts/tls/ws')

/** The server's name leads here. */
const lookup = (_, { all }, found) =>
  all ? found(null, [{ address: '127.0.0.1', family: 4 }]) : found(null, '127.0.0.1', 4)
const at = { host: name, port, lookup }
const url = `https://${name}:${port}/`
const key = { identity, psk: Buffer.from(psk, 'hex') }
const plain = { ...at, agent: false, pskCallback: () => key }
const own = { identity: { externalPsk: async () => ({ ...key, slot: 0, endsAt: Date.now() + 3_600_000 }) } }

/** An answer, or the first error. */
const asked = emitter =>
  new Promise((resolve, reject) => {
    emitter.once('error', reject)
    emitter.once('response', resolve)
    emitter.end?.()
  })
const overHttp2 = () => {
  const session = connectHttp2(url, { ...own, lookup })
  return new Promise((resolve, reject) => {
    session.once('error', reject)
    const stream = session.request({})
    stream.on('error', reject)
    stream.once('response', resolve)
  }).finally(() => session.destroy())
}
const overUndici = () => {
  const dispatcher = new Agent({ connect: { ...own, lookup } })
  return fetch(url, { dispatcher }).finally(() => dispatcher.destroy())
}
const overWs = () =>
  new Promise((resolve, reject) => {
    const socket = new WebSocket(url.replace('https', 'wss'), { ...own, lookup })
    socket.once('error', reject)
    socket.once('open', resolve)
    socket.once('unexpected-response', resolve)
  })

const tls12 = { minVersion: 'TLSv1.2', maxVersion: 'TLSv1.2' }
const ways = {
  'node:https': () => asked(plainRequest(plain)),
  'node:https, TLS 1.2': () =>
    asked(plainRequest({ ...plain, ...tls12, ciphers: `ECDHE-PSK-CHACHA20-POLY1305:${OF_CERTIFICATES}` })),
  tls: () => secured(connect({ ...at, ...own })),
  'tls, TLS 1.2': () => secured(connect({ ...at, ...own, tls12: true })),
  https: () => asked(request({ ...at, ...own, agent: false })),
  http2: overHttp2,
  undici: overUndici,
  ws: overWs,
}
const outcomes = {}
for (const [way, go] of Object.entries(ways))
  outcomes[way] = await go().then(
    () => 'in',
    // fetch says why in the error's cause.
    error => (error.cause ?? error).code ?? (error.cause ?? error).message,
  )
console.log(JSON.stringify(outcomes))
process.exit()
