/**
 * HTTP/1.1 behind a gateway: each request is parsed here, and a new one is written to the service with the headers that
 * say who sent it. What a client sends under those names never arrives.
 *
 *   device -- request, TLS without certificates -->  Milagro-Id, Milagro-Slot, X-Forwarded-For set  -- plain HTTP --> service
 *
 * Connections to the service are shared: each request says for itself who sent it, and where its body ends is said here,
 * whatever the method and whatever the client's Connection header names; what a body holds would else be read as the next
 * request, in any name. A message that two parsers may read differently (both lengths, obsolete folding, a bare line feed)
 * is refused by node's strict parser. Upgrades to WebSocket take a connection of their own, which is relayed as bytes after
 * the service's 101. No other protocol is upgraded to: in h2c the client would write its own requests.
 */
import {
  Agent,
  type AgentOptions,
  type ClientRequestArgs,
  createServer,
  type IncomingMessage,
  type OutgoingHttpHeaders,
  type RequestOptions,
  request,
  type Server,
  type ServerResponse,
} from 'node:http'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { Refused } from '@milagro-ts/api/problem'
import type { Timers } from '@milagro-ts/api/system'
import { reachService } from './reach-service.js'
import { relay } from './relay.js'
import type { ServiceAddress } from './service-address.js'

/** What the service reads of a device. */
export interface PassedOn {
  readonly mpinId: string
  readonly slot: number
  /** What the RA knows it by, where the gateway passes that on. */
  readonly instance?: string | undefined
}

export interface HttpPassingOptions {
  readonly timers: Timers
  /** As of now: where the service is, and the gateway's `idle` and `patience` in milliseconds. */
  readonly settings: () => {
    readonly to: ServiceAddress
    readonly idle: number
    readonly patience: number
  }
  /** Who is at the other end of a connection that was handed in. */
  readonly deviceAt: (socket: Socket) => PassedOn
  /** Told of each request: `OK`, or why there was no answer. */
  readonly observe: (outcome: 'OK' | 'AWAY', error?: Error) => void
}

/** Of one connection each; RFC 9110 §7.6.1, and what the gateway says itself. */
const NOT_PASSED_ON = new Set([
  'connection',
  'expect',
  'forwarded',
  'keep-alive',
  'proxy-authenticate',
  'proxy-authorization',
  'proxy-connection',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
])
/** A client's Connection header doesn't take these away: they say where a request ends, and whom it is for. */
const ALWAYS_PASSED_ON = new Set(['content-length', 'host'])
/**
 * Names that say who somebody is. CGI and WSGI read `Milagro_Id` as `Milagro-Id`, and some servers any other sign in the
 * hyphen's place, so no spelling of anything that begins so gets past.
 */
const OURS = /^(?:milagro|x[^a-z0-9]forwarded|x[^a-z0-9]real[^a-z0-9]ip)(?:[^a-z0-9]|$)/
const SHARED = { keepAlive: true, maxFreeSockets: 256 }

export class HttpPassing {
  readonly #options: HttpPassingOptions
  readonly #server: Server
  #isClosing = false
  #agent: Agent
  /** Where the agent's connections lead, in JSON. */
  #to = ''

