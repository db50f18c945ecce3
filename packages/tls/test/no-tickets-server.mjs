/**
 * A server for one device, the one of docs/protocols/tls.md in its slot, as somebody starts it who wants no session tickets:
 *
 *   node --openssl-config=packages/tls/no-tickets.cnf packages/tls/test/no-tickets-server.mjs
 *
 * It says its port and what it sees of tickets, and ends with its standard input.
 */
import { readFileSync } from 'node:fs'
import { createLog } from '@milagro-ts/api/log'
import { systemRandom, systemTimers } from '@milagro-ts/api/system'
import { PskIdentity } from '@milagro-ts/crypto/static-agreement'
import { Door } from '@milagro-ts/tls/door'
import { sendsTickets } from '@milagro-ts/tls/tickets'
import { createServer } from '@milagro-ts/tls/tls'

const { m1 } = JSON.parse(readFileSync(new URL('../../../vectors/v1.json', import.meta.url), 'utf8')).tls
const { slot } = PskIdentity.decode(m1.identity)
const HOUR = 3_600
const log = createLog('tls', { level: 'warn', destination: process.stderr })

const door = new Door({
  keys: { B: () => Buffer.from(m1.B, 'hex'), keepComplete: async () => {} },
  bans: { fresh: true, list: { denies: () => null, number: 0 } },
  permitted: async () => ({ attributes: {}, instance: '' }),
  rule: () => ({ slotRule: { origin: 0, length: HOUR }, grace: 0 }),
  pool: { externalPsk: async () => Buffer.from(m1.psk, 'hex') },
  clock: () => slot * HOUR * 1000,
  random: systemRandom,
  timers: systemTimers,
  log,
})
const server = createServer({ door, timers: systemTimers, log }, socket => {
  socket.on('error', () => undefined)
  socket.end('welcome')
})
server.on('tlsClientError', () => undefined)
server.listen(0, '127.0.0.1', async () => {
  console.log(JSON.stringify({ port: server.address().port, sendsTickets: await sendsTickets() }))
})
process.stdin.resume().on('end', () => process.exit())
