/**
 * `milagro tls peer`: a channel from device to device (packages/tls, peer.ts), for trying it out. `prepare` asks the RPS and
 * the authorities, `listen` and `connect` ask nobody. Each direction ends with its sender's standard input, and both
 * commands end when both directions have.
 */
import type { AddressInfo } from 'node:net'
import type { TLSSocket } from 'node:tls'
import { Unreachable } from '@milagro-ts/api/call'
import { createLog } from '@milagro-ts/api/log'
import type { Device } from '@milagro-ts/client/device'
import { slotAt } from '@milagro-ts/crypto/time-permit'
import type { TlsPeer } from '@milagro-ts/tls/door'
import type { PeerServer } from '@milagro-ts/tls/peer'
import type { Command } from 'commander'
import { answers, CommandRefused, type Io, mpinIdOf, UsageError } from '../io.js'
import { openDevice, type SessionOptions, withSession } from '../session.js'

export function addPeer(tls: Command, io: Io): void {
  const peer = tls.command('peer').description('a channel between two devices, with no server anywhere')

  answers(
    io,
    withSession(
      peer
        .command('prepare')
        .description(
          'fetch what channels of this slot and the next take, the permit and this device’s own slot key; until they end `listen` and `connect` ask nobody',
        ),
    ),
    async (options: SessionOptions) => {
      const device = await openDevice(options, io)
      const slots = await device.preparePeers()
      return {
        json: { idCore: device.mpinId, slots },
        text: [`${device.mpinId} is ready for ${slots.map(slot => `slot ${slot}`).join(' and ')}`],
      }
    },
  )

  withSession(
    peer
      .command('listen')
      .description(
        'answer one channel: standard input goes to the device at the other end, what it sends to standard output',
      )
      .requiredOption('--allow <mpin-id...>', 'who may come in')
      .option('--listen <host:port>', 'where it listens', '127.0.0.1:0'),
  ).action(async ({ allow, listen, ...options }: SessionOptions & { allow: string[]; listen: string }) => {
    const allowed = allow.map(text => mpinIdOf(text, '--allow'))
    const address = await addressIn(listen, '--listen')
    const device = await preparedDevice(options, io)
    const { createPeerServer } = await import('@milagro-ts/tls/peer')
    const { clock, random, err } = io
    const server = createPeerServer({
      identity: device,
      allow: idCore => allowed.some(one => one.equals(idCore)),
      log: createLog('milagro', { level: 'warn', destination: { write: err } }),
      clock,
      random,
    })
    server.on('tlsClientError', ({ message }: Error) => err(`somebody was not let in: ${message}\n`))
    const [socket, { mpinId }] = await first(server, address, err)
    err(`${mpinId} has come in\n`)
    try {
      await bothWays(socket, io)
    } finally {
      server.close()
    }
  })

  withSession(
    peer
      .command('connect')
      .description(
        'open a channel: standard input goes to the device at the other end, what it sends to standard output',
      )
      .requiredOption('--to <mpin-id>', 'the device that has to be at the other end')
      .requiredOption('--at <host:port>', 'where it listens'),
  ).action(async ({ to, at, ...options }: SessionOptions & { to: string; at: string }) => {
    const expected = mpinIdOf(to, '--to')
    const address = await addressIn(at, '--at')
    const device = await preparedDevice(options, io)
    if (expected.equals(device.idCore)) throw new UsageError('--to: a device is no peer of its own')
    const { connectPeer } = await import('@milagro-ts/tls/peer')
    const socket = await connectPeer({
      ...address,
      identity: device,
      peer: expected,
      clock: io.clock,
    }).catch((error: unknown) => {
      throw whyNot(error, at)
    })
    io.err(`${expected.mpinId} has answered\n`)
    await bothWays(socket, io)
  })
}

/** TLS doesn't tell who isn't let in why; a socket that doesn't come about says so. */
function whyNot(error: unknown, at: string): unknown {
  const { code, syscall } = error as NodeJS.ErrnoException
  if (syscall === 'connect') return new Unreachable(`${at} (${code})`)
  if (code?.startsWith('ERR_SSL_') !== true) return error
  return new CommandRefused(`at ${at} is another device, or one that doesn’t let this one in (${code})`)
}

/** The first that comes in; who comes after it is sent away. */
function first(
  server: PeerServer,
  address: { readonly host: string; readonly port: number },
  err: Io['err'],
): Promise<[TLSSocket, TlsPeer]> {
  return new Promise((resolve, reject) => {
    let isTaken = false
    server.once('error', reject)
    server.on('secureConnection', (socket: TLSSocket, peer: TlsPeer) => {
      if (isTaken) return void socket.destroy()
      isTaken = true
      resolve([socket, peer])
    })
    server.listen(address, () => {
      const { address: host, port } = server.address() as AddressInfo
      err(`listening on ${host.includes(':') ? `[${host}]` : host}:${port}\n`)
    })
  })
}

/** Until both directions have ended. CommandRefused for a channel that is closed before. */
async function bothWays(socket: TLSSocket, { bytes, err }: Io): Promise<void> {
  // What the other end says after our input has ended still counts.
  socket.allowHalfOpen = true
  socket.once('permit-ending', () => err('the slot is about to end, and the channel with it\n'))
  const receive = async () => {
    for await (const chunk of socket.iterator({ destroyOnReturn: false }))
      await bytes.output(new Uint8Array(chunk as Buffer))
  }
  const send = async () => {
    const reader = bytes.input().getReader()
    for (let read = await reader.read(); !read.done; read = await reader.read()) {
      const { value } = read
      await new Promise<void>((resolve, reject) =>
        socket.write(value, error => (error == null ? resolve() : reject(error))),
      )
    }
    socket.end()
  }
  try {
    // A channel that is closed ends the wait for input that nobody could get any more.
    await Promise.race([Promise.all([receive(), send()]), brokenOff(socket)])
  } finally {
    bytes.close()
    socket.destroy()
  }
}

function brokenOff(socket: TLSSocket): Promise<never> {
  return new Promise((_, reject) => {
    const refuse = () => reject(new CommandRefused('the channel was closed before its end'))
    socket.once('error', refuse)
    // Where both directions have ended, what was read last may still be on its way out.
    socket.once('close', () => {
      if (!socket.readableEnded || !socket.writableFinished) refuse()
    })
  })
}

/** A device with a permit of the current slot in hand. CommandRefused without one: everything here goes without a network. */
async function preparedDevice(options: SessionOptions, io: Io): Promise<Device> {
  const device = await openDevice(options, io)
  const slot = slotAt(device.group.slotRule, Math.floor(io.clock() / 1000))
  if (device.permitInHand(slot) === null)
    throw new CommandRefused(
      'nothing is here of this slot: `milagro tls peer prepare`, while there is a network',
    )
  return device
}

async function addressIn(
  text: string,
  flag: string,
): Promise<{ readonly host: string; readonly port: number }> {
  const { addressFlag } = await import('@milagro-ts/tls/gateway-config')
  return addressFlag(text, flag)
}
