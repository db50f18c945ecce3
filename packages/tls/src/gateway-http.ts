/**
 * HTTP/1.1 behind a gateway: each request is parsed here, and a new one is written to the service with the headers that
 * say who sent it. What a client sends under those names never arrives.
 *
 *   device -- request, TLS without certificates -->  Milagro-Id, Milagro-Slot, X-Forwarded-For set  -- plain HTTP --> service
 *
 * Connections to the service are shared: each request says for itself who sent it, and where its body ends is said here,
 * whatever the method and whatever the client's Connection header names; what a body holds would else be read as the next
 * request, in any name. A message that two parsers may read differently (both lengths, obsolete folding, a bare line feed)
 * is refused by node's strict parser, and one of very many header lines here: node's `headers` leaves out what comes after
 * the first thousand, so nothing is read of it. Upgrades to WebSocket take a connection of their own, which is relayed as
 * bytes after the service's 101. No other protocol is upgraded to: in h2c the client would write its own requests.
 *
 * One request of a connection is under way at a time: whoever sends many at once has one connection to the service.
 */
import {
  Agent,
  type AgentOptions,
  type ClientRequest,
  type ClientRequestArgs,
  createServer,
  type IncomingMessage,
  type OutgoingHttpHeaders,
  type RequestOptions,
  request,
  type Server,
  type ServerResponse,
  STATUS_CODES,
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
  /** Told of each request: that it was answered, or why not. */
  readonly observe: (outcome: PassingOutcome, error?: Error) => void
}

/**
 * `AWAY`: the service took no connection. `NO_ANSWER`, `BAD_ANSWER`: it took the request, and may have acted on it; there was
 * no answer in time, or none that can be passed on. `FAULT`: one of the gateway's own, and nothing was asked.
 */
export type PassingOutcome = 'OK' | 'AWAY' | 'NO_ANSWER' | 'BAD_ANSWER' | 'FAULT'
type Failure = Exclude<PassingOutcome, 'OK' | 'FAULT'>

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

