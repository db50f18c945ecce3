/**
 * Channel binding `tls-exporter` (RFC 9266): 32 bytes that the two ends of one TLS connection have in common, and nobody else.
 * A login that is bound to them is good on that connection alone, so whoever stands between two connections can't pass it on.
 */
import type { Socket } from 'node:net'
import { TLSSocket } from 'node:tls'

const LABEL = 'EXPORTER-Channel-Binding'
const LENGTH = 32

/**
 * Of a connection whose handshake is over. TypeError under TLS 1.2: whether its exporter is bound to the handshake (RFC 7627)
 * node doesn't say.
 */
export function tlsExporter(socket: TLSSocket): Uint8Array {
  if (socket.getProtocol() !== 'TLSv1.3') throw new TypeError('channel binding takes TLS 1.3')
  return new Uint8Array(socket.exportKeyingMaterial(LENGTH, LABEL, Buffer.alloc(0)))
}

/** Of the connection that a request came on; undefined unless TLS 1.3 ends in this process. */
export function exporterOf(socket: Socket | undefined): Uint8Array | undefined {
  return socket instanceof TLSSocket && socket.getProtocol() === 'TLSv1.3' ? tlsExporter(socket) : undefined
}
