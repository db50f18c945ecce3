/**
 * undici, and so the global fetch, as one device: undici's own `buildConnector`, with an identity in the place of
 * certificates.
 *
 *   const dispatcher = new Agent({ connect: buildConnector({ identity: car }) })     Agent is undici's
 *   await fetch('https://gw.example/', { dispatcher })
 *
 * undici's pools know connections by their origin, not by their PSK. So a dispatcher that has this connector speaks for the
 * connector's device alone: one for each, and none of them the global one where a process has several devices.
 */
import type { TLSSocket } from 'node:tls'
import { type ConnectOptions, connect } from './connect.js'
import { refuseFixed } from './options.js'

export interface ConnectorOptions extends Omit<ConnectOptions, 'host' | 'port' | 'path' | 'socket'> {}

/** What undici asks of a connector: the URL's host and port. */
export interface ConnectorTarget {
  readonly hostname: string
  readonly port: string
  readonly protocol: string
}
export type Connector = (
  target: ConnectorTarget,
  callback: (...answer: [error: null, socket: TLSSocket] | [error: Error, socket: null]) => void,
) => void

/**
 * The server is the one that `servername` says, or the URL's host; never what a header says. TypeError for an option that is
 * fixed; of a request it is what `connect` rejects with, and TypeError for a URL that isn't https.
 */
export function buildConnector(options: ConnectorOptions): Connector {
  refuseFixed(options)
  return ({ hostname, port, protocol }, callback) => {
    const connecting =
      protocol === 'https:'
        ? connect({
            ALPNProtocols: ['http/1.1'],
            ...options,
            host: unbracketed(hostname),
            port: Number(port || 443),
          })
        : Promise.reject(new TypeError('https alone: anything else would go unprotected'))
    connecting.then(
      socket => callback(null, socket),
      (error: Error) => callback(error, null),
    )
  }
}

/** An IPv6 address as a URL has it. */
const unbracketed = (hostname: string) => hostname.replace(/^\[(.*)\]$/, '$1')
