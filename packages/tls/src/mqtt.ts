/**
 * MQTT without certificates: MQTT.js' `connect`. Each attempt is a connection of its own, by the PSK of its own slot.
 *
 *   connect('mqtts://gw.example', { identity: car, clientId })
 *
 * A broker in this process takes the sockets of a server of `tls`, which say whose they are (`socket.peer`); any other
 * stands behind the gateway.
 */
import { type IClientOptions, MqttClient } from 'mqtt'
import { type Accepted, clientSettings, type Fixed, refuseFixed } from './options.js'
import { type ConnectOptions, connect as tlsConnect } from './tls.js'

export interface MqttOptions
  extends Omit<IClientOptions, Fixed | 'servers' | 'servername'>,
    Accepted,
    Pick<ConnectOptions, 'identity' | 'servername' | 'clock' | 'timers' | 'warnBefore' | 'tls12'> {}

const SCHEMES = ['mqtts:', 'ssl:', 'tls:']

/**
 * The server is the one that `servername` says, or the URL's host. What a connection ends with is the client's `error`.
 * TypeError for an option that is fixed, and for another scheme than mqtts.
 */
export function connect(url: string, options: MqttOptions): MqttClient
export function connect(options: MqttOptions): MqttClient
export function connect(...given: [string, MqttOptions] | [MqttOptions]): MqttClient {
  const [url, options] = given.length === 2 ? [new URL(given[0]), given[1]] : [undefined, given[0]]
  const protocol = url?.protocol ?? `${options.protocol ?? 'mqtts'}:`
  if (!SCHEMES.includes(protocol)) throw new TypeError('mqtts alone: anything else would go unprotected')
  const { identity, clock, timers, warnBefore, tls12, ...client } = options
  refuseFixed(client, clientSettings(tls12))
  if ((client as IClientOptions).servers !== undefined)
    throw new TypeError('servers: a client for each, since each is another server')
  const { servername } = options
  const to: ConnectOptions = {
    identity,
    host: url?.hostname.replace(/^\[(.*)\]$/, '$1') ?? options.hostname ?? options.host ?? 'localhost',
    port: Number(url?.port || options.port || 8883),
    ...(servername === undefined ? {} : { servername }),
    ...(clock === undefined ? {} : { clock }),
    ...(timers === undefined ? {} : { timers }),
    ...(warnBefore === undefined ? {} : { warnBefore }),
    ...(tls12 === undefined ? {} : { tls12 }),
  }
  const known = {
    ...(url?.username ? { username: decodeURIComponent(url.username) } : {}),
    ...(url?.password ? { password: decodeURIComponent(url.password) } : {}),
  }
  return new MqttClient(() => tlsConnect(to), { ...known, ...client } as IClientOptions)
}

/**
 * `connect`, and a promise of the client once it is connected, or was ended. Rejects with the client's first error; where a connection
 * closes without one it tries again, unless `allowRetries` is false. TypeError as `connect`.
 */
export function connectAsync(url: string, options: MqttOptions, allowRetries?: boolean): Promise<MqttClient>
export function connectAsync(options: MqttOptions, allowRetries?: boolean): Promise<MqttClient>
export async function connectAsync(...given: unknown[]): Promise<MqttClient> {
  const client = connect(...(given.filter(one => typeof one !== 'boolean') as [MqttOptions]))
  return new Promise((resolve, reject) => {
    const connected = () => {
      for (const [event, listener] of listeners) client.off(event, listener)
      resolve(client)
    }
    const failed = (error: Error) => {
      for (const [event, listener] of listeners) client.off(event, listener)
      client.end()
      reject(error)
    }
    const listeners: [event: 'connect' | 'end' | 'error' | 'close', listener: (error: Error) => void][] = [
      ['connect', connected],
      ['end', connected],
      ['error', failed],
    ]
    if (given.at(-1) === false)
      listeners.push(['close', () => failed(new Error('closed before it was connected'))])
    for (const [event, listener] of listeners) client.on(event, listener)
  })
}

export { MqttClient }
export default { connect, connectAsync, MqttClient }
