/**
 * MQTT without certificates: MQTT.js' `connect`. Each attempt is a connection of its own, by the PSK of its own slot.
 *
 *   connect('mqtts://gw.example', { identity: car, clientId })
 *
 * A broker in this process takes the sockets of a server of `tls`, which say whose they are (`socket.peer`); any other
 * stands behind the gateway.
 */
import type { TcpSocketConnectOpts } from 'node:net'
import { type ParsedUrlQuery, parse as parseQuery } from 'node:querystring'
import { domainToASCII } from 'node:url'
import { type IClientOptions, MqttClient } from 'mqtt'
import { type Accepted, clientSettings, type Fixed, refuseFixed } from './options.js'
import { type ConnectOptions, connect as tlsConnect } from './tls.js'

type NotTaken = 'servers' | 'socksProxy' | 'socksTimeout' | 'unixSocket'

/** MQTT.js' options, and those of node:tls and node:net for each connection. */
export interface MqttOptions
  extends Omit<IClientOptions, Fixed | NotTaken | keyof ConnectOptions>,
    Omit<ConnectOptions, 'path'>,
    Omit<TcpSocketConnectOpts, keyof ConnectOptions>,
    Accepted {}

const SCHEMES = ['mqtts', 'ssl', 'tls']

/**
 * The server is the one that `servername` says, or else the host: the options' `hostname` or `host`, or the URL's. Of the URL
 * counts what counts for MQTT.js: host, port, `user:password` and `?clientId=`. What a connection ends with is the client's
 * `error`. TypeError for an option that is fixed or can't be taken, and for another scheme than mqtts.
 */
export function connect(url: string, options: MqttOptions): MqttClient
export function connect(options: MqttOptions): MqttClient
export function connect(...given: [string, MqttOptions] | [MqttOptions]): MqttClient {
  const [url, options] = given.length === 2 ? given : ['', given[0]]
  const { identity: _, clock, timers, warnBefore, tls12, ...client } = options
  refuseFixed(client, clientSettings(tls12))
  const said = client as IClientOptions
  const read: Partial<UrlRead> = url ? readUrl(url) : {}
  const protocol = said.protocol?.replace(/:$/, '') ?? read.protocol ?? 'mqtts'
  refuseNotTaken(said, protocol, options.socket !== undefined)
  if (!SCHEMES.includes(protocol)) throw new TypeError('mqtts alone: anything else would go unprotected')
  const host = said.hostname || said.host || (read.host ?? 'localhost')
  if (host === '') throw new TypeError('host: neither the URL nor the options have one')
  const port = Number(said.port || read.port || 8883)
  const query = said.query ?? read.query
  const known = { ...credentialsIn(said.auth ?? read.auth), ...clientIdIn(query) }
  const to = { ...ofConnection(options), host, port } as ConnectOptions
  const settled = { ...client, protocol, host, port, query, ...known } as IClientOptions
  if (settled.clean === false && !settled.clientId) throw new Error('Missing clientId for unclean clients')
  let told: unknown
  const made = new MqttClient(() => {
    const socket = tlsConnect(to)
    // The client itself tells errors of some codes alone.
    socket.once('error', error =>
      queueMicrotask(() => {
        if (told !== error) made.emit('error', error)
      }),
    )
    return socket
  }, settled)
  // As MQTT.js: who doesn't listen to errors isn't ended by one.
  made.on('error', error => {
    told = error
  })
  return made
}

/** What MQTT.js takes of a URL; of its path nothing, by TLS. */
interface UrlRead {
  readonly protocol: string
  readonly host: string
  readonly port?: number
  readonly auth?: string
  readonly query: ParsedUrlQuery
}

/** A host in the letters that names have on the wire, as for https; `URL` by itself leaves those of mqtts as they are. */
function readUrl(given: string): UrlRead {
  const url = new URL(given)
  const host = url.hostname.replace(/^\[(.*)\]$/, '$1')
  // `URL` loses the colon before an empty password, which MQTT.js counts to the name.
  const auth = /^[^/?#]*\/\/([^/?#]*)@/.exec(given)?.[1]
  return {
    protocol: url.protocol.slice(0, -1),
    host: domainToASCII(host) || host,
    ...(url.port === '' ? {} : { port: Number(url.port) }),
    ...(auth === undefined ? {} : { auth: decodeURIComponent(auth) }),
    query: parseQuery(url.search.slice(1)),
  }
}

/** They count more than `username` and `password`; without both it is all a name. */
function credentialsIn(auth: string | undefined): IClientOptions {
  if (!auth) return {}
  const [, username, password] = /^(.+):(.+)$/.exec(auth) ?? []
  return username === undefined || password === undefined ? { username: auth } : { username, password }
}

/** It counts more than the option `clientId`, unless there are several. */
const clientIdIn = (query: ParsedUrlQuery | undefined): IClientOptions =>
  typeof query?.clientId === 'string' ? { clientId: query.clientId } : {}

/** MQTT.js itself goes to no Unix domain socket by TLS, and to a proxy that the environment says. */
function refuseNotTaken(said: IClientOptions, protocol: string, hasSocket: boolean): void {
  if (said.servers !== undefined)
    throw new TypeError('servers: a client for each, since each is another server')
  if (said.socksProxy || (process.env.MQTTJS_SOCKS_PROXY && !hasSocket))
    throw new TypeError(
      'socksProxy, or MQTTJS_SOCKS_PROXY: a connection would go past it; give a `socket` that goes by it',
    )
  if (said.unixSocket || protocol.includes('+unix'))
    throw new TypeError('unixSocket: mqtts goes to a host and port')
}

/** Of the options those that a connection has: all but MQTT.js' own. */
const ofConnection = (options: MqttOptions): object =>
  Object.fromEntries(Object.entries(options).filter(([name]) => !Object.hasOwn(OF_MQTT, name)))

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

/** MQTT.js' own, as its types list them. `path` is among them: node's would be a Unix domain socket. */
const OF_MQTT: Readonly<
  Record<Exclude<keyof IClientOptions, Fixed | Exclude<keyof ConnectOptions, 'path'>>, true>
> = {
  auth: true,
  authPacket: true,
  autoAssignTopicAlias: true,
  autoUseTopicAlias: true,
  binary: true,
  browserBufferSize: true,
  browserBufferTimeout: true,
  caPaths: true,
  certPath: true,
  clean: true,
  clientId: true,
  connectTimeout: true,
  createWebsocket: true,
  customHandleAcks: true,
  defaultProtocol: true,
  encoding: true,
  forceNativeWebSocket: true,
  hostname: true,
  incomingStore: true,
  keepalive: true,
  keyPath: true,
  log: true,
  manualConnect: true,
  messageIdProvider: true,
  my: true,
  objectMode: true,
  outgoingStore: true,
  password: true,
  path: true,
  properties: true,
  protocol: true,
  protocolId: true,
  protocolVersion: true,
  query: true,
  queueQoSZero: true,
  reconnectOnConnackError: true,
  reconnectPeriod: true,
  reschedulePings: true,
  resubscribe: true,
  servers: true,
  socksProxy: true,
  socksTimeout: true,
  subscribeBatchSize: true,
  timerVariant: true,
  transformWsUrl: true,
  unixSocket: true,
  username: true,
  will: true,
  writeCache: true,
  wsOptions: true,
}

export { MqttClient }
export default { connect, connectAsync, MqttClient }