  constructor(options: HttpPassingOptions) {
    this.#options = options
    this.#agent = new ServiceAgent(SHARED, options)
    this.#server = createServer({ insecureHTTPParser: false, keepAlive: true }, (incoming, response) =>
      this.#pass(incoming, response),
    )
    this.#server.on('upgrade', (incoming, socket, head) => this.#upgrade(incoming, socket, head))
    // A CONNECT asks for a tunnel to somewhere else.
    this.#server.on('connect', (_, socket) => socket.end('HTTP/1.1 405 Method Not Allowed\r\n\r\n'))
  }

  /** A device's connection, whose handshake is over. */
  take(socket: Socket): void {
    const { timers, settings } = this.#options
    // Node looks for silent requests only at servers that listen themselves.
    let seen = -1
    const endWatch = timers.every(settings().idle, () => {
      const moved = socket.bytesRead + socket.bytesWritten
      if (moved === seen) socket.destroy()
      seen = moved
    })
    socket.once('close', endWatch)
    this.#server.emit('connection', socket)
  }

  /** Requests under way are answered, and are the last on their connections. */
  close(): void {
    this.#isClosing = true
    this.#server.closeIdleConnections()
  }

  /** After the last connection has gone. */
  end(): void {
    this.#agent.destroy()
  }

  /** Where the service has moved, requests under way are the last on their connections to the former one. */
  #shared(): Agent {
    const to = JSON.stringify(this.#options.settings().to)
    if (to === this.#to) return this.#agent
    const former = this.#agent
    former.maxFreeSockets = 0
    for (const socket of Object.values(former.freeSockets).flat()) socket?.destroy()
    this.#to = to
    this.#agent = new ServiceAgent(SHARED, this.#options)
    return this.#agent
  }

  #pass(incoming: IncomingMessage, response: ServerResponse): void {
    if (isAmbiguous(incoming)) return void response.writeHead(400, { connection: 'close' }).end()
    // RFC 9112 §6.1: what is coded otherwise would arrive as it isn't.
    const coding = incoming.headers['transfer-encoding']?.toLowerCase()
    if (coding !== undefined && coding !== 'chunked')
      return void response.writeHead(501, { connection: 'close' }).end()
    // Node frames the body of a GET by nothing, unless it is told to.
    const framing = coding === undefined ? {} : { 'transfer-encoding': coding }
    const onward = this.#onward(incoming, this.#shared(), framing)
    onward.once('response', answer => {
      this.#options.observe('OK')
      const last = this.#isClosing ? { connection: 'close' } : {}
      response.writeHead(answer.statusCode ?? 502, answer.statusMessage, { ...passedOn(answer), ...last })
      answer.pipe(response)
      // In the middle of an answer there is no other way to say that it isn't whole.
      answer.on('error', () => response.destroy())
      answer.on('close', () => {
        if (!answer.complete) response.destroy()
      })
    })
    onward.on('error', (error: Error) => {
      if (response.headersSent || response.destroyed) return void response.destroy()
      this.#options.observe('AWAY', error)
      const away = new Refused('RETRY_LATER', { detail: 'the service behind the gateway doesn’t answer' })
      incoming.unpipe(onward)
      incoming.resume()
      response.writeHead(away.status, { 'content-type': 'application/problem+json', 'retry-after': '1' })
      response.end(JSON.stringify(away.toProblem()))
    })
    // A device that has gone, or was put out, wants nothing any more.
    response.on('close', () => {
      if (!response.writableFinished) onward.destroy()
    })
    incoming.pipe(onward)
  }

  #upgrade(incoming: IncomingMessage, socket: Duplex, head: Buffer): void {
    const { upgrade } = incoming.headers
    if (isAmbiguous(incoming) || hasBody(incoming) || upgrade?.toLowerCase() !== 'websocket')
      return void socket.end('HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n')
    const agent = new ServiceAgent({ keepAlive: false }, this.#options)
    const onward = this.#onward(incoming, agent, { connection: 'upgrade', upgrade })
    socket.on('error', () => onward.destroy())
    socket.on('close', () => onward.destroy())
    onward.once('upgrade', (answer, service, first) => {
      this.#options.observe('OK')
      socket.write(headOf(answer, { connection: 'upgrade', upgrade: answer.headers.upgrade }))
      if (first.length > 0) service.unshift(first)
      if (head.length > 0) socket.unshift(head)
      void relay(socket, service, { timers: this.#options.timers, idle: this.#options.settings().idle })
    })
    onward.once('response', answer => {
      // It won't: its answer is the last on this connection.
      this.#options.observe('OK')
      socket.write(headOf(answer, { connection: 'close' }))
      answer.pipe(socket)
    })
    onward.once('error', error => {
      if (socket.destroyed) return
      this.#options.observe('AWAY', error)
      socket.end('HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\n\r\n')
    })
    onward.end()
  }

  /** The request to the service, without its body. */
  #onward(incoming: IncomingMessage, agent: Agent, more: OutgoingHttpHeaders) {
    const { deviceAt, settings, timers } = this.#options
    const { mpinId, slot, instance } = deviceAt(incoming.socket)
    const headers: OutgoingHttpHeaders = {
      ...passedOn(incoming),
      ...more,
      'milagro-id': mpinId,
      'milagro-slot': String(slot),
      // Header values are bytes; an instance is text.
      ...(instance === undefined ? {} : { 'milagro-instance': encodeURIComponent(instance) }),
      'x-forwarded-for': incoming.socket.remoteAddress ?? '',
      'x-forwarded-proto': 'https',
    }
    const { to, patience } = settings()
    const at = 'path' in to ? { socketPath: to.path } : to
    const { method, url: path } = incoming
    const asked: Asked = {
      ...at,
      method,
      path,
      headers,
      agent,
      setHost: false,
      isWanted: () => !onward.destroyed,
    }
    const onward = request(asked)
    // The time for an answer runs from the end of the request: a long upload is no silence.
    let endWaiting = () => {}
    onward.once('finish', () => {
      endWaiting = timers.after(patience, () => onward.destroy(new Error('no answer in time')))
    })
    for (const event of ['response', 'upgrade', 'error', 'close'] as const)
      onward.once(event, () => endWaiting())
    return onward
  }
}

