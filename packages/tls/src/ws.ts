/**
 * WebSockets without certificates, for the package `ws` (or another that has its `handleUpgrade`).
 *
 *   server    acceptWebSockets(https, new WebSocketServer({ noServer: true }), (socket, request, peer) => …)
 *   client    new WebSocket('wss://gw.example/', { agent: httpsAgent(car) })
 *
 * The agent is the guard of pools: one for each device.
 */
import type { Server as HttpServer } from 'node:http'
import type { Duplex } from 'node:stream'
import type { TlsPeer } from './door.js'
import { admit, type IdentityRequest, type IdentityTlsServer, peerOf } from './server.js'

/** What of ws' WebSocketServer is asked for. */
export interface UpgradeHandler<W> {
  handleUpgrade(request: IdentityRequest, socket: Duplex, head: Buffer, done: (socket: W) => void): void
}

/** Every upgrade at the server goes to `sockets`; `listener` runs for proven devices only, and is told which. */
export function acceptWebSockets<W>(
  server: IdentityTlsServer & { readonly http: HttpServer },
  sockets: UpgradeHandler<W>,
  listener: (socket: W, request: IdentityRequest, peer: TlsPeer) => void,
): void {
  server.http.on('upgrade', (request, socket, head) => {
    const peer = peerOf(request)
    const admitted = admit(request, peer)
    sockets.handleUpgrade(admitted, socket, head, upgraded => listener(upgraded, admitted, peer))
  })
}
