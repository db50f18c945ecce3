/**
 * Records one handshake with the identity and PSK of vectors/v1.json, between node:tls on both ends, for
 * docs/protocols/tls.md: what is on the wire each way, the secrets of its key log, and what follows from them. Servers of a
 * process that was started otherwise send a session ticket after the handshake, which is an error here.
 *
 *   node --openssl-config=packages/tls/no-tickets.cnf packages/tls/test/record-handshake.mjs > handshake.json
 *   mv handshake.json vectors/tls-handshake.json
 */
import { constants, createDecipheriv, createHash, createHmac } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createServer as proxyServer, connect as rawConnect } from 'node:net'
import { connect, createServer } from 'node:tls'

const { m1 } = JSON.parse(readFileSync(new URL('../../../vectors/v1.json', import.meta.url), 'utf8')).tls
const psk = Buffer.from(m1.psk, 'hex')
const suite = { ciphers: 'TLS_AES_128_GCM_SHA256', minVersion: 'TLSv1.3', ecdhCurve: 'X25519' }
const sent = { client: [], server: [] }
const secrets = {}

const server = createServer(
  { ...suite, secureOptions: constants.SSL_OP_NO_TICKET, pskCallback: () => psk },
  socket => socket.end('in'),
)
const proxy = proxyServer(client => {
  const onward = rawConnect(server.address().port, '127.0.0.1')
  client.on('data', bytes => sent.client.push(bytes) && onward.write(bytes))
  onward.on('data', bytes => sent.server.push(bytes) && client.write(bytes))
  for (const socket of [client, onward]) socket.on('error', () => {})
  onward.on('close', () => client.end())
})
server.on('keylog', line => {
  const [label, , secret] = line.toString().trim().split(' ')
  secrets[label] = secret
})
server.listen(0, '127.0.0.1', () =>
  proxy.listen(0, '127.0.0.1', () => {
    const socket = connect({
      host: '127.0.0.1',
      port: proxy.address().port,
      ...suite,
      checkServerIdentity: () => new Error('no certificates'),
      pskCallback: () => ({ psk, identity: m1.identity }),
    })
    socket.resume()
    socket.on('close', () => {
      proxy.close()
      server.close()
      console.log(JSON.stringify(worked(Buffer.concat(sent.client), Buffer.concat(sent.server)), null, 2))
    })
  }),
)

const hmac = (key, ...parts) => {
  const made = createHmac('sha256', key)
  for (const part of parts) made.update(part)
  return made.digest()
}
const hash = bytes => createHash('sha256').update(bytes).digest()
/** HKDF-Expand-Label of RFC 8446 §7.1, up to 32 bytes. */
function expandLabel(secret, label, context, length = 32) {
  const name = `tls13 ${label}`
  const info = Buffer.from([0, length, name.length, ...Buffer.from(name), context.length, ...context, 1])
  return hmac(secret, info).subarray(0, length)
}

function worked(client, server) {
  const hello = client.subarray(5, 5 + client.readUInt16BE(3))
  const early = hmac(Buffer.alloc(32), psk)
  const binderKey = expandLabel(early, 'ext binder', hash(''))
  const binderFinishedKey = expandLabel(binderKey, 'finished', '')
  const truncatedHash = hash(hello.subarray(0, -35))
  const ofServer = encrypted(server)
  const ofClient = encrypted(client)
  const [encryptedExtensions, serverFinished] = opened(
    ofServer.slice(0, 2),
    secrets.SERVER_HANDSHAKE_TRAFFIC_SECRET,
  )
  const [clientFinished] = opened(ofClient.slice(0, 1), secrets.CLIENT_HANDSHAKE_TRAFFIC_SECRET)
  const after = [
    ...opened(ofServer.slice(2), secrets.SERVER_TRAFFIC_SECRET_0),
    ...opened(ofClient.slice(1), secrets.CLIENT_TRAFFIC_SECRET_0),
  ]
  if (after.some(({ type }) => type === HANDSHAKE)) throw new Error('a session ticket was sent')
  const hex = bytes => bytes.toString('hex')
  return {
    identity: m1.identity,
    psk: m1.psk,
    client: hex(client),
    server: hex(server),
    earlySecret: hex(early),
    binderKey: hex(binderKey),
    binderFinishedKey: hex(binderFinishedKey),
    truncatedHash: hex(truncatedHash),
    binder: hex(hmac(binderFinishedKey, truncatedHash)),
    clientHandshakeTrafficSecret: secrets.CLIENT_HANDSHAKE_TRAFFIC_SECRET,
    serverHandshakeTrafficSecret: secrets.SERVER_HANDSHAKE_TRAFFIC_SECRET,
    clientTrafficSecret: secrets.CLIENT_TRAFFIC_SECRET_0,
    serverTrafficSecret: secrets.SERVER_TRAFFIC_SECRET_0,
    encryptedExtensions: hex(encryptedExtensions.said),
    serverFinished: hex(serverFinished.said),
    clientFinished: hex(clientFinished.said),
  }
}

/** Types of what is in a record: alert 21, handshake 22, application data 23, which every encrypted one is on the wire. */
const HANDSHAKE = 22
const APPLICATION_DATA = 23

/** One side's encrypted records, header and body, in the order sent. */
function encrypted(bytes) {
  const found = []
  for (let at = 0; at < bytes.length; ) {
    const header = bytes.subarray(at, at + 5)
    const body = bytes.subarray(at + 5, at + 5 + header.readUInt16BE(3))
    at += 5 + body.length
    if (header[0] === APPLICATION_DATA) found.push({ header, body })
  }
  return found
}

/** What stands in all the records under one traffic secret. */
function opened(records, secret) {
  const key = expandLabel(Buffer.from(secret, 'hex'), 'key', '', 16)
  const iv = expandLabel(Buffer.from(secret, 'hex'), 'iv', '', 12)
  return records.map(({ header, body }, sequence) => {
    const nonce = Buffer.from(iv)
    nonce[11] ^= sequence
    const decipher = createDecipheriv('aes-128-gcm', key, nonce).setAAD(header).setAuthTag(body.subarray(-16))
    const plain = Buffer.concat([decipher.update(body.subarray(0, -16)), decipher.final()])
    return { type: plain.at(-1), said: plain.subarray(0, -1) }
  })
}