/** Header lines of a request, at most. */
const HEADER_LINES = 100
/** Requests that wait on one connection for the one under way, at most. */
const PIPELINED = 16
/** RFC 9110 §9.2.1: whoever asks again asks for nothing to be done twice. */
const SAFE = new Set(['GET', 'HEAD', 'OPTIONS', 'TRACE'])
/** RFC 3986 §3.2: host and port, without the name of a user. */
const AUTHORITY = /^(?:\[[0-9a-f:.]+\]|[a-z0-9._~%!$&'()*+,;=-]+)(?::[0-9]*)?$/i

const NO_ANSWER = 'no answer in time'

export class HttpPassing {
  readonly #options: HttpPassingOptions
  readonly #server: Server
  /** Of connections with a request under way: those after it. */
  readonly #waiting = new WeakMap<Socket, (() => void)[]>()
  readonly #open = new Set<Socket>()
  #isClosing = false
  #agent: Agent
  /** Where the agent's connections lead, in JSON. */
  #to = ''

  constructor(options: HttpPassingOptions) {
    this.#options = options
    this.#agent = new ServiceAgent(SHARED, options)
    // Nothing is answered by node itself: what isn't in its turn would go by what waits.
    const settings = { insecureHTTPParser: false, keepAlive: true, requireHostHeader: false }
    this.#server = createServer(settings, (incoming, response) => this.#inTurn(incoming, response))
    this.#server.on('checkExpectation', (incoming, response) => this.#inTurn(incoming, response))
    // Whatever there is is there to be looked at; node bounds the bytes.
    this.#server.maxHeadersCount = 0
    this.#server.on('upgrade', (incoming, socket, head) => this.#upgrade(incoming, socket, head))
    // A CONNECT asks for a tunnel to somewhere else.
    this.#server.on('connect', (incoming, socket) => {
      if (this.#waiting.has(incoming.socket)) socket.destroy()
      else socket.end('HTTP/1.1 405 Method Not Allowed\r\n\r\n')
    })
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
    this.#open.add(socket)
    socket.once('close', () => {
      endWatch()
      this.#open.delete(socket)
    })
    this.#server.emit('connection', socket)
  }

  /** Requests under way are answered, and are the last on their connections. */
  close(): void {
    this.#isClosing = true
    // Node knows of idle ones only at servers that listen themselves.
    for (const socket of this.#open) if (!this.#waiting.has(socket)) socket.end()
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

  /** Requests of one connection, one after the other. */
  #inTurn(incoming: IncomingMessage, response: ServerResponse): void {
    const { socket } = incoming
    const pass = () => {
      response.once('close', () => {
        // RFC 9112 §9.6: after an answer that is the connection's last, nothing more of it is carried out.
        const next = socket.writable ? this.#waiting.get(socket)?.shift() : undefined
        if (next === undefined) this.#waiting.delete(socket)
        else next()
      })
      this.#pass(incoming, response)
    }
    const waiting = this.#waiting.get(socket)
    if (waiting === undefined) {
      this.#waiting.set(socket, [])
      pass()
    } else if (waiting.length < PIPELINED) waiting.push(pass)
    else socket.destroy()
  }

  #pass(incoming: IncomingMessage, response: ServerResponse): void {
    const fields = fieldsOf(incoming)
    const refusal = refusalOf(incoming, fields)
    if (refusal !== null) return void response.writeHead(refusal, { connection: 'close' }).end()
    // Node frames the body of a GET by nothing, unless it is told to.
    const framing = fields.has('transfer-encoding') ? { 'transfer-encoding': 'chunked' } : {}
    const onward = this.#onward(incoming, fields, this.#shared(), framing)
    if (typeof onward === 'number') return void response.writeHead(onward, { connection: 'close' }).end()
    let isTaken = false
    let isAnswered = false
    const fail = (outcome: Failure, error: Error) => {
      onward.destroy()
      if (response.headersSent || response.destroyed) return void response.destroy()
      this.#options.observe(outcome, error)
      incoming.unpipe(onward)
      incoming.resume()
      refuse(response, outcome, incoming.method)
    }
    onward.once('socket', () => {
      isTaken = true
    })
    onward.once('response', answer => {
      isAnswered = true
      const { statusCode = 0 } = answer
      const last = this.#isClosing ? { connection: 'close' } : {}
      try {
        if (!isFinal(statusCode)) throw new Error('no status that HTTP has')
        response.writeHead(statusCode, { ...answered(answer), ...last })
      } catch (error) {
        return fail('BAD_ANSWER', error as Error)
      }
      this.#options.observe('OK')
      answer.pipe(response)
      // In the middle of an answer there is no other way to say that it isn't whole.
      answer.on('error', () => response.destroy())
      answer.on('close', () => {
        if (!answer.complete) response.destroy()
      })
    })
    onward.on('error', (error: Error) => {
      if (isAnswered) return void response.destroy()
      isAnswered = true
      fail(isTaken ? (error.message === NO_ANSWER ? 'NO_ANSWER' : 'BAD_ANSWER') : 'AWAY', error)
    })
    // As after a 101 that nobody asked for.
    onward.on('close', () => {
      if (!isAnswered) fail('BAD_ANSWER', new Error('closed without an answer'))
    })
    // A device that has gone, or was put out, wants nothing any more; node says so of an answer alone that was its turn.
    const { socket } = incoming
    const leave = () => {
      isAnswered = true
      onward.destroy()
    }
    socket.once('close', leave)
    response.on('close', () => {
      if (!response.writableFinished) leave()
    })
    onward.once('close', () => {
      socket.off('close', leave)
      // Of an upload that was answered before its end nobody else reads the rest.
      incoming.unpipe(onward)
      incoming.resume()
    })
    incoming.pipe(onward)
  }

  #upgrade(incoming: IncomingMessage, socket: Duplex, head: Buffer): void {
    const fields = fieldsOf(incoming)
    const [upgrade, ...others] = fields.get('upgrade') ?? []
    const isWebSocket = upgrade?.toLowerCase() === 'websocket' && others.length === 0
    // What is under way would be answered in between.
    if (this.#waiting.has(incoming.socket)) return void socket.destroy()
    const refused = (status = 400) =>
      socket.end(`HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\nconnection: close\r\n\r\n`)
    if (refusalOf(incoming, fields) !== null || hasBody(fields) || !isWebSocket) return void refused()
    const agent = new ServiceAgent({ keepAlive: false }, this.#options)
    const onward = this.#onward(incoming, fields, agent, { connection: 'upgrade', upgrade })
    if (typeof onward === 'number') return void refused(onward)
    let isAnswered = false
    const fail = (error: Error) => {
      if (isAnswered || socket.destroyed) return
      isAnswered = true
      this.#options.observe('AWAY', error)
      socket.end('HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\n\r\n')
    }
    socket.on('error', () => onward.destroy())
    socket.on('close', () => onward.destroy())
    onward.once('upgrade', (answer, service, first) => {
      isAnswered = true
      this.#options.observe('OK')
      socket.write(headOf(answer, { connection: 'upgrade', upgrade: answer.headers.upgrade }), 'latin1')
      if (first.length > 0) service.unshift(first)
      if (head.length > 0) socket.unshift(head)
      void relay(socket, service, { timers: this.#options.timers, idle: this.#options.settings().idle })
    })
    onward.once('response', answer => {
      if (!isFinal(answer.statusCode ?? 0)) return void onward.destroy(new Error('no status that HTTP has'))
      // It won't: its answer is the last on this connection.
      isAnswered = true
      this.#options.observe('OK')
      socket.write(headOf(answer, { connection: 'close' }), 'latin1')
      answer.pipe(socket)
      answer.on('close', () => {
        if (!answer.complete) socket.destroy()
      })
    })
    onward.on('error', fail)
    onward.on('close', () => fail(new Error('closed without an answer')))
    onward.end()
  }

  /** The request to the service, without its body; or the status of whose fault it is that there is none. */
  #onward(
    incoming: IncomingMessage,
    fields: Fields,
    agent: Agent,
    more: OutgoingHttpHeaders,
  ): ClientRequest | number {
    try {
      return this.#begin(incoming, fields, agent, more)
    } catch (error) {
      // What node's parser takes and its writer doesn't.
      if (UNWRITABLE.has((error as NodeJS.ErrnoException).code)) return 400
      this.#options.observe('FAULT', error as Error)
      return 500
    }
  }

  #begin(incoming: IncomingMessage, fields: Fields, agent: Agent, more: OutgoingHttpHeaders): ClientRequest {
    const { deviceAt, settings, timers } = this.#options
    const { mpinId, slot, instance } = deviceAt(incoming.socket)
    // Who sent it stands first: a service may look at so many lines and no more.
    const headers: OutgoingHttpHeaders = {
      'milagro-id': mpinId,
      'milagro-slot': String(slot),
      // Header values are bytes; an instance is text.
      ...(instance === undefined ? {} : { 'milagro-instance': encodeURIComponent(instance) }),
      'x-forwarded-for': incoming.socket.remoteAddress ?? '',
      'x-forwarded-proto': 'https',
      ...more,
      ...passedOn(fields),
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
    onward.maxHeadersCount = 0
    // The time for an answer runs from the end of the request: a long upload is no silence.
    let endWaiting = () => {}
    onward.once('finish', () => {
      endWaiting = timers.after(patience, () => onward.destroy(new Error(NO_ANSWER)))
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

/** Of node's writer, about what somebody else has said. */
const UNWRITABLE: ReadonlySet<unknown> = new Set([
  'ERR_INVALID_CHAR',
  'ERR_INVALID_HTTP_TOKEN',
  'ERR_UNESCAPED_CHARACTERS',
])

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

/** A message's header lines by name, in lower case. */
type Fields = ReadonlyMap<string, readonly string[]>

/** Of all lines there are, where node's `headers` may have left out the last. */
function fieldsOf({ rawHeaders }: IncomingMessage): Fields {
  const fields = new Map<string, string[]>()
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const name = (rawHeaders[i] as string).toLowerCase()
    const value = rawHeaders[i + 1] as string
    const values = fields.get(name)
    if (values === undefined) fields.set(name, [value])
    else values.push(value)
  }
  return fields
}

/** The status with which a request is refused here, for what it says of itself. */
function refusalOf(
  { rawHeaders, httpVersion, method, url = '' }: IncomingMessage,
  fields: Fields,
): number | null {
  if (rawHeaders.length > 2 * HEADER_LINES) return 431
  if (httpVersion !== '1.1' && httpVersion !== '1.0') return 505
  // Two hosts, or a target that names another one: who reads the one and who reads the other would disagree.
  const hosts = fields.get('host') ?? []
  if (hosts.length !== 1 || !AUTHORITY.test(hosts[0] as string)) return 400
  const isTarget = (url.startsWith('/') && !url.includes('#')) || (url === '*' && method === 'OPTIONS')
  if (!isTarget) return 400
  // RFC 9112 §6.1: what is coded otherwise would arrive as it isn't.
  const coding = fields.get('transfer-encoding')?.join()
  return coding === undefined || coding.toLowerCase() === 'chunked' ? null : 501
}

function hasBody(fields: Fields): boolean {
  return fields.has('transfer-encoding') || Number(fields.get('content-length')?.[0] ?? 0) !== 0
}

const isFinal = (status: number): boolean => status >= 200 && status <= 599

/** What is said instead of an answer of the service. */
function refuse(response: ServerResponse, outcome: Failure, method: string | undefined): void {
  const type = { 'content-type': 'application/problem+json' }
  if (outcome === 'AWAY' || SAFE.has(method ?? '')) {
    const refused = new Refused('RETRY_LATER', { detail: 'the service behind the gateway doesn’t answer' })
    response.writeHead(refused.status, { ...type, 'retry-after': '1' })
    return void response.end(JSON.stringify(refused.toProblem()))
  }
  // RFC 9457 §4.2.1: no code of ours; whoever asks again may ask for it twice.
  const status = outcome === 'NO_ANSWER' ? 504 : 502
  const detail =
    'the service behind the gateway took the request and may have acted on it: its answer is missing'
  response.writeHead(status, type)
  response.end(JSON.stringify({ type: 'about:blank', title: STATUS_CODES[status], status, detail }))
}

/** Headers that are for the other end, as they came, one of them several times if it did. */
function passedOn(fields: Fields): Record<string, string | string[]> {
  const named = new Set(
    (fields.get('connection') ?? [])
      .join()
      .toLowerCase()
      .split(/\s*,\s*/),
  )
  const headers: Record<string, string | string[]> = Object.create(null)
  for (const [name, values] of fields) {
    if (NOT_PASSED_ON.has(name) || OURS.test(name)) continue
    if (named.has(name) && !ALWAYS_PASSED_ON.has(name)) continue
    headers[name] = values.length === 1 ? (values[0] as string) : [...values]
  }
  return headers
}

/** RFC 9110 §8.6: a 204 has no length, whatever the service says. */
function answered(answer: IncomingMessage): OutgoingHttpHeaders {
  const headers = passedOn(fieldsOf(answer))
  if (answer.statusCode === 204) delete headers['content-length']
  return headers
}

/** The reason is ours: the service may have put anything in its own. */
function headOf(answer: IncomingMessage, more: OutgoingHttpHeaders): string {
  const { statusCode = 0 } = answer
  const lines = Object.entries({ ...answered(answer), ...more }).flatMap(([name, value]) =>
    [value].flat().map(one => `${name}: ${String(one)}\r\n`),
  )
  return `HTTP/1.1 ${statusCode} ${STATUS_CODES[statusCode] ?? ''}\r\n${lines.join('')}\r\n`
}