/** A request's options, which its agent sees when it makes a connection. */
interface Asked extends RequestOptions {
  readonly isWanted: () => boolean
}

/** Nothing of a request is written before its connection is there, so that any may wait for it. */
class ServiceAgent extends Agent {
  readonly #options: Pick<HttpPassingOptions, 'timers' | 'settings'>

  constructor(agent: AgentOptions, options: Pick<HttpPassingOptions, 'timers' | 'settings'>) {
    super(agent)
    this.#options = options
  }

  override createConnection(
    args: ClientRequestArgs,
    made: (error: Error | null, socket?: Duplex) => void,
  ): undefined {
    const { socketPath, host, port, isWanted } = args as Asked
    const { timers, settings } = this.#options
    const to = typeof socketPath === 'string' ? { path: socketPath } : { host, port }
    reachService(to as ServiceAddress, { timers, patience: settings().patience, isWanted }).then(
      socket => made(null, socket),
      (error: Error) => made(error),
    )
  }
}

/** Two Host headers, or a target that names another host: who reads the one and who reads the other would disagree. */
function isAmbiguous({ rawHeaders, url = '' }: IncomingMessage): boolean {
  const hosts = rawHeaders.filter((name, i) => i % 2 === 0 && name.toLowerCase() === 'host').length
  return hosts > 1 || !(url.startsWith('/') || url === '*')
}

function hasBody({ headers }: IncomingMessage): boolean {
  return headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) !== 0
}

/** Headers that are for the other end, as they came, one of them several times if it did. */
function passedOn(message: IncomingMessage): OutgoingHttpHeaders {
  const named = new Set((message.headers.connection ?? '').toLowerCase().split(/\s*,\s*/))
  const headers: Record<string, string[]> = Object.create(null)
  const { rawHeaders } = message
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const name = (rawHeaders[i] as string).toLowerCase()
    if (NOT_PASSED_ON.has(name) || OURS.test(name)) continue
    if (named.has(name) && !ALWAYS_PASSED_ON.has(name)) continue
    headers[name] ??= []
    headers[name].push(rawHeaders[i + 1] as string)
  }
  return Object.fromEntries(
    Object.entries(headers).map(([name, values]) => [name, values.length === 1 ? values[0] : values]),
  )
}

function headOf(answer: IncomingMessage, more: OutgoingHttpHeaders): string {
  const lines = Object.entries({ ...passedOn(answer), ...more }).flatMap(([name, value]) =>
    [value].flat().map(one => `${name}: ${String(one)}\r\n`),
  )
  return `HTTP/1.1 ${answer.statusCode} ${answer.statusMessage}\r\n${lines.join('')}\r\n`
}
